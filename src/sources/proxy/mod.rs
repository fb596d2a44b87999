//! The hop: a transparent reverse proxy that reads what passes.
//!
//! [`forward`] streams, [`tap`] measures, [`hop`] knows which headers belong to a connection,
//! [`scan`], [`answer`], [`tool_results`] and [`decode`] read bodies, [`identify`] reads request heads. This file
//! listens, accepts, swaps routes and drains. Routes are swapped whole: a call keeps the routes
//! with which it began, the next call on the same connection takes the new ones.

pub mod answer;
mod body;
pub mod decode;
mod endpoint_repair;
mod forward;
mod frames;
mod hold;
pub mod hop;
pub mod identify;
mod own_response;
#[cfg(feature = "aws")]
mod resign;
pub mod scan;
pub mod tap;
mod tls;
mod tool_results;
mod tunnel;
mod upstream;
mod wire;

use crate::config::{Closed, Listener, Route, ServerTls};
use crate::route::RouteName;
use crate::stop::{self, Stop, Stopper};
use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use forward::{Forwarder, Target};
use http::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::{SockRef, TcpKeepalive};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tap::Meter;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use upstream::Upstream;
use wire::{Line, Wire};

/// How long in-flight calls may take to end once the hop is told to stop.
pub const DRAIN: Duration = Duration::from_secs(20);
/// How long a client may take to send a request head, or to shake hands.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// What a drain leaves a client that has connected to say its first word.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Largest head of a message.
const MAX_HEAD: usize = 256 * 1024;
/// Most bytes of an answer that h2 takes in for a slow reader.
const MAX_UNREAD: usize = 16 * 1024;
/// Most streams of one h2 connection from a client. Many: clients of some meshes open one connection, and queue behind its
/// limit.
const MAX_STREAMS: u32 = 1_000;
/// What such a client may send on all of them, and on one, before its upstreams have taken it.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = 256 * 1024;
/// Most fields of a message head. The bound is [`MAX_HEAD`]; this one only keeps the parser's tables finite.
const MAX_HEADERS: usize = 16 * 1024;
/// Bytes that are read to find out what a client speaks.
const FIRST_BYTES: usize = 4096;
/// A client whose machine went away without a word is noticed by probes (TCP keep-alive).
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a hop could not start, or could not take new routes.
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
    /// Certificates or keys cannot be used.
    #[error("{what}: {reason}")]
    Tls {
        /// The route or the listener.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
}

/// The routes and the certificates of a hop, ready to be put in place.
#[derive(Debug)]
pub struct Prepared {
    forwarder: Arc<Forwarder>,
    acceptor: Arc<Option<Acceptor>>,
    listener: Listener,
}

struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// Makes everything of a listener that can fail, without touching what runs. Clients of routes
/// that are the same as in `old` are kept with their connections.
///
/// # Errors
/// If certificates or keys cannot be used.
pub fn prepare(listener: &Listener, meter: &Arc<Meter>, old: Option<&Hop>) -> Result<Prepared, StartError> {
    let old = old.map(|hop| hop.shared.forwarder.load_full());
    let targets = listener.routes.iter().map(|route| target(route, meter, old.as_deref()));
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    let acceptor = match &listener.tls {
        None => None,
        Some(tls) => Some(acceptor(tls, listener.bind)?),
    };
    Ok(Prepared {
        forwarder: Arc::new(Forwarder { targets, closed: listener.closed.clone(), meter: meter.clone() }),
        acceptor: Arc::new(acceptor),
        listener: listener.clone(),
    })
}

/// Takes out of a listener what cannot be used of its certificates: routes, which then are answered so.
///
/// # Errors
/// If the listener's own cannot be used: it must not open without them.
pub fn without_faults(listener: &mut Listener) -> Result<Vec<String>, String> {
    if let Some(tls) = &listener.tls {
        acceptor(tls, listener.bind).map_err(|error| error.to_string())?;
    }
    let mut problems = Vec::new();
    listener.routes.retain(|route| {
        let Err(error) = Upstream::new(route) else { return true };
        let why = format!("The certificates of route \"{}\" cannot be used; the log says why.", route.name);
        listener.closed.push(Closed { prefix: Some(route.prefix.clone()), why: why.into() });
        problems.push(error.to_string());
        false
    });
    Ok(problems)
}

fn acceptor(tls: &ServerTls, bind: SocketAddr) -> Result<Acceptor, StartError> {
    let config =
        tls::server(tls).map_err(|reason| StartError::Tls { what: format!("listener {bind}"), reason })?;
    Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
}

fn target(route: &Route, meter: &Arc<Meter>, old: Option<&Forwarder>) -> Result<Target, StartError> {
    let what = || format!("route {}", route.name);
    let host = route.upstream.authority().map_or("", http::uri::Authority::as_str);
    let host = HeaderValue::from_str(host)
        .map_err(|error| StartError::Tls { what: what(), reason: error.to_string() })?;
    let kept = old.and_then(|old| old.targets.iter().find(|target| *target.route == *route));
    let upstream = match kept {
        // Certificates may have been renewed under the same name: only plain upstreams are kept.
        Some(kept) if route.ca_file.is_none() && route.client_cert_file.is_none() => kept.upstream.clone(),
        _ => Upstream::new(route)?,
    };
    Ok(Target {
        route: Arc::new(route.clone()),
        upstream,
        host,
        in_flight: meter.ledger.route(&route.name),
        counts: meter.stats.routes.of(route.name.as_str()),
        #[cfg(feature = "aws")]
        signer: match kept.and_then(|kept| kept.signer.clone()) {
            // Its credentials are kept with it.
            Some(signer) => Some(signer),
            None => route.resign.as_ref().map(|resign| Arc::new(resign::Signer::new(resign))),
        },
    })
}

/// A hop that is listening.
#[derive(Debug)]
pub struct Hop {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The address as it is configured.
    pub configured: SocketAddr,
    shared: Arc<Shared>,
    stopper: Stopper,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    forwarder: ArcSwap<Forwarder>,
    acceptor: ArcSwap<Option<Acceptor>>,
}

/// A port that is listening, for a hop to come.
#[derive(Debug)]
pub struct Bound(TcpListener, SocketAddr);

/// Listens, so that the address is known, or refused, before anything is served.
///
/// # Errors
/// If the address is taken.
pub async fn bind(address: SocketAddr) -> Result<Bound, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map(|listener| Bound(listener, address)).map_err(|source| StartError::Bind { address, source })
}

impl Hop {
    /// Serves on a port with what was prepared.
    ///
    /// # Errors
    /// If the port's own address cannot be told.
    pub fn start(bound: Bound, prepared: Prepared) -> Result<Self, StartError> {
        let Bound(listener, configured) = bound;
        let address =
            listener.local_addr().map_err(|source| StartError::Bind { address: configured, source })?;
        let shared = Arc::new(Shared {
            forwarder: ArcSwap::from(prepared.forwarder),
            acceptor: ArcSwap::from(prepared.acceptor),
        });
        let (stopper, stop) = stop::channel();
        let task = tokio::spawn(serve(listener, shared.clone(), stop));
        Ok(Self { address, configured, shared, stopper, task })
    }

    /// The routes it serves now.
    pub fn routes(&self) -> Vec<RouteName> {
        self.shared.forwarder.load().targets.iter().map(|target| target.route.name.clone()).collect()
    }

    /// Puts new routes and certificates in place.
    pub fn swap(&self, prepared: Prepared) {
        debug_assert_eq!(prepared.listener.bind, self.configured);
        self.shared.forwarder.store(prepared.forwarder);
        self.shared.acceptor.store(prepared.acceptor);
    }

    /// Takes no more connections and lets calls in flight end.
    pub async fn drain(self) {
        self.stopper.stop();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a hop ended by a panic");
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: Stop) {
    let graceful = GracefulShutdown::new();
    let servers = Arc::new(Servers { http1: server().http1_only(), http2: server().http2_only() });
    let (drain, mut tunnels) = mpsc::channel(1);
    loop {
        tokio::select! {
            accepted = accept(&listener, &shared) => match accepted {
                Ok((stream, _)) => {
                    // Small writes are events of a stream: each goes out at once.
                    if stream.set_nodelay(true).is_ok() && probed(&stream).is_ok() {
                        wire::bound_unsent(&stream);
                        let (shared, servers) = (shared.clone(), servers.clone());
                        let opening = Opening { shared, servers, stop: stop.clone(), drain: drain.clone() };
                        tokio::spawn(opening.connection(stream, graceful.watcher()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = stop.requested() => break,
        }
    }
    drop((listener, drain));
    // Nothing is ever sent: the channel ends with the last connection and the last tunnel.
    let ended = async { tokio::join!(graceful.shutdown(), tunnels.recv()) };
    if tokio::time::timeout(DRAIN, ended).await.is_err() {
        tracing::warn!(seconds = DRAIN.as_secs(), "calls were still in flight when the drain ended");
    }
}

/// The next connection. While memory is all but gone none is taken in: clients wait in the kernel's queue.
async fn accept(listener: &TcpListener, shared: &Shared) -> io::Result<(TcpStream, SocketAddr)> {
    while shared.forwarder.load().meter.overload.is_critical() {
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    listener.accept().await
}

/// Lets the kernel find out whether a silent client is still there.
fn probed(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

type Server = auto::Builder<TokioExecutor>;

/// One server for each protocol. Which one a connection speaks is found out here and not by the
/// library, which would wait for the first bytes without a limit.
struct Servers {
    http1: Server,
    http2: Server,
}

impl Servers {
    const fn of(&self, h2: bool) -> &Server {
        if h2 { &self.http2 } else { &self.http1 }
    }
}

/// A connection before its first request: what it speaks is not known yet.
struct Opening {
    shared: Arc<Shared>,
    servers: Arc<Servers>,
    stop: Stop,
    drain: tunnel::Guard,
}

/// A client's HTTP/1.1 connection.
struct Connection {
    line: Arc<Line>,
    drain: tunnel::Guard,
}

impl Opening {
    async fn connection(mut self, mut stream: TcpStream, watcher: Watcher) {
        let acceptor = self.shared.acceptor.load_full();
        let Some(Acceptor(acceptor)) = &*acceptor else {
            if let Some((h2, first)) = self.first_word(opening_bytes(&mut stream)).await {
                self.serve(Wire::new(TokioIo::new(stream), first), h2, watcher).await;
            }
            return;
        };
        if let Some(stream) = self.first_word(acceptor.accept(stream)).await {
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            self.serve(Wire::new(TokioIo::new(stream), Bytes::new()), h2, watcher).await;
        }
    }

    /// Waits for how a client opens, but not for long, and hardly at all once a drain has begun:
    /// clients keep spare connections on which nothing was ever asked, and no drain may wait for those.
    async fn first_word<T>(&mut self, word: impl Future<Output = io::Result<T>>) -> Option<T> {
        let draining = async {
            self.stop.requested().await;
            tokio::time::sleep(LAST_WORD).await;
        };
        tokio::select! {
            opened = tokio::time::timeout(HEAD_TIMEOUT, word) => match opened {
                Ok(Ok(opened)) => return Some(opened),
                Ok(Err(error)) => tracing::debug!(%error, "a client connected and opened nothing"),
                Err(_) => tracing::debug!("a client took too long to open its connection"),
            },
            () = draining => tracing::debug!("a client had said nothing when the drain began"),
        }
        None
    }
}

/// Reads until it is plain whether a client speaks HTTP/2 (its preface, by prior knowledge), and returns what was read
/// for the server to begin with. A client that says a word and leaves is noticed here.
async fn opening_bytes(stream: &mut TcpStream) -> io::Result<(bool, Bytes)> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = BytesMut::with_capacity(FIRST_BYTES);
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first.len() >= PREFACE.len() || !PREFACE.starts_with(&first) {
            return Ok((first.starts_with(PREFACE), first.freeze()));
        }
    }
}

impl Opening {
    async fn serve<S>(self, wire: Wire<S>, h2: bool, watcher: Watcher)
    where
        Wire<S>: hyper::rt::Read + hyper::rt::Write,
        S: Unpin + Send + 'static,
    {
        let Self { shared, servers, drain, .. } = self;
        let wire = wire.guarded(&shared.forwarder.load().meter.overload);
        // On HTTP/2 the library does by itself what a line is for.
        let client = (!h2).then(|| Arc::new(Connection { line: wire.line(), drain }));
        let service = service_fn(move |request| {
            let (forwarder, client) = (shared.forwarder.load_full(), client.clone());
            async move { Ok::<_, Infallible>(forwarder.forward(request, client.as_deref()).await) }
        });
        let connection = servers.of(h2).serve_connection_with_upgrades(wire, service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

fn server() -> Server {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .preserve_header_case(true)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        // The upstream's `date` passes, or none.
        .auto_date_header(false);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        // What may wait for a reader that does not read, for each stream.
        .max_send_buf_size(MAX_UNREAD)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .auto_date_header(false);
    server
}
