//! How each provider or gateway speaks of limits: headers, status and body in, values out.
//!
//! A dialect is pure, never fails and never blocks: what it cannot read it leaves absent and
//! counts as a complaint. Adding one is one file here and one arm in [`read_head`], which goes over
//! the headers once: it runs while an answer waits.

pub mod anthropic;
pub mod bedrock;
pub mod described;
pub mod error_text;
mod marks;
mod openai;
pub mod places;
mod shown;
pub mod stated;
mod tenant;
pub mod vertex;

use crate::limit::{Reading, Timestamp};
use crate::observation::Limits;
use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// Longest wait believed (a plan's week, and a day more).
const MAX_RETRY_AFTER: u64 = 8 * 24 * 3600;

/// [`read_head`], which keeps the headers that may be shown of successes too: for recording.
pub fn read_head_to_record(status: u16, headers: &HeaderMap, now: Timestamp) -> Limits {
    Limits { shown: shown::of(headers), ..read_head(status, headers, now) }
}

/// Reads what a response head says about limits. Every header is optional; `now` is used only where
/// the response carries no `Date` of its own.
pub fn read_head(status: u16, headers: &HeaderMap, now: Timestamp) -> Limits {
    let mut anthropic = anthropic::Seen::default();
    let mut openai = openai::Seen::default();
    let mut signs = marks::Signs::default();
    let mut tenant = tenant::Seen::default();
    let mut usage = None;
    for (name, value) in headers {
        let name = name.as_str();
        // Behind its own prefix LiteLLM hands on what the provider wrote, as it was.
        let passed_on = name.strip_prefix("llm_provider-anthropic-").inspect(|_| signs.header(name, value));
        if let Some(rest) = passed_on.or_else(|| name.strip_prefix("anthropic-")) {
            match printable(value) {
                Some(value) => anthropic.header(rest, value),
                None => anthropic.unreadable(rest),
            }
            continue;
        }
        if let Some(rest) = name.strip_prefix("x-amzn-bedrock-") {
            bedrock::count(rest, value, &mut usage);
        }
        signs.header(name, value);
        if let Some(rest) = name.strip_prefix("x-ratelimit-") {
            openai.header(rest, value);
        }
        tenant.header(name, value);
    }
    let mut complaints = 0;
    let server_time = http_date(headers);
    let mut family = anthropic.finish(&mut complaints);
    if family.readings.is_empty() {
        // LiteLLM writes the tenant's or the provider's numbers under the same names: nobody's.
        family.readings =
            openai.finish(server_time.unwrap_or(now), !signs.through_litellm(), &mut complaints, &mut signs);
    }
    complaints += tidy(&mut family.readings, server_time, now);
    let mut tenant = tenant.finish(now);
    complaints += tidy(&mut tenant, None, now);
    let request_id = signs.request_id(headers, &mut complaints);
    Limits {
        account: family.account,
        readings: family.readings,
        tenant,
        partial: false,
        retry_after: if status >= 400 { retry_after(headers, now, &mut complaints) } else { None },
        request_id,
        unified: family.unified,
        trios: family.trios,
        overage_in_use: family.overage_in_use,
        plan_rejected: family.plan_rejected,
        claim: family.claim,
        marks: signs.marks,
        exception: signs.exception,
        policy: signs.policy,
        shown: if status >= 400 { shown::of(headers) } else { Vec::new() },
        server_time,
        usage,
        complaints,
    }
}

/// Puts resets from the server's clock, if they are on it, to ours, so that skew never reads as time left; takes out what is
/// of no limit, and resets at which no window ends. How many of those there were.
fn tidy(readings: &mut Vec<Reading>, server: Option<Timestamp>, now: Timestamp) -> u32 {
    readings.retain(|reading| !reading.is_of_none());
    let mut absurd = 0;
    for reading in readings {
        let told = reading.resets.map(|reset| server.map_or(reset, |server| shift(reset, server, now)));
        reading.resets = told.filter(|reset| reading.window.may_end_at(*reset, now));
        absurd += u32::from(told.is_some() && reading.resets.is_none());
    }
    absurd
}

/// A moment on the server's clock, on ours.
fn shift(moment: Timestamp, server: Timestamp, now: Timestamp) -> Timestamp {
    Timestamp::from_micros(moment.micros().saturating_add(now.micros().saturating_sub(server.micros())))
}

/// `retry-after-ms`, else `retry-after` in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp, complaints: &mut u32) -> Option<Duration> {
    if let Some(millis) = headers.get("retry-after-ms").and_then(|v| v.to_str().ok()?.trim().parse().ok()) {
        return Some(Duration::from_millis(millis).min(Duration::from_secs(MAX_RETRY_AFTER)));
    }
    let value = text(headers, "retry-after", complaints)?;
    let wait = match value.parse::<f64>() {
        Ok(secs) if secs.is_finite() && secs >= 0.0 => {
            Some(Duration::from_secs_f64(secs.min(MAX_RETRY_AFTER as f64)))
        }
        Ok(_) => None,
        Err(_) => jiff::fmt::rfc2822::DateTimeParser::new()
            .parse_timestamp(value)
            .ok()
            .map(|at| Timestamp::from_micros(at.as_microsecond()).since(now)),
    };
    *complaints += u32::from(wait.is_none());
    wait
}

/// The last value of a header, trimmed, if it is printable text.
///
/// Repeated headers with different values are a contradiction: the last wins (as in most clients)
/// and `complaints` goes up.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str, complaints: &mut u32) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let mut last = first;
    for value in values {
        if value != last {
            *complaints += 1;
        }
        last = value;
    }
    let value = printable(last);
    *complaints += u32::from(value.is_none());
    value
}

/// A header value as trimmed text, if it is printable and not absurdly long.
pub(crate) fn printable(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().filter(|value| value.len() <= MAX_VALUE).map(str::trim)
}

/// Longest header value a dialect reads; longer ones are complaints.
const MAX_VALUE: usize = 512;

/// HTTP's `Date` header.
pub(crate) fn http_date(headers: &HeaderMap) -> Option<Timestamp> {
    let value = headers.get(http::header::DATE)?.to_str().ok()?;
    let zoned = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Timestamp::from_micros(zoned.as_microsecond()))
}
