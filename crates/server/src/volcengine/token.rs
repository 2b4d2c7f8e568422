//! The token of a Volcengine RTC room: who may do what in it, until when.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pagecast_core::spec::Secret;

/// Length of an application identifier in a token.
pub const APP_ID_LEN: usize = 24;

/// The largest nonce; the least is 1.
pub const MAX_NONCE: u32 = 99_999_999;

/// What a token may allow. Publishing anything goes with the three kinds of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Audio, video and data.
    Publish,
    /// To receive.
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

/// A token to be. Times are seconds since 1970; 0 as an end is never.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    /// The application, [`APP_ID_LEN`] characters.
    pub app_id: &'a str,
    /// The room.
    pub room: &'a str,
    /// The user.
    pub user: &'a str,
    /// By chance, 1 to [`MAX_NONCE`].
    pub nonce: u32,
    /// When it was made.
    pub issued_s: u32,
    /// When it is good for nothing any more.
    pub expires_s: u32,
    /// What it allows, each until when.
    pub privileges: &'a [(Privilege, u32)],
}

/// Nothing a token can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot make a token: the application needs 24 characters, room and user at most 65535 bytes")]
pub struct TokenError;

impl Token<'_> {
    /// Signs it with the application's key.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn mint(&self, app_key: &Secret) -> Result<String, TokenError> {
        if self.app_id.len() != APP_ID_LEN || !self.app_id.is_ascii() {
            return Err(TokenError);
        }
        let mut grants: Vec<(u16, u32)> = Vec::new();
        for (privilege, until) in self.privileges {
            grants.extend(privilege.wire_values().iter().map(|number| (*number, *until)));
        }
        grants.sort_unstable();
        grants.dedup_by_key(|(number, _)| *number);
        let mut message = Vec::new();
        for number in [self.nonce, self.issued_s, self.expires_s] {
            message.extend(number.to_le_bytes());
        }
        put_length_prefixed(&mut message, self.room.as_bytes())?;
        put_length_prefixed(&mut message, self.user.as_bytes())?;
        message.extend(u16::try_from(grants.len()).map_err(|_| TokenError)?.to_le_bytes());
        for (number, until) in grants {
            message.extend(number.to_le_bytes());
            message.extend(until.to_le_bytes());
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, app_key.reveal().as_bytes());
        let mut content = Vec::new();
        put_length_prefixed(&mut content, &message)?;
        put_length_prefixed(&mut content, hmac::sign(&key, &message).as_ref())?;
        Ok(format!("001{}{}", self.app_id, STANDARD.encode(content)))
    }
}

fn put_length_prefixed(to: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TokenError> {
    to.extend(u16::try_from(bytes.len()).map_err(|_| TokenError)?.to_le_bytes());
    to.extend(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_specification_has_it() {
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
            "0010123456789abcdef01234567PgBOYbwAAPFTZYBCVWUFAHJvb20xCQB3ZWJjYXN0XzEFAAAAgEJVZQEAgEJVZQIAgEJVZQMAgEJVZQQAAAAAACAALAjvRcu+BdbqLB0LK3QC/rwT0TE2acTlGZu+KApA1w4="
        );
        assert_eq!(Token { app_id: "short", ..token.clone() }.mint(&key), Err(TokenError));
        assert_eq!(Token { room: &"r".repeat(65_536), ..token }.mint(&key), Err(TokenError));
    }
}
