//! The three together: a browser on its own display and sound card.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;

use pagecast_core::spec::{Mobile, Network, Source};
use pagecast_core::{Samples, Tick};
use serde_json::Value;

use crate::browser::{self, Browser, Rules, profile};
use crate::child::{Isolation, RunFolder, User, UserLease};
use crate::clock::{Gate, Origin};
use crate::disk::{DiskMeter, DiskUsage, browser_folder};
use crate::display::{self, Display};
use crate::guard::{self, Guard};
use crate::sound::{self, Sound};
use crate::sync::{Depth, PlayerDelay, Probe};

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder for the browser's files cannot be made.
    #[error("cannot prepare a folder for the browser under {}", .0.display())]
    Folder(PathBuf, #[source] std::io::Error),
    /// There is nobody to run the browser as.
    #[error("started as root, the browser must run as a user of its own, and there is none")]
    User(#[source] std::io::Error),
    /// See [`display::Error`].
    #[error(transparent)]
    Display(#[from] display::Error),
    /// See [`sound::Error`].
    #[error(transparent)]
    Sound(#[from] sound::Error),
    /// See [`guard::Error`].
    #[error(transparent)]
    Guard(#[from] guard::Error),
    /// The thread that watches the browser cannot be started.
    #[error("cannot start the sync thread")]
    Probe(#[source] std::io::Error),
    /// The thread that measures the browser's files cannot be started.
    #[error("cannot start the disk thread")]
    Disk(#[source] std::io::Error),
    /// See [`browser::TrustError`].
    #[error(transparent)]
    Trust(#[from] browser::TrustError),
    /// See [`browser::Error`].
    #[error(transparent)]
    Browser(#[from] browser::Error),
}

/// What to show, and what must be known of it from the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The page and its display.
    pub source: Source,
    /// What is agreed with it.
    pub rules: Rules,
    /// What it may reach.
    pub network: Network,
    /// What the browser may write to the disk, in bytes. Its own quota and the largest size of a file come
    /// from it; [`Page::disk_usage`] says what it takes in all.
    pub disk_bytes: u64,
}

/// A page in a browser, shown and heard by nobody but us. Everything it consists of goes when it is dropped.
///
/// The browser may be replaced: display and sound card stay, and count on.
#[derive(Debug)]
pub struct Page {
    // Dropped in this order: the browser before what it is connected to, the folder last.
    running: Option<Running>,
    /// The browser's way to the network.
    pub guard: Guard,
    /// The display.
    pub display: Display,
    /// The sound card.
    pub sound: Sound,
    config: Config,
    user: Option<User>,
    isolation: Isolation,
    /// Process id of the browser, which leads its session; 0 before there is one.
    leader: Arc<AtomicU32>,
    depth: Depth,
    gate: Gate,
    /// Files that make its browsers trust the certificates they are given: names below the home folder, and
    /// contents.
    trust: Vec<(String, Vec<u8>)>,
    /// Browsers started so far.
    browsers: u32,
    disk: DiskMeter,
    folder: RunFolder,
}

/// A browser and who waits for its answers, which goes after it.
#[derive(Debug)]
struct Running {
    browser: Browser,
    _probe: Probe,
}

impl Page {
    /// Starts display, sound card, guard and browser with an empty page. `network` is what it may reach.
    /// Ticks and samples flow once the capture has begun. The browser dies with the calling thread.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        config: Config,
        ticks: SyncSender<Tick>,
        samples: SyncSender<Samples>,
    ) -> Result<Self, Error> {
        let lease = UserLease::acquire().map_err(Error::User)?;
        let user = lease.as_ref().map(|lease| lease.user);
        let uid = user.map(|user| user.uid);
        let fail = |e| Error::Folder(std::env::temp_dir(), e);
        let folder = RunFolder::create(lease).map_err(fail)?;
        let (wayland, pulse) = (folder.path().join("wayland"), folder.path().join("pulse"));
        let (origin, gate, depth) = (Origin::unset(), Gate::default(), Depth::default());
        let display = display::Config {
            socket: wayland.clone(),
            size: config.source.size,
            fps: config.source.fps,
            scale_factor: config.source.scale_factor,
            viewport: config.source.context.mobile.map(Mobile::viewport),
            origin: origin.clone(),
            gate: gate.clone(),
            depth: depth.clone(),
            client_uid: uid,
        };
        let display = Display::start(display, ticks)?;
        let sound = sound::Config {
            socket: pulse.clone(),
            origin,
            gate: gate.clone(),
            player_delay: PlayerDelay::new(&depth, config.source.fps),
            client_uid: uid,
        };
        let sound = sound::start(sound, samples)?;
        for socket in [&wayland, &pulse] {
            std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
            give(socket, user).map_err(fail)?;
        }
        let leader = Arc::new(AtomicU32::new(0));
        let clients = match uid {
            Some(uid) => guard::Clients::User(uid),
            None => guard::Clients::Session(Arc::clone(&leader)),
        };
        let guard = Guard::start(guard::Config { clients, ..guard::Config::new(config.network.clone()) })?;
        let ca = config.source.context.tls.ca.as_ref();
        let database = |ca| browser::trust_database(ca, &folder.path().join("nssdb"));
        let trust = ca.map(database).transpose()?.unwrap_or_default();
        let disk = DiskMeter::start(folder.path()).map_err(Error::Disk)?;
        let mut page = Self {
            running: None,
            guard,
            display,
            sound,
            config,
            user,
            isolation: Isolation::of(user, folder.path()),
            leader,
            depth,
            gate,
            trust,
            browsers: 0,
            disk,
            folder,
        };
        page.renew()?;
        Ok(page)
    }

    /// Replaces the browser by a fresh one, with an empty page: nothing of the old one is left.
    ///
    /// # Errors
    /// See [`Error`]; then there is no browser.
    pub fn renew(&mut self) -> Result<(), Error> {
        let fail = |e| Error::Folder(std::env::temp_dir(), e);
        self.leader.store(0, Ordering::Release);
        drop(self.running.take());
        self.browsers += 1;
        self.disk.measure_browser(self.browsers);
        let path = browser_folder(self.folder.path(), self.browsers);
        self.folder.watch(None).map_err(fail)?;
        let profile = profile(&self.config.source.context, &self.config.network);
        make_browser_folder(&path, self.user, &profile, &self.trust).map_err(fail)?;
        let run_folder = self.folder.path().to_owned();
        let around = browser::Surroundings {
            folder: &path,
            wayland: &self.folder.path().join("wayland"),
            pulse: &self.folder.path().join("pulse"),
            guard: &self.guard,
            udp: self.config.network.udp,
            user: self.user,
            covered_but: (self.isolation == Isolation::Namespaces).then_some(&*run_folder),
            disk_bytes: self.config.disk_bytes,
            gate: &self.gate,
        };
        let Config { source, rules, .. } = &self.config;
        self.depth.forget();
        let (folder, leader) = (&mut self.folder, &self.leader);
        let watch = |child: &std::process::Child| {
            leader.store(child.id(), Ordering::Release);
            folder.watch(Some(child))
        };
        let browser = Browser::start(source, *rules, &around, watch)?;
        let probe = Probe::start(browser.tracer(), self.display.commits(), source.fps, self.depth.clone())
            .map_err(Error::Probe)?;
        self.running = Some(Running { browser, _probe: probe });
        Ok(())
    }

    /// Disk usage of the running browser, as it was measured within the last seconds.
    #[must_use]
    pub fn disk_usage(&self) -> DiskUsage {
        self.disk.usage()
    }

    /// The browser.
    ///
    /// # Errors
    /// There is none, because it could not be replaced.
    pub fn browser(&self) -> Result<&Browser, browser::Error> {
        self.running.as_ref().map(|running| &running.browser).ok_or(browser::Error::Gone)
    }

    /// What separates the browser from those of other casts and from the service.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Starts the capture: the next tick is the first frame and the origin of all time stamps.
    pub fn begin(&self) {
        self.display.begin();
    }

    /// Keeps the page out of the outputs, or lets it in again; it is in at first. While it is out, the last
    /// picture stays, and silence.
    pub fn hold(&self, out: bool) {
        if out { self.gate.shut() } else { self.gate.open() }
    }
}

/// Makes the browser's home and profile. They are ours until they are complete: nobody can slip a link under
/// what we write.
fn make_browser_folder(
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
        give(&file, user)?;
    }
    if !trust.is_empty() {
        let home = path.join("home");
        browser::TRUST_FOLDERS.iter().try_for_each(|name| std::fs::create_dir(home.join(name)))?;
        for (name, contents) in trust {
            std::fs::write(home.join(name), contents)?;
            give(&home.join(name), user)?;
        }
        browser::TRUST_FOLDERS.iter().rev().try_for_each(|name| give(&home.join(name), user))?;
    }
    folders.iter().rev().try_for_each(|name| give(&path.join(name), user))?;
    give(path, user)
}

fn give(path: &Path, user: Option<User>) -> std::io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}
