//! One JSON document by HTTP: bounded, its failures without addresses and with the wait that was asked for.

use super::runner::Failure;
use crate::causes::chain;
use crate::outgoing::{self, Redirects};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Most of an answer that is read.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// A client for pollers: no redirect, so that no credential goes where nobody sent it.
///
/// # Errors
/// If it cannot be made: no certificate authorities, as a rule.
pub fn client() -> Result<reqwest::Client, String> {
    outgoing::client(Redirects::Refused).build().map_err(|error| error.to_string())
}

/// An answer's head and body, whatever its status.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// If none came, or it is too large.
pub async fn fetch(request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
    // Without the URL: it may hold what nobody meant to show.
    let plain = |error: reqwest::Error| Failure::from(chain(&error.without_url()));
    let mut response = request.send().await.map_err(plain)?;
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(plain)? {
        if body.len() + part.len() > MAX_BYTES {
            return Err(Failure::from("the answer is larger than 8 MB".to_owned()));
        }
        body.extend_from_slice(&part);
    }
    Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
}

/// A JSON document; any other status than a success is a failure.
///
/// # Errors
/// If there is none; the message says what the other side said.
pub async fn json<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> Result<T, Failure> {
    let answer = fetch(request).await?;
    if !answer.status.is_success() {
        return Err(refused(&answer));
    }
    let mut json = serde_json::Deserializer::from_slice(&answer.body);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        Failure::from(format!(
            "the answer is not what the API documents: {} at {}",
            error.inner(),
            error.path()
        ))
    })
}

/// Why an answer is a failure, with its own words and the wait that it asks for.
pub fn refused(answer: &Answer) -> Failure {
    #[derive(serde::Deserialize)]
    struct Envelope {
        error: Said,
    }
    #[derive(serde::Deserialize)]
    struct Said {
        message: String,
    }
    let said = serde_json::from_slice(&answer.body).ok().map(|e: Envelope| format!(": {}", e.error.message));
    let wait = answer.headers.get("retry-after").and_then(|v| v.to_str().ok()?.trim().parse().ok());
    Failure {
        message: format!("{}{}", outgoing::refusal(answer.status, &answer.headers), said.unwrap_or_default()),
        retry_after: wait.map(Duration::from_secs),
    }
}
