//! One connection to a target with libavformat: FLV over RTMP, MPEG-TS over SRT.
#![expect(unsafe_code, reason = "calls of libavformat that its bindings do not wrap")]

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ff::ffi;
use ff::format::context::Output;
use ffmpeg_the_third as ff;
use pagecast_core::spec::{PushProtocol, PushUrl};
use pagecast_core::{Packet, SAMPLE_RATE, Track};

use super::deadline::{IoDeadline, interrupt_callback};
use super::resolve::{ConnectTo, tc_url};
use crate::encode::Tracks;
use crate::mux::{self, add_stream, check_av, to_av_packet};

/// Files with the system's certificate authorities (Debian, Red Hat, Alpine).
const CA_BUNDLE_PATHS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Time for SRT to send its buffer on close, in seconds: less than the close timeout.
const SRT_LINGER_S: &str = "1";
/// Time from MPEG-TS clock to presentation, in microseconds: the decoder's time to buffer a picture.
const TS_MAX_DELAY_US: i32 = 200_000;

/// An open connection.
pub(super) struct Session {
    /// Dropping it closes the connection, which still checks the deadline.
    output: Output,
    #[expect(dead_code, reason = "libavformat holds a pointer to it")]
    deadline: Arc<IoDeadline>,
    /// Stream indexes of video and audio.
    streams: (Option<usize>, usize),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Connects, publishes the stream and sends the container's header. Blocks up to the deadline.
    pub(super) fn open(
        url: &PushUrl,
        connect_to: ConnectTo,
        tracks: &Tracks,
        ca_file: Option<&Path>,
        deadline: Arc<IoDeadline>,
    ) -> Result<Self, ff::Error> {
        let format = if url.protocol() == PushProtocol::Srt { c"mpegts" } else { c"flv" };
        let address = match connect_to {
            ConnectTo::ByName => url.reveal().to_owned(),
            ConnectTo::Address(server) => url.with_server(server),
        };
        let address = CString::new(address).map_err(|_| ff::Error::InvalidData)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call; `Output` owns and frees the new context.
        let mut output = unsafe {
            check_av(ffi::avformat_alloc_output_context2(
                &raw mut context,
                std::ptr::null(),
                format.as_ptr(),
                std::ptr::null(),
            ))?;
            Output::wrap(context)
        };
        let callback =
            ffi::AVIOInterruptCB { callback: Some(interrupt_callback), opaque: deadline.as_opaque() };
        // SAFETY: we own the context, which is not yet used.
        unsafe {
            (*context).interrupt_callback = callback;
            // Time stamps stay those of the cast on every connection.
            (*context).avoid_negative_ts = 0;
            (*context).max_delay = TS_MAX_DELAY_US;
        }
        let video = match &tracks.video {
            Some((parameters, fps)) => {
                let base = (1, i32::try_from(fps.get()).unwrap_or(i32::MAX));
                Some(add_stream(&mut output, parameters.clone(), base)?)
            }
            None => None,
        };
        let audio = add_stream(&mut output, tracks.audio.clone(), (1, SAMPLE_RATE as i32))?;
        let mut options = protocol_options(url.protocol(), ca_file);
        if url.protocol() == PushProtocol::Rtmp && connect_to != ConnectTo::ByName {
            options.set("rtmp_tcurl", tc_url(url));
        }
        // SAFETY: as above; the session drops the callback's deadline after the connection.
        check_av(unsafe {
            let to = &raw mut (*context).pb;
            ffi::avio_open2(
                to,
                address.as_ptr(),
                ffi::AVIO_FLAG_WRITE,
                &raw const callback,
                options.as_mut_ptr(),
            )
        })?;
        let mut header = ff::Dictionary::new();
        header.set("flvflags", "no_duration_filesize");
        output.write_header_with(header)?;
        let mut session = Self { output, deadline, streams: (video, audio) };
        session.flush()?;
        Ok(session)
    }

    /// Sends a packet. Blocks up to the deadline.
    pub(super) fn write_packet(&mut self, packet: &Packet) -> Result<(), ff::Error> {
        let stream = match packet.track {
            Track::Video => self.streams.0,
            Track::Audio => Some(self.streams.1),
        };
        let Some(stream) = stream else { return Ok(()) };
        // The time bases of both containers have the numerator 1.
        let base = self.output.stream(stream).map_or(1000, |s| s.time_base().denominator());
        let mut av = to_av_packet(packet, stream, u32::try_from(base).unwrap_or(1000));
        mux::write_packet(&mut self.output, &mut av)?;
        self.flush()
    }

    /// Flushes written data to the network.
    fn flush(&mut self) -> Result<(), ff::Error> {
        mux::flush(&mut self.output).map(drop)
    }

    /// Sends the container's trailer and closes the connection.
    pub(super) fn finish(mut self) -> Result<(), ff::Error> {
        mux::write_trailer(&mut self.output)?;
        self.flush()
    }
}

fn protocol_options(protocol: PushProtocol, ca_file: Option<&Path>) -> ff::Dictionary {
    let mut options = ff::Dictionary::new();
    match protocol {
        PushProtocol::Rtmp => {}
        PushProtocol::Rtmps => {
            options.set("tls_verify", "1");
            if let Some(path) = ca_file.and_then(Path::to_str) {
                options.set("ca_file", path);
            }
        }
        PushProtocol::Srt => {
            options.set("linger", SRT_LINGER_S);
            // Seven TS packets: as many as fit into one datagram of any network.
            options.set("pkt_size", "1316");
        }
    }
    options
}

/// The file of trusted certificate authorities: `SSL_CERT_FILE`, as OpenSSL reads it, or the system's.
pub(super) fn find_ca_file() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").filter(|name| !name.is_empty()).map(PathBuf::from);
    named.or_else(|| CA_BUNDLE_PATHS.map(PathBuf::from).into_iter().find(|path| path.exists()))
}
