//! Commands reach whoever owns a cast.

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;

use super::make::*;

async fn told(fleet: &dyn Fleet, ticket: &Ticket) -> Vec<Command> {
    let commands = fleet.commands(ticket).await.unwrap();
    assert!(commands.is_sorted_by(|a, b| a.0 < b.0), "{commands:?}");
    commands.into_iter().map(|(_, command)| command).collect()
}

pub(crate) async fn they_are_there_in_order_until_they_are_obeyed<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    let other = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    assert!(told(&*fleet, &claim.ticket).await.is_empty());
    let (add, remove) = (Command::AddPush(push(1)), Command::RemovePush(push(2).url));
    let all = [Command::Snapshot, add, remove, Command::Stop];
    for command in &all {
        fleet.order(&claim.cast.id, command.clone()).await.unwrap();
    }
    assert_eq!(told(&*fleet, &claim.ticket).await, all);
    assert_eq!(told(&*fleet, &claim.ticket).await, all, "they stay");
    assert!(told(&*fleet, &other.ticket).await.is_empty());
    let first = fleet.commands(&claim.ticket).await.unwrap()[1].0;
    fleet.obeyed(&claim.ticket, first).await.unwrap();
    fleet.obeyed(&claim.ticket, first).await.unwrap();
    fleet.obeyed(&other.ticket, u64::MAX).await.unwrap();
    assert_eq!(told(&*fleet, &claim.ticket).await, all[2..]);
    fleet.obeyed(&claim.ticket, u64::MAX).await.unwrap();
    fleet.order(&claim.cast.id, Command::Snapshot).await.unwrap();
    let again = fleet.commands(&claim.ticket).await.unwrap();
    assert!(again.len() == 1 && again[0].0 > first, "numbers do not come back");
}

pub(crate) async fn they_reach_the_next_owner<B: Backend>() {
    let mut backend = B::make();
    let id = put(&*backend.fleet(), wish(backend.now())).await;
    let add = Command::AddPush(push(1));
    backend.fleet().order(&id, add.clone()).await.unwrap();
    let first = take::<B>(&*backend.fleet(), "v").await.unwrap();
    assert_eq!(told(&*backend.fleet(), &first.ticket).await, [add], "what was ordered while it was queued");
    backend.fleet().obeyed(&first.ticket, u64::MAX).await.unwrap();
    backend.fleet().order(&id, Command::Snapshot).await.unwrap();
    backend.pass(B::LEASE);
    backend.fleet().order(&id, Command::Stop).await.unwrap();
    backend.restart();
    let fleet = backend.fleet();
    let second = take::<B>(&*fleet, "w").await.unwrap();
    assert!(second.cast.stop_asked);
    assert_eq!(told(&*fleet, &second.ticket).await, [Command::Snapshot, Command::Stop]);
    fleet.obeyed(&second.ticket, u64::MAX).await.unwrap();
    fleet.release(&second.ticket).await.unwrap();
    let third = take::<B>(&*fleet, "w").await.unwrap();
    assert!(third.cast.stop_asked, "that it is to stop is known even when the command is gone");
}

pub(crate) async fn one_that_is_queued_stops_at_once<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let id = put(&*fleet, keyed(backend.now(), "key", Hold::WhileLive)).await;
    fleet.order(&id, Command::Snapshot).await.unwrap();
    fleet.order(&id, Command::Stop).await.unwrap();
    let cast = get(&*fleet, &id).await;
    assert_eq!((cast.state, cast.closed, cast.stop_asked), (State::Ended, true, true));
    assert_eq!(cast.end, Some(End { reason: EndReason::Stopped, message: None, cause: None }));
    assert!(cast.ended_ms.is_some() && cast.started_ms.is_none());
    assert_eq!(story(&*fleet, &id).await, ["queued", "ended"]);
    assert!(take::<B>(&*fleet, "w").await.is_none());
    assert!(matches!(fleet.order(&id, Command::Stop).await, Err(Error::Over(of)) if of == id));
    put(&*fleet, keyed(backend.now(), "key", Hold::WhileLive)).await;
}

pub(crate) async fn there_is_an_end_to_them<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    let id = &claim.cast.id;
    for _ in 0..MAX_COMMANDS {
        fleet.order(id, Command::Snapshot).await.unwrap();
    }
    assert!(matches!(fleet.order(id, Command::Snapshot).await, Err(Error::Busy(of)) if of == *id));
    for _ in 0..3 {
        fleet.order(id, Command::Stop).await.unwrap();
    }
    let commands = told(&*fleet, &claim.ticket).await;
    assert_eq!((commands.len(), commands.last()), (MAX_COMMANDS + 1, Some(&Command::Stop)));
    fleet.obeyed(&claim.ticket, u64::MAX).await.unwrap();
    fleet.order(id, Command::Snapshot).await.unwrap();
    let nobody = wish(backend.now()).id;
    assert!(matches!(fleet.order(&nobody, Command::Stop).await, Err(Error::NoCast(of)) if of == nobody));
}

pub(crate) async fn they_end_with_the_cast<B: Backend>() {
    let backend = B::make();
    let fleet = backend.fleet();
    let claim = begun::<B>(&*fleet, "w", wish(backend.now())).await;
    fleet.order(&claim.cast.id, Command::Snapshot).await.unwrap();
    fleet.report(&claim.ticket, over()).await.unwrap();
    assert!(told(&*fleet, &claim.ticket).await.is_empty());
    for command in [Command::Stop, Command::Snapshot] {
        assert!(matches!(fleet.order(&claim.cast.id, command).await, Err(Error::Over(_))));
    }
}
