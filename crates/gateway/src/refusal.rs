//! Every answer that the gateway gives by itself, in the form of the API that was called.
//!
//! The texts are constants: nothing that a client sent is ever repeated to it.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

/// Why the gateway did not pass a request on, or the backend's answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request target is neither a path nor an absolute URL of ours.
    #[error("the request target is neither a path nor an http or https URL")]
    Target,
    /// The path could be read in two ways.
    #[error("the path holds an empty, '.' or '..' segment, a character that no registry path has, or an escaped one")]
    Path,
    /// The query is no query.
    #[error("the query holds a character that must be percent-encoded")]
    Query,
    /// No `Host`, several, or one that is no host.
    #[error("exactly one Host header with a host name or address is required")]
    Host,
    /// Absolute-form target and `Host` name different hosts.
    #[error("the request target and the Host header disagree")]
    HostMismatch,
    /// The length of the body could be read in two ways.
    #[error("the length of the body is ambiguous: send one Content-Length, or Transfer-Encoding: chunked")]
    Framing,
    /// A line of the request's head is not what HTTP/1.1 requires.
    #[error("the request is not well-formed HTTP/1.1")]
    Malformed,
    /// Too many header bytes or fields.
    #[error("the request's header is too large")]
    HeadTooLarge,
    /// `CONNECT` and `TRACE`.
    #[error("this method is not supported")]
    Method,
    /// Not a path of the registry APIs.
    #[error("there is no such path: a registry answers under /v1/ and /v2/")]
    NotFound,
    /// No binding of this listener is for this host.
    #[error("no repository is bound to this host name here")]
    UnknownHost,
    /// The host or path names no repository that there could be.
    #[error("no repository is bound to this address: its name comes first, in lower case")]
    Unbound,
    /// A registry client on an address that only sends browsers elsewhere.
    #[error("this address only redirects browsers: use the address with https")]
    OnlyRedirects,
    /// The client's address is not among those that may use the binding.
    #[error("this address is not open to you")]
    Denied,
    /// A request that would change something, on a binding that is read-only.
    #[error("this address is read-only")]
    ReadOnly,
    /// The binding wants a client certificate, and the connection was made for another host.
    #[error("this host needs a client certificate: open a connection for it")]
    CertificateRequired,
    /// The client asks too much at once or too often.
    #[error("too many requests: try again in a moment")]
    TooMany,
    /// All clients together do.
    #[error("the registry is busy: try again in a moment")]
    Busy,
    /// The client stopped sending its body.
    #[error("the request's body did not arrive in time")]
    BodyTimeout,
    /// The client sends its body, but slower than the binding allows.
    #[error("the request's body arrives too slowly")]
    BodyTooSlow,
    /// Nobody listens at the backend's address.
    #[error("the registry's backend cannot be reached")]
    BackendUnreachable,
    /// The backend ended the connection, or its answer was no HTTP.
    #[error("the registry's backend did not answer properly")]
    BackendFailed,
    /// The backend answers nothing, not even whether it is well.
    #[error("the registry's backend does not answer at present: try again in a moment")]
    BackendSilent,
    /// The backend took too long.
    #[error("the registry's backend did not answer in time")]
    BackendTimeout,
    /// A fault of the gateway.
    #[error("internal error")]
    Internal,
}

/// The API that a request was meant for: it decides what an error looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Docker Registry V1.
    V1,
    /// Docker Registry V2 and OCI distribution.
    V2,
    /// Anything else.
    Other,
}

impl Api {
    /// The API that a request target, which need not be valid, looks like.
    pub fn of(target: &[u8]) -> Self {
        match target {
            [b'/', b'v', b'1'] | [b'/', b'v', b'1', b'/' | b'?', ..] => Self::V1,
            [b'/', b'v', b'2'] | [b'/', b'v', b'2', b'/' | b'?', ..] => Self::V2,
            _ => Self::Other,
        }
    }
}

impl Refusal {
    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Target | Self::Path | Self::Query | Self::Host | Self::HostMismatch | Self::Framing | Self::Malformed => {
                StatusCode::BAD_REQUEST
            }
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound | Self::Unbound | Self::OnlyRedirects => StatusCode::NOT_FOUND,
            Self::UnknownHost | Self::CertificateRequired => StatusCode::MISDIRECTED_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::BackendSilent => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTimeout | Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BackendUnreachable | Self::BackendFailed => StatusCode::BAD_GATEWAY,
            Self::BackendTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// How long the client should wait before it tries again, in seconds, if that is worth saying.
    pub const fn retry_after_s(self) -> Option<u32> {
        if matches!(self, Self::TooMany | Self::Busy | Self::BackendSilent) { Some(1) } else { None }
    }

    /// One word for logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Path => "path",
            Self::Query => "query",
            Self::Host => "host",
            Self::HostMismatch => "host_mismatch",
            Self::Framing => "framing",
            Self::Malformed => "malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::Method => "method",
            Self::NotFound => "not_found",
            Self::UnknownHost => "unknown_host",
            Self::Unbound => "unbound",
            Self::OnlyRedirects => "only_redirects",
            Self::Denied => "denied",
            Self::ReadOnly => "read_only",
            Self::CertificateRequired => "certificate_required",
            Self::TooMany => "client_limit",
            Self::Busy => "binding_limit",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooSlow => "body_too_slow",
            Self::BackendUnreachable => "backend_unreachable",
            Self::BackendFailed => "backend_failed",
            Self::BackendSilent => "backend_silent",
            Self::BackendTimeout => "backend_timeout",
            Self::Internal => "internal",
        }
    }

    /// Whether the connection may carry another request: not if its framing is in doubt.
    pub const fn keeps_connection(self) -> bool {
        matches!(
            self,
            Self::Method
                | Self::NotFound
                | Self::Unbound
                | Self::OnlyRedirects
                | Self::UnknownHost
                | Self::CertificateRequired
                | Self::ReadOnly
                | Self::TooMany
                | Self::Busy
        )
    }

    /// The error code of the V2 API. With a status below 500 it has to be one of those that the OCI specification has; docker
    /// gives up at once on `UNSUPPORTED`, and tries again after `BLOB_UPLOAD_INVALID`.
    const fn code(self) -> &'static str {
        match self {
            Self::Target
            | Self::Path
            | Self::Query
            | Self::Host
            | Self::HostMismatch
            | Self::Framing
            | Self::Malformed
            | Self::HeadTooLarge
            | Self::Method
            | Self::ReadOnly
            | Self::OnlyRedirects
            | Self::NotFound
            | Self::UnknownHost => "UNSUPPORTED",
            Self::Unbound => "NAME_UNKNOWN",
            Self::Denied | Self::CertificateRequired => "DENIED",
            Self::TooMany => "TOOMANYREQUESTS",
            Self::BodyTimeout | Self::BodyTooSlow => "BLOB_UPLOAD_INVALID",
            Self::Busy | Self::BackendUnreachable | Self::BackendFailed | Self::BackendSilent | Self::BackendTimeout => "UNAVAILABLE",
            Self::Internal => "UNKNOWN",
        }
    }

    /// The body of the answer: JSON in the form of `api`.
    pub fn body(self, api: Api) -> Bytes {
        in_form_of(api, self.status(), self.code(), &self.to_string())
    }
}

/// An error as JSON in the form of `api`.
pub(crate) fn in_form_of(api: Api, status: StatusCode, code: &str, message: &str) -> Bytes {
    let body = match api {
        Api::V1 => json!({ "error": message }),
        Api::V2 => json!({ "errors": [{ "code": code, "message": message, "detail": null }] }),
        Api::Other => json!({ "errors": [{ "status": status.as_u16(), "message": message }] }),
    };
    body.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_own_form() {
        let body = |api| String::from_utf8(Refusal::BackendUnreachable.body(api).to_vec()).unwrap();
        assert_eq!(body(Api::V1), r#"{"error":"the registry's backend cannot be reached"}"#);
        assert_eq!(
            body(Api::V2),
            r#"{"errors":[{"code":"UNAVAILABLE","detail":null,"message":"the registry's backend cannot be reached"}]}"#
        );
        assert_eq!(body(Api::Other), r#"{"errors":[{"message":"the registry's backend cannot be reached","status":502}]}"#);
    }

    #[test]
    fn refusals_below_500_have_codes_of_the_oci_specification() {
        use Refusal::*;
        let all = [
            Target,
            Path,
            Query,
            Host,
            HostMismatch,
            Framing,
            Malformed,
            HeadTooLarge,
            Method,
            NotFound,
            UnknownHost,
            Unbound,
            OnlyRedirects,
            Denied,
            ReadOnly,
            CertificateRequired,
            TooMany,
            BodyTimeout,
            BodyTooSlow,
        ];
        for refusal in all {
            assert!(refusal.status().is_client_error());
            let is_known = matches!(refusal.code(), "UNSUPPORTED" | "NAME_UNKNOWN" | "DENIED" | "TOOMANYREQUESTS" | "BLOB_UPLOAD_INVALID");
            assert!(is_known, "{refusal:?} has {}", refusal.code());
        }
    }

    #[test]
    fn the_api_is_told_by_the_first_segment() {
        for (target, api) in [
            ("/v1/", Api::V1),
            ("/v1", Api::V1),
            ("/v2?x", Api::V2),
            ("/v2/..%2f", Api::V2),
            ("/v22/", Api::Other),
            ("//v2/", Api::Other),
            ("*", Api::Other),
            ("", Api::Other),
        ] {
            assert_eq!(Api::of(target.as_bytes()), api, "{target:?}");
        }
    }
}
