//! The API of Volcengine's RTC webcast: `StartWebcast`, `StopWebcast`, `GetWebCastTask`.
//!
//! A call's signature is checked ([`sign`]), then how often its key asked; its parameters are read
//! ([`request`]), and a task becomes a cast or is found again. Everything is answered in the vendor's
//! envelope ([`answer`]). What happens to a task is told by [`callback`]. Where the vendor's documents are
//! silent, what is chosen is said where it is done.

pub mod answer;
pub mod callback;
mod replay;
pub mod request;
pub mod sign;
mod start;
mod task;
pub mod token;

use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, header};
use axum::response::Response;
use pagecast_core::spec::Secret;
use pagecast_fleet::UnixMs;
use serde_json::{Map, Value};

use crate::app::Application;
use crate::limit::Limits;
use crate::refused::RefusedAuth;
use crate::route::{Call, Lost};
use crate::service::{Service, request_id};
use answer::{About, Code, Fault, shown};
use replay::Seen;
use sign::{Verified, item};

/// What the vendor calls this.
const SERVICE: &str = "rtc";
/// What answers name when a call does not tell its region.
const DEFAULT_REGION: &str = "cn-north-1";
/// An answer is sent by then, whatever it says.
const DEADLINE: Duration = Duration::from_secs(10);

/// The version in which a task that runs already is a success in all documents.
const VERSION_2023: &str = "2023-11-01";
const VERSIONS: [&str; 2] = ["2020-12-01", VERSION_2023];

/// What can be asked for. The vendor's own pages differ in how they write the names, so their case does not
/// matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Start,
    Stop,
    Get,
}

impl Action {
    const ALL: [Self; 3] = [Self::Start, Self::Stop, Self::Get];

    /// Its name, and how often a second a key may ask for it.
    fn row(self) -> (&'static str, u32) {
        match self {
            Self::Start => ("StartWebcast", 150),
            Self::Stop => ("StopWebcast", 150),
            Self::Get => ("GetWebCastTask", 60),
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Start | Self::Stop => Method::POST,
            Self::Get => Method::GET,
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.row().0.eq_ignore_ascii_case(name))
    }
}

/// Whether a request to `/` speaks this dialect.
#[must_use]
pub fn claims(call: &Call) -> bool {
    let authorization = call.header(header::AUTHORIZATION.as_str()).unwrap_or_default();
    if authorization.starts_with("HMAC-SHA256") {
        return true;
    }
    let query = sign::items(&call.query).unwrap_or_default();
    let theirs = authorization.starts_with("TC3-")
        || call.headers.keys().any(|name| name.as_str().starts_with("x-tc-"))
        || item(&query, "SecretId").is_some()
        || item(&query, "Version") == Some("2019-07-22");
    let ours = call.headers.contains_key("x-date")
        || ["X-Credential", "X-Algorithm"].iter().any(|name| item(&query, name).is_some())
        || item(&query, "Action").is_some_and(|name| Action::of(name).is_some())
        || item(&query, "Version").is_some_and(|version| VERSIONS.contains(&version));
    ours && !theirs
}

/// Answers one whose body did not come, or not whole.
pub(crate) fn refuse(call: &Call, lost: Lost) -> Response {
    let code = match lost {
        Lost::Late => Code::InternalServiceTimeout,
        Lost::Broken => Code::Unmarshal,
        Lost::TooLong(_) => Code::InvalidParameter,
    };
    answer::respond(&about(call, DEFAULT_REGION), &Err(Fault::new(code, lost.to_string())))
}

/// What answers say about this request.
fn about(call: &Call, region: &str) -> About {
    let query = sign::items(&call.query);
    let named = |name| query.as_ref().ok().and_then(|query| item(query, name)).unwrap_or_default();
    About::new(request_id(), named("Action"), named("Version"), region)
}

/// What a key may ask for, it may ask for of the whole process.
static DESK: LazyLock<Desk> = LazyLock::new(Desk::default);

/// Answers a request that [`claims`] took.
pub async fn handle(service: &Service, call: Call) -> Response {
    DESK.handle(service, &call).await
}

/// Has this process remember which requests were answered, over restarts: by files in the data folder.
///
/// # Errors
/// The files cannot be read or written.
pub fn keep_signatures(data: &Path, now: UnixMs) -> io::Result<()> {
    *DESK.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::open(data, now)?;
    Ok(())
}

/// What is remembered from call to call.
#[derive(Debug)]
struct Desk {
    /// In the order of [`Action::ALL`].
    limits: [Limits; 3],
    seen: Mutex<Seen>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { limits: Action::ALL.map(|action| Limits::new(action.row().1)), seen: Mutex::default() }
    }
}

impl Desk {
    async fn handle(&self, service: &Service, call: &Call) -> Response {
        let region = service.config.volcengine.regions.first().map_or(DEFAULT_REGION, String::as_str);
        let mut about = about(call, region);
        let result = match self.admit(service, call, &mut about) {
            Ok(asked) => match tokio::time::timeout(DEADLINE, act(service, call, &asked)).await {
                Ok(result) => result,
                Err(_) => {
                    Err(Fault::new(Code::InternalServiceTimeout, "this takes too long: try again later"))
                }
            },
            Err(fault) => Err(fault),
        };
        let mut response = answer::respond(&about, &result);
        if let Err(fault) = &result {
            tracing::debug!(request = about.request_id, action = about.action, code = ?fault.code, "refused");
            if fault.code.is_authentication() {
                let refused = RefusedAuth::new("volcengine", sign::claimed_key(call), fault.code.word());
                response.extensions_mut().insert(refused);
            }
        }
        response
    }

    /// Everything that is checked before anything is read or done.
    fn admit(&self, service: &Service, call: &Call, about: &mut About) -> Result<Asked, Fault> {
        for (name, given) in [("Action", &about.action), ("Version", &about.version)] {
            if given.is_empty() {
                return Err(Fault::new(Code::MissingParameter, format!("the query lacks {name}")));
            }
        }
        let now = service.now();
        let regions = &service.config.volcengine.regions;
        let verified = sign::verify(call, now, regions, |id| secrets(service, id))?;
        refuse_temporary(call, &verified)?;
        about.region.clear();
        about.region.extend(verified.region.chars().take(64));
        let (action, version) = known(&verified)?;
        if call.method != action.method() {
            let message =
                format!("{} is asked for with {}, not {}", action.row().0, action.method(), call.method);
            return Err(Fault::new(Code::MethodNotAllowed, message));
        }
        let (name, rate) = action.row();
        if !self.limits[action as usize].check(&verified.key_id) {
            let message = format!("{name} may be asked for {rate} times a second: try again later");
            return Err(Fault::new(Code::QpsOverLimit, message));
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if action != Action::Get && !seen.admit(verified.signature, now) {
            let message = "this very request was answered before: sign each one anew";
            return Err(Fault::new(Code::InvalidTimestamp, message));
        }
        Ok(Asked { action, version, verified })
    }
}

/// Refuses the token of a temporary key, as Tencent's API does: this service issues none, so nothing could
/// say whether the token is good, or until when. An empty one is none.
fn refuse_temporary(call: &Call, verified: &Verified) -> Result<(), Fault> {
    let has_text = |token: Option<&str>| token.is_some_and(|token| !token.trim().is_empty());
    if !has_text(call.header("x-security-token")) && !has_text(item(&verified.query, "X-Security-Token")) {
        return Ok(());
    }
    let message = "there are no temporary keys here: use an access key of the application, and leave out X-Security-Token";
    Err(Fault::new(Code::InvalidAccessKey, message))
}

/// A call that may be carried out.
#[derive(Debug)]
struct Asked {
    action: Action,
    version: &'static str,
    verified: Verified,
}

fn known(verified: &Verified) -> Result<(Action, &'static str), Fault> {
    let given = |name| item(&verified.query, name).unwrap_or_default();
    let (action, version) = (given("Action"), given("Version"));
    match (Action::of(action), VERSIONS.into_iter().find(|known| *known == version)) {
        (Some(action), Some(version)) => Ok((action, version)),
        _ => {
            let (action, version) = (shown(action), shown(version));
            let message = format!(
                "there is no action {action} of version {version}: StartWebcast, StopWebcast and GetWebCastTask are possible, of 2020-12-01 and 2023-11-01"
            );
            Err(Fault::new(Code::InvalidActionOrVersion, message))
        }
    }
}

async fn act(service: &Service, call: &Call, asked: &Asked) -> Result<Value, Fault> {
    let fields = match asked.action {
        Action::Get => request::query(&asked.verified.query),
        Action::Start | Action::Stop => request::body(&call.body)?,
    };
    let owner = |fields: &Map<String, Value>| -> Result<_, Fault> {
        let task = request::Task::read(fields)?;
        Ok((application(service, &asked.verified, &task.app_id)?, task))
    };
    match asked.action {
        Action::Start => {
            let start = request::Start::read(&fields)?;
            let (app, _) = owner(&fields)?;
            let strict = service.config.volcengine.strict_repeat && asked.version != VERSION_2023;
            start::start(service, &app, &start, strict).await
        }
        Action::Stop => {
            let (app, task) = owner(&fields)?;
            task::stop(service, &app, &task).await
        }
        Action::Get => {
            let (app, task) = owner(&fields)?;
            task::get(service, &app, &task).await
        }
    }
}

/// The secrets of an access key. Applications that share a key have the same one, unless somebody made a
/// mistake.
fn secrets(service: &Service, id: &str) -> Vec<Secret> {
    let mut secrets: Vec<Secret> = Vec::new();
    for app in service.apps.with_key(id) {
        for key in app.keys.iter().filter(|key| key.id == id && !key.disabled) {
            if !secrets.contains(&key.secret) {
                secrets.push(key.secret.clone());
            }
        }
    }
    secrets
}

/// The application of this `AppId`, if the key that signed is one of its own.
fn application(service: &Service, by: &Verified, app_id: &str) -> Result<Arc<Application>, Fault> {
    let named = |app: &Arc<Application>| app.app_id.as_deref() == Some(app_id);
    let may = |app: &Arc<Application>| {
        app.keys.iter().any(|key| key.id == by.key_id && !key.disabled && key.secret == by.secret)
    };
    let named: Vec<Arc<Application>> = service.apps.all().into_iter().filter(named).collect();
    let known = !named.is_empty();
    named.into_iter().find(may).ok_or_else(|| {
        let app_id = shown(app_id);
        if known {
            let message = format!("the application {app_id} is not one of this access key");
            Fault::new(Code::AccountIdMismatch, message)
        } else {
            Fault::new(Code::NotExistAppId, format!("there is no application {app_id}"))
        }
    })
}

/// Something that is not the caller's fault, who is told nothing about it.
fn broken(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Fault {
    let cause = error.source().map(tracing::field::display);
    tracing::warn!(doing, %error, cause, "a call failed");
    Fault::internal()
}

#[cfg(test)]
mod tests;
