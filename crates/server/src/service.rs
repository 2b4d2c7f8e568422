//! State and operations shared by all dialects.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::Bytes;
use pagecast_core::dry_run::DryRunReport;
use pagecast_core::spec::{Layer, Recording, Room, RoomIds, RoomService, RoomUrl, Secret, Source, Storage};
use pagecast_core::{CastSpec, SpecError};
use pagecast_fleet::{Cast, CastId, CreateOutcome, Fleet, NewCast, UnixMs, WorkerId};

use crate::app::{Application, ApplicationRegistry, Settings, StorageLocation};
use crate::audit::AuditLog;
use crate::config::Config;
use crate::peer::PeerClient;
use crate::sign_in_code::SignInCode;
use crate::volcengine::token::{MAX_NONCE, Privilege, Token};

/// A wall clock, in Unix milliseconds. Tests inject their own.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// Address that stands for the embedded rooms in stored descriptions of casts. Whoever claims a cast replaces
/// it by the real one and adds a token: a restart of the service changes the one, and the other expires. The
/// name is reserved and resolves nowhere (RFC 6761).
const EMBEDDED_ROOMS_URL: &str = "http://rooms.invalid/";

/// Whether the stored description of a cast names the embedded rooms.
#[must_use]
pub fn is_embedded_room(service: &RoomService) -> bool {
    service.url().reveal() == EMBEDDED_ROOMS_URL
}

/// The embedded rooms, as far as the APIs need them.
pub trait EmbeddedRooms: Debug + Send + Sync {
    /// Announces that a cast will publish in this room, so that viewers may wait there.
    fn expect_publisher(&self, ids: &RoomIds);
    /// URL at which viewers watch the room.
    fn watch_url(&self, ids: &RoomIds) -> String;
    /// Number of viewers in the room now. `None` if another node of the fleet may carry the room.
    fn viewer_count(&self, ids: &RoomIds) -> Option<usize>;
}

/// Evidence of casts in the store of the fleet, which outlives the nodes that it is from.
#[async_trait]
pub trait StoredEvidence: Debug + Send + Sync {
    /// Names and sizes of the files of a cast, at most `max`.
    ///
    /// # Errors
    /// The store cannot be read.
    async fn list(&self, cast: &CastId, max: usize) -> io::Result<Vec<(String, u64)>>;

    /// Reads a file of a cast; `None` if there is none.
    ///
    /// # Errors
    /// The store cannot be read, or the file has more than `max_bytes`.
    async fn read(&self, cast: &CastId, name: &str, max_bytes: usize) -> io::Result<Option<Vec<u8>>>;
}

/// Recordings in their storages, as far as the REST API shows them.
pub trait StoredRecordings: Debug + Send + Sync {
    /// Opens the storage of a cast's recording, or the backup storage. Sends nothing yet.
    ///
    /// # Errors
    /// The storage cannot be opened, or its files cannot be read, as those of video on demand.
    fn open(&self, cast: &Cast, backup: bool) -> io::Result<Arc<dyn RecordingReader>>;
}

/// Files of one recording.
#[async_trait]
pub trait RecordingReader: Debug + Send + Sync {
    /// Reads at most `max` bytes of a file from this offset, and the size of the file; `None` if there is no
    /// such file. A name has no folders.
    ///
    /// # Errors
    /// The storage cannot be read.
    async fn read(&self, name: &str, from: u64, max: usize) -> io::Result<Option<(Bytes, u64)>>;

    /// Whether the files are in a folder of this machine, which other nodes do not have.
    fn is_local(&self) -> bool;
}

/// Tests storages by the code that stores recordings.
#[async_trait]
pub trait StorageTester: Debug + Send + Sync {
    /// Writes, reads and removes a small object. Folders are relative to the data folder.
    async fn test(&self, storage: &Storage) -> Vec<StorageTestStep>;
}

/// What came of one step of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageTestStep {
    /// Name of the step: `write`, `read` or `remove`.
    pub step: &'static str,
    /// Why it failed, if it did, without secrets.
    pub error: Option<String>,
    /// Time that it took.
    pub duration: Duration,
}

/// Opens pages once without outputs, as casts of this node would.
#[async_trait]
pub trait PageChecker: Debug + Send + Sync {
    /// Opens the page of this cast, and returns what was found, within about 25 s.
    ///
    /// # Errors
    /// No process can be started for the page.
    async fn check(&self, spec: CastSpec) -> io::Result<DryRunReport>;
}

/// State of the request handlers.
#[derive(Clone)]
pub struct Service {
    /// The fleet: casts, workers and outbox.
    pub fleet: Arc<dyn Fleet>,
    /// Name of this node in the fleet.
    pub node: WorkerId,
    /// The applications.
    pub apps: Arc<ApplicationRegistry>,
    /// The configuration.
    pub config: Arc<Config>,
    /// The embedded rooms, unless they are disabled.
    pub rooms: Option<Arc<dyn EmbeddedRooms>>,
    /// The other nodes of the fleet, if there is a channel to them.
    pub peers: Option<PeerClient>,
    /// Evidence in the store of the fleet, if it has one.
    pub evidence: Option<Arc<dyn StoredEvidence>>,
    /// The recordings, unless nobody reads them here.
    pub recordings: Option<Arc<dyn StoredRecordings>>,
    /// Tests storages, on a node that can.
    pub storage_tester: Option<Arc<dyn StorageTester>>,
    /// Opens pages for dry runs, on a node that runs casts.
    pub page_checker: Option<Arc<dyn PageChecker>>,
    /// The wall clock.
    pub clock: Clock,
    /// Whether the service is shutting down and accepts no more casts.
    pub draining: Arc<AtomicBool>,
    /// Number of live API nodes of the fleet, which share each rate limit; 0 if it is not known.
    pub live_api_nodes: Arc<AtomicU32>,
    /// Requests that are to be recorded.
    pub audit: Arc<AuditLog>,
    /// Code with which the console can be opened once.
    pub sign_in_code: Arc<SignInCode>,
}

impl Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl Service {
    /// Current time in Unix milliseconds.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        (self.clock)()
    }

    /// Creates a cast. While a service that is alone drains or shuts down, the queue counts as full.
    ///
    /// # Errors
    /// As [`Casts::create`](pagecast_fleet::Casts::create).
    pub async fn create(&self, new: NewCast) -> Result<CreateOutcome, pagecast_fleet::Error> {
        // In a fleet, other nodes claim the cast.
        if !self.fleet.is_shared() && (self.is_draining() || self.is_node_draining().await) {
            return Ok(CreateOutcome::QueueFull);
        }
        self.fleet.create(new).await
    }

    /// Whether the service is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether this node claims no more casts.
    async fn is_node_draining(&self) -> bool {
        self.fleet.workers().await.iter().any(|(id, status)| *id == self.node && status.draining)
    }

    /// Number of live API nodes of the fleet, which share each rate limit; 0 if it is not known.
    #[must_use]
    pub(crate) fn api_nodes(&self) -> u32 {
        self.live_api_nodes.load(Ordering::Relaxed)
    }

    /// The node that runs a cast, if it is another one that can be asked.
    #[must_use]
    pub fn other_node_of<'a>(&'a self, cast: &'a Cast) -> Option<(&'a PeerClient, &'a WorkerId)> {
        let (peers, worker) = self.peers.as_ref().zip(cast.worker.as_ref())?;
        (worker != peers.own()).then_some((peers, worker))
    }

    /// Generates an id for a new cast.
    #[must_use]
    pub fn new_cast_id(&self) -> CastId {
        CastId::new(self.now(), random_bytes())
    }

    /// Creates the description of a cast of this page with the application's defaults, without outputs.
    #[must_use]
    pub fn new_cast_spec(&self, app: &Application, mut source: Source) -> CastSpec {
        source.context.tls.ca.clone_from(&app.settings.ca);
        CastSpec {
            network: app.settings.network.clone(),
            limits: app.settings.limits.to_spec(),
            ..CastSpec::new(source)
        }
    }

    /// Path of the cast's folder of a kind (`evidence`) in the data folder.
    #[must_use]
    pub fn cast_folder(&self, kind: &str, id: &CastId) -> PathBuf {
        self.config.data.join(kind).join(id.as_str())
    }

    /// Creates the description of a recording of this cast, stored in `to`, in the application's default
    /// storage, or in the folder `recordings` of whichever machine runs the cast.
    #[must_use]
    pub fn new_recording(&self, app: &Application, id: &CastId, to: Option<Storage>) -> Recording {
        let storage = &app.settings.storage;
        let to = to.or_else(|| storage.default.as_ref().map(StorageLocation::to_spec));
        Recording {
            backup: storage.backup.as_ref().map(StorageLocation::to_spec),
            upload_timeout: Duration::from_secs(self.config.casts.upload_timeout_s),
            // The recording gets a subfolder named after the cast.
            ..Recording::new(id.as_str(), to.map_or_else(|| local_storage(None), with_absolute_path))
        }
    }

    /// Mints a token of Volcengine RTC with which a cast can publish for as long as it may wait and run.
    fn volcengine_token(
        &self,
        app: &Application,
        app_key: &Secret,
        ids: &RoomIds,
    ) -> Result<Secret, SpecError> {
        let issued_s = u32::try_from(self.now() / 1000).unwrap_or(u32::MAX);
        let lifetime_s = app.settings.limits.max_time_s.saturating_add(self.config.casts.max_wait_s());
        let expires_s = issued_s.saturating_add(u32::try_from(lifetime_s).unwrap_or(u32::MAX));
        let token = Token {
            app_id: app.settings.app_id.as_deref().unwrap_or_default(),
            room: &ids.room,
            user: &ids.user,
            nonce: 1 + u32::from_le_bytes(random_bytes()) % MAX_NONCE,
            issued_s,
            expires_s,
            privileges: &[(Privilege::Publish, expires_s)],
        };
        let invalid = |_| SpecError::Room {
            what: "the application's app_id",
            why: "a token needs one of 24 characters",
        };
        token.mint(app_key).map(Secret::new).map_err(invalid)
    }

    /// Creates the description of a room on the application's server. An embedded room is announced to its
    /// viewers.
    ///
    /// # Errors
    /// As [`Service::describe_room`].
    pub fn new_room(&self, app: &Application, ids: RoomIds, layers: Vec<Layer>) -> Result<Room, SpecError> {
        let room = self.describe_room(app, ids, layers)?;
        if let Some(rooms) = self.rooms.as_ref().filter(|_| is_embedded_room(&room.service)) {
            rooms.expect_publisher(&room.ids);
        }
        Ok(room)
    }

    /// Creates the description of a room that nobody will publish in.
    ///
    /// # Errors
    /// The embedded rooms are disabled, or no token can be minted.
    pub(crate) fn describe_room(
        &self,
        app: &Application,
        ids: RoomIds,
        layers: Vec<Layer>,
    ) -> Result<Room, SpecError> {
        let Settings { room, codec, ice, .. } = &app.settings;
        let token = |app_key: &Secret| self.volcengine_token(app, app_key, &ids);
        let service = match (room.service(token)?, &self.rooms) {
            (Some(service), _) => service,
            (None, Some(_)) => RoomService::Whip { url: RoomUrl::parse(EMBEDDED_ROOMS_URL)?, token: None },
            (None, None) => {
                return Err(SpecError::Room { what: "the embedded rooms", why: "they are switched off" });
            }
        };
        Ok(Room { service, ids, layers, codec: *codec, ice: ice.to_spec() })
    }
}

/// Folder of recordings on the machine that runs the cast: relative to its data folder. Applications whose
/// casts choose names have one of their own.
pub(crate) fn local_storage(app: Option<&Application>) -> Storage {
    let folder = Path::new("recordings");
    Storage::Folder(app.map_or_else(|| folder.to_owned(), |app| folder.join(&app.name)))
}

/// A folder that the configuration names is relative to the working directory of this process.
fn with_absolute_path(storage: Storage) -> Storage {
    match storage {
        Storage::Folder(path) => Storage::Folder(std::path::absolute(&path).unwrap_or(path)),
        other => other,
    }
}

/// Cryptographically secure random bytes.
#[must_use]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system provides random numbers");
    bytes
}

/// Compares a secret in constant time.
#[must_use]
pub(crate) fn constant_time_eq(secret: &Secret, given: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(secret.reveal().as_bytes(), given.as_bytes()).is_ok()
}

/// An error and its sources in one line, for logs.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
