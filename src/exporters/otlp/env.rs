//! The `OTEL_*` variables that the Rust SDK does not read itself, and what follows from those it
//! does: whether a signal is wanted, how it is carried, with which certificates, as which instance.

use super::{Env, OtlpError};
use crate::config::{self, OtlpProtocol};
use crate::files;
use opentelemetry::{Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Metrics.
    Metrics,
    /// Spans.
    Traces,
}

impl Signal {
    /// As variables write it.
    const fn word(self) -> &'static str {
        match self {
            Self::Metrics => "METRICS",
            Self::Traces => "TRACES",
        }
    }

    /// As paths write it.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Traces => "traces",
        }
    }
}

/// A variable that has a value; empty means unset (OpenTelemetry's rule).
fn set(env: Env<'_>, name: &str) -> Option<String> {
    env(name).filter(|value| !value.trim().is_empty())
}

/// The signal's own variable, else the one for all.
fn of_signal(env: Env<'_>, signal: Signal, what: &str) -> Option<(String, String)> {
    let names =
        [format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word()), format!("OTEL_EXPORTER_OTLP_{what}")];
    names.into_iter().find_map(|name| set(env, &name).map(|value| (name, value)))
}

/// `OTEL_SDK_DISABLED=true`.
pub(super) fn is_disabled(env: Env<'_>) -> bool {
    set(env, "OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// True if an endpoint is named and `OTEL_<SIGNAL>_EXPORTER` does not say otherwise.
pub(super) fn wanted(otlp: &config::Otlp, signal: Signal, env: Env<'_>) -> bool {
    let exporters = set(env, &format!("OTEL_{}_EXPORTER", signal.word()));
    let chosen = exporters.is_none_or(|list| list.split(',').any(|name| name.trim() == "otlp"));
    chosen && (otlp.endpoint.is_some() || of_signal(env, signal, "ENDPOINT").is_some())
}

/// How a signal is carried: by the file, else by the environment, else by gRPC.
pub(super) fn protocol(otlp: &config::Otlp, signal: Signal, env: Env<'_>) -> Result<OtlpProtocol, OtlpError> {
    if let Some(protocol) = otlp.protocol {
        return Ok(protocol);
    }
    match of_signal(env, signal, "PROTOCOL") {
        None => Ok(OtlpProtocol::Grpc),
        Some((_, value)) if value == "grpc" => Ok(OtlpProtocol::Grpc),
        Some((_, value)) if value == "http/protobuf" => Ok(OtlpProtocol::Http),
        Some((name, value)) => Err(OtlpError::Setting(format!(
            "{name}: `{value}` is not supported; use `grpc` or `http/protobuf`"
        ))),
    }
}

/// Certificates that variables name, as PEM.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// Authorities to trust.
    pub(super) ca: Option<Vec<u8>>,
    /// Certificate and key to show.
    pub(super) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    /// Reads the files.
    pub(super) fn read(signal: Signal, env: Env<'_>) -> Result<Self, OtlpError> {
        let file = |what: &str| -> Result<Option<Vec<u8>>, OtlpError> {
            let Some((name, path)) = of_signal(env, signal, what) else { return Ok(None) };
            let read = files::read(std::path::Path::new(&path), files::CERTIFICATES);
            read.map(Some)
                .map_err(|error| OtlpError::Setting(format!("{name}: cannot read `{path}`: {error}")))
        };
        let client = match (file("CLIENT_CERTIFICATE")?, file("CLIENT_KEY")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let text = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY go together; set both";
                return Err(OtlpError::Setting(text.to_owned()));
            }
        };
        Ok(Self { ca: file("CERTIFICATE")?, client })
    }

    /// True if no variable names any.
    pub(super) const fn is_empty(&self) -> bool {
        self.ca.is_none() && self.client.is_none()
    }
}

/// Who we are: the environment's attributes (the chart fills in the pod's by the downward API), and
/// what is missing of name and instance.
pub(super) fn resource() -> Resource {
    let given = EnvResourceDetector::new().detect();
    let has = |key: &'static str| given.get(&Key::from_static_str(key));
    let mut more = Vec::new();
    let unnamed = Resource::builder().build().get(&Key::from_static_str("service.name"));
    if has("service.name").is_none()
        && unnamed.is_none_or(|name| name.as_str().starts_with("unknown_service"))
    {
        more.push(KeyValue::new("service.name", "plimsoll"));
    }
    if has("service.version").is_none() {
        more.push(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    if has("service.instance.id").is_none() {
        let part = |key| has(key).map(|value| value.to_string());
        let pod = [part("k8s.namespace.name"), part("k8s.pod.name"), part("k8s.container.name")];
        let id = match pod {
            [Some(namespace), Some(pod), Some(container)] => format!("{namespace}.{pod}.{container}"),
            _ => random_id(),
        };
        more.push(KeyValue::new("service.instance.id", id));
    }
    Resource::builder().with_attributes(more).build()
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes[..4].copy_from_slice(&std::process::id().to_be_bytes());
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn otlp(endpoint: Option<&str>) -> config::Otlp {
        let mut otlp = config::Config::defaults().otlp;
        otlp.endpoint = endpoint.map(str::to_owned);
        otlp
    }

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
    }

    #[test]
    fn a_signal_is_exported_where_it_has_an_endpoint_and_is_not_turned_off() {
        let with = |otlp: &config::Otlp, pairs| {
            let env = env(pairs);
            [Signal::Metrics, Signal::Traces].map(|signal| wanted(otlp, signal, &env))
        };
        assert_eq!(with(&otlp(None), &[]), [false, false]);
        assert_eq!(with(&otlp(Some("http://c")), &[]), [true, true]);
        assert_eq!(with(&otlp(None), &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c")]), [true, true]);
        assert_eq!(with(&otlp(None), &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c")]), [false, true]);
        assert_eq!(with(&otlp(Some("http://c")), &[("OTEL_TRACES_EXPORTER", "none")]), [true, false]);
        assert_eq!(
            with(&otlp(Some("http://c")), &[("OTEL_TRACES_EXPORTER", "")]),
            [true, true],
            "empty is unset"
        );
    }

    #[test]
    fn the_protocol_is_the_files_then_the_signals_then_everyones() {
        let both: &[(&str, &str)] = &[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ];
        let env_both = env(both);
        assert_eq!(protocol(&otlp(None), Signal::Metrics, &env_both).unwrap(), OtlpProtocol::Http);
        assert_eq!(protocol(&otlp(None), Signal::Traces, &env_both).unwrap(), OtlpProtocol::Grpc);
        let file = config::Otlp { protocol: Some(OtlpProtocol::Grpc), ..otlp(None) };
        assert_eq!(protocol(&file, Signal::Metrics, &env_both).unwrap(), OtlpProtocol::Grpc);
        let json = env(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        let error = protocol(&otlp(None), Signal::Metrics, &json).unwrap_err().to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && error.contains("http/protobuf"), "{error}");
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let missing = env(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "no/such.pem")]);
        let error = Certificates::read(Signal::Metrics, &missing).unwrap_err().to_string();
        assert!(error.contains("OTEL_EXPORTER_OTLP_CERTIFICATE") && error.contains("no/such.pem"), "{error}");
        let disabled = env(&[("OTEL_SDK_DISABLED", "TRUE")]);
        assert!(is_disabled(&disabled));
    }

    #[test]
    fn an_instance_has_an_id_of_its_own() {
        let id = resource().get(&Key::from_static_str("service.instance.id")).expect("an id").to_string();
        assert!(id.len() >= 8);
    }
}
