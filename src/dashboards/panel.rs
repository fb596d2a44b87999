//! Panels: what a person sees of a query, with one meaning for each colour on every dashboard.

use super::source;
use crate::owner::guidance::PUBLIC_RUNBOOKS;
use serde_json::{Value, json};

/// How it is drawn.
pub(super) enum Form {
    /// One number.
    Stat,
    /// Lines.
    Lines,
    /// Areas that add up.
    Stacked,
    /// Bars, each of its own height.
    Bars,
    /// Bars that add up.
    StackedBars,
    /// Horizontal bars, one a series.
    Gauges,
    /// A table with these columns, sorted by the one of this name.
    Table(Vec<Column>, &'static str),
}

/// Where colours change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Levels {
    /// No number is better than another.
    None,
    /// Used parts: as the alerts' thresholds.
    Used,
    /// The part of calls that failed. It is not a bucket that may be half used: one in a hundred is to be looked at, and one
    /// in twenty is felt.
    Failed,
    /// Seconds until empty: as the alerts' thresholds.
    Empty,
    /// Anything but zero is bad.
    Zero,
    /// Zero is bad, one is good.
    One,
}

/// A query, and how its series are called.
pub(super) struct Query(pub(super) String, pub(super) &'static str);

/// A column of a table.
pub(super) struct Column {
    /// Label, or `Value #A` for the first query's value.
    pub(super) of: &'static str,
    /// Its head.
    pub(super) name: &'static str,
    /// What is special about it.
    pub(super) look: Look,
}

/// A column.
pub(super) const fn column(of: &'static str, name: &'static str, look: Look) -> Column {
    Column { of, name, look }
}

/// The kind of owner, with its runbook.
pub(super) fn kind_of_owner() -> Column {
    let runbook = format!("{PUBLIC_RUNBOOKS}/${{__value.raw}}.md");
    column("plimsoll_owner_kind", "Kind of owner", Look::Link("Runbook of this kind of owner", runbook))
}

/// How a column looks.
pub(super) enum Look {
    /// As it is.
    Plain,
    /// A number with this unit, coloured by these levels.
    Number(&'static str, Levels),
    /// A bar from nothing to full.
    Bar,
    /// A link: its title and address.
    Link(&'static str, String),
}

/// A panel.
pub(super) struct Panel {
    pub(super) title: &'static str,
    /// What it says, and what to think of it.
    pub(super) text: &'static str,
    pub(super) form: Form,
    pub(super) unit: &'static str,
    pub(super) levels: Levels,
    pub(super) width: u64,
    pub(super) height: u64,
    /// What is said where there is nothing.
    pub(super) none: &'static str,
    pub(super) queries: Vec<Query>,
    /// Its series name a kind of owner: each links to that kind's runbook.
    pub(super) by_kind: bool,
}

impl Panel {
    /// One number, in a row of four.
    pub(super) fn stat(title: &'static str, text: &'static str, unit: &'static str, query: String) -> Self {
        Self::new(title, text, Form::Stat, unit, 6, 4, vec![Query(query, "__auto")])
    }

    /// Lines over half of the width.
    pub(super) fn lines(title: &'static str, text: &'static str, unit: &'static str, query: Query) -> Self {
        Self::new(title, text, Form::Lines, unit, 12, 8, vec![query])
    }

    pub(super) fn new(
        title: &'static str,
        text: &'static str,
        form: Form,
        unit: &'static str,
        width: u64,
        height: u64,
        queries: Vec<Query>,
    ) -> Self {
        let levels = Levels::None;
        Self { title, text, form, unit, levels, width, height, none: "", queries, by_kind: false }
    }

    /// With a further query.
    pub(super) fn with(mut self, query: Query) -> Self {
        self.queries.push(query);
        self
    }

    /// Drawn like this.
    pub(super) fn drawn(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Coloured by these levels.
    pub(super) fn levels(self, levels: Levels) -> Self {
        Self { levels, ..self }
    }

    /// This wide and high.
    pub(super) fn size(self, width: u64, height: u64) -> Self {
        Self { width, height, ..self }
    }

    /// What is said where there is nothing.
    pub(super) fn none(self, none: &'static str) -> Self {
        Self { none, ..self }
    }

    /// Its series link to the runbook of their kind of owner.
    pub(super) fn by_kind(self) -> Self {
        Self { by_kind: true, ..self }
    }

    /// It, as Grafana reads it.
    pub(super) fn json(&self, id: u64, x: u64, y: u64) -> Value {
        let mut out = json!({
            "id": id, "type": self.form.as_str(), "title": self.title, "description": self.text, "datasource": source(),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self.defaults(), "overrides": self.form.overrides()},
            "options": self.form.options(), "targets": self.targets(), "pluginVersion": "10.4.0",
        });
        if let Form::Table(columns, _) = &self.form {
            let index: serde_json::Map<String, Value> =
                columns.iter().enumerate().map(|(nth, column)| (column.of.to_owned(), json!(nth))).collect();
            let rename: serde_json::Map<String, Value> =
                columns.iter().map(|column| (column.of.to_owned(), json!(column.name))).collect();
            let organize =
                json!({"excludeByName": {"Time": true}, "indexByName": index, "renameByName": rename});
            out["transformations"] =
                json!([{"id": "merge", "options": {}}, {"id": "organize", "options": organize}]);
        }
        out
    }

    fn targets(&self) -> Vec<Value> {
        let table = matches!(self.form, Form::Table(..));
        let instant = table || matches!(self.form, Form::Stat | Form::Gauges);
        let target = |(nth, Query(expr, legend)): (usize, &Query)| {
            let mut target = json!({
                "refId": char::from(b'A' + u8::try_from(nth).unwrap_or(25)).to_string(), "datasource": source(),
                "editorMode": "code", "expr": expr, "legendFormat": legend, "range": !instant, "instant": instant,
            });
            if table {
                target["format"] = json!("table");
            }
            target
        };
        self.queries.iter().enumerate().map(target).collect()
    }

    fn defaults(&self) -> Value {
        let graph = self.form.is_graph();
        let color = if graph { "palette-classic" } else { "thresholds" };
        let mut out = json!({
            "unit": self.unit, "thresholds": {"mode": "absolute", "steps": self.levels.steps()},
            "color": {"mode": color}, "mappings": [],
        });
        if !self.none.is_empty() {
            out["noValue"] = json!(self.none);
        }
        if matches!(self.form, Form::Stat) {
            out["decimals"] = json!(if self.unit.starts_with("currency") { 2 } else { 0 });
        }
        if graph || matches!(self.form, Form::Gauges) {
            out["min"] = json!(0);
        }
        if matches!(self.form, Form::Gauges) {
            out["max"] = json!(1);
        }
        if self.by_kind && !matches!(self.form, Form::Table(..)) {
            let url = format!("{PUBLIC_RUNBOOKS}/${{__field.labels.plimsoll_owner_kind}}.md");
            out["links"] =
                json!([{"title": "Runbook of this kind of owner", "url": url, "targetBlank": true}]);
        }
        if graph {
            out["custom"] = self.custom();
        } else if matches!(self.form, Form::Table(..)) {
            out["custom"] = json!({"align": "auto", "cellOptions": {"type": "auto"}, "filterable": true, "inspect": false});
        }
        out
    }

    fn custom(&self) -> Value {
        let (style, fill, stacking) = match self.form {
            Form::Stacked => ("line", 10, "normal"),
            Form::Bars => ("bars", 60, "none"),
            Form::StackedBars => ("bars", 60, "normal"),
            _ => ("line", 0, "none"),
        };
        let (dashed, soft_max) = match self.levels {
            Levels::Used => ("dashed", Some(1)),
            Levels::Empty => ("dashed", Some(90)),
            _ => ("off", None),
        };
        let mut out = json!({
            "drawStyle": style, "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": fill, "showPoints": "never",
            "spanNulls": false, "axisPlacement": "auto", "axisSoftMin": 0, "scaleDistribution": {"type": "linear"},
            "stacking": {"mode": stacking, "group": "A"}, "thresholdsStyle": {"mode": dashed},
        });
        if let Some(most) = soft_max {
            out["axisSoftMax"] = json!(most);
        }
        out
    }
}

impl Form {
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Gauges => "bargauge",
            Self::Table(..) => "table",
            _ => "timeseries",
        }
    }

    const fn is_graph(&self) -> bool {
        matches!(self, Self::Lines | Self::Stacked | Self::Bars | Self::StackedBars)
    }

    fn options(&self) -> Value {
        let last = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
        match self {
            Self::Stat => json!({
                "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
                "textMode": "auto", "wideLayout": true, "reduceOptions": last,
            }),
            Self::Gauges => json!({
                "displayMode": "basic", "orientation": "horizontal", "showUnfilled": true, "valueMode": "color",
                "namePlacement": "top", "minVizHeight": 16, "minVizWidth": 8, "sizing": "auto", "reduceOptions": last,
            }),
            Self::Table(_, sort) => json!({
                "showHeader": true, "cellHeight": "sm", "sortBy": [{"displayName": sort, "desc": true}],
                "footer": {"show": false, "reducer": ["sum"], "countRows": false},
            }),
            _ => json!({
                "legend": {
                    "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"],
                    "sortBy": "Max", "sortDesc": true,
                },
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
        }
    }

    fn overrides(&self) -> Vec<Value> {
        let Self::Table(columns, _) = self else { return Vec::new() };
        let property = |id: &str, value: Value| json!({"id": id, "value": value});
        let special = |column: &Column| {
            let properties = match &column.look {
                Look::Plain => return None,
                Look::Bar => vec![
                    property(
                        "custom.cellOptions",
                        json!({"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}),
                    ),
                    property("custom.width", json!(170)),
                    property("min", json!(0)),
                    property("max", json!(1)),
                ],
                Look::Number(unit, levels) => vec![
                    property("unit", json!(unit)),
                    property("decimals", json!(0)),
                    property("thresholds", json!({"mode": "absolute", "steps": levels.steps()})),
                    property("custom.cellOptions", json!({"type": "color-text"})),
                    property("custom.width", json!(90)),
                ],
                Look::Link(title, url) => {
                    let blank = url.starts_with("http") || url.starts_with("${");
                    vec![property("links", json!([{"title": title, "url": url, "targetBlank": blank}]))]
                }
            };
            Some(json!({"matcher": {"id": "byName", "options": column.name}, "properties": properties}))
        };
        columns.iter().filter_map(special).collect()
    }
}

impl Levels {
    fn steps(self) -> Value {
        match self {
            Self::None => json!([{"color": "blue", "value": null}]),
            Self::Used => json!([
                {"color": "green", "value": null}, {"color": "orange", "value": 0.8}, {"color": "red", "value": 0.95}
            ]),
            Self::Failed => json!([
                {"color": "green", "value": null}, {"color": "orange", "value": 0.01}, {"color": "red", "value": 0.05}
            ]),
            Self::Empty => json!([
                {"color": "red", "value": null}, {"color": "orange", "value": 20}, {"color": "green", "value": 60}
            ]),
            Self::Zero => json!([{"color": "green", "value": null}, {"color": "red", "value": 1}]),
            Self::One => json!([{"color": "red", "value": null}, {"color": "green", "value": 1}]),
        }
    }
}
