//! How well the verdicts fit labelled samples: the confusion table that `explain --score` prints.

use super::{Answer, Response};
use std::collections::BTreeMap;

/// How well the verdicts fit labelled samples: the table that `explain --score` prints.
#[derive(Debug, Default)]
pub struct Score {
    rows: BTreeMap<String, BTreeMap<&'static str, u32>>,
    right: u32,
    sure: (u32, u32),
    ambiguous: (u32, u32),
    total: u32,
    misses: Vec<String>,
}

impl Score {
    /// Counts one labelled sample.
    pub fn add(&mut self, sample: &Response, answer: &Answer) {
        let Some(label) = &sample.label else { return };
        let hit = label == answer.verdict;
        let alt = sample.alt.as_ref().is_some_and(|alt| alt.iter().any(|a| a == answer.verdict));
        if matches!(answer.confidence, "exact" | "high") {
            self.sure.1 += 1;
            self.sure.0 += u32::from(hit || (sample.ambiguous && alt));
        }
        if sample.ambiguous {
            self.ambiguous.1 += 1;
            self.ambiguous.0 += u32::from(hit || alt);
            return;
        }
        self.total += 1;
        self.right += u32::from(hit);
        if !hit {
            let id = sample.id.as_ref().map(ToString::to_string).unwrap_or_default();
            self.misses.push(format!("  {id}: {label}, said {} ({})", answer.verdict, answer.rule));
        }
        *self.rows.entry(label.clone()).or_default().entry(answer.verdict).or_default() += 1;
    }

    /// Share of the unambiguous samples that were judged right.
    pub fn right(&self) -> f64 {
        f64::from(self.right) / f64::from(self.total.max(1))
    }

    /// Share of right answers over the samples whose label is one of `labels`.
    pub fn right_among(&self, labels: &[&str]) -> f64 {
        let (mut right, mut total) = (0, 0);
        for (label, said) in self.rows.iter().filter(|(label, _)| labels.contains(&label.as_str())) {
            total += said.values().sum::<u32>();
            right += said.iter().filter(|(verdict, _)| *verdict == label).map(|(_, n)| n).sum::<u32>();
        }
        f64::from(right) / f64::from(total.max(1))
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:<22} {:>5} {:>6}  otherwise said", "label (unambiguous)", "right", "of")?;
        for (label, said) in &self.rows {
            let right: u32 = said.iter().filter(|(v, _)| *v == label).map(|(_, n)| n).sum();
            let wrong: Vec<String> =
                said.iter().filter(|(v, _)| *v != label).map(|(v, n)| format!("{v} {n}")).collect();
            writeln!(f, "{label:<22} {right:>5} {:>6}  {}", said.values().sum::<u32>(), wrong.join(", "))?;
        }
        writeln!(f, "{:<22} {:>5} {:>6}  {:.1} %", "all", self.right, self.total, 100.0 * self.right())?;
        writeln!(f, "{:<22} {:>5} {:>6}", "ambiguous, label or alt", self.ambiguous.0, self.ambiguous.1)?;
        writeln!(f, "{:<22} {:>5} {:>6}", "said at high or exact", self.sure.0, self.sure.1)?;
        if !self.misses.is_empty() {
            writeln!(f, "misses:\n{}", self.misses.join("\n"))?;
        }
        Ok(())
    }
}
