//! Each room belongs to one node.

use std::time::Duration;

use pagecast_fleet::WorkerId;

use super::fixture::*;

/// A short lease of a room.
const SHORT: Duration = Duration::from_secs(5);

fn node(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

fn names(rooms: &[&str]) -> Vec<String> {
    rooms.iter().map(|room| (*room).to_owned()).collect()
}

pub(crate) async fn a_room_has_one_node_until_its_lease_ends<B: Backend>() {
    let backend = B::new().await;
    let rooms = backend.rooms();
    assert_eq!(rooms.room_owner("app~r").await.unwrap(), None);
    assert_eq!(rooms.assign_room("app~r", &node("a"), SHORT).await.unwrap(), node("a"));
    assert_eq!(rooms.assign_room("app~r", &node("b"), SHORT).await.unwrap(), node("a"));
    assert_eq!(rooms.assign_room("app~s", &node("b"), SHORT).await.unwrap(), node("b"));
    backend.advance(SHORT / 2);
    // Its own node gets a new lease, and others do not.
    assert_eq!(rooms.assign_room("app~r", &node("a"), SHORT).await.unwrap(), node("a"));
    assert_eq!(rooms.assign_room("app~s", &node("a"), SHORT).await.unwrap(), node("b"));
    backend.advance(SHORT * 3 / 4);
    assert_eq!(rooms.assign_room("app~r", &node("b"), SHORT).await.unwrap(), node("a"));
    // Until somebody else gets the room, its last node is known.
    assert_eq!(rooms.room_owner("app~s").await.unwrap(), Some(node("b")));
    assert_eq!(rooms.assign_room("app~s", &node("a"), SHORT).await.unwrap(), node("a"));
    backend.advance(SHORT);
    assert_eq!(rooms.assign_room("app~r", &node("b"), SHORT).await.unwrap(), node("b"));
    assert_eq!(rooms.room_owner("app~r").await.unwrap(), Some(node("b")));
    backend.advance(Duration::from_secs(2 * 3600));
    assert_eq!(rooms.room_owner("app~r").await.unwrap(), None, "old rooms are forgotten");
}

pub(crate) async fn renewed_rooms_stay_and_lost_ones_are_reported<B: Backend>() {
    let backend = B::new().await;
    let rooms = backend.rooms();
    let lost = rooms.renew_rooms(&node("a"), &[], SHORT).await.unwrap();
    assert_eq!(lost, names(&[]));
    for room in ["x", "y", "z"] {
        rooms.assign_room(room, &node("a"), SHORT).await.unwrap();
    }
    for _ in 0..3 {
        backend.advance(SHORT * 3 / 4);
        // `y` is empty, and `new` was never assigned. A name that comes twice is one room.
        let renewed = names(&["z", "x", "new", "x"]);
        assert_eq!(rooms.renew_rooms(&node("a"), &renewed, SHORT).await.unwrap(), names(&[]));
    }
    for (room, owner) in [("x", "a"), ("y", "b"), ("z", "a"), ("new", "a")] {
        assert_eq!(rooms.assign_room(room, &node("b"), SHORT).await.unwrap(), node(owner), "{room}");
    }
    let lost = rooms.renew_rooms(&node("a"), &names(&["y", "z"]), SHORT).await.unwrap();
    assert_eq!(lost, names(&["y"]));
    assert_eq!(rooms.room_owner("y").await.unwrap(), Some(node("b")));
    // A lease that ended unnoticed is renewed if nobody took the room.
    backend.advance(SHORT * 2);
    assert_eq!(rooms.renew_rooms(&node("a"), &names(&["z"]), SHORT).await.unwrap(), names(&[]));
    assert_eq!(rooms.assign_room("z", &node("b"), SHORT).await.unwrap(), node("a"));
}

pub(crate) async fn released_rooms_are_free_at_once<B: Backend>() {
    let backend = B::new().await;
    let rooms = backend.rooms();
    for (room, owner) in [("x", "a"), ("y", "a"), ("z", "b")] {
        rooms.assign_room(room, &node(owner), B::LEASE).await.unwrap();
    }
    rooms.release_rooms(&node("a")).await.unwrap();
    assert_eq!(rooms.room_owner("x").await.unwrap(), Some(node("a")));
    for (room, owner) in [("x", "c"), ("y", "c"), ("z", "b")] {
        assert_eq!(rooms.assign_room(room, &node("c"), B::LEASE).await.unwrap(), node(owner), "{room}");
    }
}

pub(crate) async fn candidates_agree_on_one_node<B: Backend>() {
    let backend = B::new().await;
    let mut tasks = Vec::new();
    for n in 0..8 {
        let rooms = backend.rooms();
        let assign = async move { rooms.assign_room("r", &node(&n.to_string()), B::LEASE).await.unwrap() };
        tasks.push(tokio::spawn(assign));
    }
    let mut owners = Vec::new();
    for task in tasks {
        owners.push(task.await.unwrap().0);
    }
    owners.dedup();
    assert_eq!(owners.len(), 1, "{owners:?}");
}
