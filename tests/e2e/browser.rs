//! The page in a real browser, driven by WebDriver: what a person sees, hears by a screen reader, and gets without asking.

use crate::programs::{Browser, browser, root};
use crate::support::{Sidecar, wait_for};
use serde_json::{Value, json};
use std::net::SocketAddr;

async fn sidecar() -> (Sidecar, SocketAddr) {
    let config = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners: []\nowners:\n- {name: search, match: {workspaces: ['ws-1']}, contact: '#search-oncall', runbook_url: 'https://runbooks.example/search'}\n- {name: batch, match: {workspaces: ['ws-2']}, contact: '#batch'}\n- {name: dev-team, kinds: [claude_plan], contact: '#dev'}\nsources: {routes: [{name: api, match: {services: [app]}}]}\n";
    let sidecar = Sidecar::start(config).await;
    let admin = sidecar.admin().await;
    (sidecar, admin)
}

fn told(workspace: &str, model: &str, status: u16, remaining: u64) -> Value {
    json!({"status": status, "model": model, "host": "api.anthropic.com", "route": "api", "headers": {
        "anthropic-workspace-id": workspace,
        "anthropic-ratelimit-input-tokens-limit": "60000",
        "anthropic-ratelimit-input-tokens-remaining": remaining.to_string(),
    }})
}

fn windows() -> Value {
    let now = jiff::Timestamp::now().as_second();
    json!({"call": false, "status": 200, "surface": "claude_code_plan", "headers": {
        "anthropic-ratelimit-unified-5h-utilization": "0.83", "anthropic-ratelimit-unified-5h-reset": (now + 5_400).to_string(),
        "anthropic-ratelimit-unified-7d-utilization": "0.41", "anthropic-ratelimit-unified-7d-reset": (now + 300_000).to_string(),
    }})
}

async fn tell(admin: SocketAddr, all: &[Value]) {
    let lines: String = all.iter().map(|one| format!("{one}\n")).collect();
    let request = reqwest::Client::new().post(format!("http://{admin}/v1/observations"));
    let answer = request.header("content-type", "application/x-ndjson").body(lines).send().await.unwrap();
    assert!(answer.status().is_success());
}

/// What the page says, once it says this.
async fn says(browser: &Browser, what: &str) -> String {
    wait_for(what, async || {
        let text = browser.run("return document.body.innerText").await;
        Some(text.as_str()?.to_owned()).filter(|text| text.contains(what))
    })
    .await
}

/// Nothing is wider than the screen.
async fn fits(browser: &Browser) {
    let wide = browser
        .run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        .await;
    assert_eq!(wide, json!(0), "it scrolls sideways");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_live_readable_and_safe_in_a_real_browser() {
    let (_sidecar, admin) = sidecar().await;
    let browser = browser().await;
    browser.open(&format!("http://{admin}/")).await;
    says(&browser, "No limit has been seen yet").await;

    // One bucket comes by itself, without a reload.
    browser.run("window.stays = true").await;
    tell(admin, &[told("ws-1", "claude-opus-5-5", 200, 30_000)]).await;
    says(&browser, "claude-opus-5-5").await;
    says(&browser, "live").await;

    // Forty, and windows that count down.
    let many: Vec<Value> =
        (0..40).map(|n| told("ws-2", &format!("model-{n}"), 200, 59_000 - n * 900)).collect();
    tell(admin, &many).await;
    tell(admin, &[windows()]).await;
    let text = says(&browser, "five_hour").await;
    assert!(text.contains("All 40 buckets of batch") && text.contains("1 h "), "{text}");

    // A 429, as it happens.
    tell(admin, &[told("ws-1", "claude-opus-5-5", 429, 0)]).await;
    let text = says(&browser, "PlimsollThrottled").await;
    assert!(text.find("search").unwrap() < text.find("batch").unwrap(), "the worst first");
    assert_eq!(browser.run("return window.stays").await, json!(true), "it was never loaded anew");

    // Long names stay in their place, on a phone too.
    let long = "claude-".to_owned() + &"very-long-name-".repeat(20);
    tell(admin, &[told("ws-1", &long, 200, 100)]).await;
    says(&browser, "very-long-name").await;
    fits(&browser).await;
    browser.resize(390, 800).await;
    fits(&browser).await;
    browser.picture("phone.png").await;
    browser.resize(1_200, 900).await;

    // Names from the traffic are text, and the policy lets no script in.
    tell(
        admin,
        &[told("ws-1", "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>", 429, 0)],
    )
    .await;
    says(&browser, "onerror=").await;
    // Nor does one turn the text around it.
    tell(admin, &[told("ws-1", "claude\u{202e}-turned", 200, 9_000)]).await;
    let text = says(&browser, "claude-turned").await;
    assert!(!text.contains('\u{202e}'), "{text}");
    assert_eq!(browser.run("return window.hacked").await, Value::Null);
    let inline = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s); return window.hacked";
    assert_eq!(browser.run(inline).await, Value::Null, "not even one that is put in");

    // Each bar says what it shows, each table has its heads, and the keyboard gets everywhere.
    let silent = "return [...document.querySelectorAll('svg')].filter((one) => !one.getAttribute('aria-label')).length";
    assert_eq!(browser.run(silent).await, json!(0));
    let heads = "return [...document.querySelectorAll('td')].filter((one) => !one.closest('table').querySelector('thead th[scope=col]')).length";
    assert_eq!(browser.run(heads).await, json!(0));
    assert_eq!(
        browser.run("return document.querySelector('a.skip').getAttribute('href')").await,
        json!("#main")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_tabs_are_served_and_the_keyboard_stays_where_it_is() {
    let (_sidecar, admin) = sidecar().await;
    tell(admin, &[told("ws-1", "claude-opus-5-5", 200, 3_000)]).await;
    let browser = browser().await;
    browser.open(&format!("http://{admin}/")).await;
    says(&browser, "PlimsollBucketPressure").await;

    // What has the focus keeps it while the page is put in place anew, and a new alert is said, once.
    let focus = "const a = document.querySelector('main a'); a.focus(); window.was = a.href; document.querySelector('main').stale = true";
    browser.run(focus).await;
    tell(admin, &[told("ws-2", "claude-haiku-5", 200, 3_000)]).await;
    says(&browser, "claude-haiku-5").await;
    let still =
        "return [document.querySelector('main').stale ?? false, document.activeElement.href === window.was]";
    assert_eq!(
        browser.run(still).await,
        json!([false, true]),
        "it was put in place anew, and the focus stayed"
    );
    let news = "return document.getElementById('news').textContent";
    wait_for("the alert to be said", async || {
        browser
            .run(news)
            .await
            .as_str()
            .filter(|said| said.contains("PlimsollBucketPressure batch"))
            .map(drop)
    })
    .await;

    // A browser has six connections to a server; each of these would keep one.
    for n in 0..8 {
        browser.tab(&format!("http://{admin}/owners/search")).await;
        says(&browser, "live").await;
        assert_eq!(browser.run("return (await fetch('/v1/state')).status").await, json!(200), "tab {n}");
    }

    // What is no longer there is not shown as if it were.
    browser.run("history.replaceState(null, '', '/owners/nobody')").await;
    tell(admin, &[told("ws-2", "claude-haiku-5", 200, 2_900)]).await;
    says(&browser, "Not here").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_is_whole_without_a_script_and_its_packet_is_there_to_copy() {
    let (_sidecar, admin) = sidecar().await;
    let one = |status, left| told("ws-1", "claude-opus-5-5", status, left);
    tell(admin, &[one(200, 40_000), one(429, 0), one(429, 0)]).await;
    let browser = browser().await;
    let link = "return document.querySelector('main table a')?.getAttribute('href')";
    browser.open(&format!("http://{admin}/incidents")).await;
    let path = wait_for("an incident", async || browser.run(link).await.as_str().map(str::to_owned)).await;
    browser.open(&format!("http://{admin}{path}")).await;
    let text = says(&browser, "Stop rule.").await;
    for part in ["Last success", "First failure", "Current failure", "First move", "Copy the packet"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    browser.run("document.getElementById('copy').click()").await;
    wait_for("the packet to be copied or selected", async || {
        let words = browser.run("return document.getElementById('copy').textContent").await;
        words.as_str().filter(|words| words.starts_with("Copied") || words.starts_with("Selected")).map(drop)
    })
    .await;
    // The same words come without any script.
    let plain = reqwest::get(format!("http://{admin}{path}")).await.unwrap().text().await.unwrap();
    assert!(plain.contains("Current failure") && plain.contains("id=\"packet\""));
}

/// Pictures for the README: `PLIMSOLL_UPDATE_PICTURES=1 cargo test --test e2e -- browser::pictures`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_of_the_page_can_be_taken() {
    let (_sidecar, admin) = sidecar().await;
    let now = jiff::Timestamp::now().as_second();
    // A minute in which Opus is used ever more, and the rest at leave.
    let minute = (0..30_i64).flat_map(|n| {
        let used = u64::try_from(n * n * 55).unwrap();
        let seen = [
            told("ws-1", "claude-opus-5-5", 200, 60_000 - used),
            told("ws-1", "claude-sonnet-5-5", 200, 41_000),
            told("ws-2", "claude-haiku-5", 200, 44_000),
        ];
        seen.into_iter().map(move |mut one| {
            let (at, resets) = (now - 58 + 2 * n, now - 28 + 2 * n);
            (one["started"], one["t"]) = (json!(at - 1), json!(at));
            let resets = jiff::Timestamp::from_second(resets).unwrap().to_string();
            one["headers"]["anthropic-ratelimit-input-tokens-reset"] = json!(resets);
            one
        })
    });
    let some: Vec<Value> = minute.chain([windows()]).collect();
    tell(admin, &some).await;
    let browser = browser().await;
    browser.resize(1_000, 860).await;
    browser.open(&format!("http://{admin}/")).await;
    says(&browser, "live").await;
    let bytes = browser.picture("page.png").await;
    assert!(bytes.len() > 10_000, "a picture of something");
    if std::env::var_os("PLIMSOLL_UPDATE_PICTURES").is_some() {
        std::fs::create_dir_all(root().join("docs/images")).unwrap();
        std::fs::write(root().join("docs/images/page.png"), bytes).unwrap();
    }
}

/// Two thousand buckets with long names: the worst are there, nothing scrolls sideways on a phone, and the rest is behind
/// their owner. How long it took to paint is printed, not judged (`docs/benchmarks.md`).
#[expect(clippy::print_stderr, reason = "figures for docs/benchmarks.md, shown with --nocapture")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_buckets_with_long_names_are_a_page_that_a_person_can_read() {
    let (sidecar, admin) = sidecar().await;
    let long = "x".repeat(120);
    let all: Vec<Value> = (0..2_000)
        .map(|n| told("ws-1", &format!("model-{n:04}-{long}"), 200, 59_000_u64.saturating_sub(n * 29)))
        .collect();
    for some in all.chunks(500) {
        tell(admin, some).await;
    }
    wait_for("the book to be full", async || {
        Some(()).filter(|()| sidecar.running.published.snapshots.borrow().buckets.len() >= 1_500)
    })
    .await;
    let browser = browser().await;
    browser.resize(390, 800).await;
    browser.open(&format!("http://{admin}/")).await;
    let text = says(&browser, "buckets of search").await;
    assert!(text.contains("Call #search-oncall"), "{text}");
    fits(&browser).await;
    let paint = "return JSON.stringify({paint: performance.getEntriesByName('first-contentful-paint').map(e => e.startTime),
        page: performance.getEntriesByType('navigation').map(e => [e.responseEnd, e.transferSize])})";
    eprintln!("the first page, in a browser that has just begun: {}", browser.run(paint).await);
    for (page, path) in [("a page of a few lines", "sources"), ("the first page once more", "")] {
        browser.open(&format!("http://{admin}/{path}")).await;
        wait_for("it to be painted", async || {
            browser.run(paint).await.as_str().filter(|seen| !seen.contains("\"paint\":[]")).map(|_| ())
        })
        .await;
        eprintln!("{page}: {}", browser.run(paint).await);
    }
    browser.open(&format!("http://{admin}/owners/search/anthropic_workspace")).await;
    let rows = "return document.querySelectorAll('tbody tr').length";
    wait_for("every bucket of the owner", async || {
        browser.run(rows).await.as_u64().filter(|rows| *rows >= 1_000)
    })
    .await;
    fits(&browser).await;
    eprintln!("the owner's page: {}", browser.run(paint).await);
}
