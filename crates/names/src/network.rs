use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// An IP address, or a network in CIDR form (`192.0.2.0/24`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// The text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address like \"192.0.2.1\" or a network like \"192.0.2.0/24\", whose address ends in zero bits")]
pub struct InvalidNetwork;

impl Network {
    /// Every IPv4 address of this host itself.
    pub const LOOPBACK_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), bits: 8 };

    /// The IPv6 address of this host itself.
    pub const LOOPBACK_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::LOCALHOST), bits: 128 };

    /// Whether the address is in the network. An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is the
    /// same address.
    pub fn contains(&self, address: IpAddr) -> bool {
        // Shifting by the whole width is an overflow; it means "every address".
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits).unwrap_or(0) == 0,
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits).unwrap_or(0) == 0,
            _ => false,
        }
    }

    /// The network with its length, also if it is a single address.
    pub fn to_cidr(&self) -> String {
        format!("{}/{}", self.address, self.bits)
    }

    fn width(&self) -> u32 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let whole = Self { address, bits: 0 };
        Self { bits: whole.width(), ..whole }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| InvalidNetwork)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().map_err(|_| InvalidNetwork)?,
            Some(_) => return Err(InvalidNetwork),
            None => width,
        };
        // `10.1.2.3/8` may be meant to trust one host: it must not come to mean sixteen million.
        let host_bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits().checked_shl(bits).unwrap_or(0)),
            IpAddr::V6(address) => address.to_bits().checked_shl(bits).unwrap_or(0),
        };
        if bits <= width && host_bits == 0 { Ok(Self { address, bits }) } else { Err(InvalidNetwork) }
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bits == self.width() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.bits) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_holds_what_shares_its_first_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::ffff:192.0.2.8"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()) && !parsed.contains(outside.parse().unwrap()), "{network}");
            assert_eq!(parsed.to_string(), network);
        }
    }

    #[test]
    fn what_could_mean_more_than_it_says_is_refused() {
        for text in ["", "10.0.0.0/33", "10.1.2.3/8", "10.0.0.0/+8", "10.0.0.0/", "a", "::/129", "10.0.0.0/8/8"] {
            assert_eq!(text.parse::<Network>(), Err(InvalidNetwork), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_network_prints_what_it_parses(address: u32, bits in 0_u32..=32) {
            let network = u32::MAX.checked_shl(32 - bits).unwrap_or(0) & address;
            let text = format!("{}/{bits}", std::net::Ipv4Addr::from(network));
            let parsed: Network = text.parse().unwrap();
            prop_assert!(parsed.contains(IpAddr::V4(address.into())));
            prop_assert_eq!(parsed.to_string().parse::<Network>().unwrap(), parsed);
        }
    }
}
