//! What one response, one log line or one poll told us: plain values that every source makes.
//!
//! A call is told in steps, because a streamed answer can take minutes and its limit headers
//! must not wait for the end: a [`Start`] when the request has passed, a [`Head`] when the response head
//! is seen, an [`End`] when the call is over. Sources that learn of a call only afterwards send head and end at once.

mod report;

pub use report::{Key, Keys, Report};

use crate::limit::{Amount, Limiter, Reading, Timestamp, Window};
use crate::route::{ModelGroup, RouteName, Surface};
use std::sync::Arc;
use std::time::Duration;

/// How a request was authenticated. Names the header shape, never the credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AuthKind {
    /// `x-api-key`.
    ApiKey,
    /// `Authorization: Bearer` with an API key or a token of unknown kind.
    Bearer,
    /// `Authorization: Bearer` that looks like an OAuth token. Does not prove a subscription:
    /// workload-identity tokens look the same.
    OauthBearer,
    /// AWS Signature Version 4.
    SigV4,
    /// Nothing was sent.
    None,
    /// Not seen.
    #[default]
    Unknown,
}

impl AuthKind {
    /// A word for logs and incidents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Bearer => "bearer",
            Self::OauthBearer => "oauth_bearer",
            Self::SigV4 => "sigv4",
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// Which program sent a request, as far as it decides the surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Client {
    /// Claude Code (`claude-cli/…`).
    ClaudeCode,
    /// Anything else that named itself.
    Other,
    /// Nothing was said.
    #[default]
    Unknown,
}

impl Client {
    /// The program that a `user-agent` names.
    pub fn of_user_agent(agent: Option<&str>) -> Self {
        match agent {
            None => Self::Unknown,
            // Not only at its start: editors and wrappers put their own name before it.
            Some(agent) if agent.split([' ', ',', '(']).any(|part| part.starts_with("claude-cli/")) => {
                Self::ClaudeCode
            }
            Some(_) => Self::Other,
        }
    }
}

/// Keyed hash of a credential. Stands in incidents and packets only, never in a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The credential of a call: a configured alias and a keyed hash, never the secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Credential {
    /// The alias the configuration gives to this credential.
    pub alias: Option<Arc<str>>,
    /// Keyed hash of the secret.
    pub fingerprint: Option<Fingerprint>,
}

impl Credential {
    /// The alias, or `unnamed`.
    pub fn label(&self) -> &str {
        self.alias.as_deref().unwrap_or(crate::route::UNNAMED)
    }
}

/// What is known of a request from its head and body, as far as limits depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RequestShape {
    /// Bytes of the body that passed.
    pub body_bytes: u64,
    /// `max_tokens` as asked.
    pub max_tokens: Option<Amount>,
    /// Whether a stream was asked for.
    pub stream: Option<bool>,
}

/// One call, as every step of it repeats: who, where, what. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Call {
    /// Unique within this process; ties [`Head`] and [`End`] together.
    pub id: u64,
    /// The configured route.
    pub route: RouteName,
    /// The route's configured surface, or what the request alone suggests.
    pub surface: Surface,
    /// How it was authenticated.
    pub auth: AuthKind,
    /// With which credential.
    pub credential: Credential,
    /// By which program.
    pub client: Client,
    /// Session id that Claude Code sends; folds retries together. Never a label.
    pub session: Option<Arc<str>>,
    /// Scheme, host and port that are called.
    pub upstream: Arc<str>,
    /// The region, where it splits the pool: as configured, or as a cloud's host, path or signature names it.
    pub region: Option<Arc<str>>,
    /// AWS account id or Google Cloud project, as configured or as the path names it.
    pub project: Option<Arc<str>>,
    /// When the request's head was read.
    pub started: Timestamp,
    /// `traceparent` as the caller sent it.
    pub traceparent: Option<Arc<str>>,
    /// HTTP method.
    pub method: http::Method,
    /// Path without its query.
    pub path: Arc<str>,
}

impl Call {
    /// The trace that the caller says the call belongs to, as 32 hex digits.
    pub fn trace_id(&self) -> Option<&str> {
        let id = self.traceparent.as_deref()?.split('-').nth(1)?;
        let valid =
            id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && id.bytes().any(|b| b != b'0');
        valid.then_some(id)
    }

    /// False for what asks no model anything: lists of models, health checks, anything that is no POST. That it
    /// was answered says nothing of a limit.
    pub fn asks_a_model(&self) -> bool {
        self.method == http::Method::POST
    }

    /// What is known of the account before an answer has told.
    pub fn cloud(&self) -> Account {
        let region = self.region.clone().filter(|_| self.surface.is_cloud());
        Account { organization: None, workspace: None, project: self.project.clone(), region }
    }
}

/// Whose limits a call meets: as the response's headers say, and for the clouds as host, path and
/// configuration say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Account {
    /// `anthropic-organization-id`.
    pub organization: Option<Arc<str>>,
    /// `anthropic-workspace-id`.
    pub workspace: Option<Arc<str>>,
    /// AWS account id, or Google Cloud project.
    pub project: Option<Arc<str>>,
    /// AWS region, or Google Cloud location: clouds keep a quota for each.
    pub region: Option<Arc<str>>,
}

impl Account {
    /// This account, with a cloud's project and region, where it has none of its own.
    #[must_use]
    pub fn in_cloud(mut self, cloud: &Self) -> Self {
        self.project = self.project.or_else(|| cloud.project.clone());
        self.region = self.region.or_else(|| cloud.region.clone());
        self
    }
}

/// What a response head shows of the parties that it passed: each mark is a header, or a family of
/// headers, that only one of them writes (`dialects/marks.rs` has the list).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mark {
    /// Anthropic's request or organisation id.
    Anthropic,
    /// AWS's request id.
    Aws,
    /// Azure's own front.
    Azure,
    /// The OpenAI API.
    OpenAi,
    /// `x-ratelimit-{limit,remaining}-{requests,tokens}`, as the OpenAI API writes them.
    OpenAiLimits,
    /// A LiteLLM proxy.
    Litellm,
    /// LiteLLM's own limiter refused (`rate_limit_type`, `reset_at`).
    LitellmLimit,
    /// A provider answered LiteLLM: its headers stand behind `llm_provider-`.
    LitellmProvider,
    /// Envoy's rate-limit filter refused.
    EnvoyLimited,
    /// A gateway's plain `ratelimit-*` or `x-ratelimit-*` with nothing left.
    PlainEmpty,
    /// A Kong gateway.
    Kong,
    /// Kong had an answer from its upstream.
    KongUpstream,
    /// A gateway's AI token limiter (`x-ai-ratelimit-*`: Kong, APISIX) with nothing left.
    AiEmpty,
    /// A Portkey gateway.
    Portkey,
    /// Portkey itself failed.
    PortkeyException,
    /// A Bifrost gateway.
    Bifrost,
    /// Bifrost had chosen an upstream.
    BifrostRouted,
    /// Cloudflare's AI Gateway.
    CloudflareGateway,
    /// A Helicone gateway.
    Helicone,
    /// Helicone had chosen an upstream.
    HeliconeRouted,
    /// The answer asks not to retry (`x-should-retry: false`).
    NoRetry,
    /// The gateway on the way says, outside of the answer itself, that it answered and asked nobody.
    GatewaySaysOwn,
    /// The gateway on the way says that what stands behind it answered.
    GatewaySaysUpstream,
    /// A box on the way names itself as the one who answered (Akamai, a load balancer, Traefik).
    Box,
    /// AWS's API Gateway.
    ApiGateway,
    /// A Plimsoll on the way answered by itself, and asked nobody.
    Plimsoll,
}

/// A set of [`Mark`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks(u32);

impl Marks {
    /// Adds a mark.
    pub fn set(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u8;
    }

    /// True if the mark was seen.
    pub const fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u8) != 0
    }
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Marks({:b})", self.0)
    }
}

/// What a response head says about limits.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Limits {
    /// The account behind the credential.
    pub account: Account,
    /// Every limiter the headers name.
    pub readings: Vec<Reading>,
    /// Limiters of a gateway's tenant, which it names beside the provider's: another owner's.
    pub tenant: Vec<Reading>,
    /// Only chosen headers were seen, so that a missing one says nothing.
    pub partial: bool,
    /// `retry-after`, on errors only (200s carry it without meaning).
    pub retry_after: Option<Duration>,
    /// The provider's id for this request.
    pub request_id: Option<Arc<str>>,
    /// The unified (plan) header family is present.
    pub unified: bool,
    /// Some `anthropic-ratelimit-` header of the key family is present.
    pub trios: bool,
    /// The response says that it was paid from usage credits.
    pub overage_in_use: bool,
    /// The plan as a whole is refused (`unified-status: rejected`); may concern one model only.
    pub plan_rejected: bool,
    /// The plan window that the provider says decides (`representative-claim`).
    pub claim: Option<Limiter>,
    /// Which parties wrote into the head.
    pub marks: Marks,
    /// AWS's exception, from `x-amzn-errortype`, in lower case.
    pub exception: Option<Arc<str>>,
    /// The policy that a gateway or provider says was hit (`rate_limit_type`, `policy-id`).
    pub policy: Option<Arc<str>>,
    /// The server's clock at the response, from its `Date` header.
    pub server_time: Option<Timestamp>,
    /// Tokens that the head itself tells of (Bedrock's `InvokeModel`, whichever model answers).
    pub usage: Option<Usage>,
    /// The allow-listed headers of a failure, as they came: for the evidence. Empty for a success.
    pub shown: Vec<(Arc<str>, Arc<str>)>,
    /// Limit headers that could not be read, were repeated with different values or contradicted
    /// each other. Counted, never guessed at.
    pub complaints: u32,
}

impl Limits {
    /// True if somebody says who answered.
    pub const fn answered(&self) -> bool {
        self.marks.has(Mark::GatewaySaysOwn)
            || self.marks.has(Mark::GatewaySaysUpstream)
            || self.marks.has(Mark::EnvoyLimited)
    }
}

/// A call whose request has passed whole: its size is known seconds before its answer.
#[derive(Clone, Debug)]
pub struct Start {
    /// The call.
    pub call: Arc<Call>,
    /// The model, as the request names it.
    pub model: Option<ModelGroup>,
    /// When the last byte of the request was seen.
    pub at: Timestamp,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// `max_tokens` as asked.
    pub max_tokens: Option<Amount>,
}

/// The response head of a call.
#[derive(Clone, Debug)]
pub struct Head {
    /// The call.
    pub call: Arc<Call>,
    /// The model as far as the request body had passed.
    pub model: Option<ModelGroup>,
    /// When the head was seen.
    pub at: Timestamp,
    /// HTTP status.
    pub status: u16,
    /// What its headers say.
    pub limits: Arc<Limits>,
}

/// Tokens that a provider says a call used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Input tokens after the last cache breakpoint.
    pub input: Amount,
    /// Input tokens written to the cache.
    pub cache_write: Amount,
    /// Input tokens read from the cache (free of the input limit).
    pub cache_read: Amount,
    /// Generated tokens.
    pub output: Amount,
}

impl Usage {
    /// Input as OpenTelemetry counts it, cached tokens among it; the provider reports them apart.
    pub const fn all_input(&self) -> u64 {
        self.input.get().saturating_add(self.cache_write.get()).saturating_add(self.cache_read.get())
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The answer passed whole.
    Complete,
    /// The client went away.
    ClientGone,
    /// The upstream could not be reached, or broke off.
    UpstreamBroken,
}

impl Outcome {
    /// A word for logs and spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamBroken => "upstream_broken",
        }
    }
}

/// Whose form an error body has, as its own structure shows. The innermost form that is known counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Shape {
    /// No JSON, or a form that anybody writes.
    #[default]
    Unknown,
    /// `{"type":"error","error":{"type":…}}`, or an error whose type or code is one of Anthropic's.
    Anthropic,
    /// `{"error":{"code":…,"message":…,"status":…}}`.
    Google,
    /// `{"error":{"message":…}}` with a type or a code: most model APIs.
    Model,
    /// `{"detail":"…"}`, `{"error":"…"}`: web frameworks, and the limiters that are made for them.
    Framework,
    /// JSON-RPC: a tool of the client's answered, not a model.
    JsonRpc,
    /// A tool that the provider runs itself was refused, inside a message.
    ServerTool,
}

/// Where type and code of an error were found. What a caller sent may be quoted in an error's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Found {
    /// In the error's own fields, or nowhere.
    #[default]
    Fields,
    /// In JSON that stands inside a text.
    Inside,
    /// As words in a text that is no JSON, or no whole one.
    Text,
}

/// What an error body says, as far as a dialect could read it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ErrorBody {
    /// `error.type`.
    pub kind: Option<String>,
    /// `error.details.error_code`, or `error.code`.
    pub code: Option<String>,
    /// `error.message`.
    pub message: Option<String>,
    /// The text itself, cut at [`ErrorBody::KEPT_BYTES`].
    pub text: String,
    /// The body was longer than was kept.
    pub cut: bool,
    /// The error came inside a stream whose status was a success.
    pub in_stream: bool,
    /// An error object, or an event that names an error, was found (a success has none).
    pub envelope: bool,
    /// Whose form it has.
    pub shape: Shape,
    /// Where type and code were found.
    pub found: Found,
}

impl ErrorBody {
    /// How much of an error body is read.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// How much of its text is kept once it has been read: thousands may wait in a queue.
    pub const KEPT_BYTES: usize = 8 * 1024;
}

/// The end of a call.
#[derive(Clone, Debug)]
pub struct End {
    /// The call.
    pub call: Arc<Call>,
    /// The model it named (request), or was answered by (response) where the request named none.
    pub model: Option<ModelGroup>,
    /// When it ended.
    pub at: Timestamp,
    /// When its head was seen, if there was one.
    pub headed: Option<Timestamp>,
    /// HTTP status; absent if no response came.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the headers said, if there was a head.
    pub limits: Arc<Limits>,
    /// What the request asked for.
    pub request: RequestShape,
    /// Calls in flight on the route when this one began, itself among them.
    pub concurrency: u64,
    /// What was used, as far as told. On a broken stream: the last value seen, a lower bound.
    pub usage: Option<Usage>,
    /// The error, if the call failed in status or in stream.
    pub error: Option<Box<ErrorBody>>,
}

impl End {
    /// True if the provider or a gateway refused or failed this call. A client that went away
    /// before an answer came proves nothing either way.
    pub fn failed(&self) -> bool {
        match self.status {
            Some(status) => status >= 400 || self.error.is_some(),
            None => self.outcome == Outcome::UpstreamBroken,
        }
    }

    /// A word of low cardinality for a failure: the status; where that tells nothing, how it failed.
    pub fn error_type(&self) -> String {
        match self.status {
            Some(status) if status >= 400 => status.to_string(),
            _ if self.outcome == Outcome::UpstreamBroken => Outcome::UpstreamBroken.as_str().to_owned(),
            _ => "in_stream".to_owned(),
        }
    }

    /// True if the answer passed whole and was a success.
    pub fn succeeded(&self) -> bool {
        !self.failed() && self.status.is_some() && self.outcome == Outcome::Complete
    }
}

impl Start {
    fn not_after(&mut self, now: Timestamp) {
        self.at = self.at.min(now);
    }
}

impl Head {
    fn not_after(&mut self, now: Timestamp) {
        self.at = self.at.min(now);
    }
}

impl End {
    fn not_after(&mut self, now: Timestamp) {
        self.at = self.at.min(now);
        self.headed = self.headed.map(|at| at.min(now));
    }
}

impl Report {
    fn not_after(&mut self, now: Timestamp) {
        self.start.iter_mut().for_each(|start| start.not_after(now));
        self.head.iter_mut().for_each(|head| head.not_after(now));
        self.end.iter_mut().for_each(|end| end.not_after(now));
    }
}

impl Observation {
    /// Moves what lies after `now` to it.
    pub fn not_after(&mut self, now: Timestamp) {
        match self {
            Self::Start(start) => start.not_after(now),
            Self::Head(head) => head.not_after(now),
            Self::End(end) => end.not_after(now),
            Self::Report(report) => report.not_after(now),
            // Taken whole: when it was asked is told by whoever asked, by the same clock.
            Self::Quotas(_) => {}
        }
    }
}

/// What was drawn on a limit, as the provider's own late metrics say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// How much: in the newest whole minute that is known, or since the window began.
    pub amount: Amount,
    /// Up to when that is known.
    pub until: Timestamp,
    /// What a day takes, where that is known (money).
    pub daily: Option<f64>,
}

/// One limit as a quota API states it. A plain value; what it does not say is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// The surface it limits.
    pub surface: Surface,
    /// The account, with its region where that splits the pool.
    pub account: Account,
    /// The model group; empty where it spans models.
    pub model: ModelGroup,
    /// Which limit.
    pub limiter: Limiter,
    /// Its window.
    pub window: Window,
    /// The most. Absent where the API names none: then there is none, or none is known.
    pub limit: Option<Amount>,
    /// What everybody drew on it.
    pub drawn: Option<Drawn>,
    /// Calls that the provider refused in the newest whole minute that is known.
    pub refused: Option<Amount>,
    /// When its window begins anew, where it has a beginning.
    pub resets: Option<Timestamp>,
}

impl Quota {
    /// A limit of which nothing is known yet but which it is.
    pub const fn of(
        surface: Surface,
        account: Account,
        model: ModelGroup,
        limiter: Limiter,
        window: Window,
    ) -> Self {
        Self {
            surface,
            account,
            model,
            limiter,
            window,
            limit: None,
            drawn: None,
            refused: None,
            resets: None,
        }
    }
}

/// Another name of a model, as a provider's API gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alias {
    /// The surface on which it is used.
    pub surface: Surface,
    /// The name, as it stands in traffic (its group, [`ModelGroup::of_model`]).
    pub name: ModelGroup,
    /// The group whose limits it draws on.
    pub group: ModelGroup,
}

/// Everything that one poll of a quota API told. It takes the place of what the same source told before.
#[derive(Clone, Debug, PartialEq)]
pub struct Quotas {
    /// Who asked.
    pub source: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// The limits.
    pub rows: Vec<Quota>,
    /// Names of models.
    pub aliases: Vec<Alias>,
    /// Names of workspaces, by id.
    pub workspaces: Vec<(Arc<str>, Arc<str>)>,
}

impl Quotas {
    /// What a source told of limits, and nothing else.
    pub const fn of(source: Arc<str>, at: Timestamp, rows: Vec<Quota>) -> Self {
        Self { source, at, rows, aliases: Vec::new(), workspaces: Vec::new() }
    }

    /// The group whose limits a model draws on: its own, where no other is told.
    pub fn group(&self, model: ModelGroup) -> ModelGroup {
        self.aliases.iter().find(|alias| alias.name == model).map_or(model, |alias| alias.group.clone())
    }
}

/// What a source hands on.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A request has passed.
    Start(Start),
    /// A response head.
    Head(Head),
    /// The end of a call.
    End(Box<End>),
    /// What a source outside of the call's path tells of it.
    Report(Box<Report>),
    /// What a quota API says.
    Quotas(Arc<Quotas>),
}
