//! The incidents of all routes: opens, eases and closes them, folds retries, sees route changes.
//!
//! A route's traffic mixes credentials and models, so a change is only one against what the route
//! showed before the incident: a value that is new while it is open. After a restart nothing is known
//! of before, and nothing is called a change until the route has been watched for a minute. Only calls
//! that began after the first failure say anything of an incident. Claude Code's retry count is always 0, so retries are folded by session and size, and
//! without a session by credential, model, size and time.

use super::alert::Identity;
use super::incident::{Attempt, Cause, Change, Incident, Over, What, name};
use crate::limit::Timestamp;
use crate::observation::{End, Fingerprint};
use crate::owner::{Class, Verdict};
use crate::route::{ModelGroup, Owner, OwnerKind, RouteName, Surface};
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Incidents that are kept after they are over.
const KEPT: usize = 64;
/// Most routes that are followed.
const MAX_ROUTES: usize = 512;
/// Most values of one kind that are remembered of a route. Beyond, new values are no news.
const MAX_SEEN: usize = 32;
/// Most calls whose retries are folded at a time.
const MAX_FOLDS: usize = 32;
/// How long a route is watched before a new value is a change.
const WATCHED: Duration = Duration::from_secs(60);
/// How long a retry may come after the attempt before it, beyond what that one asked to wait.
const RETRY: Duration = Duration::from_secs(120);
/// How long ago an upstream's refusal can be the cause of a cooldown.
const CAUSE: Duration = Duration::from_secs(15 * 60);

/// Something that happened to an incident, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It began.
    Opened,
    /// The same route failed again: the evidence is complete.
    FailedAgain,
    /// The route was changed.
    Changed,
    /// A smaller call passed.
    Eased,
    /// It is over.
    Over,
}

/// Values of one kind that a route has shown.
#[derive(Clone, Debug)]
struct Shown<T>(Vec<T>);

impl<T> Default for Shown<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq + Clone> Shown<T> {
    /// Notes a value. If it is new, and newness still says something: the one that was new before it.
    fn news(&mut self, value: &T) -> Option<T> {
        if self.0.contains(value) || self.0.len() >= MAX_SEEN {
            return None;
        }
        let before = self.0.last().cloned();
        self.0.push(value.clone());
        before
    }
}

/// One call whose retries are folded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fold {
    session: Option<Arc<str>>,
    credential: Option<Fingerprint>,
    model: Option<ModelGroup>,
    bytes: u64,
}

/// What is known of one route.
#[derive(Debug)]
struct Record {
    since: Timestamp,
    last_success: Option<Attempt>,
    open: Option<Incident>,
    /// The upstream's newest refusal.
    upstream: Option<Cause>,
    credentials: Shown<Option<Fingerprint>>,
    models: Shown<Option<ModelGroup>>,
    /// Of the hop, and of reports: behind a gateway the two see different ends of one call.
    surfaces: [Shown<Surface>; 2],
    upstreams: [Shown<Arc<str>>; 2],
    folds: VecDeque<(Fold, Timestamp)>,
}

/// What route changes are counted by.
pub type ChangeKey = (Identity, RouteName, What);

/// The incidents of all routes.
#[derive(Default)]
pub(super) struct Incidents {
    routes: HashMap<RouteName, Record, RandomState>,
    over: VecDeque<Arc<Incident>>,
    changes: HashMap<ChangeKey, u64, RandomState>,
    turns: Vec<(Turn, Incident)>,
    pub(super) folded: u64,
}

/// Most turns that wait for the log.
const MAX_TURNS: usize = 256;

impl Incidents {
    fn record(&mut self, route: &RouteName, now: Timestamp) -> Option<&mut Record> {
        if self.routes.len() >= MAX_ROUTES && !self.routes.contains_key(route) {
            self.folded += 1;
            return None;
        }
        Some(self.routes.entry(route.clone()).or_insert_with(|| Record {
            since: now,
            last_success: None,
            open: None,
            upstream: None,
            credentials: Shown::default(),
            models: Shown::default(),
            surfaces: <[_; 2]>::default(),
            upstreams: <[_; 2]>::default(),
            folds: VecDeque::new(),
        }))
    }

    fn turn(&mut self, turn: Turn, incident: Incident) {
        if self.turns.len() < MAX_TURNS {
            self.turns.push((turn, incident));
        }
    }

    /// Takes in a success. True if an alert may have changed.
    pub(super) fn success(&mut self, end: &End) -> bool {
        let attempt = Attempt::of(end);
        let Some(record) = self.record(&end.call.route, end.at) else { return false };
        let changed = record.changes(&attempt);
        let mut turns = Vec::new();
        let mut over = None;
        if let Some(incident) = record.open.as_mut().filter(|incident| incident.is_evidence(&attempt)) {
            if incident.is_comparable(&attempt) {
                incident.over = Some((attempt.at, Over::Passed));
                over = record.open.take();
            } else if incident.eased.replace(attempt.at).is_none() {
                turns.push((Turn::Eased, incident.clone()));
            }
        }
        // An open incident has its own copy of the one before it; this is for the next.
        if record.last_success.as_ref().is_none_or(|known| known.at <= attempt.at) {
            record.last_success = Some(attempt);
        }
        let ended = over.is_some();
        let news = self.count(changed, &end.call.route, &mut turns);
        if let Some(incident) = over {
            self.close(incident);
        }
        turns.into_iter().for_each(|(turn, incident)| self.turn(turn, incident));
        ended || news
    }

    /// Takes in a failure, whose limit it was, and what its alert is about. True if an alert may have
    /// changed.
    pub(super) fn failure(
        &mut self,
        end: &End,
        owner: &Owner,
        verdict: &Verdict,
        identity: Identity,
    ) -> bool {
        let attempt = Attempt::of(end);
        let route = end.call.route.clone();
        let Some(record) = self.record(&route, end.at) else { return false };
        // Overload is another matter than a limit, with another runbook: the one neither joins the
        // other's incident nor hides it.
        let overload = verdict.class == Class::ProviderOverload;
        let of_overload = record.open.as_ref().map(|i| i.verdict.class == Class::ProviderOverload);
        if overload && of_overload == Some(false) {
            return false;
        }
        let overtaken = if of_overload == Some(true) && !overload { record.open.take() } else { None };
        let cause = record.cause(verdict, &attempt);
        let changed = record.changes(&attempt);
        let retry = record.is_retry(end, &attempt);
        let turn = match &mut record.open {
            Some(incident) => {
                incident.cause = cause.or(incident.cause.take());
                incident.owner = owner.clone();
                incident.verdict = verdict.clone();
                incident.again(attempt, retry).then(|| (Turn::FailedAgain, incident.clone()))
            }
            None => {
                let incident = Incident {
                    id: name(attempt.at, &route),
                    route: route.clone(),
                    last_success: record.last_success.clone(),
                    first: attempt.clone(),
                    current: attempt,
                    failures: 1,
                    attempts: 1,
                    failed_again: false,
                    identity,
                    owner: owner.clone(),
                    verdict: verdict.clone(),
                    cause,
                    eased: None,
                    changes: Vec::new(),
                    alerting: false,
                    over: None,
                };
                record.open = Some(incident.clone());
                Some((Turn::Opened, incident))
            }
        };
        let mut turns: Vec<(Turn, Incident)> = turn.into_iter().collect();
        let taken = overtaken.is_some();
        if let Some(mut incident) = overtaken {
            incident.over = Some((end.at, Over::Overtaken));
            self.close(incident);
        }
        let news = self.count(changed, &route, &mut turns);
        turns.into_iter().for_each(|(turn, incident)| self.turn(turn, incident));
        news || taken
    }

    /// Counts changes of a route and notes them for the log; true if one was new.
    fn count(&mut self, changes: Vec<Change>, route: &RouteName, turns: &mut Vec<(Turn, Incident)>) -> bool {
        let noted = turns.len();
        for change in changes {
            let Some(incident) = self.routes.get_mut(route).and_then(|r| r.open.as_mut()) else { break };
            let what = change.what;
            if !incident.change(change) {
                continue;
            }
            let incident = incident.clone();
            let key = (incident.identity.clone(), route.clone(), what);
            if self.changes.len() < MAX_ROUTES || self.changes.contains_key(&key) {
                *self.changes.entry(key).or_default() += 1;
            } else {
                self.folded += 1;
            }
            turns.push((Turn::Changed, incident));
        }
        turns.len() > noted
    }

    fn close(&mut self, incident: Incident) {
        self.turn(Turn::Over, incident.clone());
        if self.over.len() >= KEPT {
            self.over.pop_front();
        }
        self.over.push_back(Arc::new(incident));
    }

    /// Lets time pass: what has long been quiet is over. True if an alert may have changed.
    pub(super) fn tick(&mut self, now: Timestamp) -> bool {
        let (mut quiet, mut calmed) = (Vec::new(), false);
        for record in self.routes.values_mut() {
            calmed |= record.open.as_mut().is_some_and(|incident| incident.calm(now));
            let long = record.open.as_ref().is_some_and(|i| now.since(i.current.at) >= i.patience());
            if long && let Some(mut incident) = record.open.take() {
                incident.over = Some((now, Over::Quiet));
                quiet.push(incident);
            }
        }
        let any = calmed || !quiet.is_empty();
        quiet.into_iter().for_each(|incident| self.close(incident));
        any
    }

    /// The clock was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        for record in self.routes.values_mut() {
            record.since = record.since.minus(by);
            record.last_success.iter_mut().for_each(|success| success.set_back(by));
            record.open.iter_mut().for_each(|incident| incident.set_back(by));
            record.upstream.iter_mut().for_each(|cause| cause.at = cause.at.minus(by));
            record.folds.iter_mut().for_each(|(_, until)| *until = until.minus(by));
        }
    }

    /// New owners: the alert of an owner that is gone ends. The incident itself stays, as what happened.
    pub(super) fn reconfigure(&mut self, known: impl Fn(&Owner) -> bool) {
        for incident in self.routes.values_mut().filter_map(|record| record.open.as_mut()) {
            incident.alerting &= known(&incident.identity.owner);
        }
    }

    /// What happened since this was last asked.
    pub(super) fn take_turns(&mut self) -> Vec<(Turn, Incident)> {
        std::mem::take(&mut self.turns)
    }

    /// Every incident that is open.
    pub(super) fn open(&self) -> impl Iterator<Item = &Incident> {
        self.routes.values().filter_map(|record| record.open.as_ref())
    }

    /// Every incident that is known, newest first. Only the open ones are copied: what is over stays as it is.
    pub(super) fn all(&self) -> Vec<Arc<Incident>> {
        let open = self.open().cloned().map(Arc::new);
        let mut all: Vec<Arc<Incident>> = open.chain(self.over.iter().cloned()).collect();
        all.sort_by(|a, b| b.first.at.cmp(&a.first.at).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// Route changes so far, sorted.
    pub(super) fn changes(&self) -> Vec<(ChangeKey, u64)> {
        let mut all: Vec<(ChangeKey, u64)> = self.changes.iter().map(|(k, n)| (k.clone(), *n)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl Record {
    /// What is new in this attempt against all that the route showed before; empty unless an
    /// incident is open on a route that was known before it.
    fn changes(&mut self, attempt: &Attempt) -> Vec<Change> {
        let told = attempt.reported();
        let surface = self.surfaces[usize::from(told)].news(&attempt.surface);
        let upstream = self.upstreams[usize::from(told)].news(&attempt.upstream);
        let credential = self.credentials.news(&attempt.credential.fingerprint).is_some();
        let model = self.models.news(&attempt.model).is_some();
        let Some(incident) = &self.open else { return Vec::new() };
        let first = &incident.first;
        if first.at.since(self.since) < WATCHED || attempt.started < first.at {
            return Vec::new();
        }
        let change = |what, from: String, to: String| Change { at: attempt.at, what, from, to, hashes: None };
        let name = |a: &Attempt| format!("{} ({})", a.credential.label(), a.auth.as_str());
        let mut all = Vec::new();
        let of_plans = |s: Surface| {
            matches!(
                s.owner_kind(),
                OwnerKind::ClaudePlan | OwnerKind::ClaudeCodeWorkspace | OwnerKind::AnthropicWorkspace
            )
        };
        // The way before: the incident's first, if the same kind of teller saw it.
        let (from_upstream, from_surface) = if first.reported() == told {
            (&first.upstream, first.surface)
        } else {
            (upstream.as_ref().unwrap_or(&attempt.upstream), surface.unwrap_or(attempt.surface))
        };
        if upstream.is_some() || (surface.is_some() && !(of_plans(from_surface) && of_plans(attempt.surface)))
        {
            let way = |upstream: &str, surface: Surface| format!("{upstream} ({})", surface.as_str());
            let to = way(&attempt.upstream, attempt.surface);
            all.push(change(What::Provider, way(from_upstream, from_surface), to));
        } else if surface.is_some() {
            all.push(change(
                What::Plan,
                from_surface.as_str().to_owned(),
                attempt.surface.as_str().to_owned(),
            ));
        } else if credential && attempt.credential.fingerprint.is_some() {
            let hashes = first.credential.fingerprint.zip(attempt.credential.fingerprint);
            all.push(Change { hashes, ..change(What::Credential, name(first), name(attempt)) });
        }
        if model && attempt.model.is_some() {
            let model = |a: &Attempt| a.model.as_ref().map_or("not stated", ModelGroup::as_str).to_owned();
            all.push(change(What::Model, model(first), model(attempt)));
        }
        all
    }

    /// Remembers an upstream's refusal, and finds it again behind a gateway's cooldown.
    fn cause(&mut self, verdict: &Verdict, attempt: &Attempt) -> Option<Cause> {
        if verdict.rule.cooldown {
            return self.upstream.clone().filter(|cause| attempt.at.since(cause.at) <= CAUSE);
        }
        let upstream =
            verdict.class.is_limit() && !matches!(verdict.class, Class::GatewayTenant | Class::Unknown);
        if upstream {
            let request_id = attempt.limits.request_id.clone();
            self.upstream = Some(Cause { at: attempt.at, verdict: verdict.clone(), request_id });
        }
        None
    }

    /// True if this failure is another attempt of a call that failed already.
    fn is_retry(&mut self, end: &End, attempt: &Attempt) -> bool {
        let fold = Fold {
            session: end.call.session.clone(),
            credential: attempt.credential.fingerprint,
            model: attempt.model.clone(),
            bytes: attempt.input_bytes,
        };
        let wait = attempt.limits.retry_after.unwrap_or_default() + RETRY;
        if let Some((_, until)) = self.folds.iter_mut().find(|(known, _)| *known == fold) {
            let folded = attempt.at <= *until;
            *until = attempt.at.plus(wait);
            return folded;
        }
        if self.folds.len() >= MAX_FOLDS {
            self.folds.pop_front();
        }
        self.folds.push_back((fold, attempt.at.plus(wait)));
        false
    }
}
