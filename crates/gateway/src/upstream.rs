//! The way to the backend.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::connectors::L4Connect;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora::{ErrorType, OrErr};
use rustix::net::sockopt;
use tokio::net::UnixStream;

use crate::config::Upstream;

/// The backend is near: what takes longer is down.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long the backend may be silent. Long, because it checks the digest of a whole layer before it answers.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 60);

/// How long the backend may read nothing of a body.
const STALL_MAX: Duration = Duration::from_secs(5 * 60);

/// How long an idle connection is kept. Below the backend's own 90 s, so that no request is sent into a closing connection.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Bytes that the socket takes before the backend has to wake up and make room: several pieces of a body at once.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// How the backend is reached, with every limit.
pub(crate) fn peer(upstream: &Upstream) -> HttpPeer {
    let mut peer = match upstream {
        Upstream::Tcp(address) => HttpPeer::new(address, false, String::new()),
        Upstream::Unix(path) => unix_peer(path.clone()),
    };
    let options = &mut peer.options;
    options.connection_timeout = Some(CONNECT_MAX);
    options.total_connection_timeout = Some(CONNECT_MAX);
    options.read_timeout = Some(SILENCE_MAX);
    options.write_timeout = Some(STALL_MAX);
    options.idle_timeout = Some(IDLE_MAX);
    options.http_upstream_request_policy = HttpUpstreamRequestPolicy::deny_upgrades();
    peer
}

/// A peer behind a Unix socket whose connections are reused under any spelling of its path.
///
/// Pingora's own kind reuses a connection only if the backend bound the socket under the very same text: through a
/// symlink, a bind mount or a relative path it would log an error and connect anew for every request. The unspecified
/// address is the one it does not compare.
fn unix_peer(path: PathBuf) -> HttpPeer {
    let mut peer = HttpPeer::new(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), false, String::new());
    peer.options.custom_l4 = Some(Arc::new(UnixSocket(path)));
    peer
}

#[derive(Debug)]
struct UnixSocket(PathBuf);

#[async_trait]
impl L4Connect for UnixSocket {
    async fn connect(&self, _: &PingoraAddr) -> pingora::Result<Stream> {
        let stream = UnixStream::connect(&self.0).await.or_err(ErrorType::ConnectError, "connecting to the backend's socket")?;
        sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER_BYTES).or_err(ErrorType::ConnectError, "the socket's buffer")?;
        Ok(stream.into())
    }
}
