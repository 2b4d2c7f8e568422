//! Any requests of a client of the display, against the real compositor over its real socket.
//!
//! Run it with `cargo +nightly fuzz run -O display`: in release mode, as debug builds of the Wayland library
//! have assertions that a hostile client can violate. An input is a sequence of steps. A step picks a
//! request, its object and its arguments, mostly valid ones; some steps send raw bytes. After each input
//! another, well-behaved client must get its responses.

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
use pagecast_page::av_sync::RenderLatency;
use pagecast_page::clock::{Origin, OutputMute};
use pagecast_page::display::{Config, Display};

use requests::Client;
use wire::Wire;

/// Longest wait of a well-behaved client.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for the last responses to a fuzzed client.
const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(100);

struct Fixture {
    display: Display,
    socket: PathBuf,
}

/// One display for all inputs, so that later clients find the state that earlier ones left.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        // The display must survive panics in the Wayland library. Any other panic is a bug.
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
            output_mute: OutputMute::default(),
            render_latency: RenderLatency::default(),
            client_uid: None,
        };
        let display = Display::start(config, out).expect("the display starts");
        display.start_capture();
        Fixture { display, socket }
    })
}

/// Whether a well-behaved client gets a response. It gets none if the display has no free connection.
fn is_answered(fixture: &Fixture) -> bool {
    let mut wire = Wire::connect(&fixture.socket);
    let sync = wire.sync(2);
    wire.flush();
    wire.wait_for(sync, RESPONSE_TIMEOUT)
}

fuzz_target!(|data: &[u8]| {
    let fixture = fixture();
    let mut client = Client::connect(&fixture.socket, RESPONSE_TIMEOUT);
    let mut bytes = data;
    while !bytes.is_empty() && client.step(&mut bytes) {}
    client.disconnect(DISCONNECT_TIMEOUT);
    // Closed connections may be counted a little longer.
    assert!((0..20).any(|_| is_answered(fixture)), "the display does not respond to other clients");
    assert!(!fixture.display.has_failed());
});
