//! Signing in to the console with OpenID Connect, with the certified provider `oidc-provider` of npm.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use pagecast_testkit::command::{program, run_for_output};
use pagecast_testkit::http::{self, Response};
use pagecast_testkit::{ServiceConfig, ServiceProcess};

const PAGECAST: &str = env!("CARGO_BIN_EXE_pagecast");
const CLIENT_SECRET: &str = "secret of the client: + / %";
/// Most redirects of a browser, as in Chromium.
const MAX_REDIRECTS: usize = 20;

/// A running provider; killed when dropped.
struct Provider {
    child: Child,
    issuer: String,
    /// It must stay open, because the provider prints notices.
    stdout: BufReader<ChildStdout>,
}

impl Provider {
    /// Starts a provider whose only person is in these groups (JSON).
    fn start(groups: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = root.join("tests/third-party/oidc");
        run_for_output(&mut program(sources.join("install"))).context("cannot install oidc-provider")?;
        let mut command = program("node");
        command.arg(sources.join("provider.mjs")).env("PACKAGES", root.join("target/third-party/oidc"));
        command.env("CLIENT_SECRET", CLIENT_SECRET).env("PERSON_GROUPS", groups).env("NODE_ENV", "test");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut provider = Self { child, issuer: String::new(), stdout };
        while !provider.issuer.starts_with("http://") {
            provider.issuer.clear();
            let len = provider.stdout.read_line(&mut provider.issuer)?;
            ensure!(len > 0, "the provider ended");
        }
        provider.issuer.truncate(provider.issuer.trim_end().len());
        Ok(provider)
    }

    /// Starts a service whose people come from this provider.
    fn service(&self) -> Result<ServiceProcess> {
        let top_level_toml = format!(
            "[console.oidc]\nissuer = \"{}\"\nclient_id = \"pagecast\"\nclient_secret = \"{CLIENT_SECRET}\"\n\
             label = \"Test\"\nrole_claim = \"groups\"\nroles = [{{ value = \"owners\", role = \"admin\" }}, \
             {{ value = \"staff\", role = \"viewer\", app = \"test\" }}]\n",
            self.issuer
        );
        ServiceProcess::start(PAGECAST, &ServiceConfig { top_level_toml, ..ServiceConfig::default() })
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A browser without pages: it keeps cookies by host and follows redirects.
#[derive(Default)]
struct Browser {
    cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    fn get(&mut self, url: &str) -> Result<Response> {
        let host = url.split('/').nth(2).context("no host")?.to_owned();
        let own = self.cookies.iter().filter(|((owner, _), _)| *owner == host);
        let cookies: Vec<String> = own.map(|((_, name), value)| format!("{name}={value}")).collect();
        let (cookies, headers) = (cookies.join("; "), ("Sec-Fetch-Site", "cross-site"));
        let mut all = vec![("Cookie", cookies.as_str())];
        // The console's own requests come from its own page.
        all.push(if url.ends_with("/v1/session") { ("Sec-Fetch-Site", "same-origin") } else { headers });
        let response = http::request("GET", url, &all, b"")?;
        for (_, cookie) in response.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let pair = cookie.split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').context("a malformed cookie")?;
            self.cookies.insert((host.clone(), name.to_owned()), value.to_owned());
        }
        Ok(response)
    }

    /// Follows redirects from this address. Returns the last address.
    fn follow(&mut self, url: &str) -> Result<String> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let response = self.get(&url)?;
            let Some(location) = response.header("location") else { return Ok(url) };
            let origin = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
            url = if location.starts_with('/') { format!("{origin}{location}") } else { location.to_owned() };
            if url.contains('#') || url.ends_with("/console/") {
                return Ok(url);
            }
        }
        bail!("too many redirects")
    }
}

#[test]
fn people_sign_in_with_a_certified_provider() -> Result<()> {
    for (groups, role, permission) in
        [("[\"owners\"]", "administrator", "admin"), ("\"staff\"", "application", "viewer")]
    {
        let provider = Provider::start(groups)?;
        let service = provider.service()?;
        let mut browser = Browser::default();
        let methods = browser.get(&service.url("/v1/session/methods"))?.json()?;
        ensure!(methods["oidc"]["label"] == "Test", "{methods}");
        let end = browser.follow(&service.url("/v1/session/oidc"))?;
        ensure!(end == service.url("/console/"), "{end}\n{}", service.log());
        let session = browser.get(&service.url("/v1/session"))?.json()?;
        ensure!(session["role"] == role && session["permission"] == permission, "{session}");
        ensure!(session["name"] == "ada@example.com", "{session}");
    }
    Ok(())
}

#[test]
fn people_without_a_role_do_not_get_in() -> Result<()> {
    let provider = Provider::start("[\"guests\"]")?;
    let service = provider.service()?;
    let mut browser = Browser::default();
    let end = browser.follow(&service.url("/v1/session/oidc"))?;
    ensure!(end == service.url("/console/sign-in#problem=oidc-no-role"), "{end}\n{}", service.log());
    ensure!(browser.get(&service.url("/v1/session"))?.status == 401, "signed in");
    ensure!(service.log().contains("authentication refused"), "{}", service.log());
    Ok(())
}
