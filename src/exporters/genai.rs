//! OpenTelemetry's GenAI metrics: duration and usage of each call, for dashboards that know them.
//!
//! They are in development and were renamed in autumn 2026 (`gen_ai.client.operation.duration` to
//! `gen_ai.client.inference.duration`, `gen_ai.client.token.usage` split), so they are off unless
//! asked for, by the old names, the new ones, or both. Our own metrics never depend on them. On the
//! scrape, durations carry the newest trace as an exemplar (the OpenTelemetry SDK writes none).

use super::catalogue::{escaped, key};
use crate::config::Semconv;
use crate::engine::Judged;
use crate::route::{ModelGroup, Surface};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter as PromCounter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram as PromHistogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds of the duration histogram in seconds, as OpenTelemetry advises: 0.01 s, doubled.
pub const DURATION_BOUNDS: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// Bounds of the token histograms, as OpenTelemetry advises: powers of four.
pub const TOKEN_BOUNDS: [f64; 14] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Labels(Vec<(&'static str, String)>);

impl Labels {
    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut all = self.0.clone();
        all.push((name, value.to_owned()));
        Self(all)
    }

    fn otel(&self) -> Vec<KeyValue> {
        self.0.iter().map(|(name, value)| KeyValue::new(*name, value.clone())).collect()
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let pairs: Vec<(String, &str)> = self.0.iter().map(|(n, v)| (escaped(n), v.as_str())).collect();
        pairs.encode(encoder)
    }
}

type TraceLabel = [(&'static str, String); 1];
type Durations =
    Family<Labels, HistogramWithExemplars<TraceLabel>, fn() -> HistogramWithExemplars<TraceLabel>>;
type TokenSizes = Family<Labels, PromHistogram, fn() -> PromHistogram>;

/// The state of the GenAI metrics.
pub struct GenAi {
    semconv: Semconv,
    sets: Mutex<HashMap<CallKind, Arc<Handles>>>,
    durations: Durations,
    tokens: TokenSizes,
    outputs: TokenSizes,
    input_total: Family<Labels, PromCounter>,
    output_total: Family<Labels, PromCounter>,
    otel: Vec<Otel>,
}

/// What calls of one set of attributes have in common.
#[derive(Clone, PartialEq, Eq, Hash)]
struct CallKind {
    surface: Surface,
    model: Option<ModelGroup>,
    error: Option<String>,
}

/// The metrics of one set of attributes, looked up once.
struct Handles {
    attributes: Vec<KeyValue>,
    input: Vec<KeyValue>,
    output: Vec<KeyValue>,
    duration: HistogramWithExemplars<TraceLabel>,
    input_tokens: PromHistogram,
    output_tokens: PromHistogram,
    output_sizes: PromHistogram,
    input_total: PromCounter,
    output_total: PromCounter,
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

fn durations() -> HistogramWithExemplars<TraceLabel> {
    HistogramWithExemplars::new(DURATION_BOUNDS.into_iter())
}

fn tokens() -> PromHistogram {
    PromHistogram::new(TOKEN_BOUNDS)
}

impl GenAi {
    /// The metrics that this setting asks for; pushed through `meter` too, if there is one.
    pub fn new(semconv: Semconv, meter: Option<&Meter>) -> Arc<Self> {
        let wanted = ALL.iter().filter(|metric| emitted(semconv, metric.semconv));
        let otel = meter.map(|meter| wanted.map(|metric| instrument(meter, metric)).collect());
        Arc::new(Self {
            semconv,
            sets: Mutex::default(),
            durations: Family::new_with_constructor(durations),
            tokens: Family::new_with_constructor(tokens),
            outputs: Family::new_with_constructor(tokens),
            input_total: Family::default(),
            output_total: Family::default(),
            otel: otel.unwrap_or_default(),
        })
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
        let handles = self.handles(call);
        let secs = call.end.at.since(call.end.call.started).as_secs_f64();
        let trace = call.end.call.trace_id().map(|id| [("trace_id", id.to_owned())]);
        handles.duration.observe(secs, trace, None);
        let usage = call.end.usage.map(|usage| (usage.all_input(), usage.output.get()));
        if let Some((input, output)) = usage {
            handles.input_tokens.observe(input as f64);
            handles.output_tokens.observe(output as f64);
            handles.output_sizes.observe(output as f64);
            handles.input_total.inc_by(input);
            handles.output_total.inc_by(output);
        }
        for instrument in &self.otel {
            match (instrument, usage) {
                (Otel::Duration(histogram), _) => histogram.record(secs, &handles.attributes),
                (Otel::Tokens(histogram), Some((input, output))) => {
                    histogram.record(input, &handles.input);
                    histogram.record(output, &handles.output);
                }
                (Otel::OutputTokens(histogram), Some((_, output))) => {
                    histogram.record(output, &handles.attributes);
                }
                (Otel::InputTotal(counter), Some((input, _))) => counter.add(input, &handles.attributes),
                (Otel::OutputTotal(counter), Some((_, output))) => counter.add(output, &handles.attributes),
                (_, None) => {}
            }
        }
    }

    /// The metrics of a call's attributes, or of the model `_other` once there are too many.
    fn handles(&self, call: &Judged) -> Arc<Handles> {
        let mut kind = CallKind {
            surface: call.surface,
            model: call.end.model.clone(),
            error: call.is_error().then(|| call.end.error_type()),
        };
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handles) = sets.get(&kind) {
            return handles.clone();
        }
        if sets.len() >= MAX_SETS {
            kind.model = Some(ModelGroup::other());
        }
        sets.entry(kind.clone()).or_insert_with(|| Arc::new(self.make(&kind))).clone()
    }

    fn make(&self, kind: &CallKind) -> Handles {
        let labels = labels(kind);
        let (input, output) = (labels.with(key::TOKEN_TYPE, "input"), labels.with(key::TOKEN_TYPE, "output"));
        // One statement each: the look-up holds a lock until its statement ends, and two look-ups in
        // one family would wait for each other.
        let duration = self.durations.get_or_create(&labels).clone();
        let input_tokens = self.tokens.get_or_create(&input).clone();
        let output_tokens = self.tokens.get_or_create(&output).clone();
        let output_sizes = self.outputs.get_or_create(&labels).clone();
        let input_total = self.input_total.get_or_create(&labels).clone();
        let output_total = self.output_total.get_or_create(&labels).clone();
        Handles {
            duration,
            input_tokens,
            output_tokens,
            output_sizes,
            input_total,
            output_total,
            attributes: labels.otel(),
            input: input.otel(),
            output: output.otel(),
        }
    }

    /// Puts the metrics on the scrape.
    pub fn register(&self, registry: &mut Registry) {
        for metric in ALL.iter().filter(|metric| emitted(self.semconv, metric.semconv)) {
            // The library puts the full stop itself.
            let (name, help) = (escaped(metric.name), metric.help.trim_end_matches('.'));
            match metric.what {
                What::Duration => {
                    registry.register_with_unit(name, help, Unit::Seconds, self.durations.clone());
                }
                What::TokenSizes => registry.register(name, help, self.tokens.clone()),
                What::OutputSizes => registry.register(name, help, self.outputs.clone()),
                What::InputTotal => registry.register(name, help, self.input_total.clone()),
                What::OutputTotal => registry.register(name, help, self.output_total.clone()),
            }
        }
    }
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
    let mut all = vec![
        ("gen_ai.operation.name", "chat".to_owned()),
        (key::PROVIDER, kind.surface.provider().to_owned()),
    ];
    if let Some(model) = kind.model.as_ref().filter(|m| !m.as_str().is_empty()) {
        all.push((key::MODEL, model.as_str().to_owned()));
    }
    if let Some(error) = &kind.error {
        all.push(("error.type", error.clone()));
    }
    Labels(all)
}
