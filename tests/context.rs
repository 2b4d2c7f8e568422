//! Context of a page: headers, cookies, password, language, device, styles and scripts reach the page and its
//! server, and no other server.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::image::{Rect, RgbImage};
use pagecast_testkit::{MachineLock, Outcome, PageResponse, PageServer, PagecastCommand, ScratchDir};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(40);
/// The colour #0f766e after decoding.
const TEAL: [f64; 3] = [15.0, 118.0, 110.0];
const RED: [f64; 3] = [255.0, 0.0, 0.0];
const BLACK: [f64; 3] = [0.0, 0.0, 0.0];
/// The whole picture of 1280x720.
const WHOLE_PAGE: Rect = Rect { x: 0, y: 0, width: 1280, height: 720 };
/// The area of a frame with half the width, without its edges.
const RIGHT_HALF: Rect = Rect { x: 660, y: 0, width: 600, height: 720 };
/// JavaScript function with which a page reports to the test.
const REPORT_SCRIPT: &str =
    "const report = (what) => fetch('/report/' + encodeURIComponent(what), {mode: 'no-cors'});";
/// `Authorization` of user `me` with password `secret`.
const BASIC_AUTH: &str = "Basic bWU6c2VjcmV0";

fn record_command(url: &str) -> PagecastCommand {
    PagecastCommand::record(PAGECAST, url).option("duration", "4s")
}

fn html_response(body: &str) -> PageResponse {
    PageResponse::Html(
        200,
        format!("<!doctype html><meta charset=utf-8><title>x</title><script>{REPORT_SCRIPT}</script>{body}"),
    )
}

/// Reports of pages to this server, in order.
fn reports(server: &PageServer) -> Vec<String> {
    let requests = server.requests();
    requests.iter().filter_map(|r| r.strip_prefix("/report/")).map(|s| s.replace("%20", " ")).collect()
}

fn ensure_reported(server: &PageServer, what: &str) -> Result<()> {
    let all = reports(server);
    ensure!(all.iter().any(|s| s == what), "{what:?} was not reported, only {all:#?}");
    Ok(())
}

fn ensure_colour(picture: &RgbImage, area: Rect, colour: [f64; 3], what: &str) -> Result<()> {
    let mean = picture.mean_rgb(area);
    let near = mean.iter().zip(colour).all(|(actual, expected)| (actual - expected).abs() < 4.0);
    ensure!(near, "{what}: {mean:?} instead of {colour:?}");
    Ok(())
}

fn ensure_not_leaked(outcome: &Outcome, secret: &str) -> Result<()> {
    ensure!(!outcome.stderr.contains(secret) && !outcome.stdout.contains(secret), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn headers_are_for_the_own_origin_only() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let third = PageServer::start()?.with_route("/frame", html_response("<script>report('frame')</script>"));
    let elsewhere = |path: &str| third.url(path).replace("127.0.0.1", "localhost");
    let own = PageServer::start()?
        .with_route("/away", PageResponse::Redirect(third.url("/redirected")))
        .with_route(
            "/",
            html_response(&format!(
                "<img src='{}'><iframe src='{}'></iframe><script>
            fetch('/own'); fetch('/away', {{mode: 'no-cors'}}); fetch('{}', {{mode: 'no-cors'}})</script>",
                third.url("/image"),
                elsewhere("/frame"),
                third.url("/fetched"),
            )),
        );
    let outcome = record_command(&own.url("/"))
        .option("header", "X-Room: blue hunter2")
        .option("header", "Accept-Language: tlh")
        .env("RUST_LOG", "debug")
        .finish(TIMEOUT)?;
    outcome.recording()?;
    ensure_not_leaked(&outcome, "hunter2")?;
    for path in ["/", "/own", "/away"] {
        let sent = own.request_header_values(path, "x-room");
        ensure!(sent == [Some("blue hunter2".to_owned())], "{path} came with {sent:?}");
        let language = own.request_header_values(path, "accept-language");
        ensure!(language == [Some("tlh".to_owned())], "{path} came with {language:?}");
    }
    for path in ["/image", "/frame", "/fetched", "/redirected", "/report/frame"] {
        let sent = third.request_header_values(path, "x-room");
        ensure!(!sent.is_empty() && sent.iter().all(Option::is_none), "{path} came with {sent:?}");
    }
    Ok(())
}

#[test]
fn a_page_that_moves_to_another_server_leaves_the_headers_behind() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let there = PageServer::start()?.with_route("/", html_response("<script>report('here')</script>"));
    let here = PageServer::start()?.with_route("/", PageResponse::Redirect(there.url("/")));
    record_command(&here.url("/")).option("header", "X-Room: blue").finish(TIMEOUT)?.recording()?;
    ensure!(
        here.request_header_values("/", "x-room") == [Some("blue".to_owned())],
        "{:?}",
        here.request_header_values("/", "x-room")
    );
    for path in ["/", "/report/here"] {
        ensure!(
            there.request_header_values(path, "x-room") == [None],
            "{path}: {:?}",
            there.request_header_values(path, "x-room")
        );
    }
    Ok(())
}

#[test]
fn cookies_are_there_from_the_first_request_on() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?
        .with_route("/deep/page", html_response("<script>report(document.cookie)</script>"));
    let outcome = record_command(&server.url("/deep/page"))
        .option("cookie", "session=abc==")
        .option("cookie", "b=2")
        .finish(TIMEOUT)?;
    outcome.recording()?;
    let sent = server.request_header_values("/deep/page", "cookie");
    ensure!(sent == [Some("session=abc==; b=2".to_owned())], "{sent:?}");
    ensure_reported(&server, "session%3Dabc%3D%3D%3B b%3D2")
}

#[test]
fn a_password_opens_the_own_server_only() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let locked = |body: &str| {
        PageResponse::BasicAuth(BASIC_AUTH.into(), format!("<script>{REPORT_SCRIPT}</script>{body}"))
    };
    let third = PageServer::start()?.with_route("/", locked("third"));
    let (address, other) = (third.url("/"), third.url("/").replace("127.0.0.1", "localhost"));
    let own = PageServer::start()?.with_route("/own", locked("own")).with_route(
        "/",
        locked(&format!(
            "<style>html {{ background: #0f766e }} iframe {{ display: none }}</style><script>
            fetch('/own').then(answer => report('own ' + answer.status));
            fetch('{address}', {{mode: 'no-cors'}}).finally(() => report('third is done'));
            const frame = Object.assign(document.createElement('iframe'), {{src: '{other}'}});
            frame.onload = () => report('frame is done');
            document.documentElement.append(frame)</script>"
        )),
    );
    let outcome = record_command(&own.url("/")).option("basic-auth", "me:secret").finish(TIMEOUT)?;
    for what in ["own 200", "third is done", "frame is done"] {
        ensure_reported(&own, what)?;
    }
    let given = third.request_header_values("/", "authorization");
    ensure!(given.len() >= 2 && given.iter().all(Option::is_none), "{given:?}");
    ensure_colour(&outcome.recording()?.frame_at(1.5)?, WHOLE_PAGE, TEAL, "no password prompt")?;
    let wrong = record_command(&own.url("/")).option("basic-auth", "me:hunter2").finish(TIMEOUT)?;
    wrong.expect_failure(3, &["HTTP 401"])?;
    ensure_not_leaked(&wrong, "hunter2")
}

#[test]
fn no_password_prompt_is_shown() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?
        .with_route("/locked", PageResponse::BasicAuth(BASIC_AUTH.into(), String::new()))
        .with_route(
            "/",
            html_response(
                "<style>html { background: #0f766e }</style><script>
            fetch('/locked').then(answer => report('locked ' + answer.status))</script>",
            ),
        );
    let file = record_command(&server.url("/")).finish(TIMEOUT)?.recording()?;
    ensure_reported(&server, "locked 401")?;
    ensure_colour(&file.frame_at(1.5)?, WHOLE_PAGE, TEAL, "the page")?;
    record_command(&server.url("/locked")).finish(TIMEOUT)?.expect_failure(3, &["HTTP 401"])
}

#[test]
fn language_clock_colours_and_name() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?.with_route(
        "/",
        html_response(
            "<script>
            report('name ' + navigator.userAgent);
            report('languages ' + navigator.language + ' ' + navigator.languages.join(' '));
            report('number ' + (1234.5).toLocaleString());
            report('zone ' + new Intl.DateTimeFormat().resolvedOptions().timeZone);
            report('hour ' + new Date(0).getHours());
            report('dark ' + matchMedia('(prefers-color-scheme: dark)').matches)</script>",
        ),
    );
    let outcome = record_command(&server.url("/"))
        .option("user-agent", "Robot 7")
        .option("locale", "de-AT")
        .option("timezone", "Asia/Tokyo")
        .option("color-scheme", "dark")
        .finish(TIMEOUT)?;
    outcome.recording()?;
    for what in [
        "name Robot 7",
        "languages de-AT de-AT de",
        "number 1%C2%A0234%2C5",
        "zone Asia%2FTokyo",
        "hour 9",
        "dark true",
    ] {
        ensure_reported(&server, what)?;
    }
    let sent = |name| server.request_header_values("/", name);
    ensure!(sent("user-agent") == [Some("Robot 7".to_owned())], "{:?}", sent("user-agent"));
    ensure!(sent("accept-language") == [Some("de-AT,de;q=0.9".to_owned())], "{:?}", sent("accept-language"));
    Ok(())
}

#[test]
fn values_unknown_to_the_browser_are_refused() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let server = PageServer::start()?;
    for (option, value) in [("timezone", "Europe/Nowhere"), ("css", "/nowhere/a.css"), ("header", "X-Room")] {
        let outcome = record_command(&server.url("empty.html")).option(option, value).finish(TIMEOUT)?;
        let word = if option == "header" { "NAME: VALUE" } else { value };
        outcome.expect_failure(2, &[word])?;
    }
    ensure!(server.requests().is_empty(), "the page was opened");
    Ok(())
}

/// Files with a style sheet and a script that together make a page teal.
fn write_css_and_script(scratch: &ScratchDir) -> Result<(String, String)> {
    let (css, script) = (scratch.join("a.css"), scratch.join("a.js"));
    fs::write(&css, "html.marked { background: #0f766e } /* \"`</style>${1} */")?;
    fs::write(
        &script,
        "if (document.readyState !== 'loading' || document.body) throw 'late';
        new MutationObserver(() => document.documentElement?.classList.add('marked'))
          .observe(document, {childList: true}); window.marked = 'yes'",
    )?;
    Ok((css.display().to_string(), script.display().to_string()))
}

#[test]
fn style_and_script_are_first_and_last_whatever_the_page_does() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let scratch = ScratchDir::new()?;
    let (css, script) = write_css_and_script(&scratch)?;
    let strict = "Content-Security-Policy: default-src 'none'; style-src 'none'; \
        require-trusted-types-for 'script'\r\n";
    let pages = [
        (
            "a strict policy",
            PageResponse::HtmlWithHeaders(strict.into(), "<!doctype html><title>x</title>x".into()),
        ),
        (
            "own styles, loaded twice",
            html_response(
                "<script>report('marked ' + window.marked); const red = new CSSStyleSheet();
                red.replaceSync('html.marked { background: #f00 }'); document.adoptedStyleSheets = [red];
                document.adoptedStyleSheets.push(red);
                if (!sessionStorage.again) setTimeout(() => location.reload(), 500);
                sessionStorage.again = 1;
                </script><style>html.marked { background: #f00 }</style>",
            ),
        ),
    ];
    for (what, page) in pages {
        let server = PageServer::start()?.with_route("/", page);
        let outcome =
            record_command(&server.url("/")).option("css", &css).option("script", &script).finish(TIMEOUT)?;
        let file = outcome.recording()?;
        for seconds in [0.0, 3.9] {
            let corner = Rect { x: 600, y: 300, width: 600, height: 400 };
            ensure_colour(&file.frame_at(seconds)?, corner, TEAL, &format!("{what}, at {seconds} s"))?;
        }
        ensure!(
            what == "a strict policy" || reports(&server) == ["marked yes"; 2],
            "{what}: {:?}",
            reports(&server)
        );
    }
    Ok(())
}

#[test]
fn frames_of_other_sites_are_no_exception() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let scratch = ScratchDir::new()?;
    let (css, script) = write_css_and_script(&scratch)?;
    let own = PageServer::start()?;
    // Three sites deep: each frame is in another process than its parent.
    let at = |path: &str| own.url(path).replace("127.0.0.1", "localhost");
    let style = "<style>html { background: #f00 }
        html, body, iframe { margin: 0; border: 0; width: 100%; height: 100% }</style>";
    let reporter = |name: &str| {
        format!(
            "{style}<script>report('{name} ' + [window.marked, alert('x'), confirm('x'), navigator.language,
            new Date(0).getHours(), matchMedia('(prefers-color-scheme: dark)').matches].join(' '))</script>"
        )
    };
    let worker =
        "new Worker(URL.createObjectURL(new Blob(['postMessage(1)']))).onmessage = () => report('worker')";
    let (outer, middle) = (at("/middle"), own.url("/inner"));
    let own = own
        .with_route(
            "/",
            html_response(&format!(
                "{style}<style>html {{ background: #000 }} iframe {{ width: 50%; float: right }}</style>
            <iframe src='{outer}'></iframe><script>{worker}</script>"
            )),
        )
        .with_route(
            "/middle",
            html_response(&format!(
                "{}<iframe src='{middle}' style='height: 50%'></iframe>",
                reporter("middle")
            )),
        )
        .with_route("/inner", html_response(&reporter("inner")));
    let outcome = record_command(&own.url("/"))
        .option("css", css)
        .option("script", script)
        .option("locale", "fr-CA")
        .option("timezone", "Asia/Tokyo")
        .option("color-scheme", "dark")
        .finish(TIMEOUT)?;
    let file = outcome.recording()?;
    for name in ["middle", "inner"] {
        ensure_reported(&own, &format!("{name} yes  false fr-CA 9 true"))?;
    }
    ensure_reported(&own, "worker")?;
    ensure_colour(&file.frame_at(3.9)?, RIGHT_HALF, TEAL, "the frames")
}

/// Tested with the smallest picture that both vendors' documents allow with a device, and the smallest of
/// all.
#[test]
fn a_tablet_fits_into_every_picture() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let halves =
        "<meta name=viewport content='width=device-width'><style>body { margin: 0; background: #f00 }
        div { position: fixed; inset: 0 0 0 50%; background: #0f766e }</style><div></div>
        <script>const more = [innerWidth - 820, innerHeight - 1180].map(more => more * devicePixelRatio);
        report(more.every(more => 0 <= more && more <= 1) ? 'a tablet' : more.join(' '))</script>";
    let server = PageServer::start()?.with_route("/", html_response(halves));
    for (size, (width, height), tablet) in [("320x180", (320, 180), 98..221), ("50x50", (50, 50), 7..42)] {
        let run = record_command(&server.url("/")).option("mobile", "tablet").option("size", size);
        let picture = run.finish(TIMEOUT)?.recording()?.frame_at(3.9)?;
        // The viewport is the device's, rounded up to a pixel of the picture.
        ensure_reported(&server, "a tablet")?;
        ensure!((picture.width, picture.height) == (width, height), "{}x{}", picture.width, picture.height);
        let middle = width / 2;
        let part = |from: usize, to: usize| Rect { x: from, y: 4, width: to - from, height: height - 8 };
        ensure_colour(&picture, part(0, tablet.start - 3), BLACK, "left of the tablet")?;
        ensure_colour(&picture, part(tablet.start + 4, middle - 3), RED, "its left half")?;
        ensure_colour(&picture, part(middle + 3, tablet.end - 4), TEAL, "its right half")?;
        ensure_colour(&picture, part(tablet.end + 3, width), BLACK, "right of the tablet")?;
    }
    Ok(())
}

#[test]
fn a_phone_is_in_the_middle_and_sharp() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let board = "<meta name=viewport content='width=device-width'><style>body { margin: 0; background: #f00 }
        canvas { position: fixed; inset: 0; width: 100%; height: 100% }</style><canvas id=c></canvas><script>
        report([innerWidth, innerHeight].join(' '));
        new ResizeObserver(([seen]) => {
          const {inlineSize: w, blockSize: h} = seen.devicePixelContentBoxSize[0];
          c.width = w, c.height = h;
          const context = c.getContext('2d');
          for (let x = 0; x < w; x += 2) context.fillRect(x, 0, 1, h);
          context.fillStyle = '#fff';
          for (let x = 1; x < w; x += 2) context.fillRect(x, 0, 1, h);
        }).observe(c, {box: 'device-pixel-content-box'})</script>";
    let server = PageServer::start()?.with_route("/", html_response(board));
    let file = record_command(&server.url("/")).option("mobile", "phone").finish(TIMEOUT)?.recording()?;
    ensure_reported(&server, "390 844")?;
    let agent = server.request_header_values("/", "user-agent").pop().flatten().context("no user agent")?;
    ensure!(agent.contains("Android") && agent.contains(" Mobile "), "{agent}");
    ensure!(
        server.request_header_values("/", "sec-ch-ua-mobile") == [Some("?1".to_owned())],
        "no client hint"
    );
    let picture = file.frame_at(3.9)?;
    ensure!((picture.width, picture.height) == (1280, 720), "{}x{}", picture.width, picture.height);
    // The phone's 390x844, scaled by 0.85, is 332x718.
    ensure_colour(&picture, Rect { x: 0, y: 0, width: 472, height: 720 }, BLACK, "left of the phone")?;
    ensure_colour(&picture, Rect { x: 808, y: 0, width: 472, height: 720 }, BLACK, "right of the phone")?;
    for x in (480..800).step_by(2) {
        let [dark, light] =
            [x, x + 1].map(|x| picture.mean_rgb(Rect { x, y: 100, width: 1, height: 500 })[1]);
        ensure!(dark < 40.0 && light > 215.0, "lines of a pixel at {x} are {dark} and {light}");
    }
    ensure!(picture.pixel(640, 360) != RED.map(|c| c as u8), "the board was not drawn");
    Ok(())
}
