//! What is asked for is what the page and its server find, and nobody else finds it.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pagecast_testkit::media::picture::{Area, Rgb};
use pagecast_testkit::{Outcome, Pagecast, Reply, Scratch, Server, Turn};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(40);
/// #0f766e, as it comes out of the decoder.
const TEAL: [f64; 3] = [15.0, 118.0, 110.0];
const RED: [f64; 3] = [255.0, 0.0, 0.0];
const BLACK: [f64; 3] = [0.0, 0.0, 0.0];
/// Of a page of 1280x720: all of it, and where a frame of half its width is.
const ALL: Area = Area { x: 0, y: 0, width: 1280, height: 720 };
const RIGHT: Area = Area { x: 660, y: 0, width: 600, height: 720 };
/// Ends the page's part in a test: the recording goes on for a moment.
const HELPER: &str = "const say = (what) => fetch('/said/' + encodeURIComponent(what), {mode: 'no-cors'});";
/// `me:secret`.
const KEY: &str = "Basic bWU6c2VjcmV0";

fn record(url: &str) -> Pagecast {
    Pagecast::record(PAGECAST, url).with("duration", "4s")
}

fn html(body: &str) -> Reply {
    Reply::Html(
        200,
        format!("<!doctype html><meta charset=utf-8><title>x</title><script>{HELPER}</script>{body}"),
    )
}

/// What pages said to this server, in order.
fn said(server: &Server) -> Vec<String> {
    let requests = server.requests();
    requests.iter().filter_map(|r| r.strip_prefix("/said/")).map(|s| s.replace("%20", " ")).collect()
}

fn ensure_said(server: &Server, what: &str) -> Result<()> {
    let all = said(server);
    ensure!(all.iter().any(|s| s == what), "{what:?} was not said, but {all:#?}");
    Ok(())
}

fn ensure_colour(picture: &Rgb, area: Area, colour: [f64; 3], what: &str) -> Result<()> {
    let mean = picture.mean(area);
    let near = mean.iter().zip(colour).all(|(is, wanted)| (is - wanted).abs() < 4.0);
    ensure!(near, "{what}: {mean:?} instead of {colour:?}");
    Ok(())
}

fn silent_about(outcome: &Outcome, secret: &str) -> Result<()> {
    ensure!(!outcome.stderr.contains(secret) && !outcome.stdout.contains(secret), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn headers_are_for_the_own_origin_only() -> Result<()> {
    let _turn = Turn::shared()?;
    let third = Server::start()?.route("/frame", html("<script>say('frame')</script>"));
    let elsewhere = |path: &str| third.url(path).replace("127.0.0.1", "localhost");
    let own = Server::start()?.route("/away", Reply::Redirect(third.url("/redirected"))).route(
        "/",
        html(&format!(
            "<img src='{}'><iframe src='{}'></iframe><script>
            fetch('/own'); fetch('/away', {{mode: 'no-cors'}}); fetch('{}', {{mode: 'no-cors'}})</script>",
            third.url("/image"),
            elsewhere("/frame"),
            third.url("/fetched"),
        )),
    );
    let outcome = record(&own.url("/"))
        .with("header", "X-Room: blue hunter2")
        .with("header", "Accept-Language: tlh")
        .env("RUST_LOG", "debug")
        .finish(LIMIT)?;
    outcome.recording()?;
    silent_about(&outcome, "hunter2")?;
    for path in ["/", "/own", "/away"] {
        let sent = own.header(path, "x-room");
        ensure!(sent == [Some("blue hunter2".to_owned())], "{path} came with {sent:?}");
        let language = own.header(path, "accept-language");
        ensure!(language == [Some("tlh".to_owned())], "{path} came with {language:?}");
    }
    for path in ["/image", "/frame", "/fetched", "/redirected", "/said/frame"] {
        let sent = third.header(path, "x-room");
        ensure!(!sent.is_empty() && sent.iter().all(Option::is_none), "{path} came with {sent:?}");
    }
    Ok(())
}

#[test]
fn a_page_that_moves_to_another_server_leaves_the_headers_behind() -> Result<()> {
    let _turn = Turn::shared()?;
    let there = Server::start()?.route("/", html("<script>say('here')</script>"));
    let here = Server::start()?.route("/", Reply::Redirect(there.url("/")));
    record(&here.url("/")).with("header", "X-Room: blue").finish(LIMIT)?.recording()?;
    ensure!(here.header("/", "x-room") == [Some("blue".to_owned())], "{:?}", here.header("/", "x-room"));
    for path in ["/", "/said/here"] {
        ensure!(there.header(path, "x-room") == [None], "{path}: {:?}", there.header(path, "x-room"));
    }
    Ok(())
}

#[test]
fn cookies_are_there_from_the_first_request_on() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?.route("/deep/page", html("<script>say(document.cookie)</script>"));
    let outcome = record(&server.url("/deep/page"))
        .with("cookie", "session=abc==")
        .with("cookie", "b=2")
        .finish(LIMIT)?;
    outcome.recording()?;
    let sent = server.header("/deep/page", "cookie");
    ensure!(sent == [Some("session=abc==; b=2".to_owned())], "{sent:?}");
    ensure_said(&server, "session%3Dabc%3D%3D%3B b%3D2")
}

#[test]
fn a_password_opens_the_own_server_only() -> Result<()> {
    let _turn = Turn::shared()?;
    let locked = |body: &str| Reply::Locked(KEY.into(), format!("<script>{HELPER}</script>{body}"));
    let third = Server::start()?.route("/", locked("third"));
    let (address, other) = (third.url("/"), third.url("/").replace("127.0.0.1", "localhost"));
    let own = Server::start()?.route("/own", locked("own")).route(
        "/",
        locked(&format!(
            "<style>html {{ background: #0f766e }} iframe {{ display: none }}</style><script>
            fetch('/own').then(answer => say('own ' + answer.status));
            fetch('{address}', {{mode: 'no-cors'}}).finally(() => say('third is over'));
            const frame = Object.assign(document.createElement('iframe'), {{src: '{other}'}});
            frame.onload = () => say('frame is over');
            document.documentElement.append(frame)</script>"
        )),
    );
    let outcome = record(&own.url("/")).with("basic-auth", "me:secret").finish(LIMIT)?;
    for what in ["own 200", "third is over", "frame is over"] {
        ensure_said(&own, what)?;
    }
    let given = third.header("/", "authorization");
    ensure!(given.len() >= 2 && given.iter().all(Option::is_none), "{given:?}");
    ensure_colour(&outcome.recording()?.picture_at(1.5)?, ALL, TEAL, "nobody is asked")?;
    let wrong = record(&own.url("/")).with("basic-auth", "me:hunter2").finish(LIMIT)?;
    wrong.expect_failure(3, &["HTTP 401"])?;
    silent_about(&wrong, "hunter2")
}

#[test]
fn nobody_is_asked_for_a_password() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?.route("/locked", Reply::Locked(KEY.into(), String::new())).route(
        "/",
        html(
            "<style>html { background: #0f766e }</style><script>
            fetch('/locked').then(answer => say('locked ' + answer.status))</script>",
        ),
    );
    let file = record(&server.url("/")).finish(LIMIT)?.recording()?;
    ensure_said(&server, "locked 401")?;
    ensure_colour(&file.picture_at(1.5)?, ALL, TEAL, "the page")?;
    record(&server.url("/locked")).finish(LIMIT)?.expect_failure(3, &["HTTP 401"])
}

#[test]
fn language_clock_colours_and_name() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?.route(
        "/",
        html(
            "<script>
            say('name ' + navigator.userAgent);
            say('languages ' + navigator.language + ' ' + navigator.languages.join(' '));
            say('number ' + (1234.5).toLocaleString());
            say('zone ' + new Intl.DateTimeFormat().resolvedOptions().timeZone);
            say('hour ' + new Date(0).getHours());
            say('dark ' + matchMedia('(prefers-color-scheme: dark)').matches)</script>",
        ),
    );
    let outcome = record(&server.url("/"))
        .with("user-agent", "Robot 7")
        .with("locale", "de-AT")
        .with("timezone", "Asia/Tokyo")
        .with("color-scheme", "dark")
        .finish(LIMIT)?;
    outcome.recording()?;
    for what in [
        "name Robot 7",
        "languages de-AT de-AT de",
        "number 1%C2%A0234%2C5",
        "zone Asia%2FTokyo",
        "hour 9",
        "dark true",
    ] {
        ensure_said(&server, what)?;
    }
    let sent = |name| server.header("/", name);
    ensure!(sent("user-agent") == [Some("Robot 7".to_owned())], "{:?}", sent("user-agent"));
    ensure!(sent("accept-language") == [Some("de-AT,de;q=0.9".to_owned())], "{:?}", sent("accept-language"));
    Ok(())
}

#[test]
fn what_the_browser_does_not_know_is_refused() -> Result<()> {
    let _turn = Turn::shared()?;
    let server = Server::start()?;
    for (option, value) in [("timezone", "Europe/Nowhere"), ("css", "/nowhere/a.css"), ("header", "X-Room")] {
        let outcome = record(&server.url("empty.html")).with(option, value).finish(LIMIT)?;
        let word = if option == "header" { "NAME: VALUE" } else { value };
        outcome.expect_failure(2, &[word])?;
    }
    ensure!(server.requests().is_empty(), "the page was opened for nothing");
    Ok(())
}

/// Files with a style sheet and a script that together make a page teal.
fn put_in(scratch: &Scratch) -> Result<(String, String)> {
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
    let _turn = Turn::shared()?;
    let scratch = Scratch::new()?;
    let (css, script) = put_in(&scratch)?;
    let strict = "Content-Security-Policy: default-src 'none'; style-src 'none'; require-trusted-types-for 'script'\r\n";
    let pages = [
        ("a strict policy", Reply::Headed(strict.into(), "<!doctype html><title>x</title>x".into())),
        (
            "styles of its own, and a second time",
            html(
                "<script>say('marked ' + window.marked); const red = new CSSStyleSheet();
                red.replaceSync('html.marked { background: #f00 }'); document.adoptedStyleSheets = [red];
                document.adoptedStyleSheets.push(red);
                if (!sessionStorage.again) { sessionStorage.again = 1; setTimeout(() => location.reload(), 500) }
                </script><style>html.marked { background: #f00 }</style>",
            ),
        ),
    ];
    for (what, page) in pages {
        let server = Server::start()?.route("/", page);
        let outcome = record(&server.url("/")).with("css", &css).with("script", &script).finish(LIMIT)?;
        let file = outcome.recording()?;
        for seconds in [0.0, 3.9] {
            let corner = Area { x: 600, y: 300, width: 600, height: 400 };
            ensure_colour(&file.picture_at(seconds)?, corner, TEAL, &format!("{what}, at {seconds} s"))?;
        }
        ensure!(
            what == "a strict policy" || said(&server) == ["marked yes"; 2],
            "{what}: {:?}",
            said(&server)
        );
    }
    Ok(())
}

#[test]
fn frames_of_other_sites_are_no_exception() -> Result<()> {
    let _turn = Turn::shared()?;
    let scratch = Scratch::new()?;
    let (css, script) = put_in(&scratch)?;
    let own = Server::start()?;
    // Three sites deep: each is in another process than the one around it.
    let at = |path: &str| own.url(path).replace("127.0.0.1", "localhost");
    let style = "<style>html { background: #f00 } html, body, iframe { margin: 0; border: 0; width: 100%; height: 100% }
        </style>";
    let tells = |name: &str| {
        format!(
            "{style}<script>say('{name} ' + [window.marked, alert('x'), confirm('x'), navigator.language,
            new Date(0).getHours(), matchMedia('(prefers-color-scheme: dark)').matches].join(' '))</script>"
        )
    };
    let worker =
        "new Worker(URL.createObjectURL(new Blob(['postMessage(1)']))).onmessage = () => say('worker')";
    let (outer, middle) = (at("/middle"), own.url("/inner"));
    let own = own
        .route(
            "/",
            html(&format!(
                "{style}<style>html {{ background: #000 }} iframe {{ width: 50%; float: right }}</style>
            <iframe src='{outer}'></iframe><script>{worker}</script>"
            )),
        )
        .route(
            "/middle",
            html(&format!("{}<iframe src='{middle}' style='height: 50%'></iframe>", tells("middle"))),
        )
        .route("/inner", html(&tells("inner")));
    let outcome = record(&own.url("/"))
        .with("css", css)
        .with("script", script)
        .with("locale", "fr-CA")
        .with("timezone", "Asia/Tokyo")
        .with("color-scheme", "dark")
        .finish(LIMIT)?;
    let file = outcome.recording()?;
    for name in ["middle", "inner"] {
        ensure_said(&own, &format!("{name} yes  false fr-CA 9 true"))?;
    }
    ensure_said(&own, "worker")?;
    ensure_colour(&file.picture_at(3.9)?, RIGHT, TEAL, "the frames")
}

/// The smallest picture that both vendors' documents allow beside a device, and the smallest there is.
#[test]
fn a_tablet_fits_into_every_picture() -> Result<()> {
    let _turn = Turn::shared()?;
    let halves =
        "<meta name=viewport content='width=device-width'><style>body { margin: 0; background: #f00 }
        div { position: fixed; inset: 0 0 0 50%; background: #0f766e }</style><div></div>
        <script>const more = [innerWidth - 820, innerHeight - 1180].map(more => more * devicePixelRatio);
        say(more.every(more => 0 <= more && more <= 1) ? 'a tablet' : more.join(' '))</script>";
    let server = Server::start()?.route("/", html(halves));
    for (size, (width, height), tablet) in [("320x180", (320, 180), 98..221), ("50x50", (50, 50), 7..42)] {
        let run = record(&server.url("/")).with("mobile", "tablet").with("size", size);
        let picture = run.finish(LIMIT)?.recording()?.picture_at(3.9)?;
        // The viewport is that of the device, rounded up to a pixel of the picture.
        ensure_said(&server, "a tablet")?;
        ensure!((picture.width, picture.height) == (width, height), "{}x{}", picture.width, picture.height);
        let middle = width / 2;
        let part = |from: usize, to: usize| Area { x: from, y: 4, width: to - from, height: height - 8 };
        ensure_colour(&picture, part(0, tablet.start - 3), BLACK, "left of the tablet")?;
        ensure_colour(&picture, part(tablet.start + 4, middle - 3), RED, "its left half")?;
        ensure_colour(&picture, part(middle + 3, tablet.end - 4), TEAL, "its right half")?;
        ensure_colour(&picture, part(tablet.end + 3, width), BLACK, "right of the tablet")?;
    }
    Ok(())
}

#[test]
fn a_phone_is_in_the_middle_and_sharp() -> Result<()> {
    let _turn = Turn::shared()?;
    let board = "<meta name=viewport content='width=device-width'><style>body { margin: 0; background: #f00 }
        canvas { position: fixed; inset: 0; width: 100%; height: 100% }</style><canvas id=c></canvas><script>
        say([innerWidth, innerHeight].join(' '));
        new ResizeObserver(([seen]) => {
          const {inlineSize: w, blockSize: h} = seen.devicePixelContentBoxSize[0];
          c.width = w, c.height = h;
          const context = c.getContext('2d');
          for (let x = 0; x < w; x += 2) context.fillRect(x, 0, 1, h);
          context.fillStyle = '#fff';
          for (let x = 1; x < w; x += 2) context.fillRect(x, 0, 1, h);
        }).observe(c, {box: 'device-pixel-content-box'})</script>";
    let server = Server::start()?.route("/", html(board));
    let file = record(&server.url("/")).with("mobile", "phone").finish(LIMIT)?.recording()?;
    ensure_said(&server, "390 844")?;
    let agent = server.header("/", "user-agent").pop().flatten().context("no user agent")?;
    ensure!(agent.contains("Android") && agent.contains(" Mobile "), "{agent}");
    ensure!(server.header("/", "sec-ch-ua-mobile") == [Some("?1".to_owned())], "no client hint");
    let picture = file.picture_at(3.9)?;
    ensure!((picture.width, picture.height) == (1280, 720), "{}x{}", picture.width, picture.height);
    // 390x844 at 0.85 is 332x718.
    ensure_colour(&picture, Area { x: 0, y: 0, width: 472, height: 720 }, BLACK, "left of the phone")?;
    ensure_colour(&picture, Area { x: 808, y: 0, width: 472, height: 720 }, BLACK, "right of the phone")?;
    for x in (480..800).step_by(2) {
        let [dark, light] = [x, x + 1].map(|x| picture.mean(Area { x, y: 100, width: 1, height: 500 })[1]);
        ensure!(dark < 40.0 && light > 215.0, "lines of a pixel at {x} are {dark} and {light}");
    }
    ensure!(picture.at(640, 360) != RED.map(|c| c as u8), "the board was not drawn");
    Ok(())
}
