//! State of a viewer, sent as server-sent events.

use serde::Serialize;

use super::stats::LayerStats;

/// State of one viewer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ViewerState {
    /// Whether the room has an active publisher.
    pub(super) active: bool,
    /// Layers of the watched video.
    pub(super) layers: LayersEvent,
    /// Number of viewers in the room.
    pub(super) viewer_count: usize,
}

/// Data of the event `layers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct LayersEvent {
    /// Sent layer. `None` while no video is sent.
    pub(super) current_layer: Option<String>,
    /// Layer that the viewer requested. `None` for automatic selection.
    pub(super) requested_layer: Option<String>,
    /// Available layers, the largest first.
    pub(super) layers: Vec<LayerStats>,
}

impl ViewerState {
    /// The changes since `before`, as server-sent events.
    pub(super) fn events_since(&self, before: Option<&Self>) -> String {
        let mut text = String::new();
        let mut push_event =
            |name: &str, data: &str| text.push_str(&format!("event: {name}\ndata: {data}\n\n"));
        if before.is_none_or(|before| before.active != self.active) {
            push_event(if self.active { "active" } else { "inactive" }, "{}");
        }
        if before.is_none_or(|before| before.layers != self.layers) {
            push_event("layers", &serde_json::to_string(&self.layers).unwrap_or_default());
        }
        if before.is_none_or(|before| before.viewer_count != self.viewer_count) {
            push_event("viewercount", &format!("{{\"viewercount\":{}}}", self.viewer_count));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_become_events() {
        let first = ViewerState { viewer_count: 1, ..ViewerState::default() };
        let events = first.events_since(None);
        let expected = "event: inactive\ndata: {}\n\nevent: layers\ndata: {\"current_layer\":null";
        assert!(events.starts_with(expected), "{events}");
        let mut second = first.clone();
        assert_eq!(second.events_since(Some(&first)), "");
        (second.active, second.viewer_count) = (true, 2);
        let events = second.events_since(Some(&first));
        assert_eq!(events, "event: active\ndata: {}\n\nevent: viewercount\ndata: {\"viewercount\":2}\n\n");
    }
}
