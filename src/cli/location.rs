//! Parsers of the page's address and the recording's location; an error names what is possible instead.

use std::path::{Path, PathBuf};

use pagecast_core::spec::SourceUrl;
use url::Url;

/// File extensions of formats that are not supported.
const UNSUPPORTED_EXTENSIONS: [&str; 22] = [
    "3gp", "aac", "avi", "flac", "flv", "gif", "jpeg", "jpg", "m3u8", "m4a", "m4v", "mkv", "mov", "mp3",
    "mpeg", "mpg", "ogg", "opus", "png", "ts", "wav", "webm",
];

/// Returns whether this is the name of an MP4 file.
pub(super) fn has_mp4_extension(name: &str) -> bool {
    extension(name).as_deref() == Some("mp4")
}

/// Returns the extension of a file name, in lower case.
fn extension(name: &str) -> Option<String> {
    Path::new(name).extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase())
}

/// Accepts a file, a folder or a bucket; refuses file extensions of other formats.
pub(super) fn parse_output(text: &str) -> Result<String, String> {
    const SUPPORTED_HINT: &str =
        "name a file that ends in .mp4, or a folder or bucket, with --format hls for HLS";
    if text == "-" {
        return Err(format!(
            "a recording cannot go to standard output, as an MP4 file gets its index at the end: \
             {SUPPORTED_HINT}; \
            to stream live, send to a server with --push"
        ));
    }
    let other = extension(text).filter(|extension| UNSUPPORTED_EXTENSIONS.contains(&extension.as_str()));
    match other {
        Some(extension) if !text.contains("://") && !Path::new(text).is_dir() => {
            Err(format!("a recording is MP4 or HLS and cannot be a .{extension} file: {SUPPORTED_HINT}"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// Parses the address of a page; for a file on this machine, the error explains how to serve it.
pub(super) fn parse_page_url(text: &str) -> Result<SourceUrl, String> {
    match as_local_path(text) {
        Some(path) => Err(serve_hint(&path)),
        None => SourceUrl::parse(text).map_err(|error| error.to_string()),
    }
}

/// Returns the path, if this is one rather than an address.
fn as_local_path(text: &str) -> Option<PathBuf> {
    if let Some(rest) = text.strip_prefix("file:") {
        let parsed = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
        return Some(parsed.unwrap_or_else(|| rest.into()));
    }
    let is_path = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start));
    let exists = || !text.is_empty() && !text.contains("://") && Path::new(text).exists();
    (is_path || exists()).then(|| text.into())
}

/// Returns the commands that serve and open this file.
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
        "this is a path on this machine, but pages are opened over HTTP or HTTPS only. Serve it:\n\n  \
         python3 -m http.server --bind 127.0.0.1 --directory {folder} 8000\n\n\
         and open it with\n\n  {page} --allow-net localhost:8000"
    )
}

/// Quotes a text as one word for a shell.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-~".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_outputs_are_refused_with_the_alternatives() {
        for bad in ["-", "y.webm", "talks/y.MKV", "stream.m3u8", "sound.mp3"] {
            let message = parse_output(bad).unwrap_err();
            assert!(message.contains(".mp4") && message.contains("--format hls"), "{bad}: {message}");
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
            let message = parse_page_url(path).unwrap_err();
            let server = format!("python3 -m http.server --bind 127.0.0.1 --directory {folder} 8000");
            let open = format!("http://localhost:8000{page} --allow-net localhost:8000");
            assert!(message.contains(&server) && message.contains(&open), "{path}: {message}");
        }
        // Cargo runs tests in the folder of the crate, which has this file.
        assert!(parse_page_url("Cargo.toml").unwrap_err().contains("/Cargo.toml --allow-net"));
        for address in ["a.example/x.html", "a.example", "localhost:3000"] {
            let message = parse_page_url(address).unwrap_err();
            assert!(message.contains(&format!("write http://{address}")), "{message}");
        }
        assert!(parse_page_url("https://a.example/").is_ok());
    }
}
