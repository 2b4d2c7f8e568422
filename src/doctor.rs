//! `pagecast doctor`.

use std::path::Path;
use std::process::ExitCode;

use pagecast_worker::doctor;

use crate::failure::Failure;
use crate::screen;

#[expect(clippy::unnecessary_wraps, reason = "every command ends the same way")]
pub(crate) fn run() -> Result<ExitCode, Failure> {
    let checks = doctor::examine(Path::new("."));
    for check in &checks {
        let mark = if check.mend.is_some() { "✗" } else { "✓" };
        screen::print(&format!("{mark} {:<24}{}", check.name, check.found));
        if let Some(mend) = check.mend {
            screen::print(&format!("  {:<24}{mend}", "to mend it:"));
        }
    }
    let broken = checks.iter().filter(|c| c.mend.is_some()).count();
    screen::print(&match broken {
        0 => "all is well: pagecast record URL".to_owned(),
        n => format!("{n} of {} to mend", checks.len()),
    });
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
