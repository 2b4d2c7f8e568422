//! Runs one cast.
