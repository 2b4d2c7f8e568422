//! Encodes one picture as a PNG or JPEG file.

use std::path::{Path, PathBuf};

use ff::format::Pixel;
use ff::frame::Video;
use ffmpeg_the_third as ff;
use pagecast_core::Picture;

use crate::jpeg;

/// Errors of this module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The picture cannot be encoded.
    #[error("cannot encode a picture")]
    Encode(#[source] ff::Error),
    /// The file cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
}

/// Encodes `picture` as a PNG file.
///
/// # Errors
/// [`Error::Encode`].
pub fn to_png(picture: &Picture) -> Result<Vec<u8>, Error> {
    let mut rgb = Video::new(Pixel::RGB24, picture.width(), picture.height());
    let stride = rgb.stride(0);
    for (line, row) in
        rgb.data_mut(0).chunks_exact_mut(stride).zip(picture.bgrx().chunks_exact(picture.stride()))
    {
        for ([r, g, b], [blue, green, red, _]) in line.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0) {
            (*r, *g, *b) = (*red, *green, *blue);
        }
    }
    encode_png(&rgb).map_err(Error::Encode)
}

/// Writes `picture` to the JPEG file `path`.
///
/// # Errors
/// See [`Error`].
pub fn write_jpeg(picture: &Picture, path: &Path) -> Result<(), Error> {
    let jpeg = jpeg::encode_picture(picture).map_err(Error::Encode)?;
    std::fs::write(path, jpeg).map_err(|e| Error::Write(path.to_owned(), e))
}

/// Encodes `picture` as a JPEG file of at most `max_width` pixels, with the same aspect ratio.
///
/// # Errors
/// [`Error::Encode`].
pub fn to_jpeg(picture: &Picture, max_width: u32) -> Result<Vec<u8>, Error> {
    let small = if picture.width() > max_width { Some(scale_down(picture, max_width)) } else { None };
    jpeg::encode_picture(small.as_ref().unwrap_or(picture)).map_err(Error::Encode)
}

/// Scales a picture to a smaller width. Each pixel is the mean of the pixels whose places it takes.
fn scale_down(picture: &Picture, width: u32) -> Picture {
    let height = (u64::from(picture.height()) * u64::from(width) / u64::from(picture.width())).max(1) as u32;
    let mut small = Picture::new(width, height);
    let range = |at: u32, from: u32, to: u32| {
        let place = |at: u32| (u64::from(at) * u64::from(from) / u64::from(to)) as usize;
        place(at)..place(at + 1).max(place(at) + 1)
    };
    let (source, stride) = (picture.bgrx(), picture.stride());
    let small_stride = small.stride();
    for (y, row) in (0..height).zip(small.bgrx_mut().chunks_exact_mut(small_stride)) {
        let rows = range(y, picture.height(), height);
        for (x, pixel) in (0..width).zip(row.as_chunks_mut::<4>().0) {
            let columns = range(x, picture.width(), width);
            let count = (rows.len() * columns.len()) as u32;
            let mut sums = [0_u32; 4];
            for row in rows.clone() {
                let line = &source[row * stride + 4 * columns.start..row * stride + 4 * columns.end];
                for values in line.as_chunks::<4>().0 {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += u32::from(*value));
                }
            }
            *pixel = sums.map(|sum| (sum / count) as u8);
        }
    }
    small
}

/// Encodes an RGB24 picture as a PNG file.
pub(crate) fn encode_png(picture: &Video) -> Result<Vec<u8>, ff::Error> {
    let codec = ff::encoder::find(ff::codec::Id::PNG).ok_or(ff::Error::EncoderNotFound)?;
    let mut video = ff::codec::Context::new_with_codec(codec).encoder().video()?;
    video.set_width(picture.width());
    video.set_height(picture.height());
    video.set_format(Pixel::RGB24);
    video.set_time_base((1, 1));
    let mut encoder = video.open()?;
    encoder.send_frame(picture)?;
    encoder.send_eof()?;
    let mut packet = ff::Packet::empty();
    encoder.receive_packet(&mut packet)?;
    Ok(packet.data().unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_pictures_have_the_mean_colours() {
        let mut picture = Picture::new(9, 6);
        let stride = picture.stride();
        for (y, row) in picture.bgrx_mut().chunks_exact_mut(stride).enumerate() {
            for (x, pixel) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *pixel = [x as u8, y as u8, if x < 3 { 0 } else { 90 }, 255];
            }
        }
        let small = scale_down(&picture, 3);
        assert_eq!((small.width(), small.height()), (3, 2));
        let pixels: Vec<[u8; 4]> = small.bgrx().as_chunks::<4>().0[..3].to_vec();
        assert_eq!(pixels, [[1, 1, 0, 255], [4, 1, 90, 255], [7, 1, 90, 255]]);
        let odd = scale_down(&Picture::new(1080, 1919), 640);
        assert_eq!((odd.width(), odd.height()), (640, 1137));
        assert!(to_jpeg(&odd, 640).unwrap().starts_with(&[0xFF, 0xD8]));
    }
}
