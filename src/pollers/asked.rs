//! Every quota API that may be asked, as one type: a new one is one file, one variant, and an arm that does not
//! compile while it is forgotten.

use super::anthropic;
#[cfg(feature = "aws")]
use super::bedrock;
use super::runner::{self, Failure, Parts, Poll, Schedule, State};
use super::shared::Shared;
use super::unusable::Unusable;
#[cfg(feature = "google")]
use super::vertex;
use crate::clock::Clock;
use crate::config::pollers::Pollers;
use crate::observation::{Observation, Quotas};
use crate::stats::Stats;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What one poll gives.
pub type Told = Arc<Quotas>;
/// What is known of a source.
pub type Known = watch::Receiver<State<Told>>;

/// How long one poll may take: many pages, each with the API's own patience.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// One quota API.
pub enum Asked {
    /// Limits of an Anthropic organisation.
    AnthropicLimits(Box<anthropic::Limits>),
    /// Its usage.
    AnthropicUsage(Box<anthropic::Usage>),
    /// Its cost.
    AnthropicSpend(Box<anthropic::Spend>),
    /// Limits that a poller of ours knows.
    Shared(Box<Shared>),
    /// Quotas of Bedrock in one region.
    #[cfg(feature = "aws")]
    BedrockLimits(Box<bedrock::Limits>),
    /// Its usage.
    #[cfg(feature = "aws")]
    BedrockUsage(Box<bedrock::Usage>),
    /// Quotas of Vertex AI in one project.
    #[cfg(feature = "google")]
    VertexLimits(Box<vertex::Limits>),
    /// Its usage.
    #[cfg(feature = "google")]
    VertexUsage(Box<vertex::Usage>),
}

impl Poll for Asked {
    type Value = Told;

    async fn wanted(&mut self) -> bool {
        match self {
            Self::AnthropicLimits(_) | Self::AnthropicSpend(_) | Self::Shared(_) => true,
            Self::AnthropicUsage(one) => one.wanted().await,
            #[cfg(feature = "aws")]
            Self::BedrockLimits(_) => true,
            #[cfg(feature = "aws")]
            Self::BedrockUsage(one) => one.wanted().await,
            #[cfg(feature = "google")]
            Self::VertexLimits(_) => true,
            #[cfg(feature = "google")]
            Self::VertexUsage(one) => one.wanted().await,
        }
    }

    async fn poll(&mut self) -> Result<Told, Failure> {
        match self {
            Self::AnthropicLimits(one) => one.poll().await,
            Self::AnthropicUsage(one) => one.poll().await,
            Self::AnthropicSpend(one) => one.poll().await,
            Self::Shared(one) => one.poll().await,
            #[cfg(feature = "aws")]
            Self::BedrockLimits(one) => one.poll().await,
            #[cfg(feature = "aws")]
            Self::BedrockUsage(one) => one.poll().await,
            #[cfg(feature = "google")]
            Self::VertexLimits(one) => one.poll().await,
            #[cfg(feature = "google")]
            Self::VertexUsage(one) => one.poll().await,
        }
    }
}

/// A quota API with its name and when it is asked.
pub struct Named {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// What asks.
    pub asked: Asked,
    /// When.
    pub interval: Duration,
    /// Where what it learns is shown to those that build on it, beside the engine.
    pub shown: Option<watch::Sender<State<Told>>>,
}

/// Everything that the configuration asks for, in the order in which it is first asked.
///
/// # Errors
/// If a client cannot be made. No request is sent, and without pollers nothing is made at all.
pub async fn all(pollers: &Pollers, stats: &Stats, clock: &Clock) -> Result<Vec<Named>, String> {
    let mut all = Vec::new();
    if let Some(config) = &pollers.anthropic {
        let api = || anthropic::Api::new(config, clock.clone());
        let unusable = |name: &str| Unusable::new(name.into(), stats.sources.of(name));
        let (shown, groups) = watch::channel(State::default());
        let [limits, usage, spend] = config.intervals;
        let mut named = |name: &str, asked, interval, shown| {
            all.push(Named { name: name.into(), asked, interval, shown });
        };
        let first = anthropic::Limits { api: api()?, unusable: unusable("anthropic_limits") };
        named("anthropic_limits", Asked::AnthropicLimits(Box::new(first)), limits, Some(shown));
        let second = anthropic::Usage { api: api()?, groups };
        named("anthropic_usage", Asked::AnthropicUsage(Box::new(second)), usage, None);
        let third = anthropic::Spend { api: api()?, unusable: unusable("anthropic_spend") };
        named("anthropic_spend", Asked::AnthropicSpend(Box::new(third)), spend, None);
    }
    if let Some(limits) = &pollers.limits {
        let asked = Asked::Shared(Box::new(Shared::new(&limits.url, clock.clone())?));
        all.push(Named { name: "limits".into(), asked, interval: limits.interval, shown: None });
    }
    #[cfg(feature = "aws")]
    for account in &pollers.aws {
        all.extend(bedrock::all(account, stats, clock).await);
    }
    #[cfg(feature = "google")]
    for project in &pollers.google {
        all.extend(vertex::all(project, stats, clock).await?);
    }
    Ok(all)
}

/// Starts all of them; what they learn goes to the engine, and before that to `named`, which keeps names.
pub fn spawn(
    all: Vec<Named>,
    stats: &Stats,
    clock: &Clock,
    observations: &mpsc::Sender<Observation>,
    named: &(impl Fn(&Quotas) + Clone + Send + 'static),
) -> Vec<JoinHandle<()>> {
    let start = |one: Named| {
        let parts = Parts {
            schedule: Schedule { interval: one.interval, timeout: TIMEOUT },
            polls: stats.sources.of(&one.name),
            name: one.name,
            clock: clock.clone(),
        };
        let (known, runner) = runner::spawn(one.asked, parts);
        [runner, tokio::spawn(hand_on(known, one.shown, observations.clone(), named.clone()))]
    };
    all.into_iter().flat_map(start).collect()
}

async fn hand_on(
    mut known: Known,
    shown: Option<watch::Sender<State<Told>>>,
    to: mpsc::Sender<Observation>,
    named: impl Fn(&Quotas),
) {
    let mut handed = None;
    while known.changed().await.is_ok() {
        let state = known.borrow_and_update().clone();
        let good = state.good.clone();
        if let Some(shown) = &shown {
            shown.send_replace(state);
        }
        // A poll can wait for room in the queue: nothing that passes waits for it.
        if let Some((at, told)) = good.filter(|(at, _)| handed != Some(*at)) {
            handed = Some(at);
            named(&told);
            if to.send(Observation::Quotas(told)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_pollers_nothing_is_made_and_nothing_asked() {
        let stats = Stats::default();
        let all = all(&Pollers::default(), &stats, &Clock::system()).await.unwrap();
        assert!(all.is_empty() && stats.sources.all().is_empty());
    }
}
