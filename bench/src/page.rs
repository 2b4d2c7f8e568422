//! The recorded pages, and the goal for each.

use clap::ValueEnum;

/// A page of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPage {
    /// A static slide
    Still,
    /// A slide with a small animation
    Animation,
    /// Text that scrolls by 120 pixels per second
    Scroll,
    /// A full-page H.264 video of 1280x720 with sound
    Video,
    /// A full-page WebGL scene
    Webgl,
}

impl BenchPage {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Still => "Still slide",
            Self::Animation => "Small animation",
            Self::Scroll => "Scrolling text",
            Self::Video => "Full-screen video",
            Self::Webgl => "WebGL scene",
        }
    }

    /// File name in `bench/pages`.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Still => "still.html",
            Self::Animation => "animation.html",
            Self::Scroll => "scroll.html",
            Self::Video => "video.html",
            Self::Webgl => "webgl.html",
        }
    }

    /// Whether the page has a timecode that counts its pictures.
    pub(crate) fn is_animated(self) -> bool {
        self != Self::Still
    }

    /// Goal: largest ratio of Pagecast's CPU to the baseline's. None where Chromium does nearly all of the
    /// work.
    pub(crate) fn max_cpu_ratio(self) -> Option<f64> {
        match self {
            Self::Still => Some(0.10),
            Self::Animation => Some(0.45),
            Self::Scroll => Some(0.60),
            Self::Video => Some(0.70),
            Self::Webgl => None,
        }
    }
}
