//! Reports of pages to tests: requests for `/report/NAME?JSON`, with the JSON encoded by
//! `encodeURIComponent`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;

use crate::page_server::PageServer;

/// Pause between two checks for new reports.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// All reports with this name so far, in order.
///
/// # Errors
/// A report is not JSON of this type.
pub fn all<T: DeserializeOwned>(server: &PageServer, name: &str) -> Result<Vec<T>> {
    let prefix = format!("/report/{name}?");
    let requests = server.requests();
    let texts = requests.iter().filter_map(|request| request.strip_prefix(&prefix));
    let parse =
        |text: &str| serde_json::from_str(&percent_decode(text)).with_context(|| format!("{name}: {text}"));
    texts.map(parse).collect()
}

/// Waits for a report with this name that `matches`, among those from index `from` on. Returns its index and
/// the report.
///
/// # Errors
/// No report matches within `limit`, or one is not JSON of this type.
pub fn wait_until<T: DeserializeOwned + std::fmt::Debug>(
    server: &PageServer,
    name: &str,
    from: usize,
    limit: Duration,
    matches: impl Fn(&T) -> bool,
) -> Result<(usize, T)> {
    let began = Instant::now();
    loop {
        let mut reports = all::<T>(server, name)?;
        if let Some(at) = (from..reports.len()).find(|at| matches(&reports[*at])) {
            return Ok((at, reports.swap_remove(at)));
        }
        let last = reports.last();
        ensure!(began.elapsed() < limit, "no matching report {name} within {limit:?}; the last is {last:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Decodes text that `encodeURIComponent` encoded.
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
        let page = "<script>
            fetch('/report/seen?' + encodeURIComponent(JSON.stringify(['50 %', innerWidth > 0])))
        </script>";
        let server = PageServer::start()?.with_route("/", PageResponse::Html(200, page.to_owned()));
        let _viewer = Viewer::open(&server.url("/"))?;
        let has_width = |report: &(String, bool)| report.1;
        let (at, seen) = wait_until(&server, "seen", 0, Duration::from_secs(60), has_width)?;
        assert_eq!((at, seen.0.as_str()), (0, "50 %"));
        Ok(())
    }
}
