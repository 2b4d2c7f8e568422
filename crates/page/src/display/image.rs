//! Copies of surface contents, so that buffers go back to the client immediately.
#![expect(unsafe_code, reason = "reads shared memory that the client may change at any time")]

use pagecast_core::{TILE_HEIGHT, TILE_WIDTH};
use smithay::reexports::wayland_server::protocol::wl_buffer::WlBuffer;
use smithay::reexports::wayland_server::protocol::wl_shm::Format;
use smithay::wayland::shm::{BufferData, with_buffer_contents};

/// Size of one BGRA tile, in bytes.
const TILE_BYTES: usize = TILE_WIDTH as usize * TILE_HEIGHT as usize * 4;

/// A rectangle in pixels; may extend beyond the area that it is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rect {
    pub(crate) x: i32,
    pub(crate) y: i32,
    pub(crate) width: i32,
    pub(crate) height: i32,
}

impl Rect {
    /// The part within `0,0 .. width,height`, as `x0, y0, x1, y1`; `None` if it is empty.
    pub(crate) fn clip(self, width: u32, height: u32) -> Option<(u32, u32, u32, u32)> {
        let edge = |at: i32, len: i32, max: u32| {
            let end = (i64::from(at) + i64::from(len.max(0))).clamp(0, i64::from(max));
            let start = i64::from(at).clamp(0, i64::from(max));
            (u32::try_from(start).unwrap_or(0), u32::try_from(end).unwrap_or(0))
        };
        let (x0, x1) = edge(self.x, self.width, width);
        let (y0, y1) = edge(self.y, self.height, height);
        (x0 < x1 && y0 < y1).then_some((x0, y0, x1, y1))
    }
}

/// Why a buffer cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BufferError {
    #[error("the buffer is not shared memory in ARGB8888 or XRGB8888")]
    Format,
    #[error("the buffer lies outside of its memory pool")]
    Bounds,
}

/// A copy of a surface's contents: BGRA rows without padding, colour premultiplied with alpha.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) opaque: bool,
    pub(crate) bgra: Vec<u8>,
}

impl Image {
    /// Copies the pixels of `buffer` that differ within `damage` (`None`: everywhere), and calls `changed`
    /// for each tile-sized part that does. Keeps at most `max` pixels from the left and top, as more cannot
    /// be visible.
    ///
    /// # Errors
    /// [`BufferError`]; the image is then unchanged.
    pub(crate) fn update(
        &mut self,
        buffer: &WlBuffer,
        damage: Option<&[Rect]>,
        max: (u32, u32),
        mut changed: impl FnMut(Rect),
    ) -> Result<(), BufferError> {
        with_buffer_contents(buffer, |pool, pool_len, data| {
            let source = ShmBuffer::new(pool, pool_len, data)?;
            let (width, height) = (source.width.min(max.0), source.height.min(max.1));
            let opaque = data.format == Format::Xrgb8888;
            let resized = (width, height, opaque) != (self.width, self.height, self.opaque);
            if resized {
                *self = Self { width, height, opaque, bgra: vec![0; width as usize * height as usize * 4] };
                changed(Rect { x: 0, y: 0, width: width as i32, height: height as i32 });
            }
            let whole = [Rect { x: 0, y: 0, width: width as i32, height: height as i32 }];
            let damage = if resized { &whole[..] } else { damage.unwrap_or(&whole) };
            for (x0, y0, x1, y1) in damage.iter().filter_map(|r| r.clip(width, height)) {
                self.copy_changed_tiles(&source, (x0, y0, x1, y1), &mut changed);
            }
            Ok(())
        })
        .unwrap_or(Err(BufferError::Format))
    }

    /// Copies the tiles that overlap `area` (`x0, y0, x1, y1`), if they differ.
    fn copy_changed_tiles(
        &mut self,
        source: &ShmBuffer,
        area: (u32, u32, u32, u32),
        changed: &mut impl FnMut(Rect),
    ) {
        let (x0, y0, x1, y1) = area;
        let mut tile = [0_u8; TILE_BYTES];
        for top in (y0 / TILE_HEIGHT * TILE_HEIGHT..y1).step_by(TILE_HEIGHT as usize) {
            for left in (x0 / TILE_WIDTH * TILE_WIDTH..x1).step_by(TILE_WIDTH as usize) {
                let (w, h) = (TILE_WIDTH.min(self.width - left), TILE_HEIGHT.min(self.height - top));
                let row = w as usize * 4;
                let mut differs = false;
                for y in 0..h {
                    let line = &mut tile[y as usize * row..][..row];
                    source.read_row(left, top + y, line);
                    differs |= line != &self.bgra[self.offset(left, top + y)..][..row];
                }
                if !differs {
                    continue;
                }
                for y in 0..h {
                    let to = self.offset(left, top + y);
                    self.bgra[to..to + row].copy_from_slice(&tile[y as usize * row..][..row]);
                }
                changed(Rect { x: left as i32, y: top as i32, width: w as i32, height: h as i32 });
            }
        }
    }

    /// Offset of a pixel in `bgra`, in bytes.
    pub(crate) fn offset(&self, x: u32, y: u32) -> usize {
        (y as usize * self.width as usize + x as usize) * 4
    }
}

/// A shared-memory buffer of a client, checked to lie within its pool.
struct ShmBuffer {
    start: *const u8,
    stride: usize,
    width: u32,
    height: u32,
}

impl ShmBuffer {
    fn new(pool: *const u8, pool_len: usize, data: BufferData) -> Result<Self, BufferError> {
        if !matches!(data.format, Format::Argb8888 | Format::Xrgb8888) {
            return Err(BufferError::Format);
        }
        let positive = |v: i32| usize::try_from(v).map_err(|_| BufferError::Bounds);
        let (offset, stride) = (positive(data.offset)?, positive(data.stride)?);
        let (width, height) = (positive(data.width)?, positive(data.height)?);
        let row = width.checked_mul(4).ok_or(BufferError::Bounds)?;
        let end = stride
            .checked_mul(height.saturating_sub(1))
            .and_then(|n| n.checked_add(row))
            .and_then(|n| n.checked_add(offset));
        if stride < row || width == 0 || height == 0 || end.is_none_or(|end| end > pool_len) {
            return Err(BufferError::Bounds);
        }
        // SAFETY: `offset` is within the pool, as was just checked.
        let start = unsafe { pool.add(offset) };
        Ok(Self { start, stride, width: data.width as u32, height: data.height as u32 })
    }

    /// Copies a run of pixels of row `y`, starting at `x`, into `to`.
    fn read_row(&self, x: u32, y: u32, to: &mut [u8]) {
        assert!(
            y < self.height && x as usize * 4 + to.len() <= self.width as usize * 4,
            "read outside of the buffer"
        );
        // SAFETY: the run is within the buffer (asserted) and the buffer within the pool (checked in `new`),
        // which stays mapped while `with_buffer_contents` runs. No reference to shared memory is created: if
        // the client writes to it meanwhile, the copy holds a mix of old and new pixels.
        unsafe {
            let from = self.start.add(y as usize * self.stride + x as usize * 4);
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
        }
    }
}
