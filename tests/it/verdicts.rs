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
    ("bedrock_words", r#"{"status":429,"body":"(429 Too many tokens, please wait before trying again.)"}"#),
    (
        "bedrock_words",
        r#"{"status":429,"request":{"host":"bedrock-runtime.us-east-1.amazonaws.com"},"body":"{\"message\":\"Too many requests, please wait before trying again.\"}"}"#,
    ),
    (
        "aws_gateway",
        r#"{"status":429,"headers":{"x-amzn-errortype":"TooManyRequestsException","x-amz-apigw-id":"x"},"body":"{\"message\":\"Too Many Requests\"}"}"#,
    ),
    (
        "box_refused",
        r#"{"status":429,"request":{"host":"api.anthropic.com"},"body":"<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"}"#,
    ),
    (
        "own_response",
        r#"{"status":503,"headers":{"x-plimsoll-answered":"true","content-type":"application/json"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"plimsoll: The configuration of route b cannot be used\"}}"}"#,
    ),
    (
        "clients_tool",
        r#"{"status":200,"body":"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32000,\"message\":\"rate limit exceeded: 429 Too Many Requests\"}}"}"#,
    ),
    (
        "server_tool_plan",
        r#"{"status":200,"headers":{"anthropic-ratelimit-unified-status":"allowed"},"body":"{\"type\":\"message\",\"content\":[{\"type\":\"web_search_tool_result\",\"tool_use_id\":\"srvtoolu_1\",\"content\":{\"type\":\"web_search_tool_result_error\",\"error_code\":\"too_many_requests\"}}]}"}"#,
    ),
    (
        "server_tool_claude_code",
        r#"{"status":200,"request":{"user_agent":"claude-cli/2","auth_kind":"api_key"},"body":"{\"type\":\"message\",\"content\":[{\"type\":\"web_fetch_tool_result\",\"tool_use_id\":\"srvtoolu_1\",\"content\":{\"type\":\"web_fetch_tool_result_error\",\"error_code\":\"too_many_requests\"}}]}"}"#,
    ),
    (
        "server_tool",
        r#"{"status":200,"body":"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"bash_code_execution_tool_result\",\"tool_use_id\":\"srvtoolu_1\",\"content\":{\"type\":\"bash_code_execution_tool_result_error\",\"error_code\":\"too_many_requests\"}}}\n\n"}"#,
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
    ("upstream_unreachable", r#"{"status":503,"body":"upstream connect error"}"#),
    (
        "unavailable",
        r#"{"status":503,"body":"{\"error\":{\"code\":503,\"message\":\"The service is currently unavailable.\",\"status\":\"UNAVAILABLE\"}}"}"#,
    ),
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
        r#"{"status":429,"request":{"user_agent":"claude-cli/2","auth_kind":"oauth","host":"api.anthropic.com"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}"}"#,
    ),
    (
        "route_claude_code_key",
        r#"{"status":429,"request":{"user_agent":"claude-cli/2","auth_kind":"api_key","host":"api.anthropic.com"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}"}"#,
    ),
    (
        "route_anthropic",
        r#"{"status":429,"request":{"host":"api.anthropic.com"},"headers":{"request-id":"req_011"},"body":""}"#,
    ),
    (
        "route_anthropic",
        r#"{"status":429,"request":{"host":"api.anthropic.com"},"body":"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow down\"}}"}"#,
    ),
    (
        "route_bedrock",
        r#"{"status":429,"request":{"host":"bedrock-mantle.eu-west-1.api.aws"},"headers":{"x-amzn-requestid":"1"},"body":""}"#,
    ),
    (
        "route_vertex",
        r#"{"status":429,"request":{"host":"us-east5-aiplatform.googleapis.com"},"body":"{\"error\":{\"code\":429,\"message\":\"slow down\",\"status\":\"RESOURCE_EXHAUSTED\"}}"}"#,
    ),
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

/// Hosts of providers, and paths that show what is called.
const PROVIDERS: [(&str, &str); 8] = [
    ("api.anthropic.com", "api_key"),
    ("api.anthropic.com", "oauth"),
    ("bedrock-runtime.us-east-1.amazonaws.com", "aws sigv4"),
    ("bedrock-mantle.eu-west-1.api.aws", "aws bearer"),
    ("us-east5-aiplatform.googleapis.com", "gcp"),
    ("api.openai.com", "api_key"),
    ("x.openai.azure.com", "azure"),
    ("api.mistral.ai", "api_key"),
];

fn at_provider(
    host: &str,
    auth: &str,
    agent: &str,
    status: u16,
    headers: &serde_json::Value,
    body: &str,
) -> plimsoll::explain::Answer {
    let request = serde_json::json!({"host": host, "auth_kind": auth, "user_agent": agent});
    asked(
        &serde_json::json!({"status": status, "headers": headers, "body": body, "request": request})
            .to_string(),
    )
}

/// Any box between a client and a provider may say 429 or 503. What does not bear the provider's marks is
/// not the provider's; who names himself is the one who refused.
#[test]
fn a_middle_boxs_refusal_is_never_the_providers() {
    use serde_json::json;
    let nginx = |status: &str| {
        format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n<hr><center>nginx/1.27.0</center>\r\n</body>\r\n</html>\r\n"
        )
    };
    let (named, nobody) = (Some("gateway_tenant"), Some("unknown"));
    let either = None;
    let boxes: Vec<(&str, u16, serde_json::Value, String, Option<&str>)> = vec![
        ("nginx limit_req", 429, json!({"server": "nginx"}), nginx("429 Too Many Requests"), named),
        ("nginx limit_req", 503, json!({"server": "nginx"}), nginx("503 Service Temporarily Unavailable"), named),
        ("nginx, a status of its owner's choice", 529, json!({"server": "nginx"}), nginx("529"), either),
        ("openresty", 429, json!({}), nginx("429 Too Many Requests").replace("nginx/1.27.0", "openresty"), named),
        ("cloudflare", 429, json!({"server": "cloudflare", "cf-ray": "8e6-SJC"}), "error code: 1015".into(), named),
        ("cloudflare", 429, json!({"server": "cloudflare", "content-type": "text/html"}),
            "<!DOCTYPE html><title>Access denied | api.anthropic.com used Cloudflare to restrict access</title><h1>Error 1015</h1> You are being rate limited".into(), named),
        ("cloudflare", 429, json!({"server": "cloudflare"}),
            r#"{"type":"https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/error-1015/","title":"Error 1015: You are being rate limited","status":429,"detail":"The site owner has restricted access based on rate limiting rules.","instance":"8e6","error_code":1015,"error_name":"rate_limited","cloudflare_error":true,"retryable":true,"retry_after":30}"#.into(), named),
        ("haproxy", 429, json!({"cache-control": "no-cache"}),
            "<html><body><h1>429 Too Many Requests</h1>\nYou have sent too many requests in a given amount of time.\n</body></html>\n".into(), nobody),
        ("haproxy", 503, json!({}),
            "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>\n".into(), nobody),
        ("traefik", 429, json!({"retry-after": "1", "x-retry-in": "1s"}), "Too Many Requests".into(), named),
        ("traefik, its own header gone", 429, json!({"retry-after": "1"}), "Too Many Requests".into(), nobody),
        ("traefik", 503, json!({}), "Service Unavailable".into(), nobody),
        ("akamai", 429, json!({"server": "AkamaiGHost"}),
            "<HTML><HEAD><TITLE>Access Denied</TITLE></HEAD><BODY>You don't have permission to access \"http://api.x/v1/models/gemini-2.5-pro\" on this server. Reference #18.x https://errors.edgesuite.net/18.x</BODY></HTML>".into(), named),
        ("akamai, its page alone", 503, json!({}),
            "<HTML><BODY>Service Unavailable - Zero size object https&#58;&#47;&#47;errors&#46;edgesuite&#46;net&#47;15</BODY></HTML>".into(), named),
        ("api gateway", 429, json!({"x-amzn-requestid": "1", "x-amzn-errortype": "TooManyRequestsException", "x-amz-apigw-id": "x="}),
            r#"{"message":"Too Many Requests"}"#.into(), named),
        ("api gateway, a plan's quota", 429, json!({"x-amzn-requestid": "1", "x-amzn-errortype": "LimitExceededException", "x-amz-apigw-id": "x="}),
            r#"{"message":"Limit Exceeded"}"#.into(), named),
        ("api gateway for http", 429, json!({"apigw-requestid": "x="}), r#"{"message":"Too Many Requests"}"#.into(), nobody),
        ("lambda", 429, json!({"x-amzn-requestid": "1", "x-amzn-errortype": "TooManyRequestsException"}),
            r#"{"Reason":"ConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}"#.into(), named),
        ("load balancer", 503, json!({"server": "awselb/2.0"}),
            "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n</body>\r\n</html>".into(), named),
        ("cloudfront", 503, json!({"server": "CloudFront", "x-cache": "LambdaThrottledError from cloudfront"}),
            "<HTML><H1>503 ERROR</H1> Generated by cloudfront (CloudFront)</HTML>".into(), named),
        ("slowapi", 429, json!({"server": "uvicorn"}), r#"{"error":"Rate limit exceeded: 5 per 1 minute"}"#.into(), nobody),
        ("slowapi with its headers", 429, json!({"server": "uvicorn", "x-ratelimit-limit": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795000000.1"}),
            r#"{"error":"Rate limit exceeded: 5 per 1 minute"}"#.into(), named),
        ("fastapi-limiter", 429, json!({"server": "uvicorn", "retry-after": "3"}), r#"{"detail":"Too Many Requests"}"#.into(), nobody),
        ("an asgi limiter", 429, json!({"server": "uvicorn"}), r#"{"detail":"Too many requests, please wait before trying again."}"#.into(), nobody),
        ("an asgi limiter", 429, json!({"server": "uvicorn"}), r#"{"error":"Rate limited"}"#.into(), nobody),
        ("an asgi limiter", 429, json!({"server": "uvicorn"}), r#"{"error":"Error"}"#.into(), nobody),
        ("an asgi limiter", 503, json!({"server": "uvicorn"}), r#"{"detail":"Server is busy"}"#.into(), nobody),
        ("express", 429, json!({"x-powered-by": "Express"}), "Too many requests, please try again later.".into(), nobody),
        ("kong", 429, json!({"server": "kong/3.8.0", "ratelimit-remaining": "0", "x-ratelimit-remaining-minute": "0"}),
            "{\n  \"message\":\"API rate limit exceeded\",\n  \"request_id\":\"1\"\n}".into(), named),
        ("kong, headers hidden", 429, json!({}), r#"{"message":"API rate limit exceeded"}"#.into(), named),
        ("envoy", 429, json!({"server": "envoy"}), "local_rate_limited".into(), named),
        ("apigee", 429, json!({}), r#"{"fault":{"faultstring":"Rate limit quota violation. Quota limit exceeded. Identifier : x","detail":{"errorcode":"policies.ratelimit.QuotaViolation"}}}"#.into(), named),
        ("spring", 429, json!({}), r#"{"timestamp":"2026-11-28T10:00:00Z","status":429,"error":"Too Many Requests","path":"/v1/messages"}"#.into(), nobody),
        ("problem+json", 429, json!({}), r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Quota exceeded"}"#.into(), nobody),
        ("json-rpc", 429, json!({}), r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Too many requests"}}"#.into(), nobody),
        ("an empty 429", 429, json!({}), String::new(), nobody),
        ("an empty 429 with a wait", 429, json!({"retry-after": "1", "server": "Caddy"}), String::new(), nobody),
        ("an empty 503", 503, json!({}), String::new(), nobody),
        ("istio", 503, json!({"server": "istio-envoy"}), "no healthy upstream".into(), either),
    ];
    let mut wrong = Vec::new();
    for (host, auth) in PROVIDERS {
        for agent in ["", "claude-cli/2.1.330"] {
            for (name, status, headers, body, wanted) in &boxes {
                let answer = at_provider(host, auth, agent, *status, headers, body);
                let right = match wanted {
                    Some(wanted) => answer.verdict == *wanted,
                    None => ["unknown", "not_a_limit"].contains(&answer.verdict),
                };
                if !right {
                    wrong.push(format!("{name} {status} at {host}: {} ({})", answer.verdict, answer.rule));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A provider's own answer stays the provider's, also where a gateway took all of its headers away.
#[test]
fn a_providers_refusal_with_few_marks_stays_the_providers() {
    use serde_json::json;
    let anthropic = r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}"#;
    let google = r#"{"error":{"code":429,"message":"slow down","status":"RESOURCE_EXHAUSTED"}}"#;
    for (host, auth, status, headers, body, wanted) in [
        ("api.anthropic.com", "api_key", 429, json!({}), anthropic, "anthropic_workspace"),
        ("api.anthropic.com", "api_key", 429, json!({"request-id": "req_01"}), "", "anthropic_workspace"),
        (
            "api.anthropic.com",
            "api_key",
            429,
            json!({}),
            r#"{"error":{"code":"rate_limit_error","message":"slow down","type":"invalid_request_error"}}"#,
            "anthropic_workspace",
        ),
        ("api.anthropic.com", "oauth", 429, json!({}), anthropic, "claude_plan"),
        ("api.anthropic.com", "api_key", 503, json!({"request-id": "req_01"}), "", "provider_overload"),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "aws",
            429,
            json!({}),
            r#"{"message":"Too many tokens, please wait before trying again."}"#,
            "bedrock",
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "aws",
            429,
            json!({}),
            r#"{"message":"Too many requests, please wait before trying again."}"#,
            "bedrock",
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "aws",
            429,
            json!({"x-amzn-requestid": "1"}),
            r#"{"message":"slow down"}"#,
            "bedrock",
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "aws",
            429,
            json!({}),
            r#"{"__type":"com.amazon.coral.service#ThrottlingException","message":"slow"}"#,
            "bedrock",
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            "aws",
            503,
            json!({"x-amzn-requestid": "1", "x-amzn-errortype": "ServiceUnavailableException"}),
            r#"{"message":"try again"}"#,
            "provider_overload",
        ),
        ("bedrock-mantle.eu-west-1.api.aws", "aws", 429, json!({}), anthropic, "bedrock"),
        ("us-east5-aiplatform.googleapis.com", "gcp", 429, json!({}), google, "vertex"),
        (
            "us-east5-aiplatform.googleapis.com",
            "gcp",
            503,
            json!({}),
            r#"{"error":{"code":503,"message":"The service is currently unavailable.","status":"UNAVAILABLE"}}"#,
            "provider_overload",
        ),
        (
            "api.openai.com",
            "api_key",
            429,
            json!({}),
            r#"{"error":{"message":"slow down","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
            "other_provider",
        ),
        (
            "api.openai.com",
            "api_key",
            503,
            json!({}),
            r#"{"error":{"message":"The engine is currently overloaded","type":"server_error","param":null,"code":null}}"#,
            "provider_overload",
        ),
        (
            "api.openai.com",
            "api_key",
            429,
            json!({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}),
            "",
            "other_provider",
        ),
    ] {
        let answer = at_provider(host, auth, "", status, &headers, body);
        assert_eq!(answer.verdict, wanted, "{host} {status} {body}: {}", answer.rule);
    }
}

/// Money is spent, whoever's it is: no wait brings it back.
#[test]
fn spent_money_gets_a_spend_move_whoever_says_it() {
    for sample in [
        r#"{"status":429,"request":{"host":"api.openai.com"},"body":"{\"error\":{\"message\":\"You exceeded your current quota, please check your plan and billing details.\",\"type\":\"insufficient_quota\",\"param\":null,\"code\":\"insufficient_quota\"}}"}"#,
        r#"{"status":429,"body":"{\"error\":{\"message\":\"You exceeded your current quota\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}"}"#,
        r#"{"status":422,"body":"{\"error\":{\"message\":\"Budget has been exceeded! Key=bob Current cost: 0.1, Max budget: 0.1\",\"type\":\"budget_exceeded\"}}"}"#,
        r#"{"status":402,"body":"{\"error\":{\"message\":\"Insufficient Balance\"}}"}"#,
        r#"{"status":400,"body":"{\"error\":{\"code\":\"billing_hard_limit_reached\",\"message\":\"Billing hard limit has been reached\",\"type\":\"invalid_request_error\"}}"}"#,
    ] {
        let answer = asked(sample);
        assert_eq!(answer.limiter.as_deref(), Some("spend"), "{sample}: {}", answer.rule);
        assert!(answer.first_move.starts_with("Stop retrying"), "{sample}: {}", answer.first_move);
        assert!(!answer.next_step.contains("etry one"), "{sample}: {}", answer.next_step);
    }
}

/// The sentences by which providers speak of spent money come with statuses of other errors: they count
/// where they are the message, and nowhere else in it.
#[test]
fn a_spend_sentence_counts_as_the_message_and_not_as_a_part_of_it() {
    let own = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.";
    let at = |status: u16, kind: &str, message: &str| {
        let body = serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
        asked(&serde_json::json!({"status": status, "body": body.to_string()}).to_string()).verdict
    };
    assert_eq!(at(400, "invalid_request_error", own), "spend_or_credit");
    let specified = "You have reached your specified workspace API usage limits. You will regain access on 2026-06-01 at 00:00 UTC.";
    assert_eq!(at(400, "invalid_request_error", specified), "spend_or_credit");
    assert_eq!(
        at(400, "invalid_request_error", &format!("tools.0.name: '{own}' is too long")),
        "not_a_limit"
    );
    assert_eq!(at(404, "not_found_error", &format!("model: {own}")), "not_a_limit");
    assert_eq!(at(404, "not_found_error", own), "not_a_limit");
    let litellm = serde_json::json!({"error": {
        "message": format!("litellm.BadRequestError: AnthropicException - {}", serde_json::json!({"type": "error", "error": {"type": "invalid_request_error", "message": own}})),
        "type": "None", "param": "None", "code": "400",
    }});
    let through = serde_json::json!({"status": 400, "body": litellm.to_string()}).to_string();
    assert_eq!(asked(&through).verdict, "spend_or_credit");
}
