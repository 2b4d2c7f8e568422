use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use async_trait::async_trait;
use bytes::Bytes;
use pagecast_fleet::{Cast, CastStats, StoredFile};

use super::*;
use crate::rest::RECORDING_CHUNK_LEN as CHUNK_LEN;
use crate::{RecordingReader, StoredRecordings};

/// A store that has these files of each cast.
#[derive(Debug)]
struct FakeStore(&'static [(&'static str, &'static str)]);

#[async_trait]
impl StoredEvidence for FakeStore {
    async fn list(&self, _: &CastId, max: usize) -> io::Result<Vec<(String, u64)>> {
        let files = self.0.iter().map(|(name, content)| ((*name).to_owned(), content.len() as u64));
        Ok(files.take(max).collect())
    }

    async fn read(&self, _: &CastId, name: &str, _: usize) -> io::Result<Option<Vec<u8>>> {
        match self.0.iter().find(|(file, _)| *file == name) {
            Some((_, "")) => Ok(None),
            Some((_, content)) => Ok(Some(content.as_bytes().to_vec())),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

#[tokio::test]
async fn evidence_of_lost_nodes_comes_from_the_store() {
    let mut server = TestServer::new().await;
    let id = server.create_cast().await;
    server.set_stored_evidence(Arc::new(FakeStore(&[
        ("cast.log", "of a node that is gone"),
        ("cast_r2.log", "old"),
        ("../planted", "x"),
        ("gone.log", ""),
    ])));
    let folder = server.service.cast_folder("evidence", &id);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("cast_r2.log"), b"current").unwrap();
    let path = format!("/v1/casts/{id}/evidence");
    let listed = server.get(TOKEN_ONE, &path).await.expect_status(200);
    let files = listed["files"].as_array().unwrap().iter().map(|file| (&file["name"], &file["bytes"]));
    let expected =
        [(json!("cast.log"), json!(22)), (json!("cast_r2.log"), json!(7)), (json!("gone.log"), json!(0))];
    assert!(files.eq(expected.iter().map(|(name, bytes)| (name, bytes))), "{listed}");
    for (name, content) in [("cast.log", "of a node that is gone"), ("cast_r2.log", "current")] {
        let file = server.get(TOKEN_ONE, &format!("{path}/{name}")).await;
        assert_eq!((file.status.as_u16(), file.body.as_slice()), (200, content.as_bytes()), "{name}");
    }
    server.get(TOKEN_ONE, &format!("{path}/gone.log")).await.expect_error(404, "no-such-file", "-");
    server.get(TOKEN_TWO, &format!("{path}/cast.log")).await.expect_error(404, "no-such-cast", "-");
    // The store does not answer.
    server.get(TOKEN_ONE, &format!("{path}/other.log")).await.expect_error(500, "internal", "-");
}

#[tokio::test]
async fn the_history_of_statistics_is_that_of_all_owners() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/stats");
    assert_eq!(server.get(TOKEN_ONE, &path).await.expect_status(200), json!({"samples": []}));
    let folder = server.service.cast_folder("evidence", &id);
    fs::create_dir_all(&folder).unwrap();
    let line = |second: i64, fps: f64| {
        let stats = CastStats { at_ms: START_MS + second * 1000, fps, ..CastStats::default() };
        serde_json::to_string(&stats).unwrap()
    };
    let lines = |seconds: std::ops::Range<i64>| {
        seconds.map(|second| line(second, second as f64) + "\n").collect::<String>()
    };
    // The process of the first owner was killed while it wrote.
    fs::write(folder.join("stats-1.jsonl"), lines(0..3) + "{\"at_ms\": 17").unwrap();
    fs::write(folder.join("stats-2.jsonl"), lines(10..12)).unwrap();
    let shown = server.get(TOKEN_ONE, &path).await.expect_status(200);
    let fps: Vec<_> =
        shown["samples"].as_array().unwrap().iter().map(|sample| sample["fps"].clone()).collect();
    assert_eq!(fps, [0.0, 1.0, 2.0, 10.0, 11.0]);
    assert_eq!(shown["samples"][4]["at"], "2026-11-21T17:00:11.000Z");
    let evidence = server.get(TOKEN_ONE, &format!("/v1/casts/{id}/evidence")).await.expect_status(200);
    assert_eq!(evidence, json!({"files": []}), "the histories are no evidence");
    fs::write(folder.join("stats-3.jsonl"), lines(20..4500)).unwrap();
    let shown = server.get(TOKEN_ONE, &path).await.expect_status(200);
    let samples = shown["samples"].as_array().unwrap();
    assert!((1000..=2000).contains(&samples.len()), "{}", samples.len());
    server.get(TOKEN_TWO, &path).await.expect_error(404, "no-such-cast", "-");
}

#[tokio::test]
async fn only_evidence_files_are_served() {
    let server = TestServer::new().await;
    let id = server.create_cast().await;
    let path = format!("/v1/casts/{id}/evidence");
    assert_eq!(
        server.get(TOKEN_ONE, &path).await.expect_status(200),
        json!({"files": []}),
        "no evidence yet"
    );
    let folder = server.service.cast_folder("evidence", &id);
    fs::create_dir_all(folder.join("folder")).unwrap();
    fs::write(folder.join("01-freeze.jpg"), b"picture").unwrap();
    fs::write(folder.join("01-freeze.txt"), b"<script>console log").unwrap();
    fs::write(folder.join(".hidden"), b"no").unwrap();
    fs::write(folder.join("a b"), b"no").unwrap();
    fs::write(server.scratch.join("secret.txt"), b"no").unwrap();
    symlink(server.scratch.join("secret.txt"), folder.join("link.txt")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let large = fs::File::create(folder.join("large.bin")).unwrap();
    large.set_len((32 << 20) + 1).unwrap();
    let listed = server.get(TOKEN_ONE, &path).await.expect_status(200);
    let names: Vec<_> = listed["files"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect();
    assert_eq!(names, ["01-freeze.jpg", "01-freeze.txt", "large.bin"]);
    assert_eq!(listed["files"][0]["bytes"], 7);
    let response = server.get(TOKEN_ONE, listed["files"][1]["href"].as_str().unwrap()).await;
    assert_eq!((response.status.as_u16(), response.body.as_slice()), (200, &b"<script>console log"[..]));
    assert_eq!(response.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(response.header("x-content-type-options"), "nosniff");
    assert!(response.header("content-security-policy").contains("sandbox"));
    let picture = server.get(TOKEN_ONE, &format!("{path}/01-freeze.jpg")).await;
    assert_eq!((picture.header("content-type"), picture.body.as_slice()), ("image/jpeg", &b"picture"[..]));
    for name in [
        "link.txt",
        "pipe",
        "folder",
        ".hidden",
        "a%20b",
        "nothing.txt",
        "..",
        "..%2fsecret.txt",
        "%2e%2e%2f%2e%2e%2fsecret.txt",
        "..%2f..%2fsecret.txt",
        "%00",
        "a%00.txt",
    ] {
        server.get(TOKEN_ONE, &format!("{path}/{name}")).await.expect_error(404, "no-such-file", "-");
    }
    server.get(TOKEN_ONE, &format!("{path}/large.bin")).await.expect_error(413, "too-large", "-");
    // The folder itself may have been replaced by a link.
    fs::rename(&folder, server.scratch.join("elsewhere")).unwrap();
    symlink(server.scratch.join("elsewhere"), &folder).unwrap();
    assert_eq!(server.get(TOKEN_ONE, &path).await.expect_status(200), json!({"files": []}));
    server.get(TOKEN_ONE, &format!("{path}/01-freeze.txt")).await.expect_error(404, "no-such-file", "-");
}

/// Recordings in memory: a file of three chunks, and an empty one. In the backup storage there is another.
#[derive(Debug)]
struct FakeRecordings;

#[derive(Debug)]
struct FakeReader {
    backup: bool,
}

fn movie() -> Vec<u8> {
    (0..2 * CHUNK_LEN + 100).map(|at| (at % 251) as u8).collect()
}

impl StoredRecordings for FakeRecordings {
    fn open(&self, _: &Cast, backup: bool) -> io::Result<Arc<dyn RecordingReader>> {
        Ok(Arc::new(FakeReader { backup }))
    }
}

#[async_trait]
impl RecordingReader for FakeReader {
    async fn read(&self, name: &str, from: u64, max: usize) -> io::Result<Option<(Bytes, u64)>> {
        let content = match (name, self.backup) {
            ("movie.mp4", false) => movie(),
            ("backup.mp4", true) => b"backup".to_vec(),
            ("empty.ts", false) => Vec::new(),
            ("broken.mp4", false) => return Err(io::Error::other("planted: the bucket does not answer")),
            _ => return Ok(None),
        };
        let from = usize::try_from(from).unwrap().min(content.len());
        let to = (from + max).min(content.len());
        Ok(Some((Bytes::copy_from_slice(&content[from..to]), content.len() as u64)))
    }

    fn is_local(&self) -> bool {
        false
    }
}

fn stored_event(names: &[&str], backup: bool, url: Option<&str>) -> EventKind {
    let file = |name: &&str| StoredFile {
        name: (*name).to_owned(),
        bytes: 7,
        begin_ms: START_MS,
        end_ms: START_MS + 1000,
        media_id: None,
        url: url.map(str::to_owned),
    };
    EventKind::Stored { files: names.iter().map(file).collect(), complete: true, backup, error: None }
}

impl TestServer {
    async fn get_range(&self, path: &str, range: &str) -> TestResponse {
        self.send(request("GET", path, TOKEN_ONE).header("range", range).body(Body::empty()).unwrap()).await
    }
}

#[tokio::test]
async fn files_of_a_recording_are_sent_in_ranges() {
    let mut server = TestServer::new().await;
    server.service.recordings = Some(Arc::new(FakeRecordings));
    server.router = router_of(super::super::router(server.service.clone()));
    let id = server.create_cast().await;
    let claim = server.claim().await;
    let path = format!("/v1/casts/{id}/files");
    assert_eq!(server.get(TOKEN_ONE, &path).await.expect_status(200), json!({"files": []}), "not stored yet");
    server.report(&claim, stored_event(&["movie.m3u8", "movie.mp4"], false, None)).await;
    let listed = server.get(TOKEN_ONE, &path).await.expect_status(200);
    let expected = json!({"files": [
        {"name": "movie.m3u8", "bytes": 7, "content_type": "application/vnd.apple.mpegurl",
            "href": format!("{path}/movie.m3u8"), "playable": false},
        {"name": "movie.mp4", "bytes": 7, "content_type": "video/mp4",
            "href": format!("{path}/movie.mp4"), "playable": true},
    ]});
    assert_eq!(listed, expected);
    let (file, movie) = (format!("{path}/movie.mp4"), movie());
    let whole = server.get(TOKEN_ONE, &file).await;
    assert_eq!((whole.status.as_u16(), whole.body == movie), (200, true), "{} bytes", whole.body.len());
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("content-disposition"), "inline; filename=\"movie.mp4\"");
    assert!(whole.header("content-security-policy").contains("sandbox"));
    let saved = server.get(TOKEN_ONE, &format!("{file}?download=true")).await;
    assert_eq!(saved.header("content-disposition"), "attachment; filename=\"movie.mp4\"");
    server.get(TOKEN_ONE, &format!("{file}?download=1")).await.expect_error(
        400,
        "invalid-parameter",
        "download",
    );
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, movie.len()),
        ("bytes=-20", movie.len() - 20, movie.len()),
        (&format!("bytes=10-{}", CHUNK_LEN + 5) as &str, 10, CHUNK_LEN + 6),
    ] {
        let part = server.get_range(&file, range).await;
        assert_eq!((part.status.as_u16(), part.body == movie[from..to]), (206, true), "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {from}-{}/{}", to - 1, movie.len()));
        assert_eq!(part.header("content-length"), (to - from).to_string());
    }
    let behind = server.get_range(&file, "bytes=99999999-").await;
    behind.expect_error(416, "range-not-satisfiable", "Range");
    let empty = server.get(TOKEN_ONE, &format!("{path}/empty.ts")).await;
    assert_eq!((empty.status.as_u16(), empty.body.len()), (200, 0));
    for name in ["other.mp4", "..", "..%2fmovie.mp4", "%2e%2e%2f%2e%2e%2fsecret", ".hidden", "a%00b", "a%20b"]
    {
        server.get(TOKEN_ONE, &format!("{path}/{name}")).await.expect_error(404, "no-such-file", "-");
    }
    let broken = server.get(TOKEN_ONE, &format!("{path}/broken.mp4")).await;
    broken.expect_error(500, "internal", "-");
    assert_no_secrets(&broken.json());
    server.get(TOKEN_TWO, &file).await.expect_error(404, "no-such-cast", "-");
}

#[tokio::test]
async fn files_come_from_the_backup_and_from_video_on_demand() {
    let mut server = TestServer::new().await;
    server.service.recordings = Some(Arc::new(FakeRecordings));
    server.router = router_of(super::super::router(server.service.clone()));
    let id = server.create_cast().await;
    let claim = server.claim().await;
    let path = format!("/v1/casts/{id}/files");
    server.get(TOKEN_ONE, &format!("{path}/backup.mp4")).await.expect_error(404, "no-such-file", "-");
    server.report(&claim, stored_event(&["backup.mp4"], true, None)).await;
    let file = server.get(TOKEN_ONE, &format!("{path}/backup.mp4")).await;
    assert_eq!((file.status.as_u16(), file.body.as_slice()), (200, &b"backup"[..]));
    server.report(&claim, stored_event(&["asset.mp4"], false, Some("https://vod.example/asset.mp4"))).await;
    let elsewhere = server.get(TOKEN_ONE, &format!("{path}/asset.mp4")).await;
    assert_eq!(
        (elsewhere.status.as_u16(), elsewhere.header("location")),
        (302, "https://vod.example/asset.mp4")
    );
    // What a storage returned is no address of a browser.
    server.report(&claim, stored_event(&["asset.mp4"], false, Some("javascript:alert(1)"))).await;
    server.get(TOKEN_ONE, &format!("{path}/asset.mp4")).await.expect_error(404, "no-such-file", "-");
}
