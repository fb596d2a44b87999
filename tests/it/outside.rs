//! Sources outside of the path: real ports, real logs, one truth.

use crate::support::{PATIENCE, Sidecar, eventually, metric, wait_for};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// With nothing else than reports.
fn reports_only() -> String {
    format!("{PLAIN}sources: {{routes: [{{name: api, match: {{services: [app]}}}}]}}\n")
}

const PLAIN: &str = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners: []\n";

fn limits(remaining: u64) -> Value {
    json!({
        "anthropic-ratelimit-input-tokens-limit": "60000",
        "anthropic-ratelimit-input-tokens-remaining": remaining.to_string(),
        "anthropic-workspace-id": "wrkspc_1",
    })
}

async fn post(admin: SocketAddr, body: String) -> (u16, Value) {
    let client = reqwest::Client::new();
    let request =
        client.post(format!("http://{admin}/v1/observations")).header("content-type", "application/json");
    let response = request.body(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

fn span(id: &str, status: u16, request_id: &str) -> Value {
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    json!({"resourceSpans": [{"resource": {"attributes": [text("service.name", "app")]}, "scopeSpans": [{"spans": [{
        "traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": id, "name": "POST", "kind": 3,
        "startTimeUnixNano": "1", "endTimeUnixNano": "2",
        "attributes": [text("url.path", "/v1/messages"), text("http.response.header.request-id", request_id),
            json!({"key": "http.response.status_code", "value": {"intValue": status.to_string()}})],
    }]}]}]})
}

#[tokio::test]
async fn one_request_through_three_sources_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let config = format!(
        "{PLAIN}sources:\n  routes: [{{name: api, match: {{paths: ['/v1/messages']}}, surface: anthropic_api}}]\n  otlp: {{http: '127.0.0.1:0'}}\n  tails: [{{path: '{}', preset: envoy, from: start}}]\n",
        log.display()
    );
    let sidecar = Sidecar::start(&config).await;
    let admin = sidecar.admin().await;
    let headers = {
        let mut headers = limits(0);
        headers["request-id"] = "req_1".into();
        headers
    };
    let line = json!({"status": 429, "path": "/v1/messages", "headers": headers, "flags": "-"});
    std::fs::File::create(&log).unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    let seen =
        |source: &str, outcome: &str| (format!("source=\"{source}\""), format!("outcome=\"{outcome}\""));
    let told = |text: &str, source: &str, outcome: &str| {
        let (a, b) = seen(source, outcome);
        metric(text, "plimsoll_source_observations_total", &[&a, &b]).unwrap_or(0.0)
    };
    wait_for("the log", async || (told(&sidecar.scrape().await, "envoy", "told") == 1.0).then_some(())).await;
    let (status, taken) =
        post(admin, json!({"status": 429, "request_id": "req_1", "path": "/v1/messages"}).to_string()).await;
    assert_eq!((status, &taken["accepted"]), (202, &json!(1)));
    let otlp = sidecar.running.listening.otlp_http.unwrap();
    let client = reqwest::Client::new();
    let export = client.post(format!("http://{otlp}/v1/traces")).header("content-type", "application/json");
    let answer = export.body(span("b7ad6b7169203331", 429, "req_1").to_string()).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "{}"));
    wait_for("both to be known again", async || {
        let text = sidecar.scrape().await;
        (told(&text, "report", "repeated") + told(&text, "otlp", "repeated") == 2.0).then_some(())
    })
    .await;
    // A bare failure would have been told after two seconds.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let text = sidecar.scrape().await;
    assert_eq!(metric(&text, "plimsoll_requests_total", &[]), Some(1.0), "{text}");
    assert_eq!(metric(&text, "plimsoll_rejections_total", &["route=\"api\"", "header_family"]), Some(1.0));
    assert_eq!(metric(&text, "plimsoll_rejections_total", &[]), Some(1.0));
}

#[tokio::test]
async fn a_report_is_taken_line_by_line_and_a_broken_one_spoils_only_itself() {
    let sidecar = Sidecar::start(&reports_only()).await;
    let admin = sidecar.admin().await;
    let good = json!({"status": 200, "headers": limits(30_000), "host": "api.anthropic.com"}).to_string();
    let (status, taken) = post(admin, format!("{good}\n{{\"status\":\"x\"}}\n{{}}\n{good}\n")).await;
    assert_eq!((status, &taken["accepted"], &taken["broken"]), (207, &json!(2), &json!(2)), "{taken}");
    let (status, taken) = post(admin, format!("[{good},{good}]")).await;
    assert_eq!((status, &taken["accepted"]), (202, &json!(2)));
    assert_eq!(post(admin, "no json".into()).await.0, 400);
    assert_eq!(post(admin, format!("[{}", "{\"a\":".repeat(100_000))).await.0, 400);
    sidecar.wait_metric("plimsoll_requests_total", &["anthropic_workspace"], 4.0).await;
    sidecar.wait_metric("plimsoll_limit", &["input_tokens"], 60_000.0).await;
    let client = reqwest::Client::new();
    let send = |kind: &'static str| {
        client.post(format!("http://{admin}/v1/observations")).header("content-type", kind).body(good.clone())
    };
    assert_eq!(send("text/plain").send().await.unwrap().status().as_u16(), 415);
    let page = send("application/json").header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(page.status().as_u16(), 403);
    let large = send("application/json").body(vec![b' '; 5 << 20]).send().await.unwrap();
    assert_eq!(large.status().as_u16(), 413);
}

#[tokio::test]
async fn a_sender_that_never_stops_costs_its_own_reports_and_never_the_hops() {
    let seams = plimsoll::app::Seams { env: |_| None, queue: 64, ..Default::default() };
    let sidecar = Sidecar::with(&reports_only(), seams).await;
    let admin = sidecar.admin().await;
    let line = json!({"status": 200, "headers": limits(30_000)}).to_string() + "\n";
    let (status, taken) = post(admin, line.repeat(3_000)).await;
    assert_eq!(status, 503);
    let count = |name: &str| taken[name].as_f64().unwrap();
    assert!(count("dropped") > 0.0 && count("accepted") + count("dropped") == 3_000.0, "{taken}");
    sidecar
        .wait_metric("plimsoll_source_observations_total", &["report", "\"dropped\""], count("dropped"))
        .await;
    let dropped = sidecar.metric("plimsoll_tap_dropped_total", &[]).await;
    assert_eq!(dropped, Some(0.0), "the other half of the queue is the hop's");
}

/// An export as gRPC frames it.
async fn grpc(
    address: SocketAddr,
    token: Option<&str>,
    message: &ExportTraceServiceRequest,
) -> Result<(), tonic::Status> {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    let channel =
        tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut client =
        TraceServiceClient::new(channel).send_compressed(tonic::codec::CompressionEncoding::Gzip);
    let mut request = tonic::Request::new(message.clone());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    client.export(request).await.map(drop)
}

#[tokio::test]
async fn otlp_by_grpc_is_received_compressed_and_only_with_the_token() {
    let config = format!("{PLAIN}sources:\n  otlp: {{grpc: '127.0.0.1:0', token: {{file: TOKEN}}}}\n");
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret").unwrap();
    let sidecar = Sidecar::start(&config.replace("TOKEN", &token.display().to_string())).await;
    let address = sidecar.running.listening.otlp_grpc.unwrap();
    let message: ExportTraceServiceRequest =
        serde_json::from_value(span("b7ad6b7169203331", 200, "req_1")).unwrap();
    assert_eq!(grpc(address, None, &message).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    assert_eq!(
        grpc(address, Some("wrong"), &message).await.unwrap_err().code(),
        tonic::Code::Unauthenticated
    );
    grpc(address, Some("s3cret"), &message).await.unwrap();
    sidecar.wait_metric("plimsoll_source_observations_total", &["otlp", "\"told\""], 1.0).await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[tokio::test]
async fn hostile_exports_are_refused_and_cost_only_themselves() {
    let sidecar =
        Sidecar::start(&format!("{PLAIN}sources:\n  otlp: {{http: '127.0.0.1:0', grpc: '127.0.0.1:0'}}\n"))
            .await;
    let otlp = sidecar.running.listening.otlp_http.unwrap();
    let client = reqwest::Client::new();
    let send = async |kind: &'static str, encoding: Option<&'static str>, body: Vec<u8>| {
        let mut request =
            client.post(format!("http://{otlp}/v1/traces")).header("content-type", kind).body(body);
        if let Some(encoding) = encoding {
            request = request.header("content-encoding", encoding);
        }
        request.send().await.unwrap().status().as_u16()
    };
    const PROTOBUF: &str = "application/x-protobuf";
    const JSON: &str = "application/json";
    let message: ExportTraceServiceRequest =
        serde_json::from_value(span("b7ad6b7169203331", 200, "req_1")).unwrap();
    assert_eq!(send(PROTOBUF, Some("gzip"), gzip(&message.encode_to_vec())).await, 200);
    let bomb = gzip(&vec![0; 512 << 20]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(send(PROTOBUF, Some("gzip"), bomb).await, 413);
    assert_eq!(send(PROTOBUF, Some("gzip"), b"not gzip".to_vec()).await, 400);
    assert_eq!(send(PROTOBUF, Some("zstd"), Vec::new()).await, 415);
    assert_eq!(send(PROTOBUF, None, vec![0xff; 100]).await, 400);
    assert_eq!(send(PROTOBUF, None, vec![0; 5 << 20]).await, 413);
    assert_eq!(send(JSON, None, b"{\"resourceSpans\":[{".to_vec()).await, 400);
    let many = format!("{{\"resourceSpans\":[{}{{}}]}}", "{},".repeat(600_000));
    assert_eq!(send(JSON, None, many.into_bytes()).await, 413, "objects cost more than their bytes");
    assert_eq!(send("text/plain", None, Vec::new()).await, 415);
    let deep = format!("{{\"resourceSpans\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    assert_eq!(send(JSON, None, deep.into_bytes()).await, 400);
    // Half of a request, and then silence: it holds a connection and nothing else.
    let mut half = tokio::net::TcpStream::connect(otlp).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    tokio::io::AsyncWriteExt::write_all(&mut half, head.as_bytes()).await.unwrap();
    assert_eq!(send(PROTOBUF, None, message.encode_to_vec()).await, 200);
    sidecar.wait_metric("plimsoll_source_observations_total", &["otlp", "\"told\""], 2.0).await;
    assert!(sidecar.metric("plimsoll_source_unusable_total", &["otlp"]).await >= Some(5.0));
    drop(half);
}

#[tokio::test]
async fn what_is_received_goes_on_unchanged_and_a_collector_that_hangs_stalls_nobody() {
    let received: std::sync::Arc<std::sync::Mutex<Vec<(String, Bytes)>>> = std::sync::Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let collector = listener.local_addr().unwrap();
    let kept = received.clone();
    crate::support::serve_http1(listener, move |request| {
        let kept = kept.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            let kind = head.headers["content-type"].to_str().unwrap();
            let encoding = head.headers.get("content-encoding").map_or("", |v| v.to_str().unwrap());
            kept.lock().unwrap().push((format!("{} {kind} {encoding}", head.uri.path()), body));
            // The first time it asks for patience.
            let status = if kept.lock().unwrap().len() == 1 { 503 } else { 200 };
            http::Response::builder().status(status).body(http_body_util::Full::new(Bytes::new())).unwrap()
        }
    });
    let config = format!(
        "{PLAIN}sources:\n  otlp:\n    http: '127.0.0.1:0'\n    forward: {{endpoint: 'http://{collector}', max_mb: 1}}\n"
    );
    let sidecar = Sidecar::start(&config).await;
    let otlp = sidecar.running.listening.otlp_http.unwrap();
    let client = reqwest::Client::new();
    let message: ExportTraceServiceRequest =
        serde_json::from_value(span("b7ad6b7169203331", 200, "req_1")).unwrap();
    let mut bytes = message.encode_to_vec();
    // A field that nobody knows yet.
    bytes.extend([0xfa, 0x3f, 1, 7]);
    let body = gzip(&bytes);
    let sent =
        client.post(format!("http://{otlp}/v1/traces")).header("content-type", "application/x-protobuf");
    let answer = sent.header("content-encoding", "gzip").body(body.clone()).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    wait_for("the collector to be asked again", async || (received.lock().unwrap().len() == 2).then_some(()))
        .await;
    for (what, got) in received.lock().unwrap().iter() {
        assert_eq!((what.as_str(), &got[..]), ("/v1/traces application/x-protobuf gzip", &body[..]));
    }
    sidecar.wait_metric("plimsoll_exports_total", &["otlp_forward", "\"sent\""], 1.0).await;
}

#[tokio::test]
async fn a_forwarder_without_a_collector_is_bounded_and_what_it_drops_is_counted() {
    let config = format!(
        "{PLAIN}sources:\n  otlp:\n    http: '127.0.0.1:0'\n    forward: {{endpoint: 'http://127.0.0.1:9', max_mb: 1}}\n"
    );
    let sidecar = Sidecar::start(&config).await;
    let otlp = sidecar.running.listening.otlp_http.unwrap();
    let client = reqwest::Client::new();
    let padding = json!({"resourceSpans": [], "padding": "x".repeat(400_000)}).to_string();
    for _ in 0..6 {
        let request =
            client.post(format!("http://{otlp}/v1/logs")).header("content-type", "application/json");
        assert_eq!(request.body(padding.clone()).send().await.unwrap().status().as_u16(), 200);
    }
    let dropped = async || {
        sidecar.metric("plimsoll_exports_total", &["otlp_forward", "\"dropped\""]).await.filter(|n| *n >= 3.0)
    };
    tokio::time::timeout(PATIENCE, eventually(dropped)).await.expect("what has no room is dropped");
}

#[cfg(feature = "als")]
mod als {
    use super::{PLAIN, limits};
    use crate::support::Sidecar;
    use envoy_types::pb::envoy::data::accesslog::v3::{
        AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
        ResponseFlags,
    };
    use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
    use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
    use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
        HttpAccessLogEntries, LogEntries,
    };
    use envoy_types::pb::google::protobuf::{Duration, Timestamp, UInt32Value};
    use std::time::SystemTime;
    use tokio_stream::wrappers::ReceiverStream;

    #[allow(clippy::disallowed_methods)]
    fn entry(stream: &str, kind: AccessLogType, status: u32, remaining: Option<u64>) -> HttpAccessLogEntry {
        let headers = remaining.map(limits).unwrap_or_default();
        let headers = headers.as_object().into_iter().flatten();
        let headers = headers.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        HttpAccessLogEntry {
            common_properties: Some(AccessLogCommon {
                start_time: Some(Timestamp { seconds: now.as_secs() as i64, nanos: 0 }),
                duration: Some(Duration { seconds: 0, nanos: 5_000_000 }),
                stream_id: stream.into(),
                upstream_cluster: "anthropic".into(),
                access_log_type: kind.into(),
                response_flags: Some(ResponseFlags {
                    rate_limited: remaining.is_none(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            request: Some(HttpRequestProperties {
                authority: "api.anthropic.com".into(),
                path: "/v1/messages?key=secret".into(),
                ..Default::default()
            }),
            response: Some(HttpResponseProperties {
                response_code: Some(UInt32Value { value: status }),
                response_headers: headers,
                response_code_details: "via_upstream".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn message(entries: Vec<HttpAccessLogEntry>) -> StreamAccessLogsMessage {
        let logs = HttpAccessLogEntries { log_entry: entries };
        StreamAccessLogsMessage { log_entries: Some(LogEntries::HttpLogs(logs)), ..Default::default() }
    }

    #[tokio::test]
    async fn a_streams_limits_are_known_while_it_runs_and_it_ends_once() {
        let config = format!("{PLAIN}sources:\n  envoy_als: {{bind: '127.0.0.1:0'}}\n");
        let sidecar = Sidecar::start(&config).await;
        let address = sidecar.running.listening.envoy_als.unwrap();
        let mut client = AccessLogServiceClient::connect(format!("http://{address}")).await.unwrap();
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        let stream = tokio::spawn(async move { client.stream_access_logs(ReceiverStream::new(rx)).await });
        tx.send(message(vec![entry("s1", AccessLogType::DownstreamPeriodic, 200, Some(6_000))]))
            .await
            .unwrap();
        sidecar.wait_metric("plimsoll_limit", &["input_tokens"], 60_000.0).await;
        assert_eq!(sidecar.metric("plimsoll_requests_total", &[]).await, None, "it has not ended");
        let end = entry("s1", AccessLogType::DownstreamEnd, 200, Some(6_000));
        let own = entry("s2", AccessLogType::DownstreamEnd, 429, None);
        tx.send(message(vec![end.clone(), end, own])).await.unwrap();
        sidecar.wait_metric("plimsoll_requests_total", &[], 2.0).await;
        sidecar.wait_metric("plimsoll_rejections_total", &["gateway_tenant", "answered_by"], 1.0).await;
        assert!(!sidecar.scrape().await.contains("secret"));
        // A stream that breaks off costs itself.
        stream.abort();
        drop(tx);
        let mut again = AccessLogServiceClient::connect(format!("http://{address}")).await.unwrap();
        let one = message(vec![entry("s3", AccessLogType::DownstreamEnd, 200, Some(5_000))]);
        again.stream_access_logs(tokio_stream::once(one)).await.unwrap();
        sidecar.wait_metric("plimsoll_requests_total", &[], 3.0).await;
    }
}
