//! The proof: every case, pooled and apart, beside the baselines, an oracle and the trade-off of the knobs.
//!
//! `docs/foresight.md` is this report; one command makes it anew.

use super::provider::{Arrival, Run};
use super::scenario::Scenario;
use super::score::{Scores, Span, Tally, episodes, tally};
use super::{Source, simulate, simulated, tallies, tallies_of};
use crate::engine::{AlertName, Thresholds};
use crate::limit::Knobs;
use std::collections::BTreeMap;
use std::time::Duration;

/// Capacity of the trace's cases, as multiples of its mean.
pub const FACTORS: [f64; 4] = [1.0, 1.1, 1.25, 1.5];
/// Horizons and cautions of the trade-off.
const HORIZONS: [u64; 4] = [15, 25, 35, 50];
const CAUTIONS: [f64; 3] = [0.75, 1.25, 2.0];
/// How far ahead the oracle knows every call.
const ORACLE: f64 = 35.0;

/// A run with its name.
pub struct Case {
    /// Which case.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// What happened.
    pub run: Run,
}

/// Every case of the proof: the trace at each factor and the scenarios, with each seed.
pub fn cases(trace: Option<&[Arrival]>, seeds: &[u64]) -> Vec<Case> {
    let of_trace = trace.into_iter().flat_map(|arrivals| {
        FACTORS.map(|factor| (format!("trace, factor {factor}"), Source::Trace(arrivals, factor)))
    });
    let of_scenarios = Scenario::ALL.map(|s| (s.as_str().to_owned(), Source::Scenario(s)));
    let sources: Vec<(String, Source<'_>)> = of_trace.chain(of_scenarios).collect();
    let with_seeds = |seed: &u64| {
        let seed = *seed;
        let case = move |(name, source): &(String, Source<'_>)| Case {
            name: name.clone(),
            seed,
            run: simulate(*source, seed, false),
        };
        sources.iter().map(case).collect::<Vec<_>>()
    };
    seeds.iter().flat_map(with_seeds).collect()
}

/// What became of one case.
struct Outcome {
    tallies: [Tally; 3],
    oracle: Tally,
    /// Most critical alerts that announced one episode.
    criticals: usize,
}

fn outcome(run: &Run, thresholds: Thresholds) -> Outcome {
    let raised = simulated::drive(run, thresholds, None);
    let critical = simulated::spans(run, &raised, |name| name == AlertName::BucketExhausting);
    Outcome {
        tallies: tallies_of(run, &raised),
        oracle: tally(run, &oracle(run)),
        criticals: criticals(run, &critical),
    }
}

/// Most critical alerts that began ahead of one episode (and after the one before it), or inside it.
fn criticals(run: &Run, alerts: &[Span]) -> usize {
    let mut previous = f64::NEG_INFINITY;
    let mut most = 0;
    for (first, last) in episodes(&run.refused) {
        let from = previous.max(first - 120.0);
        most = most.max(alerts.iter().filter(|(start, _)| *start > from && *start <= last).count());
        previous = last;
    }
    most
}

/// Alerts of one who knows every call of the next [`ORACLE`] seconds, and nothing later.
fn oracle(run: &Run) -> Vec<Span> {
    let mut previous = 0.0;
    let mut alerts = Vec::new();
    for (first, last) in episodes(&run.refused) {
        alerts.push(((first - ORACLE).max(previous + 0.2), first));
        previous = last;
    }
    alerts
}

/// Does something with each case on every core; results in the order of the cases.
fn each<T: Send>(cases: &[Case], work: impl Fn(&Case) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = cases.len().div_ceil(cores).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let parts: Vec<_> = cases
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<T>>()))
            .collect();
        let joined = parts.into_iter().map(|part| match part.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    })
}

/// Scores of one setting of the knobs over every case.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The knobs.
    pub knobs: Knobs,
    /// Recall 5 s ahead.
    pub recall_5s: f64,
    /// Recall 10 s ahead.
    pub recall_10s: f64,
    /// Share of fresh alerts that came true.
    pub precision: f64,
    /// Share of calm time with an alert up.
    pub false_time: f64,
}

/// The trade-off of the two knobs over the cases; `progress` is told of each point.
pub fn sweep(cases: &[Case], thresholds: Thresholds, mut progress: impl FnMut(usize, usize)) -> Vec<Point> {
    let all = HORIZONS.len() * CAUTIONS.len();
    let mut points = Vec::new();
    for horizon in HORIZONS {
        for caution in CAUTIONS {
            progress(points.len(), all);
            let knobs = Knobs { horizon: Duration::from_secs(horizon), caution };
            let thresholds = Thresholds { knobs, ..thresholds };
            let mut pooled = Tally::default();
            for [own, ..] in each(cases, |case| tallies(&case.run, thresholds)) {
                pooled.pool(&own);
            }
            let scores = pooled.scores();
            let or_zero = |value: Option<f64>| value.unwrap_or(0.0);
            points.push(Point {
                knobs,
                recall_5s: or_zero(scores.recall_5s),
                recall_10s: or_zero(scores.recall_10s),
                precision: or_zero(scores.precision),
                false_time: or_zero(scores.false_time),
            });
        }
    }
    points
}

/// The trade-off as a table in Markdown.
pub fn sweep_table(points: &[Point]) -> String {
    let mut rows = vec![
        "| horizon | caution | recall 5 s | recall 10 s | precision | false time |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    rows.extend(points.iter().map(|point| {
        let Point { knobs: Knobs { horizon, caution }, recall_5s, recall_10s, precision, false_time } = point;
        let horizon = horizon.as_secs();
        format!(
            "| {horizon} s | {caution} | {recall_5s:.2} | {recall_10s:.2} | {precision:.2} | {false_time:.3} |"
        )
    }));
    rows.join("\n")
}

fn row(name: &str, scores: &Scores) -> String {
    let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let false_time = scores.false_time.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    let lead = scores.median_lead_s.map_or_else(|| "-".to_owned(), |v| format!("{v:.0} s"));
    format!(
        "| {name} | {} | {} | {} | {} | {} | {lead} | {} | {} | {} | {false_time} |",
        scores.episodes,
        share(scores.recall_1s),
        share(scores.recall_5s),
        share(scores.recall_10s),
        share(scores.recall_30s),
        share(scores.captured),
        scores.alerts,
        share(scores.precision),
    )
}

const HEAD: &str = "| case | episodes | 1 s | 5 s | 10 s | 30 s | median lead | captured | alerts | precision | false time |\n|---|---|---|---|---|---|---|---|---|---|---|";

/// The tables of the proof.
pub struct Proof {
    /// Per case and pooled, with baselines and oracle.
    pub table: String,
    /// What is said of the musts.
    pub musts: String,
}

/// Runs every case.
pub fn prove(cases: &[Case], thresholds: Thresholds) -> Proof {
    let outcomes = each(cases, |case| outcome(&case.run, thresholds));
    let mut named: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut pooled: [Tally; 4] = Default::default();
    let (mut worse, mut criticals) = (Vec::new(), 0);
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let [own, sampled, every] = &outcome.tallies;
        named.entry(&case.name).or_default().pool(own);
        for (all, one) in pooled.iter_mut().zip([own, sampled, every, &outcome.oracle]) {
            all.pool(one);
        }
        criticals = criticals.max(outcome.criticals);
        let recall = |tally: &Tally| tally.scores().recall_5s.unwrap_or(0.0);
        if recall(own) < recall(sampled).max(recall(every)) {
            worse.push(format!("{}, seed {}", case.name, case.seed));
        }
    }
    let mut rows = vec![HEAD.to_owned()];
    rows.extend(named.iter().map(|(name, tally)| row(name, &tally.scores())));
    let names = [
        "**all, Plimsoll**",
        "all, remaining < 20 % every 15 s",
        "all, remaining < 20 % on every event",
        "all, an oracle that knows the calls of the next 35 s",
    ];
    rows.extend(names.iter().zip(&pooled).map(|(name, tally)| row(name, &tally.scores())));
    let calm = named.get("calm").map_or_else(|| "not run".to_owned(), |tally| tally.fresh.to_string());
    let worse = if worse.is_empty() { "none".to_owned() } else { worse.join("; ") };
    let musts = format!(
        "Alerts on `calm`: {calm}. Most critical alerts of one episode: {criticals}. Cases whose recall at 5 s is below the better baseline's: {worse}."
    );
    Proof { table: rows.join("\n"), musts }
}

/// The whole page.
pub fn page(proof: &Proof, points: &[Point], seeds: &str) -> String {
    include_str!("foresight.md.in")
        .replace("{{seeds}}", seeds)
        .replace("{{table}}", &proof.table)
        .replace("{{musts}}", &proof.musts)
        .replace("{{sweep}}", &sweep_table(points))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What must hold, on the scenarios alone (the recorded trace is not part of this project).
    #[test]
    fn the_musts_hold_on_the_scenarios() {
        let cases = cases(None, &[1, 2]);
        let proof = prove(&cases, Thresholds::default());
        let expected = "Alerts on `calm`: 0. Most critical alerts of one episode: 1. Cases whose recall at 5 s is below the better baseline's: none.";
        assert_eq!(proof.musts, expected);
        let mut pooled = Tally::default();
        for case in &cases {
            pooled.pool(&tallies(&case.run, Thresholds::default())[0]);
        }
        let scores = pooled.scores();
        assert!(scores.recall_5s >= Some(0.85) && scores.recall_10s >= Some(0.7), "{scores:?}");
        assert!(
            scores.precision >= Some(0.7) && scores.false_time.is_some_and(|share| share <= 0.06),
            "{scores:?}"
        );
    }

    #[test]
    fn the_oracle_misses_nothing_and_is_never_wrong() {
        let cases = cases(None, &[1]);
        let mut pooled = Tally::default();
        cases.iter().for_each(|case| pooled.pool(&tally(&case.run, &oracle(&case.run))));
        let scores = pooled.scores();
        assert_eq!(
            (scores.recall_5s, scores.precision, scores.false_time),
            (Some(1.0), Some(1.0), Some(0.0))
        );
    }
}
