//! One cast: what [`pagecast_core::cast::Machine`] decides is carried out on a page, encoders and a file.

mod driver;
mod evidence;
mod hang;
mod line;
mod pushes;
mod recording;
mod report;
mod room;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use pagecast_core::cast::{EndReason, Event, LoadError, Trouble, Warning};
use pagecast_core::spec::Keys;
use pagecast_core::{CastSpec, HostTime, SpecError};
use pagecast_media::{encode, push, record};
use pagecast_page::browser::{self, CallError, TrustError};
use pagecast_page::clock;
use serde::{Deserialize, Serialize};

pub use driver::Warm;
pub use hang::Hang;
pub use pagecast_media::record::deliver::{
    Delivered, Item as RecordedFile, State as DeliveryState, Status as DeliveryStatus,
};
pub use pagecast_room::publish::{LayerStatus as RoomLayer, Status as RoomStatus};
pub(crate) use pushes::change as change_pushes;
pub use pushes::{Change, PushNews, PushReport};
use recording::Finishing;
pub(crate) use report::words as end_word;
pub use report::{CpuMs, PeakRss, Progress, Report, Turn};

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
    #[error("the recording is whole, but not stored ({problem}): store it with `pagecast recover {}`", spool.display())]
    NotStored {
        /// Where it is.
        spool: PathBuf,
        /// Why.
        problem: String,
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
    #[error("{}", gave_up(*.0, *.1))]
    GaveUp(Trouble, u32),
    /// The cast ended before there was anything to record.
    #[error("{}: nothing was recorded", too_early(*.0))]
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
pub enum Kind {
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
    pub fn kind(&self) -> Kind {
        match self {
            Self::Spec(_) => Kind::Value,
            Self::Page(pagecast_page::Error::Browser(error)) => match error {
                browser::Error::Navigation { .. }
                | browser::Error::Refused { .. }
                | browser::Error::HttpStatus { .. }
                | browser::Error::NavigationTimeout { .. }
                | browser::Error::GivenUp => Kind::Page,
                browser::Error::Setting { .. } | browser::Error::Call(CallError::Selector(_)) => Kind::Value,
                _ => Kind::Browser,
            },
            Self::Page(pagecast_page::Error::Trust(TrustError::Certificate { .. })) => Kind::Value,
            Self::NothingRecorded(_) | Self::GaveUp(Trouble::StartTimeout | Trouble::Unreachable, _) => {
                Kind::Page
            }
            Self::Page(_) | Self::GaveUp(..) => Kind::Browser,
            Self::Record(_) | Self::Storage(_) | Self::NotStored { .. } | Self::Room(_) => Kind::Output,
            Self::Encode(_) | Self::Push(_) | Self::StartRoom(_) | Self::Panic(_) => Kind::Unexpected,
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

fn too_early(reason: EndReason) -> &'static str {
    match reason {
        EndReason::PageEnded => "the page called for the end before it was shown",
        EndReason::MaxTime => "the time was over before the page was ready",
        EndReason::LargeVideo => "the page played a larger video than it may before it was shown",
        _ => "ended before the page was there",
    }
}

fn gave_up(trouble: Trouble, attempts: u32) -> String {
    let what = match trouble {
        Trouble::StartTimeout => "the page never said that it is ready",
        Trouble::Freeze => "the page froze again and again",
        Trouble::Blank => "the page was blank again and again",
        Trouble::Crash => "the page crashed again and again",
        Trouble::Unreachable => "the page cannot be opened any more",
    };
    let browsers = if attempts == 1 { "one browser".to_owned() } else { format!("{attempts} browsers") };
    format!("{what}: given up after {browsers}")
}

/// Ends a cast from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    /// When [`Stop::asked`] was called last, on the clock of the page; 0 if never.
    checked_at: Arc<AtomicI64>,
}

impl Stop {
    /// The flag itself, for a signal handler to set.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }

    /// Asks for the end.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
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
    pub(crate) fn take(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }

    /// Whether the end was asked for. The main loop of a cast calls this all the time, wherever it is, which
    /// shows that it runs: see [`Stop::unasked_for`].
    #[must_use]
    pub fn asked(&self) -> bool {
        self.checked_at.store(clock::now().0, Ordering::Relaxed);
        self.asked.load(Ordering::Acquire)
    }

    /// How long ago [`Stop::asked`] was called last. Zero if it never was: the main loop has not begun.
    pub(crate) fn unasked_for(&self) -> Duration {
        match self.checked_at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => clock::now().since(HostTime(at)),
        }
    }
}

/// What a cast tells while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// A turn in its life.
    Event(Event),
    /// How far it has come, about once a second.
    Progress(Progress),
    /// A push of it is in another state, or still in the same.
    Push(PushNews),
    /// How its room gets on: about once a second, and when it is in another state.
    Room(RoomStatus),
    /// What is recorded gets stored, or does not.
    Delivery(DeliveryStatus),
    /// Its process died, and another one goes on with it.
    Restarted,
    /// Nothing is recorded any more, though the cast goes on; why is told at its end.
    Unrecorded,
    /// A picture of the page is there, or could not be made.
    Snapshot(PathBuf, bool),
    /// Why it is about to end too early, for people, and what could not be loaded, if that is why.
    Failing(String, Option<LoadError>),
    /// Its owner should know this; each is told once.
    Warning(Warning),
    /// The page cannot be opened yet, for this reason, and is tried again in a moment.
    Retrying(String),
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
    stop: &Stop,
    warm: Option<Warm>,
    changes: &Receiver<Change>,
    mut tell: impl FnMut(News),
) -> Result<Report, Failure> {
    spec.check()?;
    let outputs = line::Prepared::open(spec)?;
    driver::Driver::new(spec, started, (stop, changes), warm, outputs, &mut tell).run()
}

/// Finishes and stores what an earlier process recorded for this cast.
///
/// # Errors
/// [`Failure`]; what is not stored stays in the spool.
pub fn finish(spec: &CastSpec, stop: &Stop, mut tell: impl FnMut(News)) -> Result<Report, Failure> {
    let mut report = Report::default();
    let Some(recording) = &spec.recording else { return Ok(report) };
    if !recording.spool.exists() {
        // All of it is stored already.
        report.recording = recording.receipt.as_deref().and_then(Delivered::read);
        return Ok(report);
    }
    let finishing = Finishing::recover(recording)?;
    match driver::deliver(finishing, recording.patience, stop, &mut tell, &mut report) {
        Ok(()) => Ok(report),
        Err(error) => Err(Failure { error, report: Some(Box::new(report)) }),
    }
}

/// Finishes and stores the recording of a spool that nobody works on. Keys of buckets come from the
/// environment, those of video on demand are given.
///
/// # Errors
/// [`Error::Record`], or [`Error::NotStored`] when patience is over or `stop` asks for the end.
pub fn recover(
    spool: &Path,
    keys: Option<&Keys>,
    patience: Duration,
    stop: &Stop,
    mut tell: impl FnMut(News),
) -> Result<Delivered, Error> {
    let mut report = Report::default();
    driver::deliver(Finishing::take_up(spool, keys)?, patience, stop, &mut tell, &mut report)?;
    Ok(report.recording.unwrap_or_default())
}
