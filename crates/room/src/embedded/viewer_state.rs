//! What viewers are told as it happens.

use serde::Serialize;

use super::stats::LayerStats;

/// How things are for one viewer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ViewerState {
    /// Whether anything is published.
    pub(super) active: bool,
    /// The layers that there are.
    pub(super) layers: LayersEvent,
    /// How many watch.
    pub(super) viewer_count: usize,
}

/// The layers of what is watched.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct LayersEvent {
    /// The layer that is sent.
    pub(super) current: Option<String>,
    /// The one that was asked for; none: automatically.
    pub(super) wish: Option<String>,
    /// All of them, the largest one first.
    pub(super) layers: Vec<LayerStats>,
}

impl ViewerState {
    /// The events that tell what is new since `before`, as a stream of server-sent events has them.
    pub(super) fn events_since(&self, before: Option<&Self>) -> String {
        let mut text = String::new();
        let mut tell = |name: &str, data: &str| text.push_str(&format!("event: {name}\ndata: {data}\n\n"));
        if before.is_none_or(|before| before.active != self.active) {
            tell(if self.active { "active" } else { "inactive" }, "{}");
        }
        if before.is_none_or(|before| before.layers != self.layers) {
            tell("layers", &serde_json::to_string(&self.layers).unwrap_or_default());
        }
        if before.is_none_or(|before| before.viewer_count != self.viewer_count) {
            tell("viewercount", &format!("{{\"viewercount\":{}}}", self.viewer_count));
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
        let said = first.events_since(None);
        assert!(
            said.starts_with("event: inactive\ndata: {}\n\nevent: layers\ndata: {\"current\":null"),
            "{said}"
        );
        let mut second = first.clone();
        assert_eq!(second.events_since(Some(&first)), "");
        (second.active, second.viewer_count) = (true, 2);
        let said = second.events_since(Some(&first));
        assert_eq!(said, "event: active\ndata: {}\n\nevent: viewercount\ndata: {\"viewercount\":2}\n\n");
    }
}
