//! Quota APIs as they are configured, checked.

use super::check::Checker;
use super::secret::Secret;
use super::wire::pollers as wire;
use crate::dialects::{bedrock, vertex};
use crate::engine::LocalRules;
use crate::limit::{Amount, Limiter, Window};
use crate::observation::{Account, Quota};
use crate::owner::Pattern;
use crate::route::{ModelGroup, Surface};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Which APIs are asked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pollers {
    /// Anthropic's Admin API.
    pub anthropic: Option<Anthropic>,
    /// AWS accounts.
    pub aws: Vec<Aws>,
    /// Google Cloud projects.
    pub google: Vec<Google>,
    /// Gateways.
    pub gateways: Vec<Gateway>,
    /// A poller of ours.
    pub limits: Option<Limits>,
}

impl Pollers {
    /// True if anything is asked.
    pub fn is_any(&self) -> bool {
        let one = self.anthropic.is_some() || self.limits.is_some();
        one || !self.aws.is_empty() || !self.google.is_empty() || !self.gateways.is_empty()
    }
}

/// Which program a gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayKind {
    /// The LiteLLM proxy.
    Litellm,
    /// Kong with its `prometheus` plugin.
    Kong,
    /// agentgateway.
    Agentgateway,
    /// OpenRouter's account.
    Openrouter,
}

impl GatewayKind {
    const ALL: [Self; 4] = [Self::Litellm, Self::Kong, Self::Agentgateway, Self::Openrouter];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Litellm => "litellm",
            Self::Kong => "kong",
            Self::Agentgateway => "agentgateway",
            Self::Openrouter => "openrouter",
        }
    }
}

/// A gateway that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its name.
    pub name: String,
    /// Which program.
    pub kind: GatewayKind,
    /// Base address, without a slash at its end.
    pub url: String,
    /// Base address of its admin API.
    pub admin_url: String,
    /// The route of its calls.
    pub route: Option<String>,
    /// Its key.
    pub key: Option<Secret>,
    /// Keys whose budgets are asked for.
    pub keys: Vec<String>,
    /// Teams whose budgets are asked for.
    pub teams: Vec<String>,
    /// How often it is asked.
    pub interval: Duration,
}

/// Anthropic's Admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anthropic {
    /// The key.
    pub admin_key: Secret,
    /// Base address, without a slash at its end.
    pub url: String,
    /// The organisation's cap of a month, in US cents.
    pub cap: Option<Amount>,
    /// Caps of workspaces, in US cents.
    pub caps: BTreeMap<Arc<str>, Amount>,
    /// How often limits, usage and cost are asked for.
    pub intervals: [Duration; 3],
}

/// One AWS account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aws {
    /// Its name.
    pub name: String,
    /// The account id.
    pub project: Arc<str>,
    /// Its regions.
    pub regions: Vec<String>,
    /// Another address.
    pub endpoint_url: Option<String>,
    /// How often quotas are asked for.
    pub limits_interval: Duration,
    /// How often usage is; never, if absent.
    pub usage_interval: Option<Duration>,
    /// Most metrics in a month.
    pub monthly_metrics: u64,
    /// Names of quotas' models, each with its model id.
    pub models: BTreeMap<String, String>,
}

/// One Google Cloud project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Google {
    /// Its name.
    pub name: String,
    /// The project's id.
    pub project: Arc<str>,
    /// Another address; then without credentials.
    pub endpoint_url: Option<String>,
    /// How often quotas are asked for.
    pub limits_interval: Duration,
    /// How often usage is; never, if absent.
    pub usage_interval: Option<Duration>,
    /// Most series in a month.
    pub monthly_series: u64,
}

/// A poller of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Its address, with the path.
    pub url: String,
    /// How often it is asked.
    pub interval: Duration,
}

const HOUR: Duration = Duration::from_secs(3_600);
/// Longest time between two looks at the cost.
const MOST_SPEND: Duration = Duration::from_secs(1_800);
const ANTHROPIC: &str = "https://api.anthropic.com";

impl Checker<'_> {
    pub(super) fn pollers(&mut self, given: wire::Pollers) -> Pollers {
        let anthropic = given.anthropic.and_then(|one| self.anthropic(one));
        let limits = given.limits.and_then(|limits| {
            let url = self.base(Some(limits.url), "pollers.limits.url", "")?;
            let interval = self.every(&limits.interval_secs, "pollers.limits.interval_secs", 60.0, 5.0);
            Some(Limits { url: format!("{}/v1/limits", url.trim_end_matches("/v1/limits")), interval })
        });
        let aws = given.aws.into_iter().enumerate().map(|(n, one)| self.aws(n, one)).collect();
        let google = given.google.into_iter().enumerate().map(|(n, one)| self.google(n, one)).collect();
        let gateways = given.gateways.into_iter().enumerate().map(|(n, one)| self.gateway(n, one)).collect();
        // Whoever has a fault asks nobody: a default might be another host, or show a key to it.
        let checked = Pollers {
            anthropic: anthropic.filter(|_| !self.broken("pollers.anthropic")),
            limits: limits.filter(|_| !self.broken("pollers.limits")),
            aws: self.whole("pollers.aws", aws),
            google: self.whole("pollers.google", google),
            gateways: self.whole("pollers.gateways", gateways).into_iter().flatten().collect(),
        };
        self.unbuilt(&checked);
        self.told_apart(&checked);
        checked
    }

    /// Those of a list that have no fault.
    fn whole<T>(&self, list: &str, all: Vec<T>) -> Vec<T> {
        let all = all.into_iter().enumerate();
        all.filter(|(n, _)| !self.broken(&format!("{list}[{n}]"))).map(|(_, one)| one).collect()
    }

    /// Sources are told apart by name and region.
    fn told_apart(&mut self, pollers: &Pollers) {
        let aws = pollers.aws.iter().flat_map(|one| {
            one.regions.iter().map(move |region| ("pollers.aws", format!("{}/{region}", one.name)))
        });
        let google = pollers.google.iter().map(|one| ("pollers.google", one.name.clone()));
        let gateways = pollers.gateways.iter().map(|one| ("pollers.gateways", one.name.clone()));
        let mut seen = std::collections::BTreeSet::new();
        for (path, name) in aws.chain(google).chain(gateways) {
            if !seen.insert((path, name.clone())) {
                let message =
                    format!("`{name}` stands there twice; give each entry its own name, each region once");
                self.unplaced(path, message);
            }
        }
    }

    /// A poller that this program was built without.
    fn unbuilt(&mut self, pollers: &Pollers) {
        let missing = [
            ("pollers.aws", !pollers.aws.is_empty() && !cfg!(feature = "aws"), "aws"),
            ("pollers.google", !pollers.google.is_empty() && !cfg!(feature = "google"), "google"),
        ];
        for (path, _, feature) in missing.into_iter().filter(|(_, missing, _)| *missing) {
            let message = format!(
                "this program was built without `{feature}`; take the full image, or build with `--features {feature}`"
            );
            self.unplaced(path, message);
        }
    }

    fn anthropic(&mut self, given: wire::Anthropic) -> Option<Anthropic> {
        const AT: &str = "pollers.anthropic";
        let url = self.base(given.url, &format!("{AT}.url"), ANTHROPIC);
        let given_spend = given.spend_interval_secs.clone();
        let intervals = [
            (given.limits_interval_secs, "limits_interval_secs", 3_600.0),
            (given.usage_interval_secs, "usage_interval_secs", 60.0),
            (given.spend_interval_secs, "spend_interval_secs", 900.0),
        ]
        .map(|(value, name, default)| self.every(&value, &format!("{AT}.{name}"), default, 60.0));
        if let Some(long) = given_spend.filter(|_| intervals[2] > MOST_SPEND) {
            let message = "the fleet's alert on money ends an hour after the last poll; use 1800 or less";
            self.problem(&long, &format!("{AT}.spend_interval_secs"), message);
        }
        let cap =
            given.monthly_spend_usd.and_then(|cap| self.cents(&cap, &format!("{AT}.monthly_spend_usd")));
        let mut caps = BTreeMap::new();
        for (n, workspace) in given.workspaces.into_iter().enumerate() {
            let path = format!("{AT}.workspaces[{n}].monthly_spend_usd");
            let cents = self.cents(&workspace.monthly_spend_usd, &path);
            caps.extend(cents.map(|cents| (workspace.id.into(), cents)));
        }
        let admin_key = self.secret(&given.admin_key, &format!("{AT}.admin_key"))?;
        Some(Anthropic { admin_key, url: url?, cap, caps, intervals })
    }

    fn aws(&mut self, nth: usize, given: wire::Aws) -> Aws {
        let at = format!("pollers.aws[{nth}]");
        self.label_value(&given.name, &format!("{at}.name"));
        let project = &given.project.value;
        if project.len() != 12 || !project.bytes().all(|b| b.is_ascii_digit()) {
            let message = format!("`{project}` is no AWS account id; write its twelve digits in quotes");
            self.problem(&given.project, &format!("{at}.project"), message);
        }
        if given.regions.is_empty() {
            self.problem(
                &given.name,
                &format!("{at}.regions"),
                "no regions; name one or more, quotas are kept for each",
            );
        }
        for (n, region) in given.regions.iter().enumerate() {
            let name = &region.value;
            if name.is_empty()
                || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            {
                let message = format!("`{name}` is no region; write it like `us-east-1`");
                self.problem(region, &format!("{at}.regions[{n}]"), message);
            }
        }
        Aws {
            name: given.name.value,
            project: given.project.value.as_str().into(),
            regions: given.regions.into_iter().map(|region| region.value).collect(),
            endpoint_url: given
                .endpoint_url
                .and_then(|url| self.base(Some(url), &format!("{at}.endpoint_url"), "")),
            limits_interval: self.every(
                &given.limits_interval_secs,
                &format!("{at}.limits_interval_secs"),
                3_600.0,
                60.0,
            ),
            usage_interval: self.perhaps(
                &given.usage_interval_secs,
                &format!("{at}.usage_interval_secs"),
                300.0,
            ),
            monthly_metrics: given.monthly_metrics.map_or(10_000_000, |most| most.value),
            models: given.models,
        }
    }

    fn google(&mut self, nth: usize, given: wire::Google) -> Google {
        let at = format!("pollers.google[{nth}]");
        self.label_value(&given.name, &format!("{at}.name"));
        let project = &given.project.value;
        if project.is_empty() || !project.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:.".contains(&b)) {
            let message = format!("`{project}` is no project id; write it like `my-project-123`");
            self.problem(&given.project, &format!("{at}.project"), message);
        }
        Google {
            name: given.name.value,
            project: given.project.value.as_str().into(),
            endpoint_url: given
                .endpoint_url
                .and_then(|url| self.base(Some(url), &format!("{at}.endpoint_url"), "")),
            limits_interval: self.every(
                &given.limits_interval_secs,
                &format!("{at}.limits_interval_secs"),
                3_600.0,
                60.0,
            ),
            usage_interval: self.perhaps(
                &given.usage_interval_secs,
                &format!("{at}.usage_interval_secs"),
                60.0,
            ),
            monthly_series: given.monthly_series.map_or(20_000_000, |most| most.value),
        }
    }

    fn gateway(&mut self, nth: usize, given: wire::Gateway) -> Option<Gateway> {
        let at = format!("pollers.gateways[{nth}]");
        self.label_value(&given.name, &format!("{at}.name"));
        let known = GatewayKind::ALL.map(GatewayKind::as_str);
        let word = self.word(&given.kind, &format!("{at}.kind"), "gateway", &known);
        let url = self.base(Some(given.url), &format!("{at}.url"), "");
        let admin_url = given.admin_url.and_then(|url| self.base(Some(url), &format!("{at}.admin_url"), ""));
        let key = given.key.as_ref().and_then(|key| self.secret(key, &format!("{at}.key")));
        let kind = GatewayKind::ALL.into_iter().find(|kind| word.as_deref() == Some(kind.as_str()))?;
        let budgets = !given.keys.is_empty() || !given.teams.is_empty();
        let asks = kind == GatewayKind::Openrouter || kind == GatewayKind::Litellm && budgets;
        if asks && given.key.is_none() && !self.lost(&format!("{at}.key")) {
            let message = "its budgets are told only to whoever shows a key; add `key`";
            self.problem(&given.name, &format!("{at}.key"), message);
        }
        if budgets && kind != GatewayKind::Litellm {
            let message = "only LiteLLM has budgets of keys and teams; leave `keys` and `teams` out";
            self.problem(&given.name, &at, message);
        }
        let url = url?;
        Some(Gateway {
            name: given.name.value,
            kind,
            admin_url: admin_url.unwrap_or_else(|| url.clone()),
            url,
            route: given.route.map(|route| route.value),
            key,
            keys: given.keys,
            teams: given.teams,
            interval: self.every(&given.interval_secs, &format!("{at}.interval_secs"), 15.0, 5.0),
        })
    }

    pub(super) fn quotas(&mut self, given: Vec<wire::Quota>) -> Vec<Quota> {
        let mut checked = Vec::new();
        for (n, quota) in given.into_iter().enumerate() {
            let at = format!("quotas[{n}]");
            let clouds = [Surface::Bedrock, Surface::Vertex].map(Surface::as_str);
            let surface = self.word(&quota.surface, &format!("{at}.surface"), "cloud", &clouds);
            let limiters = ["tokens", "requests", "input_tokens", "output_tokens"];
            let limiter = self.word(&quota.limiter, &format!("{at}.limiter"), "limiter", &limiters);
            if quota.per_minute.value == 0 {
                let message = "0 refuses every call; leave the quota out if it is not known";
                self.problem(&quota.per_minute, &format!("{at}.per_minute"), message);
            }
            let (Some(surface), Some(limiter)) = (surface.and_then(|s| Surface::named(&s)), limiter) else {
                continue;
            };
            let account = Account {
                project: Some(quota.project.as_str().into()),
                region: Some(quota.region.as_str().into()),
                ..Account::default()
            };
            let model = pool(surface, &quota.model, &quota.region);
            let limit = Some(Amount::new(quota.per_minute.value));
            let quota = Quota::of(surface, account, model, Limiter::named(&limiter), Window::Minute);
            checked.push(Quota { limit, ..quota });
        }
        checked
    }

    pub(super) fn counting(&mut self, given: wire::Counting) -> LocalRules {
        let share = given.share.as_ref().map(|share| {
            if share.value <= 0.0 || share.value > 1.0 {
                let message = format!("{} is out of range; use a share above 0 and up to 1", share.value);
                self.problem(share, "counting.share", message);
            }
            share.value
        });
        // The longer pattern is the nearer one.
        let mut burndown: Vec<(&String, &u64)> = given.burndown.iter().collect();
        burndown.sort_by_key(|(pool, _)| std::cmp::Reverse(pool.len()));
        let burndown = burndown.into_iter().map(|(pool, factor)| (Pattern::new(pool), *factor)).collect();
        LocalRules { share, burndown, reserve_by_burndown: given.reserve_by_burndown }
    }

    fn base(&mut self, url: Option<Spanned<String>>, path: &str, default: &str) -> Option<String> {
        let Some(url) = url else { return Some(default.to_owned()) };
        let url = self.url(&url, path, &["http", "https"])?;
        Some(url.to_string().trim_end_matches('/').to_owned())
    }

    fn every(&mut self, value: &Option<Spanned<f64>>, path: &str, default: f64, least: f64) -> Duration {
        let Some(value) = value else { return Duration::from_secs_f64(default) };
        if !(least..=86_400.0).contains(&value.value) {
            let message = format!("{} is out of range; use {least} to 86400 seconds", value.value);
            self.problem(value, path, message);
            return HOUR;
        }
        Duration::from_secs_f64(value.value)
    }

    fn perhaps(&mut self, value: &Option<Spanned<f64>>, path: &str, default: f64) -> Option<Duration> {
        let off = value.as_ref().is_some_and(|value| value.value == 0.0);
        (!off).then(|| self.every(value, path, default, 60.0))
    }

    fn cents(&mut self, dollars: &Spanned<f64>, path: &str) -> Option<Amount> {
        if !(0.01..=1e9).contains(&dollars.value) {
            let message = format!("{} is no cap in US dollars; use 0.01 or more", dollars.value);
            self.problem(dollars, path, message);
            return None;
        }
        Some(Amount::new((dollars.value * 100.0).round() as u64))
    }
}

/// The pool of a configured model.
fn pool(surface: Surface, model: &str, region: &str) -> ModelGroup {
    match surface {
        // A pool's own name is as good as a model's id.
        Surface::Bedrock if ["mantle.", "cross-region."].iter().any(|scope| model.starts_with(scope)) => {
            ModelGroup::named(model)
        }
        Surface::Bedrock => bedrock::pool(model, false),
        _ => vertex::pool(model, region),
    }
}
