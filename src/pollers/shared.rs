//! Limits that a poller of ours knows: its `/v1/limits`. Unchanged ones cost a line (`ETag`).

use super::http;
use super::runner::{Failure, Poll};
use crate::clock::Clock;
use crate::limit::Timestamp;
use crate::observation::Quotas;
use crate::shared_limits::{Document, Source};
use ::http::StatusCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Asks a poller of ours.
pub struct Shared {
    client: reqwest::Client,
    url: String,
    clock: Clock,
    kept: Option<(String, Arc<Quotas>)>,
    /// The newest word of each of its sources: a poller that has just started, or is refused by one of them, does not
    /// know that again at once, and nothing known becomes unknown by it.
    sources: BTreeMap<String, Source>,
}

/// How long a source that the poller no longer tells of is believed.
const STALE: Duration = Duration::from_secs(7 * 86_400);
/// Most sources of one poller.
const MOST_SOURCES: usize = 512;

impl Shared {
    /// A reader of this address.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(url: &str, clock: Clock) -> Result<Self, String> {
        Ok(Self { client: http::client()?, url: url.to_owned(), clock, kept: None, sources: BTreeMap::new() })
    }
}

impl Poll for Shared {
    type Value = Arc<Quotas>;

    async fn poll(&mut self) -> Result<Arc<Quotas>, Failure> {
        let mut request = self.client.get(&self.url);
        if let Some((tag, _)) = &self.kept {
            request = request.header("if-none-match", tag);
        }
        let answer = http::fetch(request).await?;
        match (answer.status, &self.kept) {
            (StatusCode::NOT_MODIFIED, Some((_, kept))) => return Ok(kept.clone()),
            (StatusCode::OK, _) => {}
            _ => return Err(http::refused(&answer)),
        }
        let document: Document = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::from(format!("not a document of limits: {error}")))?;
        let now = self.clock.now();
        for source in document.sources {
            if self.sources.len() < MOST_SOURCES || self.sources.contains_key(&source.name) {
                self.sources.insert(source.name.clone(), source);
            }
        }
        self.sources.retain(|_, source| now.since(Timestamp::from_secs_f64(source.at)) < STALE);
        let (quotas, unread) = Document::quotas(self.sources.values(), now);
        if unread > 0 {
            tracing::warn!(unread, "limits of a newer poller that are not known here are left out");
        }
        let quotas = Arc::new(quotas);
        let tag = answer.headers.get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        self.kept = tag.map(|tag| (tag, quotas.clone()));
        Ok(quotas)
    }
}
