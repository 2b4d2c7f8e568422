//! Bodies that are read.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

use super::{Problem, Rest};

/// A JSON body: what it says, and as it came.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) bytes: Bytes,
}

/// A JSON body that may be left out.
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T: DeserializeOwned> FromRequest<Rest> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, rest: &Rest) -> Result<Self, Problem> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let words = "send JSON, and the header Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", words));
        }
        let bytes = body(request, rest).await?;
        Ok(Self { value: read(&bytes)?, bytes })
    }
}

impl<T: DeserializeOwned> FromRequest<Rest> for Maybe<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, rest: &Rest) -> Result<Self, Problem> {
        let bytes = body(request, rest).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) { Ok(Self(None)) } else { read(&bytes).map(Self) }
    }
}

async fn body(request: Request, rest: &Rest) -> Result<Bytes, Problem> {
    use axum::response::IntoResponse as _;
    Bytes::from_request(request, rest).await.map_err(|refusal| {
        if refusal.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the body is larger than 8 MiB")
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "bad-request", "the body does not arrive")
        }
    })
}

/// What a body says; what is wrong with it names its field.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let problem = Problem::value(path.clone(), inner.to_string());
            if path == "." {
                Problem::new(StatusCode::BAD_REQUEST, "invalid-parameter", inner.to_string())
            } else {
                problem
            }
        } else {
            not_json(&inner)
        }
    })?;
    reader.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-json", format!("the body is not JSON: {error}"))
}
