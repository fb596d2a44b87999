//! The load: closed loop on one connection and on many, open loop at a fixed rate.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What one run gave.
pub(crate) struct Figures {
    p50: f64,
    p99: f64,
    per_second: f64,
    /// How many calls there were.
    pub(crate) calls: usize,
}

impl Figures {
    pub(crate) const NAMES: [&'static str; 3] = ["p50_us", "p99_us", "per_second"];

    pub(crate) fn all(&self) -> [(&'static str, f64); 3] {
        [("p50_us", self.p50), ("p99_us", self.p99), ("per_second", self.per_second)]
    }

    fn of(mut micros: Vec<f64>, took: Duration) -> Self {
        micros.sort_by(f64::total_cmp);
        let at = |share: f64| micros[((micros.len() - 1) as f64 * share) as usize];
        let calls = micros.len();
        Self { p50: at(0.5), p99: at(0.99), per_second: calls as f64 / took.as_secs_f64(), calls }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {:>7.1} us  p99 {:>8.1} us  {:>8.0}/s", self.p50, self.p99, self.per_second)
    }
}

/// A load.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    connections: usize,
    /// Calls a second over all connections; as fast as they come, if absent.
    rate: Option<f64>,
    time: Duration,
}

impl Load {
    pub(crate) fn all(quick: bool) -> Vec<Self> {
        let time = Duration::from_secs(if quick { 1 } else { 4 });
        vec![
            Self { name: "closed-1", connections: 1, rate: None, time },
            Self { name: "closed-64", connections: 64, rate: None, time },
            Self { name: "open-1000", connections: 64, rate: Some(1_000.0), time },
        ]
    }

    pub(crate) async fn run(&self, to: SocketAddr) -> Figures {
        let micros = Arc::new(Mutex::new(Vec::new()));
        let started = Instant::now();
        let mut tasks = Vec::new();
        for nth in 0..self.connections {
            let (micros, time) = (micros.clone(), self.time);
            let every = self.rate.map(|rate| Duration::from_secs_f64(self.connections as f64 / rate));
            let offset =
                every.map_or(Duration::ZERO, |every| every.mul_f64(nth as f64 / self.connections as f64));
            tasks.push(tokio::spawn(async move {
                let own = connection(to, started + offset, time, every).await;
                micros.lock().unwrap().extend(own);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let took = started.elapsed();
        Figures::of(Arc::try_unwrap(micros).unwrap().into_inner().unwrap(), took)
    }
}

/// Calls on one connection; in the open loop a call's time counts from when it was due.
async fn connection(to: SocketAddr, start: Instant, time: Duration, every: Option<Duration>) -> Vec<f64> {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = Bytes::from(request_body());
    let mut micros = Vec::new();
    for n in 0_u32.. {
        let due = match every {
            Some(every) => start + every * n,
            None => Instant::now(),
        };
        if due.saturating_duration_since(start) >= time {
            break;
        }
        if every.is_some() {
            tokio::time::sleep_until(due.into()).await;
        }
        // The timer's wheel is a millisecond wide: lateness of the loader is not the proxy's.
        let begun = Instant::now();
        let from = if begun.duration_since(due) < Duration::from_millis(2) { begun } else { due };
        call(&mut sender, to, body.clone()).await;
        micros.push(from.elapsed().as_secs_f64() * 1e6);
    }
    micros
}

fn request_body() -> String {
    format!(
        r#"{{"max_tokens":16,"messages":[{{"role":"user","content":"{}"}}],"model":"claude-opus-5-5"}}"#,
        "word ".repeat(80)
    )
}

async fn call(sender: &mut SendRequest<Full<Bytes>>, to: SocketAddr, body: Bytes) {
    let request = Request::post("/v1/messages")
        .header("host", to.to_string())
        .header("x-api-key", "sk-ant-bench")
        .header("user-agent", "bench/1")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .unwrap();
    sender.ready().await.unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.len() > 500);
}
