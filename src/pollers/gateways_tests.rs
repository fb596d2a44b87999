//! What is made of gateways' counters, gauges and budgets, as the programs write them.

use super::*;
use crate::stats::Polls;
use std::time::Duration;

fn asked(kind: GatewayKind) -> Asked {
    let config = Gateway {
        name: "g".into(),
        kind,
        url: "http://127.0.0.1:1".into(),
        admin_url: "http://127.0.0.1:1".into(),
        route: Some("llm".into()),
        key: None,
        keys: Vec::new(),
        teams: Vec::new(),
        interval: Duration::from_secs(15),
    };
    Asked::new(&config, Clock::system(), Unusable::new("g".into(), Arc::new(Polls::default()))).unwrap()
}

/// LiteLLM 1.100.5, as it was seen.
fn litellm(own: u32, vendor: u32, cooldown: u32) -> String {
    format!(
        "# TYPE litellm_proxy_failed_requests_metric_total counter
litellm_proxy_failed_requests_metric_total{{api_key_alias=\"sk-tenant-rpm1\",api_provider=\"None\",exception_class=\"HTTPException\",exception_status=\"429\",hashed_api_key=\"ad11\",requested_model=\"claude-sonnet\"}} {own}.0
litellm_proxy_failed_requests_metric_total{{api_provider=\"anthropic\",exception_class=\"Anthropic.RateLimitError\",exception_status=\"429\",requested_model=\"claude-sonnet\"}} {vendor}.0
litellm_proxy_failed_requests_metric_total{{api_provider=\"None\",exception_class=\"RouterRateLimitError\",exception_status=\"None\",requested_model=\"claude-two\"}} {cooldown}.0
litellm_proxy_failed_requests_metric_total{{exception_class=\"AuthenticationError\",exception_status=\"401\"}} 9.0
litellm_proxy_failed_requests_metric_created{{exception_class=\"HTTPException\",exception_status=\"429\"}} 1.795e9
litellm_remaining_tokens_metric{{model_group=\"claude-sonnet\"}} 47000.0
"
    )
}

#[test]
fn litellms_counters_tell_tenant_vendor_and_cooldown_apart_once_they_grow() {
    let mut asked = asked(GatewayKind::Litellm);
    assert!(asked.scraped(&litellm(5, 5, 5)).is_empty(), "a counter may be years old");
    let seen = asked.scraped(&litellm(7, 6, 6));
    let of = |answered| seen.iter().filter(|seen| seen.answered == answered).count();
    assert_eq!((of(Some(Answered::Gateway)), of(Some(Answered::Upstream)), of(None)), (2, 1, 1));
    let vendor = seen.iter().find(|seen| seen.answered == Some(Answered::Upstream)).unwrap();
    assert_eq!(vendor.surface, Some(Surface::AnthropicApi));
    let cooldown = seen.iter().find(|seen| seen.answered.is_none()).unwrap();
    assert!(cooldown.body.as_ref().unwrap().contains("No deployments available"));
    assert!(seen.iter().all(|seen| seen.aggregate && seen.route.as_deref() == Some("llm")));
    assert!(!format!("{seen:?}").contains("ad11"), "no key's hash goes on");
    assert_eq!(
        asked.scraped(&litellm(1, 6, 6)).len(),
        0,
        "begun anew, or another process: nobody says which"
    );
    assert_eq!(asked.scraped(&litellm(1_000_000, 6, 6)).len(), 500);
}

#[test]
fn a_counter_that_began_anew_counts_only_if_its_process_did() {
    let mut asked = asked(GatewayKind::Litellm);
    let now = asked.clock.now().secs_f64();
    let text = |started: f64, own| format!("process_start_time_seconds {started}\n{}", litellm(own, 0, 0));
    asked.scraped(&text(now - 500.0, 40));
    assert_eq!(asked.scraped(&text(now - 500.0, 41)).len(), 1);
    assert_eq!(asked.scraped(&text(now + 1.0, 3)).len(), 3, "started since the last look");
    assert_eq!(asked.scraped(&text(now + 1.0, 4)).len(), 1);
    // Another replica behind the same address.
    assert_eq!(asked.scraped(&text(now - 900.0, 70)).len(), 0);
    assert_eq!(asked.scraped(&text(now - 900.0, 72)).len(), 2);
}

#[tokio::test]
async fn budgets_that_cannot_be_read_keep_back_nothing_else() {
    let mut asked = asked(GatewayKind::Litellm);
    asked.config.key = Some("sk-x".to_owned().into());
    (asked.config.teams, asked.config.keys) = (vec!["t".to_owned()], vec!["k".to_owned()]);
    assert!(asked.budgets().await.unwrap().is_empty());
    assert_eq!(asked.failed.len(), 2, "{:?}", asked.failed);
    assert!(asked.failed[0].starts_with("team t: ") && asked.failed[1].starts_with("key k: "));
}

#[test]
fn a_gauge_that_stands_still_or_holds_a_sentinel_says_nothing() {
    let mut asked = asked(GatewayKind::Litellm);
    let text = |allowed: &str, used: &str| {
        format!(
            "litellm_api_key_rate_limit_allowed_metric{{api_key_alias=\"a\",rate_limit_type=\"requests\"}} {allowed}\nlitellm_api_key_rate_limit_used_metric{{api_key_alias=\"a\",rate_limit_type=\"requests\"}} {used}\n"
        )
    };
    assert!(asked.scraped(&text("100", "40")).is_empty(), "of any age");
    assert!(asked.scraped(&text("100", "40")).is_empty());
    let seen = asked.scraped(&text("100", "90"));
    assert_eq!(seen.len(), 1);
    assert!(seen[0].state && seen[0].tenant.is_some());
    assert_eq!(seen[0].headers["x-ratelimit-api_key-remaining-requests"], "10");
    assert!(asked.scraped(&text("9.223372036854775807e+18", "95")).is_empty(), "nobody knows the limit");
    assert!(asked.scraped(&text("100", "NaN")).is_empty());
}

#[test]
fn kongs_source_and_agentgateways_reason_say_who_refused() {
    let mut kong = asked(GatewayKind::Kong);
    let text = |n: u32| {
        format!(
            "kong_http_requests_total{{service=\"claude\",route=\"r\",code=\"429\",source=\"exit\",workspace=\"default\",consumer=\"\"}} {n}\nkong_http_requests_total{{service=\"claude\",route=\"r\",code=\"200\",source=\"service\"}} {n}\n"
        )
    };
    kong.scraped(&text(1));
    let seen = kong.scraped(&text(2));
    assert_eq!(
        (seen.len(), seen[0].answered, seen[0].service.as_deref()),
        (1, Some(Answered::Gateway), Some("claude"))
    );
    let mut agent = asked(GatewayKind::Agentgateway);
    let text = |n: u32| {
        format!("agentgateway_requests_total{{status=\"429\",reason=\"Upstream\",backend=\"b\"}} {n}\n")
    };
    agent.scraped(&text(1));
    assert_eq!(agent.scraped(&text(2))[0].answered, Some(Answered::Upstream));
}

#[test]
fn a_budget_is_a_quota_of_the_gateways_tenant() {
    let json = r#"{"team_info":{"team_id":"t","spend":41.5,"max_budget":50.0,"budget_duration":"30d","budget_reset_at":"2026-12-01T00:00:00Z","rpm_limit":null}}"#;
    let info: TeamInfo = serde_json::from_str(json).unwrap();
    let now = Timestamp::from_secs(1_795_000_000);
    let quota = info.team_info.quota("team:t", now).unwrap();
    assert_eq!((quota.limit, quota.drawn.unwrap().amount), (Some(Amount::new(5_000)), Amount::new(4_150)));
    assert_eq!((quota.window, quota.surface), (Window::Month, Surface::Gateway));
    assert_eq!(quota.resets, Some(Timestamp::from_secs(1_796_083_200)));
    let without: TeamInfo = serde_json::from_str(r#"{"team_info":{"spend":1.0,"max_budget":null}}"#).unwrap();
    assert!(without.team_info.quota("team:t", now).is_none());
    assert_eq!((cents(-1.0), cents(f64::NAN), cents(0.125)), (None, None, Some(Amount::new(13))));
}
