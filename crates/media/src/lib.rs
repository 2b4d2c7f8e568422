//! Frames and samples become packets, and packets become files.
