//! What a client gets from our address that it would not get from its provider's: as little as can be.

use crate::support::raw::{Conn, Upstream, header};
use crate::support::{Sidecar, parsed, route_to};
use plimsoll::app::Seams;
use plimsoll::config::ProviderHost;
use serde_json::Value;

const NOBODY: &str = "127.0.0.1:1";

/// Routes by prefix to an upstream that is not there.
fn routes(prefixed: &[(&str, &str)]) -> String {
    let mut config = "metrics: {bind: '127.0.0.1:0'}\nadmin: {bind: '127.0.0.1:0'}\nlisteners:\n- bind: 127.0.0.1:0\n  routes:\n".to_owned();
    for (n, (prefix, further)) in prefixed.iter().enumerate() {
        config.push_str(&format!(
            "  - {{name: r{n}, prefix: '{prefix}', strip_prefix: true, upstream: 'http://{NOBODY}'{further}}}\n"
        ));
    }
    config
}

#[tokio::test]
async fn what_we_answer_ourselves_has_the_error_shape_of_the_callers_api() {
    let sidecar = Sidecar::start(&routes(&[
        ("/claude", ""),
        ("/openai", ", surface: openai"),
        ("/aws", ", surface: bedrock"),
        ("/google", ", surface: vertex"),
    ]))
    .await;
    let post = async |path: &str| {
        let url = format!("http://{}{path}", sidecar.hop);
        let response = reqwest::Client::new().post(url).body("{}").send().await.unwrap();
        assert_eq!(response.headers()["x-plimsoll-answered"], "true", "{path}");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.json::<Value>().await.unwrap())
    };
    let (status, _, body) = post("/claude/v1/messages").await;
    assert_eq!((status, &body["type"], &body["error"]["type"]), (502, &"error".into(), &"api_error".into()));
    for path in ["/openai/v1/responses", "/openai/v1/unheard-of", "/claude/v1/chat/completions"] {
        let (status, _, body) = post(path).await;
        assert_eq!((status, &body["error"]["type"]), (502, &"server_error".into()), "{path}");
        assert_eq!(body.get("type"), None, "{path}");
        assert_eq!(body["error"]["code"], Value::Null, "{path}");
    }
    let (status, headers, body) = post("/aws/model/anthropic.claude/invoke").await;
    assert_eq!((status, headers["x-amzn-errortype"].to_str().unwrap()), (502, "InternalServerException"));
    assert!(body["message"].as_str().unwrap().contains("cannot be reached"), "{body}");
    let (_, _, body) = post("/google/v1/projects/p:unheardOf").await;
    assert_eq!((&body["error"]["code"], &body["error"]["status"]), (&502.into(), &"UNAVAILABLE".into()));
}

#[tokio::test]
async fn a_path_of_no_route_is_told_which_base_url_to_set() {
    let sidecar = Sidecar::start(&routes(&[("/claude", ""), ("/openai", "")])).await;
    let url = format!("http://{}/v1/messages", sidecar.hop);
    let response = reqwest::Client::new().post(url).body("{}").send().await.unwrap();
    assert_eq!(response.status(), 404);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["type"], "not_found_error");
    let text = body["error"]["message"].as_str().unwrap();
    assert!(text.contains("base URL") && text.contains("/claude") && text.contains("/openai"), "{text}");
}

/// What goes up for these bytes, and the sidecar.
async fn sent_up(host: Option<ProviderHost>, asked: &[&str]) -> (Vec<String>, Sidecar) {
    let (upstream, mut seen) = Upstream::recording("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let mut config = parsed(&route_to(upstream.address));
    config.listeners[0].routes[0].repair = host;
    let sidecar = Sidecar::of(config, Seams { env: |_| None, ..Seams::default() }).await;
    let mut client = Conn::connect(sidecar.hop).await;
    let mut up = Vec::new();
    for bytes in asked {
        client.write(bytes).await;
        assert!(client.until("\r\n\r\n{}").await.unwrap().starts_with("HTTP/1.1 200"));
        // The address of this upstream differs from run to run.
        up.push(seen.recv().await.unwrap().replace(&upstream.address.to_string(), "HOST"));
    }
    (up, sidecar)
}

fn post(path: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: HOST\r\nX-Api-Key: k\r\nx-Odd: a b\r\nAnthropic-Beta: new-thing\r\n\
         Content-Length: 25\r\n\r\n{{ \"model\" : \"/messages\" }}"
    )
}

#[tokio::test]
async fn a_repaired_request_differs_from_what_was_sent_in_its_path_and_nothing_else() {
    let asked =
        ["/messages?beta=true", "/v1/v1/messages", "/v1/messages", "/chat/completions", "/"].map(post);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let (up, sidecar) = sent_up(Some(ProviderHost::Anthropic), &asked).await;
    let meant =
        ["/v1/messages?beta=true", "/v1/messages", "/v1/messages", "/chat/completions", "/"].map(post);
    assert_eq!(up, meant);
    let counted = async |repair: &str, n| {
        let parts = ["plimsoll_route=\"api\"", repair];
        sidecar.wait_metric("plimsoll_paths_repaired_total", &parts, n).await;
    };
    counted("plimsoll_repair=\"missing_v1\"", 1.0).await;
    counted("plimsoll_repair=\"doubled_v1\"", 1.0).await;
    // Measured as what they are: calls to the Messages API without its limit headers.
    sidecar.wait_metric("plimsoll_headers_missing_total", &[], 3.0).await;
}

#[tokio::test]
async fn on_any_other_host_and_for_signed_requests_every_path_passes_as_it_is() {
    let asked = ["/messages", "/v1/v1/messages", "/models/x"].map(post);
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let (up, sidecar) = sent_up(None, &asked).await;
    assert_eq!(up, asked);
    assert_eq!(sidecar.metric("plimsoll_paths_repaired_total", &[]).await, None);
    let signed = post("/messages").replace("X-Api-Key: k", "Authorization: AWS4-HMAC-SHA256 Credential=k");
    let (up, _) = sent_up(Some(ProviderHost::Anthropic), &[&signed]).await;
    assert_eq!(up, [signed]);
}

const WEBSOCKET: &str =
    "GET /openai/responses HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\r\n";

#[tokio::test]
async fn a_refused_websocket_is_told_what_to_speak_and_its_connection_goes_on() {
    let (upstream, mut seen) = Upstream::recording("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let config = route_to(upstream.address).replace("{name: api,", "{name: api, websocket: refuse,");
    let sidecar = Sidecar::start(&config).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(WEBSOCKET).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (Some("HTTP/1.1"), Some("upgrade")));
    let length = header(&head, "content-length").unwrap().parse().unwrap();
    let body: Value = serde_json::from_slice(&client.exactly(length).await).unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(body.get("type"), None, "Codex reads OpenAI's shape");
    // As Codex does it: the same as a request.
    client.write(post("/openai/responses")).await;
    assert!(client.until("\r\n\r\n{}").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(seen.recv().await.unwrap().starts_with("POST "), "nothing of the upgrade went up");
    sidecar.wait_metric("plimsoll_websockets_total", &["plimsoll_outcome=\"refused\""], 1.0).await;
    assert_eq!(sidecar.metric("plimsoll_websockets_total", &["tunnelled"]).await, None);
    sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
}

#[tokio::test]
async fn a_tunnelled_websocket_is_counted_as_unmeasured() {
    let upstream = Upstream::start(|mut conn: Conn| async move {
        conn.head().await.unwrap();
        conn.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi")
            .await;
        conn.rest().await;
    })
    .await;
    let sidecar = Sidecar::to(upstream.address).await;
    let mut client = Conn::connect(sidecar.hop).await;
    client.write(WEBSOCKET).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(client.exactly(2).await, b"hi");
    sidecar.wait_metric("plimsoll_websockets_total", &["plimsoll_outcome=\"tunnelled\""], 1.0).await;
}

#[tokio::test]
async fn health_checks_and_the_control_plane_pass_and_are_no_model_traffic() {
    let (upstream, mut seen) = Upstream::recording("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let sidecar = Sidecar::to(upstream.address).await;
    let asked = [
        "HEAD /api/hello",
        "HEAD /",
        "GET /v1/models",
        "GET /inference-profiles?type=SYSTEM_DEFINED",
        "DELETE /v1/files/f",
    ];
    let mut client = Conn::connect(sidecar.hop).await;
    for (n, line) in asked.into_iter().enumerate() {
        client.write(format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"), "{line}");
        assert!(seen.recv().await.unwrap().starts_with(&format!("{line} HTTP/1.1")));
        sidecar
            .wait_metric("plimsoll_requests_other_total", &["plimsoll_route=\"api\""], n as f64 + 1.0)
            .await;
    }
    for name in ["plimsoll_requests_total", "plimsoll_headers_missing_total", "plimsoll_rejections_total"] {
        assert_eq!(sidecar.metric(name, &[]).await, None, "{name}");
    }
    client.write("POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}").await;
    client.head().await.unwrap();
    sidecar.wait_metric("plimsoll_requests_total", &[], 1.0).await;
}
