//! Incidents: last success, first failure, current failure of one route.
//!
//! People retry blindly and change routes, and so destroy the only evidence. An incident keeps the
//! three attempts that support asks for. A smaller success on the same route *eases* it (the limit
//! still binds at the old size); a comparable workload that passes *closes* it.

use crate::limit::{Amount, Timestamp};
use crate::observation::{Credential, End};
use crate::owner::Verdict;
use crate::route::{ModelGroup, Owner};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One attempt, as it stands in an incident. Names the credential's alias, never the secret.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// With which credential.
    pub credential: Credential,
    /// The model group.
    pub model: Option<ModelGroup>,
    /// The region, where known.
    pub region: Option<Arc<str>>,
    /// Bytes of the request body.
    pub input_bytes: u64,
    /// `max_tokens` as asked.
    pub max_tokens: Option<Amount>,
    /// Calls in flight on the route.
    pub concurrency: u64,
    /// HTTP status.
    pub status: Option<u16>,
    /// `retry-after`.
    pub retry_after: Option<Duration>,
    /// The provider's request id.
    pub request_id: Option<Arc<str>>,
}

impl Attempt {
    fn of(end: &End) -> Self {
        Self {
            at: end.at,
            credential: end.call.credential.clone(),
            model: end.model.clone(),
            region: end.call.region.clone(),
            input_bytes: end.request.body_bytes,
            max_tokens: end.request.max_tokens,
            concurrency: end.concurrency,
            status: end.status,
            retry_after: end.limits.retry_after,
            request_id: end.limits.request_id.clone(),
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |n: Option<u64>| n.map_or_else(|| "not stated".to_owned(), |n| n.to_string());
        write!(
            f,
            "credential {}, model {}, region {}, input {} bytes, max_tokens {}, concurrency {}, retry-after {}, status {}",
            self.credential.label(),
            self.model.as_ref().map_or("not stated", ModelGroup::as_str),
            self.region.as_deref().unwrap_or("not stated"),
            self.input_bytes,
            or_none(self.max_tokens.map(Amount::get)),
            self.concurrency,
            self.retry_after.map_or_else(|| "none".to_owned(), |d| format!("{} s", d.as_secs())),
            self.status.map_or_else(|| "no response".to_owned(), |s| s.to_string()),
        )
    }
}

/// A failure that is not over.
#[derive(Clone, Debug)]
pub struct Open {
    /// The first failure.
    pub first: Attempt,
    /// The newest failure.
    pub current: Attempt,
    /// Failures so far.
    pub failures: u64,
    /// Whose limit, as the newest failure proved it.
    pub owner: Owner,
    /// Why, as the newest failure proved it.
    pub verdict: Verdict,
    /// When a smaller success last passed on the same route.
    pub eased: Option<Timestamp>,
}

/// The record of one route.
#[derive(Clone, Debug, Default)]
pub struct Incident {
    /// The newest success.
    pub last_success: Option<Attempt>,
    /// The failure that is going on.
    pub open: Option<Open>,
}

/// A success counts as comparable from this share of the failed request's size.
const COMPARABLE: f64 = 0.8;

impl Incident {
    /// Takes in a success.
    pub fn success(&mut self, end: &End) {
        let attempt = Attempt::of(end);
        if let Some(open) = &mut self.open {
            let failed = &open.first;
            let as_large = attempt.input_bytes as f64 >= failed.input_bytes as f64 * COMPARABLE
                && attempt.max_tokens >= failed.max_tokens
                && attempt.model == failed.model;
            if as_large {
                self.open = None;
            } else {
                open.eased = Some(attempt.at);
            }
        }
        self.last_success = Some(attempt);
    }

    /// Takes in a failure and its verdict.
    pub fn failure(&mut self, end: &End, owner: &Owner, verdict: &Verdict) {
        let attempt = Attempt::of(end);
        match &mut self.open {
            Some(open) => {
                open.current = attempt;
                open.failures += 1;
                open.owner = owner.clone();
                open.verdict = verdict.clone();
            }
            None => {
                self.open = Some(Open {
                    first: attempt.clone(),
                    current: attempt,
                    failures: 1,
                    owner: owner.clone(),
                    verdict: verdict.clone(),
                    eased: None,
                });
            }
        }
    }
}
