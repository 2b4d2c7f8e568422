//! One cast: carries out what [`pagecast_core::cast::StateMachine`] decides, with a page, encoders and
//! outputs.

mod assignment;
mod changes;
mod driver;
mod evidence;
mod hang;
mod pipeline;
mod pushes;
mod recording;
mod report;
mod room;
mod wakeup;
mod warm_browser;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::Waker;
use std::time::Duration;

use pagecast_core::cast::{EndReason, Event, HealthFault, LoadError, Warning};
use pagecast_core::ledger::LedgerRow;
use pagecast_core::spec::StorageKeys;
use pagecast_core::wake::SharedWaker;
use pagecast_core::{HostTime, SpecError};
use pagecast_media::{encode, push, record};
use pagecast_page::browser::{self, CallError, TrustError};
use pagecast_page::clock;
use serde::{Deserialize, Serialize};

pub use assignment::{Assignment, CastPaths};
pub use changes::{Change, ChangeReceiver, ChangeSender, change_queue};
pub use hang::Hang;
pub use pagecast_media::record::upload::{
    RecordedFile, State as UploadState, Status as UploadStatus, UploadReport,
};
pub use pagecast_room::publish::{LayerStatus as RoomLayer, Status as RoomStatus};
pub(crate) use pushes::apply_change as change_pushes;
pub use pushes::{PushEvent, PushReport};
use recording::PendingUpload;
pub(crate) use report::end_reason_code;
pub use report::{CpuMs, PeakRss, Progress, Report, TimelineEntry};
use wakeup::Wakeup;
pub use warm_browser::WarmBrowser;
pub(crate) use warm_browser::{page_config, sample_queue, tick_queue};

/// Why a cast could not start, or ended before it was stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description of the cast is invalid.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The page could not be opened, or its browser failed.
    #[error(transparent)]
    Page(#[from] pagecast_page::Error),
    /// An encoder failed.
    #[error(transparent)]
    Encode(#[from] encode::Error),
    /// The recording could not be written.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The storage refuses the recording until its configuration is fixed.
    #[error("cannot store the recording: {0}")]
    Storage(String),
    /// The upload did not finish in time; the spool still holds the recording.
    #[error("the recording is complete but not uploaded ({error}): upload it with `pagecast recover \
             {}`", spool.display())]
    NotStored {
        /// Folder of the spool.
        spool: PathBuf,
        /// Why the upload did not finish.
        error: String,
    },
    /// A push could not be started.
    #[error(transparent)]
    Push(#[from] push::Error),
    /// The cast could not be published in its room.
    #[error("room connection failed: {0}")]
    Room(String),
    /// A thread of the room could not be started.
    #[error("cannot start the room's thread")]
    StartRoom(#[source] std::io::Error),
    /// The page failed its health checks with every browser it was allowed.
    #[error("{}", gave_up_message(*.0, *.1))]
    GaveUp(HealthFault, u32),
    /// The cast ended before there was anything to record.
    #[error("{}: nothing was recorded", nothing_recorded_message(*.0))]
    NothingRecorded(EndReason),
    /// A thread panicked.
    #[error("a bug: the thread {0} panicked")]
    Panic(&'static str),
}

impl From<browser::Error> for Error {
    fn from(error: browser::Error) -> Self {
        Self::Page(error.into())
    }
}

/// What kind of thing failed; decides the exit code of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A value in the description of the cast.
    Value,
    /// The page: it could not be opened, or was never ready.
    Page,
    /// An output: recording, storage or room.
    Output,
    /// A file of the recording exists already.
    OutputExists,
    /// The spool holds a recording that was not finished.
    OutputUnfinished,
    /// The browser, or the page in it.
    Browser,
    /// Anything else: a bug, or an encoder.
    Unexpected,
}

impl Error {
    /// Returns what kind of thing failed.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Spec(_) => FailureKind::Value,
            Self::Page(pagecast_page::Error::Browser(error)) => match error {
                browser::Error::Navigation { .. }
                | browser::Error::AddressDenied { .. }
                | browser::Error::HttpStatus { .. }
                | browser::Error::NavigationTimeout { .. } => FailureKind::Page,
                browser::Error::InvalidSetting { .. }
                | browser::Error::CdpCall(CallError::InvalidSelector(_)) => FailureKind::Value,
                _ => FailureKind::Browser,
            },
            Self::Page(pagecast_page::Error::TrustStore(TrustError::Certificate { .. })) => {
                FailureKind::Value
            }
            Self::NothingRecorded(_)
            | Self::GaveUp(HealthFault::StartTimeout | HealthFault::Unreachable, _) => FailureKind::Page,
            Self::Page(_) | Self::GaveUp(..) => FailureKind::Browser,
            Self::Record(record::Error::Exists(_)) => FailureKind::OutputExists,
            Self::Record(record::Error::Unfinished(_)) => FailureKind::OutputUnfinished,
            Self::Record(_) | Self::Storage(_) | Self::NotStored { .. } | Self::Room(_) => {
                FailureKind::Output
            }
            Self::Encode(_) | Self::Push(_) | Self::StartRoom(_) | Self::Panic(_) => FailureKind::Unexpected,
        }
    }
}

impl Error {
    /// Returns why the page could not be loaded, if that is the failure.
    #[must_use]
    pub fn load_error(&self) -> Option<LoadError> {
        match self {
            Self::Page(pagecast_page::Error::Browser(error)) => error.load_error(),
            _ => None,
        }
    }
}

fn nothing_recorded_message(reason: EndReason) -> &'static str {
    match reason {
        EndReason::PageEnded => "the page ended the cast before it was shown",
        EndReason::MaxTime => "the maximum time was over before the page was ready",
        EndReason::VideoTooLarge => "the page played a video above the size limit before it was shown",
        _ => "the cast ended before the page was shown",
    }
}

fn gave_up_message(fault: HealthFault, attempts: u32) -> String {
    let problem = match fault {
        HealthFault::StartTimeout => "the page never reported that it was ready",
        HealthFault::Freeze => "the page froze repeatedly",
        HealthFault::Blank => "the page was blank repeatedly",
        HealthFault::Crash => "the page crashed repeatedly",
        HealthFault::Unreachable => "the page could not be opened again",
    };
    let browsers = if attempts == 1 { "one browser".to_owned() } else { format!("{attempts} browsers") };
    format!("{problem}: gave up after {browsers}")
}

/// Stops a cast from outside; clones share one state.
#[derive(Debug, Clone, Default)]
pub struct StopToken {
    requested: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    restart_requested: Arc<AtomicBool>,
    /// Woken by all requests.
    waker: SharedWaker,
    /// Time of the last [`StopToken::is_requested`], on the clock of the page; 0 before the first.
    last_checked_at: Arc<AtomicI64>,
}

impl StopToken {
    /// Requests that the cast stop. Takes a lock, so that a signal handler must not call it.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Requests that the cast's process be killed and its spool left as it is, for another worker to resume.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Requests that the cast's process be killed and replaced by another one, which resumes the cast.
    pub fn request_restart(&self) {
        self.restart_requested.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Returns whether a restart was requested since the last call, and clears the request.
    pub(crate) fn take_restart_request(&self) -> bool {
        self.restart_requested.swap(false, Ordering::AcqRel)
    }

    /// Sets who is woken by a request.
    pub(crate) fn set_waker(&self, waker: Waker) {
        self.waker.set(waker);
    }

    /// Returns whether the cast was abandoned to another worker.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Returns whether a stop was requested since the last call, and clears the request.
    pub(crate) fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::AcqRel)
    }

    /// Returns whether a stop was requested. The main loop of a cast calls this once a second at least, which
    /// shows that it runs: see [`StopToken::time_since_check`].
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.last_checked_at.store(clock::now().0, Ordering::Relaxed);
        self.requested.load(Ordering::Acquire)
    }

    /// Time since the last [`StopToken::is_requested`]; zero before the first, as the main loop has not
    /// started.
    pub(crate) fn time_since_check(&self) -> Duration {
        match self.last_checked_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => clock::now().since(HostTime(at)),
        }
    }
}

/// What a cast reports while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CastEvent {
    /// A step in the life of the cast.
    Lifecycle(Event),
    /// Progress of the cast, about once a second.
    Progress(Progress),
    /// State of a push, changed or repeated.
    Push(PushEvent),
    /// Status of the room: about once a second, and at each change of state.
    Room(RoomStatus),
    /// Status of the recording's upload.
    Upload(UploadStatus),
    /// Rows of the recording's ledger that have changed.
    Ledger(Vec<LedgerRow>),
    /// The cast's process died, and a new process resumed the cast.
    Restarted,
    /// The cast's lease has ended: it publishes and stores nothing more.
    Isolated {
        /// Whether it goes on recording to its spool.
        is_recording: bool,
    },
    /// The recording stopped while the cast continues; the outcome has the reason.
    RecordingStopped,
    /// A snapshot was written to this file, or (`false`) could not be.
    Snapshot(PathBuf, bool),
    /// Why the cast is about to fail, as a message, and the load error if the page could not be loaded.
    FailureReason(String, Option<LoadError>),
    /// A warning for the page's owner; each is reported once.
    Warning(Warning),
    /// The page could not be opened for this reason, and will be tried again.
    LoadRetry(String),
}

/// A cast that failed: the error, and a report of what was recorded until then.
#[derive(Debug)]
pub struct Failure {
    /// Why the cast failed.
    pub error: Error,
    /// What was recorded, if the cast got so far.
    pub report: Option<Box<Report>>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), report: None }
    }
}

/// Runs a cast until it ends or `stop` requests it. `started` is when the user requested the cast, on the
/// clock of the page. A warm browser is used if it is compatible with the cast. `changes` are applied as they
/// arrive.
///
/// # Errors
/// [`Failure`]; whatever was recorded until then is kept and plays.
pub fn run(
    assignment: &Assignment,
    started: HostTime,
    stop: &StopToken,
    warm: Option<WarmBrowser>,
    changes: &ChangeReceiver,
    mut on_event: impl FnMut(CastEvent),
) -> Result<Report, Failure> {
    assignment.validate()?;
    let wakeup = Wakeup::new();
    let outputs = pipeline::Prepared::open(assignment, wakeup.waker())?;
    driver::Driver::new(assignment, started, wakeup, (stop, changes), warm, outputs, &mut on_event).run()
}

/// Finishes and uploads what earlier processes recorded for this cast. If their spool is not here, playlists
/// are completed from the ledger, and the report names what is missing.
///
/// # Errors
/// [`Failure`]; what is not uploaded stays in the spool.
pub fn finish(
    assignment: &Assignment,
    stop: &StopToken,
    mut on_event: impl FnMut(CastEvent),
) -> Result<Report, Failure> {
    let mut report = Report::default();
    let Some(spool) = assignment.spool_config() else { return Ok(report) };
    if !assignment.has_unfinished_recording() {
        return Ok(report);
    }
    if !spool.folder.exists()
        && let Some(receipt) = spool.receipt.as_deref().and_then(UploadReport::read)
    {
        // The receipt is written when all of the spool is uploaded, before the spool is removed.
        report.recording = Some(receipt);
        return Ok(report);
    }
    let (timeout, control) = (spool.recording.upload_timeout, (stop, &Wakeup::new()));
    let upload =
        if assignment.is_left { PendingUpload::open_left(&spool)? } else { PendingUpload::recover(spool)? };
    match driver::wait_for_upload(upload, timeout, control, &mut on_event, &mut report) {
        Ok(()) => Ok(report),
        Err(error) => Err(Failure { error, report: Some(Box::new(report)) }),
    }
}

/// Finishes and uploads the recording in a spool that no process is using. Keys of buckets come from the
/// environment; `keys` are those of video on demand. `timeout` bounds the wait for the storage.
///
/// # Errors
/// [`Error::Record`], or [`Error::NotStored`] after `timeout`, or when `stop` is requested.
pub fn recover(
    spool: &Path,
    keys: Option<&StorageKeys>,
    timeout: Duration,
    stop: &StopToken,
    mut on_event: impl FnMut(CastEvent),
) -> Result<UploadReport, Error> {
    let mut report = Report::default();
    let (upload, control) = (PendingUpload::open(spool, keys)?, (stop, &Wakeup::new()));
    driver::wait_for_upload(upload, timeout, control, &mut on_event, &mut report)?;
    Ok(report.recording.unwrap_or_default())
}
