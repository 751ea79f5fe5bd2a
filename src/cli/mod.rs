//! Verbs: argv becomes one configuration and one call.

#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
