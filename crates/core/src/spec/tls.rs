//! Which certificates the browser accepts beyond those that it trusts by itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Longest text with certificates, in bytes: the whole bundle of a company's authorities, and the limit of
/// files that the configuration names.
pub const MAX_CA_LEN: usize = 64 << 10;
/// Most certificates in it. Each takes the browser's certificate store some 40 ms to learn.
pub const MAX_CA_CERTIFICATES: usize = 16;

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";

/// Which certificates of servers a page's browser accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Trusted for any host, besides those that the browser trusts.
    pub ca: Option<CaBundle>,
    /// Whether any certificate is accepted from the page's own origin: nobody can tell then who answers.
    /// Other origins are checked as ever.
    pub insecure: bool,
}

/// Certificates as PEM text (RFC 7468): of authorities, or of servers that sign for themselves.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CaBundle(String);

impl CaBundle {
    /// Takes the certificates of a text. What else is in it, private keys too, is left out.
    ///
    /// # Errors
    /// [`SpecError::BrowserContext`] if there is no certificate, one that is not PEM, or there are too many.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = |why| Err(SpecError::Context { what: "certificates", why });
        if text.len() > MAX_CA_LEN {
            return bad("they have more than 64 KiB: give only those that the page's servers need");
        }
        let mut bundle = String::new();
        let mut count = 0;
        for rest in text.split(PEM_BEGIN).skip(1) {
            let Some((body, _)) = rest.split_once(PEM_END) else {
                return bad("one of them has no END CERTIFICATE line");
            };
            let body: String = body.split_ascii_whitespace().collect();
            let is_base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
            // DER of a sequence with a length of more than one byte, which every certificate is.
            if !body.starts_with("MI") || !body.bytes().all(is_base64) {
                return bad("one of them is not the base64 text of a certificate");
            }
            count += 1;
            bundle += &format!("{PEM_BEGIN}\n");
            // Lines as RFC 7468 has them. All characters are ASCII.
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

    /// The certificates of both.
    ///
    /// # Errors
    /// They are too many together.
    pub fn merge(&self, other: &Self) -> Result<Self, SpecError> {
        if self == other { Ok(self.clone()) } else { Self::parse(&format!("{}{}", self.0, other.0)) }
    }

    /// Each certificate as a PEM text of its own.
    pub fn certificates(&self) -> impl Iterator<Item = &str> {
        self.0.split_inclusive(PEM_END).map(str::trim_start).filter(|text| !text.is_empty())
    }

    /// All of them as PEM text.
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
    fn certificates_and_nothing_else_are_taken() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIhunter2\n-----END PRIVATE KEY-----\n";
        let text = format!("# our own\r\n{}{key}{}", pem("MIIA\r\nBBBB=="), pem("MIICCC"));
        let bundle = CaBundle::parse(&text).unwrap();
        let all: Vec<_> = bundle.certificates().collect();
        assert_eq!(all, [pem("MIIABBBB==").trim_end(), pem("MIICCC").trim_end()]);
        assert!(!bundle.as_str().contains("hunter2"));
        assert_eq!(
            CaBundle::parse(bundle.as_str()),
            Ok(bundle.clone()),
            "it survives the way to a cast's process"
        );
        assert_eq!(bundle.merge(&CaBundle::parse(&pem("MIID")).unwrap()).unwrap().certificates().count(), 3);
        assert_eq!(bundle.merge(&bundle), Ok(bundle.clone()));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for (text, word) in [
            (String::new(), "none"),
            ("hello".into(), "none"),
            (format!("{PEM_BEGIN}\nMIIA"), "END"),
            (pem(""), "base64"),
            (pem("MII<script>"), "base64"),
            (pem("AAAA"), "base64"),
            (pem("MIIA").repeat(17), "16"),
            (pem(&"MIIA".repeat(20_000)), "64 KiB"),
        ] {
            let said = CaBundle::parse(&text).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }
}
