//! A fake of AWS: Service Quotas (JSON 1.1), Bedrock's inference profiles (REST JSON), CloudWatch (CBOR), each from
//! its documented shapes, with pages; and Bedrock itself, which refuses past a quota as the real one does.

use super::{cbor, serve_http1};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

pub const ACCOUNT: &str = "123456789012";
pub const REGION: &str = "us-east-1";

/// Names and values.
pub type Labels = Vec<(String, String)>;

#[derive(Default)]
pub struct State {
    /// Applied quotas, by name.
    pub applied: Vec<(String, f64)>,
    /// AWS's defaults.
    pub defaults: Vec<(String, f64)>,
    /// Profile id, and the models' ARNs.
    pub profiles: Vec<(String, Vec<String>)>,
    /// Metrics: namespace, name, dimensions, value of every minute.
    pub metrics: Vec<(String, String, Labels, Value)>,
    /// Operations that are refused: name, status, code.
    pub refuse: BTreeMap<String, (u16, &'static str)>,
    /// Regions that are refused whole.
    pub refuse_region: Option<String>,
    /// Pages that never end.
    pub endless: bool,
    /// How often each operation was called.
    pub calls: BTreeMap<String, usize>,
    /// The access keys that calls were signed with.
    pub keys: Vec<String>,
    /// How many metrics were asked for.
    pub metrics_asked: usize,
    /// Largest number of metrics in one request.
    pub largest_batch: usize,
    /// Tokens a minute that the model takes; refused when they are used up.
    pub tokens_per_minute: Option<u64>,
    pub tokens_used: u64,
    /// Calls to the model: head and body.
    pub seen: Vec<(http::request::Parts, Bytes)>,
    /// Streams are refused inside a success.
    pub refuse_in_stream: bool,
}

#[derive(Clone)]
pub struct Aws {
    pub address: SocketAddr,
    pub state: Arc<Mutex<State>>,
}

impl Aws {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let aws = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let shared = aws.clone();
        serve_http1(listener, move |request| {
            let aws = shared.clone();
            async move { aws.answer(request).await }
        });
        aws
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn calls(&self, operation: &str) -> usize {
        self.state.lock().unwrap().calls.get(operation).copied().unwrap_or(0)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let path = head.uri.path().to_owned();
        let mut state = self.state.lock().unwrap();
        if path.starts_with("/model/") {
            return state.invoke(&head, &body);
        }
        if path == "/pod-identity" {
            let body = json!({"AccessKeyId": "AKIDPOD", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"});
            return ok("application/json", body.to_string().into_bytes());
        }
        if body.starts_with(b"Action=AssumeRoleWithWebIdentity") {
            let text = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
                <Credentials><AccessKeyId>AKIDWEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
                <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
            return ok("text/xml", text.as_bytes().to_vec());
        }
        let operation = match head.headers.get("x-amz-target") {
            Some(target) => target.to_str().unwrap().rsplit('.').next().unwrap().to_owned(),
            None if path == "/inference-profiles" => "ListInferenceProfiles".to_owned(),
            None => path.rsplit('/').next().unwrap().to_owned(),
        };
        *state.calls.entry(operation.clone()).or_default() += 1;
        let signed = head.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let key = signed.split("Credential=").nth(1).and_then(|scope| scope.split('/').next());
        state.keys.extend(key.map(str::to_owned));
        let in_region =
            state.refuse_region.as_ref().is_some_and(|region| signed.contains(&format!("/{region}/")));
        let refused = state.refuse.get(&operation).copied();
        if let Some((status, code)) = refused.or(in_region.then_some((403, "AccessDeniedException"))) {
            return error(status, code, operation == "GetMetricData" || operation == "ListMetrics");
        }
        match operation.as_str() {
            "ListServiceQuotas" => state.quotas(&body, true),
            "ListAWSDefaultServiceQuotas" => state.quotas(&body, false),
            "ListInferenceProfiles" => state.profiles(),
            "ListMetrics" => state.list_metrics(&cbor::read(&body)),
            "GetMetricData" => state.metric_data(&cbor::read(&body)),
            other => error(400, other, false),
        }
    }
}

impl State {
    fn quotas(&self, body: &[u8], applied: bool) -> Response<Full<Bytes>> {
        let asked: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(asked["ServiceCode"], "bedrock");
        let from: usize = asked["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
        let all = if applied { &self.applied } else { &self.defaults };
        let quota = |(name, value): &(String, f64)| {
            json!({"QuotaArn": format!("arn:aws:servicequotas:{REGION}:{ACCOUNT}:bedrock/L-1"), "QuotaCode": "L-1",
                "QuotaName": name, "Value": value, "Unit": "None", "GlobalQuota": false, "UsageMetric": {}})
        };
        // Small pages, so that paging is seen to work.
        let page: Vec<Value> = all.iter().skip(from).take(3).map(quota).collect();
        let more = self.endless || from + 3 < all.len();
        let mut answer = json!({"Quotas": page});
        if more {
            answer["NextToken"] = (from + 3).to_string().into();
        }
        ok("application/x-amz-json-1.1", answer.to_string().into_bytes())
    }

    fn profiles(&self) -> Response<Full<Bytes>> {
        let profile = |(id, models): &(String, Vec<String>)| {
            let arn = format!("arn:aws:bedrock:{REGION}:{ACCOUNT}:application-inference-profile/{id}");
            let models: Vec<Value> = models.iter().map(|arn| json!({"modelArn": arn})).collect();
            json!({"inferenceProfileName": id, "inferenceProfileArn": arn, "inferenceProfileId": id,
                "models": models, "status": "ACTIVE", "type": "APPLICATION"})
        };
        let all: Vec<Value> = self.profiles.iter().map(profile).collect();
        ok("application/json", json!({"inferenceProfileSummaries": all}).to_string().into_bytes())
    }

    fn list_metrics(&self, asked: &Value) -> Response<Full<Bytes>> {
        assert_eq!(asked["RecentlyActive"], "PT3H", "only what exists is paid for");
        let metrics: Vec<Value> = self
            .metrics
            .iter()
            .filter(|(namespace, ..)| asked["Namespace"] == namespace.as_str())
            .map(|(namespace, name, dimensions, _)| {
                let dimensions: Vec<Value> =
                    dimensions.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect();
                json!({"Namespace": namespace, "MetricName": name, "Dimensions": dimensions})
            })
            .collect();
        rpc(&json!({"Metrics": metrics}))
    }

    fn metric_data(&mut self, asked: &Value) -> Response<Full<Bytes>> {
        let queries = asked["MetricDataQueries"].as_array().unwrap();
        let (from, to) = (asked["StartTime"].as_f64().unwrap(), asked["EndTime"].as_f64().unwrap());
        assert!(from % 60.0 == 0.0 && to % 60.0 == 0.0, "aligned to the period");
        self.metrics_asked += queries.len();
        self.largest_batch = self.largest_batch.max(queries.len());
        let result = |query: &Value| {
            let stat = &query["MetricStat"];
            assert_eq!((stat["Stat"].as_str(), stat["Period"].as_f64()), (Some("Sum"), Some(60.0)));
            let metric = &stat["Metric"];
            let wanted: Vec<(String, String)> = metric["Dimensions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|d| (d["Name"].as_str().unwrap().to_owned(), d["Value"].as_str().unwrap().to_owned()))
                .collect();
            let found = self.metrics.iter().find(|(namespace, name, dimensions, _)| {
                metric["Namespace"] == namespace.as_str()
                    && metric["MetricName"] == name.as_str()
                    && *dimensions == wanted
            });
            // The newest two minutes are not in yet; the value is that of every minute before.
            let minutes = || (0..8).map(|n| from + 60.0 * f64::from(n)).filter(|at| *at < to - 60.0);
            let (times, values): (Vec<f64>, Vec<Value>) = found
                .filter(|(.., value)| !value.is_null())
                .map(|(.., value)| minutes().map(|at| (at, value.clone())).unzip())
                .unwrap_or_default();
            json!({"Id": query["Id"], "Label": "x", "StatusCode": "Complete", "Timestamps": times, "Values": values})
        };
        let results: Vec<Value> = queries.iter().map(result).collect();
        rpc(&json!({"MetricDataResults": results, "Messages": []}))
    }

    /// A call to the model, or its refusal past the quota: what was used is input and five times the output.
    fn invoke(&mut self, head: &http::request::Parts, body: &Bytes) -> Response<Full<Bytes>> {
        self.seen.push((head.clone(), body.clone()));
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let most = asked["max_tokens"].as_u64().or_else(|| asked["inferenceConfig"]["maxTokens"].as_u64());
        let (input, most) = (body.len() as u64 / 4, most.unwrap_or(20));
        let output = most.min(20);
        let refused = self.tokens_per_minute.is_some_and(|limit| self.tokens_used + input + most > limit);
        let streams = head.uri.path().ends_with("-stream");
        if refused && !(streams && self.refuse_in_stream) {
            return throttled();
        }
        if !refused {
            self.tokens_used += input + 5 * output;
        }
        match head.uri.path().rsplit('/').next().unwrap() {
            "converse" => {
                let answer = json!({"output": {"message": {"role": "assistant", "content": [{"text": "Hello"}]}},
                    "stopReason": "end_turn", "metrics": {"latencyMs": 5},
                    "usage": {"inputTokens": input, "outputTokens": output, "totalTokens": input + output}});
                ok("application/json", answer.to_string().into_bytes())
            }
            "converse-stream" => converse_events(input, output, refused),
            "invoke-with-response-stream" => chunks(input, output, refused),
            _ => {
                let answer = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
                    "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "stop_sequence": null,
                    "usage": {"input_tokens": input, "output_tokens": output}});
                ok("application/json", answer.to_string().into_bytes())
            }
        }
    }
}

fn throttled() -> Response<Full<Bytes>> {
    let body = r#"{"message":"Too many tokens, please wait before trying again."}"#;
    let mut refused = ok("application/json", body.into());
    *refused.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    let kind = "ThrottlingException:http://internal.amazon.com/coral/com.amazon.bedrock/";
    refused.headers_mut().insert("x-amzn-errortype", kind.parse().unwrap());
    refused.headers_mut().insert("x-amzn-requestid", "3d9e7b1a-0000-4000-8000-000000000001".parse().unwrap());
    refused
}

/// One frame of an event stream.
fn frame(out: &mut Vec<u8>, kind: &'static str, name: &'static str, payload: &Value) {
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
    let text = |value: &'static str| HeaderValue::String(value.into());
    let named = if kind == "exception" { ":exception-type" } else { ":event-type" };
    let message = Message::new(payload.to_string().into_bytes())
        .add_header(Header::new(":message-type", text(kind)))
        .add_header(Header::new(named, text(name)))
        .add_header(Header::new(":content-type", text("application/json")));
    aws_smithy_eventstream::frame::write_message_to(&message, out).unwrap();
}

const THROTTLED: &str = "Too many tokens, please wait before trying again.";

fn converse_events(input: u64, output: u64, refused: bool) -> Response<Full<Bytes>> {
    let mut out = Vec::new();
    frame(&mut out, "event", "messageStart", &json!({"role": "assistant"}));
    if refused {
        frame(&mut out, "exception", "throttlingException", &json!({"message": THROTTLED}));
        return ok("application/vnd.amazon.eventstream", out);
    }
    let delta = json!({"contentBlockIndex": 0, "delta": {"text": "Hello"}});
    frame(&mut out, "event", "contentBlockDelta", &delta);
    frame(&mut out, "event", "messageStop", &json!({"stopReason": "end_turn"}));
    let usage = json!({"inputTokens": input, "outputTokens": output, "totalTokens": input + output});
    frame(&mut out, "event", "metadata", &json!({"usage": usage, "metrics": {"latencyMs": 5}}));
    ok("application/vnd.amazon.eventstream", out)
}

fn chunks(input: u64, output: u64, refused: bool) -> Response<Full<Bytes>> {
    use base64::Engine;
    let mut out = Vec::new();
    if refused {
        frame(&mut out, "exception", "throttlingException", &json!({"message": THROTTLED}));
        return ok("application/vnd.amazon.eventstream", out);
    }
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": input, "output_tokens": 1}});
    for event in [
        json!({"type": "message_start", "message": message}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}, "usage": {"output_tokens": output}}),
        json!({"type": "message_stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": input,
            "outputTokenCount": output, "invocationLatency": 5, "firstByteLatency": 3}}),
    ] {
        let bytes = base64::engine::general_purpose::STANDARD.encode(event.to_string());
        frame(&mut out, "event", "chunk", &json!({"bytes": bytes}));
    }
    ok("application/vnd.amazon.eventstream", out)
}

fn ok(kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    response
}

fn rpc(document: &Value) -> Response<Full<Bytes>> {
    let mut response = ok("application/cbor", cbor::write(document));
    response.headers_mut().insert("smithy-protocol", http::HeaderValue::from_static("rpc-v2-cbor"));
    response
}

fn error(status: u16, code: &str, speaks_cbor: bool) -> Response<Full<Bytes>> {
    let document =
        json!({"__type": code, "message": "User: arn:aws:iam::123456789012:user/jane.doe is not authorized"});
    let mut response = if speaks_cbor {
        rpc(&document)
    } else {
        ok("application/x-amz-json-1.1", document.to_string().into_bytes())
    };
    response.headers_mut().insert("x-amzn-errortype", code.parse().unwrap());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    response
}

const SONNET: &str = "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 4.6";

impl Aws {
    /// Quotas and metrics of one account, as AWS tells them, odd ones among them.
    pub fn seed(&self) {
        let metric = |name: &str, dimensions: &[(&str, &str)], value: serde_json::Value| {
            let dimensions = dimensions.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            ("AWS/Bedrock".to_owned(), name.to_owned(), dimensions, value)
        };
        let (plain, profile) = ([("ModelId", "us.anthropic.claude-sonnet-4-6")], [("ModelId", "a1b2c3")]);
        let tiered = [plain[0], ("ServiceTier", "default"), ("ResolvedServiceTier", "default")];
        let arn =
            |region: &str| format!("arn:aws:bedrock:{region}::foundation-model/anthropic.claude-sonnet-4-6");
        self.set(|state| {
            state.defaults = [
                (SONNET, 6_000_000.0),
                (
                    "Cross-region model inference requests per minute for Anthropic Claude Sonnet 4.6",
                    10_000.0,
                ),
                ("On-demand model inference tokens per minute for Anthropic Claude 3 Haiku", -4.0),
                ("Sideways model inference tokens per minute for Anthropic Claude 9", 5.0),
                ("Cross-Model Max Tokens Per Day", 700_000_000.0),
                ("Batch inference jobs for X", 10.0),
                ("[bedrock-mantle endpoint] Input tokens per minute for Claude Opus 4.7", 20_000_000.0),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec();
            state.applied = vec![(SONNET.to_owned(), 100_000.0)];
            state.profiles = vec![("a1b2c3".to_owned(), vec![arn("us-east-1"), arn("us-west-2")])];
            state.metrics = vec![
                metric("EstimatedTPMQuotaUsage", &plain, json!(40_000.0)),
                // The same calls once more, by another set of dimensions: never added.
                metric("EstimatedTPMQuotaUsage", &tiered, json!(40_000.0)),
                metric("InputTokenCount", &plain, json!(30_000.0)),
                metric("Invocations", &plain, json!(12.0)),
                metric("InvocationThrottles", &plain, json!(2.0)),
                // A profile of somebody else draws on the same quota; AWS does not add its charge up.
                metric("InputTokenCount", &profile, json!(1_000.0)),
                metric("OutputTokenCount", &profile, json!(100.0)),
                metric("CacheWriteInputTokenCount", &profile, json!(500.0)),
                metric("Invocations", &profile, json!("NaN")),
            ];
        });
    }
}
