//! The storage of the S3 server: `s3s-fs`, and the list of multipart uploads that it lacks.

use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsV2Input,
    ListObjectsV2Output, MultipartUpload, PutObjectInput, PutObjectOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use super::{CreatedUpload, ServerState, lock};

pub(super) struct ListedFiles {
    pub(super) files: Arc<FileSystem>,
    pub(super) state: Arc<ServerState>,
}

/// Carries out a request in a task of its own: as on a real server, it ends even if the client goes away.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = S3Result<S3Response<T>>> + Send + 'static,
) -> S3Result<S3Response<T>> {
    tokio::spawn(work).await.map_err(|_| s3_error!(InternalError))?
}

#[async_trait::async_trait]
impl S3 for ListedFiles {
    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (files, state) = (self.files.clone(), self.state.clone());
        detached(async move {
            let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
            let response = files.create_multipart_upload(request).await?;
            if let Some(id) = response.output.upload_id.clone() {
                lock(&state.uploads).push(CreatedUpload { bucket, key, id });
            }
            Ok(response)
        })
        .await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let prefix = request.input.prefix.as_deref().unwrap_or_default();
        let found =
            |upload: &&CreatedUpload| upload.bucket == request.input.bucket && upload.key.starts_with(prefix);
        let describe = |upload: &CreatedUpload| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(upload.id.clone()),
            ..Default::default()
        };
        let uploads = lock(&self.state.uploads).iter().filter(found).map(describe).collect();
        let bucket = Some(request.input.bucket.clone());
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket,
            uploads: Some(uploads),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let (files, state) = (self.files.clone(), self.state.clone());
        detached(async move {
            let id = request.input.upload_id.clone();
            let response = files.complete_multipart_upload(request).await?;
            lock(&state.uploads).retain(|upload| upload.id != id);
            Ok(response)
        })
        .await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let (files, state) = (self.files.clone(), self.state.clone());
        detached(async move {
            let id = request.input.upload_id.clone();
            let response = files.abort_multipart_upload(request).await?;
            lock(&state.uploads).retain(|upload| upload.id != id);
            Ok(response)
        })
        .await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(request).await
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.files.put_object(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }
}
