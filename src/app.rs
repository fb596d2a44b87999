//! Composition: makes every part and joins them. Each part owns its own `spawn`; nothing else does
//! the joining, and nothing but the binary and the tests sees this.

use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::dialects;
use crate::engine::Book;
use crate::engine::task::{self, Published};
use crate::exporters::catalogue::Facts;
use crate::exporters::{alertmanager, otlp, spans};
use crate::ledger::Ledger;
use crate::sources::proxy::identify::Credentials;
use crate::sources::proxy::tap::{Meter, ReadHead};
use crate::sources::proxy::{Hop, StartError};
use crate::stats::Stats;
use crate::stop::{self, Stop, Stopper};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What a test or the demo may put in place of the real thing.
pub struct Seams {
    /// Reads response heads.
    pub read_head: ReadHead,
    /// Looks up environment variables.
    pub env: fn(&str) -> Option<String>,
    /// Capacity of the queue to the engine.
    pub queue: usize,
    /// A metrics port that is listening already, so that its address can stand in the configuration.
    pub admin: Option<Admin>,
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            read_head: dialects::read_head,
            env: |name| std::env::var(name).ok(),
            queue: task::QUEUE,
            admin: None,
        }
    }
}

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A hop could not start.
    #[error(transparent)]
    Hop(#[from] StartError),
    /// The metrics port could not be listened on.
    #[error("cannot listen on {address} (metrics.bind): {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// OTLP cannot be used as configured.
    #[error("OTLP export cannot start: {0}")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    /// An Alertmanager cannot be used as configured.
    #[error("{0}")]
    Alertmanager(String),
}

/// A sidecar that runs.
pub struct Running {
    /// Addresses of the hop, in the order of the configuration.
    pub hops: Vec<SocketAddr>,
    /// Address of the metrics port.
    pub metrics: SocketAddr,
    /// What the engine publishes.
    pub published: Published,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Clock,
    drain: Stopper,
    quit: Stopper,
    hop_tasks: Vec<JoinHandle<()>>,
    engine: JoinHandle<()>,
    spans: JoinHandle<()>,
    pushers: Vec<JoinHandle<()>>,
    admin: JoinHandle<()>,
    otlp: Option<otlp::Pipeline>,
}

/// Makes and starts everything.
///
/// # Errors
/// If an address is taken, or a part cannot be made as configured. Nothing runs then.
pub async fn start(config: Config, mut seams: Seams) -> Result<Running, AppError> {
    let clock = Clock::system();
    let stats = Arc::new(Stats::default());
    let (drain, draining) = stop::channel();
    let (quit, quitting) = stop::channel();
    let (observations, incoming) = mpsc::channel(seams.queue);
    let (judged_tx, judged) = mpsc::channel(spans::QUEUE);
    let ledger = Arc::new(Ledger::new(config.routes().map(|r| r.name.clone()), config.max_totals));
    let admin = match seams.admin.take() {
        Some(admin) => admin,
        None => Admin::bind(config.metrics)
            .await
            .map_err(|source| AppError::Admin { address: config.metrics, source })?,
    };
    let meter = meter(&config, &seams, ledger.clone(), observations, stats.clone(), clock.clone());
    let mut hops = Vec::new();
    for listener in &config.listeners {
        hops.push(Hop::bind(listener, meter.clone()).await?);
    }
    drop(meter);
    let parts = task::Parts {
        book: Book::new(config.owners.clone(), config.thresholds, config.book),
        observations: incoming,
        judged: judged_tx,
        ledger,
        stats: stats.clone(),
        clock: clock.clone(),
    };
    let (published, engine) = task::spawn(parts);
    let facts = Arc::new(Facts { owners: config.owners.clone(), stats: stats.clone() });
    let otlp = if otlp::is_configured(&config.otlp, &seams.env) {
        Some(otlp::start(&config.otlp, published.snapshots.clone(), facts.clone())?)
    } else {
        None
    };
    let tracers = otlp.as_ref().map(|pipeline| pipeline.tracers.clone());
    let pushers = pushers(&config, &published, &stats, &clock, &quitting)?;
    Ok(Running {
        metrics: admin.address,
        hops: hops.iter().map(|hop| hop.address).collect(),
        hop_tasks: hops.into_iter().map(|hop| hop.spawn(draining.clone())).collect(),
        spans: spans::spawn(judged, tracers, config.otlp.span_ratio),
        admin: admin.spawn(published.snapshots.clone(), facts, clock.clone(), draining, quitting),
        published,
        stats,
        clock,
        drain,
        quit,
        engine,
        pushers,
        otlp,
    })
}

fn meter(
    config: &Config,
    seams: &Seams,
    ledger: Arc<Ledger>,
    observations: mpsc::Sender<crate::observation::Observation>,
    stats: Arc<Stats>,
    clock: Clock,
) -> Arc<Meter> {
    Arc::new(Meter {
        ledger,
        observations,
        stats,
        clock,
        owners: config.owners.clone(),
        groups: config.model_groups.clone(),
        credentials: Credentials::new(config.fingerprint_key.as_ref(), &config.credentials),
        read_head: seams.read_head,
        next_id: AtomicU64::new(1),
    })
}

fn pushers(
    config: &Config,
    published: &Published,
    stats: &Arc<Stats>,
    clock: &Clock,
    stop: &Stop,
) -> Result<Vec<JoinHandle<()>>, AppError> {
    let writer = alertmanager::Writer {
        alerts: config.alerts.clone(),
        owners: config.owners.clone(),
        external_url: config.external_url.clone(),
    };
    let parts = alertmanager::Parts {
        writer,
        alerts: published.alerts.clone(),
        stats: stats.clone(),
        clock: clock.clone(),
        stop: stop.clone(),
    };
    alertmanager::spawn(&parts).map_err(AppError::Alertmanager)
}

/// How long the engine may take to empty its queue at the end.
const SETTLE: Duration = Duration::from_secs(3);

impl Running {
    /// Stops taking connections, lets calls in flight end, sends the last exports, ends.
    pub async fn shutdown(self) {
        self.drain.stop();
        for hop in self.hop_tasks {
            log_panic("a hop", hop.await);
        }
        // Senders of calls that outlived the drain keep the queue open; they are not waited for.
        for (what, task) in [("the engine", self.engine), ("the span exporter", self.spans)] {
            match tokio::time::timeout(SETTLE, task).await {
                Ok(ended) => log_panic(what, ended),
                Err(_) => tracing::warn!(what, "did not end in time"),
            }
        }
        if let Some(otlp) = self.otlp {
            otlp.shutdown().await;
        }
        self.quit.stop();
        for task in self.pushers.into_iter().chain([self.admin]) {
            log_panic("an exporter", task.await);
        }
    }
}

fn log_panic(what: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(what, %error, "ended by a panic");
    }
}
