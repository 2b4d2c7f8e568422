//! Colours in rooms: a still picture is refined in chroma as in luma.

#[path = "synthetic/layer_encoder.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod layer_encoder;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::RoomCodec;
use pagecast_core::{Picture, Tiles};
use pagecast_media::convert::{Matrix, Planes, convert};

use layer_encoder::{LayerEncoder, PAGE, decode};

/// Bitrate of the layer, in kbit/s.
const BITRATE_KBPS: u32 = 1000;
/// Ticks in motion and still ticks afterwards: three and five seconds.
const MOVING_TICKS: i64 = 90;
const STILL_TICKS: i64 = 150;
/// Side of a chroma block, in samples.
const BLOCK_SIZE: usize = 8;

/// Moving bars of all saturated colours above a moving ramp of greys.
fn colour_bars(index: i64) -> Picture {
    let mut picture = Picture::new(PAGE.0, PAGE.1);
    let width = PAGE.0 as usize;
    for (i, pixel) in picture.bgrx_mut().as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let (x, y) = (i % width, i / width);
        let bar = (x + 3 * index as usize) / 80 % 8;
        let channel = |bit: usize| if bar & bit > 0 { 255 } else { 0 };
        let grey = ((3 * x + 5 * index as usize) % 256) as u8;
        *pixel = if y > 300 { [grey; 4] } else { [channel(4), channel(2), channel(1), 0] };
    }
    picture
}

/// Cb and Cr of the encoder's input.
fn chroma(picture: &Picture, matrix: Matrix) -> [Vec<u8>; 2] {
    let (width, height) = (PAGE.0 as usize, PAGE.1 as usize);
    let (mut y, mut u, mut v) =
        (vec![0; width * height], vec![0; width * height / 4], vec![0; width * height / 4]);
    let mut planes = Planes { data: [&mut y, &mut u, &mut v], stride: [width, width / 2, width / 2] };
    convert(picture, &Tiles::all(PAGE.0, PAGE.1), matrix, &mut planes);
    [u, v]
}

/// Largest error of a plane: of a sample, and of a block's mean.
fn max_error(wanted: &[u8], seen: &[u8]) -> (u8, f64) {
    let width = PAGE.0 as usize / 2;
    let sample = wanted.iter().zip(seen).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    let block = |x: usize, y: usize| {
        let rows = (y..y + BLOCK_SIZE).map(|y| y * width + x..y * width + x + BLOCK_SIZE);
        let sum: i32 = rows.flatten().map(|i| i32::from(seen[i]) - i32::from(wanted[i])).sum();
        f64::from(sum.abs()) / (BLOCK_SIZE * BLOCK_SIZE) as f64
    };
    let (across, down) = (width / BLOCK_SIZE, wanted.len() / width / BLOCK_SIZE);
    let blocks = (0..across * down).map(|i| block(i % across * BLOCK_SIZE, i / across * BLOCK_SIZE));
    (sample, blocks.fold(0.0, f64::max))
}

#[test]
fn a_still_picture_has_its_colours() -> Result<()> {
    // VP8 has no chroma quantizer offset, so its chroma is coarser.
    for (codec, matrix, sample, block) in
        [(RoomCodec::H264, Matrix::Bt709, 3, 0.6), (RoomCodec::Vp8, Matrix::Bt601, 6, 0.8)]
    {
        let mut layer = LayerEncoder::start(codec, BITRATE_KBPS)?;
        layer.feed(MOVING_TICKS + STILL_TICKS, |index| (index < MOVING_TICKS).then(|| colour_bars(index)))?;
        let shown = decode(codec, &layer.finish()?)?;
        let wanted = chroma(&colour_bars(MOVING_TICKS - 1), matrix);
        for (plane, wanted) in wanted.iter().enumerate() {
            let found = max_error(wanted, &shown.last().context("a picture")?.chroma[plane]);
            println!("{codec:?}, {}: {found:?}", ["Cb", "Cr"][plane]);
            ensure!(found.0 <= sample && found.1 <= block, "{codec:?}, {}: {found:?}", ["Cb", "Cr"][plane]);
        }
    }
    Ok(())
}
