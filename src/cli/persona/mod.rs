//! Called by another program's name, ringtap is that program: its flags become our configuration.

mod common;
pub mod docker_proxy;
pub mod go_flags;
pub mod rootlessctl;
pub mod rootlesskit;
pub mod rootlesskit_api;
mod rootlesskit_text;
pub mod slirp4netns;
mod slirp4netns_flags;
mod slirp4netns_text;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// A program whose place ringtap takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Persona {
    /// User-mode networking for a network namespace
    Slirp4netns,
    /// Namespaces with a network, and published ports
    Rootlesskit,
    /// Its client
    Rootlessctl,
    /// Docker's relay of a published port
    DockerProxy,
    /// The same for Docker before 28, which publishes by RootlessKit's API
    RootlesskitDockerProxy,
}

impl Persona {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Slirp4netns,
        Self::Rootlesskit,
        Self::Rootlessctl,
        Self::DockerProxy,
        Self::RootlesskitDockerProxy,
    ];

    /// The name it is called by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slirp4netns => "slirp4netns",
            Self::Rootlesskit => "rootlesskit",
            Self::Rootlessctl => "rootlessctl",
            Self::DockerProxy => "docker-proxy",
            Self::RootlesskitDockerProxy => "rootlesskit-docker-proxy",
        }
    }

    /// Other names of the same: Docker's packages have them with a prefix.
    const fn alias(self) -> Option<&'static str> {
        match self {
            Self::Rootlesskit => Some("docker-rootlesskit"),
            _ => None,
        }
    }

    /// The persona of a name; a directory before it does not count.
    pub fn of(argv0: &OsStr) -> Option<Self> {
        let name = Path::new(argv0).file_name()?;
        Self::ALL.into_iter().find(|p| name == p.name() || p.alias().is_some_and(|alias| name == alias))
    }

    /// Is that program, from its arguments to its exit status.
    pub fn main(self, arguments: Vec<OsString>) -> ExitCode {
        match self {
            Self::Slirp4netns => slirp4netns::main(arguments),
            Self::Rootlesskit => rootlesskit::main(arguments),
            Self::Rootlessctl => rootlessctl::main(arguments),
            Self::DockerProxy => docker_proxy::main(docker_proxy::Kind::DockerProxy, arguments),
            Self::RootlesskitDockerProxy => {
                docker_proxy::main(docker_proxy::Kind::RootlessKitDockerProxy, arguments)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_and_the_directory_does_not() {
        let of = |name: &str| Persona::of(OsStr::new(name));
        assert_eq!(of("slirp4netns"), Some(Persona::Slirp4netns));
        assert_eq!(of("/usr/bin/slirp4netns"), Some(Persona::Slirp4netns));
        for name in ["rootlesskit", "docker-rootlesskit", "bin/rootlesskit"] {
            assert_eq!(of(name), Some(Persona::Rootlesskit));
        }
        assert_eq!(of("rootlessctl"), Some(Persona::Rootlessctl));
        for other in ["ringtap", "slirp4netns/ringtap", "my-slirp4netns", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
