//! One connection of the browser: a handshake, then bytes both ways.

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

/// How long a client may take to say where it wants to go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one direction may go on once the other has ended. Browsers do not end one alone: it is for what is on its way.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes on their way in one direction. Full: the sender waits.
const BUFFER_BYTES: usize = 16 * 1024;

/// Serves one connection until it is over; without a place it is told that it cannot be.
pub(super) async fn run(mut client: TcpStream, shared: Arc<Shared>, place: Option<OwnedSemaphorePermit>) {
    // Who goes away in the middle of it is nothing to report.
    let _gone: io::Result<()> = async {
        connect::set_socket_options(&client)?;
        let Ok(heard) = timeout(HANDSHAKE_TIMEOUT, handshake(&mut client)).await else { return Ok(()) };
        let Some((target, early)) = heard? else { return Ok(()) };
        if place.is_none() {
            return client.write_all(&Reply::GeneralFailure.bytes()).await;
        }
        match connect::connect_target(&shared, &target).await {
            Ok(mut server) => {
                connect::set_socket_options(&server)?;
                client.write_all(&Reply::Succeeded.bytes()).await?;
                server.write_all(&early).await?;
                copy_bidirectional(&mut client, &mut server).await
            }
            Err(verdict) => {
                shared.failures.record(&target, verdict);
                client.write_all(&socks_reply(verdict).bytes()).await
            }
        }
    }
    .await;
}

/// Where the client wants to go and what it has sent after that; `None` if it speaks something else.
async fn handshake(client: &mut TcpStream) -> io::Result<Option<(Target, Vec<u8>)>> {
    let mut heard = Vec::with_capacity(socks::MAX_HANDSHAKE_BYTES);
    let welcome = loop {
        match socks::parse_greeting(&heard) {
            Ok(Some((welcome, length))) => break heard.drain(..length).count() > 0 && welcome,
            Ok(None) => read_more(client, &mut heard).await?,
            Err(_) => return Ok(None),
        }
    };
    if !welcome {
        client.write_all(&socks::NO_ACCEPTABLE_METHODS).await?;
        return Ok(None);
    }
    client.write_all(&socks::METHOD_ACCEPTED).await?;
    loop {
        match socks::parse_request(&heard) {
            Ok(Some((target, length))) => return Ok(Some((target, heard.split_off(length)))),
            Ok(None) => read_more(client, &mut heard).await?,
            Err(HandshakeError::Version) => return Ok(None),
            Err(HandshakeError::Request(reply)) => {
                client.write_all(&reply.bytes()).await?;
                return Ok(None);
            }
        }
    }
}

/// Hears more. The parser never asks for more than [`socks::MAX_HANDSHAKE_BYTES`] bytes.
async fn read_more(client: &mut TcpStream, heard: &mut Vec<u8>) -> io::Result<()> {
    let room = (socks::MAX_HANDSHAKE_BYTES - heard.len().min(socks::MAX_HANDSHAKE_BYTES)) as u64;
    match client.take(room).read_buf(heard).await? {
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

/// Passes everything on, the end included.
async fn copy_one_direction(from: ReadHalf<'_>, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER_BYTES, from), &mut to).await?;
    to.shutdown().await
}

fn socks_reply(verdict: ConnectError) -> Reply {
    match verdict {
        ConnectError::AddressDenied { .. } => Reply::NotAllowed,
        ConnectError::NoSuchHost | ConnectError::TimedOut => Reply::HostUnreachable,
        ConnectError::ConnectionRefused => Reply::ConnectionRefused,
        ConnectError::Unreachable => Reply::NetworkUnreachable,
    }
}
