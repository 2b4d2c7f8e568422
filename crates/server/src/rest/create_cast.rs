//! Body of a request for a new cast, and how it becomes a description.

use std::collections::BTreeMap;
use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::spec::{
    BrowserContext, Bucket, CaBundle, ColorScheme, Device, Format, Layer, MAX_DURATION, Mobile, Orientation,
    Push, PushUrl, ReadySignal, RoomIds, Secret, Size, Source, SourceUrl, Storage, Tls,
};
use pagecast_core::time::Fps;
use pagecast_fleet::CastId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ErrorCode};
use crate::app::{self, Application, CallbackReceiver};
use crate::service::{Service, local_storage};

mod spec_error;

pub(super) use spec_error::spec_api_error;

/// Shortest `duration_s`: one frame at the lowest frame rate.
const MIN_DURATION: Duration = Duration::from_secs(1);

/// Cast to create: a page, and at least one of `room`, `recording` and `pushes`. Absent fields have their
/// defaults.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateCastRequest {
    /// Application that will own the cast. Only the administrator sets it.
    pub(super) app: Option<String>,
    /// Address of the page, http or https.
    #[schema(example = "https://example.com/talk", max_length = 16_384)]
    url: String,
    /// Width of the picture in pixels, even. Default 1280.
    #[schema(minimum = 50, maximum = 3840, multiple_of = 2)]
    width: Option<u32>,
    /// Height of the picture in pixels, even. Default 720.
    #[schema(minimum = 50, maximum = 3840, multiple_of = 2)]
    height: Option<u32>,
    /// Frames per second. Default 30.
    #[schema(minimum = 1, maximum = 60)]
    fps: Option<u32>,
    /// Device pixel ratio. Default 1.
    #[schema(minimum = 0.25, maximum = 8.0)]
    scale_factor: Option<f64>,
    /// Largest video bitrate of recordings and pushes, in kbit/s.
    #[schema(minimum = 50, maximum = 100_000)]
    bitrate_kbps: Option<u32>,
    /// Emulates a phone or tablet.
    mobile: Option<MobileBody>,
    /// HTTP headers of every request of the page to its own origin, at most 100.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<BTreeMap<String, Secret>>,
    /// Cookies for the page's host, at most 100.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    cookies: Option<BTreeMap<String, Secret>>,
    /// User agent instead of the browser's own.
    user_agent: Option<String>,
    /// Language of the page, like `de-DE`.
    locale: Option<String>,
    /// Time zone of the page, an IANA name like `Europe/Berlin`.
    timezone: Option<String>,
    /// Value of `prefers-color-scheme`.
    color_scheme: Option<ColorSchemeBody>,
    /// Style sheet that overrides the page's own, at most 1 MiB.
    css: Option<String>,
    /// Script that runs in every document before the page's own, at most 1 MiB.
    script: Option<String>,
    /// User and password for HTTP authentication.
    basic_auth: Option<BasicAuthBody>,
    /// Certificates that the browser accepts.
    tls: Option<TlsBody>,
    /// Conditions for showing the page.
    ready: Option<ReadinessBody>,
    /// Health checks of the page.
    checks: Option<ChecksBody>,
    /// Longest time from the first frame to the end, in seconds; at most the application's
    /// `limits.max_time_s`.
    #[schema(minimum = 10, maximum = 86_400)]
    max_time_s: Option<u64>,
    /// Length of the output after which the cast ends, in seconds.
    #[schema(minimum = 1, maximum = 86_400)]
    duration_s: Option<f64>,
    /// Room to publish the page in.
    room: Option<RoomRequest>,
    /// Recording to make.
    recording: Option<RecordingRequest>,
    /// Servers to push the stream to, at most 10.
    #[schema(max_items = 10)]
    pushes: Option<Vec<AddPushRequest>>,
    /// Receiver of callbacks, instead of the application's own.
    pub(super) callback: Option<CallbackReceiverBody>,
    /// Nodes on which the cast may run. Default is any.
    placement: Option<PlacementRequest>,
    /// Longest time that the cast may wait for a worker before it fails, in seconds. Default and maximum are
    /// set by the operator (`casts.queue_timeout_s` and `casts.max_queue_timeout_s`, by default 60 and 3600).
    #[schema(maximum = 86_400)]
    queue_timeout_s: Option<u64>,
}

/// Nodes on which a cast may run.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Placement)]
struct PlacementRequest {
    /// Labels that the node must have, each 1 to 63 letters, digits and `_ - .`. Only a service of several
    /// nodes (`fleet.database`) has any.
    #[schema(max_items = 8)]
    labels: Vec<String>,
}

impl PlacementRequest {
    /// The labels. A service that is alone has none, and no node with labels can join it.
    fn into_labels(self, service: &Service) -> Result<Vec<String>, ApiError> {
        if !self.labels.is_empty() && service.config.fleet.database.is_none() {
            let message = "this service is one machine without labels: leave them out";
            return Err(ApiError::invalid_parameter("placement.labels", message));
        }
        Ok(self.labels)
    }
}

/// Mobile device to emulate.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Mobile)]
struct MobileBody {
    /// Kind of device.
    device: DeviceBody,
    /// Orientation. Default portrait.
    #[serde(default)]
    orientation: OrientationBody,
}

/// Kind of mobile device, with 390x844 (phone) or 820x1180 (tablet) CSS pixels.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Device)]
enum DeviceBody {
    Phone,
    Tablet,
}

/// Orientation of a mobile device.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Orientation)]
enum OrientationBody {
    #[default]
    Portrait,
    Landscape,
}

/// Color scheme that a page can query.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = ColorScheme)]
enum ColorSchemeBody {
    Light,
    Dark,
}

/// User and password for HTTP authentication.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BasicAuth)]
struct BasicAuthBody {
    /// User name.
    user: String,
    /// Password of the user.
    #[schema(value_type = String)]
    password: Secret,
}

/// Certificates that the browser accepts.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Tls)]
struct TlsBody {
    /// Certificates to trust besides the browser's own and the application's, as PEM; at most 16 together.
    #[schema(value_type = Option<String>, max_length = 65_536)]
    ca: Option<CaBundle>,
    /// Whether any certificate is accepted from the page's own origin. The server is then not authenticated,
    /// and the cast has a warning.
    insecure: bool,
}

/// Conditions for showing the page. No output gets anything before they hold.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Readiness)]
struct ReadinessBody {
    /// Function that the page must call.
    #[serde(with = "SignalSchema")]
    #[schema(value_type = SignalSchema, default = "none")]
    signal: ReadySignal,
    /// Longest wait for that call, in seconds; 0 waits without limit.
    #[schema(maximum = 60)]
    timeout_s: u64,
    /// CSS selector that must match a visible element.
    #[schema(min_length = 1, max_length = 8192)]
    selector: Option<String>,
    /// Whether the network must have been idle for half a second.
    network_idle: bool,
}

/// Function that the page calls when it is ready: none, `onWebcastStart()` (and `onWebcastEnd()` at its end),
/// or `notifyReady()`.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(remote = "ReadySignal", rename_all = "kebab-case")]
#[schema(as = Signal)]
enum SignalSchema {
    None,
    Webcast,
    NotifyReady,
}

/// Intervals of the health checks of a page, in seconds; an absent check is off.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Checks)]
struct ChecksBody {
    /// Check for a frozen page, on which nothing changes.
    #[schema(minimum = 2, maximum = 30)]
    freeze_s: Option<u64>,
    /// Check for a blank page, on which every pixel is white.
    #[schema(minimum = 2, maximum = 30)]
    blank_s: Option<u64>,
    /// Check for a crashed page, whose scripts do not respond.
    #[schema(minimum = 1, maximum = 30)]
    crash_s: Option<u64>,
}

/// Room of the application's provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoomRequest {
    /// Name of the room: letters, digits and `_ @ - .`
    #[schema(pattern = "^[A-Za-z0-9_@.-]{1,128}$")]
    room: String,
    /// User that publishes the page: letters, digits and `_ @ - .`
    #[schema(pattern = "^[A-Za-z0-9_@.-]{1,128}$")]
    user: String,
    /// One or two layers of the stream, the larger one first, in the size of the page. Default is one layer
    /// like the page.
    #[schema(min_items = 1, max_items = 2)]
    layers: Option<Vec<LayerBody>>,
}

/// Layer of a stream. All values are upper bounds, which a slow network may lower.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Layer)]
struct LayerBody {
    /// Width in pixels, even.
    #[schema(minimum = 50, maximum = 3840, multiple_of = 2)]
    width: u32,
    /// Height in pixels, even.
    #[schema(minimum = 50, maximum = 3840, multiple_of = 2)]
    height: u32,
    /// Frames per second. Default is the page's.
    #[schema(minimum = 1, maximum = 60)]
    fps: Option<u32>,
    /// Bitrate in kbit/s. The default depends on the size.
    #[schema(minimum = 30, maximum = 20_000)]
    bitrate_kbps: Option<u32>,
}

/// Recording to make.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct RecordingRequest {
    /// Storage: `s3://BUCKET/PREFIX?region=…&endpoint=…&path-style=true`, or `gs://`, `az://`, `cos://`,
    /// `tos://`, `oss://`. Default is the application's storage. Only the administrator may name a folder of
    /// the server.
    to: Option<String>,
    /// Keys of the storage, required for a bucket.
    keys: Option<app::StorageKeys>,
    /// Format of the files.
    #[serde(with = "FormatSchema")]
    #[schema(value_type = FormatSchema)]
    format: Format,
    /// Length of a segment, in seconds. Default 4.
    #[schema(minimum = 1, maximum = 60)]
    segment_s: Option<u64>,
    /// Longest MP4 file, in seconds. Default 86400.
    #[schema(minimum = 5, maximum = 86_400)]
    split_s: Option<u64>,
    /// Time between two thumbnails, in seconds. Default is no thumbnails.
    #[schema(minimum = 1, maximum = 3600)]
    thumbnails_s: Option<u64>,
    /// Beginning of the names of its files. Default is the id of the cast.
    #[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
    name: Option<String>,
    /// Whether a list of all files is stored with them, as `NAME.json`.
    manifest: bool,
    /// Whether to record only the sound.
    audio_only: bool,
}

/// Format of a recording: MP4 files, segments of fragmented MP4 (`hls`) or of MPEG-TS (`hls-ts`) with
/// playlists, or both.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(remote = "Format", rename_all = "kebab-case")]
#[schema(as = Format)]
enum FormatSchema {
    Mp4,
    Hls,
    HlsTs,
    Both,
    BothTs,
}

/// Server to push a stream to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AddPushRequest {
    /// `rtmp://HOST/APPLICATION/KEY`, `rtmps://…` or `srt://HOST:PORT?…`, at most 1000 bytes.
    #[schema(value_type = String, example = "rtmp://live.example.com/app/key")]
    url: Secret,
    /// Longest time without a connection before the push fails for good, in seconds. Default is no limit.
    #[serde(default)]
    #[schema(maximum = 86_400)]
    reconnect_timeout_s: Option<u64>,
}

/// Receiver of callbacks about a cast.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Callback)]
pub(super) struct CallbackReceiverBody {
    /// Address, http or https.
    #[schema(value_type = String)]
    url: Secret,
    /// Secret that signs the callbacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    secret: Option<Secret>,
}

impl CallbackReceiverBody {
    pub(super) fn into_receiver(self, app: &Application) -> Result<CallbackReceiver, ApiError> {
        let url = url::Url::parse(self.url.reveal()).map_err(|_| {
            ApiError::invalid_parameter("callback.url", "it must be a URL like https://host/path")
        })?;
        let receiver = CallbackReceiver { url, secret: self.secret, extra_retry_s: 0, noce: false };
        app::validate_receiver("callback", &receiver)?;
        if !app.permits_url(&receiver.url) {
            return Err(address_not_allowed("callback.url"));
        }
        Ok(receiver)
    }
}

impl AddPushRequest {
    pub(super) fn into_push(self, app: &Application, field: &str) -> Result<Push, ApiError> {
        let url = PushUrl::parse(self.url.reveal())
            .map_err(|error| ApiError::invalid_parameter(format!("{field}url"), error.to_string()))?;
        if !app.permits_push(&url) {
            return Err(address_not_allowed(format!("{field}url")));
        }
        if self.reconnect_timeout_s.is_some_and(|s| s > 86_400) {
            return Err(ApiError::invalid_parameter(
                format!("{field}reconnect_timeout_s"),
                "it must be at most 86400",
            ));
        }
        Ok(Push { url, reconnect_timeout: self.reconnect_timeout_s.map(Duration::from_secs) })
    }
}

/// Caller and target of a request for a new cast.
pub(super) struct CreateContext<'a> {
    pub(super) service: &'a Service,
    pub(super) app: &'a Application,
    pub(super) id: &'a CastId,
    /// Whether the caller may name folders of the server.
    pub(super) is_administrator: bool,
    /// Whether the description is for a dry run, which needs no output and announces no room.
    pub(super) is_dry_run: bool,
}

impl CreateCastRequest {
    /// Longest time that the cast may wait for a worker; the operator's default if `None`.
    pub(super) fn queue_timeout(&self, service: &Service) -> Result<Option<Duration>, ApiError> {
        let max_s = service.config.casts.max_wait_s();
        match self.queue_timeout_s {
            Some(s) if s > max_s => {
                let message = format!("it is {s}: the limit of this service is {max_s} s");
                Err(ApiError::invalid_parameter("queue_timeout_s", message))
            }
            s => Ok(s.map(Duration::from_secs)),
        }
    }

    /// Builds the description of the cast.
    pub(super) fn into_spec(self, context: &CreateContext<'_>) -> Result<CastSpec, ApiError> {
        let has_no_output =
            self.room.is_none() && self.recording.is_none() && self.pushes.as_ref().is_none_or(Vec::is_empty);
        if has_no_output && !context.is_dry_run {
            let message = "the cast has no output: set room, recording or pushes";
            return Err(ApiError::new(ErrorCode::NoOutput, message));
        }
        let source = self.source()?;
        let (size, fps) = (source.size, source.fps);
        let mut spec = context.service.new_cast_spec(context.app, source);
        if let Some(tls) = &self.tls {
            tls.merge_into(&mut spec.source.context.tls)?;
        }
        spec.bitrate_kbps = self.bitrate_kbps;
        if let Some(s) = self.max_time_s {
            let max_s = context.app.settings.limits.max_time_s;
            if s > max_s {
                return Err(ApiError::invalid_parameter(
                    "max_time_s",
                    format!("it is {s}: the limit of this application is {max_s} s (limits.max_time_s)"),
                ));
            }
            spec.limits.max_time = Duration::from_secs(s);
        }
        spec.duration = self.duration_s.map(parse_duration).transpose()?;
        if let Some(readiness) = self.ready {
            spec.readiness.signal = readiness.signal;
            spec.readiness.timeout = Duration::from_secs(readiness.timeout_s);
            spec.readiness.selector = readiness.selector;
            spec.readiness.network_idle = readiness.network_idle;
        }
        if let Some(checks) = self.checks {
            let interval = |s: Option<u64>| s.map(Duration::from_secs);
            spec.checks.freeze = interval(checks.freeze_s);
            spec.checks.blank = interval(checks.blank_s);
            spec.checks.crash = interval(checks.crash_s);
        }
        if let Some(placement) = self.placement {
            spec.placement.labels = placement.into_labels(context.service)?;
        }
        if let Some(room) = self.room {
            spec.room = Some(room.into_room(context, size, fps)?);
        }
        if let Some(recording) = self.recording {
            spec.recording = Some(recording.into_recording(context)?);
        }
        let pushes = self.pushes.unwrap_or_default().into_iter().enumerate();
        spec.pushes = pushes
            .map(|(i, push)| push.into_push(context.app, &format!("pushes[{i}].")))
            .collect::<Result<_, _>>()?;
        spec.validate().map_err(|error| spec_api_error(&error))?;
        Ok(spec)
    }

    fn source(&self) -> Result<Source, ApiError> {
        let url = SourceUrl::parse(&self.url).map_err(|error| spec_api_error(&error))?;
        let (width, height) = (self.width.unwrap_or(1280), self.height.unwrap_or(720));
        let size = Size::new(width, height).map_err(|error| {
            ApiError::invalid_parameter(
                if self.width.is_some() { "width" } else { "height" },
                error.to_string(),
            )
        })?;
        let fps = self.fps.map_or(Ok(Fps::DEFAULT), |fps| parse_fps("fps", fps))?;
        let pairs = |map: &Option<BTreeMap<String, Secret>>| {
            map.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let context = BrowserContext {
            mobile: self.mobile.as_ref().map(MobileBody::to_mobile),
            headers: pairs(&self.headers),
            cookies: pairs(&self.cookies),
            user_agent: self.user_agent.clone(),
            locale: self.locale.clone(),
            timezone: self.timezone.clone(),
            color_scheme: self.color_scheme.map(Into::into),
            css: self.css.clone(),
            script: self.script.clone(),
            basic_auth: self.basic_auth.as_ref().map(|auth| (auth.user.clone(), auth.password.clone())),
            ..BrowserContext::default()
        };
        Ok(Source { size, fps, scale_factor: self.scale_factor.unwrap_or(1.0), context, ..Source::new(url) })
    }
}

fn parse_fps(field: &str, fps: u32) -> Result<Fps, ApiError> {
    Fps::new(fps).ok_or_else(|| ApiError::invalid_parameter(field, "it must be 1 to 60 frames per second"))
}

fn parse_duration(s: f64) -> Result<Duration, ApiError> {
    let duration = Duration::try_from_secs_f64(s).ok().filter(|d| (MIN_DURATION..=MAX_DURATION).contains(d));
    duration.ok_or_else(|| ApiError::invalid_parameter("duration_s", "it must be 1 to 86400 seconds"))
}

impl TlsBody {
    /// Adds these settings to the application's.
    fn merge_into(&self, tls: &mut Tls) -> Result<(), ApiError> {
        tls.insecure = self.insecure;
        let Some(own) = &self.ca else { return Ok(()) };
        let merged = tls.ca.as_ref().map_or(Ok(own.clone()), |ca| ca.merge(own));
        tls.ca = Some(merged.map_err(|error| ApiError::invalid_parameter("tls.ca", error.to_string()))?);
        Ok(())
    }
}

impl MobileBody {
    fn to_mobile(&self) -> Mobile {
        let device = match self.device {
            DeviceBody::Phone => Device::Phone,
            DeviceBody::Tablet => Device::Tablet,
        };
        let orientation = match self.orientation {
            OrientationBody::Portrait => Orientation::Portrait,
            OrientationBody::Landscape => Orientation::Landscape,
        };
        Mobile { device, orientation }
    }
}

impl RoomRequest {
    fn into_room(
        self,
        context: &CreateContext<'_>,
        size: Size,
        fps: Fps,
    ) -> Result<pagecast_core::spec::Room, ApiError> {
        let layer = |(i, body): (usize, LayerBody)| {
            let size = Size::new(body.width, body.height).map_err(|error| {
                ApiError::invalid_parameter(format!("room.layers[{i}].width"), error.to_string())
            })?;
            let fps = body.fps.map_or(Ok(fps), |rate| parse_fps(&format!("room.layers[{i}].fps"), rate))?;
            Ok(Layer { size, fps, bitrate_kbps: body.bitrate_kbps })
        };
        let layers = match self.layers {
            None => vec![Layer { size, fps, bitrate_kbps: None }],
            Some(layers) => {
                layers.into_iter().enumerate().map(layer).collect::<Result<Vec<_>, ApiError>>()?
            }
        };
        // An application that also uses Volcengine's API finds its rooms under the same name.
        let app = context.app.settings.app_id.clone().unwrap_or_else(|| context.app.name.clone());
        let ids = RoomIds { app, room: self.room, user: self.user, task: context.id.to_string() };
        let room = match context.is_dry_run {
            true => context.service.describe_room(context.app, ids, layers),
            false => context.service.new_room(context.app, ids, layers),
        };
        room.map_err(|error| spec_api_error(&error))
    }
}

impl RecordingRequest {
    fn into_recording(self, context: &CreateContext<'_>) -> Result<pagecast_core::spec::Recording, ApiError> {
        let to =
            self.to.as_deref().map(|to| recording_storage(to, self.keys.clone(), context)).transpose()?;
        if to.is_none() && self.keys.is_some() {
            return Err(ApiError::invalid_parameter(
                "recording.keys",
                "keys are only possible with a bucket in recording.to",
            ));
        }
        let shared = to.is_none() && context.app.settings.storage.default.is_none();
        let mut recording = context.service.new_recording(context.app, context.id, to);
        recording.format = self.format;
        if let Some(s) = self.segment_s {
            recording.segment = Duration::from_secs(s);
        }
        if let Some(s) = self.split_s {
            recording.split = Duration::from_secs(s);
        }
        recording.thumbnails = self.thumbnails_s.map(Duration::from_secs);
        if let Some(name) = self.name {
            recording.name = name;
            if shared {
                // Names that applications choose must not collide in a shared folder.
                recording.to = local_storage(Some(context.app));
            }
        }
        recording.manifest = self.manifest;
        recording.audio_only = self.audio_only;
        Ok(recording)
    }
}

fn address_not_allowed(field: impl Into<String>) -> ApiError {
    ApiError::invalid_parameter(field, "the application's network does not allow this address")
}

/// Storage that a request names. Without its own keys it would be opened with the operator's, so only the
/// administrator may leave them out.
fn recording_storage(
    to: &str,
    keys: Option<app::StorageKeys>,
    context: &CreateContext<'_>,
) -> Result<Storage, ApiError> {
    let to =
        Storage::parse(to).map_err(|error| ApiError::invalid_parameter("recording.to", error.to_string()))?;
    match (&to, context.is_administrator) {
        (Storage::File(_) | Storage::Folder(_), false) => {
            let message = "only the administrator may name a folder of the server: write s3://, gs://, \
                           az://, cos://, tos:// or \
                         oss:// with a bucket, or leave it out";
            return Err(ApiError::invalid_parameter("recording.to", message));
        }
        (Storage::Bucket(_), false) if keys.is_none() => {
            return Err(ApiError::invalid_parameter("recording.keys", "a bucket needs its keys"));
        }
        (Storage::Bucket(Bucket { endpoint: Some(url), .. }), _) if !context.app.permits_url(url) => {
            return Err(address_not_allowed("recording.to"));
        }
        _ => {}
    }
    let location = app::StorageLocation { to, keys };
    app::validate_location("recording", &location)?;
    let mut storage = location.to_spec();
    if let Storage::Bucket(bucket) = &mut storage {
        bucket.network = Some(context.app.settings.network.clone());
    }
    Ok(storage)
}

impl From<ColorSchemeBody> for ColorScheme {
    fn from(body: ColorSchemeBody) -> Self {
        match body {
            ColorSchemeBody::Light => Self::Light,
            ColorSchemeBody::Dark => Self::Dark,
        }
    }
}
