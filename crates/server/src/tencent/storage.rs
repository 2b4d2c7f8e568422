//! `StorageParams`: where a recording goes.

use std::time::Duration;

use pagecast_core::spec::{self, Bucket, Format, Storage, StorageKeys, Vod, VodMediaType};
use url::Url;

use super::params::Object;
use super::response::ApiError;
use crate::app::Application;

/// Most seconds that can be asked for: beyond what [`spec::VOD_LIFETIME_RANGE`] takes.
const SECONDS_RANGE: std::ops::RangeInclusive<i64> = 0..=i64::MAX;

/// Where the files of a task go, in a folder that is named after it, and what format that place asks for.
pub(super) fn parse(app: &Application, root: &Object<'_>) -> Result<(Storage, Option<Format>), ApiError> {
    let missing = || ApiError::missing_parameter("MissingParameter.StorageParams", "StorageParams");
    let params = root.object("StorageParams")?.ok_or_else(missing)?;
    match (params.object("CloudStorage")?, params.object("CloudVod")?) {
        (Some(_), Some(_)) => {
            let words = "`StorageParams` names two places: leave out CloudStorage or CloudVod";
            Err(ApiError::new("InvalidParameter", words))
        }
        (Some(cloud), None) => Ok((bucket(app, &cloud)?, None)),
        (None, Some(cloud)) => {
            let name = cloud.full_name("TencentVod");
            let vod = cloud
                .object("TencentVod")?
                .ok_or_else(|| ApiError::missing_parameter("MissingParameter", &name))?;
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
            "MissingParameter.CloudStorage",
            &params.full_name("CloudStorage"),
        )),
    }
}

fn bucket(app: &Application, cloud: &Object<'_>) -> Result<Storage, ApiError> {
    let vendor = cloud
        .integer_in("Vendor", 0..=1)?
        .ok_or_else(|| ApiError::missing_parameter("MissingParameter.Vendor", &cloud.full_name("Vendor")))?;
    let vendor = u64::try_from(vendor).unwrap_or_default();
    let service = spec::StorageService::from_tencent_vendor(vendor).unwrap_or(spec::StorageService::Cos);
    let region = cloud.required_text("Region", "MissingParameter.Region")?;
    let name = cloud.required_text("Bucket", "MissingParameter.Bucket")?;
    let access = cloud.required_text("AccessKey", "MissingParameter.AccessKey")?;
    let secret = cloud.required_text("SecretKey", "MissingParameter.SecretKey")?;
    let parts = cloud.texts("FileNamePrefix")?;
    if !parts.iter().all(|part| Bucket::is_tencent_prefix_component(part)) {
        let name = cloud.full_name("FileNamePrefix");
        let words = format!("each part of `{name}` must be made of letters, digits, _ and -");
        return Err(ApiError::new("InvalidParameter", words));
    }
    let endpoint: Option<Url> = match service {
        spec::StorageService::S3 => app.storage.s3_endpoint.clone(),
        _ => app.storage.cos_endpoint.clone(),
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
    // All of these are names of folders.
    Ok(match &app.storage.buckets {
        Some(folder) => Storage::Folder(folder.join(name).join(parts.join("/"))),
        None => storage,
    })
}

fn video_on_demand(app: &Application, params: &Object<'_>) -> Result<Vod, ApiError> {
    let keys = app.storage.vod_keys.as_ref().ok_or_else(|| {
        let words = "this application has no keys for video on demand: set vod_keys in its storage";
        ApiError::new("FailedOperation.NotAbility", words)
    })?;
    let text = |member| Ok::<_, ApiError>(params.non_empty_text(member)?.map(str::to_owned));
    let number = |member| Ok::<_, ApiError>(params.integer_in(member, SECONDS_RANGE)?.map(i64::unsigned_abs));
    let media = params.integer_in("MediaType", 0..=4)?.unwrap_or(0).unsigned_abs();
    let media = VodMediaType::from_number(media).ok_or_else(|| {
        let words = format!("`{}` {media} is for sound alone", params.full_name("MediaType"));
        ApiError::new("InvalidParameter.OutOfRange", words)
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
        endpoint: app.storage.vod_endpoint.clone(),
        storage_endpoint: app.storage.cos_endpoint.clone(),
    };
    if vod.lifetime.is_some_and(|time| !spec::VOD_LIFETIME_RANGE.contains(&time)) {
        let words = format!("`{}` can be 60 s to 100 years, or 0 for ever", params.full_name("ExpireTime"));
        return Err(ApiError::new("InvalidParameter.OutOfRange", words));
    }
    Ok(vod)
}

fn check(storage: &Storage, name: &str) -> Result<(), ApiError> {
    storage.validate().map_err(|error| ApiError::new("InvalidParameter", format!("`{name}`: {error}")))
}
