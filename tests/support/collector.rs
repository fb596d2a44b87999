//! An OTLP receiver on the official protobuf: remembers metrics and spans.

use super::serve_http1;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct Collector {
    pub address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    metrics: Vec<ExportMetricsServiceRequest>,
    traces: Vec<ExportTraceServiceRequest>,
    compressed: bool,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.kept.lock().unwrap().metrics.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.kept.lock().unwrap().traces.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), kept: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(
                MetricsServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip),
            )
            .add_service(
                TraceServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip),
            );
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        collector
    }

    /// The same over HTTP with protobuf bodies, gzip or plain, at `/v1/metrics` and `/v1/traces`.
    pub async fn over_http() -> Self {
        Self::over_http_at(([127, 0, 0, 1], 0).into()).await
    }

    /// The same at an address that is free.
    pub async fn over_http_at(address: SocketAddr) -> Self {
        use http_body_util::{BodyExt, Full};
        use prost::Message;
        use std::io::Read;
        let listener = TcpListener::bind(address).await.unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), kept: Arc::default() };
        let shared = collector.clone();
        serve_http1(listener, move |request: http::Request<hyper::body::Incoming>| {
            let kept = shared.kept.clone();
            async move {
                let gzip = request.headers().get("content-encoding").is_some_and(|v| v == "gzip");
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                let path = request.uri().path().to_owned();
                let mut body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
                if gzip {
                    let mut plain = Vec::new();
                    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
                    body = plain;
                }
                let mut kept = kept.lock().unwrap();
                kept.compressed |= gzip;
                match path.as_str() {
                    "/v1/metrics" => {
                        kept.metrics.push(ExportMetricsServiceRequest::decode(&body[..]).unwrap())
                    }
                    "/v1/traces" => kept.traces.push(ExportTraceServiceRequest::decode(&body[..]).unwrap()),
                    other => panic!("{other}"),
                }
                http::Response::new(Full::<bytes::Bytes>::default())
            }
        });
        collector
    }

    /// True if anything came compressed.
    pub fn compressed(&self) -> bool {
        self.kept.lock().unwrap().compressed
    }

    /// Everything that came, as text to search in.
    pub fn debug(&self) -> String {
        let kept = self.kept.lock().unwrap();
        format!("{:?}{:?}", kept.metrics, kept.traces)
    }

    pub fn spans(&self) -> Vec<Span> {
        let kept = self.kept.lock().unwrap();
        kept.traces
            .iter()
            .flat_map(|r| &r.resource_spans)
            .flat_map(|r| &r.scope_spans)
            .flat_map(|s| s.spans.clone())
            .collect()
    }

    /// Metrics of the newest push.
    pub fn metrics(&self) -> Vec<Metric> {
        let kept = self.kept.lock().unwrap();
        let newest = kept.metrics.last();
        newest
            .iter()
            .flat_map(|r| &r.resource_metrics)
            .flat_map(|r| &r.scope_metrics)
            .flat_map(|s| s.metrics.clone())
            .collect()
    }

    pub fn resource(&self) -> BTreeMap<String, String> {
        let kept = self.kept.lock().unwrap();
        let resource = kept.metrics.iter().flat_map(|r| &r.resource_metrics).find_map(|r| r.resource.clone());
        attributes(&resource.map(|r| r.attributes).unwrap_or_default())
    }
}

/// Attributes as text.
pub fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    list.iter()
        .map(|kv| {
            let value = match kv.value.as_ref().and_then(|v| v.value.clone()) {
                Some(Value::StringValue(s)) => s,
                Some(Value::IntValue(n)) => n.to_string(),
                Some(Value::DoubleValue(x)) => x.to_string(),
                other => format!("{other:?}"),
            };
            (kv.key.clone(), value)
        })
        .collect()
}

/// The points of a metric: attributes and value.
pub fn points(metric: &Metric) -> Vec<(BTreeMap<String, String>, f64)> {
    let points = match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => &gauge.data_points,
        Data::Sum(sum) => &sum.data_points,
        other => panic!("{other:?}"),
    };
    points
        .iter()
        .map(|p| {
            let value = match p.value.unwrap() {
                number_data_point::Value::AsDouble(x) => x,
                number_data_point::Value::AsInt(n) => n as f64,
            };
            (attributes(&p.attributes), value)
        })
        .collect()
}
