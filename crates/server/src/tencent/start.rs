//! `StartWebRecord`.

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

use super::params::{Object, Params};
use super::response::ApiError;
use super::{ORIGIN, internal_error, storage};
use crate::Service;
use crate::app::Application;
use crate::config;

/// Longest `RecordId`, in bytes.
const MAX_RECORD_ID_LEN: usize = 31;
/// Seconds that a page may take to be ready; 0 waits for nothing.
const READY_TIMEOUT_RANGE_S: RangeInclusive<i64> = 0..=60;
/// Width in pixels. The vendor's lower bound is 0, which stands for a width that is not given.
const WIDTH_RANGE: RangeInclusive<i64> = 0..=1920;
/// Height in pixels, likewise.
const HEIGHT_RANGE: RangeInclusive<i64> = 0..=1080;
/// Width and height of a task that does not say otherwise.
const DEFAULT_SIZE: (i64, i64) = (1280, 720);
/// Minutes of an MP4 file, of which the last is usual.
const SPLIT_RANGE_MINUTES: RangeInclusive<i64> = 1..=1440;
/// A server of RTMP that is without a connection for so long has failed for good: it is told for that long,
/// and no longer.
const PUSH_RECONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a task, and says which.
pub(super) async fn start(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, ApiError> {
    let new = new_cast(service, apps, &params.root())?;
    match service.create(new).await.map_err(internal_error)? {
        CreateOutcome::New(cast) => Ok(Map::from_iter([("TaskId".to_owned(), cast.id.as_str().into())])),
        CreateOutcome::Exists(_) => {
            Err(ApiError::new("FailedOperation.TaskExist", "a task with this RecordId is running"))
        }
        CreateOutcome::QuotaExceeded => Err(ApiError::new(
            "ResourceInsufficient.RequestRejection",
            "the application has as many tasks as it may have",
        )),
        CreateOutcome::QueueFull => Err(ApiError::new(
            "ResourceInsufficient.RequestRejection",
            "too many tasks are waiting to be started",
        )),
        CreateOutcome::BytesExceeded(_) => Err(ApiError::new(
            "ResourceInsufficient.RequestRejection",
            "too much is kept of the application's tasks (max_kept_mib): wait for some to end",
        )),
    }
}

/// What a task is called among those that must not run twice.
pub(super) fn record_key(sdk_app_id: u64, record_id: &str) -> CastKey {
    CastKey(format!("record/{sdk_app_id}/{record_id}"))
}

/// `SdkAppId`, if it is there.
pub(super) fn sdk_app_id(root: &Object<'_>) -> Result<Option<u64>, ApiError> {
    let bad = || ApiError::new("InvalidParameter.SdkAppId", "the parameter `SdkAppId` must be positive");
    let positive = |id: i64| u64::try_from(id).ok().filter(|id| *id > 0).ok_or_else(bad);
    root.integer("SdkAppId")?.map(positive).transpose()
}

/// Checks every field, and says in our words what is wanted.
fn new_cast(service: &Service, apps: &[Arc<Application>], root: &Object<'_>) -> Result<NewCast, ApiError> {
    let app = find_application(apps, root)?;
    let id = service.new_cast_id();
    let mut spec = service.new_cast_spec(&app, &id, source(root)?);
    let (to, format) = storage::parse(&app, root)?;
    spec.recording = Some({
        // In video on demand the kind of medium decides, whatever else is asked for, and there is no backup
        // for it.
        let video = VideoParams::parse(root, format)?;
        let mut recording = service.new_recording(&app, &id, Some(to));
        recording.format = video.format;
        recording.backup = recording.backup.filter(|_| format.is_none());
        recording.split = video.split;
        recording
    });
    let longest_s = max_duration_s(&service.config.tencent, root)?;
    spec.limits.max_time = spec.limits.max_time.min(Duration::from_secs(longest_s));
    if service.config.tencent.limit_video {
        // Unless the application has a limit of its own.
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
    // With the application's number, which the request may have left out.
    let sdk_app_id = app.sdk_app_id.unwrap_or_default();
    let mut request = json!({ "SdkAppId": sdk_app_id });
    if let Some(record_id) = record_id {
        request["RecordId"] = record_id.into();
    }
    if !spec.pushes.is_empty() {
        request[super::callback::PUSH_URLS_FIELD] =
            spec.pushes.iter().map(|push| push.url.reveal()).collect();
    }
    let casts = &service.config.casts;
    Ok(NewCast {
        id,
        app: app.name.clone(),
        api: ORIGIN.to_owned(),
        key: record_id.map(|record_id| record_key(sdk_app_id, record_id)),
        key_retention: KeyRetention::UntilEnded,
        request,
        spec,
        queue_timeout: Duration::from_secs(casts.queue_s),
        quota: app.max_casts,
        max_bytes: app.max_kept_bytes(),
        queue_limit: casts.queue_limit,
        notify: true,
    })
}

/// The application that is named. The oldest examples of the vendor name none: a key that has only one means
/// that.
fn find_application(apps: &[Arc<Application>], root: &Object<'_>) -> Result<Arc<Application>, ApiError> {
    let mut able = apps.iter().filter(|app| app.sdk_app_id.is_some());
    let Some(id) = sdk_app_id(root)? else {
        return match (able.next(), able.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            _ => Err(ApiError::missing_parameter("MissingParameter.SdkAppId", "SdkAppId")),
        };
    };
    let named = able.find(|app| app.sdk_app_id == Some(id)).map(Arc::clone);
    named.ok_or_else(|| {
        let words = format!("there is no SdkAppId {id} that this key may act for");
        ApiError::new("FailedOperation.SdkAppIdNotUnderAppId", words)
    })
}

/// `MaxDurationLimit` in seconds: the operator's maximum if the request does not give it.
fn max_duration_s(config: &config::Tencent, root: &Object<'_>) -> Result<u64, ApiError> {
    // The configuration has been checked: neither is more than a day.
    let bound = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let (low, high) = (bound(config.min_duration_s), bound(config.max_duration_s));
    Ok(root
        .nonzero_integer_in("MaxDurationLimit", low..=high)?
        .map_or(config.max_duration_s, i64::unsigned_abs))
}

fn source(root: &Object<'_>) -> Result<Source, ApiError> {
    let url = root.required_text("RecordUrl", "MissingParameter")?;
    let url = SourceUrl::parse(url)
        .map_err(|error| ApiError::new("InvalidParameter", format!("`RecordUrl`: {error}")))?;
    let mut source = Source::new(url);
    source.size = size(root)?;
    source.context.mobile = mobile(root)?;
    Ok(source)
}

fn size(root: &Object<'_>) -> Result<Size, ApiError> {
    let Some(video) = root.object("WebRecordVideoParams")? else { return Ok(Size::HD) };
    let side = |member: &str, range, usual: i64| -> Result<u32, ApiError> {
        let asked = video.nonzero_integer_in(member, range)?.unwrap_or(usual);
        // Half of the colour planes would be half a pixel wide; the least is the nearest to what is even
        // less.
        Ok(u32::try_from(asked).map_or(MIN_SIDE, |side| side - side % 2).max(MIN_SIDE))
    };
    let (width, height) =
        (side("Width", WIDTH_RANGE, DEFAULT_SIZE.0)?, side("Height", HEIGHT_RANGE, DEFAULT_SIZE.1)?);
    Size::new(width, height).map_err(|error| spec_api_error(&error))
}

fn mobile(root: &Object<'_>) -> Result<Option<Mobile>, ApiError> {
    let Some(params) = root.object("EmulateMobileParams")? else { return Ok(None) };
    let second = |member| Ok::<_, ApiError>(params.integer_in(member, 0..=1)? == Some(1));
    let device = if second("MobileDeviceType")? { Device::Tablet } else { Device::Phone };
    let orientation =
        if second("ScreenOrientation")? { Orientation::Landscape } else { Orientation::Portrait };
    Ok(Some(Mobile { device, orientation }))
}

/// How the recording is made.
struct VideoParams {
    format: Format,
    split: Duration,
}

impl VideoParams {
    fn parse(root: &Object<'_>, decided: Option<Format>) -> Result<Self, ApiError> {
        let video = root.object("WebRecordVideoParams")?;
        let asked = video.as_ref().map_or(Ok(None), |video| video.non_empty_text("Format"))?;
        let format = match (decided, asked) {
            (Some(format), _) => format,
            (None, None | Some("mp4")) => Format::Mp4,
            // The files of the vendor's recordings are MPEG-TS.
            (None, Some("hls")) => Format::HlsTs,
            (None, Some(_)) => {
                let words = "the parameter `WebRecordVideoParams.Format` must be hls or mp4";
                return Err(ApiError::new("InvalidParameter", words));
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
    let bad = |id: &&str| id.len() > MAX_RECORD_ID_LEN || id.chars().any(char::is_control);
    match root.non_empty_text("RecordId")? {
        Some(id) if bad(&id) => Err(ApiError::new(
            "InvalidParameter.RecordId",
            format!(
                "the parameter `RecordId` has {} bytes: fewer than 32 are possible, none of them control characters",
                id.len()
            ),
        )),
        id => Ok(id),
    }
}

fn pushes(app: &Application, root: &Object<'_>) -> Result<Vec<Push>, ApiError> {
    let targets = root.objects("PublishCdnParams")?;
    if targets.len() > MAX_PUSHES {
        let words = format!("there are {} PublishCdnParams, {MAX_PUSHES} are possible", targets.len());
        return Err(ApiError::new("InvalidParameter.PublishCdnUrls", words));
    }
    targets.iter().map(|target| push(app, target)).collect()
}

fn push(app: &Application, target: &Object<'_>) -> Result<Push, ApiError> {
    let bad = |why: &str| {
        let name = target.full_name("PublishCdnUrl");
        ApiError::new("InvalidParameter.PublishCdnUrls", format!("`{name}`: {why}"))
    };
    let text = target.non_empty_text("PublishCdnUrl")?.ok_or_else(|| bad("it is missing"))?;
    // It only decides what the vendor charges.
    target.integer_in("IsTencentCdn", 0..=1)?;
    let url = PushUrl::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.protocol(), PushProtocol::Rtmp | PushProtocol::Rtmps) {
        return Err(bad("only RTMP addresses are possible"));
    }
    if !app.permits_push(&url) {
        return Err(bad("this application may not push to that address"));
    }
    Ok(Push { url, reconnect_timeout: Some(PUSH_RECONNECT_TIMEOUT) })
}

/// What the description of a cast finds wrong, in the vendor's codes and with the vendor's name for it.
fn spec_api_error(error: &SpecError) -> ApiError {
    let (code, parameter) = match error {
        SpecError::Push(_) => ("InvalidParameter.PublishCdnUrls", "PublishCdnParams"),
        SpecError::Storage(_) => ("InvalidParameter", "StorageParams"),
        SpecError::Context { .. } => ("InvalidParameter.OutOfRange", "EmulateMobileParams"),
        SpecError::DurationOutOfRange { field: Field::ReadyTimeout, .. } => {
            ("InvalidParameter.OutOfRange", "ReadyTimeout")
        }
        SpecError::DurationOutOfRange { field: Field::MaxTime, .. } => {
            ("InvalidParameter.OutOfRange", "MaxDurationLimit")
        }
        SpecError::Size { .. } | SpecError::DurationOutOfRange { .. } => {
            ("InvalidParameter.OutOfRange", "WebRecordVideoParams")
        }
        _ => return ApiError::new("InvalidParameter.OutOfRange", error.to_string()),
    };
    ApiError::new(code, format!("`{parameter}`: {error}"))
}
