//! What a client gets from our address that it would not get from its provider's: as little as can be.

use crate::support::Sidecar;
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
