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

    async fn fetch(self, mut request: Request<BodyWrapper<Bytes>>, limit: Duration) -> Result<BytesResponse, Error> {
        request.headers_mut().insert(USER_AGENT, AGENT);
        let exchange = async {
            let (head, body) = self.https.request(request).await.map_err(other)?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Error::Other)?.to_bytes();
            Ok::<_, Error>(Response::from_parts(head, Full::new(body)))
        };
        let response = timeout(limit, exchange).await.map_err(|_| Error::Other("the ACME server took too long".into()))??;
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
        Box::pin(self.clone().fetch(request, REQUEST_MAX))
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustls::ServerConfig;
    use rustls::sign::SingleCertAndKey;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// The outcome of a request to a server that answers with these bytes and then keeps the connection open.
    async fn fetch(answer: &[u8], limit: Duration) -> (Client, Result<Bytes, String>) {
        let site = tempfile::tempdir().unwrap();
        crate::cert::self_signed(site.path(), &["localhost".to_owned()], &[]).unwrap();
        let certified = crate::tls::load(&site.path().join("server.pem"), &site.path().join("server.key")).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified.certified)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let answer = answer.to_vec();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = TlsAcceptor::from(Arc::new(tls)).accept(tcp).await.unwrap();
            let _ = tls.write_all(&answer).await;
            let _ = tls.read_to_end(&mut Vec::new()).await;
        });
        let client = Client::new(roots(Some(&site.path().join("ca.pem"))).unwrap()).unwrap();
        (client.clone(), get(client, &url, limit).await)
    }

    async fn get(client: Client, url: &str, limit: Duration) -> Result<Bytes, String> {
        let request = Request::get(url).body(BodyWrapper::default()).unwrap();
        let mut answer = client.fetch(request, limit).await.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        Ok(answer.body.into_bytes().await.unwrap())
    }

    const PATIENT: Duration = Duration::from_secs(20);
    const IMPATIENT: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn an_answer_is_read_whole_and_to_a_bound() {
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let largest = vec![b'x'; ANSWER_BYTES_MAX];
        let (_, read) = fetch(&[head(largest.len()).as_bytes(), &largest].concat(), PATIENT).await;
        assert_eq!(read.unwrap(), largest);
        let (_, read) = fetch(&[head(largest.len() + 1).as_bytes(), &largest, b"x"].concat(), PATIENT).await;
        assert!(read.unwrap_err().contains("length limit exceeded"));
    }

    #[tokio::test]
    async fn no_request_waits_without_a_bound() {
        let start = Instant::now();
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
            let (_, read) = fetch(answer.as_bytes(), IMPATIENT).await;
            assert!(read.unwrap_err().contains("took too long"));
        }
        // Nobody accepts, so nobody speaks TLS.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(roots(None).unwrap()).unwrap();
        let read = get(client, &format!("https://{}/", silent.local_addr().unwrap()), IMPATIENT).await;
        assert!(read.unwrap_err().contains("took too long"));
        assert!(start.elapsed() < PATIENT);
    }

    #[tokio::test]
    async fn nothing_is_asked_in_clear_text() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(roots(None).unwrap()).unwrap();
        assert!(get(client, &format!("http://{}/", listener.local_addr().unwrap()), PATIENT).await.is_err());
        assert!(timeout(Duration::from_millis(50), listener.accept()).await.is_err());
    }

    #[tokio::test]
    async fn only_a_busy_server_is_left_alone() {
        let answer = |status: &str| format!("HTTP/1.1 {status}\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n");
        for (status, is_busy) in [("429 Too Many Requests", true), ("503 Service Unavailable", true), ("200 OK", false)] {
            let (client, read) = fetch(answer(status).as_bytes(), PATIENT).await;
            read.unwrap();
            let until = client.take_busy_until();
            assert_eq!(until.is_some(), is_busy, "{status}");
            assert!(until.is_none_or(|until| until > SystemTime::now() + Duration::from_secs(50)));
            assert_eq!(client.take_busy_until(), None, "told once");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (text, seconds) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Tue, 14 Nov 2023 22:15:20 GMT", Some(120)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("18446744073709551615", None),
            ("18446744073709551616", None),
        ] {
            let expected = seconds.map(|seconds| now + Duration::from_secs(seconds));
            assert_eq!(retry_after(&HeaderValue::from_static(text), now), expected, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderValue::from_bytes(&[0xff]).unwrap(), now), None);
    }

    #[test]
    fn a_file_of_authorities_holds_authorities() {
        let site = tempfile::tempdir().unwrap();
        let file = site.path().join("ca.pem");
        let why = |file: &Path| format!("{:#}", roots(Some(file)).unwrap_err());
        assert!(why(&file).starts_with(&format!("cannot read the ACME server's authority {}", file.display())));
        for (text, reason) in
            [("", "holds no PEM certificate"), ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "holds no authority")]
        {
            std::fs::write(&file, text).unwrap();
            assert!(why(&file).contains(reason), "{}", why(&file));
        }
        let (one, two) =
            (rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap(), rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap());
        std::fs::write(&file, one.cert.pem() + &two.cert.pem()).unwrap();
        let public = roots(None).unwrap().len();
        assert!(public > 50);
        assert_eq!(roots(Some(&file)).unwrap().len(), public + 2);
    }
}
