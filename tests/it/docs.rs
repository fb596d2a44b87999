//! What the documents promise is there.

use plimsoll::config::Config;
use plimsoll::reference;

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
    generated("docs/verdicts.md", &reference::verdicts());
    generated("docs/plimsoll.schema.json", &format!("{:#}\n", Config::schema()));
}

#[test]
fn the_example_configuration_is_valid() {
    let config = Config::parse(include_str!("../../docs/plimsoll.example.yaml"), &|_| None).unwrap();
    assert_eq!(config.routes().count(), 2);
    assert_eq!(config.owners.iter().count(), 2);
}

/// Every configuration that a page shows is one that holds.
#[test]
fn the_configurations_on_the_pages_are_valid() {
    let secrets = tempfile::tempdir().unwrap();
    let key = secrets.path().join("key");
    std::fs::write(&key, "sk-ant-admin01-test").unwrap();
    for (page, blocks) in
        [(include_str!("../../docs/clouds.md"), 5), (include_str!("../../docs/sources.md"), 19)]
    {
        let shown: Vec<&str> =
            page.split("```yaml\n").skip(1).map(|block| block.split("\n```").next().unwrap()).collect();
        assert_eq!(shown.len(), blocks);
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
