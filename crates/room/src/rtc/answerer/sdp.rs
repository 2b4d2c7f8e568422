//! Words of SDP, where str0m has none.

/// Why an offer is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OfferError {
    /// It is no SDP, or no sound one.
    #[error("this offer cannot be understood: {0}")]
    Malformed(String),
    /// It is sound, and nothing that can be done.
    #[error("this offer cannot be taken: {0}")]
    Unsupported(&'static str),
}

/// How many media an offer has.
pub(super) fn count_media_sections(sdp: &str) -> usize {
    sdp.lines().filter(|line| line.starts_with("m=")).count()
}

/// The same offer with other ICE credentials, and without candidates: those of before are no use any more.
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

/// What a stranger's text is repeated as.
pub(super) fn sanitize_text(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
