//! Forwards one request and streams both ways, byte for byte.
//!
//! The request's body is handed to the client as it comes, the answer's body to the caller as it
//! comes; each frame is shown to the tap and passed on, never held. What goes wrong upstream before
//! a response head is answered by a 502 that says who speaks; what goes wrong after it breaks the
//! answer off, as it would without the hop. HTTP/1.1 and HTTP/2 meet in either direction.

use super::hop::{end_to_end, join_cookies, set_host, without};
#[cfg(feature = "aws")]
use super::resign;
use super::tap::{CallTap, Meter, RequestTap};
use super::tunnel;
use super::upstream::{Permit, Upstream, UpstreamError};
use crate::config::Route;
use crate::ledger::InFlight;
use crate::observation::Outcome;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A route and the client that reaches its upstream.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The route.
    pub(super) route: Arc<Route>,
    /// Its client.
    pub(super) upstream: Upstream,
    /// The upstream's name, as it goes into `host`.
    pub(super) host: HeaderValue,
    /// Its calls in flight.
    pub(super) in_flight: Arc<InFlight>,
    /// Signs its requests anew.
    #[cfg(feature = "aws")]
    pub(super) signer: Option<Arc<resign::Signer>>,
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
    pub(super) async fn forward(&self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        if request.method() == Method::CONNECT {
            let text =
                "This is a reverse proxy: set the API's base URL to it, not HTTPS_PROXY. CONNECT is refused.";
            return own_answer(StatusCode::METHOD_NOT_ALLOWED, text);
        }
        let Some(target) = self.targets.iter().find(|t| serves(&t.route.prefix, request.uri().path())) else {
            return own_answer(StatusCode::NOT_FOUND, "No route has a prefix of this path.");
        };
        let wanted = tunnel::wanted(&mut request);
        let (mut head, body) = request.into_parts();
        let mut tap = CallTap::begin(&self.meter, &target.in_flight, &target.route, &head);
        let Some(uri) = upstream_uri(&target.route, &head.uri) else {
            tap.finish(Outcome::UpstreamBroken);
            return own_answer(
                StatusCode::BAD_REQUEST,
                "This path cannot be joined to the upstream's address.",
            );
        };
        head.uri = uri;
        head.headers = upstream_headers(head.headers, target, head.version);
        head.version = if target.upstream.is_http2() { Version::HTTP_2 } else { Version::HTTP_11 };
        if !target.upstream.is_http2() {
            if let Some(wanted) = &wanted {
                wanted.announce(&mut head.headers);
            }
            // A body of unknown length must say so: for GET and HEAD the client library would
            // otherwise send none.
            if !body.is_end_stream() && body.size_hint().exact().is_none() {
                head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        let body = RequestBody::Passing { inner: body, tap: tap.request() };
        #[cfg(feature = "aws")]
        let (body, _room) = match self.resigned(target, &mut head, body, &tap).await {
            Ok(held) => held,
            Err((outcome, status, text)) => {
                tap.finish(outcome);
                return own_answer(status, &text);
            }
        };
        match target.upstream.send(Request::from_parts(head, body)).await {
            Ok((response, permit)) => answer(response, permit, tap, wanted),
            Err(_) if tap.request().is_broken() => {
                // The client left in the middle of its request: nobody's answer to anybody.
                tap.finish(Outcome::ClientGone);
                own_answer(StatusCode::BAD_REQUEST, "The request broke off.")
            }
            Err(error) => {
                tap.finish(Outcome::UpstreamBroken);
                tracing::warn!(route = %target.route.name, %error, "upstream failed before its response");
                let what = match error {
                    UpstreamError::Connect(_) => "cannot be reached",
                    UpstreamError::Broken(_) => "broke off before it answered",
                };
                own_answer(
                    StatusCode::BAD_GATEWAY,
                    &format!("The upstream of route \"{}\" {what}.", target.route.name),
                )
            }
        }
    }
}

/// Why a request was not signed: how the call ended, and what its caller is told.
#[cfg(feature = "aws")]
type Unsigned = (Outcome, StatusCode, String);

/// A body that goes up, and its room while it does.
#[cfg(feature = "aws")]
type Held = (RequestBody, Option<tokio::sync::SemaphorePermit<'static>>);

/// Bytes that a request promises.
#[cfg(feature = "aws")]
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(feature = "aws")]
impl Forwarder {
    /// Signs a request anew where its route says so; others pass as they are.
    async fn resigned(
        &self,
        target: &Target,
        head: &mut http::request::Parts,
        body: RequestBody,
        tap: &CallTap,
    ) -> Result<Held, Unsigned> {
        let Some(signer) = &target.signer else { return Ok((body, None)) };
        if head.uri.path().ends_with("/invoke-with-bidirectional-stream") {
            let text = "A call that answers while it is asked cannot be signed anew: a signature covers the whole request.";
            return Err((Outcome::ClientGone, StatusCode::NOT_IMPLEMENTED, text.to_owned()));
        }
        let (whole, permit) = match resign::hold(body, announced(&head.headers)).await {
            Ok(held) => held,
            Err(resign::NotHeld::Busy) => {
                let text = "Too many requests are being signed anew at once; send it again.".to_owned();
                return Err((Outcome::ClientGone, StatusCode::SERVICE_UNAVAILABLE, text));
            }
            Err(resign::NotHeld::Cut) if tap.request().is_broken() => {
                let text = "The request broke off.".to_owned();
                return Err((Outcome::ClientGone, StatusCode::BAD_REQUEST, text));
            }
            Err(resign::NotHeld::Cut) => {
                let most = resign::MAX_BODY;
                let text = format!(
                    "A request that is signed anew holds at most {most} bytes, and comes within 2 minutes."
                );
                return Err((Outcome::ClientGone, StatusCode::PAYLOAD_TOO_LARGE, text));
            }
        };
        // It is whole now, so its length is known, whatever the caller said; it has no trailers any more.
        let framing = [header::TRANSFER_ENCODING, header::TRAILER];
        head.headers = without(std::mem::take(&mut head.headers), &framing);
        let empty = whole.is_empty() && !head.headers.contains_key(header::CONTENT_LENGTH);
        if !empty {
            head.headers.insert(header::CONTENT_LENGTH, whole.len().into());
        }
        match signer.sign(head, &target.host, &whole, &self.meter.clock).await {
            Ok(()) => Ok((RequestBody::Signed { inner: Full::from(whole) }, Some(permit))),
            Err(error) => {
                tracing::warn!(route = %target.route.name, "a request could not be signed: {error}");
                let text = "The request could not be signed for AWS; the sidecar's log says why.".to_owned();
                Err((Outcome::UpstreamBroken, StatusCode::BAD_GATEWAY, text))
            }
        }
    }
}

/// The headers that go up.
fn upstream_headers(headers: HeaderMap, target: &Target, from: Version) -> HeaderMap {
    let mut headers = end_to_end(headers);
    if from == Version::HTTP_2 && !target.upstream.is_http2() {
        headers = join_cookies(headers);
    }
    if target.upstream.is_http2() {
        // HTTP/2 names the host in `:authority`, which is made of the address.
        headers = without(headers, &[header::HOST]);
    } else {
        set_host(&mut headers, target.host.clone());
    }
    headers
}

/// The answer on its way down.
fn answer(
    response: Response<Incoming>,
    permit: Option<Permit>,
    mut tap: CallTap,
    wanted: Option<tunnel::Wanted>,
) -> Response<AnswerBody> {
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(wanted)) = (response.status(), wanted) {
        return tunnel::open(response, wanted, tap);
    }
    let (mut head, body) = response.into_parts();
    tap.head(&head);
    if body.is_end_stream() {
        // Nobody will ask for the frames of an empty body.
        tap.finish(Outcome::Complete);
    }
    head.headers = end_to_end(head.headers);
    head.version = Version::HTTP_11;
    Response::from_parts(head, AnswerBody::Passing { inner: body, tap, permit })
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

pin_project! {
    /// A request's body on its way up.
    #[project = RequestBodyProjection]
    pub(super) enum RequestBody {
        /// The caller's, as it comes.
        Passing {
            #[pin]
            inner: Incoming,
            tap: Arc<RequestTap>,
        },
        /// The caller's, whole: it is signed.
        Signed {
            #[pin]
            inner: Full<Bytes>,
        },
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (mut inner, tap) = match self.project() {
            RequestBodyProjection::Passing { inner, tap } => (inner, tap),
            RequestBodyProjection::Signed { inner } => {
                return inner.poll_frame(cx).map_err(|never| match never {});
            }
        };
        let frame = ready!(inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    tap.feed(bytes);
                }
                // With a content-length nobody asks for more once the last byte is there.
                if inner.is_end_stream() {
                    tap.passed();
                }
            }
            Some(Err(_)) => tap.broke_off(),
            None => tap.passed(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing { inner, .. } => inner.is_end_stream(),
            Self::Signed { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passing { inner, .. } => inner.size_hint(),
            Self::Signed { inner } => inner.size_hint(),
        }
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
            // Given back with the body: the stream is open as long as it passes.
            permit: Option<Permit>,
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
            AnswerBodyProjection::Passing { mut inner, tap, .. } => {
                let frame = ready!(inner.as_mut().poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(bytes) = frame.data_ref() {
                            tap.feed(bytes);
                        }
                        // With a content-length nobody asks for more once the last byte is there,
                        // nor behind trailers.
                        if inner.is_end_stream() || frame.is_trailers() {
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
            origin: "https://api.example".into(),
            upstream: upstream.parse().unwrap(),
            surface: None,
            region: None,
            project: None,
            ca_file: None,
            client_cert_file: None,
            http2: false,
            resign: None,
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
