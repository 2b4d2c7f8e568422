//! `StartWebRecord`.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use pagecast_core::SpecError;
use pagecast_core::spec::{
    Device, Field, Format, MAX_PUSHES, MIN_SIDE, Mobile, Orientation, Protocol, Push, PushUrl, Readiness,
    Signal, Size, Source, SourceUrl,
};
use pagecast_fleet::{Created, Hold, Key, NewCast};
use serde_json::{Map, Value, json};

use super::answer::Fault;
use super::params::{Object, Params};
use super::{ORIGIN, storage, unavailable};
use crate::Service;
use crate::app::Application;
use crate::config;

/// Longest `RecordId`, in bytes.
const MAX_RECORD_ID: usize = 31;
/// Seconds that a page may take to be ready; 0 waits for nothing.
const READY_S: RangeInclusive<i64> = 0..=60;
/// Width in pixels. The vendor's lower bound is 0, which stands for a width that is not given.
const WIDTH: RangeInclusive<i64> = 0..=1920;
/// Height in pixels, likewise.
const HEIGHT: RangeInclusive<i64> = 0..=1080;
/// Width and height of a task that does not say otherwise.
const USUAL: (i64, i64) = (1280, 720);
/// Minutes of an MP4 file, of which the last is usual.
const SPLIT_MIN: RangeInclusive<i64> = 1..=1440;
/// A server of RTMP that is without a connection for so long has failed for good: it is told for that long,
/// and no longer.
const PUSH_PATIENCE: Duration = Duration::from_secs(60);

/// Starts a task, and says which.
pub(super) async fn start(
    service: &Service,
    apps: &[Arc<Application>],
    params: &Params,
) -> Result<Map<String, Value>, Fault> {
    let new = translate(service, apps, &params.root())?;
    match service.create(new).await.map_err(unavailable)? {
        Created::New(cast) => Ok(Map::from_iter([("TaskId".to_owned(), cast.id.as_str().into())])),
        Created::Exists(_) => {
            Err(Fault::new("FailedOperation.TaskExist", "a task with this RecordId is running"))
        }
        Created::TooMany => Err(Fault::new(
            "ResourceInsufficient.RequestRejection",
            "the application has as many tasks as it may have",
        )),
        Created::Full => Err(Fault::new(
            "ResourceInsufficient.RequestRejection",
            "too many tasks are waiting to be started",
        )),
        Created::OverBytes(_) => Err(Fault::new(
            "ResourceInsufficient.RequestRejection",
            "too much is kept of the application's tasks (max_kept_mib): wait for some to end",
        )),
    }
}

/// What a task is called among those that must not run twice.
pub(super) fn key(sdk_app_id: u64, record_id: &str) -> Key {
    Key(format!("record/{sdk_app_id}/{record_id}"))
}

/// `SdkAppId`, if it is there.
pub(super) fn sdk_app_id(root: &Object<'_>) -> Result<Option<u64>, Fault> {
    let bad = || Fault::new("InvalidParameter.SdkAppId", "the parameter `SdkAppId` must be positive");
    let positive = |id: i64| u64::try_from(id).ok().filter(|id| *id > 0).ok_or_else(bad);
    root.integer("SdkAppId")?.map(positive).transpose()
}

/// Checks every field, and says in our words what is wanted.
fn translate(service: &Service, apps: &[Arc<Application>], root: &Object<'_>) -> Result<NewCast, Fault> {
    let app = application(apps, root)?;
    let id = service.cast_id();
    let mut spec = service.cast(&app, &id, source(root)?);
    let (to, format) = storage::read(&app, root)?;
    spec.recording = Some({
        // In video on demand the kind of medium decides, whatever else is asked for, and there is no backup
        // for it.
        let video = Video::read(root, format)?;
        let mut recording = service.recording(&app, &id, Some(to));
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
    let ready_s = root.within("ReadyTimeout", READY_S)?.unwrap_or(0).unsigned_abs();
    if ready_s > 0 {
        let timeout = Duration::from_secs(ready_s);
        spec.readiness = Readiness { signal: Signal::NotifyReady, timeout, ..Readiness::default() };
    }
    spec.pushes = pushes(&app, root)?;
    let record_id = record_id(root)?;
    spec.check().map_err(|error| refused(&error))?;
    // With the application's number, which the request may have left out.
    let sdk_app_id = app.sdk_app_id.unwrap_or_default();
    let mut request = json!({ "SdkAppId": sdk_app_id });
    if let Some(record_id) = record_id {
        request["RecordId"] = record_id.into();
    }
    if !spec.pushes.is_empty() {
        request[super::callback::PUSH_URLS] = spec.pushes.iter().map(|push| push.url.reveal()).collect();
    }
    let casts = &service.config.casts;
    Ok(NewCast {
        id,
        app: app.name.clone(),
        origin: ORIGIN.to_owned(),
        key: record_id.map(|record_id| key(sdk_app_id, record_id)),
        hold: Hold::WhileLive,
        request,
        spec,
        queue: Duration::from_secs(casts.queue_s),
        quota: app.max_casts,
        max_bytes: app.max_kept_bytes(),
        queue_limit: casts.queue_limit,
        notify: true,
    })
}

/// The application that is named. The oldest examples of the vendor name none: a key that has only one means
/// that.
fn application(apps: &[Arc<Application>], root: &Object<'_>) -> Result<Arc<Application>, Fault> {
    let mut able = apps.iter().filter(|app| app.sdk_app_id.is_some());
    let Some(id) = sdk_app_id(root)? else {
        return match (able.next(), able.next()) {
            (Some(only), None) => Ok(Arc::clone(only)),
            _ => Err(Fault::missing("MissingParameter.SdkAppId", "SdkAppId")),
        };
    };
    let named = able.find(|app| app.sdk_app_id == Some(id)).map(Arc::clone);
    named.ok_or_else(|| {
        let words = format!("there is no SdkAppId {id} that this key may act for");
        Fault::new("FailedOperation.SdkAppIdNotUnderAppId", words)
    })
}

/// `MaxDurationLimit` in seconds: the operator's maximum if the request does not give it.
fn max_duration_s(config: &config::Tencent, root: &Object<'_>) -> Result<u64, Fault> {
    // The configuration has been checked: neither is more than a day.
    let bound = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let (low, high) = (bound(config.min_duration_s), bound(config.max_duration_s));
    Ok(root
        .within_unless_zero("MaxDurationLimit", low..=high)?
        .map_or(config.max_duration_s, i64::unsigned_abs))
}

fn source(root: &Object<'_>) -> Result<Source, Fault> {
    let url = root.needed("RecordUrl", "MissingParameter")?;
    let url = SourceUrl::parse(url)
        .map_err(|error| Fault::new("InvalidParameter", format!("`RecordUrl`: {error}")))?;
    let mut source = Source::new(url);
    source.size = size(root)?;
    source.context.mobile = mobile(root)?;
    Ok(source)
}

fn size(root: &Object<'_>) -> Result<Size, Fault> {
    let Some(video) = root.object("WebRecordVideoParams")? else { return Ok(Size::HD) };
    let side = |member: &str, range, usual: i64| -> Result<u32, Fault> {
        let asked = video.within_unless_zero(member, range)?.unwrap_or(usual);
        // Half of the colour planes would be half a pixel wide; the least is the nearest to what is even
        // less.
        Ok(u32::try_from(asked).map_or(MIN_SIDE, |side| side - side % 2).max(MIN_SIDE))
    };
    let (width, height) = (side("Width", WIDTH, USUAL.0)?, side("Height", HEIGHT, USUAL.1)?);
    Size::new(width, height).map_err(|error| refused(&error))
}

fn mobile(root: &Object<'_>) -> Result<Option<Mobile>, Fault> {
    let Some(params) = root.object("EmulateMobileParams")? else { return Ok(None) };
    let second = |member| Ok::<_, Fault>(params.within(member, 0..=1)? == Some(1));
    let device = if second("MobileDeviceType")? { Device::Tablet } else { Device::Phone };
    let orientation =
        if second("ScreenOrientation")? { Orientation::Landscape } else { Orientation::Portrait };
    Ok(Some(Mobile { device, orientation }))
}

/// How the recording is made.
struct Video {
    format: Format,
    split: Duration,
}

impl Video {
    fn read(root: &Object<'_>, decided: Option<Format>) -> Result<Self, Fault> {
        let video = root.object("WebRecordVideoParams")?;
        let asked = video.as_ref().map_or(Ok(None), |video| video.word("Format"))?;
        let format = match (decided, asked) {
            (Some(format), _) => format,
            (None, None | Some("mp4")) => Format::Mp4,
            // The files of the vendor's recordings are MPEG-TS.
            (None, Some("hls")) => Format::HlsTs,
            (None, Some(_)) => {
                let words = "the parameter `WebRecordVideoParams.Format` must be hls or mp4";
                return Err(Fault::new("InvalidParameter", words));
            }
        };
        let minutes = video
            .map_or(Ok(None), |video| video.within_unless_zero("MaxMediaFileDuration", SPLIT_MIN.clone()))?;
        let minutes = minutes.unwrap_or(*SPLIT_MIN.end()).unsigned_abs();
        Ok(Self { format, split: Duration::from_secs(60 * minutes) })
    }
}

fn record_id<'a>(root: &Object<'a>) -> Result<Option<&'a str>, Fault> {
    let bad = |id: &&str| id.len() > MAX_RECORD_ID || id.chars().any(char::is_control);
    match root.word("RecordId")? {
        Some(id) if bad(&id) => Err(Fault::new(
            "InvalidParameter.RecordId",
            format!(
                "the parameter `RecordId` has {} bytes: fewer than 32 are possible, none of them control characters",
                id.len()
            ),
        )),
        id => Ok(id),
    }
}

fn pushes(app: &Application, root: &Object<'_>) -> Result<Vec<Push>, Fault> {
    let targets = root.objects("PublishCdnParams")?;
    if targets.len() > MAX_PUSHES {
        let words = format!("there are {} PublishCdnParams, {MAX_PUSHES} are possible", targets.len());
        return Err(Fault::new("InvalidParameter.PublishCdnUrls", words));
    }
    targets.iter().map(|target| push(app, target)).collect()
}

fn push(app: &Application, target: &Object<'_>) -> Result<Push, Fault> {
    let bad = |why: &str| {
        let name = target.name("PublishCdnUrl");
        Fault::new("InvalidParameter.PublishCdnUrls", format!("`{name}`: {why}"))
    };
    let text = target.word("PublishCdnUrl")?.ok_or_else(|| bad("it is missing"))?;
    // It only decides what the vendor charges.
    target.within("IsTencentCdn", 0..=1)?;
    let url = PushUrl::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.protocol(), Protocol::Rtmp | Protocol::Rtmps) {
        return Err(bad("only RTMP addresses are possible"));
    }
    if !app.permits_push(&url) {
        return Err(bad("this application may not push to that address"));
    }
    Ok(Push { url, patience: Some(PUSH_PATIENCE) })
}

/// What the description of a cast finds wrong, in the vendor's codes and with the vendor's name for it.
fn refused(error: &SpecError) -> Fault {
    let (code, parameter) = match error {
        SpecError::Push(_) => ("InvalidParameter.PublishCdnUrls", "PublishCdnParams"),
        SpecError::Storage(_) => ("InvalidParameter", "StorageParams"),
        SpecError::Context { .. } => ("InvalidParameter.OutOfRange", "EmulateMobileParams"),
        SpecError::Time { field: Field::ReadyTimeout, .. } => ("InvalidParameter.OutOfRange", "ReadyTimeout"),
        SpecError::Time { field: Field::MaxTime, .. } => ("InvalidParameter.OutOfRange", "MaxDurationLimit"),
        SpecError::Size { .. } | SpecError::Time { .. } => {
            ("InvalidParameter.OutOfRange", "WebRecordVideoParams")
        }
        _ => return Fault::new("InvalidParameter.OutOfRange", error.to_string()),
    };
    Fault::new(code, format!("`{parameter}`: {error}"))
}
