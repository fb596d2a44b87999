//! The headers of a failure that may be shown: an allow-list, because support asks for headers and
//! no header that nobody thought of may leak.
//!
//! Only response headers, only of failures, only these names, cut in length and number. What they
//! hold is still scrubbed where it is shown.

use super::printable;
use http::HeaderMap;
use std::sync::Arc;

/// Whole names.
const NAMES: [&str; 27] = [
    "date",
    "retry-after",
    "retry-after-ms",
    "request-id",
    "x-request-id",
    "x-should-retry",
    "content-type",
    "server",
    "via",
    "cf-ray",
    "x-amzn-requestid",
    "x-amzn-errortype",
    "apim-request-id",
    "x-ms-region",
    "policy-id",
    "rate_limit_type",
    "reset_at",
    "x-envoy-ratelimited",
    "x-envoy-upstream-service-time",
    "x-litellm-call-id",
    "x-litellm-version",
    "x-litellm-model-group",
    "x-litellm-model-region",
    "x-litellm-key-rpm-limit",
    "x-litellm-key-tpm-limit",
    "llm_provider-request-id",
    "llm_provider-retry-after",
];

/// Beginnings of names.
const FAMILIES: [&str; 11] = [
    "anthropic-ratelimit-",
    "anthropic-priority-",
    "anthropic-fast-",
    "anthropic-organization-id",
    "anthropic-workspace-id",
    "x-ratelimit-",
    "ratelimit-",
    "x-ai-ratelimit-",
    "x-kong-",
    "x-portkey-",
    "llm_provider-anthropic-ratelimit-",
];

/// Most headers that are kept.
const MAX: usize = 48;
/// Longest value that is kept.
const MAX_VALUE: usize = 160;

/// The headers that may be shown, in their order.
pub(super) fn of(headers: &HeaderMap) -> Vec<(Arc<str>, Arc<str>)> {
    let allowed =
        |name: &str| NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family));
    headers
        .iter()
        .filter(|(name, _)| allowed(name.as_str()))
        .filter_map(|(name, value)| Some((name.as_str(), printable(value).filter(|v| v.len() <= MAX_VALUE)?)))
        .take(MAX)
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}
