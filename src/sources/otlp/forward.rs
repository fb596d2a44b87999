//! Sends everything that is received on to a collector, byte for byte, by OTLP/HTTP.
//!
//! The sender has its answer before the collector has the data: a slow collector stalls nobody. What waits is bounded in
//! bytes, what no longer fits is dropped and counted. A collector that asks for patience (429, 502, 503, 504) is asked
//! again, for as long as the room lasts.

use super::item::Signal;
use crate::config::sources::Forward;
use crate::outgoing::{self, Redirects};
use crate::stats::Deliveries;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use secrecy::ExposeSecret;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// How long the collector may take over one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Pauses between attempts, the last one for all further ones.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// Attempts before a request is given up: some five minutes.
const ATTEMPTS: usize = 25;
/// Longest wait that a collector may ask for.
const LONGEST: Duration = Duration::from_secs(60);
/// Requests that may wait, however small.
const QUEUE: usize = 4_096;

/// A request as it came.
pub struct Parcel {
    /// The signal.
    pub signal: Signal,
    /// Its `content-type`.
    pub kind: HeaderValue,
    /// Its `content-encoding`.
    pub encoding: Option<HeaderValue>,
    /// Its body, still encoded.
    pub body: Bytes,
}

/// The way to the collector.
#[derive(Clone)]
pub struct Forwarder {
    queue: mpsc::Sender<(Parcel, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    stats: Arc<crate::stats::Stats>,
}

impl Forwarder {
    /// Takes a request to be sent on; drops it if there is no room.
    pub fn take(&self, parcel: Parcel) {
        // Counted in kilobytes: a semaphore counts no further than 2^29 on some machines.
        let size = u32::try_from(parcel.body.len() / 1_024 + 1).unwrap_or(u32::MAX);
        let permit = self.room.clone().try_acquire_many_owned(size).ok();
        let taken = permit.is_some_and(|permit| self.queue.try_send((parcel, permit)).is_ok());
        if !taken {
            self.stats.forward.dropped.up();
        }
    }
}

/// Starts it.
///
/// # Errors
/// If no HTTP client can be made.
pub fn spawn(
    config: &Forward,
    stats: &Arc<crate::stats::Stats>,
) -> Result<(Forwarder, JoinHandle<()>), String> {
    let mut headers = HeaderMap::new();
    for (name, secret) in &config.headers {
        let mut value = HeaderValue::from_str(secret.expose_secret())
            .map_err(|_| format!("otlp.forward.headers.{name}: not a header's value"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let client = outgoing::client(Redirects::Refused)
        .timeout(TIMEOUT)
        .default_headers(headers)
        .build()
        .map_err(|error| error.to_string())?;
    let (queue, mut waiting) = mpsc::channel::<(Parcel, OwnedSemaphorePermit)>(QUEUE);
    let room = Arc::new(Semaphore::new(config.max_bytes / 1_024));
    let (endpoint, counted) = (config.endpoint.clone(), stats.clone());
    let task = tokio::spawn(async move {
        while let Some((parcel, permit)) = waiting.recv().await {
            send(&client, &endpoint, &parcel, &counted.forward).await;
            drop(permit);
        }
    });
    Ok((Forwarder { queue, room, stats: stats.clone() }, task))
}

async fn send(client: &reqwest::Client, endpoint: &str, parcel: &Parcel, stats: &Deliveries) {
    let url = format!("{endpoint}{}", parcel.signal.path());
    for attempt in 0..ATTEMPTS {
        let mut request =
            client.post(&url).header(header::CONTENT_TYPE, &parcel.kind).body(parcel.body.clone());
        if let Some(encoding) = &parcel.encoding {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        let wait = match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                stats.sent.up();
                return;
            }
            Ok(answer) if ![429, 502, 503, 504].contains(&answer.status().as_u16()) => {
                let why = outgoing::refusal(answer.status(), answer.headers());
                failed(stats, &format!("the collector refused: {why}"));
                return;
            }
            Ok(answer) => {
                let asked =
                    answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                asked.map(Duration::from_secs)
            }
            Err(_) => None,
        };
        let pause = PAUSES[attempt.min(PAUSES.len() - 1)];
        tokio::time::sleep(wait.unwrap_or(pause).min(LONGEST)).await;
    }
    failed(stats, "the collector was not reached");
}

fn failed(stats: &Deliveries, why: &str) {
    // Said once: a collector that is gone would say it for every request.
    if stats.failed.get() == 0 {
        tracing::warn!(
            why,
            "what was received by OTLP could not be sent on; further failures are only counted"
        );
    }
    stats.failed.up();
}
