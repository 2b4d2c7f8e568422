//! Random operations, compared with a model that is simple enough to be right.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::fixture::*;

const QUOTA: usize = 4;
const QUEUE_LIMIT: usize = 5;
/// Label that some casts ask for and some nodes have.
const LABEL: &str = "gpu";

#[derive(Debug, Clone)]
enum Op {
    Create { key: Option<u8>, hold_s: Option<u8>, app: u8, notify: bool, labelled: bool },
    Claim { worker: u8, fits: Option<u8>, labelled: bool },
    ClaimQueued { worker: u8, fits: Option<u8>, labelled: bool, limit: u8 },
    RegisterWorker { worker: u8 },
    Report { ticket: Index, event: ReportedEvent },
    Renew { ticket: Index },
    AckCommands { ticket: Index },
    Release { ticket: Index },
    Close { ticket: Index },
    SendCommand { cast: Index, stop: bool },
    Settle { outcome: Outcome },
    Redeliver { cast: Index, seq: Option<u8> },
    Advance { s: u8 },
    AdvanceRetention,
    SetClock { by_h: i8 },
    Sweep,
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum ReportedEvent {
    Live,
    Ended,
    Restarted,
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Delivered,
    GivenUp,
    RetryAfter { s: u8 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    use proptest::option::of;
    let event =
        prop_oneof![Just(ReportedEvent::Live), Just(ReportedEvent::Ended), Just(ReportedEvent::Restarted)];
    let outcome = prop_oneof![3 => Just(Outcome::Delivered), 1 => Just(Outcome::GivenUp),
    2 => (0..40_u8).prop_map(|s| Outcome::RetryAfter { s })];
    let op = prop_oneof![
        8 => (of(0..3_u8), of(0..100_u8), 0..2_u8, prop::bool::weighted(0.8), prop::bool::weighted(0.2))
            .prop_map(|(key, hold_s, app, notify, labelled)|
                Op::Create { key, hold_s, app, notify, labelled }),
        8 => (0..3_u8, of(0..3_u8), any::<bool>())
            .prop_map(|(worker, fits, labelled)| Op::Claim { worker, fits, labelled }),
        4 => (0..3_u8, of(0..3_u8), any::<bool>(), 0..4_u8)
            .prop_map(|(worker, fits, labelled, limit)| Op::ClaimQueued { worker, fits, labelled, limit }),
        1 => (0..3_u8).prop_map(|worker| Op::RegisterWorker { worker }),
        8 => (any::<Index>(), event).prop_map(|(ticket, event)| Op::Report { ticket, event }),
        2 => any::<Index>().prop_map(|ticket| Op::Renew { ticket }),
        2 => any::<Index>().prop_map(|ticket| Op::AckCommands { ticket }),
        2 => any::<Index>().prop_map(|ticket| Op::Release { ticket }),
        3 => any::<Index>().prop_map(|ticket| Op::Close { ticket }),
        4 => (any::<Index>(), any::<bool>()).prop_map(|(cast, stop)| Op::SendCommand { cast, stop }),
        8 => outcome.prop_map(|outcome| Op::Settle { outcome }),
        2 => (any::<Index>(), of(0..6_u8)).prop_map(|(cast, seq)| Op::Redeliver { cast, seq }),
        3 => (1..40_u8).prop_map(|s| Op::Advance { s }),
        1 => Just(Op::AdvanceRetention),
        1 => (-100..100_i8).prop_map(|by_h| Op::SetClock { by_h }),
        3 => Just(Op::Sweep),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..80)
}

/// Expected state of a cast.
#[derive(Debug)]
struct CastModel {
    new: NewCast,
    state: CastState,
    reason: Option<EndReason>,
    ended_ms: Option<UnixMs>,
    /// Creation time, and whether a worker has claimed the cast.
    queued_at: Duration,
    started: bool,
    closed: bool,
    /// Whether the key is taken. Once free, it stays free, even if the clock is set back before its end.
    holds_key: bool,
    stop_requested: bool,
    owner: Option<String>,
    epoch: u64,
    /// End of the lease, in elapsed time like all deadlines, which changes of the clock do not affect.
    lease_until: Duration,
    commands: usize,
    events: u64,
    /// Events that are not delivered: number, attempts, due time, and whether delivery was given up.
    outbox: Vec<(u64, u32, Duration, bool)>,
}

impl CastModel {
    fn append_event(&mut self) {
        self.events += 1;
        if self.new.notify {
            self.outbox.push((self.events, 0, Duration::ZERO, false));
        }
    }

    fn end(&mut self, reason: EndReason, now: UnixMs) {
        (self.state, self.reason, self.ended_ms, self.commands) =
            (CastState::Ended, Some(reason), Some(now), 0);
        self.release_expired_key(now);
        self.append_event();
    }

    fn mark_closed(&mut self) {
        (self.closed, self.owner) = (true, None);
    }

    fn key_expired(&self, now: UnixMs) -> bool {
        self.state == CastState::Ended
            && !matches!(self.new.key_retention, KeyRetention::Until(until) if until > now)
    }

    fn release_expired_key(&mut self, now: UnixMs) {
        self.holds_key &= !self.key_expired(now);
    }

    fn is_free(&self, passed: Duration) -> bool {
        self.state != CastState::Queued && !self.closed && self.lease_until <= passed
    }

    fn is_waiting(&self, passed: Duration) -> bool {
        self.state == CastState::Queued && self.queued_at + self.new.queue_timeout > passed
    }

    /// Whether the cast counts towards the quota although it has ended.
    fn counts_towards_quota(&self, passed: Duration) -> bool {
        self.state == CastState::Ended && !self.started && self.queued_at + Duration::from_secs(60) > passed
    }

    /// The first pending event; those behind it are due as soon as they are first.
    fn head(&mut self) -> Option<&mut (u64, u32, Duration, bool)> {
        self.outbox.sort_unstable();
        let mut pending = self.outbox.iter_mut().filter(|entry| !entry.3);
        let head = pending.next();
        pending.for_each(|entry| entry.2 = Duration::ZERO);
        head
    }
}

struct Fixture<B> {
    backend: B,
    casts: Vec<CastModel>,
    tickets: Vec<Ticket>,
    /// Time since the start of the test.
    elapsed: Duration,
    /// Sum of all changes of the clock, now and at the fleet's last check of the clock.
    set_ms: i64,
    seen_ms: i64,
    /// Time before which nothing is deleted.
    trusted_from: Duration,
}

pub(crate) fn random_operations<B: Backend>() {
    let config = Config { cases: B::MODEL_CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&ops(), |ops| {
            block_on(async {
                let mut fixture = Fixture {
                    backend: B::new().await,
                    casts: Vec::new(),
                    tickets: Vec::new(),
                    elapsed: Duration::ZERO,
                    set_ms: 0,
                    seen_ms: 0,
                    trusted_from: Duration::ZERO,
                };
                for op in ops {
                    fixture.apply(op).await;
                    fixture.compare().await;
                }
            });
            Ok(())
        })
        .unwrap();
}

impl<B: Backend> Fixture<B> {
    async fn apply(&mut self, op: Op) {
        match op {
            Op::Create { key, hold_s, app, notify, labelled } => {
                self.create(key, hold_s, app, notify, labelled).await;
            }
            Op::Claim { worker, fits, labelled } => self.claim(format!("w{worker}"), fits, labelled).await,
            Op::ClaimQueued { worker, fits, labelled, limit } => {
                self.claim_queued(format!("w{worker}"), fits, labelled, limit.into()).await;
            }
            Op::RegisterWorker { worker } => self.register_worker(format!("w{worker}")).await,
            Op::Report { ticket, event } => self.report(&ticket, event).await,
            Op::Renew { ticket } => self.renew(&ticket).await,
            Op::AckCommands { ticket } => {
                self.renew(&ticket).await;
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let result = self.backend.fleet().ack_commands(&ticket, u64::MAX).await;
                    assert_eq!(result.is_ok(), cast.map(|cast| cast.commands = 0).is_some());
                }
            }
            Op::Release { ticket } => {
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let result = self.backend.fleet().release(&ticket).await;
                    let free = |cast: &mut CastModel| (cast.owner, cast.lease_until) = (None, Duration::ZERO);
                    assert_eq!(result.is_ok(), cast.map(free).is_some());
                }
            }
            Op::Close { ticket } => {
                let now = self.backend.now();
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let result = self.backend.fleet().close(&ticket, None, None).await;
                    assert_eq!(result.is_ok(), cast.is_some());
                    if let Some(cast) = cast {
                        if cast.state != CastState::Ended {
                            cast.end(EndReason::OutputFailed, now);
                        }
                        cast.mark_closed();
                    }
                }
            }
            Op::SendCommand { cast, stop } => self.send_command(&cast, stop).await,
            Op::Settle { outcome } => self.settle(outcome).await,
            Op::Redeliver { cast, seq } => self.redeliver(&cast, seq).await,
            Op::Advance { s } => self.advance(Duration::from_secs(s.into())),
            Op::AdvanceRetention => self.advance(B::RETENTION),
            Op::SetClock { by_h } => {
                let by_ms = 3_600_000 * i64::from(by_h);
                self.set_ms += by_ms;
                self.backend.set_clock(by_ms);
            }
            Op::Sweep => self.sweep().await,
            Op::Restart => {
                self.observe_clock();
                self.backend.restart().await;
            }
        }
    }

    async fn register_worker(&mut self, worker: String) {
        let id = WorkerId(worker.clone());
        self.backend.fleet().register_worker(&id, &NodeInfo::default()).await.unwrap();
        for cast in self.casts.iter_mut().filter(|cast| cast.owner.as_ref() == Some(&worker)) {
            (cast.owner, cast.lease_until) = (None, Duration::ZERO);
        }
    }

    fn advance(&mut self, time: Duration) {
        self.elapsed += time;
        self.backend.advance(time);
    }

    /// Models the fleet's check of the clock.
    fn observe_clock(&mut self) {
        if std::mem::replace(&mut self.seen_ms, self.set_ms) != self.set_ms {
            self.trusted_from = self.elapsed + Duration::from_secs(3600);
        }
    }

    fn lease_end(&self) -> Duration {
        self.elapsed + B::LEASE
    }

    async fn create(&mut self, key: Option<u8>, hold_s: Option<u8>, app: u8, notify: bool, labelled: bool) {
        let now = self.backend.now();
        let mut new = new_cast(now);
        new.spec.placement.labels.extend(labelled.then(|| LABEL.to_owned()));
        let new = NewCast {
            key: key.map(|key| CastKey(format!("key {key}"))),
            key_retention: hold_s
                .map_or(KeyRetention::UntilEnded, |s| KeyRetention::Until(now + 1000 * i64::from(s))),
            app: format!("app {app}"),
            notify,
            queue_timeout: B::QUEUE_TIMEOUT,
            quota: QUOTA as u32,
            queue_limit: QUEUE_LIMIT as u32,
            ..new
        };
        let created = self.backend.fleet().create(new.clone()).await.unwrap();
        for cast in self.casts.iter_mut().filter(|cast| cast.new.key == new.key) {
            cast.release_expired_key(now);
        }
        let holder = self.casts.iter().find(|cast| cast.new.key == new.key && cast.holds_key);
        let own = || self.casts.iter().filter(|cast| cast.new.app == new.app);
        let running = own().filter(|cast| cast.state != CastState::Ended).count();
        let lately = own().filter(|cast| cast.counts_towards_quota(self.elapsed)).count();
        let too_many = running >= QUOTA || running + lately >= 2 * QUOTA;
        let queued = self.casts.iter().filter(|cast| cast.state == CastState::Queued).count();
        match (created, holder.filter(|_| new.key.is_some())) {
            (CreateOutcome::Exists(cast), Some(holder)) => assert_eq!(cast.id, holder.new.id),
            (CreateOutcome::QuotaExceeded, None) => assert!(too_many),
            (CreateOutcome::QueueFull, None) => assert!(queued >= QUEUE_LIMIT),
            (CreateOutcome::New(cast), None) => {
                assert!(cast.id == new.id && !too_many && queued < QUEUE_LIMIT);
                let mut cast = CastModel {
                    holds_key: new.key.is_some(),
                    new,
                    state: CastState::Queued,
                    reason: None,
                    ended_ms: None,
                    queued_at: self.elapsed,
                    started: false,
                    closed: false,
                    stop_requested: false,
                    owner: None,
                    epoch: 0,
                    lease_until: Duration::ZERO,
                    commands: 0,
                    events: 0,
                    outbox: Vec::new(),
                };
                cast.append_event();
                self.casts.push(cast);
            }
            (created, holder) => panic!("{created:?} though {holder:?}"),
        }
    }

    /// Renews a lease and compares the pending commands.
    async fn renew(&mut self, ticket: &Index) {
        // Sooner, a lease may stay as it is.
        self.advance(B::LEASE / 3 + TIME_STEP);
        let until = self.lease_end();
        let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, ticket) else { return };
        let commands = renew::<B>(&*self.backend.fleet(), &ticket).await.ok();
        let pending = commands.map(|commands| commands.len());
        assert_eq!(pending, cast.as_ref().map(|cast| cast.commands));
        cast.into_iter().for_each(|cast| cast.lease_until = until);
    }

    /// The queued cast that is claimed next by a worker that any cast fits, or only those of application
    /// `fits`. Its node has a label, or none.
    fn next_queued(&self, fits: Option<u8>, labelled: bool) -> Option<&CastModel> {
        let passed = self.elapsed;
        let is_placed = |cast: &CastModel| labelled || cast.new.spec.placement.labels.is_empty();
        let is_offered = |cast: &CastModel| cast.is_waiting(passed) && is_placed(cast);
        let share = |app: &str| {
            let runs = |cast: &&CastModel| {
                matches!(cast.state, CastState::Starting | CastState::Live) && cast.new.app == app
            };
            self.casts.iter().filter(runs).count()
        };
        let first = |app: &str| self.casts.iter().position(|cast| is_offered(cast) && cast.new.app == app);
        let good = |cast: &&CastModel| is_offered(cast) && fits_app(fits, &cast.new.app);
        self.casts.iter().filter(good).min_by_key(|cast| (share(&cast.new.app), first(&cast.new.app)))
    }

    /// Claims a cast.
    async fn claim(&mut self, worker: String, fits: Option<u8>, labelled: bool) {
        let passed = self.elapsed;
        let good = |cast: &QueuedCast| fits_app(fits, &cast.app);
        let node = node(labelled);
        let id = WorkerId(worker.clone());
        let claim = self.backend.fleet().claim(&id, &node, B::LEASE, &good).await.unwrap();
        let placed = |cast: &CastModel| labelled || cast.new.spec.placement.labels.is_empty();
        // Not the worker's own, however late.
        let open =
            |cast: &CastModel| cast.is_free(passed) && cast.owner.as_ref() != Some(&worker) && placed(cast);
        let free = self.casts.iter().any(open);
        let head = self.next_queued(fits, labelled).map(|cast| cast.new.id.clone());
        let Some(claim) = claim else {
            assert!(!free && head.is_none(), "a cast could be claimed");
            return;
        };
        if free {
            let cast = self.casts.iter().find(|cast| cast.new.id == claim.cast.id).unwrap();
            assert!(open(cast), "started casts go first, where their labels are");
        } else {
            assert_eq!(Some(&claim.cast.id), head.as_ref());
        }
        self.start(claim.ticket);
    }

    /// Claims queued casts.
    async fn claim_queued(&mut self, worker: String, fits: Option<u8>, labelled: bool, limit: usize) {
        let good = |_: &[QueuedCast], cast: &QueuedCast| fits_app(fits, &cast.app);
        let (id, node) = (WorkerId(worker), node(labelled));
        let claims = self.backend.fleet().claim_queued(&id, &node, B::LEASE, limit, &good).await.unwrap();
        assert!(claims.len() <= limit);
        let is_limited = claims.len() == limit;
        for claim in claims {
            let head = self.next_queued(fits, labelled).map(|cast| &cast.new.id);
            assert_eq!(Some(&claim.cast.id), head, "as if claimed one by one");
            self.start(claim.ticket);
        }
        assert!(is_limited || self.next_queued(fits, labelled).is_none(), "a cast could be claimed");
    }

    /// Models a claim.
    fn start(&mut self, ticket: Ticket) {
        let until = self.lease_end();
        let cast = self.casts.iter_mut().find(|cast| cast.new.id == ticket.cast).unwrap();
        let is_lost = cast.owner.is_some();
        (cast.owner, cast.epoch) = (Some(ticket.worker.0.clone()), cast.epoch + 1);
        (cast.lease_until, cast.started) = (until, true);
        match cast.state {
            CastState::Queued => {
                cast.state = CastState::Starting;
                cast.append_event();
            }
            CastState::Starting | CastState::Live => {
                (0..=usize::from(is_lost)).for_each(|_| cast.append_event());
            }
            CastState::Ended => {}
        }
        self.tickets.push(ticket);
    }

    async fn report(&mut self, ticket: &Index, event: ReportedEvent) {
        let now = self.backend.now();
        let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, ticket) else { return };
        let kind = match event {
            ReportedEvent::Live => EventKind::Live,
            ReportedEvent::Ended => {
                EventKind::Ended { reason: EndReason::MaxTime, message: None, cause: None }
            }
            ReportedEvent::Restarted => EventKind::Restarted,
        };
        let result = self.backend.fleet().report_event(&ticket, kind).await;
        assert_eq!(result.is_ok(), cast.is_some());
        let Some(cast) = cast else { return };
        match (event, cast.state) {
            (ReportedEvent::Live, CastState::Live) | (ReportedEvent::Ended, CastState::Ended) => {}
            (ReportedEvent::Ended, _) => cast.end(EndReason::MaxTime, now),
            (ReportedEvent::Live, CastState::Starting) => {
                cast.state = CastState::Live;
                cast.append_event();
            }
            (ReportedEvent::Live | ReportedEvent::Restarted, _) => cast.append_event(),
        }
    }

    async fn send_command(&mut self, cast: &Index, stop: bool) {
        let now = self.backend.now();
        if self.casts.is_empty() {
            return;
        }
        let n = cast.index(self.casts.len());
        let cast = &mut self.casts[n];
        let command = if stop { Command::Stop } else { Command::Snapshot };
        let result = self.backend.fleet().send_command(&cast.new.id, command).await;
        if cast.state == CastState::Ended {
            assert!(matches!(result, Err(Error::CastEnded(_))));
        } else if !stop && cast.commands >= MAX_COMMANDS {
            assert!(matches!(result, Err(Error::TooManyCommands(_))));
        } else {
            result.unwrap();
            cast.commands += usize::from(!stop || !cast.stop_requested);
            cast.stop_requested |= stop;
            if stop && cast.state == CastState::Queued {
                cast.end(EndReason::Stopped, now);
                cast.mark_closed();
            }
        }
    }

    async fn settle(&mut self, outcome: Outcome) {
        let passed = self.elapsed;
        let Some(entry) = due_entries(&*self.backend.fleet(), 1).await.pop() else { return };
        let cast = self.casts.iter_mut().find(|cast| cast.new.id == entry.cast.id).unwrap();
        let pause = |s: u8| Duration::from_secs(s.into());
        let delivery_outcome = match outcome {
            Outcome::Delivered => DeliveryOutcome::Delivered,
            Outcome::GivenUp => DeliveryOutcome::GivenUp,
            Outcome::RetryAfter { s } => DeliveryOutcome::RetryAfter(pause(s)),
        };
        self.backend.fleet().settle(&entry.cast.id, entry.event.seq, delivery_outcome, None).await.unwrap();
        let head = cast.head().unwrap();
        assert_eq!(head.0, entry.event.seq);
        match outcome {
            Outcome::Delivered => cast.outbox.retain(|(seq, ..)| *seq != entry.event.seq),
            Outcome::GivenUp => head.3 = true,
            Outcome::RetryAfter { s } => (head.1, head.2) = (head.1 + 1, passed + pause(s)),
        }
    }

    async fn redeliver(&mut self, cast: &Index, seq: Option<u8>) {
        if self.casts.is_empty() {
            return;
        }
        let n = cast.index(self.casts.len());
        let cast = &mut self.casts[n];
        let seq = seq.map(u64::from);
        let result = self.backend.fleet().redeliver(&cast.new.id, seq).await.unwrap();
        let requeued: Vec<u64> = match seq {
            Some(seq) => (1..=cast.events).filter(|n| *n == seq && cast.new.notify).collect(),
            None => cast.outbox.iter().filter(|entry| entry.3).map(|entry| entry.0).collect(),
        };
        assert_eq!(result.requeued, requeued.len() as u64);
        cast.outbox.retain(|entry| !requeued.contains(&entry.0));
        cast.outbox.extend(requeued.iter().map(|seq| (*seq, 0, Duration::ZERO, false)));
        let passed = self.elapsed;
        if let Some(head) = cast.head().filter(|_| seq.is_none()) {
            head.2 = head.2.min(passed);
        }
        let next = cast.head().map(|head| head.2.saturating_sub(passed));
        assert_eq!(
            (result.pending, result.next_due_in),
            (cast.outbox.iter().filter(|entry| !entry.3).count() as u64, next)
        );
    }

    async fn sweep(&mut self) {
        let now = self.backend.now();
        self.backend.fleet().sweep().await.unwrap();
        self.observe_clock();
        let passed = self.elapsed;
        let overdue = |cast: &&mut CastModel| cast.state == CastState::Queued && !cast.is_waiting(passed);
        for cast in self.casts.iter_mut().filter(overdue) {
            cast.end(EndReason::StartFailed, now);
            cast.mark_closed();
        }
        if passed < self.trusted_from {
            return;
        }
        let oldest = now - millis(B::RETENTION);
        self.casts.retain(|cast| {
            let pending = cast.outbox.iter().any(|entry| !entry.3);
            let held = cast.holds_key && !cast.key_expired(now);
            !cast.closed || pending || held || cast.ended_ms >= Some(oldest)
        });
    }

    async fn compare(&mut self) {
        let (fleet, passed) = (self.backend.fleet(), self.elapsed);
        let mut expected = Vec::new();
        for cast in &mut self.casts {
            let found = get_cast(&*fleet, &cast.new.id).await;
            assert_eq!((found.state, found.epoch, found.closed), (cast.state, cast.epoch, cast.closed));
            assert_eq!(found.worker.map(|worker| worker.0), cast.owner);
            assert_eq!((found.end.map(|end| end.reason), found.ended_ms), (cast.reason, cast.ended_ms));
            assert_eq!(found.stop_requested, cast.stop_requested);
            assert_eq!(events(&*fleet, &cast.new.id).await.len() as u64, cast.events);
            let id = cast.new.id.clone();
            expected.extend(cast.head().filter(|head| head.2 <= passed).map(|head| (id, head.0, head.1)));
        }
        let due = due_entries(&*fleet, 1000).await.into_iter();
        let mut due: Vec<_> = due.map(|entry| (entry.cast.id, entry.event.seq, entry.attempts)).collect();
        due.sort();
        expected.sort();
        assert_eq!(due, expected);
        let pending = self.casts.iter().flat_map(|cast| &cast.outbox).filter(|entry| !entry.3).count();
        assert_eq!(fleet.backlog().await.unwrap().pending, pending as u64);
        for state in fleet.count(None).await.unwrap() {
            let count = self.casts.iter().filter(|cast| cast.state == state.0).count();
            assert_eq!(state.1, count as u64);
        }
        for key in (0..3).map(|key| CastKey(format!("key {key}"))) {
            let found = fleet.find_by_key(&key).await.unwrap().map(|cast| cast.id);
            let mut latest = self.casts.iter().filter(|cast| cast.new.key.as_ref() == Some(&key));
            assert_eq!(found.as_ref(), latest.next_back().map(|cast| &cast.new.id));
        }
    }
}

/// Whether a worker that any cast fits, or only those of application `fits`, takes casts of `app`.
fn fits_app(fits: Option<u8>, app: &str) -> bool {
    fits.is_none_or(|fits| format!("app {fits}") == app)
}

/// A node that has a label, or none.
fn node(labelled: bool) -> NodeInfo {
    let labels = labelled.then(|| LABEL.to_owned()).into_iter().collect();
    NodeInfo { labels, ..NodeInfo::default() }
}

/// A ticket, and its cast if the ticket is valid.
fn owned<'a>(
    tickets: &[Ticket],
    casts: &'a mut [CastModel],
    index: &Index,
) -> Option<(Ticket, Option<&'a mut CastModel>)> {
    if tickets.is_empty() {
        return None;
    }
    let ticket = index.get(tickets);
    let is_valid = |cast: &&mut CastModel| {
        (&cast.new.id, cast.epoch, cast.owner.as_ref())
            == (&ticket.cast, ticket.epoch, Some(&ticket.worker.0))
    };
    Some((ticket.clone(), casts.iter_mut().find(is_valid)))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap()
}
