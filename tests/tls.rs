//! Pages of servers with certificates that browsers do not trust by default.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use pagecast_testkit::{
    CertificateAuthority, MachineLock, Outcome, PageServer, PagecastCommand, ScratchDir, TlsServer,
};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const TIMEOUT: Duration = Duration::from_secs(60);
const EXIT_INVALID_VALUE: i32 = 2;
const EXIT_PAGE: i32 = 3;
const PAGE_HTML: &str = "<!doctype html><title>Ours</title><p>Internal";

fn record_command(url: &str) -> PagecastCommand {
    PagecastCommand::record(PAGECAST, url).option("size", "320x180").option("duration", "1s")
}

fn record_with_ca(server: &TlsServer, ca: &Path) -> Result<Outcome> {
    record_command(&format!("{}page.html", server.url())).option("ca", ca.display()).finish(TIMEOUT)
}

#[test]
fn a_private_authority_is_trusted_with_ca() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (scratch, served) = (ScratchDir::new()?, ScratchDir::new()?);
    let authority = CertificateAuthority::create(scratch.path())?;
    let server = TlsServer::start_with(served, &authority.issued)?;
    server.add_page("page.html", PAGE_HTML)?;
    let report = record_with_ca(&server, &authority.certificate)?.report()?;
    ensure!(report.warnings.is_empty(), "{:?}", report.warnings);
    // A self-signed certificate is not trusted because the authority's certificate is sent with it.
    let forged = pagecast_testkit::end_entity_certificate(scratch.path())?;
    let server = TlsServer::start_with_chain(ScratchDir::new()?, &forged, Some(&authority.certificate))?;
    server.add_page("page.html", PAGE_HTML)?;
    record_with_ca(&server, &authority.certificate)?
        .expect_failure(EXIT_PAGE, &["certificate is not trusted"])
}

#[test]
fn a_self_signed_certificate_is_trusted_with_ca_and_for_its_names_only() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let scratch = ScratchDir::new()?;
    let identity = pagecast_testkit::end_entity_certificate(scratch.path())?;
    let server = TlsServer::start_with(ScratchDir::new()?, &identity)?;
    server.add_page("page.html", PAGE_HTML)?;
    record_with_ca(&server, &identity.0)?.recording()?;
    // This certificate is for localhost only.
    let identity = pagecast_testkit::self_signed_certificate(scratch.path())?;
    let server = TlsServer::start_with(ScratchDir::new()?, &identity)?;
    server.add_page("page.html", PAGE_HTML)?;
    record_with_ca(&server, &identity.0)?.expect_failure(EXIT_PAGE, &["ERR_CERT_COMMON_NAME_INVALID"])
}

#[test]
fn files_without_a_certificate_are_refused() -> Result<()> {
    let scratch = ScratchDir::new()?;
    let file = scratch.join("ca.pem");
    for (text, word) in [
        ("hello", "BEGIN CERTIFICATE"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "certificate 1"),
    ] {
        std::fs::write(&file, text)?;
        let outcome = record_command("https://127.0.0.1:9/").option("ca", file.display()).finish(TIMEOUT)?;
        outcome.expect_failure(EXIT_INVALID_VALUE, &[word])?;
        outcome.expect_nothing_recorded()?;
    }
    Ok(())
}

#[test]
fn any_certificate_is_accepted_from_the_pages_own_origin_only_with_a_warning() -> Result<()> {
    let _turn = MachineLock::shared()?;
    let (page, other) = (TlsServer::start()?, TlsServer::start()?);
    let reports = PageServer::start()?;
    let report_url = reports.url("report/");
    let others = other.url();
    page.add_page("own.txt", "mine")?;
    other.add_page("others.txt", "not mine")?;
    page.add_page(
        "page.html",
        &format!(
            "<!doctype html><p>Ours<script>
            const report = (name) => fetch('{report_url}' + name, {{mode: 'no-cors'}});
            const check = (name, url) =>
              fetch(url, {{mode: 'no-cors'}})
                .then(() => report(name + '-open'), () => report(name + '-closed'));
            check('other', '{others}others.txt').then(() => check('own', 'own.txt'));
            </script>"
        ),
    )?;
    let url = format!("{}page.html", page.url());
    let run = PagecastCommand::record(PAGECAST, &url).option("size", "320x180").flag("insecure-tls");
    let mut run = run.start()?;
    run.wait_for_spooled_bytes(1, TIMEOUT)?;
    run.wait_until("the page has tried both", TIMEOUT, |_| {
        reports.requests().iter().any(|request| request.starts_with("/report/own-"))
    })?;
    run.signal(pagecast_testkit::Signal::INT)?;
    let outcome = run.finish(TIMEOUT)?;
    let requests = reports.requests();
    let was_reported = |path: &str| requests.iter().any(|request| request == path);
    ensure!(was_reported("/report/other-closed") && was_reported("/report/own-open"), "{requests:?}");
    ensure!(outcome.report()?.warnings == ["insecure-tls"], "{:?}", outcome.report()?.warnings);
    ensure!(outcome.stderr.contains("--insecure-tls"), "{}", outcome.stderr);
    Ok(())
}
