//! A pool of HTTP/2 connections that opens another one at the stream limit.
//!
//! A connection starts with no streams allowed until the peer's settings have come: a burst on a
//! cold connection would otherwise be refused above a limit that nobody knew yet. Each request
//! holds a permit of its connection until its answer has ended; when every connection is at the
//! peer's limit, one more is opened, by one caller, while the others wait for that or for a stream
//! that comes free. If it fails, it fails for all who waited for it: a dead upstream costs one
//! timeout, not one for each caller.

use super::super::body::{RequestBody, Slot};
use super::super::wire::{Socket, bound_unsent};
use super::{Connector, Failure, MAX_HEAD, NotProcessed};
use crate::causes::chain;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tower_service::Service;

/// Most connections to one upstream.
const MAX_CONNECTIONS: usize = 64;
/// Most streams of one connection, whatever the peer allows: past that, one lost segment holds up
/// too many calls.
const MAX_STREAMS: usize = 256;
/// How long a connection may take, TLS and the peer's settings included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the peer's settings are looked for until they have come.
const SETTINGS_LOOK: Duration = Duration::from_millis(1);
/// Pings that find a dead connection while calls are open.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Receive windows: what waits here for callers that do not read.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The pool. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::sources::proxy) struct Pool(Arc<Shared>);

struct Shared {
    connector: Connector,
    upstream: Uri,
    state: Mutex<State>,
    /// Something has changed: a stream came free, a connection opened or failed to.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    connections: Vec<Connection>,
    opening: bool,
    /// Failures to open so far, and the newest one's reason.
    failures: u64,
    reason: String,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.upstream)
    }
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<RequestBody>,
    open: Arc<AtomicUsize>,
    /// Streams that the peer allows.
    allowed: watch::Receiver<usize>,
    /// The peer has said GOAWAY: what is open ends, nothing new begins.
    leaving: Arc<AtomicBool>,
}

/// One stream of one connection; given back when dropped.
#[derive(Debug)]
pub(in crate::sources::proxy) struct Permit {
    open: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        self.changed.notify_one();
    }
}

impl Connection {
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.leaving.load(Relaxed)
    }

    /// A stream, if the connection has one left.
    fn take(&self) -> bool {
        let limit = (*self.allowed.borrow()).min(MAX_STREAMS);
        self.open.fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1)).is_ok()
    }
}

/// What a caller finds in the pool.
enum Found {
    Stream(Connection, Permit),
    /// Nobody opens a connection: this caller does.
    Open,
    /// Somebody does, or there are enough.
    Wait,
    /// The connection that was waited for could not be opened.
    Failed(String),
}

/// Connections that have refused a request: it goes up on another one.
pub(super) type RefusedBy = Vec<Arc<AtomicUsize>>;

impl Pool {
    pub(super) fn new(connector: Connector, upstream: &Uri) -> Self {
        Self(Arc::new(Shared {
            connector,
            upstream: upstream.clone(),
            state: Mutex::default(),
            changed: Arc::default(),
        }))
    }

    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        slot: &Arc<Slot>,
        refused_by: &mut RefusedBy,
    ) -> Result<(Response<Incoming>, Permit), Failure> {
        let (mut connection, permit) = self.acquire(refused_by).await?;
        let request = request.map(|body| body.on(None, slot));
        let mut error = match connection.sender.try_send_request(request).await {
            Ok(response) => return Ok((response, permit)),
            Err(error) => error,
        };
        let never_begun = error.take_message().is_some();
        let error = error.into_error();
        let proof = if never_begun { Some(NotProcessed::Unsent) } else { refusal(&error) };
        let Some(proof) = proof else { return Err(Failure::Broken(chain(&error))) };
        // GOAWAY or a closed connection is over for everybody, a refused stream for this request.
        if never_begun || source(&error).is_some_and(h2::Error::is_go_away) {
            connection.leaving.store(true, Relaxed);
        }
        refused_by.push(connection.open.clone());
        Err(Failure::NotProcessed(proof, chain(&error)))
    }

    async fn acquire(&self, refused_by: &RefusedBy) -> Result<(Connection, Permit), Failure> {
        let mut waited_since = None;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Listening before looking: what changes in between is not missed.
            changed.as_mut().enable();
            match self.find(&mut waited_since, refused_by) {
                Found::Stream(connection, permit) => return Ok((connection, permit)),
                Found::Failed(reason) => return Err(Failure::Connect(reason)),
                Found::Wait => changed.await,
                Found::Open => {
                    let opening = Opening(self.0.clone());
                    let opened = tokio::time::timeout(OPEN_TIMEOUT, self.open()).await;
                    opening.done(opened.unwrap_or_else(|_| Err("no HTTP/2 connection within 10 s".into())));
                }
            }
        }
    }

    fn find(&self, waited_since: &mut Option<u64>, refused_by: &RefusedBy) -> Found {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.connections.retain(Connection::is_usable);
        let others = |c: &&Connection| !refused_by.iter().any(|open| Arc::ptr_eq(open, &c.open));
        if let Some(connection) = state.connections.iter().filter(others).find(|c| c.take()) {
            let permit = Permit { open: connection.open.clone(), changed: self.0.changed.clone() };
            return Found::Stream(connection.clone(), permit);
        }
        if waited_since.is_some_and(|failures| failures != state.failures) {
            // What was waited for failed: a stream of another connection may still come free, if there is one.
            let waits = state.connections.iter().any(|c| others(&c));
            return if waits { Found::Wait } else { Found::Failed(state.reason.clone()) };
        }
        *waited_since = Some(state.failures);
        if state.opening || state.connections.len() >= MAX_CONNECTIONS {
            return Found::Wait;
        }
        state.opening = true;
        Found::Open
    }

    async fn open(&self) -> Result<Connection, String> {
        let mut connector = self.0.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(|e| chain(&*e))?;
        let io = connector.call(self.0.upstream.clone()).await.map_err(|e| chain(&*e))?;
        bound_unsent(io.socket());
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_max_send_streams(0)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 4)
            .max_header_list_size(MAX_HEAD as u32)
            .keep_alive_interval(KEEP_ALIVE);
        let (sender, connection) = builder.handshake(io).await.map_err(|e| chain(&e))?;
        let (tx, mut settings) = watch::channel(0);
        let allowed = settings.clone();
        tokio::spawn(driven(connection, tx));
        let came = settings.wait_for(|allowed| *allowed > 0).await.is_ok();
        if !came {
            return Err("the peer does not speak HTTP/2".into());
        }
        Ok(Connection { sender, open: Arc::default(), allowed, leaving: Arc::default() })
    }
}

/// The turn of the one caller who opens a connection; given up when dropped, whatever happens.
struct Opening(Arc<Shared>);

impl Opening {
    fn done(self, opened: Result<Connection, String>) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match opened {
            Ok(connection) => state.connections.push(connection),
            Err(reason) => {
                state.failures += 1;
                state.reason = reason;
            }
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).opening = false;
        self.0.changed.notify_waiters();
    }
}

/// Drives a connection, and tells what the peer allows whenever that may have changed.
async fn driven<T>(
    connection: hyper::client::conn::http2::Connection<T, RequestBody, TokioExecutor>,
    tx: watch::Sender<usize>,
) where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut connection = Box::pin(connection);
    // The library reads the peer's settings in a task of its own and wakes nobody: until they have
    // come they are looked for by the clock, later whenever a request passes.
    let mut looks = tokio::time::interval(SETTINGS_LOOK);
    let ended = poll_fn(|cx| {
        let ended = connection.as_mut().poll(cx);
        let allowed = connection.current_max_send_streams();
        tx.send_if_modified(|known| std::mem::replace(known, allowed) != allowed);
        while allowed == 0 && looks.poll_tick(cx).is_ready() {}
        ended
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "upstream h2 connection ended");
    }
}

/// The protocol's own error under hyper's.
fn source(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// The proof that the peer did not process a request, if the error is one: the peer's GOAWAY, which reaches only the
/// streams above its last one, or its REFUSED_STREAM.
fn refusal(error: &hyper::Error) -> Option<NotProcessed> {
    let error = source(error)?;
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    (error.is_remote() && (error.is_go_away() || refused)).then_some(NotProcessed::Refused)
}
