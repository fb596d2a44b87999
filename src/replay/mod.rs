//! The backtest: a trace, a scenario or a log of responses through the same engine as the sidecar's;
//! traces and scenarios by a simulated provider, scored beside the rules that people use today.

pub mod baseline;
pub mod drive;
pub mod plot;
pub mod provider;
pub mod random;
pub mod report;
pub mod responses;
pub mod scenario;
pub mod score;
mod simulated;
pub mod trace;

use crate::engine::{AlertName, Book, Snapshot, Thresholds};
use crate::limit::Timestamp;
use provider::{Arrival, LIMITERS, Physics, Run};
use random::Random;
use score::{Scores, Span, Tally};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Capacities per minute: `factor` times the trace's mean, and 1.15 more for requests and output.
pub fn capacities(arrivals: &[Arrival], factor: f64) -> [f64; LIMITERS] {
    let minutes = (arrivals.last().map_or(0.0, |a| a.at) / 60.0).max(1.0);
    let (mut input, mut output) = (0.0, 0.0);
    for arrival in arrivals {
        input += arrival.input as f64;
        output += arrival.output as f64;
    }
    let mean = |total: f64| factor * total / minutes;
    [mean(arrivals.len() as f64) * 1.15, mean(input), mean(output) * 1.15]
}

/// What is backtested.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A recorded trace, and the capacity per minute as a multiple of its mean.
    Trace(&'a [Arrival], f64),
    /// Synthetic traffic.
    Scenario(scenario::Scenario),
}

/// Simulates a source with a seed.
pub fn simulate(source: Source<'_>, seed: u64, retry: bool) -> Run {
    match source {
        Source::Trace(arrivals, factor) => {
            let (arrivals, physics) = varied(arrivals, seed);
            provider::simulate(&arrivals, capacities(&arrivals, factor), physics, retry)
        }
        Source::Scenario(scenario) => {
            let traffic = scenario.traffic(seed);
            let (_, physics) = varied(&[], seed);
            provider::simulate(&traffic.arrivals, traffic.capacities, physics, traffic.retry || retry)
        }
    }
}

/// What the engine knows of a run every so often, as a scraper would see it: seconds, and the snapshot.
pub fn scrapes(run: &Run, thresholds: Thresholds, every: Duration) -> Vec<(f64, Snapshot)> {
    let (mut seen, mut next) = (Vec::new(), 0.0);
    let mut watch = |book: &Book, at: Timestamp| {
        let secs = simulated::secs(at);
        if secs + 1e-6 >= next {
            seen.push((secs, book.snapshot(at)));
            next += every.as_secs_f64();
        }
    };
    simulated::drive(run, thresholds, Some(&mut watch));
    seen
}

/// Names of the policies, as they stand in the JSON.
pub const POLICIES: [&str; 3] = ["plimsoll", "remaining_20_every_15s", "remaining_20_every_event"];

/// What the engine and both baselines scored on a run, in the order of [`POLICIES`].
pub fn tallies(run: &Run, thresholds: Thresholds) -> [Tally; 3] {
    tallies_of(run, &simulated::drive(run, thresholds, None))
}

fn tallies_of(run: &Run, raised: &[drive::Raised]) -> [Tally; 3] {
    let foresight: Vec<Span> = simulated::spans(run, raised, |name| {
        matches!(name, AlertName::BucketPressure | AlertName::BucketExhausting)
    });
    [
        score::tally(run, &foresight),
        score::tally(run, &baseline::sampled(run)),
        score::tally(run, &baseline::on_every_event(run)),
    ]
}

/// The scores of every policy on one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Calls that were made.
    pub requests: usize,
    /// Calls that the simulated provider refused.
    pub rejected: usize,
    /// Capacity per minute as a multiple of the trace's mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_factor: Option<f64>,
    /// The scenario.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario: Option<&'static str>,
    /// What varied the physics and the arrivals.
    pub seed: u64,
    /// Scores by policy.
    pub policies: BTreeMap<&'static str, Scores>,
}

/// Scores the engine beside the baselines on a run.
pub fn backtest(source: Source<'_>, run: &Run, seed: u64, thresholds: Thresholds) -> Report {
    let tallies = tallies(run, thresholds);
    let (limit_factor, scenario) = match source {
        Source::Trace(_, factor) => (Some(factor), None),
        Source::Scenario(scenario) => (None, Some(scenario.as_str())),
    };
    Report {
        requests: run.events.iter().filter(|event| event.what == provider::What::Start).count(),
        rejected: run.refused.len(),
        limit_factor,
        scenario,
        seed,
        policies: POLICIES.into_iter().zip(tallies.map(|tally| tally.scores())).collect(),
    }
}

/// Seed 0 is the trace as it is, and the pinned physics. Any other varies each constant by up to a
/// fifth, and thins or doubles the arrivals.
fn varied(arrivals: &[Arrival], seed: u64) -> (Vec<Arrival>, Physics) {
    if seed == 0 {
        return (arrivals.to_vec(), Physics::PINNED);
    }
    let mut random = Random::new(seed);
    let mut vary = |value: f64| value * (0.8 + 0.4 * random.unit());
    let physics = Physics {
        first_byte: vary(Physics::PINNED.first_byte),
        input_rate: vary(Physics::PINNED.input_rate),
        output_rate: vary(Physics::PINNED.output_rate),
    };
    let (thinned, share) = (random.unit() < 0.5, 0.2 * random.unit());
    let mut all = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let chosen = random.unit() < share;
        if !(thinned && chosen) {
            all.push(*arrival);
        }
        if !thinned && chosen {
            all.push(Arrival { at: arrival.at + random.unit(), ..*arrival });
        }
    }
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    (all, physics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(arrivals: &[Arrival], factor: f64) -> Report {
        let source = Source::Trace(arrivals, factor);
        backtest(source, &simulate(source, 0, false), 0, Thresholds::default())
    }

    /// A rise that passes the refill: the engine's alert comes before the first 429.
    #[test]
    fn a_steady_rise_is_announced_and_a_calm_hour_is_not() {
        let rising: Vec<Arrival> = (0..1_200)
            .map(|n| Arrival { at: f64::from(n).sqrt() * 20.0, input: 1_000, output: 60, unseen: false })
            .collect();
        let report = scored(&rising, 1.0);
        assert!(report.rejected > 0);
        assert!(report.policies["plimsoll"].recall_5s >= report.policies["remaining_20_every_15s"].recall_5s);
        let calm: Vec<Arrival> =
            (0..600).map(|n| Arrival { at: f64::from(n), input: 1_000, output: 60, unseen: false }).collect();
        let report = scored(&calm, 1.5);
        assert_eq!((report.rejected, report.policies["plimsoll"].alerts), (0, 0));
    }

    #[test]
    fn a_seed_gives_the_same_run_and_another_seed_another() {
        let calls: Vec<Arrival> = (0..500)
            .map(|n| Arrival { at: f64::from(n) / 2.0, input: 2_000, output: 60, unseen: false })
            .collect();
        assert_eq!(varied(&calls, 7), varied(&calls, 7));
        assert_ne!(varied(&calls, 7), varied(&calls, 8));
        assert_eq!(varied(&calls, 0).0, calls);
    }
}
