//! Connections of the room's web server, bounded by [`pagecast_listen`].

use axum::Router;
use axum::http::{Method, Uri};
use pagecast_listen::{Limits, Service, ShutdownPhase, serve};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Largest head of a request, in bytes, and most headers: tokens are in it, and browsers send 20 headers.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;

/// Fewest connections beside one for each viewer, who may listen to events for as long as it watches.
const MIN_OTHER_CONNECTIONS: usize = 256;

/// Serves until told to stop. `viewers` is the most viewers there may be.
pub(in super::super) async fn run(
    listener: TcpListener,
    limits: Limits,
    router: Router,
    viewers: usize,
    mut stop: watch::Receiver<bool>,
) {
    let connections = limits.max_connections.max(viewers.saturating_add(MIN_OTHER_CONNECTIONS));
    let limits = Limits {
        max_connections: connections,
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

/// Whether a cast on this machine publishes, or goes on or ends with it: viewers, whose streams of events may
/// be many, do not take its place.
fn is_own_publisher(_: &Method, uri: &Uri, from_here: bool) -> bool {
    // `/rooms/ROOM/whip`, and below it the addresses of sessions.
    from_here && uri.path().split('/').nth(3) == Some("whip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_publishes_here_has_reserved_places() {
        for (uri, from_here, want) in [
            ("/rooms/a/whip", true, true),
            ("/rooms/a/whip/secret?x=1", true, true),
            ("/rooms/a/whip", false, false),
            ("/rooms/whip/whep", true, false),
            ("/rooms/a/whep/whip/events", true, false),
            ("/", true, false),
        ] {
            assert_eq!(is_own_publisher(&Method::POST, &uri.parse().unwrap(), from_here), want, "{uri}");
        }
    }
}
