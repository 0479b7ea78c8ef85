//! How many descriptors there are for connections.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets this process have as many open files as it may, and says how many that is; `None`: no limit.
///
/// The limit that a process starts with is often 1,024, for the sake of programs that use `select`; what it may raise it to
/// is much more. Connections are descriptors, so with the low limit a few clients would take all there are.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it can't be raised, what counts is what it is.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_is_raised_to_what_is_allowed() {
        let mut limit = getrlimit(Resource::Nofile);
        let allowed = limit.maximum;
        limit.current = Some(512);
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(raise_open_files(), allowed);
        assert_eq!(getrlimit(Resource::Nofile).current, allowed);
    }
}
