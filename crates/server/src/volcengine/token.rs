//! Tokens of Volcengine RTC rooms: what a user may do in a room, and until when.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pagecast_core::spec::Secret;

/// Length of an application identifier in a token, in characters.
pub const APP_ID_LEN: usize = 24;

/// Largest nonce; the smallest is 1.
pub const MAX_NONCE: u32 = 99_999_999;

/// Permission in a token. Publishing includes the permissions for audio, video and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Publish audio, video and data.
    Publish,
    /// Receive streams.
    Subscribe,
}

impl Privilege {
    fn wire_values(self) -> &'static [u16] {
        match self {
            Self::Publish => &[0, 1, 2, 3],
            Self::Subscribe => &[4],
        }
    }
}

/// Contents of a token. Times are Unix seconds; an expiry of 0 means never.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    /// Application identifier, [`APP_ID_LEN`] characters.
    pub app_id: &'a str,
    /// Room identifier.
    pub room: &'a str,
    /// User identifier.
    pub user: &'a str,
    /// Random number, 1 to [`MAX_NONCE`].
    pub nonce: u32,
    /// Time of issue.
    pub issued_s: u32,
    /// Time of expiry.
    pub expires_s: u32,
    /// Permissions, each with its expiry.
    pub privileges: &'a [(Privilege, u32)],
}

/// Error of identifiers that no token can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a token: the application needs 24 characters, room and user at most 65535 bytes")]
pub struct TokenError;

impl Token<'_> {
    /// Signs the token with the application's AppKey.
    ///
    /// [`TokenError`] if an identifier is too long, or the application's is not [`APP_ID_LEN`] characters.
    pub fn mint(&self, app_key: &Secret) -> Result<String, TokenError> {
        if self.app_id.len() != APP_ID_LEN || !self.app_id.is_ascii() {
            return Err(TokenError);
        }
        let mut privileges: Vec<(u16, u32)> = Vec::new();
        for (privilege, until) in self.privileges {
            privileges.extend(privilege.wire_values().iter().map(|value| (*value, *until)));
        }
        privileges.sort_unstable();
        privileges.dedup_by_key(|(value, _)| *value);
        let mut message = Vec::new();
        for value in [self.nonce, self.issued_s, self.expires_s] {
            message.extend(value.to_le_bytes());
        }
        put_length_prefixed(&mut message, self.room.as_bytes())?;
        put_length_prefixed(&mut message, self.user.as_bytes())?;
        message.extend(u16::try_from(privileges.len()).map_err(|_| TokenError)?.to_le_bytes());
        for (value, until) in privileges {
            message.extend(value.to_le_bytes());
            message.extend(until.to_le_bytes());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, app_key.reveal().as_bytes());
        let mut content = Vec::new();
        put_length_prefixed(&mut content, &message)?;
        put_length_prefixed(&mut content, hmac::sign(&key, &message).as_ref())?;
        Ok(format!("001{}{}", self.app_id, STANDARD.encode(content)))
    }
}

fn put_length_prefixed(buffer: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TokenError> {
    buffer.extend(u16::try_from(bytes.len()).map_err(|_| TokenError)?.to_le_bytes());
    buffer.extend(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_matches_the_specification() {
        let token = Token {
            app_id: "0123456789abcdef01234567",
            room: "room1",
            user: "webcast_1",
            nonce: 12_345_678,
            issued_s: 1_700_000_000,
            expires_s: 1_700_086_400,
            privileges: &[(Privilege::Subscribe, 0), (Privilege::Publish, 1_700_086_400)],
        };
        let key = Secret::new("appkey0123456789");
        assert_eq!(
            token.mint(&key).unwrap(),
            r"0010123456789abcdef01234567PgBOYbwAAPFTZYBCVWUFAHJvb20xCQB3ZWJjYXN0XzEFAAAAgEJVZQEAgEJVZQIAgEJVZQMAgEJVZQQAAAAAACAALAjvRcu+BdbqLB0LK3QC/rwT0TE2acTlGZu+KApA1w4="
        );
        assert_eq!(Token { app_id: "short", ..token.clone() }.mint(&key), Err(TokenError));
        assert_eq!(Token { room: &"r".repeat(65_536), ..token }.mint(&key), Err(TokenError));
    }
}
