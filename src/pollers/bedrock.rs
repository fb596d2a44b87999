//! Amazon Bedrock, one account and region: quotas from Service Quotas, usage from CloudWatch.
//!
//! Service Quotas lists only quotas that were changed for the account; the rest are AWS's defaults, so both lists are
//! merged. A pool without a requests quota has none. CloudWatch shows what was settled, minutes late, and never what
//! is reserved: it confirms, and shows what passes elsewhere. It bills by the metric, so only metrics that exist are
//! asked for (discovered hourly), one statistic of each, and there is a budget for the month.

use super::asked::{Asked, Named, Told};
use super::budget::Budget;
use super::runner::{Failure, Poll, State, asked_once, bounded};
use super::unusable::Unusable;
use crate::clock::Clock;
use crate::config::pollers::Aws;
use crate::dialects::bedrock;
use crate::limit::{Amount, Limiter, Timestamp, Window};
use crate::observation::{Account, Alias, Drawn, Quota, Quotas};
use crate::route::{ModelGroup, Surface};
use crate::stats::Stats;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_bedrock::types::InferenceProfileType;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{
    Dimension, Metric, MetricDataQuery, MetricStat, RecentlyActive, ScanBy, StatusCode,
};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most pages of one list.
const MOST_PAGES: usize = 100;
/// Calls of Service Quotas before they are paced: it allows 10 at once, and 10 a second.
const BURST: usize = 8;
const PACE: Duration = Duration::from_millis(110);
/// Most metrics in one request of CloudWatch.
const BATCH: usize = 500;
/// A quota above this is no limit of anybody's.
const ABSURD: f64 = 1e15;
/// How often it is asked which metrics exist.
const DISCOVER: Duration = Duration::from_secs(3_600);
/// How far back each poll reads again: a minute's value may still change.
const BACK: i64 = 8 * 60;
/// How old a minute must be to be taken as told.
const SETTLES: i64 = 2 * 60;
/// What a metric, and a call that lists them, costs, in billionths of a dollar ($0.01 for a thousand).
const PRICE: u64 = 10_000;

/// The pollers of one account: of each region its quotas, and its usage.
pub async fn all(config: &Aws, stats: &Stats, clock: &Clock) -> Vec<Named> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(first) = config.regions.first() {
        loader = loader.region(Region::new(first.clone()));
    }
    if let Some(url) = &config.endpoint_url {
        loader = loader.endpoint_url(url.clone());
    }
    // Credentials are found, and renewed, by the SDK; nothing is asked before the first call.
    let sdk = loader.load().await;
    let mut all = Vec::new();
    // The budget is the account's.
    let share = config.monthly_metrics / (config.regions.len().max(1) as u64);
    for region in &config.regions {
        let sdk = sdk.to_builder().region(Region::new(region.clone())).build();
        let account = Account {
            project: Some(config.project.clone()),
            region: Some(region.as_str().into()),
            ..Account::default()
        };
        let name = |kind: &str| -> Arc<str> { format!("bedrock_{kind}/{}/{region}", config.name).into() };
        let place = |kind: &str| Place {
            source: name(kind),
            account: account.clone(),
            clock: clock.clone(),
            unusable: Unusable::new(name(kind), stats.sources.of(&name(kind))),
        };
        let (shown, known) = watch::channel(State::default());
        let limits = Limits::new(&sdk, place("limits"), &config.models);
        all.push(Named {
            name: name("limits"),
            asked: Asked::BedrockLimits(Box::new(limits)),
            interval: config.limits_interval,
            shown: Some(shown),
        });
        if let Some(interval) = config.usage_interval {
            let budget = Budget::new(stats.sources.of(&name("usage")), share, PRICE);
            let usage = Usage::new(&sdk, place("usage"), known, budget);
            let asked = Asked::BedrockUsage(Box::new(usage));
            all.push(Named { name: name("usage"), asked, interval, shown: None });
        }
    }
    all
}

/// Where a poller asks.
pub struct Place {
    source: Arc<str>,
    account: Account,
    clock: Clock,
    unusable: Unusable,
}

impl Place {
    fn quota(&self, model: ModelGroup, limiter: Limiter, window: Window) -> Quota {
        Quota::of(Surface::Bedrock, self.account.clone(), model, limiter, window)
    }

    fn told(&self, rows: Vec<Quota>, aliases: Vec<Alias>) -> Told {
        let told = Quotas::of(self.source.clone(), self.clock.now(), rows);
        Arc::new(Quotas { aliases, ..told })
    }
}

/// Asks for quotas and inference profiles.
pub struct Limits {
    quotas: aws_sdk_servicequotas::Client,
    bedrock: aws_sdk_bedrock::Client,
    place: Place,
    /// Models whose quota's name does not tell, by the name's model.
    renamed: BTreeMap<String, String>,
}

impl Limits {
    fn new(sdk: &SdkConfig, place: Place, models: &BTreeMap<String, String>) -> Self {
        let plain = |name: &str| {
            let quota = bedrock::quota(&format!("On-demand model inference tokens per minute for {name}"));
            quota.map(|quota| quota.model.as_str().to_owned())
        };
        let bare = |id: &str| bedrock::bare(&bedrock::pool(id, false)).to_owned();
        Self {
            quotas: aws_sdk_servicequotas::Client::new(sdk),
            bedrock: aws_sdk_bedrock::Client::new(sdk),
            place,
            renamed: models.iter().filter_map(|(name, id)| Some((plain(name)?, bare(id)))).collect(),
        }
    }

    /// Values by name: AWS's defaults, and over them what was applied to the account.
    async fn values(&self) -> Result<BTreeMap<String, f64>, Failure> {
        let (mut values, mut calls) = (BTreeMap::new(), 0);
        let mut next = None;
        for page in 0.. {
            bounded(page, MOST_PAGES, "servicequotas:ListAWSDefaultServiceQuotas")?;
            pace(&mut calls).await;
            let request =
                self.quotas.list_aws_default_service_quotas().service_code("bedrock").max_results(100);
            let answer = request.set_next_token(next).send().await;
            let answer =
                answer.map_err(|error| failure("servicequotas:ListAWSDefaultServiceQuotas", &error))?;
            values.extend(answer.quotas().iter().filter_map(named));
            next = answer.next_token;
            if next.is_none() {
                break;
            }
        }
        let mut next = None;
        for page in 0.. {
            bounded(page, MOST_PAGES, "servicequotas:ListServiceQuotas")?;
            pace(&mut calls).await;
            let request = self.quotas.list_service_quotas().service_code("bedrock").max_results(100);
            let answer = request.set_next_token(next).send().await;
            let answer = answer.map_err(|error| failure("servicequotas:ListServiceQuotas", &error))?;
            values.extend(answer.quotas().iter().filter_map(named));
            next = answer.next_token;
            if next.is_none() {
                break;
            }
        }
        Ok(values)
    }

    fn rows(&mut self, values: BTreeMap<String, f64>) -> Vec<Quota> {
        let mut rows = Vec::new();
        for (name, value) in values {
            let Some(named) = bedrock::quota(&name) else {
                if name.contains("model inference") || name.contains("okens per ") {
                    self.place
                        .unusable
                        .note(&name, "the name of this quota is not known; its model is not limited here");
                }
                continue;
            };
            if !(0.0..=ABSURD).contains(&value) {
                self.place.unusable.note(&name, "its value is no limit");
                continue;
            }
            let mut quota = self.place.quota(self.model(&named.model), named.limiter, named.window);
            quota.limit = Some(Amount::new(value as u64));
            rows.push(quota);
        }
        rows
    }

    fn model(&self, model: &ModelGroup) -> ModelGroup {
        let bare = bedrock::bare(model);
        match self.renamed.get(bare) {
            Some(id) => ModelGroup::named(&model.as_str().replace(bare, id)),
            None => model.clone(),
        }
    }

    /// Application inference profiles, each with the pool that its calls draw on.
    async fn aliases(&self) -> Result<Vec<Alias>, Failure> {
        let (mut aliases, mut next) = (Vec::new(), None);
        for page in 0.. {
            bounded(page, MOST_PAGES, "bedrock:ListInferenceProfiles")?;
            let request = self.bedrock.list_inference_profiles().max_results(100);
            let request = request.type_equals(InferenceProfileType::Application).set_next_token(next);
            let answer =
                request.send().await.map_err(|error| failure("bedrock:ListInferenceProfiles", &error))?;
            for profile in answer.inference_profile_summaries() {
                let arns: Vec<&str> = profile.models().iter().filter_map(|model| model.model_arn()).collect();
                let name = bedrock::pool(profile.inference_profile_arn(), false);
                aliases.extend(profile_pool(&arns).map(|group| Alias {
                    surface: Surface::Bedrock,
                    name,
                    group,
                }));
            }
            next = answer.next_token;
            if next.is_none() {
                break;
            }
        }
        Ok(aliases)
    }
}

impl Poll for Limits {
    type Value = Told;

    async fn poll(&mut self) -> Result<Told, Failure> {
        let values = self.values().await?;
        let rows = self.rows(values);
        // Limits are worth having without the names of profiles.
        let aliases = match self.aliases().await {
            Ok(aliases) => aliases,
            Err(failure) => {
                let what = "calls to application inference profiles are not told to models";
                self.place.unusable.note(&failure.message, what);
                Vec::new()
            }
        };
        Ok(self.place.told(rows, aliases))
    }
}

/// The pool of a profile that stands for these models: one model, in one region, in several, or in all.
fn profile_pool(arns: &[&str]) -> Option<ModelGroup> {
    let first = bedrock::pool(arns.first()?, false);
    let regions: BTreeSet<&str> = arns.iter().filter_map(|arn| arn.split(':').nth(3)).collect();
    let scope = match regions.len() {
        _ if regions.contains("") => "global.",
        0 | 1 => "",
        _ => "cross-region.",
    };
    Some(ModelGroup::named(&format!("{scope}{}", bedrock::bare(&first))))
}

fn named(quota: &aws_sdk_servicequotas::types::ServiceQuota) -> Option<(String, f64)> {
    Some((quota.quota_name()?.to_owned(), quota.value()?))
}

async fn pace(calls: &mut usize) {
    *calls += 1;
    if *calls > BURST {
        tokio::time::sleep(PACE).await;
    }
}

/// A metric that exists: its namespace, its name, its model.
type Existing = (&'static str, &'static str, String);

const RUNTIME: &str = "AWS/Bedrock";
const MANTLE: &str = "AWS/BedrockMantle";
const ESTIMATED: &str = "EstimatedTPMQuotaUsage";
/// What is read, by namespace. Of the cache's metric two spellings are documented.
const READ: [(&str, &str); 9] = [
    (RUNTIME, ESTIMATED),
    (RUNTIME, "Invocations"),
    (RUNTIME, "InvocationThrottles"),
    (RUNTIME, "InputTokenCount"),
    (RUNTIME, "OutputTokenCount"),
    (RUNTIME, "CacheWriteInputTokens"),
    (RUNTIME, "CacheWriteInputTokenCount"),
    (MANTLE, "TotalInputTokens"),
    (MANTLE, "TotalOutputTokens"),
];

/// Asks CloudWatch what everybody drew.
pub struct Usage {
    cloudwatch: aws_sdk_cloudwatch::Client,
    place: Place,
    known: watch::Receiver<State<Told>>,
    budget: Budget,
    existing: Vec<Existing>,
    discovered: Option<Timestamp>,
}

impl Usage {
    fn new(sdk: &SdkConfig, place: Place, known: watch::Receiver<State<Told>>, budget: Budget) -> Self {
        let cloudwatch = aws_sdk_cloudwatch::Client::new(sdk);
        Self { cloudwatch, place, known, budget, existing: Vec::new(), discovered: None }
    }

    /// Which metrics there are. Only those with the model as their one dimension: the others are parts of the same
    /// calls, and would count them twice.
    async fn discover(&mut self) -> Result<(), Failure> {
        let mut found = BTreeSet::new();
        for namespace in [RUNTIME, MANTLE] {
            let dimension = if namespace == RUNTIME { "ModelId" } else { "Model" };
            let mut next = None;
            for page in 0.. {
                bounded(page, MOST_PAGES, "cloudwatch:ListMetrics")?;
                self.budget.spend(1, self.place.clock.now())?;
                let request = self.cloudwatch.list_metrics().namespace(namespace);
                let request = request.recently_active(RecentlyActive::Pt3H).set_next_token(next);
                let answer =
                    request.send().await.map_err(|error| failure("cloudwatch:ListMetrics", &error))?;
                for metric in answer.metrics() {
                    let read = READ
                        .iter()
                        .find(|(of, name)| *of == namespace && Some(*name) == metric.metric_name());
                    let (Some((_, name)), [only]) = (read, metric.dimensions()) else { continue };
                    if only.name() == Some(dimension)
                        && let Some(model) = only.value()
                    {
                        found.insert((namespace, *name, model.to_owned()));
                    }
                }
                next = answer.next_token;
                if next.is_none() {
                    break;
                }
            }
        }
        // Where AWS adds up the charge itself its parts need not be paid for.
        let estimated: BTreeSet<String> = found
            .iter()
            .filter(|(_, name, _)| *name == ESTIMATED)
            .map(|(_, _, model)| model.clone())
            .collect();
        let needless = |(namespace, name, model): &Existing| {
            *namespace == RUNTIME && name.contains("Token") && estimated.contains(model)
        };
        self.existing =
            found.into_iter().filter(|metric| metric.1 == ESTIMATED || !needless(metric)).collect();
        Ok(())
    }

    /// Sums of each metric by minute.
    async fn read(&mut self, now: i64) -> Result<BTreeMap<(usize, i64), f64>, Failure> {
        let (from, to) = (now - BACK, now);
        let mut sums = BTreeMap::new();
        for (nth, batch) in self.existing.chunks(BATCH).enumerate() {
            let queries: Vec<MetricDataQuery> =
                batch.iter().enumerate().map(query).collect::<Option<_>>().unwrap_or_default();
            self.budget.spend(queries.len() as u64, self.place.clock.now())?;
            let mut next = None;
            for page in 0.. {
                bounded(page, MOST_PAGES, "cloudwatch:GetMetricData")?;
                let request =
                    self.cloudwatch.get_metric_data().set_metric_data_queries(Some(queries.clone()));
                let request = request.start_time(DateTime::from_secs(from)).end_time(DateTime::from_secs(to));
                let request = request.scan_by(ScanBy::TimestampDescending).set_next_token(next);
                let answer =
                    request.send().await.map_err(|error| failure("cloudwatch:GetMetricData", &error))?;
                for result in answer.metric_data_results() {
                    let at = result.id().and_then(|id| id.strip_prefix('m')?.parse::<usize>().ok());
                    let Some(metric) = at.filter(|at| *at < batch.len()) else { continue };
                    if matches!(result.status_code(), Some(StatusCode::Forbidden | StatusCode::InternalError))
                    {
                        self.place.unusable.note(&batch[metric].2, "CloudWatch has no answer for this model");
                        continue;
                    }
                    for (time, value) in result.timestamps().iter().zip(result.values()) {
                        if !value.is_finite() || *value < 0.0 {
                            self.place.unusable.note(batch[metric].1, "a value is no number of zero or more");
                            continue;
                        }
                        // A page may repeat a minute; it is the same one.
                        sums.insert((nth * BATCH + metric, time.secs().div_euclid(60) * 60), *value);
                    }
                }
                next = answer.next_token;
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(sums)
    }

    fn rows(&self, sums: &BTreeMap<(usize, i64), f64>, now: i64) -> Vec<Quota> {
        let known = self.known.borrow();
        let told = known.good.as_ref().map(|(_, told)| told);
        let mut pools: BTreeMap<(ModelGroup, i64), Drew> = BTreeMap::new();
        for ((metric, minute), value) in sums.iter().filter(|((_, minute), _)| *minute + 60 <= now - SETTLES)
        {
            let (namespace, name, model) = &self.existing[*metric];
            let pool = bedrock::pool(model, *namespace == MANTLE);
            let group = match told {
                Some(told) => told.group(pool),
                None => pool,
            };
            let drew = pools.entry((group, *minute)).or_default();
            if name.starts_with("CacheWrite") {
                // Two spellings of one metric.
                drew.cache_write = drew.cache_write.max(*value as u64);
                continue;
            }
            let part = match *name {
                ESTIMATED => &mut drew.estimated,
                "Invocations" => &mut drew.requests,
                "InvocationThrottles" => &mut drew.refused,
                "OutputTokenCount" | "TotalOutputTokens" => &mut drew.output,
                _ => &mut drew.input,
            };
            *part += *value as u64;
        }
        // Of each pool the newest minute: the map is sorted by it.
        let newest: BTreeMap<ModelGroup, (i64, Drew)> =
            pools.into_iter().map(|((pool, minute), drew)| (pool, (minute, drew))).collect();
        newest.into_iter().flat_map(|(pool, (minute, drew))| self.drawn(&pool, minute, &drew)).collect()
    }

    fn drawn(&self, pool: &ModelGroup, minute: i64, drew: &Drew) -> Vec<Quota> {
        let until = Timestamp::from_secs(minute + 60);
        let row = |limiter: Limiter, amount: u64| Quota {
            drawn: Some(Drawn { amount: Amount::new(amount), until, daily: None }),
            refused: (limiter != Limiter::OUTPUT_TOKENS).then(|| Amount::new(drew.refused)),
            ..self.place.quota(pool.clone(), limiter, Window::Minute)
        };
        if bedrock::is_mantle(pool) {
            let without = |quota: Quota| Quota { refused: None, ..quota };
            return vec![
                without(row(Limiter::INPUT_TOKENS, drew.input)),
                row(Limiter::OUTPUT_TOKENS, drew.output),
            ];
        }
        let counted = (drew.input.saturating_add(drew.cache_write))
            .saturating_add(drew.output.saturating_mul(bedrock::burndown(pool)));
        vec![
            row(Limiter::TOKENS, drew.estimated.saturating_add(counted)),
            row(Limiter::REQUESTS, drew.requests),
        ]
    }
}

impl Poll for Usage {
    type Value = Told;

    /// Once it is known, or known not to be had, what models are called: draws are told by their groups.
    async fn wanted(&mut self) -> bool {
        asked_once(&mut self.known).await
    }

    async fn poll(&mut self) -> Result<Told, Failure> {
        let now = self.place.clock.now();
        if self.discovered.is_none_or(|at| now.since(at) >= DISCOVER) {
            self.discover().await?;
            self.discovered = Some(now);
        }
        let minute = now.micros().div_euclid(60_000_000) * 60;
        let sums = self.read(minute).await?;
        Ok(self.place.told(self.rows(&sums, minute), Vec::new()))
    }
}

/// What was drawn in a minute.
#[derive(Clone, Copy, Debug, Default)]
struct Drew {
    estimated: u64,
    input: u64,
    cache_write: u64,
    output: u64,
    requests: u64,
    refused: u64,
}

fn query((nth, (namespace, name, model)): (usize, &Existing)) -> Option<MetricDataQuery> {
    let dimension = if *namespace == RUNTIME { "ModelId" } else { "Model" };
    let dimension = Dimension::builder().name(dimension).value(model).build();
    let metric = Metric::builder().namespace(*namespace).metric_name(*name).dimensions(dimension).build();
    // One datum a request: the sum is the minute's use, the maximum would be its largest request.
    let stat = MetricStat::builder().metric(metric).period(60).stat("Sum").build();
    Some(MetricDataQuery::builder().id(format!("m{nth}")).metric_stat(stat).build())
}

/// Why AWS refused, in words that say what to do; never its own message on permissions, which names the caller.
fn failure<E>(permission: &str, error: &aws_sdk_cloudwatch::error::SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    let wait = error.raw_response().and_then(|response| response.headers().get("retry-after"));
    let said = match code {
        "AccessDeniedException" | "AccessDenied" | "UnauthorizedOperation" | "Forbidden" => {
            format!("the IAM permission `{permission}` is missing")
        }
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => {
            format!("{permission}: the credentials have expired and were not renewed")
        }
        "UnrecognizedClientException" | "InvalidClientTokenId" => {
            format!("{permission}: AWS does not know these credentials")
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => {
            format!("{permission}: AWS refuses the signature; does this machine's clock show the right time?")
        }
        "" => format!("{permission}: {}", unanswered(error)),
        code => format!("{permission}: {code}"),
    };
    Failure { message: said, retry_after: wait.and_then(|v| v.trim().parse().ok()).map(Duration::from_secs) }
}

/// Why there was no answer. Never the error's own words: those of the credential chain name roles, users and files.
fn unanswered<E>(error: &aws_sdk_cloudwatch::error::SdkError<E>) -> &'static str {
    use aws_sdk_cloudwatch::error::SdkError;
    match error {
        SdkError::TimeoutError(_) => "no answer in time",
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            "AWS cannot be reached"
        }
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => "no usable credentials were found",
        _ => "the answer cannot be read",
    }
}
