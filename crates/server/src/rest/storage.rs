//! Storages as the REST API writes them.

use pagecast_core::spec::{Bucket, Secret, Storage, StorageKeys};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::ToSchema;

/// Keys of a storage. Responses show `…` instead of each key.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = StorageKeys)]
pub(super) struct StorageKeysBody {
    /// Access key; SecretId (Tencent), account name (Azure), e-mail address (Google).
    #[schema(value_type = String)]
    pub(super) access_key: Secret,
    /// Secret key; account key (Azure), key file as JSON (Google).
    #[schema(value_type = String)]
    pub(super) secret_key: Secret,
    /// Session token of temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(super) session_token: Option<Secret>,
}

impl From<StorageKeysBody> for StorageKeys {
    fn from(body: StorageKeysBody) -> Self {
        Self { access_key: body.access_key, secret_key: body.secret_key, session_token: body.session_token }
    }
}

/// Address of a storage without its keys, in the format of [`Storage::parse`], except for video on demand.
pub(super) fn storage_url(storage: &Storage) -> String {
    match storage {
        Storage::File(path) | Storage::Folder(path) => path.display().to_string(),
        Storage::TencentVod(_) => "tencent-vod".to_owned(),
        Storage::Bucket(bucket) => bucket_url(bucket),
    }
}

/// Address of a storage that an application may see; `None` for folders of the server.
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
    fn an_address_contains_everything_but_the_keys() {
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
