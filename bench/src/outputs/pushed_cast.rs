//! A cast by either recorder that is pushed to RTMP servers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::flv;
use pagecast_testkit::rtmp::NginxRtmp;

use crate::baseline::BaselineRecorder;
use crate::cast::{FPS, Recorder, START_TIMEOUT, next_cast_number};
use crate::page::BenchPage;
use crate::pagecast::{ExtraOptions, PagecastRecorder};
use crate::site::BenchSite;
use crate::usage::kill_descendants;

/// Least share of the requested frame rate that each server must receive.
const MIN_FRAME_SHARE: f64 = 0.5;

/// Clock of the timecode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimecodeClock {
    Page,
    Machine,
}

/// A cast with pushes. Pagecast also records a file, the baseline does not.
#[derive(Debug)]
pub(super) struct PushedCast<'a> {
    nginx: &'a NginxRtmp,
    keys: Vec<String>,
    recorder: RunningRecorder,
}

#[derive(Debug)]
enum RunningRecorder {
    Pagecast(PagecastRecorder),
    Baseline(BaselineRecorder),
}

impl<'a> PushedCast<'a> {
    /// Starts a cast and waits until the small animation is shown. `servers` is the number of stream names at
    /// one nginx.
    pub(super) fn start(
        recorder: Recorder,
        site: &BenchSite,
        program: &Path,
        clock: TimecodeClock,
        nginx: &'a NginxRtmp,
        servers: usize,
    ) -> Result<Self> {
        let number = next_cast_number();
        let page = match clock {
            TimecodeClock::Page => site.page_url(BenchPage::Animation, number),
            TimecodeClock::Machine => site.page_url_with_machine_clock(BenchPage::Animation, number),
        };
        let keys: Vec<_> = (0..servers).map(|n| format!("{number}x{n}")).collect();
        let urls: Vec<_> = keys.iter().map(|key| nginx.url(key)).collect();
        let recorder = match recorder {
            Recorder::Pagecast => {
                let file = site.output_path(&format!("pushed-{number}.mp4"));
                let arguments = urls.into_iter().flat_map(|url| ["--push".to_owned(), url]).collect();
                let extra = ExtraOptions { arguments, ..ExtraOptions::default() };
                let output = file.to_string_lossy();
                let cast = PagecastRecorder::start_with(program, &page, &output, &file, &extra)?;
                site.wait_until_drawn(number, START_TIMEOUT)?;
                RunningRecorder::Pagecast(cast)
            }
            Recorder::Baseline => {
                let mut baseline = BaselineRecorder::start(&page)?;
                site.wait_until_drawn(number, START_TIMEOUT)?;
                baseline.stream(&urls)?;
                RunningRecorder::Baseline(baseline)
            }
        };
        Ok(Self { nginx, keys, recorder })
    }

    /// URL of the first stream.
    pub(super) fn url(&self) -> Result<String> {
        Ok(self.nginx.url(self.keys.first().context("the cast has no push")?))
    }

    /// Stops the cast and checks that every server received pictures for at least `length`.
    pub(super) fn finish(self, length: Duration) -> Result<()> {
        match self.recorder {
            RunningRecorder::Pagecast(cast) => {
                cast.interrupt()?;
                let lossless = cast.finish()?.lossless_pushes;
                ensure!(
                    lossless == self.keys.len(),
                    "only {lossless} of {} pushes are lossless",
                    self.keys.len()
                );
            }
            RunningRecorder::Baseline(baseline) => {
                baseline.interrupt()?;
                baseline.finish()?;
            }
        }
        kill_descendants()?;
        let least = (MIN_FRAME_SHARE * f64::from(FPS) * length.as_secs_f64()) as usize;
        for key in &self.keys {
            let mut pictures = 0;
            for path in self.nginx.recordings(key)? {
                let tags = flv::tags(&path)?;
                pictures += tags.iter().filter(|tag| matches!(tag.kind, flv::TagKind::Video { .. })).count();
                fs::remove_file(path)?;
            }
            ensure!(pictures >= least, "a server received {pictures} pictures, expected at least {least}");
        }
        Ok(())
    }
}
