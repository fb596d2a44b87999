//! Foresight: the warning that comes before the 429.
//!
//! A minute bucket empties faster than anybody scrapes, and what empties it is decided by calls that have
//! not come yet: knowing the level better brings little, knowing what callers are about to do brings much.
//! So one [`Pool`] keeps together what belongs together, the minute buckets of one account and model, and
//! looks at them from the side of the calls: each is booked when it starts, by its size, seconds before a
//! header tells of it.
//!
//! **Level.** Refilled by arithmetic (in a minute, until resets show another pace), charged at a call's start
//! (input, requests) and at its end (output), and set right by every header, within the header's own rounding.
//! What headers show beyond our own calls is the draw of others on the same buckets, and is expected to go on.
//! **Demand.** See [`demand`]: rates over 1, 16 and 32 seconds, the fast one believed as far as this
//! traffic's bursts were real before, the slow two giving the slope of a steady rise.
//! **Score.** How much longer than the horizon the expected draw, less the refill, would have to last to
//! empty what is left: `1` is "empty when the horizon ends", `2` "in half of it".
//! **Alert.** See [`record`]: two rungs, each with a shadow whose record says whether it may speak.
//!
//! Floating point is right here: rates are estimates, they decay, and no total is kept in them.

mod demand;
mod record;

use crate::limit::{Knobs, Level, Limiter, Reading, Refill, Timestamp, Window};
pub(in crate::engine) use demand::probability;
use demand::{Burstiness, Rates};
use record::{Life, Pressing, Rung};
use std::time::Duration;

/// A bucket of a pool, by what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Calls.
    Requests,
    /// Input tokens.
    Input,
    /// Output tokens.
    Output,
    /// Input and output together.
    Combined,
}

impl Slot {
    /// Every slot, in the order of arrays here.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Input, Self::Output, Self::Combined];

    /// The slot of a limiter; absent for limiters that calls do not draw on in a known way.
    pub fn of(limiter: &Limiter) -> Option<Self> {
        match limiter.as_str() {
            "requests" => Some(Self::Requests),
            "input_tokens" => Some(Self::Input),
            "output_tokens" => Some(Self::Output),
            "tokens" => Some(Self::Combined),
            _ => None,
        }
    }
}

/// Scores at which the two rungs speak.
const RUNGS: [f64; 2] = [1.0, 1.5];
/// Share of right warnings that a rung must have shown. 0.75 loses recall, 0.5 precision.
const WANTED: f64 = 0.7;
/// While every bucket has this part left nothing is announced.
const NEARLY_FULL: f64 = 0.93;
/// With no more than this left a warning is up whatever is forecast.
const LOW: f64 = 0.1;
/// A level that counts as a warning come true.
const NEARLY_EMPTY: f64 = 0.05;
/// Time to empty, in seconds, at which a warning turns critical.
const IMMINENT: f64 = 8.0;
/// Seconds between two critical alerts.
const QUIET: f64 = 120.0;
/// Seconds without a refusal before one.
const PEACE: f64 = 60.0;
/// With this part left a rung speaks whatever its record.
const LAST: f64 = 0.2;
/// The slow score counts this part of the horizon.
const SLOW: f64 = 0.55;
/// Shortest time to empty that is told apart, in seconds.
const SHORTEST: f64 = 0.05;
/// Time constant of what others draw, in seconds.
const OTHERS: f64 = demand::TAUS[1];
/// A bucket unobserved for longer is full, for all that is known, or drained by others: unknown.
pub(super) const UNOBSERVED: Duration = Duration::from_secs(60);
/// Headers that come more seconds after a later one say nothing.
const LATE: f64 = 1.0;
/// Calls whose sizes make a mean.
const CALLS: f64 = 200.0;
/// Tokens of a byte of JSON before any answer has told.
const TOKENS_PER_BYTE: f64 = 0.25;

/// A running mean over the last [`CALLS`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
    value: f64,
    square: f64,
    seen: f64,
}

impl Mean {
    fn learn(&mut self, value: f64) {
        self.seen = (self.seen + 1.0).min(CALLS);
        self.value += (value - self.value) / self.seen;
        self.square += (value * value - self.square) / self.seen;
    }
}

/// One bucket of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    capacity: f64,
    /// What comes back in a second: a sixtieth of the capacity, until resets say otherwise.
    refill: f64,
    level: f64,
    bursts: Burstiness,
    /// What others take, per second; below zero where our own calls take less than they are booked with.
    others: f64,
    /// When a header last told of it.
    seen: f64,
}

/// What a header says of one bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Which bucket.
    pub slot: Slot,
    /// The most it holds.
    pub limit: u64,
    /// What is left.
    pub remaining: u64,
    /// The step in which that is rounded.
    pub rounding: u64,
    /// When it is full again, on our clock.
    pub full: Option<Timestamp>,
}

impl Told {
    /// What a reading says, if it is of a bucket that refills within a minute and whose level is counted.
    pub fn of(reading: &Reading) -> Option<Self> {
        let Some(Level::Counted { limit, remaining }) = reading.level else { return None };
        let minute = reading.window == Window::Minute && reading.refill == Refill::Continuous;
        let slot = Slot::of(&reading.limiter).filter(|_| minute && limit.get() > 0)?;
        Some(Self {
            slot,
            limit: limit.get(),
            remaining: remaining.get(),
            rounding: reading.rounding.get(),
            full: reading.resets,
        })
    }
}

/// A bucket as it is seen now.
#[derive(Clone, Copy, Debug)]
struct Seen {
    slot: Slot,
    /// The part that is left.
    left: f64,
    score: f64,
}

struct Outlook {
    soonest: Seen,
    lowest: Seen,
}

/// What a pool announces.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signal {
    /// A warning is up, about this bucket.
    pub warning: Option<Slot>,
    /// It is critical.
    pub critical: bool,
}

/// The minute buckets of one account and model, and the calls that draw on them.
#[derive(Clone, Debug)]
pub struct Pool {
    origin: Timestamp,
    now: f64,
    slots: [Option<State>; 4],
    calls: Rates,
    input: Rates,
    inputs: Mean,
    outputs: Mean,
    in_flight: u32,
    tokens_per_byte: f64,
    sized: f64,
    refused: Option<f64>,
    rungs: [Rung; 2],
    warning: Life,
    /// The rung that began it.
    threshold: f64,
    about: Slot,
    critical: bool,
    /// When it last was.
    paged: Option<f64>,
}

impl Pool {
    /// A pool of which nothing is known.
    pub fn new(at: Timestamp) -> Self {
        Self {
            origin: at,
            now: 0.0,
            slots: [None; 4],
            calls: Rates::default(),
            input: Rates::default(),
            inputs: Mean::default(),
            outputs: Mean::default(),
            in_flight: 0,
            tokens_per_byte: TOKENS_PER_BYTE,
            sized: 0.0,
            refused: None,
            rungs: RUNGS.map(Rung::new),
            warning: Life::default(),
            threshold: RUNGS[0],
            about: Slot::Requests,
            critical: false,
            paged: None,
        }
    }

    fn secs(&self, at: Timestamp) -> f64 {
        (at.micros() as f64 - self.origin.micros() as f64) / 1e6
    }

    /// Lets time pass: levels rise, rates fade. Time that goes backwards changes nothing.
    fn advance(&mut self, at: Timestamp) -> f64 {
        let now = self.secs(at);
        let dt = now - self.now;
        if dt <= 0.0 {
            return self.now;
        }
        self.now = now;
        let left = demand::decay(dt);
        for slot in Slot::ALL {
            if self.slots[slot as usize].is_none() {
                continue;
            }
            let rates = self.rates(slot);
            let Some(state) = &mut self.slots[slot as usize] else { continue };
            state.level = (state.level + state.refill * dt).min(state.capacity);
            state.bursts.learn(&rates, dt);
            state.others *= left[1];
        }
        self.calls.decay(&left);
        self.input.decay(&left);
        now
    }

    /// What calls ask of a bucket.
    fn rates(&self, slot: Slot) -> Rates {
        let output = || Rates::of_mean(&self.calls, self.outputs.value, self.outputs.square);
        match slot {
            Slot::Requests => self.calls,
            Slot::Input => self.input,
            Slot::Output => output(),
            Slot::Combined => self.input.with(&output(), self.outputs.value),
        }
    }

    /// A call starts, with a body of so many bytes. Gives what it is booked with, in input tokens.
    /// Without a known body it is one as they are.
    pub fn start(&mut self, body: Option<u64>, at: Timestamp) -> f64 {
        self.advance(at);
        let tokens = body.map_or(self.inputs.value, |bytes| bytes as f64 * self.tokens_per_byte);
        self.calls.add(1.0);
        self.input.add(tokens);
        self.inputs.learn(tokens);
        self.in_flight = self.in_flight.saturating_add(1);
        self.charge(Slot::Requests, 1.0);
        self.charge(Slot::Input, tokens);
        self.charge(Slot::Combined, tokens);
        tokens
    }

    fn charge(&mut self, slot: Slot, amount: f64) {
        if let Some(state) = &mut self.slots[slot as usize] {
            state.level = (state.level - amount).min(state.capacity);
        }
    }

    /// A call that was booked with `tokens` was refused: it took nothing. `empty` if it was one of these buckets
    /// that refused it; a gateway's limit, or the traffic's shape, says nothing of them.
    pub fn refused(&mut self, tokens: f64, empty: bool, at: Timestamp) {
        let now = self.advance(at);
        self.charge(Slot::Requests, -1.0);
        self.charge(Slot::Input, -tokens);
        self.charge(Slot::Combined, -tokens);
        // What was refused comes again, or not at all: neither is further demand.
        self.calls.take_back(1.0);
        self.input.take_back(tokens);
        if !empty {
            return;
        }
        self.refused = Some(now);
        self.rungs.iter_mut().for_each(|rung| rung.came_true(true, now));
        self.warning.end(now);
        self.turn_critical(None, false, now);
    }

    /// A call is over. `used` is what it took of input and output, where that was told.
    pub fn end(&mut self, body: Option<u64>, used: Option<(u64, u64)>, at: Timestamp) {
        self.advance(at);
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some((input, output)) = used else { return };
        self.outputs.learn(output as f64);
        self.charge(Slot::Output, output as f64);
        self.charge(Slot::Combined, output as f64);
        let Some(body) = body.filter(|bytes| *bytes > 0) else {
            self.inputs.learn(input as f64);
            return;
        };
        self.sized = (self.sized + 1.0).min(CALLS);
        self.tokens_per_byte += (input as f64 / body as f64 - self.tokens_per_byte) / self.sized;
    }

    /// A header tells of a bucket.
    pub fn told(&mut self, told: Told, at: Timestamp) {
        let now = self.advance(at);
        if now - self.secs(at) > LATE {
            return;
        }
        let capacity = told.limit as f64;
        let full = told.full.map(|full| self.secs(full) - now);
        let slot = &mut self.slots[told.slot as usize];
        let known = slot.filter(|state| state.capacity == capacity).map(|state| state.refill);
        let refill = known.unwrap_or(capacity / 60.0);
        let (low, high) = bounds(capacity, refill, &told, full);
        match slot {
            Some(state) if state.capacity == capacity => {
                state.refill = learnt_refill(refill, capacity, &told, full);
                let right = state.level.clamp(low, high);
                // Below what we booked: somebody else takes it too. Above: what we booked was too much.
                let since = now - state.seen;
                state.others += (state.level - right) / OTHERS;
                if since > OTHERS * 2.0 {
                    state.others = state.others.min((state.level - right) / since);
                }
                (state.level, state.seen) = (right, now);
            }
            // Another limit: what was learnt of its level does not hold.
            _ => {
                let level = (told.remaining as f64).clamp(low, high);
                let bursts = Burstiness::default();
                *slot = Some(State { capacity, refill, level, bursts, others: 0.0, seen: now });
            }
        }
        if (told.remaining as f64) < NEARLY_EMPTY * capacity {
            self.rungs.iter_mut().for_each(|rung| rung.came_true(false, now));
        }
    }

    /// What is left of a bucket beyond what the next call and those in flight will take.
    fn room(&self, slot: Slot, level: f64) -> f64 {
        let answers = || f64::from(self.in_flight) * self.outputs.value;
        match slot {
            Slot::Requests => level - 1.0,
            Slot::Input => level - self.inputs.value,
            Slot::Output => level - answers(),
            Slot::Combined => level - self.inputs.value - answers(),
        }
    }

    /// Score of each bucket: the horizon as a multiple of the time in which it will be empty.
    fn score(&self, slot: Slot, knobs: &Knobs) -> f64 {
        let Some(state) = &self.slots[slot as usize] else { return 0.0 };
        if self.now - state.seen > UNOBSERVED.as_secs_f64() {
            return 0.0;
        }
        let (rates, others) = self.rates(slot).shared_with(state.others);
        let refill = state.refill;
        let room = self.room(slot, state.level).max(0.0);
        let horizon = knobs.horizon.as_secs_f64();
        let of = |draw: f64, horizon: f64| {
            let net = draw + others - refill;
            if net > 0.0 { horizon / (room / net).max(SHORTEST) } else { 0.0 }
        };
        let fast = demand::expected(&rates, state.bursts.believed(), knobs.caution);
        // A rise that goes on stands, on average, where it will be in the middle of the horizon.
        let rising = demand::rising(&rates, knobs.caution, horizon / 2.0);
        of(fast, horizon).max(of(demand::steady(&rates), SLOW * horizon)).max(of(rising, horizon))
    }

    /// Probability that a bucket is empty within the horizon, if calls come as they are expected to; absent
    /// where nothing is known of it.
    pub fn run_out(&self, slot: Slot, knobs: &Knobs) -> Option<f64> {
        let state = self.slots[slot as usize].as_ref()?;
        if self.now - state.seen > UNOBSERVED.as_secs_f64() {
            return None;
        }
        let (rates, others) = self.rates(slot).shared_with(state.others);
        let horizon = knobs.horizon.as_secs_f64();
        let believed = state.bursts.believed();
        let mean = demand::expected(&rates, believed, 0.0);
        let doubt = mean - demand::expected(&rates, believed, 1.0);
        let drawn = (mean + others - state.refill) * horizon;
        // How wrong the rate may be, and how unevenly calls come at that rate.
        let deviation = (doubt * horizon).hypot((rates.squares[1] * horizon).sqrt());
        let short = drawn - self.room(slot, state.level).max(0.0);
        Some(if deviation > 0.0 { probability(short / deviation) } else { f64::from(u8::from(short > 0.0)) })
    }

    /// Calls that are open.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The clock was set back.
    pub fn set_back(&mut self, by: Duration) {
        self.origin = self.origin.minus(by);
    }

    /// When a header last told of any bucket; absent before the first.
    pub fn observed(&self) -> Option<Timestamp> {
        let last = self.slots.iter().flatten().map(|state| state.seen).reduce(f64::max)?;
        Some(self.origin.plus(Duration::from_secs_f64(last.max(0.0))))
    }

    /// When this bucket will be empty, if it is draining and that comes within a minute.
    pub fn empty_in(&self, slot: Slot, knobs: &Knobs) -> Option<Duration> {
        let score = self.score(slot, knobs);
        let secs = knobs.horizon.as_secs_f64() / score;
        (score > 0.0 && secs <= 60.0).then(|| Duration::from_secs_f64(secs))
    }

    /// Looks at what is known at a moment: every tick, and after every event.
    pub fn look(&mut self, knobs: &Knobs, at: Timestamp) -> Signal {
        let now = self.advance(at);
        let Some(Outlook { soonest, lowest }) = self.outlook(knobs) else {
            self.warning.end(now);
            self.critical = false;
            return Signal::default();
        };
        let score = soonest.score;
        for rung in &mut self.rungs {
            rung.step(score, lowest.left, self.refused, now);
        }
        let speaker = self.rungs.iter().find(|rung| rung.speaks(score, WANTED));
        // A bucket that is all but empty needs no forecast.
        let low = lowest.left <= LOW;
        let foreseen = speaker.is_some() || (soonest.left < LAST && score >= RUNGS[0]);
        if self.warning.began().is_none() {
            self.about = if foreseen { soonest.slot } else { lowest.slot };
            self.threshold = speaker.map_or(RUNGS[0], |rung| rung.threshold);
        }
        let pressing = if low { score.max(self.threshold) } else { score };
        let outlook = Pressing { score: pressing, left: lowest.left, ages: !low };
        let up = self.warning.step(outlook, self.threshold, foreseen || low, self.refused, now);
        let imminent = score >= knobs.horizon.as_secs_f64() / IMMINENT;
        let near =
            if lowest.left < NEARLY_EMPTY { Some(lowest.slot) } else { imminent.then_some(soonest.slot) };
        self.turn_critical(near.filter(|_| up), up, now);
        Signal { warning: up.then_some(self.about), critical: self.critical }
    }

    /// The bucket that will be empty first, and the one with the smallest part left. Absent where none is
    /// observed.
    fn outlook(&self, knobs: &Knobs) -> Option<Outlook> {
        let known = |slot: Slot| {
            let state = self.slots[slot as usize]?;
            let fresh = self.now - state.seen <= UNOBSERVED.as_secs_f64();
            let left = state.level / state.capacity;
            fresh.then(|| Seen { slot, left, score: self.score(slot, knobs) })
        };
        let all = Slot::ALL.map(known);
        let all = || all.iter().flatten().copied();
        let lowest = all().min_by(|a, b| a.left.total_cmp(&b.left))?;
        let mut soonest = all().max_by(|a, b| a.score.total_cmp(&b.score).then(b.left.total_cmp(&a.left)))?;
        if lowest.left >= NEARLY_FULL {
            soonest.score = 0.0;
        }
        Some(Outlook { soonest, lowest })
    }

    /// A warning turns critical once, and stays so until it ends: one page for one episode, about the bucket
    /// that is near its end then.
    fn turn_critical(&mut self, near: Option<Slot>, up: bool, now: f64) {
        let peace = self.refused.is_none_or(|at| now - at >= PEACE);
        if self.critical {
            self.paged = Some(now);
            self.critical = up;
        } else if let Some(slot) = near
            && peace
            && self.paged.is_none_or(|at| now - at >= QUIET)
        {
            (self.critical, self.about) = (true, slot);
        }
    }
}

/// What a header leaves open: its level is rounded, and its reset comes in whole seconds, which for a
/// small bucket is the finer of the two.
fn bounds(capacity: f64, refill: f64, told: &Told, full: Option<f64>) -> (f64, f64) {
    let (remaining, rounding) = (told.remaining as f64, told.rounding as f64);
    let (mut low, mut high) = if rounding > 1.0 {
        (remaining - rounding / 2.0, remaining + rounding / 2.0)
    } else {
        (remaining, remaining + 1.0)
    };
    if told.remaining == 0 {
        low = f64::NEG_INFINITY;
    }
    if told.remaining == told.limit {
        high = capacity;
    }
    if let Some(full) = full.filter(|full| (0.0..=capacity / refill + 1.0).contains(full)) {
        let at = |missing: f64| (capacity - refill * missing.max(0.0)).max(0.0);
        let (least, most) = (at(full + 1.0), at(full - 1.0));
        // Where the two contradict each other the level is what counts.
        if least <= high && most >= low {
            (low, high) = (low.max(least), high.min(most));
        }
    }
    (low.min(capacity), high.min(capacity).max(low.min(capacity)))
}

/// What comes back in a second, as a header shows it that says both what is missing and when it will be there:
/// a provider may refill faster or slower than in a minute. Averaged, because resets come in whole seconds.
fn learnt_refill(before: f64, capacity: f64, told: &Told, full: Option<f64>) -> f64 {
    const SEEN: f64 = 50.0;
    let missing = capacity - told.remaining as f64;
    // On average a reset is rounded up by half a second.
    let Some(full) = full.filter(|full| *full >= 10.0 && missing > 2.0 * told.rounding as f64) else {
        return before;
    };
    let minute = capacity / 60.0;
    let shown = (missing / (full - 0.5)).clamp(minute / 4.0, minute * 4.0);
    before + (shown - before) / SEEN
}

#[cfg(test)]
mod tests;
