//! Every metric, once: its OpenTelemetry name, unit, kind, help and attributes.
//!
//! `/metrics` and OTLP are both rendered from here, so their names cannot part. What is not known
//! has no point: an unknown value is absent, never zero and never a sentinel.

use crate::engine::{BucketView, Snapshot};
use crate::ledger::TotalsKey;
use crate::limit::{Amount, Timestamp};
use crate::owner::Owners;
use crate::route::{OwnerId, OwnerKind};
use crate::stats::{Deliveries, Feed, Polls, Stats};
use arc_swap::ArcSwap;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down; reported only while known.
    Gauge,
    /// Only goes up.
    Counter,
}

/// One metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// UCUM unit, as OpenTelemetry writes it.
    pub unit: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// What it tells, as a sentence.
    pub help: &'static str,
    /// Its attributes, by OpenTelemetry name.
    pub attributes: &'static [&'static str],
}

/// Attribute names (DESIGN, "Metrics and spans").
pub mod key {
    /// Who holds the limit.
    pub const OWNER: &str = "plimsoll.owner";
    /// The kind of owner.
    pub const OWNER_KIND: &str = "plimsoll.owner.kind";
    /// The surface.
    pub const SURFACE: &str = "plimsoll.surface";
    /// The route.
    pub const ROUTE: &str = "plimsoll.route";
    /// The limiter.
    pub const LIMITER: &str = "plimsoll.limiter";
    /// The limiter's window.
    pub const WINDOW: &str = "plimsoll.window";
    /// Whose draw.
    pub const SCOPE: &str = "plimsoll.scope";
    /// The verdict.
    pub const VERDICT: &str = "plimsoll.verdict";
    /// The kind of proof.
    pub const EVIDENCE: &str = "plimsoll.evidence";
    /// An exporter of ours.
    pub const EXPORTER: &str = "plimsoll.exporter";
    /// How an export ended.
    pub const OUTCOME: &str = "plimsoll.outcome";
    /// A source of ours.
    pub const SOURCE: &str = "plimsoll.source";
    /// OpenTelemetry's provider name.
    pub const PROVIDER: &str = "gen_ai.provider.name";
    /// The model; in metrics the model group.
    pub const MODEL: &str = "gen_ai.request.model";
    /// What of a route was changed.
    pub const CHANGE: &str = "plimsoll.change";
    /// What became of the limit headers.
    pub const HEADERS: &str = "plimsoll.headers";
    /// The type of tokens.
    pub const TOKEN_TYPE: &str = "gen_ai.token.type";
    /// The region.
    pub const REGION: &str = "cloud.region";
    /// HTTP status.
    pub const STATUS: &str = "http.response.status_code";
    /// An owner's runbook.
    pub const RUNBOOK: &str = "runbook_url";
    /// An owner's dashboard.
    pub const DASHBOARD: &str = "dashboard_url";
    /// Whom to call.
    pub const CONTACT: &str = "contact";
    /// Our version.
    pub const VERSION: &str = "version";
    /// What was repaired: `missing_v1`, `doubled_v1`.
    pub const REPAIR: &str = "plimsoll.repair";
}

const BUCKET: &[&str] = &[
    key::OWNER,
    key::OWNER_KIND,
    key::SURFACE,
    key::LIMITER,
    key::WINDOW,
    key::SCOPE,
    key::PROVIDER,
    key::MODEL,
    key::REGION,
];
const REJECTION: &[&str] = &[
    key::OWNER,
    key::OWNER_KIND,
    key::SURFACE,
    key::ROUTE,
    key::LIMITER,
    key::WINDOW,
    key::SCOPE,
    key::VERDICT,
    key::EVIDENCE,
    key::PROVIDER,
    key::MODEL,
    key::REGION,
];
const CHANGES: &[&str] = &[
    key::OWNER,
    key::OWNER_KIND,
    key::ROUTE,
    key::LIMITER,
    key::WINDOW,
    key::SCOPE,
    key::MODEL,
    key::REGION,
    key::CHANGE,
];
const MISSING: &[&str] =
    &[key::OWNER, key::OWNER_KIND, key::SURFACE, key::ROUTE, key::PROVIDER, key::HEADERS];
const CALLS: &[&str] =
    &[key::OWNER, key::OWNER_KIND, key::SURFACE, key::ROUTE, key::PROVIDER, key::MODEL, key::STATUS];
const RETRIED: &[&str] = &[key::OWNER, key::OWNER_KIND, key::SURFACE, key::ROUTE, key::PROVIDER, key::MODEL];
const TOKENS: &[&str] =
    &[key::OWNER, key::OWNER_KIND, key::SURFACE, key::ROUTE, key::PROVIDER, key::MODEL, key::TOKEN_TYPE];

macro_rules! catalogue {
    ($($id:ident = $name:literal, $unit:literal, $kind:ident, $attributes:expr, $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Metric = Metric {
            name: $name, unit: $unit, kind: Kind::$kind, help: $help, attributes: $attributes,
        };)*
        /// Every metric, in the order in which it is exposed.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

catalogue! {
    LIMIT = "plimsoll.limit", "", Gauge, BUCKET, "The most that a bucket holds, in requests or tokens.";
    REMAINING = "plimsoll.remaining", "", Gauge, BUCKET, "What is left in a bucket, in requests or tokens; between observations by its refill.";
    USED = "plimsoll.used", "", Gauge, BUCKET, "What was drawn on a bucket in its window, where it is counted: by this process (local scope, its share only), or by the provider's own metrics, which come minutes late (account scope). Requests, tokens, or US cents of `spend`.";
    REFUSED = "plimsoll.provider.refusals", "{response}", Gauge, BUCKET, "Calls that the provider says it refused in the newest minute that its metrics tell of.";
    UTILIZATION = "plimsoll.utilization", "1", Gauge, BUCKET, "Used part of a bucket: 0 is full, 1 is empty, more is over the limit.";
    PEAK = "plimsoll.utilization.peak", "1", Gauge, BUCKET, "Largest used part of a bucket in the last 60 s; reading does not reset it.";
    RUN_OUT = "plimsoll.exhaustion.probability", "1", Gauge, BUCKET, "Probability that a bucket is empty within the horizon (minute buckets), or before its reset (longer windows).";
    EXPECTED = "plimsoll.utilization.expected", "1", Gauge, BUCKET, "The part of a longer window that has passed: what an even pace would have used by now.";
    EXHAUSTION = "plimsoll.exhaustion.delay", "s", Gauge, BUCKET, "Time until a bucket is empty at its present net drain; absent while it refills first.";
    RESET = "plimsoll.reset.time", "s", Gauge, BUCKET, "Unix time at which a bucket is full again, as the provider states it.";
    OBSERVED = "plimsoll.observed.time", "s", Gauge, BUCKET, "Unix time at which a bucket was last observed.";
    REJECTIONS = "plimsoll.rejections", "{response}", Counter, REJECTION, "Calls that were refused, with whose limit it was and what kind of proof there is.";
    RETRY_AFTER = "plimsoll.retry_after", "s", Gauge, REJECTION, "What is left of the wait that the newest refusal stated.";
    ROUTE_CHANGES = "plimsoll.route.changes", "{change}", Counter, CHANGES, "Changes of a route (credential, plan, provider, model) while an incident was open: they destroy its evidence.";
    HEADERS_MISSING = "plimsoll.headers.missing", "{response}", Counter, MISSING, "Successes of Anthropic's Messages without any of its limit headers: something between drops them, or writes them anew.";
    REQUESTS = "plimsoll.requests", "{request}", Counter, CALLS, "Calls to models that ended, by status; without a status no response came.";
    TOKENS_USED = "plimsoll.tokens", "{token}", Counter, TOKENS, "Tokens used, as the provider reports them; cache reads do not count against input limits.";
    RETRIES = "plimsoll.retries", "{attempt}", Counter, RETRIED, "Attempts that failed before the one that was told of, as a client counts them (Claude Code's OTLP); how each failed is not told.";
    IN_FLIGHT = "plimsoll.in_flight", "{request}", Gauge, &[key::ROUTE], "Calls in flight.";
    REPAIRED = "plimsoll.paths.repaired", "{request}", Counter, &[key::ROUTE, key::REPAIR], "Requests whose path the provider certainly answers with 404, and which were forwarded as they were meant: a client's base URL needs mending.";
    WEBSOCKETS = "plimsoll.websockets", "{connection}", Counter, &[key::ROUTE, key::OUTCOME], "WebSockets by what became of them: `tunnelled` ones pass unmeasured, `refused` ones were answered with 426, so that their client sends requests.";
    REQUESTS_OTHER = "plimsoll.requests.other", "{request}", Counter, &[key::ROUTE], "Requests that call no model: lists of models, health checks, anything that is no POST. They are no traffic, and no success.";
    OWNER_INFO = "plimsoll.owner.info", "", Gauge, &[key::OWNER, key::OWNER_KIND, key::RUNBOOK, key::DASHBOARD, key::CONTACT], "A configured owner, with whom to call and where its runbook is; always 1.";
    SOURCE_UP = "plimsoll.source.up", "", Gauge, &[key::SOURCE], "1 while a source of observations works.";
    SOURCE_TIME = "plimsoll.source.last_success.time", "s", Gauge, &[key::SOURCE], "Unix time of a source's newest observation of a limit, or of its newest poll that gave something.";
    TOLD = "plimsoll.source.observations", "{observation}", Counter, &[key::SOURCE, key::OUTCOME], "What a source outside of the path told: `told` was handed to the engine, `repeated` is the part of it that another source had told before, `skipped` is of no call to a model, `dropped` found no room.";
    SKEWED = "plimsoll.source.skewed", "{observation}", Counter, &[key::SOURCE], "Observations whose times were set by the answer's `Date`, because the source's clock is wrong.";
    POLLS = "plimsoll.source.polls", "{poll}", Counter, &[key::SOURCE, key::OUTCOME], "Polls of a source by whether they gave something.";
    POLL_TIME = "plimsoll.source.poll.duration", "s", Gauge, &[key::SOURCE], "How long the newest poll of a source took.";
    INTERVAL = "plimsoll.source.interval", "s", Gauge, &[key::SOURCE], "How long a source's polls lie apart while they give something.";
    BILLED = "plimsoll.source.billed", "{item}", Counter, &[key::SOURCE], "What a source asked for that is billed: metrics of CloudWatch, series of Cloud Monitoring.";
    COST = "plimsoll.source.cost", "USD", Counter, &[key::SOURCE], "What a source's polls cost since the start, by the documented prices.";
    UNUSABLE = "plimsoll.source.unusable", "{item}", Counter, &[key::SOURCE], "Items in a source's answers that could not be used: names that are not known, values that make no sense. Each is logged once.";
    TAP_DROPPED = "plimsoll.tap.dropped", "{observation}", Counter, &[], "Observations that the full queue to the engine refused; totals are right all the same.";
    UNREADABLE = "plimsoll.headers.unreadable", "{header}", Counter, &[], "Limit headers that could not be read, contradicted each other or were too long.";
    UNREAD_BODIES = "plimsoll.bodies.unread", "{response}", Counter, &[], "Answers whose body could not be decoded for its usage.";
    UNMEASURED_BODIES = "plimsoll.bodies.unmeasured", "{response}", Counter, &[], "Compressed responses whose usage was not read to the end because all memory for decoders was in use. The response itself passed.";
    OVERLOADED = "plimsoll.overload.rejections", "{request}", Counter, &[], "Requests that Plimsoll answered with 503 by itself, because memory was short. They never reached the upstream.";
    MEMORY_HELD = "plimsoll.memory.used", "By", Gauge, &[], "Memory in use, as it counts against plimsoll.memory.limit: from 50 % on bodies are held back, from 65 % on new requests get 503.";
    MEMORY_LIMIT = "plimsoll.memory.limit", "By", Gauge, &[], "The memory limit: `memory_limit`, or that of the cgroup.";
    PANICS = "plimsoll.panics", "{panic}", Counter, &[], "Panics of measuring code that were caught; the traffic went on.";
    LATE = "plimsoll.observations.late", "{observation}", Counter, &[], "Observations that came too late to move a bucket.";
    FOLDED = "plimsoll.folded", "{item}", Counter, &[], "Buckets, rejections and totals that no longer fitted in the bounded tables.";
    RELOAD_OK = "plimsoll.config.last_reload.successful", "", Gauge, &[], "1 if the newest configuration was put in place, 0 if it was refused and the one before stayed.";
    RELOAD_TIME = "plimsoll.config.last_reload.success.time", "s", Gauge, &[], "Unix time at which a configuration was last put in place.";
    RELOADS = "plimsoll.config.reloads", "{reload}", Counter, &[key::OUTCOME], "Configurations by whether they were put in place.";
    ENGINE_TIME = "plimsoll.engine.published.time", "s", Gauge, &[], "Unix time at which the engine last published what it knows, as it does twice a second; while it stands still, so do all levels and alerts.";
    QUEUE = "plimsoll.queue.depth", "{observation}", Gauge, &[], "Observations in the queue to the engine.";
    EXPORTS = "plimsoll.exports", "{export}", Counter, &[key::EXPORTER, key::OUTCOME], "Exports by how they ended.";
    BUILD_INFO = "plimsoll.build.info", "", Gauge, &[key::VERSION], "The version that runs; always 1.";
}

/// A dotted name as Prometheus writes it.
pub fn escaped(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// A metric's name as Prometheus shows it.
pub fn prometheus_name(name: &str, unit: &str, counter: bool) -> String {
    let unit = unit_word(unit).map(|word| format!("_{word}")).unwrap_or_default();
    format!("{}{unit}{}", escaped(name), if counter { "_total" } else { "" })
}

impl Metric {
    /// Its name as Prometheus shows it.
    pub fn prometheus(&self) -> String {
        prometheus_name(self.name, self.unit, self.kind == Kind::Counter)
    }
}

/// The word that Prometheus has for a unit, as it stands behind a metric's name.
pub fn unit_word(unit: &str) -> Option<&'static str> {
    match unit {
        "s" => Some("seconds"),
        "1" => Some("ratio"),
        "By" => Some("bytes"),
        _ => None,
    }
}

/// A value: counters are whole, gauges may not be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number; never NaN.
    Real(f64),
}

impl Value {
    /// As a float.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }
}

/// Attributes of a point: name and value. Empty values are left out.
pub type Attributes = Vec<(&'static str, Cow<'static, str>)>;

/// One point of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What it is about; shared by the points of one bucket.
    pub attributes: Arc<Attributes>,
    /// How much.
    pub value: Value,
    /// The trace of its newest event, for an exemplar.
    pub trace: Option<Arc<str>>,
}

impl Point {
    fn new(attributes: Arc<Attributes>, value: Value) -> Self {
        Self { attributes, value, trace: None }
    }
}

/// One metric with its points.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The metric.
    pub metric: &'static Metric,
    /// Its points.
    pub points: Vec<Point>,
}

/// What is exported beside a snapshot.
#[derive(Debug)]
pub struct Facts {
    /// The configured owners; changes at a reload.
    pub owners: ArcSwap<Owners>,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// OpenTelemetry's GenAI metrics.
    pub genai: Arc<super::genai::GenAi>,
}

/// Every family that has something to say.
pub fn families(snapshot: &Snapshot, facts: &Facts) -> Vec<Family> {
    let mut out: Vec<Family> = ALL.iter().map(|metric| Family { metric, points: Vec::new() }).collect();
    let mut push = |metric: &'static Metric, point: Point| {
        if let Some(family) = out.iter_mut().find(|f| std::ptr::eq(f.metric, metric)) {
            let known = |key| metric.attributes.contains(key);
            debug_assert!(point.attributes.iter().all(|(key, _)| known(key)), "{}", metric.name);
            family.points.push(point);
        }
    };
    for bucket in &snapshot.buckets {
        bucket_points(bucket, &mut push);
    }
    rejection_points(snapshot, &mut push);
    signal_points(snapshot, &mut push);
    total_points(snapshot, &mut push);
    owner_points(snapshot, &facts.owners.load(), &mut push);
    own_points(snapshot, &facts.stats, &mut push);
    out.retain(|family| !family.points.is_empty());
    out
}

type Push<'p> = dyn FnMut(&'static Metric, Point) + 'p;

/// Attributes without those that are empty.
fn known(all: Attributes) -> Arc<Attributes> {
    Arc::new(all.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

fn bucket_points(bucket: &BucketView, push: &mut Push<'_>) {
    let attributes = known(vec![
        (key::OWNER, text(bucket.owner.id.as_str())),
        (key::OWNER_KIND, bucket.owner.kind.as_str().into()),
        (key::SURFACE, bucket.surface.as_str().into()),
        (key::LIMITER, text(bucket.limiter.as_str())),
        (key::WINDOW, bucket.window.as_str().into()),
        (key::SCOPE, bucket.scope.as_str().into()),
        (key::PROVIDER, bucket.surface.provider().into()),
        (key::MODEL, text(bucket.model.as_str())),
        (key::REGION, text(bucket.region.as_deref().unwrap_or_default())),
    ]);
    let whole = |amount: Option<Amount>| amount.map(|n| Value::Whole(n.get()));
    let moment = |at: Option<Timestamp>| at.map(|t| Value::Real(t.secs_f64()));
    let values = [
        (&LIMIT, whole(bucket.limit)),
        (&REMAINING, whole(bucket.remaining)),
        (&USED, whole(bucket.used)),
        (&REFUSED, whole(bucket.refused)),
        (&UTILIZATION, bucket.utilization.map(Value::Real)),
        (&PEAK, bucket.peak.map(Value::Real)),
        (&RUN_OUT, bucket.run_out.map(Value::Real)),
        (&EXPECTED, bucket.expected.map(Value::Real)),
        (&EXHAUSTION, bucket.empty_in.map(|d| Value::Real(d.as_secs_f64()))),
        (&RESET, moment(bucket.resets)),
        (&OBSERVED, moment(Some(bucket.observed))),
    ];
    for (metric, value) in values {
        if let Some(value) = value {
            push(metric, Point::new(attributes.clone(), value));
        }
    }
}

fn rejection_points(snapshot: &Snapshot, push: &mut Push<'_>) {
    for rejection in &snapshot.rejections {
        let key = &rejection.key;
        let attributes = known(vec![
            (key::OWNER, text(key.owner.id.as_str())),
            (key::OWNER_KIND, key.owner.kind.as_str().into()),
            (key::SURFACE, key.surface.as_str().into()),
            (key::ROUTE, text(key.route.as_str())),
            (key::LIMITER, text(key.limiter.as_ref().map_or("unknown", |l| l.as_str()))),
            (key::WINDOW, key.window.as_str().into()),
            (key::SCOPE, crate::limit::Scope::Account.as_str().into()),
            (key::VERDICT, key.class.as_str().into()),
            (key::EVIDENCE, key.rung.as_str().into()),
            (key::PROVIDER, key.surface.provider().into()),
            (key::MODEL, text(key.model.as_str())),
            (key::REGION, text(key.region.as_deref().unwrap_or_default())),
        ]);
        if let Some(at) = rejection.retry_at {
            let left: Duration = at.since(snapshot.at);
            push(&RETRY_AFTER, Point::new(attributes.clone(), Value::Real(left.as_secs_f64())));
        }
        let point = Point::new(attributes, Value::Whole(rejection.count));
        push(&REJECTIONS, Point { trace: rejection.trace.clone(), ..point });
    }
}

/// Signals of their own: a route that was changed, limit headers that are missing.
fn signal_points(snapshot: &Snapshot, push: &mut Push<'_>) {
    for ((identity, route, what), n) in &snapshot.changes {
        let attributes = known(vec![
            (key::OWNER, text(identity.owner.id.as_str())),
            (key::OWNER_KIND, identity.owner.kind.as_str().into()),
            (key::ROUTE, text(route.as_str())),
            (key::LIMITER, text(identity.limiter.as_str())),
            (key::WINDOW, identity.window.as_str().into()),
            (key::SCOPE, identity.scope.as_str().into()),
            (key::MODEL, text(identity.model.as_str())),
            (key::REGION, text(identity.region.as_deref().unwrap_or_default())),
            (key::CHANGE, what.as_str().into()),
        ]);
        push(&ROUTE_CHANGES, Point::new(attributes, Value::Whole(*n)));
    }
    for (missing, n) in &snapshot.missing {
        let attributes = known(vec![
            (key::OWNER, text(missing.owner.id.as_str())),
            (key::OWNER_KIND, missing.owner.kind.as_str().into()),
            (key::SURFACE, missing.surface.as_str().into()),
            (key::ROUTE, text(missing.route.as_str())),
            (key::PROVIDER, missing.surface.provider().into()),
            (key::HEADERS, if missing.rewritten { "rewritten" } else { "dropped" }.into()),
        ]);
        push(&HEADERS_MISSING, Point::new(attributes, Value::Whole(*n)));
    }
}

fn total_points(snapshot: &Snapshot, push: &mut Push<'_>) {
    let common = |key: &TotalsKey| -> Attributes {
        vec![
            (key::OWNER, text(key.owner.id.as_str())),
            (key::OWNER_KIND, key.owner.kind.as_str().into()),
            (key::SURFACE, key.surface.as_str().into()),
            (key::ROUTE, text(key.route.as_str())),
            (key::PROVIDER, key.surface.provider().into()),
            (key::MODEL, text(key.model.as_str())),
        ]
    };
    // Tokens are kept by status too; a metric that drops the status must sum over it.
    let mut tokens: Vec<(Attributes, [u64; 4])> = Vec::new();
    for (key, totals) in &snapshot.totals {
        let mut attributes = common(key);
        let used = [totals.input, totals.cache_write, totals.cache_read, totals.output];
        match tokens.last_mut() {
            Some((same, sums)) if *same == attributes => {
                sums.iter_mut().zip(used).for_each(|(sum, n)| *sum = sum.saturating_add(n));
            }
            _ => tokens.push((attributes.clone(), used)),
        }
        attributes.push((key::STATUS, key.status.map(|s| s.to_string()).unwrap_or_default().into()));
        push(&REQUESTS, Point::new(known(attributes), Value::Whole(totals.requests)));
    }
    for (attributes, sums) in tokens {
        for (kind, n) in ["input", "cache_write", "cache_read", "output"].into_iter().zip(sums) {
            let mut attributes = attributes.clone();
            attributes.push((key::TOKEN_TYPE, kind.into()));
            push(&TOKENS_USED, Point::new(known(attributes), Value::Whole(n)));
        }
    }
    for (key, n) in &snapshot.retries {
        push(&RETRIES, Point::new(known(common(key)), Value::Whole(*n)));
    }
    for (route, n) in &snapshot.in_flight {
        push(&IN_FLIGHT, Point::new(known(vec![(key::ROUTE, text(route.as_str()))]), Value::Whole(*n)));
    }
}

/// One row for each owner and kind that is configured or seen, so that an alert's template finds
/// the runbook by both.
fn owner_points(snapshot: &Snapshot, owners: &Owners, push: &mut Push<'_>) {
    let seen: BTreeSet<(&OwnerId, OwnerKind)> = snapshot
        .buckets
        .iter()
        .map(|b| &b.owner)
        .chain(snapshot.rejections.iter().map(|r| &r.key.owner))
        .chain(snapshot.totals.iter().map(|(key, _)| &key.owner))
        .map(|owner| (&owner.id, owner.kind))
        .collect();
    for rule in owners.iter() {
        let mut kinds: BTreeSet<OwnerKind> = rule.kinds.iter().copied().collect();
        kinds.extend(seen.iter().filter(|(id, _)| **id == rule.id).map(|(_, kind)| *kind));
        for kind in kinds {
            let attributes = vec![
                (key::OWNER, text(rule.id.as_str())),
                (key::OWNER_KIND, kind.as_str().into()),
                (key::RUNBOOK, text(rule.runbook_url.as_deref().unwrap_or_default())),
                (key::DASHBOARD, text(rule.dashboard_url.as_deref().unwrap_or_default())),
                (key::CONTACT, text(rule.contact.as_deref().unwrap_or_default())),
            ];
            push(&OWNER_INFO, Point::new(known(attributes), Value::Whole(1)));
        }
    }
}

/// A polled source; nothing before its first poll.
fn polled(name: &str, polls: &Polls, push: &mut Push<'_>) {
    let (ok, failed) = (polls.ok.get(), polls.failed.get());
    if ok + failed == 0 {
        return;
    }
    let source = || vec![(key::SOURCE, text(name))];
    push(&SOURCE_UP, Point::new(known(source()), Value::Whole(u64::from(polls.failing.get() == 0))));
    if polls.last_ok.get() > 0 {
        push(&SOURCE_TIME, Point::new(known(source()), Value::Whole(polls.last_ok.get())));
    }
    push(&POLL_TIME, Point::new(known(source()), Value::Real(polls.last_millis.get() as f64 / 1_000.0)));
    if polls.interval.get() > 0 {
        push(&INTERVAL, Point::new(known(source()), Value::Whole(polls.interval.get())));
    }
    if polls.billed.get() > 0 {
        push(&BILLED, Point::new(known(source()), Value::Whole(polls.billed.get())));
        let dollars = polls.nano_dollars.get() as f64 / 1e9;
        push(&COST, Point::new(known(source()), Value::Real(dollars)));
    }
    push(&UNUSABLE, Point::new(known(source()), Value::Whole(polls.unusable.get())));
    for (outcome, n) in [("ok", ok), ("failed", failed)] {
        let mut attributes = source();
        attributes.push((key::OUTCOME, outcome.into()));
        push(&POLLS, Point::new(known(attributes), Value::Whole(n)));
    }
}

/// A source outside of the path; `asked` is one that is polled, whose polls tell the rest.
fn fed(name: &str, feed: &Feed, asked: bool, repeated: u64, push: &mut Push<'_>) {
    let source = || vec![(key::SOURCE, text(name))];
    let outcomes = [
        ("told", feed.told.get()),
        ("repeated", repeated),
        ("skipped", feed.skipped.get()),
        ("dropped", feed.dropped.get()),
    ];
    for (outcome, n) in outcomes {
        let mut attributes = source();
        attributes.push((key::OUTCOME, outcome.into()));
        push(&TOLD, Point::new(known(attributes), Value::Whole(n)));
    }
    push(&SKEWED, Point::new(known(source()), Value::Whole(feed.skewed.get())));
    if asked {
        return;
    }
    push(&SOURCE_UP, Point::new(known(source()), Value::Whole(1 - feed.down.get().min(1))));
    if feed.last_at.get() > 0 {
        push(&SOURCE_TIME, Point::new(known(source()), Value::Whole(feed.last_at.get())));
    }
    push(&UNUSABLE, Point::new(known(source()), Value::Whole(feed.unusable.get())));
}

/// What routes did to requests; nothing of what never happened.
fn route_points(stats: &Stats, push: &mut Push<'_>) {
    for (route, counts) in stats.routes.all() {
        let websockets = [("tunnelled", &counts.websockets), ("refused", &counts.websockets_refused)];
        for (outcome, count) in websockets.into_iter().filter(|(_, count)| count.get() > 0) {
            let attributes = vec![(key::ROUTE, text(&route)), (key::OUTCOME, outcome.into())];
            push(&WEBSOCKETS, Point::new(known(attributes), Value::Whole(count.get())));
        }
        if counts.other.get() > 0 {
            let attributes = known(vec![(key::ROUTE, text(&route))]);
            push(&REQUESTS_OTHER, Point::new(attributes, Value::Whole(counts.other.get())));
        }
        for (repair, count) in [("missing_v1", &counts.missing_v1), ("doubled_v1", &counts.doubled_v1)] {
            if count.get() > 0 {
                let attributes = vec![(key::ROUTE, text(&route)), (key::REPAIR, repair.into())];
                push(&REPAIRED, Point::new(known(attributes), Value::Whole(count.get())));
            }
        }
    }
}

fn memory(stats: &Stats, push: &mut Push<'_>) {
    // Nobody looks after it where nothing runs.
    if stats.memory_limit.get() > 0 {
        push(&MEMORY_HELD, Point::new(Arc::default(), Value::Whole(stats.memory_held.get())));
        push(&MEMORY_LIMIT, Point::new(Arc::default(), Value::Whole(stats.memory_limit.get())));
    }
}

fn own_points(snapshot: &Snapshot, stats: &Stats, push: &mut Push<'_>) {
    let hop = || known(vec![(key::SOURCE, Cow::Borrowed("hop"))]);
    push(&SOURCE_UP, Point::new(hop(), Value::Whole(1)));
    if let Some(newest) = snapshot.buckets.iter().filter(|b| b.used.is_none()).map(|b| b.observed).max() {
        push(&SOURCE_TIME, Point::new(hop(), Value::Real(newest.secs_f64())));
    }
    route_points(stats, push);
    for (name, polls) in stats.sources.all() {
        polled(&name, &polls, push);
    }
    let polls = stats.sources.all();
    for (name, feed) in stats.feeds.all() {
        let asked = polls.iter().any(|(asked, _)| *asked == name);
        let repeated = snapshot.repeated.iter().find(|(source, _)| *source == name);
        fed(&name, &feed, asked, repeated.map_or(0, |(_, n)| *n), push);
    }
    for (metric, n) in [
        (&TAP_DROPPED, stats.tap_dropped.get()),
        (&UNREADABLE, stats.complaints.get()),
        (&UNREAD_BODIES, stats.unread_bodies.get()),
        (&UNMEASURED_BODIES, stats.unmeasured_bodies.get()),
        (&OVERLOADED, stats.overloaded.get()),
        (&PANICS, stats.panics.get()),
        (&LATE, snapshot.late),
        (&FOLDED, snapshot.folded),
        (&QUEUE, stats.queue_depth.get()),
    ] {
        push(metric, Point::new(Arc::default(), Value::Whole(n)));
    }
    if snapshot.at > Timestamp::default() {
        push(&ENGINE_TIME, Point::new(Arc::default(), Value::Real(snapshot.at.secs_f64())));
    }
    memory(stats, push);
    push(&RELOAD_OK, Point::new(Arc::default(), Value::Whole(1 - stats.last_reload_refused.get().min(1))));
    if stats.last_reload_at.get() > 0 {
        push(&RELOAD_TIME, Point::new(Arc::default(), Value::Whole(stats.last_reload_at.get())));
    }
    for (outcome, count) in [("applied", &stats.reloads), ("refused", &stats.reloads_refused)] {
        push(&RELOADS, Point::new(known(vec![(key::OUTCOME, outcome.into())]), Value::Whole(count.get())));
    }
    let exporters: [(&'static str, &Deliveries); 5] = [
        ("alertmanager", &stats.alertmanager),
        ("otlp_forward", &stats.forward),
        ("otlp_metrics", &stats.otlp),
        ("otlp_spans", &stats.spans),
        ("record", &stats.record),
    ];
    for (exporter, deliveries) in exporters {
        for (outcome, n) in
            [("sent", &deliveries.sent), ("failed", &deliveries.failed), ("dropped", &deliveries.dropped)]
        {
            let attributes = vec![(key::EXPORTER, exporter.into()), (key::OUTCOME, outcome.into())];
            push(&EXPORTS, Point::new(known(attributes), Value::Whole(n.get())));
        }
    }
    push(
        &BUILD_INFO,
        Point::new(known(vec![(key::VERSION, env!("CARGO_PKG_VERSION").into())]), Value::Whole(1)),
    );
}

fn text(value: &str) -> Cow<'static, str> {
    Cow::Owned(value.to_owned())
}
