//! OpenTelemetry's GenAI metrics: duration and usage of each call, for dashboards that know them.
//!
//! They are in development and were renamed in autumn 2026 (`gen_ai.client.operation.duration` to
//! `gen_ai.client.inference.duration`, `gen_ai.client.token.usage` split), so they are off unless
//! asked for, by the old names, the new ones, or both. Our own metrics never depend on them. On the
//! scrape, durations carry the newest trace as an exemplar (the OpenTelemetry SDK writes none).

use super::catalogue::key;
use crate::config::Semconv;
use crate::engine::Judged;
use crate::route::ModelGroup;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds of the duration histogram in seconds, as OpenTelemetry advises: 0.01 s, doubled.
pub static DURATION_BOUNDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Bounds of the token histograms, as OpenTelemetry advises: powers of four.
pub static TOKEN_BOUNDS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
/// Most tokens that one call is believed to have taken.
const MOST_TOKENS: u64 = 1 << 40;
/// Most sets of attributes; further models share `_other`.
const MAX_SETS: usize = 500;

/// What a GenAI metric measures; the old names and the new ones share most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Durations of calls.
    Duration,
    /// Tokens of a call, by type.
    TokenSizes,
    /// Generated tokens of a call.
    OutputSizes,
    /// All input tokens.
    InputTotal,
    /// All generated tokens.
    OutputTotal,
}

impl What {
    /// True if it only goes up; else it is a histogram.
    pub const fn is_counter(self) -> bool {
        matches!(self, Self::InputTotal | Self::OutputTotal)
    }
}

/// A metric of the GenAI conventions that can be emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenAiMetric {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// What it measures.
    pub what: What,
    /// Under which setting of `otlp.semconv`.
    pub semconv: Semconv,
    /// What it tells.
    pub help: &'static str,
}

/// Every metric of the GenAI conventions that can be emitted.
pub static ALL: [GenAiMetric; 6] = [
    GenAiMetric {
        name: "gen_ai.client.operation.duration",
        unit: "s",
        what: What::Duration,
        semconv: Semconv::Legacy,
        help: "Duration of a call, from its first byte to the answer's last.",
    },
    GenAiMetric {
        name: "gen_ai.client.token.usage",
        unit: "{token}",
        what: What::TokenSizes,
        semconv: Semconv::Legacy,
        help: "Tokens of a call, by type.",
    },
    GenAiMetric {
        name: "gen_ai.client.inference.duration",
        unit: "s",
        what: What::Duration,
        semconv: Semconv::Latest,
        help: "Duration of a call, from its first byte to the answer's last.",
    },
    GenAiMetric {
        name: "gen_ai.client.inference.usage.input_tokens",
        unit: "{token}",
        what: What::InputTotal,
        semconv: Semconv::Latest,
        help: "Input tokens, cached ones among them.",
    },
    GenAiMetric {
        name: "gen_ai.client.inference.usage.output_tokens",
        unit: "{token}",
        what: What::OutputTotal,
        semconv: Semconv::Latest,
        help: "Generated tokens.",
    },
    GenAiMetric {
        name: "gen_ai.client.inference.operation.output_tokens",
        unit: "{token}",
        what: What::OutputSizes,
        semconv: Semconv::Latest,
        help: "Generated tokens of a call.",
    },
];

/// Duration of a call by the latest conventions, as Prometheus names the histogram.
pub const LATEST_DURATION: &str = "gen_ai_client_inference_duration_seconds";

/// Attributes that every point has, where they are known.
pub const ATTRIBUTES: &[&str] = &["gen_ai.operation.name", key::PROVIDER, key::MODEL, "error.type"];

/// Attributes of a point.
type Labels = Vec<(&'static str, String)>;

/// Values by size, with the newest trace of each size.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Upper bounds of all but the last.
    pub bounds: &'static [f64; 14],
    /// How many values there are of each size.
    pub counts: [u64; 15],
    /// What they add up to.
    pub sum: f64,
    /// The newest value of each size that has a trace, and the trace.
    pub traces: [Option<(Arc<str>, f64)>; 15],
}

impl Sizes {
    fn new(bounds: &'static [f64; 14]) -> Self {
        Self { bounds, counts: [0; 15], sum: 0.0, traces: Default::default() }
    }

    fn take(&mut self, value: f64, trace: Option<&str>) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] = self.counts[at].saturating_add(1);
        self.sum += value;
        if let Some(trace) = trace {
            self.traces[at] = Some((trace.into(), value));
        }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// What a row of a metric shows.
#[derive(Clone, Debug)]
pub enum Measured {
    /// A total.
    Total(u64),
    /// A histogram.
    Sizes(Box<Sizes>),
}

/// A metric with its rows: attributes and what was measured.
pub type Exposed = (&'static GenAiMetric, Vec<(Labels, Measured)>);

/// The state of the GenAI metrics.
pub struct GenAi {
    semconv: Semconv,
    sets: Mutex<HashMap<CallKind, Set>>,
    otel: Vec<Otel>,
}

/// What calls of one set of attributes have in common.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct CallKind {
    provider: &'static str,
    model: Option<ModelGroup>,
    error: Option<String>,
}

/// What was measured of the calls of one set of attributes.
struct Set {
    /// Attributes: of the call, and of its tokens by type.
    otel: Arc<[Vec<KeyValue>; 3]>,
    duration: Sizes,
    /// Sizes of calls whose usage is known.
    input: Sizes,
    output: Sizes,
    input_total: u64,
    output_total: u64,
}

impl Set {
    fn new(kind: &CallKind) -> Self {
        let labels = labels(kind);
        let [input, output] = ["input", "output"].map(|token| otel(&with(&labels, token)));
        Self {
            otel: Arc::new([otel(&labels), input, output]),
            duration: Sizes::new(&DURATION_BOUNDS),
            input: Sizes::new(&TOKEN_BOUNDS),
            output: Sizes::new(&TOKEN_BOUNDS),
            input_total: 0,
            output_total: 0,
        }
    }

    fn take(&mut self, secs: f64, trace: Option<&str>, usage: Option<(u64, u64)>) {
        self.duration.take(secs, trace);
        let Some((input, output)) = usage else { return };
        self.input.take(input as f64, None);
        self.output.take(output as f64, None);
        self.input_total = self.input_total.saturating_add(input);
        self.output_total = self.output_total.saturating_add(output);
    }

    /// The rows of a metric.
    fn rows(&self, kind: &CallKind, what: What) -> Vec<(Labels, Measured)> {
        let labels = labels(kind);
        let sizes = |of: &Sizes| Measured::Sizes(Box::new(of.clone()));
        match what {
            What::Duration => vec![(labels, sizes(&self.duration))],
            What::TokenSizes => {
                vec![
                    (with(&labels, "input"), sizes(&self.input)),
                    (with(&labels, "output"), sizes(&self.output)),
                ]
            }
            What::OutputSizes => vec![(labels, sizes(&self.output))],
            What::InputTotal => vec![(labels, Measured::Total(self.input_total))],
            What::OutputTotal => vec![(labels, Measured::Total(self.output_total))],
        }
    }
}

impl fmt::Debug for GenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GenAi({:?})", self.semconv)
    }
}

enum Otel {
    Duration(Histogram<f64>),
    Tokens(Histogram<u64>),
    OutputTokens(Histogram<u64>),
    InputTotal(Counter<u64>),
    OutputTotal(Counter<u64>),
}

impl GenAi {
    /// The metrics that this setting asks for; pushed through `meter` too, if there is one.
    pub fn new(semconv: Semconv, meter: Option<&Meter>) -> Arc<Self> {
        let wanted = ALL.iter().filter(|metric| emitted(semconv, metric.semconv));
        let otel = meter.map(|meter| wanted.map(|metric| instrument(meter, metric)).collect());
        Arc::new(Self { semconv, sets: Mutex::default(), otel: otel.unwrap_or_default() })
    }

    /// Takes in a call.
    pub fn record(&self, call: &Judged) {
        // What others told of a call they may export themselves.
        if self.semconv == Semconv::Off
            || call.reported
            || call.end.status.is_none()
            || !call.end.call.path.contains("/messages")
        {
            return;
        }
        let secs = call.end.at.since(call.end.call.started).as_secs_f64();
        // The SDK's own counters wrap: no call takes so many that they could.
        let tokens = |n: u64| n.min(MOST_TOKENS);
        let usage = call.end.usage.map(|usage| (tokens(usage.all_input()), tokens(usage.output.get())));
        let attributes = self.take(call, secs, usage);
        let [of_call, of_input, of_output] = &*attributes;
        for instrument in &self.otel {
            match (instrument, usage) {
                (Otel::Duration(histogram), _) => histogram.record(secs, of_call),
                (Otel::Tokens(histogram), Some((input, output))) => {
                    histogram.record(input, of_input);
                    histogram.record(output, of_output);
                }
                (Otel::OutputTokens(histogram), Some((_, output))) => histogram.record(output, of_call),
                (Otel::InputTotal(counter), Some((input, _))) => counter.add(input, of_call),
                (Otel::OutputTotal(counter), Some((_, output))) => counter.add(output, of_call),
                (_, None) => {}
            }
        }
    }

    /// Counts a call among those with the same attributes, or with the model `_other` once there are too many.
    fn take(&self, call: &Judged, secs: f64, usage: Option<(u64, u64)>) -> Arc<[Vec<KeyValue>; 3]> {
        let mut kind = CallKind {
            provider: call.surface.provider(),
            model: call.end.model.clone(),
            error: call.is_error().then(|| call.end.error_type()),
        };
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= MAX_SETS && !sets.contains_key(&kind) {
            kind.model = Some(ModelGroup::other());
        }
        let set = sets.entry(kind).or_insert_with_key(Set::new);
        set.take(secs, call.end.call.trace_id(), usage);
        set.otel.clone()
    }

    /// Every metric that was asked for and has something to say.
    pub fn exposed(&self) -> Vec<Exposed> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = sets.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(b.0));
        let wanted = ALL.iter().filter(|metric| emitted(self.semconv, metric.semconv));
        wanted
            .map(|metric| {
                (
                    metric,
                    sorted.iter().flat_map(|(kind, set)| set.rows(kind, metric.what)).collect::<Vec<_>>(),
                )
            })
            .filter(|(_, rows)| !rows.is_empty())
            .collect()
    }
}

/// These attributes and the type of tokens.
fn with(labels: &Labels, token_type: &str) -> Labels {
    let mut all = labels.clone();
    all.push((key::TOKEN_TYPE, token_type.to_owned()));
    all
}

fn otel(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect()
}

fn emitted(setting: Semconv, of: Semconv) -> bool {
    setting == Semconv::Both || setting == of
}

fn instrument(meter: &Meter, metric: &GenAiMetric) -> Otel {
    let histogram = |bounds: &[f64]| {
        let builder = meter.u64_histogram(metric.name).with_unit(metric.unit).with_description(metric.help);
        builder.with_boundaries(bounds.to_vec()).build()
    };
    let counter =
        || meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build();
    match metric.what {
        What::Duration => Otel::Duration(
            meter
                .f64_histogram(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.help)
                .with_boundaries(DURATION_BOUNDS.to_vec())
                .build(),
        ),
        What::TokenSizes => Otel::Tokens(histogram(&TOKEN_BOUNDS)),
        What::OutputSizes => Otel::OutputTokens(histogram(&TOKEN_BOUNDS)),
        What::InputTotal => Otel::InputTotal(counter()),
        What::OutputTotal => Otel::OutputTotal(counter()),
    }
}

fn labels(kind: &CallKind) -> Labels {
    let mut all =
        vec![("gen_ai.operation.name", "chat".to_owned()), (key::PROVIDER, kind.provider.to_owned())];
    if let Some(model) = kind.model.as_ref().filter(|m| !m.as_str().is_empty()) {
        all.push((key::MODEL, model.as_str().to_owned()));
    }
    if let Some(error) = &kind.error {
        all.push(("error.type", error.clone()));
    }
    all
}
