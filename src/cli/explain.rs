//! `plimsoll explain`: whose limit was it? JSON lines in and one answer a line out, or a paste in and
//! a few lines for people out.

use super::{ConfigArg, load, print, say};
use crate::config::Config;
use crate::explain::{Answer, Response, Score, explain, paste};
use crate::route::UNNAMED;
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
    /// Answer in JSON, a line for each line of JSON.
    #[arg(long)]
    json: bool,
    /// Lines carry a `label`: print how often the verdict was right.
    #[arg(long, conflicts_with = "json")]
    score: bool,
}

const EXAMPLES: &str = "Paste what you have: curl -i output, an SDK's exception, a log line.
  curl -i … | plimsoll explain
  pbpaste | plimsoll explain
With --json each line of standard input is one response, and so is each line of the answer:
  {\"status\":429,\"headers\":{\"retry-after\":\"16\"},\"body\":\"…\",\"request\":{\"host\":\"api.anthropic.com\"}}
A line that cannot be read is answered by {\"error\":…}; the rest goes on, and the exit code is 1.";

/// Most of a paste that is read.
const MAX_PASTE: u64 = 1024 * 1024;

pub(super) fn main(args: &Args) -> ExitCode {
    let config = match load(args.config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if args.json || args.score { lines(&config, args) } else { pasted(&config) }
}

/// One paste, or JSON lines in the shape of `--json`, answered for people.
fn pasted(config: &Config) -> ExitCode {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_PASTE + 1).read_to_end(&mut bytes);
    if let Err(error) = read {
        say(&format!("standard input: {error}"));
        return ExitCode::FAILURE;
    }
    if bytes.len() as u64 > MAX_PASTE {
        say("The paste is longer than 1 MiB; the rest is not read.");
        bytes.truncate(MAX_PASTE as usize);
    }
    let text = String::from_utf8_lossy(&bytes);
    if text.trim().is_empty() {
        say("Nothing was pasted. Paste the refusal (its headers help most), then end with Ctrl-D.");
        return ExitCode::FAILURE;
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shaped = |line: &&str| line.starts_with('{') && line.contains("\"status\"") && line.ends_with('}');
    let many = lines.len() > 1 && lines.iter().all(shaped);
    let pastes = if many { lines } else { vec![&*text] };
    let answers = pastes.iter().map(|paste| {
        for_people(&explain(&paste::read(paste), &config.owners, config.external_url.as_deref()))
    });
    print(answers.collect::<Vec<_>>().join("\n").trim_end());
    ExitCode::SUCCESS
}

fn lines(config: &Config, args: &Args) -> ExitCode {
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
                if let Err(problem) = one(&line, config, args, &mut score) {
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
    } else {
        print(&serde_json::to_string(&answer).map_err(|error| error.to_string())?);
    }
    Ok(())
}

fn for_people(answer: &Answer) -> String {
    let owner = match answer.owner.as_deref() {
        Some(owner) if owner != UNNAMED => format!("; owner {owner}"),
        _ => String::new(),
    };
    let limiter = answer.limiter.as_deref().map(|l| format!(", limiter {l}")).unwrap_or_default();
    let mut rows = vec![
        ("Whose limit", format!("{} ({}{limiter}{owner})", answer.whose, answer.verdict)),
        ("How sure", format!("{}, by {}", answer.confidence, answer.evidence)),
        ("What proves it", answer.why.to_owned()),
    ];
    if !answer.states.is_empty() {
        rows.push(("It states", answer.states.join("; ")));
    }
    if let Some(rule) = answer.contradicted_by {
        rows.push(("Against it", format!("row {rule} of docs/verdicts.md says otherwise, by weaker proof")));
    }
    rows.push(("First move", answer.first_move.to_owned()));
    if answer.owner_kind.is_some() {
        rows.push(("Stop rule", answer.stop_rule.to_owned()));
    }
    rows.push(("Next step", answer.next_step.to_owned()));
    rows.push(("Runbook", answer.runbook_url.clone()));
    rows.iter().map(|(name, text)| format!("{:<16}{text}\n", format!("{name}:"))).collect()
}
