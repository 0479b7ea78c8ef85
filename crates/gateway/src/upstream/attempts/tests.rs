use super::*;
use crate::upstream::{Address, BreakerState, Server};

const SILENCE: Duration = Duration::from_secs(1);

fn pool(servers: u8) -> Pool {
    let server = |number| Server { address: Address::Tcp(([127, 0, 0, number], 1).into()), tls: None };
    Pool::new(&(1..=servers).map(server).collect::<Vec<_>>()).unwrap()
}

fn refused() -> Box<Error> {
    Error::new_up(ErrorType::ConnectRefused)
}

fn reset() -> Box<Error> {
    Error::new_up(ErrorType::ReadError)
}

const GET: Broken = Broken { was_reused: false, is_safe: true, is_kept: true };
const PUT: Broken = Broken { was_reused: false, is_safe: false, is_kept: true };

/// A request on its first server, of which something has been sent.
fn begun(pool: &Pool) -> Attempts {
    let mut attempts = Attempts::default();
    attempts.next(pool, SILENCE).unwrap();
    attempts.begun();
    attempts
}

fn goes_on_after(attempts: &mut Attempts, mut error: Box<Error>, broken: Broken) -> bool {
    attempts.broke(&mut error, broken);
    error.retry()
}

#[test]
fn a_connection_that_cannot_be_made_leads_to_each_other_server_once() {
    for (servers, expected) in [(1, 1), (2, 2), (3, 3), (9, ATTEMPTS_MAX)] {
        let pool = pool(servers);
        let mut attempts = Attempts::default();
        let mut addresses = Vec::new();
        loop {
            attempts.next(&pool, SILENCE).unwrap();
            addresses.push(attempts.address().unwrap().clone());
            let mut error = refused();
            attempts.connect_failed(&mut error, true);
            if !error.retry() {
                break;
            }
        }
        assert_eq!(addresses.len(), expected as usize);
        addresses.sort_by_key(Address::to_string);
        addresses.dedup();
        assert_eq!(addresses.len(), expected as usize, "no server twice");
    }
}

#[test]
fn a_body_that_is_not_kept_goes_nowhere() {
    let pool = pool(2);
    let mut attempts = Attempts::default();
    attempts.next(&pool, SILENCE).unwrap();
    let mut error = refused();
    attempts.connect_failed(&mut error, false);
    assert!(!error.retry());
    assert!(!goes_on_after(&mut begun(&pool), reset(), Broken { is_kept: false, ..GET }));
}

#[test]
fn what_a_server_may_have_acted_on_is_repeated_only_if_it_changes_nothing() {
    let pool = pool(2);
    for was_reused in [false, true] {
        assert!(goes_on_after(&mut begun(&pool), reset(), Broken { was_reused, ..GET }));
        assert!(!goes_on_after(&mut begun(&pool), reset(), Broken { was_reused, ..PUT }));
        let mut attempts = Attempts::default();
        attempts.next(&pool, SILENCE).unwrap();
        assert!(goes_on_after(&mut attempts, reset(), Broken { was_reused, ..PUT }), "nothing but a head was sent");
    }
}

#[test]
fn with_one_server_only_a_kept_connection_is_replaced() {
    let pool = pool(1);
    assert!(!goes_on_after(&mut begun(&pool), reset(), GET));
    let mut attempts = begun(&pool);
    for repeats in [true, true, false] {
        assert_eq!(goes_on_after(&mut attempts, reset(), Broken { was_reused: true, ..GET }), repeats);
        if repeats {
            attempts.next(&pool, SILENCE).unwrap();
        }
    }
    assert!(!goes_on_after(&mut begun(&pool), reset(), Broken { was_reused: true, ..PUT }));
}

#[test]
fn a_request_that_kills_servers_kills_two_at_most() {
    let pool = pool(5);
    let mut attempts = begun(&pool);
    assert!(goes_on_after(&mut attempts, reset(), GET));
    attempts.next(&pool, SILENCE).unwrap();
    assert!(!goes_on_after(&mut attempts, reset(), GET));
}

#[test]
fn nothing_is_repeated_after_an_answer_a_timeout_or_a_fault_of_the_client() {
    let pool = pool(2);
    let mut attempts = begun(&pool);
    attempts.answered();
    assert!(!goes_on_after(&mut attempts, reset(), GET));
    for error in [
        Error::new_up(ErrorType::ReadTimedout),
        Error::new_up(ErrorType::WriteTimedout),
        Error::new_down(ErrorType::ReadError),
        Error::new_in(ErrorType::InternalError),
    ] {
        assert!(!goes_on_after(&mut begun(&pool), error, GET));
    }
}

#[test]
fn only_what_is_the_servers_fault_counts_against_it() {
    let pool = pool(1);
    for error in [Error::new_down(ErrorType::ReadError), Error::new_in(ErrorType::InternalError), Error::new_up(ErrorType::SocketError)] {
        goes_on_after(&mut begun(&pool), error, GET);
    }
    let mut attempts = begun(&pool);
    attempts.answered();
    goes_on_after(&mut attempts, reset(), GET);
    assert_eq!((pool.snapshot()[0].failures, pool.snapshot()[0].requests), (0, 4));
    goes_on_after(&mut begun(&pool), reset(), GET);
    assert_eq!(pool.snapshot()[0].failures, 1);
}

#[test]
fn a_request_is_on_one_server_at_a_time_and_on_none_at_its_end() {
    let pool = pool(2);
    let in_flight = || pool.snapshot().iter().map(|state| state.in_flight).collect::<Vec<_>>();
    let mut attempts = Attempts::default();
    attempts.next(&pool, SILENCE).unwrap();
    assert_eq!(in_flight(), [1, 0]);
    attempts.next(&pool, SILENCE).unwrap();
    assert_eq!(in_flight(), [0, 1]);
    let error = attempts.next(&pool, SILENCE).unwrap_err();
    assert_eq!((error.etype(), error.esource(), error.retry()), (&ErrorType::ConnectNoRoute, &ErrorSource::Upstream, false));
    assert_eq!(in_flight(), [0, 0]);
    attempts = Attempts::default();
    attempts.next(&pool, SILENCE).unwrap();
    drop(attempts);
    assert_eq!(in_flight(), [0, 0]);
}

#[test]
fn who_has_waited_for_one_connection_waits_for_another_only_to_a_server_that_is_up() {
    let pool = pool(3);
    let mut attempts = Attempts::default();
    attempts.next(&pool, SILENCE).unwrap();
    attempts.first = Instant::now().checked_sub(CONNECT_MAX);
    let mut error = refused();
    attempts.connect_failed(&mut error, true);
    assert!(error.retry());
    // Each of the others is down after three requests that could not connect to anything.
    for _ in 0..3 {
        let mut other = Attempts::default();
        for _ in 0..3 {
            other.next(&pool, SILENCE).unwrap();
            other.connect_failed(&mut refused(), true);
        }
    }
    assert!(pool.snapshot().iter().all(|state| state.breaker == BreakerState::Open));
    attempts.connect_failed(&mut error, true);
    assert!(!error.retry());
}

#[test]
fn a_reload_in_between_does_not_matter_to_a_request() {
    let old = pool(2);
    let mut attempts = Attempts::default();
    attempts.next(&old, SILENCE).unwrap();
    let new = old.replaced_by(&[Server { address: Address::Tcp(([127, 0, 0, 9], 1).into()), tls: None }]).unwrap();
    attempts.next(&new, SILENCE).unwrap();
    assert_eq!(attempts.address().unwrap().to_string(), "127.0.0.2:1");
    assert_eq!(new.snapshot()[0].requests, 0);
}

#[test]
fn a_request_keeps_away_from_a_silent_server_and_is_refused_at_once_if_there_is_no_other() {
    let pool = pool(2);
    let health = |index: usize| &pool.members()[index].health;
    let falls_silent = |index: usize| {
        for _ in 0..2 {
            health(index).probe_begins();
            health(index).probe_unanswered();
        }
    };
    falls_silent(0);
    for _ in 0..4 {
        let mut attempts = Attempts::default();
        attempts.next(&pool, SILENCE).unwrap();
        assert_eq!(attempts.address(), Some(&pool.snapshot()[1].address));
    }
    falls_silent(1);
    let error = Attempts::default().next(&pool, SILENCE).unwrap_err();
    assert_eq!((error.etype(), pool.snapshot()[0].in_flight), (&ErrorType::Custom(SILENT), 0));
    // A probe that passes, or a late answer to a request, is a sign of life.
    health(0).probe_passed(0);
    Attempts::default().next(&pool, SILENCE).unwrap();
    falls_silent(0);
    health(1).answered();
    let mut attempts = Attempts::default();
    attempts.next(&pool, SILENCE).unwrap();
    assert_eq!(attempts.address(), Some(&pool.snapshot()[1].address));
}

#[test]
fn a_server_that_answers_requests_or_refuses_probes_is_not_silent() {
    let pool = pool(1);
    let health = &pool.members()[0].health;
    for _ in 0..5 {
        health.probe_begins();
        health.answered();
        health.probe_unanswered();
        Attempts::default().next(&pool, SILENCE).unwrap();
    }
    for _ in 0..5 {
        health.probe_begins();
        health.probe_failed(&"refused");
        Attempts::default().next(&pool, SILENCE).unwrap();
    }
}
