//! One route: its traffic, how it was answered, how long that took, and what was tried again.

use super::panel::{Form, Levels, Panel, Query};
use super::query::{JOB, MODEL, OWNER, ROUTE, Select, Variable};
use super::{Dashboard, Row};
use crate::exporters::catalogue::{self, key};
use crate::exporters::genai;

const VARIABLES: &[Variable] = &[JOB, OWNER, ROUTE, MODEL];
const SELECT: Select = Select(VARIABLES);

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "route",
        title: "Plimsoll: routes",
        text: "What passes on each route: calls and how they ended, tokens, time, retries, and limit headers that are missing.",
        variables: VARIABLES,
        rows: vec![
            Row { title: "Traffic", closed: false, panels: numbers().into_iter().chain(traffic()).collect() },
            Row { title: "Time", closed: true, panels: time() },
            Row { title: "Refusals and retries", closed: true, panels: refusals() },
        ],
    }
}

fn numbers() -> Vec<Panel> {
    let calls = SELECT.rate(&catalogue::REQUESTS, &[]);
    // A connection that became a WebSocket (101) is a success, too.
    let failed = SELECT.with(&catalogue::REQUESTS, "http_response_status_code!~\"101|2..\"");
    vec![
        Panel::stat("Calls per second", "Calls that ended, over all sidecars.", "reqps", calls.clone()).none("none"),
        Panel::stat(
            "Not answered with success",
            "The part of calls that ended with anything but a success (2xx, or 101), refusals and calls without an answer among them. Orange from 1 %, red from 5 %.",
            "percentunit",
            // Where nothing failed there is no series of failures, and where nothing was called there is no part.
            format!("(sum(rate({failed}[$__rate_interval])) or vector(0)) / ({calls} > 0)"),
        )
        .levels(Levels::Failed)
        .none("no calls"),
        Panel::stat(
            "Tokens per second",
            "Tokens of every type, as the provider reports them.",
            "short",
            SELECT.rate(&catalogue::TOKENS_USED, &[]),
        )
        .none("none"),
        Panel::stat(
            "Calls in flight",
            "Calls that run now through the hop, over all sidecars.",
            "short",
            format!("sum({})", SELECT.of(&catalogue::IN_FLIGHT)),
        )
        .none("none"),
    ]
}

fn traffic() -> Vec<Panel> {
    let by_status = SELECT.rate(&catalogue::REQUESTS, &[key::STATUS]);
    vec![
        Panel::lines(
            "Calls by status",
            "Calls that ended per second, by HTTP status. \"no answer\": the provider sent none.",
            "reqps",
            Query(
                format!(
                    "label_replace({by_status}, \"http_response_status_code\", \"no answer\", \"http_response_status_code\", \"\")"
                ),
                "{{http_response_status_code}}",
            ),
        )
        .drawn(Form::Stacked),
        Panel::lines(
            "Tokens by type",
            "Tokens used per second, as the provider reports them. Cache reads do not count against input limits.",
            "short",
            Query(SELECT.rate(&catalogue::TOKENS_USED, &[key::TOKEN_TYPE]), "{{gen_ai_token_type}}"),
        )
        .drawn(Form::Stacked),
        Panel::lines(
            "Calls by route and model",
            "Calls that ended per second. A model without a name was not told by the request.",
            "reqps",
            Query(
                SELECT.rate(&catalogue::REQUESTS, &[key::ROUTE, key::MODEL]),
                "{{plimsoll_route}} {{gen_ai_request_model}}",
            ),
        )
        .drawn(Form::Stacked),
        Panel::lines(
            "Calls in flight by route",
            "Calls in flight by route, over all sidecars. They belong to no owner yet, so owner and model do not select them.",
            "short",
            Query(format!("sum by (plimsoll_route) ({})", SELECT.of(&catalogue::IN_FLIGHT)), "{{plimsoll_route}}"),
        )
        .drawn(Form::Stacked),
    ]
}

fn time() -> Vec<Panel> {
    let series = SELECT.named(&format!("{}_bucket", genai::LATEST_DURATION), genai::ATTRIBUTES, "");
    let quantile = |q: &str| {
        format!(
            "histogram_quantile({q}, sum by (le, gen_ai_request_model) (rate({series}[$__rate_interval])))"
        )
    };
    let mut duration = Panel::lines(
        "Duration of a call",
        "From the request's first byte to the answer's last, by model: median and 95th percentile. Needs otlp.semconv: latest (OpenTelemetry's GenAI metrics); they know the model and no route.",
        "s",
        Query(quantile("0.5"), "median {{gen_ai_request_model}}"),
    )
    .size(24, 9);
    duration.queries.push(Query(quantile("0.95"), "95 % {{gen_ai_request_model}}"));
    vec![duration]
}

fn refusals() -> Vec<Panel> {
    vec![
        Panel::lines(
            "Refusals by route and verdict",
            "Refused calls per second, by route and by whose limit it was.",
            "reqps",
            Query(
                SELECT.rate(&catalogue::REJECTIONS, &[key::ROUTE, key::VERDICT]),
                "{{plimsoll_route}}: {{plimsoll_verdict}}",
            ),
        )
        .drawn(Form::StackedBars),
        Panel::lines(
            "Tried again, told by clients",
            "Attempts per second that failed before the one that was told of, as clients count them (Claude Code, SDKs' spans). Nobody says how they failed. Retries that pass the hop are calls of their own.",
            "reqps",
            Query(SELECT.rate(&catalogue::RETRIES, &[key::ROUTE]), "{{plimsoll_route}}"),
        )
        .drawn(Form::StackedBars),
        Panel::lines(
            "Successes without limit headers",
            "Answers of Anthropic's Messages per second that carried no limit header: something between drops them or writes them anew, and no alert can come of them (PlimsollHeadersMissing).",
            "reqps",
            Query(
                SELECT.rate(&catalogue::HEADERS_MISSING, &[key::ROUTE, key::HEADERS]),
                "{{plimsoll_route}}: {{plimsoll_headers}}",
            ),
        )
        .drawn(Form::StackedBars),
    ]
}
