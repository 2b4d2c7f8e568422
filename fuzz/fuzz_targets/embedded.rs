//! Any datagrams to the embedded room's port, and any offers.
//!
//! Run it with `cargo +nightly fuzz run embedded`. `crates/room/src/embedded/sfu/fuzz.rs` documents the
//! inputs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pagecast_room::embedded::run_fuzz_input;

fuzz_target!(
    init: {
        // The room catches a panic of a connection and ends only that connection. The hook of libfuzzer would
        // abort on it, so it is replaced. Panics that are not caught still end the run.
        std::panic::set_hook(Box::new(|_| ()));
    },
    |data: &[u8]| run_fuzz_input(data)
);
