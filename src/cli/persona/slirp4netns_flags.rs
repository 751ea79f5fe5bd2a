//! The command line of slirp4netns 1.3, as getopt_long(3) reads it.
//!
//! Options may stand anywhere, be shortened as long as they are unambiguous, and be given again, the last one counts.
//! Values are checked in [`super::slirp4netns`], with upstream's words.

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// As typed.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "slirp4netns",
    disable_help_flag = true,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of upstream's command line")]
pub struct Flags {
    #[arg(short = 'c', long)]
    pub configure: bool,
    #[arg(short = 'e', long, allow_hyphen_values = true)]
    pub exit_fd: Option<String>,
    #[arg(short = 'r', long, allow_hyphen_values = true)]
    pub ready_fd: Option<String>,
    #[arg(short = 'm', long, allow_hyphen_values = true)]
    pub mtu: Option<String>,
    #[arg(short = '6', long)]
    pub enable_ipv6: bool,
    #[arg(short = 'a', long, allow_hyphen_values = true)]
    pub api_socket: Option<PathBuf>,
    #[arg(long, allow_hyphen_values = true)]
    pub cidr: Option<String>,
    #[arg(long)]
    pub disable_host_loopback: bool,
    /// Its name before 0.4.
    #[arg(long)]
    pub no_host_loopback: bool,
    #[arg(long, allow_hyphen_values = true)]
    pub netns_type: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub userns_path: Option<PathBuf>,
    #[arg(long)]
    pub enable_sandbox: bool,
    /// Its name before 0.4.
    #[arg(long)]
    pub create_sandbox: bool,
    #[arg(long)]
    pub enable_seccomp: bool,
    #[arg(long, allow_hyphen_values = true)]
    pub outbound_addr: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub outbound_addr6: Option<String>,
    #[arg(long)]
    pub disable_dns: bool,
    #[arg(long, allow_hyphen_values = true)]
    pub macaddress: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub target_type: Option<String>,
    #[arg(short = 'h', long, action = ArgAction::SetTrue)]
    pub help: bool,
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    pub version: bool,
    pub words: Vec<OsString>,
}

impl Flags {
    /// Of the arguments behind the program's name.
    ///
    /// # Errors
    /// One line.
    pub fn parse_from_words(arguments: Vec<OsString>) -> Result<Self, String> {
        let words = std::iter::once(OsString::from("slirp4netns")).chain(arguments);
        let parsed = Self::command().try_get_matches_from(words).and_then(|m| Self::from_arg_matches(&m));
        parsed.map_err(|e| {
            let text = e.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse_from_words(line.split_whitespace().map(Into::into).collect())
    }

    #[test]
    fn options_stand_anywhere_in_every_spelling() {
        let line = "-c 12 --mtu=65520 tap0 -r 3 -e4 --cidr 10.1.0.0/16 -6 -a/tmp/s --netns-type path";
        let flags = parse(line).unwrap();
        assert_eq!(flags.words, ["12", "tap0"]);
        assert!(flags.configure && flags.enable_ipv6);
        assert_eq!(flags.mtu.as_deref(), Some("65520"));
        assert_eq!((flags.ready_fd.as_deref(), flags.exit_fd.as_deref()), (Some("3"), Some("4")));
        assert_eq!(flags.cidr.as_deref(), Some("10.1.0.0/16"));
        assert_eq!(flags.api_socket.as_deref(), Some("/tmp/s".as_ref()));
        assert_eq!(flags.netns_type.as_deref(), Some("path"));
    }

    #[test]
    fn names_may_be_shortened_and_given_again() {
        let flags = parse("--conf --disable-h --mtu 1 --mtu 2 -c -- -x").unwrap();
        assert!(flags.configure && flags.disable_host_loopback);
        assert_eq!(flags.mtu.as_deref(), Some("2"));
        assert_eq!(flags.words, ["-x"]);
    }

    #[test]
    fn what_is_unknown_is_one_line() {
        let said = parse("--no-such-option 1 tap0").unwrap_err();
        assert!(said.contains("--no-such-option") && !said.contains('\n'), "{said}");
        assert!(parse("--mtu").is_err());
    }
}
