//! What the user may write of sources outside of the traffic's path.

use super::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;

/// Sources outside of the traffic's path: they read what others see. All are off until they are configured;
/// `POST /v1/observations` on the admin port is always there.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Sources {
    /// Which calls belong to which route. The first match wins; a call to the upstream of one of the `listeners`' routes is
    /// that route's, and any other bears the name of its source.
    pub(in crate::config) routes: Vec<Route>,
    /// Envoy's gRPC access log service.
    pub(in crate::config) envoy_als: Option<Port>,
    /// Spans, logs and metrics by OTLP.
    pub(in crate::config) otlp: Option<Otlp>,
    /// Logs that are followed.
    pub(in crate::config) tails: Vec<Tail>,
    /// Directory in which it is kept how far each log was read; the top-level `state_dir` by default. Without either a log
    /// is followed from its end at each start.
    pub(in crate::config) state_dir: Option<String>,
}

/// A route for calls that are seen elsewhere. It may bear the name of a route of the `listeners`: then both are one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Route {
    /// Name, as it stands in metrics.
    #[schemars(with = "String")]
    pub(in crate::config) name: Spanned<String>,
    /// What it is matched by; all that is given must match.
    #[serde(default)]
    pub(in crate::config) r#match: RouteMatch,
    /// How its traffic reaches a model, where that cannot be seen from what is told.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) surface: Option<Spanned<String>>,
    /// Region, where it splits the pool.
    #[serde(default)]
    pub(in crate::config) region: Option<String>,
    /// AWS account id or Google Cloud project that its calls are charged to.
    #[serde(default)]
    pub(in crate::config) project: Option<String>,
    /// Model of its calls, where a log does not name one (it stands in the body, which access logs do not see).
    #[serde(default)]
    pub(in crate::config) model: Option<String>,
}

/// What a call is matched by. `*` stands for any run of characters.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RouteMatch {
    /// Hosts that are called, without a port.
    pub(in crate::config) hosts: Vec<String>,
    /// Paths.
    pub(in crate::config) paths: Vec<String>,
    /// Envoy's clusters and OpenTelemetry's `service.name`.
    pub(in crate::config) services: Vec<String>,
    /// Sources: `envoy_als`, `otlp`, `report`, or the name of a tail.
    pub(in crate::config) sources: Vec<String>,
}

/// A port that others send to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Port {
    /// Address and port to listen on (`127.0.0.1:9431` by convention).
    #[schemars(with = "String")]
    pub(in crate::config) bind: Spanned<String>,
    /// Needed where the address is not a loopback one: then whoever reaches the port can tell of calls.
    #[serde(default)]
    pub(in crate::config) any_sender: bool,
}

/// Receiving OTLP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct Otlp {
    /// Address and port for gRPC (`127.0.0.1:4317` where neither port is named; none where only the other is).
    #[schemars(with = "Option<String>")]
    pub(in crate::config) grpc: Option<Spanned<String>>,
    /// Address and port for HTTP, protobuf and JSON (`127.0.0.1:4318`, in the same way).
    #[schemars(with = "Option<String>")]
    pub(in crate::config) http: Option<Spanned<String>>,
    /// Bearer token that senders must show (`OTEL_EXPORTER_OTLP_HEADERS`).
    pub(in crate::config) token: Option<Secret>,
    /// Needed where an address is not a loopback one and there is no token.
    pub(in crate::config) any_sender: bool,
    /// Where everything that is received is sent on, unchanged.
    pub(in crate::config) forward: Option<Forward>,
}

/// A collector that gets everything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Forward {
    /// Base address of its OTLP/HTTP port; `/v1/traces` and the like are added.
    #[schemars(with = "String")]
    pub(in crate::config) endpoint: Spanned<String>,
    /// Headers that are sent along, each from the environment or a file.
    #[serde(default)]
    pub(in crate::config) headers: BTreeMap<String, Secret>,
    /// Most that waits for it, in MB; 32 by default. What no longer fits is dropped and counted.
    #[serde(default)]
    #[schemars(with = "Option<u64>")]
    pub(in crate::config) max_mb: Option<Spanned<u64>>,
}

/// A log of JSON lines that is followed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Tail {
    /// The file; `-` is standard input.
    #[schemars(with = "String")]
    pub(in crate::config) path: Spanned<String>,
    /// Name, as it stands in metrics; the preset's by default.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) name: Option<Spanned<String>>,
    /// How its lines are read: `report` (the default: the shape of `POST /v1/observations`), `envoy`, `nginx`, `haproxy`,
    /// `litellm` or `claude_stream`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) preset: Option<Spanned<String>>,
    /// The route of all its calls; otherwise `sources.routes` tell.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) route: Option<Spanned<String>>,
    /// Where fields stand in your lines, by a dotted path (`status: http.response.status`). Added to the preset's.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(in crate::config) fields: BTreeMap<String, Spanned<String>>,
    /// Where single response headers stand, where they are not in one object (`retry-after: resp.retry`).
    #[serde(default)]
    pub(in crate::config) header_fields: BTreeMap<String, String>,
    /// Where a log that was never read is begun: at its `end` (the default) or at its `start`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(in crate::config) from: Option<Spanned<String>>,
}
