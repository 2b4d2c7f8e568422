//! Extractors for JSON bodies.

use std::fmt;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

use super::{ApiError, ErrorCode, MAX_BODY_LEN, RestState};
use crate::bounded_json;
use crate::route::{BodyError, ClaimedPrincipal, read_up_to};

/// Field with an object of any shape: parameters of a vendor's action.
const FREE_FIELD: &str = "parameters";
/// All fields of all bodies that are arrays.
const ARRAY_FIELDS: [&str; 6] = ["layers", "pushes", "servers", "allow", "deny", "labels"];

/// A JSON body: its value, and its bytes as sent.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

/// An optional JSON body.
pub(super) struct OptionalJson<T>(pub(super) Option<T>);

impl<T: DeserializeOwned> FromRequest<RestState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &RestState) -> Result<Self, ApiError> {
        let content_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|content_type| content_type.to_str().ok())
            .unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = "send JSON, and the header Content-Type: application/json";
            return Err(ApiError::new(ErrorCode::UnsupportedMediaType, message));
        }
        let bytes = read_body(request).await?;
        Ok(Self { value: parse(&bytes)?, bytes })
    }
}

impl<T: DeserializeOwned> FromRequest<RestState> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &RestState) -> Result<Self, ApiError> {
        let bytes = read_body(request).await?;
        if bytes.is_empty() { Ok(Self(None)) } else { parse(&bytes).map(Self) }
    }
}

/// Reads the body of a request. Handlers extract the [`Caller`](super::Caller) first; a body without a caller
/// has the limits of an anonymous sender.
async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    let sender =
        request.extensions().get::<ClaimedPrincipal>().cloned().unwrap_or(ClaimedPrincipal::Anonymous);
    let bytes =
        read_up_to(request.into_body(), &sender, MAX_BODY_LEN).await.map_err(|error| match error {
            BodyError::TimedOut => ApiError::new(ErrorCode::Timeout, "the body did not arrive in time"),
            BodyError::ReadFailed => ApiError::new(ErrorCode::BadRequest, "the body could not be read"),
            BodyError::TooLarge(_) => too_large(),
        })?;
    if bytes.len() > MAX_BODY_LEN { Err(too_large()) } else { Ok(bytes.into_bytes()) }
}

fn too_large() -> ApiError {
    ApiError::new(ErrorCode::TooLarge, "the body is larger than 8 MiB")
}

/// Parses a body. Errors name the field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    bounded_json::check_value_count(bytes)
        .map_err(|error| ApiError::new(ErrorCode::TooLarge, error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() { error_at(&path, &inner) } else { invalid_json(&inner) }
    })?;
    reader.end().map_err(|error| invalid_json(&error))?;
    // Checked last, so that type errors elsewhere have better messages.
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let checked = ArrayCheck { array_allowed: false }
        .deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track));
    checked.map_err(|error| error_at(&track.path().to_string(), &error))?;
    Ok(value)
}

fn error_at(path: &str, error: &serde_json::Error) -> ApiError {
    let api_error = ApiError::new(ErrorCode::InvalidParameter, error.to_string());
    if path == "." { api_error } else { api_error.with_field(path) }
}

fn invalid_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(ErrorCode::InvalidJson, format!("the body is not JSON: {error}"))
}

/// Refuses arrays where objects are expected: serde would accept the fields of a struct as an array without
/// names.
struct ArrayCheck {
    /// Whether an array is allowed here.
    array_allowed: bool,
}

impl<'de> DeserializeSeed<'de> for ArrayCheck {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ArrayCheck {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields with their names")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        if !self.array_allowed {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        while array.next_element_seed(Self { array_allowed: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == FREE_FIELD {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            map.next_value_seed(Self { array_allowed: ARRAY_FIELDS.contains(&name.as_str()) })?;
        }
        Ok(())
    }
}
