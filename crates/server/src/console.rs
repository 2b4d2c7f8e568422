//! The web console: static files below `/console/`. It uses nothing but the REST API.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;

/// What the console may load and do: its own files and this service, and nothing of anybody else but
/// recordings, which it plays from the bucket where they are stored.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
                      media-src 'self' blob: https:; connect-src 'self'; base-uri 'none'; form-action 'self'; \
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

/// Versions of the files, which browsers send to learn whether a file has changed.
static VERSIONS: LazyLock<Vec<(&str, HeaderValue)>> = LazyLock::new(|| {
    let version = |file: &File| {
        let hash = base16ct::lower::encode_string(&digest(&SHA256, file.content.as_bytes()).as_ref()[..12]);
        (file.name, HeaderValue::from_str(&format!("\"{hash}\"")).expect("digits in quotes"))
    };
    ASSETS.iter().chain([&PAGE]).map(version).collect()
});

/// Router of the console.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/console", get(async || Redirect::permanent("/console/")))
        .route("/console/", get(async |headers: HeaderMap| respond(&PAGE, &headers)))
        .route(
            "/console/{*path}",
            get(async |Path(path): Path<String>, headers: HeaderMap| find(&path, &headers)),
        )
}

/// A file, or the page, which reads the rest of its address itself. A missing file is not the page, so that a
/// browser does not run the page as a script.
fn find(path: &str, headers: &HeaderMap) -> Response {
    match ASSETS.iter().find(|file| file.name == path) {
        Some(file) => respond(file, headers),
        None if path.ends_with(".js") || path.ends_with(".css") => StatusCode::NOT_FOUND.into_response(),
        None => respond(&PAGE, headers),
    }
}

fn respond(file: &File, headers: &HeaderMap) -> Response {
    let version = VERSIONS.iter().find(|(name, _)| *name == file.name).map(|(_, version)| version);
    let is_known =
        version.is_some_and(|version| headers.get_all(IF_NONE_MATCH).iter().any(|known| known == version));
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(file.content))
    };
    let fixed = [
        (CONTENT_TYPE, file.content_type),
        // Browsers ask each time, so that a new version of the service has no old files.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let answer = response.headers_mut();
    for (name, value) in fixed {
        answer.insert(name, HeaderValue::from_static(value));
    }
    if let Some(version) = version {
        answer.insert(ETAG, version.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of all files, so that the console opens at once on a slow line.
    const MAX_LEN: usize = 400 << 10;

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
        let len: usize = ASSETS.iter().map(|file| file.content.len()).sum();
        assert!(len < MAX_LEN, "{len} bytes");
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
