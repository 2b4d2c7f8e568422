//! Tools that end-to-end tests and the bench share: pages that can be measured, a server for them, a runner
//! for `pagecast`, test servers, and audio and video analysis of recordings.
//!
//! Begin with [`pagecast`], which runs the program, and [`page_server`], which serves the pages. A page draws
//! a [`timecode`]: black and white blocks with the number of the frame and the time at which the page drew
//! it. [`media`] decodes recordings with the `ffmpeg` program, so it shares no code with Pagecast.
//!
//! Deliberately absent: the crates of Pagecast, whose command line and APIs are used instead; and limits,
//! because this crate measures and tests compare.

pub mod av_sync;
pub mod browser;
pub mod chromium;
pub mod command;
pub mod coturn;
pub mod encoded_media;
pub mod flash_beep;
pub mod fleet;
pub mod flv;
pub mod http;
pub mod janus;
pub mod link;
pub mod link_emulator;
pub mod livekit;
pub mod lock;
pub mod media;
pub mod page_reports;
pub mod page_server;
pub mod pagecast;
pub mod pgbouncer;
pub mod postgres;
pub mod postgres_proxy;
pub mod receiver;
pub mod room_viewer;
pub mod rtmp;
pub mod s3;
pub mod scratch;
pub mod service;
pub mod sign;
pub mod skip;
pub mod tcp_forwarder;
pub mod timecode;
pub mod tls;
pub mod verify;
pub mod viewer;
pub mod vod;
pub mod wait;
pub mod whip;

pub use browser::{Browser, Page};
pub use chromium::screenshot;
pub use fleet::{FleetConfig, TestFleet};
pub use janus::JanusServer;
pub use link::{Link, LinkConditions};
pub use link_emulator::LinkEmulator;
pub use livekit::LiveKitServer;
pub use lock::MachineLock;
pub use media::Recording;
pub use page_server::{PageResponse, PageServer};
pub use pagecast::{Outcome, PagecastCommand, PagecastProcess, Report};
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use postgres_proxy::{Cut, PostgresProxy};
pub use receiver::{ReceivedRequest, ResponseMode, WebhookReceiver};
pub use room_viewer::RoomViewer;
pub use rustix::process::Signal;
pub use s3::{InjectedFault, S3Server};
pub use scratch::{ScratchDir, Tmpfs};
pub use service::{Backend, ServiceConfig, ServiceProcess};
pub use skip::{is_root_or_skip, skip};
pub use tcp_forwarder::TcpForwarder;
pub use tls::{CertificateAuthority, TlsServer, end_entity_certificate, self_signed_certificate};
pub use viewer::Viewer;
pub use vod::VodServer;
pub use wait::wait_until;
pub use whip::WhipServer;
