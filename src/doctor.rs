use std::process::ExitCode; pub(crate) fn run()->Result<ExitCode,crate::failure::Failure>{Ok(ExitCode::SUCCESS)}
