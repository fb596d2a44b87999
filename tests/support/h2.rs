//! Upstreams and clients that speak HTTP/2, with the limits that a test wants.

use super::accept;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

pub fn full(text: &str) -> Body {
    Full::from(text.to_owned()).boxed_unsync()
}

/// These frames of data, then these trailers.
pub fn with_trailers(parts: &[&str], trailers: &[(&'static str, &'static str)]) -> Body {
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        map.insert(*name, value.parse().unwrap());
    }
    let frames: Vec<Result<Frame<Bytes>, Infallible>> = parts
        .iter()
        .map(|p| Ok(Frame::data(Bytes::from((*p).to_owned()))))
        .chain([Ok(Frame::trailers(map))])
        .collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// An h2 upstream (prior knowledge) that allows so many streams on a connection.
pub struct Upstream {
    pub address: SocketAddr,
    pub connections: Arc<Mutex<usize>>,
}

impl Upstream {
    pub async fn start<F, Fut>(streams: u32, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let (address, connections) = accept(move |stream| serve(stream, streams, answer.clone())).await;
        Self { address, connections }
    }
}

/// Serves one h2 connection.
pub async fn serve<S, F, Fut>(stream: S, streams: u32, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer(request).await) }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(streams);
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

/// An h2 client (prior knowledge).
pub async fn client(to: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(to).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
