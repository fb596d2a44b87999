use super::*;
use crate::engine::{Over, What};
use crate::limit::{Amount, Level, Refill};
use crate::observation::{Credential, Fingerprint, Outcome, Quota, RequestShape, Usage};
use crate::owner::{OwnerRule, Pattern};
use crate::route::OwnerKind;

const T0: Timestamp = Timestamp::from_secs(1_790_000_000);

pub(super) fn at(secs: f64) -> Timestamp {
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
        upstream: "https://api.example".into(),
        region: None,
        project: None,
        started: T0,
        traceparent: None,
        method: http::Method::POST,
        path: "/v1/messages".into(),
    })
}

pub(super) fn limits(workspace: &str, remaining: u64) -> Arc<Limits> {
    let level = Level::Counted { limit: Amount::new(60_000), remaining: Amount::new(remaining) };
    Arc::new(Limits {
        account: Account { workspace: Some(workspace.into()), ..Account::default() },
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

pub(super) fn head(route: &str, model: &str, limits: Arc<Limits>, now: Timestamp) -> Head {
    Head { call: call(route), model: Some(ModelGroup::of_model(model)), at: now, status: 200, limits }
}

pub(super) fn end(route: &str, status: u16, limits: Arc<Limits>, bytes: u64, now: Timestamp) -> Box<End> {
    Box::new(End {
        call: Arc::new(Call { started: now, ..(*call(route)).clone() }),
        model: Some(ModelGroup::of_model("claude-opus-5-5")),
        at: now,
        headed: Some(now),
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

pub(super) fn book(limits: BookLimits) -> Book {
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

/// Two accounts, one set of labels: whatever each does, the alert says what the row shows.
#[test]
fn an_alert_and_the_row_of_its_bucket_never_contradict_each_other() {
    let mut book = book(BookLimits::default());
    let mut seen = 0;
    for step in 0..240_u32 {
        let (secs, now) = (f64::from(step) / 2.0, at(f64::from(step) / 2.0));
        // One drains fast and recovers, while the other creeps past it.
        let fast = (60_000.0 - 2_500.0 * secs).max(1_000.0) + (secs - 60.0).max(0.0) * 900.0;
        let slow = (60_000.0 - 600.0 * secs).max(500.0);
        for (workspace, level) in [("wrkspc_1", fast.min(60_000.0)), ("wrkspc_2", slow)] {
            book.head(&head("other", "claude-opus-5-5", limits(workspace, level as u64), now));
        }
        book.tick(now);
        let (alerts, rows) = (book.alerts(now), book.snapshot(now).buckets);
        for alert in alerts.iter().filter(|a| a.name != AlertName::Throttled) {
            let row = rows.iter().find(|row| {
                (&row.owner, &row.limiter, &row.model)
                    == (&alert.identity.owner, &alert.identity.limiter, &alert.identity.model)
            });
            let row = row.expect("a row");
            assert_eq!(alert.utilization, row.utilization, "{secs} s: {alert:?}");
            assert_eq!(alert.empty_in, row.empty_in, "{secs} s: {alert:?}");
            assert!(row.peak >= row.utilization, "{secs} s");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

/// What is written where there is no limit is no bucket that is half used.
#[test]
fn a_limit_that_is_none_has_no_bucket_and_no_alert() {
    for none in [u64::MAX, i64::MAX as u64, 1 << 60] {
        let quota = Quota {
            limit: Some(Amount::new(none)),
            resets: Some(Timestamp::from_secs(-5)),
            ..Quota::of(
                Surface::Vertex,
                Account::default(),
                ModelGroup::of_model("m"),
                Limiter::INPUT_TOKENS,
                Window::Minute,
            )
        };
        let mut book = book(BookLimits::default());
        book.quotas(&Arc::new(Quotas::of("config".into(), at(0.0), vec![quota])), at(0.0));
        let snapshot = book.snapshot(at(1.0));
        assert!(snapshot.buckets.iter().all(|b| b.limit.is_none() && b.resets.is_none()), "{none}");
        assert!(snapshot.quotas[0].rows[0].limit.is_none());
    }
}

#[test]
fn token_counting_is_another_pool() {
    let mut book = book(BookLimits::default());
    let mut counting = head("search", "claude-opus-5-5", limits("w", 1_000), at(0.0));
    counting.call = Arc::new(Call { path: "/v1/messages/count_tokens".into(), ..(*call("search")).clone() });
    book.head(&counting);
    assert_eq!(book.snapshot(at(0.0)).buckets[0].limiter.as_str(), "count_tokens_input_tokens");
}

/// An acceleration limit is in no header: it is learnt from its refusal, and held against own calls.
#[test]
fn a_ceiling_of_growth_is_learnt_from_its_refusal_and_has_its_own_alert() {
    let mut book = book(BookLimits::default());
    let call_at = |id: u64, secs: f64| Arc::new(Call { id, started: at(secs), ..(*call("search")).clone() });
    let mut sent = 0;
    let mut send = |book: &mut Book, secs: f64, status: u16| {
        sent += 1;
        let (call, model) = (call_at(sent, secs), Some(ModelGroup::of_model("claude-opus-5-5")));
        book.start(&Start {
            call: call.clone(),
            model: model.clone(),
            at: at(secs),
            body_bytes: 8_000,
            max_tokens: None,
        });
        book.head(&Head { call: call.clone(), model, at: at(secs), status, limits: limits("w", 50_000) });
        let mut end = end("search", status, limits("w", 50_000), 8_000, at(secs));
        end.call = call;
        end.usage = Some(Usage { input: Amount::new(2_000), ..Usage::default() });
        if status == 429 {
            let words = "This request would exceed your organization's maximum usage increase rate for input tokens per minute. Your current limit is 58,276 input tokens per minute, and will increase to 68,276 at the next minute boundary.";
            let body =
                format!(r#"{{"type":"error","error":{{"type":"rate_limit_error","message":"{words}"}}}}"#);
            end.error = Some(Box::new(crate::dialects::error_text::read(body.as_bytes(), false, false)));
        }
        book.end(end)
    };
    let bursts = |book: &Book, secs: f64| -> Vec<Alert> {
        let all = book.alerts(at(secs)).into_iter();
        all.filter(|alert| alert.name == AlertName::Burst).collect()
    };
    send(&mut book, 0.0, 200);
    let judged = send(&mut book, 1.0, 429);
    assert_eq!(judged.verdict.unwrap().class, Class::Burst);
    let row = |book: &Book, secs: f64| {
        let mut all = book.snapshot(at(secs)).buckets.into_iter();
        all.find(|bucket| bucket.limiter == Limiter::ACCELERATION)
    };
    assert_eq!(row(&book, 1.0).unwrap().limit, Some(Amount::new(58_276)));
    assert_eq!(bursts(&book, 1.0), []);
    (2..40).for_each(|n| drop(send(&mut book, f64::from(n), 200)));
    let alerts = bursts(&book, 40.0);
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].identity.limiter, Limiter::ACCELERATION);
    assert_eq!(alerts[0].identity.scope, Scope::Local);
    (40..160).step_by(5).for_each(|n| book.tick(at(f64::from(n))));
    assert_eq!(bursts(&book, 160.0), [], "calm again");
}

/// Pools of their own (token counting, batches) have no calls that are booked: their buckets speak for themselves.
#[test]
fn a_bucket_that_no_pool_speaks_for_raises_its_own_alert() {
    let mut book = book(BookLimits::default());
    let mut counting = head("search", "claude-opus-5-5", limits("w", 1_000), at(0.0));
    counting.call = Arc::new(Call { path: "/v1/messages/count_tokens".into(), ..(*call("search")).clone() });
    book.head(&counting);
    let names: Vec<AlertName> = book.alerts(at(0.0)).iter().map(|alert| alert.name).collect();
    assert_eq!(names, [AlertName::BucketPressure, AlertName::BucketExhausting]);
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
    for (status, limits) in
        [(529, Arc::default()), (500, Arc::default()), (400, Arc::default()), (503, limits("w", 50_000))]
    {
        let judged = book.end(end("search", status, limits, 10, at(0.0)));
        assert!(!judged.verdict.expect("a failure is judged").class.is_limit());
    }
    assert_eq!(book.alerts(at(0.0)).len(), 0);
}

/// Any box may answer 503 for a service that is away: nobody's limit is proved, and nobody is called.
#[test]
fn a_service_that_is_away_is_no_refusal_of_a_limit() {
    let mut book = book(BookLimits::default());
    let judged = book.end(end("search", 503, Arc::default(), 10, at(0.0)));
    assert_eq!(judged.verdict.expect("a failure is judged").class, Class::Unknown);
    assert_eq!(book.alerts(at(0.0)).len(), 0);
    assert_eq!(book.snapshot(at(0.0)).rejections.len(), 0);
    book.end(end("search", 429, Arc::default(), 10, at(1.0)));
    assert_eq!(book.snapshot(at(1.0)).rejections.len(), 1, "a bare 429 is one, whoever's it is");
}

/// A message whose search was refused has used its tokens: the limit is the tool's.
#[test]
fn a_refused_server_tool_empties_no_bucket_of_the_model() {
    let mut book = book(BookLimits::default());
    let mut told = end("search", 200, limits("w", 50_000), 10, at(0.0));
    let part = br#"{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":{"type":"web_search_tool_result_error","error_code":"too_many_requests"}}"#;
    told.error = crate::dialects::error_text::tool_refusal(part).map(Box::new);
    let verdict = book.end(told).verdict.expect("a refused tool is judged");
    let limiter = verdict.limiter.as_ref().map(Limiter::as_str);
    assert_eq!((verdict.class, limiter), (Class::AnthropicWorkspace, Some("web_search")));
    assert_eq!(super::refusal(&verdict), Refusal::None);
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
fn a_429_of_a_plan_with_room_on_a_steep_rise_is_a_burst() {
    let mut book = book(BookLimits::default());
    let early = T0.minus(Duration::from_secs(60));
    let plan = || Arc::new(Limits { unified: true, ..Limits::default() });
    book.head(&head("search", "claude-opus-5-5", plan(), early));
    for n in 0..30 {
        book.head(&head("search", "claude-opus-5-5", plan(), at(f64::from(n) / 10.0)));
    }
    let judged = book.end(end("search", 429, plan(), 10, at(3.0)));
    assert_eq!(judged.verdict.unwrap().rule.id, "plan_burst");
}

fn incident(book: &Book) -> Incident {
    Incident::clone(book.snapshot(at(9.0)).incidents.first().expect("an incident"))
}

/// A failure as `end` makes it, with what a test changes of its call.
fn failure(bytes: u64, secs: f64, change: impl FnOnce(&mut Call)) -> Box<End> {
    let mut failed = end("search", 429, limits("w", 0), bytes, at(secs));
    let mut call = (*failed.call).clone();
    change(&mut call);
    failed.call = Arc::new(call);
    failed
}

fn with_key(key: u8) -> impl FnOnce(&mut Call) {
    move |call| call.credential = Credential { alias: None, fingerprint: Some(Fingerprint([key; 8])) }
}

#[test]
fn a_smaller_success_eases_an_incident_and_a_comparable_one_closes_it() {
    let mut book = book(BookLimits::default());
    let full = || limits("w", 60_000);
    book.end(end("search", 200, full(), 1_000, at(0.0)));
    book.end(end("search", 429, limits("w", 0), 1_000, at(1.0)));
    book.end(end("search", 429, limits("w", 0), 1_500, at(2.0)));
    let open = incident(&book);
    assert_eq!((open.failures, open.attempts, open.failed_again), (2, 2, true));
    assert_eq!((open.first.at, open.current.at), (at(1.0), at(2.0)));
    assert_eq!(open.last_success.map(|s| s.at), Some(at(0.0)));
    assert_eq!(&*open.id, "20260921T141321.000Z-search");
    book.end(end("search", 200, full(), 100, at(3.0)));
    assert_eq!(incident(&book).eased, Some(at(3.0)));
    assert!(incident(&book).is_open(), "eased, not closed");
    let mut begun_before = end("search", 200, full(), 1_500, at(3.5));
    begun_before.call = Arc::new(Call { started: at(0.5), ..(*begun_before.call).clone() });
    book.end(begun_before);
    assert!(incident(&book).is_open(), "what began before the first failure proves nothing");
    book.end(end("search", 200, full(), 1_300, at(4.0)));
    let closed = incident(&book);
    assert_eq!(closed.over, Some((at(4.0), Over::Passed)));
    let turns: Vec<Turn> = book.take_turns().into_iter().map(|(turn, _)| turn).collect();
    assert_eq!(turns, [Turn::Opened, Turn::FailedAgain, Turn::Eased, Turn::Over]);
}

/// However an incident ends, and whatever passed while it was open, the next one names the newest success before it.
#[test]
fn the_last_success_is_the_newest_before_the_first_failure() {
    let full = || limits("w", 60_000);
    let last = |book: &Book| incident(book).last_success.map(|success| success.at);
    let mut passed = book(BookLimits::default());
    passed.end(end("search", 200, full(), 1_000, at(0.0)));
    passed.end(end("search", 429, limits("w", 0), 1_000, at(1.0)));
    passed.end(end("search", 200, full(), 1_000, at(2.0)));
    assert_eq!(incident(&passed).over, Some((at(2.0), Over::Passed)));
    assert_eq!(last(&passed), Some(at(0.0)), "what closes an incident is not its last success");
    passed.end(end("search", 429, limits("w", 0), 1_000, at(3.0)));
    assert_eq!(last(&passed), Some(at(2.0)), "but that of the next one");

    let mut quiet = book(BookLimits::default());
    quiet.end(end("search", 200, full(), 1_000, at(0.0)));
    quiet.end(end("search", 429, limits("w", 0), 1_000, at(1.0)));
    quiet.end(end("search", 200, full(), 100, at(2.0)));
    quiet.tick(at(16.0 * 60.0));
    quiet.end(end("search", 429, limits("w", 0), 1_000, at(16.0 * 60.0 + 1.0)));
    assert_eq!(last(&quiet), Some(at(2.0)), "a smaller one counts, too");

    let mut overtaken = book(BookLimits::default());
    overtaken.end(end("search", 529, Arc::default(), 1_000, at(0.0)));
    overtaken.end(end("search", 200, full(), 100, at(1.0)));
    overtaken.end(end("search", 429, limits("w", 0), 1_000, at(2.0)));
    assert_eq!(last(&overtaken), Some(at(1.0)));

    let mut set_back = book(BookLimits::default());
    set_back.end(end("search", 200, full(), 1_000, at(0.0)));
    set_back.set_back(Duration::from_secs(3_600));
    set_back.end(end("search", 429, limits("w", 0), 1_000, at(1.0).minus(Duration::from_secs(3_600))));
    assert_eq!(
        last(&set_back),
        Some(at(0.0).minus(Duration::from_secs(3_600))),
        "a success does not lie in the future"
    );
}

#[test]
fn what_asks_no_model_proves_nothing_of_an_incident() {
    let mut book = book(BookLimits::default());
    let health = |secs: f64| {
        let mut end = end("search", 200, limits("w", 50_000), 9_000, at(secs));
        let head = Call { method: http::Method::HEAD, path: "/api/hello".into(), ..(*end.call).clone() };
        end.call = Arc::new(head);
        end
    };
    book.end(health(0.0));
    book.end(failure(1_000, 1.0, |_| {}));
    assert!(incident(&book).last_success.is_none(), "a health check is no success before the failure");
    book.end(health(2.0));
    let open = incident(&book);
    assert!(open.is_open() && open.eased.is_none(), "nor one after it");
}

#[test]
fn the_retries_of_one_call_are_one_failure() {
    let mut book = book(BookLimits::default());
    let session = |id: &'static str| move |call: &mut Call| call.session = Some(id.into());
    for secs in [0.0, 2.5, 4.6, 13.0] {
        book.end(failure(48_000, secs, session("a")));
    }
    book.end(failure(48_000, 14.0, session("b")));
    book.end(failure(51_000, 15.0, session("a")));
    assert_eq!((incident(&book).failures, incident(&book).attempts), (3, 6));
    book.end(failure(48_000, 1_000.0, session("a")));
    assert_eq!(incident(&book).failures, 4, "much later it is another call");
}

#[test]
fn a_credential_that_is_new_during_an_incident_is_a_route_change() {
    let mut book = book(BookLimits::default());
    let mut before = end("search", 200, limits("w", 60_000), 10, T0.minus(Duration::from_secs(61)));
    let mut call = (*before.call).clone();
    with_key(1)(&mut call);
    before.call = Arc::new(call);
    book.end(before);
    book.end(failure(10, 1.0, with_key(1)));
    let version = book.alerts_version();
    book.end(failure(10, 2.0, with_key(2)));
    book.end(failure(10, 3.0, with_key(2)));
    let open = incident(&book);
    assert_eq!(open.changes.len(), 1);
    assert_eq!((open.changes[0].what, open.changes[0].at), (What::Credential, at(2.0)));
    assert!(!open.failed_again, "another credential proves nothing of the first one");
    assert!(book.alerts_version() > version);
    let alerts = book.alerts(at(3.0));
    let alert = alerts.iter().find(|a| a.name == AlertName::RouteChanged).expect("the stop rule's alert");
    assert!(alert.detail.as_deref().unwrap().starts_with("credential from unnamed"), "{alert:?}");
    assert_eq!(book.snapshot(at(3.0)).changes[0].1, 1);
}

#[test]
fn a_plan_in_place_of_a_key_and_another_upstream_are_told_as_such() {
    let mut book = book(BookLimits::default());
    book.end(end("search", 200, limits("w", 60_000), 10, T0.minus(Duration::from_secs(61))));
    book.end(failure(10, 1.0, |_| ()));
    book.end(failure(10, 2.0, |call| call.surface = Surface::ClaudeCodePlan));
    book.end(failure(10, 3.0, |call| call.upstream = "https://elsewhere.example".into()));
    let mut other = failure(10, 4.0, |_| ());
    other.model = Some(ModelGroup::of_model("claude-haiku-5"));
    book.end(other);
    let whats: Vec<What> = incident(&book).changes.iter().map(|c| c.what).collect();
    assert_eq!(whats, [What::Plan, What::Provider, What::Model]);
}

#[test]
fn behind_a_gateway_hop_and_report_see_two_ends_of_one_route() {
    let mut book = book(BookLimits::default());
    book.end(end("search", 200, limits("w", 60_000), 10, T0.minus(Duration::from_secs(61))));
    book.end(failure(10, 1.0, |_| ()));
    let told = |host: &str| {
        let host = host.to_owned();
        move |call: &mut Call| (call.upstream, call.surface) = (host.as_str().into(), Surface::Bedrock)
    };
    book.end(failure(10, 2.0, told("api.anthropic.com")));
    book.end(failure(10, 3.0, |_| ()));
    assert_eq!(incident(&book).changes, []);
    book.end(failure(10, 4.0, told("bedrock.example")));
    let changes = &incident(&book).changes;
    assert_eq!(changes.iter().map(|c| c.what).collect::<Vec<_>>(), [What::Provider]);
    assert!(changes[0].from.starts_with("api.anthropic.com"), "{}", changes[0].from);
}

#[test]
fn a_restart_in_the_middle_of_an_incident_is_no_route_change() {
    let mut book = book(BookLimits::default());
    let mut success = end("search", 200, limits("w", 60_000), 10, at(0.5));
    let mut call = (*success.call).clone();
    with_key(1)(&mut call);
    success.call = Arc::new(call);
    book.end(success);
    book.end(failure(10, 1.0, with_key(1)));
    book.end(failure(10, 2.0, with_key(2)));
    assert_eq!(incident(&book).changes, [], "what was before is not known");
    book.end(failure(10, 3.0, with_key(1)));
    assert!(incident(&book).failed_again);
}

#[test]
fn what_a_route_always_mixed_is_no_change() {
    let mut book = book(BookLimits::default());
    for key in 1..=40 {
        let mut before = end("search", 200, limits("w", 60_000), 10, T0.minus(Duration::from_secs(61)));
        let mut call = (*before.call).clone();
        with_key(key)(&mut call);
        before.call = Arc::new(call);
        book.end(before);
    }
    book.end(failure(10, 1.0, with_key(1)));
    book.end(failure(10, 2.0, with_key(2)));
    book.end(failure(10, 2.0, with_key(99)));
    assert_eq!(incident(&book).changes, [], "past the bound a new value is no news");
}

#[test]
fn a_gateways_cooldown_is_tied_to_the_upstream_refusal_that_caused_it() {
    let mut book = book(BookLimits::default());
    book.end(end("search", 429, limits("w", 0), 10, at(1.0)));
    let mut cooling = end("search", 429, Arc::default(), 10, at(5.0));
    cooling.error = Some(Box::new(crate::dialects::error_text::read(
        br#"{"error":{"message":"No deployments available for selected model, Try again in 60 seconds"}}"#,
        false,
        false,
    )));
    let judged = book.end(cooling);
    assert_eq!(judged.verdict.unwrap().rule.id, "litellm_cooldown");
    let cause = incident(&book).cause.expect("its cause");
    assert_eq!((cause.at, cause.verdict.class), (at(1.0), Class::AnthropicWorkspace));
}

#[test]
fn overload_neither_joins_a_limits_incident_nor_hides_it() {
    let mut book = book(BookLimits::default());
    book.end(end("search", 529, Arc::default(), 10, at(0.0)));
    book.end(end("search", 429, limits("w", 0), 10, at(1.0)));
    book.end(end("search", 529, Arc::default(), 10, at(2.0)));
    let all = book.snapshot(at(3.0)).incidents;
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].verdict.class, all[0].attempts), (Class::AnthropicWorkspace, 1));
    assert_eq!(all[1].over.map(|(_, why)| why), Some(Over::Overtaken));
}

#[test]
fn a_quiet_incident_ends_and_says_that_nothing_was_proved() {
    let mut book = book(BookLimits::default());
    book.end(end("search", 429, limits("w", 0), 10, at(0.0)));
    book.tick(at(600.0));
    assert!(incident(&book).is_open());
    book.tick(at(16.0 * 60.0));
    assert_eq!(incident(&book).over.map(|(_, why)| why), Some(Over::Quiet));
}

#[test]
fn successes_without_limit_headers_are_a_signal() {
    let mut book = book(BookLimits::default());
    book.head(&head("search", "claude-opus-5-5", limits("w", 50_000), at(0.0)));
    let rewritten = {
        let mut limits = Limits::default();
        limits.marks.set(crate::observation::Mark::OpenAiLimits);
        Arc::new(limits)
    };
    for limits in [Arc::default(), Arc::default(), rewritten] {
        let mut seen = head("search", "claude-opus-5-5", limits, at(1.0));
        seen.status = 200;
        book.head(&seen);
    }
    let missing = book.snapshot(at(1.0)).missing;
    let counts: Vec<(bool, u64)> = missing.iter().map(|(key, n)| (key.rewritten, *n)).collect();
    assert_eq!(counts, [(false, 2), (true, 1)]);
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
