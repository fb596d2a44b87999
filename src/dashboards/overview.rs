//! Is anybody near a limit, and who is to be called?

use super::panel::{Form, Levels, Look, Panel, Query, column, kind_of_owner};
use super::query::{self, BUCKET_LEGEND, JOB, MODEL, OWNER, SURFACE, Select, Variable, names};
use super::{Dashboard, Row, link_to};
use crate::exporters::catalogue::{self, key};

const VARIABLES: &[Variable] = &[JOB, OWNER, SURFACE, MODEL];
const SELECT: Select = Select(VARIABLES);

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "overview",
        title: "Plimsoll: owners and their limits",
        text: "How near LLM traffic is to each rate limit, who owns it, and when it will be empty.",
        variables: VARIABLES,
        rows: vec![
            Row { title: "Owners and worst buckets", closed: false, panels: worst(&SELECT) },
            Row { title: "Alerts", closed: false, panels: vec![alerts()] },
            Row { title: "Levels", closed: true, panels: levels() },
            Row { title: "Refusals", closed: true, panels: refusals(&SELECT) },
        ],
    }
}

/// The four numbers that say whether anybody is near a limit.
pub(super) fn numbers(select: &Select) -> [Panel; 3] {
    [
        Panel::stat(
            "Fullest bucket",
            "The largest used part of any bucket within the last 60 s, or now where sidecars count it themselves: 100 % is empty. Orange from 80 % and red from 95 %, as the alerts PlimsollBucketPressure and PlimsollBucketExhausting.",
            "percentunit",
            select.fullest_of_all(&catalogue::PEAK),
        )
        .levels(Levels::Used)
        .none("no bucket known"),
        Panel::stat(
            "Soonest empty",
            "Time until the first bucket is empty, if its traffic goes on as now. Red below 20 s, orange below 60 s. Nothing is shown while every bucket refills faster than it drains.",
            "s",
            format!("min({})", select.of(&catalogue::EXHAUSTION)),
        )
        .levels(Levels::Empty)
        .none("none runs empty"),
        Panel::stat(
            "Refused in 5 minutes",
            "Calls that somebody's limit refused within the last 5 minutes, the first refusal included. Overload of the provider is not counted: it is nobody's quota.",
            "short",
            query::refused_lately(select),
        )
        .levels(Levels::Zero)
        .none("none"),
    ]
}

fn worst(select: &Select) -> Vec<Panel> {
    let newest = Panel::stat(
        "Newest reading",
        "Time since any sidecar last read a limit from an answer. Limits are learnt from traffic: an old reading means no traffic, or answers that carry no limits.",
        "s",
        format!("time() - max({})", select.of(&catalogue::SOURCE_TIME)),
    )
    .none("nothing read yet");
    let fullest = Panel::new(
        "Ten fullest buckets",
        "The largest used part within the last 60 s of the ten fullest buckets. Click one for the runbook of its kind of owner.",
        Form::Gauges,
        "percentunit",
        8,
        10,
        vec![Query(format!("topk(10, {})", select.fullest(&catalogue::PEAK)), BUCKET_LEGEND)],
    )
    .levels(Levels::Used)
    .by_kind();
    numbers(select).into_iter().chain([newest, buckets(select), fullest]).collect()
}

/// The used part of every bucket with whom to call; of an owner that is not configured nobody is known.
fn with_contact(select: &Select) -> String {
    let peak = select.fullest(&catalogue::PEAK);
    let owner = names(&[key::OWNER, key::OWNER_KIND]);
    let contact = names(&[key::RUNBOOK, key::CONTACT]);
    let info = select.of(&catalogue::OWNER_INFO);
    format!(
        "{peak}\n* on ({owner}) group_left ({contact})\ntopk by ({owner}) (1, max by ({owner}, {contact}) ({info}))\nor\n{peak}\nunless on ({owner}) {info}"
    )
}

fn buckets(select: &Select) -> Panel {
    let by_owner = link_to("owner", "&var-owner=${__value.raw}");
    let columns = vec![
        column("plimsoll_owner", "Owner", Look::Link("This owner", by_owner)),
        column("plimsoll_limiter", "Limiter", Look::Plain),
        column("plimsoll_window", "Window", Look::Plain),
        column("gen_ai_request_model", "Model", Look::Plain),
        column("cloud_region", "Region", Look::Plain),
        column("Value #A", "Peak, last 60 s", Look::Bar),
        column("Value #B", "Used now", Look::Number("percentunit", Levels::Used)),
        column("Value #C", "Empty in", Look::Number("s", Levels::Empty)),
        column("Value #D", "Last read", Look::Number("s", Levels::None)),
        kind_of_owner(),
        column("contact", "Call", Look::Plain),
        column(
            "runbook_url",
            "Owner's runbook",
            Look::Link("Open the owner's runbook", "${__value.raw}".into()),
        ),
        column("plimsoll_scope", "Scope", Look::Plain),
    ];
    Panel::new(
        "Buckets, fullest first",
        "Every bucket with its owner: how full, when empty, when last read, whom to call. A bucket without a level was not read for longer than it takes to refill. Every sidecar sees the same bucket of an account, so the fullest view is taken, never the sum. Scope local: what the sidecars counted themselves, added up.",
        Form::Table(columns, "Peak, last 60 s"),
        "percentunit",
        16,
        10,
        vec![
            Query(with_contact(select), "__auto"),
            Query(select.fullest(&catalogue::UTILIZATION), "__auto"),
            Query(select.worst("min", &catalogue::EXHAUSTION), "__auto"),
            Query(format!("time() - {}", select.worst("max", &catalogue::OBSERVED)), "__auto"),
        ],
    )
    .levels(Levels::Used)
    .by_kind()
}

/// Alerts that fire, over time: which, whose, on what.
fn alerts() -> Panel {
    Panel::new(
        "Alerts that fire",
        "Alerts of Plimsoll that fire, as Prometheus' rules decide. The sidecars' own ones come earlier, by seconds, and are the same alerts in Alertmanager.",
        Form::StackedBars,
        "short",
        24,
        7,
        vec![Query(
            "count by (alertname, %OWNER%, limiter, window, model) (ALERTS{alertname=~\"Plimsoll.*\", alertstate=\"firing\", %OWNER%=~\"$owner\"})"
                .to_owned(),
            "{{alertname}} {{%OWNER%}} {{limiter}} {{window}} {{model}}",
        )],
    )
}

fn levels() -> Vec<Panel> {
    vec![
        until_empty(&SELECT).size(24, 8),
        used_now(&SELECT),
        Panel::lines(
            "Peak of the last 60 s",
            "Largest used part of each bucket within the last 60 s. It shows what happens between two scrapes. Dashed: 80 % (warning) and 95 % (critical).",
            "percentunit",
            Query(SELECT.fullest(&catalogue::PEAK), BUCKET_LEGEND),
        )
        .levels(Levels::Used)
        .by_kind(),
    ]
}

pub(super) fn until_empty(select: &Select) -> Panel {
    Panel::lines(
        "Time until empty",
        "Time until each bucket is empty at its present net drain. A line that falls to 0 ends in refusals; no line means that the bucket refills first. Dashed: 60 s (warning) and 20 s (critical).",
        "s",
        Query(select.worst("min", &catalogue::EXHAUSTION), BUCKET_LEGEND),
    )
    .levels(Levels::Empty)
    .by_kind()
}

pub(super) fn used_now(select: &Select) -> Panel {
    Panel::lines(
        "Used now",
        "Used part of each bucket: 0 % is full, 100 % is empty, more is over the limit. Between answers it sinks by the bucket's refill.",
        "percentunit",
        Query(select.fullest(&catalogue::UTILIZATION), BUCKET_LEGEND),
    )
    .levels(Levels::Used)
    .by_kind()
}

pub(super) fn refusals(select: &Select) -> Vec<Panel> {
    let by = &[key::VERDICT, key::OWNER, key::OWNER_KIND];
    let wait = names(&[key::VERDICT, key::OWNER, key::OWNER_KIND, key::LIMITER]);
    vec![
        Panel::lines(
            "Refusals by verdict and owner",
            "Refused calls per second, by whose limit it was. provider_overload is nobody's quota, not_a_limit only looks like one. The first refusal of a new kind is not visible in a rate: see \"Refused in 5 minutes\".",
            "reqps",
            Query(select.rate(&catalogue::REJECTIONS, by), "{{plimsoll_verdict}}: {{plimsoll_owner}}"),
        )
        .drawn(Form::StackedBars)
        .by_kind(),
        Panel::lines(
            "Wait that was asked for",
            "What is left of the wait that the newest refusal stated in retry-after. Calls that come sooner will be refused again.",
            "s",
            Query(
                format!("max by ({wait}) ({})", select.of(&catalogue::RETRY_AFTER)),
                "{{plimsoll_verdict}}: {{plimsoll_owner}} {{plimsoll_limiter}}",
            ),
        )
        .by_kind(),
    ]
}
