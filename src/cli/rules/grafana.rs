//! The alerts as Grafana manages them: a file for its provisioning (`provisioning/alerting/`), for one data source.
//!
//! Made from the Prometheus rules, so that there is one truth. What differs is Grafana's: its templates cannot query, so
//! the owner's runbook, dashboard and contact are joined to the series as labels; it says when a query gave nothing, which
//! here is good news; and it spells `keepFiringFor` so in files (another spelling is dropped in silence). The recording
//! rules stay Prometheus' own: these alerts read what they record.
//!
//! It is written as JSON, which is YAML too. Grafana's own reading of it is not tried here; the queries are.

use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: Option<String>,
    expr: String,
    r#for: Option<String>,
    keep_firing_for: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// How often Grafana evaluates: its shortest interval by default.
const INTERVAL: &str = "10s";

/// The provisioning file for these Prometheus rules, a data source and an owner label.
///
/// # Errors
/// If the rules are none.
pub(super) fn provisioning(rules: &str, source: &str, owner: &str) -> Result<Value, String> {
    let file: File = serde_saphyr::from_str(rules).map_err(|error| error.to_string())?;
    let groups = file.groups.iter().filter(|group| group.rules.iter().any(|rule| rule.alert.is_some()));
    let group = |group: &Group| {
        let rules = group.rules.iter().filter_map(|rule| alert(rule, source, owner)).collect::<Vec<_>>();
        json!({"orgId": 1, "name": group.name, "folder": "Plimsoll", "interval": INTERVAL, "rules": rules})
    };
    Ok(json!({"apiVersion": 1, "groups": groups.map(group).collect::<Vec<_>>()}))
}

fn alert(rule: &Rule, source: &str, owner: &str) -> Option<Value> {
    let name = rule.alert.as_ref()?;
    // A query for an owner's runbook: the alert has an owner.
    let owned = rule.annotations.get("runbook_url").is_some_and(|text| text.contains("| query"));
    let expr = if owned { joined(rule.expr.trim(), owner) } else { rule.expr.trim().to_owned() };
    let annotations: BTreeMap<&String, String> =
        rule.annotations.iter().map(|(name, text)| (name, template(name, text))).collect();
    let model = json!({
        "refId": "A", "expr": expr, "instant": true, "range": false, "intervalMs": 1_000, "maxDataPoints": 43_200,
    });
    // The query already holds only what is to fire, whatever its value.
    let any = json!({"evaluator": {"type": "gt", "params": [-1]}, "operator": {"type": "and"}});
    let mut out = json!({
        "uid": uid(name), "title": name, "condition": "B", "noDataState": "OK", "execErrState": "Error",
        "for": rule.r#for.as_deref().unwrap_or("0s"), "labels": rule.labels, "annotations": annotations,
        "data": [
            {
                "refId": "A", "datasourceUid": source, "relativeTimeRange": {"from": 300, "to": 0}, "model": model,
            },
            {
                "refId": "B", "datasourceUid": "__expr__",
                "model": {"refId": "B", "type": "threshold", "expression": "A", "conditions": [any]},
            },
        ],
    });
    if let Some(keep) = &rule.keep_firing_for {
        out["keepFiringFor"] = json!(keep);
    }
    Some(out)
}

/// `PlimsollBucketPressure` as `plimsoll-bucket-pressure`: at most 40 characters, which Grafana asks for.
fn uid(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The series of an alert with its owner's runbook, dashboard and contact, where somebody configured them.
fn joined(expr: &str, owner: &str) -> String {
    let by = format!("{owner}, {owner}_kind");
    let contact = "runbook_url, dashboard_url, contact";
    let info = format!(
        "topk by ({by}) (1, max by ({by}, {contact}) (label_replace(label_replace(plimsoll_owner_info, \"{owner}\", \"$1\", \"plimsoll_owner\", \"(.*)\"), \"{owner}_kind\", \"$1\", \"plimsoll_owner_kind\", \"(.*)\")))"
    );
    format!(
        "(\n{expr}\n)\n* on ({by}) group_left ({contact})\n{info}\nor\n(\n{expr}\n)\nunless on ({by})\n{info}"
    )
}

/// An annotation in Grafana's words.
fn template(name: &str, text: &str) -> String {
    let query = r"(?s)\{\{-? *with printf .*?\| query *-?\}\}(.*?)\{\{-? *end *-?\}\}";
    match name {
        "runbook_url" if text.contains("| query") => {
            let public = text.split("{{- else -}}").nth(1).unwrap_or_default();
            let public = public.strip_suffix("{{- end }}").unwrap_or(public).trim();
            format!(
                "{{{{ if $labels.runbook_url }}}}{{{{ $labels.runbook_url }}}}{{{{ else }}}}{public}{{{{ end }}}}"
            )
        }
        "dashboard_url" => "{{ $labels.dashboard_url }}".to_owned(),
        _ => {
            let contact = "{{ if $labels.contact }} Contact: {{ $labels.contact }}.{{ end }}";
            let put = |found: &regex::Captures<'_>| {
                if found[1].contains("\"contact\"") { contact } else { "" }.to_owned()
            };
            let text = Regex::new(query)
                .map_or_else(|_| text.to_owned(), |query| query.replace_all(text, put).into_owned());
            text.replace("$value", "$values.A.Value")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Value {
        provisioning(&super::super::rules("team").unwrap(), "prom-1", "team").unwrap()
    }

    fn rule<'v>(all: &'v Value, title: &str) -> &'v Value {
        let groups = all["groups"].as_array().unwrap().iter();
        let mut rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
        rules.find(|rule| rule["title"] == title).unwrap()
    }

    #[test]
    fn every_alert_is_there_with_the_owners_runbook_and_asks_nothing_of_its_templates() {
        let all = made();
        let names: Vec<&str> =
            super::super::TEMPLATE.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        for name in &names {
            let rule = rule(&all, name);
            assert!(rule["uid"].as_str().unwrap().len() <= 40);
            for (annotation, text) in rule["annotations"].as_object().unwrap() {
                let text = text.as_str().unwrap();
                assert!(!text.contains("query") && !text.contains("$value "), "{name} {annotation}: {text}");
                let opened =
                    ["{{ if", "{{- if", "{{ with", "{{- with"].map(|word| text.matches(word).count());
                let closed = ["{{ end", "{{- end"].map(|word| text.matches(word).count());
                assert_eq!(
                    opened.iter().sum::<usize>(),
                    closed.iter().sum::<usize>(),
                    "{name} {annotation}: {text}"
                );
            }
        }
        assert!(names.len() >= 12);
    }

    #[test]
    fn the_pressure_alert_reads_like_this() {
        insta::assert_snapshot!(format!("{:#}", rule(&made(), "PlimsollBucketPressure")));
    }
}
