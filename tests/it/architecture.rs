//! The invariants of ARCHITECTURE.md, as they can be read from the source.

use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file: without comments and without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn of_module(name: &str) -> Vec<PathBuf> {
    let file = source().join(format!("{name}.rs"));
    let mut files = if file.exists() { vec![file] } else { Vec::new() };
    let dir = source().join(name);
    if dir.is_dir() {
        files.extend(rust_files(&dir));
    }
    assert!(!files.is_empty(), "module {name} is gone: ARCHITECTURE.md and this test must follow");
    files.retain(|f| !f.ends_with("engine/task.rs") && !f.ends_with("tests.rs"));
    files
}

fn forbid(modules: &[&str], words: &[&str]) {
    for module in modules {
        for file in of_module(module) {
            let code = code(&file);
            for word in words {
                assert!(!code.contains(word), "{} names {word}", file.display());
            }
        }
    }
}

const CORE: [&str; 6] = ["limit", "route", "observation", "dialects", "owner", "engine"];
/// What makes values of what others saw, as pure as the core.
const MAKERS: [&str; 4] = ["recorded", "seen", "mapping", "claude_code"];

#[test]
fn the_core_names_no_runtime_no_network_and_no_clock() {
    let pure: Vec<&str> = CORE.into_iter().chain(MAKERS).collect();
    forbid(
        &pure,
        &["tokio", "std::net", "hyper", "reqwest", "Instant", "SystemTime", "std::fs", "std::env", "tracing"],
    );
}

#[test]
fn the_core_knows_no_part_of_the_shell() {
    let shell = ["sources", "pollers", "exporters", "admin", "app", "cli", "config", "clock", "demo", "stop"];
    let words: Vec<String> = shell.iter().map(|m| format!("crate::{m}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    forbid(&CORE, &words);
    forbid(&MAKERS, &words);
}

#[test]
fn sources_and_exporters_do_not_know_each_other() {
    forbid(&["sources"], &["crate::exporters", "crate::admin", "crate::app"]);
    forbid(&["exporters"], &["crate::sources", "crate::admin", "crate::app"]);
    for file in of_module("exporters") {
        let code = code(&file);
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        for other in ["alertmanager", "otlp", "prometheus", "spans"] {
            let use_of = code.contains(&format!("super::{other}"));
            assert!(name == other || name == "mod" || !use_of, "{name} knows {other}");
        }
    }
}

#[test]
fn only_the_binary_the_demo_and_tests_compose() {
    let composers = ["app.rs", "cli", "demo"];
    for file in rust_files(&source()) {
        let relative = file.strip_prefix(source()).unwrap();
        if composers.iter().any(|c| relative.starts_with(c)) {
            continue;
        }
        assert!(!code(&file).contains("crate::app"), "{}", relative.display());
    }
}

#[test]
fn every_file_opens_with_what_it_does() {
    for file in rust_files(&source()) {
        if file.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} says nothing of itself", file.display());
    }
}
