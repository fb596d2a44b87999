//! One CLIENT span for each call that passed, with its owner. Failures always, successes sampled.
//!
//! Spans are made after the call, from what the engine judged, with the call's own times; the
//! caller's `traceparent` is the parent. Nothing is added to the request.

use super::calls::Listener;
use super::catalogue::key;
use crate::engine::Judged;
use crate::limit::Timestamp;
use crate::observation::{Call, End};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Makes spans with these tracers; `ratio` is the share of successes that leave one.
pub fn listener(tracers: &SdkTracerProvider, ratio: f64) -> Listener {
    let tracer = tracers.tracer("plimsoll");
    let propagator = TraceContextPropagator::new();
    Box::new(move |call| {
        // A call that somebody else told of has a span already, if anybody wants one.
        if call.reported {
            return;
        }
        let parent = propagator.extract(&Caller(&call.end.call));
        if keep(call, &parent, ratio) {
            let mut span = builder(call).start_with_context(&tracer, &parent);
            if call.is_error() {
                span.set_status(Status::error(""));
            }
            span.end_with_timestamp(system_time(call.end.at));
        }
    })
}

/// Failures are kept. Of successes a share, by trace id, so that all sidecars of one trace agree.
fn keep(call: &Judged, parent: &Context, ratio: f64) -> bool {
    if call.is_error() {
        return true;
    }
    let span = parent.span();
    let context = span.span_context();
    let random = if context.is_valid() {
        (u128::from_be_bytes(context.trace_id().to_bytes()) as u64) >> 11
    } else {
        // No trace: spread the call ids (Fibonacci hashing).
        call.end.call.id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11
    };
    (random as f64) < ratio * (1_u64 << 53) as f64
}

struct Caller<'a>(&'a Call);

impl Extractor for Caller<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if name == "traceparent" { self.0.traceparent.as_deref() } else { None }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

fn builder(call: &Judged) -> SpanBuilder {
    let end = &call.end;
    let operation = operation(&end.call);
    let model = end.model.as_ref().map_or("", |m| m.as_str());
    let name = format!("{operation} {model}").trim_end().to_owned();
    SpanBuilder::from_name(name)
        .with_kind(SpanKind::Client)
        .with_start_time(system_time(end.call.started))
        .with_attributes(attributes(call, operation, model))
}

/// OpenTelemetry's operation name, where the path tells; else the HTTP method.
fn operation(call: &Call) -> &str {
    if call.path.ends_with("/v1/messages") || call.path.ends_with("/chat/completions") {
        "chat"
    } else {
        call.method.as_str()
    }
}

fn attributes(call: &Judged, operation: &str, model: &str) -> Vec<KeyValue> {
    let end: &End = &call.end;
    let mut all = vec![
        KeyValue::new(key::OWNER, call.owner.id.as_str().to_owned()),
        KeyValue::new(key::OWNER_KIND, call.owner.kind.as_str()),
        KeyValue::new(key::SURFACE, call.surface.as_str()),
        KeyValue::new(key::ROUTE, end.call.route.as_str().to_owned()),
        KeyValue::new(key::PROVIDER, call.surface.provider()),
        KeyValue::new("gen_ai.operation.name", operation.to_owned()),
        KeyValue::new("http.request.method", end.call.method.to_string()),
        KeyValue::new("plimsoll.outcome", end.outcome.as_str()),
    ];
    if !model.is_empty() {
        all.push(KeyValue::new(key::MODEL, model.to_owned()));
    }
    if let Some(region) = &end.call.region {
        all.push(KeyValue::new(key::REGION, region.to_string()));
    }
    if let Some(status) = end.status {
        all.push(KeyValue::new(key::STATUS, i64::from(status)));
    }
    if let Some(id) = &end.limits.request_id {
        all.push(KeyValue::new("plimsoll.request_id", id.to_string()));
    }
    if let Some(usage) = end.usage {
        all.push(KeyValue::new("gen_ai.usage.input_tokens", saturating(usage.all_input())));
        all.push(KeyValue::new("gen_ai.usage.output_tokens", saturating(usage.output.get())));
    }
    if let Some(verdict) = &call.verdict {
        all.push(KeyValue::new(key::VERDICT, verdict.class.as_str()));
        all.push(KeyValue::new(key::EVIDENCE, verdict.rule.rung.as_str()));
        if let Some(limiter) = &verdict.limiter {
            all.push(KeyValue::new(key::LIMITER, limiter.as_str().to_owned()));
        }
        let error =
            end.status.filter(|s| *s >= 400).map_or_else(|| "in_stream".to_owned(), |s| s.to_string());
        all.push(KeyValue::new("error.type", error));
    }
    all
}

fn saturating(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(at.micros()).unwrap_or(0))
}
