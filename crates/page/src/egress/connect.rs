//! From a target to a connection: resolved once, checked, and connected to what was checked.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use pagecast_core::spec::NetworkRefusal;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::socks::Target;
use super::{ConnectError, Shared, resolve};

/// How long a name server may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all addresses of a host together may take. With the above it is less than the 30 s that Chromium waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an address has before the next is tried beside it (RFC 8305 calls it the connection attempt delay).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// A peer that is gone without a word is noticed after about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// A connection to where the page may go, or why there is none.
pub(super) async fn connect_target(shared: &Shared, target: &Target) -> Result<TcpStream, ConnectError> {
    let addresses = match target.literal {
        Some(address) => vec![address],
        None => resolve_host(shared, &target.host).await?,
    };
    connect_to_first(&permitted_addresses(shared, target, addresses)?).await
}

async fn resolve_host(shared: &Shared, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
    if let Some(addresses) = resolve::loopback_addresses(host) {
        return Ok(addresses);
    }
    let (resolver, name) = (Arc::clone(&shared.resolver), host.to_owned());
    let places = Arc::clone(&shared.resolve_permits);
    let asked = async {
        // A question that nobody waits for any more is not put in line: it would be asked all the same.
        let place = places.acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _place = place;
            resolver.resolve(&name)
        })
        .await
    };
    match timeout(RESOLVE_TIMEOUT, asked).await {
        Ok(Ok(Ok(addresses))) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(Ok(_))) => Err(ConnectError::NoSuchHost),
        Ok(Ok(Err(error))) => {
            tracing::debug!(host, %error, "no address");
            Err(ConnectError::NoSuchHost)
        }
        Ok(Err(_panicked)) => Err(ConnectError::Unreachable),
        Err(_elapsed) => Err(ConnectError::TimedOut),
    }
}

/// The addresses that the page may reach, in the order in which they are tried.
fn permitted_addresses(
    shared: &Shared,
    target: &Target,
    all: Vec<IpAddr>,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let port = target.port;
    let mut open = Vec::new();
    let mut refused: Option<(IpAddr, NetworkRefusal)> = None;
    for address in all {
        match shared.permits(&target.host, address, port) {
            Ok(()) => open.push(address),
            // Told is one that people know by sight.
            Err(why) if refused.is_none_or(|(a, _)| a.is_ipv6() && address.is_ipv4()) => {
                refused = Some((address, why));
            }
            Err(_) => {}
        }
    }
    match refused {
        Some((address, why)) if open.is_empty() => Err(ConnectError::AddressDenied { address, reason: why }),
        _ => Ok(interleave_families(open)
            .into_iter()
            .take(MAX_ADDRESSES)
            .map(|a| SocketAddr::new(a, port))
            .collect()),
    }
}

/// Both families in turn, each in its order: one of them may lead nowhere.
fn interleave_families(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut now, mut next): (VecDeque<_>, VecDeque<_>) = {
        let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
        addresses.into_iter().partition(|a| a.is_ipv4() == first_is_v4)
    };
    let mut all = Vec::new();
    while let Some(address) = now.pop_front().or_else(|| next.pop_front()) {
        all.push(address);
        if !next.is_empty() {
            std::mem::swap(&mut now, &mut next);
        }
    }
    all
}

/// The first connection that is made.
async fn connect_to_first(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut verdict = ConnectError::Unreachable;
    let mut deadline = std::pin::pin!(sleep(CONNECT_TIMEOUT));
    loop {
        match waiting.next() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(verdict),
            None => {}
        }
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => verdict = more_specific_error(verdict, &error),
                Err(_panicked) => {}
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if waiting.len() > 0 => {}
            () = &mut deadline => return Err(ConnectError::TimedOut),
        }
    }
}

/// What says more of several failures.
fn more_specific_error(verdict: ConnectError, error: &io::Error) -> ConnectError {
    match (verdict, error.kind()) {
        (_, ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => ConnectError::ConnectionRefused,
        (ConnectError::Unreachable, ErrorKind::TimedOut) => ConnectError::TimedOut,
        _ => verdict,
    }
}

/// Small messages go at once, and a peer that is gone is noticed one day.
pub(super) fn set_socket_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let fd = stream.as_fd();
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_PROBES)?;
    Ok(sockopt::set_socket_keepalive(fd, true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        for (given, wanted) in [
            ("", ""),
            ("1.1.1.1", "1.1.1.1"),
            ("::1 ::2 ::3 1.1.1.1", "::1 1.1.1.1 ::2 ::3"),
            ("1.1.1.1 ::1 ::2 1.1.1.2 1.1.1.3", "1.1.1.1 ::1 1.1.1.2 ::2 1.1.1.3"),
        ] {
            let given = given.split_whitespace().map(|a| a.parse().unwrap()).collect();
            let taken: Vec<_> = interleave_families(given).iter().map(ToString::to_string).collect();
            assert_eq!(taken.join(" "), wanted);
        }
    }
}
