//! TLS for tests: a certificate for 127.0.0.1 that lives as long as its test, and a client that
//! believes in it alone.

use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A certificate and its key, as two files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, PEM: also what a client is to believe, in `SSL_CERT_FILE`.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one for 127.0.0.1, and writes it as `NAME.crt` and `NAME.key`.
    pub fn make(folder: &Path, name: &str) -> Certificate {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate");
        let [certificate, key] = ["crt", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
        std::fs::write(&certificate, pem("CERTIFICATE", made.cert.der())).expect("written");
        std::fs::write(&key, pem("PRIVATE KEY", made.signing_key.serialized_der()))
            .expect("written");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("its mode");
        Certificate { certificate, key }
    }

    /// A connection to whoever has this certificate.
    ///
    /// # Errors
    /// What the handshake says.
    pub fn shake_hands(
        &self,
        mut stream: TcpStream,
    ) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut client = self.client(&[b"http/1.1"]);
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(client, stream))
    }

    /// A client that offers these protocols, before its handshake.
    pub fn client(&self, protocols: &[&[u8]]) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.certificate).expect("a file") {
            roots.add(certificate.expect("a certificate")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut config = config;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        ClientConnection::new(Arc::new(config), name).expect("a client")
    }
}

/// The textual form of RFC 7468, its lines unbroken.
fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}
