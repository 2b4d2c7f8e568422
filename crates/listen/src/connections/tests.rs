use std::time::Duration;

use super::*;

const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn connections(change: impl FnOnce(&mut Limits)) -> Arc<Connections> {
    let mut limits =
        Limits { connections: 8, per_address: 4, reserved: 2, handshakes: 3, ..Limits::default() };
    change(&mut limits);
    Connections::new(limits)
}

fn host(n: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, n])
}

/// Whether a connection was closed to make room.
fn is_closed(place: &Place) -> bool {
    !place.connections.lock().entries.contains_key(&place.id)
}

#[test]
fn a_new_connection_takes_the_place_of_the_oldest_silent_one() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let silent: Vec<_> = (0..8).map(|n| all.admit(at(n), NEAR, Phase::Silent).unwrap()).collect();
    silent[0].set(at(10), Phase::Idle);
    silent[1].set(at(11), Phase::Head);
    let _new = all.admit(at(20), NEAR, Phase::Silent).unwrap();
    let closed: Vec<_> = silent.iter().map(is_closed).collect();
    assert_eq!(closed.iter().position(|closed| *closed), Some(2), "{closed:?}");
    let _more: Vec<_> = (30..36).map(|n| all.admit(at(n), NEAR, Phase::Silent).unwrap()).collect();
    assert!(!is_closed(&silent[0]), "it has been served before");
    assert!(silent[1..].iter().all(is_closed));
    assert_eq!(all.len(), 8);
}

#[test]
fn an_answer_under_way_is_never_cut_off() {
    let all = connections(|limits| limits.reserved = 0);
    let now = Instant::now();
    let busy: Vec<_> = (0..8).map(|_| all.admit(now, NEAR, Phase::Silent).unwrap()).collect();
    for place in &busy {
        assert!(place.begin(now, false));
        place.complete(now);
    }
    assert_eq!(all.admit(now, NEAR, Phase::Silent).unwrap_err(), Refused::Full);
    assert!(!all.close_one());
    busy[3].set(now, Phase::Idle);
    let _new = all.admit(now, NEAR, Phase::Silent).unwrap();
    assert_eq!(busy.iter().map(is_closed).filter(|closed| *closed).count(), 1);
}

#[test]
fn an_address_has_its_share_and_makes_room_for_itself() {
    let all = connections(|limits| limits.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    let now = Instant::now();
    let other = all.admit(now, host(2), Phase::Silent).unwrap();
    let own: Vec<_> = (0..4).map(|_| all.admit(now, host(1), Phase::Silent).unwrap()).collect();
    for place in &own {
        assert!(place.begin(now, false));
        place.complete(now);
    }
    assert_eq!(all.admit(now, host(1), Phase::Silent).unwrap_err(), Refused::Address);
    own[2].set(now, Phase::Idle);
    let fifth = all.admit(now, host(1), Phase::Silent).unwrap();
    assert!(is_closed(&own[2]) && !is_closed(&other), "its own connection goes, not another's");
    drop((own, fifth, other));
    assert_eq!(all.len(), 0);
    for (peer, most) in
        [(NEAR, 8), (IpAddr::from([10, 1, 2, 3]), 8), (host(1), 4), ("2001:db8::1".parse().unwrap(), 4)]
    {
        let mut places = Vec::new();
        for _ in 0..20 {
            let Ok(place) = all.admit(now, peer, Phase::Silent) else { break };
            assert!(place.begin(now, true));
            place.complete(now);
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
    let closed: Vec<_> = shaking.iter().map(is_closed).collect();
    assert_eq!(closed, [true, true, true, false, false, false], "the oldest ones go");
}

#[test]
fn the_last_places_for_requests_are_reserved() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let places: Vec<_> = (0..8).map(|_| all.admit(begin, NEAR, Phase::Silent).unwrap()).collect();
    for place in &places[..6] {
        assert!(place.begin(begin, false));
    }
    for place in &places[1..6] {
        place.complete(begin);
    }
    assert!(places[6].begin(begin, true), "a reserved request finds a place");
    assert!(!is_closed(&places[0]), "nobody had to go for it");
    places[6].complete(begin);
    assert!(places[7].begin(begin, false) && is_closed(&places[0]), "a body that does not come makes room");
    places[7].complete(begin);
    let new = all.admit(begin, NEAR, Phase::Silent).unwrap();
    assert!(!new.begin(begin, false), "only answers are under way");
    assert!(new.begin(begin, true));
    drop(places);
    assert_eq!(all.lock().requests, 1);
    drop(new);
    assert_eq!(all.lock().requests, 0);
}

#[test]
fn each_phase_has_its_time() {
    let all = connections(|limits| {
        limits.handshake = Duration::from_secs(1);
        limits.first_byte = Duration::from_secs(2);
        limits.head = Duration::from_secs(3);
        limits.idle = Duration::from_secs(4);
    });
    let begin = Instant::now();
    let place = all.admit(begin, NEAR, Phase::Handshake).unwrap();
    let left = |place: &Place| place.deadline().map(|deadline| (deadline - begin).as_secs());
    assert_eq!(left(&place), Some(1));
    place.set(begin, Phase::Silent);
    assert_eq!(left(&place), Some(2));
    place.came(begin);
    assert_eq!(left(&place), Some(3));
    place.came(begin + Duration::from_secs(2));
    assert_eq!(left(&place), Some(3), "bytes that trickle in gain no time");
    assert!(place.begin(begin, false));
    assert_eq!(left(&place), None);
    place.came(begin);
    place.complete(begin);
    assert_eq!(left(&place), None);
    place.set(begin, Phase::Idle);
    assert_eq!(left(&place), Some(4));
    place.complete(begin);
    assert_eq!(left(&place), Some(4), "a body that is dropped late changes nothing");
}
