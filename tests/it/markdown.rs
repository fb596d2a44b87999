//! Every page in the repository is whole: its code blocks end, its tables are even, its links lead somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file that is ours.
fn pages() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // What is built or fetched is somebody else's.
            if path.is_dir() && !["target", "node_modules"].contains(&&*name) && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    // Parts that pages in `docs/` are made of: the pages are looked at.
    found.retain(|page| !page.starts_with(root().join("src")));
    found.sort();
    found
}

/// A line, and whether it is code.
type Line<'t> = (usize, &'t str, bool);

/// Takes code apart from text, as CommonMark does: a block ends with a fence of its own kind, as long as the first and with
/// nothing behind it.
fn lines(text: &str) -> Result<Vec<Line<'_>>, String> {
    let mut open: Option<(usize, char, usize)> = None;
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let bare = line.trim_start().trim_start_matches("> ").trim_start();
        let mark = bare.chars().next().filter(|c| ['`', '~'].contains(c));
        let length = mark.map_or(0, |mark| bare.chars().take_while(|c| *c == mark).count());
        let rest = bare.chars().skip(length).collect::<String>();
        match (open, mark.filter(|_| length >= 3)) {
            (Some((_, of, long)), Some(mark)) if mark == of && length >= long && rest.trim().is_empty() => {
                open = None;
                all.push((at + 1, line, true));
            }
            (None, Some(mark)) if !rest.contains('`') => {
                open = Some((at + 1, mark, length));
                all.push((at + 1, line, true));
            }
            _ => all.push((at + 1, line, open.is_some())),
        }
    }
    match open {
        Some((at, ..)) => Err(format!("line {at}: its code block never ends")),
        None => Ok(all),
    }
}

/// A heading as GitHub makes an anchor of it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(lines: &[Line<'_>]) -> BTreeSet<String> {
    let headings = lines.iter().filter(|(_, line, code)| !code && line.starts_with('#'));
    headings.map(|(_, line, _)| anchor(line)).collect()
}

/// Where the links of a line lead.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find("](") {
        rest = &rest[at + 2..];
        if let Some(end) = rest.find(')') {
            found.push(rest[..end].split(' ').next().unwrap());
        }
    }
    found
}

/// What is wrong with a page.
fn problems(page: &Path, text: &str) -> Vec<String> {
    let lines = match lines(text) {
        Ok(lines) => lines,
        Err(problem) => return vec![problem],
    };
    let mut found = Vec::new();
    let mut width: Option<usize> = None;
    for (at, line, code) in &lines {
        if *code {
            width = None;
            continue;
        }
        let cells = line.trim_start().starts_with('|').then(|| line.replace("\\|", "").matches('|').count());
        if let (Some(before), Some(cells)) = (width, cells)
            && before != cells
        {
            found.push(format!("line {at}: a row of {cells} bars in a table of {before}"));
        }
        width = cells;
        // What stands between ticks is no link.
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for target in targets(&plain) {
            let (file, place) = target.split_once('#').map_or((target, None), |(f, p)| (f, Some(p)));
            if target.contains("://") || target.starts_with("mailto:") || target.starts_with('/') {
                continue;
            }
            let path = if file.is_empty() { page.to_owned() } else { page.parent().unwrap().join(file) };
            if !path.exists() {
                found.push(format!("line {at}: {target} leads nowhere"));
            } else if let Some(place) = place.filter(|_| path.extension().is_some_and(|e| e == "md")) {
                let text = std::fs::read_to_string(&path).unwrap();
                let known = self::lines(&text).map(|lines| anchors(&lines)).unwrap_or_default();
                if !known.contains(place) {
                    found.push(format!("line {at}: {target} leads to no heading"));
                }
            }
        }
    }
    found
}

#[test]
fn every_page_is_whole() {
    let pages = pages();
    assert!(pages.len() > 60, "{}", pages.len());
    let mut found = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        found.extend(problems(&page, &text).into_iter().map(|problem| format!("{name}, {problem}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What is to be found is found.
#[test]
fn a_page_that_is_not_whole_is_told() {
    let page = root().join("README.md");
    let told = |text: &str| problems(&page, text).join("; ");
    assert_eq!(told("```sh\nls\n```\n\n~~~\n```\n~~~\n````md\n```\n````\n"), "");
    for open in [
        "```sh\nls\n",
        "```\nls\n``` \n```\n",
        "````\n```\n",
        "~~~\n```\n",
        "```sh\nls\n```sh\n",
        "> ```\n> ls\n",
    ] {
        assert!(told(open).contains("never ends"), "{open:?}");
    }
    assert!(told("[a](nowhere.md)").contains("nowhere.md leads nowhere"));
    assert!(told("[a](docs/alerts.md#nothing-of-this)").contains("leads to no heading"));
    assert_eq!(told("[a](docs/alerts.md#about-plimsoll-for-whoever-runs-it) `[b](c)`"), "");
    assert!(told("| a | b |\n|---|---|\n| c |\n").contains("a row of 2 bars"));
}
