//! `plimsoll explain`: whose limit was it? JSON lines in, one answer a line out.

use super::{ConfigArg, load, print, say};
use crate::config::Config;
use crate::explain::{Answer, Response, Score, explain};
use std::io::{BufRead, Read};
use std::process::ExitCode;

/// Longest input line that is read.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Answer in JSON, a line for each line.
    #[arg(long)]
    json: bool,
    /// Lines carry a `label`: print how often the verdict was right.
    #[arg(long, conflicts_with = "json")]
    score: bool,
}

const EXAMPLES: &str = "Each line of standard input is one response:
  {\"status\":429,\"headers\":{\"retry-after\":\"16\"},\"body\":\"…\",\"request\":{\"host\":\"api.anthropic.com\"}}
A line that cannot be read is answered by {\"error\":…}; the rest goes on, and the exit code is 1.";

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let (mut code, mut score) = (ExitCode::SUCCESS, Score::default());
    let mut input = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) if line.len() as u64 == MAX_LINE && !line.ends_with(b"\n") => {
                code = ExitCode::FAILURE;
                print(&serde_json::json!({ "error": "the line is longer than 16 MiB" }).to_string());
                if input.skip_until(b'\n').is_err() {
                    break;
                }
            }
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) => {
                if let Err(problem) = one(&line, &config, args, &mut score) {
                    code = ExitCode::FAILURE;
                    print(&serde_json::json!({ "error": problem }).to_string());
                }
            }
            Err(error) => {
                say(&format!("standard input: {error}"));
                return ExitCode::FAILURE;
            }
        }
    }
    if args.score {
        print(score.to_string().trim_end());
    }
    code
}

fn one(line: &[u8], config: &Config, args: &Args, score: &mut Score) -> Result<(), String> {
    let response: Response = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let answer = explain(&response, &config.owners, config.external_url.as_deref());
    if args.score {
        score.add(&response, &answer);
    } else if args.json {
        print(&serde_json::to_string(&answer).map_err(|error| error.to_string())?);
    } else {
        print(&for_people(&answer));
    }
    Ok(())
}

fn for_people(answer: &Answer) -> String {
    let limiter = answer.limiter.as_deref().map(|l| format!(", limiter {l}")).unwrap_or_default();
    let owner = answer.owner.as_deref().map(|o| format!(" (owner: {o})")).unwrap_or_default();
    format!(
        "Whose limit:  {}{owner}{limiter}\nHow sure:     {} ({}: {})\nFirst move:   {}\nStop rule:    {}\nNext step:    {}\nRunbook:      {}\n",
        answer.verdict,
        answer.confidence,
        answer.evidence,
        answer.why,
        answer.first_move,
        answer.stop_rule,
        answer.next_step,
        answer.runbook_url
    )
}
