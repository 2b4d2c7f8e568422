//! What all dialects share.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use pagecast_core::spec::{Layer, RoomService, Secret};
use pagecast_core::spec::{Recording, Room, RoomIds, Source, Storage};
use pagecast_core::{CastSpec, SpecError};
use pagecast_fleet::{CastId, CreateOutcome, Fleet, NewCast, UnixMs};

use crate::app::{Application, ApplicationRegistry, RoomProvider, VolcengineRooms};
use crate::config::Config;
use crate::volcengine::token::{MAX_NONCE, Privilege, Token};

/// Tells the time; tests have their own.
pub type Clock = Arc<dyn Fn() -> UnixMs + Send + Sync>;

/// The rooms of this service, as far as casts need them.
pub trait EmbeddedRooms: Debug + Send + Sync {
    /// Where a room is published to, templates and all, and the token for it.
    fn publish_service(&self, ids: &RoomIds) -> Result<RoomService, SpecError>;
    /// Where to watch it.
    fn watch_url(&self, ids: &RoomIds) -> String;
    /// Viewers in it now.
    fn viewer_count(&self, ids: &RoomIds) -> usize;
}

/// What handlers need.
#[derive(Clone)]
pub struct Service {
    /// All casts.
    pub fleet: Arc<dyn Fleet>,
    /// Who may ask for them.
    pub apps: Arc<ApplicationRegistry>,
    /// What the operator set.
    pub config: Arc<Config>,
    /// The rooms of this service, if it has any.
    pub rooms: Option<Arc<dyn EmbeddedRooms>>,
    /// The time.
    pub clock: Clock,
    /// Whether the service is ending: nothing more is begun.
    pub draining: Arc<AtomicBool>,
}

impl Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}

impl Service {
    /// Milliseconds since 1970.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        (self.clock)()
    }

    /// Takes a cast, unless the service is ending: then there is no room for it.
    ///
    /// # Errors
    /// As [`Fleet::create`].
    pub async fn create(&self, new: NewCast) -> Result<CreateOutcome, pagecast_fleet::Error> {
        if self.is_draining() {
            return Ok(CreateOutcome::QueueFull);
        }
        self.fleet.create(new).await
    }

    /// Whether the service is ending.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// An id for a cast that is asked for now.
    #[must_use]
    pub fn new_cast_id(&self) -> CastId {
        CastId::new(self.now(), random_bytes())
    }

    /// A cast of this page for this application, with all that it gets unless it says otherwise, and that
    /// goes nowhere yet.
    #[must_use]
    pub fn new_cast_spec(&self, app: &Application, id: &CastId, mut source: Source) -> CastSpec {
        source.context.tls.ca.clone_from(&app.ca);
        CastSpec {
            network: app.network.clone(),
            limits: app.limits.clone(),
            evidence: Some(self.cast_folder("evidence", id)),
            ..CastSpec::new(source)
        }
    }

    /// A folder of the service for this cast.
    #[must_use]
    pub fn cast_folder(&self, kind: &str, id: &CastId) -> PathBuf {
        self.config.data.join(kind).join(id.as_str())
    }

    /// A recording of this cast, kept there, or where the application keeps its recordings.
    #[must_use]
    pub fn new_recording(&self, app: &Application, id: &CastId, to: Option<Storage>) -> Recording {
        // A folder named after the cast is made in it.
        let own = || Storage::Folder(self.config.data.join("recordings"));
        let to = to.or_else(|| app.storage.default.clone()).unwrap_or_else(own);
        Recording {
            backup: app.storage.backup.clone().map(Storage::Bucket),
            upload_timeout: Duration::from_secs(self.config.casts.storage_patience_s),
            receipt: Some(self.cast_folder("receipts", id).with_extension("json")),
            ..Recording::new(id.as_str(), to, self.cast_folder("spool", id))
        }
    }

    /// A token that lets a cast publish for as long as it may wait and run.
    fn volcengine_token(
        &self,
        app: &Application,
        rooms: &VolcengineRooms,
        ids: &RoomIds,
    ) -> Result<Secret, SpecError> {
        let issued_s = u32::try_from(self.now() / 1000).unwrap_or(u32::MAX);
        let life_s = app.limits.max_time.as_secs().saturating_add(self.config.casts.max_wait_s());
        let expires_s = issued_s.saturating_add(u32::try_from(life_s).unwrap_or(u32::MAX));
        let token = Token {
            app_id: app.app_id.as_deref().unwrap_or_default(),
            room: &ids.room,
            user: &ids.user,
            nonce: 1 + u32::from_le_bytes(random_bytes()) % MAX_NONCE,
            issued_s,
            expires_s,
            privileges: &[(Privilege::Publish, expires_s)],
        };
        let bad = |_| SpecError::Room {
            what: "the application's app_id",
            why: "a token needs one of 24 characters",
        };
        token.mint(&rooms.app_key).map(Secret::new).map_err(bad)
    }

    /// A room of this application.
    ///
    /// # Errors
    /// It has none, or its address cannot be used.
    pub fn new_room(&self, app: &Application, ids: RoomIds, layers: Vec<Layer>) -> Result<Room, SpecError> {
        let service = match (&app.room, &self.rooms) {
            (RoomProvider::Service(service), _) => service.clone(),
            (RoomProvider::Volcengine(rooms), _) => RoomService::Whip {
                url: rooms.url.clone(),
                token: Some(self.volcengine_token(app, rooms, &ids)?),
            },
            (RoomProvider::Embedded, Some(rooms)) => rooms.publish_service(&ids)?,
            (RoomProvider::Embedded, None) => {
                return Err(SpecError::Room { what: "the embedded rooms", why: "they are switched off" });
            }
        };
        Ok(Room { service, ids, layers, codec: app.codec, ice: app.ice.clone() })
    }
}

/// Bytes that nobody can guess.
#[must_use]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// A random UUID (RFC 9562, version 4), as requests are named by.
#[must_use]
pub(crate) fn request_id() -> String {
    let mut b: [u8; 16] = random_bytes();
    (b[6], b[8]) = (b[6] & 0x0f | 0x40, b[8] & 0x3f | 0x80);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    [hex(&b[..4]), hex(&b[4..6]), hex(&b[6..8]), hex(&b[8..10]), hex(&b[10..])].join("-")
}

/// Whether a secret is the one that was given, in constant time.
#[must_use]
pub(crate) fn constant_time_eq(secret: &Secret, given: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(secret.reveal().as_bytes(), given.as_bytes()).is_ok()
}
