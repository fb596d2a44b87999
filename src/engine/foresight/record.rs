//! An alert's own record: how often it came true here, and whether it may still speak.
//!
//! A rule that is right on one route cries wolf on another. Each rung of the forecast runs as a *shadow*
//! first: it begins and ends by the rules of the real alert, and is found right if a refusal or a nearly
//! empty bucket follows. Only a rung whose shadow has been right often enough speaks aloud. Old verdicts
//! fade, so that a route that changes is judged anew.

/// Seconds without a refusal before another warning makes sense.
const PEACE: f64 = 30.0;
/// Seconds between two warnings.
const REST: f64 = 6.0;
/// Seconds of a low score that end a warning while little is left.
const HOLD: f64 = 30.0;
/// The same once the bucket has room again.
const HOLD_ROOM: f64 = 8.0;
/// The part left that counts as room.
const ROOM: f64 = 0.3;
/// Longest life of a warning, in seconds: a forecast that has not come true by then was wrong.
const LIFE: f64 = 75.0;
/// What part of its threshold a score must stay below to count as low.
const LOW: f64 = 0.6;
/// Seconds after its end within which a shadow may still come true.
const GRACE: f64 = 60.0;
/// What one further verdict leaves of the old ones.
const FADE: f64 = 0.95;
/// What is assumed before anything is known: four right of five.
const PRIOR: (f64, f64) = (4.0, 5.0);
/// Shadows that wait for their verdict. More than six cannot end within the grace: each lives for [`HOLD_ROOM`]
/// at least, and rests.
const PENDING: usize = 8;

/// What presses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressing {
    pub(super) score: f64,
    /// The smallest part left of any bucket.
    pub(super) left: f64,
    /// It is a forecast, which has to come true within a warning's life. What is all but empty is a fact.
    pub(super) ages: bool,
}

/// A warning's life, by the rules that the real one and its shadow share.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Life {
    began: Option<f64>,
    /// Since when the score is low.
    low_since: Option<f64>,
    ended: Option<f64>,
    /// It ended by age: no other before the score was low once.
    spent: bool,
}

impl Life {
    pub(super) fn began(&self) -> Option<f64> {
        self.began
    }

    /// Lets it begin, live on or end. True if it is up.
    pub(super) fn step(
        &mut self,
        pressing: Pressing,
        threshold: f64,
        may: bool,
        refused: Option<f64>,
        now: f64,
    ) -> bool {
        let Pressing { score, left, ages } = pressing;
        let low = score < LOW * threshold;
        self.spent &= !low && ages;
        match self.began {
            None => {
                let rested = self.ended.is_none_or(|at| now - at >= REST);
                let peace = refused.is_none_or(|at| now - at >= PEACE);
                if may && score >= threshold && rested && peace && !self.spent {
                    self.began = Some(now);
                    self.low_since = None;
                }
            }
            Some(began) => {
                self.low_since = low.then(|| self.low_since.unwrap_or(now));
                let hold = if left >= ROOM { HOLD_ROOM } else { HOLD };
                let calm = self.low_since.is_some_and(|since| now - since >= hold);
                let old = ages && now - began >= LIFE;
                if calm || old {
                    self.end(now);
                    self.spent = old && !low;
                }
            }
        }
        self.began.is_some()
    }

    /// Ends it at once.
    pub(super) fn end(&mut self, now: f64) {
        self.spent = false;
        if self.began.take().is_some() {
            self.ended = Some(now);
        }
    }
}

/// One rung: its shadow, and how often that was right.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rung {
    /// The score at which it speaks.
    pub(super) threshold: f64,
    shadow: Life,
    /// It has come true while up.
    proved: bool,
    right: f64,
    wrong: f64,
    /// When shadows ended that may still come true.
    pending: [Option<f64>; PENDING],
}

impl Rung {
    pub(super) fn new(threshold: f64) -> Self {
        Self {
            threshold,
            shadow: Life::default(),
            proved: false,
            right: 0.0,
            wrong: 0.0,
            pending: [None; PENDING],
        }
    }

    /// Lets the shadow live on, and takes what has become of the earlier ones.
    pub(super) fn step(&mut self, score: f64, least: f64, refused: Option<f64>, now: f64) {
        let was = self.shadow.began();
        self.shadow.step(Pressing { score, left: least, ages: true }, self.threshold, true, refused, now);
        if was.is_some() && self.shadow.began().is_none() {
            if std::mem::take(&mut self.proved) {
                self.judge(true);
            } else {
                self.wait(now);
            }
        }
        let mut failed = 0;
        for pending in &mut self.pending {
            if pending.is_some_and(|ended| now - ended > GRACE) {
                *pending = None;
                failed += 1;
            }
        }
        (0..failed).for_each(|_| self.judge(false));
    }

    fn judge(&mut self, right: bool) {
        let (right, wrong) = if right { (1.0, 0.0) } else { (0.0, 1.0) };
        (self.right, self.wrong) = (self.right * FADE + right, self.wrong * FADE + wrong);
    }

    fn wait(&mut self, ended: f64) {
        if let Some(free) = self.pending.iter_mut().find(|pending| pending.is_none()) {
            *free = Some(ended);
        }
    }

    /// A refusal, or a bucket that is all but empty: the shadow that is up and those that wait were
    /// right. A refusal ends the shadow as well.
    pub(super) fn came_true(&mut self, refused: bool, now: f64) {
        let waiting = self.pending.iter().flatten().count();
        self.pending = [None; PENDING];
        self.proved |= self.shadow.began().is_some();
        let over = refused && std::mem::take(&mut self.proved);
        if over {
            self.shadow.end(now);
        }
        (0..waiting + usize::from(over)).for_each(|_| self.judge(true));
    }

    /// True if its shadow is up and has earned a hearing: right in at least `wanted` of the cases.
    pub(super) fn speaks(&self, score: f64, wanted: f64) -> bool {
        let share = (self.right + PRIOR.0) / (self.right + self.wrong + PRIOR.1);
        self.shadow.began().is_some() && score >= self.threshold && share >= wanted
    }
}
