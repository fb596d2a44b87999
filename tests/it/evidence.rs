//! Incidents and packets as people ask for them: the admin port, the command, the status page.

use crate::support::api::{Answer, Api};
use crate::support::{PATIENCE, Sidecar, serve_http1, wait_for};
use http_body_util::Full;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::net::TcpListener;

async fn call(sidecar: &Sidecar, max_tokens: u64) -> u16 {
    let answer = reqwest::Client::new()
        .post(format!("http://{}/v1/messages", sidecar.hop))
        .header("x-api-key", "sk-ant-test-fake")
        .json(&json!({"model": "claude-opus-5-5", "max_tokens": max_tokens, "messages": []}))
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    answer.bytes().await.unwrap();
    status
}

fn refusal() -> Answer {
    Answer::RateLimited { retry_after: 7, should_retry: true }
}

async fn command(admin: SocketAddr, args: &[&str]) -> (i32, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .env_clear()
        .arg("evidence")
        .args(args)
        .args(["--admin", &format!("http://{admin}")])
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_is_not_ready_until_the_same_route_has_failed_again() {
    let api = Api::start().await;
    let sidecar = Sidecar::to(api.address).await;
    let admin = sidecar.admin().await;
    let (code, _, stderr) = command(admin, &[]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("No such incident"), "{stderr}");

    assert_eq!(call(&sidecar, 16).await, 200);
    api.script([refusal()]);
    assert_eq!(call(&sidecar, 16).await, 429);
    let packet = wait_for("a packet", async || {
        let (code, text, _) = command(admin, &["--format", "json"]).await;
        (code == 0).then(|| serde_json::from_str::<Value>(&text).unwrap())
    })
    .await;
    assert_eq!(packet["ready"], false);
    assert!(packet["missing"][0].as_str().unwrap().contains("A retry on the same route"), "{packet}");
    assert!(packet["attempts"]["last success"].as_str().unwrap().contains("status 200"), "{packet}");
    assert_eq!(packet["identifiers"][0], json!(["request id", "req_000000000000000000000002"]));

    api.script([refusal()]);
    assert_eq!(call(&sidecar, 16).await, 429);
    let text = wait_for("a packet that is ready", async || {
        let (_, text, _) = command(admin, &[]).await;
        text.contains(": READY").then_some(text)
    })
    .await;
    for part in [
        "Whose limit: the Anthropic workspace",
        "rate limit of 100000 input tokens per minute",
        "anthropic-ratelimit-input-tokens-remaining: 0",
        "retry-after 7 s",
        "status page: not checked",
        "-H \"x-api-key: $API_KEY\"",
        "Until the owner is confirmed",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("sk-ant-test-fake"));
    let (_, list, _) = command(admin, &["--list"]).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(
        (&list[0]["open"], &list[0]["refusals"], &list[0]["failures"]),
        (&json!(true), &json!(2), &json!(1))
    );
    let (code, _, _) = command(admin, &["--owner", "nobody"]).await;
    assert_eq!(code, 1);

    assert_eq!(call(&sidecar, 16).await, 200);
    wait_for("its end", async || {
        command(admin, &[]).await.1.contains("over: a comparable workload passed").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_page_is_read_only_while_an_incident_is_open() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let page = listener.local_addr().unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    serve_http1(listener, move |_| {
        counted.fetch_add(1, Relaxed);
        let body = r#"{"status":{"indicator":"minor","description":"Partial outage"}}"#;
        async move { http::Response::new(Full::<bytes::Bytes>::from(body)) }
    });
    let api = Api::start().await;
    let sidecar = Sidecar::start(&format!(
        "{}evidence: {{status_page: 'http://{page}/api/v2/summary.json'}}\n",
        crate::support::route_to(api.address)
    ))
    .await;
    let admin = sidecar.admin().await;
    assert_eq!(call(&sidecar, 16).await, 200);
    assert_eq!(read.load(Relaxed), 0, "nothing has failed");
    api.script([refusal()]);
    call(&sidecar, 16).await;
    wait_for("the status in a packet", async || {
        command(admin, &[]).await.1.contains("status page: Partial outage (minor)").then_some(())
    })
    .await;
    assert_eq!(read.load(Relaxed), 1, "and then rarely");
    sidecar.wait_metric("plimsoll_source_polls_total", &["status_page", "ok"], 1.0).await;
    sidecar.wait_metric("plimsoll_source_up", &["status_page"], 1.0).await;
}
