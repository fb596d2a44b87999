//! OTLP: the same catalogue, pushed. Off the hot path: observable instruments over the snapshot.
//!
//! Gauges are observable because a synchronous gauge never forgets a series; a callback reports
//! what the snapshot holds now. A panic in a callback would end the SDK's reader for good, so each
//! is caught. Values that the user's file leaves out are left to the SDK, which reads `OTEL_*`;
//! those that it ignores (`OTEL_SDK_DISABLED`, `OTEL_*_EXPORTER`, the certificate variables) are
//! read in [`env`]. Cumulative, so an outage of the collector costs resolution and no total.

mod env;

use super::catalogue::{ALL, Facts, Family, Kind, Metric, Value, families};
use super::genai::GenAi;
use crate::config::{self, OtlpProtocol};
use crate::engine::Snapshot;
use crate::outgoing::{self, Redirects};
use crate::stats::Stats;
use bytes::Bytes;
use env::{Certificates, Signal};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    Compression, ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long shutting down may take: the last export, not an outage.
const SHUTDOWN: Duration = Duration::from_secs(4);
/// How long one request over HTTP may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Looks up environment variables.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why the export could not start.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The SDK refuses what is configured.
    #[error(transparent)]
    Build(#[from] ExporterBuildError),
    /// A variable or a file cannot be used.
    #[error("{0}")]
    Setting(String),
}

/// The providers, so that they can be shut down.
pub struct Pipeline {
    meters: Option<SdkMeterProvider>,
    /// Makes spans.
    pub tracers: Option<SdkTracerProvider>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline")
    }
}

/// What is exported, before the facts exist that instruments read.
pub struct Ready {
    metrics: Option<MetricExporter>,
    spans: Option<SpanExporter>,
    resource: Resource,
    interval: Option<Duration>,
}

/// Makes the exporters that file and environment ask for; none where no endpoint is named. Must be
/// called inside the runtime.
///
/// # Errors
/// If an endpoint, a certificate or another value cannot be used.
pub fn prepare(otlp: &config::Otlp, env: Env<'_>) -> Result<Option<Ready>, OtlpError> {
    if otlp.off || env::is_disabled(env) {
        return Ok(None);
    }
    let metrics = match env::wanted(otlp, Signal::Metrics, env) {
        true => Some(metric_exporter(otlp, env)?),
        false => None,
    };
    let spans = match env::wanted(otlp, Signal::Traces, env) {
        true => Some(span_exporter(otlp, env)?),
        false => None,
    };
    if metrics.is_none() && spans.is_none() {
        return Ok(None);
    }
    Ok(Some(Ready { metrics, spans, resource: env::resource(), interval: otlp.interval }))
}

macro_rules! exporter {
    ($exporter:ident, $signal:expr, $otlp:expr, $env:expr) => {{
        let certificates = Certificates::read($signal, $env)?;
        match env::protocol($otlp, $signal, $env)? {
            OtlpProtocol::Grpc => {
                let mut builder = $exporter::builder().with_tonic();
                if let Some(endpoint) = &$otlp.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some(tls) = tonic_tls(&certificates) {
                    builder = builder.with_tls_config(tls);
                }
                if $otlp.gzip == Some(true) {
                    builder = builder.with_compression(Compression::Gzip);
                }
                builder.build()?
            }
            OtlpProtocol::Http => {
                let mut builder =
                    $exporter::builder().with_http().with_http_client(OnTokio::new(&certificates)?);
                if let Some(endpoint) = &$otlp.endpoint {
                    // The SDK takes an endpoint from code as it is; in the environment it is a base.
                    builder = builder.with_endpoint(format!(
                        "{}/v1/{}",
                        endpoint.trim_end_matches('/'),
                        $signal.path()
                    ));
                }
                if $otlp.gzip == Some(true) {
                    builder = builder.with_compression(Compression::Gzip);
                }
                builder.build()?
            }
        }
    }};
}

fn metric_exporter(otlp: &config::Otlp, env: Env<'_>) -> Result<MetricExporter, OtlpError> {
    Ok(exporter!(MetricExporter, Signal::Metrics, otlp, env))
}

fn span_exporter(otlp: &config::Otlp, env: Env<'_>) -> Result<SpanExporter, OtlpError> {
    Ok(exporter!(SpanExporter, Signal::Traces, otlp, env))
}

fn tonic_tls(certificates: &Certificates) -> Option<ClientTlsConfig> {
    if certificates.is_empty() {
        return None;
    }
    let mut tls = ClientTlsConfig::new().with_enabled_roots();
    if let Some(ca) = &certificates.ca {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    if let Some((certificate, key)) = &certificates.client {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Some(tls)
}

/// An HTTP client for the SDK's threads: it hops to the runtime, because the SDK calls it from
/// threads of its own, where an async client finds no reactor and the reader would die.
#[derive(Debug, Clone)]
struct OnTokio {
    runtime: tokio::runtime::Handle,
    client: reqwest::Client,
    redirected: Arc<AtomicBool>,
}

impl OnTokio {
    fn new(certificates: &Certificates) -> Result<Self, OtlpError> {
        let failed = |error: reqwest::Error| OtlpError::Setting(error.to_string());
        let mut client = outgoing::client(Redirects::Refused).timeout(REQUEST);
        if let Some(ca) = &certificates.ca {
            for certificate in reqwest::Certificate::from_pem_bundle(ca).map_err(failed)? {
                client = client.add_root_certificate(certificate);
            }
        }
        if let Some((certificate, key)) = &certificates.client {
            let both = [key.as_slice(), b"\n", certificate.as_slice()].concat();
            client = client.identity(reqwest::Identity::from_pem(&both).map_err(failed)?);
        }
        Ok(Self {
            runtime: tokio::runtime::Handle::current(),
            client: client.build().map_err(failed)?,
            redirected: Arc::default(),
        })
    }
}

#[async_trait::async_trait]
impl HttpClient for OnTokio {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (client, redirected) = (self.client.clone(), self.redirected.clone());
        let sent = self.runtime.spawn(async move {
            let response = client.execute(request.try_into()?).await.map_err(reqwest::Error::without_url)?;
            let redirects = response.status().is_redirection();
            // The SDK takes it for a failure, and knows no more than its number.
            if redirects && !redirected.swap(true, Relaxed) {
                let answer = outgoing::refusal(response.status(), response.headers());
                tracing::warn!(answer, "the collector redirects; nothing is exported");
            }
            redirected.fetch_and(redirects, Relaxed);
            let mut out = http::Response::builder().status(response.status());
            if let Some(headers) = out.headers_mut() {
                headers.clone_from(response.headers());
            }
            Ok::<_, HttpError>(out.body(response.bytes().await?)?)
        });
        sent.await?
    }
}

impl Ready {
    /// Starts pushing: spans as they are made, metrics at each interval. What becomes of each export
    /// is counted in `stats`.
    pub fn start(self, stats: &Arc<Stats>) -> Pipeline {
        let meters = self.metrics.map(|exporter| {
            let told = Told::of("metrics");
            let mut reader =
                PeriodicReader::builder(CountedMetrics { inner: exporter, stats: stats.clone(), told });
            if let Some(interval) = self.interval {
                reader = reader.with_interval(interval);
            }
            SdkMeterProvider::builder()
                .with_resource(self.resource.clone())
                .with_reader(reader.build())
                .build()
        });
        let tracers = self.spans.map(|exporter| {
            SdkTracerProvider::builder()
                .with_resource(self.resource)
                // We sample ourselves: failures are always kept, whatever the caller decided.
                .with_sampler(Sampler::AlwaysOn)
                .with_batch_exporter(CountedSpans {
                    inner: exporter,
                    stats: stats.clone(),
                    told: Told::of("spans"),
                })
                .build()
        });
        Pipeline { meters, tracers }
    }
}

impl Pipeline {
    /// The GenAI metrics that this setting asks for, pushed too where metrics are.
    pub fn genai(pipeline: Option<&Self>, semconv: config::Semconv) -> Arc<GenAi> {
        let meter = pipeline.and_then(|p| p.meters.as_ref()).map(|m| m.meter("plimsoll"));
        GenAi::new(semconv, meter.as_ref())
    }

    /// Makes the instruments of the catalogue.
    pub fn observe(&self, snapshots: watch::Receiver<Arc<Snapshot>>, facts: Arc<Facts>) {
        let Some(meters) = &self.meters else { return };
        let latest = Arc::new(Latest { snapshots, facts, made: Mutex::default() });
        let meter = meters.meter("plimsoll");
        for metric in ALL {
            instrument(&meter, metric, latest.clone());
        }
    }
}

/// The families of the newest snapshot, made once for all instruments of a collection.
struct Latest {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    facts: Arc<Facts>,
    made: Mutex<Option<Made>>,
}

/// A snapshot and the families made of it.
type Made = (Arc<Snapshot>, Arc<Vec<Family>>);

impl Latest {
    fn families(&self) -> Arc<Vec<Family>> {
        let snapshot = self.snapshots.borrow().clone();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, families)) = &*made
            && Arc::ptr_eq(of, &snapshot)
        {
            return families.clone();
        }
        let families = Arc::new(families(&snapshot, &self.facts));
        *made = Some((snapshot, families.clone()));
        families
    }
}

fn instrument(meter: &Meter, metric: &'static Metric, latest: Arc<Latest>) {
    match metric.kind {
        Kind::Gauge => {
            let gauge =
                meter.f64_observable_gauge(metric.name).with_unit(metric.unit).with_description(metric.help);
            gauge.with_callback(move |observer| observe(&latest, metric, observer, Value::as_f64)).build();
        }
        Kind::Counter => {
            let counter = meter
                .u64_observable_counter(metric.name)
                .with_unit(metric.unit)
                .with_description(metric.help);
            counter
                .with_callback(move |observer| observe(&latest, metric, observer, |v| v.as_f64() as u64))
                .build();
        }
    }
}

fn observe<T>(
    latest: &Latest,
    metric: &'static Metric,
    observer: &dyn AsyncInstrument<T>,
    as_number: fn(Value) -> T,
) {
    let observed = catch_unwind(AssertUnwindSafe(|| {
        let families = latest.families();
        let Some(family) = families.iter().find(|f| std::ptr::eq(f.metric, metric)) else { return };
        for point in &family.points {
            let attributes: Vec<KeyValue> =
                point.attributes.iter().map(|(k, v)| KeyValue::new(*k, v.to_string())).collect();
            observer.observe(as_number(point.value), &attributes);
        }
    }));
    if observed.is_err() {
        latest.facts.stats.panics.up();
    }
}

/// Says when a collector no longer takes what it is sent, and when it does again: a line for each, however long it is
/// away and however often it is tried. What the SDK says of each try is left out of the log.
#[derive(Debug)]
struct Told {
    what: &'static str,
    failures: AtomicU64,
}

impl Told {
    const fn of(what: &'static str) -> Self {
        Self { what, failures: AtomicU64::new(0) }
    }

    fn tell(&self, result: &OTelSdkResult) {
        let what = self.what;
        match result {
            Ok(()) => {
                let failures = self.failures.swap(0, Relaxed);
                if failures > 0 {
                    tracing::info!(what, failures, "the collector takes the exports again");
                }
            }
            Err(error) => {
                if self.failures.fetch_add(1, Relaxed) == 0 {
                    tracing::warn!(what, %error, "the collector takes no exports; it is tried on, and said when it does");
                }
            }
        }
    }
}

/// Counts what becomes of each export; the SDK keeps that to itself.
struct CountedMetrics {
    inner: MetricExporter,
    stats: Arc<Stats>,
    told: Told,
}

impl PushMetricExporter for CountedMetrics {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(metrics).await;
        if result.is_ok() {
            self.stats.otlp.sent.up()
        } else {
            self.stats.otlp.failed.up()
        }
        self.told.tell(&result);
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.inner.temporality()
    }
}

#[derive(Debug)]
struct CountedSpans {
    inner: SpanExporter,
    stats: Arc<Stats>,
    told: Told,
}

impl opentelemetry_sdk::trace::SpanExporter for CountedSpans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.inner.export(batch).await;
        if result.is_ok() {
            self.stats.spans.sent.add(spans)
        } else {
            self.stats.spans.failed.add(spans)
        }
        self.told.tell(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl Pipeline {
    /// Sends what is left and ends. The SDK blocks on this, so it runs beside the runtime; a
    /// collector that never answers costs the time limit, no more.
    pub async fn shutdown(self) {
        let done = tokio::task::spawn_blocking(move || {
            let spans = self.tracers.map(|t| t.shutdown_with_timeout(SHUTDOWN));
            let metrics = self.meters.map(|m| m.shutdown_with_timeout(SHUTDOWN));
            (spans, metrics)
        });
        match tokio::time::timeout(SHUTDOWN, done).await {
            Ok(Ok((spans, metrics))) => {
                for (what, result) in [("spans", spans), ("metrics", metrics)] {
                    if let Some(Err(error)) = result {
                        tracing::warn!(what, %error, "the last export failed");
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the exporters' end panicked"),
            Err(_) => tracing::warn!("the collector did not answer in time; the last export is lost"),
        }
    }
}
