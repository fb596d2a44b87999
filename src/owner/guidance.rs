//! What to do first, what never to do, what comes next: the operator's rules, in one table.
//!
//! Alerts, `explain` and the runbooks print from here, so that they cannot disagree.

use super::Class;
use crate::limit::Limiter;
use crate::route::OwnerKind;

/// The stop rule. It stands in every alert.
pub const STOP_RULE: &str = "Until the owner is confirmed, change no key, plan, provider or model.";

/// A rule that operators live by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorRule {
    /// Its name.
    pub id: &'static str,
    /// The rule.
    pub text: &'static str,
    /// The rule in Korean, for the Korean runbooks.
    pub ko: &'static str,
    /// The kinds of owner it is for; empty means all.
    pub kinds: &'static [OwnerKind],
}

/// Every rule that operators live by, in one place: runbooks, packets and pages print from here.
pub const RULES: [OperatorRule; 8] = [
    OperatorRule {
        id: "stop",
        text: STOP_RULE,
        ko: "소유자가 확인될 때까지 키, 플랜, 프로바이더, 모델을 바꾸지 마세요.",
        kinds: &[],
    },
    OperatorRule {
        id: "minute_bucket",
        text: "A monthly allowance with room left says nothing about a rolling minute bucket: long contexts hit input tokens, long answers output tokens, many small calls requests, a steep rise the acceleration limit.",
        ko: "월간 한도에 여유가 있어도 분 단위 버킷에 대해서는 아무것도 말해 주지 않습니다. 긴 컨텍스트는 입력 토큰, 긴 답변은 출력 토큰, 잦은 작은 호출은 요청 수, 가파른 증가는 가속 한도에 걸립니다.",
        kinds: &[OwnerKind::AnthropicWorkspace, OwnerKind::ClaudeCodeWorkspace, OwnerKind::TrafficShape],
    },
    OperatorRule {
        id: "one_change",
        text: "Change one thing at a time: jittered backoff, fewer workers, less output, a queue.",
        ko: "한 번에 하나만 바꾸세요: 지터를 넣은 백오프, 더 적은 워커, 더 짧은 출력, 큐.",
        kinds: &[],
    },
    OperatorRule {
        id: "next_request",
        text: "The next request is smaller and slower: one retry on the same route, with less concurrency, fewer output tokens, split work, the cache.",
        ko: "다음 요청은 더 작고 더 느리게 보내세요: 같은 경로에서 한 번만 재시도하고, 동시성과 출력 토큰을 줄이고, 작업을 나누고, 캐시를 쓰세요.",
        kinds: &[],
    },
    OperatorRule {
        id: "claude_code_key",
        text: "If ANTHROPIC_API_KEY is set, the limit may be the key's workspace and not the subscription: look at the active route first.",
        ko: "ANTHROPIC_API_KEY가 설정돼 있으면 한도는 구독이 아니라 그 키의 워크스페이스 것일 수 있습니다. 활성 경로부터 확인하세요.",
        kinds: &[OwnerKind::ClaudeCodeWorkspace, OwnerKind::ClaudePlan],
    },
    OperatorRule {
        id: "console",
        text: "Behind Bedrock, Vertex AI or a gateway the Anthropic Console may not be the owner at all.",
        ko: "Bedrock, Vertex AI, 게이트웨이 뒤에서는 Anthropic Console이 아예 소유자가 아닐 수 있습니다.",
        kinds: &[OwnerKind::AwsAccount, OwnerKind::GcpProject, OwnerKind::GatewayTenant],
    },
    OperatorRule {
        id: "status_page",
        text: "A green status page proves nothing: keep looking at headers, /status, the provider's dashboard and the gateway's logs. 500 and 529 are not quota.",
        ko: "상태 페이지가 녹색이라고 증명되는 것은 없습니다. 헤더, /status, 프로바이더 대시보드, 게이트웨이 로그를 계속 보세요. 500과 529는 할당량이 아닙니다.",
        kinds: &[],
    },
    OperatorRule {
        id: "verify",
        text: "Verify on the same route, credential, model and workload.",
        ko: "같은 경로, 같은 자격 증명, 같은 모델, 같은 작업으로 검증하세요.",
        kinds: &[],
    },
];

/// The rules for limits of one kind of owner.
pub fn rules_for(kind: OwnerKind) -> impl Iterator<Item = &'static OperatorRule> {
    RULES.iter().filter(move |rule| rule.kinds.is_empty() || rule.kinds.contains(&kind))
}

/// Where limits of a kind of owner are seen and raised; for people, in a browser.
pub const fn quota_page(kind: OwnerKind) -> Option<&'static str> {
    match kind {
        OwnerKind::AnthropicWorkspace | OwnerKind::ClaudeCodeWorkspace => {
            Some("https://platform.claude.com/settings/limits")
        }
        OwnerKind::ClaudePlan => Some("https://claude.ai/settings/usage"),
        OwnerKind::AwsAccount => {
            Some("https://console.aws.amazon.com/servicequotas/home/services/bedrock/quotas")
        }
        OwnerKind::GcpProject => Some("https://console.cloud.google.com/iam-admin/quotas"),
        _ => None,
    }
}

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

/// The guidance for a verdict. Money is told by the limiter too: whoever's it is, no waiting brings it back.
pub fn guidance(class: Class, kind: OwnerKind, limiter: Option<&Limiter>) -> Guidance {
    match (class, limiter) {
        (Class::NotALimit, _) => NOT_A_LIMIT,
        (Class::SpendOrCredit, _) => SPEND,
        (_, Some(limiter)) => of_limiter(kind, limiter),
        (_, None) => of_kind(kind),
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
            first_move: "Wait for retry-after, then send a smaller request.",
            proof: "HTTP 429 together with the anthropic-ratelimit headers of the bucket that is empty.",
            next_step: "Retry one smaller request on the same route.",
        },
    ),
    (
        OwnerKind::ClaudeCodeWorkspace,
        Guidance {
            runbook: "claude_code_workspace",
            first_move: "Run /status in Claude Code: is ANTHROPIC_API_KEY set? Then the limit is that key's workspace, not the subscription.",
            proof: "Claude Code's /status together with the API's logs.",
            next_step: "Lower Claude Code's traffic on that key, or look into the Console.",
        },
    ),
    (
        OwnerKind::ClaudePlan,
        Guidance {
            runbook: "claude_plan",
            first_move: "Do not start from API headers. Run /usage in Claude Code and read which plan window is full and when it resets.",
            proof: "Plan or period wording, or the anthropic-ratelimit-unified headers.",
            next_step: "Follow the plan-limit guide: wait for the window's reset or use extra usage.",
        },
    ),
    (
        OwnerKind::AwsAccount,
        Guidance {
            runbook: "aws_account",
            first_move: "Open Service Quotas for Amazon Bedrock in this account and region.",
            proof: "The provider's 429 or ThrottlingException.",
            next_step: "Change the quota or the region.",
        },
    ),
    (
        OwnerKind::GcpProject,
        Guidance {
            runbook: "gcp_project",
            first_move: "Open IAM & Admin, Quotas, for this project and location.",
            proof: "The provider's 429 with its quota metric.",
            next_step: "Change the quota or the location.",
        },
    ),
    (
        OwnerKind::GatewayTenant,
        Guidance {
            runbook: "gateway_tenant",
            first_move: "Read the gateway's logs: did the tenant policy refuse, or did it pass on an upstream limit?",
            proof: "The tenant policy or the upstream policy that was hit.",
            next_step: "Adjust the gateway's limit, or contact its operator.",
        },
    ),
    (
        OwnerKind::TrafficShape,
        Guidance {
            runbook: "traffic_shape",
            first_move: "Queue the calls and ramp slowly. The buckets are not empty, the rise is too steep.",
            proof: "A spike of requests or concurrency while the buckets are not empty.",
            next_step: "Verify on the same route.",
        },
    ),
    (
        OwnerKind::Provider,
        Guidance {
            runbook: "provider",
            first_move: "This is not quota. Look at the provider's status page and retry slowly with jitter.",
            proof: "Status 500, 503 or 529, or an overloaded_error.",
            next_step: "Watch the provider's status page; raise no quota for this.",
        },
    ),
    (
        OwnerKind::OtherProvider,
        Guidance {
            runbook: "other_provider",
            first_move: "Open that provider's own limits page. Wait for retry-after, then send a smaller request.",
            proof: "The provider's own limit headers or error code.",
            next_step: "Look at that provider's limits page.",
        },
    ),
];

const UNKNOWN: Guidance = Guidance {
    runbook: "unknown",
    first_move: "Prove the owner first: who answered (provider, gateway or plan), with which headers and which words?",
    proof: "A second failure on the same route with its headers kept.",
    next_step: "Send one smaller request on the same route and read its headers.",
};

const SPEND: Guidance = Guidance {
    runbook: "spend",
    first_move: "Stop retrying: money does not refill with time. Open the budget that is spent and its owner.",
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
