//! An HTTP/1.1 client that sends exactly the lines it is given: one request, one connection.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long the other side may stay silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is sent behind the head.
pub enum Body<'b> {
    /// Nothing.
    None,
    /// These bytes, with their length.
    Bytes(&'b [u8]),
    /// What the reader gives, with this length.
    Sized(u64, &'b mut dyn Read),
    /// What the reader gives, in chunks without a length, as docker sends V1 layers.
    Chunked(&'b mut dyn Read),
}

/// Speaks to one port of localhost.
#[derive(Clone)]
pub struct Client {
    port: u16,
    /// What it calls the other side, in TLS and in `Host`.
    name: String,
    tls: Option<Arc<ClientConfig>>,
    headers: Vec<(String, String)>,
}

/// An answer; its body is read as it is asked for.
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers in order.
    pub headers: Vec<(String, String)>,
    body: Box<dyn Read + Send>,
}

/// That the other side has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// A connection on which bytes are sent as they are.
pub struct Conversation {
    stream: Option<Box<dyn Stream>>,
    /// All that came back.
    pub received: Vec<u8>,
    /// Whether the other side has ended it.
    pub closed: Option<Closed>,
}

impl Conversation {
    /// Sends bytes, as far as the other side takes them.
    pub fn say(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        // What it has sent before it closed is still to be read.
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
    }

    /// Reads until what has been received is enough, the connection ends, or nothing comes for this long.
    pub fn listen(&mut self, silence: Duration, is_enough: impl Fn(&[u8]) -> bool) {
        let Some(stream) = &mut self.stream else { return };
        stream.set_silence(silence);
        let mut buffer = [0; 16 * 1024];
        while self.closed.is_none() && !is_enough(&self.received) {
            match stream.read(&mut buffer) {
                Ok(0) => self.closed = Some(Closed),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return,
                Err(_) => self.closed = Some(Closed),
            }
        }
    }
}

trait Stream: Read + Write + Send {
    /// How long a read may wait.
    fn set_silence(&self, silence: Duration);
}

impl Stream for TcpStream {
    fn set_silence(&self, silence: Duration) {
        self.set_read_timeout(Some(silence)).unwrap();
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn set_silence(&self, silence: Duration) {
        self.sock.set_silence(silence);
    }
}

impl Client {
    /// With TLS, trusting this authority alone.
    pub fn tls(port: u16, ca: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Self { port, name: "localhost".to_owned(), tls: Some(Arc::new(config)), headers: Vec::new() }
    }

    /// Without TLS.
    pub fn plain(port: u16) -> Self {
        Self { port, name: "localhost".to_owned(), tls: None, headers: Vec::new() }
    }

    /// Calls the other side by another name than `localhost`.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Sends a header with every request.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(seen, _)| seen != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends this header no longer.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(seen, _)| seen != name);
        self
    }

    /// Sends a password with every request.
    #[must_use]
    pub fn with_basic(self, user: &str, password: &str) -> Self {
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.with("Authorization", &format!("Basic {credentials}"))
    }

    fn connect(&self, silence: Duration) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port))?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(silence))?;
        tcp.set_write_timeout(Some(silence))?;
        let Some(config) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = self.name.clone().try_into().map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, tcp)))
    }

    /// Sends a request and reads the head of its answer.
    pub fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body<'_>) -> io::Result<Reply> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n", self.name, self.port);
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.filter(|(name, _)| !headers.iter().any(|(other, _)| other == name)).chain(headers.iter().copied()) {
            head += &format!("{name}: {value}\r\n");
        }
        match &body {
            Body::None if method == "GET" || method == "HEAD" => {}
            Body::None => head += "Content-Length: 0\r\n",
            Body::Bytes(bytes) => head += &format!("Content-Length: {}\r\n", bytes.len()),
            Body::Sized(length, _) => head += &format!("Content-Length: {length}\r\n"),
            Body::Chunked(_) => head += "Transfer-Encoding: chunked\r\n",
        }
        let mut stream = self.connect(SILENCE_MAX)?;
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        // A server that refuses early may stop reading; its answer counts, not our failure to go on.
        let sent = send_body(&mut *stream, body).and_then(|()| stream.flush());
        Reply::read(stream, method == "HEAD").or_else(|error| sent.and(Err(error)))
    }

    /// Sends a request that must be answered.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body<'_>) -> Reply {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// A `GET` that must be answered.
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], Body::None)
    }

    /// Sends raw bytes and returns the status of whatever comes back; 0 if the connection is closed without an answer.
    pub fn send_raw(&self, request: &[u8]) -> u16 {
        let Ok(mut stream) = self.connect(SILENCE_MAX) else { return 0 };
        let _ = stream.write_all(request).and_then(|()| stream.flush());
        Reply::read(stream, false).map_or(0, |reply| reply.status)
    }

    /// Opens a connection for raw bytes.
    pub fn open(&self) -> Conversation {
        let connected = self.connect(SILENCE_MAX);
        let closed = if connected.is_ok() { None } else { Some(Closed) };
        Conversation { stream: connected.ok(), received: Vec::new(), closed }
    }

    /// Uploads a blob in docker's order of requests and returns its digest.
    pub fn push_blob(&self, image: &str, bytes: &[u8]) -> io::Result<String> {
        let digest = format!("sha256:{}", crate::sha256(bytes));
        let begun = self.try_send("POST", &format!("/v2/{image}/blobs/uploads/"), &[], Body::None)?;
        let location = begun.expect(202)?.header("Location").unwrap_or_default().to_owned();
        let mut content = bytes;
        self.try_send("PATCH", &location, &[], Body::Chunked(&mut content))?.expect(202)?;
        self.try_send("PUT", &format!("{location}?digest={digest}"), &[], Body::None)?.expect(201)?;
        Ok(digest)
    }

    /// Pushes a manifest under a tag or digest.
    pub fn push_manifest(&self, image: &str, reference: &str, media_type: &str, manifest: &str) -> io::Result<()> {
        let path = format!("/v2/{image}/manifests/{reference}");
        self.try_send("PUT", &path, &[("Content-Type", media_type)], Body::Bytes(manifest.as_bytes()))?.expect(201).map(drop)
    }
}

fn send_body(stream: &mut dyn Stream, body: Body<'_>) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    match body {
        Body::None => Ok(()),
        Body::Bytes(bytes) => stream.write_all(bytes),
        Body::Sized(_, reader) => io::copy(reader, &mut &mut *stream).map(drop),
        Body::Chunked(reader) => loop {
            let length = reader.read(&mut piece)?;
            stream.write_all(format!("{length:x}\r\n").as_bytes())?;
            stream.write_all(&piece[..length])?;
            stream.write_all(b"\r\n")?;
            if length == 0 {
                return Ok(());
            }
        },
    }
}

impl Reply {
    fn read(stream: Box<dyn Stream>, is_head: bool) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        let mut line = || -> io::Result<String> {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(line.trim_end().to_owned())
        };
        let mut status = 100;
        let mut headers = Vec::new();
        while status == 100 {
            let first = line()?;
            status = first.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other(first))?;
            headers.clear();
            loop {
                let next = line()?;
                match next.split_once(": ") {
                    Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                    None if next.is_empty() => break,
                    None => headers.push((next.trim_end_matches(':').to_owned(), String::new())),
                }
            }
        }
        let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("Content-Length")).map(|(_, value)| value.parse());
        let body: Box<dyn Read + Send> = match length {
            _ if is_head || status == 204 || status == 304 => Box::new(io::empty()),
            Some(Ok(length)) => Box::new(Exactly { reader, left: length }),
            _ => Box::new(reader),
        };
        Ok(Self { status, headers, body })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| seen.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The reply, if it has this status; its text as an error otherwise.
    pub fn expect(self, status: u16) -> io::Result<Self> {
        match self.status {
            seen if seen == status => Ok(self),
            seen => Err(io::Error::other(format!("{seen} instead of {status}: {}", self.text()))),
        }
    }

    /// The whole body.
    pub fn bytes(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// The whole body as text.
    pub fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The whole body as JSON.
    pub fn json(self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The body, to be read piece by piece.
    pub fn reader(self) -> Box<dyn Read + Send> {
        self.body
    }
}

/// A body that ends early is an error, as it is for docker.
struct Exactly<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        match self.reader.read(&mut buffer[..most])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                self.left -= length as u64;
                Ok(length)
            }
        }
    }
}

/// The bytes of a file, for tests that compare them.
pub fn read_file(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).unwrap();
    bytes
}
