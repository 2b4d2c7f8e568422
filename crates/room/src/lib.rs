//! Rooms: sends the encoded packets of a cast as a WebRTC stream.
//!
//! A [`publish::Publisher`] sends the packets of one cast to a server, over a connection that one of
//! the protocols in [`signaling`] sets up: WHIP, LiveKit or Janus. [`embedded`] is such a server: WHIP in,
//! WHEP out, with a viewer page.
//!
//! The path is `Packet → publish → rtc → net → the server`. Keyframe requests and target bitrates come back
//! and reach the encoders through [`publish::EncoderControl`].
//!
//! Deliberately absent: encoding, decoding, and the web page that is cast.

mod congestion;
pub mod embedded;
pub mod net;
pub mod publish;
mod rtc;
mod sdp;
mod signaling;
#[cfg(test)]
mod simulated_link;
mod timer;
