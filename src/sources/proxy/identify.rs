//! Who is calling, from the request's head: program, kind of credential, keyed hash of it.
//!
//! The credential itself never leaves this file. An OAuth-looking bearer does not prove a
//! subscription and a plain bearer does not prove a gateway (the newest SDKs send API keys as
//! bearers): the surface told here is a suggestion, which the answer's header family corrects.

use crate::config::Secret;
use crate::dialects::places;
use crate::fingerprint;
use crate::observation::{AuthKind, Client, Credential, Fingerprint};
use crate::route::Surface;
use aws_lc_rs::hmac;
use http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

/// Names credentials without keeping them.
pub struct Credentials {
    key: hmac::Key,
    aliases: Vec<(Fingerprint, Arc<str>)>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} named)", self.aliases.len())
    }
}

impl Credentials {
    /// Credentials by alias, hashed with `key`, or with a random key of this process.
    pub fn new(key: Option<&SecretString>, named: &[(Arc<str>, Secret)]) -> Self {
        let key = fingerprint::key(key);
        let aliases = named
            .iter()
            .map(|(alias, secret)| (hash(&key, secret.expose_secret().as_bytes()), alias.clone()))
            .collect();
        Self { key, aliases }
    }

    /// The credential of a request.
    pub fn of(&self, headers: &HeaderMap) -> (AuthKind, Credential) {
        let (kind, secret) = secret_of(headers);
        let Some(secret) = secret else { return (kind, Credential::default()) };
        let fingerprint = hash(&self.key, secret);
        let alias =
            self.aliases.iter().find(|(known, _)| *known == fingerprint).map(|(_, alias)| alias.clone());
        // A token that is renewed by itself is no identity: its hash would show a change each time.
        let lasting = alias.is_some() || !is_renewed(secret);
        (kind, Credential { alias, fingerprint: lasting.then_some(fingerprint) })
    }
}

/// OAuth tokens of a plan, Google's access tokens, and signed tokens are renewed by themselves.
fn is_renewed(secret: &[u8]) -> bool {
    [&b"sk-ant-oat"[..], b"ya29.", b"eyJ"].iter().any(|beginning| secret.starts_with(beginning))
}

fn hash(key: &hmac::Key, secret: &[u8]) -> Fingerprint {
    let tag = hmac::sign(key, secret);
    let mut first = [0; 8];
    first.copy_from_slice(&tag.as_ref()[..8]);
    Fingerprint(first)
}

/// Headers that hold a key and nothing else: Anthropic's, Azure's, Google's.
const KEY_HEADERS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

/// How a request is authenticated, and by which secret: the secret alone, so that one key is one credential
/// in whichever header a client's version sends it (older SDKs in `x-api-key`, newer ones as a bearer,
/// Claude Code's key helper in both).
fn secret_of(headers: &HeaderMap) -> (AuthKind, Option<&[u8]>) {
    let keys = KEY_HEADERS.iter().filter_map(|name| headers.get(*name));
    if let Some(key) = keys.map(|key| key.as_bytes().trim_ascii()).find(|key| !key.is_empty()) {
        return (AuthKind::ApiKey, Some(key));
    }
    let Some(value) = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes().trim_ascii()) else {
        return (AuthKind::None, None);
    };
    if value.starts_with(b"AWS4-HMAC-SHA256") {
        return (AuthKind::SigV4, None);
    }
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
            let token = token.trim_ascii();
            let kind =
                if token.starts_with(b"sk-ant-oat") { AuthKind::OauthBearer } else { AuthKind::Bearer };
            (kind, Some(token))
        }
        _ => (AuthKind::Unknown, None),
    }
}

/// The region that a request is signed for: `Credential=KEY/20261124/us-east-1/bedrock/aws4_request`.
pub fn signed_region(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let scope = value.split(',').find_map(|part| part.trim().strip_prefix("Credential="))?;
    scope.split('/').nth(2).filter(|region| places::is_region(region)).map(str::to_owned)
}

/// The calling program, as far as it decides the surface.
pub fn client(headers: &HeaderMap) -> Client {
    Client::of_user_agent(headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()))
}

/// The surface that a request suggests on a route to the Anthropic API.
pub fn suggested_surface(auth: AuthKind, client: Client) -> Surface {
    match (client, auth) {
        (Client::ClaudeCode, AuthKind::OauthBearer) => Surface::ClaudeCodePlan,
        (Client::ClaudeCode, _) => Surface::ClaudeCodeKey,
        _ => Surface::AnthropicApi,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn head(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_configured_credential_is_named_and_others_are_not() {
        let named = [(Arc::from("ci"), Secret::from("sk-ant-api03-one"))];
        let credentials = Credentials::new(Some(&SecretString::from("fleet key")), &named);
        let (kind, one) = credentials.of(&head("x-api-key", "sk-ant-api03-one"));
        assert_eq!((kind, one.label()), (AuthKind::ApiKey, "ci"));
        let (kind, same) = credentials.of(&head("authorization", "Bearer sk-ant-api03-one"));
        assert_eq!((kind, same.label()), (AuthKind::Bearer, "ci"), "newest SDKs send the key as a bearer");
        let (kind, other) = credentials.of(&head("authorization", "bearer sk-ant-oat01-two"));
        assert_eq!((kind, other.label()), (AuthKind::OauthBearer, "unnamed"));
        assert_ne!(one.fingerprint, other.fingerprint);
        assert!(!format!("{credentials:?}{one:?}{other:?}").contains("sk-ant"));
    }

    #[test]
    fn one_key_is_one_credential_however_it_is_sent() {
        let named = [(Arc::from("ci"), Secret::from("sk-ant-api03-two"))];
        let credentials = Credentials::new(Some(&SecretString::from("fleet key")), &named);
        for key in ["sk-ant-api03-one", "sk-ant-api03-two", "sk-ant-oat01-three", "eyJhbGciOiJub25lIn0.e30."]
        {
            let ways: [&[(&str, String)]; 9] = [
                &[("x-api-key", key.to_owned())],
                &[("x-api-key", format!(" {key} "))],
                &[("authorization", format!("Bearer {key}"))],
                &[("authorization", format!("bearer {key}"))],
                &[("authorization", format!("Bearer  {key} "))],
                &[("x-api-key", key.to_owned()), ("authorization", format!("Bearer {key}"))],
                &[("x-api-key", String::new()), ("authorization", format!("Bearer {key}"))],
                &[("api-key", key.to_owned())],
                &[("x-goog-api-key", key.to_owned())],
            ];
            let of = |way: &[(&str, String)]| {
                let mut headers = HeaderMap::new();
                for (name, value) in way {
                    let name = http::HeaderName::try_from(*name).unwrap();
                    headers.append(name, HeaderValue::from_str(value).unwrap());
                }
                credentials.of(&headers).1
            };
            let first = of(ways[0]);
            for way in ways {
                assert_eq!(of(way), first, "{way:?}");
            }
            assert_eq!(first.fingerprint.is_some(), key.starts_with("sk-ant-api"), "{key}");
            assert_eq!(first.label(), if key.ends_with("two") { "ci" } else { "unnamed" });
        }
    }

    #[test]
    fn one_fleet_key_gives_one_fingerprint_and_random_keys_do_not() {
        let print = |key: Option<&str>| {
            let key = key.map(SecretString::from);
            Credentials::new(key.as_ref(), &[]).of(&head("x-api-key", "k")).1.fingerprint
        };
        assert_eq!(print(Some("a")), print(Some("a")));
        assert_ne!(print(Some("a")), print(Some("b")));
        assert_ne!(print(None), print(None));
    }

    #[test]
    fn claude_code_is_known_by_its_name_wherever_it_stands_and_by_nothing_less() {
        for (agent, known) in [
            ("claude-cli/2.1.0 (external, cli)", Client::ClaudeCode),
            ("Editor/1.2 claude-cli/2.1.0", Client::ClaudeCode),
            ("not-claude-cli/1", Client::Other),
            ("claude-client/1", Client::Other),
        ] {
            assert_eq!(client(&head("user-agent", agent)), known, "{agent}");
        }
    }

    #[test]
    fn odd_credentials_are_told_apart_without_a_hash() {
        let credentials = Credentials::new(None, &[]);
        for (value, kind) in [
            ("AWS4-HMAC-SHA256 Credential=A/B", AuthKind::SigV4),
            ("Basic dXNlcg==", AuthKind::Unknown),
            ("x", AuthKind::Unknown),
        ] {
            assert_eq!(credentials.of(&head("authorization", value)), (kind, Credential::default()));
        }
        assert_eq!(credentials.of(&HeaderMap::new()).0, AuthKind::None);
    }
}
