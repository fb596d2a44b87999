//! The client to an upstream: a pool of kept-alive HTTP/1.1 connections, or of HTTP/2 ones.
//!
//! HTTP/1.1 by default even where h2 is offered: hyper's own client opens one h2 connection per
//! host and queues a burst behind its stream limit. Where h2 is configured, [`h2`] opens further
//! connections at that limit.

mod h2;

use super::StartError;
use super::forward::RequestBody;
use super::tls;
use crate::causes::chain;
use crate::config::Route;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::time::Duration;

pub(super) use h2::Permit;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. Shorter than common upstreams' own limits, so that a
/// request seldom meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(50);

type Connector = HttpsConnector<HttpConnector>;

/// The client to one upstream.
#[derive(Debug, Clone)]
pub(super) enum Upstream {
    /// HTTP/1.1.
    Http1(Box<legacy::Client<Connector, RequestBody>>),
    /// HTTP/2.
    Http2(h2::Pool),
}

/// Why there was no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// No connection could be made.
    #[error("{0}")]
    Connect(String),
    /// The connection broke before a response head came.
    #[error("{0}")]
    Broken(String),
}

impl Upstream {
    /// A client for this route.
    pub(super) fn new(route: &Route) -> Result<Self, StartError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = tls::client(route);
        let tls = tls.map_err(|reason| StartError::Tls { what: format!("route {}", route.name), reason })?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        if route.http2 {
            let connector = connector.enable_http2().wrap_connector(tcp);
            return Ok(Self::Http2(h2::Pool::new(connector, &route.upstream)));
        }
        let connector = connector.enable_http1().wrap_connector(tcp);
        Ok(Self::Http1(Box::new(
            legacy::Client::builder(TokioExecutor::new())
                .http1_preserve_header_case(true)
                .pool_idle_timeout(IDLE)
                .pool_timer(TokioTimer::new())
                .set_host(false)
                .build(connector),
        )))
    }

    /// True if requests go up as HTTP/2.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Sends a request; the permit, if any, must live as long as the answer.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Option<Permit>), UpstreamError> {
        match self {
            Self::Http1(client) => match client.request(request).await {
                Ok(response) => Ok((response, None)),
                Err(error) if error.is_connect() => Err(UpstreamError::Connect(chain(&error))),
                Err(error) => Err(UpstreamError::Broken(chain(&error))),
            },
            Self::Http2(pool) => pool.send(request).await.map(|(response, permit)| (response, Some(permit))),
        }
    }
}
