//! What the user may write of quota APIs, of limits that are known, and of counting.

use super::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;

/// Quota APIs that are asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Pollers {
    /// Anthropic's Admin API.
    pub(in crate::config) anthropic: Option<Anthropic>,
    /// AWS accounts whose Bedrock quotas are asked for.
    pub(in crate::config) aws: Vec<Aws>,
    /// Google Cloud projects whose Vertex AI quotas are asked for.
    pub(in crate::config) google: Vec<Google>,
    /// Gateways whose counters and budgets are looked at.
    pub(in crate::config) gateways: Vec<Gateway>,
    /// A poller of ours, which others read so that a hundred sidecars cost no calls.
    pub(in crate::config) limits: Option<Limits>,
}

/// Anthropic's Admin API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Anthropic {
    /// An Admin API key (`sk-ant-admin…`).
    pub(in crate::config) admin_key: Secret,
    /// Another address than `https://api.anthropic.com`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) url: Option<Spanned<String>>,
    /// Cap of the organisation's month, in US dollars. The API tells of it only to organisations with early access.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) monthly_spend_usd: Option<Spanned<f64>>,
    /// Caps of single workspaces.
    #[serde(default)]
    pub(in crate::config) workspaces: Vec<WorkspaceCap>,
    /// How often limits and names are asked for; 3600 by default.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) limits_interval_secs: Option<Spanned<f64>>,
    /// How often usage is asked for; 60 by default, and no less.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) usage_interval_secs: Option<Spanned<f64>>,
    /// How often the month's cost is asked for; 900 by default.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) spend_interval_secs: Option<Spanned<f64>>,
}

/// The cap of a workspace's month.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WorkspaceCap {
    /// The workspace's id (`wrkspc_…`).
    pub(in crate::config) id: String,
    /// Its cap, in US dollars.
    #[schemars(with = "f64")]
    pub(in crate::config) monthly_spend_usd: Spanned<f64>,
}

/// A gateway that is asked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Gateway {
    /// A name for it, as it stands in metrics.
    #[schemars(with = "String")]
    pub(in crate::config) name: Spanned<String>,
    /// Which program: `litellm`, `kong`, `agentgateway` or `openrouter`.
    #[schemars(with = "String")]
    pub(in crate::config) kind: Spanned<String>,
    /// Its base address; `/metrics` is added. OpenRouter's is `https://openrouter.ai`.
    #[schemars(with = "String")]
    pub(in crate::config) url: Spanned<String>,
    /// The route of its calls; otherwise `sources.routes` tell.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) route: Option<Spanned<String>>,
    /// Its key: LiteLLM's admin API and OpenRouter ask for one.
    #[serde(default)]
    pub(in crate::config) key: Option<Secret>,
    /// LiteLLM's admin API, where it has another address than `url`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) admin_url: Option<Spanned<String>>,
    /// Keys of LiteLLM, by alias, whose budgets are asked for.
    #[serde(default)]
    pub(in crate::config) keys: Vec<String>,
    /// Teams of LiteLLM, by id, whose budgets are asked for.
    #[serde(default)]
    pub(in crate::config) teams: Vec<String>,
    /// How often it is asked; 15 by default.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) interval_secs: Option<Spanned<f64>>,
}

/// One AWS account. Credentials come from the usual chain: environment, web identity (IRSA), Pod Identity, instance.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Aws {
    /// A name for it, as it stands in metrics.
    #[schemars(with = "String")]
    pub(in crate::config) name: Spanned<String>,
    /// The account id; the credentials must belong to it.
    #[schemars(with = "String")]
    pub(in crate::config) project: Spanned<String>,
    /// Its regions.
    #[schemars(with = "Vec<String>")]
    pub(in crate::config) regions: Vec<Spanned<String>>,
    /// Another address for all of AWS (a VPC endpoint, a test).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) endpoint_url: Option<Spanned<String>>,
    /// How often quotas are asked for; 3600 by default.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) limits_interval_secs: Option<Spanned<f64>>,
    /// How often CloudWatch is asked for usage, which it bills; 300 by default. 0 leaves it out.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) usage_interval_secs: Option<Spanned<f64>>,
    /// Most metrics of CloudWatch in a month; then usage rests until the next. 10,000,000 by default (100 dollars).
    #[serde(default)]
    #[schemars(with = "Option<u64>")]
    pub(in crate::config) monthly_metrics: Option<Spanned<u64>>,
    /// Models whose quota's name does not tell: the name behind `for` → the model's id.
    #[serde(default)]
    pub(in crate::config) models: BTreeMap<String, String>,
}

/// One Google Cloud project. Credentials are the application default ones (metadata server, workload identity, file).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Google {
    /// A name for it, as it stands in metrics.
    #[schemars(with = "String")]
    pub(in crate::config) name: Spanned<String>,
    /// The project's id.
    #[schemars(with = "String")]
    pub(in crate::config) project: Spanned<String>,
    /// Another address for Google's APIs; then without credentials (a test).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) endpoint_url: Option<Spanned<String>>,
    /// How often quotas are asked for; 3600 by default.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) limits_interval_secs: Option<Spanned<f64>>,
    /// How often Cloud Monitoring is asked for usage, which it bills; 60 by default. 0 leaves it out.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) usage_interval_secs: Option<Spanned<f64>>,
    /// Most series of Cloud Monitoring in a month; then usage rests until the next. 20,000,000 by default (10 dollars).
    #[serde(default)]
    #[schemars(with = "Option<u64>")]
    pub(in crate::config) monthly_series: Option<Spanned<u64>>,
}

/// A poller of ours.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Limits {
    /// Its address (`http://plimsoll-poller:9429`).
    #[schemars(with = "String")]
    pub(in crate::config) url: Spanned<String>,
    /// How often it is asked; 60 by default. An unchanged answer costs a line.
    #[serde(default)]
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) interval_secs: Option<Spanned<f64>>,
}

/// A limit that you know.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Quota {
    /// `bedrock` or `vertex`.
    #[schemars(with = "String")]
    pub(in crate::config) surface: Spanned<String>,
    /// AWS account id or Google Cloud project.
    pub(in crate::config) project: String,
    /// Region or location.
    pub(in crate::config) region: String,
    /// The model as calls name it (`us.anthropic.claude-sonnet-4-6`, `claude-opus-4-8`).
    pub(in crate::config) model: String,
    /// `tokens`, `requests`, `input_tokens` or `output_tokens`.
    #[schemars(with = "String")]
    pub(in crate::config) limiter: Spanned<String>,
    /// The most in a minute.
    #[schemars(with = "u64")]
    pub(in crate::config) per_minute: Spanned<u64>,
}

/// How calls to Bedrock and Vertex AI are counted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Counting {
    /// The part of each quota that this process may take (0 to 1). With it own counts alert directly; without it
    /// they are one pod's share of something larger, and only the fleet's rules, which add them up, alert.
    #[schemars(with = "Option<f64>")]
    pub(in crate::config) share: Option<Spanned<f64>>,
    /// What an output token costs of a Bedrock quota: pool (`*` for any run of characters) → factor. Before the
    /// built-in table.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub(in crate::config) burndown: BTreeMap<String, u64>,
    /// Set aside `max_tokens` times the burndown when a call starts. AWS's own texts say it is not multiplied.
    pub(in crate::config) reserve_by_burndown: bool,
}
