//! A start with a configuration that cannot be used: the workload starts, and nothing opens or sends that should not.

use crate::support::raw::Upstream;
use crate::support::{PATIENCE, serve_http1, wait_for};
use http::StatusCode;
use http_body_util::Full;
use plimsoll::app::{self, Running, Seams};
use plimsoll::config::Config;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The command as it runs, with every line of its log.
struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    fn start(config: &Path, more: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        command.args(["run", "--log-format", "json", "--config"]).arg(config).args(more);
        Self::of(command.env_clear().envs(env.iter().copied()))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                kept.lock().unwrap().push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        Self { child, log }
    }

    /// The address that a line of the log names.
    async fn address(&self, message: &str) -> String {
        wait_for(message, async || {
            let log = self.log.lock().unwrap();
            let line = log.iter().find(|line| line["fields"]["message"] == message)?;
            line["fields"]["address"].as_str().map(str::to_owned)
        })
        .await
    }

    fn lines(&self, level: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let of_level = log.iter().filter(|line| line["level"] == level);
        of_level.map(|line| line["fields"].to_string()).collect()
    }

    async fn metric(&self, name: &str, parts: &[&str]) -> Option<f64> {
        let metrics = self.address("metrics, health and runbooks").await;
        let text = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
        crate::support::metric(&text, name, parts)
    }

    async fn wait(&self, name: &str, parts: &[&str], wanted: f64) {
        wait_for(&format!("{name} = {wanted}"), async || {
            (self.metric(name, parts).await == Some(wanted)).then_some(())
        })
        .await;
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    async fn end(mut self) {
        self.signal("-TERM");
        assert!(tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().success());
    }
}

const PORTS: &str = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\n";
const GOOD: &str = "plimsoll_config_last_reload_successful";

async fn upstream() -> Upstream {
    Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
}

async fn asked(hop: &str, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{hop}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_bad_file_keeps_no_workload_from_starting_and_is_taken_once_it_is_mended() {
    let upstream = upstream().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plimsoll.yaml");
    let text = format!(
        "{PORTS}listeners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: api, upstream: 'http://{0}'}}\n  - {{name: b, prefix: /b, upsteam: 'http://{0}'}}\nowners: [{{nam: x}}]\n",
        upstream.address
    );
    std::fs::write(&path, &text).unwrap();
    let process = Process::start(&path, &[], &[]);
    let hop = process.address("hop listens").await;
    assert_eq!(asked(&hop, "/v1/messages").await, (200, "ok".to_owned()));
    let (status, body) = asked(&hop, "/b/v1/messages").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    let message = body["error"]["message"].as_str().unwrap();
    assert_eq!(
        (status, body["type"].as_str(), body["error"]["type"].as_str()),
        (503, Some("error"), Some("api_error"))
    );
    assert!(
        message.contains(&format!("{}, line 7", path.display())) && message.contains("\"b\""),
        "{message}"
    );
    process.wait(GOOD, &[], 0.0).await;
    let loud = process.lines("ERROR");
    assert_eq!(loud.len(), 1, "{loud:?}");
    for wanted in
        [path.to_str().unwrap(), "line 7", "did you mean `upstream`?", "line 8", "did you mean `name`?"]
    {
        assert!(loud[0].contains(wanted), "{wanted}: {loud:?}");
    }
    std::fs::write(&path, text.replace("upsteam", "upstream").replace("nam:", "name:")).unwrap();
    process.signal("-HUP");
    process.wait(GOOD, &[], 1.0).await;
    assert_eq!(asked(&hop, "/b/v1/messages").await.0, 200);
    process.end().await;
}

#[tokio::test]
async fn a_listener_whose_routes_cannot_be_read_answers_503_on_each_path() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{PORTS}listeners:\n- {{bind: '127.0.0.1:0', routes: [\n")).unwrap();
    let mut process = Process::start(file.path(), &["--strict"], &[]);
    let ended = tokio::time::timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(78), "--strict is for CI");
    std::fs::write(file.path(), format!("{PORTS}listeners:\n- {{bind: '127.0.0.1:0', routes: none}}\n"))
        .unwrap();
    let process = Process::start(file.path(), &[], &[]);
    let hop = process.address("hop listens").await;
    for path in ["/", "/v1/messages"] {
        let (status, body) = asked(&hop, path).await;
        assert!(status == 503 && body.contains("line 4"), "{body}");
    }
    process.end().await;
}

#[tokio::test]
async fn the_last_good_configuration_runs_where_the_new_one_cannot() {
    let upstream = upstream().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, state) = (dir.path().join("plimsoll.yaml"), dir.path().join("state"));
    std::fs::create_dir(&state).unwrap();
    let text = format!(
        "state_dir: {}\n{PORTS}credentials: [{{alias: ci, secret: {{env: KEY}}}}]\nlisteners:\n- bind: 127.0.0.1:0\n  routes: [{{name: api, upstream: 'http://{}'}}]\n",
        state.display(),
        upstream.address
    );
    std::fs::write(&path, &text).unwrap();
    let env = [("KEY", "sk-ant-api03-secret-value")];
    let process = Process::start(&path, &["--strict"], &env);
    process.wait(GOOD, &[], 1.0).await;
    let kept = state.join("last-good.yaml");
    wait_for("it to be kept", async || (std::fs::read_to_string(&kept).ok()? == text).then_some(())).await;
    process.end().await;
    // Another upstream, and nothing of it may be guessed.
    std::fs::write(&path, text.replace("upstream:", "upsteam:")).unwrap();
    let process = Process::start(&path, &[], &env);
    let hop = process.address("hop listens").await;
    assert_eq!(asked(&hop, "/").await, (200, "ok".to_owned()));
    process.wait(GOOD, &[], 0.0).await;
    let loud = process.lines("ERROR");
    assert!(loud.len() == 1 && loud[0].contains("last-good.yaml") && loud[0].contains("line 7"), "{loud:?}");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), text, "a bad one takes no good one's place");
    process.end().await;
}

async fn lenient(text: &str) -> Running {
    let config = Config::partly(text, &|_| None, "plimsoll.yaml");
    let seams = Seams { env: |_| None, lenient: true, ..Seams::default() };
    app::start(config, seams).await.expect("it starts")
}

/// What is no certificate is found out only when it is used.
#[tokio::test]
async fn a_listener_does_not_open_without_its_certificates_and_a_route_answers_so() {
    let upstream = upstream().await;
    let bad = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bad.path(), "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n").unwrap();
    let bad = bad.path().display();
    let spare = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let text = format!(
        "{PORTS}listeners:\n- bind: {spare}\n  tls: {{cert_file: {bad}, key_file: {bad}}}\n  routes: [{{name: a, upstream: 'http://{0}'}}]\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: b, upstream: 'http://{0}'}}\n  - {{name: c, prefix: /c, upstream: 'http://{0}', client_cert_file: {bad}}}\n",
        upstream.address
    );
    let running = lenient(&text).await;
    assert_eq!(running.hops().len(), 1);
    assert!(tokio::net::TcpStream::connect(spare).await.is_err(), "not in the clear");
    let hop = running.hops()[0].to_string();
    assert_eq!(asked(&hop, "/").await.0, 200);
    let (status, body) = asked(&hop, "/c/v1").await;
    assert!(status == 503 && body.contains("certificates of route"), "{body}");
    assert_eq!(running.stats.last_reload_refused.get(), 1);
    let whole = Config::parse(&text, &|_| None).unwrap();
    let strict = app::start(whole, Seams { env: |_| None, ..Seams::default() }).await;
    assert!(strict.is_err(), "--strict");
}

/// The port of whoever holds a lock to it opens with the lock, and as soon as that can be read.
#[tokio::test]
async fn the_admin_port_opens_with_its_token_or_not_at_all() {
    let upstream = upstream().await;
    let text = |token: &str| {
        format!(
            "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0', token: {token}}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes: [{{name: a, upstream: 'http://{}'}}]\n",
            upstream.address
        )
    };
    let mut running = lenient(&text("{env: UNSET}")).await;
    assert_eq!(running.open_control(None).await.unwrap(), None);
    let mended = Config::parse(&text("{env: SET}"), &|_| Some("one".to_owned())).unwrap();
    assert_eq!(running.reload(&mended).await.unwrap(), Vec::<&str>::new());
    let address = running.control().expect("it is open").to_string();
    let status = async |token: &str| {
        let request = reqwest::Client::new().get(format!("http://{address}/v1/state")).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((status("").await, status("one").await), (401, 200));
    // A token that is rotated is the one that counts, and the other no longer does.
    let rotated = Config::parse(&text("{env: SET}"), &|_| Some("two".to_owned())).unwrap();
    assert_eq!(running.reload(&rotated).await.unwrap(), Vec::<&str>::new());
    assert_eq!((status("one").await, status("two").await), (401, 200));
}

/// A configuration, a secret or a log without an end, and a route to ourselves: each is an error with its place.
#[tokio::test]
async fn check_refuses_what_has_no_end() {
    let check = async |config: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        let command = command.env_clear().args(["check", "--config"]).arg(config).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let dir = tempfile::tempdir().unwrap();
    let (link, path) = (dir.path().join("link"), dir.path().join("plimsoll.yaml"));
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    let (code, said) = check(&link).await;
    assert!(code == Some(78) && said.contains("a device"), "{said}");
    let link = link.display();
    for (text, wanted) in [
        (format!("fingerprint_key: {{file: {link}}}\n"), "line 1, column 25: fingerprint_key.file"),
        (format!("sources: {{tails: [{{path: {link}, name: t}}]}}\n"), "sources.tails[0].path: a device"),
        (
            format!("alerts: {{alertmanagers: [{{url: 'http://a', ca_file: {link}}}]}}\n"),
            "ca_file: cannot read",
        ),
        (
            "listeners: [{bind: '0.0.0.0:8429', routes: [{name: a, upstream: 'http://localhost:8429'}]}]\n"
                .to_owned(),
            "leads back to this sidecar's own listener on 0.0.0.0:8429",
        ),
    ] {
        std::fs::write(&path, &text).unwrap();
        let (code, said) = check(&path).await;
        assert!(code == Some(78) && said.contains(wanted), "{text}: {said}");
    }
}

/// A file that may grow no further is what a full disk is.
#[tokio::test]
async fn a_full_disk_leaves_no_torn_line() {
    let upstream = upstream().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, record) = (dir.path().join("plimsoll.yaml"), dir.path().join("answers.jsonl"));
    std::fs::write(
        &path,
        format!(
            "{PORTS}listeners:\n- bind: 127.0.0.1:0\n  routes: [{{name: api, upstream: 'http://{}'}}]\n",
            upstream.address
        ),
    )
    .unwrap();
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    command.env_clear().args([
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_plimsoll"),
        "run",
        "--log-format",
        "json",
        "--config",
    ]);
    let process = Process::of(command.arg(&path).arg("--record").arg(&record));
    let hop = process.address("hop listens").await;
    wait_for("the disk to be full", async || {
        assert_eq!(asked(&hop, "/v1/messages").await.0, 200);
        process.metric("plimsoll_exports_total", &["record", "failed"]).await.filter(|n| *n >= 2.0)
    })
    .await;
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.ends_with('\n') && text.lines().count() > 2, "{text}");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    process.end().await;
}

/// Exports failed this often before the log is looked at.
const FAILURES: f64 = 4.0;

fn exporting(upstream: &Upstream, dir: &Path, endpoint: std::net::SocketAddr, protocol: &str) -> Process {
    let path = dir.join("plimsoll.yaml");
    let text = format!(
        "{PORTS}otlp: {{endpoint: 'http://{endpoint}', protocol: {protocol}, interval_secs: 1}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes: [{{name: api, upstream: 'http://{}'}}]\n",
        upstream.address
    );
    std::fs::write(&path, text).unwrap();
    Process::start(&path, &[], &[])
}

/// Waits until exports have failed for a while; then one line has said so.
async fn failed_for_a_while(process: &Process) {
    wait_for("failures", async || {
        let failed = process.metric("plimsoll_exports_total", &["otlp_metrics", "failed"]).await;
        failed.filter(|n| *n >= FAILURES)
    })
    .await;
    let (said, errors) = (process.lines("WARN"), process.lines("ERROR"));
    assert_eq!((said.len(), errors.len()), (1, 0), "{said:?} {errors:?}");
    assert!(said[0].contains("the collector takes no exports") && said[0].contains("metrics"), "{said:?}");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_line_and_so_does_its_return() {
    let (upstream, dir) = (upstream().await, tempfile::tempdir().unwrap());
    // Bound and not listening: nobody is there, and no other test gets the port.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let process = exporting(&upstream, dir.path(), nobody.local_addr().unwrap(), "grpc");
    failed_for_a_while(&process).await;
    process.end().await;
    let back = Arc::new(AtomicBool::new(false));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let there = back.clone();
    serve_http1(listener, move |_| {
        let mut answer = http::Response::new(Full::<bytes::Bytes>::default());
        *answer.status_mut() =
            if there.load(Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        async move { answer }
    });
    let process = exporting(&upstream, dir.path(), address, "http/protobuf");
    failed_for_a_while(&process).await;
    back.store(true, Relaxed);
    let again = || process.lines("INFO").into_iter().filter(|line| line.contains("takes the exports again"));
    let line = wait_for("its return", async || again().next()).await;
    let fields: Value = serde_json::from_str(&line).unwrap();
    assert!(fields["failures"].as_f64() >= Some(FAILURES), "{line}");
    assert_eq!((again().count(), process.lines("WARN").len()), (1, 1));
    process.end().await;
}
