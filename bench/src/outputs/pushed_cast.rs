//! A page that either side sends to RTMP servers.

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

/// Part of the asked rate that each server must have got.
const MIN_FRAME_SHARE: f64 = 0.5;

/// What strips tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimecodeClock {
    Page,
    Machine,
}

/// A cast with some servers. Pagecast records a file meanwhile, the recipe does not.
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
    /// Starts everything and waits until the small animation is shown; `servers` are as many names at the same nginx.
    pub(super) fn start(
        side: Recorder,
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
        let kind = match side {
            Recorder::Pagecast => {
                let file = site.output_path(&format!("pushed-{number}.mp4"));
                let arguments = urls.into_iter().flat_map(|url| ["--push".to_owned(), url]).collect();
                let more = ExtraOptions { arguments, ..ExtraOptions::default() };
                let output = file.to_string_lossy();
                let cast = PagecastRecorder::start_with(program, &page, &output, &file, &more)?;
                site.wait_until_drawn(number, START_TIMEOUT)?;
                RunningRecorder::Pagecast(cast)
            }
            Recorder::Baseline => {
                let mut peers = BaselineRecorder::start(&page)?;
                site.wait_until_drawn(number, START_TIMEOUT)?;
                peers.stream(&urls)?;
                RunningRecorder::Baseline(peers)
            }
        };
        Ok(Self { nginx, keys, recorder: kind })
    }

    /// Where its first server can be watched.
    pub(super) fn url(&self) -> Result<String> {
        Ok(self.nginx.url(self.keys.first().context("it is sent nowhere")?))
    }

    /// Ends it, and checks that every server got pictures for at least `length`.
    pub(super) fn finish(self, length: Duration) -> Result<()> {
        match self.recorder {
            RunningRecorder::Pagecast(cast) => {
                cast.interrupt()?;
                let whole = cast.finish()?.lossless_pushes;
                ensure!(whole == self.keys.len(), "only {whole} of {} pushes are whole", self.keys.len());
            }
            RunningRecorder::Baseline(peers) => {
                peers.interrupt()?;
                peers.finish()?;
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
            ensure!(pictures >= least, "a server got {pictures} pictures instead of {least}");
        }
        Ok(())
    }
}
