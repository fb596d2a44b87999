//! Reads a provider's public status page, rarely, and only while an incident is open.
//!
//! Off unless configured. A green page proves nothing and a red one settles no quota, so its words go
//! into evidence packets and nowhere else. The page's JSON is that of Statuspage:
//! `{"status":{"indicator":"none","description":"All Systems Operational"}}`.

use super::runner::{Failure, Poll, State};
use crate::engine::Snapshot;
use crate::outgoing::{self, Redirects};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Most of the page that is read.
const MAX_BYTES: usize = 256 * 1024;
/// Longest sentence that is kept.
const MAX_WORDS: usize = 200;

/// How long one reading may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// The page's words, and when they were read.
pub type Words = State<String>;

/// Reads the page while an incident is open.
pub struct StatusPage {
    client: reqwest::Client,
    url: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl StatusPage {
    /// A reader of the summary at `url`; `snapshots` say whether an incident is open.
    ///
    /// # Errors
    /// If the HTTP client cannot be made.
    pub fn new(url: String, snapshots: watch::Receiver<Arc<Snapshot>>) -> Result<Self, reqwest::Error> {
        // How long a poll may take is the runner's to say.
        let client = outgoing::client(Redirects::FollowedByReads).build()?;
        Ok(Self { client, url, snapshots })
    }
}

impl Poll for StatusPage {
    type Value = String;

    async fn wanted(&mut self) -> bool {
        let open = |snapshot: &Arc<Snapshot>| snapshot.incidents.iter().any(|incident| incident.is_open());
        self.snapshots.wait_for(open).await.is_ok()
    }

    async fn poll(&mut self) -> Result<String, Failure> {
        Ok(read(&self.client, &self.url).await?)
    }
}

#[derive(Deserialize)]
struct Summary {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    description: String,
    #[serde(default)]
    indicator: String,
}

async fn read(client: &reqwest::Client, url: &str) -> Result<String, String> {
    // Without the URL: it may hold what nobody meant to show.
    let plain = |error: reqwest::Error| error.without_url().to_string();
    let mut response =
        client.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(plain)?;
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(plain)? {
        if body.len() + part.len() > MAX_BYTES {
            return Err("the page is larger than 256 kB".to_owned());
        }
        body.extend_from_slice(&part);
    }
    let summary: Summary =
        serde_json::from_slice(&body).map_err(|_| "the page is no Statuspage summary".to_owned())?;
    let Status { description, indicator } = summary.status;
    let words = if indicator.is_empty() { description } else { format!("{description} ({indicator})") };
    Ok(words.chars().filter(|c| !crate::text::unseen(*c)).take(MAX_WORDS).collect())
}
