use super::*;

fn parse(text: &str) -> Result<Config, Invalid> {
    Config::parse(text, &|name| (name == "SET").then(|| "secret-value".to_owned()))
}

fn complaint(text: &str) -> String {
    parse(text).expect_err("invalid").to_string()
}

#[test]
fn nothing_is_the_default_configuration() {
    for text in ["", "# only a comment\n", "\n\n"] {
        let config = parse(text).unwrap();
        assert_eq!(config.listeners.len(), 1);
        assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:8429");
        assert_eq!(config.listeners[0].routes[0].upstream.host(), Some("api.anthropic.com"));
        assert_eq!(config.metrics.to_string(), "127.0.0.1:9429");
    }
}

#[test]
fn the_longest_prefix_stands_first() {
    let config = parse(
        "listeners:\n- bind: 127.0.0.1:1\n  routes:\n  - {name: a, upstream: 'http://a'}\n  - {name: b, prefix: /x/y/, upstream: 'http://b'}\n  - {name: c, prefix: /x, upstream: 'http://c'}\n",
    )
    .unwrap();
    let order: Vec<_> = config.routes().map(|r| r.name.as_str()).collect();
    assert_eq!(order, ["b", "c", "a"]);
}

#[test]
fn every_problem_names_its_place_and_the_fix() {
    let text = r#"
external_url: plimsoll.example.com
listeners:
  - bind: localhost
    routes:
      - name: a
        upstream: ftp://example.com
        surface: anthropic_apo
      - name: a
        prefix: v1
        upstream: https://user@example.com
owners:
  - name: unnamed
    kinds: [claude_plann]
    runbook_url: javascript:alert(1)
credentials:
  - alias: ci
    secret: {env: NOT_SET}
alerts:
  pressure_utilization: 80
  hold_secs: 0
limits:
  buckets: 100000
"#;
    insta::assert_snapshot!(complaint(text));
}

#[test]
fn a_mistyped_key_is_found_with_its_line_and_the_right_word() {
    insta::assert_snapshot!(complaint("listeners:\n  - bind: 127.0.0.1:8429\n    rotues: []\n"));
    insta::assert_snapshot!(complaint("owner: []\n"));
    insta::assert_snapshot!(complaint("listeners:\n  - bind: 127.0.0.1:8429\n"));
    insta::assert_snapshot!(complaint("alerts:\n  hold_secs: soon\n"));
    insta::assert_snapshot!(complaint("listeners: [\n"));
}

#[test]
fn secrets_come_from_outside_and_cannot_print() {
    let config = parse("credentials:\n- alias: ci\n  secret: {env: SET}\n").unwrap();
    assert!(!format!("{config:?}").contains("secret-value"));
    assert!(complaint("fingerprint_key: {}\n").contains("neither `env` nor `file`"));
}
