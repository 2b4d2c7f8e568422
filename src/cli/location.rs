//! Where a page is and where a recording goes, as they are typed; what cannot be meant is refused with what
//! can.

use std::path::{Path, PathBuf};

use pagecast_core::spec::SourceUrl;
use url::Url;

/// Endings of file names that ask for something that is not made.
const UNSUPPORTED_EXTENSIONS: [&str; 22] = [
    "3gp", "aac", "avi", "flac", "flv", "gif", "jpeg", "jpg", "m3u8", "m4a", "m4v", "mkv", "mov", "mp3",
    "mpeg", "mpg", "ogg", "opus", "png", "ts", "wav", "webm",
];

/// Whether this is the name of an MP4 file.
pub(super) fn has_mp4_extension(name: &str) -> bool {
    extension(name).as_deref() == Some("mp4")
}

/// The ending of a file name, in small letters.
fn extension(name: &str) -> Option<String> {
    Path::new(name).extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase())
}

/// Takes a file, a folder or a bucket, but no format that is not made.
pub(super) fn parse_output(text: &str) -> Result<String, String> {
    const SUPPORTED_HINT: &str =
        "name a file that ends in .mp4, or a folder or bucket, which with --format hls gets HLS";
    if text == "-" {
        return Err(format!(
            "a recording cannot go to standard output, because an MP4 gets its index when it is complete: {SUPPORTED_HINT}; \
             a live stream goes to a server with --push"
        ));
    }
    let other = extension(text).filter(|ending| UNSUPPORTED_EXTENSIONS.contains(&ending.as_str()));
    match other {
        Some(ending) if !text.contains("://") && !Path::new(text).is_dir() => {
            Err(format!("a recording is MP4 or HLS and cannot be a .{ending} file: {SUPPORTED_HINT}"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// Takes the address of a page. Of a file of this machine it says how to serve it.
pub(super) fn parse_page_url(text: &str) -> Result<SourceUrl, String> {
    match as_local_path(text) {
        Some(path) => Err(serve_hint(&path)),
        None => SourceUrl::parse(text).map_err(|error| error.to_string()),
    }
}

/// The path, if this is one rather than an address.
fn as_local_path(text: &str) -> Option<PathBuf> {
    if let Some(rest) = text.strip_prefix("file:") {
        let parsed = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        return Some(parsed.unwrap_or_else(|| rest.into()));
    }
    let is_path = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start));
    let exists = || !text.is_empty() && !text.contains("://") && Path::new(text).exists();
    (is_path || exists()).then(|| text.into())
}

/// What to type to have this file served and opened.
fn serve_hint(path: &Path) -> String {
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if !path.is_dir() => (folder, name.to_string_lossy()),
        _ => (path, "".into()),
    };
    let folder =
        if folder.as_os_str().is_empty() { ".".into() } else { shell_quote(&folder.to_string_lossy()) };
    let mut page = String::from("http://localhost:8000/");
    page.extend(url::form_urlencoded::byte_serialize(name.as_bytes()).map(|part| part.replace('+', "%20")));
    format!(
        "it is a path of this machine, and pages are opened over HTTP or HTTPS only. Serve it:\n\n  \
         python3 -m http.server --bind 127.0.0.1 --directory {folder} 8000\n\n\
         and open it with\n\n  {page} --allow-net localhost:8000"
    )
}

/// As a shell takes it for one word.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_cannot_be_made_are_refused_with_what_can() {
        for bad in ["-", "y.webm", "talks/y.MKV", "stream.m3u8", "sound.mp3"] {
            let said = parse_output(bad).unwrap_err();
            assert!(said.contains(".mp4") && said.contains("--format hls"), "{bad}: {said}");
        }
        for good in ["a.mp4", "a.MP4", "talks", "talks/2026.11", "s3://rec/a.webm", "", "webm"] {
            assert_eq!(parse_output(good).as_deref(), Ok(good));
        }
        assert!(has_mp4_extension("a.MP4") && !has_mp4_extension("mp4") && !has_mp4_extension("a.mp4.d"));
    }

    #[test]
    fn a_path_is_answered_with_how_to_serve_it() {
        for (path, folder, page) in [
            ("/nowhere/x.html", "/nowhere", "/x.html"),
            ("./x y.html", ".", "/x%20y.html"),
            ("../a b/ü.html", "'../a b'", "/%C3%BC.html"),
            ("file:///nowhere/it's/x.html", "'/nowhere/it'\\''s'", "/x.html"),
            ("file:x.html", "/", "/x.html"),
            ("/", "/", "/"),
        ] {
            let said = parse_page_url(path).unwrap_err();
            let server = format!("python3 -m http.server --bind 127.0.0.1 --directory {folder} 8000");
            let open = format!("http://localhost:8000{page} --allow-net localhost:8000");
            assert!(said.contains(&server) && said.contains(&open), "{path}: {said}");
        }
        // Cargo runs tests in the folder of the crate.
        assert!(parse_page_url("Cargo.toml").unwrap_err().contains("/Cargo.toml --allow-net"));
        for address in ["a.example/x.html", "a.example", "localhost:3000"] {
            let said = parse_page_url(address).unwrap_err();
            assert!(said.contains(&format!("write http://{address}")), "{said}");
        }
        assert!(parse_page_url("https://a.example/").is_ok());
    }
}
