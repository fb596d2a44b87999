//! `plimsoll tap`: calls and verdicts as they pass, asked of a running sidecar's admin port.

use super::ask::{self, Admin, AdminArg};
use super::{ConfigArg, print, say};
use crate::outgoing::{self, Redirects};
use crate::text::clean;
use serde_json::Value;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

/// Flags of `tap`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Only calls of this route.
    #[arg(long)]
    route: Option<String>,
    /// Only calls of this owner.
    #[arg(long)]
    owner: Option<String>,
    /// Only failures with this verdict (`anthropic_workspace`, `burst`, …); `any` for all of them.
    #[arg(long)]
    verdict: Option<String>,
    /// One JSON object a line, as it comes.
    #[arg(long)]
    json: bool,
    /// End after so many lines.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    #[command(flatten)]
    admin: AdminArg,
}

const EXAMPLES: &str = "Examples:
  plimsoll tap                                  every call, as it ends
  plimsoll tap --verdict any --owner search     what search is refused, and whose limit it was
  plimsoll tap --json | jq .limits              the numbers

It shows no prompt, no answer, no error's text and no key. A token is taken from the configuration, or from PLIMSOLL_ADMIN_TOKEN.";

/// How long the sidecar may take to answer at all.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest line that is read.
const MAX_LINE: usize = 1 << 20;

pub(super) fn main(args: &Args) -> ExitCode {
    ask::run(&args.config, &args.admin, async |admin| follow(args, &admin).await)
}

async fn follow(args: &Args, admin: &Admin) -> Result<(), String> {
    let client = outgoing::client(Redirects::FollowedByReads).connect_timeout(CONNECT).no_proxy().build();
    let mut answer = admin.get(&client.map_err(|error| error.to_string())?, "/v1/tap").await?;
    if !args.json && std::io::stderr().is_terminal() {
        say("calls as they end; Ctrl-C stops");
    }
    let colour = std::io::stdout().is_terminal();
    let (mut rest, mut shown) = (Vec::new(), 0);
    while let Some(part) = answer.chunk().await.map_err(|error| admin.gone(error))? {
        rest.extend_from_slice(&part);
        while let Some(end) = memchr::memchr(b'\n', &rest) {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let Some(text) = wanted(args, &line, colour) else { continue };
            print(&text);
            shown += 1;
            if args.count == Some(shown) {
                return Ok(());
            }
        }
        if rest.len() > MAX_LINE {
            return Err("a line of more than 1 MB: that is no tap".to_owned());
        }
    }
    Ok(())
}

/// A line as it is shown, if it is wanted.
fn wanted(args: &Args, line: &[u8], colour: bool) -> Option<String> {
    let call: Value = serde_json::from_slice(line).ok()?;
    if let Some(missed) = call["missed"].as_u64() {
        return Some(format!("… {missed} calls were missed: they came faster than this reads"));
    }
    let is = |wanted: &Option<String>, name: &str| {
        wanted.as_deref().is_none_or(|wanted| call[name].as_str() == Some(wanted))
    };
    let class = call["verdict"]["class"].as_str();
    let verdict = match args.verdict.as_deref() {
        None => true,
        Some("any") => class.is_some(),
        wanted => class == wanted,
    };
    if !is(&args.route, "route") || !is(&args.owner, "owner") || !verdict {
        return None;
    }
    Some(if args.json { call.to_string() } else { shown(&call, colour) })
}

/// A call on one line for a person.
fn shown(call: &Value, colour: bool) -> String {
    let text = |value: &Value| clean(value.as_str().unwrap_or("-"));
    let at = jiff::Timestamp::from_microsecond((call["t"].as_f64().unwrap_or(0.0) * 1e6) as i64);
    let at = at.map(|at| at.strftime("%H:%M:%S").to_string()).unwrap_or_default();
    let status = call["status"].as_u64().map_or_else(|| "none".to_owned(), |status| status.to_string());
    let tightest = call["limits"].as_array().into_iter().flatten().max_by(|a, b| {
        let used = |limit: &Value| limit["utilization"].as_f64().unwrap_or(-1.0);
        used(a).total_cmp(&used(b))
    });
    let bucket = tightest
        .and_then(|limit| {
            Some(format!(
                "  {} {:.0} %",
                clean(limit["limiter"].as_str()?),
                limit["utilization"].as_f64()? * 100.0
            ))
        })
        .unwrap_or_default();
    let verdict = match call["verdict"].as_object() {
        None => String::new(),
        Some(verdict) => format!(
            "  {} of {}{} ({}): {}",
            text(&verdict["class"]),
            text(&call["owner"]),
            verdict["limiter"].as_str().map(|limiter| format!(", {}", clean(limiter))).unwrap_or_default(),
            text(&verdict["confidence"]),
            text(&verdict["first_move"]),
        ),
    };
    let line = format!(
        "{at}  {status:>4}  {:>7.2} s  {}  {}{bucket}{verdict}",
        call["duration"].as_f64().unwrap_or(0.0),
        text(&call["route"]),
        text(&call["model"]),
    );
    match (colour, call["verdict"].is_object()) {
        (true, true) => format!("\u{1b}[31m{line}\u{1b}[0m"),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &[&str]) -> Args {
        Cli::parse_from([&["tap"], flags].concat()).args
    }

    const REFUSED: &[u8] = br#"{"t":1795000000.5,"duration":0.25,"route":"api","owner":"search","model":"claude-opus-5-5","status":429,
        "limits":[{"limiter":"requests","utilization":0.1},{"limiter":"input_tokens","utilization":1.0}],
        "verdict":{"class":"anthropic_workspace","limiter":"input_tokens","confidence":"exact","first_move":"Wait."}}"#;

    #[test]
    fn a_refusal_is_one_line_that_says_whose_limit_and_what_first() {
        assert_eq!(
            wanted(&args(&[]), REFUSED, false).unwrap(),
            "11:06:40   429     0.25 s  api  claude-opus-5-5  input_tokens 100 %  anthropic_workspace of search, input_tokens (exact): Wait."
        );
        assert!(wanted(&args(&[]), REFUSED, true).unwrap().starts_with('\u{1b}'));
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        for (flags, shown) in [
            (&["--route", "api"][..], true),
            (&["--route", "other"], false),
            (&["--owner", "search", "--verdict", "any"], true),
            (&["--verdict", "burst"], false),
            (&["--verdict", "anthropic_workspace", "--json"], true),
        ] {
            assert_eq!(wanted(&args(flags), REFUSED, false).is_some(), shown, "{flags:?}");
        }
        assert!(wanted(&args(&[]), br#"{"missed":7}"#, false).unwrap().contains("7 calls"));
        assert_eq!(wanted(&args(&[]), b"no json", false), None);
    }
}
