//! The demo: a provider with real token buckets, traffic that grows, Plimsoll between them, and an
//! Alertmanager-shaped receiver. Nothing in it is scripted: the alert comes when the engine says
//! so, the 429 when the bucket is empty.

mod provider;
mod receiver;
mod traffic;

pub use provider::{Capacity, Provider};
pub use receiver::{Received, Receiver};
pub use traffic::{Plan, Traffic};

use crate::admin::Admin;
use crate::app::{self, AppError, Running, Seams};
use crate::config::{Config, Invalid};
use crate::engine::BucketView;
use crate::limit::Timestamp;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpListener;

/// The demo's owner.
pub const OWNER: &str = "search-team";

/// Everything of the demo, running.
pub struct Demo {
    /// Plimsoll.
    pub running: Running,
    /// The provider.
    pub provider: Provider,
    /// The Alertmanager-shaped receiver.
    pub receiver: Receiver,
    /// The traffic.
    pub traffic: Traffic,
    started: Timestamp,
}

/// What one look at the demo shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Seconds since the start.
    pub t: f64,
    /// Calls sent.
    pub requests: u64,
    /// Calls refused.
    pub rejected: u64,
    /// The input-token bucket, as Plimsoll sees it.
    pub bucket: Option<BucketView>,
    /// The first pressure alert as the receiver got it.
    pub alert: Option<Received>,
    /// When the provider first refused.
    pub first_429_at: Option<Timestamp>,
}

/// Why the demo could not start.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A port could not be had.
    #[error("a port of 127.0.0.1 could not be had: {0}")]
    Io(#[from] std::io::Error),
    /// Plimsoll could not start.
    #[error(transparent)]
    App(#[from] AppError),
    /// The demo's own configuration is not valid.
    #[error("the demo's configuration: {0}")]
    Config(#[from] Invalid),
}

impl Demo {
    /// Starts everything on ports of its own.
    ///
    /// # Errors
    /// If a port cannot be had.
    pub async fn start(plan: Plan) -> Result<Self, DemoError> {
        let provider = Provider::start(Capacity::DEMO).await?;
        let receiver = Receiver::start().await?;
        let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await?;
        let config = Config::parse(&config(&provider, &receiver, admin.address.port()), &|_| None)?;
        // The demo is alone: no collector that the environment names hears of it.
        let seams = Seams { admin: Some(admin), env: |_| None, ..Seams::default() };
        let running = app::start(config, seams).await?;
        let started = running.clock.now();
        let traffic = Traffic::start(running.hops()[0], plan);
        Ok(Self { running, provider, receiver, traffic, started })
    }

    /// What can be seen now.
    pub fn look(&self) -> Look {
        let snapshot = self.running.published.snapshots.borrow().clone();
        let bucket = snapshot.buckets.iter().find(|b| b.limiter.as_str() == "input_tokens").cloned();
        Look {
            t: self.running.clock.now().since(self.started).as_secs_f64(),
            requests: self.traffic.sent(),
            rejected: self.traffic.rejected(),
            bucket,
            alert: self.receiver.first_pressure(),
            first_429_at: self.traffic.first_429_at().map(|ago| self.running.clock.now().minus(ago)),
        }
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.traffic.stop();
        // Calls in flight end within a second or two; the drain waits for them.
        if tokio::time::timeout(Duration::from_secs(5), self.running.shutdown()).await.is_err() {
            tracing::debug!("the demo's drain was cut short");
        }
    }
}

/// Serves HTTP/1.1 on a port of the demo's.
async fn serve<A, F, B>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, hyper::Error>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::spawn(async move {
            let server = hyper::server::conn::http1::Builder::new();
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await {
                tracing::debug!(%error, "a connection of the demo ended");
            }
        });
    }
}

fn config(provider: &Provider, receiver: &Receiver, admin_port: u16) -> String {
    format!(
        "external_url: http://127.0.0.1:{admin_port}\n\
         listeners:\n\
         - bind: 127.0.0.1:0\n  \
           routes:\n  \
           - name: search-api\n    \
             upstream: http://{}\n\
         owners:\n\
         - name: {OWNER}\n  \
           kinds: [anthropic_workspace, traffic_shape]\n  \
           match: {{routes: [search-api]}}\n  \
           contact: '#search-oncall'\n\
         alerts:\n  \
           alertmanagers:\n  \
           - url: http://{}\n",
        provider.address, receiver.address
    )
}
