//! The metrics port: `/metrics`, health, `/v1/limits`, runbooks. Read-only, and safe to show to the network.

pub mod control;
pub mod incidents;
mod page;
pub mod runbooks;
pub mod state;

use crate::clock::Clock;
use crate::engine::Snapshot;
use crate::exporters::catalogue::Facts;
use crate::exporters::prometheus::{Format, render};
use crate::http_server::{self as server, Bounds};
use crate::shared_limits::Document;
use crate::stop::Stop;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A snapshot older than this means that the engine hangs.
const STALE: Duration = Duration::from_secs(5);
/// Scrapers keep connections, and come back.
const BOUNDS: Bounds = Bounds { connections: 64, lifetime: Duration::from_secs(300) };

/// What the port serves from.
#[derive(Debug)]
pub struct Site {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    facts: Arc<Facts>,
    draining: Stop,
    clock: Clock,
    started: Instant,
}

/// A port that is listening.
#[derive(Debug)]
pub struct Admin {
    /// The address it listens on.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Admin {
    /// Listens, so that the address is known before anything is served.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { address: listener.local_addr()?, listener })
    }

    /// Serves until `quit`; `draining` turns readiness off before that.
    pub fn spawn(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        facts: Arc<Facts>,
        clock: Clock,
        draining: Stop,
        quit: Stop,
    ) -> JoinHandle<()> {
        let site = Arc::new(Site { snapshots, facts, draining, clock, started: Instant::now() });
        tokio::spawn(serve(self.listener, site, quit))
    }
}

async fn serve(listener: TcpListener, site: Arc<Site>, mut quit: Stop) {
    let answer = move |request: Request<Incoming>| {
        let site = site.clone();
        async move { site.answer(&request) }
    };
    tokio::select! {
        () = server::serve(listener, BOUNDS, answer) => {}
        () = quit.requested() => {}
    }
}

impl Site {
    /// Answers one request.
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are served here.\n");
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request.headers().get(header::ACCEPT)),
            "/-/healthy" => self.healthy(),
            "/-/ready" if self.draining.is_requested() => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "Draining.\n")
            }
            "/-/ready" => plain(StatusCode::OK, "Ready.\n"),
            "/v1/limits" => self.limits(request.headers().get(header::IF_NONE_MATCH)),
            "/runbooks" | "/runbooks/" => plain(StatusCode::OK, &runbooks::index()),
            path => match path.strip_prefix("/runbooks/").and_then(runbooks::get) {
                Some(text) => plain(StatusCode::OK, text),
                None => plain(
                    StatusCode::NOT_FOUND,
                    "Here are /metrics, /-/healthy, /-/ready, /v1/limits and /runbooks/.\n",
                ),
            },
        }
    }

    fn metrics(&self, accept: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let format = Format::accepted(accept.and_then(|v| v.to_str().ok()));
        let text = render(&self.snapshots.borrow().clone(), &self.facts, format);
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        response
    }

    /// What quota APIs told of limits: for sidecars that ask none themselves.
    fn limits(&self, known: Option<&HeaderValue>) -> Response<Full<Bytes>> {
        let document = Document::of(&self.snapshots.borrow().quotas);
        let Ok(body) = serde_json::to_vec(&document) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "The limits cannot be written.\n");
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
        let tag =
            digest.as_ref()[..16].iter().fold(String::from("\""), |tag, b| format!("{tag}{b:02x}")) + "\"";
        let same = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let mut response = Response::new(if same { Full::default() } else { Full::from(body) });
        *response.status_mut() = if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let headers = response.headers_mut();
        headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A reader may keep it for a while after the poller is gone: an old limit is better than none.
        let keep = "max-age=30, stale-if-error=86400";
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
        response
    }

    /// Healthy while the engine publishes: then alerts are evaluated and metrics are true.
    fn healthy(&self) -> Response<Full<Bytes>> {
        let age = self.clock.now().since(self.snapshots.borrow().at);
        if age < STALE || self.started.elapsed() < STALE {
            return plain(StatusCode::OK, "Healthy.\n");
        }
        let text = format!("The engine last published {} s ago.\n", age.as_secs());
        plain(StatusCode::SERVICE_UNAVAILABLE, &text)
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
