//! Tencent Video on Demand as storage.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{StorageError, StorageKeys, is_dns_label, validate_endpoint};

/// Range of the lifetime of a media file.
pub const VOD_LIFETIME_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(100 * 365 * 86_400);

/// Tencent Video on Demand: `TencentVod` of the web record API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Vod {
    /// Keys of the application (SecretId, SecretKey). They are required for uploads.
    #[serde(default)]
    pub keys: Option<StorageKeys>,
    /// Task flow that starts after the upload (`Procedure`), up to 128 characters.
    #[serde(default)]
    pub procedure: Option<String>,
    /// Lifetime of the media (`ExpireTime`), 1 min to 100 years. `None` means for ever.
    #[serde(default)]
    pub lifetime: Option<Duration>,
    /// Storage region (`StorageRegion`), like `ap-chongqing`.
    #[serde(default)]
    pub storage_region: Option<String>,
    /// Category (`ClassId`); 0 means none.
    #[serde(default)]
    pub class_id: u64,
    /// Sub-application (`SubAppId`).
    #[serde(default)]
    pub sub_app_id: Option<u64>,
    /// Context passed through the task flow (`SessionContext`), up to 1000 characters.
    #[serde(default)]
    pub session_context: Option<String>,
    /// Context passed through the upload notification (`SourceContext`), up to 250 characters.
    #[serde(default)]
    pub source_context: Option<String>,
    /// Kind of media that is stored (`MediaType`).
    #[serde(default)]
    pub media: VodMediaType,
    /// Prefix of media names (`UserDefineRecordId`), 1 to 64 of `a–z A–Z 0–9 _ -`.
    #[serde(default)]
    pub record_id: Option<String>,
    /// Region for API calls, like `ap-guangzhou`.
    #[serde(default)]
    pub region: Option<String>,
    /// Server for API calls instead of `https://vod.tencentcloudapi.com`.
    #[serde(default)]
    pub endpoint: Option<Url>,
    /// Server for uploads instead of the region's COS.
    #[serde(default)]
    pub storage_endpoint: Option<Url>,
}

/// Kind of media that a recording becomes in video on demand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VodMediaType {
    /// MP4 files.
    #[default]
    Mp4,
    /// HLS playlist and segments.
    Hls,
    /// MP4 files, and HLS playlist and segments.
    HlsMp4,
}

impl VodMediaType {
    /// Kind of a `MediaType` number of the API: 0 is MP4, 1 HLS, 3 both. The audio-only kinds (2 and 4) are
    /// not supported.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Mp4),
            1 => Some(Self::Hls),
            3 => Some(Self::HlsMp4),
            _ => None,
        }
    }
}

impl Vod {
    pub(super) fn validate(&self) -> Result<(), StorageError> {
        let bad = |what, why| Err(StorageError::Vod { what, why });
        let is_invalid = |text: &Option<String>, max| {
            text.as_ref().is_some_and(|t| t.chars().count() > max || t.chars().any(char::is_control))
        };
        if is_invalid(&self.procedure, 128) || self.procedure.as_deref() == Some("") {
            return bad("task flow", "1 to 128 characters are possible");
        }
        if self.lifetime.is_some_and(|time| !VOD_LIFETIME_RANGE.contains(&time)) {
            return bad("lifetime", "1 minute to 100 years are possible");
        }
        for region in [&self.storage_region, &self.region].into_iter().flatten() {
            if !is_dns_label(region) {
                return Err(StorageError::Region(region.chars().take(64).collect()));
            }
        }
        if is_invalid(&self.session_context, 1000) {
            return bad("session context", "at most 1000 characters are possible");
        }
        if is_invalid(&self.source_context, 250) {
            return bad("source context", "at most 250 characters are possible");
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"_-".contains(&c);
        let is_id = |id: &String| (1..=64).contains(&id.len()) && id.bytes().all(plain);
        if self.record_id.as_ref().is_some_and(|id| !is_id(id)) {
            return bad("record id", "1 to 64 letters, digits, _ and - are possible");
        }
        for endpoint in [&self.endpoint, &self.storage_endpoint].into_iter().flatten() {
            validate_endpoint(endpoint)?;
        }
        self.keys.as_ref().map_or(Ok(()), StorageKeys::validate)
    }

    /// Name of a media file: `name`, prefixed with the record id if there is one.
    #[must_use]
    pub fn media_name(&self, name: &str) -> String {
        match &self.record_id {
            Some(id) => format!("{id}__UserDefine_u_{name}"),
            None => name.to_owned(),
        }
    }
}
