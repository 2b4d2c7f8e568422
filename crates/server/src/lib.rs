//! The HTTP service, in which clients create casts: the Volcengine, Tencent and REST APIs and the rooms on
//! one listener, callbacks, and metrics.
//!
//! Begin with [`Service`], the state that all APIs share. A request enters through [`listen`], is dispatched
//! by [`route`], and becomes a [`pagecast_fleet::NewCast`] in one of the dialects [`volcengine`], [`tencent`]
//! and [`rest`], each a thin translation. Events of casts leave through [`callback`], in the format of the
//! dialect that created the cast. [`peer`] connects the nodes of a fleet.
//!
//! Deliberately absent: pages, media, and the running of casts.

pub mod app;
mod audit;
mod auth_log;
mod bounded_json;
pub mod callback;
pub mod config;
mod console;
mod explorer;
mod internal_error;
pub mod listen;
pub mod metrics;
mod new_cast;
mod oidc;
#[cfg(test)]
mod outage;
pub mod peer;
mod permission;
mod rate_limit;
mod request_id;
mod request_record;
pub mod rest;
pub mod route;
mod service;
mod sign_in_code;
pub mod tencent;
pub mod volcengine;

pub use audit::AuditLog;
pub use permission::Permission;
pub use request_id::RequestId;
pub use rest::PageCheck;
pub use service::{
    Clock, EmbeddedRooms, PageChecker, RecordingReader, Service, StorageTestStep, StorageTester,
    StoredEvidence, StoredRecordings, is_embedded_room,
};
pub use sign_in_code::SignInCode;
