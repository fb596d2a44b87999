//! The OpenAI family of limit headers, which Azure and many others write too:
//! `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.
//!
//! Resets are durations (`6m0s`, `120ms`; Azure: whole seconds), counted from the response. Azure has
//! sent −1 for "not known", and some tools write thousands commas. The limit of requests may be that
//! of a shorter window than a minute, so no window is claimed for it.

use super::marks::Signs;
use super::printable;
use crate::limit::{Amount, Level, Limiter, Reading, Refill, Timestamp, Window};
use crate::observation::Mark;
use http::HeaderValue;
use std::time::Duration;

/// The limiters of the family, by the last part of the header's name.
const LIMITERS: [(&str, Limiter); 2] = [("requests", Limiter::REQUESTS), ("tokens", Limiter::TOKENS)];

#[derive(Default)]
struct Fields {
    limit: Option<Amount>,
    remaining: Option<Amount>,
    reset: Option<Duration>,
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct Seen {
    fields: [Fields; LIMITERS.len()],
    any: bool,
    complaints: u32,
}

impl Seen {
    /// Takes in a header; `rest` is its name behind `x-ratelimit-`.
    pub(super) fn header(&mut self, rest: &str, value: &HeaderValue) {
        let Some((field, limiter)) = rest.split_once('-') else { return };
        let Some(at) = LIMITERS.iter().position(|(name, _)| *name == limiter) else { return };
        let Some(value) = printable(value) else {
            self.complaints += 1;
            return;
        };
        self.any = true;
        let fields = &mut self.fields[at];
        match field {
            "limit" => fields.limit = amount(value),
            "remaining" => fields.remaining = amount(value),
            "reset" => {
                fields.reset = duration(value);
                self.complaints += u32::from(fields.reset.is_none());
            }
            _ => {}
        }
    }

    /// The readings, if the numbers are `trusted` to be the answering provider's own. `now` is the
    /// server's: resets are told from there.
    pub(super) fn finish(
        self,
        now: Timestamp,
        trusted: bool,
        complaints: &mut u32,
        signs: &mut Signs,
    ) -> Vec<Reading> {
        *complaints += self.complaints;
        if !self.any || !trusted {
            return Vec::new();
        }
        signs.marks.set(Mark::OpenAiLimits);
        let read = |(fields, (_, limiter)): (Fields, (&str, Limiter))| {
            let (limit, remaining) = (fields.limit?, fields.remaining?);
            let remaining = remaining.min(limit);
            // Tokens count by the minute. How long the window of requests is, nobody says: such a
            // reading holds until its reset, and without one it says nothing for long enough.
            let minute = limiter == Limiter::TOKENS;
            if !minute && fields.reset.is_none() {
                return None;
            }
            Some(Reading {
                window: if minute { Window::Minute } else { Window::Unknown },
                limiter,
                refill: if minute { Refill::Continuous } else { Refill::AtReset },
                level: Some(Level::Counted { limit, remaining }),
                resets: fields.reset.map(|left| now.plus(left)),
                standing: None,
                rounding: Amount::new(1),
            })
        };
        self.fields.into_iter().zip(LIMITERS).filter_map(read).collect()
    }
}

/// A number; absent where it is negative (Azure's "not known").
fn amount(value: &str) -> Option<Amount> {
    value.replace(',', "").parse::<u64>().ok().map(Amount::new)
}

/// A Go duration (`1h2m3.5s`, `120ms`), or whole seconds.
fn duration(value: &str) -> Option<Duration> {
    let of = |secs: f64| Duration::try_from_secs_f64(secs).ok();
    if let Ok(secs) = value.parse::<f64>() {
        return of(secs);
    }
    let (mut rest, mut total) = (value, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [("ms", 0.001), ("us", 1e-6), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, secs) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total += number * secs;
    }
    of(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::read_head;
    use http::{HeaderMap, HeaderName};

    fn head(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn durations_are_read_in_every_form_seen() {
        let wanted = [("1s", 1.0), ("6m0s", 360.0), ("120ms", 0.12), ("1h2m3.5s", 3723.5), ("55", 55.0)];
        for (text, secs) in wanted {
            assert_eq!(duration(text), Duration::try_from_secs_f64(secs).ok(), "{text}");
        }
        for text in ["soon", "5x", "s", "-3", "9e99"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn the_family_gives_readings_and_minus_one_is_not_known() {
        let now = Timestamp::from_secs(1_790_000_000);
        let headers = head(&[
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "-1"),
            ("x-ratelimit-limit-tokens", "150,000"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        let limits = read_head(200, &headers, now);
        assert_eq!(limits.readings.len(), 1);
        assert_eq!(limits.readings[0].limiter, Limiter::TOKENS);
        assert!(limits.marks.has(Mark::OpenAiLimits));
    }

    #[test]
    fn the_same_names_behind_litellm_are_nobodys() {
        let headers = head(&[
            ("x-litellm-call-id", "1"),
            ("x-ratelimit-limit-requests", "50"),
            ("x-ratelimit-remaining-requests", "0"),
        ]);
        let limits = read_head(200, &headers, Timestamp::from_secs(1_790_000_000));
        assert_eq!(limits.readings, []);
    }
}
