//! Forwards one request and streams both ways, byte for byte.
//!
//! The request's body is handed to the client as it comes, the answer's body to the caller as it
//! comes; each frame is shown to the tap and passed on, never held. What goes wrong upstream before
//! a response head is answered by a 502 that says who speaks; what goes wrong after it breaks the
//! answer off, as it would without the hop.

use super::hop::{end_to_end, set_host};
use super::tap::{CallTap, Meter, RequestTap};
use crate::config::Route;
use crate::observation::Outcome;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The client to one upstream.
pub(super) type Upstream = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// A route and the client that reaches its upstream.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The route.
    pub(super) route: Arc<Route>,
    /// Its client.
    pub(super) upstream: Upstream,
    /// The upstream's name, as it goes into `host`.
    pub(super) host: HeaderValue,
}

/// The routes of one listener, longest prefix first.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// Where requests go.
    pub(super) targets: Vec<Target>,
    /// What measures them.
    pub(super) meter: Arc<Meter>,
}

impl Forwarder {
    /// Answers one request.
    pub(super) async fn forward(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        if request.method() == Method::CONNECT {
            let text =
                "This is a reverse proxy: set the API's base URL to it, not HTTPS_PROXY. CONNECT is refused.";
            return own_answer(StatusCode::METHOD_NOT_ALLOWED, text);
        }
        let Some(target) = self.targets.iter().find(|t| serves(&t.route.prefix, request.uri().path())) else {
            return own_answer(StatusCode::NOT_FOUND, "No route has a prefix of this path.");
        };
        let (mut head, body) = request.into_parts();
        let mut tap = CallTap::begin(&self.meter, &target.route, &head);
        let Some(uri) = upstream_uri(&target.route, &head.uri) else {
            tap.finish(Outcome::UpstreamBroken);
            return own_answer(
                StatusCode::BAD_REQUEST,
                "This path cannot be joined to the upstream's address.",
            );
        };
        head.uri = uri;
        head.version = Version::HTTP_11;
        head.headers = end_to_end(head.headers);
        set_host(&mut head.headers, target.host.clone());
        let body = RequestBody { inner: body, tap: tap.request() };
        match target.upstream.request(Request::from_parts(head, body)).await {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                tap.head(&head);
                head.headers = end_to_end(head.headers);
                head.version = Version::HTTP_11;
                Response::from_parts(head, AnswerBody::Passing { inner: body, tap })
            }
            Err(error) => {
                tap.finish(Outcome::UpstreamBroken);
                tracing::warn!(route = %target.route.name, error = %chain(&error), "upstream failed before its response");
                let what =
                    if error.is_connect() { "cannot be reached" } else { "broke off before it answered" };
                own_answer(
                    StatusCode::BAD_GATEWAY,
                    &format!("The upstream of route \"{}\" {what}.", target.route.name),
                )
            }
        }
    }
}

/// True if a route with this prefix serves this path; prefixes end at a slash.
fn serves(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
}

/// The upstream's address with the request's path and query, byte for byte.
fn upstream_uri(route: &Route, uri: &Uri) -> Option<Uri> {
    let asked = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let asked = if route.strip_prefix { asked.strip_prefix(&route.prefix).unwrap_or(asked) } else { asked };
    let base = route.upstream.path().trim_end_matches('/');
    let joined: PathAndQuery = match (base.is_empty(), asked.starts_with('/')) {
        (true, true) => asked.parse(),
        (_, true) => format!("{base}{asked}").parse(),
        (_, false) if asked == "*" => asked.parse(),
        (_, false) => format!("{base}/{asked}").parse(),
    }
    .ok()?;
    let mut parts = route.upstream.clone().into_parts();
    parts.path_and_query = Some(joined);
    Uri::from_parts(parts).ok()
}

/// An answer that Plimsoll gives itself, in the shape that the API's clients read.
fn own_answer(status: StatusCode, message: &str) -> Response<AnswerBody> {
    let body = serde_json::json!({
        "type": "error",
        "error": { "type": "api_error", "message": format!("plimsoll: {message}") },
    });
    let mut response = Response::new(AnswerBody::Own { inner: Full::from(body.to_string()) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-plimsoll-answered", HeaderValue::from_static("true"));
    response
}

/// An error with its causes; none of them holds more than addresses.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pin_project! {
    /// A request's body on its way up.
    pub(super) struct RequestBody {
        #[pin]
        inner: Incoming,
        tap: Arc<RequestTap>,
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            this.tap.feed(bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// An answer's body on its way down.
    #[project = AnswerBodyProjection]
    pub(super) enum AnswerBody {
        /// The upstream's.
        Passing {
            #[pin]
            inner: Incoming,
            tap: CallTap,
        },
        /// Ours.
        Own {
            #[pin]
            inner: Full<Bytes>,
        },
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.project() {
            AnswerBodyProjection::Own { inner } => inner.poll_frame(cx).map_err(|never| match never {}),
            AnswerBodyProjection::Passing { mut inner, tap } => {
                let frame = ready!(inner.as_mut().poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(bytes) = frame.data_ref() {
                            tap.feed(bytes);
                        }
                        // With a content-length nobody asks for more once the last byte is there.
                        if inner.is_end_stream() {
                            tap.finish(Outcome::Complete);
                        }
                    }
                    Some(Err(_)) => tap.finish(Outcome::UpstreamBroken),
                    None => tap.finish(Outcome::Complete),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing { inner, .. } => inner.is_end_stream(),
            Self::Own { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passing { inner, .. } => inner.size_hint(),
            Self::Own { inner } => inner.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RouteName;

    fn route(prefix: &str, strip_prefix: bool, upstream: &str) -> Route {
        Route {
            name: RouteName::new("r"),
            prefix: prefix.to_owned(),
            strip_prefix,
            upstream: upstream.parse().unwrap(),
            surface: None,
            region: None,
            ca_file: None,
        }
    }

    #[test]
    fn prefixes_end_at_a_slash() {
        for (prefix, path, wanted) in [
            ("", "/v1/messages", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a", "/b", false),
            ("", "*", true),
        ] {
            assert_eq!(serves(prefix, path), wanted, "{prefix} {path}");
        }
    }

    #[test]
    fn paths_and_queries_pass_byte_for_byte() {
        let cases = [
            (route("", false, "https://h"), "/v1/messages?beta=true", "https://h/v1/messages?beta=true"),
            (route("", false, "https://h/"), "/a%2Fb//c?q=%20&q", "https://h/a%2Fb//c?q=%20&q"),
            (route("/t", true, "http://h:1/base/"), "/t/v1?x", "http://h:1/base/v1?x"),
            (route("/t", true, "http://h:1"), "/t?x", "http://h:1/?x"),
            (route("/t", true, "http://h:1"), "/t", "http://h:1/"),
            (route("/t", false, "http://h"), "http://elsewhere/t/v1", "http://h/t/v1"),
        ];
        for (route, asked, wanted) in cases {
            let uri = upstream_uri(&route, &asked.parse().unwrap()).unwrap();
            assert_eq!(uri.to_string(), wanted, "{asked}");
        }
    }
}
