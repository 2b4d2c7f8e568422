//! What a cast may wait for before it shows a page.

use std::time::Duration;

use serde_json::{Value, json};

use super::signal::Word;
use super::{Browser, CallError, PageState};

/// Time for a page to answer whether something is visible.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

impl Browser {
    /// Whether a CSS selector matches something visible in the page's main document now. A page that is just going elsewhere
    /// shows nothing.
    ///
    /// # Errors
    /// [`CallError::Selector`] if it is none, [`CallError::Timeout`] if the page does not answer within a second, or a
    /// browser that is gone.
    pub fn matches(&self, selector: &str) -> Result<bool, CallError> {
        let quoted = json!(selector);
        let expression = format!(
            "[...document.querySelectorAll({quoted})].some(e => e.checkVisibility({{visibilityProperty: true}})
            && [...e.getClientRects()].some(r => r.width > 0 && r.height > 0))"
        );
        let params = json!({"expression": expression, "returnByValue": true, "silent": true});
        match self.cdp.call(&self.session, "Runtime.evaluate", params, LOOK_TIMEOUT) {
            Ok(answer) if answer["exceptionDetails"]["exception"]["className"] == "DOMException" => {
                Err(CallError::Selector(selector.to_owned()))
            }
            Ok(answer) => Ok(answer["result"]["value"] == true),
            Err(CallError::Refused { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }
}

impl PageState {
    /// Forgets what was known of the last document; what is told of `document` from now on counts.
    pub(super) fn expect(&mut self, document: Option<&str>) {
        if self.document.as_deref() != document || document.is_none() {
            (self.painted, self.loaded, self.network_idle, self.started) = (false, false, false, false);
            self.document = document.map(str::to_owned);
        }
    }

    /// Takes `Page.frameNavigated` and `Page.lifecycleEvent` of the page's own session.
    pub(super) fn take(&mut self, method: &str, params: &Value) {
        if method == "Page.frameNavigated" {
            if params["frame"]["parentId"].is_null() {
                self.expect(params["frame"]["loaderId"].as_str());
            }
            return;
        }
        if self.document.is_none() || params["loaderId"].as_str() != self.document.as_deref() {
            return;
        }
        match params["name"].as_str() {
            Some("firstPaint" | "firstContentfulPaint") => self.painted = true,
            Some("load") => self.loaded = true,
            Some("networkIdle") => self.network_idle = true,
            _ => {}
        }
    }

    /// Takes what the page said. What a document says that is being left counts for nothing.
    pub(super) fn hear(&mut self, word: Word) {
        match word {
            Word::Start => self.started |= self.document.is_some(),
            Word::End => self.ended |= self.document.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shown_document_is_idle() {
        let mut state = PageState::default();
        let mut take = |method: &str, params: Value| {
            state.take(method, &params);
            state.network_idle
        };
        let shows = |loader: &str| json!({"frame": {"loaderId": loader}});
        let idle = |loader: &str| json!({"name": "networkIdle", "loaderId": loader});
        assert!(!take("Page.lifecycleEvent", idle("a")));
        assert!(!take("Page.frameNavigated", shows("a")));
        assert!(!take("Page.lifecycleEvent", idle("frame")));
        assert!(take("Page.lifecycleEvent", idle("a")));
        assert!(take("Page.frameNavigated", json!({"frame": {"loaderId": "x", "parentId": "y"}})));
        assert!(!take("Page.frameNavigated", shows("b")));
        assert!(!take("Page.lifecycleEvent", idle("a")));
        assert!(take("Page.lifecycleEvent", idle("b")));
        state.hear(Word::Start);
        assert!(state.started);
        state.expect(None);
        state.hear(Word::Start);
        assert!(!state.network_idle && !state.started);
    }
}
