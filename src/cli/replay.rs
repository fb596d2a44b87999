//! `plimsoll replay`: the alerts tried on a recorded trace, scored beside the rules of today.

use super::{ConfigArg, load, print, say};
use crate::replay::score::Scores;
use crate::replay::{Report, backtest, trace};
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// CSV with TIMESTAMP, ContextTokens and GeneratedTokens.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Capacity per minute as a multiple of the trace's mean.
    #[arg(long, value_name = "F", default_value = "1.0", value_parser = factor)]
    limit_factor: f64,
    /// Varies the provider and the arrivals; 0 takes them as they are.
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Refused calls come again, after the wait that was asked.
    #[arg(long)]
    retry: bool,
    /// One object in JSON.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  plimsoll replay --trace arrivals.csv --limit-factor 1.1
  plimsoll replay --trace arrivals.csv --limit-factor 1.25 --seed 3 --json

A simulated provider meters the trace by token buckets; the engine sees what the hop would see. Recall is the
share of first 429s that an alert announced so many seconds ahead; precision the share of alerts that came
true; false time the share of calm time with an alert up. The thresholds are those of the configuration.";

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "a number is needed".to_owned())?;
    if (0.01..=1_000.0).contains(&factor) { Ok(factor) } else { Err("use 0.01 to 1000".to_owned()) }
}

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let failed = |problem: String| {
        say(&format!("{}: {problem}", args.trace.display()));
        ExitCode::FAILURE
    };
    let text = match std::fs::read_to_string(&args.trace) {
        Ok(text) => text,
        Err(error) => return failed(format!("cannot be read: {error}")),
    };
    let trace = match trace::read(&text) {
        Ok(trace) => trace,
        Err(problem) => return failed(problem),
    };
    if let Some((line, problem)) = &trace.first_broken {
        say(&format!("{} lines are left out; line {line}: {problem}", trace.broken));
    }
    let report = backtest(&trace.arrivals, args.limit_factor, args.seed, args.retry, config.thresholds);
    if args.json {
        match serde_json::to_string(&report) {
            Ok(text) => print(&text),
            Err(error) => return failed(error.to_string()),
        }
    } else {
        print(&for_people(&report));
    }
    ExitCode::SUCCESS
}

fn for_people(report: &Report) -> String {
    let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
    let row = |(name, s): (&&str, &Scores)| {
        format!(
            "{name:<26}{:>6}{:>6}{:>6}{:>6}{:>9}{:>11}{:>12}",
            share(s.recall_1s),
            share(s.recall_5s),
            share(s.recall_10s),
            share(s.recall_30s),
            s.median_lead_s.map_or_else(|| "-".to_owned(), |lead| format!("{lead:.1} s")),
            share(s.precision),
            s.false_time.map_or_else(|| "-".to_owned(), |v| format!("{:.1} %", v * 100.0)),
        )
    };
    let episodes = report.policies.values().map(|scores| scores.episodes).next().unwrap_or(0);
    let rows: Vec<String> = report.policies.iter().map(row).collect();
    format!(
        "{} calls, {} refused, {episodes} first 429s (limit factor {}, seed {})\n\n{:<26}{:>6}{:>6}{:>6}{:>6}{:>9}{:>11}{:>12}\n{}",
        report.requests,
        report.rejected,
        report.limit_factor,
        report.seed,
        "recall at",
        "1 s",
        "5 s",
        "10 s",
        "30 s",
        "lead",
        "precision",
        "false time",
        rows.join("\n")
    )
}
