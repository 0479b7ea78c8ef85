//! HTTPS to the ACME server.
//!
//! What must stay true: every wait and every answer has a bound, and the server is verified, by Mozilla's roots, which are
//! compiled in, or by those that the configuration names. The operating system's store is not asked: minimal images have
//! none, and a machine's store is often years behind.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// How long one address of the server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a request may take, from the connection to the answer's last byte.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Largest answer, in bytes. The largest one is a certificate chain, of about 8 KB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// How long a connection is kept for the next request. An order makes its requests within seconds.
const IDLE_MAX: Duration = Duration::from_secs(15);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("berth-gateway/", env!("CARGO_PKG_VERSION"), " instant-acme"));

type Error = instant_acme::Error;

/// A client of one ACME server. Clones share its connections.
#[derive(Clone)]
pub(super) struct Client {
    https: legacy::Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    busy_until: Arc<ArcSwapOption<SystemTime>>,
}

impl Client {
    pub(super) fn new(roots: RootCertStore) -> anyhow::Result<Self> {
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
        let https = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(1)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { https, busy_until: Arc::default() })
    }

    /// Until when the server has asked to be left alone, since this was last asked.
    pub(super) fn take_busy_until(&self) -> Option<SystemTime> {
        self.busy_until.swap(None).map(|time| *time)
    }

    async fn fetch(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        request.headers_mut().insert(USER_AGENT, AGENT);
        let exchange = async {
            let (head, body) = self.https.request(request).await.map_err(other)?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Error::Other)?.to_bytes();
            Ok::<_, Error>(Response::from_parts(head, Full::new(body)))
        };
        let response = timeout(REQUEST_MAX, exchange).await.map_err(|_| Error::Other("the ACME server took too long".into()))??;
        if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            && let Some(until) = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()))
        {
            self.busy_until.store(Some(Arc::new(until)));
        }
        Ok(BytesResponse::from(response))
    }
}

impl HttpClient for Client {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().fetch(request))
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Other(Box::new(error))
}

/// The time that a `Retry-After` header stands for: seconds from `now`, or a date.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<SystemTime> {
    let text = value.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => now.checked_add(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok(),
    }
}

/// Whom the ACME server's certificate may come from: the public authorities, and those of the file `extra`.
pub(super) fn roots(extra: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = extra {
        let path_text = path.display();
        let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read the ACME server's authority {path_text}"))?;
        anyhow::ensure!(!certificates.is_empty(), "{path_text} holds no PEM certificate");
        for certificate in certificates {
            roots.add(certificate).with_context(|| format!("{path_text} holds no authority's certificate"))?;
        }
    }
    Ok(roots)
}
