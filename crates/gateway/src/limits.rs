//! How much a client, and everybody together, may use of a binding, and how much a client may hold of the whole gateway.
//!
//! What must stay true:
//! - Counting for bindings takes a fixed amount of memory, however many clients come: the counters are a sketch that may
//!   count a client too high when it shares all its cells with others, never too low.
//! - A binding's limit that is not set is not counted.
//! - A proxy that is trusted is not a client: whom it names is.
//! - An IPv6 client is its /64: that is what one customer of a provider gets.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use berth_places::{Bounds, Share, Shares};
use pingora_limits::inflight::{Guard, Inflight};
use pingora_limits::rate::Rate;

use crate::bindings::{Binding, Listener};
use crate::head::{HEAD_BYTES_MAX, HEADER_FIELDS_MAX};

/// The limits of a binding. `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that one client may begin within a second.
    pub requests_per_second_per_client: Option<u32>,
    /// Requests of one client that may be under way at once.
    pub requests_in_flight_per_client: Option<u32>,
    /// Connections that one client may open within a second.
    pub connections_per_second_per_client: Option<u32>,
    /// Connections that one client may have open.
    pub connections_per_client: Option<u32>,
    /// Requests that may begin within a second.
    pub requests_per_second: Option<u32>,
    /// Requests that may be under way at once.
    pub requests_in_flight: Option<u32>,
    /// Connections that may be open.
    pub connections: Option<u32>,
    /// Most bytes of a request's head.
    pub header_bytes: usize,
    /// Most header fields of a request.
    pub header_fields: usize,
    /// How long a client may take for its first byte and the TLS handshake.
    pub handshake_timeout: Duration,
    /// How long a client may take, after the handshake, for the head of its first request.
    pub header_timeout: Duration,
    /// How long a client may take, after an answer, for the whole head of its next request.
    pub keepalive_timeout: Duration,
    /// How long a client may send nothing of a body, or take nothing of an answer.
    pub body_idle_timeout: Duration,
    /// Bytes per second that a body must move on average, whichever way it goes; measured from [`SLOW_START`] on.
    pub min_body_bytes_per_second: Option<u32>,
}

/// How long a body may be slower than `min_body_bytes_per_second` at its beginning: a client hashes and compresses first.
pub const SLOW_START: Duration = Duration::from_secs(30);

/// How long a small body may take however few its bytes are, and how many bytes a second it must have brought after that.
/// Forms, documents and manifests are made before they are sent: who takes longer holds a place for nothing.
pub const SMALL_BODY_MAX: Duration = Duration::from_secs(15);
/// See [`SMALL_BODY_MAX`].
pub const SMALL_BODY_BYTES_PER_SECOND_MIN: u32 = 4096;

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second_per_client: None,
            requests_in_flight_per_client: None,
            connections_per_second_per_client: None,
            connections_per_client: None,
            requests_per_second: None,
            requests_in_flight: None,
            connections: None,
            header_bytes: HEAD_BYTES_MAX,
            header_fields: HEADER_FIELDS_MAX,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            // Above the 60 s after which most proxies in between drop idle connections, so that they do it first and no
            // request is lost to our closing.
            keepalive_timeout: Duration::from_secs(75),
            // A paused laptop or a slow mirror comes back within minutes; a vanished client should not hold an upload
            // open for longer.
            body_idle_timeout: Duration::from_secs(5 * 60),
            min_body_bytes_per_second: None,
        }
    }
}

/// What clients may hold of the whole gateway, whatever they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Open connections of all clients.
    pub connections: usize,
    /// Open connections of one client. Default: half of all.
    pub connections_per_client: Option<usize>,
    /// Requests of one client that are under way. Default: a quarter of all connections.
    pub requests_per_client: Option<usize>,
    /// Forms, documents and manifests of one client that are on their way.
    pub bodies_per_client: usize,
}

/// Fewest connections that make sense.
pub const CONNECTIONS_MIN: usize = 64;

/// Open files besides those of connections: sockets that listen, logs, certificates being read, kept connections.
const OTHER_FILES: u64 = 512;

impl Default for Places {
    fn default() -> Self {
        Self { connections: 16_384, connections_per_client: None, requests_per_client: None, bodies_per_client: 512 }
    }
}

impl Places {
    /// How many connections there may be.
    pub fn bounds(&self) -> Bounds {
        Bounds { all: self.connections, per_client: self.connections_per_client.unwrap_or(self.connections / 2) }
    }

    /// How many requests of one client may be under way.
    pub fn requests_per_client(&self) -> usize {
        self.requests_per_client.unwrap_or(self.connections / 4)
    }

    /// The same, as far as the process may have so many open files: a connection whose request is under way has another one
    /// to the backend.
    #[must_use]
    pub fn within(self, open_files: Option<u64>) -> Self {
        let allowed = open_files.map_or(usize::MAX, |files| usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX));
        Self { connections: self.connections.min(allowed.max(CONNECTIONS_MIN)), ..self }
    }
}

/// What was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// Too many at once or too fast, for one client.
    Client,
    /// Too many at once or too fast, for everybody together.
    Binding,
}

/// Counts what is limited, for all bindings and over every reload.
pub struct Meter {
    requests: Rate,
    connections: Rate,
    requests_in_flight: Inflight,
    connections_open: Inflight,
    connections_waiting: Inflight,
    /// Of the whole gateway.
    requests_of_clients: Shares,
    bodies_of_clients: Shares,
}

/// Keeps what was admitted counted as under way until it is dropped.
#[derive(Default)]
pub struct Admission(
    #[allow(dead_code, reason = "held for its Drop")] [Option<Guard>; 2],
    #[allow(dead_code, reason = "held for its Drop")] Option<Share>,
);

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admission")
    }
}

/// What rates are counted over.
const SECOND: Duration = Duration::from_secs(1);

/// Rows and cells per row of a rate's sketch. Two busy clients share all four cells once in 10^16.
const SKETCH_ROWS: usize = 4;
const SKETCH_CELLS: usize = 8192;

impl Meter {
    /// Has counted nothing yet.
    pub fn new(places: &Places) -> Self {
        Self {
            requests: Rate::new_with_estimator_config(SECOND, SKETCH_ROWS, SKETCH_CELLS),
            connections: Rate::new_with_estimator_config(SECOND, SKETCH_ROWS, SKETCH_CELLS),
            requests_in_flight: Inflight::new(),
            connections_open: Inflight::new(),
            connections_waiting: Inflight::new(),
            requests_of_clients: Shares::new(places.requests_per_client()),
            bodies_of_clients: Shares::new(places.bodies_per_client),
        }
    }

    /// Other bounds of the whole gateway from now on. Who has more keeps it.
    pub fn set_places(&self, places: &Places) {
        self.requests_of_clients.set_max(places.requests_per_client());
        self.bodies_of_clients.set_max(places.bodies_per_client);
    }

    /// Counts a small body of `client` that is on its way.
    ///
    /// # Errors
    /// [`Exceeded`] if it has too many.
    pub fn body(&self, client: IpAddr) -> Result<Share, Exceeded> {
        self.bodies_of_clients.take(client.into()).ok_or(Exceeded::Client)
    }

    /// Counts a request of `client`, if the limits of `binding` let it begin.
    ///
    /// # Errors
    /// [`Exceeded`] if they don't.
    pub fn request(&self, binding: &Binding, client: IpAddr) -> Result<Admission, Exceeded> {
        let Limits { requests_per_second, requests_in_flight, requests_per_second_per_client, requests_in_flight_per_client, .. } =
            &binding.limits;
        let (all, one) = (Key::all(binding), Key::one(binding, client));
        let share = self.requests_of_clients.take(client.into()).ok_or(Exceeded::Client)?;
        over(&self.requests, one, *requests_per_second_per_client).map_err(|()| Exceeded::Client)?;
        let of_one = under(&self.requests_in_flight, one, *requests_in_flight_per_client).map_err(|()| Exceeded::Client)?;
        over(&self.requests, all, *requests_per_second).map_err(|()| Exceeded::Binding)?;
        let of_all = under(&self.requests_in_flight, all, *requests_in_flight).map_err(|()| Exceeded::Binding)?;
        Ok(Admission([of_one, of_all], Some(share)))
    }

    /// Counts a connection, if the limits of `binding` let it be served; `client` is none if a trusted proxy has it.
    ///
    /// # Errors
    /// [`Exceeded`] if they don't.
    pub fn connection(&self, binding: &Binding, client: Option<IpAddr>) -> Result<Admission, Exceeded> {
        let Limits { connections, connections_per_client, connections_per_second_per_client, .. } = &binding.limits;
        let mut of_one = None;
        if let Some(client) = client {
            let one = Key::one(binding, client);
            over(&self.connections, one, *connections_per_second_per_client).map_err(|()| Exceeded::Client)?;
            of_one = under(&self.connections_open, one, *connections_per_client).map_err(|()| Exceeded::Client)?;
        }
        let of_all = under(&self.connections_open, Key::all(binding), *connections).map_err(|()| Exceeded::Binding)?;
        Ok(Admission([of_one, of_all], None))
    }

    /// Counts a connection of `client` that has not said yet which binding of `listener` it is for, if any of them could
    /// let it be served.
    ///
    /// # Errors
    /// [`Exceeded`] if none could.
    pub fn waiting(&self, listener: &Listener, client: IpAddr) -> Result<Admission, Exceeded> {
        let limit = listener.bindings.connections_per_client();
        let key = Key { of: Of::Listener(listener.address), client: Some(client) };
        let of_one = under(&self.connections_waiting, key, limit).map_err(|()| Exceeded::Client)?;
        Ok(Admission([of_one, None], None))
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meter")
    }
}

fn over(rate: &Rate, key: Key<'_>, limit: Option<u32>) -> Result<(), ()> {
    match limit {
        Some(limit) if rate.observe(&key, 1) > limit as isize => Err(()),
        _ => Ok(()),
    }
}

fn under(inflight: &Inflight, key: Key<'_>, limit: Option<u32>) -> Result<Option<Guard>, ()> {
    let Some(limit) = limit else { return Ok(None) };
    let (guard, count) = inflight.incr(key, 1);
    if count > limit as isize { Err(()) } else { Ok(Some(guard)) }
}

/// Whose events are counted.
#[derive(Clone, Copy)]
struct Key<'a> {
    of: Of<'a>,
    client: Option<IpAddr>,
}

/// What is used.
#[derive(Clone, Copy, Hash)]
enum Of<'a> {
    /// By its label.
    Binding(&'a str),
    Listener(SocketAddr),
}

impl<'a> Key<'a> {
    fn all(binding: &'a Binding) -> Self {
        Self { of: Of::Binding(&binding.label), client: None }
    }

    fn one(binding: &'a Binding, client: IpAddr) -> Self {
        Self { of: Of::Binding(&binding.label), client: Some(client) }
    }
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.of.hash(state);
        match self.client {
            None => 0_u8.hash(state),
            Some(IpAddr::V4(address)) => address.to_bits().hash(state),
            Some(IpAddr::V6(address)) => (address.to_bits() >> 64).hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::{Access, Bound, Public};

    fn binding(limits: Limits) -> Binding {
        Binding {
            label: "0.0.0.0:443".into(),
            bound: Bound::Nothing,
            public: Public::default(),
            redirect: None,
            access: Access::default(),
            limits,
            tls: None,
            counted: Default::default(),
        }
    }

    fn client(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_its_own_share_and_all_have_one_together() {
        let meter = Meter::new(&Places::default());
        let binding = binding(Limits { requests_in_flight_per_client: Some(2), requests_in_flight: Some(3), ..Limits::default() });
        let (a, b) = (client("192.0.2.1"), client("192.0.2.2"));
        let first = meter.request(&binding, a).unwrap();
        let _second = meter.request(&binding, a).unwrap();
        assert_eq!(meter.request(&binding, a).unwrap_err(), Exceeded::Client);
        let _third = meter.request(&binding, b).unwrap();
        assert_eq!(meter.request(&binding, b).unwrap_err(), Exceeded::Binding);
        drop(first);
        let _fourth = meter.request(&binding, a).unwrap();
    }

    #[test]
    fn a_rate_is_per_second() {
        let meter = Meter::new(&Places::default());
        let binding = binding(Limits { connections_per_second_per_client: Some(5), ..Limits::default() });
        // The second may turn between two of them: then twice as many pass, never more.
        let passed = (0..100).filter(|_| meter.connection(&binding, Some(client("192.0.2.1"))).is_ok()).count();
        assert!((5..=10).contains(&passed), "{passed}");
        assert!(meter.connection(&binding, Some(client("192.0.2.2"))).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let meter = Meter::new(&Places::default());
        let binding = binding(Limits { connections_per_client: Some(1), ..Limits::default() });
        let _open = meter.connection(&binding, Some(client("2001:db8::1"))).unwrap();
        assert!(meter.connection(&binding, Some(client("2001:db8::ffff:1"))).is_err());
        assert!(meter.connection(&binding, Some(client("2001:db8:0:1::1"))).is_ok());
    }

    #[test]
    fn without_limits_one_client_is_refused_only_what_would_be_a_quarter_of_all_places() {
        let meter = Meter::new(&Places::default());
        let binding = binding(Limits::default());
        let all: Vec<_> = (0..4096).map(|_| meter.request(&binding, client("192.0.2.1")).unwrap()).collect();
        assert_eq!(meter.request(&binding, client("192.0.2.1")).unwrap_err(), Exceeded::Client);
        meter.request(&binding, client("192.0.2.2")).unwrap();
        drop(all);
        meter.request(&binding, client("192.0.2.1")).unwrap();
    }

    #[test]
    fn a_trusted_proxy_may_have_any_number_of_connections() {
        let meter = Meter::new(&Places::default());
        let binding = binding(Limits { connections_per_client: Some(1), connections: Some(3), ..Limits::default() });
        let _open: Vec<_> = (0..3).map(|_| meter.connection(&binding, None).unwrap()).collect();
        assert_eq!(meter.connection(&binding, None).unwrap_err(), Exceeded::Binding);
    }

    #[test]
    fn there_are_as_many_places_as_open_files_suffice_for() {
        let within = |files| {
            let places = Places::default().within(files);
            (places.connections, places.bounds().per_client, places.requests_per_client())
        };
        assert_eq!(within(None), (16_384, 8192, 4096));
        assert_eq!(within(Some(65_536)), (16_384, 8192, 4096));
        assert_eq!(within(Some(20_000)), (9744, 4872, 2436));
        assert_eq!(within(Some(100)), (64, 32, 16));
    }
}
