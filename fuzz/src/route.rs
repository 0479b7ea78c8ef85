//! Paths: gateway and backend agree on each.

use std::net::SocketAddr;
use std::sync::LazyLock;

use berth_backend::fuzzing::{Docker, Read, route};
use berth_gateway::bindings::{Access, Binding, Bindings, Bound, Listener, Public};
use berth_gateway::forwarded::Forwarded;
use berth_gateway::limits::Limits;
use berth_gateway::rewrite::{Action, Arrival, Meaning, rewrite};
use berth_names::wire::effect;
use berth_names::{Scheme, plain_path};
use http::Method;

const METHODS: [Method; 6] = [Method::GET, Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::HEAD];

/// What stands in front of `v2/` where one repository is asked, and where all are.
const ROOTS: [&str; 2] = ["/artifactory/api/docker/docker-local/", "/artifactory/api/docker/_all/"];

/// The longest path that the backend looks at.
const PATH_BYTES_MAX: usize = 2048;

fn listener(bound: Bound) -> Listener {
    let binding = Binding {
        label: "fuzz".into(),
        bound,
        public: Public::default(),
        redirect: None,
        access: Access::default(),
        limits: Limits::default(),
        tls: None,
        counted: Default::default(),
    };
    let mut bindings = Bindings::default();
    bindings.bind(None, binding).unwrap();
    Listener { address: SocketAddr::from(([127, 0, 0, 1], 444)), scheme: Scheme::Https, proxy_protocol: false, bindings }
}

static LISTENERS: LazyLock<[Listener; 3]> = LazyLock::new(|| {
    [listener(Bound::Repository("docker-local".parse().unwrap())), listener(Bound::RepositoryFromPath), listener(Bound::Console(None))]
});

/// What the gateway passes, the backend reads; what the backend reads, the gateway passes; and every route that is read
/// leads to itself when it is written.
pub fn agree(input: &[u8]) {
    let Some(([kind, method], target)) = input.split_first_chunk::<2>() else { return };
    let at = usize::from(*kind) % LISTENERS.len();
    let method = &METHODS[usize::from(*method) % METHODS.len()];
    let arrival = Arrival { listener: &LISTENERS[at], port: 444, forwarded: &Forwarded::default(), may_lack_host: false };
    let meant = rewrite(arrival, method, target, [b"registry.example:5000".as_slice()]);
    let passed = match meant {
        Ok(Meaning::Bound(_, Ok(Action::Pass(upstream)))) => Some(upstream),
        _ => None,
    };
    if let Some(upstream) = &passed {
        assert_eq!(upstream.origin.to_string(), "https://registry.example:444");
        let path = upstream.target.split('?').next().unwrap_or_default();
        let query = &upstream.target[path.len()..];
        assert!(target.ends_with(query.as_bytes()));
        match route(method, path) {
            Read::Unsafe => panic!("the backend refuses what the gateway passes: {path}"),
            Read::Docker(docker) => {
                // A console hands paths on without looking for a repository in them.
                if at < ROOTS.len() {
                    assert_eq!(upstream.repository.as_ref().map(ToString::to_string), docker.repository);
                }
                assert_eq!(effect(method.as_str(), path), Some(docker.effect), "{method} {path}");
                assert!(!upstream.only_reads(method) || !docker.effect.writes(), "{method} {path} passes where nothing may change");
                leads_to_itself(&docker);
            }
            Read::Rest(_, does) => {
                assert_eq!(effect(method.as_str(), path), Some(does), "{method} {path}");
                assert!(!upstream.only_reads(method) || !does.writes(), "{method} {path} passes where nothing may change");
            }
            Read::Refused(_) => {}
        }
    }
    let Some(path) = str::from_utf8(target).ok().filter(|target| target.len() + 64 <= PATH_BYTES_MAX && !target.contains('?')) else {
        return;
    };
    let (Some(root), Some(tail)) = (ROOTS.get(at), path.strip_prefix('/')) else { return };
    if let Read::Docker(docker) = route(method, &format!("{root}{tail}")) {
        let passed = passed.unwrap_or_else(|| panic!("the gateway refuses what the backend reads: {path} as {docker:?}"));
        assert_eq!(Some(passed.target.as_str()), plain_path(&format!("{root}{tail}")).as_deref());
    }
}

fn leads_to_itself(docker: &Docker) {
    let (method, tail) = &docker.again;
    assert_eq!(route(method, &format!("{}{tail}", docker.root)), Read::Docker(docker.clone()), "{method} {tail}");
}
