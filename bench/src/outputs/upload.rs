//! Cost of recordings to a bucket, compared with recordings to a folder.

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
/// Recorded page; it has the highest bitrate.
const UPLOADED_PAGE: BenchPage = BenchPage::Video;
/// Duration of MP4 recordings whose completion is timed.
pub(crate) const MP4_DURATION: Duration = Duration::from_secs(60);

/// Destination of a recording.
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

/// Format of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Hls,
    Mp4,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::Hls, Self::Mp4];

    /// Name of the format on the command line.
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
    /// Time from the end of each MP4 recording until it is stored, in seconds.
    pub(crate) completion_times_s: Vec<f64>,
}

/// Results of all kinds of recordings.
#[derive(Debug, Default)]
pub(crate) struct UploadResults(pub(crate) Vec<UploadResult>);

impl UploadResults {
    pub(super) fn measure(site: &BenchSite, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let root = site.output_path("s3");
        drop(fs::remove_dir_all(&root));
        let s3 = S3Server::start(&root, ACCESS_KEY.0, ACCESS_KEY.1)?;
        s3.make_bucket(BUCKET)?;
        let result = |format, destination| UploadResult {
            format,
            destination,
            costs: CastCosts::default(),
            completion_times_s: Vec::new(),
        };
        let mut all: Vec<_> = Format::ALL
            .into_iter()
            .flat_map(|format| Destination::ALL.map(|destination| result(format, destination)))
            .collect();
        for _ in 0..repeat {
            for result in &mut all {
                result.measure_once(site, program, &s3, window)?;
            }
        }
        drop(s3);
        fs::remove_dir_all(root)?;
        Ok(Self(all))
    }

    pub(crate) fn find(&self, format: Format, destination: Destination) -> Option<&UploadResult> {
        self.0.iter().find(|result| (result.format, result.destination) == (format, destination))
    }
}

impl UploadResult {
    /// Measures one recording; an MP4 lasts for [`MP4_DURATION`].
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
        let ended = Instant::now();
        cast.interrupt()?;
        cast.finish()?;
        if self.format == Format::Mp4 {
            let took_s = ended.elapsed().as_secs_f64();
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
