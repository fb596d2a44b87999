//! The fleet, and what it costs to ask: sources, their freshness, polls and money.

use super::panel::{Form, Levels, Look, Panel, Query, column};
use super::query::{JOB, SOURCE, Select, Variable, names};
use super::{Dashboard, Row};
use crate::exporters::catalogue::{self, key};

const VARIABLES: &[Variable] = &[JOB, SOURCE];
const SELECT: Select = Select(VARIABLES);
/// Seconds of a day.
const DAY: u32 = 86_400;

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "fleet",
        title: "Plimsoll: fleet and cost of polling",
        text: "Which sidecars report, what each source gives and how fresh it is, and what the providers charge for being asked.",
        variables: VARIABLES,
        rows: vec![
            Row { title: "Fleet and sources", closed: false, panels: sources() },
            Row { title: "Polls and their cost", closed: true, panels: polls() },
            Row { title: "Sources outside of the path", closed: true, panels: outside() },
        ],
    }
}

fn by_source(function: &str, metric: &catalogue::Metric) -> String {
    format!("{function} by ({}) ({})", names(&[key::SOURCE]), SELECT.of(metric))
}

/// Every source in a row of its own.
fn table() -> Panel {
    Panel::new(
        "Sources",
        "Every source of observations: whether it works on any sidecar, how old its newest news is, and how often it is asked. The hop and logs are not asked; without traffic they are old in good health.",
        Form::Table(
            vec![
                column("plimsoll_source", "Source", Look::Plain),
                column("Value #A", "Works", Look::Number("short", Levels::One)),
                column("Value #B", "Newest", Look::Number("s", Levels::None)),
                column("Value #C", "Asked every", Look::Number("s", Levels::None)),
                column("Value #D", "One poll takes", Look::Number("s", Levels::None)),
            ],
            "Newest",
        ),
        "short",
        24,
        9,
        vec![
            Query(by_source("min", &catalogue::SOURCE_UP), "__auto"),
            Query(format!("time() - {}", by_source("max", &catalogue::SOURCE_TIME)), "__auto"),
            Query(by_source("max", &catalogue::INTERVAL), "__auto"),
            Query(by_source("max", &catalogue::POLL_TIME), "__auto"),
        ],
    )
}

fn sources() -> Vec<Panel> {
    vec![
        Panel::stat(
            "Sidecars that report",
            "Sidecars and pollers whose metrics are read. Fewer than your pods: some are not scraped.",
            "short",
            format!("count({})", SELECT.of(&catalogue::BUILD_INFO)),
        )
        .none("none"),
        Panel::stat(
            "Sources that fail",
            "Sources that a sidecar or a poller cannot read. A poller of the same name may still read one: PlimsollSourceDown says when nobody does.",
            "short",
            format!("sum({} == bool 0)", by_source("min", &catalogue::SOURCE_UP)),
        )
        .levels(Levels::Zero)
        .none("none"),
        Panel::stat(
            "Polling costs a day",
            "US dollars a day at the present pace, by the documented prices of CloudWatch and Cloud Monitoring: what a poll has cost so far, times the polls of a day.",
            "currencyUSD",
            SELECT.paced(&catalogue::COST, &[], DAY),
        )
        .none("nothing"),
        Panel::stat(
            "Could not be used",
            "Items in the sources' answers that could not be used within the last hour. The log names each kind once.",
            "short",
            SELECT.hourly(&catalogue::UNUSABLE, &[]),
        )
        .levels(Levels::Zero)
        .none("none"),
        table(),
        Panel::lines(
            "Sidecars by version",
            "Sidecars that report, by version. Two versions outside of a rollout are a mistake.",
            "short",
            Query(format!("count by (version) ({})", SELECT.of(&catalogue::BUILD_INFO)), "{{version}}"),
        )
        .drawn(Form::Stacked),
        Panel::lines(
            "Age of each source's news",
            "Time since a source last gave something, on the sidecar where it is newest.",
            "s",
            Query(format!("time() - {}", by_source("max", &catalogue::SOURCE_TIME)), "{{plimsoll_source}}"),
        ),
    ]
}

fn polls() -> Vec<Panel> {
    let by = &[key::SOURCE];
    vec![
        Panel::lines(
            "Polls by outcome",
            "Polls of every source within an hour, by whether they gave something.",
            "short",
            Query(
                SELECT.hourly(&catalogue::POLLS, &[key::SOURCE, key::OUTCOME]),
                "{{plimsoll_source}}: {{plimsoll_outcome}}",
            ),
        )
        .drawn(Form::Stacked),
        Panel::lines(
            "How long a poll takes",
            "The newest poll of each source, on the sidecar where it took longest.",
            "s",
            Query(by_source("max", &catalogue::POLL_TIME), "{{plimsoll_source}}"),
        ),
        Panel::lines(
            "Cost by source",
            "US dollars a day at the present pace, by source. A budget in the configuration stops a source before it costs more.",
            "currencyUSD",
            Query(SELECT.paced(&catalogue::COST, by, DAY), "{{plimsoll_source}}"),
        )
        .drawn(Form::Stacked),
        Panel::lines(
            "Billed items by source",
            "What is charged for, an hour at the present pace: metrics of CloudWatch, series of Cloud Monitoring.",
            "short",
            Query(SELECT.paced(&catalogue::BILLED, by, 3_600), "{{plimsoll_source}}"),
        )
        .drawn(Form::Stacked),
    ]
}

fn outside() -> Vec<Panel> {
    vec![
        Panel::lines(
            "What sources told",
            "Observations per second by source. repeated: another one had told of the call before. dropped: the engine had no room. skipped: of no call to a model.",
            "ops",
            Query(
                SELECT.rate(&catalogue::TOLD, &[key::SOURCE, key::OUTCOME]),
                "{{plimsoll_source}}: {{plimsoll_outcome}}",
            ),
        ),
        Panel::lines(
            "Wrong clocks, unusable items",
            "Observations within an hour whose times had to be set by the answer's Date, and items that could not be used.",
            "short",
            Query(SELECT.hourly(&catalogue::SKEWED, &[key::SOURCE]), "wrong clock: {{plimsoll_source}}"),
        )
        .with(Query(SELECT.hourly(&catalogue::UNUSABLE, &[key::SOURCE]), "unusable: {{plimsoll_source}}")),
    ]
}
