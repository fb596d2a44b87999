//! Reads a provider's public status page, rarely, and only while an incident is open.
//!
//! Off unless configured. A green page proves nothing and a red one settles no quota, so its words go
//! into evidence packets and nowhere else. The page's JSON is that of Statuspage:
//! `{"status":{"indicator":"none","description":"All Systems Operational"}}`.

use crate::clock::Clock;
use crate::engine::Snapshot;
use crate::limit::Timestamp;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Most of the page that is read.
const MAX_BYTES: usize = 256 * 1024;
/// How long one reading may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest sentence that is kept.
const MAX_WORDS: usize = 200;

/// The page's words and when they were read, or why they could not be.
pub type Reading = Option<(Timestamp, String)>;

/// What the poller runs with.
pub struct Parts {
    /// Address of the summary.
    pub url: String,
    /// How often it is read while an incident is open.
    pub interval: Duration,
    /// Says whether an incident is open.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The time.
    pub clock: Clock,
}

/// Starts the poller; it ends with the engine.
///
/// # Errors
/// If the HTTP client cannot be made.
pub fn spawn(parts: Parts) -> Result<(watch::Receiver<Reading>, JoinHandle<()>), reqwest::Error> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).user_agent("plimsoll").build()?;
    let (tx, rx) = watch::channel(None);
    Ok((rx, tokio::spawn(run(parts, client, tx))))
}

async fn run(mut parts: Parts, client: reqwest::Client, said: watch::Sender<Reading>) {
    loop {
        let open = |snapshot: &Arc<Snapshot>| snapshot.incidents.iter().any(|incident| incident.is_open());
        if parts.snapshots.wait_for(open).await.is_err() {
            return;
        }
        let words = match read(&client, &parts.url).await {
            Ok(words) => words,
            Err(problem) => format!("could not be read: {problem}"),
        };
        said.send_replace(Some((parts.clock.now(), words)));
        tokio::time::sleep(parts.interval).await;
    }
}

#[derive(Deserialize)]
struct Summary {
    status: Words,
}

#[derive(Deserialize)]
struct Words {
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
    let Words { description, indicator } = summary.status;
    let words = if indicator.is_empty() { description } else { format!("{description} ({indicator})") };
    Ok(words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect())
}
