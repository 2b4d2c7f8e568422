use std::fs;
use std::io;
use std::os::unix::fs::symlink;

use async_trait::async_trait;

use super::*;

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
