//! Totals that must never be lost: requests, tokens, calls in flight. Atomics, nothing else.
//!
//! The hop settles them itself, in a drop guard, so they are right even when the queue to the
//! engine is full or a dialect has panicked. The table is bounded: models past the limit share the
//! row `_other`, and statuses that nobody made known are counted as their class.

use crate::observation::Usage;
use crate::route::{ModelGroup, Owner, RouteName, Surface};
use crate::stats::add;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// What totals are kept by. Exactly the labels they are exported with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TotalsKey {
    /// The route.
    pub route: RouteName,
    /// The surface, as the answer proved it.
    pub surface: Surface,
    /// The owner of the surface's quota.
    pub owner: Owner,
    /// The model group.
    pub model: ModelGroup,
    /// HTTP status; absent where no response came.
    pub status: Option<Status>,
}

/// An HTTP status as it is counted: itself where somebody made it known, else its class, never a neighbour's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// A known one.
    Code(u16),
    /// All the others of a hundred.
    Class(u16),
}

/// Statuses that are known: the registry's, and those of nginx (444, 494 to 499), of AWS's load balancers (460, 463, 561),
/// of Cloudflare (520 to 530) and of Anthropic (529), of which every one is met in front of models.
const KNOWN: [(u16, u16); 15] = [
    (100, 104),
    (200, 208),
    (226, 226),
    (300, 308),
    (400, 418),
    (421, 426),
    (428, 429),
    (431, 431),
    (444, 444),
    (451, 451),
    (460, 460),
    (463, 463),
    (494, 511),
    (520, 530),
    (561, 561),
];

impl From<u16> for Status {
    fn from(status: u16) -> Self {
        let known = KNOWN.iter().any(|(from, to)| (*from..=*to).contains(&status));
        if known { Self::Code(status) } else { Self::Class(status / 100) }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => code.fmt(f),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

/// Totals of one row. Requests, and tokens by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls that ended.
    pub requests: u64,
    /// Input tokens after the last cache breakpoint.
    pub input: u64,
    /// Input tokens written to the cache.
    pub cache_write: u64,
    /// Input tokens read from the cache.
    pub cache_read: u64,
    /// Generated tokens.
    pub output: u64,
}

#[derive(Debug, Default)]
struct Row {
    requests: AtomicU64,
    input: AtomicU64,
    cache_write: AtomicU64,
    cache_read: AtomicU64,
    output: AtomicU64,
}

impl Row {
    fn add(&self, usage: Usage) {
        add(&self.input, usage.input.get());
        add(&self.cache_write, usage.cache_write.get());
        add(&self.cache_read, usage.cache_read.get());
        add(&self.output, usage.output.get());
    }
}

/// The totals of everything that passed.
#[derive(Debug)]
pub struct Ledger {
    rows: RwLock<HashMap<TotalsKey, Arc<Row>, RandomState>>,
    max_rows: usize,
    folded: AtomicU64,
    told: AtomicU64,
    in_flight: RwLock<BTreeMap<RouteName, Arc<InFlight>>>,
}

/// Calls in flight on one route. Held by the route, so that counting costs no look-up.
#[derive(Debug, Default)]
pub struct InFlight(AtomicU64);

impl InFlight {
    /// Counts a call in; returns how many are in flight, this one among them.
    pub fn enter(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }

    /// Counts a call out that was counted in by [`InFlight::enter`].
    pub fn leave(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Ledger {
    /// A ledger with at most `max_rows` rows that name a model.
    pub fn new(max_rows: usize) -> Self {
        let (folded, told) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { rows: RwLock::default(), max_rows, folded, told, in_flight: RwLock::default() }
    }

    /// The count of calls in flight on a route; the same one for the same name.
    pub fn route(&self, route: &RouteName) -> Arc<InFlight> {
        let mut routes = self.in_flight.write().unwrap_or_else(PoisonError::into_inner);
        routes.entry(route.clone()).or_default().clone()
    }

    /// Forgets routes that are gone, once their last call has ended.
    pub fn keep_routes(&self, configured: &[RouteName]) {
        let mut routes = self.in_flight.write().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|route, count| configured.contains(route) || Arc::strong_count(count) > 1);
    }

    /// Settles the totals of a call that ended.
    pub fn settle(&self, key: TotalsKey, usage: Option<Usage>) {
        let row = self.row(key);
        add(&row.requests, 1);
        if let Some(usage) = usage {
            row.add(usage);
        }
    }

    /// Settles the totals of a call that somebody told of, and no hop of ours saw.
    pub fn settle_told(&self, key: TotalsKey, usage: Option<Usage>) {
        add(&self.told, 1);
        self.settle(key, usage);
    }

    /// Calls that somebody told of, and no hop of ours saw.
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// Adds the tokens of a call that was settled before they were known.
    pub fn add_tokens(&self, key: TotalsKey, usage: Usage) {
        self.row(key).add(usage);
    }

    fn row(&self, mut key: TotalsKey) -> Arc<Row> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = rows.get(&key) {
            return row.clone();
        }
        drop(rows);
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if rows.len() >= self.max_rows && !rows.contains_key(&key) {
            add(&self.folded, 1);
            key.model = ModelGroup::other();
        }
        rows.entry(key).or_default().clone()
    }

    /// Calls that were counted in the row `_other` because the table was full.
    pub fn folded(&self) -> u64 {
        self.folded.load(Relaxed)
    }

    /// Calls in flight, by route.
    pub fn in_flight(&self) -> Vec<(RouteName, u64)> {
        let routes = self.in_flight.read().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(route, count)| (route.clone(), count.0.load(Relaxed))).collect()
    }

    /// Every row, sorted by key.
    pub fn read(&self) -> Vec<(TotalsKey, Totals)> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = rows
            .iter()
            .map(|(key, row)| {
                let totals = Totals {
                    requests: row.requests.load(Relaxed),
                    input: row.input.load(Relaxed),
                    cache_write: row.cache_write.load(Relaxed),
                    cache_read: row.cache_read.load(Relaxed),
                    output: row.output.load(Relaxed),
                };
                (key.clone(), totals)
            })
            .collect();
        drop(rows);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Amount;
    use crate::route::{OwnerId, OwnerKind};

    fn key(model: &str, status: u16) -> TotalsKey {
        TotalsKey {
            route: RouteName::new("api"),
            surface: Surface::AnthropicApi,
            owner: Owner { id: OwnerId::unnamed(), kind: OwnerKind::AnthropicWorkspace },
            model: ModelGroup::of_model(model),
            status: Some(status.into()),
        }
    }

    #[test]
    fn nothing_is_lost_when_the_table_is_full() {
        let ledger = Ledger::new(10);
        let usage = Usage { input: Amount::new(3), ..Usage::default() };
        for n in 0..1_000 {
            ledger.settle(key(&format!("model-{n}"), 200), Some(usage));
        }
        let rows = ledger.read();
        assert_eq!(rows.len(), 11, "ten models and _other");
        assert_eq!(rows.iter().map(|(_, t)| t.requests).sum::<u64>(), 1_000);
        assert_eq!(rows.iter().map(|(_, t)| t.input).sum::<u64>(), 3_000);
        assert_eq!(ledger.folded(), 990);
    }

    /// An upstream may say that a call took as many tokens as a number holds.
    #[test]
    fn totals_never_wrap() {
        let ledger = Ledger::new(10);
        let usage =
            Usage { input: Amount::new(u64::MAX), output: Amount::new(u64::MAX - 1), ..Usage::default() };
        for status in [200, 200, 429] {
            ledger.settle(key("m", status), Some(usage));
        }
        let rows = ledger.read();
        assert!(rows.iter().all(|(_, totals)| totals.input == u64::MAX), "{rows:?}");
        assert_eq!(usage.all_input(), u64::MAX);
    }

    #[test]
    fn a_route_that_is_gone_is_forgotten_with_its_last_call() {
        let (ledger, gone) = (Ledger::new(10), RouteName::new("gone"));
        let call = ledger.route(&gone);
        call.enter();
        ledger.keep_routes(&[]);
        assert_eq!(ledger.in_flight(), [(gone, 1)]);
        call.leave();
        drop(call);
        ledger.keep_routes(&[]);
        assert_eq!(ledger.in_flight(), []);
    }

    #[test]
    fn a_known_status_keeps_its_number_and_any_other_falls_into_its_class() {
        let label = |status: u16| Status::from(status).to_string();
        for known in
            [100, 101, 103, 200, 206, 302, 304, 400, 418, 421, 429, 431, 444, 451, 460, 494, 499, 500, 504]
                .into_iter()
                .chain(520..=530)
        {
            assert_eq!(label(known), known.to_string());
        }
        for (unknown, class) in [
            (199, "1xx"),
            (299, "2xx"),
            (399, "3xx"),
            (420, "4xx"),
            (493, "4xx"),
            (512, "5xx"),
            (599, "5xx"),
            (999, "9xx"),
        ] {
            assert_eq!(label(unknown), class, "{unknown}");
        }
    }

    #[test]
    fn statuses_are_a_bounded_set_that_lies_of_no_class() {
        let all: std::collections::BTreeSet<Status> = (100..=999).map(Status::from).collect();
        assert!(all.len() < 100, "{all:?}");
        assert!((100..=999_u16).all(|n| Status::from(n).to_string().starts_with(&(n / 100).to_string())));
    }
}
