//! Alert state with hysteresis: when an alert begins, when it honestly ends.
//!
//! The same state drives the direct push, `/metrics`, the backtest and the demo. Minute buckets whose calls are
//! booked have [`super::foresight`] instead; what stands here is for all others. Pressure is the
//! warning (the bucket is mostly used, or will be empty within the minute), exhaustion the
//! critical (it is nearly empty, or will be within seconds), throttled says that refusals are here.
//! An alert begins on one decision and ends only after its condition has been well clear for a
//! while, so it does not flap; a bucket that is no longer observed ends its alert as such.

use super::bucket::Bucket;
use crate::limit::{Knobs, Limiter, Scope, Timestamp, Window};
use crate::route::{ModelGroup, Owner};
use std::sync::Arc;
use std::time::Duration;

/// Which alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlertName {
    /// A bucket is under pressure.
    BucketPressure,
    /// A bucket is about to be empty.
    BucketExhausting,
    /// The traffic's shape nears a ceiling that has refused it before.
    Burst,
    /// Calls are being refused.
    Throttled,
    /// Money: a cap is mostly spent, or will be before it begins anew.
    Spend,
    /// The route was changed while calls were being refused.
    RouteChanged,
}

impl AlertName {
    /// Every alert.
    pub const ALL: [Self; 6] = [
        Self::BucketPressure,
        Self::BucketExhausting,
        Self::Burst,
        Self::Throttled,
        Self::Spend,
        Self::RouteChanged,
    ];

    /// Value of the `alertname` label; also the runbook's file stem.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BucketPressure => "PlimsollBucketPressure",
            Self::BucketExhausting => "PlimsollBucketExhausting",
            Self::Burst => "PlimsollBurst",
            Self::Throttled => "PlimsollThrottled",
            Self::Spend => "PlimsollSpend",
            Self::RouteChanged => "PlimsollRouteChanged",
        }
    }

    /// Its severity: different names for warning and critical, so that no inhibition by name can
    /// mute a stranger.
    pub const fn severity(self) -> Severity {
        match self {
            Self::BucketPressure | Self::Burst | Self::Throttled | Self::Spend | Self::RouteChanged => {
                Severity::Warning
            }
            Self::BucketExhausting => Severity::Critical,
        }
    }
}

/// How loud an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// A ticket.
    Warning,
    /// A page.
    Critical,
}

impl Severity {
    /// Value of the `severity` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What an alert is about: the bucket's identity, and nothing of the pod or route that saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Who holds the limit.
    pub owner: Owner,
    /// Which limit.
    pub limiter: Limiter,
    /// Its window.
    pub window: Window,
    /// Whose draw it shows.
    pub scope: Scope,
    /// The model group; empty where the limit spans models.
    pub model: ModelGroup,
    /// The region, where it splits the pool.
    pub region: Option<Arc<str>>,
}

/// An alert that is up.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Which alert.
    pub name: AlertName,
    /// About what.
    pub identity: Identity,
    /// Since when.
    pub since: Timestamp,
    /// Used part of the bucket when last evaluated.
    pub utilization: Option<f64>,
    /// Time to empty when last evaluated.
    pub empty_in: Option<Duration>,
    /// The routes on which it is seen.
    pub route: crate::route::RouteName,
    /// What happened, where the name alone does not tell.
    pub detail: Option<Arc<str>>,
}

/// When alerts begin and end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// How early and how carefully minute buckets warn ([`super::foresight`]); the rest is for windows.
    pub knobs: Knobs,
    /// Used part at which pressure begins.
    pub pressure: f64,
    /// Time to empty at which pressure begins, if half the bucket is used.
    pub pressure_horizon: Duration,
    /// Used part at which exhaustion begins.
    pub exhausting: f64,
    /// Time to empty at which exhaustion begins.
    pub exhausting_horizon: Duration,
    /// How long a condition must have been clear before its alert ends.
    pub clear_after: Duration,
    /// How long refusals must have stopped before `PlimsollThrottled` ends.
    pub throttled_for: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            knobs: Knobs::default(),
            pressure: 0.8,
            pressure_horizon: Duration::from_secs(60),
            exhausting: 0.95,
            exhausting_horizon: Duration::from_secs(20),
            clear_after: Duration::from_secs(15),
            throttled_for: Duration::from_secs(60),
        }
    }
}

/// Used part from which a forecast alone may raise pressure: a bucket that is mostly full empties
/// only if the traffic stays what it is, which it seldom does.
const FORECAST_FLOOR: f64 = 0.5;
/// Probability of running out before the reset at which a window of hours or days is spoken of.
const RUNS_OUT: f64 = 0.9;
/// And below which it may well last.
const MAY_LAST: f64 = 0.5;
/// How far below its threshold a level must fall to count as clear.
const LEVEL_SLACK: f64 = 0.1;

/// What an evaluation changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The alert went up.
    Raised,
    /// It ended: the condition has been clear for long enough.
    Cleared,
    /// It ended: nothing has been observed for a refill time.
    Unobserved,
}

/// One alert's state on one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latch {
    up_since: Option<Timestamp>,
    clear_since: Option<Timestamp>,
}

impl Latch {
    /// Since when it is up.
    pub fn since(&self) -> Option<Timestamp> {
        self.up_since
    }

    /// Moves to the state that `raise` and `clear` ask for at `now`. Between the two thresholds
    /// nothing changes: that is the hysteresis.
    pub fn step(&mut self, raise: bool, clear: bool, hold: Duration, now: Timestamp) -> Change {
        match self.up_since {
            None if raise => {
                *self = Self { up_since: Some(now), clear_since: None };
                Change::Raised
            }
            None => Change::None,
            Some(_) if !clear => {
                self.clear_since = None;
                Change::None
            }
            Some(_) => {
                let since = *self.clear_since.get_or_insert(now);
                if now.since(since) < hold {
                    return Change::None;
                }
                *self = Self::default();
                Change::Cleared
            }
        }
    }

    /// The clock was set back.
    pub fn set_back(&mut self, by: Duration) {
        self.up_since = self.up_since.map(|at| at.minus(by));
        self.clear_since = self.clear_since.map(|at| at.minus(by));
    }

    /// Ends it because nothing is known any more.
    pub fn lapse(&mut self) -> Change {
        if self.up_since.is_none() {
            return Change::None;
        }
        *self = Self::default();
        Change::Unobserved
    }
}

/// The two pressure alerts of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BucketAlerts {
    pressure: Latch,
    exhausting: Latch,
}

impl BucketAlerts {
    /// Evaluates both alerts; returns what changed for each.
    pub fn evaluate(
        &mut self,
        bucket: &Bucket,
        thresholds: &Thresholds,
        now: Timestamp,
    ) -> [(AlertName, Change); 2] {
        let names = [AlertName::BucketPressure, AlertName::BucketExhausting];
        if bucket.unobserved(now) {
            return [(names[0], self.pressure.lapse()), (names[1], self.exhausting.lapse())];
        }
        let used = bucket.utilization(now);
        let empty_in = bucket.forecast(now).map(|f| f.empty_in);
        let within = |horizon: Duration| empty_in.is_some_and(|e| e <= horizon);
        // A window of hours has no horizon in seconds: what counts is whether it will last to its reset.
        let run_out = bucket.pace(now).map(|pace| pace.run_out);
        let runs_out = |least: f64| run_out.is_some_and(|run_out| run_out >= least);
        let raise = [
            used >= thresholds.pressure
                || (used >= FORECAST_FLOOR && (within(thresholds.pressure_horizon) || runs_out(RUNS_OUT))),
            used >= thresholds.exhausting
                || (used >= FORECAST_FLOOR && within(thresholds.exhausting_horizon)),
        ];
        let clear = [
            used < thresholds.pressure - LEVEL_SLACK
                && !within(thresholds.pressure_horizon * 2)
                && !(used >= FORECAST_FLOOR && runs_out(MAY_LAST)),
            used < thresholds.exhausting - LEVEL_SLACK && !within(thresholds.exhausting_horizon * 2),
        ];
        let hold = thresholds.clear_after;
        [
            (names[0], self.pressure.step(raise[0], clear[0], hold, now)),
            (names[1], self.exhausting.step(raise[1], clear[1], hold, now)),
        ]
    }

    /// The clock was set back.
    pub fn set_back(&mut self, by: Duration) {
        self.pressure.set_back(by);
        self.exhausting.set_back(by);
    }

    /// The alerts that are up, with their start.
    pub fn up(&self) -> impl Iterator<Item = (AlertName, Timestamp)> {
        let pressure = self.pressure.since().map(|t| (AlertName::BucketPressure, t));
        let exhausting = self.exhausting.since().map(|t| (AlertName::BucketExhausting, t));
        pressure.into_iter().chain(exhausting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Amount, Level, Reading, Refill};

    fn reading(remaining: u64) -> Reading {
        Reading {
            limiter: Limiter::INPUT_TOKENS,
            window: Window::Minute,
            refill: Refill::Continuous,
            level: Some(Level::Counted { limit: Amount::new(60_000), remaining: Amount::new(remaining) }),
            resets: None,
            standing: None,
            rounding: Amount::new(1000),
        }
    }

    fn at(secs: f64) -> Timestamp {
        Timestamp::from_secs(1_790_000_000).plus(Duration::from_secs_f64(secs))
    }

    /// Drains at a net 1,000/s and says when each alert began.
    #[test]
    fn pressure_comes_before_exhaustion_and_both_before_empty() {
        let mut bucket = Bucket::new(&reading(60_000), at(0.0)).unwrap();
        let mut alerts = BucketAlerts::default();
        let mut began: Vec<(AlertName, u32)> = Vec::new();
        for second in 1..=60_u32 {
            bucket.observe(&reading(60_000 - 1_000 * u64::from(second)), at(f64::from(second)));
            for (name, change) in alerts.evaluate(&bucket, &Thresholds::default(), at(f64::from(second))) {
                if change == Change::Raised {
                    began.push((name, second));
                }
            }
        }
        assert_eq!(began.len(), 2, "each began once: {began:?}");
        assert_eq!(began[0].0, AlertName::BucketPressure);
        assert!(began[0].1 <= 31, "half used and empty within the minute: {began:?}");
        assert!((38..=46).contains(&began[1].1), "empty within 20 s: {began:?}");
    }

    /// 60 % of five hours used after two of them: at this pace it is empty an hour before its reset.
    #[test]
    fn a_plan_window_that_will_not_last_to_its_reset_is_spoken_of_at_60_percent() {
        let plan = |used: f64| Reading {
            limiter: Limiter::FIVE_HOUR,
            window: Window::FiveHours,
            refill: Refill::AtReset,
            level: Some(Level::Used(Amount::new((used * 1e6) as u64))),
            resets: Some(at(18_000.0)),
            ..reading(0)
        };
        let first = |per_minute: f64| {
            let mut bucket = Bucket::new(&plan(0.0), at(0.0)).unwrap();
            let mut alerts = BucketAlerts::default();
            (1..=140_u32).find(|minute| {
                let now = at(f64::from(*minute) * 60.0);
                bucket.observe(&plan(per_minute * f64::from(*minute)), now);
                alerts.evaluate(&bucket, &Thresholds::default(), now);
                alerts.up().count() > 0
            })
        };
        assert!(first(0.005).is_some_and(|minute| (100..=110).contains(&minute)), "{:?}", first(0.005));
        assert_eq!(first(0.0035), None, "49 % after 140 minutes");
    }

    #[test]
    fn a_level_that_dances_around_the_threshold_does_not_flap() {
        let mut bucket = Bucket::new(&reading(60_000), at(0.0)).unwrap();
        let mut alerts = BucketAlerts::default();
        let mut changes = 0;
        for step in 1..=200_u32 {
            let remaining = if step % 2 == 0 { 11_000 } else { 14_000 };
            bucket.observe(&reading(remaining), at(f64::from(step)));
            let now = at(f64::from(step));
            changes += alerts
                .evaluate(&bucket, &Thresholds::default(), now)
                .iter()
                .filter(|(name, change)| *name == AlertName::BucketPressure && *change != Change::None)
                .count();
        }
        assert_eq!(changes, 1);
    }

    #[test]
    fn an_alert_ends_as_refilled_when_it_is_seen_to_be_clear() {
        let mut bucket = Bucket::new(&reading(6_000), at(0.0)).unwrap();
        let mut alerts = BucketAlerts::default();
        alerts.evaluate(&bucket, &Thresholds::default(), at(0.0));
        let mut end = None;
        for step in 1..200_u32 {
            let now = at(f64::from(step) / 2.0);
            if step % 10 == 0 {
                let level = bucket.remaining(now).unwrap().get();
                bucket.observe(&reading(level), now);
            }
            let changes = alerts.evaluate(&bucket, &Thresholds::default(), now);
            if changes[0].1 != Change::None {
                end = Some((step / 2, changes[0].1));
                break;
            }
        }
        let (second, change) = end.expect("it ends");
        assert_eq!(change, Change::Cleared);
        assert!((25..=45).contains(&second), "70 % after 12 s and more, held for 15 s: {second}");
    }

    #[test]
    fn silence_ends_an_alert_as_unobserved_not_as_resolved() {
        let thresholds = Thresholds { clear_after: Duration::from_secs(120), ..Thresholds::default() };
        let bucket = Bucket::new(&reading(1_000), at(0.0)).unwrap();
        let mut alerts = BucketAlerts::default();
        assert_eq!(alerts.evaluate(&bucket, &thresholds, at(0.0))[1].1, Change::Raised);
        assert_eq!(alerts.evaluate(&bucket, &thresholds, at(59.0))[1].1, Change::None);
        assert_eq!(alerts.evaluate(&bucket, &thresholds, at(61.0))[1].1, Change::Unobserved);
        assert_eq!(alerts.up().count(), 0);
    }
}
