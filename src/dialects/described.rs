//! Errors that say what they are: by type, code or exception, in the error's own fields.
//!
//! An error of the request, of the credential or of the server repeats what it refuses: a model's name, a
//! parameter's value, a tool's name. A caller may give those any name, so the text of such an error proves
//! no limit, whatever words stand in it.

use crate::observation::ErrorBody;

/// Types, codes, statuses and exceptions of errors that are no limit, in lower case: Anthropic's, the OpenAI
/// family's, Google's (`google.rpc.Code`), Azure's.
const NO_LIMIT: [&str; 68] = [
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "api_error",
    "timeout_error",
    "internal_server_error",
    "server_error",
    "service_error",
    "internal_error",
    "invalid_request",
    "bad_request",
    "bad_request_error",
    "badrequest",
    "badrequesterror",
    "validation_error",
    "value_error",
    "unprocessable_entity",
    "unprocessable_entity_error",
    "unprocessableentity",
    "not_found",
    "notfound",
    "notfounderror",
    "resource_not_found",
    "resourcenotfound",
    "model_not_found",
    "model_not_supported",
    "unknown_model",
    "deploymentnotfound",
    "operationnotsupported",
    "method_not_allowed",
    "forbidden",
    "request_forbidden",
    "unauthorized",
    "unauthenticated",
    "accessdenied",
    "access_denied",
    "permission_denied",
    "permissiondenied",
    "permissiondeniederror",
    "authenticationerror",
    "auth_error",
    "token_not_found_in_db",
    "invalid_api_key",
    "invalid_authentication",
    "insufficient_permissions",
    "unsupported_country_region_territory",
    "context_length_exceeded",
    "string_above_max_length",
    "unknown_parameter",
    "unsupported_parameter",
    "unsupported_value",
    "invalid_value",
    "invalid_type",
    "missing_required_parameter",
    "invalid_prompt",
    "content_filter",
    "content_policy_violation",
    "invalid_argument",
    "failed_precondition",
    "out_of_range",
    "already_exists",
    "aborted",
    "internal",
    "deadline_exceeded",
    "unimplemented",
];

/// Parts of names by which a limit, a load or money calls itself, whoever writes them.
const LIMIT_STEMS: [&str; 23] = [
    "rate_limit",
    "ratelimit",
    "rate-limit",
    "rate limit",
    "ratequota",
    "quota",
    "throttl",
    "toomany",
    "too_many",
    "limitexceeded",
    "limit_exceeded",
    "limit_reached",
    "usage_limit",
    "spend_limit",
    "overload",
    "capacity",
    "exhausted",
    "billing",
    "budget",
    "balance",
    "credit",
    "unavailable",
    "notready",
];

/// True for a name that a limit, a load or money calls itself by.
fn names_limit(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    LIMIT_STEMS.iter().any(|stem| name.contains(stem))
}

/// True for a name of an error that is no limit.
fn names_none(name: &str) -> bool {
    let name = name.rsplit('#').next().unwrap_or(name).to_ascii_lowercase();
    // AWS: all exceptions that do not say otherwise (`ValidationException`, `AccessDeniedException`, …).
    let exception = name.ends_with("exception") && !name.contains(' ');
    NO_LIMIT.contains(&name.as_str()) || exception || is_status(&name)
}

/// A code that only repeats an HTTP status, of those that no limit comes with.
fn is_status(code: &str) -> bool {
    code.len() == 3
        && code
            .parse::<u16>()
            .is_ok_and(|code| (400..600).contains(&code) && !matches!(code, 402 | 429 | 503 | 529))
}

/// True if an error names a limit, a load or money: by AWS's exception, or by type or code where those are
/// its own.
pub fn is_limit(error: &ErrorBody, exception: Option<&str>, own: bool) -> bool {
    let named = [error.kind.as_deref(), error.code.as_deref()].into_iter().flatten().filter(|_| own);
    named.chain(exception).any(names_limit)
}

/// True if type, code or exception of an error say that it is no limit, and none of them says otherwise. A
/// type that is not its `own`, but stands in its text, cannot say otherwise.
pub fn is_no_limit(error: &ErrorBody, exception: Option<&str>, own: bool) -> bool {
    let named = [error.kind.as_deref(), error.code.as_deref(), exception].into_iter().flatten();
    let none = named.into_iter().any(names_none);
    none && !is_limit(error, exception, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: Option<&str>, code: Option<&str>) -> ErrorBody {
        ErrorBody { kind: kind.map(Into::into), code: code.map(Into::into), ..ErrorBody::default() }
    }

    #[test]
    fn an_error_is_described_by_its_own_names_alone() {
        for (kind, code, exception) in [
            (Some("not_found_error"), None, None),
            (Some("INVALID_ARGUMENT"), Some("400"), None),
            (Some("com.amazon.coral.service#AccessDeniedException"), None, None),
            (None, Some("404"), None),
            (None, None, Some("validationexception")),
            (Some("invalid_request_error"), Some("model_not_found"), None),
        ] {
            assert!(is_no_limit(&error(kind, code), exception, true), "{kind:?} {code:?} {exception:?}");
        }
        for (kind, code, exception) in [
            (None, None, None),
            (Some("rate_limit_error"), None, None),
            (Some("invalid_request_error"), Some("rate_limit_error"), None),
            (Some("tokens"), Some("rate_limit_exceeded"), None),
            (Some("RESOURCE_EXHAUSTED"), Some("429"), None),
            (None, None, Some("throttlingexception")),
            (None, None, Some("servicequotaexceededexception")),
            (None, None, Some("serviceunavailableexception")),
            (None, None, Some("modelnotreadyexception")),
            (None, Some("1308"), None),
            (None, Some("503"), None),
            (Some("None"), Some("429"), None),
        ] {
            assert!(!is_no_limit(&error(kind, code), exception, true), "{kind:?} {code:?} {exception:?}");
        }
    }

    /// The two lists never speak of the same name.
    #[test]
    fn no_name_is_both() {
        let both: Vec<_> = NO_LIMIT.iter().filter(|name| names_limit(name)).collect();
        assert!(both.is_empty(), "{both:?}");
        assert!(NO_LIMIT.iter().all(|name| **name == name.to_ascii_lowercase()));
    }
}
