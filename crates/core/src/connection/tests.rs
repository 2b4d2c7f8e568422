use super::*;
use proptest::prelude::*;

const MS: i64 = 1_000_000;

fn at(ms: i64) -> HostTime {
    HostTime(ms * MS)
}

fn connection_lost() -> Input {
    Input::Failed("reset".into())
}

/// All pending outputs in short: states by their number, `c` for connect, `x` for close.
fn outputs(machine: &mut StateMachine) -> String {
    let number = |state| match state {
        State::Idle => '0',
        State::Connecting => '1',
        State::Running => '2',
        State::Recovering => '3',
        State::Failed => '4',
        State::Disconnecting => '5',
    };
    std::iter::from_fn(|| machine.poll())
        .map(|output| match output {
            Output::Connect => 'c',
            Output::Close => 'x',
            Output::Event(event) => number(event.state),
        })
        .collect()
}

fn outputs_after(machine: &mut StateMachine, ms: i64, input: Input) -> String {
    machine.handle(at(ms), input);
    outputs(machine)
}

/// Lets time pass up to `to`, with each attempt failing at once. Returns the times of the attempts in
/// milliseconds, and all other outputs.
fn run_failing_until(machine: &mut StateMachine, to: i64) -> (Vec<i64>, String) {
    let (mut attempts, mut rest) = (Vec::new(), String::new());
    while let Some(next) = machine.deadline().filter(|next| *next <= at(to)) {
        machine.handle(next, Input::Timeout);
        for output in outputs(machine).chars() {
            if output == 'c' {
                attempts.push(next.0 / MS);
                machine.handle(next, connection_lost());
            } else {
                rest.push(output);
            }
        }
    }
    (attempts, rest)
}

#[test]
fn the_normal_order() {
    let mut m = StateMachine::new(None, 1);
    for (ms, input, out) in [
        (0, Input::Start, "1c"),
        (100, Input::Connected, "2"),
        (100_000, Input::Timeout, ""),
        (200_000, Input::Stop, "5x"),
        (200_100, Input::Closed, "0"),
        (200_200, Input::Start, ""),
    ] {
        assert_eq!(outputs_after(&mut m, ms, input.clone()), out, "{ms} ms: {input:?}");
    }
    assert!(m.is_finished() && m.deadline().is_none());
}

#[test]
fn a_lost_connection_is_restored() {
    let mut m = StateMachine::new(None, 1);
    outputs_after(&mut m, 0, Input::Start);
    outputs_after(&mut m, 0, Input::Connected);
    m.handle(at(20_000), connection_lost());
    let event = Event { state: State::Recovering, error: Some("reset".into()) };
    assert_eq!(m.poll(), Some(Output::Event(event)));
    let retry_at = m.deadline().unwrap();
    assert!((at(20_500)..=at(21_000)).contains(&retry_at), "{retry_at:?}");
    m.handle(retry_at, Input::Timeout);
    assert_eq!(outputs(&mut m), "c");
    m.handle(retry_at, Input::Connected);
    assert_eq!(m.poll(), Some(Output::Event(Event { state: State::Running, error: None })));
}

#[test]
fn gives_up_after_the_reconnect_timeout() {
    let mut m = StateMachine::new(Some(Duration::from_secs(60)), 1);
    outputs_after(&mut m, 0, Input::Start);
    outputs_after(&mut m, 0, Input::Connected);
    outputs_after(&mut m, 1000, connection_lost());
    let (_, rest) = run_failing_until(&mut m, 61_000);
    assert_eq!(rest, "333333333334x", "every five seconds, then for good");
    assert_eq!((m.deadline(), m.error()), (Some(at(64_000)), Some("reset")));
    assert_eq!(outputs_after(&mut m, 61_100, Input::Closed), "0");
    assert!(m.is_finished());
}

#[test]
fn without_a_timeout_it_retries_but_stops_reporting() {
    let mut m = StateMachine::new(None, 7);
    assert_eq!(outputs_after(&mut m, 0, Input::Start), "1c");
    m.handle(at(0), connection_lost());
    let (attempts, rest) = run_failing_until(&mut m, 3_600_000);
    assert_eq!(rest, "1".repeat(11), "twelve times in the first minute");
    let pauses: Vec<_> =
        std::iter::once(&0).chain(&attempts).zip(&attempts).map(|(from, to)| to - from).collect();
    for (i, pause) in pauses.iter().enumerate() {
        let longest = (1000 << i.min(5)).min(30_000);
        assert!((longest / 2..=longest).contains(pause), "pause {i} of {pause} ms");
    }
    let (shortest, longest) = (pauses[5..].iter().min().unwrap(), pauses[5..].iter().max().unwrap());
    assert!(longest - shortest > 5000, "{shortest} to {longest} ms are too alike");
}

#[test]
fn delays_grow_until_a_connection_was_good() {
    let mut m = StateMachine::new(None, 3);
    let mut now = 0;
    outputs_after(&mut m, now, Input::Start);
    let mut pause = |m: &mut StateMachine, lasted: i64| {
        m.handle(at(now), Input::Connected);
        now += lasted;
        m.handle(at(now), connection_lost());
        outputs(m);
        let until = m.deadline().unwrap().0 / MS;
        let pause = until - now;
        while outputs(m) != "c" {
            now = m.deadline().unwrap().0 / MS + 1;
            m.handle(at(now), Input::Timeout);
        }
        pause
    };
    let short: Vec<_> = (0..4).map(|_| pause(&mut m, 100)).collect();
    assert!(short[3] >= 4000, "{short:?}");
    assert!(pause(&mut m, 10_000) <= 1000);
}

#[test]
fn a_connection_that_does_not_close_counts_as_closed() {
    let mut m = StateMachine::new(None, 1);
    outputs_after(&mut m, 0, Input::Start);
    assert_eq!(outputs_after(&mut m, 10, Input::Stop), "5x");
    assert_eq!(outputs_after(&mut m, 2000, Input::Connected), "", "too late");
    assert_eq!(outputs_after(&mut m, 3010, Input::Timeout), "0");
    assert_eq!(outputs_after(&mut m, 3020, Input::Closed), "");
}

#[test]
fn a_target_that_never_started_ends_at_once() {
    let mut m = StateMachine::new(None, 1);
    assert_eq!(outputs_after(&mut m, 0, Input::Stop), "");
    assert_eq!(outputs_after(&mut m, 0, Input::Start), "");
    assert!(m.is_finished());
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        Just(Input::Start),
        Just(Input::Connected),
        Just(connection_lost()),
        Just(Input::Closed),
        Just(Input::Timeout),
        Just(Input::Timeout),
        // Rare, because little happens after it.
        (0..10).prop_map(|n| if n == 0 { Input::Stop } else { Input::Timeout }),
    ]
}

proptest! {
    #[test]
    fn invariants_hold_for_any_inputs(
        seed: u64,
        timeout in proptest::option::of(1_u64..100),
        steps in proptest::collection::vec((0_i64..20_000, any_input()), 0..200),
    ) {
        let mut m = StateMachine::new(timeout.map(Duration::from_secs), seed);
        let (mut now, mut reported, mut under_way, mut over) = (0, Vec::new(), false, false);
        for (step, input) in steps {
            now += step;
            let connected = under_way && input == Input::Connected;
            if matches!(input, Input::Connected | Input::Failed(_)) {
                under_way = false;
            }
            m.handle(at(now), input);
            while let Some(output) = m.poll() {
                prop_assert!(!over, "{output:?} after the end");
                match output {
                    Output::Connect => {
                        prop_assert!(!under_way, "two attempts at a time");
                        under_way = true;
                    }
                    Output::Close => under_way = false,
                    Output::Event(event) => {
                        prop_assert!(event.state != State::Running || connected, "running without a \
                            connection");
                        over = event.state == State::Idle;
                        reported.push(event.state);
                    }
                }
            }
            over |= m.is_finished();
            prop_assert!(m.deadline().is_none_or(|next| next > at(now)), "a deadline that has passed");
        }
        use State::{Connecting, Disconnecting, Failed, Idle, Recovering, Running};
        for pair in reported.windows(2) {
            prop_assert!(matches!(
                (pair[0], pair[1]),
                (Connecting, Connecting | Running | Failed | Disconnecting)
                    | (Running, Recovering | Disconnecting)
                    | (Recovering, Recovering | Running | Failed | Disconnecting)
                    | (Failed | Disconnecting, Idle)
            ), "{pair:?}");
        }
        prop_assert!(reported.first().is_none_or(|first| *first == Connecting));
    }
}
