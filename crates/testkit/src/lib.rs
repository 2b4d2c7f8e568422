//! What end-to-end tests and the bench share: pages that can be measured, a server for them, a way to run
//! `pagecast`, and eyes and ears for what it recorded.
//!
//! A page draws a [`timecode`]: black and white blocks that say which frame this is and when the page drew it.
//! [`media`] decodes a recording with the `ffmpeg` program, so nothing here shares code with what it judges.
//!
//! Deliberately absent: anything of Pagecast but its command line, and any judgement; numbers come out, tests
//! compare.

pub mod av_sync;
pub mod browser;
pub mod chromium;
pub mod command;
pub mod coturn;
pub mod encoded_media;
pub mod flash_beep;
pub mod flv;
pub mod http;
pub mod janus;
pub mod link_emulator;
pub mod livekit;
pub mod lock;
pub mod media;
pub mod page_reports;
pub mod page_server;
pub mod pagecast;
pub mod receiver;
pub mod rtmp;
pub mod s3;
pub mod scratch;
pub mod service;
pub mod sign;
pub mod timecode;
pub mod tls;
pub mod verify;
pub mod viewer;
pub mod vod;
pub mod whip;

pub use browser::{Browser, Page};
pub use chromium::screenshot;
pub use janus::JanusServer;
pub use link_emulator::{LinkConditions, LinkEmulator};
pub use livekit::LiveKitServer;
pub use lock::MachineLock;
pub use media::Recording;
pub use page_server::{PageResponse, PageServer};
pub use pagecast::{Outcome, PagecastCommand, PagecastProcess, Report};
pub use receiver::{ReceivedRequest, ResponseMode, WebhookReceiver};
pub use rustix::process::Signal;
pub use s3::{InjectedFault, S3Server};
pub use scratch::{ScratchDir, Tmpfs};
pub use service::{ServiceConfig, ServiceProcess};
pub use tls::{CertificateAuthority, TlsServer, end_entity_certificate, self_signed_certificate};
pub use viewer::Viewer;
pub use vod::VodServer;
pub use whip::WhipServer;
