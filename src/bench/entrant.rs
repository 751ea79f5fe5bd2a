//! Who takes part: ringtap, the programs of PATH, and those that were named.
//!
//! A [`Program`] is a binary; what it does on a path is an [`Entrant`]: ringtap is one out of the namespace and two for published
//! ports, socat none and one. The word before the first `-` of a name that was given tells what kind of program it is
//! (`slirp4netns-1.3=/opt/slirp4netns`), so several builds of one program can be compared.

use super::plan::Path;
use crate::lab::contender::Contender;
use std::path::{Path as FilePath, PathBuf};

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This program, or another build of it.
    Ringtap,
    /// slirp4netns.
    Slirp4netns,
    /// pasta, of passt.
    Pasta,
    /// RootlessKit.
    Rootlesskit,
    /// socat.
    Socat,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Ringtap, Self::Slirp4netns, Self::Pasta, Self::Rootlesskit, Self::Socat];

    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringtap => "ringtap",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
            Self::Rootlesskit => "rootlesskit",
            Self::Socat => "socat",
        }
    }

    /// Of a name such as `pasta` or `pasta-2025`.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| name.split('-').next() == Some(k.name()))
    }
}

/// A binary that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What it is called in the report.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
}

/// Where `program` is in PATH.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// Ringtap at `own`, the peers that PATH has, and those of `with`; then the names of those that are not there.
///
/// A name of `with` that is a program's own takes the place of what PATH has, and of `own`.
pub fn roster(own: &FilePath, with: &[(String, PathBuf)]) -> (Vec<Program>, Vec<&'static str>) {
    let (mut here, mut absent) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let name = kind.name();
        let mut named: Vec<_> = with
            .iter()
            .filter(|(n, _)| Kind::of(n) == Some(kind))
            .map(|(name, path)| Program { name: name.clone(), kind, path: path.clone() })
            .collect();
        if !named.iter().any(|p| p.name == name) {
            let found = if kind == Kind::Ringtap { Some(own.to_owned()) } else { find(name) };
            match found {
                Some(path) => named.insert(0, Program { name: name.to_owned(), kind, path }),
                None if named.is_empty() => absent.push(name),
                None => {}
            }
        }
        here.extend(named);
    }
    (here, absent)
}

/// How an entrant carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Nobody does: the host is the guest.
    Direct,
    /// Attached to a namespace.
    Attached,
    /// `ringtap run`, ports by the relay.
    Relay,
    /// `ringtap run`, ports through the tap.
    Injected,
    /// `pasta -t`.
    PastaPorts,
    /// RootlessKit's builtin port driver.
    Builtin,
    /// RootlessKit's port driver that has slirp4netns publish.
    SlirpDriver,
    /// Two socats and a unix socket between them.
    Socat,
}

/// A program on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrant {
    /// A column of the report.
    pub name: String,
    /// How.
    pub means: Means,
    /// Whose; none for the direct path.
    pub program: Option<Program>,
}

/// Those of `programs` that have to do with `path`, the direct path first.
pub fn entrants(programs: &[Program], path: Path) -> Vec<Entrant> {
    let mut all = vec![Entrant { name: "direct".to_owned(), means: Means::Direct, program: None }];
    for program in programs {
        let means: &[(&str, Means)] = match (path, program.kind) {
            (Path::Outbound, Kind::Ringtap | Kind::Slirp4netns | Kind::Pasta) => &[("", Means::Attached)],
            (Path::Outbound, Kind::Rootlesskit | Kind::Socat) => &[],
            (Path::Published, Kind::Ringtap) => &[("", Means::Relay), (" injected", Means::Injected)],
            (Path::Published, Kind::Pasta) => &[("", Means::PastaPorts)],
            (Path::Published, Kind::Rootlesskit) => {
                &[(" builtin", Means::Builtin), (" slirp4netns", Means::SlirpDriver)]
            }
            (Path::Published, Kind::Socat) => &[("", Means::Socat)],
            // It publishes by its API, which is the driver of RootlessKit's.
            (Path::Published, Kind::Slirp4netns) => &[],
        };
        all.extend(means.iter().map(|(suffix, means)| Entrant {
            name: format!("{}{suffix}", program.name),
            means: *means,
            program: Some(program.clone()),
        }));
    }
    all
}

impl Entrant {
    /// Neither the direct path nor ringtap.
    pub fn is_peer(&self) -> bool {
        self.program.as_ref().is_some_and(|p| p.kind != Kind::Ringtap)
    }

    /// Whether it carries datagrams at all.
    pub fn has_datagrams(&self) -> bool {
        self.means != Means::Socat
    }

    /// As the lab knows those that attach.
    pub fn contender(&self) -> Option<Contender> {
        let program = self.program.as_ref()?;
        match program.kind {
            Kind::Ringtap => Some(Contender::Ringtap(program.path.clone())),
            Kind::Slirp4netns => Some(Contender::Slirp4netns),
            Kind::Pasta => Some(Contender::Pasta),
            Kind::Rootlesskit | Kind::Socat => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_kind() {
        for (name, kind) in [
            ("pasta", Some(Kind::Pasta)),
            ("pasta-2025_01", Some(Kind::Pasta)),
            ("ringtap-old", Some(Kind::Ringtap)),
            ("pastasciutta", None),
            ("vpnkit", None),
        ] {
            assert_eq!(Kind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn what_is_named_is_there_and_takes_the_place_of_its_own_name() {
        let own = FilePath::new("/bin/own");
        let with = [("slirp4netns", "/a"), ("slirp4netns-2", "/b"), ("ringtap-old", "/c")]
            .map(|(n, p)| (n.to_owned(), PathBuf::from(p)));
        let (here, absent) = roster(own, &with);
        let paths: Vec<_> =
            here.iter().filter(|p| p.path.parent() == Some(FilePath::new("/")) || p.path == own).collect();
        let names: Vec<_> = paths.iter().map(|p| (&p.name[..], p.path.to_str().unwrap())).collect();
        assert_eq!(
            names,
            [("ringtap", "/bin/own"), ("ringtap-old", "/c"), ("slirp4netns", "/a"), ("slirp4netns-2", "/b")]
        );
        assert!(!absent.contains(&"slirp4netns") && !absent.contains(&"ringtap"));
    }

    #[test]
    fn each_path_has_its_entrants() {
        let programs: Vec<_> =
            Kind::ALL.map(|kind| Program { name: kind.name().to_owned(), kind, path: "/x".into() }).into();
        let names = |path| entrants(&programs, path).into_iter().map(|e| e.name).collect::<Vec<_>>();
        assert_eq!(names(Path::Outbound), ["direct", "ringtap", "slirp4netns", "pasta"]);
        assert_eq!(
            names(Path::Published),
            [
                "direct",
                "ringtap",
                "ringtap injected",
                "pasta",
                "rootlesskit builtin",
                "rootlesskit slirp4netns",
                "socat"
            ]
        );
        assert!(!entrants(&programs, Path::Outbound)[1].is_peer());
        assert!(entrants(&programs, Path::Outbound)[2].is_peer());
    }
}
