//! Hostile clients: bounded, counted, and nobody else's traffic harmed.

use crate::support::h2::{self, full};
use crate::support::process::logged;
use crate::support::raw::{Conn, Upstream, header};
use crate::support::webhook::Webhook;
use crate::support::{Sidecar, route_to, wait_for};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

async fn ok() -> Upstream {
    Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
}

async fn still_serves(sidecar: &Sidecar) {
    let got = reqwest::get(format!("http://{}/", sidecar.hop)).await.unwrap();
    assert_eq!(got.text().await.unwrap(), "ok");
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_header_block_of_a_megabyte_is_refused() {
    let upstream = ok().await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    let huge = format!("GET / HTTP/1.1\r\nhost: a\r\nx-huge: {}\r\n\r\n", "h".repeat(1 << 20));
    // The refusal may come, and the connection close, before all of it is written.
    if client.stream.write_all(huge.as_bytes()).await.is_ok() {
        let (got, _) = client.rest().await;
        let got = String::from_utf8_lossy(&got).into_owned();
        assert!(got.is_empty() || got.starts_with("HTTP/1.1 431"), "{got}");
    }
    still_serves(&sidecar).await;
}

#[tokio::test]
async fn headers_of_a_hundred_kilobytes_pass() {
    let upstream = ok().await;
    let sidecar = Sidecar::to(upstream.address).await;
    let client = reqwest::Client::new();
    let got = client
        .get(format!("http://{}/", sidecar.hop))
        .header("x-large", "h".repeat(100_000))
        .send()
        .await
        .unwrap();
    assert_eq!(got.status(), 200);
}

/// A hundred thousand models and keys: the tables stay as they are bounded, and every call counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_models_and_keys_fill_no_memory() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nanthropic-ratelimit-requests-limit: 50\r\nanthropic-ratelimit-requests-remaining: 49\r\n\r\nok",
    )
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let calls = 100_000;
    let lanes: Vec<_> = (0..16)
        .map(|lane| {
            let hop = sidecar.hop;
            tokio::spawn(async move {
                let mut client = Conn::connect(hop).await;
                for n in (lane..calls).step_by(16) {
                    let body = format!("{{\"model\":\"model-{n}\"}}");
                    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: key-{n}\r\ncontent-length: {}\r\n\r\n", body.len());
                    client.write(head + &body).await;
                    client.head().await.unwrap();
                    client.exactly(2).await;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.unwrap();
    }
    sidecar.wait_metric("plimsoll_requests_total", &[], f64::from(calls)).await;
    let text = sidecar.scrape().await;
    assert!(text.lines().count() < 12_000, "{} lines", text.lines().count());
    assert!(crate::support::metric(&text, "plimsoll_folded_total", &[]).unwrap() > 90_000.0);
    assert!(crate::support::metric(&text, "plimsoll_requests_total", &["\"_other\""]).unwrap() > 90_000.0);
    assert!(!text.contains("key-"), "no key in a label");
}

/// Clients that say nothing, or say it one byte a minute, are let go; the clock is not waited for.
#[tokio::test(start_paused = true)]
async fn clients_that_dawdle_are_let_go() {
    let upstream = ok().await;
    let sidecar = Sidecar::to(upstream.address).await;
    for said in ["", "GET / HTTP/1.1\r\nhost: a\r\nx-slo", "PRI * HTT"] {
        let mut client = Conn::connect(sidecar.hop).await;
        client.write(said).await;
        let (got, _) = client.rest_patiently(std::time::Duration::from_secs(600)).await;
        let got = String::from_utf8_lossy(&got).into_owned();
        assert!(
            got.is_empty() || got.starts_with("HTTP/1.1 408") || got.starts_with("HTTP/1.1 400"),
            "{said:?}: {got}"
        );
    }
}

/// A client that closes its sending half in the middle of a call is taken to have left.
#[tokio::test]
async fn a_half_closed_client_is_counted_out() {
    let upstream = Upstream::silent().await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 1.0).await;
    client.stream.shutdown().await.unwrap();
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
}

/// A body that breaks off is the client's doing: no upstream is blamed, no limit suspected.
#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_request_blames_nobody() {
    let upstream = Upstream::silent().await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf").await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 1.0).await;
    drop(client);
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    assert_eq!(sidecar.metric("plimsoll_rejections_total", &[]).await, None);
}

#[tokio::test]
async fn a_length_beside_chunks_cuts_nothing() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n",
    )
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let got = reqwest::get(format!("http://{}/", sidecar.hop)).await.unwrap();
    assert_eq!(got.text().await.unwrap(), "hello world");
}

#[tokio::test]
async fn the_chunked_body_of_a_get_arrives() {
    let (tx, mut bodies) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let tx = tx.clone();
        async move {
            let head = conn.head().await.unwrap();
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
            tx.send(conn.until("0\r\n\r\n").await.unwrap()).unwrap();
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client
        .write("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    assert!(bodies.recv().await.unwrap().contains("hello"));
}

/// The transparency list once more, where h2 does it its own way: a reset stream is a client that
/// left, a broken upstream is a reset stream, events pass one by one.
#[tokio::test]
async fn resets_pass_both_ways_on_h2() {
    let (tx, mut ended) = mpsc::unbounded_channel();
    let next = Arc::new(Notify::new());
    let gate = next.clone();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let (tx, gate) = (tx.clone(), gate.clone());
        async move {
            let head = conn.head().await.unwrap();
            conn.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            gate.notified().await;
            if head.starts_with("GET /break") {
                return;
            }
            conn.write("6\r\nsecond\r\n").await;
            conn.rest().await;
            tx.send(()).unwrap();
        }
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = h2::client(sidecar.hop).await;
    let frame =
        async |body: &mut hyper::body::Incoming| body.frame().await.unwrap().map(|f| f.into_data().unwrap());

    let request = Request::get("http://localhost/events").body(full("")).unwrap();
    let mut body = client.send_request(request).await.unwrap().into_body();
    assert_eq!(frame(&mut body).await.unwrap(), Bytes::from("first"));
    next.notify_one();
    assert_eq!(frame(&mut body).await.unwrap(), Bytes::from("second"));
    drop(body);
    ended.recv().await.expect("the upstream sees the client leave");

    let request = Request::get("http://localhost/break").body(full("")).unwrap();
    let mut body = client.send_request(request).await.unwrap().into_body();
    assert_eq!(frame(&mut body).await.unwrap(), Bytes::from("first"));
    next.notify_one();
    assert!(frame(&mut body).await.is_err(), "no end is invented");
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn empty_answers_end_as_complete() {
    let upstream = Upstream::answering("HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n").await;
    let collector = crate::support::collector::Collector::start().await;
    let otlp = format!("otlp: {{endpoint: 'http://{}', span_ratio: 1}}\n", collector.address);
    let sidecar = Sidecar::start(&(crate::support::route_to(upstream.address) + &otlp)).await;
    reqwest::Client::new().head(format!("http://{}/", sidecar.hop)).send().await.unwrap();
    sidecar.running.shutdown().await;
    let spans = wait_for("the span", async || Some(collector.spans()).filter(|s| !s.is_empty())).await;
    assert_eq!(crate::support::collector::attributes(&spans[0].attributes)["plimsoll.outcome"], "complete");
}

/// Marks that turn a line around or hide something reach no page, packet, alert, answer or log, whoever wrote them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_that_turn_text_around_reach_nobody() {
    const MARKS: [char; 6] = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{61c}', '\u{feff}', '\u{e0041}'];
    let marks: String = MARKS.iter().collect();
    let error = format!(
        r#"{{"type":"error","error":{{"type":"rate_limit_error","message":"limit {marks}reached"}}}}"#
    );
    let head = "anthropic-ratelimit-input-tokens-limit: 1000\r\nanthropic-ratelimit-input-tokens-remaining: 0\r\nrequest-id: req_1";
    let answer =
        format!("HTTP/1.1 429 Too Many Requests\r\n{head}\r\ncontent-length: {}\r\n\r\n{error}", error.len());
    let (upstream, hook) = (Upstream::answering(answer).await, Webhook::start().await);
    let config = route_to(upstream.address)
        + &format!(
            "alerts: {{alertmanagers: [{{url: 'http://{}'}}], labels: {{team: 'a{marks}b'}}}}
owners: [{{name: search, match: {{routes: [api]}}, contact: 'a{marks}b', runbook_url: 'https://x.example/'}}]\n",
            hook.address
        );
    let (_child, addresses, log) = logged(&config, &[]).await;
    let model = format!("claude{marks}-opus");
    let body = serde_json::json!({"max_tokens": 1, "messages": [], "model": model});
    for _ in 0..2 {
        let url = format!("http://{}/v1/messages?{marks}", addresses[0]);
        assert_eq!(reqwest::Client::new().post(url).json(&body).send().await.unwrap().status(), 429);
    }
    let posts = wait_for("an alert", async || Some(hook.posts()).filter(|posts| !posts.is_empty())).await;
    let shown = |text: &str| MARKS.iter().any(|mark| text.contains(*mark));
    let alert = posts.iter().map(|post| post.body.to_string()).collect::<String>();
    assert!(alert.contains("a\u{fffd}") && !shown(&alert), "{alert}");
    let admin = wait_for("the admin port", async || {
        let lines = log.lock().unwrap().clone();
        lines.iter().find(|l| l.contains("admin port")).map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["fields"]["address"].as_str().unwrap().to_owned()
        })
    })
    .await;
    let get =
        async |path: &str| reqwest::get(format!("http://{admin}{path}")).await.unwrap().text().await.unwrap();
    wait_for("the incident", async || get("/v1/incidents").await.contains("api").then_some(())).await;
    let mut packets = 0;
    for path in [
        "/",
        "/incidents",
        "/owners",
        "/v1/state",
        "/v1/incidents",
        "/v1/evidence?format=md",
        "/v1/evidence?format=json",
    ] {
        let text = get(path).await;
        assert!(!shown(&text), "{path}: {text}");
        packets += usize::from(text.contains("reached"));
    }
    assert!(packets >= 2, "the packets quote the message");
    let incident = get("/v1/incidents").await;
    let incident: serde_json::Value = serde_json::from_str(&incident).unwrap();
    let id = incident[0]["id"].as_str().or_else(|| incident["incidents"][0]["id"].as_str()).unwrap();
    let page = get(&format!("/incidents/{id}")).await;
    assert!(page.contains("reached") && !shown(&page), "{page}");
    let lines = log.lock().unwrap().join("\n");
    assert!(lines.contains("first failure") && !shown(&lines), "{lines}");
}
