//! Headless Chromium that tests inspect while it runs, by DevTools and in real time, unlike
//! [`crate::screenshot`].

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::stream::MaybeTlsStream;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::chromium::{CHROMIUM, unprivileged_command};
use crate::scratch::ScratchDir;

const START_TIMEOUT: Duration = Duration::from_secs(60);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A running browser; killed when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    port: u16,
    #[expect(dead_code, reason = "deletes the profile when dropped")]
    scratch: ScratchDir,
}

/// A page of a [`Browser`].
#[derive(Debug)]
pub struct Page {
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    next_id: u64,
}

impl Browser {
    /// Starts Chromium without a window. Pages may play sound without a click.
    ///
    /// # Errors
    /// Chromium is missing, or does not start within 60 s.
    pub fn start() -> Result<Self> {
        let scratch = ScratchDir::new()?;
        let home = scratch.world_writable_folder("home")?;
        let profile = home.join("profile");
        let mut chromium = unprivileged_command(Path::new(CHROMIUM));
        chromium.env("HOME", &home).env("TMPDIR", &home).process_group(0);
        chromium.arg(format!("--user-data-dir={}", profile.display()));
        chromium.args(["--headless=new", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0"]);
        chromium.args(["--autoplay-policy=no-user-gesture-required", "--force-color-profile=srgb"]);
        // Background pages are drawn like visible ones.
        chromium.args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"]);
        chromium.args(["--disable-backgrounding-occluded-windows", "about:blank"]);
        chromium.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = chromium.spawn().context("cannot start chromium")?;
        let mut browser = Self { child, port: 0, scratch };
        let (file, deadline) = (profile.join("DevToolsActivePort"), Instant::now() + START_TIMEOUT);
        while browser.port == 0 {
            ensure!(Instant::now() < deadline, "chromium does not start within {START_TIMEOUT:?}");
            if let Some(status) = browser.child.try_wait()? {
                bail!("chromium ended with {status}");
            }
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            // The first line is complete when there is a second one.
            if let Some((port, _)) = text.split_once('\n') {
                browser.port = port.trim().parse()?;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(browser)
    }

    /// Opens a page.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn open(&self, url: &str) -> Result<Page> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let head = format!("PUT /json/new?about:blank HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n", self.port);
        stream.write_all(format!("{head}Connection: close\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        let (mut answer, mut piece) = (String::new(), [0; 4096]);
        // Chromium ignores `Connection: close`.
        let body = loop {
            let length = stream.read(&mut piece).context("no answer")?;
            ensure!(length > 0, "the browser closed the connection after {answer}");
            answer.push_str(&String::from_utf8_lossy(&piece[..length]));
            if let Some((_, body)) = answer.split_once("\r\n\r\n")
                && body.trim_end().ends_with('}')
            {
                break body;
            }
        };
        let target: Value = serde_json::from_str(body).with_context(|| format!("no target: {answer}"))?;
        let address = target["webSocketDebuggerUrl"].as_str().context("no socket")?.to_owned();
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
        let (socket, _) = client(address, MaybeTlsStream::Plain(stream)).context("no DevTools")?;
        let mut page = Page { socket, next_id: 0 };
        page.call("Page.enable", &json!({}))?;
        // All pages of a window count as focused.
        page.call("Emulation.setFocusEmulationEnabled", &json!({ "enabled": true }))?;
        page.navigate(url)?;
        Ok(page)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // All its processes are in its group.
        let _gone = pid.map(|pid| kill_process_group(pid, Signal::KILL));
        let _reaped = self.child.wait();
    }
}

impl Page {
    /// Navigates to a URL, which may be the current one.
    ///
    /// # Errors
    /// The page cannot be opened.
    pub fn navigate(&mut self, url: &str) -> Result<()> {
        let result = self.call("Page.navigate", &json!({ "url": url }))?;
        ensure!(result["errorText"].is_null(), "{url}: {}", result["errorText"]);
        self.wait_until("the page is loaded", RESPONSE_TIMEOUT, "document.readyState === 'complete'")
            .map(drop)
    }

    /// Sets the screen size that the page sees, in CSS pixels.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn emulate_device(&mut self, width: u32, height: u32, mobile: bool) -> Result<()> {
        let scale = if mobile { 2 } else { 1 };
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", &metrics)?;
        self.call("Emulation.setTouchEmulationEnabled", &json!({ "enabled": mobile })).map(drop)
    }

    /// Sets media features that the page sees, as `(name, value)` pairs like
    /// `("prefers-color-scheme", "light")`.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn emulate_media(&mut self, features: &[(&str, &str)]) -> Result<()> {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.call("Emulation.setEmulatedMedia", &json!({ "features": features })).map(drop)
    }

    /// Sets the time zone that the page sees, such as `UTC`.
    ///
    /// # Errors
    /// The browser does not know it.
    pub fn emulate_time_zone(&mut self, name: &str) -> Result<()> {
        self.call("Emulation.setTimezoneOverride", &json!({ "timezoneId": name })).map(drop)
    }

    /// Evaluates a script in each new document before the document's own scripts.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn add_document_script(&mut self, source: &str) -> Result<()> {
        self.call("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": source })).map(drop)
    }

    /// Size of the JavaScript heap after a garbage collection, in bytes.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn heap_bytes(&mut self) -> Result<f64> {
        self.call("HeapProfiler.collectGarbage", &json!({}))?;
        let usage = self.call("Runtime.getHeapUsage", &json!({}))?;
        usage["usedSize"].as_f64().context("no size")
    }

    /// Value of a JavaScript expression, or of its promise.
    ///
    /// # Errors
    /// The expression throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true,
        });
        let result = self.call("Runtime.evaluate", &params)?;
        let thrown = &result["exceptionDetails"];
        ensure!(thrown.is_null(), "the page throws: {}", thrown["exception"]["description"]);
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is neither null nor false, and returns its value.
    ///
    /// # Errors
    /// The expression stays null or false for `limit`.
    pub fn wait_until(&mut self, what: &str, limit: Duration, expression: &str) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let value = self.evaluate(expression)?;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                let text = self.evaluate("document.body.innerText.slice(0, 400)")?;
                bail!("not within {limit:?}: {what}; the page shows {text}");
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Screenshot of the page, as PNG.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn screenshot(&mut self) -> Result<Vec<u8>> {
        let result = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        Ok(decode_base64(result["data"].as_str().context("no picture")?))
    }

    /// Calls a DevTools method and returns its result.
    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.next_id += 1;
        let id = self.next_id;
        let text = json!({ "id": id, "method": method, "params": params }).to_string();
        self.socket.send(Message::text(text))?;
        let deadline = Instant::now() + RESPONSE_TIMEOUT;
        while Instant::now() < deadline {
            let Message::Text(text) =
                self.socket.read().with_context(|| format!("{method} is not answered"))?
            else {
                continue;
            };
            let message: Value = serde_json::from_str(&text)?;
            if message["id"] == id {
                ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                return Ok(message["result"].clone());
            }
        }
        bail!("{method} is not answered within {RESPONSE_TIMEOUT:?}")
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for six in text.bytes().filter_map(value) {
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_server::{PageResponse, PageServer};

    #[test]
    fn pages_are_evaluated() -> Result<()> {
        let page = "<p></p><script>
            setTimeout(() => document.querySelector('p').textContent = innerWidth, 300)
        </script>";
        let server = PageServer::start()?.with_route("/", PageResponse::Html(200, page.to_owned()));
        let browser = Browser::start()?;
        let mut page = browser.open(&server.url("/"))?;
        page.wait_until("the text", RESPONSE_TIMEOUT, "document.querySelector('p').textContent.length > 0")?;
        page.emulate_device(390, 844, true)?;
        page.navigate(&server.url("/"))?;
        assert_eq!(
            page.wait_until(
                "its width",
                RESPONSE_TIMEOUT,
                "document.querySelector('p').textContent || false"
            )?,
            "980"
        );
        assert!(page.evaluate("nothing.at.all").is_err());
        assert!(page.screenshot()?.starts_with(b"\x89PNG"));
        Ok(())
    }
}
