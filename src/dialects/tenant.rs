//! Limits that a gateway sets for its tenants, as it writes them beside the provider's: another owner's.
//!
//! LiteLLM (1.100, seen): `x-ratelimit-<descriptor>-{limit,remaining}-{requests,tokens}`, where the descriptor says what is
//! limited (`api_key`, `team`, …) and never whose; a window of 60 s that begins with the first call. Envoy and
//! agentgateway: `x-ratelimit-{limit,remaining,reset}`, in Envoy's with the window behind the limit (`2, 2;w=60`). Kong:
//! `x-ratelimit-{limit,remaining}-{minute,day,…}` and `x-ai-ratelimit-{limit,remaining}-<seconds>-<provider>`.
//!
//! Whether they are a gateway's is not told here: other providers write plain names too. The engine takes them only
//! from a route that is a gateway's, or from a head that bears a gateway's mark.

use super::printable;
use super::stated::DESCRIPTORS;
use crate::limit::{Amount, Level, Limiter, Reading, Refill, Timestamp, Window};
use http::HeaderValue;
use std::time::Duration;

/// Most limiters of one head.
const MOST: usize = 16;

#[derive(Default)]
struct Fields {
    name: String,
    window: Option<Window>,
    limit: Option<u64>,
    remaining: Option<u64>,
}

/// What was seen so far.
#[derive(Default)]
pub(super) struct Seen {
    found: Vec<Fields>,
    /// Of the plain family.
    reset: Option<Duration>,
}

#[derive(Clone, Copy)]
enum Field {
    Limit,
    Remaining,
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        match name {
            "limit" => Some(Self::Limit),
            "remaining" => Some(Self::Remaining),
            _ => None,
        }
    }
}

/// A window of so many seconds.
fn window(secs: u64) -> Window {
    match secs {
        60 => Window::Minute,
        18_000 => Window::FiveHours,
        86_400 => Window::Day,
        604_800 => Window::Week,
        _ => Window::Unknown,
    }
}

/// Kong's names of windows.
fn kong_window(name: &str) -> Option<Window> {
    match name {
        "minute" => Some(Window::Minute),
        "day" => Some(Window::Day),
        "month" => Some(Window::Month),
        "second" | "hour" | "year" => Some(Window::Unknown),
        _ => None,
    }
}

impl Seen {
    /// Takes in a header that is not Anthropic's.
    pub(super) fn header(&mut self, name: &str, value: &HeaderValue) {
        let plain = name.strip_prefix("x-ratelimit-").or_else(|| name.strip_prefix("ratelimit-"));
        if let Some(rest) = plain {
            self.plain(rest, value);
        } else if let Some(rest) = name.strip_prefix("x-ai-ratelimit-") {
            self.ai(rest, value);
        }
    }

    /// `rest` is a header's name behind `x-ratelimit-`, or behind `ratelimit-`.
    fn plain(&mut self, rest: &str, value: &HeaderValue) {
        let Some(value) = printable(value) else { return };
        match rest {
            "limit" => {
                let policy = value.split(',').find_map(|part| part.split(";w=").nth(1));
                let secs = policy.and_then(|rest| number(rest.split(';').next()?));
                self.set("gateway", secs.map(window), Field::Limit, value);
                return;
            }
            "remaining" => return self.set("gateway", None, Field::Remaining, value),
            "reset" => {
                self.reset = number(value).map(Duration::from_secs);
                return;
            }
            _ => {}
        }
        let mut parts = rest.split('-');
        let (Some(first), second, third) = (parts.next(), parts.next(), parts.next()) else { return };
        match (Field::named(first), second, third) {
            // Kong: `remaining-minute`.
            (Some(field), Some(name), None) => {
                if let Some(window) = kong_window(name) {
                    self.set("requests", Some(window), field, value);
                }
            }
            // LiteLLM: `api_key-remaining-requests`.
            (None, Some(field), Some(what @ ("requests" | "tokens"))) if parts.next().is_none() => {
                // A name that LiteLLM does not have could be anybody's, and would become a label.
                if let Some(field) = Field::named(field).filter(|_| DESCRIPTORS.contains(&first)) {
                    self.set(&format!("{first}_{what}"), Some(Window::Minute), field, value);
                }
            }
            _ => {}
        }
    }

    /// Kong's AI limiter; `rest` is a header's name behind `x-ai-ratelimit-`.
    fn ai(&mut self, rest: &str, value: &HeaderValue) {
        let Some(value) = printable(value) else { return };
        let mut parts = rest.splitn(3, '-');
        let field = parts.next().and_then(Field::named);
        let secs = parts.next().and_then(number);
        if let (Some(field), Some(secs), Some(provider)) = (field, secs, parts.next()) {
            self.set(&format!("{provider}_tokens"), Some(window(secs)), field, value);
        }
    }

    fn set(&mut self, name: &str, window: Option<Window>, field: Field, value: &str) {
        // Envoy writes `2, 2;w=60`: the limit stands first.
        let Some(n) = value.split([',', ';']).next().and_then(number) else { return };
        let same = |one: &Fields| one.name == name && (name == "gateway" || one.window == window);
        let at = self.found.iter().position(same);
        if at.is_none() && self.found.len() >= MOST {
            return;
        }
        let at = at.unwrap_or_else(|| {
            self.found.push(Fields { name: name.to_owned(), window, ..Fields::default() });
            self.found.len() - 1
        });
        let fields = &mut self.found[at];
        fields.window = window.or(fields.window);
        match field {
            Field::Limit => fields.limit = Some(n),
            Field::Remaining => fields.remaining = Some(n),
        }
    }

    /// The readings. `now` is ours: resets are seconds from there. A window that is not known, and whose end is not
    /// stated, says nothing for long enough.
    pub(super) fn finish(self, now: Timestamp) -> Vec<Reading> {
        let read = |fields: Fields| {
            let (limit, remaining) = (fields.limit?, fields.remaining?);
            let plain = fields.name == "gateway";
            let resets = self.reset.filter(|_| plain).map(|wait| now.plus(wait));
            let window = fields.window.unwrap_or(Window::Unknown);
            if limit == 0 || (window == Window::Unknown && resets.is_none()) {
                return None;
            }
            let limit = Amount::new(limit);
            Some(Reading {
                limiter: Limiter::named(&fields.name),
                window,
                refill: Refill::AtReset,
                level: Some(Level::Counted { limit, remaining: Amount::new(remaining).min(limit) }),
                resets,
                standing: None,
                rounding: Amount::new(1),
            })
        };
        self.found.into_iter().filter_map(read).collect()
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialects::read_head;
    use http::{HeaderMap, HeaderName};

    fn tenant(pairs: &[(&str, &str)]) -> Vec<(String, &'static str, u64, u64)> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let limits = read_head(200, &map, Timestamp::from_secs(1_790_000_000));
        let shown = |r: Reading| match r.level {
            Some(Level::Counted { limit, remaining }) => {
                (r.limiter.to_string(), r.window.as_str(), limit.get(), remaining.get())
            }
            _ => panic!("{r:?}"),
        };
        limits.tenant.into_iter().map(shown).collect()
    }

    #[test]
    fn a_tenants_limits_stand_apart_from_the_providers() {
        let seen = tenant(&[
            ("x-ratelimit-limit-requests", "50"),
            ("x-ratelimit-remaining-requests", "4"),
            ("x-ratelimit-api_key-remaining-requests", "99"),
            ("x-ratelimit-api_key-limit-requests", "100"),
            ("x-ratelimit-team-remaining-tokens", "7"),
            ("x-ratelimit-team-limit-tokens", "1000"),
        ]);
        let wanted =
            [("api_key_requests".to_owned(), "1m", 100, 99), ("team_tokens".to_owned(), "1m", 1_000, 7)];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn each_gateways_own_form_is_read() {
        let envoy =
            [("x-ratelimit-limit", "2, 2;w=60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30")];
        assert_eq!(tenant(&envoy), [("gateway".to_owned(), "1m", 2, 0)]);
        let agent = [("x-ratelimit-limit", "10"), ("x-ratelimit-remaining", "3"), ("x-ratelimit-reset", "7")];
        assert_eq!(tenant(&agent), [("gateway".to_owned(), "", 10, 3)]);
        let kong = [("X-RateLimit-Limit-Minute", "5"), ("X-RateLimit-Remaining-Minute", "1")];
        assert_eq!(tenant(&kong), [("requests".to_owned(), "1m", 5, 1)]);
        let ai = [("X-AI-RateLimit-Limit-60-openai", "500"), ("X-AI-RateLimit-Remaining-60-openai", "20")];
        assert_eq!(tenant(&ai), [("openai_tokens".to_owned(), "1m", 500, 20)]);
    }

    #[test]
    fn what_is_not_whole_or_makes_no_sense_is_no_reading() {
        for pairs in [
            vec![("x-ratelimit-limit", "10"), ("x-ratelimit-remaining", "3")],
            vec![("x-ratelimit-api_key-remaining-requests", "9")],
            vec![
                ("x-ratelimit-api_key-limit-requests", "0"),
                ("x-ratelimit-api_key-remaining-requests", "0"),
            ],
            vec![("x-ratelimit-a-b-c-d", "1")],
            vec![
                ("x-ratelimit-mallory-limit-requests", "1"),
                ("x-ratelimit-mallory-remaining-requests", "1"),
            ],
            vec![
                ("x-ratelimit-api_key-limit-requests", "-1"),
                ("x-ratelimit-api_key-remaining-requests", "x"),
            ],
        ] {
            assert_eq!(tenant(&pairs), [], "{pairs:?}");
        }
    }
}
