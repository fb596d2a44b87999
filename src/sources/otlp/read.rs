//! From spans, log records and points to what was seen of a call.
//!
//! - A span or record with `http.response.status_code` is a request: it may carry the limit headers, if whoever made it
//!   captures them (`http.response.header.<name>`).
//! - A GenAI span is an operation above its requests: it knows tokens and models, and no limits. (Anthropic's Python SDK
//!   makes one by itself, with request id, workspace and status; one for all tries.)
//! - Claude Code's `api_request`, `api_error` and `claude_code.llm_request` know status, tokens, request id and the number
//!   of attempts. Attempts that failed before the last are nowhere told apart: they are counted as retries, and no verdict
//!   is made of them. (`api_retries_exhausted` repeats its `api_error`.)
//! - Claude Code's token metric counts only for sessions that send no events: the same tokens stand in those. Which comes
//!   first is chance, so points wait for [`HOLD`] before they count.

use super::item::{Attributes, HEADER, Item, Kind};
use crate::limit::{Amount, Timestamp};
use crate::mapping;
use crate::observation::{Client, Usage};
use crate::route::Surface;
use crate::seen::{Seen, Span, span_of, without_query};
use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Most sessions, and most series of cumulative sums, that are remembered.
const MOST: usize = 10_000;

/// How long a point waits for an event of its session: those are exported every five seconds unless told otherwise.
pub const HOLD: Duration = Duration::from_secs(15);

/// What is remembered from one export to the next.
#[derive(Default)]
pub struct Reader {
    hasher: RandomState,
    /// Sessions that send events; their token metric says the same again.
    sessions: Mutex<HashMap<u64, (), RandomState>>,
    /// Points that wait, with when they came and their session.
    waiting: Mutex<VecDeque<(Timestamp, u64, Seen)>>,
    /// The last value of cumulative series.
    series: Mutex<HashMap<u64, (u64, f64), RandomState>>,
}

impl Reader {
    /// What an item tells of a call; nothing if it is of something else, or has to wait.
    pub fn seen(&self, resource: &Attributes<'_>, item: &Item<'_>, now: Timestamp) -> Option<Seen> {
        let service = resource.get("service.name");
        let claude = service.is_some_and(|name| name.starts_with("claude-code"));
        let seen = match item.kind {
            Kind::Point => {
                self.wait(resource, item, now);
                return None;
            }
            Kind::Log if claude => self.event(resource, item)?,
            Kind::Span if claude => llm_request(item)?,
            _ => operation(item).or_else(|| request(item))?,
        };
        let session = item.attributes.get("session.id").map(str::to_owned);
        let service = seen.service.clone().or_else(|| service.map(str::to_owned));
        Some(Seen { service, session: session.or(seen.session), ..seen })
    }

    /// A point of tokens waits.
    fn wait(&self, resource: &Attributes<'_>, item: &Item<'_>, now: Timestamp) {
        let Some(seen) = self.tokens(item) else { return };
        let session = item.attributes.get("session.id").map(|id| self.hash(id));
        let session = session.unwrap_or_else(|| self.program(resource));
        let service = resource.get("service.name");
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MOST {
            waiting.pop_front();
        }
        waiting.push_back((now, session, Seen { service: service.map(str::to_owned), ..seen }));
    }

    /// The points that have waited long enough, and whose session sends no events.
    pub fn due(&self, now: Timestamp) -> Vec<Seen> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        // Whose time lies ahead came before the clock was set back.
        let is_due = |since: Timestamp| now < since || now.since(since) >= HOLD;
        while waiting.front().is_some_and(|(since, ..)| is_due(*since)) {
            due.extend(waiting.pop_front());
        }
        drop(waiting);
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        due.into_iter()
            .filter(|(_, session, _)| !sessions.contains_key(session))
            .map(|(.., seen)| seen)
            .collect()
    }

    fn hash(&self, text: &str) -> u64 {
        self.hasher.hash_one(text)
    }

    /// What sends, where it names no session: its metric may be told to leave the id out, and its events are not.
    fn program(&self, resource: &Attributes<'_>) -> u64 {
        self.hasher.hash_one(&resource.0)
    }

    /// One of Claude Code's events.
    fn event(&self, resource: &Attributes<'_>, item: &Item<'_>) -> Option<Seen> {
        let attributes = &item.attributes;
        // Whatever it tells of: this session sends events.
        let session = attributes.get("session.id").map(|id| self.hash(id));
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MOST {
            sessions.clear();
        }
        sessions.extend(session.into_iter().chain([self.program(resource)]).map(|of| (of, ())));
        drop(sessions);
        let name = attributes.get("event.name").unwrap_or(&item.name);
        let status = match name.strip_prefix("claude_code.").unwrap_or(name) {
            "api_request" => Some(200),
            "api_error" => attributes.number("status_code"),
            _ => return None,
        };
        let ended = time(item.end)?;
        let error = attributes.get("error");
        Some(Seen {
            started: attributes.number("duration_ms").and_then(millis).map(|took| ended.minus(took)),
            ended: Some(ended),
            status: status.filter(is_status),
            body: error.map(|text| serde_json::json!({"error": {"message": text}}).to_string()),
            retries: attributes.number::<u64>("attempt").map_or(0, |n| n.saturating_sub(1)),
            ..claude(attributes)
        })
    }

    /// A point of `claude_code.token.usage`.
    fn tokens(&self, item: &Item<'_>) -> Option<Seen> {
        let attributes = &item.attributes;
        let value = if item.cumulative { self.since_last(item) } else { item.value };
        let amount = Amount::new(if value > 0.0 && value.is_finite() { value as u64 } else { return None });
        let mut usage = Usage::default();
        match attributes.get("type")? {
            "input" => usage.input = amount,
            "output" => usage.output = amount,
            "cacheRead" => usage.cache_read = amount,
            "cacheCreation" => usage.cache_write = amount,
            _ => return None,
        }
        let ended = time(item.end);
        Some(Seen { tokens_only: true, ended, usage: Some(usage), status: Some(200), ..claude(attributes) })
    }

    /// What a cumulative series has grown since it was last seen. The first value is taken whole if the series began
    /// after we did not know it: it began with its `start`.
    fn since_last(&self, item: &Item<'_>) -> f64 {
        let name: String = item.attributes.0.iter().map(|(key, value)| format!("{key}={value};")).collect();
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if series.len() >= MOST {
            series.clear();
        }
        let before = series.insert(self.hash(&name), (item.start, item.value));
        match before {
            Some((start, value)) if start == item.start && item.value >= value => item.value - value,
            // A new start, or a value that fell: it was begun anew. An unknown series may be old.
            Some(_) => item.value,
            None => 0.0,
        }
    }
}

/// What every item of Claude Code has.
fn claude(attributes: &Attributes<'_>) -> Seen {
    let ids = ["request_id", "client_request_id"].iter().filter_map(|name| attributes.get(name));
    let surface = match attributes.get("anthropic.provider") {
        Some("bedrock") => Some(Surface::Bedrock),
        Some("vertex") => Some(Surface::Vertex),
        Some("gateway") => Some(Surface::Gateway),
        // A plan or a key: it does not say.
        _ => None,
    };
    Seen {
        client: Some(Client::ClaudeCode),
        surface,
        model: attributes.first(&["model", "gen_ai.request.model"]).map(str::to_owned),
        usage: usage(
            attributes,
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_creation_tokens",
            false,
        ),
        ids: ids.map(str::to_owned).collect(),
        ..Seen::default()
    }
}

/// Claude Code's span of a request, all attempts in it.
fn llm_request(item: &Item<'_>) -> Option<Seen> {
    let attributes = &item.attributes;
    if item.name != "claude_code.llm_request" && attributes.get("span.type") != Some("llm_request") {
        return None;
    }
    let succeeded = attributes.get("success") == Some("true");
    let status = attributes.number("status_code").or(succeeded.then_some(200));
    let attempts = attributes.number("attempt").unwrap_or(item.attempts);
    let error = attributes.get("error").filter(|_| !succeeded);
    Some(Seen {
        started: time(item.start),
        ended: time(item.end),
        status: status.filter(is_status),
        body: error.map(|text| serde_json::json!({"error": {"message": text}}).to_string()),
        retries: attempts.saturating_sub(1),
        span: span(item),
        spanning: true,
        ..claude(attributes)
    })
}

/// A request by HTTP: a client's span, or Envoy's record of one.
fn request(item: &Item<'_>) -> Option<Seen> {
    let attributes = &item.attributes;
    let status = ["http.response.status_code", "http.status_code"];
    let status = status.iter().find_map(|name| attributes.number(name)).filter(is_status)?;
    // A server's span is the same call seen from its other end, by somebody else.
    if item.kind == Kind::Span && item.span_kind == SERVER {
        return None;
    }
    let url: Option<Uri> = attributes.first(&["url.full", "http.url"]).and_then(|url| url.parse().ok());
    let path = attributes.first(&["url.path", "http.target"]).map(str::to_owned);
    let path = path.or_else(|| url.as_ref().map(|url| url.path().to_owned()));
    let host = attributes.first(&["server.address", "net.peer.name"]).map(str::to_owned);
    let model = attributes.first(&["gen_ai.request.model", "gen_ai.response.model"]).map(str::to_owned);
    let span_of_ms = |name: &str| attributes.number(name).and_then(millis);
    let (mut started, mut headed, mut ended) = (time(item.start), None, time(item.end));
    if item.kind == Kind::Log {
        // Envoy's record has the time at which its call began, and is also written while that runs.
        let after = |span: Option<Duration>| Some(time(item.end)?.plus(span?));
        let over = !attributes.get("envoy.access_log_type").is_some_and(|entry| entry.ends_with("Periodic"));
        started = after(span_of_ms("envoy.request_ms")).or(time(item.end));
        headed = after(span_of_ms("envoy.headed_ms"));
        ended = after(span_of_ms("envoy.duration_ms")).or(ended).filter(|_| over);
    }
    let stream = attributes.get("envoy.stream_id").map(str::to_owned);
    let flags = attributes.get("envoy.response_flags");
    let caller = attributes.get("http.request.header.traceparent").and_then(span_of);
    Some(Seen {
        host: host.or_else(|| url.as_ref().and_then(|url| url.host().map(str::to_owned))),
        method: attributes.first(&["http.request.method", "http.method"]).and_then(|m| m.parse().ok()),
        path: path.map(without_query),
        user_agent: attributes.get("user_agent.original").map(str::to_owned),
        own: stream.clone(),
        ids: stream.into_iter().collect(),
        service: attributes.get("envoy.cluster").map(str::to_owned),
        started,
        headed,
        ended,
        status: Some(status),
        headers: headers(attributes),
        model,
        request_bytes: attributes.number("http.request.body.size"),
        surface: provider(attributes),
        usage: gen_ai_usage(attributes),
        answered: mapping::envoy(flags, attributes.get("envoy.response_code_details")),
        span: caller.or_else(|| span(item)),
        ..Seen::default()
    })
}

/// OTLP's number of a server's span.
const SERVER: u64 = 2;

/// A GenAI operation. A span that carries response headers is a request, whatever else it knows.
fn operation(item: &Item<'_>) -> Option<Seen> {
    let attributes = &item.attributes;
    let named = attributes.get("gen_ai.operation.name");
    let inference = named.is_none_or(|name| ["chat", "text_completion", "generate_content"].contains(&name));
    let model = attributes.first(&["gen_ai.request.model", "gen_ai.response.model"])?;
    let request = attributes.0.iter().any(|(name, _)| name.starts_with(HEADER));
    if item.kind != Kind::Span || !inference || request || item.span_kind == SERVER {
        return None;
    }
    let status = attributes.number("http.response.status_code").filter(is_status);
    let status = match (status, attributes.get("error.type")) {
        (Some(status), _) => status,
        (None, None) => 200,
        (None, Some(error)) => status_of(error)?,
    };
    let path = attributes.get("url.path").map(|path| without_query(path.to_owned()));
    Some(Seen {
        path,
        started: time(item.start),
        ended: time(item.end),
        status: Some(status),
        headers: account(attributes),
        model: Some(model.to_owned()),
        surface: provider(attributes),
        usage: gen_ai_usage(attributes),
        host: attributes.get("server.address").map(str::to_owned),
        ids: attributes.get("anthropic.request.id").map(str::to_owned).into_iter().collect(),
        retries: attributes.number("http.request.resend_count").unwrap_or(0),
        span: span(item),
        spanning: true,
        ..Seen::default()
    })
}

/// The account, as the headers name it from which the SDK has it.
fn account(attributes: &Attributes<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let known = [
        ("anthropic.organization.id", "anthropic-organization-id"),
        ("anthropic.workspace.id", "anthropic-workspace-id"),
    ];
    for (attribute, header) in known {
        let value = attributes.get(attribute).and_then(|value| HeaderValue::from_str(value).ok());
        headers.extend(value.map(|value| (HeaderName::from_static(header), value)));
    }
    headers
}

/// The status that an error's type stands for: itself, or the SDKs' name of it. Of others nothing is known.
fn status_of(error: &str) -> Option<u16> {
    if let Ok(status) = error.parse() {
        return Some(status).filter(is_status);
    }
    match error.rsplit('.').next()? {
        "RateLimitError" | "rate_limit_error" | "ThrottlingException" | "ResourceExhausted" => Some(429),
        "OverloadedError" | "overloaded_error" => Some(529),
        _ => None,
    }
}

fn provider(attributes: &Attributes<'_>) -> Option<Surface> {
    match attributes.first(&["gen_ai.provider.name", "gen_ai.system"])? {
        "anthropic" => Some(Surface::AnthropicApi),
        "aws.bedrock" => Some(Surface::Bedrock),
        "gcp.vertex_ai" => Some(Surface::Vertex),
        "openai" => Some(Surface::OpenAi),
        "azure.ai.openai" => Some(Surface::AzureOpenAi),
        _ => Some(Surface::Other),
    }
}

fn gen_ai_usage(attributes: &Attributes<'_>) -> Option<Usage> {
    let (input, output) = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens");
    let (read, write) = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_write.input_tokens");
    usage(attributes, input, output, read, write, true)
}

/// Tokens, where any are told. OpenTelemetry counts cached ones among the input.
fn usage(
    attributes: &Attributes<'_>,
    input: &str,
    output: &str,
    read: &str,
    write: &str,
    cached_among: bool,
) -> Option<Usage> {
    let number = |name: &str| attributes.number::<u64>(name);
    let (all, output) = (number(input), number(output));
    all.or(output)?;
    let (read, write) = (number(read).unwrap_or(0), number(write).unwrap_or(0));
    let cached = if cached_among { read.saturating_add(write) } else { 0 };
    Some(Usage {
        input: Amount::new(all.unwrap_or(0).saturating_sub(cached)),
        cache_write: Amount::new(write),
        cache_read: Amount::new(read),
        output: Amount::new(output.unwrap_or(0)),
    })
}

fn headers(attributes: &Attributes<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(attributes.0.len());
    for (name, value) in &attributes.0 {
        let Some(name) = name.strip_prefix(HEADER) else { continue };
        // Instrumentations that are set up by the environment write names as identifiers.
        let identifier = name.contains('_') && name != "reset_at" && name != "rate_limit_type";
        let name = if identifier { Cow::Owned(name.replace('_', "-")) } else { Cow::Borrowed(name) };
        let value = value.trim_start_matches("['").trim_end_matches("']");
        if value.is_empty() || value == "-" {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(&*name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn span(item: &Item<'_>) -> Option<Span> {
    let some = |id: &String| Some(id.clone()).filter(|id| !id.is_empty());
    Some(Span { trace: some(&item.trace)?, id: some(&item.span), parent: some(&item.parent) })
}

fn time(nanos: u64) -> Option<Timestamp> {
    let micros = i64::try_from(nanos / 1_000).ok()?;
    (micros > 0).then(|| Timestamp::from_micros(micros))
}

fn millis(millis: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(millis / 1_000.0).ok()
}

fn is_status(status: &u16) -> bool {
    (100..1_000).contains(status)
}
