//! Where observations come from. Passive sources see traffic, or are told of it; none knows an exporter.

#[cfg(feature = "als")]
pub mod envoy_als;
pub mod intake;
pub mod otlp;
pub mod proxy;
pub mod report;
pub mod tail;

use crate::config::sources::Sources;
use intake::Intake;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Where sources outside of the path listen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// Envoy's access log service.
    pub envoy_als: Option<SocketAddr>,
    /// OTLP by gRPC.
    pub otlp_grpc: Option<SocketAddr>,
    /// OTLP by HTTP.
    pub otlp_http: Option<SocketAddr>,
}

impl Listening {
    /// Each that listens, with what it receives.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all = [
            ("Envoy's access log", self.envoy_als),
            ("OTLP by gRPC", self.otlp_grpc),
            ("OTLP by HTTP", self.otlp_http),
        ];
        all.into_iter().filter_map(|(what, address)| Some((what, address?)))
    }
}

/// Starts what the configuration names; nothing otherwise.
///
/// # Errors
/// If an address is taken, or a client cannot be made; then nothing of it runs.
pub async fn spawn(config: &Sources, intake: &Intake) -> Result<(Listening, Vec<JoinHandle<()>>), String> {
    let mut listening = Listening::default();
    let mut bound = Vec::new();
    let otlp = config.otlp.clone().unwrap_or_default();
    for (key, address, place) in [
        ("envoy_als.bind", config.envoy_als, &mut listening.envoy_als),
        ("otlp.grpc", otlp.grpc, &mut listening.otlp_grpc),
        ("otlp.http", otlp.http, &mut listening.otlp_http),
    ] {
        let Some(address) = address else {
            bound.push(None);
            continue;
        };
        let failed = |error| format!("cannot listen on {address} (sources.{key}): {error}");
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        *place = Some(listener.local_addr().map_err(failed)?);
        bound.push(Some(listener));
    }
    let mut bound = bound.into_iter();
    let mut next = || bound.next().flatten();
    let (als, grpc, http) = (next(), next(), next());
    let mut tasks = otlp::spawn(&otlp, grpc, http, intake)?;
    #[cfg(feature = "als")]
    tasks.extend(als.map(|listener| envoy_als::spawn(listener, intake)));
    #[cfg(not(feature = "als"))]
    drop(als);
    tasks.extend(tail::spawn(config, intake));
    Ok((listening, tasks))
}
