//! The one runner of all pollers: when each asks, how long it may take, and what is kept.
//!
//! A poller says what it asks for; everything else is here, so that no poller can forget it. Polls do not
//! overlap, have a time limit, and come at an interval with jitter, so that a fleet does not ask at once. A
//! failed one is tried again after a wait that doubles up to the interval, and not before the moment that a
//! `Retry-After` names. The last good value stays, with its age: a poll that fails makes nothing
//! unknown that was known.

use crate::clock::{Clock, chance};
use crate::limit::Timestamp;
use crate::stats::Polls;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// First wait after a failure.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Longest wait that a `Retry-After` is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// Longest message of a failure that is kept.
const MAX_MESSAGE: usize = 200;

/// What asks.
pub trait Poll: Send + 'static {
    /// What it learns.
    type Value: Clone + Send + Sync + 'static;

    /// Waits until there is a reason to ask; false if there never will be again. At once, unless it says
    /// otherwise.
    fn wanted(&mut self) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// Asks once.
    fn poll(&mut self) -> impl Future<Output = Result<Self::Value, Failure>> + Send;
}

/// Why a poll gave nothing. The message names no secret and no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// How long the other side asks to wait.
    pub retry_after: Option<Duration>,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { message, retry_after: None }
    }
}

/// When a poller asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How often.
    pub interval: Duration,
    /// How long one poll may take.
    pub timeout: Duration,
}

impl Schedule {
    /// The wait before the next poll; `chance` is a number from 0 to 1.
    pub fn wait(&self, failures: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
        let jittered = |span: Duration| span.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0));
        if failures == 0 {
            return jittered(self.interval);
        }
        let doubled = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16)).min(self.interval);
        // Never before the moment that was asked for: jitter only adds to it.
        let asked = retry_after.unwrap_or_default().min(LONGEST_WAIT);
        jittered(doubled).max(asked.mul_f64(1.0 + 0.1 * chance.clamp(0.0, 1.0)))
    }
}

/// What is known of a source: the last good value and the last failure, each with its time.
#[derive(Clone, Debug)]
pub struct State<V> {
    /// What was learnt last, and when.
    pub good: Option<(Timestamp, V)>,
    /// Why the newest poll gave nothing; absent if it gave something.
    pub failure: Option<(Timestamp, String)>,
}

impl<V> Default for State<V> {
    fn default() -> Self {
        Self { good: None, failure: None }
    }
}

/// Gives up a list whose pages do not end.
///
/// # Errors
/// If there have been `most` of them.
pub fn bounded(page: usize, most: usize, what: &str) -> Result<(), Failure> {
    if page < most { Ok(()) } else { Err(Failure::from(format!("{what}: its pages do not end"))) }
}

/// Waits until another source has been asked once, whatever it said; false if it never will be.
pub async fn asked_once<V>(other: &mut watch::Receiver<State<V>>) -> bool {
    other.wait_for(|state| state.good.is_some() || state.failure.is_some()).await.is_ok()
}

/// What a poller runs with, beside itself.
pub struct Parts {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// When it asks.
    pub schedule: Schedule,
    /// Where its polls are counted.
    pub polls: Arc<Polls>,
    /// The time.
    pub clock: Clock,
}

/// Starts a poller. It ends when nobody looks at what it learns any more, or when it says so itself.
pub fn spawn<P: Poll>(poller: P, parts: Parts) -> (watch::Receiver<State<P::Value>>, JoinHandle<()>) {
    let (tx, rx) = watch::channel(State::default());
    (rx, tokio::spawn(run(poller, parts, tx)))
}

async fn run<P: Poll>(mut poller: P, parts: Parts, known: watch::Sender<State<P::Value>>) {
    let Parts { name, schedule, polls, clock } = parts;
    polls.interval.set(schedule.interval.as_secs());
    let mut failures = 0_u32;
    while poller.wanted().await && !known.is_closed() {
        let began = tokio::time::Instant::now();
        let asked = tokio::time::timeout(schedule.timeout, poller.poll()).await;
        polls.last_millis.set(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let late = || Failure::from(format!("no answer within {} s", schedule.timeout.as_secs_f64()));
        let now = clock.now();
        let mut retry_after = None;
        match asked.unwrap_or_else(|_| Err(late())) {
            Ok(value) => {
                failures = 0;
                polls.ok.up();
                polls.last_ok.set(u64::try_from(now.micros() / 1_000_000).unwrap_or(0));
                known.send_replace(State { good: Some((now, value)), failure: None });
            }
            Err(failure) => {
                failures = failures.saturating_add(1);
                polls.failed.up();
                retry_after = failure.retry_after;
                let message: String =
                    failure.message.chars().filter(|c| !crate::text::unseen(*c)).take(MAX_MESSAGE).collect();
                tracing::warn!(source = %name, failures, "poll failed: {message}");
                known.send_modify(|state| state.failure = Some((now, message)));
            }
        }
        polls.failing.set(u64::from(failures));
        tokio::select! {
            () = tokio::time::sleep(schedule.wait(failures, retry_after, chance(now))) => {}
            () = known.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    const HOURLY: Schedule =
        Schedule { interval: Duration::from_secs(3_600), timeout: Duration::from_secs(10) };

    proptest! {
        #[test]
        fn waits_are_within_their_bounds(
            failures in 0_u32..100,
            asked in prop::option::of(0_u64..100_000),
            chance in 0.0_f64..1.0,
        ) {
            let asked = asked.map(Duration::from_secs);
            let wait = HOURLY.wait(failures, asked, chance);
            prop_assert!(wait >= FIRST_WAIT.mul_f64(0.9));
            prop_assert!(wait <= HOURLY.interval.mul_f64(1.11).max(LONGEST_WAIT.mul_f64(1.11)));
            if failures > 0 {
                prop_assert!(wait >= asked.unwrap_or_default().min(LONGEST_WAIT), "Retry-After is honoured");
            }
        }
    }

    #[test]
    fn waits_double_up_to_the_interval() {
        let waits: Vec<u64> = (1..12).map(|n| HOURLY.wait(n, None, 0.5).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600]);
    }

    /// Answers as scripted; notes when it was asked, and that no two polls overlap.
    struct Scripted {
        answers: VecDeque<Result<u32, Failure>>,
        asked: Arc<Mutex<Vec<tokio::time::Instant>>>,
    }

    impl Poll for Scripted {
        type Value = u32;

        async fn poll(&mut self) -> Result<u32, Failure> {
            self.asked.lock().unwrap().push(tokio::time::Instant::now());
            match self.answers.pop_front() {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
    }

    fn parts(polls: &Arc<Polls>) -> Parts {
        Parts { name: "scripted".into(), schedule: HOURLY, polls: polls.clone(), clock: Clock::system() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_poll_keeps_the_last_good_value_and_waits_as_asked() {
        let (polls, asked) = (Arc::new(Polls::default()), Arc::new(Mutex::new(Vec::new())));
        let wait = Some(Duration::from_secs(600));
        let refused = Failure { message: "429\u{7}".to_owned(), retry_after: wait };
        let answers = VecDeque::from([Ok(1), Err(refused), Ok(2)]);
        let (mut known, task) = spawn(Scripted { answers, asked: asked.clone() }, parts(&polls));
        let failed = known.wait_for(|state| state.failure.is_some()).await.unwrap().clone();
        assert_eq!(failed.good.map(|(_, value)| value), Some(1), "nothing known becomes unknown");
        assert_eq!(failed.failure.unwrap().1, "429");
        assert_eq!(polls.failing.get(), 1);
        known.wait_for(|state| state.good.as_ref().is_some_and(|(_, value)| *value == 2)).await.unwrap();
        let times = asked.lock().unwrap().clone();
        assert!(times[2] - times[1] >= Duration::from_secs(600));
        assert_eq!((polls.ok.get(), polls.failed.get()), (2, 1));
        assert!(polls.last_ok.get() > 0);
        drop(known);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_hangs_is_cut_off_and_told() {
        let (polls, asked) = (Arc::new(Polls::default()), Arc::default());
        let (mut known, _task) = spawn(Scripted { answers: VecDeque::new(), asked }, parts(&polls));
        let state = known.wait_for(|state| state.failure.is_some()).await.unwrap().clone();
        assert_eq!(state.failure.unwrap().1, "no answer within 10 s");
        assert!(state.good.is_none());
    }
}
