//! One cast: what [`pagecast_core::cast::StateMachine`] decides is carried out on a page, encoders and a file.

mod driver;
mod evidence;
mod hang;
mod pipeline;
mod pushes;
mod recording;
mod report;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use pagecast_core::cast::{EndReason, Event, HealthFault, LoadError, Warning};
use pagecast_core::spec::StorageKeys;
use pagecast_core::{CastSpec, HostTime, SpecError};
use pagecast_media::{encode, push, record};
use pagecast_page::browser::{self, CallError, TrustError};
use pagecast_page::clock;
use serde::{Deserialize, Serialize};

pub use driver::WarmBrowser;
pub use hang::Hang;
pub use pagecast_media::record::upload::{
    RecordedFile, State as DeliveryState, Status as DeliveryStatus, UploadReport,
};
pub use pagecast_room::publish::{LayerStatus as RoomLayer, Status as RoomStatus};
pub(crate) use pushes::apply_change as change_pushes;
pub use pushes::{Change, PushEvent, PushReport};
use recording::PendingUpload;
pub(crate) use report::end_reason_code as end_word;
pub use report::{CpuMs, PeakRss, Progress, Report, TimelineEntry};

/// Why a cast cannot start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The description is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is no page to record, or no longer.
    #[error(transparent)]
    Page(#[from] pagecast_page::Error),
    /// Nothing can be encoded.
    #[error(transparent)]
    Encode(#[from] encode::Error),
    /// Nothing can be written, or no longer.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// It cannot be stored where it shall be before somebody mends something.
    #[error("the recording cannot be stored: {0}")]
    Storage(String),
    /// It was not stored in time.
    #[error("the recording is whole, but not stored ({error}): store it with `pagecast recover {}`", spool.display())]
    NotStored {
        /// Where it is.
        spool: PathBuf,
        /// Why.
        error: String,
    },
    /// Nothing can be sent.
    #[error(transparent)]
    Push(#[from] push::Error),
    /// Nobody sees it in the room.
    #[error("the room is given up: {0}")]
    Room(String),
    /// A thread of the room cannot be started.
    #[error("cannot start a room")]
    StartRoom(#[source] std::io::Error),
    /// The page was in trouble too often.
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

/// What kind of thing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A value of the description.
    Value,
    /// The page cannot be opened, or never became ready.
    Page,
    /// The file cannot be written.
    Output,
    /// The browser, or the page in it, died.
    Browser,
    /// A bug, or an encoder.
    Unexpected,
}

impl Error {
    /// What kind of thing failed.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Spec(_) => FailureKind::Value,
            Self::Page(pagecast_page::Error::Browser(error)) => match error {
                browser::Error::Navigation { .. }
                | browser::Error::AddressDenied { .. }
                | browser::Error::HttpStatus { .. }
                | browser::Error::NavigationTimeout { .. }
                | browser::Error::Cancelled => FailureKind::Page,
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
            Self::Record(_) | Self::Storage(_) | Self::NotStored { .. } | Self::Room(_) => {
                FailureKind::Output
            }
            Self::Encode(_) | Self::Push(_) | Self::StartRoom(_) | Self::Panic(_) => FailureKind::Unexpected,
        }
    }
}

impl Error {
    /// Why the page could not be loaded, if that is what failed.
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
        EndReason::PageEnded => "the page called for the end before it was shown",
        EndReason::MaxTime => "the time was over before the page was ready",
        EndReason::LargeVideo => "the page played a larger video than it may before it was shown",
        _ => "ended before the page was there",
    }
}

fn gave_up_message(trouble: HealthFault, attempts: u32) -> String {
    let what = match trouble {
        HealthFault::StartTimeout => "the page never said that it is ready",
        HealthFault::Freeze => "the page froze again and again",
        HealthFault::Blank => "the page was blank again and again",
        HealthFault::Crash => "the page crashed again and again",
        HealthFault::Unreachable => "the page cannot be opened any more",
    };
    let browsers = if attempts == 1 { "one browser".to_owned() } else { format!("{attempts} browsers") };
    format!("{what}: given up after {browsers}")
}

/// Ends a cast from outside.
#[derive(Debug, Clone, Default)]
pub struct StopToken {
    requested: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    /// When [`StopToken::asked`] was called last, on the clock of the page; 0 if never.
    last_checked_at: Arc<AtomicI64>,
}

impl StopToken {
    /// The flag itself, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
    }

    /// Has the cast's process killed, and what it recorded left as it is: somebody else goes on with the
    /// cast.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Whether somebody else goes on with the cast.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Whether the end was asked for; once it was taken, only if it was asked for again.
    pub(crate) fn take_request(&self) -> bool {
        self.requested.swap(false, Ordering::AcqRel)
    }

    /// Whether the end was asked for. The main loop of a cast calls this all the time, wherever it is, which
    /// shows that it runs: see [`StopToken::time_since_check`].
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.last_checked_at.store(clock::now().0, Ordering::Relaxed);
        self.requested.load(Ordering::Acquire)
    }

    /// How long ago [`StopToken::asked`] was called last. Zero if it never was: the main loop has not begun.
    pub(crate) fn time_since_check(&self) -> Duration {
        match self.last_checked_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => clock::now().since(HostTime(at)),
        }
    }
}

/// What a cast tells while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CastEvent {
    /// A turn in its life.
    Lifecycle(Event),
    /// How far it has come, about once a second.
    Progress(Progress),
    /// A push of it is in another state, or still in the same.
    Push(PushEvent),
    /// How its room gets on: about once a second, and when it is in another state.
    Room(RoomStatus),
    /// What is recorded gets stored, or does not.
    Upload(DeliveryStatus),
    /// Its process died, and another one goes on with it.
    Restarted,
    /// Nothing is recorded any more, though the cast goes on; why is told at its end.
    RecordingStopped,
    /// A picture of the page is there, or could not be made.
    Snapshot(PathBuf, bool),
    /// Why it is about to end too early, for people, and what could not be loaded, if that is why.
    FailureReason(String, Option<LoadError>),
    /// Its owner should know this; each is told once.
    Warning(Warning),
    /// The page cannot be opened yet, for this reason, and is tried again in a moment.
    LoadRetry(String),
}

/// A cast that ended too early: what was recorded until then, if anything, and why.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// The recording so far.
    pub report: Option<Box<Report>>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), report: None }
    }
}

/// Runs a cast until it is over or `stop` asks for it. `started` is when the user asked for it. A warm
/// browser is used if it fits. Changes are made as they come.
///
/// # Errors
/// [`Failure`]; whatever was recorded is in the file and plays.
pub fn run(
    spec: &CastSpec,
    started: Instant,
    stop: &StopToken,
    warm: Option<WarmBrowser>,
    changes: &Receiver<Change>,
    mut tell: impl FnMut(CastEvent),
) -> Result<Report, Failure> {
    spec.validate()?;
    let outputs = pipeline::Prepared::open(spec)?;
    driver::Driver::new(spec, started, (stop, changes), warm, outputs, &mut tell).run()
}

/// Finishes and stores what an earlier process recorded for this cast.
///
/// # Errors
/// [`Failure`]; what is not stored stays in the spool.
pub fn finish(spec: &CastSpec, stop: &StopToken, mut tell: impl FnMut(CastEvent)) -> Result<Report, Failure> {
    let mut report = Report::default();
    let Some(recording) = &spec.recording else { return Ok(report) };
    if !recording.spool.exists() {
        // All of it is stored already.
        report.recording = recording.receipt.as_deref().and_then(UploadReport::read);
        return Ok(report);
    }
    let finishing = PendingUpload::recover(recording)?;
    match driver::wait_for_upload(finishing, recording.upload_timeout, stop, &mut tell, &mut report) {
        Ok(()) => Ok(report),
        Err(error) => Err(Failure { error, report: Some(Box::new(report)) }),
    }
}

/// Finishes and stores the recording of a spool that nobody works on. Keys of buckets come from the
/// environment, those of video on demand are given.
///
/// # Errors
/// [`ErrorBody::RecordArgs`], or [`ErrorBody::NotStored`] when patience is over or `stop` asks for the end.
pub fn recover(
    spool: &Path,
    keys: Option<&StorageKeys>,
    patience: Duration,
    stop: &StopToken,
    mut tell: impl FnMut(CastEvent),
) -> Result<UploadReport, Error> {
    let mut report = Report::default();
    driver::wait_for_upload(PendingUpload::open(spool, keys)?, patience, stop, &mut tell, &mut report)?;
    Ok(report.recording.unwrap_or_default())
}
