//! Finds refused server tools in a message of JSON while its bytes pass, in bounded memory.
//!
//! A message holds its parts in a list, and the result of a search may be long; the part that tells of an
//! error is short. So each part is kept up to a limit, looked at when it ends, and forgotten. Only whole
//! parts of the message's own list count: what stands deeper, such as the input of a tool, is written by
//! the model, and a caller can make it write anything.

use crate::dialects::error_text;
use crate::observation::ErrorBody;
use memchr::memchr2;

/// Longest part that is looked at; an error is a tenth of it.
const MAX_PART: usize = 2048;
/// Depth of a part: the message, its list, the part.
const DEPTH: u32 = 3;

/// A search for refused tools.
#[derive(Debug, Default)]
pub(super) struct ToolResults {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The part so far; absent outside of one, and when it is too long.
    part: Option<Vec<u8>>,
    /// The first refused tool.
    pub(super) refused: Option<ErrorBody>,
}

impl ToolResults {
    /// Takes in the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        // One is enough, and most messages have none.
        if self.refused.is_some() {
            return;
        }
        let mut from = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string {
                at = self.string(bytes, at);
                continue;
            }
            match bytes[at] {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth = self.depth.saturating_add(1);
                    if self.depth == DEPTH && bytes[at] == b'{' {
                        self.part = Some(Vec::new());
                        from = at;
                    }
                }
                b'}' | b']' => {
                    if self.depth == DEPTH {
                        self.keep(&bytes[from..=at]);
                        from = at + 1;
                        self.look();
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                _ => {}
            }
            at += 1;
        }
        self.keep(&bytes[from.min(bytes.len())..]);
    }

    fn string(&mut self, bytes: &[u8], at: usize) -> usize {
        if self.escaped {
            self.escaped = false;
            return at + 1;
        }
        let Some(skip) = memchr2(b'"', b'\\', &bytes[at..]) else { return bytes.len() };
        let end = at + skip;
        if bytes[end] == b'\\' {
            self.escaped = true;
        } else {
            self.in_string = false;
        }
        end + 1
    }

    fn keep(&mut self, bytes: &[u8]) {
        let Some(part) = &mut self.part else { return };
        if part.len() + bytes.len() > MAX_PART {
            self.part = None;
        } else {
            part.extend_from_slice(bytes);
        }
    }

    fn look(&mut self) {
        if let Some(part) = self.part.take() {
            self.refused = self.refused.take().or_else(|| error_text::tool_refusal(&part));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = r#"{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":{"type":"web_search_tool_result_error","error_code":"too_many_requests"}}"#;

    fn refused(message: &str, chunk: usize) -> Option<String> {
        let mut tools = ToolResults::default();
        message.as_bytes().chunks(chunk).for_each(|part| tools.feed(part));
        tools.refused.and_then(|error| error.kind)
    }

    #[test]
    fn a_refused_tool_is_found_however_the_message_is_cut_and_whatever_stands_before_it() {
        let long = "x".repeat(5_000);
        let message = format!(
            r#"{{"id":"msg","content":[{{"type":"text","text":"a \"quoted\" brace }}] {long}"}},{{"type":"web_search_tool_result","content":[{{"url":"{long}"}}]}},{REFUSED}],"usage":{{"server":[1]}}}}"#
        );
        for chunk in [1, 2, 3, 7, 100, 100_000] {
            assert_eq!(refused(&message, chunk).as_deref(), Some("web_search_tool_result_error"), "{chunk}");
        }
    }

    #[test]
    fn what_the_model_writes_is_no_tools_result() {
        let escaped = REFUSED.replace('"', "\\\"");
        for part in [
            format!(r#"{{"type":"tool_use","name":"x","input":{REFUSED}}}"#),
            format!(r#"{{"type":"tool_use","name":"x","input":{{"content":{REFUSED}}}}}"#),
            format!(r#"{{"type":"text","text":"{escaped}"}}"#),
            REFUSED.replace("too_many_requests", "unavailable"),
            REFUSED.replace("too_many_requests", "max_uses_exceeded"),
        ] {
            assert_eq!(refused(&format!(r#"{{"content":[{part}]}}"#), 9), None, "{part}");
        }
    }

    #[test]
    fn no_body_grows_memory() {
        let mut tools = ToolResults::default();
        tools.feed(b"{\"content\":[{");
        for _ in 0..100 {
            tools.feed(&[b'['; 10_000]);
            assert!(tools.part.as_ref().is_none_or(|part| part.capacity() <= 2 * MAX_PART));
        }
    }
}
