//! What a person wants to see of the state, as values: the page, `GET /v1/state` and `plimsoll top` show the same, in
//! the same order.
//!
//! The worst first: of each owner so many buckets, of all so many, and how many more there are. So a first look stays
//! small however many buckets there are.

use crate::engine::{Alert, BucketView, Severity, Snapshot};
use crate::exporters::catalogue::Facts;
use crate::limit::{Amount, Limiter};
use crate::owner::guidance;
use crate::route::Owner;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Buckets of one owner that a first look shows.
pub(crate) const OF_OWNER: usize = 10;
/// Buckets of all owners that it shows.
pub(crate) const OF_ALL: usize = 100;
/// Owners that it shows.
pub(crate) const OWNERS: usize = 60;
/// Incidents that it shows.
pub(crate) const INCIDENTS: usize = 200;
/// Where the load line stands: a bucket used so far speaks for itself.
pub(crate) const LOAD_LINE: f64 = 0.8;
/// From here on it is nearly empty.
pub(crate) const NEARLY: f64 = 0.95;

/// What is shown, and by which it is made readable.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    /// What the engine knows.
    pub(crate) snapshot: &'a Snapshot,
    /// The configured owners, and counters about ourselves.
    pub(crate) facts: &'a Facts,
    /// Where people reach this sidecar.
    pub(crate) external_url: Option<&'a str>,
}

/// The state, as `GET /v1/state` gives it. Times are Unix seconds, spans are seconds.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct State {
    /// When it was so.
    pub t: f64,
    /// The version that runs.
    pub version: String,
    /// Alerts that are up.
    pub alerts: Vec<AlertRow>,
    /// Owners with their buckets, the worst first.
    pub owners: Vec<OwnerRow>,
    /// Owners that are not shown.
    pub more_owners: usize,
    /// Incidents, those that are open first.
    pub incidents: Vec<IncidentRow>,
    /// Where observations come from.
    pub sources: Vec<SourceRow>,
    /// Calls in flight, by route.
    pub in_flight: BTreeMap<String, u64>,
    /// The newest configuration was refused, and the one before stays in force.
    pub config_refused: bool,
    /// Settings that changed and wait for the next start.
    #[serde(default)]
    pub needs_restart: Vec<String>,
}

/// An alert that is up.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct AlertRow {
    /// Its name.
    pub alert: String,
    /// `critical` or `warning`.
    pub severity: String,
    /// Whose limit.
    pub owner: String,
    /// The kind of owner.
    pub owner_kind: String,
    /// Which limit.
    pub limiter: String,
    /// The model, where it has one.
    pub model: String,
    /// Since when.
    pub since: f64,
    /// How long until the bucket is empty.
    pub empty_in: Option<f64>,
}

/// An owner.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct OwnerRow {
    /// Who.
    pub owner: String,
    /// The kind.
    pub owner_kind: String,
    /// Whom to call.
    pub contact: Option<String>,
    /// The owner's runbook, or that of the kind.
    pub runbook_url: String,
    /// Its buckets, the worst first.
    pub buckets: Vec<BucketRow>,
    /// Buckets that are not shown.
    pub more: usize,
}

/// A bucket. What is not known is absent.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct BucketRow {
    /// Which limit.
    pub limiter: String,
    /// Its window; empty where it is not known.
    pub window: String,
    /// `account` or `local`.
    pub scope: String,
    /// The surface.
    pub surface: String,
    /// The model; empty where it is of all.
    pub model: String,
    /// The region, where it has one.
    pub region: Option<String>,
    /// The most that it holds.
    pub limit: Option<u64>,
    /// What is left.
    pub remaining: Option<u64>,
    /// The used part: 0 is full, 1 is empty.
    pub utilization: Option<f64>,
    /// The largest used part of the last 60 s.
    pub peak: Option<f64>,
    /// Seconds until it is empty; absent while it refills first.
    pub empty_in: Option<f64>,
    /// When it is full again.
    pub resets: Option<f64>,
    /// When it was last observed.
    pub observed: f64,
}

/// An incident.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct IncidentRow {
    /// Its id.
    pub id: String,
    /// The route.
    pub route: String,
    /// It is not over.
    pub open: bool,
    /// The verdict.
    pub verdict: String,
    /// Whose limit.
    pub owner: String,
    /// Which limit.
    pub limiter: Option<String>,
    /// Calls that failed.
    pub failures: u64,
    /// When it began.
    pub first_at: f64,
    /// When it failed last.
    pub current_at: f64,
    /// What to do first.
    pub first_move: String,
}

/// A source of observations.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct SourceRow {
    /// Its name.
    pub source: String,
    /// It works.
    pub up: bool,
    /// When it last gave something.
    pub newest: Option<f64>,
    /// What it told, or how often it answered.
    pub told: u64,
    /// What was lost or could not be used.
    pub lost: u64,
}

impl State {
    /// The state that a snapshot shows.
    pub(crate) fn of(seen: &Seen<'_>) -> Self {
        let (snapshot, facts) = (seen.snapshot, seen.facts);
        let owners = by_owner(snapshot);
        let mut room = OF_ALL;
        let rows = owners.iter().take(OWNERS).map(|(owner, buckets)| {
            let take = buckets.len().min(OF_OWNER).min(room);
            room -= take;
            owner_row(owner, buckets, take, seen)
        });
        let rows = rows.collect();
        let mut incidents: Vec<IncidentRow> =
            snapshot.incidents.iter().take(INCIDENTS).map(|one| incident_row(one)).collect();
        incidents.sort_by_key(|one| !one.open);
        Self {
            t: snapshot.at.secs_f64(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            alerts: by_urgency(snapshot).into_iter().take(OF_ALL).map(alert_row).collect(),
            more_owners: owners.len().saturating_sub(OWNERS),
            owners: rows,
            incidents,
            sources: sources(snapshot, facts),
            in_flight: snapshot.in_flight.iter().map(|(route, n)| (route.as_str().to_owned(), *n)).collect(),
            config_refused: facts.stats.last_reload_refused.get() == 1,
            needs_restart: facts.stats.restart.get().into_iter().map(str::to_owned).collect(),
        }
    }
}

/// Owners with their buckets, each list and the list of lists with the worst first.
pub(super) fn by_owner(snapshot: &Snapshot) -> Vec<(&Owner, Vec<&BucketView>)> {
    let mut owners: BTreeMap<&Owner, Vec<&BucketView>> = BTreeMap::new();
    for bucket in &snapshot.buckets {
        owners.entry(&bucket.owner).or_default().push(bucket);
    }
    let mut owners: Vec<_> = owners.into_iter().collect();
    for (_, buckets) in &mut owners {
        buckets.sort_by(|a, b| worst(b).total_cmp(&worst(a)));
    }
    owners.sort_by(|a, b| worst(b.1[0]).total_cmp(&worst(a.1[0])));
    owners
}

/// Alerts, critical ones first, and among equals the one whose bucket is empty first.
pub(super) fn by_urgency(snapshot: &Snapshot) -> Vec<&Alert> {
    let mut alerts: Vec<&Alert> = snapshot.alerts.iter().collect();
    alerts.sort_by_key(|alert| {
        let calm = alert.name.severity() != Severity::Critical;
        (calm, alert.empty_in.is_none(), alert.empty_in)
    });
    alerts
}

/// How bad it is: what is used, and more the sooner it will be empty. What is not known comes last.
fn worst(bucket: &BucketView) -> f64 {
    let soon = bucket.empty_in.map_or(0.0, |left| 1.0 / (1.0 + left.as_secs_f64() / 60.0));
    bucket.utilization.map_or(-1.0, |used| used + soon)
}

/// The owner's own runbook; else this one, where people reach this sidecar if that is known, and in public if not.
pub(super) fn runbook(owner: &Owner, runbook: &str, seen: &Seen<'_>) -> String {
    let owners = seen.facts.owners.load();
    let own = owners.get(&owner.id).and_then(|rule| rule.runbook_url.clone());
    own.unwrap_or_else(|| guidance::runbook_url(seen.external_url, runbook))
}

/// What is left of a bucket, for people: "5,170 of 60,000"; money in dollars. Nothing, if nothing is known of it.
pub(crate) fn left(limiter: &str, remaining: Option<u64>, limit: Option<u64>) -> Option<String> {
    let amount = |n: u64| {
        if limiter == Limiter::SPEND.as_str() {
            format!("${}.{:02}", grouped(n / 100), n % 100)
        } else {
            grouped(n)
        }
    };
    match (remaining.map(amount), limit.map(amount)) {
        (Some(left), Some(limit)) => Some(format!("{left} of {limit}")),
        (None, Some(limit)) => Some(format!("? of {limit}")),
        (left, None) => left,
    }
}

/// A number in groups of three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Where observations come from, the hop first.
pub(super) fn sources(snapshot: &Snapshot, facts: &Facts) -> Vec<SourceRow> {
    let stats = &facts.stats;
    let secs = |at: u64| (at > 0).then_some(at as f64);
    let all: u64 = snapshot.totals.iter().map(|(_, totals)| totals.requests).sum();
    let hop = SourceRow {
        source: "hop".to_owned(),
        up: true,
        newest: None,
        told: all.saturating_sub(snapshot.told),
        lost: stats.tap_dropped.get(),
    };
    let fed = stats.feeds.all().into_iter().map(|(name, feed)| SourceRow {
        source: name.to_string(),
        up: feed.down.get() == 0,
        newest: secs(feed.last_at.get()),
        told: feed.told.get(),
        lost: feed.dropped.get() + feed.unusable.get(),
    });
    let polled = stats.sources.all().into_iter().map(|(name, polls)| SourceRow {
        source: name.to_string(),
        up: polls.failing.get() == 0,
        newest: secs(polls.last_ok.get()),
        told: polls.ok.get(),
        lost: polls.failed.get() + polls.unusable.get(),
    });
    [hop].into_iter().chain(fed).chain(polled).collect()
}

fn owner_row(owner: &Owner, buckets: &[&BucketView], take: usize, seen: &Seen<'_>) -> OwnerRow {
    let owners = seen.facts.owners.load();
    OwnerRow {
        owner: owner.id.as_str().to_owned(),
        owner_kind: owner.kind.as_str().to_owned(),
        contact: owners.get(&owner.id).and_then(|rule| rule.contact.clone()),
        runbook_url: runbook(owner, guidance::of_kind(owner.kind).runbook, seen),
        buckets: buckets[..take].iter().map(|bucket| bucket_row(bucket)).collect(),
        more: buckets.len() - take,
    }
}

fn bucket_row(bucket: &BucketView) -> BucketRow {
    BucketRow {
        limiter: bucket.limiter.as_str().to_owned(),
        window: bucket.window.as_str().to_owned(),
        scope: bucket.scope.as_str().to_owned(),
        surface: bucket.surface.as_str().to_owned(),
        model: bucket.model.as_str().to_owned(),
        region: bucket.region.as_deref().map(str::to_owned),
        limit: bucket.limit.map(Amount::get),
        remaining: bucket.remaining.map(Amount::get),
        utilization: bucket.utilization,
        peak: bucket.peak,
        empty_in: bucket.empty_in.map(|left| left.as_secs_f64()),
        resets: bucket.resets.map(|at| at.secs_f64()),
        observed: bucket.observed.secs_f64(),
    }
}

fn alert_row(alert: &Alert) -> AlertRow {
    let identity = &alert.identity;
    AlertRow {
        alert: alert.name.as_str().to_owned(),
        severity: alert.name.severity().as_str().to_owned(),
        owner: identity.owner.id.as_str().to_owned(),
        owner_kind: identity.owner.kind.as_str().to_owned(),
        limiter: identity.limiter.as_str().to_owned(),
        model: identity.model.as_str().to_owned(),
        since: alert.since.secs_f64(),
        empty_in: alert.empty_in.map(|left| left.as_secs_f64()),
    }
}

fn incident_row(incident: &crate::engine::Incident) -> IncidentRow {
    let verdict = &incident.verdict;
    IncidentRow {
        id: incident.id.to_string(),
        route: incident.route.as_str().to_owned(),
        open: incident.is_open(),
        verdict: verdict.class.as_str().to_owned(),
        owner: incident.owner.id.as_str().to_owned(),
        limiter: verdict.limiter.as_ref().map(|limiter| limiter.as_str().to_owned()),
        failures: incident.failures,
        first_at: incident.first.at.secs_f64(),
        current_at: incident.current.at.secs_f64(),
        first_move: guidance::guidance(verdict.class, verdict.owner_kind, verdict.limiter.as_ref())
            .first_move
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::left;

    #[test]
    fn what_is_left_is_written_for_people() {
        let of = |remaining, limit| left("input_tokens", remaining, limit);
        assert_eq!(of(Some(5_170), Some(60_000)).unwrap(), "5,170 of 60,000");
        assert_eq!(of(Some(0), Some(1_000_000)).unwrap(), "0 of 1,000,000");
        assert_eq!(of(None, Some(999)).unwrap(), "? of 999");
        assert_eq!(of(Some(7), None).unwrap(), "7");
        assert_eq!(of(None, None), None);
        assert_eq!(left("spend", Some(123_456), Some(500_000)).unwrap(), "$1,234.56 of $5,000.00");
    }
}
