//! Which running instance a verb is about: the options that all such verbs have.

use super::port::client::{Client, ClientError};
use clap::Args;
use std::path::PathBuf;

/// `--instance` and `--state-dir`.
#[derive(Clone, Debug, Default, Args)]
pub struct InstanceArgs {
    /// Which instance: the process id of `ringtap` or of its first process inside, its state directory or the last part of
    /// that; not needed if only one runs
    #[arg(
        long,
        value_name = "INSTANCE",
        global = true,
        conflicts_with = "state_dir",
        help_heading = "Instance"
    )]
    pub instance: Option<String>,
    /// Which instance: its state directory
    #[arg(long, value_name = "DIR", global = true, help_heading = "Instance")]
    pub state_dir: Option<PathBuf>,
}

impl InstanceArgs {
    /// The instance that is meant.
    ///
    /// # Errors
    /// [`ClientError`] if there is none, or more than one.
    pub fn find(&self) -> Result<Client, ClientError> {
        Client::find(self.instance.as_deref(), self.state_dir.as_deref())
    }
}
