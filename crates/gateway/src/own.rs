//! Answers of the gateway's own that are no refusals: redirects for browsers, its authority, and what an ACME server asks for.

use berth_names::Origin;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use http::{HeaderValue, StatusCode};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::bindings::{Binding, Bound};
use crate::proxy::{METHODS, SAFE_METHODS};
use crate::refusal::Refusal;
use crate::request_id::X_REQUEST_ID_SPELT;
use crate::trust;

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Own {
    status: StatusCode,
    /// Its name as everybody spells it.
    header: (&'static str, HeaderValue),
    body: Bytes,
}

impl Own {
    /// Sends a browser elsewhere. For good it is not: the configuration may change.
    pub(crate) fn redirect(to: &str) -> Result<Self, Refusal> {
        let to = HeaderValue::try_from(to).map_err(|_| Refusal::Path)?;
        Ok(Self { status: StatusCode::TEMPORARY_REDIRECT, header: ("Location", to), body: Bytes::new() })
    }

    /// What could be asked for: load balancers that look whether somebody is there ask so.
    pub(crate) fn options(is_read_only: bool) -> Self {
        let methods = HeaderValue::from_static(if is_read_only { SAFE_METHODS } else { METHODS });
        Self { status: StatusCode::OK, header: ("Allow", methods), body: Bytes::new() }
    }

    /// What an ACME server wants to see.
    pub(crate) fn challenge(answer: &str) -> Self {
        let kind = HeaderValue::from_static("application/octet-stream");
        Self { status: StatusCode::OK, header: ("Content-Type", kind), body: Bytes::copy_from_slice(answer.as_bytes()) }
    }

    /// The authority's certificate.
    pub(crate) fn authority(binding: &Binding) -> Result<Self, Refusal> {
        let Bound::Console(Some(authority)) = &binding.bound else { return Err(Refusal::NotFound) };
        let kind = HeaderValue::from_static("application/x-pem-file");
        Ok(Self { status: StatusCode::OK, header: ("Content-Type", kind), body: authority.pem.clone() })
    }

    /// How to trust it, for a reader who reached the console at `origin`.
    pub(crate) fn trust(binding: &Binding, origin: &Origin, registries: &[String]) -> Result<Self, Refusal> {
        let Bound::Console(Some(authority)) = &binding.bound else { return Err(Refusal::NotFound) };
        let text = trust::explain(authority, &origin.to_string(), registries);
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        Ok(Self { status: StatusCode::OK, header: ("Content-Type", kind), body: text.into() })
    }

    pub(crate) async fn send(self, session: &mut Session, request_id: &HeaderValue) -> pingora::Result<()> {
        let (name, value) = self.header;
        let mut head = ResponseHeader::build(self.status, Some(5))?;
        head.insert_header(name, value)?;
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(self.body.len()))?;
        head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
        head.insert_header("X-Content-Type-Options", HeaderValue::from_static("nosniff"))?;
        head.insert_header(X_REQUEST_ID_SPELT, request_id.clone())?;
        session.write_response_header(Box::new(head), false).await?;
        session.write_response_body(Some(self.body), true).await
    }
}
