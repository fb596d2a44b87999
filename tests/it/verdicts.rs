//! Every rule of the table has a real sample that it decides, and none is out of reach.

use plimsoll::explain::{Response, explain};
use plimsoll::owner::{Owners, rules};
use std::collections::BTreeSet;

/// Real answers (abridged), by the rule that decides them.
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
        "success",
        r#"{"status":200,"body":"{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"rate limit\"}]}"}"#,
    ),
    (
        "plan_event_allowed",
        r#"{"status":null,"body":"{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"allowed\",\"rateLimitType\":\"five_hour\",\"overageStatus\":\"rejected\"}}"}"#,
    ),
    (
        "google_exhausted",
        r#"{"status":429,"body":"{\"error\":{\"code\":429,\"message\":\"Resource has been exhausted (e.g. check quota).\",\"status\":\"RESOURCE_EXHAUSTED\"}}"}"#,
    ),
    (
        "limiter_failed",
        r#"{"status":500,"body":"{\"response_code_details\":\"rate_limiter_error\",\"response_flags\":\"RLSE\"}"}"#,
    ),
    (
        "github_rest",
        r#"{"status":403,"body":"{\"message\":\"API rate limit exceeded for 10.0.0.1.\",\"documentation_url\":\"https://docs.github.com/rest/overview/resources-in-the-rest-api#rate-limiting\"}"}"#,
    ),
    (
        "claude_code_rejected",
        r#"{"status":429,"body":"API Error: Request rejected (429) · this may be a temporary capacity issue. If it persists, check https://status.claude.com."}"#,
    ),
    (
        "plain_limiter_empty",
        r#"{"status":429,"headers":{"retry-after":"18","x-ratelimit-limit":"1","x-ratelimit-remaining":"0","x-ratelimit-reset":"18"},"body":"{\"error\":{\"message\":\"request limit exceeded (requests)\",\"type\":\"rate_limit_exceeded\"}}"}"#,
    ),
    (
        "plain_error",
        r#"{"status":null,"body":"{\"error\":{\"message\":\"could not auto resolve a provider for the request\"}}"}"#,
    ),
    (
        "side_endpoint",
        r#"{"status":429,"request":{"path":"/api/oauth/usage"},"body":"{\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Rate limited. Please try again later.\"}}"}"#,
    ),
    (
        "request_too_large",
        r#"{"status":400,"body":"API Error: 400 {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"input length and `max_tokens` exceed context limit: 198981 + 21333 > 200000, decrease input length or `max_tokens` and try again\"}}"}"#,
    ),
    (
        "grpc_message_too_large",
        r#"{"status":429,"body":"RESOURCE_EXHAUSTED: grpc: received message larger than max (5242880 vs. 4194304)"}"#,
    ),
    (
        "entitlement_gate",
        r#"{"status":429,"headers":{"x-should-retry":"true"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Error\"}}"}"#,
    ),
    (
        "client_not_allowed",
        r#"{"status":401,"body":"API Error: 401 {\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\"message\":\"OAuth token has expired. Please obtain a new token\"}}"}"#,
    ),
    (
        "envoy_local",
        r#"{"status":429,"headers":{"x-ratelimit-limit":"2","x-ratelimit-remaining":"0","server":"envoy"},"body":"local_rate_limited"}"#,
    ),
    (
        "envoy_local",
        r#"{"status":429,"message":"{\"response_code_details\":\"request_rate_limited\",\"response_flags\":\"RL\",\"upstream_host\":null}"}"#,
    ),
    (
        "litellm_category",
        r#"{"status":429,"body":"{\"error_information\":{\"error_rate_limit_category\":\"litellm_rate_limit\",\"error_rate_limit_type\":\"requests\"}}"}"#,
    ),
    ("gateway_source", r#"{"status":429,"body":"{\"status\":429,\"reason\":\"RateLimit\"}"}"#),
    (
        "openrouter_own",
        r#"{"status":429,"body":"{\"error\":{\"message\":\"Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day\",\"code\":429}}"}"#,
    ),
    (
        "openrouter_upstream",
        r#"{"status":429,"body":"{\"error\":{\"message\":\"Provider returned error\",\"code\":429,\"metadata\":{\"raw\":\"x is temporarily rate-limited upstream\",\"is_byok\":false}}}"}"#,
    ),
    (
        "litellm_cooldown",
        r#"{"status":429,"headers":{"retry-after":"2","x-litellm-call-id":"1"},"body":"{\"error\":{\"message\":\"No deployments available for selected model, Try again in 2 seconds.\",\"type\":\"None\",\"code\":\"429\"}}"}"#,
    ),
    (
        "pool_cooldown",
        r#"{"status":429,"body":"API Error: Request rejected (429) · All credentials for model claude-opus-4-8 are cooling down via provider claude"}"#,
    ),
    (
        "apps_gateway_upstream",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"upstream rate limit exceeded\"}}"}"#,
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
        "apps_gateway_cap",
        r#"{"status":429,"headers":{"x-should-retry":"false","anthropic-ratelimit-unified-5h-status":"rejected"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"spend limit reached (daily; resets 00:00 UTC)\"}}"}"#,
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
        "overloaded",
        r#"{"status":200,"body":"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n"}"#,
    ),
    (
        "litellm_headers",
        r#"{"status":429,"headers":{"rate_limit_type":"requests","reset_at":"1795488400","retry-after":"60"},"body":"{\"error\":{\"message\":\"limited\",\"type\":\"throttling_error\"}}"}"#,
    ),
    (
        "gateway_budget",
        r#"{"status":422,"body":"{\"error\":{\"message\":\"Budget has been exceeded! Key=bob Current cost: 0.000147, Max budget: 0.0001\",\"type\":\"budget_exceeded\"}}"}"#,
    ),
    (
        "cloudflare_gateway",
        r#"{"status":429,"headers":{"cf-aig-event-id":"1"},"body":"{\"success\":false,\"error\":[{\"code\":2003,\"message\":\"Rate limited\"}]}"}"#,
    ),
    (
        "bifrost_refused",
        r#"{"status":429,"headers":{"x-bifrost-request-id":"1"},"body":"{\"type\":\"token_limited\",\"error\":{\"message\":\"rate limit violated for vk_model_config * : [token limit exceeded (1500/1000, resets every 1h)]\"}}"}"#,
    ),
    (
        "ai_token_limiter",
        r#"{"status":429,"headers":{"X-AI-RateLimit-Reset":"51","X-AI-RateLimit-Retry-After":"51","X-AI-RateLimit-Limit-90-policy-1":"20","X-AI-RateLimit-Remaining-90-policy-1":"0"}}"#,
    ),
    (
        "kong_refused",
        r#"{"status":429,"headers":{"ratelimit-limit":"5","ratelimit-remaining":"0","x-kong-response-latency":"1"},"body":"{\"message\":\"API rate limit exceeded\"}"}"#,
    ),
    (
        "helicone_refused",
        r#"{"status":429,"headers":{"helicone-id":"1"},"body":"{\"error\":{\"type\":\"rate_limit_exceeded\",\"message\":\"Too many requests\"}}"}"#,
    ),
    (
        "portkey_refused",
        r#"{"status":412,"headers":{"x-portkey-trace-id":"1"},"body":"{\"error\":{\"message\":\"The api key has exhausted its limits\"}}"}"#,
    ),
    (
        "bedrock_not_ready",
        r#"{"status":429,"headers":{"x-amzn-errortype":"ModelNotReadyException"},"body":"{\"message\":\"The model is not ready for inference. Wait and try your request again.\"}"}"#,
    ),
    (
        "bedrock_capacity",
        r#"{"status":200,"headers":{":exception-type":"serviceUnavailableException",":message-type":"exception"},"body":"{\"message\":\"Bedrock is unable to process your request.\"}"}"#,
    ),
    (
        "bedrock_throttled",
        r#"{"status":429,"headers":{"x-amzn-ErrorType":"ThrottlingException:http://internal.amazon.com/"},"body":"ThrottlingException: Too many tokens, please wait before trying again."}"#,
    ),
    (
        "bedrock_throttled",
        r#"{"status":200,"headers":{":exception-type":"throttlingException"},"body":"{\"message\":\"Too many tokens per day, please wait before trying again.\"}"}"#,
    ),
    (
        "bedrock_throttled",
        r#"{"status":400,"headers":{"x-amzn-errortype":"ServiceQuotaExceededException"},"body":"{\"message\":\"Your request exceeds the service quota for your account.\"}"}"#,
    ),
    (
        "bedrock_validation",
        r#"{"status":400,"headers":{"x-amzn-errortype":"ValidationException"},"body":"{\"message\":\"The provided model identifier is invalid.\"}"}"#,
    ),
    (
        "gemini_api",
        r#"{"status":429,"body":"429 RESOURCE_EXHAUSTED. {'error': {'code': 429, 'message': 'You exceeded your current quota', 'details': [{'quotaMetric': 'generativelanguage.googleapis.com/generate_content_free_tier_requests'}]}}"}"#,
    ),
    (
        "cloud_code",
        r#"{"status":429,"body":"{\"error\":{\"code\":429,\"message\":\"You have exhausted your capacity on this model. Your quota will reset after 0s.\",\"status\":\"RESOURCE_EXHAUSTED\"}}"}"#,
    ),
    (
        "vertex_quota",
        r#"{"status":429,"body":"[{\"error\":{\"code\":429,\"message\":\"Quota exceeded for aiplatform.googleapis.\\ncom/online_prediction_input_tokens_per_minute_per_base_model with base model: anthropic-claude-opus-4.\",\"status\":\"RESOURCE_EXHAUSTED\"}}]"}"#,
    ),
    (
        "vertex_capacity",
        r#"{"status":429,"body":"{\"error\":{\"code\":429,\"message\":\"Resource exhausted. Please try again later.\",\"status\":\"RESOURCE_EXHAUSTED\"}}"}"#,
    ),
    (
        "azure",
        r#"{"status":429,"headers":{"policy-id":"DeploymentRatelimit-Token","apim-request-id":"x","x-ms-region":"West US"},"body":""}"#,
    ),
    (
        "openai",
        r#"{"status":429,"body":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 14567, Requested 24754."}"#,
    ),
    (
        "zhipu",
        r#"{"status":429,"headers":{"anthropic-ratelimit-unified-status":"rejected"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"code\":\"1308\",\"message\":\"Usage limit reached for 5 hour.\"}}"}"#,
    ),
    (
        "minimax",
        r#"{"status":429,"body":"{'type': 'error', 'error': {'type': 'rate_limit_error', 'message': 'usage limit exceeded, 5-hour usage limit reached for Token Plan Starter (2056)'}}"}"#,
    ),
    (
        "other_provider_words",
        r#"{"status":413,"body":"Request too large for model llama on tokens per minute: Limit 6000. Visit https://console.groq.com/settings/billing"}"#,
    ),
    (
        "reseller_balance",
        r#"{"status":403,"body":"Failed to authenticate. API Error: 403 用户额度不足, 剩余额度: -2.528834"}"#,
    ),
    (
        "billing",
        r#"{"status":402,"body":"{\"error\":{\"message\":\"This request requires more credits, or fewer max_tokens.\",\"code\":402}}"}"#,
    ),
    (
        "foreign_host",
        r#"{"status":429,"request":{"host":"api.z.ai"},"headers":{"anthropic-ratelimit-unified-status":"rejected","anthropic-ratelimit-unified-5h-status":"rejected"},"body":""}"#,
    ),
    (
        "gateway_window",
        r#"{"status":429,"request":{"host":"gateway.corp.example"},"headers":{"anthropic-ratelimit-unified-status":"rejected","anthropic-ratelimit-unified-5h-status":"rejected"},"body":""}"#,
    ),
    (
        "plan_window_rejected",
        r#"{"status":429,"headers":{"anthropic-ratelimit-unified-5h-status":"allowed","anthropic-ratelimit-unified-5h-utilization":"0.0","anthropic-ratelimit-unified-7d-status":"rejected","anthropic-ratelimit-unified-7d-utilization":"1.0","anthropic-ratelimit-unified-representative-claim":"seven_day","retry-after":"178772"}}"#,
    ),
    (
        "plan_window_rejected",
        r#"{"status":429,"headers":{"anthropic-ratelimit-unified-status":"rejected","anthropic-ratelimit-unified-representative-claim":"seven_day_opus"}}"#,
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
        "key_bucket_empty_claude_code",
        r#"{"status":429,"request":{"user_agent":"claude-cli/2.1.330","auth_kind":"api_key"},"headers":{"anthropic-ratelimit-input-tokens-limit":"30000","anthropic-ratelimit-input-tokens-remaining":"0"}}"#,
    ),
    (
        "key_bucket_empty",
        r#"{"status":429,"headers":{"anthropic-ratelimit-input-tokens-limit":"30000","anthropic-ratelimit-input-tokens-remaining":"0","anthropic-ratelimit-requests-limit":"50","anthropic-ratelimit-requests-remaining":"48","retry-after":"505"}}"#,
    ),
    (
        "openai_bucket_empty",
        r#"{"status":429,"headers":{"x-ratelimit-limit-requests":"60","x-ratelimit-remaining-requests":"0","x-ratelimit-reset-requests":"1s"},"body":""}"#,
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
        "spend_words",
        r#"{"status":400,"body":"Error code: 400 - You have reached your specified workspace API usage limits. \nYou will regain access on 2026-06-01 at 00:00 UTC."}"#,
    ),
    (
        "server_throttle",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Rate limited\"}}"}"#,
    ),
    (
        "plan_room",
        r#"{"status":429,"headers":{"anthropic-ratelimit-unified-status":"allowed","anthropic-ratelimit-unified-5h-status":"allowed","anthropic-ratelimit-unified-5h-utilization":"0.04"},"body":"{\"error\":{\"type\":\"rate_limit_error\",\"message\":\"This request would exceed your account's rate limit.\"}}"}"#,
    ),
    (
        "plan_words",
        r#"{"status":null,"body":"You've hit your weekly limit · resets Jun 23, 2pm (Europe/Zurich)"}"#,
    ),
    (
        "plan_body",
        r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"This request would exceed your account's rate limit. Please try again later.\"}}"}"#,
    ),
    (
        "key_bucket_tight_claude_code",
        r#"{"status":429,"request":{"user_agent":"claude-cli/2","auth_kind":"api_key"},"headers":{"anthropic-ratelimit-input-tokens-limit":"30000","anthropic-ratelimit-input-tokens-remaining":"4000"},"body":""}"#,
    ),
    (
        "key_bucket_tight",
        r#"{"status":429,"headers":{"anthropic-ratelimit-input-tokens-limit":"30000","anthropic-ratelimit-input-tokens-remaining":"4000"},"body":""}"#,
    ),
    (
        "litellm_limiter",
        r#"{"status":429,"body":"429: LiteLLM Rate Limit Handler for rate limit type = team. Crossed TPM / RPM / Max Parallel Request Limit. current rpm: 1, rpm limit: 15, current tpm: 12260, tpm limit: 5000"}"#,
    ),
    (
        "litellm_limiter",
        r#"{"status":429,"request":{"auth_kind":"openai"},"body":"{\"error\":{\"message\":\"Model rate limit exceeded. RPM limit: 3, current usage: 3\",\"type\":\"None\",\"code\":\"429\"}}"}"#,
    ),
    (
        "apim",
        r#"{"status":429,"headers":{"Retry-After":"41"},"body":"{ \"statusCode\": 429, \"message\": \"Token limit is exceeded. Try again in 41 seconds.\" }"}"#,
    ),
    (
        "relay_concurrency",
        r#"{"status":429,"body":"429 Too many concurrent requests. Limit: 1 concurrent requests"}"#,
    ),
    ("gateway_words", r#"{"status":429,"request":{"auth_kind":"gateway key"},"body":"Rate limit exceeded"}"#),
    (
        "litellm_class_anthropic",
        r#"{"status":429,"body":"litellm.RateLimitError: AnthropicException - {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}"}"#,
    ),
    (
        "litellm_class_bedrock",
        r#"{"status":429,"body":"litellm.RateLimitError: BedrockException - slow down"}"#,
    ),
    (
        "litellm_class_vertex",
        r#"{"status":429,"body":"litellm.RateLimitError: VertexAIException - slow down"}"#,
    ),
    ("litellm_class_other", r#"{"status":429,"body":"litellm.RateLimitError: GroqException - slow down"}"#),
    ("busy", r#"{"status":null,"body":"Due to capacity constraints, Claude is unable to respond"}"#),
    ("other_models", r#"{"status":429,"body":"rate limit for glm-4.6, slow down"}"#),
    (
        "auth",
        r#"{"status":403,"body":"{\"type\":\"error\",\"error\":{\"type\":\"permission_error\",\"message\":\"Your API key does not have permission\"}}"}"#,
    ),
    (
        "server_error",
        r#"{"status":500,"headers":{"anthropic-ratelimit-unified-status":"rejected","anthropic-ratelimit-unified-5h-status":"rejected"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"Internal server error\"}}"}"#,
    ),
    ("unavailable", r#"{"status":503,"body":"upstream connect error"}"#),
    (
        "bad_request",
        r#"{"status":404,"body":"{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"model: claude-nothing\"}}"}"#,
    ),
    (
        "bad_request",
        r#"{"status":400,"body":"{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"`max_tokens` must be greater than `thinking.budget_tokens`\"}}"}"#,
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
    ("route_bedrock", r#"{"status":429,"request":{"host":"bedrock-mantle.eu-west-1.api.aws"},"body":""}"#),
    ("route_vertex", r#"{"status":429,"request":{"host":"us-east5-aiplatform.googleapis.com"},"body":""}"#),
    ("route_gateway", r#"{"status":429,"request":{"host":"litellm.corp.example"},"body":""}"#),
    ("route_other", r#"{"status":null,"request":{"host":"api.mistral.ai"},"body":"too many requests"}"#),
    ("unproved", r#"{"status":429,"body":"Too Many Requests"}"#),
];

/// Decided by what no answer shows: a failed connection, a steep rise, what a gateway's log says of itself.
const IN_THE_ENGINE: [&str; 5] =
    ["no_response", "plan_burst", "burst_steep", "gateway_says_own", "gateway_failed"];

#[test]
fn every_sample_is_decided_by_its_rule() {
    let wrong: Vec<String> = SAMPLES
        .iter()
        .filter_map(|(rule, sample)| {
            let response: Response = serde_json::from_str(sample).unwrap();
            let answer = explain(&response, &Owners::default(), None);
            (answer.rule != *rule).then(|| format!("{rule}, decided by {}: {sample}", answer.rule))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_reached_and_has_a_name_of_its_own() {
    let sampled: BTreeSet<&str> = SAMPLES.iter().map(|(rule, _)| *rule).chain(IN_THE_ENGINE).collect();
    let rules: Vec<&str> = rules::all().map(|r| r.id).collect();
    let named: BTreeSet<&str> = rules.iter().copied().collect();
    assert_eq!(named.len(), rules.len());
    assert_eq!(sampled, named, "each rule is reached by a sample, and each sample's rule is there");
}

fn asked(sample: &str) -> plimsoll::explain::Answer {
    explain(&serde_json::from_str(sample).unwrap(), &Owners::default(), None)
}

#[test]
fn contradictory_evidence_is_decided_by_its_rung_and_noted() {
    // A bucket is empty in the headers, and the words are those of a spend limit.
    let answer = asked(
        r#"{"status":429,"headers":{"anthropic-ratelimit-requests-limit":"50","anthropic-ratelimit-requests-remaining":"0"},"body":"Your credit balance is too low to access the Anthropic API"}"#,
    );
    assert_eq!((answer.verdict, answer.rule), ("anthropic_workspace", "key_bucket_empty"));
    assert_eq!(answer.contradicted_by, Some("spend_words"));
    let plain = asked(r#"{"status":529,"body":"overloaded"}"#);
    assert_eq!(plain.contradicted_by, None);
}

#[test]
fn headers_count_in_any_case_and_repeated_ones_by_their_last() {
    let answer = asked(
        r#"{"status":429,"headers":{"ANTHROPIC-RateLimit-Requests-Limit":["60","50"],"Anthropic-Ratelimit-Requests-Remaining":["9","0"],"Retry-After":"7"}}"#,
    );
    assert_eq!((answer.verdict, answer.limiter.as_deref()), ("anthropic_workspace", Some("requests")));
}

#[test]
fn error_pages_cut_json_and_wrong_types_never_guess() {
    for (sample, verdict) in [
        (
            r#"{"status":502,"body":"<html><title>502 Bad Gateway</title><center>cloudflare</center></html>"}"#,
            "not_a_limit",
        ),
        (r#"{"status":429,"body":"<html><body>Too Many Requests</body></html>"}"#, "unknown"),
        (
            r#"{"status":429,"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"mess"}"#,
            "unknown",
        ),
        (r#"{"status":429,"body":"{{{{[[[[\"\"\"\"]]]]}}}}"}"#, "unknown"),
        (r#"{"status":429,"body":12}"#, "unknown"),
        (
            r#"{"status":429,"body":[{"error":{"message":"Quota exceeded for aiplatform.googleapis.com/x with base model: y"}}]}"#,
            "vertex",
        ),
    ] {
        assert_eq!(asked(sample).verdict, verdict, "{sample}");
    }
}

#[test]
fn a_huge_body_is_judged_by_its_beginning_and_says_so() {
    let body = format!(
        "This request would exceed your organization's rate limit of 50 requests per minute. {}",
        "x".repeat(10_000_000)
    );
    let answer = asked(&serde_json::json!({"status": 429, "body": body}).to_string());
    assert_eq!(answer.verdict, "anthropic_workspace");
    assert!(answer.states.iter().any(|s| s.contains("only its beginning")), "{:?}", answer.states);
}

/// Ordinary errors that name a provider, quote a request or borrow a stem are nobody's limit.
#[test]
fn a_brand_an_address_or_an_echo_is_no_limit() {
    for (status, body) in [
        (
            400,
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        ),
        (
            401,
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
        ),
        (400, "obtain an API key from https://console.x.ai"),
        (403, "generativelanguage.googleapis.com API requires a quota project, which is not set by default."),
        (400, "CerebrasException - Github_copilotException - bad request"),
        (400, "expected a closing quotation mark; unbalanced parenthesis at position 3"),
    ] {
        let body =
            serde_json::json!({"error": {"message": body, "type": "invalid_request_error"}}).to_string();
        let answer = asked(&serde_json::json!({"status": status, "body": body}).to_string());
        assert_eq!(answer.verdict, "not_a_limit", "{body}: {}", answer.rule);
    }
}
