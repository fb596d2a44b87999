//! From a line of JSON to what was seen: where each field stands, told by a preset and the configuration.
//!
//! A line is walked once. Members that nobody wants are passed over without being kept, and strings are borrowed
//! from the line: a log is mostly what nobody wants. Presets read what the snippets in `examples/sources/` write; their
//! own tells of who answered (Envoy's flags, nginx's empty `upstream_status`, HAProxy's `<NOSRV>`) are read in [`Tells`].

use crate::limit::{Amount, Timestamp};
use crate::observation::Usage;
use crate::route::Surface;
use crate::seen::{Answered, MAX_TEXT, Seen, span_of, without_query};
use foldhash::fast::FixedState;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preset {
    /// As `POST /v1/observations` takes them, and `replay` reads them.
    #[default]
    Report,
    /// Envoy's JSON access log.
    Envoy,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// LiteLLM's `StandardLoggingPayload`.
    Litellm,
    /// Claude Code's `--output-format stream-json`.
    ClaudeStream,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 6] =
        [Self::Report, Self::Envoy, Self::Nginx, Self::Haproxy, Self::Litellm, Self::ClaudeStream];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Litellm => "litellm",
            Self::ClaudeStream => "claude_stream",
        }
    }

    /// Where fields stand that bear other names than ours.
    const fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Litellm => &[
                ("status", "error_information.error_code"),
                ("headers", "hidden_params.additional_headers"),
                ("request_id", "hidden_params.additional_headers.request-id"),
                ("gateway_request_id", "litellm_call_id"),
                ("started", "startTime"),
                ("t", "endTime"),
                ("headed", "completionStartTime"),
                ("input_tokens", "prompt_tokens"),
                ("output_tokens", "completion_tokens"),
                ("cache_read_tokens", "metadata.usage_object.cache_read_input_tokens"),
                ("cache_write_tokens", "metadata.usage_object.cache_creation_input_tokens"),
                ("outcome", "status"),
                ("message", "error_information.error_message"),
                ("error_type", "error_information.error_class"),
                ("category", "error_information.error_rate_limit_category"),
                ("limit_type", "error_information.error_rate_limit_type"),
                ("path", "metadata.user_api_key_request_route"),
                ("tenant", "metadata.user_api_key_hash"),
            ],
            Self::Envoy => &[
                ("started_after_ms", "request_ms"),
                ("headed_after_ms", "headed_ms"),
                ("service", "cluster"),
            ],
            Self::Nginx => &[("duration", "request_time")],
            Self::Haproxy => &[("termination", "ts")],
            _ => &[],
        }
    }
}

/// The fields that a line may have, by name.
pub const FIELDS: [&str; 50] = [
    "t",
    "started",
    "headed",
    "duration",
    "duration_ms",
    "headed_after",
    "headed_after_ms",
    "route",
    "surface",
    "service",
    "host",
    "method",
    "path",
    "status",
    "headers",
    "body",
    "model",
    "request_bytes",
    "input_tokens",
    "output_tokens",
    "cache_write_tokens",
    "cache_read_tokens",
    "request_id",
    "gateway_request_id",
    "traceparent",
    "user_agent",
    "answered_by",
    "project",
    "region",
    "session",
    "call",
    "flags",
    "details",
    "upstream_status",
    "upstream_host",
    "server",
    "termination",
    "outcome",
    "message",
    "error_type",
    "category",
    "limit_type",
    "call_type",
    "stream_id",
    "entry",
    "started_after_ms",
    "upstream_response_time",
    "upstream_header_time",
    "api_base",
    "tenant",
];

/// Number of a field in [`FIELDS`].
fn field(name: &str) -> Option<usize> {
    FIELDS.iter().position(|known| *known == name)
}

const HEADERS: usize = 14;
const BODY: usize = 15;
/// Deepest place of a field.
const MAX_DEPTH: usize = 8;
/// Most headers that are taken of a line.
const MAX_HEADERS: usize = 100;
/// Longest body of an error that is taken.
const MAX_BODY: usize = 64 * 1024;

/// What is wanted at a place in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    children: HashMap<String, Node, FixedState>,
    field: Option<usize>,
    header: Option<HeaderName>,
}

impl Node {
    fn at(&mut self, path: &[&str]) -> &mut Self {
        let Some((first, rest)) = path.split_first() else { return self };
        self.children.entry((*first).to_owned()).or_default().at(rest)
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.children.get(name)
    }
}

/// A member's name or text, borrowed from the line where that can be. (serde's own `Cow` never is.)
struct Text;

impl<'l> DeserializeSeed<'l> for Text {
    type Value = Cow<'l, str>;

    fn deserialize<D: Deserializer<'l>>(self, json: D) -> Result<Cow<'l, str>, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'l> Visitor<'l> for Text {
    type Value = Cow<'l, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, text: &'l str) -> Result<Cow<'l, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'l, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// How a log's lines are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The preset.
    pub preset: Preset,
    root: Node,
}

/// Why a line says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// It is no JSON object, or broken.
    Broken(String),
    /// It is whole, and none of the fields stands in it.
    NoField,
}

impl Mapping {
    /// A preset with further places of fields and of headers, by dotted paths.
    pub fn new(preset: Preset, fields: &[(String, String)], headers: &[(String, String)]) -> Self {
        let mut root = Node::default();
        for (at, name) in FIELDS.iter().enumerate() {
            let elsewhere = preset.fields().iter().find(|(field, _)| field == name).map(|(_, place)| *place);
            let own = fields.iter().find(|(field, _)| field == name).map(|(_, place)| place.as_str());
            let place = own.or(elsewhere).unwrap_or(name);
            for path in ways(place) {
                root.at(&path).field = Some(at);
            }
        }
        for (name, place) in headers {
            for path in ways(place) {
                root.at(&path).header = HeaderName::try_from(name.as_str()).ok();
            }
        }
        Self { preset, root }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// If it cannot be read, or says nothing that is wanted.
    pub fn read(&self, line: &[u8]) -> Result<Seen, Nothing> {
        let mut found = Found::default();
        let mut json = serde_json::Deserializer::from_slice(line);
        Walk { node: &self.root, found: &mut found }
            .deserialize(&mut json)
            .and_then(|()| json.end())
            .map_err(|error| broken(&error))?;
        if found.headers.is_empty() && found.texts.iter().all(Option::is_none) {
            return Err(Nothing::NoField);
        }
        Ok(found.seen(self.preset))
    }
}

/// What is wrong with a line, without its words: they may be an answer's.
pub fn broken(error: &serde_json::Error) -> Nothing {
    Nothing::Broken(format!("{:?} error at column {}", error.classify(), error.column()))
}

/// A dotted path as members inside of members, and as one member whose name has dots.
fn ways(place: &str) -> Vec<Vec<&str>> {
    let split: Vec<&str> = place.split('.').take(MAX_DEPTH).collect();
    if split.len() == 1 { vec![split] } else { vec![split, vec![place]] }
}

/// What was found in a line.
struct Found<'l> {
    texts: [Option<Cow<'l, str>>; FIELDS.len()],
    headers: HeaderMap,
}

impl Default for Found<'_> {
    fn default() -> Self {
        Self { texts: [const { None }; FIELDS.len()], headers: HeaderMap::new() }
    }
}

impl<'l> Found<'l> {
    fn header(&mut self, name: &str, value: &str) {
        if value.is_empty() || value == "-" || self.headers.len() >= MAX_HEADERS {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            self.headers.append(name, value);
        }
    }

    fn take(&mut self, node: &Node, value: Cow<'l, str>) {
        if let Some(name) = &node.header {
            self.header(name.as_str(), &value);
        }
        // What is not known is written as nothing, or as a dash.
        if let Some(field) = node.field.filter(|_| !value.is_empty() && value != "-") {
            let most = if field == BODY || FIELDS[field] == "message" { MAX_BODY } else { MAX_TEXT };
            if value.len() <= most {
                self.texts[field] = Some(value);
            }
        }
    }
}

/// Walks a value, and takes from it what is wanted there.
struct Walk<'n, 'f, 'l> {
    node: &'n Node,
    found: &'f mut Found<'l>,
}

impl<'l> DeserializeSeed<'l> for Walk<'_, '_, 'l> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for Walk<'_, '_, 'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'l str) -> Result<(), E> {
        self.found.take(self.node, Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.found.take(self.node, Cow::Owned(text.to_owned()));
        Ok(())
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.found.take(self.node, Cow::Owned(n.to_string()));
        Ok(())
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.found.take(self.node, Cow::Owned(n.to_string()));
        Ok(())
    }

    fn visit_f64<E>(self, n: f64) -> Result<(), E> {
        self.found.take(self.node, Cow::Owned(n.to_string()));
        Ok(())
    }

    fn visit_bool<E>(self, truth: bool) -> Result<(), E> {
        self.found.take(self.node, Cow::Borrowed(if truth { "true" } else { "false" }));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'l>>(self, mut seq: A) -> Result<(), A::Error> {
        // Of several values the first is taken.
        let mut first = true;
        loop {
            let more = if std::mem::take(&mut first) {
                seq.next_element_seed(Walk { node: self.node, found: self.found })?.is_some()
            } else {
                seq.next_element::<IgnoredAny>()?.is_some()
            };
            if !more {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.field == Some(HEADERS) {
            while let Some(name) = map.next_key_seed(Text)? {
                let node = self.node.child(&name);
                map.next_value_seed(Header { name: &name, node, found: self.found })?;
            }
            return Ok(());
        }
        if self.node.field == Some(BODY) {
            let mut body = serde_json::Map::new();
            while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                body.insert(name, value);
            }
            let text = serde_json::Value::Object(body).to_string();
            self.found.take(self.node, Cow::Owned(text));
            return Ok(());
        }
        while let Some(name) = map.next_key_seed(Text)? {
            match (self.node.child(&name), name.strip_prefix("http.response.header.")) {
                (Some(node), _) => map.next_value_seed(Walk { node, found: self.found })?,
                // As OpenTelemetry names them: formats without objects (Envoy Gateway's) have no other way.
                (None, Some(header)) => {
                    map.next_value_seed(Header { name: header, node: None, found: self.found })?;
                }
                (None, None) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A header's value: text, a number, or several of them.
struct Header<'n, 'f, 'l> {
    name: &'n str,
    node: Option<&'n Node>,
    found: &'f mut Found<'l>,
}

impl Header<'_, '_, '_> {
    fn take(self, text: &str) {
        self.found.header(self.name, text);
        if let Some(node) = self.node {
            self.found.take(node, Cow::Owned(text.to_owned()));
        }
    }
}

impl<'l> DeserializeSeed<'l> for Header<'_, '_, 'l> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for Header<'_, '_, 'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header's value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.take(text);
        Ok(())
    }

    fn visit_u64<E>(self, n: u64) -> Result<(), E> {
        self.take(&n.to_string());
        Ok(())
    }

    fn visit_i64<E>(self, n: i64) -> Result<(), E> {
        self.take(&n.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, n: f64) -> Result<(), E> {
        self.take(&n.to_string());
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'l>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(text) = seq.next_element_seed(Text)? {
            self.found.header(self.name, &text);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

impl Found<'_> {
    fn text(&mut self, name: &str) -> Option<String> {
        self.texts[field(name)?].take().map(Cow::into_owned)
    }

    fn str(&self, name: &str) -> Option<&str> {
        self.texts[field(name)?].as_deref()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.str(name)?.parse().ok()
    }

    fn secs(&self, name: &str, millis: &str) -> Option<Duration> {
        let secs = self.number::<f64>(name).or_else(|| Some(self.number::<f64>(millis)? / 1_000.0))?;
        Duration::try_from_secs_f64(secs).ok()
    }

    fn usage(&self, preset: Preset) -> Option<Usage> {
        let amount = |name: &str| self.number::<u64>(name).map(Amount::new);
        let (input, output) = (amount("input_tokens"), amount("output_tokens"));
        let cache_write = amount("cache_write_tokens").unwrap_or_default();
        let cache_read = amount("cache_read_tokens").unwrap_or_default();
        // LiteLLM counts cached tokens among those of the prompt; limits do not.
        let cached = if preset == Preset::Litellm { cache_write.get() + cache_read.get() } else { 0 };
        let uncached = |all: Amount| Amount::new(all.get().saturating_sub(cached));
        (input.is_some() || output.is_some()).then(|| Usage {
            input: input.map(uncached).unwrap_or_default(),
            cache_write,
            cache_read,
            output: output.unwrap_or_default(),
        })
    }

    /// Times, from whichever of them a line has: moments, or spans from one of them.
    fn times(&self) -> Times {
        let time = |name: &str| self.str(name).and_then(moment);
        let (began, ended) = (time("started"), time("t"));
        let (duration, after) =
            (self.secs("duration", "duration_ms"), self.secs("headed_after", "headed_after_ms"));
        let began = began.or_else(|| Some(ended?.minus(duration?)));
        let ended = ended.or_else(|| Some(began?.plus(duration?)));
        // nginx: how long its upstream took, and how long until its head.
        let secs =
            |name: &str| self.number::<f64>(name).and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        let upstream = || {
            let took = secs("upstream_response_time")?;
            Some(ended?.minus(took).plus(secs("upstream_header_time")?))
        };
        let headed = time("headed").or_else(|| Some(began?.plus(after?))).or_else(upstream);
        let passed = self.number::<f64>("started_after_ms").map(|millis| millis / 1_000.0);
        let passed = passed.and_then(|secs| Duration::try_from_secs_f64(secs).ok()).unwrap_or_default();
        // Envoy writes lines while a call runs, too: then it has not ended.
        let over =
            !self.str("entry").is_some_and(|entry| entry.ends_with("Periodic") || entry.ends_with("Start"));
        let running = !over;
        Times { started: began.map(|at| at.plus(passed)), headed, ended: ended.filter(|_| over), running }
    }

    fn seen(mut self, preset: Preset) -> Seen {
        let tells = Tells::of(&self, preset);
        let Times { started, headed, ended, running } = self.times();
        let usage = self.usage(preset);
        let own = self.text("stream_id");
        let ids = [self.text("request_id"), self.text("gateway_request_id"), own.clone()];
        let ids = ids.into_iter().flatten().collect();
        let span = self.str("traceparent").and_then(span_of);
        let headers = std::mem::take(&mut self.headers);
        let gone =
            self.str("flags").is_some_and(|flags| flags.split(',').any(|f| matches!(f.trim(), "DC" | "DR")));
        Seen {
            own,
            route: self.text("route"),
            surface: self.str("surface").and_then(Surface::named),
            service: self.text("service"),
            host: self.text("host"),
            method: self.str("method").and_then(|method| method.parse().ok()),
            path: self.text("path").map(without_query),
            user_agent: self.text("user_agent"),
            started,
            headed,
            ended,
            status: tells.status,
            headers,
            body: tells.body.or_else(|| self.text("body")),
            model: self.text("model"),
            request_bytes: self.number("request_bytes"),
            usage,
            ids,
            span,
            answered: tells.answered,
            session: self.text("session"),
            project: self.text("project"),
            region: self.text("region"),
            tenant: self.text("tenant"),
            state: self.str("call") == Some("false"),
            client_gone: gone,
            running,
            ..Seen::default()
        }
    }
}

struct Times {
    started: Option<Timestamp>,
    headed: Option<Timestamp>,
    ended: Option<Timestamp>,
    running: bool,
}

/// A moment: RFC 3339, or a number of seconds, milliseconds, microseconds or nanoseconds since the epoch, told apart by
/// its size.
pub fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(number) = text.parse::<f64>() {
        let secs = match number.abs() {
            n if n < 1e11 => number,
            n if n < 1e14 => number / 1e3,
            n if n < 1e17 => number / 1e6,
            _ => number / 1e9,
        };
        return (0.0..=4e9).contains(&secs).then(|| Timestamp::from_secs_f64(secs));
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_micros(at.as_microsecond()))
}

/// What a program's own fields tell: who answered, and with what.
struct Tells {
    answered: Option<Answered>,
    status: Option<u16>,
    body: Option<String>,
}

impl Tells {
    fn of(found: &Found<'_>, preset: Preset) -> Self {
        let status = found.number::<u16>("status").filter(|status| (100..1000).contains(status));
        // Of a proxy that is no gateway of models `upstream` says only that it was not the proxy.
        let proxy = matches!(preset, Preset::Envoy | Preset::Nginx | Preset::Haproxy);
        let said = match found.str("answered_by") {
            Some("gateway") => Some(Answered::Gateway),
            Some("upstream") if !proxy => Some(Answered::Upstream),
            _ => None,
        };
        let own = match preset {
            Preset::Envoy => envoy(found.str("flags"), found.str("details")),
            // It asked no server, or reached none: P, SC, SQ.
            Preset::Haproxy => {
                let state = found.str("termination").unwrap_or_default().to_ascii_uppercase();
                let alone = found.str("server") == Some("<NOSRV>");
                let unreached = ["P", "SC", "SQ"].iter().any(|own| state.starts_with(own));
                (alone || unreached).then_some(Answered::Gateway)
            }
            _ => None,
        };
        let told = Self { answered: said.or(own), status, body: None };
        if preset == Preset::Litellm { told.litellm(found) } else { told }
    }

    /// LiteLLM's payload has its status among what it says of the error, and none for a success.
    fn litellm(mut self, found: &Found<'_>) -> Self {
        let message = found.str("message");
        self.status = match (self.status, found.str("outcome"), message) {
            (Some(status), ..) => Some(status),
            (None, Some("success"), _) => Some(200),
            // The router's cooldown has no status in the payload; its caller gets a 429.
            (None, _, Some(text)) if text.contains("No deployments available") => Some(429),
            _ => None,
        };
        let category = found.str("category");
        self.answered = self.answered.or(match category {
            // Its own limit of a model is called a vendor's too (1.100): but no vendor's address was asked.
            Some(category) if category.starts_with("vendor") && found.str("api_base").is_none() => {
                Some(Answered::Gateway)
            }
            Some(category) if category.starts_with("vendor") => Some(Answered::Upstream),
            Some(category) if category.starts_with("litellm") => Some(Answered::Gateway),
            _ => None,
        });
        if self.status.is_some_and(|status| status >= 400) {
            let error = serde_json::json!({
                "type": found.str("error_type"),
                "message": message,
                "error_rate_limit_category": category,
                "error_rate_limit_type": found.str("limit_type"),
            });
            self.body = Some(serde_json::json!({ "error": error }).to_string());
        }
        self
    }
}

/// Who answered, by Envoy's response flags and `response_code_details`. `via_upstream` says only that it was not Envoy.
pub fn envoy(flags: Option<&str>, details: Option<&str>) -> Option<Answered> {
    let own = ["RL", "RLSE", "UF", "UH", "UO", "NR", "UT", "NC", "OM", "UAEX", "LR", "FI"];
    let flagged = flags.is_some_and(|flags| flags.split(',').any(|flag| own.contains(&flag.trim())));
    let detailed = details.is_some_and(|details| {
        ["local_rate_limited", "request_rate_limited", "rate_limiter_error", "direct_response"]
            .iter()
            .any(|own| details.starts_with(own))
    });
    (flagged || detailed).then_some(Answered::Gateway)
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
