//! Maps errors of a cast's description to fields of the request.

use pagecast_core::SpecError;
use pagecast_core::spec::{Field, StorageError};

use super::{ApiError, ErrorCode};

/// Renders an error of a description.
pub(in crate::rest) fn spec_api_error(error: &SpecError) -> ApiError {
    let api_error = match field_name(error) {
        Some(field) => ApiError::invalid_parameter(field, message(error)),
        None => ApiError::new(ErrorCode::InvalidParameter, message(error)),
    };
    if matches!(error, SpecError::Room { what: "the embedded rooms", .. }) {
        return ApiError::new(
            ErrorCode::RoomsDisabled,
            "the embedded rooms of this service are switched off",
        )
        .with_field("room");
    }
    api_error
}

fn message(error: &SpecError) -> String {
    match std::error::Error::source(error) {
        Some(source) if matches!(error, SpecError::UrlSyntax { .. }) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

fn field_name(error: &SpecError) -> Option<&'static str> {
    Some(match error {
        SpecError::UrlSyntax { .. } | SpecError::UrlScheme(_) | SpecError::UrlLength(_) => "url",
        SpecError::Size { .. } => "width",
        SpecError::Fps(_) => "fps",
        SpecError::ScaleFactor(_) => "scale_factor",
        SpecError::Bitrate(_) => "bitrate_kbps",
        SpecError::Duration(_) => "duration_s",
        SpecError::RecordingName(_) => "recording.name",
        SpecError::HlsToFile => "recording.format",
        SpecError::VodMediaOnly | SpecError::ThumbnailsWithoutVideo => "recording.thumbnails_s",
        SpecError::Storage(StorageError::Keys(_)) => "recording.keys",
        SpecError::Storage(_) | SpecError::Path(_) | SpecError::Backup => "recording.to",
        SpecError::Push(_) => "pushes",
        SpecError::Placement(_) => "placement.labels",
        SpecError::DurationOutOfRange { field, .. } | SpecError::NumberOutOfRange { field, .. } => {
            range_field(*field)?
        }
        SpecError::Context { what, .. } => context_field(what)?,
        SpecError::Room { what, .. } => room_field(what),
        _ => return None,
    })
}

fn range_field(field: Field) -> Option<&'static str> {
    Some(match field {
        Field::ReadyTimeout => "ready.timeout_s",
        Field::FreezeCheck => "checks.freeze_s",
        Field::BlankCheck => "checks.blank_s",
        Field::CrashCheck => "checks.crash_s",
        Field::MaxTime => "max_time_s",
        Field::Segment => "recording.segment_s",
        Field::Split => "recording.split_s",
        Field::Thumbnails => "recording.thumbnails_s",
        Field::Attempts
        | Field::Memory
        | Field::Disk
        | Field::CpuWeight
        | Field::UploadTimeout
        | Field::Spool => {
            return None;
        }
    })
}

fn context_field(what: &str) -> Option<&'static str> {
    let known = [
        ("header", "headers"),
        ("headers or cookies", "headers"),
        ("cookie", "cookies"),
        ("user agent", "user_agent"),
        ("locale", "locale"),
        ("time zone", "timezone"),
        ("style sheet or script", "css"),
        ("scale factor", "mobile"),
        ("selector to wait for", "ready.selector"),
    ];
    known.into_iter().find(|(name, _)| *name == what).map(|(_, field)| field)
}

fn room_field(what: &str) -> &'static str {
    match what {
        "this room identifier" => "room.room",
        "this user identifier" => "room.user",
        "these layers" => "room.layers",
        "this bitrate of a layer" => "room.layers",
        _ => "room",
    }
}
