//! How each provider or gateway speaks of limits: headers, status and body in, values out.
//!
//! A dialect is pure, never fails and never blocks: what it cannot read it leaves absent and
//! counts as a complaint. Adding one is one file here and one arm in [`read_head`].

pub mod anthropic;
pub mod error_text;

use crate::limit::Timestamp;
use crate::observation::Limits;
use http::{HeaderMap, HeaderValue};

/// Reads what a response head says about limits. `now` is used only where the response carries no
/// `Date` of its own.
pub fn read_head(status: u16, headers: &HeaderMap, now: Timestamp) -> Limits {
    anthropic::read_head(status, headers, now)
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
