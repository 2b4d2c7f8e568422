//! Every view of the console with the fixed data of `tests/console/mock_api.mjs`: in dark, in light and on a
//! phone. Screenshots are in `target/tmp/console-views`, for whoever wants to look.
//! `UPDATE=1 cargo test --test console_views` writes the pictures of the README.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::MachineLock;
use pagecast_testkit::browser::{Browser, Page};
use pagecast_testkit::command::{program, run_for_output};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(60);
const DESKTOP: (u32, u32) = (1440, 900);
const PHONE: (u32, u32) = (390, 844);
/// Size of the README's pictures, in pixels.
const PICTURE: (u32, u32) = (1280, 800);
/// Longest picture of the README, in bytes.
const MAX_PICTURE_LEN: usize = 200_000;
/// Greatest height of a screenshot that shows a whole view, in CSS pixels.
const MAX_HEIGHT: u64 = 4000;

/// Ids in `tests/console/data/casts.mjs`.
const LIVE: &str = "19a0000dbba177777777777777777777";
const ENDED: &str = "19a0000dbba077777777777777777777";
const VENDOR: &str = "19a0000dbb9f77777777777777777777";

/// Records what fails, and counts changes of the document.
const WATCH: &str = "
    window.failures = [];
    window.changedAt = 0;
    window.changes = 0;
    addEventListener('error', (event) => failures.push(String(event.message)));
    addEventListener('unhandledrejection', (event) => failures.push(String(event.reason)));
    addEventListener('securitypolicyviolation', (event) => failures.push(`policy: ${event.blockedURI}`));
    console.error = (...parts) => failures.push(parts.join(' '));
    new MutationObserver((list) => {
        changedAt = performance.now();
        changes += list.length;
    }).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });";

/// Lets the page's clock stand at the time of the mock's data (`NOW` in `tests/console/data/common.mjs`).
const CLOCK: &str = "
    Date.now = () => 1773744120000;
    window.Date = class extends Date {
        constructor(...parts) {
            super(...(parts.length ? parts : [Date.now()]));
        }
    };";

/// Functions of the tests in the page.
const HELPERS: &str = "
    window.find = (selector, text = '') =>
        [...document.querySelectorAll(selector)].find((found) => found.textContent.includes(text));
    window.fill = (name, value) => {
        const labels = [...document.querySelectorAll('label')];
        const label = labels.find((label) => label.textContent.toLowerCase().startsWith(name));
        const input = label && document.getElementById(label.htmlFor);
        if (!input) return false;
        input.value = value;
        input.dispatchEvent(new Event('input', { bubbles: true }));
        return true;
    };
    window.press = (selector, text) => {
        const found = find(selector, text);
        if (found) found.click();
        return Boolean(found);
    };
    // All running casts in sight have their picture.
    window.arePicturesShown = () => {
        const end = document.querySelector('.scroller').getBoundingClientRect().bottom;
        const rows = [...document.querySelectorAll('.row:not([hidden])')]
            .filter((row) => ['live', 'starting'].includes(row.dataset.state))
            .filter((row) => row.getBoundingClientRect().top < end);
        return rows.length > 3 && rows.every((row) => row.querySelector('img.shown'));
    };
    // Nothing changes, loads or moves.
    window.isSettled = () => performance.now() - changedAt > 300
        && [...document.images].every((image) => !image.getAttribute('src') || image.complete)
        && document.getAnimations().every((animation) => animation.playState !== 'running');
    true";

/// Height of the screen at which the view does not scroll.
const HEIGHT: &str = "(() => {
    const view = document.querySelector('#view') || document.documentElement;
    return innerHeight + Math.max(0, view.scrollHeight - view.clientHeight);
})()";

/// Elements that scroll sideways, in words.
const TOO_WIDE: &str = "
    [document.documentElement, document.body, ...document.querySelectorAll('#view, .sheet, .scroller')]
    .filter((element) => element.scrollWidth > element.clientWidth + 1)
    .map(({ tagName, className, scrollWidth, clientWidth }) =>
        `${tagName}.${className}: ${scrollWidth} > ${clientWidth}`)";

/// Whether text of others outside of code turns the direction of what follows.
const TURNS_TEXT: &str = r"(() => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const { data, parentElement } = texts.currentNode;
        if (data.includes('\u202e') && !parentElement.closest('pre, textarea')) return true;
    }
    return false;
})()";

/// Serious and critical violations that axe-core finds.
const RUN_AXE: &str = "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations
    .filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(' | ')}`))";

/// A view of the console.
struct View {
    name: &'static str,
    /// Address below `/console`.
    path: String,
    /// Token of the session; without one, nobody is signed in.
    token: Option<&'static str>,
    /// Expressions that are awaited one after the other; the last one says that the view is shown.
    steps: Vec<String>,
    /// Whether the view scrolls as a whole, so that its screenshot is as tall as it is.
    is_tall: bool,
}

impl View {
    fn new(name: &'static str, path: impl Into<String>, shown: impl Into<String>) -> Self {
        Self { name, path: path.into(), token: Some("admin"), steps: vec![shown.into()], is_tall: true }
    }

    /// Adds an expression that does something, and one that is awaited afterwards.
    fn then(mut self, action: &str, shown: &str) -> Self {
        self.steps.extend([action.to_owned(), shown.to_owned()]);
        self
    }

    fn casts() -> Self {
        let shown = "arePicturesShown()";
        Self { is_tall: false, ..Self::new("casts", "/casts", shown) }
    }

    fn cast() -> Self {
        let shown = "find('.preview img')?.naturalWidth && find('.evidence-mark img')?.naturalWidth
            && find('.lane-label.metric')";
        Self::new("cast-timeline", format!("/casts/{LIVE}"), shown)
    }

    fn tab(name: &'static str, id: &str, tab: &str, shown: &str) -> Self {
        Self::new(name, format!("/casts/{id}?tab={tab}"), shown)
    }

    fn all() -> Vec<Self> {
        let sign_in = Self::new("sign-in", "/sign-in", "find('.provider a', 'Example Corp')");
        let use_view = Self::new("use", "/use", "find('.bars')");
        let result = "find('.explorer-layout .group', 'Signature')";
        vec![
            Self { token: None, ..sign_in },
            Self { token: Some("app"), ..use_view },
            Self::casts(),
            Self::cast(),
            Self::new("cast-ended", format!("/casts/{ENDED}"), "find('.lane-label.metric')"),
            Self::tab("cast-events", LIVE, "events", "find('#cast-panel tbody tr', 'reloaded')"),
            Self::tab("cast-evidence", LIVE, "evidence", "find('#cast-panel figure img')?.naturalWidth"),
            Self::tab("cast-files", ENDED, "files", "find('#cast-panel tbody tr', 'keynote.mp4')"),
            Self::tab("cast-callbacks", LIVE, "callbacks", "find('#cast-panel tbody tr', '500')"),
            Self::tab("cast-request", LIVE, "request", "find('#cast-panel pre', 'curl')"),
            Self::tab("cast-request-vendor", VENDOR, "request", "find('#cast-panel pre', 'RoomId')"),
            Self::new("start", "/start", "find('button', 'Start the cast')"),
            Self::new("check", "/start", "find('button', 'Check the page')")
                .then("fill('url', 'https://dash.example.com/boards/1')", "true")
                .then("press('button', 'Check the page')", "find('.check-panel img')?.naturalWidth"),
            Self::new("nodes", "/nodes", "find('.node-card', 'worker-3') && find('.queue tbody tr')"),
            Self::new("applications", "/applications", "find('tbody tr', 'newsroom') && find('.bars')"),
            Self::new(
                "application",
                "/applications/newsroom",
                "find('.settings-form') && find('.bars') && find('td', 'AKNEWSROOM2')",
            ),
            Self::new("explorer", "/explorer?action=GetWebCastTask", "find('#explorer-key option')")
                .then("press('button', 'Fill with examples')", "true")
                .then("press('button', 'Send the call')", result),
            Self::new("explorer-explain", "/explorer?view=explain", "find('#explain-request')")
                .then("find('#explain-request').value = 'POST / HTTP/1.1'", "true")
                .then("press('[type=submit]', 'Explain')", "find('.checks li.bad')"),
            Self { is_tall: false, ..Self::new("audit", "/audit", "find('.audit tbody tr')") },
        ]
    }
}

/// The mock of the API; killed when dropped.
struct MockApi {
    child: Child,
    port: u16,
}

impl MockApi {
    fn start(options: &[&str]) -> Result<Self> {
        let mut command = program("node");
        command.arg(root().join("tests/console/mock_api.mjs")).args(options);
        // Its standard input closes with the test, however that ends.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let mut mock = Self { child, port: 0 };
        mock.port = line.trim().parse().with_context(|| format!("the mock prints {line:?}"))?;
        Ok(mock)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/console{path}", self.port)
    }
}

impl Drop for MockApi {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// How the console is looked at.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    color_scheme: &'static str,
    size: (u32, u32),
}

const DARK: Kind = Kind { name: "dark", color_scheme: "dark", size: DESKTOP };
const LIGHT: Kind = Kind { name: "light", color_scheme: "light", size: DESKTOP };
const ON_A_PHONE: Kind = Kind { name: "phone", color_scheme: "dark", size: PHONE };

impl Kind {
    fn is_phone(self) -> bool {
        self.size == PHONE
    }

    fn set_size(self, page: &mut Page, height: u32) -> Result<()> {
        page.emulate_device(self.size.0, height, self.is_phone())
    }
}

/// A browser that shows views of a mock.
struct ViewBrowser {
    mock: MockApi,
    page: Page,
    kind: Kind,
    _browser: Browser,
}

impl ViewBrowser {
    fn new(kind: Kind) -> Result<Self> {
        let mock = MockApi::start(&[])?;
        let browser = Browser::start()?;
        let mut page = browser.open("about:blank")?;
        page.add_document_script(WATCH)?;
        page.add_document_script(CLOCK)?;
        page.emulate_time_zone("UTC")?;
        page.emulate_media(&[
            ("prefers-color-scheme", kind.color_scheme),
            ("prefers-reduced-motion", "reduce"),
        ])?;
        Ok(Self { mock, page, kind, _browser: browser })
    }

    /// Opens a view and waits until it is shown completely.
    fn show(&mut self, view: &View) -> Result<()> {
        self.kind.set_size(&mut self.page, self.kind.size.1)?;
        if let Some(token) = view.token {
            // The request that signs in has to come from a page of the mock.
            if self.page.evaluate("location.protocol")? != "http:" {
                self.page.navigate(&self.mock.url("/sign-in"))?;
            }
            sign_in(&mut self.page, token)?;
        }
        self.page.navigate(&self.mock.url(&view.path))?;
        self.page.evaluate(HELPERS)?;
        for step in &view.steps {
            self.page.wait_until(step, TIMEOUT, &format!("Boolean({step})"))?;
        }
        if view.is_tall {
            let height = self.page.evaluate(HEIGHT)?.as_u64().context("no height")?.min(MAX_HEIGHT);
            self.kind.set_size(&mut self.page, u32::try_from(height)?)?;
        }
        self.page.wait_until("nothing changes", TIMEOUT, "isSettled()").map(drop)
    }

    /// Saves a screenshot, and returns what is wrong with the view.
    fn examine(&mut self, view: &View, axe: &str) -> Result<Vec<String>> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console-views");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}-{}.png", view.name, self.kind.name));
        std::fs::write(file, self.page.screenshot()?)?;
        self.page.evaluate(axe)?;
        let mut found = Vec::new();
        for (what, expression) in
            [("too wide", TOO_WIDE), ("a script failed", "failures"), ("axe-core", RUN_AXE)]
        {
            let list = self.page.evaluate(expression)?;
            let list = list.as_array().with_context(|| format!("{what}: no list but {list}"))?;
            found.extend(list.iter().map(|entry| format!("{}: {what}: {entry}", view.name)));
        }
        let is_attacked = "window.attacked !== undefined
            || document.querySelector('body script, img[onerror]') !== null";
        if self.page.evaluate(is_attacked)? == true {
            found.push(format!("{}: text was read as HTML", view.name));
        }
        if self.page.evaluate(TURNS_TEXT)? == true {
            found.push(format!("{}: text turns its direction", view.name));
        }
        Ok(found)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Signs in by a request of the page, which must be one of the mock.
fn sign_in(page: &mut Page, token: &str) -> Result<()> {
    let request = json!({ "method": "POST", "body": json!({ "token": token }).to_string() });
    let status =
        page.evaluate(&format!("fetch('/v1/session', {request}).then((response) => response.status)"))?;
    ensure!(status == 201, "signing in: {status}");
    Ok(())
}

/// Source of axe-core.
fn read_axe() -> Result<String> {
    run_for_output(&mut program(root().join("tests/third-party/install")))
        .context("cannot install axe-core")?;
    let file = root().join("target/third-party/node_modules/axe-core/axe.min.js");
    // The value of the script is not wanted.
    Ok(std::fs::read_to_string(file)? + "; true")
}

fn examine_all_views(kind: Kind) -> Result<()> {
    let _turn = MachineLock::shared()?;
    let axe = read_axe()?;
    let mut browser = ViewBrowser::new(kind)?;
    let mut found = Vec::new();
    for view in View::all() {
        browser.show(&view).with_context(|| view.name)?;
        found.extend(browser.examine(&view, &axe).with_context(|| view.name)?);
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

#[test]
fn views_are_in_order_in_dark() -> Result<()> {
    examine_all_views(DARK)
}

#[test]
fn views_are_in_order_in_light() -> Result<()> {
    examine_all_views(LIGHT)
}

#[test]
fn views_are_in_order_on_a_phone() -> Result<()> {
    examine_all_views(ON_A_PHONE)
}

#[test]
fn the_pictures_of_the_readme_exist() -> Result<()> {
    for (name, view, kind) in
        [("console-cast.png", View::cast(), DARK), ("console-casts.png", View::casts(), LIGHT)]
    {
        let file: PathBuf = root().join("docs/pictures").join(name);
        if std::env::var_os("UPDATE").is_some() {
            let _turn = MachineLock::shared()?;
            let mut browser = ViewBrowser::new(Kind { size: PICTURE, ..kind })?;
            browser.show(&View { is_tall: false, ..view })?;
            std::fs::write(&file, browser.page.screenshot()?)?;
        }
        let len = std::fs::read(&file).with_context(|| format!("{name}: UPDATE=1 writes it"))?.len();
        ensure!(len <= MAX_PICTURE_LEN, "{name} has {len} bytes");
    }
    Ok(())
}

/// Tests with many casts.
mod many {
    use super::*;

    const CASTS: u64 = 5000;
    /// Most row elements in the document: a screen of them, and some above and below.
    const MAX_ROWS: u64 = 100;
    /// Changed casts each second.
    const CHANGES: &str = "--changes=200";
    const WARM_UP: Duration = Duration::from_secs(10);
    const DURATION: Duration = Duration::from_secs(30);
    /// Fewest changes of the document during these seconds: each event changes all visible rows.
    const MIN_CHANGES: u64 = 100;
    /// Most growth of the heap during these seconds, in MB.
    const MAX_GROWTH_MB: f64 = 5.0;

    /// Scrolls up to 40 screens further. Returns the number of casts seen so far, and the most row elements.
    const SCROLL: &str = "(async () => {
        window.seen ||= new Set();
        window.mostRows ||= 0;
        const scroller = document.querySelector('.scroller');
        const frame = () => new Promise(requestAnimationFrame);
        let atEnd = false;
        for (let step = 0; step < 40 && !atEnd; step += 1) {
            await frame();
            await frame();
            const rows = document.querySelectorAll('.rows > .row');
            mostRows = Math.max(mostRows, rows.length);
            for (const row of rows) if (!row.hidden) seen.add(row.dataset.id);
            atEnd = scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 1;
            scroller.scrollTop += scroller.clientHeight * 0.8;
        }
        return [seen.size, mostRows];
    })()";

    #[test]
    fn the_list_shows_5000_casts_and_its_memory_does_not_grow() -> Result<()> {
        let _turn = MachineLock::shared()?;
        let mock = MockApi::start(&[&format!("--casts={CASTS}"), CHANGES])?;
        let browser = Browser::start()?;
        let mut page = browser.open(&mock.url("/sign-in"))?;
        page.add_document_script(WATCH)?;
        page.emulate_device(DESKTOP.0, DESKTOP.1, false)?;
        sign_in(&mut page, "admin")?;
        page.navigate(&mock.url("/casts"))?;
        let rows = "document.querySelectorAll('.rows > .row').length > 5";
        page.wait_until("the list is shown", TIMEOUT, rows)?;

        // At the end of the list, the next page of ended casts may still be loading.
        let expression = format!("{SCROLL}.then(([size, rows]) => size >= {CASTS} && [size, rows])");
        let shown = page.wait_until("all casts are shown", 4 * TIMEOUT, &expression)?;
        let (seen, most_rows) = (shown[0].as_u64().unwrap_or(0), shown[1].as_u64().unwrap_or(u64::MAX));
        println!("{seen} casts in at most {most_rows} row elements");
        ensure!(seen == CASTS && most_rows <= MAX_ROWS, "{seen} casts in {most_rows} row elements");

        page.evaluate("document.querySelector('.scroller').scrollTop = 0; seen = null; true")?;
        std::thread::sleep(WARM_UP);
        let (before, changes) = (page.heap_bytes()?, count_changes(&mut page)?);
        std::thread::sleep(DURATION);
        let (after, later_changes) = (page.heap_bytes()?, count_changes(&mut page)?);
        println!(
            "heap: {:.1} MB, then {:.1} MB; {changes}, then {later_changes} changes",
            before / 1e6,
            after / 1e6
        );
        ensure!(later_changes - changes > MIN_CHANGES, "{} changes", later_changes - changes);
        ensure!(after - before < MAX_GROWTH_MB * 1e6, "the heap grows from {before} to {after} bytes");
        ensure!(page.evaluate("failures")? == json!([]), "{}", page.evaluate("failures")?);
        Ok(())
    }

    /// Number of changes of the document so far.
    fn count_changes(page: &mut Page) -> Result<u64> {
        let changes: Value = page.evaluate("changes")?;
        changes.as_u64().context("no number")
    }
}
