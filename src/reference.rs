//! The reference pages, made from the code: `docs/config.md` from the schema, `docs/metrics.md` from
//! the catalogue, `docs/verdicts.md` from the table of rules. A test fails when they drift.

use crate::clients;
use crate::config::{Config, Semconv};
use crate::exporters::catalogue::{ALL, Kind, prometheus_name};
use crate::exporters::genai;
use crate::owner::rules;
use serde_json::Value;
use std::fmt::Write;

/// `docs/config.md`.
pub fn config() -> String {
    let schema = Config::schema();
    let mut out = String::from(
        "# Configuration\n\nMade from the code by `PLIMSOLL_UPDATE_DOCS=1 cargo test --test it docs`; do not edit.\n\n\
         Everything is optional. An unknown key is an error that names its line and the key that was meant.\n\
         `plimsoll check` finds mistakes before they run, `plimsoll schema` prints the JSON Schema.\n\
         [plimsoll.example.yaml](plimsoll.example.yaml) is an example to copy from.\n\n\
         A new configuration is taken on SIGHUP, when the file changes, and on `POST /-/reload` of the\n\
         admin port: whole, or not at all. [operations.md](operations.md#reload) lists what waits for the next start.\n\n\
         | key | type | what it is |\n|---|---|---|\n",
    );
    rows(&schema, &schema, "", &mut out);
    out
}

/// Rows of an object's properties, and of what they hold.
fn rows(root: &Value, object: &Value, prefix: &str, out: &mut String) {
    let Some(properties) = object["properties"].as_object() else { return };
    for (name, property) in properties {
        let (resolved, kind) = resolve(root, property);
        let path = format!("{prefix}{name}");
        let text =
            property["description"].as_str().or_else(|| resolved["description"].as_str()).unwrap_or_default();
        let text = text.replace('\n', " ").replace('|', "\\|");
        let required = object["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name));
        let kind = if required { format!("{kind}, required") } else { kind.clone() };
        // Writing to a string cannot fail.
        let written = writeln!(out, "| `{path}` | {kind} | {text} |");
        debug_assert!(written.is_ok());
        let below = if kind.starts_with("list") { format!("{path}[].") } else { format!("{path}.") };
        rows(root, &resolved, &below, out);
    }
}

/// What a property is, through references, options and lists; and its type in a word.
fn resolve(root: &Value, property: &Value) -> (Value, String) {
    if let Some(reference) = property["$ref"].as_str() {
        let target = reference.trim_start_matches('#');
        return (root.pointer(target).cloned().unwrap_or_default(), "object".to_owned());
    }
    if let Some(options) = property["anyOf"].as_array()
        && let Some(option) = options.iter().find(|o| o["type"] != "null")
    {
        return resolve(root, option);
    }
    let kind = match &property["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|k| *k != "null").unwrap_or_default().to_owned()
        }
        _ => "object".to_owned(),
    };
    match kind.as_str() {
        "array" => {
            let (item, of) = resolve(root, &property["items"]);
            (item, format!("list of {of}"))
        }
        "object" if property["additionalProperties"].is_object() => {
            let (_, of) = resolve(root, &property["additionalProperties"]);
            (Value::Null, format!("map to {of}"))
        }
        _ => (property.clone(), kind),
    }
}

/// `docs/metrics.md`.
pub fn metrics() -> String {
    let mut out = String::from(
        "# Metrics\n\nMade from the code by `PLIMSOLL_UPDATE_DOCS=1 cargo test --test it docs`; do not edit.\n\n\
         `/metrics` and OTLP are rendered from one catalogue. What is not known has no series: no zero, no\n\
         sentinel. Attributes become labels with `_` for `.`; empty ones are left out.\n\n\
         | OpenTelemetry | Prometheus | kind, unit | attributes | tells |\n|---|---|---|---|---|\n",
    );
    let mut line = |text: String| debug_assert!(writeln!(out, "{text}").is_ok());
    for metric in ALL {
        let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
        let unit = if metric.unit.is_empty() { String::new() } else { format!(", `{}`", metric.unit) };
        let attributes: Vec<String> = metric.attributes.iter().map(|a| format!("`{a}`")).collect();
        line(format!(
            "| `{}` | `{}` | {kind}{unit} | {} | {} |",
            metric.name,
            metric.prometheus(),
            attributes.join(" "),
            metric.help
        ));
    }
    line(String::new());
    line("## OpenTelemetry's GenAI metrics".to_owned());
    line(String::new());
    line(
        "Off unless `otlp.semconv` asks for them: they are in development and were renamed in autumn 2026."
            .to_owned(),
    );
    line(String::new());
    line("| OpenTelemetry | Prometheus | kind, unit | attributes | tells | `semconv` |\n|---|---|---|---|---|---|".to_owned());
    let attributes: Vec<String> = genai::ATTRIBUTES.iter().map(|name| format!("`{name}`")).collect();
    for metric in &genai::ALL {
        let counter = metric.what.is_counter();
        let name = prometheus_name(metric.name, metric.unit, counter);
        let kind = if counter { "counter" } else { "histogram" };
        let semconv = if metric.semconv == Semconv::Legacy { "legacy" } else { "latest" };
        line(format!(
            "| `{}` | `{name}` | {kind}, `{}` | {} | {} | `{semconv}`, `both` |",
            metric.name,
            metric.unit,
            attributes.join(" "),
            metric.help
        ));
    }
    out
}

/// `docs/clients.md`.
pub fn clients() -> String {
    let mut out = String::from(
        "# Clients\n\nMade from the code by `PLIMSOLL_UPDATE_DOCS=1 cargo test --test it docs`; do not edit.\n\n\
         A client that is given a base URL is not quite the client that it was. `plimsoll env CLIENT` prints its \
         variables for your configuration, `plimsoll exec -- COMMAND` sets them for one process alone, and \
         `plimsoll diff -- COMMAND` runs a command straight and through, and prints what differs.\n\n\
         `P` is the route's address, its prefix included: `http://127.0.0.1:8429`.\n\n\
         | client | what it is | speaks | set | loses |\n|---|---|---|---|---|\n",
    );
    for client in clients::ALL {
        let set: Vec<String> =
            client.variables.iter().map(|v| format!("`{}=P{}`", v.name, v.suffix)).collect();
        let set =
            client.instead.map_or_else(|| set.join(" "), |text| format!("`{}`", text.replace("URL", "P")));
        let loses = client.loses.join("; ");
        // Writing to a string cannot fail.
        let written = writeln!(
            out,
            "| `{}` | {} | {} | {set} | {loses} |",
            client.name,
            client.title,
            client.api.as_str()
        );
        debug_assert!(written.is_ok());
    }
    for client in clients::ALL.iter().filter(|client| !client.enforcement.is_empty()) {
        out.push_str(&format!("\n## What `{}` no longer enforces\n\n", client.name));
        client.enforcement.iter().for_each(|text| out.push_str(&format!("- {text}\n")));
    }
    out.push_str(CLIENTS_END);
    out
}

const CLIENTS_END: &str = include_str!("clients/end.md");

/// `docs/verdicts.md`.
pub fn verdicts() -> String {
    let mut out = String::from(
        "# Whose limit was it?\n\nMade from the code by `PLIMSOLL_UPDATE_DOCS=1 cargo test --test it docs`; do not edit.\n\n\
         A refusal is judged by one table. Read it from top to bottom: the first row that holds decides. Rows\n\
         are ordered by proof (*rung*): who answered says so, a code that only one party emits, the header\n\
         family, the wording, the configured route, nothing. `plimsoll explain` says which row decided, and\n\
         names a surer row by weaker proof that says otherwise.\n",
    );
    let mut line = |text: String| debug_assert!(writeln!(out, "{text}").is_ok());
    for section in &rules::SECTIONS {
        line(format!("\n## {}\n", section.title));
        line("| row | verdict | rung, confidence | holds when | why |\n|---|---|---|---|---|".to_owned());
        for rule in section.rules {
            let when = rule.when.to_string().replace('|', "\\|");
            line(format!(
                "| `{}` | `{}` | {}, {} | {} | {} |",
                rule.id,
                rule.class.as_str(),
                rule.rung.as_str(),
                rule.confidence.as_str(),
                if when.is_empty() { "always" } else { &when },
                rule.why
            ));
        }
    }
    out
}
