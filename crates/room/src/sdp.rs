//! Reads and writes the few lines of SDP that str0m does not (RFC 8866, RFC 8840).

/// Longest SDP or fragment that is read, in lines; offers of browsers have a few hundred.
const MAX_LINES: usize = 2000;

/// Lines of an SDP, without line endings.
fn lines(sdp: &str) -> impl Iterator<Item = &str> {
    sdp.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(MAX_LINES)
}

fn find_line<'a>(sdp: &'a str, prefix: &str) -> Option<&'a str> {
    lines(sdp).find(|line| line.starts_with(prefix))
}

/// Describes a parser error of an SDP. The parser gives positions as addresses in memory, which must not
/// get out, so they become line numbers.
pub(crate) fn describe_parse_error(sdp: &str, error: &str) -> String {
    const POSITION: &str = "PointerOffset(";
    let mut parts = error.split(POSITION);
    let mut described = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (address, rest) = part.split_once(')').unwrap_or((part, ""));
        let address = usize::from_str_radix(address.trim_start_matches("0x"), 16).ok();
        let offset = address.and_then(|address| address.checked_sub(sdp.as_ptr().addr()));
        let before = offset.and_then(|offset| sdp.as_bytes().get(..offset));
        match before {
            Some(before) => {
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                described.push_str(&format!("line {line}"));
            }
            None => described.push_str("an unknown position"),
        }
        described.push_str(rest);
    }
    // The parser writes one line for each thing that it expected.
    described.trim_end().replace('\n', ", ")
}

/// The first media line of an SDP and its `mid`, which a fragment refers to (RFC 8840, section 9).
fn first_media_lines(sdp: &str) -> String {
    let media = find_line(sdp, "m=").unwrap_or("m=audio 9 UDP/TLS/RTP/SAVPF 0");
    let mid = find_line(sdp, "a=mid:").unwrap_or("a=mid:0");
    format!("{media}\r\n{mid}\r\n")
}

fn ice_credential_lines(sdp: &str) -> String {
    let lines = ["a=ice-ufrag:", "a=ice-pwd:"].iter().filter_map(|prefix| find_line(sdp, prefix));
    lines.map(|line| format!("{line}\r\n")).collect()
}

/// An SDP fragment with one more candidate of this offer.
pub(crate) fn trickle_fragment(offer: &str, candidate: &str) -> String {
    let candidate = candidate.trim_start_matches("a=");
    format!("{}{}a={candidate}\r\n", ice_credential_lines(offer), first_media_lines(offer))
}

/// An SDP fragment that requests an ICE restart with the credentials and candidates of this offer.
pub(crate) fn restart_fragment(offer: &str) -> String {
    let mut fragment = ice_credential_lines(offer) + &first_media_lines(offer);
    let is_media = |line: &&str| line.starts_with("m=");
    let first = lines(offer).skip_while(|line| !is_media(line)).skip(1).take_while(|line| !is_media(line));
    for line in first.filter(|line| line.starts_with("a=candidate:")) {
        fragment.push_str(line);
        fragment.push_str("\r\n");
    }
    fragment.push_str("a=end-of-candidates\r\n");
    fragment
}

/// Replaces the credentials and candidates of an answer by those of a fragment.
pub(crate) fn apply_fragment(answer: &str, fragment: &str) -> String {
    let (ufrag, password) = (find_line(fragment, "a=ice-ufrag:"), find_line(fragment, "a=ice-pwd:"));
    let candidates: Vec<&str> = lines(fragment).filter(|line| line.starts_with("a=candidate:")).collect();
    let mut patched = String::with_capacity(answer.len() + fragment.len());
    for line in lines(answer) {
        let replacement = match line {
            line if line.starts_with("a=ice-ufrag:") => ufrag.unwrap_or(line),
            line if line.starts_with("a=ice-pwd:") => password.unwrap_or(line),
            line if line.starts_with("a=candidate:") && !candidates.is_empty() => continue,
            line => line,
        };
        patched.push_str(replacement);
        patched.push_str("\r\n");
        if line.starts_with("a=mid:") {
            for candidate in &candidates {
                patched.push_str(candidate);
                patched.push_str("\r\n");
            }
        }
    }
    patched
}

/// The candidates of a fragment, without the leading `a=`.
pub(crate) fn candidate_lines(fragment: &str) -> impl Iterator<Item = &str> {
    lines(fragment).filter_map(|line| line.strip_prefix("a=")).filter(|line| line.starts_with("candidate:"))
}

/// The track identifier of the media section with this `mid`: the second word of its `msid` (RFC 8830).
pub(crate) fn track_id<'a>(sdp: &'a str, mid: &str) -> Option<&'a str> {
    let (mut here, mut name) = (false, None);
    for line in lines(sdp) {
        if line.starts_with("m=") {
            if here {
                break;
            }
            name = None;
        }
        if let Some(found) = line.strip_prefix("a=mid:") {
            here = found == mid;
        } else if let Some(found) = line.strip_prefix("a=msid:") {
            name = found.split(' ').nth(1);
        }
    }
    name.filter(|_| here)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\na=ice-ufrag:u1\r\na=ice-pwd:p1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
        a=candidate:1 1 udp 1 127.0.0.1 5 typ host\r\nm=video 9 UDP/TLS/RTP/SAVPF 108\r\na=mid:1\r\n\
        a=candidate:1 1 udp 1 127.0.0.1 5 typ host\r\n";

    #[test]
    fn a_parse_error_names_the_line_and_no_address() {
        let offer = OFFER.replace("m=video 9", "m=video nine");
        let error = str0m::change::SdpOffer::from_sdp_string(&offer).unwrap_err().to_string();
        assert!(error.contains("PointerOffset(0x"), "the parser no longer prints addresses: {error}");
        let text = describe_parse_error(&offer, &error);
        assert!(text.contains("line ") && !text.contains("0x") && !text.contains("Pointer"), "{text}");
        assert_eq!(text.lines().count(), 1);
        let at = |offset: usize| format!("at PointerOffset({:#x}): bad", offer.as_ptr().addr() + offset);
        assert_eq!(describe_parse_error(&offer, &at(0)), "at line 1: bad");
        assert_eq!(describe_parse_error(&offer, &at(6)), "at line 2: bad");
        for elsewhere in ["at PointerOffset(0x1): bad", "at PointerOffset(x): bad"] {
            assert_eq!(describe_parse_error(&offer, elsewhere), "at an unknown position: bad");
        }
    }

    #[test]
    fn a_restart_fragment_has_credentials_and_candidates_once() {
        assert_eq!(
            restart_fragment(OFFER),
            "a=ice-ufrag:u1\r\na=ice-pwd:p1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
            a=candidate:1 1 udp 1 127.0.0.1 5 typ host\r\na=end-of-candidates\r\n"
        );
    }

    #[test]
    fn a_trickle_fragment_has_one_candidate() {
        let fragment = trickle_fragment(OFFER, "candidate:2 1 udp 1 127.0.0.1 6 typ relay");
        let expected = "a=mid:0\r\na=candidate:2 1 udp 1 127.0.0.1 6 typ relay\r\n";
        assert!(fragment.ends_with(expected), "{fragment}");
        assert!(fragment.starts_with("a=ice-ufrag:u1\r\n"), "{fragment}");
    }

    #[test]
    fn an_answer_is_patched() {
        let patched = apply_fragment(
            OFFER,
            "a=ice-ufrag:u2\na=ice-pwd:p2\na=candidate:9 1 udp 1 127.0.0.1 9 typ host\n",
        );
        assert!(
            patched.contains("ufrag:u2") && patched.contains("pwd:p2") && !patched.contains("127.0.0.1 5")
        );
        assert_eq!(patched.matches("127.0.0.1 9").count(), 2, "{patched}");
        assert_eq!(super::apply_fragment("", "a=x"), "");
    }
}
