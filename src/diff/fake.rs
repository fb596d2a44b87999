//! A provider on loopback that is every host by HTTPS, and is itself by plain HTTP: it keeps what is asked, and
//! answers calls to models in the shape of their API. What a real provider does not serve it answers with 404.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request as HttpRequest, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The file with the authority, in the fake's folder.
pub(super) const AUTHORITY: &str = "authority.pem";
/// The file that Node loads first.
pub(super) const PRELOAD: &str = "preload.cjs";

/// Most requests that are kept of a run.
const MOST: usize = 1_000;
/// Largest body that is read.
const MAX_BODY: usize = 16 << 20;

/// The hosts that it is. TLS to any other fails, so that nothing leaves.
const HOSTS: [&str; 9] = [
    "api.anthropic.com",
    "*.anthropic.com",
    "*.claude.ai",
    "*.claude.com",
    "api.openai.com",
    "*.openai.com",
    "*.googleapis.com",
    "*.chatgpt.com",
    "localhost",
];

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// The host that it was sent to, where that was by TLS; absent where it came by plain HTTP.
    pub host: Option<String>,
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Request {
    /// True for a call to a model, on whatever path.
    pub fn is_call(&self) -> bool {
        let path = self.path.split('?').next().unwrap_or_default();
        let calls = ["/messages", "/chat/completions", "/responses"];
        self.method == Method::POST && calls.iter().any(|end| path.ends_with(end))
    }
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its port or its folder.
    #[error("the fake provider: {0}")]
    Io(#[from] std::io::Error),
    /// Its certificates.
    #[error("the fake provider's certificate: {0}")]
    Certificate(String),
}

/// The provider.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    folder: Folder,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("plimsoll-diff-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        // A folder that is there already is somebody else's.
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "a folder of a comparison stays");
        }
    }
}

struct Shared {
    tls: TlsAcceptor,
    seen: Mutex<Vec<Request>>,
    reject: AtomicUsize,
}

impl Fake {
    pub(super) async fn start(listen: SocketAddr) -> Result<Self, StartError> {
        let folder = Folder::new()?;
        let tls = certificates(&folder.0)?;
        std::fs::write(folder.0.join(PRELOAD), include_str!("preload.cjs"))?;
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { tls, seen: Mutex::default(), reject: AtomicUsize::new(0) });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().connection(stream));
            }
        });
        Ok(Self { address, shared, folder, task })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// Rejects the next calls.
    pub(super) fn reject(&self, calls: usize) {
        self.shared.reject.store(calls, Relaxed);
    }

    /// What has come since this was last asked.
    pub(super) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An authority of this process, kept in a file for the command, and a certificate of the hosts.
fn certificates(folder: &Path) -> Result<TlsAcceptor, StartError> {
    let why = |error: rcgen::Error| StartError::Certificate(error.to_string());
    let mut params = CertificateParams::new(Vec::new()).map_err(why)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "plimsoll diff");
    let key = KeyPair::generate().map_err(why)?;
    let authority = CertifiedIssuer::self_signed(params, key).map_err(why)?;
    std::fs::write(folder.join(AUTHORITY), authority.pem())?;
    let mut params = CertificateParams::new(HOSTS.map(str::to_owned).to_vec()).map_err(why)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(why)?;
    let certificate = params.signed_by(&key, &authority).map_err(why)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let why = |error: rustls::Error| StartError::Certificate(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(why)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(why)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Shared {
    /// A connection: TLS, or plain HTTP, which a CONNECT turns into TLS.
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1) if first[0] == 0x16 => self.tls(stream).await,
            Ok(_) => self.serve(stream, None).await,
            Err(error) => tracing::debug!(%error, "a connection of a comparison ended"),
        }
    }

    async fn tls<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, stream: S) {
        match self.tls.accept(stream).await {
            Ok(stream) => {
                let host = stream.get_ref().1.server_name().map(str::to_owned);
                self.serve(stream, Some(host.unwrap_or_default())).await;
            }
            Err(error) => tracing::debug!(%error, "a command does not take the fake for its host"),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: Arc<Self>,
        stream: S,
        host: Option<String>,
    ) {
        let service = service_fn(move |request| {
            let (shared, host) = (self.clone(), host.clone());
            async move { Ok::<_, Infallible>(shared.answer(request, host).await) }
        });
        let connection =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection of a comparison ended");
        }
    }

    /// Boxed: a tunnel may hold a tunnel, as far as types can tell.
    fn tunnel(self: Arc<Self>, upgrade: OnUpgrade) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            if let Ok(upgraded) = upgrade.await {
                self.tls(TokioIo::new(upgraded)).await;
            }
        })
    }

    async fn answer(
        self: Arc<Self>,
        mut request: HttpRequest<Incoming>,
        host: Option<String>,
    ) -> Response<Full<Bytes>> {
        if request.method() == Method::CONNECT {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(self.tunnel(upgrade));
            return Response::new(Full::default());
        }
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let request = Request { host, method: head.method, path, headers: head.headers, body };
        let response = self.respond(&request);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < MOST {
            seen.push(request);
        }
        drop(seen);
        response
    }

    fn respond(&self, request: &Request) -> Response<Full<Bytes>> {
        let path = request.path.split('?').next().unwrap_or_default();
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let model = asked["model"].as_str().unwrap_or("model");
        let stream = asked["stream"].as_bool().unwrap_or(false);
        let made = match (request.method == Method::POST, path) {
            (true, "/v1/messages") => message(model, stream),
            (true, "/v1/messages/count_tokens") => json!({"input_tokens": 1}).to_string(),
            (true, "/v1/chat/completions") => completion(model, stream),
            (true, "/v1/responses") => openai_response(model, stream),
            _ => {
                return error(StatusCode::NOT_FOUND, "not_found_error", "Not Found");
            }
        };
        let left = self.reject.try_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left.is_ok() {
            let mut response =
                error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "Rejected once by plimsoll diff.");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        let mut response = Response::new(Full::from(made));
        let kind = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}});
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Events as a stream, each with its name where its API names them.
fn events(events: &[Value], named: bool) -> String {
    let event = |event: &Value| match event["type"].as_str().filter(|_| named) {
        Some(name) => format!("event: {name}\ndata: {event}\n\n"),
        None => format!("data: {event}\n\n"),
    };
    events.iter().map(event).collect()
}

fn message(model: &str, stream: bool) -> String {
    let usage = json!({"input_tokens": 1, "output_tokens": 1});
    let head = |content: Value, reason: Value| {
        json!({"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": reason, "stop_sequence": null, "usage": usage})
    };
    if !stream {
        return head(json!([{"type": "text", "text": "Hello"}]), json!("end_turn")).to_string();
    }
    let all = [
        json!({"type": "message_start", "message": head(json!([]), Value::Null)}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": usage}),
        json!({"type": "message_stop"}),
    ];
    events(&all, true)
}

fn completion(model: &str, stream: bool) -> String {
    let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
    if !stream {
        return json!({"id": "c_1", "object": "chat.completion", "created": 1, "model": model, "usage": usage,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}]})
        .to_string();
    }
    let chunk = |delta: Value, reason: Value| {
        json!({"id": "c_1", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})
    };
    let all = [
        chunk(json!({"role": "assistant", "content": "Hello"}), Value::Null),
        chunk(json!({}), json!("stop")),
    ];
    format!("{}data: [DONE]\n\n", events(&all, false))
}

fn openai_response(model: &str, stream: bool) -> String {
    let item = json!({"type": "message", "id": "item_1", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": "Hello", "annotations": []}]});
    let whole = json!({"id": "resp_1", "object": "response", "created_at": 1, "model": model, "status": "completed",
        "output": [item], "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}});
    if !stream {
        return whole.to_string();
    }
    let all = [
        json!({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        json!({"type": "response.completed", "response": whole}),
    ];
    events(&all, true)
}
