//! Recordings that are stored in a bucket while they are made, beside the same in a folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_testkit::S3Server;

use super::CastCosts;
use crate::cast::{START_TIMEOUT, next_cast_number};
use crate::measure::WARM_UP;
use crate::page::BenchPage;
use crate::pagecast::{ExtraOptions, PagecastRecorder};
use crate::site::BenchSite;
use crate::usage::kill_descendants;

const BUCKET: &str = "bench";
const ACCESS_KEY: (&str, &str) = ("bench", "bench-secret");
/// A page that fills files.
const UPLOADED_PAGE: BenchPage = BenchPage::Video;
/// What is recorded before the end is timed.
pub(crate) const MP4_DURATION: Duration = Duration::from_secs(60);

/// Where a recording goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    Folder,
    Bucket,
}

impl Destination {
    pub(crate) const ALL: [Self; 2] = [Self::Folder, Self::Bucket];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Bucket => "bucket",
        }
    }
}

/// What a recording becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Hls,
    Mp4,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::Hls, Self::Mp4];

    /// As the command line calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hls => "hls",
            Self::Mp4 => "mp4",
        }
    }
}

/// All recordings of one kind.
#[derive(Debug)]
pub(crate) struct UploadResult {
    pub(crate) format: Format,
    pub(crate) destination: Destination,
    pub(crate) costs: CastCosts,
    /// From the end of long recordings to their last byte in place, in seconds.
    pub(crate) completion_times_s: Vec<f64>,
}

/// Recordings of all kinds.
#[derive(Debug, Default)]
pub(crate) struct UploadResults(pub(crate) Vec<UploadResult>);

impl UploadResults {
    pub(super) fn measure(site: &BenchSite, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let root = site.output_path("s3");
        drop(fs::remove_dir_all(&root));
        let s3 = S3Server::start(&root, ACCESS_KEY.0, ACCESS_KEY.1)?;
        s3.make_bucket(BUCKET)?;
        let kept = |format, place| UploadResult {
            format,
            destination: place,
            costs: CastCosts::default(),
            completion_times_s: Vec::new(),
        };
        let mut all: Vec<_> = Format::ALL
            .into_iter()
            .flat_map(|format| Destination::ALL.map(|place| kept(format, place)))
            .collect();
        for _ in 0..repeat {
            for kept in &mut all {
                kept.measure_once(site, program, &s3, window)?;
            }
        }
        drop(s3);
        fs::remove_dir_all(root)?;
        Ok(Self(all))
    }

    pub(crate) fn find(&self, format: Format, place: Destination) -> Option<&UploadResult> {
        self.0.iter().find(|kept| (kept.format, kept.destination) == (format, place))
    }
}

impl UploadResult {
    /// One recording; an MP4 goes on until it is long.
    fn measure_once(
        &mut self,
        site: &BenchSite,
        program: &Path,
        s3: &S3Server,
        window: Duration,
    ) -> Result<()> {
        let number = next_cast_number();
        let name = format!("kept-{number}");
        let folder = site.output_path("kept");
        let (output, place) = match self.destination {
            Destination::Folder => (folder.to_string_lossy().into_owned(), folder.clone()),
            Destination::Bucket => {
                let (endpoint, region) = (s3.url(), "us-east-1");
                let query = format!("endpoint={endpoint}&path-style=true&region={region}");
                (format!("s3://{BUCKET}?{query}"), s3.object_path(BUCKET, ""))
            }
        };
        let arguments = ["--name", &name, "--format", self.format.name()].map(str::to_owned).into();
        let environment = vec![("AWS_ACCESS_KEY_ID", ACCESS_KEY.0), ("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.1)];
        let log = site.output_path(&format!("{name}.mp4"));
        let cast = PagecastRecorder::start_with(
            program,
            &site.page_url(UPLOADED_PAGE, number),
            &output,
            &log,
            &ExtraOptions { arguments, environment },
        )?;
        site.wait_until_drawn(number, START_TIMEOUT)?;
        let began = Instant::now();
        std::thread::sleep(WARM_UP);
        self.costs.measure(&format!("{} to a {}", self.format.name(), self.destination.name()), window)?;
        if self.format == Format::Mp4 {
            std::thread::sleep(MP4_DURATION.saturating_sub(began.elapsed()));
        }
        let over = Instant::now();
        cast.interrupt()?;
        cast.finish()?;
        if self.format == Format::Mp4 {
            let took_s = over.elapsed().as_secs_f64();
            eprintln!("stored in a {} {took_s:.2} s after the end", self.destination.name());
            self.completion_times_s.push(took_s);
        }
        kill_descendants()?;
        let bytes = folder_size(&place.join(&name))?;
        ensure!(bytes > 100_000, "only {bytes} bytes were stored in the {}", self.destination.name());
        fs::remove_dir_all(place.join(&name))?;
        Ok(())
    }
}

/// Size of all files in a folder.
fn folder_size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        sum += if data.is_dir() { folder_size(&entry.path())? } else { data.len() };
    }
    Ok(sum)
}
