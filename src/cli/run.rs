//! `plimsoll run`: the sidecar, until it is told to stop.

use super::{ConfigArg, LogFormat, load, runtime, say, start_logging};
use crate::admin::control::{Control, Requests};
use crate::app::reload::Reloader;
use crate::app::{self, Running, Seams};
use crate::config::Config;
use crate::exporters::record::Recording;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a configuration: the hop on http://127.0.0.1:8429 to https://api.anthropic.com,
metrics, health and runbooks on http://127.0.0.1:9429, the admin port on http://127.0.0.1:9430.

SIGTERM and SIGINT drain; a second one ends at once. SIGHUP, a change of the file, and
POST /-/reload on the admin port put a new configuration in place, or none of it."
)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text", env = "PLIMSOLL_LOG_FORMAT")]
    log_format: LogFormat,
    /// Write every answer to this file, redacted, for `plimsoll replay --responses`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Size of that file, in MB; one before it is kept.
    #[arg(long, value_name = "MB", default_value = "256", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    record_max_mb: u64,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let path = args.config.config.as_deref();
    let config = match load(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let recording = args
        .record
        .clone()
        .map(|path| Recording { path, max_bytes: args.record_max_mb.saturating_mul(1 << 20) });
    let _log = start_logging(args.log_format, "info");
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(run(config, path, recording));
            // Tasks that a dead peer holds up must not hold up the end.
            runtime.shutdown_background();
            code
        }
        Err(code) => code,
    }
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// The word to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

async fn run(config: Config, path: Option<&Path>, record: Option<Recording>) -> ExitCode {
    let failed = |what: &dyn std::fmt::Display| {
        say(&what.to_string());
        ExitCode::FAILURE
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("signals cannot be received: {error}")),
    };
    let (admin, routes) = (config.admin.clone(), routes(&config));
    let mut running = match app::start(config, Seams { record, ..Seams::default() }).await {
        Ok(running) => running,
        Err(error) => return failed(&error),
    };
    let (mut reloader, requests) = match path {
        Some(path) => {
            let (reloader, requests) = Reloader::new(path, |name| std::env::var(name).ok());
            (Some(reloader), Some(requests))
        }
        None => (None, None),
    };
    let reports = running.reports();
    let take = Arc::new(move |body: &Bytes| reports.answer(body));
    let control = match Control::bind(admin, requests.clone(), Some(running.desk()), Some(take)).await {
        Ok(control) => control,
        Err(error) => return failed(&error),
    };
    announce(&running, control.address, &routes);
    let control = tokio::spawn(control.serve());
    serve(&mut running, &mut reloader, requests, &mut signals).await;
    tracing::info!("draining");
    drop(reloader);
    let code = tokio::select! {
        () = running.shutdown() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        () = signals.stop() => ExitCode::FAILURE,
    };
    control.abort();
    code
}

fn routes(config: &Config) -> Vec<String> {
    config.routes().map(|r| format!("{} -> {}", r.name, r.upstream)).collect()
}

fn announce(running: &Running, control: std::net::SocketAddr, routes: &[String]) {
    for address in running.hops() {
        tracing::info!(%address, "hop listens");
    }
    for (what, address) in running.listening.all() {
        tracing::info!(%address, "{what} is received");
    }
    tracing::info!(address = %running.metrics, "metrics, health and runbooks");
    tracing::info!(address = %control, "admin port");
    tracing::info!(?routes, "ready");
}

/// Until the word to stop: reloads as they are asked for.
async fn serve(
    running: &mut Running,
    reloader: &mut Option<Reloader>,
    requests: Option<Requests>,
    signals: &mut Signals,
) {
    let Signals { term, int, hup } = signals;
    let reloads = async {
        match reloader {
            Some(reloader) => reloader.run(running).await,
            None => std::future::pending().await,
        }
    };
    let hangups = async {
        while hup.recv().await.is_some() {
            match &requests {
                // The reloader logs what came of it.
                Some(requests) => drop(requests.reload().await),
                None => tracing::warn!("SIGHUP: there is no configuration file to reload"),
            }
        }
    };
    tokio::select! {
        () = reloads => {}
        () = hangups => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
