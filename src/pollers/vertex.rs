//! Vertex AI, one project: limits from the Cloud Quotas API, usage and refusals from Cloud Monitoring.
//!
//! The quota metrics are sampled every minute and visible up to 150 s later: they confirm a per-minute limit and never
//! lead it. Google says that the quota page's usage of Claude is an estimate, so what the models report they served is
//! read beside it (`served_input_tokens`, `served_output_tokens`). What runs on dynamic shared quota has no limit at all:
//! of it only the refusals are shown. Cloud Monitoring bills by the series returned, at least one a query.

use super::asked::{Asked, Named as Poller, Told};
use super::budget::Budget;
use super::runner::{Failure, Poll, State, asked_once, bounded};
use super::unusable::Unusable;
use crate::clock::Clock;
use crate::config::pollers::Google;
use crate::dialects::vertex;
use crate::limit::{Amount, Limiter, Timestamp, Window};
use crate::observation::{Account, Drawn, Quota, Quotas};
use crate::route::{ModelGroup, Surface};
use crate::stats::Stats;
use google_cloud_api_cloudquotas_v1::client::CloudQuotas;
use google_cloud_api_cloudquotas_v1::model::QuotaInfo;
use google_cloud_auth::credentials::{Credentials, anonymous};
use google_cloud_gax::error::Error;
use google_cloud_monitoring_v3::client::MetricService;
use google_cloud_monitoring_v3::model::aggregation::{Aligner, Reducer};
use google_cloud_monitoring_v3::model::typed_value::Value;
use google_cloud_monitoring_v3::model::{Aggregation, TimeInterval, TimeSeries};
use google_cloud_wkt::{Duration as Span, Timestamp as Moment};
use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most pages of one list.
const MOST_PAGES: usize = 50;
/// How far back usage is read.
const BACK: i64 = 6 * 60;
/// What a series costs, in billionths of a dollar ($0.50 for a million).
const PRICE: u64 = 500;
/// No limit.
const UNLIMITED: i64 = -1;
/// A quota above this is no limit of anybody's.
const ABSURD: i64 = 1_000_000_000_000_000;

const SERVED_INPUT: Limiter = Limiter::known("served_input_tokens");
const SERVED_OUTPUT: Limiter = Limiter::known("served_output_tokens");

/// The pollers of one project.
///
/// # Errors
/// If a client cannot be made: no credentials, or no certificate authorities.
pub async fn all(config: &Google, stats: &Stats, clock: &Clock) -> Result<Vec<Poller>, String> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| format!("google/{}: {what}: {error}", config.name);
    let (mut quotas, mut metrics) = (CloudQuotas::builder(), MetricService::builder());
    if let Some(url) = &config.endpoint_url {
        let nobody: Credentials = anonymous::Builder::new().build();
        quotas = quotas.with_endpoint(url.clone()).with_credentials(nobody.clone());
        metrics = metrics.with_endpoint(url.clone()).with_credentials(nobody);
    }
    let quotas = quotas.build().await.map_err(|error| failed("Cloud Quotas", &error))?;
    let metrics = metrics.build().await.map_err(|error| failed("Cloud Monitoring", &error))?;
    let name = |kind: &str| -> Arc<str> { format!("vertex_{kind}/{}", config.name).into() };
    let place = |kind: &str| Place {
        source: name(kind),
        project: config.project.clone(),
        clock: clock.clone(),
        unusable: Unusable::new(name(kind), stats.sources.of(&name(kind))),
    };
    let (shown, known) = watch::channel(State::default());
    let mut all = vec![Poller {
        name: name("limits"),
        asked: Asked::VertexLimits(Box::new(Limits { quotas, place: place("limits") })),
        interval: config.limits_interval,
        shown: Some(shown),
    }];
    if let Some(interval) = config.usage_interval {
        let budget = Budget::new(stats.sources.of(&name("usage")), config.monthly_series, PRICE);
        let asked = Asked::VertexUsage(Box::new(Usage { metrics, place: place("usage"), known, budget }));
        all.push(Poller { name: name("usage"), asked, interval, shown: None });
    }
    Ok(all)
}

/// Where a poller asks.
pub struct Place {
    source: Arc<str>,
    project: Arc<str>,
    clock: Clock,
    unusable: Unusable,
}

impl Place {
    fn quota(&self, location: &str, model: ModelGroup, limiter: Limiter) -> Quota {
        let account = Account {
            project: Some(self.project.clone()),
            region: Some(location.into()),
            ..Account::default()
        };
        Quota::of(Surface::Vertex, account, model, limiter, Window::Minute)
    }

    fn told(&self, rows: Vec<Quota>) -> Told {
        Arc::new(Quotas::of(self.source.clone(), self.clock.now(), rows))
    }
}

/// Asks for limits.
pub struct Limits {
    quotas: CloudQuotas,
    place: Place,
}

impl Poll for Limits {
    type Value = Told;

    async fn poll(&mut self) -> Result<Told, Failure> {
        let parent =
            format!("projects/{}/locations/global/services/aiplatform.googleapis.com", self.place.project);
        let (mut rows, mut token) = (HashMap::new(), String::new());
        for page in 0.. {
            bounded(page, MOST_PAGES, "cloudquotas.quotas.get")?;
            let request = self.quotas.list_quota_infos().set_parent(&parent).set_page_size(500);
            let answer = request.set_page_token(token).send().await;
            let answer =
                answer.map_err(|error| failure("cloudquotas.quotas.get", "Cloud Quotas Viewer", &error))?;
            for info in &answer.quota_infos {
                self.read(info, &mut rows);
            }
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        Ok(self.place.told(rows.into_values().collect()))
    }
}

/// Rows by where they are, their model and what they count.
type Rows = HashMap<(String, ModelGroup, Limiter), Quota>;

impl Limits {
    fn read(&mut self, info: &QuotaInfo, rows: &mut Rows) {
        let Some(named) = vertex::quota(&info.metric) else {
            if info.metric.ends_with("per_base_model") {
                self.place
                    .unusable
                    .note(&info.metric, "this quota is not known; its models are not limited here");
            }
            return;
        };
        if info.refresh_interval != "minute" {
            self.place.unusable.note(&info.metric, "it is not by the minute");
            return;
        }
        for one in &info.dimensions_infos {
            let (Some(base), Some(details)) = (one.dimensions.get("base_model"), &one.details) else {
                continue;
            };
            if details.value == UNLIMITED {
                continue;
            }
            if !(0..=ABSURD).contains(&details.value) {
                self.place.unusable.note(&info.quota_id, "its value is no limit");
                continue;
            }
            let region = one.dimensions.get("region").map(String::as_str);
            let everywhere: Vec<&str> = one.applicable_locations.iter().map(String::as_str).collect();
            let locations = match named.location.or(region) {
                Some(location) => vec![location],
                None => everywhere,
            };
            for location in locations {
                let mut quota = self.place.quota(location, vertex::base_model(base), named.limiter.clone());
                quota.limit = Some(Amount::new(details.value.unsigned_abs()));
                // What names a region is nearer than what holds for all of them.
                let key = (location.to_owned(), quota.model.clone(), quota.limiter.clone());
                match region {
                    Some(_) => _ = rows.insert(key, quota),
                    None => _ = rows.entry(key).or_insert(quota),
                }
            }
        }
    }
}

/// Asks Cloud Monitoring what everybody drew, and what was refused.
pub struct Usage {
    metrics: MetricService,
    place: Place,
    known: watch::Receiver<State<Told>>,
    budget: Budget,
}

/// One value of one series: its labels, and the newest minute.
struct Newest {
    model: String,
    location: String,
    kind: String,
    amount: u64,
    until: Timestamp,
}

impl Poll for Usage {
    type Value = Told;

    /// Once it is known, or known not to be had, what models are called: draws are told by their groups.
    async fn wanted(&mut self) -> bool {
        asked_once(&mut self.known).await
    }

    async fn poll(&mut self) -> Result<Told, Failure> {
        let mut rows = Vec::new();
        for metric in self.quota_metrics() {
            let Some(named) = vertex::quota(metric) else { continue };
            let by = ["metric.label.base_model", "resource.label.location"];
            let quota = format!("metric.type=\"aiplatform.googleapis.com/quota/{metric}");
            for newest in self.read(&format!("{quota}/usage\""), by).await? {
                let location = named.location.unwrap_or(&newest.location);
                let model = vertex::base_model(&newest.model);
                let mut row = self.place.quota(location, model, named.limiter.clone());
                row.drawn = Some(drawn(&newest));
                rows.push(row);
            }
            for newest in self.read(&format!("{quota}/exceeded\""), by).await? {
                let location = named.location.unwrap_or(&newest.location);
                self.refuse(
                    &mut rows,
                    location,
                    vertex::base_model(&newest.model),
                    &named.limiter,
                    newest.amount,
                );
            }
        }
        self.served(&mut rows).await?;
        Ok(self.place.told(rows))
    }
}

impl Usage {
    /// The quota metrics of limits that there are.
    fn quota_metrics(&self) -> Vec<&'static str> {
        let known = self.known.borrow();
        let rows = known.good.as_ref().map(|(_, told)| told.rows.as_slice()).unwrap_or_default();
        let shared = ["global", "us", "eu"];
        let there = |metric: &&str| {
            let Some(named) = vertex::quota(metric) else { return false };
            rows.iter().any(|row| {
                let at = row.account.region.as_deref().unwrap_or_default();
                let here = named.location.map_or(!shared.contains(&at), |location| location == at);
                here && row.limiter == named.limiter
            })
        };
        vertex::QUOTAS.into_iter().filter(there).collect()
    }

    /// What the models say that they served, and refused for lack of capacity. Several of them may share a quota.
    async fn served(&mut self, rows: &mut Vec<Quota>) -> Result<(), Failure> {
        let by = ["resource.label.model_user_id", "resource.label.location", "metric.label.type"];
        let served = "metric.type=\"aiplatform.googleapis.com/publisher/online_serving/token_count\"";
        let mut sums: BTreeMap<(String, ModelGroup, Limiter), Newest> = BTreeMap::new();
        for newest in self.read(served, by).await? {
            let limiter = match newest.kind.as_str() {
                "input" => SERVED_INPUT,
                "output" => SERVED_OUTPUT,
                other => {
                    self.place.unusable.note(other, "a type of tokens that is not known");
                    continue;
                }
            };
            add(&mut sums, newest, limiter);
        }
        for ((location, model, limiter), newest) in sums {
            let row = self.place.quota(&location, model, limiter);
            rows.push(Quota { drawn: Some(drawn(&newest)), ..row });
        }
        let by = ["resource.label.model_user_id", "resource.label.location"];
        let refused = "metric.type=\"aiplatform.googleapis.com/publisher/online_serving/model_invocation_count\" \
             AND metric.labels.response_code=\"429\"";
        let mut sums = BTreeMap::new();
        for newest in self.read(refused, by).await? {
            add(&mut sums, newest, Limiter::REQUESTS);
        }
        for ((location, model, limiter), newest) in sums {
            self.refuse(rows, &location, model, &limiter, newest.amount);
        }
        Ok(())
    }

    fn refuse(
        &self,
        rows: &mut Vec<Quota>,
        location: &str,
        model: ModelGroup,
        limiter: &Limiter,
        amount: u64,
    ) {
        let mut quota = self.place.quota(location, model, limiter.clone());
        let same = |row: &&mut Quota| {
            row.account == quota.account && row.model == quota.model && row.limiter == quota.limiter
        };
        match rows.iter_mut().find(same) {
            // Told by two metrics it is one refusal all the same.
            Some(row) => row.refused = row.refused.max(Some(Amount::new(amount))),
            None => {
                quota.refused = Some(Amount::new(amount));
                rows.push(quota);
            }
        }
    }

    /// The newest minute of each series of a metric, added up over all other labels.
    async fn read<const N: usize>(&mut self, filter: &str, by: [&str; N]) -> Result<Vec<Newest>, Failure> {
        let now = self.place.clock.now().micros().div_euclid(60_000_000) * 60;
        let interval = TimeInterval::new()
            .set_start_time(Moment::clamp(now - BACK, 0))
            .set_end_time(Moment::clamp(now, 0));
        let aggregation = Aggregation::new()
            .set_alignment_period(Span::clamp(60, 0))
            .set_per_series_aligner(Aligner::AlignSum)
            .set_cross_series_reducer(Reducer::ReduceSum)
            .set_group_by_fields(by);
        let (mut all, mut token) = (Vec::new(), String::new());
        for page in 0.. {
            bounded(page, MOST_PAGES, "monitoring.timeSeries.list")?;
            // At least one series is billed; what is more is added when it is known.
            self.budget.spend(1, self.place.clock.now())?;
            let request =
                self.metrics.list_time_series().set_name(format!("projects/{}", self.place.project));
            let request = request.set_filter(filter).set_interval(interval.clone());
            let request = request.set_aggregation(aggregation.clone()).set_page_token(token);
            let answer = request.send().await;
            let answer = match answer {
                Ok(answer) => answer,
                // Of a metric that was never written in this project; a project that is not there is told by its
                // limits.
                Err(error) if error.http_status_code() == Some(404) => break,
                Err(error) => {
                    return Err(failure("monitoring.timeSeries.list", "Monitoring Viewer", &error));
                }
            };
            let more = answer.time_series.len().saturating_sub(1) as u64;
            self.budget.note(more);
            for series in &answer.time_series {
                all.extend(newest(series, &mut self.place.unusable));
            }
            token = answer.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        Ok(all)
    }
}

/// Adds what one model drew to its pool's; of two minutes the newer one counts.
fn add(sums: &mut BTreeMap<(String, ModelGroup, Limiter), Newest>, newest: Newest, limiter: Limiter) {
    let pool = vertex::pool(&newest.model, &newest.location);
    match sums.entry((newest.location.clone(), pool, limiter)) {
        Entry::Vacant(free) => _ = free.insert(newest),
        Entry::Occupied(mut sum) if sum.get().until == newest.until => {
            let sum = sum.get_mut();
            sum.amount = sum.amount.saturating_add(newest.amount);
        }
        Entry::Occupied(mut sum) if sum.get().until < newest.until => _ = sum.insert(newest),
        Entry::Occupied(_) => {}
    }
}

fn drawn(newest: &Newest) -> Drawn {
    Drawn { amount: Amount::new(newest.amount), until: newest.until, daily: None }
}

fn newest(series: &TimeSeries, unusable: &mut Unusable) -> Option<Newest> {
    let metric = series.metric.as_ref().map(|metric| &metric.labels);
    let resource = series.resource.as_ref().map(|resource| &resource.labels);
    let of = |labels: Option<&std::collections::HashMap<String, String>>, name: &str| {
        labels.and_then(|labels| labels.get(name)).cloned()
    };
    let model = of(metric, "base_model").or_else(|| of(resource, "model_user_id"))?;
    let points = series.points.iter().filter_map(|point| {
        let until = point.interval.as_ref()?.end_time.as_ref()?.seconds();
        Some((until, point.value.as_ref()?.value.as_ref()?))
    });
    let (until, value) = points.max_by_key(|(until, _)| *until)?;
    let amount = match value {
        Value::Int64Value(n) => u64::try_from(*n).ok(),
        Value::DoubleValue(x) if x.is_finite() && *x >= 0.0 => Some(*x as u64),
        _ => None,
    };
    if amount.is_none() {
        unusable.note(&model, "a value is no number of zero or more");
    }
    Some(Newest {
        model,
        location: of(resource, "location").unwrap_or_default(),
        kind: of(metric, "type").unwrap_or_default(),
        amount: amount?,
        until: Timestamp::from_secs(until),
    })
}

/// Why Google refused, in words that say what to do.
fn failure(permission: &str, role: &str, error: &Error) -> Failure {
    let wait = error
        .http_headers()
        .and_then(|headers| headers.get("retry-after")?.to_str().ok()?.trim().parse().ok());
    let said = error.status().map(|status| status.message.as_str()).unwrap_or_default();
    let message = match error.http_status_code() {
        Some(403) if said.contains("has not been used") || said.contains("is disabled") => {
            format!("{permission}: the API is not enabled in this project")
        }
        Some(403) => format!("the permission `{permission}` is missing; the role \"{role}\" has it"),
        Some(404) => format!("{permission}: there is no such project"),
        Some(401) => format!("{permission}: the credentials have expired, or are none"),
        Some(status) => format!("{permission}: HTTP {status}"),
        None => format!("{permission}: {}", crate::causes::chain(error)),
    };
    Failure { message, retry_after: wait.map(Duration::from_secs) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Polls;
    use google_cloud_api_cloudquotas_v1::model::{DimensionsInfo, QuotaDetails};

    fn limits() -> (Arc<Polls>, Place) {
        let polls = Arc::new(Polls::default());
        let place = Place {
            source: "vertex_limits/test".into(),
            project: "p-1".into(),
            clock: Clock::system(),
            unusable: Unusable::new("vertex_limits/test".into(), polls.clone()),
        };
        (polls, place)
    }

    fn info(metric: &str, dimensions: &[(&str, &str)], value: i64, applicable: &[&str]) -> QuotaInfo {
        let one = DimensionsInfo::new()
            .set_dimensions(dimensions.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
            .set_details(QuotaDetails::new().set_value(value))
            .set_applicable_locations(applicable.iter().map(|l| (*l).to_owned()));
        QuotaInfo::new()
            .set_metric(format!("aiplatform.googleapis.com/{metric}"))
            .set_quota_id("Id")
            .set_refresh_interval("minute")
            .set_dimensions_infos([one])
    }

    #[tokio::test]
    async fn limits_are_by_place_and_what_makes_no_sense_is_counted() {
        let (polls, place) = limits();
        let quotas = CloudQuotas::builder()
            .with_endpoint("http://127.0.0.1:9")
            .with_credentials(anonymous::Builder::new().build())
            .build()
            .await
            .unwrap();
        let mut limits = Limits { quotas, place };
        let mut rows = HashMap::new();
        let global = "global_online_prediction_input_tokens_per_minute_per_base_model";
        let regional = "online_prediction_input_tokens_per_minute_per_base_model";
        let base = ("base_model", "anthropic-claude-opus");
        for info in [
            info(global, &[base], 20_000_000, &["global"]),
            info(regional, &[base], 5_000, &["us-east5", "europe-west1"]),
            info(regional, &[base, ("region", "us-east5")], 9_000, &["us-east5"]),
            info(regional, &[base], -1, &["asia-east1"]),
            info(regional, &[base], -7, &["asia-east1"]),
            info("new_things_per_base_model", &[base], 7, &["global"]),
            info("custom_model_training_cpus", &[], 7, &["global"]),
        ] {
            limits.read(&info, &mut rows);
        }
        let rows: BTreeMap<String, u64> = rows
            .values()
            .map(|row| (row.account.region.clone().unwrap().to_string(), row.limit.unwrap().get()))
            .collect();
        let wanted = [("europe-west1", 5_000), ("global", 20_000_000), ("us-east5", 9_000)];
        assert_eq!(rows, wanted.into_iter().map(|(at, n)| (at.to_owned(), n)).collect());
        assert_eq!(polls.unusable.get(), 2, "a negative limit and a name that is not known");
    }
}
