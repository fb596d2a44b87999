//! Whatever a caller can get quoted in an error makes no limit of it: every phrase and every code of the
//! table, inside errors of every provider that say what they are.

use super::cond::{Cond, Pick};
use super::{Class, Evidence, judge, rules};
use crate::dialects::{error_text, read_head};
use crate::limit::Timestamp;
use crate::recorded::{OneOrMany, header_map};
use crate::route::Surface;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Everything by which some rule knows a limit.
fn limit_words() -> BTreeSet<&'static str> {
    fn of(cond: &'static Cond, found: &mut BTreeSet<&'static str>) {
        match cond {
            Cond::All(parts) | Cond::Any(parts) => parts.iter().for_each(|part| of(part, found)),
            Cond::Not(part) => of(part, found),
            Cond::Says(list)
            | Cond::Opens(list)
            | Cond::Type(list)
            | Cond::Code(list)
            | Cond::MessageIs(list)
            | Cond::Exception(list) => found.extend(*list),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    for rule in rules::all().filter(|rule| rule.class != Class::NotALimit) {
        of(&rule.when, &mut found);
        if let Pick::Words(rows) = rule.limiter {
            rows.iter().for_each(|(words, _)| found.extend(*words));
        }
    }
    found
}

/// How errors repeat what they refuse. `{}` is what the caller chose.
const QUOTES: [&str; 7] = [
    "model: {}",
    "The model '{}' does not exist or you do not have access to it.",
    "Value '{}: Too many requests' at 'modelId' failed to satisfy constraint",
    "tools.0.custom.name: String should match pattern, got \"{}\"",
    "Invalid value: {\"error\":{\"type\":\"{}\",\"code\":\"{}\",\"message\":\"{}\"}}",
    "AnthropicException - {\"type\":\"error\",\"error\":{\"type\":\"{}\",\"message\":\"rate limit\"}} is no model",
    "{} is not a valid model ID",
];

/// A status, headers and a body: an error of the request, the credential or the server, in a provider's form.
type Form = (u16, &'static [(&'static str, &'static str)], fn(&str) -> Value);

fn anthropic(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
}

fn openai(kind: &str, code: Value, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

fn google(code: u16, status: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "status": status}})
}

const FORMS: &[Form] = &[
    (400, &[("request-id", "req_1")], |m| anthropic("invalid_request_error", m)),
    (401, &[], |m| anthropic("authentication_error", m)),
    (403, &[], |m| anthropic("permission_error", m)),
    (404, &[], |m| anthropic("not_found_error", m)),
    (413, &[], |m| anthropic("request_too_large", m)),
    (500, &[], |m| anthropic("api_error", m)),
    (504, &[], |m| anthropic("timeout_error", m)),
    (
        400,
        &[("x-amzn-errortype", "ValidationException"), ("x-amzn-requestid", "1")],
        |m| json!({"message": m}),
    ),
    (403, &[("x-amzn-errortype", "AccessDeniedException")], |m| json!({"Message": m})),
    (404, &[("x-amzn-errortype", "ResourceNotFoundException")], |m| json!({"message": m})),
    (
        424,
        &[("x-amzn-errortype", "ModelErrorException")],
        |m| json!({"message": m, "originalStatusCode": 500}),
    ),
    (500, &[("x-amzn-errortype", "InternalServerException")], |m| json!({"message": m})),
    (400, &[], |m| json!({"__type": "com.amazon.coral.service#ValidationException", "message": m})),
    (400, &[], |m| google(400, "INVALID_ARGUMENT", m)),
    (403, &[], |m| json!([google(403, "PERMISSION_DENIED", m)])),
    (404, &[], |m| google(404, "NOT_FOUND", m)),
    (500, &[], |m| google(500, "INTERNAL", m)),
    (400, &[], |m| openai("invalid_request_error", Value::Null, m)),
    (401, &[], |m| openai("invalid_request_error", json!("invalid_api_key"), m)),
    (404, &[("openai-version", "2020-10-01")], |m| {
        openai("invalid_request_error", json!("model_not_found"), m)
    }),
    (500, &[], |m| openai("server_error", Value::Null, m)),
    (404, &[("apim-request-id", "1")], |m| json!({"error": {"code": "DeploymentNotFound", "message": m}})),
    (400, &[], |m| json!({"error": {"message": m, "code": 400}, "user_id": "user_1"})),
    (404, &[("x-litellm-call-id", "1")], |m| openai("None", json!("404"), m)),
    (
        400,
        &[],
        |m| json!({"error": {"message": format!("litellm.BadRequestError: {m}"), "type": null, "code": "400"}}),
    ),
    (404, &[], |m| json!({"detail": m})),
    (
        422,
        &[],
        |m| json!({"detail": [{"type": "string_type", "loc": ["body", "model"], "msg": m, "input": m}]}),
    ),
    (400, &[], |m| json!({"message": m})),
    (403, &[], |m| json!({"error": m})),
    (
        400,
        &[],
        |m| json!({"error": anthropic("invalid_request_error", m)["error"], "body": {"error": {"type": m, "code": m}}}),
    ),
    (404, &[], |m| Value::String(m.to_owned())),
];

const SURFACES: [Surface; 8] = [
    Surface::AnthropicApi,
    Surface::ClaudeCodeKey,
    Surface::ClaudeCodePlan,
    Surface::Bedrock,
    Surface::Vertex,
    Surface::Gateway,
    Surface::OpenAi,
    Surface::Unknown,
];

/// How an error of this form is judged: as traffic, and as something pasted.
fn judged(form: &Form, message: &str, surface: Surface) -> [(&'static str, Class); 2] {
    let (status, headers, body) = form;
    let named = |(name, value): &(&str, &str)| ((*name).to_owned(), OneOrMany::One((*value).to_owned()));
    let headers: BTreeMap<_, _> = headers.iter().map(named).collect();
    let limits = read_head(*status, &header_map(&headers), Timestamp::from_secs(0));
    let text = match body(message) {
        Value::String(text) => text,
        json => json.to_string(),
    };
    let error = error_text::read(text.as_bytes(), false, false);
    let of = |evidence: Evidence<'_>| {
        let verdict = judge(&evidence);
        (verdict.rule.id, verdict.class)
    };
    [
        of(Evidence::new(Some(*status), &limits, &error, surface)),
        of(Evidence::pasted(Some(*status), &limits, &error, surface)),
    ]
}

#[test]
fn what_a_caller_can_get_quoted_in_an_error_makes_no_limit_of_it() {
    let mut wrong = Vec::new();
    for (n, words) in limit_words().into_iter().enumerate() {
        for (f, form) in FORMS.iter().enumerate() {
            for (q, quote) in QUOTES.iter().enumerate() {
                // All of them with all forms would take minutes; over the words each pair comes up often.
                if (n + f + q) % 2 == 1 {
                    continue;
                }
                // Only where no sentence of a gateway's own comes with the status, an error may begin with the quote.
                if quote.starts_with('{') && matches!(form.0, 401 | 403 | 400 | 422) {
                    continue;
                }
                let message = quote.replace("{}", words);
                let surface = SURFACES[(n / 2 + f + q) % SURFACES.len()];
                for (rule, class) in judged(form, &message, surface) {
                    if class != Class::NotALimit {
                        let body = form.2(&message);
                        wrong.push(format!("{} {} on {surface:?}: {class:?} by {rule}", form.0, body));
                    }
                }
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{} wrong, such as\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

/// The same inside a stream, where the status is a success.
#[test]
fn what_is_quoted_in_an_error_inside_a_stream_makes_no_limit_of_it() {
    let limits = read_head(200, &http::HeaderMap::new(), Timestamp::from_secs(0));
    for words in limit_words() {
        for kind in ["invalid_request_error", "not_found_error", "api_error"] {
            let message = format!("model: {words} (validation failed)");
            let error = error_text::read(anthropic(kind, &message).to_string().as_bytes(), false, true);
            let verdict = judge(&Evidence::new(Some(200), &limits, &error, Surface::AnthropicApi));
            assert_eq!(verdict.class, Class::NotALimit, "{kind} {message}: {}", verdict.rule.id);
        }
    }
}
