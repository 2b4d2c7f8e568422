//! The console in real Chromium, used as a person does: sign in, start a cast from the form, watch it, stop
//! it, play its recording, see what went wrong, deliver a callback again, drain a node, sign out; also when
//! the service restarts, and with names that try to be HTML.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::browser::{Browser, Page};
use pagecast_testkit::command;
use pagecast_testkit::service::{ADMIN_TOKEN, REST_TOKEN};
use pagecast_testkit::{
    FleetConfig, MachineLock, PageServer, ReceivedRequest, ServiceConfig, ServiceProcess, TestFleet,
    WebhookReceiver,
};
use serde_json::{Value, json};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(90);
/// A phone, in CSS pixels.
const PHONE: (u32, u32) = (390, 844);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Functions of the tests in the page.
const HELPERS: &str = "
    window.find = (selector, text) =>
        [...document.querySelectorAll(selector)].find((found) => !text || found.textContent.includes(text));
    window.press = (selector, text) => {
        const found = find(selector, text);
        if (found) found.click();
        return Boolean(found);
    };
    window.labelled = (text) => {
        const labels = [...document.querySelectorAll('label')];
        const label = labels.find((label) => label.textContent.toLowerCase().startsWith(text));
        return label && document.getElementById(label.htmlFor);
    };
    window.fill = (input, value) => {
        if (!input) return false;
        input.value = value;
        input.dispatchEvent(new Event('input', { bubbles: true }));
        input.dispatchEvent(new Event('change', { bubbles: true }));
        return true;
    };
    window.errors = window.errors || [];
    window.addEventListener('error', (event) => errors.push(event.message));
    true";

/// The console of a service in a browser.
struct Console {
    page: Page,
    _browser: Browser,
}

impl Console {
    /// Opens the service's own address, which leads to the console.
    fn open(service: &ServiceProcess) -> Result<Self> {
        Self::open_at(&service.url("/"))
    }

    /// Opens an address that leads to the console.
    fn open_at(address: &str) -> Result<Self> {
        let browser = Browser::start()?;
        let mut page = browser.open(address)?;
        page.wait_until("the console is shown", TIMEOUT, "location.pathname.startsWith('/console/')")?;
        page.evaluate(HELPERS)?;
        Ok(Self { page, _browser: browser })
    }

    /// Signs in with a token.
    fn sign_in(&mut self, token: &str) -> Result<()> {
        self.wait_for("the form", "find('#token')")?;
        self.page.evaluate(&format!("fill(find('#token'), {})", json!(token)))?;
        self.press("button", "Sign in")
    }

    /// Opens a tab of a cast, as from a link.
    fn open_cast(&mut self, service: &ServiceProcess, id: &str, tab: &str) -> Result<()> {
        // Signing in is over when the list is there.
        self.wait_for("the list", "find('nav a', 'Casts')")?;
        self.page.navigate(&service.url(&format!("/console/casts/{id}?tab={tab}")))?;
        self.page.evaluate(HELPERS)?;
        self.wait_for("the cast", "find('.sheet-head')").map(drop)
    }

    /// Saves what the page shows in `target/tmp`, for whoever wants to look.
    fn save_screenshot(&mut self, name: &str) -> Result<()> {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("console-{name}.png"));
        Ok(std::fs::write(file, self.page.screenshot()?)?)
    }

    fn wait_for(&mut self, what: &str, expression: &str) -> Result<Value> {
        self.page.wait_until(what, TIMEOUT, &format!("Boolean({expression})"))
    }

    /// Waits until there is such an element with this text, and clicks it.
    fn press(&mut self, selector: &str, text: &str) -> Result<()> {
        let expression = format!("press({}, {})", json!(selector), json!(text));
        self.page.wait_until(&format!("there is {selector} with {text}"), TIMEOUT, &expression).map(drop)
    }

    /// Waits until the page shows this text.
    fn wait_for_text(&mut self, text: &str) -> Result<()> {
        self.wait_for(
            &format!("the text {text}"),
            &format!("document.body.innerText.includes({})", json!(text)),
        )
        .map(drop)
    }

    /// Waits until the URL of the page contains this.
    fn wait_for_address(&mut self, part: &str) -> Result<()> {
        self.wait_for(&format!("the address has {part}"), &format!("location.href.includes({})", json!(part)))
            .map(drop)
    }

    /// Checks that no script of the page has failed.
    fn expect_no_errors(&mut self) -> Result<()> {
        let errors = self.page.evaluate("errors")?;
        ensure!(errors == json!([]), "{errors}");
        Ok(())
    }
}

/// Creates a small cast of a page, which is recorded.
fn create_cast(service: &ServiceProcess, url: &str) -> Result<String> {
    let request = json!({ "url": url, "width": 320, "height": 180, "fps": 15, "recording": {} });
    create_cast_of(service, &request)
}

/// Creates a cast, and returns its id.
fn create_cast_of(service: &ServiceProcess, request: &Value) -> Result<String> {
    let made = service.rest("POST", "/v1/casts", Some(request))?;
    ensure!(made.status == 201, "{}", made.text());
    Ok(made.json()?["id"].as_str().context("no id")?.to_owned())
}

#[test]
fn a_person_starts_watches_and_stops_a_cast() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?;
    let mut service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let mut console = Console::open(&service)?;
    console.sign_in("nobody-has-this-token")?;
    console.wait_for_text("not known")?;
    console.sign_in(REST_TOKEN)?;
    console.wait_for_text("All")?;
    ensure!(console.page.evaluate("Boolean(find('nav a', 'Nodes'))")? == false, "an application sees nodes");

    console.press("nav a", "Start")?;
    console.wait_for("the form", "labelled('url')")?;
    console.page.evaluate("fill(labelled('url'), 'counter.html')")?;
    console.press("button", "Start the cast")?;
    console.wait_for_text("must begin with http")?;
    for (field, value) in [
        ("url", json!(pages.url("counter.html"))),
        ("width", json!(320)),
        ("height", json!(180)),
        ("fps", json!(15)),
    ] {
        let filled = console.page.evaluate(&format!("fill(labelled('{field}'), {value})"))?;
        ensure!(filled == true, "there is no field {field}");
    }
    console.press("button", "Start the cast")?;
    console.wait_for_address("/console/casts/")?;
    let address = console.page.evaluate("location.pathname")?;
    let id = address.as_str().and_then(|path| path.rsplit('/').next()).context("no id")?.to_owned();
    service.wait_until_cast(&id, "it is live", TIMEOUT, |cast| cast["state"] == "live")?;
    console.wait_for("the cast is shown as live", "find('.sheet-head', 'live')")?;
    let picture = "find('.preview img').naturalWidth > 0 && find('.preview img').src";
    let first = console.page.wait_until("there is a picture", TIMEOUT, picture)?;
    console.wait_for("the picture moves", &format!("find('.preview img').src !== {first}"))?;
    console.save_screenshot("cast")?;

    console.press("button", "Stop")?;
    console.press("dialog button", "Stop")?;
    service.wait_until_cast(&id, "it is closed", TIMEOUT, |cast| cast["closed"] == true)?;
    console.wait_for("the cast is shown as ended", "find('.sheet-head', 'ended')")?;
    console.press("[role=tab]", "Files")?;
    console.wait_for("the file", &format!("find('#cast-panel', '{id}') && find('#cast-panel', '.mp4')"))?;
    console.press(".play", "Play")?;
    console.wait_for("the recording plays", "find('.player video')?.currentTime > 0.3")?;
    let size = console.page.evaluate("[find('video').videoWidth, find('video').videoHeight]")?;
    ensure!(size == json!([320, 180]), "the recording plays at {size}");
    // To a moment that has not been loaded.
    console.page.evaluate("find('video').currentTime = find('video').duration - 0.2")?;
    console.wait_for("it plays to its end", "find('video').ended")?;
    console.press(".player button", "")?;
    console.press("nav a", "Casts")?;
    console.wait_for("it is listed", &format!("find('[data-id=\"{id}\"]', 'ended')"))?;
    console.expect_no_errors()?;

    console.press(".account", "")?;
    console.press("dialog button", "Sign out")?;
    console.wait_for("the form", "find('#token')")?;
    service.stop(STOP_TIMEOUT)?;
    service.wait_until_exited(STOP_TIMEOUT)
}

#[test]
fn a_link_signs_in_once() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let service =
        ServiceProcess::start(PAGECAST, &ServiceConfig { no_capacity: true, ..ServiceConfig::default() })?;
    let log = service.log();
    let printed = log.split_whitespace().find(|word| word.contains("/console/sign-in#code="));
    let printed = printed.with_context(|| format!("the service prints no link: {log}"))?.to_owned();
    let mut command = command::program(PAGECAST);
    command.args(["console", "--print", "--url", &service.url("")]).env("PAGECAST_CALL_TOKEN", ADMIN_TOKEN);
    let made = String::from_utf8(command::run_for_stdout(&mut command)?)?;
    for link in [printed.as_str(), made.trim()] {
        let mut first = Console::open_at(link)?;
        first.wait_for("the administrator is signed in", "find('nav a', 'Nodes')")?;
        first.expect_no_errors()?;
        let mut second = Console::open_at(link)?;
        second.wait_for_text("used already")?;
        second.wait_for("the form", "find('#token')")?;
    }
    Ok(())
}

#[test]
fn a_fault_is_on_the_timeline_with_its_picture() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?;
    let service = ServiceProcess::start(PAGECAST, &ServiceConfig::default())?;
    let request = json!({
        "url": pages.url("counter.html?do=freeze&after=500&loads=1"), "width": 320, "height": 180, "fps": 15,
        "recording": {}, "checks": { "freeze_s": 2 },
    });
    let id = create_cast_of(&service, &request)?;
    let mut console = Console::open(&service)?;
    console.sign_in(REST_TOKEN)?;
    console.open_cast(&service, &id, "timeline")?;
    console.wait_for("the reload is shown", "find('main', '1 reload')")?;
    console.wait_for("there is a picture", "find('.preview img')?.naturalWidth > 0")?;
    console.wait_for("its picture is on the timeline", "find('.evidence-mark img')?.naturalWidth > 0")?;
    console.wait_for("the page is live again", "find('.sheet-head', 'live')")?;
    console.press(".evidence-mark", "")?;
    console.wait_for("the picture is shown", "find('dialog img')?.naturalWidth === 320")?;
    console.save_screenshot("fault")?;
    console.expect_no_errors()
}

#[test]
fn a_callback_is_delivered_again() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (pages, receiver) = (PageServer::start()?, WebhookReceiver::start()?);
    let config =
        ServiceConfig { no_capacity: true, callback_url: Some(receiver.url("")), ..ServiceConfig::default() };
    let service = ServiceProcess::start(PAGECAST, &config)?;
    let id = create_cast(&service, &pages.url("static.html"))?;
    let of_queued = |requests: &[ReceivedRequest]| {
        requests.iter().filter(|request| request.json()["event"] == "queued").count()
    };
    receiver.wait_until("the callback arrives", TIMEOUT, |requests| of_queued(requests) == 1)?;
    let mut console = Console::open(&service)?;
    console.sign_in(REST_TOKEN)?;
    console.open_cast(&service, &id, "callbacks")?;
    console.press("#cast-panel button", "Again")?;
    receiver.wait_until("it arrives again", TIMEOUT, |requests| of_queued(requests) == 2)?;
    console.wait_for(
        "both attempts are listed",
        "document.querySelectorAll('#cast-panel tbody tr').length === 2",
    )?;
    console.press("#cast-panel button", "Show")?;
    console.wait_for("the message is shown", &format!("find('dialog pre', '{id}')"))?;
    console.save_screenshot("callback")?;
    console.expect_no_errors()
}

#[test]
fn a_node_of_a_fleet_is_drained() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let mut fleet = TestFleet::start(PAGECAST, &FleetConfig::of_nodes(3))?;
    let mut console = Console::open(&fleet.nodes[0])?;
    console.sign_in(ADMIN_TOKEN)?;
    console.press("nav a", "Nodes")?;
    console.wait_for("all nodes are ready", "document.querySelectorAll('.node-card').length === 3")?;
    console.save_screenshot("nodes")?;
    let pressed = console.page.evaluate(
        "(() => { const card = find('.node-card', 'n1'); card.querySelector('.actions button').click();
            return true; })()",
    )?;
    ensure!(pressed == true);
    console.press("dialog button", "Drain")?;
    // It has no casts, so it ends at once.
    fleet.nodes[1].wait_until_exited(TIMEOUT)?;
    console.wait_for("it is gone", "!find('.node-card', 'n1') || find('.node-card', 'no heartbeat')")?;
    console.expect_no_errors()
}

#[test]
fn the_list_follows_casts_and_comes_back_after_a_restart() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let pages = PageServer::start()?;
    let mut service =
        ServiceProcess::start(PAGECAST, &ServiceConfig { no_capacity: true, ..ServiceConfig::default() })?;
    let mut console = Console::open(&service)?;
    console.sign_in(ADMIN_TOKEN)?;
    console.wait_for("the list", "find('nav a', 'Nodes')")?;
    let first = create_cast(&service, &pages.url("counter.html"))?;
    console.wait_for("the first cast", &format!("find('[data-id=\"{first}\"]', 'queued')"))?;
    service.kill();
    console.wait_for_text("Reconnecting")?;
    service.restart()?;
    let second = create_cast(&service, &pages.url("static.html"))?;
    console.wait_for("the second cast", &format!("find('[data-id=\"{second}\"]', 'static.html')"))?;
    ensure!(console.page.evaluate("document.body.innerText.includes('Reconnecting')")? == false);
    service.rest("POST", &format!("/v1/casts/{first}/stop"), None)?;
    console.wait_for("the end", &format!("!find('[data-id=\"{first}\"]', 'queued')"))?;
    console.expect_no_errors()
}

#[test]
fn every_view_fits_a_phone() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let service =
        ServiceProcess::start(PAGECAST, &ServiceConfig { no_capacity: true, ..ServiceConfig::default() })?;
    let long = format!("http://127.0.0.1:9/{}", "a-long-path-".repeat(30));
    let id = create_cast(&service, &long)?;
    let mut console = Console::open(&service)?;
    console.page.emulate_device(PHONE.0, PHONE.1, true)?;
    console.sign_in(ADMIN_TOKEN)?;
    console.wait_for("the list", &format!("find('[data-id=\"{id}\"]')"))?;
    let views = [
        ("casts", String::new()),
        ("cast", format!("casts/{id}")),
        ("request", format!("casts/{id}?tab=settings")),
        ("start", "start".to_owned()),
        ("nodes", "nodes".to_owned()),
        ("applications", "applications".to_owned()),
        ("application", "applications/test".to_owned()),
        ("explorer", "explorer".to_owned()),
        ("audit", "audit".to_owned()),
    ];
    for (name, view) in views {
        console.page.navigate(&service.url(&format!("/console/{view}")))?;
        console.page.evaluate(HELPERS)?;
        console.wait_for("the view", "find('main h1') && !find('main .loading')")?;
        console.save_screenshot(&format!("phone-{name}"))?;
        let width = console.page.evaluate("document.scrollingElement.scrollWidth")?;
        ensure!(width.as_u64() == Some(PHONE.0.into()), "{name} is {width} pixels wide");
        console.expect_no_errors()?;
    }
    Ok(())
}

#[test]
fn names_of_others_are_text() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let service =
        ServiceProcess::start(PAGECAST, &ServiceConfig { no_capacity: true, ..ServiceConfig::default() })?;
    let mut console = Console::open(&service)?;
    console.sign_in(ADMIN_TOKEN)?;
    console.wait_for("the list", "find('nav a', 'Nodes')")?;
    console.page.evaluate("window.attacked = false")?;
    let hostile = "http://127.0.0.1:9/<img src=x onerror=attacked=true><script>attacked=true</script>";
    let id = create_cast(&service, hostile)?;
    let row = format!("find('[data-id=\"{id}\"]')");
    console.wait_for("the cast", &row)?;
    for view in ["timeline", "events", "evidence", "files", "callbacks", "request"] {
        let address = json!(service.url(&format!("/console/casts/{id}?tab={view}")));
        console.page.evaluate(&format!("location.assign({address})"))?;
        console.wait_for(
            "the cast",
            "document.readyState === 'complete' && document.querySelector('.sheet-head')",
        )?;
        console.page.evaluate(HELPERS)?;
        console
            .wait_for("its address is text", "find('.sheet-head', '<img src=x onerror=attacked=true>')")?;
        let found = console
            .page
            .evaluate("window.attacked === true || document.querySelectorAll('main script').length > 0")?;
        ensure!(found == false, "the URL was read as HTML in {view}");
    }
    Ok(())
}
