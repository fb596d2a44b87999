//! `/metrics`: the catalogue as text. A pure function of a snapshot.
//!
//! OpenMetrics where the scraper asks for it, else the older Prometheus text format, which every
//! tool reads; both come from one encoder.

use super::catalogue::{Facts, Family, Kind, Point, Value, escaped, families, unit_word};
use crate::engine::Snapshot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::CounterWithExemplar;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// What an `accept` header asks for.
    pub fn accepted(accept: Option<&str>) -> Self {
        if accept.is_some_and(|a| a.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The exposition of a snapshot.
pub fn render(snapshot: &Snapshot, facts: &Facts, format: Format) -> String {
    let families = families(snapshot, facts);
    let own = families.iter().filter(|f| f.metric.kind == Kind::Counter).map(|f| escaped(f.metric.name));
    let genai = super::genai::ALL.iter().filter(|m| m.what.is_counter()).map(|m| escaped(m.name));
    let counters: Vec<String> = own.chain(genai).collect();
    let mut registry = Registry::default();
    facts.genai.register(&mut registry);
    registry.register_collector(Box::new(Rendered(families)));
    let mut out = String::new();
    // Writing to a string cannot fail; the encoder's signature is that of any writer.
    if text::encode(&mut out, &registry).is_err() {
        tracing::error!("the exposition could not be written");
    }
    match format {
        Format::OpenMetrics => out,
        Format::Text => as_text(&out, &counters),
    }
}

/// OpenMetrics names a counter's family without `_total`; the older format names it with it, knows
/// no units and has no end mark.
fn as_text(open_metrics: &str, counters: &[String]) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    // Exemplars stand behind a sample, and only OpenMetrics knows them.
    let without_exemplar = |line: &'_ str| line.find(" # {").map_or(line.len(), |at| at);
    for line in open_metrics.lines().filter(|l| !l.starts_with("# UNIT ") && *l != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest))
                if counters.iter().any(|c| c == name) =>
            {
                out.push_str(&format!("# {what} {name}_total {rest}"));
            }
            (Some("#"), ..) => out.push_str(line),
            _ => out.push_str(&line[..without_exemplar(line)]),
        }
        out.push('\n');
    }
    out
}

#[derive(Debug)]
struct Rendered(Vec<Family>);

impl Collector for Rendered {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let name = escaped(family.metric.name);
            let unit = unit_word(family.metric.unit).map(|word| Unit::Other(word.to_owned()));
            let kind = match family.metric.kind {
                Kind::Gauge => MetricType::Gauge,
                Kind::Counter => MetricType::Counter,
            };
            let mut metric = encoder.encode_descriptor(&name, family.metric.help, unit.as_ref(), kind)?;
            let names: Vec<(&str, String)> =
                family.metric.attributes.iter().map(|k| (*k, escaped(k))).collect();
            for Point { attributes, value, trace } in &family.points {
                let labels: Vec<(&str, &str)> =
                    attributes.iter().map(|(k, v)| (label_of(&names, k), v.as_ref())).collect();
                if labels.is_empty() {
                    write_point(&mut metric, family.metric.kind, *value, trace.as_deref())?;
                } else {
                    write_point(
                        &mut metric.encode_family(&labels)?,
                        family.metric.kind,
                        *value,
                        trace.as_deref(),
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// The label of an attribute, of those that its metric has.
fn label_of<'n>(names: &'n [(&str, String)], attribute: &str) -> &'n str {
    names.iter().find(|(name, _)| *name == attribute).map_or("", |(_, label)| label)
}

fn write_point(
    point: &mut MetricEncoder<'_>,
    kind: Kind,
    value: Value,
    trace: Option<&str>,
) -> Result<(), fmt::Error> {
    match (kind, value) {
        (Kind::Counter, Value::Whole(n)) => {
            let Some(id) = trace else { return point.encode_counter::<NoLabelSet, _, u64>(&n, None) };
            // The library makes exemplars only of counters of its own: its newest event counts one.
            let newest = CounterWithExemplar::<[(&str, String); 1]>::default();
            newest.inc_by(1, Some([("trace_id", id.to_owned())]), None);
            point.encode_counter(&n, newest.get().1.as_ref())
        }
        (Kind::Counter, Value::Real(x)) => point.encode_counter::<NoLabelSet, _, f64>(&x, None),
        (Kind::Gauge, Value::Whole(n)) => point.encode_gauge(&n),
        (Kind::Gauge, Value::Real(x)) => point.encode_gauge(&x),
    }
}
