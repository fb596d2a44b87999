//! OTLP whole: both carriers, compression, outages, the last export, GenAI metrics, exemplars.

use crate::support::api::{Answer, Api};
use crate::support::collector::{Collector, points};
use crate::support::{Sidecar, route_to, wait_for};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn call(sidecar: &Sidecar) {
    let body =
        serde_json::json!({"max_tokens": 10, "stream": true, "messages": [], "model": "claude-opus-5-5"});
    let request = reqwest::Client::new()
        .post(format!("http://{}/v1/messages", sidecar.hop))
        .header("traceparent", PARENT);
    request.json(&body).send().await.unwrap().bytes().await.unwrap();
}

fn requests(collector: &Collector) -> f64 {
    let metrics = collector.metrics();
    metrics
        .iter()
        .find(|m| m.name == "plimsoll.requests")
        .map_or(0.0, |m| points(m).iter().map(|(_, n)| n).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_and_grpc_carry_the_same_compressed_too() {
    for (collector, protocol) in
        [(Collector::over_http().await, "http/protobuf"), (Collector::start().await, "grpc")]
    {
        let api = Api::start().await;
        let otlp = format!(
            "otlp: {{endpoint: 'http://{}', protocol: {protocol}, compression: gzip, interval_secs: 1, span_ratio: 1}}\n",
            collector.address
        );
        let sidecar = Sidecar::start(&(route_to(api.address) + &otlp)).await;
        call(&sidecar).await;
        wait_for("the call", async || (requests(&collector) == 1.0).then_some(())).await;
        sidecar.running.shutdown().await;
        assert_eq!(collector.spans().len(), 1, "{protocol}: spans leave at the latest with the end");
        assert!(collector.compressed() || protocol == "grpc");
        let resource = collector.resource();
        assert!(resource.contains_key("service.instance.id") && resource.contains_key("service.version"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_export_leaves_with_the_end() {
    let (api, collector) = (Api::start().await, Collector::start().await);
    // No interval would end within the test: only the shutdown can send it.
    let otlp =
        format!("otlp: {{endpoint: 'http://{}', interval_secs: 3600, span_ratio: 1}}\n", collector.address);
    let sidecar = Sidecar::start(&(route_to(api.address) + &otlp)).await;
    call(&sidecar).await;
    sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
    sidecar.running.shutdown().await;
    assert_eq!(requests(&collector), 1.0);
    assert_eq!(collector.spans().len(), 1);
}

/// A collector that comes late, or was away, gets totals that are right: they are cumulative.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_costs_no_total() {
    let api = Api::start().await;
    let spare = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = spare.local_addr().unwrap();
    drop(spare);
    let otlp = format!("otlp: {{endpoint: 'http://{address}', protocol: http/protobuf, interval_secs: 1}}\n");
    let sidecar = Sidecar::start(&(route_to(api.address) + &otlp)).await;
    for _ in 0..5 {
        call(&sidecar).await;
    }
    wait_for("failed exports", async || {
        sidecar.metric("plimsoll_exports_total", &["otlp_metrics", "failed"]).await.filter(|n| *n >= 2.0)
    })
    .await;
    let collector = Collector::over_http_at(address).await;
    call(&sidecar).await;
    wait_for("all six calls", async || (requests(&collector) == 6.0).then_some(())).await;
}

/// A collector that accepts and never answers costs the end a bounded time, and traffic nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_silent_collector_does_not_hold_up_the_end() {
    let api = Api::start().await;
    let silent = crate::support::raw::Upstream::start(|mut conn| async move {
        conn.rest().await;
    })
    .await;
    let otlp = format!("otlp: {{endpoint: 'http://{}', interval_secs: 1, span_ratio: 1}}\n", silent.address);
    let sidecar = Sidecar::start(&(route_to(api.address) + &otlp)).await;
    call(&sidecar).await;
    let ended = tokio::time::timeout(std::time::Duration::from_secs(15), sidecar.running.shutdown()).await;
    assert!(ended.is_ok(), "one worker, as in a pod with one CPU");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn genai_metrics_come_by_the_names_that_are_asked_for() {
    let old = ["gen_ai.client.operation.duration", "gen_ai.client.token.usage"];
    let new = [
        "gen_ai.client.inference.duration",
        "gen_ai.client.inference.operation.output_tokens",
        "gen_ai.client.inference.usage.input_tokens",
        "gen_ai.client.inference.usage.output_tokens",
    ];
    let both = [old.as_slice(), new.as_slice()].concat();
    for (semconv, wanted) in
        [("off", &[][..]), ("legacy", &old[..]), ("latest", &new[..]), ("both", &both[..])]
    {
        let (api, collector) = (Api::start().await, Collector::start().await);
        let otlp = format!(
            "otlp: {{endpoint: 'http://{}', interval_secs: 1, semconv: {semconv}}}\n",
            collector.address
        );
        let sidecar = Sidecar::start(&(route_to(api.address) + &otlp)).await;
        call(&sidecar).await;
        wait_for("the call", async || (requests(&collector) == 1.0).then_some(())).await;
        let metrics = collector.metrics();
        let mut names: Vec<&str> =
            metrics.iter().map(|m| m.name.as_str()).filter(|n| n.starts_with("gen_ai")).collect();
        names.sort_unstable();
        let mut sorted = wanted.to_vec();
        sorted.sort_unstable();
        assert_eq!(names, sorted, "{semconv}");
        let scraped = sidecar.scrape().await;
        for name in wanted {
            assert!(scraped.contains(&name.replace('.', "_")), "{semconv}: {name} is on the scrape too");
        }
        if let Some(duration) = metrics.iter().find(|m| m.name.ends_with("inference.duration")) {
            let Some(Data::Histogram(histogram)) = &duration.data else { panic!("{duration:?}") };
            assert_eq!(
                (histogram.data_points[0].count, histogram.data_points[0].explicit_bounds.len()),
                (1, 14)
            );
        }
        sidecar.running.shutdown().await;
    }
}

#[tokio::test]
async fn the_scrape_carries_traces_as_exemplars() {
    let api = Api::start().await;
    api.script([Answer::Ok { remaining: 5 }, Answer::RateLimited { retry_after: 1, should_retry: false }]);
    let sidecar = Sidecar::start(&(route_to(api.address) + "otlp: {semconv: latest}\n")).await;
    call(&sidecar).await;
    call(&sidecar).await;
    sidecar.wait_metric("plimsoll_rejections_total", &[], 1.0).await;
    let url = format!("http://{}/metrics", sidecar.metrics);
    let scrape = reqwest::Client::new()
        .get(url)
        .header("accept", "application/openmetrics-text")
        .send()
        .await
        .unwrap();
    let text = scrape.text().await.unwrap();
    let exemplar = "# {trace_id=\"0af7651916cd43dd8448eb211c80319c\"}";
    for name in ["plimsoll_rejections_total", "gen_ai_client_inference_duration_seconds_bucket"] {
        assert!(text.lines().any(|l| l.starts_with(name) && l.contains(exemplar)), "{name}\n{text}");
    }
    assert!(!sidecar.scrape().await.contains("trace_id"), "the older format knows no exemplars");
}
