//! From the file's words to rustls.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::file::{ClientAuth, Tls, Version};

pub(super) fn acceptor(config: &Tls) -> Result<TlsAcceptor, String> {
    let named =
        |path: &std::path::Path, e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let chain = CertificateDer::pem_file_iter(&config.cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| named(&config.cert_file, &e))?;
    let key =
        PrivateKeyDer::from_pem_file(&config.key_file).map_err(|e| named(&config.key_file, &e))?;
    let versions: &[&SupportedProtocolVersion] = match config.min_version {
        Version::TLS12 => &[&TLS13, &TLS12],
        Version::TLS13 => &[&TLS13],
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?;
    let builder = match (config.client_auth_type, &config.client_ca_file) {
        (ClientAuth::NoClientCert, None) => builder.with_no_client_auth(),
        (ClientAuth::NoClientCert, Some(_)) => {
            return Err("client_ca_file without a client_auth_type that checks".into());
        }
        (_, None) => return Err("client_auth_type needs a client_ca_file".into()),
        (kind, Some(file)) => {
            let mut roots = RootCertStore::empty();
            let certificates = CertificateDer::pem_file_iter(file).map_err(|e| named(file, &e))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|e| named(file, &e))?;
                roots.add(certificate).map_err(|e| named(file, &e))?;
            }
            builder.with_client_cert_verifier(verifier(kind, roots, provider)?)
        }
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|e| e.to_string())?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn verifier(
    kind: ClientAuth,
    roots: RootCertStore,
    provider: Arc<tokio_rustls::rustls::crypto::CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match kind {
        ClientAuth::VerifyClientCertIfGiven => builder.allow_unauthenticated(),
        ClientAuth::NoClientCert | ClientAuth::RequireAndVerifyClientCert => builder,
    };
    builder.build().map_err(|e| e.to_string())
}
