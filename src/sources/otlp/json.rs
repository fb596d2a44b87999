//! OTLP in JSON: the same items. Attributes that are not wanted are passed over while they are read.

use super::item::{Attributes, Item, Kind, Signal, Take, is_wanted};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Reads a request to export a signal.
///
/// # Errors
/// If it is no such document.
pub fn read(signal: Signal, text: &[u8], take: &mut impl Take) -> Result<(), serde_json::Error> {
    match signal {
        Signal::Traces => {
            let request: Request<'_> = serde_json::from_slice(text)?;
            for resource in request.resource_spans {
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    take.take(&resource.resource.attributes.0, span.item());
                }
            }
        }
        Signal::Logs => {
            let request: Request<'_> = serde_json::from_slice(text)?;
            for resource in request.resource_logs {
                for record in resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
                    take.take(&resource.resource.attributes.0, record.item());
                }
            }
        }
        Signal::Metrics => {
            let request: Request<'_> = serde_json::from_slice(text)?;
            for resource in request.resource_metrics {
                for metric in resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                    metric.take(&resource.resource.attributes.0, take);
                }
            }
        }
    }
    Ok(())
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Request<'a> {
    resource_spans: Vec<Scoped<'a>>,
    resource_logs: Vec<Scoped<'a>>,
    resource_metrics: Vec<Scoped<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Scoped<'a> {
    resource: Resource<'a>,
    scope_spans: Vec<Scope<'a>>,
    scope_logs: Vec<Scope<'a>>,
    scope_metrics: Vec<Scope<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Resource<'a> {
    attributes: Kept<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Scope<'a> {
    spans: Vec<Span<'a>>,
    log_records: Vec<Record<'a>>,
    metrics: Vec<Metric<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Span<'a> {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    name: Cow<'a, str>,
    kind: Number,
    start_time_unix_nano: Number,
    end_time_unix_nano: Number,
    attributes: Kept<'a>,
    events: Vec<Event<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Event<'a> {
    name: Cow<'a, str>,
}

impl<'a> Span<'a> {
    fn item(self) -> Item<'a> {
        Item {
            name: self.name,
            trace: id(self.trace_id, 32),
            span: id(self.span_id, 16),
            parent: id(self.parent_span_id, 16),
            span_kind: self.kind.whole,
            start: self.start_time_unix_nano.whole,
            end: self.end_time_unix_nano.whole,
            attempts: self.events.iter().filter(|event| event.name == super::ATTEMPT).count() as u64,
            attributes: self.attributes.0,
            ..Item::new(Kind::Span)
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Record<'a> {
    time_unix_nano: Number,
    observed_time_unix_nano: Number,
    body: Option<Value<'a>>,
    event_name: Cow<'a, str>,
    trace_id: String,
    span_id: String,
    attributes: Kept<'a>,
}

impl<'a> Record<'a> {
    fn item(self) -> Item<'a> {
        let body = self.body.and_then(|body| body.0.into_iter().next()).filter(|text| text.len() < 128);
        let told = self.time_unix_nano.whole;
        Item {
            name: if self.event_name.is_empty() { body.unwrap_or_default() } else { self.event_name },
            trace: id(self.trace_id, 32),
            span: id(self.span_id, 16),
            end: if told == 0 { self.observed_time_unix_nano.whole } else { told },
            attributes: self.attributes.0,
            ..Item::new(Kind::Log)
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, bound(deserialize = "'de: 'a"))]
struct Metric<'a> {
    name: Cow<'a, str>,
    sum: Option<Sum<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Sum<'a> {
    data_points: Vec<Point<'a>>,
    aggregation_temporality: Number,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", bound(deserialize = "'de: 'a"))]
struct Point<'a> {
    start_time_unix_nano: Number,
    time_unix_nano: Number,
    as_double: Number,
    as_int: Number,
    attributes: Kept<'a>,
}

impl Metric<'_> {
    fn take(self, resource: &Attributes<'_>, take: &mut impl Take) {
        let Some(sum) = self.sum.filter(|_| self.name == super::TOKENS) else { return };
        for point in sum.data_points {
            let item = Item {
                name: Cow::Borrowed(super::TOKENS),
                start: point.start_time_unix_nano.whole,
                end: point.time_unix_nano.whole,
                value: point.as_double.real + point.as_int.real,
                cumulative: sum.aggregation_temporality.whole == 2,
                attributes: point.attributes.0,
                ..Item::new(Kind::Point)
            };
            take.take(resource, item);
        }
    }
}

/// A number, or one in quotes (64-bit integers are), or an enumeration's name.
#[derive(Clone, Copy, Default)]
struct Number {
    /// Whole, where it is: a time in nanoseconds has more digits than a float.
    whole: u64,
    real: f64,
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        let text = Value::deserialize(json)?.0.into_iter().next().unwrap_or_default();
        let real = text.parse().unwrap_or(match &*text {
            "SPAN_KIND_SERVER" | "AGGREGATION_TEMPORALITY_CUMULATIVE" => 2.0,
            "SPAN_KIND_CLIENT" => 3.0,
            _ => 0.0,
        });
        Ok(Self { whole: text.parse().unwrap_or(real as u64), real })
    }
}

/// Attributes of which only the wanted ones are kept.
#[derive(Default)]
struct Kept<'a>(Attributes<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Kept<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct All<'a>(Attributes<'a>);
        impl<'de: 'a, 'a> Visitor<'de> for All<'a> {
            type Value = Kept<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of attributes")
            }

            fn visit_unit<E>(self) -> Result<Kept<'a>, E> {
                Ok(Kept(self.0))
            }

            fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Kept<'a>, A::Error> {
                while let Some(Pair { key, value }) = seq.next_element::<Pair<'a>>()? {
                    if is_wanted(&key) {
                        for one in value.into_iter().flat_map(|value| value.0) {
                            self.0.add(key.clone(), one);
                        }
                    }
                }
                Ok(Kept(self.0))
            }
        }
        json.deserialize_any(All(Attributes::default()))
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Pair<'a> {
    #[serde(default)]
    key: Cow<'a, str>,
    #[serde(default)]
    value: Option<Value<'a>>,
}

/// An `AnyValue`, or a bare one: the texts in it.
#[derive(Default)]
struct Value<'a>(Vec<Cow<'a, str>>);

/// Most elements of an array that are kept.
const MOST_ELEMENTS: usize = 16;

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct One<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for One<'a> {
            type Value = Value<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'a>, E> {
                Ok(Value(vec![Cow::Borrowed(text)]))
            }

            fn visit_str<E>(self, text: &str) -> Result<Value<'a>, E> {
                Ok(Value(vec![Cow::Owned(text.to_owned())]))
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Value<'a>, E> {
                Ok(Value(vec![Cow::Borrowed(if truth { "true" } else { "false" })]))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Value<'a>, E> {
                Ok(Value(vec![Cow::Owned(n.to_string())]))
            }

            fn visit_i64<E>(self, n: i64) -> Result<Value<'a>, E> {
                Ok(Value(vec![Cow::Owned(n.to_string())]))
            }

            fn visit_f64<E>(self, n: f64) -> Result<Value<'a>, E> {
                Ok(Value(vec![Cow::Owned(n.to_string())]))
            }

            fn visit_unit<E>(self) -> Result<Value<'a>, E> {
                Ok(Value::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'a>, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element::<Value<'a>>()? {
                    if all.len() < MOST_ELEMENTS {
                        all.extend(one.0);
                    }
                }
                Ok(Value(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'a>, A::Error> {
                let mut value = Value::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match &*key {
                        "stringValue" | "boolValue" | "intValue" | "doubleValue" | "arrayValue"
                        | "values" => {
                            value = map.next_value()?;
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(value)
            }
        }
        json.deserialize_any(One(std::marker::PhantomData))
    }
}

/// An id in hex digits; empty if it is none.
fn id(text: String, length: usize) -> String {
    let valid = text.len() == length
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b != b'0');
    if valid { text.to_ascii_lowercase() } else { String::new() }
}
