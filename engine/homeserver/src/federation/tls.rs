//! Which certificates of other servers are trusted.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// Whose certificates are trusted.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Whether the certificate authorities that the platform trusts are trusted.
    pub platform_roots: bool,
    /// Files in PEM format with more certificate authorities.
    pub ca_files: Vec<PathBuf>,
    /// More certificate authorities.
    pub ca_certificates: Vec<CertificateDer<'static>>,
    /// Whether certificates are checked at all. Without that everybody on the way can pose as any server: for tests only.
    pub verify_certificates: bool,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { platform_roots: true, ca_files: Vec::new(), ca_certificates: Vec::new(), verify_certificates: true }
    }
}

/// Why the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A file can't be read or is no PEM file.
    #[error("{} is no file of certificates", file.display())]
    CaFile {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file has no certificate.
    #[error("{} has no certificate", file.display())]
    EmptyCaFile {
        /// Which.
        file: PathBuf,
    },
    /// A certificate can't be used.
    #[error("a certificate that can't be used")]
    Certificate(#[from] rustls::Error),
    /// Nobody is trusted.
    #[error("no certificate authority is trusted: the platform has none, and none is configured")]
    NoRoots,
}

impl TlsConfig {
    /// Reads the files and the platform's authorities.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError`]
    pub(crate) fn client_config(&self) -> Result<ClientConfig, TlsConfigError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut config = if self.verify_certificates {
            builder.with_root_certificates(self.roots()?).with_no_client_auth()
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAll(provider))).with_no_client_auth()
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, TlsConfigError> {
        let mut roots = RootCertStore::empty();
        if self.platform_roots {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!(%error, "certificate authorities of the platform could not be read");
            }
            // Old platforms have some that are no valid certificates.
            roots.add_parsable_certificates(found.certs);
        }
        for file in &self.ca_files {
            let failed = |source| TlsConfigError::CaFile { file: file.clone(), source };
            let before = roots.len();
            for certificate in CertificateDer::pem_file_iter(file).map_err(failed)? {
                roots.add(certificate.map_err(failed)?)?;
            }
            if roots.len() == before {
                return Err(TlsConfigError::EmptyCaFile { file: file.clone() });
            }
        }
        for certificate in &self.ca_certificates {
            roots.add(certificate.clone())?;
        }
        if roots.is_empty() { Err(TlsConfigError::NoRoots) } else { Ok(roots) }
    }
}

/// Takes every certificate whose owner has its key.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
