//! From a file, the environment and flags to what is set.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::Config;
use super::toml_errors::{self, PathSegment};
use crate::app::Application;

/// The file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "pagecast.toml";
/// What variables begin with that set something.
const ENV_PREFIX: &str = "PAGECAST__";
/// Variables with names of their own.
const SHORT_VARIABLES: [(&str, &str); 2] =
    [("PAGECAST_SECRET_KEY", "secret_key"), ("PAGECAST_ADMIN_TOKEN", "admin_token")];
/// Keys whose values are secrets, or lists of them, or certificates, which are kept in files as well.
const SECRET_KEYS: [&str; 11] = [
    "access_key",
    "admin_token",
    "ca",
    "credential",
    "pin",
    "room_secret",
    "secret",
    "secret_key",
    "session_token",
    "token",
    "tokens",
];
/// Longest secret in a file of its own, in bytes.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;

/// What flags say.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The file; without one, `pagecast.toml` in the current folder, if it is there.
    pub file: Option<PathBuf>,
    /// [`Config::listen`].
    pub listen: Option<SocketAddr>,
    /// [`Config::data`].
    pub data: Option<PathBuf>,
}

/// Why nothing can be made of what is set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// What is in it, or in the environment, cannot be used; each thing a line.
    #[error("the configuration cannot be used:\n{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// Variables of the environment that are text.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads what is set: file, then environment, then flags. Ranges are for [`Config::validate`].
///
/// # Errors
/// The file cannot be read, or something in it is unknown or of the wrong kind: all of that at once.
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
    /// Variables that set something, and what.
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
        self.resolve_secrets(&mut root, &mut Vec::new());
        let Value::Table(mut table) = root else { return Config::default() };
        let applications = table.remove("applications");
        let mut config = Config::default();
        for (key, value) in &table {
            // One after the other, so that all that is wrong is told.
            let alone = Table::from_iter([(key.clone(), value.clone())]);
            if let Err(error) = Config::deserialize(alone) {
                self.report_toml_error(&[], &error);
            }
        }
        if self.errors.is_empty()
            && let Ok(read) = Config::deserialize(table.clone())
        {
            self.report_unknown_keys(&table, &read, &[]);
            config = read;
        }
        config.applications = self.load_applications(applications);
        config
    }

    fn load_applications(&mut self, value: Option<Value>) -> Vec<Application> {
        let key = || PathSegment::Key("applications".into());
        let list = match value {
            None => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.report_error(&[key()], "a list is wanted: write [[applications]]");
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (index, mut value) in list.into_iter().enumerate() {
            let steps = [key(), PathSegment::Index(index)];
            expand_durations(&mut value);
            match Application::deserialize(value.clone()) {
                Ok(app) => {
                    if let Value::Table(given) = &value {
                        self.report_unknown_keys(given, &app, &steps);
                    }
                    all.push(app);
                }
                Err(error) => self.report_toml_error(&steps, &error),
            }
        }
        all
    }

    /// Puts what the environment sets in place of what the file says.
    fn apply_environment(&mut self, table: &mut Table) {
        let usual = serde_json::to_value(Config::default()).unwrap_or_default();
        let mut given = self.environment.to_vec();
        given.sort();
        for (variable, text) in given {
            let short =
                SHORT_VARIABLES.iter().find(|(name, _)| *name == variable).map(|(_, key)| (*key).to_owned());
            let Some(name) = short.or_else(|| variable.strip_prefix(ENV_PREFIX).map(str::to_lowercase))
            else {
                continue;
            };
            let keys: Vec<_> = name.split("__").map(str::to_owned).collect();
            let wanted = keys.iter().try_fold(&usual, |at, key| at.get(key));
            let value = match parse_variable(&text, wanted) {
                Ok(value) => value,
                Err(why) => {
                    self.errors.push(format!("environment, {variable}: {why}"));
                    continue;
                }
            };
            self.env_overrides.push((variable, keys.iter().cloned().map(PathSegment::Key).collect()));
            insert_at(table, &keys, value);
        }
    }

    /// Puts secrets in place of where they are.
    fn resolve_secrets(&mut self, value: &mut Value, at: &mut Vec<PathSegment>) {
        let is_secret = match at.iter().rev().find(|step| matches!(step, PathSegment::Key(_))) {
            Some(PathSegment::Key(key)) => SECRET_KEYS.contains(&key.as_str()),
            _ => false,
        };
        if is_secret && let Some(found) = self.fetch_secret(value) {
            match found {
                Ok(secret) => *value = Value::String(secret),
                Err(why) => {
                    self.report_error(at, &why);
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

    /// The secret that is somewhere else, if this says where.
    fn fetch_secret(&self, value: &Value) -> Option<Result<String, String>> {
        let table = value.as_table().filter(|table| table.len() == 1)?;
        let (kind, place) = table.iter().next()?;
        let place = place.as_str()?;
        match kind.as_str() {
            "file" => Some(read_secret_file(Path::new(place))),
            "env" => {
                let found =
                    self.environment.iter().find(|(name, _)| name == place).map(|(_, value)| value.clone());
                Some(found.ok_or_else(|| format!("there is no variable {place} in the environment")))
            }
            _ => None,
        }
    }

    /// Keys that were given and that nothing was made of.
    fn report_unknown_keys(&mut self, given: &Table, read: &impl serde::Serialize, at: &[PathSegment]) {
        let Ok(read) = serde_json::to_value(read) else { return };
        let mut unknown = Vec::new();
        collect_unknown_keys(given, &read, &mut at.to_vec(), &mut unknown);
        for (steps, why) in unknown {
            self.report_error(&steps, &why);
        }
    }

    fn report_toml_error(&mut self, at: &[PathSegment], error: &toml::de::Error) {
        // Where there is no text, the error knows the keys, and says them last.
        let said = error.to_string();
        let keys = said
            .rsplit_once("\nin `")
            .and_then(|(_, keys)| keys.trim_end().strip_suffix('`'))
            .unwrap_or_default();
        let mut steps = at.to_vec();
        steps.extend(
            keys.split('.').filter(|key| !key.is_empty()).map(|key| PathSegment::Key(key.to_owned())),
        );
        let (why, unknown) = toml_errors::redacted_message(error.message());
        steps.extend(unknown.map(PathSegment::Key));
        self.report_error(&steps, &why);
    }

    fn report_error(&mut self, steps: &[PathSegment], why: &str) {
        let path = toml_errors::format_path(steps);
        let of_environment = self.env_overrides.iter().rev().find(|(_, set)| {
            let shared = set.len().min(steps.len());
            set[..shared] == steps[..shared]
        });
        let place = match of_environment {
            Some((variable, _)) => format!("environment, {variable}"),
            None => {
                // A key that is missing is looked for where it should be.
                let found =
                    (0..steps.len()).rev().find_map(|n| toml_errors::line_of_key(self.text, &steps[..=n]));
                let file = self.file.display();
                found.map_or_else(|| file.to_string(), |line| format!("{file}, line {line}"))
            }
        };
        self.errors.push(format!("{place}: {path}: {why}"));
    }
}

/// What a variable's text means where this usually stands.
fn parse_variable(text: &str, usual: Option<&Json>) -> Result<Value, String> {
    let as_toml = || {
        let table = format!("value = {text}").parse::<Table>().ok();
        table.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"))
    };
    let wants_text = matches!(usual, None | Some(Json::Null | Json::String(_)));
    if !wants_text {
        return as_toml().ok_or_else(|| "write the value as it would stand in the file".into());
    }
    // Tables and lists, and whatever nobody knows about, may stand where no text does.
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
    let cannot = |why: String| format!("cannot read the secret in {}: {why}", path.display());
    let len = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
    if len > MAX_SECRET_FILE_BYTES {
        return Err(cannot("it is longer than 64 KiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err(cannot("it is empty".into())) } else { Ok(secret.to_owned()) }
}

/// Times that are written in seconds, in the words of the description of a cast.
fn expand_durations(app: &mut Value) {
    let time = app.get_mut("limits").and_then(|limits| limits.get_mut("max_time"));
    if let Some(time) = time
        && let Some(seconds) = time.as_integer()
    {
        *time = Value::Table(Table::from_iter([
            ("secs".into(), Value::Integer(seconds)),
            ("nanos".into(), Value::Integer(0)),
        ]));
    }
}

fn collect_unknown_keys(
    given: &Table,
    read: &Json,
    at: &mut Vec<PathSegment>,
    unknown: &mut Vec<(Vec<PathSegment>, String)>,
) {
    let Some(read) = read.as_object() else { return };
    for (key, value) in given {
        at.push(PathSegment::Key(key.clone()));
        match (value, read.get(key)) {
            (_, None) => {
                let known: Vec<_> = read.keys().collect();
                unknown.push((at.clone(), toml_errors::unknown_key_message(key, &known)));
            }
            (Value::Table(table), Some(inner)) => collect_unknown_keys(table, inner, at, unknown),
            (Value::Array(list), Some(Json::Array(inner))) => {
                for (index, (value, inner)) in list.iter().zip(inner).enumerate() {
                    if let Value::Table(table) = value {
                        at.push(PathSegment::Index(index));
                        collect_unknown_keys(table, inner, at, unknown);
                        at.pop();
                    }
                }
            }
            _ => {}
        }
        at.pop();
    }
}
