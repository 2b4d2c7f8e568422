//! Scripted casts, and invariants that hold for any sequence of inputs.

use proptest::prelude::*;

use super::*;
use crate::spec::{Source, SourceUrl};

const CHECK_INTERVAL_S: u64 = 5;

fn spec() -> CastSpec {
    let every = Some(Duration::from_secs(CHECK_INTERVAL_S));
    CastSpec {
        readiness: Readiness {
            signal: ReadySignal::Webcast,
            timeout: Duration::from_secs(10),
            ..Readiness::default()
        },
        checks: HealthChecks { freeze: every, blank: every, crash: every },
        limits: Limits { max_time: Duration::from_secs(600), ..Limits::default() },
        ..CastSpec::new(Source::new(SourceUrl::parse("http://a.example").unwrap()))
    }
}

/// A state machine and its clock in seconds.
struct Fixture {
    machine: StateMachine,
    now_s: u64,
}

fn cast(change: impl FnOnce(&mut CastSpec)) -> Fixture {
    let mut spec = spec();
    change(&mut spec);
    Fixture { machine: StateMachine::new(&spec), now_s: 100 }
}

fn at(seconds: u64) -> HostTime {
    HostTime(seconds as i64 * 1_000_000_000)
}

impl Fixture {
    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(at(self.now_s), input);
        std::iter::from_fn(|| self.machine.poll()).collect()
    }

    fn advance(&mut self, seconds: u64) -> Vec<Output> {
        self.now_s += seconds;
        self.handle(Input::Timeout)
    }

    /// Drives the cast to [`State::Live`], with the page in the outputs.
    fn bring_live(mut self) -> Self {
        assert_eq!(self.handle(Input::Start), [Output::StartBrowser]);
        assert_eq!(self.handle(Input::Opened), []);
        assert_eq!(self.handle(Input::Ready), [Output::GoLive]);
        assert_eq!(self.handle(Input::WentLive), [Output::Event(Event::Live)]);
        self
    }

    fn load_again(&mut self) {
        assert_eq!(self.handle(Input::Opened), []);
        assert_eq!(self.handle(Input::Ready), [Output::GoLive]);
    }

    /// Waits for the next checks, fails `check` and passes the others, and returns the outputs that follow.
    fn fail_check(&mut self, check: HealthCheck) -> Vec<Output> {
        let due = self.advance(CHECK_INTERVAL_S);
        assert_eq!(due, HealthCheck::ALL.map(Output::RunCheck));
        let mut outputs = Vec::new();
        for each in HealthCheck::ALL {
            outputs.extend(self.handle(Input::CheckResult { check: each, failed: each == check }));
        }
        outputs
    }

    fn assert_ended(&mut self, reason: EndReason) {
        assert_eq!(self.machine.state(), State::Stopping);
        assert_eq!(self.machine.deadline(), None);
        assert_eq!(self.handle(Input::Drained), [Output::Event(Event::Ended(reason))]);
        assert_eq!(self.machine.state(), State::Ended(reason));
        assert_eq!(self.handle(Input::Stop), []);
    }
}

use HealthFault::{Blank, Crash, Freeze, StartTimeout, Unreachable};

const MUTE_AND_RELOAD: [Output; 2] = [Output::MuteOutputs, Output::Reload];
const MUTE_AND_START_BROWSER: [Output; 2] = [Output::MuteOutputs, Output::StartBrowser];

fn fault_outputs(fault: HealthFault, event: fn(HealthFault) -> Event, then: &[Output]) -> Vec<Output> {
    let mut all = vec![Output::SaveEvidence(fault), Output::Event(event(fault))];
    all.extend(then);
    all
}

#[test]
fn two_failures_reload_and_two_more_move() {
    for (check, fault) in [(HealthCheck::Freeze, Freeze), (HealthCheck::Blank, Blank)] {
        let mut cast = cast(|_| {}).bring_live();
        assert_eq!(cast.fail_check(check), [Output::SaveEvidence(fault)]);
        assert_eq!(cast.fail_check(check), fault_outputs(fault, Event::Reloaded, &MUTE_AND_RELOAD));
        assert_eq!(cast.machine.state(), State::Starting);
        cast.load_again();
        assert_eq!(cast.fail_check(check), [Output::SaveEvidence(fault)]);
        assert_eq!(cast.fail_check(check), fault_outputs(fault, Event::Moved, &MUTE_AND_START_BROWSER));
        cast.load_again();
        assert_eq!(cast.machine.attempts(), 2);
        assert_eq!(
            cast.fail_check(check),
            [Output::SaveEvidence(fault)],
            "a fresh browser starts without failures"
        );
        assert_eq!(cast.fail_check(check), fault_outputs(fault, Event::Reloaded, &MUTE_AND_RELOAD));
    }
}

#[test]
fn a_reload_is_forgotten_only_after_ten_minutes_without_a_failure() {
    let reloaded = || {
        let mut cast = cast(|s| s.limits.max_time = Duration::from_secs(86_400)).bring_live();
        cast.fail_check(HealthCheck::Freeze);
        cast.fail_check(HealthCheck::Freeze);
        cast.load_again();
        cast
    };
    let pass_checks = |cast: &mut Fixture, checks: u64| {
        for _ in 0..checks {
            cast.advance(CHECK_INTERVAL_S);
            cast.handle(Input::CheckResult { check: HealthCheck::Freeze, failed: false });
        }
    };
    // 119 passed checks and the failure that follows make ten minutes.
    for (checks, then) in [
        (0, Event::Moved as fn(_) -> _),
        (1, Event::Moved),
        (4, Event::Moved),
        (118, Event::Moved),
        (119, Event::Reloaded),
    ] {
        let mut cast = reloaded();
        pass_checks(&mut cast, checks);
        cast.fail_check(HealthCheck::Freeze);
        assert!(
            cast.fail_check(HealthCheck::Freeze).contains(&Output::Event(then(Freeze))),
            "after {checks}"
        );
    }
    // A single failure triggers nothing, but the ten minutes start anew. Each check counts only its own
    // failures.
    let mut cast = reloaded();
    pass_checks(&mut cast, 100);
    cast.fail_check(HealthCheck::Freeze);
    pass_checks(&mut cast, 100);
    cast.fail_check(HealthCheck::Freeze);
    assert!(cast.fail_check(HealthCheck::Freeze).contains(&Output::Event(Event::Moved(Freeze))));
}

#[test]
fn a_page_that_freezes_nine_seconds_after_each_load_is_not_reloaded_for_ever() {
    let every = Duration::from_secs(2);
    let mut cast =
        cast(|s| s.checks = HealthChecks { freeze: Some(every), ..HealthChecks::default() }).bring_live();
    let mut events = Vec::new();
    let mut loaded_s = cast.now_s;
    while !matches!(cast.machine.state(), State::Stopping) {
        assert!(cast.now_s < 300, "the page is reloaded for ever: {events:?}");
        if cast.machine.state() == State::Starting {
            cast.load_again();
            loaded_s = cast.now_s;
        }
        assert_eq!(cast.advance(2), [Output::RunCheck(HealthCheck::Freeze)]);
        let failed = cast.now_s - loaded_s > 9;
        let outputs = cast.handle(Input::CheckResult { check: HealthCheck::Freeze, failed });
        events.extend(outputs.into_iter().filter_map(|output| match output {
            Output::Event(event) => Some(event),
            _ => None,
        }));
    }
    let both = [Event::Reloaded(Freeze), Event::Moved(Freeze)];
    assert_eq!(events, [&both[..], &both[..], &both[..1]].concat(), "three browsers, one reload in each");
    cast.assert_ended(EndReason::PageFailed(Freeze));
}

#[test]
fn only_consecutive_failures_count() {
    let mut cast = cast(|_| {}).bring_live();
    for _ in 0..10 {
        assert_eq!(cast.fail_check(HealthCheck::Freeze), [Output::SaveEvidence(Freeze)]);
        assert_eq!(cast.fail_check(HealthCheck::Blank), [Output::SaveEvidence(Blank)]);
    }
}

#[test]
fn a_crash_moves_at_once_until_there_are_no_attempts_left() {
    let mut cast = cast(|_| {}).bring_live();
    assert_eq!(cast.handle(Input::Crashed), fault_outputs(Crash, Event::Moved, &MUTE_AND_START_BROWSER));
    assert_eq!(
        cast.handle(Input::Crashed),
        fault_outputs(Crash, Event::Moved, &[Output::StartBrowser]),
        "while starting, too"
    );
    cast.load_again();
    assert_eq!(cast.machine.attempts(), 3);
    assert_eq!(cast.advance(CHECK_INTERVAL_S), HealthCheck::ALL.map(Output::RunCheck));
    assert_eq!(
        cast.handle(Input::CheckResult { check: HealthCheck::Crash, failed: true }),
        [Output::SaveEvidence(Crash), Output::StopOutputs]
    );
    cast.assert_ended(EndReason::PageFailed(Crash));
}

#[test]
fn a_stable_page_gets_all_attempts_back() {
    let mut cast = cast(|s| {
        s.limits.max_time = Duration::from_secs(86_400);
        s.checks = HealthChecks::default();
    })
    .bring_live();
    for _ in 0..20 {
        cast.advance(600);
        assert_eq!(cast.handle(Input::Crashed), fault_outputs(Crash, Event::Moved, &MUTE_AND_START_BROWSER));
        cast.load_again();
    }
    cast.advance(599);
    cast.handle(Input::Crashed);
    assert_eq!(cast.handle(Input::Crashed), [Output::SaveEvidence(Crash), Output::StopOutputs]);
}

#[test]
fn a_page_without_a_ready_call_is_reloaded_then_moved() {
    let mut cast = cast(|_| {});
    cast.handle(Input::Start);
    for attempt in 1..=3 {
        assert_eq!(cast.machine.attempts(), attempt);
        cast.handle(Input::Opened);
        assert_eq!(cast.advance(9), []);
        assert_eq!(cast.advance(1), fault_outputs(StartTimeout, Event::Reloaded, &[Output::Reload]));
        assert_eq!(cast.advance(30), [], "loading is not waiting");
        cast.handle(Input::Opened);
        let outputs = cast.advance(10);
        if attempt < 3 {
            assert_eq!(outputs, fault_outputs(StartTimeout, Event::Moved, &[Output::StartBrowser]));
        } else {
            assert_eq!(outputs, [Output::SaveEvidence(StartTimeout), Output::StopOutputs]);
        }
    }
    cast.assert_ended(EndReason::PageFailed(StartTimeout));
}

#[test]
fn a_ready_call_stops_the_timeout_before_the_page_has_drawn() {
    let mut cast = cast(|_| {});
    cast.handle(Input::Start);
    cast.handle(Input::Opened);
    assert_eq!(cast.advance(9), []);
    assert_eq!(cast.handle(Input::ReadySignalReceived), []);
    assert_eq!(cast.advance(30), []);
    assert_eq!(cast.handle(Input::Ready), [Output::GoLive]);
    // A reloaded page must make its call again.
    let mut cast = cast.open_and_ready();
    cast.fail_check(HealthCheck::Freeze);
    cast.fail_check(HealthCheck::Freeze);
    cast.handle(Input::Opened);
    assert_eq!(cast.advance(10), fault_outputs(StartTimeout, Event::Reloaded, &[Output::Reload]));
}

#[test]
fn a_page_is_live_when_the_outputs_have_it() {
    let mut cast = cast(|_| {});
    cast.handle(Input::Start);
    cast.handle(Input::Opened);
    assert_eq!(cast.handle(Input::WentLive), [], "the page is not ready yet");
    assert_eq!(cast.handle(Input::Ready), [Output::GoLive]);
    assert_eq!(cast.handle(Input::OutputFailed), [Output::StopOutputs], "none of them took it");
    cast.assert_ended(EndReason::OutputFailed);
    let mut cast = self::cast(|_| {}).bring_live();
    assert_eq!(cast.handle(Input::WentLive), [], "it is reported once");
}

#[test]
fn notify_ready_fails_at_the_second_timeout() {
    let mut cast = cast(|s| s.readiness.signal = ReadySignal::NotifyReady);
    cast.handle(Input::Start);
    cast.handle(Input::Opened);
    assert_eq!(cast.advance(10), fault_outputs(StartTimeout, Event::Reloaded, &[Output::Reload]));
    cast.handle(Input::Opened);
    assert_eq!(cast.advance(10), [Output::SaveEvidence(StartTimeout), Output::StopOutputs]);
    cast.assert_ended(EndReason::PageFailed(StartTimeout));
}

#[test]
fn a_page_that_is_reloaded_must_be_ready_again() {
    let mut cast = cast(|_| {}).bring_live();
    cast.fail_check(HealthCheck::Freeze);
    cast.fail_check(HealthCheck::Freeze);
    cast.handle(Input::Opened);
    assert_eq!(cast.advance(10), fault_outputs(StartTimeout, Event::Reloaded, &[Output::Reload]));
    cast.load_again();
    assert_eq!(cast.advance(CHECK_INTERVAL_S), HealthCheck::ALL.map(Output::RunCheck));
}

#[test]
fn without_a_timeout_the_cast_waits_for_the_page() {
    let mut cast = cast(|s| s.readiness.timeout = Duration::ZERO);
    cast.handle(Input::Start);
    cast.handle(Input::Opened);
    assert_eq!(cast.advance(599), [], "checks begin when the page is live");
    assert_eq!(cast.advance(1), [Output::StopOutputs]);
    cast.assert_ended(EndReason::MaxTime);
}

#[test]
fn each_input_that_ends_a_cast_has_its_reason() {
    for (input, reason) in [
        (Input::Stop, EndReason::Stopped),
        (Input::PageEnded, EndReason::PageEnded),
        (Input::LargeVideo, EndReason::VideoTooLarge),
        (Input::Complete, EndReason::Complete),
        (Input::OutputFailed, EndReason::OutputFailed),
    ] {
        let mut live = cast(|_| {}).bring_live();
        assert_eq!(live.handle(input), [Output::StopOutputs]);
        assert_eq!(live.handle(Input::Crashed), []);
        live.assert_ended(reason);
    }
    let mut early = cast(|_| {});
    assert_eq!(early.handle(Input::Stop), [Output::Event(Event::Ended(EndReason::Stopped))]);
    let mut waiting = cast(|_| {});
    waiting.handle(Input::Start);
    waiting.handle(Input::Opened);
    assert_eq!(waiting.handle(Input::PageEnded), [Output::StopOutputs], "a page may end before it starts");
    waiting.assert_ended(EndReason::PageEnded);
    let mut drained = cast(|_| {}).bring_live();
    drained.handle(Input::Stop);
    drained.handle(Input::OutputFailed);
    drained.assert_ended(EndReason::OutputFailed);
}

#[test]
fn the_maximum_running_time_counts_from_the_first_frame() {
    let mut cast = cast(|s| s.checks = HealthChecks::default());
    cast.handle(Input::Start);
    cast.advance(9);
    let mut cast = cast.open_and_ready();
    cast.advance(1);
    cast.handle(Input::WentLive);
    assert_eq!(cast.machine.deadline(), Some(at(cast.now_s + 600)));
    assert_eq!(cast.handle(Input::Crashed), fault_outputs(Crash, Event::Moved, &MUTE_AND_START_BROWSER));
    cast.load_again();
    cast.handle(Input::WentLive);
    assert_eq!(cast.advance(599), []);
    assert_eq!(cast.advance(1), [Output::StopOutputs], "a fresh browser does not extend the time");
    cast.assert_ended(EndReason::MaxTime);
    // A resumed cast counts its remaining time from the start of its process.
    let mut resumed = self::cast(|s| (s.checks, s.resumed) = (HealthChecks::default(), true));
    resumed.handle(Input::Start);
    resumed.advance(9);
    let mut resumed = resumed.open_and_ready();
    resumed.handle(Input::WentLive);
    assert_eq!(resumed.advance(590), []);
    assert_eq!(resumed.advance(1), [Output::StopOutputs]);
}

#[test]
fn the_maximum_running_time_also_limits_the_time_to_the_first_frame() {
    let mut cast = cast(|s| s.checks = HealthChecks::default());
    cast.advance(1000);
    cast.handle(Input::Start);
    assert_eq!(cast.machine.deadline(), Some(at(cast.now_s + 600)));
    let mut cast = cast.open_and_ready();
    assert_eq!(cast.advance(599), []);
    assert_eq!(cast.advance(1), [Output::StopOutputs]);
    cast.assert_ended(EndReason::MaxTime);
}

impl Fixture {
    fn open_and_ready(mut self) -> Self {
        self.handle(Input::Opened);
        self.handle(Input::Ready);
        self
    }
}

#[test]
fn a_failed_first_load_ends_the_cast_and_a_later_one_is_retried() {
    let mut never = cast(|_| {});
    never.handle(Input::Start);
    assert_eq!(never.handle(Input::OpenFailed), [Output::StopOutputs]);
    never.assert_ended(EndReason::StartFailed);

    let mut cast = cast(|_| {}).bring_live();
    cast.handle(Input::Crashed);
    assert_eq!(cast.handle(Input::OpenFailed), [Output::Event(Event::Moved(Unreachable))]);
    assert_eq!(cast.handle(Input::Crashed), [], "no browser is running");
    assert_eq!(cast.advance(3), []);
    assert_eq!(cast.advance(1), [Output::StartBrowser]);
    assert_eq!(cast.machine.attempts(), 3);
    assert_eq!(cast.handle(Input::OpenFailed), [Output::StopOutputs]);
    cast.assert_ended(EndReason::PageFailed(Unreachable));
}

#[test]
fn a_transient_failure_of_the_first_load_is_retried_in_the_same_browser() {
    // The delays grow, and the last attempt is made at the deadline.
    for (timeout_s, expected) in
        [(0, &[1, 2, 4, 8, 12, 15][..]), (2, &[1, 2]), (30, &[1, 2, 4, 8, 12, 16, 20, 24, 28, 30])]
    {
        let mut cast = cast(|s| s.readiness.timeout = Duration::from_secs(timeout_s));
        let started_s = cast.now_s;
        assert_eq!(cast.handle(Input::Start), [Output::StartBrowser]);
        let mut retries = Vec::new();
        while cast.machine.state() == State::Starting {
            let outputs = cast.handle(Input::OpenFailedTransiently);
            assert_eq!(cast.machine.will_retry(), outputs.is_empty());
            if outputs == [Output::StopOutputs] {
                break;
            }
            assert_eq!(cast.handle(Input::OpenFailedTransiently), [], "no attempt is under way");
            while cast.advance(1) != [Output::Reload] {
                assert!(cast.now_s < started_s + 60);
            }
            retries.push(cast.now_s - started_s);
        }
        assert_eq!(retries, expected, "{timeout_s} s");
        assert_eq!(cast.machine.attempts(), 1, "another browser would not help");
        cast.assert_ended(EndReason::StartFailed);
    }
    // A retry may succeed.
    let mut cast = cast(|_| {});
    cast.handle(Input::Start);
    cast.handle(Input::OpenFailedTransiently);
    assert_eq!(cast.advance(1), [Output::Reload]);
    assert_eq!(cast.handle(Input::Opened), []);
    assert_eq!(cast.handle(Input::Ready), [Output::GoLive]);
    cast.handle(Input::WentLive);
    // A load that fails after the server answered is not shown.
    let mut failed = self::cast(|_| {});
    failed.handle(Input::Start);
    failed.handle(Input::Opened);
    failed.handle(Input::OpenFailedTransiently);
    assert_eq!(failed.handle(Input::Ready), []);
    assert_eq!(failed.advance(1), [Output::Reload]);
    // A page that was shown before is moved.
    cast.handle(Input::Crashed);
    assert_eq!(cast.handle(Input::OpenFailedTransiently), [Output::Event(Event::Moved(Unreachable))]);
    // A stop ends the retries.
    let mut stopped = self::cast(|_| {});
    stopped.handle(Input::Start);
    stopped.handle(Input::OpenFailedTransiently);
    assert_eq!(stopped.handle(Input::Stop), [Output::StopOutputs]);
}

#[test]
fn checks_that_are_off_never_run() {
    let mut cast =
        cast(|s| s.checks = HealthChecks { freeze: Some(Duration::from_secs(2)), ..HealthChecks::default() })
            .bring_live();
    for _ in 0..10 {
        assert_eq!(cast.advance(2), [Output::RunCheck(HealthCheck::Freeze)]);
        cast.handle(Input::CheckResult { check: HealthCheck::Freeze, failed: false });
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let check = || prop_oneof![Just(HealthCheck::Freeze), Just(HealthCheck::Blank), Just(HealthCheck::Crash)];
    prop_oneof![
        3 => Just(Input::Start),
        8 => Just(Input::Opened),
        2 => Just(Input::OpenFailed),
        2 => Just(Input::OpenFailedTransiently),
        2 => Just(Input::ReadySignalReceived),
        8 => Just(Input::Ready),
        8 => Just(Input::WentLive),
        8 => (check(), any::<bool>()).prop_map(|(check, failed)| Input::CheckResult { check, failed }),
        2 => Just(Input::Crashed),
        1 => Just(Input::PageEnded),
        1 => Just(Input::Stop),
        1 => Just(Input::LargeVideo),
        1 => Just(Input::Complete),
        1 => Just(Input::OutputFailed),
        2 => Just(Input::Drained),
        9 => Just(Input::Timeout),
    ]
}

/// The rule of escalation, written down independently: results of a check in the current browser, and the
/// recovery that must follow.
#[derive(Default)]
struct Model {
    checks: Vec<(u64, bool)>,
    /// Index of the check that caused a reload.
    reloaded: Option<usize>,
    /// Index of the first check of the current load.
    loaded_at: usize,
}

impl Model {
    fn check(&mut self, now_s: u64, failed: bool) -> Option<fn(HealthFault) -> Event> {
        self.checks.push((now_s, failed));
        let loaded = &self.checks[self.loaded_at..];
        if loaded.len() < 2 || !loaded[loaded.len() - 2..].iter().all(|(_, failed)| *failed) {
            return None;
        }
        let last = self.checks.len() - 1;
        // All gaps between two failures since the reload were shorter than ten minutes.
        let remembered = self.reloaded.is_some_and(|reload| {
            let failures: Vec<u64> =
                self.checks[reload..].iter().filter(|(_, failed)| *failed).map(|(s, _)| *s).collect();
            failures.windows(2).all(|two| two[1] - two[0] < 600)
        });
        self.loaded_at = last + 1;
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
    fn escalation_follows_the_model(
        checks in proptest::collection::vec((1_u64..80, 0_u32..5), 1..400),
    ) {
        let every = Some(Duration::from_secs(2));
        let mut cast = cast(|s| {
            s.checks = HealthChecks { freeze: every, ..HealthChecks::default() };
            s.limits = Limits { max_time: Duration::from_secs(86_400), attempts: 10, ..Limits::default() };
        })
        .bring_live();
        let mut model = Model::default();
        for (pause, chance) in checks {
            if cast.machine.state() != State::Live {
                break;
            }
            // Mostly a few seconds, now and then minutes.
            cast.advance(if pause > 70 { pause * 5 } else { 2 + pause % 8 });
            let failed = chance > 2;
            let outputs = cast.handle(Input::CheckResult { check: HealthCheck::Freeze, failed });
            let event = outputs.iter().find_map(|output| match output {
                Output::Event(event) => Some(*event),
                _ => None,
            });
            let expected = model.check(cast.now_s, failed).map(|event| event(Freeze));
            if outputs.contains(&Output::StopOutputs) {
                prop_assert_eq!(expected, Some(Event::Moved(Freeze)), "there is no attempt left");
                break;
            }
            prop_assert_eq!(event, expected);
            if event.is_some() {
                cast.load_again();
            }
        }
    }

    #[test]
    fn invariants_hold_for_any_inputs(
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
            for output in cast.handle(input) {
                prop_assert!(!ended, "{output:?} after the end");
                prop_assert!(!stopped || matches!(output, Output::Event(Event::Ended(_))), "{output:?} \
                    after Stop");
                match output {
                    Output::StartBrowser => opened += 1,
                    Output::GoLive => { prop_assert!(!live && opened > 0); live = true; }
                    Output::MuteOutputs => { prop_assert!(live); live = false; }
                    Output::Reload => prop_assert!(!live && opened > 0),
                    Output::RunCheck(_) => prop_assert!(live),
                    Output::StopOutputs => stopped = true,
                    Output::Event(Event::Ended(_)) => ended = true,
                    Output::Event(_) | Output::SaveEvidence(_) => {}
                }
            }
            prop_assert!(opened <= attempts);
            prop_assert_eq!(live && !stopped, cast.machine.state() == State::Live);
            prop_assert_eq!(ended, matches!(cast.machine.state(), State::Ended(_)));
            if let Some(deadline) = cast.machine.deadline() {
                prop_assert!(deadline > at(cast.now_s), "a deadline that has passed");
            }
        }
        cast.handle(Input::Stop);
        cast.handle(Input::Drained);
        prop_assert!(matches!(cast.machine.state(), State::Ended(_)), "a stop and a drain end everything");
    }
}
