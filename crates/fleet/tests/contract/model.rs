//! Random operations, against a model that is simple enough to be right.

use std::time::Duration;

use pagecast_core::cast::EndReason;
use pagecast_fleet::*;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

use super::make::*;

const QUOTA: usize = 4;
const QUEUE_LIMIT: usize = 5;

#[derive(Debug, Clone)]
enum Op {
    Create { key: Option<u8>, hold_s: Option<u8>, app: u8, notify: bool },
    Claim { worker: u8, fits: Option<u8> },
    Adopt { worker: u8 },
    Report { ticket: Index, what: What },
    Renew { ticket: Index },
    Obeyed { ticket: Index },
    Release { ticket: Index },
    Close { ticket: Index },
    Order { cast: Index, stop: bool },
    Settle { what: Told },
    Redeliver { cast: Index, seq: Option<u8> },
    Pass { s: u8 },
    Age,
    SetClock { by_h: i8 },
    Sweep,
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Live,
    Ended,
    Restarted,
}

#[derive(Debug, Clone, Copy)]
enum Told {
    Done,
    GivenUp,
    Again { s: u8 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    use proptest::option::of;
    let what = prop_oneof![Just(What::Live), Just(What::Ended), Just(What::Restarted)];
    let told = prop_oneof![3 => Just(Told::Done), 1 => Just(Told::GivenUp), 2 => (0..40_u8).prop_map(|s| Told::Again { s })];
    let op = prop_oneof![
        8 => (of(0..3_u8), of(0..100_u8), 0..2_u8, prop::bool::weighted(0.8))
            .prop_map(|(key, hold_s, app, notify)| Op::Create { key, hold_s, app, notify }),
        8 => (0..3_u8, of(0..3_u8)).prop_map(|(worker, fits)| Op::Claim { worker, fits }),
        1 => (0..3_u8).prop_map(|worker| Op::Adopt { worker }),
        8 => (any::<Index>(), what).prop_map(|(ticket, what)| Op::Report { ticket, what }),
        2 => any::<Index>().prop_map(|ticket| Op::Renew { ticket }),
        2 => any::<Index>().prop_map(|ticket| Op::Obeyed { ticket }),
        2 => any::<Index>().prop_map(|ticket| Op::Release { ticket }),
        3 => any::<Index>().prop_map(|ticket| Op::Close { ticket }),
        4 => (any::<Index>(), any::<bool>()).prop_map(|(cast, stop)| Op::Order { cast, stop }),
        8 => told.prop_map(|what| Op::Settle { what }),
        2 => (any::<Index>(), of(0..6_u8)).prop_map(|(cast, seq)| Op::Redeliver { cast, seq }),
        3 => (1..40_u8).prop_map(|s| Op::Pass { s }),
        1 => Just(Op::Age),
        1 => (-100..100_i8).prop_map(|by_h| Op::SetClock { by_h }),
        3 => Just(Op::Sweep),
        1 => Just(Op::Restart),
    ];
    prop::collection::vec(op, 1..80)
}

/// What a cast must be like.
#[derive(Debug)]
struct Model {
    new: NewCast,
    state: State,
    reason: Option<EndReason>,
    ended_ms: Option<UnixMs>,
    /// When it was asked for, and whether anybody began it.
    queued_at: Duration,
    begun: bool,
    closed: bool,
    stop_asked: bool,
    owner: Option<String>,
    epoch: u64,
    /// In the time that passed, as all that is waited for; whatever the clock was set to.
    lease_until: Duration,
    commands: usize,
    events: u64,
    /// Events that are not done: number, tries, when, and whether it was given up.
    outbox: Vec<(u64, u32, Duration, bool)>,
}

impl Model {
    fn happen(&mut self) {
        self.events += 1;
        if self.new.notify {
            self.outbox.push((self.events, 0, Duration::ZERO, false));
        }
    }

    fn end(&mut self, reason: EndReason, now: UnixMs) {
        (self.state, self.reason, self.ended_ms, self.commands) = (State::Ended, Some(reason), Some(now), 0);
        self.happen();
    }

    fn shut(&mut self) {
        (self.closed, self.owner) = (true, None);
    }

    fn holds_key(&self, now: UnixMs) -> bool {
        self.state != State::Ended || matches!(self.new.hold, Hold::Until(until) if until > now)
    }

    fn is_free(&self, passed: Duration) -> bool {
        self.state != State::Queued && !self.closed && self.lease_until <= passed
    }

    fn is_waiting(&self, passed: Duration) -> bool {
        self.state == State::Queued && self.queued_at + self.new.queue > passed
    }

    /// Whether it takes a place though it is over.
    fn is_of_lately(&self, passed: Duration) -> bool {
        self.state == State::Ended && !self.begun && self.queued_at + Duration::from_secs(60) > passed
    }

    /// The first event that waits; those behind it are due as soon as they are the first.
    fn head(&mut self) -> Option<&mut (u64, u32, Duration, bool)> {
        self.outbox.sort_unstable();
        let mut waiting = self.outbox.iter_mut().filter(|entry| !entry.3);
        let head = waiting.next();
        waiting.for_each(|entry| entry.2 = Duration::ZERO);
        head
    }
}

struct World<B> {
    backend: B,
    casts: Vec<Model>,
    tickets: Vec<Ticket>,
    /// What passed since the beginning.
    passed: Duration,
    /// How far the clock was set, all in all, and how far it was when the fleet last looked.
    set_ms: i64,
    seen_ms: i64,
    /// Nothing is forgotten before.
    sure_from: Duration,
}

pub(crate) fn random_operations<B: Backend>() {
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&ops(), |ops| {
            let mut world = World {
                backend: B::make(),
                casts: Vec::new(),
                tickets: Vec::new(),
                passed: Duration::ZERO,
                set_ms: 0,
                seen_ms: 0,
                sure_from: Duration::ZERO,
            };
            block_on(async {
                for op in ops {
                    world.step(op).await;
                    world.compare().await;
                }
            });
            Ok(())
        })
        .unwrap();
}

impl<B: Backend> World<B> {
    async fn step(&mut self, op: Op) {
        match op {
            Op::Create { key, hold_s, app, notify } => self.create(key, hold_s, app, notify).await,
            Op::Claim { worker, fits } => self.claim(format!("w{worker}"), fits).await,
            Op::Adopt { worker } => {
                let worker = format!("w{worker}");
                self.backend.fleet().adopt(&WorkerId(worker.clone())).await.unwrap();
                for cast in self.casts.iter_mut().filter(|cast| cast.owner.as_ref() == Some(&worker)) {
                    (cast.owner, cast.lease_until) = (None, Duration::ZERO);
                }
            }
            Op::Report { ticket, what } => self.report(&ticket, what).await,
            Op::Renew { ticket } => {
                let until = self.lease_end();
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let result = self.backend.fleet().renew(&ticket, B::LEASE).await;
                    assert_eq!(result.is_ok(), cast.map(|cast| cast.lease_until = until).is_some());
                }
            }
            Op::Obeyed { ticket } => {
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let told = self.backend.fleet().commands(&ticket).await.ok().map(|told| told.len());
                    assert_eq!(told, cast.as_ref().map(|cast| cast.commands));
                    let result = self.backend.fleet().obeyed(&ticket, u64::MAX).await;
                    assert_eq!(result.is_ok(), cast.map(|cast| cast.commands = 0).is_some());
                }
            }
            Op::Release { ticket } => {
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let result = self.backend.fleet().release(&ticket).await;
                    let free = |cast: &mut Model| (cast.owner, cast.lease_until) = (None, Duration::ZERO);
                    assert_eq!(result.is_ok(), cast.map(free).is_some());
                }
            }
            Op::Close { ticket } => {
                let now = self.backend.now();
                if let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, &ticket) {
                    let result = self.backend.fleet().close(&ticket, None, None).await;
                    assert_eq!(result.is_ok(), cast.is_some());
                    if let Some(cast) = cast {
                        if cast.state != State::Ended {
                            cast.end(EndReason::OutputFailed, now);
                        }
                        cast.shut();
                    }
                }
            }
            Op::Order { cast, stop } => self.order(&cast, stop).await,
            Op::Settle { what } => self.settle(what).await,
            Op::Redeliver { cast, seq } => self.redeliver(&cast, seq).await,
            Op::Pass { s } => self.pass(Duration::from_secs(s.into())),
            Op::Age => self.pass(B::HISTORY),
            Op::SetClock { by_h } => {
                let by_ms = 3_600_000 * i64::from(by_h);
                self.set_ms += by_ms;
                self.backend.set_clock(by_ms);
            }
            Op::Sweep => self.sweep().await,
            Op::Restart => {
                self.look();
                self.backend.restart();
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.backend.pass(time);
    }

    /// The fleet looks at the clock.
    fn look(&mut self) {
        if std::mem::replace(&mut self.seen_ms, self.set_ms) != self.set_ms {
            self.sure_from = self.passed + Duration::from_secs(3600);
        }
    }

    fn lease_end(&self) -> Duration {
        self.passed + B::LEASE
    }

    async fn create(&mut self, key: Option<u8>, hold_s: Option<u8>, app: u8, notify: bool) {
        let now = self.backend.now();
        let new = NewCast {
            key: key.map(|key| Key(format!("key {key}"))),
            hold: hold_s.map_or(Hold::WhileLive, |s| Hold::Until(now + 1000 * i64::from(s))),
            app: format!("app {app}"),
            notify,
            queue: B::QUEUE,
            quota: QUOTA as u32,
            queue_limit: QUEUE_LIMIT as u32,
            ..wish(now)
        };
        let created = self.backend.fleet().create(new.clone()).await.unwrap();
        let holder = self.casts.iter().find(|cast| cast.new.key == new.key && cast.holds_key(now));
        let own = || self.casts.iter().filter(|cast| cast.new.app == new.app);
        let running = own().filter(|cast| cast.state != State::Ended).count();
        let lately = own().filter(|cast| cast.is_of_lately(self.passed)).count();
        let too_many = running >= QUOTA || running + lately >= 2 * QUOTA;
        let queued = self.casts.iter().filter(|cast| cast.state == State::Queued).count();
        match (created, holder.filter(|_| new.key.is_some())) {
            (Created::Exists(cast), Some(holder)) => assert_eq!(cast.id, holder.new.id),
            (Created::TooMany, None) => assert!(too_many),
            (Created::Full, None) => assert!(queued >= QUEUE_LIMIT),
            (Created::New(cast), None) => {
                assert!(cast.id == new.id && !too_many && queued < QUEUE_LIMIT);
                let mut cast = Model {
                    new,
                    state: State::Queued,
                    reason: None,
                    ended_ms: None,
                    queued_at: self.passed,
                    begun: false,
                    closed: false,
                    stop_asked: false,
                    owner: None,
                    epoch: 0,
                    lease_until: Duration::ZERO,
                    commands: 0,
                    events: 0,
                    outbox: Vec::new(),
                };
                cast.happen();
                self.casts.push(cast);
            }
            (created, holder) => panic!("{created:?} though {holder:?}"),
        }
    }

    /// The worker has room for casts of one application, or of none, or of any.
    async fn claim(&mut self, worker: String, fits: Option<u8>) {
        let (passed, until) = (self.passed, self.lease_end());
        let id = WorkerId(worker.clone());
        let app = fits.map(|app| format!("app {app}"));
        let good = |of: &str| app.as_ref().is_none_or(|app| app == of);
        let claim = self.backend.fleet().claim(&id, B::LEASE, &|cast| good(&cast.app)).await.unwrap();
        // Never one's own, however late.
        let open = |cast: &Model| cast.is_free(passed) && cast.owner.as_ref() != Some(&worker);
        let free = self.casts.iter().any(open);
        let share = |app: &str| {
            let runs =
                |cast: &&Model| matches!(cast.state, State::Starting | State::Live) && cast.new.app == app;
            self.casts.iter().filter(runs).count()
        };
        let first = |app: &str| {
            let of = |cast: &Model| cast.state == State::Queued && cast.new.app == app;
            self.casts.iter().position(of)
        };
        let waiting = |cast: &&Model| cast.is_waiting(passed) && good(&cast.new.app);
        let head =
            self.casts.iter().filter(waiting).min_by_key(|cast| (share(&cast.new.app), first(&cast.new.app)));
        let head = head.map(|cast| cast.new.id.clone());
        let Some(claim) = claim else {
            assert!(!free && head.is_none(), "something could be taken");
            return;
        };
        let cast = self.casts.iter_mut().find(|cast| cast.new.id == claim.cast.id).unwrap();
        if free {
            assert!(
                cast.is_free(passed) && cast.owner.as_ref() != Some(&worker),
                "what was begun goes first"
            );
        } else {
            assert_eq!(Some(&cast.new.id), head.as_ref());
        }
        (cast.owner, cast.epoch, cast.lease_until) = (Some(worker), cast.epoch + 1, until);
        cast.begun = true;
        match cast.state {
            State::Queued => {
                cast.state = State::Starting;
                cast.happen();
            }
            State::Starting | State::Live => cast.happen(),
            State::Ended => {}
        }
        self.tickets.push(claim.ticket);
    }

    async fn report(&mut self, ticket: &Index, what: What) {
        let now = self.backend.now();
        let Some((ticket, cast)) = owned(&self.tickets, &mut self.casts, ticket) else { return };
        let happening = match what {
            What::Live => Happening::Live,
            What::Ended => Happening::Ended { reason: EndReason::MaxTime, message: None, cause: None },
            What::Restarted => Happening::Restarted,
        };
        let result = self.backend.fleet().report(&ticket, happening).await;
        assert_eq!(result.is_ok(), cast.is_some());
        let Some(cast) = cast else { return };
        match (what, cast.state) {
            (What::Live, State::Live) | (What::Ended, State::Ended) => {}
            (What::Ended, _) => cast.end(EndReason::MaxTime, now),
            (What::Live, State::Starting) => {
                cast.state = State::Live;
                cast.happen();
            }
            (What::Live | What::Restarted, _) => cast.happen(),
        }
    }

    async fn order(&mut self, cast: &Index, stop: bool) {
        let now = self.backend.now();
        if self.casts.is_empty() {
            return;
        }
        let n = cast.index(self.casts.len());
        let cast = &mut self.casts[n];
        let command = if stop { Command::Stop } else { Command::Snapshot };
        let result = self.backend.fleet().order(&cast.new.id, command).await;
        if cast.state == State::Ended {
            assert!(matches!(result, Err(Error::Over(_))));
        } else if !stop && cast.commands >= MAX_COMMANDS {
            assert!(matches!(result, Err(Error::Busy(_))));
        } else {
            result.unwrap();
            cast.commands += usize::from(!stop || !cast.stop_asked);
            cast.stop_asked |= stop;
            if stop && cast.state == State::Queued {
                cast.end(EndReason::Stopped, now);
                cast.shut();
            }
        }
    }

    async fn settle(&mut self, what: Told) {
        let passed = self.passed;
        let Some(notice) = due(&*self.backend.fleet(), 1).await.pop() else { return };
        let cast = self.casts.iter_mut().find(|cast| cast.new.id == notice.cast.id).unwrap();
        let pause = |s: u8| Duration::from_secs(s.into());
        let settled = match what {
            Told::Done => Settled::Done,
            Told::GivenUp => Settled::GivenUp,
            Told::Again { s } => Settled::Again(pause(s)),
        };
        self.backend.fleet().settle(&notice.cast.id, notice.event.seq, settled, None).await.unwrap();
        let head = cast.head().unwrap();
        assert_eq!(head.0, notice.event.seq);
        match what {
            Told::Done => cast.outbox.retain(|entry| entry.0 != notice.event.seq),
            Told::GivenUp => head.3 = true,
            Told::Again { s } => (head.1, head.2) = (head.1 + 1, passed + pause(s)),
        }
    }

    async fn redeliver(&mut self, cast: &Index, seq: Option<u8>) {
        if self.casts.is_empty() {
            return;
        }
        let n = cast.index(self.casts.len());
        let cast = &mut self.casts[n];
        let seq = seq.map(u64::from);
        let told = self.backend.fleet().redeliver(&cast.new.id, seq).await.unwrap();
        let again: Vec<u64> = match seq {
            Some(seq) => (1..=cast.events).filter(|n| *n == seq && cast.new.notify).collect(),
            None => cast.outbox.iter().filter(|entry| entry.3).map(|entry| entry.0).collect(),
        };
        assert_eq!(told.again, again.len() as u64);
        cast.outbox.retain(|entry| !again.contains(&entry.0));
        cast.outbox.extend(again.iter().map(|seq| (*seq, 0, Duration::ZERO, false)));
        let passed = self.passed;
        if let Some(head) = cast.head().filter(|_| seq.is_none()) {
            head.2 = head.2.min(passed);
        }
        let next = cast.head().map(|head| head.2.saturating_sub(passed));
        assert_eq!(
            (told.waiting, told.next),
            (cast.outbox.iter().filter(|entry| !entry.3).count() as u64, next)
        );
    }

    async fn sweep(&mut self) {
        let now = self.backend.now();
        self.backend.fleet().sweep().await.unwrap();
        self.look();
        let passed = self.passed;
        let late = |cast: &&mut Model| cast.state == State::Queued && !cast.is_waiting(passed);
        for cast in self.casts.iter_mut().filter(late) {
            cast.end(EndReason::StartFailed, now);
            cast.shut();
        }
        if passed < self.sure_from {
            return;
        }
        let oldest = now - millis(B::HISTORY);
        self.casts.retain(|cast| {
            let waiting = cast.outbox.iter().any(|entry| !entry.3);
            let held = cast.new.key.is_some() && cast.holds_key(now);
            !cast.closed || waiting || held || cast.ended_ms >= Some(oldest)
        });
    }

    async fn compare(&mut self) {
        let (fleet, passed) = (self.backend.fleet(), self.passed);
        let mut expected = Vec::new();
        for cast in &mut self.casts {
            let found = get(&*fleet, &cast.new.id).await;
            assert_eq!((found.state, found.epoch, found.closed), (cast.state, cast.epoch, cast.closed));
            assert_eq!(found.worker.map(|worker| worker.0), cast.owner);
            assert_eq!((found.end.map(|end| end.reason), found.ended_ms), (cast.reason, cast.ended_ms));
            assert_eq!(found.stop_asked, cast.stop_asked);
            assert_eq!(events(&*fleet, &cast.new.id).await.len() as u64, cast.events);
            let id = cast.new.id.clone();
            expected.extend(cast.head().filter(|head| head.2 <= passed).map(|head| (id, head.0, head.1)));
        }
        let told = due(&*fleet, 1000).await.into_iter();
        let mut told: Vec<_> = told.map(|notice| (notice.cast.id, notice.event.seq, notice.tries)).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected);
        let waiting = self.casts.iter().flat_map(|cast| &cast.outbox).filter(|entry| !entry.3).count();
        assert_eq!(fleet.backlog().await.unwrap().waiting, waiting as u64);
        for state in fleet.count(None).await.unwrap() {
            let count = self.casts.iter().filter(|cast| cast.state == state.0).count();
            assert_eq!(state.1, count as u64);
        }
        for key in (0..3).map(|key| Key(format!("key {key}"))) {
            let found = fleet.find(&key).await.unwrap().map(|cast| cast.id);
            let mut latest = self.casts.iter().filter(|cast| cast.new.key.as_ref() == Some(&key));
            assert_eq!(found.as_ref(), latest.next_back().map(|cast| &cast.new.id));
        }
    }
}

/// A ticket, and the cast that it is good for, if it is good.
fn owned<'a>(
    tickets: &[Ticket],
    casts: &'a mut [Model],
    index: &Index,
) -> Option<(Ticket, Option<&'a mut Model>)> {
    if tickets.is_empty() {
        return None;
    }
    let ticket = index.get(tickets);
    let is_good = |cast: &&mut Model| {
        (&cast.new.id, cast.epoch, cast.owner.as_ref())
            == (&ticket.cast, ticket.epoch, Some(&ticket.worker.0))
    };
    Some((ticket.clone(), casts.iter_mut().find(is_good)))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap()
}
