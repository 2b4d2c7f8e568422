//! Emulators of Azure and Google Cloud Storage, where requests differ from those to the services: an endpoint
//! with a path, and no keys.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Bucket, Storage, StorageKeys, StorageService};
use pagecast_media::store::Store;

/// The account of Azurite, and a well-formed key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "b3BlbiBzZXNhbWU=";

/// A request: method, path and the header `Authorization`.
type RecordedRequest = (String, String, Option<String>);

/// A server that stores object sizes and records requests, until the test ends.
#[derive(Clone, Default)]
struct Emulator {
    objects: Arc<Mutex<BTreeMap<String, usize>>>,
    requests: Arc<Mutex<Vec<RecordedRequest>>>,
}

impl Emulator {
    fn start() -> Result<(Self, SocketAddr)> {
        let (listener, emulator) = (TcpListener::bind("127.0.0.1:0")?, Self::default());
        let (address, server) = (listener.local_addr()?, emulator.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        Ok((emulator, address))
    }

    fn serve(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let (method, path) =
                (words.next().context("a method")?.to_owned(), words.next().context("a path")?);
            let path = path.to_owned();
            let (mut length, mut authorization) = (0, None);
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let Some((name, value)) = header.trim().split_once(':') else { break };
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse()?,
                    "authorization" => authorization = Some(value.trim().to_owned()),
                    _ => {}
                }
            }
            std::io::copy(&mut reader.by_ref().take(length as u64), &mut std::io::sink())?;
            lock(&self.requests).push((method.clone(), path.clone(), authorization));
            let mut objects = lock(&self.objects);
            let (status, size) = match method.as_str() {
                "PUT" => {
                    objects.insert(path, length);
                    ("201 Created", 0)
                }
                _ => objects.get(&path).map_or(("404 Not Found", 0), |size| ("200 OK", *size)),
            };
            let date = "Mon, 30 Nov 2026 12:00:00 GMT";
            write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {size}\r\nETag: \"1\"\r\nLast-Modified: {date}\r\n\
                 Date: {date}\r\n\r\n"
            )?;
        }
    }

    fn requests(&self) -> Vec<RecordedRequest> {
        lock(&self.requests).clone()
    }
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores a small object and looks up another.
fn put_and_head(bucket: Bucket) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(&Storage::Bucket(bucket))?;
        let stored = store.put_bytes("a.m3u8", "#EXTM3U\n".into(), "text/plain", None).await?;
        ensure!(stored.bytes == 8 && store.head("b.m3u8").await?.is_none());
        ensure!(store.is_reachable("b.m3u8").await, "a response of 404 counts as reachable");
        Ok(())
    })
}

#[test]
fn an_emulator_of_azure_has_the_account_in_its_path() -> Result<()> {
    let (emulator, address) = Emulator::start()?;
    let Storage::Bucket(mut bucket) =
        Storage::parse(&format!("az://rec/room?endpoint=http://{address}/{ACCOUNT}"))?
    else {
        anyhow::bail!("not a bucket");
    };
    bucket.keys = Some(StorageKeys::new(ACCOUNT, KEY));
    put_and_head(bucket)?;
    let requests = emulator.requests();
    ensure!(!requests.is_empty());
    for (method, path, authorization) in &requests {
        ensure!(path.starts_with("/devstoreaccount1/rec/room/"), "{method} {path}");
        let signed = authorization.as_deref().is_some_and(|a| a.starts_with("SharedKey devstoreaccount1:"));
        ensure!(signed, "{method} {path}: {authorization:?}");
    }
    Ok(())
}

#[test]
fn an_emulator_of_google_needs_no_keys() -> Result<()> {
    let (emulator, address) = Emulator::start()?;
    let endpoint = format!("http://{address}").parse().ok();
    put_and_head(Bucket {
        prefix: vec!["room".into()],
        endpoint,
        ..Bucket::new(StorageService::Gcs, "rec")
    })?;
    let requests = emulator.requests();
    ensure!(!requests.is_empty());
    for (method, path, authorization) in &requests {
        ensure!(path.starts_with("/rec/room"), "{method} {path}");
        // The library sends an empty token with some requests.
        let bare = authorization.as_deref().is_none_or(|value| value == "Bearer");
        ensure!(bare, "{method} {path} is signed: {authorization:?}");
    }
    Ok(())
}
