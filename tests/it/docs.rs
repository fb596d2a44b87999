//! What the documents promise is there.

use plimsoll::config::Config;
use plimsoll::dashboards;
use plimsoll::reference;
use serde_json::Value;
use std::collections::BTreeSet;

/// The shipped page is what the code says; `PLIMSOLL_UPDATE_DOCS=1` writes it.
fn generated(path: &str, wanted: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("PLIMSOLL_UPDATE_DOCS").is_some() {
        std::fs::write(&file, wanted).unwrap();
    }
    let shipped = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(shipped == wanted, "{path} has drifted; run PLIMSOLL_UPDATE_DOCS=1 cargo test --test it docs");
}

#[test]
fn the_reference_pages_are_what_the_code_says() {
    generated("docs/config.md", &reference::config());
    generated("docs/metrics.md", &reference::metrics());
    generated("docs/clients.md", &reference::clients());
    generated("docs/verdicts.md", &reference::verdicts());
    for dashboard in dashboards::all() {
        generated(
            &format!("dashboards/{}.json", dashboard.name),
            &format!("{:#}\n", dashboard.json("owner")),
        );
    }
    generated("docs/plimsoll.schema.json", &format!("{:#}\n", Config::schema()));
}

#[test]
fn dashboards_ask_for_alerts_by_the_label_that_the_rules_give_them() {
    for dashboard in dashboards::all() {
        let (usual, team) = (dashboard.json("owner").to_string(), dashboard.json("team").to_string());
        assert!(!usual.contains("%OWNER%"), "{}", dashboard.name);
        assert!(!team.contains(", owner=~"), "{}", dashboard.name);
        assert_eq!(usual.contains(", owner=~"), team.contains(", team=~"), "{}", dashboard.name);
    }
}

#[test]
fn the_example_configuration_is_valid() {
    let config = Config::parse(include_str!("../../docs/plimsoll.example.yaml"), &|_| None).unwrap();
    assert_eq!(config.routes().count(), 2);
    assert_eq!(config.owners.iter().count(), 2);
}

/// The pages of a folder.
fn pages_of(folder: &str) -> Vec<String> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .map(|p| std::fs::read_to_string(p).unwrap())
        .collect()
}

/// Names of alerts in a text.
fn alerts_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|w| {
            w.len() > 8 && w.strip_prefix("Plimsoll").is_some_and(|rest| rest.starts_with(char::is_uppercase))
        })
        .collect()
}

#[test]
fn every_alert_is_explained_and_no_page_names_one_that_does_not_exist() {
    let rules = include_str!("../../alerts/plimsoll.rules.yaml");
    let there: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(there.len() >= 12, "{there:?}");
    let explained = alerts_in(include_str!("../../docs/alerts.md"));
    assert_eq!(
        there.difference(&explained).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "not in docs/alerts.md"
    );
    let readme = include_str!("../../README.md").to_owned();
    for page in pages_of("docs").iter().chain([&readme]) {
        // The name of a statement in an IAM policy.
        let others = ["PlimsollPoller"];
        let unknown: Vec<_> =
            alerts_in(page).difference(&there).filter(|name| !others.contains(name)).copied().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {}", page.lines().next().unwrap());
    }
}

/// Pieces between backticks.
fn between_backticks(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").step_by(2).flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// Whether the schema of the configuration has a key at this path.
fn has_key(schema: &Value, path: &str) -> bool {
    fn resolve<'a>(root: &'a Value, part: &'a Value) -> Vec<&'a Value> {
        let named = part["$ref"].as_str().and_then(|name| root.pointer(name.trim_start_matches('#')));
        let several = ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| part[*key].as_array()).flatten();
        let all = named.into_iter().chain(several).chain(part.get("items"));
        std::iter::once(part).chain(all.flat_map(|part| resolve(root, part))).collect()
    }
    let mut parts = vec![schema];
    for key in path.split('.') {
        let here = parts.iter().flat_map(|part| resolve(schema, part));
        parts = here.filter_map(|part| part["properties"].get(key)).collect();
    }
    !parts.is_empty()
}

#[test]
fn every_setting_that_a_page_names_is_there() {
    let schema = serde_json::to_value(Config::schema()).unwrap();
    let sections = schema["properties"].as_object().unwrap();
    let mut named = BTreeSet::new();
    for page in pages_of("docs").iter().chain(&pages_of(".")).chain(&pages_of("runbooks")) {
        // `config.` is where the chart's values have it.
        let paths = between_backticks(page).map(|piece| piece.trim_start_matches("config."));
        let of_words =
            paths.filter(|piece| piece.chars().all(|c| c.is_ascii_lowercase() || "._".contains(c)));
        let ours = of_words
            .filter_map(|piece| piece.split_once('.').filter(|(first, _)| sections.contains_key(*first)));
        named.extend(ours.map(|(first, rest)| format!("{first}.{rest}")));
    }
    assert!(named.len() >= 15, "{named:?}");
    let unknown: Vec<_> = named.iter().filter(|path| !has_key(&schema, path)).collect();
    assert!(unknown.is_empty(), "no such settings: {unknown:?}");
    assert!(!has_key(&schema, "alerts.hold_sec") && !has_key(&schema, "limits.buckets.x"));
}

#[test]
fn every_metric_that_a_page_names_is_there() {
    let catalogue = reference::metrics();
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        words.filter(|word| word.len() > 9 && word.starts_with("plimsoll_")).map(str::to_owned).collect()
    };
    // Labels are the attributes with `_` for `.`.
    let mut there = words(&catalogue);
    there.extend(words(&catalogue.replace('.', "_")));
    let part = |name: &str| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|n| there.contains(n)))
    };
    let mut named = 0;
    for page in pages_of("docs").iter().chain(&pages_of(".")).chain(&pages_of("runbooks")) {
        let words = words(page);
        named += words.len();
        // A cluster of Envoy's, and files of examples/.
        let others = ["plimsoll_als", "plimsoll_report", "plimsoll_callback"];
        let known = |name: &str| there.contains(name) || part(name) || others.contains(&name);
        let unknown: Vec<_> = words.iter().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {}", page.lines().next().unwrap());
    }
    assert!(named >= 50, "{named}");
}

/// Every configuration that a page shows is one that holds.
#[test]
fn the_configurations_on_the_pages_are_valid() {
    let secrets = tempfile::tempdir().unwrap();
    let key = secrets.path().join("key");
    std::fs::write(&key, "sk-ant-admin01-test").unwrap();
    let mut pages = 0;
    for page in pages_of("docs") {
        let shown = page.split("```yaml\n# plimsoll.yaml\n").skip(1);
        let shown: Vec<&str> = shown.map(|block| block.split("\n```").next().unwrap()).collect();
        pages += usize::from(!shown.is_empty());
        for block in shown {
            let text = block
                .replace("/var/run/secrets/anthropic-admin/key", key.to_str().unwrap())
                .replace("/var/run/secrets/plimsoll/key", key.to_str().unwrap());
            if cfg!(not(feature = "als")) && text.contains("envoy_als") {
                continue;
            }
            if let Err(invalid) = Config::parse(&text, &|_| None) {
                panic!("{invalid}\n{block}");
            }
        }
    }
    assert!(pages >= 5, "{pages}");
}

#[test]
fn the_readme_keeps_exactly_two_set_up_commands() {
    let readme = include_str!("../../README.md");
    let set_up = &readme[readme.find("## See it").unwrap()..readme.find("## Use it").unwrap()];
    let commands: Vec<&str> =
        set_up.split("```sh\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect();
    assert_eq!(commands, ["cargo run --quiet -- demo", "scripts/test"]);
}

#[test]
fn every_module_stands_on_the_map() {
    let map = include_str!("../../ARCHITECTURE.md");
    let library = include_str!("../../src/lib.rs");
    for module in library.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')) {
        assert!(map.contains(&format!("`{module}")), "{module} is not in ARCHITECTURE.md");
    }
}
