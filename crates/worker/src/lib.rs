//! Runs one cast from start to end: a page on the one side, encoders and a file on the other.
//!
//! [`cast::run`] is the way in; it returns when everything it started is gone again. [`doctor`] tells whether it could work.
//!
//! Deliberately absent: command lines, HTTP, and more than one cast at a time.

pub mod cast;
pub mod doctor;
mod usage;
