//! `pagecast doctor`.

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
        if let Some(mend) = check.fix {
            console::print_result(&format!("  {:<24}{mend}", "to mend it:"));
        }
    }
    let broken = checks.iter().filter(|c| c.fix.is_some()).count();
    console::print_result(&match broken {
        0 => "all is well: pagecast record URL".to_owned(),
        n => format!("{n} of {} to mend", checks.len()),
    });
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
