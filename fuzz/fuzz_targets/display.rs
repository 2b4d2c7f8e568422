//! Anything a client of the display may ask for, against the real compositor over its real socket.
//!
//! Run it with `cargo +nightly fuzz run -O display`: as it is released, since the Wayland library asserts things in debug builds
//! that a hostile client need not keep to. An input is a run of steps. A step picks a request, the object to send it
//! to, and its arguments, among those that make sense as a rule; some send bytes as they are, so that nothing is left out.
//! After each input another client, which behaves, must get its answers as ever.

#![no_main]

#[path = "display/requests.rs"]
mod requests;
#[path = "display/wire.rs"]
mod wire;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pagecast_core::Fps;
use pagecast_core::spec::Size;
use pagecast_page::clock::{Gate, Origin};
use pagecast_page::display::{Config, Display};

use requests::Client;
use wire::Wire;

/// How long a client that behaves may have to wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client that does not is listened to.
const FAREWELL: Duration = Duration::from_millis(100);

struct Rig {
    display: Display,
    socket: PathBuf,
}

/// One display for all inputs: what one client leaves behind, the next one meets.
fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        // What the Wayland library makes of nonsense, the display must survive; any other panic is a bug.
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|at| at.file().contains("/wayland-server-")) {
                abort(info);
            }
        }));
        let socket = std::env::temp_dir().join(format!("pagecast-fuzz-{}", std::process::id()));
        let (out, ticks) = sync_channel(4);
        std::thread::spawn(move || ticks.iter().for_each(drop));
        let config = Config {
            socket: socket.clone(),
            size: Size::new(320, 160).expect("a small screen"),
            fps: Fps::new(60).expect("60 fps"),
            scale_factor: 1.5,
            viewport: None,
            origin: Origin::unset(),
            gate: Gate::default(),
            depth: pagecast_page::sync::Depth::default(),
        };
        let display = Display::start(config, out).expect("the display starts");
        display.begin();
        Rig { display, socket }
    })
}

/// Whether a client that behaves gets an answer; not, if the display has no room for it.
fn is_answered(rig: &Rig) -> bool {
    let mut wire = Wire::connect(&rig.socket);
    let sync = wire.sync(2);
    wire.flush();
    wire.wait_for(sync, PATIENCE)
}

fuzz_target!(|data: &[u8]| {
    let rig = rig();
    let mut client = Client::connect(&rig.socket, PATIENCE);
    let mut bytes = data;
    while !bytes.is_empty() && client.step(&mut bytes) {}
    client.leave(FAREWELL);
    // Connections that were just closed may still be counted.
    assert!((0..20).any(|_| is_answered(rig)), "the display does not answer others any more");
    assert!(!rig.display.has_failed());
});
