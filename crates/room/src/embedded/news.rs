//! What viewers are told as it happens.

use serde::Serialize;

use super::stats::LayerStats;

/// How things are for one viewer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct News {
    /// Whether anything is published.
    pub(super) active: bool,
    /// The layers that there are.
    pub(super) layers: Layers,
    /// How many watch.
    pub(super) viewers: usize,
}

/// The layers of what is watched.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Layers {
    /// The layer that is sent.
    pub(super) current: Option<String>,
    /// The one that was asked for; none: automatically.
    pub(super) wish: Option<String>,
    /// All of them, the largest one first.
    pub(super) layers: Vec<LayerStats>,
}

impl News {
    /// The events that tell what is new since `before`, as a stream of server-sent events has them.
    pub(super) fn since(&self, before: Option<&Self>) -> String {
        let mut text = String::new();
        let mut tell = |name: &str, data: &str| text.push_str(&format!("event: {name}\ndata: {data}\n\n"));
        if before.is_none_or(|before| before.active != self.active) {
            tell(if self.active { "active" } else { "inactive" }, "{}");
        }
        if before.is_none_or(|before| before.layers != self.layers) {
            tell("layers", &serde_json::to_string(&self.layers).unwrap_or_default());
        }
        if before.is_none_or(|before| before.viewers != self.viewers) {
            tell("viewercount", &format!("{{\"viewercount\":{}}}", self.viewers));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let first = News { viewers: 1, ..News::default() };
        let said = first.since(None);
        assert!(
            said.starts_with("event: inactive\ndata: {}\n\nevent: layers\ndata: {\"current\":null"),
            "{said}"
        );
        let mut second = first.clone();
        assert_eq!(second.since(Some(&first)), "");
        (second.active, second.viewers) = (true, 2);
        let said = second.since(Some(&first));
        assert_eq!(said, "event: active\ndata: {}\n\nevent: viewercount\ndata: {\"viewercount\":2}\n\n");
    }
}
