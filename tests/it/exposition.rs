//! `/metrics` as it is read by others: a golden file, escaping, both formats.

use crate::support::api::Api;
use crate::support::{Sidecar, route_to, wait_for};
use arc_swap::ArcSwap;
use plimsoll::config::Semconv;
use plimsoll::engine::{BucketView, RejectionKey, RejectionView, Snapshot};
use plimsoll::exporters::catalogue::Facts;
use plimsoll::exporters::genai::GenAi;
use plimsoll::exporters::prometheus::{Format, render};
use plimsoll::ledger::{Totals, TotalsKey};
use plimsoll::limit::{Amount, Limiter, Scope, Timestamp, Window};
use plimsoll::owner::{Class, OwnerRule, Owners, Rung};
use plimsoll::route::{ModelGroup, Owner, OwnerId, OwnerKind, RouteName, Surface};
use plimsoll::stats::Stats;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

fn owner(name: &str) -> Owner {
    Owner { id: OwnerId::new(name), kind: OwnerKind::AnthropicWorkspace }
}

fn snapshot(owner_name: &str, model: &str) -> Snapshot {
    let bucket = BucketView {
        owner: owner(owner_name),
        surface: Surface::AnthropicApi,
        limiter: Limiter::INPUT_TOKENS,
        window: Window::Minute,
        scope: Scope::Account,
        model: ModelGroup::of_model(model),
        region: None,
        limit: Some(Amount::new(200_000)),
        remaining: Some(Amount::new(50_000)),
        used: Some(Amount::new(151_000)),
        refused: Some(Amount::new(2)),
        utilization: Some(0.75),
        peak: Some(0.8),
        empty_in: Some(Duration::from_secs(25)),
        run_out: Some(0.9),
        expected: None,
        resets: Some(NOW.plus(Duration::from_secs(45))),
        observed: NOW,
    };
    let unobserved = BucketView {
        limiter: Limiter::REQUESTS,
        remaining: None,
        used: None,
        refused: None,
        utilization: None,
        peak: None,
        empty_in: None,
        run_out: None,
        expected: None,
        resets: None,
        ..bucket.clone()
    };
    let key = RejectionKey {
        owner: owner(owner_name),
        surface: Surface::AnthropicApi,
        route: RouteName::new("api"),
        limiter: None,
        window: Window::Unknown,
        model: ModelGroup::of_model(model),
        region: None,
        class: Class::AnthropicWorkspace,
        rung: Rung::Wording,
    };
    let totals = |status: Option<u16>| TotalsKey {
        route: RouteName::new("api"),
        surface: Surface::AnthropicApi,
        owner: owner(owner_name),
        model: ModelGroup::of_model(model),
        status: status.map(Into::into),
    };
    Snapshot {
        at: NOW,
        buckets: vec![bucket, unobserved],
        rejections: vec![RejectionView {
            key,
            count: 3,
            trace: None,
            retry_at: Some(NOW.plus(Duration::from_secs(9))),
        }],
        totals: vec![
            (totals(None), Totals { requests: 1, ..Totals::default() }),
            (
                totals(Some(200)),
                Totals { requests: 40, input: 1_000, cache_write: 20, cache_read: 300, output: 500 },
            ),
            (totals(Some(429)), Totals { requests: 3, ..Totals::default() }),
        ],
        in_flight: vec![(RouteName::new("api"), 2)],
        ..Snapshot::default()
    }
}

fn facts() -> Facts {
    let rule = OwnerRule {
        kinds: vec![OwnerKind::AnthropicWorkspace],
        runbook_url: Some("https://wiki.example.com/search".into()),
        contact: Some("#search-oncall".into()),
        ..OwnerRule::named("search")
    };
    let stats = Stats::default();
    let counts = stats.routes.of("api");
    counts.missing_v1.add(4);
    counts.websockets.add(2);
    counts.websockets_refused.up();
    counts.other.add(7);
    Facts {
        owners: ArcSwap::from_pointee(Owners::new(vec![rule])),
        stats: Arc::new(stats),
        genai: GenAi::new(Semconv::Off, None),
    }
}

#[test]
fn the_exposition_is_the_golden_one() {
    insta::assert_snapshot!(render(&snapshot("search", "claude-opus-5-5"), &facts(), Format::Text));
}

#[test]
fn openmetrics_says_the_same_with_units_and_an_end() {
    let text = render(&snapshot("search", "claude-opus-5-5"), &facts(), Format::OpenMetrics);
    assert!(text.contains("# TYPE plimsoll_requests counter\n"));
    assert!(text.contains("# UNIT plimsoll_utilization_ratio ratio\n"));
    assert!(text.ends_with("# EOF\n"));
    let samples = |t: &str| t.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        samples(&text),
        samples(&render(&snapshot("search", "claude-opus-5-5"), &facts(), Format::Text))
    );
}

/// A sample as a reader of the format takes it apart, character by character.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads a line as `expfmt` of Prometheus does; what it does not take is an error of ours.
fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_at(line.find(['{', ' ']).expect(line));
    let mut rest = rest.chars().peekable();
    let mut labels = BTreeMap::new();
    if rest.next_if_eq(&'{').is_some() {
        loop {
            let label: String = std::iter::from_fn(|| rest.next_if(|c| *c != '=')).collect();
            assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
            assert_eq!((rest.next(), rest.next()), (Some('='), Some('"')), "{line}");
            let mut value = String::new();
            loop {
                match rest.next().expect(line) {
                    '"' => break,
                    '\\' => value.push(match rest.next() {
                        Some('n') => '\n',
                        Some(c @ ('"' | '\\')) => c,
                        other => panic!("escape {other:?} in {line}"),
                    }),
                    c => value.push(c),
                }
            }
            assert!(labels.insert(label, value).is_none(), "twice the same label: {line}");
            match rest.next() {
                Some(',') => {}
                Some('}') => break,
                other => panic!("{other:?} in {line}"),
            }
        }
    }
    assert_eq!(rest.next(), Some(' '), "{line}");
    let value: String = rest.collect();
    // Behind the value only OpenMetrics has something.
    let value = value.split(" # {").next().unwrap().parse().expect(line);
    Sample { name: name.to_owned(), labels, value }
}

fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

const NAMES: [&str; 16] = [
    "a # {b",
    "a # {b=\"c\"} 1",
    "a} 1",
    "a\nb 1",
    "\n# EOF\n",
    "# TYPE x counter",
    "# UNIT x ratio",
    "\"",
    "\\",
    "\\n",
    "\\\"",
    "m\"} 1\\",
    "\r\n",
    "a,b=\"c\"",
    "검색 ünï",
    " ",
];

/// Whatever somebody may call a thing, the scrape is read whole and the name is what it was.
#[test]
fn no_name_breaks_the_scrape() {
    let plain = samples(&render(&snapshot("search", "plain"), &facts(), Format::Text));
    for name in NAMES {
        let mut hostile = snapshot(name, "plain");
        for bucket in &mut hostile.buckets {
            bucket.region = Some(name.into());
        }
        for rejection in &mut hostile.rejections {
            rejection.trace = Some("0af7651916cd43dd8448eb211c80319c".into());
        }
        let text = samples(&render(&hostile, &facts(), Format::Text));
        let open = render(&hostile, &facts(), Format::OpenMetrics);
        assert_eq!(open.lines().filter(|line| *line == "# EOF").count(), 1, "{name:?}");
        assert_eq!(text, samples(&open), "{name:?}: both formats say the same");
        assert_eq!(text.len(), plain.len(), "{name:?}");
        let owner = text.iter().find(|s| s.name == "plimsoll_limit").unwrap();
        assert_eq!(owner.labels["plimsoll_owner"], name);
        assert_eq!(owner.labels["cloud_region"], name);
        assert_eq!(owner.value, 200_000.0);
    }
}

/// The same for what a caller may call a model, from the request to both formats, histograms among them.
#[tokio::test]
async fn no_model_breaks_the_scrape() {
    let api = Api::start().await;
    let sidecar = Sidecar::start(&(route_to(api.address) + "otlp: {semconv: both}\n")).await;
    for (n, name) in NAMES.into_iter().enumerate() {
        let body = serde_json::json!({"max_tokens": 10, "messages": [], "model": format!("{n}{name}")});
        let request = reqwest::Client::new().post(format!("http://{}/v1/messages", sidecar.hop));
        assert_eq!(request.json(&body).send().await.unwrap().status(), 200);
    }
    let calls = async |accept: &str| {
        let request = reqwest::Client::new().get(format!("http://{}/metrics", sidecar.metrics));
        let text = request.header("accept", accept).send().await.unwrap().text().await.unwrap();
        let name = "gen_ai_client_operation_duration_seconds_count";
        let samples = samples(&text);
        let of_name = samples.iter().filter(|s| s.name == name);
        of_name.map(|s| (s.labels["gen_ai_request_model"].clone(), s.value)).collect::<BTreeMap<_, _>>()
    };
    let wanted: BTreeMap<String, f64> = NAMES
        .into_iter()
        .enumerate()
        .map(|(n, name)| (ModelGroup::of_model(&format!("{n}{name}")).as_str().to_owned(), 1.0))
        .collect();
    for accept in ["*/*", "application/openmetrics-text"] {
        let seen = wait_for("all calls", async || {
            Some(calls(accept).await).filter(|calls| calls.values().sum::<f64>() >= NAMES.len() as f64)
        })
        .await;
        assert_eq!(seen, wanted, "{accept}");
    }
    assert!(wanted.contains_key("0a # {b"));
}
