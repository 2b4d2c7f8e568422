//! A cast by either recorder, with the same interface.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::baseline::BaselineRecorder;
use crate::measure::WARM_UP;
use crate::page::BenchPage;
use crate::pagecast::{PagecastRecorder, SelfReport};
use crate::site::BenchSite;

pub(crate) const WIDTH: usize = 1280;
pub(crate) const HEIGHT: usize = 720;
pub(crate) const FPS: u32 = 30;

/// Longest time until a page is shown, on a busy machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(40);

/// Program that records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorder {
    Pagecast,
    Baseline,
}

impl Recorder {
    pub(crate) const ALL: [Self; 2] = [Self::Pagecast, Self::Baseline];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pagecast => "Pagecast",
            Self::Baseline => "baseline",
        }
    }
}

/// A page that is being recorded.
#[derive(Debug)]
pub(crate) struct Cast {
    number: u32,
    file: PathBuf,
    recorder: RunningRecorder,
}

#[derive(Debug)]
enum RunningRecorder {
    Pagecast(PagecastRecorder),
    Baseline(BaselineRecorder),
}

impl Cast {
    /// Starts a cast of `page`; `program` is the `pagecast` to run.
    pub(crate) fn start(
        recorder: Recorder,
        site: &BenchSite,
        page: BenchPage,
        program: &Path,
    ) -> Result<Self> {
        let number = next_cast_number();
        Self::start_url(recorder, site, &site.page_url(page, number), number, program)
    }

    /// Starts a cast of the page with flashes and beeps, which does not report when it has drawn.
    pub(crate) fn start_flash_beep(recorder: Recorder, site: &BenchSite, program: &Path) -> Result<Self> {
        let number = next_cast_number();
        let mut cast = Self::start_url(recorder, site, &site.flash_beep_url(number), number, program)?;
        site.wait_until_requested(number, START_TIMEOUT)?;
        // The baseline's sound is best if the browser plays before the recording starts.
        std::thread::sleep(WARM_UP);
        cast.start_recording()?;
        Ok(cast)
    }

    /// Starts a cast of Pagecast with a warm browser.
    pub(crate) fn start_warm(site: &BenchSite, page: BenchPage, program: &Path) -> Result<Self> {
        let number = next_cast_number();
        let file = site.output_path(&format!("warm-{number}.mp4"));
        let pagecast = PagecastRecorder::start_warm(program, &site.page_url(page, number), &file)?;
        Ok(Self { number, file, recorder: RunningRecorder::Pagecast(pagecast) })
    }

    fn start_url(
        recorder: Recorder,
        site: &BenchSite,
        url: &str,
        number: u32,
        program: &Path,
    ) -> Result<Self> {
        let file = site.output_path(&format!("{}-{number}.mp4", recorder.name()));
        let recorder = match recorder {
            Recorder::Pagecast => RunningRecorder::Pagecast(PagecastRecorder::start(program, url, &file)?),
            Recorder::Baseline => RunningRecorder::Baseline(BaselineRecorder::start(url)?),
        };
        Ok(Self { number, file, recorder })
    }

    /// Waits until the page has drawn. The baseline starts to record only then, as its users do.
    pub(crate) fn wait_until_shown(&mut self, site: &BenchSite) -> Result<()> {
        site.wait_until_drawn(self.number, START_TIMEOUT)?;
        self.start_recording()
    }

    fn start_recording(&mut self) -> Result<()> {
        match &mut self.recorder {
            RunningRecorder::Pagecast(_) => Ok(()),
            RunningRecorder::Baseline(baseline) => baseline.record(&self.file),
        }
    }

    /// Interrupts the recorder, which then finishes its file. Does not wait.
    pub(crate) fn interrupt(&self) -> Result<()> {
        match &self.recorder {
            RunningRecorder::Pagecast(pagecast) => pagecast.interrupt(),
            RunningRecorder::Baseline(baseline) => baseline.interrupt(),
        }
    }

    /// Waits until the file is complete and all processes have ended.
    pub(crate) fn finish(self) -> Result<FinishedCast> {
        let self_report = match self.recorder {
            RunningRecorder::Pagecast(pagecast) => Some(pagecast.finish()?),
            RunningRecorder::Baseline(baseline) => baseline.finish().map(|()| None)?,
        };
        Ok(FinishedCast { file: self.file, self_report })
    }
}

/// Result of a cast.
#[derive(Debug)]
pub(crate) struct FinishedCast {
    pub(crate) file: PathBuf,
    /// Report of Pagecast; the baseline has none.
    pub(crate) self_report: Option<SelfReport>,
}

/// A number that is unique in this run.
pub(crate) fn next_cast_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
