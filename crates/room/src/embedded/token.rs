//! Access tokens for rooms (JWT, RFC 7519, with HMAC-SHA256).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use pagecast_core::spec::{MAX_TOKEN_LEN, Secret};
use serde::{Deserialize, Serialize};

/// Tolerated clock skew, in seconds.
const LEEWAY_S: u64 = 5;

/// Claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Room that the token is for.
    pub room: String,
    /// User that may publish. `None` allows any user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Whether the token allows publishing.
    #[serde(default)]
    pub publish: bool,
    /// Whether the token allows watching.
    #[serde(default)]
    pub view: bool,
    /// Whether the token belongs to a cast of this service, which is exempt from the limits of rooms.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own_cast: bool,
    /// Expiry, in seconds since 1970.
    pub exp: u64,
    /// Start of validity, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
}

impl Claims {
    /// Claims for a room with this lifetime that allow nothing yet.
    #[must_use]
    pub fn new(room: &str, lifetime: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            room: room.to_owned(),
            sub: None,
            publish: false,
            view: false,
            own_cast: false,
            exp: (now + lifetime).as_secs(),
            nbf: None,
        }
    }

    /// Allows publishing as this user.
    #[must_use]
    pub fn allow_publish(mut self, user: &str) -> Self {
        (self.sub, self.publish) = (Some(user.to_owned()), true);
        self
    }

    /// Marks the token as that of a cast of this service.
    #[must_use]
    pub fn for_own_cast(mut self) -> Self {
        self.own_cast = true;
        self
    }

    /// Allows watching.
    #[must_use]
    pub fn allow_view(mut self) -> Self {
        self.view = true;
        self
    }
}

/// Action that needs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Permission to publish.
    Publish,
    /// Permission to watch.
    View,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "publishing",
            Self::View => "watching",
        }
    }
}

/// Why a token is rejected or cannot be minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request has no token.
    #[error("a token is needed: send `Authorization: Bearer …`")]
    Missing,
    /// The token is malformed or has a wrong signature.
    #[error("this token is not valid")]
    Invalid,
    /// The token has expired.
    #[error("this token has expired")]
    Expired,
    /// The validity of the token has not started.
    #[error("this token is not valid yet")]
    NotYetValid,
    /// The token is for another room.
    #[error("this token is for another room")]
    WrongRoom,
    /// The token does not allow the action.
    #[error("this token does not allow {}", .0.name())]
    NotAllowed(Action),
    /// The token cannot be signed.
    #[error("cannot sign the token")]
    Mint,
}

impl Error {
    /// Whether another token is needed, rather than another room or action.
    #[must_use]
    pub fn is_unauthorized(self) -> bool {
        !matches!(self, Self::WrongRoom | Self::NotAllowed(_))
    }
}

/// Signs a token.
///
/// # Errors
/// [`Error::Mint`] if the cryptography fails.
pub fn mint(secret: &Secret, claims: &Claims) -> Result<String, Error> {
    let key = EncodingKey::from_secret(secret.reveal().as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).map_err(|_| Error::Mint)
}

/// Checks that a token allows an action in a room, and returns its claims.
///
/// # Errors
/// The token is invalid or does not allow the action.
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
    fn tokens_are_for_a_room_an_action_and_a_time() {
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
        // A token with algorithm `none` is invalid, whatever its claims.
        let none = "eyJhbGciOiJub25lIn0.eyJyb29tIjoiYSIsInB1Ymxpc2giOnRydWUsImV4cCI6OTk5OTk5OTk5OX0.";
        assert_eq!(check(none, "a", Action::Publish), Err(Error::Invalid));
    }
}
