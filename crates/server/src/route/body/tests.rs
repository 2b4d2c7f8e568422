use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::*;

fn key(name: &str) -> ClaimedPrincipal {
    ClaimedPrincipal::Key(name.to_owned())
}

/// A body that sends `len` bytes and does not end.
fn endless(len: usize) -> Body {
    let begin = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; len]))]);
    Body::from_stream(begin.chain(stream::pending()))
}

async fn read_len(body: Body, sender: &ClaimedPrincipal, max_len: usize) -> Result<usize, BodyError> {
    read(body, sender, &HeaderMap::new(), max_len).await.map(|bytes| bytes.len())
}

#[tokio::test]
async fn bodies_that_do_not_arrive_time_out() {
    let known = key("late");
    let late = tokio::join!(
        async { (read_len(endless(1), &ClaimedPrincipal::Anonymous, MAX_BODY_LEN).await, Instant::now()) },
        async { (read_len(endless(1), &known, MAX_BODY_LEN).await, Instant::now()) },
    );
    assert_eq!((late.0.0, late.1.0), (Err(BodyError::TimedOut), Err(BodyError::TimedOut)));
    assert!(late.0.1 < late.1.1, "anonymous senders have less time");
}

#[tokio::test]
async fn anonymous_bodies_are_small() {
    let form = HeaderMap::from_iter([(
        axum::http::header::CONTENT_TYPE,
        "application/x-www-form-urlencoded; charset=utf-8".parse().unwrap(),
    )]);
    for (headers, len, want) in [
        (HeaderMap::new(), SMALL_BODY_LEN, Ok(SMALL_BODY_LEN)),
        (HeaderMap::new(), SMALL_BODY_LEN + 1, Err(BodyError::TooLarge(SMALL_BODY_LEN))),
        (HeaderMap::new(), MAX_BODY_LEN, Err(BodyError::TooLarge(SMALL_BODY_LEN))),
        (form.clone(), MAX_ANONYMOUS_FORM_LEN, Ok(MAX_ANONYMOUS_FORM_LEN)),
        (form, MAX_ANONYMOUS_FORM_LEN + 1, Err(BodyError::TooLarge(MAX_ANONYMOUS_FORM_LEN))),
    ] {
        let found =
            read(Body::from(vec![b'x'; len]), &ClaimedPrincipal::Anonymous, &headers, MAX_BODY_LEN).await;
        assert_eq!(found.map(|bytes| bytes.len()), want, "{len}");
    }
    // The error is returned without waiting for the rest of the body.
    assert_eq!(
        read_len(endless(SMALL_BODY_LEN + 1), &ClaimedPrincipal::Anonymous, MAX_BODY_LEN).await,
        Err(BodyError::TooLarge(SMALL_BODY_LEN))
    );
    assert_eq!(read_len(endless(200_000), &key("cut"), 100_000).await, Ok(100_001));
}

#[tokio::test]
async fn a_key_has_its_share_of_large_bodies() {
    let limiter = LargeBodyLimiter::new(3, 2);
    let first = limiter.acquire("a").now_or_never().unwrap().unwrap();
    let second = limiter.acquire("a").now_or_never().unwrap().unwrap();
    assert!(limiter.acquire("a").now_or_never().is_none(), "a third one waits");
    let other = limiter.acquire("b").now_or_never().unwrap().unwrap();
    assert!(limiter.acquire("c").now_or_never().is_none(), "all permits are taken");
    drop(first);
    let third = limiter.acquire("a").now_or_never().unwrap().unwrap();
    drop((second, third, other));
    assert!(limiter.per_key.lock().unwrap().is_empty(), "keys are forgotten");
    assert_eq!(limiter.permits.available_permits(), 3);
}

#[tokio::test]
async fn a_permit_is_held_until_the_body_is_dropped() {
    let limiter = LargeBodyLimiter::new(1, 1);
    let body = || Body::from(vec![b'x'; SMALL_BODY_LEN + 1]);
    let bytes = collect(body(), MAX_BODY_LEN, &limiter, "a").await.unwrap();
    assert_eq!(
        bytes.sha256(),
        HashedBody::from(Bytes::from(bytes.to_vec())).sha256(),
        "computed while the body arrived"
    );
    let bytes = bytes.into_bytes();
    let part = bytes.slice(10..20);
    drop(bytes);
    assert!(collect(body(), MAX_BODY_LEN, &limiter, "a").now_or_never().is_none());
    drop(part);
    assert_eq!(collect(body(), MAX_BODY_LEN, &limiter, "a").await.unwrap().len(), SMALL_BODY_LEN + 1);
    let small = collect(Body::from(vec![b'x'; SMALL_BODY_LEN]), MAX_BODY_LEN, &limiter, "a").await.unwrap();
    assert!(collect(body(), MAX_BODY_LEN, &limiter, "a").now_or_never().is_some());
    drop(small);
}
