//! The three together: a browser on its own display and sound card.

use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use pagecast_core::spec::{Mobile, Source};
use pagecast_core::{Samples, Tick};

use crate::browser::{self, Browser, browser_user, local_state, preferences};
use crate::child::{RunFolder, User};
use crate::clock::Origin;
use crate::display::{self, Display};
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
    #[error("started as root, the browser must run as another user")]
    User(#[source] std::io::Error),
    /// See [`display::Error`].
    #[error(transparent)]
    Display(#[from] display::Error),
    /// See [`sound::Error`].
    #[error(transparent)]
    Sound(#[from] sound::Error),
    /// The thread that watches the browser cannot be started.
    #[error("cannot start the sync thread")]
    Probe(#[source] std::io::Error),
    /// See [`browser::Error`].
    #[error(transparent)]
    Browser(#[from] browser::Error),
}

/// A page in a browser, shown and heard by nobody but us. Everything it consists of goes when it is dropped.
#[derive(Debug)]
pub struct Page {
    // Dropped in this order: the browser before who waits for its answers and before what it is connected to, the folder last.
    /// The browser.
    pub browser: Browser,
    _probe: Probe,
    /// The display.
    pub display: Display,
    /// The sound card.
    pub sound: Sound,
    _folder: RunFolder,
}

impl Page {
    /// Starts display, sound card and browser with an empty page. Ticks and samples flow once the capture has begun. The
    /// browser dies with the calling thread.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(
        source: &Source,
        ticks: SyncSender<Tick>,
        samples: SyncSender<Samples>,
    ) -> Result<Self, Error> {
        let user = browser_user().map_err(Error::User)?;
        let fail = |e| Error::Folder(std::env::temp_dir(), e);
        let mut folder = RunFolder::create(user).map_err(fail)?;
        for name in ["home", "profile", "profile/Default", "tmp"] {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).and_then(|()| give(&path, user)).map_err(fail)?;
        }
        for (name, settings) in [
            ("Default/Preferences", preferences()),
            ("Local State", local_state(source.context.basic_auth.is_some())),
        ] {
            let path = folder.path().join("profile").join(name);
            std::fs::write(&path, settings.to_string()).and_then(|()| give(&path, user)).map_err(fail)?;
        }
        let (wayland, pulse) = (folder.path().join("wayland"), folder.path().join("pulse"));
        let (origin, depth) = (Origin::unset(), Depth::default());
        let config = display::Config {
            socket: wayland.clone(),
            size: source.size,
            fps: source.fps,
            scale_factor: source.scale_factor,
            viewport: source.context.mobile.map(Mobile::viewport),
            origin: origin.clone(),
            depth: depth.clone(),
        };
        let display = Display::start(config, ticks)?;
        let config = sound::Config {
            socket: pulse.clone(),
            origin,
            player_delay: PlayerDelay::new(&depth, source.fps),
        };
        let sound = sound::start(config, samples)?;
        for socket in [&wayland, &pulse] {
            give(socket, user).map_err(fail)?;
        }
        let path = folder.path().to_owned();
        let around = browser::Surroundings { folder: &path, wayland: &wayland, pulse: &pulse, user };
        let browser = Browser::start(source, &around, |child| folder.watch(child))?;
        let probe =
            Probe::start(browser.tracer(), display.commits(), source.fps, depth).map_err(Error::Probe)?;
        Ok(Self { browser, _probe: probe, display, sound, _folder: folder })
    }

    /// Starts the capture: the next tick is the first frame and the origin of all time stamps.
    pub fn begin(&self) {
        self.display.begin();
    }
}

fn give(path: &Path, user: Option<User>) -> std::io::Result<()> {
    match user {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}
