//! Web site with the pages and the video, and the folder for recordings.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::PageServer;
use pagecast_testkit::command::{install_hint, program};
use pagecast_testkit::media::GrayImage;
use pagecast_testkit::timecode::{Timecode, TimecodePosition};

use crate::cast::{FPS, HEIGHT, WIDTH};
use crate::page::BenchPage;

/// Size of a timecode, in pixels.
pub(crate) const TIMECODE_SIZE: (usize, usize) = (256, 32);

/// The web site, on loopback.
#[derive(Debug)]
pub(crate) struct BenchSite {
    server: PageServer,
    folder: PathBuf,
}

impl BenchSite {
    /// Starts the site. The video of the video page has `video_s` seconds and repeats.
    pub(crate) fn open(folder: &Path, video_s: u32) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let media = folder.join("media");
        fs::create_dir_all(&media)?;
        let source = media.join(format!("source-{video_s}s.mp4"));
        if !source.exists() {
            make_video(&source, video_s)?;
        }
        fs::copy(&source, media.join("source.mp4"))?;
        let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
        let server = PageServer::start()?
            .with_folder("/bench/", &bench.join("pages"))
            .with_folder("/demo/", &bench.join("../demo"))
            .with_folder("/packages/", &bench.join("../target/third-party/node_modules"))
            .with_folder("/media/", &media);
        Ok(Self { server, folder: folder.to_owned() })
    }

    /// URL of a page for one cast.
    pub(crate) fn page_url(&self, page: BenchPage, cast: u32) -> String {
        self.server.url(&format!("/bench/{}?cast={cast}", page.file()))
    }

    /// URL of a page whose timecode has the machine's clock instead of the page's
    /// ([`crate::outputs::delay`]).
    pub(crate) fn page_url_with_machine_clock(&self, page: BenchPage, cast: u32) -> String {
        format!("{}&clock=machine", self.page_url(page, cast))
    }

    /// URL of a single picture of a page.
    pub(crate) fn still_url(&self, page: BenchPage, counter: u32) -> String {
        self.server.url(&format!("/bench/{}?at={counter}", page.file()))
    }

    /// URL of the testkit's page with flashes and beeps, for one cast.
    pub(crate) fn flash_beep_url(&self, cast: u32) -> String {
        self.server.url(&flash_beep_path(cast))
    }

    /// Waits until a browser has requested the page with flashes and beeps.
    pub(crate) fn wait_until_requested(&self, cast: u32, limit: Duration) -> Result<()> {
        self.server.wait_for_request(&flash_beep_path(cast), limit)
    }

    pub(crate) fn wait_until_drawn(&self, cast: u32, limit: Duration) -> Result<()> {
        self.server.wait_for_request(&format!("/report/drawn/{cast}"), limit)
    }

    /// URL of the testkit's viewer page with `count` connections to a room.
    pub(crate) fn viewer_url(&self, whep: &str, id: u32, count: usize) -> String {
        self.server.url(&format!("/whep-viewer.html?absolute&id={id}&count={count}&whep={whep}"))
    }

    /// URL of the page that watches a room and measures gaps between pictures.
    pub(crate) fn watch_url(&self, query: &str) -> String {
        self.server.url(&format!("/bench/watch.html?{query}"))
    }

    /// URL of the page of `make demo`.
    pub(crate) fn demo_url(&self) -> String {
        self.server.url("/demo/index.html")
    }

    /// Waits for a report of a page.
    pub(crate) fn wait_until_reported(&self, what: &str, limit: Duration) -> Result<()> {
        self.server.wait_for_request(&format!("/report/{what}"), limit)
    }

    /// Values of all reports with this prefix.
    pub(crate) fn reported(&self, what: &str) -> Vec<String> {
        let start = format!("/report/{what}");
        self.server.requests().iter().filter_map(|r| Some(r.strip_prefix(&start)?.to_owned())).collect()
    }

    /// Path of the video of the video page.
    pub(crate) fn video_path(&self) -> PathBuf {
        self.folder.join("media/source.mp4")
    }

    /// Path of an output file.
    pub(crate) fn output_path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn flash_beep_path(cast: u32) -> String {
    format!("/sync.html?cast={cast}")
}

/// Generates a video: a pan over a textured background with film grain and a moving test pattern, at the
/// usual bitrate of its size, with a timecode.
fn make_video(path: &Path, seconds: u32) -> Result<()> {
    eprintln!("generating the video of the video page, once");
    let (width, height) = TIMECODE_SIZE;
    let blank = format!("color=c=0x808080:s={WIDTH}x{HEIGHT}:r={FPS},format=yuv444p,trim=end_frame=1");
    let filter = format!(
        "{blank},noise=alls=100:all_seed=7,gblur=sigma=40,eq=contrast=20:saturation=8[far];\
         {blank},noise=c0s=100:c0_seed=3,gblur=sigma=6,eq=contrast=4[near];\
         [far][near]blend=all_mode=softlight,loop=loop=-1:size=1,setpts=N/{FPS}/TB,\
         scroll=h=0.0025:v=0.001[ground];\
         testsrc2=s=384x216:r={FPS}[pattern];\
         [ground][pattern]overlay=x=440+400*sin(t):y=250+200*cos(t*0.7),noise=c0s=2:c0f=t[scene];\
         [scene][0:v]overlay=0:0,format=yuv420p[v];\
         sine=f=220:r=48000[low];sine=f=277:r=48000[high];[low][high]amix=2[a]"
    );
    let unfinished = path.with_extension("unfinished");
    let mut ffmpeg = program("ffmpeg");
    ffmpeg.args(["-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray"]);
    ffmpeg.args(["-video_size", &format!("{width}x{height}"), "-framerate", &FPS.to_string(), "-i", "-"]);
    ffmpeg.args([
        "-filter_complex",
        &filter,
        "-map",
        "[v]",
        "-map",
        "[a]",
        "-c:v",
        "libx264",
        "-preset",
        "faster",
    ]);
    ffmpeg.args([
        "-b:v",
        "4000k",
        "-maxrate",
        "5000k",
        "-bufsize",
        "8000k",
        "-g",
        "60",
        "-colorspace",
        "bt709",
    ]);
    ffmpeg.args(["-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]);
    ffmpeg.args(["-c:a", "aac", "-b:a", "128k", "-ac", "2", "-t", &seconds.to_string()]);
    ffmpeg.args(["-movflags", "+faststart", "-f", "mp4"]).arg(&unfinished);
    let mut child = ffmpeg.stdin(Stdio::piped()).spawn().context(install_hint("ffmpeg"))?;
    let mut pipe = child.stdin.take().context("ffmpeg has no input")?;
    let mut picture = GrayImage::new(width, height);
    for counter in 0..seconds * FPS {
        Timecode { counter, page_time: counter * 10_000 / FPS, event_time: None, user_bits: 0 }
            .draw(&mut picture, TimecodePosition::PAGE);
        if pipe.write_all(&picture.data).is_err() {
            break;
        }
    }
    drop(pipe);
    ensure!(child.wait()?.success(), "ffmpeg failed to generate the video");
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o644))?;
    fs::rename(&unfinished, path).context("cannot keep the video")
}
