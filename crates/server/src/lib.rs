//! What answers: both clouds' APIs and one of our own on one listener, callbacks to whoever wants to know,
//! metrics.
//!
//! A request enters through [`listen`], is told apart in [`route`], and becomes a [`pagecast_fleet::NewCast`]
//! in one of the dialects [`volcengine`], [`tencent`] and [`rest`], each a thin translation into it and back.
//! What happens to casts leaves through [`callback`], in the words of the dialect that the cast came by.
//!
//! Deliberately absent: pages, media, and the running of casts.

pub mod app;
mod auth_log;
mod bounded_json;
pub mod callback;
pub mod config;
pub mod listen;
pub mod metrics;
mod rate_limit;
pub mod rest;
pub mod route;
mod service;
pub mod tencent;
pub mod volcengine;

pub use service::{Clock, EmbeddedRooms, Service};
