//! The baseline: a private Xvfb and PulseAudio, Chromium in kiosk mode, and ffmpeg that grabs the screen.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_testkit::ScratchDir;
use pagecast_testkit::command::{install_hint, program};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::cast::{FPS, HEIGHT, WIDTH};

/// Chromium without Debian's wrapper script, like Pagecast's.
pub(crate) const CHROMIUM: &str = "/usr/lib/chromium/chromium";
const NOBODY_UID: u32 = 65534;
const READY_TIMEOUT: Duration = Duration::from_secs(10);
const PULSE_SINK: &str = "EG_bench";

/// Flags of LiveKit Egress, except that the sandbox stays on, as in Pagecast.
const CHROMIUM_FLAGS: &[&str] = &[
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-infobars",
    "--disable-background-networking",
    "--enable-features=NetworkService,NetworkServiceInProcess",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-features=AudioServiceOutOfProcess,site-per-process,Translate,TranslateUI,\
     BlinkGenPropertyTrees",
    "--disable-hang-monitor",
    "--disable-ipc-flooding-protection",
    "--disable-popup-blocking",
    "--disable-prompt-on-repost",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--metrics-recording-only",
    "--safebrowsing-disable-auto-update",
    "--password-store=basic",
    "--use-mock-keychain",
    "--kiosk",
    "--disable-translate",
    "--autoplay-policy=no-user-gesture-required",
    "--window-position=0,0",
];

/// Flags for WebGL without a GPU. They do not change how Chromium composes pages.
const WEBGL_FLAGS: &[&str] =
    &["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"];

/// A page on its own X server, with a browser and a recorder.
#[derive(Debug)]
pub(crate) struct BaselineRecorder {
    home: ScratchDir,
    display: String,
    children: Vec<Child>,
    ffmpeg: Option<Child>,
}

impl BaselineRecorder {
    /// Starts X server, sound daemon and browser.
    pub(crate) fn start(url: &str) -> Result<Self> {
        let home = ScratchDir::new()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
        if geteuid().is_root() {
            chown(home.path(), Some(NOBODY_UID), Some(NOBODY_UID))
                .context("cannot give a folder to nobody")?;
        }
        let mut baseline = Self { home, display: String::new(), children: Vec::new(), ffmpeg: None };
        baseline.start_pulseaudio()?;
        baseline.start_xvfb()?;
        baseline.wait_for_pulseaudio()?;
        let mut browser = baseline.command(CHROMIUM);
        browser.env("PULSE_SINK", PULSE_SINK).args(CHROMIUM_FLAGS).args(WEBGL_FLAGS);
        // Chromium makes a window of the size of the screen one pixel smaller. One more row prevents that.
        browser.arg(format!("--window-size={WIDTH},{}", HEIGHT + 1));
        browser.arg(format!("--user-data-dir={}", baseline.home.join("profile").display())).arg(url);
        baseline.spawn(&mut browser)?;
        Ok(baseline)
    }

    /// Starts ffmpeg with the encoder settings of LiveKit Egress (x264 veryfast, main, 4500 kbit/s, AAC 128
    /// kbit/s).
    pub(crate) fn record(&mut self, file: &Path) -> Result<()> {
        let mut ffmpeg = self.encode_command(&["-g", "300", "-keyint_min", "30"]);
        // ffmpeg runs as nobody, who cannot create files in this folder.
        fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o666))?;
        ffmpeg.arg(file);
        self.spawn_ffmpeg(ffmpeg)
    }

    /// Starts ffmpeg with the stream settings of LiveKit Egress (keyframes every four seconds only, constant
    /// bitrate), to one or several RTMP servers.
    pub(crate) fn stream(&mut self, urls: &[String]) -> Result<()> {
        let mut ffmpeg = self.encode_command(&[
            "-minrate",
            "4500k",
            "-g",
            "120",
            "-x264-params",
            "scenecut=0:nal-hrd=cbr",
        ]);
        if let [url] = urls {
            ffmpeg.args(["-f", "flv", url]);
        } else {
            let outputs: Vec<_> = urls.iter().map(|url| format!("[f=flv]{url}")).collect();
            ffmpeg.args(["-map", "0:v", "-map", "1:a", "-flags", "+global_header", "-f", "tee"]);
            ffmpeg.arg(outputs.join("|"));
        }
        self.spawn_ffmpeg(ffmpeg)
    }

    /// An ffmpeg command that encodes picture and sound, without an output.
    fn encode_command(&self, keyframes: &[&str]) -> Command {
        let mut ffmpeg = self.grab_command();
        ffmpeg.args(["-f", "pulse", "-thread_queue_size", "1024", "-i", &format!("{PULSE_SINK}.monitor")]);
        ffmpeg.args(["-c:v", "libx264", "-preset", "veryfast", "-profile:v", "main", "-pix_fmt", "yuv420p"]);
        ffmpeg.args(["-b:v", "4500k", "-maxrate", "4500k", "-bufsize", "9000k"]).args(keyframes);
        ffmpeg.args(["-r", &FPS.to_string(), "-c:a", "aac", "-b:a", "128k", "-ar", "44100"]);
        ffmpeg
    }

    fn spawn_ffmpeg(&mut self, mut ffmpeg: Command) -> Result<()> {
        ffmpeg.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.ffmpeg = Some(ffmpeg.spawn().context(install_hint("ffmpeg"))?);
        Ok(())
    }

    /// An ffmpeg command that grabs the screen, without an output.
    pub(crate) fn grab_command(&self) -> Command {
        let mut ffmpeg = self.command("ffmpeg");
        ffmpeg.args(["-y", "-v", "error", "-f", "x11grab", "-draw_mouse", "0"]);
        ffmpeg.args(["-framerate", &FPS.to_string()]);
        ffmpeg.args(["-video_size", &format!("{WIDTH}x{HEIGHT}"), "-thread_queue_size", "1024"]);
        ffmpeg.args(["-i", &format!("{}.0+0,0", self.display)]);
        ffmpeg
    }

    /// Interrupts ffmpeg, which then finishes its file. Does not wait.
    pub(crate) fn interrupt(&self) -> Result<()> {
        let ffmpeg = self.ffmpeg.as_ref().context("ffmpeg was not started")?;
        kill_process(Pid::from_child(ffmpeg), Signal::INT).context("ffmpeg ended early")
    }

    /// Waits for the file, then stops all processes.
    pub(crate) fn finish(mut self) -> Result<()> {
        if let Some(mut ffmpeg) = self.ffmpeg.take() {
            // ffmpeg exits with 255 when it was interrupted.
            let status = ffmpeg.wait()?;
            ensure!(status.success() || status.code() == Some(255), "ffmpeg ended with {status}");
        }
        Ok(())
    }

    fn start_pulseaudio(&mut self) -> Result<()> {
        let mut pulse = self.command("pulseaudio");
        pulse.args(["-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit"]);
        pulse.args(["-L", &format!("module-native-protocol-unix socket={}", self.home.join("pa").display())]);
        pulse.args(["-L", &format!("module-null-sink sink_name={PULSE_SINK}")]);
        self.spawn(&mut pulse)
    }

    fn start_xvfb(&mut self) -> Result<()> {
        let mut xvfb = self.command("Xvfb");
        // When Xvfb is ready, it prints the display number.
        xvfb.args(["-displayfd", "1", "-screen", "0", &format!("{WIDTH}x{HEIGHT}x24")]);
        xvfb.args(["-ac", "-nolisten", "tcp", "-nolisten", "unix"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = xvfb.spawn().context(install_hint("Xvfb"))?;
        let stdout = child.stdout.take();
        self.children.push(child);
        let mut number = String::new();
        BufReader::new(stdout.context("Xvfb has no output")?).read_line(&mut number)?;
        ensure!(!number.trim().is_empty(), "Xvfb did not start");
        self.display = format!(":{}", number.trim());
        Ok(())
    }

    fn wait_for_pulseaudio(&self) -> Result<()> {
        let started = Instant::now();
        while !self.home.join("pa").exists() {
            if started.elapsed() > READY_TIMEOUT {
                bail!("PulseAudio does not start");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn spawn(&mut self, command: &mut Command) -> Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let name = PathBuf::from(command.get_program());
        self.children.push(command.spawn().with_context(|| install_hint(&name.to_string_lossy()))?);
        Ok(())
    }

    /// A program with the environment of this X server; as nobody if the bench runs as root.
    fn command(&self, name: &str) -> Command {
        let mut command = program(name);
        command.env("XDG_RUNTIME_DIR", self.home.path()).env("HOME", self.home.path());
        command.env("PULSE_SERVER", format!("unix:{}", self.home.join("pa").display()));
        command.env("DISPLAY", &self.display).current_dir(self.home.path());
        if geteuid().is_root() {
            command.uid(NOBODY_UID).gid(NOBODY_UID);
        }
        command
    }
}

impl Drop for BaselineRecorder {
    fn drop(&mut self) {
        let all = || self.ffmpeg.iter().chain(&self.children);
        for child in all() {
            kill_process(Pid::from_child(child), Signal::TERM).ok();
        }
        for child in self.ffmpeg.iter_mut().chain(&mut self.children) {
            terminate(child);
        }
    }
}

fn terminate(child: &mut Child) {
    let started = Instant::now();
    while child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if started.elapsed() > Duration::from_secs(3) {
            child.kill().ok();
            child.wait().ok();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
