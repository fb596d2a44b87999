//! What Claude Code tells of limits outside of its requests: the JSON on its status line's standard input, and the
//! events of `--output-format stream-json` (the Agent SDK's messages).
//!
//! Both speak of plan windows by names of their own (`five_hour`, `used_percentage`, `resetsAt`). They are put back
//! into the headers from which Claude Code made them, so that one dialect reads a window wherever it was seen.
//! Shapes: Claude Code 2.1 (docs: status line; Agent SDK, `rate_limit_event`, `api_retry`). Texts of people are in
//! neither place looked at.

use crate::limit::{Amount, Timestamp};
use crate::mapping::{Nothing, broken, moment};
use crate::observation::{Client, Usage};
use crate::route::Surface;
use crate::seen::Seen;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;

const PREFIX: &str = "anthropic-ratelimit-unified-";

/// A window as the status line shows it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct WindowLine {
    /// Used part, in percent; may be more than 100.
    #[serde(default)]
    pub used_percentage: Option<f64>,
    /// When it begins anew: Unix seconds, or RFC 3339 (both are seen).
    #[serde(default, deserialize_with = "time")]
    pub resets_at: Option<f64>,
}

/// A time in whichever form; what is none spoils only itself.
fn time<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Option<f64>, D::Error> {
    let moment = match serde_json::Value::deserialize(json)? {
        serde_json::Value::String(text) => moment(&text),
        serde_json::Value::Number(number) => moment(&number.to_string()),
        _ => None,
    };
    Ok(moment.map(Timestamp::secs_f64))
}

/// What is wanted of the status line's JSON.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct StatusLine {
    /// Session.
    pub session_id: Option<String>,
    /// The model.
    pub model: Option<StatusModel>,
    /// Windows, by their names (`five_hour`, `seven_day`, `spend_limit`, …).
    pub rate_limits: BTreeMap<String, Option<WindowLine>>,
}

/// The model, as the status line names it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct StatusModel {
    /// Its id.
    #[serde(default)]
    pub id: Option<String>,
}

/// The header's word for a window that Claude Code names in full.
fn abbreviated(name: &str) -> Option<String> {
    match name {
        "five_hour" => Some("5h".to_owned()),
        "seven_day" => Some("7d".to_owned()),
        "overage" => Some("overage".to_owned()),
        // An apps gateway's cap is somebody else's window: it has no header of a plan.
        other => {
            other.strip_prefix("seven_day_").filter(|rest| rest.len() < 24).map(|rest| format!("7d_{rest}"))
        }
    }
}

fn set(headers: &mut HeaderMap, window: &str, field: &str, value: &str) {
    let name =
        if window.is_empty() { format!("{PREFIX}{field}") } else { format!("{PREFIX}{window}-{field}") };
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

impl StatusLine {
    /// What it tells of limits; nothing where it shows no window (an API key has none).
    pub fn seen(&self, now: Timestamp) -> Option<Seen> {
        let mut headers = HeaderMap::new();
        for (name, window) in &self.rate_limits {
            let Some((window, at)) = window.as_ref().zip(abbreviated(name)) else { continue };
            if let Some(used) = window.used_percentage.filter(|used| used.is_finite() && *used >= 0.0) {
                set(&mut headers, &at, "utilization", &format!("{}", used / 100.0));
                set(&mut headers, &at, "status", if used >= 100.0 { "rejected" } else { "allowed" });
            }
            if let Some(resets) = window.resets_at.filter(|at| (0.0..4e9).contains(at)) {
                set(&mut headers, &at, "reset", &format!("{}", resets.round()));
            }
        }
        (!headers.is_empty()).then(|| Seen { state: true, ended: Some(now), ..of_plan(headers) })
    }
}

fn of_plan(headers: HeaderMap) -> Seen {
    Seen {
        surface: Some(Surface::ClaudeCodePlan),
        client: Some(Client::ClaudeCode),
        status: Some(200),
        headers,
        ..Seen::default()
    }
}

/// A message of the stream.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Message {
    RateLimitEvent {
        rate_limit_info: RateLimit,
        #[serde(default)]
        session_id: Option<String>,
    },
    System(System),
    Assistant(Assistant),
    Result(Outcome),
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RateLimit {
    status: Option<String>,
    #[serde(deserialize_with = "time")]
    resets_at: Option<f64>,
    rate_limit_type: Option<String>,
    utilization: Option<f64>,
    overage_status: Option<String>,
    is_using_overage: Option<bool>,
    /// Every window (2.1.330); older ones show only the one that `rate_limit_type` names.
    unified_windows: BTreeMap<String, Option<EventWindow>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EventWindow {
    utilization: Option<f64>,
    #[serde(deserialize_with = "time")]
    resets_at: Option<f64>,
    status: Option<String>,
}

impl EventWindow {
    fn put(&self, window: &str, headers: &mut HeaderMap) {
        if let Some(used) = self.utilization.filter(|used| used.is_finite() && *used >= 0.0) {
            set(headers, window, "utilization", &format!("{used}"));
        }
        if let Some(resets) = self.resets_at.filter(|at| (0.0..4e9).contains(at)) {
            set(headers, window, "reset", &format!("{}", resets.round()));
        }
        if let Some(status) = &self.status {
            set(headers, window, "status", status);
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct System {
    subtype: Option<String>,
    error_status: Option<u16>,
    error: Option<String>,
    session_id: Option<String>,
    uuid: Option<String>,
}

#[derive(Deserialize)]
struct Assistant {
    message: Answer,
    #[serde(default)]
    session_id: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Tokens>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tokens {
    input_tokens: u64,
    output_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outcome {
    api_error_status: Option<u16>,
    api_error_type: Option<String>,
    is_error: bool,
    result: Option<String>,
    session_id: Option<String>,
    uuid: Option<String>,
}

/// Reads a message of the stream.
///
/// # Errors
/// If it cannot be read, or tells of no call and no limit.
pub fn read(line: &[u8], now: Timestamp) -> Result<Seen, Nothing> {
    let message: Message = serde_json::from_slice(line).map_err(|error| broken(&error))?;
    match message {
        Message::RateLimitEvent { rate_limit_info, session_id } => {
            let seen = of_plan(rate_limit_info.headers());
            Ok(Seen { state: true, session: session_id, ended: Some(now), ..seen })
        }
        // Each attempt that failed: the only place where it can be seen.
        Message::System(System { subtype, error_status, error, session_id, uuid }) => {
            if subtype.as_deref() != Some("api_retry") {
                return Err(Nothing::NoField);
            }
            Ok(failure(error_status, error, None, session_id, uuid, now))
        }
        // What Claude Code says of an error it writes as a message of a model of that name.
        Message::Assistant(Assistant { message, .. }) if message.model.as_deref() == Some("<synthetic>") => {
            Err(Nothing::NoField)
        }
        Message::Assistant(Assistant { message, session_id }) => Ok(success(message, session_id, now)),
        Message::Result(Outcome {
            api_error_status,
            api_error_type,
            is_error: true,
            result,
            session_id,
            uuid,
        }) if api_error_status.is_some() => {
            Ok(failure(api_error_status, api_error_type, result, session_id, uuid, now))
        }
        Message::Result(_) | Message::Other => Err(Nothing::NoField),
    }
}

impl RateLimit {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(window) = self.rate_limit_type.as_deref().and_then(abbreviated) {
            let Self { status, resets_at, utilization, .. } = self;
            EventWindow { utilization: *utilization, resets_at: *resets_at, status: status.clone() }
                .put(&window, &mut headers);
        }
        for (name, window) in &self.unified_windows {
            if let Some((window, name)) = window.as_ref().zip(abbreviated(name)) {
                window.put(&name, &mut headers);
            }
        }
        if let Some(status) = &self.status {
            set(&mut headers, "", "status", status);
        }
        if let Some(status) = &self.overage_status {
            set(&mut headers, "overage", "status", status);
        }
        if self.is_using_overage == Some(true) {
            set(&mut headers, "", "overage-in-use", "true");
        }
        headers
    }
}

fn failure(
    status: Option<u16>,
    error: Option<String>,
    message: Option<String>,
    session: Option<String>,
    id: Option<String>,
    now: Timestamp,
) -> Seen {
    let body = serde_json::json!({"type": "error", "error": {"type": error, "message": message}});
    let told = error.is_some() || message.is_some();
    Seen {
        client: Some(Client::ClaudeCode),
        status: status.filter(|status| (100..1_000).contains(status)),
        body: told.then(|| body.to_string()),
        session,
        own: id,
        ended: Some(now),
        ..Seen::default()
    }
}

/// An answer comes as several messages, one for each block of its content; its id makes them one call.
fn success(answer: Answer, session: Option<String>, now: Timestamp) -> Seen {
    let usage = answer.usage.map(|tokens| Usage {
        input: Amount::new(tokens.input_tokens),
        cache_write: Amount::new(tokens.cache_creation_input_tokens),
        cache_read: Amount::new(tokens.cache_read_input_tokens),
        output: Amount::new(tokens.output_tokens),
    });
    Seen {
        client: Some(Client::ClaudeCode),
        status: Some(200),
        model: answer.model,
        usage,
        session,
        own: answer.id,
        ended: Some(now),
        ..Seen::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::read_head;
    use crate::limit::{Level, Limiter};

    const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

    #[test]
    fn a_status_lines_windows_are_those_of_the_headers() {
        let json = r#"{"session_id":"s","model":{"id":"claude-opus-5-5","display_name":"Opus"},"cwd":"/home/me",
            "rate_limits":{"five_hour":{"used_percentage":91.5,"resets_at":1795003600},"seven_day":{"used_percentage":12,
            "resets_at":"2026-11-23T02:13:20Z"},"spend_limit":{"used_percentage":130},"seven_day_opus":null}}"#;
        let line: StatusLine = serde_json::from_str(json).unwrap();
        let seen = line.seen(NOW).unwrap();
        assert!(seen.state && seen.client == Some(Client::ClaudeCode));
        let limits = read_head(200, &seen.headers, NOW);
        let used = |name: Limiter| limits.readings.iter().find(|r| r.limiter == name).unwrap();
        assert_eq!(used(Limiter::FIVE_HOUR).level, Some(Level::Used(Amount::new(915_000))));
        assert_eq!(used(Limiter::FIVE_HOUR).resets, Some(Timestamp::from_secs(1_795_003_600)));
        assert_eq!(used(Limiter::SEVEN_DAY).level, Some(Level::Used(Amount::new(120_000))));
        assert_eq!(limits.readings.len(), 2);
    }

    #[test]
    fn without_a_plan_a_status_line_says_nothing_of_limits() {
        for json in ["{}", r#"{"rate_limits":{}}"#, r#"{"rate_limits":{"five_hour":{"used_percentage":-3}}}"#]
        {
            let line: StatusLine = serde_json::from_str(json).unwrap();
            assert!(line.seen(NOW).is_none(), "{json}");
        }
    }

    #[test]
    fn each_event_of_the_stream_tells_what_it_is() {
        let event = br#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795003600,
            "rateLimitType":"five_hour","utilization":1.0,"overageStatus":"rejected","isUsingOverage":false}}"#;
        let seen = read(event, NOW).unwrap();
        let limits = read_head(200, &seen.headers, NOW);
        assert!(seen.state && limits.plan_rejected && limits.readings.iter().any(|r| r.is_exhausted()));
        let retry =
            br#"{"type":"system","subtype":"api_retry","attempt":2,"max_retries":10,"retry_delay_ms":500,
            "error_status":429,"error":"rate_limit","session_id":"s","uuid":"u"}"#;
        let seen = read(retry, NOW).unwrap();
        assert_eq!((seen.status, seen.state, seen.session.as_deref()), (Some(429), false, Some("s")));
        let answer = br#"{"type":"assistant","message":{"id":"msg_1","model":"claude-opus-5-5","content":[{"type":"text",
            "text":"secret"}],"usage":{"input_tokens":12,"output_tokens":4,"cache_read_input_tokens":5}}}"#;
        let seen = read(answer, NOW).unwrap();
        assert_eq!(seen.usage.unwrap().cache_read, Amount::new(5));
        assert!(!format!("{seen:?}").contains("secret"));
        assert_eq!(read(br#"{"type":"user"}"#, NOW).unwrap_err(), Nothing::NoField);
        assert!(matches!(read(b"not json", NOW), Err(Nothing::Broken(_))));
        let quoting =
            read(br#"{"type":"assistant","message":"secret words of an answer"}"#, NOW).unwrap_err();
        assert!(!format!("{quoting:?}").contains("secret"), "{quoting:?}");
    }
}
