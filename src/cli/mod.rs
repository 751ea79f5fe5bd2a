//! Verbs: argv becomes one configuration and one call.
//!
//! Called by the name of a program whose place it takes, ringtap has that one's command line instead
//! ([`persona`]).
//!
//! One file per verb. Usage errors exit with 2 (clap's habit), everything else that keeps a verb from doing its work
//! with 1 and one line on standard error; `run` otherwise exits as COMMAND did.

#![forbid(unsafe_code)]

pub mod attach;
pub mod bench;
pub mod install;
pub mod log;
pub mod network_args;
pub mod persona;
pub mod port;
pub mod publish_args;
pub mod relay;
pub mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A network for rootless containers and commands, on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringtap", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command in namespaces of its own, with a network.
    Run(Box<run::RunArgs>),
    /// Give a network to a namespace that exists.
    Attach(Box<attach::AttachArgs>),
    /// Relay from an address to an address.
    Relay(relay::RelayArgs),
    /// Publish, remove and list ports of a running instance.
    Port(port::PortArgs),
    /// Measure this host's network, without and with ringtap and its peers.
    Bench(Box<bench::BenchArgs>),
    /// One end of a load, for `bench`.
    #[command(hide = true)]
    BenchLoad(bench::LoadArgs),
    /// Make links by which ringtap takes other programs' places.
    Install(install::InstallArgs),
}

/// Why a verb did not do its work; one line with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// What was asked for makes no sense.
    #[error("{option}: {cause}")]
    Option {
        /// The option, as typed.
        option: &'static str,
        /// What is wrong with its value, and what to give instead.
        cause: String,
    },
    /// A running instance did not do what was asked, or there is none.
    #[error(transparent)]
    Client(#[from] port::client::ClientError),
    /// It does not work here.
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    /// Nothing was measured.
    #[error(transparent)]
    Bench(#[from] crate::bench::BenchError),
    /// The relay does not run.
    #[error(transparent)]
    Relay(#[from] relay::RelayError),
}

impl CliError {
    /// For `map_err`: names the option.
    fn option<E: std::fmt::Display>(option: &'static str) -> impl Fn(E) -> Self {
        move |cause| Self::Option { option, cause: cause.to_string() }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(persona) = words.next().as_deref().and_then(persona::Persona::of) {
        return persona.main(words.collect());
    }
    let outcome = match Cli::parse().verb {
        Verb::Run(args) => args.run(),
        Verb::Attach(args) => args.run(),
        Verb::Relay(args) => args.run(),
        Verb::Port(args) => args.run(),
        Verb::Bench(args) => args.run(),
        Verb::BenchLoad(args) => args.run(),
        Verb::Install(args) => args.run(),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("ringtap: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_at_the_command() {
        let cli = Cli::try_parse_from(["ringtap", "run", "--mtu", "9000", "ls", "--mtu", "-l"]).unwrap();
        let Verb::Run(run) = cli.verb else { panic!("not run") };
        assert_eq!(run.command, ["ls", "--mtu", "-l"]);
        let cli = Cli::try_parse_from(["ringtap", "run", "--", "-x"]).unwrap();
        let Verb::Run(run) = cli.verb else { panic!("not run") };
        assert_eq!(run.command, ["-x"]);
        assert!(Cli::try_parse_from(["ringtap", "run"]).is_err());
    }

    #[test]
    fn attach_wants_one_name_of_a_namespace() {
        assert!(Cli::try_parse_from(["ringtap", "attach"]).is_err());
        assert!(Cli::try_parse_from(["ringtap", "attach", "12"]).is_ok());
        assert!(Cli::try_parse_from(["ringtap", "attach", "--netns", "/run/netns/x", "tap1"]).is_ok());
    }
}
