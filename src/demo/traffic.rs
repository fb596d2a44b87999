//! Traffic that grows: calls of a steady size at a rate that rises until the bucket runs dry.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How the traffic grows.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Calls per second at the start.
    pub start: f64,
    /// How many more each second.
    pub growth: f64,
    /// Bytes of a prompt.
    pub prompt: usize,
    /// Tokens of an answer.
    pub output: u64,
}

impl Plan {
    /// The demo's: passes the refill after some ten seconds, empties the bucket within the minute.
    pub const DEMO: Self = Self { start: 1.0, growth: 0.1, prompt: 4_000, output: 60 };
}

/// Traffic on its way.
#[derive(Debug)]
pub struct Traffic {
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    sent: AtomicU64,
    rejected: AtomicU64,
    broken: AtomicU64,
    first_429: OnceLock<Instant>,
}

type Caller = Client<HttpConnector, Full<Bytes>>;

impl Traffic {
    /// Sends calls to the hop at this address.
    pub fn start(hop: SocketAddr, plan: Plan) -> Self {
        let state = Arc::new(State {
            sent: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            first_429: OnceLock::new(),
        });
        let task = tokio::spawn(send(hop, plan, state.clone()));
        Self { state, task }
    }

    /// Calls sent.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Relaxed)
    }

    /// Calls refused.
    pub fn rejected(&self) -> u64 {
        self.state.rejected.load(Relaxed)
    }

    /// Calls that broke off.
    pub fn broken(&self) -> u64 {
        self.state.broken.load(Relaxed)
    }

    /// How long ago the first call was refused.
    pub fn first_429_at(&self) -> Option<Duration> {
        self.state.first_429.get().map(Instant::elapsed)
    }

    /// Sends no more.
    pub fn stop(&self) {
        self.task.abort();
    }
}

async fn send(hop: SocketAddr, plan: Plan, state: Arc<State>) {
    let client: Caller = Client::builder(TokioExecutor::new()).build_http();
    let started = Instant::now();
    // Arrivals by the integral of the rate: the n-th call comes when the area under it reaches n.
    for n in 1_u32.. {
        let due = due(&plan, f64::from(n));
        tokio::time::sleep_until(started + Duration::from_secs_f64(due)).await;
        let (client, state) = (client.clone(), state.clone());
        state.sent.fetch_add(1, Relaxed);
        tokio::spawn(async move { call(client, hop, plan, &state).await });
    }
}

/// When the n-th call is due: start*t + growth*t²/2 = n.
fn due(plan: &Plan, n: f64) -> f64 {
    if plan.growth <= 0.0 {
        return n / plan.start;
    }
    ((plan.start * plan.start + 2.0 * plan.growth * n).sqrt() - plan.start) / plan.growth
}

async fn call(client: Caller, hop: SocketAddr, plan: Plan, state: &State) {
    let body = serde_json::json!({
        "max_tokens": plan.output,
        "stream": true,
        "messages": [{ "role": "user", "content": "search ".repeat(plan.prompt / 7) }],
        "model": "claude-opus-5-5",
    });
    let request = Request::post(format!("http://{hop}/v1/messages"))
        .header("x-api-key", "demo")
        .header("anthropic-version", "2023-06-01")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()));
    let Ok(request) = request else { return };
    match client.request(request).await {
        Ok(response) => {
            if response.status() == 429 {
                state.rejected.fetch_add(1, Relaxed);
                state.first_429.get_or_init(Instant::now);
            }
            if response.into_body().collect().await.is_err() {
                state.broken.fetch_add(1, Relaxed);
            }
        }
        Err(_) => {
            state.broken.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_follow_the_growing_rate() {
        let plan = Plan::DEMO;
        for n in [1.0, 10.0, 100.0] {
            let t = due(&plan, n);
            assert!((plan.start * t + plan.growth * t * t / 2.0 - n).abs() < 1e-6);
        }
        assert!((due(&Plan { growth: 0.0, start: 2.0, ..plan }, 8.0) - 4.0).abs() < 1e-9);
    }
}
