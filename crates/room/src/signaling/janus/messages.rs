//! The words of the Janus API, and what its errors mean. Sans-IO; everything that is read here was written by others.

use serde::Deserialize;
use serde_json::{Value, json};

/// The plugin that rooms are in.
pub(super) const PLUGIN: &str = "janus.plugin.videoroom";
/// Most that publish in a room that is made here: Janus lets three, if nobody says.
const MAX_PUBLISHERS: u32 = 20;
/// Constrained baseline, which is what is offered.
const H264_PROFILE: &str = "42e01f";

/// Errors of Janus and of its plugin that are looked at.
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

/// A message of the server.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Message {
    /// What kind it is.
    pub(super) janus: String,
    /// Which request it answers; none for what it says by itself.
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

/// What went wrong, as the server says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ApiError {
    /// Its number.
    pub(super) code: i64,
    /// In words.
    #[serde(default)]
    pub(super) reason: String,
}

/// What a message of the server's own accord means for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing that we have to know.
    Ignored,
    /// One more way to reach it.
    Candidate(String),
    /// We were thrown out of the room.
    Kicked,
    /// It is over, and why.
    SessionEnded(String),
}

impl Message {
    /// The messages in what came: one, or a list of them.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn parse(text: &str) -> Result<Vec<Self>, serde_json::Error> {
        if text.trim_start().starts_with('[') {
            serde_json::from_str(text)
        } else {
            Ok(vec![serde_json::from_str(text)?])
        }
    }

    /// Whether it only says that a request has arrived, and the answer comes later.
    pub(super) fn is_ack(&self) -> bool {
        self.janus == "ack"
    }

    /// The number of a session or a handle that was made.
    pub(super) fn created_id(&self) -> Option<u64> {
        self.data.as_ref()?.id
    }

    /// What the plugin says.
    pub(super) fn plugin_data(&self) -> &Value {
        self.plugindata.as_ref().map_or(&Value::Null, |plugin| &plugin.data)
    }

    /// The SDP of an answer, if it has one.
    pub(super) fn answer_sdp(&self) -> Option<&str> {
        self.jsep.as_ref().filter(|jsep| jsep.kind == "answer").map(|jsep| jsep.sdp.as_str())
    }

    /// What went wrong, if anything did: in Janus, or in its plugin.
    pub(super) fn api_error(&self) -> Option<ApiError> {
        if let Some(problem) = &self.error {
            return Some(problem.clone());
        }
        let plugin = self.plugin_data();
        let code = plugin["error_code"].as_i64()?;
        Some(ApiError { code, reason: plugin["error"].as_str().unwrap_or_default().to_owned() })
    }

    /// What it means if nobody asked.
    pub(super) fn event(&self) -> Event {
        let why = |words: &str| match self.reason.as_deref() {
            Some(reason) if !reason.is_empty() => Event::SessionEnded(format!("{words}: {reason}")),
            _ => Event::SessionEnded(words.to_owned()),
        };
        match self.janus.as_str() {
            "hangup" => why("it ended the connection"),
            "detached" => why("it let go of us"),
            "timeout" => why("its session was over, because it had heard nothing"),
            "error" => match self.api_error() {
                Some(problem) => Event::SessionEnded(format!("{} ({})", problem.reason, problem.code)),
                None => why("an error"),
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
        // Of others, the number stands where we have an "ok".
        if plugin["leaving"] == "ok" {
            return if plugin["reason"] == "kicked" {
                Event::Kicked
            } else {
                Event::SessionEnded("we left the room".into())
            };
        }
        if plugin["unpublished"] == "ok" {
            return Event::SessionEnded("our stream was taken out of the room".into());
        }
        if plugin["videoroom"] == "destroyed" {
            return Event::SessionEnded("the room was destroyed".into());
        }
        Event::Ignored
    }
}

/// How a server names rooms and people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identifier {
    /// By numbers.
    Number(u64),
    /// By text.
    Text(String),
}

impl Identifier {
    /// What this may be, the likelier one first: a number is only one in its shortest form, so that two rooms are never the same.
    pub(super) fn possible_ids(id: &str) -> Vec<Self> {
        let number =
            id.parse().ok().filter(|n: &u64| *n > 0 && i64::try_from(*n).is_ok() && n.to_string() == id);
        number.map(Self::Number).into_iter().chain([Self::Text(id.to_owned())]).collect()
    }

    /// What a user is called in a room of this kind: the same whenever the user joins, so that the server lets only one in.
    pub(super) fn for_user(&self, user: &str) -> Self {
        match self {
            Self::Text(_) => Self::Text(user.to_owned()),
            // FNV-1a, in as many bits as a number of JavaScript has; 0 is no name.
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

/// A room that takes what we send, two layers of it, too.
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

/// Those in a list of participants that are shown as this user, or have its name.
pub(super) fn participants_of_user(list: &Value, user: &str, name: &Identifier) -> Vec<Participant> {
    let all = list["participants"].as_array().map_or(&[][..], Vec::as_slice);
    let found = all.iter().filter_map(|entry| {
        let id = &entry["id"];
        let (same, named) = (entry["display"] == user, *id == name.to_json());
        (same || named).then(|| Participant { id: id.clone(), is_user: same })
    });
    found.filter(|found| found.id.is_u64() || found.id.is_string()).collect()
}

/// Somebody in a room.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Participant {
    /// As the server has it.
    pub(super) id: Value,
    /// It is shown as our user.
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
        let said = r#"{"janus":"event","plugindata":{"plugin":"janus.plugin.videoroom","data":DATA}}"#;
        for (data, means) in [
            (r#"{"videoroom":"event","room":1,"leaving":"ok","reason":"kicked"}"#, Event::Kicked),
            (r#"{"videoroom":"event","room":1,"leaving":7}"#, Event::Ignored),
            (r#"{"videoroom":"event","room":1,"kicked":7}"#, Event::Ignored),
            (r#"{"videoroom":"event","room":1,"unpublished":7}"#, Event::Ignored),
            (r#"{"videoroom":"destroyed","room":1}"#, Event::SessionEnded("the room was destroyed".into())),
            ("null", Event::Ignored),
            ("[3]", Event::Ignored),
        ] {
            assert_eq!(event_of(&said.replace("DATA", data)), means, "{data}");
        }
        let over = |text: &str| Event::SessionEnded(text.into());
        assert_eq!(
            event_of(r#"{"janus":"hangup","reason":"ICE failed"}"#),
            over("it ended the connection: ICE failed")
        );
        assert_eq!(
            event_of(r#"{"janus":"error","error":{"code":458,"reason":"No such session"}}"#),
            over("No such session (458)")
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
    fn lists_and_nonsense() {
        assert_eq!(Message::parse(r#" [{"janus":"keepalive"},{"janus":"media"}]"#).unwrap().len(), 2);
        for text in
            ["", "[]x", "[1]", "7", "{}", r#"{"janus":7}"#, r#"{"janus":"x","data":7}"#, &"[".repeat(9000)]
        {
            assert!(Message::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn problems_of_both_kinds_are_found() {
        let one = Message::parse(r#"{"janus":"error","error":{"code":403,"reason":"no"}}"#).unwrap();
        assert_eq!(one[0].api_error(), Some(ApiError { code: 403, reason: "no".into() }));
        let plugin = r#"{"janus":"event","plugindata":{"data":{"error_code":436,"error":"taken"}}}"#;
        let two = Message::parse(plugin).unwrap();
        assert_eq!(two[0].api_error(), Some(ApiError { code: 436, reason: "taken".into() }));
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
    fn a_user_has_one_name() {
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
