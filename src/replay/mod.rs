//! The backtest: a recorded trace through a simulated provider and the same engine as the sidecar's,
//! scored beside the rules that people use today.
//!
//! The engine is driven as the hop drives it: a head when a response head comes, an end when the call
//! is over, and a tick every 200 ms. Nothing waits, so an hour takes seconds.

pub mod baseline;
pub mod provider;
pub mod random;
pub mod scenario;
pub mod score;
pub mod trace;

use crate::engine::task::TICK;
use crate::engine::{AlertName, Book, BookLimits, Thresholds};
use crate::limit::{Amount, Level, Limiter, Reading, Refill, Timestamp, Window};
use crate::observation::{
    Account, AuthKind, Call, Client, Credential, End, ErrorBody, Head, Limits, Outcome, RequestShape, Start,
    Usage,
};
use crate::owner::Owners;
use crate::route::{ModelGroup, RouteName, Surface};
use provider::{Arrival, Event, LIMITERS, Physics, Run, Shown, What};
use random::Random;
use score::{Scores, Span, Tally};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The moment that second 0 of a run stands for; any will do.
const EPOCH: Timestamp = Timestamp::from_secs(1_790_000_000);

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

/// The engine's pressure alerts on a run.
pub fn alerts(run: &Run, thresholds: Thresholds) -> Vec<Span> {
    let mut replay = Replay {
        book: Book::new(Arc::new(Owners::default()), thresholds, BookLimits::default()),
        model: ModelGroup::of_model("model"),
        limits: BTreeMap::new(),
        up: BTreeMap::new(),
        ended: Vec::new(),
    };
    let (mut tick, step) = (0.0, TICK.as_secs_f64());
    for event in &run.events {
        while tick < event.at {
            replay.tick(tick);
            tick += step;
        }
        replay.event(event);
    }
    while tick <= run.length {
        replay.tick(tick);
        tick += step;
    }
    let length = run.length;
    let open = std::mem::take(&mut replay.up).into_values().map(|start| (start, length));
    replay.ended.into_iter().chain(open).collect()
}

struct Replay {
    book: Book,
    model: ModelGroup,
    /// Heads of calls that are on their way.
    limits: BTreeMap<usize, Arc<Limits>>,
    up: BTreeMap<(AlertName, Limiter), f64>,
    ended: Vec<Span>,
}

impl Replay {
    fn event(&mut self, event: &Event) {
        let at = moment(event.at);
        match event.what {
            What::Start => self.book.start(&Start {
                call: call(event),
                model: Some(self.model.clone()),
                at,
                body_bytes: body_bytes(event),
            }),
            What::Head { status, shown, retry_after } => {
                let head = Head {
                    call: call(event),
                    model: Some(self.model.clone()),
                    at,
                    status,
                    limits: Arc::new(limits(&shown, status, retry_after)),
                };
                self.book.head(&head);
                if status == 429 {
                    self.book.end(self.end(event, at, head.limits, 429));
                } else {
                    self.limits.insert(event.call, head.limits);
                }
            }
            What::End => {
                if let Some(limits) = self.limits.remove(&event.call) {
                    self.book.end(self.end(event, at, limits, 200));
                }
            }
        }
        self.look(event.at);
    }

    fn end(&self, event: &Event, at: Timestamp, limits: Arc<Limits>, status: u16) -> Box<End> {
        Box::new(End {
            call: call(event),
            model: Some(self.model.clone()),
            at,
            status: Some(status),
            outcome: Outcome::Complete,
            limits,
            request: RequestShape { body_bytes: body_bytes(event), ..RequestShape::default() },
            concurrency: 1,
            usage: (status == 200).then(|| Usage {
                input: Amount::new(event.arrival.input),
                output: Amount::new(event.arrival.output),
                ..Usage::default()
            }),
            error: (status != 200).then(|| Box::new(ErrorBody::default())),
        })
    }

    fn tick(&mut self, at: f64) {
        self.book.tick(moment(at));
        self.look(at);
    }

    /// Notes which alerts began and ended. Only those that are meant to come before the 429 count.
    fn look(&mut self, at: f64) {
        let now = self.book.alerts(moment(at));
        let foresight = |name| matches!(name, AlertName::BucketPressure | AlertName::BucketExhausting);
        let up: BTreeMap<(AlertName, Limiter), f64> = now
            .iter()
            .filter(|alert| foresight(alert.name))
            .map(|alert| (alert.name, alert.identity.limiter.clone()))
            .map(|key| (key.clone(), self.up.get(&key).copied().unwrap_or(at)))
            .collect();
        let ended = self.up.iter().filter(|(key, _)| !up.contains_key(key)).map(|(_, start)| (*start, at));
        self.ended.extend(ended);
        self.up = up;
    }
}

fn moment(at: f64) -> Timestamp {
    EPOCH.plus(Duration::from_secs_f64(at.max(0.0)))
}

/// Bytes of a request of so many input tokens: an envelope, and what English takes.
fn body_bytes(event: &Event) -> u64 {
    200 + event.arrival.input.saturating_mul(4)
}

fn call(event: &Event) -> Arc<Call> {
    Arc::new(Call {
        id: event.call as u64,
        route: RouteName::new("replay"),
        surface: Surface::AnthropicApi,
        auth: AuthKind::ApiKey,
        credential: Credential::default(),
        client: Client::Other,
        session: None,
        upstream: "https://replay".into(),
        region: None,
        started: moment(event.arrival.at),
        traceparent: None,
        method: http::Method::POST,
        path: "/v1/messages".into(),
    })
}

fn limits(shown: &[Shown; LIMITERS], status: u16, retry_after: f64) -> Limits {
    let limiters = [(Limiter::REQUESTS, 1), (Limiter::INPUT_TOKENS, 1_000), (Limiter::OUTPUT_TOKENS, 1_000)];
    let reading = |(shown, (limiter, rounding)): (&Shown, (Limiter, u64))| Reading {
        limiter,
        window: Window::Minute,
        refill: Refill::Continuous,
        level: Some(Level::Counted {
            limit: Amount::new(shown.limit),
            remaining: Amount::new(shown.remaining),
        }),
        resets: Some(moment(shown.full_at)),
        standing: None,
        rounding: Amount::new(rounding),
    };
    Limits {
        account: Account { organization: None, workspace: Some("replay".into()) },
        readings: shown.iter().zip(limiters).map(reading).collect(),
        retry_after: (status == 429)
            .then(|| Duration::from_secs_f64(retry_after.clamp(0.0, 86_400.0).ceil())),
        trios: true,
        ..Limits::default()
    }
}

/// The scores of every policy on one trace.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Calls in the trace.
    pub requests: usize,
    /// Calls that the simulated provider refused.
    pub rejected: usize,
    /// Capacity per minute as a multiple of the trace's mean.
    pub limit_factor: f64,
    /// What varied the physics and the arrivals.
    pub seed: u64,
    /// Scores by policy.
    pub policies: BTreeMap<&'static str, Scores>,
}

/// Runs a trace and scores the engine beside the baselines.
pub fn backtest(arrivals: &[Arrival], factor: f64, seed: u64, retry: bool, thresholds: Thresholds) -> Report {
    let (arrivals, physics) = varied(arrivals, seed);
    let run = provider::simulate(&arrivals, capacities(&arrivals, factor), physics, retry);
    let tallies: [(&'static str, Tally); 3] = [
        ("plimsoll", score::tally(&run, &alerts(&run, thresholds))),
        ("remaining_20_every_15s", score::tally(&run, &baseline::sampled(&run))),
        ("remaining_20_every_event", score::tally(&run, &baseline::on_every_event(&run))),
    ];
    Report {
        requests: arrivals.len(),
        rejected: run.refused.len(),
        limit_factor: factor,
        seed,
        policies: tallies.into_iter().map(|(name, tally)| (name, tally.scores())).collect(),
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

    /// A rise that passes the refill: the engine's alert comes before the first 429.
    #[test]
    fn a_steady_rise_is_announced_and_a_calm_hour_is_not() {
        let rising: Vec<Arrival> = (0..1_200)
            .map(|n| Arrival { at: f64::from(n).sqrt() * 20.0, input: 1_000, output: 60, unseen: false })
            .collect();
        let report = backtest(&rising, 1.0, 0, false, Thresholds::default());
        assert!(report.rejected > 0);
        assert!(report.policies["plimsoll"].recall_5s >= report.policies["remaining_20_every_15s"].recall_5s);
        let calm: Vec<Arrival> =
            (0..600).map(|n| Arrival { at: f64::from(n), input: 1_000, output: 60, unseen: false }).collect();
        let report = backtest(&calm, 1.5, 0, false, Thresholds::default());
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
