//! Bodies that are read.

use std::fmt;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::{MAX_BODY_LEN, Problem, Rest};
use crate::bounded_json;
use crate::route::{Lost, Sender, read_of};

/// The only fields that are lists, of all bodies.
const LISTS: [&str; 5] = ["layers", "pushes", "servers", "allow", "deny"];

/// A JSON body: what it says, and as it came.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

/// A JSON body that may be left out.
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T: DeserializeOwned> FromRequest<Rest> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Rest) -> Result<Self, Problem> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let words = "send JSON, and the header Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", words));
        }
        let bytes = body(request).await?;
        Ok(Self { value: read(&bytes)?, bytes })
    }
}

impl<T: DeserializeOwned> FromRequest<Rest> for Maybe<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Rest) -> Result<Self, Problem> {
        let bytes = body(request).await?;
        if bytes.is_empty() { Ok(Self(None)) } else { read(&bytes).map(Self) }
    }
}

/// The body of a request. Its sender is known: handlers ask for the [`Caller`](super::Caller) first, and
/// nobody else's is read as one of a token.
async fn body(request: Request) -> Result<Bytes, Problem> {
    let sender = request.extensions().get::<Sender>().cloned().unwrap_or(Sender::Stranger);
    let bytes = read_of(request.into_body(), &sender, MAX_BODY_LEN).await.map_err(|lost| match lost {
        Lost::Late => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body does not arrive in time")
        }
        Lost::Broken => Problem::new(StatusCode::BAD_REQUEST, "bad-request", "the body does not arrive"),
        Lost::TooLong(_) => too_large(),
    })?;
    if bytes.len() > MAX_BODY_LEN { Err(too_large()) } else { Ok(bytes.into_bytes()) }
}

fn too_large() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is larger than 8 MiB")
}

/// What a body says; what is wrong with it names its field.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    bounded_json::check(bytes)
        .map_err(|error| Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() { at(&path, &inner) } else { not_json(&inner) }
    })?;
    reader.end().map_err(|error| not_json(&error))?;
    // Last, so that what is no list is told in the words of its own type.
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let walked =
        Shape { list: false }.deserialize(serde_path_to_error::Deserializer::new(&mut reader, &mut track));
    walked.map_err(|error| at(&track.path().to_string(), &error))?;
    Ok(value)
}

fn at(path: &str, error: &serde_json::Error) -> Problem {
    let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid-parameter", error.to_string());
    if path == "." { problem } else { problem.field(path) }
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-json", format!("the body is not JSON: {error}"))
}

/// Walks over a body, keeping nothing: fields in a list, without their names, would be taken for an object
/// with them.
struct Shape {
    /// Whether a list may stand here.
    list: bool,
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
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
        if !self.list {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        while list.next_element_seed(Self { list: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Self { list: LISTS.contains(&name.as_str()) })?;
        }
        Ok(())
    }
}
