//! Every setting of the schema: a reload applies it, or says that it waits for the next start.

use crate::support::tls::Certs;
use plimsoll::app::{self, Seams};
use plimsoll::config::Config;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Settings that only allow what others ask for.
const ALLOW: [&str; 3] =
    ["sources.envoy_als.any_sender", "sources.otlp.any_sender", "listeners[].routes[].resign.any_caller"];

/// Every setting, by its path: `[]` for the elements of a list, `{}` for the members of a free map.
fn settings(node: &Value, schema: &Value, path: &str, all: &mut Vec<String>) {
    if let Some(name) = node["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
        match name {
            "Secret" => all.push(path.to_owned()),
            _ => settings(&schema["$defs"][name], schema, path, all),
        }
        return;
    }
    if let Some(some) = node["anyOf"].as_array() {
        let some = some.iter().find(|one| one["type"] != "null").unwrap();
        return settings(some, schema, path, all);
    }
    let is = |kind: &str| {
        node["type"] == kind || node["type"].as_array().is_some_and(|all| all.contains(&kind.into()))
    };
    if is("array") {
        settings(&node["items"], schema, &format!("{path}[]"), all);
    } else if let Some(members) = node["properties"].as_object() {
        for (name, member) in members {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            settings(member, schema, &path, all);
        }
    } else if is("object") {
        settings(&node["additionalProperties"], schema, &format!("{path}{{}}"), all);
    } else {
        all.push(path.to_owned());
    }
}

/// A configuration with every setting.
fn full(certs: &Certs) -> Value {
    let file = |name: &str| certs.file(name).display().to_string();
    let dir = certs.dir.path().display().to_string();
    json!({
        "state_dir": format!("{dir}"), "external_url": "https://plimsoll.example",
        "listeners": [{
            "bind": "127.0.0.1:0",
            "tls": {"cert_file": file("server.crt"), "key_file": file("server.key"), "client_ca_file": file("ca.pem")},
            "routes": [{
                "name": "api", "prefix": "/a", "strip_prefix": true, "upstream": "http://127.0.0.1:9", "surface": "bedrock",
                "region": "r", "project": "p", "ca_file": file("ca.pem"), "client_cert_file": file("client.pem"), "http2": false,
                "repair_paths": true, "websocket": "tunnel",
                "resign": {"region": "us-east-1", "service": "bedrock", "any_caller": false}
            }]
        }],
        "owners": [{
            "name": "search", "kinds": ["aws_account"], "runbook_url": "https://a", "dashboard_url": "https://b", "contact": "c",
            "match": {"organizations": ["o"], "workspaces": ["w"], "projects": ["p"], "regions": ["r"], "routes": ["api"]},
            "foresight": {"horizon_secs": 35, "caution": 1.25}
        }],
        "credentials": [{"alias": "ci", "secret": {"env": "ONE"}}], "fingerprint_key": {"env": "ONE"},
        "model_groups": {"opus": ["claude-opus-4*"]},
        "alerts": {
            "alertmanagers": [{"url": "http://127.0.0.1:9", "bearer_token": {"env": "ONE"}, "ca_file": file("ca.pem")}],
            "owner_label": "team", "labels": {"cluster": "a"}, "hold_secs": 60, "foresight": {"horizon_secs": 35, "caution": 1.25},
            "pressure_utilization": 0.8, "exhausting_utilization": 0.95, "pressure_horizon_secs": 600, "exhausting_horizon_secs": 60
        },
        "evidence": {"ids": "keep", "status_page": "http://127.0.0.1:9/s", "status_interval_secs": 600, "claude_status_file": "/x"},
        "metrics": {"bind": "127.0.0.1:0"},
        "admin": {"bind": "127.0.0.1:0", "token": {"env": "ONE"}, "allowed_hosts": ["h"]},
        "otlp": {"endpoint": "http://127.0.0.1:9", "protocol": "grpc", "compression": "gzip", "semconv": "off", "interval_secs": 3600, "span_ratio": 0.5},
        "limits": {"buckets": 100, "totals": 100}, "memory_limit": "4GiB",
        "sources": {
            "state_dir": format!("{dir}/kept"),
            "routes": [
                {"name": "told", "surface": "bedrock", "region": "r", "project": "p", "model": "m",
                 "match": {"hosts": ["h"], "paths": ["/p"], "services": ["s"], "sources": ["t"]}},
                {"name": "other"}, {"name": "third"}
            ],
            "envoy_als": {"bind": "127.0.0.1:0", "any_sender": false},
            "otlp": {
                "grpc": "127.0.0.1:0", "http": "127.0.0.1:0", "token": {"env": "ONE"}, "any_sender": false,
                "forward": {"endpoint": "http://127.0.0.1:9", "headers": {"x-a": {"env": "ONE"}}, "max_mb": 1}
            },
            "tails": [{"path": format!("{dir}/log"), "name": "t", "preset": "envoy", "route": "other", "fields": {"status": "code"},
                       "header_fields": {"retry-after": "r"}, "from": "end"}]
        },
        "pollers": {
            "anthropic": {"admin_key": {"env": "ONE"}, "url": "http://127.0.0.1:9", "monthly_spend_usd": 100,
                "workspaces": [{"id": "w", "monthly_spend_usd": 10}],
                "limits_interval_secs": 3600, "usage_interval_secs": 60, "spend_interval_secs": 900},
            "aws": [{"name": "a", "project": "123456789012", "regions": ["us-east-1"], "endpoint_url": "http://127.0.0.1:9",
                "limits_interval_secs": 3600, "usage_interval_secs": 300, "monthly_metrics": 1000, "models": {"M": "m"}}],
            "google": [{"name": "g", "project": "p-1", "endpoint_url": "http://127.0.0.1:9", "limits_interval_secs": 3600,
                "usage_interval_secs": 60, "monthly_series": 1000}],
            "gateways": [{"name": "g", "kind": "litellm", "url": "http://127.0.0.1:9", "admin_url": "http://127.0.0.1:9/a", "route": "other",
                "key": {"env": "ONE"}, "keys": ["k"], "teams": ["t"], "interval_secs": 15}],
            "limits": {"url": "http://127.0.0.1:9", "interval_secs": 60}
        },
        "quotas": [{"surface": "bedrock", "project": "p", "region": "r", "model": "m", "limiter": "tokens", "per_minute": 10}],
        "counting": {"share": 0.5, "burndown": {"m": 5}, "reserve_by_burndown": false}
    })
}

/// The value at a path, the first of lists and of free maps.
fn at<'v>(value: &'v mut Value, path: &str) -> &'v mut Value {
    let steps = path.replace("[]", ".[]").replace("{}", ".{}");
    steps.split('.').fold(value, |value, step| match step {
        "[]" => &mut value[0],
        "{}" => value.as_object_mut().unwrap().values_mut().next().unwrap(),
        key => value.get_mut(key).unwrap_or_else(|| panic!("{path} is not in the full configuration")),
    })
}

/// Another value that may stand there.
fn other(path: &str, value: &Value, certs: &Certs) -> Value {
    let words = [
        ("surface", "vertex"),
        ("owners[].kinds[]", "gcp_project"),
        ("evidence.ids", "hash"),
        ("protocol", "http/protobuf"),
        ("compression", "none"),
        ("semconv", "both"),
        ("tails[].preset", "nginx"),
        ("tails[].from", "start"),
        ("gateways[].kind", "kong"),
        ("limiter", "requests"),
        ("tails[].route", "third"),
        ("gateways[].route", "third"),
        ("aws[].project", "210987654321"),
        ("sources.tails[].fields{}", "other"),
        ("websocket", "refuse"),
        ("memory_limit", "5GiB"),
    ];
    if let Some((_, word)) = words.iter().find(|(end, _)| path.ends_with(end)) {
        return json!(word);
    }
    let file = |name: &str| json!(certs.file(name));
    match (path.rsplit('.').next().unwrap(), value) {
        (_, Value::Bool(yes)) => json!(!yes),
        (_, Value::Number(number)) if number.is_f64() => json!(number.as_f64().unwrap() * 0.9),
        (_, Value::Number(number)) => json!(number.as_u64().unwrap() + 1),
        (_, Value::Object(_)) => json!({"env": "TWO"}),
        ("bind" | "grpc" | "http", _) => json!("127.0.0.2:0"),
        ("cert_file", _) => file("other.crt"),
        ("key_file", _) => file("server.copy"),
        ("ca_file" | "client_ca_file" | "client_cert_file", _) => file("other.pem"),
        (_, Value::String(text)) if text.starts_with("http") => json!(format!("{text}/x")),
        (_, Value::String(text)) => json!(format!("{text}x")),
        (_, value) => panic!("{path}: {value}"),
    }
}

/// What docs/operations.md says of settings that wait.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../docs/operations.md");
    let sentence = text.split("**At the next start only:**").nth(1).unwrap().split(". ").next().unwrap();
    sentence.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn parse(config: &Value, rotated: bool) -> Config {
    let env = move |name: &str| Some(format!("{name}-{rotated}"));
    Config::parse(&config.to_string(), &env).unwrap_or_else(|e| panic!("{e}\n{config:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_setting_is_applied_by_a_reload_or_said_to_wait_for_the_next_start() {
    let certs = Certs::new();
    certs.issue("other", &["localhost"]);
    std::fs::copy(certs.file("server.key"), certs.file("server.copy")).unwrap();
    let mut all = Vec::new();
    let schema = Config::schema();
    settings(&schema, &schema, "", &mut all);
    assert!(all.len() > 120, "{all:?}");
    let whole = full(&certs);
    let first = parse(&whole, false);
    let seams = Seams { env: |_| None, ..Seams::default() };
    let mut running = app::start(first.clone(), seams).await.unwrap();
    running.open_control(None).await.unwrap();
    let mut waits = BTreeSet::new();
    for setting in &all {
        let full = if setting.ends_with("repair_paths") { repairable(&whole) } else { whole.clone() };
        let before = parse(&full, false);
        running.reload(&before).await.unwrap();
        let mut changed = full.clone();
        let value = at(&mut changed, setting);
        *value = other(setting, value, &certs);
        if setting == "pollers.gateways[].kind" {
            let gateway = at(&mut changed, "pollers.gateways[]").as_object_mut().unwrap();
            gateway.retain(|key, _| key != "keys" && key != "teams");
        }
        if setting == "listeners[].tls.cert_file" {
            changed["listeners"][0]["tls"]["key_file"] = json!(certs.file("other.key"));
        }
        let changed = parse(&changed, false);
        if ALLOW.contains(&setting.as_str()) {
            assert_eq!(before, Config { text: before.text.clone(), ..changed }, "{setting}");
            continue;
        }
        let sections = before.changes(&changed);
        assert!(!sections.is_empty(), "{setting}: a change that nobody sees");
        let waiting = running.reload(&changed).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
        assert!(waiting.iter().all(|one| sections.contains(one)), "{setting}: {waiting:?}");
        assert_eq!(running.stats.restart.get(), waiting, "{setting}");
        let documented = documented();
        let meant: Vec<_> = sections.iter().filter(|one| documented.contains(**one)).copied().collect();
        assert_eq!(waiting, meant, "{setting}");
        waits.extend(waiting.into_iter().map(str::to_owned));
        assert_eq!(running.reload(&before).await.unwrap(), Vec::<&str>::new(), "{setting}: taken back");
    }
    assert_eq!(waits, documented());
    // Every secret, read anew from where it was.
    running.reload(&first).await.unwrap();
    let secrets = all.iter().filter(|setting| is_secret(&whole, setting)).count();
    assert!(secrets >= 8, "{secrets}");
    let rotated = parse(&whole, true);
    let sections = first.changes(&rotated);
    for section in ["credentials", "fingerprint_key", "alerts", "admin", "sources.otlp", "pollers"] {
        assert!(sections.contains(&section), "{section}: {sections:?}");
    }
    assert_eq!(running.reload(&rotated).await.unwrap(), ["sources.otlp"]);
    running.shutdown().await;
}

/// With a route whose paths are repaired: to the provider's own host, and not signed anew.
fn repairable(full: &Value) -> Value {
    let mut full = full.clone();
    let route = full["listeners"][0]["routes"][0].as_object_mut().unwrap();
    route.insert("upstream".into(), json!("http://api.anthropic.com:9"));
    route.remove("resign");
    full
}

fn is_secret(full: &Value, setting: &str) -> bool {
    at(&mut full.clone(), setting).get("env").is_some()
}
