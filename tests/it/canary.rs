//! Marked secrets and personal data in everything that a sidecar can see, and not one of them in
//! anything that it says: logs at trace level, `/metrics`, OTLP, pages, packets, alerts.
//!
//! The marks have the form of what they stand for, because that is how secrets are known; each holds
//! a word that is nowhere else. What is planted where the product keeps text (an error's message) is
//! scrubbed by pattern; everything else must never be kept at all.

use crate::support::collector::Collector;
use crate::support::webhook::Webhook;
use crate::support::{PATIENCE, serve_http1, wait_for};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// What may never be seen again, by where it was planted. `ids: hash` is on, so ids count too.
const PLANTED: &[&str] = &[
    "CanaryApiKey",
    "CanaryBearer",
    "CanaryCookie",
    "CanaryHeader",
    "CanaryAgent",
    "CanarySession",
    "CanaryQuery",
    "CanaryPrompt",
    "CanaryPerson",
    "CanarySystem",
    "CanaryAnswer",
    "CanarySetCookie",
    "CanaryResponseHeader",
    "CanarySse",
    "CanaryBodyField",
    "CanaryErrorKey",
    "CanaryErrorBearer",
    "canaryerror@example.com",
    "CanaryJwt",
    "CanaryTenant",
    "CanaryUrl",
    "CANARYAWS",
    "CanaryConfigKey",
    "CanaryAdminToken",
    "CanaryAlertToken",
    "CanaryFleetKey",
    "CanaryOtel",
    "CanaryEnvironment",
    "ca0a1e5e-0000-4000-8000-00000000ca0a",
    "CanaryStatus",
    "CanaryStdin",
    "+49 30 555 0199",
];

const MESSAGE: &str = "This request would exceed your organization's rate limit of 30,000 input tokens per minute (org: ca0a1e5e-0000-4000-8000-00000000ca0a, model: claude-opus-5-5). Key=CanaryTenant (sk-...XXXX), used sk-ant-api03-CanaryErrorKey-123456789, Authorization: Bearer CanaryErrorBearer123456, jane canaryerror@example.com, eyJhbGciOiJIUzI1NiJ9.CanaryJwt0.sig, https://u:CanaryUrl@x.example/p?q=CanaryUrl, AKIACANARYAWS1234567, call +49 30 555 0199.";

/// An upstream that answers by the call's number: a success, a stream, refusals, an error page.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(Mutex::new(0));
    serve_http1(listener, move |request: http::Request<Incoming>| {
        let served = served.clone();
        async move {
            request.into_body().collect().await.unwrap();
            let n = {
                let mut n = served.lock().unwrap();
                *n += 1;
                *n
            };
            answer(n)
        }
    });
    address
}

fn answer(n: usize) -> http::Response<Full<bytes::Bytes>> {
    let headers = |status: u16| {
        http::Response::builder()
            .status(status)
            .header("set-cookie", "s=CanarySetCookie")
            .header("x-custom", "CanaryResponseHeader")
            .header("anthropic-organization-id", "ca0a1e5e-0000-4000-8000-00000000ca0a")
            .header("request-id", "req_1")
            .header("anthropic-ratelimit-input-tokens-limit", "30000")
            .header("anthropic-ratelimit-input-tokens-remaining", "0")
    };
    let refusal = serde_json::json!({
        "type": "error",
        "error": {"type": "rate_limit_error", "message": MESSAGE},
        "echo": "CanaryBodyField",
    });
    let (builder, kind, body) = match n {
        1 => (headers(200), "application/json", "{\"type\":\"message\",\"content\":[{\"text\":\"CanaryAnswer\"}],\"usage\":{\"input_tokens\":1}}".to_owned()),
        2 => (headers(200), "text/event-stream", "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":1}},\"x\":\"CanarySse\"}\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded, Bearer CanarySse12345\"}}\n\n".to_owned()),
        3 => (headers(502), "text/html", "<html>CanaryBodyField</html>".to_owned()),
        _ => (headers(429), "application/json", refusal.to_string()),
    };
    builder.header("content-type", kind).body(Full::from(body)).unwrap()
}

/// The sidecar as a process, its log at trace level, everything configured that can be.
async fn sidecar(config: &str, otlp: SocketAddr, record: &std::path::Path) -> (Child, Arc<Mutex<String>>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .env_clear()
        .kill_on_drop(true)
        .args(["run", "--log-format", "json", "--record"])
        .arg(record)
        .arg("--config")
        .arg(file.path())
        .envs([
            ("PLIMSOLL_LOG", "trace"),
            ("RUST_BACKTRACE", "1"),
            ("KEY", "sk-ant-api03-CanaryConfigKey"),
            ("ADMIN", "CanaryAdminToken"),
            ("ALERT", "CanaryAlertToken"),
            ("FLEET", "CanaryFleetKey"),
            ("SOMETHING", "CanaryEnvironment"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer CanaryOtel"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{otlp}"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let kept = log.clone();
    tokio::spawn(async move {
        // The file must be there until it has been read.
        let _file = file;
        while let Ok(Some(line)) = lines.next_line().await {
            kept.lock().unwrap().push_str(&format!("{line}\n"));
        }
    });
    (child, log)
}

/// Addresses that the log announces.
async fn address(log: &Arc<Mutex<String>>, message: &str) -> String {
    wait_for(message, async || {
        let log = log.lock().unwrap().clone();
        let line = log.lines().find(|line| line.contains(message))?;
        let fields: serde_json::Value = serde_json::from_str(line).ok()?;
        fields["fields"]["address"].as_str().map(str::to_owned)
    })
    .await
}

/// One call with a mark in everything that a request has.
async fn call(hop: &str, key: &str) {
    let body = serde_json::json!({
        "model": "claude-opus-5-5",
        "max_tokens": 16,
        "system": "CanarySystem",
        "metadata": {"user_id": "CanaryPerson"},
        "messages": [{"role": "user", "content": "CanaryPrompt"}],
    });
    let sent = reqwest::Client::new()
        .post(format!("http://{hop}/v1/messages?beta=true&note=CanaryQuery"))
        .header("x-api-key", format!("sk-ant-api03-CanaryApiKey{key}"))
        .header("authorization", "Bearer CanaryBearer")
        .header("cookie", "a=CanaryCookie")
        .header("x-anything", "CanaryHeader")
        .header("user-agent", "claude-cli/2.1.330 (CanaryAgent)")
        .header("x-claude-code-session-id", "CanarySession")
        .json(&body)
        .send()
        .await
        .unwrap();
    sent.bytes().await.unwrap();
}

async fn get(url: &str) -> String {
    let answer = reqwest::Client::new().get(url).bearer_auth("CanaryAdminToken").send().await.unwrap();
    answer.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_and_no_person_is_in_anything_it_says() {
    let (otlp, alerts, upstream) = (Collector::start().await, Webhook::start().await, upstream().await);
    let mut status = tempfile::NamedTempFile::new().unwrap();
    status.write_all(b"{\"loggedIn\":true,\"email\":\"CanaryStatus@example.com\"}").unwrap();
    let config = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0', token: {{env: ADMIN}}}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: api, upstream: 'http://{upstream}'}}\nfingerprint_key: {{env: FLEET}}\ncredentials:\n- {{alias: ci, secret: {{env: KEY}}}}\nalerts:\n  alertmanagers:\n  - {{url: 'http://{}', bearer_token: {{env: ALERT}}}}\nevidence: {{ids: hash, claude_status_file: '{}'}}\notlp: {{interval_secs: 1, span_ratio: 1}}\n",
        alerts.address,
        status.path().display()
    );
    let dir = tempfile::tempdir().unwrap();
    let recorded = dir.path().join("answers.jsonl");
    let (mut child, log) = sidecar(&config, otlp.address, &recorded).await;
    let hop = address(&log, "hop listens").await;
    let metrics = address(&log, "metrics, health and runbooks").await;
    let admin = address(&log, "admin port").await;
    for n in 0..8 {
        call(&hop, if n < 6 { "A" } else { "B" }).await;
    }
    wait_for("the incident, failed again", async || {
        let list = get(&format!("http://{admin}/v1/incidents")).await;
        list.contains("\"ready\":true").then_some(())
    })
    .await;
    wait_for("an alert", async || (!alerts.posts().is_empty()).then_some(())).await;
    wait_for("spans of every call", async || (otlp.spans().len() >= 8).then_some(())).await;

    let mut said: Vec<(String, String)> = Vec::new();
    for url in [
        format!("http://{metrics}/metrics"),
        format!("http://{metrics}/-/healthy"),
        format!("http://{metrics}/nothing?x=CanaryQuery"),
        format!("http://{admin}/v1/incidents"),
        format!("http://{admin}/v1/evidence"),
        format!("http://{admin}/v1/evidence?format=json"),
    ] {
        said.push((url.clone(), get(&url).await));
    }
    let packet = &said[4].1;
    assert!(
        packet.contains("rate limit of 30,000 input tokens") && packet.contains("[anthropic key]"),
        "{packet}"
    );
    assert!(packet.contains(": READY"), "{packet}");
    said.push(("explain".to_owned(), explained().await));
    said.push(("OTLP".to_owned(), otlp.debug()));
    let record = std::fs::read_to_string(&recorded).unwrap();
    assert!(record.lines().count() >= 8, "{record}");
    said.push(("record".to_owned(), record));
    said.push(("alerts".to_owned(), format!("{:?}", alerts.posts())));
    child.kill().await.unwrap();
    said.push(("log at trace level".to_owned(), log.lock().unwrap().clone()));
    for (place, text) in &said {
        assert!(!text.is_empty(), "{place} says nothing");
        for mark in PLANTED {
            let found = text.find(mark).map(|at| {
                text[text.floor_char_boundary(at.saturating_sub(200))..].chars().take(400).collect::<String>()
            });
            assert!(found.is_none(), "{mark} is in {place}: {}", found.unwrap());
        }
    }
}

/// What `explain` says of a paste that is full of secrets.
async fn explained() -> String {
    let mut input = tempfile::NamedTempFile::new().unwrap();
    write!(input, "HTTP/1.1 429\nx-custom: CanaryStdin\n\n{{\"error\":{{\"message\":\"{MESSAGE}\"}}}}")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .arg("explain")
        .stdin(Stdio::from(input.reopen().unwrap()))
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
