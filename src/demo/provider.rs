//! A provider for the demo and for tests: token buckets of requests, input and output, the wire
//! format of the Anthropic API, streamed answers.
//!
//! Input is charged on arrival, output when the answer ends; `remaining` is rounded to 1000, and
//! `reset` says when a bucket is full again (documented: platform.claude.com/docs `api/rate-limits`).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// What the buckets hold, per minute.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Requests.
    pub requests: u64,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
}

impl Capacity {
    /// The demo's: input is what runs out.
    pub const DEMO: Self = Self { requests: 600, input: 120_000, output: 60_000 };
}

/// One token bucket, refilled continuously, the whole of it in a minute.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    capacity: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(capacity: u64) -> Self {
        Self { capacity: capacity as f64, level: capacity as f64, at: Instant::now() }
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let back = self.capacity / 60.0 * now.duration_since(self.at).as_secs_f64();
        self.level = (self.level + back).min(self.capacity);
        self.at = now;
    }

    fn write(&self, headers: &mut HeaderMap, name: &str, rounding: f64) {
        let remaining = ((self.level.max(0.0) / rounding).round() * rounding).min(self.capacity);
        let full_in = 60.0 * (self.capacity - self.level) / self.capacity;
        let reset = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(full_in.ceil() as i64);
        let reset = reset.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        for (part, value) in
            [("limit", self.capacity.to_string()), ("remaining", remaining.to_string()), ("reset", reset)]
        {
            let name = http::HeaderName::try_from(format!("anthropic-ratelimit-{name}-{part}"));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
    }
}

#[derive(Debug)]
struct Buckets {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
}

/// A provider that is listening.
#[derive(Debug)]
pub struct Provider {
    /// The address it listens on.
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    buckets: Mutex<Buckets>,
    served: AtomicU64,
    refused: AtomicU64,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    /// Starts it on a port of its own.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(capacity: Capacity) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            buckets: Mutex::new(Buckets {
                requests: Bucket::full(capacity.requests),
                input: Bucket::full(capacity.input),
                output: Bucket::full(capacity.output),
            }),
            served: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let kept = state.clone();
        let task = tokio::spawn(super::serve(listener, move |request| answer(request, kept.clone())));
        Ok(Self { address, state, task })
    }

    /// Calls served and refused.
    pub fn counts(&self) -> (u64, u64) {
        (self.state.served.load(Relaxed), self.state.refused.load(Relaxed))
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// Characters that make a token, roughly.
const CHARS_PER_TOKEN: u64 = 4;

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let input = body.len() as u64 / CHARS_PER_TOKEN;
    let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let model = asked["model"].as_str().unwrap_or("claude-opus-5-5").to_owned();
    let output = asked["max_tokens"].as_u64().unwrap_or(100).min(4_096);
    let (refusal, headers) = admit(&state, input);
    let mut response = match refusal {
        Some((limiter, limit, wait)) => {
            state.refused.fetch_add(1, Relaxed);
            refused(limiter, limit, wait, &model)
        }
        None => {
            state.served.fetch_add(1, Relaxed);
            streamed(state.clone(), model, input, output)
        }
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

/// Charges a call, or says which limiter refuses it, its limit, and for how long.
fn admit(state: &State, input: u64) -> (Option<(&'static str, u64, u64)>, HeaderMap) {
    let mut buckets = state.buckets.lock().unwrap_or_else(PoisonError::into_inner);
    let Buckets { requests, input: tokens, output } = &mut *buckets;
    for bucket in [&mut *requests, &mut *tokens, &mut *output] {
        bucket.refill();
    }
    let short = |bucket: &Bucket, wanted: f64| {
        (bucket.level < wanted).then_some((wanted - bucket.level, bucket.capacity))
    };
    let refusal = [
        ("requests", short(requests, 1.0)),
        ("input tokens", short(tokens, input as f64)),
        ("output tokens", short(output, 1.0)),
    ]
    .into_iter()
    .find_map(|(name, short)| {
        short.map(|(missing, capacity)| {
            (name, capacity as u64, (missing / (capacity / 60.0)).ceil().max(1.0) as u64)
        })
    });
    if refusal.is_none() {
        requests.level -= 1.0;
        tokens.level -= input as f64;
    } else if let Some(("input tokens", ..)) = refusal {
        // As the real one does: what is left is less than the request, and shown as nothing.
        tokens.level = tokens.level.min(499.0);
    }
    let mut headers = HeaderMap::new();
    requests.write(&mut headers, "requests", 1.0);
    tokens.write(&mut headers, "input-tokens", 1_000.0);
    output.write(&mut headers, "output-tokens", 1_000.0);
    headers.insert(
        "anthropic-organization-id",
        HeaderValue::from_static("00000000-0000-0000-0000-000000000000"),
    );
    headers.insert("anthropic-workspace-id", HeaderValue::from_static("wrkspc_demo"));
    (refusal, headers)
}

fn refused(limiter: &str, limit: u64, wait: u64, model: &str) -> Response<Body> {
    let message = format!(
        "This request would exceed your organization's rate limit of {limit} {limiter} per minute (org: 00000000-0000-0000-0000-000000000000, model: {model})."
    );
    let body =
        serde_json::json!({ "type": "error", "error": { "type": "rate_limit_error", "message": message } });
    let mut response = Response::new(http_body_util::Full::from(body.to_string()).boxed_unsync());
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer of `output` tokens, streamed as the API streams it.
fn streamed(state: Arc<State>, model: String, input: u64, output: u64) -> Response<Body> {
    let (tx, rx) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let event =
            |name: &str, data: serde_json::Value| Bytes::from(format!("event: {name}\ndata: {data}\n\n"));
        let usage = serde_json::json!({ "input_tokens": input, "output_tokens": 1 });
        let start = serde_json::json!({ "type": "message_start", "message": { "id": "msg_demo", "type": "message", "role": "assistant", "model": model, "content": [], "usage": usage } });
        let mut open = tx.send(event("message_start", start)).await.is_ok();
        for part in 0..4 {
            if !open {
                break;
            }
            tokio::time::sleep(Duration::from_millis(80)).await;
            let delta = serde_json::json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": format!("part {part} ") } });
            open = tx.send(event("content_block_delta", delta)).await.is_ok();
        }
        {
            let mut buckets = state.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.output.refill();
            buckets.output.level -= output as f64;
        }
        if open {
            let delta = serde_json::json!({ "type": "message_delta", "delta": { "stop_reason": "end_turn" }, "usage": { "output_tokens": output } });
            open = tx.send(event("message_delta", delta)).await.is_ok();
        }
        if open
            && tx.send(event("message_stop", serde_json::json!({ "type": "message_stop" }))).await.is_err()
        {
            tracing::debug!("the caller went away before the end");
        }
    });
    let frames = futures_util::stream::unfold(rx, |mut rx| async move {
        rx.recv().await.map(|bytes| (Ok::<_, Infallible>(Frame::data(bytes)), rx))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    response
}
