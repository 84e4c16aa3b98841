//! TLS at the TCP listener: a certificate and its key from two files, read at the start and again
//! when the keeper says so. It knows nothing of what is said over the connection.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::named_file;

/// Bytes of either file; a long chain has a tenth of it.
const MOST_BYTES: u64 = 256 << 10;
/// Only HTTP/1.1 is spoken.
const PROTOCOL: &[u8] = b"http/1.1";

/// What a connection is encrypted with.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

/// What is wrong, and with which key of the configuration.
pub type Refused = (&'static str, String);

/// The key of the configuration that names the certificate's file.
pub const CERTIFICATE: &str = "registry.tls_certificate";
/// The key of the configuration that names the private key's file.
pub const KEY: &str = "registry.tls_key";

impl Tls {
    /// Reads a certificate with its chain, and its key, both PEM.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(certificate: &Path, key: &Path) -> Result<Tls, Refused> {
        let config = RwLock::new(Arc::new(read(certificate, key)?));
        Ok(Tls { certificate: certificate.to_owned(), key: key.to_owned(), config })
    }

    /// Reads both files anew; connections that are open keep what they have. When something is
    /// wrong, everything stays as it was.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn reload(&self) -> Result<(), Refused> {
        let config = Arc::new(read(&self.certificate, &self.key)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// What takes the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, Refused> {
    let chain = chain(certificate).map_err(|reason| (CERTIFICATE, reason))?;
    let private = private(key).map_err(|reason| (KEY, reason))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| (CERTIFICATE, error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private);
    let mut config = config.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let certificate = certificate.display();
            (KEY, format!("{}: it is not the key of {certificate}", key.display()))
        }
        rustls::Error::InvalidCertificate(_) => {
            (CERTIFICATE, format!("{}: {error}", certificate.display()))
        }
        _ => (KEY, format!("{}: {error}", key.display())),
    })?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = named_file::read(path, MOST_BYTES)?.bytes;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| format!("{}: {error}", path.display()))?;
    match chain.is_empty() {
        true => Err(format!("{}: there is no PEM certificate in it", path.display())),
        false => Ok(chain),
    }
}

fn private(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let file = named_file::read(path, MOST_BYTES)?;
    file.refuse(path, 0o007, "have no right to it", "o=")?;
    PrivateKeyDer::from_pem_slice(&file.bytes).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            format!("{}: there is no PEM private key in it that is not encrypted", path.display())
        }
        error => format!("{}: {error}", path.display()),
    })
}
