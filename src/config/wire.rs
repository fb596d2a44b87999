//! What the user may write: serde structures only, every unknown key refused.
//!
//! Names say their unit. Every field has a doc comment, because the reference is made from them.

#[path = "wire_pollers.rs"]
pub(super) mod pollers;
#[path = "wire_sources.rs"]
pub(super) mod sources;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;

/// The configuration file. Everything is optional: an empty file is the default configuration.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// Directory for what outlives the process: the last good configuration, for a start with a broken one, and how far
    /// each log was read. Only its owner needs to reach it.
    #[schemars(with = "Option<String>")]
    pub(super) state_dir: Option<Spanned<String>>,
    /// Address under which people reach this sidecar's runbooks; used in alerts.
    #[schemars(with = "Option<String>")]
    pub(super) external_url: Option<Spanned<String>>,
    /// Where traffic comes in, and where it goes.
    #[schemars(with = "Option<Vec<Listener>>")]
    pub(super) listeners: Option<Spanned<Vec<Listener>>>,
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
    /// The evidence packet of an incident.
    pub(super) evidence: Evidence,
    /// `/metrics`, health and runbooks.
    pub(super) metrics: Metrics,
    /// The admin port: reload. Other addresses than loopback need a token.
    pub(super) admin: Admin,
    /// Export by OTLP.
    pub(super) otlp: Otlp,
    /// Bounds of what is kept in memory.
    pub(super) limits: Limits,
    /// Most memory of the process, with its unit (`256MiB`, `1GiB`). Default: the limit of its cgroup, which is the
    /// container's, else 1 GiB. Near it bodies are held back first, then new requests get 503.
    #[schemars(with = "Option<String>")]
    pub(super) memory_limit: Option<Spanned<String>>,
    /// Sources outside of the traffic's path. With any of them `listeners` may be empty.
    pub(super) sources: sources::Sources,
    /// Quota APIs that are asked. With pollers `listeners` may be empty: then this process only polls, and
    /// others read its `/v1/limits`.
    pub(super) pollers: pollers::Pollers,
    /// Limits of clouds that you know and nothing is to be asked for.
    pub(super) quotas: Vec<pollers::Quota>,
    /// How calls to Bedrock and Vertex AI are counted here, since no header tells what is left.
    pub(super) counting: pollers::Counting,
}

/// A route by its name, with its place in the file.
type PutOn = (String, Option<Spanned<String>>);

impl File {
    /// The routes that tails and gateways are put on.
    pub(super) fn put_on(&self) -> Vec<PutOn> {
        let tails = self.sources.tails.iter().map(|tail| tail.route.clone()).enumerate();
        let tails = tails.map(|(n, route)| (format!("sources.tails[{n}].route"), route));
        let gateways = self.pollers.gateways.iter().map(|gateway| gateway.route.clone()).enumerate();
        let gateways = gateways.map(|(n, route)| (format!("pollers.gateways[{n}].route"), route));
        tails.chain(gateways).collect()
    }
}

/// One listening address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = needs_routes)]
pub(super) struct Listener {
    /// Address and port to listen on.
    #[schemars(with = "String")]
    pub(super) bind: Spanned<String>,
    /// Its routes; the longest matching prefix wins.
    #[serde(default)]
    pub(super) routes: Vec<Route>,
    /// Serve TLS. Clients then may speak HTTP/2 too; without TLS they may with prior knowledge.
    #[serde(default)]
    pub(super) tls: Option<ServerTls>,
}

/// Without routes a listener is wrong. It is read all the same, so that what is right of it can still be told.
fn needs_routes(schema: &mut schemars::Schema) {
    if let Some(required) = schema.get_mut("required").and_then(|required| required.as_array_mut()) {
        required.push("routes".into());
    }
}

/// TLS of a listener. The files are read at start and at each reload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTls {
    /// PEM file with the certificate and its chain.
    #[schemars(with = "String")]
    pub(super) cert_file: Spanned<String>,
    /// PEM file with the private key.
    #[schemars(with = "String")]
    pub(super) key_file: Spanned<String>,
    /// PEM file with the authorities whose client certificates are demanded.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) client_ca_file: Option<Spanned<String>>,
}

/// One path of traffic.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    /// Name, as it stands in metrics.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// Path prefix that selects this route.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) prefix: Option<Spanned<String>>,
    /// Remove the prefix before forwarding.
    #[serde(default)]
    pub(super) strip_prefix: bool,
    /// Where its requests go: `http://` or `https://`, a host, and perhaps a base path.
    #[schemars(with = "String")]
    pub(super) upstream: Spanned<String>,
    /// How its traffic reaches a model, where that cannot be seen from the traffic.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) surface: Option<Spanned<String>>,
    /// Region, where it splits the pool. A cloud's own host, path or signature names it by itself.
    #[serde(default)]
    pub(super) region: Option<String>,
    /// AWS account id or Google Cloud project that its calls are charged to. Vertex AI's path names it by
    /// itself; Bedrock's calls do not, and without it their count has no limit to be held against.
    #[serde(default)]
    pub(super) project: Option<String>,
    /// PEM file with further certificate authorities to trust for this upstream.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) ca_file: Option<Spanned<String>>,
    /// PEM file with a certificate and its key, to show to this upstream.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) client_cert_file: Option<Spanned<String>>,
    /// Speak HTTP/2 to this upstream. Further connections are opened at its stream limit.
    #[serde(default)]
    pub(super) http2: bool,
    /// Forward paths that the provider's own host certainly answers with 404 as they were meant: `/messages` as
    /// `/v1/messages`, `/v1/v1/…` as `/v1/…`. Only where the upstream's host is `api.anthropic.com` or
    /// `api.openai.com`; `false` turns it off.
    #[serde(default = "yes")]
    pub(super) repair_paths: bool,
    /// What becomes of a WebSocket: `tunnel` (by default) passes it unmeasured; `refuse` answers 426, upon which
    /// clients such as Codex go on by requests that can be measured.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) websocket: Option<Spanned<String>>,
    /// Sign requests to AWS anew, with this sidecar's own credentials: a caller's signature covers the host, which
    /// the hop changes. Whoever reaches the listener then calls AWS as the sidecar.
    #[serde(default)]
    pub(super) resign: Option<Resign>,
}

const fn yes() -> bool {
    true
}

/// How requests to AWS are signed anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resign {
    /// The region that is signed for.
    #[schemars(with = "String")]
    pub(super) region: Spanned<String>,
    /// The service that is signed for: `bedrock` by default, `bedrock-mantle` for that endpoint.
    #[serde(default)]
    pub(super) service: Option<String>,
    /// Needed where the listener is reached by others than this machine's own processes, and shows no client
    /// certificate: then all of them call AWS as the sidecar.
    #[serde(default)]
    pub(super) any_caller: bool,
}

/// One owner of limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Owner {
    /// Name, as it stands in metrics and alerts.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// Kind or kinds of limits it holds; any, if absent.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) kinds: Vec<Spanned<String>>,
    /// What it is matched by; all that is given must match.
    #[serde(default)]
    pub(super) r#match: OwnerMatch,
    /// Its runbook.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) runbook_url: Option<Spanned<String>>,
    /// Its dashboard.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) dashboard_url: Option<Spanned<String>>,
    /// Whom to call.
    #[serde(default)]
    pub(super) contact: Option<String>,
    /// How early and how carefully it wants to be warned; what is absent is as under `alerts`.
    #[serde(default)]
    pub(super) foresight: Option<Foresight>,
}

/// What an owner is matched by. `*` stands for any run of characters.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OwnerMatch {
    /// Anthropic organisation ids.
    pub(super) organizations: Vec<String>,
    /// Anthropic workspace ids, or their names, where `pollers.anthropic` or another poller's limits tell them.
    pub(super) workspaces: Vec<String>,
    /// AWS account ids and Google Cloud projects.
    pub(super) projects: Vec<String>,
    /// Regions and locations of clouds.
    pub(super) regions: Vec<String>,
    /// Route names.
    pub(super) routes: Vec<String>,
}

/// A name for one credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    /// The name.
    #[schemars(with = "String")]
    pub(super) alias: Spanned<String>,
    /// The credential itself, from the environment or a file.
    pub(super) secret: Secret,
}

/// Where a secret is read from. A secret never stands in the file itself.
#[derive(Debug, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Secret {
    /// Name of an environment variable.
    #[schemars(with = "Option<String>")]
    pub(super) env: Option<Spanned<String>>,
    /// Path of a file; a trailing newline is dropped.
    #[schemars(with = "Option<String>")]
    pub(super) file: Option<Spanned<String>>,
}

const ELSEWHERE: &str =
    "a secret never stands in this file; say where it is: `{env: NAME}` or `{file: PATH}`";

/// Whoever writes the secret itself here is told where it belongs, and does not read it again in the error.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Place {
            #[serde(default)]
            env: Option<Spanned<String>>,
            #[serde(default)]
            file: Option<Spanned<String>>,
        }

        struct Places;

        impl<'de> Visitor<'de> for Places {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`{env: NAME}` or `{file: PATH}`")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Secret, A::Error> {
                let Place { env, file } = Place::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Secret { env, file })
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Secret, E> {
                Err(E::custom(ELSEWHERE))
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(ELSEWHERE))
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(ELSEWHERE))
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(ELSEWHERE))
            }
        }

        deserializer.deserialize_any(Places)
    }
}

/// When alerts begin and end, and where they go.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Alerts {
    /// Alertmanagers; alerts are posted to each, and to every address of its name.
    pub(super) alertmanagers: Vec<Alertmanager>,
    /// Name of the label that carries the owner; the kind's is this and `_kind`.
    #[schemars(with = "Option<String>")]
    pub(super) owner_label: Option<Spanned<String>>,
    /// Labels added to every alert, to equal Prometheus' `external_labels`.
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) labels: BTreeMap<String, Spanned<String>>,
    /// How long an alert stays up after its last post.
    #[schemars(with = "Option<f64>")]
    pub(super) hold_secs: Option<Spanned<f64>>,
    /// How early and how carefully minute buckets warn; an owner may have its own.
    pub(super) foresight: Foresight,
    /// Used part of a window longer than a minute at which pressure begins (0 to 1).
    #[schemars(with = "Option<f64>")]
    pub(super) pressure_utilization: Option<Spanned<f64>>,
    /// Time to empty of such a window at which pressure begins.
    #[schemars(with = "Option<f64>")]
    pub(super) pressure_horizon_secs: Option<Spanned<f64>>,
    /// Used part of such a window at which exhaustion begins (0 to 1).
    #[schemars(with = "Option<f64>")]
    pub(super) exhausting_utilization: Option<Spanned<f64>>,
    /// Time to empty of such a window at which exhaustion begins.
    #[schemars(with = "Option<f64>")]
    pub(super) exhausting_horizon_secs: Option<Spanned<f64>>,
}

/// The two knobs of foresight.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Foresight {
    /// How far ahead a warning looks, in seconds (5 to 120; 35 by default). More is earlier and less sure.
    #[schemars(with = "Option<f64>")]
    pub(super) horizon_secs: Option<Spanned<f64>>,
    /// How much noise is taken off the expected draw, in standard deviations (0 to 4; 1.25 by default).
    /// More is surer and later.
    #[schemars(with = "Option<f64>")]
    pub(super) caution: Option<Spanned<f64>>,
}

/// One Alertmanager.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Alertmanager {
    /// Its base address. Where the name has several addresses (a headless Service), each is posted to, and the name is looked up
    /// again while there are alerts.
    #[schemars(with = "String")]
    pub(super) url: Spanned<String>,
    /// Bearer token.
    #[serde(default)]
    pub(super) bearer_token: Option<Secret>,
    /// PEM file with further certificate authorities to trust.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(super) ca_file: Option<Spanned<String>>,
}

/// The evidence packet of an incident.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Evidence {
    /// Ids of organisations, workspaces and projects in packets: `keep` (support asks for them) or
    /// `hash` (with `fingerprint_key`).
    #[schemars(with = "Option<String>")]
    pub(super) ids: Option<Spanned<String>>,
    /// Summary of the provider's public status page (`https://…/api/v2/summary.json`). Off without one;
    /// read while an incident is open only.
    #[schemars(with = "Option<String>")]
    pub(super) status_page: Option<Spanned<String>>,
    /// How often the status page is read while an incident is open; at least 60.
    #[schemars(with = "Option<f64>")]
    pub(super) status_interval_secs: Option<Spanned<f64>>,
    /// File that holds what `claude auth status` printed; it is shown in packets, scrubbed.
    pub(super) claude_status_file: Option<String>,
}

/// `/metrics`, health and runbooks.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    /// Address and port to listen on.
    #[schemars(with = "Option<String>")]
    pub(super) bind: Option<Spanned<String>>,
}

/// The admin port.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Admin {
    /// Address and port to listen on.
    #[schemars(with = "Option<String>")]
    pub(super) bind: Option<Spanned<String>>,
    /// Bearer token that callers must show.
    pub(super) token: Option<Secret>,
    /// Further `host` names under which the port may be called (against DNS rebinding).
    pub(super) allowed_hosts: Vec<String>,
}

/// Export by OTLP. What is absent here is taken from the `OTEL_*` variables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Otlp {
    /// The collector's address. No export without one (here or in the environment).
    #[schemars(with = "Option<String>")]
    pub(super) endpoint: Option<Spanned<String>>,
    /// `grpc` or `http/protobuf`.
    #[schemars(with = "Option<String>")]
    pub(super) protocol: Option<Spanned<String>>,
    /// `gzip` or `none`.
    #[schemars(with = "Option<String>")]
    pub(super) compression: Option<Spanned<String>>,
    /// OpenTelemetry's GenAI metrics beside our own: `off`, `legacy`, `latest` or `both`.
    #[schemars(with = "Option<String>")]
    pub(super) semconv: Option<Spanned<String>>,
    /// How often metrics are pushed.
    #[schemars(with = "Option<f64>")]
    pub(super) interval_secs: Option<Spanned<f64>>,
    /// Share of successful calls that leave a span (0 to 1). Failures always do.
    #[schemars(with = "Option<f64>")]
    pub(super) span_ratio: Option<Spanned<f64>>,
}

/// Bounds of what is kept in memory.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Most buckets.
    #[schemars(with = "Option<usize>")]
    pub(super) buckets: Option<Spanned<usize>>,
    /// Most rows of totals.
    #[schemars(with = "Option<usize>")]
    pub(super) totals: Option<Spanned<usize>>,
}
