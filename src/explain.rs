//! `explain`: one pasted or logged response in, "whose limit, how sure, what to do" out.
//!
//! The JSON shapes are a contract that others rely on (DESIGN, "Contracts"); the judgement is the
//! one of the sidecar itself, so that what it says of a paste is what it would say of traffic.

use crate::dialects::{self, error_text};
use crate::limit::Timestamp;
use crate::observation::{Client, ErrorBody};
use crate::owner::{Class, Evidence, Owners, Verdict, guidance, judge};
use crate::route::{RouteName, Surface};
use http::{HeaderMap, HeaderName, HeaderValue};
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

/// A header value, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One value.
    One(String),
    /// A repeated header.
    Many(Vec<String>),
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
    let headers = header_map(&response.headers);
    let limits = dialects::read_head(response.status.unwrap_or(0), &headers, Timestamp::from_secs(0));
    let error = error_body(response);
    let hints = response.request.as_ref();
    let surface = hints.map_or(Surface::Unknown, surface_from_hints);
    let mut evidence = Evidence::new(response.status, &limits, &error, surface);
    evidence.client = client(hints, surface);
    evidence.path = hints.and_then(|h| h.path.as_deref()).unwrap_or_default();
    let verdict = judge(&evidence);
    answer(response.id.clone(), &verdict, owners, &limits.account, external_url)
}

fn answer(
    id: Option<Value>,
    verdict: &Verdict,
    owners: &Owners,
    account: &crate::observation::Account,
    external_url: Option<&str>,
) -> Answer {
    let told = guidance::guidance(verdict.class, verdict.owner_kind);
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
        first_move: told.first_move,
        stop_rule: guidance::STOP_RULE,
        next_step: told.next_step,
        runbook_url: own_runbook.unwrap_or_else(|| guidance::runbook_url(external_url, told.runbook)),
    }
}

fn header_map(pairs: &BTreeMap<String, OneOrMany>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, values) in pairs {
        let Ok(name) = HeaderName::try_from(name.as_str()) else { continue };
        let values = match values {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values.as_slice(),
        };
        for value in values {
            if let Ok(value) = HeaderValue::from_str(value) {
                map.append(name.clone(), value);
            }
        }
    }
    map
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
    // A success is judged by its status; text beside it is what somebody wrote around it.
    if response.status.is_some_and(|s| s < 400) {
        error.in_stream = error.kind.is_some();
    }
    error
}

/// The surface that free-text hints suggest. Hints are implied by a thread more often than seen,
/// so they decide only where the answer itself proves nothing.
fn surface_from_hints(hints: &RequestHints) -> Surface {
    let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_ascii_lowercase();
    let (host, agent, auth) = (lower(&hints.host), lower(&hints.user_agent), lower(&hints.auth_kind));
    let hosts = [
        ("bedrock", Surface::Bedrock),
        ("aiplatform", Surface::Vertex),
        ("api.openai.com", Surface::OpenAi),
        ("openai.azure", Surface::AzureOpenAi),
        ("openrouter", Surface::Gateway),
        ("gateway", Surface::Gateway),
    ];
    if let Some((_, surface)) = hosts.iter().find(|(part, _)| host.contains(part)) {
        return *surface;
    }
    if !host.is_empty() && !host.contains("anthropic.com") {
        return Surface::Unknown;
    }
    let claude_code = agent.contains("claude code") || agent.contains("claude-cli");
    match (claude_code, auth.as_str()) {
        (true, "api_key") => Surface::ClaudeCodeKey,
        (true, auth) if auth.starts_with("oauth") => Surface::ClaudeCodePlan,
        (false, _) if host.contains("api.anthropic.com") => Surface::AnthropicApi,
        _ => Surface::Unknown,
    }
}

fn client(hints: Option<&RequestHints>, surface: Surface) -> Client {
    let agent = hints.and_then(|h| h.user_agent.as_deref()).unwrap_or_default().to_ascii_lowercase();
    if surface == Surface::ClaudeCodeKey
        || agent.starts_with("claude code")
        || agent.starts_with("claude-cli")
    {
        Client::ClaudeCode
    } else if agent.is_empty() {
        Client::Unknown
    } else {
        Client::Other
    }
}

/// How well the verdicts fit labelled samples: the table that `explain --score` prints.
#[derive(Debug, Default)]
pub struct Score {
    rows: BTreeMap<String, BTreeMap<&'static str, u32>>,
    right: u32,
    sure: (u32, u32),
    ambiguous: (u32, u32),
    total: u32,
    misses: Vec<String>,
}

impl Score {
    /// Counts one labelled sample.
    pub fn add(&mut self, sample: &Response, answer: &Answer) {
        let Some(label) = &sample.label else { return };
        let hit = label == answer.verdict;
        let alt = sample.alt.as_ref().is_some_and(|alt| alt.iter().any(|a| a == answer.verdict));
        if matches!(answer.confidence, "exact" | "high") {
            self.sure.1 += 1;
            self.sure.0 += u32::from(hit || (sample.ambiguous && alt));
        }
        if sample.ambiguous {
            self.ambiguous.1 += 1;
            self.ambiguous.0 += u32::from(hit || alt);
            return;
        }
        self.total += 1;
        self.right += u32::from(hit);
        if !hit {
            let id = sample.id.as_ref().map(ToString::to_string).unwrap_or_default();
            self.misses.push(format!("  {id}: {label}, said {} ({})", answer.verdict, answer.rule));
        }
        *self.rows.entry(label.clone()).or_default().entry(answer.verdict).or_default() += 1;
    }

    /// Share of the unambiguous samples that were judged right.
    pub fn right(&self) -> f64 {
        f64::from(self.right) / f64::from(self.total.max(1))
    }

    /// Share of right answers over the samples whose label is one of `labels`.
    pub fn right_among(&self, labels: &[&str]) -> f64 {
        let (mut right, mut total) = (0, 0);
        for (label, said) in self.rows.iter().filter(|(label, _)| labels.contains(&label.as_str())) {
            total += said.values().sum::<u32>();
            right += said.iter().filter(|(verdict, _)| *verdict == label).map(|(_, n)| n).sum::<u32>();
        }
        f64::from(right) / f64::from(total.max(1))
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<22} {:>5} {:>6}  otherwise said", "label (unambiguous)", "right", "of")?;
        for (label, said) in &self.rows {
            let right: u32 = said.iter().filter(|(v, _)| *v == label).map(|(_, n)| n).sum();
            let wrong: Vec<String> =
                said.iter().filter(|(v, _)| *v != label).map(|(v, n)| format!("{v} {n}")).collect();
            writeln!(f, "{label:<22} {right:>5} {:>6}  {}", said.values().sum::<u32>(), wrong.join(", "))?;
        }
        writeln!(f, "{:<22} {:>5} {:>6}  {:.1} %", "all", self.right, self.total, 100.0 * self.right())?;
        writeln!(f, "{:<22} {:>5} {:>6}", "ambiguous, label or alt", self.ambiguous.0, self.ambiguous.1)?;
        writeln!(f, "{:<22} {:>5} {:>6}", "said at high or exact", self.sure.0, self.sure.1)?;
        if !self.misses.is_empty() {
            writeln!(f, "misses:\n{}", self.misses.join("\n"))?;
        }
        Ok(())
    }
}
