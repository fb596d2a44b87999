//! The command itself: exit codes, messages, signals.

use crate::support::h2;
use crate::support::raw::{Conn, Upstream};
use crate::support::{PATIENCE, wait_for};
use http_body_util::BodyExt;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

fn plimsoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.env_clear().kill_on_drop(true);
    command
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn output(command: &mut Command) -> (i32, String, String) {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("ends in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_bad_configuration_ends_with_78_and_names_place_and_fix() {
    let bad = file("listeners:\n- bind: 127.0.0.1:0\n  routes:\n  - {name: a, upsteam: 'http://x'}\n");
    for command in ["check", "run", "explain"] {
        let strict = (command == "run").then_some("--strict");
        let mut asked = plimsoll();
        let asked = asked.arg(command).args(strict).arg("--config").arg(bad.path());
        let (code, _, stderr) = output(asked.stdin(Stdio::null())).await;
        assert_eq!(code, 78, "{command}: {stderr}");
        assert!(stderr.contains("line 4, column 15"), "{stderr}");
        assert!(
            stderr.contains("listeners[0].routes[0]") && stderr.contains("did you mean `upstream`?"),
            "{stderr}"
        );
    }
    let (code, _, stderr) = output(plimsoll().args(["check", "--config", "no-such-file.yaml"])).await;
    assert_eq!(code, 78);
    assert!(stderr.contains("no-such-file.yaml: cannot be read"), "{stderr}");
}

#[tokio::test]
async fn check_says_what_a_configuration_means() {
    let (code, stdout, _) = output(plimsoll().arg("check")).await;
    assert_eq!(code, 0);
    insta::assert_snapshot!(stdout);
}

#[tokio::test]
async fn help_has_examples_and_wrong_usage_ends_with_2() {
    let (code, stdout, _) = output(plimsoll().arg("--help")).await;
    assert!(code == 0 && stdout.contains("Examples:") && stdout.contains("plimsoll exec -- claude"));
    let (code, _, stderr) = output(plimsoll().arg("chekc")).await;
    assert!(code == 2 && stderr.contains("'check'"), "{stderr}");
}

#[tokio::test]
async fn explain_answers_every_line_and_says_which_it_cannot_read() {
    let input = file(concat!(
        "{\"id\":1,\"status\":429,\"headers\":{\"anthropic-ratelimit-requests-limit\":\"50\",\"anthropic-ratelimit-requests-remaining\":[\"0\"]},\"body\":null}\n",
        "this is no json\n\n",
        "{\"id\":\"x\",\"status\":529,\"body\":{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}},\"request\":{\"unknown\":1}}\n",
    ));
    let stdin = Stdio::from(input.reopen().unwrap());
    let (code, stdout, _) = output(plimsoll().args(["explain", "--json"]).stdin(stdin)).await;
    assert_eq!(code, 1);
    let lines: Vec<serde_json::Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (lines[0]["verdict"].as_str(), lines[0]["limiter"].as_str()),
        (Some("anthropic_workspace"), Some("requests"))
    );
    assert_eq!(lines[0]["id"], 1);
    assert!(lines[1]["error"].is_string());
    assert_eq!(
        (lines[2]["verdict"].as_str(), lines[2]["owner_kind"].as_str()),
        (Some("provider_overload"), Some("provider"))
    );
    for key in [
        "id",
        "verdict",
        "owner",
        "owner_kind",
        "surface",
        "limiter",
        "evidence",
        "confidence",
        "first_move",
        "stop_rule",
        "next_step",
        "runbook_url",
    ] {
        assert!(lines[0].get(key).is_some(), "{key}");
    }
}

/// Starts the sidecar and returns the address of its hop and of its metrics port.
async fn start(config: &str) -> (Child, String, String) {
    let config = file(config);
    let mut child = plimsoll()
        .args(["run", "--log-format", "json", "--config"])
        .arg(config.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut addresses = Vec::new();
    while addresses.len() < 2 {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .expect("it says where it listens");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        addresses.extend(line["fields"]["address"].as_str().map(str::to_owned));
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let metrics = addresses.pop().unwrap();
    (child, addresses.pop().unwrap(), metrics)
}

fn terminate(child: &Child) {
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
}

#[tokio::test]
async fn calls_in_flight_end_before_the_process_does() {
    let finish = Arc::new(Notify::new());
    let gate = finish.clone();
    let upstream = Upstream::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            conn.head().await.unwrap();
            conn.write("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst").await;
            gate.notified().await;
            conn.write("other").await;
        }
    })
    .await;
    let (mut child, hop, metrics) = start(&crate::support::route_to(upstream.address)).await;
    let ready = |path: &str| reqwest::get(format!("http://{metrics}{path}"));
    assert_eq!(ready("/-/ready").await.unwrap().status(), 200);
    assert_eq!(ready("/-/healthy").await.unwrap().status(), 200);
    let mut client = Conn::connect(hop.parse().unwrap()).await;
    client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    client.until("first").await.unwrap();
    terminate(&child);
    wait_for("readiness to go", async || ready("/-/ready").await.ok().filter(|r| r.status() == 503)).await;
    assert!(tokio::net::TcpStream::connect(&hop).await.is_err(), "no new connections while draining");
    finish.notify_one();
    assert_eq!(client.exactly(5).await, b"other");
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("ends").unwrap();
    assert!(status.success(), "{status}");
}

/// Callers that never pause while the process ends: what the upstream saw of, its caller has whole,
/// and no call gets half an answer. What fails was never sent up, so it is safe to send again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_loses_no_call_that_was_taken() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let upstream = h2::Upstream::start(1_000, move |_| {
        count.fetch_add(1, Relaxed);
        async { http::Response::new(h2::full(&"whole ".repeat(5_000))) }
    })
    .await;
    let address = format!("'http://{}'", upstream.address);
    let config =
        crate::support::route_to(upstream.address).replace(&address, &format!("{address}, http2: true"));
    let (mut child, hop, _) = start(&config).await;
    // A client's spare connection, on which nothing is ever said: no drain waits for it.
    let mut spare = Conn::connect(hop.parse().unwrap()).await;
    let whole = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    let client = reqwest::Client::new();
    for n in 0..16 {
        let (hop, whole, client) = (hop.clone(), whole.clone(), client.clone());
        if n % 2 == 0 {
            callers.spawn(async move { call_over_h1_to_the_end(&client, &hop, &whole).await });
        } else {
            callers.spawn(async move { call_over_h2_to_the_end(&hop, &whole).await });
        }
    }
    wait_for("load", async || (whole.load(Relaxed) > 500).then_some(())).await;
    terminate(&child);
    while let Some(caller) = tokio::time::timeout(PATIENCE, callers.join_next()).await.expect("all end") {
        caller.unwrap();
    }
    // Patience is as long as a drain may last: less shows that it waited for nobody.
    let ended = tokio::time::timeout(PATIENCE / 2, child.wait()).await;
    assert!(ended.expect("waits for nobody").unwrap().success());
    assert_eq!(spare.rest().await.0, b"");
    assert_eq!(seen.load(Relaxed), whole.load(Relaxed), "seen by the upstream, answered whole");
}

async fn call_over_h1_to_the_end(client: &reqwest::Client, hop: &str, whole: &AtomicUsize) {
    while let Ok(answer) = client.post(format!("http://{hop}/")).body("{}").send().await {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await.expect("never half an answer").len(), 30_000);
        whole.fetch_add(1, Relaxed);
    }
}

async fn call_over_h2_to_the_end(hop: &str, whole: &AtomicUsize) {
    let mut sender = h2::client(hop.parse().unwrap()).await;
    let call = || http::Request::post("http://localhost/").body(h2::full("{}")).unwrap();
    while let Ok(answer) = sender.send_request(call()).await {
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.expect("never half an answer");
        assert_eq!(body.to_bytes().len(), 30_000);
        whole.fetch_add(1, Relaxed);
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = taken.local_addr().unwrap();
    let config = file(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: {address}\n  routes: [{{name: a, upstream: 'http://127.0.0.1:1'}}]\n"
    ));
    let (code, _, stderr) = output(plimsoll().args(["run", "--config"]).arg(config.path())).await;
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");
}

/// The command that `plimsoll exec` becomes; it sees what was set for it.
#[tokio::test]
async fn exec_becomes_the_command_with_its_variables_its_signals_and_its_exit_code() {
    let config = file(
        "listeners:\n- bind: 127.0.0.1:1\n  routes:\n  - {name: a, upstream: 'https://api.anthropic.com'}\n  - {name: o, prefix: /o, strip_prefix: true, upstream: 'https://api.openai.com'}\n",
    );
    let exec = |script: &str| {
        let mut command = plimsoll();
        command.env("PATH", std::env::var_os("PATH").unwrap()).arg("exec").arg("--config").arg(config.path());
        command.args(["--", "sh", "-c", script]).stdin(Stdio::null());
        command
    };
    let (code, stdout, stderr) = output(
        exec("echo $ANTHROPIC_BASE_URL $OPENAI_BASE_URL $_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL; exit 41")
            .env("ANTHROPIC_BASE_URL", "http://old"),
    )
    .await;
    assert_eq!((code, stdout.as_str()), (41, "http://127.0.0.1:1 http://127.0.0.1:1/o/v1\n"));
    assert!(stderr.contains("nothing listens on 127.0.0.1:1; start `plimsoll run`"), "{stderr}");
    let mut child = exec("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap(), "ready");
    let pid = child.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(7));
    let (code, _, stderr) = output(plimsoll().args(["exec", "--", "no-such-program"])).await;
    assert_eq!(code, 127, "{stderr}");
    assert!(stderr.contains("no-such-program: cannot be started"), "{stderr}");
    let (code, _, _) = output(plimsoll().args(["exec", "--route", "x", "--", "true"])).await;
    assert_eq!(code, 1);
}
