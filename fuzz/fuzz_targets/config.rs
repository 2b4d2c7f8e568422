//! Any `pagecast.toml` and any environment.
//!
//! Run it with `cargo +nightly fuzz run config`. An input is the environment, one variable per line, up to
//! the first zero byte; the rest is the file.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pagecast_server::config::{Options, load};

fuzz_target!(|data: &[u8]| {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let name = || format!("pagecast-fuzz-{}.toml", std::process::id());
    let file = FILE.get_or_init(|| std::env::temp_dir().join(name()));
    let zero = data.iter().position(|byte| *byte == 0);
    let (environment, text) = zero.map_or((&[][..], data), |at| (&data[..at], &data[at + 1..]));
    let environment = String::from_utf8_lossy(environment);
    let environment: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (format!("PAGECAST_{name}"), value.to_owned()))
        .collect();
    std::fs::write(file, text).expect("a file can be written");
    let options = Options { file: Some(file.clone()), ..Options::default() };
    match load(&options, &environment) {
        Ok(config) => {
            for finding in config.validate() {
                assert!(!finding.message.is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
