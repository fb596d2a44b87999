//! What is no limit at all, then the configured route, then nothing.

use super::words::CLAUDE_CODE;
use super::{IS_429, rule};
use crate::observation::Mark;
use crate::owner::cond::{Cond, Fact, Pick};
use crate::owner::verdict::{Class, Confidence, Rule, Rung};
use crate::route::Surface;
use Cond::{All, Any, Bears, Is, Not, On, Says, Status, StatusClass, Type};

/// Phrases, not stems: parameters are called `max_tokens` and `thinking.budget_tokens` too.
const NAMES_A_LIMIT: Cond = Says(&[
    "rate limit",
    "rate_limit",
    "rate-limit",
    "quota exceeded",
    "exceeded your",
    "exceeds your",
    "insufficient quota",
    "insufficient_quota",
    "quota for",
    "quota limit",
    "your quota",
    "throttled",
    "throttling",
    "too many requests",
    "limit exceeded",
    "limit reached",
    "usage limit",
    "over budget",
    "credits",
    "credit balance",
    "spend limit",
    "resource_exhausted",
    "account balance",
    "insufficient balance",
    "insufficient_balance",
    "额度",
]);

/// The text names a limit, and it is not one that an error of another kind quotes.
const MEANS_A_LIMIT: Cond = All(&[Not(&Is(Fact::Quotes)), NAMES_A_LIMIT]);

pub(super) static NO_LIMIT: &[Rule] = &[
    rule(
        "auth",
        Rung::Code,
        Class::NotALimit,
        Confidence::High,
        "The credential or its permission is refused.",
        All(&[
            Not(&IS_429),
            Any(&[
                Type(&["authentication_error", "permission_error"]),
                All(&[Status(&[401, 403, 407]), Not(&MEANS_A_LIMIT)]),
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "server_error",
        Rung::Code,
        Class::NotALimit,
        Confidence::High,
        "A server or gateway error (500, 502, 504): another runbook than quota.",
        All(&[
            Any(&[Is(Fact::Quotes), Not(&Any(&[NAMES_A_LIMIT, Says(&["capacity", "too many"])]))]),
            Any(&[
                Status(&[500, 502, 504, 520, 521, 522, 523, 524, 525, 526]),
                All(&[Is(Fact::Quotes), StatusClass(5), Not(&Status(&[503, 529]))]),
                All(&[
                    Not(&Status(&[503])),
                    Type(&["api_error", "timeout_error", "internal_server_error", "server_error"]),
                ]),
            ]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "gateway_failed",
        Rung::AnsweredBy,
        Class::NotALimit,
        Confidence::High,
        "The gateway says that it answered 5xx by itself: its upstream was not reached, or its own limiter failed.",
        All(&[StatusClass(5), Bears(Mark::GatewaySaysOwn)]),
        Pick::Nothing,
    ),
    rule(
        "upstream_unreachable",
        Rung::AnsweredBy,
        Class::NotALimit,
        Confidence::High,
        "Envoy's own words for an upstream that it could not reach.",
        All(&[
            StatusClass(5),
            Says(&["upstream connect error", "no healthy upstream", "upstream request timeout"]),
        ]),
        Pick::Nothing,
    ),
    rule(
        "unavailable",
        Rung::Code,
        Class::ProviderOverload,
        Confidence::Medium,
        "503 with a model API's marks: the service is out of capacity, nobody's quota.",
        All(&[Status(&[503]), Any(&[Is(Fact::FromModelApi), Is(Fact::UpstreamAnswered)])]),
        Pick::Nothing,
    ),
    rule(
        "bad_request",
        Rung::Code,
        Class::NotALimit,
        Confidence::Medium,
        "The request itself is refused, and the text names no limit of anybody's.",
        All(&[Not(&MEANS_A_LIMIT), Any(&[All(&[StatusClass(4), Not(&IS_429)]), Is(Fact::InStream)])]),
        Pick::Nothing,
    ),
    rule(
        "plain_error",
        Rung::Wording,
        Class::NotALimit,
        Confidence::Low,
        "An error whose status is not known, and which names no limit, load or capacity at all.",
        All(&[Is(Fact::StatusUnknown), Is(Fact::Error), Not(&MEANS_A_LIMIT)]),
        Pick::Nothing,
    ),
];

/// Words that name no owner, where no status says that it is another error.
const BARE_WORDS: Cond = All(&[
    Any(&[Is(Fact::StatusUnknown), Is(Fact::InStream)]),
    Says(&["rate limit", "too many requests", "rate_limit_error", "usage limit"]),
]);

/// A bare refusal: words, or 429.
const BARE: Cond = Any(&[IS_429, BARE_WORDS]);

/// A bare refusal that is Anthropic's: any box on the way may answer 429.
const ANTHROPICS: Cond =
    Any(&[All(&[IS_429, Any(&[Is(Fact::FromAnthropic), Is(Fact::UpstreamAnswered)])]), BARE_WORDS]);

const AWS_S: Cond = Any(&[All(&[IS_429, Any(&[Is(Fact::FromAws), Is(Fact::UpstreamAnswered)])]), BARE_WORDS]);

const GOOGLES: Cond =
    Any(&[All(&[IS_429, Any(&[Is(Fact::FromGoogle), Is(Fact::UpstreamAnswered)])]), BARE_WORDS]);

pub(super) static ROUTE: &[Rule] = &[
    rule(
        "claude_code_rejected",
        Rung::Wording,
        Class::ClaudeCodeApiKey,
        Confidence::Low,
        "Claude Code's line for a 429 without a known body: by its documentation the limit of the API key, or of the Bedrock or Google project.",
        All(&[
            Says(&["request rejected (429)"]),
            Says(&["this may be a temporary capacity issue"]),
            Not(&On(&[Surface::Bedrock, Surface::Vertex, Surface::Gateway])),
        ]),
        Pick::Nothing,
    ),
    rule(
        "route_plan",
        Rung::Route,
        Class::ClaudePlan,
        Confidence::Low,
        "A bare refusal with Anthropic's marks on a route that carries Claude Code on a plan.",
        All(&[ANTHROPICS, On(&[Surface::ClaudeCodePlan])]),
        Pick::Nothing,
    ),
    rule(
        "route_claude_code_key",
        Rung::Route,
        Class::ClaudeCodeApiKey,
        Confidence::Low,
        "A bare refusal with Anthropic's marks on a route that carries Claude Code on an API key.",
        All(&[ANTHROPICS, On(&[Surface::ClaudeCodeKey])]),
        Pick::Nothing,
    ),
    rule(
        "route_anthropic",
        Rung::Route,
        Class::AnthropicWorkspace,
        Confidence::Low,
        "A bare refusal with Anthropic's marks on a route to the Anthropic API with a key.",
        All(&[ANTHROPICS, On(&[Surface::AnthropicApi]), Not(&CLAUDE_CODE)]),
        Pick::Nothing,
    ),
    rule(
        "route_bedrock",
        Rung::Route,
        Class::Bedrock,
        Confidence::Low,
        "A bare refusal with AWS's or Anthropic's marks on a route to Amazon Bedrock.",
        All(&[AWS_S, On(&[Surface::Bedrock])]),
        Pick::Nothing,
    ),
    rule(
        "route_vertex",
        Rung::Route,
        Class::Vertex,
        Confidence::Low,
        "A bare refusal with Google's or Anthropic's marks on a route to Vertex AI.",
        All(&[GOOGLES, On(&[Surface::Vertex])]),
        Pick::Nothing,
    ),
    rule(
        "route_gateway",
        Rung::Route,
        Class::GatewayTenant,
        Confidence::Low,
        "A bare 429 from a gateway that shows no upstream's answer.",
        All(&[BARE, On(&[Surface::Gateway]), Not(&Bears(Mark::GatewaySaysUpstream))]),
        Pick::Nothing,
    ),
    rule(
        "route_other",
        Rung::Route,
        Class::OtherProvider,
        Confidence::Low,
        "A refusal on a route to another provider.",
        All(&[BARE_WORDS, On(&[Surface::OpenAi, Surface::AzureOpenAi, Surface::Other])]),
        Pick::Nothing,
    ),
    UNPROVED,
];

/// Always holds.
pub(super) const UNPROVED: Rule = rule(
    "unproved",
    Rung::Nothing,
    Class::Unknown,
    Confidence::Low,
    "Nothing in the answer proves an owner.",
    All(&[]),
    Pick::Nothing,
);
