//! The only clock. Everything else is told the time.
//!
//! Wall time is read once and then carried forward by the monotonic clock, so that a step of the
//! system clock cannot make a bucket refill or an alert end; under tokio's paused time in tests it
//! stands still with the runtime. A step of more than two seconds is adopted (after suspend, the
//! provider's resets would otherwise be wrong for ever).

use crate::limit::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// A clock; clones agree.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Anchor>);

#[derive(Debug)]
struct Anchor {
    started: Instant,
    /// Wall time at `started`, in microseconds.
    wall: AtomicI64,
}

/// A step of the system clock larger than this is adopted.
const STEP: Duration = Duration::from_secs(2);

impl Clock {
    /// A clock that starts at the system's wall time.
    pub fn system() -> Self {
        Self(Arc::new(Anchor { started: Instant::now(), wall: AtomicI64::new(wall_micros()) }))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        let gone = i64::try_from(self.0.started.elapsed().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(self.0.wall.load(Relaxed).saturating_add(gone))
    }

    /// Adopts a step of the system clock.
    pub fn adopt_step(&self) -> Step {
        let off = wall_micros().saturating_sub(self.now().micros());
        let by = Duration::from_micros(off.unsigned_abs());
        if by <= STEP {
            return Step::None;
        }
        self.0.wall.fetch_add(off, Relaxed);
        if off < 0 { Step::Back(by) } else { Step::Forward(by) }
    }
}

/// A step of the system clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was none.
    None,
    /// Time was skipped (or the machine slept): it counts as time that passed.
    Forward(Duration),
    /// The clock was set back.
    Back(Duration),
}

/// A number from 0 to 1, 1 excluded, that differs from moment to moment and from pod to pod: for jitter, which needs
/// no more.
pub fn chance(now: Timestamp) -> f64 {
    now.micros().rem_euclid(1_000) as f64 / 1_000.0
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
fn wall_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
