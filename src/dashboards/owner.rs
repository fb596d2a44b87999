//! One owner: its buckets, what was foreseen of them and what came, its incidents, and who draws on it.

use super::overview::{numbers, refusals, until_empty, used_now};
use super::panel::{Form, Levels, Look, Panel, Query, column, kind_of_owner};
use super::query::{BUCKET_LEGEND, JOB, MODEL, ONE_OWNER, SURFACE, Select, Variable, names};
use super::{Dashboard, Row, link_to};
use crate::exporters::catalogue::{self, key};

const VARIABLES: &[Variable] = &[JOB, ONE_OWNER, SURFACE, MODEL];
const SELECT: Select = Select(VARIABLES);

pub(super) fn dashboard() -> Dashboard {
    let mut top: Vec<Panel> = numbers(&SELECT).into();
    top.push(firing());
    top.extend([contact(), buckets()]);
    Dashboard {
        name: "owner",
        title: "Plimsoll: one owner",
        text: "The buckets of one owner: how full, what was foreseen and what came, what was refused, and who draws on them.",
        variables: VARIABLES,
        rows: vec![
            Row { title: "Now", closed: false, panels: top },
            Row { title: "Foreseen, and as it came", closed: true, panels: foresight() },
            Row { title: "Incidents", closed: true, panels: incidents() },
            Row { title: "Who draws", closed: true, panels: draws() },
        ],
    }
}

fn firing() -> Panel {
    Panel::stat(
        "Alerts that fire",
        "Alerts on this owner's limits that fire, as Prometheus' rules decide.",
        "short",
        "count(ALERTS{alertname=~\"Plimsoll.*\", alertstate=\"firing\", %OWNER%=~\"$owner\"})".to_owned(),
    )
    .levels(Levels::Zero)
    .none("none")
}

fn contact() -> Panel {
    let by = names(&[key::OWNER, key::OWNER_KIND, key::CONTACT, key::RUNBOOK, key::DASHBOARD]);
    let open = || "${__value.raw}".to_owned();
    let columns = vec![
        column("contact", "Call", Look::Plain),
        column("runbook_url", "Runbook", Look::Link("Open the owner's runbook", open())),
        column("dashboard_url", "Dashboard", Look::Link("Open the owner's dashboard", open())),
        kind_of_owner(),
        column("plimsoll_owner", "Owner", Look::Plain),
    ];
    Panel::new(
        "Whom to call",
        "Who holds these limits, as configured under owners. An owner that is unnamed has no entry: nobody configured one that its calls match.",
        Form::Table(columns, "Kind of owner"),
        "short",
        24,
        4,
        vec![Query(format!("max by ({by}) ({})", SELECT.of(&catalogue::OWNER_INFO)), "__auto")],
    )
    .by_kind()
}

fn buckets() -> Panel {
    let columns = vec![
        column("plimsoll_limiter", "Limiter", Look::Plain),
        column("plimsoll_window", "Window", Look::Plain),
        column("gen_ai_request_model", "Model", Look::Plain),
        column("cloud_region", "Region", Look::Plain),
        column("Value #A", "Used now", Look::Bar),
        column("Value #B", "Limit", Look::Number("short", Levels::None)),
        column("Value #C", "Left", Look::Number("short", Levels::None)),
        column("Value #D", "Empty in", Look::Number("s", Levels::Empty)),
        column("Value #E", "Full again in", Look::Number("s", Levels::None)),
        column("plimsoll_scope", "Scope", Look::Plain),
        kind_of_owner(),
        column("plimsoll_owner", "Owner", Look::Plain),
    ];
    let query = |text| Query(text, "__auto");
    Panel::new(
        "Buckets",
        "Each bucket of this owner, in requests or tokens. Left is what the provider told last, and what has come back since by the refill.",
        Form::Table(columns, "Used now"),
        "percentunit",
        24,
        9,
        vec![
            query(SELECT.fullest(&catalogue::UTILIZATION)),
            query(SELECT.worst("max", &catalogue::LIMIT)),
            query(SELECT.worst("min", &catalogue::REMAINING)),
            query(SELECT.worst("min", &catalogue::EXHAUSTION)),
            query(format!("({} - time()) > 0", SELECT.worst("max", &catalogue::RESET))),
        ],
    )
    .levels(Levels::Used)
    .by_kind()
}

/// What is left of a bucket a while later by a forecast, where there was one: in a straight line to empty.
fn foreseen(secs: u32) -> String {
    let used = SELECT.worst("max", &catalogue::UTILIZATION);
    let empty = SELECT.worst("min", &catalogue::EXHAUSTION);
    let before = |query: &str| query.replacen("})", &format!("}} offset {secs}s)"), 1);
    format!("(1 - {}) * clamp_min(1 - {secs} / ({}), 0)", before(&used), before(&empty))
}

fn foresight() -> Vec<Panel> {
    let left = format!("1 - {}", SELECT.worst("max", &catalogue::UTILIZATION));
    let mut compared = Panel::lines(
        "Left: foreseen 15 s before, and as it came",
        "The part that is left of each bucket, beside what the forecast of 15 s before made of it. Foreseen below what came: the forecast was too dark. Above: too bright, and an alert came late. No forecast: the bucket was going to refill first.",
        "percentunit",
        Query(left, "came: {{plimsoll_limiter}} {{plimsoll_window}} {{gen_ai_request_model}} {{cloud_region}}"),
    )
    .size(24, 9)
    .by_kind();
    compared.queries.push(Query(
        foreseen(15),
        "foreseen: {{plimsoll_limiter}} {{plimsoll_window}} {{gen_ai_request_model}} {{cloud_region}}",
    ));
    let run_out = Panel::lines(
        "Probability of running empty",
        "How likely each bucket is empty within the horizon of the forecast (minute buckets), or before its reset (longer windows). An alert needs more than this: it must have earned its voice on the bucket.",
        "percentunit",
        Query(SELECT.worst("max", &catalogue::RUN_OUT), BUCKET_LEGEND),
    )
    .by_kind();
    let mut pace = Panel::lines(
        "Longer windows: used, and an even pace",
        "The used part of windows longer than a minute, beside the part of the window that has passed. Used above the even pace runs out before the reset.",
        "percentunit",
        Query(
            format!(
                "{} and on ({}) {}",
                SELECT.worst("max", &catalogue::UTILIZATION),
                names(&[key::OWNER, key::LIMITER, key::WINDOW, key::MODEL]),
                SELECT.of(&catalogue::EXPECTED)
            ),
            "used: {{plimsoll_limiter}} {{plimsoll_window}} {{gen_ai_request_model}}",
        ),
    )
    .by_kind();
    pace.queries.push(Query(
        SELECT.worst("max", &catalogue::EXPECTED),
        "even pace: {{plimsoll_limiter}} {{plimsoll_window}} {{gen_ai_request_model}}",
    ));
    vec![compared, until_empty(&SELECT), used_now(&SELECT), run_out, pace]
}

fn incidents() -> Vec<Panel> {
    let changes = Panel::lines(
        "Route changes during an incident",
        "Changes of credential, plan, provider or model while an incident was open. Each destroys evidence: what fails now is not what failed then.",
        "short",
        Query(
            SELECT.increase(&catalogue::ROUTE_CHANGES, &[key::ROUTE, key::CHANGE]),
            "{{plimsoll_route}}: {{plimsoll_change}}",
        ),
    )
    .drawn(Form::StackedBars);
    let proof = Panel::lines(
        "Refusals by proof",
        "Refused calls per second by what proved whose limit it was. Many by wording or route alone: something between drops the limit headers.",
        "reqps",
        Query(SELECT.rate(&catalogue::REJECTIONS, &[key::EVIDENCE]), "{{plimsoll_evidence}}"),
    )
    .drawn(Form::StackedBars);
    refusals(&SELECT).into_iter().chain([proof, changes]).collect()
}

fn draws() -> Vec<Panel> {
    let calls = Panel::lines(
        "Calls by route",
        "Calls per second that draw on this owner's limits, by route.",
        "reqps",
        Query(SELECT.rate(&catalogue::REQUESTS, &[key::ROUTE]), "{{plimsoll_route}}"),
    )
    .drawn(Form::Stacked);
    let tokens = Panel::lines(
        "Tokens by route and type",
        "Tokens per second as the provider counts them. Cache reads do not count against input limits.",
        "short",
        Query(
            SELECT.rate(&catalogue::TOKENS_USED, &[key::ROUTE, key::TOKEN_TYPE]),
            "{{plimsoll_route}} {{gen_ai_token_type}}",
        ),
    )
    .drawn(Form::Stacked);
    let by = names(&[key::ROUTE]);
    let routes = Panel::new(
        "Routes",
        "Every route whose calls draw on this owner's limits, with its pace now. Click one for its traffic.",
        Form::Table(
            vec![
                column(
                    "plimsoll_route",
                    "Route",
                    Look::Link("This route", link_to("route", "&var-route=${__value.raw}")),
                ),
                column("Value #A", "Calls per second", Look::Number("reqps", Levels::None)),
                column("Value #B", "Tokens per second", Look::Number("short", Levels::None)),
            ],
            "Tokens per second",
        ),
        "short",
        24,
        6,
        vec![
            Query(
                format!("sum by ({by}) (rate({}[$__rate_interval]))", SELECT.of(&catalogue::REQUESTS)),
                "__auto",
            ),
            Query(
                format!("sum by ({by}) (rate({}[$__rate_interval]))", SELECT.of(&catalogue::TOKENS_USED)),
                "__auto",
            ),
        ],
    );
    vec![calls, tokens, routes]
}
