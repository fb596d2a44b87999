//! Paths that a provider's own host certainly answers with 404, forwarded as they were meant.
//!
//! No one base URL fits all clients of one API: Anthropic's SDKs append `/v1/messages` to it, the AI SDK
//! appends `/messages`. Whoever sets one value for all of them (an environment of a container) breaks one
//! half. So exactly the paths below are mended, and only where the upstream is the provider itself: nobody
//! who works today sends them there, so no request that works changes. A gateway may well serve such a
//! path. What is signed is never touched: the signature covers its path.

use crate::config::{ProviderHost, Route};
use crate::stats::RouteCounts;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri, header};

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It lacks `/v1`: the base URL does.
    MissingV1,
    /// It begins with `/v1/v1`: the base URL ends in one that the client adds itself.
    DoubledV1,
}

/// The fault of a path as the provider's host would see it, if it is one of those that never exist there.
fn fault(host: ProviderHost, path: &str, headers: &HeaderMap) -> Option<Fault> {
    if is_signed(headers) {
        return None;
    }
    if let Some(rest) = path.strip_prefix("/v1/v1/") {
        return (!rest.starts_with("v1/")).then_some(Fault::DoubledV1);
    }
    let below = |base: &str| path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/'));
    let one = |id: &str| !id.is_empty() && !id.contains('/');
    let lacks = match host {
        ProviderHost::Anthropic => {
            ["/messages", "/messages/count_tokens", "/messages/batches", "/models"].contains(&path)
                || below("/messages/batches").is_some()
                // With a colon it is Gemini's `/models/ID:method`, sent to the wrong provider.
                || below("/models").is_some_and(|id| one(id) && !id.contains(':'))
        }
        ProviderHost::OpenAi => {
            ["/chat/completions", "/responses", "/embeddings", "/models"].contains(&path)
                // Fine-tuned models have colons in their names.
                || below("/models").is_some_and(one)
        }
    };
    lacks.then_some(Fault::MissingV1)
}

/// Signature Version 4 and RFC 9421. Signatures in a query belong to AWS' hosts.
fn is_signed(headers: &HeaderMap) -> bool {
    let scheme = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().get(..5));
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"AWS4-"))
        || headers.contains_key("signature-input")
        || headers.contains_key("x-amz-content-sha256")
}

/// The address with its path as it was meant. The query passes byte for byte.
fn meant(fault: Fault, uri: &Uri) -> Option<Uri> {
    let asked = uri.path_and_query()?.as_str();
    let meant: PathAndQuery = match fault {
        Fault::MissingV1 => format!("/v1{asked}").parse().ok()?,
        Fault::DoubledV1 => asked.strip_prefix("/v1")?.parse().ok()?,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(meant);
    Uri::from_parts(parts).ok()
}

/// Where a request goes: `uri`, or what it was meant to be. Then `head` bears that address too, so that the
/// call is measured as what it is.
pub(super) fn apply(route: &Route, counts: &RouteCounts, uri: Uri, head: &mut Parts) -> Uri {
    let Some(fault) = route.repair.and_then(|host| fault(host, uri.path(), &head.headers)) else {
        return uri;
    };
    let Some(repaired) = meant(fault, &uri) else { return uri };
    let (count, wrong, right) = match fault {
        Fault::MissingV1 => (&counts.missing_v1, "without `/v1`", "/v1"),
        Fault::DoubledV1 => (&counts.doubled_v1, "with `/v1` twice", ""),
    };
    if count.first() {
        tracing::warn!(
            route = %route.name,
            "a client asks for a path {wrong}, which the provider does not serve; such requests are forwarded as they \
             were meant and counted in plimsoll_paths_repaired_total. Set its base URL to this proxy's address and \
             `{}{right}`; `repair_paths: false` on the route turns this off",
            route.prefix
        );
    }
    head.uri = repaired.clone();
    repaired
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProviderHost::{Anthropic, OpenAi};
    use http::HeaderValue;
    use proptest::prelude::*;

    /// What the address becomes; `None` where it stays.
    fn repaired(host: ProviderHost, path: &str, headers: &HeaderMap) -> Option<String> {
        let uri: Uri = format!("https://h{path}").parse().unwrap();
        let fault = fault(host, uri.path(), headers)?;
        Some(meant(fault, &uri).unwrap().path_and_query().unwrap().to_string())
    }

    /// The list once more, as it is told to users: each path with what it becomes.
    const LIST: [(ProviderHost, &str, &str); 21] = [
        (Anthropic, "/messages", "/v1/messages"),
        (Anthropic, "/messages?beta=true&x=%2F", "/v1/messages?beta=true&x=%2F"),
        (Anthropic, "/messages/count_tokens", "/v1/messages/count_tokens"),
        (Anthropic, "/messages/batches", "/v1/messages/batches"),
        (Anthropic, "/messages/batches/msgbatch_1/results", "/v1/messages/batches/msgbatch_1/results"),
        (Anthropic, "/models", "/v1/models"),
        (Anthropic, "/models?limit=2", "/v1/models?limit=2"),
        (Anthropic, "/models/claude-opus-5-5", "/v1/models/claude-opus-5-5"),
        (Anthropic, "/v1/v1/messages?beta=true", "/v1/messages?beta=true"),
        (Anthropic, "/v1/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        (Anthropic, "/v1/v1/models", "/v1/models"),
        (Anthropic, "/v1/v1/files/f//x", "/v1/files/f//x"),
        (OpenAi, "/chat/completions", "/v1/chat/completions"),
        (OpenAi, "/responses", "/v1/responses"),
        (OpenAi, "/responses?a=b", "/v1/responses?a=b"),
        (OpenAi, "/embeddings", "/v1/embeddings"),
        (OpenAi, "/models", "/v1/models"),
        (OpenAi, "/models/gpt-9", "/v1/models/gpt-9"),
        (OpenAi, "/models/ft:gpt-9:org::id", "/v1/models/ft:gpt-9:org::id"),
        (OpenAi, "/v1/v1/chat/completions", "/v1/chat/completions"),
        (OpenAi, "/v1/v1/responses", "/v1/responses"),
    ];

    #[test]
    fn each_path_of_the_list_becomes_what_was_meant() {
        for (host, path, wanted) in LIST {
            assert_eq!(repaired(host, path, &HeaderMap::new()).as_deref(), Some(wanted), "{path}");
        }
    }

    #[test]
    fn neighbours_of_the_list_pass_as_they_are() {
        for (host, path) in [
            (Anthropic, "/v1/messages"),
            (Anthropic, "/v1/messages?x=/v1/v1/"),
            (Anthropic, "/chat/completions"),
            (Anthropic, "/responses"),
            (Anthropic, "/v1/chat/completions"),
            (Anthropic, "/messages/"),
            (Anthropic, "/messages/other"),
            (Anthropic, "/messagesx"),
            (Anthropic, "//messages"),
            (Anthropic, "/Messages"),
            (Anthropic, "/%6dessages"),
            (Anthropic, "/models/gemini-9:generateContent"),
            (Anthropic, "/models/a/b"),
            (Anthropic, "/models/"),
            (Anthropic, "/v1/models/gemini-9:generateContent"),
            (Anthropic, "/v1/v1"),
            (Anthropic, "/v1/v10/messages"),
            (Anthropic, "/v1/v1/v1/messages"),
            (Anthropic, "/"),
            (Anthropic, "/api/hello"),
            (Anthropic, "/api/v1/v1/messages"),
            (OpenAi, "/messages"),
            (OpenAi, "/completions"),
            (OpenAi, "/responses/resp_1"),
            (OpenAi, "/v1/responses"),
            (OpenAi, "/models/"),
        ] {
            assert_eq!(repaired(host, path, &HeaderMap::new()), None, "{path}");
        }
    }

    #[test]
    fn what_is_signed_is_never_touched() {
        for (name, value, signed) in [
            ("authorization", "AWS4-HMAC-SHA256 Credential=a/b, Signature=c", true),
            ("authorization", "AWS4-ECDSA-P256-SHA256 Credential=a", true),
            ("authorization", "aws4-hmac-sha256 x", true),
            ("x-amz-content-sha256", "e3b0", true),
            ("signature-input", "sig1=()", true),
            ("authorization", "Bearer AWS4-", false),
            ("authorization", "x", false),
            ("x-api-key", "AWS4-HMAC-SHA256", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            for (host, path, wanted) in LIST {
                let expected = (!signed).then(|| wanted.to_owned());
                assert_eq!(repaired(host, path, &headers), expected, "{name}: {value}");
            }
        }
    }

    /// The list, written as a grammar: segments instead of prefixes.
    fn is_listed(host: ProviderHost, path: &str) -> bool {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match (host, &segments[..]) {
            (_, ["v1", "v1", rest, ..]) => *rest != "v1" || segments.len() == 3,
            (
                Anthropic,
                ["messages" | "models"] | ["messages", "count_tokens"] | ["messages", "batches", ..],
            ) => true,
            (Anthropic, ["models", id]) => !id.is_empty() && !id.contains(':'),
            (OpenAi, ["chat", "completions"] | ["responses" | "embeddings" | "models"]) => true,
            (OpenAi, ["models", id]) => !id.is_empty(),
            _ => false,
        }
    }

    fn path() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            8 => prop::sample::select(vec![
                "v1", "messages", "count_tokens", "batches", "models", "chat", "completions", "responses",
                "embeddings", "id", "id:method", "api", "",
            ]).prop_map(str::to_owned),
            2 => "[a-zA-Z0-9_.~:%@-]{0,8}".prop_map(|s| s.replace('%', "%25")),
        ];
        prop::collection::vec(segment, 0..6).prop_map(|parts| format!("/{}", parts.join("/")))
    }

    proptest! {
        /// Nothing but the list changes, and all of the list does; the query stays, and once is enough.
        #[test]
        fn nothing_but_the_list_is_changed(path in path(), query in prop::option::of("[a-z0-9=&%/?]{0,12}"), anthropic in any::<bool>()) {
            let host = if anthropic { Anthropic } else { OpenAi };
            let query = query.map(|q| format!("?{}", q.replace('%', "%25"))).unwrap_or_default();
            let asked = format!("{path}{query}");
            let became = repaired(host, &asked, &HeaderMap::new());
            prop_assert_eq!(became.is_some(), is_listed(host, &path), "{} -> {:?}", asked, became);
            if let Some(became) = became {
                let shorter = path.strip_prefix("/v1/v1/").map(|rest| format!("/v1/{rest}"));
                prop_assert_eq!(&became, &format!("{}{query}", shorter.unwrap_or_else(|| format!("/v1{path}"))));
                prop_assert_eq!(repaired(host, &became, &HeaderMap::new()), None, "what is right stays");
            }
        }

        /// No host but the providers' own is one.
        #[test]
        fn no_other_host_is_a_providers(host in "(api|API|gw|x)?[.]?(anthropic|openai|example)[.]?(com|com[.]|co|com:80|internal)?[a-z]{0,2}") {
            let own = ["api.anthropic.com", "api.openai.com"].contains(&host.to_ascii_lowercase().as_str());
            prop_assert_eq!(ProviderHost::of(&host).is_some(), own);
        }
    }
}
