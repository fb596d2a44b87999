//! Responses that Plimsoll gives itself, in the shape of the API that the caller speaks.
//!
//! An SDK that cannot read an error shows its user a parse failure, or retries what will never work. So a
//! response of ours looks like its provider's, and says in `x-plimsoll-answered` whose it is. The form of
//! the path decides before the upstream does: OpenAI's API is also served on Anthropic's host.

use super::body::AnswerBody;
use crate::route::Surface;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

/// The shape of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Anthropic,
    OpenAi,
    Aws,
    Google,
}

/// The surface whose API a request speaks: the path's form shows it, else it is what is known of the route.
pub(super) fn spoken(surface: Surface, path: &str) -> Surface {
    const OPENAI: [&str; 4] = ["/chat/completions", "/completions", "/responses", "/embeddings"];
    if OPENAI.iter().any(|end| path.ends_with(end)) {
        return if surface == Surface::AzureOpenAi { surface } else { Surface::OpenAi };
    }
    if path.rsplit_once(':').is_some_and(|(_, verb)| verb.to_ascii_lowercase().ends_with("generatecontent")) {
        return Surface::Vertex;
    }
    crate::dialects::places::surface_of_path(path).unwrap_or(surface)
}

/// A response that Plimsoll gives itself. Callers add what else it needs (`retry-after`, `upgrade`).
pub(super) fn own_response(surface: Surface, status: StatusCode, message: &str) -> Response<AnswerBody> {
    let shape = shape(surface);
    let body = body(shape, status, &format!("plimsoll: {message}"));
    let mut response = Response::new(AnswerBody::Own(Full::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-plimsoll-answered", HeaderValue::from_static("true"));
    if shape == Shape::Aws {
        // AWS' SDKs take the error's name from here, not from the body.
        headers.insert("x-amzn-errortype", HeaderValue::from_static(aws_type(status)));
    }
    response
}

const fn shape(surface: Surface) -> Shape {
    match surface {
        Surface::Bedrock => Shape::Aws,
        Surface::Vertex => Shape::Google,
        Surface::OpenAi | Surface::AzureOpenAi => Shape::OpenAi,
        // OpenAI's SDKs find `error.message` and `error.type` in Anthropic's shape too.
        Surface::AnthropicApi
        | Surface::ClaudeCodeKey
        | Surface::ClaudeCodePlan
        | Surface::Gateway
        | Surface::Other
        | Surface::Unknown => Shape::Anthropic,
    }
}

fn body(shape: Shape, status: StatusCode, message: &str) -> Value {
    match shape {
        Shape::Anthropic => {
            json!({"type": "error", "error": {"type": anthropic_type(status), "message": message}})
        }
        Shape::OpenAi => {
            let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
            json!({"error": {"message": message, "type": kind, "param": null, "code": null}})
        }
        Shape::Aws => json!({"message": message}),
        Shape::Google => {
            json!({"error": {"code": status.as_u16(), "message": message, "status": google_status(status)}})
        }
    }
}

/// Never `overloaded_error` or `rate_limit_error`: those are the provider's to say.
fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        400..=499 => "invalid_request_error",
        504 => "timeout_error",
        _ => "api_error",
    }
}

fn aws_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        400..=499 => "ValidationException",
        503 => "ServiceUnavailableException",
        _ => "InternalServerException",
    }
}

fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        400..=499 => "INVALID_ARGUMENT",
        501 => "UNIMPLEMENTED",
        502 | 503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn read(surface: Surface, status: StatusCode) -> (http::response::Parts, Value) {
        let (head, body) = own_response(surface, status, "why").into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (head, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn each_provider_finds_its_own_fields_in_what_we_answer() {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        for surface in Surface::ALL {
            let (head, body) = read(surface, status).await;
            assert_eq!((head.status, head.headers["x-plimsoll-answered"].as_bytes()), (status, &b"true"[..]));
            let message =
                if surface == Surface::Bedrock { &body["message"] } else { &body["error"]["message"] };
            assert_eq!(message, "plimsoll: why", "{surface:?}");
        }
        let (head, _) = read(Surface::Bedrock, status).await;
        assert_eq!(head.headers["x-amzn-errortype"], "ServiceUnavailableException");
        let (_, google) = read(Surface::Vertex, status).await;
        assert_eq!(
            (&google["error"]["status"], &google["error"]["code"]),
            (&json!("UNAVAILABLE"), &json!(503))
        );
        let (_, openai) = read(Surface::OpenAi, status).await;
        assert_eq!((openai.get("type"), &openai["error"]["type"]), (None, &json!("server_error")));
        let (_, anthropic) = read(Surface::ClaudeCodePlan, StatusCode::NOT_FOUND).await;
        assert_eq!(
            (&anthropic["type"], &anthropic["error"]["type"]),
            (&json!("error"), &json!("not_found_error"))
        );
    }

    #[tokio::test]
    async fn nothing_that_we_answer_reads_like_a_limit_of_the_provider() {
        for surface in Surface::ALL {
            for code in 400..600 {
                let (head, body) = read(surface, StatusCode::from_u16(code).unwrap()).await;
                let kind = head.headers.get("x-amzn-errortype").map(|v| v.to_str().unwrap().to_owned());
                let text = format!("{body}{kind:?}").to_lowercase();
                assert!(
                    !["throttl", "rate_limit", "overload", "exhausted", "quota"]
                        .iter()
                        .any(|w| text.contains(w)),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn the_form_of_a_path_shows_which_api_is_spoken() {
        for (known, path, spoken_here) in [
            (Surface::AnthropicApi, "/v1/messages", Surface::AnthropicApi),
            (Surface::AnthropicApi, "/v1/chat/completions", Surface::OpenAi),
            (Surface::AzureOpenAi, "/openai/deployments/d/chat/completions", Surface::AzureOpenAi),
            (Surface::Unknown, "/openai/v1/responses", Surface::OpenAi),
            (Surface::Unknown, "/model/anthropic.claude/invoke", Surface::Bedrock),
            (Surface::Unknown, "/gemini/v1beta/models/m:streamGenerateContent", Surface::Vertex),
            (Surface::Bedrock, "/inference-profiles", Surface::Bedrock),
            (Surface::Unknown, "/", Surface::Unknown),
        ] {
            assert_eq!(spoken(known, path), spoken_here, "{path}");
        }
    }
}
