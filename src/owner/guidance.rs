//! What to do first, what never to do, what comes next: the operator's rules, in one table.
//!
//! Alerts, `explain` and the runbooks print from here, so that they cannot disagree.

use super::Class;
use crate::limit::Limiter;
use crate::route::OwnerKind;

/// The stop rule. It stands in every alert.
pub const STOP_RULE: &str = "Until the owner is confirmed, change no key, plan, provider or model: a changed route destroys the evidence.";

/// Where the runbooks stand when no `external_url` is configured.
pub const PUBLIC_RUNBOOKS: &str = "https://github.com/plimsoll/plimsoll/blob/main/runbooks";

/// What an operator is told about one kind of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guidance {
    /// File stem of the runbook.
    pub runbook: &'static str,
    /// The first move.
    pub first_move: &'static str,
    /// What would prove it.
    pub proof: &'static str,
    /// The step after the first move.
    pub next_step: &'static str,
}

/// The guidance for a verdict.
pub fn guidance(class: Class, kind: OwnerKind) -> Guidance {
    match class {
        Class::SpendOrCredit => SPEND,
        Class::NotALimit => NOT_A_LIMIT,
        _ => of_kind(kind),
    }
}

/// The guidance for a limiter of an owner: money is told apart from what refills.
pub fn of_limiter(kind: OwnerKind, limiter: &Limiter) -> Guidance {
    if *limiter == Limiter::SPEND { SPEND } else { of_kind(kind) }
}

/// The guidance for an owner's buckets.
pub fn of_kind(kind: OwnerKind) -> Guidance {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(UNKNOWN, |(_, guidance)| *guidance)
}

const KINDS: [(OwnerKind, Guidance); 9] = [
    (
        OwnerKind::AnthropicWorkspace,
        Guidance {
            runbook: "anthropic_workspace",
            first_move: "Wait for retry-after, then make the request smaller.",
            proof: "HTTP 429 together with the anthropic-ratelimit headers of the bucket that is empty.",
            next_step: "Retry one smaller request on the same route.",
        },
    ),
    (
        OwnerKind::ClaudeCodeWorkspace,
        Guidance {
            runbook: "claude_code_workspace",
            first_move: "Check /status and the credential route: is ANTHROPIC_API_KEY set?",
            proof: "Claude Code's /status together with the API's logs.",
            next_step: "Lower Claude Code's traffic on that key, or look into the Console.",
        },
    ),
    (
        OwnerKind::ClaudePlan,
        Guidance {
            runbook: "claude_plan",
            first_move: "Look at the plan's windows (/usage); do not start from API-key headers.",
            proof: "Plan or period wording, or the anthropic-ratelimit-unified headers.",
            next_step: "Follow the plan-limit guide: wait for the window's reset or use extra usage.",
        },
    ),
    (
        OwnerKind::AwsAccount,
        Guidance {
            runbook: "aws_account",
            first_move: "Open the provider's quota page for this account and region.",
            proof: "The provider's 429 or ThrottlingException.",
            next_step: "Change the quota or the region.",
        },
    ),
    (
        OwnerKind::GcpProject,
        Guidance {
            runbook: "gcp_project",
            first_move: "Open the provider's quota page for this project and location.",
            proof: "The provider's 429 with its quota metric.",
            next_step: "Change the quota or the location.",
        },
    ),
    (
        OwnerKind::GatewayTenant,
        Guidance {
            runbook: "gateway_tenant",
            first_move: "Read the gateway's logs.",
            proof: "The tenant policy or the upstream policy that was hit.",
            next_step: "Adjust the gateway's limit, or contact its operator.",
        },
    ),
    (
        OwnerKind::TrafficShape,
        Guidance {
            runbook: "traffic_shape",
            first_move: "Queue the requests and ramp up slowly.",
            proof: "A spike of requests or concurrency while the buckets are not empty.",
            next_step: "Verify on the same route.",
        },
    ),
    (
        OwnerKind::Provider,
        Guidance {
            runbook: "provider",
            first_move: "Wait and retry with jittered backoff: this is nobody's quota.",
            proof: "Status 500, 503 or 529, or an overloaded_error.",
            next_step: "Watch the provider's status page; raise no quota for this.",
        },
    ),
    (
        OwnerKind::OtherProvider,
        Guidance {
            runbook: "other_provider",
            first_move: "Wait for the stated time, then make the request smaller.",
            proof: "The provider's own limit headers or error code.",
            next_step: "Look at that provider's limits page.",
        },
    ),
];

const UNKNOWN: Guidance = Guidance {
    runbook: "unknown",
    first_move: "Do not change the route. Record the exact message, request id and headers.",
    proof: "A second failure on the same route with its headers kept.",
    next_step: "Send one smaller request on the same route and read its headers.",
};

const SPEND: Guidance = Guidance {
    runbook: "spend",
    first_move: "Look at the spend limit or the credit balance of the account that pays for this route.",
    proof: "The spend wording or error code; waiting a minute does not clear it.",
    next_step: "Raise the spend limit or add credits, with the person who holds the budget.",
};

const NOT_A_LIMIT: Guidance = Guidance {
    runbook: "unknown",
    first_move: "Read the error itself: no rate limit is involved.",
    proof: "The error's type and status.",
    next_step: "Fix the request, the credential or the server error; leave quotas alone.",
};

/// The URL of a runbook: below `external_url` where one is configured, else the public one.
pub fn runbook_url(external_url: Option<&str>, runbook: &str) -> String {
    match external_url {
        Some(base) => format!("{}/runbooks/{runbook}", base.trim_end_matches('/')),
        None => format!("{PUBLIC_RUNBOOKS}/{runbook}.md"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_owner_has_its_own_guidance() {
        let mut runbooks: Vec<&str> = OwnerKind::ALL.into_iter().map(|kind| of_kind(kind).runbook).collect();
        runbooks.sort_unstable();
        runbooks.dedup();
        assert_eq!(runbooks.len(), OwnerKind::ALL.len());
    }
}
