//! One connection of the browser: a handshake, then bytes both ways.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::socks::{self, Broken, Reply, Target};
use super::{Shared, Verdict, connect};

/// How long a client may take to say where it wants to go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one direction may go on once the other has ended. Browsers do not end one alone: it is for what is on its way.
const LINGER: Duration = Duration::from_secs(60);
/// Bytes on their way in one direction. Full: the sender waits.
const BUFFER: usize = 16 * 1024;

/// Serves one connection until it is over; without a place it is told that it cannot be.
pub(super) async fn run(mut client: TcpStream, shared: Arc<Shared>, place: Option<OwnedSemaphorePermit>) {
    // Who goes away in the middle of it is nothing to report.
    let _gone: io::Result<()> = async {
        connect::tune(&client)?;
        let Ok(heard) = timeout(HANDSHAKE_TIMEOUT, handshake(&mut client)).await else { return Ok(()) };
        let Some((target, early)) = heard? else { return Ok(()) };
        if place.is_none() {
            return client.write_all(&Reply::GeneralFailure.bytes()).await;
        }
        match connect::connect(&shared, &target).await {
            Ok(mut server) => {
                connect::tune(&server)?;
                client.write_all(&Reply::Succeeded.bytes()).await?;
                server.write_all(&early).await?;
                both_ways(&mut client, &mut server).await
            }
            Err(verdict) => {
                shared.journal.note(&target, verdict);
                client.write_all(&reply_to(verdict).bytes()).await
            }
        }
    }
    .await;
}

/// Where the client wants to go and what it has sent after that; `None` if it speaks something else.
async fn handshake(client: &mut TcpStream) -> io::Result<Option<(Target, Vec<u8>)>> {
    let mut heard = Vec::with_capacity(socks::MAX_HANDSHAKE);
    let welcome = loop {
        match socks::greeting(&heard) {
            Ok(Some((welcome, length))) => break heard.drain(..length).count() > 0 && welcome,
            Ok(None) => listen(client, &mut heard).await?,
            Err(_) => return Ok(None),
        }
    };
    if !welcome {
        client.write_all(&socks::UNWELCOME).await?;
        return Ok(None);
    }
    client.write_all(&socks::WELCOME).await?;
    loop {
        match socks::request(&heard) {
            Ok(Some((target, length))) => return Ok(Some((target, heard.split_off(length)))),
            Ok(None) => listen(client, &mut heard).await?,
            Err(Broken::Version) => return Ok(None),
            Err(Broken::Request(reply)) => {
                client.write_all(&reply.bytes()).await?;
                return Ok(None);
            }
        }
    }
}

/// Hears more. The parser never asks for more than [`socks::MAX_HANDSHAKE`] bytes.
async fn listen(client: &mut TcpStream, heard: &mut Vec<u8>) -> io::Result<()> {
    let room = (socks::MAX_HANDSHAKE - heard.len().min(socks::MAX_HANDSHAKE)) as u64;
    match client.take(room).read_buf(heard).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn both_ways(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let mut up = std::pin::pin!(one_way(from_client, to_server));
    let mut down = std::pin::pin!(one_way(from_server, to_client));
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    tokio::select! {
        ended = &mut up => { ended?; timeout(LINGER, down).await.map_err(|_| late())? }
        ended = &mut down => { ended?; timeout(LINGER, up).await.map_err(|_| late())? }
    }
}

/// Passes everything on, the end included.
async fn one_way(from: ReadHalf<'_>, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER, from), &mut to).await?;
    to.shutdown().await
}

fn reply_to(verdict: Verdict) -> Reply {
    match verdict {
        Verdict::Refused { .. } => Reply::NotAllowed,
        Verdict::NoSuchHost | Verdict::TimedOut => Reply::HostUnreachable,
        Verdict::ConnectionRefused => Reply::ConnectionRefused,
        Verdict::Unreachable => Reply::NetworkUnreachable,
    }
}
