//! Receives OTLP: spans, logs and metrics that applications, Claude Code and Envoy export already.
//!
//! `wire` and `json` read the two encodings in place, `read` tells which of it is a call to a model, `receive` has the
//! ports, and `forward` sends everything on to a collector, unchanged.

pub mod forward;
pub mod item;
pub mod json;
pub mod read;
pub mod receive;
pub mod wire;

use super::intake::Intake;
use crate::config::sources::Receiver as Config;
use receive::Receiver;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Claude Code's metric of tokens.
pub const TOKENS: &str = "claude_code.token.usage";
/// The event that Claude Code's span has for each attempt.
pub const ATTEMPT: &str = "gen_ai.request.attempt";

/// Starts receiving on the ports that are there.
///
/// # Errors
/// If the client of the collector cannot be made.
pub fn spawn(
    config: &Config,
    grpc: Option<TcpListener>,
    http: Option<TcpListener>,
    intake: &Intake,
) -> Result<Vec<JoinHandle<()>>, String> {
    if grpc.is_none() && http.is_none() {
        return Ok(Vec::new());
    }
    let mut tasks = Vec::new();
    let mut forward = None;
    if let Some(config) = &config.forward {
        let (forwarder, task) = forward::spawn(config, &intake.stats)?;
        forward = Some(forwarder);
        tasks.push(task);
    }
    let receiver = Receiver::new(intake.teller("otlp"), config.token.as_deref().cloned(), forward);
    tasks.push(tokio::spawn(receiver.clone().tell_what_waits()));
    tasks.extend(grpc.map(|listener| tokio::spawn(receive::grpc(listener, receiver.clone()))));
    tasks.extend(http.map(|listener| tokio::spawn(receive::http(listener, receiver))));
    Ok(tasks)
}

#[cfg(test)]
mod tests;
