//! Callbacks in Tencent's format: page recording (group 8), files (group 3) and pushes (group 4).
//!
//! An event always gives the same bytes, `CallbackTs` included: it is the time of the event. Receivers can so
//! recognize repeated messages.

use std::time::Duration;

use aws_lc_rs::hmac;
use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pagecast_core::cast::{EndReason, HealthFault};
use pagecast_core::connection;
use pagecast_core::spec::{PushUrl, Storage};
use pagecast_fleet::{Cast, Event, EventKind, StoredFile};
use serde::Serialize;

use super::API;
use crate::app::CallbackReceiver;
use crate::callback::{self, CallbackFormat, DeliveryPolicy, WebhookMessage};

/// Format of callbacks about casts of this API.
pub(crate) const FORMAT: CallbackFormat = CallbackFormat {
    api: API,
    policy: RETRY_POLICY,
    render,
    receiver: |app, _| app.settings.callbacks.tencent.clone(),
    is_success: callback::is_200,
};

/// The vendor's policy: 5 s for an answer; the first retry is immediate, later ones follow every 10 s until a
/// message is a minute old.
const RETRY_POLICY: DeliveryPolicy = DeliveryPolicy { timeout: Duration::from_secs(5), retry_delay };

const RETRY_INTERVAL: Duration = Duration::from_secs(10);
const RETRY_WINDOW: Duration = Duration::from_secs(60);

fn retry_delay(attempts: u32, age: Duration) -> Option<Duration> {
    let delay = if attempts <= 1 { Duration::ZERO } else { RETRY_INTERVAL };
    (age.saturating_add(delay) <= RETRY_WINDOW).then_some(delay)
}

const GROUP_PAGE: u32 = 8;
const GROUP_FILES: u32 = 3;
const GROUP_PUSHES: u32 = 4;

const EVENT_STARTED: u32 = 801;
const EVENT_STOPPED: u32 = 802;
const EVENT_UPDATED: u32 = 803;
const EVENT_LIMITED: u32 = 804;
const EVENT_HLS_STORED: u32 = 305;
const EVENT_MP4_STORED: u32 = 310;
const EVENT_VOD_STORED: u32 = 311;
const EVENT_VOD_DONE: u32 = 312;
const EVENT_PUSH: u32 = 401;

/// Field of the cast's request with the addresses of its pushes, as requested.
pub(crate) const PUSH_URLS_FIELD: &str = "PublishCdnUrls";
const LOAD_TIMEOUT_MESSAGE: &str = "Page load timeout";

/// Renders an event into messages, in order; none if the vendor has no message for it.
pub(crate) fn render(receiver: &CallbackReceiver, cast: &Cast, event: &Event) -> Vec<WebhookMessage> {
    let builder = MessageBuilder { receiver, cast, event };
    let page = |kind, status, message| vec![builder.page_message(kind, status, message)];
    match &event.kind {
        EventKind::Live => page(EVENT_STARTED, 1, "Success"),
        EventKind::Restarted | EventKind::Moved { fault: HealthFault::Crash } => {
            page(EVENT_STARTED, 3, "Chrome exception, exit task")
        }
        EventKind::Moved { .. } | EventKind::Resumed { .. } => {
            page(EVENT_STARTED, 4, "Recording tasks have been migrated")
        }
        EventKind::Reloaded { fault: HealthFault::StartTimeout } => {
            page(EVENT_UPDATED, 1, LOAD_TIMEOUT_MESSAGE)
        }
        EventKind::Reloaded { .. } => page(EVENT_UPDATED, 1, "PageRefresh"),
        EventKind::Ended { reason, message, .. } => {
            builder.end_messages(*reason, message.as_deref().unwrap_or_default())
        }
        EventKind::Push { id, url, state, error } => {
            vec![builder.push_message(*id, url, *state, error.as_deref())]
        }
        EventKind::Stored { files, complete, backup, error } => {
            builder.file_messages(files, *complete, *backup, error.as_deref())
        }
        EventKind::Queued
        | EventKind::Started
        | EventKind::LostNode { .. }
        | EventKind::RecordingStopped
        | EventKind::Warning { .. }
        | EventKind::Room { .. }
        | EventKind::Upload { .. } => Vec::new(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CallbackBody<I> {
    event_group_id: u32,
    event_type: u32,
    callback_ts: i64,
    event_info: I,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PageInfo<'a> {
    event_ms_ts: i64,
    task_id: &'a str,
    payload: PagePayload<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PagePayload<'a> {
    status: u32,
    event_message: &'a str,
}

/// A recording of a page has no room and no user: both are empty.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FileInfo<'a, P> {
    room_id: &'static str,
    event_ts: i64,
    event_ms_ts: i64,
    user_id: &'static str,
    task_id: &'a str,
    payload: P,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mp4Payload<'a> {
    status: u32,
    file_list: Vec<&'a str>,
    file_message: Vec<FileMessage<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FileMessage<'a> {
    file_name: &'a str,
    user_id: &'static str,
    track_type: &'static str,
    media_id: &'static str,
    start_time_stamp: i64,
    end_time_stamp: i64,
}

impl<'a> FileMessage<'a> {
    fn new(file: &'a StoredFile) -> Self {
        Self {
            file_name: &file.name,
            user_id: "",
            track_type: "audio_video",
            media_id: "mix",
            start_time_stamp: file.begin_ms,
            end_time_stamp: file.end_ms,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HlsPayload {
    /// As in event 310. The vendor's receivers read `leave_code`.
    status: u32,
    leave_code: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VodPayload<'a> {
    status: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    errmsg: Option<&'a str>,
    tencent_vod: VodFile<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VodFile<'a> {
    user_id: &'static str,
    track_type: &'static str,
    media_id: &'static str,
    file_id: &'a str,
    video_url: &'a str,
    cache_file: &'a str,
    start_time_stamp: i64,
    end_time_stamp: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusPayload {
    status: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PushInfo<'a> {
    room_id: &'static str,
    /// 1: the room id is a string.
    room_type: u32,
    event_ms_ts: i64,
    user_id: &'static str,
    task_id: &'a str,
    payload: PushPayload<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PushPayload<'a> {
    url: &'a str,
    status: u32,
    error_code: u32,
    error_msg: &'a str,
}

/// Builds the messages of one event.
struct MessageBuilder<'a> {
    receiver: &'a CallbackReceiver,
    cast: &'a Cast,
    event: &'a Event,
}

impl MessageBuilder<'_> {
    fn page_message(&self, kind: u32, status: u32, message: &str) -> WebhookMessage {
        let payload = PagePayload { status, event_message: message };
        let info = PageInfo { event_ms_ts: self.event.at_ms, task_id: self.cast.id.as_str(), payload };
        self.message(GROUP_PAGE, kind, info)
    }

    fn end_messages(&self, reason: EndReason, message: &str) -> Vec<WebhookMessage> {
        let stopped = || self.page_message(EVENT_STOPPED, 1, "Success");
        match reason {
            EndReason::Stopped | EndReason::PageEnded | EndReason::Complete => vec![stopped()],
            EndReason::MaxTime => vec![self.page_message(EVENT_LIMITED, 1, "Over time limit"), stopped()],
            EndReason::VideoTooLarge => {
                vec![self.page_message(EVENT_LIMITED, 2, "Exceeding resolution limitation")]
            }
            EndReason::StartFailed => vec![self.page_message(EVENT_STARTED, 2, self.start_failure(message))],
            EndReason::PageFailed(HealthFault::StartTimeout) => {
                vec![self.page_message(EVENT_STARTED, 2, LOAD_TIMEOUT_MESSAGE)]
            }
            EndReason::PageFailed(_) | EndReason::OutputFailed if self.cast.live_ms.is_none() => {
                vec![self.page_message(EVENT_STARTED, 2, self.start_failure(message))]
            }
            EndReason::PageFailed(
                HealthFault::Freeze | HealthFault::Blank | HealthFault::Crash | HealthFault::Unreachable,
            )
            | EndReason::OutputFailed => {
                vec![self.page_message(EVENT_STARTED, 5, "Exception error, exit task")]
            }
        }
    }

    /// The vendor's message for a page that could not be opened, or a cast that did not start.
    fn start_failure(&self, message: &str) -> &'static str {
        // The search starts behind the address, which may contain any text.
        let opening = format!("cannot open {}: ", self.cast.spec.source.url);
        let reason_text = message.split_once(&opening).map_or("", |(_, reason_text)| reason_text);
        let timed_out = ["no answer within", "TIMED_OUT"].iter().any(|message| reason_text.contains(message));
        if timed_out { "Goto url timeout" } else { "StartRecording error" }
    }

    fn push_message(
        &self,
        id: u32,
        redacted_url: &str,
        state: connection::State,
        error: Option<&str>,
    ) -> WebhookMessage {
        let status = match state {
            connection::State::Idle => 0,
            connection::State::Connecting => 1,
            connection::State::Running => 2,
            connection::State::Recovering => 3,
            connection::State::Failed => 4,
            connection::State::Disconnecting => 5,
        };
        let url = self.requested_url(id, redacted_url).unwrap_or(redacted_url);
        let payload = PushPayload {
            url,
            status,
            error_code: u32::from(error.is_some()),
            error_msg: error.unwrap_or_default(),
        };
        let info = PushInfo {
            room_id: "",
            room_type: 1,
            event_ms_ts: self.event.at_ms,
            user_id: "",
            task_id: self.cast.id.as_str(),
            payload,
        };
        self.message(GROUP_PUSHES, EVENT_PUSH, info)
    }

    /// Address of a push as requested, which receivers compare with their own. The pushes of the request have
    /// the first ids, unless some were removed and the cast was resumed since.
    fn requested_url(&self, id: u32, redacted_url: &str) -> Option<&str> {
        let all = self.cast.request.get(PUSH_URLS_FIELD)?.as_array()?;
        let is_meant = |url: &&str| PushUrl::parse(url).is_ok_and(|url| url.to_string() == redacted_url);
        let index = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let by_id = index.and_then(|index| all.get(index)?.as_str()).filter(is_meant);
        let mut meant = all.iter().filter_map(|url| url.as_str()).filter(is_meant);
        by_id.or_else(|| meant.next().filter(|_| meant.next().is_none()))
    }

    fn file_messages(
        &self,
        files: &[StoredFile],
        complete: bool,
        backup: bool,
        error: Option<&str>,
    ) -> Vec<WebhookMessage> {
        let Some(recording) = &self.cast.spec.recording else { return Vec::new() };
        if files.is_empty() && (complete || self.cast.live_ms.is_none()) {
            // Nothing was recorded.
            return Vec::new();
        }
        let status = match (complete, files.is_empty()) {
            (true, _) if !backup => 0,
            (_, false) | (true, true) => 1,
            (false, true) => 2,
        };
        if matches!(recording.to, Storage::TencentVod(_)) {
            return self.vod_messages(files, complete, error);
        }
        let id = self.cast.id.as_str();
        if recording.format.has_mp4() {
            let payload = Mp4Payload {
                status,
                file_list: files.iter().map(|file| file.name.as_str()).collect(),
                file_message: files.iter().map(FileMessage::new).collect(),
            };
            let begin_ms = files.iter().map(|file| file.begin_ms).min().or(self.cast.live_ms).unwrap_or(0);
            return vec![self.file_message(
                EVENT_MP4_STORED,
                &format!("{id}_StartTimeMs_{begin_ms:013}"),
                payload,
            )];
        }
        vec![self.file_message(EVENT_HLS_STORED, id, HlsPayload { status, leave_code: 0 })]
    }

    /// Video on demand stores each file as a separate medium.
    fn vod_messages(&self, files: &[StoredFile], complete: bool, error: Option<&str>) -> Vec<WebhookMessage> {
        let reason_text = error.unwrap_or("the file is not stored yet");
        let mut messages: Vec<_> = files
            .iter()
            .map(|file| {
                let is_missing = file.media_id.is_none();
                self.vod_file_message(u32::from(is_missing), is_missing.then_some(reason_text), file)
            })
            .collect();
        if messages.is_empty() {
            let begin_ms = self.cast.live_ms.unwrap_or_default();
            let (name, end_ms) = (String::new(), self.event.at_ms);
            let none = StoredFile { name, bytes: 0, begin_ms, end_ms, media_id: None, url: None };
            messages.push(self.vod_file_message(2, Some(reason_text), &none));
        }
        let done = StatusPayload { status: u32::from(!complete) };
        messages.push(self.file_message(EVENT_VOD_DONE, self.cast.id.as_str(), done));
        messages
    }

    fn vod_file_message(&self, status: u32, errmsg: Option<&str>, file: &StoredFile) -> WebhookMessage {
        let tencent_vod = VodFile {
            user_id: "",
            track_type: "audio_video",
            media_id: "mix",
            file_id: file.media_id.as_deref().unwrap_or_default(),
            video_url: file.url.as_deref().unwrap_or_default(),
            cache_file: &file.name,
            start_time_stamp: file.begin_ms,
            end_time_stamp: file.end_ms,
        };
        let payload = VodPayload { status, errmsg, tencent_vod };
        self.file_message(EVENT_VOD_STORED, self.cast.id.as_str(), payload)
    }

    fn file_message<P: Serialize>(&self, kind: u32, task_id: &str, payload: P) -> WebhookMessage {
        let at_ms = self.event.at_ms;
        let event_ts = at_ms.div_euclid(1000);
        let info = FileInfo { room_id: "", event_ts, event_ms_ts: at_ms, user_id: "", task_id, payload };
        self.message(GROUP_FILES, kind, info)
    }

    fn message<I: Serialize>(&self, group: u32, kind: u32, info: I) -> WebhookMessage {
        let body = CallbackBody {
            event_group_id: group,
            event_type: kind,
            callback_ts: self.event.at_ms,
            event_info: info,
        };
        // Serializing cannot fail: all values are JSON.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let id = self.cast.request.get("SdkAppId").map(ToString::to_string).unwrap_or_default();
        let mut headers = vec![("SdkAppId", id)];
        if let Some(secret) = &self.receiver.secret {
            headers.push(("Sign", sign(secret.reveal(), &body)));
        }
        WebhookMessage { body: Bytes::from(body), headers }
    }
}

/// Value of the header `Sign` for a body.
fn sign(secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, body))
}

#[cfg(test)]
mod tests;
