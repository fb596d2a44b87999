//! `run --record` and `replay`: what the sidecar recorded is what the backtest reads.

use crate::support::api::{Answer, Api};
use crate::support::{PATIENCE, Sidecar, route_to, wait_for};
use arc_swap::ArcSwap;
use plimsoll::app::Seams;
use plimsoll::config::Semconv;
use plimsoll::engine::Thresholds;
use plimsoll::exporters::catalogue::Facts;
use plimsoll::exporters::genai::GenAi;
use plimsoll::exporters::prometheus::{Format, render};
use plimsoll::exporters::record::Recording;
use plimsoll::owner::Owners;
use plimsoll::replay::scenario::Scenario;
use plimsoll::replay::score::episodes;
use plimsoll::replay::{Source, scrapes, simulate};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// Runs `plimsoll replay` with these arguments.
async fn replay(args: &[&str], stdin: Stdio) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.env_clear().kill_on_drop(true).arg("replay").args(args).stdin(stdin);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("ends in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

async fn call(sidecar: &Sidecar) {
    let body = serde_json::json!({"model": "claude-opus-5-5", "max_tokens": 9, "messages": ["CanaryPrompt"]});
    let url = format!("http://{}/v1/messages", sidecar.hop);
    let request = reqwest::Client::new().post(url).header("x-api-key", "sk-ant-api03-CanaryKey").json(&body);
    request.send().await.unwrap().bytes().await.unwrap();
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn what_was_recorded_is_replayed_with_the_same_alerts_and_tells_no_secret() {
    let (api, dir) = (Api::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("answers.jsonl");
    let refused = Answer::RateLimited { retry_after: 9, should_retry: true };
    api.script([Answer::Ok { remaining: 60_000 }, Answer::Ok { remaining: 3_000 }, refused]);
    let record = Some(Recording { path: path.clone(), max_bytes: 1 << 20 });
    let seams = Seams { record, env: |_| None, ..Seams::default() };
    let sidecar = Sidecar::with(&route_to(api.address), seams).await;
    for _ in 0..3 {
        call(&sidecar).await;
    }
    let recorded = wait_for("three lines", async || Some(lines(&path)).filter(|l| l.len() == 3)).await;
    assert_eq!(recorded.iter().map(|l| l["status"].clone()).collect::<Vec<_>>(), [200, 200, 429]);
    assert_eq!(recorded[1]["headers"]["anthropic-ratelimit-input-tokens-remaining"], "3000");
    assert_eq!(
        (&recorded[0]["input_tokens"], &recorded[0]["output_tokens"]),
        (&15.into(), &4.into()),
        "cache writes count, reads do not"
    );
    assert!(recorded[0]["headed"].as_f64() >= recorded[0]["started"].as_f64());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("Canary"), "{text}");
    sidecar.wait_metric("plimsoll_exports_total", &["record", "sent"], 3.0).await;

    let (code, stdout, stderr) =
        replay(&["--responses", path.to_str().unwrap(), "--json"], Stdio::null()).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    let alerts: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Nothing else than what was raised live, and by the same owner.
    let live = sidecar.running.published.alerts.borrow().clone();
    for alert in live.iter() {
        let same = |replayed: &&Value| {
            replayed["alert"] == alert.name.as_str() && replayed["limiter"] == alert.identity.limiter.as_str()
        };
        let found = alerts.iter().find(same).unwrap_or_else(|| panic!("{alert:?} is not in {alerts:?}"));
        assert_eq!(found["owner_kind"], alert.identity.owner.kind.as_str());
    }
    assert!(!live.is_empty());
    let names: Vec<&str> = alerts.iter().filter_map(|alert| alert["alert"].as_str()).collect();
    assert!(names.contains(&"PlimsollBucketExhausting") && names.contains(&"PlimsollThrottled"), "{names:?}");
    for alert in &alerts {
        assert_eq!(alert["owner_kind"], "anthropic_workspace");
        assert!(alert["ends_at"].as_f64() >= alert["starts_at"].as_f64(), "{alert}");
        for key in ["alert", "severity", "owner", "limiter"] {
            assert!(alert[key].is_string(), "{key} of {alert}");
        }
    }
}

#[tokio::test]
async fn a_log_from_standard_input_with_broken_lines_is_replayed_and_says_so() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{{\"t\":1790000000,\"status\":200,\"headers\":{{}}}}\nnot json").unwrap();
    let stdin = Stdio::from(file.reopen().unwrap());
    let (code, stdout, stderr) = replay(&["--responses", "-"], stdin).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("1 responses, 0 of them 429; 0 alerts"), "{stdout}");
    assert!(stderr.contains("1 lines are left out; line 2:"), "{stderr}");
}

#[tokio::test]
async fn a_scenario_is_scored_beside_the_rules_of_today_and_the_seed_decides() {
    let run =
        async |seed: &str| replay(&["--scenario", "step", "--seed", seed, "--json"], Stdio::null()).await;
    let (code, one, _) = run("1").await;
    assert_eq!(code, 0);
    assert_eq!(run("1").await.1, one);
    assert_ne!(run("2").await.1, one);
    let report: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(report["scenario"], "step");
    for policy in ["plimsoll", "remaining_20_every_15s", "remaining_20_every_event"] {
        assert!(report["policies"][policy]["recall_5s"].is_number(), "{report}");
    }
}

#[tokio::test]
async fn wrong_use_of_replay_is_told() {
    let (code, _, stderr) = replay(&[], Stdio::null()).await;
    assert!(code == 2 && stderr.contains("--trace"), "{stderr}");
    let (code, _, stderr) = replay(&["--responses", "/nowhere/log.jsonl"], Stdio::null()).await;
    assert!(code == 1 && stderr.contains("/nowhere/log.jsonl: cannot be read"), "{stderr}");
}

/// Series of one scrape: name and labels, and the value.
fn series(text: &str) -> impl Iterator<Item = (String, f64)> + '_ {
    const NAMES: [&str; 4] = [
        "plimsoll_utilization_ratio{",
        "plimsoll_utilization_peak_ratio{",
        "plimsoll_exhaustion_delay_seconds{",
        "plimsoll_observed_time_seconds{",
    ];
    let wanted = |line: &&str| NAMES.iter().any(|name| line.starts_with(name));
    text.lines().filter(wanted).filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    })
}

/// Promtool's test of the fleet's rules, made of what the engine exported in a run of ramps: quiet
/// before each rise, firing in the last evaluation before its first 429.
fn fleet_test() -> String {
    const EVERY: f64 = 15.0;
    let run = simulate(Source::Scenario(Scenario::Ramp), 1, false);
    let facts = Facts {
        owners: ArcSwap::from_pointee(Owners::default()),
        stats: Arc::default(),
        genai: GenAi::new(Semconv::Off, None),
    };
    let scrapes = scrapes(&run, Thresholds::default(), Duration::from_secs_f64(EVERY));
    let epoch = scrapes[0].1.at.secs_f64();
    let mut values: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for (nth, (_, snapshot)) in scrapes.iter().enumerate() {
        for (name, value) in series(&render(snapshot, &facts, Format::Text)) {
            // Promtool's time begins at 0.
            let value = if name.contains("observed_time") { value - epoch } else { value };
            let row = values.entry(name).or_default();
            row.resize(nth, None);
            row.push(Some(value));
        }
    }
    let mut text = "# PlimsollBucketPressure on what the engine exported while ramps drained a bucket (`plimsoll replay\n# --scenario ramp --seed 1`, scraped every 15 s): quiet before each rise, firing in the last evaluation before\n# its first 429. Made by tests/it/backtest.rs with PLIMSOLL_UPDATE_DOCS=1.\nrule_files:\n  - ../plimsoll.rules.yaml\nevaluation_interval: 15s\n\ntests:\n  - name: the fleet's rules see what the sidecar saw\n    interval: 15s\n    input_series:\n".to_owned();
    for (name, row) in &values {
        let shown = row.iter().map(|value| value.map_or("_".to_owned(), |value| format!("{value:.3}")));
        let shown: Vec<String> = shown.collect();
        text += &format!("      - series: '{name}'\n        values: {}\n", shown.join(" "));
    }
    text += "    promql_expr_test:\n";
    let expect = |text: &mut String, at: f64, firing: bool| {
        let samples = if firing { "[{labels: '{}', value: 1}]" } else { "[]" };
        *text += &format!(
            "      - expr: group(ALERTS{{alertname=\"PlimsollBucketPressure\", alertstate=\"firing\"}})\n        eval_time: {at}s\n        exp_samples: {samples}\n"
        );
    };
    for (first, _) in episodes(&run.refused) {
        // The last moment at which everything stood at 90 %, and some evaluations before it.
        let full = run.full[run.full.partition_point(|at| *at < first) - 1];
        expect(&mut text, ((full - 30.0) / EVERY).floor() * EVERY, false);
        expect(&mut text, (first / EVERY).floor() * EVERY, true);
    }
    text
}

#[test]
fn the_fleets_rules_are_tested_on_series_that_a_run_produced() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/tests/run.test.yaml");
    let fresh = fleet_test();
    if std::env::var_os("PLIMSOLL_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == fresh, "{} has drifted; PLIMSOLL_UPDATE_DOCS=1 writes it anew", path.display());
}
