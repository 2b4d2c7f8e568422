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
