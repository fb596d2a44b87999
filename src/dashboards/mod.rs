//! The Grafana dashboards, made from the catalogue of metrics: a metric that is renamed, or loses a label, takes its
//! queries along or does not compile.
//!
//! Classic JSON, because every Grafana reads it; Grafana 13 turns it into its own on loading. One file a dashboard, each
//! for one question: is anybody near a limit (`overview`), what of this owner (`owner`), what passes on this route
//! (`route`), what does watching cost (`fleet`), does Plimsoll itself work (`health`). `dashboards/` holds what this
//! makes, and a test fails when the two part.

mod fleet;
mod health;
mod overview;
mod owner;
mod panel;
mod query;
mod route;

use crate::owner::guidance::PUBLIC_RUNBOOKS;
use panel::Panel;
use query::Variable;
use serde_json::{Value, json};

/// One dashboard.
pub struct Dashboard {
    /// Its file's name without ending.
    pub name: &'static str,
    /// Title.
    pub title: &'static str,
    /// What question it answers.
    pub text: &'static str,
    variables: &'static [Variable],
    rows: Vec<Row>,
}

/// A row of panels.
struct Row {
    title: &'static str,
    /// Closed until somebody opens it: its queries do not run before.
    closed: bool,
    panels: Vec<Panel>,
}

/// Every dashboard.
pub fn all() -> [Dashboard; 5] {
    [overview::dashboard(), owner::dashboard(), route::dashboard(), fleet::dashboard(), health::dashboard()]
}

/// The data source of everything: a variable.
fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Where the owner's label stands in queries of alerts and their legends.
const OWNER: &str = "%OWNER%";

fn named(value: Value, owner_label: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(OWNER, owner_label)),
        Value::Array(all) => all.into_iter().map(|one| named(one, owner_label)).collect(),
        Value::Object(all) => all.into_iter().map(|(key, one)| (key, named(one, owner_label))).collect(),
        other => other,
    }
}

/// The address of a dashboard of ours, with its time and data source.
fn link_to(name: &str, more: &str) -> String {
    format!("/d/plimsoll-{name}?${{__url_time_range}}&${{datasource:queryparam}}{more}")
}

impl Dashboard {
    /// It, as Grafana reads it. Alerts carry their owner in the label of this name (`alerts.owner_label`).
    pub fn json(&self, owner_label: &str) -> Value {
        named(self.template(), owner_label)
    }

    fn template(&self) -> Value {
        json!({
            "uid": format!("plimsoll-{}", self.name),
            "title": self.title,
            "description": self.text,
            "tags": ["plimsoll", "llm", "rate-limit"],
            "schemaVersion": 39,
            "version": 1,
            "id": null,
            "editable": false,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "weekStart": "",
            "fiscalYearStartMonth": 0,
            "liveNow": false,
            "preload": false,
            "links": [others(), runbooks()],
            "templating": {"list": self.templating()},
            "annotations": {"list": self.annotations()},
            "panels": self.panels(),
        })
    }

    fn templating(&self) -> Vec<Value> {
        let source = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1,
            "multi": false, "includeAll": false, "current": {"selected": false, "text": "default", "value": "default"},
            "hide": 0, "options": [], "regex": "", "skipUrlSync": false,
        });
        let variables = self.variables.iter().enumerate();
        let queried = variables.map(|(nth, variable)| variable.json(&self.variables[..nth]));
        [source].into_iter().chain(queried).collect()
    }

    /// Alerts that fire, and route changes: what a person did is seen beside what it did.
    fn annotations(&self) -> Vec<Value> {
        let mark = |name: &str, shown: bool, color: &str, expr: String, title: &str, text: &str| {
            json!({
                "name": name, "enable": shown, "hide": false, "iconColor": color, "datasource": source(), "expr": expr,
                "titleFormat": title, "textFormat": text, "tagKeys": "severity", "useValueForTime": false, "step": "",
            })
        };
        let alerts = "ALERTS{alertname=~\"Plimsoll.*\", alertstate=\"firing\"}";
        let select = query::Select(self.variables);
        let about = "{{plimsoll_owner}} {{plimsoll_limiter}} {{plimsoll_window}} {{gen_ai_request_model}}";
        vec![
            json!({
                "name": "Annotations & Alerts", "type": "dashboard", "builtIn": 1, "enable": true, "hide": true,
                "iconColor": "rgba(0, 211, 255, 1)", "datasource": {"type": "grafana", "uid": "-- Grafana --"},
            }),
            mark(
                "Alerts of Plimsoll",
                true,
                "red",
                alerts.to_owned(),
                "{{alertname}}",
                "{{%OWNER%}} {{limiter}} {{window}} {{model}}",
            ),
            mark(
                "Route changes during an incident",
                true,
                "purple",
                query::route_changes(&select),
                "{{plimsoll_change}} changed",
                "{{plimsoll_route}} {{plimsoll_owner}}",
            ),
            mark("A limit changed", false, "blue", query::limit_changes(&select), "Limit changed", about),
        ]
    }

    /// Panels, row by row, from left to right.
    fn panels(&self) -> Vec<Value> {
        let (mut out, mut id, mut y) = (Vec::new(), 0, 0);
        for row in &self.rows {
            id += 1;
            let head = id;
            let (mut x, mut height, mut panels) = (0, 0, Vec::new());
            y += 1;
            for panel in &row.panels {
                if x + panel.width > 24 {
                    (x, y) = (0, y + height);
                    height = 0;
                }
                id += 1;
                panels.push(panel.json(id, x, y));
                (x, height) = (x + panel.width, height.max(panel.height));
            }
            y += height;
            let at = panels.first().map_or(y, |panel| panel["gridPos"]["y"].as_u64().unwrap_or(1)) - 1;
            let inside = if row.closed { std::mem::take(&mut panels) } else { Vec::new() };
            out.push(json!({
                "id": head, "type": "row", "title": row.title, "collapsed": row.closed,
                "gridPos": {"x": 0, "y": at, "w": 24, "h": 1}, "panels": inside,
            }));
            out.extend(panels);
            if row.closed {
                // A closed row takes one line.
                y = at + 1;
            }
        }
        out
    }
}

/// The other dashboards, with what is selected here.
fn others() -> Value {
    json!({
        "type": "dashboards", "title": "Plimsoll", "tags": ["plimsoll"], "icon": "external link",
        "tooltip": "The other dashboards, with what is selected here", "targetBlank": false, "asDropdown": true,
        "includeVars": true, "keepTime": true, "url": "",
    })
}

fn runbooks() -> Value {
    json!({
        "type": "link", "title": "Runbooks", "url": PUBLIC_RUNBOOKS, "icon": "doc",
        "tooltip": "What to do first, and what not to change", "targetBlank": true, "asDropdown": false,
        "includeVars": false, "keepTime": false, "tags": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dashboard_has_a_name_of_its_own_and_no_empty_row() {
        let all = all();
        for dashboard in &all {
            assert!(dashboard.rows.iter().all(|row| !row.panels.is_empty()), "{}", dashboard.name);
            assert_eq!(all.iter().filter(|other| other.name == dashboard.name).count(), 1);
        }
    }
}
