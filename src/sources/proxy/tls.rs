//! TLS on both sides: what a listener shows, what an upstream must show, certificates of clients.

use crate::config::{Route, ServerTls};
use crate::files;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What a listener shows. Offers h2 and HTTP/1.1.
///
/// # Errors
/// In words: which file cannot be used, and why.
pub(super) fn server(tls: &ServerTls) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            add_file(&mut roots, file)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| at(file, e))?)
        }
    };
    let key = key(&tls.key_file)?;
    let mut config =
        builder.with_single_cert(certificates(&tls.cert_file)?, key).map_err(|e| at(&tls.cert_file, e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What the upstream of a route must show, and what is shown to it.
///
/// # Errors
/// In words: which file cannot be used, and why.
pub(super) fn client(route: &Route) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots(route)?);
    match &route.client_cert_file {
        None => Ok(builder.with_no_client_auth()),
        Some(file) => {
            let key = key(file)?;
            builder.with_client_auth_cert(certificates(file)?, key).map_err(|e| at(file, e))
        }
    }
}

/// The authorities: the system's and the route's own. Only looked for where TLS is spoken, so that
/// an image without them still serves plain upstreams.
fn roots(route: &Route) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if route.upstream.scheme_str() != Some("https") {
        return Ok(roots);
    }
    if let Some(file) = &route.ca_file {
        add_file(&mut roots, file)?;
    }
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(
            "no certificate authorities are installed; install the package ca-certificates, or set `ca_file`"
                .into(),
        );
    }
    Ok(roots)
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| at(file, e))?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    files::read(file, files::CERTIFICATES).map_err(|e| at(file, e))
}

fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|e| at(file, e))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err(at(file, "holds no certificate in PEM form")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(at(file, error)),
    }
}

fn at(file: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}
