//! What may come behind a request's head: so much, in so much time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Longest body of a request to `/`, in bytes: what Tencent takes at most.
pub const MAX_BODY_LEN: usize = 10 << 20;
/// It must have come by then.
const WITHIN: Duration = Duration::from_secs(30);
/// Bodies that are longer than this ...
const LARGE: usize = 1 << 16;
/// ... may be so many at once, so that memory is bounded. Full: more wait, within their time.
static LARGE_ONES: Semaphore = Semaphore::const_new(16);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    #[error("the body did not come in time")]
    Late,
    #[error("the body cannot be read")]
    Broken,
}

/// Reads a body, of any length said or unsaid. What is too long ends one byte behind [`MAX_BODY_LEN`]: whose request it is says it in its
/// own words.
pub(super) async fn read(body: Body) -> Result<Bytes, Lost> {
    timeout(WITHIN, collect(body)).await.map_err(|_| Lost::Late)?
}

async fn collect(mut body: Body) -> Result<Bytes, Lost> {
    let mut all = BytesMut::new();
    let mut large = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Lost::Broken)?.into_data() else { continue };
        let room = MAX_BODY_LEN + 1 - all.len();
        all.extend_from_slice(&data[..data.len().min(room)]);
        if all.len() > MAX_BODY_LEN {
            break;
        }
        if all.len() > LARGE && large.is_none() {
            large = LARGE_ONES.acquire().await.ok();
        }
    }
    Ok(all.freeze())
}
