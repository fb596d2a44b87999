//! The admin port: what changes something or shows more than numbers. The page, `POST /-/reload`,
//! `GET /v1/state`, `GET /v1/incidents`, `GET /v1/evidence`, `GET /v1/tap`, `POST /v1/observations`.
//!
//! On loopback by default, and any other address needs a token. The `host` header must name us, or
//! a page in somebody's browser could reach the port by a name that points to 127.0.0.1 (DNS
//! rebinding). A browser may also post to it without being asked: so nothing that a page sends (`origin`) changes
//! anything here, and a report must say that it is JSON, which a page can say only after it was allowed to.

use super::incidents::{Desk, Desks};
use super::page;
use super::plain;
use crate::config::{self, Secret};
use crate::http_server::{self as server, Bounds};
use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use secrecy::ExposeSecret;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The answer to a request to reload: settings that wait for the next start, or what was wrong.
pub type Answer = Result<Vec<&'static str>, String>;

/// Asks for a reload.
#[derive(Clone, Debug)]
pub struct Requests(mpsc::Sender<oneshot::Sender<Answer>>);

impl Requests {
    /// Requests that go here.
    pub fn new(to: mpsc::Sender<oneshot::Sender<Answer>>) -> Self {
        Self(to)
    }

    /// Reads the configuration file again and puts it in place.
    ///
    /// # Errors
    /// What is wrong with it, with its place; then everything runs on as it was.
    pub async fn reload(&self) -> Answer {
        let (tx, rx) = oneshot::channel();
        let gone = || "it is draining; a reload has no use any more".to_owned();
        self.0.send(tx).await.map_err(|_| gone())?;
        rx.await.map_err(|_| gone())?
    }
}

/// What is here.
const HERE: &str = "Here are the page (/), POST /-/reload, POST /v1/observations, GET /v1/state, /v1/incidents, /v1/evidence and /v1/tap.\n";

/// People are few here; applications that report keep a connection each.
const BOUNDS: Bounds = Bounds { connections: 128, lifetime: Duration::from_secs(600), cut_busy: false };

/// Takes the body of `POST /v1/observations`: a status, and JSON that says what came of it.
pub type Take = Arc<dyn Fn(&Bytes) -> (StatusCode, String) + Send + Sync>;

/// Largest body that is read.
const MAX_BODY: usize = 1024 * 1024;
/// Bodies that are small enough to be read where they come.
const SMALL: usize = 64 * 1024;
/// Larger bodies that are read at once.
const AT_ONCE: usize = 2;
/// How long a sender may take over a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The admin port, listening.
pub struct Control {
    /// The address it listens on.
    pub address: SocketAddr,
    listener: TcpListener,
    site: Arc<Site>,
}

/// Why it could not listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (admin.bind): {source}")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

struct Site {
    reload: Option<Requests>,
    desk: Option<Desks>,
    take: Option<Take>,
    access: Access,
    /// The address itself.
    own: String,
    reading: Semaphore,
}

/// Who may call, which a reload may change; clones are the same.
#[derive(Clone, Debug)]
pub struct Access(Arc<ArcSwap<Allowed>>);

#[derive(Debug)]
struct Allowed {
    token: Option<Secret>,
    hosts: Vec<String>,
}

impl Access {
    /// As the configuration says.
    pub fn of(admin: &config::Admin) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Allowed::of(admin))))
    }

    /// From now on as this configuration says.
    pub fn replace(&self, admin: &config::Admin) {
        self.0.store(Arc::new(Allowed::of(admin)));
    }
}

impl Allowed {
    fn of(admin: &config::Admin) -> Self {
        let hosts = admin.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { token: admin.token.clone(), hosts }
    }
}

/// Names of this machine by which it is called.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Control {
    /// Listens. Without `reload` there is no file to reload, without `desk` no incident to show, without `take` nothing to
    /// report to.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn bind(
        admin: config::Admin,
        reload: Option<Requests>,
        desk: Option<Desks>,
        take: Option<Take>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError { address: admin.bind, source };
        let listener = TcpListener::bind(admin.bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let own = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let (access, reading) = (Access::of(&admin), Semaphore::new(AT_ONCE));
        let site = Arc::new(Site { reload, desk, take, access, own, reading });
        Ok(Self { address, listener, site })
    }

    /// Who may call.
    pub fn access(&self) -> Access {
        self.site.access.clone()
    }

    /// Serves until dropped.
    pub async fn serve(self) {
        let site = self.site;
        let answer = move |request: Request<Incoming>| {
            let site = site.clone();
            async move { site.serve(request).await }
        };
        server::serve(self.listener, BOUNDS, answer).await;
    }
}

impl Site {
    /// An answer, or a stream of events that goes on.
    async fn serve(&self, request: Request<Incoming>) -> Response<Either<Full<Bytes>, page::Events>> {
        let path = request.uri().path();
        let goes_on = request.method() == Method::GET && matches!(path, "/events" | "/v1/tap");
        if let (true, None, Some(desk)) = (goes_on, self.refused(request.headers()), self.desk()) {
            let stream = match path {
                "/events" => page::events(desk.snapshots.clone()),
                _ => page::tap(&desk.tap),
            };
            return stream.map(Either::Right);
        }
        self.answer(request).await.map(Either::Left)
    }

    /// Why a caller is answered nothing else.
    fn refused(&self, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
        if !self.names_us(headers) {
            let text = "The host header names somebody else; see admin.allowed_hosts.\n";
            return Some(plain(StatusCode::FORBIDDEN, text));
        }
        if self.may(headers) {
            return None;
        }
        let mut response = plain(StatusCode::UNAUTHORIZED, "A token is needed (admin.token).\n");
        // A browser has no other way to show one: any name, and the token as the password.
        for scheme in ["Bearer", "Basic realm=\"plimsoll\", charset=\"UTF-8\""] {
            response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        Some(response)
    }

    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        if let Some(refusal) = self.refused(request.headers()) {
            return refusal;
        }
        // Our own page posts nothing.
        if request.method() == Method::POST && request.headers().contains_key(header::ORIGIN) {
            return plain(StatusCode::FORBIDDEN, "A page in a browser changes and reports nothing here.\n");
        }
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/observations") => self.observations(request).await,
            (_, "/v1/observations") => plain(StatusCode::METHOD_NOT_ALLOWED, "POST it.\n"),
            (&Method::POST, "/-/reload") => self.reload().await,
            (_, "/-/reload") => plain(StatusCode::METHOD_NOT_ALLOWED, "POST it.\n"),
            (&Method::GET, path) if path.starts_with("/v1/") => self.shown(path, request.uri()).await,
            (&Method::GET | &Method::HEAD, path) => match self.desk() {
                Some(desk) => page::page(path, request.headers(), &desk).await,
                None => None,
            }
            .unwrap_or_else(|| plain(StatusCode::NOT_FOUND, HERE)),
            _ => plain(StatusCode::NOT_FOUND, HERE),
        }
    }

    async fn shown(&self, path: &str, uri: &Uri) -> Response<Full<Bytes>> {
        match (path, self.desk()) {
            ("/v1/state", Some(desk)) => desk.state(),
            ("/v1/incidents", Some(desk)) => desk.list(),
            ("/v1/evidence", Some(desk)) => desk.evidence(uri).await,
            _ => plain(StatusCode::NOT_FOUND, HERE),
        }
    }

    async fn observations<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let Some(take) = &self.take else { return plain(StatusCode::NOT_FOUND, HERE) };
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !["application/json", "application/x-ndjson", "application/jsonl"]
            .iter()
            .any(|k| kind.starts_with(k))
        {
            let text = "Reports are JSON: send `content-type: application/json` (or application/x-ndjson).\n";
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
        }
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return plain(StatusCode::PAYLOAD_TOO_LARGE, "More than 1 MB; send fewer reports at once.\n");
            }
            _ => return plain(StatusCode::BAD_REQUEST, "The body did not come whole.\n"),
        };
        let (status, text) = self.take(take, body).await;
        let mut response = plain(status, &text);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// Has a body taken; a large one apart from the threads that serve the traffic.
    async fn take(&self, take: &Take, body: Bytes) -> (StatusCode, String) {
        if body.len() <= SMALL {
            return take(&body);
        }
        let (Ok(_permit), take) = (self.reading.acquire().await, take.clone()) else {
            return (StatusCode::SERVICE_UNAVAILABLE, String::new());
        };
        let taken = tokio::task::spawn_blocking(move || take(&body)).await;
        taken.unwrap_or_else(|_| (StatusCode::INTERNAL_SERVER_ERROR, String::new()))
    }

    async fn reload(&self) -> Response<Full<Bytes>> {
        let Some(reload) = &self.reload else {
            return plain(StatusCode::CONFLICT, "Started without a configuration file: nothing to reload.\n");
        };
        match reload.reload().await {
            Ok(waiting) if waiting.is_empty() => plain(StatusCode::OK, "Reloaded.\n"),
            Ok(waiting) => {
                let text = format!("Reloaded; these wait for the next start: {}.\n", waiting.join(", "));
                plain(StatusCode::OK, &text)
            }
            Err(problem) => {
                let text = format!("Refused; the configuration before stays in place.\n{problem}\n");
                plain(StatusCode::UNPROCESSABLE_ENTITY, &text)
            }
        }
    }

    fn desk(&self) -> Option<Arc<Desk>> {
        self.desk.as_ref().map(Desks::now)
    }

    fn names_us(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
        let uri: Option<Uri> = host.and_then(|host| host.parse().ok());
        let host = uri.as_ref().and_then(Uri::host).map(str::to_ascii_lowercase);
        host.is_some_and(|host| {
            LOCAL.contains(&host.as_str()) || host == self.own || self.access.0.load().hosts.contains(&host)
        })
    }

    fn may(&self, headers: &HeaderMap) -> bool {
        let allowed = self.access.0.load();
        let Some(token) = &allowed.token else { return true };
        let Some(shown) = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
        let Some((scheme, shown)) = shown.split_at_checked(6) else { return false };
        // The names of schemes have no case (RFC 9110, 11.1).
        let basic =
            scheme.eq_ignore_ascii_case(b"basic ").then(|| BASE64_STANDARD.decode(shown).ok()).flatten();
        let password = basic.as_deref().and_then(|pair| pair.splitn(2, |b| *b == b':').nth(1));
        let bearer = scheme.eq_ignore_ascii_case(b"bearer").then(|| shown.strip_prefix(b" ")).flatten();
        let shown = bearer.or(password);
        shown.is_some_and(|shown| verify_slices_are_equal(shown, token.expose_secret().as_bytes()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(token: Option<&str>) -> Site {
        let bind = ([127, 0, 0, 1], 9430).into();
        let token = token.map(Secret::from);
        let access = Access::of(&config::Admin { bind, token, allowed_hosts: Vec::new() });
        let (own, reading) = ("127.0.0.1".to_owned(), Semaphore::new(AT_ONCE));
        Site { reload: None, desk: None, take: None, access, own, reading }
    }

    async fn status(site: &Site, host: &str, token: Option<&str>) -> u16 {
        let mut request = Request::post("/-/reload").header("host", host);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        site.answer(request.body(Full::<Bytes>::default()).unwrap()).await.status().as_u16()
    }

    #[tokio::test]
    async fn a_foreign_name_is_refused() {
        for (host, wanted) in [("localhost:9430", 409), ("127.0.0.1", 409), ("evil.example", 403), ("", 403)]
        {
            assert_eq!(status(&site(None), host, None).await, wanted, "{host}");
        }
    }

    #[tokio::test]
    async fn a_token_must_be_the_token() {
        let site = site(Some("secret"));
        for (token, wanted) in
            [(None, 401), (Some("wrong"), 401), (Some("secre"), 401), (Some("secret"), 409)]
        {
            assert_eq!(status(&site, "localhost", token).await, wanted, "{token:?}");
        }
        let basic = |pair: &str| {
            let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&value).unwrap())])
        };
        assert!(site.may(&basic("anybody:secret")), "a browser's way");
        assert!(!site.may(&basic("secret:")) && !site.may(&basic("secret")));
        let shown = |value: &'static str| {
            HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
        };
        assert!(site.may(&shown("bearer secret")) && site.may(&shown("BEARER secret")));
        assert!(!["Bearer", "Bearersecret", "secret", ""].into_iter().any(|value| site.may(&shown(value))));
    }

    #[tokio::test]
    async fn a_page_of_somebody_elses_changes_nothing() {
        let from =
            |origin: &str| Request::post("/-/reload").header("host", "localhost").header("origin", origin);
        for origin in ["https://evil.example", "http://localhost:1", "null"] {
            let request = from(origin).body(Full::<Bytes>::default()).unwrap();
            assert_eq!(site(None).answer(request).await.status(), StatusCode::FORBIDDEN, "{origin}");
        }
    }
}
