//! HTTP/1.1 by hand: the doctor decides when each byte leaves, in what framing, and sees each byte that comes back.
//!
//! What must stay true:
//! - Writing and reading go on at once: who refuses a body need not read it first.
//! - Every wait and everything kept has a bound.
//! - One request, one connection: what one probe breaks, the next does not inherit.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::answer::{Answer, Reader};
use crate::probe::{Noise, hex};

/// How long a connection may take, and how long its TLS handshake.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a request with a small body may take.
pub(super) const EXCHANGE_MAX: Duration = Duration::from_secs(30);

/// How much of a body is written at once, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Where to connect to and what to speak there.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) address: SocketAddr,
    /// None: plain HTTP.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) target: String,
    /// Header fields except those that frame the body.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

/// A body to send.
#[derive(Clone, Debug)]
pub(super) enum Body {
    None,
    /// That many bytes, with `Content-Length`.
    Length(u64),
    /// Chunks of that many bytes, with a pause after each but the last.
    Chunked(Vec<u64>, Duration),
    /// `Content-Length` and `Expect: 100-continue`, and then nothing.
    Announced(u64),
}

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) answer: Result<Answer, Failure>,
    /// The body that was sent, in bytes, and its SHA-256 in hexadecimal, if it was sent whole.
    pub(super) sent: Option<(u64, String)>,
    /// Our end of the connection.
    pub(super) local: Option<SocketAddr>,
    /// Our clock when the request began.
    pub(super) begun: SystemTime,
    pub(super) took: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Connect(String),
    /// No TLS on it.
    Tls(String),
    /// It was closed before an answer came.
    Closed,
    /// Nothing came in time.
    Silence,
    /// What came is no HTTP/1.1.
    Malformed,
}

/// Sends a request on a connection of its own and reads the answer.
pub(super) async fn exchange(route: &Route, request: &Request, limit: Duration) -> Exchange {
    let (begun, start) = (SystemTime::now(), Instant::now());
    let mut exchange = Exchange { answer: Err(Failure::Silence), sent: None, local: None, begun, took: Duration::ZERO };
    let tcp = match connect(route.address).await {
        Ok(tcp) => tcp,
        Err(error) => return Exchange { answer: Err(Failure::Connect(error.to_string())), ..exchange },
    };
    exchange.local = tcp.local_addr().ok();
    let outcome = match &route.tls {
        None => timeout(limit, converse(tcp, request)).await,
        Some((config, name)) => match handshake(tcp, config, name).await {
            Ok(stream) => timeout(limit, converse(stream, request)).await,
            Err(error) => return Exchange { answer: Err(Failure::Tls(error.to_string())), ..exchange },
        },
    };
    if let Ok((answer, sent)) = outcome {
        (exchange.answer, exchange.sent) = (answer, sent);
    }
    exchange.took = start.elapsed();
    exchange
}

pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = timeout(CONNECT_MAX, TcpStream::connect(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

pub(super) async fn handshake(
    tcp: TcpStream,
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp);
    timeout(CONNECT_MAX, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

type Sent = Option<(u64, String)>;

async fn converse(stream: impl AsyncRead + AsyncWrite, request: &Request) -> (Result<Answer, Failure>, Sent) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader::new(reader);
    let announced = matches!(request.body, Body::Announced(_));
    let mut reading = pin!(reader.answer(request.method == "HEAD", announced));
    let mut writing = pin!(write(&mut writer, request));
    tokio::select! {
        // A refusal may come before the body has been written.
        answer = &mut reading => (answer, None),
        sent = &mut writing => (reading.await, sent.ok()),
    }
}

/// Writes a request and gives back how many bytes its body had, with their hash.
async fn write(writer: &mut (impl AsyncWrite + Unpin), request: &Request) -> io::Result<(u64, String)> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    match &request.body {
        Body::None => {}
        Body::Length(length) => head.push_str(&format!("Content-Length: {length}\r\n")),
        Body::Announced(length) => head.push_str(&format!("Content-Length: {length}\r\nExpect: 100-continue\r\n")),
        Body::Chunked(..) => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    writer.write_all(head.as_bytes()).await?;
    writer.flush().await?;
    let mut content = Content { hash: Sha256::new(), noise: Noise::default(), bytes: 0 };
    match &request.body {
        Body::None | Body::Announced(_) => {}
        Body::Length(length) => content.write(writer, *length, false).await?,
        Body::Chunked(chunks, pause) => {
            for (at, length) in chunks.iter().enumerate() {
                if at > 0 {
                    sleep(*pause).await;
                }
                content.write(writer, *length, true).await?;
            }
            writer.write_all(b"0\r\n\r\n").await?;
            writer.flush().await?;
        }
    }
    Ok((content.bytes, hex(&content.hash.finalize())))
}

struct Content {
    hash: Sha256,
    noise: Noise,
    bytes: u64,
}

impl Content {
    async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin), length: u64, chunked: bool) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut rest = length;
        while rest > 0 {
            let piece = &mut buffer[..usize::try_from(rest).unwrap_or(PIECE_BYTES).min(PIECE_BYTES)];
            self.noise.fill(piece);
            self.hash.update(&piece);
            if chunked {
                writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            }
            writer.write_all(piece).await?;
            if chunked {
                writer.write_all(b"\r\n").await?;
            }
            rest -= piece.len() as u64;
        }
        self.bytes += length;
        writer.flush().await
    }
}

/// What came back on a raw connection, for a look at what speaks there.
pub(super) async fn first_bytes(tcp: &mut TcpStream, say: &[u8]) -> io::Result<Vec<u8>> {
    const FIRST_BYTES_MAX: usize = 16;
    let mut buffer = vec![0; FIRST_BYTES_MAX];
    let talk = async {
        tcp.write_all(say).await?;
        tcp.read(&mut buffer).await
    };
    let read = timeout(CONNECT_MAX, talk).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    buffer.truncate(read);
    Ok(buffer)
}

impl Exchange {
    /// One that came to nothing.
    pub(super) fn failed(failure: Failure) -> Self {
        Self { answer: Err(failure), sent: None, local: None, begun: SystemTime::UNIX_EPOCH, took: Duration::ZERO }
    }
}
