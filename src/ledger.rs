//! Totals that must never be lost: requests, tokens, calls in flight. Atomics, nothing else.
//!
//! The hop settles them itself, in a drop guard, so they are right even when the queue to the
//! engine is full or a dialect has panicked. The table is bounded: models past the limit share the
//! row `_other`, and statuses that nobody documents are counted as their class.

use crate::observation::Usage;
use crate::route::{ModelGroup, Owner, RouteName, Surface};
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
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
    pub status: Option<u16>,
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
        self.input.fetch_add(usage.input.get(), Relaxed);
        self.cache_write.fetch_add(usage.cache_write.get(), Relaxed);
        self.cache_read.fetch_add(usage.cache_read.get(), Relaxed);
        self.output.fetch_add(usage.output.get(), Relaxed);
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
    pub fn settle(&self, mut key: TotalsKey, usage: Option<Usage>) {
        key.status = key.status.map(documented_status);
        let row = self.row(key);
        row.requests.fetch_add(1, Relaxed);
        if let Some(usage) = usage {
            row.add(usage);
        }
    }

    /// Settles the totals of a call that somebody told of, and no hop of ours saw.
    pub fn settle_told(&self, key: TotalsKey, usage: Option<Usage>) {
        self.told.fetch_add(1, Relaxed);
        self.settle(key, usage);
    }

    /// Calls that somebody told of, and no hop of ours saw.
    pub fn told(&self) -> u64 {
        self.told.load(Relaxed)
    }

    /// Adds the tokens of a call that was settled before they were known.
    pub fn add_tokens(&self, mut key: TotalsKey, usage: Usage) {
        key.status = key.status.map(documented_status);
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
            self.folded.fetch_add(1, Relaxed);
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

/// A status as it is counted: itself where it means something, else its class (`418` is `400`).
fn documented_status(status: u16) -> u16 {
    const DOCUMENTED: [u16; 19] =
        [200, 201, 202, 204, 304, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504];
    if DOCUMENTED.contains(&status) || status == 529 { status } else { status / 100 * 100 }
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
            status: Some(status),
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
    fn statuses_are_a_bounded_set() {
        let statuses: std::collections::BTreeSet<u16> = (100..=999).map(documented_status).collect();
        assert!(statuses.len() < 30, "{statuses:?}");
        assert!(statuses.contains(&529) && statuses.contains(&429));
    }
}
