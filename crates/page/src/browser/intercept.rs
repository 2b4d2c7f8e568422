//! Headers and passwords for the page's own server, and for nobody else.
//!
//! Requests are held in the browser until they are answered here, on the thread that reads from it. WebSocket
//! handshakes are not held, nor what frames of other sites ask for.

use std::collections::{HashMap, VecDeque};

use pagecast_core::spec::{Secret, Source, SourceUrl};
use serde_json::{Value, json};

use super::cdp::CdpClient;
use super::context::CdpCommand;

/// Requests whose challenge was answered that are remembered: a second challenge means that the password is wrong. Whoever
/// has more of them in flight is answered twice.
const MAX_ANSWERED_CHALLENGES: usize = 256;
/// Frames that are remembered.
const MAX_TRACKED_FRAMES: usize = 256;

/// What is sent along to the page's own origin.
#[derive(Debug)]
pub(super) struct RequestInterceptor {
    page_url: SourceUrl,
    headers: Vec<(String, Secret)>,
    basic_auth: Option<(String, Secret)>,
    answered_challenges: VecDeque<String>,
    /// Whether a frame of the page's session shows a document of another origin, which could act in the page's name. Frames
    /// that never asked for a document (`srcdoc`) are not in it.
    cross_origin_frames: HashMap<String, bool>,
    /// The frame that is the page: the first one that asks for a document.
    main_frame: Option<String>,
    /// There were more frames than can be remembered.
    too_many_frames: bool,
}

impl RequestInterceptor {
    /// `None` if nothing has to be sent along: no request is held then.
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

    /// What the page's session is asked for.
    pub(super) fn page_command(&self) -> CdpCommand {
        // Where servers are to be answered, all of them are: a question to a person would be in the picture.
        let all = self.basic_auth.is_some();
        // All documents, to know whose they are.
        let patterns = match all {
            true => json!([{"urlPattern": "*"}]),
            false => {
                json!([{"urlPattern": self.origin_pattern()}, {"urlPattern": "*", "resourceType": "Document"}])
            }
        };
        ("Fetch.enable", json!({"patterns": patterns, "handleAuthRequests": all}))
    }

    /// What the sessions of other sites' frames are asked for. They send nothing along: a frame could act in the page's name.
    pub(super) fn frame_command(&self) -> Option<CdpCommand> {
        self.basic_auth.is_some().then(|| self.page_command())
    }

    fn origin_pattern(&self) -> String {
        // A user's name may stand before the host.
        let origin = self.page_url.origin();
        let (scheme, host) = origin.split_once("://").unwrap_or(("", &origin));
        format!("{scheme}://*{host}/*")
    }

    /// Takes `Fetch.requestPaused` and `Fetch.authRequired`; `is_page` unless the session is that of a frame.
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
            let asks_for_page = is_page && self.track_page_request(params);
            if asks_for_page && let Some(headers) = self.headers_for(&params["request"]) {
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

    /// Whether a request comes from a document of the page's own origin, or brings the page itself. To be asked once for each
    /// request, in order: documents come and go by it.
    fn track_page_request(&mut self, params: &Value) -> bool {
        let frame = params["frameId"].as_str().unwrap_or_default();
        if params["resourceType"] != "Document" {
            return self.is_same_origin_frame(params);
        }
        let main = self.main_frame.get_or_insert_with(|| frame.to_owned());
        // What the page is asked to show, it may always ask for: that is how one comes back from signing in elsewhere.
        let asks = frame == main || !self.cross_origin_frames.get(main.as_str()).copied().unwrap_or(false);
        let foreign = !params["request"]["url"].as_str().is_some_and(|url| self.page_url.is_same_origin(url));
        if self.cross_origin_frames.len() >= MAX_TRACKED_FRAMES
            && !self.cross_origin_frames.contains_key(frame)
        {
            // Who has so many frames is not trusted with any but the page itself.
            self.cross_origin_frames.retain(|frame, _| Some(frame) == self.main_frame.as_ref());
            self.too_many_frames = true;
        }
        self.cross_origin_frames.insert(frame.to_owned(), foreign);
        asks
    }

    /// All headers of a request to the own origin; a redirect elsewhere does not take them along.
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

    /// Whether a request that was let go before is one of the page's own.
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
    fn a_document_from_elsewhere_does_not_speak_for_the_page() {
        let mut intercept = interceptor();
        let mut asks = |frame: &str, kind: &str, url: &str| {
            intercept
                .track_page_request(&json!({"frameId": frame, "resourceType": kind, "request": {"url": url}}))
        };
        let (own, other) = ("https://a.example/x", "https://b.example/");
        assert!(asks("main", "Document", own) && asks("main", "Fetch", own));
        assert!(asks("srcdoc", "Fetch", own), "what the page wrote itself");
        assert!(asks("child", "Document", other) && !asks("child", "Fetch", own), "a frame of the same site");
        assert!(asks("child", "Document", own) && asks("child", "Fetch", own));
        assert!(asks("main", "Document", other), "it gets none, as it goes elsewhere");
        assert!(!asks("main", "Fetch", own) && !asks("new", "Document", own));
        assert!(asks("main", "Document", own), "coming back");
        for i in 0..1000 {
            asks(&i.to_string(), "Document", other);
        }
        assert!(asks("main", "Fetch", own) && !asks("child", "Fetch", own), "a crowd");
    }

    #[test]
    fn a_password_is_given_once_and_to_the_own_server_only() {
        let mut intercept = interceptor();
        let challenge = |id: &str, origin: &str, source: &str| json!({"requestId": id, "authChallenge": {"origin": origin, "source": source}});
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
