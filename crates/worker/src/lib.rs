//! Runs casts: each in a process of its own, with a page on the one side, encoders and a file on the other.
//!
//! [`node::Node`] takes casts out of a fleet and runs them; [`process::Process`] runs one. There, [`cast::run`] returns when everything it started is gone again. [`doctor`]
//! tells whether it could work.
//!
//! Deliberately absent: command lines and HTTP.

pub mod cast;
pub mod doctor;
pub mod node;
pub mod process;
mod usage;

use pagecast_media::chain;
