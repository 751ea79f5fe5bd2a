//! User namespaces and id maps, mounts, netlink, and the child's first process.
//!
//! Theory of operation. [`process::spawn`] forks a process, into new namespaces if asked; it is how control makes the
//! plane and the child. For the child, control plans and writes the id maps ([`idmap`]) while the child itself makes
//! and configures its network ([`link`], over [`netlink`]): the two need nothing of each other, for the first process
//! of a user namespace has every capability in it from the start. Which networks there are to choose from is [`place`]'s matter. Once mapped, the child mounts ([`mounts`],
//! [`copy_up`]), starts COMMAND ([`exec`]) and stays as its reaper ([`init`]). [`join`] enters namespaces that exist
//! instead, for `attach`. [`world`] makes the namespaces that tests and measurements take place in.
//!
//! Published ports want sockets of the namespace, which the child makes for the plane ([`factory`]), and answers that
//! find their way back to them ([`steer`], [`nft`]).
//!
//! Descriptors go back to control over [`crate::msg`]. Everything the kernel knows of a launch hangs on processes:
//! when the last process of the child ends, its namespaces, mounts and tap are gone.

pub mod copy_up;
pub mod exec;
pub mod factory;
pub mod idmap;
pub mod init;
pub mod join;
pub mod link;
pub mod mounts;
pub mod netlink;
pub mod nft;
pub mod place;
pub mod process;
pub mod steer;
pub mod witness;
pub mod world;

/// What to do about `error`: raise the limit if descriptors have run out, which may happen anywhere, else `otherwise`.
pub fn remedy(error: &std::io::Error, otherwise: &'static str) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        _ => otherwise,
    }
}

/// Why the child's side cannot be set up; the text is one line with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Namespaces are refused.
    #[error(transparent)]
    Spawn(#[from] process::SpawnError),
    /// Ids cannot be mapped.
    #[error(transparent)]
    IdMap(#[from] idmap::IdMapError),
    /// The network inside cannot be configured.
    #[error(transparent)]
    Link(#[from] link::LinkError),
    /// The tap cannot be made.
    #[error("{0}")]
    Tap(String),
    /// The namespace cannot be told from others.
    #[error("cannot read the number of the network namespace: {0}; use Linux 5.14 or later")]
    Cookie(std::io::Error),
    /// No network namespace.
    #[error("cannot make a network namespace: {0}; raise the limit: sysctl -w user.max_net_namespaces=15000")]
    Unshare(std::io::Error),
    /// A mount failed.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// A namespace cannot be joined.
    #[error(transparent)]
    Join(#[from] join::JoinError),
}
