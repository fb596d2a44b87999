//! From a failure to "whose limit was this?", with the proof and how sure we are.
//!
//! The rules are a table ([`super::RULES`]), tried from top to bottom; the first that holds gives
//! the verdict. The table is ordered by strength of proof, and ends in `unknown`: no rule guesses.

use super::rules::RULES;
use crate::dialects::error_text::plain;
use crate::limit::Limiter;
use crate::observation::{AuthKind, Client, ErrorBody, Limits};
use crate::route::{OwnerKind, Surface};

/// The answer to "whose limit was this?" (DESIGN's table of names, column "verdict").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The API key's workspace or organisation.
    AnthropicWorkspace,
    /// The workspace of the key Claude Code uses.
    ClaudeCodeApiKey,
    /// A Claude subscription's window.
    ClaudePlan,
    /// An AWS account and region.
    Bedrock,
    /// A Google Cloud project and location.
    Vertex,
    /// A gateway's tenant.
    GatewayTenant,
    /// The traffic's own shape.
    Burst,
    /// The provider's capacity: nobody's quota.
    ProviderOverload,
    /// Money.
    SpendOrCredit,
    /// Another provider's limit.
    OtherProvider,
    /// No limit at all.
    NotALimit,
    /// Not proved.
    Unknown,
}

impl Class {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AnthropicWorkspace => "anthropic_workspace",
            Self::ClaudeCodeApiKey => "claude_code_api_key",
            Self::ClaudePlan => "claude_plan",
            Self::Bedrock => "bedrock",
            Self::Vertex => "vertex",
            Self::GatewayTenant => "gateway_tenant",
            Self::Burst => "burst",
            Self::ProviderOverload => "provider_overload",
            Self::SpendOrCredit => "spend_or_credit",
            Self::OtherProvider => "other_provider",
            Self::NotALimit => "not_a_limit",
            Self::Unknown => "unknown",
        }
    }

    /// True if somebody's limit refused the call, proved or not yet (so that `PlimsollThrottled`
    /// speaks of it).
    pub const fn is_limit(self) -> bool {
        !matches!(self, Self::ProviderOverload | Self::NotALimit)
    }

    /// The kind of owner; money is held by whoever holds the surface's quota.
    pub const fn owner_kind(self, surface: Surface) -> OwnerKind {
        match self {
            Self::AnthropicWorkspace => OwnerKind::AnthropicWorkspace,
            Self::ClaudeCodeApiKey => OwnerKind::ClaudeCodeWorkspace,
            Self::ClaudePlan => OwnerKind::ClaudePlan,
            Self::Bedrock => OwnerKind::AwsAccount,
            Self::Vertex => OwnerKind::GcpProject,
            Self::GatewayTenant => OwnerKind::GatewayTenant,
            Self::Burst => OwnerKind::TrafficShape,
            Self::ProviderOverload => OwnerKind::Provider,
            Self::OtherProvider => OwnerKind::OtherProvider,
            Self::SpendOrCredit => surface.owner_kind(),
            Self::NotALimit | Self::Unknown => OwnerKind::Unknown,
        }
    }
}

/// What kind of proof a rule rests on, strongest first (DESIGN, "Owner and verdict").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Who answered says so.
    AnsweredBy,
    /// A status, code or type that only one party emits.
    Code,
    /// The response's header family, with its exhausted bucket.
    HeaderFamily,
    /// The wording.
    Wording,
    /// The configured route.
    Route,
    /// Nothing.
    Nothing,
}

impl Rung {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AnsweredBy => "answered_by",
            Self::Code => "code",
            Self::HeaderFamily => "header_family",
            Self::Wording => "wording",
            Self::Route => "route",
            Self::Nothing => "none",
        }
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// Likely, but other readings are as good.
    Low,
    /// More likely than not.
    Medium,
    /// Only one reading known.
    High,
    /// The answering party said so.
    Exact,
}

impl Confidence {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Exact => "exact",
        }
    }
}

/// What the request side tells, as free text where it comes from a paste.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints<'a> {
    /// Host that was called.
    pub host: &'a str,
    /// Path that was called.
    pub path: &'a str,
    /// The program that called.
    pub user_agent: &'a str,
    /// How it authenticated.
    pub auth: AuthKind,
}

/// Everything a rule may look at.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// HTTP status, where known.
    pub status: Option<u16>,
    /// What the headers say.
    pub limits: &'a Limits,
    /// What the body says.
    pub error: &'a ErrorBody,
    /// Message and body as [`plain`] text.
    pub words: String,
    /// The surface, from the route or from what the request looks like.
    pub surface: Surface,
    /// The calling program.
    pub client: Client,
    /// Path that was called.
    pub path: &'a str,
    /// Own traffic has just risen steeply.
    pub steep: bool,
    /// The headers were seen whole, so that an absent one says something (a paste seldom has any).
    pub headers_known: bool,
    /// The upstream could not be reached, or broke off before it answered.
    pub no_response: bool,
}

impl<'a> Evidence<'a> {
    /// Collects the evidence of one failure.
    pub fn new(status: Option<u16>, limits: &'a Limits, error: &'a ErrorBody, surface: Surface) -> Self {
        let mut words = plain(error.message.as_deref().unwrap_or_default());
        if !error.text.is_empty() {
            words.push_str(" | ");
            words.push_str(&plain(&error.text));
        }
        Self {
            status,
            limits,
            error,
            words,
            surface,
            client: Client::Unknown,
            path: "",
            steep: false,
            headers_known: false,
            no_response: false,
        }
    }

    /// True if any of these words stands in message or body.
    pub fn says(&self, any: &[&str]) -> bool {
        any.iter().any(|words| self.words.contains(words))
    }

    /// True if the error's type is this.
    pub fn kind(&self, kind: &str) -> bool {
        self.error.kind.as_deref() == Some(kind)
    }

    /// True if the error's code is this.
    pub fn code(&self, code: &str) -> bool {
        self.error.code.as_deref() == Some(code)
    }

    /// True for a status of this class (4 for 4xx).
    pub fn status_class(&self, class: u16) -> bool {
        self.status.is_some_and(|s| s / 100 == class)
    }

    /// True if this is a refusal of the rate kind: 429, or said so inside a stream, or no status is
    /// known. A 500 that carries limit headers is nobody's quota.
    pub fn refused(&self) -> bool {
        match self.status {
            None | Some(429) => true,
            Some(status) => status < 400 && self.error.in_stream && self.kind("rate_limit_error"),
        }
    }

    /// The limiters that the headers show as exhausted.
    pub fn exhausted(&self) -> impl Iterator<Item = &Limiter> {
        self.limits.readings.iter().filter(|r| r.is_exhausted()).map(|r| &r.limiter)
    }
}

/// What a rule found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The limiter, where the evidence names one.
    pub limiter: Option<Limiter>,
}

impl Hit {
    /// A hit that names a limiter.
    pub const fn on(limiter: Limiter) -> Self {
        Self { limiter: Some(limiter) }
    }

    /// A hit if `holds`, naming no limiter.
    pub fn when(holds: bool) -> Option<Self> {
        holds.then(Self::default)
    }
}

/// One row of the table.
pub struct Rule {
    /// Name, as it stands in docs and answers.
    pub id: &'static str,
    /// What kind of proof it rests on.
    pub rung: Rung,
    /// The verdict it gives.
    pub class: Class,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why, in words for people.
    pub why: &'static str,
    /// Whether it holds, and for which limiter.
    pub when: fn(&Evidence<'_>) -> Option<Hit>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rule({})", self.id)
    }
}

/// A verdict and what it rests on.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whose limit.
    pub class: Class,
    /// The kind of owner.
    pub owner_kind: OwnerKind,
    /// The surface, corrected by what the answer proved.
    pub surface: Surface,
    /// Which limiter, where proved.
    pub limiter: Option<Limiter>,
    /// The rule that proved it.
    pub rule: &'static Rule,
}

/// Judges one failure. Total: the last rule always holds.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let (rule, hit) = RULES
        .iter()
        .find_map(|rule| (rule.when)(evidence).map(|hit| (rule, hit)))
        .unwrap_or((&RULES[RULES.len() - 1], Hit::default()));
    let surface = surface_of(rule.class, evidence);
    Verdict {
        class: rule.class,
        owner_kind: rule.class.owner_kind(surface),
        surface,
        limiter: hit.limiter,
        rule,
    }
}

/// The surface as the verdict proves it, else as the request suggested it.
fn surface_of_class(class: Class) -> Option<Surface> {
    match class {
        Class::ClaudeCodeApiKey => Some(Surface::ClaudeCodeKey),
        Class::ClaudePlan => Some(Surface::ClaudeCodePlan),
        Class::Bedrock => Some(Surface::Bedrock),
        Class::Vertex => Some(Surface::Vertex),
        Class::GatewayTenant => Some(Surface::Gateway),
        Class::AnthropicWorkspace => Some(Surface::AnthropicApi),
        _ => None,
    }
}

/// The surface of a judged failure.
pub fn surface_of(class: Class, evidence: &Evidence<'_>) -> Surface {
    surface_of_class(class).unwrap_or(if evidence.limits.unified {
        Surface::ClaudeCodePlan
    } else {
        evidence.surface
    })
}
