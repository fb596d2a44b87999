//! Does Plimsoll itself work?

use super::panel::{Form, Levels, Panel, Query};
use super::query::{JOB, Select, Variable};
use super::{Dashboard, Row};
use crate::exporters::catalogue::{self, Metric, key};

const VARIABLES: &[Variable] = &[JOB];
const SELECT: Select = Select(VARIABLES);

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "health",
        title: "Plimsoll: its own health",
        text: "Whether Plimsoll sees what passes and whether what it says arrives. The traffic itself never waits for any of this.",
        variables: VARIABLES,
        rows: vec![
            Row { title: "At a glance", closed: false, panels: numbers() },
            Row { title: "Measuring and exports", closed: false, panels: graphs() },
        ],
    }
}

fn numbers() -> Vec<Panel> {
    let lost =
        |metric: &Metric| format!("(sum(increase({}[$__rate_interval])) or vector(0))", SELECT.of(metric));
    vec![
        Panel::stat(
            "Refused configurations",
            "Sidecars that run on with an older configuration because they refused the newest one (PlimsollConfigReloadFailed). Their log names line and fix.",
            "short",
            format!("sum(1 - {})", SELECT.of(&catalogue::RELOAD_OK)),
        )
        .levels(Levels::Zero)
        .none("no sidecar"),
        Panel::stat(
            "Measuring that was lost",
            "Observations dropped by a full queue, and panics that were caught. Totals are right all the same; a forecast is worse.",
            "short",
            format!("{} + {}", lost(&catalogue::TAP_DROPPED), lost(&catalogue::PANICS)),
        )
        .levels(Levels::Zero),
        Panel::stat(
            "Folded",
            "Buckets, refusals and totals that found no room in the bounded tables (PlimsollFolded): they have no row, and no alert.",
            "short",
            lost(&catalogue::FOLDED),
        )
        .levels(Levels::Zero),
        Panel::stat(
            "Deepest queue",
            "Observations that wait for the engine, in the sidecar where most of them wait. Near 0 in health; a full queue drops.",
            "short",
            format!("max({})", SELECT.of(&catalogue::QUEUE)),
        )
        .none("no sidecar"),
    ]
}

fn graphs() -> Vec<Panel> {
    let lost = |metric: &Metric| SELECT.increase(metric, &[]);
    let measuring = Panel::lines(
        "Measuring that was lost, by what",
        "What measuring lost or could not read; the traffic itself passed. Dropped observations make a forecast worse, folded rows hide an owner or model, and a panic is a defect to report.",
        "short",
        Query(lost(&catalogue::TAP_DROPPED), "dropped by a full queue"),
    )
    .drawn(Form::Bars)
    .with(Query(lost(&catalogue::LATE), "came too late"))
    .with(Query(lost(&catalogue::UNREADABLE), "unreadable headers"))
    .with(Query(
        format!("{} + {}", lost(&catalogue::UNREAD_BODIES), lost(&catalogue::UNMEASURED_BODIES)),
        "bodies not decoded",
    ));
    vec![
        measuring,
        Panel::lines(
            "Exports by outcome",
            "Exports per second, by exporter and how they ended. failed: alerts or metrics do not arrive there (PlimsollExportFailing). dropped: the exporter could not keep up.",
            "ops",
            Query(
                SELECT.rate(&catalogue::EXPORTS, &[key::EXPORTER, key::OUTCOME]),
                "{{plimsoll_exporter}}: {{plimsoll_outcome}}",
            ),
        ),
        Panel::lines(
            "Configurations taken and refused",
            "New configurations by whether they were put in place, over all sidecars.",
            "short",
            Query(SELECT.increase(&catalogue::RELOADS, &[key::OUTCOME]), "{{plimsoll_outcome}}"),
        )
        .drawn(Form::StackedBars),
        Panel::lines(
            "Age of the engine's last word",
            "How long ago the engine of the slowest sidecar last published what it knows, as it does twice a second. While it stands still calls pass, and its levels and alerts are old (PlimsollEngineStalled).",
            "s",
            Query(
                format!("max(timestamp({engine}) - {engine})", engine = SELECT.of(&catalogue::ENGINE_TIME)),
                "slowest engine",
            ),
        ),
        Panel::lines(
            "Queue to the engine",
            "Observations that wait for the engine, in the sidecar where most of them wait.",
            "short",
            Query(format!("max({})", SELECT.of(&catalogue::QUEUE)), "deepest queue"),
        ),
    ]
}
