//! Finds out which process is at the other end of a connection. Any process of this machine can connect to a
//! port of 127.0.0.1, and Chromium sends no password to a SOCKS proxy; but the kernel knows the owner of each
//! socket.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

/// `SOCK_DIAG_BY_FAMILY`, of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`, of linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
/// `IPPROTO_TCP`, of linux/in.h.
const IPPROTO_TCP: u8 = 6;
/// `AF_INET`, of linux/socket.h.
const AF_INET: u8 = 2;
/// Length of the header of a netlink message, and of a `struct inet_diag_req_v2` of linux/inet_diag.h.
const HEADER_LEN: usize = 16;
const REQUEST_LEN: usize = 56;
/// Offsets of user and inode in a `struct inet_diag_msg` with its header.
const UID_OFFSET: usize = HEADER_LEN + 64;
const INODE_OFFSET: usize = UID_OFFSET + 4;
/// How long the kernel may take to answer. It does so before the request returns.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// Which processes may connect to the proxy. Other connections are closed.
#[derive(Debug, Clone, Default)]
pub enum AllowedClients {
    /// Any process on this machine, for tests of the proxy itself.
    #[default]
    Any,
    /// Processes of this user, which belongs to the browser alone.
    User(u32),
    /// The browser that leads this session, where it has no user of its own; no process while it is 0.
    Session(Arc<AtomicU32>),
}

/// User and inode of a socket, as the kernel reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SocketOwner {
    uid: u32,
    inode: u32,
}

impl AllowedClients {
    /// Whether the client at `peer`, connected to us at `own`, is allowed.
    pub(super) fn allows(&self, peer: SocketAddr, own: SocketAddr) -> bool {
        if matches!(self, Self::Any) {
            return true;
        }
        let (SocketAddr::V4(peer), SocketAddr::V4(own)) = (peer, own) else { return false };
        let owner = match query_socket_owner(peer, own) {
            Ok(owner) => owner,
            // The kernel lacks this request, or the container forbids it.
            Err(_) => std::fs::read_to_string("/proc/net/tcp")
                .ok()
                .and_then(|table| find_in_proc_net_tcp(&table, peer, own)),
        };
        // Without an owner, the client is gone.
        let Some(owner) = owner else { return false };
        match self {
            Self::Any => true,
            Self::User(uid) => owner.uid == *uid,
            Self::Session(leader) => {
                owner.uid == rustix::process::geteuid().as_raw()
                    && session_holds_socket(leader.load(Ordering::Acquire), owner.inode)
            }
        }
    }
}

/// Asks the kernel for the owner of the socket at `from` that is connected to `to`; `None` if there is none.
fn query_socket_owner(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<Option<SocketOwner>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&socket, &inet_diag_request(from, to), SendFlags::empty())?;
    let mut answer = [0; 512];
    wait_for_reply(&socket)?;
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    parse_inet_diag_reply(&answer[..length.min(512)])
}

fn wait_for_reply(socket: &OwnedFd) -> io::Result<()> {
    let timeout = Timespec::try_from(REPLY_TIMEOUT).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn inet_diag_request(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + REQUEST_LEN);
    bytes.extend(((HEADER_LEN + REQUEST_LEN) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number, and the kernel as the receiver.
    bytes.extend([1_u32, 0].map(u32::to_ne_bytes).as_flattened());
    bytes.extend([AF_INET, IPPROTO_TCP, 0, 0]);
    // Sockets in any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    for address in [from.ip(), to.ip()] {
        bytes.extend(address.octets());
        bytes.extend([0; 12]);
    }
    // On any interface, and with any cookie.
    bytes.extend([0, u32::MAX, u32::MAX].map(u32::to_ne_bytes).as_flattened());
    bytes
}

fn parse_inet_diag_reply(answer: &[u8]) -> io::Result<Option<SocketOwner>> {
    let number = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(SOCK_DIAG_BY_FAMILY) {
        let owner =
            number(UID_OFFSET).zip(number(INODE_OFFSET)).map(|(uid, inode)| SocketOwner { uid, inode });
        return owner.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into());
    }
    // Otherwise the message holds a negative error number.
    match number(HEADER_LEN).map(u32::cast_signed) {
        Some(error) if error == -rustix::io::Errno::NOENT.raw_os_error() => Ok(None),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// The owner of the same socket, from the text of `/proc/net/tcp`.
fn find_in_proc_net_tcp(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<SocketOwner> {
    let hex = |a: SocketAddrV4| format!("{:08X}:{:04X}", u32::from_ne_bytes(a.ip().octets()), a.port());
    let (from, to) = (hex(from), hex(to));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, remote, _, _, _, _, uid, _, inode, ..] = fields[..] else { return None };
        (local == from && remote == to).then_some(())?;
        Some(SocketOwner { uid: uid.parse().ok()?, inode: inode.parse().ok()? })
    })
}

/// Whether the browser that leads this session has a socket: its main process or its network service. If the
/// files of the network service cannot be read, because it is sandboxed, the socket is assumed to be its own.
fn session_holds_socket(leader: u32, inode: u32) -> bool {
    if leader == 0 {
        return false;
    }
    let link = format!("socket:[{inode}]");
    let holds = |pid: u32| -> Option<bool> {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        Some(
            files
                .flatten()
                .any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == Path::new(&link))),
        )
    };
    let network = session_processes(leader).find(|pid| is_network_service(*pid));
    let seen: Vec<Option<bool>> = [Some(leader), network].into_iter().flatten().map(holds).collect();
    seen.contains(&Some(true)) || (network.is_some() && seen.last() == Some(&None))
}

fn is_network_service(pid: u32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command
        .split(|b| *b == 0 || *b == b' ')
        .any(|word| word == b"--utility-sub-type=network.mojom.NetworkService")
}

/// Process ids of a session.
fn session_processes(leader: u32) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold any character, but the fields after it have no parenthesis; the session is the
        // fourth of these.
        let session = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(3));
        session.is_some_and(|session| session.parse() == Ok(leader))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_ways_find_the_owner_of_a_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (SocketAddr::V4(from), SocketAddr::V4(to)) =
            (client.local_addr().unwrap(), client.peer_addr().unwrap())
        else {
            panic!("not IPv4")
        };
        let owner = query_socket_owner(from, to).unwrap().unwrap();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        assert_eq!(find_in_proc_net_tcp(&table, from, to), Some(owner));
        assert_eq!(owner.uid, rustix::process::geteuid().as_raw());
        let inode = rustix::fs::fstat(&client).unwrap().st_ino;
        assert_eq!(u64::from(owner.inode), inode);
        let own = std::process::id();
        let session = rustix::process::getsid(None).unwrap().as_raw_nonzero().get().cast_unsigned();
        assert!(
            session_holds_socket(own, owner.inode) && !session_holds_socket(own, owner.inode.wrapping_add(1))
        );
        assert!(session_processes(session).any(|pid| pid == own) && !session_holds_socket(0, owner.inode));
        let nobody = SocketAddrV4::new(*from.ip(), 1);
        assert_eq!(
            (query_socket_owner(nobody, to).unwrap(), find_in_proc_net_tcp(&table, nobody, to)),
            (None, None)
        );
    }

    #[test]
    fn other_processes_are_not_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, own) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let me = rustix::process::geteuid().as_raw();
        let session = |leader| AllowedClients::Session(Arc::new(AtomicU32::new(leader)));
        assert!(AllowedClients::Any.allows(peer, own) && AllowedClients::User(me).allows(peer, own));
        assert!(!AllowedClients::User(me + 1).allows(peer, own));
        assert!(session(std::process::id()).allows(peer, own) && !session(0).allows(peer, own));
        assert!(!session(1).allows(peer, own), "the first process of this machine has no socket of ours");
    }

    #[test]
    fn a_malformed_reply_is_an_error() {
        for answer in [&[][..], &[0; 20], &[0xff; 84], &[20, 0, 0, 0, 20, 0]] {
            assert!(parse_inet_diag_reply(answer).is_err(), "{answer:?}");
        }
    }
}
