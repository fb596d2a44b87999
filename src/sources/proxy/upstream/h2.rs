//! A pool of HTTP/2 connections that opens another one at the stream limit.
//!
//! A connection starts with no streams allowed until the peer's settings have come: a burst on a
//! cold connection would otherwise be refused above a limit that nobody knew yet. Each request
//! holds a permit of its connection until its answer has ended; when every connection is at the
//! peer's limit, one more is opened, by one caller, while the others wait for that or for a stream
//! that comes free. If it fails, it fails for all who waited for it: a dead upstream costs one
//! timeout, not one for each caller.

use super::{Connector, RequestBody, UpstreamError};
use crate::causes::chain;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
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
/// Receive windows, as large as a long answer's bursts.
const STREAM_WINDOW: u32 = 1024 * 1024;

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
    /// A stream, if the connection has one left.
    fn take(&self) -> bool {
        let limit = (*self.allowed.borrow()).min(MAX_STREAMS);
        self.open.fetch_update(Relaxed, Relaxed, |open| (open < limit).then_some(open + 1)).is_ok()
    }
}

type Stream = (SendRequest<RequestBody>, Permit);

/// What a caller finds in the pool.
enum Found {
    Stream(Stream),
    /// Nobody opens a connection: this caller does.
    Open,
    /// Somebody does, or there are enough.
    Wait,
    /// The connection that was waited for could not be opened.
    Failed(String),
}

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
    ) -> Result<(Response<Incoming>, Permit), UpstreamError> {
        let (mut sender, permit) = self.acquire().await?;
        let answered = sender.send_request(request).await;
        answered.map(|response| (response, permit)).map_err(|error| UpstreamError::Broken(chain(&error)))
    }

    async fn acquire(&self) -> Result<Stream, UpstreamError> {
        let mut waited_since = None;
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Listening before looking: what changes in between is not missed.
            changed.as_mut().enable();
            match self.find(&mut waited_since) {
                Found::Stream(stream) => return Ok(stream),
                Found::Failed(reason) => return Err(UpstreamError::Connect(reason)),
                Found::Wait => changed.await,
                Found::Open => {
                    let opening = Opening(self.0.clone());
                    let opened = tokio::time::timeout(OPEN_TIMEOUT, self.open()).await;
                    opening.done(opened.unwrap_or_else(|_| Err("no HTTP/2 connection within 10 s".into())));
                }
            }
        }
    }

    fn find(&self, waited_since: &mut Option<u64>) -> Found {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.connections.retain(|connection| !connection.sender.is_closed());
        if let Some(connection) = state.connections.iter().find(|c| c.take()) {
            let permit = Permit { open: connection.open.clone(), changed: self.0.changed.clone() };
            return Found::Stream((connection.sender.clone(), permit));
        }
        if waited_since.is_some_and(|failures| failures != state.failures) && state.connections.is_empty() {
            return Found::Failed(state.reason.clone());
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
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_max_send_streams(0)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 4)
            .keep_alive_interval(KEEP_ALIVE);
        let (sender, connection) = builder.handshake(io).await.map_err(|e| chain(&e))?;
        let (tx, mut settings) = watch::channel(0);
        let allowed = settings.clone();
        tokio::spawn(driven(connection, tx));
        let came = settings.wait_for(|allowed| *allowed > 0).await.is_ok();
        if !came {
            return Err("the peer does not speak HTTP/2".into());
        }
        Ok(Connection { sender, open: Arc::default(), allowed })
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
