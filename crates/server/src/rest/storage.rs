//! Where recordings are kept, as it is written here.

use pagecast_core::spec::{Bucket, Secret, Storage, StorageKeys};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::ToSchema;

/// Keys of a storage. They are never shown again: `…` stands for them.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StorageKeys)]
pub(super) struct StorageKeysBody {
    /// Access key; Tencent's SecretId, Azure's account name, an address in Google.
    #[schema(value_type = String)]
    pub(super) access_key: Secret,
    /// Secret key; Azure's account key, Google's key file as JSON.
    #[schema(value_type = String)]
    pub(super) secret_key: Secret,
    /// The token of temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) session_token: Option<Secret>,
}

impl From<StorageKeysBody> for StorageKeys {
    fn from(body: StorageKeysBody) -> Self {
        Self { access_key: body.access_key, secret_key: body.secret_key, session_token: body.session_token }
    }
}

/// The place as text, without its keys: what [`Storage::parse`] reads, but for video on demand.
pub(super) fn storage_url(storage: &Storage) -> String {
    match storage {
        Storage::File(path) | Storage::Folder(path) => path.display().to_string(),
        Storage::TencentVod(_) => "tencent-vod".to_owned(),
        Storage::Bucket(bucket) => bucket_url(bucket),
    }
}

/// The place as an application may see it: folders of the server are none of its business.
pub(super) fn public_url(storage: &Storage) -> Option<String> {
    match storage {
        Storage::File(_) | Storage::Folder(_) => None,
        storage => Some(storage_url(storage)),
    }
}

fn bucket_url(bucket: &Bucket) -> String {
    let mut text = format!("{}://{}", bucket.service.scheme(), bucket.bucket);
    for part in &bucket.prefix {
        text.push('/');
        text.push_str(part);
    }
    let endpoint = bucket.endpoint.as_ref().map(ToString::to_string);
    let path_style = bucket.path_style.map(|is| is.to_string());
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [
        ("region", bucket.region.as_ref()),
        ("endpoint", endpoint.as_ref()),
        ("account", bucket.account.as_ref()),
        ("path-style", path_style.as_ref()),
    ] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() { text } else { format!("{text}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::spec::StorageService;

    #[test]
    fn an_address_says_all_but_the_keys() {
        for text in [
            "s3://recordings",
            "s3://recordings/a/b?region=eu-west-1",
            "gs://recordings",
            "cos://recordings-1250000000/a?region=ap-guangzhou",
            "s3://recordings?region=x&endpoint=http%3A%2F%2F127.0.0.1%3A9000%2F&path-style=true",
            "az://recordings?account=abc",
            "/var/recordings",
        ] {
            let storage = Storage::parse(text).unwrap();
            assert_eq!(storage_url(&storage), text);
            assert_eq!(public_url(&storage).is_some(), text.contains("://"), "{text}");
        }
        let mut bucket = Bucket::new(StorageService::S3, "recordings");
        bucket.keys = Some(StorageKeys::new("planted", "planted"));
        assert!(!storage_url(&Storage::Bucket(bucket)).contains("planted"));
    }
}
