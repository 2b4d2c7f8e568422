//! Storages and files for tests.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use pagecast_core::spec::{Bucket, Storage, StorageKeys, StorageService};
use pagecast_media::store::{Store, TransferConfig};
use pagecast_testkit::{S3Server, ScratchDir};

pub(super) const ACCESS: &str = "AKIDGOOD";
pub(super) const SECRET: &str = "open+sesame/1";
pub(super) const MIB: u64 = 1 << 20;
/// The smallest part that services accept.
pub(super) const PART_BYTES: u64 = 5 * MIB;

pub(super) fn block_on<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(test)
}

/// Timeouts for tests: short, but long enough for a busy machine.
pub(super) fn transfer_config() -> TransferConfig {
    TransferConfig {
        stall_timeout: Duration::from_secs(2),
        part_bytes: PART_BYTES,
        ..TransferConfig::default()
    }
}

/// A bucket `rec` with a prefix `room`.
pub(super) fn bucket(server: &S3Server) -> Bucket {
    Bucket {
        prefix: vec!["room".into()],
        endpoint: server.url().parse().ok(),
        keys: Some(StorageKeys::new(ACCESS, SECRET)),
        ..Bucket::new(StorageService::S3, "rec")
    }
}

pub(super) fn start_s3_store() -> Result<(ScratchDir, S3Server, Store)> {
    let scratch = ScratchDir::new()?;
    let server = S3Server::start(&scratch.join("s3"), ACCESS, SECRET)?;
    server.make_bucket("rec")?;
    let store = Store::open_with(&Storage::Bucket(bucket(&server)), transfer_config())?;
    Ok((scratch, server, store))
}

/// A file of pseudo-random bytes that depend on the seed.
pub(super) fn random_file(scratch: &ScratchDir, bytes: u64, seed: u64) -> Result<PathBuf> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut content = Vec::new();
    while (content.len() as u64) < bytes {
        content.extend(words.next().unwrap_or_default());
    }
    content.truncate(usize::try_from(bytes)?);
    let path = scratch.join(&format!("{bytes}-{seed}.mp4"));
    fs::write(&path, content)?;
    Ok(path)
}

/// Everything that this thread logs, at level trace; servers run on other threads.
#[derive(Clone, Default)]
pub(super) struct LogBuffer(Arc<Mutex<Vec<u8>>>);

/// Captures the log until it is dropped.
pub(super) struct LogCapture {
    log: LogBuffer,
    _guard: tracing::subscriber::DefaultGuard,
}

thread_local! {
    /// The buffer of the crate `log`.
    static LOG_CRATE_BUFFER: RefCell<Option<LogBuffer>> = const { RefCell::new(None) };
}

impl LogBuffer {
    pub(super) fn start() -> LogCapture {
        struct ToThread;
        impl log::Log for ToThread {
            fn enabled(&self, _: &log::Metadata<'_>) -> bool {
                true
            }
            fn log(&self, record: &log::Record<'_>) {
                LOG_CRATE_BUFFER.with_borrow(|log| {
                    if let Some(mut log) = log.clone() {
                        let _infallible = writeln!(log, "{} {}", record.target(), record.args());
                    }
                });
            }
            fn flush(&self) {}
        }
        let _once = log::set_logger(&ToThread);
        log::set_max_level(log::LevelFilter::Trace);
        let log = Self::default();
        LOG_CRATE_BUFFER.set(Some(log.clone()));
        let format = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE);
        let writer = log.clone();
        let subscriber = format.with_writer(move || writer.clone()).finish();
        LogCapture { log, _guard: tracing::subscriber::set_default(subscriber) }
    }
}

impl LogCapture {
    pub(super) fn end(self) -> String {
        LOG_CRATE_BUFFER.set(None);
        String::from_utf8_lossy(&self.log.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
