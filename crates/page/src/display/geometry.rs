//! The part of the display that the browser takes for its whole screen.

use pagecast_core::spec::Size;

use super::image::Rect;

/// The protocol tells scales in this unit.
const FRACTIONAL_SCALE_DENOMINATOR: f64 = 120.0;

/// Where the browser's screen lies on the display, and how fine it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OutputGeometry {
    /// On the display, in pixels; what is around it stays black.
    pub(crate) area: Rect,
    /// Width and height in logical pixels.
    pub(crate) logical_size: (i32, i32),
    /// Pixels per logical pixel.
    pub(crate) scale: f64,
}

impl OutputGeometry {
    /// The whole display. Its logical size is rounded up so that no pixel stays empty.
    pub(crate) fn full_output(size: Size, scale: f64) -> Self {
        let logical = |v: u32| (f64::from(v) / scale).ceil() as i32;
        Self {
            area: Rect { x: 0, y: 0, width: size.width() as i32, height: size.height() as i32 },
            logical_size: (logical(size.width()), logical(size.height())),
            scale,
        }
    }

    /// The middle of the display, as large as a screen of `width` x `height` logical pixels fits into it without a pixel of
    /// the page being anything but a pixel of the display.
    pub(crate) fn letterboxed(size: Size, (width, height): (u32, u32)) -> Self {
        let ratio = |have: u32, want: u32| f64::from(have) / f64::from(want.max(1));
        let most = ratio(size.width(), width).min(ratio(size.height(), height));
        let scale = (most * FRACTIONAL_SCALE_DENOMINATOR).floor().max(1.0) / FRACTIONAL_SCALE_DENOMINATOR;
        let side = |logical: u32, most: u32| ((f64::from(logical) * scale).ceil() as u32).min(most);
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
    fn a_device_is_as_large_as_it_fits_and_in_the_middle() {
        for (size, viewport, scale, (x, y, width, height)) in [
            // The same shape: all of it.
            ((780, 1688), (390, 844), 2.0, (0, 0, 780, 1688)),
            // 720 rows would be 102.4 steps.
            ((1280, 720), (390, 844), 102.0 / 120.0, (474, 1, 332, 718)),
            ((1280, 720), (1180, 820), 105.0 / 120.0, (123, 1, 1033, 718)),
            ((720, 1280), (844, 390), 102.0 / 120.0, (1, 474, 718, 332)),
        ] {
            let stage = OutputGeometry::letterboxed(Size::new(size.0, size.1).unwrap(), viewport);
            assert_eq!(
                (stage.scale, stage.area),
                (scale, Rect { x, y, width, height }),
                "{viewport:?} on {size:?}"
            );
            assert_eq!(stage.logical_size, (viewport.0 as i32, viewport.1 as i32));
        }
    }

    #[test]
    fn without_a_device_all_of_the_display_is_used() {
        let stage = OutputGeometry::full_output(Size::new(1280, 720).unwrap(), 1.5);
        assert_eq!((stage.logical_size, stage.area.width, stage.area.x), ((854, 480), 1280, 0));
    }
}
