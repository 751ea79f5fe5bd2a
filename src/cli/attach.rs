//! `ringtap attach [OPTIONS] PID | --netns PATH [--userns PATH] [IFNAME]`

use super::CliError;
use super::network_args::{NetworkArgs, inherited};
use super::publish_args::PublishArgs;
use crate::control::attach::{Attach, Namespace, attach};
use crate::plane;
use clap::Args;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Options of `attach`.
#[derive(Debug, Args)]
#[command(override_usage = "ringtap attach [OPTIONS] PID [IFNAME]\n       \
                            ringtap attach [OPTIONS] --netns PATH [--userns PATH] [IFNAME]")]
pub struct AttachArgs {
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    publish: PublishArgs,
    /// File of the network namespace, instead of PID
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// File of the user namespace to enter [default: the one that owns the network namespace]
    #[arg(long, value_name = "PATH")]
    userns: Option<PathBuf>,
    /// Only make the tap; leave addresses, routes and its state to others
    #[arg(long)]
    no_configure: bool,
    /// Name of the tap inside [default: tap0]
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    ifname: Option<String>,
    /// Descriptor that ends us when anything happens on it, such as its other end closing
    #[arg(long, value_name = "FD")]
    exit_fd: Option<RawFd>,
    /// PID of a process in the namespace, unless --netns is given; then IFNAME, the name of the tap
    #[arg(value_name = "PID|IFNAME", required_unless_present = "netns", num_args = 1..=2)]
    positional: Vec<String>,
}

impl AttachArgs {
    /// Serves the namespace until it is time to end.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let exit_fd = self.exit_fd.map(|fd| inherited("--exit-fd", fd)).transpose()?;
        let mut words = self.positional.into_iter();
        let namespace = match self.netns {
            Some(path) => Namespace::Path(path),
            None => Namespace::Pid(parse_pid(&words.next().unwrap_or_default())?),
        };
        let ifname = words.next().or(self.ifname).unwrap_or_else(|| "tap0".to_owned());
        if let Some(extra) = words.next() {
            let cause = format!("{extra:?} is one word too many; with --netns there is no PID");
            return Err(CliError::Option { option: "attach", cause });
        }
        let wanted = Attach {
            common: self.publish.add_to(self.network.into_common(&ifname)?)?,
            namespace,
            userns: self.userns,
            configure: !self.no_configure,
            exit_fd,
        };
        Ok(attach(wanted, plane::main)?)
    }
}

fn parse_pid(text: &str) -> Result<i32, CliError> {
    text.parse()
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| format!("{text:?} is not the id of a process; for a file use --netns PATH"))
        .map_err(CliError::option("PID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_positive_numbers_are_processes() {
        assert_eq!(parse_pid("12").unwrap(), 12);
        for bad in ["0", "-1", "x", "", "99999999999"] {
            assert!(parse_pid(bad).is_err(), "{bad}");
        }
    }
}
