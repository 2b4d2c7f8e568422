//! Messages and error codes of the Janus API. Sans-IO. Received messages are untrusted.

use serde::Deserialize;
use serde_json::{Value, json};

/// Name of the VideoRoom plugin.
pub(super) const PLUGIN: &str = "janus.plugin.videoroom";
/// Limit of publishers in a created room; Janus's default of three may be too few for other participants.
const MAX_PUBLISHERS: u32 = 20;
/// Constrained Baseline, level 3.1, which is also what is offered.
const H264_PROFILE: &str = "42e01f";

/// Error codes of Janus and of the plugin that are handled.
pub(super) mod error_code {
    pub(in super::super) const UNAUTHORIZED: i64 = 403;
    pub(in super::super) const UNAUTHORIZED_PLUGIN: i64 = 405;
    pub(in super::super) const NO_PLUGIN: i64 = 460;
    pub(in super::super) const NO_ROOM: i64 = 426;
    pub(in super::super) const ROOM_EXISTS: i64 = 427;
    pub(in super::super) const NO_FEED: i64 = 428;
    pub(in super::super) const MISSING_ELEMENT: i64 = 429;
    pub(in super::super) const INVALID_ELEMENT: i64 = 430;
    pub(in super::super) const PUBLISHERS_FULL: i64 = 432;
    pub(in super::super) const ROOM_UNAUTHORIZED: i64 = 433;
    pub(in super::super) const ID_EXISTS: i64 = 436;
    pub(in super::super) const INVALID_SDP: i64 = 437;
}

/// A message from the server.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Message {
    /// Kind of message.
    pub(super) janus: String,
    /// Transaction of the request that it answers. `None` for events.
    #[serde(default)]
    pub(super) transaction: Option<String>,
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    plugindata: Option<PluginData>,
    #[serde(default)]
    jsep: Option<Jsep>,
    #[serde(default)]
    error: Option<ApiError>,
    #[serde(default)]
    candidate: Option<Value>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Data {
    #[serde(default)]
    id: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
struct PluginData {
    #[serde(default)]
    data: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Jsep {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    sdp: String,
}

/// Error of Janus or of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ApiError {
    /// Error code.
    pub(super) code: i64,
    /// Text of the server.
    #[serde(default)]
    pub(super) reason: String,
}

/// Meaning of a message that is not a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// It does not matter here.
    Ignored,
    /// A remote candidate.
    Candidate(String),
    /// This publisher was kicked from the room.
    Kicked,
    /// The session has ended, and why.
    SessionEnded(String),
}

impl Message {
    /// Parses one message or a list of messages.
    ///
    /// # Errors
    /// The text is neither.
    pub(super) fn parse(text: &str) -> Result<Vec<Self>, serde_json::Error> {
        if text.trim_start().starts_with('[') {
            serde_json::from_str(text)
        } else {
            Ok(vec![serde_json::from_str(text)?])
        }
    }

    /// Whether this only acknowledges a request, whose response follows.
    pub(super) fn is_ack(&self) -> bool {
        self.janus == "ack"
    }

    /// Identifier of a created session or handle.
    pub(super) fn created_id(&self) -> Option<u64> {
        self.data.as_ref()?.id
    }

    /// Data of the plugin.
    pub(super) fn plugin_data(&self) -> &Value {
        self.plugindata.as_ref().map_or(&Value::Null, |plugin| &plugin.data)
    }

    /// The SDP answer, if there is one.
    pub(super) fn answer_sdp(&self) -> Option<&str> {
        self.jsep.as_ref().filter(|jsep| jsep.kind == "answer").map(|jsep| jsep.sdp.as_str())
    }

    /// The error of Janus or of the plugin, if there is one.
    pub(super) fn api_error(&self) -> Option<ApiError> {
        if let Some(error) = &self.error {
            return Some(error.clone());
        }
        let plugin = self.plugin_data();
        let code = plugin["error_code"].as_i64()?;
        Some(ApiError { code, reason: plugin["error"].as_str().unwrap_or_default().to_owned() })
    }

    /// The meaning of this message as an event.
    pub(super) fn event(&self) -> Event {
        let ended = |text: &str| match self.reason.as_deref() {
            Some(reason) if !reason.is_empty() => Event::SessionEnded(format!("{text}: {reason}")),
            _ => Event::SessionEnded(text.to_owned()),
        };
        match self.janus.as_str() {
            "hangup" => ended("janus: hangup"),
            "detached" => ended("janus: detached"),
            "timeout" => ended("janus: session timeout"),
            "error" => match self.api_error() {
                Some(error) => Event::SessionEnded(format!("{} ({})", error.reason, error.code)),
                None => ended("janus: error"),
            },
            "trickle" => match self.candidate.as_ref().and_then(|c| c["candidate"].as_str()) {
                Some(line) if line.starts_with("candidate:") => Event::Candidate(line.to_owned()),
                _ => Event::Ignored,
            },
            "event" => self.plugin_event(),
            _ => Event::Ignored,
        }
    }

    fn plugin_event(&self) -> Event {
        let plugin = self.plugin_data();
        // Events about other participants have their identifier in place of "ok".
        if plugin["leaving"] == "ok" {
            return if plugin["reason"] == "kicked" {
                Event::Kicked
            } else {
                Event::SessionEnded("the publisher left the room".into())
            };
        }
        if plugin["unpublished"] == "ok" {
            return Event::SessionEnded("the stream was unpublished".into());
        }
        if plugin["videoroom"] == "destroyed" {
            return Event::SessionEnded("the room was destroyed".into());
        }
        Event::Ignored
    }
}

/// Identifier of a room or a participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identifier {
    /// A number, Janus's default.
    Number(u64),
    /// A string, if Janus is configured with `string_ids`.
    Text(String),
}

impl Identifier {
    /// Possible identifiers for this text, the likelier first. Only the shortest form of a number is one, so
    /// that two names never mean the same room.
    pub(super) fn possible_ids(id: &str) -> Vec<Self> {
        let number =
            id.parse().ok().filter(|n: &u64| *n > 0 && i64::try_from(*n).is_ok() && n.to_string() == id);
        number.map(Self::Number).into_iter().chain([Self::Text(id.to_owned())]).collect()
    }

    /// Identifier of a user in a room of this kind. It is always the same, so that the server admits the user
    /// once.
    pub(super) fn for_user(&self, user: &str) -> Self {
        match self {
            Self::Text(_) => Self::Text(user.to_owned()),
            // FNV-1a in the 53 bits of a JavaScript number; 0 is not a valid identifier.
            Self::Number(_) => {
                let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                let hash = user.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
                Self::Number((hash & ((1 << 53) - 1)).max(1))
            }
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
        }
    }
}

/// Request that creates a room for Opus, H.264 and VP8.
pub(super) fn create_room_request(room: &Identifier, pin: Option<&str>, secret: Option<&str>) -> Value {
    let mut body = json!({
        "request": "create", "room": room.to_json(), "permanent": false, "publishers": MAX_PUBLISHERS,
        "audiocodec": "opus", "opus_fec": true, "videocodec": "h264,vp8", "h264_profile": H264_PROFILE,
    });
    for (name, value) in [("pin", pin), ("secret", secret)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    body
}

/// The participants in a list that have the display name of this user, or this identifier.
pub(super) fn participants_of_user(list: &Value, user: &str, user_id: &Identifier) -> Vec<Participant> {
    let all = list["participants"].as_array().map_or(&[][..], Vec::as_slice);
    let found = all.iter().filter_map(|entry| {
        let id = &entry["id"];
        let (is_user, has_id) = (entry["display"] == user, *id == user_id.to_json());
        (is_user || has_id).then(|| Participant { id: id.clone(), is_user })
    });
    found.filter(|found| found.id.is_u64() || found.id.is_string()).collect()
}

/// A participant of a room.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Participant {
    /// Identifier, as the server sent it.
    pub(super) id: Value,
    /// Whether it has the display name of our user.
    pub(super) is_user: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event_of(text: &str) -> Event {
        Message::parse(text).unwrap()[0].event()
    }

    #[test]
    fn server_events_are_parsed() {
        let event = r#"{"janus":"event","plugindata":{"plugin":"janus.plugin.videoroom","data":DATA}}"#;
        for (data, expected) in [
            (r#"{"videoroom":"event","room":1,"leaving":"ok","reason":"kicked"}"#, Event::Kicked),
            (r#"{"videoroom":"event","room":1,"leaving":7}"#, Event::Ignored),
            (r#"{"videoroom":"event","room":1,"kicked":7}"#, Event::Ignored),
            (r#"{"videoroom":"event","room":1,"unpublished":7}"#, Event::Ignored),
            (r#"{"videoroom":"destroyed","room":1}"#, Event::SessionEnded("the room was destroyed".into())),
            ("null", Event::Ignored),
            ("[3]", Event::Ignored),
        ] {
            assert_eq!(event_of(&event.replace("DATA", data)), expected, "{data}");
        }
        let ended = |text: &str| Event::SessionEnded(text.into());
        assert_eq!(
            event_of(r#"{"janus":"hangup","reason":"ICE failed"}"#),
            ended("janus: hangup: ICE failed")
        );
        assert_eq!(
            event_of(r#"{"janus":"error","error":{"code":458,"reason":"No such session"}}"#),
            ended("No such session (458)")
        );
        assert_eq!(event_of(r#"{"janus":"slowlink","lost":3}"#), Event::Ignored);
        let line = "candidate:1 1 udp 1 127.0.0.1 5000 typ host";
        assert_eq!(
            event_of(&format!(r#"{{"janus":"trickle","candidate":{{"candidate":"{line}"}}}}"#)),
            Event::Candidate(line.into())
        );
        assert_eq!(event_of(r#"{"janus":"trickle","candidate":{"completed":true}}"#), Event::Ignored);
        assert_eq!(event_of(r#"{"janus":"trickle","candidate":{"candidate":"x"}}"#), Event::Ignored);
    }

    #[test]
    fn lists_are_parsed_and_invalid_messages_rejected() {
        assert_eq!(Message::parse(r#" [{"janus":"keepalive"},{"janus":"media"}]"#).unwrap().len(), 2);
        for text in
            ["", "[]x", "[1]", "7", "{}", r#"{"janus":7}"#, r#"{"janus":"x","data":7}"#, &"[".repeat(9000)]
        {
            assert!(Message::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_of_janus_and_of_the_plugin_are_found() {
        let janus = Message::parse(r#"{"janus":"error","error":{"code":403,"reason":"no"}}"#).unwrap();
        assert_eq!(janus[0].api_error(), Some(ApiError { code: 403, reason: "no".into() }));
        let plugin = r#"{"janus":"event","plugindata":{"data":{"error_code":436,"error":"taken"}}}"#;
        let plugin = Message::parse(plugin).unwrap();
        assert_eq!(plugin[0].api_error(), Some(ApiError { code: 436, reason: "taken".into() }));
        assert_eq!(Message::parse(r#"{"janus":"ack"}"#).unwrap()[0].api_error(), None);
    }

    #[test]
    fn rooms_are_numbers_only_in_their_shortest_form() {
        let text = |id: &str| Identifier::Text(id.into());
        assert_eq!(Identifier::possible_ids("1234"), [Identifier::Number(1234), text("1234")]);
        for id in ["0", "007", "demo", "-1", "9223372036854775808", "1.5"] {
            assert_eq!(Identifier::possible_ids(id), [text(id)]);
        }
    }

    #[test]
    fn a_user_has_one_identifier() {
        let (number, text) = (Identifier::Number(1), Identifier::Text("a".into()));
        assert_eq!(number.for_user("webcast"), number.for_user("webcast"));
        assert_ne!(number.for_user("webcast"), number.for_user("webcast2"));
        assert!(matches!(number.for_user("webcast"), Identifier::Number(1..=0x1f_ffff_ffff_ffff)));
        assert_eq!(text.for_user("webcast"), Identifier::Text("webcast".into()));
    }

    #[test]
    fn others_of_the_same_user_are_found() {
        let list = json!({"participants": [
            {"id": 5, "display": "me"}, {"id": 6, "display": "you"}, {"id": 7}, {"id": 8, "display": "you"},
            {"id": [1], "display": "me"}, 3,
        ]});
        let found = participants_of_user(&list, "me", &Identifier::Number(8));
        assert_eq!(
            found,
            [Participant { id: json!(5), is_user: true }, Participant { id: json!(8), is_user: false }]
        );
        assert_eq!(participants_of_user(&Value::Null, "me", &Identifier::Number(8)), []);
    }
}
