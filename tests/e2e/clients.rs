//! Real clients through the hop: the same behaviour as without it, the right model, the right
//! tokens, the right verdict.

use crate::programs::{installed, root};
use crate::support::api::{Answer, Api};
use crate::support::process::output;
use crate::support::{PATIENCE, Sidecar};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::process::Command;

/// Runs an SDK client; returns its one line.
async fn sdk(language: &str, to: SocketAddr, auth: &str, mode: &str, prompt: usize) -> Value {
    let clients = root().join("tests/e2e/clients");
    let mut command = if language == "python" {
        let mut python = Command::new(installed("venv/bin/python"));
        python.arg(clients.join("anthropic_client.py"));
        python
    } else {
        let mut node = Command::new("node");
        node.arg(clients.join("anthropic_client.mjs")).env("PLIMSOLL_E2E_NODE", installed("node"));
        node
    };
    command
        .args(["--base-url", &format!("http://{to}"), "--mode", mode, "--auth", auth, "--max-retries", "0"])
        .args(["--prompt-bytes", &prompt.to_string(), "--model", "claude-sonnet-5-5", "--max-tokens", "16"])
        .env("TEST_KEY", "sk-ant-test-fake")
        .stdin(Stdio::null());
    let output = output(&mut command, PATIENCE * 3).await;
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{language}: {e}: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

/// What a client says without what differs from run to run.
fn comparable(mut said: Value) -> Value {
    said.as_object_mut().unwrap().remove("request_id");
    said
}

async fn every_way(language: &str) {
    let (api, direct) = (Api::start().await, Api::start().await);
    let sidecar = Sidecar::to(api.address).await;
    let mut calls = 0.0;
    for (auth, mode) in [("api-key", "json"), ("api-key", "stream"), ("bearer", "json"), ("bearer", "stream")]
    {
        let through = sdk(language, sidecar.hop, auth, mode, 100).await;
        let without = sdk(language, direct.address, auth, mode, 100).await;
        assert_eq!(comparable(through.clone()), comparable(without), "{language} {auth} {mode}");
        assert_eq!((&through["ok"], &through["text"]), (&json!(true), &json!("Hello there")), "{through}");
        calls += 1.0;
    }
    let (through, without) = (api.seen(), direct.seen());
    for (through, without) in through.iter().zip(&without) {
        assert_eq!(
            (&through.body, &through.path, &through.method),
            (&without.body, &without.path, &without.method)
        );
        let names = |seen: &crate::support::api::Seen| {
            let mut names: Vec<String> =
                seen.headers.keys().map(ToString::to_string).filter(|n| n != "connection").collect();
            names.sort();
            names
        };
        assert_eq!(names(through), names(without));
    }
    let model = "gen_ai_request_model=\"claude-sonnet-5-5\"";
    sidecar.wait_metric("plimsoll_requests_total", &[model, "=\"200\""], calls).await;
    sidecar.wait_metric("plimsoll_tokens_total", &[model, "=\"input\""], 12.0 * calls).await;
    sidecar.wait_metric("plimsoll_tokens_total", &[model, "=\"output\""], 4.0 * calls).await;

    // Refused: the same typed error, and the verdict.
    for mode in ["json", "stream"] {
        for api in [&api, &direct] {
            api.script([Answer::RateLimited { retry_after: 7, should_retry: false }]);
        }
        let through = sdk(language, sidecar.hop, "api-key", mode, 100).await;
        let without = sdk(language, direct.address, "api-key", mode, 100).await;
        assert_eq!(comparable(through.clone()), comparable(without));
        assert_eq!((&through["status"], &through["retry_after"]), (&json!(429), &json!("7")), "{through}");
        assert_eq!(through["error_class"], "RateLimitError");
    }
    let verdict = ["plimsoll_verdict=\"anthropic_workspace\"", "plimsoll_limiter=\"input_tokens\"", model];
    sidecar.wait_metric("plimsoll_rejections_total", &verdict, 2.0).await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
    assert_eq!(sidecar.metric("plimsoll_panics_total", &[]).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_does_not_notice_the_hop() {
    every_way("python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typescript_sdk_does_not_notice_the_hop() {
    every_way("node").await;
}

/// Five megabytes of prompt, the model behind them (the Python SDK sends it last).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_megabytes_of_prompt_arrive_whole_and_their_model_is_known() {
    for language in ["python", "node"] {
        let api = Api::start().await;
        let sidecar = Sidecar::to(api.address).await;
        let said = sdk(language, sidecar.hop, "api-key", "stream", 5_000_000).await;
        assert_eq!(said["ok"], true, "{said}");
        let seen = &api.seen()[0];
        assert!(seen.body.len() > 5_000_000);
        let body: Value = serde_json::from_slice(&seen.body).expect("it arrived whole");
        assert_eq!(body["model"], "claude-sonnet-5-5");
        if language == "python" {
            let at = seen.body.windows(7).rposition(|w| w == b"\"model\"").unwrap();
            assert!(at > 4_000_000, "the model stands behind the prompt, at {at}");
        }
        sidecar
            .wait_metric("plimsoll_requests_total", &["gen_ai_request_model=\"claude-sonnet-5-5\""], 1.0)
            .await;
    }
}

/// Runs Claude Code once; returns its exit code and its answer.
async fn claude_code(to: SocketAddr, credential: (&str, &str)) -> (i32, Value) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(installed("node/node_modules/.bin/claude"));
    command
        .args(["-p", "hi", "--output-format", "json"])
        .current_dir(home.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home.path())
        .env("ANTHROPIC_BASE_URL", format!("http://{to}"))
        .env(credential.0, credential.1)
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .stdin(Stdio::null());
    let output = output(&mut command, PATIENCE * 3).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let answer = serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap_or(-1), answer)
}

const KEY: (&str, &str) = ("ANTHROPIC_API_KEY", "sk-ant-test-fake");
const TOKEN: (&str, &str) = ("ANTHROPIC_AUTH_TOKEN", "sk-ant-oat01-test-fake");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_works_and_its_compressed_streams_are_read() {
    let api = Api::start().await;
    let sidecar = Sidecar::to(api.address).await;
    for (coding, credential) in [("gzip", KEY), ("br", TOKEN), ("zstd", KEY), ("deflate", KEY)] {
        api.prefer(coding);
        let (code, answer) = claude_code(sidecar.hop, credential).await;
        assert_eq!((code, &answer["result"]), (0, &json!("Hello there")), "{coding}: {answer}");
    }
    let seen = api.seen();
    let accepts = seen[0].headers["accept-encoding"].to_str().unwrap();
    assert!(["gzip", "br", "zstd", "deflate"].iter().all(|c| accepts.contains(c)), "{accepts}");
    let calls = seen.len() as f64;
    let surface = "plimsoll_surface=\"claude_code_key\"";
    sidecar.wait_metric("plimsoll_requests_total", &[surface, "=\"200\""], calls).await;
    sidecar.wait_metric("plimsoll_tokens_total", &[surface, "=\"output\""], 4.0 * calls).await;
    assert_eq!(sidecar.metric("plimsoll_bodies_unread_total", &[]).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_refused_on_a_key_and_on_a_plan_gives_two_owners() {
    let api = Api::start().await;
    let sidecar = Sidecar::to(api.address).await;
    api.script([Answer::RateLimited { retry_after: 7, should_retry: false }]);
    let (code, answer) = claude_code(sidecar.hop, KEY).await;
    assert_eq!((code, &answer["api_error_status"]), (1, &json!(429)), "{answer}");
    assert!(
        answer["result"].as_str().unwrap().contains("Request rejected (429)"),
        "the wording it matches on arrived: {answer}"
    );
    let on_key = [
        "plimsoll_verdict=\"claude_code_api_key\"",
        "plimsoll_owner_kind=\"claude_code_workspace\"",
        "plimsoll_limiter=\"input_tokens\"",
    ];
    sidecar.wait_metric("plimsoll_rejections_total", &on_key, 1.0).await;
    api.script([Answer::RateLimited { retry_after: 7, should_retry: false }]);
    claude_code(sidecar.hop, KEY).await;
    sidecar.wait_metric("plimsoll_rejections_total", &on_key, 2.0).await;
    let packet = crate::gateways::packet(&sidecar).await;
    for part in [
        ": READY",
        "the workspace of the API key that Claude Code uses",
        "| request id | req_",
        "anthropic-ratelimit-input-tokens-remaining: 0",
        "claude auth status: not checked",
        "x-api-key: $API_KEY",
    ] {
        assert!(packet.contains(part), "{part} is not in {packet}");
    }
    assert!(!packet.contains(KEY.1), "{packet}");
    api.script([Answer::PlanRejected]);
    let (code, _) = claude_code(sidecar.hop, TOKEN).await;
    assert_eq!(code, 1);
    let on_plan = [
        "plimsoll_verdict=\"claude_plan\"",
        "plimsoll_owner_kind=\"claude_plan\"",
        "plimsoll_limiter=\"five_hour\"",
    ];
    sidecar.wait_metric("plimsoll_rejections_total", &on_plan, 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_retries_through_the_hop_as_it_does_without() {
    let api = Api::start().await;
    let sidecar = Sidecar::to(api.address).await;
    api.script([Answer::RateLimited { retry_after: 1, should_retry: true }, Answer::Overloaded]);
    let (code, answer) = claude_code(sidecar.hop, KEY).await;
    assert_eq!((code, &answer["result"]), (0, &json!("Hello there")), "{answer}");
    assert_eq!(api.seen().len(), 3);
    sidecar.wait_metric("plimsoll_rejections_total", &["provider_overload"], 1.0).await;
    sidecar.wait_metric("plimsoll_requests_total", &["=\"429\""], 1.0).await;
    sidecar.wait_metric("plimsoll_in_flight", &[], 0.0).await;
}
