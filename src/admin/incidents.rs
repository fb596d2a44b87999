//! Incidents and their evidence packets on the admin port: `GET /v1/incidents`, `GET /v1/evidence`.

use super::plain;
use crate::engine::{Incident, Snapshot};
use crate::evidence::packet::{Context, Status};
use crate::evidence::{Packet, Scrubber, packet};
use crate::exporters::catalogue::Facts;
use crate::exporters::tap::Tap;
use crate::limit::Timestamp;
use crate::pollers::status_page::Words;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Uri, header};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// Most of the file with `claude auth status` that is read.
const MAX_STATUS: u64 = 8 * 1024;

/// The desk, which a reload may put in place anew; clones are the same one.
#[derive(Clone, Debug)]
pub struct Desks(Arc<ArcSwap<Desk>>);

impl Desks {
    /// This desk, until there is another.
    pub fn new(desk: Desk) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(desk)))
    }

    /// Puts another in its place.
    pub fn replace(&self, desk: Desk) {
        self.0.store(Arc::new(desk));
    }

    /// The one that is in place.
    pub fn now(&self) -> Arc<Desk> {
        self.0.load_full()
    }
}

/// What incidents are answered from.
#[derive(Clone, Debug)]
pub struct Desk {
    /// What the engine knows.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Calls as they end.
    pub tap: Tap,
    /// The configured owners.
    pub facts: Arc<Facts>,
    /// Where people reach this sidecar.
    pub external_url: Option<String>,
    /// Takes out what must not be shown.
    pub scrubber: Arc<ArcSwap<Scrubber>>,
    /// What the status page says, where it is read.
    pub status: Option<watch::Receiver<Words>>,
    /// What `claude auth status` printed, where somebody keeps it.
    pub claude_status_file: Option<PathBuf>,
}

impl Desk {
    /// `GET /v1/state`: what the page shows.
    pub(super) fn state(&self) -> Response<Full<Bytes>> {
        let snapshot = self.snapshots.borrow().clone();
        match serde_json::to_string(&super::state::State::of(&self.seen(&snapshot))) {
            Ok(text) => typed("application/json", text),
            Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "The state could not be written.\n"),
        }
    }

    /// A snapshot with what makes it readable.
    pub(super) fn seen<'a>(&'a self, snapshot: &'a Snapshot) -> super::state::Seen<'a> {
        let external_url = self.external_url.as_deref();
        super::state::Seen { snapshot, facts: &self.facts, external_url }
    }

    /// `GET /v1/incidents`.
    pub(super) fn list(&self) -> Response<Full<Bytes>> {
        let snapshot = self.snapshots.borrow().clone();
        let all: Vec<Value> = snapshot.incidents.iter().map(|incident| row(incident)).collect();
        typed("application/json", Value::from(all).to_string())
    }

    /// `GET /v1/evidence?incident=…&owner=…&format=md|json`. Without an incident: the newest one that is
    /// open, else the newest one.
    pub(super) async fn evidence(&self, uri: &Uri) -> Response<Full<Bytes>> {
        let asked = |name: &str| parameter(uri.query().unwrap_or_default(), name);
        let (id, owner) = (asked("incident"), asked("owner"));
        let snapshot = self.snapshots.borrow().clone();
        let fits = |incident: &&Incident| {
            id.as_deref().is_none_or(|id| &*incident.id == id)
                && owner.as_deref().is_none_or(|owner| incident.owner.id.as_str() == owner)
        };
        let fitting: Vec<&Incident> = snapshot.incidents.iter().map(Arc::as_ref).filter(fits).collect();
        let Some(incident) = fitting.iter().find(|i| i.is_open()).or(fitting.first()) else {
            return plain(StatusCode::NOT_FOUND, "No such incident; GET /v1/incidents lists them.\n");
        };
        let packet = self.packet(incident, &self.status().await);
        match asked("format").as_deref() {
            Some("json") => match serde_json::to_string(&packet) {
                Ok(text) => typed("application/json", text),
                Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "The packet could not be written.\n"),
            },
            None | Some("md") => typed("text/markdown; charset=utf-8", packet.to_string()),
            Some(_) => plain(StatusCode::BAD_REQUEST, "format is `md` or `json`.\n"),
        }
    }

    pub(super) fn packet(&self, incident: &Incident, status: &Status) -> Packet {
        let owners = self.facts.owners.load();
        let context = Context {
            owners: &owners,
            external_url: self.external_url.as_deref(),
            scrubber: &self.scrubber.load(),
            status,
        };
        packet(incident, &context)
    }

    pub(super) async fn status(&self) -> Status {
        let page = self.status.as_ref().and_then(|status| newest(&status.borrow()));
        let mut claude = None;
        if let Some(path) = &self.claude_status_file
            && let Ok(file) = tokio::fs::File::open(path).await
        {
            let mut text = String::new();
            // A file that is no text is as good as none.
            claude = file.take(MAX_STATUS).read_to_string(&mut text).await.ok().map(|_| text);
        }
        Status { page, claude }
    }
}

/// What is known of the status page, and since when: its words, or why they could not be read.
fn newest(words: &Words) -> Option<(Timestamp, String)> {
    match (&words.failure, &words.good) {
        (Some((at, why)), None) => Some((*at, format!("could not be read: {why}"))),
        (Some((at, why)), Some((_, before))) => {
            Some((*at, format!("could not be read: {why}; the time before: {before}")))
        }
        (None, good) => good.clone(),
    }
}

/// An incident in a list.
fn row(incident: &Incident) -> Value {
    let verdict = &incident.verdict;
    let changes = incident.changes.iter().map(|c| c.what.as_str()).collect::<Vec<_>>();
    json!({
        "id": &*incident.id,
        "route": incident.route.as_str(),
        "open": incident.is_open(),
        "ready": crate::evidence::packet::missing(incident).is_empty(),
        "verdict": verdict.class.as_str(),
        "owner": incident.owner.id.as_str(),
        "owner_kind": verdict.owner_kind.as_str(),
        "limiter": verdict.limiter.as_ref().map(|l| l.as_str()),
        "confidence": verdict.rule.confidence.as_str(),
        "first_at": incident.first.at.secs_f64(),
        "current_at": incident.current.at.secs_f64(),
        "failures": incident.failures,
        "refusals": incident.attempts,
        "changes": changes,
    })
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let value = value.replace('+', " ");
    Some(percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

fn typed(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::OK, &text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
