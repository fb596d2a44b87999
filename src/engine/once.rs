//! One truth from many sources: which calls were told of already, and by whom.
//!
//! The same call may be seen by the hop, by a gateway's access log, by the caller's spans and by a callback. It is known
//! again by the ids of its request, then by its span, then by its trace; the first to tell is counted, and what comes
//! later only adds what was not known: a bucket's level, tokens. A source never repeats another call of its own, so a
//! trace alone joins reports of different sources only, and only within the operation's own time.
//!
//! A failure of which nothing is known but its status waits for [`HOLD`]: whoever saw more may be a second behind,
//! and a verdict that was given cannot be taken back. The table is bounded, and what is forgotten early is counted.

use crate::limit::Timestamp;
use crate::observation::{Call, End, Head, Key, Report};
use crate::route::ModelGroup;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How long a bare failure waits for somebody who knows more. Access logs are flushed within a second.
pub(super) const HOLD: Duration = Duration::from_secs(2);
/// How long a call is remembered after it was last told of: exporters retry for minutes.
const KEPT: Duration = Duration::from_secs(600);
/// Most calls that are remembered.
const MOST: usize = 32_768;
/// Most calls of one trace that are looked at.
const MOST_OF_TRACE: usize = 32;
/// Clocks of one machine agree to this.
const SLACK: Duration = Duration::from_secs(1);
/// The hop, as a source.
const HOP: &str = "hop";

/// Number of a call in this table.
pub(super) type Id = u64;

/// What is remembered of a call.
pub(super) struct Entry {
    source: Arc<str>,
    keys: Vec<Key>,
    spanning: bool,
    model: Option<ModelGroup>,
    from: Timestamp,
    to: Timestamp,
    /// The call as its first steps told it, until its end is told.
    pub(super) call: Option<Arc<Call>>,
    /// A head was told.
    pub(super) headed: bool,
    /// Its end was counted.
    pub(super) counted: bool,
    /// A level was told.
    pub(super) levels: bool,
    /// Tokens were told.
    pub(super) usage: bool,
    /// Attempts before it that were told of.
    pub(super) retries: u64,
    /// A bare failure that waits.
    pub(super) held: Option<Box<Report>>,
}

/// Where a report belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody told of this call.
    New,
    /// A further step of a call that the same source tells of.
    Further(Id),
    /// A call that was told of already.
    Known(Id),
}

/// Every call that was told of lately.
#[derive(Default)]
pub(super) struct Once {
    next: Id,
    entries: HashMap<Id, Entry, RandomState>,
    by_key: HashMap<Key, Id, RandomState>,
    by_trace: HashMap<Key, Vec<Id>, RandomState>,
    /// In the order in which they were first told of.
    order: VecDeque<(Timestamp, Id)>,
    /// In the order in which they are due.
    held: VecDeque<(Timestamp, Id)>,
    /// Calls that were forgotten for want of room, while somebody might still have told of them.
    pub(super) forgotten: u64,
    hop: Option<Arc<str>>,
}

impl Once {
    /// True once any source outside of the path has told anything: until then nothing need be remembered.
    pub(super) fn is_needed(&self) -> bool {
        self.hop.is_some()
    }

    /// From now on calls of the hop are remembered too.
    pub(super) fn need(&mut self) {
        self.hop.get_or_insert_with(|| HOP.into());
    }

    /// Where a report belongs.
    pub(super) fn place(&self, report: &Report) -> Place {
        let own = report.keys.own.and_then(|key| self.by_key.get(&key));
        if let Some(id) = own {
            return Place::Further(*id);
        }
        let exact = report.keys.exact.iter().find_map(|key| self.by_key.get(key));
        if let Some(id) = exact {
            return Place::Known(*id);
        }
        let above = report.keys.parent.and_then(|key| self.by_key.get(&key));
        let above = above.filter(|id| self.entries.get(id).is_some_and(|entry| entry.spanning));
        match above.copied().or_else(|| self.of_trace(report)) {
            Some(id) => Place::Known(id),
            None => Place::New,
        }
    }

    /// The newest call of the same trace that another source told, where one of the two spans the other in time.
    fn of_trace(&self, report: &Report) -> Option<Id> {
        let ids = self.by_trace.get(&report.keys.trace?)?;
        let (from, to) = span(report)?;
        let model = report.end.as_ref().and_then(|end| end.model.as_ref());
        let same = |entry: &Entry| {
            let within = |a: (Timestamp, Timestamp), b: (Timestamp, Timestamp)| {
                a.0.plus(SLACK) >= b.0 && a.1 <= b.1.plus(SLACK)
            };
            let models = entry.model.as_ref().zip(model).is_none_or(|(a, b)| a == b);
            let spans = report.spanning && within((entry.from, entry.to), (from, to));
            let spanned = entry.spanning && within((from, to), (entry.from, entry.to));
            entry.source != report.source && models && (spans || spanned)
        };
        ids.iter().rev().copied().find(|id| self.entries.get(id).is_some_and(same))
    }

    /// Remembers a new call.
    pub(super) fn add(&mut self, report: &Report, now: Timestamp) -> Id {
        let (from, to) = span(report).unwrap_or((now, now));
        let model = report.end.as_ref().and_then(|end| end.model.clone());
        let mut keys = report.keys.exact.clone();
        keys.extend(report.keys.own);
        // The span above is registered too, so that the operation's own span is known again when it ends.
        keys.extend(report.keys.parent.filter(|_| !report.spanning));
        let entry = Entry {
            source: report.source.clone(),
            keys,
            spanning: report.spanning,
            model,
            from,
            to,
            call: None,
            counted: false,
            levels: false,
            headed: false,
            usage: false,
            retries: 0,
            held: None,
        };
        self.insert(entry, report.keys.trace, now)
    }

    fn insert(&mut self, entry: Entry, trace: Option<Key>, now: Timestamp) -> Id {
        while self.entries.len() >= MOST {
            let Some((since, id)) = self.order.pop_front() else { break };
            self.forgotten += u64::from(self.forget(id) && now.since(since) < HOLD * 15);
        }
        self.next += 1;
        let id = self.next;
        for key in &entry.keys {
            self.by_key.entry(*key).or_insert(id);
        }
        if let Some(trace) = trace {
            let ids = self.by_trace.entry(trace).or_default();
            if ids.len() >= MOST_OF_TRACE {
                ids.remove(0);
            }
            ids.push(id);
        }
        let mut entry = entry;
        // The trace is among the keys so that it is forgotten with them.
        entry.keys.extend(trace);
        self.entries.insert(id, entry);
        self.order.push_back((now, id));
        id
    }

    /// A call that is remembered.
    pub(super) fn get(&mut self, id: Id) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Further names of a call, as a later report gives them.
    pub(super) fn learn(&mut self, id: Id, report: &Report) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let (from, to) = span(report).unwrap_or((entry.from, entry.to));
        (entry.from, entry.to) = (entry.from.min(from), entry.to.max(to));
        for key in report.keys.exact.iter().chain(&report.keys.own) {
            if !entry.keys.contains(key) && entry.keys.len() < 12 {
                entry.keys.push(*key);
                self.by_key.entry(*key).or_insert(id);
            }
        }
    }

    /// Lets a bare failure wait. False if too many do.
    pub(super) fn hold(&mut self, id: Id, report: Box<Report>, now: Timestamp) -> Result<(), Box<Report>> {
        match self.entries.get_mut(&id) {
            Some(entry) if self.held.len() < MOST / 8 => {
                entry.held = Some(report);
                self.held.push_back((now.plus(HOLD), id));
                Ok(())
            }
            _ => Err(report),
        }
    }

    /// A bare failure that has waited long enough.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<(Id, Box<Report>)> {
        while self.held.front().is_some_and(|(due, _)| *due <= now) {
            let (_, id) = self.held.pop_front()?;
            if let Some(report) = self.entries.get_mut(&id).and_then(|entry| entry.held.take()) {
                return Some((id, report));
            }
        }
        None
    }

    /// The hop saw a call's head.
    pub(super) fn hop_head(&mut self, head: &Head) {
        let Some(hop) = self.hop.clone() else { return };
        let call = &head.call;
        let keys = hop_keys(call, head.limits.request_id.as_deref());
        if let Some(id) = keys.iter().find_map(|key| self.by_key.get(key).copied()) {
            // Somebody was faster with less; the hop has counted it by itself.
            if let Some(entry) = self.entries.get_mut(&id) {
                (entry.held, entry.counted) = (None, true);
            }
            return;
        }
        let entry = Entry {
            source: hop,
            keys,
            spanning: false,
            model: head.model.clone(),
            from: call.started,
            to: head.at,
            call: None,
            counted: true,
            levels: true,
            headed: true,
            usage: false,
            retries: 0,
            held: None,
        };
        self.insert(entry, call.trace_id().map(Key::trace), head.at);
    }

    /// The hop saw a call's end.
    pub(super) fn hop_end(&mut self, end: &End) {
        if self.hop.is_none() {
            return;
        }
        let keys = hop_keys(&end.call, end.limits.request_id.as_deref());
        let id = keys.iter().find_map(|key| self.by_key.get(key));
        if let Some(entry) = id.and_then(|id| self.entries.get_mut(id)).filter(|e| &*e.source == HOP) {
            entry.to = entry.to.max(end.at);
            // What it did not read it did not count either; whoever has, adds it.
            entry.usage = end.usage.is_some();
        }
    }

    /// How many calls are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets what is old.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        while self.order.front().is_some_and(|(since, _)| now.since(*since) > KEPT) {
            if let Some((_, id)) = self.order.pop_front() {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: Id) -> bool {
        let Some(entry) = self.entries.remove(&id) else { return false };
        for key in &entry.keys {
            if self.by_key.get(key) == Some(&id) {
                self.by_key.remove(key);
            }
            if let Some(ids) = self.by_trace.get_mut(key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_trace.remove(key);
                }
            }
        }
        true
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for entry in self.entries.values_mut() {
            (entry.from, entry.to) = (entry.from.minus(by), entry.to.minus(by));
        }
        for (at, _) in self.order.iter_mut().chain(&mut self.held) {
            *at = at.minus(by);
        }
    }
}

fn hop_keys(call: &Call, request_id: Option<&str>) -> Vec<Key> {
    let span = call.traceparent.as_deref().and_then(Key::of_traceparent);
    request_id.map(Key::request).into_iter().chain(span).collect()
}

/// From when to when a report's call was.
fn span(report: &Report) -> Option<(Timestamp, Timestamp)> {
    let call = report.end.as_ref().map(|end| &end.call).or(report.head.as_ref().map(|head| &head.call));
    let call = call.or(report.start.as_ref().map(|start| &start.call))?;
    let to = report.end.as_ref().map(|end| end.at).or(report.head.as_ref().map(|head| head.at));
    Some((call.started, to.unwrap_or(call.started)))
}
