//! Uploads to video on demand: each file becomes one asset, also with keys that expire.

#[path = "store/storage_fixture.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod storage_fixture;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{Storage, StorageKeys, Vod, VodMediaType};
use pagecast_media::store::{ErrorClass, Store};
use pagecast_testkit::vod::BUCKET;
use pagecast_testkit::{InjectedFault, ScratchDir, VodServer};

use storage_fixture::{PART_BYTES, SECRET, block_on, random_file, transfer_config};

const MP4: &str = "video/mp4";

fn vod_spec(server: &VodServer) -> Vod {
    Vod {
        keys: Some(StorageKeys::new("AKIDAPP", SECRET)),
        procedure: Some("flow".into()),
        lifetime: Some(Duration::from_secs(86_400)),
        storage_region: Some("ap-chongqing".into()),
        class_id: 7,
        sub_app_id: Some(1_500_000_001),
        session_context: Some("session \"1\"".into()),
        source_context: Some("源".into()),
        media: VodMediaType::Mp4,
        record_id: Some("room_1".into()),
        region: Some("ap-guangzhou".into()),
        endpoint: server.url().parse().ok(),
        storage_endpoint: server.storage().url().parse().ok(),
    }
}

fn start_vod() -> Result<(ScratchDir, VodServer, Store)> {
    let scratch = ScratchDir::new()?;
    let server = VodServer::start(&scratch.join("vod"), "AKIDAPP", SECRET)?;
    let store = Store::open_with(&Storage::TencentVod(vod_spec(&server)), transfer_config())?;
    Ok((scratch, server, store))
}

#[test]
fn a_file_becomes_one_asset() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_vod()?;
        store.probe().await?;
        let path = random_file(&scratch, 2 * PART_BYTES + 1, 1)?;
        let stored = store.put("task/task_0.mp4", &path, MP4).await?;
        let asset = stored.vod_asset.context("no asset")?;
        ensure!((stored.bytes, &*asset.file_id) == (2 * PART_BYTES + 1, "file-2"), "{asset:?}");
        ensure!(asset.url == "http://125.vod2.example/upload/2/f0.mp4");
        ensure!(fs::read(server.storage().object_path(BUCKET, "upload/2/f0.mp4"))? == fs::read(&path)?);
        let call = server.calls("ApplyUpload").pop().context("no call")?;
        for (field, value) in [
            ("MediaType", "\"mp4\""),
            ("MediaName", "\"room_1__UserDefine_u_task_0\""),
            ("Procedure", "\"flow\""),
            ("StorageRegion", "\"ap-chongqing\""),
            ("ClassId", "7"),
            ("SubAppId", "1500000001"),
            ("SessionContext", "\"session \\\"1\\\"\""),
            ("SourceContext", "\"源\""),
        ] {
            let sent = call[field].to_string();
            ensure!(sent == value, "{field} is {sent}");
        }
        let expires = call["ExpireTime"].as_str().context("no time")?;
        ensure!(expires.len() == 20 && expires.ends_with('Z'), "{expires}");
        let commit = server.calls("CommitUpload").pop().context("no commit")?;
        ensure!(commit["VodSessionKey"] == "session+/2" && commit["SubAppId"] == 1_500_000_001, "{commit}");
        Ok(())
    })
}

#[test]
fn a_playlist_takes_its_segments_along() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_vod()?;
        let (one, two, list) =
            (random_file(&scratch, 10, 1)?, random_file(&scratch, 20, 2)?, scratch.join("a.m3u8"));
        fs::write(&list, "#EXTM3U\n")?;
        let files: [(&str, &Path); 3] =
            [("task/t_0.ts", &one), ("task/more/t_1.ts", &two), ("task/t.m3u8", &list)];
        let asset = store.put_playlist(&files).await?.vod_asset.context("no asset")?;
        ensure!(asset.url.ends_with("/upload/1/f0.m3u8"), "{asset:?}");
        let objects: Vec<_> = server.storage().objects(BUCKET)?.into_iter().collect();
        let sizes: Vec<_> = objects.iter().map(|(name, size)| (name.as_str(), *size)).collect();
        ensure!(
            sizes == [("upload/1/f0.m3u8", 8), ("upload/1/more/t_1.ts", 20), ("upload/1/t_0.ts", 10)],
            "{sizes:?}"
        );
        let elsewhere: [(&str, &Path); 2] = [("other/t_0.ts", &one), ("task/t.m3u8", &list)];
        let refused = store.put_playlist(&elsewhere).await.err().context("it was stored")?;
        ensure!(refused.to_string().contains("not in the folder of its playlist"), "{refused}");
        ensure!(store.put_playlist(&[]).await.is_err());
        Ok(())
    })
}

#[test]
fn keys_that_end_too_soon_are_applied_for_again() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_vod()?;
        let (small, large) = (random_file(&scratch, 100, 1)?, random_file(&scratch, PART_BYTES + 1, 2)?);
        for (path, applied) in [(&small, 3), (&large, 6)] {
            server.issue_expired_keys(2);
            let stored = store.put("a.mp4", path, MP4).await?;
            ensure!(stored.vod_asset.is_some() && server.calls("ApplyUpload").len() == applied);
        }
        server.issue_expired_keys(100);
        let error = store.put("a.mp4", &small, MP4).await.err().context("it was stored")?;
        ensure!(error.class() == ErrorClass::Denied && error.to_string().contains("ExpiredToken"), "{error}");
        ensure!(server.calls("ApplyUpload").len() == 10, "ApplyUpload is repeated without end");
        Ok(())
    })
}

#[test]
fn one_file_is_one_asset_even_if_a_response_is_lost() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_vod()?;
        let path = random_file(&scratch, 100, 1)?;
        server.drop_commit_responses(2);
        for _ in 0..2 {
            let error = store.put("a.mp4", &path, MP4).await.err().context("the response was not lost")?;
            ensure!(error.class() == ErrorClass::Transient, "{error}");
        }
        let asset = store.put("a.mp4", &path, MP4).await?.vod_asset.context("no asset")?;
        ensure!(asset.file_id == "file-1" && server.calls("ApplyUpload").len() == 1, "{asset:?}");
        Ok(())
    })
}

#[test]
fn errors_are_reported_without_keys() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_vod()?;
        let path = random_file(&scratch, 2 * PART_BYTES, 1)?;
        let mut texts = Vec::new();
        for keys in [StorageKeys::new("AKIDAPP", "hunter2"), StorageKeys::new("hunter3", SECRET)] {
            let wrong = Storage::TencentVod(Vod { keys: Some(keys), ..vod_spec(&server) });
            let wrong = Store::open_with(&wrong, transfer_config())?;
            for error in [wrong.probe().await.err(), wrong.put("a.mp4", &path, MP4).await.err()] {
                let error = error.context("it was accepted")?;
                ensure!(error.class() == ErrorClass::Denied, "{error}");
                texts.push(format!("{error} {error:?} {wrong:?}"));
            }
        }
        ensure!(
            texts[0].contains("AuthFailure.SignatureFailure") && texts[2].contains("SecretIdNotFound"),
            "{texts:?}"
        );
        ensure!(server.calls("ApplyUpload").is_empty(), "an unsigned call was carried out");
        server.storage().set_fault(Some(InjectedFault::ResetMidBody));
        let error = store.put("a.mp4", &path, MP4).await.err().context("it was stored")?;
        ensure!(error.class() == ErrorClass::Transient, "{error}");
        texts.push(format!("{error} {error:?} {store:?}"));
        ensure!(
            !texts
                .iter()
                .any(|text| text.contains("hunter") || text.contains(SECRET) || text.contains("temporary-"))
        );
        server.storage().set_fault(None);
        store.put("a.mp4", &path, MP4).await?;
        let bare = Storage::TencentVod(vod_spec(&server)).without_keys();
        let error = Store::open(&bare).err().context("it was opened")?;
        ensure!(error.to_string().contains("keys of the application"), "{error}");
        Ok(())
    })
}
