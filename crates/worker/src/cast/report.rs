//! Progress of a cast while it runs, and the report at its end.

use std::path::PathBuf;

use pagecast_core::MediaTime;
use pagecast_core::cast::{EndReason, Event, HealthFault, Warning};
use pagecast_media::record::upload::UploadReport;
use serde::{Deserialize, Serialize};

use super::RoomStatus;
use super::hang::Hang;
use super::pushes::PushReport;

/// Progress of a running cast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Length of the recording so far.
    pub elapsed: MediaTime,
    /// Changed pictures of the page so far.
    pub frames_captured: u64,
    /// Frames encoded so far.
    pub frames_encoded: u64,
    /// Ticks without a change so far.
    pub frames_unchanged: u64,
    /// Changes merged into a later tick so far, because the encoder was busy.
    pub frames_dropped: u64,
    /// Encoded bytes so far.
    pub bytes: u64,
    /// Loudest sample since the last progress, left and right: 1 is full scale, louder is possible.
    pub peak: [f32; 2],
    /// CPU time of browser and cast process so far, in seconds.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Resident memory of browser and cast process, in bytes.
    #[serde(default)]
    pub rss_bytes: u64,
}

/// CPU time by part, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMs {
    /// All processes of the browser.
    pub browser: u64,
    /// Display, sound card and egress proxy.
    pub display: u64,
    /// The rest of the cast's process: conversion, encoders, outputs.
    pub encode: u64,
    /// Sum of the parts.
    pub total: u64,
}

/// Peak resident memory by part, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeakRss {
    /// All processes of the browser.
    pub browser: u64,
    /// The cast's process.
    pub pagecast: u64,
}

/// The result of a cast, as `--json` prints it. All times are in milliseconds, in fields that end in `_ms`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Why the cast ended: `stopped`, `page-ended`, `max-time`, `complete`, `video-too-large`,
    /// `start-failed`, `page-failed`, `output-failed`.
    pub end: String,
    /// The fault of the page, if `end` is `page-failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<HealthFault>,
    /// The steps in the life of the cast, in order.
    pub timeline: Vec<TimelineEntry>,
    /// How often the page was reloaded because of a fault.
    pub reloads: u32,
    /// How often the page was moved to a new browser because of a fault.
    pub moves: u32,
    /// Times in which the page's scripts did not run for 2 s or more, if the crash check is on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hangs: Vec<Hang>,
    /// Warnings for the page's owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// Ticks with a changed picture.
    pub frames_captured: u64,
    /// Frames encoded: changes, refinements and heartbeats.
    pub frames_encoded: u64,
    /// Ticks without a change.
    pub frames_unchanged: u64,
    /// Changes merged into a later tick, because the encoder was busy.
    pub frames_dropped: u64,
    /// Time from the start of the cast to its first frame.
    pub first_frame_ms: u64,
    /// Length of the recording.
    pub duration_ms: u64,
    /// How often the cast's process died and a new one resumed the cast.
    #[serde(default)]
    pub restarts: u32,
    /// Size of all files, in bytes.
    pub bytes: u64,
    /// CPU time used.
    pub cpu_ms: CpuMs,
    /// Peak memory used.
    pub peak_rss_bytes: PeakRss,
    /// The recording: its files and where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<UploadReport>,
    /// Folder with screenshots and console logs of each fault of the page, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<PathBuf>,
    /// Last status of the room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomStatus>,
    /// Results of all pushes, including those that ended before the cast.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushes: Vec<PushReport>,
}

/// A step in the life of a cast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// Milliseconds since the start of the cast.
    pub at_ms: u64,
    /// The step.
    pub event: Event,
}

/// Returns the code of a reason as in [`Report::end`], and the fault behind it.
pub(crate) fn end_reason_code(reason: EndReason) -> (&'static str, Option<HealthFault>) {
    match reason {
        EndReason::Stopped => ("stopped", None),
        EndReason::PageEnded => ("page-ended", None),
        EndReason::MaxTime => ("max-time", None),
        EndReason::Complete => ("complete", None),
        EndReason::VideoTooLarge => ("video-too-large", None),
        EndReason::StartFailed => ("start-failed", None),
        EndReason::PageFailed(fault) => ("page-failed", Some(fault)),
        EndReason::OutputFailed => ("output-failed", None),
    }
}
