//! Runs casts, each in a process of its own: a page on one side, encoders and outputs on the other.
//!
//! Begin with [`node::Node`], which claims casts of a fleet and runs them, or with [`process::Process`],
//! which runs one cast. Inside that process, [`cast::run`] returns when everything it started has ended.
//! [`doctor`] checks whether this machine can run casts, [`dry_run`] whether a page can be cast.
//!
//! Deliberately absent: command lines, and HTTP of its own.

pub mod cast;
pub mod doctor;
pub mod dry_run;
pub mod node;
pub mod process;
mod usage;

use pagecast_media::chain;
