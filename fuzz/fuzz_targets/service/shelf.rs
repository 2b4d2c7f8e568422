//! A fleet that keeps what it is given until it is emptied, in memory and on one shelf: nothing is ever run.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use pagecast_core::CastSpec;
use pagecast_core::cast::EndReason;
use pagecast_core::spec::{Push, Source, SourceUrl};
use pagecast_fleet::{
    Attempt, Backlog, Cast, CastId, Claim, Command, Created, End, Error, Event, Filter, Fleet, Happening,
    Key, Load, NewCast, Notice, Page, Redelivered, Settled, State, Ticket, UnixMs, Vitals, WorkerId,
};
use serde_json::{Value, json};
use tokio::sync::watch;

/// A cast of the application `one` that is over, whatever else there is.
pub(crate) const OVER: &str = "00000000000000000000000000000001";

#[derive(Debug)]
pub(crate) struct Shelf {
    kept: Mutex<Kept>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    cast: Option<Cast>,
    documents: BTreeMap<(String, String), Value>,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { kept: Mutex::default(), changes: watch::channel(0).0 }
    }
}

impl Shelf {
    pub(crate) fn empty(&self) {
        *self.kept() = Kept::default();
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, good: impl Fn(&Cast) -> bool) -> Option<Cast> {
        let kept = self.kept().cast.clone();
        kept.into_iter().chain([over()]).find(good)
    }

    fn named(&self, id: &CastId) -> Result<Cast, Error> {
        self.with(|cast| cast.id == *id).ok_or_else(|| Error::NoCast(id.clone()))
    }
}

fn over() -> Cast {
    let url = SourceUrl::parse("http://a.example/").expect("an address");
    Cast {
        id: CastId::parse(OVER).expect("an id"),
        app: "one".to_owned(),
        origin: "v1".to_owned(),
        key: None,
        request: json!({}),
        spec: CastSpec::new(Source::new(url)),
        state: State::Ended,
        end: Some(End { reason: EndReason::Stopped, message: None, cause: None }),
        created_ms: 1,
        started_ms: Some(2),
        live_ms: Some(3),
        ended_ms: Some(4),
        stop_asked: true,
        closed: true,
        worker: None,
        epoch: 1,
        report: None,
        events_dropped: 0,
    }
}

#[async_trait]
impl Fleet for Shelf {
    async fn create(&self, new: NewCast) -> Result<Created, Error> {
        new.spec.check().expect("what is asked for is checked before");
        let mut kept = self.kept();
        if let Some(cast) = kept.cast.clone().filter(|cast| cast.key.is_some() && cast.key == new.key) {
            return Ok(Created::Exists(cast));
        }
        let NewCast { id, app, origin, key, request, spec, .. } = new;
        let cast =
            Cast { id, app, origin, key, request, spec, state: State::Queued, closed: false, ..over() };
        let cast =
            Cast { end: None, started_ms: None, live_ms: None, ended_ms: None, stop_asked: false, ..cast };
        kept.cast = Some(cast.clone());
        Ok(Created::New(cast))
    }

    async fn get(&self, id: &CastId) -> Result<Option<Cast>, Error> {
        Ok(self.with(|cast| cast.id == *id))
    }

    async fn find(&self, key: &Key) -> Result<Option<Cast>, Error> {
        Ok(self.with(|cast| cast.key.as_ref() == Some(key)))
    }

    async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        let of = |cast: &Cast| filter.app.as_ref().is_none_or(|app| *app == cast.app);
        Ok(Page { casts: self.with(of).into_iter().collect(), more: filter.limit == 1 })
    }

    async fn count(&self, _: Option<&str>) -> Result<Vec<(State, u64)>, Error> {
        Ok(State::ALL.map(|state| (state, 1)).into())
    }

    async fn order(&self, id: &CastId, _: Command) -> Result<(), Error> {
        let mut kept = self.kept();
        match kept.cast.as_mut().filter(|cast| cast.id == *id) {
            Some(cast) => cast.stop_asked = true,
            None => return Err(Error::Over(id.clone())),
        }
        Ok(())
    }

    async fn events(&self, id: &CastId, after: u64, limit: usize) -> Result<Vec<Event>, Error> {
        let end = Happening::Ended { reason: EndReason::Stopped, message: None, cause: None };
        let happened =
            if self.named(id)?.state == State::Ended { vec![Happening::Queued, end] } else { Vec::new() };
        let events = (1..).zip(happened).map(|(seq, what)| Event { seq, at_ms: 5, what });
        Ok(events.filter(|event| event.seq > after).take(limit).collect())
    }

    async fn vitals(&self, _: &CastId) -> Option<Vitals> {
        Some(Vitals::default())
    }

    async fn snapshot(&self, _: &CastId) -> Option<(UnixMs, Bytes)> {
        None
    }

    async fn workers(&self) -> Vec<(WorkerId, Load)> {
        Vec::new()
    }

    async fn adopt(&self, _: &WorkerId) -> Result<(), Error> {
        Ok(())
    }

    async fn claim(
        &self,
        _: &WorkerId,
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

    async fn obeyed(&self, _: &Ticket, _: u64) -> Result<(), Error> {
        Ok(())
    }

    async fn report(&self, _: &Ticket, _: Happening) -> Result<(), Error> {
        Ok(())
    }

    async fn put_pushes(&self, _: &Ticket, _: Vec<Push>) -> Result<(), Error> {
        Ok(())
    }

    async fn close(&self, _: &Ticket, _: Option<Happening>, _: Option<Value>) -> Result<(), Error> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn release(&self, _: &Ticket) -> Result<(), Error> {
        Ok(())
    }

    async fn tell(&self, _: &Ticket, _: Vitals) {}

    async fn put_snapshot(&self, _: &Ticket, _: Bytes) {}

    async fn beat(&self, _: &WorkerId, _: Load) {}

    async fn due(&self, _: usize, _: &HashSet<CastId>) -> Result<Vec<Notice>, Error> {
        Ok(Vec::new())
    }

    async fn next_due(&self) -> Result<Option<Duration>, Error> {
        Ok(None)
    }

    async fn settle(&self, _: &CastId, _: u64, _: Settled, _: Option<Attempt>) -> Result<(), Error> {
        Ok(())
    }

    async fn attempts(&self, id: &CastId) -> Result<Vec<Attempt>, Error> {
        self.named(id).map(|_| Vec::new())
    }

    async fn redeliver(&self, cast: &CastId, _: Option<u64>) -> Result<Redelivered, Error> {
        self.named(cast).map(|_| Redelivered::default())
    }

    async fn backlog(&self) -> Result<Backlog, Error> {
        Ok(Backlog::default())
    }

    async fn put_document(&self, kind: &str, name: &str, document: Option<Value>) -> Result<(), Error> {
        let name = (kind.to_owned(), name.to_owned());
        let documents = &mut self.kept().documents;
        match document {
            Some(document) => drop(documents.insert(name, document)),
            None => drop(documents.remove(&name)),
        }
        Ok(())
    }

    async fn documents(&self, kind: &str) -> Result<Vec<(String, Value)>, Error> {
        let kept = self.kept();
        let all = kept.documents.iter().filter(|((k, _), _)| k == kind);
        Ok(all.map(|((_, name), document)| (name.clone(), document.clone())).collect())
    }

    async fn sweep(&self) -> Result<(), Error> {
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}
