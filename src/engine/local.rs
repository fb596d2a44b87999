//! What we ourselves draw on limits that no header tells of: Bedrock and Vertex AI.
//!
//! The clouds say what is left nowhere, and what they say afterwards comes minutes late. So calls are counted here,
//! as the provider charges them: **reserved** when they start (input, and on Bedrock all of `max_tokens`), **settled**
//! when they end (what was used, output by its burndown, cache reads free). What is in use is what was settled in the
//! last 60 s and what is still reserved: AWS documents the reservation, and neither whether its window is a fixed minute
//! or a bucket; a rolling minute lies between both.
//!
//! It is this process's share only. The limit it is held against is what a poll, a poller's `/v1/limits` or the
//! configuration told ([`super::quotas`]); without one there is a count, and no utilization.

use super::window::Window as Rolling;
use crate::dialects::bedrock;
use crate::limit::{Amount, Limiter, Timestamp, Window};
use crate::observation::{Account, Call, End, Start, Usage};
use crate::owner::Pattern;
use crate::route::{ModelGroup, Owner, RouteName, Surface};
use foldhash::fast::RandomState;
use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Most calls that are reserved and not over.
const OPEN: usize = 20_000;
/// A call whose end was not told for so long has none to come.
const LONGEST: Duration = Duration::from_secs(600);
/// Tokens of a byte of JSON before any answer has told.
const TOKENS_PER_BYTE: f64 = 0.25;
/// Calls over which that is learnt.
const LEARNT_OVER: f64 = 50.0;

/// How own counts are made and used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LocalRules {
    /// The part of a cloud quota that this process may take; without it own counts raise no direct alert.
    pub share: Option<f64>,
    /// What an output token costs on Bedrock, by pool, before the built-in table.
    pub burndown: Vec<(Pattern, u64)>,
    /// `max_tokens` is set aside times the burndown (AWS's texts say it is not, others measured that it is).
    pub reserve_by_burndown: bool,
}

impl LocalRules {
    fn burndown(&self, pool: &ModelGroup) -> u64 {
        let own = self.burndown.iter().find(|(pattern, _)| pattern.matches(pool.as_str()));
        own.map_or_else(|| bedrock::burndown(pool), |(_, factor)| *factor)
    }
}

/// What makes a pool of own counts itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LocalKey {
    pub(super) owner: Owner,
    pub(super) surface: Surface,
    pub(super) account: Account,
    pub(super) model: ModelGroup,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Requests,
    Input,
    Output,
    Tokens,
}

impl Counted {
    pub(super) fn limiter(self) -> Limiter {
        match self {
            Self::Requests => Limiter::REQUESTS,
            Self::Input => Limiter::INPUT_TOKENS,
            Self::Output => Limiter::OUTPUT_TOKENS,
            Self::Tokens => Limiter::TOKENS,
        }
    }

    /// What a pool is limited in. Bedrock counts tokens together, its mantle endpoint and Vertex AI apart.
    fn of(surface: Surface, model: &ModelGroup) -> &'static [Self] {
        match surface {
            Surface::Bedrock if bedrock::is_mantle(model) => &[Self::Input, Self::Output],
            Surface::Bedrock => &[Self::Requests, Self::Tokens],
            // Claude 3 on Vertex AI has one limit on tokens together.
            Surface::Vertex if model.as_str().starts_with("claude-3") => &[Self::Requests, Self::Tokens],
            _ => &[Self::Requests, Self::Input, Self::Output],
        }
    }
}

struct Entry {
    route: RouteName,
    settled: [Rolling<60>; 4],
    reserved: [i64; 4],
    tokens_per_byte: f64,
    learnt: f64,
    touched: Timestamp,
    /// A call of it has been answered: it is no made-up model or place.
    proved: bool,
}

impl Entry {
    fn new(route: &RouteName, at: Timestamp) -> Self {
        let second = Duration::from_secs(1);
        Self {
            route: route.clone(),
            settled: std::array::from_fn(|_| Rolling::new(second)),
            reserved: [0; 4],
            tokens_per_byte: TOKENS_PER_BYTE,
            learnt: 0.0,
            touched: at,
            proved: false,
        }
    }

    fn used(&self, what: Counted, now: Timestamp) -> Amount {
        let used = self.settled[what as usize].sum(60, now).saturating_add(self.reserved[what as usize]);
        Amount::new(u64::try_from(used).unwrap_or(0))
    }

    fn reserve(&mut self, amounts: [i64; 4], sign: i64) {
        for (reserved, amount) in self.reserved.iter_mut().zip(amounts) {
            *reserved = reserved.saturating_add(sign * amount);
        }
    }

    fn settle(&mut self, used: [i64; 4], at: Timestamp) {
        for (window, amount) in self.settled.iter_mut().zip(used) {
            if amount != 0 {
                window.add(amount, at);
            }
        }
    }

    /// Takes over another's counts.
    fn join(&mut self, other: &Self) {
        let at = self.touched.max(other.touched);
        let sums = std::array::from_fn(|what| other.settled[what].sum(60, at));
        self.settle(sums, at);
        self.reserve(other.reserved, 1);
        (self.touched, self.proved) = (at, self.proved || other.proved);
    }

    fn learn(&mut self, body: u64, input: u64) {
        if body == 0 {
            return;
        }
        self.learnt = (self.learnt + 1.0).min(LEARNT_OVER);
        self.tokens_per_byte += (input as f64 / body as f64 - self.tokens_per_byte) / self.learnt;
    }
}

struct Open {
    key: LocalKey,
    /// Input that it was taken to have.
    input: i64,
    reserved: [i64; 4],
    at: Timestamp,
}

/// One count, as it stands.
pub(super) struct Count<'a> {
    pub(super) key: &'a LocalKey,
    pub(super) limiter: Limiter,
    pub(super) used: Amount,
}

/// Own counts, bounded.
#[derive(Default)]
pub(super) struct Local {
    pools: HashMap<LocalKey, Entry, RandomState>,
    open: HashMap<u64, Open, RandomState>,
    /// The table was full: no search for room before this.
    full_until: Timestamp,
    pub(super) folded: u64,
}

impl Local {
    /// A call starts: what it may take is set aside. `most` pools are kept.
    pub(super) fn start(&mut self, start: &Start, key: LocalKey, rules: &LocalRules, most: usize) {
        if self.open.contains_key(&start.call.id) {
            return;
        }
        if self.open.len() >= OPEN {
            self.folded += 1;
            return;
        }
        let Some(entry) = self.entry(&key, &start.call.route, most, start.at) else { return };
        let input = (start.body_bytes as f64 * entry.tokens_per_byte) as i64;
        let reserved = reservation(&key, input, start.max_tokens, rules);
        entry.reserve(reserved, 1);
        entry.settle([1, 0, 0, 0], start.at);
        self.open.insert(start.call.id, Open { key, input, reserved, at: start.at });
    }

    /// The entry of a pool; a new one makes room for itself by one that never had an answer.
    fn entry(&mut self, key: &LocalKey, route: &RouteName, most: usize, at: Timestamp) -> Option<&mut Entry> {
        let full = self.pools.len() >= most && !self.pools.contains_key(key);
        if full && !self.make_room(at) {
            self.folded += 1;
            return None;
        }
        let entry = self.pools.entry(key.clone()).or_insert_with(|| Entry::new(route, at));
        entry.touched = at;
        Some(entry)
    }

    fn make_room(&mut self, now: Timestamp) -> bool {
        if now < self.full_until {
            return false;
        }
        let open = &self.open;
        let idle = |key: &LocalKey| !open.values().any(|call| call.key == *key);
        let unproved = self.pools.iter().filter(|(key, entry)| !entry.proved && idle(key));
        let victim = unproved.min_by_key(|(_, entry)| entry.touched).map(|(key, _)| key.clone());
        match victim {
            Some(key) => self.pools.remove(&key).is_some(),
            None => {
                self.full_until = now.plus(Duration::from_secs(1));
                false
            }
        }
    }

    /// A call is over. `refused` if it was, by whatever limit: then it took nothing. Its pool is the one that it was
    /// booked on; `key`, if its start was never told (a full queue), so that no token is lost.
    pub(super) fn end(
        &mut self,
        end: &End,
        key: LocalKey,
        refused: bool,
        rules: &LocalRules,
        most: usize,
    ) -> Option<LocalKey> {
        let open = self.open.remove(&end.call.id);
        let key = open.as_ref().map_or(key, |open| open.key.clone());
        let entry = self.entry(&key, &end.call.route, most, end.at)?;
        let body = end.request.body_bytes;
        let counted = open.as_ref().is_some_and(|open| end.at.since(open.at) < Duration::from_secs(60));
        match &open {
            Some(open) => entry.reserve(open.reserved, -1),
            None if !refused => entry.settle([1, 0, 0, 0], end.at),
            None => {}
        }
        if refused && counted {
            entry.settle([-1, 0, 0, 0], end.at);
        }
        if !refused {
            entry.proved |= end.succeeded();
            match end.usage {
                Some(used) => {
                    entry.learn(body, used.input.get().saturating_add(used.cache_write.get()));
                    entry.settle(charge(&used, rules.burndown(&key.model)), end.at);
                }
                // It passed, and nothing told what it used: its input at least was taken.
                None => {
                    let estimate = || (body as f64 * entry.tokens_per_byte) as i64;
                    let input = open.as_ref().map_or_else(estimate, |open| open.input);
                    entry.settle([0, input, 0, input], end.at);
                }
            }
        }
        Some(key)
    }

    /// Every count.
    pub(super) fn counts(&self, now: Timestamp) -> impl Iterator<Item = Count<'_>> {
        self.pools.iter().flat_map(move |(key, entry)| counts_of(key, entry, now))
    }

    /// The accounts on whose quotas calls have been counted.
    pub(super) fn accounts(&self) -> HashSet<(Surface, &Account), RandomState> {
        self.pools.keys().map(|key| (key.surface, &key.account)).collect()
    }

    /// The counts of one pool.
    pub(super) fn of(&self, key: &LocalKey, now: Timestamp) -> impl Iterator<Item = Count<'_>> {
        self.pools.get_key_value(key).into_iter().flat_map(move |(key, entry)| counts_of(key, entry, now))
    }

    /// Forgets pools that nobody has used for `idle`, and calls whose end was never told.
    pub(super) fn sweep(&mut self, now: Timestamp, idle: Duration) {
        let pools = &mut self.pools;
        self.open.retain(|_, open| {
            let keep = now.since(open.at) < LONGEST;
            if !keep && let Some(entry) = pools.get_mut(&open.key) {
                entry.reserve(open.reserved, -1);
            }
            keep
        });
        let open = &self.open;
        self.pools.retain(|key, entry| {
            now.since(entry.touched) < idle || open.values().any(|call| call.key == *key)
        });
    }

    /// New owners: counts go on under the name of whoever owns them now.
    pub(super) fn reconfigure(&mut self, owner: impl Fn(&LocalKey, &RouteName) -> Owner) {
        let renamed =
            |key: &LocalKey, route: &RouteName| LocalKey { owner: owner(key, route), ..key.clone() };
        let routes: HashMap<LocalKey, LocalKey, RandomState> =
            self.pools.iter().map(|(key, entry)| (key.clone(), renamed(key, &entry.route))).collect();
        for open in self.open.values_mut() {
            if let Some(key) = routes.get(&open.key) {
                open.key = key.clone();
            }
        }
        for (key, entry) in std::mem::take(&mut self.pools) {
            // Two owners may have become one: then so do their counts.
            match self.pools.entry(routes[&key].clone()) {
                Slot::Vacant(free) => _ = free.insert(entry),
                Slot::Occupied(mut same) => same.get_mut().join(&entry),
            }
        }
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for entry in self.pools.values_mut() {
            entry.settled.iter_mut().for_each(|window| window.set_back(by));
            entry.touched = entry.touched.minus(by);
        }
        self.open.values_mut().for_each(|open| open.at = open.at.minus(by));
        self.full_until = self.full_until.minus(by);
    }
}

/// The window of every count.
pub(super) const WINDOW: Window = Window::Minute;

/// True for calls that draw on a cloud's model quotas.
pub(super) fn counts(call: &Call) -> bool {
    let counting = ["count-tokens", "count_tokens"].iter().any(|name| call.path.contains(name));
    call.surface.is_cloud() && call.asks_a_model() && !counting
}

fn counts_of<'a>(key: &'a LocalKey, entry: &'a Entry, now: Timestamp) -> impl Iterator<Item = Count<'a>> {
    Counted::of(key.surface, &key.model).iter().map(move |what| Count {
        key,
        limiter: what.limiter(),
        used: entry.used(*what, now),
    })
}

/// What a call sets aside: requests (counted at once, so nothing), input, output, tokens.
fn reservation(key: &LocalKey, input: i64, asked: Option<Amount>, rules: &LocalRules) -> [i64; 4] {
    if key.surface != Surface::Bedrock {
        return [0, input, 0, input];
    }
    let most = asked.unwrap_or_else(|| bedrock::longest_answer(&key.model)).get();
    let mantle = bedrock::is_mantle(&key.model);
    let factor = if rules.reserve_by_burndown && !mantle { rules.burndown(&key.model) } else { 1 };
    let most = i64::try_from(most.saturating_mul(factor)).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    // The mantle endpoint holds `max_tokens` against the input limit.
    [0, input.saturating_add(most), 0, input.saturating_add(most)]
}

/// What a call took: requests (counted at its start), input, output, tokens.
fn charge(used: &Usage, burndown: u64) -> [i64; 4] {
    let whole = |amount: Amount| i64::try_from(amount.get()).unwrap_or(i64::MAX / 4);
    let input = whole(used.input).saturating_add(whole(used.cache_write));
    [0, input, whole(used.output), whole(bedrock::settled(used, burndown))]
}
