//! The response's header family, with its exhausted bucket.

use super::words::CLAUDE_CODE;
use super::{IS_429, PROVIDER_ANSWERED, REFUSED, rule};
use crate::observation::Mark;
use crate::owner::cond::{Cond, Fact, Pick};
use crate::owner::verdict::{Class, Confidence, Rule, Rung};
use crate::route::Surface;
use Cond::{All, Any, Bears, Is, Not, On, Says};

pub(super) static RULES: &[Rule] = &[
    rule(
        "gateway_window",
        Rung::HeaderFamily,
        Class::GatewayTenant,
        Confidence::Medium,
        "The unified headers of a configured gateway show its own caps: it strips the provider's.",
        All(&[REFUSED, On(&[Surface::Gateway]), Is(Fact::WindowUsedUp), Not(&Bears(Mark::Anthropic))]),
        Pick::Window,
    ),
    rule(
        "plan_window_rejected",
        Rung::HeaderFamily,
        Class::ClaudePlan,
        Confidence::Exact,
        "The unified headers show a plan window that is used up. While credits pay, such a window refuses nothing.",
        All(&[REFUSED, Is(Fact::WindowUsedUp), Not(&Is(Fact::OverageInUse))]),
        Pick::Window,
    ),
    rule(
        "acceleration_words",
        Rung::Wording,
        Class::Burst,
        Confidence::High,
        "The text names the acceleration limit: it quotes numbers like a bucket, but they move every minute. Stands above its rung, because a bucket may be empty beside it.",
        Says(&[
            "maximum usage increase rate",
            "request rate increased too quickly",
            "acceleration limit",
            "scale up your input tokens usage more gradually",
        ]),
        Pick::Is("acceleration"),
    ),
    rule(
        "concurrency_words",
        Rung::Wording,
        Class::Burst,
        Confidence::High,
        "The text names the number of concurrent connections, which no header counts.",
        Says(&[
            "number of concurrent connections",
            "concurrent connections has exceeded",
            "exceed your concurrent connections",
        ]),
        Pick::Is("concurrency"),
    ),
    rule(
        "key_bucket_empty_claude_code",
        Rung::HeaderFamily,
        Class::ClaudeCodeApiKey,
        Confidence::Exact,
        "API-key rate-limit headers with an empty bucket, and the caller is Claude Code.",
        All(&[REFUSED, Is(Fact::BucketEmpty), CLAUDE_CODE]),
        Pick::Bucket,
    ),
    rule(
        "key_bucket_empty",
        Rung::HeaderFamily,
        Class::AnthropicWorkspace,
        Confidence::Exact,
        "API-key rate-limit headers with an empty bucket.",
        All(&[REFUSED, Is(Fact::BucketEmpty)]),
        Pick::Bucket,
    ),
    rule(
        "plain_limiter_empty",
        Rung::HeaderFamily,
        Class::GatewayTenant,
        Confidence::Medium,
        "Plain ratelimit headers with nothing left, which no model provider writes: a gateway's own limiter.",
        All(&[
            IS_429,
            Bears(Mark::PlainEmpty),
            Not(&Any(&[PROVIDER_ANSWERED, Bears(Mark::OpenAiLimits), Bears(Mark::Azure), Bears(Mark::Aws)])),
        ]),
        Pick::Nothing,
    ),
    rule(
        "openai_bucket_empty",
        Rung::HeaderFamily,
        Class::OtherProvider,
        Confidence::Medium,
        "Limit headers of the OpenAI family with an empty bucket, and no gateway's mark beside them.",
        All(&[
            IS_429,
            Is(Fact::OpenAiBucketEmpty),
            Not(&Any(&[
                On(&[Surface::Gateway]),
                Bears(Mark::Litellm),
                Bears(Mark::Kong),
                Bears(Mark::Anthropic),
            ])),
        ]),
        Pick::Bucket,
    ),
];
