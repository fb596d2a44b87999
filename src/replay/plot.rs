//! Plots as SVG: a run's level, forecast, alerts and 429s; and the trade-off of the knobs.
//!
//! Written by hand because SVG is text: a chart library would bring fonts to draw four kinds of line.
//! Colours follow the reader's light or dark setting, and nothing is fetched.

use super::provider::Run;
use super::report::Point;
use super::simulated;
use crate::engine::{AlertName, Book, Thresholds};
use crate::limit::Timestamp;

const WIDTH: f64 = 1_200.0;
const HEIGHT: f64 = 320.0;
/// Room for labels: left, and below.
const LEFT: f64 = 46.0;
const BELOW: f64 = 44.0;
/// Points of a line at most: more than the plot is wide helps nobody.
const POINTS: usize = 2_400;

const STYLE: &str = "<style>
text{font:12px system-ui,sans-serif;fill:#333}.axis{stroke:#bbb;stroke-width:1}
.level{fill:none;stroke:#1f6feb;stroke-width:1.2}.forecast{fill:#8250df}
.warning{fill:#d4a72c;opacity:.35}.critical{fill:#cf222e;opacity:.35}.refused{stroke:#cf222e;stroke-width:1}
@media(prefers-color-scheme:dark){text{fill:#ccc}.axis{stroke:#555}}
</style>";

fn open(title: &str) -> Vec<String> {
    vec![format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n{STYLE}"
    )]
}

/// Where a share from 0 to 1 lies.
fn height(share: f64) -> f64 {
    20.0 + (1.0 - share.clamp(0.0, 1.0)) * (HEIGHT - 20.0 - BELOW)
}

fn axes(svg: &mut Vec<String>, below: &[(f64, String)]) {
    for share in [0.0, 0.5, 1.0] {
        let y = height(share);
        svg.push(format!(
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"4\" y=\"{:.1}\">{:.0} %</text>",
            y + 4.0,
            share * 100.0
        ));
    }
    for (x, label) in below {
        let y = HEIGHT - BELOW + 16.0;
        svg.push(format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>"));
    }
}

/// A run: what is left of the emptiest bucket, when the engine thinks it is empty, its alerts, the 429s.
pub fn timeline(title: &str, run: &Run, thresholds: Thresholds) -> String {
    let (mut forecast, mut next) = (Vec::new(), 0.0);
    let mut watch = |book: &Book, at: Timestamp| {
        let secs = simulated::secs(at);
        if secs >= next {
            next = secs + 1.0;
            let soonest = book.snapshot(at).buckets.iter().filter_map(|bucket| bucket.empty_in).min();
            forecast.extend(soonest.map(|empty_in| (secs, empty_in)));
        }
    };
    let raised = simulated::drive(run, thresholds, Some(&mut watch));
    let x = |secs: f64| LEFT + secs / run.length.max(1.0) * (WIDTH - LEFT);
    let minutes = (run.length / 60.0).ceil() as u32;
    let every = (minutes / 12).max(1) as usize;
    let labels: Vec<_> =
        (0..=minutes).step_by(every).map(|m| (x(f64::from(m) * 60.0), format!("{m} min"))).collect();
    let mut svg = open(title);
    axes(&mut svg, &labels);
    for (name, class) in [(AlertName::BucketPressure, "warning"), (AlertName::BucketExhausting, "critical")] {
        for (from, to) in simulated::spans(run, &raised, |raised| raised == name) {
            let (x, wide, tall) = (x(from), (x(to) - x(from)).max(1.0), HEIGHT - 20.0 - BELOW);
            svg.push(format!(
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"20\" width=\"{wide:.1}\" height=\"{tall}\"/>"
            ));
        }
    }
    let step = (run.level.len() / POINTS).max(1);
    let level: Vec<String> = run
        .level
        .iter()
        .step_by(step)
        .map(|(at, share)| format!("{:.1},{:.1}", x(*at), height(*share)))
        .collect();
    svg.push(format!("<polyline class=\"level\" points=\"{}\"/>", level.join(" ")));
    for (at, empty_in) in forecast.iter().step_by((forecast.len() / POINTS).max(1)) {
        let (x, y) = (x(*at), height(empty_in.as_secs_f64() / 60.0));
        svg.push(format!("<circle class=\"forecast\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.2\"/>"));
    }
    let mut last = f64::NEG_INFINITY;
    for at in &run.refused {
        let x = x(*at);
        // One tick for each half pixel is all that can be seen.
        if x - last >= 0.5 {
            last = x;
            let (y, end) = (height(0.0), height(0.0) + 8.0);
            svg.push(format!(
                "<line class=\"refused\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{end:.1}\"/>"
            ));
        }
    }
    let legend = "blue: left of the emptiest bucket · violet: time to empty (100 % = 60 s) · yellow: warning · red: critical · red ticks: 429s";
    svg.push(format!("<text x=\"{LEFT}\" y=\"{}\">{title} · {legend}</text>\n</svg>\n", HEIGHT - 8.0));
    svg.join("\n")
}

/// The trade-off: recall at 5 s against precision, one point for each setting of the knobs.
pub fn frontier(points: &[Point]) -> String {
    let title = "recall at 5 s against precision";
    let mut svg = open(title);
    let x = |share: f64| LEFT + share * (WIDTH - LEFT - 120.0);
    let labels: Vec<_> =
        [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| (x(share), format!("{:.0} %", share * 100.0))).into();
    axes(&mut svg, &labels);
    for Point { knobs, recall_5s, precision, .. } in points {
        let (x, y) = (x(*precision), height(*recall_5s));
        let label = format!("{} s, {}", knobs.horizon.as_secs(), knobs.caution);
        svg.push(format!(
            "<circle class=\"forecast\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"><title>{label}: recall {recall_5s:.2}, precision {precision:.2}</title></circle>"
        ));
    }
    svg.push(format!(
        "<text x=\"{LEFT}\" y=\"{}\">up: recall at 5 s · right: precision · each point is a horizon and a caution</text>\n</svg>\n",
        HEIGHT - 8.0
    ));
    svg.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Knobs;
    use crate::replay::scenario::Scenario;
    use crate::replay::{Source, simulate};

    #[test]
    fn a_plot_shows_level_forecast_alerts_and_refusals_and_stays_small() {
        let run = simulate(Source::Scenario(Scenario::Step), 1, false);
        let svg = timeline("step", &run, Thresholds::default());
        for class in ["level", "forecast", "warning", "critical", "refused"] {
            assert!(svg.contains(&format!("class=\"{class}\"")), "{class}");
        }
        assert!(svg.len() < 500_000, "{}", svg.len());
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn the_trade_off_has_a_point_for_each_setting() {
        let point = Point {
            knobs: Knobs::default(),
            recall_5s: 0.9,
            recall_10s: 0.8,
            precision: 0.7,
            false_time: 0.05,
        };
        assert_eq!(frontier(&[point, point]).matches("<circle").count(), 2);
    }
}
