//! Tencent's video on demand: a place is applied for, the files go there, and the upload is confirmed.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pagecast_core::spec::{self, Bucket, Secret, StorageKeys, StorageService, is_object_name};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use url::Url;

use super::bucket::{BucketStore, is_loopback};
use super::error::{Attempt, Error};
use super::http::{HttpTransport, checked_error_code};
use super::tc3::{SigningInput, iso8601, sha256_hex};
use super::{StoredObject, TransferConfig};

const API_VERSION: &str = "2018-07-17";
const JSON: &str = "application/json";
/// Keys that end so soon are not used for another file.
const MIN_KEY_LIFETIME_S: u64 = 60;
/// How often a place is applied for, for one medium: keys of an upload last for hours.
const MAX_APPLY_CALLS: u32 = 4;

/// A medium in video on demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VodAsset {
    /// Its number there (`FileId`).
    pub file_id: String,
    /// Where it plays (`MediaUrl`).
    pub url: String,
}

/// Video on demand of an application.
pub(super) struct VodStore {
    http: HttpTransport,
    spec: spec::Vod,
    keys: StorageKeys,
    endpoint: Url,
    location: String,
    transfer: TransferConfig,
    /// An upload that is complete, and whose confirmation got no answer: its name, its size and its session.
    pending_commit: Mutex<Option<(String, u64, Secret)>>,
}

impl std::fmt::Debug for VodStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vod").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// Where an upload goes, and the keys for it.
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
    pub(super) fn open(vod: &spec::Vod, pace: TransferConfig) -> Result<Self, Error> {
        let unusable = |why: &str| Error::Open("video on demand".into(), why.into());
        let keys = vod.keys.clone().ok_or_else(|| unusable("it needs the keys of the application"))?;
        let usual = || Url::parse("https://vod.tencentcloudapi.com");
        let endpoint = vod.endpoint.clone().map_or_else(usual, Ok).map_err(|_| unusable("no endpoint"))?;
        let http = HttpTransport::new(pace.connect_timeout, pace.stall_timeout, is_loopback(&endpoint), None)
            .map_err(|_| unusable("no TLS is possible: is ca-certificates installed?"))?;
        let place = format!("video on demand at {}", host_and_port(&endpoint));
        let (spec, unconfirmed) = (vod.clone(), Mutex::default());
        Ok(Self { http, spec, keys, endpoint, location: place, transfer: pace, pending_commit: unconfirmed })
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Stores `files` as one medium called `name`, which is the last of them.
    pub(super) async fn put(&self, name: &str, files: &[(&str, &Path)]) -> Result<StoredObject, Error> {
        let bytes = files.last().map_or(Ok(0), |(_, file)| {
            std::fs::metadata(file).map(|m| m.len()).map_err(|e| Error::source_unreadable(file, e))
        })?;
        if let Some(again) = self.retry_commit(name, bytes).await {
            return again;
        }
        let mut session = self.apply_upload(name).await?;
        let (mut applied, mut next) = (1, 0);
        while let Some((relative, file)) = files.get(next) {
            let last = next + 1 == files.len();
            let target = if last { Some(session.file.clone()) } else { relative_to_playlist(relative, name) };
            let Some(target) = target else {
                return Err(self.permanent_error(name, "a segment is not in the folder of its playlist"));
            };
            let too_old = session.expires_at_s < unix_now_s() + MIN_KEY_LIFETIME_S;
            let sent = if too_old {
                None
            } else {
                Some(session.bucket.put(&target, file, content_type(relative)).await)
            };
            match sent {
                Some(Ok(_)) => next += 1,
                Some(Err(e)) if !is_key_expired(&e) || applied == MAX_APPLY_CALLS => return Err(e),
                None if applied == MAX_APPLY_CALLS => {
                    return Err(self.permanent_error(name, "keys for uploads last less than a minute there"));
                }
                Some(Err(_)) | None => {
                    let fresh = self.apply_upload(name).await?;
                    // New keys are for a new place: what is in the old one is of no use, unless it is the same.
                    next =
                        if fresh.folder == session.folder && fresh.file == session.file { next } else { 0 };
                    (session, applied) = (fresh, applied + 1);
                }
            }
        }
        self.commit_upload(name, bytes, session.session_key).await
    }

    /// Keys that can apply can also upload, so nothing is uploaded here.
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
        let senseless =
            |what| self.permanent_error(name, &format!("it sends the upload to {what} that cannot be one"));
        let path = applied.media_storage_path.trim_start_matches('/');
        if !is_object_name(path) {
            return Err(senseless("a path"));
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
        spec::Storage::Bucket(bucket.clone()).validate().map_err(|_| senseless("a bucket"))?;
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
                    let mut unconfirmed = self.pending_commit.lock().unwrap_or_else(PoisonError::into_inner);
                    *unconfirmed = Some((name.to_owned(), bytes, session));
                }
                return Err(e);
            }
        };
        let medium = VodAsset { file_id: sanitize(&committed.file_id), url: sanitize(&committed.media_url) };
        Ok(StoredObject { bytes, etag: None, vod_asset: Some(medium) })
    }

    /// Confirms the last upload, if it was this one, rather than making a second medium of it. `None`: it must be sent.
    async fn retry_commit(&self, name: &str, bytes: u64) -> Option<Result<StoredObject, Error>> {
        let last = self.pending_commit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (last_name, last_bytes, session) = last?;
        if (last_name.as_str(), last_bytes) != (name, bytes) {
            return None;
        }
        match self.commit_upload(name, bytes, session).await {
            // Its session is over.
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
        let senseless = || Error::Transient(attempt(), format!("its answer to {action} makes no sense"));
        let body = call.to_string();
        let Some(request) = self.sign_request(action, &body) else {
            return Err(self.permanent_error(name, "the keys cannot be sent"));
        };
        let sent = self.http.send(request, VecDeque::from([body.into()])).await;
        let (_, answer) = sent.map_err(|fault| Error::from_request_error(attempt(), &fault))?;
        let envelope: Envelope = serde_json::from_slice(&answer).map_err(|_| senseless())?;
        if let Some(error) = envelope.response.get("Error") {
            let refusal = ApiError::deserialize(error).map_err(|_| senseless())?;
            return Err(api_error(attempt(), action, &refusal.code));
        }
        T::deserialize(envelope.response).map_err(|_| senseless())
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

fn api_error(attempt: Attempt, action: &str, said: &str) -> Error {
    let said = checked_error_code(said).unwrap_or_else(|| "an error".into());
    let why = |hint: &str| format!("{action} was refused ({said}){hint}");
    match said.split('.').next().unwrap_or_default() {
        "AuthFailure" if said.ends_with("SignatureExpire") => {
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

/// Whether keys for an upload ended during it.
fn is_key_expired(error: &Error) -> bool {
    let words = ["ExpiredToken", "TokenRefreshRequired", "InvalidAccessKeyId"];
    matches!(error, Error::Denied(_, why) if words.iter().any(|word| why.contains(word)))
}

/// The name of a segment as seen from the folder of its playlist.
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

/// Text of others that is kept, in bounds.
fn sanitize(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(2048).collect()
}

fn unix_now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
