//! Whatever comes to the embedded room's port, and whatever is offered to it.
//!
//! Run it with `cargo +nightly fuzz run embedded`. What the bytes of an input mean is told in `crates/room/src/embedded/hub/endure.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pagecast_room::embedded::endure;

fuzz_target!(
    init: {
        // A bug of one connection is caught where it is called, and ends that connection. libfuzzer takes any panic for the end,
        // caught or not, unless it is not told of it; those that nobody catches end it all the same.
        std::panic::set_hook(Box::new(|_| ()));
    },
    |data: &[u8]| endure(data)
);
