//! The display over its real socket, with well-behaved and hostile clients.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "display/client.rs"]
mod client;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use client::{Client, Window, create_memfd};
use pagecast_core::spec::Size;
use pagecast_core::{Fps, Frame, Tick};
use pagecast_page::clock::{Origin, OutputMute};
use pagecast_page::display::{Config, Display};
use wayland_client::protocol::wl_shm::Format;

const WIDTH: i32 = 320;
const HEIGHT: i32 = 160;
const SIZE: (i32, i32) = (WIDTH, HEIGHT);
const TIMEOUT: Duration = Duration::from_secs(10);
const RED: u32 = 0xffff_0000;
const GREEN: u32 = 0xff00_ff00;
const BLUE: u32 = 0xff00_00ff;

/// A display in its own folder.
struct Fixture {
    display: Option<Display>,
    ticks: Receiver<Tick>,
    folder: PathBuf,
    origin: Origin,
}

impl Fixture {
    fn new(name: &str, fps: u32, scale_factor: f64) -> Self {
        let folder = std::env::temp_dir().join(format!("pagecast-display-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (out, ticks) = sync_channel(64);
        let origin = Origin::unset();
        let config = Config {
            socket: folder.join("wayland"),
            size: Size::new(WIDTH as u32, HEIGHT as u32).unwrap(),
            fps: Fps::new(fps).unwrap(),
            scale_factor,
            viewport: None,
            origin: origin.clone(),
            output_mute: OutputMute::default(),
            render_latency: pagecast_page::av_sync::RenderLatency::default(),
            client_uid: None,
        };
        Self { display: Some(Display::start(config, out).unwrap()), ticks, folder, origin }
    }

    fn connect(&self) -> Client {
        Client::connect(&self.folder.join("wayland"))
    }

    fn start_capture(&self) {
        self.display.as_ref().unwrap().start_capture();
    }

    fn next_tick(&self) -> Tick {
        self.ticks.recv_timeout(TIMEOUT).expect("no tick within 10 s")
    }

    /// The next changed picture.
    fn next_frame(&self) -> Frame {
        std::iter::repeat_with(|| self.next_tick()).find_map(|t| t.frame).unwrap()
    }

    /// The next picture whose pixel at `at` has this colour.
    fn next_frame_with(&self, at: (i32, i32), colour: u32) -> Frame {
        (0..600).map(|_| self.next_frame()).find(|f| pixel(f, at) == colour & 0xff_ffff).unwrap()
    }

    /// Checks that the display still serves other clients.
    fn assert_still_serving(&self) {
        let mut client = self.connect();
        client.roundtrip();
        assert!(!self.display.as_ref().unwrap().has_failed());
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.display = None;
        assert!(!self.folder.join("wayland").exists(), "the display removes its socket");
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn pixel(frame: &Frame, (x, y): (i32, i32)) -> u32 {
    let at = y as usize * frame.picture.stride() + x as usize * 4;
    let bgrx = &frame.picture.bgrx()[at..at + 4];
    u32::from_le_bytes([bgrx[0], bgrx[1], bgrx[2], 0])
}

/// Starts a display, and shows a red window on it.
fn show_red_window(name: &str, fps: u32) -> (Fixture, Client, Window) {
    let fixture = Fixture::new(name, fps, 1.0);
    let mut client = fixture.connect();
    let window = client.create_window();
    client.paint(&window.surface, SIZE, RED);
    (fixture, client, window)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn the_first_tick_has_the_whole_picture_and_an_identical_commit_is_no_change() {
    let (fixture, mut client, window) = show_red_window("first", 60);
    assert_eq!(client.received.configured, Some(SIZE));
    assert!(client.received.activated, "the window is activated");
    fixture.start_capture();
    let first = fixture.next_tick();
    assert_eq!((first.index, first.pts.0), (0, 0));
    assert!(fixture.origin.get().is_some());
    let frame = first.frame.unwrap();
    assert_eq!(frame.damage.count(), 5 * 10);
    assert_eq!((pixel(&frame, (0, 0)), pixel(&frame, (WIDTH - 1, HEIGHT - 1))), (0xff_0000, 0xff_0000));
    client.paint(&window.surface, SIZE, RED);
    for index in 1..20 {
        let tick = fixture.next_tick();
        assert_eq!((tick.index, tick.pts), (index, Fps::new(60).unwrap().time_of(index)));
        assert!(tick.frame.is_none(), "the same picture again is no change");
    }
    assert!(client.received.released >= 1, "buffers are released immediately");
}

#[test]
fn only_tiles_that_differ_are_damage() {
    let (fixture, mut client, window) = show_red_window("tiles", 60);
    fixture.start_capture();
    fixture.next_frame();
    let buffer = client
        .create_buffer(SIZE, |x, y| if (70..75).contains(&x) && (40..50).contains(&y) { BLUE } else { RED });
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.damage_buffer(0, 0, WIDTH, HEIGHT);
    window.surface.commit();
    client.roundtrip();
    let frame = fixture.next_frame();
    assert_eq!(frame.damage.runs().collect::<Vec<_>>(), [(2, 1, 2), (3, 1, 2)]);
    assert_eq!((pixel(&frame, (72, 45)), pixel(&frame, (0, 0))), (BLUE & 0xff_ffff, RED & 0xff_ffff));
}

#[test]
fn presentation_times_lie_on_the_grid_and_slow_fast_clients_down() {
    let (fixture, mut client, window) = show_red_window("pace", 50);
    let handle = client.handle();
    fixture.start_capture();
    for n in 0..25_u32 {
        let done = client.received.frames_done;
        window.surface.frame(&handle, ());
        client.presentation.feedback(&window.surface, &handle, ());
        client.paint(&window.surface, SIZE, 0xff00_0000 + n);
        client.wait_until(|t| t.frames_done > done);
    }
    assert_eq!(client.received.presented.len(), 25);
    assert!(client.received.presented.iter().all(|(_, refresh)| *refresh == 20_000_000));
    let origin = fixture.origin.get().unwrap().0;
    for (at, _) in &client.received.presented {
        assert_eq!((*at as i64 - origin).rem_euclid(20_000_000), 0, "presentation lies on the tick grid");
    }
    let slots: Vec<i64> = client
        .received
        .presented
        .iter()
        .map(|(at, _)| (*at as i64 - origin).div_euclid(20_000_000))
        .collect();
    assert!(slots.windows(5).all(|w| w[0] < w[4]), "a fast client is slowed down: {slots:?}");
}

#[test]
fn popups_and_subsurfaces_are_on_top_until_they_are_destroyed() {
    let (fixture, mut client, window) = show_red_window("layers", 60);
    fixture.start_capture();
    fixture.next_frame();
    let (popup, surface) = client.create_popup(&window, (100, 50), (40, 20), GREEN);
    let frame = fixture.next_frame_with((110, 60), GREEN);
    assert_eq!(
        (pixel(&frame, (99, 50)), pixel(&frame, (139, 69)), pixel(&frame, (140, 70))),
        (0xff_0000, 0x00_ff00, 0xff_0000)
    );
    popup.destroy();
    surface.destroy();
    client.roundtrip();
    fixture.next_frame_with((110, 60), RED);

    let handle = client.handle();
    let child = client.compositor.create_surface(&handle, ());
    let sub = client.subcompositor.get_subsurface(&child, &window.surface, &handle, ());
    sub.set_position(200, 100);
    client.paint(&child, (30, 30), 0x8000_0080);
    client.paint(&window.surface, SIZE, RED);
    let frame = fixture.next_frame_with((210, 110), 0xff7f_0080);
    assert_eq!(pixel(&frame, (230, 130)), 0xff_0000, "half transparent blue over red, and nothing beside it");
}

#[test]
fn a_popup_that_would_leave_the_screen_is_moved_onto_it() {
    let (fixture, mut client, window) = show_red_window("popup-edge", 60);
    let handle = client.handle();
    let positioner = client.wm_base.create_positioner(&handle, ());
    positioner.set_size(100, 100);
    positioner.set_anchor_rect(300, 140, 10, 10);
    positioner.set_constraint_adjustment(
        wayland_protocols::xdg::shell::client::xdg_positioner::ConstraintAdjustment::SlideX
            | wayland_protocols::xdg::shell::client::xdg_positioner::ConstraintAdjustment::SlideY,
    );
    let surface = client.compositor.create_surface(&handle, ());
    let xdg = client.wm_base.get_xdg_surface(&surface, &handle, ());
    let _popup = xdg.get_popup(Some(&window.xdg), &positioner, &handle, ());
    surface.commit();
    client.roundtrip();
    client.paint(&surface, (100, 100), GREEN);
    fixture.start_capture();
    let frame = fixture.next_frame_with((319, 159), GREEN);
    assert_eq!((pixel(&frame, (220, 60)), pixel(&frame, (219, 59))), (0x00_ff00, 0xff_0000));
}

#[test]
fn a_scale_factor_has_fewer_logical_pixels() {
    let fixture = Fixture::new("scale", 60, 1.5);
    let mut client = fixture.connect();
    let window = client.create_window();
    assert_eq!(client.received.configured, Some((214, 107)), "logical pixels, rounded up");
    let handle = client.handle();
    client.fractional_scale_manager.get_fractional_scale(&window.surface, &handle, ());
    client.roundtrip();
    assert_eq!(client.received.preferred_scale, Some(180));
    let viewport = client.viewporter.get_viewport(&window.surface, &handle, ());
    viewport.set_destination(214, 107);
    client.paint(&window.surface, (321, 161), RED);
    fixture.start_capture();
    fixture.next_frame_with((WIDTH - 1, HEIGHT - 1), RED);
    // Damage in surface coordinates reaches the pixels it covers.
    let buffer = client.create_buffer((321, 161), |x, y| if x >= 300 && y >= 150 { GREEN } else { RED });
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.damage(200, 100, 14, 7);
    window.surface.commit();
    client.roundtrip();
    let frame = fixture.next_frame();
    assert_eq!((pixel(&frame, (300, 150)), pixel(&frame, (299, 149))), (0x00_ff00, 0xff_0000));
}

#[test]
fn many_commits_make_few_frames() {
    let (fixture, mut client, window) = show_red_window("storm", 30);
    fixture.start_capture();
    let before = resident_kib();
    let storm: Vec<_> = (0..64).map(|n| client.create_buffer(SIZE, move |_, _| 0xff00_0000 + n)).collect();
    for _ in 0..200 {
        for buffer in &storm {
            window.surface.attach(Some(buffer), 0, 0);
            window.surface.damage_buffer(0, 0, WIDTH, HEIGHT);
            window.surface.commit();
        }
        assert!(client.flush());
    }
    client.paint(&window.surface, SIZE, BLUE);
    fixture.next_frame_with((5, 5), BLUE);
    let stats = fixture.display.as_ref().unwrap().stats();
    assert!(stats.frames < 600, "{stats:?}: 12800 commits make few frames");
    assert!(resident_kib() < before + 50_000, "{} KiB before, {} after", before, resident_kib());
}

#[test]
fn a_slow_receiver_gets_all_damage_later() {
    let (fixture, mut client, window) = show_red_window("slow", 60);
    fixture.start_capture();
    fixture.next_frame();
    // 64 ticks fill the queue; later changes must wait.
    for n in 0..20 {
        client.paint(&window.surface, SIZE, 0xff00_0000 + n);
        // Longer than a tick, so that each change is one.
        std::thread::sleep(Duration::from_millis(20));
    }
    client.paint(&window.surface, SIZE, GREEN);
    let frame = fixture.next_frame_with((0, 0), GREEN);
    assert_eq!(frame.damage.count(), 50);
    assert!(fixture.display.as_ref().unwrap().stats().dropped > 0);
}

#[test]
fn invalid_buffers_affect_only_their_client() {
    let fixture = Fixture::new("invalid", 60, 1.0);
    // A file that is shorter than its pool: reading it raises SIGBUS.
    let mut short = fixture.connect();
    let window = short.create_window();
    let handle = short.handle();
    let file = create_memfd(&[0; 16]);
    let pool = short.shm.create_pool(file.as_fd(), WIDTH * HEIGHT * 4, &handle, ());
    let buffer = pool.create_buffer(0, WIDTH, HEIGHT, WIDTH * 4, Format::Argb8888, &handle, ());
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.commit();
    assert!(short.is_disconnected());
    // A buffer that extends beyond its pool.
    let mut outside = fixture.connect();
    let window = outside.create_window();
    let handle = outside.handle();
    let pool = outside.shm.create_pool(create_memfd(&[0; 64]).as_fd(), 64, &handle, ());
    let buffer = pool.create_buffer(32, 1000, 1000, 4000, Format::Argb8888, &handle, ());
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.commit();
    let _ignored_or_disconnected = outside.queue.roundtrip(&mut outside.received);
    // An empty pool of two gigabytes.
    let mut huge = fixture.connect();
    let window = huge.create_window();
    let handle = huge.handle();
    let file = create_memfd(&[]);
    rustix::fs::ftruncate(&file, i32::MAX as u64).unwrap();
    let before = resident_kib();
    let pool = huge.shm.create_pool(file.as_fd(), i32::MAX, &handle, ());
    let buffer = pool.create_buffer(0, 23_000, 23_000, 92_000, Format::Xrgb8888, &handle, ());
    window.surface.attach(Some(&buffer), 0, 0);
    window.surface.commit();
    huge.roundtrip();
    assert!(resident_kib() < before + 50_000, "only the visible part is kept");
    fixture.assert_still_serving();
}

#[test]
fn invalid_requests_affect_only_their_client() {
    let fixture = Fixture::new("sense", 60, 1.0);
    type Request = fn(&Client);
    let requests: [(&str, Request); 2] = [
        ("an empty pool", |c| {
            c.shm.create_pool(create_memfd(&[0; 64]).as_fd(), 0, &c.handle(), ());
        }),
        ("a pool that shrinks to zero", |c| {
            c.shm.create_pool(create_memfd(&[0; 64]).as_fd(), 64, &c.handle(), ()).resize(0);
        }),
    ];
    for (name, request) in requests {
        let mut client = fixture.connect();
        request(&client);
        assert!(client.is_disconnected(), "{name}");
        fixture.assert_still_serving();
    }
}

#[test]
fn a_malformed_string_ends_the_connection_and_not_the_display() {
    let fixture = Fixture::new("null", 60, 1.0);
    let clipboard = fixture.connect().global("wl_data_device_manager");
    let mut hostile = UnixStream::connect(fixture.folder.join("wayland")).unwrap();
    let request = |object: u32, opcode: u32, arguments: &[u32]| {
        let length = 8 + 4 * arguments.len() as u32;
        [&[object, length << 16 | opcode][..], arguments].concat()
    };
    let name: Vec<u32> =
        b"wl_data_device_manager\0\0".as_chunks::<4>().0.iter().map(|c| u32::from_ne_bytes(*c)).collect();
    let requests = [
        request(1, 1, &[2]),
        request(2, 0, &[&[clipboard, 23], &name[..], &[1, 3]].concat()),
        request(3, 0, &[4]),
        request(4, 0, &[0]),
    ];
    let bytes: Vec<u8> = requests.concat().iter().flat_map(|word| word.to_ne_bytes()).collect();
    hostile.write_all(&bytes).unwrap();
    // Nothing tells when the display has handled it, and clients that connect before that are disconnected,
    // too.
    std::thread::sleep(Duration::from_millis(50));
    fixture.assert_still_serving();
    hostile.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    hostile.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_client_beyond_a_limit_is_disconnected() {
    let fixture = Fixture::new("pile", 60, 1.0);
    type Request = fn(&mut Client);
    let requests: [(&str, Request); 9] = [
        ("surfaces", |c| {
            for _ in 0..2000 {
                c.compositor.create_surface(&c.handle(), ());
            }
        }),
        ("positioners", |c| {
            for n in 0..40_000 {
                c.wm_base.create_positioner(&c.handle(), ());
                if n % 1000 == 0 && !c.flush() {
                    break;
                }
            }
        }),
        ("frame callbacks", |c| {
            let window = c.create_window();
            for _ in 0..20_000 {
                window.surface.frame(&c.handle(), ());
            }
        }),
        ("regions", |c| {
            let region = c.compositor.create_region(&c.handle(), ());
            for n in 0..20_000 {
                region.add(n, n, 1, 1);
            }
        }),
        ("pools", |c| {
            let file = create_memfd(&[0; 4096]);
            for _ in 0..20_000 {
                c.shm.create_pool(file.as_fd(), 4096, &c.handle(), ());
                if !c.flush() {
                    break;
                }
            }
        }),
        ("cached commits", |c| {
            let window = c.create_window();
            let child = c.compositor.create_surface(&c.handle(), ());
            c.subcompositor.get_subsurface(&child, &window.surface, &c.handle(), ());
            for _ in 0..20_000 {
                child.commit();
            }
        }),
        ("configurations", |c| {
            let window = c.create_window();
            for _ in 0..200 {
                window.toplevel.set_maximized();
            }
        }),
        ("offers", |c| {
            let source = c.data_device_manager.create_data_source(&c.handle(), ());
            for n in 0..100 {
                source.offer(format!("text/{n}"));
            }
        }),
        ("long offers", |c| {
            c.data_device_manager.create_data_source(&c.handle(), ()).offer("text/".repeat(500));
        }),
    ];
    for (name, request) in requests {
        let mut client = fixture.connect();
        request(&mut client);
        assert!(client.is_disconnected(), "{name}");
        fixture.assert_still_serving();
    }
}

#[test]
fn damage_without_a_commit_is_bounded() {
    let (fixture, client, window) = show_red_window("damage", 60);
    let before = resident_kib();
    for n in 0..500_000 {
        window.surface.damage_buffer(n % 300, 0, 1, 1);
        if n % 1000 == 0 && !client.flush() {
            break;
        }
    }
    fixture.assert_still_serving();
    assert!(resident_kib() < before + 100_000, "{} KiB before, {} after", before, resident_kib());
}

#[test]
fn noise_and_too_many_clients_are_rejected() {
    let fixture = Fixture::new("noise", 60, 1.0);
    let socket = fixture.folder.join("wayland");
    let mut seed = 1_u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    for length in [1, 7, 8, 64, 5000, 100_000] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let bytes: Vec<u8> = (0..length).map(|_| random()).collect();
        // The display may close the connection before it has read everything.
        let _disconnected = stream.write_all(&bytes);
    }
    // Well-formed messages: object, then length and opcode, then arguments of zeros.
    for opcode in 0..24_u32 {
        for object in [0_u32, 1, 2, 3, 0xff00_0000, u32::MAX] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let mut bytes = [object, (16 << 16) | opcode, 0, 0].map(u32::to_ne_bytes).concat();
            bytes.extend([1_u32, (12 << 16) | 1, 2].map(u32::to_ne_bytes).concat());
            let _disconnected = stream.write_all(&bytes);
        }
    }
    let crowd: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    drop(crowd);
    // Nothing tells when the display has read all of it.
    std::thread::sleep(Duration::from_millis(100));
    fixture.assert_still_serving();
}
