//! Anthropic's Admin API: limits of organisation and workspaces, everybody's usage by the minute, the month's cost.
//!
//! Shapes as documented in 2026 (`/v1/organizations/{me,rate_limits,workspaces,usage_report/messages,cost_report}`).
//! Types of limiters are an open set: the known ones get our names, others keep their own. Groups of models are taken
//! from here and used by the engine, so that models that share a limit share a bucket. Usage comes up to five minutes
//! late: it shows what passes elsewhere, and leads nothing.

use super::http;
use super::runner::{Failure, Poll, State, asked_once};
use super::unusable::Unusable;
use crate::clock::Clock;
use crate::config::pollers::Anthropic as Config;
use crate::limit::{Amount, Limiter, Timestamp, Window};
use crate::observation::{Account, Alias, Drawn, Quota, Quotas};
use crate::route::{ModelGroup, Surface};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most pages of one list.
const MOST_PAGES: usize = 50;
/// Most workspaces whose own limits are asked for.
const MOST_WORKSPACES: usize = 200;
/// Most names of workspaces, and their longest.
const MOST_NAMES: usize = 2_000;
const MOST_NAME: usize = 200;
/// How long the workspaces' own limits may take.
const FOR_WORKSPACES: Duration = Duration::from_secs(30);
/// Minutes whose mean is told as one: what comes in bursts is no steady draw.
const MINUTES: usize = 5;
/// Whole days whose mean is the pace of spending.
const PACE_DAYS: i64 = 7;

/// The API, with its key.
pub struct Api {
    client: reqwest::Client,
    config: Config,
    clock: Clock,
    organization: Option<Arc<str>>,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    #[serde(default)]
    next_page: Option<String>,
    #[serde(default)]
    has_more: bool,
    #[serde(default)]
    last_id: Option<String>,
}

impl Api {
    /// The API as configured.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(config: &Config, clock: Clock) -> Result<Self, String> {
        Ok(Self { client: http::client()?, config: config.clone(), clock, organization: None })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let mut key = reqwest::header::HeaderValue::from_str(self.config.admin_key.expose_secret())
            .map_err(|_| Failure::from("the admin key is no header value".to_owned()))?;
        key.set_sensitive(true);
        let request = self.client.get(format!("{}/v1/organizations/{path}", self.config.url));
        let request = request.header("x-api-key", key).header("anthropic-version", "2023-06-01");
        // A 403 says which permission is missing: name the endpoint, or nobody knows of what it speaks.
        let named = |failure: Failure| {
            let endpoint = path.split('?').next().unwrap_or(path);
            Failure { message: format!("{endpoint}: {}", failure.message), ..failure }
        };
        http::json(request).await.map_err(named)
    }

    /// Every item of a list, by whichever of its two ways of paging.
    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let join = if path.contains('?') { '&' } else { '?' };
        let (mut all, mut at) = (Vec::new(), path.to_owned());
        for _ in 0..MOST_PAGES {
            let page: Page<T> = self.get(&at).await?;
            all.extend(page.data);
            let next = match (page.next_page, page.last_id) {
                (Some(next), _) if !next.is_empty() => format!("{path}{join}page={}", encoded(&next)),
                (_, Some(last)) if page.has_more => format!("{path}{join}after_id={}", encoded(&last)),
                _ => return Ok(all),
            };
            if next == at {
                break;
            }
            at = next;
        }
        Err(Failure::from(format!("{path}: its pages do not end")))
    }

    /// The organisation's id; asked for once.
    async fn organization(&mut self) -> Result<Arc<str>, Failure> {
        #[derive(Deserialize)]
        struct Me {
            id: String,
        }
        if let Some(known) = &self.organization {
            return Ok(known.clone());
        }
        let me: Me = self.get("me").await?;
        Ok(self.organization.insert(me.id.into()).clone())
    }

    fn quotas(&self, source: &str, rows: Vec<Quota>) -> Quotas {
        Quotas::of(source.into(), self.clock.now(), rows)
    }
}

fn encoded(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Asks for the limits of organisation and workspaces, and for the groups of models.
pub struct Limits {
    /// The API.
    pub api: Api,
    /// What could not be used.
    pub unusable: Unusable,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    group_type: String,
    #[serde(default)]
    models: Option<Vec<String>>,
    limits: Vec<Limit>,
}

#[derive(Deserialize)]
struct Limit {
    r#type: String,
    value: serde_json::Number,
}

#[derive(Deserialize)]
struct Workspace {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    archived_at: Option<String>,
}

impl Poll for Limits {
    type Value = Arc<Quotas>;

    async fn poll(&mut self) -> Result<Arc<Quotas>, Failure> {
        let organization = self.api.organization().await?;
        let groups: Vec<Group> = self.api.all("rate_limits").await?;
        let names = group_names(&groups);
        let account = Account { organization: Some(organization.clone()), ..Account::default() };
        let mut rows = self.rows(&groups, &account, &names);
        let workspaces: Vec<Workspace> = self.api.all("workspaces?limit=100").await?;
        let name = |one: &Workspace| {
            (one.id.as_str().into(), one.name.chars().take(MOST_NAME).collect::<String>().into())
        };
        let named: Vec<(Arc<str>, Arc<str>)> = workspaces.iter().take(MOST_NAMES).map(name).collect();
        let open = workspaces.into_iter().filter(|workspace| workspace.archived_at.is_none());
        let began = tokio::time::Instant::now();
        for (nth, workspace) in open.enumerate() {
            if nth >= MOST_WORKSPACES || began.elapsed() > FOR_WORKSPACES {
                let why = "there are too many to ask for all; the rest inherits, for all that is known";
                self.unusable.note("workspaces", why);
                break;
            }
            let path = format!("workspaces/{}/rate_limits", encoded(&workspace.id));
            let groups: Vec<Group> = match self.api.all(&path).await {
                Ok(groups) => groups,
                // What the organisation has is worth knowing without it.
                Err(failure) => {
                    self.unusable.note(&workspace.id, &failure.message);
                    continue;
                }
            };
            let account = Account { workspace: Some(workspace.id.as_str().into()), ..account.clone() };
            rows.extend(self.rows(&groups, &account, &names));
        }
        let aliases =
            names.into_iter().map(|(name, group)| Alias { surface: Surface::AnthropicApi, name, group });
        let told = self.api.quotas("anthropic_limits", rows);
        Ok(Arc::new(Quotas { aliases: aliases.collect(), workspaces: named, ..told }))
    }
}

impl Limits {
    fn rows(
        &mut self,
        groups: &[Group],
        account: &Account,
        names: &BTreeMap<ModelGroup, ModelGroup>,
    ) -> Vec<Quota> {
        let mut rows = Vec::new();
        for group in groups {
            let model = group.models.iter().flatten().next().map(|id| ModelGroup::of_model(id));
            let model =
                model.map_or_else(ModelGroup::none, |model| names.get(&model).cloned().unwrap_or(model));
            for limit in &group.limits {
                let (limiter, window) = limiter(&group.group_type, &limit.r#type);
                let Some(value) = limit.value.as_u64() else {
                    self.unusable.note(&limit.r#type, "its value is no whole number of zero or more");
                    continue;
                };
                let quota = Quota::of(Surface::AnthropicApi, account.clone(), model.clone(), limiter, window);
                rows.push(Quota { limit: Some(Amount::new(value)), ..quota });
            }
        }
        rows
    }
}

/// Our name of a limiter, and its window.
fn limiter(group_type: &str, name: &str) -> (Limiter, Window) {
    let window = match name {
        _ if name.ends_with("_per_minute") || name.contains("per_minute_") => Window::Minute,
        "fast_itpmca" | "fast_otpm" => Window::Minute,
        _ if name.ends_with("_per_day") => Window::Day,
        _ => Window::Unknown,
    };
    let limiter = match name {
        "requests_per_minute" => Limiter::REQUESTS,
        // Cached reads are free either way; the field has both names.
        "input_tokens_per_minute" | "input_tokens_per_minute_cache_aware" => Limiter::INPUT_TOKENS,
        "output_tokens_per_minute" => Limiter::OUTPUT_TOKENS,
        "fast_itpmca" => Limiter::FAST_INPUT,
        "fast_otpm" => Limiter::FAST_OUTPUT,
        other => Limiter::named(other),
    };
    // As the engine names the pools of endpoints that have limits of their own.
    let pool = match group_type {
        "model_group" | "" => return (limiter, window),
        "token_count" => "count_tokens",
        other => other,
    };
    (Limiter::named(&format!("{pool}_{limiter}")), window)
}

/// A name for each group, by its models: what they have in common, if that names one group only.
fn group_names(groups: &[Group]) -> BTreeMap<ModelGroup, ModelGroup> {
    let models = |group: &Group| -> Vec<ModelGroup> {
        let mut models: Vec<ModelGroup> =
            group.models.iter().flatten().map(|id| ModelGroup::of_model(id)).collect();
        models.sort();
        models.dedup();
        models
    };
    let groups: Vec<Vec<ModelGroup>> =
        groups.iter().map(models).filter(|models| !models.is_empty()).collect();
    let common: Vec<String> = groups.iter().map(|models| in_common(models)).collect();
    let mut names = BTreeMap::new();
    for (models, name) in groups.iter().zip(&common) {
        let alone = common.iter().filter(|other| *other == name).count() == 1;
        let name = if alone && !name.is_empty() { ModelGroup::named(name) } else { models[0].clone() };
        names.extend(models.iter().map(|model| (model.clone(), name.clone())));
    }
    names
}

/// The first words that all names share; empty if that is fewer than two.
fn in_common(models: &[ModelGroup]) -> String {
    let words = |model: &ModelGroup| model.as_str().split('-').map(str::to_owned).collect::<Vec<_>>();
    let mut shared = words(&models[0]);
    for model in &models[1..] {
        let equal = shared.iter().zip(words(model)).take_while(|(a, b)| **a == *b).count();
        shared.truncate(equal);
    }
    if shared.len() < 2 { String::new() } else { shared.join("-") }
}

/// Asks what everybody used in the newest minute that is known.
pub struct Usage {
    /// The API.
    pub api: Api,
    /// Groups of models, as [`Limits`] learnt them.
    pub groups: watch::Receiver<State<Arc<Quotas>>>,
}

#[derive(Deserialize)]
struct Minute {
    ending_at: String,
    results: Vec<Used>,
}

#[derive(Deserialize)]
struct Used {
    #[serde(default)]
    uncached_input_tokens: u64,
    #[serde(default)]
    cache_creation: CacheCreation,
    #[serde(default)]
    output_tokens: u64,
    model: Option<String>,
    workspace_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    ephemeral_5m_input_tokens: u64,
    ephemeral_1h_input_tokens: u64,
}

impl Poll for Usage {
    type Value = Arc<Quotas>;

    /// Once it is known, or known not to be had, what models are called: draws are told by their groups.
    async fn wanted(&mut self) -> bool {
        asked_once(&mut self.groups).await
    }

    async fn poll(&mut self) -> Result<Arc<Quotas>, Failure> {
        let organization = self.api.organization().await?;
        let now = self.api.clock.now();
        let minute = now.micros().div_euclid(60_000_000) * 60;
        let from = Timestamp::from_secs(minute - 15 * 60).rfc3339();
        let path = format!(
            "usage_report/messages?starting_at={from}&bucket_width=1m&limit=20&group_by[]=model&group_by[]=workspace_id"
        );
        let minutes: Vec<Minute> = self.api.all(&path).await?;
        // An empty minute may be one that is not counted yet: the newest that has something is the last that is known,
        // and empty ones before it were empty.
        let known = minutes.iter().rposition(|minute| !minute.results.is_empty());
        let known = known.map_or(&[][..], |last| &minutes[..=last]);
        let rows = self.rows(&known[known.len().saturating_sub(MINUTES)..], &organization)?;
        Ok(Arc::new(self.api.quotas("anthropic_usage", rows)))
    }
}

impl Usage {
    /// The mean of these minutes.
    fn rows(&self, minutes: &[Minute], organization: &Arc<str>) -> Result<Vec<Quota>, Failure> {
        let Some(last) = minutes.last() else { return Ok(Vec::new()) };
        let until = moment(&last.ending_at)?;
        let known = self.groups.borrow();
        let quotas = known.good.as_ref().map(|(_, quotas)| quotas);
        let group = |model: ModelGroup| match quotas {
            Some(quotas) => quotas.group(model),
            None => model,
        };
        let mut sums: BTreeMap<(Option<&str>, ModelGroup), [u64; 2]> = BTreeMap::new();
        for used in minutes.iter().flat_map(|minute| &minute.results) {
            let model = used.model.as_deref().map_or_else(ModelGroup::none, ModelGroup::of_model);
            let [input, output] = sums.entry((used.workspace_id.as_deref(), group(model))).or_default();
            let CacheCreation { ephemeral_5m_input_tokens: short, ephemeral_1h_input_tokens: long } =
                used.cache_creation;
            let written = short.saturating_add(long);
            *input = input.saturating_add(used.uncached_input_tokens).saturating_add(written);
            *output = output.saturating_add(used.output_tokens);
        }
        let limiters = [Limiter::INPUT_TOKENS, Limiter::OUTPUT_TOKENS];
        let row = |((workspace, model), sums): ((Option<&str>, ModelGroup), [u64; 2])| {
            let account = Account {
                organization: Some(organization.clone()),
                workspace: workspace.map(Into::into),
                ..Account::default()
            };
            limiters.clone().into_iter().zip(sums).map(move |(limiter, amount)| Quota {
                surface: Surface::AnthropicApi,
                account: account.clone(),
                model: model.clone(),
                limiter,
                window: Window::Minute,
                limit: None,
                drawn: Some(Drawn { amount: Amount::new(amount / minutes.len() as u64), until, daily: None }),
                refused: None,
                resets: None,
            })
        };
        Ok(sums.into_iter().flat_map(row).collect())
    }
}

/// Asks what the month has cost.
pub struct Spend {
    /// The API.
    pub api: Api,
    /// What could not be used.
    pub unusable: Unusable,
}

#[derive(Deserialize)]
struct Day {
    starting_at: String,
    results: Vec<Cost>,
}

#[derive(Deserialize)]
struct Cost {
    /// Cents, as a decimal.
    amount: String,
    workspace_id: Option<String>,
}

impl Poll for Spend {
    type Value = Arc<Quotas>;

    async fn poll(&mut self) -> Result<Arc<Quotas>, Failure> {
        let organization = self.api.organization().await?;
        let now = self.api.clock.now();
        let month = Month::of(now)?;
        let today = now.micros().div_euclid(86_400_000_000) * 86_400;
        // Yesterday's cost is still coming in.
        let yesterday = today - 86_400;
        let paced_from = yesterday - PACE_DAYS * 86_400;
        let from = month.starts.min(Timestamp::from_secs(paced_from));
        let path = format!("cost_report?starting_at={}&group_by[]=workspace_id&limit=31", from.rfc3339());
        let days: Vec<Day> = self.api.all(&path).await?;
        let mut costs: BTreeMap<Option<String>, Costs> = BTreeMap::new();
        costs.insert(None, Costs::default());
        for day in &days {
            let at = moment(&day.starting_at)?;
            for cost in &day.results {
                let Some(cents) = cost.amount.parse::<f64>().ok().filter(|cents| cents.is_finite()) else {
                    self.unusable.note("amount", "a cost is no number");
                    continue;
                };
                let paced = (paced_from..yesterday).contains(&at.micros().div_euclid(1_000_000));
                // The whole organisation, and the workspace by itself; the default workspace has no id.
                let of = [None, cost.workspace_id.clone()];
                for key in of.iter().take(1 + usize::from(of[1].is_some())) {
                    let costs = costs.entry(key.clone()).or_default();
                    costs.month += if at >= month.starts { cents } else { 0.0 };
                    costs.paced += if paced { cents } else { 0.0 };
                }
            }
        }
        let rows = costs
            .into_iter()
            .map(|(workspace, costs)| self.row(workspace, costs, &organization, &month, now));
        Ok(Arc::new(self.api.quotas("anthropic_spend", rows.collect())))
    }
}

#[derive(Clone, Copy, Default)]
struct Costs {
    month: f64,
    paced: f64,
}

impl Spend {
    fn row(
        &self,
        workspace: Option<String>,
        costs: Costs,
        organization: &Arc<str>,
        month: &Month,
        now: Timestamp,
    ) -> Quota {
        let config = &self.api.config;
        let limit = match &workspace {
            Some(id) => config.caps.get(id.as_str()).copied(),
            None => config.cap,
        };
        Quota {
            surface: Surface::AnthropicApi,
            account: Account {
                organization: Some(organization.clone()),
                workspace: workspace.map(Into::into),
                ..Account::default()
            },
            model: ModelGroup::none(),
            limiter: Limiter::SPEND,
            window: Window::Month,
            limit,
            drawn: Some(Drawn {
                amount: Amount::new(costs.month.max(0.0).round() as u64),
                until: now,
                daily: Some(costs.paced / PACE_DAYS as f64),
            }),
            refused: None,
            resets: Some(month.ends),
        }
    }
}

/// A calendar month, in UTC.
struct Month {
    starts: Timestamp,
    ends: Timestamp,
}

impl Month {
    fn of(now: Timestamp) -> Result<Self, Failure> {
        let no_month = |_| Failure::from("the clock shows no month".to_owned());
        let at = jiff::Timestamp::from_microsecond(now.micros()).map_err(no_month)?;
        let first = at.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
        let after = first.last_of_month().tomorrow().map_err(no_month)?;
        let moment = |date: jiff::civil::Date| {
            let at = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(no_month)?.timestamp();
            Ok::<_, Failure>(Timestamp::from_micros(at.as_microsecond()))
        };
        Ok(Self { starts: moment(first)?, ends: moment(after)? })
    }
}

fn moment(text: &str) -> Result<Timestamp, Failure> {
    let at: jiff::Timestamp =
        text.parse().map_err(|_| Failure::from("a time in the answer is none".to_owned()))?;
    Ok(Timestamp::from_micros(at.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(models: &[&str]) -> Group {
        Group {
            group_type: "model_group".to_owned(),
            models: Some(models.iter().map(|m| (*m).to_owned()).collect()),
            limits: Vec::new(),
        }
    }

    #[test]
    fn groups_are_named_by_what_their_models_share() {
        let groups = [
            group(&["claude-opus-4-5", "claude-opus-4-5-20251101", "claude-opus-4-1"]),
            group(&["claude-sonnet-4-6"]),
            group(&["claude-sonnet-4-5-20250929", "claude-haiku-4-5"]),
        ];
        let names = group_names(&groups);
        let of = |id: &str| names[&ModelGroup::of_model(id)].as_str().to_owned();
        assert_eq!(of("claude-opus-4-5-20251101"), "claude-opus-4");
        assert_eq!(of("claude-opus-4-1"), "claude-opus-4");
        assert_eq!(of("claude-sonnet-4-6"), "claude-sonnet-4-6");
        assert_eq!(of("claude-sonnet-4-5"), of("claude-haiku-4-5"), "one pool, whatever it is called");
    }

    #[test]
    fn two_groups_never_share_a_name() {
        let names = group_names(&[group(&["a-b-1", "a-b-2"]), group(&["a-b-3", "a-b-4"])]);
        assert_ne!(names[&ModelGroup::named("a-b-1")], names[&ModelGroup::named("a-b-3")]);
    }

    #[test]
    fn limiter_types_are_an_open_set() {
        for (kind, name, wanted, window) in [
            ("model_group", "requests_per_minute", "requests", Window::Minute),
            ("model_group", "input_tokens_per_minute_cache_aware", "input_tokens", Window::Minute),
            ("batch", "enqueued_batch_requests", "batch_enqueued_batch_requests", Window::Unknown),
            ("token_count", "requests_per_minute", "count_tokens_requests", Window::Minute),
            ("web_search", "tool_uses_per_second", "web_search_tool_uses_per_second", Window::Unknown),
            ("model_group", "brand_new_per_day", "brand_new_per_day", Window::Day),
        ] {
            let (limiter, found) = limiter(kind, name);
            assert_eq!((limiter.as_str(), found), (wanted, window), "{name}");
        }
    }

    #[test]
    fn months_end_where_the_next_begins() {
        let month = Month::of(Timestamp::from_secs(1_796_000_000)).unwrap();
        assert_eq!(
            (month.starts.rfc3339().as_str(), month.ends.rfc3339().as_str()),
            ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
        );
    }
}
