//! What is delivered and redirected is not delivered: no exporter follows, each counts it as failed and says where to.

use crate::support::api::{Answer, Api};
use crate::support::process::logged;
use crate::support::{Sidecar, metric, route_to, serve_http1, wait_for};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// Answers every POST with a redirect, as a login page, or a proxy that wants https, does; everything else with 200.
async fn redirector(status: u16) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = seen.clone();
    serve_http1(listener, move |request: Request<Incoming>| {
        let kept = kept.clone();
        async move {
            let (head, body) = request.into_parts();
            body.collect().await.unwrap();
            kept.lock().unwrap().push(format!("{} {}", head.method, head.uri.path()));
            let answer = Response::builder();
            let posted = head.method == http::Method::POST && head.uri.path() != "/moved";
            let answer = if posted {
                answer
                    .status(status)
                    .header("location", format!("http://user:geheim@{address}/moved?ticket=geheim"))
            } else {
                answer.status(200)
            };
            answer.body(Full::<Bytes>::default()).unwrap()
        }
    });
    (address, seen)
}

/// Everything that delivers by HTTP, pointed at one address.
fn config(api: &Api, to: SocketAddr) -> String {
    route_to(api.address)
        + &format!(
            "alerts: {{alertmanagers: [{{url: 'http://{to}'}}]}}
otlp: {{endpoint: 'http://{to}', protocol: http/protobuf, interval_secs: 1, span_ratio: 1}}
sources:
  otlp:
    http: '127.0.0.1:0'
    forward: {{endpoint: 'http://{to}'}}
"
        )
}

const EXPORTERS: [&str; 4] = ["alertmanager", "otlp_forward", "otlp_metrics", "otlp_spans"];

/// The exports of each that ended so.
fn ended(text: &str, outcome: &str) -> [f64; 4] {
    let outcome = format!("outcome=\"{outcome}\"");
    EXPORTERS.map(|exporter| {
        let exporter = format!("exporter=\"{exporter}\"");
        metric(text, "plimsoll_exports_total", &[exporter.as_str(), outcome.as_str()]).unwrap()
    })
}

async fn call(hop: SocketAddr) {
    let body = serde_json::json!({"max_tokens": 10, "messages": [], "model": "claude-opus-5-5"});
    let request = reqwest::Client::new().post(format!("http://{hop}/v1/messages")).json(&body);
    request.send().await.unwrap().bytes().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_exporter_follows_a_redirect_and_each_counts_it_as_failed() {
    futures_util::future::join_all([301, 302, 303, 307, 308].map(refused)).await;
}

async fn refused(status: u16) {
    let (api, (to, seen)) = (Api::start().await, redirector(status).await);
    // Nearly empty, so that there is an alert to post.
    api.script([Answer::Ok { remaining: 100 }]);
    let sidecar = Sidecar::start(&config(&api, to)).await;
    call(sidecar.hop).await;
    let otlp = sidecar.running.listening.otlp_http.unwrap();
    let logs = reqwest::Client::new().post(format!("http://{otlp}/v1/logs"));
    let logs = logs.header("content-type", "application/json").body("{}").send().await.unwrap();
    assert_eq!(logs.status(), 200);
    let text = wait_for("every exporter's end", async || {
        let text = sidecar.scrape().await;
        let (sent, failed) = (ended(&text, "sent"), ended(&text, "failed"));
        sent.iter().zip(failed).all(|(sent, failed)| sent + failed > 0.0).then_some(text)
    })
    .await;
    assert_eq!(ended(&text, "sent"), [0.0; 4], "{status}: {EXPORTERS:?}");
    let seen = seen.lock().unwrap().clone();
    assert!(seen.iter().all(|r| r.starts_with("POST /") && !r.contains("moved")), "{status}: {seen:?}");
    for path in ["/api/v2/alerts", "/v1/metrics", "/v1/traces", "/v1/logs"] {
        assert!(seen.iter().any(|r| r.ends_with(path)), "{status}: {path}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_where_a_redirect_points_and_none_of_its_secrets() {
    let (api, (to, _)) = (Api::start().await, redirector(302).await);
    api.script([Answer::Ok { remaining: 100 }]);
    let (_child, addresses, log) = logged(&config(&api, to), &[]).await;
    call(addresses[0]).await;
    let pointed = format!("302 Found, location http://{to}/moved ");
    let lines = wait_for("both exporters' words", async || {
        let lines = log.lock().unwrap().clone();
        let said = |what: &str| lines.iter().any(|l| l.contains(what) && l.contains(&pointed));
        (said("alertmanager") && said("collector")).then_some(lines)
    })
    .await;
    assert!(!lines.iter().any(|line| line.contains("geheim")), "{lines:?}");
}
