//! Tokens of requests between nodes.
//!
//! A token is an HMAC-SHA-256 with the fleet's secret over method, path with query, sender, receiver, time, a
//! nonce, the user's address if a user's request is passed on, and the hash of the body. It is valid once,
//! for one receiver, for [`VALIDITY_MS`] before and after its time.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac};
use axum::http::{HeaderName, HeaderValue, Method};
use pagecast_core::spec::{Secret, is_label};
use pagecast_fleet::{UnixMs, WorkerId};

use crate::service::{Clock, random_bytes};

/// Header with the token.
pub(super) const HEADER: HeaderName = HeaderName::from_static("pagecast-peer");
/// Longest distance of a token's time to the receiver's clock, in milliseconds: clocks of nodes differ by
/// milliseconds with NTP, and without it by seconds.
pub(super) const VALIDITY_MS: i64 = 30_000;
/// How long a nonce is remembered: a token from the future is valid for twice [`VALIDITY_MS`].
const NONCE_LIFETIME: Duration = Duration::from_millis(2 * VALIDITY_MS.unsigned_abs());
/// Most remembered nonces, 5 MB: 1600 requests a second. When full, requests are refused until one is
/// forgotten.
const MAX_NONCES: usize = 100_000;
/// Longest token, in bytes.
const MAX_LEN: usize = 512;
/// First field of a token: its version.
const VERSION: &str = "v1";

/// What a token is for, besides the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) method: &'a Method,
    /// Path with query, as sent.
    pub(super) path: &'a str,
}

/// Key of a fleet, with the name of this node.
pub(super) struct FleetKey {
    key: hmac::Key,
    own: WorkerId,
    clock: Clock,
}

impl std::fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetKey").field("own", &self.own).finish_non_exhaustive()
    }
}

impl FleetKey {
    pub(super) fn new(secret: &Secret, own: WorkerId, clock: Clock) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes()), own, clock }
    }

    /// Name of this node.
    pub(super) fn own(&self) -> &WorkerId {
        &self.own
    }

    /// Signs a request to another node. `client` is the user whose request is passed on.
    pub(super) fn sign(
        &self,
        target: Target<'_>,
        receiver: &WorkerId,
        client: Option<IpAddr>,
        body: &[u8],
    ) -> Option<HeaderValue> {
        let fields = Fields {
            sender: &self.own.0,
            receiver: &receiver.0,
            time: &(self.clock)().to_string(),
            nonce: &base16ct::lower::encode_string(&random_bytes::<16>()),
            client: &client.map_or_else(|| "-".to_owned(), |client| client.to_string()),
            body: &base16ct::lower::encode_string(digest::digest(&digest::SHA256, body).as_ref()),
        };
        let mac = hmac::sign(&self.key, fields.signed_text(target).as_bytes());
        HeaderValue::from_str(&fields.token(&base16ct::lower::encode_string(mac.as_ref()))).ok()
    }
}

/// Fields of a token, as in its text.
#[derive(Debug, Clone, Copy)]
struct Fields<'a> {
    sender: &'a str,
    receiver: &'a str,
    /// Milliseconds since 1970.
    time: &'a str,
    /// 16 random bytes, in hex.
    nonce: &'a str,
    /// IP address, or `-`.
    client: &'a str,
    /// SHA-256 of the body, in hex.
    body: &'a str,
}

impl<'a> Fields<'a> {
    fn token(&self, mac: &str) -> String {
        let Self { sender, receiver, time, nonce, client, body } = self;
        [VERSION, sender, receiver, time, nonce, client, body, mac].join(" ")
    }

    /// Splits a token into its fields and its signature.
    fn parse(token: &'a str) -> Option<(Self, &'a str)> {
        let mut parts = token.split(' ');
        let version = parts.next()?;
        let [sender, receiver, time, nonce, client, body, mac] =
            std::array::from_fn(|_| parts.next().unwrap_or_default());
        let complete = version == VERSION && !mac.is_empty() && parts.next().is_none();
        complete.then_some((Self { sender, receiver, time, nonce, client, body }, mac))
    }

    fn signed_text(&self, target: Target<'_>) -> String {
        let Self { sender, receiver, time, nonce, client, body } = self;
        let (method, path) = (target.method.as_str(), target.path);
        ["pagecast-peer", VERSION, method, path, sender, receiver, time, nonce, client, body].join("\n")
    }
}

/// Sender of a request, whose body is still to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    /// Node that sent the request.
    pub(super) sender: WorkerId,
    /// User whose request is passed on.
    pub(super) client: Option<IpAddr>,
    body_hash: [u8; 32],
}

impl Verified {
    /// Whether this is the body that was signed.
    pub(super) fn has_body(&self, body: &[u8]) -> bool {
        digest::digest(&digest::SHA256, body).as_ref() == self.body_hash
    }
}

/// Why a request is refused. The sender gets the same answer each time; the log has the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request has no token.
    NoToken,
    /// The token is not one of this channel.
    Malformed,
    /// The token was signed with another secret, or for another request.
    WrongSignature,
    /// The token is for another node.
    OtherReceiver,
    /// The token is too old, from the future, or from before the start of this process.
    Stale,
    /// The token was used before.
    Replayed,
    /// Too many tokens were used lately.
    TooMany,
    /// The body is another than the signed one, too long, or did not arrive.
    WrongBody,
}

impl Refusal {
    /// Code for the log.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::Malformed => "malformed-token",
            Self::WrongSignature => "wrong-signature",
            Self::OtherReceiver => "other-receiver",
            Self::Stale => "stale-token",
            Self::Replayed => "replayed-token",
            Self::TooMany => "too-many-tokens",
            Self::WrongBody => "wrong-body",
        }
    }
}

/// Checks the tokens of requests to this node.
#[derive(Debug)]
pub(super) struct Verifier {
    key: FleetKey,
    /// Start of this process, which does not know what was used before.
    started_ms: UnixMs,
    nonces: Mutex<NonceCache>,
}

impl Verifier {
    pub(super) fn new(key: FleetKey) -> Self {
        Self { started_ms: (key.clock)(), key, nonces: Mutex::default() }
    }

    /// Checks the token of a request, and marks it as used.
    pub(super) fn verify(
        &self,
        target: Target<'_>,
        token: Option<&HeaderValue>,
    ) -> Result<Verified, Refusal> {
        let token = token.ok_or(Refusal::NoToken)?;
        let token = token.to_str().ok().filter(|token| token.len() <= MAX_LEN).ok_or(Refusal::Malformed)?;
        let (fields, mac) = Fields::parse(token).ok_or(Refusal::Malformed)?;
        let mac: [u8; 32] = decode_hex(mac).ok_or(Refusal::Malformed)?;
        hmac::verify(&self.key.key, fields.signed_text(target).as_bytes(), &mac)
            .map_err(|_| Refusal::WrongSignature)?;
        // From here on, a node of this fleet has written the fields.
        if fields.receiver != self.key.own.0 {
            return Err(Refusal::OtherReceiver);
        }
        if !is_label(fields.sender) {
            return Err(Refusal::Malformed);
        }
        let time: UnixMs = fields.time.parse().map_err(|_| Refusal::Malformed)?;
        if time < self.started_ms || time.saturating_sub((self.key.clock)()).saturating_abs() > VALIDITY_MS {
            return Err(Refusal::Stale);
        }
        let nonce: [u8; 16] = decode_hex(fields.nonce).ok_or(Refusal::Malformed)?;
        let client = match fields.client {
            "-" => None,
            client => Some(client.parse().map_err(|_| Refusal::Malformed)?),
        };
        let body_hash = decode_hex(fields.body).ok_or(Refusal::Malformed)?;
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.insert(Instant::now(), u128::from_be_bytes(nonce), MAX_NONCES)?;
        Ok(Verified { sender: WorkerId(fields.sender.to_owned()), client, body_hash })
    }
}

fn decode_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let decoded = base16ct::lower::decode(text, &mut bytes).ok()?;
    (decoded.len() == N).then_some(bytes)
}

/// Nonces that were used lately.
#[derive(Debug, Default)]
struct NonceCache {
    used: HashSet<u128>,
    /// The same nonces in the order of their use, with the time until which they are remembered.
    queue: VecDeque<(Instant, u128)>,
}

impl NonceCache {
    fn insert(&mut self, now: Instant, nonce: u128, max: usize) -> Result<(), Refusal> {
        while let Some((_, old)) = self.queue.pop_front_if(|(until, _)| *until <= now) {
            self.used.remove(&old);
        }
        if self.used.contains(&nonce) {
            return Err(Refusal::Replayed);
        }
        if self.used.len() >= max {
            return Err(Refusal::TooMany);
        }
        self.used.insert(nonce);
        self.queue.push_back((now + NONCE_LIFETIME, nonce));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const TARGET: Target<'_> = Target { method: &Method::POST, path: "/peer/owners?x=1" };
    const START_MS: i64 = 1_795_280_400_000;

    struct Fleet {
        clock_ms: Arc<AtomicI64>,
        sender: FleetKey,
        receiver: Verifier,
    }

    fn fleet() -> Fleet {
        let clock_ms = Arc::new(AtomicI64::new(START_MS));
        let clock: Clock = {
            let clock_ms = Arc::clone(&clock_ms);
            Arc::new(move || clock_ms.load(Ordering::SeqCst))
        };
        let key = |name: &str, secret: &str| {
            FleetKey::new(&Secret::new(secret), WorkerId(name.to_owned()), Arc::clone(&clock))
        };
        Fleet { sender: key("a", SECRET), receiver: Verifier::new(key("b", SECRET)), clock_ms }
    }

    fn sign(key: &FleetKey, receiver: &str) -> HeaderValue {
        let client = Some("2001:db8::7".parse().unwrap());
        key.sign(TARGET, &WorkerId(receiver.to_owned()), client, b"body").unwrap()
    }

    #[test]
    fn a_token_is_accepted_once() {
        let Fleet { sender, receiver, .. } = fleet();
        let token = sign(&sender, "b");
        let verified = receiver.verify(TARGET, Some(&token)).unwrap();
        assert_eq!((verified.sender.0.as_str(), verified.client), ("a", "2001:db8::7".parse().ok()));
        assert!(verified.has_body(b"body") && !verified.has_body(b"another") && !verified.has_body(b""));
        assert_eq!(receiver.verify(TARGET, Some(&token)), Err(Refusal::Replayed));
        let without_client = sender.sign(TARGET, &WorkerId("b".into()), None, b"").unwrap();
        assert_eq!(receiver.verify(TARGET, Some(&without_client)).unwrap().client, None);
    }

    #[test]
    fn a_token_is_for_one_request_to_one_receiver() {
        let Fleet { sender, receiver, .. } = fleet();
        let token = sign(&sender, "b");
        for target in [
            Target { method: &Method::GET, ..TARGET },
            Target { path: "/peer/owners?x=2", ..TARGET },
            Target { path: "/peer/owners", ..TARGET },
        ] {
            assert_eq!(receiver.verify(target, Some(&token)), Err(Refusal::WrongSignature), "{target:?}");
        }
        assert_eq!(receiver.verify(TARGET, Some(&sign(&sender, "c"))), Err(Refusal::OtherReceiver));
        assert_eq!(receiver.verify(TARGET, None), Err(Refusal::NoToken));
        assert!(receiver.verify(TARGET, Some(&token)).is_ok(), "refused attempts do not use it up");
    }

    #[test]
    fn tokens_of_others_are_refused() {
        let Fleet { sender, receiver, clock_ms } = fleet();
        let clock: Clock = Arc::new(move || clock_ms.load(Ordering::SeqCst));
        let stranger = FleetKey::new(&Secret::new(SECRET.replace('f', "e")), sender.own.clone(), clock);
        assert_eq!(receiver.verify(TARGET, Some(&sign(&stranger, "b"))), Err(Refusal::WrongSignature));
        let token = sign(&sender, "b").to_str().unwrap().to_owned();
        let parts: Vec<&str> = token.split(' ').collect();
        // Each signed field matters.
        for field in 1..7 {
            let mut changed = parts.clone();
            let other = format!("{}0", parts[field]);
            changed[field] = &other;
            let changed = HeaderValue::from_str(&changed.join(" ")).unwrap();
            assert_eq!(receiver.verify(TARGET, Some(&changed)), Err(Refusal::WrongSignature), "{changed:?}");
        }
        let long = "v1 ".to_owned() + &"a ".repeat(400);
        for text in ["", "v1", "Bearer administrator-0123456789", &token[1..], &format!("{token} x"), &long] {
            let header = HeaderValue::from_str(text).unwrap();
            assert_eq!(receiver.verify(TARGET, Some(&header)), Err(Refusal::Malformed), "{text}");
        }
        assert_eq!(
            receiver.verify(TARGET, Some(&HeaderValue::from_bytes(b"v1 \xff").unwrap())),
            Err(Refusal::Malformed)
        );
    }

    #[test]
    fn a_token_is_valid_for_half_a_minute_each_way() {
        let Fleet { sender, receiver, clock_ms } = fleet();
        for (signed_after_ms, received_after_ms, accepted) in [
            (0, 30_000, true),
            (0, 30_001, false),
            (100_000, 70_000, true),
            (100_000, 69_999, false),
            (-1, 0, false),
        ] {
            clock_ms.store(START_MS + signed_after_ms, Ordering::SeqCst);
            let token = sign(&sender, "b");
            clock_ms.store(START_MS + received_after_ms, Ordering::SeqCst);
            let result = receiver.verify(TARGET, Some(&token));
            let expected = if accepted { None } else { Some(Refusal::Stale) };
            assert_eq!(result.err(), expected, "{signed_after_ms} ms, received after {received_after_ms} ms");
        }
    }

    #[test]
    fn nonces_are_bounded_and_forgotten() {
        let (mut cache, now) = (NonceCache::default(), Instant::now());
        for nonce in 0..3 {
            assert_eq!(cache.insert(now, nonce, 3), Ok(()));
        }
        assert_eq!(cache.insert(now, 0, 3), Err(Refusal::Replayed));
        assert_eq!(cache.insert(now + NONCE_LIFETIME / 2, 3, 3), Err(Refusal::TooMany));
        assert_eq!(cache.insert(now + NONCE_LIFETIME, 0, 3), Ok(()));
        assert_eq!((cache.used.len(), cache.queue.len()), (1, 1));
    }
}
