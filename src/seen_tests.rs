//! What is made of what was seen: routes, times, names, surfaces.

use super::*;
use crate::dialects::read_head;

const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

fn seen(json: &str) -> Seen {
    serde_json::from_str::<Line>(json).unwrap().into()
}

fn report(seen: Seen, places: &Places) -> (Box<Report>, bool) {
    let source = Arc::from("tail");
    let groups = ModelGroups::default();
    let (place, _) = places.of(&source, &seen);
    Maker { source: &source, groups: &groups, read_head }.report(seen, place, 7, NOW)
}

fn rule(name: &str, host: &str, services: &[&str]) -> PlaceRule {
    PlaceRule {
        place: Place {
            surface: Some(Surface::Gateway),
            model: Some("claude-x".into()),
            ..Place::named(name)
        },
        hosts: vec![Pattern::new(host)],
        paths: Vec::new(),
        services: services.iter().map(|s| Pattern::new(s)).collect(),
        sources: Vec::new(),
    }
}

#[test]
fn a_report_becomes_a_head_and_an_end_with_everything_it_tells() {
    let (report, skewed) = report(
        seen(
            r#"{"t":1794999999.5,"started":1794999990,"headed":1794999991,"host":"api.anthropic.com:443","path":"/v1/messages?beta=true",
            "status":429,"headers":{"anthropic-ratelimit-input-tokens-limit":"1000","anthropic-ratelimit-input-tokens-remaining":"0",
            "request-id":"req_1","retry-after":"3"},"body":{"error":{"type":"rate_limit_error"}},"model":"claude-opus-5-5-20260101",
            "request_bytes":400,"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
        ),
        &Places::default(),
    );
    assert!(!skewed);
    let end = report.end.unwrap();
    assert_eq!(end.call.path.as_ref(), "/v1/messages", "a query may hold a key");
    assert_eq!(end.call.surface, Surface::AnthropicApi);
    assert_eq!(end.call.route.as_str(), "tail");
    assert_eq!(end.model.as_ref().unwrap().as_str(), "claude-opus-5-5");
    assert_eq!((end.status, end.limits.retry_after), (Some(429), Some(Duration::from_secs(3))));
    assert_eq!(end.error.unwrap().kind.as_deref(), Some("rate_limit_error"));
    assert!(end.limits.partial && end.limits.trios);
    assert_eq!(report.head.unwrap().at, Timestamp::from_secs(1_794_999_991));
    let start = report.start.unwrap();
    assert_eq!((start.body_bytes, start.at), (400, Timestamp::from_secs(1_794_999_991)));
    assert!(report.keys.exact.contains(&Key::request("req_1")));
    assert!(report.keys.span == Some(Key::span("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")));
}

#[test]
fn a_route_is_what_the_configuration_says_and_never_what_a_report_invents() {
    let mut places = Places { rules: vec![rule("litellm", "llm.*", &[])], upstreams: Vec::new() };
    places.upstreams.push(("api.anthropic.com".into(), Place::named("api")));
    let of = |json: &str| places.of("tail", &seen(json)).0.route.as_str().to_owned();
    assert_eq!(of(r#"{"host":"llm.internal:4000","status":200}"#), "litellm");
    assert_eq!(of(r#"{"host":"api.anthropic.com","status":200}"#), "api");
    assert_eq!(of(r#"{"route":"api","status":200}"#), "api");
    assert_eq!(of(r#"{"route":"made-up-label","status":200}"#), "tail");
    let (report, _) = report(seen(r#"{"host":"llm.internal","status":200}"#), &places);
    let end = report.head.unwrap();
    assert_eq!((end.call.surface, end.model.unwrap().as_str()), (Surface::Gateway, "claude-x"));
}

#[test]
fn services_are_matched_too_and_all_that_is_given_must_match() {
    let places = Places { rules: vec![rule("batch", "*", &["claude-*"])], upstreams: Vec::new() };
    let of = |json: &str| places.of("tail", &seen(json)).1;
    assert!(of(r#"{"host":"h","service":"claude-code","status":200}"#));
    assert!(!of(r#"{"host":"h","service":"other","status":200}"#));
    assert!(!of(r#"{"service":"claude-code","status":200}"#), "no host was told");
}

#[test]
fn a_wrong_clock_is_set_by_the_answers_date_and_a_late_report_stays_late() {
    let at = |t: f64, date: &str| {
        let (report, skewed) = report(
            seen(&format!(r#"{{"t":{t},"headed":{t},"status":200,"headers":{{"date":"{date}"}}}}"#)),
            &Places::default(),
        );
        (NOW.secs_f64() - report.end.unwrap().at.secs_f64(), skewed)
    };
    // 1795000000 is Wed, 18 Nov 2026 11:06:40 GMT.
    let (now, hour_ago) = ("Wed, 18 Nov 2026 11:06:39 GMT", "Wed, 18 Nov 2026 10:06:40 GMT");
    assert_eq!(at(1_794_999_970.0, now), (30.0, false), "what is recent is believed");
    assert_eq!(at(1_794_996_400.0, hour_ago), (3_600.0, false), "late, by a clock that is right");
    assert_eq!(at(1_794_996_400.0, now), (1.0, true), "an hour behind");
    assert_eq!(at(1_795_003_600.0, now), (1.0, true), "an hour ahead");
    assert_eq!(at(1_795_003_600.0, "x"), (0.0, true), "nothing comes from the future");
    assert_eq!(at(1_794_000_000.0, "x"), (1_000_000.0, false), "old is as old as it says");
}

#[test]
fn claude_code_without_headers_is_on_a_plan_or_on_a_key_and_nobody_says_which() {
    let json = r#"{"t":1795000000,"host":"api.anthropic.com","user_agent":"claude-cli/2.1.330 (external, cli)","status":429}"#;
    let (report, _) = report(seen(json), &Places::default());
    let call = &report.end.unwrap().call;
    assert_eq!((call.surface, call.client), (Surface::Unknown, Client::ClaudeCode));
}

#[test]
fn state_is_told_without_a_call() {
    let (report, _) = report(
        seen(r#"{"call":false,"status":200,"headers":{"anthropic-ratelimit-unified-5h-utilization":"0.9"}}"#),
        &Places::default(),
    );
    assert!(report.end.is_none() && report.has_levels());
    assert_eq!(report.head.unwrap().call.method, Method::GET);
}

#[test]
fn other_traffic_is_told_from_calls_to_models() {
    let concerns = |json: &str| seen(json).concerns_a_model();
    assert!(concerns(r#"{"path":"/v1/messages","status":200}"#));
    assert!(concerns(r#"{"host":"bedrock-runtime.us-east-1.amazonaws.com","status":200}"#));
    assert!(concerns(r#"{"path":"/x","headers":{"anthropic-organization-id":"o"},"status":200}"#));
    assert!(!concerns(r#"{"path":"/healthz","host":"shop.example","status":200}"#));
}
