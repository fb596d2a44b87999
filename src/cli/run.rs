//! `plimsoll run`: the sidecar, until it is told to stop.

use super::{ConfigArg, LogFormat, load, runtime, say, start_logging};
use crate::admin::control::Requests;
use crate::app::reload::Reloader;
use crate::app::{self, Running, Seams, last_good};
use crate::config::Config;
use crate::exporters::record::Recording;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a configuration: the hop on http://127.0.0.1:8429 to https://api.anthropic.com,
metrics, health and runbooks on http://127.0.0.1:9429, the admin port on http://127.0.0.1:9430.

A configuration that cannot be used keeps no workload from starting: the last good one runs, where `state_dir` keeps
one, else what of the file is whole; a route that is not answers 503. With --strict it ends with exit code 78.

SIGTERM and SIGINT drain; a second one ends at once. SIGHUP, a change of the file, and
POST /-/reload on the admin port put a new configuration in place, or none of it."
)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// End with exit code 78 if the configuration cannot be used, and with 1 if a part cannot be made as it says.
    #[arg(long)]
    strict: bool,
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
    let (config, instead) = match path {
        Some(path) if !args.strict => usable(path),
        _ => match load(path) {
            Ok(config) => (config, None),
            Err(code) => return code,
        },
    };
    // Standard input cannot be read again.
    let path = path.filter(|path| *path != Path::new("-"));
    let recording = args
        .record
        .clone()
        .map(|path| Recording { path, max_bytes: args.record_max_mb.saturating_mul(1 << 20) });
    let _log = start_logging(args.log_format, "info");
    if let Some(instead) = instead {
        tracing::error!("{instead}");
    }
    let seams = Seams { record: recording, lenient: !args.strict, ..Seams::default() };
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(run(config, path, seams));
            // Tasks that a dead peer holds up must not hold up the end.
            runtime.shutdown_background();
            code
        }
        Err(code) => code,
    }
}

/// Problems that one log line names.
const NAMED: usize = 8;

/// A configuration that can run: the file's, or the last good one, or what of the file is whole. With what is to be
/// said of it, if it is not the file's.
fn usable(path: &Path) -> (Config, Option<String>) {
    let config = super::partly(path);
    if config.unread.is_empty() {
        return (config, None);
    }
    let named: Vec<String> = config.unread.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match config.unread.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; {more} more, see `plimsoll check`"),
    };
    let kept = config.state_dir.as_deref().and_then(|dir| Some((dir, last_good::read(dir).ok()?)));
    let last = kept
        .and_then(|(dir, text)| Some((dir, Config::parse(&text, &|name| std::env::var(name).ok()).ok()?)));
    let runs = match &last {
        Some((dir, _)) => format!("the last good one runs, {}", last_good::path(dir).display()),
        None => "only what of it is whole runs, and a route that is not answers 503".to_owned(),
    };
    let said =
        format!("{}: the configuration cannot be used; {runs}: {}{more}", path.display(), named.join("; "));
    let config = match last {
        Some((_, last)) => Config { unread: config.unread, ..last },
        None => config,
    };
    (config, Some(said))
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

async fn run(config: Config, path: Option<&Path>, seams: Seams) -> ExitCode {
    let failed = |what: &dyn std::fmt::Display| {
        say(&what.to_string());
        ExitCode::FAILURE
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return failed(&format!("signals cannot be received: {error}")),
    };
    let routes = routes(&config);
    let mut running = match app::start(config, seams).await {
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
    let control = match running.open_control(requests.clone()).await {
        Ok(control) => control,
        Err(error) => return failed(&error),
    };
    announce(&running, control, &routes);
    serve(&mut running, &mut reloader, requests, &mut signals).await;
    tracing::info!("draining");
    drop(reloader);
    tokio::select! {
        () = running.shutdown() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        () = signals.stop() => ExitCode::FAILURE,
    }
}

fn routes(config: &Config) -> Vec<String> {
    config.routes().map(|r| format!("{} -> {}", r.name, r.upstream)).collect()
}

fn announce(running: &Running, control: Option<std::net::SocketAddr>, routes: &[String]) {
    for address in running.hops() {
        tracing::info!(%address, "hop listens");
    }
    for (what, address) in running.listening.all() {
        tracing::info!(%address, "{what} is received");
    }
    tracing::info!(address = %running.metrics, "metrics, health and runbooks");
    match control {
        Some(address) => tracing::info!(%address, "admin port"),
        None => tracing::warn!("the admin port does not open: what guards it cannot be read"),
    }
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
