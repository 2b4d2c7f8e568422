//! `StorageParams`: where a recording is stored.

use std::time::Duration;

use pagecast_core::spec::{self, Bucket, Format, Storage, StorageKeys, Vod, VodMediaType};
use url::Url;

use super::error_code::ErrorCode;
use super::params::Object;
use super::response::ApiError;
use crate::app::Application;

/// Accepted integers; [`spec::VOD_LIFETIME_RANGE`] limits lifetimes further.
pub(super) const SECONDS_RANGE: std::ops::RangeInclusive<i64> = 0..=i64::MAX;
/// Values of `Vendor`: COS and S3.
pub(super) const VENDOR_RANGE: std::ops::RangeInclusive<i64> = 0..=1;
/// Numbers of `MediaType`; [`VodMediaType::from_number`] refuses those for sound alone.
pub(super) const MEDIA_TYPE_RANGE: std::ops::RangeInclusive<i64> = 0..=4;

/// Storage of a task's files, in a folder named after the task, and the format that the storage decides.
pub(super) fn parse(app: &Application, root: &Object<'_>) -> Result<(Storage, Option<Format>), ApiError> {
    let missing = || ApiError::missing_parameter(ErrorCode::MissingStorageParams, "StorageParams");
    let params = root.object("StorageParams")?.ok_or_else(missing)?;
    match (params.object("CloudStorage")?, params.object("CloudVod")?) {
        (Some(_), Some(_)) => {
            let message = "`StorageParams` has two storages: leave out CloudStorage or CloudVod";
            Err(ApiError::new(ErrorCode::InvalidParameter, message))
        }
        (Some(cloud), None) => Ok((bucket(app, &cloud)?, None)),
        (None, Some(cloud)) => {
            let name = cloud.full_name("TencentVod");
            let vod = cloud
                .object("TencentVod")?
                .ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingParameter, &name))?;
            let vod = video_on_demand(app, &vod)?;
            let format = match vod.media {
                VodMediaType::Mp4 => Format::Mp4,
                VodMediaType::Hls => Format::HlsTs,
                VodMediaType::HlsMp4 => Format::BothTs,
            };
            let storage = Storage::TencentVod(vod);
            check(&storage, &name)?;
            Ok((storage, Some(format)))
        }
        (None, None) => Err(ApiError::missing_parameter(
            ErrorCode::MissingCloudStorage,
            &params.full_name("CloudStorage"),
        )),
    }
}

fn bucket(app: &Application, cloud: &Object<'_>) -> Result<Storage, ApiError> {
    let vendor = cloud
        .integer_in("Vendor", VENDOR_RANGE)?
        .ok_or_else(|| ApiError::missing_parameter(ErrorCode::MissingVendor, &cloud.full_name("Vendor")))?;
    let vendor = u64::try_from(vendor).unwrap_or_default();
    let service = spec::StorageService::from_tencent_vendor(vendor).unwrap_or(spec::StorageService::Cos);
    let region = cloud.required_text("Region", ErrorCode::MissingRegion)?;
    let name = cloud.required_text("Bucket", ErrorCode::MissingBucket)?;
    let access = cloud.required_text("AccessKey", ErrorCode::MissingAccessKey)?;
    let secret = cloud.required_text("SecretKey", ErrorCode::MissingSecretKey)?;
    let parts = cloud.texts("FileNamePrefix")?;
    if !parts.iter().all(|part| Bucket::is_tencent_prefix_component(part)) {
        let name = cloud.full_name("FileNamePrefix");
        let message = format!("each part of `{name}` must consist of letters, digits, _ and -");
        return Err(ApiError::new(ErrorCode::InvalidParameter, message));
    }
    let endpoint: Option<Url> = match service {
        spec::StorageService::S3 => app.settings.storage.s3_endpoint.clone(),
        _ => app.settings.storage.cos_endpoint.clone(),
    };
    let storage = Storage::Bucket(Bucket {
        prefix: parts.iter().map(|part| (*part).to_owned()).collect(),
        region: Some(region.to_owned()),
        path_style: endpoint.is_some().then_some(true),
        endpoint,
        keys: Some(StorageKeys::new(access, secret)),
        ..Bucket::new(service, name)
    });
    check(&storage, "StorageParams.CloudStorage")?;
    // The checks above make all of these valid folder names.
    Ok(match &app.settings.storage.buckets_dir {
        Some(folder) => Storage::Folder(folder.join(name).join(parts.join("/"))),
        None => storage,
    })
}

fn video_on_demand(app: &Application, params: &Object<'_>) -> Result<Vod, ApiError> {
    let keys = app.settings.storage.vod_keys.as_ref().ok_or_else(|| {
        let message = "this application has no keys for video on demand (storage.vod_keys)";
        ApiError::new(ErrorCode::NotAbility, message)
    })?;
    let text = |member| Ok::<_, ApiError>(params.non_empty_text(member)?.map(str::to_owned));
    let number = |member| Ok::<_, ApiError>(params.integer_in(member, SECONDS_RANGE)?.map(i64::unsigned_abs));
    let media = params.integer_in("MediaType", MEDIA_TYPE_RANGE)?.unwrap_or(0).unsigned_abs();
    let media = VodMediaType::from_number(media).ok_or_else(|| {
        let message = format!(
            "`{}` is {media}, which is audio only: it must be a type with video",
            params.full_name("MediaType")
        );
        ApiError::new(ErrorCode::OutOfRange, message)
    })?;
    let lifetime_s = number("ExpireTime")?.filter(|seconds| *seconds != 0);
    let vod = Vod {
        keys: Some(StorageKeys::new(&keys.id, keys.secret.reveal())),
        procedure: text("Procedure")?,
        lifetime: lifetime_s.map(Duration::from_secs),
        storage_region: text("StorageRegion")?,
        class_id: number("ClassId")?.unwrap_or(0),
        sub_app_id: number("SubAppId")?.filter(|id| *id != 0),
        session_context: text("SessionContext")?,
        source_context: text("SourceContext")?,
        media,
        record_id: text("UserDefineRecordId")?,
        region: None,
        endpoint: app.settings.storage.vod_endpoint.clone(),
        storage_endpoint: app.settings.storage.cos_endpoint.clone(),
    };
    if vod.lifetime.is_some_and(|time| !spec::VOD_LIFETIME_RANGE.contains(&time)) {
        let message =
            format!("`{}` must be 60 s to 100 years, or 0 for no limit", params.full_name("ExpireTime"));
        return Err(ApiError::new(ErrorCode::OutOfRange, message));
    }
    Ok(vod)
}

fn check(storage: &Storage, name: &str) -> Result<(), ApiError> {
    storage
        .validate()
        .map_err(|error| ApiError::new(ErrorCode::InvalidParameter, format!("`{name}`: {error}")))
}
