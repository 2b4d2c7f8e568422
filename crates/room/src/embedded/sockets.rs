//! Sockets of the media port, and the addresses under which it is advertised.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};

use super::Error;

/// Size of the kernel's socket buffers, in bytes: room for a keyframe for each of many viewers.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Most ports that are tried until one is free for both UDP and TCP.
const MAX_PORT_ATTEMPTS: usize = 20;

/// Open sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Bound address.
    pub(super) address: SocketAddr,
    /// UDP socket.
    pub(super) udp: UdpSocket,
    /// TCP listener on the port of the same number.
    pub(super) tcp: Option<TcpListener>,
}

/// Opens the sockets.
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
    // The kernel may limit the size; smaller buffers only lose more packets in bursts.
    let _limited = set_socket_recv_buffer_size(&udp, SOCKET_BUFFER_BYTES);
    let _limited = set_socket_send_buffer_size(&udp, SOCKET_BUFFER_BYTES);
    let address = udp.local_addr()?;
    let tcp = if tcp { Some(TcpListener::bind(address)?) } else { None };
    if let Some(tcp) = &tcp {
        tcp.set_nonblocking(true)?;
    }
    Ok(Sockets { address, udp, tcp })
}

/// The addresses to advertise: the configured ones, or the bound address, or those of all interfaces if it is
/// unspecified.
pub(super) fn advertised_addresses(
    configured: &[SocketAddr],
    bound: SocketAddr,
) -> io::Result<Vec<SocketAddr>> {
    let at_port = |ip| SocketAddr::new(ip, bound.port());
    if !configured.is_empty() {
        return Ok(configured.iter().map(|a| if a.port() == 0 { at_port(a.ip()) } else { *a }).collect());
    }
    if !bound.ip().is_unspecified() {
        return Ok(vec![bound]);
    }
    let (v6, mut found) = (bound.is_ipv6(), Vec::new());
    for ip in pagecast_egress::interface_addresses()? {
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

/// Whether an address is link-local and so useless without an interface.
fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

/// Turns an IPv4-mapped address, as a dual-stack socket gives it, into an IPv4 address.
pub(super) fn to_canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Turns an IPv4 address into an IPv4-mapped one if the socket at `bound` is an IPv6 one.
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
    fn configured_addresses_are_advertised() {
        let bound: SocketAddr = "127.0.0.1:4000".parse().unwrap();
        let configured: [SocketAddr; 2] = ["192.0.2.1:0".parse().unwrap(), "192.0.2.1:9".parse().unwrap()];
        assert_eq!(advertised_addresses(&[], bound).unwrap(), [bound]);
        assert_eq!(
            advertised_addresses(&configured, bound).unwrap(),
            ["192.0.2.1:4000".parse().unwrap(), configured[1]]
        );
        let all = advertised_addresses(&[], "0.0.0.0:4000".parse().unwrap()).unwrap();
        assert!(all.iter().all(|a| a.port() == 4000 && a.is_ipv4()) && !all.is_empty());
    }

    #[test]
    fn udp_and_tcp_share_a_port_number() {
        let sockets = open("127.0.0.1:0".parse().unwrap(), true).unwrap();
        assert_eq!(sockets.tcp.unwrap().local_addr().unwrap(), sockets.address);
        let error = open(sockets.address, true).unwrap_err();
        assert!(error.to_string().contains("for media"), "{error}");
    }

    #[test]
    fn a_dual_stack_socket_serves_both_families() {
        let (v4, v6): (SocketAddr, SocketAddr) =
            ("1.2.3.4:5".parse().unwrap(), "[::ffff:1.2.3.4]:5".parse().unwrap());
        assert_eq!(
            (to_canonical(v6), to_socket_family(v4, "[::]:1".parse().unwrap()), to_socket_family(v4, v4)),
            (v4, v6, v4)
        );
    }
}
