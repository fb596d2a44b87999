//! Reads an AWS event stream (`application/vnd.amazon.eventstream`) while it passes: usage, and
//! exceptions, which come inside a stream whose status was 200.
//!
//! Frames are decoded by AWS's own library; what is ours is the bound: a frame larger than is of
//! interest is skipped by its stated length, and after a corrupt one the rest passes unread, because
//! the next frame's beginning is then anyone's guess.

use super::answer::Said;
use crate::dialects::{anthropic, error_text};
use crate::observation::Found;
use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use aws_smithy_types::event_stream::{HeaderValue, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Largest frame that is read; content comes in far smaller ones.
const MAX_FRAME: usize = 256 * 1024;
/// Smallest frame there is: prelude, its checksum, the message's checksum.
const MIN_FRAME: usize = 16;

/// What has been read of a stream so far.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    /// Bytes of an oversized frame that are still to pass.
    skip: usize,
    broken: bool,
    pub(super) said: Said,
}

impl Frames {
    /// True if a frame was corrupt: the rest passed unread.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes in the next bytes as they passed.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            if self.skip > 0 {
                let passed = self.skip.min(bytes.len());
                self.skip -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            // Up to the length first, then up to the frame's end: never more than one frame is kept.
            let wanted = self.length().unwrap_or(4);
            let part = wanted.saturating_sub(self.buffer.len()).min(bytes.len());
            self.buffer.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            self.step();
        }
    }

    fn length(&self) -> Option<usize> {
        let length: [u8; 4] = self.buffer.get(..4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(length)).ok()
    }

    fn step(&mut self) {
        let Some(length) = self.length() else { return };
        if length < MIN_FRAME {
            self.broken = true;
        } else if length > MAX_FRAME {
            self.skip = length - self.buffer.len();
            self.buffer.clear();
        } else if self.buffer.len() == length {
            match MessageFrameDecoder::new().decode_frame(&mut self.buffer) {
                Ok(DecodedFrame::Complete(message)) => self.message(&message),
                Ok(DecodedFrame::Incomplete) | Err(_) => self.broken = true,
            }
            self.buffer.clear();
        }
    }

    fn message(&mut self, message: &Message) {
        let text = |wanted: &str| {
            let header = message.headers().iter().find(|h| h.name().as_str() == wanted)?;
            match header.value() {
                HeaderValue::String(value) => Some(value.as_str()),
                _ => None,
            }
        };
        let payload = message.payload();
        match text(":message-type") {
            Some("exception" | "error") => {
                let kind = text(":exception-type").or_else(|| text(":error-code")).unwrap_or("exception");
                let mut error = error_text::read(payload, false, true);
                let kind: String = kind.chars().take(128).collect();
                error.text = error_text::shortened(format!("{kind}: {}", error.text));
                // The frame names its kind: words of its message say nothing beside it.
                error.code = error.code.filter(|_| error.found == Found::Fields);
                error.found = Found::Fields;
                error.kind = Some(kind);
                self.said.error = Some(error);
            }
            _ => match text(":event-type") {
                Some("chunk") => self.chunk(payload),
                Some("metadata") => self.merge(payload),
                _ => {}
            },
        }
    }

    /// One event of the vendor's own stream, in base64.
    fn chunk(&mut self, payload: &[u8]) {
        let Ok(Chunk { bytes }) = serde_json::from_slice::<Chunk<'_>>(payload) else { return };
        let Ok(inner) = STANDARD.decode(bytes) else { return };
        if inner.starts_with(b"{\"type\":\"content_block_delta\"") {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(&inner) else { return };
        if event.kind == "error" {
            self.said.error = Some(error_text::read(&inner, false, true));
        }
        if let Some(message) = event.message {
            self.said.model = message.model.or(self.said.model.take());
            self.usage(message.usage);
        }
        self.usage(event.usage);
    }

    fn merge(&mut self, payload: &[u8]) {
        if let Ok(event) = serde_json::from_slice::<Metadata<'_>>(payload) {
            self.usage(event.usage);
        }
    }

    fn usage(&mut self, usage: Option<&RawValue>) {
        if let Some(usage) = usage {
            self.said.usage = anthropic::merge_usage(self.said.usage, usage.get().as_bytes());
        }
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    bytes: &'a str,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(borrow)]
    message: Option<Inner<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    model: Option<String>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::Header;

    fn frame(headers: &[(&'static str, &'static str)], payload: &[u8]) -> Vec<u8> {
        let mut message = Message::new(payload.to_vec());
        for (name, value) in headers {
            message = message.add_header(Header::new(*name, HeaderValue::String((*value).into())));
        }
        let mut out = Vec::new();
        write_message_to(&message, &mut out).unwrap();
        out
    }

    fn chunk(inner: &str) -> Vec<u8> {
        let payload = format!("{{\"bytes\":\"{}\",\"p\":\"abc\"}}", STANDARD.encode(inner));
        frame(&[(":message-type", "event"), (":event-type", "chunk")], payload.as_bytes())
    }

    fn stream() -> Vec<u8> {
        [
            chunk(r#"{"type":"message_start","message":{"model":"claude-sonnet-4-6","usage":{"input_tokens":26,"output_tokens":1}}}"#),
            chunk(r#"{"type":"content_block_delta","delta":{"text":"hi"}}"#),
            chunk(r#"{"type":"message_delta","usage":{"output_tokens":1203}}"#),
        ]
        .concat()
    }

    fn read(bytes: &[u8], part: usize) -> Frames {
        let mut frames = Frames::default();
        bytes.chunks(part).for_each(|part| frames.read(part));
        frames
    }

    #[test]
    fn a_stream_gives_its_usage_however_it_is_cut() {
        for part in [1, 3, 17, 4096] {
            let frames = read(&stream(), part);
            let usage = frames.said.usage.expect("usage");
            assert_eq!((usage.input.get(), usage.output.get()), (26, 1203), "in parts of {part}");
            assert_eq!(frames.said.model.as_deref(), Some("claude-sonnet-4-6"));
            assert!(!frames.is_broken() && frames.said.error.is_none());
        }
    }

    #[test]
    fn a_throttle_inside_a_success_is_seen() {
        let exception = frame(
            &[(":message-type", "exception"), (":exception-type", "throttlingException")],
            br#"{"message":"Too many tokens, please wait before trying again."}"#,
        );
        let error = read(&[stream(), exception].concat(), 7).said.error.expect("error");
        assert!(error.in_stream);
        assert_eq!(error.kind.as_deref(), Some("throttlingException"));
        assert!(error.message.unwrap().starts_with("Too many tokens"));
    }

    #[test]
    fn converse_gives_its_usage_at_the_end() {
        let end = frame(
            &[(":message-type", "event"), (":event-type", "metadata")],
            br#"{"usage":{"inputTokens":8,"outputTokens":4,"totalTokens":12,"cacheReadInputTokens":5},"metrics":{"latencyMs":1}}"#,
        );
        let usage = read(&end, 5).said.usage.expect("usage");
        assert_eq!((usage.input.get(), usage.output.get(), usage.cache_read.get()), (8, 4, 5));
    }

    #[test]
    fn a_corrupt_frame_leaves_what_was_said_and_the_rest_unread() {
        let mut bytes = stream();
        let at = bytes.len() - 3;
        bytes[at] ^= 0xff;
        let frames = read(&[bytes, stream()].concat(), 100);
        assert!(frames.is_broken());
        assert_eq!(frames.said.usage.unwrap().output.get(), 1, "a lower bound");
    }

    #[test]
    fn a_huge_frame_is_skipped_and_memory_stays_bounded() {
        let mut frames = Frames::default();
        let huge = frame(&[(":message-type", "event"), (":event-type", "chunk")], &vec![b'x'; 4 << 20]);
        for part in huge.chunks(10_000) {
            frames.read(part);
            assert!(frames.buffer.capacity() <= 2 * MAX_FRAME);
        }
        frames.read(&stream());
        assert_eq!(frames.said.usage.unwrap().output.get(), 1203, "and the stream is followed on");
    }
}
