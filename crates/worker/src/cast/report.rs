//! What is told of a cast while it runs and when it is over.

use std::path::PathBuf;

use pagecast_core::MediaTime;
use pagecast_core::cast::{EndReason, Event, HealthFault, Warning};
use pagecast_media::record::upload::UploadReport;
use serde::{Deserialize, Serialize};

use super::RoomStatus;
use super::hang::Hang;
use super::pushes::PushReport;

/// How far a cast has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Length of the recording so far.
    pub elapsed: MediaTime,
    /// Pictures of the page so far.
    pub frames_captured: u64,
    /// Frames encoded so far.
    pub frames_encoded: u64,
    /// Ticks without a change so far.
    pub frames_unchanged: u64,
    /// Changes told late so far.
    pub frames_dropped: u64,
    /// Bytes encoded so far.
    pub bytes: u64,
    /// Loudest sample since the last progress, 0 to 1 and beyond: left, right.
    pub peak: [f32; 2],
    /// CPU time so far: browser and everything else.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Memory at the moment: browser and everything else.
    #[serde(default)]
    pub rss_bytes: u64,
}

/// CPU time by part, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMs {
    /// All processes of the browser.
    pub browser: u64,
    /// Display, sound card and guard.
    pub display: u64,
    /// Everything else of the cast's process: conversion, encoders, file.
    pub encode: u64,
    /// The sum.
    pub total: u64,
}

/// Most memory by part, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakRss {
    /// All processes of the browser.
    pub browser: u64,
    /// The cast's process.
    pub pagecast: u64,
}

/// What became of a cast. `--json` prints it; all times in it are in milliseconds, and their names end in
/// `_ms`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Why it is over: `stopped`, `page-ended`, `max-time`, `complete`, `start-failed`, `gave-up`,
    /// `output-failed`.
    pub end: String,
    /// What was wrong with a page that was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<HealthFault>,
    /// The turns in its life.
    pub timeline: Vec<TimelineEntry>,
    /// Times the page was loaded again because something was wrong with it.
    pub reloads: u32,
    /// Times the page got a fresh browser because something was wrong with it.
    pub moves: u32,
    /// When the page's scripts did not run for two seconds or more, if it is watched for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hangs: Vec<Hang>,
    /// What the page's owner should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// Ticks that brought a changed picture.
    pub frames_captured: u64,
    /// Frames encoded: changes, refinements and heartbeats.
    pub frames_encoded: u64,
    /// Ticks that brought no change.
    pub frames_unchanged: u64,
    /// Changes that were told with a later tick, because the encoder was busy.
    pub frames_dropped: u64,
    /// From the start of the cast to its first frame.
    pub first_frame_ms: u64,
    /// Length of the recording.
    pub duration_ms: u64,
    /// Times its process died, and another one went on.
    #[serde(default)]
    pub restarts: u32,
    /// Size of all files.
    pub bytes: u64,
    /// What it took to make.
    pub cpu_ms: CpuMs,
    /// What it took to hold.
    pub peak_rss_bytes: PeakRss,
    /// What was recorded, and where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<UploadReport>,
    /// Pictures and last words of the page from when something was wrong with it, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<PathBuf>,
    /// How its room got on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomStatus>,
    /// What became of its pushes, those that ended before it too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushes: Vec<PushReport>,
}

/// A turn in the life of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Milliseconds since the cast began.
    pub at_ms: u64,
    /// What happened.
    pub event: Event,
}

/// The word for a reason, and the trouble behind it.
pub(crate) fn end_reason_code(reason: EndReason) -> (&'static str, Option<HealthFault>) {
    match reason {
        EndReason::Stopped => ("stopped", None),
        EndReason::PageEnded => ("page-ended", None),
        EndReason::MaxTime => ("max-time", None),
        EndReason::Complete => ("complete", None),
        EndReason::LargeVideo => ("large-video", None),
        EndReason::StartFailed => ("start-failed", None),
        EndReason::GaveUp(trouble) => ("gave-up", Some(trouble)),
        EndReason::OutputFailed => ("output-failed", None),
    }
}
