//! From what was written to what is meant. All rules across fields stand here; each message names
//! the fix, and all problems are reported at once.

use super::lenient::Reading;
use super::own;
use super::partial::{Made, within};
use super::problem::{Problem, suggestion};
use super::secret::Secret;
use super::{
    Admin, Alertmanager, Alerts, Config, Evidence, Otlp, OtlpProtocol, ProviderHost, Resign, Route, Semconv,
    ServerTls, wire,
};
use crate::engine::{BookLimits, Thresholds};
use crate::files;
use crate::limit::Knobs;
use crate::overload::LEAST_LIMIT;
use crate::owner::{OwnerRule, Owners, Pattern};
use crate::route::{ModelGroups, OwnerId, OwnerKind, RouteName, Surface, UNNAMED};
use http::Uri;
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) const HOP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8429);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9429);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9430);
/// How often a status page is read while an incident is open.
const STATUS_INTERVAL: Duration = Duration::from_secs(600);
const ANTHROPIC: &str = "https://api.anthropic.com";
/// An OpenTelemetry instrument keeps at most 2,000 sets of attributes.
const MAX_ROWS: usize = 1_900;
/// Longest URL that goes into an alert.
const MAX_URL: usize = 1_024;
/// Two that cannot both be listened on: the port is one, and the address too, or one stands for all of them. `::` stands
/// for those of IPv4 as well.
pub(super) fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let all = |one: SocketAddr, of: SocketAddr| one.ip().is_unspecified() && (one.is_ipv6() || of.is_ipv4());
    a.port() == b.port() && (a.ip() == b.ip() || all(a, b) || all(b, a))
}

/// Most rows of totals: each has four sets of token attributes.
const MAX_TOTALS: usize = MAX_ROWS / 4;
/// Labels that an alert sets itself, beside the owner's two.
const OWN_LABELS: [&str; 8] =
    ["alertname", "severity", "limiter", "window", "scope", "model", "region", "route"];

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) struct Checker<'a> {
    pub(super) problems: Vec<Problem>,
    /// What the text gave.
    pub(super) reading: Reading,
    /// What the file is called.
    pub(super) name: &'a str,
    env: Env<'a>,
    /// Addresses that are listened on, with what does.
    pub(super) binds: BTreeMap<SocketAddr, String>,
    /// Upstreams of routes, with their places.
    upstreams: Vec<(Spanned<String>, String, Uri)>,
}

/// What is read, checked. What is wrong is in `unread`, and none of it in force.
pub(super) fn check(mut reading: Reading, env: Env<'_>, name: &str) -> Config {
    let file = std::mem::take(&mut reading.file);
    let problems = std::mem::take(&mut reading.problems);
    let (binds, upstreams) = (BTreeMap::new(), Vec::new());
    let mut checker = Checker { problems, reading, name, env, binds, upstreams };
    let mut config = checker.config(file);
    checker.close(&mut config);
    // In the order of the file, which is the order in which a person mends it.
    checker.problems.sort_by_key(|problem| problem.at.unwrap_or_default());
    config.unread = checker.problems;
    config
}

impl Checker<'_> {
    pub(super) fn problem<T>(&mut self, value: &Spanned<T>, path: &str, message: impl Into<String>) {
        self.problems.push(Problem::at(value, self.original(path), message));
    }

    /// A problem with a key, which has no place of its own.
    pub(super) fn unplaced(&mut self, path: &str, message: impl Into<String>) {
        let path = self.original(path);
        self.problems.push(Problem { path, at: None, message: message.into() });
    }

    fn config(&mut self, file: wire::File) -> Config {
        let put_on = file.put_on();
        let external_url =
            file.external_url.and_then(|url| self.url(&url, "external_url", &["http", "https"]));
        let metrics = self.bind_or(file.metrics.bind.as_ref(), "metrics.bind", METRICS);
        let admin = self.admin(file.admin);
        let thresholds = self.thresholds(&file.alerts);
        let alerts = self.alerts(file.alerts);
        let credentials = self.credentials(file.credentials);
        let fingerprint_key = file.fingerprint_key.and_then(|key| self.secret(&key, "fingerprint_key"));
        let defaults = BookLimits::default();
        let evidence = self.evidence(file.evidence);
        let pollers = self.pollers(file.pollers);
        let quotas = self.quotas(file.quotas);
        let counting = self.counting(file.counting);
        let state_dir = file.state_dir.and_then(|dir| self.directory(&dir, "state_dir"));
        let mut sources = self.sources(file.sources, state_dir.as_ref());
        let told = pollers.is_any() || sources.is_any();
        let default = file.listeners.is_none();
        let made = self.listeners(file.listeners, told);
        let all: Vec<&Route> = made.iter().flat_map(|one| &one.routes).map(|(_, route)| route).collect();
        sources.know(&all);
        for (path, route) in &put_on {
            self.known_route(route.as_ref(), path, &sources.places);
        }
        self.loops(&made);
        let owners = Arc::new(self.owners(file.owners, thresholds.knobs));
        let otlp = self.otlp(file.otlp);
        let book = BookLimits {
            buckets: self.rows(file.limits.buckets, "limits.buckets", MAX_ROWS, defaults.buckets),
            ..defaults
        };
        let max_totals = self.rows(file.limits.totals, "limits.totals", MAX_TOTALS, 450);
        let memory_limit =
            file.memory_limit.and_then(|limit| self.bytes(&limit, "memory_limit", LEAST_LIMIT));
        Config {
            state_dir,
            external_url: external_url.map(|uri| uri.to_string().trim_end_matches('/').to_owned()),
            owners,
            listeners: self.openable(made, default),
            sources,
            credentials,
            fingerprint_key,
            model_groups: ModelGroups::new(file.model_groups.into_iter().collect()),
            thresholds,
            alerts,
            evidence,
            metrics,
            admin,
            admin_closed: false,
            otlp,
            book,
            pollers,
            quotas,
            counting,
            max_totals,
            memory_limit,
            unread: Vec::new(),
            text: "".into(),
        }
    }

    /// An amount of memory with its unit.
    fn bytes(&mut self, value: &Spanned<String>, path: &str, least: u64) -> Option<u64> {
        let text = value.value.trim();
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let factor = match unit.trim() {
            "MiB" | "Mi" => Some(1_u64 << 20),
            "GiB" | "Gi" => Some(1 << 30),
            "MB" | "M" => Some(1_000_000),
            "GB" | "G" => Some(1_000_000_000),
            _ => None,
        };
        let amount = text[..text.len() - unit.len()].parse::<u64>().ok();
        let bytes = factor.zip(amount).and_then(|(factor, amount)| amount.checked_mul(factor));
        if bytes.is_none_or(|bytes| bytes < least) {
            let least = least >> 20;
            let message =
                format!("`{text}` is not an amount of at least {least}MiB; write `256MiB` or `1GiB`");
            self.problem(value, path, message);
        }
        bytes
    }

    pub(super) fn rows(
        &mut self,
        value: Option<Spanned<usize>>,
        path: &str,
        most: usize,
        default: usize,
    ) -> usize {
        match value {
            Some(rows) if rows.value == 0 || rows.value > most => {
                self.problem(&rows, path, format!("{} is out of range; use 1 to {most}", rows.value));
                default
            }
            Some(rows) => rows.value,
            None => default,
        }
    }

    fn listeners(&mut self, listeners: Option<Spanned<Vec<wire::Listener>>>, polls: bool) -> Vec<Made> {
        let Some(listeners) = listeners else { return vec![default_listener()] };
        let lost = ["listeners", "sources", "pollers"].iter().any(|section| self.broken(section));
        if listeners.value.is_empty() && !polls && !lost {
            let message =
                "no listeners, no sources and no pollers; leave the key out for the default one, or add one";
            self.problem(&listeners, "listeners", message);
        }
        let mut names = BTreeSet::new();
        let mut checked = Vec::new();
        for (l, listener) in listeners.value.into_iter().enumerate() {
            let path = format!("listeners[{l}]");
            let bind = self.bind(&listener.bind, &format!("{path}.bind"));
            if listener.routes.is_empty()
                && !self.lost(&format!("{path}.routes"))
                && !self.misnamed(&path, "routes")
            {
                self.problem(
                    &listener.bind,
                    &format!("{path}.routes"),
                    "no routes; add at least one with `name` and `upstream`",
                );
            }
            let guarded = bind.is_none_or(|bind| bind.ip().is_loopback())
                || listener.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some())
                || self.broken(&format!("{path}.tls"));
            let routes = self.routes(listener.routes, guarded, &path, &mut names);
            let tls = listener.tls.map(|tls| self.server_tls(tls, &format!("{path}.tls")));
            checked.extend(bind.map(|bind| Made { nth: l, bind, routes, tls: tls.flatten() }));
        }
        checked
    }

    /// True if another key there was meant to be this one.
    fn misnamed(&self, path: &str, key: &str) -> bool {
        let (path, meant) = (self.original(path), format!("; did you mean `{key}`?"));
        self.problems.iter().any(|one| within(&one.path, &path) && one.message.ends_with(&meant))
    }

    fn routes(
        &mut self,
        given: Vec<wire::Route>,
        guarded: bool,
        listener: &str,
        names: &mut BTreeSet<String>,
    ) -> Vec<(usize, Route)> {
        let mut routes: Vec<(usize, Route)> = Vec::new();
        for (r, route) in given.into_iter().enumerate() {
            let path = format!("{listener}.routes[{r}]");
            let name = route.name.clone();
            if !names.insert(name.value.clone()) {
                let message = format!(
                    "`{}` names another route already; names are labels, so make each unique",
                    name.value
                );
                self.problem(&name, &format!("{path}.name"), message);
            }
            let Some(route) = self.route(route, guarded, &path) else { continue };
            if routes.iter().any(|(_, other)| other.prefix == route.prefix) {
                let message = format!(
                    "another route of this listener has the prefix `{}/` already; give each its own",
                    route.prefix
                );
                self.problem(&name, &format!("{path}.prefix"), message);
            }
            routes.push((r, route));
        }
        routes
    }

    /// A route to one of our own listeners would send each call round until nothing is left to take it.
    fn loops(&mut self, made: &[Made]) {
        for (upstream, path, uri) in std::mem::take(&mut self.upstreams) {
            if let Some(own) = made.iter().find(|one| own::reaches(&uri, one.bind)) {
                let message = format!(
                    "leads back to this sidecar's own listener on {}; name the provider's or the gateway's address",
                    own.bind
                );
                self.problem(&upstream, &path, message);
            }
        }
    }

    /// `guarded` if only this machine's own processes, or callers with a certificate, reach the listener.
    fn route(&mut self, route: wire::Route, guarded: bool, path: &str) -> Option<Route> {
        self.label_value(&route.name, &format!("{path}.name"));
        let prefix = match &route.prefix {
            Some(prefix) if !prefix.value.starts_with('/') => {
                self.problem(
                    prefix,
                    &format!("{path}.prefix"),
                    format!("`{0}` does not start with `/`; write `/{0}`", prefix.value),
                );
                String::new()
            }
            Some(prefix) => prefix.value.trim_end_matches('/').to_owned(),
            None => String::new(),
        };
        let surface = route.surface.as_ref().and_then(|surface| {
            let known = Surface::ALL.map(Surface::as_str);
            self.word(surface, &format!("{path}.surface"), "surface", &known)
                .and_then(|word| Surface::named(&word))
        });
        let ca_file = self.file(route.ca_file, &format!("{path}.ca_file"));
        let client_cert_file = self.file(route.client_cert_file, &format!("{path}.client_cert_file"));
        let at = format!("{path}.upstream");
        let upstream = self.url(&route.upstream, &at, &["http", "https"])?;
        self.upstreams.push((route.upstream, at, upstream.clone()));
        let resign = route.resign.map(|resign| self.resign(resign, guarded, &upstream, path));
        let websocket = route.websocket.as_ref().and_then(|word| {
            self.word(word, &format!("{path}.websocket"), "way with WebSockets", &["tunnel", "refuse"])
        });
        let own_host = upstream.host().and_then(ProviderHost::of);
        Some(Route {
            name: RouteName::new(&route.name.value),
            prefix,
            strip_prefix: route.strip_prefix,
            origin: origin(&upstream),
            upstream,
            surface,
            region: route.region.filter(|region| !region.is_empty()).map(Into::into),
            project: route.project.filter(|project| !project.is_empty()).map(Into::into),
            ca_file,
            client_cert_file,
            http2: route.http2,
            // A signature covers the path.
            repair: own_host.filter(|_| route.repair_paths && resign.is_none()),
            refuse_websocket: websocket.as_deref() == Some("refuse"),
            resign,
        })
    }

    fn resign(&mut self, resign: wire::Resign, guarded: bool, upstream: &Uri, path: &str) -> Resign {
        let path = format!("{path}.resign");
        if !guarded && !resign.any_caller {
            let message = "whoever reaches this listener would call AWS with the sidecar's own credentials; bind it to 127.0.0.1, \
                 demand client certificates (`tls.client_ca_file`), or say `any_caller: true`";
            self.problem(&resign.region, &path, message);
        }
        let here = upstream.host().is_some_and(|host| {
            host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        });
        if upstream.scheme_str() == Some("http") && !here {
            let message = "signed requests would pass in the clear; use `https://` for the upstream";
            self.problem(&resign.region, &path, message);
        }
        if !cfg!(feature = "aws") {
            let message =
                "this program was built without `aws`; take the full image, or build with `--features aws`";
            self.problem(&resign.region, &path, message);
        }
        Resign {
            region: resign.region.value,
            service: resign.service.unwrap_or_else(|| "bedrock".to_owned()),
        }
    }

    fn owners(&mut self, owners: Vec<wire::Owner>, knobs: Knobs) -> Owners {
        let (mut rules, mut names) = (Vec::new(), BTreeSet::new());
        let mut whole = 0;
        for (o, owner) in owners.into_iter().enumerate() {
            let path = format!("owners[{o}]");
            self.label_value(&owner.name, &format!("{path}.name"));
            if !names.insert(owner.name.value.clone()) {
                let message =
                    "names another owner already; list all that it owns in one entry, with patterns";
                self.problem(&owner.name, &format!("{path}.name"), message);
            }
            if owner.name.value == UNNAMED {
                self.problem(
                    &owner.name,
                    &format!("{path}.name"),
                    format!("`{UNNAMED}` stands for owners nobody configured; choose another name"),
                );
            }
            let known = OwnerKind::ALL.map(OwnerKind::as_str);
            let mut kinds = Vec::new();
            for (k, kind) in owner.kinds.iter().enumerate() {
                let word = self.word(kind, &format!("{path}.kinds[{k}]"), "owner kind", &known);
                kinds.extend(word.and_then(|w| OwnerKind::ALL.into_iter().find(|kind| kind.as_str() == w)));
            }
            let patterns = |list: Vec<String>| list.iter().map(|p| Pattern::new(p)).collect();
            rules.push(OwnerRule {
                id: OwnerId::new(&owner.name.value),
                kinds,
                organizations: patterns(owner.r#match.organizations),
                projects: patterns(owner.r#match.projects),
                regions: patterns(owner.r#match.regions),
                workspaces: patterns(owner.r#match.workspaces),
                routes: patterns(owner.r#match.routes),
                runbook_url: self.link(owner.runbook_url, &format!("{path}.runbook_url")),
                dashboard_url: self.link(owner.dashboard_url, &format!("{path}.dashboard_url")),
                contact: owner.contact,
                knobs: owner.foresight.map(|own| self.knobs(&own, &format!("{path}.foresight"), knobs)),
            });
            // The first match wins: behind one that cannot be read nobody is certain.
            let certain = self.original(&path) == path && !self.broken(&path);
            whole += usize::from(certain && whole == o);
        }
        rules.truncate(whole);
        Owners::new(rules)
    }

    fn credentials(&mut self, credentials: Vec<wire::Credential>) -> Vec<(Arc<str>, Secret)> {
        let mut checked = Vec::new();
        for (c, credential) in credentials.into_iter().enumerate() {
            let path = format!("credentials[{c}]");
            self.label_value(&credential.alias, &format!("{path}.alias"));
            let secret = self.secret(&credential.secret, &format!("{path}.secret"));
            checked.extend(secret.map(|secret| (credential.alias.value.as_str().into(), secret)));
        }
        checked
    }

    pub(super) fn secret(&mut self, secret: &wire::Secret, path: &str) -> Option<Secret> {
        match (&secret.env, &secret.file) {
            (Some(name), None) => {
                let value = (self.env)(&name.value).filter(|v| !v.is_empty());
                if value.is_none() {
                    self.problem(
                        name,
                        &format!("{path}.env"),
                        format!(
                            "the environment variable `{}` is not set; set it, or name another",
                            name.value
                        ),
                    );
                }
                value.map(Secret::from)
            }
            (None, Some(file)) => match files::read_text(Path::new(&file.value), files::SECRET) {
                Ok(text) if text.trim().is_empty() => {
                    self.problem(
                        file,
                        &format!("{path}.file"),
                        format!("`{}` is empty; put the secret into it", file.value),
                    );
                    None
                }
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).into()),
                Err(error) => {
                    self.problem(file, &format!("{path}.file"), unreadable(&file.value, &error));
                    None
                }
            },
            (Some(name), Some(_)) => {
                self.problem(name, path, "`env` and `file` are both given; keep one");
                None
            }
            (None, None) => {
                let message = "neither `env` nor `file` is given; secrets are read from one of them";
                self.unplaced(path, message);
                None
            }
        }
    }

    fn thresholds(&mut self, alerts: &wire::Alerts) -> Thresholds {
        let defaults = Thresholds::default();
        let checked = Thresholds {
            knobs: self.knobs(&alerts.foresight, "alerts.foresight", defaults.knobs),
            pressure: self.share(
                &alerts.pressure_utilization,
                "alerts.pressure_utilization",
                defaults.pressure,
            ),
            exhausting: self.share(
                &alerts.exhausting_utilization,
                "alerts.exhausting_utilization",
                defaults.exhausting,
            ),
            pressure_horizon: self
                .secs(&alerts.pressure_horizon_secs, "alerts.pressure_horizon_secs")
                .unwrap_or(defaults.pressure_horizon),
            exhausting_horizon: self
                .secs(&alerts.exhausting_horizon_secs, "alerts.exhausting_horizon_secs")
                .unwrap_or(defaults.exhausting_horizon),
            ..defaults
        };
        let levels = (checked.exhausting < checked.pressure)
            .then(|| alerts.exhausting_utilization.as_ref().or(alerts.pressure_utilization.as_ref()));
        let horizons = (checked.exhausting_horizon > checked.pressure_horizon)
            .then(|| alerts.exhausting_horizon_secs.as_ref().or(alerts.pressure_horizon_secs.as_ref()));
        for given in [levels, horizons].into_iter().flatten().flatten() {
            let message = "the critical alert would come before the warning; set `pressure_…` and `exhausting_…` together";
            self.problem(given, "alerts", message);
        }
        checked
    }

    fn alerts(&mut self, alerts: wire::Alerts) -> Alerts {
        let mut alertmanagers = Vec::new();
        for (a, one) in alerts.alertmanagers.into_iter().enumerate() {
            let path = format!("alerts.alertmanagers[{a}]");
            let url = self.url(&one.url, &format!("{path}.url"), &["http", "https"]);
            let bearer_token =
                one.bearer_token.and_then(|token| self.secret(&token, &format!("{path}.bearer_token")));
            let ca_file = self.file(one.ca_file, &format!("{path}.ca_file"));
            let url = url.filter(|_| !self.broken(&path));
            alertmanagers.extend(url.map(|url| Alertmanager {
                url: url.to_string().trim_end_matches('/').to_owned(),
                bearer_token,
                ca_file,
            }));
        }
        let owner_label = match alerts.owner_label {
            Some(label) if is_owner_label(&label.value) => label.value,
            Some(label) => {
                let message = format!(
                    "`{}` is no label name, or one that alerts carry already; choose another of letters, digits and `_`",
                    label.value
                );
                self.problem(&label, "alerts.owner_label", message);
                "owner".to_owned()
            }
            None => "owner".to_owned(),
        };
        let kind_label = format!("{owner_label}_kind");
        let taken = |name: &str| OWN_LABELS.contains(&name) || name == owner_label || name == kind_label;
        let wrong = alerts.labels.iter().filter(|(name, _)| !is_label_name(name) || taken(name));
        for (name, value) in wrong {
            let message = format!("`{name}` is no label name, or one that Plimsoll sets itself; rename it");
            self.problem(value, "alerts.labels", message);
        }
        Alerts {
            alertmanagers,
            owner_label,
            labels: alerts.labels.into_iter().map(|(name, value)| (name, value.value)).collect(),
            hold: self.secs(&alerts.hold_secs, "alerts.hold_secs").unwrap_or(Duration::from_secs(60)),
        }
    }

    fn evidence(&mut self, evidence: wire::Evidence) -> Evidence {
        let ids =
            evidence.ids.and_then(|ids| self.word(&ids, "evidence.ids", "treatment", &["keep", "hash"]));
        let status_page =
            evidence.status_page.and_then(|url| self.url(&url, "evidence.status_page", &["http", "https"]));
        let path = "evidence.status_interval_secs";
        let interval = self.secs(&evidence.status_interval_secs, path).unwrap_or(STATUS_INTERVAL);
        if let Some(value) = evidence.status_interval_secs.filter(|_| interval < Duration::from_secs(60)) {
            self.problem(&value, path, "a public status page is read at most once a minute; use 60 or more");
        }
        Evidence {
            hash_ids: ids.as_deref() == Some("hash"),
            status_page: status_page.map(|url| url.to_string()),
            status_interval: interval,
            claude_status_file: evidence.claude_status_file.map(PathBuf::from),
        }
    }

    fn server_tls(&mut self, tls: wire::ServerTls, path: &str) -> Option<ServerTls> {
        let client_ca_file = self.file(tls.client_ca_file, &format!("{path}.client_ca_file"));
        let cert_file = self.file(Some(tls.cert_file), &format!("{path}.cert_file"))?;
        let key_file = self.file(Some(tls.key_file), &format!("{path}.key_file"))?;
        Some(ServerTls { cert_file, key_file, client_ca_file })
    }

    fn admin(&mut self, admin: wire::Admin) -> Admin {
        let token = admin.token.and_then(|token| self.secret(&token, "admin.token"));
        let bind = self.bind_or(admin.bind.as_ref(), "admin.bind", ADMIN);
        let open = !bind.ip().is_loopback() && token.is_none() && !self.broken("admin.token");
        if let Some(wire) = admin.bind.filter(|_| open) {
            self.problem(
                &wire,
                "admin.bind",
                "not a loopback address, so callers must show a token; add `admin.token`",
            );
        }
        Admin { bind, token, allowed_hosts: admin.allowed_hosts }
    }

    fn otlp(&mut self, otlp: wire::Otlp) -> Otlp {
        let protocol = otlp
            .protocol
            .and_then(|p| self.word(&p, "otlp.protocol", "OTLP protocol", &["grpc", "http/protobuf"]));
        let gzip = otlp
            .compression
            .and_then(|c| self.word(&c, "otlp.compression", "compression", &["gzip", "none"]));
        let semconv = otlp.semconv.and_then(|s| {
            self.word(&s, "otlp.semconv", "set of metrics", &["off", "legacy", "latest", "both"])
        });
        Otlp {
            protocol: protocol.map(|p| if p == "grpc" { OtlpProtocol::Grpc } else { OtlpProtocol::Http }),
            gzip: gzip.map(|c| c == "gzip"),
            semconv: match semconv.as_deref() {
                Some("legacy") => Semconv::Legacy,
                Some("latest") => Semconv::Latest,
                Some("both") => Semconv::Both,
                _ => Semconv::Off,
            },
            endpoint: otlp
                .endpoint
                .and_then(|e| self.url(&e, "otlp.endpoint", &["http", "https"]))
                .map(|uri| uri.to_string()),
            interval: self.secs(&otlp.interval_secs, "otlp.interval_secs"),
            span_ratio: self.share(&otlp.span_ratio, "otlp.span_ratio", 0.1),
            off: false,
        }
    }

    /// An address to listen on, which nothing else of ours does.
    pub(super) fn bind(&mut self, bind: &Spanned<String>, path: &str) -> Option<SocketAddr> {
        let Ok(parsed) = bind.value.parse::<SocketAddr>() else {
            let message =
                format!("`{}` is no address with a port; write it like `127.0.0.1:8429`", bind.value);
            self.problem(bind, path, message);
            return None;
        };
        let taken = self.binds.iter().find(|(other, _)| parsed.port() != 0 && clash(parsed, **other));
        if let Some((_, other)) = taken {
            let message = format!("{parsed} is taken by `{other}`; give each its own port");
            self.problem(bind, path, message);
        }
        let path = self.original(path);
        self.binds.entry(parsed).or_insert(path);
        Some(parsed)
    }

    fn bind_or(&mut self, bind: Option<&Spanned<String>>, path: &str, default: SocketAddr) -> SocketAddr {
        match bind {
            Some(bind) => self.bind(bind, path).unwrap_or(default),
            None => {
                self.binds.insert(default, path.to_owned());
                default
            }
        }
    }

    pub(super) fn url(&mut self, url: &Spanned<String>, path: &str, schemes: &[&str]) -> Option<Uri> {
        let parsed: Option<Uri> = url.value.parse().ok().filter(|uri: &Uri| {
            uri.scheme_str().is_some_and(|s| schemes.contains(&s))
                && uri.authority().is_some_and(|a| !a.host().is_empty() && !a.as_str().contains('@'))
                && uri.query().is_none()
        });
        if parsed.is_none() {
            let wanted = schemes.iter().map(|s| format!("`{s}://host`")).collect::<Vec<_>>().join(" or ");
            self.problem(
                url,
                path,
                format!("not an address; write it like {wanted}, without a user and without a query"),
            );
        }
        parsed
    }

    pub(super) fn link(&mut self, url: Option<Spanned<String>>, path: &str) -> Option<String> {
        let url = url?;
        if url.value.len() > MAX_URL {
            self.problem(
                &url,
                path,
                format!("longer than {MAX_URL} characters; shorten it, it goes into chat messages"),
            );
        }
        let valid = url.value.parse::<Uri>().is_ok_and(|u| matches!(u.scheme_str(), Some("https" | "http")));
        if !valid {
            self.problem(&url, path, "not a link; write it like `https://host/path`");
        }
        Some(url.value)
    }

    /// A file with certificates or keys.
    pub(super) fn file(&mut self, file: Option<Spanned<String>>, path: &str) -> Option<PathBuf> {
        let file = file?;
        let pem = files::read(Path::new(&file.value), files::CERTIFICATES);
        let named = format!("`{}`", file.value);
        match pem.map(|pem| memchr::memmem::find(&pem, b"-----BEGIN ").is_some()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.problem(&file, path, format!("there is no file {named}; mount it, or name another"));
            }
            Err(error) => self.problem(&file, path, unreadable(&file.value, &error)),
            Ok(true) => {}
            Ok(false) => {
                self.problem(&file, path, format!("{named} holds no PEM; name a certificate or a key"))
            }
        }
        Some(PathBuf::from(file.value))
    }

    fn directory(&mut self, dir: &Spanned<String>, path: &str) -> Option<PathBuf> {
        let given = Path::new(&dir.value);
        if dir.value.is_empty() || given.exists() && !given.is_dir() {
            self.problem(dir, path, format!("`{}` is no directory; name one", dir.value));
            return None;
        }
        Some(given.to_owned())
    }

    pub(super) fn share(&mut self, value: &Option<Spanned<f64>>, path: &str, default: f64) -> f64 {
        let Some(value) = value else { return default };
        // A threshold needs room below it to clear in; a share of spans does not.
        let lowest = if path.starts_with("alerts.") { 0.2 } else { 0.0 };
        if !(lowest..=1.0).contains(&value.value) {
            let message = format!("{} is out of range; use a share from {lowest} to 1", value.value);
            self.problem(value, path, message);
            return default;
        }
        value.value
    }

    /// The two knobs of foresight; what is absent is as in `others`.
    fn knobs(&mut self, given: &wire::Foresight, path: &str, others: Knobs) -> Knobs {
        let mut within = |value: &Option<Spanned<f64>>, name: &str, least: f64, most: f64| {
            let value = value.as_ref()?;
            if (least..=most).contains(&value.value) {
                return Some(value.value);
            }
            let message = format!("{} is out of range; use {least} to {most}", value.value);
            self.problem(value, &format!("{path}.{name}"), message);
            None
        };
        Knobs {
            horizon: within(&given.horizon_secs, "horizon_secs", 5.0, 120.0)
                .map_or(others.horizon, Duration::from_secs_f64),
            caution: within(&given.caution, "caution", 0.0, 4.0).unwrap_or(others.caution),
        }
    }

    pub(super) fn secs(&mut self, value: &Option<Spanned<f64>>, path: &str) -> Option<Duration> {
        let value = value.as_ref()?;
        if !(1.0..=86_400.0).contains(&value.value) {
            self.problem(value, path, format!("{} is out of range; use 1 to 86400 seconds", value.value));
            return None;
        }
        Some(Duration::from_secs_f64(value.value))
    }

    pub(super) fn word(
        &mut self,
        word: &Spanned<String>,
        path: &str,
        what: &str,
        known: &[&str],
    ) -> Option<String> {
        if known.contains(&word.value.as_str()) {
            return Some(word.value.clone());
        }
        self.problem(word, path, format!("`{}` is no {what}{}", word.value, suggestion(&word.value, known)));
        None
    }

    pub(super) fn label_value(&mut self, name: &Spanned<String>, path: &str) {
        let fits = !name.value.is_empty()
            && name.value.len() <= 63
            && name.value.chars().all(|c| c.is_alphanumeric() || "-_./ ".contains(c));
        if !fits {
            self.problem(name, path, "no name; use 1 to 63 letters, digits, `-`, `_`, `.`, `/` or spaces");
        }
    }
}

/// True if alerts can carry the owner under this name, and its kind under this and `_kind`.
pub(crate) fn is_owner_label(name: &str) -> bool {
    let kind = format!("{name}_kind");
    is_label_name(name) && !OWN_LABELS.contains(&name) && !OWN_LABELS.contains(&kind.as_str())
}

/// What is wrong with a file, and the fix.
fn unreadable(file: &str, error: &std::io::Error) -> String {
    let said = error.to_string();
    let fix = if said.contains("; ") { "" } else { "; name a file that this user can read" };
    format!("cannot read `{file}`: {said}{fix}")
}

fn is_label_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with("__")
}

/// Scheme, host and port: what may be shown of an upstream (its user info may not).
fn origin(upstream: &Uri) -> Arc<str> {
    let (scheme, host) = (upstream.scheme_str().unwrap_or("https"), upstream.host().unwrap_or_default());
    let port = upstream.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{scheme}://{host}{port}").into()
}

fn default_listener() -> Made {
    let upstream = Uri::from_static(ANTHROPIC);
    let repair = upstream.host().and_then(ProviderHost::of);
    let route = Route {
        name: RouteName::new("anthropic"),
        prefix: String::new(),
        strip_prefix: false,
        origin: origin(&upstream),
        upstream,
        surface: None,
        region: None,
        project: None,
        ca_file: None,
        client_cert_file: None,
        http2: false,
        repair,
        refuse_websocket: false,
        resign: None,
    };
    Made { nth: 0, bind: HOP, routes: vec![(0, route)], tls: None }
}
