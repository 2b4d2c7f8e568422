//! Decoded pictures and their comparison.

use std::path::Path;

use anyhow::{Result, ensure};

use super::probe;
use crate::command::{program, run_for_stdout};

/// Luma only: one byte per pixel, no padding.
#[derive(Debug, Clone)]
pub struct GrayImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height` bytes, rows top to bottom.
    pub data: Vec<u8>,
}

impl GrayImage {
    /// A black picture.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![0; width * height] }
    }

    /// Mean brightness of a rectangle, 0 to 255.
    ///
    /// # Panics
    /// If it is outside of the picture.
    #[must_use]
    pub fn mean_luma(&self, area: Rect) -> f64 {
        let rows = (area.y..area.y + area.height).map(|y| y * self.width + area.x);
        let sum: u64 =
            rows.flat_map(|start| &self.data[start..start + area.width]).map(|v| u64::from(*v)).sum();
        sum as f64 / (area.width * area.height) as f64
    }
}

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct Rect {
    /// Left edge.
    pub x: usize,
    /// Top edge.
    pub y: usize,
    /// Width of the rectangle.
    pub width: usize,
    /// Height of the rectangle.
    pub height: usize,
}

/// Three bytes per pixel: red, green, blue, no padding.
#[derive(Debug, Clone)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `3 * width * height` bytes, rows top to bottom.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// A picture of raw RGB bytes.
    ///
    /// # Errors
    /// The number of bytes does not match the size.
    pub fn from_raw(width: usize, height: usize, data: Vec<u8>) -> Result<Self> {
        ensure!(
            data.len() == 3 * width * height,
            "a picture of {width}x{height} cannot have {} bytes",
            data.len()
        );
        Ok(Self { width, height, data })
    }

    /// Reads a PNG or any other picture file.
    ///
    /// # Errors
    /// The file is not a picture.
    pub fn open(path: &Path) -> Result<Self> {
        let streams = probe::streams(path)?;
        ensure!(streams.len() == 1, "{} is not a picture", path.display());
        let mut ffmpeg = program("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(path);
        ffmpeg.args(["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]);
        Self::from_raw(streams[0].width, streams[0].height, run_for_stdout(&mut ffmpeg)?)
    }

    /// Colour of one pixel.
    ///
    /// # Panics
    /// If it is outside of the picture.
    #[must_use]
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let i = 3 * (y * self.width + x);
        [self.data[i], self.data[i + 1], self.data[i + 2]]
    }

    /// Mean of each channel over a rectangle, 0 to 255.
    ///
    /// # Panics
    /// If it is outside of the picture.
    #[must_use]
    pub fn mean_rgb(&self, area: Rect) -> [f64; 3] {
        let mut sum = [0_u64; 3];
        for y in area.y..area.y + area.height {
            for x in area.x..area.x + area.width {
                let pixel = self.pixel(x, y);
                (0..3).for_each(|c| sum[c] += u64::from(pixel[c]));
            }
        }
        sum.map(|s| s as f64 / (area.width * area.height) as f64)
    }

    /// The part inside `area`.
    ///
    /// # Panics
    /// If it is outside of the picture.
    #[must_use]
    pub fn crop(&self, area: Rect) -> Self {
        let rows = (area.y..area.y + area.height).map(|y| 3 * (y * self.width + area.x));
        let data = rows.flat_map(|start| &self.data[start..start + 3 * area.width]).copied().collect();
        Self { width: area.width, height: area.height, data }
    }

    /// Peak signal to noise ratio against a picture of the same size, in dB; infinite if they are equal.
    ///
    /// # Errors
    /// The sizes differ.
    pub fn psnr_db(&self, other: &Self) -> Result<f64> {
        ensure!(
            (self.width, self.height) == (other.width, other.height),
            "cannot compare {}x{} with {}x{}",
            self.width,
            self.height,
            other.width,
            other.height
        );
        let square = |(a, b): (&u8, &u8)| u64::from(a.abs_diff(*b)).pow(2);
        let sum: u64 = self.data.iter().zip(&other.data).map(square).sum();
        Ok(10.0 * (255.0 * 255.0 * self.data.len() as f64 / sum as f64).log10())
    }

    /// Share of pixels that differ visibly from the most frequent colour, 0 to 1. Near 0 for a blank page.
    #[must_use]
    pub fn non_background_share(&self) -> f64 {
        let mut count = vec![0_u32; 1 << 12];
        // Four bits per channel: noise of the codec stays within a bin, text does not.
        let bin =
            |p: &[u8]| usize::from(p[0] >> 4) << 8 | usize::from(p[1] >> 4) << 4 | usize::from(p[2] >> 4);
        self.data.chunks_exact(3).for_each(|p| count[bin(p)] += 1);
        let pixels = self.data.len() / 3;
        let most = count.iter().max().copied().unwrap_or(0);
        1.0 - f64::from(most) / pixels as f64
    }

    /// Number of clearly different colours that cover at least `share` of the picture each.
    #[must_use]
    pub fn distinct_colours(&self, share: f64) -> usize {
        let mut count = vec![0_u32; 1 << 9];
        let bin =
            |p: &[u8]| usize::from(p[0] >> 5) << 6 | usize::from(p[1] >> 5) << 3 | usize::from(p[2] >> 5);
        self.data.chunks_exact(3).for_each(|p| count[bin(p)] += 1);
        let least = share * (self.data.len() / 3) as f64;
        count.into_iter().filter(|n| f64::from(*n) >= least).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_of_a_known_error() {
        let black = RgbImage::from_raw(10, 10, vec![0; 300]).unwrap();
        let grey = RgbImage::from_raw(10, 10, vec![5; 300]).unwrap();
        let db = black.psnr_db(&grey).unwrap();
        assert!((db - 20.0 * (255.0_f64 / 5.0).log10()).abs() < 1e-9, "{db}");
        assert_eq!(black.psnr_db(&black).unwrap(), f64::INFINITY);
        assert!(black.psnr_db(&RgbImage::from_raw(5, 20, vec![0; 300]).unwrap()).is_err());
    }

    #[test]
    fn a_blank_picture_has_no_detail() {
        let mut picture = RgbImage::from_raw(10, 10, vec![250; 300]).unwrap();
        assert_eq!((picture.non_background_share(), picture.distinct_colours(0.1)), (0.0, 1));
        picture.data[..75].fill(10);
        assert_eq!((picture.non_background_share(), picture.distinct_colours(0.1)), (0.25, 2));
    }
}
