//! Server certificates that the browser accepts in addition to those it trusts by default.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Longest text with certificates, in bytes: enough for a company's whole bundle, and the size limit of files
/// that the configuration names.
pub const MAX_CA_LEN: usize = 64 << 10;
/// Maximum number of certificates. Adding one to the browser's certificate store takes about 40 ms.
pub const MAX_CA_CERTIFICATES: usize = 16;

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// Server certificates that a page's browser accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Additional certificates that are trusted for any host.
    pub ca: Option<CaBundle>,
    /// Whether any certificate of the page's own origin is accepted, so that the server's identity is not
    /// verified. Certificates of other origins are always verified.
    pub insecure: bool,
}

/// Certificates of authorities, or self-signed certificates of servers, as PEM text (RFC 7468).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaBundle(String);

impl CaBundle {
    /// Extracts the certificates of a text. Everything else in it is dropped, including private keys.
    ///
    /// # Errors
    /// [`SpecError::Context`] if there is no certificate, an invalid one, or too many.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = |why| Err(SpecError::Context { what: "certificates", why });
        if text.len() > MAX_CA_LEN {
            return bad("they are larger than 64 KiB: give only those that the page's servers need");
        }
        let mut bundle = String::new();
        let mut count = 0;
        for rest in text.split(PEM_BEGIN).skip(1) {
            let Some((body, _)) = rest.split_once(PEM_END) else {
                return bad("one of them has no END CERTIFICATE line");
            };
            let body: String = body.split_ascii_whitespace().collect();
            let is_base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
            // `MI` is DER of a sequence with a length of more than one byte, which every certificate is.
            if !body.starts_with("MI") || !body.bytes().all(is_base64) {
                return bad("one of them is not the base64 text of a certificate");
            }
            count += 1;
            bundle += &format!("{PEM_BEGIN}\n");
            // Lines of 64 characters, as RFC 7468 requires. All characters are ASCII.
            for line in body.as_bytes().chunks(64) {
                bundle += &format!("{}\n", String::from_utf8_lossy(line));
            }
            bundle += &format!("{PEM_END}\n");
        }
        match count {
            0 => bad("there is none: write PEM, from BEGIN CERTIFICATE to END CERTIFICATE"),
            1..=MAX_CA_CERTIFICATES => Ok(Self(bundle)),
            _ => bad("there are more than 16: give only those that the page's servers need"),
        }
    }

    /// Merges two bundles.
    ///
    /// # Errors
    /// [`SpecError::Context`] if there are too many certificates together.
    pub fn merge(&self, other: &Self) -> Result<Self, SpecError> {
        if self == other { Ok(self.clone()) } else { Self::parse(&format!("{}{}", self.0, other.0)) }
    }

    /// The certificates, each as a PEM text of its own.
    pub fn certificates(&self) -> impl Iterator<Item = &str> {
        self.0.split_inclusive(PEM_END).map(str::trim_start).filter(|text| !text.is_empty())
    }

    /// All certificates as one PEM text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for CaBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.certificates().count())
    }
}

impl TryFrom<String> for CaBundle {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<CaBundle> for String {
    fn from(bundle: CaBundle) -> Self {
        bundle.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(body: &str) -> String {
        format!("{PEM_BEGIN}\n{body}\n{PEM_END}\n")
    }

    #[test]
    fn only_certificates_are_extracted() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIhunter2\n-----END PRIVATE KEY-----\n";
        let text = format!("# our own\r\n{}{key}{}", pem("MIIA\r\nBBBB=="), pem("MIICCC"));
        let bundle = CaBundle::parse(&text).unwrap();
        let all: Vec<_> = bundle.certificates().collect();
        assert_eq!(all, [pem("MIIABBBB==").trim_end(), pem("MIICCC").trim_end()]);
        assert!(!bundle.as_str().contains("hunter2"));
        assert_eq!(CaBundle::parse(bundle.as_str()), Ok(bundle.clone()), "it survives serialization");
        assert_eq!(bundle.merge(&CaBundle::parse(&pem("MIID")).unwrap()).unwrap().certificates().count(), 3);
        assert_eq!(bundle.merge(&bundle), Ok(bundle.clone()));
    }

    #[test]
    fn invalid_certificates_are_refused() {
        for (text, part) in [
            (String::new(), "none"),
            ("hello".into(), "none"),
            (format!("{PEM_BEGIN}\nMIIA"), "END"),
            (pem(""), "base64"),
            (pem("MII<script>"), "base64"),
            (pem("AAAA"), "base64"),
            (pem("MIIA").repeat(17), "16"),
            (pem(&"MIIA".repeat(20_000)), "64 KiB"),
        ] {
            let message = CaBundle::parse(&text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
