//! The hop: a transparent reverse proxy that reads what passes.
//!
//! [`forward`] streams, [`tap`] measures, [`hop`] knows which headers belong to a connection,
//! [`scan`], [`answer`] and [`decode`] read bodies, [`identify`] reads request heads. This file
//! listens, accepts and drains.

pub mod answer;
pub mod decode;
mod forward;
pub mod hop;
pub mod identify;
pub mod scan;
pub mod tap;
mod upstream;

use crate::config::{Listener, Route};
use crate::stop::Stop;
use forward::{Forwarder, Target};
use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tap::Meter;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How long in-flight calls may take to end once the hop is told to stop.
pub const DRAIN: Duration = Duration::from_secs(25);
/// How long a client may take to send a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Most headers of a message.
const MAX_HEADERS: usize = 256;
/// Pause after a failed accept (no file descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A hop that is listening.
pub struct Hop {
    /// The address it listens on.
    pub address: SocketAddr,
    listener: TcpListener,
    forwarder: Arc<Forwarder>,
}

/// Why a hop could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The trusted authorities cannot be read.
    #[error("route {route}: {reason}")]
    Tls {
        /// The route.
        route: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl Hop {
    /// Listens, so that the address is known before anything is served.
    ///
    /// # Errors
    /// If the address is taken or a route's authorities cannot be read.
    pub async fn bind(listener: &Listener, meter: Arc<Meter>) -> Result<Self, StartError> {
        let targets = listener.routes.iter().map(target).collect::<Result<Vec<_>, _>>()?;
        let bound = TcpListener::bind(listener.bind).await;
        let bound = bound.map_err(|source| StartError::Bind { address: listener.bind, source })?;
        let address =
            bound.local_addr().map_err(|source| StartError::Bind { address: listener.bind, source })?;
        Ok(Self { address, listener: bound, forwarder: Arc::new(Forwarder { targets, meter }) })
    }

    /// Serves until `stop` changes, then lets calls in flight end.
    pub fn spawn(self, stop: Stop) -> JoinHandle<()> {
        tokio::spawn(self.serve(stop))
    }

    async fn serve(self, mut stop: Stop) {
        let graceful = GracefulShutdown::new();
        let server = server();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        // Small writes are events of a stream: each goes out at once.
                        if stream.set_nodelay(true).is_err() {
                            continue;
                        }
                        let forwarder = self.forwarder.clone();
                        let service = service_fn(move |request| {
                            let forwarder = forwarder.clone();
                            async move { Ok::<_, Infallible>(forwarder.forward(request).await) }
                        });
                        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
                        tokio::spawn(async move {
                            if let Err(error) = connection.await {
                                tracing::debug!(%error, "connection ended");
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = stop.requested() => break,
            }
        }
        drop(self.listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!(seconds = DRAIN.as_secs(), "calls were still in flight when the drain ended");
        }
    }
}

fn server() -> hyper::server::conn::http1::Builder {
    let mut server = hyper::server::conn::http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .preserve_header_case(true)
        .max_headers(MAX_HEADERS)
        // The upstream's `date` passes, or none.
        .auto_date_header(false);
    server
}

fn target(route: &Route) -> Result<Target, StartError> {
    let host = route.upstream.authority().map_or("", http::uri::Authority::as_str);
    let host = HeaderValue::from_str(host).map_err(|error| StartError::Tls {
        route: route.name.to_string(),
        reason: format!("the upstream's name cannot stand in a header: {error}"),
    })?;
    Ok(Target { route: Arc::new(route.clone()), upstream: upstream::client(route)?, host })
}
