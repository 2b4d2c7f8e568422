//! Tracks when a page is ready to be shown.

use std::time::Duration;

use serde_json::{Value, json};

use super::page_signal::PageSignal;
use super::{Browser, CallError, PageState};

/// How long a page may take to evaluate a selector.
const SELECTOR_TIMEOUT: Duration = Duration::from_secs(1);

impl Browser {
    /// Whether a CSS selector matches a visible element of the page's main document now. False during a
    /// navigation.
    ///
    /// # Errors
    /// [`CallError::InvalidSelector`], [`CallError::Timeout`] if the page does not answer within a second, or
    /// [`CallError::Closed`].
    pub fn has_visible_match(&self, selector: &str) -> Result<bool, CallError> {
        let quoted = json!(selector);
        let expression = format!(
            "[...document.querySelectorAll({quoted})].some(e =>
            e.checkVisibility({{visibilityProperty: true}}) &&
            [...e.getClientRects()].some(r => r.width > 0 && r.height > 0))"
        );
        let params = json!({"expression": expression, "returnByValue": true, "silent": true});
        match self.cdp.call(&self.session, "Runtime.evaluate", params, SELECTOR_TIMEOUT) {
            Ok(answer) if answer["exceptionDetails"]["exception"]["className"] == "DOMException" => {
                Err(CallError::InvalidSelector(selector.to_owned()))
            }
            Ok(answer) => Ok(answer["result"]["value"] == true),
            Err(CallError::ErrorResponse { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }
}

impl PageState {
    /// Resets the state for a new document. Later events count only if they are about `document`.
    pub(super) fn expect_document(&mut self, document: Option<&str>) {
        if self.loader_id.as_deref() != document || document.is_none() {
            (self.painted, self.loaded, self.network_idle, self.signalled_ready) =
                (false, false, false, false);
            self.loader_id = document.map(str::to_owned);
        }
    }

    /// Handles `Page.frameNavigated` and `Page.lifecycleEvent` of the page's own session.
    pub(super) fn handle_event(&mut self, method: &str, params: &Value) {
        if method == "Page.frameNavigated" {
            if params["frame"]["parentId"].is_null() {
                self.expect_document(params["frame"]["loaderId"].as_str());
            }
            return;
        }
        if self.loader_id.is_none() || params["loaderId"].as_str() != self.loader_id.as_deref() {
            return;
        }
        match params["name"].as_str() {
            Some("firstPaint" | "firstContentfulPaint") => self.painted = true,
            Some("load") => self.loaded = true,
            Some("networkIdle") => self.network_idle = true,
            _ => {}
        }
    }

    /// Handles a signal of the page. Signals of a document that is being left are ignored.
    pub(super) fn handle_signal(&mut self, signal: PageSignal) {
        match signal {
            PageSignal::Ready => self.signalled_ready |= self.loader_id.is_some(),
            PageSignal::End => self.signalled_end |= self.loader_id.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_of_the_shown_document_count() {
        let mut state = PageState::default();
        let mut handle = |method: &str, params: Value| {
            state.handle_event(method, &params);
            state.network_idle
        };
        let shows = |loader: &str| json!({"frame": {"loaderId": loader}});
        let idle = |loader: &str| json!({"name": "networkIdle", "loaderId": loader});
        assert!(!handle("Page.lifecycleEvent", idle("a")));
        assert!(!handle("Page.frameNavigated", shows("a")));
        assert!(!handle("Page.lifecycleEvent", idle("frame")));
        assert!(handle("Page.lifecycleEvent", idle("a")));
        assert!(handle("Page.frameNavigated", json!({"frame": {"loaderId": "x", "parentId": "y"}})));
        assert!(!handle("Page.frameNavigated", shows("b")));
        assert!(!handle("Page.lifecycleEvent", idle("a")));
        assert!(handle("Page.lifecycleEvent", idle("b")));
        state.handle_signal(PageSignal::Ready);
        assert!(state.signalled_ready);
        state.expect_document(None);
        state.handle_signal(PageSignal::Ready);
        assert!(!state.network_idle && !state.signalled_ready);
    }
}
