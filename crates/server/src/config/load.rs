//! Loads a configuration from the file, the environment and flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::Config;
use super::toml_errors::{self, PathSegment};
use crate::app::{Application, Settings};

/// The file that is read if no other is named. It may be missing.
const DEFAULT_FILE: &str = "pagecast.toml";
/// Prefix of the variables that set keys.
const ENV_PREFIX: &str = "PAGECAST__";
/// Shorthand variables, and the keys that they set.
const SHORT_VARIABLES: [(&str, &str); 4] = [
    ("PAGECAST_SECRET_KEY", "secret_key"),
    ("PAGECAST_ADMIN_TOKEN", "admin_token"),
    ("PAGECAST_DATABASE", "fleet__database"),
    ("PAGECAST_FLEET_SECRET", "fleet__peer__secret"),
];
/// Keys whose values may be given as `{ file = … }` or `{ env = … }`: secrets, lists of them, and
/// certificates.
const SECRET_KEYS: [&str; 15] = [
    "access_key",
    "admin_token",
    "app_key",
    "ca",
    "client_secret",
    "credential",
    "database",
    "direct_database",
    "pin",
    "room_secret",
    "secret",
    "secret_key",
    "session_token",
    "token",
    "tokens",
];
/// Keys of earlier versions and their present names, with an example where the form is another one, too. List
/// indices are left out.
const RENAMED_KEYS: [(&str, &str); 28] = [
    ("applications.callbacks.native.retry_s", "extra_retry_s"),
    ("applications.callbacks.tencent.retry_s", "extra_retry_s"),
    ("applications.callbacks.volcengine.retry_s", "extra_retry_s"),
    ("applications.limits.disk_bytes", "disk_mib, in MiB"),
    ("applications.limits.max_time", "max_time_s"),
    ("applications.limits.memory_bytes", "memory_mib, in MiB"),
    ("applications.max_kept_mib", "max_history_mib"),
    ("applications.room.service", "type, as in { type = \"whip\", url = …, token = … }"),
    ("applications.room.volcengine", "type, as in { type = \"volcengine\", url = …, app_key = … }"),
    ("applications.storage.backup.bucket", "to, as in { to = \"s3://BUCKET/PREFIX\", keys = … }"),
    ("applications.storage.buckets", "buckets_dir"),
    ("applications.storage.default.bucket", "to, as in { to = \"s3://BUCKET/PREFIX\", keys = … }"),
    ("applications.storage.default.folder", "to"),
    ("casts.drain_s", "drain_timeout_s"),
    ("casts.history_h", "retention_h"),
    ("casts.history_mib", "max_database_mib"),
    ("casts.max", "max_running"),
    ("casts.max_queue_s", "max_queue_timeout_s"),
    ("casts.queue_limit", "max_queued_casts"),
    ("casts.queue_s", "queue_timeout_s"),
    ("casts.spare_disk_mib", "min_free_disk_mib"),
    ("casts.spare_memory_mib", "reserved_memory_mib"),
    ("casts.storage_patience_s", "upload_timeout_s"),
    ("casts.warm", "warm_browsers"),
    ("rooms.addresses", "announced_addresses"),
    ("rooms.media", "media_listen"),
    ("tencent.limit_video", "enforce_video_limit"),
    ("volcengine.strict_repeat", "reject_running_task"),
];
/// Largest file with a secret, in bytes: the largest bundle of certificates that an application may have.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;

/// Settings of the command line. They override the environment and the file.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file. Without one, `pagecast.toml` in the current folder is read if it exists.
    pub file: Option<PathBuf>,
    /// Overrides [`Config::listen`].
    pub listen: Option<SocketAddr>,
    /// Overrides [`Config::data`].
    pub data: Option<PathBuf>,
}

/// Why a configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// The file or the environment contains errors, one per string.
    #[error("invalid configuration:\n{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// Returns the variables of the environment whose names and values are UTF-8.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Loads the configuration from the file, the environment and flags. [`Config::validate`] checks its values.
///
/// # Errors
/// The file cannot be read, or keys are unknown or have values of the wrong type: all of them at once.
pub fn load(options: &Options, environment: &[(String, String)]) -> Result<Config, Error> {
    let path = options.file.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && options.file.is_none() => String::new(),
        Err(error) => return Err(Error::Read(path, error)),
    };
    let mut loading =
        Loader { file: &path, text: &text, environment, env_overrides: Vec::new(), errors: Vec::new() };
    let table = loading.parse_toml().unwrap_or_default();
    let config = loading.load(table, options);
    if loading.errors.is_empty() { Ok(config) } else { Err(Error::Invalid(loading.errors)) }
}

struct Loader<'a> {
    file: &'a Path,
    text: &'a str,
    environment: &'a [(String, String)],
    /// Variables that set a key, and the path of the key.
    env_overrides: Vec<(String, Vec<PathSegment>)>,
    errors: Vec<String>,
}

impl Loader<'_> {
    fn parse_toml(&mut self) -> Option<Table> {
        match self.text.parse::<Table>() {
            Ok(table) => Some(table),
            Err(error) => {
                let line = toml_errors::line_at(self.text, error.span().map_or(0, |span| span.start));
                self.errors.push(format!("{}, line {line}: {}", self.file.display(), error.message()));
                None
            }
        }
    }

    fn load(&mut self, mut table: Table, options: &Options) -> Config {
        self.apply_environment(&mut table);
        let text = |path: &Path| Value::String(path.to_string_lossy().into_owned());
        if let Some(listen) = options.listen {
            table.insert("listen".into(), Value::String(listen.to_string()));
        }
        if let Some(data) = &options.data {
            table.insert("data".into(), text(data));
        }
        let mut root = Value::Table(table);
        self.reject_renamed_keys(&mut root, &mut Vec::new());
        self.resolve_secrets(&mut root, &mut Vec::new());
        let Value::Table(mut table) = root else { return Config::default() };
        let applications = table.remove("applications");
        let mut config: Config = self.parse_table(&[], table);
        config.applications = self.load_applications(applications);
        config
    }

    /// Parses each key of a table by itself, so that an error in one does not hide those in others.
    fn parse_table<T: DeserializeOwned + Default>(&mut self, at: &[PathSegment], table: Table) -> T {
        let errors = self.errors.len();
        for (key, value) in &table {
            let single = Table::from_iter([(key.clone(), value.clone())]);
            if let Err(error) = T::deserialize(single) {
                self.report_toml_error(at, &error);
            }
        }
        let has_new_errors = self.errors.len() > errors;
        if has_new_errors { T::default() } else { T::deserialize(table).unwrap_or_default() }
    }

    fn load_applications(&mut self, value: Option<Value>) -> Vec<Application> {
        let key = || PathSegment::Key("applications".into());
        let list = match value {
            None => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.report_error(&[key()], "must be a list: write [[applications]]");
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (index, value) in list.into_iter().enumerate() {
            let path = [key(), PathSegment::Index(index)];
            let Value::Table(mut table) = value else {
                self.report_error(&path, "must be a table");
                continue;
            };
            let own_fields = Application::OWN_FIELDS.iter().copied();
            let own: Table =
                own_fields.filter_map(|key| Some((key.to_owned(), table.remove(key)?))).collect();
            let settings: Settings = self.parse_table(&path, table);
            match Application::deserialize(own) {
                Ok(app) => all.push(Application { settings, ..app }),
                Err(error) => self.report_toml_error(&path, &error),
            }
        }
        all
    }

    /// Overrides keys of the file by variables of the environment.
    fn apply_environment(&mut self, table: &mut Table) {
        let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
        let mut variables = self.environment.to_vec();
        variables.sort();
        for (variable, text) in variables {
            let short =
                SHORT_VARIABLES.iter().find(|(name, _)| *name == variable).map(|(_, key)| (*key).to_owned());
            let Some(name) = short.or_else(|| variable.strip_prefix(ENV_PREFIX).map(str::to_lowercase))
            else {
                continue;
            };
            let keys: Vec<_> = name.split("__").map(str::to_owned).collect();
            let default = keys.iter().try_fold(&defaults, |value, key| value.get(key));
            let value = match parse_variable(&text, default) {
                Ok(value) => value,
                Err(reason) => {
                    self.errors.push(format!("environment, {variable}: {reason}"));
                    continue;
                }
            };
            self.env_overrides.push((variable, keys.iter().cloned().map(PathSegment::Key).collect()));
            insert_at(table, &keys, value);
        }
    }

    /// Reports and removes keys of earlier versions, so that all of them are named at once.
    fn reject_renamed_keys(&mut self, value: &mut Value, at: &mut Vec<PathSegment>) {
        match value {
            Value::Table(table) => table.retain(|key, inner| {
                at.push(PathSegment::Key(key.to_owned()));
                let is_kept = match renamed_key(at) {
                    Some(name) => {
                        self.report_error(at, &format!("this key is now called {name}: rename it"));
                        false
                    }
                    None => {
                        let is_empty = |value: &Value| value.as_table().is_some_and(Table::is_empty);
                        let was_empty = is_empty(inner);
                        self.reject_renamed_keys(inner, at);
                        // A table without its old keys is not reported for lacking the new ones.
                        was_empty || !is_empty(inner)
                    }
                };
                at.pop();
                is_kept
            }),
            Value::Array(list) => {
                for (index, inner) in list.iter_mut().enumerate() {
                    at.push(PathSegment::Index(index));
                    self.reject_renamed_keys(inner, at);
                    at.pop();
                }
            }
            _ => {}
        }
    }

    /// Replaces references to secrets (`{ file = … }`, `{ env = … }`) by the secrets.
    fn resolve_secrets(&mut self, value: &mut Value, at: &mut Vec<PathSegment>) {
        let is_secret = match at.iter().rev().find(|step| matches!(step, PathSegment::Key(_))) {
            Some(PathSegment::Key(key)) => SECRET_KEYS.contains(&key.as_str()),
            _ => false,
        };
        if is_secret && let Some(found) = self.fetch_secret(value) {
            match found {
                Ok(secret) => *value = Value::String(secret),
                Err(reason) => {
                    self.report_error(at, &reason);
                    *value = Value::String(String::new());
                }
            }
            return;
        }
        match value {
            Value::Table(table) => {
                for (key, inner) in table.iter_mut() {
                    at.push(PathSegment::Key(key.to_owned()));
                    self.resolve_secrets(inner, at);
                    at.pop();
                }
            }
            Value::Array(list) => {
                for (index, inner) in list.iter_mut().enumerate() {
                    at.push(PathSegment::Index(index));
                    self.resolve_secrets(inner, at);
                    at.pop();
                }
            }
            _ => {}
        }
    }

    /// Fetches a secret if the value is a reference to one.
    fn fetch_secret(&self, value: &Value) -> Option<Result<String, String>> {
        let table = value.as_table().filter(|table| table.len() == 1)?;
        let (kind, name) = table.iter().next()?;
        let name = name.as_str()?;
        match kind.as_str() {
            "file" => Some(read_secret_file(Path::new(name))),
            "env" => {
                let found = self.environment.iter().find(|(variable, _)| variable == name);
                let secret = found.map(|(_, value)| value.clone());
                Some(secret.ok_or_else(|| format!("the environment variable {name} is not set")))
            }
            _ => None,
        }
    }

    fn report_toml_error(&mut self, at: &[PathSegment], error: &toml::de::Error) {
        // An error without the source text ends with the path of the key.
        let text = error.to_string();
        let keys = text
            .rsplit_once("\nin `")
            .and_then(|(_, keys)| keys.trim_end().strip_suffix('`'))
            .unwrap_or_default();
        let mut path = at.to_vec();
        path.extend(
            keys.split('.').filter(|key| !key.is_empty()).map(|key| PathSegment::Key(key.to_owned())),
        );
        let is_application = keys.is_empty() && !at.is_empty();
        let more_keys = if is_application { Application::OWN_FIELDS } else { &[] };
        let (message, unknown) = toml_errors::redacted_message(error.message(), more_keys);
        path.extend(unknown.map(PathSegment::Key));
        self.report_error(&path, &message);
    }

    /// Adds an error with the variable that set the key, or with the file and line of the key.
    fn report_error(&mut self, path: &[PathSegment], message: &str) {
        let key = toml_errors::format_path(path);
        let variable = self.env_overrides.iter().rev().find(|(_, set)| {
            let shared = set.len().min(path.len());
            set[..shared] == path[..shared]
        });
        let location = match variable {
            Some((variable, _)) => format!("environment, {variable}"),
            None => {
                // A missing key has no line: use that of the innermost table that exists.
                let line =
                    (0..path.len()).rev().find_map(|n| toml_errors::line_of_key(self.text, &path[..=n]));
                let file = self.file.display();
                line.map_or_else(|| file.to_string(), |line| format!("{file}, line {line}"))
            }
        };
        self.errors.push(format!("{location}: {key}: {message}"));
    }
}

/// The present name of a key of an earlier version.
fn renamed_key(path: &[PathSegment]) -> Option<&'static str> {
    let keys = path.iter().filter(|segment| matches!(segment, PathSegment::Key(_))).cloned();
    let key = toml_errors::format_path(&keys.collect::<Vec<_>>());
    RENAMED_KEYS.iter().find(|(old, _)| *old == key).map(|(_, new)| *new)
}

/// Parses the text of a variable, depending on the type of the key's default.
fn parse_variable(text: &str, default: Option<&Json>) -> Result<Value, String> {
    let as_toml = || {
        let table = format!("value = {text}").parse::<Table>().ok();
        table.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"))
    };
    let is_text = matches!(default, None | Some(Json::Null | Json::String(_)));
    if !is_text {
        return as_toml().ok_or_else(|| "must be written as in the file".into());
    }
    // Tables and lists are also allowed where the default has no type, as for secrets and applications.
    let structured = text.trim_start().starts_with(['{', '[']).then(as_toml).flatten();
    Ok(structured.unwrap_or_else(|| Value::String(text.to_owned())))
}

fn insert_at(table: &mut Table, keys: &[String], value: Value) {
    match keys {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let inner = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                insert_at(inner, rest, value);
            }
        }
    }
}

fn read_secret_file(path: &Path) -> Result<String, String> {
    let failed = |reason: String| format!("cannot read the secret file {}: {reason}", path.display());
    let len = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if len > MAX_SECRET_FILE_BYTES {
        return Err(failed("it is larger than 64 KiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err(failed("it is empty".into())) } else { Ok(secret.to_owned()) }
}
