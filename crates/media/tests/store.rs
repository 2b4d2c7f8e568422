//! Storages store files completely or not at all, and describe errors without keys.

#[path = "store/storage_fixture.rs"]
mod storage_fixture;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pagecast_core::spec::{
    Bucket, NetworkPolicy, NetworkRule, Secret, Storage, StorageKeys, StorageService, Vod,
};
use pagecast_media::store::{Error, ErrorClass, Store};
use pagecast_testkit::s3::Credential;
use pagecast_testkit::{InjectedFault, S3Server, ScratchDir, TlsServer, Tmpfs};

use storage_fixture::{
    ACCESS, MIB, PART_BYTES, SECRET, block_on, bucket, random_file, start_s3_store, transfer_config,
};

const MP4: &str = "video/mp4";

#[test]
fn stored_objects_equal_their_files() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_s3_store()?;
        for (name, bytes) in [
            ("empty.mp4", 0),
            ("a/one.mp4", 1),
            ("a/part.mp4", PART_BYTES),
            ("a/more.mp4", PART_BYTES + 1),
            ("long.mp4", 3 * PART_BYTES + 7),
        ] {
            let path = random_file(&scratch, bytes, 1)?;
            for _ in 0..2 {
                let stored = store.put(name, &path, MP4).await?;
                ensure!(stored.bytes == bytes && stored.etag.is_some(), "{name}: {stored:?}");
                ensure!(store.head(name).await?.as_ref() == Some(&stored));
                ensure!(
                    fs::read(server.object_path("rec", &format!("room/{name}")))? == fs::read(&path)?,
                    "{name}"
                );
            }
        }
        ensure!(server.objects("rec")?.len() == 5 && server.pending_uploads()? == 0);
        // Two files, each stored twice, in 2 and 4 parts.
        ensure!(
            (server.request_count("begin"), server.request_count("part"), server.request_count("complete"))
                == (4, 12, 4)
        );
        ensure!(server.object_metadata(MP4).is_ok());
        store.delete("long.mp4").await?;
        store.delete("long.mp4").await?;
        ensure!(store.head("long.mp4").await?.is_none() && server.objects("rec")?.len() == 4);
        Ok(())
    })
}

#[test]
fn uploads_may_run_on_any_thread() -> Result<()> {
    fn assert_send<T: Send>(task: T) -> T {
        task
    }
    block_on(async {
        let (scratch, _server, store) = start_s3_store()?;
        let (path, store) = (random_file(&scratch, 2 * PART_BYTES, 1)?, Arc::new(store));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..3 {
            let (path, store) = (path.clone(), store.clone());
            tasks.spawn(assert_send(async move { store.put(&format!("{n}.mp4"), &path, MP4).await }));
        }
        while let Some(done) = tasks.join_next().await {
            ensure!(done??.bytes == 2 * PART_BYTES);
        }
        let vod = Vod { keys: Some(StorageKeys::new("a", "b")), ..Vod::default() };
        let vod = Store::open(&Storage::TencentVod(vod))?;
        drop(assert_send(vod.put("a.mp4", &path, MP4)));
        Ok(())
    })
}

#[test]
fn playlists_are_replaced() -> Result<()> {
    block_on(async {
        let (_scratch, server, store) = start_s3_store()?;
        for text in ["#EXTM3U\n", "#EXTM3U\n#EXT-X-ENDLIST\n"] {
            let kind = "application/vnd.apple.mpegurl";
            let stored = store.put_bytes("a.m3u8", text.into(), kind, Some("max-age=2")).await?;
            ensure!(stored.bytes == text.len() as u64);
            ensure!(fs::read_to_string(server.object_path("rec", "room/a.m3u8"))? == text);
        }
        ensure!(server.object_metadata("mpegurl")?.contains("max-age=2"));
        Ok(())
    })
}

#[test]
fn names_are_checked() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_s3_store()?;
        let path = random_file(&scratch, 10, 1)?;
        for name in ["../a", "/a", "a//b", "", ".a", "a\n"] {
            let put = store.put(name, &path, MP4).await;
            ensure!(matches!(put, Err(Error::InvalidName(_))), "{name:?}: {put:?}");
            ensure!(store.delete(name).await.is_err() && store.head(name).await.is_err());
        }
        ensure!(server.objects("rec")?.is_empty());
        let missing = store.put("a.mp4", &scratch.join("no.mp4"), MP4).await;
        ensure!(missing.is_err_and(
            |e| e.class() == ErrorClass::Local && e.to_string().contains("cannot read no.mp4 in /tmp/")
        ));
        Ok(())
    })
}

#[test]
fn a_name_that_leads_to_this_machine_is_refused_unless_a_rule_allows_it() -> Result<()> {
    block_on(async {
        let scratch = ScratchDir::new()?;
        let server = S3Server::start(&scratch.join("s3"), ACCESS, SECRET)?;
        server.make_bucket("rec")?;
        let mut spec = bucket(&server);
        spec.endpoint = server.url().replace("127.0.0.1", "localhost").parse().ok();
        for (allow, reached) in [(None, false), (Some("127.0.0.1:9"), false), (Some("127.0.0.1"), true)] {
            let allow = allow.map(NetworkRule::parse).transpose()?.into_iter().collect();
            spec.network = Some(NetworkPolicy { allow, ..NetworkPolicy::default() });
            let probed = Store::open_with(&Storage::Bucket(spec.clone()), transfer_config())?.probe().await;
            ensure!(probed.is_ok() == reached, "{probed:?}");
            if let Err(error) = probed {
                let text = error.to_string();
                ensure!(
                    error.class() == ErrorClass::Denied && text.contains("its address is not public"),
                    "{text}"
                );
            }
        }
        // An address instead of a name is refused when the store is opened.
        spec.network = Some(NetworkPolicy::default());
        spec.endpoint = server.url().parse().ok();
        let refused = Store::open_with(&Storage::Bucket(spec), transfer_config());
        ensure!(refused.is_err_and(|error| error.to_string().contains("not public")));
        Ok(())
    })
}

/// The error of a probe and an upload to a bucket; both must have the same class.
async fn probe_and_put_error(spec: &Bucket) -> Result<(ErrorClass, String)> {
    let scratch = ScratchDir::new()?;
    let store = Store::open_with(&Storage::Bucket(spec.clone()), transfer_config())?;
    let probed = store.probe().await.err().context("the probe succeeded")?;
    let put = store
        .put("a.mp4", &random_file(&scratch, 2 * PART_BYTES, 1)?, MP4)
        .await
        .err()
        .context("it was stored")?;
    ensure!(probed.class() == put.class(), "{probed} and {put}");
    ensure!(put.to_string().starts_with("cannot store room/a.mp4 "), "{put}");
    Ok((put.class(), format!("{put} {put:?} {probed} {store:?}")))
}

#[test]
fn an_unusable_bucket_is_described() -> Result<()> {
    block_on(async {
        let scratch = ScratchDir::new()?;
        let mut server = S3Server::start(&scratch.join("s3"), ACCESS, SECRET)?;
        server.make_bucket("rec")?;
        server.add_key(
            "AKIDOLD",
            Credential { secret: "s".into(), token: Some("tok-hunter2".into()), expired: true },
        );
        let good = bucket(&server);
        let with = |change: &dyn Fn(&mut Bucket)| {
            let mut spec = good.clone();
            change(&mut spec);
            spec
        };
        let keys = |access: &str, secret: &str, token: Option<&str>| {
            Some(StorageKeys { session_token: token.map(Secret::new), ..StorageKeys::new(access, secret) })
        };
        for (spec, class, words) in [
            (
                with(&|b| b.keys = keys(ACCESS, "hunter2", None)),
                ErrorClass::Denied,
                "secret key does not belong",
            ),
            (with(&|b| b.keys = keys("AKIDhunter2", SECRET, None)), ErrorClass::Denied, "no such access key"),
            (
                with(&|b| b.keys = keys("AKIDOLD", "s", Some("tok-hunter2"))),
                ErrorClass::Denied,
                "have expired",
            ),
            (
                with(&|b| b.keys = keys("AKIDOLD", "s", Some("tok-hunter3"))),
                ErrorClass::Denied,
                "session token",
            ),
            (with(&|b| b.bucket = "other".into()), ErrorClass::NotFound, "create the bucket first"),
        ] {
            let (seen, text) = probe_and_put_error(&spec).await?;
            ensure!(seen == class && text.contains(words), "{text}");
            ensure!(text.contains(&format!("bucket {} at 127.0.0.1:", spec.bucket)), "{text}");
            ensure!(!text.contains("hunter") && !text.contains(SECRET), "{text}");
        }
        server.stop();
        let (class, text) = probe_and_put_error(&good).await?;
        ensure!(class == ErrorClass::Transient && text.contains("connection refused"), "{text}");
        let impostor = TlsServer::start()?;
        let (class, text) = probe_and_put_error(&with(&|b| b.endpoint = impostor.url().parse().ok())).await?;
        ensure!(
            class == ErrorClass::Transient && text.contains("install the authority of its certificate"),
            "{text}"
        );
        let nowhere = with(&|b| b.endpoint = "http://nowhere.invalid:9".parse().ok());
        let (class, text) = probe_and_put_error(&nowhere).await?;
        ensure!(
            class == ErrorClass::Transient && text.contains("check the region or the endpoint"),
            "{text}"
        );
        Ok(())
    })
}

#[test]
fn no_fault_leaves_a_partial_object() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_s3_store()?;
        let (small, large) = (random_file(&scratch, 1000, 1)?, random_file(&scratch, 2 * PART_BYTES + 7, 2)?);
        for (fault, class) in [
            (InjectedFault::Down, ErrorClass::Transient),
            (InjectedFault::ResetMidBody, ErrorClass::Transient),
            (InjectedFault::Error500, ErrorClass::Transient),
            (InjectedFault::Denied403, ErrorClass::Denied),
            (InjectedFault::DiscardBody, ErrorClass::Transient),
            (InjectedFault::Stall, ErrorClass::Transient),
        ] {
            server.set_fault(Some(fault));
            for path in [&small, &large] {
                let began = Instant::now();
                let error = store.put("a.mp4", path, MP4).await.err().context("it was stored")?;
                ensure!(error.class() == class, "{fault:?}: {error}");
                ensure!(began.elapsed() < Duration::from_secs(20), "{fault:?} took {:?}", began.elapsed());
            }
            ensure!(server.objects("rec")?.is_empty(), "{fault:?} left {:?}", server.objects("rec")?);
            server.set_fault(None);
            ensure!(
                store.abort_orphaned_uploads().await == 0 && server.pending_uploads()? == 0,
                "{fault:?} left parts"
            );
            for path in [&small, &large] {
                store.put("a.mp4", path, MP4).await.with_context(|| format!("after {fault:?}"))?;
                ensure!(fs::read(server.object_path("rec", "room/a.mp4"))? == fs::read(path)?);
            }
            store.delete("a.mp4").await?;
        }
        Ok(())
    })
}

#[test]
fn a_multipart_upload_that_an_outage_interrupts_is_aborted_afterwards() -> Result<()> {
    block_on(async {
        let (scratch, mut server, store) = start_s3_store()?;
        let large = random_file(&scratch, 4 * PART_BYTES, 1)?;
        server.set_fault(Some(InjectedFault::Throttled(20 * MIB)));
        {
            let put = store.put("a.mp4", &large, MP4);
            let third_part = async {
                while server.request_count("part") < 3 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::pin!(put);
            tokio::select! {
                ended = &mut put => anyhow::bail!("the upload ended early: {ended:?}"),
                () = third_part => {}
            }
            server.set_fault(Some(InjectedFault::Down));
            let error = put.await.err().context("it was stored")?;
            ensure!(error.class() == ErrorClass::Transient, "{error}");
        }
        ensure!(
            server.pending_uploads()? > 0 && store.abort_orphaned_uploads().await == 1,
            "nothing was left"
        );
        server.restart()?;
        server.set_fault(None);
        ensure!(store.abort_orphaned_uploads().await == 0 && server.pending_uploads()? == 0);
        ensure!(server.objects("rec")?.is_empty());
        Ok(())
    })
}

#[test]
fn an_upload_whose_id_never_arrived_is_aborted() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_s3_store()?;
        let large = random_file(&scratch, 2 * PART_BYTES, 1)?;
        server.set_fault(Some(InjectedFault::LostUploadId));
        let error = store.put("a.mp4", &large, MP4).await.err().context("it was stored")?;
        ensure!(error.class() == ErrorClass::Transient, "{error}");
        ensure!(server.pending_uploads()? == 1, "{} uploads", server.pending_uploads()?);
        server.set_fault(None);
        // The upload of another file leaves it alone, as its own one could be in progress.
        store.put("b.mp4", &large, MP4).await?;
        ensure!(server.pending_uploads()? == 1 && server.request_count("list") == 0);
        store.put("a.mp4", &large, MP4).await?;
        ensure!(server.pending_uploads()? == 0 && server.request_count("list") == 1);
        // If the service refuses to list its uploads, they stay, and files are stored.
        server.set_fault(Some(InjectedFault::LostUploadId));
        ensure!(store.put("a.mp4", &large, MP4).await.is_err() && server.pending_uploads()? == 1);
        server.set_fault(Some(InjectedFault::DeniedListing));
        store.put("a.mp4", &large, MP4).await?;
        ensure!(store.abort_orphaned_uploads().await == 0 && server.request_count("list") == 2);
        ensure!(server.pending_uploads()? == 1, "{} uploads", server.pending_uploads()?);
        Ok(())
    })
}

/// Starts a server that sends the same bytes in response to every request.
fn start_fake_server(response: Vec<u8>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    // The thread ends with the process, as it waits for connections.
    std::thread::Builder::new().name("fake-server".into()).spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut seen = Vec::new();
            let mut buffer = [0; 65_536];
            while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => seen.extend_from_slice(&buffer[..n]),
                }
            }
            // Unread data would reset the connection when it is dropped, and lose the response.
            let sent = stream.write_all(&response).and_then(|()| stream.shutdown(Shutdown::Write));
            let _ignored = sent.and_then(|()| io::copy(&mut stream, &mut io::sink()));
        }
    })?;
    Ok(address)
}

#[test]
fn invalid_responses_are_errors() -> Result<()> {
    block_on(async {
        let scratch = ScratchDir::new()?;
        let paths = [random_file(&scratch, 100, 1)?, random_file(&scratch, 2 * PART_BYTES, 2)?];
        let ok = |body: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let long = "<a>".repeat(1 << 20);
        let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"X-Header: x\r\n".repeat(100_000)].concat();
        for (response, words) in [
            (ok(""), ""),
            (ok("<InitiateMultipartUploadResult><UploadId>../../x y</UploadId>"), ""),
            (ok("<?xml version=\"1.0\"?><Error><Code>InternalError</Code></Error>"), "500 (InternalError)"),
            (ok("<Error><Code>hunter2 and a signature</Code></Error>"), ""),
            (ok(&long), "longer than 1 MiB"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(), ""),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://hunter2.example\r\nContent-Length: 0\r\n\r\n"
                    .to_vec(),
                "region",
            ),
            (endless, ""),
            (b"\0\xff\0".repeat(1000), ""),
            (Vec::new(), ""),
        ] {
            let start = String::from_utf8_lossy(&response[..response.len().min(60)]).into_owned();
            let keys = Some(StorageKeys::new(ACCESS, SECRET));
            let mut spec = Bucket::new(StorageService::S3, "rec");
            (spec.keys, spec.endpoint) = (keys, start_fake_server(response)?.parse().ok());
            let store = Store::open_with(&Storage::Bucket(spec), transfer_config())?;
            for path in &paths {
                let error = store
                    .put("a.mp4", path, MP4)
                    .await
                    .err()
                    .with_context(|| format!("{start:?} was stored"))?;
                let text = format!("{error} {error:?}");
                ensure!(text.contains(words) && !text.contains("hunter2"), "{start:?}: {text}");
                ensure!(
                    matches!(error.class(), ErrorClass::Transient | ErrorClass::Permanent),
                    "{start:?}: {text}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_dropped_upload_is_aborted() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_s3_store()?;
        let large = random_file(&scratch, 4 * PART_BYTES, 1)?;
        server.set_fault(Some(InjectedFault::Throttled(MIB)));
        {
            let part = async {
                while server.request_count("part") == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                ended = store.put("a.mp4", &large, MP4) => anyhow::bail!("the upload ended early: {ended:?}"),
                () = part => {}
            }
        }
        ensure!(server.pending_uploads()? > 0, "nothing was left");
        server.set_fault(None);
        ensure!(
            store.abort_orphaned_uploads().await == 0
                && server.pending_uploads()? == 0
                && server.objects("rec")?.is_empty()
        );
        Ok(())
    })
}

#[test]
fn slow_is_not_stalled() -> Result<()> {
    block_on(async {
        let (scratch, server, store) = start_s3_store()?;
        server.set_fault(Some(InjectedFault::Throttled(2 * MIB)));
        let began = Instant::now();
        let path = random_file(&scratch, PART_BYTES, 1)?;
        store.put("a.mp4", &path, MP4).await?;
        ensure!(began.elapsed() > transfer_config().stall_timeout, "it took only {:?}", began.elapsed());
        Ok(())
    })
}

#[test]
fn keys_of_other_services_are_read_or_refused() -> Result<()> {
    // Azure's keys are base64; Google's are a JSON document.
    for (address, access, secret, good) in [
        ("az://rec?endpoint=http://127.0.0.1:9", "account", "aHVudGVyMg==", true),
        ("az://rec", "account", "hunter2 is no base64", false),
        ("gs://rec", "robot", "{\"private_key\":\"hunter2\"}", false),
        ("cos://rec-125?region=ap-guangzhou", "AKID", "hunter2", true),
        ("tos://rec?region=cn-beijing", "AKID", "hunter2", true),
        ("oss://rec?region=cn-hangzhou", "AKID", "hunter2", true),
    ] {
        let mut storage = Storage::parse(address)?;
        *storage.keys_mut().context("a bucket")? = Some(StorageKeys::new(access, secret));
        let store = Store::open(&storage);
        let shown = format!("{store:?} {:?}", store.as_ref().err().map(ToString::to_string));
        ensure!(store.is_ok() == good && !shown.contains("hunter2"), "{address}: {shown}");
        if let Ok(store) = store {
            let host = storage_host(address);
            ensure!(store.location().contains(host), "{} is not at {host}", store.location());
        }
    }
    Ok(())
}

fn storage_host(address: &str) -> &str {
    match address.split_once("://").map_or("", |(service, _)| service) {
        "cos" => "rec-125.cos.ap-guangzhou.myqcloud.com",
        "tos" => "rec.tos-s3-cn-beijing.volces.com",
        "oss" => "rec.oss-cn-hangzhou.aliyuncs.com",
        _ => "127.0.0.1:9",
    }
}

#[test]
fn keys_are_in_no_line_of_any_log() -> Result<()> {
    let log = storage_fixture::LogBuffer::start();
    block_on(async {
        let scratch = ScratchDir::new()?;
        let server = S3Server::start(&scratch.join("s3"), ACCESS, SECRET)?;
        server.make_bucket("rec")?;
        let known = Credential { secret: "hunter3".into(), token: Some("hunter4".into()), expired: false };
        server.add_key("AKIDTEMP", known);
        let path = random_file(&scratch, 2 * PART_BYTES, 1)?;
        for (access, secret, token, good) in
            [(ACCESS, "hunter2", None, false), ("AKIDTEMP", "hunter3", Some("hunter4"), true)]
        {
            let keys =
                StorageKeys { session_token: token.map(Secret::new), ..StorageKeys::new(access, secret) };
            let storage = Storage::Bucket(Bucket { keys: Some(keys), ..bucket(&server) });
            let store = Store::open_with(&storage, transfer_config())?;
            let put = store.put("a.mp4", &path, MP4).await;
            ensure!(put.is_ok() == good, "{put:?}");
            tracing::trace!(?store, ?storage, ?put, "everything, as a careless log line would");
        }
        Ok(())
    })?;
    let text = log.end();
    ensure!(text.contains("careless") && text.contains("connect"), "nothing was logged: {text}");
    let shown: Vec<_> = text.lines().filter(|line| line.contains("hunter")).collect();
    ensure!(shown.is_empty(), "{shown:?}");
    Ok(())
}

#[test]
fn a_folder_takes_files_without_copying_them() -> Result<()> {
    block_on(async {
        let scratch = ScratchDir::new()?;
        let folder = scratch.world_writable_folder("out")?;
        let store = Store::open(&Storage::Folder(folder.clone()))?;
        store.probe().await?;
        let path = random_file(&scratch, 1000, 1)?;
        for _ in 0..2 {
            let stored = store.put("a/b.mp4", &path, MP4).await?;
            ensure!(stored.bytes == 1000 && store.head("a/b.mp4").await? == Some(stored));
        }
        let target = folder.join("a/b.mp4");
        ensure!(fs::metadata(&target)?.ino() == fs::metadata(&path)?.ino(), "it was copied");
        let other = random_file(&scratch, 2000, 2)?;
        store.put("a/b.mp4", &other, MP4).await?;
        ensure!(fs::read(&target)? == fs::read(&other)? && fs::metadata(&path)?.len() == 1000);
        store.put_bytes("a.m3u8", "#EXTM3U\n".into(), "", None).await?;
        store.put_bytes("a.m3u8", "#EXTM3U".into(), "", None).await?;
        ensure!(fs::read_to_string(folder.join("a.m3u8"))? == "#EXTM3U");
        store.delete("a.m3u8").await?;
        store.delete("a.m3u8").await?;
        ensure!(store.head("a.m3u8").await?.is_none());
        let left = |folder| anyhow::Ok(fs::read_dir(folder)?.count());
        ensure!(left(folder.clone())? == 1 && left(folder.join("a"))? == 1, "drafts were left");

        let one = Store::open(&Storage::File(folder.join("one.mp4")))?;
        one.probe().await?;
        one.put("whatever.mp4", &path, MP4).await?;
        ensure!(fs::metadata(folder.join("one.mp4"))?.len() == 1000);
        ensure!(
            one.put_bytes("a.m3u8", "".into(), "", None)
                .await
                .is_err_and(|e| e.class() == ErrorClass::Permanent)
        );

        let nowhere = Store::open(&Storage::Folder(scratch.join("no")))?;
        for error in [nowhere.probe().await.err(), nowhere.put("a.mp4", &path, MP4).await.err()] {
            let error = error.context("it was stored")?;
            ensure!(
                error.class() == ErrorClass::NotFound && error.to_string().ends_with("create it first"),
                "{error}"
            );
        }
        Ok(())
    })
}

#[test]
fn another_disk_is_copied_to_until_it_is_full() -> Result<()> {
    if !Tmpfs::is_supported_or_skip() {
        return Ok(());
    }
    block_on(async {
        let scratch = ScratchDir::new()?;
        let disk = Tmpfs::mount(scratch.join("disk"), 2 * MIB)?;
        let store = Store::open(&Storage::Folder(disk.path().to_owned()))?;
        let fits = random_file(&scratch, MIB, 1)?;
        store.put("a.mp4", &fits, MP4).await?;
        ensure!(fs::read(disk.path().join("a.mp4"))? == fs::read(&fits)?);
        for error in [
            store.put("b.mp4", &random_file(&scratch, 2 * MIB, 2)?, MP4).await.err(),
            store.put_bytes("b.bin", vec![1; 2 << 20].into(), "", None).await.err(),
        ] {
            let error = error.context("it was stored")?;
            ensure!(error.class() == ErrorClass::Full && error.to_string().contains("no space"), "{error}");
        }
        ensure!(fs::read_dir(disk.path())?.count() == 1, "drafts were left");
        store.put("c.mp4", &random_file(&scratch, MIB / 2, 3)?, MP4).await?;
        disk.make_read_only()?;
        for error in [store.probe().await.err(), store.put("d.mp4", &fits, MP4).await.err()] {
            let error = error.context("it was stored")?;
            ensure!(error.class() == ErrorClass::Denied, "{error}");
        }
        Ok(())
    })
}
