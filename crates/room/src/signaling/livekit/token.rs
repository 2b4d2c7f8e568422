//! LiveKit access tokens (JWT, RFC 7519), signed with the API key's secret.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use pagecast_core::spec::{RoomIds, Secret};
use serde::Serialize;

/// Lifetime of a token, in seconds. It is used at once, but the server's clock may be wrong.
const TOKEN_LIFETIME_S: u64 = 600;

#[derive(Debug, Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    name: &'a str,
    exp: u64,
    video: VideoGrant<'a>,
}

/// Grants of a token, with LiveKit's names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VideoGrant<'a> {
    room: &'a str,
    room_create: bool,
    room_join: bool,
    can_publish: bool,
    can_publish_data: bool,
    can_subscribe: bool,
}

/// A token that only allows the user to join the room and publish in it. `None` if the clock is before 1970.
pub(super) fn mint(key: &str, secret: &Secret, ids: &RoomIds) -> Option<Secret> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let video = VideoGrant {
        room: &ids.room,
        room_create: true,
        room_join: true,
        can_publish: true,
        can_publish_data: false,
        can_subscribe: false,
    };
    let claims = Claims { iss: key, sub: &ids.user, name: &ids.user, exp: now + TOKEN_LIFETIME_S, video };
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).ok().map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode};
    use serde_json::{Value, json};

    #[test]
    fn claims_limit_user_room_and_lifetime() {
        let id = |text: &str| text.to_owned();
        let ids = RoomIds { app: id("a"), room: id("r"), user: id("u"), task: id("t") };
        let token = mint("key", &Secret::new("s3cret"), &ids).unwrap();
        let read = |secret: &[u8]| {
            decode::<Value>(
                token.reveal(),
                &DecodingKey::from_secret(secret),
                &Validation::new(Algorithm::HS256),
            )
        };
        let claims = read(b"s3cret").unwrap().claims;
        let grant = json!({ "room": "r", "roomCreate": true, "roomJoin": true, "canPublish": true,
            "canPublishData": false, "canSubscribe": false });
        assert_eq!((&claims["iss"], &claims["sub"], &claims["video"]), (&json!("key"), &json!("u"), &grant));
        assert!(claims["exp"].as_u64().unwrap() > 1_700_000_000);
        assert!(read(b"other").is_err());
    }
}
