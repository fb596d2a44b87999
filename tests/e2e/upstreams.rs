//! The real nginx as an upstream: it ends its connections in the middle of the traffic, as it does in front of providers
//! and gateways, and no request is lost or sent twice.

use crate::programs::{free_port, nginx_of};
use crate::support::{Sidecar, route_to};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Many callers, each with a body, over connections of which nginx ends each after a hundred requests.
async fn served_once(protocol: &str, route: impl Fn(String) -> String) {
    const CALLERS: usize = 16;
    const EACH: usize = 125;
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let log = dir.path().join("access.log");
    let site = format!(
        "server {{ listen {address}{protocol}; keepalive_requests 100; access_log {} combined; location / {{ return 200 ok; }} }}",
        log.display()
    );
    let nginx = nginx_of(&site, address, dir).await;
    let sidecar = Sidecar::start(&route(route_to(nginx.address))).await;
    let (client, failed) = (reqwest::Client::new(), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (client, failed) = (client.clone(), failed.clone());
            let url = format!("http://{}/v1/messages", sidecar.hop);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    let status = client.post(&url).body("x".repeat(2_000)).send().await.unwrap().status();
                    failed.fetch_add(usize::from(status != 200), Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(failed.load(Relaxed), 0, "of {}", CALLERS * EACH);
    sidecar.wait_metric("plimsoll_requests_total", &[], (CALLERS * EACH) as f64).await;
    drop(sidecar);
    let served = std::fs::read_to_string(log).unwrap().lines().count();
    assert_eq!(served, CALLERS * EACH, "nginx served each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginxs_goaway_loses_no_request_and_sends_none_twice() {
    served_once(" http2", |config| config.trim_end().trim_end_matches('}').to_owned() + ", http2: true}\n")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginxs_closed_connections_lose_no_request_and_send_none_twice() {
    served_once("", |config| config).await;
}
