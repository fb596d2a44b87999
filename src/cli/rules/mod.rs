//! `plimsoll rules`: the Prometheus rules, for the label name that your routing uses and the thresholds that you want; or
//! the same alerts as Grafana manages them.

mod grafana;

use super::{print, say};
use crate::config::is_owner_label;
use crate::owner::guidance::PUBLIC_RUNBOOKS;
use std::process::ExitCode;

/// The rules, with `%OWNER%` where the owner label stands. The same text is the shipped file.
pub(crate) const TEMPLATE: &str = include_str!("../../../alerts/plimsoll.rules.yaml.tmpl");

/// Flags of `rules`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Name of the label that carries the owner; the kind's is this and `_kind`.
    #[arg(long, default_value = "owner", value_name = "NAME")]
    owner_label: String,
    /// Used part of a bucket from which PlimsollBucketPressure warns.
    #[arg(long, default_value_t = 0.8, value_name = "PART")]
    pressure: f64,
    /// Used part of a bucket from which PlimsollBucketExhausting pages.
    #[arg(long, default_value_t = 0.95, value_name = "PART")]
    exhausting: f64,
    /// Seconds until a bucket is empty below which PlimsollBucketPressure warns.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pressure_secs: u32,
    /// Seconds until a bucket is empty below which PlimsollBucketExhausting pages.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    exhausting_secs: u32,
    /// Spent part of a budget from which PlimsollSpend warns.
    #[arg(long, default_value_t = 0.8, value_name = "PART")]
    spend: f64,
    /// Where the runbooks are kept, if not in public: a sidecar's /runbooks, or a copy of the folder.
    #[arg(long, value_name = "URL")]
    runbooks: Option<String>,
    /// Print the alerts for Grafana's provisioning instead, for the data source with this uid.
    #[arg(long, value_name = "UID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    grafana: Option<String>,
}

const EXAMPLES: &str = "Examples:
  plimsoll rules --owner-label team > plimsoll.rules.yaml
  plimsoll rules --pressure 0.7 --pressure-secs 120
  plimsoll rules --runbooks http://plimsoll.plimsoll.svc:9429/runbooks
  plimsoll rules --grafana prometheus > provisioning/alerting/plimsoll.yaml

Grafana's alerts read what the recording rules record: Prometheus needs the rules all the same.
The sidecar's own alerts have their thresholds in the configuration (alerts, foresight).";

/// Where thresholds stand in the rules: each of these is there once.
const PRESSURE: &str = "limiter!~\"acceleration|concurrency|spend\"} > 0.8";
const EXHAUSTING: &str = "limiter!~\"acceleration|concurrency|spend\"} > 0.95";
const PRESSURE_SECS: &str = "plimsoll:bucket_exhaustion_delay_seconds:min < 60";
const EXHAUSTING_SECS: &str = "plimsoll:bucket_exhaustion_delay_seconds:min < 20";
const SPEND: &str = "plimsoll:bucket_utilization:max{limiter=\"spend\"} > 0.8";

pub(super) fn main(args: &Args) -> ExitCode {
    let Some(rules) = rules(&args.owner_label) else {
        say(&format!("`{}` is no label name, or one that the alerts carry already", args.owner_label));
        return ExitCode::from(2);
    };
    let rules = match with_thresholds(rules, args).and_then(|rules| with_runbooks(rules, args)) {
        Ok(rules) => rules,
        Err(problem) => {
            say(&problem);
            return ExitCode::from(2);
        }
    };
    let Some(source) = &args.grafana else {
        print(rules.trim_end());
        return ExitCode::SUCCESS;
    };
    match grafana::provisioning(&rules, source, &args.owner_label) {
        Ok(file) => {
            print(&format!("{file:#}"));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

fn with_thresholds(rules: String, args: &Args) -> Result<String, String> {
    for (flag, part) in [("pressure", args.pressure), ("exhausting", args.exhausting), ("spend", args.spend)]
    {
        if !(part > 0.0 && part <= 1.0) {
            return Err(format!("--{flag} {part} is no part of a bucket; use more than 0 and at most 1"));
        }
    }
    if args.pressure >= args.exhausting || args.exhausting_secs >= args.pressure_secs {
        return Err("what warns must come before what pages: --pressure below --exhausting, and --pressure-secs above --exhausting-secs".to_owned());
    }
    let part = |at: &str, part: f64| format!("{}> {part}", at.split('>').next().unwrap_or_default());
    let secs = |at: &str, secs: u32| format!("{}< {secs}", at.split('<').next().unwrap_or_default());
    // First the longer ones: a threshold that was put in is not looked at again.
    let places = [
        (EXHAUSTING, part(EXHAUSTING, args.exhausting)),
        (PRESSURE, part(PRESSURE, args.pressure)),
        (EXHAUSTING_SECS, secs(EXHAUSTING_SECS, args.exhausting_secs)),
        (PRESSURE_SECS, secs(PRESSURE_SECS, args.pressure_secs)),
        (SPEND, part(SPEND, args.spend)),
    ];
    let ends = |line: &str, place: &str| line.trim_end().ends_with(place);
    let lines = rules.lines().map(|line| {
        let place = places.iter().find(|(place, _)| ends(line, place));
        place.map_or_else(|| line.to_owned(), |(place, with)| line.replace(place, with))
    });
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

fn with_runbooks(rules: String, args: &Args) -> Result<String, String> {
    let Some(url) = &args.runbooks else { return Ok(rules) };
    // It stands in YAML, and inside of Prometheus' templates.
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-._~:/%@+".contains(c));
    let whole = url.starts_with("http://") || url.starts_with("https://");
    if !whole || url.contains(odd) {
        return Err(format!("--runbooks {url} is no plain URL: http:// or https://, host and path"));
    }
    Ok(rules.replace(&format!("{PUBLIC_RUNBOOKS}/"), &format!("{}/", url.trim_end_matches('/'))))
}

/// The rules for an owner label of this name.
pub(crate) fn rules(label: &str) -> Option<String> {
    is_owner_label(label).then(|| TEMPLATE.replace("%OWNER%", label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn with(flags: &[&str]) -> Result<String, String> {
        let args = Cli::parse_from([&["rules"], flags].concat()).args;
        with_thresholds(rules("owner").unwrap(), &args)
    }

    #[test]
    fn runbooks_are_where_one_keeps_them() {
        let with = |url: &str| {
            with_runbooks(rules("owner").unwrap(), &Cli::parse_from(["rules", "--runbooks", url]).args)
        };
        let own = with("https://wiki.example.com/plimsoll/").unwrap();
        assert!(!own.contains("github.com"));
        assert!(own.contains("runbook_url: https://wiki.example.com/plimsoll/PlimsollSourceDown.md"));
        assert!(own.contains("https://wiki.example.com/plimsoll/\n            {{- if eq $labels.limiter"));
        for odd in
            ["wiki.example.com", "https://x/{{ .x }}", "https://x/ y", "https://x/\"", "https://x/#y: z"]
        {
            assert!(with(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn each_threshold_stands_in_one_place_and_is_put_there() {
        for place in [PRESSURE, EXHAUSTING, PRESSURE_SECS, EXHAUSTING_SECS, SPEND] {
            let there = TEMPLATE.lines().filter(|line| line.trim_end().ends_with(place)).count();
            assert_eq!(there, 1, "{place}");
        }
        assert_eq!(with(&[]).unwrap(), rules("owner").unwrap(), "the defaults are the shipped ones");
        let flags = [
            "--pressure",
            "0.7",
            "--exhausting",
            "0.9",
            "--pressure-secs",
            "90",
            "--exhausting-secs",
            "30",
            "--spend",
            "0.5",
        ];
        let changed = with(&flags).unwrap();
        let shipped = rules("owner").unwrap();
        let news: Vec<&str> =
            changed.lines().zip(shipped.lines()).filter(|(a, b)| a != b).map(|(a, _)| a.trim()).collect();
        assert_eq!(
            news,
            [
                "plimsoll:bucket_utilization_peak:max{limiter!~\"acceleration|concurrency|spend\"} > 0.7",
                "plimsoll:bucket_exhaustion_delay_seconds:min < 90",
                "plimsoll:bucket_utilization_peak:max{limiter!~\"acceleration|concurrency|spend\"} > 0.9",
                "plimsoll:bucket_exhaustion_delay_seconds:min < 30",
                "plimsoll:bucket_utilization:max{limiter=\"spend\"} > 0.5",
            ]
        );
        assert!(with(&["--pressure", "80"]).unwrap_err().contains("--pressure 80"));
        assert!(with(&["--pressure", "0.97"]).unwrap_err().contains("must come before"));
    }

    #[test]
    fn the_shipped_rules_are_the_template_for_the_default_label() {
        let shipped = include_str!("../../../alerts/plimsoll.rules.yaml");
        assert_eq!(rules("owner").unwrap(), shipped, "run: plimsoll rules > alerts/plimsoll.rules.yaml");
    }

    #[test]
    fn a_label_name_cannot_break_out_of_the_rules() {
        assert_eq!(rules("owner\"}) or vector(1"), None);
        assert_eq!(rules("model"), None, "an alert has that label already");
        assert!(rules("team").unwrap().contains("team_kind"));
    }
}
