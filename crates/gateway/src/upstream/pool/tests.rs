use proptest::prelude::*;

use super::*;
use crate::upstream::{BreakerState, Probed};

fn server(number: u8) -> Server {
    Server { address: Address::Tcp(([127, 0, 0, number], 1).into()), tls: None }
}

fn pool(servers: u8) -> Pool {
    Pool::new(&(1..=servers).map(server).collect::<Vec<_>>()).unwrap()
}

fn health(pool: &Pool, index: usize) -> &Health {
    &pool.members()[index].health
}

/// Enters the chosen server, as a request does.
fn enter(pool: &Pool, tried: Tried, now_ms: u64) -> Option<usize> {
    let choice = pool.choose(tried, now_ms)?;
    health(pool, choice.index).enter();
    Some(choice.index)
}

fn take_down(pool: &Pool, index: usize, now_ms: u64) {
    for _ in 0..3 {
        health(pool, index).failed(now_ms, false, &"refused");
    }
    assert_eq!(pool.snapshot()[index].failures, 3);
}

fn tried(indexes: &[usize]) -> Tried {
    let mut tried = Tried::default();
    indexes.iter().for_each(|index| tried.add(*index));
    tried
}

#[test]
fn pools_that_make_no_sense_are_refused() {
    assert_eq!(Pool::new(&[]).unwrap_err(), PoolError::Empty);
    assert_eq!(Pool::new(&(0..65).map(server).collect::<Vec<_>>()).unwrap_err(), PoolError::TooMany);
    let error = Pool::new(&[server(1), server(2), server(1)]).unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1:1 is named twice");
    assert!(Pool::new(&(0..64).map(server).collect::<Vec<_>>()).is_ok());
}

#[test]
fn equally_good_servers_take_turns() {
    let pool = pool(3);
    let chosen: Vec<_> = (0..6).map(|_| pool.choose(Tried::default(), 0).unwrap().index).collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn the_server_with_the_fewest_requests_in_flight_is_chosen() {
    let pool = pool(2);
    for _ in 0..10 {
        health(&pool, 0).enter();
    }
    for _ in 0..10 {
        assert_eq!(enter(&pool, Tried::default(), 0), Some(1));
    }
    // Now they are even.
    let next: Vec<_> = (0..2).map(|_| enter(&pool, Tried::default(), 0).unwrap()).collect();
    assert_eq!(next.iter().sum::<usize>(), 1, "{next:?}");
    for _ in 0..5 {
        health(&pool, 0).leave();
    }
    assert_eq!(enter(&pool, Tried::default(), 0), Some(0));
}

#[test]
fn a_server_that_is_down_is_left_out_but_for_one_trial() {
    let pool = pool(2);
    take_down(&pool, 0, 0);
    for _ in 0..5 {
        assert_eq!(enter(&pool, Tried::default(), 999), Some(1));
    }
    assert_eq!(pool.choose(Tried::default(), 1_000), Some(Choice { index: 0, is_trial: true }));
    assert_eq!(pool.choose(Tried::default(), 1_000), Some(Choice { index: 1, is_trial: false }));
    health(&pool, 0).answered();
    assert_eq!(pool.choose(Tried::default(), 1_000), Some(Choice { index: 0, is_trial: false }), "it has nothing in flight");
}

#[test]
fn the_least_bad_server_is_tried_when_all_are_down() {
    let pool = pool(3);
    take_down(&pool, 0, 30);
    take_down(&pool, 1, 10);
    take_down(&pool, 2, 20);
    let choose = |tried| pool.choose(tried, 40).map(|choice| (choice.index, choice.is_trial));
    assert_eq!(choose(tried(&[])), Some((1, false)));
    assert_eq!(choose(tried(&[1])), Some((2, false)));
    assert_eq!(choose(tried(&[1, 2])), Some((0, false)));
    assert_eq!(choose(tried(&[0, 1, 2])), None);
    assert!(pool.has_other(tried(&[0, 1])) && !pool.has_other(tried(&[0, 1, 2])));
    assert!(!pool.has_good(tried(&[]), 40));
    // One that answers, though not well, is better than one that does not.
    health(&pool, 0).answered();
    health(&pool, 0).probe_failed(&"503");
    health(&pool, 0).probe_failed(&"503");
    assert_eq!(choose(tried(&[])), Some((0, false)));
    assert!(!pool.has_good(tried(&[]), 40));
}

#[test]
fn a_failing_probe_takes_a_server_out_and_a_passing_one_brings_it_back() {
    let pool = pool(2);
    assert_eq!(pool.snapshot()[0].probed, Probed::Never);
    health(&pool, 0).probe_failed(&"503");
    assert_eq!(pool.snapshot()[0].probed, Probed::Well, "one may be an accident");
    for _ in 0..5 {
        health(&pool, 0).probe_failed(&"503");
    }
    assert_eq!(pool.snapshot()[0].probed, Probed::Unwell);
    assert!(!pool.snapshot()[0].is_up() && pool.snapshot()[1].is_up());
    // That it answers requests says nothing new.
    health(&pool, 0).answered();
    for _ in 0..4 {
        assert_eq!(enter(&pool, Tried::default(), 0), Some(1));
    }
    health(&pool, 0).probe_passed(0);
    assert_eq!(enter(&pool, Tried::default(), 0), Some(0));
}

#[test]
fn a_probe_answers_for_requests_whether_a_server_is_back() {
    let pool = pool(2);
    take_down(&pool, 0, 0);
    health(&pool, 0).probe_failed(&"refused");
    health(&pool, 0).probe_failed(&"refused");
    assert_eq!(pool.choose(Tried::default(), 5_000), Some(Choice { index: 1, is_trial: false }), "no request is risked");
    health(&pool, 0).probe_passed(5_000);
    assert_eq!(pool.choose(Tried::default(), 5_000), Some(Choice { index: 0, is_trial: true }));
}

#[test]
fn a_reload_keeps_what_is_known_of_servers_that_stay() {
    let before = pool(3);
    take_down(&before, 1, 0);
    health(&before, 2).enter();
    let after = before.replaced_by(&[server(3), server(4), server(2)]).unwrap();
    let states: Vec<_> = after.snapshot().into_iter().map(|state| (state.address.to_string(), state.breaker, state.in_flight)).collect();
    assert_eq!(
        states,
        [
            ("127.0.0.3:1".to_owned(), BreakerState::Closed, 1),
            ("127.0.0.4:1".to_owned(), BreakerState::Closed, 0),
            ("127.0.0.2:1".to_owned(), BreakerState::Open, 0),
        ]
    );
    // The request that is still under way there ends in the old pool.
    health(&before, 2).leave();
    assert_eq!(after.snapshot()[0].in_flight, 0);
}

#[test]
fn one_server_is_chosen_whatever_is_known_of_it() {
    let pool = pool(1);
    take_down(&pool, 0, 0);
    assert!(pool.only().is_some());
    assert_eq!(pool.choose(Tried::default(), 1), Some(Choice { index: 0, is_trial: false }));
}

proptest! {
    /// Whatever happened to the servers: there is a choice as long as one has not been tried, it is one of those, and one
    /// that is down is chosen only if all of them are or for a trial.
    #[test]
    fn a_choice_is_always_made_and_never_a_worse_one(
        servers in 1_u8..9,
        events in proptest::collection::vec((0_usize..9, 0_u8..6), 0..60),
        already in proptest::collection::vec(0_usize..9, 0..9),
        now_ms in 0_u64..5_000,
    ) {
        let pool = pool(servers);
        for (index, event) in events {
            let health = health(&pool, index % usize::from(servers));
            match event {
                0 => health.enter(),
                1 => health.failed(now_ms / 2, false, &"reset"),
                2 => health.failed(now_ms / 2, true, &"reset"),
                3 => health.answered(),
                4 => health.probe_failed(&"503"),
                _ => health.probe_passed(now_ms),
            }
        }
        let tried = tried(&already.into_iter().filter(|index| *index < usize::from(servers)).collect::<Vec<_>>());
        let ranks: Vec<_> = pool.members().iter().map(|member| member.health.rank(now_ms)).collect();
        let best = (0..ranks.len()).filter(|index| !tried.has(*index)).map(|index| ranks[index]).min();
        let choice = pool.choose(tried, now_ms);
        prop_assert_eq!(choice.map(|choice| ranks[choice.index]), best);
        prop_assert!(choice.is_none_or(|choice| !tried.has(choice.index)));
    }
}
