//! Packets over TCP and TLS.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Bytes that wait to be sent. Full: packets are dropped, as they would be on a line that is too narrow.
const MAX_UNSENT_BYTES: usize = 64 * 1024;
/// What the system may keep of them, before they are sent: old packets are worth nothing.
const SOCKET_SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Bytes read at once.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where one packet ends and the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// STUN messages and channel data say themselves how long they are (RFC 8656 section 12.5).
    Turn,
    /// Two bytes in front of each packet (RFC 4571).
    Rfc4571,
}

/// Bytes that become packets, however they were cut.
#[derive(Debug)]
pub struct Deframer {
    framing: Framing,
    bytes: VecDeque<u8>,
}

impl Deframer {
    /// Nothing yet.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, bytes: VecDeque::new() }
    }

    /// More bytes. Take the packets out before the next ones come: then there are never more than one packet and these.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next packet, if it is whole.
    ///
    /// # Errors
    /// It cannot be one; nor can anything after it.
    pub fn next_packet(&mut self) -> io::Result<Option<Vec<u8>>> {
        let number = |at: usize| match (self.bytes.get(at), self.bytes.get(at + 1)) {
            (Some(high), Some(low)) => Some(usize::from(*high) << 8 | usize::from(*low)),
            _ => None,
        };
        // What is in front of a packet and not part of it, the packet, and what fills it up.
        let (skip, length, padding) = match self.framing {
            Framing::Rfc4571 => match number(0) {
                Some(length) => (2, length, 0),
                None => return Ok(None),
            },
            Framing::Turn => match (self.bytes.front(), number(2)) {
                (Some(first), Some(length)) if *first < 0x40 => (0, length + 20, 0),
                (Some(first), Some(length)) if *first < 0x50 => {
                    (0, length + 4, (length + 4).next_multiple_of(4) - (length + 4))
                }
                (Some(first), _) if *first >= 0x50 => {
                    let what = "what comes is neither STUN nor data of a channel";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                _ => return Ok(None),
            },
        };
        if self.bytes.len() < skip + length + padding {
            return Ok(None);
        }
        let mut taken = self.bytes.drain(..skip + length + padding);
        Ok(Some(taken.by_ref().skip(skip).take(length).collect()))
    }
}

/// Who is trusted to vouch for a TLS server.
#[derive(Debug, Clone)]
pub(crate) struct TlsConfig(Arc<ClientConfig>);

impl TlsConfig {
    /// Whom the system trusts.
    ///
    /// # Errors
    /// The system's list cannot be read.
    pub(crate) fn from_system() -> io::Result<Self> {
        let config = Self::builder()?.with_platform_verifier().map_err(io::Error::other)?;
        Ok(Self(Arc::new(config.with_no_client_auth())))
    }

    /// Only those in a file of certificates.
    #[cfg(test)]
    pub(crate) fn from_file(path: &std::path::Path) -> io::Result<Self> {
        use rustls::pki_types::{CertificateDer, pem::PemObject as _};
        let mut roots = rustls::RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(path).map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
        let config = Self::builder()?.with_root_certificates(roots);
        Ok(Self(Arc::new(config.with_no_client_auth())))
    }

    fn builder() -> io::Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        builder.with_safe_default_protocol_versions().map_err(io::Error::other)
    }
}

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection that carries packets.
pub(crate) struct PacketStream {
    reader: ReadHalf<Box<dyn ByteStream>>,
    writer: WriteHalf<Box<dyn ByteStream>>,
    deframer: Deframer,
    framing: Framing,
    unsent: VecDeque<u8>,
    /// Something was written that the connection may still keep to itself.
    unflushed: bool,
    local: SocketAddr,
}

impl std::fmt::Debug for PacketStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("local", &self.local).finish_non_exhaustive()
    }
}

impl PacketStream {
    /// Connects; with a name and whom to trust, by TLS. `from`: which of this machine's addresses it leaves from.
    ///
    /// # Errors
    /// It cannot be reached, takes too long, or is not who it should be.
    pub(crate) async fn open(
        to: SocketAddr,
        from: Option<SocketAddr>,
        tls: Option<(&str, &TlsConfig)>,
        framing: Framing,
    ) -> io::Result<Self> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time");
        timeout(CONNECT_TIMEOUT, Self::connect(to, from, tls, framing)).await.map_err(late)?
    }

    async fn connect(
        to: SocketAddr,
        from: Option<SocketAddr>,
        tls: Option<(&str, &TlsConfig)>,
        framing: Framing,
    ) -> io::Result<Self> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from {
            socket.bind(from)?;
        }
        let socket = socket.connect(to).await?;
        socket.set_nodelay(true)?;
        sockopt::set_socket_send_buffer_size(&socket, SOCKET_SEND_BUFFER_BYTES)?;
        let local = socket.local_addr()?;
        let bytes: Box<dyn ByteStream> = match tls {
            None => Box::new(socket),
            Some((name, trust)) => Box::new(Self::connect_tls(socket, name, trust).await?),
        };
        let (reader, writer) = split(bytes);
        let (frames, unsent) = (Deframer::new(framing), VecDeque::new());
        Ok(Self { reader, writer, deframer: frames, framing, unsent, unflushed: false, local })
    }

    async fn connect_tls(
        socket: TcpStream,
        name: &str,
        trust: &TlsConfig,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&trust.0)).connect(name, socket).await
    }

    /// This end's address.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Puts a packet in line, or drops it if the line is too long.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        if self.unsent.len() + packet.len() > MAX_UNSENT_BYTES {
            return;
        }
        if self.framing == Framing::Rfc4571 {
            let Ok(length) = u16::try_from(packet.len()) else { return };
            self.unsent.extend(length.to_be_bytes());
        }
        self.unsent.extend(packet);
    }

    /// Sends what is in line, and waits for the next packet. Safe to be dropped and called again.
    ///
    /// # Errors
    /// The connection is over.
    pub(crate) async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(packet) = self.deframer.next_packet()? {
                return Ok(packet);
            }
            let mut buffer = Vec::with_capacity(READ_BUFFER_BYTES);
            let has_unsent = self.unflushed || !self.unsent.is_empty();
            tokio::select! {
                read = self.reader.read_buf(&mut buffer) => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.deframer.push(&buffer);
                }
                written = flush(&mut self.writer, &mut self.unsent, &mut self.unflushed), if has_unsent => {
                    written?;
                }
            }
        }
    }
}

/// Writes what there is. Each step is done or not, so it can be dropped and called again.
async fn flush(
    writer: &mut WriteHalf<Box<dyn ByteStream>>,
    unsent: &mut VecDeque<u8>,
    unflushed: &mut bool,
) -> io::Result<()> {
    while !unsent.is_empty() {
        let written = writer.write(unsent.as_slices().0).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        unsent.drain(..written);
        *unflushed = true;
    }
    writer.flush().await?;
    *unflushed = false;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deframe(framing: Framing, bytes: &[u8], step: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut frames = Deframer::new(framing);
        let mut found = Vec::new();
        for chunk in bytes.chunks(step) {
            frames.push(chunk);
            while let Some(packet) = frames.next_packet()? {
                found.push(packet);
            }
        }
        Ok(found)
    }

    #[test]
    fn packets_are_found_however_they_are_cut() {
        let mut turn = vec![0x40, 0x01, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        turn.extend_from_slice(&[0, 1, 0, 4]);
        turn.extend_from_slice(&[9; 20]);
        turn.extend_from_slice(&[0x4F, 0xFF, 0, 0]);
        let length = [0, 2, 7, 8, 0, 0, 0, 1, 9];
        for step in 1..turn.len() + 1 {
            let found = deframe(Framing::Turn, &turn, step).unwrap();
            assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [9, 24, 4], "by {step}");
            assert_eq!(found[0], turn[..9]);
            assert_eq!(deframe(Framing::Rfc4571, &length, step).unwrap(), [vec![7, 8], vec![], vec![9]]);
        }
        assert!(deframe(Framing::Turn, b"SSH-2.0-x", 3).is_err());
        assert!(deframe(Framing::Turn, &[0x00, 0x01, 0xFF], 1).unwrap().is_empty());
    }
}
