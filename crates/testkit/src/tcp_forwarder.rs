//! Forwards TCP connections to a port of this machine, and can be cut like a cable: nothing passes, and
//! nobody is told.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Bytes that are read at a time.
const BUFFER_LEN: usize = 16 << 10;

/// A forwarder on a port of 127.0.0.1; stopped when dropped.
#[derive(Debug)]
pub struct TcpForwarder {
    address: SocketAddr,
    is_cut: watch::Sender<bool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TcpForwarder {
    /// Starts a forwarder to this port of 127.0.0.1, at which nobody needs to listen yet.
    ///
    /// # Errors
    /// There is no free port, or no thread can be started.
    pub fn start(port: u16) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (is_cut, cut) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("tcp-forwarder".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener, port, cut) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })
            .context("cannot start a thread")?;
        Ok(Self { address, is_cut, stop: Some(stop), thread: Some(thread) })
    }

    /// Port of the forwarder.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts all connections, new ones too, or joins them again: then what was sent meanwhile arrives.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

impl Drop for TcpForwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, port: u16, cut: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let mut cut = cut.clone();
        tasks.spawn(async move {
            if cut.wait_for(|is_cut| !is_cut).await.is_err() {
                return;
            }
            // A client whose connection is refused here sees it closed.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // Whatever fails, both connections end.
            let _failed = tokio::try_join!(
                relay(from_client, to_server, cut.clone()),
                relay(from_server, to_client, cut)
            );
        });
    }
}

/// Relays one direction to its end. What is read while it is cut waits.
async fn relay(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        let length = from.read(&mut buffer).await?;
        cut.wait_for(|is_cut| !is_cut).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_passes_while_it_is_cut() -> Result<()> {
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let forwarder = TcpForwarder::start(server.local_addr()?.port())?;
        let mut client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, forwarder.port()))?;
        let (mut accepted, _) = server.accept()?;
        let mut read = [0; 4];
        client.write_all(b"ping")?;
        accepted.read_exact(&mut read)?;
        forwarder.set_cut(true);
        accepted.write_all(b"pong")?;
        client.set_read_timeout(Some(Duration::from_millis(200)))?;
        assert!(client.read(&mut read).is_err(), "it passed");
        forwarder.set_cut(false);
        client.set_read_timeout(None)?;
        client.read_exact(&mut read)?;
        assert_eq!(&read, b"pong");
        drop(accepted);
        assert_eq!(client.read(&mut read)?, 0, "the end passes");
        Ok(())
    }
}
