//! `plimsoll diff`: what a command sends through a proxy, compared with what it sends without.

use super::{print, runtime, say};
use crate::clients;
use crate::diff::{self, Plan, Report};
use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Flags of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ANTHROPIC_API_KEY=sk-ant-x plimsoll diff -- claude -p hi
  plimsoll diff --first-party -- claude -p hi           with Claude Code's own switch
  plimsoll diff --via http://127.0.0.1:4000 --listen 127.0.0.1:9100 -- python app.py

The command runs twice against a fake provider on loopback: as if nothing were set, and through Plimsoll or the gateway
that --via names, whose upstream must be the address of --listen. No request leaves this machine, so any key will do.
The fake is every host by HTTPS; that is done for programs in Node, Python, Bun and curl.

Exit code 0 if nothing differs, 1 if something does, 2 if there was nothing to compare.")]
pub(super) struct Args {
    /// Another proxy or gateway; Plimsoll itself, if none is named.
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    /// Where the fake provider listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The client that the command is, where its name does not tell (`plimsoll env --list`).
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    /// Set Claude Code's own switch that makes it treat the base URL as Anthropic's.
    #[arg(long)]
    first_party: bool,
    /// How many calls the fake rejects with 429 first, so that retries are seen.
    #[arg(long, value_name = "CALLS", default_value_t = 1)]
    reject: usize,
    /// Seconds that one run may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const NOTHING: u8 = 2;

pub(super) fn main(args: &Args) -> ExitCode {
    let program = args.command.first().map(|program| program.to_string_lossy().into_owned());
    let name = args.client.clone().or(program).unwrap_or_default();
    let client = clients::of_program(&name);
    if client.is_none() && args.client.is_some() {
        say(&format!("`{name}` is no known client; `plimsoll env --list` names them"));
        return ExitCode::from(NOTHING);
    }
    let plan = Plan {
        command: args.command.clone(),
        client,
        via: args.via.clone(),
        listen: args.listen,
        first_party: args.first_party,
        reject: args.reject,
        timeout: Duration::from_secs(args.timeout),
        env: Vec::new(),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let outcome = runtime.block_on(diff::run(&plan));
    runtime.shutdown_background();
    match outcome {
        Ok(report) => {
            let json = || serde_json::to_string_pretty(&report).unwrap_or_default();
            print(&if args.json { json() } else { text(&report, args.via.as_deref()) });
            ExitCode::from(u8::from(!report.differences.is_empty()))
        }
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(NOTHING)
        }
    }
}

fn text(report: &Report, via: Option<&str>) -> String {
    let through = via.unwrap_or("Plimsoll");
    let mut out = format!(
        "straight: {} calls to a model; through {through}: {}\n",
        report.straight_calls, report.through_calls
    );
    if report.differences.is_empty() {
        out.push_str("Nothing differs.");
        return out;
    }
    for difference in &report.differences {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
        let what = serde_json::to_value(difference.what).unwrap_or_default();
        // Writing to a string cannot fail.
        let written = write!(
            out,
            "\n{} {}\n  straight  {}\n  through   {}\n  costs     {}\n",
            what.as_str().unwrap_or_default(),
            difference.name,
            shown(&difference.straight),
            shown(&difference.through),
            difference.costs
        );
        debug_assert!(written.is_ok());
    }
    out.truncate(out.trim_end().len());
    out
}
