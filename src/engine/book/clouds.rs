//! The book on clouds: own counts against limits that quota APIs tell, money, names of models.

use super::*;
use crate::observation::{Alias, AuthKind, Credential, Drawn, Quota, RequestShape, Usage};
use crate::owner::{OwnerRule, Pattern};
use std::time::Duration;

const T0: Timestamp = Timestamp::from_secs(1_790_000_000);

fn at(secs: f64) -> Timestamp {
    T0.plus(Duration::from_secs_f64(secs))
}

fn account() -> Account {
    Account { project: Some("123456789012".into()), region: Some("us-east-1".into()), ..Account::default() }
}

fn call(id: u64) -> Arc<Call> {
    Arc::new(Call {
        id,
        route: RouteName::new("bedrock"),
        surface: Surface::Bedrock,
        auth: AuthKind::SigV4,
        credential: Credential::default(),
        client: Client::Other,
        session: None,
        upstream: "https://bedrock.example".into(),
        region: Some("us-east-1".into()),
        project: Some("123456789012".into()),
        started: T0,
        traceparent: None,
        method: http::Method::POST,
        path: "/model/us.anthropic.claude-sonnet-4-6/invoke".into(),
    })
}

fn model() -> ModelGroup {
    ModelGroup::named("cross-region.claude-sonnet-4-6")
}

fn start(id: u64, max_tokens: u64, secs: f64) -> Start {
    Start {
        call: call(id),
        model: Some(model()),
        at: at(secs),
        body_bytes: 4_000,
        max_tokens: Some(Amount::new(max_tokens)),
    }
}

fn end(id: u64, status: u16, usage: Option<Usage>, secs: f64) -> Box<End> {
    let limits = Arc::new(Limits { account: account(), ..Limits::default() });
    let refused = ErrorBody {
        message: Some("Too many tokens, please wait before trying again.".into()),
        ..ErrorBody::default()
    };
    Box::new(End {
        call: call(id),
        model: Some(model()),
        at: at(secs),
        headed: Some(at(secs)),
        status: Some(status),
        outcome: Outcome::Complete,
        limits,
        request: RequestShape { body_bytes: 4_000, ..RequestShape::default() },
        concurrency: 1,
        usage,
        error: (status >= 400).then(|| Box::new(refused)),
    })
}

fn quota(limiter: Limiter, window: Window, limit: u64) -> Quota {
    Quota {
        surface: Surface::Bedrock,
        account: account(),
        model: model(),
        limiter,
        window,
        limit: Some(Amount::new(limit)),
        drawn: None,
        refused: None,
        resets: None,
    }
}

fn told(rows: Vec<Quota>, aliases: Vec<Alias>) -> Arc<Quotas> {
    Arc::new(Quotas { source: "bedrock_limits/test".into(), at: T0, rows, aliases, workspaces: Vec::new() })
}

fn book(share: Option<f64>) -> Book {
    let ml = OwnerRule { projects: vec![Pattern::new("1234*")], ..OwnerRule::named("ml") };
    let mut book = Book::new(Arc::new(Owners::new(vec![ml])), Thresholds::default(), BookLimits::default());
    book.count_by(LocalRules { share, ..LocalRules::default() });
    book
}

fn local(book: &Book, limiter: &Limiter, secs: f64) -> BucketView {
    let buckets = book.snapshot(at(secs)).buckets;
    buckets.into_iter().find(|b| b.scope == Scope::Local && b.limiter == *limiter).unwrap()
}

fn used(input: u64, output: u64, cache_read: u64) -> Option<Usage> {
    let [input, output, cache_read] = [input, output, cache_read].map(Amount::new);
    Some(Usage { input, output, cache_read, ..Usage::default() })
}

#[test]
fn a_call_reserves_at_its_start_and_settles_at_its_end() {
    let mut book = book(None);
    book.quotas(&told(vec![quota(Limiter::TOKENS, Window::Minute, 100_000)], Vec::new()), T0);
    book.start(&start(1, 8_000, 0.0));
    let bucket = local(&book, &Limiter::TOKENS, 0.1);
    assert_eq!(
        (bucket.used, bucket.owner.id.as_str()),
        (Some(Amount::new(9_000)), "ml"),
        "1,000 of input and max_tokens"
    );
    book.end(end(1, 200, used(100, 200, 50_000), 2.0));
    let bucket = local(&book, &Limiter::TOKENS, 2.1);
    assert_eq!(bucket.used, Some(Amount::new(1_100)), "output five times, cache reads free");
    assert_eq!(bucket.utilization, Some(0.011));
    assert_eq!(local(&book, &Limiter::REQUESTS, 2.1).used, Some(Amount::new(1)));
    assert_eq!(
        local(&book, &Limiter::REQUESTS, 2.1).utilization,
        None,
        "no requests quota is no limit, not 0"
    );
    assert_eq!(
        local(&book, &Limiter::TOKENS, 63.0).used,
        Some(Amount::new(0)),
        "a minute later it is free again"
    );
}

#[test]
fn what_was_refused_took_nothing() {
    let mut book = book(None);
    book.start(&start(1, 8_000, 0.0));
    book.end(end(1, 429, None, 0.2));
    assert_eq!(local(&book, &Limiter::TOKENS, 1.0).used, Some(Amount::new(0)));
    assert_eq!(local(&book, &Limiter::REQUESTS, 1.0).used, Some(Amount::new(0)));
    assert_eq!(local(&book, &Limiter::TOKENS, 1.0).limit, None, "a limit that nobody told is not known");
}

#[test]
fn own_counts_alert_directly_only_with_a_share() {
    for share in [None, Some(0.5)] {
        let mut book = book(share);
        book.quotas(&told(vec![quota(Limiter::TOKENS, Window::Minute, 100_000)], Vec::new()), T0);
        let mut alerts = Vec::new();
        for id in 0..40 {
            let secs = id as f64;
            book.start(&start(id, 500, secs));
            book.end(end(id, 200, used(1_000, 100, 0), secs + 0.5));
            book.tick(at(secs + 0.6));
            alerts.extend(book.alerts(at(secs + 0.6)));
        }
        let names: Vec<_> =
            alerts.iter().map(|a| (a.name, a.identity.scope, a.identity.limiter.as_str())).collect();
        match share {
            None => assert_eq!(names, [], "one pod's share says nothing of the whole"),
            Some(_) => {
                assert!(names.contains(&(AlertName::BucketPressure, Scope::Local, "tokens")), "{names:?}");
                let alert = alerts.iter().find(|a| a.name == AlertName::BucketPressure).unwrap();
                assert!(alert.utilization.is_some_and(|used| used < 1.0), "before the share is used up");
                assert_eq!(alert.identity.owner.id.as_str(), "ml");
            }
        }
    }
}

#[test]
fn an_application_profile_counts_for_its_model() {
    let mut book = book(None);
    let alias = Alias { surface: Surface::Bedrock, name: ModelGroup::named("a1b2"), group: model() };
    book.quotas(&told(vec![quota(Limiter::TOKENS, Window::Minute, 100_000)], vec![alias]), T0);
    book.start(&Start { model: Some(ModelGroup::named("a1b2")), ..start(1, 100, 0.0) });
    let bucket = local(&book, &Limiter::TOKENS, 0.1);
    assert_eq!((bucket.model, bucket.limit), (model(), Some(Amount::new(100_000))));
}

fn spent(cents: u64, daily: f64, secs: f64) -> Arc<Quotas> {
    let quota = Quota {
        surface: Surface::AnthropicApi,
        model: ModelGroup::none(),
        drawn: Some(Drawn { amount: Amount::new(cents), until: at(secs), daily: Some(daily) }),
        resets: Some(at(10.0 * 86_400.0)),
        ..quota(Limiter::SPEND, Window::Month, 100_000)
    };
    Arc::new(Quotas {
        source: "anthropic_spend".into(),
        at: at(secs),
        rows: vec![quota],
        aliases: Vec::new(),
        workspaces: Vec::new(),
    })
}

#[test]
fn money_alerts_by_what_is_spent_and_by_where_it_leads() {
    for (cents, daily, up) in [
        (10_000, 20_000.0, false), // a tenth: too early to speak of a forecast
        (50_000, 2_000.0, false),  // lasts 25 days, and the month 10
        (50_000, 9_000.0, true),   // lasts 5
        (85_000, 0.0, true),       // mostly spent
    ] {
        let mut book = book(None);
        book.quotas(&spent(cents, daily, 0.0), T0);
        let alerts = book.alerts(at(1.0));
        assert_eq!(alerts.iter().any(|a| a.name == AlertName::Spend), up, "{cents} at {daily} a day");
        assert_eq!(alerts.len(), usize::from(up));
    }
    let mut book = book(None);
    book.quotas(&spent(85_000, 0.0, 0.0), T0);
    book.quotas(&spent(1_000, 0.0, 60.0), at(60.0));
    assert_eq!(book.alerts(at(61.0)), [], "the next month");
}

#[test]
fn a_new_poll_takes_the_place_of_the_one_before_and_no_quota_of_zero_divides() {
    let mut book = book(None);
    let rows = vec![quota(Limiter::TOKENS, Window::Minute, 0), quota(Limiter::REQUESTS, Window::Minute, 10)];
    book.quotas(&told(rows, Vec::new()), T0);
    book.start(&start(1, 100, 0.0));
    assert_eq!(local(&book, &Limiter::TOKENS, 0.1).utilization, None);
    book.quotas(&told(Vec::new(), Vec::new()), at(1.0));
    assert_eq!(local(&book, &Limiter::REQUESTS, 1.1).limit, None);
    assert!(book.snapshot(at(1.1)).buckets.iter().all(|b| b.scope == Scope::Local));
}

#[test]
fn calls_whose_end_is_lost_do_not_reserve_for_ever() {
    let mut book = book(None);
    book.start(&start(1, 8_000, 0.0));
    for secs in [20.0, 650.0] {
        book.tick(at(secs));
    }
    // The pool lives on by another call.
    book.start(&start(2, 100, 660.0));
    assert_eq!(local(&book, &Limiter::TOKENS, 660.1).used, Some(Amount::new(1_100)), "only its own");
}

#[test]
fn an_end_whose_start_was_lost_is_settled_all_the_same() {
    let mut book = book(None);
    book.end(end(7, 200, used(100, 200, 0), 1.0));
    assert_eq!(local(&book, &Limiter::TOKENS, 1.1).used, Some(Amount::new(1_100)));
    assert_eq!(local(&book, &Limiter::REQUESTS, 1.1).used, Some(Amount::new(1)));
}

#[test]
fn an_answer_that_tells_no_usage_took_its_input() {
    let mut book = book(None);
    book.start(&start(1, 8_000, 0.0));
    book.end(end(1, 200, None, 1.0));
    assert_eq!(local(&book, &Limiter::TOKENS, 1.1).used, Some(Amount::new(1_000)));
}

#[test]
fn made_up_pools_make_room_for_real_ones_and_owners_that_merge_lose_no_reservation() {
    let mut book = book(None);
    book.limits.buckets = 3;
    for (id, name) in ["x", "y", "z"].iter().enumerate() {
        let made_up = Some(ModelGroup::named(name));
        book.start(&Start { model: made_up.clone(), ..start(id as u64, 10, id as f64) });
        let mut refused = end(id as u64, 404, None, id as f64 + 0.1);
        refused.model = made_up;
        book.end(refused);
    }
    book.start(&start(9, 8_000, 5.0));
    assert_eq!(local(&book, &Limiter::TOKENS, 5.1).used, Some(Amount::new(9_000)));
    let owners = Owners::new(vec![OwnerRule::named("all")]);
    book.reconfigure(Arc::new(owners), Thresholds::default(), BookLimits::default());
    book.end(end(9, 200, used(100, 0, 0), 6.0));
    assert_eq!(local(&book, &Limiter::TOKENS, 6.1).used, Some(Amount::new(100)));
}

#[test]
fn workspaces_of_one_owner_add_up_and_no_account_takes_anothers_numbers() {
    let mut book = book(None);
    let drawn = |project: &str, amount: u64, limit: u64| Quota {
        account: Account { project: Some(project.into()), ..account() },
        drawn: Some(Drawn { amount: Amount::new(amount), until: T0, daily: None }),
        ..quota(Limiter::TOKENS, Window::Minute, limit)
    };
    book.quotas(&told(vec![drawn("1234a", 10, 500), drawn("1234b", 30, 500)], Vec::new()), T0);
    let both = |book: &Book| book.snapshot(at(1.0)).buckets.into_iter().next().unwrap();
    assert_eq!((both(&book).used, both(&book).limit), (Some(Amount::new(40)), Some(Amount::new(500))));
    book.quotas(&told(vec![drawn("1234a", 10, 500), drawn("1234b", 30, 900)], Vec::new()), T0);
    assert_eq!(both(&book).limit, None, "a limit that is not the same for all is nobody's");
}

#[test]
fn a_cost_that_is_no_longer_told_raises_no_alert_for_ever() {
    let mut book = book(None);
    book.quotas(&spent(85_000, 0.0, 0.0), T0);
    book.tick(at(3_000.0));
    assert_eq!(book.alerts(at(3_000.0)).len(), 1);
    book.tick(at(3_700.0));
    assert_eq!(book.alerts(at(3_700.0)), []);
}

#[test]
fn an_alert_on_money_does_not_flap_with_costs_that_come_in_late() {
    let mut book = book(None);
    book.quotas(&spent(50_000, 9_000.0, 0.0), T0);
    book.quotas(&spent(50_000, 2_000.0, 900.0), at(900.0));
    assert_eq!(book.alerts(at(901.0)).len(), 1, "for some hours it may well come back");
}
