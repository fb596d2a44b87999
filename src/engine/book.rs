//! The book: every bucket, rejection and incident that is known, within bounds.
//!
//! Observations go in, alerts and snapshots come out; `now` is passed in and nothing here fails.
//! Bounds: when the table of buckets is full, the longest unobserved one makes room; if all are
//! fresh the new one is not kept, and counted as folded. (Folding two limits into one row would
//! show a level that is nobody's.) Buckets of accounts that no configured owner matches are kept
//! apart inside, and shown as one `unnamed` row each, the worst one.

use super::alert::{Alert, AlertName, BucketAlerts, Change, Identity, Latch, Thresholds};
use super::bucket::Bucket;
use super::burst::Use;
use super::foresight::Told;
use super::incident::Incident;
use super::incidents::{Incidents, Turn};
use super::local::{self, Local, LocalKey, LocalRules};
use super::pools::{PoolId, PoolKey, Pools, Refusal, Whose, pooled};
use super::quotas::Known;
use super::reports::Reports;
use super::snapshot::{BucketView, MissingKey, RejectionKey, RejectionView, Snapshot};
use super::window::Window as Rolling;
use crate::limit::{Amount, Level, Limiter, Reading, Refill, Scope, Timestamp, Window};
use crate::observation::{
    Account, Call, Client, Credential, End, ErrorBody, Head, Limits, Mark, Outcome, Quotas, Start,
};
use crate::owner::{Class, Evidence, Owners, Verdict, judge};
use crate::route::{ModelGroup, Owner, OwnerKind, RouteName, Surface};
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookLimits {
    /// Most buckets.
    pub buckets: usize,
    /// Most kinds of rejection, and of throttle alerts.
    pub rejections: usize,
    /// How long a bucket is kept after it was last observed (or its window's length, if longer).
    pub idle: Duration,
}

impl Default for BookLimits {
    fn default() -> Self {
        // Below the 2,000 attribute sets that an OpenTelemetry instrument keeps by default.
        Self { buckets: 1_500, rejections: 1_000, idle: Duration::from_secs(15 * 60) }
    }
}

/// What makes a bucket itself. The account tells apart what labels cannot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketKey {
    identity: Identity,
    account: Account,
    surface: Surface,
}

struct Entry {
    bucket: Bucket,
    alerts: BucketAlerts,
    route: RouteName,
    /// It raises no alert: nothing is refused when it is empty.
    silent: bool,
    /// The pool that forecasts it and speaks for it.
    pool: Option<PoolId>,
}

impl Entry {
    fn evaluate(&mut self, thresholds: &Thresholds, now: Timestamp) -> Vec<(AlertName, Change)> {
        if self.silent || self.pool.is_some() {
            return Vec::new();
        }
        self.alerts.evaluate(&self.bucket, thresholds, now).to_vec()
    }
}

struct Throttle {
    latch: Latch,
    newest: Timestamp,
    route: RouteName,
}

struct Rejections {
    count: u64,
    retry_at: Option<Timestamp>,
    trace: Option<Arc<str>>,
}

/// Arrivals of one route, to tell a steep rise.
struct Arrivals {
    counted: Rolling<60>,
    since: Timestamp,
}

impl Arrivals {
    fn new(since: Timestamp) -> Self {
        Self { counted: Rolling::new(Duration::from_secs(1)), since }
    }

    /// Ten requests or more in the last ten seconds, at three times the pace of the fifty before.
    /// Unknown, so not steep, until a whole minute has been watched: a restart is no rise.
    fn steep(&self, now: Timestamp) -> bool {
        let recent = self.counted.sum(10, now);
        let before = self.counted.sum(60, now) - recent;
        now.since(self.since) >= Duration::from_secs(60) && recent >= 10 && recent * 5 >= before * 3
    }
}

/// A call that ended, with whose it is.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The call's end.
    pub end: Box<End>,
    /// The surface, as the answer proved it.
    pub surface: Surface,
    /// The owner: of the limit for a failure, of the surface's quota for a success.
    pub owner: Owner,
    /// The verdict, for a failure.
    pub verdict: Option<Verdict>,
    /// It was told by a source outside of the path: whoever made the call may have told others of it, too.
    pub reported: bool,
}

impl Judged {
    /// A failure, or an answer that the upstream broke off.
    pub fn is_error(&self) -> bool {
        self.verdict.is_some() || self.end.outcome == Outcome::UpstreamBroken
    }
}

/// Every bucket, rejection and incident that is known.
pub struct Book {
    pub(super) owners: Arc<Owners>,
    thresholds: Thresholds,
    limits: BookLimits,
    buckets: HashMap<BucketKey, Entry, RandomState>,
    throttles: HashMap<Identity, Throttle, RandomState>,
    rejections: HashMap<RejectionKey, Rejections, RandomState>,
    pools: Pools,
    local: Local,
    counting: LocalRules,
    known: Known,
    pub(super) reports: Reports,
    incidents: Incidents,
    missing: HashMap<MissingKey, u64, RandomState>,
    arrivals: HashMap<RouteName, Arrivals, RandomState>,
    folded: u64,
    pub(super) late: u64,
    /// The bucket table was full and all fresh: no search for a victim before this.
    full_until: Timestamp,
    swept: Timestamp,
    alerts_version: u64,
}

impl Book {
    /// An empty book.
    pub fn new(owners: Arc<Owners>, thresholds: Thresholds, limits: BookLimits) -> Self {
        Self {
            owners,
            thresholds,
            limits,
            buckets: HashMap::default(),
            throttles: HashMap::default(),
            rejections: HashMap::default(),
            pools: Pools::default(),
            local: Local::default(),
            counting: LocalRules::default(),
            known: Known::default(),
            reports: Reports::default(),
            incidents: Incidents::default(),
            missing: HashMap::default(),
            arrivals: HashMap::default(),
            folded: 0,
            late: 0,
            full_until: Timestamp::default(),
            swept: Timestamp::default(),
            alerts_version: 0,
        }
    }

    /// How calls to clouds are counted, from now on.
    pub fn count_by(&mut self, rules: LocalRules) {
        self.counting = rules;
    }

    /// Others than the hop tell of calls, too: from now on its calls are remembered, so that none is counted twice.
    pub fn expect_reports(&mut self) {
        self.reports.once.need();
    }

    /// Takes in what a quota API told.
    pub fn quotas(&mut self, told: &Arc<Quotas>, now: Timestamp) {
        self.alerts_version += self.known.take(told, &self.owners, now);
    }

    /// Takes new owners and thresholds. State stays where its owner is the same; what belonged to
    /// an owner that is gone goes, and its alerts end with it.
    pub fn reconfigure(&mut self, owners: Arc<Owners>, thresholds: Thresholds, limits: BookLimits) {
        self.owners = owners;
        self.thresholds = thresholds;
        self.limits = limits;
        let owners = &self.owners;
        self.buckets.retain(|key, entry| {
            let owner = &key.identity.owner;
            owners.resolve(owner.kind, &key.account, &entry.route) == *owner
        });
        let known = |owner: &Owner| owner.id.is_unnamed() || owners.get(&owner.id).is_some();
        self.throttles.retain(|identity, _| known(&identity.owner));
        self.incidents.reconfigure(known);
        self.pools.reconfigure(owners, thresholds.knobs, known);
        self.known.reconfigure(owners);
        self.local.reconfigure(|key, route| owners.resolve(key.owner.kind, &key.account, route));
        self.alerts_version += 1;
    }

    /// The clock was set back by `by`: every moment that is kept moves with it, so that nothing lies
    /// in the future, where it would neither refill nor end. (A step forward is time that passes.)
    pub fn set_back(&mut self, by: Duration) {
        for entry in self.buckets.values_mut() {
            entry.bucket.set_back(by);
            entry.alerts.set_back(by);
        }
        self.pools.set_back(by);
        self.local.set_back(by);
        self.known.set_back(by);
        self.reports.set_back(by);
        for throttle in self.throttles.values_mut() {
            throttle.latch.set_back(by);
            throttle.newest = throttle.newest.minus(by);
        }
        for row in self.rejections.values_mut() {
            row.retry_at = row.retry_at.map(|at| at.minus(by));
        }
        for arrivals in self.arrivals.values_mut() {
            arrivals.counted.set_back(by);
            arrivals.since = arrivals.since.minus(by);
        }
        self.incidents.set_back(by);
        self.full_until = self.full_until.minus(by);
        self.swept = self.swept.minus(by);
        self.alerts_version += 1;
    }

    /// Goes up whenever an alert began or ended.
    pub fn alerts_version(&self) -> u64 {
        self.alerts_version
    }

    /// Takes in a response head. Numbers of the OpenAI family on another provider's route were written
    /// by something between: whose they are is not known, so no bucket is made of them.
    pub fn head(&mut self, head: &Head) {
        self.reports.once.hop_head(head);
        self.reports.saw_call(&head.call.route, head.at);
        self.take_head(head);
    }

    pub(super) fn take_head(&mut self, head: &Head) {
        let call = &head.call;
        if call.asks_a_model() {
            let arrivals = self.arrivals.entry(call.route.clone()).or_insert_with(|| Arrivals::new(head.at));
            arrivals.counted.add(1, head.at);
        }
        self.take_levels(head);
    }

    /// Takes in what a head says of levels.
    pub(super) fn take_levels(&mut self, head: &Head) {
        let call = &head.call;
        let surface = proved_surface(call.surface, call.client, &head.limits);
        let owner = self.owners.resolve(surface.owner_kind(), &head.limits.account, &call.route);
        self.miss_headers(head, surface, &owner);
        self.tenant(head);
        let nobodys =
            head.limits.marks.has(Mark::OpenAiLimits) && surface.owner_kind() != OwnerKind::OtherProvider;
        if nobodys {
            return;
        }
        let model = self.group(surface, head.model.as_ref());
        let pool = self.foresee(head, surface, &owner, Scope::Account);
        for reading in &head.limits.readings {
            let identity = identity(reading, owner.clone(), model.as_ref(), call, Scope::Account);
            let key = BucketKey { identity, account: head.limits.account.clone(), surface };
            let pool = pool.filter(|_| Told::of(reading).is_some());
            self.observe(key, reading, &call.route, pool, head.at);
        }
    }

    /// Limits of a gateway's tenant, from a route that is a gateway's or a head that bears its mark. Tenants that
    /// nobody named are kept apart by their credentials.
    fn tenant(&mut self, head: &Head) {
        let Head { call, limits, .. } = head;
        let gateways =
            [Mark::Litellm, Mark::Kong, Mark::KongUpstream, Mark::EnvoyLimited, Mark::GatewaySaysOwn];
        let from_one = call.surface == Surface::Gateway || gateways.iter().any(|m| limits.marks.has(*m));
        if limits.tenant.is_empty() || !from_one {
            return;
        }
        let Credential { alias, fingerprint } = &call.credential;
        let tenant = alias.clone().or_else(|| fingerprint.map(|hash| hash.to_string().into()));
        // Levels of several tenants under one name would be nobody's.
        let Some(tenant) = tenant else { return };
        let account = Account { workspace: Some(tenant), ..Account::default() };
        let owner = self.owners.resolve(OwnerKind::GatewayTenant, &account, &call.route);
        for reading in &limits.tenant {
            let identity = Identity {
                owner: owner.clone(),
                limiter: reading.limiter.clone(),
                window: reading.window,
                scope: Scope::Account,
                model: ModelGroup::none(),
                region: None,
            };
            let key = BucketKey { identity, account: account.clone(), surface: Surface::Gateway };
            self.observe(key, reading, &call.route, None, head.at);
        }
    }

    /// Takes in that a call starts.
    pub fn start(&mut self, start: &Start) {
        self.alerts_version += self.pools.start(start);
        if !local::counts(&start.call) {
            return;
        }
        let call = &start.call;
        let key = self.local_key(call, start.model.as_ref());
        self.local.start(start, key.clone(), &self.counting, self.limits.buckets);
        let readings = self.share_left(&key, start.at);
        if readings.is_empty() {
            return;
        }
        let limits = Arc::new(Limits { account: key.account, readings, ..Limits::default() });
        let head = Head { call: call.clone(), model: start.model.clone(), at: start.at, status: 200, limits };
        self.foresee(&head, key.surface, &key.owner, Scope::Local);
    }

    /// The group whose limits a model draws on, as a provider's API told it; else the model's own.
    fn group(&self, surface: Surface, model: Option<&ModelGroup>) -> Option<ModelGroup> {
        model.map(|model| self.known.group(surface, model).unwrap_or(model).clone())
    }

    /// What is left of this process's share of a cloud's quotas; nothing without a share or a limit.
    fn share_left(&self, key: &LocalKey, now: Timestamp) -> Vec<Reading> {
        let Some(share) = self.counting.share else { return Vec::new() };
        let left = |count: local::Count<'_>| {
            let LocalKey { surface, account, model, .. } = count.key;
            let limit = self.known.limit(*surface, account, model, count.limiter.clone(), local::WINDOW)?;
            let limit = (limit.get() as f64 * share) as u64;
            let remaining = Amount::new(limit.saturating_sub(count.used.get()));
            Some(Reading {
                limiter: count.limiter,
                window: local::WINDOW,
                refill: Refill::Continuous,
                level: Some(Level::Counted { limit: Amount::new(limit), remaining }),
                resets: None,
                standing: None,
                rounding: Amount::new(1),
            })
        };
        self.local.of(key, now).filter_map(left).collect()
    }

    /// What a call counts on.
    fn local_key(&self, call: &Call, model: Option<&ModelGroup>) -> LocalKey {
        let account = call.cloud();
        LocalKey {
            owner: self.owners.resolve(call.surface.owner_kind(), &account, &call.route),
            surface: call.surface,
            model: self.group(call.surface, model).unwrap_or_else(ModelGroup::none),
            account,
        }
    }

    /// A call is over: its own count is settled. What is left now, for the pool that forecasts it.
    fn settle_local(&mut self, end: &End) -> Vec<Reading> {
        if !local::counts(&end.call) {
            return Vec::new();
        }
        // A refusal takes nothing; so does what never came to an answer.
        let refused = end.usage.is_none() && (end.failed() || end.status.is_none());
        let key = self.local_key(&end.call, end.model.as_ref());
        let most = self.limits.buckets;
        let settled = self.local.end(end, key, refused, &self.counting, most);
        settled.map(|key| self.share_left(&key, end.at)).unwrap_or_default()
    }

    /// Takes a call out of its pool, and then sets right what is known of its buckets.
    pub(super) fn leave_pool(&mut self, end: &End, refusal: Refusal, left: &[Reading]) {
        let pool = self.pools.of_call(end.call.id);
        self.alerts_version += self.pools.end(end, refusal);
        self.alerts_version += pool.map_or(0, |pool| self.pools.tell(pool, left, end.at));
    }

    /// Takes out what the head of a call that is over has booked.
    pub(super) fn leave_pool_of(&mut self, head: &Head) {
        self.alerts_version += self.pools.leave(head.call.id, head.at);
    }

    /// Tells the pool of a head what it says of minute buckets; gives that pool.
    fn foresee(&mut self, head: &Head, surface: Surface, owner: &Owner, scope: Scope) -> Option<PoolId> {
        let model = self.group(surface, head.model.as_ref());
        let whose = Whose {
            owner,
            surface,
            account: &head.limits.account,
            model: model.as_ref(),
            region: head.call.region.as_ref(),
        };
        let knobs = self.owners.knobs(&owner.id).unwrap_or(self.thresholds.knobs);
        let about = |reading: &Reading| identity(reading, owner.clone(), model.as_ref(), &head.call, scope);
        let (pool, changed) = self.pools.head(head, whose, knobs, self.limits.buckets, about)?;
        self.alerts_version += changed;
        Some(pool)
    }

    /// Counts a success on a route to Anthropic's Messages that shows no limit header: something between
    /// drops them, or writes them anew. Failures are not counted: some of Anthropic's own have none.
    fn miss_headers(&mut self, head: &Head, surface: Surface, owner: &Owner) {
        let (limits, marks) = (&head.limits, head.limits.marks);
        // Of a route that is configured as a gateway's nobody expects the provider's headers.
        let expected =
            matches!(surface, Surface::AnthropicApi | Surface::ClaudeCodeKey | Surface::ClaudeCodePlan);
        let messages = head.call.method == http::Method::POST && head.call.path.ends_with("/v1/messages");
        let there = limits.trios || limits.unified || limits.partial;
        if !expected || !messages || there || !(200..300).contains(&head.status) {
            return;
        }
        let rewritten = marks.has(Mark::OpenAiLimits) || marks.has(Mark::LitellmProvider);
        let key = MissingKey { owner: owner.clone(), surface, route: head.call.route.clone(), rewritten };
        if self.missing.len() < self.limits.rejections || self.missing.contains_key(&key) {
            *self.missing.entry(key).or_default() += 1;
        } else {
            self.folded += 1;
        }
    }

    fn observe(
        &mut self,
        key: BucketKey,
        reading: &Reading,
        route: &RouteName,
        pool: Option<PoolId>,
        now: Timestamp,
    ) {
        let thresholds = self.thresholds;
        if let Some(entry) = self.buckets.get_mut(&key) {
            let late = entry.bucket.late();
            entry.bucket.observe(reading, now);
            self.late += entry.bucket.late() - late;
            if entry.route != *route {
                entry.route = route.clone();
            }
            entry.pool = pool.or(entry.pool);
            let changes = entry.evaluate(&thresholds, now);
            self.note(&changes);
            return;
        }
        let Some(bucket) = Bucket::new(reading, now) else { return };
        if self.buckets.len() >= self.limits.buckets && !self.make_room(now) {
            self.folded += 1;
            return;
        }
        let silent = refuses_nothing(&key.identity.limiter);
        let mut entry = Entry { bucket, alerts: BucketAlerts::default(), route: route.clone(), silent, pool };
        let changes = entry.evaluate(&thresholds, now);
        self.note(&changes);
        self.buckets.insert(key, entry);
    }

    fn note(&mut self, changes: &[(AlertName, Change)]) {
        self.alerts_version += changes.iter().filter(|(_, change)| *change != Change::None).count() as u64;
    }

    /// Drops the longest unobserved bucket. Looks at most once a second when all are fresh, so that
    /// a flood of new names costs no search each.
    fn make_room(&mut self, now: Timestamp) -> bool {
        if now < self.full_until {
            return false;
        }
        let victim = self
            .buckets
            .iter()
            .filter(|(_, entry)| entry.bucket.unobserved(now))
            .min_by_key(|(_, entry)| entry.bucket.observed())
            .map(|(key, _)| key.clone());
        match victim {
            Some(key) => self.buckets.remove(&key).is_some(),
            None => {
                self.full_until = now.plus(Duration::from_secs(1));
                false
            }
        }
    }

    /// Takes in the end of a call and judges it.
    pub fn end(&mut self, end: Box<End>) -> Judged {
        self.reports.once.hop_end(&end);
        self.take_end(end)
    }

    pub(super) fn take_end(&mut self, end: Box<End>) -> Judged {
        let call = end.call.clone();
        let surface = proved_surface(call.surface, call.client, &end.limits);
        let account = &end.limits.account;
        let left = self.settle_local(&end);
        if !end.failed() {
            self.leave_pool(&end, Refusal::None, &left);
            let owner = self.owners.resolve(surface.owner_kind(), account, &call.route);
            if end.succeeded() && call.asks_a_model() && self.incidents.success(&end) {
                self.alerts_version += 1;
            }
            return Judged { end, surface, owner, verdict: None, reported: false };
        }
        let silent = ErrorBody::default();
        let error = end.error.as_deref().unwrap_or(&silent);
        let mut evidence = Evidence::new(end.status, &end.limits, error, surface);
        evidence.client = call.client;
        evidence.path = &call.path;
        evidence.headers_known = end.status.is_some() && !end.limits.partial;
        evidence.no_response = end.status.is_none();
        evidence.steep = self.arrivals.get(&call.route).is_some_and(|a| a.steep(end.at));
        let verdict = judge(&evidence);
        drop(evidence);
        self.leave_pool(&end, refusal(&verdict), &left);
        let home = verdict.surface.owner_kind();
        let owner = self.owners.resolve_for(verdict.owner_kind, home, account, &call.route);
        let identity = self.reject(&end, &owner, &verdict);
        // Only what names itself teaches a ceiling.
        if verdict.class == Class::Burst && verdict.limiter.is_some() {
            self.alerts_version += self.pools.burst(&end, &verdict, &identity);
        }
        if verdict.class != Class::NotALimit && self.incidents.failure(&end, &owner, &verdict, identity) {
            self.alerts_version += 1;
        }
        Judged { surface: verdict.surface, end, owner, verdict: Some(verdict), reported: false }
    }

    /// What happened to incidents since this was last asked, for the log.
    pub fn take_turns(&mut self) -> Vec<(Turn, Incident)> {
        self.incidents.take_turns()
    }

    /// Counts a failure, and gives what an alert on it is about.
    fn reject(&mut self, end: &End, owner: &Owner, verdict: &Verdict) -> Identity {
        let window = verdict.limiter.as_ref().map_or(Window::Unknown, |l| window_of(l, &end.limits));
        let spans_models = verdict.limiter.as_ref().is_some_and(spans_models);
        let limiter = verdict.limiter.as_ref().map(|limiter| pooled(limiter, &end.call.path));
        let model = self.group(verdict.surface, end.model.as_ref()).filter(|_| !spans_models);
        let model = model.unwrap_or_else(ModelGroup::none);
        let identity = Identity {
            owner: owner.clone(),
            limiter: limiter.clone().unwrap_or_else(|| Limiter::known("unknown")),
            window,
            scope: Scope::Account,
            model: model.clone(),
            region: end.call.region.clone(),
        };
        // That a service is away, and nobody says why, is no refusal of a limit either.
        let away = verdict.class == Class::Unknown && end.status.is_some_and(|status| status >= 500);
        if away || (verdict.class == Class::NotALimit && end.status != Some(429)) {
            return identity;
        }
        let mut key = RejectionKey {
            owner: owner.clone(),
            surface: verdict.surface,
            route: end.call.route.clone(),
            limiter,
            window,
            model,
            region: end.call.region.clone(),
            class: verdict.class,
            rung: verdict.rule.rung,
        };
        if self.rejections.len() >= self.limits.rejections && !self.rejections.contains_key(&key) {
            self.folded += 1;
            key.model = ModelGroup::other();
            key.limiter = None;
            // It may come from the traffic.
            key.region = None;
        }
        let row = self.rejections.entry(key).or_insert(Rejections { count: 0, retry_at: None, trace: None });
        row.count += 1;
        row.retry_at = end.limits.retry_after.map(|wait| end.at.plus(wait)).or(row.retry_at);
        row.trace = end.call.trace_id().map(Into::into).or(row.trace.take());
        if verdict.class.is_limit() {
            self.throttled(identity.clone(), &end.call.route, end.at);
        }
        identity
    }

    fn throttled(&mut self, identity: Identity, route: &RouteName, now: Timestamp) {
        if self.throttles.len() >= self.limits.rejections && !self.throttles.contains_key(&identity) {
            self.folded += 1;
            return;
        }
        let throttle = self.throttles.entry(identity).or_insert_with(|| Throttle {
            latch: Latch::default(),
            newest: now,
            route: route.clone(),
        });
        throttle.newest = throttle.newest.max(now);
        if throttle.latch.step(true, false, Duration::ZERO, now) != Change::None {
            self.alerts_version += 1;
        }
    }

    /// Lets time pass: alerts end, idle buckets expire.
    pub fn tick(&mut self, now: Timestamp) {
        let thresholds = self.thresholds;
        let mut changed = 0;
        for entry in self.buckets.values_mut() {
            let changes = entry.evaluate(&thresholds, now);
            changed += changes.iter().filter(|(_, change)| *change != Change::None).count() as u64;
        }
        for throttle in self.throttles.values_mut() {
            let quiet = now.since(throttle.newest) >= thresholds.throttled_for;
            changed += u64::from(throttle.latch.step(false, quiet, Duration::ZERO, now) != Change::None);
        }
        changed += self.pools.tick(now) + self.known.look(now);
        self.alerts_version += changed + u64::from(self.incidents.tick(now));
        if now.since(self.swept) >= Duration::from_secs(10) {
            self.swept = now;
            let idle = self.limits.idle;
            self.buckets.retain(|key, entry| {
                let keep = key.identity.window.length().unwrap_or(idle).max(idle);
                !entry.bucket.unobserved(now) || now.since(entry.bucket.observed()) < keep
            });
            self.throttles.retain(|_, throttle| throttle.latch.since().is_some());
            self.alerts_version += self.pools.sweep(now, idle);
            self.local.sweep(now, idle);
            self.reports.once.sweep(now);
        }
    }

    /// Every alert that is up; one for each name and identity, the earliest.
    pub fn alerts(&self, now: Timestamp) -> Vec<Alert> {
        let of_buckets = self.buckets.iter().flat_map(|(key, entry)| {
            entry.alerts.up().map(move |(name, since)| Alert {
                name,
                identity: key.identity.clone(),
                since,
                utilization: Some(entry.bucket.utilization(now)),
                empty_in: entry.bucket.forecast(now).map(|f| f.empty_in),
                route: entry.route.clone(),
                detail: None,
            })
        });
        let of_throttles = self.throttles.iter().filter_map(|(identity, throttle)| {
            throttle.latch.since().map(|since| Alert {
                name: AlertName::Throttled,
                identity: identity.clone(),
                since,
                utilization: None,
                empty_in: None,
                route: throttle.route.clone(),
                detail: None,
            })
        });
        let of_pools = self
            .pools
            .alerts()
            .map(|(alert, key)| Alert { utilization: self.utilization(&alert.identity, key, now), ..alert });
        let of_changes = self.incidents.open().filter_map(route_changed);
        let mut alerts: Vec<Alert> = of_buckets
            .chain(of_pools)
            .chain(of_throttles)
            .chain(of_changes)
            .chain(self.known.alerts())
            .collect();
        alerts.sort_by(|a, b| (a.name, &a.identity, a.since).cmp(&(b.name, &b.identity, b.since)));
        alerts.dedup_by(|later, earlier| (later.name, &later.identity) == (earlier.name, &earlier.identity));
        self.say_what_is_shown(&mut alerts, now);
        alerts
    }

    /// Several accounts may stand behind one identity, and one row of it is shown. An alert tells the numbers of that row,
    /// whichever of them raised it: who looks there must find what the alert says.
    fn say_what_is_shown(&self, alerts: &mut [Alert], now: Timestamp) {
        let of_buckets = |alert: &&mut Alert| {
            matches!(alert.name, AlertName::BucketPressure | AlertName::BucketExhausting)
                && alert.identity.scope == Scope::Account
        };
        let identities = alerts.iter_mut().filter(of_buckets).map(|alert| (alert.identity.clone(), None));
        let mut shown: HashMap<Identity, Option<Danger>, RandomState> = identities.collect();
        for (key, entry) in &self.buckets {
            let Some(shown) = shown.get_mut(&key.identity) else { continue };
            let view = self.view(key, entry, now);
            let (used, empty_in) = shown.unwrap_or_default();
            *shown = Some((worst(used, view.utilization), soonest(empty_in, view.empty_in)));
        }
        for alert in alerts.iter_mut().filter(of_buckets) {
            if let Some((used, empty_in)) = shown.get(&alert.identity).copied().flatten() {
                (alert.utilization, alert.empty_in) =
                    (used, empty_in.or(alert.empty_in.filter(|_| used.is_none())));
            }
        }
    }

    /// The used part of a pool's bucket.
    fn utilization(&self, identity: &Identity, key: &PoolKey, now: Timestamp) -> Option<f64> {
        if identity.scope == Scope::Local {
            let PoolKey { owner, surface, account, model, .. } = key.clone();
            let key = LocalKey { owner, surface, account, model };
            let left = self.share_left(&key, now).into_iter().find(|left| left.limiter == identity.limiter);
            let Some(Level::Counted { limit, remaining }) = left.and_then(|left| left.level) else {
                return None;
            };
            return Some(1.0 - remaining.get() as f64 / limit.get().max(1) as f64);
        }
        let key =
            BucketKey { identity: identity.clone(), account: key.account.clone(), surface: key.surface };
        self.buckets.get(&key).map(|entry| entry.bucket.utilization(now))
    }

    /// What is known at `now`; the totals are the caller's to add.
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let buckets = self.views(now);
        let mut rejections: Vec<RejectionView> = self
            .rejections
            .iter()
            .map(|(key, row)| RejectionView {
                key: key.clone(),
                count: row.count,
                retry_at: row.retry_at.filter(|at| *at > now),
                trace: row.trace.clone(),
            })
            .collect();
        rejections.sort_by(|a, b| a.key.cmp(&b.key));
        let mut missing: Vec<(MissingKey, u64)> = self.missing.iter().map(|(k, n)| (k.clone(), *n)).collect();
        missing.sort_by(|a, b| a.0.cmp(&b.0));
        Snapshot {
            at: now,
            buckets,
            alerts: self.alerts(now),
            rejections,
            incidents: self.incidents.all(),
            changes: self.incidents.changes(),
            missing,
            quotas: self.known.told(),
            folded: self.folded
                + self.incidents.folded
                + self.pools.folded
                + self.local.folded
                + self.known.folded
                + self.reports.once.forgotten,
            late: self.late,
            repeated: self.reports.repeated.iter().map(|(source, n)| (source.clone(), *n)).collect(),
            retries: self.reports.retries.iter().map(|(key, n)| (key.clone(), *n)).collect(),
            ..Snapshot::default()
        }
    }

    /// An own count as a bucket: how much of the account's limit this process draws.
    fn counted(&self, count: &local::Count<'_>, now: Timestamp) -> BucketView {
        let LocalKey { owner, surface, account, model } = count.key;
        let limit = self.known.limit(*surface, account, model, count.limiter.clone(), local::WINDOW);
        let used = count.used.get();
        let part = limit.filter(|limit| limit.get() > 0).map(|limit| used as f64 / limit.get() as f64);
        BucketView {
            owner: owner.clone(),
            surface: *surface,
            limiter: count.limiter.clone(),
            window: local::WINDOW,
            scope: Scope::Local,
            model: model.clone(),
            region: account.region.clone(),
            limit,
            remaining: limit.map(|limit| Amount::new(limit.get().saturating_sub(used))),
            used: Some(count.used),
            refused: None,
            utilization: part,
            peak: part,
            empty_in: None,
            run_out: None,
            expected: None,
            resets: None,
            observed: now,
        }
    }

    /// Every bucket, one row for each set of labels.
    fn views(&self, now: Timestamp) -> Vec<BucketView> {
        let of_headers = self.buckets.iter().map(|(key, e)| (key.account.clone(), self.view(key, e, now)));
        let mut all: Vec<(Account, BucketView)> = of_headers.collect();
        let shapes = self.pools.shapes(now);
        all.extend(shapes.map(|(identity, pool, of)| (pool.account.clone(), shape(identity, pool, of, now))));
        all.extend(self.local.counts(now).map(|c| (c.key.account.clone(), self.counted(&c, now))));
        // An instrument keeps so many rows: what an API tells of pools that nobody uses goes first.
        let room = self.limits.buckets.saturating_sub(all.len());
        let counted = self.local.accounts();
        let used = |surface, account: &Account| counted.contains(&(surface, account));
        all.extend(self.known.views(&self.owners, &used).take(room));
        all.sort_by(|(_, a), (_, b)| labels(a).cmp(&labels(b)).then(worst_first(a, b)));
        all.dedup_by(|(of, later), (account, first)| {
            let same = labels(later) == labels(first);
            if same && later.scope == Scope::Account {
                merge(first, later, account == of);
            }
            same
        });
        all.into_iter().map(|(_, view)| view).collect()
    }

    fn view(&self, key: &BucketKey, entry: &Entry, now: Timestamp) -> BucketView {
        let bucket = &entry.bucket;
        let known = !bucket.unobserved(now);
        let pace = bucket.pace(now);
        // As its pool foresees it, which knows of the calls on their way; by its own draw where it has none.
        let (empty_in, run_out) = match entry.pool {
            Some(pool) => self.pools.forecast(pool, &key.identity.limiter).unwrap_or_default(),
            None => (bucket.forecast(now).map(|f| f.empty_in), pace.map(|pace| pace.run_out)),
        };
        BucketView {
            owner: key.identity.owner.clone(),
            surface: key.surface,
            limiter: key.identity.limiter.clone(),
            window: key.identity.window,
            scope: key.identity.scope,
            model: key.identity.model.clone(),
            region: key.identity.region.clone(),
            limit: bucket.limit(),
            remaining: bucket.remaining(now).filter(|_| known),
            used: None,
            refused: None,
            utilization: known.then(|| bucket.utilization(now)),
            peak: known.then(|| bucket.peak(now)),
            empty_in,
            run_out,
            expected: pace.map(|pace| pace.expected),
            resets: bucket.resets(),
            observed: bucket.observed(),
        }
    }
}

/// What an API tells of a bucket that headers tell of too is added to it. Of different accounts under one set of
/// labels draws add up, and a limit that is not the same for all is nobody's.
fn merge(first: &mut BucketView, later: &BucketView, same_account: bool) {
    let sum = |a: Option<Amount>, b: Option<Amount>| match (a, b) {
        (Some(a), Some(b)) => Some(Amount::new(a.get().saturating_add(b.get()))),
        (a, b) => a.or(b),
    };
    if same_account {
        first.used = first.used.or(later.used);
        first.refused = first.refused.or(later.refused);
        first.limit = first.limit.or(later.limit);
        return;
    }
    first.used = sum(first.used, later.used);
    first.refused = sum(first.refused, later.refused);
    // The row is a bucket of this owner that is in danger: of each measure the worst, because an alert speaks of that.
    first.peak = worst(first.peak, later.peak);
    first.run_out = worst(first.run_out, later.run_out);
    first.empty_in = soonest(first.empty_in, later.empty_in);
    if first.utilization.is_none()
        && later.limit.is_some()
        && first.limit.is_some()
        && first.limit != later.limit
    {
        first.limit = None;
    }
}

/// How much of a bucket is used, and when it is empty.
type Danger = (Option<f64>, Option<Duration>);

fn worst(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).max_by(f64::total_cmp)
}

fn soonest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

/// What a failure says of the minute buckets that its call draws on. A limit of the traffic's shape that is only
/// guessed from a steep rise may as well be the bucket.
fn refusal(verdict: &Verdict) -> Refusal {
    match verdict.class {
        // A tool's own limit says nothing of the tokens of the message that it was called in.
        class if class.is_limit() && verdict.limiter.as_ref().is_some_and(Limiter::is_of_tool) => {
            Refusal::None
        }
        Class::AnthropicWorkspace
        | Class::ClaudeCodeApiKey
        | Class::Bedrock
        | Class::Vertex
        | Class::OtherProvider => Refusal::Empty,
        Class::Burst if verdict.limiter.is_none() => Refusal::Empty,
        class if class.is_limit() => Refusal::Elsewhere,
        _ => Refusal::None,
    }
}

/// The stop rule's own alert: up from the first change until a while after the last, or until the
/// incident is over. Overload is no limit, so that no evidence of one is destroyed there.
fn route_changed(incident: &Incident) -> Option<Alert> {
    let limit = incident.verdict.class.is_limit();
    let first = incident.changes.first().filter(|_| incident.alerting && limit)?;
    let changes = incident.changes.iter().map(|c| format!("{} from {} to {}", c.what.as_str(), c.from, c.to));
    Some(Alert {
        name: AlertName::RouteChanged,
        identity: incident.identity.clone(),
        since: first.at,
        utilization: None,
        empty_in: None,
        route: incident.route.clone(),
        detail: Some(changes.collect::<Vec<_>>().join("; ").into()),
    })
}

/// A ceiling of the traffic's shape as a bucket: what is asked for now is what is used of it.
fn shape(identity: Identity, pool: &PoolKey, of: Use, now: Timestamp) -> BucketView {
    let used = of.used / of.limit;
    BucketView {
        owner: identity.owner,
        surface: pool.surface,
        limiter: identity.limiter,
        window: identity.window,
        scope: identity.scope,
        model: identity.model,
        region: identity.region,
        limit: Some(Amount::new(of.limit as u64)),
        remaining: Some(Amount::new((of.limit - of.used).max(0.0) as u64)),
        used: Some(Amount::new(of.used.max(0.0) as u64)),
        refused: None,
        utilization: Some(used),
        peak: Some(used),
        empty_in: None,
        run_out: None,
        expected: None,
        resets: None,
        observed: now,
    }
}

type Labels<'a> = (&'a Owner, Surface, &'a Limiter, Window, Scope, &'a ModelGroup, Option<&'a str>);

fn labels(view: &BucketView) -> Labels<'_> {
    let region = view.region.as_deref();
    (&view.owner, view.surface, &view.limiter, view.window, view.scope, &view.model, region)
}

fn worst_first(a: &BucketView, b: &BucketView) -> std::cmp::Ordering {
    let used = |v: &BucketView| v.utilization.unwrap_or(-1.0);
    used(b).total_cmp(&used(a))
}

/// The surface as the answer's header family proves it; what the request suggested otherwise.
pub(crate) fn proved_surface(suggested: Surface, client: Client, limits: &Limits) -> Surface {
    match (limits.unified, limits.trios, suggested) {
        // Another provider, and a gateway with caps of its own, may borrow the family's names.
        (true, _, Surface::OpenAi | Surface::AzureOpenAi | Surface::Other | Surface::Gateway) => suggested,
        (true, _, _) => Surface::ClaudeCodePlan,
        // Handed on as the provider wrote them: the route is the gateway's, the numbers are not.
        (_, true, Surface::Gateway)
            if limits.marks.has(Mark::LitellmProvider) || limits.marks.has(Mark::GatewaySaysUpstream) =>
        {
            Surface::AnthropicApi
        }
        (_, true, Surface::ClaudeCodePlan | Surface::Unknown) if client == Client::ClaudeCode => {
            Surface::ClaudeCodeKey
        }
        (_, true, Surface::ClaudeCodePlan | Surface::Unknown) => Surface::AnthropicApi,
        (_, _, Surface::Unknown) if limits.marks.has(Mark::OpenAi) => Surface::OpenAi,
        (_, _, Surface::Unknown) if limits.marks.has(Mark::Azure) => Surface::AzureOpenAi,
        _ => suggested,
    }
}

fn identity(
    reading: &Reading,
    owner: Owner,
    model: Option<&ModelGroup>,
    call: &Call,
    scope: Scope,
) -> Identity {
    let limiter = pooled(&reading.limiter, &call.path);
    let model = model.filter(|_| !spans_models(&reading.limiter)).cloned().unwrap_or_else(ModelGroup::none);
    Identity { owner, limiter, window: reading.window, scope, model, region: call.region.clone() }
}

/// Plan windows, money and the traffic's own shape are limits of the account, not of a model.
fn spans_models(limiter: &Limiter) -> bool {
    [Limiter::FIVE_HOUR, Limiter::SEVEN_DAY, Limiter::OVERAGE, Limiter::SPEND, Limiter::CONCURRENCY]
        .contains(limiter)
        || limiter.as_str().starts_with("seven_day_")
}

/// Credits beyond a plan and Priority Tier commitments: used up on healthy accounts, and then the
/// call is billed or served another way.
fn refuses_nothing(limiter: &Limiter) -> bool {
    *limiter == Limiter::OVERAGE || limiter.as_str().starts_with("priority_")
}

/// The window of a refused limiter: as the headers state it, else as the limiter is known to have.
fn window_of(limiter: &Limiter, limits: &Limits) -> Window {
    if let Some(reading) = limits.readings.iter().find(|r| r.limiter == *limiter) {
        return reading.window;
    }
    match limiter.as_str() {
        "five_hour" => Window::FiveHours,
        "spend" | "overage" => Window::Month,
        name if name.starts_with("seven_day") => Window::Week,
        "concurrency" | "unknown" => Window::Unknown,
        _ => Window::Minute,
    }
}

#[cfg(test)]
mod clouds;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod tests;
