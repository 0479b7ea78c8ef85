use std::net::IpAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

fn holder(number: u8) -> Holder {
    Holder { client: IpAddr::from([192, 0, 2, number]).into(), is_trusted: false }
}

fn bounds(all: usize, per_client: usize) -> Arc<Connections> {
    Connections::new(Bounds { all, per_client })
}

async fn gives_way(place: &Place) -> bool {
    timeout(Duration::from_millis(20), place.must_give_way()).await.is_ok()
}

/// So that the next one turns idle later.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(3)).await;
}

#[tokio::test]
async fn whoever_holds_most_gives_up_what_has_been_idle_longest() {
    let connections = bounds(4, 4);
    let mut attacker = Vec::new();
    for _ in 0..3 {
        attacker.push(connections.take(holder(1)).await.unwrap());
        a_moment().await;
    }
    // The first is used again, so the second has been idle longest.
    attacker[0].busy();
    attacker[0].idle();
    let other = connections.take(holder(2)).await.unwrap();
    let newcomer = connections.take(holder(3)).await.unwrap();
    assert!(gives_way(&attacker[1]).await);
    for place in [&attacker[0], &attacker[2], &other, &newcomer] {
        assert!(!gives_way(place).await);
    }
    assert_eq!(connections.open(), 5, "until it has ended");
    attacker.remove(1);
    assert_eq!(connections.open(), 4);
}

#[tokio::test]
async fn what_is_in_use_never_gives_way_and_the_next_waits_for_its_end() {
    let connections = bounds(2, 2);
    let first = connections.take(holder(1)).await.unwrap();
    let second = connections.take(holder(1)).await.unwrap();
    first.busy();
    second.busy();
    let waiting = connections.take(holder(2));
    let mut waiting = std::pin::pin!(waiting);
    assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    drop(first);
    timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_waits_is_served_as_soon_as_somebody_turns_idle() {
    let connections = bounds(1, 1);
    let busy = connections.take(holder(1)).await.unwrap();
    busy.busy();
    let waiting = connections.take(holder(2));
    let mut waiting = std::pin::pin!(waiting);
    assert!(timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    busy.idle();
    timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert!(gives_way(&busy).await);
}

#[tokio::test]
async fn a_client_with_as_many_as_it_may_have_gives_way_to_itself_and_is_refused_if_all_are_in_use() {
    let connections = bounds(10, 2);
    let first = connections.take(holder(1)).await.unwrap();
    a_moment().await;
    let second = connections.take(holder(1)).await.unwrap();
    let third = connections.take(holder(1)).await.unwrap();
    assert!(gives_way(&first).await && !gives_way(&second).await);
    second.busy();
    third.busy();
    assert_eq!(connections.take(holder(1)).await.err(), Some(TooMany));
    connections.take(holder(2)).await.unwrap();
}

#[tokio::test]
async fn who_speaks_for_many_has_no_bound_of_its_own_and_gives_way_last() {
    let connections = bounds(4, 1);
    let proxy = Holder { is_trusted: true, ..holder(1) };
    let of_proxy = [connections.take(proxy).await.unwrap(), connections.take(proxy).await.unwrap(), connections.take(proxy).await.unwrap()];
    let stranger = connections.take(holder(2)).await.unwrap();
    let newcomer = connections.take(holder(3)).await.unwrap();
    assert!(gives_way(&stranger).await);
    newcomer.busy();
    drop(stranger);
    let next = connections.take(holder(4)).await.unwrap();
    next.busy();
    assert!(gives_way(&of_proxy[0]).await);
}

#[tokio::test]
async fn a_request_that_comes_as_its_connection_is_to_end_is_served_and_counted() {
    let connections = bounds(1, 1);
    let first = connections.take(holder(1)).await.unwrap();
    let second = connections.take(holder(2)).await.unwrap();
    first.busy();
    assert!(!gives_way(&first).await);
    assert_eq!(connections.open(), 2);
    drop((first, second));
    assert_eq!(connections.open(), 0);
    timeout(Duration::from_secs(5), connections.all_ended()).await.unwrap();
}

#[tokio::test]
async fn a_connection_can_turn_out_to_be_somebody_elses() {
    let connections = bounds(10, 1);
    let proxy = Holder { is_trusted: true, ..holder(1) };
    let first = connections.take(proxy).await.unwrap();
    first.belongs_to(holder(2)).unwrap();
    first.busy();
    let second = connections.take(proxy).await.unwrap();
    assert_eq!(second.belongs_to(holder(2)), Err(TooMany));
    second.belongs_to(holder(3)).unwrap();
    drop((first, second));
    assert_eq!(connections.open(), 0);
    assert!(connections.state().holders.is_empty());
}

#[tokio::test]
async fn descriptors_can_be_had_back_while_there_are_places() {
    let connections = bounds(10, 10);
    let idle = connections.take(holder(1)).await.unwrap();
    assert_eq!(connections.make_room(), 1);
    assert!(gives_way(&idle).await);
    assert_eq!(connections.make_room(), 0);
}
