//! An application for whoever tries the service without a file: its keys are made once and kept in the data folder.

use std::fs::{DirBuilder, OpenOptions, hard_link, metadata, read_to_string, remove_file};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use pagecast_core::spec::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app::Application;
use crate::service::random_bytes;

/// Its file in the data folder.
const CREDENTIALS_FILE: &str = "credentials.json";
/// Its name, which is its `AppId`, too.
const APP_NAME: &str = "demo";
/// Its `SdkAppId`.
const SDK_APP_ID: u64 = 1_400_000_001;

/// Why there is no demo application.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Its file cannot be read or made.
    #[error("cannot use {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Others could read it.
    #[error("others may read the keys in {}: chmod 600 it, or remove it and new ones are made", .0.display())]
    Exposed(PathBuf),
    /// It holds something else.
    #[error("{} is damaged: remove it and new keys are made", .0.display())]
    Damaged(PathBuf),
}

/// What is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key: Secret,
    secret_key: Secret,
    token: Secret,
}

/// The demo application, and whether its keys were made just now. Its pages reach what is public, like everybody's.
///
/// # Errors
/// Its file cannot be used.
pub fn demo_application(data: &Path) -> Result<(Application, bool), DemoError> {
    let path = data.join(CREDENTIALS_FILE);
    let failed = |error| DemoError::File(path.clone(), error);
    let made = match metadata(&path) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_credentials(data, &path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    if metadata(&path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(DemoError::Exposed(path));
    }
    let text = read_to_string(&path).map_err(failed)?;
    // What is wrong with it is not repeated: secrets are in it.
    let damaged = |_| DemoError::Damaged(path.clone());
    let kept: Credentials = serde_json::from_str(&text).map_err(damaged)?;
    let app = json!({
        "name": APP_NAME,
        "app_id": APP_NAME,
        "sdk_app_id": SDK_APP_ID,
        "keys": [{"id": kept.access_key, "secret": kept.secret_key}],
        "tokens": [kept.token],
    });
    Ok((serde_json::from_value(app).map_err(damaged)?, made))
}

/// Makes the file, whole or not at all; whether it was this call that did.
fn create_credentials(data: &Path, path: &Path) -> io::Result<bool> {
    DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    let kept = Credentials {
        access_key: Secret::new(format!("AKPC{}", random_hex::<10>())),
        secret_key: Secret::new(random_hex::<20>()),
        token: Secret::new(random_hex::<20>()),
    };
    let temporary = data.join(format!(".{CREDENTIALS_FILE}.{}", random_hex::<8>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = serde_json::to_vec_pretty(&kept).map_err(io::Error::other).and_then(|text| {
        file.write_all(&text)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // Unlike a rename, this leaves one that somebody else made meanwhile.
        hard_link(&temporary, path)
    });
    remove_file(&temporary)?;
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn random_hex<const N: usize>() -> String {
    random_bytes::<N>().iter().map(|byte| format!("{byte:02x}")).collect()
}
