//! Real gateways behind the hop: whose limit was it, when a tenant's policy refuses, when an upstream's
//! limit is passed on, and when a gateway cools down because of one.

use crate::programs::{Program, envoy, installed, litellm, portkey, root};
use crate::support::api::{Answer, Api};
use crate::support::{Sidecar, wait_for};
use reqwest::Client;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A sidecar whose one route goes to a gateway.
async fn in_front_of(gateway: SocketAddr) -> Sidecar {
    Sidecar::start(&format!(
        "metrics: {{bind: '127.0.0.1:0'}}\nadmin: {{bind: '127.0.0.1:0'}}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n  - {{name: gw, upstream: 'http://{gateway}', surface: gateway}}\n"
    ))
    .await
}

async fn post(sidecar: &Sidecar, path: &str, key: &str, body: &Value) -> u16 {
    let url = format!("http://{}{path}", sidecar.hop);
    let request = Client::new().post(url).bearer_auth(key).header("anthropic-version", "2023-06-01");
    let answer = request.json(body).send().await.unwrap();
    let status = answer.status().as_u16();
    // A client that goes away before the body leaves nothing to read in it.
    answer.bytes().await.unwrap();
    status
}

fn asking(model: &str) -> Value {
    json!({"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}]})
}

/// Waits until there are this many refusals of one verdict and limiter.
async fn refused(sidecar: &Sidecar, verdict: &str, limiter: &str, evidence: &str, count: f64) {
    let parts = [
        format!("plimsoll_verdict=\"{verdict}\""),
        format!("plimsoll_limiter=\"{limiter}\""),
        format!("plimsoll_evidence=\"{evidence}\""),
    ];
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    sidecar.wait_metric("plimsoll_rejections_total", &parts, count).await;
}

/// The packet of the newest incident, as the admin port gives it.
pub async fn packet(sidecar: &Sidecar) -> String {
    let url = format!("http://{}/v1/evidence", sidecar.admin().await);
    wait_for("a packet", async || {
        let answer = reqwest::get(&url).await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    })
    .await
}

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

async fn litellm_in_front_of(api: &Api, cooldown: &str) -> Program {
    let deployment = |name: &str, more: &str| {
        format!(
            "- model_name: {name}\n  litellm_params: {{model: anthropic/claude-sonnet-4-5, api_base: 'http://{}', api_key: sk-ant-test-fake{more}}}\n",
            api.address
        )
    };
    let config = format!(
        "model_list:\n{}{}{}{}router_settings: {{num_retries: 0, {cooldown}, optional_pre_call_checks: [enforce_model_rate_limits]}}\nlitellm_settings: {{num_retries: 0}}\ngeneral_settings: {{custom_auth: tenants.user_api_key_auth}}\n",
        deployment("claude-sonnet", ""),
        deployment("claude-rpm", ", rpm: 1"),
        deployment("claude-two", ""),
        deployment("claude-two", ", timeout: 5"),
    );
    litellm(&config, &root().join("tests/e2e/gateways/tenants.py")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellms_six_refusals_have_their_owners() {
    let api = Api::start().await;
    let proxy = litellm_in_front_of(&api, "disable_cooldowns: true").await;
    let sidecar = in_front_of(proxy.address).await;
    let refusal = || Answer::RateLimited { retry_after: 2, should_retry: true };

    // The upstream's limit, passed on.
    for path in [CHAT, MESSAGES] {
        api.script([refusal()]);
        assert_eq!(post(&sidecar, path, "sk-tenant", &asking("claude-sonnet")).await, 429);
    }
    refused(&sidecar, "anthropic_workspace", "input_tokens", "wording", 2.0).await;

    // The model's limit at the gateway: a retry header that names the provider, who was never asked.
    let before = api.seen().len();
    for path in [CHAT, CHAT, MESSAGES] {
        post(&sidecar, path, "sk-tenant", &asking("claude-rpm")).await;
    }
    assert_eq!(api.seen().len(), before + 1);
    refused(&sidecar, "gateway_tenant", "requests", "wording", 2.0).await;

    // The tenant's own limits.
    for (key, path) in [("rpm", CHAT), ("rpm", MESSAGES), ("team", CHAT), ("tpm", CHAT)] {
        for _ in 0..2 {
            post(&sidecar, path, &format!("sk-tenant-{key}"), &asking("claude-sonnet")).await;
        }
    }
    wait_for("the tenant's refusals by requests", async || {
        let parts = ["plimsoll_verdict=\"gateway_tenant\"", "plimsoll_limiter=\"requests\""];
        sidecar.metric("plimsoll_rejections_total", &parts).await.filter(|n| *n >= 5.0)
    })
    .await;
    wait_for("the tenant's refusals by tokens", async || {
        let parts = ["plimsoll_verdict=\"gateway_tenant\"", "plimsoll_limiter=\"tokens\""];
        sidecar.metric("plimsoll_rejections_total", &parts).await.filter(|n| *n >= 1.0)
    })
    .await;
    let body = asking("claude-sonnet");
    let at_once = (0..5).map(|_| post(&sidecar, MESSAGES, "sk-tenant-parallel", &body));
    futures_util::future::join_all(at_once).await;
    wait_for("the tenant's refusals by concurrency", async || {
        let parts = ["plimsoll_verdict=\"gateway_tenant\"", "plimsoll_limiter=\"concurrency\""];
        sidecar.metric("plimsoll_rejections_total", &parts).await.filter(|n| *n >= 1.0)
    })
    .await;
    let unknown = sidecar.metric("plimsoll_rejections_total", &["plimsoll_verdict=\"unknown\""]).await;
    assert_eq!(unknown, None, "{}", sidecar.scrape().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellms_cooldown_is_tied_to_the_upstreams_refusal() {
    let api = Api::start().await;
    let proxy = litellm_in_front_of(&api, "allowed_fails: 0, cooldown_time: 30").await;
    let sidecar = in_front_of(proxy.address).await;
    api.script([
        Answer::RateLimited { retry_after: 2, should_retry: true },
        Answer::RateLimited { retry_after: 2, should_retry: true },
    ]);
    wait_for("the router's cooldown", async || {
        post(&sidecar, CHAT, "sk-tenant", &asking("claude-two")).await;
        let cooling = sidecar
            .metric("plimsoll_rejections_total", &["plimsoll_evidence=\"answered_by\"", "gateway_tenant"])
            .await;
        if cooling.is_none() {
            api.script([Answer::RateLimited { retry_after: 2, should_retry: true }]);
        }
        cooling.filter(|n| *n >= 2.0)
    })
    .await;
    let packet = packet(&sidecar).await;
    assert!(packet.contains(": READY"), "{packet}");
    assert!(packet.contains("row `litellm_cooldown`"), "{packet}");
    assert!(packet.contains("the upstream's refusal before it: the Anthropic workspace"), "{packet}");
    assert!(packet.contains("upstream route | gw (http://127.0.0.1:"), "{packet}");
    for secret in ["sk-tenant", "sk-ant-test-fake"] {
        assert!(!packet.contains(secret), "{packet}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_own_limit_is_told_from_one_that_it_passes_on() {
    let api = Api::start().await;
    let gateway = envoy(api.address).await;
    let sidecar = in_front_of(gateway.address).await;
    let limited = format!("/limited{MESSAGES}");
    assert_eq!(post(&sidecar, &limited, "key", &asking("claude-opus-5-5")).await, 200);
    assert_eq!(post(&sidecar, &limited, "key", &asking("claude-opus-5-5")).await, 429);
    refused(&sidecar, "gateway_tenant", "requests", "answered_by", 1.0).await;
    api.script([Answer::RateLimited { retry_after: 2, should_retry: true }]);
    assert_eq!(post(&sidecar, MESSAGES, "key", &asking("claude-opus-5-5")).await, 429);
    refused(&sidecar, "anthropic_workspace", "input_tokens", "header_family", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn portkey_passes_the_upstreams_limit_on() {
    let api = Api::start().await;
    let gateway = portkey(&installed("node"), &root().join("tests/e2e/gateways/loopback.cjs")).await;
    let sidecar = in_front_of(gateway.address).await;
    api.script([Answer::RateLimited { retry_after: 2, should_retry: false }]);
    let url = format!("http://{}{MESSAGES}", sidecar.hop);
    let status = Client::new()
        .post(url)
        .header("x-portkey-provider", "anthropic")
        .header("x-portkey-custom-host", format!("http://{}/v1", api.address))
        .header("x-api-key", "sk-ant-test-fake")
        .header("anthropic-version", "2023-06-01")
        .json(&asking("claude-opus-5-5"))
        .send()
        .await
        .unwrap()
        .status();
    assert_eq!(status, 429);
    refused(&sidecar, "anthropic_workspace", "input_tokens", "header_family", 1.0).await;
}
