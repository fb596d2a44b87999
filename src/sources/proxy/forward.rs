//! Forwards one request and streams both ways, byte for byte.
//!
//! The request's body is handed to the client as it comes, the answer's body to the caller as it
//! comes; each frame is shown to the tap and passed on, never held. What goes wrong upstream before
//! a response head is answered by a 502 that says who speaks; what goes wrong after it breaks the
//! answer off, as it would without the hop. HTTP/1.1 and HTTP/2 meet in either direction.

use super::Connection;
use super::body::{AnswerBody, Gate, Passing, RequestBody};
use super::endpoint_repair;
use super::hold::Hold;
use super::hop::{self, end_to_end, join_cookies, set_host, without};
use super::own_response::{own_response, spoken};
#[cfg(feature = "aws")]
use super::resign;
use super::tap::{CallTap, Meter, RequestTap};
use super::tunnel;
use super::upstream::{Lease, Upstream, UpstreamError};
use super::wire::Line;
use crate::config::{Closed, Route};
use crate::dialects::places;
use crate::ledger::InFlight;
use crate::observation::Outcome;
use crate::overload::Admitted;
use crate::route::Surface;
use crate::stats::RouteCounts;
use bytes::Bytes;
use futures_util::FutureExt;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Most prefixes that a response names.
const MOST_NAMED: usize = 10;

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
    /// What it did to requests beside passing them on.
    pub(super) counts: Arc<RouteCounts>,
    /// Signs its requests anew.
    #[cfg(feature = "aws")]
    pub(super) signer: Option<Arc<resign::Signer>>,
}

const NO_CONNECT: &str =
    "This is a reverse proxy: set the API's base URL to it, not HTTPS_PROXY. CONNECT is refused.";

/// The routes of one listener, longest prefix first.
#[derive(Debug)]
pub(super) struct Forwarder {
    /// Where requests go.
    pub(super) targets: Vec<Target>,
    /// Paths whose route cannot be used, longest prefix first.
    pub(super) closed: Vec<Closed>,
    /// What measures them.
    pub(super) meter: Arc<Meter>,
}

/// How often a request that goes up slowly is looked at; also how long an upstream may take to ask for the body of an
/// `expect: 100-continue` before it is sent unasked, as clients themselves do.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks in a row must find that the client has closed its end while nothing of its request moves.
const LOOKS: u32 = 5;
/// How many looks in a row may find that nothing moves at all. A client that left behind a full window cannot be told
/// from one that waits; nginx's `proxy_send_timeout` is as long.
const STALLED_LOOKS: u32 = 60;

/// How long a request that is refused is read, how much of it, and how many of them at once.
const LET_GO: Duration = Duration::from_secs(2);
const LET_GO_BYTES: usize = 4 * 1024 * 1024;
static LETTING_GO: Semaphore = Semaphore::const_new(16);

/// Why an exchange ended without a response of the upstream.
enum Ended {
    Upstream(UpstreamError),
    /// The client left while its request was held back.
    ClientLeft,
    /// The upstream took nothing of the request for a long time.
    Stalled,
}

impl Forwarder {
    /// Answers one request; `client` is its connection, if that is HTTP/1.1.
    pub(super) async fn forward(
        &self,
        request: Request<Incoming>,
        client: Option<&Connection>,
    ) -> Response<AnswerBody> {
        if request.method() == Method::CONNECT {
            return own_response(Surface::Unknown, StatusCode::METHOD_NOT_ALLOWED, NO_CONNECT);
        }
        let Some(admitted) = self.meter.overload.admit() else {
            self.meter.stats.overloaded.up();
            let surface = self.surface(request.uri().path());
            return Box::pin(no_memory(request, surface)).await;
        };
        // The library keeps room for this future until the response has passed: what an exchange needs only until the
        // response begins is not to be part of it.
        Box::pin(self.admitted(request, client, admitted)).await
    }

    async fn admitted(
        &self,
        mut request: Request<Incoming>,
        client: Option<&Connection>,
        admitted: Admitted,
    ) -> Response<AnswerBody> {
        let target = match self.target(request.uri().path()) {
            Ok(target) => target,
            Err(closed) => return self.no_route(request.uri().path(), closed),
        };
        let wanted = tunnel::wanted(&mut request, client);
        if target.route.refuse_websocket && wanted.as_ref().is_some_and(tunnel::Wanted::is_websocket) {
            target.counts.websockets_refused.up();
            let surface = target.route.surface.unwrap_or(Surface::Unknown);
            return tunnel::refusal(spoken(surface, request.uri().path()));
        }
        let (mut head, body) = request.into_parts();
        let uri = upstream_uri(&target.route, &head.uri)
            .map(|uri| endpoint_repair::apply(&target.route, &target.counts, uri, &mut head));
        let mut tap = CallTap::begin(&self.meter, &target.in_flight, &target.route, &head);
        tap.keep(admitted);
        let from = head.version;
        let gate = gate(&head, target, &body);
        if let Err((status, text)) = upward(&mut head, uri, target, &body, wanted.as_ref()) {
            tap.finish(Outcome::UpstreamBroken);
            return own_response(tap.spoken(), status, text);
        }
        let body = RequestBody::passing(body, tap.request(), gate.clone());
        #[cfg(feature = "aws")]
        let (body, _room) = match self.resigned(target, &mut head, body, &tap).await {
            Ok(held) => held,
            Err((outcome, status, text)) => {
                tap.finish(outcome);
                return own_response(tap.spoken(), status, &text);
            }
        };
        let mut up = Request::from_parts(head, body);
        let line = client.map(|client| &client.line);
        if let Some(line) = line.filter(|_| from == Version::HTTP_11) {
            relay_interim(&mut up, line, gate.clone());
        }
        let request = tap.request();
        let exchange = exchange(target.upstream.send(up), line, &request, gate.as_deref()).await;
        let down = Down { line, gate, from, counts: &target.counts };
        match exchange {
            Ok((response, lease)) => answer(response, lease, tap, wanted, down),
            Err(ended) => not_answered(ended, target, &mut tap),
        }
    }
}

impl Forwarder {
    /// What a client is told whose base URL lacks a prefix. Clients show a bare 404 as a model that does
    /// not exist, so the text says what to set.
    fn no_route(&self, path: &str, closed: Option<&Closed>) -> Response<AnswerBody> {
        let surface = spoken(Surface::Unknown, path);
        if let Some(closed) = closed {
            return own_response(surface, StatusCode::SERVICE_UNAVAILABLE, &closed.why);
        }
        let prefixes: Vec<&str> = self.targets.iter().map(|t| &*t.route.prefix).take(MOST_NAMED).collect();
        let text = format!(
            "No route serves this path. Set the client's base URL to this proxy's address and one of: {}.",
            prefixes.join(", ")
        );
        own_response(surface, StatusCode::NOT_FOUND, &text)
    }

    /// The surface whose API a path speaks, as far as it is known before the call is looked at.
    fn surface(&self, path: &str) -> Surface {
        let route = self.target(path).ok().map(|target| &target.route);
        let of_host = |route: &Arc<Route>| route.upstream.host().and_then(places::surface_of_host);
        let known = route.and_then(|route| route.surface.or_else(|| of_host(route)));
        spoken(known.unwrap_or(Surface::Unknown), path)
    }

    /// The route of a path. Where the one that is meant cannot be used, nobody else's upstream is asked instead.
    fn target(&self, path: &str) -> Result<&Target, Option<&Closed>> {
        let target = self.targets.iter().find(|t| serves(&t.route.prefix, path));
        let least = target.map_or(0, |target| target.route.prefix.len());
        let meant = |closed: &&Closed| match &closed.prefix {
            Some(prefix) => prefix.len() >= least && serves(prefix, path),
            None => true,
        };
        match self.closed.iter().find(meant) {
            Some(closed) => Err(Some(closed)),
            None => target.ok_or(None),
        }
    }
}

/// The client's side of an exchange.
struct Down<'c> {
    line: Option<&'c Arc<Line>>,
    gate: Option<Arc<Gate>>,
    from: Version,
    counts: &'c RouteCounts,
}

/// What holds back a body that the caller only offers, until the upstream asks for it. An HTTP/2 upstream cannot be
/// heard asking: hyper shows no interim responses of it. What is signed anew is needed whole before anybody is asked.
fn gate(head: &http::request::Parts, target: &Target, body: &Incoming) -> Option<Arc<Gate>> {
    let offers = head.headers.get(header::EXPECT)?.as_bytes().eq_ignore_ascii_case(b"100-continue");
    let heard =
        head.version == Version::HTTP_11 && !target.upstream.is_http2() && target.route.resign.is_none();
    (offers && heard && !body.is_end_stream()).then(Arc::default)
}

/// Makes a request's head the one that goes up.
fn upward(
    head: &mut http::request::Parts,
    uri: Option<Uri>,
    target: &Target,
    body: &Incoming,
    wanted: Option<&tunnel::Wanted>,
) -> Result<(), (StatusCode, &'static str)> {
    let Some(uri) = uri else {
        let text = "This path cannot be joined to the upstream's address.";
        return Err((StatusCode::BAD_REQUEST, text));
    };
    let coding = hop::second_coding(&head.headers);
    if coding.is_some() && target.upstream.is_http2() {
        let text = "HTTP/2 has no transfer codings: the upstream of this route cannot be given this body.";
        return Err((StatusCode::NOT_IMPLEMENTED, text));
    }
    head.uri = uri;
    head.headers = upstream_headers(std::mem::take(&mut head.headers), target, head.version);
    if target.upstream.is_http2() {
        head.version = Version::HTTP_2;
        return Ok(());
    }
    head.version = Version::HTTP_11;
    if let Some(wanted) = wanted {
        wanted.announce(&mut head.headers);
    }
    // A body of unknown length must say so: for GET and HEAD the client library would otherwise send none.
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        let coding = coding.unwrap_or(HeaderValue::from_static("chunked"));
        head.headers.insert(header::TRANSFER_ENCODING, coding);
    }
    Ok(())
}

/// Passes interim responses (1xx) to the client as they come.
fn relay_interim(up: &mut Request<RequestBody>, line: &Arc<Line>, gate: Option<Arc<Gate>>) {
    let line = line.clone();
    hyper::ext::on_informational(up, move |interim| {
        // The client's connection writes "100 Continue" itself once the body is asked for.
        let asked = interim.status() == StatusCode::CONTINUE && gate.as_ref().is_some_and(|gate| gate.open());
        if !asked {
            line.interim(interim.status(), interim.headers());
        }
    });
}

/// Waits for the upstream's response, and watches over its request meanwhile.
async fn exchange(
    sent: impl Future<Output = Result<(Response<Incoming>, Lease), UpstreamError>>,
    line: Option<&Arc<Line>>,
    request: &RequestTap,
    gate: Option<&Gate>,
) -> Result<(Response<Incoming>, Lease), Ended> {
    let Some(line) = line else { return sent.await.map_err(Ended::Upstream) };
    let mut sent = pin!(sent);
    let sent = poll_fn(|cx| {
        line.wake_for_interim(cx);
        sent.as_mut().poll(cx)
    });
    tokio::select! {
        biased;
        sent = sent => sent.map_err(Ended::Upstream),
        ended = held_back(line, request, gate) => Err(ended),
    }
}

/// Watches a request while nobody reads its client's connection: it is held back, or bytes of the next one wait behind
/// it. A client may close its sending end and still wait, so this takes a while in which nothing moves.
async fn held_back(line: &Line, request: &RequestTap, gate: Option<&Gate>) -> Ended {
    let (mut passed, mut closed, mut stalled) = (request.bytes(), 0, 0);
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(gate) = gate {
            gate.open();
        }
        if std::mem::replace(&mut passed, request.bytes()) != request.bytes() {
            (closed, stalled) = (0, 0);
            continue;
        }
        closed = if line.has_left() { closed + 1 } else { 0 };
        if closed >= LOOKS {
            return Ended::ClientLeft;
        }
        // A client that has sent nothing new is waited for; one whose bytes are not taken is not.
        stalled = if request.has_passed() { 0 } else { stalled + 1 };
        if stalled >= STALLED_LOOKS && line.is_held() {
            return Ended::Stalled;
        }
        line.look();
    }
}

/// What the client gets where the upstream gave nothing.
fn not_answered(ended: Ended, target: &Target, tap: &mut CallTap) -> Response<AnswerBody> {
    let error = match ended {
        Ended::Upstream(error) if !tap.request().is_broken() => error,
        Ended::Stalled => {
            tap.finish(Outcome::UpstreamBroken);
            tracing::warn!(route = %target.route.name, "the upstream took nothing of a request for a minute");
            let text = format!(
                "The upstream of route \"{}\" took nothing of this request for a minute.",
                target.route.name
            );
            return own_response(tap.spoken(), StatusCode::GATEWAY_TIMEOUT, &text);
        }
        // It was cut because memory is short.
        Ended::Upstream(_) if tap.request().overload().is_full() => {
            tap.finish(Outcome::ClientGone);
            return memory_is_short(tap.spoken(), Version::HTTP_11);
        }
        // The client left in the middle of its request: nobody's answer to anybody.
        _ => {
            tap.finish(Outcome::ClientGone);
            return own_response(tap.spoken(), StatusCode::BAD_REQUEST, "The request broke off.");
        }
    };
    tap.finish(Outcome::UpstreamBroken);
    tracing::warn!(route = %target.route.name, %error, "upstream failed before its response");
    let what = match error {
        UpstreamError::Connect(_) => "cannot be reached",
        UpstreamError::Broken(_) => "broke off before it answered",
    };
    let text = format!("The upstream of route \"{}\" {what}.", target.route.name);
    own_response(tap.spoken(), StatusCode::BAD_GATEWAY, &text)
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
            Ok(()) => Ok((RequestBody::signed(whole, tap.request()), Some(permit))),
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
    hop::one_length(&mut headers);
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
    mut lease: Lease,
    mut tap: CallTap,
    wanted: Option<tunnel::Wanted>,
    down: Down<'_>,
) -> Response<AnswerBody> {
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(wanted)) = (response.status(), wanted) {
        if wanted.is_websocket() {
            down.counts.websockets.up();
        }
        return tunnel::open(response, wanted, tap);
    }
    let (mut head, body) = response.into_parts();
    tap.head(&head);
    let coding = hop::second_coding(&head.headers);
    if coding.is_some() && down.from != Version::HTTP_11 {
        tap.finish(Outcome::UpstreamBroken);
        let text = "The response has a transfer coding that this client's protocol does not know.";
        return own_response(tap.spoken(), StatusCode::BAD_GATEWAY, text);
    }
    if body.is_end_stream() {
        // Nobody will ask for the frames of an empty body.
        tap.finish(Outcome::Complete);
        lease.ended();
    }
    head.headers = end_to_end(head.headers);
    if let Some(coding) = coding {
        head.headers.insert(header::TRANSFER_ENCODING, coding);
    }
    head.version = Version::HTTP_11;
    let length_of_another = down.line.is_some()
        && head.status == StatusCode::NOT_MODIFIED
        && head.headers.contains_key(header::CONTENT_LENGTH);
    let client = down.line.cloned();
    let request = tap.request();
    let hold = Hold::new(request.overload());
    // Until it is whole, or its client has left.
    let left = client.clone().filter(|_| !request.has_passed()).map(|line| {
        let left = async move {
            held_back(&line, &request, None).await;
        };
        left.boxed()
    });
    let passing = Passing {
        inner: body,
        tap,
        lease,
        client,
        gate: down.gate,
        length_of_another,
        trailers: None,
        ending: false,
        left,
        hold,
    };
    Response::from_parts(head, AnswerBody::Passing(Box::new(passing)))
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

/// Tells a caller to come back in a second. What it sends is read first, and let go: a connection that is closed before
/// that is reset, and the caller may never see the answer. Reading takes memory too, so only a few are read at once.
async fn no_memory(request: Request<Incoming>, surface: Surface) -> Response<AnswerBody> {
    let (head, mut body) = request.into_parts();
    let turn = if head.headers.contains_key(header::EXPECT) { None } else { LETTING_GO.try_acquire().ok() };
    if let Some(_turn) = turn {
        let sent = async {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await
                && read < LET_GO_BYTES
            {
                read += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        if tokio::time::timeout(LET_GO, sent).await.is_err() {
            tracing::debug!("a request that was refused was too slow to be read");
        }
    }
    memory_is_short(surface, head.version)
}

fn memory_is_short(surface: Surface, version: Version) -> Response<AnswerBody> {
    let text = "Memory is short: too many connections wait for slow peers. Send it again in a second.";
    let mut response = own_response(surface, StatusCode::SERVICE_UNAVAILABLE, text);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert("retry-after-ms", HeaderValue::from_static("1000"));
    if version != Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
            repair: None,
            refuse_websocket: false,
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
