//! Sources outside of the traffic's path as they are configured, checked.

use super::Route;
use super::check::Checker;
use super::problem::suggestion;
use super::secret::Secret;
use super::wire::sources as wire;
use crate::mapping::{FIELDS, Mapping, Preset};
use crate::owner::Pattern;
use crate::route::{RouteName, Surface};
use crate::seen::{Place, PlaceRule, Places};
use serde_saphyr::{Location, Spanned};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Sources outside of the path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sources {
    /// Which calls belong to which route.
    pub places: Places,
    /// Where Envoy's access log service listens.
    pub envoy_als: Option<SocketAddr>,
    /// Receiving OTLP.
    pub otlp: Option<Receiver>,
    /// Logs that are followed.
    pub tails: Vec<Tail>,
    /// Where it is kept how far each was read.
    pub state_dir: Option<PathBuf>,
}

/// Receiving OTLP.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Receiver {
    /// Where gRPC is received.
    pub grpc: Option<SocketAddr>,
    /// Where HTTP is received.
    pub http: Option<SocketAddr>,
    /// What senders must show.
    pub token: Option<Secret>,
    /// Where everything goes on to.
    pub forward: Option<Forward>,
}

/// A collector that gets everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Base address, without a slash at its end.
    pub endpoint: String,
    /// Headers that are sent along.
    pub headers: Vec<(http::HeaderName, Secret)>,
    /// Most bytes that wait.
    pub max_bytes: usize,
}

/// A log that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Its name.
    pub name: String,
    /// The file; absent for standard input.
    pub path: Option<PathBuf>,
    /// How its lines are read.
    pub mapping: Mapping,
    /// The route of all its calls.
    pub route: Option<String>,
    /// A log that was never read is begun at its start.
    pub from_start: bool,
}

impl Sources {
    /// True if anything is configured that tells of calls.
    pub fn is_any(&self) -> bool {
        self.envoy_als.is_some()
            || self.otlp.is_some()
            || !self.tails.is_empty()
            || !self.places.rules.is_empty()
    }

    /// Calls to the hop's upstreams are its routes'.
    pub(super) fn know(&mut self, routes: &[&Route]) {
        for route in routes {
            let place = Place {
                route: route.name.clone(),
                surface: route.surface,
                region: route.region.clone(),
                project: route.project.clone(),
                model: None,
            };
            let host = route.upstream.host().unwrap_or_default().to_ascii_lowercase();
            // Of two routes to one host neither is meant.
            let others = routes.iter().filter(|other| other.upstream.host() == route.upstream.host()).count();
            let host = if others == 1 { host } else { String::new() };
            self.places.upstreams.push((host, place));
        }
        self.places.inherit();
    }
}

/// Where OTLP is received, where the configuration names neither port: those that every exporter takes by default.
const GRPC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4317);
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4318);
/// Names of sources that are no tails.
const OTHERS: [&str; 4] = ["hop", "otlp", "report", "envoy_als"];

impl Checker<'_> {
    /// A route that somebody is put on must be there: its name would be nobody's.
    pub(super) fn known_route(&mut self, route: Option<&Spanned<String>>, path: &str, places: &Places) {
        let Some(route) = route.filter(|route| places.named(&route.value).is_none()) else { return };
        // Nobody is missed where the one that is meant could not be read.
        if self.broken("listeners") || self.broken("sources.routes") {
            return;
        }
        let names: Vec<&str> = places.names().collect();
        let message = format!(
            "no route is called `{}`{}; add it to `sources.routes`",
            route.value,
            suggestion(&route.value, &names)
        );
        self.problem(route, path, message);
    }

    pub(super) fn sources(&mut self, given: wire::Sources, state_dir: Option<&PathBuf>) -> Sources {
        let rules = given.routes.into_iter().enumerate().map(|(n, route)| self.place(n, route)).collect();
        let envoy_als = given.envoy_als.and_then(|port| {
            if !cfg!(feature = "als") {
                let message =
                    "this program was built without `als`; take the full image, or build with `--features als`";
                self.problem(&port.bind, "sources.envoy_als", message);
            }
            self.open_port(&port.bind, "sources.envoy_als.bind", port.any_sender)
        });
        let envoy_als = envoy_als.filter(|_| !self.broken("sources.envoy_als"));
        let tails = self.tails(given.tails);
        let otlp = given.otlp.map(|otlp| self.receiver(otlp));
        Sources {
            places: Places { rules, upstreams: Vec::new() },
            envoy_als,
            otlp: otlp.filter(|_| !self.broken("sources.otlp")),
            tails,
            state_dir: given.state_dir.map(PathBuf::from).or_else(|| state_dir.cloned()),
        }
    }

    fn tails(&mut self, given: Vec<wire::Tail>) -> Vec<Tail> {
        let (mut tails, mut numbers) = (Vec::<Tail>::new(), Vec::new());
        for (n, tail) in given.into_iter().enumerate() {
            let path = tail.path.clone();
            let Some(tail) = self.tail(n, tail) else { continue };
            let name = &tail.name;
            if tails.iter().any(|other| other.name == *name) {
                let message = format!("`{name}` names another tail already; give each its own `name`");
                self.problem(&path, &format!("sources.tails[{n}].name"), message);
            }
            if OTHERS.contains(&name.as_str()) || name.starts_with("gateway:") {
                let message = format!("`{name}` is the name of another source; give the tail its own `name`");
                self.problem(&path, &format!("sources.tails[{n}].name"), message);
            }
            if tail.path.is_none() && tails.iter().any(|other| other.path.is_none()) {
                let message = "another tail reads standard input already; only one can";
                self.problem(&path, &format!("sources.tails[{n}].path"), message);
            }
            tails.push(tail);
            numbers.push(n);
        }
        let all = tails.into_iter().zip(numbers);
        all.filter(|(_, n)| !self.broken(&format!("sources.tails[{n}]"))).map(|(tail, _)| tail).collect()
    }

    fn place(&mut self, nth: usize, given: wire::Route) -> PlaceRule {
        let at = format!("sources.routes[{nth}]");
        self.label_value(&given.name, &format!("{at}.name"));
        let known = Surface::ALL.map(Surface::as_str);
        let surface = given.surface.and_then(|surface| {
            self.word(&surface, &format!("{at}.surface"), "surface", &known).and_then(|s| Surface::named(&s))
        });
        let patterns = |list: Vec<String>| list.iter().map(|p| Pattern::new(p)).collect();
        let wire::RouteMatch { hosts, paths, services, sources } = given.r#match;
        PlaceRule {
            place: Place {
                route: RouteName::new(&given.name.value),
                surface,
                region: given.region.map(Into::into),
                project: given.project.map(Into::into),
                model: given.model,
            },
            hosts: patterns(hosts),
            paths: patterns(paths),
            services: patterns(services),
            sources: patterns(sources),
        }
    }

    fn open_port(&mut self, bind: &Spanned<String>, path: &str, anybody: bool) -> Option<SocketAddr> {
        let address = self.bind(bind, path)?;
        if !address.ip().is_loopback() && !anybody {
            let message = "not a loopback address: whoever reaches it could tell of calls; bind it to 127.0.0.1, or say \
                           `any_sender: true`";
            self.problem(bind, path, message);
        }
        Some(address)
    }

    fn receiver(&mut self, given: wire::Otlp) -> Receiver {
        let token = given.token.and_then(|token| self.secret(&token, "sources.otlp.token"));
        let anybody = given.any_sender || token.is_some() || self.broken("sources.otlp");
        let mut port = |bind: &Option<Spanned<String>>, path| {
            bind.as_ref().and_then(|bind| self.open_port(bind, path, anybody))
        };
        let (grpc, http) = match (&given.grpc, &given.http) {
            (None, None) => {
                let usual =
                    |bind: SocketAddr| Spanned::new(bind.to_string(), Location::UNKNOWN, Location::UNKNOWN);
                (port(&Some(usual(GRPC)), "sources.otlp.grpc"), port(&Some(usual(HTTP)), "sources.otlp.http"))
            }
            (grpc, http) => (port(grpc, "sources.otlp.grpc"), port(http, "sources.otlp.http")),
        };
        let forward = given.forward.and_then(|forward| self.forward(forward));
        Receiver { grpc, http, token, forward }
    }

    fn forward(&mut self, given: wire::Forward) -> Option<Forward> {
        const AT: &str = "sources.otlp.forward";
        let endpoint = self.url(&given.endpoint, &format!("{AT}.endpoint"), &["http", "https"])?;
        let mut headers = Vec::new();
        for (name, secret) in given.headers {
            let path = format!("{AT}.headers.{name}");
            match http::HeaderName::try_from(&name) {
                Ok(name) => headers.extend(self.secret(&secret, &path).map(|value| (name, value))),
                Err(_) => {
                    self.unplaced(&path, format!("`{name}` is no header's name; write it like `x-tenant`"));
                }
            }
        }
        let most = given.max_mb.as_ref().map_or(32, |most| most.value);
        if let Some(most) = given.max_mb.filter(|most| most.value == 0 || most.value > 4_096) {
            self.problem(&most, &format!("{AT}.max_mb"), "out of range; use 1 to 4096");
        }
        let endpoint = endpoint.to_string().trim_end_matches('/').to_owned();
        Some(Forward { endpoint, headers, max_bytes: usize::try_from(most).unwrap_or(32) << 20 })
    }

    fn tail(&mut self, nth: usize, given: wire::Tail) -> Option<Tail> {
        let at = format!("sources.tails[{nth}]");
        let known = Preset::ALL.map(Preset::as_str);
        let preset = match &given.preset {
            Some(preset) => self
                .word(preset, &format!("{at}.preset"), "preset", &known)
                .and_then(|word| Preset::ALL.into_iter().find(|preset| preset.as_str() == word))?,
            None => Preset::Report,
        };
        if let Some(name) = &given.name {
            self.label_value(name, &format!("{at}.name"));
        }
        let mut fields = Vec::new();
        for (field, place) in &given.fields {
            if FIELDS.contains(&field.as_str()) {
                fields.push((field.clone(), place.value.clone()));
                continue;
            }
            let message = format!("`{field}` is no field{}", suggestion(field, &FIELDS));
            self.problem(place, &format!("{at}.fields"), message);
        }
        for name in given.header_fields.keys().filter(|name| http::HeaderName::try_from(*name).is_err()) {
            let message = format!("`{name}` is no header's name; write it like `retry-after`");
            self.unplaced(&format!("{at}.header_fields"), message);
        }
        let from = given
            .from
            .and_then(|from| self.word(&from, &format!("{at}.from"), "place in a log", &["start", "end"]));
        let headers: Vec<(String, String)> = given.header_fields.into_iter().collect();
        let name = given.name.map_or_else(|| preset.as_str().to_owned(), |name| name.value);
        let stdin = given.path.value == "-";
        if given.path.value.is_empty() {
            self.problem(&given.path, &format!("{at}.path"), "empty; name a file, or `-` for standard input");
        }
        if std::fs::metadata(&given.path.value).is_ok_and(|meta| crate::files::is_device(meta.file_type())) {
            let message = "a device, which may have no end; name a file, or `-` for standard input";
            self.problem(&given.path, &format!("{at}.path"), message);
        }
        Some(Tail {
            name,
            path: (!stdin).then(|| PathBuf::from(given.path.value)),
            mapping: Mapping::new(preset, &fields, &headers),
            route: given.route.map(|route| route.value),
            from_start: from.as_deref() == Some("start"),
        })
    }
}
