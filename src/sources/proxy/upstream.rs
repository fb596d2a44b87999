//! The client to an upstream: a pool of kept-alive HTTP/1.1 connections, or of HTTP/2 ones.
//!
//! HTTP/1.1 by default even where h2 is offered: a burst on one h2 connection queues behind its
//! stream limit. Where h2 is configured, [`h2`] opens further connections at that limit.
//!
//! A request goes up again, on another connection, exactly where the protocol proves that the upstream did not process
//! it: on HTTP/1.1 if no byte of it was written (RFC 9112, 9.3.1, is laxer: it speaks of idempotent requests, and a
//! model call that is sent twice is paid twice); on HTTP/2 after REFUSED_STREAM, or above the last stream of a GOAWAY
//! (RFC 9113, 6.8 and 8.7). Everything else is the caller's to repeat.

mod h2;
mod http1;

use super::StartError;
use super::body::{RequestBody, Slot};
use super::tls;
use super::{MAX_HEAD, MAX_HEADERS};
use crate::config::Route;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use std::sync::Arc;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. Shorter than common upstreams' own limits, so that a
/// request seldom meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(50);
/// How often a request that was not processed goes up again.
const MOST_AGAIN: usize = 4;

type Connector = HttpsConnector<HttpConnector>;

/// The client to one upstream.
#[derive(Debug, Clone)]
pub(super) enum Upstream {
    /// HTTP/1.1.
    Http1(http1::Pool),
    /// HTTP/2.
    Http2(h2::Pool),
}

/// What a response holds of its upstream's connections until it has ended.
#[derive(Debug)]
pub(super) enum Lease {
    /// The connection.
    Http1(http1::Lease),
    /// A stream of it.
    Http2(#[expect(dead_code, reason = "given back when dropped")] h2::Permit),
}

impl Lease {
    /// The response has ended: the connection may carry the next one.
    pub(super) fn ended(&mut self) {
        if let Self::Http1(lease) = self {
            lease.ended();
        }
    }
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

/// The proof that a request was not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NotProcessed {
    /// No byte of it was written.
    Unsent,
    /// The peer refused its stream, or left it above the last one of its GOAWAY.
    Refused,
}

/// Why one try gave no response.
#[derive(Debug)]
enum Failure {
    Connect(String),
    Broken(String),
    NotProcessed(NotProcessed, String),
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
        Ok(if route.http2 {
            Self::Http2(h2::Pool::new(connector.enable_http2().wrap_connector(tcp), &route.upstream))
        } else {
            Self::Http1(http1::Pool::new(connector.enable_http1().wrap_connector(tcp), &route.upstream))
        })
    }

    /// True if requests go up as HTTP/2.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    /// Sends a request, again if it provably was not processed.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), UpstreamError> {
        if let Self::Http1(_) = self {
            // The address is known; HTTP/1.1 names the path alone (RFC 9112, 3.2.1).
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        }
        let slot = Arc::<Slot>::default();
        let mut refused_by = Vec::new();
        let mut tries = 0;
        loop {
            let (head, body) = request.into_parts();
            let again = head.clone();
            let this_time = Request::from_parts(head, body);
            let failure = match self {
                // The last tries do not trust what was kept.
                Self::Http1(pool) => match pool.send(this_time, &slot, tries + 2 > MOST_AGAIN).await {
                    Ok((response, lease)) => return Ok((response, Lease::Http1(lease))),
                    Err(failure) => failure,
                },
                Self::Http2(pool) => match pool.send(this_time, &slot, &mut refused_by).await {
                    Ok((response, permit)) => return Ok((response, Lease::Http2(permit))),
                    Err(failure) => failure,
                },
            };
            let (proof, reason) = match failure {
                Failure::Connect(reason) => return Err(UpstreamError::Connect(reason)),
                Failure::Broken(reason) => return Err(UpstreamError::Broken(reason)),
                Failure::NotProcessed(proof, reason) => (proof, reason),
            };
            let body = if tries < MOST_AGAIN { slot.taken_back().await } else { None };
            let Some(body) = body else { return Err(UpstreamError::Broken(reason)) };
            tracing::debug!(?proof, reason, "a request that was not processed goes up again");
            tries += 1;
            request = Request::from_parts(again, body);
        }
    }
}
