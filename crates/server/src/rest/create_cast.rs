//! What a cast is asked for with.

use std::collections::BTreeMap;
use std::time::Duration;

use pagecast_core::CastSpec;
use pagecast_core::spec::{
    BrowserContext, Bucket, ColorScheme, Device, Format, Layer, MAX_DURATION, Mobile, Orientation, Push,
    PushUrl, ReadySignal, RoomIds, Secret, Size, Source, SourceUrl, Storage, StorageKeys, Tls,
};
use pagecast_core::time::Fps;
use pagecast_fleet::CastId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiError;
use super::settings::parse_ca_bundle;
use super::storage::StorageKeysBody;
use crate::app::{self, Application, CallbackReceiver};
use crate::service::Service;

mod spec_error;

pub(super) use spec_error::spec_api_error;

/// Shortest cast that can be asked for: no frame is longer.
const MIN_DURATION: Duration = Duration::from_secs(1);

/// A cast that is wanted: a page, and at least one of `room`, `recording` and `pushes`. What is left out is
/// as usual.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCast)]
pub(super) struct CreateCastRequest {
    /// For which application. Only the administrator says it.
    pub(super) app: Option<String>,
    /// Address of the page, http or https.
    #[schema(example = "https://example.com/talk", max_length = 16_384)]
    url: String,
    /// Width of the picture in pixels, even; 1280 if left out.
    #[schema(minimum = 50, maximum = 3840, multiple_of = 2)]
    width: Option<u32>,
    /// Height of the picture in pixels, even; 720 if left out.
    #[schema(minimum = 50, maximum = 3840, multiple_of = 2)]
    height: Option<u32>,
    /// Pictures per second; 30 if left out.
    #[schema(minimum = 1, maximum = 60)]
    fps: Option<u32>,
    /// Device pixel ratio; 1 if left out.
    #[schema(minimum = 0.25, maximum = 8.0)]
    scale_factor: Option<f64>,
    /// Cap on the bitrate of the picture in recordings and pushes.
    #[schema(minimum = 50, maximum = 100_000)]
    bitrate_kbps: Option<u32>,
    /// A phone or tablet instead of a desktop.
    mobile: Option<MobileBody>,
    /// Sent with every request of the page to its own origin, at most 100.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<BTreeMap<String, Secret>>,
    /// Cookies for the page's host, at most 100.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    cookies: Option<BTreeMap<String, Secret>>,
    /// Instead of the browser's own.
    user_agent: Option<String>,
    /// Language of the page, like `de-DE`.
    locale: Option<String>,
    /// IANA name, like `Europe/Berlin`.
    timezone: Option<String>,
    /// What `prefers-color-scheme` says.
    color_scheme: Option<ColorSchemeBody>,
    /// A style sheet that beats the page's own, at most 1 MiB.
    css: Option<String>,
    /// A script that runs in every document before the page's own, at most 1 MiB.
    script: Option<String>,
    /// For servers that ask by HTTP.
    basic_auth: Option<BasicAuthBody>,
    /// Which certificates of servers are accepted.
    tls: Option<TlsBody>,
    /// When the page may be shown.
    ready: Option<ReadinessBody>,
    /// How often to look whether the page is alive.
    checks: Option<ChecksBody>,
    /// Time from the first frame of the cast to its end, in seconds; no more than the application's casts may
    /// have.
    #[schema(minimum = 10, maximum = 86_400)]
    max_time_s: Option<u64>,
    /// The cast ends when the page was shown for so long, in seconds: at least one.
    #[schema(minimum = 1, maximum = 86_400)]
    duration_s: Option<f64>,
    /// The room that the page is published in.
    room: Option<RoomRequest>,
    /// What is recorded.
    recording: Option<RecordingRequest>,
    /// Servers that the stream is sent to, at most 10.
    #[schema(max_items = 10)]
    pushes: Option<Vec<AddPushRequest>>,
    /// Who is told what happens, instead of the application's own receiver.
    pub(super) callback: Option<CallbackReceiverBody>,
    /// How long the cast may wait for room on the machine before it has failed, in seconds; as the operator
    /// has it if left out, and at most as long as the operator allows (`casts.max_queue_s`, usually 3600).
    #[schema(maximum = 86_400)]
    queue_s: Option<u64>,
}

/// A mobile device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Mobile)]
struct MobileBody {
    /// Which.
    device: DeviceBody,
    /// How it is held; upright if left out.
    #[serde(default)]
    orientation: OrientationBody,
}

/// A kind of mobile device: 390x844 or 820x1180 CSS pixels.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Device)]
enum DeviceBody {
    Phone,
    Tablet,
}

/// How a mobile device is held.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Orientation)]
enum OrientationBody {
    #[default]
    Portrait,
    Landscape,
}

/// What a page's style may ask for.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = ColorScheme)]
enum ColorSchemeBody {
    Light,
    Dark,
}

/// User and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BasicAuthBody {
    /// User.
    user: String,
    /// Password.
    #[schema(value_type = String)]
    password: Secret,
}

/// Which certificates of servers are accepted.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Tls)]
struct TlsBody {
    /// Trusted besides the browser's own and the application's, as PEM text: at most 16 certificates
    /// together.
    #[schema(max_length = 65_536)]
    ca: Option<String>,
    /// Whether any certificate is accepted from the page's own origin. Nobody can tell then who answers; it
    /// is warned of.
    insecure: bool,
}

/// When the page may be shown; until then nothing goes into any output.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ReadinessBody {
    /// What the page calls.
    signal: SignalBody,
    /// How long its call is waited for, in seconds; 0 waits for ever.
    #[schema(maximum = 60)]
    timeout_s: u64,
    /// A CSS selector that must match something visible.
    #[schema(min_length = 1, max_length = 8192)]
    selector: Option<String>,
    /// Whether nothing may be being loaded, for half a second.
    network_idle: bool,
}

/// What the page calls when it is ready: nothing, `onWebcastStart()` (and `onWebcastEnd()` at its end), or
/// `notifyReady()`.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Signal)]
enum SignalBody {
    #[default]
    None,
    Webcast,
    NotifyReady,
}

/// How often to look whether the page is alive, in seconds; never if left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = Checks)]
struct ChecksBody {
    /// Frozen: nothing changed on the page.
    #[schema(minimum = 2, maximum = 30)]
    freeze_s: Option<u64>,
    /// Blank: every pixel is white.
    #[schema(minimum = 2, maximum = 30)]
    blank_s: Option<u64>,
    /// Crashed: the renderer is gone, or its scripts do not get on.
    #[schema(minimum = 1, maximum = 30)]
    crash_s: Option<u64>,
}

/// A room of the application's provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRoom)]
struct RoomRequest {
    /// The room: letters, digits and `_ @ - .`
    #[schema(pattern = "^[A-Za-z0-9_@.-]{1,128}$")]
    room: String,
    /// The user that the page is published as: likewise.
    #[schema(pattern = "^[A-Za-z0-9_@.-]{1,128}$")]
    user: String,
    /// One stream, or two layers of it, the larger one first, which has the size of the page; as the page if
    /// left out.
    #[schema(min_items = 1, max_items = 2)]
    layers: Option<Vec<LayerBody>>,
}

/// One picture size of a stream: upper bounds, which a bad network stays below.
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
    /// Most pictures per second; the page's if left out.
    #[schema(minimum = 1, maximum = 60)]
    fps: Option<u32>,
    /// Most bits, by the size if left out.
    #[schema(minimum = 30, maximum = 20_000)]
    bitrate_kbps: Option<u32>,
}

/// What is recorded.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = NewRecording)]
struct RecordingRequest {
    /// `s3://BUCKET/PREFIX?region=…&endpoint=…&path-style=true`, or `gs://`, `az://`, `cos://`, `tos://`,
    /// `oss://`; where the application keeps its recordings if left out. A folder of the server only for the
    /// administrator.
    to: Option<String>,
    /// Keys for it. Whoever names a bucket has them.
    keys: Option<StorageKeysBody>,
    /// What it is made into.
    format: FormatBody,
    /// Length of a segment, in seconds; 4 if left out.
    #[schema(minimum = 1, maximum = 60)]
    segment_s: Option<u64>,
    /// Longest MP4 file, in seconds; 24 hours if left out.
    #[schema(minimum = 5, maximum = 86_400)]
    split_s: Option<u64>,
    /// Time between two thumbnails, in seconds; none if left out.
    #[schema(minimum = 1, maximum = 3600)]
    thumbnails_s: Option<u64>,
    /// What its files are called; the id of the cast if left out.
    #[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
    name: Option<String>,
    /// Whether a list of all its files is stored with them, `NAME.json`.
    manifest: bool,
    /// No picture, only sound.
    audio_only: bool,
}

/// What a recording is made into: MP4 files, segments of fragmented MP4 (`hls`) or of MPEG-TS (`hls-ts`) with
/// playlists, or both.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Format)]
enum FormatBody {
    #[default]
    Mp4,
    Hls,
    HlsTs,
    Both,
    BothTs,
}

/// A server that the stream is sent to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPush)]
pub(super) struct AddPushRequest {
    /// `rtmp://HOST/APPLICATION/KEY`, `rtmps://…` or `srt://HOST:PORT?…`, at most 1000 bytes.
    #[schema(value_type = String, example = "rtmp://live.example.com/app/key")]
    url: Secret,
    /// How long it may be without a connection before it is given up for good, in seconds; never if left out.
    #[serde(default)]
    #[schema(maximum = 86_400)]
    patience_s: Option<u64>,
}

/// Who is told what happens to a cast.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Callback)]
pub(super) struct CallbackReceiverBody {
    /// http or https.
    #[schema(value_type = String)]
    url: Secret,
    /// Signs what is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256)]
    secret: Option<Secret>,
}

impl CallbackReceiverBody {
    pub(super) fn into_receiver(self, app: &Application) -> Result<CallbackReceiver, ApiError> {
        let url = url::Url::parse(self.url.reveal()).map_err(|_| {
            ApiError::invalid_parameter("callback.url", "this is not a URL like https://host/path")
        })?;
        let receiver = CallbackReceiver { url, secret: self.secret, retry_s: 0, noce: false };
        app::validate_receiver("callback", &receiver)
            .map_err(|wrong| ApiError::invalid_parameter(wrong.field, wrong.reason))?;
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
        if self.patience_s.is_some_and(|s| s > 86_400) {
            return Err(ApiError::invalid_parameter(
                format!("{field}patience_s"),
                "at most 86400 s are possible",
            ));
        }
        Ok(Push { url, reconnect_timeout: self.patience_s.map(Duration::from_secs) })
    }
}

/// Who asks, of whom, and which cast it becomes.
pub(super) struct CreateContext<'a> {
    pub(super) service: &'a Service,
    pub(super) app: &'a Application,
    pub(super) id: &'a CastId,
    /// Whether it may name folders of the server.
    pub(super) is_administrator: bool,
}

impl CreateCastRequest {
    /// How long the cast may wait for a worker, in seconds.
    pub(super) fn queue_timeout_s(&self, service: &Service) -> Result<u64, ApiError> {
        match self.queue_s {
            Some(s) if s > service.config.casts.max_wait_s() => {
                let most = service.config.casts.max_wait_s();
                Err(ApiError::invalid_parameter(
                    "queue_s",
                    format!("it is {s}, and at most {most} s are possible here"),
                ))
            }
            s => Ok(s.unwrap_or(service.config.casts.queue_s)),
        }
    }

    /// The description of the cast.
    pub(super) fn into_spec(self, asker: &CreateContext<'_>) -> Result<CastSpec, ApiError> {
        if self.room.is_none() && self.recording.is_none() && self.pushes.as_ref().is_none_or(Vec::is_empty) {
            let words = "this cast would go nowhere: name a room, a recording or pushes";
            return Err(ApiError::new(axum::http::StatusCode::BAD_REQUEST, "no-output", words));
        }
        let source = self.source()?;
        let (size, fps) = (source.size, source.fps);
        let mut spec = asker.service.new_cast_spec(asker.app, asker.id, source);
        if let Some(tls) = &self.tls {
            tls.merge_into(&mut spec.source.context.tls)?;
        }
        spec.bitrate_kbps = self.bitrate_kbps;
        if let Some(s) = self.max_time_s {
            if Duration::from_secs(s) > asker.app.limits.max_time {
                let most = asker.app.limits.max_time.as_secs();
                return Err(ApiError::invalid_parameter(
                    "max_time_s",
                    format!("this application's casts run {most} s at most"),
                ));
            }
            spec.limits.max_time = Duration::from_secs(s);
        }
        spec.duration = self.duration_s.map(parse_duration).transpose()?;
        if let Some(ready) = self.ready {
            spec.readiness.signal = ready.signal.into();
            spec.readiness.timeout = Duration::from_secs(ready.timeout_s);
            spec.readiness.selector = ready.selector;
            spec.readiness.network_idle = ready.network_idle;
        }
        if let Some(checks) = self.checks {
            let every = |s: Option<u64>| s.map(Duration::from_secs);
            spec.checks.freeze = every(checks.freeze_s);
            spec.checks.blank = every(checks.blank_s);
            spec.checks.crash = every(checks.crash_s);
        }
        if let Some(room) = self.room {
            spec.room = Some(room.into_room(asker, size, fps)?);
        }
        if let Some(recording) = self.recording {
            spec.recording = Some(recording.into_recording(asker)?);
        }
        let pushes = self.pushes.unwrap_or_default().into_iter().enumerate();
        spec.pushes = pushes
            .map(|(i, push)| push.into_push(asker.app, &format!("pushes[{i}].")))
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
        let list = |map: &Option<BTreeMap<String, Secret>>| {
            map.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let context = BrowserContext {
            mobile: self.mobile.as_ref().map(MobileBody::to_mobile),
            headers: list(&self.headers),
            cookies: list(&self.cookies),
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
    Fps::new(fps).ok_or_else(|| ApiError::invalid_parameter(field, "1 to 60 frames per second are possible"))
}

fn parse_duration(s: f64) -> Result<Duration, ApiError> {
    let duration = Duration::try_from_secs_f64(s).ok().filter(|d| (MIN_DURATION..=MAX_DURATION).contains(d));
    duration.ok_or_else(|| {
        ApiError::invalid_parameter("duration_s", "one second to 24 hours are possible, in seconds")
    })
}

impl TlsBody {
    /// Adds to what the application's casts have.
    fn merge_into(&self, tls: &mut Tls) -> Result<(), ApiError> {
        tls.insecure = self.insecure;
        let Some(text) = &self.ca else { return Ok(()) };
        let own = parse_ca_bundle("tls.ca", text)?;
        let both = tls.ca.as_ref().map_or(Ok(own.clone()), |ca| ca.merge(&own));
        tls.ca = Some(both.map_err(|error| ApiError::invalid_parameter("tls.ca", error.to_string()))?);
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
        asker: &CreateContext<'_>,
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
        // One that also uses Volcengine's API finds its rooms under the same name.
        let app = asker.app.app_id.clone().unwrap_or_else(|| asker.app.name.clone());
        let ids = RoomIds { app, room: self.room, user: self.user, task: asker.id.to_string() };
        asker.service.new_room(asker.app, ids, layers).map_err(|error| spec_api_error(&error))
    }
}

impl RecordingRequest {
    fn into_recording(self, asker: &CreateContext<'_>) -> Result<pagecast_core::spec::Recording, ApiError> {
        let to = self.to.as_deref().map(|to| recording_storage(to, self.keys.clone(), asker)).transpose()?;
        if to.is_none() && self.keys.is_some() {
            return Err(ApiError::invalid_parameter(
                "recording.keys",
                "keys are for a bucket that recording.to names",
            ));
        }
        // Names of one application's choice do not meet another's.
        let own = || Storage::Folder(asker.service.config.data.join("recordings").join(&asker.app.name));
        let shared = to.is_none() && asker.app.storage.default.is_none();
        let to = if shared && self.name.is_some() { Some(own()) } else { to };
        let mut recording = asker.service.new_recording(asker.app, asker.id, to);
        recording.format = self.format.into();
        if let Some(s) = self.segment_s {
            recording.segment = Duration::from_secs(s);
        }
        if let Some(s) = self.split_s {
            recording.split = Duration::from_secs(s);
        }
        recording.thumbnails = self.thumbnails_s.map(Duration::from_secs);
        if let Some(name) = self.name {
            recording.name = name;
        }
        recording.manifest = self.manifest;
        recording.audio_only = self.audio_only;
        Ok(recording)
    }
}

fn address_not_allowed(field: impl Into<String>) -> ApiError {
    ApiError::invalid_parameter(field, "the application's network does not allow this address")
}

/// A place that a request names. Without keys of its own it would be opened with the operator's, so only the
/// administrator may leave them out.
fn recording_storage(
    to: &str,
    keys: Option<StorageKeysBody>,
    asker: &CreateContext<'_>,
) -> Result<Storage, ApiError> {
    let mut storage =
        Storage::parse(to).map_err(|error| ApiError::invalid_parameter("recording.to", error.to_string()))?;
    let keys = keys.map(StorageKeys::from);
    match (&storage, asker.is_administrator) {
        (Storage::File(_) | Storage::Folder(_), false) => {
            let words = "only the administrator may name a folder of the server: write s3://, gs://, az://, cos://, tos:// or \
                         oss:// with a bucket, or leave it out";
            return Err(ApiError::invalid_parameter("recording.to", words));
        }
        (Storage::Bucket(_), false) if keys.is_none() => {
            return Err(ApiError::invalid_parameter("recording.keys", "a bucket of your own needs its keys"));
        }
        (Storage::Bucket(Bucket { endpoint: Some(url), .. }), _) if !asker.app.permits_url(url) => {
            return Err(address_not_allowed("recording.to"));
        }
        _ => {}
    }
    if let Storage::Bucket(bucket) = &mut storage {
        bucket.network = Some(asker.app.network.clone());
    }
    storage = app::set_storage_keys(storage, keys)
        .map_err(|why| ApiError::invalid_parameter("recording.keys", why))?;
    storage.validate().map_err(|error| ApiError::invalid_parameter("recording.keys", error.to_string()))?;
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

impl From<SignalBody> for ReadySignal {
    fn from(body: SignalBody) -> Self {
        match body {
            SignalBody::None => Self::None,
            SignalBody::Webcast => Self::Webcast,
            SignalBody::NotifyReady => Self::NotifyReady,
        }
    }
}

impl From<FormatBody> for Format {
    fn from(body: FormatBody) -> Self {
        match body {
            FormatBody::Mp4 => Self::Mp4,
            FormatBody::Hls => Self::Hls,
            FormatBody::HlsTs => Self::HlsTs,
            FormatBody::Both => Self::Both,
            FormatBody::BothTs => Self::BothTs,
        }
    }
}
