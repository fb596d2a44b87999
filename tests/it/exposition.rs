//! `/metrics` as it is read by others: a golden file, escaping, both formats.

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
    let totals = |status| TotalsKey {
        route: RouteName::new("api"),
        surface: Surface::AnthropicApi,
        owner: owner(owner_name),
        model: ModelGroup::of_model(model),
        status,
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

#[test]
fn hostile_names_are_escaped() {
    let text = render(&snapshot("o\"wn\\er", "m\"} 1\\"), &facts(), Format::Text);
    assert!(text.contains(r#"plimsoll_owner="o\"wn\\er""#));
    assert!(text.contains(r#"gen_ai_request_model="m\"} 1\\""#));
}
