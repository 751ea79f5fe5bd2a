//! The `ringtap` program: hands its arguments to [`ringtap::cli`] and exits with what that says.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ringtap::cli::main()
}
