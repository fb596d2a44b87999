//! Calls as they end, for somebody who looks on (`GET /v1/tap`, `plimsoll tap`): one line of JSON each.
//!
//! Nothing is made while nobody looks. Whoever looks too slowly misses lines and is told how many; the calls never wait.
//! A line has what labels have, the numbers of the limits, and the request's id; no text of an error, no credential.

use super::calls::Listener;
use crate::engine::Judged;
use crate::limit::{Level, Reading};
use crate::owner::guidance;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::broadcast;

/// Lines that a slow reader may be behind.
const BEHIND: usize = 1_024;

/// Where lines come from; clones are the same.
#[derive(Clone, Debug)]
pub struct Tap(broadcast::Sender<Arc<str>>);

impl Default for Tap {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND).0)
    }
}

impl Tap {
    /// Lines from now on.
    pub fn lines(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.subscribe()
    }

    /// Makes the lines.
    pub fn listener(&self) -> Listener {
        let lines = self.0.clone();
        Box::new(move |call| {
            if lines.receiver_count() > 0 {
                // Without a reader by now it is nobody's loss.
                drop(lines.send(line(call).to_string().into()));
            }
        })
    }
}

/// One call.
fn line(judged: &Judged) -> Value {
    let Judged { end, owner, verdict, .. } = judged;
    let verdict = verdict.as_ref().map(|verdict| {
        json!({
            "class": verdict.class.as_str(),
            "limiter": verdict.limiter.as_ref().map(|limiter| limiter.as_str()),
            "evidence": verdict.rule.rung.as_str(),
            "confidence": verdict.rule.confidence.as_str(),
            "rule": verdict.rule.id,
            "first_move": guidance::guidance(verdict.class, verdict.owner_kind, verdict.limiter.as_ref()).first_move,
        })
    });
    json!({
        "t": end.at.secs_f64(),
        "duration": end.at.since(end.call.started).as_secs_f64(),
        "route": end.call.route.as_str(),
        "surface": judged.surface.as_str(),
        "owner": owner.id.as_str(),
        "owner_kind": owner.kind.as_str(),
        "model": end.model.as_ref().map(|model| model.as_str()),
        "region": end.call.region.as_deref(),
        "status": end.status,
        "outcome": end.outcome.as_str(),
        "reported": judged.reported,
        "request_id": end.limits.request_id.as_deref(),
        "retry_after": end.limits.retry_after.map(|wait| wait.as_secs_f64()),
        "input_tokens": end.usage.map(|usage| usage.all_input()),
        "output_tokens": end.usage.map(|usage| usage.output.get()),
        "limits": end.limits.readings.iter().chain(&end.limits.tenant).map(limit).collect::<Vec<_>>(),
        "verdict": verdict,
    })
}

fn limit(reading: &Reading) -> Value {
    let (limit, remaining, used) = match reading.level {
        Some(Level::Counted { limit, remaining }) => {
            let used = 1.0 - remaining.get() as f64 / limit.get().max(1) as f64;
            (Some(limit.get()), Some(remaining.get()), Some(used))
        }
        Some(Level::Used(parts)) => (None, None, Some(parts.get() as f64 / 1e6)),
        None => (None, None, None),
    };
    json!({
        "limiter": reading.limiter.as_str(), "window": reading.window.as_str(),
        "limit": limit, "remaining": remaining, "utilization": used,
        "reset": reading.resets.map(|at| at.secs_f64()),
    })
}
