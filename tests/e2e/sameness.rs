//! What the provider gets from real clients through Plimsoll, compared with what it gets without: path, headers,
//! betas, keys of the body, cache scopes, tries. Each difference that may be is in a list, with its reason; any other
//! fails, and so does one of the list that is no more.
//!
//! "Without" is the provider's own address (`plimsoll::diff` makes the fake be it), because clients decide by it.

use crate::programs::{installed, root};
use crate::support::PATIENCE;
use crate::support::api::Api;
use crate::support::process::run_by;
use plimsoll::clients;
use plimsoll::diff::{self, Plan, Report, What};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use tokio::process::Command;

/// Runs a client twice; `first_party` with Claude Code's own switch.
async fn compared(command: &[OsString], client: Option<&str>, first_party: bool, home: &Path) -> Report {
    let set = [
        ("HOME", home.as_os_str()),
        ("ANTHROPIC_API_KEY", "sk-ant-api03-fake".as_ref()),
        ("OPENAI_API_KEY", "sk-fake".as_ref()),
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True".as_ref()),
        // Claude Code asks for what is not to be asked of root otherwise.
        ("IS_SANDBOX", "1".as_ref()),
    ];
    let node = installed("node");
    let env = set.into_iter().chain([("PLIMSOLL_E2E_NODE", node.as_os_str())]);
    let plan = Plan {
        command: command.to_vec(),
        client: client.and_then(clients::named),
        via: None,
        listen: ([127, 0, 0, 1], 0).into(),
        first_party,
        reject: 1,
        timeout: PATIENCE * 3,
        env: env.map(|(name, value)| (name.into(), value.to_owned())).collect(),
    };
    diff::run(&plan).await.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn python(venv: &str, client: &str) -> Vec<OsString> {
    let script = root().join("tests/e2e/clients/one_call.py");
    vec![installed(&format!("{venv}/bin/python")).into(), script.into(), client.into()]
}

fn node(client: &str) -> Vec<OsString> {
    let script = root().join("tests/e2e/clients/one_call.mjs");
    vec!["node".into(), script.into(), client.into()]
}

/// A difference that may be, and why.
type Allowed = (What, &'static str, &'static str);

fn only(report: &Report, allowed: &[Allowed], client: &str) {
    let found: BTreeSet<(What, &str)> =
        report.differences.iter().map(|difference| (difference.what, difference.name.as_str())).collect();
    let listed: BTreeSet<(What, &str)> = allowed.iter().map(|(what, name, _)| (*what, *name)).collect();
    assert_eq!(found, listed, "{client}: {report:#?}");
}

/// Node's `fetch` offers brotli over TLS alone, as the Fetch standard has it.
const FETCH: Allowed = (What::HeaderValue, "accept-encoding", "no `br` over plain http");

/// Clients that behave through Plimsoll as they do without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sdks_send_through_plimsoll_what_they_send_without_it() {
    let home = tempfile::tempdir().unwrap();
    // With its name: the value that `plimsoll env` prints for it. Without: the one value of a whole container, where
    // the AI SDK asks for a path that does not exist, and is served all the same.
    let runs: [(&str, Vec<OsString>, Option<&str>); 9] = [
        ("anthropic, Python", python("venv", "anthropic"), None),
        ("anthropic, TypeScript", node("anthropic"), None),
        ("AI SDK 4, named", node("ai-sdk-4"), Some("ai-sdk")),
        ("AI SDK 4, one value for all", node("ai-sdk-4"), None),
        ("AI SDK 3, named", node("ai-sdk-3"), Some("ai-sdk")),
        ("AI SDK 3, one value for all", node("ai-sdk-3"), None),
        ("langchain-anthropic", python("clients", "langchain-anthropic"), None),
        ("openai, Python", python("clients", "openai"), None),
        ("litellm", python("litellm", "litellm"), None),
    ];
    for (name, command, client) in runs {
        let report = compared(&command, client, false, home.path()).await;
        let allowed: &[Allowed] = if command[0] == "node" { &[FETCH] } else { &[] };
        only(&report, allowed, name);
        assert!(report.straight_calls >= 1, "{name}");
        // The AI SDK's provider and LiteLLM's library do not try again, straight or through.
        let tries_again = !name.starts_with("AI SDK") && name != "litellm";
        assert_eq!(report.straight_calls, if tries_again { 2 } else { 1 }, "{name}");
        assert_eq!(report.straight_exit == Some(0), tries_again, "{name}: {report:?}");
    }
}

const BY_CLAUDE_CODE: &str = "Claude Code leaves it out behind any base URL; its own switch brings it back";

/// What Claude Code does differently behind any base URL.
const BEHIND_A_BASE_URL: [Allowed; 10] = [
    (
        What::Asked,
        "GET /api/claude_code/settings",
        "not asked behind a base URL: said first by `plimsoll env`",
    ),
    (What::Asked, "GET /api/claude_code/policy_limits", "the same"),
    (What::CacheScope, "cache_control", BY_CLAUDE_CODE),
    (What::Beta, "cache-diagnosis-2026-04-07", BY_CLAUDE_CODE),
    (What::Beta, "prompt-caching-scope-2026-01-05", BY_CLAUDE_CODE),
    (What::Beta, "thinking-binding-controls-2026-08-01", BY_CLAUDE_CODE),
    (What::BodyKey, "diagnostics", BY_CLAUDE_CODE),
    (What::Header, "x-claude-1p-request-class", BY_CLAUDE_CODE),
    (What::Header, "x-claude-code-prompt-id", BY_CLAUDE_CODE),
    (What::Header, "x-claude-code-request-class", BY_CLAUDE_CODE),
];

/// What it does differently even with its switch.
const ALWAYS: [Allowed; 1] =
    [(What::Beta, "mid-conversation-system-clear-at-2026-08-21", "its switch does not bring it back")];

/// What its switch brings back beside the above.
const MORE: [Allowed; 2] = [
    (What::Header, "x-claude-code-sandy-plover", BY_CLAUDE_CODE),
    (What::Header, "x-client-request-id", BY_CLAUDE_CODE),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_loses_behind_a_base_url_what_is_listed_and_with_its_switch_one_beta() {
    let home = tempfile::tempdir().unwrap();
    let claude: Vec<OsString> =
        vec![installed("node/node_modules/.bin/claude").into(), "-p".into(), "hi".into()];
    // It asks for this once it has the time, or ends before.
    let now_and_then = |report: &mut Report| {
        report.differences.retain(|d| d.name != "GET /api/claude_code/organizations/metrics_enabled");
    };
    let mut plain = compared(&claude, Some("claude-code"), false, home.path()).await;
    now_and_then(&mut plain);
    let listed: Vec<Allowed> = BEHIND_A_BASE_URL.into_iter().chain(ALWAYS).chain(MORE).collect();
    only(&plain, &listed, "Claude Code");
    assert_eq!((plain.straight_exit, plain.through_exit), (Some(0), Some(0)), "{plain:?}");
    let mut switched = compared(&claude, Some("claude-code"), true, home.path()).await;
    now_and_then(&mut switched);
    only(&switched, &ALWAYS, "Claude Code with its switch");
    assert_eq!((switched.straight_calls, switched.through_calls), (2, 2), "{switched:?}");
}

/// A gateway that changes things is told of: it judges all by one yardstick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_gateway_is_judged_by_the_same_yardstick() {
    let home = tempfile::tempdir().unwrap();
    let listen = crate::programs::free_port();
    let gateway = crate::programs::litellm_with(
        &format!(
            "model_list:\n- model_name: claude-opus-5-5\n  litellm_params: {{model: anthropic/claude-opus-5-5, api_base: 'http://{listen}', api_key: sk-ant-other}}\n"
        ),
        &[],
        &[],
    )
    .await;
    let plan = Plan {
        command: python("venv", "anthropic"),
        client: clients::named("anthropic"),
        via: Some(format!("http://{}", gateway.address)),
        listen,
        first_party: false,
        reject: 0,
        timeout: PATIENCE * 3,
        env: vec![
            ("HOME".into(), home.path().into()),
            ("ANTHROPIC_API_KEY".into(), "sk-ant-api03-fake".into()),
        ],
    };
    let report = diff::run(&plan).await.unwrap();
    let changed = |what: What| report.differences.iter().any(|difference| difference.what == what);
    assert!(changed(What::Header), "LiteLLM makes a request of its own: {report:#?}");
    let shown = serde_json::to_string(&report).unwrap();
    assert!(!shown.contains("sk-ant"), "{shown}");
}

/// The program itself, configured as users configure it; that host is here by `/etc/hosts` of a namespace of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ai_sdks_path_reaches_api_anthropic_com_as_it_was_meant() {
    let api = Api::start().await;
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.1 localhost api.anthropic.com\n").unwrap();
    let mut command = Command::new("unshare");
    command
        .args([
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"",
            "sh",
        ])
        .arg(hosts.path())
        .arg(env!("CARGO_BIN_EXE_plimsoll"));
    let route = |further: &str| {
        format!(
            "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: api, upstream: 'http://api.anthropic.com:{}'{further}}}\n",
            api.address.port()
        )
    };
    let (_running, addresses) = run_by(command, &route("")).await;
    let url = format!("http://{}/messages?beta=true", addresses[0]);
    let answer = reqwest::Client::new().post(url).body("{ \"model\": \"m\" }").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = &api.seen()[0];
    assert_eq!(
        (seen.path.as_str(), &seen.body[..]),
        ("/v1/messages?beta=true", &b"{ \"model\": \"m\" }"[..])
    );
    assert_eq!(seen.headers["host"], format!("api.anthropic.com:{}", api.address.port()));
}
