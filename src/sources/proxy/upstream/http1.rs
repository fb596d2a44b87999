//! A pool of kept-alive HTTP/1.1 connections.
//!
//! hyper's ready-made client hides which connection a request went up on, and with it whether a byte of the request
//! has left: the one thing that tells whether it may be sent again. So the pool is ours, on hyper's connections. The
//! connection that was used last is used next. While a new one is being opened, one that comes free is taken instead,
//! and the new one is kept for the next request.

use super::super::body::{RequestBody, Slot};
use super::super::wire::{Line, Socket, Wire, bound_unsent};
use super::{CONNECT_TIMEOUT, Connector, Failure, IDLE, MAX_HEAD, MAX_HEADERS, NotProcessed};
use crate::causes::chain;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tower_service::Service;

/// The pool. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::sources::proxy) struct Pool(Arc<Shared>);

struct Shared {
    connector: Connector,
    upstream: Uri,
    idle: Mutex<Idle>,
    /// A connection has come free.
    freed: Notify,
}

#[derive(Default)]
struct Idle {
    /// The newest last.
    connections: Vec<(Connection, Instant)>,
    /// Somebody closes those that have been idle for too long.
    swept: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.upstream)
    }
}

struct Connection {
    sender: SendRequest<RequestBody>,
    line: Arc<Line>,
    task: AbortHandle,
}

/// A connection while a response passes on it. Given back when the response has ended, closed if it is dropped before.
pub(in crate::sources::proxy) struct Lease {
    connection: Option<Connection>,
    pool: Weak<Shared>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lease")
    }
}

impl Lease {
    /// The response has ended.
    pub(super) fn ended(&mut self) {
        let (Some(mut connection), Some(pool)) = (self.connection.take(), self.pool.upgrade()) else {
            return;
        };
        if connection.sender.is_ready() {
            pool.keep(connection);
            return;
        }
        // The response came before all of its request had left, or the connection has not turned round yet.
        let pool = Arc::downgrade(&pool);
        tokio::spawn(async move {
            let ready = tokio::time::timeout(IDLE, connection.sender.ready()).await;
            match (ready, pool.upgrade()) {
                (Ok(Ok(())), Some(pool)) => pool.keep(connection),
                // A request that nobody takes any more would hold both of its connections for ever.
                _ => connection.task.abort(),
            }
        });
    }
}

impl Pool {
    pub(super) fn new(connector: Connector, upstream: &Uri) -> Self {
        Self(Arc::new(Shared {
            connector,
            upstream: upstream.clone(),
            idle: Mutex::default(),
            freed: Notify::new(),
        }))
    }

    /// Sends a request on a connection; on a new one if `fresh`.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        slot: &Arc<Slot>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let kept = if fresh { None } else { self.0.take() };
        let connected = match kept {
            Some(connection) => Ok(connection),
            None => self.connect(fresh).await,
        };
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(reason) => return Err(Failure::Connect(reason)),
        };
        let line = connection.line.clone();
        line.begin();
        let request = request.map(|body| body.on(Some(line.clone()), slot));
        match connection.sender.try_send_request(request).await {
            Ok(response) => {
                line.used();
                Ok((response, Lease { connection: Some(connection), pool: Arc::downgrade(&self.0) }))
            }
            Err(mut error) => {
                // hyper gives back what it never began; the body comes back by its slot in any case, and only while
                // the connection is known to have sent nothing: a dead one is not marked as used.
                let begun = error.take_message().is_none();
                let reason = chain(&error.into_error());
                Err(if begun && !line.is_unsent() {
                    Failure::Broken(reason)
                } else {
                    Failure::NotProcessed(NotProcessed::Unsent, reason)
                })
            }
        }
    }

    /// A new connection, or one that comes free before it is there.
    async fn connect(&self, fresh: bool) -> Result<Connection, String> {
        let (tx, mut opened) = oneshot::channel();
        let shared = self.0.clone();
        tokio::spawn(async move {
            let opened = tokio::time::timeout(CONNECT_TIMEOUT * 2, shared.open()).await;
            let opened = opened.unwrap_or_else(|_| Err("no connection in time".to_owned()));
            // Nobody waits for it any more: the next request finds it.
            if let Err(Ok(connection)) = tx.send(opened) {
                shared.keep(connection);
            }
        });
        loop {
            let freed = self.0.freed.notified();
            tokio::select! {
                biased;
                opened = &mut opened => {
                    return opened.unwrap_or_else(|_| Err("the task that connects has ended".to_owned()));
                }
                () = freed, if !fresh => {
                    if let Some(connection) = self.0.take() {
                        return Ok(connection);
                    }
                }
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.lock();
        while let Some((connection, since)) = idle.connections.pop() {
            if since.elapsed() >= IDLE {
                // All others are older.
                idle.connections.clear();
                return None;
            }
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.lock();
        idle.connections.push((connection, Instant::now()));
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        drop(idle);
        self.freed.notify_one();
    }

    async fn open(&self) -> Result<Connection, String> {
        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(|e| chain(&*e))?;
        let io = connector.call(self.upstream.clone()).await.map_err(|e| chain(&*e))?;
        bound_unsent(io.socket());
        let wire = Wire::new(io, bytes::Bytes::new());
        let line = wire.line();
        let mut builder = Builder::new();
        builder.preserve_header_case(true).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
        let (mut sender, connection) = builder.handshake(wire).await.map_err(|e| chain(&e))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        sender.ready().await.map_err(|e| chain(&e))?;
        Ok(Connection { sender, line, task: task.abort_handle() })
    }
}

/// Closes connections that have been idle for too long, until none is idle or the pool is gone.
async fn sweep(pool: Weak<Shared>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.lock();
        idle.connections
            .retain(|(connection, since)| since.elapsed() < IDLE && !connection.sender.is_closed());
        if idle.connections.is_empty() {
            idle.swept = false;
            return;
        }
    }
}
