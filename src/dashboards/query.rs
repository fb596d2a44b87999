//! Queries of dashboards: names and labels from the catalogue, selections by the variables that a metric has labels for.

use super::source;
use crate::exporters::catalogue::{self, Metric, escaped, key};
use serde_json::{Value, json};

/// A variable of a dashboard: the values of an attribute.
pub(super) struct Variable {
    /// Its name.
    pub(super) name: &'static str,
    /// What people see.
    pub(super) label: &'static str,
    /// The attribute; absent for `job`, which is no attribute of ours.
    pub(super) attribute: Option<&'static str>,
    /// Metrics that have it.
    pub(super) of: &'static [&'static Metric],
    /// One value at a time.
    pub(super) one: bool,
}

const BUCKETS_AND_CALLS: &[&Metric] = &[&catalogue::LIMIT, &catalogue::REQUESTS];
const CALLS: &[&Metric] = &[&catalogue::REQUESTS];

/// Who is scraped. Whoever feeds one sidecar in twice must be able to choose.
pub(super) const JOB: Variable =
    Variable { name: "job", label: "Job", attribute: None, of: &[&catalogue::BUILD_INFO], one: false };
/// Owners.
pub(super) const OWNER: Variable = Variable {
    name: "owner",
    label: "Owner",
    attribute: Some(key::OWNER),
    of: BUCKETS_AND_CALLS,
    one: false,
};
/// One owner.
pub(super) const ONE_OWNER: Variable = Variable { one: true, ..OWNER };
/// Surfaces.
pub(super) const SURFACE: Variable = Variable {
    name: "surface",
    label: "Surface",
    attribute: Some(key::SURFACE),
    of: BUCKETS_AND_CALLS,
    one: false,
};
/// Models.
pub(super) const MODEL: Variable = Variable {
    name: "model",
    label: "Model",
    attribute: Some(key::MODEL),
    of: BUCKETS_AND_CALLS,
    one: false,
};
/// Routes.
pub(super) const ROUTE: Variable =
    Variable { name: "route", label: "Route", attribute: Some(key::ROUTE), of: CALLS, one: false };
/// Sources.
pub(super) const SOURCE: Variable = Variable {
    name: "source",
    label: "Source",
    attribute: Some(key::SOURCE),
    of: &[&catalogue::SOURCE_TIME, &catalogue::SOURCE_UP],
    one: false,
};

impl Variable {
    /// It, as Grafana reads it, narrowed down by the variables before it.
    pub(super) fn json(&self, before: &[Self]) -> Value {
        let names: Vec<String> = self.of.iter().map(|metric| metric.prometheus()).collect();
        let narrowed: Vec<String> = before.iter().filter(|v| self.knows(v)).map(Self::matcher).collect();
        let query = match (names.as_slice(), narrowed.is_empty()) {
            ([one], true) => one.clone(),
            ([one], false) => format!("{one}{{{}}}", narrowed.join(", ")),
            (all, _) => {
                let name = format!("__name__=~\"{}\"", all.join("|"));
                format!("{{{}}}", [name].into_iter().chain(narrowed).collect::<Vec<_>>().join(", "))
            }
        };
        let values =
            format!("label_values({query}, {})", self.attribute.map_or_else(|| "job".to_owned(), escaped));
        let all = json!({"selected": true, "text": ["All"], "value": ["$__all"]});
        let mut out = json!({
            "name": self.name, "label": self.label, "type": "query", "datasource": source(), "definition": values,
            "query": {"qryType": 1, "query": values, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "refresh": 2, "sort": 1, "multi": !self.one, "includeAll": !self.one, "current": all, "hide": 0, "options": [],
            "regex": "", "skipUrlSync": false,
        });
        if self.one {
            out["current"] = json!({});
        } else {
            // So that series without the label are kept.
            out["allValue"] = json!(".*");
        }
        out
    }

    fn knows(&self, other: &Self) -> bool {
        other.attribute.is_none_or(|attribute| self.of.iter().all(|m| m.attributes.contains(&attribute)))
    }

    fn matcher(&self) -> String {
        format!("{}=~\"${}\"", self.attribute.map_or_else(|| "job".to_owned(), escaped), self.name)
    }
}

/// The variables by which queries select.
#[derive(Clone, Copy)]
pub(super) struct Select(pub(super) &'static [Variable]);

impl Select {
    /// A metric's series.
    pub(super) fn of(&self, metric: &Metric) -> String {
        self.with(metric, "")
    }

    /// A metric's series, with a further matcher.
    pub(super) fn with(&self, metric: &Metric, more: &str) -> String {
        self.named(&metric.prometheus(), metric.attributes, more)
    }

    /// Series of this name and these attributes.
    pub(super) fn named(&self, name: &str, attributes: &[&str], more: &str) -> String {
        let known = |v: &&Variable| v.attribute.is_none_or(|attribute| attributes.contains(&attribute));
        let mut matchers: Vec<String> = self.0.iter().filter(known).map(Variable::matcher).collect();
        matchers.extend((!more.is_empty()).then(|| more.to_owned()));
        format!("{name}{{{}}}", matchers.join(", "))
    }

    /// A counter's rate, added up by attributes.
    pub(super) fn rate(&self, metric: &Metric, by: &[&str]) -> String {
        sum(by, &format!("rate({}[$__rate_interval])", self.of(metric)))
    }

    /// How much a counter grows, added up by attributes.
    pub(super) fn increase(&self, metric: &Metric, by: &[&str]) -> String {
        sum(by, &format!("increase({}[$__rate_interval])", self.of(metric)))
    }

    /// How much a counter of polls grew within the hour, added up by attributes. Polls come minutes apart: between two of them
    /// the interval of a graph holds none or one, and a rate over it nothing or many times too much.
    pub(super) fn hourly(&self, metric: &Metric, by: &[&str]) -> String {
        sum(by, &format!("increase({}[1h])", self.of(metric)))
    }

    /// What a counter of polls grows by in so many seconds at the present pace: what a poll has added so far, times the polls
    /// in that time. It is known from the first poll on, and does not move between two.
    pub(super) fn paced(&self, metric: &Metric, by: &[&str], seconds: u32) -> String {
        let polls = format!("sum without ({}) ({})", names(&[key::OUTCOME]), self.of(&catalogue::POLLS));
        let interval = self.of(&catalogue::INTERVAL);
        sum(by, &format!("\n  {} / {polls}\n  * {seconds} / {interval}\n", self.of(metric)))
    }

    /// The used part of buckets, by this metric. Of an account every sidecar sees the same bucket, so the fullest view is
    /// taken; where each counts its own share alone (scope `local`) the shares add up, as in the rules that alert.
    pub(super) fn fullest(&self, metric: &Metric) -> String {
        let by = names(BUCKET);
        format!("(max by ({by}) ({})\nor\nsum by ({by}) ({}))", self.seen(metric), self.counted())
    }

    /// The fullest of all buckets.
    pub(super) fn fullest_of_all(&self, metric: &Metric) -> String {
        let by = names(&[key::OWNER, key::LIMITER, key::WINDOW, key::MODEL, key::REGION]);
        format!("max(\n  {}\n  or\n  sum by ({by}) ({})\n)", self.seen(metric), self.counted())
    }

    fn seen(&self, metric: &Metric) -> String {
        self.with(metric, "plimsoll_scope!=\"local\"")
    }

    fn counted(&self) -> String {
        self.with(&catalogue::UTILIZATION, "plimsoll_scope=\"local\"")
    }

    /// A gauge of buckets: every sidecar sees the same one, so the fullest view is taken and never the sum.
    pub(super) fn worst(&self, function: &str, metric: &Metric) -> String {
        format!("{function} by ({}) ({})", names(BUCKET), self.of(metric))
    }
}

/// What makes a bucket itself, for whoever looks: everything but surface and provider, which the owner's kind implies.
pub(super) const BUCKET: &[&str] =
    &[key::OWNER, key::OWNER_KIND, key::LIMITER, key::WINDOW, key::SCOPE, key::MODEL, key::REGION];

/// A bucket in a legend.
pub(super) const BUCKET_LEGEND: &str =
    "{{plimsoll_owner}} {{plimsoll_limiter}} {{plimsoll_window}} {{gen_ai_request_model}} {{cloud_region}}";

/// Attributes as labels, for `by` and `on`.
pub(super) fn names(attributes: &[&str]) -> String {
    attributes.iter().map(|name| escaped(name)).collect::<Vec<_>>().join(", ")
}

fn sum(by: &[&str], what: &str) -> String {
    if by.is_empty() { format!("sum({what})") } else { format!("sum by ({}) ({what})", names(by)) }
}

/// Calls that somebody's limit refused within the last five minutes. A rate does not see the first one of a series, and
/// that one is the news; so the count is compared with what it was.
pub(super) fn refused_lately(select: &Select) -> String {
    let refused = select.with(&catalogue::REJECTIONS, "plimsoll_verdict!~\"not_a_limit|provider_overload\"");
    let before = format!("last_over_time({refused}[1h] offset 5m)");
    format!("sum(\n  ({refused} - {before} > 0)\n  or\n  (({refused} unless {refused} >= {before}) > 0)\n)")
}

/// Moments at which the limit of a bucket changed.
pub(super) fn limit_changes(select: &Select) -> String {
    let by = names(&[key::OWNER, key::LIMITER, key::WINDOW, key::MODEL]);
    format!("max by ({by}) (changes({}[2m])) > 0", select.of(&catalogue::LIMIT))
}

/// Moments at which a route was changed during an incident.
pub(super) fn route_changes(select: &Select) -> String {
    let by = names(&[key::ROUTE, key::OWNER, key::CHANGE]);
    format!("max by ({by}) (changes({}[2m])) > 0", select.of(&catalogue::ROUTE_CHANGES))
}
