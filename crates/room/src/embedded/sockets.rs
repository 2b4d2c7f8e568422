//! The one port of all media, and the addresses by which it is known.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::Error;

/// What the system keeps for us while we are busy: a keyframe for each of many viewers. It may give less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How many ports are tried until one is free for UDP and TCP.
const MAX_PORT_ATTEMPTS: usize = 20;

/// Sockets that nobody reads yet.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Where they are.
    pub(super) address: SocketAddr,
    /// For UDP.
    pub(super) udp: UdpSocket,
    /// For TCP, on the port of the same number.
    pub(super) tcp: Option<TcpListener>,
}

/// Opens them.
pub(super) fn open(address: SocketAddr, tcp: bool) -> Result<Sockets, Error> {
    let mut tries = if address.port() == 0 { MAX_PORT_ATTEMPTS } else { 1 };
    loop {
        tries -= 1;
        match try_open(address, tcp) {
            Ok(sockets) => return Ok(sockets),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(source) => return Err(Error::Listen { address, what: "media", source }),
        }
    }
}

fn try_open(address: SocketAddr, tcp: bool) -> io::Result<Sockets> {
    let udp = UdpSocket::bind(address)?;
    udp.set_nonblocking(true)?;
    // Smaller ones will do.
    let _smaller = set_socket_recv_buffer_size(&udp, SOCKET_BUFFER_BYTES);
    let _smaller = set_socket_send_buffer_size(&udp, SOCKET_BUFFER_BYTES);
    let address = udp.local_addr()?;
    let tcp = if tcp { Some(TcpListener::bind(address)?) } else { None };
    if let Some(tcp) = &tcp {
        tcp.set_nonblocking(true)?;
    }
    Ok(Sockets { address, udp, tcp })
}

/// What others are told: the given addresses, or where the port is; on all interfaces if it is on all.
pub(super) fn advertised_addresses(given: &[SocketAddr], bound: SocketAddr) -> io::Result<Vec<SocketAddr>> {
    let at_port = |ip| SocketAddr::new(ip, bound.port());
    if !given.is_empty() {
        return Ok(given.iter().map(|a| if a.port() == 0 { at_port(a.ip()) } else { *a }).collect());
    }
    if !bound.ip().is_unspecified() {
        return Ok(vec![bound]);
    }
    let interfaces = if_addrs::get_if_addrs()?;
    let (v6, mut found) = (bound.is_ipv6(), Vec::new());
    for ip in interfaces.iter().filter(|interface| interface.is_oper_up()).map(if_addrs::Interface::ip) {
        let usable = match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(ip) => v6 && !is_link_local(ip),
        };
        if usable {
            found.push(ip);
        }
    }
    if found.iter().any(|ip| !ip.is_loopback()) {
        found.retain(|ip| !ip.is_loopback());
    }
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "this machine has no address"));
    }
    Ok(found.into_iter().map(at_port).collect())
}

/// Such addresses mean nothing without an interface.
fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// The address as whoever has it knows it: a socket for both versions gives those of IPv4 as those of IPv6.
pub(super) fn to_canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The same the other way round, for a socket bound at `bound`.
pub(super) fn to_socket_family(address: SocketAddr, bound: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if bound.is_ipv6() => SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), address.port()),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_others_know() {
        let bound: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let given: [SocketAddr; 2] = ["192.0.2.1:0".parse().unwrap(), "192.0.2.1:9".parse().unwrap()];
        assert_eq!(advertised_addresses(&[], bound).unwrap(), [bound]);
        assert_eq!(
            advertised_addresses(&given, bound).unwrap(),
            ["192.0.2.1:4000".parse().unwrap(), given[1]]
        );
        let all = advertised_addresses(&[], "0.0.0.0:4000".parse().unwrap()).unwrap();
        assert!(all.iter().all(|a| a.port() == 4000 && a.is_ipv4()) && !all.is_empty());
    }

    #[test]
    fn one_port_is_for_both() {
        let sockets = open("127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert_eq!(sockets.tcp.unwrap().local_addr().unwrap(), sockets.address);
        let error = open(sockets.address, true).unwrap_err();
        assert!(error.to_string().contains("for media"), "{error}");
    }

    #[test]
    fn both_versions_go_through_one_socket() {
        let (v4, v6): (SocketAddr, SocketAddr) =
            ("1.2.3.4:5".parse().unwrap(), "[::ffff:1.2.3.4]:5".parse().unwrap());
        assert_eq!(
            (to_canonical(v6), to_socket_family(v4, "[::]:1".parse().unwrap()), to_socket_family(v4, v4)),
            (v4, v6, v4)
        );
    }
}
