//! Real programs, started on ports of their own and stopped with the test.

use crate::support::process::{Started, start};
use crate::support::{PATIENCE, wait_for};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where `scripts/e2e-deps.sh` puts what does not come from Debian.
pub fn installed(path: &str) -> PathBuf {
    let base = std::env::var_os("PLIMSOLL_E2E_DIR").map_or_else(|| root().join("target/e2e"), PathBuf::from);
    let found = base.join(path);
    assert!(found.exists(), "{} is missing; run scripts/e2e-deps.sh", found.display());
    found
}

/// A port that is free now.
pub fn free_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A program that runs until it is dropped.
pub struct Program {
    pub address: SocketAddr,
    pub child: Started,
    _dir: tempfile::TempDir,
}

fn spawn(command: &mut Command, dir: &Path) -> Started {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    start(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log))
}

async fn ready(name: &str, url: String) {
    wait_for(name, async || reqwest::get(&url).await.ok().filter(|r| r.status().is_success()).map(|_| ()))
        .await;
}

pub async fn prometheus(config: &str, rules: &str) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    std::fs::write(dir.path().join("prometheus.yaml"), config).unwrap();
    std::fs::write(dir.path().join("plimsoll.rules.yaml"), rules).unwrap();
    let child = spawn(
        Command::new("prometheus")
            .current_dir(dir.path())
            .arg("--config.file=prometheus.yaml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}")),
        dir.path(),
    );
    ready("Prometheus", format!("http://{address}/-/ready")).await;
    Program { address, child, _dir: dir }
}

pub async fn alertmanager(config: &str) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    std::fs::write(dir.path().join("alertmanager.yaml"), config).unwrap();
    let child = spawn(
        Command::new("prometheus-alertmanager")
            .current_dir(dir.path())
            .arg("--config.file=alertmanager.yaml")
            .arg("--storage.path=data")
            .arg("--cluster.listen-address=")
            .arg(format!("--web.listen-address={address}")),
        dir.path(),
    );
    ready("Alertmanager", format!("http://{address}/-/ready")).await;
    Program { address, child, _dir: dir }
}

/// A LiteLLM proxy with this configuration, and this module beside it.
pub async fn litellm(config: &str, module: &Path) -> Program {
    litellm_with(config, &[module], &[]).await
}

/// [`litellm`] with further modules and environment variables.
pub async fn litellm_with(config: &str, modules: &[&Path], env: &[(&str, String)]) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    std::fs::write(dir.path().join("config.yaml"), config).unwrap();
    for module in modules {
        std::fs::copy(module, dir.path().join(module.file_name().unwrap())).unwrap();
    }
    let child = spawn(
        Command::new(installed("litellm/bin/litellm"))
            .current_dir(dir.path())
            .args(["--config", "config.yaml", "--host", "127.0.0.1", "--telemetry", "False", "--port"])
            .arg(address.port().to_string())
            // Its price list would be fetched from the network.
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("PYTHONPATH", dir.path())
            .envs(env.iter().map(|(name, value)| (name, value))),
        dir.path(),
    );
    // It imports for ten seconds, and longer on a busy machine.
    let url = format!("http://{address}/health/liveliness");
    let up = async || reqwest::get(&url).await.ok().filter(|r| r.status().is_success()).map(|_| ());
    tokio::time::timeout(PATIENCE * 6, crate::support::eventually(up)).await.unwrap_or_else(|_| {
        panic!("LiteLLM: {}", std::fs::read_to_string(dir.path().join("log")).unwrap_or_default())
    });
    Program { address, child, _dir: dir }
}

/// An Envoy in front of this upstream (tests/e2e/gateways/envoy.yaml).
pub async fn envoy(upstream: SocketAddr) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let config = shipped("tests/e2e/gateways/envoy.yaml")
        .replace("LISTEN", &address.port().to_string())
        .replace("UPSTREAM", &upstream.port().to_string());
    std::fs::write(dir.path().join("envoy.yaml"), config).unwrap();
    let child = spawn(
        Command::new(installed("envoy/bin/envoy")).current_dir(dir.path()).args([
            "-c",
            "envoy.yaml",
            "--concurrency",
            "1",
            "--disable-hot-restart",
        ]),
        dir.path(),
    );
    // It answers for itself as soon as it listens; what is not /v1 is passed on and found nowhere.
    wait_for("Envoy", async || reqwest::get(format!("http://{address}/")).await.ok().map(|_| ())).await;
    Program { address, child, _dir: dir }
}

/// The shipped Envoy in front of this upstream, with its three logs where the sidecar takes them.
pub async fn envoy_with_its_logs(
    upstream: SocketAddr,
    to: &plimsoll::sources::Listening,
    log: &Path,
) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let shipped = shipped("examples/sources/envoy/bootstrap.yaml");
    // The API itself, without TLS; ports that nobody has are refused.
    let tls = shipped.find("    transport_socket:\n").unwrap();
    let after = tls + shipped[tls..].find("  - name: plimsoll_als").unwrap();
    let plain = format!("{}{}", &shipped[..tls], &shipped[after..]);
    let port = |address: Option<SocketAddr>| address.unwrap_or_else(free_port).port();
    let config = [
        ("port_value: 10000".to_owned(), format!("port_value: {}", address.port())),
        (
            "{address: api.anthropic.com, port_value: 443}".to_owned(),
            format!("{{address: 127.0.0.1, port_value: {}}}", upstream.port()),
        ),
        ("port_value: 9431".to_owned(), format!("port_value: {}", port(to.envoy_als))),
        ("port_value: 4318".to_owned(), format!("port_value: {}", port(to.otlp_http))),
        ("/var/log/envoy/plimsoll.jsonl".to_owned(), log.display().to_string()),
    ]
    .into_iter()
    .fold(plain, |text, (from, into)| {
        assert!(text.contains(&from), "the example has no `{from}` any more");
        text.replace(&from, &into)
    });
    std::fs::write(dir.path().join("envoy.yaml"), config).unwrap();
    let child = spawn(
        Command::new(installed("envoy/bin/envoy")).current_dir(dir.path()).args([
            "-c",
            "envoy.yaml",
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            "200",
        ]),
        dir.path(),
    );
    listens("Envoy", address, dir.path()).await;
    Program { address, child, _dir: dir }
}

/// Waits until something listens; what it logged, where it does not.
async fn listens(name: &str, address: SocketAddr, dir: &Path) {
    let up = async || tokio::net::TcpStream::connect(address).await.ok().map(drop);
    if tokio::time::timeout(PATIENCE, crate::support::eventually(up)).await.is_err() {
        panic!("{name}: {}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    }
}

fn replaced(example: &str, changes: &[(&str, String)]) -> String {
    changes.iter().fold(shipped(example), |text, (from, into)| {
        assert!(text.contains(from), "{example} has no `{from}` any more");
        text.replace(from, into)
    })
}

/// The shipped nginx in front of this upstream; its own limit is out of the way until hundreds come at once.
pub async fn nginx(upstream: SocketAddr, log: &Path) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let site = replaced(
        "examples/sources/nginx/plimsoll.conf",
        &[
            ("127.0.0.1:10080", address.to_string()),
            ("https://api.anthropic.com", format!("http://{upstream}")),
            ("/var/log/nginx/plimsoll.jsonl", log.display().to_string()),
            ("rate=50r/m", "rate=50r/s".to_owned()),
        ],
    );
    nginx_of(&site, address, dir).await
}

/// nginx with this site on this address.
pub async fn nginx_of(site: &str, address: SocketAddr, dir: tempfile::TempDir) -> Program {
    std::fs::write(dir.path().join("plimsoll.conf"), site).unwrap();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};", dir.path().join(kind).display()))
        .concat();
    let main = format!(
        "daemon off; pid nginx.pid; error_log stderr; events {{}} http {{ {temporary} include plimsoll.conf; }}\n"
    );
    std::fs::write(dir.path().join("nginx.conf"), main).unwrap();
    let child = spawn(
        Command::new("/usr/sbin/nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(dir.path().join("nginx.conf")),
        dir.path(),
    );
    listens("nginx", address, dir.path()).await;
    Program { address, child, _dir: dir }
}

/// The shipped HAProxy in front of this upstream, whose log is its standard output.
pub async fn haproxy(upstream: SocketAddr, log: &Path) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let shipped = shipped("examples/sources/haproxy/haproxy.cfg");
    let server = shipped.lines().find(|line| line.trim_start().starts_with("server ")).unwrap();
    let config = replaced(
        "examples/sources/haproxy/haproxy.cfg",
        &[
            (server, format!("  server api.anthropic.com {upstream}")),
            ("127.0.0.1:10081", address.to_string()),
            ("gt 50 }", "gt 300 }".to_owned()),
        ],
    );
    std::fs::write(dir.path().join("haproxy.cfg"), config).unwrap();
    let child = start(
        Command::new("/usr/sbin/haproxy")
            .arg("-f")
            .arg(dir.path().join("haproxy.cfg"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(log).unwrap())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap()),
    );
    listens("HAProxy", address, dir.path()).await;
    Program { address, child, _dir: dir }
}

/// A Portkey gateway on the loopback address.
pub async fn portkey(node: &Path, preload: &Path) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let child = spawn(
        Command::new("node")
            .current_dir(dir.path())
            .arg("-r")
            .arg(preload)
            .arg(node.join("node_modules/@portkey-ai/gateway/build/start-server.js"))
            .arg(format!("--port={}", address.port()))
            .arg("--headless"),
        dir.path(),
    );
    wait_for("Portkey", async || reqwest::get(format!("http://{address}/")).await.ok().map(|_| ())).await;
    Program { address, child, _dir: dir }
}

/// A browser without a window, driven by WebDriver.
pub struct Browser {
    session: String,
    client: reqwest::Client,
    dir: tempfile::TempDir,
    /// The browser's own processes are its.
    _driver: Started,
}

/// Chromium, by its own driver.
pub async fn browser() -> Browser {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    let mut driver = spawn(
        Command::new("chromedriver").arg(format!("--port={}", address.port())).arg("--allowed-ips=127.0.0.1"),
        dir.path(),
    );
    ready("ChromeDriver", format!("http://{address}/status")).await;
    let flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ];
    let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
    let flags: Vec<&str> = flags.into_iter().chain([profile.as_str()]).collect();
    let wanted =
        serde_json::json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}});
    let client = reqwest::Client::new();
    let answer = client.post(format!("http://{address}/session")).json(&wanted).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}"));
    // The browser is there, in a group of its own.
    driver.family();
    Browser { session: format!("http://{address}/session/{id}"), client, dir, _driver: driver }
}

impl Browser {
    async fn command(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let answer = self.client.post(format!("{}/{path}", self.session)).json(&body).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        assert!(answer["value"].get("error").is_none(), "{path}: {answer}");
        answer["value"].clone()
    }

    pub async fn open(&self, url: &str) {
        self.command("url", serde_json::json!({"url": url})).await;
    }

    /// Opens another tab and looks at it.
    pub async fn tab(&self, url: &str) {
        let window = self.command("window/new", serde_json::json!({"type": "tab"})).await;
        self.command("window", serde_json::json!({"handle": window["handle"]})).await;
        self.open(url).await;
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> serde_json::Value {
        self.command("execute/sync", serde_json::json!({"script": script, "args": []})).await
    }

    pub async fn resize(&self, width: u32, height: u32) {
        self.command("window/rect", serde_json::json!({"width": width, "height": height})).await;
    }

    /// A picture of what it shows; a copy of it lies in its folder while it runs.
    pub async fn picture(&self, name: &str) -> Vec<u8> {
        use base64::Engine;
        let answer = self.client.get(format!("{}/screenshot", self.session)).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        let bytes = base64::prelude::BASE64_STANDARD.decode(answer["value"].as_str().unwrap()).unwrap();
        std::fs::write(self.dir.path().join(name), &bytes).unwrap();
        bytes
    }
}

/// JSON of a URL.
pub async fn json(url: &str) -> serde_json::Value {
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

pub fn shipped(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginxs_worker_ends_with_the_test_that_started_it() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut nginx = nginx(free_port(), log.path()).await;
    let family = nginx.child.family();
    assert!(family.len() >= 2, "a master and a worker: {family:?}");
    drop(nginx);
    // A number is not given out anew so soon.
    let left: Vec<_> = family.iter().filter(|pid| is_nginx(**pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn is_nginx(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("nginx") && !status.contains("Z (zombie)")
}

/// What is started in another way would not end with its test.
#[test]
fn every_program_of_these_tests_is_started_so_that_it_ends_with_them() {
    let ways = ["spawn()", "output()"].map(|way| format!(".{way}"));
    for entry in std::fs::read_dir(root().join("tests/e2e")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for way in &ways {
            assert!(
                !text.contains(way.as_str()),
                "{}: {way}; use support::process::{{start, output}}",
                path.display()
            );
        }
    }
}
