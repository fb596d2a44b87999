//! Recorded responses through the engine: a backtest on one's own traffic.
//!
//! One JSON object a line, in order of `t` (DESIGN, "Contracts"): what `plimsoll run --record` writes,
//! and what anybody can make of a log. `t` is when the answer ended, `headed` when its head came (the
//! same, if absent), `started` when its request had passed. Starts are put in the order of `started`:
//! demand shows there first. Memory is bounded by the calls of some minutes, not by the file.

use super::drive::{Driver, Raised};
use crate::dialects;
use crate::engine::{BookLimits, Thresholds};
use crate::limit::Timestamp;
use crate::observation::{End, Head, Report, Start};
use crate::owner::Owners;
use crate::recorded::Line;
use crate::route::ModelGroups;
use crate::seen::{Maker, Place, Seen};
use std::collections::BinaryHeap;
use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

/// What came of a log.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Responses that were read.
    pub responses: usize,
    /// Refusals by a limit among them, by status.
    pub refused: usize,
    /// Lines that could not be read.
    pub broken: usize,
    /// The first of them: its number, and what is wrong with it.
    pub first_broken: Option<(usize, String)>,
    /// Lines that stood before an earlier one.
    pub out_of_order: usize,
    /// Alerts, in order of their beginning.
    pub raised: Vec<Raised>,
}

/// What a configuration gives a replay.
pub struct Setting {
    /// Who holds which limits.
    pub owners: Arc<Owners>,
    /// When alerts begin and end.
    pub thresholds: Thresholds,
    /// Bounds of the book.
    pub limits: BookLimits,
    /// Models that share a pool.
    pub groups: ModelGroups,
}

/// How far a start may lie behind the end of its call and still be put in its place.
const LOOK_AHEAD: Duration = Duration::from_secs(600);
/// How long time goes on after the last line, so that alerts end as they would have.
const AFTER: Duration = Duration::from_secs(600);
/// Longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;
/// Seconds since the epoch that are a time of our days.
const TIMES: std::ops::RangeInclusive<f64> = 0.0..=4e9;

/// Reads a log and replays it.
///
/// # Errors
/// If the source itself cannot be read.
pub fn replay(source: &mut dyn BufRead, setting: &Setting) -> std::io::Result<Replayed> {
    let mut replay = Replay {
        setting,
        done: Replayed::default(),
        driver: None,
        steps: BinaryHeap::new(),
        newest: Timestamp::default(),
        order: 0,
    };
    let (mut number, mut text) = (0, Vec::new());
    while read_line(source, &mut text)? {
        number += 1;
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match parse(&text) {
            Ok(line) => replay.line(line),
            Err(problem) => {
                replay.done.broken += 1;
                replay.done.first_broken.get_or_insert((number, problem));
            }
        }
    }
    Ok(replay.finish())
}

/// Reads a line of at most [`MAX_LINE`] bytes; of a longer one the rest is skipped. False at the end.
fn read_line(source: &mut dyn BufRead, text: &mut Vec<u8>) -> std::io::Result<bool> {
    text.clear();
    loop {
        let buffer = source.fill_buf()?;
        if buffer.is_empty() {
            return Ok(!text.is_empty());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        // One byte more than is allowed, so that the line is seen to be too long.
        text.extend_from_slice(&buffer[..taken.min((MAX_LINE + 1).saturating_sub(text.len()))]);
        let used = end.map_or(taken, |at| at + 1);
        source.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn parse(text: &[u8]) -> Result<Line, String> {
    if text.len() > MAX_LINE {
        return Err(format!("longer than {MAX_LINE} bytes"));
    }
    let line: Line = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let times = [line.t, line.started, line.headed];
    if line.t.is_none() {
        return Err("missing field `t`".to_owned());
    }
    match times.into_iter().flatten().find(|time| !TIMES.contains(time)) {
        Some(time) => Err(format!("{time} is no time in Unix seconds")),
        None => Ok(line),
    }
}

enum Told {
    Start(Start),
    Head(Head),
    End(Box<End>),
}

/// A step with its place in time; of equal times the one that was read first comes first.
struct Step(Timestamp, u64, Told);

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Step {}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Step {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the largest: the earliest must be that.
        (other.0, other.1).cmp(&(self.0, self.1))
    }
}

struct Replay<'a> {
    setting: &'a Setting,
    done: Replayed,
    driver: Option<Driver<'a>>,
    steps: BinaryHeap<Step>,
    newest: Timestamp,
    order: u64,
}

impl Replay<'_> {
    fn line(&mut self, line: Line) {
        self.done.responses += 1;
        let ended = Timestamp::from_secs_f64(line.t.unwrap_or_default());
        self.done.refused += usize::from(line.status == Some(429));
        self.done.out_of_order += usize::from(ended < self.newest);
        self.newest = self.newest.max(ended);
        let [start, head, end] = self.steps_of(line, ended);
        for (at, told) in [start, head, end].into_iter().flatten() {
            self.order += 1;
            self.steps.push(Step(at, self.order, told));
        }
        while self.steps.peek().is_some_and(|step| self.newest.since(step.0) > LOOK_AHEAD) {
            self.pop();
        }
    }

    /// The steps of a call, where they are known.
    fn steps_of(&self, line: Line, ended: Timestamp) -> [Option<(Timestamp, Told)>; 3] {
        let route = line.route.clone();
        let mut seen = Seen::from(line);
        // Four bytes a token, where the bytes were not recorded: what English takes.
        let guess = seen.usage.map(|usage| usage.input.get().saturating_mul(4));
        seen.request_bytes = seen.request_bytes.or(guess);
        seen.whole = true;
        let before_end = |at: Option<Timestamp>| at.map(|at| at.min(ended));
        (seen.headed, seen.started) = (before_end(seen.headed), before_end(seen.started));
        let source = Arc::from("replay");
        let maker = Maker { source: &source, groups: &self.setting.groups, read_head: dialects::read_head };
        let place = Place::named(route.as_deref().unwrap_or("replay"));
        let (report, _) = maker.report(seen, place, self.done.responses as u64, ended);
        let Report { start, head, end, .. } = *report;
        [
            // In its own place in time, unlike a report that comes while the engine's time has gone on.
            start.map(|start| (start.call.started, Told::Start(Start { at: start.call.started, ..start }))),
            head.map(|head| (head.at, Told::Head(head))),
            end.map(|end| (end.at, Told::End(end))),
        ]
    }

    fn pop(&mut self) {
        let Some(Step(at, _, told)) = self.steps.pop() else { return };
        let driver = self.driver.get_or_insert_with(|| {
            let Setting { owners, thresholds, limits, .. } = self.setting;
            Driver::new(owners.clone(), *thresholds, *limits, at)
        });
        match told {
            Told::Start(start) => driver.start(&start),
            Told::Head(head) => driver.head(&head),
            Told::End(end) => driver.end(end),
        }
    }

    fn finish(mut self) -> Replayed {
        while !self.steps.is_empty() {
            self.pop();
        }
        if let Some(mut driver) = self.driver {
            driver.tick_until(self.newest.plus(AFTER));
            self.done.raised = driver.finish();
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::AlertName;

    fn setting() -> Setting {
        Setting {
            owners: Arc::new(Owners::default()),
            thresholds: Thresholds::default(),
            limits: BookLimits::default(),
            groups: ModelGroups::new(Vec::new()),
        }
    }

    fn line(t: u32, remaining: u32, status: u16) -> String {
        format!(
            r#"{{"t":{},"started":{},"route":"api","status":{status},"model":"claude-opus-5-5","input_tokens":2000,"output_tokens":10,"headers":{{"anthropic-ratelimit-input-tokens-limit":"60000","anthropic-ratelimit-input-tokens-remaining":"{remaining}"}}}}"#,
            1_790_000_000 + t,
            1_790_000_000 + t.saturating_sub(1),
        )
    }

    /// A minute's bucket, drained at a net 1,000 a second and then refused.
    fn drain() -> Vec<String> {
        let mut lines: Vec<String> = (1..60).map(|t| line(t, 60_000 - 1_000 * t, 200)).collect();
        lines.extend((60..63).map(|t| line(t, 0, 429)));
        lines
    }

    #[test]
    fn a_drain_is_announced_before_its_refusals_and_every_alert_ends() {
        let replayed = replay(&mut drain().join("\n").as_bytes(), &setting()).unwrap();
        assert_eq!((replayed.responses, replayed.refused, replayed.broken), (62, 3, 0));
        let first = |name| replayed.raised.iter().find(|raised| raised.name == name).unwrap();
        let pressure = first(AlertName::BucketPressure);
        assert_eq!(pressure.identity.limiter.as_str(), "input_tokens");
        assert_eq!(pressure.identity.owner.kind.as_str(), "anthropic_workspace");
        assert!(pressure.from < Timestamp::from_secs(1_790_000_050), "{pressure:?}");
        assert!(first(AlertName::Throttled).from >= Timestamp::from_secs(1_790_000_060));
        assert!(replayed.raised.iter().all(|raised| raised.to.is_some()), "{:?}", replayed.raised);
    }

    #[test]
    fn broken_lines_spoil_only_themselves_and_are_counted() {
        let whole = replay(&mut drain().join("\n").as_bytes(), &setting()).unwrap();
        let mut lines = drain();
        lines.insert(3, "{".to_owned());
        lines.insert(30, r#"{"t":1e30,"status":200}"#.to_owned());
        lines.insert(31, r#"{"status":200}"#.to_owned());
        lines.insert(40, "x".repeat(MAX_LINE + 10));
        lines.push(String::new());
        let replayed = replay(&mut lines.join("\n").as_bytes(), &setting()).unwrap();
        assert_eq!((replayed.broken, replayed.first_broken.as_ref().unwrap().0), (4, 4));
        assert_eq!(replayed.raised, whole.raised);
    }

    #[test]
    fn lines_out_of_order_and_twice_are_counted_and_give_no_false_alarm() {
        let mut lines: Vec<String> = (1..200).map(|t| line(t, 58_000, 200)).collect();
        lines.swap(20, 90);
        let twice: Vec<String> = lines.iter().flat_map(|line| [line.clone(), line.clone()]).collect();
        let replayed = replay(&mut twice.join("\n").as_bytes(), &setting()).unwrap();
        assert!(replayed.out_of_order > 0);
        assert_eq!(replayed.raised, []);
    }

    #[test]
    fn what_is_no_text_at_all_is_survived() {
        let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
        let replayed = replay(&mut bytes.as_slice(), &setting()).unwrap();
        assert_eq!((replayed.responses, replayed.raised.len()), (0, 0));
        assert!(replayed.broken > 0);
    }
}
