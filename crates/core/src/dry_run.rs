//! Result of a dry run: a page was opened once, as for a cast, but without outputs.

use serde::{Deserialize, Serialize};

/// Longest picture of the page, in bytes of the JPEG file. Noise of [`MAX_PICTURE_WIDTH`] fits.
pub const MAX_PICTURE_BYTES: usize = 1 << 20;
/// Largest width of the picture, in pixels.
pub const MAX_PICTURE_WIDTH: u32 = 640;
/// Most failed requests in a report.
pub const MAX_FAILED_REQUESTS: usize = 50;
/// Most console messages in a report: the last ones.
pub const MAX_CONSOLE_MESSAGES: usize = 100;

/// What a dry run found out about a page. All texts that come from the page are bounded in length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DryRunReport {
    /// Address of the page, without its query.
    pub url: String,
    /// Title of the page.
    pub title: String,
    /// HTTP status of the page; `None` if no server answered.
    pub http_status: Option<u16>,
    /// Time until the page and its resources were loaded, in milliseconds; `None` if they were not.
    pub load_ms: Option<u64>,
    /// Time until the page was ready to be shown, in milliseconds; `None` if it was not.
    pub ready_ms: Option<u64>,
    /// Why a cast of the page would fail, if it would.
    pub problem: Option<DryRunProblem>,
    /// Picture of the page at the end, as the `data:` URL of a JPEG file.
    pub picture: Option<String>,
    /// Requests of the page that failed, at most [`MAX_FAILED_REQUESTS`].
    pub failed_requests: Vec<FailedRequest>,
    /// Last messages of the page's console, at most [`MAX_CONSOLE_MESSAGES`].
    pub console: Vec<ConsoleMessage>,
    /// Formats that the browser plays.
    pub codecs: Codecs,
    /// Whether the page may play sound by itself.
    pub autoplay: bool,
    /// Sound that the page played.
    pub sound: SoundStats,
    /// Changed pictures per second.
    pub fps: f64,
    /// CPU use of the page, its display and its sound card, in cores. Encoders are not included.
    pub cpu_cores: f64,
    /// Memory of the page's browser, in bytes.
    pub memory_bytes: u64,
    /// What the page's owner should know.
    pub warnings: Vec<DryRunWarning>,
}

/// Reason why a cast of a page would fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRunProblem {
    /// Stable identifier: that of a [`LoadError`](crate::cast::LoadError), or of another problem.
    pub kind: String,
    /// What was tried and why it failed.
    pub message: String,
}

/// A request of a page that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRequest {
    /// Address, without its query.
    pub url: String,
    /// Why the request failed.
    pub reason: String,
    /// HTTP status, if the server answered.
    pub status: Option<u16>,
    /// What was requested, in the browser's words: `script`, `image`, `fetch` …
    pub resource_type: String,
}

/// A message of a page's console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleMessage {
    /// Level as the browser calls it, like `log`, `warning` or `error`; `exception` for an uncaught
    /// exception.
    pub level: String,
    /// Text of the message.
    pub text: String,
}

/// Formats of video and audio that a browser plays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "their names are those of the formats")]
pub struct Codecs {
    pub h264: bool,
    pub vp8: bool,
    pub vp9: bool,
    pub av1: bool,
    pub aac: bool,
    pub opus: bool,
}

/// Sound of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SoundStats {
    /// Most streams that played at the same time.
    pub streams: u32,
    /// Loudest sample, left and right: 1 is full scale.
    pub peak: [f32; 2],
}

/// Something that a page's owner should know and that does not end a cast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRunWarning {
    /// Stable identifier, like `blank`.
    pub kind: String,
    /// Explanation in English.
    pub message: String,
}
