//! The beginning of a connection: who connects, in which protocol, and for which binding.
//!
//! What must stay true:
//! - Whoever is turned away for what it sent is told so in its own protocol: a TLS client by an alert, which names the
//!   reason that its user needs (`certificate required`, `unknown CA`).
//! - A client can't have more connections waiting here than the bindings of the address would let it have afterwards.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use anyhow::{anyhow, bail};
use berth_names::Scheme;
use berth_names::wire::API_PREFIXES;
use berth_places::Place;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use pingora::protocols::Stream;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::bindings::{Binding, Listener};
use crate::connection::Connection;
use crate::framing::Understood;
use crate::limits::Limits;
use crate::live::Live;
use crate::metrics::HandshakeFailure;
use crate::refusal::{Api, in_form_of};
use crate::slot::Slot;
use crate::stream::{ClientStream, EncryptedStream, PlainStream};
use crate::{acme, proxy_protocol, tls};

/// How long to read what a client goes on sending after it was told that nothing comes of this.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// The first byte of a TLS connection: the record type of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// A fatal `handshake_failure` alert. docker with `--insecure-registry` tries TLS first; without an answer it waits for
/// its timeout of 20 s before it tries plain HTTP.
const HANDSHAKE_FAILURE: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

/// A fatal `access_denied` alert.
const ACCESS_DENIED: &[u8] = &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x31];

/// For HTTP clients of an HTTPS port.
const HTTPS_REQUIRED: &str = "This port speaks HTTPS: use https:// in the address";

/// So much of what such a client sends is looked at for the path that it asks for, in bytes.
const REQUEST_LINE_BYTES_MAX: usize = 2048;

/// Finds out who connects, makes TLS of the connection if the listener speaks it, and applies the limits of the binding.
/// `None` if that was all: a client of the wrong protocol has been told so, or an ACME server has seen what it wanted.
///
/// Nothing here is bounded in time but the goodbye: that is for the caller.
///
/// # Errors
/// If nothing comes of the connection, for a reason that only the client can know more of.
pub(crate) async fn establish(
    tcp: TcpStream,
    peer: SocketAddr,
    slot: &Arc<Slot>,
    place: &Arc<Place>,
    listener: &Listener,
    live: &Live,
) -> anyhow::Result<Option<(Stream, Connection)>> {
    tcp.set_nodelay(true)?;
    let unknown = listener.bindings.for_handshake(None);
    let write_idle = unknown.map_or_else(Limits::default, |binding| binding.limits.clone()).body_idle_timeout;
    let mut stream = match listener.scheme {
        Scheme::Https => ClientStream::below_tls(tcp, write_idle),
        Scheme::Http => ClientStream::plain(tcp, write_idle),
    };
    let mut client = Client { slot, place, live, peer: peer.ip(), peer_port: peer.port(), port: slot.port() };
    if listener.proxy_protocol {
        if !live.trusts(client.peer) {
            slot.metrics().handshake_failed(HandshakeFailure::ProxyProtocol);
            bail!("{} is not among the trusted proxies", client.peer);
        }
        if let Some(addresses) = proxy_protocol::read(&mut stream).await? {
            client.peer = addresses.source.ip().to_canonical();
            (client.peer_port, client.port) = (addresses.source.port(), addresses.destination.port());
        }
    }
    let holder = live.holder(client.peer);
    place.belongs_to(holder).map_err(|_| client.has_too_many())?;
    let _waiting = match holder.is_trusted {
        true => None,
        false => Some(live.meter.waiting(listener, client.peer).map_err(|_| client.has_too_many())?),
    };
    let Some(first) = stream.first_byte().await? else { bail!("closed before its first byte") };
    match (listener.scheme, first == TLS_HANDSHAKE) {
        (Scheme::Http, false) => {
            let binding = unknown.ok_or_else(|| anyhow!("nothing is bound"))?;
            let stream = PlainStream::new(stream);
            let connection = Connection { understood: stream.understood(), ..client.connection(binding)? };
            Ok(Some((Box::new(stream), connection)))
        }
        (Scheme::Https, true) => {
            let start = hello(stream).await?;
            let hello = start.client_hello();
            if acme::is_validation(&hello) {
                let answer = hello.server_name().and_then(|name| live.acme()?.challenge_certificate(name));
                let Some(answer) = answer else { bail!("nobody was asked to validate this name") };
                finish(start, tls::for_challenge(answer)?).await?.shutdown().await?;
                return Ok(None);
            }
            let binding = listener.bindings.for_handshake(hello.server_name());
            let Some((binding, tls)) = binding.and_then(|binding| Some((binding, binding.tls.as_ref()?))) else {
                bail!("nothing is bound");
            };
            if !binding.access.admits(client.peer) {
                say_goodbye(start.io, ACCESS_DENIED).await;
                bail!("not admitted");
            }
            let mut connection = client.connection(binding)?;
            let mut stream = finish(start, Arc::clone(tls.config())).await?;
            stream.get_mut().0.set_write_idle(binding.limits.body_idle_timeout);
            let stream = EncryptedStream::new(stream);
            (connection.tls, connection.understood) = (stream.parameters(), stream.understood());
            Ok(Some((Box::new(stream), connection)))
        }
        (Scheme::Https, false) => {
            slot.metrics().handshake_failed(HandshakeFailure::PlainHttp);
            let line = timeout(GOODBYE_MAX, request_line(&mut stream)).await.ok().and_then(Result::ok);
            say_goodbye(stream, &https_required(&line.unwrap_or_default())).await;
            Ok(None)
        }
        (Scheme::Http, true) => {
            slot.metrics().handshake_failed(HandshakeFailure::UnexpectedTls);
            say_goodbye(stream, HANDSHAKE_FAILURE).await;
            Ok(None)
        }
    }
}

/// Who connects, as far as it is known.
struct Client<'a> {
    slot: &'a Arc<Slot>,
    place: &'a Arc<Place>,
    live: &'a Live,
    peer: IpAddr,
    peer_port: u16,
    port: u16,
}

impl Client<'_> {
    /// Its connection for a binding, if it may have one more.
    fn connection(&self, binding: &Binding) -> anyhow::Result<Connection> {
        let counted = Some(self.peer).filter(|peer| !self.live.trusts(*peer));
        let admission = self.live.meter.connection(binding, counted).map_err(|_| self.has_too_many())?;
        Ok(Connection {
            slot: Arc::clone(self.slot),
            peer: self.peer,
            peer_port: self.peer_port,
            port: self.port,
            peer_header: HeaderValue::try_from(self.peer.to_string())?,
            client_authority: binding.tls.as_ref().and_then(|tls| tls.client_authority()).copied(),
            tls: None,
            limits: binding.limits.clone(),
            has_head: AtomicBool::new(false),
            understood: Understood::default(),
            requests: AtomicU64::new(0),
            place: Arc::clone(self.place),
            _admission: admission,
        })
    }

    fn has_too_many(&self) -> anyhow::Error {
        self.live.observe.metrics.limit("connections").increment();
        anyhow!("too many connections")
    }
}

/// Reads what a TLS client begins with.
async fn hello(stream: ClientStream) -> anyhow::Result<StartHandshake<ClientStream>> {
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), stream);
    match (&mut acceptor).await {
        Ok(start) => Ok(start),
        Err(error) => {
            if let Some(stream) = acceptor.take_io() {
                say_goodbye(stream, b"").await;
            }
            Err(error.into())
        }
    }
}

/// Does the rest of a handshake.
async fn finish(start: StartHandshake<ClientStream>, config: Arc<ServerConfig>) -> anyhow::Result<TlsStream<ClientStream>> {
    match start.into_stream(config).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => {
            say_goodbye(stream, b"").await;
            Err(error.into())
        }
    }
}

/// The first line that a client has sent, or as much of it as is looked at.
async fn request_line(stream: &mut ClientStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < REQUEST_LINE_BYTES_MAX && stream.read(&mut byte).await? > 0 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(line)
}

/// The answer to an HTTP client of an HTTPS port: JSON to whoever asks for a registry or the REST API, which is not a person.
fn https_required(line: &[u8]) -> Vec<u8> {
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let is_rest = API_PREFIXES.iter().any(|prefix| target.starts_with(prefix.as_bytes()));
    let (content_type, body) = match Api::of(target) {
        Api::Other if !is_rest => ("text/plain", Bytes::from_static(HTTPS_REQUIRED.as_bytes())),
        api => ("application/json", in_form_of(api, StatusCode::BAD_REQUEST, "UNSUPPORTED", HTTPS_REQUIRED)),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 400 Bad Request\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), &body].concat()
}

/// Sends a last message, after what has been written but not sent: the alert that says why a handshake failed. What the
/// client has sent is read, because closing a socket with unread bytes resets the connection, and the reset may overtake
/// the message.
async fn say_goodbye(mut stream: ClientStream, message: &[u8]) {
    let goodbye = async {
        stream.write_all(message).await?;
        stream.shutdown().await?;
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // It may have gone before us.
    let _ = timeout(GOODBYE_MAX, goodbye).await;
}
