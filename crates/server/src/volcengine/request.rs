//! What a caller wants: parameters of the three actions, checked field by field.

use std::ops::RangeInclusive;

use pagecast_core::SpecError;
use pagecast_core::spec::{MAX_ID_LEN, Secret, SourceUrl};
use serde::Serialize;
use serde_json::{Map, Value};

use super::response::{ApiError, ErrorCode, quote_truncated};
use super::signature::QueryParam;
use crate::bounded_json;

/// Longest address of a page, in characters.
pub const MAX_SOURCE_URL_CHARS: usize = 1024;
/// Most picture sizes of a task.
pub const MAX_SOLUTIONS: usize = 2;

/// A field that holds a whole number.
struct IntField {
    name: &'static str,
    range: RangeInclusive<u32>,
    /// The value of a field that is absent, `null` or 0: clients that serialise unset integers send 0.
    default: u32,
}

const fn int_field(name: &'static str, low: u32, high: u32, default: u32) -> IntField {
    IntField { name, range: low..=high, default }
}

const WIDTH: IntField = int_field("Width", 50, 1920, 1280);
const HEIGHT: IntField = int_field("Height", 50, 1080, 720);
const FRAME_RATE: IntField = int_field("FrameRate", 1, 60, 15);
const BITRATE: IntField = int_field("Bitrate", 0, 10_000, 0);
const MAX_RUNNING_TIME: IntField = int_field("MaxRunningTime", 10, 86_400, 86_400);
const FREEZE_CHECK: IntField = int_field("FreezeCheckInterval", 2, 30, 0);
const BLANK_CHECK: IntField = int_field("BlankCheckInterval", 2, 30, 0);
const CRASH_CHECK: IntField = int_field("CrashCheckInterval", 0, 30, 0);
const START_TIMEOUT: IntField = int_field("StartTimeout", 0, 60, 0);

/// `StartWebcast`, with a value for everything that has a default. Serialized it is what `GetWebCastTask`
/// repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StartRequest {
    /// Which task.
    #[serde(flatten)]
    pub task: TaskRef,
    /// A label of the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<String>,
    /// Who publishes the page.
    pub user_id: String,
    /// The page, as it was written.
    #[serde(rename = "SourceURL")]
    pub source_url: Secret,
    /// One or two.
    pub video_solutions: Vec<VideoSolution>,
    /// In seconds.
    pub max_running_time: u32,
    /// How the page is watched.
    pub monitor_config: MonitorConfig,
    /// What the page tells.
    pub event_notify_config: EventNotifyConfig,
}

/// Names a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskRef {
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
pub struct VideoSolution {
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
pub struct MonitorConfig {
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
pub struct EventNotifyConfig {
    /// Whether it tells its beginning and its end.
    pub enable_event_notify: bool,
    /// How long its beginning is waited for, in seconds; 0 waits for ever.
    pub start_timeout: u32,
}

/// The fields of a body.
///
/// # Errors
/// It is empty, or not a JSON object.
pub fn parse_body(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if bytes.trim_ascii().is_empty() {
        return Err(ApiError::new(ErrorCode::BodyIsEmpty, "the body is empty: it must be a JSON object"));
    }
    match bounded_json::parse(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            let message = format!("the body must be a JSON object, it is {}", json_type(&other));
            Err(ApiError::new(ErrorCode::Unmarshal, message))
        }
        Err(bounded_json::Error::TooMany(error)) => {
            Err(ApiError::new(ErrorCode::Unmarshal, error.to_string()))
        }
        // Its text names the place and repeats nothing of the body.
        Err(bounded_json::Error::Syntax(error)) => {
            Err(ApiError::new(ErrorCode::Unmarshal, format!("the body is not JSON: {error}")))
        }
    }
}

/// The fields of a query. Of several with the same name the first one counts.
#[must_use]
pub fn query_fields(items: &[QueryParam]) -> Map<String, Value> {
    items.iter().rev().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
}

impl TaskRef {
    /// From the fields of a body or a query.
    ///
    /// # Errors
    /// The first field that is missing or wrong.
    pub fn parse(fields: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields { prefix: "", map: Some(fields) };
        Ok(Self {
            app_id: fields.id("AppId", ErrorCode::IllegalAppId)?,
            room_id: fields.id("RoomId", ErrorCode::IllegalRoomId)?,
            task_id: fields.id("TaskId", ErrorCode::InvalidParameter)?,
        })
    }
}

impl StartRequest {
    /// From the fields of a body.
    ///
    /// # Errors
    /// The first field that is missing or wrong.
    pub fn parse(map: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields { prefix: "", map: Some(map) };
        let business_id = match fields.text("BusinessId")? {
            None | Some("") => None,
            Some(_) => Some(fields.id("BusinessId", ErrorCode::InvalidParameter)?),
        };
        let monitor = Fields { prefix: "MonitorConfig.", map: fields.object("MonitorConfig")? };
        let notify = Fields { prefix: "EventNotifyConfig.", map: fields.object("EventNotifyConfig")? };
        Ok(Self {
            task: TaskRef::parse(map)?,
            business_id,
            user_id: fields.id("UserId", ErrorCode::InvalidParameter)?,
            source_url: parse_source_url(&fields)?,
            video_solutions: parse_solutions(&fields)?,
            max_running_time: fields.number(&MAX_RUNNING_TIME)?,
            monitor_config: MonitorConfig {
                freeze_check_interval: monitor.number(&FREEZE_CHECK)?,
                blank_check_interval: monitor.number(&BLANK_CHECK)?,
                crash_check_interval: monitor.number(&CRASH_CHECK)?,
            },
            event_notify_config: EventNotifyConfig {
                enable_event_notify: notify.flag("EnableEventNotify")?,
                start_timeout: notify.number(&START_TIMEOUT)?,
            },
        })
    }

    /// The page's address, which has been checked.
    ///
    /// # Errors
    /// None that [`Self::read`] has not told.
    pub fn page_url(&self) -> Result<SourceUrl, ApiError> {
        SourceUrl::parse(self.source_url.reveal()).map_err(|error| match error {
            SpecError::UrlSyntax { source, .. } => invalid_parameter(format!(
                "SourceURL must be an address like https://a.example/page: {source}"
            )),
            other => invalid_parameter(format!("SourceURL cannot be used: {other}")),
        })
    }
}

/// The address is not repeated: what stands in it may be secret.
fn parse_source_url(fields: &Fields<'_>) -> Result<Secret, ApiError> {
    let url = fields.text("SourceURL")?.ok_or_else(|| fields.missing("SourceURL"))?;
    let chars = url.chars().count();
    if chars == 0 || chars > MAX_SOURCE_URL_CHARS {
        return Err(invalid_parameter(format!(
            "SourceURL has {chars} characters: 1 to {MAX_SOURCE_URL_CHARS} are possible"
        )));
    }
    Ok(Secret::new(url))
}

fn parse_solutions(fields: &Fields<'_>) -> Result<Vec<VideoSolution>, ApiError> {
    let name = "VideoSolutions";
    let given = match fields.get(name) {
        None => &[][..],
        Some(Value::Array(given)) => given,
        Some(other) => return Err(fields.wrong_type(name, "an array", other)),
    };
    if given.len() > MAX_SOLUTIONS {
        let count = given.len();
        return Err(invalid_parameter(format!(
            "{name} has {count} items: 1 to {MAX_SOLUTIONS} are possible"
        )));
    }
    let empty = [Value::Object(Map::new())];
    let given = if given.is_empty() { &empty } else { given };
    let one = |(at, item): (usize, &Value)| {
        let of = format!("{name}[{at}].");
        let Value::Object(map) = item else {
            return Err(fields.wrong_type(of.trim_end_matches('.'), "an object", item));
        };
        let fields = Fields { prefix: &of, map: Some(map) };
        Ok(VideoSolution {
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
    prefix: &'a str,
    /// Nothing, if they may be left out all together.
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    fn missing(&self, name: &str) -> ApiError {
        invalid_parameter(format!("{}{name} is missing", self.prefix))
    }

    fn wrong_type(&self, name: &str, wanted: &str, given: &Value) -> ApiError {
        invalid_parameter(format!("{}{name} must be {wanted}, it is {}", self.prefix, json_type(given)))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, "a string", other)),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong_type(name, "true or false", other)),
        }
    }

    fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.wrong_type(name, "an object", other)),
        }
    }

    fn number(&self, field: &IntField) -> Result<u32, ApiError> {
        let IntField { name, range, default } = field;
        let number = match self.get(name) {
            None => return Ok(*default),
            Some(Value::Number(number)) => number,
            Some(other) => return Err(self.wrong_type(name, "an integer", other)),
        };
        // Some JSON libraries write integers as doubles: `60.0` is one.
        let double = number.as_f64().filter(|_| number.is_f64());
        if double.is_some_and(|double| double.fract() != 0.0) {
            return Err(invalid_parameter(format!(
                "{}{name} must be an integer, it is {number}",
                self.prefix
            )));
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
                Err(invalid_parameter(format!(
                    "{}{name} is {number}: {zero}{low} to {high} are possible",
                    self.prefix
                )))
            }
        }
    }

    fn id(&self, name: &str, malformed: ErrorCode) -> Result<String, ApiError> {
        let id = self.text(name)?.ok_or_else(|| self.missing(name))?;
        let fits = (1..=MAX_ID_LEN).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-.".contains(&byte));
        if fits {
            return Ok(id.to_owned());
        }
        let message = format!(
            "{}{name} is {} with {} characters: 1 to 128 of the letters a to z and A to Z, digits, and _ @ - . are possible",
            self.prefix,
            quote_truncated(id),
            id.chars().count()
        );
        Err(ApiError::new(malformed, message))
    }
}

pub(super) fn invalid_parameter(message: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidParameter, message)
}

fn json_type(value: &Value) -> &'static str {
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
