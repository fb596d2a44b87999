//! Certificates of an authority of our own, in files.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use std::path::{Path, PathBuf};

pub struct Certs {
    pub dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certs {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        let certs = Self { dir, authority };
        certs.issue("server", &["localhost", "127.0.0.1"]);
        certs.issue("client", &["client"]);
        certs
    }

    /// A certificate for these names, as `<name>.crt`, `<name>.key` and both in `<name>.pem`.
    pub fn issue(&self, name: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let write = |ending: &str, text: &str| {
            std::fs::write(self.dir.path().join(format!("{name}.{ending}")), text).unwrap()
        };
        write("crt", &certificate.pem());
        write("key", &key.serialize_pem());
        write("pem", &format!("{}{}", certificate.pem(), key.serialize_pem()));
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn ca(&self) -> reqwest::Certificate {
        pem(&self.file("ca.pem"))
    }

    pub fn identity(&self) -> reqwest::Identity {
        reqwest::Identity::from_pem(&std::fs::read(self.file("client.pem")).unwrap()).unwrap()
    }

    /// A server's TLS with these certificates, that demands a client's if asked.
    pub fn server(&self, demand: bool, alpn: &[&str]) -> rustls::ServerConfig {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let chain: Vec<_> =
            CertificateDer::pem_file_iter(self.file("server.crt")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap();
        let builder = if demand {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|a| a.as_bytes().to_vec()).collect();
        config
    }
}

fn pem(path: &Path) -> reqwest::Certificate {
    reqwest::Certificate::from_pem(&std::fs::read(path).unwrap()).unwrap()
}
