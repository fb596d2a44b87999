//! Counters about ourselves: what was dropped, refused, repaired or failed. Atomics, nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Adds to a counter that never wraps: one that starts anew at a number somebody made up would show a rate that never was.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    let mut now = counter.load(Relaxed);
    while let Err(other) = counter.compare_exchange_weak(now, now.saturating_add(n), Relaxed, Relaxed) {
        now = other;
    }
}

/// A counter that only goes up.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn up(&self) {
        self.add(1);
    }

    /// One more; true for the first one, so that it is said once.
    pub fn first(&self) -> bool {
        self.0.fetch_add(1, Relaxed) == 0
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        add(&self.0, n);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets a level (for depths and times, which do go down).
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// Deliveries of one exporter.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Deliveries that were accepted.
    pub sent: Count,
    /// Deliveries that failed or were refused.
    pub failed: Count,
    /// Items that were dropped because the exporter's queue was full.
    pub dropped: Count,
}

/// Polls of one source.
#[derive(Debug, Default)]
pub struct Polls {
    /// Polls that gave something.
    pub ok: Count,
    /// Polls that did not.
    pub failed: Count,
    /// Failures since the last that did.
    pub failing: Count,
    /// Unix time, in seconds, of the last that gave something.
    pub last_ok: Count,
    /// How long the newest took, in milliseconds.
    pub last_millis: Count,
    /// How long its polls lie apart, in seconds.
    pub interval: Count,
    /// What was asked for that is billed: metrics of CloudWatch, series of Cloud Monitoring.
    pub billed: Count,
    /// What that costs by the documented prices, in billionths of a US dollar.
    pub nano_dollars: Count,
    /// Rows of an answer that could not be used: names that are not known, values that make no sense.
    pub unusable: Count,
}

/// Every source that is polled, by name.
#[derive(Debug, Default)]
pub struct Sources(Mutex<BTreeMap<Arc<str>, Arc<Polls>>>);

impl Sources {
    /// The counters of a source; the same ones for the same name.
    pub fn of(&self, name: &str) -> Arc<Polls> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.entry(name.into()).or_default().clone()
    }

    /// A source that is asked no longer.
    pub fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Every source.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<Polls>)> {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().map(|(name, polls)| (name.clone(), polls.clone())).collect()
    }
}

/// What one source outside of the path told.
#[derive(Debug, Default)]
pub struct Feed {
    /// Reports that were handed to the engine.
    pub told: Count,
    /// Reports that were dropped: the engine's queue had no room for them.
    pub dropped: Count,
    /// Items that could not be read.
    pub unusable: Count,
    /// Items that say nothing of a call to a model.
    pub skipped: Count,
    /// Reports whose times were set by the answer's `Date`, because the source's clock is wrong.
    pub skewed: Count,
    /// Unix time, in seconds, of the newest report.
    pub last_at: Count,
    /// 1 while the source cannot be read (a file that is not there, a port that broke).
    pub down: Count,
}

/// Every source outside of the path, by name.
#[derive(Debug, Default)]
pub struct Feeds(Mutex<BTreeMap<Arc<str>, Arc<Feed>>>);

impl Feeds {
    /// The counters of a source; the same ones for the same name.
    pub fn of(&self, name: &str) -> Arc<Feed> {
        let mut feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.entry(name.into()).or_default().clone()
    }

    /// Every source.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<Feed>)> {
        let feeds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.iter().map(|(name, feed)| (name.clone(), feed.clone())).collect()
    }
}

/// What a route did to requests beside passing them on.
#[derive(Debug, Default)]
pub struct RouteCounts {
    /// Paths that lacked `/v1`, and were forwarded with it.
    pub missing_v1: Count,
    /// Paths that began with `/v1/v1`, and were forwarded with one.
    pub doubled_v1: Count,
    /// WebSockets that passed, unmeasured.
    pub websockets: Count,
    /// WebSockets that were answered with 426.
    pub websockets_refused: Count,
    /// Requests that call no model.
    pub other: Count,
}

/// The counts of each route, by name.
#[derive(Debug, Default)]
pub struct Routes(Mutex<BTreeMap<Arc<str>, Arc<RouteCounts>>>);

impl Routes {
    /// The counts of a route; the same ones for the same name.
    pub fn of(&self, name: &str) -> Arc<RouteCounts> {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.entry(name.into()).or_default().clone()
    }

    /// Every route.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<RouteCounts>)> {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(name, counts)| (name.clone(), counts.clone())).collect()
    }

    /// Forgets routes that no configuration names any more.
    pub fn keep(&self, configured: &[&str]) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|name, _| configured.contains(&&**name));
    }
}

/// Names of settings that wait for the next start.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Vec<&'static str>>);

impl Waiting {
    /// These wait, and no others.
    pub fn set(&self, settings: Vec<&'static str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// Those that wait.
    pub fn get(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything that Plimsoll counts about itself.
#[derive(Debug, Default)]
pub struct Stats {
    /// Observations that the full queue to the engine refused.
    pub tap_dropped: Count,
    /// Panics of measuring code that were caught; the traffic went on.
    pub panics: Count,
    /// Limit headers that could not be read.
    pub complaints: Count,
    /// Answers whose body could not be decoded or was cut; the traffic went on.
    pub unread_bodies: Count,
    /// Responses that passed without being decoded to their end, because the decoders that were open
    /// held all the memory that there is for them.
    pub unmeasured_bodies: Count,
    /// Requests that were answered with 503 because memory was short.
    pub overloaded: Count,
    /// Bytes that the process holds.
    pub memory_held: Count,
    /// Bytes that it may hold.
    pub memory_limit: Count,
    /// Observations in the queue to the engine.
    pub queue_depth: Count,
    /// Configurations that were put in place, the first one among them.
    pub reloads: Count,
    /// Configurations that were refused; the one before stayed in place.
    pub reloads_refused: Count,
    /// 1 if the newest configuration was refused.
    pub last_reload_refused: Count,
    /// Unix time, in seconds, at which a configuration was last put in place.
    pub last_reload_at: Count,
    /// What routes did to requests beside passing them on.
    pub routes: Routes,
    /// Settings that changed and wait for the next start.
    pub restart: Waiting,
    /// What is polled.
    pub sources: Sources,
    /// What is told by sources outside of the path.
    pub feeds: Feeds,
    /// What was forwarded to a collector.
    pub forward: Deliveries,
    /// Spans.
    pub spans: Deliveries,
    /// Alerts posted to Alertmanagers.
    pub alertmanager: Deliveries,
    /// Answers written to the file of `--record`.
    pub record: Deliveries,
    /// Metrics pushed by OTLP.
    pub otlp: Deliveries,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_never_wraps() {
        let count = Count::default();
        count.add(u64::MAX - 1);
        count.add(7);
        count.up();
        assert_eq!(count.get(), u64::MAX);
    }
}
