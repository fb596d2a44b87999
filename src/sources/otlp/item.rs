//! What is wanted of OTLP: spans, log records and points with the few attributes that tell of calls and limits.
//!
//! Whatever else an item has is passed over while it is read, so that a sender with a million attributes costs time and
//! no memory. Both encodings are read into this.

use foldhash::fast::RandomState;
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

/// Attributes that are wanted, by name. (Those of response headers are wanted by their beginning.)
const WANTED: [&str; 56] = [
    "service.name",
    "organization.id",
    "session.id",
    "event.name",
    "request_id",
    "client_request_id",
    "model",
    "status_code",
    "error",
    "attempt",
    "duration_ms",
    "ttft_ms",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_creation_tokens",
    "success",
    "type",
    "anthropic.provider",
    "span.type",
    "http.response.status_code",
    "http.status_code",
    "http.request.method",
    "http.method",
    "http.request.body.size",
    "http.request.header.traceparent",
    "server.address",
    "net.peer.name",
    "url.full",
    "url.path",
    "http.url",
    "http.target",
    "user_agent.original",
    "error.type",
    "gen_ai.provider.name",
    "gen_ai.system",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "gen_ai.response.id",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.operation.name",
    "anthropic.request.id",
    "anthropic.organization.id",
    "anthropic.workspace.id",
    "http.request.resend_count",
    "envoy.access_log_type",
    "envoy.stream_id",
    "envoy.request_ms",
    "envoy.headed_ms",
    "envoy.duration_ms",
    "envoy.cluster",
    "envoy.response_flags",
    "envoy.response_code_details",
];

/// Beginning of the names of response headers.
pub const HEADER: &str = "http.response.header.";
/// Most attributes of one item that are kept.
const MOST: usize = 96;
/// Longest value that is kept, in bytes.
const MAX_VALUE: usize = 2_048;

static WANTED_SET: LazyLock<HashSet<&'static str, RandomState>> =
    LazyLock::new(|| WANTED.into_iter().collect());

/// True for an attribute that is wanted.
pub fn is_wanted(name: &str) -> bool {
    name.starts_with(HEADER) || WANTED_SET.contains(name)
}

/// The wanted attributes of an item. Of an array each element stands here by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes<'a>(pub Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Attributes<'a> {
    /// Adds a value, if there is one and there is room. (Envoy writes `-` for every header that is not there.)
    pub fn add(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        let known = !value.is_empty() && value != "-";
        if known && self.0.len() < MOST && value.len() <= MAX_VALUE {
            self.0.push((name, value));
        }
    }

    /// The first value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The first of these that is there.
    pub fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }
}

/// What kind of item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A span.
    Span,
    /// A log record.
    Log,
    /// A point of a sum.
    Point,
}

/// A span, a log record or a point.
#[derive(Clone, Debug, PartialEq)]
pub struct Item<'a> {
    /// Which.
    pub kind: Kind,
    /// A span's or a metric's name; a record's event name, or its body where that is text.
    pub name: Cow<'a, str>,
    /// Trace id in hex digits; empty where there is none.
    pub trace: String,
    /// Span id.
    pub span: String,
    /// Id of the span above.
    pub parent: String,
    /// OTLP's number of the span's kind (3 is a client's).
    pub span_kind: u64,
    /// Beginning, in nanoseconds since the epoch.
    pub start: u64,
    /// End, or the record's time.
    pub end: u64,
    /// Events named `gen_ai.request.attempt`.
    pub attempts: u64,
    /// A point's value.
    pub value: f64,
    /// The point's sum is cumulative.
    pub cumulative: bool,
    /// Its attributes.
    pub attributes: Attributes<'a>,
}

impl Item<'_> {
    /// An empty item.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            name: Cow::Borrowed(""),
            trace: String::new(),
            span: String::new(),
            parent: String::new(),
            span_kind: 0,
            start: 0,
            end: 0,
            attempts: 0,
            value: 0.0,
            cumulative: false,
            attributes: Attributes::default(),
        }
    }
}

/// Takes items as they are read, each with the attributes of its resource.
pub trait Take {
    /// Takes one.
    fn take(&mut self, resource: &Attributes<'_>, item: Item<'_>);
}

impl<F: FnMut(&Attributes<'_>, Item<'_>)> Take for F {
    fn take(&mut self, resource: &Attributes<'_>, item: Item<'_>) {
        self(resource, item);
    }
}

/// Which of the three signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Log records.
    Logs,
    /// Metrics.
    Metrics,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Logs, Self::Metrics];

    /// Its path by HTTP.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Logs => "/v1/logs",
            Self::Metrics => "/v1/metrics",
        }
    }

    /// Its method by gRPC.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        }
    }
}
