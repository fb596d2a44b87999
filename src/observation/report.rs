//! What a source outside of a call's path tells of it: a log line, a span, an event, an access-log entry.
//!
//! Several of them may tell of one call, so each report carries the names by which it can be known again: ids of the
//! request, its span, its trace. Names are kept as hashes: they are compared and never shown.

use super::{End, Fingerprint, Head, Start};
use crate::limit::Timestamp;
use foldhash::fast::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

/// Something by which a call is known again, hashed with a key of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u64);

static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::default);

impl Key {
    /// The id that a provider or a gateway gave to the request.
    pub fn request(id: &str) -> Self {
        Self(STATE.hash_one((0_u8, id)))
    }

    /// A span: trace and span id, as they stand in a `traceparent`.
    pub fn span(trace: &str, span: &str) -> Self {
        Self(STATE.hash_one((1_u8, trace.as_bytes(), span.as_bytes())))
    }

    /// A trace.
    pub fn trace(trace: &str) -> Self {
        Self(STATE.hash_one((2_u8, trace)))
    }

    /// What a source itself calls a call (an id of a stream, say): further steps carry the same.
    pub fn own(source: &str, id: &str) -> Self {
        Self(STATE.hash_one((3_u8, source, id)))
    }

    /// A call of the hop.
    pub fn hop(call: u64) -> Self {
        Self(STATE.hash_one((5_u8, call)))
    }

    /// The same span, as the one above another.
    #[must_use]
    pub fn above(self) -> Self {
        Self(STATE.hash_one((6_u8, self.0)))
    }

    /// What tells a gateway's tenants apart, hashed like everything here.
    pub fn fingerprint(tenant: &str) -> Fingerprint {
        Fingerprint(STATE.hash_one((4_u8, tenant)).to_be_bytes())
    }

    /// The caller's span, out of a `traceparent`: the span that the caller itself reports.
    pub fn of_traceparent(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-').skip(1);
        let (trace, span) = (parts.next()?, parts.next()?);
        (trace.len() == 32 && span.len() == 16).then(|| Self::span(trace, span))
    }
}

/// By what a report's call is known again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// What names this call and no other: ids of the request.
    pub exact: Vec<Key>,
    /// The first of them that its provider, or its gateway, gave.
    pub request: Option<Key>,
    /// Its span: its own, or its caller's. A span may have made several calls.
    pub span: Option<Key>,
    /// The span above its own.
    pub parent: Option<Key>,
    /// Its trace. Several calls may share it.
    pub trace: Option<Key>,
    /// What its source calls it, where that tells of a call in steps.
    pub own: Option<Key>,
}

/// What one source tells of one call: a step of it, or all at once.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who tells.
    pub source: Arc<str>,
    /// By what the call is known again.
    pub keys: Keys,
    /// It is told by the span of a whole operation, above the spans of its requests: of a call that was told by one of
    /// those it is the same.
    pub spanning: bool,
    /// A request has passed.
    pub start: Option<Start>,
    /// A response head.
    pub head: Option<Head>,
    /// The end.
    pub end: Option<Box<End>>,
    /// Attempts before this one that failed, of which nobody says why.
    pub retries: u64,
    /// It tells of tokens alone; the calls that used them are not told of.
    pub tokens_only: bool,
    /// It is counted by a counter that knows no calls.
    pub aggregate: bool,
}

impl Report {
    /// True for a failure of which nothing is known but its status: another source may know more.
    pub fn is_bare_failure(&self) -> bool {
        self.end.as_ref().is_some_and(|end| {
            let said = end.error.as_ref().is_some_and(|error| !error.text.is_empty());
            end.failed() && end.limits.readings.is_empty() && !end.limits.answered() && !said
        })
    }

    /// When what it tells of was; absent if it tells of no moment.
    pub fn at(&self) -> Option<Timestamp> {
        let end = self.end.as_ref().map(|end| end.at);
        end.or(self.head.as_ref().map(|head| head.at)).or(self.start.as_ref().map(|start| start.at))
    }

    /// True if it says how full a bucket is.
    pub fn has_levels(&self) -> bool {
        self.head
            .as_ref()
            .is_some_and(|head| !head.limits.readings.is_empty() || !head.limits.tenant.is_empty())
    }
}
