//! A fake of the Anthropic API: the real wire format, scripted answers, compressed on demand.

use super::serve_http1;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What to answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A message, JSON or stream as the request asks. Remaining input and output tokens.
    Ok { remaining: u64 },
    /// A refusal of an API key's bucket, with its headers.
    RateLimited { retry_after: u64, should_retry: bool },
    /// A refusal of a plan's five-hour window.
    PlanRejected,
    /// 529.
    Overloaded,
}

#[derive(Clone)]
pub struct Api {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    script: Arc<Mutex<VecDeque<Answer>>>,
    /// Input limit shown in headers.
    pub limit: u64,
    prefer: Arc<Mutex<Option<&'static str>>>,
}

pub const OUTPUT_TOKENS: u64 = 4;
pub const INPUT_TOKENS: u64 = 12;

impl Api {
    /// Answers with [`Answer::Ok`] unless scripted otherwise.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let api = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            script: Arc::default(),
            limit: 100_000,
            prefer: Arc::default(),
        };
        let shared = api.clone();
        serve_http1(listener, move |request| {
            let api = shared.clone();
            async move { api.answer(request).await }
        });
        api
    }

    /// Answers the next requests like this.
    pub fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().extend(answers);
    }

    /// Answers in this coding whenever the client accepts it.
    pub fn prefer(&self, coding: &'static str) {
        *self.prefer.lock().unwrap() = Some(coding);
    }

    /// The requests to `/v1/messages`.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|s| s.path.starts_with("/v1/messages")).cloned().collect()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let path = head.uri.to_string();
        let inference = path.starts_with("/v1/messages");
        self.seen.lock().unwrap().push(Seen {
            method: head.method.to_string(),
            path,
            headers: head.headers.clone(),
            body: body.clone(),
        });
        if !inference {
            return Response::new(Full::default());
        }
        let answer =
            self.script.lock().unwrap().pop_front().unwrap_or(Answer::Ok { remaining: self.limit / 2 });
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut response = match answer {
            Answer::Ok { remaining } => self.ok(&asked, remaining, &head.headers),
            Answer::RateLimited { retry_after, should_retry } => self.rate_limited(retry_after, should_retry),
            Answer::PlanRejected => plan_rejected(),
            Answer::Overloaded => error(529, "overloaded_error", "Overloaded"),
        };
        let id = format!("req_{:024}", self.seen.lock().unwrap().len());
        put(
            &mut response,
            &[
                ("request-id", &id),
                ("anthropic-organization-id", "00000000-0000-0000-0000-000000000000"),
                ("anthropic-workspace-id", "wrkspc_test"),
            ],
        );
        response
    }

    fn ok(&self, asked: &serde_json::Value, remaining: u64, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let model = asked["model"].as_str().unwrap_or("none");
        let stream = asked["stream"].as_bool().unwrap_or(false);
        let plain = if stream { events(model) } else { message(model) };
        let wanted = headers.get("accept-encoding").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let wanted = match *self.prefer.lock().unwrap() {
            Some(coding) if wanted.contains(coding) => coding,
            _ => wanted,
        };
        let (coding, body) = compress(wanted, plain.into_bytes());
        let mut response = Response::new(Full::from(body));
        let kind = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
        put(&mut response, &[("content-type", kind)]);
        if let Some(coding) = coding {
            put(&mut response, &[("content-encoding", coding)]);
        }
        self.buckets(&mut response, remaining);
        response
    }

    fn rate_limited(&self, retry_after: u64, should_retry: bool) -> Response<Full<Bytes>> {
        let text = format!(
            "This request would exceed your organization's rate limit of {} input tokens per minute (org: 00000000-0000-0000-0000-000000000000, model: claude-opus-5-5).",
            self.limit
        );
        let mut response = error(429, "rate_limit_error", &text);
        put(
            &mut response,
            &[
                ("retry-after", &retry_after.to_string()),
                ("x-should-retry", if should_retry { "true" } else { "false" }),
            ],
        );
        self.buckets(&mut response, 0);
        response
    }

    fn buckets(&self, response: &mut Response<Full<Bytes>>, remaining: u64) {
        let reset = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let limit = self.limit.to_string();
        put(
            response,
            &[
                ("anthropic-ratelimit-input-tokens-limit", &limit),
                ("anthropic-ratelimit-input-tokens-remaining", &remaining.to_string()),
                ("anthropic-ratelimit-input-tokens-reset", &reset),
                ("anthropic-ratelimit-output-tokens-limit", "20000"),
                ("anthropic-ratelimit-output-tokens-remaining", "20000"),
                ("anthropic-ratelimit-output-tokens-reset", &reset),
                ("anthropic-ratelimit-requests-limit", "1000"),
                ("anthropic-ratelimit-requests-remaining", "999"),
                ("anthropic-ratelimit-requests-reset", &reset),
            ],
        );
    }
}

fn plan_rejected() -> Response<Full<Bytes>> {
    let mut response = error(
        429,
        "rate_limit_error",
        "This request would exceed your account's rate limit. Please try again later.",
    );
    let reset = (jiff::Timestamp::now().as_second() + 3_600).to_string();
    put(
        &mut response,
        &[
            ("retry-after", "3600"),
            ("x-should-retry", "false"),
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-reset", &reset),
            ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
            ("anthropic-ratelimit-unified-5h-status", "rejected"),
            ("anthropic-ratelimit-unified-5h-utilization", "1.01"),
            ("anthropic-ratelimit-unified-5h-reset", &reset),
            ("anthropic-ratelimit-unified-7d-status", "allowed"),
            ("anthropic-ratelimit-unified-7d-utilization", "0.4"),
            ("anthropic-ratelimit-unified-overage-status", "rejected"),
        ],
    );
    response
}

fn error(status: u16, kind: &str, message: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    put(&mut response, &[("content-type", "application/json")]);
    response
}

fn put(response: &mut Response<Full<Bytes>>, pairs: &[(&str, &str)]) {
    for (name, value) in pairs {
        response.headers_mut().insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
}

fn usage() -> serde_json::Value {
    serde_json::json!({"input_tokens": INPUT_TOKENS, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": OUTPUT_TOKENS})
}

fn message(model: &str) -> String {
    serde_json::json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": "Hello there"}],
        "stop_reason": "end_turn", "stop_sequence": null, "usage": usage(),
    })
    .to_string()
}

fn events(model: &str) -> String {
    let start = serde_json::json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
        "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": INPUT_TOKENS, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 1}}});
    let rest = [
        (
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#
                .to_owned(),
        ),
        ("ping", r#"{"type":"ping"}"#.to_owned()),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello "}}"#
                .to_owned(),
        ),
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"there"}}"#
                .to_owned(),
        ),
        ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#.to_owned()),
        (
            "message_delta",
            format!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn","stop_sequence":null}},"usage":{{"output_tokens":{OUTPUT_TOKENS}}}}}"#
            ),
        ),
        ("message_stop", r#"{"type":"message_stop"}"#.to_owned()),
    ];
    let mut out = format!("event: message_start\ndata: {start}\n\n");
    for (name, data) in rest {
        out.push_str(&format!("event: {name}\ndata: {data}\n\n"));
    }
    out
}

/// Compresses as the first coding that is asked for and known.
pub fn compress(accept: &str, plain: Vec<u8>) -> (Option<&'static str>, Vec<u8>) {
    for wanted in accept.split(',').map(|c| c.split(';').next().unwrap_or_default().trim()) {
        match wanted {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&plain).unwrap();
                return (Some("gzip"), encoder.finish().unwrap());
            }
            "deflate" => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&plain).unwrap();
                return (Some("deflate"), encoder.finish().unwrap());
            }
            "br" => {
                let mut out = Vec::new();
                brotli::BrotliCompress(
                    &mut &plain[..],
                    &mut out,
                    &brotli::enc::BrotliEncoderParams::default(),
                )
                .unwrap();
                return (Some("br"), out);
            }
            "zstd" => return (Some("zstd"), zstd::encode_all(&plain[..], 1).unwrap()),
            _ => {}
        }
    }
    (None, plain)
}
