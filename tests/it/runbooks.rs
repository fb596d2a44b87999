//! The Korean runbooks keep step with the English ones.

use std::path::{Path, PathBuf};

const HEADINGS: [(&str, &str); 10] = [
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
