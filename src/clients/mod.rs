//! How each client is sent to a proxy, and what changes for it when it is: one table, and what it makes of a
//! configuration. `plimsoll env`, `plimsoll exec` and `docs/clients.md` read it. Pure.
//!
//! A base URL is not nothing to a client: some append a path that others expect in the value, and some switch
//! features or an administrator's rules off. What is lost stands beside what is set.

mod table;

pub use table::ALL;

use crate::config::{Config, Listener, ProviderHost, Route};
use crate::dialects::places;
use crate::route::Surface;

/// The API that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Anthropic's.
    Anthropic,
    /// OpenAI's.
    OpenAi,
    /// Gemini's.
    Gemini,
    /// Amazon Bedrock's.
    Bedrock,
    /// Vertex AI's.
    Vertex,
}

impl Api {
    /// Its name for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "Anthropic's API",
            Self::OpenAi => "OpenAI's API",
            Self::Gemini => "the Gemini API",
            Self::Bedrock => "Amazon Bedrock",
            Self::Vertex => "Vertex AI",
        }
    }

    /// The API that a route serves, as far as the configuration shows it.
    fn of(route: &Route) -> Option<Self> {
        let host = route.upstream.host().unwrap_or_default();
        if host == "generativelanguage.googleapis.com" {
            return Some(Self::Gemini);
        }
        match route.surface.or_else(|| places::surface_of_host(host)) {
            Some(Surface::Bedrock) => Some(Self::Bedrock),
            Some(Surface::Vertex) => Some(Self::Vertex),
            Some(Surface::OpenAi) => Some(Self::OpenAi),
            Some(Surface::AzureOpenAi | Surface::Other) => None,
            // A gateway, or a host that nobody knows: Anthropic's API is what most of them serve here.
            _ => Some(Self::Anthropic),
        }
    }
}

/// A variable that a client reads, and what stands behind the route's address in it.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The part of the path that the client does not append itself.
    pub suffix: &'static str,
}

/// One client, or several that behave alike.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// As it is named on the command line.
    pub name: &'static str,
    /// What it is, with the versions that were looked at.
    pub title: &'static str,
    /// What it speaks.
    pub api: Api,
    /// What it reads. Empty where no variable moves it.
    pub variables: &'static [Variable],
    /// Where no variable moves it: what does. `URL` stands for the address.
    pub instead: Option<&'static str>,
    /// What is no longer enforced, said before all else.
    pub enforcement: &'static [&'static str],
    /// What it loses, and what is to be known.
    pub loses: &'static [&'static str],
    /// How that is known.
    pub source: &'static str,
}

/// The client's own switch that makes a base URL count as Anthropic's. Undocumented.
pub const FIRST_PARTY: &str = "_CLAUDE_CODE_ASSUME_FIRST_PARTY_BASE_URL";

/// The client that has such a switch.
pub const CLAUDE_CODE: &str = "claude-code";

/// The client of this name.
pub fn named(name: &str) -> Option<&'static Client> {
    ALL.iter().find(|client| client.name == name)
}

/// The client that a program is, by the name of its file.
pub fn of_program(program: &str) -> Option<&'static Client> {
    let file = program.rsplit('/').next().unwrap_or(program);
    let name = match file {
        "claude" => CLAUDE_CODE,
        "gemini" => "gemini",
        other => other,
    };
    named(name)
}

/// A route as a client reaches it.
#[derive(Debug)]
pub struct Reached<'a> {
    /// The route.
    pub route: &'a Route,
    /// The address of its listener with the route's prefix.
    url: String,
}

impl Reached<'_> {
    /// The value of a variable.
    pub fn value(&self, variable: &Variable) -> String {
        // An upstream whose address ends in it already adds it itself.
        let there = !variable.suffix.is_empty()
            && self.route.upstream.path().trim_end_matches('/').ends_with(variable.suffix);
        let suffix = if there { "" } else { variable.suffix };
        format!("{}{suffix}", self.url)
    }

    /// The address itself.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// True if the route ends at Anthropic itself, so that the client may take it for that.
    pub fn is_anthropics_own(&self) -> bool {
        self.route.upstream.host().and_then(ProviderHost::of) == Some(ProviderHost::Anthropic)
    }
}

/// Why there is no route to send a client to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// None has this name.
    #[error("there is no route `{0}`; the configuration has: {1}")]
    Named(String, String),
    /// None serves this API.
    #[error(
        "no route of the configuration goes to {0}; add one under `listeners`, or name one by `--route`: {1}"
    )]
    Of(&'static str, String),
    /// Its listener takes any free port.
    #[error("route `{0}` listens on a port that is not known before it runs; give its listener a port")]
    Port(String),
}

/// The route for an API: the one that is named, else the first that serves it.
///
/// # Errors
/// If there is none.
pub fn reach<'a>(config: &'a Config, api: Api, name: Option<&str>) -> Result<Reached<'a>, NoRoute> {
    let all = || config.listeners.iter().flat_map(|l| l.routes.iter().map(move |route| (l, route)));
    let names = || all().map(|(_, route)| route.name.as_str()).collect::<Vec<_>>().join(", ");
    // Routes are kept longest prefix first; the plainest address is the one that people mean.
    let serves = all().filter(|(_, route)| Api::of(route) == Some(api)).min_by_key(|(_, r)| r.prefix.len());
    let found = match name {
        Some(name) => all()
            .find(|(_, route)| route.name.as_str() == name)
            .ok_or_else(|| NoRoute::Named(name.to_owned(), names()))?,
        None => serves.ok_or_else(|| NoRoute::Of(api.as_str(), names()))?,
    };
    let (listener, route) = found;
    if listener.bind.port() == 0 {
        return Err(NoRoute::Port(route.name.to_string()));
    }
    Ok(Reached { route, url: url(listener, route) })
}

fn url(listener: &Listener, route: &Route) -> String {
    let mut at = listener.bind;
    if at.ip().is_unspecified() {
        at.set_ip(if at.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let scheme = if listener.tls.is_some() { "https" } else { "http" };
    // A prefix that is left in place and is the API's own is what the client appends.
    let own = !route.strip_prefix && (route.prefix == "/v1" || route.prefix.starts_with("/v1/"));
    format!("{scheme}://{at}{}", if own { "" } else { &route.prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "listeners:
- bind: 0.0.0.0:8429
  routes:
  - {name: claude, upstream: 'https://api.anthropic.com'}
  - {name: openai, prefix: /openai, strip_prefix: true, upstream: 'https://api.openai.com'}
  - {name: openai-v1, prefix: /oa, strip_prefix: true, upstream: 'https://api.openai.com/v1'}
  - {name: gw, prefix: /gw, strip_prefix: true, upstream: 'http://litellm:4000', surface: gateway}
";

    fn config(text: &str) -> Config {
        Config::parse(text, &|_| None).unwrap()
    }

    #[test]
    fn each_client_gets_the_value_after_which_it_appends_the_right_path() {
        let config = config(FILE);
        let value = |client: &str, route: Option<&str>| {
            let client = named(client).unwrap();
            reach(&config, client.api, route).unwrap().value(&client.variables[0])
        };
        assert_eq!(value("claude-code", None), "http://127.0.0.1:8429");
        assert_eq!(value("ai-sdk", None), "http://127.0.0.1:8429/v1");
        assert_eq!(value("claude-code", Some("gw")), "http://127.0.0.1:8429/gw");
        assert_eq!(value("openai", Some("openai")), "http://127.0.0.1:8429/openai/v1");
        assert_eq!(value("openai", Some("openai-v1")), "http://127.0.0.1:8429/oa");
    }

    #[test]
    fn what_cannot_be_reached_is_said_with_what_can() {
        let config = config(FILE);
        let error = |api, name| reach(&config, api, name).unwrap_err().to_string();
        assert!(error(Api::Bedrock, None).contains("no route of the configuration goes to Amazon Bedrock"));
        assert!(error(Api::Anthropic, Some("x")).contains("there is no route `x`; the configuration has: "));
        let any =
            "listeners: [{bind: '127.0.0.1:0', routes: [{name: a, upstream: 'https://api.anthropic.com'}]}]";
        let any = Config::parse(any, &|_| None).unwrap();
        assert_eq!(reach(&any, Api::Anthropic, None).unwrap_err(), NoRoute::Port("a".to_owned()));
    }

    #[test]
    fn only_the_providers_own_host_may_be_taken_for_it() {
        let config = config(FILE);
        let own = |name| reach(&config, Api::Anthropic, Some(name)).unwrap().is_anthropics_own();
        assert!(own("claude") && !own("gw") && !own("openai"));
    }

    #[test]
    fn a_prefix_that_is_the_apis_own_stands_in_no_value() {
        let route = |further: &str| {
            let text = format!(
                "listeners: [{{bind: '[::]:1', routes: [{{name: a, prefix: /v1{further}, upstream: 'https://api.anthropic.com'}}]}}]"
            );
            let config = config(&text);
            reach(&config, Api::Anthropic, None).unwrap().url().to_owned()
        };
        assert_eq!(route(""), "http://[::1]:1");
        assert_eq!(route("/messages"), "http://[::1]:1");
        assert_eq!(route("x"), "http://[::1]:1/v1x");
    }

    #[test]
    fn every_row_of_the_table_can_be_acted_upon() {
        for client in ALL {
            assert!(client.variables.is_empty() == client.instead.is_some(), "{}", client.name);
            assert!(client.variables.iter().all(|v| v.suffix.is_empty() || v.suffix.starts_with('/')));
            assert!(
                client.source.starts_with("measured") || client.source.starts_with("read"),
                "{}",
                client.name
            );
            assert_eq!(named(client.name).map(|found| found.title), Some(client.title), "names are unique");
        }
        assert_eq!(of_program("/usr/bin/claude").map(|client| client.name), Some(CLAUDE_CODE));
        assert!(of_program("python3").is_none());
    }
}
