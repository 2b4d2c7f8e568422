//! Ledgers of recordings.

use pagecast_core::MediaTime;
use pagecast_core::ledger::{LedgerRow, RecordedFile, Run, Segment, StoredIn, Thumbnail};

use super::fixture::*;

fn segment_row(index: u32, stored: Option<StoredIn>) -> LedgerRow {
    let (start, duration) = (MediaTime::from_index(i64::from(index) * 4, 1), MediaTime::from_index(4, 1));
    let segment = Segment { index, run: 0, epoch: 1, start, duration, bytes: 1000 };
    LedgerRow::Segment { segment, file: Some(0), stored, copied: false }
}

fn file_row() -> LedgerRow {
    let name = "rec_0.mp4".to_owned();
    let file = RecordedFile { name, bytes: 9, start_unix_ms: 1, end_unix_ms: 2, file_id: None, url: None };
    LedgerRow::File { index: 0, file, stored: StoredIn::Backup }
}

pub(crate) async fn rows_are_replaced_and_go_to_the_next_owner<B: Backend>() {
    let mut backend = B::new().await;
    let fleet = backend.fleet();
    let claim = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await;
    let (id, ticket) = (claim.cast.id, claim.ticket);
    assert!(fleet.ledger(&ticket).await.unwrap().is_empty());
    let run = Run { index: 0, epoch: 1, unix_ms: 7, tick: MediaTime(1) };
    let (init, node) = (Some(StoredIn::Storage), Some("w".to_owned()));
    let run = LedgerRow::Run { run, init, node, init_segment: Some("aW5pdA==".to_owned()) };
    let thumbnail = Thumbnail { index: 0, epoch: 1, at: MediaTime::ZERO, bytes: 3 };
    let thumbnail = LedgerRow::Thumbnail { thumbnail, stored: None };
    let rows = vec![thumbnail.clone(), segment_row(1, None), segment_row(0, None), run.clone()];
    fleet.put_ledger(&ticket, rows).await.unwrap();
    let stored = Some(StoredIn::Storage);
    fleet.put_ledger(&ticket, vec![segment_row(0, stored), file_row()]).await.unwrap();
    fleet.put_ledger(&ticket, Vec::new()).await.unwrap();
    let expected = [run, segment_row(0, stored), segment_row(1, None), thumbnail, file_row()];
    assert_eq!(fleet.ledger(&ticket).await.unwrap(), expected);

    drop(fleet);
    backend.restart().await;
    let fleet = backend.fleet();
    fleet.release(&ticket).await.unwrap();
    let next = claim_next::<B>(&*fleet, "v").await.unwrap();
    assert_eq!(fleet.ledger(&next.ticket).await.unwrap(), expected);
    assert!(is_fenced(&fleet.put_ledger(&ticket, vec![segment_row(2, None)]).await, &id));
    assert!(is_fenced(&fleet.ledger(&ticket).await, &id));
    assert_eq!(fleet.ledger(&next.ticket).await.unwrap(), expected);
}

pub(crate) async fn each_cast_has_its_own<B: Backend>() {
    let backend = B::new().await;
    let fleet = backend.fleet();
    let first = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await.ticket;
    let second = create_and_claim::<B>(&*fleet, "w", new_cast(backend.now())).await.ticket;
    fleet.put_ledger(&first, vec![segment_row(0, None)]).await.unwrap();
    fleet.put_ledger(&second, vec![segment_row(0, None), segment_row(1, None)]).await.unwrap();
    assert_eq!(fleet.ledger(&first).await.unwrap().len(), 1);
    fleet.close(&first, Some(ended_event()), None).await.unwrap();
    assert!(is_fenced(&fleet.ledger(&first).await, &first.cast));
    assert_eq!(fleet.ledger(&second).await.unwrap().len(), 2);
}
