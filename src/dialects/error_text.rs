//! Reads error bodies as they really arrive: JSON, JSON in a sentence, a Python repr, cut text.
//!
//! Providers put an error into an envelope, SDKs print the envelope into a sentence, and logs cut
//! the sentence. Structure is used where it parses; where it does not, only the closed set of
//! error types is looked for, and the rest is left to the wording rules. Nothing here fails.

use crate::observation::ErrorBody;
use serde_json::Value;

/// Error types that only appear as such; safe to find in text that no longer parses.
const TYPES: [&str; 10] = [
    "overloaded_error",
    "rate_limit_error",
    "authentication_error",
    "permission_error",
    "billing_error",
    "invalid_request_error",
    "not_found_error",
    "request_too_large",
    "timeout_error",
    "api_error",
];

/// Codes that only Anthropic emits, in `error.details.error_code`.
const CODES: [&str; 4] = [
    "ramp_limit_exceeded",
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "credits_required",
];

/// Deepest JSON looked into.
const MAX_DEPTH: u8 = 6;

/// Reads an error body. `cut` says that more bytes came than were kept, `in_stream` that the error
/// came as an event of a stream.
pub fn read(bytes: &[u8], cut: bool, in_stream: bool) -> ErrorBody {
    let kept = &bytes[..bytes.len().min(ErrorBody::MAX_BYTES)];
    let text = String::from_utf8_lossy(kept).into_owned();
    let mut body = ErrorBody { cut: cut || kept.len() < bytes.len(), in_stream, ..ErrorBody::default() };
    if let Some(value) = first_json(&text) {
        find(&value, &mut body, MAX_DEPTH);
    }
    let known = |set: &[&'static str]| set.iter().find(|t| text.contains(**t)).map(|t| (*t).to_owned());
    if body.kind.is_none() {
        body.kind = known(&TYPES);
    }
    if body.code.as_deref().is_none_or(|c| !CODES.contains(&c)) {
        body.code = known(&CODES).or(body.code);
    }
    body.cut |= text.len() > ErrorBody::KEPT_BYTES;
    body.text = shortened(text);
    body.message = body.message.map(shortened);
    body
}

fn shortened(mut text: String) -> String {
    let end = (0..=ErrorBody::KEPT_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text.shrink_to_fit();
    text
}

/// The first JSON value in a text that holds one (a log line's prefix is skipped).
fn first_json(text: &str) -> Option<Value> {
    let starts = text.char_indices().filter(|(_, c)| matches!(c, '{' | '[' | '"')).map(|(i, _)| i);
    starts.take(4).find_map(|start| {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        values.next()?.ok().filter(|v| v.is_object() || v.is_array() || v.is_string())
    })
}

/// Looks for the innermost error object: envelopes wrap envelopes, some as strings, some in arrays.
fn find(value: &Value, body: &mut ErrorBody, depth: u8) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Array(items) => items.iter().take(4).for_each(|item| find(item, body, depth - 1)),
        Value::String(inner) => {
            if let Some(value) = inner.contains('{').then(|| first_json(inner)).flatten() {
                find(&value, body, depth - 1);
            }
        }
        Value::Object(map) => {
            let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
            if let Some(code) = map.get("details").and_then(|d| d.get("error_code")).and_then(Value::as_str) {
                body.code = Some(code.to_owned());
            }
            if let Some(kind) = text("type").filter(|t| t != "error" && t != "None") {
                body.kind = Some(kind);
            }
            body.code = body.code.take().or_else(|| text("code"));
            body.message = text("message").or_else(|| body.message.take());
            for key in ["error", "message", "result", "body"] {
                if let Some(inner) = map.get(key) {
                    find(inner, body, depth - 1);
                }
            }
        }
        _ => {}
    }
}

/// A text as the wording rules compare it: lower case, one space between words, typographic
/// apostrophes and escapes made plain.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let c = match c {
            '\u{2018}' | '\u{2019}' => '\'',
            '\\' => match chars.next() {
                Some('n' | 't' | 'r') | None => ' ',
                Some('u') => {
                    let hex: String = chars.by_ref().take(4).collect();
                    match u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32) {
                        Some('\u{2018}' | '\u{2019}') => '\'',
                        Some(c) => c,
                        None => ' ',
                    }
                }
                Some(other) => other,
            },
            other => other,
        };
        if c.is_whitespace() || c.is_control() {
            if !out.ends_with(' ') && !out.is_empty() {
                out.push(' ');
            }
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_str(text: &str) -> ErrorBody {
        read(text.as_bytes(), false, false)
    }

    #[test]
    fn the_documented_envelope_is_read() {
        let body = read_str(
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down","details":{"error_code":"ramp_limit_exceeded"}},"request_id":"req_1"}"#,
        );
        assert_eq!(body.kind.as_deref(), Some("rate_limit_error"));
        assert_eq!(body.code.as_deref(), Some("ramp_limit_exceeded"));
        assert_eq!(body.message.as_deref(), Some("slow down"));
    }

    #[test]
    fn an_envelope_inside_a_sentence_or_a_string_is_found() {
        let body = read_str(
            r#"litellm: x - {"error":{"message":"E - {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}","type":"None"}}"#,
        );
        assert_eq!(body.kind.as_deref(), Some("overloaded_error"));
        assert_eq!(body.message.as_deref(), Some("Overloaded"));
    }

    #[test]
    fn text_that_does_not_parse_still_gives_its_type() {
        let body = read_str(
            r#"HTTP 400 {"type":"error","error":{"type":"invalid_request_error","message":"Your cre"#,
        );
        assert_eq!(body.kind.as_deref(), Some("invalid_request_error"));
        let repr = read_str("{'type': 'error', 'error': {'details': None, 'type': 'overloaded_error'}}");
        assert_eq!(repr.kind.as_deref(), Some("overloaded_error"));
    }

    #[test]
    fn long_bodies_are_cut_and_say_so() {
        let body = read(&vec![b'x'; ErrorBody::MAX_BYTES + 1], false, false);
        assert!(body.cut);
        assert_eq!(body.text.len(), ErrorBody::KEPT_BYTES);
    }

    #[test]
    fn wordings_compare_equal_however_they_were_pasted() {
        let wanted = "your organization's rate limit of 30,000 input tokens";
        for pasted in [
            "your \n     organization's rate  limit of 30,000 input tokens",
            "your organization\u{2019}s rate limit of 30,000 input tokens",
            r"your organization\'s rate limit\nof 30,000 input tokens",
            r"Your organization\u2019s rate limit of 30,000 input tokens",
        ] {
            assert_eq!(plain(pasted), wanted);
        }
    }

    #[test]
    fn deep_nesting_ends() {
        let deep = format!("{}{}", "{\"error\":".repeat(100), "}".repeat(100));
        assert_eq!(read_str(&deep).message, None);
    }
}
