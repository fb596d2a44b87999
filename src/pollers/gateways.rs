//! Gateways that are asked: what they count of refusals, and what they know of budgets.
//!
//! Counters tell how many calls were refused since the last look, and by whom; of a first look nothing is known, because a
//! counter may be years old. Gauges tell a level only when they move: a gateway sets them when a call succeeds, so that one
//! that stands still may be of any age (LiteLLM's stand at the last success while everything is refused). What a callback, a
//! log or the hop tells of the same route goes before what is counted here: counters know no calls.
//!
//! Names of metrics: LiteLLM 1.100 and 1.109, Kong's `prometheus` plugin 3.x, agentgateway 1.3. Admin API of LiteLLM: its
//! documented shape (`/key/list`, `/team/info`; it needs a database, so it was tried against a fake only). OpenRouter:
//! `GET /api/v1/key`.

use super::asked::TIMEOUT;
use super::exposition::{self, Sample};
use super::http;
use super::runner::{self, Failure, Parts, Poll, Schedule};
use crate::clock::Clock;
use crate::config::pollers::{Gateway, GatewayKind};
use crate::limit::{Amount, Limiter, Timestamp, Window};
use crate::observation::{Account, Drawn, Observation, Quota, Quotas};
use crate::pollers::unusable::Unusable;
use crate::route::{ModelGroup, Surface};
use crate::seen::{Answered, Seen};
use crate::stats::Stats;
use ::http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Most refusals that one series tells of at once; more are counted as unusable.
const MOST_EVENTS: u64 = 500;
/// When the process that answers was started, as most programs say.
const STARTED: &str = "process_start_time_seconds";
/// Clocks of two machines agree to this many seconds.
const CLOCKS: f64 = 5.0;
/// Most series that are remembered.
const MOST_SERIES: usize = 20_000;

/// What a look at a gateway told.
#[derive(Clone, Debug)]
pub struct Told {
    /// Refusals since the last look, and levels that moved.
    pub seen: Vec<Seen>,
    /// Budgets.
    pub quotas: Arc<Quotas>,
    /// Budgets that could not be read, and why.
    pub failed: Vec<String>,
    /// Series of its metrics that tell something.
    pub series: usize,
}

/// A gateway that is asked.
pub struct Asked {
    config: Gateway,
    client: reqwest::Client,
    clock: Clock,
    unusable: Unusable,
    /// Series by what they were when last looked at.
    before: HashMap<String, f64>,
    /// When was last looked; absent before the first look.
    looked: Option<Timestamp>,
    /// When the process that answered then had started, where it says so.
    process: Option<f64>,
    /// Budgets that the poll in hand could not read, and why.
    failed: Vec<String>,
}

impl Asked {
    /// A gateway.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn of(config: &Gateway, stats: &Stats, clock: &Clock) -> Result<Self, String> {
        let name: Arc<str> = format!("gateway:{}", config.name).into();
        let polls = stats.sources.of(&name);
        Self::new(config, clock.clone(), Unusable::new(name, polls))
    }

    fn new(config: &Gateway, clock: Clock, unusable: Unusable) -> Result<Self, String> {
        let client = http::client()?;
        let config = config.clone();
        let (before, failed) = (HashMap::new(), Vec::new());
        Ok(Self { config, client, clock, unusable, before, looked: None, process: None, failed })
    }

    async fn text(&self, url: &str) -> Result<String, Failure> {
        let answer = http::fetch(self.client.get(url)).await?;
        if !answer.status.is_success() {
            return Err(http::refused(&answer));
        }
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    async fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: String,
        query: &[(&str, &str)],
    ) -> Result<T, Failure> {
        let pairs: Vec<String> = query
            .iter()
            .map(|(name, value)| {
                let set = percent_encoding::NON_ALPHANUMERIC;
                format!("{name}={}", percent_encoding::utf8_percent_encode(value, set))
            })
            .collect();
        let url = if pairs.is_empty() { url } else { format!("{url}?{}", pairs.join("&")) };
        let mut request = self.client.get(url);
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key.expose_secret());
        }
        http::json(request).await
    }

    /// Refusals and levels out of a scrape.
    fn scraped(&mut self, text: &str) -> Vec<Seen> {
        let kind = self.config.kind;
        let (samples, broken) = exposition::read(text, |name| kind.wants(name));
        for _ in 0..broken.min(100) {
            self.unusable.note("metric", "a line that cannot be read");
        }
        self.look_who_answers(&samples);
        let mut seen = Vec::new();
        let mut levels: HashMap<(String, String), Level> = HashMap::new();
        for sample in &samples {
            if let Some((which, field)) = kind.level(sample) {
                let moved = self.moved(sample);
                let level = levels.entry(which).or_default();
                match field {
                    Field::Allowed => level.allowed = sample.known(),
                    Field::Used => level.used = sample.known().filter(|_| moved),
                }
                continue;
            }
            let Some(event) = kind.event(sample) else { continue };
            let n = self.grown(sample);
            if n > MOST_EVENTS {
                self.unusable.note("refusals", "more than can be told one by one");
            }
            seen.extend((0..n.min(MOST_EVENTS)).map(|_| Seen { aggregate: true, ..event.clone() }));
        }
        seen.extend(levels.iter().filter_map(|(which, level)| tenant(which, level)));
        let now = self.clock.now();
        self.looked = Some(now);
        let route = self.config.route.clone();
        for one in &mut seen {
            one.route = route.clone();
            one.surface = one.surface.or(Some(Surface::Gateway));
            one.ended = Some(now);
        }
        seen
    }

    /// Counters begin anew with their process. If it was started since the last look, all they count is new; if another
    /// one answers, which ran before, nothing is known of what it counted since.
    fn look_who_answers(&mut self, samples: &[Sample]) {
        let started = samples.iter().find(|sample| sample.name == STARTED).and_then(Sample::known);
        let before = std::mem::replace(&mut self.process, started);
        let (Some(started), Some(before), Some(looked)) = (started, before, self.looked) else { return };
        if (started - before).abs() < 1.0 {
            return;
        }
        self.before.clear();
        if started + CLOCKS < looked.secs_f64() {
            self.looked = None;
            self.unusable.note("process", "several answer at this address; give each its own gateway here");
        }
    }

    /// How much a counter has grown since the last look.
    fn grown(&mut self, sample: &Sample) -> u64 {
        let Some(value) = sample.known() else { return 0 };
        let before = self.remember(sample, value);
        match before {
            Some(before) if value >= before => (value - before) as u64,
            // Begun anew, or another process: nobody says which.
            Some(_) => {
                self.unusable.note("refusals", "a counter fell");
                0
            }
            // A series that was not there before began with its first event.
            None if self.looked.is_some() => value as u64,
            None => 0,
        }
    }

    fn moved(&mut self, sample: &Sample) -> bool {
        let Some(value) = sample.known() else { return false };
        self.remember(sample, value).is_some_and(|before| (before - value).abs() > f64::EPSILON)
    }

    fn remember(&mut self, sample: &Sample, value: f64) -> Option<f64> {
        let series = sample.series();
        if self.before.len() >= MOST_SERIES && !self.before.contains_key(&series) {
            self.before.clear();
            self.looked = None;
        }
        self.before.insert(series, value)
    }

    async fn budgets(&mut self) -> Result<Vec<Quota>, Failure> {
        match self.config.kind {
            GatewayKind::Openrouter => Ok(vec![self.openrouter().await?]),
            GatewayKind::Litellm if self.config.key.is_some() => Ok(self.litellm().await),
            _ => Ok(Vec::new()),
        }
    }

    /// Budgets of LiteLLM's keys and teams, by the names that the configuration gives. One that cannot be read keeps back
    /// neither the others nor what the counters told.
    async fn litellm(&mut self) -> Vec<Quota> {
        let base = self.config.admin_url.clone();
        let mut rows = Vec::new();
        for team in self.config.teams.clone() {
            let query = [("team_id", team.as_str())];
            match self.json::<TeamInfo>(format!("{base}/team/info"), &query).await {
                Ok(info) => rows.extend(info.team_info.quota(&format!("team:{team}"), self.clock.now())),
                Err(failure) => self.budget_failed(&format!("team {team}"), &failure.message),
            }
        }
        for alias in self.config.keys.clone() {
            let query = [("key_alias", alias.as_str()), ("return_full_object", "true"), ("size", "10")];
            let list = self.json::<KeyList>(format!("{base}/key/list"), &query).await;
            let key =
                list.map(|list| list.keys.into_iter().find(|key| key.key_alias.as_deref() == Some(&alias)));
            match key {
                Ok(Some(key)) => rows.extend(key.quota(&format!("key:{alias}"), self.clock.now())),
                Ok(None) => self.budget_failed(&format!("key {alias}"), "LiteLLM knows no key of that alias"),
                Err(failure) => self.budget_failed(&format!("key {alias}"), &failure.message),
            }
        }
        rows
    }

    fn budget_failed(&mut self, whose: &str, why: &str) {
        self.unusable.note(whose, why);
        self.failed.push(format!("{whose}: {why}"));
    }

    async fn openrouter(&mut self) -> Result<Quota, Failure> {
        let told: OpenRouter = self.json(format!("{}/api/v1/key", self.config.url), &[]).await?;
        let key = told.data;
        let window = match key.limit_reset.as_deref() {
            Some("daily") => Window::Day,
            Some("weekly") => Window::Week,
            Some("monthly") => Window::Month,
            _ => Window::Unknown,
        };
        let used = match (key.limit, key.limit_remaining) {
            (Some(limit), Some(left)) => Some(limit - left),
            _ => key.usage,
        };
        let account = tenant_account(&self.config.name);
        let quota = Quota::of(Surface::Gateway, account, ModelGroup::none(), Limiter::SPEND, window);
        let until = self.clock.now();
        Ok(Quota {
            limit: key.limit.and_then(cents),
            drawn: used.and_then(cents).map(|amount| Drawn { amount, until, daily: None }),
            ..quota
        })
    }
}

impl Poll for Asked {
    type Value = Arc<Told>;

    async fn poll(&mut self) -> Result<Arc<Told>, Failure> {
        let mut seen = Vec::new();
        if self.config.kind != GatewayKind::Openrouter {
            let base = self.config.url.trim_end_matches("/metrics");
            let text = self.text(&format!("{base}{}", self.config.kind.metrics())).await?;
            seen = self.scraped(&text);
        }
        let rows = self.budgets().await?;
        let source = format!("gateway:{}", self.config.name).into();
        let quotas = Arc::new(Quotas::of(source, self.clock.now(), rows));
        let (failed, series) = (std::mem::take(&mut self.failed), self.before.len());
        Ok(Arc::new(Told { seen, quotas, failed, series }))
    }
}

/// Starts asking every gateway. What they tell of calls and levels goes to `tell`, with the source's name; budgets go to the
/// engine.
///
/// # Errors
/// If no HTTP client can be made.
pub fn spawn(
    config: &[Gateway],
    stats: &Stats,
    clock: &Clock,
    observations: &mpsc::Sender<Observation>,
    tell: &(impl Fn(&str, Seen) + Clone + Send + 'static),
) -> Result<Vec<JoinHandle<()>>, String> {
    let mut tasks = Vec::new();
    for gateway in config {
        let name: Arc<str> = format!("gateway:{}", gateway.name).into();
        let polls = stats.sources.of(&name);
        let asked = Asked::of(gateway, stats, clock)?;
        let schedule = Schedule { interval: gateway.interval, timeout: TIMEOUT };
        let parts = Parts { name: name.clone(), schedule, polls, clock: clock.clone() };
        let (mut known, runner) = runner::spawn(asked, parts);
        let (tell, observations) = (tell.clone(), observations.clone());
        let hand_on = async move {
            let mut handed = None;
            while known.changed().await.is_ok() {
                let good = known.borrow_and_update().good.clone();
                let Some((at, told)) = good.filter(|(at, _)| handed != Some(*at)) else { continue };
                handed = Some(at);
                told.seen.iter().for_each(|seen| tell(&name, seen.clone()));
                let budgets = Observation::Quotas(told.quotas.clone());
                if !told.quotas.rows.is_empty() && observations.send(budgets).await.is_err() {
                    return;
                }
            }
        };
        tasks.extend([runner, tokio::spawn(hand_on)]);
    }
    Ok(tasks)
}

/// One of the two gauges of a tenant's limit.
#[derive(Clone, Copy)]
enum Field {
    Allowed,
    Used,
}

/// A tenant's limit. What is used is told only where it moved since the last look.
#[derive(Clone, Copy, Default)]
struct Level {
    allowed: Option<f64>,
    used: Option<f64>,
}

impl GatewayKind {
    fn wants(self, name: &str) -> bool {
        // When a series was created is told beside it, under almost its name.
        name == STARTED || (!name.ends_with("_created") && self.knows(name))
    }

    /// Where its metrics are: a poller follows no redirect, and LiteLLM has one from `/metrics` to here.
    const fn metrics(self) -> &'static str {
        match self {
            Self::Litellm => "/metrics/",
            _ => "/metrics",
        }
    }

    fn knows(self, name: &str) -> bool {
        match self {
            Self::Litellm => {
                name.starts_with("litellm_proxy_failed_requests_metric")
                    || name.contains("_rate_limit_allowed_metric")
                    || name.contains("_rate_limit_used_metric")
            }
            Self::Kong => name == "kong_http_requests_total" || name == "kong_http_status",
            Self::Agentgateway => name == "agentgateway_requests_total" || name == "agentgateway_requests",
            Self::Openrouter => false,
        }
    }

    /// A refusal that a counter counts.
    fn event(self, sample: &Sample) -> Option<Seen> {
        let refused = Seen { status: Some(429), ..Seen::default() };
        match self {
            Self::Litellm => litellm_event(sample, refused),
            Self::Kong => {
                (sample.label("code")? == "429").then_some(())?;
                let answered = match sample.label("source") {
                    Some("exit") => Some(Answered::Gateway),
                    Some("service") => Some(Answered::Upstream),
                    _ => None,
                };
                Some(Seen { answered, service: sample.label("service").map(str::to_owned), ..refused })
            }
            Self::Agentgateway => {
                (sample.label("status")? == "429").then_some(())?;
                let answered = match sample.label("reason") {
                    Some("RateLimit") => Some(Answered::Gateway),
                    Some("Upstream") => Some(Answered::Upstream),
                    _ => None,
                };
                Some(Seen { answered, service: sample.label("backend").map(str::to_owned), ..refused })
            }
            Self::Openrouter => None,
        }
    }

    /// A tenant's limit, or how much of it is used: of what, and which of both.
    fn level(self, sample: &Sample) -> Option<((String, String), Field)> {
        let (rest, at) = match sample.name.split_once("_rate_limit_allowed_metric") {
            Some((rest, _)) => (rest, Field::Allowed),
            None => (sample.name.split_once("_rate_limit_used_metric")?.0, Field::Used),
        };
        let what = match sample.label("rate_limit_type")? {
            "requests" | "rpm" => "requests",
            "tokens" | "tpm" => "tokens",
            _ => return None,
        };
        let kind = rest.strip_prefix("litellm_")?;
        let other = |(name, _): &&(String, String)| name != "rate_limit_type";
        let whose: Vec<String> =
            sample.labels.iter().filter(other).map(|(n, v)| format!("{n}={v}")).collect();
        Some(((format!("{kind}-{what}"), whose.join(",")), at))
    }
}

/// LiteLLM tells whose limit it was by the exception's class.
fn litellm_event(sample: &Sample, refused: Seen) -> Option<Seen> {
    let class = sample.label("exception_class")?;
    let status = sample.label("exception_status").unwrap_or_default();
    let model = sample.label("requested_model").map(str::to_owned);
    let category = sample.label("rate_limit_category");
    if class == "RouterRateLimitError" {
        let body = r#"{"error":{"message":"No deployments available for selected model"}}"#;
        return Some(Seen { body: Some(body.to_owned()), model, ..refused });
    }
    if status != "429" {
        return None;
    }
    let own = class == "HTTPException" || category.is_some_and(|category| category.starts_with("litellm"));
    let surface = match sample.label("api_provider") {
        Some("anthropic") => Some(Surface::AnthropicApi),
        Some("bedrock") => Some(Surface::Bedrock),
        Some("vertex_ai") => Some(Surface::Vertex),
        Some("openai") => Some(Surface::OpenAi),
        Some("azure") => Some(Surface::AzureOpenAi),
        _ => None,
    };
    let answered = Some(if own { Answered::Gateway } else { Answered::Upstream });
    Some(Seen { answered, surface: surface.filter(|_| !own), model, ..refused })
}

/// A tenant's level, in the headers by which LiteLLM itself shows it.
fn tenant((what, whose): &(String, String), level: &Level) -> Option<Seen> {
    let (allowed, used) = (level.allowed?, level.used?);
    let (kind, unit) = what.rsplit_once('-')?;
    let mut headers = HeaderMap::new();
    for (field, value) in [("limit", allowed), ("remaining", (allowed - used).max(0.0))] {
        let name = HeaderName::try_from(format!("x-ratelimit-{kind}-{field}-{unit}")).ok()?;
        headers.insert(name, HeaderValue::from_str(&(value as u64).to_string()).ok()?);
    }
    Some(Seen { state: true, status: Some(200), headers, tenant: Some(whose.clone()), ..Seen::default() })
}

#[derive(Deserialize)]
struct TeamInfo {
    team_info: Budget,
}

#[derive(Deserialize)]
struct KeyList {
    #[serde(default)]
    keys: Vec<Budget>,
}

/// What LiteLLM's admin API says of a key's or a team's money.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Budget {
    key_alias: Option<String>,
    spend: Option<f64>,
    max_budget: Option<f64>,
    budget_duration: Option<String>,
    budget_reset_at: Option<String>,
}

impl Budget {
    fn quota(self, name: &str, now: Timestamp) -> Option<Quota> {
        let limit = self.max_budget.and_then(cents)?;
        let window = match self.budget_duration.as_deref() {
            Some("24h" | "1d") => Window::Day,
            Some("7d") => Window::Week,
            Some("30d" | "1mo") => Window::Month,
            _ => Window::Unknown,
        };
        let resets = self.budget_reset_at.as_deref().and_then(crate::mapping::moment);
        let drawn = self.spend.and_then(cents).map(|amount| Drawn { amount, until: now, daily: None });
        let quota =
            Quota::of(Surface::Gateway, tenant_account(name), ModelGroup::none(), Limiter::SPEND, window);
        Some(Quota { limit: Some(limit), drawn, resets, ..quota })
    }
}

#[derive(Deserialize)]
struct OpenRouter {
    data: OpenRouterKey,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OpenRouterKey {
    limit: Option<f64>,
    limit_remaining: Option<f64>,
    limit_reset: Option<String>,
    usage: Option<f64>,
}

/// A tenant as owners are matched by it (`match.workspaces`).
fn tenant_account(name: &str) -> Account {
    Account { workspace: Some(name.into()), ..Account::default() }
}

/// US dollars in cents; nothing for what is no sum.
fn cents(dollars: f64) -> Option<Amount> {
    (0.0..1e12).contains(&dollars).then(|| Amount::new((dollars * 100.0).round() as u64))
}

#[cfg(test)]
#[path = "gateways_tests.rs"]
mod tests;
