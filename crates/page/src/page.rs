//! A browser on its own display and sound card, with its own way to the network.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;
use std::task::Waker;

use pagecast_core::spec::{Mobile, NetworkPolicy, Source};
use pagecast_core::wake::SharedWaker;
use pagecast_core::{Samples, Tick};
use serde_json::Value;

use crate::av_sync::{LatencyProbe, MediaElementDelay, RenderLatency};
use crate::browser::{self, Browser, PagePolicy, profile_files};
use crate::child::{Isolation, ReservedUser, RunFolder, User};
use crate::clock::{Origin, OutputMute};
use crate::disk::{DiskMeter, DiskUsage, browser_folder};
use crate::display::{self, Display};
use crate::egress::{self, EgressProxy};
use crate::sound::{self, SoundCard};

/// Why a page cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder for the files of the browser cannot be created.
    #[error("cannot create a run folder for the browser in {}", .0.display())]
    CreateRunFolder(PathBuf, #[source] std::io::Error),
    /// No system user is available to run the browser as.
    #[error("cannot reserve a user for the browser, which pagecast needs when it runs as root")]
    ReserveUser(#[source] std::io::Error),
    /// The display cannot start, see [`display::Error`].
    #[error(transparent)]
    Display(#[from] display::Error),
    /// The sound card cannot start, see [`sound::Error`].
    #[error(transparent)]
    SoundCard(#[from] sound::Error),
    /// The egress proxy cannot start, see [`egress::Error`].
    #[error(transparent)]
    Egress(#[from] egress::Error),
    /// The thread that measures the render latency cannot be started.
    #[error("cannot start the A/V sync thread")]
    StartProbe(#[source] std::io::Error),
    /// The thread that measures disk usage cannot be started.
    #[error("cannot start the disk meter thread")]
    StartDiskMeter(#[source] std::io::Error),
    /// The trusted certificates cannot be set up, see [`browser::TrustError`].
    #[error(transparent)]
    TrustStore(#[from] browser::TrustError),
    /// The browser cannot start, see [`browser::Error`].
    #[error(transparent)]
    Browser(#[from] browser::Error),
}

/// What to show, and under which limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The page and its display.
    pub source: Source,
    /// What the page may do and signal.
    pub policy: PagePolicy,
    /// Which addresses the page may reach.
    pub network: NetworkPolicy,
    /// How much the browser may write to the disk, in bytes. Sets its own quota and the largest file;
    /// [`Page::disk_usage`] is the total.
    pub max_disk_bytes: u64,
}

/// A page in a browser with its own display, sound card and network proxy. Dropping it ends all of them.
///
/// The browser can be replaced; display and sound card keep running.
#[derive(Debug)]
pub struct Page {
    // Dropped in this order: the browser before what it is connected to, the run folder last.
    running_browser: Option<RunningBrowser>,
    /// The browser's way to the network.
    pub egress: EgressProxy,
    /// The display.
    pub display: Display,
    /// The sound card.
    pub sound: SoundCard,
    config: Config,
    user: Option<User>,
    isolation: Isolation,
    /// Process id of the browser, which leads its session; 0 before there is one.
    session_leader_pid: Arc<AtomicU32>,
    render_latency: RenderLatency,
    output_mute: OutputMute,
    /// Woken when the state of the browser has changed.
    waker: SharedWaker,
    /// Certificate database of the browsers: names below the home folder, and contents.
    trust_files: Vec<(String, Vec<u8>)>,
    /// Number of browsers started so far.
    browser_count: u32,
    disk_meter: DiskMeter,
    folder: RunFolder,
}

/// A browser and the probe that waits for its answers, which therefore is dropped after it.
#[derive(Debug)]
struct RunningBrowser {
    browser: Browser,
    _latency_probe: LatencyProbe,
}

impl Page {
    /// Starts display, sound card, egress proxy and a browser with an empty page. Ticks and samples are sent
    /// once the capture has begun. The kernel kills the browser when the calling thread ends.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        config: Config,
        ticks: SyncSender<Tick>,
        samples: SyncSender<Samples>,
    ) -> Result<Self, Error> {
        let reserved = ReservedUser::reserve().map_err(Error::ReserveUser)?;
        let user = reserved.as_ref().map(|reserved| reserved.user);
        let uid = user.map(|user| user.uid);
        let fail = |e| Error::CreateRunFolder(std::env::temp_dir(), e);
        let folder = RunFolder::create(reserved).map_err(fail)?;
        let (wayland, pulse) = (folder.path().join("wayland"), folder.path().join("pulse"));
        let (origin, output_mute, latency) =
            (Origin::unset(), OutputMute::default(), RenderLatency::default());
        let display = display::Config {
            socket: wayland.clone(),
            size: config.source.size,
            fps: config.source.fps,
            scale_factor: config.source.scale_factor,
            viewport: config.source.context.mobile.map(Mobile::viewport),
            origin: origin.clone(),
            output_mute: output_mute.clone(),
            render_latency: latency.clone(),
            client_uid: uid,
        };
        let display = Display::start(display, ticks)?;
        let sound = sound::Config {
            socket: pulse.clone(),
            origin,
            output_mute: output_mute.clone(),
            media_element_delay: MediaElementDelay::new(&latency, config.source.fps),
            client_uid: uid,
        };
        let sound = sound::start(sound, samples)?;
        for socket in [&wayland, &pulse] {
            std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
            chown_to(socket, user).map_err(fail)?;
        }
        let leader = Arc::new(AtomicU32::new(0));
        let clients = match uid {
            Some(uid) => egress::AllowedClients::User(uid),
            None => egress::AllowedClients::Session(Arc::clone(&leader)),
        };
        let egress = EgressProxy::start(egress::Config {
            allowed_clients: clients,
            ..egress::Config::new(config.network.clone())
        })?;
        let ca = config.source.context.tls.ca.as_ref();
        let database = |ca| browser::trust_database(ca, &folder.path().join("nssdb"));
        let trust = ca.map(database).transpose()?.unwrap_or_default();
        let disk = DiskMeter::start(folder.path()).map_err(Error::StartDiskMeter)?;
        let mut page = Self {
            running_browser: None,
            egress,
            display,
            sound,
            config,
            user,
            isolation: Isolation::detect(user, folder.path()),
            session_leader_pid: leader,
            render_latency: latency,
            output_mute,
            waker: SharedWaker::default(),
            trust_files: trust,
            browser_count: 0,
            disk_meter: disk,
            folder,
        };
        page.replace_browser()?;
        Ok(page)
    }

    /// Replaces the browser by a new one with an empty page and an empty profile.
    ///
    /// # Errors
    /// See [`Error`]. After an error there is no browser.
    pub fn replace_browser(&mut self) -> Result<(), Error> {
        let fail = |e| Error::CreateRunFolder(std::env::temp_dir(), e);
        self.session_leader_pid.store(0, Ordering::Release);
        drop(self.running_browser.take());
        self.browser_count += 1;
        self.disk_meter.set_browser(self.browser_count);
        let path = browser_folder(self.folder.path(), self.browser_count);
        self.folder.set_process_group(None).map_err(fail)?;
        let profile = profile_files(&self.config.source.context, &self.config.network);
        create_browser_folder(&path, self.user, &profile, &self.trust_files).map_err(fail)?;
        let run_folder = self.folder.path().to_owned();
        let launch = browser::LaunchConfig {
            folder: &path,
            wayland_socket: &self.folder.path().join("wayland"),
            pulse_socket: &self.folder.path().join("pulse"),
            egress: &self.egress,
            allow_udp: self.config.network.udp,
            user: self.user,
            isolated_run_folder: (self.isolation == Isolation::Namespaces).then_some(&*run_folder),
            max_disk_bytes: self.config.max_disk_bytes,
            output_mute: &self.output_mute,
            waker: &self.waker,
        };
        let Config { source, policy, .. } = &self.config;
        self.render_latency.reset();
        let (folder, leader) = (&mut self.folder, &self.session_leader_pid);
        let on_spawn = |child: &std::process::Child| {
            leader.store(child.id(), Ordering::Release);
            folder.set_process_group(Some(child))
        };
        let browser = Browser::start(source, *policy, &launch, on_spawn)?;
        let probe = LatencyProbe::start(
            browser.tracer(),
            self.display.commit_counters(),
            source.fps,
            self.render_latency.clone(),
        )
        .map_err(Error::StartProbe)?;
        self.running_browser = Some(RunningBrowser { browser, _latency_probe: probe });
        Ok(())
    }

    /// Sets who is woken when the state of this browser or of a later one has changed, a
    /// [`browser::PageLoad`] may go on, the disk usage has changed, or display or sound card have failed.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.set(waker.clone());
        self.display.set_waker(waker.clone());
        self.sound.set_waker(waker.clone());
        self.disk_meter.set_waker(waker.clone());
    }

    /// Disk usage of the running browser, measured within the last seconds.
    #[must_use]
    pub fn disk_usage(&self) -> DiskUsage {
        self.disk_meter.usage()
    }

    /// The running browser.
    ///
    /// # Errors
    /// [`browser::Error::BrowserExited`] if it could not be replaced.
    pub fn browser(&self) -> Result<&Browser, browser::Error> {
        self.running_browser.as_ref().map(|running| &running.browser).ok_or(browser::Error::BrowserExited)
    }

    /// How the browser is separated from those of other casts and from the service.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Starts the capture: the next tick is the first frame and the origin of all time stamps.
    pub fn start_capture(&self) {
        self.display.start_capture();
    }

    /// Keeps the page out of the outputs, or lets it in again, which is the initial state. While muted, the
    /// outputs repeat the last frame and are silent.
    pub fn set_output_muted(&self, muted: bool) {
        if muted { self.output_mute.mute() } else { self.output_mute.unmute() }
    }
}

/// Creates the home and profile of the browser. They belong to us until they are complete, so that the
/// browser's user cannot place a link where we write.
fn create_browser_folder(
    path: &Path,
    user: Option<User>,
    files: &[(&str, Value)],
    trust: &[(String, Vec<u8>)],
) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(path)?;
    let folders = ["home", "profile", "profile/Default", "tmp"];
    for name in folders {
        std::fs::create_dir(path.join(name))?;
    }
    for (name, contents) in files {
        let file = path.join("profile").join(name);
        std::fs::write(&file, contents.to_string())?;
        chown_to(&file, user)?;
    }
    if !trust.is_empty() {
        let home = path.join("home");
        browser::TRUST_FOLDERS.iter().try_for_each(|name| std::fs::create_dir(home.join(name)))?;
        for (name, contents) in trust {
            std::fs::write(home.join(name), contents)?;
            chown_to(&home.join(name), user)?;
        }
        browser::TRUST_FOLDERS.iter().rev().try_for_each(|name| chown_to(&home.join(name), user))?;
    }
    folders.iter().rev().try_for_each(|name| chown_to(&path.join(name), user))?;
    chown_to(path, user)
}

fn chown_to(path: &Path, user: Option<User>) -> std::io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}
