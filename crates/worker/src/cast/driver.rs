//! Carries out what the machine decides, and tells it what happened.

mod finish;

pub(super) use finish::deliver;

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use pagecast_core::cast::{Check, EndReason, Event, Input, Machine, Output, State, Trouble, Warning};
use pagecast_core::spec::Push;
use pagecast_core::{CastSpec, Samples, Tick};
use pagecast_page::browser::{self, CallError, PageState, Ping, Rules};
use pagecast_page::{Page, clock};

use super::evidence::{self, Evidence};
use super::hang::HangWatch;
use super::line::{Line, Prepared};
use super::pushes::{self, Change};
use super::recording::Finishing;
use super::report::{Progress, Report, Turn};
use super::room::Room;
use super::{DeliveryState, Error, Failure, News, Stop};
use crate::{chain, usage};

/// Ticks on their way to the encoder. Full: a change is told with a later tick.
const TICKS: usize = 4;
/// Runs of samples on their way to the encoder (10 to 100 ms each). Full: they are lost and become silence.
const SAMPLES: usize = 256;
/// How long a page may take to draw something; after that it is shown as it is.
const PAINT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a page that is loaded may take to draw something: one that is empty never does.
const EMPTY_PAGE_GRACE: Duration = Duration::from_millis(300);
/// How often the cast looks at what it started.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// Turns kept for the report; a cast that has more is the same all the time.
const MAX_TURNS: usize = 1000;
/// How long a room that is all there is may be missing before anybody has seen the page; then the cast has
/// failed.
const ROOM_PATIENCE: Duration = Duration::from_secs(60);
/// How often a selector is looked for.
const SELECTOR_INTERVAL: Duration = Duration::from_millis(100);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the browser's CPU time and memory are measured.
const USAGE_INTERVAL: Duration = Duration::from_secs(2);

/// What the page sends into, until there is a page, and what the outputs take from, until there are outputs.
type Feed<T> = (Option<SyncSender<T>>, Option<Receiver<T>>);

/// A browser that waits for its cast.
#[derive(Debug)]
pub struct Warm {
    like: CastSpec,
    page: Page,
    ticks: Receiver<Tick>,
    samples: Receiver<Samples>,
}

impl Warm {
    /// Starts display, sound card and browser for a cast like this one.
    ///
    /// # Errors
    /// See [`pagecast_page::Error`].
    pub fn start(spec: &CastSpec) -> Result<Self, pagecast_page::Error> {
        let (ticks_in, ticks) = sync_channel(TICKS);
        let (samples_in, samples) = sync_channel(SAMPLES);
        let page = Page::start(page_config(spec), ticks_in, samples_in)?;
        Ok(Self { like: spec.clone(), page, ticks, samples })
    }
}

fn page_config(spec: &CastSpec) -> pagecast_page::Config {
    pagecast_page::Config {
        source: spec.source.clone(),
        rules: Rules {
            signal: spec.readiness.signal,
            max_video: spec.limits.max_video,
            watch_webrtc: !spec.network.udp,
        },
        network: spec.network.clone(),
        disk_bytes: spec.limits.disk_bytes,
    }
}

pub(super) struct Driver<'a> {
    spec: &'a CastSpec,
    started: Instant,
    stop: &'a Stop,
    changes: &'a Receiver<Change>,
    tell: RefCell<Teller<'a>>,
    machine: Machine,
    ticks: Feed<Tick>,
    samples: Feed<Samples>,
    page: Option<Page>,
    prepared: Option<Prepared>,
    line: Option<Line>,
    /// What is still to be stored of a recording that never began here.
    left: Option<Finishing>,
    /// What to push to, until there is a line that does.
    pushes: Vec<Push>,
    /// When the outputs began, until one of them has the page.
    begun: Option<Instant>,
    /// When the page was opened, and when it was first seen loaded.
    opened: Option<(Instant, Option<Instant>)>,
    looked: Looked,
    hangs: HangWatch<Ping>,
    evidence: Evidence,
    usage: Usage,
    /// A video that is larger than the page may play.
    large_video: Option<(u32, u32)>,
    /// What went wrong last.
    error: Option<Error>,
    timeline: Vec<Turn>,
    warnings: Vec<Warning>,
    reloads: u32,
    moves: u32,
}

/// What the last looks saw.
#[derive(Default)]
struct Looked {
    changes: u64,
    /// When the selector was looked for.
    selector: Option<Instant>,
}

/// What the browsers took: those that are gone, and the running one.
#[derive(Default)]
struct Usage {
    before_s: f64,
    now: usage::Browser,
    peak_rss_bytes: u64,
    measured: Option<Instant>,
}

struct Teller<'a> {
    tell: &'a mut dyn FnMut(News),
    told: Instant,
    /// How storing the recording got on when that was told last.
    delivery: (DeliveryState, bool, bool),
    /// It was told that nothing is recorded any more.
    unrecorded: bool,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        spec: &'a CastSpec,
        started: Instant,
        (stop, changes): (&'a Stop, &'a Receiver<Change>),
        warm: Option<Warm>,
        outputs: Prepared,
        tell: &'a mut dyn FnMut(News),
    ) -> Self {
        let (page, ticks, samples) = match warm.filter(|warm| warm.like.could_be(spec)) {
            Some(Warm { page, ticks, samples, .. }) => {
                (Some(page), (None, Some(ticks)), (None, Some(samples)))
            }
            None => {
                let (ticks, ticks_out) = sync_channel(TICKS);
                let (samples, samples_out) = sync_channel(SAMPLES);
                (None, (Some(ticks), Some(ticks_out)), (Some(samples), Some(samples_out)))
            }
        };
        Self {
            spec,
            started,
            stop,
            changes,
            tell: RefCell::new(Teller {
                tell,
                told: Instant::now(),
                delivery: Default::default(),
                unrecorded: false,
            }),
            machine: Machine::new(spec),
            ticks,
            samples,
            page,
            prepared: Some(outputs),
            line: None,
            left: None,
            pushes: spec.pushes.clone(),
            begun: None,
            opened: None,
            looked: Looked::default(),
            hangs: HangWatch::new(started),
            evidence: Evidence::new(spec.evidence.clone()),
            usage: Usage::default(),
            large_video: None,
            error: None,
            timeline: Vec::new(),
            warnings: Vec::new(),
            reloads: 0,
            moves: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Report, Failure> {
        self.give(Input::Start);
        let reason = loop {
            while let Some(output) = self.machine.poll() {
                self.carry_out(output);
            }
            if let State::Ended(reason) = self.machine.state() {
                break reason;
            }
            self.wait();
            self.observe();
            self.see_to_pushes();
            self.tell_progress();
        };
        self.finish(reason)
    }

    fn give(&mut self, input: Input) {
        self.machine.handle(clock::now(), input);
    }

    fn fail(&mut self, error: impl Into<Error>, input: Input) {
        let error = error.into();
        tracing::debug!(%error, "something failed");
        // What fails while the cast ends is a consequence of why it does.
        if !matches!(self.machine.state(), State::Stopping | State::Ended(_)) {
            self.error = Some(error);
        }
        self.give(input);
    }

    fn carry_out(&mut self, output: Output) {
        if matches!(output, Output::Open | Output::Reload) {
            // What is asked of a page on its way out may never be answered.
            self.hangs.forget(Instant::now());
        }
        match output {
            Output::Open => self.open(),
            Output::Reload => self.load(),
            Output::GoLive => self.go_live(),
            Output::Hold => self.page.iter().for_each(|page| page.hold(true)),
            Output::Look(check) => {
                let hit = self.look(check);
                self.give(Input::Looked(check, hit));
            }
            Output::KeepEvidence(trouble) => self.keep_evidence(trouble),
            Output::Stop => match (&self.line, self.prepared.take()) {
                (Some(line), _) => line.end_now(self.spec),
                (None, prepared) => {
                    self.left = prepared.and_then(Prepared::abandon);
                    self.give(Input::Drained);
                }
            },
            Output::Tell(event) => self.announce(event),
        }
    }

    /// Opens the page in a browser that was never used.
    fn open(&mut self) {
        self.measure();
        self.usage.before_s += std::mem::take(&mut self.usage.now).cpu_seconds;
        let ready = match &mut self.page {
            // Nothing was opened in it yet.
            Some(page) if self.opened.is_none() && page.browser().is_ok_and(|b| b.state().is_sound()) => {
                Ok(())
            }
            Some(page) => page.renew(),
            // The page alone sends: when its threads end, whatever the reason, the outputs do.
            none => match (self.ticks.0.take(), self.samples.0.take()) {
                (Some(ticks), Some(samples)) => {
                    Page::start(page_config(self.spec), ticks, samples).map(|page| *none = Some(page))
                }
                _ => return self.fail(Error::Panic("display"), Input::OutputFailed),
            },
        };
        match ready {
            Ok(()) => self.load(),
            Err(error) => self.fail(error, Input::OpenFailed),
        }
    }

    /// Opens the page in the browser that is there.
    fn load(&mut self) {
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return };
        let (url, size) = (&self.spec.source.url, self.spec.source.size);
        tracing::info!(%url, %size, fps = self.spec.source.fps.get(), "opening the page");
        // While it is being opened, nothing is due but the end.
        let time_is_up = self.machine.deadline();
        let given_up = || {
            self.tell_progress();
            let over = self.line.as_ref().is_some_and(Line::is_over);
            over || self.stop.asked() || time_is_up.is_some_and(|at| clock::now() >= at)
        };
        let opened = browser.open(url, &given_up);
        // The outputs may have come to their end meanwhile; then nothing else matters.
        self.observe_line();
        match opened {
            Ok(()) => {
                self.opened = Some((Instant::now(), None));
                self.looked = Looked::default();
                self.give(Input::Opened);
            }
            // What there is instead is found in a moment.
            Err(
                error @ (browser::Error::GivenUp
                | browser::Error::PageCrashed
                | browser::Error::Gone
                | browser::Error::Call(CallError::Closed)),
            ) => self.error = Some(error.into()),
            Err(error) => self.load_failed(error),
        }
    }

    /// The page's server did not answer as it should: whether that may pass decides what becomes of the cast.
    fn load_failed(&mut self, error: browser::Error) {
        let passing = error.load_error().is_some_and(|error| error.is_passing());
        let why = error.to_string();
        self.fail(error, if passing { Input::OpenFailedForNow } else { Input::OpenFailed });
        if passing && self.machine.will_retry() {
            tracing::info!(why, "the page cannot be opened yet, trying again");
            (self.tell.get_mut().tell)(News::Retrying(why));
        }
    }

    fn go_live(&mut self) {
        let Some(page) = &self.page else { return };
        self.looked.changes = page.display.stats().changes();
        // Also when nothing was live before: a page that crashed at once was held by the browser's word.
        page.hold(false);
        let (Some(ticks), Some(samples)) = (self.ticks.1.take(), self.samples.1.take()) else {
            return;
        };
        let Some(prepared) = self.prepared.take() else { return };
        if let Some(trouble) = prepared.trouble() {
            self.prepared = Some(prepared);
            return self.fail(trouble, Input::OutputFailed);
        }
        match prepared.start(ticks, samples, &self.pushes) {
            Ok(line) => {
                self.line = Some(line);
                page.begin();
                self.begun = Some(Instant::now());
                self.see_whether_shown();
            }
            Err(error) => self.fail(error, Input::OutputFailed),
        }
    }

    /// Whether somebody gets the page by now: a recording and pushes take it from the beginning, a room when
    /// there is a connection.
    fn see_whether_shown(&mut self) {
        let (State::Live, Some(begun), Some(line)) = (self.machine.state(), self.begun, &self.line) else {
            return;
        };
        match line.missing_room() {
            None => {
                self.begun = None;
                self.give(Input::Shown);
            }
            Some(room) if begun.elapsed() >= ROOM_PATIENCE => {
                self.begun = None;
                let why = room.status().error.unwrap_or_else(|| "it does not answer".into());
                self.fail(Error::Room(why), Input::OutputFailed);
            }
            Some(_) => {}
        }
    }

    /// Changes what is to be changed, and tells what happened to pushes and room.
    fn see_to_pushes(&mut self) {
        let mut news = Vec::new();
        let mut pictures = Vec::new();
        for change in self.changes.try_iter() {
            news.extend(match (change, &mut self.line) {
                (Change::Snapshot(path), _) => {
                    pictures.push(path);
                    None
                }
                (change, Some(line)) => line.change(change, self.spec.source.fps),
                (change, None) => pushes::change(&mut self.pushes, change),
            });
        }
        for path in pictures {
            let taken = self.page.as_ref().is_some_and(|page| evidence::snapshot(page, &path));
            (self.tell.get_mut().tell)(News::Snapshot(path, taken));
        }
        news.extend(self.line.iter().flat_map(Line::push_news));
        let news = news.into_iter().map(News::Push);
        let room = self.room().map(Room::news).unwrap_or_default().into_iter().map(News::Room);
        let news: Vec<_> = news.chain(room).collect();
        news.into_iter().for_each(|news| (self.tell.get_mut().tell)(news));
    }

    /// The room, live or not yet.
    fn room(&self) -> Option<&Room> {
        let live = self.line.as_ref().and_then(Line::room);
        live.or_else(|| self.prepared.as_ref().and_then(Prepared::room))
    }

    fn announce(&mut self, event: Event) {
        match event {
            Event::Reloaded(trouble) => {
                self.reloads += 1;
                tracing::info!(?trouble, "the page is loaded again");
            }
            Event::Moved(trouble) => {
                self.moves += 1;
                tracing::info!(?trouble, "the page gets a fresh browser");
            }
            Event::Live => tracing::info!("the page is live"),
            Event::Ended(reason) => tracing::info!(?reason, "the cast is over"),
        }
        if self.timeline.len() < MAX_TURNS {
            self.timeline.push(Turn { at_ms: millis(self.started.elapsed()), event });
        }
        if let Event::Ended(reason) = event
            && let Some(why) = self.why(reason)
        {
            let cause = self.error.as_ref().and_then(Error::load_error);
            let cause = cause.filter(|_| matches!(reason, EndReason::StartFailed | EndReason::GaveUp(_)));
            (self.tell.get_mut().tell)(News::Failing(why, cause));
        }
        (self.tell.get_mut().tell)(News::Event(event));
    }

    /// Why it ends too early, as far as that is known before the outputs are closed.
    fn why(&self, reason: EndReason) -> Option<String> {
        match reason {
            EndReason::GaveUp(trouble) => Some(Error::GaveUp(trouble, self.machine.attempts()).to_string()),
            EndReason::StartFailed | EndReason::OutputFailed => self.error.as_ref().map(|error| chain(error)),
            EndReason::LargeVideo => {
                let ((width, height), most) = (self.large_video?, self.spec.limits.max_video?);
                Some(format!("the page plays a video of {width}x{height}, {most} is the most that it may"))
            }
            _ => None,
        }
    }

    /// Whether the page is in trouble.
    fn look(&mut self, check: Check) -> bool {
        let Some(page) = &self.page else { return false };
        match check {
            Check::Freeze => {
                let changes = page.display.stats().changes();
                std::mem::replace(&mut self.looked.changes, changes) == changes
            }
            Check::Blank => page.display.snapshot().is_some_and(|picture| picture.is_white()),
            Check::Crash => {
                let interval = self.spec.checks.crash;
                interval.is_some_and(|interval| self.hangs.silence(Instant::now()) >= interval)
            }
        }
    }

    fn keep_evidence(&mut self, trouble: Trouble) {
        let detail = self.error.as_ref().map(|error| chain(error));
        if let Some(page) = &self.page {
            self.evidence.keep(trouble, detail.as_deref(), page);
        }
    }

    /// Sleeps until the page's state changes or something is due.
    fn wait(&self) {
        let due = self.machine.deadline().map_or(WATCH_INTERVAL, |at| at.since(clock::now()));
        let pause = due.min(WATCH_INTERVAL).max(Duration::from_millis(1));
        let stopping = matches!(self.machine.state(), State::Stopping);
        let browser = self.page.as_ref().and_then(|page| page.browser().ok()).filter(|_| !stopping);
        match browser.map(|browser| (browser, browser.state())) {
            Some((browser, seen)) if !seen.crashed && !seen.closed => {
                // Its end is seen with everything else.
                let _seen = browser.wait_until(pause, |state| *state != seen);
            }
            _ => std::thread::sleep(pause),
        }
    }

    /// Tells the machine what can be seen to have happened.
    fn observe(&mut self) {
        if self.stop.asked() {
            self.give(Input::Stop);
        }
        self.observe_line();
        let failed = |page: &Page| page.display.has_failed() || page.sound.has_failed();
        if self.page.as_ref().is_some_and(failed) {
            self.fail(Error::Panic("display or sound"), Input::OutputFailed);
            // Nothing more comes.
            self.give(Input::Drained);
        }
        if self.usage.measured.is_none_or(|at| at.elapsed() >= USAGE_INTERVAL) {
            self.measure();
        }
        self.see_whether_shown();
        self.watch_scripts();
        let state = self.page.as_ref().and_then(|page| page.browser().ok()).map(browser::Browser::state);
        if let Some(state) = &state {
            self.warn(state);
        }
        match state {
            Some(state) if state.closed => self.fail(browser::Error::Gone, Input::Crashed),
            Some(state) if state.crashed => self.fail(browser::Error::PageCrashed, Input::Crashed),
            Some(state) if state.ended => self.give(Input::PageEnded),
            Some(PageState { large_video: Some(size), .. }) => {
                self.large_video = Some(size);
                self.give(Input::LargeVideo);
            }
            Some(_) if self.usage.now.rss_bytes > self.spec.limits.memory_bytes => {
                let (used, allowed) = (self.usage.now.rss_bytes, self.spec.limits.memory_bytes);
                self.fail(browser::Error::Memory { used, allowed }, Input::Crashed);
            }
            Some(_) if let Some((used, allowed)) = self.too_much_disk() => {
                self.fail(browser::Error::Disk { used, allowed }, Input::Crashed);
            }
            Some(state) if self.machine.state() == State::Waiting && self.is_ready(&state) => {
                self.give(Input::Ready);
            }
            _ => {}
        }
        self.give(Input::Time);
    }

    /// Asks the page's scripts for a sign of life, if it is watched for that.
    fn watch_scripts(&mut self) {
        let Some(limit) = self.spec.checks.crash.filter(|_| self.machine.state() == State::Live) else {
            return;
        };
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return };
        let now = Instant::now();
        self.hangs.poll(now, Ping::is_answered, || Some(browser.ping()));
        // The next look may be almost as far away.
        if self.hangs.silence(now) >= limit {
            self.give(Input::Looked(Check::Crash, true));
        }
    }

    /// Tells once what the page's owner should know.
    fn warn(&mut self, state: &PageState) {
        let seen = [(state.webrtc, Warning::WebRtcWithoutUdp), (state.insecure_tls, Warning::InsecureTls)];
        for (_, warning) in seen.into_iter().filter(|(seen, _)| *seen) {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
                tracing::info!(warning = warning.word(), "the page's owner should know");
                (self.tell.get_mut().tell)(News::Warning(warning));
            }
        }
    }

    fn observe_line(&mut self) {
        if !self.line.as_ref().is_some_and(Line::is_over) {
            return;
        }
        match self.machine.state() {
            State::Stopping => self.give(Input::Drained),
            State::Ended(_) => {}
            _ if self.line.as_ref().is_some_and(|line| line.is_complete(self.spec)) => {
                self.give(Input::Complete);
            }
            _ => self.give(Input::OutputFailed),
        }
    }

    /// Whether the page may be shown.
    fn is_ready(&mut self, state: &PageState) -> bool {
        let Some((opened, loaded)) = &mut self.opened else { return false };
        if state.loaded && loaded.is_none() {
            *loaded = Some(Instant::now());
        }
        let drawn = state.painted
            || loaded.is_some_and(|at| at.elapsed() >= EMPTY_PAGE_GRACE)
            || opened.elapsed() >= PAINT_TIMEOUT;
        let silent = self.spec.readiness.signal == pagecast_core::spec::Signal::None;
        let agreed = (silent || state.started)
            && (state.network_idle || !self.spec.readiness.network_idle)
            && self.selector_matches();
        if agreed && !silent && !drawn {
            // What is missing comes by itself.
            self.give(Input::Called);
        }
        agreed && drawn
    }

    /// Whether there is what is waited for. The page is asked seldom: an answer takes it time.
    fn selector_matches(&mut self) -> bool {
        let Some(selector) = &self.spec.readiness.selector else { return true };
        if self.looked.selector.is_some_and(|at| at.elapsed() < SELECTOR_INTERVAL) {
            return false;
        }
        self.looked.selector = Some(Instant::now());
        let Some(Ok(browser)) = self.page.as_ref().map(Page::browser) else { return false };
        match browser.matches(selector) {
            Ok(found) => found,
            Err(error @ CallError::Selector(_)) => {
                self.fail(browser::Error::from(error), Input::OpenFailed);
                false
            }
            // It is busy, or gone.
            Err(_) => false,
        }
    }

    fn tell_progress(&self) {
        let mut teller = self.tell.borrow_mut();
        if teller.told.elapsed() >= PROGRESS_INTERVAL {
            teller.told += PROGRESS_INTERVAL;
            if let Some(progress) = self.progress() {
                (teller.tell)(News::Progress(progress));
            }
            if let Some(room) = self.line.as_ref().and_then(Line::room) {
                (teller.tell)(News::Room(room.status()));
            }
            if self.line.as_ref().is_some_and(Line::has_stopped_recording)
                && !std::mem::replace(&mut teller.unrecorded, true)
            {
                (teller.tell)(News::Unrecorded);
            }
            // How much waits changes all the time; what it is called is news.
            if let Some(status) = self.line.as_ref().and_then(Line::delivery) {
                let word = (status.state, status.backup, status.failing_since_unix_ms.is_some());
                if std::mem::replace(&mut teller.delivery, word) != word {
                    (teller.tell)(News::Delivery(status));
                }
            }
        }
    }

    fn progress(&self) -> Option<Progress> {
        let (line, page) = (self.line.as_ref()?, self.page.as_ref()?);
        let (video, display) = (&line.video_stats, page.display.stats());
        Some(Progress {
            elapsed: line.elapsed(self.spec),
            frames_captured: display.frames,
            frames_encoded: video.encoded(),
            frames_unchanged: video.unchanged(),
            frames_dropped: display.dropped,
            bytes: video.bytes() + line.audio_stats.bytes(),
            // Beyond all measure, a page can be, but a number that JSON does not have it cannot.
            peak: page.sound.stats().peak.map(|peak| peak.min(f32::MAX)),
            cpu_seconds: self.usage.before_s + self.usage.now.cpu_seconds + usage::own_cpu().as_secs_f64(),
            rss_bytes: self.usage.now.rss_bytes + usage::own_rss_bytes(),
        })
    }

    /// Bytes that the browser has on the disk and those it may have, if they are more.
    fn too_much_disk(&self) -> Option<(u64, u64)> {
        let disk = self.page.as_ref()?.disk_usage();
        let allowed = usage::disk_allowed(self.spec.limits.disk_bytes, disk.free_bytes);
        (disk.used_bytes > allowed).then_some((disk.used_bytes, allowed))
    }

    fn measure(&mut self) {
        self.usage.measured = Some(Instant::now());
        let Some(page) = &self.page else { return };
        let Ok(browser) = page.browser() else { return };
        let now = usage::browser(browser.pid());
        self.usage.peak_rss_bytes = self.usage.peak_rss_bytes.max(now.rss_bytes);
        let cpu_seconds = now.cpu_seconds.max(self.usage.now.cpu_seconds);
        self.usage.now = usage::Browser { cpu_seconds, ..now };
    }
}

pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
