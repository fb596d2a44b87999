//! One incident: last success, first failure, current failure of one route, and what was changed.
//!
//! People retry blindly and change routes, and so destroy the only evidence. An incident keeps the
//! three attempts that support asks for, and every change of the route while it lasted. A smaller
//! success on the same route *eases* it (the limit still binds at the old size); a comparable
//! workload that passes *closes* it. Same means same: credential, model, surface and upstream.

use super::alert::Identity;
use crate::limit::{Amount, Timestamp};
use crate::observation::{AuthKind, Credential, End, ErrorBody, Fingerprint, Limits};
use crate::owner::Verdict;
use crate::route::{ModelGroup, Owner, RouteName, Surface};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One attempt, as it stands in an incident. Names the credential's alias, never the secret.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// When it began: what began before an incident says nothing of it.
    pub started: Timestamp,
    /// Scheme, host and port that were called.
    pub upstream: Arc<str>,
    /// The surface, as the request suggests it.
    pub surface: Surface,
    /// How it was authenticated.
    pub auth: AuthKind,
    /// With which credential.
    pub credential: Credential,
    /// The model group.
    pub model: Option<ModelGroup>,
    /// The region, where known.
    pub region: Option<Arc<str>>,
    /// HTTP method.
    pub method: http::Method,
    /// Path without its query.
    pub path: Arc<str>,
    /// Bytes of the request body.
    pub input_bytes: u64,
    /// `max_tokens` as asked.
    pub max_tokens: Option<Amount>,
    /// Whether a stream was asked for.
    pub stream: Option<bool>,
    /// Calls in flight on the route.
    pub concurrency: u64,
    /// HTTP status.
    pub status: Option<u16>,
    /// What the headers said.
    pub limits: Arc<Limits>,
    /// The error's message as it came: scrub it before it is shown.
    pub message: Option<Arc<str>>,
    /// More of the error's body came than was read.
    pub cut: bool,
}

/// Longest error page that is kept as a message.
const MAX_PAGE: usize = 200;
/// Longest message that is kept.
const MAX_MESSAGE: usize = 1_000;

impl Attempt {
    /// The attempt that ended so.
    pub fn of(end: &End) -> Self {
        let error = end.error.as_deref();
        // An error page of few words is a message; anything structured or long may echo the request.
        let page = |e: &'_ ErrorBody| e.text.len() <= MAX_PAGE && !e.text.contains(['{', '[']);
        let message = error.and_then(|e| e.message.as_deref().or_else(|| page(e).then_some(&*e.text)));
        let cut = |text: &str| text.chars().take(MAX_MESSAGE).collect::<String>();
        Self {
            at: end.at,
            started: end.call.started,
            upstream: end.call.upstream.clone(),
            surface: end.call.surface,
            auth: end.call.auth,
            credential: end.call.credential.clone(),
            model: end.model.clone(),
            region: end.call.region.clone(),
            method: end.call.method.clone(),
            path: end.call.path.clone(),
            input_bytes: end.request.body_bytes,
            max_tokens: end.request.max_tokens,
            stream: end.request.stream,
            concurrency: end.concurrency,
            status: end.status,
            limits: end.limits.clone(),
            message: message.filter(|m| !m.is_empty()).map(|m| cut(m).into()),
            cut: error.is_some_and(|e| e.cut),
        }
    }

    /// A report told of it, and not the hop: a report names the host that was called, and the hop its upstream's URL.
    pub(super) fn reported(&self) -> bool {
        !self.upstream.contains("://")
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        self.at = self.at.minus(by);
        self.started = self.started.minus(by);
    }

    /// True if the other one went the same way: route changes destroy evidence.
    pub fn same_route(&self, other: &Self) -> bool {
        self.credential.fingerprint == other.credential.fingerprint
            && self.model == other.model
            && self.surface == other.surface
            && self.upstream == other.upstream
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |n: Option<u64>| n.map_or_else(|| "not stated".to_owned(), |n| n.to_string());
        write!(
            f,
            "credential {} ({}), model {}, region {}, input {} bytes, max_tokens {}, concurrency {}, retry-after {}, status {}",
            self.credential.label(),
            self.auth.as_str(),
            self.model.as_ref().map_or("not stated", ModelGroup::as_str),
            self.region.as_deref().unwrap_or("not stated"),
            self.input_bytes,
            or_none(self.max_tokens.map(Amount::get)),
            self.concurrency,
            self.limits.retry_after.map_or_else(|| "none".to_owned(), |d| format!("{} s", d.as_secs())),
            self.status.map_or_else(|| "no response".to_owned(), |s| s.to_string()),
        )
    }
}

/// What of a route was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Another credential of the same kind.
    Credential,
    /// From a plan to a key, or back.
    Plan,
    /// Another provider, or another way to it.
    Provider,
    /// Another model.
    Model,
}

impl What {
    /// The word in labels and texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Plan => "plan",
            Self::Provider => "provider",
            Self::Model => "model",
        }
    }
}

/// A change of the route while an incident was open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was first seen.
    pub at: Timestamp,
    /// What.
    pub what: What,
    /// What it was when the incident began.
    pub from: String,
    /// What it is now.
    pub to: String,
    /// Keyed hashes of the credentials before and now: for packets, never for an alert.
    pub hashes: Option<(Fingerprint, Fingerprint)>,
}

/// The upstream's refusal behind a gateway's cooldown.
#[derive(Clone, Debug)]
pub struct Cause {
    /// When.
    pub at: Timestamp,
    /// Whose limit that was.
    pub verdict: Verdict,
    /// The id of that request.
    pub request_id: Option<Arc<str>>,
}

/// Why an incident is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A comparable workload passed on the same route.
    Passed,
    /// No failure for long; nothing proves that the limit is gone.
    Quiet,
    /// It was the provider's overload, and then a limit refused calls: that is another incident.
    Overtaken,
}

impl Over {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "a comparable workload passed on the same route",
            Self::Quiet => "no failure came for a while; nothing proves that the limit is gone",
            Self::Overtaken => {
                "the provider was overloaded, then a limit refused calls: that is another incident"
            }
        }
    }
}

/// One incident of one route.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Its name: moment of the first failure, and route.
    pub id: Arc<str>,
    /// The route.
    pub route: RouteName,
    /// The newest success before the first failure.
    pub last_success: Option<Attempt>,
    /// The first failure.
    pub first: Attempt,
    /// The newest failure.
    pub current: Attempt,
    /// Calls that failed; the retries of one call are one.
    pub failures: u64,
    /// Refusals on the wire, retries among them.
    pub attempts: u64,
    /// The same route has failed again since the first failure: the evidence is complete.
    pub failed_again: bool,
    /// What its alert is about.
    pub identity: Identity,
    /// Whose limit, as the newest failure proved it.
    pub owner: Owner,
    /// Why, as the newest failure proved it.
    pub verdict: Verdict,
    /// The upstream's refusal behind it, where a gateway is cooling down.
    pub cause: Option<Cause>,
    /// When a smaller success last passed on the same route.
    pub eased: Option<Timestamp>,
    /// What was changed meanwhile.
    pub changes: Vec<Change>,
    /// The alert on these changes is up.
    pub alerting: bool,
    /// When and why it was over.
    pub over: Option<(Timestamp, Over)>,
}

/// Most changes that are kept of one incident.
const MAX_CHANGES: usize = 8;

/// A success counts as comparable from this share of the failed request's size.
const COMPARABLE: f64 = 0.8;

impl Incident {
    /// True while it is open.
    pub fn is_open(&self) -> bool {
        self.over.is_none()
    }

    /// True if this attempt says something of the limit: the same way, and begun after the first failure.
    pub(super) fn is_evidence(&self, attempt: &Attempt) -> bool {
        attempt.started >= self.first.at && self.first.same_route(attempt)
    }

    /// True if this success shows that the failed workload passes again.
    pub(super) fn is_comparable(&self, success: &Attempt) -> bool {
        let bytes = self.first.input_bytes.max(self.current.input_bytes) as f64;
        success.input_bytes as f64 >= bytes * COMPARABLE
            && success.max_tokens >= self.first.max_tokens.max(self.current.max_tokens)
    }

    /// Takes in a further failure; true if it is the first one on the same route since the first.
    pub(super) fn again(&mut self, attempt: Attempt, retry: bool) -> bool {
        let again = !self.failed_again && self.is_evidence(&attempt);
        self.failed_again |= again;
        self.current = attempt;
        self.attempts += 1;
        self.failures += u64::from(!retry);
        again
    }

    /// Takes in a change; false if it is known, or one too many.
    pub(super) fn change(&mut self, change: Change) -> bool {
        let known = self
            .changes
            .iter()
            .any(|c| c.what == change.what && c.to == change.to && c.hashes == change.hashes);
        if known || self.changes.len() >= MAX_CHANGES {
            return false;
        }
        self.changes.push(change);
        self.alerting = true;
        true
    }

    /// Lets the alert on changes end; true if it did.
    pub(super) fn calm(&mut self, now: Timestamp) -> bool {
        let long = self.changes.last().is_none_or(|change| now.since(change.at) >= QUIET);
        long && std::mem::replace(&mut self.alerting, false)
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        let attempts = [Some(&mut self.first), Some(&mut self.current), self.last_success.as_mut()];
        attempts.into_iter().flatten().for_each(|attempt| attempt.set_back(by));
        self.eased = self.eased.map(|at| at.minus(by));
        self.changes.iter_mut().for_each(|change| change.at = change.at.minus(by));
    }

    /// How long it must be quiet before it is over: what the refusal asked to wait, and a while.
    pub(super) fn patience(&self) -> Duration {
        QUIET + self.current.limits.retry_after.unwrap_or_default()
    }
}

/// Silence after which an incident is over.
const QUIET: Duration = Duration::from_secs(15 * 60);

/// The name of an incident: sortable, readable, and one at a time for each route.
pub(super) fn name(at: Timestamp, route: &RouteName) -> Arc<str> {
    let moment = jiff::Timestamp::from_microsecond(at.micros()).unwrap_or_default();
    format!("{}-{route}", moment.strftime("%Y%m%dT%H%M%S.%3fZ")).into()
}
