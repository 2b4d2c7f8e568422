//! Storages of an application's recordings.

use std::path::PathBuf;

use pagecast_core::spec::{self, Bucket, Secret, Storage};
use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};
use utoipa::ToSchema;

use super::settings::url_text;

/// Default storage of recordings, and endpoints of the vendors' object storages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageDefaults {
    /// Storage of recordings whose request names none. Without it, they are stored in the data folder.
    pub default: Option<StorageLocation>,
    /// Bucket for recordings whose own storage fails.
    pub backup: Option<StorageLocation>,
    /// Local folder that replaces the vendors' object storages: `CloudStorage` is then stored in
    /// `BUCKET/PREFIX` below it.
    #[schema(value_type = Option<String>)]
    pub buckets_dir: Option<PathBuf>,
    /// S3 endpoint with path-style buckets that replaces Tencent's for `CloudStorage` with `Vendor` 0 (COS).
    #[serde(deserialize_with = "endpoint")]
    #[schema(value_type = Option<String>)]
    pub cos_endpoint: Option<Url>,
    /// Endpoint that replaces Amazon's for `CloudStorage` with `Vendor` 1 (S3).
    #[serde(deserialize_with = "endpoint")]
    #[schema(value_type = Option<String>)]
    pub s3_endpoint: Option<Url>,
    /// Endpoint that replaces Tencent's for `CloudVod`.
    #[serde(deserialize_with = "endpoint")]
    #[schema(value_type = Option<String>)]
    pub vod_endpoint: Option<Url>,
    /// Access key for video on demand. `CloudVod` carries none.
    pub vod_keys: Option<VodKeys>,
}

/// Location of recordings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageLocation {
    /// Folder of the server, or `s3://BUCKET/PREFIX?region=…&endpoint=…&path-style=true`, or `gs://`,
    /// `az://`, `cos://`, `tos://`, `oss://`.
    #[serde(with = "address")]
    #[schema(value_type = String)]
    pub to: Storage,
    /// Access keys. Without them, those of the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or of the
    /// machine's role are used.
    #[serde(default)]
    pub keys: Option<StorageKeys>,
}

/// Access keys of a storage. Responses show `…` instead of each key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageKeys {
    /// Access key: Tencent's SecretId, Azure's account name, Google's client email.
    #[schema(value_type = String)]
    pub access_key: Secret,
    /// Secret key: Azure's account key, Google's key file as JSON.
    #[schema(value_type = String)]
    pub secret_key: Secret,
    /// Session token of temporary keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub session_token: Option<Secret>,
}

/// Access key for video on demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VodKeys {
    /// SecretId, 1 to 128 letters, digits and `_ - .`
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,128}$")]
    pub id: String,
    /// SecretKey of the id.
    #[schema(value_type = String)]
    pub secret: Secret,
}

impl StorageLocation {
    /// The storage in the description of a cast.
    #[must_use]
    pub fn to_spec(&self) -> Storage {
        let mut storage = self.to.clone();
        if let Some(keys) = storage.keys_mut() {
            *keys = self.keys.clone().map(Into::into);
        }
        storage
    }
}

impl From<Storage> for StorageLocation {
    fn from(storage: Storage) -> Self {
        let keys = storage.clone().keys_mut().and_then(Option::take);
        Self { to: storage.without_keys(), keys: keys.map(Into::into) }
    }
}

impl From<StorageKeys> for spec::StorageKeys {
    fn from(StorageKeys { access_key, secret_key, session_token }: StorageKeys) -> Self {
        Self { access_key, secret_key, session_token }
    }
}

impl From<spec::StorageKeys> for StorageKeys {
    fn from(keys: spec::StorageKeys) -> Self {
        let spec::StorageKeys { access_key, secret_key, session_token } = keys;
        Self { access_key, secret_key, session_token }
    }
}

/// The form of [`StorageLocation::to`].
mod address {
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    use super::{Deserialize as _, Storage, storage_url};

    pub(super) fn serialize<S: Serializer>(storage: &Storage, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&storage_url(storage))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Storage, D::Error> {
        Storage::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn endpoint<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    #[derive(Deserialize)]
    struct Endpoint(#[serde(with = "url_text")] Url);
    Ok(Option::<Endpoint>::deserialize(deserializer)?.map(|endpoint| endpoint.0))
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
pub(crate) fn public_url(storage: &Storage) -> Option<String> {
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
        bucket.keys = Some(spec::StorageKeys::new("planted", "planted"));
        let storage = Storage::Bucket(bucket);
        assert!(!storage_url(&storage).contains("planted"));
        assert_eq!(StorageLocation::from(storage.clone()).to_spec(), storage);
    }
}
