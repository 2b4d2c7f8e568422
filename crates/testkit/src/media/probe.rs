//! Streams and packets of a file by `ffprobe`, and the boxes of an MP4.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::command::{program, run_for_stdout};

/// An elementary stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// `video` or `audio`.
    pub kind: String,
    /// Name of the codec in ffprobe: `h264`, `aac`.
    pub codec: String,
    /// Name of the codec profile in ffprobe.
    pub profile: String,
    /// Width in pixels; 0 for sound.
    pub width: usize,
    /// Height in pixels; 0 for sound.
    pub height: usize,
    /// Seconds per unit of the time base: numerator and denominator.
    pub time_base: (i64, i64),
    /// All properties that ffprobe prints.
    pub json: Value,
    index: u64,
}

impl Stream {
    /// Converts units of the time base to seconds.
    #[must_use]
    pub fn seconds(&self, units: i64) -> f64 {
        (units * self.time_base.0) as f64 / self.time_base.1 as f64
    }

    /// A property as text; empty if ffprobe does not print it.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.json[key].as_str().unwrap_or_default()
    }
}

/// A coded picture or audio frame. Times are in units of the stream's time base.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Presentation time.
    pub pts: i64,
    /// Duration of the packet.
    pub duration: i64,
    /// Coded size in bytes.
    pub size: u64,
    /// Whether decoding can start here.
    pub keyframe: bool,
    /// Whether it is decoded but not shown.
    pub discarded: bool,
}

/// All streams of a file.
///
/// # Errors
/// The file cannot be read as media.
pub fn streams(path: &Path) -> Result<Vec<Stream>> {
    let mut ffprobe = program("ffprobe");
    ffprobe.args(["-v", "error", "-show_streams", "-of", "json"]).arg(path);
    let json: Value = serde_json::from_slice(&run_for_stdout(&mut ffprobe)?)?;
    json["streams"].as_array().context("ffprobe lists no streams")?.iter().map(parse_stream).collect()
}

fn parse_stream(json: &Value) -> Result<Stream> {
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let side = |key: &str| usize::try_from(json[key].as_u64().unwrap_or(0)).unwrap_or(0);
    let base = text("time_base");
    let (num, den) = base.split_once('/').context("ffprobe names no time base")?;
    Ok(Stream {
        kind: text("codec_type"),
        codec: text("codec_name"),
        profile: text("profile"),
        width: side("width"),
        height: side("height"),
        time_base: (num.parse()?, den.parse()?),
        index: json["index"].as_u64().unwrap_or(0),
        json: json.clone(),
    })
}

/// All packets of the stream with this FFmpeg specifier, such as `v:0`, in file order.
///
/// # Errors
/// The file cannot be read as media.
pub fn packets(path: &Path, specifier: &str) -> Result<Vec<Packet>> {
    let mut ffprobe = program("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", specifier, "-of", "csv=p=0"]);
    ffprobe.args(["-show_entries", "packet=pts,duration,size,flags"]).arg(path);
    let text = String::from_utf8(run_for_stdout(&mut ffprobe)?)?;
    // ffprobe prints side data of a packet as an empty line.
    text.lines().filter(|line| !line.is_empty()).map(parse_packet).collect()
}

fn parse_packet(line: &str) -> Result<Packet> {
    let parts: Vec<_> = line.trim_end_matches(',').split(',').collect();
    ensure!(parts.len() >= 4, "ffprobe printed an unknown packet: {line:?}");
    Ok(Packet {
        pts: parts[0].parse().with_context(|| format!("a packet has no pts: {line:?}"))?,
        duration: parts[1].parse().unwrap_or(0),
        size: parts[2].parse()?,
        keyframe: parts[3].contains('K'),
        discarded: parts[3].contains('D'),
    })
}

/// Presentation time of the first decoded frame of a stream, in seconds. For sound it is after the priming
/// samples of the encoder.
///
/// # Errors
/// The stream does not decode.
pub fn first_pts_s(path: &Path, stream: &Stream) -> Result<f64> {
    let mut ffprobe = program("ffprobe");
    ffprobe.args(["-v", "error", "-select_streams", &stream.index.to_string(), "-read_intervals", "%+1"]);
    ffprobe.args(["-show_entries", "frame=pts", "-of", "csv=p=0"]).arg(path);
    let text = String::from_utf8(run_for_stdout(&mut ffprobe)?)?;
    let first = text.lines().next().context("the stream decodes to nothing")?;
    Ok(stream.seconds(first.trim_end_matches(',').parse()?))
}

/// Types of the top-level boxes of an MP4 file, in order, up to the first incomplete one.
///
/// # Errors
/// The file cannot be read.
pub fn top_level_boxes(path: &Path) -> Result<Vec<String>> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let end = file.metadata()?.len();
    let (mut at, mut kinds) = (0, Vec::new());
    while at + 8 <= end {
        let mut header = [0; 16];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header[..8])?;
        let word = |b: &[u8]| b.iter().fold(0_u64, |v, byte| v << 8 | u64::from(*byte));
        let size = match word(&header[..4]) {
            0 => end - at,
            1 => {
                file.read_exact(&mut header[8..])?;
                word(&header[8..])
            }
            short => short,
        };
        if size < 8 || at + size > end {
            break;
        }
        kinds.push(String::from_utf8_lossy(&header[4..8]).into_owned());
        at += size;
    }
    Ok(kinds)
}
