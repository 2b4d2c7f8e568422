//! Scales planar 4:2:0 pictures down, only where they changed.
//!
//! Each pixel is the exact mean of the area that it covers in the larger picture, so text stays readable and
//! motion does not shimmer.

use pagecast_core::{TILE_HEIGHT, TILE_WIDTH, Tiles};

use crate::convert::Planes;

/// Sum of the weights of one pixel.
const WEIGHT_SUM: u16 = 256;

/// Scales pictures of one size to another that is no larger.
#[derive(Debug)]
pub struct Scaler {
    /// Horizontal and vertical filters of luma and of chroma.
    filters: [(AxisFilter, AxisFilter); 2],
    /// A row of the larger picture, in units of [`WEIGHT_SUM`].
    row_sums: Vec<u16>,
}

/// Weights that map a line of pixels to a shorter line.
#[derive(Debug)]
struct AxisFilter {
    /// Source pixels per target pixel.
    taps: usize,
    /// First source pixel of each target pixel.
    starts: Vec<usize>,
    /// `taps` weights for each target pixel.
    weights: Vec<u16>,
    source_len: usize,
}

impl Scaler {
    /// A scaler from one size to another, as width and height in pixels, all even.
    #[must_use]
    pub fn new(from: (u32, u32), to: (u32, u32)) -> Self {
        let axes = |half: u32| {
            let axis = |from: u32, to: u32| AxisFilter::new((from / half) as usize, (to / half) as usize);
            (axis(from.0, to.0), axis(from.1, to.1))
        };
        Self { filters: [axes(1), axes(2)], row_sums: vec![0; from.0 as usize] }
    }

    /// Scales the area in `damage`, tiles of the larger picture.
    ///
    /// # Panics
    /// If planes are smaller than their pictures.
    pub fn scale(&mut self, source: &Planes<'_>, damage: &Tiles, target: &mut Planes<'_>) {
        for (plane, stride) in source.stride.into_iter().enumerate() {
            let chroma = usize::from(plane > 0);
            let (across, down) = &self.filters[chroma];
            let half = 1 << chroma;
            let (source, into) = (&*source.data[plane], &mut *target.data[plane]);
            for (row, first, end) in damage.runs() {
                let area = |tile: u32, side: u32| (tile * side) as usize / half;
                let columns = across.affected_range(area(first, TILE_WIDTH), area(end, TILE_WIDTH));
                let rows = down.affected_range(area(row, TILE_HEIGHT), area(row + 1, TILE_HEIGHT));
                let Some(last) = columns.clone().last() else { continue };
                let span = across.starts[columns.start]..across.starts[last] + across.taps;
                for y in rows {
                    down.filter_vertical(
                        y,
                        |from| &source[from * stride..][span.clone()],
                        &mut self.row_sums[span.clone()],
                    );
                    let to = &mut into[y * target.stride[plane]..][columns.clone()];
                    across.filter_horizontal(columns.start, &self.row_sums, to);
                }
            }
        }
    }
}

impl AxisFilter {
    fn new(from: usize, to: usize) -> Self {
        // A target pixel covers `from / to` source pixels and touches at most two more, or none if `to`
        // divides.
        let taps = if from.is_multiple_of(to) { from / to } else { (from / to + 2).min(from) };
        let mut axis = Self {
            taps,
            starts: Vec::with_capacity(to),
            weights: Vec::with_capacity(to * taps),
            source_len: from,
        };
        for i in 0..to {
            // In units of 1/`to` source pixel: target pixel `i` covers `from` units.
            let (begin, end) = (i * from, (i + 1) * from);
            let start = (begin / to).min(from - taps);
            let covered = |pixel: usize| end.min((pixel + 1) * to).saturating_sub(begin.max(pixel * to));
            let mut left = usize::from(WEIGHT_SUM);
            let mut rest = from;
            for pixel in start..start + taps {
                // Rounding errors are carried to the next weight, so that the sum is exact.
                let weight = (left * covered(pixel) + rest / 2).checked_div(rest).unwrap_or(0);
                rest -= covered(pixel);
                left -= weight;
                axis.weights.push(weight as u16);
            }
            axis.starts.push(start);
        }
        axis
    }

    /// The target pixels that depend on source pixels `begin..end`.
    fn affected_range(&self, begin: usize, end: usize) -> std::ops::Range<usize> {
        let to = self.starts.len();
        let first = begin.min(self.source_len) * to / self.source_len;
        let last = (end.min(self.source_len) * to).div_ceil(self.source_len);
        first..last
    }

    /// Writes the weighted sum of the source lines of target line `at`.
    fn filter_vertical<'a>(&self, at: usize, line: impl Fn(usize) -> &'a [u8], sum: &mut [u16]) {
        let weights = &self.weights[at * self.taps..][..self.taps];
        let lines = (self.starts[at]..).map(line);
        for (tap, (weight, line)) in weights.iter().zip(lines).enumerate() {
            // The weights sum to `WEIGHT_SUM`, so nothing wraps; unchecked arithmetic is four times as fast.
            let part = |pixel: &u8| u16::from(*pixel).wrapping_mul(*weight);
            if tap == 0 {
                sum.iter_mut().zip(line).for_each(|(sum, pixel)| *sum = part(pixel));
            } else if *weight > 0 {
                sum.iter_mut().zip(line).for_each(|(sum, pixel)| *sum = sum.wrapping_add(part(pixel)));
            }
        }
    }

    /// Writes target pixels from `first` on, as weighted means of `line`.
    fn filter_horizontal(&self, first: usize, line: &[u16], to: &mut [u8]) {
        match self.taps {
            1 => self.filter_horizontal_taps::<1>(first, line, to),
            2 => self.filter_horizontal_taps::<2>(first, line, to),
            3 => self.filter_horizontal_taps::<3>(first, line, to),
            4 => self.filter_horizontal_taps::<4>(first, line, to),
            _ => {
                let weights = self.weights[first * self.taps..].chunks_exact(self.taps);
                for ((to, start), weights) in to.iter_mut().zip(&self.starts[first..]).zip(weights) {
                    *to = weighted_mean(&line[*start..][..self.taps], weights);
                }
            }
        }
    }

    /// The same with a constant number of taps, which the compiler unrolls.
    fn filter_horizontal_taps<const TAPS: usize>(&self, first: usize, line: &[u16], to: &mut [u8]) {
        let weights = &self.weights.as_chunks::<TAPS>().0[first..];
        for ((to, start), weights) in to.iter_mut().zip(&self.starts[first..]).zip(weights) {
            *to = weighted_mean(&line[*start..][..TAPS], weights);
        }
    }
}

fn weighted_mean(line: &[u16], weights: &[u16]) -> u8 {
    let parts =
        line.iter().zip(weights).map(|(pixel, weight)| u32::from(*pixel).wrapping_mul(u32::from(*weight)));
    let one = u32::from(WEIGHT_SUM) * u32::from(WEIGHT_SUM);
    (parts.fold(one / 2, u32::wrapping_add) / one) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Three planes of a picture of this size.
    fn planes(width: usize, height: usize, fill: impl Fn(usize, usize, usize) -> u8) -> [Vec<u8>; 3] {
        [0, 1, 2].map(|plane| {
            let half = if plane == 0 { 1 } else { 2 };
            let (width, height) = (width / half, height / half);
            (0..width * height).map(|i| fill(plane, i % width, i / width)).collect()
        })
    }

    fn as_planes(data: &mut [Vec<u8>; 3], width: usize) -> Planes<'_> {
        let [y, u, v] = data;
        Planes { data: [y, u, v], stride: [width, width / 2, width / 2] }
    }

    fn scaled(from: (u32, u32), to: (u32, u32), data: &mut [Vec<u8>; 3], damage: &Tiles) -> [Vec<u8>; 3] {
        let (width, height) = (to.0 as usize, to.1 as usize);
        let mut into = planes(width, height, |_, _, _| 7);
        let source = as_planes(data, from.0 as usize);
        Scaler::new(from, to).scale(&source, damage, &mut as_planes(&mut into, width));
        into
    }

    #[test]
    fn half_the_size_is_the_mean_of_four() {
        let mut data = planes(128, 64, |plane, x, y| (plane * 50 + x + 3 * (y % 16)) as u8);
        let small = scaled((128, 64), (64, 32), &mut data, &Tiles::all(128, 64));
        for (plane, width) in [(0, 128), (1, 64), (2, 64)] {
            for (i, got) in small[plane].iter().enumerate() {
                let (x, y) = (2 * (i % (width / 2)), 2 * (i / (width / 2)));
                let four = [(0, 0), (1, 0), (0, 1), (1, 1)];
                let sum: u32 =
                    four.map(|(dx, dy)| u32::from(data[plane][(y + dy) * width + x + dx])).iter().sum();
                assert_eq!(u32::from(*got), (sum + 2) / 4, "plane {plane}, pixel {i}");
            }
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let mut data = planes(130, 50, |plane, x, y| (plane + x * 5 + y * 11) as u8);
        assert_eq!(scaled((130, 50), (130, 50), &mut data, &Tiles::all(130, 50)), data);
    }

    proptest! {
        #[test]
        fn only_what_changed_is_scaled_and_all_of_it(
            (width, height) in (25_u32..200, 25_u32..100),
            (part_x, part_y) in (0.1..1.0, 0.1..1.0),
            picks in proptest::collection::vec((0_u32..7, 0_u32..13), 1..5),
            seed in any::<u8>(),
        ) {
            let from = (2 * width, 2 * height);
            let shrink = |side: u32, part: f64| 2 * ((f64::from(side) * part) as u32).max(1);
            let to = (shrink(width, part_x), shrink(height, part_y));
            let mut damage = Tiles::none(from.0, from.1);
            for (column, row) in picks {
                damage.insert(column % damage.columns(), row % damage.rows());
            }
            let (w, h) = (from.0 as usize, from.1 as usize);
            let old = |plane: usize, x: usize, y: usize| (plane * 31 + x * 7 + y * 13) as u8 ^ seed;
            let mut before = planes(w, h, old);
            let mut after = planes(w, h, |plane, x, y| {
                let (x_luma, y_luma) = if plane == 0 { (x, y) } else { (2 * x, 2 * y) };
                let tile = ((x_luma / 64) as u32, (y_luma / 16) as u32);
                if damage.contains(tile.0, tile.1) { !old(plane, x, y) } else { old(plane, x, y) }
            });
            // Scaling only the damage gives the same result as scaling the whole picture.
            let mut into = scaled(from, to, &mut before, &Tiles::all(from.0, from.1));
            let source = as_planes(&mut after, w);
            Scaler::new(from, to).scale(&source, &damage, &mut as_planes(&mut into, to.0 as usize));
            let whole = scaled(from, to, &mut after, &Tiles::all(from.0, from.1));
            prop_assert_eq!(into, whole);
        }

        #[test]
        fn weights_add_up_and_one_colour_stays(
            from in 1_usize..500,
            part in 0.01..1.0,
            colour in any::<u8>(),
        ) {
            let to = ((from as f64 * part) as usize).max(1);
            let axis = AxisFilter::new(from, to);
            for (i, weights) in axis.weights.chunks_exact(axis.taps).enumerate() {
                prop_assert_eq!(weights.iter().sum::<u16>(), WEIGHT_SUM);
                prop_assert!(axis.starts[i] + axis.taps <= from);
            }
            let mut line = vec![0; to];
            axis.filter_horizontal(0, &vec![u16::from(colour) * WEIGHT_SUM; from], &mut line);
            prop_assert!(line.iter().all(|pixel| *pixel == colour));
        }
    }
}
