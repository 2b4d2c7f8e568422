//! Generates a video of known timing: a timecode in every picture, and a flash with a beep once a second.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use crate::command::{install_hint, program, run_for_output};
use crate::media::beeps::ToneBurst;
use crate::media::image::Rect;
use crate::media::{GrayImage, SAMPLE_RATE};
use crate::timecode::{Timecode, TimecodePosition};

/// Width of the video in pixels.
pub const WIDTH: usize = 320;
/// Height of the video in pixels.
pub const HEIGHT: usize = 180;
/// Pictures per second. Shares no factor with a display rate, so that the display samples the video at many
/// phases within a second, and the mean is accurate to a few milliseconds.
pub const FPS: u32 = 23;
/// The beep on the right channel that starts with each full second except the first.
pub const BEEP: ToneBurst = ToneBurst { hz: 3000.0, duration_s: 0.02, channel: 1 };
/// The part of the picture that is white for 100 ms after the start of a beep, and black otherwise.
pub const FLASH_AREA: Rect = Rect { x: 192, y: 64, width: 128, height: 116 };

/// Samples that FFmpeg's AAC encoder adds before the first one.
const AAC_PRIMING_SAMPLES: u32 = 1024;

static GENERATION_LOCK: Mutex<()> = Mutex::new(());

/// Generates the video, or returns the one that an earlier run left below `target/`.
///
/// # Errors
/// `ffmpeg` is missing or fails.
pub fn mp4(seconds: u32) -> Result<PathBuf> {
    generate_once(&format!("flash-{FPS}fps-{seconds}s.mp4"), |path| encode_mp4(path, seconds))
}

/// Generates the same video as an HLS stream of fragmented MP4: a folder with `index.m3u8`.
///
/// # Errors
/// `ffmpeg` is missing or fails.
pub fn hls(seconds: u32) -> Result<PathBuf> {
    let source = mp4(seconds)?;
    generate_once(&format!("flash-{FPS}fps-{seconds}s-hls"), |folder| {
        fs::create_dir(folder)?;
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(source).args(["-c:v", "copy", "-f", "hls"]);
        // Media Source Extensions ignore edit lists, so the priming samples are cut off.
        ffmpeg.args([
            "-af",
            &format!("atrim=start_sample={AAC_PRIMING_SAMPLES}"),
            "-c:a",
            "aac",
            "-b:a",
            "128k",
        ]);
        ffmpeg.args(["-hls_time", "2", "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4"]);
        run_for_output(ffmpeg.arg(folder.join("index.m3u8"))).map(drop)
    })
}

/// The folder with generated media, below `target/`.
#[must_use]
pub fn media_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit")
}

/// Generates `name` under a temporary name first, so that an interrupted test leaves no partial file.
fn generate_once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let _one_at_a_time = GENERATION_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let path = media_folder().join(name);
    if !path.exists() {
        let unfinished = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/testkit-unfinished");
        let unfinished = unfinished.join(format!("{}-{name}", std::process::id()));
        fs::create_dir_all(media_folder())?;
        fs::create_dir_all(unfinished.parent().context("a file has a folder")?)?;
        make(&unfinished).with_context(|| format!("cannot make {name}"))?;
        let renamed = fs::rename(&unfinished, &path);
        ensure!(renamed.is_ok() || path.exists(), "cannot keep {name}");
    }
    Ok(path)
}

fn encode_mp4(path: &Path, seconds: u32) -> Result<()> {
    let ToneBurst { hz, duration_s, .. } = BEEP;
    let beep = format!(
        "aevalsrc=0|0.5*sin(2*PI*{hz}*t)*lt(mod(t\\,1)\\,{duration_s})*gte(t\\,0.5):\
         s={SAMPLE_RATE}:d={seconds}"
    );
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "rawvideo", "-pix_fmt", "gray"]);
    ffmpeg.args(["-video_size", &format!("{WIDTH}x{HEIGHT}"), "-framerate", &FPS.to_string(), "-i", "-"]);
    ffmpeg.args(["-f", "lavfi", "-i", &beep, "-c:v", "libx264", "-preset", "veryfast", "-crf", "20"]);
    // Without B-frames there is no edit list, which some players ignore.
    ffmpeg.args(["-pix_fmt", "yuv420p", "-g", "46", "-bf", "0", "-c:a", "aac", "-b:a", "128k"]);
    ffmpeg.args(["-movflags", "+faststart", "-f", "mp4"]).arg(path);
    let mut child = ffmpeg.stdin(Stdio::piped()).spawn().with_context(|| install_hint("ffmpeg"))?;
    let mut pipe = child.stdin.take().context("ffmpeg has no input")?;
    for n in 0..seconds * FPS {
        pipe.write_all(&render_frame(n).data).context("ffmpeg stopped reading")?;
    }
    drop(pipe);
    let status = child.wait()?;
    ensure!(status.success(), "ffmpeg ended with {status}");
    Ok(())
}

fn render_frame(n: u32) -> GrayImage {
    let mut gray = GrayImage::new(WIDTH, HEIGHT);
    gray.data.fill(96);
    let mut fill = |area: Rect, value: u8| {
        for y in area.y..area.y + area.height {
            gray.data[y * WIDTH + area.x..][..area.width].fill(value);
        }
    };
    let second = n / FPS;
    let lit = second > 0 && n % FPS * 1000 < 100 * FPS;
    fill(FLASH_AREA, if lit { 255 } else { 0 });
    let x = (n * 4) as usize % 160;
    fill(Rect { x, y: 80, width: 24, height: 80 }, 200);
    let event_time = (second > 0).then_some(second * 10_000);
    let user_bits = (second & 0xffff) as u16;
    Timecode { counter: n, page_time: n * 10_000 / FPS, event_time, user_bits }
        .draw(&mut gray, TimecodePosition::PAGE);
    gray
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Recording, beeps, probe};

    #[test]
    fn the_file_contains_what_was_drawn() -> Result<()> {
        let file = Recording::open(&mp4(5)?)?;
        assert_eq!((file.video.codec.as_str(), file.video.width, file.video.height), ("h264", WIDTH, HEIGHT));
        assert_eq!(file.ticks(FPS)?, (0..115).collect::<Vec<_>>());
        assert!(file.ticks(30).is_err());
        for (n, (shown, frame)) in
            file.timecodes(TimecodePosition::PAGE)?.iter().zip(file.frames()?).enumerate()
        {
            let timecode = shown.timecode.with_context(|| format!("no timecode in picture {n}"))?;
            assert_eq!(timecode.counter as usize, n);
            assert!((timecode.page_s() - shown.pts_s).abs() < 1e-4);
            let bright = frame?.1.mean_luma(FLASH_AREA);
            assert!(
                if n >= 23 && n % 23 < 3 { bright > 240.0 } else { bright < 15.0 },
                "picture {n}: {bright}"
            );
        }
        Ok(())
    }

    #[test]
    fn beeps_are_found_through_aac() -> Result<()> {
        let onsets = beeps::onsets(Recording::open(&mp4(5)?)?.pcm()?, BEEP)?;
        assert_eq!(onsets.len(), 4, "{onsets:?}");
        for (found, expected) in onsets.iter().zip([1.0, 2.0, 3.0, 4.0]) {
            assert!((found - expected).abs() < 0.0002, "{found} instead of {expected}");
        }
        Ok(())
    }

    #[test]
    fn boxes_of_a_faststart_file() -> Result<()> {
        assert_eq!(probe::top_level_boxes(&mp4(5)?)?, ["ftyp", "moov", "free", "mdat"]);
        Ok(())
    }

    #[test]
    fn frames_are_decoded_by_time() -> Result<()> {
        let file = Recording::open(&mp4(5)?)?;
        assert_eq!(file.decoder_warnings()?, "");
        let lit = file.frame_at(2.05)?.mean_rgb(FLASH_AREA);
        let dark = file.frame_at(2.5)?.mean_rgb(FLASH_AREA);
        assert!(lit.iter().all(|c| *c > 240.0) && dark.iter().all(|c| *c < 15.0), "{lit:?} {dark:?}");
        Ok(())
    }
}
