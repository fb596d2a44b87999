//! The table of verdicts: read it from top to bottom; the first row that holds decides.
//!
//! Rows are ordered by proof: what the answering party says of itself, codes that only one party
//! emits, the header family, then words, then the configured route, then nothing. Two rows stand
//! above their rung on purpose and say so: a success is no failure whatever its headers say, and
//! the plain client errors whose texts borrow the words of limits.

use super::verdict::{Class, Confidence, Evidence, Hit, Rule, Rung};
use crate::limit::Limiter;
use crate::observation::Client;
use crate::route::Surface;

/// Every rule, strongest proof first.
pub static RULES: &[Rule] = &[
    // ---- a success, or an error of the request itself ---------------------------------------
    Rule {
        id: "success",
        rung: Rung::Code,
        class: Class::NotALimit,
        confidence: Confidence::Exact,
        why: "The status is a success and no error came in the stream; retry-after on a success means nothing, and a rejected plan window is paid from credits.",
        when: |e| {
            Hit::when(e.status.is_some_and(|s| s < 400) && !e.error.in_stream && e.error.kind.is_none())
        },
    },
    Rule {
        id: "no_response",
        rung: Rung::Code,
        class: Class::NotALimit,
        confidence: Confidence::Exact,
        why: "No response came: the upstream could not be reached or broke off.",
        when: |e| Hit::when(e.no_response),
    },
    Rule {
        id: "context_length",
        rung: Rung::Wording,
        class: Class::NotALimit,
        confidence: Confidence::High,
        why: "The request is larger than the model or a tool accepts; no rate is involved.",
        when: |e| {
            Hit::when(
                e.says(&[
                    "prompt is too long",
                    "exceed context limit",
                    "exceeds maximum allowed tokens",
                    "exceed the model limit",
                    "maximum context length",
                    "context window",
                ]) && e.status != Some(429),
            )
        },
    },
    Rule {
        id: "side_endpoint",
        rung: Rung::AnsweredBy,
        class: Class::NotALimit,
        confidence: Confidence::High,
        why: "The login or usage endpoint is throttled, not inference: no model route has a limit.",
        when: |e| {
            Hit::when(
                e.path.contains("/oauth/token")
                    || e.path.contains("/api/oauth/usage")
                    || e.says(&["/api/oauth/usage", "oauth exchange failed"]),
            )
        },
    },
    // ---- codes and types that only one party emits ------------------------------------------
    Rule {
        id: "enforced_spend_limit",
        rung: Rung::Code,
        class: Class::SpendOrCredit,
        confidence: Confidence::Exact,
        why: "error_code names a spend limit (the monthly cap of the usage tier, or of the contract).",
        when: |e| {
            (e.code("enforced_spend_limit_reached") || e.code("contract_spend_limit_reached"))
                .then(|| Hit::on(Limiter::SPEND))
        },
    },
    Rule {
        id: "ramp_limit",
        rung: Rung::Code,
        class: Class::Burst,
        confidence: Confidence::Exact,
        why: "error_code ramp_limit_exceeded: usage grew faster than the acceleration limit allows.",
        when: |e| e.code("ramp_limit_exceeded").then(|| Hit::on(Limiter::ACCELERATION)),
    },
    Rule {
        id: "credits_required",
        rung: Rung::Code,
        class: Class::ClaudePlan,
        confidence: Confidence::High,
        why: "The plan does not cover this request without usage credits.",
        when: |e| {
            (e.code("credits_required") || e.says(&["extra usage is required"]))
                .then(|| Hit::on(Limiter::SPEND))
        },
    },
    Rule {
        id: "billing",
        rung: Rung::Code,
        class: Class::SpendOrCredit,
        confidence: Confidence::High,
        why: "billing_error or status 402: money, whatever the headers show beside it.",
        when: |e| (e.kind("billing_error") || e.status == Some(402)).then(|| Hit::on(Limiter::SPEND)),
    },
    Rule {
        id: "overloaded",
        rung: Rung::Code,
        class: Class::ProviderOverload,
        confidence: Confidence::Exact,
        why: "overloaded_error or status 529: the provider's capacity, nobody's quota.",
        when: |e| Hit::when(e.status == Some(529) || e.kind("overloaded_error")),
    },
    Rule {
        id: "foreign_bedrock",
        rung: Rung::Code,
        class: Class::Bedrock,
        confidence: Confidence::High,
        why: "AWS's own exception or sentence: the limit is the account's in that region.",
        when: |e| {
            let named = e.says(&["throttlingexception"]);
            let said = e.says(&[
                "too many tokens, please wait before trying again",
                "too many requests, please wait before trying again",
            ]);
            if !named && !said {
                return None;
            }
            Some(
                match (
                    e.says(&["too many tokens"]),
                    e.says(&["too many requests", "request rate is too high"]),
                ) {
                    (true, false) => Hit::on(Limiter::TOKENS),
                    (false, true) => Hit::on(Limiter::REQUESTS),
                    _ => Hit::default(),
                },
            )
        },
    },
    Rule {
        id: "foreign_vertex",
        rung: Rung::Code,
        class: Class::Vertex,
        confidence: Confidence::High,
        why: "The quota metric's host is Vertex AI's: the limit is the Google Cloud project's.",
        when: |e| {
            let compact: String = e.words.split_whitespace().collect();
            (compact.contains("quotaexceededforaiplatform.googleapis.com")).then(|| {
                match (
                    compact.contains("input_tokens"),
                    compact.contains("output_tokens"),
                    compact.contains("_requests_"),
                ) {
                    (true, _, _) => Hit::on(Limiter::INPUT_TOKENS),
                    (_, true, _) => Hit::on(Limiter::OUTPUT_TOKENS),
                    (_, _, true) => Hit::on(Limiter::REQUESTS),
                    _ => Hit::default(),
                }
            })
        },
    },
    // ---- the response's header family --------------------------------------------------------
    Rule {
        id: "plan_window_rejected",
        rung: Rung::HeaderFamily,
        class: Class::ClaudePlan,
        confidence: Confidence::Exact,
        why: "The unified headers show a plan window that is used up.",
        when: |e| {
            // While credits pay, a used-up window refuses nothing.
            if !e.limits.unified || !e.refused() || e.limits.overage_in_use {
                return None;
            }
            plan_window(e).map(Hit::on)
        },
    },
    Rule {
        id: "key_bucket_empty_claude_code",
        rung: Rung::HeaderFamily,
        class: Class::ClaudeCodeApiKey,
        confidence: Confidence::Exact,
        why: "API-key rate-limit headers with an empty bucket, and the caller is Claude Code.",
        when: |e| key_bucket(e).filter(|_| is_claude_code(e)).map(Hit::on),
    },
    Rule {
        id: "key_bucket_empty",
        rung: Rung::HeaderFamily,
        class: Class::AnthropicWorkspace,
        confidence: Confidence::Exact,
        why: "API-key rate-limit headers with an empty bucket.",
        when: |e| key_bucket(e).map(Hit::on),
    },
    // ---- words, where the above are silent ---------------------------------------------------
    Rule {
        id: "acceleration_words",
        rung: Rung::Wording,
        class: Class::Burst,
        confidence: Confidence::High,
        why: "The text names the acceleration limit: it quotes numbers like a bucket, but they move every minute.",
        when: |e| {
            e.says(&["maximum usage increase rate", "acceleration limit"])
                .then(|| Hit::on(Limiter::ACCELERATION))
        },
    },
    Rule {
        id: "concurrency_words",
        rung: Rung::Wording,
        class: Class::Burst,
        confidence: Confidence::High,
        why: "The text names the number of concurrent connections.",
        when: |e| {
            e.says(&["number of concurrent connections has exceeded"]).then(|| Hit::on(Limiter::CONCURRENCY))
        },
    },
    Rule {
        id: "spend_words",
        rung: Rung::Wording,
        class: Class::SpendOrCredit,
        confidence: Confidence::High,
        why: "The text names a spend limit or a credit balance; waiting a minute does not clear it.",
        when: |e| {
            e.says(&[
                "credit balance is too low",
                "credit balance too low",
                "you have reached your specified",
                "you have reached your api usage limits",
                "monthly spend limit",
                "individual spend limit",
                "spend limit reached",
                "now draw from your extra usage",
            ])
            .then(|| Hit::on(Limiter::SPEND))
        },
    },
    Rule {
        id: "key_words_claude_code",
        rung: Rung::Wording,
        class: Class::ClaudeCodeApiKey,
        confidence: Confidence::High,
        why: "The text names a per-minute limit of the organisation, and the caller is Claude Code: the key's workspace.",
        when: |e| key_words(e).filter(|_| is_claude_code(e)).map(Hit::on),
    },
    Rule {
        id: "key_words",
        rung: Rung::Wording,
        class: Class::AnthropicWorkspace,
        confidence: Confidence::High,
        why: "The text names a per-minute or daily limit of the organisation behind the key.",
        when: |e| key_words(e).map(Hit::on),
    },
    Rule {
        id: "server_throttle",
        rung: Rung::Wording,
        class: Class::ProviderOverload,
        confidence: Confidence::Medium,
        why: "A server-side throttle: the bare words \"Rate limited\" without any plan headers.",
        when: |e| {
            let bare =
                e.error.message.as_deref().is_some_and(|m| matches!(m, "Rate limited" | "Rate limited."));
            // A plan's own refusal carries plan headers; where all headers were seen and those are
            // missing, its words come from the server's throttle.
            let headless = e.headers_known && !e.limits.trios && e.says(&["your account's rate limit"]);
            Hit::when(!e.limits.unified && (bare || headless || e.says(&["not your usage limit"])))
        },
    },
    Rule {
        id: "entitlement_gate",
        rung: Rung::Wording,
        class: Class::NotALimit,
        confidence: Confidence::High,
        why: "429 whose whole message is \"Error\" and no limit header: the client's shape is refused, not its rate.",
        when: |e| {
            Hit::when(
                e.status == Some(429)
                    && e.error.message.as_deref() == Some("Error")
                    && !e.limits.unified
                    && !e.limits.trios,
            )
        },
    },
    Rule {
        id: "plan_burst",
        rung: Rung::HeaderFamily,
        class: Class::Burst,
        confidence: Confidence::Medium,
        why: "429 although every plan window has room, while own traffic rose steeply.",
        when: |e| Hit::when(e.steep && e.status == Some(429) && e.limits.unified),
    },
    Rule {
        id: "plan_words",
        rung: Rung::Wording,
        class: Class::ClaudePlan,
        confidence: Confidence::High,
        why: "Plan or period wording of a Claude subscription.",
        when: |e| plan_words(e).then(|| Hit { limiter: plan_words_window(e) }),
    },
    Rule {
        id: "burst_steep",
        rung: Rung::HeaderFamily,
        class: Class::Burst,
        confidence: Confidence::Medium,
        why: "429 although no bucket in the headers is empty, while own traffic rose steeply.",
        when: |e| Hit::when(e.steep && e.status == Some(429) && e.limits.trios),
    },
    // ---- what is no limit ---------------------------------------------------------------------
    Rule {
        id: "auth",
        rung: Rung::Code,
        class: Class::NotALimit,
        confidence: Confidence::High,
        why: "The credential or its permission is refused.",
        when: |e| {
            let typed = e.kind("authentication_error") || e.kind("permission_error");
            let status = matches!(e.status, Some(401 | 403 | 407))
                && !e.says(&["limit", "quota", "credit", "balance", "额度"]);
            Hit::when(typed && e.status != Some(429) || status)
        },
    },
    Rule {
        id: "server_error",
        rung: Rung::Code,
        class: Class::NotALimit,
        confidence: Confidence::High,
        why: "A server or gateway error (500, 502, 504): another runbook than quota.",
        when: |e| {
            let quiet = !e.says(&["rate limit", "quota", "throttl", "capacity", "too many"]);
            Hit::when(quiet && (matches!(e.status, Some(500 | 502 | 504 | 520..=526)) || e.kind("api_error")))
        },
    },
    Rule {
        id: "unavailable",
        rung: Rung::Code,
        class: Class::ProviderOverload,
        confidence: Confidence::Medium,
        why: "503: the service is out of capacity, nobody's quota.",
        when: |e| Hit::when(e.status == Some(503)),
    },
    Rule {
        id: "bad_request",
        rung: Rung::Code,
        class: Class::NotALimit,
        confidence: Confidence::Medium,
        why: "The request itself is refused, and the text names no limit of anybody's.",
        when: |e| {
            let client_error = e.status.is_some_and(|s| (400..500).contains(&s) && s != 429);
            let in_stream = e.error.in_stream && !e.kind("rate_limit_error");
            Hit::when((client_error || in_stream) && !names_a_limit(e))
        },
    },
    // ---- the configured route, then nothing ----------------------------------------------------
    Rule {
        id: "route_plan",
        rung: Rung::Route,
        class: Class::ClaudePlan,
        confidence: Confidence::Low,
        why: "A bare 429 on a route that carries Claude Code on a plan.",
        when: |e| Hit::when(bare_429(e) && e.surface == Surface::ClaudeCodePlan),
    },
    Rule {
        id: "route_claude_code_key",
        rung: Rung::Route,
        class: Class::ClaudeCodeApiKey,
        confidence: Confidence::Low,
        why: "A bare 429 on a route that carries Claude Code on an API key.",
        when: |e| Hit::when(bare_429(e) && e.surface == Surface::ClaudeCodeKey),
    },
    Rule {
        id: "route_anthropic",
        rung: Rung::Route,
        class: Class::AnthropicWorkspace,
        confidence: Confidence::Low,
        why: "A bare 429 on a route to the Anthropic API with a key.",
        when: |e| Hit::when(bare_429(e) && e.surface == Surface::AnthropicApi),
    },
    Rule {
        id: "unproved",
        rung: Rung::Nothing,
        class: Class::Unknown,
        confidence: Confidence::Low,
        why: "Nothing in the answer proves an owner.",
        when: |_| Some(Hit::default()),
    },
];

fn is_claude_code(e: &Evidence<'_>) -> bool {
    e.client == Client::ClaudeCode
        || e.surface == Surface::ClaudeCodeKey
        || e.says(&["api error: request rejected (429)"])
}

/// Phrases, not stems: parameters are called `max_tokens` and `thinking.budget_tokens` too.
fn names_a_limit(e: &Evidence<'_>) -> bool {
    e.says(&[
        "rate limit",
        "rate_limit",
        "ratelimit",
        "quota",
        "throttl",
        "too many requests",
        "limit exceeded",
        "limit reached",
        "usage limit",
        "budget has been exceeded",
        "over budget",
        "exceededbudget",
        "credits",
        "credit balance",
        "spend limit",
        "resource_exhausted",
        "额度",
    ])
}

fn bare_429(e: &Evidence<'_>) -> bool {
    e.status == Some(429) && !e.limits.unified
}

/// The plan window that refuses: account-wide windows before scoped ones, because they refuse
/// every model; the provider's claim where no window says "rejected" itself.
fn plan_window(e: &Evidence<'_>) -> Option<Limiter> {
    let exhausted: Vec<&Limiter> = e.exhausted().filter(|l| **l != Limiter::OVERAGE).collect();
    let account_wide = [Limiter::FIVE_HOUR, Limiter::SEVEN_DAY].into_iter().find(|l| exhausted.contains(&l));
    account_wide.or_else(|| match &e.limits.claim {
        Some(claim) if exhausted.contains(&claim) => Some(claim.clone()),
        _ => exhausted.first().map(|l| (*l).clone()),
    })
}

/// The empty bucket of the key family. The combined `tokens` limiter is named only if neither
/// input nor output is the one that is empty.
fn key_bucket(e: &Evidence<'_>) -> Option<Limiter> {
    if !e.limits.trios || !e.refused() {
        return None;
    }
    let order = [
        Limiter::FAST_INPUT,
        Limiter::FAST_OUTPUT,
        Limiter::INPUT_TOKENS,
        Limiter::OUTPUT_TOKENS,
        Limiter::REQUESTS,
        Limiter::TOKENS,
    ];
    order.into_iter().find(|wanted| e.exhausted().any(|l| l == wanted))
}

/// The limiter that the per-minute wordings of API keys name (every form since 2024).
fn key_words(e: &Evidence<'_>) -> Option<Limiter> {
    let organisation = e.says(&["rate limit for your organization", "your organization's rate limit"])
        || (e.says(&["your organization's", "your organization ("]) && e.says(&["rate limit of"]));
    let older = e.says(&["tokens has exceeded your", "requests has exceeded your"]);
    if !organisation && !older {
        return None;
    }
    let limiters = [
        ("input tokens per", Limiter::INPUT_TOKENS),
        ("output tokens per", Limiter::OUTPUT_TOKENS),
        ("output tokens has exceeded", Limiter::OUTPUT_TOKENS),
        ("input tokens has exceeded", Limiter::INPUT_TOKENS),
        ("requests per", Limiter::REQUESTS),
        ("number of requests", Limiter::REQUESTS),
        ("tokens", Limiter::TOKENS),
    ];
    limiters.into_iter().find(|(words, _)| e.says(&[words])).map(|(_, limiter)| limiter)
}

fn plan_words(e: &Evidence<'_>) -> bool {
    e.says(&[
        "claude ai usage limit reached",
        "you've hit your limit",
        "you've hit your session limit",
        "you've hit your weekly limit",
        "you've hit your opus limit",
        "weekly limit reached",
        "5-hour limit reached",
        "session limit reached",
        "opus limit reached",
        "your account's rate limit",
    ])
}

fn plan_words_window(e: &Evidence<'_>) -> Option<Limiter> {
    if e.says(&["opus weekly limit", "opus limit"]) {
        return Some(Limiter::named("seven_day_opus"));
    }
    if e.says(&["weekly limit"]) {
        return Some(Limiter::SEVEN_DAY);
    }
    e.says(&["session limit", "5-hour limit"]).then_some(Limiter::FIVE_HOUR)
}
