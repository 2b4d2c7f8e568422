//! Checks of hosts that a request names, before any name is looked up.

use pagecast_core::spec::PushUrl;
use pagecast_egress::check::check_unresolved;
use url::Url;

use super::Application;

impl Application {
    /// Whether the application's network policy permits `host`, as it is written in a URL. Names other than
    /// those of this machine pass: they are looked up and checked when they are connected to.
    #[must_use]
    pub(crate) fn permits(&self, host: &str, port: u16) -> bool {
        // Only web URLs normalise numbers like `2130706433`, which is 127.0.0.1: so every host is parsed as
        // in one.
        let url = Url::parse(&format!("http://{host}/")).ok();
        let host = url.as_ref().and_then(Url::host);
        host.is_some_and(|host| check_unresolved(&self.settings.network, &host, port).is_ok())
    }

    /// Whether the network policy permits the server of a push, as [`Self::permits`].
    #[must_use]
    pub(crate) fn permits_push(&self, url: &PushUrl) -> bool {
        match url.host() {
            v6 if v6.contains(':') => self.permits(&format!("[{v6}]"), url.port()),
            host => self.permits(host, url.port()),
        }
    }

    /// Whether the network policy permits the host of a web URL, as [`Self::permits`].
    #[must_use]
    pub(crate) fn permits_url(&self, url: &Url) -> bool {
        let port = url.port_or_known_default().unwrap_or_default();
        url.host_str().is_some_and(|host| self.permits(host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_refused_unless_they_are_allowed() {
        let closed: Application = serde_json::from_str(r#"{"name": "a"}"#).unwrap();
        let open: Application = serde_json::from_str(
            r#"{"name": "a", "network": {"allow": ["127.0.0.1:1935", "[::1]", "localhost"], "deny": ["198.41.0.4"], "udp": false}}"#,
        )
        .unwrap();
        for (host, port, by_closed, by_open) in [
            ("a.example", 1935, true, true),
            ("8.8.8.8", 1935, true, true),
            ("198.41.0.4", 1935, true, false),
            ("127.0.0.1", 1935, false, true),
            ("127.0.0.1", 1936, false, false),
            ("2130706433", 1935, false, true),
            ("0x7f.1", 1935, false, true),
            ("[::1]", 1935, false, true),
            ("[::ffff:127.0.0.1]", 1936, false, false),
            ("[fd00::1]", 1935, false, false),
            ("169.254.169.254", 80, false, false),
            ("10.1.2.3", 1935, false, false),
            ("localhost", 1935, false, true),
            ("a.localhost.", 1936, false, false),
            ("", 1935, false, false),
            ("a b", 1935, false, false),
        ] {
            assert_eq!(
                (closed.permits(host, port), open.permits(host, port)),
                (by_closed, by_open),
                "{host}:{port}"
            );
        }
        let push = |text: &str| PushUrl::parse(text).unwrap();
        for (text, by_closed, by_open) in [
            ("rtmp://a.example/live/k", true, true),
            ("rtmp://u:p@127.0.0.1/live/k", false, true),
            ("rtmps://127.0.0.1/live/k", false, false),
            ("rtmps://[::1]/live/k", false, true),
            ("srt://[::1]:9", false, true),
            ("srt://10.0.0.1:9", false, false),
        ] {
            let url = push(text);
            assert_eq!((closed.permits_push(&url), open.permits_push(&url)), (by_closed, by_open), "{text}");
        }
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(
            closed.permits_url(&url("https://a.example/b")) && !closed.permits_url(&url("http://10.0.0.1/"))
        );
    }
}
