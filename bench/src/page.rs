//! The pages that are recorded, and what the project promises for each.

use clap::ValueEnum;

/// A page of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchPage {
    /// A slide on which nothing moves.
    Still,
    /// A slide with a small drawing that moves.
    Animation,
    /// Text that scrolls by 120 pixels each second.
    Scroll,
    /// A 1280x720 H.264 video with sound that fills the page.
    Video,
    /// A WebGL scene that fills the page.
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

    /// The file under `bench/pages`.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Still => "still.html",
            Self::Animation => "animation.html",
            Self::Scroll => "scroll.html",
            Self::Video => "video.html",
            Self::Webgl => "webgl.html",
        }
    }

    /// Whether a strip counts its pictures.
    pub(crate) fn is_animated(self) -> bool {
        self != Self::Still
    }

    /// The most that Pagecast's CPU may be of the recipe's; no promise where it is Chromium that does the work.
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
