//! How the API shows casts, without secrets.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use pagecast_core::cast::{EndReason, HealthFault, LoadError, Warning};
use pagecast_core::connection;
use pagecast_core::spec::{Format, RoomIds};
use pagecast_fleet::{Cast, CastState, CastStats, Event, EventKind, StoredFile, UnixMs};
use serde::Serialize;
use utoipa::ToSchema;

use super::queue::QueueView;
use crate::app::public_url;
use crate::service::{Service, is_embedded_room};

/// Cast with the state of its outputs.
#[derive(Serialize, ToSchema)]
#[schema(as = Cast)]
pub(super) struct CastView {
    /// Id: 32 hex digits. Later casts have larger ids.
    id: String,
    /// Application that owns the cast.
    app: String,
    /// API that the cast was created through: `v1`, `volcengine` or `tencent`.
    api: String,
    /// State: `queued`, `starting`, `live` or `ended`.
    #[schema(value_type = String, example = "live")]
    state: CastState,
    /// Node that runs the cast, or stores its recording; null if none does.
    #[schema(required = true, example = "worker-7")]
    node: Option<String>,
    /// Place in the queue, while the cast is queued.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<QueueView>,
    /// Why the cast ended, once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    /// Whether the cast was requested to stop.
    stop_requested: bool,
    /// Whether all work for the cast is done, including the upload of its recording.
    closed: bool,
    /// Time of creation (RFC 3339).
    created_at: String,
    /// Time when a worker first started the cast.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    /// Time when the page first reached an output.
    #[serde(skip_serializing_if = "Option::is_none")]
    live_at: Option<String>,
    /// Time of the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// Page that is shown.
    source: SourceView,
    /// Labels of the nodes on which the cast may run; absent if it may run anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<PlacementView>,
    /// Longest time from the first frame to the end, in seconds.
    max_time_s: u64,
    /// Requested length of the output, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_s: Option<f64>,
    /// Room that the page is published in.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<RoomView>,
    /// Recording of the cast.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<RecordingView>,
    /// Pushes, including removed ones.
    pushes: Vec<PushView>,
    /// Warnings for the owner of the page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningView>,
    /// Times that the page was opened again because of a fault; in lists those since its node took the cast.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    reloads: u64,
    /// Current statistics, if a worker runs the cast.
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<CastStatsView>,
    /// Events that are missing in the history, because it already has 10 000.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    events_dropped: u64,
    /// Paths of further resources.
    links: CastLinks,
}

/// Nodes on which a cast may run.
#[derive(Serialize, ToSchema)]
#[schema(as = CastPlacement)]
struct PlacementView {
    /// Labels that the node must have.
    labels: Vec<String>,
}

/// End of a cast.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = CastEnd)]
pub(super) struct EndView {
    /// Reason: `stopped` (on request), `page-ended` (the page ended it), `max-time`, `complete` (all that was
    /// requested is recorded), `video-too-large`, `start-failed`, `page-failed` (it could not be healed) or
    /// `output-failed`.
    #[schema(example = "stopped")]
    reason: &'static str,
    /// Fault of the page, if the reason is `page-failed`: `start-timeout`, `freeze`, `blank`, `crash` or
    /// `unreachable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    /// Why the page could not be loaded, if that was the reason: `name-not-found`, `connection-refused`,
    /// `connection-reset`, `timed-out`, `unreachable`, `http-status`, `certificate`, `not-public`, `denied`
    /// or `other`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// Details in English, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Warning for the owner of a page.
#[derive(Clone, Copy, PartialEq, Serialize, ToSchema)]
#[schema(as = Warning)]
pub(super) struct WarningView {
    /// Kind: `webrtc-without-udp` or `insecure-tls`.
    #[schema(example = "webrtc-without-udp")]
    kind: &'static str,
    /// Meaning and remedy, in English.
    message: &'static str,
}

/// Page of a cast.
#[derive(Serialize, ToSchema)]
#[schema(as = Source)]
struct SourceView {
    /// Address of the page, with `…` instead of its query.
    url: String,
    /// Width of the picture in pixels.
    width: u32,
    /// Height of the picture in pixels.
    height: u32,
    /// Frames per second.
    fps: u32,
    /// Device pixel ratio.
    scale_factor: f64,
    /// Largest video bitrate of recordings and pushes, in kbit/s.
    bitrate_kbps: u32,
}

/// Room that a page is published in.
#[derive(Serialize, ToSchema)]
#[schema(as = Room)]
struct RoomView {
    /// Name of the room.
    room: String,
    /// User that publishes the page.
    user: String,
    /// State of the connection: `idle`, `connecting`, `running`, `recovering`, `failed` or
    /// `disconnecting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    state: Option<connection::State>,
    /// Why the connection does not run, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Address to watch the room at, if it is a room of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    watch_url: Option<String>,
    /// Current number of viewers, if it is a room of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    viewers: Option<usize>,
}

/// Recording of a cast.
#[derive(Serialize, ToSchema)]
#[schema(as = Recording)]
struct RecordingView {
    /// Beginning of the names of its files.
    name: String,
    /// Bucket of the recording; absent for a folder of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// Format: `mp4`, `hls`, `hls-ts`, `both` or `both-ts`.
    #[schema(value_type = String)]
    format: Format,
    /// Whether recording stopped although the cast goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stopped: bool,
    /// Why uploads have failed for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_error: Option<String>,
    /// The stored recording, once it is complete or given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<StoredView>,
}

/// Stored recording.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = StoredRecording)]
pub(super) struct StoredView {
    /// Whether all files are in the storage.
    complete: bool,
    /// Whether the files are in the backup storage.
    backup: bool,
    /// Why files are missing, if some are.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Files that a player opens.
    files: Vec<FileView>,
}

/// File of a recording.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = StoredFile)]
struct FileView {
    /// Name of the file.
    name: String,
    /// Size in bytes.
    bytes: u64,
    /// Time of the first frame.
    begin_at: String,
    /// Time of the last frame.
    end_at: String,
    /// Id in video on demand.
    #[serde(skip_serializing_if = "Option::is_none")]
    media_id: Option<String>,
    /// Address, if the storage returned one.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Push of a cast to a server.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Push)]
pub(super) struct PushView {
    /// Number of the push within the cast, from 1.
    id: u32,
    /// Address of the server, without the stream key.
    url: String,
    /// State of the connection: `idle`, `connecting`, `running`, `recovering`, `failed` or `disconnecting`.
    #[schema(value_type = String, example = "running")]
    state: connection::State,
    /// Why the connection does not run, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Statistics of a cast at one moment.
#[derive(Serialize, ToSchema)]
#[schema(as = CastStats)]
pub(super) struct CastStatsView {
    /// Time of these values (RFC 3339).
    at: String,
    /// Length of the output so far, in milliseconds.
    elapsed_ms: u64,
    /// Changed frames per second, recently.
    fps: f64,
    /// Frames with a change.
    frames_captured: u64,
    /// Encoded frames.
    frames_encoded: u64,
    /// Frame intervals without a change.
    frames_unchanged: u64,
    /// Changes that were merged into a later frame.
    frames_dropped: u64,
    /// Encoded bytes.
    bytes: u64,
    /// Largest recent sample of the left and right channel; 1 is full scale, and larger values are clipped.
    peak: [f32; 2],
    /// CPU cores in use, recently.
    cpu_cores: f64,
    /// Memory in use, in bytes.
    memory_bytes: u64,
    /// Files that wait to be uploaded or are being uploaded.
    upload_pending: usize,
    /// Bitrate sent to the room, in kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_bitrate_kbps: Option<u32>,
    /// Round-trip time to the room's server, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_rtt_ms: Option<f64>,
    /// Largest recent packet loss of a layer, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    room_loss: Option<f32>,
}

/// Paths on this server.
#[derive(Serialize, ToSchema)]
struct CastLinks {
    /// The cast itself.
    cast: String,
    /// Events of the cast.
    events: String,
    /// Snapshot of the cast.
    snapshot: String,
    /// Screenshots and console output of faults.
    evidence: String,
    /// History of its statistics.
    stats: String,
    /// Files of its recording.
    files: String,
    /// Deliveries of callbacks.
    deliveries: String,
}

/// State of a cast's outputs, accumulated from its events.
#[derive(Default)]
pub(super) struct OutputStates {
    pushes: BTreeMap<u32, PushView>,
    room: Option<(connection::State, Option<String>)>,
    recording_stopped: bool,
    upload_error: Option<String>,
    stored: Option<StoredView>,
    warnings: Vec<WarningView>,
    reloads: u64,
}

impl OutputStates {
    /// Applies an event.
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
                // The same warning is reported again after a restart.
                if !self.warnings.contains(&view) {
                    self.warnings.push(view);
                }
            }
            EventKind::Upload { failing, error, .. } => {
                self.upload_error = if *failing { error.clone() } else { None };
            }
            EventKind::Stored { files, complete, backup, error } => {
                self.stored = Some(stored_view(files, *complete, *backup, error.as_ref()));
                self.upload_error = None;
            }
            EventKind::Reloaded { .. } | EventKind::Moved { .. } | EventKind::Restarted => self.reloads += 1,
            EventKind::Queued
            | EventKind::Started
            | EventKind::Live
            | EventKind::LostNode { .. }
            | EventKind::Resumed { .. }
            | EventKind::Ended { .. } => {}
        }
    }
}

pub(super) fn stored_view(
    files: &[StoredFile],
    complete: bool,
    backup: bool,
    error: Option<&String>,
) -> StoredView {
    let file = |file: &StoredFile| FileView {
        name: file.name.clone(),
        bytes: file.bytes,
        begin_at: rfc3339(file.begin_ms),
        end_at: rfc3339(file.end_ms),
        media_id: file.media_id.clone(),
        url: file.url.clone(),
    };
    StoredView { complete, backup, error: error.cloned(), files: files.iter().map(file).collect() }
}

impl CastView {
    /// Describes a cast.
    pub(super) fn new(
        service: &Service,
        cast: &Cast,
        stats: Option<&CastStats>,
        outputs: OutputStates,
        queue: Option<QueueView>,
    ) -> Self {
        let spec = &cast.spec;
        let size = spec.source.size;
        let link = |rest: &str| format!("/v1/casts/{}{rest}", cast.id);
        Self {
            id: cast.id.to_string(),
            app: cast.app.clone(),
            api: cast.api.clone(),
            state: cast.state,
            node: cast.worker.as_ref().map(|worker| worker.0.clone()),
            queue,
            end: cast
                .end
                .as_ref()
                .map(|end| EndView::new(end.reason, end.message.as_ref(), end.cause.as_ref())),
            stop_requested: cast.stop_requested,
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
            placement: Some(&spec.placement.labels)
                .filter(|labels| !labels.is_empty())
                .map(|labels| PlacementView { labels: labels.clone() }),
            max_time_s: spec.limits.max_time.as_secs(),
            duration_s: spec.duration.map(|duration| duration.as_secs_f64()),
            pushes: push_views(cast, stats, &outputs),
            warnings: outputs.warnings,
            room: room_view(service, cast, stats, outputs.room),
            recording: spec.recording.as_ref().map(|recording| RecordingView {
                name: recording.name.clone(),
                to: public_url(&recording.to),
                format: recording.format,
                stopped: outputs.recording_stopped,
                upload_error: stats.and_then(|stats| stats.upload_error.clone()).or(outputs.upload_error),
                stored: outputs.stored,
            }),
            reloads: outputs.reloads.max(stats.map_or(0, |stats| stats.reloads)),
            stats: stats.map(CastStatsView::new),
            events_dropped: cast.events_dropped,
            links: CastLinks {
                cast: link(""),
                events: link("/events"),
                snapshot: link("/snapshot.jpg"),
                evidence: link("/evidence"),
                stats: link("/stats"),
                files: link("/files"),
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
        let (reason, fault) = match reason {
            EndReason::Stopped => ("stopped", None),
            EndReason::PageEnded => ("page-ended", None),
            EndReason::MaxTime => ("max-time", None),
            EndReason::Complete => ("complete", None),
            EndReason::VideoTooLarge => ("video-too-large", None),
            EndReason::StartFailed => ("start-failed", None),
            EndReason::PageFailed(fault) => ("page-failed", Some(fault_name(fault))),
            EndReason::OutputFailed => ("output-failed", None),
        };
        Self { reason, fault, cause: cause.map(LoadError::kind), message: message.cloned() }
    }
}

impl WarningView {
    pub(super) fn new(warning: Warning) -> Self {
        let message = match warning {
            Warning::WebRtcWithoutUdp => {
                "the page uses WebRTC, which may need UDP: set the application's network.udp to allow it"
            }
            Warning::InsecureTls => {
                "a certificate of the page's own origin was accepted without a check, because tls.insecure \
                 is set"
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
    pub(super) fn new(stats: &CastStats) -> Self {
        let room = stats.room.as_ref();
        Self {
            at: rfc3339(stats.at_ms),
            elapsed_ms: stats.elapsed_ms,
            fps: stats.fps,
            frames_captured: stats.frames_captured,
            frames_encoded: stats.frames_encoded,
            frames_unchanged: stats.frames_unchanged,
            frames_dropped: stats.frames_dropped,
            bytes: stats.bytes,
            peak: stats.peak,
            cpu_cores: stats.cpu_cores,
            memory_bytes: stats.memory_bytes,
            upload_pending: stats.upload_pending,
            room_bitrate_kbps: room.map(|room| room.bitrate_kbps),
            room_rtt_ms: room.and_then(|room| room.rtt_ms),
            room_loss: room.map(|room| room.loss),
        }
    }
}

/// Name of a fault.
pub(super) fn fault_name(fault: HealthFault) -> &'static str {
    match fault {
        HealthFault::StartTimeout => "start-timeout",
        HealthFault::Freeze => "freeze",
        HealthFault::Blank => "blank",
        HealthFault::Crash => "crash",
        HealthFault::Unreachable => "unreachable",
    }
}

/// Formats a time as RFC 3339 with milliseconds.
pub(super) fn rfc3339(ms: UnixMs) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Pushes with events, and those of the description that have not begun.
fn push_views(cast: &Cast, stats: Option<&CastStats>, outputs: &OutputStates) -> Vec<PushView> {
    let mut all = outputs.pushes.clone();
    for (id, push) in (1..).zip(&cast.spec.pushes) {
        if all.len() < cast.spec.pushes.len() {
            all.entry(id)
                .or_insert_with(|| PushView::new(id, &push.url.to_string(), connection::State::Idle, None));
        }
    }
    for (id, state) in stats.iter().flat_map(|stats| &stats.pushes) {
        if let Some(view) = all.get_mut(id) {
            view.state = *state;
        }
    }
    all.into_values().collect()
}

fn room_view(
    service: &Service,
    cast: &Cast,
    stats: Option<&CastStats>,
    last_event: Option<(connection::State, Option<String>)>,
) -> Option<RoomView> {
    let room = cast.spec.room.as_ref()?;
    let RoomIds { room: name, user, .. } = &room.ids;
    let (state, error) = last_event.map_or((None, None), |(state, error)| (Some(state), error));
    let state = stats.and_then(|stats| stats.room.as_ref()).map(|room| room.state).or(state);
    let is_own = cast.state != CastState::Ended && is_embedded_room(&room.service);
    let own = service.rooms.as_ref().filter(|_| is_own);
    Some(RoomView {
        room: name.clone(),
        user: user.clone(),
        error: error.filter(|_| state != Some(connection::State::Running)),
        state,
        watch_url: own.map(|rooms| rooms.watch_url(&room.ids)),
        viewers: own.and_then(|rooms| rooms.viewer_count(&room.ids)),
    })
}
