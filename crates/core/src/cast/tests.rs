//! The life of casts by table, and its laws over any inputs.

use proptest::prelude::*;

use super::*;
use crate::spec::{Source, SourceUrl};

const CHECK_S: u64 = 5;

fn spec() -> CastSpec {
    let every = Some(Duration::from_secs(CHECK_S));
    CastSpec {
        readiness: Readiness {
            signal: Signal::Webcast,
            timeout: Duration::from_secs(10),
            ..Readiness::default()
        },
        checks: Checks { freeze: every, blank: every, crash: every },
        limits: Limits { max_time: Duration::from_secs(600), ..Limits::default() },
        ..CastSpec::new(Source::new(SourceUrl::parse("http://a.example").unwrap()))
    }
}

/// A cast, its clock in seconds, and what it wants done.
struct Cast {
    machine: Machine,
    now_s: u64,
}

fn cast(change: impl FnOnce(&mut CastSpec)) -> Cast {
    let mut spec = spec();
    change(&mut spec);
    Cast { machine: Machine::new(&spec), now_s: 100 }
}

fn at(seconds: u64) -> HostTime {
    HostTime(seconds as i64 * 1_000_000_000)
}

impl Cast {
    fn give(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(at(self.now_s), input);
        std::iter::from_fn(|| self.machine.poll()).collect()
    }

    fn wait(&mut self, seconds: u64) -> Vec<Output> {
        self.now_s += seconds;
        self.give(Input::Time)
    }

    /// Takes it to where the page is shown.
    fn live(mut self) -> Self {
        assert_eq!(self.give(Input::Start), [Output::Open]);
        assert_eq!(self.give(Input::Opened), []);
        assert_eq!(self.give(Input::Ready), [Output::GoLive]);
        assert_eq!(self.give(Input::Shown), [Output::Tell(Event::Live)]);
        self
    }

    fn again(&mut self) {
        assert_eq!(self.give(Input::Opened), []);
        assert_eq!(self.give(Input::Ready), [Output::GoLive]);
    }

    /// Waits for the looks and answers those for `check` with a hit, others with none; what follows the hit.
    fn hit(&mut self, check: Check) -> Vec<Output> {
        let looks = self.wait(CHECK_S);
        assert_eq!(looks, Check::ALL.map(Output::Look));
        let mut outputs = Vec::new();
        for each in Check::ALL {
            outputs.extend(self.give(Input::Looked(each, each == check)));
        }
        outputs
    }

    fn ended(&mut self, reason: EndReason) {
        assert_eq!(self.machine.state(), State::Stopping);
        assert_eq!(self.machine.deadline(), None);
        assert_eq!(self.give(Input::Drained), [Output::Tell(Event::Ended(reason))]);
        assert_eq!(self.machine.state(), State::Ended(reason));
        assert_eq!(self.give(Input::Stop), []);
    }
}

use Trouble::{Blank, Crash, Freeze, StartTimeout, Unreachable};

const HELD_RELOAD: [Output; 2] = [Output::Hold, Output::Reload];
const HELD_OPEN: [Output; 2] = [Output::Hold, Output::Open];

fn after(trouble: Trouble, event: fn(Trouble) -> Event, then: &[Output]) -> Vec<Output> {
    let mut all = vec![Output::KeepEvidence(trouble), Output::Tell(event(trouble))];
    all.extend(then);
    all
}

#[test]
fn two_hits_reload_and_two_more_move() {
    for (check, trouble) in [(Check::Freeze, Freeze), (Check::Blank, Blank)] {
        let mut cast = cast(|_| {}).live();
        assert_eq!(cast.hit(check), [Output::KeepEvidence(trouble)]);
        assert_eq!(cast.hit(check), after(trouble, Event::Reloaded, &HELD_RELOAD));
        assert_eq!(cast.machine.state(), State::Starting);
        cast.again();
        assert_eq!(cast.hit(check), [Output::KeepEvidence(trouble)]);
        assert_eq!(cast.hit(check), after(trouble, Event::Moved, &HELD_OPEN));
        cast.again();
        assert_eq!(cast.machine.attempts(), 2);
        assert_eq!(cast.hit(check), [Output::KeepEvidence(trouble)], "a fresh browser starts with no hits");
        assert_eq!(cast.hit(check), after(trouble, Event::Reloaded, &HELD_RELOAD));
    }
}

#[test]
fn a_reload_is_forgotten_after_ten_minutes_without_a_hit_only() {
    let reloaded = || {
        let mut cast = cast(|s| s.limits.max_time = Duration::from_secs(86_400)).live();
        cast.hit(Check::Freeze);
        cast.hit(Check::Freeze);
        cast.again();
        cast
    };
    let clean = |cast: &mut Cast, looks: u64| {
        for _ in 0..looks {
            cast.wait(CHECK_S);
            cast.give(Input::Looked(Check::Freeze, false));
        }
    };
    // With the hit that follows, 119 clean looks make ten minutes.
    for (looks, then) in [
        (0, Event::Moved as fn(_) -> _),
        (1, Event::Moved),
        (4, Event::Moved),
        (118, Event::Moved),
        (119, Event::Reloaded),
    ] {
        let mut cast = reloaded();
        clean(&mut cast, looks);
        cast.hit(Check::Freeze);
        assert!(cast.hit(Check::Freeze).contains(&Output::Tell(then(Freeze))), "after {looks}");
    }
    // A hit by itself leads to nothing, but the ten minutes begin anew. Hits of another kind are none for
    // this one.
    let mut cast = reloaded();
    clean(&mut cast, 100);
    cast.hit(Check::Freeze);
    clean(&mut cast, 100);
    cast.hit(Check::Freeze);
    assert!(cast.hit(Check::Freeze).contains(&Output::Tell(Event::Moved(Freeze))));
}

#[test]
fn a_page_that_freezes_nine_seconds_after_each_load_is_not_reloaded_for_ever() {
    let every = Duration::from_secs(2);
    let mut cast = cast(|s| s.checks = Checks { freeze: Some(every), ..Checks::default() }).live();
    let mut told = Vec::new();
    let mut loaded_s = cast.now_s;
    while !matches!(cast.machine.state(), State::Stopping) {
        assert!(cast.now_s < 300, "the page is loaded again for ever: {told:?}");
        if cast.machine.state() == State::Starting {
            cast.again();
            loaded_s = cast.now_s;
        }
        let looks = cast.wait(2);
        assert_eq!(looks, [Output::Look(Check::Freeze)]);
        let hit = cast.now_s - loaded_s > 9;
        let outputs = cast.give(Input::Looked(Check::Freeze, hit));
        told.extend(outputs.into_iter().filter_map(|output| match output {
            Output::Tell(event) => Some(event),
            _ => None,
        }));
    }
    let both = [Event::Reloaded(Freeze), Event::Moved(Freeze)];
    assert_eq!(told, [&both[..], &both[..], &both[..1]].concat(), "three browsers, reloaded once in each");
    cast.ended(EndReason::GaveUp(Freeze));
}

#[test]
fn hits_count_in_a_row_only() {
    let mut cast = cast(|_| {}).live();
    for _ in 0..10 {
        assert_eq!(cast.hit(Check::Freeze), [Output::KeepEvidence(Freeze)]);
        assert_eq!(cast.hit(Check::Blank), [Output::KeepEvidence(Blank)]);
    }
}

#[test]
fn a_crash_moves_at_once_until_there_are_no_attempts_left() {
    let mut cast = cast(|_| {}).live();
    assert_eq!(cast.give(Input::Crashed), after(Crash, Event::Moved, &HELD_OPEN));
    assert_eq!(cast.give(Input::Crashed), after(Crash, Event::Moved, &[Output::Open]), "while starting, too");
    cast.again();
    assert_eq!(cast.machine.attempts(), 3);
    assert_eq!(cast.wait(CHECK_S), Check::ALL.map(Output::Look));
    assert_eq!(cast.give(Input::Looked(Check::Crash, true)), [Output::KeepEvidence(Crash), Output::Stop]);
    cast.ended(EndReason::GaveUp(Crash));
}

#[test]
fn a_page_that_was_stable_has_all_attempts_again() {
    let mut cast = cast(|s| {
        s.limits.max_time = Duration::from_secs(86_400);
        s.checks = Checks::default();
    })
    .live();
    for _ in 0..20 {
        cast.wait(600);
        assert_eq!(cast.give(Input::Crashed), after(Crash, Event::Moved, &HELD_OPEN));
        cast.again();
    }
    cast.wait(599);
    cast.give(Input::Crashed);
    assert_eq!(cast.give(Input::Crashed), [Output::KeepEvidence(Crash), Output::Stop]);
}

#[test]
fn a_page_that_does_not_call_is_reloaded_then_moved() {
    let mut cast = cast(|_| {});
    cast.give(Input::Start);
    for attempt in 1..=3 {
        assert_eq!(cast.machine.attempts(), attempt);
        cast.give(Input::Opened);
        assert_eq!(cast.wait(9), []);
        assert_eq!(cast.wait(1), after(StartTimeout, Event::Reloaded, &[Output::Reload]));
        assert_eq!(cast.wait(30), [], "loading is not waiting");
        cast.give(Input::Opened);
        let outputs = cast.wait(10);
        if attempt < 3 {
            assert_eq!(outputs, after(StartTimeout, Event::Moved, &[Output::Open]));
        } else {
            assert_eq!(outputs, [Output::KeepEvidence(StartTimeout), Output::Stop]);
        }
    }
    cast.ended(EndReason::GaveUp(StartTimeout));
}

#[test]
fn a_page_that_called_is_in_time_though_it_has_not_drawn_yet() {
    let mut cast = cast(|_| {});
    cast.give(Input::Start);
    cast.give(Input::Opened);
    assert_eq!(cast.wait(9), []);
    assert_eq!(cast.give(Input::Called), []);
    assert_eq!(cast.wait(30), []);
    assert_eq!(cast.give(Input::Ready), [Output::GoLive]);
    // A page that is loaded again must call again.
    let mut cast = cast.rest();
    cast.hit(Check::Freeze);
    cast.hit(Check::Freeze);
    cast.give(Input::Opened);
    assert_eq!(cast.wait(10), after(StartTimeout, Event::Reloaded, &[Output::Reload]));
}

#[test]
fn a_page_is_live_when_the_outputs_have_it() {
    let mut cast = cast(|_| {});
    cast.give(Input::Start);
    cast.give(Input::Opened);
    assert_eq!(cast.give(Input::Shown), [], "there is nothing to show yet");
    assert_eq!(cast.give(Input::Ready), [Output::GoLive]);
    assert_eq!(cast.give(Input::OutputFailed), [Output::Stop], "none of them took it");
    cast.ended(EndReason::OutputFailed);
    let mut cast = self::cast(|_| {}).live();
    assert_eq!(cast.give(Input::Shown), [], "once is enough");
}

#[test]
fn notify_ready_fails_at_the_second_timeout() {
    let mut cast = cast(|s| s.readiness.signal = Signal::NotifyReady);
    cast.give(Input::Start);
    cast.give(Input::Opened);
    assert_eq!(cast.wait(10), after(StartTimeout, Event::Reloaded, &[Output::Reload]));
    cast.give(Input::Opened);
    assert_eq!(cast.wait(10), [Output::KeepEvidence(StartTimeout), Output::Stop]);
    cast.ended(EndReason::GaveUp(StartTimeout));
}

#[test]
fn a_page_that_is_reloaded_must_be_ready_again() {
    let mut cast = cast(|_| {}).live();
    cast.hit(Check::Freeze);
    cast.hit(Check::Freeze);
    cast.give(Input::Opened);
    assert_eq!(cast.wait(10), after(StartTimeout, Event::Reloaded, &[Output::Reload]));
    cast.again();
    assert_eq!(cast.wait(CHECK_S), Check::ALL.map(Output::Look));
}

#[test]
fn without_a_timeout_the_page_is_waited_for() {
    let mut cast = cast(|s| s.readiness.timeout = Duration::ZERO);
    cast.give(Input::Start);
    cast.give(Input::Opened);
    assert_eq!(cast.wait(599), [], "checks begin when the page is live");
    assert_eq!(cast.wait(1), [Output::Stop]);
    cast.ended(EndReason::MaxTime);
}

#[test]
fn ends() {
    for (input, reason) in [
        (Input::Stop, EndReason::Stopped),
        (Input::PageEnded, EndReason::PageEnded),
        (Input::LargeVideo, EndReason::LargeVideo),
        (Input::Complete, EndReason::Complete),
        (Input::OutputFailed, EndReason::OutputFailed),
    ] {
        let mut live = cast(|_| {}).live();
        assert_eq!(live.give(input), [Output::Stop]);
        assert_eq!(live.give(Input::Crashed), []);
        live.ended(reason);
    }
    let mut early = cast(|_| {});
    assert_eq!(early.give(Input::Stop), [Output::Tell(Event::Ended(EndReason::Stopped))]);
    let mut waiting = cast(|_| {});
    waiting.give(Input::Start);
    waiting.give(Input::Opened);
    assert_eq!(waiting.give(Input::PageEnded), [Output::Stop], "a page may end before it starts");
    waiting.ended(EndReason::PageEnded);
    let mut drained = cast(|_| {}).live();
    drained.give(Input::Stop);
    drained.give(Input::OutputFailed);
    drained.ended(EndReason::OutputFailed);
}

#[test]
fn the_maximum_running_time_counts_from_the_first_frame() {
    let mut cast = cast(|s| s.checks = Checks::default());
    cast.give(Input::Start);
    cast.wait(9);
    let mut cast = cast.rest();
    cast.wait(1);
    cast.give(Input::Shown);
    assert_eq!(cast.machine.deadline(), Some(at(cast.now_s + 600)));
    assert_eq!(cast.give(Input::Crashed), after(Crash, Event::Moved, &HELD_OPEN));
    cast.again();
    cast.give(Input::Shown);
    assert_eq!(cast.wait(599), []);
    assert_eq!(cast.wait(1), [Output::Stop], "a fresh browser is given no more time");
    cast.ended(EndReason::MaxTime);
    // Of a cast that another process goes on with, what is left counts from the start.
    let mut resumed = self::cast(|s| (s.checks, s.resumed) = (Checks::default(), true));
    resumed.give(Input::Start);
    resumed.wait(9);
    let mut resumed = resumed.rest();
    resumed.give(Input::Shown);
    assert_eq!(resumed.wait(590), []);
    assert_eq!(resumed.wait(1), [Output::Stop]);
}

#[test]
fn until_the_first_frame_as_much_time_may_pass() {
    let mut cast = cast(|s| s.checks = Checks::default());
    cast.wait(1000);
    cast.give(Input::Start);
    assert_eq!(cast.machine.deadline(), Some(at(cast.now_s + 600)));
    let mut cast = cast.rest();
    assert_eq!(cast.wait(599), []);
    assert_eq!(cast.wait(1), [Output::Stop]);
    cast.ended(EndReason::MaxTime);
}

impl Cast {
    fn rest(mut self) -> Self {
        self.give(Input::Opened);
        self.give(Input::Ready);
        self
    }
}

#[test]
fn what_cannot_be_opened_at_first_has_failed_and_later_is_tried_again() {
    let mut never = cast(|_| {});
    never.give(Input::Start);
    assert_eq!(never.give(Input::OpenFailed), [Output::Stop]);
    never.ended(EndReason::StartFailed);

    let mut cast = cast(|_| {}).live();
    cast.give(Input::Crashed);
    assert_eq!(cast.give(Input::OpenFailed), [Output::Tell(Event::Moved(Unreachable))]);
    assert_eq!(cast.give(Input::Crashed), [], "nothing runs that could crash");
    assert_eq!(cast.wait(3), []);
    assert_eq!(cast.wait(1), [Output::Open]);
    assert_eq!(cast.machine.attempts(), 3);
    assert_eq!(cast.give(Input::OpenFailed), [Output::Stop]);
    cast.ended(EndReason::GaveUp(Unreachable));
}

#[test]
fn a_first_load_that_may_yet_succeed_is_tried_again_in_the_same_browser() {
    // The pauses grow, and the last try is made when the time is up.
    for (timeout_s, tries) in
        [(0, &[1, 2, 4, 8, 12, 15][..]), (2, &[1, 2]), (30, &[1, 2, 4, 8, 12, 16, 20, 24, 28, 30])]
    {
        let mut cast = cast(|s| s.readiness.timeout = Duration::from_secs(timeout_s));
        let began_s = cast.now_s;
        assert_eq!(cast.give(Input::Start), [Output::Open]);
        let mut tried = Vec::new();
        while cast.machine.state() == State::Starting {
            let outputs = cast.give(Input::OpenFailedForNow);
            assert_eq!(cast.machine.will_retry(), outputs.is_empty());
            if outputs == [Output::Stop] {
                break;
            }
            assert_eq!(cast.give(Input::OpenFailedForNow), [], "it is not tried at the moment");
            while cast.wait(1) != [Output::Reload] {
                assert!(cast.now_s < began_s + 60);
            }
            tried.push(cast.now_s - began_s);
        }
        assert_eq!(tried, tries, "{timeout_s} s");
        assert_eq!(cast.machine.attempts(), 1, "it is no use to start another browser");
        cast.ended(EndReason::StartFailed);
    }
    // It may come up.
    let mut cast = cast(|_| {});
    cast.give(Input::Start);
    cast.give(Input::OpenFailedForNow);
    assert_eq!(cast.wait(1), [Output::Reload]);
    assert_eq!(cast.give(Input::Opened), []);
    assert_eq!(cast.give(Input::Ready), [Output::GoLive]);
    cast.give(Input::Shown);
    // What fails after it was opened is not shown before it is tried again.
    let mut failed = self::cast(|_| {});
    failed.give(Input::Start);
    failed.give(Input::Opened);
    failed.give(Input::OpenFailedForNow);
    assert_eq!(failed.give(Input::Ready), []);
    assert_eq!(failed.wait(1), [Output::Reload]);
    // Later, a page that cannot be opened is moved as ever.
    cast.give(Input::Crashed);
    assert_eq!(cast.give(Input::OpenFailedForNow), [Output::Tell(Event::Moved(Unreachable))]);
    // And what is given up meanwhile is.
    let mut stopped = self::cast(|_| {});
    stopped.give(Input::Start);
    stopped.give(Input::OpenFailedForNow);
    assert_eq!(stopped.give(Input::Stop), [Output::Stop]);
}

#[test]
fn checks_that_are_off_never_look() {
    let mut cast =
        cast(|s| s.checks = Checks { freeze: Some(Duration::from_secs(2)), ..Checks::default() }).live();
    for _ in 0..10 {
        assert_eq!(cast.wait(2), [Output::Look(Check::Freeze)]);
        cast.give(Input::Looked(Check::Freeze, false));
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let check = || prop_oneof![Just(Check::Freeze), Just(Check::Blank), Just(Check::Crash)];
    prop_oneof![
        3 => Just(Input::Start),
        8 => Just(Input::Opened),
        2 => Just(Input::OpenFailed),
        2 => Just(Input::OpenFailedForNow),
        2 => Just(Input::Called),
        8 => Just(Input::Ready),
        8 => Just(Input::Shown),
        8 => (check(), any::<bool>()).prop_map(|(check, hit)| Input::Looked(check, hit)),
        2 => Just(Input::Crashed),
        1 => Just(Input::PageEnded),
        1 => Just(Input::Stop),
        1 => Just(Input::LargeVideo),
        1 => Just(Input::Complete),
        1 => Just(Input::OutputFailed),
        2 => Just(Input::Drained),
        9 => Just(Input::Time),
    ]
}

/// What a check has seen since the page got its browser, and what has to be done by the rule as it is written
/// down.
#[derive(Default)]
struct Model {
    looks: Vec<(u64, bool)>,
    /// The look that had the page reloaded.
    reloaded: Option<usize>,
    /// Looks before this one are of an earlier load.
    since: usize,
}

impl Model {
    fn look(&mut self, now_s: u64, hit: bool) -> Option<fn(Trouble) -> Event> {
        self.looks.push((now_s, hit));
        let loaded = &self.looks[self.since..];
        if loaded.len() < 2 || !loaded[loaded.len() - 2..].iter().all(|(_, hit)| *hit) {
            return None;
        }
        let last = self.looks.len() - 1;
        // Every pause between two hits since the reload was shorter than ten minutes.
        let remembered = self.reloaded.is_some_and(|reload| {
            let hits: Vec<u64> =
                self.looks[reload..].iter().filter(|(_, hit)| *hit).map(|(s, _)| *s).collect();
            hits.windows(2).all(|two| two[1] - two[0] < 600)
        });
        self.since = last + 1;
        if remembered {
            *self = Self::default();
            return Some(Event::Moved);
        }
        self.reloaded = Some(last);
        Some(Event::Reloaded)
    }
}

proptest! {
    #[test]
    fn a_ladder_is_climbed_as_it_is_written_down(
        looks in proptest::collection::vec((1_u64..80, 0_u32..5), 1..400),
    ) {
        let every = Some(Duration::from_secs(2));
        let mut cast = cast(|s| {
            s.checks = Checks { freeze: every, ..Checks::default() };
            s.limits = Limits { max_time: Duration::from_secs(86_400), attempts: 10, ..Limits::default() };
        })
        .live();
        let mut model = Model::default();
        for (pause, chance) in looks {
            if cast.machine.state() != State::Live {
                break;
            }
            // Mostly a few seconds, now and then minutes.
            cast.wait(if pause > 70 { pause * 5 } else { 2 + pause % 8 });
            let hit = chance > 2;
            let outputs = cast.give(Input::Looked(Check::Freeze, hit));
            let told = outputs.iter().find_map(|output| match output {
                Output::Tell(event) => Some(*event),
                _ => None,
            });
            let expected = model.look(cast.now_s, hit).map(|event| event(Freeze));
            if outputs.contains(&Output::Stop) {
                prop_assert_eq!(expected, Some(Event::Moved(Freeze)), "there is no browser left");
                break;
            }
            prop_assert_eq!(told, expected);
            if told.is_some() {
                cast.again();
            }
        }
    }

    #[test]
    fn laws(
        inputs in proptest::collection::vec((any_input(), 0_u64..20), 1..300),
        attempts in 1_u32..=4,
        timeout in 0_u64..20,
    ) {
        let mut cast = cast(|s| {
            s.limits.attempts = attempts;
            s.readiness.timeout = Duration::from_secs(timeout);
        });
        let (mut live, mut stopped, mut ended, mut opened) = (false, false, false, 0);
        for (input, pause) in inputs {
            cast.now_s += pause;
            for output in cast.give(input) {
                prop_assert!(!ended, "{output:?} after the end");
                prop_assert!(!stopped || matches!(output, Output::Tell(Event::Ended(_))), "{output:?} after Stop");
                match output {
                    Output::Open => opened += 1,
                    Output::GoLive => { prop_assert!(!live && opened > 0); live = true; }
                    Output::Hold => { prop_assert!(live); live = false; }
                    Output::Reload => prop_assert!(!live && opened > 0),
                    Output::Look(_) => prop_assert!(live),
                    Output::Stop => stopped = true,
                    Output::Tell(Event::Ended(_)) => ended = true,
                    Output::Tell(_) | Output::KeepEvidence(_) => {}
                }
            }
            prop_assert!(opened <= attempts);
            prop_assert_eq!(live && !stopped, cast.machine.state() == State::Live);
            prop_assert_eq!(ended, matches!(cast.machine.state(), State::Ended(_)));
            if let Some(deadline) = cast.machine.deadline() {
                prop_assert!(deadline > at(cast.now_s), "a deadline that has passed");
            }
        }
        cast.give(Input::Stop);
        cast.give(Input::Drained);
        prop_assert!(matches!(cast.machine.state(), State::Ended(_)), "a stop and a drain end everything");
    }
}
