//! Options of where a recording goes, and of its format.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use pagecast_core::spec::{Format, Recording, SourceUrl, Storage, StorageError};
use pagecast_worker::cast::CastPaths;
use url::Url;

use super::location::{has_mp4_extension, parse_output};
use super::{parse_bytes, parse_duration};

const HELP_HEADING: &str = "The recording";

/// Options of a recording.
#[derive(Debug, Args)]
#[command(next_help_heading = HELP_HEADING)]
pub(crate) struct OutputOptions {
    /// A file (FILE.mp4), a folder, or a bucket: s3://BUCKET/PREFIX, gs://…, az://…, cos://…?region=…,
    /// tos://…, oss://…. Keys come from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (gs:
    /// GOOGLE_SERVICE_ACCOUNT, az: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY) [default: the
    /// page's host with .mp4]
    #[arg(short, long, value_name = "LOCATION", value_parser = parse_output)]
    output: Option<String>,
    /// A second folder or bucket, which gets the whole recording if the first one fails for a minute
    #[arg(long, value_name = "LOCATION")]
    backup: Option<String>,
    /// The server of a bucket, if it is not the cloud's own, like http://127.0.0.1:9000; for az:// with a
    /// path, like http://127.0.0.1:10000/devstoreaccount1
    #[arg(long, value_name = "URL")]
    storage_endpoint: Option<Url>,
    /// How long to wait for the upload after the end of the recording; what is not uploaded by then stays in
    /// the spool [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    upload_timeout: Option<Duration>,
    /// Name of the files in a folder or bucket: NAME/NAME_0.mp4, NAME/NAME.m3u8 [default: host and time]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// MP4, HLS with segments of fragmented MP4 (hls) or MPEG-TS (hls-ts), or MP4 and one of these (both,
    /// both-ts)
    #[arg(long, value_enum, default_value = "mp4")]
    format: FormatName,
    /// Length of a segment, 1s to 60s; a complete segment is safe on the disk [default: 4s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    segment: Option<Duration>,
    /// Start a new MP4 file after this time, exact to a frame, or after 2 GB [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    split: Option<Duration>,
    /// Store a picture of the page (JPEG) at this interval, 1s to 1h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    thumbnails: Option<Duration>,
    /// Store a list of all files beside them, NAME.json
    #[arg(long)]
    manifest: bool,
    /// Record only the sound
    #[arg(long)]
    audio_only: bool,
    /// The folder for what is not uploaded yet [default: beside the recording, or here, with .spool]
    #[arg(long, value_name = "FOLDER")]
    spool: Option<PathBuf>,
    /// Largest size of the spool, like 800M or 50G; at this size the recording ends, and what was recorded is
    /// kept [default: 50G]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    spool_limit: Option<u64>,
    /// Replace the recording if it exists
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatName {
    Mp4,
    Hls,
    HlsTs,
    Both,
    BothTs,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Mp4 => Self::Mp4,
            FormatName::Hls => Self::Hls,
            FormatName::HlsTs => Self::HlsTs,
            FormatName::Both => Self::Both,
            FormatName::BothTs => Self::BothTs,
        }
    }
}

impl OutputOptions {
    /// Returns whether `pagecast cast` also records.
    pub(crate) fn is_given(&self) -> bool {
        self.output.is_some()
    }

    /// Returns the recording, and the spool and the folder for evidence beside it.
    pub(crate) fn recording(
        &self,
        page: &SourceUrl,
        now_unix_s: i64,
    ) -> Result<(Recording, CastPaths), StorageError> {
        let (default, named) = self.target(page, now_unix_s)?;
        let spool = self.spool.clone().unwrap_or_else(|| with_suffix(&named, ".spool"));
        let recording = Recording {
            backup: self.backup.as_deref().map(Storage::parse).transpose()?,
            format: self.format.into(),
            overwrite: self.overwrite,
            spool_limit_bytes: self.spool_limit.unwrap_or(default.spool_limit_bytes),
            segment: self.segment.unwrap_or(default.segment),
            split: self.split.unwrap_or(default.split),
            thumbnails: self.thumbnails,
            manifest: self.manifest,
            audio_only: self.audio_only,
            upload_timeout: self.upload_timeout.unwrap_or(default.upload_timeout),
            ..default
        };
        let evidence = Some(with_suffix(&named, ".evidence"));
        Ok((recording, CastPaths { spool, receipt: None, evidence }))
    }

    /// Returns the default recording for its location, and the path that folders beside it are named after.
    fn target(&self, page: &SourceUrl, now_unix_s: i64) -> Result<(Recording, PathBuf), StorageError> {
        let file = match &self.output {
            None => Some(unused_file_name(page)),
            Some(text) if !text.contains("://") && has_mp4_extension(text) => Some(text.into()),
            Some(_) => None,
        };
        if let Some(path) = file {
            let mut recording = Recording::to_file(path.clone());
            if let Some(name) = &self.name {
                recording.name.clone_from(name);
            }
            return Ok((recording, path));
        }
        let storage = self.storage(self.output.as_deref().unwrap_or_default())?;
        let name = self.name.clone().unwrap_or_else(|| default_name(page, now_unix_s));
        let local = match &storage {
            Storage::Folder(folder) => folder.join(&name),
            _ => PathBuf::from(&name),
        };
        Ok((Recording::new(name, storage), local))
    }

    fn storage(&self, text: &str) -> Result<Storage, StorageError> {
        let mut storage = Storage::parse(text)?;
        // An endpoint in the address takes precedence.
        if let (Storage::Bucket(bucket), Some(endpoint)) = (&mut storage, &self.storage_endpoint)
            && bucket.endpoint.is_none()
        {
            bucket.endpoint = Some(endpoint.clone());
            storage.validate()?;
        }
        Ok(storage)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the page's host with the characters replaced that file names cannot have.
fn sanitized_host(url: &SourceUrl) -> String {
    let replace = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' };
    url.host().chars().map(replace).collect()
}

/// Returns the page's host and the time in UTC, as the name of a recording.
fn default_name(url: &SourceUrl, now_unix_s: i64) -> String {
    let time = chrono::DateTime::from_timestamp(now_unix_s, 0).unwrap_or_default();
    let host: String = sanitized_host(url).trim_start_matches('.').chars().take(100).collect();
    format!("{host}-{}", time.format("%Y%m%d-%H%M%S"))
}

/// Returns the page's host with `.mp4`, and a number if that file or its spool exists.
fn unused_file_name(url: &SourceUrl) -> PathBuf {
    let host = sanitized_host(url);
    let named =
        |n: u32| PathBuf::from(if n == 1 { format!("{host}.mp4") } else { format!("{host}-{n}.mp4") });
    let is_free = |path: &PathBuf| !path.exists() && !with_suffix(path, ".spool").exists();
    (1..10_000).map(named).find(is_free).unwrap_or_else(|| named(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        output: OutputOptions,
    }

    fn recording(arguments: &[&str]) -> (Recording, PathBuf) {
        let line = TestCli::parse_from(["x"].iter().chain(arguments));
        let page = SourceUrl::parse("https://a.example/b").unwrap();
        let (recording, paths) = line.output.recording(&page, 1_700_000_000).unwrap();
        (recording, paths.spool)
    }

    #[test]
    fn outputs_are_resolved() {
        let (file, spool) = recording(&["-o", "talks/my talk.mp4"]);
        assert_eq!(file.to, Storage::File("talks/my talk.mp4".into()));
        assert_eq!(spool, PathBuf::from("talks/my talk.mp4.spool"));
        let (folder, spool) = recording(&["-o", "talks", "--format", "both"]);
        assert_eq!(folder.to, Storage::Folder("talks".into()));
        assert_eq!((folder.name.as_str(), folder.format), ("a.example-20231114-221320", Format::Both));
        assert_eq!(spool, PathBuf::from("talks/a.example-20231114-221320.spool"));
        let (bucket, spool) =
            recording(&["-o", "s3://talks/p", "--storage-endpoint", "http://127.0.0.1:9", "--name", "t"]);
        let Storage::Bucket(s3) = &bucket.to else { panic!("{bucket:?}") };
        assert_eq!(s3.endpoint.as_ref().map(Url::as_str), Some("http://127.0.0.1:9/"));
        assert_eq!((bucket.name.as_str(), spool), ("t", PathBuf::from("t.spool")));
    }
}
