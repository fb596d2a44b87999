//! Synthetic traffic with a seed: what recorded hours do not show, or show once.
//!
//! Each scenario states its arrivals and the capacity they are measured against, so that a fall of the
//! bucket comes from the scenario's own shape: a step, a ramp, agents that work in bursts, clients that
//! come again when refused, other clients on the same buckets whom nobody sees, and a calm hour on which
//! any alert is false.

use super::provider::{Arrival, LIMITERS};
use super::random::Random;

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Scenario {
    /// Steady traffic that jumps to several times the refill, and falls back.
    Step,
    /// Traffic that grows over minutes until it passes the refill.
    Ramp,
    /// Agents: each works in bursts, with a context that grows from call to call.
    Agents,
    /// Steady traffic well within the refill.
    Calm,
    /// Steps, with clients that come again when they are refused.
    RetryStorm,
    /// Steady own traffic, while others whom nobody sees drain the same buckets.
    Shared,
}

/// Traffic, and what it is measured against.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The calls, in order of time.
    pub arrivals: Vec<Arrival>,
    /// Capacities per minute: requests, input tokens, output tokens.
    pub capacities: [f64; LIMITERS],
    /// Refused calls come again.
    pub retry: bool,
}

/// How long a scenario lasts, in seconds.
const LENGTH: f64 = 3_600.0;
/// Input tokens of a mean call.
const INPUT: f64 = 2_000.0;
/// Output tokens of a mean call.
const OUTPUT: f64 = 150.0;
/// Calls a second that the input bucket refills.
const PACE: f64 = 5.0;

impl Scenario {
    /// Every scenario.
    pub const ALL: [Self; 6] =
        [Self::Step, Self::Ramp, Self::Agents, Self::Calm, Self::RetryStorm, Self::Shared];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Ramp => "ramp",
            Self::Agents => "agents",
            Self::Calm => "calm",
            Self::RetryStorm => "retry-storm",
            Self::Shared => "shared",
        }
    }

    /// The traffic of a seed.
    pub fn traffic(self, seed: u64) -> Traffic {
        let mut random = Random::new(seed.wrapping_mul(31).wrapping_add(self as u64));
        let mut arrivals = match self {
            Self::Step | Self::RetryStorm => steps(&mut random, 0.5, false),
            Self::Ramp => ramps(&mut random),
            Self::Agents => agents(&mut random),
            Self::Calm => poisson(&mut random, 0.0, LENGTH, PACE * 0.45, false),
            Self::Shared => {
                let own = poisson(&mut random, 0.0, LENGTH, PACE * 0.3, false);
                let mut all = steps(&mut random, 0.2, true);
                all.extend(own);
                all
            }
        };
        arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
        if self == Self::Agents {
            // Bursts of many tasks have no pace of their own: room for twice the mean.
            let capacities = super::capacities(&arrivals, 2.0);
            return Traffic { arrivals, capacities, retry: false };
        }
        Traffic {
            arrivals,
            capacities: [PACE * 60.0 * 1.3, PACE * 60.0 * INPUT, PACE * 60.0 * OUTPUT * 1.3],
            retry: self == Self::RetryStorm,
        }
    }
}

/// Calls that come independently of each other, `rate` a second.
fn poisson(random: &mut Random, from: f64, to: f64, rate: f64, unseen: bool) -> Vec<Arrival> {
    let (mut at, mut all) = (from, Vec::new());
    loop {
        at += random.waiting(1.0 / rate);
        if at >= to {
            return all;
        }
        all.push(call(random, at, unseen));
    }
}

/// A call of random size: many small ones, a few that are ten times as large.
fn call(random: &mut Random, at: f64, unseen: bool) -> Arrival {
    let mut size = |mean: f64| (random.spread(mean, 0.9)).clamp(1.0, mean * 12.0) as u64;
    Arrival { at, input: size(INPUT), output: size(OUTPUT), unseen }
}

/// A base load with a jump every few minutes: `base` is the load as a share of the refill.
fn steps(random: &mut Random, base: f64, unseen: bool) -> Vec<Arrival> {
    let mut all = poisson(random, 0.0, LENGTH, PACE * base, unseen);
    let mut at = 120.0 + random.between(0.0, 120.0);
    while at < LENGTH - 120.0 {
        let (height, lasts) = (random.between(1.2, 3.0), random.between(40.0, 100.0));
        all.extend(poisson(random, at, at + lasts, PACE * height, unseen));
        at += lasts + random.between(180.0, 420.0);
    }
    all
}

/// Load that grows over minutes to twice the refill, holds, and falls.
fn ramps(random: &mut Random) -> Vec<Arrival> {
    let mut all = poisson(random, 0.0, LENGTH, PACE * 0.3, false);
    let mut at = 60.0 + random.between(0.0, 60.0);
    while at < LENGTH - 300.0 {
        let (top, rise) = (random.between(1.2, 2.2), random.between(120.0, 300.0));
        // Thinned: a call at second t of the rise is kept with probability t / rise.
        let rising = poisson(random, at, at + rise, PACE * top, false);
        all.extend(rising.into_iter().filter(|call| random.unit() < (call.at - at) / rise));
        all.extend(poisson(random, at + rise, at + rise + 60.0, PACE * top, false));
        at += rise + 60.0 + random.between(150.0, 300.0);
    }
    all
}

/// Agents: a task is a chain of calls, each begun when the answer before it has come, with a context
/// that grows; then a pause. Now and then many tasks are started at once.
fn agents(random: &mut Random) -> Vec<Arrival> {
    let mut all = Vec::new();
    for _ in 0..12 {
        let mut at = random.waiting(120.0);
        while at < LENGTH {
            at = task(random, at, &mut all);
            at += random.waiting(150.0);
        }
    }
    let mut at = random.between(200.0, 500.0);
    while at < LENGTH - 120.0 {
        for _ in 0..20 + (random.unit() * 40.0) as usize {
            let begins = at + random.waiting(4.0);
            task(random, begins, &mut all);
        }
        at += random.between(300.0, 700.0);
    }
    all.retain(|call| call.at < LENGTH);
    all
}

/// One task; when it ends.
fn task(random: &mut Random, from: f64, all: &mut Vec<Arrival>) -> f64 {
    let (mut at, mut context) = (from, random.spread(INPUT * 0.6, 0.5));
    for _ in 0..2 + (random.unit() * 8.0) as usize {
        let output = random.spread(OUTPUT, 0.8).clamp(5.0, 2_000.0);
        all.push(Arrival { at, input: context as u64, output: output as u64, unseen: false });
        at += 0.3 + context / 20_000.0 + output / 60.0 + random.waiting(1.5);
        context += output + random.spread(400.0, 0.8);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::provider::{Physics, simulate};

    #[test]
    fn every_scenario_but_the_calm_one_runs_a_bucket_dry_and_the_seed_decides() {
        for scenario in Scenario::ALL {
            let traffic = scenario.traffic(1);
            assert_eq!(traffic.arrivals, scenario.traffic(1).arrivals);
            assert_ne!(traffic.arrivals, scenario.traffic(2).arrivals);
            assert!(traffic.arrivals.is_sorted_by(|a, b| a.at <= b.at));
            let run = simulate(&traffic.arrivals, traffic.capacities, Physics::PINNED, traffic.retry);
            assert_eq!(run.refused.is_empty(), scenario == Scenario::Calm, "{scenario:?}");
        }
    }
}
