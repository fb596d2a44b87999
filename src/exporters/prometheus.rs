//! `/metrics`: the catalogue as text. A pure function of a snapshot.
//!
//! OpenMetrics where the scraper asks for it, else the older Prometheus text format, which every tool reads. Each is
//! written from the families, and never one from the other's text: what stands in a name (` # {`, a quote, a line's end)
//! is a name's business, and one label that is taken for syntax costs the whole scrape.

use super::catalogue::{Facts, Kind, Value, escaped, families, prometheus_name, unit_word};
use super::genai::{Exposed, Measured, Sizes};
use crate::engine::Snapshot;
use std::borrow::Cow;

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
    let mut text = Text { out: String::new(), format };
    for exposed in facts.genai.exposed() {
        text.genai(&exposed);
    }
    for family in families(snapshot, facts) {
        let metric = family.metric;
        let name = text.head(metric.name, metric.unit, metric.kind == Kind::Counter, None, metric.help);
        let names: Vec<(&str, String)> = metric.attributes.iter().map(|key| (*key, escaped(key))).collect();
        for point in &family.points {
            let labels: Vec<(&str, &str)> =
                point.attributes.iter().map(|(k, v)| (label_of(&names, k), v.as_ref())).collect();
            // The newest event counts one.
            let exemplar =
                point.trace.as_deref().filter(|_| metric.kind == Kind::Counter).map(|id| (id, 1.0));
            text.sample(&name, &labels, point.value, exemplar);
        }
    }
    if format == Format::OpenMetrics {
        text.out.push_str("# EOF\n");
    }
    text.out
}

/// The label of an attribute, of those that its metric has.
fn label_of<'n>(names: &'n [(&str, String)], attribute: &str) -> &'n str {
    names.iter().find(|(name, _)| *name == attribute).map_or("", |(_, label)| label)
}

/// The text that is being written.
struct Text {
    out: String,
    format: Format,
}

impl Text {
    /// What stands above a family's samples; returns the samples' name.
    fn head(
        &mut self,
        name: &str,
        unit: &str,
        counter: bool,
        histogram: Option<&Sizes>,
        help: &str,
    ) -> String {
        let sample = prometheus_name(name, unit, counter);
        // OpenMetrics names a counter's family without `_total`; the older format names it with it and knows no units.
        let open = self.format == Format::OpenMetrics;
        let family = if open { prometheus_name(name, unit, false) } else { sample.clone() };
        let kind = match (counter, histogram) {
            (true, _) => "counter",
            (_, Some(_)) => "histogram",
            _ => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let help = if open { help.replace('"', "\\\"") } else { help };
        self.out.push_str(&format!("# HELP {family} {help}\n# TYPE {family} {kind}\n"));
        if let Some(word) = unit_word(unit).filter(|_| open) {
            self.out.push_str(&format!("# UNIT {family} {word}\n"));
        }
        sample
    }

    fn genai(&mut self, (metric, rows): &Exposed) {
        let sizes = rows.iter().find_map(|(_, measured)| match measured {
            Measured::Sizes(sizes) => Some(&**sizes),
            Measured::Total(_) => None,
        });
        let name = self.head(metric.name, metric.unit, metric.what.is_counter(), sizes, metric.help);
        for (attributes, measured) in rows {
            let named: Vec<(String, &str)> =
                attributes.iter().map(|(key, value)| (escaped(key), value.as_str())).collect();
            let labels: Vec<(&str, &str)> = named.iter().map(|(k, v)| (k.as_str(), *v)).collect();
            match measured {
                Measured::Total(n) => self.sample(&name, &labels, Value::Whole(*n), None),
                Measured::Sizes(sizes) => self.histogram(&name, &labels, sizes),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], sizes: &Sizes) {
        let bounds = sizes.bounds.iter().copied().chain([f64::INFINITY]);
        let mut below = 0_u64;
        for ((bound, n), trace) in bounds.zip(sizes.counts).zip(&sizes.traces) {
            below = below.saturating_add(n);
            let bound = real(bound);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            let exemplar = trace.as_ref().map(|(id, value)| (&**id, *value));
            self.sample(&format!("{name}_bucket"), &labels, Value::Whole(below), exemplar);
        }
        self.sample(&format!("{name}_sum"), labels, Value::Real(sizes.sum), None);
        self.sample(&format!("{name}_count"), labels, Value::Whole(sizes.count()), None);
    }

    /// One sample; the trace of an event behind it where the format knows such a thing.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: Value, exemplar: Option<(&str, f64)>) {
        self.out.push_str(name);
        if !labels.is_empty() {
            self.labels(labels);
        }
        self.out.push(' ');
        match value {
            Value::Whole(n) => self.out.push_str(&n.to_string()),
            Value::Real(x) => self.out.push_str(&real(x)),
        }
        if let Some((id, of)) = exemplar.filter(|_| self.format == Format::OpenMetrics) {
            self.out.push_str(" # ");
            self.labels(&[("trace_id", id)]);
            self.out.push(' ');
            self.out.push_str(&real(of));
        }
        self.out.push('\n');
    }

    fn labels(&mut self, labels: &[(&str, &str)]) {
        for (at, (name, value)) in labels.iter().enumerate() {
            self.out.push(if at == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            self.out.push_str(&quoted(value));
            self.out.push('"');
        }
        self.out.push('}');
    }
}

/// A label's value as it stands between quotes, in both formats.
fn quoted(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// A number that may be none, as both formats write it.
fn real(x: f64) -> String {
    match x {
        _ if x.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => format!("{x:?}"),
    }
}
