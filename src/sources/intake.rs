//! The way in for every source outside of the path: what it saw is put on a route, made into a report and handed on.
//!
//! Reports never take more than half of the engine's queue: a sender that never stops costs its own reports, never
//! the hop's. What is dropped is counted. A panic while a report is made costs that report.

use crate::clock::Clock;
use crate::observation::{Observation, Report};
use crate::route::ModelGroups;
use crate::seen::{Maker, Places, Seen};
use crate::sources::proxy::tap::ReadHead;
use crate::stats::{Feed, Stats};
use arc_swap::ArcSwap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a configuration gives every source; changes at a reload.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Which report belongs to which route.
    pub places: Places,
    /// Models that share a pool.
    pub groups: ModelGroups,
}

/// The way in. Clones share everything.
#[derive(Clone)]
pub struct Intake {
    /// The configuration.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The queue to the engine. It ends with the hop's senders: whoever only reports keeps it from no end.
    pub observations: mpsc::WeakSender<Observation>,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Clock,
    /// How heads are read.
    pub read_head: ReadHead,
    /// The next call's id.
    pub next_id: Arc<AtomicU64>,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Intake")
    }
}

/// One source's way in.
#[derive(Clone, Debug)]
pub struct Teller {
    /// The source, by name.
    pub name: Arc<str>,
    /// Its counters.
    pub feed: Arc<Feed>,
    intake: Intake,
}

impl Intake {
    /// The way in of a source.
    pub fn teller(&self, name: &str) -> Teller {
        Teller { name: name.into(), feed: self.stats.feeds.of(name), intake: self.clone() }
    }
}

/// How long a source that can wait does so before it looks for room again.
const PATIENCE: Duration = Duration::from_millis(5);

impl Teller {
    /// Hands on what was seen, or counts it as dropped. False if it was.
    pub fn tell(&self, seen: Seen) -> bool {
        self.make(seen).is_none_or(|report| self.send(report))
    }

    /// [`Teller::tell`] for a source that sees other traffic too: what is no call to a model is only counted. False if it
    /// was dropped.
    pub fn tell_of_model(&self, seen: Seen) -> bool {
        if self.concerns_a_model(&seen) {
            return self.tell(seen);
        }
        self.feed.skipped.up();
        true
    }

    /// True for a call to a model, or to a route that is configured.
    pub fn concerns_a_model(&self, seen: &Seen) -> bool {
        seen.concerns_a_model() || self.intake.rules.load().places.of(&self.name, seen).1
    }

    /// Hands on what was seen once there is room, and blocks its thread until then: for sources that lose nothing by
    /// waiting. `stop` ends the wait.
    pub fn tell_blocking(&self, seen: Seen, stop: impl Fn() -> bool) {
        let Some(report) = self.make(seen) else { return };
        // Without a queue there is no engine any more.
        while self.room() == Some(false) && !stop() {
            std::thread::sleep(PATIENCE);
        }
        self.send(report);
    }

    /// Counts something that could not be read.
    pub fn unusable(&self) {
        self.feed.unusable.up();
    }

    /// Whether there is room; nothing where the engine has ended.
    fn room(&self) -> Option<bool> {
        let queue = self.intake.observations.upgrade()?;
        Some(queue.capacity() > queue.max_capacity() / 2)
    }

    fn make(&self, seen: Seen) -> Option<Box<Report>> {
        let Intake { rules, clock, read_head, next_id, stats, .. } = &self.intake;
        let rules = rules.load();
        let now = clock.now();
        let make = || {
            let (place, _) = rules.places.of(&self.name, &seen);
            let maker = Maker { source: &self.name, groups: &rules.groups, read_head: *read_head };
            maker.report(seen, place, next_id.fetch_add(1, Relaxed), now)
        };
        let Ok((report, skewed)) = catch_unwind(AssertUnwindSafe(make)) else {
            stats.panics.up();
            return None;
        };
        self.feed.skewed.add(u64::from(skewed));
        self.feed.last_at.set(u64::try_from(now.micros() / 1_000_000).unwrap_or(0));
        if let Some(head) = &report.head {
            stats.complaints.add(u64::from(head.limits.complaints));
        }
        Some(report)
    }

    fn send(&self, report: Box<Report>) -> bool {
        let queue = self.intake.observations.upgrade().filter(|_| self.room() == Some(true));
        let sent = queue.is_some_and(|queue| queue.try_send(Observation::Report(report)).is_ok());
        if sent {
            self.feed.told.up()
        } else {
            self.feed.dropped.up()
        }
        sent
    }

    /// The time.
    pub fn now(&self) -> crate::limit::Timestamp {
        self.intake.clock.now()
    }
}
