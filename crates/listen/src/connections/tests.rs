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

/// Whether a connection was evicted.
fn is_evicted(slot: &ConnectionSlot) -> bool {
    !slot.connections.lock().entries.contains_key(&slot.id)
}

#[test]
fn a_new_connection_evicts_the_oldest_silent_one() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let at = |ms: u64| begin + Duration::from_millis(ms);
    let silent: Vec<_> =
        (0..8).map(|n| all.admit(at(n), LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    silent[0].set_phase(at(10), Phase::Idle);
    silent[1].set_phase(at(11), Phase::ReadingHead);
    let _new = all.admit(at(20), LOOPBACK, Phase::AwaitingFirstByte).unwrap();
    let evicted: Vec<_> = silent.iter().map(is_evicted).collect();
    assert_eq!(evicted.iter().position(|evicted| *evicted), Some(2), "{evicted:?}");
    let _more: Vec<_> =
        (30..36).map(|n| all.admit(at(n), LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    assert!(!is_evicted(&silent[0]), "it has been served before");
    assert!(silent[1..].iter().all(is_evicted));
    assert_eq!(all.len(), 8);
}

#[test]
fn a_connection_with_a_response_in_progress_is_never_evicted() {
    let all = connections(|limits| limits.reserved_requests = 0);
    let now = Instant::now();
    let busy: Vec<_> = (0..8).map(|_| all.admit(now, LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    for slot in &busy {
        assert!(slot.try_begin_request(now, false));
        slot.body_complete(now);
    }
    assert_eq!(all.admit(now, LOOPBACK, Phase::AwaitingFirstByte).unwrap_err(), Rejection::ConnectionLimit);
    assert!(!all.evict_one());
    busy[3].set_phase(now, Phase::Idle);
    let _new = all.admit(now, LOOPBACK, Phase::AwaitingFirstByte).unwrap();
    assert_eq!(busy.iter().map(is_evicted).filter(|evicted| *evicted).count(), 1);
}

#[test]
fn an_address_is_limited_and_evicts_its_own_connections() {
    let all = connections(|limits| limits.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    let now = Instant::now();
    let other = all.admit(now, host(2), Phase::AwaitingFirstByte).unwrap();
    let own: Vec<_> = (0..4).map(|_| all.admit(now, host(1), Phase::AwaitingFirstByte).unwrap()).collect();
    for slot in &own {
        assert!(slot.try_begin_request(now, false));
        slot.body_complete(now);
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
        let mut slots = Vec::new();
        for _ in 0..20 {
            let Ok(slot) = all.admit(now, peer, Phase::AwaitingFirstByte) else { break };
            assert!(slot.try_begin_request(now, true));
            slot.body_complete(now);
            slots.push(slot);
        }
        assert_eq!(slots.len(), most, "{peer}");
    }
}

#[test]
fn handshakes_are_limited() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let handshakes: Vec<_> = (0..6_u8)
        .map(|n| {
            let now = begin + Duration::from_millis(n.into());
            all.admit(now, host(n), Phase::Handshake).unwrap()
        })
        .collect();
    let evicted: Vec<_> = handshakes.iter().map(is_evicted).collect();
    assert_eq!(evicted, [true, true, true, false, false, false], "the oldest ones are evicted");
}

#[test]
fn the_last_request_slots_are_reserved() {
    let all = connections(|_| {});
    let begin = Instant::now();
    let slots: Vec<_> =
        (0..8).map(|_| all.admit(begin, LOOPBACK, Phase::AwaitingFirstByte).unwrap()).collect();
    for slot in &slots[..6] {
        assert!(slot.try_begin_request(begin, false));
    }
    for slot in &slots[1..6] {
        slot.body_complete(begin);
    }
    assert!(slots[6].try_begin_request(begin, true), "a reserved request finds a slot");
    assert!(!is_evicted(&slots[0]), "no other request was evicted");
    slots[6].body_complete(begin);
    assert!(
        slots[7].try_begin_request(begin, false) && is_evicted(&slots[0]),
        "a body that does not arrive is evicted"
    );
    slots[7].body_complete(begin);
    let new = all.admit(begin, LOOPBACK, Phase::AwaitingFirstByte).unwrap();
    assert!(!new.try_begin_request(begin, false), "all requests are being answered");
    assert!(new.try_begin_request(begin, true));
    drop(slots);
    assert_eq!(all.lock().requests, 1);
    drop(new);
    assert_eq!(all.lock().requests, 0);
}

#[test]
fn each_phase_has_its_timeout() {
    let all = connections(|limits| {
        limits.handshake_timeout = Duration::from_secs(1);
        limits.first_byte_timeout = Duration::from_secs(2);
        limits.header_timeout = Duration::from_secs(3);
        limits.idle_timeout = Duration::from_secs(4);
    });
    let begin = Instant::now();
    let slot = all.admit(begin, LOOPBACK, Phase::Handshake).unwrap();
    let left = |slot: &ConnectionSlot| slot.deadline().map(|deadline| (deadline - begin).as_secs());
    assert_eq!(left(&slot), Some(1));
    slot.set_phase(begin, Phase::AwaitingFirstByte);
    assert_eq!(left(&slot), Some(2));
    slot.bytes_received(begin);
    assert_eq!(left(&slot), Some(3));
    slot.bytes_received(begin + Duration::from_secs(2));
    assert_eq!(left(&slot), Some(3), "trickling bytes do not extend the timeout");
    assert!(slot.try_begin_request(begin, false));
    assert_eq!(left(&slot), None);
    slot.bytes_received(begin);
    slot.body_complete(begin);
    assert_eq!(left(&slot), None);
    slot.set_phase(begin, Phase::Idle);
    assert_eq!(left(&slot), Some(4));
    slot.body_complete(begin);
    assert_eq!(left(&slot), Some(4), "a body dropped after the response changes nothing");
}

#[test]
fn event_streams_count_towards_no_other_limit() {
    let all = connections(|limits| limits.max_event_streams = 5);
    let now = Instant::now();
    let admit = |peer| all.admit(now, peer, Phase::AwaitingFirstByte);
    let begin = |slot: &ConnectionSlot, reserved| {
        let begun = slot.try_begin_request(now, reserved);
        slot.body_complete(now);
        begun
    };
    let stream = || {
        let slot = admit(host(1)).unwrap();
        assert!(begin(&slot, false));
        slot.begin_event_stream(now);
        assert_eq!(slot.deadline(), None);
        slot
    };
    let streams: Vec<_> = (0..5).map(|_| stream()).collect();
    // As many connections and requests as without the streams, in all and of their address.
    let mut ordinary: Vec<_> = [1, 1, 1, 1, 2, 2, 2, 2].map(|n| admit(host(n)).unwrap()).into();
    assert!(ordinary[..6].iter().all(|slot| begin(slot, false)));
    assert!(!begin(&ordinary[6], false), "the last slots stay reserved");
    assert!(ordinary[6..].iter().all(|slot| begin(slot, true)));
    assert_eq!(admit(host(1)).unwrap_err(), Rejection::PerAddressLimit);
    assert_eq!(admit(host(3)).unwrap_err(), Rejection::ConnectionLimit);
    assert!(!all.evict_one(), "a stream is never cut off");
    // One stream too many counts like any other response.
    ordinary.pop();
    let excess = admit(host(3)).unwrap();
    assert!(begin(&excess, true));
    excess.begin_event_stream(now);
    assert_eq!(all.lock().requests, 8);
    assert_eq!(admit(host(4)).unwrap_err(), Rejection::ConnectionLimit);
    // The connections of ended streams count again, and are the first to go.
    streams.iter().for_each(|slot| slot.set_phase(now, Phase::Idle));
    assert_eq!(admit(host(4)).unwrap_err(), Rejection::ConnectionLimit);
    assert!(streams.iter().all(is_evicted));
    drop((streams, ordinary, excess));
    let table = all.lock();
    assert_eq!((table.entries.len(), table.requests, table.event_streams), (0, 0, 0));
}
