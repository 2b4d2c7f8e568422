//! Tokens: who may publish and watch in which room (JWT, RFC 7519, with HMAC-SHA256).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use pagecast_core::spec::{MAX_TOKEN_LEN, Secret};
use serde::{Deserialize, Serialize};

/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 5;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The room it is for.
    pub room: String,
    /// The user that it publishes as; any, if it names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Whether it may publish.
    #[serde(default)]
    pub publish: bool,
    /// Whether it may watch.
    #[serde(default)]
    pub view: bool,
    /// Whether a cast of this service publishes with it: the service has let it in, so rooms that are full do
    /// not refuse it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_cast: bool,
    /// Until when it is good, in seconds since 1970.
    pub exp: u64,
    /// From when on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
}

impl Claims {
    /// For a room, good for so long, and for nothing yet.
    #[must_use]
    pub fn new(room: &str, good_for: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            room: room.to_owned(),
            sub: None,
            publish: false,
            view: false,
            own_cast: false,
            exp: (now + good_for).as_secs(),
            nbf: None,
        }
    }

    /// It may publish, as this user.
    #[must_use]
    pub fn allow_publish(mut self, user: &str) -> Self {
        (self.sub, self.publish) = (Some(user.to_owned()), true);
        self
    }

    /// A cast of this service publishes with it.
    #[must_use]
    pub fn for_own_cast(mut self) -> Self {
        self.own_cast = true;
        self
    }

    /// It may watch.
    #[must_use]
    pub fn allow_view(mut self) -> Self {
        self.view = true;
        self
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To publish.
    Publish,
    /// To watch.
    View,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is none.
    #[error("a token is needed: send `Authorization: Bearer …`")]
    Missing,
    /// It is none of ours, or was changed.
    #[error("this token is not valid")]
    Invalid,
    /// It was good once.
    #[error("this token has expired")]
    Expired,
    /// It will be good.
    #[error("this token is not good yet")]
    NotYetValid,
    /// It is for another room.
    #[error("this token is for another room")]
    WrongRoom,
    /// It is for something else.
    #[error("this token does not allow {}", match .0 { Action::Publish => "publishing", Action::View => "watching" })]
    NotAllowed(Action),
    /// It cannot be made.
    #[error("this token cannot be made")]
    Mint,
}

impl Error {
    /// Whether another token is needed, rather than another room or wish.
    #[must_use]
    pub fn is_unauthorized(self) -> bool {
        !matches!(self, Self::WrongRoom | Self::NotAllowed(_))
    }
}

/// Makes a token.
///
/// # Errors
/// [`ErrorBody::Mint`]: the system's cryptography fails.
pub fn mint(secret: &Secret, claims: &Claims) -> Result<String, Error> {
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).map_err(|_| Error::Mint)
}

/// Checks that a token allows this; what it says.
///
/// # Errors
/// It does not.
pub fn verify(secret: &Secret, token: &str, room: &str, action: Action) -> Result<Claims, Error> {
    if token.len() > MAX_TOKEN_LEN {
        return Err(Error::Invalid);
    }
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.validate_aud = false;
    validation.set_required_spec_claims(&["exp"]);
    let key = DecodingKey::from_secret(secret.reveal().as_bytes());
    let claims = decode::<Claims>(token, &key, &validation).map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature => Error::Expired,
        ErrorKind::ImmatureSignature => Error::NotYetValid,
        _ => Error::Invalid,
    })?;
    let claims = claims.claims;
    let allowed = match action {
        Action::Publish => claims.publish,
        Action::View => claims.view,
    };
    if claims.room != room {
        return Err(Error::WrongRoom);
    }
    if allowed { Ok(claims) } else { Err(Error::NotAllowed(action)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted(change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = Claims::new("a", Duration::from_secs(60)).allow_publish("me");
        change(&mut claims);
        mint(&Secret::new("hush"), &claims).unwrap()
    }

    #[test]
    fn tokens_are_for_a_room_a_deed_and_a_while() {
        let secret = Secret::new("hush");
        let check = |token: &str, room, action| verify(&secret, token, room, action);
        let now = Claims::new("a", Duration::ZERO).exp;
        let good = minted(|_| ());
        assert_eq!(check(&good, "a", Action::Publish).unwrap().sub.as_deref(), Some("me"));
        assert_eq!(check(&good, "b", Action::Publish), Err(Error::WrongRoom));
        assert_eq!(check(&good, "a", Action::View), Err(Error::NotAllowed(Action::View)));
        assert_eq!(check(&minted(|c| c.exp = now - 60), "a", Action::Publish), Err(Error::Expired));
        assert_eq!(check(&minted(|c| c.nbf = Some(now + 60)), "a", Action::Publish), Err(Error::NotYetValid));
        let other = mint(&Secret::new("other"), &Claims::new("a", Duration::from_secs(60))).unwrap();
        let (head, tail) = good.split_at(good.len() - 2);
        for bad in [&other, "", "a.b.c", head, &format!("{head}xx{tail}"), &"a".repeat(9000)] {
            assert_eq!(check(bad, "a", Action::Publish), Err(Error::Invalid), "{bad}");
        }
        // No algorithm is not ours, whatever the token says.
        let none = "eyJhbGciOiJub25lIn0.eyJyb29tIjoiYSIsInB1Ymxpc2giOnRydWUsImV4cCI6OTk5OTk5OTk5OX0.";
        assert_eq!(check(none, "a", Action::Publish), Err(Error::Invalid));
    }
}
