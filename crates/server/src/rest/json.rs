//! Bodies that are read.

use std::fmt;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::{ApiError, MAX_BODY_LEN, RestState};
use crate::bounded_json;
use crate::route::{BodyError, ClaimedPrincipal, read_up_to};

/// The only fields that are lists, of all bodies.
const ARRAY_FIELDS: [&str; 5] = ["layers", "pushes", "servers", "allow", "deny"];

/// A JSON body: what it says, and as it came.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

/// A JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) Option<T>);

impl<T: DeserializeOwned> FromRequest<RestState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &RestState) -> Result<Self, ApiError> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let words = "send JSON, and the header Content-Type: application/json";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", words));
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

/// The body of a request. Its sender is known: handlers ask for the [`Caller`](super::Caller) first, and
/// nobody else's is read as one of a token.
async fn read_body(request: Request) -> Result<Bytes, ApiError> {
    let sender =
        request.extensions().get::<ClaimedPrincipal>().cloned().unwrap_or(ClaimedPrincipal::Anonymous);
    let bytes = read_up_to(request.into_body(), &sender, MAX_BODY_LEN).await.map_err(|lost| match lost {
        BodyError::TimedOut => {
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body does not arrive in time")
        }
        BodyError::ReadFailed => {
            ApiError::new(StatusCode::BAD_REQUEST, "bad-request", "the body does not arrive")
        }
        BodyError::TooLarge(_) => too_large(),
    })?;
    if bytes.len() > MAX_BODY_LEN { Err(too_large()) } else { Ok(bytes.into_bytes()) }
}

fn too_large() -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is larger than 8 MiB")
}

/// What a body says; what is wrong with it names its field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    bounded_json::check_value_count(bytes)
        .map_err(|error| ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() { error_at(&path, &inner) } else { invalid_json(&inner) }
    })?;
    reader.end().map_err(|error| invalid_json(&error))?;
    // Last, so that what is no list is told in the words of its own type.
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let walked = ArrayCheck { array_allowed: false }
        .deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track));
    walked.map_err(|error| error_at(&track.path().to_string(), &error))?;
    Ok(value)
}

fn error_at(path: &str, error: &serde_json::Error) -> ApiError {
    let problem = ApiError::new(StatusCode::BAD_REQUEST, "invalid-parameter", error.to_string());
    if path == "." { problem } else { problem.with_field(path) }
}

fn invalid_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid-json", format!("the body is not JSON: {error}"))
}

/// Walks over a body, keeping nothing: fields in a list, without their names, would be taken for an object
/// with them.
struct ArrayCheck {
    /// Whether a list may stand here.
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.array_allowed {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        while list.next_element_seed(Self { array_allowed: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Self { array_allowed: ARRAY_FIELDS.contains(&name.as_str()) })?;
        }
        Ok(())
    }
}
