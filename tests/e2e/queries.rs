//! What the dashboards' queries say of series that are known: values by Prometheus' own evaluation, and the colour that the
//! panel's thresholds give them.

use crate::programs::root;
use crate::support::PATIENCE;
use crate::support::process::output;
use serde_json::Value;
use std::fmt::Write;

/// A panel's first query and its thresholds, from the shipped file.
struct Panel {
    query: String,
    steps: Vec<(f64, String)>,
}

impl Panel {
    fn of(dashboard: &str, title: &str) -> Self {
        let text = std::fs::read_to_string(root().join(format!("dashboards/{dashboard}.json"))).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let mut todo: Vec<&Value> = dashboard["panels"].as_array().unwrap().iter().collect();
        while let Some(panel) = todo.pop() {
            todo.extend(panel["panels"].as_array().into_iter().flatten());
            if panel["title"] == title {
                let query = panel["targets"][0]["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
                let variables = ["job", "owner", "surface", "model", "route", "source"];
                let query =
                    variables.iter().fold(query, |query, name| query.replace(&format!("${name}"), ".*"));
                assert!(!query.contains('$'), "{query}");
                let steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"].as_array().unwrap();
                let steps = steps.iter().map(|step| {
                    (
                        step["value"].as_f64().unwrap_or(f64::NEG_INFINITY),
                        step["color"].as_str().unwrap().to_owned(),
                    )
                });
                return Self { query, steps: steps.collect() };
            }
        }
        panic!("no panel {title}");
    }

    fn colour(&self, value: f64) -> &str {
        &self.steps.iter().rfind(|(from, _)| value >= *from).unwrap().1
    }
}

/// A query, when it is asked, and the samples that it must give.
type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, f64)]);

/// Evaluates queries on series at a moment: each with its samples (labels and value).
async fn check(series: &[(&str, &str)], asked: &[Asked<'_>]) {
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let mut test = "evaluation_interval: 15s\ntests:\n- interval: 15s\n  input_series:\n".to_owned();
    for (name, values) in series {
        writeln!(test, "  - series: {}\n    values: {}", quoted(name), quoted(values)).unwrap();
    }
    test.push_str("  promql_expr_test:\n");
    for (query, at, samples) in asked {
        writeln!(test, "  - expr: {}\n    eval_time: {at}\n    exp_samples:", quoted(query)).unwrap();
        for (labels, value) in *samples {
            writeln!(test, "    - labels: {}\n      value: {value}", quoted(labels)).unwrap();
        }
        if samples.is_empty() {
            test.truncate(test.trim_end().len());
            test.push_str(" []\n");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("queries.test.yaml");
    std::fs::write(&file, &test).unwrap();
    let mut promtool = tokio::process::Command::new("promtool");
    let run = output(promtool.args(["test", "rules"]).arg(&file), PATIENCE).await;
    assert!(
        run.status.success(),
        "{}{}\n{test}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
}

const CALLS: &str =
    "plimsoll_requests_total{job=\"p\", plimsoll_owner=\"o\", plimsoll_route=\"r\", pod=\"a\"";

#[tokio::test]
async fn the_part_of_calls_that_failed_is_right_and_red_long_before_it_is_most_of_them() {
    let panel = Panel::of("route", "Not answered with success");
    let calls = |status: &str| format!("{CALLS}, http_response_status_code=\"{status}\"}}");
    let (ok, upgraded, refused, none) = (calls("200"), calls("101"), calls("429"), format!("{CALLS}}}"));
    // 90 of 100 a minute are answered; 4 were refused, 6 had no answer.
    let some = [(&*ok, "0+20x40"), (&*upgraded, "0+2.5x40"), (&*refused, "0+1x40"), (&*none, "0+1.5x40")];
    check(&some, &[(&panel.query, "5m", &[("{}", 0.1)])]).await;
    // Nothing failed, and nothing was called.
    check(&some[..1], &[(&panel.query, "5m", &[("{}", 0.0)])]).await;
    check(&[(&*ok, "7x40"), (&*refused, "3x40")], &[(&panel.query, "5m", &[])]).await;
    check(&[], &[(&panel.query, "5m", &[])]).await;
    let colours: Vec<&str> =
        [0.0, 0.009, 0.01, 0.049, 0.05, 0.1, 0.79, 1.0].map(|v| panel.colour(v)).to_vec();
    assert_eq!(colours, ["green", "green", "orange", "orange", "red", "red", "red", "red"]);
}

/// A cent every 300 s is $2.88 a day, right after the first poll, between two, and over several sidecars and sources.
#[tokio::test]
async fn what_polling_costs_a_day_is_what_it_costs() {
    let (stat, graph) = (Panel::of("fleet", "Polling costs a day"), Panel::of("fleet", "Cost by source"));
    let of = |metric: &str, pod: &str, source: &str, more: &str| {
        format!("plimsoll_source_{metric}{{job=\"p\", pod=\"{pod}\", plimsoll_source=\"{source}\"{more}}}")
    };
    let (ok, failed) = (", plimsoll_outcome=\"ok\"", ", plimsoll_outcome=\"failed\"");
    // A poll every 20 samples of 15 s: one at the start, one after 5 and 10 minutes.
    let cents = "0.01x19 0.02x19 0.03x19 0.04x200";
    let polls = "1x19 2x19 3x19 4x200";
    let series = [
        (of("cost_USD_total", "a", "bedrock", ""), cents),
        (of("polls_total", "a", "bedrock", ok), polls),
        (of("polls_total", "a", "bedrock", failed), "0x260"),
        (of("interval_seconds", "a", "bedrock", ""), "300x260"),
        (of("cost_USD_total", "b", "vertex", ""), "0.12x260"),
        (of("polls_total", "b", "vertex", ok), "3x260"),
        (of("polls_total", "b", "vertex", failed), "1x260"),
        (of("interval_seconds", "b", "vertex", ""), "3600x260"),
        // It costs nothing, and has no such series.
        (of("polls_total", "b", "anthropic", ok), "3x260"),
        (of("polls_total", "b", "anthropic", failed), "0x260"),
        (of("interval_seconds", "b", "anthropic", ""), "60x260"),
    ];
    let name = plimsoll::exporters::catalogue::COST.prometheus();
    let series: Vec<(String, &str)> =
        series.into_iter().map(|(s, v)| (s.replace("plimsoll_source_cost_USD_total", &name), v)).collect();
    let series: Vec<(&str, &str)> = series.iter().map(|(s, v)| (s.as_str(), *v)).collect();
    let asked: Vec<Asked<'_>> = ["0s", "1m", "4m45s", "5m", "7m30s", "50m"]
        .into_iter()
        .flat_map(|at| -> [Asked<'_>; 2] {
            [
                (&stat.query, at, &[("{}", 2.88 + 0.72)]),
                (
                    &graph.query,
                    at,
                    &[("{plimsoll_source=\"bedrock\"}", 2.88), ("{plimsoll_source=\"vertex\"}", 0.72)],
                ),
            ]
        })
        .collect();
    check(&series, &asked).await;
    check(&[], &[(&stat.query, "5m", &[])]).await;
}
