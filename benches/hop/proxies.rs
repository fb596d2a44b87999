//! The contestants, each in a process of its own.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// An answer of the API's size and headers: about 1 KiB. Each has an id of its own, which is remembered for a while.
fn answer() -> Response<Full<Bytes>> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let text = "word ".repeat(120);
    let body = format!(
        r#"{{"id":"msg_1","type":"message","role":"assistant","model":"claude-opus-5-5","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","usage":{{"input_tokens":12,"cache_creation_input_tokens":3,"cache_read_input_tokens":5,"output_tokens":4}}}}"#
    );
    let mut response = Response::new(Full::from(body));
    let reset = "2026-11-24T05:00:00Z";
    for (name, value) in [
        ("content-type", "application/json"),
        ("anthropic-organization-id", "00000000-0000-0000-0000-000000000000"),
        ("anthropic-workspace-id", "wrkspc_bench"),
        ("anthropic-ratelimit-requests-limit", "400000"),
        ("anthropic-ratelimit-requests-remaining", "399000"),
        ("anthropic-ratelimit-requests-reset", reset),
        ("anthropic-ratelimit-input-tokens-limit", "2000000"),
        ("anthropic-ratelimit-input-tokens-remaining", "1999000"),
        ("anthropic-ratelimit-input-tokens-reset", reset),
        ("anthropic-ratelimit-output-tokens-limit", "400000"),
        ("anthropic-ratelimit-output-tokens-remaining", "400000"),
        ("anthropic-ratelimit-output-tokens-reset", reset),
        ("anthropic-ratelimit-tokens-limit", "2400000"),
        ("anthropic-ratelimit-tokens-remaining", "2399000"),
        ("anthropic-ratelimit-tokens-reset", reset),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let id = format!("req_011CZ47RML{:014}", CALLS.fetch_add(1, Ordering::Relaxed));
    response.headers_mut().insert("request-id", HeaderValue::try_from(id).unwrap());
    response
}

async fn announce() -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    listener
}

/// The upstream: reads the request, answers at once.
pub(crate) async fn upstream() {
    let listener = announce().await;
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let service = service_fn(|request: Request<Incoming>| async move {
            request.into_body().collect().await.ok();
            Ok::<_, Infallible>(answer())
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// Baseline A: forwards, streams both ways, keeps connections and the case of names (without which a
/// hop is not transparent); measures nothing.
pub(crate) async fn baseline(upstream: SocketAddr) {
    let listener = announce().await;
    let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> =
        Client::builder(TokioExecutor::new()).http1_preserve_header_case(true).build(connector);
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        let client = client.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let client = client.clone();
            async move {
                let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
                *request.uri_mut() = format!("http://{upstream}{path}").parse::<Uri>().unwrap();
                request.headers_mut().insert("host", HeaderValue::from_str(&upstream.to_string()).unwrap());
                client.request(request).await
            }
        });
        let mut server = hyper::server::conn::http1::Builder::new();
        server.preserve_header_case(true).auto_date_header(false);
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
    }
}

/// Memory of a process.
pub(crate) struct Memory {
    pub(crate) anon_mb: f64,
    pub(crate) rss_mb: f64,
}

/// A contestant.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
    _dir: Option<tempfile::TempDir>,
}

impl Proxy {
    async fn of(name: &'static str, command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        Self { name, address, child: Some(child), _dir: None }
    }

    pub(crate) async fn upstream() -> Self {
        Self::of("upstream", Command::new(std::env::current_exe().unwrap()).arg("upstream")).await
    }

    pub(crate) async fn baseline(upstream: &Self) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        Self::of("A", command.args(["baseline", &upstream.address.to_string()])).await
    }

    pub(crate) fn direct(upstream: &Self) -> Self {
        Self { name: "direct", address: upstream.address, child: None, _dir: None }
    }

    /// The release binary with what it measures on, GenAI metrics too; no collector, so no spans.
    pub(crate) async fn plimsoll(upstream: &Self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free();
        let config = format!(
            "metrics: {{bind: '{}'}}\nadmin: {{bind: '{}'}}\nlisteners:\n- bind: {address}\n  routes: [{{name: api, upstream: 'http://{}', surface: anthropic_api}}]\nowners: [{{name: search, match: {{routes: [api]}}}}]\notlp: {{semconv: both}}\n",
            free(),
            free(),
            upstream.address
        );
        let file = dir.path().join("plimsoll.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(["run", "--config"]).arg(&file).env("PLIMSOLL_LOG", "warn");
        let child = command.kill_on_drop(true).spawn().unwrap();
        ready(address).await;
        Self { name: "plimsoll", address, child: Some(child), _dir: Some(dir) }
    }

    /// Envoy with a JSON access log of the limit headers, if its binary is named.
    pub(crate) async fn envoy(upstream: &Self) -> Option<Self> {
        let binary = std::env::var_os("PLIMSOLL_ENVOY")?;
        let (dir, address) = (tempfile::tempdir().unwrap(), free());
        let config = include_str!("envoy.yaml")
            .replace("%PORT%", &address.port().to_string())
            .replace("%UPSTREAM%", &upstream.address.port().to_string())
            .replace("%LOG%", &dir.path().join("access.log").display().to_string());
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(dir.path().join("envoy.log")).unwrap();
        let mut command = Command::new(binary);
        command
            .arg("-c")
            .arg(&file)
            .args(["--concurrency", "2", "--disable-hot-restart"])
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.kill_on_drop(true).spawn().unwrap();
        ready(address).await;
        Some(Self { name: "B", address, child: Some(child), _dir: Some(dir) })
    }

    /// Seconds of CPU that the process has taken, by all of its threads, in hundredths: the kernel's tick.
    pub(crate) fn cpu(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.as_ref()?.id()?)).ok()?;
        // Behind the name, which may hold blanks: user and system time are the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / 100.0)
    }

    pub(crate) fn memory(&self) -> Option<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.as_ref()?.id()?)).ok()?;
        let kb = |name: &str| -> Option<f64> {
            status.lines().find(|l| l.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Memory { anon_mb: kb("RssAnon:")? / 1024.0, rss_mb: kb("VmRSS:")? / 1024.0 })
    }
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

async fn ready(address: SocketAddr) {
    for _ in 0..500 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{address} does not listen");
}
