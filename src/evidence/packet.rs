//! The evidence packet of one incident: what support needs to act, and nothing that it must not see.
//!
//! A packet says NOT READY, and what is missing, until a retry on the same route has failed again:
//! before that, support can only send it back. It is made from an incident as the engine knows it;
//! everything that came from the network as text goes through the scrubber.

use super::redact::Scrubber;
use crate::engine::{Attempt, Incident};
use crate::explain::states;
use crate::limit::Timestamp;
use crate::observation::AuthKind;
use crate::owner::guidance::{self, quota_page, rules_for, runbook_url};
use crate::owner::{Class, Confidence, Owners};
use crate::route::{OwnerKind, Surface};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is known of the provider's status beside the traffic.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The status page's own words, and when they were read.
    pub page: Option<(Timestamp, String)>,
    /// What `claude auth status` printed, as somebody handed it in.
    pub claude: Option<String>,
}

/// The evidence of one incident. Times are Unix seconds, UTC.
#[derive(Clone, Debug, Serialize)]
pub struct Packet {
    /// The incident.
    pub incident: String,
    /// The evidence is complete.
    pub ready: bool,
    /// What is missing until it is, and how to get it.
    pub missing: Vec<String>,
    /// Whose limit, in words.
    pub whose: &'static str,
    /// The verdict.
    pub verdict: &'static str,
    /// The configured owner.
    pub owner: String,
    /// The kind of owner.
    pub owner_kind: &'static str,
    /// Whom to call.
    pub contact: Option<String>,
    /// The surface.
    pub surface: &'static str,
    /// The limiter, where proved.
    pub limiter: Option<String>,
    /// How sure.
    pub confidence: &'static str,
    /// The kind of proof.
    pub evidence: &'static str,
    /// The row of the table that decided.
    pub rule: &'static str,
    /// Why.
    pub why: &'static str,
    /// A surer row by weaker proof that says otherwise.
    pub contradicted_by: Option<&'static str>,
    /// What the refusal states.
    pub states: Vec<String>,
    /// The exact message, scrubbed.
    pub message: Option<String>,
    /// When the newest failure came.
    pub at: f64,
    /// What identifies the call to the owner, the most important first.
    pub identifiers: Vec<(&'static str, String)>,
    /// The allow-listed headers of the newest failure.
    pub headers: Vec<(String, String)>,
    /// The upstream's refusal behind a gateway's cooldown.
    pub cause: Option<String>,
    /// Last success, first failure, current failure: one line each.
    pub attempts: BTreeMap<&'static str, String>,
    /// Calls that failed, retries folded.
    pub failures: u64,
    /// Refusals on the wire.
    pub refusals: u64,
    /// A smaller call passed meanwhile, at.
    pub eased: Option<f64>,
    /// It is over since, and why.
    pub over: Option<(f64, &'static str)>,
    /// What was changed meanwhile.
    pub changes: Vec<String>,
    /// What the provider's status page says.
    pub status_page: String,
    /// What `claude auth status` says, where Claude Code is concerned.
    pub claude_status: Option<String>,
    /// A minimal reproduction; secrets are placeholders.
    pub reproduction: String,
    /// What to do first.
    pub first_move: &'static str,
    /// What comes next.
    pub next_step: &'static str,
    /// The rules that hold meanwhile.
    pub rules: Vec<&'static str>,
    /// Where it stands in full.
    pub runbook_url: String,
}

/// What a packet is made with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The configured owners.
    pub owners: &'a Owners,
    /// Where people reach this sidecar.
    pub external_url: Option<&'a str>,
    /// Takes out what must not be shown.
    pub scrubber: &'a Scrubber,
    /// What is known beside the traffic.
    pub status: &'a Status,
}

/// The packet of an incident.
pub fn packet(incident: &Incident, context: &Context<'_>) -> Packet {
    let (verdict, current) = (&incident.verdict, &incident.current);
    let kind = verdict.owner_kind;
    let told = guidance::guidance(verdict.class, kind, verdict.limiter.as_ref());
    let owner = context.owners.get(&incident.owner.id);
    let scrub = |text: &str| context.scrubber.text(text);
    let missing = missing(incident);
    Packet {
        incident: incident.id.to_string(),
        ready: missing.is_empty(),
        missing,
        whose: verdict.class.whose(),
        verdict: verdict.class.as_str(),
        owner: incident.owner.id.to_string(),
        owner_kind: kind.as_str(),
        contact: owner.and_then(|o| o.contact.clone()),
        surface: verdict.surface.as_str(),
        limiter: verdict.limiter.as_ref().map(ToString::to_string),
        confidence: verdict.rule.confidence.as_str(),
        evidence: verdict.rule.rung.as_str(),
        rule: verdict.rule.id,
        why: verdict.rule.why,
        contradicted_by: verdict.against.map(|rule| rule.id),
        states: said(incident).iter().map(|s| scrub(s)).collect(),
        message: current.message.as_deref().map(scrub),
        at: current.at.secs_f64(),
        identifiers: identifiers(incident, context.scrubber),
        headers: headers(current, context.scrubber),
        cause: incident.cause.as_ref().map(|cause| {
            let id = cause.request_id.as_deref().and_then(plain_id);
            let id = id.unwrap_or_else(|| "no request id".to_owned());
            format!("{} at {}, {id}", cause.verdict.class.whose(), moment(cause.at))
        }),
        attempts: attempts(incident, context.scrubber),
        failures: incident.failures,
        refusals: incident.attempts,
        eased: incident.eased.map(Timestamp::secs_f64),
        over: incident.over.map(|(at, over)| (at.secs_f64(), over.as_str())),
        changes: incident.changes.iter().map(|c| changed(c, context.scrubber)).collect(),
        status_page: match &context.status.page {
            Some((at, said)) => format!("{} ({})", scrub(said), moment(*at)),
            None => "not checked; open the provider's status page, or set evidence.status_page".to_owned(),
        },
        claude_status: claude_status(incident, context),
        reproduction: reproduction(current, context.scrubber),
        first_move: told.first_move,
        next_step: told.next_step,
        rules: rules_for(kind).map(|rule| rule.text).collect(),
        runbook_url: owner
            .and_then(|o| o.runbook_url.clone())
            .unwrap_or_else(|| runbook_url(context.external_url, told.runbook)),
    }
}

/// What the refusal states, and what was not read of it.
fn said(incident: &Incident) -> Vec<String> {
    let mut all = states(&incident.verdict.stated);
    if incident.current.cut {
        all.push("the error's body was longer than is read: only its beginning was judged".to_owned());
    }
    all
}

/// What is missing until support can act on it.
pub(crate) fn missing(incident: &Incident) -> Vec<String> {
    let mut missing = Vec::new();
    if !incident.failed_again {
        missing.push("A retry on the same route that failed again: send one smaller request with the same credential and model.".to_owned());
    }
    let Incident { verdict, current, .. } = incident;
    if verdict.class == Class::Unknown || verdict.rule.confidence == Confidence::Low {
        missing.push("Proof of the owner: a failure with all of its headers kept.".to_owned());
    }
    if verdict.surface.owner_kind() == OwnerKind::AnthropicWorkspace && current.limits.request_id.is_none() {
        missing.push("The request id: the `request-id` header of the refusal.".to_owned());
    }
    missing
}

/// What identifies the call to the party that holds the limit: other surfaces ask for other things.
fn identifiers(incident: &Incident, scrubber: &Scrubber) -> Vec<(&'static str, String)> {
    let (current, stated) = (&incident.current, &incident.verdict.stated);
    let id = |value: &Option<std::sync::Arc<str>>| value.as_deref().map(|value| scrubber.id(value));
    let text = |value: Option<&str>| value.map(|value| scrubber.text(value));
    let request = ("request id", current.limits.request_id.as_deref().and_then(plain_id));
    let upstream = ("upstream", Some(current.upstream.to_string()));
    let model = ("model", current.model.as_ref().map(|model| model.as_str().to_owned()));
    let region = ("region", current.region.as_deref().map(str::to_owned).or_else(|| region(current)));
    let organization = ("organization", id(&current.limits.account.organization));
    let workspace = ("workspace", id(&current.limits.account.workspace));
    let page = quota_page(incident.verdict.owner_kind).map(str::to_owned);
    let all: Vec<(&'static str, Option<String>)> = match incident.verdict.surface {
        Surface::Bedrock | Surface::Vertex => vec![
            ("project", in_path(&current.path, "/projects/").map(|p| scrubber.id(&p))),
            region,
            ("quota", stated.quota.clone()),
            ("pool of models", stated.base_model.clone()),
            ("quota page", page),
            model,
            request,
            upstream,
        ],
        Surface::Gateway => vec![
            ("tenant", stated.tenant.clone()),
            ("upstream route", Some(format!("{} ({})", incident.route, current.upstream))),
            ("policy hit", text(current.limits.policy.as_deref())),
            request,
            model,
        ],
        _ => vec![request, organization, workspace, model, region, ("limits page", page), upstream],
    };
    all.into_iter().filter_map(|(name, value)| value.filter(|v| !v.is_empty()).map(|v| (name, v))).collect()
}

/// An id of a request as it is: support finds the call by it. Only what can be nothing else.
fn plain_id(id: &str) -> Option<String> {
    let plain = id.len() <= 80 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:.=".contains(&b));
    (plain && !id.is_empty()).then(|| id.to_owned())
}

/// The region that a cloud's host or path names.
fn region(attempt: &Attempt) -> Option<String> {
    in_path(&attempt.path, "/locations/").or_else(|| {
        let mut labels = attempt.upstream.rsplit('/').next()?.split('.');
        let service = labels.next()?;
        let known = matches!(service, "bedrock-runtime" | "bedrock-mantle" | "aws-external-anthropic");
        known.then(|| labels.next().map(str::to_owned)).flatten()
    })
}

fn in_path(path: &str, before: &str) -> Option<String> {
    let rest = &path[path.find(before)? + before.len()..];
    rest.split('/').next().filter(|part| !part.is_empty()).map(str::to_owned)
}

fn headers(attempt: &Attempt, scrubber: &Scrubber) -> Vec<(String, String)> {
    let shown = |(name, value): &(std::sync::Arc<str>, std::sync::Arc<str>)| {
        let whole_id = matches!(&**name, "anthropic-organization-id" | "anthropic-workspace-id");
        let request_id = ["request-id", "requestid", "call-id"].iter().any(|end| name.ends_with(end));
        let value = match plain_id(value).filter(|_| request_id) {
            Some(id) => id,
            None if whole_id => scrubber.id(value),
            None => scrubber.text(value),
        };
        (name.to_string(), value)
    };
    attempt.limits.shown.iter().map(shown).collect()
}

fn attempts(incident: &Incident, scrubber: &Scrubber) -> BTreeMap<&'static str, String> {
    let line = |attempt: &Attempt| {
        // The credential's keyed hash stands here and in no label: it tells apart what has no alias.
        let hash =
            attempt.credential.fingerprint.map(|f| format!("credential hash {f}, ")).unwrap_or_default();
        scrubber.text(&format!("{}: route {}, {hash}{attempt}", moment(attempt.at), incident.route))
    };
    let success = incident.last_success.as_ref().map_or_else(|| "none was seen".to_owned(), line);
    BTreeMap::from([
        ("last success", success),
        ("first failure", line(&incident.first)),
        ("current failure", line(&incident.current)),
    ])
}

fn changed(change: &crate::engine::Change, scrubber: &Scrubber) -> String {
    let hashes = change.hashes.map(|(from, to)| format!(" (hash {from} to {to})")).unwrap_or_default();
    let what = change.what.as_str();
    scrubber.text(&format!("{}: {what} from {} to {}{hashes}", moment(change.at), change.from, change.to))
}

fn claude_status(incident: &Incident, context: &Context<'_>) -> Option<String> {
    let kind = incident.verdict.owner_kind;
    let concerned = matches!(kind, OwnerKind::ClaudePlan | OwnerKind::ClaudeCodeWorkspace);
    match &context.status.claude {
        Some(said) => Some(context.scrubber.text(said.trim())),
        None => concerned.then(|| "not checked; run `claude auth status`".to_owned()),
    }
}

/// The failed call in small, as a curl command. What stands for a secret is a shell variable.
fn reproduction(attempt: &Attempt, scrubber: &Scrubber) -> String {
    let auth = match (attempt.auth, attempt.surface) {
        (AuthKind::ApiKey, _) => "-H \"x-api-key: $API_KEY\"",
        (AuthKind::SigV4, _) => {
            "--aws-sigv4 \"aws:amz:$AWS_REGION:bedrock\" --user \"$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY\""
        }
        (_, Surface::Vertex) => "-H \"Authorization: Bearer $(gcloud auth print-access-token)\"",
        (AuthKind::None, _) => "",
        _ => "-H \"Authorization: Bearer $TOKEN\"",
    };
    let mut body = serde_json::json!({
        "max_tokens": attempt.max_tokens.map_or(16, |n| n.get()),
        "messages": [{"role": "user", "content": format!("<a prompt of about {} bytes>", attempt.input_bytes)}],
    });
    if let Some(model) = attempt.model.as_ref().filter(|_| !attempt.path.contains("/model")) {
        body["model"] = model.as_str().into();
    }
    if attempt.stream == Some(true) {
        body["stream"] = true.into();
    }
    let version =
        if attempt.path.ends_with("/v1/messages") { " \\\n  -H 'anthropic-version: 2023-06-01'" } else { "" };
    let auth = if auth.is_empty() { String::new() } else { format!(" \\\n  {auth}") };
    let path = match in_path(&attempt.path, "/projects/") {
        Some(project) => attempt.path.replace(&project, &scrubber.id(&project)),
        None => scrubber.text(&attempt.path),
    };
    let (path, body) = (quotable(&path), quotable(&body.to_string()));
    format!(
        "curl -i -X {} '{}{}'{auth}{version} \\\n  -H 'content-type: application/json' \\\n  -d '{body}'",
        attempt.method, attempt.upstream, path
    )
}

/// Text that stays inside single quotes of a shell.
fn quotable(text: &str) -> String {
    text.replace('\'', "'\\''")
}

/// A moment as people read it: to the millisecond.
fn moment(at: Timestamp) -> String {
    Timestamp::from_micros(at.micros() / 1000 * 1000).rfc3339()
}
