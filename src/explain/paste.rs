//! Reads what people paste: `curl -i` output, an SDK's exception, a log line, JSON.
//!
//! A paste is read for what it shows and nothing is made up: the status where a text names it, limit
//! headers wherever they stand, the host where a URL of the call is there. Everything else is left to
//! the wording rules.

use super::{OneOrMany, RequestHints, Response};
use crate::dialects::places;
use crate::route::Surface;
use serde_json::Value;
use std::collections::BTreeMap;

/// Reads one paste.
pub fn read(text: &str) -> Response {
    let text = text.trim();
    if let Some(response) = as_contract(text) {
        return response;
    }
    let mut response = as_http(text).unwrap_or_else(|| Response {
        status: status_in(text),
        headers: headers_in(text),
        body: Some(Value::String(text.to_owned())),
        ..Response::default()
    });
    response.request = Some(hints_in(text));
    response
}

/// JSON in the shape that `--json` takes, and not an error body that happens to have such members.
fn as_contract(text: &str) -> Option<Response> {
    let value: Value = serde_json::from_str(text).ok()?;
    let has = |key: &str| value.get(key).is_some();
    let ours = has("headers") || (has("status") && (has("body") || has("message"))) || has("request");
    if !ours || has("error") {
        return None;
    }
    serde_json::from_value(value).ok()
}

/// `curl -i` and `curl -v` output: the last response head counts (others are redirects and
/// `100 Continue`), and what stands behind it is the body.
fn as_http(text: &str) -> Option<Response> {
    let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix("< ").unwrap_or(line)).collect();
    let start = lines.iter().rposition(|line| status_line(line).is_some())?;
    let status = status_line(lines[start]);
    let mut headers: BTreeMap<String, OneOrMany> = BTreeMap::new();
    let mut at = start + 1;
    while at < lines.len() {
        let line = lines[at].trim_end();
        at += 1;
        match line.split_once(':') {
            _ if line.is_empty() || line == "<" => break,
            Some((name, value)) if is_name(name) => add(&mut headers, name, value.trim()),
            // No blank line between head and body: some tools drop it.
            _ => {
                at -= 1;
                break;
            }
        }
    }
    let noise = |line: &&&str| !line.starts_with("* ") && !line.starts_with("> ");
    let body: Vec<&str> = lines[at..].iter().filter(noise).copied().collect();
    Some(Response { status, headers, body: Some(Value::String(body.join("\n"))), ..Response::default() })
}

fn status_line(line: &str) -> Option<u16> {
    let rest = line.trim().strip_prefix("HTTP/")?;
    let (version, rest) = rest.split_once(' ')?;
    let plausible = matches!(version, "1.0" | "1.1" | "2" | "2.0" | "3");
    plausible.then(|| rest.get(..3)?.parse().ok()).flatten()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn add(headers: &mut BTreeMap<String, OneOrMany>, name: &str, value: &str) {
    let name = name.to_ascii_lowercase();
    match headers.get_mut(&name) {
        None => {
            headers.insert(name, OneOrMany::One(value.to_owned()));
        }
        Some(OneOrMany::Many(values)) => values.push(value.to_owned()),
        Some(OneOrMany::One(first)) => {
            let both = vec![std::mem::take(first), value.to_owned()];
            headers.insert(name, OneOrMany::Many(both));
        }
    }
}

/// What stands before a status in the texts that SDKs, proxies and people write.
const BEFORE_STATUS: [&str; 17] = [
    "error code: ",
    "status code: ",
    "status code ",
    "status_code=",
    "status_code: ",
    "\"status_code\":",
    "\"status\":",
    "statuscode: ",
    "status=",
    "status: ",
    "api error: ",
    "api error (",
    "http/1.1 ",
    "http/2 ",
    "http ",
    "ratelimiterror: ",
    "error: ",
];

/// The HTTP status that a text names, if it names one.
pub fn status_in(text: &str) -> Option<u16> {
    let lower = text[..text.floor_char_boundary(4096)].to_ascii_lowercase();
    let found = BEFORE_STATUS.iter().find_map(|before| {
        let at = lower.find(before)? + before.len();
        status_at(lower[at..].trim_start())
    });
    found.or_else(|| status_at(lower.trim_start_matches(['(', '[', '"', '\'', ' '])))
}

/// A status at the beginning of a text: three digits, and then no digit.
fn status_at(text: &str) -> Option<u16> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let status: u16 = text.get(..3).filter(|_| digits == 3)?.parse().ok()?;
    (400..600).contains(&status).then_some(status)
}

/// Beginnings of header names that say something of limits.
const HEADERS: [&str; 14] = [
    "anthropic-ratelimit-",
    "anthropic-fast-",
    "anthropic-priority-",
    "anthropic-organization-id",
    "retry-after",
    "x-ratelimit-",
    "x-ai-ratelimit-",
    "x-should-retry",
    "x-amzn-errortype",
    "x-litellm-",
    "x-kong-",
    "llm_provider-",
    "rate_limit_type",
    "policy-id",
];

/// Limit headers wherever they stand in a text: lines, a dict, a map, tuples.
pub(super) fn headers_in(text: &str) -> BTreeMap<String, OneOrMany> {
    let mut found = BTreeMap::new();
    let lower = text.to_ascii_lowercase();
    if lower.len() != text.len() {
        return found;
    }
    for beginning in HEADERS {
        let mut from = 0;
        while let Some(at) = lower[from..].find(beginning).map(|at| at + from) {
            from = at + beginning.len();
            if let Some((name, value)) = header_at(&lower[at..], &text[at..]) {
                add(&mut found, &name, &value);
            }
        }
    }
    found
}

fn header_at(lower: &str, text: &str) -> Option<(String, String)> {
    let named = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let end = lower.find(named)?;
    let separators = |c: char| matches!(c, '\'' | '"' | ':' | '=' | '>' | ',' | ' ' | '\\' | '[');
    let rest = &text[end..];
    let value = rest.trim_start_matches(separators);
    // Without a separator the name is only spoken of.
    if !rest[..rest.len() - value.len()].contains([':', '=', ',']) {
        return None;
    }
    // Times have colons and blanks are between words, so a value ends at a quote, comma or line.
    let stop = value.find(['\'', '"', ',', '\n', ')', '}', ']', ';']).unwrap_or(value.len());
    let value = value[..stop].trim();
    (!value.is_empty() && value.len() < 80).then(|| (lower[..end].to_owned(), value.to_owned()))
}

/// What a text tells of the call: the host in a URL that is no page of documentation, and Claude Code
/// by the words of its own messages.
fn hints_in(text: &str) -> RequestHints {
    let url = text.match_indices("https://").find_map(|(at, _)| {
        let rest = &text[at + "https://".len()..];
        let end = rest.find([' ', '"', '\'', '\n', ')', ',', '}']).unwrap_or(rest.len());
        let (host, path) = rest[..end].split_once('/').unwrap_or((&rest[..end], ""));
        let host = host.to_ascii_lowercase();
        let api = host.starts_with("api.")
            || host.contains("bedrock")
            || host.contains("aiplatform")
            || path.starts_with("v1/");
        let known = places::surface_of_host(&host).is_some_and(|s| s != Surface::Unknown);
        (api && known).then(|| (host, format!("/{path}")))
    });
    let claude_code = ["API Error: Request rejected", "API Error (", "You've hit your", "claude-cli/"];
    RequestHints {
        user_agent: claude_code.iter().any(|words| text.contains(words)).then(|| "Claude Code".to_owned()),
        host: url.as_ref().map(|(host, _)| host.clone()),
        path: url.map(|(_, path)| path),
        auth_kind: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::explain;
    use crate::owner::Owners;

    fn verdict(text: &str) -> (&'static str, Option<String>) {
        let answer = explain(&read(text), &Owners::default(), None);
        (answer.verdict, answer.limiter)
    }

    const CURL: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/2 429 \r\ndate: Mon, 02 Jun 2025 15:14:45 GMT\r\nanthropic-ratelimit-input-tokens-limit: 200000\r\nanthropic-ratelimit-input-tokens-remaining: 0\r\nanthropic-ratelimit-input-tokens-reset: 2025-06-02T15:15:48Z\r\nretry-after: 16\r\n\r\n{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}";

    #[test]
    fn curl_output_is_read_with_its_headers() {
        let input = Some("input_tokens".to_owned());
        assert_eq!(verdict(CURL), ("anthropic_workspace", input.clone()));
        let verbose: String = CURL.lines().map(|line| format!("< {line}\n")).collect();
        assert_eq!(verdict(&format!("> POST /v1/messages\n{verbose}")), ("anthropic_workspace", input));
    }

    #[test]
    fn an_sdk_exception_with_its_headers_is_read() {
        let text = "anthropic.RateLimitError: Error code: 429 - {'type': 'error', 'error': {'type': 'rate_limit_error', 'message': 'slow'}}\nHeaders({'retry-after': '16', 'anthropic-ratelimit-requests-limit': '50', 'anthropic-ratelimit-requests-remaining': '0', 'anthropic-ratelimit-requests-reset': '2026-11-24T02:36:37Z'})";
        assert_eq!(verdict(text), ("anthropic_workspace", Some("requests".to_owned())));
    }

    #[test]
    fn log_lines_and_screens_are_read() {
        assert_eq!(verdict("You've hit your weekly limit · resets Jun 23, 2pm").0, "claude_plan");
        assert_eq!(verdict("2026-11-24 ERROR API Error: 529 {\"type\":\"error\"}").0, "provider_overload");
        assert_eq!(verdict("hello").0, "unknown");
        assert_eq!(verdict("").0, "unknown");
    }

    #[test]
    fn the_contracts_json_is_read_as_such_and_an_error_body_as_a_body() {
        let ours = r#"{"status":529,"body":""}"#;
        assert_eq!(verdict(ours).0, "provider_overload");
        let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        assert_eq!(verdict(body).0, "provider_overload");
    }

    #[test]
    fn a_status_is_read_only_where_a_text_names_one() {
        for (text, wanted) in [
            ("Error code: 429 - x", Some(429)),
            ("(429 Too many tokens)", Some(429)),
            ("API Error: 529 x", Some(529)),
            ("HTTP 400 Bad Request", Some(400)),
            ("limit of 500 requests", None),
            ("status: 4290", None),
            ("429000 tokens", None),
        ] {
            assert_eq!(status_in(text), wanted, "{text}");
        }
    }
}
