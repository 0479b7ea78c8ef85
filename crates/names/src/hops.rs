use std::net::{IpAddr, SocketAddr};

/// Most hops that are followed from the right.
const HOPS_MAX: usize = 32;

/// The way that a request has come through proxies, as they have written it down in lists: each adds what it saw at the
/// right-hand end. What stands to the left of a hop that can't be read is hearsay, like all that stands to the left of a
/// stranger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hops {
    /// The last hop that is not one of ours: the client.
    pub client: Option<IpAddr>,
    /// How many of ours stand to the right of it.
    ours: usize,
}

impl Hops {
    /// Walks back through the values of `X-Forwarded-For`, each a list, as long as the hops are ours.
    pub fn walk<'v>(values: impl DoubleEndedIterator<Item = &'v str>, is_ours: impl Fn(IpAddr) -> bool) -> Self {
        let mut walked = Self::default();
        for (at, hop) in values.rev().flat_map(|value| value.rsplit(',')).map_while(address).take(HOPS_MAX).enumerate() {
            walked = Self { client: Some(hop), ours: at };
            if !is_ours(hop) {
                break;
            }
        }
        walked
    }

    /// Of another list that the same proxies write, what the one that the client spoke to has added: as far from the right
    /// as the client is in its list. A list that is shorter has been begun by one of ours, and its first element counts.
    pub fn element<'v>(&self, values: impl DoubleEndedIterator<Item = &'v str>) -> Option<&'v str> {
        values.rev().flat_map(|value| value.rsplit(',')).take(self.ours + 1).last().map(str::trim)
    }
}

/// An address; some proxies write its port too.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address: IpAddr = text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(values: &[&str]) -> Hops {
        Hops::walk(values.iter().copied(), |hop| hop.to_string().starts_with("10."))
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_not_ours() {
        for (values, client) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["198.51.100.1, 192.0.2.1, 10.0.0.7"], Some("192.0.2.1")),
            (&["198.51.100.1", "192.0.2.1", "10.0.0.7"], Some("192.0.2.1")),
            (&["10.0.0.8, 10.0.0.7"], Some("10.0.0.8")),
            (&["192.0.2.1:4711"], Some("192.0.2.1")),
            (&["203.0.113.1, [2001:db8::1]:4711"], Some("2001:db8::1")),
            (&["192.0.2.1, unknown, 10.0.0.7"], Some("10.0.0.7")),
            (&["203.0.113.1, unknown"], None),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(walk(values).client, client.map(|text| text.parse().unwrap()), "{values:?}");
        }
    }

    #[test]
    fn of_other_lists_that_counts_which_the_first_of_ours_has_written() {
        for (hops, list, element) in [
            ("192.0.2.1", &["https"][..], Some("https")),
            ("192.0.2.1", &["http, https"], Some("https")),
            ("192.0.2.1, 10.0.0.7", &["https, http"], Some("https")),
            ("192.0.2.1, 10.0.0.7", &["https", "http"], Some("https")),
            ("192.0.2.1, 10.0.0.8, 10.0.0.7", &["gopher, https, http, http"], Some("https")),
            // Who does not add to the list leaves it as it was.
            ("192.0.2.1, 10.0.0.7", &["https"], Some("https")),
            ("192.0.2.1, 10.0.0.8, 10.0.0.7", &["https,http"], Some("https")),
            ("192.0.2.1, unknown, 10.0.0.7", &["https, http"], Some("http")),
            ("", &["https, http"], Some("http")),
            ("192.0.2.1", &[], None),
            ("192.0.2.1", &[""], Some("")),
        ] {
            assert_eq!(walk(&[hops]).element(list.iter().copied()), element, "{hops} {list:?}");
        }
    }
}
