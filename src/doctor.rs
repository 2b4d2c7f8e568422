//! `pagecast doctor`: prints the results of the checks of this machine.

use std::path::Path;
use std::process::ExitCode;

use pagecast_worker::doctor;

use crate::console;
use crate::error::CommandError;

#[expect(clippy::unnecessary_wraps, reason = "every command ends the same way")]
pub(crate) fn run() -> Result<ExitCode, CommandError> {
    let checks = doctor::run_checks(Path::new("."));
    for check in &checks {
        let mark = if check.fix.is_some() { "✗" } else { "✓" };
        console::print_result(&format!("{mark} {:<24}{}", check.name, check.found));
        if let Some(fix) = check.fix {
            console::print_result(&format!("  {:<24}{fix}", "fix:"));
        }
    }
    let failed = checks.iter().filter(|c| c.fix.is_some()).count();
    console::print_result(&match failed {
        0 => "all checks passed; record a page with: pagecast record URL".to_owned(),
        n => format!("{n} of {} checks failed", checks.len()),
    });
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
