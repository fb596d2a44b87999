//! A fake of Anthropic's Admin API: the documented shapes of organisation, limits, usage and cost, with pages.

use super::serve_http1;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

pub const KEY: &str = "sk-ant-admin01-test";
pub const ORGANIZATION: &str = "11111111-2222-3333-4444-555555555555";

#[derive(Clone, Default)]
pub struct State {
    /// Input tokens of the newest minute that is known, by workspace.
    pub minute: Vec<(Option<&'static str>, u64)>,
    /// Cents a day, by workspace.
    pub cents: Vec<(Option<&'static str>, u64)>,
    /// Endpoint and status of refusals.
    pub refuse: Option<(&'static str, u16)>,
    /// Pages of limits that never end.
    pub endless: bool,
    /// Paths that were asked for.
    pub seen: Vec<String>,
}

#[derive(Clone)]
pub struct Console {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Console {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let console = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let shared = console.clone();
        serve_http1(listener, move |request| {
            let console = shared.clone();
            async move { console.answer(&request) }
        });
        console
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path_and_query().unwrap().to_string();
        let mut state = self.state.lock().unwrap();
        state.seen.push(path.clone());
        if request.headers().get("x-api-key").is_none_or(|key| key != KEY) {
            return answer(
                401,
                &json!({"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}),
            );
        }
        if let Some((_, status)) = state.refuse.filter(|(what, _)| path.contains(what)) {
            return answer(
                status,
                &json!({"type": "error", "error": {"type": "permission_error", "message": "This key may not read that."}}),
            );
        }
        let rest = path.strip_prefix("/v1/organizations/").unwrap();
        let body = match rest.split('?').next().unwrap() {
            "me" => json!({"id": ORGANIZATION, "type": "organization", "name": "Example"}),
            "rate_limits" => limits(&path, state.endless),
            "workspaces" => workspaces(&path),
            "workspaces/wrkspc_search/rate_limits" => {
                json!({"data": [{"type": "workspace_rate_limit", "rate_limit_id": "x",
                "workspace_id": "wrkspc_search", "group_type": "model_group", "models": ["claude-opus-4-5", "claude-opus-4-8"],
                "limits": [{"type": "input_tokens_per_minute", "value": 50_000, "org_limit": 200_000}]}], "next_page": null})
            }
            "usage_report/messages" => usage(&state),
            "cost_report" => costs(&state, &path),
            _ if rest.starts_with("workspaces/") => json!({"data": [], "next_page": null}),
            other => panic!("{other} is not documented"),
        };
        answer(200, &body)
    }
}

static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn limits(path: &str, endless: bool) -> Value {
    let opus = json!({"id": "a", "type": "rate_limit", "group_type": "model_group",
        "models": ["claude-opus-4-5", "claude-opus-4-5-20251101", "claude-opus-4-8"],
        "limits": [{"type": "requests_per_minute", "value": 4_000},
            {"type": "input_tokens_per_minute_cache_aware", "value": 200_000},
            {"type": "output_tokens_per_minute", "value": 80_000},
            {"type": "shiny_new_limit", "value": 7}, {"type": "odd", "value": -3}]});
    let batch = json!({"id": "b", "type": "rate_limit", "group_type": "batch", "models": null,
        "limits": [{"type": "enqueued_batch_requests", "value": 100_000}]});
    if endless {
        return json!({"data": [], "next_page": format!("p{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))});
    }
    match path.contains("page=") {
        false => json!({"data": [opus], "next_page": "second"}),
        true => json!({"data": [batch], "next_page": null}),
    }
}

fn workspaces(path: &str) -> Value {
    let workspace = |id: &str, archived: Option<&str>| json!({"id": id, "type": "workspace", "name": id.replace("wrkspc_search", "Search (prod)"), "archived_at": archived});
    match path.contains("after_id=") {
        false => {
            json!({"data": [workspace("wrkspc_search", None)], "has_more": true, "first_id": "a", "last_id": "wrkspc_search"})
        }
        true => {
            json!({"data": [workspace("wrkspc_old", Some("2026-01-01T00:00:00Z"))], "has_more": false, "first_id": "a", "last_id": "b"})
        }
    }
}

fn at(secs: i64) -> String {
    jiff::Timestamp::from_second(secs).unwrap().to_string()
}

fn usage(state: &State) -> Value {
    let minute = jiff::Timestamp::now().as_second().div_euclid(60) * 60;
    let bucket = |back: i64, results: Vec<Value>| json!({"starting_at": at(minute - 60 * back), "ending_at": at(minute - 60 * (back - 1)), "results": results});
    let used = |(workspace, tokens): &(Option<&str>, u64)| {
        json!({"uncached_input_tokens": tokens, "cache_read_input_tokens": 9_000_000, "output_tokens": 40,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 5},
            "server_tool_use": {"web_search_requests": 0}, "model": "claude-opus-4-8", "workspace_id": workspace,
            "api_key_id": null, "service_tier": null, "context_window": null})
    };
    let results: Vec<Value> = state.minute.iter().map(used).collect();
    // The newest minutes are there, and not counted yet.
    json!({"data": [bucket(4, results.clone()), bucket(3, results), bucket(2, Vec::new()), bucket(1, Vec::new())],
        "has_more": false, "next_page": null})
}

fn costs(state: &State, path: &str) -> Value {
    let from = path.split("starting_at=").nth(1).unwrap().split('&').next().unwrap();
    let from = from.parse::<jiff::Timestamp>().unwrap().as_second();
    let today = jiff::Timestamp::now().as_second().div_euclid(86_400) * 86_400;
    let day = |starts: i64| {
        let cost = |(workspace, cents): &(Option<&str>, u64)| json!({"amount": format!("{cents}.25"), "currency": "USD", "workspace_id": workspace, "description": null, "cost_type": null});
        let results: Vec<Value> = state.cents.iter().map(cost).collect();
        json!({"starting_at": at(starts), "ending_at": at(starts + 86_400), "results": results})
    };
    let days: Vec<Value> =
        (0..).map(|n| from + n * 86_400).take_while(|starts| *starts <= today).map(day).collect();
    json!({"data": days, "has_more": false, "next_page": null})
}

fn answer(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
