//! A simulated run as observations: what the hop would have told the engine.

use super::drive::{Driver, Raised, Watcher};
use super::provider::{Event, LIMITERS, Run, Shown, What};
use super::score::Span;
use crate::engine::{AlertName, BookLimits, Thresholds};
use crate::limit::{Amount, Level, Limiter, Reading, Refill, Timestamp, Window};
use crate::observation::{
    Account, AuthKind, Call, Client, Credential, End, ErrorBody, Head, Limits, Outcome, RequestShape, Start,
    Usage,
};
use crate::owner::Owners;
use crate::route::{ModelGroup, RouteName, Surface};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The moment that second 0 of a run stands for; any will do.
const EPOCH: Timestamp = Timestamp::from_secs(1_790_000_000);

/// The engine's alerts on a run.
pub(super) fn drive(run: &Run, thresholds: Thresholds, watcher: Option<Watcher<'_>>) -> Vec<Raised> {
    let owners = Arc::new(Owners::default());
    let mut driver = Driver::new(owners, thresholds, BookLimits::default(), EPOCH);
    if let Some(watcher) = watcher {
        driver = driver.watched(watcher);
    }
    let model = ModelGroup::of_model("model");
    let mut heads: HashMap<usize, Arc<Limits>> = HashMap::new();
    for event in &run.events {
        let at = moment(event.at);
        let model = Some(model.clone());
        match event.what {
            What::Start => {
                driver.start(&Start {
                    call: call(event),
                    model,
                    at,
                    body_bytes: body_bytes(event),
                    max_tokens: None,
                });
            }
            What::Head { status, shown, retry_after } => {
                let limits = Arc::new(limits(&shown, status, retry_after));
                driver.head(&Head {
                    call: call(event),
                    model: model.clone(),
                    at,
                    status,
                    limits: limits.clone(),
                });
                if status == 200 {
                    heads.insert(event.call, limits);
                } else {
                    driver.end(end(event, model, limits, status));
                }
            }
            What::End => {
                if let Some(limits) = heads.remove(&event.call) {
                    driver.end(end(event, model, limits, 200));
                }
            }
        }
    }
    driver.tick_until(moment(run.length));
    driver.finish()
}

/// Alerts of some names, in seconds of the run.
pub(super) fn spans(run: &Run, raised: &[Raised], wanted: impl Fn(AlertName) -> bool) -> Vec<Span> {
    let of = |raised: &Raised| (secs(raised.from), raised.to.map_or(run.length, secs));
    raised.iter().filter(|raised| wanted(raised.name)).map(of).collect()
}

/// A moment of a run, in its seconds.
pub(super) fn secs(at: Timestamp) -> f64 {
    at.since(EPOCH).as_secs_f64()
}

fn end(event: &Event, model: Option<ModelGroup>, limits: Arc<Limits>, status: u16) -> Box<End> {
    Box::new(End {
        call: call(event),
        model,
        at: moment(event.at),
        headed: None,
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
        project: None,
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
        account: Account { workspace: Some("replay".into()), ..Account::default() },
        readings: shown.iter().zip(limiters).map(reading).collect(),
        retry_after: (status == 429)
            .then(|| Duration::from_secs_f64(retry_after.clamp(0.0, 86_400.0).ceil())),
        trios: true,
        ..Limits::default()
    }
}
