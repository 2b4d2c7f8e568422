use std::time::Duration;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn connections(change: impl FnOnce(&mut Limits)) -> Arc<Connections> {
    let mut limits = Limits {
        max_connections: 8,
        max_connections_per_address: 4,
        reserved_requests: 2,
        max_handshakes: 3,
        ..Limits::default()
    };
    change(&mut limits);
    Connections::new(limits)
}

fn host(n: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, n])
}

/// Whether a connection was closed to make room.
fn is_evicted(place: &ConnectionSlot) -> bool {
    !place.connections.lock().entries.contains_key(&place.id)
}

#[test]
fn a_new_connection_takes_the_place_of_the_oldest_silent_one() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let silent: Vec<_> =
        (0..8).map(|n| all.admit(at(n), LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    silent[0].set_phase(at(10), Phase::Idle);
    silent[1].set_phase(at(11), Phase::ReadingHead);
    let _new = all.admit(at(20), LOOPBACK, Phase::AwaitingFirstByte).unwrap();
    let closed: Vec<_> = silent.iter().map(is_evicted).collect();
    assert_eq!(closed.iter().position(|closed| *closed), Some(2), "{closed:?}");
    let _more: Vec<_> =
        (30..36).map(|n| all.admit(at(n), LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    assert!(!is_evicted(&silent[0]), "it has been served before");
    assert!(silent[1..].iter().all(is_evicted));
    assert_eq!(all.len(), 8);
}

#[test]
fn an_answer_under_way_is_never_cut_off() {
    let all = connections(|limits| limits.reserved_requests = 0);
    let now = Instant::now();
    let busy: Vec<_> = (0..8).map(|_| all.admit(now, LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    for place in &busy {
        assert!(place.try_begin_request(now, false));
        place.body_complete(now);
    }
    assert_eq!(all.admit(now, LOOPBACK, Phase::AwaitingFirstByte).unwrap_err(), Rejection::ConnectionLimit);
    assert!(!all.evict_one());
    busy[3].set_phase(now, Phase::Idle);
    let _new = all.admit(now, LOOPBACK, Phase::AwaitingFirstByte).unwrap();
    assert_eq!(busy.iter().map(is_evicted).filter(|closed| *closed).count(), 1);
}

#[test]
fn an_address_has_its_share_and_makes_room_for_itself() {
    let all = connections(|limits| limits.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    let now = Instant::now();
    let other = all.admit(now, host(2), Phase::AwaitingFirstByte).unwrap();
    let own: Vec<_> = (0..4).map(|_| all.admit(now, host(1), Phase::AwaitingFirstByte).unwrap()).collect();
    for place in &own {
        assert!(place.try_begin_request(now, false));
        place.body_complete(now);
    }
    assert_eq!(all.admit(now, host(1), Phase::AwaitingFirstByte).unwrap_err(), Rejection::PerAddressLimit);
    own[2].set_phase(now, Phase::Idle);
    let fifth = all.admit(now, host(1), Phase::AwaitingFirstByte).unwrap();
    assert!(is_evicted(&own[2]) && !is_evicted(&other), "its own connection goes, not another's");
    drop((own, fifth, other));
    assert_eq!(all.len(), 0);
    for (peer, most) in
        [(LOOPBACK, 8), (IpAddr::from([10, 1, 2, 3]), 8), (host(1), 4), ("2001:db8::1".parse().unwrap(), 4)]
    {
        let mut places = Vec::new();
        for _ in 0..20 {
            let Ok(place) = all.admit(now, peer, Phase::AwaitingFirstByte) else { break };
            assert!(place.try_begin_request(now, true));
            place.body_complete(now);
            places.push(place);
        }
        assert_eq!(places.len(), most, "{peer}");
    }
}

#[test]
fn handshakes_are_few() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let shaking: Vec<_> = (0..6_u8)
        .map(|n| {
            let now = begin + Duration::from_millis(n.into());
            all.admit(now, host(n), Phase::Handshake).unwrap()
        })
        .collect();
    let closed: Vec<_> = shaking.iter().map(is_evicted).collect();
    assert_eq!(closed, [true, true, true, false, false, false], "the oldest ones go");
}

#[test]
fn the_last_places_for_requests_are_reserved() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let places: Vec<_> =
        (0..8).map(|_| all.admit(begin, LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    for place in &places[..6] {
        assert!(place.try_begin_request(begin, false));
    }
    for place in &places[1..6] {
        place.body_complete(begin);
    }
    assert!(places[6].try_begin_request(begin, true), "a reserved request finds a place");
    assert!(!is_evicted(&places[0]), "nobody had to go for it");
    places[6].body_complete(begin);
    assert!(
        places[7].try_begin_request(begin, false) && is_evicted(&places[0]),
        "a body that does not come makes room"
    );
    places[7].body_complete(begin);
    let new = all.admit(begin, LOOPBACK, Phase::AwaitingFirstByte).unwrap();
    assert!(!new.try_begin_request(begin, false), "only answers are under way");
    assert!(new.try_begin_request(begin, true));
    drop(places);
    assert_eq!(all.lock().requests, 1);
    drop(new);
    assert_eq!(all.lock().requests, 0);
}

#[test]
fn each_phase_has_its_time() {
    let all = connections(|limits| {
        limits.handshake_timeout = Duration::from_secs(1);
        limits.first_byte_timeout = Duration::from_secs(2);
        limits.header_timeout = Duration::from_secs(3);
        limits.idle_timeout = Duration::from_secs(4);
    });
    let begin = Instant::now();
    let place = all.admit(begin, LOOPBACK, Phase::Handshake).unwrap();
    let left = |place: &ConnectionSlot| place.deadline().map(|deadline| (deadline - begin).as_secs());
    assert_eq!(left(&place), Some(1));
    place.set_phase(begin, Phase::AwaitingFirstByte);
    assert_eq!(left(&place), Some(2));
    place.bytes_received(begin);
    assert_eq!(left(&place), Some(3));
    place.bytes_received(begin + Duration::from_secs(2));
    assert_eq!(left(&place), Some(3), "bytes that trickle in gain no time");
    assert!(place.try_begin_request(begin, false));
    assert_eq!(left(&place), None);
    place.bytes_received(begin);
    place.body_complete(begin);
    assert_eq!(left(&place), None);
    place.set_phase(begin, Phase::Idle);
    assert_eq!(left(&place), Some(4));
    place.body_complete(begin);
    assert_eq!(left(&place), Some(4), "a body that is dropped late changes nothing");
}
