//! Alerts reach their owners before the 429, by both ways, as one alert, and end honestly.

use crate::programs::{Program, alertmanager, json, prometheus, shipped};
use crate::support::webhook::{Post, Webhook};
use crate::support::{Sidecar, serve_http1, wait_for};
use arc_swap::ArcSwap;
use http_body_util::Full;
use plimsoll::clock::Clock;
use plimsoll::config;
use plimsoll::demo::{Capacity, Plan, Provider, Traffic};
use plimsoll::engine::{Alert, AlertName, BucketView, Identity, Snapshot};
use plimsoll::exporters::alertmanager::{Parts, Writer, spawn, system_resolver};
use plimsoll::exporters::catalogue::Facts;
use plimsoll::exporters::genai::GenAi;
use plimsoll::exporters::prometheus::{Format, render};
use plimsoll::limit::{Amount, Limiter, Scope, Window};
use plimsoll::owner::Owners;
use plimsoll::route::{ModelGroup, Owner, OwnerId, OwnerKind, RouteName, Surface};
use plimsoll::stop;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The shipped Prometheus example, on these addresses, with intervals of a second instead of 15.
pub async fn shipped_prometheus(targets: &[SocketAddr], alertmanager: SocketAddr) -> Program {
    let targets = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join("', '");
    let config = shipped("alerts/prometheus.example.yaml")
        .replace("127.0.0.1:9429", &targets)
        .replace("127.0.0.1:9093", &alertmanager.to_string())
        .replace("15s", "1s");
    let rules = shipped("alerts/plimsoll.rules.yaml").replace("interval: 15s", "interval: 1s");
    prometheus(&config, &rules).await
}

/// Alertmanager that sends two owners to two receivers, at once, and each alert by itself.
async fn two_receivers(search: &Webhook, batch: &Webhook) -> Program {
    alertmanager(&format!(
        "route:
  receiver: none
  group_by: ['...']
  group_wait: 0s
  group_interval: 1s
  routes:
  - {{receiver: search, matchers: ['owner=\"search\"']}}
  - {{receiver: batch, matchers: ['owner=\"batch\"']}}
receivers:
- name: none
- name: search
  webhook_configs: [{{url: 'http://{}/hook'}}]
- name: batch
  webhook_configs: [{{url: 'http://{}/hook'}}]
",
        search.address, batch.address
    ))
    .await
}

/// The alerts of a webhook body.
fn alerts(post: &Post) -> Vec<serde_json::Value> {
    post.body["alerts"].as_array().cloned().unwrap_or_default()
}

fn first(hook: &Webhook, names: &[&str]) -> Option<(Post, serde_json::Value)> {
    hook.posts().into_iter().find_map(|post| {
        let alert =
            alerts(&post).into_iter().find(|a| names.iter().any(|n| a["labels"]["alertname"] == *n))?;
        Some((post, alert))
    })
}

const PRESSURE: [&str; 2] = ["PlimsollBucketPressure", "PlimsollBucketExhausting"];

/// Sixty thousand input tokens a minute, emptied in some 35 s by traffic that grows.
pub const CAPACITY: Capacity = Capacity { requests: 600, input: 60_000, output: 60_000 };
pub const PLAN: Plan = Plan { start: 1.0, growth: 0.1, prompt: 4_000, output: 60 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pressure_reaches_both_owners_before_the_first_429_by_both_ways() {
    let (search, batch) = (Webhook::start().await, Webhook::start().await);
    let manager = two_receivers(&search, &batch).await;
    let providers = [Provider::start(CAPACITY).await.unwrap(), Provider::start(CAPACITY).await.unwrap()];
    let admin = plimsoll::admin::Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let config = format!(
        "external_url: http://{}
listeners:
- {{bind: '127.0.0.1:0', routes: [{{name: search-api, upstream: 'http://{}'}}]}}
- {{bind: '127.0.0.1:0', routes: [{{name: batch-jobs, upstream: 'http://{}'}}]}}
owners:
- {{name: search, match: {{routes: [search-api]}}}}
- {{name: batch, match: {{routes: [batch-jobs]}}}}
alerts: {{alertmanagers: [{{url: 'http://{}'}}]}}
",
        admin.address, providers[0].address, providers[1].address, manager.address
    );
    let seams = plimsoll::app::Seams { admin: Some(admin), env: |_| None, ..plimsoll::app::Seams::default() };
    let sidecar = Sidecar::with(&config, seams).await;
    let fleet = shipped_prometheus(&[sidecar.metrics], manager.address).await;
    let traffic =
        [Traffic::start(sidecar.running.hops()[0], PLAN), Traffic::start(sidecar.running.hops()[1], PLAN)];
    let refused = || traffic.iter().any(|t| t.first_429_at().is_some());

    // The direct way: at both receivers before any 429, within 2 s of the decision.
    for (hook, owner) in [(&search, "search"), (&batch, "batch")] {
        let (_, alert) = wait_in(60, "the direct alert", async || first(hook, &PRESSURE)).await;
        let arrived = jiff::Timestamp::now();
        assert!(!refused(), "the alert comes before the first 429");
        assert_eq!(alert["labels"]["owner"], owner);
        assert_eq!(alert["labels"]["owner_kind"], "anthropic_workspace");
        assert_eq!(alert["labels"]["limiter"], "input_tokens");
        assert!(alert["labels"].get("cluster").is_none() && alert["labels"].get("pod").is_none());
        let decided: jiff::Timestamp = alert["startsAt"].as_str().unwrap().parse().unwrap();
        if owner == "search" {
            let took = arrived.duration_since(decided);
            assert!(took.as_secs_f64() < 2.0, "{took:?} from decision to webhook");
        }
        let runbook = reqwest::get(alert["annotations"]["runbook_url"].as_str().unwrap()).await.unwrap();
        assert_eq!(runbook.status(), 200);
        assert!(runbook.text().await.unwrap().contains("## First move"), "the link opens and helps");
    }

    // The fleet's way: Prometheus fires the same alerts, still before the 429.
    let firing = wait_in(60, "Prometheus to fire", async || {
        let firing = json(&format!("http://{}/api/v1/alerts", fleet.address)).await["data"]["alerts"]
            .as_array()
            .cloned()?;
        let both = ["search", "batch"]
            .iter()
            .all(|owner| firing.iter().any(|a| a["labels"]["owner"] == *owner && a["state"] == "firing"));
        both.then_some(firing)
    })
    .await;
    assert!(!refused(), "the rule fires before the first 429");
    for alert in &firing {
        let url = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert!(url.ends_with("/runbooks/anthropic_workspace.md"), "{url}");
    }

    // One alert, whoever sent it.
    wait_in(60, "the first 429", async || refused().then_some(())).await;
    let held = json(&format!("http://{}/api/v2/alerts", manager.address)).await;
    let mut identities: Vec<String> =
        held.as_array().unwrap().iter().map(|a| a["labels"].to_string()).collect();
    let all = identities.len();
    identities.sort();
    identities.dedup();
    assert!(all > 0 && identities.len() == all);
    for name in PRESSURE {
        for owner in ["search", "batch"] {
            let same = held.as_array().unwrap().iter().filter(|a| {
                a["labels"]["alertname"] == name
                    && a["labels"]["owner"] == owner
                    && a["labels"]["limiter"] == "input_tokens"
            });
            assert_eq!(same.count(), 1, "{name} of {owner}: {held:#}");
        }
    }
    for hook in [&search, &batch] {
        let other = if std::ptr::eq(hook, &search) { "batch" } else { "search" };
        assert!(
            hook.posts().iter().flat_map(alerts).all(|a| a["labels"]["owner"] != other),
            "nobody gets a stranger's alert"
        );
    }
    for traffic in &traffic {
        traffic.stop();
    }
}

async fn wait_in<T>(seconds: u64, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let waited =
        tokio::time::timeout(Duration::from_secs(seconds), crate::support::eventually(async || look().await));
    waited.await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn bucket_owner() -> Owner {
    Owner { id: OwnerId::new("search"), kind: OwnerKind::AnthropicWorkspace }
}

fn alert(now: plimsoll::limit::Timestamp) -> Alert {
    Alert {
        name: AlertName::BucketPressure,
        identity: Identity {
            owner: bucket_owner(),
            limiter: Limiter::INPUT_TOKENS,
            window: Window::Minute,
            scope: Scope::Account,
            model: ModelGroup::of_model("claude-opus-5-5"),
            region: None,
        },
        since: now,
        utilization: Some(0.85),
        empty_in: None,
        route: RouteName::new("search-api"),
        detail: None,
    }
}

/// A metrics port that shows one bucket under pressure, freshly observed.
async fn pod_under_pressure(clock: Clock) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    serve_http1(listener, move |_| {
        let now = clock.now();
        let bucket = BucketView {
            owner: bucket_owner(),
            surface: Surface::AnthropicApi,
            limiter: Limiter::INPUT_TOKENS,
            window: Window::Minute,
            scope: Scope::Account,
            model: ModelGroup::of_model("claude-opus-5-5"),
            region: None,
            limit: Some(Amount::new(100_000)),
            remaining: Some(Amount::new(15_000)),
            used: None,
            refused: None,
            utilization: Some(0.85),
            peak: Some(0.85),
            empty_in: None,
            run_out: None,
            expected: None,
            resets: None,
            observed: now,
        };
        let snapshot = Snapshot { at: now, buckets: vec![bucket], ..Snapshot::default() };
        let facts = Facts {
            owners: ArcSwap::from_pointee(Owners::default()),
            stats: Arc::default(),
            genai: GenAi::new(config::Semconv::Off, None),
        };
        let text = render(&snapshot, &facts, Format::Text);
        async move { http::Response::new(Full::<bytes::Bytes>::from(text)) }
    });
    address
}

/// Twenty sidecars and one Prometheus hold one alert; one sidecar stops: nothing happens. All
/// sidecars stop: Prometheus still holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_make_one_alert_and_no_sender_resolves_it_for_the_others() {
    let (search, batch) = (Webhook::start().await, Webhook::start().await);
    let manager = two_receivers(&search, &batch).await;
    let clock = Clock::system();
    let pod = pod_under_pressure(clock.clone()).await;
    let _fleet = shipped_prometheus(&[pod], manager.address).await;
    let endpoint = config::Alertmanager {
        url: format!("http://{}", manager.address),
        bearer_token: None,
        ca_file: None,
    };
    let hold = Duration::from_secs(3);
    let writer = Writer {
        alerts: config::Alerts {
            alertmanagers: vec![endpoint],
            owner_label: "owner".into(),
            labels: Vec::new(),
            hold,
        },
        owners: Arc::default(),
        external_url: None,
    };
    let (_alerts, up) = watch::channel(Arc::new(vec![alert(clock.now())]));
    let mut senders = Vec::new();
    for _ in 0..20 {
        let (stopper, stop) = stop::channel();
        let parts = Parts {
            writer: writer.clone(),
            alerts: up.clone(),
            stats: Arc::default(),
            clock: clock.clone(),
            stop,
            resolve: system_resolver(),
        };
        let tasks = spawn(&parts).unwrap();
        senders.push((stopper, tasks, parts.stats));
    }
    wait_for("all to have posted", async || {
        senders.iter().all(|(_, _, stats)| stats.alertmanager.sent.get() >= 1).then_some(())
    })
    .await;
    wait_for("the alert", async || first(&search, &PRESSURE)).await;

    let one = || async {
        let held = json(&format!("http://{}/api/v2/alerts", manager.address)).await;
        held.as_array().unwrap().iter().filter(|a| a["status"]["state"] == "active").count()
    };
    // One stops. The others' later posts prove that its hold has run out in between.
    let (stopper, _, _) = senders.remove(0);
    stopper.stop();
    let posted: Vec<u64> = senders.iter().map(|(_, _, stats)| stats.alertmanager.sent.get()).collect();
    wait_for("the others to hold it on", async || {
        senders
            .iter()
            .zip(&posted)
            .all(|((_, _, stats), before)| stats.alertmanager.sent.get() >= before + 5)
            .then_some(())
    })
    .await;
    assert_eq!(one().await, 1);
    // All sidecars stop: Prometheus alone holds it, longer than any sidecar's hold.
    for (stopper, tasks, _) in senders {
        stopper.stop();
        for task in tasks {
            task.await.unwrap();
        }
    }
    tokio::time::sleep(hold * 2).await;
    assert_eq!(one().await, 1);
    let resolved = search.posts().iter().flat_map(alerts).filter(|a| a["status"] == "resolved").count();
    assert_eq!(resolved, 0, "nobody's end was taken for everybody's");
    assert_eq!(
        search.posts().iter().flat_map(alerts).filter(|a| a["status"] == "firing").count(),
        1,
        "told once"
    );
}

/// The shipped Alertmanager example: each owner's alerts reach that owner, what is critical does not wait, and no
/// owner's critical alert mutes a stranger's warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_routes_reach_each_owner_and_mute_no_stranger() {
    let hook = Webhook::start().await;
    let config = shipped("alerts/alertmanager.example.yaml");
    let manager = alertmanager(&config.replace("127.0.0.1:8080", &hook.address.to_string())).await;
    let alert = |name: &str, severity: &str, owner: &str, limiter: &str| {
        serde_json::json!({
            "labels": {
                "alertname": name, "severity": severity, "owner": owner, "owner_kind": "anthropic_workspace",
                "limiter": limiter, "window": "1m", "scope": "account", "model": "claude-opus-5-5",
            },
            "annotations": {"summary": "s", "runbook_url": format!("https://wiki.example.com/{owner}")},
        })
    };
    let account = "123456789012/eu-west-1";
    let all = serde_json::json!([
        alert("PlimsollBucketExhausting", "critical", "search", "input_tokens"),
        // The same bucket: superfluous.
        alert("PlimsollBucketPressure", "warning", "search", "input_tokens"),
        // Another bucket of the same owner, and the same one of others: news.
        alert("PlimsollBucketPressure", "warning", "search", "requests"),
        alert("PlimsollBucketPressure", "warning", account, "input_tokens"),
        alert("PlimsollBucketPressure", "warning", "nobody-configured", "input_tokens"),
        // That calls are refused is another fact.
        alert("PlimsollThrottled", "warning", "search", "input_tokens"),
    ]);
    let url = format!("http://{}/api/v2/alerts", manager.address);
    assert!(reqwest::Client::new().post(url).json(&all).send().await.unwrap().status().is_success());
    let got = || {
        let mut got: Vec<(String, String, String)> = hook
            .posts()
            .iter()
            .flat_map(|post| alerts(post).into_iter().map(|one| (post.path.clone(), one)))
            .map(|(path, one)| {
                let label = |name: &str| one["labels"][name].as_str().unwrap().to_owned();
                (path.rsplit('/').next().unwrap().to_owned(), label("alertname"), label("limiter"))
            })
            .collect();
        got.sort();
        got.dedup();
        got
    };
    let row = |path: &str, name: &str, limiter: &str| (path.to_owned(), name.to_owned(), limiter.to_owned());
    let critical = row("search", "PlimsollBucketExhausting", "input_tokens");
    wait_in(5, "the critical one, before the others' group_wait", async || {
        (got() == [critical.clone()]).then_some(())
    })
    .await;
    let mut wanted = vec![
        critical,
        row("search", "PlimsollBucketPressure", "requests"),
        row("search", "PlimsollThrottled", "input_tokens"),
        row("cloud-platform", "PlimsollBucketPressure", "input_tokens"),
        row("default", "PlimsollBucketPressure", "input_tokens"),
    ];
    wanted.sort();
    wait_in(40, "the others", async || (got() == wanted).then_some(())).await;
    let muted = json(&format!("http://{}/api/v2/alerts?inhibited=true&active=false", manager.address)).await;
    let muted: Vec<&serde_json::Value> = muted.as_array().unwrap().iter().map(|one| &one["labels"]).collect();
    assert_eq!(muted.len(), 1, "{muted:?}");
    assert_eq!((&muted[0]["owner"], &muted[0]["limiter"]), (&"search".into(), &"input_tokens".into()));
}
