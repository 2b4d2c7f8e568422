//! Connects to a target: resolves its name once, checks the addresses, and connects to a permitted one.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use pagecast_egress::{CheckedAddresses, loopback_addresses};
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::socks::Target;
use super::{ConnectError, Shared};

/// How long a lookup may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connecting to all addresses of a host may take. Together with the lookup it stays below the 30 s
/// that Chromium waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Time before the next address is tried in parallel (the connection attempt delay of RFC 8305).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// TCP keepalive: a peer that disappeared is noticed after about two minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Connects to a target of the page, if the policy permits it.
pub(super) async fn connect_target(shared: &Shared, target: &Target) -> Result<TcpStream, ConnectError> {
    let addresses = match target.literal {
        Some(address) => vec![address],
        None => resolve_host(shared, &target.host).await?,
    };
    connect_to_first(&permitted_addresses(shared, target, addresses)?).await
}

async fn resolve_host(shared: &Shared, host: &str) -> Result<Vec<IpAddr>, ConnectError> {
    if let Some(addresses) = loopback_addresses(host) {
        return Ok(addresses);
    }
    let (resolver, name) = (Arc::clone(&shared.resolver), host.to_owned());
    let permits = Arc::clone(&shared.resolve_permits);
    let lookup = async {
        // Waiting here, before the task is spawned, lets a timeout drop a lookup that has not begun.
        let permit = permits.acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            resolver.resolve(&name)
        })
        .await
    };
    match timeout(RESOLVE_TIMEOUT, lookup).await {
        Ok(Ok(Ok(addresses))) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(Ok(_))) => Err(ConnectError::NoSuchHost),
        Ok(Ok(Err(error))) => {
            tracing::debug!(host, %error, "name resolution failed");
            Err(ConnectError::NoSuchHost)
        }
        Ok(Err(_panicked)) => Err(ConnectError::Unreachable),
        Err(_elapsed) => Err(ConnectError::TimedOut),
    }
}

/// The addresses that the policy permits, in the order in which they are tried.
fn permitted_addresses(
    shared: &Shared,
    target: &Target,
    all: Vec<IpAddr>,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let port = target.port;
    let checked = CheckedAddresses::split(all, |address| shared.permits(&target.host, address, port));
    // The report names an IPv4 address if there is one: people recognise those.
    let refused = checked.refused.iter().find(|(address, _)| address.is_ipv4()).or(checked.refused.first());
    match refused {
        Some(&(address, reason)) if checked.permitted.is_empty() => {
            Err(ConnectError::AddressDenied { address, reason })
        }
        _ => Ok(interleave_families(checked.permitted)
            .into_iter()
            .take(MAX_ADDRESSES)
            .map(|a| SocketAddr::new(a, port))
            .collect()),
    }
}

/// Alternates both address families, each in its order, as one of them may be unreachable.
fn interleave_families(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut current, mut other): (VecDeque<_>, VecDeque<_>) = {
        let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
        addresses.into_iter().partition(|a| a.is_ipv4() == first_is_v4)
    };
    let mut all = Vec::new();
    while let Some(address) = current.pop_front().or_else(|| other.pop_front()) {
        all.push(address);
        if !other.is_empty() {
            std::mem::swap(&mut current, &mut other);
        }
    }
    all
}

/// Tries addresses in turn, and returns the first connection that succeeds.
async fn connect_to_first(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut waiting = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    let mut last_error = ConnectError::Unreachable;
    let mut deadline = std::pin::pin!(sleep(CONNECT_TIMEOUT));
    loop {
        match waiting.next() {
            Some(address) => drop(attempts.spawn(TcpStream::connect(address))),
            None if attempts.is_empty() => return Err(last_error),
            None => {}
        }
        tokio::select! {
            Some(done) = attempts.join_next() => match done {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last_error = more_specific_error(last_error, &error),
                Err(_panicked) => {}
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if waiting.len() > 0 => {}
            () = &mut deadline => return Err(ConnectError::TimedOut),
        }
    }
}

/// The more informative one of two errors.
fn more_specific_error(known: ConnectError, error: &io::Error) -> ConnectError {
    match (known, error.kind()) {
        (_, ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => ConnectError::ConnectionRefused,
        (ConnectError::Unreachable, ErrorKind::TimedOut) => ConnectError::TimedOut,
        _ => known,
    }
}

/// Sets socket options: small messages are sent at once, and dead peers are detected.
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
    fn address_families_alternate() {
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
