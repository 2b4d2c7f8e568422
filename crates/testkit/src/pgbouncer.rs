//! PgBouncer in front of a PostgreSQL server, in transaction mode: each transaction of a client may run on
//! another connection to the server.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::command::{install_hint, kill_child, program};
use crate::postgres::{NOBODY, Postgres, USER};
use crate::scratch::ScratchDir;

/// Longest time for PgBouncer to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running PgBouncer; killed when dropped.
#[derive(Debug)]
pub struct PgBouncer {
    child: Option<Child>,
    scratch: ScratchDir,
    port: u16,
}

impl PgBouncer {
    /// Starts PgBouncer on a free port of 127.0.0.1, with at most two connections to the server for each
    /// database.
    ///
    /// # Errors
    /// PgBouncer is missing, or does not start.
    pub fn start(server: &Postgres) -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (host, server_port) = (server.folder().display(), server.port());
        let (config, users) = (scratch.join("pgbouncer.ini"), scratch.join("users.txt"));
        fs::write(&users, format!("\"{USER}\" \"\"\n"))?;
        fs::write(
            &config,
            format!(
                "[databases]\n* = host={host} port={server_port} user={USER}\n[pgbouncer]\n\
                 listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
                 auth_file = {}\npool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 200\n",
                users.display()
            ),
        )?;
        let log = fs::File::create(scratch.join("log"))?;
        let mut pooler = program("pgbouncer");
        if rustix::process::geteuid().is_root() {
            // It refuses to run as root.
            for file in [&config, &users] {
                fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
                chown(file, Some(NOBODY), Some(NOBODY))?;
            }
            pooler.uid(NOBODY).gid(NOBODY);
        }
        pooler.arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = pooler.spawn().with_context(|| install_hint("pgbouncer"))?;
        let started = Self { child: Some(child), scratch, port };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(began.elapsed() < START_TIMEOUT, "PgBouncer does not start: {}", started.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(started)
    }

    /// URL for a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Log of PgBouncer.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        kill_child(&mut self.child);
    }
}
