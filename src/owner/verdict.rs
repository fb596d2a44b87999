//! From a failure to "whose limit was this?", with the proof and how sure we are.
//!
//! The rules are a table ([`super::rules`]), tried from top to bottom; the first that holds gives
//! the verdict. The table is ordered by strength of proof, and ends in `unknown`: no rule guesses.

use super::cond::{Cond, Fact, Hit, Pick, Said, TABLE};
use crate::dialects::described;
use crate::dialects::error_text::{is_litellms, plain_into};
use crate::dialects::stated::{self, Stated};
use crate::limit::{Level, Limiter, Reading};
use crate::observation::{Client, ErrorBody, Found, Limits, Mark, Shape};
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

    /// Whose limit, in words for people.
    pub const fn whose(self) -> &'static str {
        match self {
            Self::AnthropicWorkspace => "the Anthropic workspace or organisation behind the API key",
            Self::ClaudeCodeApiKey => "the workspace of the API key that Claude Code uses",
            Self::ClaudePlan => "the Claude plan that Claude Code is signed in with",
            Self::Bedrock => "the AWS account in that region (Amazon Bedrock)",
            Self::Vertex => "the Google Cloud project in that location (Vertex AI)",
            Self::GatewayTenant => "your tenant at the gateway",
            Self::Burst => "the shape of your traffic: no bucket is empty",
            Self::ProviderOverload => "nobody's: the provider is out of capacity",
            Self::SpendOrCredit => "whoever pays: a spend limit or a credit balance",
            Self::OtherProvider => "your account at another provider",
            Self::NotALimit => "nobody's: this is no limit",
            Self::Unknown => "not proved",
        }
    }

    /// Verdicts that name the same party are no contradiction of each other.
    pub(super) const fn party(self) -> &'static str {
        match self {
            Self::AnthropicWorkspace | Self::ClaudeCodeApiKey => "workspace",
            other => other.as_str(),
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

/// Everything a rule may look at.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// HTTP status, where known.
    pub status: Option<u16>,
    /// What the headers say.
    pub limits: &'a Limits,
    /// What the body says.
    pub error: &'a ErrorBody,
    /// Message and body as plain text.
    pub words: String,
    /// Which phrases of the table stand in it.
    pub said: Said,
    /// The error says that it is no limit, so that its words may be a caller's: they prove none.
    pub quotes: bool,
    /// How such an error's message begins, as plain text.
    pub opening: String,
    /// Type and code stand in the error's own fields.
    pub own: bool,
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
        Self::with(status, limits, error, surface, false)
    }

    /// Collects the evidence of something pasted: people paste more than the answer itself.
    pub fn pasted(status: Option<u16>, limits: &'a Limits, error: &'a ErrorBody, surface: Surface) -> Self {
        Self::with(status, limits, error, surface, true)
    }

    fn with(
        status: Option<u16>,
        limits: &'a Limits,
        error: &'a ErrorBody,
        surface: Surface,
        pasted: bool,
    ) -> Self {
        let structured = error.text.trim_start().starts_with(['{', '[']);
        // A sentence around an answer, as tools print it, is no answer's: what stands in it was put there by people.
        let loose = pasted && !structured && status != Some(404);
        let quotes = quotes(status, limits, error, loose);
        let mut words = String::new();
        // A refused request may be echoed in its error: there only the error's own message speaks.
        let echoes = status.is_some_and(|s| (400..500).contains(&s) && s != 429);
        let body = if echoes && structured && !pasted { "" } else { error.text.as_str() };
        // What stands in the body as it is need not be read twice.
        if let Some(message) = error.message.as_deref().filter(|message| !body.contains(*message)) {
            plain_into(message, &mut words);
        }
        if !body.is_empty() {
            words.push_str(" | ");
            plain_into(body, &mut words);
        }
        let said = if words.is_empty() { Said::default() } else { TABLE.said(&words) };
        Self {
            status,
            limits,
            error,
            words,
            said,
            quotes,
            opening: if quotes && (loose || error.found != Found::Inside) {
                opening(error)
            } else {
                String::new()
            },
            own: loose || error.found == Found::Fields,
            surface,
            client: Client::Unknown,
            path: "",
            steep: false,
            headers_known: false,
            no_response: false,
        }
    }

    /// What the numbers and the head as a whole say.
    pub fn fact(&self, fact: Fact) -> bool {
        let (limits, error) = (self.limits, self.error);
        match fact {
            Fact::Success => self.status.is_some_and(|s| s < 400) && !error.in_stream && !error.envelope,
            Fact::NoResponse => self.no_response,
            Fact::StatusUnknown => self.status.is_none(),
            Fact::Error => error.envelope,
            Fact::Refused => self.refused(),
            Fact::InStream => error.in_stream,
            Fact::PlanHeaders => limits.unified,
            Fact::KeyHeaders => limits.trios,
            Fact::WindowUsedUp => plan_window(self).is_some() || (limits.unified && limits.plan_rejected),
            Fact::BucketEmpty => limits.trios && self.exhausted().any(is_minute_bucket),
            Fact::BucketTight => limits.trios && self.tightest().is_some_and(|(_, left)| left < 0.5),
            Fact::OpenAiBucketEmpty => {
                limits.marks.has(Mark::OpenAiLimits) && self.exhausted().next().is_some()
            }
            Fact::OverageInUse => limits.overage_in_use,
            Fact::HeadersSeen => self.headers_known,
            Fact::SteepRise => self.steep,
            Fact::Quotes => self.quotes,
            Fact::FromAnthropic => self.is_anthropics(),
            Fact::FromAws => self.is_aws() || self.is_anthropics(),
            Fact::FromGoogle => error.shape == Shape::Google || self.is_anthropics(),
            Fact::UpstreamAnswered => {
                limits.partial && limits.marks.has(Mark::GatewaySaysUpstream) && error.text.is_empty()
            }
            Fact::FromProvider => self.is_providers(),
            Fact::FromModelApi => error.shape == Shape::Model || self.is_providers(),
            Fact::FrameworkShape => error.shape == Shape::Framework,
            Fact::JsonRpc => error.shape == Shape::JsonRpc,
            Fact::ServerTool => error.shape == Shape::ServerTool,
        }
    }

    /// Anthropic answered: its headers, its request id, or the form of its errors. On its own, a part of
    /// a text that was pasted is enough: people cut.
    fn is_anthropics(&self) -> bool {
        let (limits, error) = (self.limits, self.error);
        limits.trios
            || limits.unified
            || limits.marks.has(Mark::Anthropic)
            || limits.account.organization.is_some()
            || error.shape == Shape::Anthropic
            || (self.own && error.found == Found::Text && error.kind.is_some())
    }

    /// An AWS service answered, and not the gateway before it.
    fn is_aws(&self) -> bool {
        let marks = self.limits.marks;
        let named = |name: &str| name.len() > 9 && name.to_ascii_lowercase().ends_with("exception");
        let gateways = self.limits.exception.as_deref().is_some_and(|e| GATEWAY_EXCEPTIONS.contains(&e));
        !gateways
            && ((marks.has(Mark::Aws) && !marks.has(Mark::ApiGateway))
                || self.limits.exception.is_some()
                || (self.own && self.error.kind.as_deref().is_some_and(named)))
    }

    /// A provider answered, whichever.
    fn is_providers(&self) -> bool {
        let marks = self.limits.marks;
        [Mark::OpenAi, Mark::OpenAiLimits, Mark::Azure].into_iter().any(|mark| marks.has(mark))
            || self.error.shape == Shape::Google
            || self.is_anthropics()
            || self.is_aws()
    }

    /// True if this is a refusal of the rate kind: 429, or said so inside a stream, or no status is
    /// known. A 500 that carries limit headers is nobody's quota.
    pub fn refused(&self) -> bool {
        match self.status {
            None | Some(429) => true,
            Some(status) => status < 400 && self.error.in_stream,
        }
    }

    /// The limiters that the headers show as exhausted.
    pub fn exhausted(&self) -> impl Iterator<Item = &Limiter> {
        self.limits.readings.iter().filter(|r| r.is_exhausted()).map(|r| &r.limiter)
    }

    /// The counted bucket with the smallest part left, and that part.
    fn tightest(&self) -> Option<(&Limiter, f64)> {
        let left = |reading: &'a Reading| match reading.level {
            Some(Level::Counted { limit, remaining })
                if limit.get() > 0 && is_minute_bucket(&reading.limiter) =>
            {
                Some((&reading.limiter, remaining.get() as f64 / limit.get() as f64))
            }
            _ => None,
        };
        self.limits.readings.iter().filter_map(left).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

/// Exceptions of API Gateway and of Lambda, which limit their own callers.
pub(super) const GATEWAY_EXCEPTIONS: [&str; 3] =
    ["toomanyrequestsexception", "limitexceededexception", "limitexceedederror"];

/// True if an error is none of a limit, by what it says of itself or by its status: then its text may be a
/// caller's own words, quoted. Of a `loose` text (a paste) only a whole error in it speaks for itself.
fn quotes(status: Option<u16>, limits: &Limits, error: &ErrorBody, loose: bool) -> bool {
    let exception = limits.exception.as_deref();
    let own = loose || error.found == Found::Fields;
    match status {
        Some(429 | 402) => false,
        _ if described::is_no_limit(error, exception, own) => !(loose && error.found == Found::Text),
        None | Some(503 | 529) => false,
        Some(status) if status < 400 => false,
        Some(_) => !loose && !described::is_limit(error, exception, own),
    }
}

/// Longest beginning of a message that is compared.
const MAX_OPENING: usize = 200;

/// How the message begins; without one, how the text does. LiteLLM's words before an answer that it hands on
/// are no part of it.
fn opening(error: &ErrorBody) -> String {
    let text = error.message.as_deref().unwrap_or(&error.text);
    let own = text.find(" - ").map(|at| text.split_at(at + 3));
    let text = own.filter(|(prefix, _)| is_litellms(prefix)).map_or(text, |(_, rest)| rest);
    let mut plain = String::new();
    plain_into(&text[..text.floor_char_boundary(MAX_OPENING)], &mut plain);
    plain
}

/// A bucket that refuses when it is empty; Priority Tier commitments do not.
fn is_minute_bucket(limiter: &Limiter) -> bool {
    !limiter.as_str().starts_with("priority_")
}

/// The plan window that refuses: account-wide windows before scoped ones, because they refuse
/// every model; the provider's claim where no window says "rejected" itself.
fn plan_window(e: &Evidence<'_>) -> Option<Limiter> {
    if !e.limits.unified {
        return None;
    }
    let exhausted: Vec<&Limiter> = e.exhausted().filter(|l| **l != Limiter::OVERAGE).collect();
    let account_wide = [Limiter::FIVE_HOUR, Limiter::SEVEN_DAY].into_iter().find(|l| exhausted.contains(&l));
    account_wide.or_else(|| match &e.limits.claim {
        Some(claim) if exhausted.contains(&claim) || e.limits.plan_rejected => Some(claim.clone()),
        _ => exhausted.first().map(|l| (*l).clone()),
    })
}

/// The bucket that refuses. The combined `tokens` limiter is named only if neither input nor output
/// is the one that is empty; without an empty one, the tightest.
fn bucket(e: &Evidence<'_>) -> Option<Limiter> {
    let order = [
        Limiter::FAST_INPUT,
        Limiter::FAST_OUTPUT,
        Limiter::INPUT_TOKENS,
        Limiter::OUTPUT_TOKENS,
        Limiter::REQUESTS,
        Limiter::TOKENS,
    ];
    order
        .into_iter()
        .find(|wanted| e.exhausted().any(|l| l == wanted))
        .or_else(|| e.tightest().map(|(limiter, _)| limiter.clone()))
}

/// One row of the table.
#[derive(Clone, Copy)]
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
    /// What must hold.
    pub when: Cond,
    /// Which limiter it names.
    pub limiter: Pick,
    /// A gateway answers, but an upstream's refusals are the cause.
    pub cooldown: bool,
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
    /// What the refusal states beside its kind.
    pub stated: Stated,
    /// The rule that proved it.
    pub rule: &'static Rule,
    /// A sure rule by weaker proof that says otherwise: evidence that contradicts itself is noted.
    pub against: Option<&'static Rule>,
}

/// Judges one failure. Total: the last rule always holds.
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let unproved = Hit { rule: super::rules::last(), named: None, against: None };
    let Hit { rule, named, against } = TABLE.first(evidence).unwrap_or(unproved);
    let surface = surface_of(rule.class, evidence);
    let limiter = match rule.limiter {
        Pick::Nothing => None,
        Pick::Is(name) => Some(Limiter::known(name)),
        Pick::Window => plan_window(evidence),
        Pick::Bucket => bucket(evidence),
        Pick::Words(_) => named.map(Limiter::known),
    };
    let speaks = rule.class.is_limit() && !evidence.words.is_empty();
    Verdict {
        class: rule.class,
        owner_kind: rule.class.owner_kind(surface),
        surface,
        limiter,
        stated: if speaks { stated::read(&evidence.words) } else { Stated::default() },
        rule,
        against,
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

/// The other provider that answered, as its headers prove it.
fn other_provider(evidence: &Evidence<'_>) -> Surface {
    let marks = evidence.limits.marks;
    match evidence.surface {
        _ if marks.has(Mark::Azure) => Surface::AzureOpenAi,
        _ if marks.has(Mark::OpenAi) => Surface::OpenAi,
        known @ (Surface::OpenAi | Surface::AzureOpenAi) => known,
        _ => Surface::Other,
    }
}

/// The surface of a judged failure.
pub fn surface_of(class: Class, evidence: &Evidence<'_>) -> Surface {
    if class == Class::OtherProvider {
        return other_provider(evidence);
    }
    surface_of_class(class).unwrap_or(if evidence.limits.unified {
        Surface::ClaudeCodePlan
    } else {
        evidence.surface
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Marks;

    /// A gateway's log shows no headers, but it can say who answered: then a bare 429 is the provider's.
    #[test]
    fn who_answered_is_also_told_by_the_gateway_that_asked() {
        let verdict = |mark: Option<Mark>, partial: bool, text: &str| {
            let mut marks = Marks::default();
            mark.into_iter().for_each(|mark| marks.set(mark));
            let limits = Limits { marks, partial, ..Limits::default() };
            let error = ErrorBody { text: text.to_owned(), ..ErrorBody::default() };
            judge(&Evidence::new(Some(429), &limits, &error, Surface::AnthropicApi)).class
        };
        assert_eq!(verdict(Some(Mark::GatewaySaysUpstream), true, ""), Class::AnthropicWorkspace);
        assert_eq!(verdict(Some(Mark::GatewaySaysOwn), true, ""), Class::GatewayTenant);
        assert_eq!(verdict(None, true, ""), Class::Unknown);
        // What was seen whole, or has a body, shows its marks or has none.
        assert_eq!(verdict(Some(Mark::GatewaySaysUpstream), false, ""), Class::Unknown);
        assert_eq!(verdict(Some(Mark::GatewaySaysUpstream), true, "Too Many Requests"), Class::Unknown);
    }
}
