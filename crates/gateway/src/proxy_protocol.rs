//! The PROXY protocol, versions 1 and 2: a load balancer that passes TCP on says first who the client is.
//!
//! What must stay true: the header is read only from a trusted peer on a listener that expects one, and there it is
//! required. If it were optional, a client could send its own.

use std::io;
use std::net::SocketAddr;

use ppp::v1;
use ppp::v2;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest header of version 1, in bytes, with its line end (the specification's own bound).
const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 after its first 16 bytes. Addresses take 216 at most; the rest is for extensions, which
/// clouds use for endpoint ids and TLS facts.
const V2_BYTES_MAX: usize = 4096;

/// How version 2 begins; then come command, family and a length of two bytes.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_PREFIX_BYTES: usize = 16;

/// Who connected to whom, as the load balancer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// Reads the header. `None`: the load balancer speaks for itself (a health check), or does not know.
///
/// # Errors
/// If what comes is no header, or the connection ends within it.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Addresses>> {
    let first = stream.read_u8().await?;
    if first == V2_SIGNATURE[0] { read_v2(stream, first).await } else { read_v1(stream, first).await }
}

async fn read_v1(stream: &mut (impl AsyncRead + Unpin), first: u8) -> io::Result<Option<Addresses>> {
    let mut line = vec![first];
    while !line.ends_with(b"\n") {
        if line.len() == V1_BYTES_MAX {
            return Err(invalid("no line end in a PROXY header"));
        }
        line.push(stream.read_u8().await?);
    }
    // The parser takes `UNKNOWN` without one; whoever reads on to it would find another end.
    if !line.ends_with(b"\r\n") {
        return Err(invalid("a PROXY header that ends without a carriage return"));
    }
    let header = v1::Header::try_from(line.as_slice()).map_err(invalid)?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some(addresses((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))),
        v1::Addresses::Tcp6(ip) => Some(addresses((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))),
    })
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin), first: u8) -> io::Result<Option<Addresses>> {
    let mut bytes = vec![0; V2_PREFIX_BYTES];
    bytes[0] = first;
    stream.read_exact(&mut bytes[1..]).await?;
    if !bytes.starts_with(V2_SIGNATURE) {
        return Err(invalid("no PROXY header"));
    }
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > V2_BYTES_MAX {
        return Err(invalid("a PROXY header that is too long"));
    }
    bytes.resize(V2_PREFIX_BYTES + length, 0);
    stream.read_exact(&mut bytes[V2_PREFIX_BYTES..]).await?;
    let header = v2::Header::try_from(bytes.as_slice()).map_err(invalid)?;
    Ok(match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
            Some(addresses((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port)))
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
            Some(addresses((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port)))
        }
        (v2::Command::Local, _) | (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
    })
}

fn addresses(source: impl Into<SocketAddr>, destination: impl Into<SocketAddr>) -> Addresses {
    Addresses { source: source.into(), destination: destination.into() }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_now(bytes: &[u8]) -> (io::Result<Option<Addresses>>, usize) {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(read(&mut rest));
        (read, rest.len())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 9, 0x12, 0x34, 0x01, 0xbb];

    #[test]
    fn both_versions_say_who_connected_to_whom_and_nothing_more_is_read() {
        let expected = addresses(([192, 0, 2, 1], 0x1234), ([10, 0, 0, 9], 443));
        let with_extension = [&V4[..], &[0x04, 0, 1, 0]].concat();
        for header in [b"PROXY TCP4 192.0.2.1 10.0.0.9 4660 443\r\n".to_vec(), v2(0x21, 0x11, &V4), v2(0x21, 0x11, &with_extension)] {
            let (read, left) = read_now(&[&header[..], b"\x16\x03"].concat());
            assert_eq!((read.unwrap(), left), (Some(expected), 2), "{header:?}");
        }
        let (read, _) = read_now(b"PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n");
        assert_eq!(read.unwrap().unwrap().source, "[2001:db8::1]:4660".parse().unwrap());
    }

    #[test]
    fn a_health_check_speaks_for_itself() {
        for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0x00, &[]), v2(0x20, 0x11, &V4)] {
            assert_eq!(read_now(&header).0.unwrap(), None, "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_within_its_bound() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        let huge = [&V2_SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x16\x03\x01",
            b"",
            b"PROXY TCP4 a b 1 2\r\n",
            b"PROXY\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.9 4660 443\n",
            b"PROXY UNKNOWN\n",
            b"PROXY UNKNOWN \n\r\n",
            b"\r\n\r\n\0\r\nQUIX\n0000",
            &long,
            &huge,
        ] {
            assert!(read_now(bytes).0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), signed: bool) {
            let bytes = if signed { [&V2_SIGNATURE[..], &bytes].concat() } else { bytes };
            let _ = read_now(&bytes);
        }
    }
}
