//! The metrics port: `/metrics`, health, `/v1/limits`, runbooks. Read-only, and safe to show to the network.
//!
//! It runs on a thread of its own, apart from the traffic and from the engine, so that it answers whatever they do. Who is
//! killed for failing a liveness probe takes the calls down that pass through it, so only one thing fails it: no thread
//! takes up work any more. An engine that stands still stops no call; it is a metric
//! (`plimsoll_engine_published_time_seconds`) and an alert.

pub mod control;
pub mod incidents;
mod page;
pub mod runbooks;
pub mod state;

use crate::engine::Snapshot;
use crate::exporters::catalogue::Facts;
use crate::exporters::prometheus::{Format, render};
use crate::http_server::{self as server, Bounds};
use crate::shared_limits::Document;
use crate::stop::Stop;
use crate::text::visible;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How long the threads that take traffic may take up nothing before that is said.
const STALE: Duration = Duration::from_secs(5);
/// How often they are given something.
const BEAT: Duration = Duration::from_millis(500);
/// Scrapers keep connections, and come back.
const BOUNDS: Bounds = Bounds { connections: 64, lifetime: Duration::from_secs(300), cut_busy: true };

/// What the port serves from.
#[derive(Debug)]
pub struct Site {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    facts: Arc<Facts>,
    draining: Stop,
    /// When the threads that take traffic last took something up.
    beat: Arc<Mutex<Instant>>,
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

    /// Serves until `quit`; `draining` turns readiness off before that. To be called on the runtime that takes the traffic.
    pub fn spawn(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        facts: Arc<Facts>,
        draining: Stop,
        quit: Stop,
    ) -> JoinHandle<()> {
        let beat = Arc::new(Mutex::new(Instant::now()));
        let site = Arc::new(Site { snapshots, facts, draining, beat: beat.clone() });
        let traffic = Handle::current();
        let (ended, end) = oneshot::channel::<()>();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let served = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    let listener = TcpListener::from_std(self.listener.into_std()?)?;
                    tokio::select! {
                        () = serve(listener, site, quit) => {}
                        () = feel(traffic, beat) => {}
                    }
                    Ok(())
                })
            });
            if let Err(error) = served {
                tracing::error!(%error, "the metrics port is not served");
            }
            drop(ended);
        };
        if let Err(error) = std::thread::Builder::new().name("metrics".to_owned()).spawn(run) {
            tracing::error!(%error, "the metrics port is not served");
        }
        tokio::spawn(async move { drop(end.await) })
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

/// Gives the threads that take traffic something to take up, again and again: any of them will do. Returns once their
/// runtime is gone.
async fn feel(traffic: Handle, beat: Arc<Mutex<Instant>>) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        if traffic.spawn(async {}).await.is_err() {
            // It is being shut down; what is asked meanwhile is answered until the word to quit.
            return std::future::pending().await;
        }
        *beat.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
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

    /// Healthy while any thread takes up what comes.
    fn healthy(&self) -> Response<Full<Bytes>> {
        let silent = self.beat.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if silent < STALE {
            return plain(StatusCode::OK, "Healthy.\n");
        }
        let text = format!("No thread has taken up anything for {} s.\n", silent.as_secs());
        plain(StatusCode::SERVICE_UNAVAILABLE, &text)
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(visible(text).into_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
