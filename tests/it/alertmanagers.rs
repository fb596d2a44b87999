//! Replicated Alertmanagers behind one name: each is posted to, by every address that the name has.

use crate::support::tls::Certs;
use crate::support::wait_for;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use plimsoll::clock::Clock;
use plimsoll::config;
use plimsoll::engine::{Alert, AlertName, Identity};
use plimsoll::exporters::alertmanager::{Parts, Resolver, Writer, spawn};
use plimsoll::limit::{Limiter, Scope, Window};
use plimsoll::owner::Owners;
use plimsoll::route::{ModelGroup, Owner, OwnerId, OwnerKind, RouteName};
use plimsoll::stats::Stats;
use plimsoll::stop;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const NAME: &str = "alertmanager.example";

/// An Alertmanager on a loopback address of its own; remembers the hosts that it was called by.
#[derive(Clone, Default)]
struct Replica(Arc<Mutex<Vec<String>>>);

impl Replica {
    async fn at(address: SocketAddr, tls: Option<TlsAcceptor>) -> (Self, u16) {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replica = Self::default();
        let kept = replica.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, tls) = (kept.clone(), tls.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let kept = kept.clone();
                    async move {
                        let host = request.headers()["host"].to_str().unwrap().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let alerts: serde_json::Value = serde_json::from_slice(&body).unwrap();
                        assert_eq!(alerts[0]["labels"]["owner"], "search");
                        kept.0.lock().unwrap().push(host);
                        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                    }
                });
                tokio::spawn(async move {
                    let server = hyper::server::conn::http1::Builder::new();
                    match tls {
                        Some(tls) => {
                            let stream = tls.accept(stream).await.unwrap();
                            server.serve_connection(TokioIo::new(stream), service).await
                        }
                        None => server.serve_connection(TokioIo::new(stream), service).await,
                    }
                });
            }
        });
        (replica, port)
    }

    fn posts(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn alert() -> Alert {
    Alert {
        name: AlertName::BucketExhausting,
        identity: Identity {
            owner: Owner { id: OwnerId::new("search"), kind: OwnerKind::AnthropicWorkspace },
            limiter: Limiter::INPUT_TOKENS,
            window: Window::Minute,
            scope: Scope::Account,
            model: ModelGroup::none(),
            region: None,
        },
        since: Clock::system().now(),
        utilization: Some(0.9),
        empty_in: None,
        route: RouteName::new("api"),
        detail: None,
    }
}

/// An exporter with one alert, pointed at a name whose addresses the test says.
struct Exporter {
    stats: Arc<Stats>,
    addresses: Arc<Mutex<Vec<IpAddr>>>,
    _alerts: watch::Sender<Arc<Vec<Alert>>>,
    _stopper: stop::Stopper,
}

impl Exporter {
    fn start(url: String, ca_file: Option<std::path::PathBuf>, addresses: &[IpAddr]) -> Self {
        let (alerts, up) = watch::channel(Arc::new(vec![alert()]));
        let (stopper, stop) = stop::channel();
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let known = addresses.clone();
        let resolve: Resolver = Arc::new(move |host, port| {
            assert!(host == NAME || host == "localhost", "{host}");
            let all: Vec<_> = known.lock().unwrap().iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            Box::pin(async move {
                if all.is_empty() { Err(std::io::Error::other("no such name")) } else { Ok(all) }
            })
        });
        let stats = Arc::new(Stats::default());
        let writer = Writer {
            alerts: config::Alerts {
                alertmanagers: vec![config::Alertmanager { url, bearer_token: None, ca_file }],
                owner_label: "owner".into(),
                labels: Vec::new(),
                // Posted again every second.
                hold: Duration::from_secs(3),
            },
            owners: Arc::new(Owners::new(Vec::new())),
            external_url: None,
        };
        let parts = Parts { writer, alerts: up, stats: stats.clone(), clock: Clock::system(), stop, resolve };
        drop(spawn(&parts).unwrap());
        Self { stats, addresses, _alerts: alerts, _stopper: stopper }
    }
}

fn loopback(last: u8) -> IpAddr {
    [127, 0, 17, last].into()
}

#[tokio::test]
async fn every_address_of_a_name_is_posted_to_and_a_new_one_is_found() {
    let (first, port) = Replica::at(SocketAddr::new(loopback(1), 0), None).await;
    let (second, _) = Replica::at(SocketAddr::new(loopback(2), port), None).await;
    // The third is known to the name, and away.
    let exporter =
        Exporter::start(format!("http://{NAME}:{port}"), None, &[loopback(1), loopback(2), loopback(3)]);
    wait_for("both replicas", async || (first.posts() > 0 && second.posts() > 0).then_some(())).await;
    assert!(first.0.lock().unwrap().iter().all(|host| *host == format!("{NAME}:{port}")));
    wait_for("the third's failure", async || (exporter.stats.alertmanager.failed.get() > 0).then_some(()))
        .await;
    // It comes back elsewhere, and the first one goes: a failed post has the name looked up again.
    let (fourth, _) = Replica::at(SocketAddr::new(loopback(4), port), None).await;
    *exporter.addresses.lock().unwrap() = vec![loopback(2), loopback(4)];
    wait_for("the one that came back", async || (fourth.posts() > 0).then_some(())).await;
    let (before, second_before) = (first.posts(), second.posts());
    wait_for("more posts", async || (second.posts() > second_before + 1).then_some(())).await;
    assert_eq!(first.posts(), before, "what the name has no more is left");
    // A name that cannot be looked up keeps what it had.
    exporter.addresses.lock().unwrap().clear();
    let posts = second.posts();
    wait_for("posts go on", async || (second.posts() > posts + 1).then_some(())).await;
}

#[tokio::test]
async fn each_address_is_called_by_the_name_in_its_certificate() {
    let certs = Certs::new();
    certs.issue("server", &[NAME]);
    let acceptor = || Some(TlsAcceptor::from(Arc::new(certs.server(false, &[]))));
    let (first, port) = Replica::at(SocketAddr::new(loopback(11), 0), acceptor()).await;
    let (second, _) = Replica::at(SocketAddr::new(loopback(12), port), acceptor()).await;
    let ca = certs.file("ca.pem");
    let exporter = Exporter::start(format!("https://{NAME}:{port}"), Some(ca), &[loopback(11), loopback(12)]);
    wait_for("both replicas", async || (first.posts() > 0 && second.posts() > 0).then_some(())).await;
    assert_eq!(exporter.stats.alertmanager.failed.get(), 0);
}

/// `localhost` is two addresses, and who listens on one of them is reached without a word of failure that stays.
#[tokio::test]
async fn of_two_families_the_one_that_answers_is_kept() {
    let (only, port) = Replica::at(SocketAddr::new(loopback(21), 0), None).await;
    let v6: IpAddr = "::1".parse().unwrap();
    let exporter = Exporter::start(format!("http://localhost:{port}"), None, &[v6, loopback(21)]);
    wait_for("the one that listens", async || (only.posts() > 1).then_some(())).await;
    let failed = exporter.stats.alertmanager.failed.get();
    let posts = only.posts();
    wait_for("further posts", async || (only.posts() > posts + 1).then_some(())).await;
    assert_eq!(exporter.stats.alertmanager.failed.get(), failed, "the other is not tried any more");
}

/// A name that nobody here knows, but a proxy may, is posted to by itself.
#[tokio::test]
async fn a_name_that_cannot_be_looked_up_is_a_failure_that_is_counted_and_tried_again() {
    let (later, port) = Replica::at(SocketAddr::new(loopback(31), 0), None).await;
    let exporter = Exporter::start(format!("http://{NAME}:{port}"), None, &[]);
    wait_for("a failure", async || (exporter.stats.alertmanager.failed.get() > 0).then_some(())).await;
    exporter.addresses.lock().unwrap().push(loopback(31));
    wait_for("the replica", async || (later.posts() > 0).then_some(())).await;
}
