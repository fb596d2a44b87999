//! Out of the path, with the real programs: whoever sees limits tells of them in time, and whoever sees less gives verdicts.

use crate::programs::{Program, envoy_with_its_logs, haproxy, installed, litellm_with, nginx, root, shipped};
use crate::support::api::{Answer, Api};
use crate::support::{PATIENCE, Sidecar, eventually, metric, wait_for};
use plimsoll::demo::{Capacity, Plan, Provider, Traffic};
use plimsoll::engine::{Alert, AlertName};
use reqwest::Client;
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Sixty thousand input tokens a minute, emptied in some 15 s.
const CAPACITY: Capacity = Capacity { requests: 600, input: 60_000, output: 60_000 };
const PLAN: Plan = Plan { start: 2.0, growth: 0.4, prompt: 4_000, output: 60 };

/// A sidecar without a hop, whose every call is the route `search`.
async fn outside(sources: &str) -> Sidecar {
    outside_with(sources, "").await
}

async fn outside_with(sources: &str, more: &str) -> Sidecar {
    let config = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners: []\nowners:\n- {{name: search-team, match: {{routes: [search]}}, runbook_url: 'https://runbooks.example/search'}}\nsources:\n  routes: [{{name: search, match: {{paths: ['*']}}}}]\n{sources}{more}"
    );
    Sidecar::start(&config).await
}

fn pressure(sidecar: &Sidecar) -> Option<Alert> {
    let alerts = sidecar.running.published.alerts.borrow().clone();
    let names = [AlertName::BucketPressure, AlertName::BucketExhausting];
    alerts.iter().find(|alert| names.contains(&alert.name)).cloned()
}

/// The owner is warned before the first 429, and knows of it.
fn is_right(alert: &Alert, what: &str) {
    assert_eq!(alert.identity.owner.id.as_str(), "search-team", "{what}: {alert:?}");
    assert_eq!(alert.identity.owner.kind.as_str(), "anthropic_workspace", "{what}: {alert:?}");
    assert_eq!(alert.identity.limiter.as_str(), "input_tokens", "{what}: {alert:?}");
    assert_eq!(alert.route.as_str(), "search", "{what}");
}

/// Traffic through a program until the first 429; the alert must have come before. How many calls were sent.
async fn warned(sidecar: &Sidecar, through: SocketAddr, what: &str) -> u64 {
    let traffic = Traffic::start(through, PLAN);
    let mut alert = None;
    let first = async || {
        alert = alert.take().or_else(|| pressure(sidecar).filter(|_| traffic.first_429_at().is_none()));
        traffic.first_429_at()
    };
    let refused = tokio::time::timeout(Duration::from_secs(90), eventually(first)).await;
    assert!(refused.is_ok(), "{what}: nothing was refused; {} calls broke off", traffic.broken());
    traffic.stop();
    let alert = alert.unwrap_or_else(|| panic!("{what}: no alert came before the first 429"));
    is_right(&alert, what);
    traffic.sent()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_envoys_three_logs_warns_the_owner_before_the_429() {
    let each = async |what: &'static str| {
        let provider = Provider::start(CAPACITY).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("envoy.jsonl");
        let sidecar = outside(&match what {
            "ALS" => "  envoy_als: {bind: '127.0.0.1:0'}\n".to_owned(),
            "OTLP" => "  otlp: {http: '127.0.0.1:0'}\n".to_owned(),
            _ => format!("  tails: [{{path: '{}', preset: envoy, from: start}}]\n", log.display()),
        })
        .await;
        let gateway = envoy_with_its_logs(provider.address, &sidecar.running.listening, &log).await;
        warned(&sidecar, gateway.address, what).await;
    };
    tokio::join!(each("ALS"), each("OTLP"), each("file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_that_envoy_logs_three_times_is_counted_once() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("envoy.jsonl");
    let sidecar = outside(&format!(
        "  envoy_als: {{bind: '127.0.0.1:0'}}\n  otlp: {{http: '127.0.0.1:0'}}\n  tails: [{{path: '{}', preset: envoy, from: start}}]\n",
        log.display()
    ))
    .await;
    let gateway = envoy_with_its_logs(api.address, &sidecar.running.listening, &log).await;
    api.script([
        Answer::Ok { remaining: 50_000 },
        Answer::RateLimited { retry_after: 2, should_retry: true },
    ]);
    for wanted in [200, 429, 200] {
        assert_eq!(ask(gateway.address, "claude-opus-5-5").await, wanted);
    }
    let told = |text: &str, source: &str, outcome: &str| {
        let parts = [format!("source=\"{source}\""), format!("outcome=\"{outcome}\"")];
        metric(text, "plimsoll_source_observations_total", &[&parts[0], &parts[1]]).unwrap_or(0.0)
    };
    let sources = ["envoy_als", "otlp", "envoy"];
    let all = async |outcome: &str| {
        let text = sidecar.scrape().await;
        sources.iter().map(|source| told(&text, source, outcome)).collect::<Vec<_>>()
    };
    // Whoever told early of a call told of it once more at its end.
    wait_for("each log to tell each call", async || {
        all("told").await.iter().all(|n| *n >= 3.0).then_some(())
    })
    .await;
    wait_for("two of three to be known again", async || {
        (all("repeated").await.iter().sum::<f64>() >= 6.0).then_some(())
    })
    .await;
    let text = sidecar.scrape().await;
    assert_eq!(metric(&text, "plimsoll_requests_total", &[]), Some(3.0), "{text}");
    assert_eq!(metric(&text, "plimsoll_rejections_total", &[]), Some(1.0));
    assert_eq!(
        metric(&text, "plimsoll_rejections_total", &["header_family", "anthropic_workspace"]),
        Some(1.0)
    );
}

/// One call; the status.
async fn ask(to: SocketAddr, model: &str) -> u16 {
    let body = json!({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]});
    let request = Client::new().post(format!("http://{to}/v1/messages")).bearer_auth("sk-tenant");
    let answer = request.header("anthropic-version", "2023-06-01").json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    answer.bytes().await.unwrap();
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginxs_and_haproxys_logs_warn_the_owner_and_their_own_refusals_are_theirs() {
    let (a, b) = (Provider::start(CAPACITY).await.unwrap(), Provider::start(CAPACITY).await.unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (of_nginx, of_haproxy) = (dir.path().join("nginx.jsonl"), dir.path().join("haproxy.jsonl"));
    let tail = |preset: &str, log: &Path| {
        format!("  tails: [{{path: '{}', preset: {preset}, from: start}}]\n", log.display())
    };
    let beside_nginx = outside(&tail("nginx", &of_nginx)).await;
    let beside_haproxy = outside(&tail("haproxy", &of_haproxy)).await;
    let nginx = nginx(a.address, &of_nginx).await;
    let haproxy = haproxy(b.address, &of_haproxy).await;
    tokio::join!(
        warned(&beside_nginx, nginx.address, "nginx"),
        warned(&beside_haproxy, haproxy.address, "HAProxy")
    );
    for (sidecar, proxy, name) in [(&beside_nginx, &nginx, "nginx"), (&beside_haproxy, &haproxy, "HAProxy")] {
        // Their own limit refuses what comes too fast, and no upstream is asked.
        let burst = (0..400).map(|_| ask(proxy.address, "claude-opus-5-5"));
        let answers = futures_util::future::join_all(burst).await;
        assert!(answers.contains(&429), "{name}: {answers:?}");
        wait_for(name, async || {
            let own = ["gateway_tenant", "answered_by"];
            sidecar.metric("plimsoll_rejections_total", &own).await.filter(|n| *n >= 1.0)
        })
        .await;
    }
}

/// Runs a client that tells Plimsoll itself, until its first 429; the alert must have come before.
async fn client_is_warned(mut command: Command, sidecar: &Sidecar, what: &str) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let warned_at = tokio::time::timeout(Duration::from_secs(90), eventually(async || pressure(sidecar)))
        .await
        .unwrap_or_else(|_| panic!("{what}: no alert"));
    is_right(&warned_at, what);
    let mut said = String::new();
    let mut out = child.stdout.take().unwrap();
    tokio::time::timeout(PATIENCE * 5, tokio::io::AsyncReadExt::read_to_string(&mut out, &mut said))
        .await
        .unwrap()
        .unwrap();
    let said: Value = serde_json::from_str(said.trim()).unwrap_or_else(|e| panic!("{what}: {e}: {said}"));
    let refused = said["first_429_at"].as_f64().unwrap_or_else(|| panic!("{what}: {said}"));
    assert!(warned_at.since.secs_f64() < refused, "{what}: {} and {refused}", warned_at.since.secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_that_tell_by_their_sdks_hooks_are_warned_before_the_429() {
    let python = async || {
        let provider = Provider::start(CAPACITY).await.unwrap();
        let sidecar = outside("").await;
        let admin = sidecar.admin().await;
        let mut command = Command::new(installed("venv/bin/python"));
        command
            .arg(root().join("tests/e2e/clients/reporting_client.py"))
            .args([&format!("http://{}", provider.address), "report", ""])
            .env("PLIMSOLL_URL", format!("http://{admin}/v1/observations"));
        client_is_warned(command, &sidecar, "Python SDK").await;
    };
    let node = async || {
        let provider = Provider::start(CAPACITY).await.unwrap();
        let sidecar = outside("").await;
        let admin = sidecar.admin().await;
        let mut command = Command::new("node");
        command
            .arg(root().join("tests/e2e/clients/reporting_client.mjs"))
            .arg(format!("http://{}", provider.address))
            .env("PLIMSOLL_E2E_NODE", installed("node"))
            .env("PLIMSOLL_URL", format!("http://{admin}/v1/observations"));
        client_is_warned(command, &sidecar, "JavaScript SDK").await;
    };
    tokio::join!(python(), node());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opentelemetrys_spans_with_captured_headers_warn_before_the_429_and_count_once() {
    let provider = Provider::start(CAPACITY).await.unwrap();
    let sidecar = outside("  otlp: {http: '127.0.0.1:0'}\n").await;
    let otlp = sidecar.running.listening.otlp_http.unwrap();
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(root().join("tests/e2e/clients/reporting_client.py")).args([
        &format!("http://{}", provider.address),
        "otel",
        &format!("http://{otlp}"),
    ]);
    client_is_warned(command, &sidecar, "OpenTelemetry").await;
    // The SDK's own span and the client's span of the same call are one.
    let (passed, refused) = provider.counts();
    sidecar.wait_metric("plimsoll_requests_total", &[], (passed + refused) as f64).await;
}
