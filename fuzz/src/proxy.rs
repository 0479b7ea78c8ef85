//! The PROXY protocol.

use std::net::SocketAddr;

use berth_gateway::fuzzing::proxy_header;

/// The specification's bound of version 1, and ours of version 2 with its first 16 bytes.
const V1_BYTES_MAX: usize = 107;
const V2_BYTES_MAX: usize = 16 + 4096;

/// A header is read within its bound and no further, whatever is behind it, and what it says can be written and read again.
pub fn header(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = |bytes: &[u8]| runtime.block_on(proxy_header(bytes)).ok();
    let Some((addresses, length)) = read(input) else { return };
    let is_second = input.starts_with(b"\r");
    assert!(length <= if is_second { V2_BYTES_MAX } else { V1_BYTES_MAX });
    assert_eq!(read(&input[..length]), Some((addresses, length)), "what is behind a header changes it");
    assert_eq!(read(&input[..length - 1]), None, "a part of a header is one");
    if !is_second {
        assert!(input.starts_with(b"PROXY ") && input[..length].ends_with(b"\r\n"), "another reader finds no line of the PROXY protocol");
    }
    let Some((source, destination)) = addresses else { return };
    assert_eq!(source.is_ipv4(), destination.is_ipv4());
    for written in [v1(source, destination), v2(source, destination)] {
        assert_eq!(read(&written), Some((addresses, written.len())));
    }
}

fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port()).into_bytes()
}

fn v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let rest = [octets(source), octets(destination), ports].concat();
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x21, family, 0, rest.len() as u8], &rest].concat()
}
