//! `pagecast`: the command line.
fn main() {}
