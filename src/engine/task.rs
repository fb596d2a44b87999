//! The engine's only shell: takes observations from a queue, lets time pass, publishes what it
//! knows. A panic in the pure part is caught, counted, and costs one observation.

use super::alert::{Alert, Thresholds};
use super::book::{Book, BookLimits, Judged};
use super::incident::{Attempt, Incident};
use super::incidents::Turn;
use super::local::LocalRules;
use super::reports::Settled;
use super::snapshot::Snapshot;
use crate::clock::{Clock, Step};
use crate::ledger::Ledger;
use crate::observation::Observation;
use crate::owner::Owners;
use crate::stats::Stats;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

/// How often alerts are evaluated without an observation (a second would cost foresight).
pub const TICK: Duration = Duration::from_millis(200);
/// How often a snapshot is published at most.
const PUBLISH: Duration = Duration::from_millis(500);
/// How long observations gather before the next are taken. Far below what an alert's delay is made
/// of, far above what a wake-up costs.
const GATHER: Duration = Duration::from_millis(10);
/// Observations taken from the queue at once.
const BATCH: usize = 256;

/// Capacity of the queue to the engine.
pub const QUEUE: usize = 8_192;

/// What the engine publishes.
#[derive(Clone, Debug)]
pub struct Published {
    /// The newest snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The alerts that are up; changes the moment one begins or ends.
    pub alerts: watch::Receiver<Arc<Vec<Alert>>>,
}

/// What a configuration gives the engine.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Who holds which limits.
    pub owners: Arc<Owners>,
    /// When alerts begin and end.
    pub thresholds: Thresholds,
    /// Bounds of the book.
    pub limits: BookLimits,
    /// How calls to clouds are counted.
    pub counting: LocalRules,
    /// Others than the hop tell of calls, too.
    pub reports: bool,
}

/// What the engine runs with.
pub struct Parts {
    /// The configuration; changes at a reload.
    pub rules: watch::Receiver<Rules>,
    /// Where observations come from.
    pub observations: mpsc::Receiver<Observation>,
    /// Where judged calls go.
    pub judged: mpsc::Sender<Judged>,
    /// Totals that the hop keeps.
    pub ledger: Arc<Ledger>,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Clock,
}

/// Starts the engine; it ends when the last sender of observations is gone.
pub fn spawn(parts: Parts) -> (Published, tokio::task::JoinHandle<()>) {
    let (snapshot_tx, snapshots) = watch::channel(Arc::new(Snapshot::default()));
    let (alert_tx, alerts) = watch::channel(Arc::new(Vec::new()));
    let rules = parts.rules.borrow().clone();
    let mut book = Book::new(rules.owners, rules.thresholds, rules.limits);
    book.count_by(rules.counting);
    if rules.reports {
        book.expect_reports();
    }
    let engine = Engine { book, parts, snapshot_tx, alert_tx, alerts_version: 0, published: None };
    (Published { snapshots, alerts }, tokio::spawn(engine.run()))
}

/// What came of an observation.
enum Told {
    Nothing,
    Judged(Box<Judged>),
    Settled(Settled),
}

struct Engine {
    book: Book,
    parts: Parts,
    snapshot_tx: watch::Sender<Arc<Snapshot>>,
    alert_tx: watch::Sender<Arc<Vec<Alert>>>,
    alerts_version: u64,
    published: Option<tokio::time::Instant>,
}

impl Engine {
    async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = self.parts.observations.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    self.take_all(&mut batch);
                    // Nobody waits here, so that what comes meanwhile wakes no thread: at load one
                    // wake-up pays for many observations, and the hop keeps its cores.
                    tokio::time::sleep(GATHER).await;
                }
                _ = ticks.tick() => {
                    self.tick();
                }
                Ok(()) = self.parts.rules.changed() => {
                    let Rules { owners, thresholds, limits, counting, reports } =
                        self.parts.rules.borrow_and_update().clone();
                    if reports {
                        self.book.expect_reports();
                    }
                    self.book.count_by(counting);
                    self.book.reconfigure(owners, thresholds, limits);
                }
            }
            self.publish_alerts();
            self.publish_snapshot(false);
        }
        self.publish_alerts();
        self.publish_snapshot(true);
    }

    /// Takes what was taken from the queue, and what else is in it.
    fn take_all(&mut self, batch: &mut Vec<Observation>) {
        for observation in batch.drain(..) {
            self.take(observation);
        }
        for _ in 0..QUEUE {
            match self.parts.observations.try_recv() {
                Ok(observation) => self.take(observation),
                Err(_) => break,
            }
        }
    }

    fn take(&mut self, mut observation: Observation) {
        // Nothing comes from the future, unless the clock was set back meanwhile.
        let now = self.parts.clock.now();
        observation.not_after(now);
        let book = &mut self.book;
        let told = catch_unwind(AssertUnwindSafe(|| match observation {
            Observation::Start(start) => {
                book.start(&start);
                Told::Nothing
            }
            Observation::Head(head) => {
                book.head(&head);
                Told::Nothing
            }
            Observation::End(end) => Told::Judged(Box::new(book.end(end))),
            Observation::Report(report) => book.report(report, now).map_or(Told::Nothing, Told::Settled),
            Observation::Quotas(told) => {
                book.quotas(&told, now);
                Told::Nothing
            }
        }));
        for (turn, incident) in self.book.take_turns() {
            log_turn(turn, &incident);
        }
        match told {
            Ok(Told::Judged(judged)) => self.hand_on(*judged),
            Ok(Told::Settled(settled)) => self.settle(settled),
            Ok(Told::Nothing) => {}
            Err(_) => self.parts.stats.panics.up(),
        }
    }

    /// A call that no hop has counted.
    fn settle(&self, settled: Settled) {
        let Settled { key, counts, usage, judged } = settled;
        if counts {
            self.parts.ledger.settle_told(key, usage);
        } else if let Some(usage) = usage {
            self.parts.ledger.add_tokens(key, usage);
        }
        if let Some(judged) = judged {
            self.hand_on(*judged);
        }
    }

    fn hand_on(&self, judged: Judged) {
        if let Some(verdict) = &judged.verdict {
            tracing::info!(
                route = %judged.end.call.route,
                status = judged.end.status,
                verdict = verdict.class.as_str(),
                owner = %judged.owner.id,
                owner_kind = judged.owner.kind.as_str(),
                limiter = verdict.limiter.as_ref().map(|l| l.as_str()),
                evidence = verdict.rule.rung.as_str(),
                rule = verdict.rule.id,
                request_id = judged.end.limits.request_id.as_deref(),
                "call failed"
            );
        }
        if self.parts.judged.try_send(judged).is_err() {
            self.parts.stats.spans.dropped.up();
        }
    }

    fn tick(&mut self) {
        // What was told by the clock as it was is taken before that changes.
        let mut waiting = Vec::new();
        self.take_all(&mut waiting);
        match self.parts.clock.adopt_step() {
            Step::None => {}
            Step::Forward(by) => tracing::warn!(seconds = by.as_secs(), "the system clock went forward"),
            Step::Back(by) => {
                tracing::warn!(
                    seconds = by.as_secs(),
                    "the system clock was set back; what is known moves with it"
                );
                self.book.set_back(by);
            }
        }
        self.parts.stats.queue_depth.set(self.parts.observations.len() as u64);
        let now = self.parts.clock.now();
        let book = &mut self.book;
        let due = catch_unwind(AssertUnwindSafe(|| {
            book.tick(now);
            std::iter::from_fn(|| book.due(now)).collect::<Vec<_>>()
        }));
        match due {
            Ok(due) => due.into_iter().for_each(|settled| self.settle(settled)),
            Err(_) => self.parts.stats.panics.up(),
        }
        for (turn, incident) in self.book.take_turns() {
            log_turn(turn, &incident);
        }
    }

    fn publish_alerts(&mut self) {
        let version = self.book.alerts_version();
        if version == self.alerts_version {
            return;
        }
        self.alerts_version = version;
        let alerts = Arc::new(self.book.alerts(self.parts.clock.now()));
        let before = self.alert_tx.send_replace(alerts.clone());
        log_changes(&before, &alerts);
    }

    fn publish_snapshot(&mut self, now: bool) {
        if !now && self.published.is_some_and(|at| at.elapsed() < PUBLISH) {
            return;
        }
        self.published = Some(tokio::time::Instant::now());
        let ledger = &self.parts.ledger;
        let mut snapshot = self.book.snapshot(self.parts.clock.now());
        snapshot.told = ledger.told();
        snapshot.totals = ledger.read();
        snapshot.in_flight = ledger.in_flight();
        snapshot.folded = snapshot.folded.saturating_add(ledger.folded());
        self.snapshot_tx.send_replace(Arc::new(snapshot));
    }
}

/// Three lines of an incident are its record: last success and first failure when it begins, current
/// failure when the same route has failed again. The rest says what becomes of it.
fn log_turn(turn: Turn, incident: &Incident) {
    let Incident { id, route, .. } = incident;
    let attempt = |what: &str, attempt: &Attempt| tracing::warn!(incident = %id, %route, "{what}: {attempt}");
    match turn {
        Turn::Opened => {
            match &incident.last_success {
                Some(success) => attempt("last success", success),
                None => tracing::warn!(incident = %id, %route, "last success: none was seen"),
            }
            attempt("first failure", &incident.first);
        }
        Turn::FailedAgain => attempt("current failure", &incident.current),
        Turn::Changed => {
            if let Some(change) = incident.changes.last() {
                let what = change.what.as_str();
                tracing::warn!(incident = %id, %route, what, from = change.from, to = change.to, "route changed during an incident");
            }
        }
        Turn::Eased => tracing::info!(incident = %id, %route, "a smaller call passed: eased, not over"),
        Turn::Over => {
            let why = incident.over.map(|(_, over)| over.as_str()).unwrap_or_default();
            tracing::info!(incident = %id, %route, attempts = incident.attempts, "incident is over: {why}");
        }
    }
}

fn log_changes(before: &[Alert], after: &[Alert]) {
    let same = |a: &Alert, b: &Alert| a.name == b.name && a.identity == b.identity;
    let log = |alert: &Alert, what: &str| {
        tracing::warn!(
            alert = alert.name.as_str(),
            owner = %alert.identity.owner.id,
            owner_kind = alert.identity.owner.kind.as_str(),
            limiter = alert.identity.limiter.as_str(),
            model = alert.identity.model.as_str(),
            route = %alert.route,
            "{what}"
        );
    };
    for alert in after.iter().filter(|a| !before.iter().any(|b| same(a, b))) {
        log(alert, "alert began");
    }
    for alert in before.iter().filter(|b| !after.iter().any(|a| same(a, b))) {
        log(alert, "alert ended");
    }
}
