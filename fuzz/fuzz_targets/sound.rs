//! Any bytes from a client of the sound server, in pieces of any size, at any time.
//!
//! Run it with `cargo +nightly fuzz run sound`. The first byte of an input selects whether the client
//! authenticates first, so that its requests are carried out. The rest is a sequence of steps: one byte for
//! the time that passes and whether the client reads, two bytes for the number of following bytes that it
//! sends.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use pagecast_core::HostTime;
use pagecast_page::av_sync::MediaElementDelay;
use pagecast_page::sound::server::{Input, Output, PulseServer};

/// `Auth` with protocol version 35 and an empty cookie, in wire format.
const AUTH_MESSAGE: [u8; 40] = [
    0, 0, 0, 20, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'L', 0, 0, 0, 8, b'L', 0, 0, 0,
    1, b'L', 0, 0, 0, 35, b'x', 0, 0, 0, 0,
];

fuzz_target!(|data: &[u8]| {
    let mut now = HostTime(1_000_000_000);
    let wall = |now: HostTime| UNIX_EPOCH + Duration::from_nanos(now.0.unsigned_abs());
    let mut server = PulseServer::new(now, MediaElementDelay::default());
    let Some(client) = server.free_client_id() else { return };
    server.handle(now, Input::Connected(client));
    server.handle(now, Input::StartCapture { origin: now + Duration::from_millis(5) });
    let Some((flags, mut rest)) = data.split_first() else { return };
    if flags & 1 == 0 {
        server.handle(now, Input::Received { client, bytes: &AUTH_MESSAGE, wall: wall(now) });
    }
    let mut next = 0;
    while let [pace, high, low, more @ ..] = rest {
        let len = (usize::from(*high) << 8 | usize::from(*low)).min(more.len());
        let (bytes, later) = more.split_at(len);
        rest = later;
        now = now + Duration::from_micros(u64::from(pace >> 1) * 500);
        server.handle(now, Input::Received { client, bytes, wall: wall(now) });
        if pace & 1 == 0 {
            let bytes = server.pending_output(client).len();
            server.handle(now, Input::Sent { client, bytes, wall: wall(now) });
        }
        while let Some(output) = server.poll(now) {
            // A client that is cut off is ignored from then on.
            let Output::Samples(samples) = output else { continue };
            assert_eq!(samples.start, next);
            assert!(samples.pcm.iter().all(|v| v.is_finite()));
            next = samples.start + samples.len() as u64;
        }
        assert!(server.pending_output(client).len() < 8 << 20);
        assert!(server.deadline().is_some_and(|at| at > now));
    }
});
