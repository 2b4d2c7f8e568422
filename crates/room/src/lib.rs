//! Rooms: packets become a WebRTC stream.
//!
//! A [`publish::Publisher`] sends the packets of one cast to a server, over a connection that one of
//! [`signaling`]'s dialects sets up: WHIP, LiveKit, Janus. [`embedded`] is such a server: WHIP in, WHEP out,
//! with a page to watch it on.
//!
//! The path is `Packet → publish → rtc → net → the server`; back come wishes for keyframes and bitrates,
//! which the encoders are told through [`publish::EncoderControl`].
//!
//! Deliberately absent: encoding (packets come ready, and nothing is decoded here), and the page.

mod congestion;
pub mod embedded;
pub mod net;
pub mod publish;
mod rtc;
mod sdp;
mod signaling;
