//! A door for the fuzz targets in `fuzz/`, which say what must be true of any input. It is compiled for them and for tests
//! only, and shows no more than they need.

use std::io;
use std::net::SocketAddr;

use crate::proxy_protocol;

pub use crate::convert::fuzzing::toml;
pub use crate::framing::fuzzing::{End, Message, messages, pieces};

/// Reads a PROXY protocol header: source and destination if it names them, and how many bytes it took.
///
/// # Errors
/// If it is none.
pub async fn proxy_header(bytes: &[u8]) -> io::Result<(Option<(SocketAddr, SocketAddr)>, usize)> {
    let mut rest = bytes;
    let addresses = proxy_protocol::read(&mut rest).await?;
    Ok((addresses.map(|addresses| (addresses.source, addresses.destination)), bytes.len() - rest.len()))
}
