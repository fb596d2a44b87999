//! `plimsoll run`: the sidecar, until it is told to stop.

use super::{ConfigArg, LogFormat, load, runtime, say, start_logging};
use crate::app::{self, Seams};
use crate::config::Config;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Flags of `run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a configuration: the hop on http://127.0.0.1:8429 to https://api.anthropic.com,
metrics, health and runbooks on http://127.0.0.1:9429. SIGTERM and SIGINT drain; a second one ends at once."
)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text", env = "PLIMSOLL_LOG_FORMAT")]
    log_format: LogFormat,
}

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    start_logging(args.log_format, "info");
    match runtime() {
        Ok(runtime) => {
            let code = runtime.block_on(run(config));
            // Tasks that a dead peer holds up must not hold up the end.
            runtime.shutdown_background();
            code
        }
        Err(code) => code,
    }
}

async fn run(config: Config) -> ExitCode {
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            say(&format!("signals cannot be received: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let routes: Vec<String> = config.routes().map(|r| format!("{} -> {}", r.name, r.upstream)).collect();
    let running = match app::start(config, Seams::default()).await {
        Ok(running) => running,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    for address in &running.hops {
        tracing::info!(%address, "hop listens");
    }
    tracing::info!(address = %running.metrics, "metrics, health and runbooks");
    tracing::info!(?routes, "ready");
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("draining");
    tokio::select! {
        () = running.shutdown() => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        _ = term.recv() => ExitCode::FAILURE,
        _ = int.recv() => ExitCode::FAILURE,
    }
}
