//! An in-memory fleet with room for one cast, which never runs it, and for any documents.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::{Push, Source, SourceUrl};
use pagecast_fleet::{
    Accounting, DailyUse, AuditEntry, AuditFilter, AuditPage, AuditTrail,
    Backlog, Cast, CastEnd, CastId, CastKey, CastPage, CastState, CastStats, Casts, Claim, Command,
    CreateOutcome, DeliveryAttempt, DeliveryOutcome, Document, DocumentList, Documents, Error, Event,
    EventKind, ExpiredLease, Filter, HeartbeatResponse, Leases, NewCast, NodeInfo, Outbox, OutboxEntry,
    QueueState, RedeliverOutcome, Telemetry, Ticket, UnixMs, WorkerId, WorkerStatus,
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Id of a cast of the application `one` that has ended and always exists.
pub(crate) const ENDED_CAST_ID: &str = "00000000000000000000000000000001";

#[derive(Debug)]
pub(crate) struct MemoryFleet {
    contents: Mutex<Contents>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Contents {
    cast: Option<Cast>,
    documents: BTreeMap<(String, String), Document>,
    /// Number of changes of documents.
    version: u64,
}

impl Default for MemoryFleet {
    fn default() -> Self {
        Self { contents: Mutex::default(), changes: watch::channel(0).0 }
    }
}

impl MemoryFleet {
    pub(crate) fn clear(&self) {
        *self.contents() = Contents::default();
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, matches: impl Fn(&Cast) -> bool) -> Option<Cast> {
        let contents = self.contents().cast.clone();
        contents.into_iter().chain([ended_cast()]).find(matches)
    }

    fn get_existing(&self, id: &CastId) -> Result<Cast, Error> {
        self.find(|cast| cast.id == *id).ok_or_else(|| Error::CastNotFound(id.clone()))
    }
}

fn ended_cast() -> Cast {
    let url = SourceUrl::parse("http://a.example/").expect("an address");
    Cast {
        id: CastId::parse(ENDED_CAST_ID).expect("an id"),
        app: "one".to_owned(),
        api: "v1".to_owned(),
        key: None,
        request: json!({}),
        spec: CastSpec::new(Source::new(url)),
        state: CastState::Ended,
        end: Some(CastEnd { reason: EndReason::Stopped, message: None, cause: None }),
        created_ms: 1,
        started_ms: Some(2),
        live_ms: Some(3),
        ended_ms: Some(4),
        stop_requested: true,
        closed: true,
        worker: None,
        epoch: 1,
        report: None,
        events_dropped: 0,
    }
}

#[async_trait]
impl Casts for MemoryFleet {
    async fn create(&self, new: NewCast) -> Result<CreateOutcome, Error> {
        new.spec.validate().expect("requests are validated before");
        let mut contents = self.contents();
        if let Some(cast) = contents.cast.clone().filter(|cast| cast.key.is_some() && cast.key == new.key) {
            return Ok(CreateOutcome::Exists(cast));
        }
        let NewCast { id, app, api, key, request, spec, .. } = new;
        let cast = Cast {
            id,
            app,
            api,
            key,
            request,
            spec,
            state: CastState::Queued,
            closed: false,
            ..ended_cast()
        };
        let cast = Cast {
            end: None,
            started_ms: None,
            live_ms: None,
            ended_ms: None,
            stop_requested: false,
            ..cast
        };
        contents.cast = Some(cast.clone());
        Ok(CreateOutcome::New(cast))
    }

    async fn get(&self, id: &CastId) -> Result<Option<Cast>, Error> {
        Ok(self.find(|cast| cast.id == *id))
    }

    async fn find_by_key(&self, key: &CastKey) -> Result<Option<Cast>, Error> {
        Ok(self.find(|cast| cast.key.as_ref() == Some(key)))
    }

    async fn list(&self, filter: &Filter) -> Result<CastPage, Error> {
        let of = |cast: &Cast| filter.app.as_ref().is_none_or(|app| *app == cast.app);
        Ok(CastPage { casts: self.find(of).into_iter().collect(), has_more: filter.limit == 1 })
    }

    async fn count(&self, _: Option<&str>) -> Result<Vec<(CastState, u64)>, Error> {
        Ok(CastState::ALL.map(|state| (state, 1)).into())
    }

    async fn queue(&self) -> Result<QueueState, Error> {
        let queued = self.find(|cast| cast.state == CastState::Queued);
        Ok(QueueState { order: queued.into_iter().map(|cast| cast.id).collect(), ..QueueState::default() })
    }

    async fn send_command(&self, id: &CastId, _: Command) -> Result<(), Error> {
        let mut contents = self.contents();
        match contents.cast.as_mut().filter(|cast| cast.id == *id) {
            Some(cast) => cast.stop_requested = true,
            None => return Err(Error::CastEnded(id.clone())),
        }
        Ok(())
    }

    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, Error> {
        let end = EventKind::Ended { reason: EndReason::Stopped, message: None, cause: None };
        let kinds = if self.get_existing(id)?.state == CastState::Ended {
            vec![EventKind::Queued, end]
        } else {
            Vec::new()
        };
        let events = (1..).zip(kinds).map(|(seq, kind)| Event { seq, at_ms: 5, kind });
        Ok(events.filter(|event| event.seq > after).take(limit).collect())
    }

    async fn sweep(&self) -> Result<(), Error> {
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn check_writable(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Leases for MemoryFleet {
    async fn register_worker(&self, _: &WorkerId, _: &NodeInfo) -> Result<(), Error> {
        Ok(())
    }

    async fn expired_leases(&self, _: &WorkerId, _: &NodeInfo) -> Result<Vec<ExpiredLease>, Error> {
        Ok(Vec::new())
    }

    async fn take_over(
        &self,
        _: &WorkerId,
        _: &NodeInfo,
        _: Duration,
        _: &CastId,
    ) -> Result<Option<Claim>, Error> {
        Ok(None)
    }

    async fn claim_queued(
        &self,
        _: &WorkerId,
        _: &NodeInfo,
        _: Duration,
        _: &(dyn for<'a> Fn(&'a Cast) -> bool + Sync),
    ) -> Result<Option<Claim>, Error> {
        Ok(None)
    }

    async fn fail_queued(&self, _: &CastId, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn renew(&self, _: &Ticket, _: Duration) -> Result<(), Error> {
        Ok(())
    }

    async fn commands(&self, _: &Ticket) -> Result<Vec<(u64, Command)>, Error> {
        Ok(Vec::new())
    }

    async fn ack_commands(&self, _: &Ticket, _: u64) -> Result<(), Error> {
        Ok(())
    }

    async fn report_event(&self, _: &Ticket, _: EventKind) -> Result<(), Error> {
        Ok(())
    }

    async fn report_stored_later(&self, _: &CastId, _: EventKind) -> Result<(), Error> {
        Ok(())
    }

    async fn put_pushes(&self, _: &Ticket, _: Vec<Push>) -> Result<(), Error> {
        Ok(())
    }

    async fn put_ledger(&self, _: &Ticket, _: Vec<LedgerRow>) -> Result<(), Error> {
        Ok(())
    }

    async fn ledger(&self, _: &Ticket) -> Result<Vec<LedgerRow>, Error> {
        Ok(Vec::new())
    }

    async fn close(&self, _: &Ticket, _: Option<EventKind>, _: Option<Value>) -> Result<(), Error> {
        Ok(())
    }

    async fn release(&self, _: &Ticket) -> Result<(), Error> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[async_trait]
impl Outbox for MemoryFleet {
    async fn due_entries(&self, _: usize, _: &HashSet<CastId>) -> Result<Vec<OutboxEntry>, Error> {
        Ok(Vec::new())
    }

    async fn next_due_in(&self) -> Result<Option<Duration>, Error> {
        Ok(None)
    }

    async fn settle(
        &self,
        _: &CastId,
        _: u64,
        _: DeliveryOutcome,
        _: Option<DeliveryAttempt>,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn attempts(&self, id: &CastId) -> Result<Vec<DeliveryAttempt>, Error> {
        self.get_existing(id).map(|_| Vec::new())
    }

    async fn redeliver(&self, cast: &CastId, _: Option<u64>) -> Result<RedeliverOutcome, Error> {
        self.get_existing(cast).map(|_| RedeliverOutcome::default())
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        Ok(Backlog::default())
    }
}

#[async_trait]
impl Documents for MemoryFleet {
    async fn put_document(
        &self,
        kind: &str,
        name: &str,
        expected: Option<u64>,
        content: Option<Value>,
    ) -> Result<(), Error> {
        let Contents { documents, version, .. } = &mut *self.contents();
        let key = (kind.to_owned(), name.to_owned());
        let found = documents.get(&key).map_or(0, |document| document.version);
        if expected.is_some_and(|expected| expected != found) {
            return Err(Error::DocumentChanged(key.1));
        }
        *version += 1;
        let document = |content| Document { name: name.to_owned(), version: *version, content };
        match content.map(document) {
            Some(document) => drop(documents.insert(key, document)),
            None => drop(documents.remove(&key)),
        }
        Ok(())
    }

    async fn documents(&self, kind: &str) -> Result<DocumentList, Error> {
        let contents = self.contents();
        let documents = contents.documents.iter().filter(|((of, _), _)| of == kind);
        let documents = documents.map(|(_, document)| document.clone()).collect();
        Ok(DocumentList { version: contents.version, documents })
    }

    async fn documents_version(&self) -> Result<u64, Error> {
        Ok(self.contents().version)
    }
}

#[async_trait]
impl AuditTrail for MemoryFleet {
    async fn append_audit(&self, _: Vec<AuditEntry>) -> Result<(), Error> {
        Ok(())
    }

    async fn audit_entries(&self, _: &AuditFilter) -> Result<AuditPage, Error> {
        Ok(AuditPage::default())
    }
}

#[async_trait]
impl Accounting for MemoryFleet {
    async fn daily_use(&self, _: Option<&str>, _: RangeInclusive<i64>) -> Result<Vec<DailyUse>, Error> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Telemetry for MemoryFleet {
    async fn stats(&self, _: &CastId) -> Option<CastStats> {
        Some(CastStats::default())
    }

    async fn snapshot(&self, _: &CastId) -> Option<(UnixMs, Bytes)> {
        None
    }

    async fn workers(&self) -> Vec<(WorkerId, WorkerStatus)> {
        Vec::new()
    }

    async fn put_stats(&self, _: &Ticket, _: CastStats) {}

    async fn put_snapshot(&self, _: &Ticket, _: Bytes) {}

    async fn heartbeat(&self, _: &WorkerId, _: WorkerStatus) -> Result<HeartbeatResponse, Error> {
        Ok(HeartbeatResponse::default())
    }

    async fn request_drain(&self, _: &WorkerId) -> Result<bool, Error> {
        Ok(false)
    }
}
