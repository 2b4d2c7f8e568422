//! Pages of servers whose certificates no browser trusts by itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::{Authority, Outcome, Pagecast, Scratch, SelfSigned, Server, Turn};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const LIMIT: Duration = Duration::from_secs(60);
const BAD_VALUE: i32 = 2;
const PAGE: i32 = 3;
const PAGE_TEXT: &str = "<!doctype html><title>Ours</title><p>Internal";

fn record(url: &str) -> Pagecast {
    Pagecast::record(PAGECAST, url).with("size", "320x180").with("duration", "1s")
}

fn trusting(server: &SelfSigned, ca: &Path) -> Result<Outcome> {
    record(&format!("{}page.html", server.url())).with("ca", ca.display()).finish(LIMIT)
}

#[test]
fn an_authority_of_ones_own_is_trusted_if_it_is_named() -> Result<()> {
    let _turn = Turn::shared()?;
    let (scratch, served) = (Scratch::new()?, Scratch::new()?);
    let authority = Authority::make(scratch.path())?;
    let server = SelfSigned::with(served, &authority.signed)?;
    server.serve("page.html", PAGE_TEXT)?;
    let report = trusting(&server, &authority.ca)?.report()?;
    ensure!(report.warnings.is_empty(), "{:?}", report.warnings);
    // Who shows the authority's certificate beside one of his own was not vouched for by it.
    let forged = pagecast_testkit::end_entity(scratch.path())?;
    let server = SelfSigned::with_chain(Scratch::new()?, &forged, Some(&authority.ca))?;
    server.serve("page.html", PAGE_TEXT)?;
    trusting(&server, &authority.ca)?.expect_failure(PAGE, &["certificate is not trusted"])
}

#[test]
fn a_server_that_signs_for_itself_is_trusted_if_it_is_named_and_by_no_other_name() -> Result<()> {
    let _turn = Turn::shared()?;
    let scratch = Scratch::new()?;
    let identity = pagecast_testkit::end_entity(scratch.path())?;
    let server = SelfSigned::with(Scratch::new()?, &identity)?;
    server.serve("page.html", PAGE_TEXT)?;
    trusting(&server, &identity.0)?.recording()?;
    // This one is for localhost.
    let identity = pagecast_testkit::certificate(scratch.path())?;
    let server = SelfSigned::with(Scratch::new()?, &identity)?;
    server.serve("page.html", PAGE_TEXT)?;
    trusting(&server, &identity.0)?.expect_failure(PAGE, &["ERR_CERT_COMMON_NAME_INVALID"])
}

#[test]
fn what_is_no_certificate_is_refused() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.join("ca.pem");
    for (text, word) in [
        ("hello", "BEGIN CERTIFICATE"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "certificate 1"),
    ] {
        std::fs::write(&file, text)?;
        let outcome = record("https://127.0.0.1:9/").with("ca", file.display()).finish(LIMIT)?;
        outcome.expect_failure(BAD_VALUE, &[word])?;
        outcome.nothing_recorded()?;
    }
    Ok(())
}

#[test]
fn any_certificate_is_taken_from_the_pages_own_origin_only_and_that_is_said() -> Result<()> {
    let _turn = Turn::shared()?;
    let (page, other) = (SelfSigned::start()?, SelfSigned::start()?);
    let told = Server::start()?;
    let say = told.url("said/");
    let others = other.url();
    page.serve("own.txt", "mine")?;
    other.serve("others.txt", "not mine")?;
    page.serve(
        "page.html",
        &format!(
            "<!doctype html><p>Ours<script>
            const say = (word) => fetch('{say}' + word, {{mode: 'no-cors'}});
            const look = (name, url) =>
              fetch(url, {{mode: 'no-cors'}}).then(() => say(name + '-open'), () => say(name + '-closed'));
            look('other', '{others}others.txt').then(() => look('own', 'own.txt'));
            </script>"
        ),
    )?;
    let url = format!("{}page.html", page.url());
    let run = Pagecast::record(PAGECAST, &url).with("size", "320x180").flag("insecure-tls");
    let mut run = run.start()?;
    run.wait_for_bytes(1, LIMIT)?;
    run.wait_until("the page has tried both", LIMIT, |_| {
        told.requests().iter().any(|request| request.starts_with("/said/own-"))
    })?;
    run.signal(pagecast_testkit::Signal::INT)?;
    let outcome = run.finish(LIMIT)?;
    let requests = told.requests();
    let was_said = |word: &str| requests.iter().any(|request| request == word);
    ensure!(was_said("/said/other-closed") && was_said("/said/own-open"), "{requests:?}");
    ensure!(outcome.report()?.warnings == ["insecure-tls"], "{:?}", outcome.report()?.warnings);
    ensure!(outcome.stderr.contains("--insecure-tls"), "{}", outcome.stderr);
    Ok(())
}
