//! Commands reach the owner of a cast.

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;

use super::fixture::*;

async fn pending_commands<B: Backend>(fleet: &dyn Fleet, ticket: &Ticket) -> Vec<Command> {
    let commands = renew::<B>(fleet, ticket).await.unwrap();
    assert!(commands.is_sorted_by(|a, b| a.0 < b.0), "{commands:?}");
    commands.into_iter().map(|(_, command)| command).collect()
}

pub(crate) async fn they_are_there_in_order_until_they_are_acked<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let other = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    assert!(pending_commands::<B>(&*fleet, &claim.ticket).await.is_empty());
    let (add, remove) = (Command::AddPush(push(1)), Command::RemovePush(push(2).url));
    let all = [Command::Snapshot, add, remove, Command::Move, Command::Stop];
    for command in &all {
        fleet.send_command(&claim.cast.id, command.clone()).await.unwrap();
    }
    assert_eq!(pending_commands::<B>(&*fleet, &claim.ticket).await, all);
    assert_eq!(
        pending_commands::<B>(&*fleet, &claim.ticket).await,
        all,
        "they stay until they are acknowledged"
    );
    assert!(pending_commands::<B>(&*fleet, &other.ticket).await.is_empty());
    let first = renew::<B>(&*fleet, &claim.ticket).await.unwrap()[1].0;
    fleet.ack_commands(&claim.ticket, first).await.unwrap();
    fleet.ack_commands(&claim.ticket, first).await.unwrap();
    fleet.ack_commands(&other.ticket, u64::MAX).await.unwrap();
    assert_eq!(pending_commands::<B>(&*fleet, &claim.ticket).await, all[2..]);
    fleet.ack_commands(&claim.ticket, u64::MAX).await.unwrap();
    fleet.send_command(&claim.cast.id, Command::Snapshot).await.unwrap();
    let again = renew::<B>(&*fleet, &claim.ticket).await.unwrap();
    assert!(again.len() == 1 && again[0].0 > first, "numbers are not reused");
}

pub(crate) async fn they_reach_the_next_owner<B: Backend>() {
    let mut backend = B::new().await;
    let id = create_cast(&*backend.fleet(), new_cast(backend.now())).await;
    let add = Command::AddPush(push(1));
    backend.fleet().send_command(&id, add.clone()).await.unwrap();
    let first = claim_next::<B>(&*backend.fleet(), "v").await.unwrap();
    assert_eq!(
        pending_commands::<B>(&*backend.fleet(), &first.ticket).await,
        [add],
        "a command sent while the cast was queued"
    );
    backend.fleet().ack_commands(&first.ticket, u64::MAX).await.unwrap();
    backend.fleet().send_command(&id, Command::Snapshot).await.unwrap();
    backend.advance(B::LEASE);
    backend.fleet().send_command(&id, Command::Stop).await.unwrap();
    backend.restart().await;
    let fleet = backend.fleet();
    let second = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert!(second.cast.stop_requested);
    assert_eq!(pending_commands::<B>(&*fleet, &second.ticket).await, [Command::Snapshot, Command::Stop]);
    fleet.ack_commands(&second.ticket, u64::MAX).await.unwrap();
    fleet.release(&second.ticket).await.unwrap();
    let third = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert!(third.cast.stop_requested, "the request to stop outlives the command");
}

pub(crate) async fn a_moved_cast_is_resumed_by_another_worker_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "v", new_cast(backend.now())).await;
    let id = claim.cast.id.clone();
    fleet.report_event(&claim.ticket, EventKind::Live).await.unwrap();
    fleet.send_command(&id, Command::Move).await.unwrap();
    let commands = renew::<B>(&*fleet, &claim.ticket).await.unwrap();
    fleet.ack_commands(&claim.ticket, commands[0].0).await.unwrap();
    fleet.release(&claim.ticket).await.unwrap();
    let next = claim_next::<B>(&*fleet, "w").await.unwrap();
    assert_eq!((next.cast.id.clone(), next.ticket.epoch), (id.clone(), claim.ticket.epoch + 1));
    assert!(pending_commands::<B>(&*fleet, &next.ticket).await.is_empty(), "it is not moved again");
    assert_eq!(event_names(&*fleet, &id).await, ["queued", "started", "live", "resumed"]);
    let events = fleet.events(&id, 3, 10).await.unwrap();
    assert_eq!(events[0].kind, EventKind::Resumed { node: Some("w".to_owned()) });
}

pub(crate) async fn a_queued_cast_stops_at_once<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let id = create_cast(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded)).await;
    fleet.send_command(&id, Command::Snapshot).await.unwrap();
    fleet.send_command(&id, Command::Stop).await.unwrap();
    let cast = get_cast(&*fleet, &id).await;
    assert_eq!((cast.state, cast.closed, cast.stop_requested), (CastState::Ended, true, true));
    assert_eq!(cast.end, Some(CastEnd { reason: EndReason::Stopped, message: None, cause: None }));
    assert!(cast.ended_ms.is_some() && cast.started_ms.is_none());
    assert_eq!(event_names(&*fleet, &id).await, ["queued", "ended"]);
    assert!(claim_next::<B>(&*fleet, "w").await.is_none());
    assert!(matches!(fleet.send_command(&id, Command::Stop).await, Err(Error::CastEnded(of)) if of == id));
    create_cast(&*fleet, new_cast_with_key(backend.now(), "key", KeyRetention::UntilEnded)).await;
}

pub(crate) async fn they_are_limited<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let id = &claim.cast.id;
    for _ in 0..MAX_COMMANDS {
        fleet.send_command(id, Command::Snapshot).await.unwrap();
    }
    assert!(matches!(fleet.send_command(id, Command::Snapshot).await,
        Err(Error::TooManyCommands(of)) if of == *id));
    for _ in 0..3 {
        fleet.send_command(id, Command::Stop).await.unwrap();
    }
    let commands = pending_commands::<B>(&*fleet, &claim.ticket).await;
    assert_eq!((commands.len(), commands.last()), (MAX_COMMANDS + 1, Some(&Command::Stop)));
    fleet.ack_commands(&claim.ticket, u64::MAX).await.unwrap();
    fleet.send_command(id, Command::Snapshot).await.unwrap();
    let unknown = new_cast(backend.now()).id;
    assert!(matches!(fleet.send_command(&unknown, Command::Stop).await,
        Err(Error::CastNotFound(of)) if of == unknown));
}

pub(crate) async fn they_end_with_the_cast<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    fleet.send_command(&claim.cast.id, Command::Snapshot).await.unwrap();
    fleet.report_event(&claim.ticket, ended_event()).await.unwrap();
    assert!(pending_commands::<B>(&*fleet, &claim.ticket).await.is_empty());
    for command in [Command::Stop, Command::Snapshot] {
        assert!(matches!(fleet.send_command(&claim.cast.id, command).await, Err(Error::CastEnded(_))));
    }
}
