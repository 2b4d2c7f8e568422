//! Connections to the database: a small pool, and settings of all connections.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use pagecast_core::backoff::Backoff;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config};

use super::Error;
use super::sql::TxError;
use super::tls::TlsConnector;
use crate::vault::random_u64;

/// Connections of the pool. With the one that listens, a process has four: a database has some hundred for
/// all processes, and each costs it memory.
const POOL_SIZE: usize = 3;
/// Longest time for a connection to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that sent data may stay unacknowledged: half a lease, so that another server can be reached
/// before the lease ends.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(3);
/// Idle time after which a connection is probed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(3);
/// Shortest and longest delay between two attempts to use a database that does not answer. They are random,
/// so that all processes do not connect at the same moment when it is back.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Connections of a process.
#[derive(Debug)]
pub(super) struct Connections {
    pool: Pool,
    /// Settings of the connection that listens.
    pub listener: Config,
    pub tls: TlsConnector,
}

impl Connections {
    pub(super) fn new(pooled: Config, listener: Config, tls: TlsConnector) -> Result<Self, Error> {
        // A query to check each connection would cost a round trip; whatever breaks one is retried anyway.
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(pooled, tls.clone(), config);
        let pool = Pool::builder(manager).max_size(POOL_SIZE).build();
        let pool = pool.map_err(|error| Error::Pool(error.to_string()))?;
        Ok(Self { pool, listener, tls })
    }

    /// Waits for a connection.
    pub(super) async fn get(&self) -> Result<Connection, TxError> {
        Ok(Connection(Some(self.pool.get().await?)))
    }
}

/// Delays between the attempts of an operation.
pub(super) fn retry_delays() -> Backoff {
    Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1, random_u64())
}

/// A connection of the pool. It is closed when dropped, as its state is unknown then, unless it was given
/// back by [`Self::reuse`].
pub(super) struct Connection(Option<Object>);

impl Connection {
    /// The client of the connection.
    pub(super) fn client(&mut self) -> &mut Client {
        self.0.as_mut().expect("it is there until it is given back")
    }

    /// Gives the connection back to the pool.
    pub(super) fn reuse(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// Parses the URL of a database, and adds the settings that all connections have.
pub(super) fn parse_url(url: &str) -> Result<Config, Error> {
    // The error is omitted, because it may quote the password.
    let mut config: Config = url.parse().map_err(|_| Error::InvalidUrl)?;
    config.connect_timeout(CONNECT_TIMEOUT);
    config.tcp_user_timeout(TCP_USER_TIMEOUT);
    config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_IDLE);
    if config.get_application_name().is_none() {
        config.application_name("pagecast");
    }
    // `prefer`, which is the default, would send the password and all data in the clear if somebody in
    // between says that the server has no TLS.
    if config.get_ssl_mode() == SslMode::Prefer {
        let is_local = config.get_hosts().iter().all(is_local);
        config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
    }
    Ok(config)
}

/// Whether connections to a host stay within this machine.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_other_machines_need_tls_unless_the_url_says_otherwise() {
        for (url, mode) in [
            ("postgres://u:p@db.example/fleet", SslMode::Require),
            ("postgres://u:p@10.0.0.1/fleet", SslMode::Require),
            ("postgres://u:p@db.example/fleet?sslmode=disable", SslMode::Disable),
            ("postgres://u@127.0.0.1:1/fleet", SslMode::Disable),
            ("postgres://u@127.0.0.1,db.example/fleet", SslMode::Require),
            ("postgres://u@localhost/fleet?sslmode=require", SslMode::Require),
            ("host=/var/run/postgresql user=u", SslMode::Disable),
        ] {
            assert_eq!(parse_url(url).unwrap().get_ssl_mode(), mode, "{url}");
        }
        let error = parse_url("postgres://u:secret@[db/fleet").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
