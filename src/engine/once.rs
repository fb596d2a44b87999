//! One truth from many sources: which calls were told of already, and by whom.
//!
//! The same call may be seen by the hop, by a gateway's access log, by the caller's spans and by a callback. It is known
//! again by the ids of its request; then by its span, then by its trace. The first to tell is counted, and what comes later
//! only adds what was not known: a bucket's level, tokens. A span may have made several calls (retries, a client without
//! spans of its own), so it joins only different sources, each of them once, and never calls whose ids differ. A trace
//! joins only what lies within an operation's own time.
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
/// How long one that has not ended is remembered.
const LONGEST: Duration = Duration::from_secs(3_600);
/// Most calls that are remembered.
const MOST: usize = 32_768;
/// As long as nothing but the hop tells of calls: enough for the first report to find its own.
const MOST_OF_HOP: usize = 256;
/// Most calls of one span or trace that are looked at.
const MOST_TOGETHER: usize = 32;
/// Most names of one call.
const MOST_NAMES: usize = 12;
/// Clocks of one machine agree to this.
const SLACK: Duration = Duration::from_secs(1);
/// The hop, as a source.
const HOP: &str = "hop";

/// Number of a call in this table.
pub(super) type Id = u64;

/// What is remembered of a call.
pub(super) struct Entry {
    /// Who told of it.
    told_by: Vec<Arc<str>>,
    /// Names that are its own: ids of the request, what sources call it.
    exact: Vec<Key>,
    /// Spans, the span above, the trace: others may have them too.
    shared: Vec<Key>,
    /// The id that its provider, or its gateway, gave to the request.
    request: Option<Key>,
    spanning: bool,
    model: Option<ModelGroup>,
    from: Timestamp,
    to: Timestamp,
    touched: Timestamp,
    /// The hop has it on its way: what it used, the hop will count.
    hop_runs: bool,
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
pub(super) struct Once {
    next: Id,
    entries: HashMap<Id, Entry, RandomState>,
    by_key: HashMap<Key, Id, RandomState>,
    /// By spans and traces.
    together: HashMap<Key, Vec<Id>, RandomState>,
    /// In the order in which they were first told of.
    order: VecDeque<(Timestamp, Id)>,
    /// In the order in which they are due.
    held: VecDeque<(Timestamp, Id)>,
    /// Calls that were forgotten for want of room, while somebody might still have told of them.
    pub(super) forgotten: u64,
    hop: Arc<str>,
    /// Others than the hop tell of calls.
    needed: bool,
}

impl Default for Once {
    fn default() -> Self {
        Self {
            next: 0,
            entries: HashMap::default(),
            by_key: HashMap::default(),
            together: HashMap::default(),
            order: VecDeque::new(),
            held: VecDeque::new(),
            forgotten: 0,
            hop: HOP.into(),
            needed: false,
        }
    }
}

impl Once {
    /// Others than the hop tell of calls: all are remembered from now on.
    pub(super) fn need(&mut self) {
        self.needed = true;
    }

    /// Where a report belongs.
    pub(super) fn place(&self, report: &Report) -> Place {
        let keys = &report.keys;
        if let Some(id) = keys.own.and_then(|key| self.by_key.get(&key)) {
            return Place::Further(*id);
        }
        let known = keys.exact.iter().find_map(|key| self.by_key.get(key)).copied();
        let known = known.or_else(|| self.by_span(report)).or_else(|| self.by_trace(report));
        known.map_or(Place::New, Place::Known)
    }

    /// The newest of those that share a name, for which this holds.
    fn newest(&self, key: Option<Key>, fits: impl Fn(&Entry) -> bool) -> Option<Id> {
        let ids = self.together.get(&key?)?;
        ids.iter().rev().copied().find(|id| self.entries.get(id).is_some_and(&fits))
    }

    fn by_span(&self, report: &Report) -> Option<Id> {
        let fits = |entry: &Entry| entry.same_model(report) && entry.may_be(report);
        // Another source's call of the same span; an operation's own requests; the operation above this request.
        let others = |entry: &Entry| {
            !entry.told_by.contains(&report.source) && !entry.spanning && !report.spanning && fits(entry)
        };
        let twin = self.newest(report.keys.span, others);
        let below = || {
            let fits = |entry: &Entry| fits(entry) && entry.within(report);
            self.newest(report.keys.span.map(Key::above).filter(|_| report.spanning), fits)
        };
        let above = || {
            let fits = |entry: &Entry| entry.spanning && entry.spans(report) && fits(entry);
            self.newest(report.keys.parent, fits)
        };
        // A caller's span is an operation's own one where nobody made spans of its requests.
        let either = || {
            let fits = |entry: &Entry| {
                !entry.told_by.contains(&report.source) && entry.spanning != report.spanning && fits(entry)
            };
            self.newest(report.keys.span, fits)
        };
        twin.or_else(below).or_else(above).or_else(either)
    }

    /// The newest call of the same trace that another source told, where one of the two spans the other in time.
    fn by_trace(&self, report: &Report) -> Option<Id> {
        self.newest(report.keys.trace, |entry| {
            let spans = report.spanning && entry.within(report);
            let spanned = entry.spanning && entry.spans(report);
            !entry.told_by.contains(&report.source)
                && entry.same_model(report)
                && entry.may_be(report)
                && (spans || spanned)
        })
    }

    /// Remembers a new call.
    pub(super) fn add(&mut self, report: &Report, now: Timestamp) -> Id {
        let (from, to) = span(report).unwrap_or((now, now));
        let keys = &report.keys;
        let entry = Entry {
            exact: keys.exact.iter().copied().chain(keys.own).take(MOST_NAMES).collect(),
            // The span above is registered as such, so that the operation's own span is known again when it ends.
            shared: keys.span.into_iter().chain(keys.parent.map(Key::above)).chain(keys.trace).collect(),
            request: keys.request,
            spanning: report.spanning,
            model: report.end.as_ref().and_then(|end| end.model.clone()),
            ..Entry::new(&report.source, from, to, now)
        };
        self.insert(entry, now)
    }

    fn insert(&mut self, entry: Entry, now: Timestamp) -> Id {
        let most = if self.needed { MOST } else { MOST_OF_HOP };
        while self.entries.len() >= most {
            let Some((since, id)) = self.order.pop_front() else { break };
            let early = self.needed && now.since(since) < HOLD * 15;
            self.forgotten += u64::from(self.forget(id) && early);
        }
        self.next += 1;
        let id = self.next;
        for key in &entry.exact {
            self.by_key.entry(*key).or_insert(id);
        }
        for key in &entry.shared {
            let ids = self.together.entry(*key).or_default();
            if ids.len() >= MOST_TOGETHER {
                ids.remove(0);
            }
            ids.push(id);
        }
        self.entries.insert(id, entry);
        self.order.push_back((now, id));
        id
    }

    /// A call that is remembered.
    pub(super) fn get(&mut self, id: Id) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Who else tells of a call, by which further names, and when.
    pub(super) fn learn(&mut self, id: Id, report: &Report, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let (from, to) = span(report).unwrap_or((entry.from, entry.to));
        (entry.from, entry.to) = (entry.from.min(from), entry.to.max(to));
        entry.touched = now;
        entry.request = entry.request.or(report.keys.request);
        if !entry.told_by.contains(&report.source) && entry.told_by.len() < MOST_NAMES {
            entry.told_by.push(report.source.clone());
        }
        for key in report.keys.exact.iter().chain(&report.keys.own) {
            if !entry.exact.contains(key) && entry.exact.len() < MOST_NAMES {
                entry.exact.push(*key);
                self.by_key.entry(*key).or_insert(id);
            }
        }
        let above = report.keys.parent.map(Key::above);
        for key in report.keys.span.into_iter().chain(above).chain(report.keys.trace) {
            let ids = self.together.entry(key).or_default();
            if !entry.shared.contains(&key) && entry.shared.len() < MOST_NAMES && ids.len() < MOST_TOGETHER {
                entry.shared.push(key);
                ids.push(id);
            }
            if ids.is_empty() {
                self.together.remove(&key);
            }
        }
    }

    /// Lets a bare failure wait, or gives it back if too many do.
    pub(super) fn hold(&mut self, id: Id, report: Box<Report>, now: Timestamp) -> Result<(), Box<Report>> {
        match self.entries.get_mut(&id) {
            Some(entry) if self.held.len() < MOST / 8 => {
                entry.usage = report.end.as_ref().is_some_and(|end| end.usage.is_some());
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

    /// The hop saw a call's head: it counts the call, and what it uses, by itself.
    pub(super) fn hop_head(&mut self, head: &Head) {
        let id = self.hop_call(&head.call, head.limits.request_id.as_deref(), head.model.as_ref(), head.at);
        if let Some(entry) = self.entries.get_mut(&id) {
            (entry.held, entry.counted, entry.headed) = (None, true, true);
            (entry.levels, entry.usage, entry.hop_runs) = (true, true, true);
        }
    }

    /// The hop saw a call's end.
    pub(super) fn hop_end(&mut self, end: &End) {
        let id = self.hop_call(&end.call, end.limits.request_id.as_deref(), end.model.as_ref(), end.at);
        if let Some(entry) = self.entries.get_mut(&id) {
            (entry.held, entry.counted, entry.hop_runs) = (None, true, false);
            // What it did not read it did not count either; whoever has, adds it.
            entry.usage = end.usage.is_some();
        }
    }

    /// The hop's call: one that another was faster to tell of, or a new one.
    fn hop_call(
        &mut self,
        call: &Call,
        request_id: Option<&str>,
        model: Option<&ModelGroup>,
        at: Timestamp,
    ) -> Id {
        let own = Key::hop(call.id);
        let request = request_id.map(Key::request);
        let known = self.by_key.get(&own).copied().or_else(|| self.told_to_hop(request?));
        if let Some((id, entry)) = known.and_then(|id| Some((id, self.entries.get_mut(&id)?))) {
            (entry.to, entry.touched) = (entry.to.max(at), at);
            entry.request = entry.request.or(request);
            if !entry.told_by.contains(&self.hop) {
                entry.told_by.push(self.hop.clone());
            }
            for key in [Some(own), request].into_iter().flatten() {
                if !entry.exact.contains(&key) {
                    entry.exact.push(key);
                    self.by_key.entry(key).or_insert(id);
                }
            }
            return id;
        }
        let span = call.traceparent.as_deref().and_then(Key::of_traceparent);
        let trace = call.trace_id().map(Key::trace);
        let entry = Entry {
            exact: request.into_iter().chain([own]).collect(),
            shared: span.into_iter().chain(trace).collect(),
            request,
            model: model.cloned(),
            ..Entry::new(&self.hop, call.started, at, at)
        };
        self.insert(entry, at)
    }

    /// The call of this request that others told of, and the hop did not yet. The hop knows its own calls by their
    /// numbers: where a second one bears the same id, its provider repeats ids, and it is another call.
    fn told_to_hop(&self, request: Key) -> Option<Id> {
        let id = *self.by_key.get(&request)?;
        self.entries.get(&id).filter(|entry| !entry.told_by.contains(&self.hop)).map(|_| id)
    }

    /// How many calls are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Forgets what is old: what has not been told of for a while, and what never ended.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        while let Some((since, id)) =
            self.order.front().copied().filter(|(since, _)| now.since(*since) > KEPT)
        {
            self.order.pop_front();
            let Some(entry) = self.entries.get(&id) else { continue };
            let runs = (entry.hop_runs || !entry.counted) && now.since(entry.from) < LONGEST;
            if runs || now.since(entry.touched) <= KEPT {
                // Looked at again after a while.
                self.order.push_back((since.plus(KEPT).max(entry.touched), id));
            } else {
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: Id) -> bool {
        let Some(entry) = self.entries.remove(&id) else { return false };
        for key in &entry.exact {
            if self.by_key.get(key) == Some(&id) {
                self.by_key.remove(key);
            }
        }
        for key in &entry.shared {
            if let Some(ids) = self.together.get_mut(key) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.together.remove(key);
                }
            }
        }
        true
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for entry in self.entries.values_mut() {
            (entry.from, entry.to) = (entry.from.minus(by), entry.to.minus(by));
            entry.touched = entry.touched.minus(by);
        }
        for (at, _) in self.order.iter_mut().chain(&mut self.held) {
            *at = at.minus(by);
        }
    }
}

impl Entry {
    fn new(source: &Arc<str>, from: Timestamp, to: Timestamp, now: Timestamp) -> Self {
        Self {
            told_by: vec![source.clone()],
            exact: Vec::new(),
            shared: Vec::new(),
            request: None,
            spanning: false,
            model: None,
            from,
            to,
            touched: now,
            hop_runs: false,
            call: None,
            headed: false,
            counted: false,
            levels: false,
            usage: false,
            retries: 0,
            held: None,
        }
    }

    /// Two calls with different ids of their requests are two.
    fn may_be(&self, report: &Report) -> bool {
        self.request.zip(report.keys.request).is_none_or(|(a, b)| a == b)
    }

    fn same_model(&self, report: &Report) -> bool {
        let model = report.end.as_ref().and_then(|end| end.model.as_ref());
        self.model.as_ref().zip(model).is_none_or(|(a, b)| a == b)
    }

    /// It lies within the time of what is told.
    fn within(&self, report: &Report) -> bool {
        span(report).is_some_and(|(from, to)| self.from.plus(SLACK) >= from && self.to <= to.plus(SLACK))
    }

    /// What is told lies within its time.
    fn spans(&self, report: &Report) -> bool {
        span(report).is_some_and(|(from, to)| from.plus(SLACK) >= self.from && to <= self.to.plus(SLACK))
    }
}

/// From when to when a report's call was.
fn span(report: &Report) -> Option<(Timestamp, Timestamp)> {
    let call = report.end.as_ref().map(|end| &end.call).or(report.head.as_ref().map(|head| &head.call));
    let call = call.or(report.start.as_ref().map(|start| &start.call))?;
    let to = report.end.as_ref().map(|end| end.at).or(report.head.as_ref().map(|head| head.at));
    Some((call.started, to.unwrap_or(call.started)))
}
