//! Clouds: the SDKs of Anthropic and AWS through the hop, signed anew by it, and a fleet whose own counts add up.

use crate::programs::{Program, alertmanager, installed, prometheus, root, shipped};
use crate::support::aws::{ACCOUNT, Aws, REGION};
use crate::support::google::{Google, Vertex};
use crate::support::process;
use crate::support::webhook::Webhook;
use crate::support::{PATIENCE, Sidecar, eventually, metric, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const SONNET: &str = "cross-region.claude-sonnet-4-6";

fn client(language: &str, name: &str, to: SocketAddr) -> Command {
    let clients = root().join("tests/e2e/clients");
    let mut command = match language {
        "python" => {
            let mut python = Command::new(installed("venv/bin/python"));
            python.arg(clients.join("cloud_client.py"));
            python
        }
        _ => {
            let mut node = Command::new("node");
            node.arg(clients.join("cloud_client.mjs")).env("PLIMSOLL_E2E_NODE", installed("node"));
            node
        }
    };
    command.args(["--client", name, "--base-url", &format!("http://{to}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn said(mut command: Command) -> Value {
    let output = process::output(&mut command, PATIENCE * 6).await;
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

fn bedrock_route(aws: &Aws) -> String {
    format!(
        "{{name: bedrock, upstream: 'http://{}', surface: bedrock, region: {REGION}, project: '{ACCOUNT}'}}",
        aws.address
    )
}

fn quota(limit: u64) -> String {
    format!(
        "quotas:\n- {{surface: bedrock, project: '{ACCOUNT}', region: {REGION}, model: us.anthropic.claude-sonnet-4-6, limiter: tokens, per_minute: {limit}}}\n"
    )
}

fn config(route: &str, more: &str) -> String {
    format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {route}\n{more}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sdk_for_bedrock_passes_and_its_calls_are_counted() {
    let aws = Aws::start().await;
    let sidecar = Sidecar::start(&config(&bedrock_route(&aws), &quota(1_000_000))).await;
    let mut calls = 0.0;
    for (language, names) in [
        (
            "python",
            &[
                "bedrock",
                "bedrock-stream",
                "bedrock-bearer",
                "bedrock-bearer-stream",
                "boto3-invoke",
                "boto3-invoke-stream",
                "boto3-converse",
                "boto3-converse-stream",
            ][..],
        ),
        ("node", &["bedrock", "bedrock-stream"]),
    ] {
        for name in names {
            let said = said(client(language, name, sidecar.hop)).await;
            assert_eq!(
                (&said["answered"], &said["text"]),
                (&json!(1), &json!("Hello")),
                "{language} {name}: {said}"
            );
            calls += 1.0;
        }
    }
    let local = ["plimsoll_scope=\"local\"", SONNET, "cloud_region=\"us-east-1\""];
    let with = |limiter| [&local[..], &[limiter]].concat();
    sidecar.wait_metric("plimsoll_used", &with("plimsoll_limiter=\"requests\""), calls).await;
    let used = aws.state.lock().unwrap().tokens_used as f64;
    sidecar.wait_metric("plimsoll_used", &with("plimsoll_limiter=\"tokens\""), used).await;
    assert_eq!(sidecar.metric("plimsoll_panics_total", &[]).await, Some(0.0));
    // What was signed, and what was a bearer, arrived as it was sent.
    let seen: Vec<String> =
        aws.state.lock().unwrap().seen.iter().map(|(head, _)| authorization(head)).collect();
    assert_eq!(seen.iter().filter(|a| a.starts_with("AWS4-HMAC-SHA256 Credential=AKIDCALLER/")).count(), 8);
    assert_eq!(seen.iter().filter(|a| *a == "Bearer ABSK-bearer").count(), 2);
}

fn authorization(head: &http::request::Parts) -> String {
    head.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_bedrock_is_named_in_a_stream_too() {
    let aws = Aws::start().await;
    aws.set(|state| state.tokens_per_minute = Some(1));
    let sidecar = Sidecar::start(&config(&bedrock_route(&aws), "")).await;
    let refused = ["plimsoll_verdict=\"bedrock\"", "plimsoll_owner_kind=\"aws_account\"", SONNET];
    for (nth, (in_stream, name)) in [
        (false, "bedrock"),
        (false, "boto3-converse"),
        (true, "boto3-converse-stream"),
        (true, "bedrock-stream"),
    ]
    .into_iter()
    .enumerate()
    {
        aws.set(|state| state.refuse_in_stream = in_stream);
        let said = said(client("python", name, sidecar.hop)).await;
        assert_eq!(said["answered"], 0, "{name}: {said}");
        sidecar.wait_metric("plimsoll_rejections_total", &refused, (nth + 1) as f64).await;
    }
    sidecar.wait_metric("plimsoll_used", &["plimsoll_scope=\"local\"", "\"tokens\""], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdks_for_vertex_pass_and_their_calls_are_counted() {
    let vertex = Vertex::start(1_000_000).await;
    let route = format!("{{name: vertex, upstream: 'http://{}'}}", vertex.address);
    let sidecar = Sidecar::start(&config(&route, "")).await;
    for (language, name) in
        [("python", "vertex"), ("python", "vertex-stream"), ("node", "vertex"), ("node", "vertex-stream")]
    {
        let said = said(client(language, name, sidecar.hop)).await;
        assert_eq!(
            (&said["answered"], &said["text"]),
            (&json!(1), &json!("Hello")),
            "{language} {name}: {said}"
        );
    }
    let local =
        ["plimsoll_scope=\"local\"", "gen_ai_request_model=\"claude-opus\"", "cloud_region=\"global\""];
    let used = *vertex.used.lock().unwrap() as f64;
    sidecar.wait_metric("plimsoll_used", &[&local[..], &["\"input_tokens\""]].concat(), used).await;
    sidecar.wait_metric("plimsoll_used", &[&local[..], &["\"output_tokens\""]].concat(), 24.0).await;
    let seen = vertex.seen.lock().unwrap();
    assert!(seen.iter().all(|(head, _)| authorization(head) == "Bearer ya29.test"));
}

/// The sidecar's own credentials.
const OWN: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIDSIDECAR"),
    ("AWS_SECRET_ACCESS_KEY", "sidecar-secret"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_signs_anew_signs_as_aws_checks_it() {
    let aws = Aws::start().await;
    let route = bedrock_route(&aws).replace('}', &format!(", resign: {{region: {REGION}}}}}"));
    let (_child, addresses) = process::run(&config(&route, ""), &OWN).await;
    for name in ["boto3-invoke", "boto3-converse-stream", "bedrock-bearer"] {
        let said = said(client("python", name, addresses[0])).await;
        assert_eq!(said["text"], "Hello", "{name}: {said}");
    }
    // A path whose parts are encoded is signed encoded twice.
    let mut profile = client("python", "boto3-converse", addresses[0]);
    let arn = format!("arn:aws:bedrock:{REGION}:{ACCOUNT}:application-inference-profile/a1b2c3");
    profile.args(["--model", &arn]);
    assert_eq!(said(profile).await["text"], "Hello");
    let seen = aws.state.lock().unwrap().seen.clone();
    assert_eq!(seen.len(), 4);
    assert!(seen[3].0.uri.path().contains("%3A"), "{}", seen[3].0.uri);
    for (head, body) in seen {
        assert!(authorization(&head).contains("Credential=AKIDSIDECAR/"), "the caller's own is gone");
        let headers: BTreeMap<String, String> = head
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        let told = json!({"method": head.method.as_str(), "url": format!("http://{}{}", aws.address, head.uri),
            "headers": headers, "body": String::from_utf8(body.to_vec()).unwrap(), "access": "AKIDSIDECAR",
            "secret": "sidecar-secret", "region": REGION, "service": "bedrock"});
        assert_eq!(checked(&told).await, "valid");
    }
}

/// AWS's own botocore on a signature.
async fn checked(told: &Value) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(told.to_string().as_bytes()).unwrap();
    let mut python = Command::new(installed("venv/bin/python"));
    python.arg(root().join("tests/e2e/clients/sigv4_check.py")).stdin(file.reopen().unwrap());
    let output = process::output(&mut python, PATIENCE * 3).await;
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Prometheus on these targets, the shipped rules with an interval of a second.
async fn fleet(targets: &[SocketAddr], manager: SocketAddr) -> Program {
    let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    let config = shipped("alerts/prometheus.example.yaml")
        .replace("'127.0.0.1:9429'", &targets.join(", "))
        .replace("127.0.0.1:9093", &manager.to_string())
        .replace("15s", "1s");
    let rules = shipped("alerts/plimsoll.rules.yaml").replace("interval: 15s", "interval: 1s");
    prometheus(&config, &rules).await
}

/// What a cloud's fleet is made of.
struct Cloud {
    /// Its poller's `/metrics`.
    poller: SocketAddr,
    route: String,
    client: &'static str,
    owner_kind: &'static str,
    limiter: &'static str,
    region: &'static str,
    verdict: &'static str,
}

const LIMIT: u64 = 60_000;

/// Three sidecars, each below half of the quota and jointly above it: their owner is told before the first 429.
async fn three_sidecars_and_one_quota(cloud: Cloud) {
    let hook = Webhook::start().await;
    let manager = alertmanager(&format!(
        "route: {{receiver: ml, group_by: ['...'], group_wait: 0s, group_interval: 1s}}\nreceivers:\n- name: ml\n  webhook_configs: [{{url: 'http://{}/hook'}}]\n",
        hook.address
    ))
    .await;
    let more = format!(
        "owners:\n- {{name: ml, match: {{projects: ['{ACCOUNT}', 'p-*'], regions: [{}]}}, runbook_url: 'https://wiki.example/ml-quota'}}\n\
         pollers: {{limits: {{url: 'http://{}', interval_secs: 5}}}}\n",
        cloud.region, cloud.poller
    );
    let mut sidecars = Vec::new();
    for _ in 0..3 {
        sidecars.push(Sidecar::start(&config(&cloud.route, &more)).await);
    }
    for sidecar in &sidecars {
        sidecar.wait_metric("plimsoll_source_up", &["plimsoll_source=\"limits\""], 1.0).await;
    }
    let targets: Vec<SocketAddr> = sidecars.iter().map(|s| s.metrics).chain([cloud.poller]).collect();
    let _fleet = fleet(&targets, manager.address).await;
    let traffic: Vec<_> = sidecars
        .iter()
        .map(|sidecar| {
            let mut command = client("python", cloud.client, sidecar.hop);
            command.args([
                "--calls",
                "400",
                "--prompt-bytes",
                "2400",
                "--max-tokens",
                "60",
                "--pause",
                "1.1",
            ]);
            tokio::spawn(said(command))
        })
        .collect();
    let pressure = |post: &crate::support::webhook::Post| {
        let alerts = post.body["alerts"].as_array().cloned().unwrap_or_default();
        alerts.into_iter().find(|alert| {
            alert["labels"]["alertname"] == "PlimsollBucketPressure"
                && alert["labels"]["limiter"] == cloud.limiter
        })
    };
    let found = eventually(async || hook.posts().iter().find_map(pressure));
    let alert = tokio::time::timeout(Duration::from_secs(90), found).await.expect("the fleet's alert");
    let told = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    for sidecar in &sidecars {
        let own = ["plimsoll_scope=\"local\"", &format!("plimsoll_limiter=\"{}\"", cloud.limiter)];
        let used = metric(&sidecar.scrape().await, "plimsoll_used", &own).unwrap();
        assert!(used > 0.0 && used < LIMIT as f64 / 2.0, "{used} of one sidecar");
    }
    let labels = &alert["labels"];
    assert_eq!(
        (&labels["owner"], &labels["owner_kind"]),
        (&json!("ml"), &json!(cloud.owner_kind)),
        "{alert:#}"
    );
    assert_eq!((&labels["scope"], &labels["region"]), (&json!("local"), &json!(cloud.region)));
    assert_eq!(alert["annotations"]["runbook_url"], "https://wiki.example/ml-quota");
    let mut first_429 = f64::INFINITY;
    for client in traffic {
        let said = client.await.unwrap();
        first_429 = first_429.min(said["first_429_at"].as_f64().unwrap_or(f64::INFINITY));
    }
    assert!(told < first_429, "told at {told}, refused at {first_429}");
    assert!(first_429.is_finite(), "the quota did run out");
    let verdict = format!("plimsoll_verdict=\"{}\"", cloud.verdict);
    wait_for("the verdict", async || {
        let mut rejected = 0.0;
        for sidecar in &sidecars {
            let parts = ["plimsoll_owner=\"ml\"", verdict.as_str()];
            rejected += sidecar.metric("plimsoll_rejections_total", &parts).await.unwrap_or(0.0);
        }
        (rejected >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sidecars_on_bedrock_are_told_before_the_429() {
    let aws = Aws::start().await;
    let quota = "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 4.6";
    aws.set(|state| {
        state.applied = vec![(quota.to_owned(), LIMIT as f64)];
        state.tokens_per_minute = Some(LIMIT);
    });
    let poller = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners: []\nowners: [{{name: ml}}]\npollers:\n  aws: [{{name: prod, project: '{ACCOUNT}', regions: [{REGION}], endpoint_url: 'http://{}'}}]\n",
        aws.address
    );
    let (_child, addresses) = process::run(&poller, &OWN).await;
    three_sidecars_and_one_quota(Cloud {
        poller: addresses[0],
        route: bedrock_route(&aws),
        client: "boto3-invoke",
        owner_kind: "aws_account",
        limiter: "tokens",
        region: REGION,
        verdict: "bedrock",
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sidecars_on_vertex_are_told_before_the_429() {
    let (google, vertex) = (Google::start().await, Vertex::start(LIMIT).await);
    let quota = "global_online_prediction_input_tokens_per_minute_per_base_model";
    google.set(|state| {
        let base = "anthropic-claude-opus".to_owned();
        state.quotas = vec![(quota.to_owned(), base, String::new(), LIMIT as i64)];
    });
    let poller = Sidecar::start(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners: []\nowners: [{{name: ml}}]\npollers:\n  google: [{{name: prod, project: p-1, endpoint_url: 'http://{}'}}]\n",
        google.address
    ))
    .await;
    three_sidecars_and_one_quota(Cloud {
        poller: poller.metrics,
        route: format!("{{name: vertex, upstream: 'http://{}'}}", vertex.address),
        client: "vertex",
        owner_kind: "gcp_project",
        limiter: "input_tokens",
        region: "global",
        verdict: "vertex",
    })
    .await;
}
