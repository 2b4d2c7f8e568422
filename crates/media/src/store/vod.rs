//! Stores files in Tencent VOD: `ApplyUpload`, upload to the assigned bucket, `CommitUpload`.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pagecast_core::spec::{self, Bucket, Secret, StorageKeys, StorageService, is_object_name};
use pagecast_tc3::{SigningInput, iso8601, sha256_hex};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use url::Url;

use super::bucket::{BucketStore, is_loopback};
use super::error::{Attempt, Error};
use super::http::{HttpTransport, checked_error_code};
use super::{StoredObject, TransferConfig};

const API_VERSION: &str = "2018-07-17";
const JSON: &str = "application/json";
/// Keys that expire within this time are renewed before the next file.
const MIN_KEY_LIFETIME_S: u64 = 60;
/// Most calls of `ApplyUpload` for one asset: keys normally last for hours.
const MAX_APPLY_CALLS: u32 = 4;

/// An asset in video on demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VodAsset {
    /// Id of the asset (`FileId`).
    pub file_id: String,
    /// Playback address (`MediaUrl`).
    pub url: String,
}

/// The video-on-demand service of one application.
pub(super) struct VodStore {
    http: HttpTransport,
    spec: spec::Vod,
    keys: StorageKeys,
    endpoint: Url,
    location: String,
    transfer: TransferConfig,
    /// A complete upload whose `CommitUpload` got no response: name, size and session key.
    pending_commit: Mutex<Option<(String, u64, Secret)>>,
}

impl std::fmt::Debug for VodStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vod").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Destination of an upload and its temporary keys.
struct UploadSession {
    session_key: Secret,
    folder: Vec<String>,
    file: String,
    expires_at_s: u64,
    bucket: BucketStore,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ApplyUploadResponse {
    storage_bucket: String,
    storage_region: String,
    vod_session_key: Secret,
    media_storage_path: String,
    temp_certificate: TempCertificate,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TempCertificate {
    secret_id: Secret,
    secret_key: Secret,
    token: Secret,
    expired_time: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommitUploadResponse {
    file_id: String,
    #[serde(default)]
    media_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    response: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ApiError {
    code: String,
}

impl VodStore {
    pub(super) fn open(vod: &spec::Vod, transfer: TransferConfig) -> Result<Self, Error> {
        let open_error = |why: &str| Error::Open("video on demand".into(), why.into());
        let keys = vod.keys.clone().ok_or_else(|| open_error("the keys of the application are required"))?;
        let default_endpoint = || Url::parse("https://vod.tencentcloudapi.com");
        let endpoint = vod
            .endpoint
            .clone()
            .map_or_else(default_endpoint, Ok)
            .map_err(|_| open_error("the endpoint is not a URL"))?;
        let http = HttpTransport::new(
            transfer.connect_timeout,
            transfer.stall_timeout,
            is_loopback(&endpoint),
            None,
        )
        .map_err(|_| open_error("TLS is not available: install ca-certificates"))?;
        let location = format!("video on demand at {}", host_and_port(&endpoint));
        let (spec, pending_commit) = (vod.clone(), Mutex::default());
        Ok(Self { http, spec, keys, endpoint, location, transfer, pending_commit })
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Stores `files` as one asset called `name`, the last of them.
    pub(super) async fn put(&self, name: &str, files: &[(&str, &Path)]) -> Result<StoredObject, Error> {
        let bytes = files.last().map_or(Ok(0), |(_, file)| {
            std::fs::metadata(file).map(|m| m.len()).map_err(|e| Error::source_unreadable(file, e))
        })?;
        if let Some(result) = self.retry_commit(name, bytes).await {
            return result;
        }
        let mut session = self.apply_upload(name).await?;
        let (mut applied, mut next) = (1, 0);
        while let Some((relative, file)) = files.get(next) {
            let last = next + 1 == files.len();
            let target = if last { Some(session.file.clone()) } else { relative_to_playlist(relative, name) };
            let Some(target) = target else {
                return Err(self.permanent_error(name, "a segment is not in the folder of its playlist"));
            };
            let expired = session.expires_at_s < unix_now_s() + MIN_KEY_LIFETIME_S;
            let sent = if expired {
                None
            } else {
                Some(session.bucket.put(&target, file, content_type(relative)).await)
            };
            match sent {
                Some(Ok(_)) => next += 1,
                Some(Err(e)) if !is_key_expired(&e) || applied == MAX_APPLY_CALLS => return Err(e),
                None if applied == MAX_APPLY_CALLS => {
                    return Err(self
                        .permanent_error(name, "the temporary keys of the service last less than a minute"));
                }
                Some(Err(_)) | None => {
                    let fresh = self.apply_upload(name).await?;
                    // New keys usually come with a new folder; then the files must be uploaded again.
                    next =
                        if fresh.folder == session.folder && fresh.file == session.file { next } else { 0 };
                    (session, applied) = (fresh, applied + 1);
                }
            }
        }
        self.commit_upload(name, bytes, session.session_key).await
    }

    /// Checks the keys with `ApplyUpload`; the temporary keys that it returns can always upload.
    pub(super) async fn probe(&self) -> Result<(), Error> {
        self.apply_upload("pagecast-probe.mp4").await.map(drop)
    }

    async fn apply_upload(&self, name: &str) -> Result<UploadSession, Error> {
        let spec = &self.spec;
        let (stem, kind) = stem_and_extension(name);
        let mut call = json!({ "MediaType": kind, "MediaName": spec.media_name(stem) });
        let expires = spec.lifetime.map(|lifetime| iso8601(unix_now_s() + lifetime.as_secs()).into());
        let class_id = (spec.class_id != 0).then(|| spec.class_id.into());
        for (field, value) in [
            ("SubAppId", spec.sub_app_id.map(Into::into)),
            ("Procedure", spec.procedure.clone().map(Into::into)),
            ("ExpireTime", expires),
            ("StorageRegion", spec.storage_region.clone().map(Into::into)),
            ("ClassId", class_id),
            ("SourceContext", spec.source_context.clone().map(Into::into)),
            ("SessionContext", spec.session_context.clone().map(Into::into)),
        ] {
            if let Some(value) = value {
                call[field] = value;
            }
        }
        let applied: ApplyUploadResponse = self.call_api("ApplyUpload", name, &call).await?;
        self.open_session(name, applied)
    }

    fn open_session(&self, name: &str, applied: ApplyUploadResponse) -> Result<UploadSession, Error> {
        let invalid = |what| self.permanent_error(name, &format!("ApplyUpload returned an invalid {what}"));
        let path = applied.media_storage_path.trim_start_matches('/');
        if !is_object_name(path) {
            return Err(invalid("path"));
        }
        let mut folder: Vec<_> = path.split('/').map(str::to_owned).collect();
        let file = folder.pop().unwrap_or_default();
        let temporary = applied.temp_certificate;
        let bucket = Bucket {
            prefix: folder.clone(),
            region: Some(applied.storage_region),
            endpoint: self.spec.storage_endpoint.clone(),
            keys: Some(StorageKeys {
                access_key: temporary.secret_id,
                secret_key: temporary.secret_key,
                session_token: Some(temporary.token),
            }),
            ..Bucket::new(StorageService::Cos, applied.storage_bucket)
        };
        spec::Storage::Bucket(bucket.clone()).validate().map_err(|_| invalid("bucket"))?;
        let remote = BucketStore::open(&bucket, self.transfer)?;
        Ok(UploadSession {
            session_key: applied.vod_session_key,
            folder,
            file,
            expires_at_s: temporary.expired_time,
            bucket: remote,
        })
    }

    async fn commit_upload(&self, name: &str, bytes: u64, session: Secret) -> Result<StoredObject, Error> {
        let mut call = json!({ "VodSessionKey": session.reveal() });
        if let Some(id) = self.spec.sub_app_id {
            call["SubAppId"] = id.into();
        }
        let committed: CommitUploadResponse = match self.call_api("CommitUpload", name, &call).await {
            Ok(committed) => committed,
            Err(e) => {
                if matches!(e, Error::Transient(..)) {
                    let mut pending = self.pending_commit.lock().unwrap_or_else(PoisonError::into_inner);
                    *pending = Some((name.to_owned(), bytes, session));
                }
                return Err(e);
            }
        };
        let asset = VodAsset { file_id: sanitize(&committed.file_id), url: sanitize(&committed.media_url) };
        Ok(StoredObject { bytes, etag: None, vod_asset: Some(asset) })
    }

    /// Repeats `CommitUpload` if the last upload was this one, to avoid a second asset. `None`: upload it.
    async fn retry_commit(&self, name: &str, bytes: u64) -> Option<Result<StoredObject, Error>> {
        let last = self.pending_commit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (last_name, last_bytes, session) = last?;
        if (last_name.as_str(), last_bytes) != (name, bytes) {
            return None;
        }
        match self.commit_upload(name, bytes, session).await {
            // The session has expired.
            Err(Error::Permanent(..) | Error::NotFound(..)) => None,
            other => Some(other),
        }
    }

    async fn call_api<T: DeserializeOwned>(
        &self,
        action: &'static str,
        name: &str,
        call: &serde_json::Value,
    ) -> Result<T, Error> {
        let attempt = || Attempt { verb: "store", name: name.to_owned(), location: self.location.clone() };
        let invalid = || Error::Transient(attempt(), format!("invalid response to {action}"));
        let body = call.to_string();
        let Some(request) = self.sign_request(action, &body) else {
            return Err(
                self.permanent_error(name, "the keys contain characters that are not allowed in headers")
            );
        };
        let sent = self.http.send(request, VecDeque::from([body.into()])).await;
        let (_, content) = sent.map_err(|fault| Error::from_request_error(attempt(), &fault))?;
        let envelope: Envelope = serde_json::from_slice(&content).map_err(|_| invalid())?;
        if let Some(error) = envelope.response.get("Error") {
            let refusal = ApiError::deserialize(error).map_err(|_| invalid())?;
            return Err(api_error(attempt(), action, &refusal.code));
        }
        T::deserialize(envelope.response).map_err(|_| invalid())
    }

    fn sign_request(&self, action: &str, body: &str) -> Option<reqwest::Request> {
        let host = host_and_port(&self.endpoint);
        let timestamp = unix_now_s();
        let signed = SigningInput {
            method: "POST",
            query: "",
            headers: &[("content-type", JSON), ("host", &host)],
            payload_hash: &sha256_hex(body.as_bytes()),
            timestamp,
            service: "vod",
        };
        let authorization =
            signed.authorization(self.keys.access_key.reveal(), self.keys.secret_key.reveal());
        let mut request = reqwest::Request::new(Method::POST, self.endpoint.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        let mut authorization = HeaderValue::from_str(&authorization).ok()?;
        authorization.set_sensitive(true);
        headers.insert(AUTHORIZATION, authorization);
        let token = self.keys.session_token.as_ref().map(Secret::reveal);
        for (name, value) in [
            ("x-tc-action", Some(action)),
            ("x-tc-version", Some(API_VERSION)),
            ("x-tc-timestamp", Some(&*timestamp.to_string())),
            ("x-tc-region", self.spec.region.as_deref()),
            ("x-tc-token", token),
        ] {
            if let Some(value) = value {
                let mut value = HeaderValue::from_str(value).ok()?;
                value.set_sensitive(name == "x-tc-token");
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Some(request)
    }

    fn permanent_error(&self, name: &str, why: &str) -> Error {
        let attempt = Attempt { verb: "store", name: name.to_owned(), location: self.location.clone() };
        Error::Permanent(attempt, why.to_owned())
    }
}

fn api_error(attempt: Attempt, action: &str, code: &str) -> Error {
    let code = checked_error_code(code).unwrap_or_else(|| "an error".into());
    let why = |hint: &str| format!("{action} was refused ({code}){hint}");
    match code.split('.').next().unwrap_or_default() {
        "AuthFailure" if code.ends_with("SignatureExpire") => {
            Error::Denied(attempt, why(": set the clock of this machine"))
        }
        "AuthFailure" | "UnauthorizedOperation" => Error::Denied(
            attempt,
            why(": check the keys of the application, and that they may use video on demand"),
        ),
        "InternalError"
        | "RequestLimitExceeded"
        | "FailedOperation"
        | "ResourceUnavailable"
        | "ResourceInUse" => Error::Transient(attempt, why("")),
        "ResourceNotFound" => Error::NotFound(attempt, why(": check the sub-application")),
        _ => Error::Permanent(attempt, why("")),
    }
}

/// Whether an upload failed because its temporary keys expired.
fn is_key_expired(error: &Error) -> bool {
    let words = ["ExpiredToken", "TokenRefreshRequired", "InvalidAccessKeyId"];
    matches!(error, Error::Denied(_, why) if words.iter().any(|word| why.contains(word)))
}

/// The name of a segment relative to the folder of its playlist; `None` if it is elsewhere.
fn relative_to_playlist(segment: &str, playlist: &str) -> Option<String> {
    match playlist.rsplit_once('/') {
        None => Some(segment.to_owned()),
        Some((folder, _)) => segment.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
    }
}

fn stem_and_extension(name: &str) -> (&str, &str) {
    let file = name.rsplit_once('/').map_or(name, |(_, file)| file);
    file.rsplit_once('.').unwrap_or((file, "mp4"))
}

fn content_type(name: &str) -> &'static str {
    match stem_and_extension(name).1 {
        "m3u8" => "application/vnd.apple.mpegurl",
        "ts" => "video/mp2t",
        _ => "video/mp4",
    }
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Cleans and bounds text of the service.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(2048).collect()
}

fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
