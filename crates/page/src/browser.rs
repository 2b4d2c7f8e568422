//! Runs one Chromium with one page: starts it, navigates, tracks its state, and kills it with the cast.

mod cdp;
mod console;
mod context;
mod error;
mod intercept;
mod launch;
mod load_failure;
mod page_load;
mod page_signal;
mod pipe;
mod readiness;
mod request_log;
mod trace;
mod trust_store;
mod video_size;
mod webrtc;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pagecast_core::HostTime;
use pagecast_core::dry_run::FailedRequest;
use pagecast_core::spec::{ReadySignal, Size, Source, SourceUrl};
use pagecast_core::wake::SharedWaker;
use serde_json::{Value, json};

pub use cdp::Error as CallError;
pub use console::ConsoleMessage;
pub use error::Error;
pub(crate) use launch::profile_files;
pub use launch::{CHROMIUM_VARIABLE, find_chromium};
pub use page_load::PageLoad;
pub(crate) use trace::FrameTracer;
pub use trust_store::Error as TrustError;
pub(crate) use trust_store::{DATABASE_FOLDERS as TRUST_FOLDERS, create_database as trust_database};

use crate::child::{self, User};
use crate::clock::OutputMute;
use crate::egress::{ConnectionFailures, EgressProxy};
use cdp::{CdpClient, PendingResponse};
use intercept::RequestInterceptor;
use page_signal::PageSignal;
use pipe::BrowserPipe;
use request_log::RequestLog;

/// How long the browser may take to start, and to answer any single call.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a browser that closed its pipes may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that are kept of the browser's standard error, for the error of a failed start.
const MAX_STDERR_BYTES: u64 = 16 * 1024;

/// State of the page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageState {
    /// The document has painted something.
    pub painted: bool,
    /// The document and its resources were loaded.
    pub loaded: bool,
    /// The document signalled that it is ready to be shown.
    pub signalled_ready: bool,
    /// The page signalled that the cast is over.
    pub signalled_end: bool,
    /// Width and height of a video that is larger than the page may play.
    pub oversized_video: Option<(u32, u32)>,
    /// The page has set up a WebRTC connection, if [`PagePolicy::detect_webrtc`].
    pub uses_webrtc: bool,
    /// An untrusted certificate of the page's own origin was accepted.
    pub insecure_tls: bool,
    /// The network was idle for half a second since the document was loaded.
    pub network_idle: bool,
    /// Identifier of the document that this is about; `None` during a navigation.
    loader_id: Option<String>,
    /// The renderer process crashed.
    pub crashed: bool,
    /// The browser exited.
    pub closed: bool,
}

impl PageState {
    /// Whether browser and renderer are running.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.closed && !self.crashed
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<(PageState, console::ConsoleLog)>,
    /// Requests of the page, if [`PagePolicy::log_requests`].
    requests: Mutex<RequestLog>,
    changed: Condvar,
    /// Woken when the state has changed.
    waker: SharedWaker,
    trace: trace::TraceBuffer,
    /// DevTools session of the page itself; frames of other sites have their own.
    page_session: OnceLock<String>,
    /// Commands for frames; set before the first frame can be attached.
    frame_setup: OnceLock<context::FrameSetup>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (PageState, console::ConsoleLog)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_requests(&self) -> MutexGuard<'_, RequestLog> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut PageState)) {
        let mut guard = self.lock();
        let previous = guard.0.clone();
        change(&mut guard.0);
        if guard.0 != previous {
            drop(guard);
            self.changed.notify_all();
            self.waker.wake();
        }
    }
}

/// What the page may do and signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PagePolicy {
    /// The signal functions that the page gets.
    pub signal: ReadySignal,
    /// The largest video that it may play; no limit if `None`.
    pub max_video_size: Option<Size>,
    /// Whether WebRTC connections of the page are detected.
    pub detect_webrtc: bool,
    /// Whether failed requests of the page are logged, which costs the browser an event for each request.
    pub log_requests: bool,
}

/// A running browser. Killed when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    cdp: CdpClient,
    session: String,
    egress_failures: Arc<ConnectionFailures>,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

/// Surroundings and limits of a browser.
#[derive(Debug)]
pub(crate) struct LaunchConfig<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) wayland_socket: &'a Path,
    pub(crate) pulse_socket: &'a Path,
    pub(crate) egress: &'a EgressProxy,
    /// Whether it may send UDP past the egress proxy.
    pub(crate) allow_udp: bool,
    pub(crate) user: Option<User>,
    /// See [`child::SpawnOptions::isolated_run_folder`].
    pub(crate) isolated_run_folder: Option<&'a Path>,
    /// Largest file that it may write, and quota for storage of pages, in bytes.
    pub(crate) max_disk_bytes: u64,
    /// Muted when the page crashes.
    pub(crate) output_mute: &'a OutputMute,
    /// Woken when the state of the page has changed.
    pub(crate) waker: &'a SharedWaker,
}

impl Browser {
    /// Starts Chromium with an empty page; `on_spawn` is called with its process. The kernel kills it when
    /// the calling thread ends.
    pub(crate) fn start(
        source: &Source,
        policy: PagePolicy,
        config: &LaunchConfig<'_>,
        on_spawn: impl FnOnce(&Child) -> std::io::Result<()>,
    ) -> Result<Self, Error> {
        let program = find_chromium().map_err(Error::ChromiumNotFound)?;
        let fail = |source| Error::Spawn { program: program.clone(), source };
        let (commands_r, commands_w) = child::pipe().map_err(fail)?;
        let (answers_r, answers_w) = child::pipe().map_err(fail)?;
        let (stderr_r, stderr_w) = child::pipe().map_err(fail)?;
        let spec = child::SpawnOptions {
            program: &program,
            args: launch::switches(
                source,
                config.egress.address(),
                config.allow_udp,
                &config.folder.join("profile"),
                launch::StorageQuota::from_bytes(config.folder, config.max_disk_bytes),
            ),
            env: launch::environment(config.folder, config.wayland_socket, config.pulse_socket),
            folder: config.folder,
            fds: vec![commands_r, answers_w],
            user: config.user,
            isolated_run_folder: config.isolated_run_folder,
            max_file_bytes: Some(config.max_disk_bytes),
            stderr: Stdio::from(stderr_w),
        };
        let child = child::spawn(spec).map_err(fail)?;
        let shared = Arc::new(Shared { waker: config.waker.clone(), ..Shared::default() });
        let stderr = StderrCapture::start(stderr_r).map_err(fail)?;
        let intercept = RequestInterceptor::new(source);
        let intercept_commands = intercept.as_ref().map(|i| (i.page_command(), i.frame_command()));
        let insecure = source.context.tls.insecure.then(|| source.url.clone());
        let events = PageEventHandler {
            shared: Arc::clone(&shared),
            output_mute: config.output_mute.clone(),
            policy,
            interceptor: intercept,
            insecure_origin: insecure,
        };
        let answers = BrowserPipe::new(answers_r, &child);
        let (cdp, reader) = CdpClient::connect(commands_w, answers, events).map_err(fail)?;
        let mut browser = Self {
            child,
            cdp,
            session: String::new(),
            egress_failures: config.egress.failures(),
            shared,
            reader: Some(reader),
        };
        on_spawn(&browser.child).map_err(fail)?;
        let attached =
            browser.attach().and_then(|()| browser.apply_context(source, policy, intercept_commands));
        match attached {
            Err(Error::CdpCall(CallError::Closed)) => Err(browser.startup_error(program, stderr)),
            other => other.map(|()| browser),
        }
    }

    /// Starts to open a page.
    #[must_use]
    pub fn open(&self, url: &SourceUrl) -> PageLoad {
        PageLoad::start(self, url)
    }

    /// Waits until `done` is true for the state of the page, or for `timeout`. Returns the state at that
    /// moment.
    ///
    /// # Errors
    /// [`Error::PageCrashed`] and [`Error::BrowserExited`].
    pub fn wait_until(
        &self,
        timeout: Duration,
        done: impl Fn(&PageState) -> bool,
    ) -> Result<PageState, Error> {
        let start = Instant::now();
        let mut guard = self.shared.lock();
        loop {
            let state = &guard.0;
            if state.closed || self.has_exited() {
                return Err(Error::BrowserExited);
            }
            if state.crashed {
                return Err(Error::PageCrashed);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if done(state) || left.is_zero() {
                return Ok(state.clone());
            }
            guard = self.shared.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The current state of the page.
    #[must_use]
    pub fn state(&self) -> PageState {
        let mut state = self.shared.lock().0.clone();
        state.closed |= self.has_exited();
        state
    }

    /// The last messages of the page's console.
    #[must_use]
    pub fn console(&self) -> Vec<ConsoleMessage> {
        self.shared.lock().1.messages()
    }

    /// Sends a call that is answered once the page's main thread is free. The answer wakes nobody.
    #[must_use]
    pub fn ping(&self) -> PendingPing {
        let params = json!({"expression": "0"});
        PendingPing(self.cdp.start_call(&self.session, "Runtime.evaluate", params, None))
    }

    /// Calls a method of the DevTools protocol on the page.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, method: &'static str, params: Value) -> Result<Value, CallError> {
        self.call_session(&self.session, method, params)
    }

    /// Calls a method like [`Browser::call`], and waits for its answer for at most `timeout`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_within(
        &self,
        method: &'static str,
        params: Value,
        timeout: Duration,
    ) -> Result<Value, CallError> {
        self.cdp.call(&self.session, method, params, timeout)
    }

    /// HTTP status of the last document of the page, if [`PagePolicy::log_requests`] and a server answered.
    #[must_use]
    pub fn document_status(&self) -> Option<u16> {
        self.shared.lock_requests().document_status()
    }

    /// The first requests of the page that failed, if [`PagePolicy::log_requests`], and the number of all.
    #[must_use]
    pub fn failed_requests(&self) -> (Vec<FailedRequest>, u64) {
        self.shared.lock_requests().failed(&self.egress_failures)
    }

    /// Name and version of the browser, like `Chrome/156.0.8078.73`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn version(&self) -> Result<String, CallError> {
        let answer = self.call_session("", "Browser.getVersion", json!({}))?;
        Ok(answer["product"].as_str().unwrap_or("unknown").to_owned())
    }

    /// A tracer that measures how long the browser takes to draw.
    pub(crate) fn tracer(&self) -> FrameTracer {
        FrameTracer { cdp: self.cdp.clone(), shared: Arc::clone(&self.shared) }
    }

    /// Process id of the browser, which leads a session of its own.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn call_session(&self, session: &str, method: &'static str, params: Value) -> Result<Value, CallError> {
        self.cdp.call(session, method, params, CALL_TIMEOUT)
    }

    /// Whether the main process of the browser has exited. Its pipes may close much later, as helpers hold
    /// them, too.
    fn has_exited(&self) -> bool {
        child::has_exited(&self.child)
    }

    fn attach(&mut self) -> Result<(), Error> {
        let targets = self.call_session("", "Target.getTargets", json!({}))?;
        let page = targets["targetInfos"].as_array().into_iter().flatten().find(|t| t["type"] == "page");
        let target = match page {
            Some(page) => page["targetId"].clone(),
            None => self.call_session("", "Target.createTarget", json!({"url": "about:blank"}))?["targetId"]
                .clone(),
        };
        let attached =
            self.call_session("", "Target.attachToTarget", json!({"targetId": target, "flatten": true}))?;
        self.session = attached["sessionId"].as_str().unwrap_or_default().to_owned();
        // Set before the first command, so that it is known before the first event.
        let _once = self.shared.page_session.set(self.session.clone());
        self.cdp.send("", "Browser.setDownloadBehavior", json!({"behavior": "deny"}));
        for (method, params) in [
            ("Inspector.enable", json!({})),
            ("Runtime.enable", json!({})),
            ("Log.enable", json!({})),
            ("Page.setLifecycleEventsEnabled", json!({"enabled": true})),
            ("Emulation.setFocusEmulationEnabled", json!({"enabled": true})),
        ] {
            self.cdp.send(&self.session, method, params);
        }
        self.call("Page.enable", json!({}))?;
        Ok(())
    }

    fn kill_process_group(&self) {
        let group = rustix::process::Pid::from_child(&self.child);
        // Fails if all of them have exited.
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }

    /// The error for a browser that closed its pipes during startup.
    fn startup_error(&mut self, program: PathBuf, stderr: StderrCapture) -> Error {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => break "it still runs, but closed its pipes".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        // Its helpers may keep standard error open.
        self.kill_process_group();
        Error::ExitedAtStartup { program, status, stderr: stderr.into_error_lines() }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.kill_process_group();
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "waiting for the browser process failed");
        }
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            tracing::error!("cdp thread panicked");
        }
    }
}

/// Handles DevTools events of the browser, and updates the state of the page.
#[derive(Debug)]
struct PageEventHandler {
    shared: Arc<Shared>,
    output_mute: OutputMute,
    policy: PagePolicy,
    interceptor: Option<RequestInterceptor>,
    /// The page whose origin may have an untrusted certificate, if one may.
    insecure_origin: Option<SourceUrl>,
}

impl PageEventHandler {
    /// Accepts an untrusted certificate only for the page's own origin, and only if the request allows it.
    fn handle_certificate_error(&self, cdp: &CdpClient, session: &str, params: &Value) {
        let accept = params["requestURL"].as_str().is_some_and(|url| {
            // WebSockets to the page's own server count as its origin.
            let url = url.strip_prefix("wss:").map_or_else(|| url.to_owned(), |rest| format!("https:{rest}"));
            self.insecure_origin.as_ref().is_some_and(|own| own.is_same_origin(&url))
        });
        if accept {
            self.shared.update(|s| s.insecure_tls = true);
        }
        let action = if accept { "continue" } else { "cancel" };
        let answer = json!({"eventId": params["eventId"], "action": action});
        cdp.send(session, "Security.handleCertificateError", answer);
    }

    fn is_page_session(&self, session: &str) -> bool {
        self.shared.page_session.get().is_some_and(|page| page == session)
    }
}

/// A call that waits for the page's main thread.
#[derive(Debug)]
pub struct PendingPing(Option<PendingResponse>);

impl PendingPing {
    /// When the response arrived; `None` before, and for ever if the browser is gone. Later calls return
    /// `None` again.
    #[must_use]
    pub fn answered_at(&self) -> Option<HostTime> {
        Some(self.0.as_ref()?.try_recv().ok()?.received_at)
    }
}

impl cdp::EventHandler for PageEventHandler {
    fn handle_event(&mut self, cdp: &CdpClient, session: &str, method: &str, params: &Value) {
        match method {
            "Page.javascriptDialogOpening" => {
                // A page must not prevent navigation. Other dialogs only open if a page got around our
                // script: they are dismissed.
                let accept = params["type"] == "beforeunload";
                cdp.send(session, "Page.handleJavaScriptDialog", json!({"accept": accept}));
            }
            "Page.lifecycleEvent" | "Page.frameNavigated" if self.is_page_session(session) => {
                self.shared.update(|s| s.handle_event(method, params));
            }
            "Runtime.bindingCalled" => {
                if let Some(signal) = PageSignal::parse(self.policy.signal, params) {
                    self.shared.update(|s| s.handle_signal(signal));
                } else if let Some(size) = video_size::parse_oversized(self.policy.max_video_size, params) {
                    self.shared.update(|s| s.oversized_video = Some(size));
                } else if webrtc::is_connection_event(params) {
                    self.shared.update(|s| s.uses_webrtc = true);
                }
            }
            "Target.attachedToTarget" if !session.is_empty() => {
                if let Some(frames) = self.shared.frame_setup.get() {
                    frames.handle_attached(cdp, session, params);
                }
            }
            "Fetch.requestPaused" | "Fetch.authRequired" => {
                let is_page = self.is_page_session(session);
                if let Some(intercept) = &mut self.interceptor {
                    intercept.handle_event(cdp, session, is_page, method, params);
                }
            }
            "Security.certificateError" => self.handle_certificate_error(cdp, session, params),
            // Crashed frames of other sites only leave a gap in the page.
            "Inspector.targetCrashed" if self.is_page_session(session) => {
                // Immediately, before the browser shows its own error page.
                self.output_mute.mute();
                self.shared.update(|s| s.crashed = true);
            }
            "Tracing.dataCollected" => self.shared.trace.add_events(params),
            "Tracing.tracingComplete" => self.shared.trace.finish(),
            _ if self.policy.log_requests && method.starts_with("Network.") => {
                let is_page = self.is_page_session(session);
                self.shared.lock_requests().handle_event(is_page, method, params);
            }
            _ => self.shared.lock().1.handle_event(method, params),
        }
    }

    fn handle_close(&mut self) {
        self.shared.update(|s| s.closed = true);
        self.shared.trace.finish();
    }
}

/// Captures the standard error of the browser, for the error of a failed start.
#[derive(Debug)]
struct StderrCapture(JoinHandle<String>);

impl StderrCapture {
    fn start(pipe: OwnedFd) -> std::io::Result<Self> {
        let collect = move || {
            let mut reader = BufReader::new(File::from(pipe));
            let mut text = Vec::new();
            // The rest is read and dropped, or the browser would block on a full pipe.
            let _all = (&mut reader).take(MAX_STDERR_BYTES).read_to_end(&mut text);
            let _rest = std::io::copy(&mut reader, &mut std::io::sink());
            String::from_utf8_lossy(&text).into_owned()
        };
        Ok(Self(std::thread::Builder::new().name("browser-stderr".into()).spawn(collect)?))
    }

    /// Waits for the browser to exit, and returns up to three error lines.
    fn into_error_lines(self) -> String {
        let all = self.0.join().unwrap_or_default();
        let errors = all
            .as_bytes()
            .lines()
            .map_while(Result::ok)
            .filter(|l| l.contains("FATAL") || l.contains("ERROR"));
        let errors: Vec<String> = errors.take(3).collect();
        if errors.is_empty() { "it gave no reason".into() } else { errors.join("; ") }
    }
}
