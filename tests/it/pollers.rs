//! Quota APIs: what they tell reaches metrics, alerts and other sidecars; what is wrong with them spoils only itself.

use crate::support::api::Api;
use crate::support::aws::{ACCOUNT, Aws};
use crate::support::console::{Console, KEY, ORGANIZATION};
use crate::support::google::Google;
use crate::support::process;
use crate::support::{PATIENCE, Sidecar, metric, route_to, wait_for};
use http_body_util::{BodyExt, Full};
use plimsoll::app::Seams;
use serde_json::json;
use std::io::Write;
use tokio::process::Command;

const ALONE: &str = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners: []\n";

async fn admin_api(console: &Console, more: &str) -> Sidecar {
    let config = format!(
        "{ALONE}owners:\n- {{name: search, match: {{workspaces: ['Search (*']}}}}\n- {{name: platform, match: {{organizations: ['{ORGANIZATION}']}}}}\n\
         pollers:\n  anthropic:\n    admin_key: {{env: ADMIN_KEY}}\n    url: http://{}\n{more}",
        console.address
    );
    let env = |name: &str| (name == "ADMIN_KEY").then(|| KEY.to_owned());
    let config = plimsoll::config::Config::parse(&config, &env).unwrap_or_else(|e| panic!("{e}"));
    let running = plimsoll::app::start(config, Seams { env: |_| None, ..Seams::default() }).await.unwrap();
    let nowhere = ([127, 0, 0, 1], 0).into();
    Sidecar { hop: nowhere, metrics: running.metrics, running }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_api_tells_limits_usage_and_money() {
    let console = Console::start().await;
    console.set(|state| {
        state.minute = vec![(Some("wrkspc_search"), 7_000), (None, 500)];
        state.cents = vec![(Some("wrkspc_search"), 20_000), (None, 100)];
    });
    let sidecar =
        admin_api(&console, "    workspaces: [{id: wrkspc_search, monthly_spend_usd: 100}]\n").await;
    let own = [
        "plimsoll_owner=\"search\"",
        "gen_ai_request_model=\"claude-opus-4\"",
        "plimsoll_limiter=\"input_tokens\"",
    ];
    sidecar.wait_metric("plimsoll_limit", &own, 50_000.0).await;
    sidecar.wait_metric("plimsoll_used", &own, 7_015.0).await;
    let whole = ["plimsoll_owner=\"platform\"", "plimsoll_limiter=\"input_tokens\""];
    sidecar.wait_metric("plimsoll_limit", &whole, 200_000.0).await;
    sidecar.wait_metric("plimsoll_limit", &["plimsoll_limiter=\"shiny_new_limit\""], 7.0).await;
    sidecar
        .wait_metric("plimsoll_limit", &["plimsoll_limiter=\"batch_enqueued_batch_requests\""], 100_000.0)
        .await;
    sidecar.wait_metric("plimsoll_source_unusable_total", &["anthropic_limits"], 1.0).await;
    let alerts = wait_for("the alert on money", async || {
        let alerts = sidecar.running.published.alerts.borrow().clone();
        alerts.iter().find(|alert| alert.name.as_str() == "PlimsollSpend").cloned()
    })
    .await;
    assert_eq!((alerts.identity.owner.id.as_str(), alerts.identity.limiter.as_str()), ("search", "spend"));
    assert!(alerts.detail.unwrap().contains("of $100.00 are spent this month"));
    let seen = console.state.lock().unwrap().seen.clone();
    assert!(!seen.iter().any(|path| path.contains("wrkspc_old")), "nothing is asked of what is archived");
    let shown = sidecar.scrape().await;
    assert!(!shown.contains(KEY) && !shown.contains(ORGANIZATION), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_api_that_fails_in_part_spoils_only_that() {
    let console = Console::start().await;
    console.set(|state| state.refuse = Some(("cost_report", 403)));
    let sidecar = admin_api(&console, "    monthly_spend_usd: 1\n").await;
    sidecar.wait_metric("plimsoll_source_up", &["anthropic_spend"], 0.0).await;
    sidecar.wait_metric("plimsoll_source_up", &["anthropic_limits"], 1.0).await;
    sidecar.wait_metric("plimsoll_source_interval_seconds", &["anthropic_limits"], 3_600.0).await;
    sidecar.wait_metric("plimsoll_limit", &["plimsoll_limiter=\"requests\""], 4_000.0).await;
    assert_eq!(sidecar.metric("plimsoll_limit", &["plimsoll_limiter=\"spend\""]).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_never_end_are_given_up() {
    let console = Console::start().await;
    console.set(|state| state.endless = true);
    let sidecar = admin_api(&console, "").await;
    sidecar.wait_metric("plimsoll_source_up", &["anthropic_limits"], 0.0).await;
    let asked = console.state.lock().unwrap().seen.iter().filter(|path| path.contains("rate_limits")).count();
    assert_eq!(asked, 50, "pages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_beside_the_sidecar_is_seen() {
    let console = Console::start().await;
    console.set(|state| state.minute = vec![(Some("wrkspc_test"), 90_000)]);
    let api = Api::start().await;
    let config = format!(
        "{}owners: [{{name: search}}]\npollers:\n  anthropic: {{admin_key: {{env: ADMIN_KEY}}, url: 'http://{}'}}\n",
        route_to(api.address),
        console.address
    );
    let env = |name: &str| (name == "ADMIN_KEY").then(|| KEY.to_owned());
    let config = plimsoll::config::Config::parse(&config, &env).unwrap();
    let running = plimsoll::app::start(config, Seams { env: |_| None, ..Seams::default() }).await.unwrap();
    let sidecar = Sidecar { hop: running.hops()[0], metrics: running.metrics, running };
    let body = json!({"model": "claude-opus-4-8", "max_tokens": 5, "messages": []}).to_string();
    let url = format!("http://{}/v1/messages", sidecar.hop);
    let sent = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    assert_eq!(sent.status(), 200);
    // What everybody drew, and what passed here: the fleet's rules take one from the other.
    sidecar.wait_metric("plimsoll_used", &["input_tokens", "claude-opus-4\"", "search"], 90_015.0).await;
    sidecar.wait_metric("plimsoll_tokens_total", &["type=\"input\"", "search"], 12.0).await;
    // The bucket that headers tell of has the group's name, once the API has told it.
    let sent = reqwest::Client::new();
    let again = json!({"model": "claude-opus-4-5-20251101", "max_tokens": 5, "messages": []}).to_string();
    sent.post(format!("http://{}/v1/messages", sidecar.hop)).body(again).send().await.unwrap();
    sidecar.wait_metric("plimsoll_limit", &["\"input_tokens\"", "claude-opus-4\""], 100_000.0).await;
}

fn seed(google: &Google) {
    let text = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let input = "global_online_prediction_input_tokens_per_minute_per_base_model";
    google.set(|state| {
        for (metric, base, region, value) in [
            (input, "anthropic-claude-opus", "", 20_000),
            ("online_prediction_requests_per_base_model", "anthropic-claude-opus-4-7", "us-east5", 90),
            ("global_online_prediction_requests_per_base_model", "anthropic-claude-opus", "", 0),
            ("custom_model_training_cpus", "x", "us-east5", 4),
        ] {
            state.quotas.push((metric.to_owned(), base.to_owned(), region.to_owned(), value));
        }
        let (base, global) =
            (text(&[("base_model", "anthropic-claude-opus")]), text(&[("location", "global")]));
        let quota = |what: &str| format!("aiplatform.googleapis.com/quota/{input}/{what}");
        let served = "aiplatform.googleapis.com/publisher/online_serving/token_count".to_owned();
        let model = text(&[("model_user_id", "claude-opus-4-8"), ("location", "global")]);
        state.series = vec![
            (quota("usage"), base.clone(), global.clone(), json!({"int64Value": "15000"})),
            (quota("exceeded"), base, global, json!({"int64Value": "3"})),
            (served.clone(), text(&[("type", "input")]), model.clone(), json!({"int64Value": "14000"})),
            (served, text(&[("type", "output")]), model, json!({"doubleValue": "NaN"})),
        ];
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_tells_limits_usage_and_refusals() {
    let google = Google::start().await;
    seed(&google);
    let config = format!(
        "{ALONE}owners:\n- {{name: ads, match: {{projects: ['p-*'], regions: [global]}}}}\n\
         pollers:\n  google:\n  - {{name: prod, project: p-1, endpoint_url: 'http://{}'}}\n",
        google.address
    );
    let sidecar = Sidecar::start(&config).await;
    let input = [
        "plimsoll_owner=\"ads\"",
        "plimsoll_limiter=\"input_tokens\"",
        "cloud_region=\"global\"",
        "claude-opus\"",
    ];
    sidecar.wait_metric("plimsoll_limit", &input, 20_000.0).await;
    sidecar.wait_metric("plimsoll_limit", &["us-east5", "unnamed", "claude-opus-4-7"], 90.0).await;
    sidecar.wait_metric("plimsoll_limit", &["plimsoll_limiter=\"requests\"", "global"], 0.0).await;
    sidecar.wait_metric("plimsoll_used", &input, 15_000.0).await;
    sidecar.wait_metric("plimsoll_provider_refusals", &input, 3.0).await;
    sidecar.wait_metric("plimsoll_used", &["served_input_tokens", "claude-opus\""], 14_000.0).await;
    assert_eq!(sidecar.metric("plimsoll_used", &["served_output_tokens"]).await, None, "NaN is no value");
    assert_eq!(
        sidecar.metric("plimsoll_utilization_ratio", &["global"]).await,
        None,
        "late draws are no level"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_without_permission_or_project_says_so() {
    for (status, message, wanted) in [
        (403, "Permission denied", "role \"Cloud Quotas Viewer\" has it"),
        (403, "Cloud Quotas API has not been used in project 1 before or it is disabled.", "not enabled"),
        (404, "Project not found", "no such project"),
    ] {
        let google = Google::start().await;
        google.set(|state| state.refuse = Some((status, message)));
        let config = format!(
            "{ALONE}pollers:\n  google:\n  - {{name: prod, project: p-1, endpoint_url: 'http://{}'}}\n",
            google.address
        );
        let (code, stdout, _) = check(&config).await;
        assert!(code == 1 && stdout.contains(wanted), "{stdout}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_in_the_configuration_need_no_poller() {
    let aws = Aws::start().await;
    let config = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: bedrock, upstream: 'http://{}', surface: bedrock, region: us-east-1, project: '{ACCOUNT}'}}\n\
         quotas:\n- {{surface: bedrock, project: '{ACCOUNT}', region: us-east-1, model: us.anthropic.claude-sonnet-4-6, limiter: tokens, per_minute: 10000}}\n",
        aws.address
    );
    let sidecar = Sidecar::start(&config).await;
    invoke(&sidecar, 40, 400).await;
    let local = ["plimsoll_scope=\"local\"", "plimsoll_limiter=\"tokens\"", "cross-region.claude-sonnet-4-6"];
    wait_for("the own count", async || {
        sidecar.metric("plimsoll_utilization_ratio", &local).await.filter(|used| *used > 0.01)
    })
    .await;
    let used = sidecar.metric("plimsoll_used", &local).await.unwrap();
    let sent = aws.state.lock().unwrap().tokens_used as f64;
    assert_eq!(used, sent, "settled as the provider counts");
    assert_eq!(sidecar.metric("plimsoll_limit", &["requests", "local"]).await, None);
}

async fn invoke(sidecar: &Sidecar, words: usize, max_tokens: u64) -> u16 {
    let body = json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "word ".repeat(words)}]});
    let url = format!("http://{}/model/us.anthropic.claude-sonnet-4-6/invoke", sidecar.hop);
    let sent = reqwest::Client::new().post(url).body(body.to_string()).send().await.unwrap();
    sent.status().as_u16()
}

const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIDTEST"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// The sidecar as a process, with AWS credentials; the address of its `/metrics`.
async fn run(config: &str) -> (process::Started, String) {
    let (child, addresses) = process::run(config, &CREDENTIALS).await;
    (child, addresses.last().unwrap().to_string())
}

fn aws_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.env_clear().kill_on_drop(true);
    command.envs(CREDENTIALS);
    command
}

async fn check(config: &str) -> (i32, String, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    let mut command = aws_command();
    let command = command.args(["check", "--ask", "--config"]).arg(file.path());
    let output = tokio::time::timeout(PATIENCE * 2, command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn wait_metric(metrics: &str, name: &str, parts: &[&str], wanted: f64) {
    let mut last = String::new();
    let seen = async {
        loop {
            last = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
            if metric(&last, name, parts) == Some(wanted) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, seen).await.is_err() {
        panic!("{name}{parts:?} is not {wanted}\n{last}");
    }
}

fn bedrock(aws: &Aws, regions: &str, more: &str) -> String {
    format!(
        "{ALONE}owners:\n- {{name: ml, match: {{projects: ['{ACCOUNT}'], regions: [us-east-1]}}}}\n\
         pollers:\n  aws:\n  - {{name: prod, project: '{ACCOUNT}', regions: [{regions}], endpoint_url: 'http://{}'{more}}}\n",
        aws.address
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_tells_limits_profiles_and_what_was_drawn() {
    let aws = Aws::start().await;
    aws.seed();
    let (_child, metrics) = run(&bedrock(&aws, "us-east-1", ", usage_interval_secs: 60")).await;
    let tokens = ["plimsoll_owner=\"ml\"", "plimsoll_limiter=\"tokens\"", "cross-region.claude-sonnet-4-6"];
    wait_metric(&metrics, "plimsoll_limit", &tokens, 100_000.0).await;
    wait_metric(&metrics, "plimsoll_limit", &["requests", "cross-region.claude-sonnet-4-6"], 10_000.0).await;
    wait_metric(&metrics, "plimsoll_limit", &["tokens_per_day"], 700_000_000.0).await;
    wait_metric(&metrics, "plimsoll_limit", &["mantle.claude-opus-4-7"], 20_000_000.0).await;
    wait_metric(&metrics, "plimsoll_source_unusable_total", &["bedrock_limits"], 2.0).await;
    assert!(aws.calls("ListAWSDefaultServiceQuotas") >= 3, "pages of three");
    wait_for("the draw", async || {
        let text = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
        let drawn = metric(&text, "plimsoll_used", &tokens)?;
        let profile =
            metric(&text, "plimsoll_used", &["a1b2c3", "plimsoll_limiter=\"tokens\""]).unwrap_or(0.0);
        (drawn == 42_000.0 && profile == 0.0).then_some(())
    })
    .await;
    wait_metric(&metrics, "plimsoll_provider_refusals", &tokens, 2.0).await;
    let document: serde_json::Value =
        reqwest::get(format!("http://{metrics}/v1/limits")).await.unwrap().json().await.unwrap();
    let limits = document["sources"][0]["limits"].as_array().unwrap();
    assert_eq!(limits.len(), 4, "{document:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_four_regions_and_thirty_models_costs_less_than_ten_cents() {
    let aws = Aws::start().await;
    aws.set(|state| {
        for model in 0..30 {
            let id = format!("us.anthropic.claude-model-{model}");
            for name in [
                "EstimatedTPMQuotaUsage",
                "InputTokenCount",
                "OutputTokenCount",
                "Invocations",
                "InvocationThrottles",
            ] {
                let dimensions = vec![("ModelId".to_owned(), id.clone())];
                state.metrics.push(("AWS/Bedrock".to_owned(), name.to_owned(), dimensions, json!(5.0)));
            }
        }
    });
    let regions = "us-east-1, us-west-2, eu-west-1, ap-south-1";
    let (_child, metrics) = run(&bedrock(&aws, regions, "")).await;
    for region in regions.split(", ") {
        wait_metric(&metrics, "plimsoll_source_up", &[&format!("bedrock_usage/prod/{region}")], 1.0).await;
    }
    // One poll of each region; by the default interval there are twelve in an hour, and one discovery.
    let (asked, largest) = aws.state.lock().map(|s| (s.metrics_asked, s.largest_batch)).unwrap();
    let listed = aws.calls("ListMetrics");
    assert!(largest <= 500, "{largest}");
    let dollars = (asked * 12 + listed) as f64 * 0.01 / 1_000.0;
    assert!((0.01..=0.10).contains(&dollars), "{dollars} dollars for {asked} metrics a poll");
    let counted = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
    let counted = metric(&counted, "plimsoll_source_billed_total", &["bedrock_usage"]).unwrap();
    assert_eq!(counted, (asked + listed) as f64, "what is told is what was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_names_the_missing_permission_and_no_caller() {
    for (operation, code, wanted) in [
        (
            "ListServiceQuotas",
            "AccessDeniedException",
            "the IAM permission `servicequotas:ListServiceQuotas` is missing",
        ),
        ("GetMetricData", "AccessDenied", "the IAM permission `cloudwatch:GetMetricData` is missing"),
        ("ListServiceQuotas", "ExpiredTokenException", "the credentials have expired"),
        ("ListMetrics", "InvalidSignatureException", "clock show the right time?"),
    ] {
        let aws = Aws::start().await;
        aws.seed();
        aws.set(|state| _ = state.refuse.insert(operation.to_owned(), (403, code)));
        let (exit, stdout, stderr) = check(&bedrock(&aws, "us-east-1", "")).await;
        assert!(exit == 1 && stdout.contains(wanted), "{stdout}{stderr}");
        assert!(!stdout.contains("jane.doe") && !stderr.contains("jane.doe"), "{stdout}{stderr}");
    }
    // Without the names of profiles the limits are worth having.
    let aws = Aws::start().await;
    aws.seed();
    aws.set(|state| {
        _ = state.refuse.insert("ListInferenceProfiles".to_owned(), (403, "AccessDeniedException"))
    });
    let (exit, stdout, stderr) = check(&bedrock(&aws, "us-east-1", "")).await;
    assert!(exit == 0 && stderr.contains("`bedrock:ListInferenceProfiles` is missing"), "{stdout}{stderr}");
    assert!(stdout.contains("bedrock_limits/prod/us-east-1: answered (4 limits"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_region_that_is_refused_and_pages_that_never_end_spoil_only_themselves() {
    let aws = Aws::start().await;
    aws.seed();
    aws.set(|state| state.refuse_region = Some("eu-west-1".to_owned()));
    let (_child, metrics) = run(&bedrock(&aws, "us-east-1, eu-west-1", "")).await;
    wait_metric(&metrics, "plimsoll_source_up", &["bedrock_limits/prod/us-east-1"], 1.0).await;
    wait_metric(&metrics, "plimsoll_source_up", &["bedrock_limits/prod/eu-west-1"], 0.0).await;
    wait_metric(
        &metrics,
        "plimsoll_limit",
        &["cloud_region=\"us-east-1\"", "cross-region", "\"tokens\""],
        100_000.0,
    )
    .await;
    aws.set(|state| {
        state.refuse_region = None;
        state.endless = true;
    });
    let (code, stdout, _) = check(&bedrock(&aws, "us-east-1", "")).await;
    assert!(code == 1 && stdout.contains("its pages do not end"), "{stdout}");
}

/// Three sidecars, none of which asks any cloud, and one poller whose limits they read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_read_a_pollers_limits_and_keep_them_when_it_is_gone() {
    let google = Google::start().await;
    seed(&google);
    let (mut process, poller) = run(&format!(
        "{ALONE}pollers:\n  google:\n  - {{name: prod, project: p-1, usage_interval_secs: 0, endpoint_url: 'http://{}'}}\n",
        google.address
    ))
    .await;
    wait_metric(&poller, "plimsoll_source_up", &["vertex_limits/prod"], 1.0).await;
    let url = format!("http://{poller}/v1/limits");
    let first = wait_for("the limits", async || {
        let answer = reqwest::get(&url).await.unwrap();
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        answer.text().await.unwrap().contains("input_tokens").then_some(tag)
    })
    .await;
    let again = reqwest::Client::new().get(&url).header("if-none-match", &first).send().await.unwrap();
    assert_eq!((again.status().as_u16(), again.bytes().await.unwrap().len()), (304, 0));
    let upstream = vertex().await;
    let sidecar = Sidecar::start(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: vertex, upstream: 'http://{upstream}'}}\n\
         pollers: {{limits: {{url: 'http://{}', interval_secs: 5}}}}\n",
        poller
    ))
    .await;
    let own = [
        "plimsoll_scope=\"local\"",
        "plimsoll_limiter=\"input_tokens\"",
        "claude-opus\"",
        "cloud_region=\"global\"",
    ];
    sidecar.wait_metric("plimsoll_source_up", &["plimsoll_source=\"limits\""], 1.0).await;
    assert_eq!(
        sidecar.metric("plimsoll_limit", &[]).await,
        None,
        "of what nobody here calls nothing is shown"
    );
    let path = "v1/projects/p-1/locations/global/publishers/anthropic/models/claude-opus-4-8:rawPredict";
    let body =
        json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 10, "messages": []}).to_string();
    let sent = reqwest::Client::new()
        .post(format!("http://{}/{path}", sidecar.hop))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 200);
    sidecar.wait_metric("plimsoll_used", &own, 500.0).await;
    sidecar.wait_metric("plimsoll_utilization_ratio", &own, 0.025).await;
    process.kill().await.unwrap();
    sidecar.wait_metric("plimsoll_source_up", &["plimsoll_source=\"limits\""], 0.0).await;
    sidecar.wait_metric("plimsoll_limit", &own, 20_000.0).await;
}

/// Vertex AI's answer to a call.
async fn vertex() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    crate::support::serve_http1(listener, |request: http::Request<hyper::body::Incoming>| async move {
        request.into_body().collect().await.unwrap();
        let body = json!({"type": "message", "model": "claude-opus-4-8", "content": [],
            "usage": {"input_tokens": 500, "output_tokens": 5}});
        let mut response = http::Response::new(Full::<bytes::Bytes>::from(body.to_string()));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
        response
    });
    address
}

/// The two ways in which pods have credentials on EKS, each by the SDK's own chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_a_pod_are_found() {
    let aws = Aws::start().await;
    aws.seed();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.web.identity").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bedrock(&aws, "us-east-1", "")).unwrap();
    for identity in [true, false] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.env_clear().kill_on_drop(true).env("AWS_EC2_METADATA_DISABLED", "true");
        if identity {
            command
                .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/poller")
                .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.path());
            command
                .env("AWS_ENDPOINT_URL_STS", format!("http://{}", aws.address))
                .env("AWS_REGION", "us-east-1");
        } else {
            command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/pod-identity", aws.address));
        }
        let command = command.args(["check", "--ask", "--config"]).arg(file.path());
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{identity}: {text} {}", String::from_utf8_lossy(&output.stderr));
        let keys = aws.state.lock().unwrap().keys.clone();
        let wanted = if identity { "AKIDWEB" } else { "AKIDPOD" };
        assert!(keys.last().is_some_and(|key| key == wanted), "{keys:?}");
    }
}

/// A poller that has just started, or that one of its sources refuses, knows less than before: its readers do not.
#[tokio::test]
async fn a_poller_that_starts_anew_takes_no_limit_away() {
    use plimsoll::pollers::runner::Poll;
    let documents = [
        json!({"version": 1, "sources": [{"name": "a", "at": 1.9e9, "limits": [{"surface": "bedrock", "project": "1", "region": "r",
            "model": "m", "limiter": "tokens", "window": "1m", "limit": 5}]}]}),
        json!({"version": 1, "sources": []}),
    ];
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    crate::support::serve_http1(listener, move |_| {
        let nth = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed).min(1);
        let body = documents[nth].to_string();
        async move { http::Response::new(Full::<bytes::Bytes>::from(body)) }
    });
    let url = format!("http://{address}/v1/limits");
    let mut shared = plimsoll::pollers::shared::Shared::new(&url, plimsoll::clock::Clock::system()).unwrap();
    let first = shared.poll().await.unwrap();
    assert_eq!(first.rows.len(), 1);
    assert_eq!(shared.poll().await.unwrap().rows, first.rows);
}
