//! Casts to rooms: frame rate, delay and sync at a viewer, adaptation to the link, reconnection.
//!
//! Pagecast casts a page and records another page that plays it. The timecodes in the recording show what the
//! viewer saw and when.
#![expect(clippy::print_stdout, reason = "measurements are printed beside a failure")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::beeps;
use pagecast_testkit::page_server::http_get;
use pagecast_testkit::timecode::TimecodePosition;
use pagecast_testkit::{
    LinkConditions, LinkEmulator, MachineLock, Outcome, PageResponse, PageServer, PagecastCommand,
    PagecastProcess, ScratchDir, Signal, av_sync, wait_until,
};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);
/// Position at which `whep-viewer.html` shows the timecode of the played page.
const WATCHED_TIMECODE: TimecodePosition = TimecodePosition { x: 0, y: 64, cell_size: 8 };

/// A cast of a test page to the embedded room.
struct RoomCast {
    server: PageServer,
    run: PagecastProcess,
    /// URL of the room for viewers.
    room_url: String,
}

impl RoomCast {
    fn start(page: &str, options: impl FnOnce(PagecastCommand) -> PagecastCommand) -> Result<Self> {
        let server = PageServer::start()?;
        let cast = PagecastCommand::cast(PAGECAST, &server.url(page))
            .option("size", "640x360")
            .option("listen", "127.0.0.1:0")
            .option("room", "test");
        let mut run = options(cast).start()?;
        let room = run.wait_for_room(TIMEOUT)?;
        Ok(Self { server, run, room_url: room })
    }

    /// Records a viewer for this long from its first picture on, and measures it.
    fn record_viewer(&self, seconds: u32) -> Result<ViewerMeasurement> {
        let whep = format!("{}/whep", self.room_url);
        let outcome = PagecastCommand::record(
            PAGECAST,
            &self.server.url(&format!("whep-viewer.html?absolute&whep={whep}")),
        )
        .option("size", "640x424")
        .option("fps", "60")
        .option("duration", format!("{seconds}s"))
        .flag("wait-for-start")
        .flag("allow-udp")
        .finish(TIMEOUT)?;
        ViewerMeasurement::from_recording(&outcome, &self.server)
    }

    fn stop(self) -> Result<Outcome> {
        self.run.signal(Signal::TERM)?;
        self.run.finish(TIMEOUT)
    }
}

/// Measurements of a viewer. Delays are in milliseconds, smallest first.
struct ViewerMeasurement {
    /// Time from drawing a picture to showing it, for each picture.
    frame_delays_ms: Vec<f64>,
    /// Time from the page time of a beep to its sound at the viewer.
    beep_delays_ms: Vec<f64>,
    /// Distinct pictures per second.
    fps: f64,
}

impl ViewerMeasurement {
    fn from_recording(outcome: &Outcome, server: &PageServer) -> Result<Self> {
        let recording = outcome.recording()?;
        let mut pictures = Vec::new();
        let mut clock = Vec::new();
        for (at, timecodes) in recording.timecodes_at(&[TimecodePosition::PAGE, WATCHED_TIMECODE])? {
            clock.extend(timecodes[0].map(|viewer| viewer.page_s() - at));
            pictures.extend(timecodes[1].map(|timecode| (at, timecode)));
        }
        // Offset between the clock of the machine and the time in the recording.
        let clock = av_sync::median(clock);
        let [onsets] = beeps::onsets_of_each(recording.pcm()?, [av_sync::PAGE_BEEP])?;
        let due: Vec<f64> = pictures.iter().filter_map(|(_, timecode)| timecode.event_s()).collect();
        let beep_delay = |onset: &f64| {
            let played_s = onset + clock;
            due.iter()
                .map(|due| 1000.0 * (played_s - due))
                .filter(|ms| ms.abs() < 400.0)
                .min_by(|a, b| a.abs().total_cmp(&b.abs()))
        };
        let mut picture_delays: Vec<f64> = server
            .requests()
            .iter()
            .filter_map(|request| request.strip_prefix("/report/delays?"))
            .flat_map(|delays| delays.split(',').filter_map(|ms| ms.parse().ok()))
            .collect();
        picture_delays.sort_by(f64::total_cmp);
        let mut counters: Vec<_> = pictures.iter().map(|(_, timecode)| timecode.counter).collect();
        counters.dedup();
        let (first, last) = pictures.first().zip(pictures.last()).context("the viewer showed no picture")?;
        let fps = (counters.len() as f64 - 1.0) / (last.0 - first.0);
        Ok(Self {
            frame_delays_ms: picture_delays,
            beep_delays_ms: onsets.iter().filter_map(beep_delay).collect(),
            fps,
        })
    }

    /// Quantile of the delays of pictures; 0.5 is the median.
    fn delay_ms(&self, quantile: f64) -> f64 {
        self.frame_delays_ms
            .get((self.frame_delays_ms.len() as f64 * quantile) as usize)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// Lag of the sound behind the picture.
    fn av_offset_ms(&self) -> f64 {
        av_sync::median(self.beep_delays_ms.clone()) - self.delay_ms(0.5)
    }
}

/// An address with a free UDP port.
fn free_address() -> Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}

/// Bitrates of video and audio that the room receives, in kbit/s.
fn received_kbps(room: &str) -> Result<(u64, u64)> {
    let stats: serde_json::Value = serde_json::from_str(&http_get(&format!("{room}/stats"))?)?;
    let publisher = &stats["publishers"][0];
    let layers = publisher["layers"].as_array();
    let video = layers.into_iter().flatten().filter_map(|layer| layer["bitrate_bps"].as_u64()).sum::<u64>();
    Ok((video / 1000, publisher["audio_bps"].as_u64().unwrap_or(0) / 1000))
}

/// Waits until the received bitrates of video and audio match, and returns the time it took.
fn wait_for_kbps(room: &str, what: &str, matches: impl Fn(u64, u64) -> bool) -> Result<Duration> {
    let begin = Instant::now();
    let (video, audio) = wait_until(what, TIMEOUT, || {
        let (video, audio) = received_kbps(room)?;
        ensure!(matches(video, audio), "{video} and {audio} kbit/s");
        Ok((video, audio))
    })?;
    println!("{what}: {video} and {audio} kbit/s after {:?}", begin.elapsed());
    Ok(begin.elapsed())
}

/// Starts another cast whose process hosts a room.
fn start_host_room(listen: &str) -> Result<(PageServer, PagecastProcess, String)> {
    let server = PageServer::start()?;
    let mut run = PagecastCommand::cast(PAGECAST, &server.url("static.html"))
        .option("size", "320x180")
        .option("listen", listen)
        .option("room", "host")
        .start()?;
    let address = run.wait_for_room(TIMEOUT)?;
    Ok((server, run, address))
}

fn guest_command(server: &PageServer, host: &str) -> PagecastCommand {
    let rooms = host.rsplit_once('/').map_or(host, |(rooms, _)| rooms);
    PagecastCommand::cast(PAGECAST, &server.url("counter.html?report"))
        .option("size", "320x180")
        .option("room", "guests")
        .option("whip", format!("{rooms}/{{room}}/whip?user={{user}}"))
}

/// Waits until this many publishers send to the room `guests`, and returns the time it took.
fn wait_for_publishers(host: &str, count: usize, limit: Duration) -> Result<Duration> {
    let rooms = host.rsplit_once('/').map_or(host, |(rooms, _)| rooms);
    let begin = Instant::now();
    wait_until("the publishers send", limit, || {
        let stats: serde_json::Value = serde_json::from_str(&http_get(&format!("{rooms}/guests/stats"))?)?;
        let sends = |p: &serde_json::Value| p["audio_bps"].as_u64().unwrap_or(0) > 0;
        let there = stats["publishers"].as_array().map_or(0, |all| all.iter().filter(|p| sends(p)).count());
        ensure!(there == count, "{there} of {count} publishers: {stats}");
        Ok(())
    })?;
    Ok(begin.elapsed())
}

#[test]
fn a_cast_that_no_room_accepts_is_never_live() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?.with_route("/whip", PageResponse::Html(403, "not you".to_owned()));
    let run = PagecastCommand::cast(PAGECAST, &pages.url("counter.html"))
        .option("size", "320x180")
        .option("room", "guests")
        .option("whip", pages.url("whip"))
        .start()?;
    let outcome = run.finish(TIMEOUT)?;
    outcome.expect_failure(4, &["403"])?;
    ensure!(!outcome.stderr.contains("page live"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_second_publisher_of_a_user_replaces_the_first() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (_server, room, address) = start_host_room("127.0.0.1:0")?;
    let pages = PageServer::start()?;
    let first = guest_command(&pages, &address).start()?;
    wait_for_publishers(&address, 1, TIMEOUT)?;
    let mut second = guest_command(&pages, &address).start()?;
    second.wait_until("the page was live", TIMEOUT, |run| run.stderr_so_far().contains("page live"))?;
    first.finish(TIMEOUT)?.expect_failure(4, &["another publisher took over"])?;
    wait_for_publishers(&address, 1, TIMEOUT)?;
    for run in [second, room] {
        run.signal(Signal::TERM)?;
        run.finish(TIMEOUT)?.expect_code(0)?;
    }
    Ok(())
}

#[test]
fn a_room_that_restarts_is_rejoined() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (_server, mut room, address) = start_host_room("127.0.0.1:0")?;
    let pages = PageServer::start()?;
    let mut cast = guest_command(&pages, &address).start()?;
    wait_for_publishers(&address, 1, TIMEOUT)?;
    // A cast whose page was not shown ends with an error.
    pages.wait_for_request("/report/second-1", TIMEOUT)?;
    room.kill_all();
    drop(room);
    cast.wait_until("the lost connection was reported", TIMEOUT, |run| {
        run.stderr_so_far().contains("room connection")
    })?;
    let listen = address.trim_start_matches("http://").split('/').next().context("no address")?;
    let (_server, room, address) = start_host_room(listen)?;
    let back = wait_for_publishers(&address, 1, TIMEOUT)?;
    println!("back after {back:?}");
    // Pauses between attempts are at most three seconds; the rest is for a busy machine.
    ensure!(back < Duration::from_secs(30), "{back:?}");
    cast.signal(Signal::TERM)?;
    let report = cast.finish(TIMEOUT)?.report()?;
    ensure!(
        report.room.context("no report of the room")?["reconnects"] == 1 && report.moves == 0,
        "the room or the page was restarted"
    );
    room.signal(Signal::TERM)?;
    room.finish(TIMEOUT)?.expect_code(0)
}

#[test]
fn a_cast_to_a_room_is_recorded_too() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let folder = ScratchDir::new()?;
    let file = folder.join("room.mp4");
    let room_cast = RoomCast::start("sync.html?absolute", |cast| {
        cast.option("layer", "320x180").output(file.clone()).option("duration", "8s")
    })?;
    let outcome = room_cast.run.finish(TIMEOUT)?;
    let report = outcome.report()?;
    ensure!(report.duration_ms >= 7900.0, "{report:?}");
    ensure!(
        outcome.recording()?.timecodes(TimecodePosition::PAGE)?.len() > 100,
        "the recording lacks pictures"
    );
    let layers = report.room.context("no report of the room")?["layers"].clone();
    ensure!(layers[0]["width"] == 640 && layers[1]["width"] == 320, "{layers}");
    Ok(())
}

/// Tests that measure time, so they need the machine for themselves.
mod exclusive {
    use super::*;

    #[test]
    fn a_page_is_seen_and_heard_in_the_room() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let room_cast = RoomCast::start("sync.html?absolute", |cast| cast)?;
        let watched = room_cast.record_viewer(12)?;
        let (median, p95, sound) = (watched.delay_ms(0.5), watched.delay_ms(0.95), watched.av_offset_ms());
        println!(
            "delay median {median:.0} ms, p95 {p95:.0} ms; {:.2} fps; sound {sound:+.0} ms, beeps {:?}",
            watched.fps, watched.beep_delays_ms
        );
        let outcome = room_cast.stop()?;
        outcome.expect_code(0)?;
        // Loose limits, as two browsers and an encoder share the machine. The bench measures the real delays.
        ensure!(watched.fps >= 25.0, "{} pictures per second", watched.fps);
        ensure!(median <= 400.0 && p95 <= 900.0, "{median} ms, {p95} ms");
        ensure!(
            watched.beep_delays_ms.len() >= 6 && sound.abs() <= 100.0,
            "{sound} ms, {:?}",
            watched.beep_delays_ms
        );
        let room = outcome.report()?.room.context("no report of the room")?;
        ensure!(room["reconnects"] == 0, "{room}");
        Ok(())
    }

    #[test]
    fn a_bad_link_gets_a_lower_bitrate_and_a_good_one_a_higher() -> Result<()> {
        let _turn = MachineLock::exclusive()?;
        let media = free_address()?;
        let link = LinkEmulator::start(media)?;
        let room_cast = RoomCast::start("noise.html", |cast| {
            cast.option("listen-media", media)
                .option("public-address", link.address())
                .option("room-bitrate", 2000)
        })?;
        wait_for_kbps(&room_cast.room_url, "at first", |video, audio| video > 1200 && audio > 5)?;
        let loss =
            LinkConditions { loss: 0.05, jitter: Duration::from_millis(50), ..LinkConditions::default() };
        link.set_conditions(loss);
        // The bitrate must hold under loss, so it is measured after a while.
        std::thread::sleep(Duration::from_secs(3));
        wait_for_kbps(&room_cast.room_url, "5 % lost, 50 ms of jitter", |video, audio| {
            video > 100 && audio > 5
        })?;
        link.set_conditions(LinkConditions { bits_per_second: Some(500_000), ..LinkConditions::default() });
        let less = wait_for_kbps(&room_cast.room_url, "500 kbit/s", |video, audio| {
            (30..500).contains(&video) && audio > 5
        })?;
        // It stays low when the queue of the link is empty again.
        std::thread::sleep(Duration::from_secs(3));
        wait_for_kbps(&room_cast.room_url, "500 kbit/s, 3 s later", |video, audio| {
            (30..600).contains(&video) && audio > 5
        })?;
        link.set_conditions(LinkConditions { bits_per_second: Some(5_000_000), ..LinkConditions::default() });
        let more = wait_for_kbps(&room_cast.room_url, "5 Mbit/s", |video, audio| video > 1000 && audio > 5)?;
        println!("adapts within {less:?}, recovers within {more:?}");
        let report = room_cast.stop()?.report()?;
        ensure!(
            report.room.context("no report of the room")?["reconnects"] == 0,
            "the stream was reconnected"
        );
        Ok(())
    }
}
