//! `plimsoll check`: finds mistakes before they run, and says what the configuration means.

use super::{ConfigArg, load, print};
use crate::config::Config;
use std::fmt::Write;
use std::process::ExitCode;

/// Flags of `check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 78 if the configuration cannot be used; every problem is named with line and column."
)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn main(args: &Args) -> ExitCode {
    match load(args.config.config.as_deref()) {
        Ok(config) => {
            print(summary(&config).trim_end());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn summary(config: &Config) -> String {
    let mut out = String::from("The configuration is valid.\n");
    // Writing to a string cannot fail.
    let mut line = |text: String| writeln!(out, "{text}").is_ok();
    for listener in &config.listeners {
        for route in &listener.routes {
            let prefix = if route.prefix.is_empty() { "/" } else { &route.prefix };
            let surface = route.surface.map_or("told from the traffic", |s| s.as_str());
            line(format!(
                "  route {}: {}{prefix} -> {} (surface: {surface})",
                route.name, listener.bind, route.upstream
            ));
        }
    }
    line(format!("  metrics, health and runbooks: http://{}/", config.metrics));
    let owners: Vec<&str> = config.owners.iter().map(|o| o.id.as_str()).collect();
    line(match owners.is_empty() {
        true => "  owners: none; every owner will be `unnamed`. Name yours under `owners:`.".to_owned(),
        false => format!("  owners, first match wins: {}", owners.join(", ")),
    });
    let urls: Vec<&str> = config.alerts.alertmanagers.iter().map(|a| a.url.as_str()).collect();
    line(match urls.is_empty() {
        true => "  direct alerts: none; the rules of `plimsoll rules` alert by /metrics.".to_owned(),
        false => format!("  direct alerts to {}", urls.join(", ")),
    });
    if config.external_url.is_none() && !urls.is_empty() {
        line("  note: without `external_url` alerts link to the public runbooks.".to_owned());
    }
    out
}
