//! Which calls draw on which minute buckets: the book's side of [`super::foresight`].
//!
//! A call is booked when it starts, and only its answer says on which account it draws. So the pool of a
//! call is the one that earlier answers of its *lane* (route, credential, model) told of; until the first
//! answer of a lane nothing is booked, because nothing is known. All tables are bounded: what does not
//! fit is counted and costs foresight, never a call.

use super::alert::{Alert, AlertName, Identity};
use super::burst::{Burst, Shape, Use};
use super::foresight::{Pool, Signal, Slot, Told, UNOBSERVED};
use crate::limit::{Amount, Knobs, Limiter, Reading, Scope, Timestamp, Window};
use crate::observation::{Account, Call, Credential, End, Head, Start};
use crate::owner::{Owners, Verdict};
use crate::route::{ModelGroup, Owner, RouteName, Surface};
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Most calls that are booked and not over.
const OPEN: usize = 20_000;
/// A call whose end was not told for so long has none to come: a full queue lost it. (Of a longer answer only
/// its part in the room that answers on their way will take is forgotten.)
const LONGEST: Duration = Duration::from_secs(600);

/// Number of a pool; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolId(u64);

/// What makes a pool itself: a bucket's key without its limiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) owner: Owner,
    pub(super) surface: Surface,
    pub(super) account: Account,
    pub(super) model: ModelGroup,
    pub(super) region: Option<Arc<str>>,
}

/// A [`PoolKey`] as an answer shows it.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) owner: &'a Owner,
    pub(super) surface: Surface,
    pub(super) account: &'a Account,
    pub(super) model: Option<&'a ModelGroup>,
    pub(super) region: Option<&'a Arc<str>>,
}

impl Whose<'_> {
    fn is(&self, key: &PoolKey) -> bool {
        key.surface == self.surface
            && self.model.map_or_else(|| key.model == ModelGroup::none(), |model| *model == key.model)
            && key.account == *self.account
            && key.owner == *self.owner
            && key.region.as_ref() == self.region
    }

    fn key(&self) -> PoolKey {
        PoolKey {
            owner: self.owner.clone(),
            surface: self.surface,
            account: self.account.clone(),
            model: self.model.cloned().unwrap_or_else(ModelGroup::none),
            region: self.region.cloned(),
        }
    }
}

/// What is known of a call before it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lane {
    route: RouteName,
    credential: Credential,
    model: Option<ModelGroup>,
}

struct Entry {
    key: PoolKey,
    pool: Pool,
    knobs: Knobs,
    route: RouteName,
    /// What the alert on each bucket is about.
    about: [Option<Identity>; 4],
    signal: Signal,
    /// Since when the warning, and the critical alert, are up.
    since: [Option<Timestamp>; 2],
    burst: Burst,
    /// What an alert on each of the shapes is about; absent before such a limit has refused.
    shapes: [Option<Identity>; 2],
}

impl Entry {
    /// Looks at the pool; how many alerts began, ended or changed what they are about.
    fn look(&mut self, now: Timestamp) -> u64 {
        let bursts = self.burst.look(self.pool.in_flight(), now);
        let before = std::mem::replace(&mut self.signal, self.pool.look(&self.knobs, now));
        if before == self.signal {
            return bursts;
        }
        let up = [self.signal.warning.is_some(), self.signal.critical];
        for (since, up) in self.since.iter_mut().zip(up) {
            *since = up.then(|| since.unwrap_or(now));
        }
        bursts + 1
    }
}

struct Open {
    pool: PoolId,
    tokens: f64,
    at: Timestamp,
}

/// Every pool, and the calls that are on their way.
#[derive(Default)]
pub(super) struct Pools {
    next: u64,
    ids: HashMap<PoolKey, PoolId, RandomState>,
    pools: HashMap<PoolId, Entry, RandomState>,
    /// With when each was last used.
    lanes: HashMap<Lane, (PoolId, Timestamp), RandomState>,
    open: HashMap<u64, Open, RandomState>,
    /// The table was full and all fresh: no search for a victim before this.
    full_until: Timestamp,
    /// What no longer fitted.
    pub(super) folded: u64,
}

/// What a call's end says of the buckets that it was booked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing: it passed, or failed for another reason than a limit.
    None,
    /// One of these buckets refused it.
    Empty,
    /// Another limit did (a gateway's, a plan's, the traffic's shape): it took nothing all the same.
    Elsewhere,
}

/// True for a call that draws on a model's minute buckets.
fn draws(call: &Call) -> bool {
    call.asks_a_model() && pool_of_path(&call.path).is_none()
}

/// The pool of an endpoint that has limits of its own (documented): token counting, batches, files and
/// the admin endpoints; so that their headers never pass for the model's.
fn pool_of_path(path: &str) -> Option<&'static str> {
    let pools = [
        ("count_tokens", "count_tokens"),
        ("batches", "batch"),
        ("files", "files"),
        ("organizations", "admin"),
    ];
    path.split('/').find_map(|part| pools.iter().find(|(name, _)| *name == part)).map(|(_, pool)| *pool)
}

/// The limiter of the pool that an endpoint draws from.
pub(super) fn pooled(limiter: &Limiter, path: &str) -> Limiter {
    match pool_of_path(path) {
        Some(pool) if *limiter != Limiter::SPEND => Limiter::named(&format!("{pool}_{limiter}")),
        _ => limiter.clone(),
    }
}

impl Pools {
    /// Books a call that starts, where its lane's pool is known. How many alerts changed.
    pub(super) fn start(&mut self, start: &Start) -> u64 {
        let call = &start.call;
        if !draws(call) || self.open.contains_key(&call.id) {
            return 0;
        }
        let lane = self.lanes.get_mut(&lane(call, start.model.as_ref()));
        let Some((id, used)) = lane else { return 0 };
        *used = start.at;
        let id = *id;
        self.book(call.id, id, Some(start.body_bytes), start.at)
    }

    fn book(&mut self, call: u64, id: PoolId, body: Option<u64>, at: Timestamp) -> u64 {
        if self.open.len() >= OPEN {
            self.folded += 1;
            return 0;
        }
        let Some(entry) = self.pools.get_mut(&id) else { return 0 };
        let tokens = entry.pool.start(body, at);
        entry.burst.start(tokens, at);
        self.open.insert(call, Open { pool: id, tokens, at });
        entry.look(at)
    }

    /// Takes in what a head tells of minute buckets; `identity` is what an alert on a reading is about. The pool
    /// that took it, and how many alerts changed; nothing where none did.
    pub(super) fn head(
        &mut self,
        head: &Head,
        whose: Whose<'_>,
        knobs: Knobs,
        most: usize,
        identity: impl Fn(&Reading) -> Identity,
    ) -> Option<(PoolId, u64)> {
        let mut told = head.limits.readings.iter().filter_map(|r| Some((Told::of(r)?, r))).peekable();
        if told.peek().is_none() || !draws(&head.call) {
            return None;
        }
        let open = self.open.get(&head.call.id).map(|open| open.pool);
        // The usual way: the call was booked where its answer says that it belongs. Nothing is looked up by
        // name, nothing is copied.
        let known = open.filter(|id| self.pools.get(id).is_some_and(|entry| whose.is(&entry.key)));
        let id = known.or_else(|| self.bind(head, whose, knobs, most))?;
        let mut changed = 0;
        if open.is_none() {
            changed += self.book(head.call.id, id, None, head.at);
        }
        let entry = self.pools.get_mut(&id)?;
        if entry.route != head.call.route {
            entry.route = head.call.route.clone();
        }
        for (told, reading) in told {
            entry.pool.told(told, head.at);
            entry.about[told.slot as usize].get_or_insert_with(|| identity(reading));
        }
        Some((id, changed + entry.look(head.at)))
    }

    /// The pool that an open call draws on.
    pub(super) fn of_call(&self, call: u64) -> Option<PoolId> {
        self.open.get(&call).map(|open| open.pool)
    }

    /// Sets right what is known of a pool's buckets. How many alerts changed.
    pub(super) fn tell(&mut self, pool: PoolId, readings: &[Reading], at: Timestamp) -> u64 {
        let Some(entry) = self.pools.get_mut(&pool).filter(|_| !readings.is_empty()) else { return 0 };
        for told in readings.iter().filter_map(Told::of) {
            entry.pool.told(told, at);
        }
        entry.look(at)
    }

    /// The pool that an answer names, from now on the one of its lane.
    fn bind(&mut self, head: &Head, whose: Whose<'_>, knobs: Knobs, most: usize) -> Option<PoolId> {
        let id = self.pool(whose.key(), &head.call.route, knobs, head.at, most)?;
        let lane = lane(&head.call, head.model.as_ref());
        if self.lanes.len() < most || self.lanes.contains_key(&lane) {
            self.lanes.insert(lane, (id, head.at));
        } else {
            self.folded += 1;
        }
        Some(id)
    }

    fn pool(
        &mut self,
        key: PoolKey,
        route: &RouteName,
        knobs: Knobs,
        at: Timestamp,
        most: usize,
    ) -> Option<PoolId> {
        if let Some(id) = self.ids.get(&key) {
            return Some(*id);
        }
        // Buckets without a pool speak for themselves.
        if self.pools.len() >= most && !self.make_room(at) {
            return None;
        }
        self.next += 1;
        let id = PoolId(self.next);
        self.ids.insert(key.clone(), id);
        let entry = Entry {
            key,
            pool: Pool::new(at),
            knobs,
            route: route.clone(),
            about: [const { None }; 4],
            signal: Signal::default(),
            since: [None; 2],
            burst: Burst::new(),
            shapes: [const { None }; 2],
        };
        self.pools.insert(id, entry);
        Some(id)
    }

    /// Drops the longest unobserved pool. Looks at most once a second when all are fresh.
    fn make_room(&mut self, now: Timestamp) -> bool {
        if now < self.full_until {
            return false;
        }
        let seen = |entry: &Entry| entry.pool.observed().unwrap_or_default();
        let oldest = self.pools.iter().map(|(id, entry)| (seen(entry), *id)).min();
        match oldest.filter(|(seen, _)| now.since(*seen) > UNOBSERVED) {
            Some((_, id)) => {
                if let Some(entry) = self.pools.remove(&id) {
                    self.ids.remove(&entry.key);
                }
                true
            }
            None => {
                self.full_until = now.plus(Duration::from_secs(1));
                false
            }
        }
    }

    /// A call is over. How many alerts changed.
    pub(super) fn end(&mut self, end: &End, refusal: Refusal) -> u64 {
        let Some(open) = self.open.remove(&end.call.id) else { return 0 };
        let Some(entry) = self.pools.get_mut(&open.pool) else { return 0 };
        let refused = refusal != Refusal::None;
        if refused {
            entry.pool.refused(open.tokens, refusal == Refusal::Empty, end.at);
        }
        // Tokens that are read from the cache are free of the input limit.
        let used = end.usage.filter(|_| !refused);
        let used = used.map(|used| (used.input.get() + used.cache_write.get(), used.output.get()));
        entry.pool.end((end.request.body_bytes > 0).then_some(end.request.body_bytes), used, end.at);
        entry.look(end.at)
    }

    /// A call is gone of which nothing is known but that it is over. How many alerts changed.
    pub(super) fn leave(&mut self, call: u64, at: Timestamp) -> u64 {
        let Some(open) = self.open.remove(&call) else { return 0 };
        let Some(entry) = self.pools.get_mut(&open.pool) else { return 0 };
        entry.pool.end(None, None, at);
        entry.look(at)
    }

    /// A limit of the traffic's shape refused a call: its ceiling is learnt. `about` is what an alert on it
    /// will be about, its limiter apart.
    pub(super) fn burst(&mut self, end: &End, verdict: &Verdict, about: &Identity) -> u64 {
        let lane = lane(&end.call, end.model.as_ref());
        let pool = self.lanes.get(&lane).map(|(id, _)| *id);
        let Some(entry) = pool.and_then(|id| self.pools.get_mut(&id)) else { return 0 };
        let concurrency = verdict.limiter.as_ref().is_some_and(|limiter| *limiter == Limiter::CONCURRENCY);
        let shape = if concurrency { Shape::Concurrency } else { Shape::Acceleration };
        let stated = (verdict.stated.limit.map(Amount::get), verdict.stated.next_limit.map(Amount::get));
        // The refused call has just been counted out.
        entry.burst.refused(shape, stated, entry.pool.in_flight() + 1, end.at);
        entry.shapes[shape as usize] = Some(about.clone());
        entry.look(end.at)
    }

    /// Lets time pass. How many alerts changed.
    pub(super) fn tick(&mut self, now: Timestamp) -> u64 {
        self.pools.values_mut().map(|entry| entry.look(now)).sum()
    }

    /// Forgets pools that no header has told of for `idle`, lanes that nobody uses, and calls whose end was never
    /// told. How many alerts ended.
    pub(super) fn sweep(&mut self, now: Timestamp, idle: Duration) -> u64 {
        let ended = self.keep(|entry| entry.pool.observed().is_none_or(|at| now.since(at) < idle));
        self.lanes.retain(|_, (_, used)| now.since(*used) < idle);
        let pools = &mut self.pools;
        self.open.retain(|_, open| {
            let keep = now.since(open.at) < LONGEST;
            if !keep && let Some(entry) = pools.get_mut(&open.pool) {
                entry.pool.end(None, None, now);
            }
            keep
        });
        ended
    }

    /// New owners: what belonged to another one is forgotten, and its alerts end with it. (The caller shows the
    /// alerts anew.)
    pub(super) fn reconfigure(&mut self, owners: &Owners, knobs: Knobs, known: impl Fn(&Owner) -> bool) {
        self.keep(|entry| {
            let key = &entry.key;
            entry.knobs = owners.knobs(&key.owner.id).unwrap_or(knobs);
            for shape in Shape::ALL {
                let gone = entry.shapes[shape as usize].as_ref().is_some_and(|about| !known(&about.owner));
                if gone {
                    entry.shapes[shape as usize] = None;
                    entry.burst.forget(shape);
                }
            }
            owners.resolve(key.owner.kind, &key.account, &entry.route) == key.owner
        });
    }

    /// Keeps some pools; how many of the others had an alert up.
    fn keep(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) -> u64 {
        let mut ended = 0;
        self.pools.retain(|_, entry| {
            let kept = keep(entry);
            ended += u64::from(!kept && of_buckets(entry).chain(of_shapes(entry)).next().is_some());
            kept
        });
        let pools = &self.pools;
        self.ids.retain(|_, id| pools.contains_key(id));
        self.lanes.retain(|_, (id, _)| pools.contains_key(id));
        self.open.retain(|_, open| pools.contains_key(&open.pool));
        ended
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for entry in self.pools.values_mut() {
            entry.pool.set_back(by);
            entry.burst.set_back(by);
            entry.since = entry.since.map(|at| at.map(|at| at.minus(by)));
        }
        self.open.values_mut().for_each(|open| open.at = open.at.minus(by));
        self.full_until = self.full_until.minus(by);
    }

    /// When a bucket will be empty, if it is draining, and how probable it is that it will be within the horizon.
    pub(super) fn forecast(&self, id: PoolId, limiter: &Limiter) -> Option<(Option<Duration>, Option<f64>)> {
        let entry = self.pools.get(&id)?;
        let (slot, knobs) = (Slot::of(limiter)?, &entry.knobs);
        Some((entry.pool.empty_in(slot, knobs), entry.pool.run_out(slot, knobs)))
    }

    /// The alerts that are up, each with the pool that it is of. How much of the bucket is used is the book's to say.
    pub(super) fn alerts(&self) -> impl Iterator<Item = (Alert, &PoolKey)> {
        self.pools.values().flat_map(|entry| of_buckets(entry).chain(of_shapes(entry)))
    }

    /// What is known of the traffic's shape: what it is about, whose calls, how much is used.
    pub(super) fn shapes(&self, now: Timestamp) -> impl Iterator<Item = (Identity, &PoolKey, Use)> {
        self.pools.values().flat_map(move |entry| {
            Shape::ALL.into_iter().filter_map(move |shape| {
                let of = entry.burst.used(shape, entry.pool.in_flight(), now)?;
                Some((shaped(entry, shape)?, &entry.key, of))
            })
        })
    }
}

fn of_buckets(entry: &Entry) -> impl Iterator<Item = (Alert, &PoolKey)> {
    let names = [AlertName::BucketPressure, AlertName::BucketExhausting];
    let about = entry.signal.warning.and_then(|slot| Some((slot, entry.about[slot as usize].as_ref()?)));
    names.into_iter().zip(entry.since).filter_map(move |(name, since)| {
        let ((slot, identity), since) = (about?, since?);
        let empty_in = entry.pool.empty_in(slot, &entry.knobs);
        Some(alert(entry, name, identity.clone(), since, empty_in))
    })
}

fn of_shapes(entry: &Entry) -> impl Iterator<Item = (Alert, &PoolKey)> {
    Shape::ALL.into_iter().filter_map(move |shape| {
        let since = entry.burst.up(shape)?;
        Some(alert(entry, AlertName::Burst, shaped(entry, shape)?, since, None))
    })
}

fn alert(
    entry: &Entry,
    name: AlertName,
    identity: Identity,
    since: Timestamp,
    empty_in: Option<Duration>,
) -> (Alert, &PoolKey) {
    let route = entry.route.clone();
    (Alert { name, identity, since, utilization: None, empty_in, route, detail: None }, &entry.key)
}

/// What an alert on the shape of a pool's calls is about: only what this process sees of it.
fn shaped(entry: &Entry, shape: Shape) -> Option<Identity> {
    let window = match shape {
        Shape::Acceleration => Window::Minute,
        Shape::Concurrency => Window::Unknown,
    };
    let about = entry.shapes[shape as usize].clone()?;
    Some(Identity { limiter: shape.limiter(), window, scope: Scope::Local, ..about })
}

fn lane(call: &Call, model: Option<&ModelGroup>) -> Lane {
    Lane { route: call.route.clone(), credential: call.credential.clone(), model: model.cloned() }
}
