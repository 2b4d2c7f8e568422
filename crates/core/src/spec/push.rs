//! Pushes: servers that the stream of a cast is sent to.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::SpecError;

/// Maximum number of pushes of a cast.
pub const MAX_PUSHES: usize = 10;
/// Longest address of a push, in bytes; RTMP clients and servers truncate longer ones.
pub const MAX_PUSH_URL_LEN: usize = 1000;
/// Longest stream key with its parameters, in bytes, for the same reason.
pub const MAX_STREAM_KEY_LEN: usize = 500;

/// A push: one server that receives the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Address of the server.
    pub url: PushUrl,
    /// Time without a connection after which the push fails for good; `None` retries for ever.
    #[serde(default, alias = "patience")]
    pub reconnect_timeout: Option<Duration>,
}

/// Checks that there are at most [`MAX_PUSHES`], without duplicates.
pub(super) fn validate(pushes: &[Push]) -> Result<(), SpecError> {
    if pushes.len() > MAX_PUSHES {
        return Err(SpecError::Push("there are ten already, which is the maximum"));
    }
    let is_duplicate = |(i, push): (usize, &Push)| pushes[..i].iter().any(|other| other.url == push.url);
    if pushes.iter().enumerate().any(is_duplicate) {
        return Err(SpecError::Push("it is given twice"));
    }
    Ok(())
}

/// Address of a server that receives a stream. It displays scheme, host and application only: the rest is
/// secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PushUrl {
    /// The address as written, because servers compare keys byte by byte.
    text: String,
    protocol: PushProtocol,
    redacted: String,
}

/// Protocol of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushProtocol {
    /// RTMP over TCP.
    Rtmp,
    /// RTMP over TLS.
    Rtmps,
    /// MPEG-TS over SRT.
    Srt,
}

impl PushUrl {
    /// Parses an rtmp or rtmps address with an application and a key, or the srt address of a listener.
    ///
    /// # Errors
    /// [`SpecError::Push`].
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let bad = |why| Err(SpecError::Push(why));
        if text.len() > MAX_PUSH_URL_LEN {
            return bad("it is longer than 1000 bytes");
        }
        // libavformat does not encode the address.
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return bad("it must be ASCII without spaces: write other characters as %XX");
        }
        // Parsers disagree on where an address with a fragment ends, so a fragment could smuggle options.
        if text.contains('#') {
            return bad("write # as %23");
        }
        let Ok(url) = Url::parse(text) else {
            return bad("it is not a URL like rtmp://host/application/key");
        };
        let protocol = match url.scheme() {
            "rtmp" => PushProtocol::Rtmp,
            "rtmps" => PushProtocol::Rtmps,
            "srt" => PushProtocol::Srt,
            _ => return bad("only rtmp:, rtmps: and srt: are supported"),
        };
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() || host.len() > 255 {
            return bad("it has no host: write rtmp://host/application/key or srt://host:port");
        }
        let mut redacted = format!("{}://{host}", url.scheme());
        if let Some(port) = url.port() {
            redacted.push_str(&format!(":{port}"));
        }
        if protocol == PushProtocol::Srt {
            validate_srt(&url)?;
        } else {
            let (application, key) = url.path().trim_start_matches('/').split_once('/').unwrap_or_default();
            if application.is_empty() || key.is_empty() && url.query().is_none() {
                return bad("it needs an application and a key: rtmp://host/application/key");
            }
            if key.len() + url.query().map_or(0, str::len) > MAX_STREAM_KEY_LEN {
                return bad("its key is longer than 500 bytes");
            }
            redacted.push_str(&format!("/{application}/…"));
        }
        Ok(Self { text: text.to_owned(), protocol, redacted })
    }

    /// The whole address, including secrets: for the connection only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Protocol of the push.
    #[must_use]
    pub fn protocol(&self) -> PushProtocol {
        self.protocol
    }

    /// Host of the server as written: a name, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.split_server().1
    }

    /// Port of the server, or the protocol's default.
    #[must_use]
    pub fn port(&self) -> u16 {
        let default = match self.protocol {
            PushProtocol::Rtmp => 1935,
            PushProtocol::Rtmps => 443,
            // SRT has no default port, so the address contains one.
            PushProtocol::Srt => 0,
        };
        Url::parse(&self.text).ok().and_then(|url| url.port()).unwrap_or(default)
    }

    /// The part after host and port, as written; it is secret.
    #[must_use]
    pub fn path(&self) -> &str {
        self.split_server().2
    }

    /// The whole address with host and port replaced by `server`: for the connection only.
    #[must_use]
    pub fn with_server(&self, server: SocketAddr) -> String {
        let (before, _, behind) = self.split_server();
        format!("{before}{server}{behind}")
    }

    /// Splits the address into scheme and user, host, and the part after host and port.
    fn split_server(&self) -> (&str, &str, &str) {
        let begin = self.text.find("://").map_or(0, |at| at + 3);
        let end = self.text[begin..].find(['/', '?']).map_or(self.text.len(), |at| begin + at);
        let begin = self.text[begin..end].rfind('@').map_or(begin, |at| begin + at + 1);
        let server = &self.text[begin..end];
        let host = match server.strip_prefix('[') {
            Some(bracketed) => bracketed.split(']').next(),
            None => server.split(':').next(),
        };
        (&self.text[..begin], host.unwrap_or_default(), &self.text[end..])
    }

    /// Replaces all secrets of this address that occur in `text`.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut clean = text.replace(&self.text, &self.redacted);
        let Ok(url) = Url::parse(&self.text) else { return clean };
        // As written: everything after the application, and its parts.
        let written = self.text.splitn(5, '/').nth(4).unwrap_or_default();
        let (key, query) = written.split_once('?').unwrap_or((written, url.query().unwrap_or_default()));
        let values = url.query_pairs().map(|(_, value)| value.into_owned()).collect::<Vec<_>>();
        let fixed = [written, key, query, url.username(), url.password().unwrap_or_default()];
        let mut secrets: Vec<&str> = fixed.into_iter().chain(values.iter().map(String::as_str)).collect();
        // The longest first, because one may be part of another. Shorter than three bytes is no secret.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets.into_iter().filter(|secret| secret.len() > 2) {
            clean = clean.replace(secret, "…");
        }
        clean
    }
}

/// Checks that Pagecast is the SRT caller: as a listener it would send the page to anyone who connects.
fn validate_srt(url: &Url) -> Result<(), SpecError> {
    if url.port().is_none() {
        return Err(SpecError::Push("an srt: address needs a port"));
    }
    let is_caller = url.query_pairs().all(|(name, value)| name != "mode" || value == "caller");
    if is_caller { Ok(()) } else { Err(SpecError::Push("of SRT's modes, only mode=caller is supported")) }
}

impl fmt::Display for PushUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

impl fmt::Debug for PushUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushUrl({self})")
    }
}

impl TryFrom<String> for PushUrl {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        Self::parse(&text)
    }
}

impl From<PushUrl> for String {
    fn from(url: PushUrl) -> Self {
        url.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("rtmp://a.example/live/key", Some("rtmp://a.example/live/…")),
            ("rtmps://a.example:444/live/key?sign=1", Some("rtmps://a.example:444/live/…")),
            ("rtmp://[::1]:1935/live/x/y", Some("rtmp://[::1]:1935/live/…")),
            ("rtmp://a.example/live/?key=1", Some("rtmp://a.example/live/…")),
            ("srt://a.example:9000?streamid=key", Some("srt://a.example:9000")),
            ("srt://a.example:9000?mode=caller", Some("srt://a.example:9000")),
            ("srt://a.example:9000?mode=listener", None),
            ("srt://a.example:9000?streamid=key#&mode=listener", None),
            ("srt://a.example:9000?mode=caller&mode=listener", None),
            ("srt://a.example?streamid=key", None),
            ("srt://:9000", None),
            ("rtmp://a.example/live", None),
            ("rtmp://a.example/live/", None),
            ("rtmp:///live/key", None),
            ("rtmp://a.example/live/a b", None),
            ("rtmp://a.example/live/\u{e9}", None),
            ("http://a.example/live/key", None),
            ("file:///etc/passwd", None),
            ("rtmp.example/live/key", None),
            ("", None),
        ] {
            assert_eq!(PushUrl::parse(text).ok().map(|url| url.to_string()).as_deref(), shown, "{text}");
        }
        let key = |len| PushUrl::parse(&format!("rtmp://a/live/{}", "k".repeat(len)));
        assert!(key(500).is_ok() && key(501).is_err());
        assert!(PushUrl::parse(&format!("srt://a:1?streamid={}", "k".repeat(1000))).is_err());
    }

    #[test]
    fn host_and_port_can_be_replaced() {
        let v6 = "[2001:db8::1]:9";
        for (text, host, port, path, at) in [
            (
                "rtmp://a.example/live/k?s=1",
                "a.example",
                1935,
                "/live/k?s=1",
                "rtmp://[2001:db8::1]:9/live/k?s=1",
            ),
            ("rtmps://a.example:/live/k", "a.example", 443, "/live/k", "rtmps://[2001:db8::1]:9/live/k"),
            ("rtmp://u:p@[::1]:2/live/@k", "::1", 2, "/live/@k", "rtmp://u:p@[2001:db8::1]:9/live/@k"),
            ("rtmp://u@b:p@h:2/live/k", "h", 2, "/live/k", "rtmp://u@b:p@[2001:db8::1]:9/live/k"),
            (
                "srt://a.example:3?streamid=//@b",
                "a.example",
                3,
                "?streamid=//@b",
                "srt://[2001:db8::1]:9?streamid=//@b",
            ),
        ] {
            let url = PushUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.port(), url.path()), (host, port, path), "{text}");
            assert_eq!(url.with_server(v6.parse().unwrap()), at);
        }
    }

    #[test]
    fn there_are_at_most_ten_without_duplicates() {
        let push =
            |i| Push { url: PushUrl::parse(&format!("rtmp://a/live/{i}")).unwrap(), reconnect_timeout: None };
        assert_eq!(validate(&(0..10).map(push).collect::<Vec<_>>()), Ok(()));
        assert!(validate(&(0..11).map(push).collect::<Vec<_>>()).is_err());
        assert!(validate(&[push(1), push(2), push(1)]).is_err());
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        for text in [
            "rtmp://me:hunter2@a.example/live/hunter2?hunter2=hunter2",
            "rtmps://hunter2:hunter2@a.example/live/hunter2/hunter2",
            "srt://me:hunter2@a.example:9000/hunter2?streamid=hunter2&passphrase=hunter2",
        ] {
            let push = Push { url: PushUrl::parse(text).unwrap(), reconnect_timeout: None };
            for shown in [push.url.to_string(), format!("{push:?}")] {
                assert!(shown.contains("a.example") && !shown.contains("hunter2"), "{shown}");
            }
            for message in [format!("cannot open {text}"), "stream hunter2 is taken".to_owned()] {
                assert!(!push.url.redact(&message).contains("hunter2"), "{}", push.url.redact(&message));
            }
            let same: Push = serde_json::from_str(&serde_json::to_string(&push).unwrap()).unwrap();
            assert_eq!((same.url.reveal(), &same), (text, &push), "it survives serialization");
        }
        let error = PushUrl::parse("http://a.example/hunter2").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
    }
}
