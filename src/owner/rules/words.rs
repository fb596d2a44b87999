//! The wording, where codes and headers are silent.

use super::answered::GATEWAY_LIMITERS;
use super::{IS_429, PAGE, REFUSED, REFUSED_AS_SUCH, rule};
use crate::observation::Client;
use crate::owner::cond::{Cond, Fact, Pick};
use crate::owner::verdict::{Class, Confidence, Rule, Rung};
use crate::route::Surface;
use Cond::{All, Any, From, Is, MessageIs, Not, On, Opens, Says, Status, Type};

/// Claude Code called, by its name; where no program named itself, by the words of its own messages.
/// Behind a gateway the key is the gateway's.
pub(super) const CLAUDE_CODE: Cond = All(&[Not(&On(&[Surface::Gateway])), CALLED_BY_IT]);

const CALLED_BY_IT: Cond = Any(&[
    From(Client::ClaudeCode),
    On(&[Surface::ClaudeCodeKey]),
    All(&[
        From(Client::Unknown),
        Says(&["api error: request rejected (429)", "api error (429 {", "⎿ api error"]),
    ]),
]);

/// A limit of the organisation behind an API key, in every wording since 2024.
const KEY_WORDS: Cond = Any(&[
    Says(&[
        "rate limit for your organization",
        "your organization's rate limit",
        "your workspace's rate limit",
        "rate limit for your workspace",
        "anthropic rate limit exceeded",
        "anthropic api rate limit",
        "tokens has exceeded your rate limit",
        "tokens has exceeded your per-minute",
        "tokens has exceeded your per minute",
        "tokens has exceeded your daily",
        "requests has exceeded your rate limit",
        "requests has exceeded your per-minute",
        "requests has exceeded your daily",
        "would exceed your organization's limit",
    ]),
    All(&[Says(&["your organization's", "your organization ("]), Says(&["rate limit of"])]),
    All(&[Says(&["(org:"]), Says(&["model: claude"]), Says(&["per minute"])]),
]);

const KEY_LIMITERS: Pick = Pick::Words(&[
    (&["input tokens per", "input tokens has exceeded"], "input_tokens"),
    (&["output tokens per", "output tokens has exceeded"], "output_tokens"),
    (&["requests per", "number of requests"], "requests"),
    (&["tokens"], "tokens"),
]);

pub(super) static ANTHROPIC: &[Rule] = &[
    rule(
        "key_words_claude_code",
        Rung::Wording,
        Class::ClaudeCodeApiKey,
        Confidence::High,
        "The text names a per-minute limit of the organisation, and the caller is Claude Code: the key's workspace.",
        All(&[KEY_WORDS, CLAUDE_CODE]),
        KEY_LIMITERS,
    ),
    rule(
        "key_words",
        Rung::Wording,
        Class::AnthropicWorkspace,
        Confidence::High,
        "The text names a per-minute or daily limit of the organisation behind the key.",
        KEY_WORDS,
        KEY_LIMITERS,
    ),
    rule(
        "spend_words",
        Rung::Wording,
        Class::SpendOrCredit,
        Confidence::High,
        "The text names a spend limit or a credit balance; waiting a minute does not clear it.",
        Any(&[
            Says(&[
                "credit balance is too low",
                "credit balance too low",
                "you have reached your specified",
                "you have reached your api usage limits",
                "monthly spend limit",
                "individual spend limit",
                "organization's spend limit",
                "now draw from your extra usage",
                "out of extra usage",
                "you're out of usage credits",
                "your credit balance",
                "used all available credits",
                "monthly spending limit",
            ]),
            // Anthropic says these with 400 and the type of a bad request.
            All(&[
                Any(&[Status(&[400]), Is(Fact::StatusUnknown), Is(Fact::InStream)]),
                Type(&["invalid_request_error"]),
                Opens(&[
                    "your credit balance is too low to access the ",
                    "you have reached your specified api usage limits",
                    "you have reached your specified workspace api usage limits",
                    "you have reached your api usage limits",
                    "third-party apps now draw from your extra usage",
                    "you're out of extra usage",
                    "you're out of usage credits",
                ]),
            ]),
        ]),
        Pick::Is("spend"),
    ),
    rule(
        "server_throttle",
        Rung::Wording,
        Class::ProviderOverload,
        Confidence::Medium,
        "A server-side throttle: bare words, or a plan's words without any plan header although all headers were seen.",
        All(&[
            Not(&Is(Fact::PlanHeaders)),
            Any(&[
                All(&[
                    Type(&["rate_limit_error", "overloaded_error"]),
                    MessageIs(&["Rate limited", "Rate limited."]),
                ]),
                Says(&[
                    "not your usage limit",
                    "temporarily limiting requests",
                    "request rejected (429) · rate limited",
                ]),
                All(&[
                    Is(Fact::HeadersSeen),
                    Not(&Is(Fact::KeyHeaders)),
                    Says(&["your account's rate limit"]),
                ]),
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "plan_burst",
        Rung::HeaderFamily,
        Class::Burst,
        Confidence::Medium,
        "429 although every plan window in the headers has room, while own traffic rose steeply.",
        All(&[IS_429, Is(Fact::PlanHeaders), Not(&Is(Fact::WindowUsedUp)), Is(Fact::SteepRise)]),
        Pick::Nothing,
    ),
    rule(
        "plan_room",
        Rung::HeaderFamily,
        Class::Burst,
        Confidence::Low,
        "429 although every plan window in the headers has room: a throttle of the moment rather than the plan.",
        All(&[IS_429, Is(Fact::PlanHeaders), Not(&Is(Fact::WindowUsedUp))]),
        Pick::Nothing,
    ),
    rule(
        "plan_words",
        Rung::Wording,
        Class::ClaudePlan,
        Confidence::High,
        "Plan or period wording of a Claude subscription.",
        Any(&[
            Says(&[
                "claude ai usage limit reached",
                "claude usage limit reached",
                "claude pro usage limit",
                "claude max usage limit",
                "you've hit your limit",
                "you've hit your fable limit",
                "you've hit your session limit",
                "you've hit your weekly limit",
                "you've hit your opus limit",
                "you've hit your sonnet limit",
                "you've reached your usage limit for claude",
                "weekly limit reached",
                "opus weekly limit",
                "5-hour limit reached",
                "session limit reached",
                "opus limit reached",
                "opus 4 limit reached",
                "sonnet limit reached",
                "representativeclaim",
                "ratelimittype\":\"five_hour",
                "ratelimittype\":\"seven_day",
            ]),
            Says(&["\"type\":\"exceeded_limit\"", "'type':'exceeded_limit'"]),
            All(&[
                Says(&["you've hit your", "you've reached your", "limit reached"]),
                Says(&["· resets", "∙ resets", "• resets"]),
            ]),
            // Claude Code waits for the window, or offers credits, only on a plan.
            All(&[Says(&["limit reached"]), Says(&["· continuing automatically at"])]),
            All(&[Says(&["you've reached your", "you've hit your"]), Says(&["/usage-credits"])]),
            All(&[
                Says(&["rate_limit_info", "rate_limit_event"]),
                Says(&["\"status\":\"rejected", "'status':'rejected"]),
            ]),
        ]),
        Pick::Words(PLAN_WINDOWS),
    ),
    rule(
        "plan_body",
        Rung::Wording,
        Class::ClaudePlan,
        Confidence::Medium,
        "The body of a subscription's refusal. The same words come with four meanings; only headers tell them apart.",
        Says(&["your account's rate limit"]),
        Pick::Words(PLAN_WINDOWS),
    ),
    rule(
        "burst_steep",
        Rung::HeaderFamily,
        Class::Burst,
        Confidence::Medium,
        "429 although no bucket in the headers is empty, while own traffic rose steeply.",
        All(&[IS_429, Is(Fact::KeyHeaders), Is(Fact::SteepRise)]),
        Pick::Nothing,
    ),
    rule(
        "key_bucket_tight_claude_code",
        Rung::HeaderFamily,
        Class::ClaudeCodeApiKey,
        Confidence::Medium,
        "An API key's bucket has less left than half: this request wanted more than that, and the caller is Claude Code.",
        All(&[IS_429, Is(Fact::BucketTight), CLAUDE_CODE]),
        Pick::Bucket,
    ),
    rule(
        "key_bucket_tight",
        Rung::HeaderFamily,
        Class::AnthropicWorkspace,
        Confidence::Medium,
        "An API key's bucket has less left than half: this request wanted more than that.",
        All(&[IS_429, Is(Fact::BucketTight)]),
        Pick::Bucket,
    ),
];

/// Windows as the wording of plans names them.
const PLAN_WINDOWS: &[(&[&str], &str)] = &[
    (&["opus weekly limit", "opus limit", "opus 4 limit", "seven_day_opus"], "seven_day_opus"),
    (&["sonnet limit", "seven_day_sonnet"], "seven_day_sonnet"),
    (&["fable limit", "seven_day_overage_included"], "seven_day_overage_included"),
    (&["weekly limit", "seven_day"], "seven_day"),
    (&["session limit", "5-hour limit", "five_hour"], "five_hour"),
];

/// A sentence that only LiteLLM's own limiter writes, wherever it was sent on to.
pub(super) const LITELLM_LIMITER: Cond = Any(&[
    Says(&[
        "litellm rate limit handler",
        "rate limit exceeded for api_key",
        "rate limit exceeded for team",
        "rate limit exceeded for user:",
        "rate limit exceeded for end_user",
        "rate limit exceeded for organization:",
        "rate limit exceeded for model_per",
        "rate limit exceeded for agent",
        "rate limit exceeded for tag",
        "rate limit exceeded for customer",
        "model rate limit exceeded",
        "crossed tpm / rpm",
        "parallel request limit reached",
        "priority-based rate limit exceeded",
        "model capacity reached",
        "batch enqueued token limit exceeded",
        "deployment over user-defined ratelimit",
        "deployment over defined rpm limit",
        "deployment over defined tpm limit",
    ]),
    All(&[Says(&["limit type:"]), Says(&["limit resets at"])]),
]);

pub(super) static OTHERS: &[Rule] = &[
    rule(
        "litellm_limiter",
        Rung::Wording,
        Class::GatewayTenant,
        Confidence::High,
        "LiteLLM's own limiter wrote this sentence.",
        LITELLM_LIMITER,
        GATEWAY_LIMITERS,
    ),
    rule(
        "apim",
        Rung::Wording,
        Class::GatewayTenant,
        Confidence::Medium,
        "The sentence of Azure API Management's own policies.",
        Says(&[
            "token limit is exceeded. try again in",
            "rate limit is exceeded. try again in",
            "token quota is exceeded",
            "out of call volume quota",
        ]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "relay_concurrency",
        Rung::Wording,
        Class::GatewayTenant,
        Confidence::Medium,
        "A relay counts the open calls of its key.",
        Says(&[
            "too many concurrent requests",
            "concurrency limit exceeded",
            "concurrent request limit",
            "concurrent requests limit",
            "并发",
        ]),
        Pick::Is("concurrency"),
    ),
    rule(
        "gateway_words",
        Rung::Wording,
        Class::GatewayTenant,
        Confidence::Medium,
        "The text speaks of a limit of the gateway's own key, group or account.",
        Any(&[
            Says(&[
                "for this virtual key",
                "virtual key rate limit",
                "for this api key has been exceeded",
                "您已达到请求数限制",
                "您已达到总请求数限制",
                "请求过于频繁",
                "free credits temporarily",
                "freeusagelimiterror",
                "free usage exceeded",
                "rate limits exceeded, please try again later",
                "not enough credits, please add",
                "payment required, please add credits",
                "exceeded your gateway",
                "gateway rate limit",
                "rate limited by proxy",
                "powered by apisix",
                "insufficient ai gateway credits",
            ]),
            All(&[
                On(&[Surface::Gateway]),
                Says(&["rate limit exceeded", "quota exceeded", "limit reached", "rate_limit_exceeded"]),
            ]),
        ]),
        GATEWAY_LIMITERS,
    ),
    rule(
        "litellm_class_anthropic",
        Rung::Wording,
        Class::AnthropicWorkspace,
        Confidence::Medium,
        "LiteLLM names Anthropic as the one who refused.",
        All(&[REFUSED, Says(&["anthropicexception"])]),
        KEY_LIMITERS,
    ),
    rule(
        "litellm_class_bedrock",
        Rung::Wording,
        Class::Bedrock,
        Confidence::Medium,
        "LiteLLM names Bedrock as the one who refused.",
        All(&[REFUSED, Says(&["bedrockexception"])]),
        Pick::Nothing,
    ),
    rule(
        "litellm_class_vertex",
        Rung::Wording,
        Class::Vertex,
        Confidence::Medium,
        "LiteLLM names Vertex AI as the one who refused.",
        All(&[REFUSED, Says(&["vertexaiexception", "vertex_aiexception", "vertex_ai_betaexception"])]),
        Pick::Nothing,
    ),
    rule(
        "litellm_class_other",
        Rung::Wording,
        Class::OtherProvider,
        Confidence::Medium,
        "LiteLLM names another provider as the one who refused.",
        All(&[
            REFUSED,
            Says(&[
                "openaiexception",
                "azureexception",
                "groqexception",
                "geminiexception",
                "deepseekexception",
                "mistralexception",
                "cohereexception",
                "xaiexception",
                "fireworks_aiexception",
                "together_aiexception",
                "cerebrasexception",
                "databricksexception",
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "busy",
        Rung::Wording,
        Class::ProviderOverload,
        Confidence::Medium,
        "The text speaks of load, demand or capacity, and names nobody's quota. With 429 or 503 it may be any box's: there a model API's marks stand beside it.",
        All(&[
            Any(&[Not(&Status(&[429, 503])), Is(Fact::FromModelApi)]),
            Not(&REFUSED_AS_SUCH),
            Says(&[
                "overloaded",
                "at capacity",
                "capacity constraints",
                "out of capacity",
                "insufficient capacity",
                "no capacity available",
                "high demand",
                "heavy load",
                "server is busy",
                "service is busy",
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "other_models",
        Rung::Wording,
        Class::OtherProvider,
        Confidence::Low,
        "A refusal that names a model of another provider.",
        All(&[
            IS_429,
            Not(&PAGE),
            Says(&[
                "glm-4", "glm-5", "minimax", "kimi-k", "moonshot", "qwen", "deepseek", "gpt-4", "gpt-5",
                "gemini-", "grok-",
            ]),
        ]),
        Pick::Nothing,
    ),
];
