//! What the parts cost: one observation through dialect and engine, a scrape of 10,000 buckets, the
//! request scan, a verdict. `cargo bench --bench parts`.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue};
use plimsoll::config::Semconv;
use plimsoll::dialects::{self, error_text};
use plimsoll::engine::foresight::{Pool, Slot, Told};
use plimsoll::engine::{Book, BookLimits, Thresholds};
use plimsoll::exporters::catalogue::Facts;
use plimsoll::exporters::genai::GenAi;
use plimsoll::exporters::prometheus::{Format, render};
use plimsoll::limit::{Knobs, Timestamp};
use plimsoll::observation::{AuthKind, Call, Client, Credential, ErrorBody, Head};
use plimsoll::owner::{Evidence, Owners, judge};
use plimsoll::route::{ModelGroup, RouteName, Surface};
use plimsoll::sources::proxy::scan::Scanner;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The median over nine runs of the time of one call.
fn timed(what: &str, times: u32, mut run: impl FnMut(u32)) -> Duration {
    let mut runs: Vec<Duration> = (0..9)
        .map(|_| {
            let started = Instant::now();
            for n in 0..times {
                run(n);
            }
            started.elapsed() / times
        })
        .collect();
    runs.sort();
    println!("{what:<52} {:>12.3} us", runs[4].as_secs_f64() * 1e6);
    runs[4]
}

fn headers(remaining: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put =
        |name: &'static str, value: String| headers.insert(name, HeaderValue::from_str(&value).unwrap());
    put("date", "Tue, 24 Nov 2026 05:00:00 GMT".into());
    put("request-id", "req_011CZ47RMLnx1JoJXRrzzSde".into());
    put("anthropic-organization-id", "00000000-0000-0000-0000-000000000000".into());
    put("anthropic-workspace-id", "wrkspc_bench".into());
    for (limit, left, reset, of) in [
        (
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
            4_000,
        ),
        (
            "anthropic-ratelimit-input-tokens-limit",
            "anthropic-ratelimit-input-tokens-remaining",
            "anthropic-ratelimit-input-tokens-reset",
            2_000_000,
        ),
        (
            "anthropic-ratelimit-output-tokens-limit",
            "anthropic-ratelimit-output-tokens-remaining",
            "anthropic-ratelimit-output-tokens-reset",
            400_000,
        ),
        (
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
            2_400_000,
        ),
    ] {
        put(limit, of.to_string());
        put(left, (of - remaining % 1_000).to_string());
        put(reset, "2026-11-24T05:00:01Z".into());
    }
    headers
}

fn call() -> Arc<Call> {
    Arc::new(Call {
        id: 1,
        route: RouteName::new("api"),
        surface: Surface::AnthropicApi,
        auth: AuthKind::ApiKey,
        credential: Credential::default(),
        client: Client::Other,
        session: None,
        upstream: "https://api.example".into(),
        region: None,
        project: None,
        started: Timestamp::default(),
        traceparent: None,
        method: http::Method::POST,
        path: "/v1/messages".into(),
    })
}

fn head(call: &Arc<Call>, headers: &HeaderMap, model: &ModelGroup, now: Timestamp) -> Head {
    let limits = Arc::new(dialects::read_head(200, headers, now));
    Head { call: call.clone(), model: Some(model.clone()), at: now, status: 200, limits }
}

fn main() {
    let (one, start) = (headers(7), Timestamp::from_secs(1_795_000_000));
    observations(&one, start);
    scrape(&one, start);
    scan();
    verdicts();
}

/// A verdict on a refusal: without a body, and with 2 kB of one that only the last words decide.
fn verdicts() {
    let limits = dialects::read_head(429, &headers(0), Timestamp::from_secs(1_795_000_000));
    let none = ErrorBody::default();
    timed("verdict: without a body (wanted: 5 us)", 20_000, |_| {
        black_box(judge(&Evidence::new(Some(429), &limits, &none, Surface::AnthropicApi)));
    });
    let text = format!(
        r#"{{"type":"error","error":{{"type":"rate_limit_error","message":"{} Number of concurrent connections has exceeded your rate limit."}}}}"#,
        "Lorem ipsum dolor sit amet. ".repeat(70)
    );
    let body = error_text::read(text.as_bytes(), false, false);
    println!("error body: {} bytes", text.len());
    let limits = dialects::read_head(429, &HeaderMap::new(), Timestamp::default());
    timed("verdict: with 2 kB of body (wanted: 20 us)", 5_000, |_| {
        black_box(judge(&Evidence::new(Some(429), &limits, &body, Surface::AnthropicApi)));
    });
    timed("error body: read, 2 kB", 5_000, |_| {
        black_box(error_text::read(text.as_bytes(), false, false));
    });
}

fn observations(one: &HeaderMap, start: Timestamp) {
    let call = call();
    let model = ModelGroup::of_model("claude-opus-5-5");
    let mut book = Book::new(Arc::new(Owners::default()), Thresholds::default(), BookLimits::default());
    timed("dialect: one response head (12 limit headers)", 20_000, |n| {
        black_box(dialects::read_head(200, one, start.plus(Duration::from_millis(u64::from(n)))));
    });
    let mut at = start;
    timed("dialect and engine: one observation (wanted: 2 us)", 20_000, |_| {
        at = at.plus(Duration::from_millis(1));
        book.head(&head(&call, one, &model, at));
    });
    for buckets in [10, 10_000, 100_000_usize] {
        let mut book = Book::new(
            Arc::new(Owners::default()),
            Thresholds::default(),
            BookLimits { buckets: buckets * 3, ..BookLimits::default() },
        );
        let models: Vec<ModelGroup> =
            (0..buckets).map(|n| ModelGroup::of_model(&format!("model-{n}"))).collect();
        let head = head(&call, one, &model, start);
        // A call for each model, on its way: one observation is one head.
        let heads: Vec<Head> = models
            .iter()
            .enumerate()
            .map(|(id, model)| {
                let call = Arc::new(Call { id: id as u64, ..(*call).clone() });
                Head { call, model: Some(model.clone()), ..head.clone() }
            })
            .collect();
        heads.iter().for_each(|head| book.head(head));
        timed(&format!("engine: one observation among {} buckets", buckets * 3), 20_000, |n| {
            book.head(&heads[n as usize % heads.len()]);
        });
    }
    foresight(start);
}

/// What foresight alone costs: a call's start, the three buckets of its header, a look, its end.
fn foresight(start: Timestamp) {
    let mut pool = Pool::new(start);
    let knobs = Knobs::default();
    let mut at = start;
    timed("foresight: a call, from start to end (wanted: 1 us)", 100_000, |n| {
        at = at.plus(Duration::from_millis(5));
        black_box(pool.start(Some(8_000), at));
        for slot in [Slot::Requests, Slot::Input, Slot::Output] {
            let remaining = 1_900_000 - u64::from(n % 100) * 1_000;
            pool.told(Told { slot, limit: 2_000_000, remaining, rounding: 1_000, full: None }, at);
        }
        black_box(pool.look(&knobs, at));
        pool.end(Some(8_000), Some((2_000, 100)), at);
    });
    println!("foresight: a pool of up to four buckets keeps {} bytes", size_of::<Pool>());
}

fn scrape(one: &HeaderMap, start: Timestamp) {
    let call = call();
    let mut book = Book::new(
        Arc::new(Owners::default()),
        Thresholds::default(),
        BookLimits { buckets: 10_002, ..BookLimits::default() },
    );
    for n in 0..3_334 {
        book.head(&head(&call, one, &ModelGroup::of_model(&format!("model-{n}")), start));
    }
    let facts = Facts {
        owners: ArcSwap::from_pointee(Owners::default()),
        stats: Arc::default(),
        genai: GenAi::new(Semconv::Off, None),
    };
    let snapshot = book.snapshot(start);
    println!("buckets in the scrape: {}", snapshot.buckets.len());
    timed("scrape: 10,002 buckets as text (wanted: 20,000 us)", 5, |_| {
        black_box(render(&snapshot, &facts, Format::Text));
    });
    timed("engine: a snapshot of 10,002 buckets", 5, |_| {
        black_box(book.snapshot(start));
    });
    timed("engine: a tick over 10,002 buckets", 20, |_| book.tick(start));
}

fn scan() {
    let body = format!(
        r#"{{"max_tokens":16,"messages":[{{"content":"{}"}}],"model":"m"}}"#,
        "lorem ipsum dolor ".repeat(500_000)
    );
    let scan = timed("scan: a request body of 9 MB", 3, |_| {
        let mut scanner = Scanner::new(["model", "max_tokens", "stream"], 256);
        body.as_bytes().chunks(16_384).for_each(|chunk| scanner.feed(chunk));
        assert!(black_box(&scanner).value(0).is_some());
    });
    println!("scan: {:.1} GB/s (wanted: 1)", body.len() as f64 / scan.as_secs_f64() / 1e9);
}
