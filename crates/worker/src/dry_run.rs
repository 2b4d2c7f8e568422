//! A dry run: opens a page once, as for a cast, observes it for some seconds without outputs, and reports
//! what it found.
//!
//! [`run`] is called in a process of its own, which the supervisor kills if the page makes it hang.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pagecast_core::cast::Warning;
use pagecast_core::dry_run::{
    ConsoleMessage, DryRunProblem, DryRunReport, DryRunWarning, MAX_CONSOLE_MESSAGES, MAX_FAILED_REQUESTS,
    MAX_PICTURE_BYTES, MAX_PICTURE_WIDTH, SoundStats,
};
use pagecast_core::spec::ReadySignal;
use pagecast_core::{CastSpec, HostTime};
use pagecast_media::still;
use pagecast_page::browser::{self, Browser, CallError, PageState};
use pagecast_page::{Page, clock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cast::{self, page_config, sample_queue, tick_queue};
use crate::process::FailureInfo;
use crate::usage::{self, BrowserUsage};

/// Longest dry run, browser start included: people wait for it.
const MAX_TIME: Duration = Duration::from_secs(18);
/// Longest time until the page's server answers.
const LOAD_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a loaded page is observed: long enough for sound to begin and for measurements to settle.
const OBSERVATION_TIME: Duration = Duration::from_secs(8);
/// Shortest observation of a page on which nothing happens.
const MIN_OBSERVATION_TIME: Duration = Duration::from_secs(4);
/// How long a page must have been still and silent for that.
const STILL_TIME: Duration = Duration::from_secs(3);
/// How long a loaded page may take to paint: an empty one never does.
const EMPTY_PAGE_GRACE: Duration = Duration::from_millis(300);
/// How long the document of an error has to be painted.
const ERROR_PAGE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the page is observed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often CPU time and memory are measured: each time reads a dozen files of `/proc`.
const USAGE_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for an answer of the page's scripts.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Characters that are kept of a title.
const MAX_TITLE_CHARS: usize = 300;
/// Loudest sample that counts as silence: −80 dB.
const SILENCE: f32 = 1e-4;

/// Result of a dry run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DryRunOutcome {
    /// What was found.
    pub report: DryRunReport,
    /// Why a cast would fail, if it would; [`DryRunReport::problem`] says the same.
    pub failure: Option<FailureInfo>,
}

impl DryRunOutcome {
    /// Outcome of a dry run that ended with this error.
    pub(crate) fn failed(mut report: DryRunReport, error: &DryRunError) -> Self {
        let message = error.message();
        report.problem = Some(DryRunProblem { kind: error.kind().to_owned(), message: message.clone() });
        let (kind, cause) = match error {
            DryRunError::Cast(error) => (error.kind(), error.load_error()),
            DryRunError::NotReady(_) => (cast::FailureKind::Page, None),
            DryRunError::VideoTooLarge(_) | DryRunError::Unresponsive => (cast::FailureKind::Browser, None),
            DryRunError::Thread(_) | DryRunError::Ended(_) => (cast::FailureKind::Unexpected, None),
        };
        Self { report, failure: Some(FailureInfo { cause, ..FailureInfo::new(kind, message) }) }
    }
}

/// Why a cast of a page would fail.
#[derive(Debug)]
pub(crate) enum DryRunError {
    /// The page or its browser failed.
    Cast(cast::Error),
    /// The page was not ready in time; the text says what is missing.
    NotReady(String),
    /// The page plays a video that is larger than allowed.
    VideoTooLarge((u32, u32)),
    /// Neither page nor browser answered.
    Unresponsive,
    /// A thread could not be started.
    Thread(std::io::Error),
    /// The process of the dry run has ended; the text is its exit status.
    Ended(String),
}

impl<E: Into<cast::Error>> From<E> for DryRunError {
    fn from(error: E) -> Self {
        Self::Cast(error.into())
    }
}

impl DryRunError {
    /// Stable identifier for programs.
    fn kind(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "not-ready",
            Self::VideoTooLarge(_) => "video-too-large",
            Self::Unresponsive => "unresponsive",
            Self::Cast(cast::Error::Page(pagecast_page::Error::Browser(error))) => match error {
                browser::Error::PageCrashed => "crashed",
                browser::Error::MemoryLimit { .. } => "memory-limit",
                browser::Error::DiskLimit { .. } => "disk-limit",
                browser::Error::InvalidSetting { .. }
                | browser::Error::CdpCall(CallError::InvalidSelector(_)) => "invalid-value",
                error => error.load_error().map_or("browser", |error| error.kind()),
            },
            Self::Cast(error) if error.kind() == cast::FailureKind::Value => "invalid-value",
            Self::Cast(_) | Self::Thread(_) | Self::Ended(_) => "browser",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Cast(error) => crate::chain(error),
            Self::NotReady(missing) => missing.clone(),
            Self::VideoTooLarge((width, height)) => {
                format!("the page plays a video of {width}x{height}, which is larger than allowed")
            }
            Self::Unresponsive => "the page kept its browser from answering".to_owned(),
            Self::Thread(error) => format!("cannot start a thread: {error}"),
            Self::Ended(status) => format!("the process of the dry run ended unexpectedly ({status})"),
        }
    }
}

/// Opens the page of this cast without outputs, and observes it.
#[must_use]
pub fn run(spec: &CastSpec) -> DryRunOutcome {
    let mut report = DryRunReport { url: spec.source.url.to_string(), ..DryRunReport::default() };
    match observe_page(spec, &mut report) {
        Ok(()) => DryRunOutcome { report, failure: None },
        Err(error) => DryRunOutcome::failed(report, &error),
    }
}

fn observe_page(spec: &CastSpec, report: &mut DryRunReport) -> Result<(), DryRunError> {
    let started = clock::now();
    spec.validate().map_err(cast::Error::from)?;
    let ((tick_sender, ticks), (sample_sender, samples)) = (tick_queue(), sample_queue());
    let mut config = page_config(spec);
    config.policy.log_requests = true;
    let page = Page::start(config, tick_sender, sample_sender)?;
    discard(ticks).and_then(|()| discard(samples)).map_err(DryRunError::Thread)?;
    let browser = page.browser()?;
    let features = ask(browser, "Runtime.evaluate", json!({"expression": include_str!("dry_run/codecs.js")}));
    report.codecs = serde_json::from_value(features.unwrap_or_default()).unwrap_or_default();
    let mut observation = Observation::new(spec, &page, browser, started);
    let result = observation.run();
    observation.fill_in(report);
    result
}

/// Receives what nobody needs, on a thread that ends with the page.
fn discard<T: Send + 'static>(receiver: Receiver<T>) -> std::io::Result<()> {
    let receive = move || receiver.into_iter().for_each(drop);
    std::thread::Builder::new().name("discard".into()).spawn(receive).map(drop)
}

/// Evaluates a script, which returns JSON; `None` if there is no answer in time.
fn ask(browser: &Browser, method: &'static str, mut params: Value) -> Option<Value> {
    params["returnByValue"] = true.into();
    params["awaitPromise"] = true.into();
    let answer = browser.call_within(method, params, SCRIPT_TIMEOUT).ok()?;
    Some(answer["result"]["value"].clone())
}

/// CPU time and number of frames at a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: HostTime,
    cpu_seconds: f64,
    frames: u64,
}

/// What is observed of a page.
struct Observation<'a> {
    spec: &'a CastSpec,
    page: &'a Page,
    browser: &'a Browser,
    /// When the dry run must end.
    ends_at: HostTime,
    opened_at: HostTime,
    /// Whether the page's server has sent a document, be it that of an error.
    has_document: bool,
    /// Whether the page was opened.
    is_open: bool,
    loaded_at: Option<HostTime>,
    ready_at: Option<HostTime>,
    /// When the picture or the sound last changed.
    active_at: HostTime,
    frames: u64,
    sound: SoundStats,
    usage: BrowserUsage,
    usage_due_at: HostTime,
    /// Measurements at the beginning and the end of the observation.
    samples: Option<(Sample, Sample)>,
    state: PageState,
}

impl<'a> Observation<'a> {
    fn new(spec: &'a CastSpec, page: &'a Page, browser: &'a Browser, started: HostTime) -> Self {
        let now = clock::now();
        Self {
            spec,
            page,
            browser,
            ends_at: started + MAX_TIME,
            opened_at: now,
            has_document: false,
            is_open: false,
            loaded_at: None,
            ready_at: None,
            active_at: now,
            frames: 0,
            sound: SoundStats::default(),
            usage: BrowserUsage::default(),
            usage_due_at: now,
            samples: None,
            state: PageState::default(),
        }
    }

    /// Opens the page and observes it.
    fn run(&mut self) -> Result<(), DryRunError> {
        if let Err(error) = self.open() {
            if error.kind() == "http-status" {
                self.has_document = true;
                let _painted = self.browser.wait_until(ERROR_PAGE_TIMEOUT, |state| state.painted);
            }
            return Err(error);
        }
        (self.has_document, self.is_open) = (true, true);
        self.page.start_capture();
        let observed = self.observe();
        self.measure();
        observed
    }

    fn open(&mut self) -> Result<(), DryRunError> {
        self.opened_at = clock::now();
        let deadline = self.opened_at + LOAD_TIMEOUT;
        let mut load = self.browser.open(&self.spec.source.url);
        loop {
            if let Some(result) = load.poll(self.browser) {
                return Ok(result?);
            }
            if clock::now() >= deadline {
                // A document whose scripts do not end keeps the browser from answering, too.
                self.has_document = self.browser.document_status().is_some();
                let url = self.spec.source.url.to_string();
                return match self.has_document {
                    true => Err(DryRunError::Unresponsive),
                    false => Err(browser::Error::NavigationTimeout { url, after: LOAD_TIMEOUT }.into()),
                };
            }
            self.browser.wait_until(POLL_INTERVAL, |_| false)?;
        }
    }

    fn observe(&mut self) -> Result<(), DryRunError> {
        let ready_timeout = Some(self.spec.readiness.timeout).filter(|timeout| !timeout.is_zero());
        let ready_deadline = ready_timeout.map_or(self.ends_at, |timeout| self.opened_at + timeout);
        loop {
            let now = clock::now();
            self.update(now)?;
            let is_late = now >= ready_deadline || now >= self.ends_at;
            if let Some(missing) = self.missing_condition().filter(|_| is_late && self.ready_at.is_none()) {
                let waited_s = now.since(self.opened_at).as_secs();
                return Err(DryRunError::NotReady(format!(
                    "the page was not ready after {waited_s} s: {missing}"
                )));
            }
            if self.is_complete(now) || self.state.signalled_end {
                return Ok(());
            }
            self.browser.wait_until(POLL_INTERVAL, |_| false)?;
        }
    }

    /// Whether enough was observed.
    fn is_complete(&self, now: HostTime) -> bool {
        let begun = self.loaded_at.zip(self.ready_at).map(|(loaded, ready)| loaded.max(ready));
        let is_still = now >= self.active_at + STILL_TIME;
        let enough =
            |begun| now >= begun + OBSERVATION_TIME || is_still && now >= begun + MIN_OBSERVATION_TIME;
        now >= self.ends_at || begun.is_some_and(enough)
    }

    /// Observes picture, sound, usage and state of the page.
    fn update(&mut self, now: HostTime) -> Result<(), DryRunError> {
        self.state = self.browser.state();
        let sound = self.page.sound.stats();
        self.sound.streams = self.sound.streams.max(sound.streams_playing);
        for (loudest, peak) in self.sound.peak.iter_mut().zip(sound.peak) {
            // Samples can be infinite, which JSON cannot express.
            *loudest = loudest.max(peak).min(f32::MAX);
        }
        let frames = self.page.display.stats().changes();
        if std::mem::replace(&mut self.frames, frames) != frames || sound.peak.iter().any(|p| *p > SILENCE) {
            self.active_at = now;
        }
        if self.state.loaded {
            self.loaded_at.get_or_insert(now);
        }
        if now >= self.usage_due_at {
            self.measure();
        }
        self.check_limits()?;
        if self.ready_at.is_none() && self.is_ready(now)? {
            self.ready_at = Some(now);
            // What the start of the page costs is over.
            self.samples = None;
            self.measure();
        }
        Ok(())
    }

    /// Whether the page would be shown now.
    fn is_ready(&self, now: HostTime) -> Result<bool, DryRunError> {
        let painted = self.state.painted || self.loaded_at.is_some_and(|at| now >= at + EMPTY_PAGE_GRACE);
        if !painted || self.missing_signal().is_some() {
            return Ok(false);
        }
        let Some(selector) = &self.spec.readiness.selector else { return Ok(true) };
        match self.browser.has_visible_match(selector) {
            Err(error @ CallError::InvalidSelector(_)) => Err(browser::Error::from(error).into()),
            // The page is busy, or the browser is gone.
            found => Ok(found.unwrap_or(false)),
        }
    }

    /// The signal or state that is missing until the page is ready.
    fn missing_signal(&self) -> Option<&'static str> {
        let readiness = &self.spec.readiness;
        match readiness.signal {
            ReadySignal::Webcast if !self.state.signalled_ready => Some("it has not called onWebcastStart()"),
            ReadySignal::NotifyReady if !self.state.signalled_ready => {
                Some("it has not called notifyReady()")
            }
            _ if readiness.network_idle && !self.state.network_idle => Some("its network is not idle"),
            _ => None,
        }
    }

    /// What the description asks for and the page lacks.
    fn missing_condition(&self) -> Option<&'static str> {
        let selector = self.spec.readiness.selector.is_some();
        self.missing_signal().or_else(|| selector.then_some("no visible element matches the selector"))
    }

    fn check_limits(&self) -> Result<(), DryRunError> {
        let limits = &self.spec.limits;
        let (used, allowed) = (self.usage.rss_bytes, limits.memory_bytes);
        if used > allowed {
            return Err(browser::Error::MemoryLimit { used, allowed }.into());
        }
        let disk = self.page.disk_usage();
        let (used, allowed) =
            (disk.used_bytes, usage::allowed_disk_bytes(limits.disk_bytes, disk.free_bytes));
        if used > allowed {
            return Err(browser::Error::DiskLimit { used, allowed }.into());
        }
        self.state.oversized_video.map_or(Ok(()), |size| Err(DryRunError::VideoTooLarge(size)))
    }

    /// Measures CPU time, memory and frames.
    fn measure(&mut self) {
        let now = clock::now();
        self.usage_due_at = now + USAGE_INTERVAL;
        self.usage = usage::browser_usage(self.browser.pid());
        let cpu_seconds = self.usage.cpu_seconds + usage::own_cpu().as_secs_f64();
        let sample = Sample { at: now, cpu_seconds, frames: self.page.display.stats().changes() };
        self.samples.get_or_insert((sample, sample)).1 = sample;
    }

    /// Enters what was found into the report.
    fn fill_in(&self, report: &mut DryRunReport) {
        let since_open =
            |at: HostTime| u64::try_from(at.since(self.opened_at).as_millis()).unwrap_or(u64::MAX);
        report.load_ms = self.loaded_at.map(since_open);
        report.ready_ms = self.ready_at.map(since_open);
        report.http_status = self.browser.document_status();
        report.sound = self.sound;
        report.memory_bytes = self.usage.rss_bytes;
        if let Some((first, last)) = self.samples {
            let seconds = last.at.since(first.at).as_secs_f64();
            let rate = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
            report.cpu_cores = round(rate(last.cpu_seconds - first.cpu_seconds), 1000.0);
            report.fps = round(rate((last.frames - first.frames) as f64), 10.0);
        }
        let picture = self.page.display.snapshot().filter(|_| self.has_document);
        let is_blank = picture.as_ref().is_some_and(pagecast_core::Picture::is_white);
        let jpeg = picture.and_then(|picture| still::to_jpeg(&picture, MAX_PICTURE_WIDTH).ok());
        report.picture = jpeg
            .filter(|jpeg| jpeg.len() <= MAX_PICTURE_BYTES)
            .map(|jpeg| format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)));
        // The page's scripts may hang: nothing after this waits for them.
        let answers = self.ask_page();
        let title = answers.as_ref().and_then(|answers| answers["title"].as_str()).unwrap_or_default();
        report.title = title.chars().take(MAX_TITLE_CHARS).collect();
        report.autoplay = answers.as_ref().is_none_or(|answers| answers["autoplay"] == true);
        let (failed_requests, failed_count) = self.browser.failed_requests();
        report.failed_requests = failed_requests;
        let console = self.browser.console();
        let last = console.len().saturating_sub(MAX_CONSOLE_MESSAGES);
        let message = |message: browser::ConsoleMessage| {
            let browser::ConsoleMessage { level, text } = message;
            ConsoleMessage { level, text }
        };
        report.console = console.into_iter().skip(last).map(message).collect();
        let found = WarningFacts { is_blank, is_unresponsive: answers.is_none(), failed_count };
        report.warnings = self.warnings(&found);
    }

    /// Asks for the title, and tries to play silence with the page's rights, out of reach of its scripts;
    /// `None` if they keep the page busy, or there is no page.
    fn ask_page(&self) -> Option<Value> {
        if !self.has_document {
            return None;
        }
        let call = |method, params| self.browser.call_within(method, params, SCRIPT_TIMEOUT).ok();
        let tree = call("Page.getFrameTree", json!({}))?;
        let world = json!({"frameId": tree["frameTree"]["frame"]["id"], "worldName": "pagecast"});
        let world = call("Page.createIsolatedWorld", world)?;
        let script = json!({
            "expression": include_str!("dry_run/page.js"),
            "contextId": world["executionContextId"],
        });
        ask(self.browser, "Runtime.evaluate", script).filter(Value::is_object)
    }

    fn warnings(&self, facts: &WarningFacts) -> Vec<DryRunWarning> {
        let mut all = Vec::new();
        let mut warn = |kind: &str, message: String| {
            all.push(DryRunWarning { kind: kind.to_owned(), message });
        };
        if self.state.uses_webrtc {
            let message = "the page uses WebRTC, which may need UDP: its network allows none";
            warn(Warning::WebRtcWithoutUdp.as_str(), message.to_owned());
        }
        if self.state.insecure_tls {
            let message = "a certificate of the page's own origin was accepted without a check";
            warn(Warning::InsecureTls.as_str(), message.to_owned());
        }
        let denied = self.page.egress.denied_targets();
        if let Some(last) = denied.last() {
            let (count, host, port) = (denied.len(), &last.host, last.port);
            let targets = if count == 1 { "one target".to_owned() } else { format!("{count} targets") };
            warn("network-denied", format!("the network policy denies {targets}, such as {host}:{port}"));
        }
        if self.state.signalled_end {
            warn("page-ended", "the page called onWebcastEnd(), which ends a cast".to_owned());
        }
        if self.is_open && self.loaded_at.is_none() {
            let time_s = clock::now().since(self.opened_at).as_secs();
            warn("still-loading", format!("the page was still loading after {time_s} s"));
        }
        if self.is_open && facts.is_blank {
            warn("blank", "every pixel of the page is white".to_owned());
        }
        if self.is_open && facts.is_unresponsive {
            let timeout_s = SCRIPT_TIMEOUT.as_secs();
            warn("unresponsive", format!("the page's scripts did not answer within {timeout_s} s"));
        }
        if facts.failed_count > MAX_FAILED_REQUESTS as u64 {
            let count = facts.failed_count;
            warn("many-failed-requests", format!("{count} requests failed; the first ones are listed"));
        }
        all
    }
}

/// Facts that only warnings are made of.
struct WarningFacts {
    is_blank: bool,
    is_unresponsive: bool,
    failed_count: u64,
}

fn round(value: f64, parts: f64) -> f64 {
    (value.max(0.0) * parts).round() / parts
}
