//! What a page tells a test: it asks for `/said/NAME?JSON`, the JSON as `encodeURIComponent` writes it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;

use crate::page_server::PageServer;

/// How often it is looked at what a page said.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What pages said under this name so far, in order: the JSON after the question mark.
///
/// # Errors
/// It is something else.
pub fn all<T: DeserializeOwned>(server: &PageServer, name: &str) -> Result<Vec<T>> {
    let prefix = format!("/said/{name}?");
    let requests = server.requests();
    let texts = requests.iter().filter_map(|request| request.strip_prefix(&prefix));
    let read =
        |text: &str| serde_json::from_str(&percent_decode(text)).with_context(|| format!("{name}: {text}"));
    texts.map(read).collect()
}

/// Waits until a page says something under this name that fits, from the `from`th on; its place, and what it said.
///
/// # Errors
/// None did in time, or one was no JSON.
pub fn wait_until<T: DeserializeOwned + std::fmt::Debug>(
    server: &PageServer,
    name: &str,
    from: usize,
    limit: Duration,
    fits: impl Fn(&T) -> bool,
) -> Result<(usize, T)> {
    let began = Instant::now();
    loop {
        let mut said = all::<T>(server, name)?;
        if let Some(at) = (from..said.len()).find(|at| fits(&said[*at])) {
            return Ok((at, said.swap_remove(at)));
        }
        let last = said.last();
        ensure!(began.elapsed() < limit, "within {limit:?} the page said nothing like it; at last: {last:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Text as `encodeURIComponent` writes it.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_server::PageResponse;
    use crate::viewer::Viewer;

    #[test]
    fn a_page_reports_what_it_sees() -> Result<()> {
        let page = "<script>fetch('/said/seen?' + encodeURIComponent(JSON.stringify(['50 %', innerWidth > 0])))</script>";
        let server = PageServer::start()?.with_route("/", PageResponse::Html(200, page.to_owned()));
        let _viewer = Viewer::open(&server.url("/"))?;
        let fits = |seen: &(String, bool)| seen.1;
        let (at, seen) = wait_until(&server, "seen", 0, Duration::from_secs(60), fits)?;
        assert_eq!((at, seen.0.as_str()), (0, "50 %"));
        Ok(())
    }
}
