//! PostgreSQL server of a test: Debian's, with a data folder of its own, run by an unprivileged user.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::command::{install_hint, kill_child, program, run_for_stdout, signal_child};
use crate::tls::CertificateAuthority;

/// Longest time for the server to start, which includes recovery after [`Postgres::kill`].
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Folder with the versions of PostgreSQL in Debian.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Number of the user and group `nobody`: the server refuses to run as root.
pub(crate) const NOBODY: u32 = 65534;
/// Name of the superuser.
pub const USER: &str = "pagecast";
/// Number in the name of the socket of a server that does not listen on a port.
const SOCKET_PORT: u16 = 5432;

/// Waits until its standard input closes, which also happens when the test is killed. Then it ends the
/// server, if it still runs, and removes its folder.
const JANITOR: &str = r#"
folder=$1
read -r _
{ read -r pid <"$folder/data/postmaster.pid"; } 2>/dev/null
is_server() { [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ]; }
is_server && kill -QUIT "$pid"
while is_server; do sleep 0.05; done
rm -rf "$folder"
"#;

static NEXT_ID: AtomicU32 = AtomicU32::new(0);
/// Server of [`Postgres::create_shared_database`], and the number of its databases.
static SHARED: Mutex<Option<(Postgres, u32)>> = Mutex::new(None);

/// A PostgreSQL server, which listens on a socket in its folder. It is stopped and removed when dropped, and
/// when the process ends.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    options: Vec<String>,
    server: Option<Child>,
    janitor: Option<Child>,
}

impl Postgres {
    /// Creates and starts a server.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or the server does not start.
    pub fn start() -> Result<Self> {
        let folder = create_folder()?;
        Self::start_in(folder, SOCKET_PORT, Vec::new())
    }

    /// Creates an empty database on a server that all tests of this process share, as a server takes seconds
    /// to create. Returns its connection string. The server is removed when the process ends.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn create_shared_database() -> Result<String> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, databases) = match shared.take() {
            Some((server, databases)) => shared.insert((server, databases + 1)),
            None => shared.insert((Self::start()?, 0)),
        };
        let name = format!("shared_{databases}");
        server.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(server.url(&name))
    }

    /// Creates and starts a server that also listens with TLS on a free port of 127.0.0.1. Returns it with
    /// the certificate of the authority that issued its own.
    ///
    /// # Errors
    /// As [`Self::start`]; or `openssl` is missing.
    pub fn start_with_tls() -> Result<(Self, PathBuf)> {
        let folder = create_folder()?;
        let CertificateAuthority { certificate, issued } = CertificateAuthority::create(&folder)?;
        let options = vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", issued.0.display()),
            format!("ssl_key_file={}", issued.1.display()),
            "listen_addresses=127.0.0.1".to_owned(),
        ];
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok((Self::start_in(folder, port, options)?, certificate))
    }

    fn start_in(folder: PathBuf, port: u16, options: Vec<String>) -> Result<Self> {
        let programs = find_programs()?;
        if rustix::process::geteuid().is_root() {
            for entry in fs::read_dir(&folder)? {
                chown(entry?.path(), Some(NOBODY), Some(NOBODY))?;
            }
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
        }
        let mut server = Self { folder, programs, port, options, server: None, janitor: None };
        server.start_janitor()?;
        let mut initdb = server.program("initdb");
        // The new files are not synced one by one, but the server syncs what it writes.
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", USER, "-D"]);
        run_for_stdout(initdb.arg(server.data()))?;
        server.restart()?;
        Ok(server)
    }

    fn start_janitor(&mut self) -> Result<()> {
        let mut janitor = self.as_user(program("sh"));
        janitor.args(["-c", JANITOR, "sh"]).arg(&self.folder).stdin(Stdio::piped());
        // Ctrl+C ends the test, and then the janitor.
        self.janitor = Some(janitor.process_group(0).spawn().context("cannot start a shell")?);
        Ok(())
    }

    /// Starts the server again, after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        let began = Instant::now();
        self.launch()?;
        while !self.is_ready()? {
            ensure!(began.elapsed() < START_TIMEOUT, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
            let ended =
                self.server.as_mut().is_some_and(|server| server.try_wait().is_ok_and(|e| e.is_some()));
            if ended {
                // A server that was killed leaves processes for a moment, which keep the next one from
                // starting.
                self.launch()?;
            }
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut server = self.program("postgres");
        server.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        server.args(["-p", &self.port.to_string(), "-c", "listen_addresses="]);
        for option in ["fsync=on", "max_connections=200", "shared_buffers=64MB"] {
            server.args(["-c", option]);
        }
        for option in &self.options {
            server.args(["-c", option]);
        }
        server.stdout(log.try_clone()?).stderr(log).process_group(0);
        self.server = Some(server.spawn().context("cannot start PostgreSQL")?);
        Ok(())
    }

    fn is_ready(&self) -> Result<bool> {
        let mut ask = self.program("pg_isready");
        ask.args(["-q", "-p", &self.port.to_string(), "-h"]).arg(&self.folder);
        Ok(ask.status().context("cannot run pg_isready")?.success())
    }

    /// Kills the server, as a power failure would.
    pub fn kill(&mut self) {
        kill_child(&mut self.server);
    }

    /// Stops the server at once: it closes all connections and writes no checkpoint.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::QUIT)?;
        if let Some(mut server) = self.server.take() {
            server.wait()?;
        }
        Ok(())
    }

    /// Sends a signal to the server's first process.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_child(self.server.as_ref(), "PostgreSQL", signal)
    }

    /// Path of the server's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Folder of the server, with its socket. The server's user can read files in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number in the name of the socket, and the port of a server with TLS.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connection string for a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("host={} port={} user={USER} dbname={database}", self.folder.display(), self.port)
    }

    /// URL for a database, of a server with TLS.
    #[must_use]
    pub fn tcp_url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL in a database, and returns the result without a header, with `|` between columns.
    ///
    /// # Errors
    /// The SQL fails.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]).arg(self.url(database));
        Ok(String::from_utf8_lossy(&run_for_stdout(&mut psql)?).trim().to_owned())
    }

    /// Log of the server.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = self.as_user(program(self.programs.join(name)));
        command.env("PGTZ", "UTC").stdin(Stdio::null());
        command
    }

    fn as_user(&self, mut command: Command) -> Command {
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(&self.folder);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _stopped = self.stop();
        if let Some(mut janitor) = self.janitor.take() {
            drop(janitor.stdin.take());
            let _removed = janitor.wait();
        }
    }
}

/// Creates a folder under `/tmp`, because paths of sockets must be short.
fn create_folder() -> Result<PathBuf> {
    let n = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let folder = PathBuf::from(format!("/tmp/pagecast-pg-{}-{n}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Folder with the programs of the newest installed version.
fn find_programs() -> Result<PathBuf> {
    let versions = fs::read_dir(VERSIONS).with_context(|| install_hint("postgres"))?;
    let version =
        |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(version).max().with_context(|| install_hint("postgres"))?;
    Ok(Path::new(VERSIONS).join(newest.to_string()).join("bin"))
}
