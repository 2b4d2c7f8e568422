//! What end-to-end tests and the bench share: pages that can be measured, a server for them, a way to run
//! `pagecast`, and eyes and ears for what it recorded.
//!
//! A page draws a [`strip`]: black and white blocks that say which frame this is and when the page drew it.
//! [`media`] decodes a recording with the `ffmpeg` program, so nothing here shares code with what it judges.
//!
//! Deliberately absent: anything of Pagecast but its command line, and any judgement; numbers come out, tests
//! compare.

pub mod browser;
pub mod chromium;
pub mod clip;
pub mod command;
pub mod flash;
pub mod flv;
pub mod http;
pub mod janus;
pub mod link;
pub mod livekit;
pub mod lock;
pub mod media;
pub mod pages;
pub mod receiver;
pub mod rtmp;
pub mod run;
pub mod s3;
pub mod said;
pub mod scratch;
pub mod service;
pub mod sign;
pub mod signed;
pub mod strip;
pub mod sync;
pub mod tls;
pub mod turn;
pub mod viewer;
pub mod vod;
pub mod whip;

pub use browser::{Browser, Page};
pub use chromium::screenshot;
pub use janus::Janus;
pub use link::{Conditions, Link};
pub use livekit::LiveKit;
pub use lock::Turn;
pub use media::Recording;
pub use pages::{Reply, Server};
pub use receiver::{Manner, Receiver, Told};
pub use run::{Outcome, Pagecast, Report, Run};
pub use rustix::process::Signal;
pub use s3::{Fault, S3};
pub use scratch::{Scratch, Tmpfs};
pub use service::{Service, Setup};
pub use tls::{Authority, SelfSigned, certificate, end_entity};
pub use viewer::Viewer;
pub use vod::VodServer;
pub use whip::Whip;
