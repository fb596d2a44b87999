//! The sidecar as a process of its own: for what only a process has, such as an environment.

use super::PATIENCE;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Runs with this configuration and nothing in its environment but this; the addresses that it listens on, those of
/// its hops first and that of `/metrics` last.
pub async fn run(config: &str, env: &[(&str, &str)]) -> (Child, Vec<SocketAddr>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args(["run", "--log-format", "json", "--config"])
        .arg(file.path())
        .env_clear()
        .envs(env.iter().copied())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut addresses = Vec::new();
    loop {
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it starts");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        addresses.extend(line["fields"]["address"].as_str().and_then(|a| a.parse::<SocketAddr>().ok()));
        if line["fields"]["message"].as_str().is_some_and(|m| m.starts_with("metrics")) {
            break;
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, addresses)
}
