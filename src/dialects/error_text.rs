//! Reads error bodies as they really arrive: JSON, JSON in a sentence, a Python repr, cut text.
//!
//! Providers put an error into an envelope, SDKs print the envelope into a sentence, and logs cut
//! the sentence. Structure is used where it parses; where it does not, only the closed set of
//! error types is looked for, and the rest is left to the wording rules. Nothing here fails.

use super::described;
use crate::observation::{ErrorBody, Found, Shape};
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
    // Of a whole stream only its error is one.
    let at = text.find("event: error").or_else(|| text.find("event:error")).unwrap_or(0);
    if let Some((value, prefix)) = first_json(&text[at..]) {
        find(&value, &mut body, MAX_DEPTH);
        if !is_framing(prefix) {
            body.found = Found::Inside;
        }
    }
    body.envelope |= at > 0 || in_stream;
    scan(&text, &mut body);
    if !body.envelope
        && let Some(refused) = tool_refusal_in(&text)
    {
        return ErrorBody { in_stream, cut: body.cut, ..refused };
    }
    body.cut |= text.len() > ErrorBody::KEPT_BYTES;
    body.text = shortened(text);
    body.message = body.message.map(shortened);
    body.kind = body.kind.map(|kind| cut_to(kind, MAX_WORD));
    body.code = body.code.map(|code| cut_to(code, MAX_WORD));
    body
}

/// Lines of an event stream before its data: they are no text around it.
fn is_framing(prefix: &str) -> bool {
    prefix.lines().map(str::trim).all(|line| {
        line.is_empty()
            || ["event:", "data:", "id:", "retry:", ":"].iter().any(|field| line.starts_with(field))
    })
}

/// Looks for types and codes as words, where structure gave none.
fn scan(text: &str, body: &mut ErrorBody) {
    if described::is_no_limit(body, None, true) {
        return;
    }
    let first = |set: &[&'static str]| {
        let found = set.iter().filter_map(|word| Some((stands_in(text, word)?, *word)));
        found.min().map(|(_, word)| word.to_owned())
    };
    if (body.kind.is_none() || !body.envelope)
        && let Some(kind) = first(&TYPES)
    {
        if body.kind.as_ref() != Some(&kind) {
            body.found = Found::Text;
        }
        body.message = body.message.take().or_else(|| cut_message(text));
        body.kind = Some(kind);
    }
    if body.code.as_deref().is_none_or(|code| !CODES.contains(&code))
        && let Some(code) = first(&CODES)
    {
        body.found = Found::Text;
        body.code = Some(code);
    }
}

/// The message of an error that was cut before its end.
fn cut_message(text: &str) -> Option<String> {
    const MEMBER: &str = "\"message\":\"";
    let from = text.find(MEMBER)? + MEMBER.len();
    let rest = text.get(from..)?;
    Some(rest[..rest.find('"').unwrap_or(rest.len())].to_owned())
}

/// A tool that the provider runs itself and that was refused: its part of an answer that is a success.
/// Other failures of such a tool are no limit's, and a client's own tools are never seen here: their
/// results stand in requests.
pub fn tool_refusal(block: &[u8]) -> Option<ErrorBody> {
    /// The part itself, or the event of a stream that begins it.
    #[derive(serde::Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        content: Option<&'a serde_json::value::RawValue>,
        #[serde(borrow)]
        content_block: Option<&'a serde_json::value::RawValue>,
    }
    #[derive(serde::Deserialize)]
    struct Refused {
        #[serde(rename = "type")]
        kind: String,
        error_code: String,
    }
    memchr::memmem::find(block, TOOL_ERROR)?;
    let outer: Part<'_> = serde_json::from_slice(block).ok()?;
    let part = match outer.content_block {
        Some(begun) => serde_json::from_str(begun.get()).ok()?,
        None => outer,
    };
    let refused: Refused = serde_json::from_str(part.content?.get()).ok()?;
    let limited = refused.kind.ends_with("_tool_result_error") && refused.error_code == "too_many_requests";
    limited.then(|| ErrorBody {
        text: format!("{}: {}", cut_to(refused.kind.clone(), MAX_WORD), refused.error_code),
        kind: Some(cut_to(refused.kind, MAX_WORD)),
        code: Some(refused.error_code),
        in_stream: true,
        envelope: true,
        shape: Shape::ServerTool,
        ..ErrorBody::default()
    })
}

/// What stands in each part that tells of a server tool's error.
pub const TOOL_ERROR: &[u8] = b"_tool_result_error\"";

/// The first refused tool of a whole answer: a message, or a stream.
fn tool_refusal_in(text: &str) -> Option<ErrorBody> {
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        content: Vec<&'a serde_json::value::RawValue>,
    }
    memchr::memmem::find(text.as_bytes(), TOOL_ERROR)?;
    if let Ok(Message { content }) = serde_json::from_str(text) {
        return content.iter().find_map(|part| tool_refusal(part.get().as_bytes()));
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.map(str::trim).find_map(|data| tool_refusal(data.as_bytes()))
}

/// Where a word stands in a text as such, and not as a part of another (`api_error_status`).
fn stands_in(text: &str, word: &str) -> Option<usize> {
    let part = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    memchr::memmem::find_iter(text.as_bytes(), word.as_bytes()).find(|at| {
        let at = *at;
        let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at)).copied();
        !part(before) && !part(text.as_bytes().get(at + word.len()).copied())
    })
}

/// Longest type or code that is kept.
const MAX_WORD: usize = 128;

pub(crate) fn shortened(text: String) -> String {
    cut_to(text, ErrorBody::KEPT_BYTES)
}

fn cut_to(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text.shrink_to_fit();
    text
}

/// Places in a text at which JSON is looked for.
const MAX_STARTS: usize = 8;

/// The first JSON value in a text that holds one (a log line's prefix is skipped, and of JSON that
/// was cut the part that is whole is read), and what stands before it.
fn first_json(text: &str) -> Option<(Value, &str)> {
    let quoted = text.trim_start().starts_with('"');
    let starts = text.char_indices().filter(|(at, c)| match c {
        '{' => true,
        '[' => text[at + 1..].trim_start().starts_with('{'),
        '"' => quoted,
        _ => false,
    });
    starts.take(MAX_STARTS).find_map(|(start, _)| {
        let rest = &text[start..];
        let strict = first_value(rest);
        let value = strict.or_else(|| first_value(&from_python(rest)?));
        value.filter(|v| !v.is_number() && !v.is_null()).map(|value| (value, &text[..start]))
    })
}

fn first_value(text: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok()
}

/// Most of a Python literal that is turned into JSON.
const MAX_LITERAL: usize = 16 * 1024;

/// JSON out of a Python literal, as SDKs print an error's body: `{'type': 'error', 'details': None}`.
fn from_python(text: &str) -> Option<String> {
    if !text.trim_start_matches(['{', '[', ' ', '\n']).starts_with('\'') {
        return None;
    }
    let mut out = String::with_capacity(text.len().min(MAX_LITERAL));
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if out.len() > MAX_LITERAL {
            return None;
        }
        match (quote, c) {
            (Some(_), '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some('x') => out.push_str("\\u00"),
                Some(other) => out.extend(['\\', other]),
                None => return None,
            },
            (Some(open), c) if c == open => {
                quote = None;
                out.push('"');
            }
            (Some(_), '"') => out.push_str("\\\""),
            (Some(_), c) if c.is_control() => out.push(' '),
            (None, '\'' | '"') => {
                quote = Some(c);
                out.push('"');
            }
            (None, 'N' | 'T' | 'F') => {
                while chars.peek().is_some_and(char::is_ascii_lowercase) {
                    chars.next();
                }
                out.push_str(match c {
                    'N' => "null",
                    'T' => "true",
                    _ => "false",
                });
            }
            (_, c) => out.push(c),
        }
    }
    Some(out)
}

/// Looks for the innermost error object: envelopes wrap envelopes, some as strings, some in arrays.
fn find(value: &Value, body: &mut ErrorBody, depth: u8) {
    if depth == 0 {
        return;
    }
    match value {
        Value::Array(items) => items.iter().take(4).for_each(|item| find(item, body, depth - 1)),
        Value::String(inner) if inner.contains('{') => {
            let Some((value, prefix)) = first_json(inner) else { return };
            let own = (prefix.trim().is_empty() || is_litellms(prefix)) && is_all(inner);
            // What says what it is may quote anything, and a text that is all JSON quotes nothing.
            if own || !described::is_no_limit(body, None, true) {
                let before = (body.kind.clone(), body.code.clone());
                find(&value, body, depth - 1);
                if !own && before != (body.kind.clone(), body.code.clone()) {
                    body.found = Found::Inside;
                }
            }
        }
        Value::Object(map) => object(map, body, depth),
        _ => {}
    }
}

/// True if nothing stands behind the JSON of a text but what LiteLLM puts there.
fn is_all(text: &str) -> bool {
    let end = text.split("Received Model Group=").next().unwrap_or(text);
    end.trim_end_matches(['.', ' ', '\n', '\'', '"']).ends_with(['}', ']'])
}

/// LiteLLM's own words before the answer that it hands on: `litellm.BadRequestError: AnthropicException - `.
pub fn is_litellms(prefix: &str) -> bool {
    let words = prefix.trim().trim_end_matches("b'").trim_end_matches("b\"").trim_end();
    let Some(classes) = words.strip_suffix("Exception -") else { return false };
    let class = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | ' ');
    classes.starts_with("litellm.") && classes.chars().all(class) && classes.split(' ').count() <= 4
}

fn object(map: &serde_json::Map<String, Value>, body: &mut ErrorBody, depth: u8) {
    let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    let kind = text("type").or_else(|| text("status")).or_else(|| text("__type"));
    body.envelope |= map.get("error").is_some_and(|e| !e.is_null() && *e != Value::Bool(false))
        || kind.as_deref().is_some_and(|k| k == "error" || k.ends_with("_error") || k.ends_with("Exception"));
    if let Some(code) = map.get("details").and_then(|d| d.get("error_code")).and_then(Value::as_str) {
        body.code = Some(code.to_owned());
    }
    if let Some(kind) = kind.filter(|t| t != "error" && t != "None") {
        body.kind = Some(kind);
    }
    let number = || map.get("code").and_then(Value::as_u64).map(|n| n.to_string());
    body.code = body.code.take().or_else(|| text("code")).or_else(number);
    // Where the one is no text, the other is: `{"detail":"…"}`, `{"error":"…"}`.
    let said = text("message").or_else(|| text("detail")).or_else(|| text("error"));
    body.message = said.or_else(|| body.message.take());
    if body.shape != Shape::JsonRpc
        && let Some(shape) = shape(map)
    {
        body.shape = shape;
    }
    for key in ["error", "message", "result", "body"] {
        if let Some(inner) = map.get(key) {
            find(inner, body, depth - 1);
            // Beside an error that says what it is stands what was asked, if anything.
            if inner.is_object() && described::is_no_limit(body, None, true) {
                return;
            }
        }
    }
}

/// Whose form an object has, if it is anybody's.
fn shape(map: &serde_json::Map<String, Value>) -> Option<Shape> {
    if map.contains_key("jsonrpc") {
        return Some(Shape::JsonRpc);
    }
    let error = match map.get("error") {
        Some(Value::Object(error)) => error,
        Some(Value::String(_)) => return Some(Shape::Framework),
        _ if map.get("detail").is_some_and(Value::is_string) => return Some(Shape::Framework),
        _ => return None,
    };
    let text = |key: &str| error.get(key).and_then(Value::as_str);
    let known = |key: &str| text(key).is_some_and(|word| TYPES.contains(&word));
    if known("type") || known("code") {
        return Some(Shape::Anthropic);
    }
    let status = text("status").is_some_and(|s| s.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
    if status && error.get("code").is_some_and(Value::is_u64) {
        return Some(Shape::Google);
    }
    let named = |key: &str| error.get(key).is_some_and(|v| v.is_string() || v.is_u64());
    (error.contains_key("message") && (named("type") || named("code"))).then_some(Shape::Model)
}

/// A text as the wording rules compare it: lower case, one space between words, typographic
/// apostrophes and escapes made plain.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    plain_into(text, &mut out);
    out
}

/// [`plain`] text, put behind what stands in `out`. Runs of what stays as it is are copied whole: this
/// is most of what a verdict on a body costs.
pub fn plain_into(text: &str, out: &mut String) {
    let mut rest = text;
    loop {
        let run = rest.bytes().take_while(|byte| is_plain(*byte)).count();
        // Only ASCII is counted, so the cut is between characters.
        out.push_str(&rest[..run]);
        rest = &rest[run..];
        let mut chars = rest.chars();
        let Some(c) = chars.next() else { return };
        let c = if c == '\\' { escaped(&mut chars) } else { c };
        rest = chars.as_str();
        match c {
            '\u{2018}' | '\u{2019}' => out.push('\''),
            'A'..='Z' => out.push(c.to_ascii_lowercase()),
            c if c.is_whitespace() || c.is_control() => {
                if !out.ends_with(' ') && !out.is_empty() {
                    out.push(' ');
                }
            }
            c if c.is_ascii() => out.push(c),
            c => out.extend(c.to_lowercase()),
        }
    }
}

/// ASCII that stays as it is: no capitals, blanks, escapes or control characters.
const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'!'..=b'@' | b'[' | b']'..=b'~')
}

/// The character that an escape stands for.
fn escaped(chars: &mut std::str::Chars<'_>) -> char {
    match chars.next() {
        Some('n' | 't' | 'r') | None => ' ',
        Some('u') => {
            let hex: String = chars.by_ref().take(4).collect();
            u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32).unwrap_or(' ')
        }
        Some(other) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_str(text: &str) -> ErrorBody {
        read(text.as_bytes(), false, false)
    }

    #[test]
    fn a_part_of_a_word_is_no_type() {
        let kind = |text: &str| read_str(text).kind;
        assert_eq!(kind("x api_error_status: 429"), None);
        assert_eq!(kind("x my_api_error"), None);
        assert_eq!(kind("type=api_error.").as_deref(), Some("api_error"));
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
    fn a_python_literal_is_read_like_json() {
        let body = read_str(
            r#"Error code: 429 - {'error': {'code': '1308', 'details': None, 'message': "it's used up", 'fatal': True}, 'note': 'say "x"\'s'}"#,
        );
        assert_eq!(body.code.as_deref(), Some("1308"));
        assert_eq!(body.message.as_deref(), Some("it's used up"));
        assert!(body.envelope);
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
