//! Messages of LiveKit's protocol that are used here, from livekit_rtc.proto and livekit_models.proto, with
//! the same names and numbers.

use prost::{Enumeration, Message, Oneof};

/// Protocol version: from it on, the server sends `RequestResponse` with a reason.
pub(super) const PROTOCOL_VERSION: u32 = 15;

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignalRequest {
    #[prost(oneof = "Request", tags = "1, 3, 4, 8, 14, 16")]
    pub(super) message: Option<Request>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Request {
    #[prost(message, tag = "1")]
    Offer(SessionDescription),
    #[prost(message, tag = "3")]
    Trickle(TrickleRequest),
    #[prost(message, tag = "4")]
    AddTrack(AddTrackRequest),
    #[prost(message, tag = "8")]
    Leave(LeaveRequest),
    /// Ping of older servers, in milliseconds since 1970.
    #[prost(int64, tag = "14")]
    Ping(i64),
    #[prost(message, tag = "16")]
    PingReq(Ping),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SignalResponse {
    #[prost(oneof = "Response", tags = "1, 2, 4, 6, 8, 14, 22")]
    pub(super) message: Option<Response>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Response {
    #[prost(message, tag = "1")]
    Join(JoinResponse),
    #[prost(message, tag = "2")]
    Answer(SessionDescription),
    #[prost(message, tag = "4")]
    Trickle(TrickleRequest),
    #[prost(message, tag = "6")]
    TrackPublished(TrackPublishedResponse),
    #[prost(message, tag = "8")]
    Leave(LeaveRequest),
    #[prost(message, tag = "14")]
    SubscribedQualityUpdate(SubscribedQualityUpdate),
    #[prost(message, tag = "22")]
    RequestResponse(RequestResponse),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct JoinResponse {
    #[prost(message, repeated, tag = "5")]
    pub(super) ice_servers: Vec<IceServer>,
    /// URL of another server, if this one is not available.
    #[prost(string, tag = "7")]
    pub(super) alternative_url: String,
    /// Time without a message after which the connection is dead, in seconds.
    #[prost(int32, tag = "10")]
    pub(super) ping_timeout: i32,
    /// Interval of pings, in seconds.
    #[prost(int32, tag = "11")]
    pub(super) ping_interval: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IceServer {
    #[prost(string, repeated, tag = "1")]
    pub(super) urls: Vec<String>,
    #[prost(string, tag = "2")]
    pub(super) username: String,
    #[prost(string, tag = "3")]
    pub(super) credential: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionDescription {
    #[prost(string, tag = "1")]
    pub(super) r#type: String,
    #[prost(string, tag = "2")]
    pub(super) sdp: String,
    /// Number of the offer, which its answer repeats; 0 from older servers.
    #[prost(uint32, tag = "3")]
    pub(super) id: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrickleRequest {
    /// `RTCIceCandidateInit`, as JSON.
    #[prost(string, tag = "1")]
    pub(super) candidate_init: String,
    #[prost(enumeration = "SignalTarget", tag = "2")]
    pub(super) target: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum SignalTarget {
    Publisher = 0,
    Subscriber = 1,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AddTrackRequest {
    /// Track identifier in the SDP.
    #[prost(string, tag = "1")]
    pub(super) cid: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(enumeration = "TrackType", tag = "3")]
    pub(super) r#type: i32,
    #[prost(uint32, tag = "4")]
    pub(super) width: u32,
    #[prost(uint32, tag = "5")]
    pub(super) height: u32,
    /// Turns discontinuous transmission off; for older servers.
    #[prost(bool, tag = "7")]
    pub(super) disable_dtx: bool,
    #[prost(enumeration = "TrackSource", tag = "8")]
    pub(super) source: i32,
    #[prost(message, repeated, tag = "9")]
    pub(super) layers: Vec<VideoLayer>,
    /// Whether the audio is stereo; for older servers.
    #[prost(bool, tag = "12")]
    pub(super) stereo: bool,
    #[prost(bool, tag = "13")]
    pub(super) disable_red: bool,
    #[prost(enumeration = "AudioTrackFeature", repeated, tag = "17")]
    pub(super) audio_features: Vec<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum TrackType {
    Audio = 0,
    Video = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum TrackSource {
    Unknown = 0,
    ScreenShare = 3,
    ScreenShareAudio = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum AudioTrackFeature {
    Stereo = 0,
    NoDtx = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum VideoQuality {
    Low = 0,
    Medium = 1,
    High = 2,
    Off = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VideoLayer {
    #[prost(enumeration = "VideoQuality", tag = "1")]
    pub(super) quality: i32,
    #[prost(uint32, tag = "2")]
    pub(super) width: u32,
    #[prost(uint32, tag = "3")]
    pub(super) height: u32,
    /// Bits per second.
    #[prost(uint32, tag = "4")]
    pub(super) bitrate: u32,
    #[prost(int32, tag = "6")]
    pub(super) spatial_layer: i32,
    #[prost(string, tag = "7")]
    pub(super) rid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackPublishedResponse {
    #[prost(string, tag = "1")]
    pub(super) cid: String,
    #[prost(message, optional, tag = "2")]
    pub(super) track: Option<TrackInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TrackInfo {
    #[prost(string, tag = "1")]
    pub(super) sid: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaveRequest {
    #[prost(enumeration = "DisconnectReason", tag = "2")]
    pub(super) reason: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum DisconnectReason {
    UnknownReason = 0,
    ClientInitiated = 1,
    DuplicateIdentity = 2,
    ServerShutdown = 3,
    ParticipantRemoved = 4,
    RoomDeleted = 5,
    StateMismatch = 6,
    JoinFailure = 7,
    Migration = 8,
    SignalClose = 9,
    RoomClosed = 10,
    ConnectionTimeout = 14,
    MediaFailure = 15,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubscribedQualityUpdate {
    #[prost(string, tag = "1")]
    pub(super) track_sid: String,
    /// Qualities of any codec; from older servers.
    #[prost(message, repeated, tag = "2")]
    pub(super) subscribed_qualities: Vec<SubscribedQuality>,
    #[prost(message, repeated, tag = "3")]
    pub(super) subscribed_codecs: Vec<SubscribedCodec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubscribedCodec {
    #[prost(message, repeated, tag = "2")]
    pub(super) qualities: Vec<SubscribedQuality>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubscribedQuality {
    #[prost(enumeration = "VideoQuality", tag = "1")]
    pub(super) quality: i32,
    #[prost(bool, tag = "2")]
    pub(super) enabled: bool,
}

/// Response to a request that has no other response.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestResponse {
    #[prost(enumeration = "Reason", tag = "2")]
    pub(super) reason: i32,
    #[prost(string, tag = "3")]
    pub(super) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(super) enum Reason {
    Ok = 0,
    NotFound = 1,
    NotAllowed = 2,
    LimitExceeded = 3,
    Queued = 4,
    UnsupportedType = 5,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ping {
    /// Milliseconds since 1970.
    #[prost(int64, tag = "1")]
    pub(super) timestamp: i64,
}
