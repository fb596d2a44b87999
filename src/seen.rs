//! A call as somebody outside of its path saw it, and what the engine is told of it.
//!
//! Access logs, spans, events and reports all end here, so that one header means the same wherever it was read, and
//! so does `replay`. Whoever reports knows less than the hop: only chosen headers, often no body, perhaps no
//! model. What is not there stays absent.
//!
//! **Time.** A source has a clock of its own. What it tells is believed if it is recent by our clock. If it is not, the
//! answer's `Date` decides: a `Date` of now says that the source's clock is wrong, and all its times are shifted; an old one
//! says that the report is late.

use crate::dialects::{self, bedrock, error_text, places, vertex};
use crate::limit::{Amount, Timestamp};
use crate::observation::{
    AuthKind, Call, Client, Credential, End, ErrorBody, Head, Key, Keys, Limits, Mark, Outcome, Report,
    RequestShape, Start, Usage,
};
use crate::owner::Pattern;
use crate::recorded::{Line, OneOrMany, header_map};
use crate::route::{ModelGroup, ModelGroups, RouteName, Surface};
use http::{HeaderMap, Method};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Who answered, as the reporter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The gateway that reports, by itself.
    Gateway,
    /// What stands behind it.
    Upstream,
}

/// A span, by its ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Trace id, 32 hex digits.
    pub trace: String,
    /// Its own id, 16 hex digits; absent where only the trace is known.
    pub id: Option<String>,
    /// The span above it.
    pub parent: Option<String>,
}

/// Longest text that is taken from a report, in bytes. (Paths, ids, models: longer ones are no such thing.)
pub const MAX_TEXT: usize = 512;

/// What was seen. Everything is optional.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What its source calls it, where it tells of a call in steps.
    pub own: Option<String>,
    /// The route, as the source names it.
    pub route: Option<String>,
    /// The surface, as the source names it.
    pub surface: Option<Surface>,
    /// Cluster, service or program that told or was called.
    pub service: Option<String>,
    /// Host that was called.
    pub host: Option<String>,
    /// HTTP method; POST where it is not known.
    pub method: Option<Method>,
    /// Path without its query.
    pub path: Option<String>,
    /// `user-agent` of the caller.
    pub user_agent: Option<String>,
    /// When the request had passed.
    pub started: Option<Timestamp>,
    /// When the response head came.
    pub headed: Option<Timestamp>,
    /// When it ended; absent while it has not.
    pub ended: Option<Timestamp>,
    /// HTTP status; absent if no response came, or none was told.
    pub status: Option<u16>,
    /// Response headers.
    pub headers: HeaderMap,
    /// Body of an error.
    pub body: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// Bytes of the request's body.
    pub request_bytes: Option<u64>,
    /// Tokens.
    pub usage: Option<Usage>,
    /// Ids of the request: the provider's, the gateway's.
    pub ids: Vec<String>,
    /// Its span.
    pub span: Option<Span>,
    /// It is told by the span of a whole operation, above the requests.
    pub spanning: bool,
    /// Who answered.
    pub answered: Option<Answered>,
    /// Session that folds retries together.
    pub session: Option<String>,
    /// Attempts before it that failed, of which nobody says why.
    pub retries: u64,
    /// The program that called, where that is known without a `user-agent`.
    pub client: Option<Client>,
    /// AWS account or Google Cloud project.
    pub project: Option<String>,
    /// Region or location.
    pub region: Option<String>,
    /// The call has not ended: its end is told later.
    pub running: bool,
    /// It tells how full limits are, and of no call.
    pub state: bool,
    /// It tells of tokens that were used, and of no call.
    pub tokens_only: bool,
    /// It is counted by a counter that knows no calls: whoever tells of calls on the same route goes before it.
    pub aggregate: bool,
    /// Whose limits a gateway tells of, by names of its own: kept apart by it, and never shown.
    pub tenant: Option<String>,
    /// The client went away before the answer was whole.
    pub client_gone: bool,
    /// All response headers are there, so that a missing one says something.
    pub whole: bool,
}

impl Seen {
    /// True for what looks like a call to a model: an access log tells of everything that passes.
    pub fn concerns_a_model(&self) -> bool {
        let path = self.path.as_deref().unwrap_or_default();
        let known_host = || {
            let host = self.host.as_deref().map(|host| bare_host(host).to_ascii_lowercase());
            host.is_some_and(|host| places::surface_of_host(&host).is_some())
        };
        // What Claude Code or a GenAI operation tells is of nothing else.
        let told = self.client == Some(Client::ClaudeCode) || self.spanning || self.tokens_only;
        told || PATHS.iter().any(|known| path.contains(known))
            || places::surface_of_path(path).is_some()
            || known_host()
            || self.headers.keys().any(|name| is_a_providers(name.as_str()))
    }
}

/// Most tokens, and most attempts, that one call is believed to have taken.
const MOST_TOKENS: u64 = 1_000_000_000;
const MOST_RETRIES: u64 = 1_000;

impl Seen {
    /// Leaves out what is too long to be what it says, and numbers that no call has.
    fn bound(&mut self) {
        let texts = [
            &mut self.own,
            &mut self.route,
            &mut self.service,
            &mut self.host,
            &mut self.path,
            &mut self.user_agent,
            &mut self.model,
            &mut self.session,
            &mut self.project,
            &mut self.region,
        ];
        for text in texts {
            *text = text.take().filter(|text| text.len() <= MAX_TEXT);
        }
        self.ids.truncate(4);
        self.ids.retain(|id| !id.is_empty() && id.len() <= MAX_TEXT);
        self.retries = self.retries.min(MOST_RETRIES);
        self.request_bytes = self.request_bytes.filter(|bytes| *bytes < 1 << 40);
        let capped = |amount: Amount| amount.min(Amount::new(MOST_TOKENS));
        self.usage = self.usage.map(|usage| Usage {
            input: capped(usage.input),
            cache_write: capped(usage.cache_write),
            cache_read: capped(usage.cache_read),
            output: capped(usage.output),
        });
    }
}

/// Parts of paths that are a model API's.
const PATHS: [&str; 8] = [
    "/v1/messages",
    "/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/embeddings",
    ":generateContent",
    ":streamGenerateContent",
    ":rawPredict",
];

/// Headers that only a model provider writes.
fn is_a_providers(name: &str) -> bool {
    name.starts_with("anthropic-")
        || name.starts_with("llm_provider-")
        || name.starts_with("openai-")
        || name.starts_with("x-litellm-")
        || matches!(name, "x-ratelimit-remaining-tokens" | "x-ratelimit-remaining-requests")
}

/// A route, as reports are put on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub route: RouteName,
    /// Its surface, where configured.
    pub surface: Option<Surface>,
    /// Its region, where configured.
    pub region: Option<Arc<str>>,
    /// Its AWS account or Google Cloud project, where configured.
    pub project: Option<Arc<str>>,
    /// The model of its calls, where reports do not name one.
    pub model: Option<String>,
}

impl Place {
    /// A route of which nothing is known but its name.
    pub fn named(route: &str) -> Self {
        Self { route: RouteName::new(route), surface: None, region: None, project: None, model: None }
    }
}

/// When a report belongs to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRule {
    /// The route.
    pub place: Place,
    /// Hosts; empty means any.
    pub hosts: Vec<Pattern>,
    /// Paths; empty means any.
    pub paths: Vec<Pattern>,
    /// Services and clusters; empty means any.
    pub services: Vec<Pattern>,
    /// Sources; empty means any.
    pub sources: Vec<Pattern>,
}

/// Which report belongs to which route. The first match wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Routes with what they match, in order.
    pub rules: Vec<PlaceRule>,
    /// Routes of the hop by the host of their upstream: a call to that host is theirs where no rule says otherwise.
    pub upstreams: Vec<(String, Place)>,
}

impl Places {
    /// The route of a report, and whether the configuration names it. A name that is not configured is not taken: it would
    /// be a label that anybody writes.
    pub fn of(&self, source: &str, seen: &Seen) -> (Place, bool) {
        if let Some(place) = seen.route.as_deref().and_then(|name| self.named(name)) {
            return (place.clone(), true);
        }
        let any = |patterns: &[Pattern], text: Option<&str>| {
            patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| p.matches(text)))
        };
        let host = seen.host.as_deref().map(bare_host);
        let matches = |rule: &&PlaceRule| {
            any(&rule.hosts, host)
                && any(&rule.paths, seen.path.as_deref())
                && any(&rule.services, seen.service.as_deref())
                && any(&rule.sources, Some(source))
        };
        if let Some(rule) = self.rules.iter().find(matches) {
            return (rule.place.clone(), true);
        }
        let upstream = host.and_then(|host| self.upstreams.iter().find(|(known, _)| known == host));
        upstream.map_or_else(|| (Place::named(source), false), |(_, place)| (place.clone(), true))
    }

    /// A rule that bears the name of a route of the hop is that route: what it does not say is as there.
    pub fn inherit(&mut self) {
        for rule in &mut self.rules {
            let same = |(_, place): &&(String, Place)| place.route == rule.place.route;
            let Some((_, hop)) = self.upstreams.iter().find(same) else { continue };
            let place = &mut rule.place;
            place.surface = place.surface.or(hop.surface);
            place.region = place.region.take().or_else(|| hop.region.clone());
            place.project = place.project.take().or_else(|| hop.project.clone());
        }
    }

    fn all(&self) -> impl Iterator<Item = &Place> {
        let configured = self.rules.iter().map(|rule| &rule.place);
        configured.chain(self.upstreams.iter().map(|(_, place)| place))
    }

    /// A configured route.
    pub fn named(&self, name: &str) -> Option<&Place> {
        self.all().find(|place| place.route.as_str() == name)
    }

    /// Names of every configured route.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all().map(|place| place.route.as_str())
    }
}

/// A host without its port.
fn bare_host(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// How old a time by a source's clock may be before its `Date` is asked.
const RECENT: Duration = Duration::from_secs(60);
/// How far a `Date` (whole seconds, made a moment before) may lie from a time of the same clock.
const AGREES: Duration = Duration::from_secs(5);

/// What makes reports.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    /// The source, by name.
    pub source: &'a Arc<str>,
    /// Models that share a pool.
    pub groups: &'a ModelGroups,
    /// How heads are read.
    pub read_head: fn(u16, &HeaderMap, Timestamp) -> Limits,
}

impl Maker<'_> {
    /// The report of what was seen, put on `place`. `now` is when it arrived; the call's number is `id`. True beside it
    /// if the source's clock was found to be wrong.
    pub fn report(&self, mut seen: Seen, place: Place, id: u64, now: Timestamp) -> (Box<Report>, bool) {
        seen.bound();
        let skewed = set_clock(&mut seen, now);
        let at = seen.ended.or(seen.headed).or(seen.started).unwrap_or(now);
        let headed = seen.headed.unwrap_or(at).min(at);
        let started = seen.started.unwrap_or(headed).min(headed);
        let call = Arc::new(call(&mut seen, &place, id, started));
        let model = self.model(&seen, &place, &call);
        let limits = Arc::new(self.limits(&seen, &call, headed));
        let keys = keys(&seen, self.source, &limits);
        let start = seen.request_bytes.filter(|_| !seen.state).map(|body_bytes| Start {
            call: call.clone(),
            model: model.clone(),
            // Told afterwards it takes its place before the head; the engine's time does not go back for it.
            at: if seen.ended.is_some() { headed } else { started },
            body_bytes,
            max_tokens: None,
        });
        let head = seen.status.map(|status| Head {
            call: call.clone(),
            model: model.clone(),
            at: headed,
            status,
            limits: limits.clone(),
        });
        let end =
            seen.ended.filter(|_| !seen.state).map(|at| Box::new(end(&mut seen, call, model, limits, at)));
        let Seen { spanning, retries, tokens_only, aggregate, .. } = seen;
        let source = self.source.clone();
        (
            Box::new(Report { source, keys, spanning, start, head, end, retries, tokens_only, aggregate }),
            skewed,
        )
    }

    fn model(&self, seen: &Seen, place: &Place, call: &Call) -> Option<ModelGroup> {
        let named = seen.model.clone().or_else(|| places::model_of_path(&call.path));
        let id = named.or_else(|| place.model.clone())?;
        Some(match call.surface {
            Surface::Bedrock => {
                bedrock::pool(&id, places::is_mantle(seen.host.as_deref().unwrap_or_default(), &call.path))
            }
            Surface::Vertex => vertex::pool(&id, call.region.as_deref().unwrap_or_default()),
            _ => self.groups.of(&id),
        })
    }

    fn limits(&self, seen: &Seen, call: &Call, headed: Timestamp) -> Limits {
        let mut limits = match seen.status {
            Some(status) => (self.read_head)(status, &seen.headers, headed),
            None => Limits::default(),
        };
        limits.partial = !seen.whole;
        limits.account = limits.account.in_cloud(&call.cloud());
        // What Envoy calls a stream is no id that a provider knows.
        let id = seen.ids.first().filter(|id| seen.own.as_ref() != Some(*id));
        limits.request_id = limits.request_id.or_else(|| id.map(|id| id.as_str().into()));
        match seen.answered {
            Some(Answered::Gateway) => limits.marks.set(Mark::GatewaySaysOwn),
            Some(Answered::Upstream) => limits.marks.set(Mark::GatewaySaysUpstream),
            None => {}
        }
        limits
    }
}

/// Sets a report's times by our clock. True if the source's was wrong.
fn set_clock(seen: &mut Seen, now: Timestamp) -> bool {
    let newest = seen.ended.or(seen.headed).or(seen.started);
    let Some(told) = newest.filter(|told| apart(*told, now) > RECENT) else { return false };
    let date = dialects::http_date(&seen.headers);
    let shift = match date {
        // Late, by a clock that is right.
        Some(date) if told < now && apart(date, seen.headed.unwrap_or(told)) <= AGREES => return false,
        Some(date) if apart(date, now) <= RECENT => date.micros() - seen.headed.unwrap_or(told).micros(),
        // Nothing comes from the future; what is old is as old as it says.
        _ if told > now => now.micros() - told.micros(),
        _ => return false,
    };
    for time in [&mut seen.started, &mut seen.headed, &mut seen.ended] {
        *time = time.map(|at| Timestamp::from_micros(at.micros().saturating_add(shift)).min(now));
    }
    true
}

fn apart(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}

fn call(seen: &mut Seen, place: &Place, id: u64, started: Timestamp) -> Call {
    let host = seen.host.as_deref().map(bare_host).unwrap_or_default().to_ascii_lowercase();
    let path = seen.path.take().unwrap_or_else(|| "/v1/messages".to_owned());
    let client = seen.client.unwrap_or_else(|| Client::of_user_agent(seen.user_agent.as_deref()));
    // Who answered behind a gateway is known better than what the route is.
    let behind = seen.surface.filter(|_| seen.answered == Some(Answered::Upstream));
    let told = behind.or(place.surface).or(seen.surface);
    let surface = told.unwrap_or_else(|| surface(&host, &path, client));
    let (project, region) =
        if surface.is_cloud() { places::project_and_region(surface, &host, &path) } else { (None, None) };
    // What a report says becomes a label, and anybody may report.
    let told_region = seen.region.take().filter(|region| places::is_region(region));
    let told_project = seen.project.take().filter(|project| places::is_project(project));
    Call {
        id,
        route: place.route.clone(),
        surface,
        auth: AuthKind::Unknown,
        credential: Credential { alias: None, fingerprint: seen.tenant.as_deref().map(Key::fingerprint) },
        client,
        session: seen.session.take().map(Into::into),
        upstream: host.into(),
        region: place.region.clone().or_else(|| region.or(told_region).map(Into::into)),
        project: project.or(told_project).map(Into::into).or_else(|| place.project.clone()),
        started,
        traceparent: seen.span.as_ref().and_then(traceparent),
        method: if seen.state { Method::GET } else { seen.method.take().unwrap_or(Method::POST) },
        path: path.into(),
    }
}

/// The way of a call, as far as host and path prove it. A caller that is Claude Code may be on a plan or on a key: its
/// reports do not say.
fn surface(host: &str, path: &str, client: Client) -> Surface {
    let known = places::surface_of_host(host).or_else(|| places::surface_of_path(path));
    match (known, client) {
        (Some(Surface::AnthropicApi), Client::ClaudeCode) => Surface::Unknown,
        (Some(surface), _) => surface,
        (None, _) => Surface::Unknown,
    }
}

fn traceparent(span: &Span) -> Option<Arc<str>> {
    let id = span.id.as_deref()?;
    Some(format!("00-{}-{id}-01", span.trace).into())
}

fn keys(seen: &Seen, source: &str, limits: &Limits) -> Keys {
    let mut exact: Vec<Key> = seen.ids.iter().take(4).map(|id| Key::request(id)).collect();
    let request = limits.request_id.as_deref().map(Key::request);
    exact.extend(request.filter(|key| !exact.contains(key)));
    let span = seen.span.as_ref();
    let of = |id: &String| span.map(|span| Key::span(&span.trace, id));
    Keys {
        exact,
        request,
        span: span.and_then(|span| of(span.id.as_ref()?)),
        parent: span.and_then(|span| of(span.parent.as_ref()?)),
        trace: span.map(|span| Key::trace(&span.trace)),
        own: seen.own.as_deref().map(|id| Key::own(source, id)),
    }
}

fn end(
    seen: &mut Seen,
    call: Arc<Call>,
    model: Option<ModelGroup>,
    limits: Arc<Limits>,
    at: Timestamp,
) -> End {
    let status = seen.status;
    let failed = status.map_or(!seen.client_gone, |status| status >= 400);
    // Of a success only an error that came inside its stream is one: a report may have the whole answer there.
    let error = seen.body.take().map(|text| error_text::read(text.as_bytes(), false, false));
    let error = error.filter(|error| failed || error.envelope);
    let error = error.map(|error| ErrorBody { in_stream: !failed, ..error });
    End {
        call,
        model,
        at,
        headed: status.and(seen.headed),
        status,
        outcome: match (status, seen.client_gone) {
            (_, true) => Outcome::ClientGone,
            (Some(_), false) => Outcome::Complete,
            (None, false) => Outcome::UpstreamBroken,
        },
        usage: seen.usage.or(limits.usage),
        limits,
        request: RequestShape { body_bytes: seen.request_bytes.unwrap_or(0), ..RequestShape::default() },
        concurrency: 1,
        error: (failed || error.is_some()).then(|| Box::new(error.unwrap_or_default())),
    }
}

impl From<Line> for Seen {
    fn from(line: Line) -> Self {
        let time = |secs: Option<f64>| secs.map(Timestamp::from_secs_f64);
        let usage = (line.input_tokens.is_some() || line.output_tokens.is_some()).then(|| Usage {
            input: Amount::new(line.input_tokens.unwrap_or(0)),
            cache_write: Amount::new(line.cache_write_tokens.unwrap_or(0)),
            cache_read: Amount::new(line.cache_read_tokens.unwrap_or(0)),
            output: Amount::new(line.output_tokens.unwrap_or(0)),
        });
        let body = line.body.map(|body| match body {
            Value::String(text) => text,
            other => other.to_string(),
        });
        let ids = match line.request_id {
            Some(OneOrMany::One(id)) => vec![id],
            Some(OneOrMany::Many(ids)) => ids,
            None => Vec::new(),
        };
        let headers = header_map(&line.headers);
        Self {
            route: line.route,
            surface: line.surface.as_deref().and_then(Surface::named),
            service: line.service,
            host: line.host,
            method: line.method.as_deref().and_then(|method| method.parse().ok()),
            path: line.path.map(without_query),
            user_agent: line.user_agent,
            started: time(line.started),
            headed: time(line.headed),
            ended: time(line.t),
            status: line.status,
            headers,
            body,
            model: line.model,
            request_bytes: line.request_bytes,
            usage,
            ids,
            span: line.traceparent.as_deref().and_then(span_of),
            answered: match line.answered_by.as_deref() {
                Some("gateway") => Some(Answered::Gateway),
                Some("upstream") => Some(Answered::Upstream),
                _ => None,
            },
            region: line.region,
            project: line.project,
            state: line.call == Some(false),
            tenant: line.tenant,
            ..Self::default()
        }
    }
}

/// A path without its query, which may hold a key.
pub fn without_query(mut path: String) -> String {
    path.truncate(path.find(['?', '#']).unwrap_or(path.len()));
    path.truncate(path.floor_char_boundary(MAX_TEXT));
    path
}

/// The caller's span, out of its `traceparent`.
pub fn span_of(traceparent: &str) -> Option<Span> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace, id) = (parts.next()?, parts.next()?);
    let valid = trace.len() == 32 && id.len() == 16;
    valid.then(|| Span { trace: trace.to_owned(), id: Some(id.to_owned()), parent: None })
}

#[cfg(test)]
#[path = "seen_tests.rs"]
mod tests;
