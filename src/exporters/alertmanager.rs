//! Pushes alerts straight to every Alertmanager, and to every address of its name, within a second of the decision.
//!
//! An alert is posted with `endsAt = now + hold`, posted again every third of that, and simply no
//! longer posted when it ends: it lapses. A past `endsAt` is never sent, because one sidecar's
//! "resolved" would end the alert while another still holds it (tried on Alertmanager 0.25). The
//! labels are the bucket's identity and nothing of this pod, so a hundred sidecars make one alert.

use crate::clock::{Clock, chance};
use crate::config;
use crate::engine::{Alert, AlertName};
use crate::files;
use crate::limit::Timestamp;
use crate::outgoing::{self, Redirects};
use crate::owner::{Owners, guidance};
use crate::stats::Stats;
use crate::stop::Stop;
use crate::text::visible;
use secrecy::ExposeSecret;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// How long one post may take at most; never longer than a third of the hold, so that an alert
/// cannot arrive already ended.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a failed post is tried again, doubled up to a third of the hold.
const RETRY: Duration = Duration::from_millis(500);
/// How often a name is looked up again while there are alerts.
const LOOK_UP: Duration = Duration::from_secs(15);
/// Most addresses of one name.
const MOST_REPLICAS: usize = 16;
/// Stands for a name whose addresses are not known.
const NAME_ALONE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// One alert as Alertmanager's API takes it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Posted {
    /// Identity.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
    /// When it began, RFC 3339.
    #[serde(rename = "startsAt")]
    pub starts_at: String,
    /// When it lapses unless posted again, RFC 3339.
    #[serde(rename = "endsAt")]
    pub ends_at: String,
    /// Where it comes from.
    #[serde(rename = "generatorURL", skip_serializing_if = "String::is_empty")]
    pub generator_url: String,
}

/// How alerts are written.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Label names and the hold.
    pub alerts: config::Alerts,
    /// Runbooks and contacts.
    pub owners: Arc<Owners>,
    /// Where people reach this sidecar.
    pub external_url: Option<String>,
}

impl Writer {
    /// An alert as it is posted at `now`.
    pub fn write(&self, alert: &Alert, now: Timestamp) -> Posted {
        Posted {
            labels: self.labels(alert),
            annotations: self.annotations(alert),
            starts_at: alert.since.rfc3339(),
            ends_at: now.plus(self.alerts.hold).rfc3339(),
            generator_url: self.external_url.clone().unwrap_or_default(),
        }
    }

    fn labels(&self, alert: &Alert) -> BTreeMap<String, String> {
        let identity = &alert.identity;
        let owner = &self.alerts.owner_label;
        let own = [
            ("alertname".to_owned(), alert.name.as_str()),
            ("severity".to_owned(), alert.name.severity().as_str()),
            (owner.clone(), identity.owner.id.as_str()),
            (format!("{owner}_kind"), identity.owner.kind.as_str()),
            ("limiter".to_owned(), identity.limiter.as_str()),
            ("window".to_owned(), identity.window.as_str()),
            ("scope".to_owned(), identity.scope.as_str()),
            ("model".to_owned(), identity.model.as_str()),
            ("region".to_owned(), identity.region.as_deref().unwrap_or_default()),
        ];
        let extra = self.alerts.labels.iter().map(|(name, value)| (name.clone(), value.as_str()));
        let all = own.into_iter().chain(extra);
        // An empty label is an absent one; both forms would be two identities to a reader.
        all.filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name, visible(value).into_owned()))
            .collect()
    }

    fn annotations(&self, alert: &Alert) -> BTreeMap<String, String> {
        let identity = &alert.identity;
        let told = guidance::of_limiter(identity.owner.kind, &identity.limiter);
        let rule = self.owners.get(&identity.owner.id);
        let runbook = rule.and_then(|r| r.runbook_url.clone());
        let runbook =
            runbook.unwrap_or_else(|| guidance::runbook_url(self.external_url.as_deref(), told.runbook));
        let mut all = BTreeMap::from([
            ("summary", summary(alert.name).to_owned()),
            ("description", description(alert)),
            ("runbook_url", runbook),
            ("first_move", told.first_move.to_owned()),
            ("stop_rule", guidance::STOP_RULE.to_owned()),
            ("route", alert.route.to_string()),
        ]);
        if let Some(url) = rule.and_then(|r| r.dashboard_url.clone()) {
            all.insert("dashboard_url", url);
        }
        if let Some(contact) = rule.and_then(|r| r.contact.clone()) {
            all.insert("contact", contact);
        }
        all.into_iter().map(|(name, text)| (name.to_owned(), visible(&text).into_owned())).collect()
    }
}

/// The same sentence for every alert of a name, so that grouped alerts share it.
pub const fn summary(name: AlertName) -> &'static str {
    match name {
        AlertName::BucketPressure => "A rate-limit bucket is under pressure.",
        AlertName::BucketExhausting => "A rate-limit bucket is about to be empty.",
        AlertName::Burst => "The traffic nears a ceiling of growth or of calls at once.",
        AlertName::Throttled => "Calls are being refused by a limit.",
        AlertName::Spend => "A budget is mostly spent, or will be before it begins anew.",
        AlertName::RouteChanged => "The route was changed while a limit was refusing calls.",
    }
}

fn description(alert: &Alert) -> String {
    let identity = &alert.identity;
    let mut text = format!("{} of {}", identity.limiter, identity.owner.id);
    if !identity.model.as_str().is_empty() {
        text.push_str(&format!(" for {}", identity.model.as_str()));
    }
    match (alert.utilization, alert.empty_in) {
        (Some(used), Some(left)) => {
            text.push_str(&format!(": {:.0} % used, empty in about {} s", used * 100.0, left.as_secs()));
        }
        (Some(used), None) => text.push_str(&format!(": {:.0} % used", used * 100.0)),
        _ => {}
    }
    // What a quota API told was seen on no route.
    match alert.route.as_str() {
        "" => text.push('.'),
        route => text.push_str(&format!(", seen on route {route}.")),
    }
    match &alert.detail {
        Some(detail) if alert.name == AlertName::RouteChanged => {
            text.push_str(&format!(" Changed: {detail}."))
        }
        Some(detail) => text.push_str(&format!(" {detail}.")),
        None => {}
    }
    text
}

/// Finds the addresses of a name: as the system does, or as a test says.
pub type Resolver = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>
        + Send
        + Sync,
>;

/// The system's.
pub fn system_resolver() -> Resolver {
    Arc::new(|host, port| Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) }))
}

/// What the exporter runs with.
#[derive(Clone)]
pub struct Parts {
    /// How alerts are written.
    pub writer: Writer,
    /// The alerts that are up.
    pub alerts: watch::Receiver<Arc<Vec<Alert>>>,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Clock,
    /// The word to stop.
    pub stop: Stop,
    /// Finds addresses.
    pub resolve: Resolver,
}

/// Starts one task for each Alertmanager, so that a dead one delays no other.
///
/// # Errors
/// If a client cannot be made (a `ca_file` that holds no certificate).
pub fn spawn(parts: &Parts) -> Result<Vec<JoinHandle<()>>, String> {
    let endpoints = &parts.writer.alerts.alertmanagers;
    endpoints.iter().map(|endpoint| Ok(tokio::spawn(Replicas::of(parts, endpoint)?.run()))).collect()
}

/// An Alertmanager as it is configured: one name, behind which there may be several.
///
/// Each of them must be told by us: what one knows the others learn by gossip, but not at once, and one that is asked for
/// nothing waits for those before it (15 s each) before it speaks. So the name is resolved, every address is posted to,
/// and the name is looked up again: at an interval, and as soon as a post failed.
struct Replicas {
    parts: Parts,
    endpoint: Arc<Endpoint>,
    host: String,
    port: u16,
    known: BTreeMap<SocketAddr, Replica>,
    failed: Arc<Notify>,
}

/// How an Alertmanager is called, whichever of its addresses is.
struct Endpoint {
    configured: config::Alertmanager,
    url: String,
    authorities: Vec<reqwest::Certificate>,
}

/// A task that posts to one address.
struct Replica {
    task: JoinHandle<()>,
    /// The newest post did not even reach it.
    unreachable: Arc<AtomicBool>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replicas {
    fn of(parts: &Parts, configured: &config::Alertmanager) -> Result<Self, String> {
        let failed = |what: String| format!("Alertmanager {}: {what}", configured.url);
        let mut authorities = Vec::new();
        if let Some(file) = &configured.ca_file {
            let pem = files::read(file, files::CERTIFICATES)
                .map_err(|e| failed(format!("{}: {e}", file.display())))?;
            authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(e.to_string()))?;
        }
        let url = format!("{}/api/v2/alerts", configured.url);
        let parsed = reqwest::Url::parse(&url).map_err(|e| failed(e.to_string()))?;
        let host = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = parsed.port_or_known_default().unwrap_or(80);
        let endpoint = Arc::new(Endpoint { configured: configured.clone(), url, authorities });
        // So that what cannot be used is said at the start, and not at the first alert.
        endpoint.client(parts, None).map_err(failed)?;
        Ok(Self {
            parts: parts.clone(),
            endpoint,
            host,
            port,
            known: BTreeMap::new(),
            failed: Arc::default(),
        })
    }

    async fn run(mut self) {
        self.look_after().await;
        // What is being posted now may be the last word of an alert.
        for replica in self.known.values_mut() {
            if (&mut replica.task).await.is_err() {
                tracing::error!(alertmanager = %self.endpoint.configured.url, "a poster panicked");
            }
        }
    }

    async fn look_after(&mut self) {
        loop {
            // Without an alert nobody is called, and no name is asked for.
            let mut alerts = self.parts.alerts.clone();
            tokio::select! {
                some = alerts.wait_for(|alerts| !alerts.is_empty()) => if some.is_err() { return },
                () = self.parts.stop.requested() => return,
            }
            self.look_up().await;
            let again = async {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_UP) => {}
                    // One that is away may have come back elsewhere; not at once, or a dead one asks without end.
                    () = async {
                        self.failed.notified().await;
                        tokio::time::sleep(RETRY).await;
                    } => {}
                }
            };
            tokio::select! {
                () = again => {}
                () = self.parts.stop.requested() => return,
            }
        }
    }

    /// Looks the name up, and lets a task post to each of its addresses; those that it no longer has are left. A name that
    /// cannot be looked up keeps the addresses that it had.
    async fn look_up(&mut self) {
        let found = (self.parts.resolve)(self.host.clone(), self.port).await;
        let addresses = match found {
            Ok(found) if !found.is_empty() => self.family(&found),
            // A proxy may know the name; else the post says what is wrong.
            _ if self.known.is_empty() => BTreeSet::from([NAME_ALONE]),
            _ => return,
        };
        self.known.retain(|address, _| addresses.contains(address));
        for address in addresses {
            if !self.known.contains_key(&address) {
                self.begin(address);
            }
        }
    }

    /// The addresses of one family: a host has one of each as a rule, and need not listen on both. The system's order says
    /// which is better; once none of that family can be reached, it is the other's turn.
    fn family(&self, found: &[SocketAddr]) -> BTreeSet<SocketAddr> {
        let lost = |v6: bool| {
            let mut of_it =
                self.known.iter().filter(|(a, _)| **a != NAME_ALONE && a.is_ipv6() == v6).peekable();
            of_it.peek().is_some() && of_it.all(|(_, replica)| replica.unreachable.load(Relaxed))
        };
        let known = self.known.keys().find(|address| **address != NAME_ALONE).map(SocketAddr::is_ipv6);
        let first = known.unwrap_or(found[0].is_ipv6());
        let v6 = if lost(first) && found.iter().any(|a| a.is_ipv6() != first) { !first } else { first };
        let of_family: BTreeSet<SocketAddr> = found.iter().copied().filter(|a| a.is_ipv6() == v6).collect();
        let of_family = if of_family.is_empty() { found.iter().copied().collect() } else { of_family };
        if of_family.len() > MOST_REPLICAS {
            let (alertmanager, addresses) = (&self.endpoint.configured.url, of_family.len());
            tracing::warn!(%alertmanager, addresses, "more addresses than are posted to: {MOST_REPLICAS}");
        }
        of_family.into_iter().take(MOST_REPLICAS).collect()
    }

    fn begin(&mut self, address: SocketAddr) {
        let client = match self.endpoint.client(&self.parts, Some(address).filter(|a| *a != NAME_ALONE)) {
            Ok(client) => client,
            Err(problem) => {
                tracing::warn!(alertmanager = %self.endpoint.configured.url, problem, "it is not posted to");
                return;
            }
        };
        let unreachable = Arc::<AtomicBool>::default();
        let pusher = Pusher {
            client,
            address,
            endpoint: self.endpoint.clone(),
            parts: self.parts.clone(),
            failed: self.failed.clone(),
            unreachable: unreachable.clone(),
        };
        self.known.insert(address, Replica { task: tokio::spawn(pusher.run()), unreachable });
    }
}

impl Endpoint {
    /// A client that reaches one address, or wherever the name leads. `Host` and the name in the certificate stay the name's.
    fn client(&self, parts: &Parts, to: Option<SocketAddr>) -> Result<reqwest::Client, String> {
        let mut client =
            outgoing::client(Redirects::Refused).timeout(TIMEOUT.min(parts.writer.alerts.hold / 3));
        for authority in &self.authorities {
            client = client.add_root_certificate(authority.clone());
        }
        let host = reqwest::Url::parse(&self.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        if let (Some(to), Some(host)) = (to, host) {
            client = client.resolve(&host, to);
        }
        client.build().map_err(|e| e.to_string())
    }
}

struct Pusher {
    client: reqwest::Client,
    address: SocketAddr,
    endpoint: Arc<Endpoint>,
    parts: Parts,
    failed: Arc<Notify>,
    unreachable: Arc<AtomicBool>,
}

impl Pusher {
    async fn run(mut self) {
        let every = self.parts.writer.alerts.hold / 3;
        let mut retry = RETRY;
        loop {
            let alerts = self.parts.alerts.borrow_and_update().clone();
            let pause = if alerts.is_empty() {
                None
            } else if self.post(&alerts).await {
                retry = RETRY;
                Some(jittered(every, self.parts.clock.now()))
            } else {
                let pause = jittered(retry, self.parts.clock.now());
                retry = (retry * 2).min(every);
                Some(pause)
            };
            let again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.parts.alerts.changed() => if changed.is_err() { return },
                () = again => {}
                () = self.parts.stop.requested() => return,
            }
        }
    }

    /// Posts; true if it was accepted.
    async fn post(&self, alerts: &[Alert]) -> bool {
        let now = self.parts.clock.now();
        let body: Vec<Posted> = alerts.iter().map(|alert| self.parts.writer.write(alert, now)).collect();
        let mut request = self.client.post(&self.endpoint.url).json(&body);
        if let Some(token) = &self.endpoint.configured.bearer_token {
            request = request.bearer_auth(token.expose_secret());
        }
        let sent = request.send().await;
        self.unreachable.store(sent.as_ref().is_err_and(reqwest::Error::is_connect), Relaxed);
        let problem = match sent {
            Ok(response) if response.status().is_success() => {
                self.parts.stats.alertmanager.sent.add(body.len() as u64);
                return true;
            }
            Ok(response) => {
                format!("answered {}", outgoing::refusal(response.status(), response.headers()))
            }
            // The URL may hold what should not be logged; the cause does not.
            Err(error) => error.without_url().to_string(),
        };
        self.parts.stats.alertmanager.failed.add(body.len() as u64);
        self.failed.notify_one();
        let address = (self.address != NAME_ALONE).then(|| tracing::field::display(self.address));
        tracing::warn!(alertmanager = %self.endpoint.configured.url, address, problem, "alerts were not accepted; trying again");
        false
    }
}

/// Up to a tenth less, so that a fleet does not post in step.
fn jittered(every: Duration, now: Timestamp) -> Duration {
    every.mul_f64(1.0 - 0.1 * chance(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Identity;
    use crate::limit::{Limiter, Scope, Window};
    use crate::owner::OwnerRule;
    use crate::route::{ModelGroup, Owner, OwnerId, OwnerKind, RouteName};

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn alert(owner: &str) -> Alert {
        Alert {
            name: AlertName::BucketExhausting,
            identity: Identity {
                owner: Owner { id: OwnerId::new(owner), kind: OwnerKind::AnthropicWorkspace },
                limiter: Limiter::INPUT_TOKENS,
                window: Window::Minute,
                scope: Scope::Account,
                model: ModelGroup::of_model("claude-opus-5-5"),
                region: None,
            },
            since: NOW,
            utilization: Some(0.87),
            empty_in: Some(Duration::from_secs(12)),
            route: RouteName::new("search-api"),
            detail: None,
        }
    }

    fn writer() -> Writer {
        let owner = OwnerRule {
            runbook_url: Some("https://wiki.example.com/search".into()),
            contact: Some("#search-oncall".into()),
            ..OwnerRule::named("search")
        };
        let alerts = config::Alerts {
            alertmanagers: Vec::new(),
            owner_label: "team".into(),
            labels: vec![("cluster".into(), "eu1".into())],
            hold: Duration::from_secs(60),
        };
        Writer { alerts, owners: Arc::new(Owners::new(vec![owner])), external_url: None }
    }

    #[test]
    fn an_alert_carries_identity_owner_and_runbook() {
        insta::assert_json_snapshot!(writer().write(&alert("search"), NOW.plus(Duration::from_secs(5))));
    }

    #[test]
    fn an_alert_never_ends_in_the_past_and_carries_nothing_of_the_pod() {
        let posted = writer().write(&alert("search"), NOW.plus(Duration::from_secs(900)));
        assert!(posted.ends_at > NOW.plus(Duration::from_secs(900)).rfc3339());
        for name in ["route", "pod", "instance", "host", "job"] {
            assert!(!posted.labels.contains_key(name));
        }
    }

    #[test]
    fn an_owner_without_a_runbook_gets_the_kinds() {
        let mut writer = writer();
        let url = |w: &Writer| w.write(&alert("unnamed"), NOW).annotations["runbook_url"].clone();
        assert!(url(&writer).ends_with("/runbooks/anthropic_workspace.md"));
        writer.external_url = Some("https://plimsoll.example.com/".into());
        assert_eq!(url(&writer), "https://plimsoll.example.com/runbooks/anthropic_workspace");
    }
}
