//! What the user may write: serde structures only, every unknown key refused.
//!
//! Names say their unit. Every field has a doc comment, because the reference is made from them.

use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;

/// The configuration file. Everything is optional: an empty file is the default configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// Address under which people reach this sidecar's runbooks; used in alerts.
    pub(super) external_url: Option<Spanned<String>>,
    /// Where traffic comes in, and where it goes.
    pub(super) listeners: Option<Vec<Listener>>,
    /// Who holds which limits, and whom to call. The first match wins.
    pub(super) owners: Vec<Owner>,
    /// Names for credentials, so that incidents can say which one without showing it.
    pub(super) credentials: Vec<Credential>,
    /// Key of the credential hash in incidents; the same on every sidecar of a fleet.
    pub(super) fingerprint_key: Option<Secret>,
    /// Models that share one pool of the provider.
    pub(super) model_groups: BTreeMap<String, Vec<String>>,
    /// When alerts begin and end, and where they go.
    pub(super) alerts: Alerts,
    /// `/metrics`, health and runbooks.
    pub(super) metrics: Metrics,
    /// Export by OTLP.
    pub(super) otlp: Otlp,
    /// Bounds of what is kept in memory.
    pub(super) limits: Limits,
}

/// One listening address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    /// Address and port to listen on.
    pub(super) bind: Spanned<String>,
    /// Its routes; the longest matching prefix wins.
    pub(super) routes: Vec<Route>,
}

/// One path of traffic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Name, as it stands in metrics.
    pub(super) name: Spanned<String>,
    /// Path prefix that selects this route.
    #[serde(default)]
    pub(super) prefix: Option<Spanned<String>>,
    /// Remove the prefix before forwarding.
    #[serde(default)]
    pub(super) strip_prefix: bool,
    /// Where its requests go: `http://` or `https://`, a host, and perhaps a base path.
    pub(super) upstream: Spanned<String>,
    /// How its traffic reaches a model, where that cannot be seen from the traffic.
    #[serde(default)]
    pub(super) surface: Option<Spanned<String>>,
    /// Region, where it splits the pool.
    #[serde(default)]
    pub(super) region: Option<String>,
    /// PEM file with further certificate authorities to trust for this upstream.
    #[serde(default)]
    pub(super) ca_file: Option<Spanned<String>>,
}

/// One owner of limits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owner {
    /// Name, as it stands in metrics and alerts.
    pub(super) name: Spanned<String>,
    /// Kind or kinds of limits it holds; any, if absent.
    #[serde(default)]
    pub(super) kinds: Vec<Spanned<String>>,
    /// What it is matched by; all that is given must match.
    #[serde(default)]
    pub(super) r#match: OwnerMatch,
    /// Its runbook.
    #[serde(default)]
    pub(super) runbook_url: Option<Spanned<String>>,
    /// Its dashboard.
    #[serde(default)]
    pub(super) dashboard_url: Option<Spanned<String>>,
    /// Whom to call.
    #[serde(default)]
    pub(super) contact: Option<String>,
}

/// What an owner is matched by. `*` stands for any run of characters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OwnerMatch {
    /// Anthropic organisation ids.
    pub(super) organizations: Vec<String>,
    /// Anthropic workspace ids.
    pub(super) workspaces: Vec<String>,
    /// Route names.
    pub(super) routes: Vec<String>,
}

/// A name for one credential.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    /// The name.
    pub(super) alias: Spanned<String>,
    /// The credential itself, from the environment or a file.
    pub(super) secret: Secret,
}

/// Where a secret is read from. A secret never stands in the file itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret {
    /// Name of an environment variable.
    #[serde(default)]
    pub(super) env: Option<Spanned<String>>,
    /// Path of a file; a trailing newline is dropped.
    #[serde(default)]
    pub(super) file: Option<Spanned<String>>,
}

/// When alerts begin and end, and where they go.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Alerts {
    /// Every Alertmanager replica; alerts are posted to each.
    pub(super) alertmanagers: Vec<Alertmanager>,
    /// Name of the label that carries the owner; the kind's is this and `_kind`.
    pub(super) owner_label: Option<Spanned<String>>,
    /// Labels added to every alert, to equal Prometheus' `external_labels`.
    pub(super) labels: BTreeMap<String, String>,
    /// How long an alert stays up after its last post.
    pub(super) hold_secs: Option<Spanned<f64>>,
    /// Used part of a bucket at which pressure begins (0 to 1).
    pub(super) pressure_utilization: Option<Spanned<f64>>,
    /// Time to empty at which pressure begins.
    pub(super) pressure_horizon_secs: Option<Spanned<f64>>,
    /// Used part of a bucket at which exhaustion begins (0 to 1).
    pub(super) exhausting_utilization: Option<Spanned<f64>>,
    /// Time to empty at which exhaustion begins.
    pub(super) exhausting_horizon_secs: Option<Spanned<f64>>,
}

/// One Alertmanager.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alertmanager {
    /// Its base address.
    pub(super) url: Spanned<String>,
    /// Bearer token.
    #[serde(default)]
    pub(super) bearer_token: Option<Secret>,
    /// PEM file with further certificate authorities to trust.
    #[serde(default)]
    pub(super) ca_file: Option<Spanned<String>>,
}

/// `/metrics`, health and runbooks.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    /// Address and port to listen on.
    pub(super) bind: Option<Spanned<String>>,
}

/// Export by OTLP. What is absent here is taken from the `OTEL_*` variables.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Otlp {
    /// The collector's gRPC address. No export without one (here or in the environment).
    pub(super) endpoint: Option<Spanned<String>>,
    /// How often metrics are pushed.
    pub(super) interval_secs: Option<Spanned<f64>>,
    /// Share of successful calls that leave a span (0 to 1). Failures always do.
    pub(super) span_ratio: Option<Spanned<f64>>,
}

/// Bounds of what is kept in memory.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Most buckets.
    pub(super) buckets: Option<Spanned<usize>>,
    /// Most rows of totals.
    pub(super) totals: Option<Spanned<usize>>,
}
