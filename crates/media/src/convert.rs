//! Converts BGRX pictures to planar 4:2:0 in limited range, only where they changed.

use pagecast_core::{Picture, TILE_HEIGHT, TILE_WIDTH, Tiles};
use yuv::{
    BufferStoreMut, YuvConversionMode, YuvPlanarImageMut, YuvRange, YuvStandardMatrix, bgra_to_yuv420,
};

/// Three planes to write to: Y at full size, U and V at half width and half height.
#[derive(Debug)]
pub struct Planes<'a> {
    /// Samples of Y, U and V.
    pub data: [&'a mut [u8]; 3],
    /// Bytes from one row to the next, per plane.
    pub stride: [usize; 3],
}

/// The colour matrix from RGB to Y, U and V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.709.
    Bt709,
    /// ITU-R BT.601, the implied matrix of VP8 (RFC 6386, section 9.2).
    Bt601,
}

/// Converts the tiles of `picture` that are in `damage`. A chroma sample is the mean of two by two pixels, so
/// it is sited in their centre.
///
/// # Panics
/// If a plane is too small for the picture, whose sides must be even.
pub fn convert(picture: &Picture, damage: &Tiles, matrix: Matrix, planes: &mut Planes<'_>) {
    let matrix = match matrix {
        Matrix::Bt709 => YuvStandardMatrix::Bt709,
        Matrix::Bt601 => YuvStandardMatrix::Bt601,
    };
    for (row, first, end) in damage.runs() {
        // The library reads whole strides, and the last row of tiles has no data behind its right edge.
        let first = if row + 1 == damage.rows() { 0 } else { first };
        let (x, y) = ((first * TILE_WIDTH) as usize, (row * TILE_HEIGHT) as usize);
        let width = (end * TILE_WIDTH).min(picture.width()) - first * TILE_WIDTH;
        let height = TILE_HEIGHT.min(picture.height() - row * TILE_HEIGHT);
        let rows = |stride: usize, x: usize, y: usize, count: usize| y * stride + x..(y + count) * stride + x;
        let (luma, chroma) = (height as usize, height as usize / 2);
        let source = &picture.bgrx()[rows(picture.stride(), x * 4, y, luma)];
        let [y_plane, u_plane, v_plane] = &mut planes.data;
        let [y_stride, u_stride, v_stride] = planes.stride;
        let mut image = YuvPlanarImageMut {
            y_plane: BufferStoreMut::Borrowed(&mut y_plane[rows(y_stride, x, y, luma)]),
            y_stride: y_stride as u32,
            u_plane: BufferStoreMut::Borrowed(&mut u_plane[rows(u_stride, x / 2, y / 2, chroma)]),
            u_stride: u_stride as u32,
            v_plane: BufferStoreMut::Borrowed(&mut v_plane[rows(v_stride, x / 2, y / 2, chroma)]),
            v_stride: v_stride as u32,
            width,
            height,
        };
        let converted = bgra_to_yuv420(
            &mut image,
            source,
            picture.stride() as u32,
            YuvRange::Limited,
            matrix,
            YuvConversionMode::Balanced,
        );
        assert!(converted.is_ok(), "planes do not fit the picture: {converted:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts a picture of one colour; `(y, u, v)` of its last pixel.
    fn one_colour(width: u32, height: u32, bgr: [u8; 3], matrix: Matrix) -> (u8, u8, u8) {
        let mut picture = Picture::new(width, height);
        for pixel in picture.bgrx_mut().chunks_exact_mut(4) {
            pixel[..3].copy_from_slice(&bgr);
        }
        let (w, h) = (width as usize, height as usize);
        let (mut y, mut u, mut v) = (vec![0; w * h], vec![0; w * h / 4], vec![0; w * h / 4]);
        let mut planes = Planes { data: [&mut y, &mut u, &mut v], stride: [w, w / 2, w / 2] };
        convert(&picture, &Tiles::all(width, height), matrix, &mut planes);
        assert!(y.iter().all(|p| *p == y[0]), "every pixel is converted");
        (y[w * h - 1], u[w * h / 4 - 1], v[w * h / 4 - 1])
    }

    #[test]
    fn colours_are_what_the_standards_say() {
        let (red, green, blue) = ([0, 0, 255], [0, 255, 0], [255, 0, 0]);
        for (matrix, bgr, want) in [
            (Matrix::Bt709, [255, 255, 255], (235, 128, 128)),
            (Matrix::Bt709, [0, 0, 0], (16, 128, 128)),
            // ITU-R BT.709-6: Y = 16 + 219 (0.2126 R + 0.7152 G + 0.0722 B), and so on.
            (Matrix::Bt709, red, (63, 102, 240)),
            (Matrix::Bt709, green, (173, 42, 26)),
            (Matrix::Bt709, blue, (32, 240, 118)),
            // ITU-R BT.601-7: Y = 16 + 219 (0.299 R + 0.587 G + 0.114 B), and so on.
            (Matrix::Bt601, red, (81, 90, 240)),
            (Matrix::Bt601, green, (145, 54, 34)),
            (Matrix::Bt601, blue, (41, 240, 110)),
        ] {
            let got = one_colour(1282, 50, bgr, matrix);
            let near = |a: u8, b: u8| a.abs_diff(b) <= 1;
            assert!(
                near(got.0, want.0) && near(got.1, want.1) && near(got.2, want.2),
                "{bgr:?}: {got:?}, {want:?}"
            );
        }
    }

    #[test]
    fn nothing_else_is_touched() {
        let picture = Picture::new(192, 48);
        let mut damage = Tiles::none(192, 48);
        damage.insert(1, 1);
        let (mut y, mut u, mut v) = (vec![7; 192 * 48], vec![7; 96 * 24], vec![7; 96 * 24]);
        convert(
            &picture,
            &damage,
            Matrix::Bt709,
            &mut Planes { data: [&mut y, &mut u, &mut v], stride: [192, 96, 96] },
        );
        for (plane, width, value) in [(&y, 192, 235), (&u, 96, 128), (&v, 96, 128)] {
            for (i, pixel) in plane.iter().enumerate() {
                let (column, row) = (i % width * 192 / width, i / width * 192 / width);
                let inside = (64..128).contains(&column) && (16..32).contains(&row);
                assert_eq!(*pixel, if inside { value } else { 7 }, "{column},{row}");
            }
        }
    }
}
