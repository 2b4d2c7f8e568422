//! The rooms' own HTTP listener, with connections limited by [`pagecast_listen`].

use axum::Router;
use axum::http::{Method, Uri};
use pagecast_listen::{Limits, Service, ShutdownPhase, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::super::MAX_EVENT_STREAMS_PER_VIEWER;

/// Largest request head, in bytes: it may contain a token.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Most headers of a request; browsers send about 20.
const MAX_HEADERS: usize = 64;

/// Serves requests until `stop`. `viewers` is the limit of viewers.
pub(in super::super) async fn run(
    listener: TcpListener,
    limits: Limits,
    router: Router,
    viewers: usize,
    mut stop: watch::Receiver<bool>,
) {
    let limits = Limits {
        max_event_streams: viewers.saturating_mul(MAX_EVENT_STREAMS_PER_VIEWER),
        max_head_bytes: MAX_HEAD_BYTES,
        max_headers: MAX_HEADERS,
        ..limits
    };
    let (sender, stopped) = watch::channel(ShutdownPhase::Running);
    let service = Service { router, is_reserved: is_own_publisher };
    let serving = serve(listener, limits, service, || None, stopped);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => {}
        _ = stop.wait_for(|stop| *stop) => {
            sender.send_replace(ShutdownPhase::Closed);
            serving.await;
        }
    }
}

/// Whether a request is a WHIP request from this machine. Requests are reserved for those, so that viewers
/// cannot keep casts out.
pub(in super::super) fn is_own_publisher(_: &Method, uri: &Uri, is_local: bool) -> bool {
    // `/rooms/ROOM/whip`, and below it the sessions.
    is_local && uri.path().split('/').nth(3) == Some("whip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_reserved_for_local_publishers() {
        for (uri, is_local, expected) in [
            ("/rooms/a/whip", true, true),
            ("/rooms/a/whip/secret?x=1", true, true),
            ("/rooms/a/whip", false, false),
            ("/rooms/whip/whep", true, false),
            ("/rooms/a/whep/whip/events", true, false),
            ("/", true, false),
        ] {
            assert_eq!(is_own_publisher(&Method::POST, &uri.parse().unwrap(), is_local), expected, "{uri}");
        }
    }
}
