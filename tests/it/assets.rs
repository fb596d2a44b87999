//! What is shipped beside the binary speaks of things that exist.

use plimsoll::admin::runbooks;
use plimsoll::exporters::catalogue::{ALL, escaped};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every name that `/metrics` can show, and every label.
fn names() -> (BTreeSet<String>, BTreeSet<String>) {
    let names = ALL.iter().map(|m| {
        let unit = match m.unit {
            "s" => "_seconds",
            "1" => "_ratio",
            "By" => "_bytes",
            _ => "",
        };
        let total = if m.kind == plimsoll::exporters::catalogue::Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", escaped(m.name))
    });
    let labels = ALL.iter().flat_map(|m| m.attributes).map(|a| escaped(a));
    (names.collect(), labels.collect())
}

/// Words of a text that look like one of our metrics or labels.
fn ours(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|w| w.starts_with("plimsoll_") || w.starts_with("gen_ai_"))
        .collect()
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found
}

#[test]
fn rules_and_runbooks_name_only_metrics_that_exist() {
    let (names, labels) = names();
    let mut checked = 0;
    let mut all = files(&root().join("alerts"), ".yaml");
    all.extend(files(&root().join("runbooks"), ".md"));
    for file in all {
        let text = std::fs::read_to_string(&file).unwrap();
        for word in ours(&text) {
            assert!(
                names.contains(word) || labels.contains(word),
                "{}: {word} does not exist",
                file.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked}");
}

#[test]
fn every_runbook_file_is_in_the_binary() {
    for file in files(&root().join("runbooks"), ".md") {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(runbooks::get(&name), Some(std::fs::read_to_string(&file).unwrap().as_str()), "{name}");
    }
}

#[test]
fn every_link_between_runbooks_resolves() {
    for (name, text) in runbooks::ALL {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let stem = target.split('#').next().unwrap();
            assert!(runbooks::get(stem).is_some(), "{name} links to {target}");
        }
    }
}

#[test]
fn nothing_names_a_place_that_only_this_machine_has() {
    let skip = ["target", ".git", "node_modules"];
    let mut todo = vec![root()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if skip.iter().any(|s| name == *s) {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let registry =
                    ["crates", "pypi"].map(|r| format!("{r}.{}", if r == "pypi" { "org" } else { "io" }));
                let lock = name == "Cargo.lock";
                assert!(
                    lock || !registry.iter().any(|r| text.contains(r.as_str())),
                    "{} names a registry's host",
                    path.display()
                );
            }
        }
    }
}
