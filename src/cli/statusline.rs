//! `plimsoll statusline`: what Claude Code runs to draw its status line. Reads its JSON, prints one short line, and tells the
//! sidecar how full the plan's windows are.
//!
//! Claude Code runs it at every turn and waits for it: so it says what it can in a few milliseconds, and a sidecar
//! that is not there, or is slow, costs a fraction of a second and no error. Nothing else of the JSON goes anywhere.

use super::ask::{Admin, AdminArg};
use super::{ConfigArg, load, print, say};
use crate::claude_code::{StatusLine, WindowLine};
use crate::clock::Clock;
use crate::limit::Timestamp;
use crate::outgoing::{self, Redirects};
use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

/// Flags of `statusline`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    admin: AdminArg,
    /// The route to which the windows belong, as `sources.routes` names it.
    #[arg(long)]
    route: Option<String>,
    /// Only print; tell nobody.
    #[arg(long)]
    quiet: bool,
}

const EXAMPLES: &str = "In Claude Code's settings (~/.claude/settings.json):
  {\"statusLine\": {\"type\": \"command\", \"command\": \"plimsoll statusline\"}}

It prints, for example:  5h 92% (full again in 1h12m) · 7d 41%
Plans only: an API key has no windows, and then the line is empty.";

/// Longest JSON that is read.
const MAX_INPUT: u64 = 1 << 20;
/// How long the sidecar may take.
const TIMEOUT: Duration = Duration::from_millis(250);

pub(super) fn main(args: &Args) -> ExitCode {
    if std::io::stdin().is_terminal() {
        say("Claude Code's JSON is read from standard input; see `plimsoll statusline --help`.");
        return ExitCode::from(2);
    }
    let mut text = Vec::new();
    if let Err(error) = std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut text) {
        say(&format!("standard input cannot be read: {error}"));
        return ExitCode::FAILURE;
    }
    let line: StatusLine = match serde_json::from_slice(&text) {
        Ok(line) => line,
        Err(error) => {
            say(&format!("not the JSON of a status line: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let now = Clock::system().now();
    print(&shown(&line, now));
    if !args.quiet {
        tell(args, &line, now);
    }
    ExitCode::SUCCESS
}

/// The line: each window with its used part, and when it is full again where that matters.
fn shown(line: &StatusLine, now: Timestamp) -> String {
    let short = |name: &str| match name {
        "five_hour" => "5h".to_owned(),
        "seven_day" => "7d".to_owned(),
        other => other.replace("seven_day_", "7d ").replace('_', " "),
    };
    let window = |name: &String, window: &WindowLine| {
        let used = window.used_percentage.filter(|used| used.is_finite())?;
        let resets = window.resets_at.map(Timestamp::from_secs_f64).filter(|at| *at > now && used >= 80.0);
        let wait = resets.map(|at| format!(" (full again in {})", wait(at.since(now)))).unwrap_or_default();
        let mark = if used >= 100.0 { "!" } else { "" };
        Some(format!("{} {}%{mark}{wait}", short(name), used.round()))
    };
    let windows = line.rate_limits.iter().filter_map(|(name, w)| window(name, w.as_ref()?));
    windows.collect::<Vec<_>>().join(" · ")
}

fn wait(span: Duration) -> String {
    let minutes = span.as_secs().div_ceil(60);
    match (minutes / 1_440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    }
}

/// Tells the sidecar. What goes wrong with it is nothing that a status line should speak of.
fn tell(args: &Args, line: &StatusLine, now: Timestamp) {
    let Some(seen) = line.seen(now) else { return };
    let Ok(config) = load(args.config.config.as_deref()) else { return };
    let admin = Admin::of(&args.admin, &config);
    let headers: serde_json::Map<String, serde_json::Value> = seen
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.into())))
        .collect();
    let report = serde_json::json!({
        "t": now.secs_f64(), "call": false, "status": 200, "surface": "claude_code_plan",
        "route": args.route, "headers": headers,
    });
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let client = outgoing::client(Redirects::Refused).timeout(TIMEOUT).no_proxy().build();
        let Ok(client) = client else { return };
        let request = admin.request(&client, reqwest::Method::POST, "/v1/observations").json(&report);
        drop(request.send().await);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_short_and_says_when_room_comes_back() {
        let now = Timestamp::from_secs(1_795_000_000);
        let json = r#"{"rate_limits":{"five_hour":{"used_percentage":91.6,"resets_at":1795004320},
            "seven_day":{"used_percentage":41.2,"resets_at":1795400000},"seven_day_opus":{"used_percentage":104,"resets_at":1795200000}}}"#;
        let line: StatusLine = serde_json::from_str(json).unwrap();
        assert_eq!(
            shown(&line, now),
            "5h 92% (full again in 1h12m) · 7d 41% · 7d opus 104%! (full again in 2d7h)"
        );
        assert_eq!(shown(&serde_json::from_str("{}").unwrap(), now), "");
        assert_eq!(wait(Duration::from_secs(61)), "2m");
    }
}
