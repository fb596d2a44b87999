//! One truth from many sources: what the book makes of reports.

use super::*;
use crate::observation::{Key, Keys, Report};

use super::tests::{at, book, end, head, limits};

/// A report of a call that ended at `now`.
fn report(source: &str, exact: &[Key], status: u16, limits: Arc<Limits>, now: Timestamp) -> Box<Report> {
    let mut end = end("api", status, limits.clone(), 100, now);
    end.usage = None;
    let head = Head { call: end.call.clone(), model: end.model.clone(), at: now, status, limits };
    Box::new(Report {
        source: source.into(),
        keys: Keys { exact: exact.to_vec(), ..Keys::default() },
        spanning: false,
        start: None,
        head: Some(head),
        end: Some(end),
        retries: 0,
        tokens_only: false,
        aggregate: false,
    })
}

fn bare() -> Arc<Limits> {
    Arc::new(Limits { partial: true, ..Limits::default() })
}

fn repeated(book: &Book, source: &str, now: Timestamp) -> u64 {
    let snapshot = book.snapshot(now);
    snapshot.repeated.iter().find(|(name, _)| &**name == source).map_or(0, |(_, n)| *n)
}

fn refusals(book: &Book, now: Timestamp) -> u64 {
    book.snapshot(now).rejections.iter().map(|row| row.count).sum()
}

#[test]
fn one_request_through_three_sources_is_counted_once() {
    let mut book = book(BookLimits::default());
    let id = Key::request("req_1");
    let first = book.report(report("envoy_als", &[id], 200, limits("w", 30_000), at(0.0)), at(0.1)).unwrap();
    assert!(first.counts && first.judged.is_some());
    let span = Some(Key::span(&"1".repeat(32), &"2".repeat(16)));
    let mut second = report("tail", &[id], 200, limits("w", 30_000), at(0.0));
    second.keys.span = span;
    assert!(book.report(second, at(0.3)).is_none());
    // Known by its span alone, which the second has brought.
    let mut third = report("otlp", &[], 200, bare(), at(0.0));
    third.keys.span = span;
    assert!(book.report(third, at(4.0)).is_none());
    let other = book.report(report("otlp", &[Key::request("req_2")], 200, bare(), at(1.0)), at(4.0)).unwrap();
    assert!(other.counts);
    assert_eq!((repeated(&book, "tail", at(4.0)), repeated(&book, "otlp", at(4.0))), (1, 1));
}

#[test]
fn what_the_hop_has_counted_is_not_counted_again() {
    let mut book = book(BookLimits::default());
    let told = Arc::new(Limits { request_id: Some("req_1".into()), ..(*limits("w", 0)).clone() });
    book.head(&head("api", "claude-opus-5-5", told.clone(), at(1.0)));
    book.end(end("api", 429, told, 100, at(1.0)));
    assert_eq!(refusals(&book, at(1.0)), 1);
    assert!(book.report(report("otlp", &[Key::request("req_1")], 429, bare(), at(1.0)), at(6.0)).is_none());
    assert!(book.due(at(20.0)).is_none());
    assert_eq!((refusals(&book, at(20.0)), repeated(&book, "otlp", at(20.0))), (1, 1));
}

#[test]
fn the_better_evidence_wins_and_the_bare_one_waits_for_it() {
    let mut book = book(BookLimits::default());
    let id = Key::request("req_1");
    assert!(book.report(report("otlp", &[id], 429, bare(), at(0.0)), at(0.0)).is_none());
    assert_eq!(refusals(&book, at(0.0)), 0, "a bare 429 waits");
    let better = book.report(report("tail", &[id], 429, limits("w", 0), at(0.0)), at(1.0)).unwrap();
    let verdict = better.judged.unwrap().verdict.unwrap();
    assert_eq!((verdict.class, verdict.rule.confidence.as_str()), (Class::AnthropicWorkspace, "exact"));
    assert!(book.due(at(20.0)).is_none(), "the bare one is not told once more");
    assert_eq!(refusals(&book, at(20.0)), 1);
}

#[test]
fn a_bare_failure_that_nobody_knows_more_of_is_told_after_a_while() {
    let mut book = book(BookLimits::default());
    assert!(book.report(report("otlp", &[Key::request("req_1")], 429, bare(), at(0.0)), at(0.0)).is_none());
    assert!(book.due(at(1.9)).is_none());
    let settled = book.due(at(2.1)).unwrap();
    assert!(settled.counts && settled.judged.unwrap().verdict.is_some());
    assert!(book.alerts(at(2.1)).iter().any(|alert| alert.name == AlertName::Throttled));
}

#[test]
fn tokens_that_come_later_are_added_to_the_call_and_no_second_call() {
    let mut book = book(BookLimits::default());
    let id = Key::request("req_1");
    assert!(book.report(report("envoy_als", &[id], 200, limits("w", 9), at(0.0)), at(0.0)).unwrap().counts);
    let mut with_tokens = report("otlp", &[id], 200, bare(), at(0.0));
    let usage = crate::observation::Usage { input: Amount::new(7), ..Default::default() };
    with_tokens.end.as_mut().unwrap().usage = Some(usage);
    let settled = book.report(with_tokens.clone(), at(5.0)).unwrap();
    assert_eq!((settled.counts, settled.usage), (false, Some(usage)));
    assert!(book.report(with_tokens, at(6.0)).is_none(), "once");
}

#[test]
fn an_operations_span_is_the_request_that_its_own_span_told_of() {
    let mut book = book(BookLimits::default());
    let trace = "a".repeat(32);
    let (request, operation) = (Key::span(&trace, &"1".repeat(16)), Key::span(&trace, &"2".repeat(16)));
    let told = |span, secs| {
        let mut told = report("otlp", &[], 200, limits("w", 9), at(secs));
        told.keys.span = Some(span);
        told
    };
    let mut child = told(request, 1.0);
    child.keys.parent = Some(operation);
    assert!(book.report(child, at(2.0)).unwrap().counts);
    let mut retry = told(Key::span(&trace, &"3".repeat(16)), 1.5);
    retry.keys.parent = Some(operation);
    assert!(book.report(retry, at(2.0)).unwrap().counts, "two requests of one operation are two");
    let mut parent = told(operation, 2.0);
    parent.spanning = true;
    assert!(book.report(parent, at(2.0)).is_none());
}

#[test]
fn a_trace_joins_only_what_lies_within_an_operations_time() {
    let mut book = book(BookLimits::default());
    let trace = Some(Key::trace(&"a".repeat(32)));
    for (n, secs) in [(1, 0.0), (2, 100.0)] {
        let mut log = report("tail", &[Key::request(&format!("req_{n}"))], 200, limits("w", 9), at(secs));
        log.keys.trace = trace;
        assert!(book.report(log, at(secs)).unwrap().counts);
    }
    let operation = |secs: f64| {
        let mut span = report("otlp", &[], 200, bare(), at(secs));
        (span.spanning, span.keys.trace) = (true, trace);
        span
    };
    assert!(book.report(operation(100.2), at(101.0)).is_none(), "the second call's");
    assert!(book.report(operation(50.0), at(101.0)).unwrap().counts, "a call that nobody told of");
}

#[test]
fn a_call_that_is_told_in_steps_has_its_limits_known_at_once_and_ends_once() {
    let mut book = book(BookLimits::default());
    let own = Some(Key::own("envoy_als", "stream-1"));
    let mut early = report("envoy_als", &[], 200, limits("w", 6_000), at(1.0));
    (early.end, early.keys.own) = (None, own);
    assert!(book.report(early, at(1.0)).is_none());
    assert!(book.snapshot(at(1.0)).buckets.iter().any(|b| b.remaining == Some(Amount::new(6_000))));
    let mut last = report("envoy_als", &[], 200, limits("w", 6_000), at(60.0));
    last.keys.own = own;
    assert!(book.report(last.clone(), at(60.0)).unwrap().counts);
    assert!(book.report(last, at(61.0)).is_none());
}

#[test]
fn counters_count_only_where_nobody_tells_of_calls() {
    let mut book = book(BookLimits::default());
    let counted = |at| {
        let mut report = report("gateway:g", &[], 429, bare(), at);
        report.aggregate = true;
        report.end.as_mut().unwrap().error = None;
        report
    };
    assert!(book.report(counted(at(0.0)), at(0.0)).is_none(), "it waits, like every bare failure");
    assert!(book.due(at(3.0)).unwrap().counts);
    assert!(book.report(report("tail", &[Key::request("1")], 200, bare(), at(4.0)), at(4.0)).unwrap().counts);
    assert!(book.report(counted(at(5.0)), at(5.0)).is_none());
    assert!(book.due(at(60.0)).is_none());
    assert_eq!(repeated(&book, "gateway:g", at(60.0)), 1);
}

#[test]
fn reports_that_never_stop_are_bounded_and_what_is_forgotten_early_is_counted() {
    let mut book = book(BookLimits::default());
    for n in 0..40_000 {
        book.report(report("otlp", &[Key::request(&n.to_string())], 200, bare(), at(1.0)), at(1.0));
    }
    assert!(book.snapshot(at(1.0)).folded >= 40_000 - 32_768);
    book.tick(at(700.0));
    assert_eq!(book.reports.once.len(), 0, "what is old is forgotten");
}

#[test]
fn a_tenants_buckets_belong_to_the_gateways_tenant_and_warn_by_themselves() {
    let mut book = book(BookLimits::default());
    let level = |remaining| Level::Counted { limit: Amount::new(100), remaining: Amount::new(remaining) };
    let mut told = (*limits("w", 59_000)).clone();
    let reading = |remaining| Reading {
        limiter: Limiter::named("api_key_requests"),
        window: Window::Minute,
        refill: Refill::AtReset,
        level: Some(level(remaining)),
        resets: None,
        standing: None,
        rounding: Amount::new(1),
    };
    told.marks.set(Mark::Litellm);
    let by = |alias: Option<&str>, told: &Limits, now| {
        let mut head = head("api", "claude-opus-5-5", Arc::new(told.clone()), now);
        let mut call = (*head.call).clone();
        call.credential.alias = alias.map(Into::into);
        head.call = Arc::new(call);
        head
    };
    told.tenant = vec![reading(1)];
    book.head(&by(None, &told, at(0.0)));
    assert!(
        book.snapshot(at(0.0)).buckets.iter().all(|b| b.owner.kind != OwnerKind::GatewayTenant),
        "whose?"
    );
    for n in 0..40_u32 {
        told.tenant = vec![reading(u64::from(60 - n))];
        book.head(&by(Some("batch"), &told, at(f64::from(n) / 4.0)));
    }
    let alerts = book.alerts(at(10.0));
    let alert = alerts.iter().find(|alert| alert.name == AlertName::BucketPressure).unwrap();
    assert_eq!(alert.identity.owner.kind, OwnerKind::GatewayTenant);
    assert_eq!(alert.identity.limiter.as_str(), "api_key_requests");
    // The same names on a provider's own route are not taken for a gateway's.
    let mut plain = super::tests::book(BookLimits::default());
    told.marks = crate::observation::Marks::default();
    plain.head(&by(Some("batch"), &told, at(0.0)));
    assert!(plain.snapshot(at(0.0)).buckets.iter().all(|b| b.owner.kind != OwnerKind::GatewayTenant));
}

#[test]
fn a_span_that_made_several_calls_joins_each_only_once_and_none_of_another_id() {
    let mut book = book(BookLimits::default());
    let span = Some(Key::span(&"1".repeat(32), &"2".repeat(16)));
    let told = |source: &str, id: Option<&str>, secs: f64| {
        let mut told = report(source, &[], 200, limits("w", 9), at(secs));
        told.keys.span = span;
        told.keys.request = id.map(Key::request);
        told.keys.exact.extend(told.keys.request);
        told
    };
    // Three attempts of a client without spans of its own, as its proxy saw them.
    for (n, id) in ["req_1", "req_2", "req_3"].into_iter().enumerate() {
        assert!(book.report(told("tail", Some(id), n as f64), at(3.0)).unwrap().counts, "{id}");
    }
    // Another source knows the last two, one of them without an id; and one that nobody else saw.
    assert!(book.report(told("otlp", Some("req_2"), 1.0), at(4.0)).is_none());
    assert!(book.report(told("otlp", None, 2.0), at(4.0)).is_none());
    assert!(book.report(told("otlp", Some("req_9"), 2.5), at(4.0)).unwrap().counts);
    assert_eq!(repeated(&book, "otlp", at(5.0)), 2);
}

#[test]
fn what_is_told_late_is_counted_and_changes_no_level_and_raises_no_alert() {
    let mut book = book(BookLimits::default());
    let settled = book.report(report("tail", &[Key::request("1")], 429, limits("w", 0), at(0.0)), at(600.0));
    let settled = settled.unwrap();
    assert!(settled.counts && settled.judged.is_none());
    let snapshot = book.snapshot(at(600.0));
    assert!(snapshot.alerts.is_empty() && snapshot.incidents.is_empty() && snapshot.buckets.is_empty());
    assert_eq!(snapshot.late, 1);
}

#[test]
fn a_bare_failure_waits_on_when_only_its_head_is_told_by_another() {
    let mut book = book(BookLimits::default());
    let id = Key::request("req_1");
    assert!(book.report(report("otlp", &[id], 429, bare(), at(0.0)), at(0.0)).is_none());
    let mut head = report("envoy_als", &[id], 429, limits("w", 0), at(0.0));
    head.end = None;
    assert!(book.report(head, at(0.5)).is_none());
    assert!(book.snapshot(at(0.5)).buckets.iter().any(|b| b.remaining.unwrap().get() < 1_000));
    assert!(book.due(at(2.1)).unwrap().counts);
    assert_eq!(refusals(&book, at(2.1)), 1);
}

#[test]
fn a_level_that_comes_second_is_no_further_arrival_and_books_nothing() {
    let mut book = book(BookLimits::default());
    for n in 0..200_u32 {
        let (id, now) = (Key::request(&n.to_string()), at(f64::from(n) / 10.0));
        assert!(book.report(report("otlp", &[id], 200, bare(), now), now).unwrap().counts);
        let mut level = report("envoy_als", &[id], 200, limits("w", 59_000), now);
        level.end = None;
        assert!(book.report(level, now).is_none());
    }
    let snapshot = book.snapshot(at(19.9));
    let bucket = snapshot.buckets.iter().find(|b| b.limiter == Limiter::INPUT_TOKENS).unwrap();
    assert_eq!((bucket.remaining, bucket.empty_in), (Some(Amount::new(59_000)), None));
    assert!(snapshot.alerts.is_empty(), "{:?}", snapshot.alerts);
}

#[test]
fn the_hops_call_that_a_log_told_of_while_it_ran_is_the_hops() {
    let mut book = book(BookLimits::default());
    let told = Arc::new(Limits { request_id: Some("req_1".into()), ..(*limits("w", 900)).clone() });
    book.head(&head("api", "claude-opus-5-5", told.clone(), at(1.0)));
    let mut log = report("tail", &[Key::request("req_1")], 200, limits("w", 900), at(2.0));
    log.end.as_mut().unwrap().usage =
        Some(crate::observation::Usage { input: Amount::new(7), ..Default::default() });
    assert!(book.report(log, at(2.0)).is_none(), "the hop counts what it uses");
    book.end(end("api", 200, told, 100, at(3.0)));
    assert_eq!(repeated(&book, "tail", at(3.0)), 1);
}

#[test]
fn a_provider_that_repeats_its_request_id_makes_no_call_another() {
    let mut book = book(BookLimits::default());
    let told = Arc::new(Limits { request_id: Some("always".into()), ..(*limits("w", 900)).clone() });
    for n in 0..1_000 {
        let mut end = end("api", 200, told.clone(), 100, at(1.0));
        end.call = Arc::new(Call { id: n, ..(*end.call).clone() });
        let head = Head { call: end.call.clone(), ..head("api", "claude-opus-5-5", told.clone(), at(1.0)) };
        book.head(&head);
        book.end(end);
    }
    // As one entry it would gather a name of every call, and be searched for each.
    assert_eq!(book.reports.once.len(), 256);
}
