//! Out of the path, with the real programs: whoever sees limits tells of them in time, and whoever sees less gives verdicts.

use crate::programs::{Program, envoy_with_its_logs, haproxy, installed, litellm_with, nginx, root};
use crate::support::api::{Answer, Api};
use crate::support::process::{output, start};
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
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners: []\nowners:\n- {{name: search-team, match: {{routes: [search]}}, runbook_url: 'https://runbooks.example/search'}}\nsources:\n  routes: [{{name: search}}]\n{sources}{more}"
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
    let mut child = start(command.stdin(Stdio::null()).stdout(Stdio::piped()));
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

/// The shipped callback in a LiteLLM proxy in front of this upstream; its deployments cool down as told.
async fn litellm_that_tells(upstream: SocketAddr, admin: SocketAddr, cooldown: &str) -> Program {
    let deployment = |name: &str, more: &str| {
        format!(
            "- model_name: {name}\n  litellm_params: {{model: anthropic/claude-opus-5-5, api_base: 'http://{upstream}', api_key: sk-ant-test-fake{more}}}\n"
        )
    };
    let config = format!(
        "model_list:\n{}{}{}router_settings: {{num_retries: 0, {cooldown}}}\nlitellm_settings: {{num_retries: 0, callbacks: [plimsoll_callback.plimsoll, prometheus]}}\ngeneral_settings: {{custom_auth: tenants.user_api_key_auth}}\n",
        deployment("claude-opus-5-5", ""),
        deployment("claude-two", ""),
        deployment("claude-two", ", timeout: 5"),
    );
    let callback = root().join("examples/sources/litellm/plimsoll_callback.py");
    let tenants = root().join("tests/e2e/gateways/tenants.py");
    let url = format!("http://{admin}/v1/observations");
    litellm_with(&config, &[&callback, &tenants], &[("PLIMSOLL_URL", url)]).await
}

/// A sidecar on which LiteLLM's calls are a route of a gateway.
async fn beside_litellm(more: &str) -> Sidecar {
    Sidecar::start(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners: []\nowners:\n- {{name: search-team, match: {{routes: [litellm]}}}}\nsources:\n  routes: [{{name: litellm, match: {{sources: [report]}}, surface: gateway}}]\n{more}"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellms_callback_warns_of_the_upstreams_bucket_before_the_429() {
    let provider = Provider::start(CAPACITY).await.unwrap();
    let sidecar = beside_litellm("").await;
    let proxy = litellm_that_tells(provider.address, sidecar.admin().await, "disable_cooldowns: true").await;
    let traffic = Traffic::start(proxy.address, PLAN);
    let first =
        async || pressure(&sidecar).or_else(|| traffic.first_429_at().map(|_| panic!("no alert came first")));
    let alert = tokio::time::timeout(Duration::from_secs(90), eventually(first)).await.expect("an alert");
    traffic.stop();
    assert_eq!(alert.identity.owner.kind.as_str(), "anthropic_workspace", "the upstream's bucket: {alert:?}");
    assert_eq!(
        (alert.identity.owner.id.as_str(), alert.identity.limiter.as_str()),
        ("search-team", "input_tokens")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellms_callback_and_its_counters_tell_tenant_upstream_and_cooldown_apart() {
    let api = Api::start().await;
    let sidecar = beside_litellm("").await;
    let proxy =
        litellm_that_tells(api.address, sidecar.admin().await, "allowed_fails: 0, cooldown_time: 30").await;
    // Beside it one that knows its counters alone.
    let scraping = Sidecar::start(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners: []\nsources: {{routes: [{{name: llm, surface: gateway}}]}}\npollers:\n  gateways: [{{name: llm, kind: litellm, url: 'http://{}', route: llm, interval_secs: 5}}]\n",
        proxy.address
    ))
    .await;
    scraping.wait_metric("plimsoll_source_up", &["gateway:llm"], 1.0).await;
    let send = async |key: &str, path: &str, model: &str| {
        let body = json!({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]});
        let url = format!("http://{}{path}", proxy.address);
        Client::new().post(url).bearer_auth(key).json(&body).send().await.unwrap().status().as_u16()
    };
    const CHAT: &str = "/v1/chat/completions";
    // The tenant's level, before its limit is reached: it is the gateway's, and nobody's at the provider.
    send("sk-tenant-roomy", CHAT, "claude-opus-5-5").await;
    let level = ["plimsoll_owner_kind=\"gateway_tenant\"", "api_key_requests"];
    sidecar.wait_metric("plimsoll_limit", &level, 10.0).await;
    // Another tenant's limit; its level is a bucket of its own, of which the worse is shown where neither has a name.
    for path in [CHAT, CHAT, "/v1/messages"] {
        send("sk-tenant-rpm", path, "claude-opus-5-5").await;
    }
    let own = ["plimsoll_verdict=\"gateway_tenant\"", "plimsoll_limiter=\"requests\"", "answered_by"];
    sidecar.wait_metric("plimsoll_rejections_total", &own, 2.0).await;
    send("sk-tenant-roomy", CHAT, "claude-opus-5-5").await;
    sidecar.wait_metric("plimsoll_limit", &level, 1.0).await;
    // The upstream's limit, and the cooldown that comes of it.
    let refusal = || Answer::RateLimited { retry_after: 2, should_retry: true };
    api.script([refusal(), refusal(), refusal(), refusal()]);
    let cooling = async || {
        send("sk-tenant", CHAT, "claude-two").await;
        let cooldown = ["plimsoll_verdict=\"gateway_tenant\"", "plimsoll_limiter=\"unknown\"", "answered_by"];
        sidecar.metric("plimsoll_rejections_total", &cooldown).await.filter(|n| *n >= 1.0)
    };
    tokio::time::timeout(PATIENCE * 2, eventually(cooling)).await.expect("a cooldown");
    let upstream =
        ["plimsoll_verdict=\"anthropic_workspace\"", "plimsoll_limiter=\"input_tokens\"", "header_family"];
    wait_for("the upstream's refusals", async || {
        sidecar.metric("plimsoll_rejections_total", &upstream).await.filter(|n| *n >= 1.0)
    })
    .await;
    let unknown = sidecar.metric("plimsoll_rejections_total", &["plimsoll_verdict=\"unknown\""]).await;
    assert_eq!(unknown, None, "{}", sidecar.scrape().await);
    for secret in ["sk-tenant", "sk-ant-test-fake", "team-a"] {
        assert!(!sidecar.scrape().await.contains(secret));
    }
    // Counters alone tell the three apart, too, and raise the alert that says that refusals are here.
    for parts in [["gateway_tenant", "answered_by"], ["anthropic_workspace", "plimsoll_evidence=\"route\""]] {
        let counted =
            async || scraping.metric("plimsoll_rejections_total", &parts).await.filter(|n| *n >= 1.0);
        tokio::time::timeout(PATIENCE * 2, eventually(counted)).await.unwrap_or_else(|_| panic!("{parts:?}"));
    }
    let alerts = scraping.running.published.alerts.borrow().clone();
    assert!(alerts.iter().any(|alert| alert.name == AlertName::Throttled), "{alerts:?}");
}

/// Claude Code against this upstream, with these variables.
fn claude_code(upstream: SocketAddr, home: &Path, env: &[(&str, String)], args: &[&str]) -> Command {
    let mut command = Command::new(installed("node/node_modules/.bin/claude"));
    command
        .args(["-p", "hi"])
        .args(args)
        .current_dir(home)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("ANTHROPIC_BASE_URL", format!("http://{upstream}"))
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null());
    command
}

const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "sk-ant-test-fake");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_codes_own_telemetry_gives_calls_retries_and_verdicts() {
    let api = Api::start().await;
    let sidecar = outside("  otlp: {http: '127.0.0.1:0', grpc: '127.0.0.1:0'}\n").await;
    let listening = sidecar.running.listening;
    let telemetry = |protocol: &str, address: Option<SocketAddr>| {
        vec![
            (KEY.0, KEY.1.to_owned()),
            ("CLAUDE_CODE_ENABLE_TELEMETRY", "1".to_owned()),
            ("CLAUDE_CODE_ENHANCED_TELEMETRY_BETA", "1".to_owned()),
            ("OTEL_METRICS_EXPORTER", "otlp".to_owned()),
            ("OTEL_LOGS_EXPORTER", "otlp".to_owned()),
            ("OTEL_TRACES_EXPORTER", "otlp".to_owned()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", address.unwrap())),
            ("OTEL_LOGS_EXPORT_INTERVAL", "500".to_owned()),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
        ]
    };
    let home = tempfile::tempdir().unwrap();
    let run = async |protocol: &str, address| {
        let mut command = claude_code(
            api.address,
            home.path(),
            &telemetry(protocol, address),
            &["--output-format", "json"],
        );
        output(&mut command, PATIENCE * 3).await
    };
    // Two attempts are refused, the third passes: only the last is told of, and how many there were.
    api.script([
        Answer::RateLimited { retry_after: 1, should_retry: true },
        Answer::RateLimited { retry_after: 1, should_retry: true },
    ]);
    run("http/json", listening.otlp_http).await;
    sidecar.wait_metric("plimsoll_requests_total", &["=\"200\""], 1.0).await;
    sidecar.wait_metric("plimsoll_tokens_total", &["=\"output\""], 4.0).await;
    sidecar.wait_metric("plimsoll_tokens_total", &["=\"input\""], 12.0).await;
    // Refused for good.
    api.script([Answer::RateLimited { retry_after: 7, should_retry: false }]);
    run("grpc", listening.otlp_grpc).await;
    let refused = ["plimsoll_owner=\"search-team\"", "wording"];
    sidecar.wait_metric("plimsoll_rejections_total", &refused, 1.0).await;
    let alerts = sidecar.running.published.alerts.borrow().clone();
    assert!(alerts.iter().any(|alert| alert.name == AlertName::Throttled), "{alerts:?}");
    // Its event and its span of one request are one call; metrics say the same tokens once more.
    let text = sidecar.scrape().await;
    assert_eq!(metric(&text, "plimsoll_requests_total", &[]), Some(2.0), "{text}");
    assert_eq!(metric(&text, "plimsoll_tokens_total", &["=\"output\""]), Some(4.0));
    assert_eq!(metric(&text, "plimsoll_retries_total", &[]), Some(2.0), "{text}");
    assert!(!text.contains("sk-ant"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_codes_stream_tells_each_retry_and_a_plans_windows() {
    let api = Api::start().await;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("stream.jsonl");
    std::fs::File::create(&log).unwrap();
    let sidecar = outside(&format!(
        "  tails: [{{path: '{}', preset: claude_stream, route: search, from: start}}]\n",
        log.display()
    ))
    .await;
    let run = async |credential: (&str, &str)| {
        let env = [(credential.0, credential.1.to_owned())];
        let mut command =
            claude_code(api.address, dir.path(), &env, &["--output-format", "stream-json", "--verbose"]);
        let said = output(&mut command, PATIENCE * 3).await.stdout;
        std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(&said).unwrap();
    };
    api.script([
        Answer::RateLimited { retry_after: 1, should_retry: true },
        Answer::RateLimited { retry_after: 1, should_retry: true },
    ]);
    run(KEY).await;
    sidecar.wait_metric("plimsoll_requests_total", &["=\"429\""], 2.0).await;
    sidecar.wait_metric("plimsoll_requests_total", &["=\"200\""], 1.0).await;
    sidecar.wait_metric("plimsoll_rejections_total", &["plimsoll_owner=\"search-team\""], 2.0).await;
    // A plan's windows come as an event, the refusal itself as the result.
    api.script([Answer::PlanRejected]);
    run(("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-test-fake")).await;
    let window = ["plimsoll_limiter=\"five_hour\"", "plimsoll_owner_kind=\"claude_plan\"", "search-team"];
    wait_for("the plan's window", async || {
        sidecar.metric("plimsoll_utilization_ratio", &window).await.filter(|used| *used >= 1.0)
    })
    .await;
    assert!(!sidecar.scrape().await.contains("synthetic"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_line_prints_a_plans_windows_and_warns_its_owner() {
    let sidecar = Sidecar::start(
        "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners: []\nowners:\n- {name: dev-team, kinds: [claude_plan]}\nsources: {routes: [{name: laptop}]}\n",
    )
    .await;
    let admin = sidecar.admin().await;
    let resets = jiff::Timestamp::now().as_second() + 3_600;
    let line = json!({"session_id": "s", "cwd": "/home/me/secret", "model": {"id": "claude-opus-5-5"},
        "rate_limits": {"five_hour": {"used_percentage": 92.4, "resets_at": resets}, "seven_day": {"used_percentage": 41, "resets_at": resets}}});
    let run = async |input: String, admin: String| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(input.as_bytes()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(["statusline", "--route", "laptop", "--admin", &admin]).stdin(file.reopen().unwrap());
        let output = output(&mut command, PATIENCE).await;
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (ok, said) = run(line.to_string(), format!("http://{admin}")).await;
    assert!(ok && said.starts_with("5h 92% (full again in ") && said.contains("7d 41%"), "{said}");
    let alert = wait_for("the plan's owner to be warned", async || pressure(&sidecar)).await;
    assert_eq!(
        (alert.identity.owner.id.as_str(), alert.identity.limiter.as_str()),
        ("dev-team", "five_hour")
    );
    assert_eq!(alert.route.as_str(), "laptop");
    assert_eq!(sidecar.metric("plimsoll_requests_total", &[]).await, None, "no call was made");
    // Nobody there to be told: the line is printed all the same.
    let (ok, said) = run(line.to_string(), "http://127.0.0.1:9".to_owned()).await;
    assert!(ok && said.starts_with("5h 92%"));
    let (ok, _) = run("no json".to_owned(), format!("http://{admin}")).await;
    assert!(!ok);
}
