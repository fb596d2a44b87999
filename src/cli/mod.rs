//! The command line: one file a subcommand. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 a
//! configuration that cannot be used (`EX_CONFIG`).

mod ask;
mod check;
mod dashboards;
mod demo;
mod diff;
#[cfg(test)]
#[cfg(feature = "top")]
mod documented;
mod env;
mod evidence;
mod exec;
mod explain;
mod replay;
mod rules;
mod run;
mod schema;
mod statusline;
mod tap;
#[cfg(feature = "top")]
mod top;

use crate::config::Config;
use crate::files;
use clap::{Parser, Subcommand, ValueEnum};
use std::any::Any;
use std::io::IsTerminal;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// A configuration that cannot be used.
const EX_CONFIG: u8 = 78;

/// Tells teams that run LLM traffic whose rate limit they are about to hit, before the 429.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  plimsoll demo                              see an alert come before the 429; needs nothing
  plimsoll run                               hop on 127.0.0.1:8429 to the Anthropic API
  plimsoll exec -- claude                    send Claude Code through it
  plimsoll env                               the variables for every client, and what each loses
  plimsoll check --config plimsoll.yaml      find mistakes before they run
  pbpaste | plimsoll explain                 whose limit was it?
  plimsoll evidence                          what support needs, without secrets
  plimsoll top                               owners and their limits, live
  plimsoll tap                               calls and verdicts, as they pass

Settings: --config FILE or PLIMSOLL_CONFIG; PLIMSOLL_LOG sets the log level (info).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar.
    Run(run::Args),
    /// Check a configuration and say what it means.
    Check(check::Args),
    /// Print the variables that send clients through the proxy, with what each costs.
    Env(env::Args),
    /// Run one command through the proxy.
    Exec(exec::Args),
    /// Compare what a command sends through a proxy with what it sends without.
    Diff(diff::Args),
    /// Say whose limit refused a response.
    Explain(explain::Args),
    /// Print the evidence packet of an incident.
    Evidence(evidence::Args),
    /// Show an alert that comes before the 429, with traffic and provider of its own.
    Demo(demo::Args),
    /// Try the alerts on a recorded trace, before anybody is paged.
    Replay(replay::Args),
    /// Print the Prometheus rules for your label names.
    Rules(rules::Args),
    /// Print Grafana's dashboards, or write them into a folder.
    Dashboards(dashboards::Args),
    /// Print the JSON Schema of the configuration.
    Schema(schema::Args),
    /// Show owners and their limits, live in the terminal.
    #[cfg(feature = "top")]
    Top(top::Args),
    /// Show calls and verdicts as they pass.
    Tap(tap::Args),
    /// Claude Code's status line: pressure on your plan, told to the sidecar too.
    Statusline(statusline::Args),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, ValueEnum, PartialEq, Eq)]
enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Runs the command line; returns the exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| say(&panic_line(panic.location(), panic.payload()))));
    let cli = Cli::parse();
    match cli.command {
        Command::Run(args) => run::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Env(args) => env::main(&args),
        Command::Exec(args) => exec::main(&args),
        Command::Diff(args) => diff::main(&args),
        Command::Explain(args) => explain::main(&args),
        Command::Evidence(args) => evidence::main(&args),
        Command::Demo(args) => demo::main(&args),
        Command::Replay(args) => replay::main(&args),
        Command::Rules(args) => rules::main(&args),
        Command::Dashboards(args) => dashboards::main(&args),
        Command::Schema(args) => schema::main(&args),
        #[cfg(feature = "top")]
        Command::Top(args) => top::main(&args),
        Command::Tap(args) => tap::main(&args),
        Command::Statusline(args) => statusline::main(&args),
    }
}

/// What is said of a panic: its place, and its message only where that is a literal of ours. A formatted
/// one can quote what was being read (a string that was cut in the wrong place, say).
fn panic_line(place: Option<&Location<'_>>, payload: &(dyn Any + Send)) -> String {
    let place = place.map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match payload.downcast_ref::<&'static str>() {
        Some(literal) => format!("panicked at {place}: {literal}"),
        None => format!("panicked at {place}"),
    }
}

/// Reads and checks the configuration, or the defaults where no file is named.
fn load(path: Option<&Path>) -> Result<Config, ExitCode> {
    let Some(path) = path else { return Ok(Config::defaults()) };
    let config = partly(path);
    if config.unread.is_empty() {
        return Ok(config);
    }
    for problem in &config.unread {
        say(&format!("{}: {problem}", path.display()));
    }
    Err(ExitCode::from(EX_CONFIG))
}

/// Reads what is whole of the configuration; what is wrong is in `unread`.
fn partly(path: &Path) -> Config {
    let name = path.display().to_string();
    match files::read_once(path, files::CONFIG) {
        Ok(text) => Config::partly(&text, &|name| std::env::var(name).ok(), &name),
        Err(error) => Config::unreadable(&error.to_string(), &name),
    }
}

/// Starts logging, to standard error, through a queue that drops lines when nobody reads: a stalled
/// log reader must not stall the traffic. The guard writes out what is left when it is dropped.
fn start_logging(format: LogFormat, default: &str) -> tracing_appender::non_blocking::WorkerGuard {
    let filter = EnvFilter::try_from_env("PLIMSOLL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    // Who asks for the SDK by name wants to hear it.
    let asked = std::env::var("PLIMSOLL_LOG").is_ok_and(|levels| levels.contains("opentelemetry"));
    let of_export = filter_fn(move |meta| asked || !is_of_an_export(meta.target(), meta.name()));
    let queue = tracing_appender::non_blocking::NonBlockingBuilder::default();
    let (writer, guard) =
        queue.buffered_lines_limit(LOG_QUEUE).lossy(true).finish(Visible(std::io::stderr()));
    let log = tracing_subscriber::fmt::layer().with_writer(writer).with_target(false);
    let log = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => log.json().boxed(),
    };
    let log = log.with_filter(of_export).with_filter(filter);
    let started = tracing_subscriber::registry().with(log).try_init();
    if let Err(error) = started {
        say(&format!("logging could not start: {error}"));
    }
    guard
}

/// Writes lines without what is not seen in them, whatever was logged.
struct Visible<W>(W);

impl<W: std::io::Write> std::io::Write for Visible<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if line.is_ascii() {
            return self.0.write(line);
        }
        // A line comes whole, as the queue took it.
        self.0.write_all(crate::text::visible(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// What OpenTelemetry's SDK says of each export that fails, several lines for one: the exporters say it once.
fn is_of_an_export(target: &str, name: &str) -> bool {
    let failed = ["Export.Failed", "ExportError", "ExportFailed", "NetworkError", "StatusError", "Throttled"];
    target.starts_with("opentelemetry") && failed.iter().any(|word| name.contains(word))
}

/// Log lines that may wait for their reader.
const LOG_QUEUE: usize = 8_192;

/// A runtime with at least two workers: the OTLP exporter blocks one while it shuts down.
fn runtime() -> Result<tokio::runtime::Runtime, ExitCode> {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().map_err(
        |error| {
            say(&format!("the runtime could not start: {error}"));
            ExitCode::FAILURE
        },
    )
}

/// Says something to the person at the terminal. Nobody there to hear it is no reason to fail.
fn say(text: &str) {
    write_line(&mut std::io::stderr().lock(), text);
}

/// Prints a result. A reader that has seen enough (`| head`) is no reason to fail either.
fn print(text: &str) {
    write_line(&mut std::io::stdout().lock(), text);
}

fn write_line(out: &mut impl std::io::Write, text: &str) {
    // Where this cannot be written, neither can a complaint about it.
    writeln!(out, "{text}").unwrap_or_default();
}

/// The flag that names the configuration file.
#[derive(Debug, clap::Args)]
struct ConfigArg {
    /// Configuration file (YAML), or `-` for standard input. Without one the defaults run.
    #[arg(long, short, env = "PLIMSOLL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_where_and_quotes_nothing() {
        let quoting = format!("byte index 3 is not a char boundary; it is inside {:?}", "the prompt");
        let line = panic_line(Some(Location::caller()), &quoting);
        assert!(line.contains("src/cli/mod.rs") && !line.contains("prompt"), "{line}");
        assert!(panic_line(None, &"a literal").ends_with("a literal"));
    }
}
