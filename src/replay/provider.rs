//! The simulated provider of the backtest (DESIGN, "The backtest"; keep it as it is pinned there).
//!
//! Token buckets of requests, input and output, each refilled over 60 s. Input is charged on arrival,
//! output when the answer ends. The first byte comes 0.3 s and a twenty-thousandth of a second for
//! each input token after the arrival, then 60 output tokens a second; headers are made at the first
//! byte, and token counts in them are rounded to 1000.

use std::cmp::Ordering;

/// What varies with the seed: the pinned values, each up to a fifth more or less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Physics {
    /// Seconds to the first byte of an empty prompt.
    pub first_byte: f64,
    /// Input tokens read in a second.
    pub input_rate: f64,
    /// Output tokens written in a second.
    pub output_rate: f64,
}

impl Physics {
    /// The pinned values.
    pub const PINNED: Self = Self { first_byte: 0.3, input_rate: 20_000.0, output_rate: 60.0 };
}

/// One call that somebody wants to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds from the beginning.
    pub at: f64,
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Made by somebody else on the same buckets: no sidecar sees it.
    pub unseen: bool,
}

/// The three limiters, in the order of every array here.
pub const LIMITERS: usize = 3;

/// One token bucket, refilled in 60 s.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    capacity: f64,
    level: f64,
    at: f64,
}

impl Bucket {
    fn level(&self, now: f64) -> f64 {
        (self.level + self.capacity / 60.0 * (now - self.at).max(0.0)).min(self.capacity)
    }

    fn take(&mut self, amount: f64, now: f64) {
        self.level = self.level(now) - amount;
        self.at = self.at.max(now);
    }
}

/// What a limiter's headers say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    /// The limit.
    pub limit: u64,
    /// What is left, rounded as the provider rounds.
    pub remaining: u64,
    /// When it is full again, in seconds from the beginning.
    pub full_at: f64,
}

/// The buckets of one account.
#[derive(Clone, Copy, Debug)]
pub struct Provider {
    buckets: [Bucket; LIMITERS],
}

impl Provider {
    /// Full buckets of requests, input and output tokens per minute.
    pub fn new(capacities: [f64; LIMITERS]) -> Self {
        Self { buckets: capacities.map(|capacity| Bucket { capacity, level: capacity, at: 0.0 }) }
    }

    /// Admits a call that arrives, or says how long until it would be.
    ///
    /// # Errors
    /// The wait, in seconds, when a bucket has too little left.
    pub fn admit(&mut self, call: &Arrival, now: f64) -> Result<(), f64> {
        let wanted = [1.0, call.input as f64, 1.0];
        let wait = self
            .buckets
            .iter()
            .zip(wanted)
            .map(|(bucket, wanted)| (wanted - bucket.level(now)) / (bucket.capacity / 60.0))
            .fold(0.0, f64::max);
        if wait > 0.0 {
            return Err(wait);
        }
        self.buckets[0].take(1.0, now);
        self.buckets[1].take(call.input as f64, now);
        Ok(())
    }

    /// An answer of this many tokens has ended.
    pub fn settle(&mut self, output: u64, now: f64) {
        self.buckets[2].take(output as f64, now);
    }

    /// The share left of each bucket.
    pub fn shares(&self, now: f64) -> [f64; LIMITERS] {
        self.buckets.map(|bucket| bucket.level(now) / bucket.capacity)
    }

    /// What headers made now say.
    pub fn headers(&self, now: f64) -> [Shown; LIMITERS] {
        let roundings = [1.0, 1_000.0, 1_000.0];
        let mut shown = [Shown { limit: 0, remaining: 0, full_at: 0.0 }; LIMITERS];
        for ((shown, bucket), rounding) in shown.iter_mut().zip(&self.buckets).zip(roundings) {
            let level = bucket.level(now);
            let missing = (bucket.capacity - level) / bucket.capacity * 60.0;
            *shown = Shown {
                limit: bucket.capacity as u64,
                remaining: ((level.max(0.0) / rounding).round() * rounding).min(bucket.capacity) as u64,
                // In whole seconds, as RFC 3339 has them there.
                full_at: (now + missing).ceil(),
            };
        }
        shown
    }
}

/// Something that happens in the simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// A call arrives.
    Start,
    /// Its answer's head comes.
    Head {
        /// 200 or 429.
        status: u16,
        /// What its headers say.
        shown: [Shown; LIMITERS],
        /// Seconds that a refusal asks to wait.
        retry_after: f64,
    },
    /// Its answer ends.
    End,
}

/// One event; `call` is the call's number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Seconds from the beginning.
    pub at: f64,
    /// The call's number.
    pub call: usize,
    /// The call.
    pub arrival: Arrival,
    /// What happens.
    pub what: What,
}

/// A whole run: what a sidecar sees, and the truth beside it.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Everything that the sidecar sees, in order of time.
    pub events: Vec<Event>,
    /// When calls were refused.
    pub refused: Vec<f64>,
    /// Moments at which some bucket stood below 5 %.
    pub low: Vec<f64>,
    /// Moments at which every bucket stood at 90 % or more.
    pub full: Vec<f64>,
    /// The smallest share left, each half second: for the plot.
    pub level: Vec<(f64, f64)>,
    /// How long it lasted, in seconds.
    pub length: f64,
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Arrive { attempt: u32 },
    FirstByte,
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    at: f64,
    order: u64,
    call: usize,
    pending: Pending,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the largest: the earliest must be that.
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

/// Most attempts of one call with `retry`.
const MAX_ATTEMPTS: u32 = 4;

/// Runs arrivals against a provider with these capacities per minute. With `retry` a refused call comes
/// again after the wait that was asked, doubled each time; without, it is dropped.
pub fn simulate(arrivals: &[Arrival], capacities: [f64; LIMITERS], physics: Physics, retry: bool) -> Run {
    let mut provider = Provider::new(capacities);
    let mut run = Run { length: arrivals.last().map_or(0.0, |a| a.at) + 60.0, ..Run::default() };
    let mut heap: std::collections::BinaryHeap<Due> = arrivals
        .iter()
        .enumerate()
        .map(|(call, arrival)| Due {
            at: arrival.at,
            order: call as u64,
            call,
            pending: Pending::Arrive { attempt: 1 },
        })
        .collect();
    let (mut order, mut sampled) = (arrivals.len() as u64, 0.0);
    while let Some(due) = heap.pop() {
        while sampled <= due.at {
            sample(&provider, sampled, &mut run);
            sampled += 0.5;
        }
        order += 1;
        let arrival = arrivals[due.call];
        let mut see = |what| {
            if !arrival.unseen {
                run.events.push(Event { at: due.at, call: due.call, arrival, what });
            }
        };
        let next = |at, pending| Due { at, order, call: due.call, pending };
        match due.pending {
            Pending::Arrive { attempt } => {
                see(What::Start);
                match provider.admit(&arrival, due.at) {
                    Ok(()) => {
                        let wait = physics.first_byte + arrival.input as f64 / physics.input_rate;
                        heap.push(next(due.at + wait, Pending::FirstByte));
                    }
                    Err(wait) => {
                        let shown = provider.headers(due.at);
                        see(What::Head { status: 429, shown, retry_after: wait });
                        see(What::End);
                        run.refused.push(due.at);
                        if retry && attempt < MAX_ATTEMPTS && wait < 60.0 {
                            let again = due.at + wait.ceil().max(1.0) * f64::from(1 << (attempt - 1));
                            heap.push(next(again, Pending::Arrive { attempt: attempt + 1 }));
                        }
                    }
                }
            }
            Pending::FirstByte => {
                see(What::Head { status: 200, shown: provider.headers(due.at), retry_after: 0.0 });
                heap.push(next(due.at + arrival.output as f64 / physics.output_rate, Pending::Over));
            }
            Pending::Over => {
                provider.settle(arrival.output, due.at);
                see(What::End);
            }
        }
        note(&provider, due.at, &mut run);
    }
    run.length = run.length.max(sampled);
    run
}

fn note(provider: &Provider, now: f64, run: &mut Run) {
    let shares = provider.shares(now);
    if shares.iter().any(|share| *share < 0.05) {
        run.low.push(now);
    }
    if shares.iter().all(|share| *share >= 0.9) {
        run.full.push(now);
    }
}

fn sample(provider: &Provider, now: f64, run: &mut Run) {
    note(provider, now, run);
    let least = provider.shares(now).into_iter().fold(f64::INFINITY, f64::min);
    run.level.push((now, least));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(at: f64, input: u64) -> Arrival {
        Arrival { at, input, output: 60, unseen: false }
    }

    #[test]
    fn a_bucket_that_is_asked_for_more_than_it_refills_runs_dry_and_refuses() {
        // 60,000 input tokens a minute; 2,000 a second are asked for: empty after a minute.
        let arrivals: Vec<Arrival> = (0..120).map(|n| call(f64::from(n), 2_000)).collect();
        let run = simulate(&arrivals, [6_000.0, 60_000.0, 60_000.0], Physics::PINNED, false);
        let first = run.refused[0];
        assert!((58.0..=62.0).contains(&first), "{first}");
        assert!(run.low.iter().any(|at| *at < first));
        assert!(run.events.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn headers_come_at_the_first_byte_and_tokens_are_rounded() {
        let run = simulate(&[call(1.0, 2_400)], [100.0, 60_000.0, 60_000.0], Physics::PINNED, false);
        let Event { at, what: What::Head { status, shown, .. }, .. } = run.events[1] else { panic!() };
        assert!((at - (1.0 + 0.3 + 0.12)).abs() < 1e-9);
        assert_eq!((status, shown[0].remaining, shown[1].remaining), (200, 100, 58_000));
    }

    #[test]
    fn what_others_draw_is_not_seen_but_felt() {
        let mut arrivals: Vec<Arrival> =
            (0..60).map(|n| Arrival { unseen: true, ..call(f64::from(n), 3_000) }).collect();
        arrivals.push(call(59.5, 1_000));
        let run = simulate(&arrivals, [6_000.0, 60_000.0, 60_000.0], Physics::PINNED, false);
        assert_eq!(run.events.iter().filter(|e| e.what == What::Start).count(), 1);
        assert!(!run.refused.is_empty());
    }
}
