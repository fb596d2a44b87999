//! `plimsoll replay`: the alerts tried on a trace, a scenario or one's own responses, before anybody is
//! paged; scored beside the rules of today.

use super::{ConfigArg, load, print, say};
use crate::config::Config;
use crate::replay::provider::Arrival;
use crate::replay::responses::{self, Replayed, Setting};
use crate::replay::scenario::Scenario;
use crate::replay::score::Scores;
use crate::replay::{Report, Source, backtest, plot, report, simulate, trace};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// CSV with TIMESTAMP, ContextTokens and GeneratedTokens.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["scenario", "responses", "report", "sweep"])]
    trace: Option<PathBuf>,
    /// Synthetic traffic instead of a trace.
    #[arg(long, value_enum, conflicts_with_all = ["trace", "responses", "report", "sweep"])]
    scenario: Option<Scenario>,
    /// Recorded responses, one JSON object a line (`plimsoll run --record` writes them); - is stdin.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "plot", "report", "sweep"])]
    responses: Option<PathBuf>,
    /// Capacity per minute as a multiple of the trace's mean.
    #[arg(long, value_name = "F", default_value = "1.0", value_parser = factor)]
    limit_factor: f64,
    /// Varies the provider and the arrivals; 0 takes a trace as it is.
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Refused calls come again, after the wait that was asked.
    #[arg(long)]
    retry: bool,
    /// The trade-off of the two knobs, horizon and caution, over the scenarios and the trace.
    #[arg(long)]
    sweep: bool,
    /// The whole proof in Markdown: every case, both baselines, an oracle, the trade-off.
    #[arg(long)]
    report: bool,
    /// Seeds of --sweep and --report.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,2,3,4,5")]
    seeds: Vec<u64>,
    /// Write a plot (SVG): of the run, or of the trade-off.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// JSON: one object with scores, or one line for each alert.
    #[arg(long, conflicts_with_all = ["report", "sweep"])]
    json: bool,
}

const EXAMPLES: &str = "Examples:
  plimsoll replay --responses week.jsonl               when would I have been paged?
  plimsoll replay --scenario step --plot step.svg
  plimsoll replay --trace arrivals.csv --limit-factor 1.25 --seed 3 --json
  plimsoll replay --sweep --seeds 1,2                  what the two knobs trade
  plimsoll replay --report --trace arrivals.csv > docs/foresight.md

A simulated provider meters a trace or scenario by token buckets; the engine sees what the hop would see. Recall is
the share of first 429s that an alert announced so many seconds ahead; precision the share of alerts that came
true; false time the share of calm time with an alert up. Owners and knobs are those of the configuration.";

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "a number is needed".to_owned())?;
    if (0.01..=1_000.0).contains(&factor) { Ok(factor) } else { Err("use 0.01 to 1000".to_owned()) }
}

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let done = match (&args.responses, args.report || args.sweep) {
        (Some(path), _) => of_responses(path, &config, args.json),
        (None, true) => of_cases(args, &config),
        (None, false) => of_run(args, &config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

fn broken(path: &Path, count: usize, first: Option<&(usize, String)>) {
    if let Some((line, problem)) = first {
        say(&format!("{}: {count} lines are left out; line {line}: {problem}", path.display()));
    }
}

fn read_trace(path: &Path) -> Result<Vec<Arrival>, String> {
    let of = |problem: String| format!("{}: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| of(format!("cannot be read: {error}")))?;
    let trace = trace::read(&text).map_err(of)?;
    broken(path, trace.broken, trace.first_broken.as_ref());
    Ok(trace.arrivals)
}

fn write_plot(path: &Path, svg: &str) -> Result<(), String> {
    std::fs::write(path, svg).map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}

/// One trace or scenario.
fn of_run(args: &Args, config: &Config) -> Result<(), String> {
    let arrivals = args.trace.as_deref().map(read_trace).transpose()?.unwrap_or_default();
    let (source, title) = match args.scenario {
        Some(scenario) => (Source::Scenario(scenario), format!("{}, seed {}", scenario.as_str(), args.seed)),
        None => {
            let title = format!("trace, factor {}, seed {}", args.limit_factor, args.seed);
            (Source::Trace(&arrivals, args.limit_factor), title)
        }
    };
    let run = simulate(source, args.seed, args.retry);
    if let Some(path) = &args.plot {
        write_plot(path, &plot::timeline(&title, &run, config.thresholds))?;
    }
    let report = backtest(source, &run, args.seed, config.thresholds);
    if args.json {
        print(&serde_json::to_string(&report).map_err(|error| error.to_string())?);
    } else {
        print(&for_people(&title, &report));
    }
    Ok(())
}

/// The scenarios and the trace together: the trade-off, or the whole proof.
fn of_cases(args: &Args, config: &Config) -> Result<(), String> {
    let trace = args.trace.as_deref().map(read_trace).transpose()?;
    say(&format!("simulating {} seeds", args.seeds.len()));
    let cases = report::cases(trace.as_deref(), &args.seeds);
    let points = report::sweep(&cases, config.thresholds, |done, all| {
        say(&format!("knobs: {done} of {all} settings, {} cases each", cases.len()));
    });
    if let Some(path) = &args.plot {
        write_plot(path, &plot::frontier(&points))?;
    }
    if args.report {
        let seeds: Vec<String> = args.seeds.iter().map(u64::to_string).collect();
        let proof = report::prove(&cases, config.thresholds);
        print(report::page(&proof, &points, &seeds.join(", ")).trim_end());
    } else {
        print(&report::sweep_table(&points));
    }
    Ok(())
}

/// Recorded responses.
fn of_responses(path: &Path, config: &Config, json: bool) -> Result<(), String> {
    let setting = Setting {
        owners: config.owners.clone(),
        thresholds: config.thresholds,
        limits: config.book,
        groups: config.model_groups.clone(),
    };
    let failed = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    let replayed = if path == Path::new("-") {
        responses::replay(&mut std::io::stdin().lock(), &setting)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        responses::replay(&mut std::io::BufReader::new(file), &setting)
    }
    .map_err(failed)?;
    broken(path, replayed.broken, replayed.first_broken.as_ref());
    if replayed.out_of_order > 0 {
        say(&format!("{}: {} lines stand after a later one", path.display(), replayed.out_of_order));
    }
    if json {
        alerts(&replayed).for_each(|alert| print(&alert.to_string()));
    } else {
        print(&alerts_for_people(&replayed));
    }
    Ok(())
}

/// Alerts as the contract gives them.
fn alerts(replayed: &Replayed) -> impl Iterator<Item = serde_json::Value> {
    replayed.raised.iter().map(|raised| {
        serde_json::json!({
            "alert": raised.name.as_str(),
            "severity": raised.name.severity().as_str(),
            "owner": raised.identity.owner.id.as_str(),
            "owner_kind": raised.identity.owner.kind.as_str(),
            "limiter": raised.identity.limiter.as_str(),
            "starts_at": raised.from.secs_f64(),
            "ends_at": raised.to.map(|at| at.secs_f64()),
        })
    })
}

fn alerts_for_people(replayed: &Replayed) -> String {
    let mut lines = vec![format!(
        "{} responses, {} of them 429; {} alerts",
        replayed.responses,
        replayed.refused,
        replayed.raised.len()
    )];
    lines.extend(replayed.raised.iter().map(|raised| {
        let lasted = raised.to.map(|to| to.since(raised.from).as_secs_f64());
        format!(
            "{}  {:>7}  {:<8} {:<24} {} ({}), {}",
            raised.from.rfc3339(),
            lasted.map_or_else(|| "still up".to_owned(), |secs| format!("{secs:.0} s")),
            raised.name.severity().as_str(),
            raised.name.as_str(),
            raised.identity.owner.id.as_str(),
            raised.identity.owner.kind.as_str(),
            raised.identity.limiter,
        )
    }));
    lines.join("\n")
}

fn for_people(title: &str, report: &Report) -> String {
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
        "{title}: {} calls, {} refused, {episodes} first 429s\n\n{:<26}{:>6}{:>6}{:>6}{:>6}{:>9}{:>11}{:>12}\n{}",
        report.requests,
        report.rejected,
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
