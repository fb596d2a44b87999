//! Composition: makes every part and joins them. Each part owns its own `spawn`; nothing else does
//! the joining, and nothing but the commands, the demo and the tests sees this.
//!
//! A new configuration is made ready whole before anything that runs is touched: whatever cannot be
//! made refuses all of it. Then routes, owners and thresholds are swapped; connections, buckets and
//! totals stay.

mod apply;
mod asking;
pub mod last_good;
pub mod reload;

use crate::admin::Admin;
use crate::admin::incidents::{Desk, Desks};
use crate::clock::Clock;
use crate::config::Config;
use crate::dialects;
use crate::engine::task::{self, Published, Rules};
use crate::evidence::{Ids, Scrubber};
use crate::exporters::catalogue::Facts;
use crate::exporters::tap::Tap;
use crate::exporters::{alertmanager, calls, otlp, record, spans};
use crate::fingerprint;
use crate::ledger::Ledger;
use crate::observation::{Observation, Quotas};
use crate::overload::Overload;
use crate::owner::Names;
use crate::pollers::runner::{self, Schedule};
use crate::pollers::status_page::{self, StatusPage};
use crate::sources::intake::{self, Intake};
use crate::sources::proxy::decode::DecoderBudget;
use crate::sources::proxy::identify::Credentials;
use crate::sources::proxy::tap::{Meter, ReadHead};
use crate::sources::proxy::{self, Bound, Hop, Prepared, StartError};
use crate::sources::report::Reports;
use crate::sources::{self, Listening};
use crate::stats::Stats;
use crate::stop::{self, Stopper};
use arc_swap::ArcSwap;
use asking::Asking;
use last_good::Keeper;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The part of the memory limit that all open decoders together may hold: a quarter.
const DECODERS: u64 = 4;

/// What a test or the demo may put in place of the real thing.
pub struct Seams {
    /// Reads response heads.
    pub read_head: ReadHead,
    /// Looks up environment variables.
    pub env: fn(&str) -> Option<String>,
    /// Capacity of the queue to the engine.
    pub queue: usize,
    /// Where answers are recorded.
    pub record: Option<record::Recording>,
    /// A metrics port that is listening already, so that its address can stand in the configuration.
    pub admin: Option<Admin>,
    /// Go on without a part that cannot be made as configured, if it is one that the traffic can do without.
    pub lenient: bool,
    /// Memory that the process may use, whatever is configured: that of a test is shared by all tests.
    pub memory: Option<u64>,
}

impl Seams {
    /// What is recorded is read back by its headers, those of successes too.
    fn read_head(&self) -> ReadHead {
        if self.record.is_some() { dialects::read_head_to_record } else { self.read_head }
    }
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            read_head: dialects::read_head,
            env: |name| std::env::var(name).ok(),
            queue: task::QUEUE,
            record: None,
            admin: None,
            lenient: false,
            memory: None,
        }
    }
}

/// Why it could not start, or could not take a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A hop could not start.
    #[error(transparent)]
    Hop(#[from] StartError),
    /// A port could not be listened on.
    #[error("cannot listen on {address} ({what}): {source}")]
    Port {
        /// The configuration key.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// OTLP cannot be used as configured.
    #[error("OTLP export cannot start: {0}")]
    Otlp(#[from] otlp::OtlpError),
    /// Answers cannot be recorded.
    #[error("--record {}: {source}", path.display())]
    Record {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The status page cannot be read.
    #[error("evidence.status_page: {0}")]
    StatusPage(String),
    /// A quota API cannot be asked as configured.
    #[error("pollers: {0}")]
    Poller(String),
    /// A source cannot be read as configured.
    #[error("sources: {0}")]
    Source(String),
    /// The admin port could not be listened on.
    #[error(transparent)]
    Control(#[from] crate::admin::control::BindError),
    /// An Alertmanager cannot be used as configured.
    #[error("{0}")]
    Alertmanager(String),
}

/// A sidecar that runs.
pub struct Running {
    /// Address of the metrics port.
    pub metrics: SocketAddr,
    /// What the engine publishes.
    pub published: Published,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Clock,
    hops: Vec<Hop>,
    /// Where sources outside of the path listen.
    pub listening: Listening,
    intake: Intake,
    sources: Vec<JoinHandle<()>>,
    facts: Arc<Facts>,
    desk: Desks,
    tap: Tap,
    scrubber: Arc<ArcSwap<Scrubber>>,
    status: Option<JoinHandle<()>>,
    asking: Asking,
    control: Option<apply::Port>,
    names: Names,
    shared: Shared,
    rules: watch::Sender<Rules>,
    pushers: Pushers,
    draining: Stopper,
    quit: Stopper,
    engine: JoinHandle<()>,
    calls: JoinHandle<()>,
    admin: JoinHandle<()>,
    otlp: Option<otlp::Pipeline>,
    /// What is in force.
    live: Config,
    keeper: Keeper,
}

/// What every generation of the hop shares.
struct Shared {
    ledger: Arc<Ledger>,
    observations: mpsc::Sender<Observation>,
    next_id: Arc<AtomicU64>,
    read_head: ReadHead,
    decoders: DecoderBudget,
    overload: Overload,
}

impl Shared {
    fn new(
        ledger: Arc<Ledger>,
        observations: mpsc::Sender<Observation>,
        read_head: ReadHead,
        overload: Overload,
    ) -> Self {
        let decoders = usize::try_from(overload.limit() / DECODERS).unwrap_or(usize::MAX);
        let decoders = DecoderBudget::new(decoders);
        Self { ledger, observations, next_id: Arc::default(), read_head, decoders, overload }
    }
}

/// The tasks that push alerts, of one generation.
struct Pushers {
    stopper: Stopper,
    tasks: Vec<JoinHandle<()>>,
}

/// Makes and starts everything.
///
/// # Errors
/// If an address is taken, or a part cannot be made as configured. Nothing runs then.
pub async fn start(mut config: Config, mut seams: Seams) -> Result<Running, AppError> {
    let clock = Clock::system();
    let stats = Arc::new(Stats::default());
    let ((draining, drain), (quit, quitting)) = (stop::channel(), stop::channel());
    let (observations, incoming) = mpsc::channel(seams.queue);
    let (judged_tx, judged) = mpsc::channel(calls::QUEUE);
    let ledger = Arc::new(Ledger::new(config.max_totals));
    let mut faults = Faults { lenient: seams.lenient, all: Vec::new() };
    let admin = metrics_port(&config, seams.admin.take()).await?;
    let overload = Overload::watched(seams.memory.or(config.memory_limit), &stats);
    let shared = Shared::new(ledger.clone(), observations, seams.read_head(), overload);
    let meter = meter(&config, &shared, &stats, &clock);
    let hops = first_hops(&mut config, meter, &mut faults).await?;
    let (rules, rules_rx) = watch::channel(rules_of(&config));
    let (published, engine) = task::spawn(task::Parts {
        rules: rules_rx,
        observations: incoming,
        judged: judged_tx,
        ledger,
        stats: stats.clone(),
        clock: clock.clone(),
    });
    let (otlp, facts) = exports(&config, seams.env, &published, &stats, &mut faults)?;
    let pushers = first_pushers(&mut config, &published, &stats, &clock, &mut faults)?;
    let outside = outside(&config, &shared, &stats, &clock).await?;
    let (tap, scrubber) = (Tap::default(), scrubber(&config));
    let (desk, status) = desk(&config, &published, &facts, &tap, &scrubber, &clock)?;
    let listeners = listeners(&config, otlp.as_ref(), &facts, &tap, &scrubber, seams.record)?;
    let mut running = Running {
        metrics: admin.address,
        hops,
        listening: outside.listening,
        intake: outside.intake,
        sources: outside.tasks,
        calls: calls::spawn(judged, listeners),
        admin: admin.spawn(published.snapshots.clone(), facts.clone(), drain, quitting),
        facts,
        desk: Desks::new(desk),
        tap,
        scrubber,
        status,
        asking: Asking::default(),
        control: None,
        names: names(&config),
        shared,
        rules,
        published,
        stats,
        clock,
        draining,
        quit,
        engine,
        pushers,
        otlp,
        live: config,
        keeper: Keeper::default(),
    };
    running.begin(faults).await?;
    Ok(running)
}

/// What could not be made as configured, and was left out.
struct Faults {
    lenient: bool,
    all: Vec<String>,
}

impl Faults {
    /// Goes on without a part that cannot be made, where that may be.
    fn without<T>(&mut self, made: Result<T, AppError>) -> Result<Option<T>, AppError> {
        match made {
            Ok(made) => Ok(Some(made)),
            Err(error) if self.lenient => {
                self.all.push(error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The hops at the start. Where certificates or keys cannot be used, their listener does not open and their route
/// answers so.
async fn first_hops(
    config: &mut Config,
    meter: Arc<Meter>,
    faults: &mut Faults,
) -> Result<Vec<Hop>, AppError> {
    let ready = match hops(config, &meter, Vec::new()).await {
        Err(Refused { error: error @ StartError::Tls { .. }, .. }) if faults.lenient => {
            tracing::debug!(%error, "looking for every one of the kind");
            config.listeners.retain_mut(|listener| match proxy::without_faults(listener) {
                Ok(problems) => {
                    faults.all.extend(problems);
                    true
                }
                Err(problem) => {
                    faults.all.push(problem);
                    false
                }
            });
            hops(config, &meter, Vec::new()).await?
        }
        made => made?,
    };
    Ok(ready.commit(&meter)?)
}

fn first_pushers(
    config: &mut Config,
    published: &Published,
    stats: &Arc<Stats>,
    clock: &Clock,
    faults: &mut Faults,
) -> Result<Pushers, AppError> {
    if let Some(pushers) = faults.without(pushers(config, published, stats, clock))? {
        return Ok(pushers);
    }
    config.alerts.alertmanagers.clear();
    pushers(config, published, stats, clock)
}

/// Writes every answer to a file, redacted as packets are.
fn recorder(
    recording: record::Recording,
    scrubber: &Arc<ArcSwap<Scrubber>>,
    stats: &Arc<Stats>,
) -> Result<calls::Listener, AppError> {
    record::listener(&recording, scrubber.clone(), stats)
        .map_err(|source| AppError::Record { path: recording.path, source })
}

/// Names of workspaces, which pollers learn and owners are resolved by.
fn names(config: &Config) -> Names {
    let names = Names::default();
    config.owners.share(&names);
    names
}

/// The key of hashes; one of this process where none is configured.
fn fingerprint_key(config: &Config) -> &secrecy::SecretString {
    config.fingerprint_key.as_deref().unwrap_or_else(|| fingerprint::of_process())
}

fn scrubber(config: &Config) -> Arc<ArcSwap<Scrubber>> {
    Arc::new(ArcSwap::from_pointee(Scrubber::new(ids(config))))
}

/// How ids of accounts are shown.
fn ids(config: &Config) -> Ids {
    if config.evidence.hash_ids { Ids::hashed(Some(fingerprint_key(config))) } else { Ids::Kept }
}

/// What incidents are answered from, and the task that reads the status page.
fn desk(
    config: &Config,
    published: &Published,
    facts: &Arc<Facts>,
    tap: &Tap,
    scrubber: &Arc<ArcSwap<Scrubber>>,
    clock: &Clock,
) -> Result<(Desk, Option<JoinHandle<()>>), AppError> {
    let evidence = &config.evidence;
    let (mut status, mut task) = (None, None);
    if let Some(url) = &evidence.status_page {
        let page = StatusPage::new(url.clone(), published.snapshots.clone());
        let page = page.map_err(|error| AppError::StatusPage(error.to_string()))?;
        let parts = runner::Parts {
            name: "status_page".into(),
            schedule: Schedule { interval: evidence.status_interval, timeout: status_page::TIMEOUT },
            polls: facts.stats.sources.of("status_page"),
            clock: clock.clone(),
        };
        let (words, poller) = runner::spawn(page, parts);
        (status, task) = (Some(words), Some(poller));
    }
    let desk = Desk {
        tap: tap.clone(),
        snapshots: published.snapshots.clone(),
        facts: facts.clone(),
        external_url: config.external_url.clone(),
        scrubber: scrubber.clone(),
        status,
        claude_status_file: evidence.claude_status_file.clone(),
    };
    Ok((desk, task))
}

/// Who wants to know of each judged call.
fn listeners(
    config: &Config,
    otlp: Option<&otlp::Pipeline>,
    facts: &Facts,
    tap: &Tap,
    scrubber: &Arc<ArcSwap<Scrubber>>,
    record: Option<record::Recording>,
) -> Result<Vec<calls::Listener>, AppError> {
    let genai = facts.genai.clone();
    let mut listeners: Vec<calls::Listener> = vec![Box::new(move |call| genai.record(call)), tap.listener()];
    if let Some(tracers) = otlp.and_then(|pipeline| pipeline.tracers.as_ref()) {
        listeners.push(spans::listener(tracers, config.otlp.span_ratio));
    }
    listeners.extend(record.map(|recording| recorder(recording, scrubber, &facts.stats)).transpose()?);
    Ok(listeners)
}

async fn metrics_port(config: &Config, ready: Option<Admin>) -> Result<Admin, AppError> {
    match ready {
        Some(admin) => Ok(admin),
        None => bind_admin("metrics.bind", config.metrics).await,
    }
}

async fn bind_admin(what: &'static str, address: SocketAddr) -> Result<Admin, AppError> {
    Admin::bind(address).await.map_err(|source| AppError::Port { what, address, source })
}

fn meter(config: &Config, shared: &Shared, stats: &Arc<Stats>, clock: &Clock) -> Arc<Meter> {
    Arc::new(Meter {
        ledger: shared.ledger.clone(),
        observations: shared.observations.clone(),
        stats: stats.clone(),
        clock: clock.clone(),
        owners: config.owners.clone(),
        groups: config.model_groups.clone(),
        models: RwLock::default(),
        credentials: Credentials::new(Some(fingerprint_key(config)), &config.credentials),
        read_head: shared.read_head,
        next_id: shared.next_id.clone(),
        decoders: shared.decoders.clone(),
        overload: shared.overload.clone(),
    })
}

/// Sources outside of the path.
struct Outside {
    intake: Intake,
    listening: Listening,
    tasks: Vec<JoinHandle<()>>,
}

async fn outside(
    config: &Config,
    shared: &Shared,
    stats: &Arc<Stats>,
    clock: &Clock,
) -> Result<Outside, AppError> {
    let intake = Intake {
        rules: Arc::new(ArcSwap::from_pointee(intake_rules(config))),
        observations: shared.observations.downgrade(),
        stats: stats.clone(),
        clock: clock.clone(),
        read_head: shared.read_head,
        next_id: shared.next_id.clone(),
    };
    let (listening, tasks) = sources::spawn(&config.sources, &intake).await.map_err(AppError::Source)?;
    Ok(Outside { intake, listening, tasks })
}

fn intake_rules(config: &Config) -> intake::Rules {
    intake::Rules { places: config.sources.places.clone(), groups: config.model_groups.clone() }
}

/// What is exported, and the OTLP pipeline if one is configured.
fn exports(
    config: &Config,
    env: fn(&str) -> Option<String>,
    published: &Published,
    stats: &Arc<Stats>,
    faults: &mut Faults,
) -> Result<(Option<otlp::Pipeline>, Arc<Facts>), AppError> {
    let ready = faults.without(otlp::prepare(&config.otlp, &env).map_err(AppError::from))?;
    let otlp = ready.flatten().map(|ready| ready.start(stats));
    let genai = otlp::Pipeline::genai(otlp.as_ref(), config.otlp.semconv);
    let owners = ArcSwap::from(config.owners.clone());
    let facts = Arc::new(Facts { owners, stats: stats.clone(), genai });
    if let Some(pipeline) = &otlp {
        pipeline.observe(published.snapshots.clone(), facts.clone());
    }
    Ok((otlp, facts))
}

/// Limits that the configuration states go the way of those that are polled.
async fn tell_configured(config: &Config, shared: &Shared, clock: &Clock) {
    let told = Arc::new(Quotas::of("config".into(), clock.now(), config.quotas.clone()));
    if shared.observations.send(Observation::Quotas(told)).await.is_err() {
        tracing::error!("the engine is gone");
    }
}

fn rules_of(config: &Config) -> Rules {
    Rules {
        owners: config.owners.clone(),
        thresholds: config.thresholds,
        limits: config.book,
        counting: config.counting.clone(),
        // Reports may be posted to the admin port without any configuration; the first one is found among the latest calls.
        reports: config.sources.is_any() || !config.pollers.gateways.is_empty(),
    }
}

fn note_reload(stats: &Stats, clock: &Clock) {
    stats.reloads.up();
    stats.last_reload_refused.set(0);
    stats.last_reload_at.set(u64::try_from(clock.now().micros() / 1_000_000).unwrap_or(0));
}

/// The hops of a configuration, made ready but not in place.
struct Hops {
    kept: Vec<(Hop, Prepared)>,
    new: Vec<(Bound, Prepared)>,
    /// Hops that the configuration no longer has.
    gone: Vec<Hop>,
}

/// Why hops could not be made ready; the running ones are given back untouched.
struct Refused {
    error: StartError,
    running: Vec<Hop>,
}

impl From<Refused> for AppError {
    fn from(refused: Refused) -> Self {
        refused.error.into()
    }
}

/// Makes the hops of a configuration ready: certificates read, ports bound.
async fn hops(config: &Config, meter: &Arc<Meter>, mut running: Vec<Hop>) -> Result<Hops, Refused> {
    let mut prepared = Vec::new();
    let mut taken: Vec<usize> = Vec::new();
    for listener in &config.listeners {
        let same =
            (0..running.len()).find(|at| running[*at].configured == listener.bind && !taken.contains(at));
        taken.extend(same);
        let made = proxy::prepare(listener, meter, same.map(|at| &running[at]));
        let bound = match (&made, same) {
            (Ok(_), None) => proxy::bind(listener.bind).await.map(Some),
            _ => Ok(None),
        };
        match (made, bound) {
            (Ok(made), Ok(bound)) => prepared.push((same, bound, made)),
            (Err(error), _) | (_, Err(error)) => return Err(Refused { error, running }),
        }
    }
    let mut slots: Vec<Option<Hop>> = running.drain(..).map(Some).collect();
    let mut hops = Hops { kept: Vec::new(), new: Vec::new(), gone: Vec::new() };
    for (same, bound, made) in prepared {
        match (same.and_then(|at| slots[at].take()), bound) {
            (Some(hop), _) => hops.kept.push((hop, made)),
            (None, Some(bound)) => hops.new.push((bound, made)),
            (None, None) => {}
        }
    }
    hops.gone = slots.into_iter().flatten().collect();
    Ok(hops)
}

impl Hops {
    /// Puts them in place; hops that are gone drain by themselves.
    fn commit(self, meter: &Arc<Meter>) -> Result<Vec<Hop>, StartError> {
        let mut hops = Vec::new();
        for (hop, prepared) in self.kept {
            hop.swap(prepared);
            hops.push(hop);
        }
        for (bound, prepared) in self.new {
            hops.push(Hop::start(bound, prepared)?);
        }
        for hop in self.gone {
            tracing::info!(address = %hop.address, "listener is gone; draining it");
            tokio::spawn(hop.drain());
        }
        let routes: Vec<_> = hops.iter().flat_map(Hop::routes).collect();
        meter.ledger.keep_routes(&routes);
        meter.stats.routes.keep(&routes.iter().map(|route| route.as_str()).collect::<Vec<_>>());
        Ok(hops)
    }
}

fn pushers(
    config: &Config,
    published: &Published,
    stats: &Arc<Stats>,
    clock: &Clock,
) -> Result<Pushers, AppError> {
    let writer = alertmanager::Writer {
        alerts: config.alerts.clone(),
        owners: config.owners.clone(),
        external_url: config.external_url.clone(),
    };
    let (stopper, stop) = stop::channel();
    let parts = alertmanager::Parts {
        writer,
        alerts: published.alerts.clone(),
        stats: stats.clone(),
        clock: clock.clone(),
        stop,
        resolve: alertmanager::system_resolver(),
    };
    Ok(Pushers { stopper, tasks: alertmanager::spawn(&parts).map_err(AppError::Alertmanager)? })
}

/// How long the engine may take to empty its queue at the end.
const SETTLE: Duration = Duration::from_secs(2);

impl Running {
    /// Addresses of the hop, in the order of the configuration.
    pub fn hops(&self) -> Vec<SocketAddr> {
        self.hops.iter().map(|hop| hop.address).collect()
    }

    /// What incidents are answered from.
    pub fn desk(&self) -> Desks {
        self.desk.clone()
    }

    /// The way in for reports by HTTP.
    pub fn reports(&self) -> Reports {
        Reports::new(&self.intake)
    }

    /// Stops taking connections, lets calls in flight end, sends the last exports, ends.
    pub async fn shutdown(self) {
        self.draining.stop();
        for task in self.status.iter().chain(&self.sources) {
            task.abort();
        }
        drop(self.asking);
        let drains: Vec<_> = self.hops.into_iter().map(|hop| tokio::spawn(hop.drain())).collect();
        for drain in drains {
            log_panic("a hop", drain.await);
        }
        // The engine ends with the last sender. Senders of calls that outlived the drain keep the
        // queue open; they are not waited for.
        drop((self.shared, self.intake));
        for (what, task) in [("the engine", self.engine), ("the span exporter", self.calls)] {
            settle(what, task).await;
        }
        if let Some(otlp) = self.otlp {
            otlp.shutdown().await;
        }
        self.pushers.stopper.stop();
        self.quit.stop();
        for task in self.pushers.tasks.into_iter().chain([self.admin]) {
            settle("an exporter", task).await;
        }
        drop(self.control);
    }
}

/// Waits for a task's end, but not for long.
async fn settle(what: &str, task: JoinHandle<()>) {
    match tokio::time::timeout(SETTLE, task).await {
        Ok(ended) => log_panic(what, ended),
        Err(_) => tracing::warn!(what, "did not end in time"),
    }
}

fn log_panic(what: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(what, %error, "ended by a panic");
    }
}
