//! What asks quota APIs and gateways: one part for each, so that a reload starts those anew that changed and leaves
//! the others alone. What an API bills in a month is counted by a part; a key that another one rotated must not
//! forget it.

use super::Shared;
use crate::clock::Clock;
use crate::config::pollers::Pollers;
use crate::engine::task::Rules;
use crate::observation::{Observation, Quotas};
use crate::owner::Names;
use crate::pollers::asked::{self, Named};
use crate::pollers::gateways;
use crate::sources::intake::Intake;
use crate::stats::Stats;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a part needs to run.
pub(super) struct Around<'a> {
    pub(super) shared: &'a Shared,
    pub(super) stats: &'a Arc<Stats>,
    pub(super) clock: &'a Clock,
    pub(super) names: &'a Names,
    pub(super) rules: &'a watch::Sender<Rules>,
    pub(super) intake: &'a Intake,
}

/// One that asks.
struct Asker {
    /// Its configuration, alone.
    config: Pollers,
    sources: Vec<Arc<str>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One that is ready to ask.
pub(super) struct Ready {
    config: Pollers,
    all: Vec<Named>,
}

/// All that ask.
#[derive(Default)]
pub(super) struct Asking(Vec<Asker>);

/// The configuration of each part, alone.
fn parts(config: &Pollers) -> Vec<Pollers> {
    let none = Pollers::default;
    let Pollers { anthropic, aws, google, gateways, limits } = config.clone();
    let mut parts = Vec::new();
    parts.extend(anthropic.map(|one| Pollers { anthropic: Some(one), ..none() }));
    parts.extend(limits.map(|one| Pollers { limits: Some(one), ..none() }));
    parts.extend(aws.into_iter().map(|one| Pollers { aws: vec![one], ..none() }));
    parts.extend(google.into_iter().map(|one| Pollers { google: vec![one], ..none() }));
    parts.extend(gateways.into_iter().map(|one| Pollers { gateways: vec![one], ..none() }));
    parts
}

impl Asking {
    /// Makes the parts of a configuration that do not run yet; those that cannot be made come with the reason.
    pub(super) async fn ready(&self, config: &Pollers, around: &Around<'_>) -> Vec<Result<Ready, String>> {
        let mut made = Vec::new();
        for config in parts(config) {
            if self.0.iter().any(|asker| asker.config == config) {
                continue;
            }
            let gateways = config.gateways.iter();
            let gateways = gateways.map(|one| gateways::Asked::of(one, around.stats, around.clock).map(drop));
            made.push(match gateways.collect::<Result<(), String>>() {
                Ok(()) => {
                    let all = asked::all(&config, around.stats, around.clock).await;
                    all.map(|all| Ready { config, all })
                }
                Err(problem) => Err(problem),
            });
        }
        made
    }

    /// Starts what was made and ends what the configuration no longer has.
    pub(super) async fn commit(&mut self, config: &Pollers, ready: Vec<Ready>, around: &Around<'_>) {
        let wanted = parts(config);
        let (kept, gone): (Vec<Asker>, Vec<Asker>) =
            std::mem::take(&mut self.0).into_iter().partition(|asker| wanted.contains(&asker.config));
        self.0 = kept;
        let before: Vec<Arc<str>> = gone.iter().flat_map(|asker| asker.sources.clone()).collect();
        drop(gone);
        for part in ready {
            match start(part, around) {
                Ok(asker) => self.0.push(asker),
                Err(problem) => tracing::error!(problem, "a gateway cannot be asked"),
            }
        }
        let runs = |name: &Arc<str>| self.0.iter().any(|asker| asker.sources.contains(name));
        for name in before.into_iter().filter(|name| !runs(name)) {
            around.stats.sources.forget(&name);
            // What it told is true no longer.
            let nothing = Arc::new(Quotas::of(name, around.clock.now(), Vec::new()));
            if around.shared.observations.send(Observation::Quotas(nothing)).await.is_err() {
                tracing::error!("the engine is gone");
            }
        }
    }
}

fn start(ready: Ready, around: &Around<'_>) -> Result<Asker, String> {
    let Around { shared, stats, clock, names, rules, intake } = *around;
    let Ready { config, all } = ready;
    let (names, rules) = (names.clone(), rules.clone());
    let named = move |told: &Quotas| {
        // Who owns what may be another now: the engine looks again.
        if !told.workspaces.is_empty() && names.replace(&told.workspaces) {
            rules.send_modify(|_| {});
        }
    };
    let mut sources: Vec<Arc<str>> = all.iter().map(|one| one.name.clone()).collect();
    sources.extend(config.gateways.iter().map(|one| format!("gateway:{}", one.name).into()));
    let told = intake.clone();
    let tell = move |source: &str, seen| {
        told.teller(source).tell(seen);
    };
    let mut tasks = asked::spawn(all, stats, clock, &shared.observations, &named);
    tasks.extend(gateways::spawn(&config.gateways, stats, clock, &shared.observations, &tell)?);
    Ok(Asker { config, sources, tasks })
}
