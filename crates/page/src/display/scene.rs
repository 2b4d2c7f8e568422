//! Composes the layers of the screen, from bottom to top, into immutable pictures.

use std::collections::HashMap;
use std::sync::Arc;

use pagecast_core::spec::Size;
use pagecast_core::{Frame, Picture, TILE_HEIGHT, TILE_WIDTH, Tiles};
use smithay::reexports::wayland_server::backend::ObjectId;

use super::image::{Image, Rect};

/// Most pictures in use at a time: those in a queue and those that an encoder holds. If all are in use, the
/// receiver is too slow: no frame is rendered, and the change waits for the next tick.
const MAX_PICTURES: usize = 8;

/// A surface and its area on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) surface: ObjectId,
    pub(crate) area: Rect,
}

/// Contents of the surfaces, and their areas on the screen.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) images: HashMap<ObjectId, Image>,
    layers: Vec<Layer>,
    /// The area of the browser's screen; the rest is black.
    output_area: Rect,
    dirty_tiles: Tiles,
    picture_pool: Vec<PooledPicture>,
    latest_index: usize,
}

/// A picture, and the tiles where it differs from the screen.
#[derive(Debug)]
struct PooledPicture {
    picture: Arc<Picture>,
    stale_tiles: Tiles,
}

impl Scene {
    /// An empty screen.
    pub(crate) fn new(size: Size, output_area: Rect) -> Self {
        let (width, height) = (size.width(), size.height());
        let first = PooledPicture {
            picture: Arc::new(Picture::new(width, height)),
            stale_tiles: Tiles::all(width, height),
        };
        Self {
            images: HashMap::new(),
            layers: Vec::new(),
            output_area,
            dirty_tiles: Tiles::all(width, height),
            picture_pool: vec![first],
            latest_index: 0,
        }
    }

    /// Width and height of the display, in pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.picture_pool[0].picture.width(), self.picture_pool[0].picture.height())
    }

    /// Whether the screen differs from the last frame.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty_tiles.is_empty()
    }

    /// Marks the whole screen as changed.
    pub(crate) fn mark_all_dirty(&mut self) {
        let (width, height) = self.size();
        self.dirty_tiles = Tiles::all(width, height);
    }

    /// Marks a part of a surface's image as changed.
    pub(crate) fn mark_dirty(&mut self, surface: &ObjectId, part: Rect) {
        for i in 0..self.layers.len() {
            let layer = &self.layers[i];
            if layer.surface == *surface {
                let area = match self.images.get(surface) {
                    Some(image) if is_unscaled(image, layer.area) => {
                        Rect { x: layer.area.x + part.x, y: layer.area.y + part.y, ..part }
                    }
                    _ => layer.area,
                };
                self.mark_area_dirty(area);
            }
        }
    }

    /// Sets the layers, bottom first, and marks areas as changed where layers appear, move or disappear.
    pub(crate) fn set_layers(&mut self, layers: Vec<Layer>) {
        if layers == self.layers {
            return;
        }
        let old = std::mem::replace(&mut self.layers, layers);
        let kept = old.iter().zip(&self.layers).take_while(|(a, b)| a == b).count();
        let removed = old[kept..].iter().map(|l| l.area);
        let added = self.layers[kept..].iter().map(|l| l.area);
        for area in removed.chain(added).collect::<Vec<_>>() {
            self.mark_area_dirty(area);
        }
    }

    /// Renders the screen as a frame, whose damage is what changed since the last one. `None` if all pictures
    /// are in use.
    pub(crate) fn render_frame(&mut self) -> Option<Frame> {
        let i = self.acquire_picture()?;
        let PooledPicture { picture, stale_tiles: stale } = &mut self.picture_pool[i];
        let target = Arc::get_mut(picture)?;
        stale.union(&self.dirty_tiles);
        for (row, first, end) in stale.runs() {
            compose(target, (&self.layers, self.output_area), &self.images, tile_run_rect(row, first, end));
        }
        stale.clear();
        let picture = Arc::clone(picture);
        for (other, buffer) in self.picture_pool.iter_mut().enumerate() {
            if other != i {
                buffer.stale_tiles.union(&self.dirty_tiles);
            }
        }
        self.latest_index = i;
        let (width, height) = self.size();
        Some(Frame { picture, damage: std::mem::replace(&mut self.dirty_tiles, Tiles::none(width, height)) })
    }

    /// The current screen of the browser, without the black border. Does not affect the damage.
    pub(crate) fn snapshot(&self) -> Picture {
        let (width, height) = self.size();
        let mut screen = Picture::new(width, height);
        for row in 0..height.div_ceil(TILE_HEIGHT) {
            let area = tile_run_rect(row, 0, width.div_ceil(TILE_WIDTH));
            compose(&mut screen, (&self.layers, self.output_area), &self.images, area);
        }
        let Some((x0, y0, x1, y1)) =
            self.output_area.clip(width, height).filter(|s| *s != (0, 0, width, height))
        else {
            return screen;
        };
        let mut cropped = Picture::new(x1 - x0, y1 - y0);
        let (from, to) = (screen.stride(), cropped.stride());
        for (row, line) in (y0 as usize..).zip(cropped.bgrx_mut().chunks_exact_mut(to)) {
            line.copy_from_slice(&screen.bgrx()[row * from + x0 as usize * 4..][..to]);
        }
        cropped
    }

    /// Marks the damage of a frame as changed again, as the frame could not be delivered.
    pub(crate) fn restore_damage(&mut self, frame: &Frame) {
        self.dirty_tiles.union(&frame.damage);
    }

    /// Index of the most recent picture that is not in use, or of a new one; `None` if all are in use.
    fn acquire_picture(&mut self) -> Option<usize> {
        let count = self.picture_pool.len();
        let newest_first = (0..count).map(|back| (self.latest_index + count - back) % count);
        for i in newest_first {
            if Arc::get_mut(&mut self.picture_pool[i].picture).is_some() {
                return Some(i);
            }
        }
        if count == MAX_PICTURES {
            return None;
        }
        let (width, height) = self.size();
        let picture = Arc::new(Picture::new(width, height));
        self.picture_pool.push(PooledPicture { picture, stale_tiles: Tiles::all(width, height) });
        Some(count)
    }

    fn mark_area_dirty(&mut self, area: Rect) {
        let (width, height) = self.size();
        let Some((x0, y0, x1, y1)) = area.clip(width, height) else { return };
        for row in y0 / TILE_HEIGHT..=(y1 - 1) / TILE_HEIGHT {
            for column in x0 / TILE_WIDTH..=(x1 - 1) / TILE_WIDTH {
                self.dirty_tiles.insert(column, row);
            }
        }
    }
}

fn tile_run_rect(row: u32, first: u32, end: u32) -> Rect {
    Rect {
        x: (first * TILE_WIDTH) as i32,
        y: (row * TILE_HEIGHT) as i32,
        width: ((end - first) * TILE_WIDTH) as i32,
        height: TILE_HEIGHT as i32,
    }
}

/// Whether the image is drawn without scaling. Rounding of a fractional scale may make it one pixel shorter
/// or longer.
fn is_unscaled(image: &Image, area: Rect) -> bool {
    let near = |have: u32, want: i32| (i64::from(have) - i64::from(want)).abs() <= 1;
    near(image.width, area.width) && near(image.height, area.height)
}

/// Draws `area` of the display: white where the browser's screen has no layer, black outside of it.
fn compose(
    target: &mut Picture,
    (layers, output_area): (&[Layer], Rect),
    images: &HashMap<ObjectId, Image>,
    area: Rect,
) {
    let Some((x0, y0, x1, y1)) = area.clip(target.width(), target.height()) else { return };
    let (stride, target_width, target_height) = (target.stride(), target.width(), target.height());
    for y in y0..y1 {
        let line = &mut target.bgrx_mut()[y as usize * stride..][x0 as usize * 4..x1 as usize * 4];
        let bottom = layers.first().and_then(|l| Some((l, images.get(&l.surface)?)));
        let covered = bottom.is_some_and(|(l, image)| {
            let inside = l.area.x <= x0 as i32 && l.area.x + image.width as i32 >= x1 as i32;
            let within = l.area.y <= y as i32 && (y as i32) < l.area.y + image.height as i32;
            is_unscaled(image, l.area) && inside && within
        });
        if !covered {
            let across = output_area.clip(target_width, target_height).filter(|s| (s.1..s.3).contains(&y));
            let (from, to) = across.map_or((x1, x1), |s| (s.0.clamp(x0, x1), s.2.clamp(x0, x1)));
            line.fill(0);
            line[(from - x0) as usize * 4..(to - x0) as usize * 4].fill(0xff);
        }
        for (depth, layer) in layers.iter().enumerate() {
            if let Some(image) = images.get(&layer.surface) {
                // The bottom layer counts as opaque, whatever its alpha.
                draw_line(line, (x0, y), image, layer.area, depth == 0 || image.opaque);
            }
        }
    }
}

/// Draws one layer onto a row of pixels that starts at `at` on the screen.
fn draw_line(line: &mut [u8], at: (u32, u32), image: &Image, area: Rect, opaque: bool) {
    let (x0, y) = (at.0 as i32, at.1 as i32);
    let width = (line.len() / 4) as i32;
    let exact = is_unscaled(image, area);
    let (span_w, span_h) =
        if exact { (image.width as i32, image.height as i32) } else { (area.width, area.height) };
    if y < area.y || y >= area.y + span_h || span_w <= 0 {
        return;
    }
    let (from, to) = (area.x.max(x0), (area.x + span_w).min(x0 + width));
    if from >= to {
        return;
    }
    if exact {
        let source = image.offset((from - area.x) as u32, (y - area.y) as u32);
        let source = &image.bgra[source..source + (to - from) as usize * 4];
        let target = &mut line[(from - x0) as usize * 4..(to - x0) as usize * 4];
        if opaque {
            target.copy_from_slice(source);
        } else {
            blend(target, source);
        }
        return;
    }
    let scaled =
        |v: i32, span: i32, len: u32| (i64::from(v) * i64::from(len) / i64::from(span.max(1))) as u32;
    let row = scaled(y - area.y, span_h, image.height);
    for x in from..to {
        let source = image.offset(scaled(x - area.x, span_w, image.width), row);
        let target = &mut line[(x - x0) as usize * 4..][..4];
        if opaque {
            target.copy_from_slice(&image.bgra[source..source + 4]);
        } else {
            blend(target, &image.bgra[source..source + 4]);
        }
    }
}

/// Blends source over target; colours are premultiplied.
fn blend(target: &mut [u8], source: &[u8]) {
    for (t, s) in target.chunks_exact_mut(4).zip(source.chunks_exact(4)) {
        let rest = u32::from(255 - s[3]);
        for c in 0..3 {
            let under = (u32::from(t[c]) * rest + 127) / 255;
            t[c] = u8::try_from(u32::from(s[c]) + under).unwrap_or(255);
        }
    }
}
