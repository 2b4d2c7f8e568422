//! Opens a page: navigates, and waits until the page's server has answered.

use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use pagecast_core::HostTime;
use pagecast_core::spec::SourceUrl;
use serde_json::{Value, json};

use super::cdp::{PendingResponse, Response};
use super::{Browser, CALL_TIMEOUT, CallError, Error, load_failure};
use crate::clock;

/// How long the server of the page may take to send the first response.
const NAVIGATION_TIMEOUT: Duration = Duration::from_secs(30);

/// A page that is being opened.
#[derive(Debug)]
pub struct PageLoad {
    url: SourceUrl,
    /// Connections that the browser had tried before.
    attempts_before: u64,
    step: Step,
    /// Method of the call that is pending, and its response; no response if the browser is gone.
    pending: (&'static str, Option<PendingResponse>),
    timeout: Duration,
    deadline: HostTime,
}

/// What a [`PageLoad`] waits for.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The response to the navigation, which comes with the first response of the page's server.
    Navigation,
    /// The response to the reload of a document whose URL differs only in the fragment.
    Reload,
    /// The document of that reload.
    Document,
    /// The HTTP status of the document.
    Status,
}

impl PageLoad {
    pub(super) fn start(browser: &Browser, url: &SourceUrl) -> Self {
        browser.shared.update(|s| {
            (s.signalled_end, s.oversized_video) = (false, None);
            s.expect_document(None);
        });
        let mut load = Self {
            url: url.clone(),
            attempts_before: browser.egress_failures.attempt_count(),
            step: Step::Navigation,
            pending: ("", None),
            timeout: Duration::ZERO,
            deadline: clock::now(),
        };
        load.call(browser, "Page.navigate", json!({"url": url.reveal()}), NAVIGATION_TIMEOUT);
        load
    }

    /// Returns the result once the page's server has answered or the page cannot be opened; before, `None`
    /// until the waker of the page is woken or [`PageLoad::deadline`] has passed. Not called again after a
    /// result.
    ///
    /// # Errors
    /// [`Error::Navigation`], [`Error::AddressDenied`], [`Error::HttpStatus`], [`Error::NavigationTimeout`],
    /// or [`Error::CdpCall`] if the browser is gone.
    pub fn poll(&mut self, browser: &Browser) -> Option<Result<(), Error>> {
        self.try_poll(browser).transpose()
    }

    /// When the browser must have answered.
    #[must_use]
    pub fn deadline(&self) -> HostTime {
        self.deadline
    }

    fn try_poll(&mut self, browser: &Browser) -> Result<Option<()>, Error> {
        loop {
            match self.step {
                Step::Navigation => {
                    let Some(answer) = self.try_receive()? else { return Ok(None) };
                    self.handle_navigation(browser, &answer)?;
                }
                Step::Reload => {
                    let Some(_) = self.try_receive()? else { return Ok(None) };
                    self.step = Step::Document;
                    self.deadline = clock::now() + CALL_TIMEOUT;
                }
                Step::Document => {
                    let missing = browser.shared.lock().0.loader_id.is_none();
                    if missing && clock::now() < self.deadline {
                        return Ok(None);
                    }
                    self.query_status(browser);
                }
                Step::Status => {
                    let Some(answer) = self.try_receive()? else { return Ok(None) };
                    return check_http_status(&self.url, &answer).map(Some);
                }
            }
        }
    }

    fn handle_navigation(&mut self, browser: &Browser, answer: &Value) -> Result<(), Error> {
        match answer["loaderId"].as_str() {
            // The page may already have navigated to yet another document.
            Some(document) => browser.shared.update(|s| {
                if s.loader_id.is_none() {
                    s.expect_document(Some(document));
                }
            }),
            // Without a new loader only the fragment of the URL differs, and the document stayed.
            None if answer["errorText"].is_null() => {
                self.step = Step::Reload;
                self.call(browser, "Page.reload", json!({"ignoreCache": true}), CALL_TIMEOUT);
                return Ok(());
            }
            None => {}
        }
        match answer["errorText"].as_str() {
            // This code stands for an error status with an empty body: the status is the better error.
            Some("net::ERR_HTTP_RESPONSE_CODE_FAILURE") | None => {
                self.query_status(browser);
                Ok(())
            }
            Some(reason) => {
                bring_to_front(browser);
                let failure = browser.egress_failures.failure_since(self.attempts_before, self.url.host());
                Err(load_failure::navigation_error(&self.url, reason, failure))
            }
        }
    }

    /// Asks for the HTTP status of the main document; 0 if it did not come from a server.
    fn query_status(&mut self, browser: &Browser) {
        bring_to_front(browser);
        let expression = "performance.getEntriesByType('navigation')[0]?.responseStatus ?? 0";
        self.step = Step::Status;
        let params = json!({"expression": expression, "returnByValue": true});
        self.call(browser, "Runtime.evaluate", params, CALL_TIMEOUT);
    }

    fn call(&mut self, browser: &Browser, method: &'static str, params: Value, timeout: Duration) {
        let waker = Some(&browser.shared.waker);
        self.pending = (method, browser.cdp.start_call(&browser.session, method, params, waker));
        (self.timeout, self.deadline) = (timeout, clock::now() + timeout);
    }

    /// Returns the result of the pending call; `None` if it has not arrived.
    fn try_receive(&self) -> Result<Option<Value>, Error> {
        let (method, Some(response)) = (self.pending.0, &self.pending.1) else {
            return Err(CallError::Closed.into());
        };
        match response.try_recv() {
            Ok(Response { result: Ok(result), .. }) => Ok(Some(result)),
            Ok(Response { result: Err(message), .. }) => {
                tracing::debug!(method, message, "DevTools call failed");
                Err(CallError::ErrorResponse { method, message }.into())
            }
            Err(TryRecvError::Disconnected) => Err(CallError::Closed.into()),
            Err(TryRecvError::Empty) if clock::now() >= self.deadline => {
                tracing::debug!(method, timeout = ?self.timeout, "DevTools call timed out");
                Err(Error::NavigationTimeout { url: self.url.to_string(), after: self.timeout })
            }
            Err(TryRecvError::Empty) => Ok(None),
        }
    }
}

/// Moves the focus into the page. Otherwise it stays in the browser's hidden address field, and a list that
/// the page opens closes at once.
fn bring_to_front(browser: &Browser) {
    browser.cdp.send(&browser.session, "Page.bringToFront", json!({}));
}

fn check_http_status(url: &SourceUrl, answer: &Value) -> Result<(), Error> {
    match answer["result"]["value"].as_u64().and_then(|s| u16::try_from(s).ok()) {
        Some(status) if status >= 400 => Err(Error::HttpStatus { url: url.to_string(), status }),
        _ => Ok(()),
    }
}
