//! Whatever goes wrong beside the traffic, the traffic flows; whatever goes wrong in it is counted.

use crate::support::api::{Answer, Api};
use crate::support::raw::{Conn, Upstream};
use crate::support::{Sidecar, route_to, wait_for};
use plimsoll::app::Seams;
use plimsoll::limit::Timestamp;
use plimsoll::observation::Limits;

async fn post(sidecar: &Sidecar, body: &serde_json::Value) -> reqwest::Response {
    let url = format!("http://{}/v1/messages", sidecar.hop);
    reqwest::Client::new().post(url).header("x-api-key", "k").json(body).send().await.unwrap()
}

fn ask(model: &str, stream: bool) -> serde_json::Value {
    serde_json::json!({"max_tokens": 10, "stream": stream, "messages": [], "model": model})
}

fn panicking(_: u16, _: &http::HeaderMap, _: Timestamp) -> Limits {
    panic!("a dialect that panics")
}

#[tokio::test]
async fn a_panicking_dialect_costs_detail_and_nothing_else() {
    let api = Api::start().await;
    let seams = Seams { read_head: panicking, env: |_| None, ..Seams::default() };
    let sidecar = Sidecar::with(&route_to(api.address), seams).await;
    for _ in 0..5 {
        let response = post(&sidecar, &ask("claude-opus-5-5", true)).await;
        assert_eq!(response.status(), 200);
        assert!(response.text().await.unwrap().contains("message_stop"));
    }
    sidecar.wait_metric("plimsoll_requests_total", &["claude-opus-5-5"], 5.0).await;
    sidecar.wait_metric("plimsoll_panics_total", &[], 5.0).await;
    sidecar.wait_metric("plimsoll_tokens_total", &["gen_ai_token_type=\"output\""], 20.0).await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_full_queue_loses_detail_and_no_total() {
    let api = Api::start().await;
    let seams = Seams { queue: 1, env: |_| None, ..Seams::default() };
    let sidecar = Sidecar::with(&route_to(api.address), seams).await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/v1/messages", sidecar.hop);
    let body = ask("claude-opus-5-5", false);
    let calls = (0..300).map(|_| client.post(&url).json(&body).send());
    for response in futures_util::future::join_all(calls).await {
        assert_eq!(response.unwrap().status(), 200);
    }
    sidecar.wait_metric("plimsoll_requests_total", &[], 300.0).await;
    sidecar.wait_metric("plimsoll_tokens_total", &["=\"input\""], 3_600.0).await;
    let dropped = sidecar.metric("plimsoll_tap_dropped_total", &[]).await.unwrap();
    assert!(dropped > 0.0, "a queue of one cannot have held 600 observations");
}

#[tokio::test]
async fn dead_collectors_and_alertmanagers_are_not_noticed_by_traffic() {
    let api = Api::start().await;
    api.script([Answer::Ok { remaining: 0 }]);
    // Port 1 refuses; the other accepts and never answers.
    let silent = Upstream::start(|mut conn: Conn| async move {
        conn.rest().await;
    })
    .await;
    let config = format!(
        "{}otlp: {{endpoint: 'http://127.0.0.1:1', interval_secs: 1}}\nalerts: {{alertmanagers: [{{url: 'http://127.0.0.1:1'}}, {{url: 'http://{}'}}]}}\n",
        route_to(api.address),
        silent.address
    );
    let sidecar = Sidecar::start(&config).await;
    for _ in 0..3 {
        assert_eq!(post(&sidecar, &ask("claude-opus-5-5", false)).await.status(), 200);
    }
    for exporter in ["alertmanager", "otlp_metrics"] {
        wait_for(exporter, async || {
            let failed = sidecar.metric("plimsoll_exports_total", &[exporter, "failed"]).await;
            failed.is_some_and(|n| n > 0.0).then_some(())
        })
        .await;
    }
    assert_eq!(post(&sidecar, &ask("claude-opus-5-5", false)).await.status(), 200);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_or_talks_nonsense_is_said_to_be() {
    let garbage = Upstream::answering("this is not http\r\n\r\n").await;
    let closes = Upstream::start(|mut conn: Conn| async move {
        conn.head().await;
    })
    .await;
    let plain = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let refused = "127.0.0.1:1".parse().unwrap();
    for (address, scheme) in
        [(refused, "http"), (garbage.address, "http"), (closes.address, "http"), (plain.address, "https")]
    {
        let sidecar = Sidecar::start(&route_to(address).replace("'http:", &format!("'{scheme}:"))).await;
        let response = post(&sidecar, &ask("claude-opus-5-5", false)).await;
        assert_eq!(response.status(), 502, "{scheme} {address}");
        assert_eq!(response.headers()["x-plimsoll-answered"], "true");
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["error"]["type"], "api_error");
        assert!(
            body["error"]["message"].as_str().unwrap().starts_with("plimsoll: The upstream of route \"api\"")
        );
        sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
        sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
        assert_eq!(sidecar.metric("plimsoll_rejections_total", &[]).await, None, "nobody's limit");
    }
}

#[tokio::test]
async fn a_stalled_upstream_holds_only_its_own_call() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        let head = conn.head().await.unwrap();
        if head.starts_with("GET /stall") {
            conn.rest().await;
        } else {
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut stalled = Conn::connect(sidecar.hop).await;
    stalled.write("GET /stall HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 1.0).await;
    let url = format!("http://{}/other", sidecar.hop);
    assert_eq!(reqwest::get(url).await.unwrap().text().await.unwrap(), "ok");
    drop(stalled);
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_stream_cut_mid_event_counts_what_it_said() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        conn.head().await.unwrap();
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-opus-5-5\",\"usage\":{\"input_tokens\":12,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"usa";
        conn.write(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{start}\r\n", start.len())).await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    client.rest().await;
    sidecar.wait_metric("plimsoll_tokens_total", &["=\"input\"", "claude-opus-5-5"], 12.0).await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn hostile_headers_and_bodies_pass_and_are_counted() {
    let huge = "9".repeat(5_000);
    let mut answer = b"HTTP/1.1 429 Too Many Requests\r\nanthropic-ratelimit-requests-limit: many\r\nanthropic-ratelimit-input-tokens-limit: 5\r\nanthropic-ratelimit-input-tokens-limit: 7\r\nretry-after: \xff\xfe\r\nanthropic-ratelimit-tokens-limit: ".to_vec();
    answer.extend_from_slice(huge.as_bytes());
    answer.extend_from_slice(
        b"\r\ncontent-encoding: gzip\r\ncontent-length: 20\r\n\r\n\x1f\x8bgarbagegarbagegarb",
    );
    let upstream = Upstream::answering(answer.clone()).await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\nconnection: close\r\n\r\nnot json!").await;
    let (got, _) = client.rest().await;
    let passed =
        got.ends_with(b"\x1f\x8bgarbagegarbagegarb") && got.windows(5_000).any(|w| w == huge.as_bytes());
    assert!(passed, "bytes pass as they came");
    wait_for("complaints", async || {
        sidecar.metric("plimsoll_headers_unreadable_total", &[]).await.filter(|n| *n >= 3.0)
    })
    .await;
    sidecar.wait_metric("plimsoll_bodies_unread_total", &[], 1.0).await;
    sidecar.wait_metric("plimsoll_requests_total", &["=\"429\""], 1.0).await;
}

/// Every coding that real clients ask for: the bytes pass as they came, and the usage is read.
#[tokio::test]
async fn compressed_answers_pass_untouched_and_are_read() {
    let api = Api::start().await;
    let sidecar = Sidecar::to(api.address).await;
    let mut calls = 0.0;
    for stream in [false, true] {
        for coding in ["gzip", "deflate", "br", "zstd", "identity"] {
            calls += 1.0;
            let send = |to: std::net::SocketAddr| {
                let request = reqwest::Client::new().post(format!("http://{to}/v1/messages"));
                request.header("accept-encoding", coding).json(&ask("claude-opus-5-5", stream)).send()
            };
            let (direct, through) = (send(api.address).await.unwrap(), send(sidecar.hop).await.unwrap());
            let encoding = |r: &reqwest::Response| r.headers().get("content-encoding").cloned();
            assert_eq!(encoding(&direct), encoding(&through));
            assert_eq!(direct.bytes().await.unwrap(), through.bytes().await.unwrap(), "{coding}");
            sidecar.wait_metric("plimsoll_tokens_total", &["=\"output\""], 4.0 * calls).await;
            sidecar.wait_metric("plimsoll_tokens_total", &["=\"cache_read\""], 5.0 * calls).await;
        }
    }
}

#[tokio::test]
async fn five_megabytes_with_the_model_at_the_end_pass_and_are_understood() {
    let api = Api::start().await;
    let sidecar = Sidecar::to(api.address).await;
    let prompt = "lorem \\\"ipsum\\\" ".repeat(350_000);
    let body = format!(
        r#"{{"max_tokens":16,"messages":[{{"role":"user","content":"{prompt}"}}],"stream":false,"model":"claude-opus-5-5"}}"#
    );
    assert!(body.len() > 5_000_000);
    let url = format!("http://{}/v1/messages", sidecar.hop);
    let response = reqwest::Client::new().post(url).body(body.clone()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(api.seen()[0].body, body.as_bytes());
    sidecar.wait_metric("plimsoll_requests_total", &["gen_ai_request_model=\"claude-opus-5-5\""], 1.0).await;
}
