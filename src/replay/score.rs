//! Scores of alerts against what came (DESIGN, "The backtest"; keep them as they are pinned there).
//!
//! An *episode* is a first 429 after 60 s without one. An alert *announces* it only if it began after
//! the previous episode ended and at most 120 s before the 429, and is up, or ended less than 15 s
//! ago, when it comes. Alerts at most 5 s apart are one announcement. *Precision* counts fresh alerts,
//! those not begun inside a running episode: right if a 429 came, or a bucket fell below 5 %, within
//! 120 s. *False time* is the share of calm time with an alert up.

use super::provider::Run;
use serde::Serialize;

/// Silence after which a further 429 is another episode.
const EPISODE: f64 = 60.0;
/// How long before the 429 an announcement counts, and how long an alert has to come true.
const AHEAD: f64 = 120.0;
/// How long ago an alert may have ended that still announces.
const ENDED: f64 = 15.0;
/// Alerts this close are one announcement.
const MERGE: f64 = 5.0;

/// An alert: when it began and when it ended.
pub type Span = (f64, f64);

/// What a policy scored on one run, as counts, so that runs can be pooled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Seconds of lead of each episode; absent for one that nothing announced.
    pub leads: Vec<Option<f64>>,
    /// Lead as a share of the time since every bucket last stood at 90 %, of each episode.
    pub captured: Vec<f64>,
    /// Fresh alerts that came true.
    pub right: u32,
    /// Fresh alerts.
    pub fresh: u32,
    /// Seconds of calm with an alert up.
    pub false_secs: f64,
    /// Seconds of calm.
    pub calm_secs: f64,
}

/// The scores as people read them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// First 429s.
    pub episodes: usize,
    /// Share of episodes announced at least 1 s ahead.
    pub recall_1s: Option<f64>,
    /// At least 5 s ahead.
    pub recall_5s: Option<f64>,
    /// At least 10 s ahead.
    pub recall_10s: Option<f64>,
    /// At least 30 s ahead.
    pub recall_30s: Option<f64>,
    /// Median lead of the announced ones, in seconds.
    pub median_lead_s: Option<f64>,
    /// Mean share of the physical room that the lead took.
    pub captured: Option<f64>,
    /// Share of fresh alerts that came true.
    pub precision: Option<f64>,
    /// Fresh alerts.
    pub alerts: u32,
    /// Share of calm time with an alert up.
    pub false_time: Option<f64>,
}

impl Tally {
    /// Adds another run's.
    pub fn pool(&mut self, other: &Self) {
        self.leads.extend(&other.leads);
        self.captured.extend(&other.captured);
        self.right += other.right;
        self.fresh += other.fresh;
        self.false_secs += other.false_secs;
        self.calm_secs += other.calm_secs;
    }

    /// The scores of what was counted.
    pub fn scores(&self) -> Scores {
        let episodes = self.leads.len();
        let share = |n: f64, of: f64| (of > 0.0).then(|| n / of);
        let recall = |least: f64| {
            let ahead = self.leads.iter().flatten().filter(|lead| **lead >= least).count();
            share(ahead as f64, episodes as f64)
        };
        let mut leads: Vec<f64> = self.leads.iter().flatten().copied().collect();
        leads.sort_by(f64::total_cmp);
        Scores {
            episodes,
            recall_1s: recall(1.0),
            recall_5s: recall(5.0),
            recall_10s: recall(10.0),
            recall_30s: recall(30.0),
            median_lead_s: leads.get(leads.len() / 2).copied(),
            captured: share(self.captured.iter().sum(), episodes as f64),
            precision: share(f64::from(self.right), f64::from(self.fresh)),
            alerts: self.fresh,
            false_time: share(self.false_secs, self.calm_secs),
        }
    }
}

/// First and last 429 of each episode.
pub fn episodes(refused: &[f64]) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for at in refused {
        match all.last_mut() {
            Some((_, last)) if at - *last < EPISODE => *last = *at,
            _ => all.push((*at, *at)),
        }
    }
    all
}

/// Announcements: alerts at most 5 s apart are one.
pub fn merged(alerts: &[Span]) -> Vec<Span> {
    let mut sorted = alerts.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut all: Vec<Span> = Vec::new();
    for (start, end) in sorted {
        match all.last_mut() {
            Some((_, last)) if start - *last <= MERGE => *last = last.max(end),
            _ => all.push((start, end)),
        }
    }
    all
}

/// Scores alerts on a run.
pub fn tally(run: &Run, alerts: &[Span]) -> Tally {
    let (episodes, alerts) = (episodes(&run.refused), merged(alerts));
    let mut tally = Tally::default();
    let mut previous = f64::NEG_INFINITY;
    for (first, last) in &episodes {
        let announces = |(start, end): &&Span| {
            *start > previous && *start < *first && first - start <= AHEAD && *end > first - ENDED
        };
        let lead = alerts.iter().find(announces).map(|(start, _)| first - start);
        let full = run.full.partition_point(|at| at < first);
        let room = full.checked_sub(1).map_or(*first, |at| first - run.full[at]);
        tally.leads.push(lead);
        tally.captured.push(lead.map_or(0.0, |lead| if room > 0.0 { (lead / room).min(1.0) } else { 1.0 }));
        previous = *last;
    }
    let comes = |times: &[f64], start: f64| {
        let next = times.partition_point(|at| *at < start);
        times.get(next).is_some_and(|at| at - start <= AHEAD)
    };
    for (start, _) in &alerts {
        if !episodes.iter().any(|(first, last)| first <= start && start <= last) {
            tally.fresh += 1;
            tally.right += u32::from(comes(&run.refused, *start) || comes(&run.low, *start));
        }
    }
    let busy: Vec<Span> = merged_exactly(episodes.iter().map(|(first, last)| (first - EPISODE, *last)));
    tally.calm_secs = run.length - overlap(&busy, &[(0.0, run.length)]);
    let up = merged_exactly(alerts.iter().copied());
    tally.false_secs = overlap(&up, &[(0.0, run.length)]) - overlap(&up, &busy);
    tally
}

fn merged_exactly(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut all: Vec<Span> = Vec::new();
    for (start, end) in spans {
        match all.last_mut() {
            Some((_, last)) if start <= *last => *last = last.max(end),
            _ => all.push((start, end)),
        }
    }
    all
}

/// Seconds that two lists of disjoint spans have in common; the first within the bounds of the run.
fn overlap(a: &[Span], b: &[Span]) -> f64 {
    let common = |x: &Span, y: &Span| (x.1.min(y.1) - x.0.max(y.0).max(0.0)).max(0.0);
    a.iter().map(|x| b.iter().map(|y| common(x, y)).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(refused: &[f64]) -> Run {
        Run { refused: refused.to_vec(), full: vec![80.0], length: 1_000.0, ..Run::default() }
    }

    #[test]
    fn an_alert_that_began_before_the_429_announces_it() {
        let tally = tally(&run(&[100.0, 110.0, 500.0]), &[(90.0, 100.0), (200.0, 230.0)]);
        assert_eq!(tally.leads, [Some(10.0), None]);
        assert_eq!(tally.captured[0], 0.5, "10 s of the 20 since all stood at 90 %");
        assert_eq!((tally.right, tally.fresh), (1, 2));
        assert_eq!(tally.calm_secs, 1_000.0 - 70.0 - 60.0);
        assert_eq!(tally.false_secs, 30.0);
    }

    #[test]
    fn what_began_inside_an_episode_too_early_or_had_ended_announces_nothing() {
        for alert in [(105.0, 600.0), (370.0, 600.0), (450.0, 480.0)] {
            let tally = tally(&run(&[100.0, 110.0, 500.0]), &[alert]);
            assert_eq!(tally.leads[1], None, "{alert:?}");
        }
        let inside = tally(&run(&[100.0, 110.0]), &[(105.0, 108.0)]);
        assert_eq!(inside.fresh, 0, "no fresh alert");
    }

    #[test]
    fn alerts_close_together_are_one_announcement() {
        let tally = tally(&run(&[100.0]), &[(80.0, 84.0), (88.0, 100.0)]);
        assert_eq!((tally.leads[0], tally.fresh), (Some(20.0), 1));
    }
}
