//! A fake of Google: Cloud Quotas and Cloud Monitoring as documented, with pages.

use super::aws::Labels;
use super::serve_http1;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

#[derive(Default)]
pub struct State {
    /// Quotas: metric, base model, region (empty: none), value.
    pub quotas: Vec<(String, String, String, i64)>,
    /// Series: metric, its labels, the resource's labels, value of the newest minute.
    pub series: Vec<(String, Labels, Labels, Value)>,
    /// Status and message of every answer, if they are refused.
    pub refuse: Option<(u16, &'static str)>,
    /// How many queries of series came.
    pub queries: usize,
}

#[derive(Clone)]
pub struct Google {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Google {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let google = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let shared = google.clone();
        serve_http1(listener, move |request| {
            let google = shared.clone();
            async move { google.answer(&request) }
        });
        google
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut state = self.state.lock().unwrap();
        if let Some((status, message)) = state.refuse {
            let body = json!({"error": {"code": status, "message": message, "status": "PERMISSION_DENIED"}});
            let mut response = answer(&body);
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            return response;
        }
        let query: Vec<(String, String)> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=')?;
                let text = |part: &str| {
                    percent_encoding::percent_decode_str(&part.replace('+', " "))
                        .decode_utf8()
                        .unwrap()
                        .into_owned()
                };
                Some((text(name), text(value)))
            })
            .collect();
        let of =
            |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
        if request.uri().path().ends_with("/quotaInfos") {
            return state.quota_infos(of("pageToken").parse().unwrap_or(0));
        }
        assert_eq!(request.uri().path(), "/v3/projects/p-1/timeSeries");
        state.queries += 1;
        state.time_series(&of("filter"), &of("interval.endTime"))
    }
}

impl State {
    fn quota_infos(&self, from: usize) -> Response<Full<Bytes>> {
        let info = |(metric, base, region, value): &(String, String, String, i64)| {
            let mut dimensions = json!({"base_model": base});
            if !region.is_empty() {
                dimensions["region"] = region.as_str().into();
            }
            let location = if region.is_empty() { "global" } else { region };
            json!({"name": "n", "quotaId": "Id", "metric": format!("aiplatform.googleapis.com/{metric}"),
                "refreshInterval": "minute", "containerType": "PROJECT", "isPrecise": true,
                "dimensionsInfos": [{"dimensions": dimensions, "details": {"value": value.to_string()},
                    "applicableLocations": [location]}]})
        };
        let page: Vec<Value> = self.quotas.iter().skip(from).take(2).map(info).collect();
        let next = if from + 2 < self.quotas.len() { (from + 2).to_string() } else { String::new() };
        answer(&json!({"quotaInfos": page, "nextPageToken": next}))
    }

    fn time_series(&self, filter: &str, end: &str) -> Response<Full<Bytes>> {
        let end: jiff::Timestamp = end.parse().unwrap();
        let at = |secs: i64| jiff::Timestamp::from_second(end.as_second() - secs).unwrap().to_string();
        let object = |pairs: &[(String, String)]| -> Value {
            pairs.iter().cloned().map(|(k, v)| (k, v.into())).collect::<serde_json::Map<_, _>>().into()
        };
        if !self.series.iter().any(|(metric, ..)| filter.contains(&format!("\"{metric}\""))) {
            // As it is of a metric that was never written in a project.
            let body = json!({"error": {"code": 404, "message": "Cannot find metric(s) that match type", "status": "NOT_FOUND"}});
            let mut response = answer(&body);
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            return response;
        }
        let series: Vec<Value> = self
            .series
            .iter()
            .filter(|(metric, ..)| filter.contains(&format!("\"{metric}\"")))
            .map(|(metric, labels, resource, value)| {
                // Late by three minutes, and newest first, as it is.
                let point = |n: i64| json!({"interval": {"startTime": at(60 * (n + 4)), "endTime": at(60 * (n + 3))}, "value": value});
                json!({"metric": {"type": metric, "labels": object(labels)}, "resource": {"type": "r", "labels": object(resource)},
                    "metricKind": "DELTA", "valueType": "INT64", "points": [point(0), point(1)]})
            })
            .collect();
        answer(&json!({"timeSeries": series}))
    }
}

fn answer(body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Vertex AI itself: answers, streams, and refuses past a quota of input tokens.
#[derive(Clone)]
pub struct Vertex {
    pub address: SocketAddr,
    pub used: Arc<Mutex<u64>>,
    pub seen: Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>,
    limit: u64,
}

impl Vertex {
    /// One that takes so many input tokens.
    pub async fn start(limit: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let vertex = Self {
            address: listener.local_addr().unwrap(),
            used: Arc::default(),
            seen: Arc::default(),
            limit,
        };
        let shared = vertex.clone();
        serve_http1(listener, move |request| {
            let vertex = shared.clone();
            async move { vertex.answer(request).await }
        });
        vertex
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        let input = body.len() as u64 / 4;
        self.seen.lock().unwrap().push((head.clone(), body));
        let mut used = self.used.lock().unwrap();
        if *used + input > self.limit {
            let message = "Quota exceeded for aiplatform.googleapis.com/global_online_prediction_input_tokens_per_minute_per_base_model with base model: anthropic-claude-opus. Please submit a quota increase request. https://cloud.google.com/vertex-ai/docs/generative-ai/quotas-genai.";
            let mut refused =
                answer(&json!({"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}));
            *refused.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
            return refused;
        }
        *used += input;
        let message = |content: Value| {
            json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8",
            "content": content, "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": input, "output_tokens": 6}})
        };
        if head.uri.path().ends_with(":rawPredict") {
            return answer(&message(json!([{"type": "text", "text": "Hello"}])));
        }
        let events = [
            json!({"type": "message_start", "message": message(json!([]))}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": 6}}),
            json!({"type": "message_stop"}),
        ];
        let text: String = events
            .iter()
            .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap()))
            .collect();
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
        response
    }
}
