//! An upgrade of the running program: the listening sockets go to a successor, and no client is refused for a moment.
//!
//! The running process starts the program anew, from the same path with the same arguments, with one end of a socket
//! pair as its standard input. Through that it sends the listening sockets; the successor uses those that its
//! configuration still names, binds what is new, and says when it accepts. From then on both accept from the same
//! sockets, and the predecessor stops. If the successor fails, it is as if nothing had happened.
//!
//! Pingora's own upgrade carries 32 sockets at most; this one any number.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::listener::Inherited;

/// Tells a process that its standard input is a predecessor.
const VARIABLE: &str = "BERTH_PREDECESSOR";

/// Sockets per message; the kernel takes 253 at most.
const BATCH: usize = 128;

/// Most sockets that are handed over: one per port.
const SOCKETS_MAX: u32 = 65_536;

/// How long a successor may take until it accepts connections.
const START_MAX: Duration = Duration::from_secs(120);

/// What a successor says when it accepts connections.
const READY: u8 = b'R';

/// How this program was started, remembered at the start: after an upgrade of the file its path can't be asked any more.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// The running one.
    ///
    /// # Errors
    /// If the system does not tell where it is.
    pub fn current() -> io::Result<Self> {
        Ok(Self { path: env::current_exe()?, arguments: env::args_os().skip(1).collect() })
    }

    /// Starts the program anew and gives it these sockets. Gives back its process id when it accepts connections.
    ///
    /// # Errors
    /// If it does not come to that; it has ended then.
    pub fn succeed(&self, sockets: &[BorrowedFd<'_>]) -> anyhow::Result<u32> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(&self.path)
            .args(&self.arguments)
            .env(VARIABLE, "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        match send(&ours, sockets).and_then(|()| wait(&mut ours)) {
            Ok(()) => Ok(child.id()),
            Err(error) => Err(anyhow::Error::from(error).context(end(&mut child))),
        }
    }
}

/// Ends a successor that failed, and says how it ended.
fn end(child: &mut Child) -> String {
    let ended = child.try_wait().ok().flatten();
    // It may be waiting for something for ever.
    let _ = child.kill();
    let _ = child.wait();
    ended.map_or_else(|| "the successor did not become ready".to_owned(), |status| format!("the successor ended: {status}"))
}

fn send(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = u32::try_from(sockets.len()).map_err(io::Error::other)?;
    (&*stream).write_all(&count.to_be_bytes())?;
    for batch in sockets.chunks(BATCH) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(batch)) {
            return Err(io::Error::other("no room for a batch of sockets"));
        }
        // Sockets travel only beside data.
        sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    }
    Ok(())
}

fn wait(stream: &mut UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(START_MAX))?;
    let mut word = [0];
    stream.read_exact(&mut word)?;
    if word[0] == READY { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The process that started this one to take its place.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// The predecessor and its sockets, if there is one.
    ///
    /// # Errors
    /// If it does not send them.
    pub fn find() -> anyhow::Result<Option<(Self, Inherited)>> {
        if env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_read_timeout(Some(START_MAX))?;
        let sockets = receive(&stream).context("the predecessor did not hand its sockets over")?;
        Ok(Some((Self(stream), sockets)))
    }

    /// Tells it to stop: from now on connections are accepted here.
    pub fn relieve(mut self) {
        // It may have been killed meanwhile.
        let _ = self.0.write_all(&[READY]);
    }
}

fn receive(stream: &UnixStream) -> anyhow::Result<HashMap<SocketAddr, TcpListener>> {
    let mut count = [0; 4];
    (&*stream).read_exact(&mut count)?;
    let count = u32::from_be_bytes(count);
    if count > SOCKETS_MAX {
        bail!("too many sockets: {count}");
    }
    let mut sockets = HashMap::new();
    let mut received = 0;
    while received < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            bail!("the connection ended after {received} of {count} sockets");
        }
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
            for descriptor in descriptors {
                received += 1;
                let socket = TcpListener::from(descriptor);
                socket.set_nonblocking(true)?;
                sockets.insert(socket.local_addr()?, socket);
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_sockets_is_handed_over() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sockets: Vec<_> = (0..BATCH * 2 + 3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let receiver = std::thread::spawn(move || receive(&theirs).unwrap());
        send(&ours, &sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
        let received = receiver.join().unwrap();
        assert_eq!(received.len(), sockets.len());
        for socket in sockets {
            assert!(received.contains_key(&socket.local_addr().unwrap()));
        }
    }

    #[test]
    fn a_predecessor_that_breaks_off_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&ours).write_all(&3_u32.to_be_bytes()).unwrap();
        drop(ours);
        assert!(receive(&theirs).is_err());
    }
}
