//! `explain`: one pasted or logged response in, "whose limit, how sure, what to do" out.
//!
//! The JSON shapes are a contract that others rely on (DESIGN, "Contracts"); the judgement is the
//! one of the sidecar itself, so that what it says of a paste is what it would say of traffic.

pub mod paste;
mod score;

pub use score::Score;

use crate::dialects::stated::Stated;
use crate::dialects::{self, error_text, places};
use crate::limit::Timestamp;
use crate::observation::{Client, ErrorBody};
use crate::owner::{Class, Evidence, Owners, Verdict, guidance, judge};
use crate::recorded::{OneOrMany, header_map};
use crate::route::{RouteName, Surface};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// One response, as the contract takes it.
#[derive(Debug, Deserialize, Default)]
pub struct Response {
    /// Carried through.
    #[serde(default)]
    pub id: Option<Value>,
    /// HTTP status, where known.
    #[serde(default)]
    pub status: Option<u16>,
    /// Response headers.
    #[serde(default)]
    pub headers: BTreeMap<String, OneOrMany>,
    /// Response body: text, or JSON as such.
    #[serde(default)]
    pub body: Option<Value>,
    /// A message that was seen beside the body.
    #[serde(default)]
    pub message: Option<String>,
    /// What is known of the request.
    #[serde(default)]
    pub request: Option<RequestHints>,
    /// The right answer, in labelled samples; used by `--score` only.
    #[serde(default)]
    pub label: Option<String>,
    /// Other answers that would be right.
    #[serde(default)]
    pub alt: Option<Vec<String>>,
    /// The sample's label is disputable.
    #[serde(default)]
    pub ambiguous: bool,
}

/// Free-text hints about the request.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub struct RequestHints {
    /// Host that was called.
    pub host: Option<String>,
    /// Path that was called.
    pub path: Option<String>,
    /// The calling program.
    pub user_agent: Option<String>,
    /// How it authenticated.
    pub auth_kind: Option<String>,
}

/// The answer, as the contract gives it.
#[derive(Debug, Serialize, PartialEq)]
pub struct Answer {
    /// As it came.
    pub id: Option<Value>,
    /// Whose limit (DESIGN's table, column "verdict").
    pub verdict: &'static str,
    /// The configured owner; null where no limit is involved.
    pub owner: Option<String>,
    /// The kind of owner; null where no limit is involved.
    pub owner_kind: Option<&'static str>,
    /// The surface.
    pub surface: &'static str,
    /// The limiter, where proved.
    pub limiter: Option<String>,
    /// The kind of proof.
    pub evidence: &'static str,
    /// The rule that held.
    pub rule: &'static str,
    /// The proof in words.
    pub why: &'static str,
    /// How sure.
    pub confidence: &'static str,
    /// Whose limit, in words for people.
    #[serde(skip)]
    pub whose: &'static str,
    /// What the refusal states beside its kind, in words for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// A sure rule by weaker proof that says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contradicted_by: Option<&'static str>,
    /// What to do first.
    pub first_move: &'static str,
    /// What never to do.
    pub stop_rule: &'static str,
    /// What comes next.
    pub next_step: &'static str,
    /// Where it stands in full.
    pub runbook_url: String,
}

/// Judges one response.
pub fn explain(response: &Response, owners: &Owners, external_url: Option<&str>) -> Answer {
    let mut error = error_body(response);
    let headers = if response.headers.is_empty() {
        // Some languages print headers and body as one term.
        header_map(&paste::headers_in(&error.text))
    } else {
        header_map(&response.headers)
    };
    let status = response.status.or_else(|| paste::status_in(&error.text));
    // A success is judged by its status; text beside it is what somebody wrote around it.
    if status.is_some_and(|s| s < 400) {
        error.in_stream |= error.envelope;
    }
    let limits = dialects::read_head(status.unwrap_or(0), &headers, Timestamp::from_secs(0));
    let hints = response.request.as_ref();
    let surface = hints.map_or(Surface::Unknown, surface_from_hints);
    let mut evidence = Evidence::pasted(status, &limits, &error, surface);
    evidence.client = client(hints, surface);
    evidence.path = hints.and_then(|h| h.path.as_deref()).unwrap_or_default();
    let verdict = judge(&evidence);
    let mut answer = answer(response.id.clone(), &verdict, owners, &limits.account, external_url);
    if error.cut {
        answer.states.push("the body was longer than is read: only its beginning was judged".to_owned());
    }
    answer
}

fn answer(
    id: Option<Value>,
    verdict: &Verdict,
    owners: &Owners,
    account: &crate::observation::Account,
    external_url: Option<&str>,
) -> Answer {
    let told = guidance::guidance(verdict.class, verdict.owner_kind, verdict.limiter.as_ref());
    let home = verdict.surface.owner_kind();
    let owner = owners.resolve_for(verdict.owner_kind, home, account, &RouteName::new(""));
    let limited = verdict.class != Class::NotALimit;
    let own_runbook = owners.get(&owner.id).and_then(|o| o.runbook_url.clone());
    Answer {
        id,
        verdict: verdict.class.as_str(),
        owner: limited.then(|| owner.id.to_string()),
        owner_kind: limited.then(|| verdict.owner_kind.as_str()),
        surface: verdict.surface.as_str(),
        limiter: verdict.limiter.as_ref().map(ToString::to_string),
        evidence: verdict.rule.rung.as_str(),
        rule: verdict.rule.id,
        why: verdict.rule.why,
        confidence: verdict.rule.confidence.as_str(),
        whose: verdict.class.whose(),
        states: states(&verdict.stated),
        contradicted_by: verdict.against.map(|rule| rule.id),
        first_move: told.first_move,
        stop_rule: guidance::STOP_RULE,
        next_step: told.next_step,
        runbook_url: own_runbook.unwrap_or_else(|| guidance::runbook_url(external_url, told.runbook)),
    }
}

/// What a refusal states beside its kind, in words for people.
pub fn states(stated: &Stated) -> Vec<String> {
    let mut all = Vec::new();
    match (stated.limit, stated.next_limit) {
        (Some(now), Some(next)) => {
            all.push(format!("limit {now} now, {next} after the next minute boundary"))
        }
        (Some(limit), None) => all.push(format!("limit {limit}")),
        _ => {}
    }
    let named = [
        ("quota", &stated.quota),
        ("pool of models", &stated.base_model),
        ("the gateway limits by", &stated.tenant),
        ("access returns on", &stated.regain),
    ];
    all.extend(
        named.iter().filter_map(|(what, value)| value.as_ref().map(|value| format!("{what} {value}"))),
    );
    all
}

fn error_body(response: &Response) -> ErrorBody {
    let text = match &response.body {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let mut error = error_text::read(text.as_bytes(), false, false);
    match (&error.message, &response.message) {
        (Some(own), Some(seen)) if !own.contains(seen.as_str()) => {
            error.text.push_str(" | ");
            error.text.push_str(seen);
        }
        (None, Some(seen)) => error.message = Some(seen.clone()),
        _ => {}
    }
    for (name, values) in &response.headers {
        // Names of an AWS event stream's headers: no HTTP header may be called so.
        if name.starts_with(':')
            && let OneOrMany::One(value) = values
        {
            error.text.push_str(" | ");
            error.text.push_str(value);
            error.in_stream |= name == ":exception-type";
        }
    }
    error
}

/// The surface that free-text hints suggest. Hints are implied by a thread more often than seen,
/// so they decide only where the answer itself proves nothing.
fn surface_from_hints(hints: &RequestHints) -> Surface {
    let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
    let (host, agent, auth) = (lower(&hints.host), lower(&hints.user_agent), lower(&hints.auth_kind));
    match places::surface_of_host(&host) {
        Some(Surface::AnthropicApi) => {}
        Some(surface) => return surface,
        None if !host.is_empty() => return Surface::Unknown,
        None => {
            let kinds = [
                ("virtual key", Surface::Gateway),
                ("gateway", Surface::Gateway),
                ("relay", Surface::Gateway),
                ("openrouter", Surface::Gateway),
                ("kong", Surface::Gateway),
                ("apim", Surface::Gateway),
                ("helicone", Surface::Gateway),
                ("portkey", Surface::Gateway),
                ("litellm", Surface::Gateway),
                ("aws", Surface::Bedrock),
                ("gcp", Surface::Vertex),
                ("azure", Surface::AzureOpenAi),
                ("gemini", Surface::Other),
                ("minimax", Surface::Other),
                ("github", Surface::Other),
                ("zai", Surface::Other),
                ("moonshot", Surface::Other),
                ("deepseek", Surface::Other),
                ("groq", Surface::Other),
                ("mistral", Surface::Other),
            ];
            if let Some((_, surface)) = kinds.iter().find(|(part, _)| auth.contains(part)) {
                return *surface;
            }
            if let Some(surface) = places::surface_of_path(hints.path.as_deref().unwrap_or_default()) {
                return surface;
            }
        }
    }
    let claude_code = names_claude_code(&agent);
    match (claude_code, auth.as_str()) {
        (true, "api_key") => Surface::ClaudeCodeKey,
        (_, auth) if auth.starts_with("oauth") => Surface::ClaudeCodePlan,
        (false, _) if !host.is_empty() => Surface::AnthropicApi,
        _ => Surface::Unknown,
    }
}

/// A hint is free text: the program's user agent, its SDK's, or its name as people write it.
fn names_claude_code(agent: &str) -> bool {
    ["claude code", "claude-cli", "claude-code"].iter().any(|name| agent.contains(name))
}

fn client(hints: Option<&RequestHints>, surface: Surface) -> Client {
    let agent = hints.and_then(|h| h.user_agent.as_deref()).unwrap_or_default().to_ascii_lowercase();
    if surface == Surface::ClaudeCodeKey || agent.contains("claude code") || agent.contains("claude-cli") {
        Client::ClaudeCode
    } else if agent.is_empty() {
        Client::Unknown
    } else {
        Client::Other
    }
}
