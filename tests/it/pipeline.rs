//! From a proxied request to metric, span and alert, with the right owner.

use crate::support::api::{Answer, Api};
use crate::support::collector::{Collector, attributes, points};
use crate::support::webhook::Webhook;
use crate::support::{Sidecar, wait_for};
use std::collections::BTreeMap;
use std::time::Duration;

fn config(search: &Api, batch: &Api, rest: &str) -> String {
    format!(
        "metrics: {{bind: '127.0.0.1:0'}}
listeners:
- bind: 127.0.0.1:0
  routes:
  - {{name: search, prefix: /search, strip_prefix: true, upstream: 'http://{}'}}
  - {{name: batch, prefix: /batch, strip_prefix: true, upstream: 'http://{}'}}
owners:
- {{name: team-search, match: {{routes: [search]}}, runbook_url: 'https://wiki.example.com/search'}}
- {{name: team-batch, match: {{routes: [batch]}}}}
{rest}",
        search.address, batch.address
    )
}

async fn post(sidecar: &Sidecar, route: &str, headers: &[(&str, &str)]) -> reqwest::StatusCode {
    let url = format!("http://{}/{route}/v1/messages", sidecar.hop);
    let body = serde_json::json!({"max_tokens": 10, "messages": [], "model": "claude-opus-5-5-20260801"});
    let mut request = reqwest::Client::new().post(url).header("x-api-key", "k").json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    response.bytes().await.unwrap();
    status
}

#[tokio::test]
async fn two_owners_on_two_routes_are_told_apart_everywhere() {
    let (search, batch, hook, collector) =
        (Api::start().await, Api::start().await, Webhook::start().await, Collector::start().await);
    search.script([Answer::Ok { remaining: 4_000 }]);
    batch.script([Answer::RateLimited { retry_after: 9, should_retry: true }]);
    let rest = format!(
        "alerts: {{alertmanagers: [{{url: 'http://{}'}}]}}\notlp: {{endpoint: 'http://{}', interval_secs: 1, span_ratio: 1}}\n",
        hook.address, collector.address
    );
    let sidecar = Sidecar::start(&config(&search, &batch, &rest)).await;
    assert_eq!(post(&sidecar, "search", &[]).await, 200);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(post(&sidecar, "batch", &[("traceparent", parent)]).await, 429);

    // Metrics.
    sidecar.wait_metric("plimsoll_utilization_peak_ratio", &["team-search", "input_tokens"], 0.96).await;
    let rejected = [
        "team-batch",
        "plimsoll_verdict=\"anthropic_workspace\"",
        "plimsoll_evidence=\"header_family\"",
        "plimsoll_limiter=\"input_tokens\"",
    ];
    sidecar.wait_metric("plimsoll_rejections_total", &rejected, 1.0).await;

    // Alerts, straight to the receiver.
    let alerts = wait_for("both owners' alerts", async || {
        let all: Vec<serde_json::Value> =
            hook.posts().iter().flat_map(|p| p.body.as_array().cloned().unwrap_or_default()).collect();
        let has = |name: &str, owner: &str| {
            all.iter().any(|a| a["labels"]["alertname"] == name && a["labels"]["owner"] == owner)
        };
        (has("PlimsollBucketExhausting", "team-search") && has("PlimsollThrottled", "team-batch"))
            .then_some(all)
    })
    .await;
    for alert in &alerts {
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
        if alert["labels"]["owner"] == "team-search" {
            assert_eq!(runbook, "https://wiki.example.com/search");
        } else {
            assert!(runbook.ends_with("/runbooks/anthropic_workspace.md"));
        }
        let ends: jiff::Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
        assert!(ends > jiff::Timestamp::now() + jiff::SignedDuration::from_secs(20));
    }

    // Spans: one CLIENT span a call, with its owner, under its caller.
    let spans = wait_for("two spans", async || Some(collector.spans()).filter(|s| s.len() >= 2)).await;
    for span in &spans {
        assert_eq!(span.kind, opentelemetry_proto::tonic::trace::v1::span::SpanKind::Client as i32);
        assert!(attributes(&span.attributes).contains_key("plimsoll.owner"), "{span:?}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        assert_eq!(span.name, "chat claude-opus-5-5");
    }
    let failed = spans.iter().find(|s| attributes(&s.attributes)["plimsoll.route"] == "batch").unwrap();
    assert_eq!(hex(&failed.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&failed.parent_span_id), "b7ad6b7169203331");
    let about = attributes(&failed.attributes);
    for (name, value) in [
        ("plimsoll.owner", "team-batch"),
        ("plimsoll.owner.kind", "anthropic_workspace"),
        ("plimsoll.verdict", "anthropic_workspace"),
        ("plimsoll.limiter", "input_tokens"),
        ("http.response.status_code", "429"),
        ("error.type", "429"),
        ("gen_ai.provider.name", "anthropic"),
        ("gen_ai.request.model", "claude-opus-5-5"),
    ] {
        assert_eq!(about.get(name).map(String::as_str), Some(value), "{name}");
    }
    sidecar.running.shutdown().await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What OTLP pushes is what the scrape shows: names by the translation rules, units, values.
#[tokio::test]
async fn otlp_and_scrape_agree() {
    let (search, batch, collector) = (Api::start().await, Api::start().await, Collector::start().await);
    batch.script([Answer::RateLimited { retry_after: 9, should_retry: true }]);
    let rest = format!("otlp: {{endpoint: 'http://{}', interval_secs: 1}}\n", collector.address);
    let sidecar = Sidecar::start(&config(&search, &batch, &rest)).await;
    for route in ["search", "batch"] {
        post(&sidecar, route, &[]).await;
    }
    sidecar.wait_metric("plimsoll_requests_total", &[], 2.0).await;
    let pushed = wait_for("a push with both calls", async || {
        let metrics = collector.metrics();
        let requests = metrics.iter().find(|m| m.name == "plimsoll.requests")?;
        (points(requests).iter().map(|(_, n)| n).sum::<f64>() == 2.0).then_some(metrics)
    })
    .await;
    let scraped = sidecar.scrape().await;
    assert_eq!(collector.resource()["service.name"], "plimsoll");
    let mut translated: BTreeMap<String, usize> = BTreeMap::new();
    for metric in &pushed {
        let monotonic = matches!(&metric.data, Some(opentelemetry_proto::tonic::metrics::v1::metric::Data::Sum(s)) if s.is_monotonic);
        let mut name = metric.name.replace('.', "_");
        name += match metric.unit.as_str() {
            "s" => "_seconds",
            "1" => "_ratio",
            "By" => "_bytes",
            _ => "",
        };
        name += if monotonic { "_total" } else { "" };
        for (attributes, _) in points(metric) {
            let parts: Vec<String> =
                attributes.iter().map(|(k, v)| format!("{}=\"{v}\"", k.replace('.', "_"))).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            assert!(crate::support::metric(&scraped, &name, &parts).is_some(), "{name} {parts:?}\n{scraped}");
            *translated.entry(name.clone()).or_default() += 1;
        }
    }
    let scraped_names: std::collections::BTreeSet<&str> = scraped
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.split(['{', ' ']).next().unwrap())
        .collect();
    let pushed_names: std::collections::BTreeSet<&str> = translated.keys().map(String::as_str).collect();
    assert_eq!(scraped_names, pushed_names);
    sidecar.running.shutdown().await;
}

#[tokio::test]
async fn claude_code_on_a_plan_and_on_a_key_are_told_apart_by_the_answer() {
    let (plan, key) = (Api::start().await, Api::start().await);
    plan.script([Answer::PlanRejected]);
    key.script([Answer::RateLimited { retry_after: 2, should_retry: true }]);
    let sidecar = Sidecar::start(&config(&plan, &key, "")).await;
    // The same kind of bearer on both: only the header family of the answer tells.
    let headers =
        [("user-agent", "claude-cli/2.1.330 (external, cli)"), ("authorization", "Bearer sk-ant-oat01-x")];
    assert_eq!(post(&sidecar, "search", &headers).await, 429);
    assert_eq!(post(&sidecar, "batch", &headers).await, 429);
    let plan = [
        "plimsoll_verdict=\"claude_plan\"",
        "plimsoll_limiter=\"five_hour\"",
        "plimsoll_window=\"5h\"",
        "plimsoll_owner_kind=\"claude_plan\"",
    ];
    sidecar.wait_metric("plimsoll_rejections_total", &plan, 1.0).await;
    let key = [
        "plimsoll_verdict=\"claude_code_api_key\"",
        "plimsoll_surface=\"claude_code_key\"",
        "plimsoll_owner_kind=\"claude_code_workspace\"",
    ];
    sidecar.wait_metric("plimsoll_rejections_total", &key, 1.0).await;
    sidecar.wait_metric("plimsoll_utilization_ratio", &["seven_day"], 0.4).await;
}

#[tokio::test]
async fn an_alert_lapses_and_is_never_posted_as_ended() {
    let (search, batch, hook) = (Api::start().await, Api::start().await, Webhook::start().await);
    search.script([Answer::Ok { remaining: 2_000 }]);
    let rest = format!("alerts: {{alertmanagers: [{{url: 'http://{}'}}], hold_secs: 3}}\n", hook.address);
    let sidecar = Sidecar::start(&config(&search, &batch, &rest)).await;
    post(&sidecar, "search", &[]).await;
    // Posted again while it is up, each time with an end in the future.
    let posts = wait_for("re-posts", async || Some(hook.posts()).filter(|p| p.len() >= 4)).await;
    for post in &posts {
        assert_eq!(post.path, "/api/v2/alerts");
        for alert in post.body.as_array().unwrap() {
            let ends: jiff::Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
            assert!(ends > post.received, "{alert}");
        }
    }
    let first = posts[0].at;
    assert!(
        posts[1..].iter().any(|p| p.at.duration_since(first) > Duration::from_millis(500)),
        "a third of the hold apart"
    );
    sidecar.running.shutdown().await;
    let after = hook.posts().len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(hook.posts().len(), after, "a sidecar that stops posts no end");
}

#[tokio::test]
async fn a_failing_alertmanager_is_tried_again() {
    let (search, batch, hook) = (Api::start().await, Api::start().await, Webhook::start().await);
    hook.answer_with(500);
    search.script([Answer::Ok { remaining: 2_000 }]);
    let rest = format!("alerts: {{alertmanagers: [{{url: 'http://{}'}}]}}\n", hook.address);
    let sidecar = Sidecar::start(&config(&search, &batch, &rest)).await;
    post(&sidecar, "search", &[]).await;
    wait_for("a first try", async || Some(()).filter(|()| !hook.posts().is_empty())).await;
    hook.answer_with(200);
    wait_for("success", async || {
        sidecar.metric("plimsoll_exports_total", &["alertmanager", "sent"]).await.filter(|n| *n > 0.0)
    })
    .await;
}
