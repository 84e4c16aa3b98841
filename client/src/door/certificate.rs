//! The certificate of one command: an authority that signs once, and a server at 127.0.0.1.
//!
//! Two certificates and not one, because some clients take no authority for a server and others no
//! server for an authority. The authority's key is gone before anybody can connect, so what trusts
//! it trusts this server and nothing else, ever. Nothing of it is written but its certificate.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::problem::Error;

/// Clocks that are behind find it valid too.
const BEFORE: Duration = Duration::from_secs(24 * 3600);
/// A command that runs longer than this has other worries.
const AFTER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A server's side of TLS, and what its clients are to trust.
pub(crate) struct Certificate {
    /// How connections are served.
    pub(crate) server: Arc<ServerConfig>,
    /// The authority, as it stands in a bundle.
    pub(crate) authority: String,
}

impl Certificate {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Source`] when it cannot be made.
    pub(crate) fn new() -> Result<Certificate, Error> {
        make().map_err(|source| Error::Source { doing: "making a certificate", source })
    }
}

fn make() -> io::Result<Certificate> {
    let authority = {
        let mut params = params("bond exec: authority of one command");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        CertifiedIssuer::self_signed(params, key).map_err(io::Error::other)?
    };
    let mut params = params("bond exec");
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let leaf = params.signed_by(&key, &authority).map_err(io::Error::other)?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .map_err(io::Error::other)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Certificate { server: Arc::new(server), authority: pem(authority.der()) })
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + AFTER).into();
    params
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
