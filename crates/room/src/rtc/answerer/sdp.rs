//! SDP helpers that str0m lacks.

/// Why an offer is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OfferError {
    /// The offer is not valid SDP.
    #[error("this offer is malformed: {0}")]
    Malformed(String),
    /// The offer is valid but not supported.
    #[error("this offer is not supported: {0}")]
    Unsupported(&'static str),
}

/// Number of media sections of an offer.
pub(super) fn count_media_sections(sdp: &str) -> usize {
    sdp.lines().filter(|line| line.starts_with("m=")).count()
}

/// The offer with other ICE credentials, and without candidates: the previous ones are no longer valid.
pub(super) fn with_ice_credentials(offer: &str, ufrag: &str, password: &str) -> String {
    let mut changed = String::with_capacity(offer.len() + 64);
    for line in offer.lines() {
        if line.starts_with("a=ice-ufrag:") {
            changed.push_str(&format!("a=ice-ufrag:{ufrag}"));
        } else if line.starts_with("a=ice-pwd:") {
            changed.push_str(&format!("a=ice-pwd:{password}"));
        } else if line.starts_with("a=candidate:") || line.starts_with("a=end-of-candidates") {
            continue;
        } else {
            changed.push_str(line);
        }
        changed.push_str("\r\n");
    }
    changed
}

/// Text of a client as it may appear in an answer: no control characters, at most 200 characters.
pub(super) fn sanitize_text(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
