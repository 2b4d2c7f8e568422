//! Buckets of object storages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, RetryConfig, StaticCredentialProvider,
};
use pagecast_core::spec::{Bucket, Secret, StorageService};
use tokio::task::{JoinSet, spawn_blocking};

use super::error::{Attempt, Error};
use super::http::{HttpTransport, RequestError};
use super::resolver::FilteringResolver;
use super::{StoredObject, TransferConfig, probe_name};

/// Parts of an upload: services take 10 000.
const MAX_PARTS: u64 = 9_000;
/// Failed uploads that are remembered until their parts can be taken back. Beyond that the bucket's own rules
/// must do it.
const MAX_ORPHANED_UPLOADS: usize = 64;

/// Where an emulator of Google's storage is, by the name that Google's own libraries know.
const GCS_EMULATOR_ENV: &str = "STORAGE_EMULATOR_HOST";
/// The environment's key files of Google.
const GCS_KEY_ENVS: [&str; 4] = [
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "SERVICE_ACCOUNT",
];

type OrphanedUploads = Arc<Mutex<Vec<Box<dyn MultipartUpload>>>>;

/// A bucket, and the way to it.
pub(super) struct BucketStore {
    store: Arc<dyn ObjectStore>,
    bucket: Bucket,
    location: String,
    transfer: TransferConfig,
    orphaned_uploads: OrphanedUploads,
}

impl std::fmt::Debug for BucketStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl BucketStore {
    pub(super) fn open(bucket: &Bucket, pace: TransferConfig) -> Result<Self, Error> {
        let bucket = &with_emulator(bucket, std::env::var(GCS_EMULATOR_ENV).ok());
        let host = bucket.endpoint_url().map(|(url, _)| url).or_else(|| bucket.endpoint.clone());
        let host = host.map_or_else(
            || bucket.service.to_string(),
            |url| match (url.host_str().unwrap_or_default(), url.port()) {
                (host, Some(port)) => format!("{host}:{port}"),
                (host, None) => host.to_owned(),
            },
        );
        let what = if bucket.service == StorageService::Azure { "container" } else { "bucket" };
        let place = format!("{what} {} at {host}", bucket.bucket);
        let store = build_client(bucket, pace).map_err(|why| Error::Open(place.clone(), why))?;
        Ok(Self {
            store,
            bucket: bucket.clone(),
            location: place,
            transfer: pace,
            orphaned_uploads: OrphanedUploads::default(),
        })
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
        self.abort_orphaned_uploads().await;
        let (source, bytes) = open_source(file).await.map_err(|e| Error::source_unreadable(file, e))?;
        let attributes = Attributes::from_iter([(Attribute::ContentType, content_type.to_owned())]);
        if bytes <= self.transfer.part_bytes {
            let content =
                read_part(&source, 0, bytes).await.map_err(|e| Error::source_unreadable(file, e))?;
            return self.put_single(name, content, attributes).await;
        }
        let sent = self.put_multipart(name, (file, &source, bytes), attributes).await;
        if sent.is_err() {
            self.abort_orphaned_uploads().await;
        }
        sent?;
        self.verify(name, bytes).await
    }

    async fn put_multipart(
        &self,
        name: &str,
        (file, source, bytes): (&Path, &Arc<File>, u64),
        attributes: Attributes,
    ) -> Result<(), Error> {
        let failed = |e| self.to_error("store", name, &e);
        let options = PutMultipartOptions { attributes, ..Default::default() };
        let upload = self.store.put_multipart_opts(&self.key(name), options).await.map_err(failed)?;
        let mut upload =
            TrackedUpload { upload: Some(upload), orphaned_uploads: self.orphaned_uploads.clone() };
        // Dropped before the upload is: parts must not arrive when it is taken back.
        let mut under_way = JoinSet::new();
        let part_bytes = self.transfer.part_bytes.max(bytes.div_ceil(MAX_PARTS));
        let sent = async {
            let mut at = 0;
            while at < bytes {
                let length = part_bytes.min(bytes - at);
                let content =
                    read_part(source, at, length).await.map_err(|e| Error::source_unreadable(file, e))?;
                if under_way.len() >= self.transfer.max_parallel_parts.max(1) {
                    part_result(under_way.join_next().await).map_err(failed)?;
                }
                under_way.spawn(upload.inner_mut()?.put_part(PutPayload::from(content)));
                at += length;
            }
            while let Some(part) = under_way.join_next().await {
                part_result(Some(part)).map_err(failed)?;
            }
            Ok(())
        };
        let sent: Result<(), Error> = sent.await;
        under_way.shutdown().await;
        sent?;
        upload.inner_mut()?.complete().await.map_err(failed)?;
        upload.upload = None;
        Ok(())
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
        let put = self.store.put_opts(&self.key(name), bytes.into(), options).await;
        put.map_err(|e| self.to_error("store", name, &e))?;
        self.verify(name, length).await
    }

    /// Asks for what was stored.
    async fn verify(&self, name: &str, bytes: u64) -> Result<StoredObject, Error> {
        let found = self.head(name).await?;
        let wrong = match found {
            Some(stored) if stored.bytes == bytes => return Ok(stored),
            Some(stored) => format!("it took {bytes} bytes and says now that there are {}", stored.bytes),
            None => "it took all of it and says now that there is nothing".to_owned(),
        };
        Err(Error::Transient(self.attempt("store", name), wrong))
    }

    pub(super) async fn head(&self, name: &str) -> Result<Option<StoredObject>, Error> {
        match self.store.head(&self.key(name)).await {
            Ok(meta) => Ok(Some(StoredObject { bytes: meta.size, etag: meta.e_tag, vod_asset: None })),
            Err(e) if is_not_found(&e) => Ok(None),
            Err(e) => Err(self.to_error("look for", name, &e)),
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&self.key(name)).await {
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

    /// Takes back parts of failed uploads, and says how many uploads are left.
    pub(super) async fn abort_orphaned_uploads(&self) -> usize {
        loop {
            let Some(upload) = lock(&self.orphaned_uploads).pop() else { return 0 };
            // Remembered again if this is given up.
            let mut orphan =
                TrackedUpload { upload: Some(upload), orphaned_uploads: self.orphaned_uploads.clone() };
            let Ok(upload) = orphan.inner_mut() else { continue };
            if let Err(e) = upload.abort().await
                && !is_not_found(&e)
            {
                match self.to_error("take back the parts of", "an upload", &e) {
                    Error::Transient(..) => break,
                    for_ever => tracing::warn!("{for_ever}; a rule of the bucket should delete them"),
                }
            }
            orphan.upload = None;
        }
        lock(&self.orphaned_uploads).len()
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
            Some(fault) => Error::from_request_error(attempt, fault),
            // Its words may hold an address with a signed query: say nothing of it.
            None => Error::Transient(attempt, "its answer makes no sense".into()),
        }
    }
}

fn lock(orphans: &OrphanedUploads) -> std::sync::MutexGuard<'_, Vec<Box<dyn MultipartUpload>>> {
    orphans.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An upload in parts; one that is dropped before its end is remembered, to be taken back.
struct TrackedUpload {
    upload: Option<Box<dyn MultipartUpload>>,
    orphaned_uploads: OrphanedUploads,
}

impl TrackedUpload {
    fn inner_mut(&mut self) -> Result<&mut Box<dyn MultipartUpload>, Error> {
        self.upload.as_mut().ok_or_else(|| Error::Open("this upload".into(), "it is over".into()))
    }
}

impl Drop for TrackedUpload {
    fn drop(&mut self) {
        let mut orphans = lock(&self.orphaned_uploads);
        if let Some(upload) = self.upload.take()
            && orphans.len() < MAX_ORPHANED_UPLOADS
        {
            orphans.push(upload);
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

fn is_not_found(error: &object_store::Error) -> bool {
    let plain =
        |code: &Option<String>| !matches!(code.as_deref(), Some("NoSuchBucket" | "ContainerNotFound"));
    matches!(RequestError::find_in(error), Some(RequestError::Status { status: 404, code }) if plain(code))
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

/// The bucket in the emulator that the environment names, if it is one of Google and says nothing else. What
/// a request named is left alone: its network would be held to something that it did not name.
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

/// Whether requests to Google's storage carry no token. An emulator wants none; and the token of this
/// machine's role is sent to nobody without encryption.
fn skips_signature(plain: bool, environment: impl Fn(&str) -> Option<String>) -> bool {
    let asked = environment("GOOGLE_SKIP_SIGNATURE").is_some_and(|value| value == "1" || value == "true");
    asked || plain && GCS_KEY_ENVS.iter().all(|name| environment(name).is_none())
}

fn is_account_name(name: &str) -> bool {
    (3..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// A client of the service. Errors are in words that hold nothing secret.
fn build_client(bucket: &Bucket, pace: TransferConfig) -> Result<Arc<dyn ObjectStore>, String> {
    let direct = bucket.endpoint.as_ref().is_some_and(is_loopback);
    let guard = FilteringResolver::for_bucket(bucket)?;
    let http = HttpTransport::new(pace.connect_timeout, pace.stall_timeout, direct, guard).map_err(
        |_| "no TLS is possible: are the certificates of authorities installed (ca-certificates)?",
    )?;
    let plain = bucket.endpoint.as_ref().is_some_and(|url| url.scheme() == "http");
    let options = ClientOptions::new().with_allow_http(plain);
    // Whoever uploads decides about another try.
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO };
    let endpoint = bucket.endpoint.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
    let unusable = |_| "its keys cannot be read, or none are given and the environment has none".to_owned();
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
                // The library asks the machine's role for a token all the same when it stores, unless it is
                // given an empty one.
                let nobody = GcpCredential { bearer: String::new() };
                let nobody = Arc::new(StaticCredentialProvider::new(nobody));
                builder = builder.with_skip_signature(true).with_credentials(nobody);
            }
            builder = builder.with_bucket_name(&bucket.bucket).with_retry(retry);
            let store = builder.with_client_options(options).with_http_connector(http).build();
            Ok(Arc::new(store.map_err(unusable)?))
        }
        StorageService::Azure => {
            let mut builder = match &bucket.keys {
                // It becomes a part of the host's name.
                Some(keys) if !is_account_name(keys.access_key.reveal()) => {
                    return Err(
                        "its access key is no storage account: 3 to 24 small letters and digits are".into()
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
            Ok(Arc::new(store.map_err(unusable)?))
        }
        StorageService::S3 | StorageService::Cos | StorageService::Tos | StorageService::Oss => {
            let builder = s3_builder(bucket).with_retry(retry).with_client_options(options);
            let store = builder.with_http_connector(http).build();
            Ok(Arc::new(store.map_err(unusable)?))
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
    // The signature holds the body's SHA-256 everywhere; Amazon's own header is not known to all that speak
    // its protocol.
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
    fn an_emulator_of_the_environment_is_for_google_and_for_who_named_no_server() {
        let place = |service, emulator: &str| {
            let bucket = with_emulator(&Bucket::new(service, "rec"), Some(emulator.to_owned()));
            bucket.endpoint.map(String::from)
        };
        assert_eq!(place(StorageService::Gcs, "localhost:4443").as_deref(), Some("http://localhost:4443/"));
        assert_eq!(place(StorageService::Gcs, "https://gcs.test").as_deref(), Some("https://gcs.test/"));
        assert_eq!((place(StorageService::Gcs, ""), place(StorageService::Gcs, "ftp://a")), (None, None));
        assert_eq!(place(StorageService::S3, "localhost:4443"), None);
        let unsigned = |plain, set: &[&str]| {
            skips_signature(plain, |name| set.contains(&name).then(|| "true".to_owned()))
        };
        assert!(unsigned(true, &[]) && !unsigned(false, &[]) && unsigned(false, &["GOOGLE_SKIP_SIGNATURE"]));
        assert!(!unsigned(true, &["GOOGLE_SERVICE_ACCOUNT"]));
        let named = Bucket { network: Some(Default::default()), ..Bucket::new(StorageService::Gcs, "rec") };
        assert_eq!(with_emulator(&named, Some("localhost:4443".into())).endpoint, None);
    }
}
