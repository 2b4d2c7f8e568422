//! Turns errors of a push into messages that an operator can act on.
//!
//! libavformat's error codes are coarse: an unknown host name and a wrong certificate both are "input/output
//! error". Its log is more specific, so the first error logged on a push thread is captured and classified.
//! The text itself is never shown, as it may contain secrets; only a message from the server is quoted.
#![expect(unsafe_code, reason = "libavutil's log is set up by calls that its bindings do not wrap")]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Once;

use ff::ffi;
use ffmpeg_the_third as ff;
use pagecast_core::error_text::io_reason;
use pagecast_core::spec::{PushProtocol, PushUrl};
use rustix::io::Errno;

/// Longest log line that is captured, in bytes: longer than any that libavformat logs for a connection.
const MAX_LINE_BYTES: usize = 512;
/// Longest quote from a server, in characters: one line of a status.
const MAX_QUOTED_CHARS: usize = 160;

#[cfg(target_arch = "x86_64")]
type VaList = *mut ffi::__va_list_tag;
#[cfg(not(target_arch = "x86_64"))]
type VaList = ffi::va_list;

thread_local! {
    /// First error logged since the last [`LogCapture::clear`]; `None` on threads without a capture.
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Captures what libavformat logs on this thread.
#[derive(Debug)]
pub(super) struct LogCapture(());

impl LogCapture {
    pub(super) fn start() -> Self {
        static ONCE: Once = Once::new();
        // SAFETY: the callback is made for this call and lives as long as the program.
        ONCE.call_once(|| unsafe { ffi::av_log_set_callback(Some(log_callback)) });
        let log = Self(());
        log.clear();
        log
    }

    /// Forgets the captured line.
    pub(super) fn clear(&self) {
        FIRST.with_borrow_mut(|first| *first = Some(String::new()));
    }

    fn first_error(&self) -> String {
        FIRST.with_borrow(|first| first.clone().unwrap_or_default())
    }
}

/// Captures a line, or passes it to libavutil's default callback.
unsafe extern "C" fn log_callback(context: *mut c_void, level: c_int, format: *const c_char, values: VaList) {
    let capturing = FIRST.try_with(|first| first.try_borrow().is_ok_and(|first| first.is_some()));
    if capturing != Ok(true) {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { ffi::av_log_default_callback(context, level, format, values) };
    }
    if level > ffi::AV_LOG_ERROR {
        return;
    }
    let (mut line, mut prefix) = ([0; MAX_LINE_BYTES], 0);
    // SAFETY: the buffer has the given length, and is a C string afterwards.
    let text = unsafe {
        ffi::av_log_format_line(
            context,
            level,
            format,
            values,
            line.as_mut_ptr(),
            MAX_LINE_BYTES as c_int,
            &raw mut prefix,
        );
        CStr::from_ptr(line.as_ptr()).to_string_lossy()
    };
    let _gone = FIRST.try_with(|first| {
        if let Ok(mut first) = first.try_borrow_mut()
            && let Some(first) = first.as_mut().filter(|first| first.is_empty())
        {
            text.trim().clone_into(first);
        }
    });
}

/// When the error occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before the server accepted the stream.
    Connecting,
    /// After the server accepted the stream.
    Running,
}

/// Describes an error without any secret of the address. `late`: the deadline had expired.
pub(super) fn describe_error(
    url: &PushUrl,
    stage: Stage,
    error: ff::Error,
    late: bool,
    log: &LogCapture,
) -> String {
    let logged = log.first_error();
    let errno = match error {
        ff::Error::Other { errno } => Some(Errno::from_raw_os_error(errno)),
        _ => None,
    };
    let lower = logged.to_lowercase();
    // Name resolution ignores the deadline, so this comes before the check of `late`.
    if lower.contains("resolve") {
        return "the host is unknown: no address was found for its name".into();
    }
    if !logged.is_empty() {
        tracing::debug!(av_log = sanitize(url, &logged), %error, "libavformat error");
    }
    if late || errno == Some(Errno::TIMEDOUT) || lower.contains("timed out") {
        return match stage {
            Stage::Connecting => "no answer in time: check host, port and firewall".into(),
            Stage::Running => "the server stopped taking the stream".into(),
        };
    }
    if lower.contains("certificate") || lower.contains("tls") || lower.contains("handshake failed") {
        return describe_tls_error(&lower).into();
    }
    if let Some((_, reason)) = logged.split_once("Server error:") {
        return format!(
            "the server refused the stream, check application and key ({})",
            sanitize(url, reason)
        );
    }
    match (stage, errno) {
        (_, Some(Errno::CONNREFUSED)) => "connection refused: nothing capturing there".into(),
        (_, Some(Errno::HOSTUNREACH | Errno::NETUNREACH)) => "the host cannot be reached".into(),
        (Stage::Running, _) => "the server closed the connection".into(),
        (Stage::Connecting, _) if matches!(error, ff::Error::Eof) || is_disconnect(errno) => {
            let hint = if url.protocol() == PushProtocol::Srt {
                "check host, port, stream id and passphrase"
            } else {
                "check application and key, and that it is such a server"
            };
            if logged.is_empty() {
                format!("the server closed the connection before it took the stream: {hint}")
            } else {
                format!("the server did not take the stream: {hint}")
            }
        }
        (_, Some(errno)) => format!("cannot connect: {}", io_reason(&errno.into())),
        _ => "cannot connect: the server uses another protocol than the address".into(),
    }
}

/// Describes a TLS error from libavformat's log line in lower case.
fn describe_tls_error(logged: &str) -> &'static str {
    let is = |words: &[&str]| words.iter().any(|word| logged.contains(word));
    if is(&["expired", "not activated", "not yet"]) {
        "TLS: the server's certificate is not valid today: renew it, or set the clock of this machine"
    } else if is(&["hostname", "host name", "owner", "not match"]) {
        "TLS: the server's certificate is for another host name: use the name that is in it"
    } else if is(&["certificate", "issuer", "verify"]) {
        "TLS: the server's certificate is not from an authority that this machine trusts: install it, or \
         name it in SSL_CERT_FILE"
    } else {
        "TLS: no secure connection can be made: check that the port speaks TLS, or use rtmp://"
    }
}

/// Whether another address of the same host may work: this one did not answer.
pub(super) fn should_try_next_address(url: &PushUrl, error: ff::Error) -> bool {
    let unreachable = [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::TIMEDOUT];
    let no_answer = |errno| unreachable.contains(&Errno::from_raw_os_error(errno));
    // libavformat reports no usable error for SRT.
    url.protocol() == PushProtocol::Srt || matches!(error, ff::Error::Other { errno } if no_answer(errno))
}

fn is_disconnect(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::IO | Errno::CONNRESET | Errno::PIPE | Errno::PERM | Errno::PROTO))
}

/// Cleans text of a server for quoting: without secrets and control characters, and not too long.
fn sanitize(url: &PushUrl, line: &str) -> String {
    let clean = url.redact(line.trim().trim_end_matches('.'));
    clean.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_QUOTED_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> PushUrl {
        PushUrl::parse("rtmp://a.example/live/hunter2?sign=hunter3").unwrap()
    }

    #[test]
    fn the_library_s_text_is_not_quoted() {
        let log = LogCapture::start();
        let refused = ff::Error::Other { errno: Errno::CONNREFUSED.raw_os_error() };
        let failed = ff::Error::Other { errno: Errno::IO.raw_os_error() };
        for (line, error, words) in [
            (
                c"Connection to tcp://a.example:1935 failed: Connection refused",
                refused,
                "nothing capturing there",
            ),
            (c"Error in the pull function.", failed, "the server did not take the stream: check application"),
            (c"Cannot read RTMP handshake response", ff::Error::Eof, "the server did not take the stream"),
            (c"Unable to verify peer certificate: x509 certificate has expired", failed, "not valid today"),
            (c"The certificate's owner does not match hostname 127.0.0.1", failed, "another host name"),
            (c"Peer certificate failed verification", failed, "not from an authority"),
            (c"TLS handshake failed: -12", failed, "no secure connection"),
            (
                c"Connection to srt://a.example:9 failed: Connection setup failure: connection timed out",
                failed,
                "no answer in time",
            ),
            (c"Invalid chunk size 77", ff::Error::InvalidData, "another protocol"),
        ] {
            log.clear();
            // SAFETY: both are C strings without anything to fill in.
            unsafe { ffi::av_log(std::ptr::null_mut(), ffi::AV_LOG_ERROR, c"%s".as_ptr(), line.as_ptr()) };
            let message = describe_error(&url(), Stage::Connecting, error, false, &log);
            assert!(message.contains(words), "{line:?}: {message}");
            let line = line.to_string_lossy();
            assert!(!message.contains(&*line) && !message.contains("os error"), "{line}: {message}");
        }
    }

    #[test]
    fn lines_are_kept_first_come_and_cleaned() {
        let log = LogCapture::start();
        for line in [c"Server error: hunter2?sign=hunter3 is taken\n", c"and more"] {
            // SAFETY: both are C strings without anything to fill in.
            unsafe { ffi::av_log(std::ptr::null_mut(), ffi::AV_LOG_ERROR, c"%s".as_ptr(), line.as_ptr()) };
        }
        let words = describe_error(&url(), Stage::Connecting, ff::Error::Unknown, false, &log);
        assert_eq!(words, "the server refused the stream, check application and key (… is taken)");
        log.clear();
        let words = describe_error(&url(), Stage::Running, ff::Error::Eof, false, &log);
        assert_eq!(words, "the server closed the connection");
    }
}
