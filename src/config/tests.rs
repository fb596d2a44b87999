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
fn an_amount_of_memory_has_a_unit() {
    for (text, bytes) in
        [("256MiB", 256 << 20), ("1 GiB", 1 << 30), ("64Mi", 64 << 20), ("300MB", 300_000_000)]
    {
        let config = parse(&format!("memory_limit: {text}\n")).unwrap();
        assert_eq!(config.memory_limit, Some(bytes), "{text}");
    }
    assert_eq!(parse("").unwrap().memory_limit, None);
    for text in ["256", "256KiB", "16MiB", "MiB", "-1GiB", "99999999999999999999GiB", "'1.5GiB'"] {
        let complaint = complaint(&format!("memory_limit: {text}\n"));
        assert!(complaint.starts_with("line 1, column 15: memory_limit: `"), "{complaint}");
        assert!(complaint.ends_with("write `256MiB` or `1GiB`"), "{complaint}");
    }
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

#[cfg(all(feature = "aws", feature = "google"))]
#[test]
fn what_is_wrong_with_pollers_is_named() {
    let text = r#"
listeners: []
pollers:
  anthropic:
    admin_key: {env: SET}
    usage_interval_secs: 5
    monthly_spend_usd: -3
  aws:
    - name: prod
      project: "1234"
      regions: [us-east-1, US East]
  google:
    - {name: ads, project: "a b", usage_interval_secs: 10}
  limits: {url: poller:9429}
quotas:
  - {surface: bedrok, project: "1", region: r, model: m, limiter: tokens, per_minute: 1}
  - {surface: vertex, project: "1", region: r, model: m, limiter: tokens, per_minute: 0}
counting: {share: 1.5}
"#;
    insta::assert_snapshot!(complaint(text));
    assert!(complaint("listeners: []\n").contains("no listeners, no sources and no pollers"));
}

#[test]
fn signing_anew_is_refused_where_it_would_widen_access_unasked() {
    let route = |bind: &str, upstream: &str, more: &str| {
        format!(
            "listeners:\n- bind: {bind}\n  routes:\n  - {{name: b, upstream: '{upstream}', resign: {{region: us-east-1{more}}}}}\n"
        )
    };
    let aws = "https://bedrock-runtime.us-east-1.amazonaws.com";
    assert_eq!(parse(&route("127.0.0.1:1", aws, "")).is_ok(), cfg!(feature = "aws"));
    assert!(complaint(&route("0.0.0.0:1", aws, "")).contains("with the sidecar's own credentials"));
    assert_eq!(parse(&route("0.0.0.0:1", aws, ", any_caller: true")).is_ok(), cfg!(feature = "aws"));
    assert!(complaint(&route("127.0.0.1:1", "http://aws.example", "")).contains("in the clear"));
}

#[test]
fn what_is_wrong_with_sources_is_named() {
    let tail = |rest: &str| format!("sources:\n  tails:\n  - {{path: /x.log{rest}}}\n");
    for (text, wanted) in [
        ("sources: {envoy_als: {bind: '0.0.0.0:9431'}}\n".to_owned(), "any_sender"),
        ("sources: {otlp: {http: '0.0.0.0:4318'}}\n".to_owned(), "any_sender"),
        ("sources: {otlp: {forward: {endpoint: 'ftp://x'}}}\n".to_owned(), "sources.otlp.forward.endpoint"),
        (tail(", preset: ngnix"), "did you mean `nginx`"),
        (tail(", fields: {statuss: code}"), "did you mean `status`"),
        (tail(", from: middle"), "place in a log"),
        (tail(", route: apii") + "  routes: [{name: api}]\n", "did you mean `api`"),
        ("sources:\n  tails: [{path: /a}, {path: /b}]\n".to_owned(), "names another tail already"),
        (
            "sources:\n  tails: [{path: '-'}, {path: '-', name: b}]\n".to_owned(),
            "reads standard input already",
        ),
        (tail(", name: 'gateway:g'"), "name of another source"),
        (tail(", name: report"), "name of another source"),
        (
            "sources: {otlp: {grpc: '127.0.0.1:5', http: '127.0.0.1:5'}}\n".to_owned(),
            "taken by `sources.otlp.grpc`",
        ),
        ("sources: {otlp: {http: '127.0.0.1:9429'}}\n".to_owned(), "taken by `metrics.bind`"),
        (
            "metrics: {bind: '0.0.0.0:8000'}\nadmin: {bind: '127.0.0.1:8000'}\n".to_owned(),
            "taken by `metrics.bind`",
        ),
        (
            "metrics: {bind: '127.0.0.1:8000'}\nadmin: {bind: '[::]:8000', token: {env: T}}\n".to_owned(),
            "taken by `metrics.bind`",
        ),
        (
            "pollers:\n  gateways: [{name: g, kind: kongg, url: 'http://x'}]\n".to_owned(),
            "did you mean `kong`",
        ),
        ("pollers:\n  gateways: [{name: g, kind: openrouter, url: 'http://x'}]\n".to_owned(), "add `key`"),
        (
            "pollers:\n  gateways: [{name: g, kind: kong, url: 'http://x', route: r}]\n".to_owned(),
            "sources.routes",
        ),
    ] {
        let complaint = complaint(&text);
        assert!(complaint.contains(wanted), "{text}: {complaint}");
    }
    let otlp = parse("sources: {otlp: {}}\n").unwrap().sources.otlp.unwrap();
    assert_eq!(otlp.grpc.map(|at| at.to_string()).as_deref(), Some("127.0.0.1:4317"));
    assert_eq!(otlp.http.map(|at| at.to_string()).as_deref(), Some("127.0.0.1:4318"));
}

#[test]
fn a_secret_that_stands_in_the_file_is_refused_and_not_read_out() {
    for (text, at) in
        [("admin: {token: hunter2}\n", "line 1, column 16"), ("admin: {token: 1234567}\n", "line 1")]
    {
        let complaint = complaint(text);
        assert!(complaint.contains("{file: PATH}") && complaint.contains(at), "{complaint}");
        assert!(!complaint.contains("hunter2") && !complaint.contains("1234567"), "{complaint}");
    }
}

#[test]
fn paths_are_repaired_only_where_the_upstream_is_the_providers_own_host() {
    let repair = |upstream: &str, further: &str| {
        let yaml = format!(
            "listeners: [{{bind: '127.0.0.1:1', routes: [{{name: a, upstream: '{upstream}'{further}}}]}}]"
        );
        Config::parse(&yaml, &|_| None).unwrap().routes().next().unwrap().repair
    };
    for (upstream, host) in [
        ("https://api.anthropic.com", Some(ProviderHost::Anthropic)),
        ("https://API.Anthropic.com:443/base", Some(ProviderHost::Anthropic)),
        ("https://api.openai.com/v1", Some(ProviderHost::OpenAi)),
        ("https://api.anthropic.com.evil.example", None),
        ("https://gateway.api.anthropic.com", None),
        ("https://anthropic.com", None),
        ("http://litellm:4000/api.anthropic.com", None),
        ("http://127.0.0.1:4000", None),
    ] {
        assert_eq!(repair(upstream, ""), host, "{upstream}");
        assert_eq!(repair(upstream, ", repair_paths: false"), None, "{upstream}");
    }
    assert_eq!(Config::defaults().routes().next().unwrap().repair, Some(ProviderHost::Anthropic));
    #[cfg(feature = "aws")]
    assert_eq!(
        repair("https://api.anthropic.com", ", resign: {region: us-east-1}"),
        None,
        "a signature covers the path"
    );
}

/// What cannot be read hides nothing else that is wrong, and is no second fault by what it leaves behind.
#[test]
fn every_problem_is_named_beside_one_that_cannot_be_read() {
    let text = "\
alerts: {hold_secs: soon, labls: {}, pressure_utilization: 7}
admin: {bind: '0.0.0.0:9430', token: hunter2}
listeners:
- bind: 127.0.0.1:8429
  tls: 7
  routes:
  - {name: a, upsteam: 'http://a'}
  - 9
  - {name: c, prefix: /c, upstream: 'ftp://c', http2: perhaps}
  - {name: c, prefix: /d, upstream: 'http://127.0.0.1:8429'}
owners: [{kinds: [claude_plann]}, {name: b, kinds: [claude_plann]}]
sources: {tails: [{preset: nginx}, {path: /x, route: a}, {path: /y, name: '?', from: middle}]}
pollers: {gateways: [{name: g, kind: litellm, url: 'http://x', key: 7, teams: [t]}]}
evidnce: {}
metrics:
\t- bind
limits: {buckets: 0, buckets: 1}
";
    insta::assert_snapshot!(complaint(text));
    for problem in parse(text).unwrap_err().0 {
        assert!(problem.message.contains("; "), "no fix: {problem}");
        assert!(problem.path.starts_with("sources") || problem.at.is_some(), "no place: {problem}");
    }
}

/// Whatever is cut off a file or garbled in it: reading ends, and no upstream, no port and no token is invented.
mod garbled {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = "\
state_dir: /tmp
listeners:
- bind: 127.0.0.1:1
  routes:
  - {name: a, prefix: /a, upstream: 'http://a'}
  - name: b
    upstream: http://b
    ca_file:
admin:
  bind: 127.0.0.1:2
  token: {env: SET}
owners:
- {name: o, match: {routes: [a]}}
metrics: {bind: '127.0.0.1:3'}
";

    proptest! {
        #[test]
        fn of_it_nothing_is_invented(at in 0..WHOLE.len(), cut in 0..40_usize, put in "[\\PC\n\t]{0,6}") {
            let end = (at + cut).min(WHOLE.len());
            let text = format!("{}{put}{}", &WHOLE[..at], &WHOLE[end..]);
            let config = Config::partly(&text, &|name| (name == "SET").then(|| "token".to_owned()), "f");
            if !config.unread.is_empty() {
                // A default is sent to by nobody but who has no file.
                prop_assert!(config.routes().all(|route| route.upstream.host() != Some("api.anthropic.com")), "{text}");
                let guarded = config.admin_closed || config.admin.token.is_some() || !(text.contains("\nadmin:\n") && text.contains("  token: "));
                prop_assert!(guarded, "{text}");
            }
        }
    }
}
