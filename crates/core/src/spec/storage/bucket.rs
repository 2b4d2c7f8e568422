//! Buckets of object storage services, and their addresses.

use std::fmt;

use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::super::{NetworkPolicy, Secret};
use super::{
    MAX_PREFIX_LEN, StorageError, is_dns_label, is_path_component, validate_endpoint,
    validate_endpoint_with_path,
};

/// Longest access key, in bytes. The longest in practice is Google's key file, with about 2400 bytes.
const MAX_KEY_LEN: usize = 16 * 1024;

/// A bucket and a prefix in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Service of the bucket.
    pub service: StorageService,
    /// Name of the bucket; in Azure, of the container.
    pub bucket: String,
    /// Folders within the bucket, each 1 to 200 of `a–z A–Z 0–9 . _ -`, at most 400 characters in all.
    #[serde(default)]
    pub prefix: Vec<String>,
    /// Region of the bucket, like `ap-guangzhou`. `None` means that of the environment (`AWS_REGION`), or
    /// that the service has no regions.
    #[serde(default)]
    pub region: Option<String>,
    /// Server to use instead of the service's own, http or https. For Azure it may have a path, like
    /// `http://127.0.0.1:10000/devstoreaccount1`.
    #[serde(default)]
    pub endpoint: Option<Url>,
    /// Storage account, for Azure only. `None` means that of the environment.
    #[serde(default)]
    pub account: Option<String>,
    /// Whether the bucket is in the path of requests rather than in the host name. `None` means the service's
    /// default.
    #[serde(default)]
    pub path_style: Option<bool>,
    /// Access keys. `None` means those of the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or of the
    /// machine's role.
    #[serde(default)]
    pub keys: Option<StorageKeys>,
    /// Network policy for an endpoint that a request named. `None` means no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkPolicy>,
}

/// Access keys of a storage service; `Debug` redacts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageKeys {
    /// Access key: Tencent's SecretId, Azure's account name, Google's client email.
    pub access_key: Secret,
    /// Secret key: Azure's account key, Google's key file as JSON.
    pub secret_key: Secret,
    /// Session token of temporary keys.
    #[serde(default)]
    pub session_token: Option<Secret>,
}

/// An object storage service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageService {
    /// Amazon S3 or, with an endpoint, any compatible server (MinIO, Ceph, R2).
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Tencent Cloud Object Storage.
    Cos,
    /// Volcengine Tinder Object Storage.
    Tos,
    /// Alibaba Cloud Object Storage Service.
    Oss,
}

impl StorageService {
    /// All services.
    pub const ALL: [Self; 6] = [Self::S3, Self::Gcs, Self::Azure, Self::Cos, Self::Tos, Self::Oss];

    /// Service of a `Vendor` number of Tencent's API: 0 is COS, 1 is S3, others are not assigned.
    #[must_use]
    pub fn from_tencent_vendor(vendor: u64) -> Option<Self> {
        match vendor {
            0 => Some(Self::Cos),
            1 => Some(Self::S3),
            _ => None,
        }
    }

    /// Scheme of the addresses of its buckets, before `://`.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
            Self::Cos => "cos",
            Self::Tos => "tos",
            Self::Oss => "oss",
        }
    }

    /// Host of the service's S3 API in a region, without the bucket; `None` if it has no S3 API.
    #[must_use]
    pub fn s3_host(self, region: &str) -> Option<String> {
        Some(match self {
            Self::S3 if region.starts_with("cn-") => format!("s3.{region}.amazonaws.com.cn"),
            Self::S3 => format!("s3.{region}.amazonaws.com"),
            Self::Cos => format!("cos.{region}.myqcloud.com"),
            Self::Tos => format!("tos-s3-{region}.volces.com"),
            Self::Oss => format!("oss-{region}.aliyuncs.com"),
            Self::Gcs | Self::Azure => return None,
        })
    }

    /// Whether the service requires the bucket in the host name.
    fn requires_virtual_hosted_style(self) -> bool {
        matches!(self, Self::Cos | Self::Tos | Self::Oss)
    }

    pub(super) fn example_region(self) -> &'static str {
        match self {
            Self::Cos => "ap-guangzhou",
            Self::Tos => "cn-beijing",
            Self::Oss => "cn-hangzhou",
            Self::S3 | Self::Gcs | Self::Azure => "us-east-1",
        }
    }
}

impl fmt::Display for StorageService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3 => "S3",
            Self::Gcs => "Google Cloud Storage",
            Self::Azure => "Azure",
            Self::Cos => "Tencent COS",
            Self::Tos => "Volcengine TOS",
            Self::Oss => "Alibaba OSS",
        })
    }
}

impl Bucket {
    /// Creates a bucket with default settings.
    #[must_use]
    pub fn new(service: StorageService, bucket: impl Into<String>) -> Self {
        Self {
            service,
            bucket: bucket.into(),
            prefix: Vec::new(),
            region: None,
            endpoint: None,
            account: None,
            path_style: None,
            keys: None,
            network: None,
        }
    }

    pub(super) fn parse(scheme: &str, rest: &str) -> Result<Self, StorageError> {
        let service = StorageService::ALL.into_iter().find(|service| service.scheme() == scheme);
        let Some(service) = service else {
            return Err(StorageError::Scheme(scheme.chars().take(16).collect()));
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err(StorageError::KeysInAddress);
        }
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let mut parsed = Self::new(service, bucket);
        if !prefix.is_empty() {
            parsed.prefix = prefix.split('/').map(str::to_owned).collect();
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "region" => parsed.region = Some(value.into_owned()),
                "account" => parsed.account = Some(value.into_owned()),
                "endpoint" => {
                    parsed.endpoint = Some(Url::parse(&value).map_err(|_| StorageError::Endpoint)?);
                }
                "path-style" => {
                    let value = value.parse().map_err(|_| StorageError::Parameter(name.into_owned()))?;
                    parsed.path_style = Some(value);
                }
                other => return Err(StorageError::Parameter(other.chars().take(32).collect())),
            }
        }
        Ok(parsed)
    }

    pub(super) fn validate(&self) -> Result<(), StorageError> {
        self.validate_name()?;
        if let Some(part) = self.prefix.iter().find(|part| !is_path_component(part)) {
            return Err(StorageError::Prefix(part.chars().take(64).collect()));
        }
        let length = self.prefix.iter().map(|part| part.len() + 1).sum::<usize>().saturating_sub(1);
        if length > MAX_PREFIX_LEN {
            return Err(StorageError::PrefixLength(length));
        }
        if let Some(region) = self.region.as_deref().filter(|region| !is_dns_label(region)) {
            return Err(StorageError::Region(region.chars().take(64).collect()));
        }
        if let Some(endpoint) = &self.endpoint {
            match self.service {
                StorageService::Azure => validate_endpoint_with_path(endpoint)?,
                _ => validate_endpoint(endpoint)?,
            }
        } else if self.service.requires_virtual_hosted_style() && self.region.is_none() {
            return Err(StorageError::NoRegion(self.service));
        }
        let account = |a: &&str| !((3..=24).contains(&a.len()) && is_dns_label(a) && !a.contains('-'));
        if let Some(account) = self.account.as_deref().filter(account) {
            return Err(StorageError::Account(account.chars().take(64).collect()));
        }
        let Some(keys) = &self.keys else { return Ok(()) };
        // Azure's account becomes a part of the host name.
        if self.service == StorageService::Azure && account(&keys.access_key.reveal()) {
            return Err(StorageError::Keys("Azure's access key must be the name of the storage account"));
        }
        keys.validate()
    }

    fn validate_name(&self) -> Result<(), StorageError> {
        let (longest, more, shape) = match self.service {
            StorageService::S3 => (63, &b".-"[..], "3 to 63 lower-case letters, digits, - and ."),
            StorageService::Gcs => (222, &b"._-"[..], "3 to 222 lower-case letters, digits, -, _ and ."),
            StorageService::Cos => {
                (63, &b"-"[..], "its name and the application's number, like recordings-1250000000")
            }
            StorageService::Azure | StorageService::Tos | StorageService::Oss => {
                (63, &b"-"[..], "3 to 63 lower-case letters, digits and -")
            }
        };
        let name = &self.bucket;
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ends_well = |c: Option<u8>| c.is_some_and(plain);
        let good = (3..=longest).contains(&name.len())
            && name.bytes().all(|c| plain(c) || more.contains(&c))
            && ends_well(name.bytes().next())
            && ends_well(name.bytes().last())
            && !name.contains("..");
        if good {
            return Ok(());
        }
        Err(StorageError::Bucket { name: name.chars().take(64).collect(), service: self.service, shape })
    }

    /// Address of the bucket's S3 API, and whether the bucket is in its host name. `None` if the service has
    /// no S3 API, or if the region is in the environment.
    #[must_use]
    pub fn endpoint_url(&self) -> Option<(Url, bool)> {
        let own = || Url::parse(&format!("https://{}", self.service.s3_host(self.region.as_deref()?)?)).ok();
        let mut url = self.endpoint.clone().or_else(own)?;
        // The services' wildcard certificates cover one level of names, so a bucket with a dot cannot be a
        // host name.
        let by_itself = self.service.requires_virtual_hosted_style() || !self.bucket.contains('.');
        let path_style = self.path_style.unwrap_or(self.endpoint.is_some() || !by_itself);
        if !path_style {
            let host = format!("{}.{}", self.bucket, url.host_str()?);
            url.set_host(Some(&host)).ok()?;
        }
        Some((url, !path_style))
    }

    /// Address of an object below the prefix, like `s3://BUCKET/PREFIX/NAME`, without region, endpoint and
    /// keys.
    #[must_use]
    pub fn object_url(&self, name: &str) -> String {
        format!("{}://{}/{}", self.service.scheme(), self.bucket, self.object_key(name))
    }

    /// Key of an object below the prefix.
    #[must_use]
    pub fn object_key(&self, name: &str) -> String {
        self.prefix.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("/")
    }

    /// Whether Tencent's API accepts this as a part of `FileNamePrefix`: 1 to 200 of `a–z A–Z 0–9 _ -`.
    #[must_use]
    pub fn is_tencent_prefix_component(part: &str) -> bool {
        is_path_component(part) && !part.contains('.')
    }
}

impl StorageKeys {
    /// Creates keys from an access key and its secret key.
    #[must_use]
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self { access_key: Secret::new(access_key), secret_key: Secret::new(secret_key), session_token: None }
    }

    pub(super) fn validate(&self) -> Result<(), StorageError> {
        let token = self.session_token.as_ref().map(Secret::reveal);
        let (access, secret) = (self.access_key.reveal(), self.secret_key.reveal());
        if access.is_empty() || secret.is_empty() || token == Some("") {
            return Err(StorageError::Keys("one of them is empty"));
        }
        if [access, secret, token.unwrap_or_default()].iter().any(|key| key.len() > MAX_KEY_LEN) {
            return Err(StorageError::Keys("one of them is larger than 16 KiB"));
        }
        // They are sent in HTTP headers.
        if [access, token.unwrap_or_default()].iter().any(|key| !key.bytes().all(|c| c.is_ascii_graphic())) {
            return Err(StorageError::Keys("access key and token must be one word of ASCII characters"));
        }
        Ok(())
    }
}
