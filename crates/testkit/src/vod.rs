//! Fake of Tencent's video on demand for uploads: checks signatures, and stores the files in an [`S3Server`].

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::s3::{Credential, S3Server};

/// The bucket that all media are uploaded to.
pub const BUCKET: &str = "vod-1250000000";

/// A running service; stopped when dropped.
#[derive(Debug)]
pub struct VodServer {
    address: SocketAddr,
    shared: Arc<ServerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct ServerState {
    secret_id: String,
    secret_key: String,
    storage: S3Server,
    stopped: AtomicBool,
    dropped_commit_responses: AtomicU32,
    expired_keys: AtomicU32,
    /// Path of the file of each session.
    session_paths: Mutex<BTreeMap<String, String>>,
    /// Authenticated calls: action and parameters.
    calls: Mutex<Vec<(String, Value)>>,
}

impl VodServer {
    /// Starts a service whose storage keeps its objects in `root`.
    ///
    /// # Errors
    /// There is no free port, or no thread can be started.
    pub fn start(root: &Path, secret_id: &str, secret_key: &str) -> Result<Self> {
        let storage = S3Server::start(root, "unused", "unused")?;
        storage.make_bucket(BUCKET)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(ServerState {
            secret_id: secret_id.into(),
            secret_key: secret_key.into(),
            storage,
            stopped: AtomicBool::new(false),
            dropped_commit_responses: AtomicU32::new(0),
            expired_keys: AtomicU32::new(0),
            session_paths: Mutex::default(),
            calls: Mutex::default(),
        });
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new().name("vod".into()).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if for_thread.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let _a_broken_connection = for_thread.handle_connection(&stream);
            }
        })?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// Endpoint URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Storage of the uploaded files.
    #[must_use]
    pub fn storage(&self) -> &S3Server {
        &self.shared.storage
    }

    /// Parameters of all calls of an action so far.
    #[must_use]
    pub fn calls(&self, action: &str) -> Vec<Value> {
        let calls = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|(name, _)| name == action).map(|(_, call)| call.clone()).collect()
    }

    /// Drops the responses of the next `count` `CommitUpload` calls, which are carried out.
    pub fn drop_commit_responses(&self, count: u32) {
        self.shared.dropped_commit_responses.store(count, Ordering::SeqCst);
    }

    /// Issues expired keys for the next `count` uploads.
    pub fn issue_expired_keys(&self, count: u32) {
        self.shared.expired_keys.store(count, Ordering::SeqCst);
    }
}

impl Drop for VodServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _wakes_it = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _a_panic_was_shown = thread.join();
        }
    }
}

impl ServerState {
    /// Responds to one request and closes the connection.
    fn handle_connection(&self, stream: &TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let is_post = line.starts_with("POST / ");
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length: usize = headers.get("content-length").context("no length")?.parse()?;
        let mut body = vec![0; length.min(1 << 20)];
        reader.read_exact(&mut body)?;
        let answer = match self.verify_signature(is_post, &headers, &body) {
            Err(code) => Some(error_response(code)),
            Ok(()) => self.handle_action(&headers, &serde_json::from_slice(&body)?)?,
        };
        let Some(answer) = answer else { return Ok(()) };
        let text = json!({ "Response": answer }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", text.len());
        let mut to = stream;
        to.write_all((head + &text).as_bytes())?;
        Ok(())
    }

    /// Checks the signature of a request (section 6 of the API).
    fn verify_signature(
        &self,
        is_post: bool,
        headers: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Result<(), &'static str> {
        let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
        let timestamp = header("x-tc-timestamp");
        let signed_at: u64 = timestamp.parse().map_err(|_| "MissingParameter")?;
        if signed_at.abs_diff(unix_s()) > 300 {
            return Err("AuthFailure.SignatureExpire");
        }
        let authorization = header("authorization")
            .strip_prefix("TC3-HMAC-SHA256 ")
            .ok_or("AuthFailure.InvalidAuthorization")?;
        let fields: BTreeMap<_, _> =
            authorization.split(", ").filter_map(|field| field.split_once('=')).collect();
        let field = |name| fields.get(name).copied().unwrap_or_default();
        let (id, scope) = field("Credential").split_once('/').ok_or("AuthFailure.InvalidAuthorization")?;
        if id != self.secret_id {
            return Err("AuthFailure.SecretIdNotFound");
        }
        let names = field("SignedHeaders");
        let lines: String = names.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
        let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hash(body));
        let text = format!("TC3-HMAC-SHA256\n{timestamp}\n{scope}\n{}", hash(canonical.as_bytes()));
        let mut key = format!("TC3{}", self.secret_key).into_bytes();
        for part in scope.split('/') {
            key = hmac_sha256(&key, part);
        }
        let complete = is_post && names.contains("content-type") && names.contains("host");
        if !complete
            || !scope.ends_with("/vod/tc3_request")
            || hex(&hmac_sha256(&key, &text)) != field("Signature")
        {
            return Err("AuthFailure.SignatureFailure");
        }
        if header("x-tc-version") != "2018-07-17" {
            return Err("InvalidParameter");
        }
        Ok(())
    }

    fn handle_action(&self, headers: &BTreeMap<String, String>, call: &Value) -> Result<Option<Value>> {
        let action = headers.get("x-tc-action").map(String::as_str).unwrap_or_default();
        let mut sessions = self.session_paths.lock().unwrap_or_else(PoisonError::into_inner);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push((action.to_owned(), call.clone()));
        let n = calls.len();
        match action {
            "ApplyUpload" => {
                let kind = call["MediaType"].as_str().context("no media type")?;
                if !["mp4", "m3u8"].contains(&kind) {
                    return Ok(Some(error_response("InvalidParameterValue.MediaType")));
                }
                let (path, id, token) =
                    (format!("/upload/{n}/f0.{kind}"), format!("AKIDtemp{n}"), format!("token-{n}"));
                let expired = take_one(&self.expired_keys);
                let secret = format!("temporary-{n}");
                self.storage
                    .add_key(&id, Credential { secret: secret.clone(), token: Some(token.clone()), expired });
                sessions.insert(format!("session+/{n}"), path.clone());
                Ok(Some(json!({
                    "StorageBucket": BUCKET, "StorageRegion": "ap-guangzhou",
                    "VodSessionKey": format!("session+/{n}"), "MediaStoragePath": path,
                    "CoverStoragePath": "",
                    "TempCertificate": {
                        "SecretId": id, "SecretKey": secret, "Token": token, "ExpiredTime": unix_s() + 3600,
                    },
                    "RequestId": "a",
                })))
            }
            "CommitUpload" => {
                let session = call["VodSessionKey"].as_str().context("no session")?;
                let Some(path) = sessions.get(session) else {
                    return Ok(Some(error_response("InvalidParameterValue.VodSessionKey")));
                };
                if !self.storage.object_path(BUCKET, path.trim_start_matches('/')).is_file() {
                    return Ok(Some(error_response("FailedOperation.NoSuchMedia")));
                }
                if take_one(&self.dropped_commit_responses) {
                    return Ok(None);
                }
                let url = format!("http://125.vod2.example{path}");
                // The same id each time that a session is committed.
                let id = path.split('/').nth(2).context("a session")?;
                Ok(Some(json!({ "FileId": format!("file-{id}"), "MediaUrl": url, "RequestId": "a" })))
            }
            _ => Ok(Some(error_response("InvalidAction"))),
        }
    }
}

/// Decrements a counter and returns whether it was positive.
fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

fn error_response(code: &str) -> Value {
    json!({ "Error": { "Code": code, "Message": "Injected." }, "RequestId": "a" })
}

fn hmac_sha256(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.chain_update(text).finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
