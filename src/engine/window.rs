//! A rolling sum: what passed in the last `k` slices of time.
//!
//! Slices are numbered by absolute time (`now / width`), so nothing drifts, two windows of one
//! width agree on their edges, and a pause of any length clears exactly what it should. Sums are
//! taken anew at each reading: a running sum is one missed subtraction away from being wrong for
//! ever. Amounts are signed, because a provider that rounds makes a bucket seem to rise now and
//! then, and those steps must cancel out.

use crate::limit::Timestamp;
use std::time::Duration;

/// A ring of `N` slices.
#[derive(Clone, Debug)]
pub struct Window<const N: usize> {
    slices: [i64; N],
    width: i64,
    newest: i64,
}

impl<const N: usize> Window<N> {
    /// An empty window of `N` slices of `width` each (at least a microsecond).
    pub fn new(width: Duration) -> Self {
        let width = i64::try_from(width.as_micros()).unwrap_or(i64::MAX).max(1);
        Self { slices: [0; N], width, newest: i64::MIN }
    }

    /// Moves to the slice of `now`, clearing what fell out. Time going backwards changes nothing.
    fn roll(&mut self, now: Timestamp) {
        let slice = now.micros().div_euclid(self.width);
        if self.newest == i64::MIN {
            self.newest = slice;
            return;
        }
        let steps = slice.saturating_sub(self.newest);
        if steps <= 0 {
            return;
        }
        for step in 1..=steps.min(N as i64) {
            self.slices[Self::index(self.newest + step)] = 0;
        }
        self.newest = slice;
    }

    fn index(slice: i64) -> usize {
        slice.rem_euclid(N as i64) as usize
    }

    /// Adds `amount` at `now`.
    pub fn add(&mut self, amount: i64, now: Timestamp) {
        self.roll(now);
        let at = Self::index(self.newest);
        self.slices[at] = self.slices[at].saturating_add(amount);
    }

    /// Adds `amount` as spread evenly over the time from `from` to `now`: a draw seen after a
    /// silence did not happen all at once. What falls before the window is forgotten with it.
    pub fn add_spread(&mut self, amount: i64, from: Timestamp, now: Timestamp) {
        self.roll(now);
        let last = self.newest;
        let first = from.micros().div_euclid(self.width).min(last);
        let slices = last - first + 1;
        let oldest = last - (N as i64 - 1);
        let mut given = 0;
        for (nth, slice) in
            (first..=last).enumerate().skip(usize::try_from((oldest - first).max(0)).unwrap_or(0))
        {
            // Cumulative shares, so that the parts of what stays in the window add up.
            let share = |n: i64| (i128::from(amount) * i128::from(n) / i128::from(slices)) as i64;
            let part = share(nth as i64 + 1) - share(nth as i64);
            let at = Self::index(slice);
            self.slices[at] = self.slices[at].saturating_add(part);
            given += part;
        }
        debug_assert!(first < oldest || given == amount, "all of it lands when all of it fits");
    }

    /// The clock was set back: what was counted stays, as having been counted that much earlier.
    pub fn set_back(&mut self, by: Duration) {
        if self.newest == i64::MIN {
            return;
        }
        let slices = i64::try_from(by.as_micros()).unwrap_or(i64::MAX) / self.width;
        let old = self.slices;
        let newest = self.newest.saturating_sub(slices);
        for back in 0..N as i64 {
            self.slices[Self::index(newest.saturating_sub(back))] =
                old[Self::index(self.newest.saturating_sub(back))];
        }
        self.newest = newest;
    }

    /// Raises the slice of `now` to at least `value`: for windows that keep peaks.
    pub fn raise(&mut self, value: i64, now: Timestamp) {
        self.roll(now);
        let at = Self::index(self.newest);
        self.slices[at] = self.slices[at].max(value);
    }

    /// The sum of the last `k` slices, the one of `now` among them.
    pub fn sum(&self, k: usize, now: Timestamp) -> i64 {
        self.last(k, now).fold(0, i64::saturating_add)
    }

    /// Mean and variance of `k` slices before the one of `now`, which is not over yet.
    pub fn spread(&self, k: usize, now: Timestamp) -> (f64, f64) {
        let whole = k.clamp(1, N - 1);
        let slices = || self.last(whole + 1, now).skip(1).map(|slice| slice as f64);
        let mean = slices().sum::<f64>() / whole as f64;
        let off = slices().map(|slice| (slice - mean).powi(2)).sum::<f64>();
        (mean, off / (whole as f64 - 1.0).max(1.0))
    }

    /// The largest slice of the whole window.
    pub fn max(&self, now: Timestamp) -> i64 {
        self.last(N, now).max().unwrap_or(0)
    }

    fn last(&self, k: usize, now: Timestamp) -> impl Iterator<Item = i64> + '_ {
        let current = now.micros().div_euclid(self.width).max(self.newest);
        let newest = self.newest;
        let oldest_kept = newest.saturating_sub(N as i64 - 1);
        (0..k.min(N) as i64).map(move |back| current.saturating_sub(back)).map(move |slice| {
            if newest != i64::MIN && slice <= newest && slice >= oldest_kept {
                self.slices[Self::index(slice)]
            } else {
                0
            }
        })
    }

    /// Time that the last `k` slices cover at `now`: the current one only in part.
    pub fn covered(&self, k: usize, now: Timestamp) -> Duration {
        let into = now.micros().rem_euclid(self.width);
        let whole = (k.clamp(1, N) as i64 - 1).saturating_mul(self.width);
        Duration::from_micros(u64::try_from(whole.saturating_add(into)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    proptest! {
        /// The ring agrees with a list of everything that ever happened.
        #[test]
        fn agrees_with_a_list_of_all_events(
            steps in prop::collection::vec((0_i64..3_000_000, -50_i64..100), 1..200),
            k in 1_usize..=10,
        ) {
            let mut window = Window::<10>::new(SECOND);
            let mut events: Vec<(i64, i64)> = Vec::new();
            let mut now = 0;
            for (step, amount) in steps {
                now += step;
                window.add(amount, Timestamp::from_micros(now));
                events.push((now / 1_000_000, amount));
                let oldest = now / 1_000_000 - (k as i64 - 1);
                let wanted: i64 = events.iter().filter(|(s, _)| *s >= oldest).map(|(_, a)| a).sum();
                prop_assert_eq!(window.sum(k, Timestamp::from_micros(now)), wanted);
                let later = Timestamp::from_micros(now + 4_000_000);
                let oldest = (now + 4_000_000) / 1_000_000 - (k as i64 - 1);
                let wanted: i64 = events.iter().filter(|(s, _)| *s >= oldest).map(|(_, a)| a).sum();
                prop_assert_eq!(window.sum(k, later), wanted, "read later without a new event");
            }
        }

        #[test]
        fn a_spread_loses_and_invents_nothing(amount in -1_000_i64..1_000_000, gap in 0_i64..9) {
            let mut window = Window::<10>::new(SECOND);
            let now = Timestamp::from_secs(1_000);
            window.add_spread(amount, now.minus(SECOND * gap as u32), now);
            prop_assert_eq!(window.sum(10, now), amount);
        }
    }

    #[test]
    fn a_draw_after_a_long_silence_is_not_a_spike() {
        let mut window = Window::<10>::new(SECOND);
        let now = Timestamp::from_secs(1_000);
        window.add_spread(60_000, now.minus(SECOND * 59), now);
        assert_eq!(window.sum(1, now), 1_000);
        assert_eq!(window.sum(10, now), 10_000);
    }

    #[test]
    fn time_going_backwards_changes_nothing_old() {
        let mut window = Window::<10>::new(SECOND);
        window.add(5, Timestamp::from_secs(100));
        window.add(7, Timestamp::from_secs(90));
        assert_eq!(window.sum(10, Timestamp::from_secs(100)), 12);
    }

    #[test]
    fn a_clock_set_back_keeps_what_was_counted() {
        let mut window = Window::<10>::new(SECOND);
        for second in 100..105 {
            window.add(second, Timestamp::from_secs(second));
        }
        window.set_back(SECOND * 37);
        assert_eq!(window.sum(10, Timestamp::from_secs(104 - 37)), 100 + 101 + 102 + 103 + 104);
        assert_eq!(window.sum(1, Timestamp::from_secs(104 - 37)), 104);
    }

    #[test]
    fn peaks_fall_out_with_their_slice() {
        let mut window = Window::<10>::new(SECOND);
        window.raise(9, Timestamp::from_secs(100));
        window.raise(4, Timestamp::from_secs(105));
        assert_eq!(window.max(Timestamp::from_secs(109)), 9);
        assert_eq!(window.max(Timestamp::from_secs(110)), 4);
        assert_eq!(window.max(Timestamp::from_secs(120)), 0);
    }
}
