//! Every command and flag that a page shows is one that the program takes. Commands are looked for where a page writes
//! code: in fenced blocks and between backticks.

use super::Cli;
use clap::{Command, CommandFactory};
use std::collections::BTreeSet;
use std::path::Path;

/// Flags that pages name without their program.
const OF_OTHERS: [&str; 6] = [
    "--set",                      // Helm
    "--no-default-features",      // Cargo
    "--build-arg",                // Docker
    "--file-flush-interval-msec", // Envoy
    "--quiet",                    // Cargo
    "--config.file",              // Prometheus and Alertmanager
];

/// The code on a page: each line of its fenced blocks, and each piece between backticks.
fn code(page: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (n, part) in page.split("```").enumerate() {
        if n % 2 == 1 {
            all.extend(part.replace("\\\n", " ").lines().skip(1).map(str::to_owned));
        } else {
            // A backslash keeps a pipe inside of a table's cell.
            let pieces = part.split('`').skip(1).step_by(2);
            all.extend(pieces.map(|piece| piece.replace("\\|", "|").replace('\n', " ")));
        }
    }
    all
}

/// What is run by a line of shell: each command with its words.
fn commands(line: &str) -> Vec<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or(line);
    let commands = line.split(['|', ';', '&', '>', '(', ')']).map(|command| {
        let words =
            command.split_whitespace().skip_while(|word| word.contains('=') && !word.starts_with('-'));
        words.collect::<Vec<_>>()
    });
    commands.filter(|words| !words.is_empty()).collect()
}

/// Names of flags, as `[--owner` shows one.
fn flags<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let words = words.iter().map(|word| word.trim_start_matches('[').trim_end_matches([']', ',']));
    words
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .map(|word| word.split('=').next().unwrap_or(word))
        .collect()
}

fn takes(command: &Command, flag: &str) -> bool {
    let long = &flag[2..];
    matches!(long, "help" | "version") || command.get_arguments().any(|arg| arg.get_long() == Some(long))
}

/// What is wrong with a piece of code, and how many commands and flags were looked at.
fn wrong(piece: &str, cli: &Command, seen: &mut usize) -> Vec<String> {
    let mut wrong = Vec::new();
    for words in commands(piece) {
        if words[0].starts_with("--") {
            *seen += 1;
            let known =
                |flag: &&str| OF_OTHERS.contains(flag) || cli.get_subcommands().any(|c| takes(c, flag));
            wrong.extend(
                flags(&words[..1])
                    .into_iter()
                    .filter(|flag| !known(flag))
                    .map(|flag| format!("{flag} of nothing")),
            );
        }
        // `cargo run … -- demo` runs it too.
        let at = words.iter().position(|word| *word == "plimsoll" || word.ends_with("/plimsoll"));
        let given = match at {
            Some(0) => &words[1..],
            _ if words.starts_with(&["cargo", "run"]) => {
                words.split(|word| *word == "--").nth(1).unwrap_or_default()
            }
            _ => continue,
        };
        let Some(name) = given.first().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        else {
            continue;
        };
        *seen += 1;
        match cli.find_subcommand(name.trim_end_matches(',')) {
            None => wrong.push(format!("no command `{name}`")),
            Some(command) => {
                let unknown = flags(given).into_iter().filter(|flag| !takes(command, flag));
                wrong.extend(unknown.map(|flag| format!("`{name}` has no {flag}")));
            }
        }
    }
    wrong
}

fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["", "docs", "helm/plimsoll", "runbooks", "runbooks/ko", "examples/sources"];
    let entries = folders.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let files = entries.map(|entry| entry.unwrap().path()).filter(|file| {
        file.extension().is_some_and(|ending| ending == "md") && !file.ends_with("CHANGELOG.md")
    });
    files.map(|file| (file.display().to_string(), std::fs::read_to_string(&file).unwrap())).collect()
}

#[test]
fn every_command_and_flag_on_the_pages_is_there() {
    let cli = Cli::command();
    let (mut problems, mut seen) = (BTreeSet::new(), 0);
    for (name, page) in pages() {
        for piece in code(&page) {
            problems.extend(
                wrong(&piece, &cli, &mut seen)
                    .into_iter()
                    .map(|wrong| format!("{name}: {wrong} in `{piece}`")),
            );
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(seen >= 100, "only {seen} commands and flags were found on the pages");
}

#[test]
fn what_is_not_there_is_found() {
    let cli = Cli::command();
    let of = |piece: &str| wrong(piece, &cli, &mut 0).len();
    assert_eq!(of("plimsoll rnu"), 1);
    assert_eq!(of("RUST_LOG=x target/debug/plimsoll run --confg x | plimsoll explain --jsn"), 2);
    assert_eq!(of("cargo run --quiet -- demo --jsno"), 1);
    assert_eq!(of("--exhausted 0.9"), 1);
    assert_eq!(of("helm install plimsoll helm/plimsoll --set x=y"), 0);
    assert_eq!(of("plimsoll run --config plimsoll.yaml &"), 0);
}
