//! Who answered says so itself: the strongest proof there is.

use super::{IS_429, REFUSED, cooldown, rule};
use crate::observation::Mark;
use crate::owner::cond::{Cond, Fact, Pick};
use crate::owner::verdict::{Class, Confidence, GATEWAY_EXCEPTIONS, Rule, Rung};
use Cond::{All, Any, Bears, Exception, Is, MessageIs, Not, Opens, Says, Status};

/// Limiters as LiteLLM and the gateways of its kind name them.
pub(super) const GATEWAY_LIMITERS: Pick = Pick::Words(&[
    (&["max_parallel_requests. current limit", "limit type: max_parallel_requests"], "concurrency"),
    (&["limit type: requests", "rpm limit exceeded", "rpm limit="], "requests"),
    (
        &["limit type: tokens", "tpm limit exceeded", "tpm limit=", "token limit exceeded", "token_limited"],
        "tokens",
    ),
    (&["concurrent request", "concurrency limit", "parallel request limit reached"], "concurrency"),
    (&["token limit is exceeded", "ai token rate limit", "tokens per minute", "enqueued token"], "tokens"),
    (
        &["request limit exceeded", "requests per minute", "free-models-per", "limit_rpm", "request_limited"],
        "requests",
    ),
    (
        &["local_rate_limited", "request_rate_limited", "too many requests", "api rate limit exceeded"],
        "requests",
    ),
]);

pub(super) static RULES: &[Rule] = &[
    rule(
        "envoy_local",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Exact,
        "Envoy's own rate-limit filter answered (response_code_details, its body or x-envoy-ratelimited): no upstream was asked.",
        All(&[
            Not(&Is(Fact::KeyHeaders)),
            Any(&[Says(&["local_rate_limited", "request_rate_limited"]), Bears(Mark::EnvoyLimited)]),
        ]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "litellm_category",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Exact,
        "LiteLLM's error_rate_limit_category says that the limit is its own.",
        Says(&["litellm_rate_limit", "litellm_batch_rate_limit"]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "gateway_source",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Exact,
        "The gateway names itself as the source: Kong's source=exit, agentgateway's reason RateLimit, error.source gateway.",
        All(&[
            REFUSED,
            Says(&[
                "source=\"exit\"",
                "\"source\":\"exit\"",
                "source=exit",
                "reason=\"ratelimit\"",
                "\"reason\":\"ratelimit\"",
                "reason=ratelimit",
                "\"source\":\"gateway\"",
            ]),
        ]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "openrouter_own",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::High,
        "OpenRouter's limit_source or its own wording names its account limits.",
        Any(&[
            Says(&[
                "openrouter_free_tier",
                "limit_source\":\"openrouter",
                "rate limit exceeded: free-models",
                "rate limit exceeded: limit_rpm",
                "rate limit exceeded: limit_rpd",
                "openrouter.ai/keys",
                "openrouter.ai/settings/keys",
                "openrouter.ai/workspaces",
            ]),
            All(&[Status(&[403]), Opens(&["key limit exceeded (", "key limit exceeded. manage it"])]),
        ]),
        Pick::Words(&[
            (&["key limit exceeded", "total limit", "monthly limit"], "spend"),
            (&["free-models", "limit_rpm", "limit_rpd"], "requests"),
        ]),
    ),
    cooldown(rule(
        "openrouter_upstream",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Medium,
        "OpenRouter says that the provider behind it refused, on OpenRouter's own shared key.",
        All(&[
            Says(&[
                "provider returned error",
                "temporarily rate-limited upstream",
                "upstream_provider_shared_pool",
            ]),
            Not(&Says(&["is_byok\":true", "is_byok': true"])),
            Any(&[IS_429, Cond::Code(&["429"]), Says(&["rate-limited", "rate_limit", "rate limit"])]),
        ]),
        Pick::Nothing,
    )),
    cooldown(rule(
        "litellm_cooldown",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::High,
        "LiteLLM's router answers because every deployment is cooling down after upstream refusals: look for the upstream 429 before it.",
        Says(&["no deployments available", "all_deployments_in_cooldown", "no healthy deployment available"]),
        Pick::Nothing,
    )),
    cooldown(rule(
        "pool_cooldown",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Medium,
        "A relay says that every account of its pool is cooling down: its operator decides, upstream limits are the cause.",
        Says(&[
            "all credentials for model",
            "are cooling down via provider",
            "no available accounts",
            "active accounts rate limited",
            "all accounts are rate limited",
            "all upstream accounts",
            "no available claude account",
            "当前分组上游负载已饱和",
            "all keys are rate limited",
            "all provider keys",
        ]),
        Pick::Nothing,
    )),
    cooldown(rule(
        "apps_gateway_upstream",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Medium,
        "A gateway replaced its cloud's refusal: which account or project it was stands in the gateway's log alone.",
        All(&[IS_429, Says(&["upstream rate limit exceeded"])]),
        Pick::Nothing,
    )),
    rule(
        "aws_gateway",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::High,
        "AWS's API Gateway or Lambda refused its own caller (its exception, or its sentence beside its id): no model was asked.",
        All(&[
            IS_429,
            Any(&[
                Exception(&GATEWAY_EXCEPTIONS),
                All(&[
                    Bears(Mark::ApiGateway),
                    MessageIs(&["Too Many Requests", "Limit Exceeded", "Rate Exceeded.", "Rate exceeded"]),
                ]),
            ]),
        ]),
        Pick::Is("requests"),
    ),
    rule(
        "box_refused",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Medium,
        "A box on the way names itself, in its page or its headers, and nothing in the answer is a provider's: its own limit.",
        All(&[
            Status(&[429, 503]),
            Not(&Is(Fact::FromProvider)),
            Any(&[
                Bears(Mark::Box),
                Says(&[
                    "<center>nginx",
                    "<center>openresty",
                    "<center>tengine",
                    "<center>cloudflare",
                    "error code: 1015",
                    "error 1015",
                    "\"error_code\":1015",
                    "used cloudflare to restrict access",
                    "generated by cloudfront",
                    "errors.edgesuite.net",
                    "errors&#46;edgesuite&#46;net",
                    "policies.ratelimit.",
                    "incapsula incident",
                    "varnish cache server",
                ]),
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "gateway_says_own",
        Rung::AnsweredBy,
        Class::GatewayTenant,
        Confidence::Exact,
        "The gateway's log, metric or callback says that it refused by itself (Envoy's response flags, LiteLLM's error_rate_limit_category, agentgateway's reason).",
        All(&[REFUSED, Bears(Mark::GatewaySaysOwn)]),
        GATEWAY_LIMITERS,
    ),
];
