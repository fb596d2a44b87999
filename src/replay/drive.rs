//! Drives the engine as the hop drives it, faster than real time: a start when a request has passed, a
//! head when a response head comes, an end when the call is over, and a tick every 200 ms.

use crate::engine::task::TICK;
use crate::engine::{AlertName, Book, BookLimits, Identity, Thresholds};
use crate::limit::Timestamp;
use crate::observation::{End, Head, Start};
use crate::owner::Owners;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Once nothing has happened for so long, ticks come seldom: nothing can begin, things only end.
const BUSY: Duration = Duration::from_secs(150);
/// How seldom.
const IDLE_TICK: Duration = Duration::from_secs(5);
/// Once nothing has happened for so long, fewer still.
const LONG: Duration = Duration::from_secs(3_600);

/// An alert that was up: from when, to when (absent while it still is).
#[derive(Clone, Debug, PartialEq)]
pub struct Raised {
    /// Which alert.
    pub name: AlertName,
    /// About what.
    pub identity: Identity,
    /// When it began.
    pub from: Timestamp,
    /// When it ended.
    pub to: Option<Timestamp>,
}

/// Somebody who looks at the book at every tick.
pub type Watcher<'a> = &'a mut dyn FnMut(&Book, Timestamp);

/// The engine, and what it raised.
pub struct Driver<'a> {
    book: Book,
    now: Timestamp,
    /// The newest observation.
    newest: Timestamp,
    version: u64,
    up: BTreeMap<(AlertName, Identity), Timestamp>,
    ended: Vec<Raised>,
    watcher: Option<Watcher<'a>>,
}

impl<'a> Driver<'a> {
    /// A cold engine.
    pub fn new(owners: Arc<Owners>, thresholds: Thresholds, limits: BookLimits, from: Timestamp) -> Self {
        Self {
            book: Book::new(owners, thresholds, limits),
            now: from,
            newest: from,
            version: 0,
            up: BTreeMap::new(),
            ended: Vec::new(),
            watcher: None,
        }
    }

    /// Lets somebody look on.
    #[must_use]
    pub fn watched(self, watcher: Watcher<'a>) -> Self {
        Self { watcher: Some(watcher), ..self }
    }

    /// A request has passed.
    pub fn start(&mut self, start: &Start) {
        self.advance(start.at);
        self.book.start(start);
        self.look(start.at);
    }

    /// A response head came.
    pub fn head(&mut self, head: &Head) {
        self.advance(head.at);
        self.book.head(head);
        self.look(head.at);
    }

    /// A call is over.
    pub fn end(&mut self, end: Box<End>) {
        let at = end.at;
        self.advance(at);
        self.book.end(end);
        self.look(at);
    }

    fn advance(&mut self, to: Timestamp) {
        self.tick_until(to);
        self.newest = self.newest.max(to);
    }

    /// Lets time pass up to a moment.
    pub fn tick_until(&mut self, to: Timestamp) {
        while self.now < to {
            self.book.tick(self.now);
            self.look(self.now);
            if let Some(watcher) = &mut self.watcher {
                watcher(&self.book, self.now);
            }
            let idle = self.now.since(self.newest);
            let step = match idle {
                _ if idle < BUSY => TICK,
                _ if idle < LONG => IDLE_TICK,
                // A log with a gap of years is no reason to count every second of it.
                _ => (to.since(self.now) / 100).max(IDLE_TICK),
            };
            self.now = self.now.plus(step);
        }
    }

    /// Notes which alerts began and ended.
    fn look(&mut self, at: Timestamp) {
        let version = self.book.alerts_version();
        if version == self.version {
            return;
        }
        self.version = version;
        let mut up = BTreeMap::new();
        for alert in self.book.alerts(at) {
            let key = (alert.name, alert.identity);
            let since = self.up.remove(&key).unwrap_or(at);
            up.insert(key, since);
        }
        for ((name, identity), from) in std::mem::replace(&mut self.up, up) {
            self.ended.push(Raised { name, identity, from, to: Some(at) });
        }
    }

    /// Everything that was raised, in order of its beginning.
    pub fn finish(mut self) -> Vec<Raised> {
        let open =
            self.up.into_iter().map(|((name, identity), from)| Raised { name, identity, from, to: None });
        self.ended.extend(open);
        self.ended.sort_by(|a, b| (a.from, a.name, &a.identity).cmp(&(b.from, b.name, &b.identity)));
        self.ended
    }
}
