//! Encodes JPEG files with the colours of the page.
//!
//! Readers decode every JPEG as full-range BT.601 (JFIF 1.02, section "Color Space"); the format has no field
//! for another colour space. So every picture is converted to full-range BT.601 first.

use ff::codec::Context;
use ff::format::Pixel;
use ff::frame::Video;
use ffmpeg_the_third as ff;
use pagecast_core::Picture;
use yuv::{
    BufferStoreMut, YuvConversionMode, YuvPlanarImageMut, YuvRange, YuvStandardMatrix, bgra_to_yuv420,
};

use crate::convert::Matrix;

/// Quality of a JPEG in libavcodec's scale, 1 (best) to 31: text stays readable at about a tenth of a PNG's
/// size.
const QUALITY: i32 = 3;
/// libavcodec's unit of quality (`FF_QP2LAMBDA`).
const QP_TO_LAMBDA: i32 = 118;
/// Fraction bits of the fixed-point factors: with 16, products of 8-bit values stay below 2³¹.
const FRACTION_BITS: u32 = 16;

/// Encodes a picture of the page as a JPEG.
pub(crate) fn encode_picture(picture: &Picture) -> Result<Vec<u8>, ff::Error> {
    let mut frame = Video::new(Pixel::YUVJ420P, picture.width(), picture.height());
    let strides = [0, 1, 2].map(|plane| frame.stride(plane));
    let mut planes = [0, 1, 2].map(|plane| vec![0; frame.data(plane).len()]);
    let [y, u, v] = &mut planes;
    let mut image = YuvPlanarImageMut {
        y_plane: BufferStoreMut::Borrowed(y),
        y_stride: strides[0] as u32,
        u_plane: BufferStoreMut::Borrowed(u),
        u_stride: strides[1] as u32,
        v_plane: BufferStoreMut::Borrowed(v),
        v_stride: strides[2] as u32,
        width: picture.width(),
        height: picture.height(),
    };
    bgra_to_yuv420(
        &mut image,
        picture.bgrx(),
        picture.stride() as u32,
        YuvRange::Full,
        YuvStandardMatrix::Bt601,
        YuvConversionMode::Balanced,
    )
    .map_err(|_| ff::Error::InvalidData)?;
    for (plane, data) in planes.iter().enumerate() {
        frame.data_mut(plane).copy_from_slice(data);
    }
    encode_mjpeg(&frame)
}

/// Encodes a limited-range 4:2:0 picture, the input of the video encoders, as a JPEG.
pub(crate) fn encode_video_frame(picture: &Video, matrix: Matrix) -> Result<Vec<u8>, ff::Error> {
    let mut frame = Video::new(Pixel::YUVJ420P, picture.width(), picture.height());
    FullRangeBt601::from(matrix).convert(picture, &mut frame);
    encode_mjpeg(&frame)
}

/// Encodes a full-range BT.601 picture as a JPEG.
fn encode_mjpeg(frame: &Video) -> Result<Vec<u8>, ff::Error> {
    let codec = ff::encoder::find(ff::codec::Id::MJPEG).ok_or(ff::Error::EncoderNotFound)?;
    let mut context = Context::new_with_codec(codec).encoder().video()?;
    context.set_width(frame.width());
    context.set_height(frame.height());
    context.set_format(Pixel::YUVJ420P);
    context.set_time_base((1, 1));
    context.set_flags(ff::codec::Flags::QSCALE);
    context.set_global_quality(QUALITY * QP_TO_LAMBDA);
    let mut encoder = context.open()?;
    encoder.send_frame(frame)?;
    encoder.send_eof()?;
    let mut packet = ff::Packet::empty();
    encoder.receive_packet(&mut packet)?;
    Ok(packet.data().unwrap_or_default().to_vec())
}

/// Converts limited-range Y'CbCr of one matrix to full-range BT.601.
///
/// Two matrices' lumas differ by a sum of the colour differences alone. So chroma depends on chroma only, and
/// the four pixels that share a chroma sample share one luma correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FullRangeBt601 {
    /// Factor from limited-range to full-range luma.
    luma_scale: i32,
    /// Factors of Cb and Cr for luma, in fixed point with [`FRACTION_BITS`] bits; `cb` and `cr` likewise.
    luma_from_chroma: [i32; 2],
    cb: [i32; 2],
    cr: [i32; 2],
}

/// Weights of red and blue in luma (`Kr`, `Kb`) of BT.601 and BT.709.
const BT601_KR_KB: (f64, f64) = (0.299, 0.114);
const BT709_KR_KB: (f64, f64) = (0.2126, 0.0722);

impl From<Matrix> for FullRangeBt601 {
    fn from(matrix: Matrix) -> Self {
        let (red, blue) = match matrix {
            Matrix::Bt709 => BT709_KR_KB,
            Matrix::Bt601 => BT601_KR_KB,
        };
        let green = 1.0 - red - blue;
        let (red_601, blue_601) = BT601_KR_KB;
        let green_601 = 1.0 - red_601 - blue_601;
        // R - Y, B - Y and G - Y as (factor of Cb, factor of Cr), both from -0.5 to 0.5 of full range.
        let (r, b) = ((0.0, 2.0 * (1.0 - red)), (2.0 * (1.0 - blue), 0.0));
        let g = (-blue * b.0 / green, -red * r.1 / green);
        let luma = |of: &dyn Fn((f64, f64)) -> f64| red_601 * of(r) + green_601 * of(g) + blue_601 * of(b);
        let (from_cb, from_cr) = (luma(&|c| c.0), luma(&|c| c.1));
        let fixed = |value: f64| (value * f64::from(1 << FRACTION_BITS)).round() as i32;
        let chroma = 255.0 / 224.0;
        let cb = 0.5 / (1.0 - blue_601) * chroma;
        let cr = 0.5 / (1.0 - red_601) * chroma;
        Self {
            luma_scale: fixed(255.0 / 219.0),
            luma_from_chroma: [fixed(from_cb * chroma), fixed(from_cr * chroma)],
            cb: [fixed((b.0 - from_cb) * cb), fixed((b.1 - from_cr) * cb)],
            cr: [fixed((r.0 - from_cb) * cr), fixed((r.1 - from_cr) * cr)],
        }
    }
}

impl FullRangeBt601 {
    fn convert(&self, from: &Video, to: &mut Video) {
        const HALF: i32 = 1 << (FRACTION_BITS - 1);
        let (width, height) = (from.width() as usize, from.height() as usize);
        let columns = width.div_ceil(2);
        let byte = |value: i32| (value >> FRACTION_BITS).clamp(0, 255) as u8;
        // Luma corrections, Cb and Cr of one chroma line.
        let (mut offsets, mut blue, mut red) =
            (vec![0_i32; columns], vec![0_u8; columns], vec![0_u8; columns]);
        for line in 0..height.div_ceil(2) {
            let chroma = |plane: usize| &from.data(plane)[line * from.stride(plane)..][..columns];
            let pairs = chroma(1).iter().zip(chroma(2));
            let targets = offsets.iter_mut().zip(&mut blue).zip(&mut red);
            for ((cb, cr), ((offset, blue), red)) in pairs.zip(targets) {
                let (cb, cr) = (i32::from(*cb) - 128, i32::from(*cr) - 128);
                let sum = |factors: [i32; 2]| factors[0] * cb + factors[1] * cr;
                *offset = sum(self.luma_from_chroma) + HALF - 16 * self.luma_scale;
                *blue = byte(sum(self.cb) + HALF + (128 << FRACTION_BITS));
                *red = byte(sum(self.cr) + HALF + (128 << FRACTION_BITS));
            }
            for (plane, chroma) in [(1, &blue), (2, &red)] {
                let stride = to.stride(plane);
                to.data_mut(plane)[line * stride..][..columns].copy_from_slice(chroma);
            }
            for row in (2 * line..height).take(2) {
                let source = &from.data(0)[row * from.stride(0)..][..width];
                let stride = to.stride(0);
                let target = &mut to.data_mut(0)[row * stride..][..width];
                for ((target, source), offset) in target.chunks_mut(2).zip(source.chunks(2)).zip(&offsets) {
                    for (target, source) in target.iter_mut().zip(source) {
                        *target = byte(i32::from(*source) * self.luma_scale + offset);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pagecast_core::{Picture, Tiles};

    use super::*;
    use crate::convert::{Planes, convert};

    /// Largest error of a channel, in levels: the precision that 8-bit limited range and JPEG allow.
    const MAX_CHANNEL_ERROR: f64 = 3.0;
    /// Side of a patch in pixels: a JPEG macroblock, so that luma and chroma are quantized as a whole.
    const PATCH_SIZE: usize = 16;
    /// Patches from left to right.
    const PATCH_COLUMNS: usize = 64;

    /// Every 15th level of each channel, and some colours of real pages.
    fn test_colours() -> Vec<[u8; 3]> {
        let level = |i: usize| (i % 18 * 15) as u8;
        let mut all: Vec<_> = (0..18 * 18 * 18).map(|i| [level(i), level(i / 18), level(i / 324)]).collect();
        all.extend([[220, 20, 60], [212, 175, 55], [18, 52, 86], [254, 1, 127], [1, 2, 3]]);
        all.extend((0..=255).map(|grey| [grey; 3]));
        all
    }

    /// A picture with a patch of each colour, given as R, G and B.
    fn chart(colours: &[[u8; 3]]) -> Picture {
        let (width, height) =
            (PATCH_COLUMNS * PATCH_SIZE, colours.len().div_ceil(PATCH_COLUMNS) * PATCH_SIZE);
        let mut picture = Picture::new(width as u32, height as u32);
        for (i, pixel) in picture.bgrx_mut().chunks_exact_mut(4).enumerate() {
            let patch = i / width / PATCH_SIZE * PATCH_COLUMNS + i % width / PATCH_SIZE;
            let [r, g, b] = colours.get(patch).copied().unwrap_or_default();
            pixel.copy_from_slice(&[b, g, r, 0]);
        }
        picture
    }

    /// The decoded colour of each patch (JFIF 1.02: R = Y + 1.402 Cr, and so on), before rounding.
    fn decode_patches(jpeg: &[u8], count: usize) -> Vec<[f64; 3]> {
        let codec = ff::decoder::find(ff::codec::Id::MJPEG).unwrap();
        let mut decoder = Context::new_with_codec(codec).decoder().video().unwrap();
        decoder.send_packet(&ff::Packet::copy(jpeg)).unwrap();
        let mut frame = Video::empty();
        decoder.receive_frame(&mut frame).unwrap();
        assert_eq!(frame.format(), Pixel::YUVJ420P);
        let colour = |patch: usize| {
            let (x, y) = (
                patch % PATCH_COLUMNS * PATCH_SIZE + PATCH_SIZE / 2,
                patch / PATCH_COLUMNS * PATCH_SIZE + PATCH_SIZE / 2,
            );
            let at =
                |plane: usize, x: usize, y: usize| f64::from(frame.data(plane)[y * frame.stride(plane) + x]);
            let (y, cb, cr) = (at(0, x, y), at(1, x / 2, y / 2) - 128.0, at(2, x / 2, y / 2) - 128.0);
            [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|c| c.clamp(0.0, 255.0))
        };
        (0..count).map(colour).collect()
    }

    fn assert_colours_match(colours: &[[u8; 3]], shown: &[[f64; 3]]) {
        for (wanted, seen) in colours.iter().zip(shown) {
            let off = (0..3).map(|c| (seen[c].round() - f64::from(wanted[c])).abs()).fold(0.0, f64::max);
            assert!(off <= MAX_CHANNEL_ERROR, "{wanted:?} became {seen:?}");
        }
    }

    #[test]
    fn a_picture_of_the_page_has_its_colours() {
        let colours = test_colours();
        let jpeg = encode_picture(&chart(&colours)).unwrap();
        assert_colours_match(&colours, &decode_patches(&jpeg, colours.len()));
    }

    #[test]
    fn a_picture_of_the_encoder_has_the_colours_of_the_page() {
        let colours = test_colours();
        let picture = chart(&colours);
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        for matrix in [Matrix::Bt709, Matrix::Bt601] {
            let mut planes =
                [vec![0; width * height], vec![0; width * height / 4], vec![0; width * height / 4]];
            let [y, u, v] = &mut planes;
            let mut into = Planes { data: [y, u, v], stride: [width, width / 2, width / 2] };
            convert(&picture, &Tiles::all(picture.width(), picture.height()), matrix, &mut into);
            let mut frame = Video::new(Pixel::YUV420P, picture.width(), picture.height());
            for (plane, data) in planes.iter().enumerate() {
                let (stride, width) = (frame.stride(plane), if plane == 0 { width } else { width / 2 });
                for (row, line) in data.chunks_exact(width).enumerate() {
                    frame.data_mut(plane)[row * stride..][..width].copy_from_slice(line);
                }
            }
            let jpeg = encode_video_frame(&frame, matrix).unwrap();
            assert_colours_match(&colours, &decode_patches(&jpeg, colours.len()));
        }
    }
}
