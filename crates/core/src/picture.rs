//! Pictures, and the tiles of them that changed.

use std::fmt;
use std::sync::Arc;

use crate::time::MediaTime;

/// Width of a tile, in pixels.
pub const TILE_WIDTH: u32 = 64;
/// Height of a tile, in pixels. Even, so that each tile can be converted to 4:2:0 independently.
pub const TILE_HEIGHT: u32 = 16;

/// A BGRX picture: rows from top to bottom without padding, four bytes per pixel (blue, green, red, unused).
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    bgrx: Vec<u8>,
}

impl Picture {
    /// Creates a white picture, which is what a page shows before it draws.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Self {
        Self { width, height, bgrx: vec![0xff; width as usize * height as usize * 4] }
    }

    /// Whether every pixel is exactly white. Pictures come from the browser without loss, so a single pixel
    /// of another colour is content.
    #[must_use]
    pub fn is_white(&self) -> bool {
        self.bgrx.as_chunks().0.iter().all(|[b, g, r, _]| b & g & r == 0xff)
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Length of a row, in bytes.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.width as usize * 4
    }

    /// The pixels of all rows: `stride() * height()` bytes.
    #[must_use]
    pub fn bgrx(&self) -> &[u8] {
        &self.bgrx
    }

    /// The pixels of all rows, for drawing.
    #[must_use]
    pub fn bgrx_mut(&mut self) -> &mut [u8] {
        &mut self.bgrx
    }
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

/// A set of tiles of a picture, used for its damage. Tiles are [`TILE_WIDTH`] x [`TILE_HEIGHT`] pixels,
/// clipped at the right and bottom edges.
#[derive(Clone, PartialEq, Eq)]
pub struct Tiles {
    columns: u32,
    rows: u32,
    set: Vec<bool>,
    count: u32,
}

impl Tiles {
    /// The empty set of tiles of a `width` x `height` picture.
    #[must_use]
    pub fn none(width: u32, height: u32) -> Self {
        let (columns, rows) = (width.div_ceil(TILE_WIDTH), height.div_ceil(TILE_HEIGHT));
        Self { columns, rows, set: vec![false; columns as usize * rows as usize], count: 0 }
    }

    /// The set of all tiles of a `width` x `height` picture.
    #[must_use]
    pub fn all(width: u32, height: u32) -> Self {
        let mut tiles = Self::none(width, height);
        tiles.set.fill(true);
        tiles.count = tiles.columns * tiles.rows;
        tiles
    }

    /// Number of tiles per row.
    #[must_use]
    pub fn columns(&self) -> u32 {
        self.columns
    }

    /// Number of rows of tiles.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Number of tiles in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no tile is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the tile is in the set; tiles outside the picture never are.
    #[must_use]
    pub fn contains(&self, column: u32, row: u32) -> bool {
        column < self.columns && row < self.rows && self.set[self.index(column, row)]
    }

    /// Adds a tile to the set.
    ///
    /// # Panics
    /// If the tile is outside of the picture.
    pub fn insert(&mut self, column: u32, row: u32) {
        assert!(column < self.columns && row < self.rows, "tile {column},{row} is outside of the picture");
        let i = self.index(column, row);
        self.count += u32::from(!std::mem::replace(&mut self.set[i], true));
    }

    /// Adds all tiles of `other` to the set.
    ///
    /// # Panics
    /// If the two belong to pictures of different sizes.
    pub fn union(&mut self, other: &Self) {
        assert_eq!(
            (self.columns, self.rows),
            (other.columns, other.rows),
            "tiles of pictures of different size"
        );
        if other.is_empty() {
            return;
        }
        for (mine, theirs) in self.set.iter_mut().zip(&other.set) {
            *mine |= theirs;
        }
        self.count = u32::try_from(self.set.iter().filter(|t| **t).count()).unwrap_or(u32::MAX);
    }

    /// Removes all tiles from the set.
    pub fn clear(&mut self) {
        self.set.fill(false);
        self.count = 0;
    }

    /// Runs of adjacent tiles within a row, as `(row, first column, column after the last)`, from top to
    /// bottom.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        (0..self.rows).flat_map(move |row| {
            let mut column = 0;
            std::iter::from_fn(move || {
                let first = (column..self.columns).find(|c| self.contains(*c, row))?;
                let end = (first..self.columns).find(|c| !self.contains(*c, row)).unwrap_or(self.columns);
                column = end;
                Some((row, first, end))
            })
        })
    }

    fn index(&self, column: u32, row: u32) -> usize {
        row as usize * self.columns as usize + column as usize
    }
}

impl fmt::Debug for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tiles({} of {}x{})", self.count, self.columns, self.rows)
    }
}

/// A picture of the page, immutable and shared.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The whole picture.
    pub picture: Arc<Picture>,
    /// Tiles that differ from the previous frame; all tiles in the first frame.
    pub damage: Tiles,
}

/// One tick of the display. Each tick since the first frame is emitted exactly once and in order, whether the
/// picture changed or not, except ticks that were dropped because the receiver was too slow.
#[derive(Debug, Clone)]
pub struct Tick {
    /// Index of the tick; the first frame is tick 0.
    pub index: i64,
    /// Presentation time of the picture.
    pub pts: MediaTime,
    /// The new picture; `None` if nothing changed.
    pub frame: Option<Frame>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_count_as_tiles() {
        let tiles = Tiles::all(1280, 722);
        assert_eq!((tiles.columns(), tiles.rows(), tiles.count()), (20, 46, 920));
        assert_eq!(Tiles::none(50, 50).columns(), 1);
    }

    proptest! {
        #[test]
        fn runs_cover_the_set_exactly(picks in proptest::collection::vec((0_u32..7, 0_u32..5), 0..20)) {
            let mut tiles = Tiles::none(7 * TILE_WIDTH, 5 * TILE_HEIGHT);
            for (c, r) in &picks {
                tiles.insert(*c, *r);
            }
            let mut again = Tiles::none(7 * TILE_WIDTH, 5 * TILE_HEIGHT);
            for (row, first, end) in tiles.runs() {
                prop_assert!(first < end && !tiles.contains(end, row));
                (first..end).for_each(|c| again.insert(c, row));
            }
            prop_assert_eq!(again.count(), tiles.count());
            prop_assert_eq!(again, tiles);
        }
    }
}
