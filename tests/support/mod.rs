//! What the tests run against: real servers on ports of their own, and the sidecar itself.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

pub mod api;
pub mod aws;
pub mod cbor;
pub mod collector;
pub mod console;
pub mod google;
pub mod h2;
pub mod memory;
pub mod process;
pub mod raw;
pub mod tls;
pub mod webhook;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use plimsoll::admin::control::Control;
use plimsoll::app::{self, Running, Seams};
use plimsoll::config::{Admin, Config};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take before a test calls it hung. Never waited for, only run into.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar in this process.
pub struct Sidecar {
    pub running: Running,
    pub hop: SocketAddr,
    pub metrics: SocketAddr,
}

impl Sidecar {
    pub async fn start(config: &str) -> Self {
        Self::with(config, Seams { env: |_| None, ..Seams::default() }).await
    }

    /// The address of its admin port, served beside it.
    pub async fn admin(&self) -> SocketAddr {
        let admin = Admin { bind: ([127, 0, 0, 1], 0).into(), token: None, allowed_hosts: Vec::new() };
        let reports = self.running.reports();
        let take = Arc::new(move |body: &Bytes| reports.answer(body));
        let control = Control::bind(admin, None, Some(self.running.desk()), Some(take)).await.unwrap();
        let address = control.address;
        tokio::spawn(control.serve());
        address
    }

    pub async fn with(config: &str, seams: Seams) -> Self {
        Self::of(parsed(config), seams).await
    }

    /// A sidecar whose configuration says what no file can.
    pub async fn of(config: Config, mut seams: Seams) -> Self {
        // The memory of this process is that of all its tests.
        seams.memory.get_or_insert(1 << 40);
        let running = app::start(config, seams).await.expect("sidecar starts");
        let nowhere = ([127, 0, 0, 1], 0).into();
        Self { hop: running.hops().first().copied().unwrap_or(nowhere), metrics: running.metrics, running }
    }

    /// One route to this upstream.
    pub async fn to(upstream: SocketAddr) -> Self {
        Self::start(&route_to(upstream)).await
    }

    pub async fn scrape(&self) -> String {
        let url = format!("http://{}/metrics", self.metrics);
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }

    /// The value of a series on `/metrics` whose line holds all these parts; sums over several.
    pub async fn metric(&self, name: &str, parts: &[&str]) -> Option<f64> {
        metric(&self.scrape().await, name, parts)
    }

    /// Waits until a series has this value.
    pub async fn wait_metric(&self, name: &str, parts: &[&str], wanted: f64) {
        let mut last = None;
        let seen = eventually(async || {
            last = self.metric(name, parts).await;
            (last == Some(wanted)).then_some(())
        });
        if tokio::time::timeout(PATIENCE, seen).await.is_err() {
            panic!("{name}{parts:?} is {last:?}, not {wanted}\n{}", self.scrape().await);
        }
    }
}

/// The sum of the series of this name whose line holds all these parts.
pub fn metric(text: &str, name: &str, parts: &[&str]) -> Option<f64> {
    let values: Vec<f64> = text
        .lines()
        .filter(|l| {
            l.starts_with(name)
                && l[name.len()..].starts_with(['{', ' '])
                && parts.iter().all(|p| l.contains(p))
        })
        .map(|l| l.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

pub fn parsed(config: &str) -> Config {
    Config::parse(config, &|_| None).unwrap_or_else(|e| panic!("test configuration: {e}"))
}

pub fn route_to(upstream: SocketAddr) -> String {
    format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: api, upstream: 'http://{upstream}'}}\n"
    )
}

/// Serves HTTP/1.1 for as long as the test runs.
pub fn serve_http1<A, F, B>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

/// Listens on a port of its own and counts the connections that it hands on.
pub async fn accept<A, F>(each: A) -> (SocketAddr, Arc<Mutex<usize>>)
where
    A: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(Mutex::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *counted.lock().unwrap() += 1;
            tokio::spawn(each(stream));
        }
    });
    (address, connections)
}

/// Polls until there is something; yields in between, so that paused and real time both work.
pub async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// [`eventually`], or a panic that says what was waited for.
pub async fn wait_for<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    match tokio::time::timeout(PATIENCE, eventually(look)).await {
        Ok(found) => found,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
