//! Envoy's gRPC access log service (`envoy.service.accesslog.v3`): each entry is a call, or a step of one.
//!
//! Envoy logs a call when it ends. With `access_log_flush_interval` it also logs it while it runs: such entries carry the
//! same `stream_id` and the response's headers, so that the limits of a ten-minute stream are known at once. What Envoy
//! answered by itself is told by its response flags and `response_code_details`. Nothing is acknowledged: a stream that
//! breaks off costs what was on its way.

use super::intake::{Intake, Teller};
use crate::limit::Timestamp;
use crate::mapping;
use crate::seen::{Seen, span_of, without_query};
use envoy_types::pb::envoy::config::core::v3::RequestMethod;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
    ResponseFlags,
};
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

/// Largest message that is read. Envoy's own buffer is 16 kB unless it is told otherwise.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Most streams at once: each Envoy worker has one, and each may hold one message that is not whole.
const STREAMS: usize = 256;
/// Most response headers of an entry that are taken.
const MAX_HEADERS: usize = 100;

/// Where Envoy's AI Gateway keeps what it knows of a call.
const AI_GATEWAY: &str = "io.envoy.ai_gateway";

/// Receives Envoy's access log.
pub fn spawn(listener: TcpListener, intake: &Intake) -> JoinHandle<()> {
    let receiver = Receiver { teller: intake.teller("envoy_als"), streams: Semaphore::new(STREAMS) };
    let service = AccessLogServiceServer::new(receiver)
        .max_decoding_message_size(MAX_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip);
    tokio::spawn(crate::grpc_server::serve(listener, move |request| {
        let mut service = service.clone();
        async move { service.call(request).await.unwrap_or_else(|never| match never {}) }
    }))
}

struct Receiver {
    teller: Teller,
    streams: Semaphore,
}

#[tonic::async_trait]
impl AccessLogService for Receiver {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let Ok(_stream) = self.streams.try_acquire() else {
            return Err(Status::resource_exhausted("too many streams; try again later"));
        };
        let mut messages = request.into_inner();
        loop {
            match messages.message().await {
                Ok(Some(message)) => take(&self.teller, message),
                Ok(None) => return Ok(Response::new(StreamAccessLogsResponse {})),
                Err(status) => {
                    // Envoy opens another one; what could not be read is counted.
                    self.teller.unusable();
                    return Err(status);
                }
            }
        }
    }
}

/// Takes a message's entries.
pub fn take(teller: &Teller, message: StreamAccessLogsMessage) {
    match message.log_entries {
        Some(LogEntries::HttpLogs(logs)) => {
            for entry in logs.log_entry {
                match seen(entry) {
                    Some(seen) => drop(teller.tell_of_model(seen)),
                    None => teller.feed.skipped.up(),
                }
            }
        }
        Some(LogEntries::TcpLogs(logs)) => teller.feed.skipped.add(logs.log_entry.len() as u64),
        None => {}
    }
}

/// What an entry tells of a call to a model.
fn seen(entry: HttpAccessLogEntry) -> Option<Seen> {
    let (common, request) = (entry.common_properties?, entry.request?);
    let response = entry.response.unwrap_or_default();
    let started = common.start_time.as_ref().and_then(|at| {
        Timestamp::from_micros(at.seconds.checked_mul(1_000_000)?.checked_add(i64::from(at.nanos) / 1_000)?)
            .into()
    })?;
    let after = |span: Option<&envoy_types::pb::google::protobuf::Duration>| {
        let span = span?;
        let nanos = u32::try_from(span.nanos).ok()?;
        Some(started.plus(Duration::new(u64::try_from(span.seconds).ok()?, nanos)))
    };
    let over = is_over(&common);
    let last = common.duration.as_ref().or(common.time_to_last_downstream_tx_byte.as_ref());
    let ended = over.then(|| after(last).unwrap_or(started));
    let passed = after(common.time_to_last_rx_byte.as_ref());
    let headed = after(common.time_to_first_upstream_rx_byte.as_ref());
    let status = response.response_code.as_ref().and_then(|code| u16::try_from(code.value).ok());
    let status = status.filter(|status| (100..1_000).contains(status));
    let flags = common.response_flags.unwrap_or_default();
    // Envoy's own words for who answered, as its file log writes them.
    let answered = mapping::envoy(Some(&words(&flags).join(",")), Some(&response.response_code_details));
    let gone = flags.downstream_connection_termination || flags.downstream_remote_reset;
    let header = |name: &str| request.request_headers.get(name).cloned();
    let known = |name: &str| metadata(&common, name);
    let stream = Some(common.stream_id.clone()).filter(|id| !id.is_empty());
    Some(Seen {
        own: stream.clone(),
        // Envoy's other logs of the same call name it, too.
        ids: stream.into_iter().collect(),
        service: Some(common.upstream_cluster.clone()).filter(|name| !name.is_empty()),
        host: Some(request.authority.clone()).filter(|host| !host.is_empty()),
        method: method(&request),
        path: Some(without_query(path(&request))),
        user_agent: Some(request.user_agent.clone()).filter(|agent| !agent.is_empty()),
        started: Some(passed.unwrap_or(started)),
        headed,
        ended,
        status,
        headers: headers(&response),
        model: known("model_name_override")
            .or_else(|| known("response_model"))
            .or_else(|| header("x-ai-eg-model")),
        request_bytes: Some(request.request_body_bytes).filter(|bytes| *bytes > 0),
        span: header("traceparent").as_deref().and_then(span_of),
        session: header("x-claude-code-session-id"),
        answered,
        client_gone: gone,
        ..Seen::default()
    })
}

/// False for an entry that is written while the call runs.
fn is_over(common: &AccessLogCommon) -> bool {
    use AccessLogType::{
        DownstreamPeriodic, DownstreamStart, DownstreamTunnelSuccessfullyEstablished, UpstreamPeriodic,
        UpstreamPoolReady,
    };
    !matches!(
        common.access_log_type(),
        DownstreamStart
            | DownstreamPeriodic
            | DownstreamTunnelSuccessfullyEstablished
            | UpstreamPoolReady
            | UpstreamPeriodic
    )
}

/// The path as the client sent it: what a rewrite makes of it is not what the API's pools are told by.
fn path(request: &HttpRequestProperties) -> String {
    if request.original_path.is_empty() { request.path.clone() } else { request.original_path.clone() }
}

fn method(request: &HttpRequestProperties) -> Option<http::Method> {
    let method = request.request_method();
    (method != RequestMethod::MethodUnspecified).then(|| method.as_str_name().parse().ok()).flatten()
}

fn headers(response: &HttpResponseProperties) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(response.response_headers.len().min(MAX_HEADERS));
    for (name, value) in response.response_headers.iter().take(MAX_HEADERS) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// What Envoy's AI Gateway noted of a call.
fn metadata(common: &AccessLogCommon, name: &str) -> Option<String> {
    let known = common.metadata.as_ref()?.filter_metadata.get(AI_GATEWAY)?;
    match known.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// Flags as Envoy's file log abbreviates them.
fn words(flags: &ResponseFlags) -> Vec<&'static str> {
    let all = [
        (flags.rate_limited, "RL"),
        (flags.rate_limit_service_error, "RLSE"),
        (flags.upstream_connection_failure, "UF"),
        (flags.no_healthy_upstream, "UH"),
        (flags.upstream_overflow, "UO"),
        (flags.no_route_found, "NR"),
        (flags.upstream_request_timeout, "UT"),
        (flags.no_cluster_found, "NC"),
        (flags.overload_manager, "OM"),
        (flags.unauthorized_details.is_some(), "UAEX"),
        (flags.local_reset, "LR"),
        (flags.fault_injected, "FI"),
    ];
    all.into_iter().filter_map(|(set, word)| set.then_some(word)).collect()
}
