//! Every query of every shipped dashboard returns data, with the labels that its panel names, from what a real run
//! produced: traffic into its limit, a poller that asks a cloud, sources outside of the path, a route that is changed in
//! the middle of an incident.

use crate::alerting::{CAPACITY, PLAN, shipped_prometheus};
use crate::programs::{Program, alertmanager, root};
use crate::support::aws::{ACCOUNT, Aws};
use crate::support::{PATIENCE, Sidecar, process, serve_http1};
use http_body_util::Full;
use plimsoll::demo::{Provider, Traffic};
use reqwest::Client;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;

struct Asked {
    panel: String,
    query: String,
    legend: String,
}

/// The queries of a dashboard, by panel, as Grafana would send them with every variable at "All".
fn queries(dashboard: &Value) -> Vec<Asked> {
    let mut todo: Vec<&Value> = dashboard["panels"].as_array().unwrap().iter().collect();
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    let mut found = Vec::new();
    while let Some(panel) = todo.pop() {
        todo.extend(panel["panels"].as_array().into_iter().flatten());
        for target in panel["targets"].as_array().into_iter().flatten() {
            let mut query = target["expr"]
                .as_str()
                .unwrap()
                .replace("$__rate_interval", "10s")
                .replace("$__range", "60s");
            for name in &variables {
                query = query.replace(&format!("${{{name}}}"), ".*").replace(&format!("${name}"), ".*");
            }
            assert!(!query.contains('$'), "a variable is left: {query}");
            found.push(Asked {
                panel: panel["title"].as_str().unwrap_or_default().to_owned(),
                query,
                legend: target["legendFormat"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    found
}

/// Labels that a legend names.
fn labels(legend: &str) -> Vec<&str> {
    legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(str::trim).collect()
}

/// Labels that not every series has: no region, no model, no status.
const OPTIONAL: [&str; 5] =
    ["cloud_region", "gen_ai_request_model", "http_response_status_code", "model", "plimsoll_limiter"];

async fn series(prometheus: &Program, query: &str, secs: i64) -> Vec<Value> {
    let now = jiff::Timestamp::now().as_second();
    let url = format!("http://{}/api/v1/query_range", prometheus.address);
    let range = [("start", (now - secs).to_string()), ("end", now.to_string()), ("step", "1".to_owned())];
    let request = Client::new().get(url).query(&[("query", query)]).query(&range);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["status"], "success", "{query}: {answer}");
    answer["data"]["result"].as_array().unwrap().clone()
}

/// An upstream that answers well, and says nothing of limits.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_http1(listener, |_| async {
        http::Response::builder()
            .header("content-type", "application/json")
            .body(Full::from("{\"type\":\"message\"}"))
            .unwrap()
    });
    address
}

/// What sources outside of the path tell, again and again; and calls through the hop.
async fn tell(admin: SocketAddr, otlp: SocketAddr, hop: SocketAddr, silent: SocketAddr) {
    let client = Client::new();
    for n in 0_u64.. {
        let now = jiff::Timestamp::now();
        let secs = now.as_millisecond() as f64 / 1_000.0;
        let date = jiff::fmt::rfc2822::to_string(&now.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
        let plan = json!({
            "anthropic-ratelimit-unified-status": "allowed",
            "anthropic-ratelimit-unified-5h-status": "allowed",
            "anthropic-ratelimit-unified-5h-utilization": "0.6",
            "anthropic-ratelimit-unified-5h-reset": format!("{}", secs as u64 + 3_600),
            "anthropic-ratelimit-unified-7d-status": "allowed",
            "anthropic-ratelimit-unified-7d-utilization": "0.5",
            "anthropic-ratelimit-unified-7d-reset": format!("{}", secs as u64 + 100_000),
            "date": date, "request-id": format!("req_{n}"),
        });
        let report = json!({"t": secs, "route": "laptops", "status": 200, "headers": plan, "model": "claude-opus-5-5"});
        // The same call once more, and one by a clock that is an hour slow.
        let mut slow = report.clone();
        slow["t"] = json!(secs - 3_600.0);
        slow["headers"]["request-id"] = json!(format!("req_slow_{n}"));
        // A route that was known for a while is refused, and tries another model each time.
        let refused = json!({
            "t": if n == 0 { secs - 100.0 } else { secs }, "route": "changed", "status": if n == 0 { 200 } else { 429 },
            "model": if n < 2 { "claude-opus-5-5".to_owned() } else { format!("claude-haiku-{n}-5") },
            "headers": {
                "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": (now + Duration::from_secs(30)).to_string(),
                "retry-after": "30", "request-id": format!("req_refused_{n}"),
            },
        });
        // A window that ends at once, short enough for its pace to be seen within a test.
        let second = (secs as u64) % 60;
        let tenant = json!({"t": secs, "route": "envoy", "status": 200, "tenant": "a", "headers": {
            "x-ratelimit-limit": "1000, 1000;w=60", "x-ratelimit-remaining": format!("{}", 1_000 - second * 5),
            "x-ratelimit-reset": format!("{}", 60 - second), "request-id": format!("req_envoy_{n}"),
        }});
        let lines = format!("{report}\n{report}\n{slow}\n{refused}\n{tenant}\n");
        let posted = client
            .post(format!("http://{admin}/v1/observations"))
            .header("content-type", "application/x-ndjson")
            .body(lines);
        posted.send().await.unwrap();
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let nanos = now.as_nanosecond();
        let span = json!({
            "traceId": format!("{n:032x}"), "spanId": format!("{n:016x}"), "kind": 3, "name": "chat",
            "startTimeUnixNano": (nanos - 1_000_000_000).to_string(), "endTimeUnixNano": nanos.to_string(),
            "attributes": [
                text("gen_ai.operation.name", "chat"), text("gen_ai.provider.name", "anthropic"),
                text("gen_ai.request.model", "claude-opus-5-5"),
                {"key": "http.request.resend_count", "value": {"intValue": "2"}},
            ],
        });
        let export = json!({"resourceSpans": [{
            "resource": {"attributes": [text("service.name", "app")]}, "scopeSpans": [{"spans": [span]}],
        }]});
        client.post(format!("http://{otlp}/v1/traces")).json(&export).send().await.unwrap();
        let body = json!({"model": "claude-opus-5-5", "max_tokens": 16, "messages": []});
        for (to, key) in [(hop, format!("sk-ant-api03-key-{n}")), (silent, "sk-ant-api03-key".to_owned())] {
            let call = client.post(format!("http://{to}/v1/messages")).header("x-api-key", key).json(&body);
            call.send().await.unwrap().bytes().await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A poller as a process of its own, that asks a cloud.
async fn poller(aws: &Aws) -> (process::Started, SocketAddr) {
    aws.seed();
    let config = format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners: []\npollers:\n  aws:\n  - {{name: prod, project: '{ACCOUNT}', regions: [us-east-1], endpoint_url: 'http://{}', usage_interval_secs: 60}}\n",
        aws.address
    );
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKIATEST"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let (child, addresses) = process::run(&config, &keys).await;
    (child, *addresses.last().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_every_dashboard_returns_what_its_panel_names() {
    let aws = Aws::start().await;
    let (_poller, polled) = poller(&aws).await;
    let manager = alertmanager("route: {receiver: none}\nreceivers: [{name: none}]\n").await;
    let provider = Provider::start(CAPACITY).await.unwrap();
    let nothing = silent().await;
    let sidecar = Sidecar::start(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}
listeners:
- {{bind: '127.0.0.1:0', routes: [{{name: search-api, upstream: 'http://{}'}}]}}
- {{bind: '127.0.0.1:0', routes: [{{name: silent, upstream: 'http://{nothing}', surface: anthropic_api}}]}}
owners:
- {{name: search, match: {{routes: [search-api, silent, app]}}, contact: '#search', runbook_url: 'https://wiki.example.com/search', dashboard_url: 'https://grafana.example.com/d/search'}}
- {{name: people, match: {{routes: [laptops]}}}}
- {{name: pilot, match: {{routes: [changed]}}}}
alerts: {{alertmanagers: [{{url: 'http://{}'}}]}}
otlp: {{semconv: latest}}
sources:
  otlp: {{http: '127.0.0.1:0'}}
  routes:
  - {{name: changed, match: {{hosts: [changed.example.com]}}, surface: anthropic_api}}
  - {{name: envoy, match: {{hosts: [envoy.example.com]}}, surface: gateway}}
  - {{name: laptops, match: {{sources: [report]}}}}
  - {{name: app, match: {{services: [app]}}, surface: anthropic_api}}
",
        provider.address, manager.address
    ))
    .await;
    let fleet = shipped_prometheus(&[sidecar.metrics, polled], manager.address).await;
    let hops = sidecar.running.hops();
    let (admin, otlp) = (sidecar.admin().await, sidecar.running.listening.otlp_http.unwrap());
    let telling = tokio::spawn(tell(admin, otlp, hops[0], hops[1]));
    let traffic = Traffic::start(hops[0], PLAN);
    let (mut checked, mut empty) = (0, Vec::new());
    // Some series come only once the limit has refused.
    let until = tokio::time::Instant::now() + Duration::from_secs(100);
    for file in std::fs::read_dir(root().join("dashboards")).unwrap().map(|e| e.unwrap().path()) {
        if file.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for Asked { panel, query, legend } in queries(&dashboard) {
            let named = labels(&legend);
            let missing = async || {
                let series = series(&fleet, &query, 60).await;
                let all = |one: &Value| {
                    named.iter().all(|label| OPTIONAL.contains(label) || one["metric"].get(label).is_some())
                };
                series.iter().any(all).then_some(())
            };
            let patience = Duration::from_secs(2).max(until.duration_since(tokio::time::Instant::now()));
            let seen = tokio::time::timeout(patience, crate::support::eventually(missing)).await;
            if seen.is_err() {
                empty.push(format!("{}: {panel:?} has no series with {named:?}: {query}", file.display()));
            }
            checked += 1;
        }
    }
    assert!(empty.is_empty(), "{empty:#?}\n{}", sidecar.scrape().await);
    assert!(checked > 80, "{checked}");
    grafanas_alerts_carry_the_owners_runbook(&fleet).await;
    if let Some(dir) = std::env::var_os("PLIMSOLL_DASHBOARD_DATA") {
        // A picture shows what comes after, too.
        crate::support::eventually(async || traffic.first_429_at()).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        keep(&fleet, std::path::Path::new(&dir)).await;
    }
    traffic.stop();
    telling.abort();
}

/// Every query of the alerts that Grafana manages is one that Prometheus takes, and the pressure is there with whom to call.
async fn grafanas_alerts_carry_the_owners_runbook(prometheus: &Program) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    let made = process::output(command.args(["rules", "--grafana", "prom"]), PATIENCE).await;
    let file: Value = serde_json::from_slice(&made.stdout).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    let rules: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() >= 12, "{}", rules.len());
    let mut pressed = Vec::new();
    for rule in rules {
        let found = series(prometheus, rule["data"][0]["model"]["expr"].as_str().unwrap(), 60).await;
        if rule["title"].as_str().unwrap().starts_with("PlimsollBucket") {
            pressed.extend(found);
        }
    }
    let of_search = pressed.iter().find(|one| one["metric"]["owner"] == "search").expect("the pressure");
    assert_eq!(of_search["metric"]["runbook_url"], "https://wiki.example.com/search", "{of_search}");
    assert_eq!(of_search["metric"]["contact"], "#search");
}

/// Keeps what each query returned, for the pictures of the documents (`scripts/draw-dashboards`).
async fn keep(prometheus: &Program, dir: &std::path::Path) {
    std::fs::create_dir_all(dir).unwrap();
    for dashboard in plimsoll::dashboards::all() {
        let mut kept = Vec::new();
        for Asked { panel, query, legend } in queries(&dashboard.json("owner")) {
            kept.push(json!({"panel": panel, "query": query, "legend": legend, "series": series(prometheus, &query, 75).await}));
        }
        let text = serde_json::to_string(&kept).unwrap();
        std::fs::write(dir.join(format!("{}.json", dashboard.name)), text).unwrap();
    }
}
