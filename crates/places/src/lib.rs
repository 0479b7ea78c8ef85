//! Who holds how many of what there is a bounded number of. Both services take in clients by these rules.
//!
//! What must stay true:
//! - One client can't take every place: it has a share ([`Shares`]), and where places are short, whoever holds most gives
//!   up what has been idle longest ([`Connections`]). A newcomer is served as long as anybody holds a place without using it.
//! - An IPv6 client is its /64: that is what one customer of a provider gets.
//! - What is remembered of a client goes with the last thing that it holds, so memory is bounded by the places.

mod connections;
mod files;
mod shares;

use std::net::IpAddr;

pub use connections::{Bounds, Connections, Holder, Place, TooMany};
pub use files::raise_open_files;
pub use shares::{Share, Shares};

/// Whom what is held is counted for: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(u64);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // No /64 that anybody is given begins with 32 zeros.
            IpAddr::V4(address) => Self(u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let client = |text: &str| Client::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }
}
