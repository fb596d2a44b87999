//! OTLP: the same catalogue, pushed. Off the hot path: observable instruments over the snapshot.
//!
//! Gauges are observable because a synchronous gauge never forgets a series; a callback reports
//! what the snapshot holds now. A panic in a callback would end the SDK's reader for good, so each
//! is caught. Values that the user's file leaves out are left to the SDK, which reads `OTEL_*`.

use super::catalogue::{ALL, Facts, Family, Kind, Metric, families};
use crate::config;
use crate::engine::Snapshot;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry_otlp::{ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long shutting down may take: the last export, not an outage.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The providers, so that they can be shut down.
pub struct Pipeline {
    meters: SdkMeterProvider,
    /// Makes spans.
    pub tracers: SdkTracerProvider,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipeline")
    }
}

/// True if an endpoint is configured, in the file or in the environment.
pub fn is_configured(otlp: &config::Otlp, env: &dyn Fn(&str) -> Option<String>) -> bool {
    let named = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];
    otlp.endpoint.is_some() || named.iter().any(|name| env(name).is_some_and(|v| !v.is_empty()))
}

/// Starts pushing. Must be called inside the runtime.
///
/// # Errors
/// If the endpoint or another `OTEL_*` value cannot be used.
pub fn start(
    otlp: &config::Otlp,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    facts: Arc<Facts>,
) -> Result<Pipeline, ExporterBuildError> {
    let resource = Resource::builder().with_service_name_default("plimsoll").build();
    let mut metrics = MetricExporter::builder().with_tonic();
    let mut spans = SpanExporter::builder().with_tonic();
    if let Some(endpoint) = &otlp.endpoint {
        metrics = metrics.with_endpoint(endpoint);
        spans = spans.with_endpoint(endpoint);
    }
    let counted = CountedMetrics { inner: metrics.build()?, facts: facts.clone() };
    let mut reader = PeriodicReader::builder(counted);
    if let Some(interval) = otlp.interval {
        reader = reader.with_interval(interval);
    }
    let meters =
        SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader.build()).build();
    let tracers = SdkTracerProvider::builder()
        .with_resource(resource)
        // We sample ourselves: failures are always kept, whatever the caller decided.
        .with_sampler(Sampler::AlwaysOn)
        .with_batch_exporter(CountedSpans { inner: spans.build()?, facts: facts.clone() })
        .build();
    let latest = Arc::new(Latest { snapshots, facts, made: Mutex::default() });
    let meter = meters.meter("plimsoll");
    for metric in ALL {
        instrument(&meter, metric, latest.clone());
    }
    Ok(Pipeline { meters, tracers })
}

trait ServiceName {
    fn with_service_name_default(self, name: &'static str) -> Self;
}

impl ServiceName for opentelemetry_sdk::resource::ResourceBuilder {
    /// The name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` give another: values set
    /// in code would win over the environment.
    fn with_service_name_default(self, name: &'static str) -> Self {
        let named = self.build();
        let given = named.get(&"service.name".into()).map(|v| v.to_string()).unwrap_or_default();
        if given.is_empty() || given.starts_with("unknown_service") {
            Resource::builder().with_service_name(name)
        } else {
            Resource::builder()
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
            gauge
                .with_callback(move |observer| {
                    observe(&latest, metric, observer, super::catalogue::Value::as_f64)
                })
                .build();
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
    as_number: fn(super::catalogue::Value) -> T,
) {
    let observed = catch_unwind(AssertUnwindSafe(|| {
        let families = latest.families();
        let Some(family) = families.iter().find(|f| std::ptr::eq(f.metric, metric)) else { return };
        for (attributes, value) in &family.points {
            let attributes: Vec<KeyValue> =
                attributes.iter().map(|(k, v)| KeyValue::new(*k, v.to_string())).collect();
            observer.observe(as_number(*value), &attributes);
        }
    }));
    if observed.is_err() {
        latest.facts.stats.panics.up();
    }
}

/// Counts what becomes of each export; the SDK keeps that to itself.
struct CountedMetrics {
    inner: MetricExporter,
    facts: Arc<Facts>,
}

impl PushMetricExporter for CountedMetrics {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.inner.export(metrics).await;
        let deliveries = &self.facts.stats.otlp;
        if result.is_ok() {
            deliveries.sent.up()
        } else {
            deliveries.failed.up()
        }
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
    facts: Arc<Facts>,
}

impl opentelemetry_sdk::trace::SpanExporter for CountedSpans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.inner.export(batch).await;
        let deliveries = &self.facts.stats.spans;
        if result.is_ok() {
            deliveries.sent.add(spans)
        } else {
            deliveries.failed.add(spans)
        }
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
            let spans = self.tracers.shutdown_with_timeout(SHUTDOWN);
            let metrics = self.meters.shutdown_with_timeout(SHUTDOWN);
            (spans, metrics)
        });
        match tokio::time::timeout(SHUTDOWN, done).await {
            Ok(Ok((spans, metrics))) => {
                for (what, result) in [("spans", spans), ("metrics", metrics)] {
                    if let Err(error) = result {
                        tracing::warn!(what, %error, "the last export failed");
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the exporters' end panicked"),
            Err(_) => tracing::warn!("the collector did not answer in time; the last export is lost"),
        }
    }
}
