//! The two ports of OTLP: gRPC, and HTTP with protobuf or JSON.
//!
//! Messages are kept as the bytes that came, so that they can be sent on unchanged; they are read in place. Sizes are
//! bounded before and after decompression, and only a few messages are decompressed and read at once, apart from the
//! threads that serve the traffic. Whatever the engine makes of a message, its sender is told that it was taken: telling it
//! otherwise would make it send again what we already counted.

use super::forward::{Forwarder, Parcel};
use super::item::{Attributes, Item, Signal};
use super::read::Reader;
use super::{json, wire};
use crate::http_server::{self, Bounds};
use crate::sources::intake::Teller;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::{Buf, BufMut, Bytes};
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use secrecy::{ExposeSecret, SecretString};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Largest message, as it comes and once it is decompressed.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Most objects of a JSON message: each costs some hundred bytes while it is read.
const MAX_OBJECTS: usize = 256 * 1024;
/// Messages that are read at once.
const AT_ONCE: usize = 2;
/// Kilobytes of messages that may be on their way in at once, by both ports. Whoever comes then is asked to come again:
/// waiting would stall the sender, and taking it all would take our memory.
const ON_THEIR_WAY: usize = 64 * 1024;
/// Messages that are small enough to be read where they come.
const SMALL: usize = 64 * 1024;
/// How long a sender may take over a message.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call by gRPC may take, its message and what waits before it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const BOUNDS: Bounds = Bounds { connections: 128, lifetime: Duration::from_secs(600), cut_busy: false };

/// What both ports share.
pub struct Receiver {
    /// The way in.
    pub teller: Teller,
    /// What is remembered from one export to the next.
    pub reader: Reader,
    /// What senders must show.
    pub token: Option<SecretString>,
    /// Where everything goes on to.
    pub forward: Option<Forwarder>,
    room: Semaphore,
    on_their_way: Semaphore,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    TooLarge,
    Unreadable,
    Encoding,
}

impl Receiver {
    /// A receiver.
    pub fn new(teller: Teller, token: Option<SecretString>, forward: Option<Forwarder>) -> Arc<Self> {
        let room = Semaphore::new(AT_ONCE);
        let on_their_way = Semaphore::new(ON_THEIR_WAY);
        Arc::new(Self { teller, reader: Reader::default(), token, forward, room, on_their_way })
    }

    fn may(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = headers.get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
        shown.is_some_and(|shown| verify_slices_are_equal(shown, token.expose_secret().as_bytes()).is_ok())
    }

    /// A place for a message of this size; the largest, where it is not told.
    fn place(&self, length: Option<usize>) -> Option<SemaphorePermit<'_>> {
        let bytes = length.unwrap_or(MAX_MESSAGE).min(MAX_MESSAGE);
        self.on_their_way.try_acquire_many(u32::try_from(bytes / 1_024 + 1).ok()?).ok()
    }

    /// Tells what has waited, for as long as it runs.
    pub async fn tell_what_waits(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            for seen in self.reader.due(self.teller.now()) {
                self.teller.tell(seen);
            }
        }
    }

    /// Reads a message, whose every item is told.
    async fn take(
        self: &Arc<Self>,
        signal: Signal,
        json: bool,
        gzip: bool,
        body: Bytes,
    ) -> Result<(), Refused> {
        if body.len() <= SMALL && !gzip {
            return self.read(signal, json, &body);
        }
        let Ok(_permit) = self.room.acquire().await else { return Ok(()) };
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let plain = if gzip { Bytes::from(decompressed(&body)?) } else { body };
            this.read(signal, json, &plain)
        });
        read.await.unwrap_or(Err(Refused::Unreadable))
    }

    /// Reads a message that is no longer compressed.
    fn read(&self, signal: Signal, json: bool, message: &[u8]) -> Result<(), Refused> {
        let now = self.teller.now();
        let mut take =
            |resource: &Attributes<'_>, item: Item<'_>| match self.reader.seen(resource, &item, now) {
                Some(seen) => drop(self.teller.tell_of_model(seen)),
                None => self.teller.feed.skipped.up(),
            };
        let read = if !json {
            wire::read(signal, message, &mut take).map_err(|_| Refused::Unreadable)
        } else if memchr::memchr_iter(b'{', message).count() > MAX_OBJECTS {
            Err(Refused::TooLarge)
        } else {
            json::read(signal, message, &mut take).map_err(|_| Refused::Unreadable)
        };
        if read.is_err() {
            self.teller.unusable();
        }
        read
    }

    fn send_on(&self, signal: Signal, kind: &HeaderValue, encoding: Option<&HeaderValue>, body: &Bytes) {
        if let Some(forward) = &self.forward {
            let (kind, encoding, body) = (kind.clone(), encoding.cloned(), body.clone());
            forward.take(Parcel { signal, kind, encoding, body });
        }
    }
}

fn decompressed(body: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut plain = Vec::new();
    let most = MAX_MESSAGE as u64 + 1;
    MultiGzDecoder::new(body).take(most).read_to_end(&mut plain).map_err(|_| Refused::Unreadable)?;
    if plain.len() > MAX_MESSAGE { Err(Refused::TooLarge) } else { Ok(plain) }
}

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Serves OTLP by HTTP until dropped.
pub async fn http(listener: TcpListener, receiver: Arc<Receiver>) {
    http_server::serve(listener, BOUNDS, move |request: Request<Incoming>| {
        let receiver = receiver.clone();
        async move { receiver.answer(request).await }
    })
    .await;
}

impl Receiver {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let signal = Signal::ALL.into_iter().find(|signal| signal.path() == request.uri().path());
        let Some(signal) = signal else {
            return text(StatusCode::NOT_FOUND, "Here are /v1/traces, /v1/logs and /v1/metrics.\n");
        };
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "POST it.\n");
        }
        if !self.may(request.headers()) {
            return text(StatusCode::UNAUTHORIZED, "A bearer token is needed (sources.otlp.token).\n");
        }
        if request.headers().contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "No page in a browser sends here.\n");
        }
        let headers = request.headers().clone();
        let kind = headers.get(header::CONTENT_TYPE).cloned().unwrap_or(PROTOBUF);
        let Some(json) = is_json(&kind) else {
            let words = "Send application/x-protobuf or application/json.\n";
            return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, words);
        };
        let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let Some(_place) = self.place(length) else {
            let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "Too much at once; come again.\n");
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return answer;
        };
        let body = match whole(request.into_body()).await {
            Ok(body) => body,
            Err(refused) => {
                self.teller.unusable();
                return refused;
            }
        };
        let encoding = headers.get(header::CONTENT_ENCODING).filter(|value| value.as_bytes() != b"identity");
        let taken = match encoding.map(HeaderValue::as_bytes) {
            None => self.take(signal, json, false, body.clone()).await,
            Some(b"gzip") => self.take(signal, json, true, body.clone()).await,
            Some(_) => Err(Refused::Encoding),
        };
        match taken {
            Ok(()) => {
                self.send_on(signal, &kind, encoding, &body);
                let mut answer = Response::new(Full::from(if json { "{}" } else { "" }));
                answer.headers_mut().insert(header::CONTENT_TYPE, if json { JSON } else { PROTOBUF });
                answer
            }
            Err(Refused::TooLarge) => text(
                StatusCode::PAYLOAD_TOO_LARGE,
                "More than 4 MB once it is decompressed; send less at once.\n",
            ),
            Err(Refused::Unreadable) => text(StatusCode::BAD_REQUEST, "Not an OTLP message of that type.\n"),
            Err(Refused::Encoding) => {
                text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send gzip, or no content-encoding.\n")
            }
        }
    }
}

/// Whether a message is JSON or protobuf; nothing if it is neither.
fn is_json(kind: &HeaderValue) -> Option<bool> {
    match kind.to_str().ok()?.split(';').next()?.trim() {
        "application/x-protobuf" => Some(false),
        "application/json" => Some(true),
        _ => None,
    }
}

/// A body, or why it is not taken.
async fn whole(body: Incoming) -> Result<Bytes, Response<Full<Bytes>>> {
    let body = Limited::new(body, MAX_MESSAGE).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, "More than 4 MB; send less at once.\n"))
        }
        _ => Err(text(StatusCode::BAD_REQUEST, "The body did not come whole.\n")),
    }
}

fn text(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(words.to_owned()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Serves OTLP by gRPC until dropped.
pub async fn grpc(listener: TcpListener, receiver: Arc<Receiver>) {
    crate::grpc_server::serve(listener, move |request| {
        let receiver = receiver.clone();
        async move {
            let signal = Signal::ALL.into_iter().find(|signal| signal.method() == request.uri().path());
            let Some(signal) = signal else {
                return Status::unimplemented("traces, logs and metrics only").into_http();
            };
            if !receiver.may(request.headers()) {
                return Status::unauthenticated("a bearer token is needed (sources.otlp.token)").into_http();
            }
            // How long a message is, gRPC tells only in the message.
            let Some(_place) = receiver.place(None) else {
                return Status::unavailable("too much at once; come again").into_http();
            };
            let receiver = receiver.clone();
            let mut grpc = tonic::server::Grpc::new(Raw)
                .accept_compressed(CompressionEncoding::Gzip)
                .apply_max_message_size_config(Some(MAX_MESSAGE), None);
            let answered = grpc.unary(Export { receiver, signal }, request);
            // A sender that stops in the middle of a message keeps its place no longer.
            match tokio::time::timeout(CALL_TIMEOUT, answered).await {
                Ok(answer) => answer,
                Err(_) => Status::deadline_exceeded("the message did not come whole").into_http(),
            }
        }
    })
    .await;
}

/// One method.
struct Export {
    receiver: Arc<Receiver>,
    signal: Signal,
}

impl tonic::server::UnaryService<Bytes> for Export {
    type Response = Bytes;
    type Future = futures_util::future::BoxFuture<'static, Result<tonic::Response<Bytes>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (receiver, signal) = (self.receiver.clone(), self.signal);
        Box::pin(async move {
            let body = request.into_inner();
            match receiver.take(signal, false, false, body.clone()).await {
                Ok(()) => {
                    receiver.send_on(signal, &PROTOBUF, None, &body);
                    Ok(tonic::Response::new(Bytes::new()))
                }
                Err(_) => Err(Status::invalid_argument("not an OTLP message")),
            }
        })
    }
}

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
