//! `pagecast console`: opens the console of a service in the browser, signed in by a link that is valid once.

use std::ffi::OsString;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::call::{Client, load_token};
use crate::error::CommandError;
use crate::listing::print_refusal;
use crate::{cli, console};

/// Longest wait for `xdg-open` to fail. While a browser that it started runs, it may not end at all.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two checks whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &cli::ConsoleArgs) -> Result<ExitCode, CommandError> {
    let client = Client::new(&args.url, load_token(&args.credentials)?);
    let response = client.call("POST /v1/session/codes", &Value::Null)?;
    if !response.succeeded {
        return Ok(print_refusal(&response.body));
    }
    let link = response.body["url"].as_str();
    let link = link.context("the answer has no link: is this a Pagecast service?")?;
    if !args.print && has_display(|name| std::env::var_os(name)) && open_in_browser(link) {
        console::print_message("the console opens in the browser");
    } else {
        console::print_result(link);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether this process can show a window.
fn has_display(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    ["WAYLAND_DISPLAY", "DISPLAY"].into_iter().any(|name| variable(name).is_some_and(|text| !text.is_empty()))
}

/// Asks the desktop to open a link. Returns whether it did, as far as that can be known.
fn open_in_browser(link: &str) -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "the browser belongs to the user and outlives this command"
    )]
    let mut command = Command::new("xdg-open");
    command.arg(link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().is_ok_and(|child| has_not_failed(child, FAILURE_TIMEOUT))
}

fn has_not_failed(mut child: Child, timeout: Duration) -> bool {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if started.elapsed() < timeout => std::thread::sleep(POLL_INTERVAL),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_display_is_named_by_the_environment() {
        let with = |set: &'static str, value: &'static str| {
            has_display(move |name| (name == set).then(|| OsString::from(value)))
        };
        assert!(with("DISPLAY", ":0") && with("WAYLAND_DISPLAY", "wayland-0"));
        assert!(!with("DISPLAY", "") && !with("TERM", "xterm"));
    }

    #[test]
    fn a_failing_program_is_noticed() {
        #[expect(clippy::disallowed_methods, reason = "it ends at once")]
        let run = |program| has_not_failed(Command::new(program).spawn().unwrap(), FAILURE_TIMEOUT);
        assert!(run("true") && !run("false"));
    }
}
