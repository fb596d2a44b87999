//! A small receiver of the shape of Alertmanager's API: remembers what was posted to it.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One alert as it came.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Received {
    /// Identity.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
    /// When it began, RFC 3339.
    #[serde(rename = "startsAt")]
    pub starts_at: String,
    /// When it came.
    #[serde(skip)]
    pub at: Option<jiff::Timestamp>,
}

/// A receiver that is listening.
#[derive(Debug)]
pub struct Receiver {
    /// The address it listens on.
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Most distinct alerts remembered.
const MAX: usize = 1_000;

impl Receiver {
    /// Starts it on a port of its own.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = received.clone();
        let task = tokio::spawn(super::serve(listener, move |request| take(request, kept.clone())));
        Ok(Self { address, received, task })
    }

    /// Every alert, once, as it first came.
    pub fn all(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first alert that announces (pressure or exhaustion).
    pub fn first_pressure(&self) -> Option<Received> {
        let names = ["PlimsollBucketPressure", "PlimsollBucketExhausting"];
        self.all()
            .into_iter()
            .find(|a| a.labels.get("alertname").is_some_and(|n| names.contains(&n.as_str())))
    }
}

async fn take(
    request: Request<Incoming>,
    kept: Arc<Mutex<Vec<Received>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::default());
    match serde_json::from_slice::<Vec<Received>>(&body) {
        Ok(alerts) => {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            for mut alert in alerts {
                let known = kept.iter().any(|k| k.labels == alert.labels && k.starts_at == alert.starts_at);
                if !known && kept.len() < MAX {
                    alert.at = Some(jiff::Timestamp::now());
                    kept.push(alert);
                }
            }
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}
