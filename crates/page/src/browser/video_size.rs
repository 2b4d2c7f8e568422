//! Detects videos that are larger than the page may play.

use pagecast_core::spec::Size;
use serde_json::{Value, json};

/// Name of the DevTools binding. Our script removes it before the scripts of the page run.
pub(super) const BINDING: &str = "__pagecast_video";

/// Script for every document that reports videos larger than `limit`.
pub(super) fn script(limit: Size) -> String {
    let (long, short) = long_and_short_side((limit.width(), limit.height()));
    // A JSON string is also a JavaScript string.
    format!("({})({long}, {short}, {})", include_str!("video.js"), json!(BINDING))
}

/// Parses `Runtime.bindingCalled`: the size of the video, if it is larger than `limit`.
pub(super) fn parse_oversized(limit: Option<Size>, params: &Value) -> Option<(u32, u32)> {
    let limit = limit.filter(|_| params["name"] == BINDING)?;
    let (width, height) = params["payload"].as_str()?.split_once('x')?;
    let size = (width.parse().ok()?, height.parse().ok()?);
    let ((long, short), (longest, shortest)) =
        (long_and_short_side(size), long_and_short_side((limit.width(), limit.height())));
    (long > longest || short > shortest).then_some(size)
}

/// The longer and the shorter side. The limit applies in either orientation.
fn long_and_short_side((width, height): (u32, u32)) -> (u32, u32) {
    (width.max(height), width.min(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_larger_videos_are_reported() {
        let limit = Size::new(1920, 1080).unwrap();
        let parse =
            |payload: &str| parse_oversized(Some(limit), &json!({"name": BINDING, "payload": payload}));
        assert_eq!(parse("2560x1440"), Some((2560, 1440)));
        assert_eq!(parse("1080x1922"), Some((1080, 1922)));
        assert_eq!(parse("1200x1200"), Some((1200, 1200)));
        for small in ["1920x1080", "1080x1920", "0x0", "", "2560", "x", "-1x5000", "99999999999x1", "1e9x1e9"]
        {
            assert_eq!(parse(small), None, "{small}");
        }
        let large = |name: &str| json!({"name": name, "payload": "2560x1440"});
        assert_eq!(parse_oversized(None, &large(BINDING)), None);
        assert_eq!(parse_oversized(Some(limit), &large("__pagecast_signal")), None);
    }
}
