//! Exports as real programs send them, in both encodings, and as hostile ones do.

use super::item::{Attributes, Item, Kind, Signal};
use super::read::{HOLD, Reader};
use super::{json, wire};
use crate::limit::Timestamp;
use crate::observation::Client;
use crate::route::Surface;
use crate::seen::Seen;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

/// The same export in JSON and in protobuf.
fn both(signal: Signal, export: &Value) -> [Vec<u8>; 2] {
    let text = export.to_string().into_bytes();
    let wire = match signal {
        Signal::Traces => serde_json::from_slice::<ExportTraceServiceRequest>(&text).unwrap().encode_to_vec(),
        Signal::Logs => serde_json::from_slice::<ExportLogsServiceRequest>(&text).unwrap().encode_to_vec(),
        Signal::Metrics => {
            serde_json::from_slice::<ExportMetricsServiceRequest>(&text).unwrap().encode_to_vec()
        }
    };
    [text, wire]
}

fn items(signal: Signal, export: &Value) -> Vec<(Attributes<'static>, Item<'static>)> {
    let [text, message] = both(signal, export);
    let owned = |attributes: &Attributes<'_>| {
        let own = |(a, b): &(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
            (a.clone().into_owned().into(), b.clone().into_owned().into())
        };
        Attributes(attributes.0.iter().map(own).collect())
    };
    let keep = |all: &mut Vec<_>, resource: &Attributes<'_>, item: Item<'_>| {
        let attributes = owned(&item.attributes);
        let name = item.name.clone().into_owned().into();
        all.push((owned(resource), Item { name, attributes, ..without_borrows(item) }));
    };
    let (mut of_json, mut of_wire) = (Vec::new(), Vec::new());
    json::read(signal, &text, &mut |r: &Attributes<'_>, i: Item<'_>| keep(&mut of_json, r, i)).unwrap();
    wire::read(signal, &message, &mut |r: &Attributes<'_>, i: Item<'_>| keep(&mut of_wire, r, i)).unwrap();
    assert_eq!(of_json, of_wire, "both encodings say the same");
    of_json
}

fn without_borrows(item: Item<'_>) -> Item<'static> {
    Item {
        trace: item.trace,
        span: item.span,
        parent: item.parent,
        span_kind: item.span_kind,
        start: item.start,
        end: item.end,
        attempts: item.attempts,
        value: item.value,
        cumulative: item.cumulative,
        ..Item::new(item.kind)
    }
}

const NOW: Timestamp = Timestamp::from_secs(1_795_489_383);

fn seen(reader: &Reader, signal: Signal, export: &Value) -> Vec<Seen> {
    items(signal, export).iter().filter_map(|(resource, item)| reader.seen(resource, item, NOW)).collect()
}

fn attributes(pairs: &[(&str, Value)]) -> Value {
    let of = |(key, value): &(&str, Value)| {
        let value = match value {
            Value::String(text) => json!({"stringValue": text}),
            Value::Bool(truth) => json!({"boolValue": truth}),
            Value::Array(all) => {
                let all: Vec<Value> = all.iter().map(|text| json!({"stringValue": text})).collect();
                json!({"arrayValue": {"values": all}})
            }
            number if number.is_f64() => json!({"doubleValue": number}),
            number => json!({"intValue": number.to_string()}),
        };
        json!({"key": key, "value": value})
    };
    pairs.iter().map(of).collect()
}

fn spans(service: &str, spans: &[Value]) -> Value {
    let resource = attributes(&[("service.name", service.into()), ("host.name", "h".into())]);
    json!({"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [{"scope": {}, "spans": spans}]}]})
}

fn logs(service: &str, pairs: &[(&str, Value)]) -> Value {
    let resource = attributes(&[("service.name", service.into())]);
    let record = json!({"timeUnixNano": "1795489382987000000", "body": {"stringValue": "claude_code.event"},
        "attributes": attributes(pairs)});
    json!({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": [{"logRecords": [record]}]}]})
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn span(id: &str, parent: &str, name: &str, pairs: &[(&str, Value)]) -> Value {
    json!({"traceId": TRACE, "spanId": id, "parentSpanId": parent, "name": name, "kind": 3,
        "startTimeUnixNano": "1795489380000000000", "endTimeUnixNano": "1795489382000000000",
        "attributes": attributes(pairs)})
}

#[test]
fn a_clients_span_with_captured_headers_tells_its_limits() {
    let pairs = [
        ("http.request.method", "POST".into()),
        ("server.address", "api.anthropic.com".into()),
        ("url.full", "https://api.anthropic.com/v1/messages?beta=true&key=secret".into()),
        ("http.response.status_code", 429.into()),
        ("http.response.header.anthropic-ratelimit-requests-remaining", json!(["0"])),
        ("http.response.header.anthropic_ratelimit_requests_limit", json!(["50"])),
        ("http.response.header.retry-after", json!(["2"])),
        ("gen_ai.prompt", "secret".into()),
    ];
    let told = seen(
        &Reader::default(),
        Signal::Traces,
        &spans("app", &[span("b7ad6b7169203331", "1111111111111111", "POST", &pairs)]),
    );
    let [seen] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((seen.status, seen.path.as_deref(), seen.headers.len()), (Some(429), Some("/v1/messages"), 3));
    assert_eq!(seen.headers["anthropic-ratelimit-requests-limit"], "50");
    let of = seen.span.as_ref().unwrap();
    assert_eq!((of.trace.as_str(), of.parent.as_deref()), (TRACE, Some("1111111111111111")));
    assert!(!seen.spanning && !format!("{seen:?}").contains("secret"));
}

#[test]
fn a_servers_span_is_no_call_of_ours() {
    let mut server =
        span("b7ad6b7169203331", "", "POST /v1/messages", &[("http.response.status_code", 429.into())]);
    server["kind"] = 2.into();
    assert!(seen(&Reader::default(), Signal::Traces, &spans("app", &[server])).is_empty());
}

#[test]
fn a_genai_span_knows_tokens_and_stands_above_its_requests() {
    // As Anthropic's Python SDK 2.12 makes them by itself.
    let pairs = [
        ("gen_ai.operation.name", "chat".into()),
        ("gen_ai.provider.name", "anthropic".into()),
        ("gen_ai.request.model", "claude-opus-5".into()),
        ("gen_ai.usage.input_tokens", 23.into()),
        ("gen_ai.usage.cache_read.input_tokens", 5.into()),
        ("gen_ai.usage.output_tokens", 4.into()),
        ("anthropic.request.id", "req_1".into()),
        ("anthropic.workspace.id", "wrkspc_1".into()),
        ("http.response.status_code", 200.into()),
        ("http.request.resend_count", 2.into()),
        ("url.path", "/v1/messages".into()),
    ];
    let told = seen(
        &Reader::default(),
        Signal::Traces,
        &spans("app", &[span("b7ad6b7169203331", "", "anthropic.messages.create", &pairs)]),
    );
    let [seen] = told.as_slice() else { panic!("{told:?}") };
    let usage = seen.usage.unwrap();
    assert_eq!((usage.input.get(), usage.cache_read.get(), usage.output.get()), (18, 5, 4));
    assert!(seen.spanning && seen.retries == 2 && seen.ids == ["req_1"]);
    assert_eq!(seen.headers["anthropic-workspace-id"], "wrkspc_1");
    let failed = |error: &str| {
        let pairs = [("gen_ai.request.model", "m".into()), ("error.type", error.into())];
        seen_status(&span("b7ad6b7169203331", "", "chat", &pairs))
    };
    assert_eq!(failed("anthropic.RateLimitError"), Some(429));
    assert_eq!(failed("529"), Some(529));
    assert_eq!(failed("ValueError"), None, "nothing is known of it");
}

fn seen_status(span: &Value) -> Option<u16> {
    seen(&Reader::default(), Signal::Traces, &spans("app", std::slice::from_ref(span))).first()?.status
}

#[test]
fn claude_codes_events_become_calls_and_its_attempts_retries() {
    let reader = Reader::default();
    let event = |name: &str, more: &[(&str, Value)]| {
        let mut pairs: Vec<(&str, Value)> = vec![("event.name", name.into()), ("session.id", "s1".into())];
        pairs.extend(more.iter().cloned());
        seen(&reader, Signal::Logs, &logs("claude-code", &pairs))
    };
    let request = event(
        "api_request",
        &[
            ("model", "claude-opus-5-5".into()),
            ("input_tokens", 12.into()),
            ("output_tokens", 4.into()),
            ("cache_read_tokens", 5.into()),
            ("cache_creation_tokens", 3.into()),
            ("duration_ms", 157.into()),
            ("request_id", "req_1".into()),
            ("prompt", "secret".into()),
        ],
    );
    let [call] = request.as_slice() else { panic!("{request:?}") };
    let usage = call.usage.unwrap();
    assert_eq!((call.status, usage.input.get(), usage.cache_write.get()), (Some(200), 12, 3));
    assert_eq!(
        (call.client, call.surface),
        (Some(Client::ClaudeCode), None),
        "a plan or a key: it does not say"
    );
    assert!(!format!("{call:?}").contains("secret"));
    let error = event(
        "api_error",
        &[
            ("status_code", 429.into()),
            ("attempt", 11.into()),
            ("error", "rate limit".into()),
            ("request_id", "req_2".into()),
        ],
    );
    assert_eq!((error[0].status, error[0].retries), (Some(429), 10));
    assert!(error[0].body.as_ref().unwrap().contains("rate limit"));
    // It repeats its api_error.
    assert!(
        event("api_retries_exhausted", &[("status_code", 429.into()), ("total_attempts", 11.into())])
            .is_empty()
    );
    assert!(event("user_prompt", &[("prompt_length", 2.into())]).is_empty());
    let bedrock =
        event("api_request", &[("anthropic.provider", "bedrock".into()), ("input_tokens", 1.into())]);
    assert_eq!(bedrock[0].surface, Some(Surface::Bedrock));
}

#[test]
fn claude_codes_span_tells_its_attempts_by_their_events_too() {
    let mut call = span(
        "b7ad6b7169203331",
        "2222222222222222",
        "claude_code.llm_request",
        &[
            ("success", true.into()),
            ("request_id", "req_1".into()),
            ("model", "claude-opus-5-5".into()),
            ("input_tokens", 12.into()),
        ],
    );
    let attempt = json!({"name": super::ATTEMPT, "timeUnixNano": "1", "attributes": []});
    call["events"] = json!([attempt, attempt, attempt, {"name": "other", "timeUnixNano": "1"}]);
    let told = seen(&Reader::default(), Signal::Traces, &spans("claude-code", &[call]));
    assert_eq!((told[0].status, told[0].retries, told[0].spanning), (Some(200), 2, true));
}

#[test]
fn envoys_record_begins_where_its_time_says() {
    let pairs = [
        ("http.response.status_code", "429".into()),
        ("url.path", "/v1/messages".into()),
        ("server.address", "api.anthropic.com".into()),
        ("envoy.duration_ms", "41".into()),
        ("envoy.response_flags", "RL".into()),
        ("envoy.response_code_details", "local_rate_limited".into()),
        ("http.response.header.anthropic-ratelimit-requests-limit", "-".into()),
    ];
    let told = seen(&Reader::default(), Signal::Logs, &logs("envoy", &pairs));
    assert_eq!(told[0].answered, Some(crate::seen::Answered::Gateway));
    assert_eq!(told[0].ended.unwrap().since(told[0].started.unwrap()).as_millis(), 41);
    assert!(told[0].headers.is_empty(), "a dash is nothing");
}

fn tokens(session: &str, value: f64, cumulative: bool) -> Value {
    let point = json!({"startTimeUnixNano": "1795489380000000000", "timeUnixNano": "1795489382000000000", "asDouble": value,
        "attributes": attributes(&[("type", "input".into()), ("model", "m".into()), ("session.id", session.into())])});
    let sum = json!({"dataPoints": [point], "aggregationTemporality": if cumulative { 2 } else { 1 }, "isMonotonic": true});
    json!({"resourceMetrics": [{"resource": {"attributes": attributes(&[("service.name", "claude-code".into())])},
        "scopeMetrics": [{"metrics": [{"name": super::TOKENS, "unit": "tokens", "sum": sum}, {"name": "other", "sum": sum}]}]}]})
}

#[test]
fn the_token_metric_counts_where_no_events_are_sent_and_never_twice() {
    let reader = Reader::default();
    let input = |export: &Value| {
        assert!(seen(&reader, Signal::Metrics, export).is_empty(), "it waits");
        assert!(reader.due(NOW).is_empty());
        let told = reader.due(NOW.plus(HOLD));
        told.first().map(|seen| (seen.tokens_only, seen.usage.unwrap().input.get()))
    };
    assert_eq!(input(&tokens("s1", 12.0, false)), Some((true, 12)));
    assert_eq!(input(&tokens("s2", 12.0, true)), None, "a sum that began before we knew it");
    assert_eq!(input(&tokens("s2", 30.0, true)), Some((true, 18)));
    assert_eq!(input(&tokens("s1", f64::MAX, false)).map(|(only, _)| only), Some(true));
    assert_eq!(input(&tokens("s1", -5.0, false)), None);
    // The metric was faster than the events.
    seen(&reader, Signal::Metrics, &tokens("s1", 12.0, false));
    seen(
        &reader,
        Signal::Logs,
        &logs("claude-code", &[("event.name", "user_prompt".into()), ("session.id", "s1".into())]),
    );
    assert!(reader.due(NOW.plus(HOLD)).is_empty(), "its events say the same");
}

#[test]
fn a_million_attributes_cost_no_memory() {
    let key_value = b"\x0a\x04name\x12\x02\x0a\x00";
    let mut span = Vec::new();
    for _ in 0..200_000 {
        span.extend_from_slice(&[0x4a, key_value.len() as u8]);
        span.extend_from_slice(key_value);
    }
    let nested = |inner: &[u8], tag: u8| {
        let mut out = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.extend_from_slice(inner);
        out
    };
    let message = nested(&nested(&nested(&span, 0x12), 0x12), 0x0a);
    let mut kept = 0;
    wire::read(Signal::Traces, &message, &mut |_: &Attributes<'_>, item: Item<'_>| {
        kept += item.attributes.0.len() + 1
    })
    .unwrap();
    assert_eq!(kept, 1, "the span, and none of its attributes");
}

proptest! {
    #[test]
    fn no_bytes_break_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for signal in Signal::ALL {
            let mut take = |resource: &Attributes<'_>, item: Item<'_>| {
                drop(Reader::default().seen(resource, &item, NOW));
            };
            drop(wire::read(signal, &bytes, &mut take));
            drop(json::read(signal, &bytes, &mut take));
        }
    }

    #[test]
    fn what_is_cut_or_flipped_is_refused_or_read_in_part(at in 0_usize..2_000, flip in any::<u8>()) {
        let export = spans("app", &[span("b7ad6b7169203331", "", "POST", &[("http.response.status_code", 200.into())])]);
        for (n, mut bytes) in both(Signal::Traces, &export).into_iter().enumerate() {
            let at = at % bytes.len();
            bytes[at] ^= flip;
            for part in [&bytes[..], &bytes[..at]] {
                let mut kinds = Vec::new();
                let mut take = |_: &Attributes<'_>, item: Item<'_>| kinds.push(item.kind);
                if n == 0 { drop(json::read(Signal::Traces, part, &mut take)) } else { drop(wire::read(Signal::Traces, part, &mut take)) }
                prop_assert!(kinds.iter().all(|kind| *kind == Kind::Span));
            }
        }
    }
}
