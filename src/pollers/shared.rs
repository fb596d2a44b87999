//! Limits that a poller of ours knows: its `/v1/limits`. Unchanged ones cost a line (`ETag`).

use super::http;
use super::runner::{Failure, Poll};
use crate::clock::Clock;
use crate::observation::Quotas;
use crate::shared_limits::Document;
use ::http::StatusCode;
use std::sync::Arc;

/// Asks a poller of ours.
pub struct Shared {
    client: reqwest::Client,
    url: String,
    clock: Clock,
    kept: Option<(String, Arc<Quotas>)>,
}

impl Shared {
    /// A reader of this address.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(url: &str, clock: Clock) -> Result<Self, String> {
        Ok(Self { client: http::client()?, url: url.to_owned(), clock, kept: None })
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
        let (quotas, unread) = document.quotas(self.clock.now());
        if unread > 0 {
            tracing::warn!(unread, "limits of a newer poller that are not known here are left out");
        }
        let quotas = Arc::new(quotas);
        let tag = answer.headers.get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
        self.kept = tag.map(|tag| (tag, quotas.clone()));
        Ok(quotas)
    }
}
