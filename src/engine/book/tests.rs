use super::*;
use crate::limit::{Amount, Level, Refill};
use crate::observation::{Credential, Outcome, RequestShape, Usage};
use crate::owner::{OwnerRule, Pattern};
use crate::route::OwnerKind;

const T0: Timestamp = Timestamp::from_secs(1_790_000_000);

fn at(secs: f64) -> Timestamp {
    T0.plus(Duration::from_secs_f64(secs))
}

fn call(route: &str) -> Arc<Call> {
    Arc::new(Call {
        id: 1,
        route: RouteName::new(route),
        surface: Surface::AnthropicApi,
        auth: crate::observation::AuthKind::ApiKey,
        credential: Credential::default(),
        client: Client::Other,
        session: None,
        region: None,
        started: T0,
        traceparent: None,
        method: http::Method::POST,
        path: "/v1/messages".into(),
    })
}

fn limits(workspace: &str, remaining: u64) -> Arc<Limits> {
    let level = Level::Counted { limit: Amount::new(60_000), remaining: Amount::new(remaining) };
    Arc::new(Limits {
        account: Account { organization: None, workspace: Some(workspace.into()) },
        trios: true,
        readings: vec![Reading {
            limiter: Limiter::INPUT_TOKENS,
            window: Window::Minute,
            refill: Refill::Continuous,
            level: Some(level),
            resets: None,
            standing: None,
            rounding: Amount::new(1_000),
        }],
        ..Limits::default()
    })
}

fn head(route: &str, model: &str, limits: Arc<Limits>, now: Timestamp) -> Head {
    Head { call: call(route), model: Some(ModelGroup::of_model(model)), at: now, status: 200, limits }
}

fn end(route: &str, status: u16, limits: Arc<Limits>, bytes: u64, now: Timestamp) -> Box<End> {
    Box::new(End {
        call: call(route),
        model: Some(ModelGroup::of_model("claude-opus-5-5")),
        at: now,
        status: Some(status),
        outcome: Outcome::Complete,
        limits,
        request: RequestShape { body_bytes: bytes, max_tokens: Some(Amount::new(100)), stream: Some(false) },
        concurrency: 1,
        usage: Some(Usage::default()),
        error: (status >= 400).then(Box::default),
    })
}

fn owners() -> Arc<Owners> {
    let owner = |id: &str, route: &str| OwnerRule {
        kinds: vec![OwnerKind::AnthropicWorkspace],
        routes: vec![Pattern::new(route)],
        ..OwnerRule::named(id)
    };
    Arc::new(Owners::new(vec![owner("search", "search"), owner("batch", "batch")]))
}

fn book(limits: BookLimits) -> Book {
    Book::new(owners(), Thresholds::default(), limits)
}

#[test]
fn two_owners_have_two_buckets_and_two_alerts() {
    let mut book = book(BookLimits::default());
    for (route, workspace) in [("search", "wrkspc_1"), ("batch", "wrkspc_2")] {
        book.head(&head(route, "claude-opus-5-5", limits(workspace, 6_000), at(0.0)));
    }
    let alerts = book.alerts(at(0.0));
    let pressure: Vec<_> = alerts.iter().filter(|a| a.name == AlertName::BucketPressure).collect();
    assert_eq!(pressure.len(), 2);
    let owners: Vec<_> = pressure.iter().map(|a| a.identity.owner.id.as_str()).collect();
    assert_eq!(owners, ["batch", "search"]);
}

#[test]
fn unnamed_accounts_are_kept_apart_and_shown_as_their_worst() {
    let mut book = book(BookLimits::default());
    for (workspace, remaining) in [("wrkspc_1", 50_000), ("wrkspc_2", 20_000), ("wrkspc_1", 50_000)] {
        book.head(&head("other", "claude-opus-5-5", limits(workspace, remaining), at(1.0)));
    }
    let snapshot = book.snapshot(at(1.0));
    assert_eq!(snapshot.buckets.len(), 1, "one set of labels, one row");
    assert!(snapshot.buckets[0].owner.id.is_unnamed());
    assert_eq!(snapshot.buckets[0].remaining, Some(Amount::new(20_000)));
}

#[test]
fn token_counting_is_another_pool() {
    let mut book = book(BookLimits::default());
    let mut counting = head("search", "claude-opus-5-5", limits("w", 1_000), at(0.0));
    counting.call = Arc::new(Call { path: "/v1/messages/count_tokens".into(), ..(*call("search")).clone() });
    book.head(&counting);
    assert_eq!(book.snapshot(at(0.0)).buckets[0].limiter.as_str(), "count_tokens_input_tokens");
}

#[test]
fn the_table_of_buckets_is_bounded_and_says_what_it_folded() {
    let mut book = book(BookLimits { buckets: 100, ..BookLimits::default() });
    for n in 0..10_000 {
        book.head(&head("search", &format!("model-{n}"), limits("w", 50_000), at(f64::from(n) / 1_000.0)));
    }
    let snapshot = book.snapshot(at(10.0));
    assert_eq!(snapshot.buckets.len(), 100);
    assert_eq!(snapshot.folded, 9_900);
    // What is no longer observed makes room for what is.
    book.head(&head("search", "fresh", limits("w", 50_000), at(100.0)));
    assert!(book.snapshot(at(100.0)).buckets.iter().any(|b| b.model.as_str() == "fresh"));
}

#[test]
fn idle_buckets_expire() {
    let mut book = book(BookLimits::default());
    book.head(&head("search", "claude-opus-5-5", limits("w", 50_000), at(0.0)));
    book.tick(at(60.0));
    assert_eq!(book.snapshot(at(60.0)).buckets.len(), 1);
    book.tick(at(120.0));
    let stale = &book.snapshot(at(120.0)).buckets[0];
    assert_eq!((stale.remaining, stale.utilization), (None, None), "unobserved is absent, not full");
    book.tick(at(1_000.0));
    assert_eq!(book.snapshot(at(1_000.0)).buckets.len(), 0);
}

#[test]
fn a_throttle_alert_begins_at_the_refusal_and_ends_a_minute_after_the_last() {
    let mut book = book(BookLimits::default());
    for second in [0.0, 30.0] {
        book.end(end("search", 429, limits("w", 0), 10, at(second)));
    }
    let throttled =
        |book: &Book, now| book.alerts(now).iter().filter(|a| a.name == AlertName::Throttled).count();
    assert_eq!(throttled(&book, at(30.0)), 1);
    book.tick(at(89.0));
    assert_eq!(throttled(&book, at(89.0)), 1);
    book.tick(at(90.0));
    assert_eq!(throttled(&book, at(90.0)), 0);
}

#[test]
fn overload_and_bad_requests_raise_no_throttle_alert() {
    let mut book = book(BookLimits::default());
    for status in [529, 500, 400, 503] {
        let judged = book.end(end("search", status, Arc::default(), 10, at(0.0)));
        assert!(!judged.verdict.expect("a failure is judged").class.is_limit());
    }
    assert_eq!(book.alerts(at(0.0)).len(), 0);
}

#[test]
fn a_429_with_room_in_every_bucket_on_a_steep_rise_is_a_burst() {
    let mut book = book(BookLimits::default());
    let early = T0.minus(Duration::from_secs(60));
    book.head(&head("search", "claude-opus-5-5", limits("w", 50_000), early));
    for n in 0..30 {
        book.head(&head("search", "claude-opus-5-5", limits("w", 50_000), at(f64::from(n) / 10.0)));
    }
    let judged = book.end(end("search", 429, limits("w", 50_000), 10, at(3.0)));
    let verdict = judged.verdict.unwrap();
    assert_eq!((verdict.class, verdict.rule.id), (Class::Burst, "burst_steep"));
    assert_eq!((judged.owner.id.as_str(), judged.owner.kind), ("search", OwnerKind::TrafficShape));
}

#[test]
fn a_smaller_success_eases_an_incident_and_a_comparable_one_closes_it() {
    let mut book = book(BookLimits::default());
    let full = || limits("w", 60_000);
    book.end(end("search", 200, full(), 1_000, at(0.0)));
    book.end(end("search", 429, limits("w", 0), 1_000, at(1.0)));
    book.end(end("search", 429, limits("w", 0), 1_000, at(2.0)));
    let incident = |book: &Book| book.snapshot(at(9.0)).incidents[0].1.clone();
    let open = incident(&book).open.expect("open");
    assert_eq!(open.failures, 2);
    assert_eq!((open.first.at, open.current.at), (at(1.0), at(2.0)));
    book.end(end("search", 200, full(), 100, at(3.0)));
    assert_eq!(incident(&book).open.expect("eased, not closed").eased, Some(at(3.0)));
    book.end(end("search", 200, full(), 900, at(4.0)));
    assert!(incident(&book).open.is_none());
}

#[test]
fn rejections_are_bounded_and_none_is_lost() {
    let mut book = book(BookLimits { rejections: 10, ..BookLimits::default() });
    for n in 0..500 {
        let mut failed = end("search", 429, limits("w", 0), 10, at(0.0));
        failed.model = Some(ModelGroup::of_model(&format!("m{n}")));
        book.end(failed);
    }
    let snapshot = book.snapshot(at(0.0));
    assert!(snapshot.rejections.len() <= 11, "{}", snapshot.rejections.len());
    assert_eq!(snapshot.rejections.iter().map(|r| r.count).sum::<u64>(), 500);
}

#[test]
fn a_reload_keeps_what_is_the_same_and_drops_what_is_gone() {
    let mut book = book(BookLimits::default());
    for (route, workspace) in [("search", "wrkspc_1"), ("batch", "wrkspc_2")] {
        book.head(&head(route, "claude-opus-5-5", limits(workspace, 6_000), at(0.0)));
        book.end(end(route, 429, limits(workspace, 0), 10, at(0.0)));
    }
    let since = |book: &Book, owner: &str| {
        book.alerts(at(1.0)).iter().find(|a| a.identity.owner.id.as_str() == owner).map(|a| a.since)
    };
    assert!(since(&book, "search").is_some() && since(&book, "batch").is_some());
    let only_search = Owners::new(owners().iter().filter(|o| o.id.as_str() == "search").cloned().collect());
    let version = book.alerts_version();
    book.reconfigure(Arc::new(only_search), Thresholds::default(), BookLimits::default());
    assert!(book.alerts_version() > version, "what is pushed changes at once");
    assert_eq!(since(&book, "search"), Some(at(0.0)), "the same owner's alert goes on");
    assert_eq!(since(&book, "batch"), None, "the alert of an owner that is gone lapses");
}

#[test]
fn a_restart_under_steady_load_is_no_burst() {
    let mut book = book(BookLimits::default());
    for n in 0..40 {
        book.head(&head("search", "claude-opus-5-5", limits("w", 50_000), at(f64::from(n) / 2.0)));
    }
    let judged = book.end(end("search", 429, limits("w", 50_000), 10, at(20.0)));
    assert_ne!(judged.verdict.unwrap().class, Class::Burst, "what was before is not known");
}

#[test]
fn a_clock_set_back_freezes_nothing() {
    let mut book = book(BookLimits::default());
    book.head(&head("search", "claude-opus-5-5", limits("w", 2_000), at(0.0)));
    book.end(end("search", 429, limits("w", 0), 10, at(0.0)));
    assert!(!book.alerts(at(0.0)).is_empty());
    let hour = Duration::from_secs(3_600);
    book.set_back(hour);
    let back = |secs: f64| at(secs).minus(hour);
    let level = |book: &Book, now| book.snapshot(now).buckets[0].remaining.map(Amount::get);
    assert_eq!(level(&book, back(30.0)), Some(32_000), "it refills on");
    book.head(&head("search", "claude-opus-5-5", limits("w", 50_000), back(31.0)));
    assert_eq!(book.snapshot(back(31.0)).late, 0, "and is observed on");
    for second in 31..150 {
        book.tick(back(f64::from(second)));
    }
    assert!(book.alerts(back(150.0)).is_empty(), "and alerts end");
}

#[test]
fn what_refuses_nothing_raises_no_alert() {
    let mut book = book(BookLimits::default());
    let mut used_up = (*limits("w", 0)).clone();
    used_up.readings[0].limiter = Limiter::OVERAGE;
    book.head(&head("search", "claude-opus-5-5", Arc::new(used_up), at(0.0)));
    assert!(book.alerts(at(0.0)).is_empty());
}
