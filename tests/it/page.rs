//! The page as a browser gets it: whole without a script, small, escaped, and shown to nobody who may not see it.

use crate::support::{Sidecar, eventually, wait_for};
use http::StatusCode;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;

async fn sidecar() -> (Sidecar, SocketAddr) {
    let config = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners: []\nowners:\n- {name: search, match: {workspaces: ['ws-1']}, contact: '#search', runbook_url: 'https://runbooks.example/search'}\nsources: {routes: [{name: api, match: {services: [app]}}]}\n";
    let sidecar = Sidecar::start(config).await;
    let admin = sidecar.admin().await;
    (sidecar, admin)
}

#[tokio::test]
async fn runbooks_are_where_people_reach_this_sidecar() {
    let config = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners: []\nexternal_url: http://runbooks.example:9429\nsources: {routes: [{name: api, match: {services: [app]}}]}\n";
    let sidecar = Sidecar::start(config).await;
    let admin = sidecar.admin().await;
    tell(admin, &[told("ws-9", "tight", 200, 2_000)]).await;
    let shown =
        wait_for("the bucket", async || Some(page(admin, "/").await).filter(|text| text.contains("tight")))
            .await;
    let runbook = "http://runbooks.example:9429/runbooks/anthropic_workspace";
    assert!(shown.contains(&format!("href=\"{runbook}\"")), "{shown}");
    let state: Value = get(admin, "/v1/state").await.json().await.unwrap();
    assert_eq!(state["owners"][0]["runbook_url"], runbook);
}

/// Tells of a bucket of a workspace.
fn told(workspace: &str, model: &str, status: u16, remaining: u64) -> Value {
    json!({"status": status, "model": model, "host": "api.anthropic.com", "headers": {
        "anthropic-workspace-id": workspace,
        "anthropic-ratelimit-input-tokens-limit": "60000",
        "anthropic-ratelimit-input-tokens-remaining": remaining.to_string(),
    }})
}

async fn tell(admin: SocketAddr, all: &[Value]) {
    let lines: String = all.iter().map(|one| format!("{one}\n")).collect();
    let request = Client::new().post(format!("http://{admin}/v1/observations"));
    let answer = request.header("content-type", "application/x-ndjson").body(lines).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
}

async fn get(admin: SocketAddr, path: &str) -> Response {
    Client::new().get(format!("http://{admin}{path}")).send().await.unwrap()
}

async fn page(admin: SocketAddr, path: &str) -> String {
    get(admin, path).await.text().await.unwrap()
}

#[tokio::test]
async fn the_worst_bucket_comes_first_with_its_owner_and_whom_to_call() {
    let (_sidecar, admin) = sidecar().await;
    assert!(page(admin, "/").await.contains("No limit has been seen yet"));
    tell(admin, &[told("ws-1", "calm", 200, 59_000), told("ws-1", "tight", 200, 2_000)]).await;
    let text = wait_for("both buckets", async || {
        Some(page(admin, "/").await).filter(|text| text.contains("tight") && text.contains("calm"))
    })
    .await;
    assert!(text.find("tight").unwrap() < text.find("calm").unwrap());
    for part in [
        "<bdi>search</bdi> <span class=\"dim\">(anthropic_workspace)",
        " s</time> ago",
        "Call <bdi>#search</bdi>.",
        "https://runbooks.example/search",
        "of 60,000",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(" style=") && !text.contains("<script>"), "the policy allows neither");
    let sources = page(admin, "/sources").await;
    assert!(sources.contains(">report<") && sources.contains("in force"), "{sources}");
}

#[tokio::test]
async fn an_incident_shows_its_three_attempts_the_stop_rule_and_the_packet() {
    let (_sidecar, admin) = sidecar().await;
    tell(admin, &[told("ws-1", "m", 200, 40_000), told("ws-1", "m", 429, 0), told("ws-1", "m", 429, 0)])
        .await;
    let list = wait_for("an incident", async || {
        Some(page(admin, "/incidents").await).filter(|text| text.contains("href=\"/incidents/"))
    })
    .await;
    let id = list.split("href=\"/incidents/").nth(1).unwrap().split('"').next().unwrap();
    let text = page(admin, &format!("/incidents/{id}")).await;
    for part in [
        "Last success",
        "First failure",
        "Current failure",
        "Stop rule.",
        "First move",
        "Copy the packet",
        "id=\"packet\"",
        "exact",
    ] {
        assert!(text.contains(part), "{part}");
    }
    assert_eq!(get(admin, "/incidents/none").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(admin, "/owners/none").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn hostile_names_are_text() {
    let (_sidecar, admin) = sidecar().await;
    let evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    tell(admin, &[told("ws-1", evil, 200, 1_000), told("ws-1", evil, 429, 0)]).await;
    let text = wait_for("the name", async || {
        Some(page(admin, "/").await).filter(|text| text.contains("&lt;script&gt;"))
    })
    .await;
    assert!(!text.contains("<script>alert") && !text.contains("<img src=x"), "{text}");
    let policy = get(admin, "/").await;
    let policy = policy.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let path = format!("/owners/{}", "%3Cscript%3Ealert(1)%3C/script%3E");
    assert!(!page(admin, &path).await.contains("<script>alert"));
}

#[tokio::test]
async fn two_thousand_buckets_are_a_small_page_and_the_rest_is_behind_their_owner() {
    let (sidecar, admin) = sidecar().await;
    let all: Vec<Value> =
        (0..2_000).map(|n| told("ws-1", &format!("model-{n}"), 200, 59_000 - n * 20)).collect();
    for some in all.chunks(500) {
        tell(admin, some).await;
    }
    wait_for("the book to be full", async || {
        Some(()).filter(|()| sidecar.running.published.snapshots.borrow().buckets.len() >= 1_500)
    })
    .await;
    let request = Client::new().get(format!("http://{admin}/")).header("accept-encoding", "gzip");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = answer.bytes().await.unwrap().len();
    assert!(bytes < 20_000, "{bytes} bytes, compressed");
    let text = page(admin, "/").await;
    assert!(text.contains("/owners/search/anthropic_workspace") && text.matches("<tr>").count() < 20);
    let own = page(admin, "/owners/search/anthropic_workspace").await;
    assert!(own.matches("<tr>").count() > 1_000);
}

#[tokio::test]
async fn what_is_new_is_told_within_a_second() {
    let (_sidecar, admin) = sidecar().await;
    let mut events = get(admin, "/events").await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    tell(admin, &[told("ws-1", "m", 200, 1_000)]).await;
    let told = async {
        loop {
            let part = events.chunk().await.unwrap().unwrap();
            if part.starts_with(b"data:") && page(admin, "/").await.contains("of 60,000") {
                return;
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, told).await.expect("an event");
}

#[tokio::test]
async fn nobody_sees_it_by_a_foreign_name() {
    let (_sidecar, admin) = sidecar().await;
    for path in ["/", "/events", "/page.js", "/incidents", "/v1/state", "/v1/tap"] {
        let request = Client::new().get(format!("http://{admin}{path}")).header("host", "evil.example");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
    }
    let answered = async || Some(get(admin, "/").await.status()).filter(|status| *status == StatusCode::OK);
    eventually(answered).await;
}

#[tokio::test]
async fn the_tap_shows_calls_as_they_end_and_nothing_that_is_secret() {
    let (_sidecar, admin) = sidecar().await;
    let mut tap = get(admin, "/v1/tap").await;
    let mut refused = told("ws-1", "m", 429, 0);
    refused["body"] = json!({"error": {"type": "rate_limit_error", "message": "secret words"}});
    tell(admin, &[told("ws-1", "m", 200, 30_000), refused]).await;
    let mut text = String::new();
    while text.lines().count() < 2 {
        let part =
            tokio::time::timeout(crate::support::PATIENCE, tap.chunk()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&part).unwrap());
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["status"], &lines[0]["verdict"]), (&json!(200), &Value::Null));
    assert_eq!(lines[0]["limits"][0]["remaining"], json!(30_000));
    assert_eq!(lines[1]["verdict"]["class"], "anthropic_workspace");
    assert_eq!(lines[1]["owner"], "search");
    assert!(!text.contains("secret words"), "{text}");
}
