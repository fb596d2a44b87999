//! What in an answer could not be used: counted each time, logged once, so that one odd name fills no log.

use crate::stats::Polls;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most names that are remembered.
const MOST: usize = 500;

/// What one source could not use.
pub struct Unusable {
    source: Arc<str>,
    polls: Arc<Polls>,
    named: BTreeSet<String>,
}

impl Unusable {
    /// Nothing yet.
    pub fn new(source: Arc<str>, polls: Arc<Polls>) -> Self {
        Self { source, polls, named: BTreeSet::new() }
    }

    /// One more; `what` says which, `why` what is wrong with it.
    pub fn note(&mut self, what: &str, why: &str) {
        self.polls.unusable.up();
        let what: String = what.chars().filter(|c| !crate::text::unseen(*c)).take(120).collect();
        if self.named.len() < MOST && !self.named.contains(&what) {
            tracing::warn!(source = %self.source, item = %what, "not used: {why}");
            self.named.insert(what);
        }
    }
}
