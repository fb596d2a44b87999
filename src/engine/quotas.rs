//! What quota APIs told: limits, late draws, names of models, money. Kept by source, because each poll takes the
//! place of the one before, and a source that fails makes nothing unknown.
//!
//! **Money** is the one limit with an alert here: a month is long, and what is spent is known by the day. The alert is up
//! when four fifths are spent, or when what the last days cost leads past the cap before the month ends.

use super::alert::{AlertName, Change, Identity, Latch};
use super::snapshot::BucketView;
use crate::limit::{Amount, Limiter, Scope, Timestamp, Window};
use crate::observation::{Account, Alias, Quota, Quotas};
use crate::owner::Owners;
use crate::route::{ModelGroup, Owner, Surface};
use crate::shared_limits::SOURCE;
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Most rows kept of one source.
const MOST_ROWS: usize = 20_000;
/// Most sources.
const MOST_SOURCES: usize = 512;
/// Part of a cap at which the alert begins, whatever the forecast.
const SPENT: f64 = 0.8;
/// And at which it may end.
const EASED: f64 = 0.75;
/// Part of a cap that must be spent before a forecast alone speaks.
const FORECAST_FROM: f64 = 0.25;
/// How long the forecast must have been well before the alert ends: costs come in hours late, and by the day.
const WELL: Duration = Duration::from_secs(6 * 3_600);
/// A cost older than this is not known any more.
const OLD: Duration = Duration::from_secs(3_600);

/// What a limit is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    surface: Surface,
    account: Account,
    model: ModelGroup,
    limiter: Limiter,
    window: Window,
}

impl Key {
    fn of(quota: &Quota) -> Self {
        Self {
            surface: quota.surface,
            account: quota.account.clone(),
            model: quota.model.clone(),
            limiter: quota.limiter.clone(),
            window: quota.window,
        }
    }
}

struct Spend {
    identity: Identity,
    latch: Latch,
    detail: Arc<str>,
    used: f64,
    empty_in: Option<Duration>,
    /// Up to when it is known.
    until: Timestamp,
    resets: Option<Timestamp>,
}

/// Everything that is known from quota APIs.
#[derive(Default)]
pub(super) struct Known {
    told: Vec<Arc<Quotas>>,
    limits: HashMap<Key, Amount, RandomState>,
    aliases: HashMap<(Surface, ModelGroup), ModelGroup, RandomState>,
    spends: HashMap<Key, Spend, RandomState>,
    pub(super) folded: u64,
}

impl Known {
    /// Takes in what a poll told. How many alerts changed.
    pub(super) fn take(&mut self, told: &Arc<Quotas>, owners: &Owners, now: Timestamp) -> u64 {
        let told = &tidy(told, now);
        match self.told.iter().position(|old| old.source == told.source) {
            Some(at) => self.told[at] = told.clone(),
            None if self.told.len() < MOST_SOURCES => self.told.push(told.clone()),
            None => self.folded += 1,
        }
        self.folded += told.rows.len().saturating_sub(MOST_ROWS) as u64;
        self.index(owners);
        self.look(now)
    }

    fn index(&mut self, owners: &Owners) {
        self.limits.clear();
        self.aliases.clear();
        let mut spends = std::mem::take(&mut self.spends);
        for told in &self.told {
            for quota in told.rows.iter().take(MOST_ROWS) {
                if let Some(limit) = quota.limit {
                    self.limits.insert(Key::of(quota), limit);
                }
                if let Some(spend) = spend(quota, owners) {
                    let key = Key::of(quota);
                    let latch = spends.remove(&key).map(|old| old.latch).unwrap_or_default();
                    self.spends.insert(key, Spend { latch, ..spend });
                }
            }
            for Alias { surface, name, group } in told.aliases.iter().take(MOST_ROWS) {
                self.aliases.insert((*surface, name.clone()), group.clone());
            }
        }
    }

    /// New owners.
    pub(super) fn reconfigure(&mut self, owners: &Owners) {
        self.index(owners);
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for spend in self.spends.values_mut() {
            spend.latch.set_back(by);
            spend.until = spend.until.minus(by);
        }
    }

    /// The group whose limits a model draws on.
    pub(super) fn group(&self, surface: Surface, model: &ModelGroup) -> Option<&ModelGroup> {
        if self.aliases.is_empty() {
            return None;
        }
        // The surfaces of one provider share its names.
        let surface = if surface.provider() == "anthropic" { Surface::AnthropicApi } else { surface };
        self.aliases.get(&(surface, model.clone()))
    }

    /// The limit of a pool's limiter.
    pub(super) fn limit(
        &self,
        surface: Surface,
        account: &Account,
        model: &ModelGroup,
        limiter: Limiter,
        window: Window,
    ) -> Option<Amount> {
        let key = Key { surface, account: account.clone(), model: model.clone(), limiter, window };
        self.limits.get(&key).copied()
    }

    /// Looks at money. How many alerts changed.
    pub(super) fn look(&mut self, now: Timestamp) -> u64 {
        let mut changed = 0;
        for spend in self.spends.values_mut() {
            if now.since(spend.until) > OLD || spend.resets.is_some_and(|resets| resets <= now) {
                changed += u64::from(spend.latch.lapse() != Change::None);
                continue;
            }
            let foreseen = spend.used >= FORECAST_FROM && spend.empty_in.is_some();
            // In a new month nothing is left to wait for.
            let hold = if spend.used < FORECAST_FROM { Duration::ZERO } else { WELL };
            let clear = spend.used < EASED && !foreseen;
            let change = spend.latch.step(spend.used >= SPENT || foreseen, clear, hold, now);
            changed += u64::from(change != Change::None);
        }
        changed
    }

    /// The alerts on money that are up: since when, about what, how much is spent, what it says.
    pub(super) fn alerts(&self) -> impl Iterator<Item = super::alert::Alert> {
        self.spends.values().filter_map(|spend| {
            Some(super::alert::Alert {
                name: AlertName::Spend,
                identity: spend.identity.clone(),
                since: spend.latch.since()?,
                utilization: Some(spend.used),
                empty_in: spend.empty_in,
                route: crate::route::RouteName::new(""),
                detail: Some(spend.detail.clone()),
            })
        })
    }

    /// Everything as buckets, and what is not resolved to an owner among them. Of what another poller told only what
    /// calls here draw on (`used`): a hundred sidecars need not all show what one poller shows.
    pub(super) fn views<'a>(
        &'a self,
        owners: &'a Owners,
        used: &'a (impl Fn(Surface, &Account) -> bool + 'a),
    ) -> impl Iterator<Item = (Account, BucketView)> + 'a {
        self.told.iter().flat_map(move |told| {
            let shared = &*told.source == SOURCE;
            let shown = move |quota: &&Quota| !shared || used(quota.surface, &quota.account);
            let rows = told.rows.iter().take(MOST_ROWS).filter(shown);
            rows.map(move |quota| (quota.account.clone(), view(quota, owners, told.at)))
        })
    }

    /// What was told, by source.
    pub(super) fn told(&self) -> Vec<Arc<Quotas>> {
        self.told.clone()
    }
}

/// What was told without limits that are none and without moments at which no window ends.
fn tidy(told: &Arc<Quotas>, now: Timestamp) -> Arc<Quotas> {
    let limited = |quota: &Quota| quota.limit.filter(|limit| !limit.is_no_limit());
    let ends = |quota: &Quota| quota.resets.filter(|reset| quota.window.may_end_at(*reset, now));
    let tidy = |quota: &Quota| limited(quota) == quota.limit && ends(quota) == quota.resets;
    if told.rows.iter().all(tidy) {
        return told.clone();
    }
    let mut fresh = Quotas::clone(told);
    for quota in &mut fresh.rows {
        (quota.limit, quota.resets) = (limited(quota), ends(quota));
    }
    Arc::new(fresh)
}

fn owner(quota: &Quota, owners: &Owners) -> Owner {
    owners.resolve_account(quota.surface.owner_kind(), &quota.account)
}

fn identity(quota: &Quota, owners: &Owners) -> Identity {
    Identity {
        owner: owner(quota, owners),
        limiter: quota.limiter.clone(),
        window: quota.window,
        scope: Scope::Account,
        model: quota.model.clone(),
        region: quota.account.region.clone(),
    }
}

/// Money is told as a whole; other draws are of one late minute, which confirms and never leads: they have no
/// utilization, so that no rule takes them for the bucket's level.
fn view(quota: &Quota, owners: &Owners, at: Timestamp) -> BucketView {
    let identity = identity(quota, owners);
    let drawn = quota.drawn.map(|drawn| drawn.amount);
    let level = quota.limit.zip(drawn).filter(|(limit, _)| is_money(quota) && limit.get() > 0);
    let utilization = level.map(|(limit, drawn)| drawn.get() as f64 / limit.get() as f64);
    BucketView {
        owner: identity.owner,
        surface: quota.surface,
        limiter: identity.limiter,
        window: identity.window,
        scope: identity.scope,
        model: identity.model,
        region: identity.region,
        limit: quota.limit,
        remaining: level.map(|(limit, drawn)| Amount::new(limit.get().saturating_sub(drawn.get()))),
        used: drawn,
        refused: quota.refused,
        utilization,
        peak: utilization,
        empty_in: money(quota).and_then(|(_, empty_in)| empty_in),
        run_out: None,
        expected: None,
        resets: quota.resets,
        observed: quota.drawn.map_or(at, |drawn| drawn.until),
    }
}

fn is_money(quota: &Quota) -> bool {
    quota.limiter == Limiter::SPEND
}

/// The spent part of a cap, and when it is spent, if that is before the cap begins anew.
fn money(quota: &Quota) -> Option<(f64, Option<Duration>)> {
    let (limit, drawn) =
        quota.limit.zip(quota.drawn).filter(|(limit, _)| is_money(quota) && limit.get() > 0)?;
    let left = limit.get() as f64 - drawn.amount.get() as f64;
    let spent = 1.0 - left / limit.get() as f64;
    let empty_in = drawn.daily.filter(|daily| *daily > 0.0).map(|daily| {
        // A cap of which nothing is taken for centuries is no forecast; Duration holds no more anyway.
        Duration::from_secs_f64((left.max(0.0) / daily * 86_400.0).min(1e9))
    });
    let before = |within: &Duration| quota.resets.is_none_or(|resets| drawn.until.plus(*within) < resets);
    Some((spent, empty_in.filter(before)))
}

fn spend(quota: &Quota, owners: &Owners) -> Option<Spend> {
    let (used, empty_in) = money(quota)?;
    let dollars = |cents: u64| format!("${}.{:02}", cents / 100, cents % 100);
    let (limit, drawn) = quota.limit.zip(quota.drawn)?;
    let when = match quota.window {
        Window::Day => " today",
        Window::Week => " this week",
        Window::Month => " this month",
        _ => "",
    };
    let (spent, cap) = (dollars(drawn.amount.get()), dollars(limit.get()));
    let mut detail = format!("{spent} of {cap} are spent{when}");
    if let Some(empty_in) = empty_in {
        let at = drawn.until.plus(empty_in).rfc3339();
        detail.push_str(&format!(
            "; at the pace of the last days the cap is reached on {}",
            &at[..at.len().min(10)]
        ));
    }
    let identity = identity(quota, owners);
    let (latch, detail) = (Latch::default(), detail.into());
    Some(Spend { identity, latch, detail, used, empty_in, until: drawn.until, resets: quota.resets })
}
