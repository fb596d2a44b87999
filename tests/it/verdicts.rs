//! Every rule of the table has a real sample that it decides, and none is out of reach.

use plimsoll::explain::{Response, explain};
use plimsoll::owner::{Owners, RULES};
use std::collections::BTreeSet;

/// Real answers (abridged), by the rule that decides them. Rules that need what only the hop sees
/// (a steep rise, a failed connection, a configured route) are tested in the engine.
const SAMPLES: &[(&str, &str)] = &[
    (
        "success",
        r#"{"status":200,"headers":{"retry-after":"52","anthropic-ratelimit-requests-limit":"50","anthropic-ratelimit-requests-remaining":"48"}}"#,
    ),
    (
        "success",
        r#"{"status":200,"headers":{"anthropic-ratelimit-unified-status":"rejected","anthropic-ratelimit-unified-5h-status":"rejected","anthropic-ratelimit-unified-overage-in-use":"true"}}"#,
    ),
    (
        "context_length",
        r#"{"status":400,"body":"API Error: 400 {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"input length and `max_tokens` exceed context limit: 198981 + 21333 > 200000, decrease input length or `max_tokens` and try again\"}}"}"#,
    ),
    (
        "side_endpoint",
        r#"{"status":429,"request":{"path":"/api/oauth/usage"},"body":"{\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Rate limited. Please try again later.\"}}"}"#,
    ),
    (
        "enforced_spend_limit",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"You have reached your API usage limits\",\"details\":{\"error_code\":\"enforced_spend_limit_reached\"}}}"}"#,
    ),
    (
        "ramp_limit",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Slow down\",\"details\":{\"error_code\":\"ramp_limit_exceeded\"}}}"}"#,
    ),
    (
        "credits_required",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Extra usage is required for long context requests.\"}}"}"#,
    ),
    (
        "billing",
        r#"{"status":429,"headers":{"x-should-retry":"false","anthropic-ratelimit-unified-5h-status":"rejected"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"spend limit reached (daily; resets 00:00 UTC)\"}}"}"#,
    ),
    (
        "bad_request",
        r#"{"status":400,"body":"{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"`max_tokens` must be greater than `thinking.budget_tokens`\"}}"}"#,
    ),
    (
        "server_error",
        r#"{"status":500,"headers":{"anthropic-ratelimit-unified-status":"rejected","anthropic-ratelimit-unified-5h-status":"rejected"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"Internal server error\"}}"}"#,
    ),
    (
        "overloaded",
        r#"{"status":529,"body":"{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}"}"#,
    ),
    (
        "overloaded",
        r#"{"status":null,"body":"anthropic.APIStatusError: {'type': 'error', 'error': {'details': None, 'type': 'overloaded_error', 'message': 'Overloaded'}}"}"#,
    ),
    (
        "foreign_bedrock",
        r#"{"status":429,"headers":{"x-amzn-ErrorType":"ThrottlingException:http://internal.amazon.com/"},"body":"ThrottlingException: Too many tokens, please wait before trying again."}"#,
    ),
    (
        "foreign_vertex",
        r#"{"status":429,"body":"429 Quota exceeded for aiplatform.googleapis.\ncom/online_prediction_input_tokens_per_minute_per_base_model with base model: anthropic-claude-opus-4."}"#,
    ),
    (
        "plan_window_rejected",
        r#"{"status":429,"headers":{"anthropic-ratelimit-unified-5h-status":"allowed","anthropic-ratelimit-unified-5h-utilization":"0.0","anthropic-ratelimit-unified-7d-status":"rejected","anthropic-ratelimit-unified-7d-utilization":"1.0","anthropic-ratelimit-unified-representative-claim":"seven_day","retry-after":"178772"}}"#,
    ),
    (
        "key_bucket_empty_claude_code",
        r#"{"status":429,"request":{"user_agent":"claude-cli/2.1.330","auth_kind":"api_key"},"headers":{"anthropic-ratelimit-input-tokens-limit":"30000","anthropic-ratelimit-input-tokens-remaining":"0"}}"#,
    ),
    (
        "key_bucket_empty",
        r#"{"status":429,"headers":{"anthropic-ratelimit-input-tokens-limit":"30000","anthropic-ratelimit-input-tokens-remaining":"0","anthropic-ratelimit-requests-limit":"50","anthropic-ratelimit-requests-remaining":"48","retry-after":"505"}}"#,
    ),
    (
        "acceleration_words",
        r#"{"status":429,"body":"This request would exceed your organization's maximum usage increase rate for input tokens per minute (org: 0, model: claude-3-haiku-20240307). Your current limit is 58,276 input tokens per minute, and will increase to 68,276 at the next minute boundary."}"#,
    ),
    (
        "concurrency_words",
        r#"{"status":429,"body":"Error code: 429 - {'type': 'error', 'error': {'type': 'rate_limit_error', 'message': 'Number of concurrent connections has exceeded your rate limit.'}}"}"#,
    ),
    (
        "spend_words",
        r#"{"status":400,"body":"Error code: 400 - You have reached your specified workspace API usage limits. \nYou will regain access on 2026-06-01 at 00:00 UTC."}"#,
    ),
    (
        "key_words_claude_code",
        r#"{"status":429,"body":"API Error: Request rejected (429) \u00b7 This request would exceed your \n  organization's rate limit of 30,000 input tokens per minute (org: \n 0, model: claude-opus-4-7)."}"#,
    ),
    (
        "key_words",
        r#"{"status":429,"body":"rate_limit_error: This request would exceed your organization’s rate limit of 50 requests per minute. To raise your limits, purchase credits."}"#,
    ),
    (
        "server_throttle",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Rate limited\"}}"}"#,
    ),
    (
        "entitlement_gate",
        r#"{"status":429,"headers":{"x-should-retry":"true"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Error\"}}"}"#,
    ),
    (
        "plan_words",
        r#"{"status":null,"body":"You've hit your weekly limit · resets Jun 23, 2pm (Europe/Zurich)"}"#,
    ),
    (
        "auth",
        r#"{"status":403,"body":"{\"type\":\"error\",\"error\":{\"type\":\"permission_error\",\"message\":\"OAuth authentication is currently not allowed for this organization.\"}}"}"#,
    ),
    (
        "server_error",
        r#"{"status":500,"body":"{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"Internal server error\"}}"}"#,
    ),
    ("unavailable", r#"{"status":503,"body":"upstream connect error"}"#),
    (
        "bad_request",
        r#"{"status":404,"body":"{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"model: claude-nothing\"}}"}"#,
    ),
    (
        "route_plan",
        r#"{"status":429,"request":{"user_agent":"claude-cli/2","auth_kind":"oauth","host":"api.anthropic.com"},"body":""}"#,
    ),
    (
        "route_claude_code_key",
        r#"{"status":429,"request":{"user_agent":"claude-cli/2","auth_kind":"api_key","host":"api.anthropic.com"},"body":""}"#,
    ),
    ("route_anthropic", r#"{"status":429,"request":{"host":"api.anthropic.com"},"body":""}"#),
    ("unproved", r#"{"status":429,"body":"Too Many Requests"}"#),
];

const IN_THE_ENGINE: [&str; 3] = ["no_response", "plan_burst", "burst_steep"];

#[test]
fn every_sample_is_decided_by_its_rule() {
    for (rule, sample) in SAMPLES {
        let response: Response = serde_json::from_str(sample).unwrap();
        let answer = explain(&response, &Owners::default(), None);
        assert_eq!(answer.rule, *rule, "{sample}");
    }
}

#[test]
fn every_rule_is_reached_and_has_a_name_of_its_own() {
    let sampled: BTreeSet<&str> = SAMPLES.iter().map(|(rule, _)| *rule).chain(IN_THE_ENGINE).collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|r| r.id).collect();
    assert_eq!(rules.len(), RULES.len());
    assert_eq!(sampled, rules);
}
