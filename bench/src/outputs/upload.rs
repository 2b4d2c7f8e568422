//! Recordings that are stored in a bucket while they are made, beside the same in a folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pagecast_testkit::S3;

use super::Costs;
use crate::casts::{PATIENCE, next_number};
use crate::measure::WARM_UP;
use crate::page::Page;
use crate::pagecast::{More, Pagecast};
use crate::site::Site;
use crate::usage::sweep;

const BUCKET: &str = "bench";
const KEY: (&str, &str) = ("bench", "bench-secret");
/// A page that fills files.
const PAGE: Page = Page::Video;
/// What is recorded before the end is timed.
pub(crate) const LENGTH: Duration = Duration::from_secs(60);

/// Where a recording goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Folder,
    Bucket,
}

impl Place {
    pub(crate) const BOTH: [Self; 2] = [Self::Folder, Self::Bucket];

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
    pub(crate) const BOTH: [Self; 2] = [Self::Hls, Self::Mp4];

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
pub(crate) struct Kept {
    pub(crate) format: Format,
    pub(crate) place: Place,
    pub(crate) costs: Costs,
    /// From the end of long recordings to their last byte in place, in seconds.
    pub(crate) ends_s: Vec<f64>,
}

/// Recordings of all kinds.
#[derive(Debug, Default)]
pub(crate) struct Uploads(pub(crate) Vec<Kept>);

impl Uploads {
    pub(super) fn measure(site: &Site, program: &Path, window: Duration, repeat: u32) -> Result<Self> {
        let root = site.file("s3");
        drop(fs::remove_dir_all(&root));
        let s3 = S3::start(&root, KEY.0, KEY.1)?;
        s3.make_bucket(BUCKET)?;
        let kept = |format, place| Kept { format, place, costs: Costs::default(), ends_s: Vec::new() };
        let mut all: Vec<_> = Format::BOTH
            .into_iter()
            .flat_map(|format| Place::BOTH.map(|place| kept(format, place)))
            .collect();
        for _ in 0..repeat {
            for kept in &mut all {
                kept.once(site, program, &s3, window)?;
            }
        }
        drop(s3);
        fs::remove_dir_all(root)?;
        Ok(Self(all))
    }

    pub(crate) fn of(&self, format: Format, place: Place) -> Option<&Kept> {
        self.0.iter().find(|kept| (kept.format, kept.place) == (format, place))
    }
}

impl Kept {
    /// One recording; an MP4 goes on until it is long.
    fn once(&mut self, site: &Site, program: &Path, s3: &S3, window: Duration) -> Result<()> {
        let number = next_number();
        let name = format!("kept-{number}");
        let folder = site.file("kept");
        let (output, place) = match self.place {
            Place::Folder => (folder.to_string_lossy().into_owned(), folder.clone()),
            Place::Bucket => {
                let (endpoint, region) = (s3.url(), "us-east-1");
                let query = format!("endpoint={endpoint}&path-style=true&region={region}");
                (format!("s3://{BUCKET}?{query}"), s3.file(BUCKET, ""))
            }
        };
        let arguments = ["--name", &name, "--format", self.format.name()].map(str::to_owned).into();
        let environment = vec![("AWS_ACCESS_KEY_ID", KEY.0), ("AWS_SECRET_ACCESS_KEY", KEY.1)];
        let log = site.file(&format!("{name}.mp4"));
        let cast = Pagecast::start_with(
            program,
            &site.page(PAGE, number),
            &output,
            &log,
            &More { arguments, environment },
        )?;
        site.wait_until_drawn(number, PATIENCE)?;
        let began = Instant::now();
        std::thread::sleep(WARM_UP);
        self.costs.watch(&format!("{} to a {}", self.format.name(), self.place.name()), window)?;
        if self.format == Format::Mp4 {
            std::thread::sleep(LENGTH.saturating_sub(began.elapsed()));
        }
        let over = Instant::now();
        cast.interrupt()?;
        cast.finish()?;
        if self.format == Format::Mp4 {
            let took_s = over.elapsed().as_secs_f64();
            eprintln!("stored in a {} {took_s:.2} s after the end", self.place.name());
            self.ends_s.push(took_s);
        }
        sweep()?;
        let bytes = bytes(&place.join(&name))?;
        ensure!(bytes > 100_000, "only {bytes} bytes were stored in the {}", self.place.name());
        fs::remove_dir_all(place.join(&name))?;
        Ok(())
    }
}

/// Size of all files in a folder.
fn bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        sum += if data.is_dir() { bytes(&entry.path())? } else { data.len() };
    }
    Ok(sum)
}
