//! `ringtap run [OPTIONS] [--] COMMAND…`

use super::CliError;
use super::network_args::NetworkArgs;
use super::publish_args::PublishArgs;
use crate::control::run::{Run, run};
use crate::netns::idmap::SubIds;
use crate::netns::mounts;
use crate::netns::place::Net;
use crate::plane;
use clap::{Args, ValueEnum};
use nix::sched::CloneFlags;
use std::ffi::OsString;
use std::path::PathBuf;

/// Propagation of mounts, in mount(8)'s words; the recursive forms mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Propagation {
    #[value(alias = "rprivate")]
    Private,
    #[value(alias = "rslave")]
    Slave,
    #[value(alias = "rshared")]
    Shared,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    publish: PublishArgs,
    /// Name of the tap inside
    #[arg(long, value_name = "NAME", default_value = "tap0", help_heading = "Network")]
    ifname: String,
    /// Share the host's process ids instead of having new ones
    #[arg(long)]
    no_pidns: bool,
    /// A host name of its own
    #[arg(long, alias = "uts")]
    utsns: bool,
    /// Host name to start with; implies --utsns
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// System V IPC and message queues of its own
    #[arg(long, alias = "ipc")]
    ipcns: bool,
    /// A view of control groups of its own
    #[arg(long, alias = "cgroup")]
    cgroupns: bool,
    /// Make DIR writable inside: a tmpfs with symlinks to what it holds; may be given again
    #[arg(long, value_name = "DIR")]
    copy_up: Vec<PathBuf>,
    /// Whether mounts of the host appear inside (slave)
    #[arg(long, value_enum, default_value = "private")]
    propagation: Propagation,
    /// Where to keep state [default: $XDG_RUNTIME_DIR/ringtap/<pid>]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

impl RunArgs {
    /// Runs COMMAND; the result is its exit status.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        if self.propagation == Propagation::Shared && !self.copy_up.is_empty() {
            let cause =
                "with shared mounts a copy-up would cover the directory elsewhere too; use slave or private";
            return Err(CliError::Option { option: "--copy-up", cause: cause.to_owned() });
        }
        if let Some(name) = &self.hostname
            && !(1..=64).contains(&name.len())
        {
            let cause = "a host name has 1 to 64 bytes".to_owned();
            return Err(CliError::Option { option: "--hostname", cause });
        }
        let namespaces = [
            (!self.no_pidns, CloneFlags::CLONE_NEWPID),
            (self.utsns || self.hostname.is_some(), CloneFlags::CLONE_NEWUTS),
            (self.ipcns, CloneFlags::CLONE_NEWIPC),
            (self.cgroupns, CloneFlags::CLONE_NEWCGROUP),
        ];
        let wanted = Run {
            common: self.publish.add_to(self.network.into_common(&self.ifname)?)?,
            namespaces: namespaces.into_iter().filter_map(|(on, flag)| on.then_some(flag)).collect(),
            hostname: self.hostname,
            propagation: match self.propagation {
                Propagation::Private => mounts::Propagation::Private,
                Propagation::Slave => mounts::Propagation::Slave,
                Propagation::Shared => mounts::Propagation::Shared,
            },
            copy_up: self.copy_up,
            state_dir: self.state_dir,
            net: Net::Tap,
            detached: false,
            mirror: false,
            sub_ids: SubIds::Auto,
            evacuate: None,
            rootlesskit: None,
            command: self.command,
        };
        Ok(run(wanted, plane::main)?.status())
    }
}
