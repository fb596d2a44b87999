//! `plimsoll evidence`: the packet of an incident, asked of a running sidecar's admin port.

use super::ask::{self, Admin, AdminArg};
use super::{ConfigArg, print};
use crate::outgoing::{self, Redirects};
use clap::ValueEnum;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::process::ExitCode;
use std::time::Duration;

/// Flags of `evidence`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// List the incidents that are known.
    #[arg(long)]
    list: bool,
    /// This incident; without it, the newest one that is open.
    #[arg(long, value_name = "ID")]
    incident: Option<String>,
    /// Only incidents of this owner.
    #[arg(long)]
    owner: Option<String>,
    /// How the packet is written.
    #[arg(long, value_enum, default_value = "md")]
    format: Format,
    #[command(flatten)]
    admin: AdminArg,
}

#[derive(Clone, Copy, Debug, ValueEnum, PartialEq, Eq)]
enum Format {
    /// Markdown, to paste into a ticket.
    Md,
    /// JSON.
    Json,
}

const EXAMPLES: &str = "Examples:
  plimsoll evidence                      the newest open incident, as Markdown
  plimsoll evidence --list
  plimsoll evidence --owner search --format json

A packet says NOT READY, and what is missing, until a retry on the same route has failed again.
It holds no key, token, prompt or person. A token for the admin port is taken from the configuration.";

const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn main(args: &Args) -> ExitCode {
    ask::run(&args.config, &args.admin, async |admin| {
        print(ask(args, &admin).await?.trim_end());
        Ok(())
    })
}

async fn ask(args: &Args, admin: &Admin) -> Result<String, String> {
    let path = if args.list { "/v1/incidents" } else { "/v1/evidence" };
    let mut query: Vec<String> = Vec::new();
    for (name, value) in [("incident", &args.incident), ("owner", &args.owner)] {
        let value = value.as_deref().map(|v| utf8_percent_encode(v, NON_ALPHANUMERIC).to_string());
        query.extend(value.map(|value| format!("{name}={value}")));
    }
    query.push(format!("format={}", if args.format == Format::Json { "json" } else { "md" }));
    let client = outgoing::client(Redirects::FollowedByReads)
        .timeout(TIMEOUT)
        .no_proxy()
        .build()
        .map_err(|e| e.to_string())?;
    let answer = admin.get(&client, &format!("{path}?{}", query.join("&"))).await?;
    answer.text().await.map_err(|error| admin.gone(error))
}
