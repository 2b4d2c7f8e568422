//! Adds headers and passwords to requests to the page's own origin, and to no others.
//!
//! The browser pauses requests until they are continued here, on the thread of the DevTools reader. It does
//! not pause WebSocket handshakes, nor requests of frames of other sites.

use std::collections::{HashMap, VecDeque};

use pagecast_core::spec::{Secret, Source, SourceUrl};
use serde_json::{Value, json};

use super::cdp::CdpClient;
use super::context::CdpCommand;

/// Requests with an answered challenge that are remembered: a second challenge means that the password is
/// wrong. A page with more of them in flight gets the password twice.
const MAX_ANSWERED_CHALLENGES: usize = 256;
/// Frames that are remembered; with more, only the main frame is trusted.
const MAX_TRACKED_FRAMES: usize = 256;

/// Continues the paused requests of a page, with headers and password for its own origin.
#[derive(Debug)]
pub(super) struct RequestInterceptor {
    page_url: SourceUrl,
    headers: Vec<(String, Secret)>,
    basic_auth: Option<(String, Secret)>,
    answered_challenges: VecDeque<String>,
    /// For each frame of the page's session, whether it shows a document of another origin, which must not
    /// get the headers. Frames that never requested a document (`srcdoc`) are absent.
    cross_origin_frames: HashMap<String, bool>,
    /// The main frame: the first one that requests a document.
    main_frame: Option<String>,
    /// Whether there were more than [`MAX_TRACKED_FRAMES`].
    too_many_frames: bool,
}

impl RequestInterceptor {
    /// `None` if there are no headers and no password: then no request is paused.
    pub(super) fn new(source: &Source) -> Option<Self> {
        let (headers, basic_auth) = (source.context.headers.clone(), source.context.basic_auth.clone());
        let wanted = !headers.is_empty() || basic_auth.is_some();
        wanted.then(|| Self {
            page_url: source.url.clone(),
            headers,
            basic_auth,
            answered_challenges: VecDeque::new(),
            cross_origin_frames: HashMap::new(),
            main_frame: None,
            too_many_frames: false,
        })
    }

    /// Command that makes the browser pause requests of the page.
    pub(super) fn page_command(&self) -> CdpCommand {
        // With a password, all challenges are answered here: otherwise the browser would show a dialog.
        let all = self.basic_auth.is_some();
        // Documents of all origins, to know which frame shows which origin.
        let patterns = match all {
            true => json!([{"urlPattern": "*"}]),
            false => {
                let documents = json!({"urlPattern": "*", "resourceType": "Document"});
                json!([{"urlPattern": self.origin_pattern()}, documents])
            }
        };
        ("Fetch.enable", json!({"patterns": patterns, "handleAuthRequests": all}))
    }

    /// Command for the sessions of frames of other sites, which get neither headers nor password.
    pub(super) fn frame_command(&self) -> Option<CdpCommand> {
        self.basic_auth.is_some().then(|| self.page_command())
    }

    fn origin_pattern(&self) -> String {
        // The URL may have a user name before the host.
        let origin = self.page_url.origin();
        let (scheme, host) = origin.split_once("://").unwrap_or(("", &origin));
        format!("{scheme}://*{host}/*")
    }

    /// Handles `Fetch.requestPaused` and `Fetch.authRequired`; `is_page` is false for the session of a frame.
    pub(super) fn handle_event(
        &mut self,
        cdp: &CdpClient,
        session: &str,
        is_page: bool,
        method: &str,
        params: &Value,
    ) {
        let id = &params["requestId"];
        if method == "Fetch.requestPaused" {
            let mut answer = json!({ "requestId": id });
            let is_own_request = is_page && self.track_page_request(params);
            if is_own_request && let Some(headers) = self.headers_for(&params["request"]) {
                answer["headers"] = headers;
            }
            cdp.send(session, "Fetch.continueRequest", answer);
        } else {
            let response = self.auth_challenge_response(is_page && self.is_same_origin_frame(params), params);
            cdp.send(
                session,
                "Fetch.continueWithAuth",
                json!({"requestId": id, "authChallengeResponse": response}),
            );
        }
    }

    /// Whether a request comes from a document of the page's own origin, or loads the page itself. Must be
    /// called once for each request, in order, as it tracks which document each frame shows.
    fn track_page_request(&mut self, params: &Value) -> bool {
        let frame = params["frameId"].as_str().unwrap_or_default();
        if params["resourceType"] != "Document" {
            return self.is_same_origin_frame(params);
        }
        let main = self.main_frame.get_or_insert_with(|| frame.to_owned());
        // The main frame may always load the page, also when it returns from a login at another origin.
        let is_own = frame == main || !self.cross_origin_frames.get(main.as_str()).copied().unwrap_or(false);
        let foreign = !params["request"]["url"].as_str().is_some_and(|url| self.page_url.is_same_origin(url));
        if self.cross_origin_frames.len() >= MAX_TRACKED_FRAMES
            && !self.cross_origin_frames.contains_key(frame)
        {
            // Beyond the limit, no frame but the main one is trusted.
            self.cross_origin_frames.retain(|frame, _| Some(frame) == self.main_frame.as_ref());
            self.too_many_frames = true;
        }
        self.cross_origin_frames.insert(frame.to_owned(), foreign);
        is_own
    }

    /// All headers of a request to the page's own origin; `None` for others, redirects included.
    fn headers_for(&self, request: &Value) -> Option<Value> {
        if self.headers.is_empty() || !self.page_url.is_same_origin(request["url"].as_str()?) {
            return None;
        }
        let ours = |name: &str| self.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let theirs = request["headers"].as_object().into_iter().flatten().filter(|(name, _)| !ours(name));
        let mut all: Vec<Value> =
            theirs.map(|(name, value)| json!({ "name": name, "value": value })).collect();
        all.extend(self.headers.iter().map(|(name, value)| json!({"name": name, "value": value.reveal()})));
        Some(all.into())
    }

    /// Whether the request comes from a frame that shows the page's own origin.
    fn is_same_origin_frame(&self, params: &Value) -> bool {
        let frame = params["frameId"].as_str().unwrap_or_default();
        !self.cross_origin_frames.get(frame).copied().unwrap_or(self.too_many_frames)
    }

    fn auth_challenge_response(&mut self, is_page: bool, params: &Value) -> Value {
        let challenge = &params["authChallenge"];
        let by_own = challenge["source"].as_str().is_none_or(|source| source == "Server")
            && challenge["origin"].as_str().is_some_and(|origin| self.page_url.is_same_origin(origin));
        let id = params["requestId"].as_str().unwrap_or_default();
        let again = self.answered_challenges.iter().any(|other| other == id);
        match &self.basic_auth {
            Some((user, password)) if is_page && by_own && !again => {
                if self.answered_challenges.len() == MAX_ANSWERED_CHALLENGES {
                    self.answered_challenges.pop_front();
                }
                self.answered_challenges.push_back(id.to_owned());
                json!({"response": "ProvideCredentials", "username": user, "password": password.reveal()})
            }
            // The page gets its 401.
            _ => json!({"response": "CancelAuth"}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagecast_core::Fps;
    use pagecast_core::spec::{BrowserContext, Size};

    fn interceptor() -> RequestInterceptor {
        let context = BrowserContext {
            headers: vec![("X-Token".into(), Secret::new("t"))],
            basic_auth: Some(("me".into(), Secret::new("p"))),
            ..BrowserContext::default()
        };
        let url = SourceUrl::parse("https://a.example/page").unwrap();
        let size = Size::new(100, 100).unwrap();
        RequestInterceptor::new(&Source { url, size, fps: Fps::new(30).unwrap(), scale_factor: 1.0, context })
            .unwrap()
    }

    #[test]
    fn headers_are_for_the_own_origin_and_replace_those_of_the_same_name() {
        let intercept = interceptor();
        let request = |url: &str| json!({"url": url, "headers": {"x-token": "page", "Accept": "*/*"}});
        assert_eq!(
            intercept.headers_for(&request("https://a.example/x")).unwrap(),
            json!([{"name": "Accept", "value": "*/*"}, {"name": "X-Token", "value": "t"}])
        );
        for other in ["https://b.example/", "http://a.example/", "https://a.example.b.example/", "nonsense"] {
            assert!(intercept.headers_for(&request(other)).is_none(), "{other}");
        }
    }

    #[test]
    fn documents_of_other_origins_get_no_headers() {
        let mut intercept = interceptor();
        let mut is_own = |frame: &str, kind: &str, url: &str| {
            intercept
                .track_page_request(&json!({"frameId": frame, "resourceType": kind, "request": {"url": url}}))
        };
        let (own, other) = ("https://a.example/x", "https://b.example/");
        assert!(is_own("main", "Document", own) && is_own("main", "Fetch", own));
        assert!(is_own("srcdoc", "Fetch", own), "a document that the page wrote itself");
        assert!(
            is_own("child", "Document", other) && !is_own("child", "Fetch", own),
            "a frame of the same site"
        );
        assert!(is_own("child", "Document", own) && is_own("child", "Fetch", own));
        assert!(is_own("main", "Document", other), "it gets none, as its origin differs");
        assert!(!is_own("main", "Fetch", own) && !is_own("new", "Document", own));
        assert!(is_own("main", "Document", own), "the page returns");
        for i in 0..1000 {
            is_own(&i.to_string(), "Document", other);
        }
        assert!(is_own("main", "Fetch", own) && !is_own("child", "Fetch", own), "too many frames");
    }

    #[test]
    fn a_password_is_given_once_and_to_the_own_server_only() {
        let mut intercept = interceptor();
        let challenge = |id: &str, origin: &str, source: &str| {
            let challenge = json!({"origin": origin, "source": source});
            json!({"requestId": id, "authChallenge": challenge})
        };
        let own = challenge("1", "https://a.example", "Server");
        assert_eq!(intercept.auth_challenge_response(true, &own)["password"], "p");
        assert_eq!(intercept.auth_challenge_response(true, &own)["response"], "CancelAuth");
        for (is_page, other) in [
            (true, challenge("2", "https://b.example", "Server")),
            (true, challenge("3", "https://a.example", "Proxy")),
            (false, challenge("4", "https://a.example", "Server")),
        ] {
            assert_eq!(intercept.auth_challenge_response(is_page, &other), json!({"response": "CancelAuth"}));
        }
        for i in 0..1000 {
            intercept.auth_challenge_response(
                true,
                &challenge(&format!("many-{i}"), "https://a.example", "Server"),
            );
        }
        assert_eq!(intercept.answered_challenges.len(), MAX_ANSWERED_CHALLENGES);
    }
}
