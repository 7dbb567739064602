//! TLS from files in PEM, which can be read again while the server runs.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio_rustls::TlsAcceptor;

use super::config::Listen;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TlsError {
    #[error("listen.tls_certificate: {}: {source}", .path.display())]
    Certificate {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("listen.tls_certificate: {} has no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("listen.tls_private_key: {}: {source}", .path.display())]
    PrivateKey {
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("certificate {} and private key {} can't be used: {source}", .certificate.display(), .private_key.display())]
    Unusable {
        certificate: PathBuf,
        private_key: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

/// The files, and what was read from them last. Clones share it.
#[derive(Clone)]
pub(super) struct Tls {
    certificate: PathBuf,
    private_key: PathBuf,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files; `None` if there is no HTTPS.
    pub(super) fn from_config(listen: &Listen) -> Result<Option<Self>, TlsError> {
        let (Some(_), Some(certificate), Some(private_key)) =
            (listen.https, &listen.tls_certificate, &listen.tls_private_key)
        else {
            return Ok(None);
        };
        let current = Arc::new(RwLock::new(read(certificate, private_key)?));
        Ok(Some(Self { certificate: certificate.clone(), private_key: private_key.clone(), current }))
    }

    /// Reads the files again, for connections that come later. If they can't be used, nothing changes.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let config = read(&self.certificate, &self.private_key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Returns what takes the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(certificate: &Path, private_key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let certificate_error = |source| TlsError::Certificate { path: certificate.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(certificate_error)?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(certificate_error)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|source| TlsError::PrivateKey { path: private_key.to_owned(), source })?;
    let unusable = |source| TlsError::Unusable {
        certificate: certificate.to_owned(),
        private_key: private_key.to_owned(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
