//! What a caller wants: parameters of the three actions, checked field by field.

use std::ops::RangeInclusive;

use pagecast_core::SpecError;
use pagecast_core::spec::{MAX_ID_LEN, Secret, SourceUrl};
use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Code, Fault, shown};
use super::sign::Item;
use crate::bounded_json;

/// Longest address of a page, in characters.
pub const MAX_SOURCE_URL_CHARS: usize = 1024;
/// Most picture sizes of a task.
pub const MAX_SOLUTIONS: usize = 2;

/// A field that holds a whole number.
struct Number {
    name: &'static str,
    range: RangeInclusive<u32>,
    /// The value of a field that is absent, `null` or 0: clients that serialise unset integers send 0.
    default: u32,
}

const fn number(name: &'static str, low: u32, high: u32, default: u32) -> Number {
    Number { name, range: low..=high, default }
}

const WIDTH: Number = number("Width", 50, 1920, 1280);
const HEIGHT: Number = number("Height", 50, 1080, 720);
const FRAME_RATE: Number = number("FrameRate", 1, 60, 15);
const BITRATE: Number = number("Bitrate", 0, 10_000, 0);
const MAX_RUNNING_TIME: Number = number("MaxRunningTime", 10, 86_400, 86_400);
const FREEZE_CHECK: Number = number("FreezeCheckInterval", 2, 30, 0);
const BLANK_CHECK: Number = number("BlankCheckInterval", 2, 30, 0);
const CRASH_CHECK: Number = number("CrashCheckInterval", 0, 30, 0);
const START_TIMEOUT: Number = number("StartTimeout", 0, 60, 0);

/// `StartWebcast`, with a value for everything that has a default. Serialized it is what `GetWebCastTask`
/// repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Start {
    /// Which task.
    #[serde(flatten)]
    pub task: Task,
    /// A label of the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<String>,
    /// Who publishes the page.
    pub user_id: String,
    /// The page, as it was written.
    #[serde(rename = "SourceURL")]
    pub source_url: Secret,
    /// One or two.
    pub video_solutions: Vec<Solution>,
    /// In seconds.
    pub max_running_time: u32,
    /// How the page is watched.
    pub monitor_config: Monitor,
    /// What the page tells.
    pub event_notify_config: Notify,
}

/// Names a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    /// The application.
    pub app_id: String,
    /// The room in it.
    pub room_id: String,
    /// The task in that.
    pub task_id: String,
}

/// A picture to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Solution {
    /// In pixels, even.
    pub width: u32,
    /// In pixels, even.
    pub height: u32,
    /// Frames per second.
    pub frame_rate: u32,
    /// In kbit/s; 0 leaves it to the service.
    pub bitrate: u32,
}

/// Seconds between two looks at the page; 0 never looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Monitor {
    /// Whether it moves.
    pub freeze_check_interval: u32,
    /// Whether it is white.
    pub blank_check_interval: u32,
    /// Whether its scripts get on.
    pub crash_check_interval: u32,
}

/// What the page tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Notify {
    /// Whether it tells its beginning and its end.
    pub enable_event_notify: bool,
    /// How long its beginning is waited for, in seconds; 0 waits for ever.
    pub start_timeout: u32,
}

/// The fields of a body.
///
/// # Errors
/// It is empty, or not a JSON object.
pub fn body(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    if bytes.trim_ascii().is_empty() {
        return Err(Fault::new(Code::BodyIsEmpty, "the body is empty: it must be a JSON object"));
    }
    match bounded_json::value(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            let message = format!("the body must be a JSON object, it is {}", kind(&other));
            Err(Fault::new(Code::Unmarshal, message))
        }
        Err(bounded_json::Error::TooMany(error)) => Err(Fault::new(Code::Unmarshal, error.to_string())),
        // Its text names the place and repeats nothing of the body.
        Err(bounded_json::Error::Syntax(error)) => {
            Err(Fault::new(Code::Unmarshal, format!("the body is not JSON: {error}")))
        }
    }
}

/// The fields of a query. Of several with the same name the first one counts.
#[must_use]
pub fn query(items: &[Item]) -> Map<String, Value> {
    items.iter().rev().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
}

impl Task {
    /// From the fields of a body or a query.
    ///
    /// # Errors
    /// The first field that is missing or wrong.
    pub fn read(fields: &Map<String, Value>) -> Result<Self, Fault> {
        let fields = Fields { of: "", map: Some(fields) };
        Ok(Self {
            app_id: fields.id("AppId", Code::IllegalAppId)?,
            room_id: fields.id("RoomId", Code::IllegalRoomId)?,
            task_id: fields.id("TaskId", Code::InvalidParameter)?,
        })
    }
}

impl Start {
    /// From the fields of a body.
    ///
    /// # Errors
    /// The first field that is missing or wrong.
    pub fn read(map: &Map<String, Value>) -> Result<Self, Fault> {
        let fields = Fields { of: "", map: Some(map) };
        let business_id = match fields.text("BusinessId")? {
            None | Some("") => None,
            Some(_) => Some(fields.id("BusinessId", Code::InvalidParameter)?),
        };
        let monitor = Fields { of: "MonitorConfig.", map: fields.object("MonitorConfig")? };
        let notify = Fields { of: "EventNotifyConfig.", map: fields.object("EventNotifyConfig")? };
        Ok(Self {
            task: Task::read(map)?,
            business_id,
            user_id: fields.id("UserId", Code::InvalidParameter)?,
            source_url: source_url(&fields)?,
            video_solutions: solutions(&fields)?,
            max_running_time: fields.number(&MAX_RUNNING_TIME)?,
            monitor_config: Monitor {
                freeze_check_interval: monitor.number(&FREEZE_CHECK)?,
                blank_check_interval: monitor.number(&BLANK_CHECK)?,
                crash_check_interval: monitor.number(&CRASH_CHECK)?,
            },
            event_notify_config: Notify {
                enable_event_notify: notify.flag("EnableEventNotify")?,
                start_timeout: notify.number(&START_TIMEOUT)?,
            },
        })
    }

    /// The page's address, which has been checked.
    ///
    /// # Errors
    /// None that [`Self::read`] has not told.
    pub fn page(&self) -> Result<SourceUrl, Fault> {
        SourceUrl::parse(self.source_url.reveal()).map_err(|error| match error {
            SpecError::UrlSyntax { source, .. } => {
                invalid(format!("SourceURL must be an address like https://a.example/page: {source}"))
            }
            other => invalid(format!("SourceURL cannot be used: {other}")),
        })
    }
}

/// The address is not repeated: what stands in it may be secret.
fn source_url(fields: &Fields<'_>) -> Result<Secret, Fault> {
    let url = fields.text("SourceURL")?.ok_or_else(|| fields.missing("SourceURL"))?;
    let chars = url.chars().count();
    if chars == 0 || chars > MAX_SOURCE_URL_CHARS {
        return Err(invalid(format!(
            "SourceURL has {chars} characters: 1 to {MAX_SOURCE_URL_CHARS} are possible"
        )));
    }
    Ok(Secret::new(url))
}

fn solutions(fields: &Fields<'_>) -> Result<Vec<Solution>, Fault> {
    let name = "VideoSolutions";
    let given = match fields.get(name) {
        None => &[][..],
        Some(Value::Array(given)) => given,
        Some(other) => return Err(fields.wrong(name, "an array", other)),
    };
    if given.len() > MAX_SOLUTIONS {
        let count = given.len();
        return Err(invalid(format!("{name} has {count} items: 1 to {MAX_SOLUTIONS} are possible")));
    }
    let empty = [Value::Object(Map::new())];
    let given = if given.is_empty() { &empty } else { given };
    let one = |(at, item): (usize, &Value)| {
        let of = format!("{name}[{at}].");
        let Value::Object(map) = item else {
            return Err(fields.wrong(of.trim_end_matches('.'), "an object", item));
        };
        let fields = Fields { of: &of, map: Some(map) };
        Ok(Solution {
            // What was asked for is an upper bound, and stays one.
            width: fields.number(&WIDTH)? & !1,
            height: fields.number(&HEIGHT)? & !1,
            frame_rate: fields.number(&FRAME_RATE)?,
            bitrate: fields.number(&BITRATE)?,
        })
    };
    given.iter().enumerate().map(one).collect()
}

/// The fields of an object; names are as they are written, and `null` is as good as nothing.
struct Fields<'a> {
    /// What stands before their names in messages.
    of: &'a str,
    /// Nothing, if they may be left out all together.
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    fn missing(&self, name: &str) -> Fault {
        invalid(format!("{}{name} is missing", self.of))
    }

    fn wrong(&self, name: &str, wanted: &str, given: &Value) -> Fault {
        invalid(format!("{}{name} must be {wanted}, it is {}", self.of, kind(given)))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a string", other)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, Fault> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, "true or false", other)),
        }
    }

    fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.wrong(name, "an object", other)),
        }
    }

    fn number(&self, field: &Number) -> Result<u32, Fault> {
        let Number { name, range, default } = field;
        let number = match self.get(name) {
            None => return Ok(*default),
            Some(Value::Number(number)) => number,
            Some(other) => return Err(self.wrong(name, "an integer", other)),
        };
        // Some JSON libraries write integers as doubles: `60.0` is one.
        let double = number.as_f64().filter(|_| number.is_f64());
        if double.is_some_and(|double| double.fract() != 0.0) {
            return Err(invalid(format!("{}{name} must be an integer, it is {number}", self.of)));
        }
        let whole = match double {
            Some(double) => (0.0..=f64::from(u32::MAX)).contains(&double).then_some(double as u32),
            None => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        };
        match whole {
            Some(number) if range.contains(&number) => Ok(number),
            Some(0) => Ok(*default),
            _ => {
                // Where 0 switches something off, it is worth saying.
                let (low, high, zero) =
                    (range.start(), range.end(), if *default == 0 { "0, and " } else { "" });
                let zero = if range.contains(&0) { "" } else { zero };
                Err(invalid(format!("{}{name} is {number}: {zero}{low} to {high} are possible", self.of)))
            }
        }
    }

    fn id(&self, name: &str, malformed: Code) -> Result<String, Fault> {
        let id = self.text(name)?.ok_or_else(|| self.missing(name))?;
        let fits = (1..=MAX_ID_LEN).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-.".contains(&byte));
        if fits {
            return Ok(id.to_owned());
        }
        let message = format!(
            "{}{name} is {} with {} characters: 1 to 128 of the letters a to z and A to Z, digits, and _ @ - . are possible",
            self.of,
            shown(id),
            id.chars().count()
        );
        Err(Fault::new(malformed, message))
    }
}

pub(super) fn invalid(message: String) -> Fault {
    Fault::new(Code::InvalidParameter, message)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
