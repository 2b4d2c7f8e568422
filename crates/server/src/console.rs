//! The web console: static files below `/console/`. It uses nothing but the REST API.

use std::io::Write as _;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

/// What the console may load and do: its own files and this service, and nothing of anybody else but
/// recordings, which it plays from the video-on-demand service that has them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
                      media-src 'self' blob: https:; connect-src 'self'; base-uri 'none'; \
                      form-action 'self'; \
                      frame-ancestors 'none'";

/// A file of the console.
#[derive(Debug)]
struct File {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

/// Embeds files of the folder `console`.
macro_rules! files {
    ($($name:literal: $content_type:literal,)*) => {
        [$(File {
            name: $name,
            content_type: concat!($content_type, "; charset=utf-8"),
            content: include_str!(concat!("../console/", $name)),
        },)*]
    };
}

/// The page, which shows the view that its address names.
static PAGE: File = {
    let [page] = files!["index.html": "text/html",];
    page
};

static ASSETS: &[File] = &files![
    "access_keys.js": "text/javascript",
    "api.js": "text/javascript",
    "application.js": "text/javascript",
    "application_settings.js": "text/javascript",
    "application_tests.js": "text/javascript",
    "applications.js": "text/javascript",
    "audit.js": "text/javascript",
    "cast.js": "text/javascript",
    "cast_call.js": "text/javascript",
    "cast_delivery.js": "text/javascript",
    "cast_facts.js": "text/javascript",
    "cast_files.js": "text/javascript",
    "cast_request.js": "text/javascript",
    "cast_row.js": "text/javascript",
    "cast_stream.js": "text/javascript",
    "cast_tabs.js": "text/javascript",
    "casts.js": "text/javascript",
    "check.js": "text/javascript",
    "code_tabs.js": "text/javascript",
    "console.css": "text/css",
    "dom.js": "text/javascript",
    "evidence.js": "text/javascript",
    "explorer.js": "text/javascript",
    "explorer_explain.js": "text/javascript",
    "explorer_schema.js": "text/javascript",
    "format.js": "text/javascript",
    "keys.js": "text/javascript",
    "main.js": "text/javascript",
    "nodes.js": "text/javascript",
    "preview.js": "text/javascript",
    "pushes.js": "text/javascript",
    "router.js": "text/javascript",
    "schema.js": "text/javascript",
    "schema_form.js": "text/javascript",
    "sign_in.js": "text/javascript",
    "start.js": "text/javascript",
    "theme.js": "text/javascript",
    "thumbnails.js": "text/javascript",
    "timeline.js": "text/javascript",
    "timeline_model.js": "text/javascript",
    "timeline_paint.js": "text/javascript",
    "use.js": "text/javascript",
    "virtual_list.js": "text/javascript",
];

/// Smallest file that is compressed, in bytes: smaller ones fit into one packet anyway.
const MIN_COMPRESSED_LEN: usize = 1024;

/// A file as it is sent.
#[derive(Debug)]
struct Asset {
    file: &'static File,
    /// The content as gzip.
    gzip: Option<Bytes>,
    /// Version of the content, which browsers send to learn whether it has changed.
    version: HeaderValue,
    /// The same for gzip.
    gzip_version: HeaderValue,
}

impl Asset {
    fn new(file: &'static File) -> Self {
        let hash = base16ct::lower::encode_string(&digest(&SHA256, file.content.as_bytes()).as_ref()[..12]);
        let version = |ending: &str| {
            HeaderValue::from_str(&format!("\"{hash}{ending}\"")).expect("digits and letters in quotes")
        };
        let gzip = (file.content.len() >= MIN_COMPRESSED_LEN).then(|| compress(file.content)).flatten();
        Self { file, gzip, version: version(""), gzip_version: version("-gzip") }
    }
}

fn compress(content: &str) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    encoder.write_all(content.as_bytes()).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// All files, and the page as the last one.
static PREPARED: LazyLock<Vec<Asset>> =
    LazyLock::new(|| ASSETS.iter().chain([&PAGE]).map(Asset::new).collect());

/// Router of the console.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/console", get(async || Redirect::permanent("/console/")))
        .route("/console/", get(async |headers: HeaderMap| find("", &headers)))
        .route(
            "/console/{*path}",
            get(async |Path(path): Path<String>, headers: HeaderMap| find(&path, &headers)),
        )
}

/// A file, or the page, which reads the rest of its address itself. A missing file is not the page, so that a
/// browser does not run the page as a script.
fn find(path: &str, headers: &HeaderMap) -> Response {
    let is_page = !(path.ends_with(".js") || path.ends_with(".css"));
    let name = if is_page { PAGE.name } else { path };
    match PREPARED.iter().find(|asset| asset.file.name == name) {
        Some(asset) => respond(asset, headers),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Whether a browser takes gzip.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| {
        value.split(',').any(|coding| {
            let (name, quality) = coding.split_once(';').unwrap_or((coding, ""));
            name.trim().eq_ignore_ascii_case("gzip") && !matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00")
        })
    })
}

fn respond(asset: &Asset, headers: &HeaderMap) -> Response {
    let gzip = asset.gzip.as_ref().filter(|_| accepts_gzip(headers));
    let version = if gzip.is_some() { &asset.gzip_version } else { &asset.version };
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|known| known == version);
    let mut response = match gzip {
        _ if is_known => StatusCode::NOT_MODIFIED.into_response(),
        Some(gzip) => ([(CONTENT_ENCODING, "gzip")], gzip.clone()).into_response(),
        None => Response::new(Body::from(asset.file.content)),
    };
    let fixed = [
        (CONTENT_TYPE, asset.file.content_type),
        // Browsers ask each time, so that a new version of the service has no old files.
        (CACHE_CONTROL, "no-cache"),
        (VARY, "accept-encoding"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let answer = response.headers_mut();
    for (name, value) in fixed {
        answer.insert(name, HeaderValue::from_static(value));
    }
    answer.insert(ETAG, version.clone());
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Most bytes of all files as they are sent, so that the console opens at once on a slow line.
    const MAX_LEN: usize = 120_000;

    #[test]
    fn all_files_of_the_folder_are_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let mut expected: Vec<_> = ASSETS.iter().map(|file| file.name).chain([PAGE.name]).collect();
        expected.sort_unstable();
        let mut found: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        let sent = |asset: &Asset| asset.gzip.as_ref().map_or(asset.file.content.len(), Bytes::len);
        let len: usize = PREPARED.iter().map(sent).sum();
        assert!(len <= MAX_LEN, "{len} bytes");
    }

    #[tokio::test]
    async fn files_are_compressed_and_sent_once() {
        let get = async |name: &str, encoding: &str, known: Option<&HeaderValue>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(encoding).unwrap());
            if let Some(known) = known {
                headers.insert(IF_NONE_MATCH, known.clone());
            }
            let response = find(name, &headers);
            let (head, body) = response.into_parts();
            (head, axum::body::to_bytes(body, usize::MAX).await.unwrap())
        };
        let main = ASSETS.iter().find(|file| file.name == "main.js").unwrap();
        let (head, body) = get("main.js", "gzip, deflate, br", None).await;
        assert_eq!(head.headers[CONTENT_ENCODING], "gzip");
        let mut text = String::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, main.content);
        for encoding in ["identity", "br", "gzip;q=0", "xgzip"] {
            let (plain, body) = get("main.js", encoding, None).await;
            assert!(!plain.headers.contains_key(CONTENT_ENCODING), "{encoding}");
            assert_eq!(body, main.content);
            assert_ne!(plain.headers[ETAG], head.headers[ETAG], "another encoding is another version");
        }
        let (again, body) = get("main.js", "gzip", Some(&head.headers[ETAG])).await;
        assert_eq!((again.status, body.len()), (StatusCode::NOT_MODIFIED, 0));
        let (page, _) = get("casts/some-cast", "gzip", None).await;
        assert_eq!(
            (page.status, &page.headers[CONTENT_TYPE]),
            (StatusCode::OK, &HeaderValue::from_static(PAGE.content_type))
        );
        assert_eq!(get("no-such.js", "gzip", None).await.0.status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn files_load_only_files_that_exist() {
        let names: Vec<_> = ASSETS.iter().map(|file| file.name).collect();
        for file in ASSETS.iter().chain([&PAGE]) {
            for named in file
                .content
                .split(['"', '\''])
                .filter(|text| text.starts_with("./") || text.starts_with("/console/"))
            {
                let name = named.trim_start_matches("./").trim_start_matches("/console/");
                if name.ends_with(".js") || name.ends_with(".css") {
                    assert!(names.contains(&name), "{} names {named}", file.name);
                }
            }
            assert!(!file.content.contains("innerHTML"), "{} inserts HTML", file.name);
        }
    }
}
