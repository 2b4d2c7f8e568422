//! `StorageParams`: where a recording goes.

use std::time::Duration;

use pagecast_core::spec::{self, Bucket, Format, Keys, Media, Storage, Vod};
use url::Url;

use super::answer::Fault;
use super::params::Object;
use crate::app::Application;

/// Most seconds that can be asked for: beyond what [`spec::LIFETIME_RANGE`] takes.
const ANY_S: std::ops::RangeInclusive<i64> = 0..=i64::MAX;

/// Where the files of a task go, in a folder that is named after it, and what format that place asks for.
pub(super) fn read(app: &Application, root: &Object<'_>) -> Result<(Storage, Option<Format>), Fault> {
    let missing = || Fault::missing("MissingParameter.StorageParams", "StorageParams");
    let params = root.object("StorageParams")?.ok_or_else(missing)?;
    match (params.object("CloudStorage")?, params.object("CloudVod")?) {
        (Some(_), Some(_)) => {
            let words = "`StorageParams` names two places: leave out CloudStorage or CloudVod";
            Err(Fault::new("InvalidParameter", words))
        }
        (Some(cloud), None) => Ok((bucket(app, &cloud)?, None)),
        (None, Some(cloud)) => {
            let name = cloud.name("TencentVod");
            let vod = cloud.object("TencentVod")?.ok_or_else(|| Fault::missing("MissingParameter", &name))?;
            let vod = video_on_demand(app, &vod)?;
            let format = match vod.media {
                Media::Mp4 => Format::Mp4,
                Media::Hls => Format::HlsTs,
                Media::HlsMp4 => Format::BothTs,
            };
            let storage = Storage::TencentVod(vod);
            check(&storage, &name)?;
            Ok((storage, Some(format)))
        }
        (None, None) => Err(Fault::missing("MissingParameter.CloudStorage", &params.name("CloudStorage"))),
    }
}

fn bucket(app: &Application, cloud: &Object<'_>) -> Result<Storage, Fault> {
    let vendor = cloud
        .within("Vendor", 0..=1)?
        .ok_or_else(|| Fault::missing("MissingParameter.Vendor", &cloud.name("Vendor")))?;
    let vendor = u64::try_from(vendor).unwrap_or_default();
    let service = spec::Service::of_vendor(vendor).unwrap_or(spec::Service::Cos);
    let region = cloud.needed("Region", "MissingParameter.Region")?;
    let name = cloud.needed("Bucket", "MissingParameter.Bucket")?;
    let access = cloud.needed("AccessKey", "MissingParameter.AccessKey")?;
    let secret = cloud.needed("SecretKey", "MissingParameter.SecretKey")?;
    let parts = cloud.texts("FileNamePrefix")?;
    if !parts.iter().all(|part| Bucket::is_vendor_part(part)) {
        let name = cloud.name("FileNamePrefix");
        let words = format!("each part of `{name}` must be made of letters, digits, _ and -");
        return Err(Fault::new("InvalidParameter", words));
    }
    let endpoint: Option<Url> = match service {
        spec::Service::S3 => app.storage.s3_endpoint.clone(),
        _ => app.storage.cos_endpoint.clone(),
    };
    let storage = Storage::Bucket(Bucket {
        prefix: parts.iter().map(|part| (*part).to_owned()).collect(),
        region: Some(region.to_owned()),
        path_style: endpoint.is_some().then_some(true),
        endpoint,
        keys: Some(Keys::new(access, secret)),
        ..Bucket::new(service, name)
    });
    check(&storage, "StorageParams.CloudStorage")?;
    // All of these are names of folders.
    Ok(match &app.storage.buckets {
        Some(folder) => Storage::Folder(folder.join(name).join(parts.join("/"))),
        None => storage,
    })
}

fn video_on_demand(app: &Application, params: &Object<'_>) -> Result<Vod, Fault> {
    let keys = app.storage.vod_keys.as_ref().ok_or_else(|| {
        let words = "this application has no keys for video on demand: set vod_keys in its storage";
        Fault::new("FailedOperation.NotAbility", words)
    })?;
    let text = |member| Ok::<_, Fault>(params.word(member)?.map(str::to_owned));
    let number = |member| Ok::<_, Fault>(params.within(member, ANY_S)?.map(i64::unsigned_abs));
    let media = params.within("MediaType", 0..=4)?.unwrap_or(0).unsigned_abs();
    let media = Media::of_number(media).ok_or_else(|| {
        let words = format!("`{}` {media} is for sound alone", params.name("MediaType"));
        Fault::new("InvalidParameter.OutOfRange", words)
    })?;
    let lifetime_s = number("ExpireTime")?.filter(|seconds| *seconds != 0);
    let vod = Vod {
        keys: Some(Keys::new(&keys.id, keys.secret.reveal())),
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
    if vod.lifetime.is_some_and(|time| !spec::LIFETIME_RANGE.contains(&time)) {
        let words = format!("`{}` can be 60 s to 100 years, or 0 for ever", params.name("ExpireTime"));
        return Err(Fault::new("InvalidParameter.OutOfRange", words));
    }
    Ok(vod)
}

fn check(storage: &Storage, name: &str) -> Result<(), Fault> {
    storage.check().map_err(|error| Fault::new("InvalidParameter", format!("`{name}`: {error}")))
}
