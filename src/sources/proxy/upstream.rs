//! The client to an upstream: a pool of kept-alive HTTP/1.1 connections, over TLS where asked.
//!
//! HTTP/1.1 by default even where h2 is offered: one h2 connection per host would queue a burst
//! behind its stream limit.

use super::StartError;
use super::forward::Upstream;
use crate::config::Route;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::time::Duration;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept. Shorter than common upstreams' own limits, so that a
/// request seldom meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(50);

/// A client for this route.
pub(super) fn client(route: &Route) -> Result<Upstream, StartError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let tls = tls(route)?;
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .http1_preserve_header_case(true)
        .http1_max_headers(super::MAX_HEADERS)
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .set_host(false)
        .build(connector))
}

fn tls(route: &Route) -> Result<ClientConfig, StartError> {
    let failed = |reason: String| StartError::Tls { route: route.name.to_string(), reason };
    let mut roots = RootCertStore::empty();
    if route.upstream.scheme_str() == Some("https") {
        if let Some(file) = &route.ca_file {
            add_file(&mut roots, file).map_err(|e| failed(format!("ca_file {}: {e}", file.display())))?;
        }
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            return Err(failed(
                "no certificate authorities are installed; install the package ca-certificates, or set `ca_file`".into(),
            ));
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let mut added = 0;
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| e.to_string())? {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
        added += 1;
    }
    if added == 0 { Err("holds no certificate in PEM form".into()) } else { Ok(()) }
}
