//! What sources outside of the path tell, as the book takes it in: each call is counted once, whoever tells first.

use super::book::{Book, Judged, proved_surface};
use super::once::{Id, Once, Place};
use crate::ledger::TotalsKey;
use crate::limit::Timestamp;
use crate::observation::{End, Report, Usage};
use crate::route::{ModelGroup, RouteName};
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What became of a report that ended a call.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What it is counted by.
    pub key: TotalsKey,
    /// The call is counted here; otherwise it was before, and only its tokens are new.
    pub counts: bool,
    /// Tokens that nobody told before.
    pub usage: Option<Usage>,
    /// The judged call, where it is counted here.
    pub judged: Option<Box<Judged>>,
}

/// What is known of reports, beside what they told.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) once: Once,
    /// Reports of calls that were counted before, by source.
    pub(super) repeated: BTreeMap<Arc<str>, u64>,
    /// Attempts that failed before the one that was told of.
    pub(super) retries: BTreeMap<TotalsKey, u64>,
    /// When a call on a route was last told of, by whoever knows calls.
    by_calls: HashMap<RouteName, Timestamp, RandomState>,
}

/// How long after a call was told of on a route counters of it are not believed.
const COUNTERS_WAIT: Duration = Duration::from_secs(600);

/// A call that is told of later than this is counted and no more: its levels are old, and an alert on it would be news of
/// what is over. As long as the alert on a refusal lasts.
const LATE: Duration = Duration::from_secs(120);

/// Most rows of retries.
const MOST_RETRIES: usize = 450;

impl Reports {
    /// True for what a counter counts on a route of which somebody else tells call by call.
    fn told_by_calls(&mut self, report: &Report, now: Timestamp) -> bool {
        let Some(end) = &report.end else { return false };
        let route = &end.call.route;
        if report.aggregate {
            return self.by_calls.get(route).is_some_and(|at| now.since(*at) < COUNTERS_WAIT);
        }
        self.saw_call(route, now);
        false
    }

    /// Somebody who knows calls saw one.
    pub(super) fn saw_call(&mut self, route: &RouteName, now: Timestamp) {
        if let Some(at) = self.by_calls.get_mut(route) {
            *at = now;
        } else if self.by_calls.len() < MOST_RETRIES {
            self.by_calls.insert(route.clone(), now);
        }
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        self.once.set_back(by);
        self.by_calls.values_mut().for_each(|at| *at = at.minus(by));
    }

    fn repeat(&mut self, source: &Arc<str>) {
        *self.repeated.entry(source.clone()).or_default() += 1;
    }

    /// Counts attempts before a call that nobody told of before: a client's event may not know of them, and its span does.
    fn retried(&mut self, id: Id, mut key: TotalsKey, n: u64) {
        let before = self.once.get(id).map_or(0, |entry| {
            let most = entry.retries.max(n);
            std::mem::replace(&mut entry.retries, most)
        });
        let n = n.saturating_sub(before);
        if n == 0 {
            return;
        }
        // How they failed is what nobody says.
        key.status = None;
        if self.retries.len() >= MOST_RETRIES && !self.retries.contains_key(&key) {
            key.model = ModelGroup::other();
        }
        let retries = self.retries.entry(key).or_default();
        *retries = retries.saturating_add(n);
    }
}

impl Book {
    /// Takes in what a source outside of the path tells. What is to be counted, if it is over.
    pub fn report(&mut self, mut report: Box<Report>, now: Timestamp) -> Option<Settled> {
        if report.tokens_only {
            let end = report.end?;
            return Some(Settled {
                key: self.totals_key(&end),
                counts: false,
                usage: end.usage,
                judged: None,
            });
        }
        self.reports.once.need();
        if self.reports.told_by_calls(&report, now) {
            self.reports.repeat(&report.source);
            return None;
        }
        if report.at().is_some_and(|at| now.since(at) > LATE) {
            (report.start, report.head) = (None, None);
            self.late += 1;
        }
        match self.reports.once.place(&report) {
            Place::New => {
                let id = self.reports.once.add(&report, now);
                if !report.is_bare_failure() {
                    return self.take(id, *report, now);
                }
                match self.reports.once.hold(id, report, now) {
                    Ok(()) => None,
                    Err(report) => self.take(id, *report, now),
                }
            }
            Place::Further(id) => {
                self.reports.once.learn(id, &report, now);
                self.further(id, report, now)
            }
            Place::Known(id) => {
                self.reports.once.learn(id, &report, now);
                let entry = self.reports.once.get(id)?;
                // Of a call that runs whoever tells its end first is believed.
                let runs = !entry.counted && entry.held.is_none();
                if runs { self.further(id, report, now) } else { self.add(id, report, now) }
            }
        }
    }

    /// A further step of a call.
    fn further(&mut self, id: Id, mut report: Box<Report>, now: Timestamp) -> Option<Settled> {
        let entry = self.reports.once.get(id)?;
        if entry.counted {
            self.reports.repeat(&report.source);
            return None;
        }
        // Envoy tells the same head every few seconds while an answer runs.
        if entry.headed && (entry.levels || !report.has_levels()) {
            report.head = None;
        }
        if report.head.is_none() && report.end.is_none() {
            return None;
        }
        if let Some(call) = entry.call.clone() {
            report.start = None;
            report.head.iter_mut().for_each(|head| head.call = call.clone());
            report.end.iter_mut().for_each(|end| end.call = call.clone());
        }
        self.take(id, *report, now)
    }

    /// The first to tell of a call, step by step.
    fn take(&mut self, id: Id, report: Report, now: Timestamp) -> Option<Settled> {
        let (levels, headed) = (report.has_levels(), report.head.is_some());
        let Report { start, head, end, retries, .. } = report;
        let call = end.as_ref().map(|end| end.call.clone());
        let call = call.or(head.as_ref().map(|h| h.call.clone())).or(start.as_ref().map(|s| s.call.clone()));
        if let Some(start) = start {
            self.start(&start);
        }
        if let Some(head) = head {
            self.take_head(&head);
        }
        let entry = self.reports.once.get(id)?;
        entry.levels |= levels;
        entry.headed |= headed;
        entry.held = None;
        let Some(end) = end else {
            entry.call = call;
            return None;
        };
        entry.call = None;
        entry.counted = true;
        entry.usage = end.usage.is_some();
        let key = self.totals_key(&end);
        self.reports.retried(id, key.clone(), retries);
        let usage = end.usage;
        let judged =
            (now.since(end.at) <= LATE).then(|| Box::new(Judged { reported: true, ..self.take_end(end) }));
        Some(Settled { key, counts: true, usage, judged })
    }

    /// A call that was told of before: what was not known is added.
    fn add(&mut self, id: Id, mut report: Box<Report>, now: Timestamp) -> Option<Settled> {
        self.reports.repeat(&report.source);
        let entry = self.reports.once.get(id)?;
        if report.end.is_some() && !report.is_bare_failure() {
            // Somebody saw more: their word is taken in place of the bare one.
            if let Some(held) = entry.held.take() {
                report.retries = report.retries.max(held.retries);
                let held_usage = held.end.and_then(|end| end.usage);
                report.end.iter_mut().for_each(|end| end.usage = end.usage.or(held_usage));
                return self.take(id, *report, now);
            }
        }
        let new_levels = !entry.levels && report.has_levels();
        entry.levels |= new_levels;
        let usage = report.end.as_ref().and_then(|end| end.usage).filter(|_| !entry.usage);
        entry.usage |= usage.is_some();
        let Report { head, end, retries, .. } = *report;
        let key = end.as_ref().map(|end| self.totals_key(end));
        if let Some(key) = &key {
            self.reports.retried(id, key.clone(), retries);
        }
        if let Some(head) = head.filter(|_| new_levels) {
            // The call was counted, and left its pool, when it was told of first.
            self.take_levels(&head);
            self.leave_pool_of(&head);
        }
        let usage = usage?;
        Some(Settled { key: key?, counts: false, usage: Some(usage), judged: None })
    }

    /// Bare failures that have waited long enough for somebody who knows more.
    pub fn due(&mut self, now: Timestamp) -> Option<Settled> {
        while let Some((id, report)) = self.reports.once.due(now) {
            if let Some(settled) = self.take(id, *report, now) {
                return Some(settled);
            }
        }
        None
    }

    /// What a call's totals are kept by.
    fn totals_key(&self, end: &End) -> TotalsKey {
        let surface = proved_surface(end.call.surface, end.call.client, &end.limits);
        TotalsKey {
            route: end.call.route.clone(),
            surface,
            owner: self.owners.resolve(surface.owner_kind(), &end.limits.account, &end.call.route),
            model: end.model.clone().unwrap_or_else(ModelGroup::none),
            status: end.status.map(Into::into),
        }
    }
}
