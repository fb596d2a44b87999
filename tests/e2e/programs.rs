//! Real programs, started on ports of their own and stopped with the test.

use crate::support::{PATIENCE, wait_for};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

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
    _child: Child,
    _dir: tempfile::TempDir,
}

fn spawn(command: &mut Command, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{name}: {e}; run scripts/e2e-deps.sh"))
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
    Program { address, _child: child, _dir: dir }
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
    Program { address, _child: child, _dir: dir }
}

/// A LiteLLM proxy with this configuration, and this module beside it.
pub async fn litellm(config: &str, module: &Path) -> Program {
    let (dir, address) = (tempfile::tempdir().unwrap(), free_port());
    std::fs::write(dir.path().join("config.yaml"), config).unwrap();
    std::fs::copy(module, dir.path().join(module.file_name().unwrap())).unwrap();
    let child = spawn(
        Command::new(installed("litellm/bin/litellm"))
            .current_dir(dir.path())
            .args(["--config", "config.yaml", "--host", "127.0.0.1", "--telemetry", "False", "--port"])
            .arg(address.port().to_string())
            // Its price list would be fetched from the network.
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("PYTHONPATH", dir.path()),
        dir.path(),
    );
    // It imports for ten seconds, and longer on a busy machine.
    let url = format!("http://{address}/health/liveliness");
    let up = async || reqwest::get(&url).await.ok().filter(|r| r.status().is_success()).map(|_| ());
    tokio::time::timeout(PATIENCE * 6, crate::support::eventually(up)).await.unwrap_or_else(|_| {
        panic!("LiteLLM: {}", std::fs::read_to_string(dir.path().join("log")).unwrap_or_default())
    });
    Program { address, _child: child, _dir: dir }
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
    Program { address, _child: child, _dir: dir }
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
    Program { address, _child: child, _dir: dir }
}

/// JSON of a URL.
pub async fn json(url: &str) -> serde_json::Value {
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

pub fn shipped(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}
