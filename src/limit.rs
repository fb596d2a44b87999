//! Limits as plain values: amounts, times, limiter names, windows, readings.
//!
//! Everything here is data. Nothing reads a clock, allocates without a bound or can fail, so the
//! same values serve the hop, the backtest and the tests. Numbers that mean different things have
//! different types: a bare `u64` never crosses a module.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A moment, in whole microseconds since the Unix epoch (UTC).
///
/// Integers rather than floats: differences of large floats lose the sub-second part that the
/// forecast lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From fractional Unix seconds; out-of-range values saturate, NaN becomes the epoch.
    pub fn from_secs_f64(secs: f64) -> Self {
        Self((secs * 1e6) as i64)
    }

    /// From whole Unix seconds.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Fractional Unix seconds, the form of every JSON and metric we emit.
    pub fn secs_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// RFC 3339 in UTC; empty for a moment that no calendar has.
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_microsecond(self.0).map(|at| at.to_string()).unwrap_or_default()
    }

    /// Time from `earlier` to here; zero if `earlier` is later (clocks step back).
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment plus `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// This moment minus `span`.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// A count of what a limiter counts: requests or tokens (or, for windows that only state a
/// fraction, parts per million of the window).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(u64);

impl Amount {
    /// One whole window where only the used fraction is known.
    pub const WHOLE: Self = Self(1_000_000);

    /// An amount of `n` requests, tokens or parts per million.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True of a limit that is none: what is written where there is no limit (2^63 - 1, 2^64 - 1), and everything that no
    /// traffic could ever take. There is no such bucket: its level says nothing, and arithmetic on it is off.
    pub const fn is_no_limit(self) -> bool {
        self.0 >= 1 << 53
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of one limit, an open set (providers add limiters without notice).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Limiter(Cow<'static, str>);

impl Limiter {
    /// Requests per window.
    pub const REQUESTS: Self = Self(Cow::Borrowed("requests"));
    /// Uncached input tokens per window.
    pub const INPUT_TOKENS: Self = Self(Cow::Borrowed("input_tokens"));
    /// Generated tokens per window.
    pub const OUTPUT_TOKENS: Self = Self(Cow::Borrowed("output_tokens"));
    /// The most restrictive token limit in force (Anthropic's `tokens-*` headers).
    pub const TOKENS: Self = Self(Cow::Borrowed("tokens"));
    /// Input tokens of a Priority Tier commitment.
    pub const PRIORITY_INPUT: Self = Self(Cow::Borrowed("priority_input_tokens"));
    /// Output tokens of a Priority Tier commitment.
    pub const PRIORITY_OUTPUT: Self = Self(Cow::Borrowed("priority_output_tokens"));
    /// Input tokens of the fast-mode pool.
    pub const FAST_INPUT: Self = Self(Cow::Borrowed("fast_input_tokens"));
    /// Output tokens of the fast-mode pool.
    pub const FAST_OUTPUT: Self = Self(Cow::Borrowed("fast_output_tokens"));
    /// Calls open at the same time.
    pub const CONCURRENCY: Self = Self(Cow::Borrowed("concurrency"));
    /// How fast usage may grow.
    pub const ACCELERATION: Self = Self(Cow::Borrowed("acceleration"));
    /// The five-hour session window of a Claude plan.
    pub const FIVE_HOUR: Self = Self(Cow::Borrowed("five_hour"));
    /// The weekly window of a Claude plan.
    pub const SEVEN_DAY: Self = Self(Cow::Borrowed("seven_day"));
    /// Usage credits beyond a Claude plan.
    pub const OVERAGE: Self = Self(Cow::Borrowed("overage"));
    /// Money.
    pub const SPEND: Self = Self(Cow::Borrowed("spend"));

    /// Longest limiter name kept; longer ones are cut (they come from the network).
    pub const MAX_LEN: usize = 48;

    /// A limiter by a name of ours.
    pub const fn known(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A limiter by name. Characters outside `[a-z0-9_]` become `_`; the name is cut at
    /// [`Self::MAX_LEN`].
    pub fn named(name: &str) -> Self {
        let clean: String = name
            .chars()
            .take(Self::MAX_LEN)
            .map(|c| match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9') => c,
                _ => '_',
            })
            .collect();
        Self(Cow::Owned(clean))
    }

    /// The name, as it stands in labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the limit of a tool that the provider runs inside a message.
    pub fn is_of_tool(&self) -> bool {
        matches!(self.as_str(), "web_search" | "web_fetch" | "code_execution")
    }
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a limiter's window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// 60 seconds.
    Minute,
    /// Five hours (a Claude plan's session).
    FiveHours,
    /// One day.
    Day,
    /// Seven days.
    Week,
    /// A calendar month.
    Month,
    /// Not stated anywhere.
    Unknown,
}

impl Window {
    /// The label value; empty (so: no label) when the window is not known.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::FiveHours => "5h",
            Self::Day => "1d",
            Self::Week => "7d",
            Self::Month => "month",
            Self::Unknown => "",
        }
    }

    /// The window of a label value.
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Minute, Self::FiveHours, Self::Day, Self::Week, Self::Month, Self::Unknown];
        all.into_iter().find(|window| window.as_str() == name)
    }

    /// The window's length, where it has one.
    pub const fn length(self) -> Option<Duration> {
        match self {
            Self::Minute => Some(Duration::from_secs(60)),
            Self::FiveHours => Some(Duration::from_secs(5 * 3600)),
            Self::Day => Some(Duration::from_secs(24 * 3600)),
            Self::Week => Some(Duration::from_secs(7 * 24 * 3600)),
            Self::Month | Self::Unknown => None,
        }
    }

    /// True if a window of this length can end then: not further off than it is long (a unit mistaken, a clock decades off),
    /// nor before 1970 or years ago. One that ended a while ago may be what an old answer says.
    pub fn may_end_at(self, reset: Timestamp, now: Timestamp) -> bool {
        let length = self.length().unwrap_or(Duration::from_secs(32 * 24 * 3600));
        let most = length + length / 4 + Duration::from_secs(60);
        reset <= now.plus(most) && reset >= now.minus(Duration::from_secs(366 * 24 * 3600))
    }
}

/// How a bucket regains room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refill {
    /// Continuously, the whole limit in one window (token bucket).
    Continuous,
    /// All at once, at the reset (tumbling or calendar window).
    AtReset,
}

/// Whose draw a bucket shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everyone's, as the provider states it.
    Account,
    /// Only what this process saw.
    Local,
}

impl Scope {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Local => "local",
        }
    }
}

/// How full a bucket is, as stated by a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Absolute numbers.
    Counted {
        /// The most the bucket can hold.
        limit: Amount,
        /// What is left in it.
        remaining: Amount,
    },
    /// Only the used part of the window, in parts per million; may exceed one million.
    Used(Amount),
}

/// What a provider says about a window, beside its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Requests pass.
    Allowed,
    /// Requests pass, the provider's own warning threshold is crossed.
    Warning,
    /// Requests are refused.
    Rejected,
}

/// One limiter's state as one response told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which limit.
    pub limiter: Limiter,
    /// Its window.
    pub window: Window,
    /// How it regains room.
    pub refill: Refill,
    /// Its level, absent where only a standing was given.
    pub level: Option<Level>,
    /// When it is full again.
    pub resets: Option<Timestamp>,
    /// The provider's own word on it.
    pub standing: Option<Standing>,
    /// Step in which the provider rounds `remaining` (1 = exact).
    pub rounding: Amount,
}

impl Reading {
    /// True if it is of no limit, and says nothing else.
    pub const fn is_of_none(&self) -> bool {
        matches!((self.level, self.standing), (Some(Level::Counted { limit, .. }), None) if limit.is_no_limit())
    }

    /// True if the reading says that nothing is left.
    pub fn is_exhausted(&self) -> bool {
        match (self.standing, self.level) {
            (Some(Standing::Rejected), _) => true,
            (_, Some(Level::Counted { limit, remaining })) => limit.get() > 0 && remaining.get() == 0,
            (_, Some(Level::Used(used))) => used >= Amount::WHOLE,
            (_, None) => false,
        }
    }
}

/// How early and how carefully somebody wants to be warned: the two knobs of foresight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knobs {
    /// How far ahead a warning looks. 20 to 40 s is one plateau.
    pub horizon: Duration,
    /// How much of the noise is taken off the expected draw, in standard deviations.
    pub caution: f64,
}

impl Default for Knobs {
    fn default() -> Self {
        Self { horizon: Duration::from_secs(35), caution: 1.25 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_differences_never_go_below_zero() {
        let (a, b) = (Timestamp::from_secs(10), Timestamp::from_secs(12));
        assert_eq!(b.since(a), Duration::from_secs(2));
        assert_eq!(a.since(b), Duration::ZERO);
    }

    #[test]
    fn limiter_names_from_the_network_are_cut_and_cleaned() {
        let hostile = format!("7D {}\"}}", "x".repeat(200));
        let limiter = Limiter::named(&hostile);
        assert_eq!(limiter.as_str().len(), Limiter::MAX_LEN);
        assert!(limiter.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    }

    #[test]
    fn exhaustion_is_read_from_standing_or_level() {
        let mut reading = Reading {
            limiter: Limiter::REQUESTS,
            window: Window::Minute,
            refill: Refill::Continuous,
            level: Some(Level::Counted { limit: Amount::new(50), remaining: Amount::new(0) }),
            resets: None,
            standing: None,
            rounding: Amount::new(1),
        };
        assert!(reading.is_exhausted());
        reading.level = Some(Level::Counted { limit: Amount::new(0), remaining: Amount::new(0) });
        assert!(!reading.is_exhausted(), "a limit of zero says the pool is not offered, not that it ran dry");
        reading.standing = Some(Standing::Rejected);
        assert!(reading.is_exhausted());
    }
}
