//! Parameters of the three actions, checked field by field.

pub(super) mod description;

use std::ops::RangeInclusive;

use pagecast_core::SpecError;
use pagecast_core::spec::{MAX_ID_LEN, Secret, SourceUrl};
use serde::Serialize;
use serde_json::{Map, Value};

use super::response::{ApiError, ErrorCode, quote_truncated};
use super::signature::QueryParam;
use crate::bounded_json;

/// Longest `SourceURL`, in characters: the vendor's limit.
pub const MAX_SOURCE_URL_CHARS: usize = 1024;
/// Most entries of `VideoSolutions`: the vendor's limit.
pub const MAX_SOLUTIONS: usize = 2;

/// Integer field with its range.
struct IntField {
    name: &'static str,
    range: RangeInclusive<u32>,
    /// Value of a field that is absent, `null` or 0: clients that serialize unset integers send 0.
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

/// Parameters of `StartWebcast` with all defaults filled in. `GetWebCastTask` repeats them in serialized
/// form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StartRequest {
    /// Task to start.
    #[serde(flatten)]
    pub task: TaskRef,
    /// Label that callbacks repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub business_id: Option<String>,
    /// User that publishes the page in the room.
    pub user_id: String,
    /// Address of the page, as sent.
    #[serde(rename = "SourceURL")]
    pub source_url: Secret,
    /// One or two pictures to publish.
    pub video_solutions: Vec<VideoSolution>,
    /// Longest running time, in seconds.
    pub max_running_time: u32,
    /// Health checks of the page.
    pub monitor_config: MonitorConfig,
    /// Calls that are expected from the page.
    pub event_notify_config: EventNotifyConfig,
}

/// Identifies a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskRef {
    /// Application identifier.
    pub app_id: String,
    /// Room in the application.
    pub room_id: String,
    /// Task in the room.
    pub task_id: String,
}

/// Picture to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VideoSolution {
    /// Width in pixels, even.
    pub width: u32,
    /// Height in pixels, even.
    pub height: u32,
    /// Frames per second.
    pub frame_rate: u32,
    /// Bitrate in kbit/s; 0 leaves the choice to the service.
    pub bitrate: u32,
}

/// Intervals of the health checks, in seconds; 0 switches a check off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct MonitorConfig {
    /// Interval of the check for a frozen page.
    pub freeze_check_interval: u32,
    /// Interval of the check for a blank page.
    pub blank_check_interval: u32,
    /// Interval of the check whether scripts respond.
    pub crash_check_interval: u32,
}

/// Calls that are expected from the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventNotifyConfig {
    /// Whether the page calls `onWebcastStart()` and `onWebcastEnd()`.
    pub enable_event_notify: bool,
    /// Longest wait for `onWebcastStart()`, in seconds; 0 waits without limit.
    pub start_timeout: u32,
}

/// Parses a body into its fields.
///
/// If the body is empty, or not a JSON object.
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
        // The message names the position and repeats nothing of the body.
        Err(bounded_json::Error::Syntax(error)) => {
            Err(ApiError::new(ErrorCode::Unmarshal, format!("the body is not JSON: {error}")))
        }
    }
}

/// Fields of a query; of several with the same name, the first.
#[must_use]
pub fn query_fields(items: &[QueryParam]) -> Map<String, Value> {
    items.iter().rev().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect()
}

impl TaskRef {
    /// Parses the fields of a body or a query.
    ///
    /// # Errors
    /// If a field is missing or invalid: about the first such field.
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
    /// Parses the fields of a body.
    ///
    /// # Errors
    /// If a field is missing or invalid: about the first such field.
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

    /// Parses the address of the page.
    ///
    /// If the address is not a URL that a browser can open.
    pub fn page_url(&self) -> Result<SourceUrl, ApiError> {
        SourceUrl::parse(self.source_url.reveal()).map_err(|error| match error {
            SpecError::UrlSyntax { source, .. } => {
                invalid_parameter(format!("SourceURL must be a URL like https://a.example/page: {source}"))
            }
            other => invalid_parameter(format!("SourceURL is invalid: {other}")),
        })
    }
}

/// Errors do not repeat the address, which may contain secrets.
fn parse_source_url(fields: &Fields<'_>) -> Result<Secret, ApiError> {
    let url = fields.text("SourceURL")?.ok_or_else(|| fields.missing("SourceURL"))?;
    let chars = url.chars().count();
    if chars == 0 || chars > MAX_SOURCE_URL_CHARS {
        return Err(invalid_parameter(format!(
            "SourceURL has {chars} characters: it must have 1 to {MAX_SOURCE_URL_CHARS}"
        )));
    }
    Ok(Secret::new(url))
}

fn parse_solutions(fields: &Fields<'_>) -> Result<Vec<VideoSolution>, ApiError> {
    let name = "VideoSolutions";
    let value = match fields.get(name) {
        None => &[][..],
        Some(Value::Array(value)) => value,
        Some(other) => return Err(fields.wrong_type(name, "an array", other)),
    };
    if value.len() > MAX_SOLUTIONS {
        let count = value.len();
        return Err(invalid_parameter(format!(
            "{name} has {count} items: it must have 1 to {MAX_SOLUTIONS}"
        )));
    }
    let empty = [Value::Object(Map::new())];
    let value = if value.is_empty() { &empty } else { value };
    let parse_solution = |(at, item): (usize, &Value)| {
        let prefix = format!("{name}[{at}].");
        let Value::Object(map) = item else {
            return Err(fields.wrong_type(prefix.trim_end_matches('.'), "an object", item));
        };
        let fields = Fields { prefix: &prefix, map: Some(map) };
        Ok(VideoSolution {
            // The requested size is an upper bound, so odd sizes are rounded down.
            width: fields.number(&WIDTH)? & !1,
            height: fields.number(&HEIGHT)? & !1,
            frame_rate: fields.number(&FRAME_RATE)?,
            bitrate: fields.number(&BITRATE)?,
        })
    };
    value.iter().enumerate().map(parse_solution).collect()
}

/// Fields of an object. Names are case-sensitive, and `null` counts as absent.
struct Fields<'a> {
    /// Prefix of the names in messages.
    prefix: &'a str,
    /// `None` if the object is absent.
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        #[cfg(test)]
        crate::explorer::read_fields::record(&format!("{}{name}", self.prefix));
        self.map?.get(name).filter(|value| !value.is_null())
    }

    fn missing(&self, name: &str) -> ApiError {
        invalid_parameter(format!("{}{name} is missing", self.prefix))
    }

    fn wrong_type(&self, name: &str, wanted: &str, value: &Value) -> ApiError {
        invalid_parameter(format!("{}{name} must be {wanted}, it is {}", self.prefix, json_type(value)))
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
        // Some JSON libraries write integers as doubles: `60.0` is an integer.
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
                // 0 is mentioned where it switches something off.
                let (low, high, zero) =
                    (range.start(), range.end(), if *default == 0 { "0, or " } else { "" });
                let zero = if range.contains(&0) { "" } else { zero };
                Err(invalid_parameter(format!(
                    "{}{name} is {number}: it must be {zero}{low} to {high}",
                    self.prefix
                )))
            }
        }
    }

    fn id(&self, name: &str, malformed: ErrorCode) -> Result<String, ApiError> {
        let id = self.text(name)?.ok_or_else(|| self.missing(name))?;
        let is_valid = (1..=MAX_ID_LEN).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_@-.".contains(&byte));
        if is_valid {
            return Ok(id.to_owned());
        }
        let message = format!(
            "{}{name} is {} with {} characters: it must have 1 to 128 letters a to z and A to Z, digits, \
             and _ @ - .",
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
