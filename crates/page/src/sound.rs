//! Placeholder until the branch `sound` is merged.
use crate::clock::Origin;
use pagecast_core::Samples;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
/// c
#[derive(Debug)]
pub struct Config {
    /// s
    pub socket: PathBuf,
    /// o
    pub origin: Origin,
}
/// e
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// l
    #[error("x")]
    Listen(#[source] std::io::Error),
}
/// s
#[derive(Debug)]
pub struct Sound(std::os::unix::net::UnixListener);
/// s
pub fn start(config: Config, out: SyncSender<Samples>) -> Result<Sound, Error> {
    drop(out); Ok(Sound(std::os::unix::net::UnixListener::bind(config.socket).map_err(Error::Listen)?))
}
