//! What sources outside of the path cost on one core, beside the floor of just decoding the same bytes with the generated
//! types (prost) or into `serde_json::Value`. `cargo bench --bench outside`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use arc_swap::ArcSwap;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries,
};
use envoy_types::pb::google::protobuf::{
    Duration as ProtoDuration, Timestamp as ProtoTimestamp, UInt32Value,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use plimsoll::clock::Clock;
use plimsoll::config::sources::Tail;
use plimsoll::dialects;
use plimsoll::engine::{Book, BookLimits, Thresholds};
use plimsoll::mapping::{Mapping, Preset};
use plimsoll::observation::Observation;
use plimsoll::owner::Owners;
use plimsoll::sources::envoy_als;
use plimsoll::sources::intake::{Intake, Rules, Teller};
use plimsoll::sources::otlp::item::{Attributes, Item, Signal};
use plimsoll::sources::otlp::read::Reader;
use plimsoll::sources::otlp::wire;
use plimsoll::sources::tail::Lines;
use plimsoll::stats::Stats;
use prost::Message;
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const ROUNDS: usize = 9;

/// Median time of one run of each, interleaved: both see the same noise.
fn both(mut ours: impl FnMut(), mut floor: impl FnMut()) -> (Duration, Duration) {
    let time = |run: &mut dyn FnMut()| {
        let started = Instant::now();
        run();
        started.elapsed()
    };
    let mut times: Vec<(Duration, Duration)> =
        (0..ROUNDS).map(|_| (time(&mut ours), time(&mut floor))).collect();
    let mut median = |of: fn(&(Duration, Duration)) -> Duration| {
        times.sort_by_key(of);
        of(&times[ROUNDS / 2])
    };
    (median(|t| t.0), median(|t| t.1))
}

fn per_second(what: &str, wanted: &str, n: f64, unit: &str, (ours, floor): (Duration, Duration)) {
    let rate = |took: Duration| n / took.as_secs_f64();
    println!(
        "{what:<44} {:>9.0} {unit} (wanted {wanted}); decoding alone {:>9.0}; ratio {:.2}",
        rate(ours),
        rate(floor),
        floor.as_secs_f64() / ours.as_secs_f64()
    );
}

/// A way in whose queue is emptied by hand.
fn way_in(name: &str) -> (Teller, mpsc::Sender<Observation>, mpsc::Receiver<Observation>) {
    let (observations, told) = mpsc::channel(8_192);
    let intake = Intake {
        rules: Arc::new(ArcSwap::from_pointee(Rules::default())),
        observations: observations.downgrade(),
        stats: Arc::new(Stats::default()),
        clock: Clock::system(),
        read_head: dialects::read_head,
        next_id: Arc::default(),
    };
    (intake.teller(name), observations, told)
}

fn drained(told: &mut mpsc::Receiver<Observation>, mut each: impl FnMut(Observation)) {
    while let Ok(observation) = told.try_recv() {
        each(observation);
    }
}

/// The limit headers of one answer, as Anthropic writes them.
fn headers(n: u64) -> Vec<(String, String)> {
    let mut all = vec![
        ("date".to_owned(), jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        ("request-id".to_owned(), format!("req_{n:024}")),
        ("anthropic-workspace-id".to_owned(), "wrkspc_bench".to_owned()),
    ];
    for (limiter, limit) in
        [("requests", 4_000), ("input-tokens", 2_000_000), ("output-tokens", 400_000), ("tokens", 2_400_000)]
    {
        let name = |field: &str| format!("anthropic-ratelimit-{limiter}-{field}");
        all.push((name("limit"), limit.to_string()));
        all.push((name("remaining"), (limit - n % 1_000).to_string()));
        all.push((name("reset"), "2026-11-24T05:00:01Z".to_owned()));
    }
    all
}

fn now_nanos() -> u64 {
    jiff::Timestamp::now().as_nanosecond() as u64
}

fn main() {
    als();
    otlp();
    tail();
}

fn als() {
    const ENTRIES: u64 = 1_000;
    let now = jiff::Timestamp::now().as_second();
    let entry = |n: u64| HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            start_time: Some(ProtoTimestamp { seconds: now, nanos: 0 }),
            duration: Some(ProtoDuration { seconds: 0, nanos: 5_000_000 }),
            stream_id: format!("stream-{n}"),
            upstream_cluster: "anthropic".into(),
            access_log_type: AccessLogType::DownstreamEnd.into(),
            ..Default::default()
        }),
        request: Some(HttpRequestProperties {
            authority: "api.anthropic.com".into(),
            path: "/v1/messages".into(),
            ..Default::default()
        }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_headers: headers(n).into_iter().collect(),
            response_code_details: "via_upstream".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let logs = HttpAccessLogEntries { log_entry: (0..ENTRIES).map(entry).collect() };
    let message =
        StreamAccessLogsMessage { log_entries: Some(LogEntries::HttpLogs(logs)), ..Default::default() };
    let bytes = message.encode_to_vec();
    let (teller, _open, mut told) = way_in("envoy_als");
    let decode = || StreamAccessLogsMessage::decode(&bytes[..]).unwrap();
    let times = both(
        || {
            envoy_als::take(&teller, decode());
            drained(&mut told, |one| drop(black_box(one)));
        },
        || drop(black_box(decode())),
    );
    per_second("ALS: entries to observations", "50000", ENTRIES as f64, "/s", times);
    let mut book = Book::new(Arc::new(Owners::default()), Thresholds::default(), BookLimits::default());
    let times = both(
        || {
            envoy_als::take(&teller, decode());
            drained(&mut told, |one| into(&mut book, one, &teller));
        },
        || drop(black_box(decode())),
    );
    per_second("ALS: entries through the engine", "-", ENTRIES as f64, "/s", times);
}

fn into(book: &mut Book, observation: Observation, teller: &Teller) {
    if let Observation::Report(report) = observation {
        drop(black_box(book.report(report, teller.now())));
    }
}

fn otlp() {
    const SPANS: u64 = 1_000;
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let span = |n: u64| {
        let mut attributes = vec![
            text("http.request.method", "POST"),
            text("server.address", "api.anthropic.com"),
            text("url.full", "https://api.anthropic.com/v1/messages"),
            text("network.protocol.version", "1.1"),
            text("user_agent.original", "Anthropic/Python 2.12.0"),
            json!({"key": "http.response.status_code", "value": {"intValue": "200"}}),
        ];
        attributes.extend(headers(n).iter().map(|(name, value)| {
            json!({"key": format!("http.response.header.{name}"), "value": {"arrayValue": {"values": [{"stringValue": value}]}}})
        }));
        json!({"traceId": format!("{:032x}", n + 1), "spanId": format!("{:016x}", n + 1), "name": "POST", "kind": 3,
            "startTimeUnixNano": (now_nanos() - 2_000_000).to_string(), "endTimeUnixNano": now_nanos().to_string(), "attributes": attributes})
    };
    let spans: Vec<Value> = (0..SPANS).map(span).collect();
    let export = json!({"resourceSpans": [{"resource": {"attributes": [text("service.name", "app")]}, "scopeSpans": [{"spans": spans}]}]});
    let request: ExportTraceServiceRequest = serde_json::from_value(export).unwrap();
    let bytes = request.encode_to_vec();
    let (teller, _open, mut told) = way_in("otlp");
    let reader = Reader::default();
    let read = || {
        let mut take = |resource: &Attributes<'_>, item: Item<'_>| {
            if let Some(seen) = reader.seen(resource, &item, teller.now()) {
                teller.tell_of_model(seen);
            }
        };
        wire::read(Signal::Traces, &bytes, &mut take).unwrap();
    };
    let decode = || drop(black_box(ExportTraceServiceRequest::decode(&bytes[..]).unwrap()));
    let times = both(
        || {
            read();
            drained(&mut told, |one| drop(black_box(one)));
        },
        decode,
    );
    per_second("OTLP: spans with headers to observations", "50000", SPANS as f64, "/s", times);
    let mut book = Book::new(Arc::new(Owners::default()), Thresholds::default(), BookLimits::default());
    let times = both(
        || {
            read();
            drained(&mut told, |one| into(&mut book, one, &teller));
        },
        decode,
    );
    per_second("OTLP: spans through the engine", "-", SPANS as f64, "/s", times);
}

fn tail() {
    let line = |n: u64| {
        let headers: serde_json::Map<String, Value> =
            headers(n).into_iter().map(|(name, value)| (name, value.into())).collect();
        let now = now_nanos() as f64 / 1e9;
        json!({"attempts": 1, "cluster": "anthropic", "details": "via_upstream", "duration_ms": 42, "entry": "DownstreamEnd",
            "flags": "-", "headed_ms": 1, "headers": headers, "host": "api.anthropic.com", "method": "POST", "path": "/v1/messages",
            "request_bytes": 84, "request_ms": 0, "started": format!("{now:.6}"), "status": 200, "stream_id": format!("s{n}"),
            "user_agent": "me/1"})
        .to_string()
    };
    let other = |n: u64| {
        json!({"time": "2026-11-24T05:00:00Z", "level": "info", "msg": format!("GET /assets/app-{n}.js 200"), "path": "/assets/app.js",
            "status": 200, "host": "shop.example", "bytes": n, "labels": {"app": "shop", "pod": "shop-6d4cf56db6-x2x7p", "zone": "b"},
            "headers": {"content-type": "text/javascript", "etag": "\"5f3c-18c\""}, "context": "x".repeat(600)})
        .to_string()
    };
    for (what, wanted, share) in
        [("tail: a log of which a tenth is calls", "200", 10), ("tail: a log of nothing but calls", "-", 1)]
    {
        let lines: Vec<String> =
            (0..20_000).map(|n| if n % share == 0 { line(n) } else { other(n) }).collect();
        let log = lines.join("\n") + "\n";
        let (teller, _open, mut told) = way_in("envoy");
        let tail = Tail {
            name: "envoy".into(),
            path: None,
            mapping: Mapping::new(Preset::Envoy, &[], &[]),
            route: None,
            from_start: true,
        };
        let mut scanned = Lines::new(&tail, teller);
        let times = both(
            || {
                for chunk in log.as_bytes().chunks(256 * 1024) {
                    scanned.feed(chunk, &mut |teller: &Teller, seen| {
                        teller.tell(seen);
                    });
                    drained(&mut told, |one| drop(black_box(one)));
                }
            },
            || {
                for line in log.lines() {
                    drop(black_box(serde_json::from_str::<Value>(line).unwrap()));
                }
            },
        );
        per_second(what, wanted, log.len() as f64 / 1e6, "MB/s", times);
    }
}
