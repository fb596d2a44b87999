//! What differs between two runs, and what that costs. Pure.
//!
//! Names are compared, and the few values that decide something (versions, betas, cache scopes); never a credential, an
//! id or a prompt.

use super::fake::Request;
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// No call came through at all.
    Bypassed,
    /// The path of the call.
    Path,
    /// How often a model was called.
    Calls,
    /// The exit code.
    Exit,
    /// Other requests that one run made and the other did not.
    Asked,
    /// Scopes of cached blocks.
    CacheScope,
    /// `anthropic-beta`.
    Beta,
    /// A top-level key of the body.
    BodyKey,
    /// A header that one run had and the other had not.
    Header,
    /// The value of a header that decides something.
    HeaderValue,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind of thing differs.
    pub what: What,
    /// Which one: a header, a key, a beta, a path.
    pub name: String,
    /// What it was straight; absent where it was not there.
    pub straight: Option<String>,
    /// What it was through the proxy.
    pub through: Option<String>,
    /// What that costs.
    pub costs: &'static str,
}

impl Difference {
    /// The exit codes differ.
    pub(super) fn exit(straight: Option<i32>, through: Option<i32>) -> Self {
        let told = |code: Option<i32>| Some(code.map_or_else(|| "none".to_owned(), |code| code.to_string()));
        Self::new(What::Exit, "exit code", told(straight), told(through))
    }

    fn new(what: What, name: &str, straight: Option<String>, through: Option<String>) -> Self {
        let costs = costs(what, name, through.is_some());
        Self { what, name: name.to_owned(), straight, through, costs }
    }
}

/// Headers whose values are compared, and shown.
const VALUES: [&str; 7] = [
    "anthropic-version",
    "accept",
    "accept-encoding",
    "content-type",
    "user-agent",
    "openai-beta",
    "anthropic-dangerous-direct-browser-access",
];

/// Headers of a connection or of a length, which say nothing of a client.
const OF_THE_CONNECTION: [&str; 6] =
    ["host", "connection", "content-length", "transfer-encoding", "keep-alive", "proxy-connection"];

fn costs(what: What, name: &str, there: bool) -> &'static str {
    match (what, name) {
        (What::Bypassed, _) => "the proxy sees none of its calls: the client does not read what was set",
        (What::Path, _) => "on a path that the provider does not serve every call fails with 404",
        (What::Calls, _) => "each further call is paid, and draws on the limit",
        (What::Exit, _) => "the command ends differently",
        (What::Asked, name) if name.contains("/claude_code/settings") && !there => {
            "server-managed settings of the organisation are not enforced"
        }
        (What::Asked, name) if name.contains("policy_limits") && !there => {
            "policy limits of the organisation are not enforced"
        }
        (What::Asked, _) => "no call to a model; it costs a round trip, or a feature that needs it",
        (What::CacheScope, _) => {
            "the block is no longer marked as shared by all: likely dearer, and slower to the first token"
        }
        (What::Beta, name) if name.starts_with("prompt-caching-scope") => {
            "the shared cache scope goes with it: dearer, and slower to the first token"
        }
        (What::Beta, _) => "a feature is off, or works in another way",
        (What::BodyKey, "stream_options") => "streams carry no token counts",
        (What::BodyKey, _) => "a parameter of the request is lost or added",
        (What::Header, name) if name.ends_with("request-id") => {
            "the provider's support cannot find a call by it"
        }
        (What::Header, _) => "the provider is told less, or more",
        (What::HeaderValue, _) => "the provider may answer in another way",
    }
}

/// What differs, the worst kind first.
pub fn compare(straight: &[Request], through: &[Request]) -> Vec<Difference> {
    let mut all = Vec::new();
    let calls = |all: &[Request], plain: bool| -> Vec<Request> {
        all.iter().filter(|r| r.is_call() && r.host.is_none() == plain).cloned().collect()
    };
    let (before, after) = (calls(straight, false), calls(through, true));
    asked(straight, through, &mut all);
    match (main(&before), main(&after)) {
        (Some(_), None) => {
            let to = calls(through, false).first().and_then(|request| request.host.clone());
            let told = to.unwrap_or_else(|| "no call".to_owned());
            all.push(Difference::new(What::Bypassed, "calls", Some("made".to_owned()), Some(told)));
        }
        (Some(one), Some(other)) => {
            if before.len() != after.len() {
                let told = |n: usize| Some(n.to_string());
                all.push(Difference::new(What::Calls, "calls", told(before.len()), told(after.len())));
            }
            of_calls(one, other, &mut all);
        }
        (None, _) => {}
    }
    all.sort_by(|a, b| (a.what, &a.name).cmp(&(b.what, &b.name)));
    all
}

/// The call that a run was made for: the one that says most. Of several tries the first.
fn main(calls: &[Request]) -> Option<&Request> {
    calls.iter().rev().max_by_key(|request| request.body.len())
}

fn of_calls(one: &Request, other: &Request, all: &mut Vec<Difference>) {
    let (before, after) = (shown_path(&one.path), shown_path(&other.path));
    if before != after {
        all.push(Difference::new(What::Path, "path", Some(before), Some(after)));
    }
    sets(What::Header, &names(&one.headers), &names(&other.headers), all);
    for name in VALUES {
        let value = |headers: &HeaderMap| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        if let (Some(before), Some(after)) = (value(&one.headers), value(&other.headers))
            && before != after
        {
            all.push(Difference::new(What::HeaderValue, name, Some(before), Some(after)));
        }
    }
    sets(What::Beta, &betas(&one.headers), &betas(&other.headers), all);
    let body = |request: &Request| serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    let (before, after) = (body(one), body(other));
    let keys = |body: &Value| body.as_object().map(|o| o.keys().cloned().collect()).unwrap_or_default();
    sets(What::BodyKey, &keys(&before), &keys(&after), all);
    let (before, after) = (scopes(&before), scopes(&after));
    if before != after {
        let told = |scopes: &[String]| Some(scopes.join(", ")).filter(|text| !text.is_empty());
        all.push(Difference::new(What::CacheScope, "cache_control", told(&before), told(&after)));
    }
}

/// What is in one set and not in the other.
fn sets(what: What, one: &BTreeSet<String>, other: &BTreeSet<String>, all: &mut Vec<Difference>) {
    let there = || Some("there".to_owned());
    all.extend(one.difference(other).map(|name| Difference::new(what, name, there(), None)));
    all.extend(other.difference(one).map(|name| Difference::new(what, name, None, there())));
}

fn names(headers: &HeaderMap) -> BTreeSet<String> {
    let names = headers.keys().map(|name| name.as_str().to_owned());
    names.filter(|name| !OF_THE_CONNECTION.contains(&name.as_str())).collect()
}

fn betas(headers: &HeaderMap) -> BTreeSet<String> {
    let values = headers.get_all("anthropic-beta").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|beta| beta.trim().to_owned()).collect()
}

/// The cached blocks of a body in their order, each by its scope and its time to live.
fn scopes(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![body];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(object) => {
                if let Some(cache) = object.get("cache_control").filter(|cache| !cache.is_null()) {
                    let part = |name: &str| cache[name].as_str().unwrap_or("default").to_owned();
                    found.push(format!("scope {} ttl {}", part("scope"), part("ttl")));
                }
                left.extend(object.values());
            }
            Value::Array(array) => left.extend(array),
            _ => {}
        }
    }
    found.sort();
    found
}

/// Requests beside the calls: what the one run asked the provider, and the other did not.
fn asked(straight: &[Request], through: &[Request], all: &mut Vec<Difference>) {
    let of = |requests: &[Request]| -> BTreeSet<String> {
        let provider = |host: &Option<String>| host.as_deref().is_none_or(|host| host.starts_with("api."));
        let others = requests.iter().filter(|r| !r.is_call() && provider(&r.host));
        // What is posted beside calls are reports of the client about itself, whenever it has the time.
        let asked = others.filter(|request| request.method != http::Method::POST);
        asked.map(|r| format!("{} {}", r.method, r.path.split('?').next().unwrap_or_default())).collect()
    };
    sets(What::Asked, &of(straight), &of(through), all);
}

/// A path as it may be shown: a query's values are left out, but for those that are no secret.
fn shown_path(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some(("beta", _)) | None => pair.to_owned(),
        Some((name, _)) => format!("{name}=…"),
    });
    format!("{path}?{}", shown.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn request(host: Option<&str>, line: &str, headers: &[(&'static str, &str)], body: &str) -> Request {
        let (method, path) = line.split_once(' ').unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Request {
            host: host.map(str::to_owned),
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: map,
            body: Bytes::from(body.to_owned()),
        }
    }

    const OWN: Option<&str> = Some("api.anthropic.com");

    #[test]
    fn equal_runs_differ_in_nothing_whatever_their_ids_and_keys_are() {
        let call = |host, id: &str| {
            let headers = [
                ("x-api-key", id),
                ("x-request-id", id),
                ("content-length", "1"),
                ("anthropic-beta", "a, b"),
            ];
            request(host, "POST /v1/messages?beta=true", &headers, &format!("{{\"model\":\"{id}\"}}"))
        };
        assert_eq!(compare(&[call(OWN, "one")], &[call(None, "two")]), []);
    }

    #[test]
    fn each_loss_is_named_with_what_it_costs_and_no_secret_is_shown() {
        let before = [
            request(OWN, "GET /api/claude_code/settings", &[], ""),
            request(
                OWN,
                "POST /v1/messages?key=secret-1",
                &[
                    ("anthropic-beta", "a,prompt-caching-scope-1"),
                    ("x-client-request-id", "secret-2"),
                    ("authorization", "Bearer secret-3"),
                ],
                r#"{"diagnostics":"secret-4","system":[{"cache_control":{"type":"ephemeral","scope":"global"}}]}"#,
            ),
        ];
        let after = [
            request(
                None,
                "POST /messages?key=secret-5",
                &[("anthropic-beta", "a"), ("authorization", "Bearer secret-6")],
                r#"{"system":[{"cache_control":{"type":"ephemeral"}}]}"#,
            ),
            request(None, "POST /messages", &[], "{}"),
        ];
        let found = compare(&before, &after);
        let kinds: Vec<(What, &str)> = found.iter().map(|d| (d.what, d.name.as_str())).collect();
        assert_eq!(
            kinds,
            [
                (What::Path, "path"),
                (What::Calls, "calls"),
                (What::Asked, "GET /api/claude_code/settings"),
                (What::CacheScope, "cache_control"),
                (What::Beta, "prompt-caching-scope-1"),
                (What::BodyKey, "diagnostics"),
                (What::Header, "x-client-request-id"),
            ]
        );
        assert!(found[2].costs.contains("not enforced"), "{:?}", found[2]);
        let shown = serde_json::to_string(&found).unwrap();
        assert!(!shown.contains("secret-"), "{shown}");
    }

    #[test]
    fn a_client_that_ignores_what_is_set_is_told_of() {
        let call = || request(OWN, "POST /v1/messages", &[], "{}");
        let found = compare(&[call()], &[call()]);
        assert_eq!((found.len(), found[0].what), (1, What::Bypassed));
        assert_eq!(found[0].through.as_deref(), OWN);
    }
}
