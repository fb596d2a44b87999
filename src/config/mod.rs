//! From a file to a checked configuration. Every problem names its place and the fix.

mod changes;
mod check;
mod lenient;
mod own;
mod partial;
pub mod pollers;
mod problem;
mod secret;
pub mod sources;
mod wire;

pub(crate) use check::is_owner_label;
pub use problem::{Invalid, Problem};
pub use secret::Secret;

use crate::engine::{BookLimits, LocalRules, Thresholds};
use crate::observation::Quota;
use crate::owner::Owners;
use crate::route::{ModelGroups, RouteName, Surface};
use http::Uri;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the last good configuration is kept, and what else outlives the process.
    pub state_dir: Option<PathBuf>,
    /// Address under which people reach this sidecar.
    pub external_url: Option<String>,
    /// Where traffic comes in.
    pub listeners: Vec<Listener>,
    /// Who holds which limits.
    pub owners: Arc<Owners>,
    /// Named credentials.
    pub credentials: Vec<(Arc<str>, Secret)>,
    /// Key of the credential hash; a random one where none is configured.
    pub fingerprint_key: Option<Secret>,
    /// Models that share a pool.
    pub model_groups: ModelGroups,
    /// When alerts begin and end.
    pub thresholds: Thresholds,
    /// Where alerts go.
    pub alerts: Alerts,
    /// The evidence packet.
    pub evidence: Evidence,
    /// Address of `/metrics`.
    pub metrics: SocketAddr,
    /// The admin port.
    pub admin: Admin,
    /// It does not open: what guards it could not be read.
    pub admin_closed: bool,
    /// Export by OTLP.
    pub otlp: Otlp,
    /// Bounds of the book.
    pub book: BookLimits,
    /// Most rows of totals.
    pub max_totals: usize,
    /// Most memory of the process, in bytes; that of its cgroup where absent.
    pub memory_limit: Option<u64>,
    /// Sources outside of the path.
    pub sources: sources::Sources,
    /// Quota APIs that are asked.
    pub pollers: pollers::Pollers,
    /// Limits that were configured.
    pub quotas: Vec<Quota>,
    /// How calls to clouds are counted.
    pub counting: LocalRules,
    /// What is wrong with the file; this then is what of it is whole, or the one before it.
    pub unread: Vec<Problem>,
    /// The file as it was written.
    pub text: Arc<str>,
}

/// One listening address with its routes, longest prefix first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub bind: SocketAddr,
    /// Its routes.
    pub routes: Vec<Route>,
    /// TLS, where it serves that.
    pub tls: Option<ServerTls>,
    /// Paths whose route cannot be used, the longest prefix first. A working configuration has none.
    pub closed: Vec<Closed>,
}

/// Paths that are answered only that their route cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Their prefix, as a route's; every path of the listener where it is not known.
    pub prefix: Option<String>,
    /// What their callers are told.
    pub why: Arc<str>,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate and chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
    /// Authorities whose client certificates are demanded.
    pub client_ca_file: Option<PathBuf>,
}

/// One path of traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Name.
    pub name: RouteName,
    /// Path prefix, without a slash at its end; empty for all paths.
    pub prefix: String,
    /// Remove the prefix before forwarding.
    pub strip_prefix: bool,
    /// Scheme, authority and base path.
    pub upstream: Uri,
    /// Scheme, host and port of the upstream, as incidents name it.
    pub origin: Arc<str>,
    /// Configured surface; told from the traffic where absent.
    pub surface: Option<Surface>,
    /// Region.
    pub region: Option<Arc<str>>,
    /// AWS account or Google Cloud project that its calls are charged to.
    pub project: Option<Arc<str>>,
    /// Further certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// A certificate and its key, to show to the upstream.
    pub client_cert_file: Option<PathBuf>,
    /// Speak HTTP/2 to the upstream.
    pub http2: bool,
    /// The provider whose paths are repaired; absent where the upstream is not its own host, or it is turned off.
    pub repair: Option<ProviderHost>,
    /// Answer an upgrade to a WebSocket with 426, so that its client goes on by requests.
    pub refuse_websocket: bool,
    /// Sign its requests to AWS anew.
    pub resign: Option<Resign>,
}

/// A provider's own API host: there it is certain which paths do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderHost {
    /// `api.anthropic.com`.
    Anthropic,
    /// `api.openai.com`.
    OpenAi,
}

impl ProviderHost {
    /// The provider of exactly this host. A gateway's name may end in the same letters, and serve other paths.
    pub fn of(host: &str) -> Option<Self> {
        match host.to_ascii_lowercase().as_str() {
            "api.anthropic.com" => Some(Self::Anthropic),
            "api.openai.com" => Some(Self::OpenAi),
            _ => None,
        }
    }
}

/// How requests to AWS are signed anew, with the sidecar's own credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resign {
    /// The region that is signed for.
    pub region: String,
    /// The service that is signed for (`bedrock`, `bedrock-mantle`).
    pub service: String,
}

/// The admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Address.
    pub bind: SocketAddr,
    /// Bearer token that callers must show.
    pub token: Option<Secret>,
    /// Further `host` names under which it may be called.
    pub allowed_hosts: Vec<String>,
}

/// The evidence packet of an incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Ids of organisations, workspaces and projects are hashed.
    pub hash_ids: bool,
    /// Summary of the provider's public status page.
    pub status_page: Option<String>,
    /// How often it is read while an incident is open.
    pub status_interval: Duration,
    /// File that holds what `claude auth status` printed.
    pub claude_status_file: Option<PathBuf>,
}

/// How OTLP is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// Which of OpenTelemetry's GenAI metrics are emitted beside our own. They are in development and
/// were renamed in autumn 2026, so none is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Semconv {
    /// None.
    #[default]
    Off,
    /// `gen_ai.client.operation.duration`, `gen_ai.client.token.usage`.
    Legacy,
    /// `gen_ai.client.inference.*`.
    Latest,
    /// Both, for a migration.
    Both,
}

/// Where alerts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Every replica.
    pub alertmanagers: Vec<Alertmanager>,
    /// Label that carries the owner.
    pub owner_label: String,
    /// Labels added to every alert.
    pub labels: Vec<(String, String)>,
    /// How long an alert stays up after its last post.
    pub hold: Duration,
}

/// One Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alertmanager {
    /// Base address, without a slash at its end.
    pub url: String,
    /// Bearer token.
    pub bearer_token: Option<Secret>,
    /// Further certificate authorities.
    pub ca_file: Option<PathBuf>,
}

/// Export by OTLP.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// The collector's address, where the file names one.
    pub endpoint: Option<String>,
    /// How it is carried, where the file says so.
    pub protocol: Option<OtlpProtocol>,
    /// Whether it is compressed, where the file says so.
    pub gzip: Option<bool>,
    /// OpenTelemetry's GenAI metrics.
    pub semconv: Semconv,
    /// How often metrics are pushed.
    pub interval: Option<Duration>,
    /// Share of successes that leave a span.
    pub span_ratio: f64,
    /// Nothing is exported, whatever the environment says: where to could not be read.
    pub off: bool,
}

impl Config {
    /// The configuration of somebody who wrote none: the hop on 127.0.0.1:8429 to the Anthropic
    /// API, `/metrics` on 127.0.0.1:9429.
    pub fn defaults() -> Self {
        match Self::parse("", &|_| None) {
            Ok(config) => config,
            Err(invalid) => unreachable!("the defaults are valid: {invalid}"),
        }
    }

    /// Reads and checks a configuration text. `env` looks up environment variables.
    ///
    /// # Errors
    /// Every problem found, each with its place and the fix.
    pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Invalid> {
        let config = Self::partly(text, env, "the configuration");
        if config.unread.is_empty() { Ok(config) } else { Err(Invalid(config.unread)) }
    }

    /// Reads what of a configuration text is whole: no more opens than it allows, and nothing is sent elsewhere. What is
    /// wrong is in `unread`; callers whose route cannot be used are told `name`, the file.
    pub fn partly(text: &str, env: &dyn Fn(&str) -> Option<String>, name: &str) -> Self {
        Self { text: text.into(), ..check::check(lenient::read(text), env, name) }
    }

    /// What stands in for a file that cannot be read at all: it listens, and says so.
    pub fn unreadable(problem: &str, name: &str) -> Self {
        let message = format!("cannot be read: {problem}");
        let problems = vec![Problem { path: String::new(), at: None, message }];
        check::check(lenient::Reading { problems, lost: true, ..Default::default() }, &|_| None, name)
    }

    /// The JSON Schema of the configuration file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(wire::File).to_value()
    }

    /// Every configured route.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.listeners.iter().flat_map(|listener| &listener.routes)
    }
}

#[cfg(test)]
mod tests;
