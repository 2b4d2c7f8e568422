//! Options of the page: its device, locale, headers, scripts and certificates.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use clap::{Args, ValueEnum};
use pagecast_core::SpecError;
use pagecast_core::spec::{
    BrowserContext, CaBundle, ColorScheme, Device, MAX_CA_LEN, MAX_INJECTED_LEN, Mobile, Orientation, Secret,
    Tls,
};

/// Options of the page.
#[derive(Debug, Args)]
#[command(next_help_heading = "The page")]
pub(crate) struct PageOptions {
    /// Show the page on a phone (390x844) or tablet (820x1180), centred in the picture
    #[arg(long, value_name = "DEVICE[-ORIENTATION]")]
    mobile: Option<DeviceName>,
    /// Send a header with all requests to the page's own origin; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Secret>,
    /// Set a cookie for the page's host; may be repeated
    #[arg(long = "cookie", value_name = "NAME=VALUE")]
    cookies: Vec<Secret>,
    /// User and password for a server that requires HTTP authentication
    #[arg(long, value_name = "USER:PASSWORD")]
    basic_auth: Option<Secret>,
    /// User agent of the browser
    #[arg(long, value_name = "TEXT")]
    user_agent: Option<String>,
    /// Language, number and date format of the page, like de-DE
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,
    /// Time zone of the page, like Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Preferred colour scheme of the page
    #[arg(long, value_name = "SCHEME")]
    color_scheme: Option<ColorSchemeName>,
    /// A style sheet to apply after all of the page's own
    #[arg(long, value_name = "FILE", value_parser = read_text_file)]
    css: Option<String>,
    /// A script to run in every document before the page's own
    #[arg(long, value_name = "FILE", value_parser = read_text_file)]
    script: Option<String>,
    /// Also trust the certificates in this file (PEM): of your own authority, or self-signed ones
    #[arg(long, value_name = "FILE", value_parser = read_ca_file)]
    ca: Option<CaBundle>,
    /// Accept any certificate from the page's own origin. The server is then not authenticated: prefer --ca
    #[arg(long)]
    insecure_tls: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceName {
    Phone,
    PhonePortrait,
    PhoneLandscape,
    Tablet,
    TabletPortrait,
    TabletLandscape,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ColorSchemeName {
    Light,
    Dark,
}

impl PageOptions {
    /// Returns the browser context of the page.
    ///
    /// # Errors
    /// A value that cannot be split. The error does not contain it, as it may be a secret.
    pub(crate) fn context(&self) -> Result<BrowserContext, SpecError> {
        let pairs = |texts: &[Secret], at, what, why| {
            texts.iter().map(|text| parse_pair(text, at, what, why)).collect::<Result<Vec<_>, _>>()
        };
        let login = self.basic_auth.as_ref();
        Ok(BrowserContext {
            mobile: self.mobile.map(DeviceName::to_mobile),
            headers: pairs(&self.headers, ':', "header", "write NAME: VALUE")?,
            cookies: pairs(&self.cookies, '=', "cookie", "write NAME=VALUE")?,
            user_agent: self.user_agent.clone(),
            locale: self.locale.clone(),
            timezone: self.timezone.clone(),
            color_scheme: self.color_scheme.map(|scheme| match scheme {
                ColorSchemeName::Light => ColorScheme::Light,
                ColorSchemeName::Dark => ColorScheme::Dark,
            }),
            css: self.css.clone(),
            script: self.script.clone(),
            basic_auth: login
                .map(|l| parse_pair(l, ':', "user and password", "write USER:PASSWORD"))
                .transpose()?,
            tls: Tls { ca: self.ca.clone(), insecure: self.insecure_tls },
        })
    }
}

impl DeviceName {
    fn to_mobile(self) -> Mobile {
        let (device, orientation) = match self {
            Self::Phone | Self::PhonePortrait => (Device::Phone, Orientation::Portrait),
            Self::PhoneLandscape => (Device::Phone, Orientation::Landscape),
            Self::Tablet | Self::TabletPortrait => (Device::Tablet, Orientation::Portrait),
            Self::TabletLandscape => (Device::Tablet, Orientation::Landscape),
        };
        Mobile { device, orientation }
    }
}

fn parse_pair(
    text: &Secret,
    at: char,
    what: &'static str,
    why: &'static str,
) -> Result<(String, Secret), SpecError> {
    let (name, value) = text.reveal().split_once(at).ok_or(SpecError::Context { what, why })?;
    // Only header values may have spaces around them.
    let value = if at == ':' && what == "header" { value.trim() } else { value };
    Ok((name.to_owned(), Secret::new(value)))
}

/// Reads a file whose text is injected into the page.
fn read_text_file(path: &str) -> Result<String, String> {
    read_limited(path, MAX_INJECTED_LEN, "1 MiB")
}

/// Reads the certificates in a file.
fn read_ca_file(path: &str) -> Result<CaBundle, String> {
    let text = read_limited(path, MAX_CA_LEN, "64 KiB")?;
    CaBundle::parse(&text).map_err(|error| format!("{path}: {error}"))
}

/// Reads a text file of up to `max_len` bytes; `limit` is that length for the error message.
fn read_limited(path: &str, max_len: usize, limit: &str) -> Result<String, String> {
    let fail = |reason: String| format!("cannot read {path}: {reason}");
    let file = fs::File::open(Path::new(path)).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    // One byte beyond the limit is enough to see that the file is too long.
    file.take(max_len as u64 + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if bytes.len() > max_len {
        return Err(fail(format!("the file is larger than {limit}")));
    }
    String::from_utf8(bytes).map_err(|_| fail("the file is not UTF-8 text".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        page: PageOptions,
    }

    fn page(arguments: &[&str]) -> PageOptions {
        TestCli::try_parse_from(std::iter::once(&"x").chain(arguments)).unwrap().page
    }

    #[test]
    fn names_and_values() {
        let context = page(&[
            "--header=X-A: b: c ",
            "--header=X-B:",
            "--cookie=a=b==",
            "--basic-auth=me:p: w ",
            "--mobile=tablet-landscape",
        ])
        .context()
        .unwrap();
        let shown: Vec<_> = context.headers.iter().map(|(n, v)| (n.as_str(), v.reveal())).collect();
        assert_eq!(shown, [("X-A", "b: c"), ("X-B", "")]);
        assert_eq!(context.cookies[0].1.reveal(), "b==");
        let (user, password) = context.basic_auth.unwrap();
        assert_eq!((user.as_str(), password.reveal()), ("me", "p: w "));
        assert_eq!(context.mobile.unwrap().viewport(), (1180, 820));
        assert_eq!(page(&["--mobile=phone"]).context().unwrap().mobile.unwrap().viewport(), (390, 844));
    }

    #[test]
    fn a_secret_that_cannot_be_read_is_not_shown() {
        for option in ["--header", "--cookie", "--basic-auth"] {
            let page = page(&[option, "hunter2"]);
            let message = page.context().unwrap_err().to_string();
            assert!(message.contains("write ") && !message.contains("hunter2"), "{message}");
            assert!(!format!("{page:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = TestCli::try_parse_from(["x", "--css", "/nowhere/a.css"]).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/a.css") && missing.contains("--css"), "{missing}");
        assert!(read_text_file("/dev/zero").unwrap_err().contains("1 MiB"));
        assert!(read_ca_file("/dev/zero").unwrap_err().contains("64 KiB"));
        let none = read_ca_file("/proc/self/status").unwrap_err();
        assert!(none.contains("/proc/self/status") && none.contains("BEGIN CERTIFICATE"), "{none}");
        assert!(read_text_file("/").unwrap_err().contains("directory"));
    }
}
