//! What is shown of casts: nothing secret.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use pagecast_core::cast::{EndReason, HealthFault, LoadError, Warning};
use pagecast_core::connection;
use pagecast_core::spec::{Format, RoomIds};
use pagecast_fleet::{Cast, CastState, CastStats, Event, EventKind, StoredFile, UnixMs};
use serde::Serialize;
use utoipa::ToSchema;

use super::storage;
use crate::service::Service;

/// A cast.
#[derive(Serialize, ToSchema)]
#[schema(as = Cast)]
pub(super) struct CastView {
    /// Names it: 32 hex digits. Later casts have larger ones.
    id: String,
    /// The application that wanted it.
    app: String,
    /// By which API it was asked for: `v1`, `volcengine` or `tencent`.
    origin: String,
    /// `queued`, `starting`, `live` or `ended`.
    #[schema(value_type = String, example = "live")]
    state: CastState,
    /// Why it is over, once it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    /// Whether somebody asked for its end.
    stop_asked: bool,
    /// Whether nothing is left to do for it, storing its recording included.
    closed: bool,
    /// When it was asked for (RFC 3339).
    created_at: String,
    /// When a worker first took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    /// When the page was first in its outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    live_at: Option<String>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// The page.
    source: SourceView,
    /// Time from its first frame to its end, at most, in seconds.
    max_time_s: u64,
    /// The cast ends when the page was shown for so long, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_s: Option<f64>,
    /// The room that it is published in.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomView>,
    /// What is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<RecordingView>,
    /// Servers that the stream is sent to, those that were removed included.
    pushes: Vec<PushView>,
    /// What its owner should know of its page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningView>,
    /// How it gets on at the moment, if somebody runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    vitals: Option<CastStatsView>,
    /// Events that are not in its history, because it has 10 000 already.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    events_dropped: u64,
    /// More about it.
    links: CastLinks,
}

/// Why a cast is over.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = End)]
pub(super) struct EndView {
    /// `stopped`, `page-ended`, `max-time`, `complete`, `large-video`, `start-failed`, `gave-up` or
    /// `output-failed`.
    #[schema(example = "stopped")]
    reason: &'static str,
    /// What was wrong with the page, if it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'static str>,
    /// Why the page could not be loaded, if that is why: `name-not-found`, `connection-refused`,
    /// `connection-reset`, `timed-out`, `unreachable`, `http-status`, `certificate`, `not-public`, `denied`
    /// or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// For people, if there is more to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What the owner of a page should know of it.
#[derive(Clone, Copy, PartialEq, Serialize, ToSchema)]
#[schema(as = Warning)]
pub(super) struct WarningView {
    /// `webrtc-without-udp` or `insecure-tls`.
    #[schema(example = "webrtc-without-udp")]
    kind: &'static str,
    /// For people: what it means, and what to do.
    message: &'static str,
}

/// A page.
#[derive(Serialize, ToSchema)]
#[schema(as = Source)]
struct SourceView {
    /// Its address; what stands behind the `?` is shown as `…`.
    url: String,
    /// Width of the picture in pixels.
    width: u32,
    /// Height of the picture in pixels.
    height: u32,
    /// Pictures per second.
    fps: u32,
    /// Device pixel ratio.
    scale_factor: f64,
    /// Cap on the bitrate of the picture in recordings and pushes.
    bitrate_kbps: u32,
}

/// A room.
#[derive(Serialize, ToSchema)]
#[schema(as = Room)]
struct RoomView {
    /// Its name.
    room: String,
    /// The user that the page is published as.
    user: String,
    /// Where the connection stands: `idle`, `connecting`, `running`, `recovering`, `failed` or
    /// `disconnecting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    state: Option<connection::State>,
    /// Why it does not run, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Where to watch it, if it is a room of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    watch_url: Option<String>,
    /// Viewers in it now, if it is a room of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    viewers: Option<usize>,
}

/// A recording.
#[derive(Serialize, ToSchema)]
#[schema(as = Recording)]
struct RecordingView {
    /// What its files are called.
    name: String,
    /// The bucket it is kept in; absent for a folder of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// `mp4`, `hls`, `hls-ts`, `both` or `both-ts`.
    #[schema(value_type = String)]
    format: Format,
    /// Whether nothing is recorded any more though the cast goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    given_up: bool,
    /// Why storing it has been failing for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What was stored, once that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<StoredView>,
}

/// What was stored.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Stored)]
pub(super) struct StoredView {
    /// Whether all of it is where it should be.
    complete: bool,
    /// Whether it is in the backup instead.
    backup: bool,
    /// Why not, if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// The files that players open.
    files: Vec<FileView>,
}

/// A file that was stored.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = File)]
struct FileView {
    /// Its name.
    name: String,
    /// Bytes.
    bytes: u64,
    /// When its first frame was shown.
    begin_at: String,
    /// When its last one was.
    end_at: String,
    /// The id that video on demand gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    media_id: Option<String>,
    /// Its address, if the storage told one.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// A server that the stream is sent to.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Push)]
pub(super) struct PushView {
    /// Its number within the cast, from 1.
    id: u32,
    /// Where it is sent, without its key.
    url: String,
    /// Where it stands: `idle`, `connecting`, `running`, `recovering`, `failed` or `disconnecting`.
    #[schema(value_type = String, example = "running")]
    state: connection::State,
    /// Why it does not run, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How a cast gets on at the moment.
#[derive(Serialize, ToSchema)]
#[schema(as = Vitals)]
struct CastStatsView {
    /// When this was true.
    at: String,
    /// Length of the output so far, in milliseconds.
    elapsed_ms: u64,
    /// Changed pictures a second, lately.
    fps: f64,
    /// Changed pictures.
    frames_captured: u64,
    /// Pictures encoded.
    frames_encoded: u64,
    /// Moments without a change.
    frames_unchanged: u64,
    /// Changes that were told with a later picture.
    frames_dropped: u64,
    /// Bytes encoded.
    bytes: u64,
    /// Loudest sample lately, 0 to 1 and beyond: left, right.
    peak: [f32; 2],
    /// Cores that it takes, lately.
    cpu_cores: f64,
    /// Memory that it takes, in bytes.
    memory_bytes: u64,
    /// Files that wait to be stored, or are being stored.
    upload_pending: usize,
    /// What is sent to the room, in kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_bitrate_kbps: Option<u32>,
    /// The time a packet takes to the room's server and back, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_rtt_ms: Option<f64>,
    /// Largest part of packets that a layer lost lately, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_loss: Option<f32>,
}

/// Addresses, below the server's.
#[derive(Serialize, ToSchema)]
struct CastLinks {
    /// The cast.
    this: String,
    /// What happened to it.
    events: String,
    /// A picture of it.
    snapshot: String,
    /// Pictures and last words of its page in trouble.
    evidence: String,
    /// What was told of it, and what came of that.
    deliveries: String,
}

/// What the history of a cast says of its outputs.
#[derive(Default)]
pub(super) struct OutputStates {
    pushes: BTreeMap<u32, PushView>,
    room: Option<(connection::State, Option<String>)>,
    recording_stopped: bool,
    upload_error: Option<String>,
    stored: Option<StoredView>,
    warnings: Vec<WarningView>,
}

impl OutputStates {
    /// One more event.
    pub(super) fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Push { id, url, state, error } => {
                let view = PushView { id: *id, url: url.clone(), state: *state, error: error.clone() };
                self.pushes.insert(*id, view);
            }
            EventKind::Room { state, error } => self.room = Some((*state, error.clone())),
            EventKind::RecordingStopped => self.recording_stopped = true,
            EventKind::Warning { warning } => {
                let view = WarningView::new(*warning);
                // Told again after a restart of the service.
                if !self.warnings.contains(&view) {
                    self.warnings.push(view);
                }
            }
            EventKind::Upload { failing: stuck, error: problem, .. } => {
                self.upload_error = if *stuck { problem.clone() } else { None };
            }
            EventKind::Stored { files, complete, backup, error: problem } => {
                self.stored = Some(stored_view(files, *complete, *backup, problem.as_ref()));
                self.upload_error = None;
            }
            EventKind::Queued
            | EventKind::Started
            | EventKind::Live
            | EventKind::Reloaded { .. }
            | EventKind::Moved { .. }
            | EventKind::Restarted
            | EventKind::Resumed
            | EventKind::Ended { .. } => {}
        }
    }
}

pub(super) fn stored_view(
    files: &[StoredFile],
    complete: bool,
    backup: bool,
    problem: Option<&String>,
) -> StoredView {
    let file = |file: &StoredFile| FileView {
        name: file.name.clone(),
        bytes: file.bytes,
        begin_at: rfc3339(file.begin_ms),
        end_at: rfc3339(file.end_ms),
        media_id: file.media_id.clone(),
        url: file.url.clone(),
    };
    StoredView { complete, backup, problem: problem.cloned(), files: files.iter().map(file).collect() }
}

impl CastView {
    /// A cast as it stands.
    pub(super) fn new(
        service: &Service,
        cast: &Cast,
        vitals: Option<&CastStats>,
        outputs: OutputStates,
    ) -> Self {
        let spec = &cast.spec;
        let size = spec.source.size;
        let link = |rest: &str| format!("/v1/casts/{}{rest}", cast.id);
        Self {
            id: cast.id.to_string(),
            app: cast.app.clone(),
            origin: cast.api.clone(),
            state: cast.state,
            end: cast
                .end
                .as_ref()
                .map(|end| EndView::new(end.reason, end.message.as_ref(), end.cause.as_ref())),
            stop_asked: cast.stop_requested,
            closed: cast.closed,
            created_at: rfc3339(cast.created_ms),
            started_at: cast.started_ms.map(rfc3339),
            live_at: cast.live_ms.map(rfc3339),
            ended_at: cast.ended_ms.map(rfc3339),
            source: SourceView {
                url: spec.source.url.to_string(),
                width: size.width(),
                height: size.height(),
                fps: spec.source.fps.get(),
                scale_factor: spec.source.scale_factor,
                bitrate_kbps: spec.bitrate_bps() / 1000,
            },
            max_time_s: spec.limits.max_time.as_secs(),
            duration_s: spec.duration.map(|duration| duration.as_secs_f64()),
            pushes: push_views(cast, vitals, &outputs),
            warnings: outputs.warnings,
            room: room_view(service, cast, vitals, outputs.room),
            recording: spec.recording.as_ref().map(|recording| RecordingView {
                name: recording.name.clone(),
                to: storage::public_url(&recording.to),
                format: recording.format,
                given_up: outputs.recording_stopped,
                problem: vitals.and_then(|vitals| vitals.upload_error.clone()).or(outputs.upload_error),
                stored: outputs.stored,
            }),
            vitals: vitals.map(CastStatsView::new),
            events_dropped: cast.events_dropped,
            links: CastLinks {
                this: link(""),
                events: link("/events"),
                snapshot: link("/snapshot.jpg"),
                evidence: link("/evidence"),
                deliveries: link("/deliveries"),
            },
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl EndView {
    pub(super) fn new(reason: EndReason, message: Option<&String>, cause: Option<&LoadError>) -> Self {
        let (reason, trouble) = match reason {
            EndReason::Stopped => ("stopped", None),
            EndReason::PageEnded => ("page-ended", None),
            EndReason::MaxTime => ("max-time", None),
            EndReason::Complete => ("complete", None),
            EndReason::LargeVideo => ("large-video", None),
            EndReason::StartFailed => ("start-failed", None),
            EndReason::GaveUp(trouble) => ("gave-up", Some(fault_name(trouble))),
            EndReason::OutputFailed => ("output-failed", None),
        };
        Self { reason, trouble, cause: cause.map(LoadError::kind), message: message.cloned() }
    }
}

impl WarningView {
    pub(super) fn new(warning: Warning) -> Self {
        let message = match warning {
            Warning::WebRtcWithoutUdp => {
                "the page uses WebRTC, which may need UDP: the application's network.udp allows it"
            }
            Warning::InsecureTls => {
                "a certificate of the page's own origin was accepted unchecked: tls.insecure allows it"
            }
        };
        Self { kind: warning.as_str(), message }
    }
}

impl PushView {
    pub(super) fn new(id: u32, url: &str, state: connection::State, error: Option<&String>) -> Self {
        Self { id, url: url.to_owned(), state, error: error.cloned() }
    }
}

impl CastStatsView {
    fn new(vitals: &CastStats) -> Self {
        let room = vitals.room.as_ref();
        Self {
            at: rfc3339(vitals.at_ms),
            elapsed_ms: vitals.elapsed_ms,
            fps: vitals.fps,
            frames_captured: vitals.frames_captured,
            frames_encoded: vitals.frames_encoded,
            frames_unchanged: vitals.frames_unchanged,
            frames_dropped: vitals.frames_dropped,
            bytes: vitals.bytes,
            peak: vitals.peak,
            cpu_cores: vitals.cpu_cores,
            memory_bytes: vitals.memory_bytes,
            upload_pending: vitals.upload_pending,
            room_bitrate_kbps: room.map(|room| room.bitrate_kbps),
            room_rtt_ms: room.and_then(|room| room.rtt_ms),
            room_loss: room.map(|room| room.loss),
        }
    }
}

/// What is wrong with a page, in a word.
pub(super) fn fault_name(trouble: HealthFault) -> &'static str {
    match trouble {
        HealthFault::StartTimeout => "start-timeout",
        HealthFault::Freeze => "freeze",
        HealthFault::Blank => "blank",
        HealthFault::Crash => "crash",
        HealthFault::Unreachable => "unreachable",
    }
}

/// A time as RFC 3339 writes it, in milliseconds.
pub(super) fn rfc3339(ms: UnixMs) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Those that the history knows, and those of the description that have not begun.
fn push_views(cast: &Cast, vitals: Option<&CastStats>, outputs: &OutputStates) -> Vec<PushView> {
    let mut all = outputs.pushes.clone();
    for (id, push) in (1..).zip(&cast.spec.pushes) {
        if all.len() < cast.spec.pushes.len() {
            all.entry(id)
                .or_insert_with(|| PushView::new(id, &push.url.to_string(), connection::State::Idle, None));
        }
    }
    for (id, state) in vitals.iter().flat_map(|vitals| &vitals.pushes) {
        if let Some(view) = all.get_mut(id) {
            view.state = *state;
        }
    }
    all.into_values().collect()
}

fn room_view(
    service: &Service,
    cast: &Cast,
    vitals: Option<&CastStats>,
    heard: Option<(connection::State, Option<String>)>,
) -> Option<RoomView> {
    let room = cast.spec.room.as_ref()?;
    let RoomIds { room: name, user, .. } = &room.ids;
    let (state, error) = heard.map_or((None, None), |(state, error)| (Some(state), error));
    let state = vitals.and_then(|vitals| vitals.room.as_ref()).map(|room| room.state).or(state);
    let own = service.rooms.as_ref().filter(|rooms| {
        let same = |own: pagecast_core::spec::RoomService| own.url() == room.service.url();
        cast.state != CastState::Ended && rooms.publish_service(&room.ids).is_ok_and(same)
    });
    Some(RoomView {
        room: name.clone(),
        user: user.clone(),
        error: error.filter(|_| state != Some(connection::State::Running)),
        state,
        watch_url: own.map(|rooms| rooms.watch_url(&room.ids)),
        viewers: own.map(|rooms| rooms.viewer_count(&room.ids)),
    })
}
