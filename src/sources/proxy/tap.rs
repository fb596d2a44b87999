//! Measures a call while it passes, and is never in its way.
//!
//! The path pays for: a scan of the request's bytes, a read of the response's head, a scan of the
//! answer's bytes. All of it is bounded, none of it waits, and a panic in it is caught: then the
//! call is counted without detail, and its bytes flow on. Totals are settled by a drop guard, so a
//! call that ends in whatever way (client gone, upstream broken, task dropped) is counted out.

use super::answer::{Answer, Said};
use super::decode::{DecoderBudget, Undecoded};
use super::identify::{self, Credentials};
use super::scan::Scanner;
use crate::clock::Clock;
use crate::config::Route;
use crate::dialects::{bedrock, places, vertex};
use crate::engine::proved_surface;
use crate::ledger::{InFlight, Ledger, TotalsKey};
use crate::limit::{Amount, Timestamp};
use crate::observation::{Call, End, Head, Limits, Observation, Outcome, RequestShape, Start};
use crate::overload::{Admitted, Overload};
use crate::owner::Owners;
use crate::route::{ModelGroup, ModelGroups, Surface};
use crate::stats::Stats;
use http::{HeaderMap, request, response};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::mpsc;

/// Longest value of a request member that is kept.
const MAX_MEMBER: usize = 256;

/// Members of a request that are looked for. Bedrock's Converse keeps its `maxTokens` in an object of its own.
const MEMBERS: [&str; 4] = ["model", "max_tokens", "stream", "inferenceConfig"];

/// Most model names that are remembered with their group.
const MAX_MODELS: usize = 1_000;

/// How a dialect reads a response head.
pub type ReadHead = fn(u16, &HeaderMap, Timestamp) -> Limits;

/// What every tap of a hop shares.
pub struct Meter {
    /// Totals.
    pub ledger: Arc<Ledger>,
    /// The queue to the engine.
    pub observations: mpsc::Sender<Observation>,
    /// Counters about ourselves.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Clock,
    /// Who holds which limits.
    pub owners: Arc<Owners>,
    /// Models that share a pool.
    pub groups: ModelGroups,
    /// Model names that were seen, with their groups.
    pub models: RwLock<HashMap<Box<[u8]>, ModelGroup>>,
    /// Names of credentials.
    pub credentials: Credentials,
    /// The dialect.
    pub read_head: ReadHead,
    /// The next call's id; shared over reloads.
    pub next_id: Arc<AtomicU64>,
    /// The memory of all open decoders; shared over reloads.
    pub decoders: DecoderBudget,
    /// How full the memory is; shared over reloads.
    pub overload: Overload,
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meter")
    }
}

impl Meter {
    /// Runs measuring code; a panic costs its result, never the call.
    fn guarded<T>(&self, measure: impl FnOnce() -> T) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(measure)).ok();
        if result.is_none() {
            self.stats.panics.up();
        }
        result
    }

    /// The group of a model named in JSON. Remembered: nearly every call names one of a few.
    fn model(&self, json: &[u8]) -> Option<ModelGroup> {
        let known = self.models.read().unwrap_or_else(PoisonError::into_inner).get(json).cloned();
        if known.is_some() {
            return known;
        }
        let id: String = serde_json::from_slice(json).ok()?;
        let group = self.groups.of(&id);
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if models.len() < MAX_MODELS {
            models.insert(json.into(), group.clone());
        }
        Some(group)
    }

    fn send(&self, observation: Observation) {
        if self.observations.try_send(observation).is_err() {
            self.stats.tap_dropped.up();
        }
    }
}

/// What has been seen of a request's body so far. Shared between the body on its way up and the
/// answer on its way down.
#[derive(Debug)]
pub struct RequestTap {
    meter: Arc<Meter>,
    call: Arc<Call>,
    passed: AtomicBool,
    bytes: AtomicU64,
    broken: AtomicBool,
    answered: AtomicBool,
    scanner: Mutex<Scanner<4>>,
    model: OnceLock<ModelGroup>,
}

impl RequestTap {
    /// How full the memory is.
    pub fn overload(&self) -> &Overload {
        &self.meter.overload
    }

    /// The client broke off in the middle of its request.
    pub fn broke_off(&self) {
        self.broken.store(true, Relaxed);
    }

    /// True if it did.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// True once the head of the response has come.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// True once the request has passed whole, or does not matter any more.
    pub fn has_passed(&self) -> bool {
        self.passed.load(Relaxed)
    }

    /// Bytes of the body that have passed.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Takes in the next bytes as they pass.
    pub fn feed(&self, bytes: &[u8]) {
        self.bytes.fetch_add(bytes.len() as u64, Relaxed);
        self.meter.guarded(|| self.scanner.lock().unwrap_or_else(PoisonError::into_inner).feed(bytes));
    }

    /// The request has passed whole. Told at once: its size is known long before its answer.
    pub fn passed(&self) {
        // An early refusal may end a call while its request still passes: then there is nothing to foresee.
        if self.passed.swap(true, Relaxed) {
            return;
        }
        self.meter.guarded(|| {
            self.meter.send(Observation::Start(Start {
                call: self.call.clone(),
                model: self.named_model(),
                at: self.meter.clock.now(),
                body_bytes: self.bytes.load(Relaxed),
                max_tokens: self.max_tokens(),
            }));
        });
    }

    /// The model: from the body, or from the path, where the clouds name it.
    fn named_model(&self) -> Option<ModelGroup> {
        if !self.call.surface.is_cloud() {
            let named = || places::model_of_path(&self.call.path).map(|id| self.meter.groups.of(&id));
            return self.model().or_else(named);
        }
        if let Some(model) = self.model.get() {
            return Some(model.clone());
        }
        let id = match places::model_of_path(&self.call.path) {
            Some(id) => id,
            None => {
                let scanner = self.scanner.lock().unwrap_or_else(PoisonError::into_inner);
                serde_json::from_slice::<String>(scanner.value(0)?).ok()?
            }
        };
        let pool = || match self.call.surface {
            Surface::Bedrock => bedrock::pool(&id, self.is_mantle()),
            _ => vertex::pool(&id, self.call.region.as_deref().unwrap_or_default()),
        };
        // Not by `model_groups`: pools of clouds are named as their quotas are.
        Some(self.model.get_or_init(pool).clone())
    }

    fn is_mantle(&self) -> bool {
        let host = self.call.upstream.split_once("://").map_or("", |(_, host)| host);
        places::is_mantle(host, &self.call.path)
    }

    fn max_tokens(&self) -> Option<Amount> {
        let scanner = self.scanner.lock().unwrap_or_else(PoisonError::into_inner);
        most(&scanner)
    }

    fn model(&self) -> Option<ModelGroup> {
        if let Some(model) = self.model.get() {
            return Some(model.clone());
        }
        let scanner = self.scanner.lock().unwrap_or_else(PoisonError::into_inner);
        let model = self.meter.model(scanner.value(0)?)?;
        Some(self.model.get_or_init(|| model).clone())
    }

    fn shape(&self) -> RequestShape {
        let scanner = self.scanner.lock().unwrap_or_else(PoisonError::into_inner);
        RequestShape {
            body_bytes: self.bytes.load(Relaxed),
            max_tokens: most(&scanner),
            stream: scanner.value(2).and_then(|v| serde_json::from_slice(v).ok()),
        }
    }
}

/// One call on its way. Settles it when dropped.
pub struct CallTap {
    meter: Arc<Meter>,
    in_flight: Arc<InFlight>,
    call: Arc<Call>,
    request: Arc<RequestTap>,
    concurrency: u64,
    status: Option<u16>,
    headed: Option<Timestamp>,
    limits: Arc<Limits>,
    answer: Option<Answer>,
    outcome: Outcome,
    settled: bool,
    /// Its place in what the memory may hold.
    admitted: Option<Admitted>,
}

impl CallTap {
    /// Keeps its place until the call is over.
    pub fn keep(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// Counts a call in.
    pub fn begin(
        meter: &Arc<Meter>,
        in_flight: &Arc<InFlight>,
        route: &Route,
        head: &request::Parts,
    ) -> Self {
        let concurrency = in_flight.enter();
        let (auth, credential) = meter.credentials.of(&head.headers);
        let client = identify::client(&head.headers);
        // Without the route's own prefix: pools and operations are told by the API's path.
        let path = head.uri.path();
        let path = path.strip_prefix(&route.prefix).filter(|rest| rest.starts_with('/')).unwrap_or(path);
        let surface = route.surface.unwrap_or_else(|| {
            let known = route.upstream.host().and_then(places::surface_of_host);
            match known.or_else(|| places::surface_of_path(path)) {
                Some(Surface::AnthropicApi) => identify::suggested_surface(auth, client),
                Some(surface) => surface,
                // Any upstream may stand in for the API (a test, a private endpoint); the answer's
                // header family will tell.
                None if path.starts_with("/v1/messages") => identify::suggested_surface(auth, client),
                None => Surface::Unknown,
            }
        });
        let (project, region) = project_and_region(route, surface, path, &head.headers);
        let text = |name: &str| {
            head.headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| v.len() <= MAX_MEMBER)
        };
        let call = Arc::new(Call {
            id: meter.next_id.fetch_add(1, Relaxed),
            route: route.name.clone(),
            surface,
            auth,
            credential,
            client,
            session: text("x-claude-code-session-id").map(Into::into),
            upstream: route.origin.clone(),
            region,
            project,
            started: meter.clock.now(),
            traceparent: text("traceparent").map(Into::into),
            method: head.method.clone(),
            path: cut(path).into(),
        });
        let account = call.cloud();
        let request = Arc::new(RequestTap {
            meter: meter.clone(),
            call: call.clone(),
            passed: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            scanner: Mutex::new(Scanner::new(MEMBERS, MAX_MEMBER)),
            model: OnceLock::new(),
        });
        Self {
            meter: meter.clone(),
            in_flight: in_flight.clone(),
            call,
            request,
            concurrency,
            status: None,
            headed: None,
            limits: Arc::new(Limits { account, ..Limits::default() }),
            answer: None,
            // Until something else is seen: the future was dropped because the client went away.
            outcome: Outcome::ClientGone,
            settled: false,
            admitted: None,
        }
    }

    /// The tap on the request's body.
    pub fn request(&self) -> Arc<RequestTap> {
        self.request.clone()
    }

    /// The surface whose API the caller speaks.
    pub(super) fn spoken(&self) -> Surface {
        super::own_response::spoken(self.call.surface, &self.call.path)
    }

    /// The response's head has come.
    pub fn head(&mut self, head: &response::Parts) {
        self.status = Some(head.status.as_u16());
        self.request.answered.store(true, Relaxed);
        let now = self.meter.clock.now();
        self.headed = Some(now);
        let read_head = self.meter.read_head;
        let limits = self.meter.guarded(|| read_head(head.status.as_u16(), &head.headers, now));
        let mut limits = limits.unwrap_or_default();
        limits.account = limits.account.in_cloud(&self.limits.account);
        self.limits = Arc::new(limits);
        self.meter.stats.complaints.add(u64::from(self.limits.complaints));
        self.answer = self.meter.guarded(|| Answer::new(head.status, &head.headers, &self.meter.decoders));
        self.meter.send(Observation::Head(Head {
            call: self.call.clone(),
            model: self.request.named_model(),
            at: now,
            status: head.status.as_u16(),
            limits: self.limits.clone(),
        }));
    }

    /// The next bytes of the answer have come.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Some(mut answer) = self.answer.take() {
            // A tap that panicked is not used again: its state is anyone's guess.
            self.answer = self.meter.guarded(move || {
                answer.feed(bytes);
                answer
            });
        }
    }

    /// The call is over.
    pub fn finish(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        self.settle();
    }

    fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.admitted = None;
        self.request.passed.store(true, Relaxed);
        let mut said = Said::default();
        if let Some(mut answer) = self.answer.take() {
            match answer.undecoded() {
                Some(Undecoded::Unreadable) => self.meter.stats.unread_bodies.up(),
                Some(Undecoded::NoMemory) => self.meter.stats.unmeasured_bodies.up(),
                None => {}
            }
            said = self.meter.guarded(|| answer.said()).unwrap_or_default();
        }
        // A body that nobody could read may have been counted in the head.
        said.usage = said.usage.or(self.limits.usage);
        let model =
            self.request.named_model().or_else(|| said.model.as_deref().map(|id| self.meter.groups.of(id)));
        let surface = proved_surface(self.call.surface, self.call.client, &self.limits);
        let owner = self.meter.owners.resolve(surface.owner_kind(), &self.limits.account, &self.call.route);
        let key = TotalsKey {
            route: self.call.route.clone(),
            surface,
            owner,
            model: model.clone().unwrap_or_else(ModelGroup::none),
            status: self.status.map(Into::into),
        };
        // An upgrade that was taken may carry calls; what else is no POST carries none.
        if self.call.asks_a_model() || self.status == Some(101) {
            self.meter.ledger.settle(key, said.usage);
        } else {
            self.meter.stats.routes.of(self.call.route.as_str()).other.up();
        }
        self.in_flight.leave();
        self.meter.send(Observation::End(Box::new(End {
            call: self.call.clone(),
            model,
            at: self.meter.clock.now(),
            headed: self.headed,
            status: self.status,
            outcome: self.outcome,
            limits: self.limits.clone(),
            request: self.request.shape(),
            concurrency: self.concurrency,
            usage: said.usage,
            error: said.error.map(Box::new),
        })));
    }
}

impl Drop for CallTap {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Whose quota of a cloud a call draws on: a path names it for sure, the configuration knows what the traffic does not
/// say.
fn project_and_region(
    route: &Route,
    surface: Surface,
    path: &str,
    headers: &HeaderMap,
) -> (Option<Arc<str>>, Option<Arc<str>>) {
    if !surface.is_cloud() {
        return (None, route.region.clone());
    }
    let host = route.upstream.host().unwrap_or_default();
    let (project, region) = places::project_and_region(surface, host, path);
    let project = project.map(Into::into).or_else(|| route.project.clone());
    let signed = || identify::signed_region(headers);
    let region = match surface {
        Surface::Vertex => region.map(Into::into).or_else(|| route.region.clone()),
        _ => route.region.clone().or_else(|| region.or_else(signed).map(Into::into)),
    };
    (project, region)
}

/// The longest answer that is asked for.
fn most(scanner: &Scanner<4>) -> Option<Amount> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InferenceConfig {
        max_tokens: u64,
    }
    let plain = scanner.value(1).and_then(|json| serde_json::from_slice(json).ok());
    let nested = || serde_json::from_slice(scanner.value(3)?).ok().map(|c: InferenceConfig| c.max_tokens);
    plain.or_else(nested).map(Amount::new)
}

/// A path as it is kept: bounded.
fn cut(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_MEMBER)]
}
