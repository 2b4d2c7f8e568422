//! What applications used, by day, as JSON or CSV.

use std::fmt::Write as _;

use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Days, NaiveDate, Utc};
use pagecast_fleet::DailyUse;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ErrorResponse;
use super::{ApiError, Caller, RestState, json_response};

/// Most days in one answer: a leap year.
const MAX_DAYS: i64 = 366;
/// Days in an answer to a request that names none.
const DEFAULT_DAYS: u64 = 30;
/// Milliseconds of an hour.
const HOUR_MS: f64 = 3_600_000.0;

/// Use of applications by day.
#[derive(Serialize, ToSchema)]
pub(super) struct UseList {
    /// Days on which an application used something, by day and application.
    days: Vec<UseView>,
}

/// What an application used on one day.
#[derive(Serialize, ToSchema)]
#[schema(as = DailyUse)]
struct UseView {
    /// The day in UTC, like `2026-11-21`.
    #[schema(format = Date)]
    day: String,
    /// The application.
    app: String,
    /// Number of casts that began on this day.
    casts: u64,
    /// Hours that casts ran on this day, added up: from the start of each to its end, or to now.
    cast_hours: f64,
    /// CPU time of casts that are completed, in hours of one core. That of a cast is divided among its days;
    /// what a node or a process used that died is not included.
    core_hours: f64,
    /// Size of the files that casts stored which are completed, in bytes, divided in the same way.
    bytes: u64,
}

impl UseView {
    fn new(of: DailyUse) -> Self {
        // To a hundredth of a second: sums of all digits of floating point would be noise.
        let hours = |ms: u64| (ms as f64 / HOUR_MS * 1e6).round() / 1e6;
        Self {
            day: date_of(of.day).to_string(),
            app: of.app,
            casts: of.casts,
            cast_hours: hours(of.cast_ms),
            core_hours: hours(of.core_ms),
            bytes: of.bytes,
        }
    }
}

/// What a request asks for.
struct UseQuery {
    from: NaiveDate,
    to: NaiveDate,
    app: Option<String>,
    csv: bool,
}

/// Get what applications used, by day.
///
/// Casts count for the time from their start to their end, also after their history was deleted. Use is kept
/// for 800 days. With `Accept: text/csv` or `format=csv`, the response is a table with the same columns.
#[utoipa::path(get, path = "/v1/use", tag = "applications", operation_id = "getUse",
    params(
        ("from" = Option<String>, Query, format = Date,
            description = "First day in UTC, like `2026-11-01`; 29 days before `to` if absent."),
        ("to" = Option<String>, Query, format = Date,
            description = "Last day in UTC, at most 365 days after the first; today if absent."),
        ("app" = Option<String>, Query, pattern = "^[a-z0-9_-]{1,64}$",
            description = "Only this application. A token of an application gets its own use only."),
        ("format" = Option<String>, Query, pattern = "^(json|csv)$", description = "`json` or `csv`."),
    ),
    responses((status = 200, description = "Use by day.",
            content((UseList = "application/json"), (String = "text/csv"))),
        (status = 400, description = "`invalid-parameter`.", body = ErrorResponse),
        (status = 403, description = "`forbidden`: of another application.", body = ErrorResponse)))]
pub(super) async fn get(
    State(rest): State<RestState>,
    caller: Caller,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let now = DateTime::<Utc>::from_timestamp_millis(rest.service.now()).unwrap_or_default();
    let mut query = UseQuery::parse(query.as_deref().unwrap_or_default(), now.date_naive(), &headers)?;
    if let Caller::Application(app) = &caller {
        if query.app.as_ref().is_some_and(|name| *name != app.name) {
            return Err(ApiError::forbidden("this token belongs to another application").with_field("app"));
        }
        query.app = Some(app.name.clone());
    }
    let days = day_number(query.from)..=day_number(query.to);
    let used = rest.service.fleet.daily_use(query.app.as_deref(), days).await?;
    let days: Vec<_> = used.into_iter().map(UseView::new).collect();
    if !query.csv {
        return Ok(json_response(StatusCode::OK, &UseList { days }));
    }
    let mut response = csv(&days).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present"));
    let name = format!("attachment; filename=\"use-{}-{}.csv\"", query.from, query.to);
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// A table as RFC 4180 has it. Names of applications need no quotes.
fn csv(days: &[UseView]) -> String {
    let mut text = "day,app,casts,cast_hours,core_hours,bytes\r\n".to_owned();
    for UseView { day, app, casts, cast_hours, core_hours, bytes } in days {
        // Writing to a text cannot fail.
        let _written = write!(text, "{day},{app},{casts},{cast_hours},{core_hours},{bytes}\r\n");
    }
    text
}

impl UseQuery {
    fn parse(query: &str, today: NaiveDate, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (mut from, mut to, mut app, mut format) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let wrong = |message: &str| ApiError::invalid_parameter(&*name, message);
            match &*name {
                "from" => from = Some(parse_date(&value).ok_or_else(|| wrong(DATE_MESSAGE))?),
                "to" => to = Some(parse_date(&value).ok_or_else(|| wrong(DATE_MESSAGE))?),
                "app" => {
                    crate::app::validate_name(&value).map_err(|error| wrong(&error.reason))?;
                    app = Some(value.into_owned());
                }
                "format" if matches!(&*value, "json" | "csv") => format = Some(value == "csv"),
                "format" => return Err(wrong("it must be json or csv")),
                _ => return Err(wrong("there is no such parameter: use from, to, app and format")),
            }
        }
        let to = to.unwrap_or(today);
        let from = from.unwrap_or_else(|| to.checked_sub_days(Days::new(DEFAULT_DAYS - 1)).unwrap_or(to));
        if from > to || day_number(to) - day_number(from) >= MAX_DAYS {
            return Err(ApiError::invalid_parameter("from", "it must be at most 365 days before `to`"));
        }
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let accepts_csv = accept.split(',').any(|accept| accept.trim().starts_with("text/csv"));
        Ok(Self { from, to, app, csv: format.unwrap_or(accepts_csv) })
    }
}

/// Explains how a day is written.
const DATE_MESSAGE: &str = "it must be a day like 2026-11-21, from 1970 on";

fn parse_date(text: &str) -> Option<NaiveDate> {
    let is_plain = text.len() == 10 && text.bytes().all(|c| c.is_ascii_digit() || c == b'-');
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| is_plain)?;
    (day_number(date) >= 0).then_some(date)
}

fn day_number(date: NaiveDate) -> i64 {
    date.signed_duration_since(NaiveDate::default()).num_days()
}

fn date_of(day: i64) -> NaiveDate {
    let days = u64::try_from(day).unwrap_or(0);
    NaiveDate::default().checked_add_days(Days::new(days)).unwrap_or_default()
}
