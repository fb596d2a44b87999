//! The live state of one limiter: its level between observations, its peak, and when it is empty.
//!
//! **Level.** A provider's token bucket refills continuously, the whole limit in one window, so
//! between two observations the level rises by arithmetic. A window that resets at once stays as
//! it was seen until its reset; after it, nothing is known until it is seen again.
//!
//! **Draw.** What was taken between two observations is `old level + refill - new level`: everyone's
//! draw, not only ours, because the provider's number counts everyone. Where the bucket was full
//! in between that is a lower bound. Draws are spread over the time they were not seen in, and
//! signed, so that rounding (tokens come in thousands) cancels out instead of adding up.
//!
//! **Forecast.** The draw of two horizons (8 and 30 slices), each less the refill; the bucket is
//! called draining only if both agree, and the time to empty is by the slower of the two: one
//! large request alone is no trend. The long horizon is cut to the time the bucket has been seen
//! at all. Absent when the bucket is not draining, refills first, or was seen too briefly.

use super::foresight::probability;
use super::window::Window;
use crate::limit::{Amount, Level, Reading, Refill, Standing, Timestamp};
use std::time::Duration;

/// One slice of the draw is this part of the limiter's own window.
const SLICES: u32 = 60;
/// Slices that are kept: as many as the longer horizon takes.
const KEPT: usize = 30;
/// Slices of the peak, which is over 60 s whatever the limiter's window is: it bridges scrapes.
const PEAKS: usize = 21;
/// Each: the newest is a part only, and the others must make up the 60 s.
const PEAK_SLICE: Duration = Duration::from_secs(3);
/// The two horizons of the forecast, in slices.
const HORIZONS: [usize; 2] = [8, KEPT];
/// A bucket seen for less than this many slices has no trend.
const MIN_SLICES: u32 = 2;
/// Observations that arrive later than one from this much after them are out of order.
const LATE: Duration = Duration::from_secs(1);

/// When a bucket will be empty at the present draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Time until it is empty.
    pub empty_in: Duration,
}

/// How the use of a window that resets at once stands against its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The part of the window that has passed: what would be used by now at an even pace.
    pub expected: f64,
    /// The part that is used.
    pub used: f64,
    /// Probability that it runs out before its reset.
    pub run_out: f64,
}

/// The live state of one limiter.
#[derive(Clone, Debug)]
pub struct Bucket {
    refill: Refill,
    length: Duration,
    limit: Amount,
    /// Level in the limiter's unit at `as_of`.
    level: i64,
    /// Only a fraction is known (the unit is parts per million).
    fraction: bool,
    as_of: Timestamp,
    first_seen: Timestamp,
    /// When the newest observation was made.
    observed: Timestamp,
    resets: Option<Timestamp>,
    standing: Option<Standing>,
    draws: Window<KEPT>,
    peaks: Window<PEAKS>,
    late: u64,
}

impl Bucket {
    /// A bucket as its first reading shows it; absent if the reading states no level.
    pub fn new(reading: &Reading, at: Timestamp) -> Option<Self> {
        let (limit, level, fraction) = measure(reading)?;
        let length = reading.window.length().unwrap_or(Duration::from_secs(30 * 24 * 3600));
        let slice = length / SLICES;
        let mut bucket = Self {
            refill: reading.refill,
            length,
            limit,
            level,
            fraction,
            as_of: at,
            first_seen: at,
            observed: at,
            resets: reading.resets,
            standing: reading.standing,
            draws: Window::new(slice),
            peaks: Window::new(PEAK_SLICE),
            late: 0,
        };
        bucket.raise_peak(at);
        Some(bucket)
    }

    /// Takes in a further reading made at `at`.
    pub fn observe(&mut self, reading: &Reading, at: Timestamp) {
        let Some((limit, level, fraction)) = measure(reading) else {
            if reading.standing.is_some() {
                self.standing = reading.standing;
                self.observed = self.observed.max(at);
            }
            return;
        };
        if self.as_of.since(at) > LATE {
            self.late += 1;
            return;
        }
        let at = at.max(self.as_of);
        let reset_passed = self.refill == Refill::AtReset && self.resets.is_some_and(|r| r <= at);
        if limit != self.limit || fraction != self.fraction || reset_passed {
            // Another limit, or a new period: levels before and after do not compare.
            self.limit = limit;
            self.fraction = fraction;
            self.draws = Window::new(self.length / SLICES);
            self.first_seen = at;
        } else {
            let drawn = self.level_at(at).saturating_sub(level);
            self.draws.add_spread(drawn, self.as_of, at);
        }
        self.level = level;
        self.as_of = at;
        self.observed = at;
        self.resets = reading.resets;
        self.standing = reading.standing;
        self.raise_peak(at);
    }

    /// The clock was set back.
    pub fn set_back(&mut self, by: Duration) {
        for moment in [&mut self.as_of, &mut self.first_seen, &mut self.observed] {
            *moment = moment.minus(by);
        }
        self.resets = self.resets.map(|at| at.minus(by));
        self.draws.set_back(by);
        self.peaks.set_back(by);
    }

    fn raise_peak(&mut self, at: Timestamp) {
        let used = self.used_ppm(at);
        self.peaks.raise(used, at);
    }

    /// The level at `now`, in the limiter's unit.
    fn level_at(&self, now: Timestamp) -> i64 {
        let limit = i64::try_from(self.limit.get()).unwrap_or(i64::MAX);
        match self.refill {
            Refill::AtReset => self.level,
            Refill::Continuous => {
                let back = i128::from(limit) * now.since(self.as_of).as_micros() as i128
                    / (self.length.as_micros() as i128).max(1);
                self.level.saturating_add(i64::try_from(back).unwrap_or(i64::MAX)).min(limit)
            }
        }
    }

    fn used_ppm(&self, now: Timestamp) -> i64 {
        let limit = i128::from(self.limit.get());
        if limit == 0 {
            return 0;
        }
        let used = limit - i128::from(self.level_at(now));
        i64::try_from(used * 1_000_000 / limit).unwrap_or(i64::MAX)
    }

    /// The most the bucket holds; absent where only a fraction is known.
    pub fn limit(&self) -> Option<Amount> {
        (!self.fraction).then_some(self.limit)
    }

    /// What is left at `now`; absent where only a fraction is known.
    pub fn remaining(&self, now: Timestamp) -> Option<Amount> {
        (!self.fraction).then(|| Amount::new(u64::try_from(self.level_at(now)).unwrap_or(0)))
    }

    /// The used part at `now`: 0 is full, 1 is empty, more is over the limit.
    pub fn utilization(&self, now: Timestamp) -> f64 {
        self.used_ppm(now) as f64 / 1e6
    }

    /// The largest used part seen in the last 60 s.
    pub fn peak(&self, now: Timestamp) -> f64 {
        self.peaks.max(now).max(self.used_ppm(now)) as f64 / 1e6
    }

    /// When it is full again, as the provider said.
    pub fn resets(&self) -> Option<Timestamp> {
        self.resets
    }

    /// When it was last observed.
    pub fn observed(&self) -> Timestamp {
        self.observed
    }

    /// The provider's own word.
    pub fn standing(&self) -> Option<Standing> {
        self.standing
    }

    /// Observations that came too late to use.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// True if so much time has passed that the last observation says nothing any more: a refill
    /// time for a bucket, the reset for a window.
    pub fn unobserved(&self, now: Timestamp) -> bool {
        match (self.refill, self.resets) {
            (Refill::Continuous, _) => now.since(self.observed) > self.length,
            (Refill::AtReset, Some(reset)) => now >= reset || now.since(self.observed) > self.length,
            (Refill::AtReset, None) => now.since(self.observed) > self.length,
        }
    }

    /// How a window that resets at once stands; absent for others, once the reset has passed, and as long as it
    /// has been seen too briefly to say.
    pub fn pace(&self, now: Timestamp) -> Option<Pace> {
        let resets = self.resets.filter(|resets| *resets > now && self.refill == Refill::AtReset)?;
        let slice = (self.length / SLICES).as_secs_f64();
        let seen = now.since(self.first_seen).as_secs_f64() / slice;
        if seen < f64::from(MIN_SLICES) || self.unobserved(now) {
            return None;
        }
        let left = resets.since(now).as_secs_f64() / slice;
        let known = (seen as usize).clamp(1, KEPT - 1);
        let (mean, variance) = self.draws.spread(known, now);
        // What is still to come varies, and so does the mean that was learnt from so few slices.
        let deviation = (variance * left * (1.0 + left / known as f64)).sqrt();
        let short = mean * left - self.level_at(now).max(0) as f64;
        let run_out = match deviation > 0.0 {
            true => probability(short / deviation),
            false => f64::from(u8::from(short > 0.0)),
        };
        let expected = 1.0 - (left / f64::from(SLICES)).min(1.0);
        Some(Pace { expected, used: self.utilization(now), run_out })
    }

    /// When it will be empty, if it is draining.
    pub fn forecast(&self, now: Timestamp) -> Option<Forecast> {
        let slice = self.length / SLICES;
        let seen = now.since(self.first_seen);
        if seen < slice * MIN_SLICES || self.unobserved(now) {
            return None;
        }
        let refill = match self.refill {
            Refill::Continuous => self.limit.get() as f64 / self.length.as_secs_f64(),
            Refill::AtReset => 0.0,
        };
        let net = HORIZONS.into_iter().map(|slices| {
            let covered = self.draws.covered(slices, now).min(seen).as_secs_f64();
            let drawn = self.draws.sum(slices, now) as f64;
            if covered > 0.0 { drawn / covered - refill } else { 0.0 }
        });
        let slowest = net.fold(f64::INFINITY, f64::min);
        if slowest <= 0.0 || !slowest.is_finite() {
            return None;
        }
        let level = self.level_at(now).max(0) as f64;
        let secs = level / slowest;
        // Longer than the window itself is not a forecast any more.
        if secs > self.length.as_secs_f64() {
            return None;
        }
        let empty_in = Duration::from_secs_f64(secs);
        let refills_first =
            self.refill == Refill::AtReset && self.resets.is_some_and(|reset| reset <= now.plus(empty_in));
        (!refills_first).then_some(Forecast { empty_in })
    }
}

/// Limit, level and whether it is only a fraction.
fn measure(reading: &Reading) -> Option<(Amount, i64, bool)> {
    match reading.level? {
        Level::Counted { limit, remaining } => {
            Some((limit, i64::try_from(remaining.get()).unwrap_or(i64::MAX), false))
        }
        Level::Used(used) => {
            let whole = Amount::WHOLE.get() as i64;
            Some((Amount::WHOLE, whole - i64::try_from(used.get()).unwrap_or(whole), true))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Limiter, Window as Length};
    use proptest::prelude::*;

    fn counted(limit: u64, remaining: u64) -> Reading {
        Reading {
            limiter: Limiter::INPUT_TOKENS,
            window: Length::Minute,
            refill: Refill::Continuous,
            level: Some(Level::Counted { limit: Amount::new(limit), remaining: Amount::new(remaining) }),
            resets: None,
            standing: None,
            rounding: Amount::new(1000),
        }
    }

    fn plan(used: f64, resets: Timestamp) -> Reading {
        Reading {
            limiter: Limiter::FIVE_HOUR,
            window: Length::FiveHours,
            refill: Refill::AtReset,
            level: Some(Level::Used(Amount::new((used * 1e6) as u64))),
            resets: Some(resets),
            standing: Some(Standing::Allowed),
            rounding: Amount::new(1),
        }
    }

    const T0: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn at(secs: f64) -> Timestamp {
        T0.plus(Duration::from_secs_f64(secs))
    }

    /// The obvious model: remember everything, compute from scratch.
    struct Naive {
        limit: f64,
        last: (f64, f64),
    }

    impl Naive {
        fn level(&self, t: f64) -> f64 {
            (self.last.1 + self.limit / 60.0 * (t - self.last.0)).min(self.limit)
        }
    }

    proptest! {
        /// Levels between observations agree with arithmetic done from scratch.
        #[test]
        fn levels_agree_with_a_naive_model(
            limit in 1_u64..10_000_000,
            steps in prop::collection::vec((0.0_f64..90.0, 0.0_f64..=1.0), 1..60),
        ) {
            let mut t = 0.0;
            let mut bucket = Bucket::new(&counted(limit, limit), T0).unwrap();
            let mut naive = Naive { limit: limit as f64, last: (0.0, limit as f64) };
            for (step, share) in steps {
                t += step;
                let before = bucket.remaining(at(t)).unwrap().get() as f64;
                prop_assert!((before - naive.level(t)).abs() <= 1.0 + limit as f64 * 1e-6);
                let remaining = (limit as f64 * share) as u64;
                bucket.observe(&counted(limit, remaining), at(t));
                naive.last = (t, remaining as f64);
                prop_assert!((0.0..=1.0).contains(&bucket.utilization(at(t))));
                prop_assert!(bucket.peak(at(t)) >= bucket.utilization(at(t)));
            }
        }

        /// No reading, however absurd, panics or gives a forecast that is no number.
        #[test]
        fn absurd_readings_are_survived(
            readings in prop::collection::vec((any::<u64>(), any::<u64>(), any::<i64>(), any::<bool>()), 1..40),
        ) {
            let mut bucket = Bucket::new(&counted(100, 100), T0).unwrap();
            for (limit, remaining, time, used) in readings {
                let mut reading = counted(limit, remaining);
                if used {
                    reading.level = Some(Level::Used(Amount::new(remaining)));
                }
                let now = Timestamp::from_micros(time);
                bucket.observe(&reading, now);
                prop_assert!(bucket.utilization(now).is_finite());
                prop_assert!(bucket.peak(now).is_finite());
                let _ = bucket.forecast(now);
            }
        }
    }

    /// Steady traffic that the refill covers is never called draining.
    #[test]
    fn traffic_within_the_refill_has_no_forecast() {
        let mut bucket = Bucket::new(&counted(60_000, 60_000), T0).unwrap();
        for second in 1..300 {
            bucket.observe(&counted(60_000, 59_000), at(f64::from(second)));
            assert_eq!(bucket.forecast(at(f64::from(second))), None, "at {second} s");
        }
    }

    /// A drain of twice the refill from a full bucket of 60,000 ends after 60 s; the forecast knows.
    #[test]
    fn a_steady_drain_is_forecast_right() {
        let mut bucket = Bucket::new(&counted(60_000, 60_000), T0).unwrap();
        for second in 1..=40_u32 {
            let remaining = 60_000 - u64::from(second) * 1_000;
            bucket.observe(&counted(60_000, remaining), at(f64::from(second)));
        }
        let forecast = bucket.forecast(at(40.0)).expect("draining for 40 s");
        let wanted = 20.0;
        let got = forecast.empty_in.as_secs_f64();
        assert!((got - wanted).abs() < 3.0, "20,000 left at a net 1,000/s, said {got}");
    }

    #[test]
    fn one_large_request_is_no_trend() {
        let mut bucket = Bucket::new(&counted(60_000, 60_000), T0).unwrap();
        for second in 1..=60_u32 {
            bucket.observe(&counted(60_000, 60_000), at(f64::from(second)));
        }
        bucket.observe(&counted(60_000, 40_000), at(60.5));
        assert_eq!(bucket.forecast(at(60.5)), None, "20,000 in 30 s is less than the refill");
    }

    #[test]
    fn a_rounding_provider_does_not_make_a_drain() {
        let mut bucket = Bucket::new(&counted(2_000_000, 1_999_000), T0).unwrap();
        for second in 1..=120_u32 {
            let remaining = if second % 2 == 0 { 1_999_000 } else { 2_000_000 };
            bucket.observe(&counted(2_000_000, remaining), at(f64::from(second)));
            assert_eq!(bucket.forecast(at(f64::from(second))), None);
        }
    }

    #[test]
    fn an_idle_bucket_refills_and_then_is_unobserved() {
        let mut bucket = Bucket::new(&counted(60_000, 6_000), T0).unwrap();
        assert!(bucket.utilization(T0) > 0.89);
        assert!((bucket.utilization(at(30.0)) - 0.4).abs() < 0.01);
        assert!(!bucket.unobserved(at(60.0)));
        assert!(bucket.unobserved(at(60.1)));
        assert!(bucket.peak(at(59.0)) > 0.89, "the peak bridges a scrape");
        bucket.observe(&counted(60_000, 60_000), at(61.0));
        assert!(!bucket.unobserved(at(61.0)));
    }

    #[test]
    fn a_plan_window_stays_as_seen_until_its_reset() {
        let reset = at(3600.0);
        let bucket = Bucket::new(&plan(0.9, reset), T0).unwrap();
        assert!((bucket.utilization(at(3599.0)) - 0.9).abs() < 1e-6);
        assert!(!bucket.unobserved(at(3599.0)));
        assert!(bucket.unobserved(at(3600.0)));
        assert_eq!(bucket.remaining(T0), None, "no absolute number is known");
    }

    #[test]
    fn a_window_that_resets_before_it_is_empty_has_no_forecast() {
        let mut bucket = Bucket::new(&plan(0.2, at(1800.0)), T0).unwrap();
        for minute in 1..=20_u32 {
            let used = 0.2 + 0.01 * f64::from(minute);
            bucket.observe(&plan(used, at(1800.0)), at(f64::from(minute) * 60.0));
        }
        assert_eq!(bucket.forecast(at(1200.0)), None, "60 minutes left at this pace, reset in 10");
        let mut bucket = Bucket::new(&plan(0.2, at(9000.0)), T0).unwrap();
        for minute in 1..=20_u32 {
            let used = 0.2 + 0.01 * f64::from(minute);
            bucket.observe(&plan(used, at(9000.0)), at(f64::from(minute) * 60.0));
        }
        let forecast = bucket.forecast(at(1200.0)).expect("reset in 130 minutes");
        assert!((forecast.empty_in.as_secs_f64() / 60.0 - 60.0).abs() < 8.0, "{forecast:?}");
    }

    /// With its share of a pool it stays within a kilobyte.
    #[test]
    fn a_bucket_is_small() {
        let pool = size_of::<crate::engine::foresight::Pool>() / 3;
        let bytes = size_of::<Bucket>();
        assert!(bytes + pool <= 1_024, "{bytes} bytes, and {pool} of its pool");
    }

    /// An even use of a five-hour window runs out exactly at its end; half of that does not, twice does.
    #[test]
    fn a_window_says_how_it_stands_against_its_time() {
        let stands = |per_minute: f64| {
            let mut bucket = Bucket::new(&plan(0.0, at(18_000.0)), T0).unwrap();
            assert_eq!(bucket.pace(at(60.0)), None, "too early to say");
            for minute in 1..=120_u32 {
                // Uneven: nothing in two minutes of three.
                let used = f64::from(minute / 3 * 3) * per_minute;
                bucket.observe(&plan(used, at(18_000.0)), at(f64::from(minute) * 60.0));
            }
            bucket.pace(at(7_200.0)).unwrap()
        };
        let (half, twice) = (stands(0.5 / 300.0), stands(2.0 / 300.0));
        assert!((half.expected - 0.4).abs() < 1e-6 && (half.used - 0.2).abs() < 0.01, "{half:?}");
        assert!(half.run_out < 0.2 && twice.run_out > 0.8, "{half:?} {twice:?}");
        let minute = Bucket::new(&counted(60_000, 1_000), T0).unwrap();
        assert_eq!(minute.pace(at(30.0)), None);
    }

    #[test]
    fn late_observations_do_not_move_the_level() {
        let mut bucket = Bucket::new(&counted(60_000, 30_000), at(10.0)).unwrap();
        bucket.observe(&counted(60_000, 60_000), at(5.0));
        assert_eq!(bucket.remaining(at(10.0)), Some(Amount::new(30_000)));
        assert_eq!(bucket.late(), 1);
    }

    #[test]
    fn a_changed_limit_starts_the_trend_anew() {
        let mut bucket = Bucket::new(&counted(60_000, 60_000), T0).unwrap();
        for second in 1..=30_u32 {
            bucket.observe(&counted(60_000, 60_000 - 1_500 * u64::from(second)), at(f64::from(second)));
        }
        assert!(bucket.forecast(at(30.0)).is_some());
        bucket.observe(&counted(600_000, 550_000), at(31.0));
        assert_eq!(bucket.forecast(at(31.5)), None);
        assert_eq!(bucket.limit(), Some(Amount::new(600_000)));
    }
}
