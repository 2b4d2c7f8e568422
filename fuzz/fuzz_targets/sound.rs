//! Anything a client of the sound card may send, cut anywhere, at any pace.
//!
//! Run it with `cargo +nightly fuzz run sound`. The first byte of an input says whether the client greets properly, so that
//! what follows is carried out and not refused. The rest is a run of steps: one byte says how much time passes and whether
//! the client reads, two say how many of the following bytes it sends.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use pagecast_core::HostTime;
use pagecast_page::sound::server::{Core, Moment};

/// `Auth` with protocol version 35 and an empty cookie, as it travels.
const HELLO: [u8; 40] = [
    0, 0, 0, 20, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'L', 0, 0, 0, 8, b'L', 0, 0, 0,
    1, b'L', 0, 0, 0, 35, b'x', 0, 0, 0, 0,
];

fuzz_target!(|data: &[u8]| {
    let mut now = HostTime(1_000_000_000);
    let moment =
        |now: HostTime| Moment { host: now, wall: UNIX_EPOCH + Duration::from_nanos(now.0.unsigned_abs()) };
    let mut core = Core::new(now, pagecast_page::sync::PlayerDelay::default());
    let Some(client) = core.connect() else { return };
    core.go_live(now + Duration::from_millis(5), now);
    let Some((greets, mut rest)) = data.split_first() else { return };
    if greets & 1 == 0 {
        let _ignored = core.receive(client, &HELLO, moment(now));
    }
    let mut next = 0;
    while let [pace, high, low, more @ ..] = rest {
        let len = (usize::from(*high) << 8 | usize::from(*low)).min(more.len());
        let (bytes, later) = more.split_at(len);
        rest = later;
        now = now + Duration::from_micros(u64::from(pace >> 1) * 500);
        if core.receive(client, bytes, moment(now)).is_err() {
            core.disconnect(client, now);
        }
        if pace & 1 == 0 {
            core.has_sent(client, core.outgoing(client).len());
        }
        core.advance(now);
        for samples in core.ready() {
            assert_eq!(samples.start, next);
            assert!(samples.pcm.iter().all(|v| v.is_finite()));
            next = samples.start + samples.len() as u64;
        }
        assert!(core.outgoing(client).len() < 8 << 20);
        assert!(core.next_wake() > now);
    }
});
