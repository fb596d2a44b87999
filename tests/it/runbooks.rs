//! The Korean runbooks keep step with the English ones.

use plimsoll::owner::guidance;
use plimsoll::route::OwnerKind;
use std::path::{Path, PathBuf};

const HEADINGS: [(&str, &str); 11] = [
    ("Meaning", "의미"),
    ("Impact", "영향"),
    ("First move", "첫 조치"),
    ("Stop rule", "중지 규칙"),
    ("Diagnosis", "진단"),
    ("Proof", "증거"),
    ("Mitigation", "완화"),
    ("Next step", "다음 단계"),
    ("What not to change", "바꾸지 말 것"),
    ("What to record", "기록할 것"),
    ("Rules that hold meanwhile", "그동안 지킬 규칙"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runbooks")
}

fn headings(text: &str) -> Vec<&str> {
    text.lines().filter_map(|l| l.strip_prefix("## ")).collect()
}

fn code(text: &str) -> Vec<&str> {
    text.split("```").skip(1).step_by(2).collect()
}

#[test]
fn the_korean_runbooks_keep_step() {
    for (name, english) in plimsoll::admin::runbooks::ALL {
        let file = folder().join("ko").join(format!("{name}.md"));
        let korean = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let wanted: Vec<&str> = headings(english)
            .iter()
            .map(|h| HEADINGS.iter().find(|(e, _)| e == h).map_or(*h, |(_, k)| *k))
            .collect();
        assert_eq!(headings(&korean), wanted, "{name}");
        assert_eq!(code(&korean), code(english), "{name}: commands are the same in every language");
    }
}

/// The rules that operators live by stand in every owner's runbook, as the code has them;
/// `PLIMSOLL_UPDATE_DOCS=1` writes them.
#[test]
fn every_owners_runbook_carries_the_rules_in_both_languages() {
    for kind in OwnerKind::ALL {
        let name = guidance::of_kind(kind).runbook;
        for (file, heading, korean) in [
            (folder().join(format!("{name}.md")), "## Rules that hold meanwhile", false),
            (folder().join("ko").join(format!("{name}.md")), "## 그동안 지킬 규칙", true),
        ] {
            let rules = guidance::rules_for(kind).map(|rule| if korean { rule.ko } else { rule.text });
            let list: String = rules.map(|rule| format!("- {rule}\n")).collect();
            let section = format!("{heading}\n\n{list}");
            let text = std::fs::read_to_string(&file).unwrap();
            if std::env::var_os("PLIMSOLL_UPDATE_DOCS").is_some() {
                let before = text.split(heading).next().unwrap().trim_end();
                std::fs::write(&file, format!("{before}\n\n{section}")).unwrap();
                continue;
            }
            assert!(text.ends_with(&section), "{}: the rules have drifted", file.display());
        }
    }
}

/// What the sidecar tells first stands in the fleet's rules too, word for word.
#[test]
fn the_fleets_rules_tell_the_same_first_moves_and_stop_rule() {
    let template = include_str!("../../alerts/plimsoll.rules.yaml.tmpl");
    let spend = guidance::of_limiter(OwnerKind::Unknown, &plimsoll::limit::Limiter::SPEND);
    for told in OwnerKind::ALL.map(guidance::of_kind).into_iter().chain([spend]) {
        assert!(template.contains(&format!("            {}\n", told.first_move)), "{}", told.first_move);
    }
    assert!(template.contains(&format!("stop_rule: &stop_rule {}\n", guidance::STOP_RULE)));
}

#[test]
fn every_runbook_carries_the_stop_rule() {
    for (name, text) in plimsoll::admin::runbooks::ALL {
        assert!(text.contains(guidance::STOP_RULE), "{name}");
    }
}
