//! Reads an answer while it passes: usage, model and errors from JSON, from events, from error
//! bodies. Bounded: of a stream only the few events that carry usage or errors are looked at.

use super::decode::{Decoder, DecoderBudget, Reader, Undecoded};
use super::frames::Frames;
use super::scan::Scanner;
use super::tool_results::ToolResults;
use crate::dialects::{anthropic, error_text};
use crate::observation::{ErrorBody, Shape as Form, Usage};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest line of an event stream that is kept; longer ones are content, and skipped.
const MAX_LINE: usize = 64 * 1024;
/// Longest beginning of a part that is kept.
const MAX_PART: usize = 4 * 1024;
/// Largest `usage` object that is read.
const MAX_USAGE: usize = 16 * 1024;

/// What an answer said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Tokens used.
    pub usage: Option<Usage>,
    /// The model that answered.
    pub model: Option<String>,
    /// The error, in body or stream.
    pub error: Option<ErrorBody>,
}

/// A tap on one answer's body.
pub struct Answer {
    body: Body,
    /// Why some of it is not read.
    undecoded: Option<Undecoded>,
}

enum Body {
    /// Says nothing that is looked for.
    Other,
    Read(Decoder<Shape>),
    /// Of no more use, and without its decoder. What was read still stands: it is a lower bound.
    GivenUp(Shape),
}

impl Answer {
    /// A tap for an answer with this head.
    pub fn new(status: StatusCode, headers: &HeaderMap, budget: &DecoderBudget) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let shape = if status.as_u16() >= 400 {
            Shape::Error { kept: Vec::new(), cut: false }
        } else if kind.starts_with("text/event-stream") {
            Shape::Events(Events::default())
        } else if kind.contains("json") {
            let wanted = ["usage", "model", "error", "jsonrpc"];
            Shape::Json(Box::new((Scanner::new(wanted, MAX_USAGE), ToolResults::default())))
        } else if kind.starts_with("application/vnd.amazon.eventstream") {
            Shape::Frames(Box::default())
        } else {
            return Self { body: Body::Other, undecoded: None };
        };
        match Decoder::new(headers.get(header::CONTENT_ENCODING), shape, budget) {
            Ok(decoder) => Self { body: Body::Read(decoder), undecoded: None },
            Err((shape, why)) => Self { body: Body::GivenUp(shape), undecoded: Some(why) },
        }
    }

    /// Takes in the next bytes as they passed.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Body::Read(decoder) = &mut self.body
            && let Err(why) = decoder.feed(bytes)
        {
            self.undecoded = Some(why);
            if let Body::Read(decoder) = std::mem::replace(&mut self.body, Body::Other) {
                self.body = Body::GivenUp(decoder.into_reader());
            }
        }
    }

    /// Why some of the body is not read, if that is so.
    pub fn undecoded(&mut self) -> Option<Undecoded> {
        let broken = matches!(self.shape(), Some(Shape::Frames(frames)) if frames.is_broken());
        self.undecoded.or(broken.then_some(Undecoded::Unreadable))
    }

    const fn shape(&mut self) -> Option<&mut Shape> {
        match &mut self.body {
            Body::Other => None,
            Body::Read(decoder) => Some(decoder.reader()),
            Body::GivenUp(shape) => Some(shape),
        }
    }

    /// What was said, at the end.
    pub fn said(&mut self) -> Said {
        match self.shape() {
            None => Said::default(),
            Some(Shape::Error { kept, cut }) => {
                Said { error: Some(error_text::read(kept, *cut, false)), ..Said::default() }
            }
            Some(Shape::Events(events)) => std::mem::take(&mut events.said),
            Some(Shape::Frames(frames)) => std::mem::take(&mut frames.said),
            Some(Shape::Json(json)) => {
                let (scanner, tools) = &mut **json;
                let error = scanner.value(2).and_then(error_in_success).map(|error| match scanner.value(3) {
                    Some(_) => ErrorBody { shape: Form::JsonRpc, ..error },
                    None => error,
                });
                Said {
                    usage: scanner.value(0).and_then(|json| anthropic::merge_usage(None, json)),
                    model: scanner.value(1).and_then(|json| serde_json::from_slice(json).ok()),
                    error: error.or_else(|| tools.refused.take()),
                }
            }
        }
    }
}

/// The error of an answer whose status was a success: some gateways put a 429 into a 200.
fn error_in_success(json: &[u8]) -> Option<ErrorBody> {
    (json.trim_ascii().first() == Some(&b'{')).then(|| error_text::read(json, false, true))
}

/// What kind of body it is.
enum Shape {
    Error { kept: Vec<u8>, cut: bool },
    Events(Events),
    Json(Box<(Scanner<4>, ToolResults)>),
    Frames(Box<Frames>),
}

impl Reader for Shape {
    fn read(&mut self, bytes: &[u8]) {
        match self {
            Self::Error { kept, cut } => {
                let room = ErrorBody::MAX_BYTES.saturating_sub(kept.len());
                kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
                *cut |= bytes.len() > room;
            }
            Self::Events(events) => events.read(bytes),
            Self::Json(json) => {
                json.0.feed(bytes);
                json.1.feed(bytes);
            }
            Self::Frames(frames) => frames.read(bytes),
        }
    }
}

/// The events that carry something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Event {
    Start,
    Delta,
    /// A part of the message begins: a server tool's result is whole in it.
    Part,
    Error,
    /// Content, pings, and whatever is added later.
    #[default]
    Other,
}

#[derive(Default)]
struct Events {
    line: Vec<u8>,
    /// The line is too long to be of interest; skip to its end.
    skip: bool,
    event: Event,
    said: Said,
}

impl Events {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.append(&bytes[..end]);
            if !self.skip {
                let line = std::mem::take(&mut self.line);
                self.whole_line(line.strip_suffix(b"\r").unwrap_or(&line));
                self.line = line;
            }
            self.line.clear();
            self.skip = false;
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.skip || self.line.len() + bytes.len() > MAX_LINE {
            self.skip = !bytes.is_empty() || self.skip;
            self.line.clear();
            return;
        }
        self.line.extend_from_slice(bytes);
        // The result of a search may be long; its refusal is not.
        if self.event == Event::Part && self.line.len() > MAX_PART {
            self.skip = true;
            self.line.clear();
            return;
        }
        // Of an event that carries nothing the data need not be kept at all.
        let content = self.event == Event::Other && self.line.starts_with(b"data");
        if content && !may_be_error(&self.line) && memchr::memmem::find(&self.line, ERROR_MEMBER).is_none() {
            self.skip = true;
            self.line.clear();
        }
    }

    fn whole_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            self.event = Event::Other;
        } else if let Some(name) = field(line, b"event") {
            self.event = match name {
                b"message_start" => Event::Start,
                b"message_delta" => Event::Delta,
                b"content_block_start" => Event::Part,
                b"error" | b"response.failed" => Event::Error,
                _ => Event::Other,
            };
        } else if let Some(data) = field(line, b"data") {
            self.data(data);
        }
    }

    fn data(&mut self, data: &[u8]) {
        match self.event {
            Event::Start => {
                if let Ok(Start { message }) = serde_json::from_slice::<Start<'_>>(data) {
                    self.said.model = message.model.or(self.said.model.take());
                    self.merge(message.usage);
                }
            }
            Event::Delta => {
                if let Ok(Delta { usage }) = serde_json::from_slice::<Delta<'_>>(data) {
                    self.merge(usage);
                }
            }
            Event::Part => {
                self.said.error = self.said.error.take().or_else(|| error_text::tool_refusal(data));
            }
            Event::Error => self.said.error = Some(error_text::read(data, false, true)),
            // Streams of the OpenAI kind name no events.
            Event::Other => self.said.error = error_in_chunk(data).or(self.said.error.take()),
        }
    }

    fn merge(&mut self, usage: Option<&RawValue>) {
        if let Some(usage) = usage {
            self.said.usage = anthropic::merge_usage(self.said.usage, usage.get().as_bytes());
        }
    }
}

/// An error behind other members of a chunk. Inside a text the quotes would be escaped.
const ERROR_MEMBER: &[u8] = b",\"error\":{";

/// The error of a chunk that names no event.
fn error_in_chunk(data: &[u8]) -> Option<ErrorBody> {
    let object: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_slice(data).ok()?;
    let named = object.get("error").map(|error| error.get().as_bytes());
    let error = object.get("type").is_some_and(|kind| kind.get() == "\"error\"");
    // Of JSON-RPC the frame is read too: it says that no model spoke.
    let rpc = object.contains_key("jsonrpc") && named.is_some_and(|error| error.starts_with(b"{"));
    (error || rpc).then_some(data).or(named).and_then(error_in_success)
}

/// True as long as a data line may turn out to be an error without an event's name.
fn may_be_error(line: &[u8]) -> bool {
    const ERRORS: [&[u8]; 2] = [b"data:{\"error\":{", b"data:{\"type\":\"error\""];
    let fits = |error: &&[u8]| {
        let mut bytes = line.iter().filter(|b| **b != b' ');
        error.iter().all(|wanted| bytes.next().is_none_or(|byte| byte == wanted))
    };
    ERRORS.iter().any(fits)
}

fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[derive(Deserialize)]
struct Start<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    model: Option<String>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::io::Write;

    const STREAM: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"claude-opus-5-5\",\"usage\":{\"input_tokens\":12,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"event: error\"}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":4}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    fn read(status: u16, kind: &'static str, body: &[u8], chunk: usize) -> Said {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        let budget = DecoderBudget::new(1 << 20);
        let mut answer = Answer::new(StatusCode::from_u16(status).unwrap(), &headers, &budget);
        body.chunks(chunk).for_each(|part| answer.feed(part));
        answer.said()
    }

    #[test]
    fn a_stream_gives_its_last_usage_however_it_is_cut() {
        for text in [STREAM.to_owned(), STREAM.replace('\n', "\r\n")] {
            for chunk in 1..80 {
                let said = read(200, "text/event-stream; charset=utf-8", text.as_bytes(), chunk);
                let usage = said.usage.expect("usage");
                assert_eq!((usage.input.get(), usage.output.get(), usage.cache_read.get()), (12, 4, 5));
                assert_eq!(said.model.as_deref(), Some("claude-opus-5-5"));
                assert_eq!(said.error, None, "text that looks like an event is content");
            }
        }
    }

    #[test]
    fn a_stream_cut_mid_event_keeps_what_it_said() {
        let cut = STREAM.find("\"output_tokens\":4").unwrap();
        let said = read(200, "text/event-stream", &STREAM.as_bytes()[..cut], 10);
        assert_eq!(said.usage.unwrap().output.get(), 1, "a lower bound");
    }

    #[test]
    fn an_error_inside_a_success_is_seen() {
        let stream = format!(
            "{}event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}}}\n\n",
            &STREAM[..STREAM.find("event: ping").unwrap()]
        );
        let error = read(200, "text/event-stream", stream.as_bytes(), 9).error.expect("error");
        assert!(error.in_stream);
        assert_eq!(error.kind.as_deref(), Some("overloaded_error"));
    }

    #[test]
    fn an_error_without_an_events_name_is_seen_and_content_is_not_kept() {
        let late = "data: {\"id\":\"1\",\"choices\":[],\"error\":{\"code\":429,\"message\":\"Provider returned error\"}}\n\n";
        let said = read(200, "text/event-stream", late.as_bytes(), 1000);
        assert_eq!(said.error.expect("error").code.as_deref(), Some("429"));
        let chunk = "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"error\"}}]}\n\n";
        let error = "data: {\"error\":{\"code\":429,\"message\":\"Provider returned error\"}}\n\n";
        for size in [1, 5, 1000] {
            let said = read(200, "text/event-stream", format!("{chunk}{error}").as_bytes(), size);
            let error = said.error.expect("error");
            assert_eq!((error.code.as_deref(), error.in_stream), (Some("429"), true));
        }
        let said = read(200, "text/event-stream", chunk.as_bytes(), 3);
        assert_eq!(said.error, None);
    }

    #[test]
    fn a_refusal_inside_a_json_success_is_seen() {
        let body =
            br#"{"error":{"message":"Rate limit exceeded: free-models-per-day","code":429},"user_id":"u"}"#;
        assert!(read(200, "application/json", body, 9).error.expect("error").in_stream);
        assert_eq!(read(200, "application/json", br#"{"error":null,"model":"m"}"#, 9).error, None);
    }

    #[test]
    fn a_refused_server_tool_is_seen_in_json_and_in_streams_and_a_clients_tool_is_told_as_such() {
        let part = r#"{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":{"type":"web_search_tool_result_error","error_code":"too_many_requests"}}"#;
        let json = format!(r#"{{"content":[{part}],"model":"m","usage":{{"input_tokens":1}}}}"#);
        let block = format!(
            "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":1,\"content_block\":{part}}}\n\n"
        );
        let at = STREAM.find("event: ping").unwrap();
        let stream = format!("{}{block}{}", &STREAM[..at], &STREAM[at..]);
        let rpc = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"429 rate limit exceeded"}}"#;
        let tool_stream = format!("event: message\ndata: {rpc}\n\n");
        for chunk in [1, 7, 100_000] {
            for (kind, body, usage) in [("application/json", &json, 0), ("text/event-stream", &stream, 4)] {
                let said = read(200, kind, body.as_bytes(), chunk);
                assert_eq!(said.usage.expect("usage").output.get(), usage, "the answer itself is whole");
                let error = said.error.expect("a refused tool");
                assert_eq!(
                    (error.shape, error.code.as_deref()),
                    (Form::ServerTool, Some("too_many_requests"))
                );
            }
            let error = read(200, "application/json", rpc.as_bytes(), chunk).error.expect("an error");
            assert_eq!((error.shape, error.in_stream), (Form::JsonRpc, true));
        }
        let error = read(200, "text/event-stream", tool_stream.as_bytes(), 100_000).error.expect("an error");
        assert_eq!((error.shape, error.in_stream), (Form::JsonRpc, true));
        let fine = r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"content":[{"type":"text","text":"rate limit"}]}}"#;
        assert_eq!(read(200, "application/json", fine.as_bytes(), 9).error, None);
        let fine = format!("event: message\ndata: {fine}\n\n");
        assert_eq!(read(200, "text/event-stream", fine.as_bytes(), 9).error, None);
    }

    #[test]
    fn lines_without_end_do_not_grow_memory() {
        let mut events = Events::default();
        for _ in 0..1_000 {
            events.read(&[b'x'; 10_000]);
            assert!(events.line.capacity() <= 4 * MAX_LINE);
        }
        events.read(b"\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":9}}\n\n");
        assert_eq!(events.said.usage.unwrap().output.get(), 9, "and the stream is followed on");
    }

    #[test]
    fn a_json_answer_gives_usage_and_model() {
        let body = br#"{"id":"msg","content":[{"text":"\"usage\":{}"}],"model":"claude-opus-5-5","usage":{"input_tokens":12,"output_tokens":4}}"#;
        let said = read(200, "application/json", body, 7);
        assert_eq!(said.usage.unwrap().input.get(), 12);
        assert_eq!(said.model.as_deref(), Some("claude-opus-5-5"));
    }

    /// At once, and not when its answer ends, which may be an hour later.
    #[test]
    fn a_decoder_that_gives_up_frees_its_memory_and_what_it_read_stands() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        let half = STREAM.find("event: message_delta").unwrap();
        encoder.write_all(&STREAM.as_bytes()[..half]).unwrap();
        encoder.flush().unwrap();
        let mut body = encoder.get_ref().clone();
        body.extend([0xff; 200]);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        const ALL: usize = 16 << 20;
        let budget = DecoderBudget::new(ALL);
        let mut answer = Answer::new(StatusCode::OK, &headers, &budget);
        answer.feed(&body[..half.min(body.len() - 200)]);
        assert!(budget.left() < ALL, "it holds memory");
        answer.feed(&body);
        assert_eq!(budget.left(), ALL, "all of it is free, though the answer still passes");
        assert_eq!(answer.undecoded(), Some(Undecoded::Unreadable));
        assert_eq!(answer.said().usage.expect("what was said before").input.get(), 12);
    }

    #[test]
    fn an_answer_for_which_no_memory_is_left_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for coding in ["gzip", "deflate", "br", "zstd"] {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding));
            let mut answer = Answer::new(StatusCode::OK, &headers, &DecoderBudget::new(100));
            answer.feed(b"whatever");
            assert_eq!(answer.undecoded(), Some(Undecoded::NoMemory), "{coding}");
            assert_eq!(answer.said(), Said::default());
        }
    }

    #[test]
    fn an_error_body_is_kept_up_to_its_limit() {
        let body = vec![b'x'; ErrorBody::MAX_BYTES * 3];
        let error = read(502, "text/html", &body, 5_000).error.unwrap();
        assert_eq!(error.text.len(), ErrorBody::KEPT_BYTES);
        assert!(error.cut);
    }
}
