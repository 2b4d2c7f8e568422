//! From a file, the environment and flags to what is set.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::Config;
use super::words::{self, Step};
use crate::app::Application;

/// The file that is read if it is there and no other is named.
const USUAL_FILE: &str = "pagecast.toml";
/// What variables begin with that set something.
const PREFIX: &str = "PAGECAST__";
/// Variables with names of their own.
const SHORT: [(&str, &str); 2] =
    [("PAGECAST_SECRET_KEY", "secret_key"), ("PAGECAST_ADMIN_TOKEN", "admin_token")];
/// Keys whose values are secrets, or lists of them, or certificates, which are kept in files as well.
const SECRETS: [&str; 11] = [
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
const MAX_SECRET_FILE: u64 = 64 << 10;

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
    Wrong(Vec<String>),
}

/// Variables of the environment that are text.
#[must_use]
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Reads what is set: file, then environment, then flags. Ranges are for [`Config::check`].
///
/// # Errors
/// The file cannot be read, or something in it is unknown or of the wrong kind: all of that at once.
pub fn load(options: &Options, environment: &[(String, String)]) -> Result<Config, Error> {
    let path = options.file.clone().unwrap_or_else(|| USUAL_FILE.into());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && options.file.is_none() => String::new(),
        Err(error) => return Err(Error::Read(path, error)),
    };
    let mut loading = Loading { file: &path, text: &text, environment, sets: Vec::new(), wrong: Vec::new() };
    let table = loading.syntax().unwrap_or_default();
    let config = loading.read(table, options);
    if loading.wrong.is_empty() { Ok(config) } else { Err(Error::Wrong(loading.wrong)) }
}

struct Loading<'a> {
    file: &'a Path,
    text: &'a str,
    environment: &'a [(String, String)],
    /// Variables that set something, and what.
    sets: Vec<(String, Vec<Step>)>,
    wrong: Vec<String>,
}

impl Loading<'_> {
    fn syntax(&mut self) -> Option<Table> {
        match self.text.parse::<Table>() {
            Ok(table) => Some(table),
            Err(error) => {
                let line = words::line(self.text, error.span().map_or(0, |span| span.start));
                self.wrong.push(format!("{}, line {line}: {}", self.file.display(), error.message()));
                None
            }
        }
    }

    fn read(&mut self, mut table: Table, options: &Options) -> Config {
        self.overlay(&mut table);
        let text = |path: &Path| Value::String(path.to_string_lossy().into_owned());
        if let Some(listen) = options.listen {
            table.insert("listen".into(), Value::String(listen.to_string()));
        }
        if let Some(data) = &options.data {
            table.insert("data".into(), text(data));
        }
        let mut root = Value::Table(table);
        self.secrets(&mut root, &mut Vec::new());
        let Value::Table(mut table) = root else { return Config::default() };
        let applications = table.remove("applications");
        let mut config = Config::default();
        for (key, value) in &table {
            // One after the other, so that all that is wrong is told.
            let alone = Table::from_iter([(key.clone(), value.clone())]);
            if let Err(error) = Config::deserialize(alone) {
                self.tell(&[], &error);
            }
        }
        if self.wrong.is_empty()
            && let Ok(read) = Config::deserialize(table.clone())
        {
            self.leftovers(&table, &read, &[]);
            config = read;
        }
        config.applications = self.applications(applications);
        config
    }

    fn applications(&mut self, value: Option<Value>) -> Vec<Application> {
        let key = || Step::Key("applications".into());
        let list = match value {
            None => return Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.say(&[key()], "a list is wanted: write [[applications]]");
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (index, mut value) in list.into_iter().enumerate() {
            let steps = [key(), Step::Index(index)];
            spell_out(&mut value);
            match Application::deserialize(value.clone()) {
                Ok(app) => {
                    if let Value::Table(given) = &value {
                        self.leftovers(given, &app, &steps);
                    }
                    all.push(app);
                }
                Err(error) => self.tell(&steps, &error),
            }
        }
        all
    }

    /// Puts what the environment sets in place of what the file says.
    fn overlay(&mut self, table: &mut Table) {
        let usual = serde_json::to_value(Config::default()).unwrap_or_default();
        let mut given = self.environment.to_vec();
        given.sort();
        for (variable, text) in given {
            let short = SHORT.iter().find(|(name, _)| *name == variable).map(|(_, key)| (*key).to_owned());
            let Some(name) = short.or_else(|| variable.strip_prefix(PREFIX).map(str::to_lowercase)) else {
                continue;
            };
            let keys: Vec<_> = name.split("__").map(str::to_owned).collect();
            let wanted = keys.iter().try_fold(&usual, |at, key| at.get(key));
            let value = match value_of(&text, wanted) {
                Ok(value) => value,
                Err(why) => {
                    self.wrong.push(format!("environment, {variable}: {why}"));
                    continue;
                }
            };
            self.sets.push((variable, keys.iter().cloned().map(Step::Key).collect()));
            put(table, &keys, value);
        }
    }

    /// Puts secrets in place of where they are.
    fn secrets(&mut self, value: &mut Value, at: &mut Vec<Step>) {
        let is_secret = match at.iter().rev().find(|step| matches!(step, Step::Key(_))) {
            Some(Step::Key(key)) => SECRETS.contains(&key.as_str()),
            _ => false,
        };
        if is_secret && let Some(found) = self.fetched(value) {
            match found {
                Ok(secret) => *value = Value::String(secret),
                Err(why) => {
                    self.say(at, &why);
                    *value = Value::String(String::new());
                }
            }
            return;
        }
        match value {
            Value::Table(table) => {
                for (key, inner) in table.iter_mut() {
                    at.push(Step::Key(key.to_owned()));
                    self.secrets(inner, at);
                    at.pop();
                }
            }
            Value::Array(list) => {
                for (index, inner) in list.iter_mut().enumerate() {
                    at.push(Step::Index(index));
                    self.secrets(inner, at);
                    at.pop();
                }
            }
            _ => {}
        }
    }

    /// The secret that is somewhere else, if this says where.
    fn fetched(&self, value: &Value) -> Option<Result<String, String>> {
        let table = value.as_table().filter(|table| table.len() == 1)?;
        let (kind, place) = table.iter().next()?;
        let place = place.as_str()?;
        match kind.as_str() {
            "file" => Some(secret_file(Path::new(place))),
            "env" => {
                let found =
                    self.environment.iter().find(|(name, _)| name == place).map(|(_, value)| value.clone());
                Some(found.ok_or_else(|| format!("there is no variable {place} in the environment")))
            }
            _ => None,
        }
    }

    /// Keys that were given and that nothing was made of.
    fn leftovers(&mut self, given: &Table, read: &impl serde::Serialize, at: &[Step]) {
        let Ok(read) = serde_json::to_value(read) else { return };
        let mut unknown = Vec::new();
        left_over(given, &read, &mut at.to_vec(), &mut unknown);
        for (steps, why) in unknown {
            self.say(&steps, &why);
        }
    }

    fn tell(&mut self, at: &[Step], error: &toml::de::Error) {
        // Where there is no text, the error knows the keys, and says them last.
        let said = error.to_string();
        let keys = said
            .rsplit_once("\nin `")
            .and_then(|(_, keys)| keys.trim_end().strip_suffix('`'))
            .unwrap_or_default();
        let mut steps = at.to_vec();
        steps.extend(keys.split('.').filter(|key| !key.is_empty()).map(|key| Step::Key(key.to_owned())));
        let (why, unknown) = words::plain(error.message());
        steps.extend(unknown.map(Step::Key));
        self.say(&steps, &why);
    }

    fn say(&mut self, steps: &[Step], why: &str) {
        let path = words::path(steps);
        let of_environment = self.sets.iter().rev().find(|(_, set)| {
            let shared = set.len().min(steps.len());
            set[..shared] == steps[..shared]
        });
        let place = match of_environment {
            Some((variable, _)) => format!("environment, {variable}"),
            None => {
                // A key that is missing is looked for where it should be.
                let found = (0..steps.len()).rev().find_map(|n| words::line_of(self.text, &steps[..=n]));
                let file = self.file.display();
                found.map_or_else(|| file.to_string(), |line| format!("{file}, line {line}"))
            }
        };
        self.wrong.push(format!("{place}: {path}: {why}"));
    }
}

/// What a variable's text means where this usually stands.
fn value_of(text: &str, usual: Option<&Json>) -> Result<Value, String> {
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

fn put(table: &mut Table, keys: &[String], value: Value) {
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
                put(inner, rest, value);
            }
        }
    }
}

fn secret_file(path: &Path) -> Result<String, String> {
    let cannot = |why: String| format!("cannot read the secret in {}: {why}", path.display());
    let len = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?.len();
    if len > MAX_SECRET_FILE {
        return Err(cannot("it is longer than 64 KiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err(cannot("it is empty".into())) } else { Ok(secret.to_owned()) }
}

/// Times that are written in seconds, in the words of the description of a cast.
fn spell_out(app: &mut Value) {
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

fn left_over(given: &Table, read: &Json, at: &mut Vec<Step>, unknown: &mut Vec<(Vec<Step>, String)>) {
    let Some(read) = read.as_object() else { return };
    for (key, value) in given {
        at.push(Step::Key(key.clone()));
        match (value, read.get(key)) {
            (_, None) => {
                let known: Vec<_> = read.keys().collect();
                unknown.push((at.clone(), words::unknown_key(key, &known)));
            }
            (Value::Table(table), Some(inner)) => left_over(table, inner, at, unknown),
            (Value::Array(list), Some(Json::Array(inner))) => {
                for (index, (value, inner)) in list.iter().zip(inner).enumerate() {
                    if let Value::Table(table) = value {
                        at.push(Step::Index(index));
                        left_over(table, inner, at, unknown);
                        at.pop();
                    }
                }
            }
            _ => {}
        }
        at.pop();
    }
}
