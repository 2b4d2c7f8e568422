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

/// Most bytes that wait to be sent. When full, packets are dropped, as on a narrow UDP link.
const MAX_UNSENT_BYTES: usize = 64 * 1024;
/// Size of the kernel's send buffer, in bytes: small, because late media packets are useless.
const SOCKET_SEND_BUFFER_BYTES: usize = 128 * 1024;
/// Size of a read, in bytes.
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Longest duration of connecting, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Framing of packets on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// STUN messages and ChannelData, which contain their length (RFC 8656 section 12.5).
    Turn,
    /// A length of two bytes before each packet (RFC 4571).
    Rfc4571,
}

/// Splits a byte stream into packets.
#[derive(Debug)]
pub struct Deframer {
    framing: Framing,
    bytes: VecDeque<u8>,
}

impl Deframer {
    /// An empty deframer.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, bytes: VecDeque::new() }
    }

    /// Adds received bytes. Take the packets out before the next call: then at most one incomplete packet
    /// and these bytes are held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The next packet, if it is complete.
    ///
    /// # Errors
    /// The bytes are not a packet. The stream cannot be used any more.
    pub fn next_packet(&mut self) -> io::Result<Option<Vec<u8>>> {
        let number = |at: usize| match (self.bytes.get(at), self.bytes.get(at + 1)) {
            (Some(high), Some(low)) => Some(usize::from(*high) << 8 | usize::from(*low)),
            _ => None,
        };
        // Lengths of the prefix, the packet and the padding.
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
                    let text = "received neither a STUN message nor ChannelData";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
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

/// TLS client configuration with its trusted roots.
#[derive(Debug, Clone)]
pub(crate) struct TlsConfig(Arc<ClientConfig>);

impl TlsConfig {
    /// A configuration with the roots that the system trusts.
    ///
    /// # Errors
    /// The system's roots cannot be loaded.
    pub(crate) fn from_system() -> io::Result<Self> {
        let config = Self::builder()?.with_platform_verifier().map_err(io::Error::other)?;
        Ok(Self(Arc::new(config.with_no_client_auth())))
    }

    /// A configuration with the certificate in a PEM file as its only root.
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

/// A TCP or TLS connection that carries packets.
pub(crate) struct PacketStream {
    reader: ReadHalf<Box<dyn ByteStream>>,
    writer: WriteHalf<Box<dyn ByteStream>>,
    deframer: Deframer,
    framing: Framing,
    unsent: VecDeque<u8>,
    /// Whether written bytes may still be buffered in the TLS layer.
    unflushed: bool,
    local: SocketAddr,
}

impl std::fmt::Debug for PacketStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketStream").field("local", &self.local).finish_non_exhaustive()
    }
}

impl PacketStream {
    /// Connects to `to` from the local address `from`. `tls` is the server name and the TLS configuration.
    ///
    /// # Errors
    /// The connection or the TLS handshake fails or takes longer than [`CONNECT_TIMEOUT`].
    pub(crate) async fn open(
        to: SocketAddr,
        from: Option<SocketAddr>,
        tls: Option<(&str, &TlsConfig)>,
        framing: Framing,
    ) -> io::Result<Self> {
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "the connection timed out");
        timeout(CONNECT_TIMEOUT, Self::connect(to, from, tls, framing)).await.map_err(timed_out)?
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
            Some((name, config)) => Box::new(Self::connect_tls(socket, name, config).await?),
        };
        let (reader, writer) = split(bytes);
        let (deframer, unsent) = (Deframer::new(framing), VecDeque::new());
        Ok(Self { reader, writer, deframer, framing, unsent, unflushed: false, local })
    }

    async fn connect_tls(
        socket: TcpStream,
        name: &str,
        config: &TlsConfig,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&config.0)).connect(name, socket).await
    }

    /// Local address of the connection.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Queues a packet, or drops it if the queue is full.
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

    /// Sends queued packets and waits for the next received one. Cancel-safe.
    ///
    /// # Errors
    /// The connection has ended.
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

/// Writes all queued bytes. Cancel-safe: bytes leave the queue only after they were written.
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
        let mut deframer = Deframer::new(framing);
        let mut found = Vec::new();
        for chunk in bytes.chunks(step) {
            deframer.push(chunk);
            while let Some(packet) = deframer.next_packet()? {
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
