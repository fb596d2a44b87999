//! Limits of the traffic's shape: how fast usage may grow, and how many calls may run at once.
//!
//! No header tells of them (Anthropic's acceleration limit and its concurrency limit; facts/anthropic.md
//! §4). So nothing is known, and nothing is said, before one of them has refused a call. Then the ceiling is
//! learnt: from the refusal's own words where they state it ("your current limit is 58,276 input tokens per minute,
//! and will increase to 68,276 at the next minute boundary"), else from what we asked for when it came. From then on own
//! traffic is held against it, until nothing has refused for an hour.

use super::alert::{Change, Latch};
use super::window::Window;
use crate::limit::{Limiter, Timestamp};
use std::time::Duration;

/// Slices of own input, five seconds each: a minute.
const SLICES: usize = 12;
const SLICE: Duration = Duration::from_secs(5);
/// How long a ceiling is believed after a refusal showed it.
const BELIEVED: Duration = Duration::from_secs(3_600);
/// The part of a ceiling at which it is spoken of, and below which it is well again.
const PRESSING: f64 = 0.8;
const CLEAR: f64 = 0.6;
/// How long it must be clear.
const HOLD: Duration = Duration::from_secs(20);

/// Which limit of the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Growth of uncached input, from minute to minute.
    Acceleration,
    /// Calls at the same time.
    Concurrency,
}

impl Shape {
    pub(super) const ALL: [Self; 2] = [Self::Acceleration, Self::Concurrency];

    /// The limiter's name.
    pub(super) const fn limiter(self) -> Limiter {
        match self {
            Self::Acceleration => Limiter::ACCELERATION,
            Self::Concurrency => Limiter::CONCURRENCY,
        }
    }
}

/// A ceiling, as a refusal showed it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ceiling {
    /// What was allowed then.
    limit: f64,
    /// What each further minute adds.
    step: f64,
    at: Timestamp,
}

impl Ceiling {
    /// What is allowed at `now`; absent once it is too old to believe.
    fn at(&self, now: Timestamp) -> Option<f64> {
        let minute = |at: Timestamp| at.micros().div_euclid(60_000_000);
        let passed = minute(now).saturating_sub(minute(self.at)).max(0) as f64;
        (now.since(self.at) < BELIEVED).then_some(self.limit + passed * self.step)
    }
}

/// How much of a ceiling is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Use {
    /// The ceiling.
    pub(super) limit: f64,
    /// What is asked for.
    pub(super) used: f64,
}

/// What is known of the shape that one pool of calls may have.
#[derive(Clone, Debug)]
pub(super) struct Burst {
    input: Window<SLICES>,
    ceilings: [Option<Ceiling>; 2],
    alerts: [Latch; 2],
}

impl Burst {
    pub(super) fn new() -> Self {
        Self { input: Window::new(SLICE), ceilings: [None; 2], alerts: [Latch::default(); 2] }
    }

    /// A call of so many uncached input tokens starts.
    pub(super) fn start(&mut self, tokens: f64, now: Timestamp) {
        self.input.add(tokens as i64, now);
    }

    /// Own input of the last minute, the call that starts now among it.
    fn this_minute(&self, now: Timestamp) -> f64 {
        self.input.sum(SLICES, now) as f64
    }

    /// A call was refused for the shape of the traffic, with `in_flight` calls open. `stated` is the ceiling
    /// that the refusal states, and the one of the next minute.
    pub(super) fn refused(
        &mut self,
        shape: Shape,
        stated: (Option<u64>, Option<u64>),
        in_flight: u32,
        now: Timestamp,
    ) {
        let limit = stated.0.map(|limit| limit as f64);
        let ceiling = match shape {
            Shape::Acceleration => {
                let seen = self.this_minute(now);
                let step =
                    stated.1.zip(stated.0).map_or(0, |(next, limit)| next.saturating_sub(limit)) as f64;
                // Without a stated step: half as much again each minute is what such limits have let pass.
                let limit = limit.unwrap_or(seen);
                Ceiling { limit, step: if step > 0.0 { step } else { limit / 2.0 }, at: now }
            }
            // One call alone that is refused shows that others use the limit up, and nothing of its height.
            Shape::Concurrency => {
                let seen = if in_flight > 1 { f64::from(in_flight - 1) } else { 0.0 };
                Ceiling { limit: limit.unwrap_or(seen), step: 0.0, at: now }
            }
        };
        if ceiling.limit > 0.0 {
            self.ceilings[shape as usize] = Some(ceiling);
        }
    }

    /// How much of a ceiling is used; absent where none is known.
    pub(super) fn used(&self, shape: Shape, in_flight: u32, now: Timestamp) -> Option<Use> {
        let limit = self.ceilings[shape as usize]?.at(now)?;
        let used = match shape {
            Shape::Acceleration => self.this_minute(now),
            Shape::Concurrency => f64::from(in_flight),
        };
        Some(Use { limit, used })
    }

    /// Looks at both; how many alerts began or ended.
    pub(super) fn look(&mut self, in_flight: u32, now: Timestamp) -> u64 {
        let mut changed = 0;
        for shape in Shape::ALL {
            let share = self.used(shape, in_flight, now).map(|of| of.used / of.limit);
            let latch = &mut self.alerts[shape as usize];
            let change = match share {
                None => latch.lapse(),
                Some(share) => latch.step(share >= PRESSING, share < CLEAR, HOLD, now),
            };
            changed += u64::from(change != Change::None);
        }
        changed
    }

    /// Since when the alert on a shape is up.
    pub(super) fn up(&self, shape: Shape) -> Option<Timestamp> {
        self.alerts[shape as usize].since()
    }

    /// Nobody is known any more whose ceiling this is.
    pub(super) fn forget(&mut self, shape: Shape) {
        self.ceilings[shape as usize] = None;
        self.alerts[shape as usize] = Latch::default();
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        self.input.set_back(by);
        self.alerts.iter_mut().for_each(|latch| latch.set_back(by));
        for ceiling in self.ceilings.iter_mut().flatten() {
            ceiling.at = ceiling.at.minus(by);
        }
    }
}

const _: () = assert!(SLICE.as_secs() * SLICES as u64 == 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u32) -> Timestamp {
        Timestamp::from_secs(1_790_000_040).plus(Duration::from_secs(u64::from(secs)))
    }

    /// A second of traffic at a time; when the alert is up.
    fn drive(burst: &mut Burst, seconds: std::ops::Range<u32>, tokens: f64) -> Option<u32> {
        seconds.into_iter().find(|second| {
            burst.start(tokens, at(*second));
            burst.look(0, at(*second));
            burst.up(Shape::Acceleration).is_some()
        })
    }

    #[test]
    fn before_a_refusal_no_rise_is_too_steep() {
        let mut burst = Burst::new();
        assert_eq!(drive(&mut burst, 0..60, 10.0), None);
        assert_eq!(drive(&mut burst, 60..120, 100_000.0), None);
    }

    /// 58,276 now, and 10,000 more each minute, as the refusal says.
    #[test]
    fn a_stated_ramp_is_held_against_own_input_and_grows_by_the_minute() {
        let mut burst = Burst::new();
        burst.refused(Shape::Acceleration, (Some(58_276), Some(68_276)), 1, at(0));
        assert_eq!(drive(&mut burst, 0..61, 500.0), None, "30,000 a minute");
        let up = drive(&mut burst, 61..120, 2_000.0).expect("120,000 a minute");
        assert!((70..=90).contains(&up), "{up}");
        let of = |minutes: u32| burst.used(Shape::Acceleration, 0, at(minutes * 60)).unwrap().limit;
        assert_eq!((of(0), of(5)), (58_276.0, 108_276.0));
        assert_eq!(burst.used(Shape::Acceleration, 0, at(3_700)), None, "an hour later nothing is known");
    }

    #[test]
    fn a_ceiling_that_is_not_stated_is_what_was_asked_for_when_it_came() {
        let mut burst = Burst::new();
        drive(&mut burst, 0..60, 1_000.0);
        burst.refused(Shape::Acceleration, (None, None), 1, at(59));
        assert_eq!(burst.used(Shape::Acceleration, 0, at(59)).unwrap().limit, 60_000.0);
        burst.look(0, at(59));
        assert!(burst.up(Shape::Acceleration).is_some());
    }

    #[test]
    fn calls_at_once_are_held_against_those_that_were_refused() {
        let mut burst = Burst::new();
        burst.refused(Shape::Concurrency, (None, None), 11, at(0));
        let up = |burst: &mut Burst, in_flight, second| {
            burst.look(in_flight, at(second));
            burst.up(Shape::Concurrency).is_some()
        };
        assert!(!up(&mut burst, 7, 1));
        assert!(up(&mut burst, 8, 2));
        assert!(up(&mut burst, 7, 3), "no flapping");
        assert!(up(&mut burst, 2, 4));
        assert!(!up(&mut burst, 2, 30));
    }
}
