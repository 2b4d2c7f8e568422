//! Tests publishing to a real LiveKit server. LiveKit's own client watches in Chromium.

#![expect(clippy::unwrap_used, reason = "an error fails the test")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::connection::State;
use pagecast_core::spec::{Layer, Room, RoomIds, RoomService, RoomUrl, Secret, Size};
use pagecast_core::{Fps, MediaTime, Packet, Track};
use pagecast_room::publish::{EncoderControl, Feed, LayerTarget, Publisher};
use pagecast_testkit::encoded_media::{self, AccessUnit};
use pagecast_testkit::{LiveKitServer, MachineLock, PageServer, ScratchDir, TlsServer, Viewer};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Longest duration of any step.
const TIMEOUT: Duration = Duration::from_secs(60);
const FPS: u32 = 30;
/// Length of the repeated clip, in seconds.
const CLIP_S: u32 = 2;
const SIZES: [(u32, u32); 2] = [(640, 360), (320, 180)];
const ROOM: &str = "here";

/// A clip that is encoded once and sent by all tests.
struct Clip {
    layers: Vec<Vec<AccessUnit>>,
    audio: Vec<Vec<u8>>,
}

/// State of the fake encoders.
#[derive(Debug, Default)]
struct EncoderState {
    /// Whether a keyframe was requested, for each layer.
    keyframe: [AtomicBool; 2],
    bitrate_bps: [AtomicU32; 2],
    sent: [AtomicU64; 2],
}

struct RecordingEncoders(Arc<EncoderState>);

impl EncoderControl for RecordingEncoders {
    fn request_keyframe(&self, layer: usize) {
        self.0.keyframe[layer].store(true, Ordering::Relaxed);
    }

    fn set_target(&self, layer: usize, target: LayerTarget) {
        self.0.bitrate_bps[layer].store(target.bitrate_bps, Ordering::Relaxed);
    }
}

/// A cast that publishes until it is dropped.
struct TestCast {
    publisher: Option<Publisher>,
    encoder_state: Arc<EncoderState>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TestCast {
    fn start(room: Room) -> Result<Self> {
        let clip = load_clip()?;
        let layers = room.layers.len();
        let publisher = Publisher::start(room)?;
        let (encoder_state, stop) = (Arc::new(EncoderState::default()), Arc::new(AtomicBool::new(false)));
        let (video_senders, video): (Vec<_>, Vec<_>) = (0..layers).map(|_| mpsc::channel(8)).unzip();
        let (audio_sender, audio) = mpsc::channel(16);
        publisher.set_feed(Feed { video, audio }, Box::new(RecordingEncoders(Arc::clone(&encoder_state))));
        let (state, stopped) = (Arc::clone(&encoder_state), Arc::clone(&stop));
        let send = move || send_loop(&clip, &state, &stopped, &video_senders, &audio_sender);
        let thread = std::thread::Builder::new().name("clip".into()).spawn(send)?;
        Ok(Self { publisher: Some(publisher), encoder_state, stop, thread: Some(thread) })
    }

    fn status(&self) -> pagecast_room::publish::Status {
        self.publisher.as_ref().unwrap().status()
    }

    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let began = Instant::now();
        while !condition(self) {
            let status = self.status();
            ensure!(began.elapsed() < TIMEOUT, "{what} took too long: {status:?}, {:?}", self.encoder_state);
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn wait_for(&self, state: State) -> Result<()> {
        self.wait(&format!("{state:?}"), |cast| cast.status().state == state)
    }

    /// Waits until the publisher fails, and returns its error.
    fn wait_for_failure(&self) -> Result<String> {
        self.wait("failing", |cast| cast.publisher.as_ref().unwrap().is_finished())?;
        let events: Vec<_> = self.publisher.as_ref().unwrap().events().map(|event| event.event).collect();
        let failed = events.iter().find(|event| event.state == State::Failed);
        let failed = failed.with_context(|| format!("it did not fail: {events:?}"))?;
        Ok(failed.error.clone().unwrap_or_default())
    }

    /// Last error of the publisher.
    fn error(&self) -> String {
        self.status().error.unwrap_or_default()
    }

    fn is_layer_active(&self, layer: usize) -> bool {
        self.encoder_state.bitrate_bps[layer].load(Ordering::Relaxed) > 0
    }
}

impl Drop for TestCast {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.publisher.take().and_then(Publisher::finish));
        self.thread.take().map(JoinHandle::join);
    }
}

/// Sends the clip repeatedly, as encoders would: no packets of a paused layer, and keyframes on request.
fn send_loop(
    clip: &Clip,
    state: &EncoderState,
    stopped: &AtomicBool,
    video: &[mpsc::Sender<Packet>],
    audio: &mpsc::Sender<Packet>,
) {
    let began = Instant::now();
    let packet = |track, data: &[u8], pts, keyframe| {
        let duration = MediaTime::ZERO;
        Packet { track, data: data.into(), pts, dts: pts, duration, keyframe }
    };
    let mut positions = [0; 2];
    let (mut frames, mut audio_packets) = (0, 0);
    while !stopped.load(Ordering::Relaxed) {
        let frame_at = MediaTime::from_index(frames, FPS);
        let audio_at =
            MediaTime::from_index(audio_packets * i64::from(encoded_media::OPUS_PACKET_SAMPLES), 48_000);
        let next = frame_at.min(audio_at);
        let due = began + Duration::from_nanos(u64::try_from(next.0).unwrap());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if audio_at == next {
            let data = &clip.audio[usize::try_from(audio_packets).unwrap() % clip.audio.len()];
            // A full queue drops packets, as with a real encoder.
            let _full = audio.try_send(packet(Track::Audio, data, next, true));
            audio_packets += 1;
            continue;
        }
        for (layer, sender) in video.iter().enumerate() {
            if state.bitrate_bps[layer].load(Ordering::Relaxed) == 0 {
                continue;
            }
            if state.keyframe[layer].swap(false, Ordering::Relaxed) {
                positions[layer] = 0;
            }
            let frame = &clip.layers[layer][positions[layer] % clip.layers[layer].len()];
            positions[layer] += 1;
            let _full = sender.try_send(packet(Track::Video, &frame.data, next, frame.keyframe));
            state.sent[layer].fetch_add(1, Ordering::Relaxed);
        }
        frames += 1;
    }
}

fn load_clip() -> Result<Arc<Clip>> {
    static CLIP: Mutex<Option<Arc<Clip>>> = Mutex::new(None);
    let mut clip = CLIP.lock().unwrap_or_else(PoisonError::into_inner);
    if clip.is_none() {
        let layers = SIZES
            .iter()
            .map(|(width, height)| encoded_media::h264_access_units(*width, *height, FPS, CLIP_S));
        *clip = Some(Arc::new(Clip {
            layers: layers.collect::<Result<_>>()?,
            audio: encoded_media::opus_packets(CLIP_S)?,
        }));
    }
    clip.clone().context("no clip")
}

fn room(server: &LiveKitServer, user: &str, layers: usize) -> Room {
    let id = |text: &str| text.to_owned();
    let ids = RoomIds { app: id("app"), room: id(ROOM), user: id(user), task: id("task") };
    let service = RoomService::LiveKit {
        url: RoomUrl::parse(&server.url()).unwrap(),
        key: id(LiveKitServer::API_KEY),
        secret: Secret::new(LiveKitServer::API_SECRET),
    };
    let layer = |(width, height): (u32, u32)| Layer {
        size: Size::new(width, height).unwrap(),
        fps: Fps::new(FPS).unwrap(),
        bitrate_kbps: Some(800),
    };
    let mut room = Room::new(service, ids, layer(SIZES[0]));
    room.layers = SIZES.into_iter().take(layers).map(layer).collect();
    room
}

/// A server for the viewer page, which waits for files named `on` and `away` in the folder.
fn page_server(steps: &ScratchDir) -> Result<PageServer> {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(PageServer::start()?
        .with_folder("/pages/", &manifest_dir.join("tests/pages"))
        .with_folder("/go/", steps.path())
        .with_folder("/packages/", &manifest_dir.join("../../target/third-party/node_modules")))
}

fn watch(pages: &PageServer, server: &LiveKitServer, low: u32) -> Result<Viewer> {
    let (url, token) = (server.url(), server.viewer_token(ROOM, "viewer")?);
    let high = SIZES[0].0;
    let page = format!("pages/livekit.html?url={url}&token={token}&high={high}&low={low}");
    Viewer::open(&pages.url(&page))
}

/// Waits for a report of the page.
fn wait_for(pages: &PageServer, viewer: &Viewer, cast: &TestCast, what: &str) -> Result<()> {
    pages
        .wait_for_request(&format!("/report/{what}"), TIMEOUT)
        .with_context(|| format!("{:?} {:?}\n{}", cast.status(), cast.encoder_state, viewer.log()))
}

/// The details of the page's latest report.
fn last_report(pages: &PageServer) -> Result<Value> {
    let requests = pages.requests();
    let last = requests.iter().rfind(|r| r.starts_with("/report/more?")).context("no report of the page")?;
    let url = url::Url::parse(&pages.url(last))?;
    let (text, _) = url.query_pairs().next().context("no details")?;
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn both_layers_arrive_and_unsubscribed_ones_are_paused() -> Result<()> {
    let Some(server) = LiveKitServer::start()? else { return Ok(()) };
    let _lock = MachineLock::shared()?;
    let steps = ScratchDir::new()?;
    let pages = page_server(&steps)?;
    let cast = TestCast::start(room(&server, "page", 2))?;
    cast.wait_for(State::Running)?;
    let viewer = watch(&pages, &server, SIZES[1].0)?;
    wait_for(&pages, &viewer, &cast, "high")?;
    let first = last_report(&pages)?;
    println!("{first}");
    ensure!(first["source"] == "screen_share" && first["simulcasted"] == true, "{first}");
    ensure!(first["heights"] == json!([SIZES[0].1]), "{first}");
    ensure!(first["energy"].as_f64().is_some_and(|energy| energy > 0.001), "{first}");
    wait_for(&pages, &viewer, &cast, "low")?;
    cast.wait("pausing the larger layer", |cast| !cast.is_layer_active(0) && cast.is_layer_active(1))?;
    std::fs::write(steps.join("on"), "")?;
    wait_for(&pages, &viewer, &cast, "high-again")?;
    let last = last_report(&pages)?;
    ensure!(last["heights"] == json!([SIZES[0].1, SIZES[1].1, SIZES[0].1]), "{last}");
    ensure!(cast.is_layer_active(0) && cast.is_layer_active(1), "{:?}", cast.encoder_state);
    std::fs::write(steps.join("away"), "")?;
    cast.wait("pausing everything", |cast| !cast.is_layer_active(0) && !cast.is_layer_active(1))?;
    ensure!(cast.status().reconnects == 0, "{:?}", cast.status());
    Ok(())
}

#[test]
fn a_single_layer_arrives_again_after_a_restart_of_the_server() -> Result<()> {
    let Some(mut server) = LiveKitServer::start()? else { return Ok(()) };
    let _lock = MachineLock::shared()?;
    let steps = ScratchDir::new()?;
    let pages = page_server(&steps)?;
    let cast = TestCast::start(room(&server, "page", 1))?;
    cast.wait_for(State::Running)?;
    {
        let viewer = watch(&pages, &server, 0)?;
        wait_for(&pages, &viewer, &cast, "high")?;
        ensure!(last_report(&pages)?["simulcasted"] == false, "{}", last_report(&pages)?);
    }
    server.kill();
    cast.wait_for(State::Recovering)?;
    println!("{}", cast.error());
    server.restart()?;
    cast.wait_for(State::Running)?;
    let pages = self::page_server(&steps)?;
    let viewer = watch(&pages, &server, 0)?;
    wait_for(&pages, &viewer, &cast, "high")
}

#[test]
fn the_error_of_a_wrong_key_does_not_contain_it() -> Result<()> {
    let Some(server) = LiveKitServer::start()? else { return Ok(()) };
    let wrong = |key: &str, secret: &str| -> Result<String> {
        let mut room = room(&server, "page", 1);
        let url = RoomUrl::parse(&server.url())?;
        room.service = RoomService::LiveKit { url, key: key.into(), secret: Secret::new(secret) };
        let cast = TestCast::start(room)?;
        let error = cast.wait_for_failure()?;
        println!("{error}");
        Ok(error)
    };
    let unknown = wrong("nobody", LiveKitServer::API_SECRET)?;
    ensure!(unknown.contains("refuses: 401") && unknown.contains("invalid API key"), "{unknown}");
    let signed = wrong(LiveKitServer::API_KEY, "another secret, which is as long as it")?;
    ensure!(signed.contains("refuses: 401") && signed.contains("invalid token: …"), "{signed}");
    ensure!(!signed.contains("eyJ") && !signed.contains("another secret"), "{signed}");
    Ok(())
}

#[test]
fn an_untrusted_certificate_is_refused() -> Result<()> {
    let Some(server) = LiveKitServer::start()? else { return Ok(()) };
    let untrusted = TlsServer::start()?;
    let mut room = room(&server, "page", 1);
    let url = RoomUrl::parse(&untrusted.url().replace("https:", "wss:"))?;
    room.service = RoomService::LiveKit {
        url,
        key: LiveKitServer::API_KEY.into(),
        secret: Secret::new(LiveKitServer::API_SECRET),
    };
    let cast = TestCast::start(room)?;
    cast.wait("an error", |cast| !cast.error().is_empty())?;
    println!("{}", cast.error());
    ensure!(cast.error().contains("cannot reach wss://127.0.0.1"), "{}", cast.error());
    ensure!(cast.error().contains("certificate"), "{}", cast.error());
    Ok(())
}

#[test]
fn the_same_user_again_replaces_the_first() -> Result<()> {
    let Some(server) = LiveKitServer::start()? else { return Ok(()) };
    let first = TestCast::start(room(&server, "page", 1))?;
    first.wait_for(State::Running)?;
    let second = TestCast::start(room(&server, "page", 1))?;
    let error = first.wait_for_failure()?;
    ensure!(error.contains("another publisher took over"), "{error}");
    second.wait_for(State::Running)?;
    // Another user in the same room has no effect.
    let other = TestCast::start(room(&server, "other", 1))?;
    other.wait_for(State::Running)?;
    ensure!(
        second.status().state == State::Running && second.status().reconnects == 0,
        "{:?}",
        second.status()
    );
    Ok(())
}

#[test]
fn a_removed_publisher_does_not_reconnect() -> Result<()> {
    let Some(server) = LiveKitServer::start()? else { return Ok(()) };
    let removed = TestCast::start(room(&server, "page", 1))?;
    removed.wait_for(State::Running)?;
    server.call_api("RemoveParticipant", ROOM, &json!({ "room": ROOM, "identity": "page" }))?;
    let error = removed.wait_for_failure()?;
    ensure!(error.contains("removed from the room"), "{error}");
    let deleted = TestCast::start(room(&server, "page", 1))?;
    deleted.wait_for(State::Running)?;
    server.call_api("DeleteRoom", ROOM, &json!({ "room": ROOM }))?;
    let error = deleted.wait_for_failure()?;
    ensure!(error.contains("the room was deleted"), "{error}");
    Ok(())
}
