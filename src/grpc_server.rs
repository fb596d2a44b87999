//! The small HTTP/2 server under our gRPC ports: bounded in connections, in streams of each, and in how long a silent
//! one is kept.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tonic::body::Body;

/// Most connections at once.
const CONNECTIONS: usize = 128;
/// Most streams of one connection.
const STREAMS: u32 = 16;
/// How often a silent sender is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long a new connection may take over its first bytes, and how many those are: the preface of HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
const PREFACE: usize = 24;
/// Pause after a failed accept, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until dropped. Connections that are open then end by themselves.
pub async fn serve<A, F>(listener: TcpListener, answer: A)
where
    A: Fn(Request<Body>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(16 * 1024)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    // With all connections taken nobody is accepted, and the kernel's queue waits.
    while let Ok(permit) = connections.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answered = answer(request.map(Body::new));
            async move { Ok::<_, Infallible>(answered.await) }
        });
        let server = server.clone();
        tokio::spawn(async move {
            // Before the preface nothing asks a silent sender whether it is there.
            if !matches!(tokio::time::timeout(PREFACE_TIMEOUT, preface(&stream)).await, Ok(true)) {
                tracing::debug!("a connection that speaks no gRPC ended");
                return;
            }
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a gRPC connection ended");
            }
            drop(permit);
        });
    }
}

/// Waits until the preface is there; false if the connection ends before.
async fn preface(stream: &TcpStream) -> bool {
    let mut first = [0; PREFACE];
    loop {
        match stream.peek(&mut first).await {
            Ok(PREFACE) => return true,
            Ok(0) | Err(_) => return false,
            // What has come stays where it is, so that nothing wakes us for the rest.
            Ok(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}
