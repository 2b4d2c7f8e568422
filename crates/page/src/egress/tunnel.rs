//! Serves one connection of the browser: a SOCKS handshake, then bytes in both directions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::socks::{self, HandshakeError, Reply, Target};
use super::{ConnectError, Shared, connect};

/// How long a client may take to send its request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one direction may stay open after the other has ended. Browsers never close only one: this is for
/// data in flight.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Buffer size for one direction, in bytes. When full, the sender waits.
const BUFFER_BYTES: usize = 16 * 1024;

/// Serves one connection until it ends; without a `permit` the client gets an error reply.
pub(super) async fn run(mut client: TcpStream, shared: Arc<Shared>, permit: Option<OwnedSemaphorePermit>) {
    // Clients may disconnect at any time, so errors are not reported.
    let _disconnected: io::Result<()> = async {
        connect::set_socket_options(&client)?;
        let Ok(parsed) = timeout(HANDSHAKE_TIMEOUT, handshake(&mut client)).await else { return Ok(()) };
        let Some((target, early)) = parsed? else { return Ok(()) };
        if permit.is_none() {
            return client.write_all(&Reply::GeneralFailure.bytes()).await;
        }
        match connect::connect_target(&shared, &target).await {
            Ok(mut server) => {
                connect::set_socket_options(&server)?;
                client.write_all(&Reply::Succeeded.bytes()).await?;
                server.write_all(&early).await?;
                copy_bidirectional(&mut client, &mut server).await
            }
            Err(error) => {
                shared.failures.record(&target, error);
                client.write_all(&socks_reply(error).bytes()).await
            }
        }
    }
    .await;
}

/// Reads the handshake: the target, and bytes that the client has sent after its request. `None` if the
/// handshake is rejected.
async fn handshake(client: &mut TcpStream) -> io::Result<Option<(Target, Vec<u8>)>> {
    let mut received = Vec::with_capacity(socks::MAX_HANDSHAKE_BYTES);
    let accepts = loop {
        match socks::parse_greeting(&received) {
            Ok(Some((accepts, length))) => break received.drain(..length).count() > 0 && accepts,
            Ok(None) => read_more(client, &mut received).await?,
            Err(_) => return Ok(None),
        }
    };
    if !accepts {
        client.write_all(&socks::NO_ACCEPTABLE_METHODS).await?;
        return Ok(None);
    }
    client.write_all(&socks::METHOD_ACCEPTED).await?;
    loop {
        match socks::parse_request(&received) {
            Ok(Some((target, length))) => return Ok(Some((target, received.split_off(length)))),
            Ok(None) => read_more(client, &mut received).await?,
            Err(HandshakeError::Version) => return Ok(None),
            Err(HandshakeError::Request(reply)) => {
                client.write_all(&reply.bytes()).await?;
                return Ok(None);
            }
        }
    }
}

/// Reads more bytes. The parser never needs more than [`socks::MAX_HANDSHAKE_BYTES`] in all.
async fn read_more(client: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<()> {
    let room = (socks::MAX_HANDSHAKE_BYTES - received.len().min(socks::MAX_HANDSHAKE_BYTES)) as u64;
    match client.take(room).read_buf(received).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn copy_bidirectional(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut up = std::pin::pin!(copy_one_direction(from_client, to_server));
    let mut down = std::pin::pin!(copy_one_direction(from_server, to_client));
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    tokio::select! {
        ended = &mut up => { ended?; timeout(HALF_CLOSE_TIMEOUT, down).await.map_err(|_| late())? }
        ended = &mut down => { ended?; timeout(HALF_CLOSE_TIMEOUT, up).await.map_err(|_| late())? }
    }
}

/// Copies all bytes, then closes the other end.
async fn copy_one_direction(from: ReadHalf<'_>, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER_BYTES, from), &mut to).await?;
    to.shutdown().await
}

fn socks_reply(error: ConnectError) -> Reply {
    match error {
        ConnectError::AddressDenied { .. } => Reply::NotAllowed,
        ConnectError::NoSuchHost | ConnectError::TimedOut => Reply::HostUnreachable,
        ConnectError::ConnectionRefused => Reply::ConnectionRefused,
        ConnectError::Unreachable => Reply::NetworkUnreachable,
    }
}
