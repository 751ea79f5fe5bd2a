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
mod callers;
pub mod capture;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod flows;
pub mod generate;
pub mod install;
pub mod instance;
pub mod log;
pub mod network_args;
pub mod persona;
pub mod port;
pub mod proc;
pub mod ps;
pub mod publish_args;
pub mod relay;
pub mod run;
pub mod settings;
pub mod stats;
pub mod table;
pub mod top;
pub mod watch;

use crate::config::settings::Caller;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
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
    /// List the running instances.
    ///
    /// Those that Podman and others have started under slirp4netns's name are listed, too. They have no API, so that no other verb
    /// can ask them, and what is published through them is not shown.
    Ps(ps::PsArgs),
    /// List the live flows of an instance.
    Flows(flows::FlowsArgs),
    /// Watch the flows of an instance, full-screen.
    Top(top::TopArgs),
    /// Say which way a connection goes, hop by hop.
    Explain(explain::ExplainArgs),
    /// Show what an instance has counted and measured.
    Stats(stats::StatsArgs),
    /// Measure this host's network, without and with ringtap and its peers.
    Bench(Box<bench::BenchArgs>),
    /// One end of a load, for `bench`.
    #[command(hide = true)]
    BenchLoad(bench::LoadArgs),
    /// Write down the frames of a running instance's tap.
    Capture(capture::CaptureArgs),
    /// Say what this host offers ringtap, what it lacks, and what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Man pages, shell completions and the reference, from the definitions of the commands.
    Generate(generate::GenerateArgs),
    /// Make links by which ringtap takes other programs' places.
    Install(install::InstallArgs),
    /// Show the settings that hold, and where each came from.
    Config(config::ConfigArgs),
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
    /// A file or a variable says something that makes no sense.
    #[error(transparent)]
    Settings(#[from] crate::config::settings::SettingsError),
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

    /// What is wrong, without the name of the option.
    fn cause(self) -> String {
        match self {
            Self::Option { cause, .. } => cause,
            other => other.to_string(),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(persona) = words.next().as_deref().and_then(persona::Persona::of) {
        return persona.main(words.collect());
    }
    let outcome = dispatch();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(e) => {
            eprintln!("ringtap: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line and does what it says.
fn dispatch() -> Result<u8, CliError> {
    let verb = std::env::args_os().nth(1);
    if !verb.is_some_and(|verb| settings::VERBS.iter().any(|v| verb == *v)) {
        return perform(Cli::parse().verb);
    }
    let settings = settings::load(Caller::Run);
    let command = match &settings {
        Ok(settings) => settings::apply(settings, Cli::command()),
        // The help, and a mistake on the command line, come first.
        Err(_) => Cli::command(),
    };
    let matches = command.get_matches();
    let settings = settings?;
    let verb = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit()).verb;
    perform(verb).map_err(|e| match matches.subcommand() {
        Some((_, matches)) => settings::blame(&settings, matches, e),
        None => e,
    })
}

fn perform(verb: Verb) -> Result<u8, CliError> {
    match verb {
        Verb::Run(args) => args.run(),
        Verb::Attach(args) => args.run(),
        Verb::Relay(args) => args.run(),
        Verb::Port(args) => args.run(),
        Verb::Ps(args) => args.run(),
        Verb::Flows(args) => args.run(),
        Verb::Top(args) => args.run(),
        Verb::Explain(args) => args.run(),
        Verb::Stats(args) => args.run(),
        Verb::Bench(args) => args.run(),
        Verb::BenchLoad(args) => args.run(),
        Verb::Capture(args) => args.run(),
        Verb::Doctor(args) => args.run(),
        Verb::Generate(args) => args.run(),
        Verb::Install(args) => args.run(),
        Verb::Config(args) => args.run(),
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
    fn every_setting_is_a_flag_of_both_verbs_with_the_same_default_and_words() {
        use crate::config::settings::{CATALOGUE, Kind};
        let cli = Cli::command();
        for (setting, verb) in CATALOGUE.iter().flat_map(|s| settings::VERBS.map(|verb| (s, verb))) {
            let verb = cli.find_subcommand(verb).unwrap();
            let arg = verb.get_arguments().find(|arg| arg.get_long() == Some(setting.flag));
            let arg = arg.unwrap_or_else(|| panic!("no --{}", setting.flag));
            assert_eq!(arg.get_id().as_str(), setting.flag.replace('-', "_"));
            let words: Vec<_> = arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
            if let Kind::Choice(all) = setting.kind {
                assert_eq!(words, all, "{}", setting.key);
            }
            let defaults: Vec<_> =
                arg.get_default_values().iter().map(|v| v.to_str().unwrap().to_owned()).collect();
            if !defaults.is_empty() {
                assert_eq!(Some(defaults), (setting.default)(Caller::Run), "{}", setting.key);
            }
        }
    }

    #[test]
    fn a_setting_is_the_default_of_its_flag_and_the_flag_wins() {
        let mut given = crate::config::Settings::new(Caller::Run);
        let text = "sandbox = \"require\"\n[policy]\ndeny = [\"all\", \"10.0.0.0/8\"]\nhost-loopback = true\n[publish]\n\
                    source-ip = \"gateway\"";
        given.take_file(std::path::Path::new("/c.toml"), text).unwrap();
        let parse = |words: &[&str]| {
            let words = ["ringtap", "run"].iter().chain(words).chain(&["true"]);
            settings::apply(&given, Cli::command()).try_get_matches_from(words).unwrap()
        };
        let raw = |matches: &clap::ArgMatches, id: &str| -> Vec<String> {
            let matches = matches.subcommand_matches("run").unwrap();
            matches.get_raw(id).unwrap().map(|v| v.to_str().unwrap().to_owned()).collect()
        };
        let matches = parse(&[]);
        for (id, texts) in [
            ("deny", &["all", "10.0.0.0/8"][..]),
            ("allow_host_loopback", &["true"]),
            ("source_ip", &["gateway"]),
            ("sandbox", &["require"]),
        ] {
            assert_eq!(raw(&matches, id), texts);
        }
        let matches = parse(&["--deny", "192.0.2.1", "--allow-host-loopback=false", "--sandbox", "off"]);
        assert_eq!(raw(&matches, "deny"), ["192.0.2.1"]);
        assert_eq!(raw(&matches, "allow_host_loopback"), ["false"]);
        settings::take_flags(&mut given, matches.subcommand_matches("run").unwrap());
        let from = |key: &str| given.get(key).unwrap().origin.to_string();
        assert_eq!(["policy.deny", "sandbox"].map(from), ["flag --deny", "flag --sandbox"]);
        assert_eq!(from("publish.source-ip"), "/c.toml:6");
        assert!(Cli::from_arg_matches(&matches).is_ok());
    }

    #[test]
    fn attach_wants_one_name_of_a_namespace() {
        assert!(Cli::try_parse_from(["ringtap", "attach"]).is_err());
        assert!(Cli::try_parse_from(["ringtap", "attach", "12"]).is_ok());
        assert!(Cli::try_parse_from(["ringtap", "attach", "--netns", "/run/netns/x", "tap1"]).is_ok());
    }
}
