//! What of a broken configuration may run: what is whole, and never more than the file allowed.
//!
//! A value that cannot be read must not be replaced by a default that sends to another host, opens a port more widely,
//! or takes a lock off one. So whoever has a fault in it is left out whole (a poller, a tail, an Alertmanager, the
//! admin port, a listener whose TLS is not certain), and a route with a fault answers that it cannot be used. What a
//! broken listener or route still says of itself is looked up in the file as it is written.

use super::check::{Checker, HOP, clash};
use super::problem::{Problem, nearest};
use super::{Closed, Config, Listener, Route, ServerTls, wire};
use schemars::JsonSchema;
use serde_json::Value;
use std::cmp::Reverse;
use std::net::SocketAddr;

/// The keys that an object of the file may have.
pub(super) fn keys<T: JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(T).to_value();
    let keys = schema.get("properties").and_then(Value::as_object);
    keys.map(|keys| keys.keys().cloned().collect()).unwrap_or_default()
}

/// A listener that could be made, with its place in what was read.
pub(super) struct Made {
    pub(super) nth: usize,
    pub(super) bind: SocketAddr,
    pub(super) tls: Option<ServerTls>,
    /// Its routes, each with its place in what was read.
    pub(super) routes: Vec<(usize, Route)>,
}

impl Made {
    fn opened(self, closed: Vec<Closed>) -> Listener {
        let mut routes: Vec<Route> = self.routes.into_iter().map(|(_, route)| route).collect();
        routes.sort_by_key(|route| Reverse(route.prefix.len()));
        Listener { bind: self.bind, routes, tls: self.tls, closed }
    }
}

/// True if `path` is `whole`, or a part of it.
pub(super) fn within(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl Checker<'_> {
    /// A path of what was read, as it is in the file: lists are shorter by what was left out of them.
    pub(super) fn original(&self, path: &str) -> String {
        let mut out = String::new();
        for (n, part) in path.split('[').enumerate() {
            let Some((index, rest)) = part.split_once(']').filter(|_| n > 0) else {
                out.push_str(part);
                continue;
            };
            let nth = index.parse().unwrap_or(0);
            let there = |at: &usize| !self.reading.left_out.contains(&format!("{out}[{at}]"));
            let at = (0..).filter(there).nth(nth).unwrap_or(nth);
            out.push_str(&format!("[{at}]{rest}"));
        }
        out
    }

    /// A fault in this part of what was read.
    pub(super) fn broken(&self, path: &str) -> bool {
        self.fault(&self.original(path)).is_some()
    }

    /// The first fault in this part of the file.
    fn fault(&self, path: &str) -> Option<&Problem> {
        self.problems.iter().find(|problem| within(&problem.path, path))
    }

    /// True if this part of what was read lost something: what another part says of it would be no news.
    pub(super) fn lost(&self, path: &str) -> bool {
        let path = self.original(path);
        self.reading.lost || self.reading.left_out.iter().any(|left| within(left, &path))
    }

    /// True if a section, or a part of one, may be in the file under a name that nobody can tell.
    pub(super) fn may_hold(&self, section: &str) -> bool {
        let keys = keys::<wire::File>();
        let sections: Vec<&str> = keys.iter().map(String::as_str).collect();
        let top = |problem: &&Problem| {
            let key = problem.path.as_str();
            !key.contains(['.', '[']) && !sections.contains(&key)
        };
        let meant = |problem: &Problem| nearest(&problem.path, &sections).is_none_or(|near| near == section);
        self.reading.lost || self.reading.hides || self.problems.iter().filter(top).any(meant)
    }

    /// True if a section has a fault, or some of it may be there under another name.
    pub(super) fn uncertain(&self, section: &str) -> bool {
        self.fault(section).is_some() || self.may_hold(section)
    }

    /// True if a lock of a listener may stand at the beginning of a line, where it belongs to nobody.
    fn lost_a_lock(&self) -> bool {
        let of = [keys::<wire::Listener>(), keys::<wire::ServerTls>(), keys::<wire::Route>()].concat();
        let near = |path: &str| of.iter().any(|key| strsim::damerau_levenshtein(key, path.trim()) <= 1);
        self.problems.iter().any(|problem| near(&problem.path))
    }

    /// What cannot be used, with its place in the file.
    fn why(&self, what: &str, problem: Option<&Problem>) -> String {
        let place = problem.and_then(|problem| problem.at);
        let line = place.map(|(line, _)| format!(", line {line}")).unwrap_or_default();
        format!("{what} cannot be used: {}{line}", self.name)
    }

    fn all_closed(&self, problem: Option<&Problem>) -> Closed {
        let why = self.why("The configuration of the routes", problem);
        Closed { prefix: None, why: why.into() }
    }

    /// The listeners that may open, of those that could be made.
    pub(super) fn openable(&self, made: Vec<Made>, default: bool) -> Vec<Listener> {
        if self.problems.is_empty() {
            return made.into_iter().map(|one| one.opened(Vec::new())).collect();
        }
        let written = self.reading.tree.get("listeners").and_then(Value::as_array);
        let Some(written) = written.filter(|_| !default && self.fault_exactly("listeners").is_none()) else {
            // Which upstreams were meant cannot be told, and the default one was not asked for.
            let problem = self.fault("listeners").or(self.problems.first());
            return vec![self.closed_at(HOP, problem)];
        };
        let mut open = Vec::new();
        let certain = made.into_iter().filter(|_| !self.lost_a_lock());
        for mut one in certain {
            let path = self.original(&format!("listeners[{}]", one.nth));
            let routes = format!("{path}.routes");
            let own = |problem: &&Problem| within(&problem.path, &path) && !within(&problem.path, &routes);
            if !self.problems.iter().any(|problem| own(&problem)) {
                let closed = self.close_routes(&path, &mut one);
                open.push(one.opened(closed));
            }
        }
        if open.is_empty() && !written.is_empty() && self.default_is_free(written) {
            open.push(self.closed_at(HOP, self.fault("listeners")));
        }
        open
    }

    fn fault_exactly(&self, path: &str) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.path == path)
    }

    fn closed_at(&self, bind: SocketAddr, problem: Option<&Problem>) -> Listener {
        Listener { bind, routes: Vec::new(), tls: None, closed: vec![self.all_closed(problem)] }
    }

    /// The default address must be none that a listener would have had with a lock on it.
    fn default_is_free(&self, listeners: &[Value]) -> bool {
        let bind = |one: &Value| one.get("bind")?.as_str()?.parse::<SocketAddr>().ok();
        listeners.iter().filter_map(bind).all(|bind| !clash(bind, HOP))
            && self.binds.keys().all(|bind| bind.port() == 0 || !clash(*bind, HOP))
    }

    /// Takes the routes with a fault out, and has their paths answered instead.
    fn close_routes(&self, listener: &str, made: &mut Made) -> Vec<Closed> {
        let routes = format!("{listener}.routes");
        if let Some(problem) = self.fault_exactly(&routes) {
            made.routes.clear();
            return vec![self.all_closed(Some(problem))];
        }
        let read = format!("listeners[{}].routes", made.nth);
        made.routes.retain(|(nth, _)| !self.broken(&format!("{read}[{nth}]")));
        let written = self.reading.tree.pointer(&pointer(&routes)).and_then(Value::as_array);
        let mut all = Vec::new();
        for (r, route) in written.into_iter().flatten().enumerate() {
            let Some(problem) = self.fault(&format!("{routes}[{r}]")) else { continue };
            let what = match route.get("name").and_then(Value::as_str) {
                Some(name) => format!("The configuration of route \"{name}\""),
                None => "The configuration of a route".to_owned(),
            };
            all.push(Closed { prefix: prefix(route), why: self.why(&what, Some(problem)).into() });
        }
        all.sort_by_key(|closed| Reverse(closed.prefix.as_ref().map_or(usize::MAX, String::len)));
        all
    }

    /// What is left to open and to send of the parts beside the listeners.
    pub(super) fn close(&self, config: &mut Config) {
        if self.problems.is_empty() {
            return;
        }
        config.admin_closed = self.uncertain("admin");
        config.otlp.off = self.uncertain("otlp");
        if self.uncertain("evidence") {
            config.evidence.hash_ids = true;
            config.evidence.status_page = None;
        }
        // How far ahead alerts look is nobody's secret; by which labels they find their receiver must be certain.
        let only_levels = |problem: &Problem| {
            let levels = ["foresight", "pressure_", "exhausting_", "hold_secs", "alertmanagers"];
            problem.path == "alerts"
                || levels.iter().any(|level| problem.path["alerts".len()..].starts_with(&format!(".{level}")))
        };
        let labels = self.problems.iter().any(|one| within(&one.path, "alerts") && !only_levels(one));
        if labels || self.uncertain("alerts") && self.reading.tree.get("alerts").is_none() {
            config.alerts.alertmanagers.clear();
        }
    }
}

/// The prefix that a route was to have; nothing if that cannot be told, because what is at fault may be it.
fn prefix(route: &Value) -> Option<String> {
    let members = route.as_object()?;
    if let Some(prefix) = members.get("prefix") {
        return prefix
            .as_str()
            .filter(|text| text.starts_with('/'))
            .map(|text| text.trim_end_matches('/').to_owned());
    }
    let keys = keys::<wire::Route>();
    let known = |key: &String| keys.contains(key);
    let may_be = |value: &Value| value.as_str().is_none_or(|text| text.starts_with('/'));
    let other = members.iter().any(|(key, value)| !known(key) && may_be(value));
    (!other).then(String::new)
}

/// A path of the file as a JSON pointer.
fn pointer(path: &str) -> String {
    format!("/{}", path.replace(']', "").replace(['.', '['], "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partly(text: &str) -> Config {
        Config::partly(text, &|name| (name == "SET").then(|| "secret-value".to_owned()), "plimsoll.yaml")
    }

    /// What of a configuration opens and sends, in one line.
    fn open(text: &str) -> String {
        let config = partly(text);
        assert!(!config.unread.is_empty(), "{text}: nothing is wrong");
        let listeners = config.listeners.iter().map(|listener| {
            let routes = listener.routes.iter().map(|route| format!("{}->{}", route.name, route.upstream));
            let closed = listener.closed.iter().map(|closed| match &closed.prefix {
                Some(prefix) => format!("503 {prefix}/"),
                None => "503 all".to_owned(),
            });
            let all: Vec<String> = routes.chain(closed).collect();
            let tls = if listener.tls.is_some() { " tls" } else { "" };
            format!("{}{tls} [{}]", listener.bind, all.join(", "))
        });
        listeners.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn of_a_broken_file_no_more_opens_and_nothing_sends_elsewhere() {
        let route = |more: &str| {
            format!(
                "listeners:\n- bind: 127.0.0.1:1\n  routes:\n  - {{name: a, upstream: 'http://a'}}\n{more}"
            )
        };
        let closed = "127.0.0.1:8429 [503 all]";
        for (text, wanted) in [
            // Nothing can be read, or not where traffic goes.
            ("{".to_owned(), closed),
            ("- a\n".to_owned(), closed),
            ("just words\n".to_owned(), closed),
            ("listeners: [\n".to_owned(), closed),
            ("listeners: 7\n".to_owned(), closed),
            ("listner: []\n".to_owned(), closed),
            ("owners: 7\n".to_owned(), closed),
            ("owners: [{name: a, kinds: [claude_plann]}]\n".to_owned(), closed),
            // The rest of the file is as it was.
            (route("owners: 7\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("owners: [\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("owners:\n\t- x\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("alerts: {hold_secs: soon, hold_secs: 7}\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("owners: []\nowners: []\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("ownrs: []\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("x-common: {}\n"), "127.0.0.1:1 [a->http://a/]"),
            (route("tls: {cert_file: /c, key_file: /k}\n"), closed),
            // A route with a fault is not served, and its path goes to no other.
            (route("  - {name: b, prefix: /b, upsteam: 'http://b'}\n"), "127.0.0.1:1 [a->http://a/, 503 /b/]"),
            (route("  - {name: b, prefix: /b, upstream: 'ftp://b'}\n"), "127.0.0.1:1 [a->http://a/, 503 /b/]"),
            (route("  - {name: b, prefix: /b, upstream: 'http://b', resgin: {}}\n"), "127.0.0.1:1 [a->http://a/, 503 /b/]"),
            (route("  - {name: b, prefix: /b, upstream: 'http://b', http2: maybe}\n"), "127.0.0.1:1 [a->http://a/, 503 /b/]"),
            (route("  - {name: b, prefx: /b, upstream: 'http://b'}\n"), "127.0.0.1:1 [a->http://a/, 503 all]"),
            (route("  - {name: b, prefix: [b], upstream: 'http://b'}\n"), "127.0.0.1:1 [a->http://a/, 503 all]"),
            (route("  - {name: b, prefix: b, upstream: 'http://b'}\n"), "127.0.0.1:1 [a->http://a/, 503 all]"),
            (route("  - b\n"), "127.0.0.1:1 [a->http://a/, 503 all]"),
            (
                "listeners:\n- bind: 127.0.0.1:1\n  routes:\n  - {name: a}\n  - {name: b, prefix: /b, upstream: 'http://b'}\n".to_owned(),
                "127.0.0.1:1 [b->http://b/, 503 /]",
            ),
            // A listener opens with its lock, or not at all.
            ("listeners:\n- bind: 127.0.0.1:1\n  routes: none\n".to_owned(), "127.0.0.1:1 [503 all]"),
            ("listeners:\n- bind: 127.0.0.1:1\n".to_owned(), "127.0.0.1:1 [503 all]"),
            (route("  tls: {cert_file: /no/such}\n"), closed),
            (route("  tsl: {cert_file: /no/such}\n"), closed),
            (route("  tls: {cert_file: /no/such, key_file: /no/such}\n"), closed),
            (route("  tls: \"yes\"\n- bind: 127.0.0.1:2\n  routes: [{name: b, upstream: 'http://b'}]\n"), "127.0.0.1:2 [b->http://b/]"),
            (route("").replace("127.0.0.1:1", "0.0.0.0:8429") + "  tls: 7\n", ""),
            (route("").replace("127.0.0.1:1", "localhost"), closed),
        ] {
            assert_eq!(open(&text), wanted, "{text}\n{:?}", partly(&text).unread);
        }
    }

    #[test]
    fn what_has_a_fault_neither_asks_nor_tells_nor_listens() {
        let with = |more: &str| {
            partly(&format!(
                "listeners:\n- bind: 127.0.0.1:1\n  routes: [{{name: a, upstream: 'http://a'}}]\n{more}"
            ))
        };
        for section in [
            "admin: {token: {env: UNSET}}\n",
            "admin: {tokn: {env: SET}}\n",
            "admin: {bind: 7}\n",
            "admni: {token: {env: SET}}\n",
            "port: {token: {env: SET}}\n",
            "admin: [\n",
        ] {
            assert!(with(section).admin_closed, "{section}");
        }
        assert!(!with("owner: []\n").admin_closed, "`owners` is meant");
        for section in [
            "otlp: {endpoint: 'ftp://x'}\n",
            "otlp: {endpint: 'http://x'}\n",
            "otpl: {endpoint: 'http://x'}\n",
        ] {
            assert!(with(section).otlp.off, "{section}");
        }
        for section in ["evidence: {ids: hsah}\n", "evidence: {id: hash}\n", "evidnce: {ids: hash}\n"] {
            assert!(with(section).evidence.hash_ids, "{section}");
        }
        let config = with(
            "pollers:\n  anthropic: {admin_key: {env: SET}, url: poller}\n  limits: {url: 'http://x', interval_secs: 0}\n  gateways:\n  - {name: g, kind: kong, url: 'http://x', key: {env: UNSET}}\n  - {name: h, kind: kong, url: 'http://x'}\n",
        );
        let gateways: Vec<&str> = config.pollers.gateways.iter().map(|one| one.name.as_str()).collect();
        assert!(config.pollers.anthropic.is_none() && config.pollers.limits.is_none());
        assert_eq!(gateways, ["h"]);
        let config = with(
            "sources:\n  otlp: {grpc: '0.0.0.0:4317', token: {env: UNSET}}\n  envoy_als: {bind: '0.0.0.0:1234'}\n  tails: [{path: /x, preset: ngnix}, {path: /y, name: y}]\n",
        );
        assert!(config.sources.otlp.is_none() && config.sources.envoy_als.is_none());
        assert_eq!(config.sources.tails.len(), 1);
        let url = "alertmanagers: [{url: 'http://a'}, {url: 'http://b', bearer_token: {env: UNSET}}]";
        let urls = |more: &str| {
            let config = with(&format!("alerts: {{{url}{more}}}\n"));
            config.alerts.alertmanagers.iter().map(|one| one.url.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(urls(""), "http://a");
        assert_eq!(urls(", hold_secs: soon"), "http://a");
        assert_eq!(urls(", owner_lable: team"), "", "to whom they would go is not certain");
    }

    /// The first match wins, so nothing behind one that cannot be read is certain.
    #[test]
    fn owners_behind_one_with_a_fault_are_not_guessed() {
        let config = partly(
            "owners:\n- {name: a, match: {routes: [a]}}\n- {name: b, match: {routs: [b]}}\n- {name: c}\nalerts: {hold_secs: 0}\n",
        );
        assert_eq!(config.owners.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
