//! `StartWebRecord`: creates a cast for a task.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use pagecast_core::SpecError;
use pagecast_core::spec::{
    Device, Field, Format, MAX_PUSHES, MIN_SIDE, Mobile, Orientation, Push, PushProtocol, PushUrl, Readiness,
    ReadySignal, Size, Source, SourceUrl,
};
use pagecast_fleet::{CastKey, CreateOutcome, KeyRetention, NewCast};
use serde_json::{Map, Value, json};

use super::error_code::ErrorCode;
use super::params::{Object, Params};
use super::response::ApiError;
use super::{API, internal_error, storage};
use crate::Service;
use crate::app::Application;
use crate::config;
use crate::new_cast::CastDraft;
use crate::request_record::{BODY_FIELD, without_secrets};

/// Longest `RecordId`, in bytes: the vendor's limit.
pub(super) const MAX_RECORD_ID_LEN: usize = 31;
/// Range of `ReadyTimeout` in seconds; 0 does not wait.
pub(super) const READY_TIMEOUT_RANGE_S: RangeInclusive<i64> = 0..=60;
/// Range of widths in pixels. The vendor's lower bound is 0, which counts as absent.
pub(super) const WIDTH_RANGE: RangeInclusive<i64> = 0..=1920;
/// Range of heights in pixels.
pub(super) const HEIGHT_RANGE: RangeInclusive<i64> = 0..=1080;
/// Default width and height, in pixels.
pub(super) const DEFAULT_SIZE: (i64, i64) = (1280, 720);
/// Range of the length of an MP4 file, in minutes; the default is the longest.
pub(super) const SPLIT_RANGE_MINUTES: RangeInclusive<i64> = 1..=1440;
/// Values of `IsTencentCdn`.
pub(super) const TENCENT_CDN_RANGE: RangeInclusive<i64> = 0..=1;
/// Values of `MobileDeviceType` (phone, tablet) and `ScreenOrientation` (portrait, landscape).
pub(super) const MOBILE_RANGE: RangeInclusive<i64> = 0..=1;
/// Values of `Format`.
pub(super) const FORMATS: [&str; 2] = ["mp4", "hls"];
/// Time without a connection after which an RTMP push has failed for good: callbacks about it are only sent
/// for that long.
const PUSH_RECONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a task and answers its id.
pub(super) async fn start(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, ApiError> {
    let new = new_cast(service, apps, &params.root())?;
    match service.create(new).await.map_err(|error| internal_error(&error))? {
        CreateOutcome::New(cast) => Ok(Map::from_iter([("TaskId".to_owned(), cast.id.as_str().into())])),
        CreateOutcome::Exists(_) => {
            Err(ApiError::new(ErrorCode::TaskExist, "a task with this RecordId is running"))
        }
        CreateOutcome::QuotaExceeded => Err(ApiError::new(
            ErrorCode::RequestRejection,
            "the application's limit of tasks at the same time is reached: stop one, or try again later",
        )),
        CreateOutcome::QueueFull => {
            Err(ApiError::new(ErrorCode::RequestRejection, "the queue is full: try again later"))
        }
        CreateOutcome::BytesExceeded(_) => Err(ApiError::new(
            ErrorCode::RequestRejection,
            "the application's history is full (max_history_mib): wait for tasks to end",
        )),
    }
}

/// Key that only one running task can have.
pub(super) fn record_key(sdk_app_id: u64, record_id: &str) -> CastKey {
    CastKey(format!("record/{sdk_app_id}/{record_id}"))
}

/// `SdkAppId`, if it is present.
pub(super) fn sdk_app_id(root: &Object<'_>) -> Result<Option<u64>, ApiError> {
    let invalid = || ApiError::new(ErrorCode::InvalidSdkAppId, "the parameter `SdkAppId` must be positive");
    let positive = |id: i64| u64::try_from(id).ok().filter(|id| *id > 0).ok_or_else(invalid);
    root.integer("SdkAppId")?.map(positive).transpose()
}

/// Checks every parameter and builds the cast.
pub(super) fn new_cast(
    service: &Service,
    apps: &[Arc<Application>],
    root: &Object<'_>,
) -> Result<NewCast, ApiError> {
    let app = find_application(apps, root)?;
    let id = service.new_cast_id();
    let mut spec = service.new_cast_spec(&app, source(root)?);
    let (storage_target, format) = storage::parse(&app, root)?;
    spec.recording = Some({
        // Video on demand decides the format by its media type, and has no backup.
        let video = VideoParams::parse(root, format)?;
        let mut recording = service.new_recording(&app, &id, Some(storage_target));
        recording.format = video.format;
        recording.backup = recording.backup.filter(|_| format.is_none());
        recording.split = video.split;
        recording
    });
    let max_time_s = max_duration_s(&service.config.tencent, root)?;
    spec.limits.max_time = spec.limits.max_time.min(Duration::from_secs(max_time_s));
    if service.config.tencent.enforce_video_limit {
        // The application's own limit takes precedence.
        spec.limits.max_video.get_or_insert(Size::FULL_HD);
    }
    let ready_s = root.integer_in("ReadyTimeout", READY_TIMEOUT_RANGE_S)?.unwrap_or(0).unsigned_abs();
    if ready_s > 0 {
        let timeout = Duration::from_secs(ready_s);
        spec.readiness = Readiness { signal: ReadySignal::NotifyReady, timeout, ..Readiness::default() };
    }
    spec.pushes = pushes(&app, root)?;
    let record_id = record_id(root)?;
    spec.validate().map_err(|error| spec_api_error(&error))?;
    // The request may have left out the application's number.
    let sdk_app_id = app.settings.sdk_app_id.unwrap_or_default();
    let mut request = json!({ "SdkAppId": sdk_app_id, BODY_FIELD: without_secrets(&root.to_value()) });
    if let Some(record_id) = record_id {
        request["RecordId"] = record_id.into();
    }
    if !spec.pushes.is_empty() {
        request[super::callback::PUSH_URLS_FIELD] =
            spec.pushes.iter().map(|push| push.url.reveal()).collect();
    }
    let key = record_id.map(|record_id| (record_key(sdk_app_id, record_id), KeyRetention::UntilEnded));
    // Whether the application has a receiver is decided when a callback is due.
    let draft = CastDraft { id, api: API, key, request, spec, queue_timeout: None, notify: true };
    Ok(draft.into_new_cast(service, &app))
}

/// Finds the application. The vendor's oldest examples name none: a key of only one application means that
/// one.
fn find_application(apps: &[Arc<Application>], root: &Object<'_>) -> Result<Arc<Application>, ApiError> {
    let mut candidates = apps.iter().filter(|app| app.settings.sdk_app_id.is_some());
    let Some(id) = sdk_app_id(root)? else {
        return match (candidates.next(), candidates.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            _ => Err(ApiError::missing_parameter(ErrorCode::MissingSdkAppId, "SdkAppId")),
        };
    };
    let named = candidates.find(|app| app.settings.sdk_app_id == Some(id)).map(Arc::clone);
    named.ok_or_else(|| {
        let message = format!("there is no application with SdkAppId {id} that this key belongs to");
        ApiError::new(ErrorCode::SdkAppIdNotUnderAppId, message)
    })
}

/// `MaxDurationLimit` in seconds; the operator's maximum if it is absent.
fn max_duration_s(config: &config::Tencent, root: &Object<'_>) -> Result<u64, ApiError> {
    // Both are checked to be at most a day when the configuration is loaded.
    let bound = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let (low, high) = (bound(config.min_duration_s), bound(config.max_duration_s));
    Ok(root
        .nonzero_integer_in("MaxDurationLimit", low..=high)?
        .map_or(config.max_duration_s, i64::unsigned_abs))
}

fn source(root: &Object<'_>) -> Result<Source, ApiError> {
    let url = root.required_text("RecordUrl", ErrorCode::MissingParameter)?;
    let url = SourceUrl::parse(url)
        .map_err(|error| ApiError::new(ErrorCode::InvalidParameter, format!("`RecordUrl`: {error}")))?;
    let mut source = Source::new(url);
    source.size = size(root)?;
    source.context.mobile = mobile(root)?;
    Ok(source)
}

fn size(root: &Object<'_>) -> Result<Size, ApiError> {
    let Some(video) = root.object("WebRecordVideoParams")? else { return Ok(Size::HD) };
    let side = |member: &str, range, default: i64| -> Result<u32, ApiError> {
        let requested = video.nonzero_integer_in(member, range)?.unwrap_or(default);
        // Chroma planes have half the size, so sizes are even; smaller sizes are raised to the minimum.
        Ok(u32::try_from(requested).map_or(MIN_SIDE, |side| side - side % 2).max(MIN_SIDE))
    };
    let (width, height) =
        (side("Width", WIDTH_RANGE, DEFAULT_SIZE.0)?, side("Height", HEIGHT_RANGE, DEFAULT_SIZE.1)?);
    Size::new(width, height).map_err(|error| spec_api_error(&error))
}

fn mobile(root: &Object<'_>) -> Result<Option<Mobile>, ApiError> {
    let Some(params) = root.object("EmulateMobileParams")? else { return Ok(None) };
    let is_second = |member| Ok::<_, ApiError>(params.integer_in(member, MOBILE_RANGE)? == Some(1));
    let device = if is_second("MobileDeviceType")? { Device::Tablet } else { Device::Phone };
    let orientation =
        if is_second("ScreenOrientation")? { Orientation::Landscape } else { Orientation::Portrait };
    Ok(Some(Mobile { device, orientation }))
}

/// Format and file length of the recording.
struct VideoParams {
    format: Format,
    split: Duration,
}

impl VideoParams {
    fn parse(root: &Object<'_>, decided: Option<Format>) -> Result<Self, ApiError> {
        let video = root.object("WebRecordVideoParams")?;
        let requested = video.as_ref().map_or(Ok(None), |video| video.non_empty_text("Format"))?;
        let format = match (decided, requested) {
            (Some(format), _) => format,
            (None, None | Some("mp4")) => Format::Mp4,
            // The vendor records HLS as MPEG-TS.
            (None, Some("hls")) => Format::HlsTs,
            (None, Some(_)) => {
                let message = "the parameter `WebRecordVideoParams.Format` must be hls or mp4";
                return Err(ApiError::new(ErrorCode::InvalidParameter, message));
            }
        };
        let minutes = video.map_or(Ok(None), |video| {
            video.nonzero_integer_in("MaxMediaFileDuration", SPLIT_RANGE_MINUTES.clone())
        })?;
        let minutes = minutes.unwrap_or(*SPLIT_RANGE_MINUTES.end()).unsigned_abs();
        Ok(Self { format, split: Duration::from_secs(60 * minutes) })
    }
}

fn record_id<'a>(root: &Object<'a>) -> Result<Option<&'a str>, ApiError> {
    let invalid = |id: &&str| id.len() > MAX_RECORD_ID_LEN || id.chars().any(char::is_control);
    match root.non_empty_text("RecordId")? {
        Some(id) if invalid(&id) => Err(ApiError::new(
            ErrorCode::InvalidRecordId,
            format!(
                "the parameter `RecordId` has {} bytes: it must have at most 31, without control characters",
                id.len()
            ),
        )),
        id => Ok(id),
    }
}

fn pushes(app: &Application, root: &Object<'_>) -> Result<Vec<Push>, ApiError> {
    let targets = root.objects("PublishCdnParams")?;
    if targets.len() > MAX_PUSHES {
        let message = format!("there are {} PublishCdnParams: the limit is {MAX_PUSHES}", targets.len());
        return Err(ApiError::new(ErrorCode::InvalidPublishCdnUrls, message));
    }
    targets.iter().map(|target| push(app, target)).collect()
}

fn push(app: &Application, target: &Object<'_>) -> Result<Push, ApiError> {
    let invalid = |why: &str| {
        let name = target.full_name("PublishCdnUrl");
        ApiError::new(ErrorCode::InvalidPublishCdnUrls, format!("`{name}`: {why}"))
    };
    let text = target.non_empty_text("PublishCdnUrl")?.ok_or_else(|| invalid("it is missing"))?;
    // The value only affects what the vendor charges; it is checked and ignored.
    target.integer_in("IsTencentCdn", TENCENT_CDN_RANGE)?;
    let url = PushUrl::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.protocol(), PushProtocol::Rtmp | PushProtocol::Rtmps) {
        return Err(invalid("the address must begin with rtmp:// or rtmps://"));
    }
    if !app.permits_push(&url) {
        return Err(invalid("the application's network does not allow this address"));
    }
    Ok(Push { url, reconnect_timeout: Some(PUSH_RECONNECT_TIMEOUT) })
}

/// Maps an error of the cast's description to the vendor's code and parameter name.
fn spec_api_error(error: &SpecError) -> ApiError {
    let (code, parameter) = match error {
        SpecError::Push(_) => (ErrorCode::InvalidPublishCdnUrls, "PublishCdnParams"),
        SpecError::Storage(_) => (ErrorCode::InvalidParameter, "StorageParams"),
        SpecError::Context { .. } => (ErrorCode::OutOfRange, "EmulateMobileParams"),
        SpecError::DurationOutOfRange { field: Field::ReadyTimeout, .. } => {
            (ErrorCode::OutOfRange, "ReadyTimeout")
        }
        SpecError::DurationOutOfRange { field: Field::MaxTime, .. } => {
            (ErrorCode::OutOfRange, "MaxDurationLimit")
        }
        SpecError::Size { .. } | SpecError::DurationOutOfRange { .. } => {
            (ErrorCode::OutOfRange, "WebRecordVideoParams")
        }
        _ => return ApiError::new(ErrorCode::OutOfRange, error.to_string()),
    };
    ApiError::new(code, format!("`{parameter}`: {error}"))
}
