//! Stores objects in buckets of S3-compatible services, Google Cloud Storage and Azure.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, RetryConfig, StaticCredentialProvider,
};
use pagecast_core::spec::{Bucket, Secret, StorageService};
use tokio::task::{JoinSet, spawn_blocking};

use super::error::{Attempt, Error};
use super::http::{HttpTransport, RequestError};
use super::multipart::{OrphanedUpload, OrphanedUploads, TrackedUpload, UploadListing};
use super::resolver::resolver_for_bucket;
use super::{
    ListedObject, StoredObject, TransferConfig, UnfinishedUpload, UploadJournal, probe_name, too_large,
};

/// Most parts of a multipart upload; services allow 10 000.
const MAX_PARTS: u64 = 9_000;

/// Bytes of an object that are requested at once: what the transport accepts as a response.
const RANGE_BYTES: u64 = 1 << 20;

/// Address of an emulator of Google Cloud Storage, the variable of Google's own libraries.
const GCS_EMULATOR_ENV: &str = "STORAGE_EMULATOR_HOST";
/// Variables that hold Google's keys.
const GCS_KEY_ENVS: [&str; 4] = [
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "SERVICE_ACCOUNT",
];

/// A client of one bucket.
pub(super) struct BucketStore {
    client: Client,
    bucket: Bucket,
    /// The endpoint that the specification names, not that of an emulator.
    endpoint: Option<String>,
    location: String,
    transfer: TransferConfig,
    orphaned_uploads: OrphanedUploads,
    journal: Option<Arc<dyn UploadJournal>>,
}

/// The client of the service.
struct Client {
    store: Arc<dyn ObjectStore>,
    /// The same client, where multipart uploads have an id by which another process can abort them. Azure has
    /// none; it drops uncommitted blocks after a week.
    multipart: Option<Arc<dyn MultipartStore>>,
    /// Finds uploads whose id never arrived; S3-compatible services only.
    listing: Option<UploadListing>,
}

impl std::fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketStore").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl BucketStore {
    pub(super) fn open(bucket: &Bucket, transfer: TransferConfig) -> Result<Self, Error> {
        let endpoint = bucket.endpoint.as_ref().map(ToString::to_string);
        let bucket = &with_emulator(bucket, std::env::var(GCS_EMULATOR_ENV).ok());
        let host = bucket.endpoint_url().map(|(url, _)| url).or_else(|| bucket.endpoint.clone());
        let host = host.map_or_else(
            || bucket.service.to_string(),
            |url| match (url.host_str().unwrap_or_default(), url.port()) {
                (host, Some(port)) => format!("{host}:{port}"),
                (host, None) => host.to_owned(),
            },
        );
        let kind = if bucket.service == StorageService::Azure { "container" } else { "bucket" };
        let location = format!("{kind} {} at {host}", bucket.bucket);
        let client = build_client(bucket, transfer).map_err(|why| Error::Open(location.clone(), why))?;
        Ok(Self {
            client,
            bucket: bucket.clone(),
            endpoint,
            location,
            transfer,
            orphaned_uploads: OrphanedUploads::default(),
            journal: None,
        })
    }

    /// Address of the folder of the recording `name`, and the endpoint if it is set.
    pub(super) fn recording_location(&self, name: &str) -> (String, Option<String>) {
        (self.bucket.object_url(name), self.endpoint.clone())
    }

    pub(super) fn set_journal(&mut self, journal: Arc<dyn UploadJournal>) {
        self.journal = Some(journal);
    }

    /// Takes over multipart uploads of an earlier process, to abort them.
    pub(super) fn adopt_uploads(&self, uploads: Vec<UnfinishedUpload>) {
        let Some(store) = &self.client.multipart else { return };
        for reference in uploads {
            self.orphaned_uploads.push(OrphanedUpload::of_reference(store, reference));
        }
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) async fn put(
        &self,
        name: &str,
        file: &Path,
        content_type: &str,
    ) -> Result<StoredObject, Error> {
        let key = self.key(name);
        self.abort_orphans(Some(&key)).await;
        let (source, bytes) = open_source(file).await.map_err(|e| Error::source_unreadable(file, e))?;
        let attributes = Attributes::from_iter([(Attribute::ContentType, content_type.to_owned())]);
        if bytes <= self.transfer.part_bytes {
            let content =
                read_part(&source, 0, bytes).await.map_err(|e| Error::source_unreadable(file, e))?;
            return self.put_single(name, content, attributes).await;
        }
        let mut upload = self.create_multipart(name, attributes).await?;
        if let Err(error) = self.send_parts(&mut upload, name, (file, &source, bytes)).await {
            drop(upload);
            self.abort_orphans(Some(&key)).await;
            return Err(error);
        }
        self.end_upload(&mut upload);
        self.verify(name, bytes).await
    }

    /// Creates a multipart upload. It is logged before the request too: if the response is lost, or this
    /// process is killed before it has logged the id, the upload is found by its key.
    async fn create_multipart(&self, name: &str, attributes: Attributes) -> Result<TrackedUpload, Error> {
        let failed = |e| self.to_error("store", name, &e);
        let (key, options) = (self.key(name), PutMultipartOptions { attributes, ..Default::default() });
        let Some(store) = &self.client.multipart else {
            let upload = self.client.store.put_multipart_opts(&key, options).await.map_err(failed)?;
            return Ok(self.orphaned_uploads.track(OrphanedUpload::of_upload(upload)));
        };
        let requested = UnfinishedUpload { key: key.to_string(), upload_id: None };
        // An earlier request may have created an upload that could not be listed yet.
        let has_orphan = self.orphaned_uploads.contains(&requested);
        let mut upload = self.orphaned_uploads.track_none();
        if self.client.listing.is_some() && !has_orphan {
            self.log_started(name, &requested)?;
            upload.replace(OrphanedUpload::of_reference(store, requested.clone()));
        }
        let upload_id = match store.create_multipart_opts(&key, options).await {
            Ok(upload_id) => upload_id,
            Err(error) => {
                if was_not_created(&error) {
                    self.end_upload(&mut upload);
                }
                return Err(failed(error));
            }
        };
        let created = UnfinishedUpload { key: key.to_string(), upload_id: Some(upload_id) };
        upload.replace(OrphanedUpload::of_reference(store, created.clone()));
        self.log_started(name, &created)?;
        if has_orphan {
            self.log_started(name, &requested)?;
        }
        Ok(upload)
    }

    async fn send_parts(
        &self,
        upload: &mut TrackedUpload,
        name: &str,
        (file, source, bytes): (&Path, &Arc<File>, u64),
    ) -> Result<(), Error> {
        let failed = |e| self.to_error("store", name, &e);
        // Dropped before the upload, which the caller holds: no part may arrive after the abort.
        let mut parts = JoinSet::new();
        let part_bytes = self.transfer.part_bytes.max(bytes.div_ceil(MAX_PARTS));
        let sent = async {
            let mut at = 0;
            while at < bytes {
                let length = part_bytes.min(bytes - at);
                let content =
                    read_part(source, at, length).await.map_err(|e| Error::source_unreadable(file, e))?;
                if parts.len() >= self.transfer.max_parallel_parts.max(1) {
                    part_result(parts.join_next().await).map_err(failed)?;
                }
                parts.spawn(upload.inner_mut()?.put_part(PutPayload::from(content)));
                at += length;
            }
            while let Some(part) = parts.join_next().await {
                part_result(Some(part)).map_err(failed)?;
            }
            Ok(())
        };
        let sent: Result<(), Error> = sent.await;
        parts.shutdown().await;
        sent?;
        upload.inner_mut()?.complete().await.map(drop).map_err(failed)
    }

    /// Logs that a multipart upload is requested, or was created.
    fn log_started(&self, name: &str, upload: &UnfinishedUpload) -> Result<(), Error> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.started(upload).map_err(|e| Error::Local(self.attempt("log the upload of", name), e))
    }

    /// Marks a multipart upload as completed or aborted.
    fn end_upload(&self, upload: &mut TrackedUpload) {
        if let (Some(journal), Some(reference)) = (&self.journal, upload.end()) {
            journal.ended(&reference);
        }
    }

    pub(super) async fn put_bytes(
        &self,
        name: &str,
        bytes: Bytes,
        content_type: &str,
        cache_control: Option<&str>,
    ) -> Result<StoredObject, Error> {
        let mut attributes = Attributes::from_iter([(Attribute::ContentType, content_type.to_owned())]);
        if let Some(cache_control) = cache_control {
            attributes.insert(Attribute::CacheControl, cache_control.to_owned().into());
        }
        self.put_single(name, bytes, attributes).await
    }

    async fn put_single(
        &self,
        name: &str,
        bytes: Bytes,
        attributes: Attributes,
    ) -> Result<StoredObject, Error> {
        let length = bytes.len() as u64;
        let options = PutOptions { attributes, ..Default::default() };
        let put = self.client.store.put_opts(&self.key(name), bytes.into(), options).await;
        put.map_err(|e| self.to_error("store", name, &e))?;
        self.verify(name, length).await
    }

    /// Checks the size of the stored object.
    async fn verify(&self, name: &str, bytes: u64) -> Result<StoredObject, Error> {
        let found = self.head(name).await?;
        let mismatch = match found {
            Some(stored) if stored.bytes == bytes => return Ok(stored),
            Some(stored) => {
                format!("size mismatch after upload: sent {bytes} bytes, storage reports {}", stored.bytes)
            }
            None => format!("size mismatch after upload: sent {bytes} bytes, storage reports no such object"),
        };
        Err(Error::Transient(self.attempt("store", name), mismatch))
    }

    pub(super) async fn head(&self, name: &str) -> Result<Option<StoredObject>, Error> {
        match self.client.store.head(&self.key(name)).await {
            Ok(meta) => Ok(Some(StoredObject { bytes: meta.size, etag: meta.e_tag, vod_asset: None })),
            Err(e) if is_not_found(&e) => Ok(None),
            Err(e) => Err(self.to_error("look up", name, &e)),
        }
    }

    pub(super) async fn get(&self, name: &str, max_bytes: usize) -> Result<Option<Bytes>, Error> {
        let mut content = Vec::new();
        let read = self.read_ranges(name, max_bytes as u64, |chunk| {
            content.extend_from_slice(chunk);
            Ok(())
        });
        match read.await {
            Ok(Some(bytes)) if bytes > max_bytes as u64 => {
                Err(Error::Permanent(self.attempt("read", name), too_large(max_bytes)))
            }
            Ok(found) => Ok(found.map(|_| content.into())),
            // An empty object has no range.
            Err(error) => match self.head(name).await? {
                Some(empty) if empty.bytes == 0 => Ok(Some(Bytes::new())),
                _ => Err(error),
            },
        }
    }

    pub(super) async fn download(
        &self,
        name: &str,
        mut to: File,
        max_bytes: u64,
    ) -> Result<Option<u64>, Error> {
        let write = |chunk: &[u8]| {
            to.write_all(chunk).map_err(|e| Error::from_disk_error(self.attempt("read", name), e))
        };
        self.read_ranges(name, max_bytes, write).await
    }

    pub(super) async fn read_range(
        &self,
        name: &str,
        from: u64,
        max: usize,
    ) -> Result<Option<(Bytes, u64)>, Error> {
        let to = from.saturating_add((max as u64).min(RANGE_BYTES));
        let options = GetOptions { range: Some(GetRange::Bounded(from..to)), ..GetOptions::default() };
        let read = async {
            let found = self.client.store.get_opts(&self.key(name), options).await?;
            let size = found.meta.size;
            Ok((found.bytes().await?, size))
        };
        match read.await {
            Ok(found) => Ok(Some(found)),
            Err(e) if is_not_found(&e) => Ok(None),
            // Services refuse ranges behind the end.
            Err(e) => match self.head(name).await? {
                Some(object) if object.bytes <= from => Ok(Some((Bytes::new(), object.bytes))),
                Some(_) => Err(self.to_error("read", name, &e)),
                None => Ok(None),
            },
        }
    }

    /// Reads an object range by range, and stops if it is larger than `max_bytes`. Returns its size; `None`
    /// if there is no such object.
    async fn read_ranges(
        &self,
        name: &str,
        max_bytes: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<Option<u64>, Error> {
        let mut bytes = 0;
        loop {
            let range = Some(GetRange::Bounded(bytes..bytes + RANGE_BYTES));
            let options = GetOptions { range, ..GetOptions::default() };
            let (size, chunk) = match self.client.store.get_opts(&self.key(name), options).await {
                Ok(found) => (found.meta.size, found.bytes().await),
                Err(e) => (0, Err(e)),
            };
            let chunk = match chunk {
                Ok(chunk) if size > max_bytes => return Ok(Some(bytes + size.max(chunk.len() as u64))),
                Ok(chunk) => chunk,
                Err(e) if is_not_found(&e) => return Ok(None),
                Err(e) => return Err(self.to_error("read", name, &e)),
            };
            write(&chunk)?;
            bytes += chunk.len() as u64;
            if bytes >= size || chunk.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    pub(super) async fn list(&self, folder: &str, max: usize) -> Result<Vec<ListedObject>, Error> {
        let root = self.bucket.object_key("");
        let prefix = Key::from(self.bucket.object_key(folder));
        let mut listing = self.client.store.list(Some(&prefix));
        let mut objects = Vec::new();
        while objects.len() < max
            && let Some(found) = listing.try_next().await.map_err(|e| self.to_error("list", folder, &e))?
        {
            let name = found.location.as_ref().strip_prefix(&root).map(str::to_owned);
            let modified_ms = found.last_modified.timestamp_millis();
            objects.extend(name.map(|name| ListedObject { name, bytes: found.size, modified_ms }));
        }
        Ok(objects)
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.client.store.delete(&self.key(name)).await {
            Ok(()) => Ok(()),
            Err(e) if is_not_found(&e) => Ok(()),
            Err(e) => Err(self.to_error("delete", name, &e)),
        }
    }

    pub(super) async fn probe(&self) -> Result<(), Error> {
        let name = probe_name();
        let content = Bytes::from_static(b"Can be deleted: a test of Pagecast.\n");
        self.put_bytes(&name, content, "text/plain", None).await?;
        self.delete(&name).await
    }

    /// Aborts failed multipart uploads; returns how many are left.
    pub(super) async fn abort_orphaned_uploads(&self) -> usize {
        self.abort_orphans(None).await
    }

    /// Aborts failed multipart uploads; returns how many are left. With a key, uploads without an id stay if
    /// they are of other keys: one that is in progress there has the same key.
    async fn abort_orphans(&self, key: Option<&Key>) -> usize {
        let is_due = |orphan: &OrphanedUpload| key.is_none_or(|key| orphan.can_be_aborted_beside(key));
        // Becomes an orphan again if this future is dropped.
        while let Some(mut orphan) = self.orphaned_uploads.take(is_due) {
            if let Err(e) = orphan.abort(self.client.listing.as_ref()).await
                && !is_not_found(&e)
            {
                match self.to_error("abort", "an upload", &e) {
                    Error::Transient(..) => break,
                    error => tracing::warn!(%error, "multipart upload not aborted, needs a lifecycle rule"),
                }
            }
            self.end_upload(&mut orphan);
        }
        self.orphaned_uploads.len()
    }

    fn key(&self, name: &str) -> Key {
        Key::from(self.bucket.object_key(name))
    }

    fn attempt(&self, verb: &'static str, name: &str) -> Attempt {
        Attempt { verb, name: self.bucket.object_key(name), location: self.location.clone() }
    }

    fn to_error(&self, verb: &'static str, name: &str, error: &object_store::Error) -> Error {
        let attempt = self.attempt(verb, name);
        match RequestError::find_in(error) {
            Some(error) => Error::from_request_error(attempt, error),
            // The text may contain an address with a signed query, so it is not quoted.
            None => Error::Transient(attempt, "invalid response".into()),
        }
    }
}

type PartJoinResult = Option<Result<object_store::Result<()>, tokio::task::JoinError>>;

fn part_result(joined: PartJoinResult) -> object_store::Result<()> {
    match joined {
        None => Ok(()),
        Some(Ok(part)) => part,
        Some(Err(source)) => Err(object_store::Error::JoinError { source }),
    }
}

/// Whether an upload whose creation failed with this error certainly does not exist: it was refused, or the
/// request was never sent.
fn was_not_created(error: &object_store::Error) -> bool {
    match RequestError::find_in(error) {
        Some(RequestError::Status { status, .. }) => (400..500).contains(status),
        Some(
            RequestError::Connect(_)
            | RequestError::Resolve(_)
            | RequestError::NoCredentials
            | RequestError::Insecure,
        ) => true,
        _ => false,
    }
}

pub(super) fn is_not_found(error: &object_store::Error) -> bool {
    match RequestError::find_in(error) {
        Some(RequestError::Status { status: 404, code }) => {
            !matches!(code.as_deref(), Some("NoSuchBucket" | "ContainerNotFound"))
        }
        _ => false,
    }
}

async fn open_source(file: &Path) -> io::Result<(Arc<File>, u64)> {
    let file = file.to_owned();
    let opened = spawn_blocking(move || {
        let file = File::open(file)?;
        let bytes = file.metadata()?.len();
        Ok((Arc::new(file), bytes))
    });
    opened.await.map_err(io::Error::other)?
}

async fn read_part(file: &Arc<File>, at: u64, length: u64) -> io::Result<Bytes> {
    let file = file.clone();
    let read = spawn_blocking(move || {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, at)?;
        Ok(Bytes::from(content))
    });
    read.await.map_err(io::Error::other)?
}

/// Applies the environment's emulator to a Google bucket without an endpoint. A bucket from an API request
/// has a network policy and is left alone: it must not reach an address that the request did not name.
fn with_emulator(bucket: &Bucket, emulator: Option<String>) -> Bucket {
    let mut bucket = bucket.clone();
    if bucket.service != StorageService::Gcs || bucket.endpoint.is_some() || bucket.network.is_some() {
        return bucket;
    }
    if let Some(host) = emulator.filter(|host| !host.is_empty()) {
        let address = if host.contains("://") { host } else { format!("http://{host}") };
        let parsed = url::Url::parse(&address).ok();
        bucket.endpoint = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    }
    bucket
}

/// Whether requests to Google Cloud Storage are sent without a token: emulators need none, and the token of
/// this machine's role must not be sent unencrypted.
fn skips_signature(plain: bool, environment: impl Fn(&str) -> Option<String>) -> bool {
    let requested = environment("GOOGLE_SKIP_SIGNATURE").is_some_and(|value| value == "1" || value == "true");
    requested || plain && GCS_KEY_ENVS.iter().all(|name| environment(name).is_none())
}

fn is_account_name(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Makes the client of the service. Error texts contain no secrets.
fn build_client(bucket: &Bucket, transfer: TransferConfig) -> Result<Client, String> {
    let direct = bucket.endpoint.as_ref().is_some_and(is_loopback);
    let resolver = resolver_for_bucket(bucket)?;
    let http = HttpTransport::new(transfer.connect_timeout, transfer.stall_timeout, direct, resolver)
        .map_err(|_| "TLS is not available: install the certificates of authorities (ca-certificates)")?;
    let plain = bucket.endpoint.as_ref().is_some_and(|url| url.scheme() == "http");
    let options = ClientOptions::new().with_allow_http(plain);
    // The uploader owns all retries.
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO };
    let endpoint = bucket.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
    let unusable = |_| "the keys are malformed, or none were given and the environment has none".to_owned();
    match bucket.service {
        StorageService::Gcs => {
            let mut builder = match &bucket.keys {
                Some(keys) => {
                    GoogleCloudStorageBuilder::new().with_service_account_key(keys.secret_key.reveal())
                }
                None => GoogleCloudStorageBuilder::from_env(),
            };
            if let Some(endpoint) = endpoint {
                builder = builder.with_base_url(&endpoint);
            }
            if bucket.keys.is_none() && skips_signature(plain, |name| std::env::var(name).ok()) {
                // Without an empty token the library would still request one of the machine's role.
                let anonymous = GcpCredential { bearer: String::new() };
                let anonymous = Arc::new(StaticCredentialProvider::new(anonymous));
                builder = builder.with_skip_signature(true).with_credentials(anonymous);
            }
            builder = builder.with_bucket_name(&bucket.bucket).with_retry(retry);
            let store = builder.with_client_options(options).with_http_connector(http).build();
            let store = Arc::new(store.map_err(unusable)?);
            Ok(Client { multipart: Some(store.clone()), listing: None, store })
        }
        StorageService::Azure => {
            let mut builder = match &bucket.keys {
                // The account becomes a part of the host name.
                Some(keys) if !is_account_name(keys.access_key.reveal()) => {
                    return Err(
                        "the access key must be a storage account: 3 to 24 lower-case letters and digits"
                            .into(),
                    );
                }
                Some(keys) => MicrosoftAzureBuilder::new()
                    .with_account(keys.access_key.reveal())
                    .with_access_key(keys.secret_key.reveal()),
                None => MicrosoftAzureBuilder::from_env(),
            };
            if let Some(account) = &bucket.account {
                builder = builder.with_account(account);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            builder = builder.with_container_name(&bucket.bucket).with_retry(retry);
            let store = builder.with_client_options(options).with_http_connector(http).build();
            Ok(Client { store: Arc::new(store.map_err(unusable)?), multipart: None, listing: None })
        }
        StorageService::S3 | StorageService::Cos | StorageService::Tos | StorageService::Oss => {
            let builder = s3_builder(bucket).with_retry(retry).with_client_options(options);
            let store = builder.with_http_connector(http.clone()).build();
            let store = Arc::new(store.map_err(unusable)?);
            let listing = UploadListing { signer: store.clone(), http };
            Ok(Client { multipart: Some(store.clone()), listing: Some(listing), store })
        }
    }
}

fn s3_builder(bucket: &Bucket) -> AmazonS3Builder {
    let mut builder = match &bucket.keys {
        Some(keys) => {
            let builder = AmazonS3Builder::new()
                .with_access_key_id(keys.access_key.reveal())
                .with_secret_access_key(keys.secret_key.reveal());
            match keys.session_token.as_ref().map(Secret::reveal) {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        None => AmazonS3Builder::from_env(),
    };
    let region = bucket.region.clone().or_else(|| std::env::var("AWS_REGION").ok());
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some((address, virtual_host)) = bucket.endpoint_url() {
        builder = builder.with_endpoint(address.as_str().trim_end_matches('/'));
        builder = builder.with_virtual_hosted_style_request(virtual_host);
    }
    // All services verify the SHA-256 of the body in the signature; Amazon's own checksum header is not
    // supported by all S3-compatible ones.
    if bucket.service == StorageService::S3 {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    builder.with_bucket_name(&bucket.bucket).with_disable_bulk_delete(true)
}

pub(super) fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulator_applies_to_google_buckets_without_an_endpoint() {
        let endpoint = |service, emulator: &str| {
            let bucket = with_emulator(&Bucket::new(service, "rec"), Some(emulator.to_owned()));
            bucket.endpoint.map(String::from)
        };
        assert_eq!(
            endpoint(StorageService::Gcs, "localhost:4443").as_deref(),
            Some("http://localhost:4443/")
        );
        assert_eq!(endpoint(StorageService::Gcs, "https://gcs.test").as_deref(), Some("https://gcs.test/"));
        assert_eq!(
            (endpoint(StorageService::Gcs, ""), endpoint(StorageService::Gcs, "ftp://a")),
            (None, None)
        );
        assert_eq!(endpoint(StorageService::S3, "localhost:4443"), None);
        let unsigned = |plain, set: &[&str]| {
            skips_signature(plain, |name| set.contains(&name).then(|| "true".to_owned()))
        };
        assert!(unsigned(true, &[]) && !unsigned(false, &[]) && unsigned(false, &["GOOGLE_SKIP_SIGNATURE"]));
        assert!(!unsigned(true, &["GOOGLE_SERVICE_ACCOUNT"]));
        let named = Bucket { network: Some(Default::default()), ..Bucket::new(StorageService::Gcs, "rec") };
        assert_eq!(with_emulator(&named, Some("localhost:4443".into())).endpoint, None);
    }
}
