//! The life of a cast.

use super::make::*;
use pagecast_fleet::*;

async fn whole_life<B: Backend>() {
    let clock = Clock::new();
    let mut backend = B::make(&clock);
    let new = keyed(clock.now(), "key", Hold::WhileLive);
    let (id, spec) = (new.id.clone(), new.spec.clone());
    let fleet = backend.fleet();
    put(fleet, new).await;
    assert!(
        matches!(fleet.create(keyed(clock.now(), "key", Hold::WhileLive)).await.unwrap(), Created::Exists(cast) if cast.id == id)
    );
    let claim = take(fleet, "w").await.unwrap();
    assert_eq!((claim.cast.state, claim.cast.epoch, claim.cast.spec), (State::Starting, 1, spec));
    fleet.report(&claim.ticket, Happening::Live).await.unwrap();
    fleet.order(&id, Command::Stop).await.unwrap();
    assert_eq!(fleet.commands(&claim.ticket).await.unwrap().len(), 1);
    fleet.report(&claim.ticket, over()).await.unwrap();
    fleet.close(&claim.ticket, None).await.unwrap();
    backend.restart();
    let fleet = backend.fleet();
    let cast = fleet.get(&id).await.unwrap().unwrap();
    assert_eq!((cast.state, cast.closed, cast.end.is_some()), (State::Ended, true, true));
    let events = fleet.events(&id, 0, 100).await.unwrap();
    assert_eq!(events.len(), 4, "{events:?}");
    assert_eq!(fleet.find(&Key("key".into())).await.unwrap().unwrap().id, id);
    assert_eq!(fleet.list(&Filter { limit: 10, ..Filter::default() }).await.unwrap().casts.len(), 1);
    assert_eq!(
        fleet
            .list(&Filter { limit: 10, app: Some("app".into()), ..Filter::default() })
            .await
            .unwrap()
            .casts
            .len(),
        1
    );
    for seq in 1..=4 {
        let due = fleet.due(10).await.unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].event.seq, seq);
        fleet.settle(&id, seq, Settled::Done, None).await.unwrap();
    }
    assert!(fleet.due(10).await.unwrap().is_empty());
    fleet.sweep().await.unwrap();
    clock.advance(2 * HISTORY);
    fleet.sweep().await.unwrap();
    assert!(fleet.get(&id).await.unwrap().is_none());
    assert_eq!(fleet.count(None).await.unwrap(), State::ALL.map(|state| (state, 0)).to_vec());
    fleet.check().await.unwrap();
}

#[test]
fn a_whole_life() {
    block_on(whole_life::<Embedded>());
}
