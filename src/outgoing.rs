//! The one maker of HTTP clients for whatever Plimsoll itself sends or asks.
//!
//! A redirect is never followed by something that delivers: a client makes an empty GET of a POST that is answered 301,
//! 302 or 303, the other side is content with it, and an alert or a span that nobody has is counted as sent. Where a POST
//! would keep its body, a token would go where nobody sent it. So a 3xx is a failure like any other, and its `location`
//! is said, because it is the address that should have been configured. The lints forbid to make a client elsewhere.

use crate::evidence::{Ids, Scrubber};
use http::{HeaderMap, StatusCode, Uri, header};
use reqwest::redirect::Policy;

/// Redirects that somebody who only reads may follow: a name that moved, and http to https.
const HOPS: usize = 3;
/// Longest `location` that is shown.
const MAX_LOCATION: usize = 200;

/// What a client does with a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// An answer like any other, and no success: for all that delivers anything, or shows a credential to somebody's API.
    Refused,
    /// Followed, a few: only for clients that send nothing but GET.
    FollowedByReads,
}

/// A client to be made; it says who we are.
#[expect(clippy::disallowed_methods, reason = "the one place where clients are made")]
pub fn client(redirects: Redirects) -> reqwest::ClientBuilder {
    let policy = match redirects {
        Redirects::Refused => Policy::none(),
        Redirects::FollowedByReads => Policy::limited(HOPS),
    };
    reqwest::Client::builder().redirect(policy).user_agent(concat!("plimsoll/", env!("CARGO_PKG_VERSION")))
}

/// An answer that is no success, in words: its status, and where it points if it is a redirect.
pub fn refusal(status: StatusCode, headers: &HeaderMap) -> String {
    if !status.is_redirection() {
        return status.to_string();
    }
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.map_or_else(|| "none".to_owned(), shown);
    format!("{status}, location {location} (redirects are not followed: configure the address itself)")
}

/// A `location` without what may be secret in it: user, query, fragment, and what looks like a key in its path. The host
/// stays as it is: it is what has to be configured.
fn shown(location: &str) -> String {
    // A fragment is no part of what `Uri` takes, and a host without a scheme it takes for a path.
    let plain = location.split('#').next().unwrap_or_default();
    let rooted = if plain.starts_with("//") { format!("http:{plain}") } else { plain.to_owned() };
    let Ok(uri) = rooted.parse::<Uri>() else {
        return "that is no URL".to_owned();
    };
    let mut shown = String::new();
    if let Some(host) = uri.host() {
        let scheme = uri.scheme_str().filter(|_| rooted.len() == plain.len());
        shown.push_str(&format!("{}//{host}", scheme.map(|s| format!("{s}:")).unwrap_or_default()));
        if let Some(port) = uri.port_u16() {
            shown.push_str(&format!(":{port}"));
        }
    }
    shown.push_str(&Scrubber::new(Ids::Kept).text(uri.path()));
    crate::text::clean(&shown).chars().take(MAX_LOCATION).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn said(location: &'static str) -> String {
        let headers = HeaderMap::from_iter([(header::LOCATION, HeaderValue::from_static(location))]);
        refusal(StatusCode::FOUND, &headers)
    }

    #[test]
    fn a_redirect_says_where_it_points_and_no_secret() {
        let said_of = said("https://user:geheim@sso.example:8443/login?ticket=geheim#geheim");
        assert!(
            said_of.starts_with("302 Found, location https://sso.example:8443/login (redirects are not"),
            "{said_of}"
        );
        assert!(said("/am/sk-ant-api03-geheimgeheim/x").contains("location /am/[anthropic key]/x "));
        assert!(said("http://10.0.0.7:9093/").contains("location http://10.0.0.7:9093/ "));
        assert!(said("::::").contains("no URL"));
        assert!(said("//user:geheim@b/c").contains("location //b/c "));
        for location in ["//a:geheim@b/c", "user:geheim@b:1", "https://a/?geheim", "/#geheim", "geheim@b"] {
            assert!(!said(location).contains("geheim@") && !said(location).contains("?geheim"), "{location}");
        }
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, &HeaderMap::new()), "502 Bad Gateway");
        assert!(refusal(StatusCode::FOUND, &HeaderMap::new()).contains("location none"));
    }
}
