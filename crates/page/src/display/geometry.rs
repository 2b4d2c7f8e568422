//! Position and scale of the browser's screen on the display.

use pagecast_core::spec::Size;

use super::image::Rect;

/// The fractional-scale protocol counts scales in 1/120.
const FRACTIONAL_SCALE_DENOMINATOR: f64 = 120.0;

/// Position of the browser's screen on the display, its logical size and its scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OutputGeometry {
    /// Area on the display, in pixels; the rest stays black.
    pub(crate) area: Rect,
    /// Width and height in logical pixels.
    pub(crate) logical_size: (i32, i32),
    /// Pixels per logical pixel.
    pub(crate) scale: f64,
}

impl OutputGeometry {
    /// Covers the whole display. The logical size is rounded up, so that no pixel stays empty.
    pub(crate) fn full_output(size: Size, scale: f64) -> Self {
        let logical = |v: u32| (f64::from(v) / scale).ceil() as i32;
        Self {
            area: Rect { x: 0, y: 0, width: size.width() as i32, height: size.height() as i32 },
            logical_size: (logical(size.width()), logical(size.height())),
            scale,
        }
    }

    /// Centres a screen of `width` x `height` logical pixels on the display, at the largest scale that fits.
    /// One pixel of the page is one pixel of the display.
    pub(crate) fn letterboxed(size: Size, (width, height): (u32, u32)) -> Self {
        let ratio = |have: u32, want: u32| f64::from(have) / f64::from(want.max(1));
        let largest = ratio(size.width(), width).min(ratio(size.height(), height));
        let scale = (largest * FRACTIONAL_SCALE_DENOMINATOR).floor().max(1.0) / FRACTIONAL_SCALE_DENOMINATOR;
        let side = |logical: u32, available: u32| ((f64::from(logical) * scale).ceil() as u32).min(available);
        let (w, h) = (side(width, size.width()), side(height, size.height()));
        let area = Rect {
            x: ((size.width() - w) / 2) as i32,
            y: ((size.height() - h) / 2) as i32,
            width: w as i32,
            height: h as i32,
        };
        Self { area, logical_size: (width as i32, height as i32), scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_screen_is_scaled_to_fit_and_centred() {
        for (size, viewport, scale, (x, y, width, height)) in [
            // The same aspect ratio fills the display.
            ((780, 1688), (390, 844), 2.0, (0, 0, 780, 1688)),
            // 720 rows would be 102.4 steps.
            ((1280, 720), (390, 844), 102.0 / 120.0, (474, 1, 332, 718)),
            ((1280, 720), (1180, 820), 105.0 / 120.0, (123, 1, 1033, 718)),
            ((720, 1280), (844, 390), 102.0 / 120.0, (1, 474, 718, 332)),
        ] {
            let geometry = OutputGeometry::letterboxed(Size::new(size.0, size.1).unwrap(), viewport);
            assert_eq!(
                (geometry.scale, geometry.area),
                (scale, Rect { x, y, width, height }),
                "{viewport:?} on {size:?}"
            );
            assert_eq!(geometry.logical_size, (viewport.0 as i32, viewport.1 as i32));
        }
    }

    #[test]
    fn without_a_device_the_whole_display_is_used() {
        let geometry = OutputGeometry::full_output(Size::new(1280, 720).unwrap(), 1.5);
        assert_eq!((geometry.logical_size, geometry.area.width, geometry.area.x), ((854, 480), 1280, 0));
    }
}
