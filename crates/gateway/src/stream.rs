//! A client's TCP connection with buffers, in the shape that Pingora wants.
//!
//! Pingora's own stream type lets only its built-in listeners choose the size of its buffers.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID, UniqueIDType,
};
use rustls::ProtocolVersion;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::buffer::{Buffer, Size};
use crate::framing::{Framing, Understood};

/// A buffered TCP connection.
#[derive(Debug)]
pub(crate) struct ClientStream {
    tcp: Patient,
    unread: Buffer,
    /// Header and small body leave in one packet, and four TLS records in one system call.
    unsent: Buffer,
}

impl ClientStream {
    /// For bytes that TLS reads.
    pub(crate) fn below_tls(tcp: TcpStream, write_idle: Duration) -> Self {
        Self { tcp: Patient::new(tcp, write_idle), unread: Buffer::new(Size::Large), unsent: Buffer::new(Size::Small) }
    }

    /// For bytes that HTTP reads: bodies in pieces of the buffer's size, which pass it by without being copied.
    pub(crate) fn plain(tcp: TcpStream, write_idle: Duration) -> Self {
        Self { tcp: Patient::new(tcp, write_idle), unread: Buffer::new(Size::Small), unsent: Buffer::new(Size::Small) }
    }

    /// How long the client may take nothing of what it is sent.
    pub(crate) fn set_write_idle(&mut self, limit: Duration) {
        self.tcp.limit = limit;
    }

    /// The first byte that the client has sent, which stays where it is; `None` at the end.
    pub(crate) async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        poll_fn(|cx| self.unread.poll_fill(Pin::new(&mut self.tcp), cx)).await?;
        Ok(self.unread.bytes().first().copied())
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, unread, .. } = self.get_mut();
        if unread.is_empty() && buffer.remaining() >= unread.capacity() {
            return Pin::new(tcp).poll_read(cx, buffer);
        }
        ready!(unread.poll_fill(Pin::new(tcp), cx))?;
        let count = unread.len().min(buffer.remaining());
        buffer.put_slice(&unread.bytes()[..count]);
        unread.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self { tcp, unsent, .. } = self.get_mut();
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if unsent.len() + count > unsent.capacity() {
            ready!(unsent.poll_drain(Pin::new(tcp), cx))?;
        }
        if count >= unsent.capacity() {
            return Pin::new(tcp).poll_write_vectored(cx, slices);
        }
        slices.iter().for_each(|slice| unsent.push(slice));
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, unsent, .. } = self.get_mut();
        ready!(unsent.poll_drain(Pin::new(tcp), cx))?;
        Pin::new(tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, unsent, .. } = self.get_mut();
        ready!(unsent.poll_drain(Pin::new(tcp), cx))?;
        Pin::new(tcp).poll_shutdown(cx)
    }
}

/// A TCP connection that gives up on a client that takes nothing of what it is sent. Pingora bounds the writing of bodies
/// but not that of heads, of the end of a chunked body and of the last bytes before a close.
#[derive(Debug)]
struct Patient {
    tcp: TcpStream,
    limit: Duration,
    /// Runs while the client is waited for.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(tcp: TcpStream, limit: Duration) -> Self {
        Self { tcp, limit, stalled: None }
    }

    /// Whatever is not pending is progress.
    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A connection that requests are read from. What comes is judged before anybody sees it ([`Framing`]).
#[derive(Debug)]
pub(crate) struct RequestStream<S> {
    stream: S,
    framing: Framing,
}

impl<S> RequestStream<S> {
    /// A connection on which nothing has been read yet.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, framing: Framing::default() }
    }

    /// Which of its requests have a head that was understood as it came.
    pub(crate) fn understood(&self) -> Understood {
        self.framing.understood()
    }
}

/// A connection in TLS.
pub(crate) type EncryptedStream = RequestStream<TlsStream<ClientStream>>;

/// A connection without.
pub(crate) type PlainStream = RequestStream<ClientStream>;

impl EncryptedStream {
    /// Version and cipher suite, as everybody else writes them.
    pub(crate) fn parameters(&self) -> Option<(&'static str, &'static str)> {
        let (_, session) = self.stream.get_ref();
        let version = match session.protocol_version()? {
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => return None,
        };
        Some((version, session.negotiated_cipher_suite()?.suite().as_str()?))
    }
}

/// What Pingora gives back after a request.
enum Known {
    Encrypted(Box<EncryptedStream>),
    Plain(Box<PlainStream>),
}

impl Known {
    /// `None` for what is none of ours, which nobody gives to Pingora.
    fn of(stream: Stream) -> Option<Self> {
        match stream.into_any().downcast() {
            Ok(stream) => Some(Self::Encrypted(stream)),
            Err(stream) => stream.downcast().ok().map(Self::Plain),
        }
    }
}

/// Waits until the client has sent something. `None` if it has gone instead.
pub(crate) async fn wait_for_client(stream: Stream) -> Option<Stream> {
    match Known::of(stream)? {
        Known::Encrypted(mut stream) => {
            let has_more = stream.stream.fill_buf().await.is_ok_and(|bytes| !bytes.is_empty());
            has_more.then_some(stream as Stream)
        }
        Known::Plain(mut stream) => {
            let has_more = matches!(stream.stream.first_byte().await, Ok(Some(_)));
            has_more.then_some(stream as Stream)
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, framing } = self.get_mut();
        framing.check()?;
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        let good = framing.follow(&buffer.filled()[before..]);
        if good == 0 {
            framing.check()?;
        }
        // A head that comes in one piece with what is in doubt can be answered.
        buffer.set_filled(before + good);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Implements what else Pingora wants of a stream, whose socket `$socket` finds.
macro_rules! client_stream {
    ($name:ident, $socket:expr) => {
        #[async_trait]
        impl Shutdown for $name {
            async fn shutdown(&mut self) {
                // The client may have gone before us.
                let _ = AsyncWriteExt::shutdown(self).await;
            }
        }

        impl UniqueID for $name {
            fn id(&self) -> UniqueIDType {
                let socket: fn(&Self) -> &TcpStream = $socket;
                socket(self).as_raw_fd()
            }
        }

        impl Ssl for $name {}

        impl Peek for $name {}

        impl GetTimingDigest for $name {
            fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
                Vec::new()
            }
        }

        impl GetProxyDigest for $name {
            fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
                None
            }
        }

        impl GetSocketDigest for $name {
            /// Addresses are kept with the connection ([`crate::connection::Connection`]), not asked of the kernel again.
            fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
                None
            }
        }
    };
}

client_stream!(PlainStream, |stream| &stream.stream.tcp.tcp);
client_stream!(EncryptedStream, |stream| &stream.stream.get_ref().0.tcp.tcp);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::task::yield_now;

    use super::*;

    async fn pair(limit: Duration) -> (ClientStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (ClientStream::plain(listener.accept().await.unwrap().0, limit), client)
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_whatever_it_is_sent() {
        let limit = Duration::from_millis(200);
        let (mut stream, _client) = pair(limit).await;
        let began = Instant::now();
        let error = loop {
            // As heads do, and the last bytes of an answer: less than the buffer, then a flush.
            let written = async {
                stream.write_all(&[0; 1000]).await?;
                stream.flush().await
            };
            if let Err(error) = written.await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= limit);
        // The end is not waited for again.
        let began = Instant::now();
        assert_eq!(AsyncWriteExt::shutdown(&mut stream).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < limit);
    }

    #[tokio::test]
    async fn a_client_that_takes_something_now_and_then_is_waited_for() {
        const BYTES: usize = 16 << 20;
        let limit = Duration::from_millis(400);
        let (mut stream, mut client) = pair(limit).await;
        let reading = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 20];
            let (mut received, mut pauses) = (0, 0);
            while received < BYTES {
                received += client.read(&mut buffer).await.unwrap();
                if pauses < 10 {
                    pauses += 1;
                    sleep(limit / 4).await;
                }
                yield_now().await;
            }
            received
        });
        stream.write_all(&vec![7; BYTES]).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(reading.await.unwrap(), BYTES);
    }
}
