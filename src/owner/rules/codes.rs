//! Statuses, codes and types that only one party emits.

use super::answered::GATEWAY_LIMITERS;
use super::words::{CLAUDE_CODE, LITELLM_LIMITER};
use super::{IS_429, LIMITED, PAGE, PROVIDER_ANSWERED, REFUSED, REFUSED_AS_SUCH, rule};
use crate::observation::Mark;
use crate::owner::cond::{Cond, Fact, Pick};
use crate::owner::verdict::{Class, Confidence, Rule, Rung};
use crate::route::Surface;
use Cond::{
    All, Any, Bears, Code, Exception, Is, MessageIs, Not, On, Opens, Says, Status, StatusClass, Type,
};

const SPEND: Pick = Pick::Is("spend");

/// Not a server error.
const NOT_5XX: Cond = Not(&StatusClass(5));

/// Limiters of Bedrock, out of its sentences.
const BEDROCK_LIMITERS: Pick = Pick::Words(&[
    (&["too many tokens per day", "tokens per day"], "tokens_per_day"),
    (&["too many tokens"], "tokens"),
    (&["too many requests", "request rate is too high", "rate exceeded"], "requests"),
    (&["input tokens per minute"], "input_tokens"),
    (&["output tokens per minute"], "output_tokens"),
]);

/// Limiters of Vertex AI and the Gemini API, out of the quota metric's name.
const GOOGLE_LIMITERS: Pick = Pick::Words(&[
    (&["input_tokens", "input_token_count", "input tokens per"], "input_tokens"),
    (&["output_tokens", "output tokens per"], "output_tokens"),
    (&["_tokens_per_minute", "tokens per minute"], "tokens"),
    (&["_requests_per", "_requests", "requests per", "request limit per", "request quota"], "requests"),
]);

/// Limiters of the OpenAI family, out of its sentences.
const OPENAI_LIMITERS: Pick = Pick::Words(&[
    (
        &["insufficient_quota", "check your plan and billing", "insufficient balance", "purchase credits"],
        "spend",
    ),
    (&["output tokens", "outputtokens"], "output_tokens"),
    (
        &[
            "tokens per min",
            "(tpm)",
            "tokens per day",
            "token rate limit",
            "tokenratelimit",
            "deploymentratelimit-token",
            "tokens per minute",
            "number of tokens",
        ],
        "tokens",
    ),
    (
        &[
            "requests per min",
            "(rpm)",
            "requests per day",
            "call rate limit",
            "userbymodelbyminute",
            "userbymodelbyday",
            "free_tier_requests",
            "requests per minute",
            "_requests",
        ],
        "requests",
    ),
    (&["concurren"], "concurrency"),
    (&["5-hour", "5 hour"], "five_hour"),
    (&["tpd rate limit", "max tpm", "tpm rate limit"], "tokens"),
    (&["max rpm", "rpm rate limit"], "requests"),
]);

/// A tool of Anthropic's own refused. On a cloud, whose that limit is, is not known.
const SERVER_TOOL: Cond = All(&[
    Is(Fact::ServerTool),
    Code(&["too_many_requests"]),
    Not(&On(&[Surface::Bedrock, Surface::Vertex])),
]);

/// Limiters of such tools.
const TOOLS: Pick = Pick::Words(&[
    (&["web_search_tool_result_error"], "web_search"),
    (&["web_fetch_tool_result_error"], "web_fetch"),
    (&["code_execution_tool_result_error"], "code_execution"),
]);

pub(super) static RULES: &[Rule] = &[
    // ---- Anthropic ------------------------------------------------------------------------------
    rule(
        "server_tool_plan",
        Rung::Code,
        Class::ClaudePlan,
        Confidence::Medium,
        "A tool that Anthropic runs itself says too_many_requests inside a message that a plan pays for: the tool's own limit.",
        All(&[SERVER_TOOL, Is(Fact::PlanHeaders)]),
        TOOLS,
    ),
    rule(
        "server_tool_claude_code",
        Rung::Code,
        Class::ClaudeCodeApiKey,
        Confidence::High,
        "A tool that Anthropic runs itself says too_many_requests inside a message, and the caller is Claude Code: the tool's own limit, of the key's workspace.",
        All(&[SERVER_TOOL, CLAUDE_CODE]),
        TOOLS,
    ),
    rule(
        "server_tool",
        Rung::Code,
        Class::AnthropicWorkspace,
        Confidence::High,
        "A tool that Anthropic runs itself (web search, web fetch, code execution) says too_many_requests inside a message: the tool's own limit, beside those of the model.",
        SERVER_TOOL,
        TOOLS,
    ),
    rule(
        "enforced_spend_limit",
        Rung::Code,
        Class::SpendOrCredit,
        Confidence::Exact,
        "error_code names a spend limit (the monthly cap of the usage tier, or of the contract).",
        Code(&["enforced_spend_limit_reached", "contract_spend_limit_reached"]),
        SPEND,
    ),
    rule(
        "ramp_limit",
        Rung::Code,
        Class::Burst,
        Confidence::Exact,
        "error_code ramp_limit_exceeded: usage grew faster than the acceleration limit allows.",
        Code(&["ramp_limit_exceeded"]),
        Pick::Is("acceleration"),
    ),
    rule(
        "credits_required",
        Rung::Code,
        Class::ClaudePlan,
        Confidence::Medium,
        "The plan does not cover this request without usage credits; no waiting clears it.",
        Any(&[
            Code(&["credits_required"]),
            Says(&[
                "extra usage is required for",
                "usage credits are required for",
                "usage credits required for",
            ]),
        ]),
        SPEND,
    ),
    rule(
        "apps_gateway_cap",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "billing_error with the Claude apps gateway's wording: the developer's own cap on that gateway.",
        All(&[
            Not(&Status(&[402])),
            Any(&[
                Says(&["spend limit reached (", "spend limit unavailable"]),
                All(&[Type(&["billing_error"]), Bears(Mark::NoRetry)]),
            ]),
        ]),
        SPEND,
    ),
    rule(
        "overloaded",
        Rung::Code,
        Class::ProviderOverload,
        Confidence::Exact,
        "overloaded_error or status 529: the provider's capacity, nobody's quota. A box that names itself speaks for itself, and a request that is refused as such quotes.",
        Any(&[
            All(&[Status(&[529]), Not(&Bears(Mark::Box)), Not(&PAGE)]),
            All(&[
                Not(&REFUSED_AS_SUCH),
                Any(&[
                    Type(&["overloaded_error", "engine_overloaded_error", "ServerOverloaded"]),
                    Says(&["model_capacity_exhausted", "engine_overloaded_error"]),
                ]),
            ]),
        ]),
        Pick::Nothing,
    ),
    // ---- gateways -------------------------------------------------------------------------------
    rule(
        "litellm_headers",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "LiteLLM's own limiter wrote rate_limit_type or reset_at.",
        All(&[REFUSED, Bears(Mark::LitellmLimit)]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "gateway_budget",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "A gateway's budget for this key, team or user is used up (budget_exceeded, on 400, 402, 412, 422 or 429).",
        Any(&[
            Type(&["budget_exceeded"]),
            Says(&[
                "budget has been exceeded",
                "exceededbudget",
                "exceeded budget for",
                "over budget. spend",
                "crossed budget",
                "budget limit exceeded",
            ]),
            // LiteLLM's sentences, which come with 400, 401, 403 and 422 too.
            All(&[
                Status(&[400, 401, 403, 422]),
                Opens(&[
                    "budget has been exceeded! ",
                    "exceededbudget: ",
                    "exceededtokenbudget: ",
                    "authentication error, budget has been exceeded! ",
                    "authentication error, exceededbudget: ",
                    "authentication error, exceededtokenbudget: ",
                ]),
            ]),
        ]),
        SPEND,
    ),
    rule(
        "cloudflare_gateway",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "Cloudflare AI Gateway's own code: 2003 counts, 2045 money.",
        Any(&[
            Code(&["2003", "2045"]),
            Says(&["spend limit exceeded: rule", "aigatewayerror", "\"code\":2003"]),
        ]),
        Pick::Words(&[(&["spend limit exceeded: rule"], "spend"), (&["rate limited"], "requests")]),
    ),
    rule(
        "bifrost_refused",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "Bifrost refused before it chose an upstream: no routing header, or its own type.",
        Any(&[
            Says(&["rate limit violated for"]),
            All(&[REFUSED, Type(&["token_limited", "request_limited"])]),
            All(&[IS_429, Bears(Mark::Bifrost), Not(&Bears(Mark::BifrostRouted)), Not(&PROVIDER_ANSWERED)]),
        ]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "ai_token_limiter",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "A gateway's AI token limiter answered (Kong's or APISIX' x-ai-ratelimit headers, or Kong's sentence).",
        Any(&[
            // APISIX answers 503 unless it is told otherwise.
            All(&[Any(&[REFUSED, Status(&[503])]), Bears(Mark::AiEmpty), Not(&PROVIDER_ANSWERED)]),
            Says(&["ai token rate limit exceeded"]),
        ]),
        Pick::Is("tokens"),
    ),
    rule(
        "kong_refused",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "Kong answered without an upstream, with its rate-limit headers empty or its own sentence.",
        Any(&[
            All(&[REFUSED, MessageIs(&["API rate limit exceeded"])]),
            All(&[IS_429, Bears(Mark::Kong), Bears(Mark::PlainEmpty), Not(&Bears(Mark::KongUpstream))]),
        ]),
        Pick::Is("requests"),
    ),
    rule(
        "helicone_refused",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::High,
        "Helicone refused before it chose a provider.",
        All(&[IS_429, Bears(Mark::Helicone), Not(&Bears(Mark::HeliconeRouted)), Not(&PROVIDER_ANSWERED)]),
        Pick::Is("requests"),
    ),
    rule(
        "portkey_refused",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::Medium,
        "Portkey marks the failure as its own, or answers 412 for a budget.",
        All(&[Bears(Mark::Portkey), Any(&[All(&[IS_429, Bears(Mark::PortkeyException)]), Status(&[412])])]),
        Pick::Nothing,
    ),
    // ---- AWS ------------------------------------------------------------------------------------
    rule(
        "bedrock_not_ready",
        Rung::Code,
        Class::ProviderOverload,
        Confidence::Medium,
        "ModelNotReadyException: the model is being brought up. No quota is involved, although the status is 429.",
        Any(&[
            Exception(&["modelnotreadyexception"]),
            Says(&["modelnotreadyexception", "model is not ready for inference"]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "bedrock_capacity",
        Rung::Code,
        Class::ProviderOverload,
        Confidence::Medium,
        "Bedrock's shared capacity is used up (ServiceUnavailableException): not the account's quota.",
        Any(&[
            Exception(&["serviceunavailableexception"]),
            Says(&[
                "serviceunavailableexception",
                "bedrock is unable to process your request",
                "model is getting throttled",
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "bedrock_throttled",
        Rung::Code,
        Class::Bedrock,
        Confidence::High,
        "AWS's own exception: the limit is the account's in that region.",
        Any(&[
            Exception(&["throttlingexception", "servicequotaexceededexception"]),
            Says(&["throttlingexception", "servicequotaexceededexception"]),
        ]),
        BEDROCK_LIMITERS,
    ),
    rule(
        "bedrock_words",
        Rung::Wording,
        Class::Bedrock,
        Confidence::High,
        "Bedrock's own sentence. The ones that speak of requests alone may be any box's: there AWS's request id or a route to Bedrock stands beside it, and no web framework's form.",
        Any(&[
            Says(&[
                "too many tokens, please wait before trying again",
                "too many tokens per day, please wait",
            ]),
            All(&[
                Any(&[
                    Is(Fact::StatusUnknown),
                    Is(Fact::FromAws),
                    All(&[On(&[Surface::Bedrock]), Not(&PAGE), Not(&Is(Fact::FrameworkShape))]),
                ]),
                Says(&[
                    "too many requests, please wait before trying again",
                    "your request rate is too high. reduce the frequency",
                ]),
            ]),
        ]),
        BEDROCK_LIMITERS,
    ),
    rule(
        "bedrock_validation",
        Rung::Code,
        Class::NotALimit,
        Confidence::High,
        "AWS refuses the request itself or failed on it; no quota is named.",
        Any(&[
            Exception(&[
                "validationexception",
                "accessdeniedexception",
                "modelerrorexception",
                "modeltimeoutexception",
                "internalserverexception",
                "modelstreamerrorexception",
                "resourcenotfoundexception",
            ]),
            All(&[
                Not(&IS_429),
                Says(&[
                    "validationexception",
                    "accessdeniedexception",
                    "modelstreamerrorexception",
                    "modeltimeoutexception",
                    "internalserverexception",
                    "modelerrorexception",
                ]),
            ]),
        ]),
        Pick::Nothing,
    ),
    // ---- Google ---------------------------------------------------------------------------------
    rule(
        "gemini_api",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "The quota metric's host is the Gemini API's, which is not Vertex AI.",
        All(&[
            Says(&[
                "generativelanguage.googleapis.com",
                "ai.google.dev/gemini-api",
                "ai.google.dev/docs/rate",
                "ai.studio/",
            ]),
            LIMITED,
        ]),
        GOOGLE_LIMITERS,
    ),
    rule(
        "cloud_code",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "Google's Code Assist backend: a quota of its user, neither Vertex AI nor Anthropic.",
        All(&[
            LIMITED,
            Says(&["cloudcode-pa.googleapis.com", "you have exhausted your capacity on this model"]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "vertex_quota",
        Rung::Code,
        Class::Vertex,
        Confidence::High,
        "The quota metric's host is Vertex AI's: the limit is the Google Cloud project's.",
        Says(&[
            "quota exceeded for aiplatform",
            "service 'aiplatform.googleapis.com'",
            "aiplatform.googleapis.com/online_prediction",
            "aiplatform.googleapis.com/global_online",
            "aiplatform.googleapis.com/generate_content",
            "aiplatform.googleapis.com/base_model",
            "multi_region_online_prediction",
            "online_prediction_requests_per_base_model",
            "exceeded the provisioned throughput",
        ]),
        GOOGLE_LIMITERS,
    ),
    rule(
        "vertex_capacity",
        Rung::Code,
        Class::ProviderOverload,
        Confidence::Medium,
        "Vertex AI names no quota: its shared capacity is used up, and no number of this project is.",
        Any(&[
            Says(&[
                "resource exhausted. please try again later",
                "resource exhausted, please try again later",
                "temporarily out of capacity",
                "error-code-429",
            ]),
            All(&[On(&[Surface::Vertex]), Says(&["resource has been exhausted"])]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "google_exhausted",
        Rung::Code,
        Class::OtherProvider,
        Confidence::Medium,
        "Google's bare RESOURCE_EXHAUSTED sentence without a metric: the Gemini API and its relatives write it.",
        Says(&["resource has been exhausted (e.g. check quota)"]),
        Pick::Nothing,
    ),
    // ---- other providers -------------------------------------------------------------------------
    rule(
        "azure",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "Azure's deployment quota: its policy, its sentence or its request id names it.",
        Any(&[
            All(&[IS_429, Bears(Mark::Azure)]),
            Says(&[
                "openai s0 pricing tier",
                "aka.ms/oai/quotaincrease",
                "deploymentratelimit",
                "userbymodelbyminute",
                "userbymodelbyday",
                "for userbymodel",
                "userconcurrentrequests",
            ]),
            All(&[LIMITED, Says(&["azure openai"])]),
            // Azure's own front is its API Management, which elsewhere is a gateway.
            All(&[
                IS_429,
                On(&[Surface::AzureOpenAi]),
                Not(&PAGE),
                Says(&["rate limit is exceeded. try again in"]),
            ]),
        ]),
        OPENAI_LIMITERS,
    ),
    rule(
        "openai",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "The OpenAI API's own sentence, code or account page, or a ChatGPT plan's.",
        Any(&[
            All(&[IS_429, Bears(Mark::OpenAi)]),
            All(&[
                NOT_5XX,
                Says(&[
                    "usage_limit_reached",
                    "too many requests in 1 hour",
                    "insufficient_quota",
                    "on tokens per min (tpm)",
                    "on requests per min (rpm)",
                    "on tokens per day (tpd)",
                    "on requests per day (rpd)",
                    "on tokens per minute (tpm)",
                    "on requests per minute (rpm)",
                    "you exceeded your current quota, please check your plan",
                ]),
            ]),
            All(&[
                LIMITED,
                Says(&[
                    "platform.openai.com/account",
                    "platform.openai.com/docs/guides",
                    "help.openai.com",
                    "chatgpt.com/",
                    "x-codex-",
                ]),
            ]),
        ]),
        OPENAI_LIMITERS,
    ),
    rule(
        "zhipu",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "A numeric code of Zhipu's GLM API, whatever envelope it comes in.",
        Any(&[
            Code(&["1302", "1303", "1304", "1305", "1308", "1310", "1312", "1313"]),
            Says(&[
                "high concurrency usage of this api",
                "您的账户已达到速率限制",
                "您当前使用该api的并发数过高",
            ]),
        ]),
        OPENAI_LIMITERS,
    ),
    rule(
        "minimax",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "A numeric code of MiniMax at the end of the sentence, whatever envelope it comes in.",
        Says(&["(2056)", "(1002)", "(2064)", "for token plan", "token plan usage limit"]),
        OPENAI_LIMITERS,
    ),
    rule(
        "other_provider_words",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "A sentence, code or address that only this other provider writes.",
        Any(&[
            Type(&[
                "rate_limit_reached_error",
                "exceeded_current_quota_error",
                "rate_limited",
                "tokens_limit_reached",
            ]),
            All(&[
                NOT_5XX,
                Says(&[
                    "organization max rpm",
                    "organization max concurrency",
                    "organization max tpm",
                    "organization tpd rate limit",
                    "organization tpm rate limit",
                    "organization rpm rate limit",
                    "max organization rpm",
                    "max organization concurrency",
                    "max organization tpm",
                    "rate_limit_reached_error",
                    "exceeded_current_quota_error",
                    "hit your global rate limit",
                    "you've exhausted your premium",
                    "premium request allowance",
                    "throttling.ratequota",
                    "throttling.allocationquota",
                    "allocated quota exceeded",
                    "service tier capacity exceeded",
                    "requests rate limit exceeded",
                    "using a trial key",
                    "request_limit_exceeded",
                    "you have exceeded the maximum number of tokens allowed within a given time frame",
                    "user api key rate limit exceeded",
                    "copilot token usage",
                    "daily free allocation of",
                    "accountratelimitexceeded",
                    "accountquotaexceeded",
                    "modelaccounttpmratelimitexceeded",
                    "setlimitexceeded",
                    "rate limit reached for model",
                ]),
            ]),
            All(&[
                LIMITED,
                Says(&[
                    "console.groq.com",
                    "github copilot",
                    "copilot.",
                    "cursor.com/",
                    "ollama.com/",
                    "api.llama.com",
                    "inference providers",
                    "huggingface.co",
                    "api.together",
                    "fireworks.ai",
                    "cerebras.ai",
                    "console.x.ai",
                    "databricks",
                ]),
            ]),
        ]),
        OPENAI_LIMITERS,
    ),
    // ---- money ----------------------------------------------------------------------------------
    rule(
        "reseller_balance",
        Rung::Code,
        Class::GatewayTenant,
        Confidence::Medium,
        "A relay says that the balance or quota of its key is used up.",
        Any(&[
            All(&[
                Status(&[401, 403]),
                Opens(&[
                    "用户额度不足",
                    "该令牌额度已用尽",
                    "令牌额度",
                    "预扣费额度失败",
                    "user quota is not enough",
                    "token quota is not enough",
                ]),
            ]),
            Code(&["insufficient_user_quota", "pre_consume_token_quota_failed"]),
            Says(&[
                "额度不足",
                "insufficient account balance",
                "额度已用尽",
                "额度已用完",
                "剩余额度",
                "insufficient_user_quota",
                "pre_consume_token_quota_failed",
                "user quota is not enough",
                "token quota is not enough",
                "daily cost limit reached",
                "weekly cost limit reached",
                "total cost limit reached",
                "daily limit reached for this api key",
                "api key quota exceeded",
                "key limit exceeded",
            ]),
        ]),
        SPEND,
    ),
    rule(
        "billing",
        Rung::Code,
        Class::SpendOrCredit,
        Confidence::Medium,
        "billing_error or status 402: money, whatever the headers show beside it.",
        Any(&[
            Type(&["billing_error", "insufficient_balance", "insufficient_credits"]),
            Code(&["billing_hard_limit_reached"]),
            Status(&[402]),
        ]),
        SPEND,
    ),
    // ---- a provider's own address ------------------------------------------------------------------
    rule(
        "foreign_host",
        Rung::Code,
        Class::OtherProvider,
        Confidence::High,
        "The call went to another provider's own host, which answers for itself even where it borrows Anthropic's headers and words; LiteLLM's own sentence is LiteLLM's.",
        All(&[
            IS_429,
            On(&[Surface::OpenAi, Surface::AzureOpenAi, Surface::Other]),
            Any(&[Is(Fact::FromModelApi), Is(Fact::UpstreamAnswered)]),
            Not(&LITELLM_LIMITER),
        ]),
        OPENAI_LIMITERS,
    ),
];
