//! Why a connection never came to its first request, in one word.

/// Why there was no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client left without a word, as port scans and health checks do.
    Closed,
    /// It took too long.
    Timeout,
    /// HTTP on a port for HTTPS.
    PlainHttp,
    /// TLS on a port for HTTP.
    UnexpectedTls,
    /// The client does not trust our certificate, or finds another name in it.
    Untrusted,
    /// No protocol version or cipher suite in common.
    Incompatible,
    /// A client certificate that is missing or that we don't trust.
    ClientCertificate,
    /// The proxy in front did not say whom it speaks for as it should.
    ProxyProtocol,
    /// Anything else, also what is no TLS.
    Other,
}

impl HandshakeFailure {
    /// In the order of their values.
    pub const ALL: [Self; 9] = [
        Self::Closed,
        Self::Timeout,
        Self::PlainHttp,
        Self::UnexpectedTls,
        Self::Untrusted,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::ProxyProtocol,
        Self::Other,
    ];

    /// The label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::PlainHttp => "plain_http",
            Self::UnexpectedTls => "unexpected_tls",
            Self::Untrusted => "untrusted",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Other => "other",
        }
    }

    /// What the text of a handshake's error means. Text, because Pingora hands on nothing else of what rustls says.
    pub fn of(error: &str) -> Self {
        // A client that closes without an alert, after a certificate that it does not like, looks like any that leaves.
        const CLOSED: [&str; 5] = ["closed", "eof", "reset", "roken pipe", "CloseNotify"];
        const UNTRUSTED: [&str; 6] = [
            "alert: UnknownCA",
            "alert: BadCertificate",
            "alert: CertificateUnknown",
            "alert: CertificateExpired",
            "alert: UnsupportedCertificate",
            "alert: UnrecognisedName",
        ];
        const INCOMPATIBLE: [&str; 4] =
            ["peer is incompatible", "alert: ProtocolVersion", "alert: HandshakeFailure", "alert: InsufficientSecurity"];
        const CLIENT_CERTIFICATE: [&str; 2] = ["invalid peer certificate", "peer sent no certificates"];
        let says = |words: &[&str]| words.iter().any(|word| error.contains(word));
        if says(&UNTRUSTED) {
            Self::Untrusted
        } else if says(&INCOMPATIBLE) {
            Self::Incompatible
        } else if says(&CLIENT_CERTIFICATE) {
            Self::ClientCertificate
        } else if says(&CLOSED) {
            Self::Closed
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

    use super::*;

    /// Fails if a new version of rustls says it in other words.
    #[test]
    fn what_rustls_says_is_understood() {
        for (error, failure) in [
            (Error::AlertReceived(AlertDescription::UnknownCA), HandshakeFailure::Untrusted),
            (Error::AlertReceived(AlertDescription::BadCertificate), HandshakeFailure::Untrusted),
            (Error::AlertReceived(AlertDescription::CertificateUnknown), HandshakeFailure::Untrusted),
            (Error::AlertReceived(AlertDescription::CertificateExpired), HandshakeFailure::Untrusted),
            (Error::AlertReceived(AlertDescription::CloseNotify), HandshakeFailure::Closed),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), HandshakeFailure::Incompatible),
            (Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon), HandshakeFailure::Incompatible),
            (Error::NoCertificatesPresented, HandshakeFailure::ClientCertificate),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), HandshakeFailure::ClientCertificate),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), HandshakeFailure::Other),
        ] {
            assert_eq!(HandshakeFailure::of(&error.to_string()), failure, "{error}");
        }
        for error in [
            io::Error::from(io::ErrorKind::ConnectionReset),
            io::Error::from_raw_os_error(104),
            io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"),
        ] {
            assert_eq!(HandshakeFailure::of(&format!("TLS accept() failed: {error}")), HandshakeFailure::Closed, "{error}");
        }
        assert!(HandshakeFailure::ALL.iter().enumerate().all(|(at, failure)| *failure as usize == at));
    }
}
