//! What the engine knows at one moment, as every exporter reads it. Plain values, never changed.

use super::alert::Alert;
use super::incident::Incident;
use super::incidents::ChangeKey;
use crate::ledger::{Totals, TotalsKey};
use crate::limit::{Amount, Limiter, Scope, Timestamp, Window};
use crate::observation::Quotas;
use crate::owner::{Class, Rung};
use crate::route::{ModelGroup, Owner, RouteName, Surface};
use std::sync::Arc;
use std::time::Duration;

/// One bucket, as it stood at the snapshot's moment. What is not known is absent.
#[derive(Clone, Debug, PartialEq)]
pub struct BucketView {
    /// Who holds the limit.
    pub owner: Owner,
    /// The surface it is seen on.
    pub surface: Surface,
    /// Which limit.
    pub limiter: Limiter,
    /// Its window.
    pub window: Window,
    /// Whose draw it shows.
    pub scope: Scope,
    /// The model group; empty where the limit spans models.
    pub model: ModelGroup,
    /// The region, where it splits the pool.
    pub region: Option<Arc<str>>,
    /// The most it holds.
    pub limit: Option<Amount>,
    /// What is left; absent once it is unobserved.
    pub remaining: Option<Amount>,
    /// What was drawn, where it was counted: by us (local scope), or by the provider, late (account scope).
    pub used: Option<Amount>,
    /// Calls that the provider says it refused in the newest minute it told of.
    pub refused: Option<Amount>,
    /// Used part; absent once it is unobserved.
    pub utilization: Option<f64>,
    /// Largest used part of the last 60 s.
    pub peak: Option<f64>,
    /// Time to empty.
    pub empty_in: Option<Duration>,
    /// Probability that it is empty within the horizon (minute buckets), or before its reset (windows).
    pub run_out: Option<f64>,
    /// The part of a window that has passed: what an even pace would have used by now.
    pub expected: Option<f64>,
    /// When it is full again.
    pub resets: Option<Timestamp>,
    /// When it was last observed.
    pub observed: Timestamp,
}

/// What rejections are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RejectionKey {
    /// Who holds the limit.
    pub owner: Owner,
    /// The surface.
    pub surface: Surface,
    /// The route.
    pub route: RouteName,
    /// Which limit, where proved.
    pub limiter: Option<Limiter>,
    /// Its window.
    pub window: Window,
    /// The model group.
    pub model: ModelGroup,
    /// The region, where it splits the pool.
    pub region: Option<Arc<str>>,
    /// Whose limit.
    pub class: Class,
    /// The kind of proof.
    pub rung: Rung,
}

/// What missing limit headers are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MissingKey {
    /// Who holds the limits that are not seen.
    pub owner: Owner,
    /// The surface.
    pub surface: Surface,
    /// The route.
    pub route: RouteName,
    /// The headers were written anew under other names, not just left out.
    pub rewritten: bool,
}

/// Rejections of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct RejectionView {
    /// What they have in common.
    pub key: RejectionKey,
    /// How many.
    pub count: u64,
    /// When the newest stated wait ends; absent once it has passed, or if none was stated.
    pub retry_at: Option<Timestamp>,
    /// The trace of the newest one, where its caller named one.
    pub trace: Option<Arc<str>>,
}

/// Everything the engine knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The moment.
    pub at: Timestamp,
    /// Every bucket, sorted by identity; one row for each set of labels.
    pub buckets: Vec<BucketView>,
    /// Every alert that is up.
    pub alerts: Vec<Alert>,
    /// Rejections, sorted by key.
    pub rejections: Vec<RejectionView>,
    /// Every incident that is known, newest first; those that are over for a while.
    pub incidents: Vec<Arc<Incident>>,
    /// Route changes during incidents, sorted.
    pub changes: Vec<(ChangeKey, u64)>,
    /// Successes without the limit headers that their route should have, sorted.
    pub missing: Vec<(MissingKey, u64)>,
    /// Totals of everything that passed.
    pub totals: Vec<(TotalsKey, Totals)>,
    /// Calls in flight, by route.
    pub in_flight: Vec<(RouteName, u64)>,
    /// What quota APIs told, by source.
    pub quotas: Vec<Arc<Quotas>>,
    /// Reports of calls that were counted before, by source.
    pub repeated: Vec<(Arc<str>, u64)>,
    /// Attempts that failed before one that was told of.
    pub retries: Vec<(TotalsKey, u64)>,
    /// Things that no longer fitted in the bounded tables.
    pub folded: u64,
    /// Calls among the totals that somebody told of, and no hop of ours saw.
    pub told: u64,
    /// Observations that came too late to use.
    pub late: u64,
}
