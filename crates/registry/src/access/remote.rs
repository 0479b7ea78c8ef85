//! Where a request comes from, and who says so.

use std::net::IpAddr;

/// Where a request comes from. What a peer claims of its clients is kept beside the peer's own address, so that what is counted
/// and written down of a claim is never mistaken for what we have seen ourselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Who is at the other end of the connection; `None` at a socket in the file system.
    pub peer: Option<IpAddr>,
    /// For whom it says that it asks, if it is believed.
    pub claimed: Option<IpAddr>,
}

impl Remote {
    /// The client's address, as far as is known.
    pub fn address(&self) -> Option<IpAddr> {
        self.claimed.or(self.peer)
    }

    /// The networks that customers of a provider have: usually a whole IPv6 /64.
    pub(super) fn networks(self) -> Self {
        Self { peer: self.peer.map(network), claimed: self.claimed.map(network) }
    }
}

/// What connects itself.
impl From<Option<IpAddr>> for Remote {
    fn from(peer: Option<IpAddr>) -> Self {
        Self { peer, claimed: None }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}
