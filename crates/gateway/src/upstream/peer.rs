//! How one server is reached: socket, TLS, and every limit of a connection.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::TcpKeepalive;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::utils::tls::WrappedX509;
use pingora::{Error, ErrorType, OrErr};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::UnixStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Address, CONNECT_MAX, Server};

/// How long a backend may be silent over long work: it hashes and syncs a whole layer, or goes through all tags, before it
/// answers.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long a backend may read nothing of a body.
const STALL_MAX: Duration = Duration::from_secs(5 * 60);

/// How long an idle connection is kept. Below the backend's own 90 s, so that no request is sent into a closing connection.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// After how much silence the kernel asks whether the other machine is still there, and how often before it gives up.
/// Without it, a machine that lost its power would be waited for as long as one that checks a digest.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: usize = 3;

/// Bytes that the socket takes before the backend has to wake up and make room: several pieces of a body at once.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// How a server proves who it is. There is no way to ask for TLS without this proof.
#[derive(Clone, Debug)]
pub struct Tls {
    server_name: String,
    roots: Arc<[WrappedX509]>,
}

/// Why a server's certificate could not be verified with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// It would be compared with no certificate.
    #[error("the server's name is neither a host name nor an IP address")]
    ServerName,
    /// Nobody would be trusted.
    #[error("there is no certificate of an authority to trust")]
    NoRoots,
    /// Not a certificate that an authority could have.
    #[error("an authority's certificate cannot be used")]
    Root,
}

impl Tls {
    /// Trusts servers whose certificate is for `server_name` and was signed by one of `roots`, and nobody else.
    ///
    /// # Errors
    /// [`TlsError`] if no server could be verified so.
    pub fn new(server_name: &str, roots: &[CertificateDer<'_>]) -> Result<Self, TlsError> {
        // Pingora verifies nothing if the name is empty, and finds out only while connecting that one can't be used.
        ServerName::try_from(server_name).map_err(|_| TlsError::ServerName)?;
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        let mut store = RootCertStore::empty();
        let roots = roots.iter().map(|root| {
            store.add(root.clone().into_owned()).map_err(|_| TlsError::Root)?;
            WrappedX509::try_new(root.to_vec(), |der| X509Certificate::from_der(der).map(|(_, root)| root)).map_err(|_| TlsError::Root)
        });
        Ok(Self { roots: roots.collect::<Result<_, _>>()?, server_name: server_name.to_owned() })
    }
}

/// What Pingora needs to reach a server.
pub(super) fn peer(server: &Server) -> HttpPeer {
    let (has_tls, server_name) = match &server.tls {
        Some(tls) => (true, tls.server_name.clone()),
        None => (false, String::new()),
    };
    // Pingora's own kind of Unix peer reuses a connection only if the backend bound the socket under the very same text:
    // through a symlink, a bind mount or a relative path it would log an error and connect anew for every request. The
    // unspecified address is the one it does not compare.
    let address = match &server.address {
        Address::Tcp(address) => *address,
        Address::Unix(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
    };
    let mut peer = HttpPeer::new(address, has_tls, server_name);
    peer.group_key = group_key(server);
    let options = &mut peer.options;
    match &server.address {
        Address::Unix(path) => options.custom_l4 = Some(Arc::new(UnixSocket(path.clone()))),
        Address::Tcp(_) => options.tcp_keepalive = Some(keepalive()),
    }
    options.ca = server.tls.as_ref().map(|tls| Arc::clone(&tls.roots));
    options.connection_timeout = Some(CONNECT_MAX);
    options.total_connection_timeout = Some(CONNECT_MAX);
    options.read_timeout = Some(SILENCE_MAX);
    options.write_timeout = Some(STALL_MAX);
    options.idle_timeout = Some(IDLE_MAX);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}

/// The same server, reached only by connections that this thread has kept. Pingora keeps them for all threads together, and
/// a thread that goes on with another's has to be woken by it for every piece that comes: measured, a third of the
/// gateway's time in small requests.
///
/// `silence` is how long it may say nothing while it is waited for.
pub(super) fn for_this_thread(peer: &HttpPeer, silence: Duration) -> HttpPeer {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    let mut peer = peer.clone();
    peer.group_key = peer.group_key.wrapping_add(NUMBER.with(|number| *number));
    peer.options.read_timeout = Some(silence);
    peer
}

/// What keeps apart the kept connections of servers that Pingora can't tell apart: all Unix sockets have one address to it,
/// and it would go on using a connection that an authority vouched for who is no longer trusted.
fn group_key(server: &Server) -> u64 {
    let mut hasher = DefaultHasher::new();
    server.address.hash(&mut hasher);
    for root in server.tls.iter().flat_map(|tls| tls.roots.iter()) {
        root.borrow_raw_cert().hash(&mut hasher);
    }
    hasher.finish()
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: KEEPALIVE_AFTER,
        interval: KEEPALIVE_PAUSE,
        count: KEEPALIVE_PROBES,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    }
}

#[derive(Debug)]
struct UnixSocket(PathBuf);

#[async_trait]
impl L4Connect for UnixSocket {
    async fn connect(&self, _: &PingoraAddr) -> pingora::Result<Stream> {
        let stream = UnixStream::connect(&self.0).await.map_err(connect_error)?;
        sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER_BYTES).or_err(ErrorType::SocketError, "the socket's buffer")?;
        Ok(stream.into())
    }
}

/// Tells want of our own descriptors or memory, which is no server's fault, from everything else.
fn connect_error(error: io::Error) -> Box<Error> {
    let kind = match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => ErrorType::SocketError,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "connecting to the backend's socket", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &str) -> Server {
        Server { address: Address::Unix(path.into()), tls: None }
    }

    fn authority() -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn what_could_not_verify_a_server_is_refused() {
        let root = authority();
        for (name, roots, error) in [
            ("", vec![root.clone()], TlsError::ServerName),
            ("no name", vec![root.clone()], TlsError::ServerName),
            ("backend", vec![], TlsError::NoRoots),
            ("backend", vec![root.clone(), CertificateDer::from(vec![0x30, 0])], TlsError::Root),
        ] {
            assert_eq!(Tls::new(name, &roots).unwrap_err(), error, "{name:?}");
        }
        for name in ["backend.example.com", "10.0.0.5", "fd00::5"] {
            let tls = Tls::new(name, std::slice::from_ref(&root)).unwrap();
            let peer = peer(&Server { address: Address::Tcp(([10, 0, 0, 5], 443).into()), tls: Some(tls) });
            assert!(peer.is_tls() && peer.sni == name && peer.options.verify_cert && peer.options.verify_hostname);
            assert_eq!(peer.options.ca.unwrap().len(), 1);
        }
    }

    #[test]
    fn connections_are_shared_only_by_what_reaches_the_same_server_under_the_same_authorities() {
        let with_tls =
            |root| Server { address: Address::Tcp(([10, 0, 0, 5], 443).into()), tls: Some(Tls::new("backend", &[root]).unwrap()) };
        let (first, second) = (authority(), authority());
        let key = |server: Server| peer(&server).group_key;
        assert_eq!(key(unix("/a")), key(unix("/a")));
        assert_ne!(key(unix("/a")), key(unix("/b")));
        assert_eq!(key(with_tls(first.clone())), key(with_tls(first.clone())));
        assert_ne!(key(with_tls(first)), key(with_tls(second)));
    }
}
