//! Makes contact sheets: stills of a recording, side by side in one PNG.

use std::path::{Path, PathBuf};

use ff::format::Pixel;
use ff::frame::Video;
use ff::software::scaling;
use ffmpeg_the_third as ff;

use crate::still;

/// Width of one still in pixels.
const STILL_WIDTH: u32 = 420;
/// Pixels between stills and around them.
const GAP: u32 = 8;
/// Stills from left to right.
const COLUMNS: u32 = 3;
/// Grey level between the stills.
const BACKGROUND_LEVEL: u8 = 24;

/// Errors of [`write()`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recording cannot be decoded.
    #[error("cannot decode {}", .0.display())]
    Decode(PathBuf, #[source] ff::Error),
    /// The PNG cannot be encoded.
    #[error("cannot make a PNG")]
    Encode(#[source] ff::Error),
    /// The PNG cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
}

/// Writes `count` stills of `recording`, evenly spaced over its length, to the PNG file `sheet`.
///
/// # Errors
/// See [`Error`].
pub fn write(recording: &Path, sheet: &Path, count: u32) -> Result<(), Error> {
    let stills = decode_stills(recording, count).map_err(|e| Error::Decode(recording.to_owned(), e))?;
    let png = still::encode_png(&compose(&stills)).map_err(Error::Encode)?;
    std::fs::write(sheet, png).map_err(|e| Error::Write(sheet.to_owned(), e))
}

/// Decodes `count` stills as small RGB pictures, in order.
fn decode_stills(recording: &Path, count: u32) -> Result<Vec<Video>, ff::Error> {
    let mut input = ff::format::input(recording)?;
    let stream = input.streams().best(ff::media::Type::Video).ok_or(ff::Error::StreamNotFound)?;
    let (index, length) = (stream.index(), stream.duration().max(1));
    let mut decoder = ff::codec::Context::from_parameters(stream.parameters())?.decoder().video()?;
    let mut small = StillScaler { scaler: None, stills: Vec::new() };
    // The middle of each of `count` equal intervals.
    let wanted: Vec<i64> =
        (0..i64::from(count)).map(|i| length * (2 * i + 1) / (2 * i64::from(count))).collect();
    let mut shown = Video::empty();
    let mut next = Video::empty();
    let mut packet = ff::Packet::empty();
    let mut at_end = false;
    while !at_end && small.stills.len() < wanted.len() {
        match packet.read(&mut input) {
            Ok(()) if packet.stream() != index => continue,
            Ok(()) => decoder.send_packet(&packet)?,
            Err(ff::Error::Eof) => {
                at_end = true;
                decoder.send_eof()?;
            }
            Err(e) => return Err(e),
        }
        while decoder.receive_frame(&mut next).is_ok() {
            let start = next.pts().unwrap_or(0);
            // A picture lasts until the next one starts.
            while wanted.get(small.stills.len()).is_some_and(|w| *w < start) && shown.width() > 0 {
                small.scale_and_push(&shown)?;
            }
            std::mem::swap(&mut shown, &mut next);
        }
    }
    while small.stills.len() < wanted.len() && shown.width() > 0 {
        small.scale_and_push(&shown)?;
    }
    Ok(small.stills)
}

struct StillScaler {
    scaler: Option<scaling::Context>,
    stills: Vec<Video>,
}

impl StillScaler {
    fn scale_and_push(&mut self, frame: &Video) -> Result<(), ff::Error> {
        let (width, height) = (frame.width(), frame.height());
        let small = (STILL_WIDTH, (STILL_WIDTH * height / width).max(1));
        let scaler = match &mut self.scaler {
            Some(scaler) => scaler,
            none => none.insert(bt709_scaler(frame, small)?),
        };
        let mut still = Video::empty();
        scaler.run(frame, &mut still)?;
        self.stills.push(still);
        Ok(())
    }
}

/// A scaler for BT.709; libswscale assumes BT.601 by default.
#[expect(unsafe_code, reason = "a setting of libswscale that its bindings do not wrap")]
fn bt709_scaler(frame: &Video, (width, height): (u32, u32)) -> Result<scaling::Context, ff::Error> {
    const ONE: i32 = 1 << 16;
    let mut scaler = scaling::Context::get(
        frame.format(),
        frame.width(),
        frame.height(),
        Pixel::RGB24,
        width,
        height,
        // Without the other two, libswscale rounds colours by up to 4 levels.
        scaling::Flags::AREA | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INT,
    )?;
    // SAFETY: the context is open, and the table of coefficients is a constant of the library.
    let set = unsafe {
        let bt709 = ff::ffi::sws_getCoefficients(ff::ffi::SWS_CS_ITU709);
        ff::ffi::sws_setColorspaceDetails(scaler.as_mut_ptr(), bt709, 0, bt709, 1, 0, ONE, ONE)
    };
    if set < 0 { Err(set.into()) } else { Ok(scaler) }
}

fn compose(stills: &[Video]) -> Video {
    let count = stills.len() as u32;
    let (width, height) = stills.first().map_or((1, 1), |s| (s.width(), s.height()));
    let columns = COLUMNS.min(count.max(1));
    let rows = count.div_ceil(columns).max(1);
    let mut sheet = Video::new(Pixel::RGB24, GAP + columns * (width + GAP), GAP + rows * (height + GAP));
    sheet.data_mut(0).fill(BACKGROUND_LEVEL);
    let stride = sheet.stride(0);
    for (i, still) in stills.iter().enumerate() {
        let (column, row) = (i as u32 % columns, i as u32 / columns);
        let left = (GAP + column * (width + GAP)) as usize * 3;
        for y in 0..height {
            let from = &still.data(0)[y as usize * still.stride(0)..][..width as usize * 3];
            let top = (GAP + row * (height + GAP) + y) as usize;
            sheet.data_mut(0)[top * stride + left..][..from.len()].copy_from_slice(from);
        }
    }
    sheet
}
