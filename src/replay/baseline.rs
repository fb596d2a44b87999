//! The two rules that people use today, as baselines: remaining below 20 %, sampled every 15 s and
//! evaluated 7.5 s later, and the same on every event. Both are held for 30 s.
//!
//! The sampled one sees what a scraped gauge shows: an idle route keeps showing its last low value.

use super::provider::{Event, Run, What};
use super::score::Span;

/// Share left below which the rules fire.
const LOW: f64 = 0.2;
/// How long they are held.
const HOLD: f64 = 30.0;
/// How often the sampled one is sampled, and how much later it is evaluated.
const SCRAPE: f64 = 15.0;
const LATER: f64 = 7.5;

/// Alerts of the rule sampled every 15 s.
pub fn sampled(run: &Run) -> Vec<Span> {
    let mut events = run.events.iter().peekable();
    let (mut low, mut seen, mut at) = (false, Vec::new(), SCRAPE);
    while at <= run.length {
        while let Some(event) = events.next_if(|event| event.at <= at) {
            low = is_low(event).unwrap_or(low);
        }
        if low {
            seen.push(at + LATER);
        }
        at += SCRAPE;
    }
    held(&seen)
}

/// Alerts of the rule on every event.
pub fn on_every_event(run: &Run) -> Vec<Span> {
    let low = run.events.iter().filter(|event| is_low(event) == Some(true)).map(|event| event.at);
    held(&low.collect::<Vec<_>>())
}

/// Whether an event's headers show some bucket below the threshold; absent where it has none.
fn is_low(event: &Event) -> Option<bool> {
    let What::Head { shown, .. } = event.what else { return None };
    Some(shown.iter().any(|shown| (shown.remaining as f64) < LOW * shown.limit as f64))
}

fn held(times: &[f64]) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for at in times {
        match all.last_mut() {
            Some((_, end)) if *at <= *end => *end = at + HOLD,
            _ => all.push((*at, at + HOLD)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::provider::{Arrival, Physics, simulate};

    #[test]
    fn an_idle_route_keeps_the_sampled_rule_up_and_not_the_other() {
        // Drained to 10 % within two seconds, then silence but for one call after four minutes.
        let call = |at: f64, input| Arrival { at, input, output: 1, unseen: false };
        let mut arrivals: Vec<Arrival> = (0..9).map(|n| call(f64::from(n) / 5.0, 6_000)).collect();
        arrivals.push(call(240.0, 10));
        let run = simulate(&arrivals, [600.0, 60_000.0, 60_000.0], Physics::PINNED, false);
        let up = |spans: &[Span]| spans.iter().map(|(start, end)| end - start).sum::<f64>();
        assert!(up(&sampled(&run)) > 200.0);
        assert!((30.0..35.0).contains(&up(&on_every_event(&run))));
    }
}
