//! Multipart uploads that are not complete: those in progress, and those that failed and are not aborted yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{MultipartUpload, PutPayload, PutResult, UploadPart};
use serde::Deserialize;

use super::UnfinishedUpload;
use super::bucket::is_not_found;
use super::error::Error;
use super::http::{HttpTransport, RequestError};

/// Failed multipart uploads that are kept until they can be aborted. Full: the bucket's lifecycle rules must
/// delete further ones.
const MAX_ORPHANED_UPLOADS: usize = 64;
/// How long the signature of a listing is valid: long enough for a clock that is a little wrong.
const SIGNATURE_VALIDITY: Duration = Duration::from_secs(300);

/// A multipart upload that is neither complete nor aborted.
pub(super) struct OrphanedUpload {
    target: AbortTarget,
    reference: Option<UnfinishedUpload>,
}

/// What is aborted.
enum AbortTarget {
    /// This upload.
    Upload(Box<dyn MultipartUpload>),
    /// All uploads of the key: the id of the one that was requested never arrived.
    Key(Arc<dyn MultipartStore>, Key),
}

impl OrphanedUpload {
    /// An upload that only this process can abort.
    pub(super) fn of_upload(upload: Box<dyn MultipartUpload>) -> Self {
        Self { target: AbortTarget::Upload(upload), reference: None }
    }

    /// An upload that this process or an earlier one has logged.
    pub(super) fn of_reference(store: &Arc<dyn MultipartStore>, reference: UnfinishedUpload) -> Self {
        let key = Key::parse(&reference.key).unwrap_or_else(|_| Key::from(reference.key.as_str()));
        let store = Arc::clone(store);
        let target = match &reference.upload_id {
            Some(id) => AbortTarget::Upload(Box::new(IdentifiedUpload::new(store, key, id.clone()))),
            None => AbortTarget::Key(store, key),
        };
        Self { target, reference: Some(reference) }
    }

    /// Whether it can be aborted before an upload of `key`, while other keys are uploaded.
    pub(super) fn can_be_aborted_beside(&self, key: &Key) -> bool {
        match &self.target {
            AbortTarget::Upload(_) => true,
            AbortTarget::Key(_, own) => own == key,
        }
    }
}

/// Uploads that wait to be aborted.
#[derive(Clone, Default)]
pub(super) struct OrphanedUploads(Arc<Mutex<Vec<OrphanedUpload>>>);

impl OrphanedUploads {
    fn lock(&self) -> MutexGuard<'_, Vec<OrphanedUpload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn contains(&self, reference: &UnfinishedUpload) -> bool {
        self.lock().iter().any(|orphan| orphan.reference.as_ref() == Some(reference))
    }

    /// Adds an upload, unless it is there or there are too many.
    pub(super) fn push(&self, orphan: OrphanedUpload) {
        let known = orphan.reference.as_ref().is_some_and(|reference| self.contains(reference));
        let mut orphans = self.lock();
        if !known && orphans.len() < MAX_ORPHANED_UPLOADS {
            orphans.push(orphan);
        }
    }

    /// Takes the latest upload that is due.
    pub(super) fn take(&self, is_due: impl Fn(&OrphanedUpload) -> bool) -> Option<TrackedUpload> {
        let mut orphans = self.lock();
        let at = orphans.iter().rposition(is_due)?;
        let orphan = orphans.remove(at);
        drop(orphans);
        Some(self.track(orphan))
    }

    /// Returns an upload to this list if it is dropped before its end.
    pub(super) fn track(&self, upload: OrphanedUpload) -> TrackedUpload {
        TrackedUpload { upload: Some(upload), orphaned_uploads: self.clone() }
    }

    /// A tracked upload that does not exist yet.
    pub(super) fn track_none(&self) -> TrackedUpload {
        TrackedUpload { upload: None, orphaned_uploads: self.clone() }
    }
}

/// A multipart upload that becomes an orphan if it is dropped before its end.
pub(super) struct TrackedUpload {
    upload: Option<OrphanedUpload>,
    orphaned_uploads: OrphanedUploads,
}

impl TrackedUpload {
    /// Tracks the upload that was created instead of the request for it.
    pub(super) fn replace(&mut self, created: OrphanedUpload) {
        self.upload = Some(created);
    }

    /// The upload, to send parts.
    pub(super) fn inner_mut(&mut self) -> Result<&mut Box<dyn MultipartUpload>, Error> {
        match &mut self.upload {
            Some(OrphanedUpload { target: AbortTarget::Upload(upload), .. }) => Ok(upload),
            _ => Err(Error::Open("this upload".into(), "it has ended".into())),
        }
    }

    /// Aborts it. `listing` finds the ids of a key.
    pub(super) async fn abort(&mut self, listing: Option<&UploadListing>) -> object_store::Result<()> {
        match (self.upload.as_mut().map(|upload| &mut upload.target), listing) {
            (Some(AbortTarget::Upload(upload)), _) => upload.abort().await,
            (Some(AbortTarget::Key(store, key)), Some(listing)) => {
                for id in listing.upload_ids(key).await? {
                    let aborted = store.abort_multipart(key, &id).await;
                    aborted.or_else(|e| if is_not_found(&e) { Ok(()) } else { Err(e) })?;
                }
                Ok(())
            }
            (Some(AbortTarget::Key(..)) | None, _) => Ok(()),
        }
    }

    /// Stops tracking it: it was completed or aborted. Returns how it was logged.
    pub(super) fn end(&mut self) -> Option<UnfinishedUpload> {
        self.upload.take()?.reference
    }
}

impl Drop for TrackedUpload {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.orphaned_uploads.push(upload);
        }
    }
}

/// Lists the multipart uploads of a bucket. The library has no call for it, but signs the request.
pub(super) struct UploadListing {
    pub(super) signer: Arc<dyn Signer>,
    pub(super) http: HttpTransport,
}

/// Response of `ListMultipartUploads`.
#[derive(Debug, Deserialize)]
struct UploadList {
    #[serde(rename = "Upload", default)]
    uploads: Vec<ListedUpload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedUpload {
    key: String,
    upload_id: String,
}

impl UploadListing {
    /// Ids of the uploads of this key: of the first page, which has up to 1000.
    async fn upload_ids(&self, key: &Key) -> object_store::Result<Vec<String>> {
        let query = SignedUrlOptions::new().with_query([("uploads", ""), ("prefix", key.as_ref())]);
        let bucket = Key::default();
        let url = self.signer.signed_url_opts(Method::GET, &bucket, SIGNATURE_VALIDITY, &query).await?;
        let request = reqwest::Request::new(Method::GET, url);
        let sent = self.http.send(request, Default::default()).await;
        sent.and_then(|(_, answer)| upload_ids_of(&answer, key.as_ref()))
            .map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
    }
}

fn upload_ids_of(answer: &[u8], key: &str) -> Result<Vec<String>, RequestError> {
    let text = str::from_utf8(answer).map_err(|_| RequestError::NoListing)?;
    let list: UploadList = quick_xml::de::from_str(text).map_err(|_| RequestError::NoListing)?;
    // A prefix has longer keys, too.
    let of_key = list.uploads.into_iter().filter(|upload| upload.key == key);
    Ok(of_key.map(|upload| upload.upload_id).collect())
}

/// A multipart upload with a known id.
struct IdentifiedUpload {
    store: Arc<dyn MultipartStore>,
    key: Key,
    upload_id: String,
    parts: Arc<Mutex<Vec<Option<PartId>>>>,
}

impl std::fmt::Debug for IdentifiedUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentifiedUpload").field("key", &self.key).finish_non_exhaustive()
    }
}

impl IdentifiedUpload {
    fn new(store: Arc<dyn MultipartStore>, key: Key, upload_id: String) -> Self {
        Self { store, key, upload_id, parts: Arc::default() }
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Option<PartId>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl MultipartUpload for IdentifiedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = {
            let mut parts = self.parts();
            parts.push(None);
            parts.len() - 1
        };
        let (store, key, id) = (Arc::clone(&self.store), self.key.clone(), self.upload_id.clone());
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            let part = store.put_part(&key, &id, index, data).await?;
            parts.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let parts: Option<Vec<_>> = self.parts().iter().cloned().collect();
        let missing =
            || object_store::Error::Generic { store: "multipart", source: "a part is missing".into() };
        self.store.complete_multipart(&self.key, &self.upload_id, parts.ok_or_else(missing)?).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.store.abort_multipart(&self.key, &self.upload_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_of_the_key_are_found_in_a_listing() {
        let upload = |key, id| format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Owner/></Upload>");
        let uploads = upload("a/b.mp4", "1") + &upload("a/b.mp4.jpg", "2") + &upload("a/b.mp4", "3~4");
        let answer = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <ListMultipartUploadsResult xmlns=\"http://s3.example/\">\
             <Bucket>rec</Bucket><Prefix>a/b.mp4</Prefix>{uploads}<IsTruncated>false</IsTruncated>\
             </ListMultipartUploadsResult>"
        );
        assert_eq!(upload_ids_of(answer.as_bytes(), "a/b.mp4").unwrap(), ["1", "3~4"]);
        let none = b"<ListMultipartUploadsResult><Bucket>rec</Bucket></ListMultipartUploadsResult>";
        assert!(upload_ids_of(none, "a/b.mp4").unwrap().is_empty());
        for bad in [&b"<html><body>hello</body>"[..], b"{}", b"\xff"] {
            assert!(upload_ids_of(bad, "a/b.mp4").is_err(), "{bad:?}");
        }
    }
}
