//! A client of a running instance's API: one request a connection, on a blocking socket.

use crate::cli::callers;
use crate::control::api::SOCKET;
use crate::control::api::instance::InstanceView;
use crate::control::state::{self, Known};
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For an answer. The instance itself gives up sooner.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer: 65,535 ports that share nothing take less.
const MAX_ANSWER: u64 = 64 << 20;
/// Header lines that our own server sends at most, with room.
const MAX_HEADERS: usize = 32;

/// Why an instance did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// None to ask.
    #[error(
        "no instance of yours is running; start one (ringtap run), or name its state directory (--state-dir)"
    )]
    Nobody,
    /// It was started under slirp4netns's name.
    #[error(
        "process {0} is ringtap under slirp4netns's name, which has no API to ask: `ringtap ps` is all that can be said of it; \
         its frames are seen by tcpdump in the namespace that it serves"
    )]
    Silent(u32),
    /// More than one to ask.
    #[error("several instances of yours are running ({0}); name one (--instance)")]
    Several(String),
    /// Not that one.
    #[error("no instance {0} of yours is running; these are: {1}")]
    NotThat(String, String),
    /// More than one is called that.
    #[error("more than one instance is called {0}: {1}; name its state directory or its process")]
    Ambiguous(String, String),
    /// It does not answer.
    #[error("{path}: {source}; is the instance still running?")]
    Io {
        /// Its socket.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It answers something else.
    #[error("the instance's answer is not understood ({0}); is it of another version?")]
    Answer(String),
    /// It said no, and not why.
    #[error("the API answers {0}")]
    Status(u16),
    /// It said no, and why.
    #[error("{0}")]
    Refused(String),
}

impl ClientError {
    /// For `map_err`.
    pub(crate) fn answer<E: std::fmt::Display>(e: E) -> Self {
        Self::Answer(e.to_string())
    }
}

/// An instance to ask.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The instance of that state directory, of that process id or of that name; if none is given, the only one.
    ///
    /// # Errors
    /// [`ClientError`] if there is none or more than one.
    pub fn find(instance: Option<&str>, state_dir: Option<&Path>) -> Result<Self, ClientError> {
        let named = instance.filter(|i| i.contains('/')).map(Path::new);
        if let Some(dir) = state_dir.or(named) {
            return Ok(Self { socket: dir.join(SOCKET) });
        }
        choose(running(), instance).map_err(|e| match e {
            ClientError::Nobody | ClientError::NotThat(..) => silent(instance).map_or(e, ClientError::Silent),
            e => e,
        })
    }

    /// The answer to a `GET`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        serde_json::from_slice(&self.call("GET", path, None)?).map_err(ClientError::answer)
    }

    /// The instance whose API is served at `socket`.
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// One request that turns the connection into something else: the connection, and what has come of it already.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn switch(&self, path: &str, body: &str) -> Result<(UnixStream, Vec<u8>), ClientError> {
        let failed = |source| ClientError::Io { path: self.socket.display().to_string(), source };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: ringtap\r\nConnection: Upgrade\r\nUpgrade: pcapng\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&self.socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let n = stream.read(&mut chunk).map_err(failed)?;
            answer.extend_from_slice(&chunk[..n]);
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut head = httparse::Response::new(&mut headers);
            match head.parse(&answer).map_err(ClientError::answer)? {
                httparse::Status::Complete(at) if head.code == Some(101) => {
                    stream.set_read_timeout(None).map_err(failed)?;
                    return Ok((stream, answer.split_off(at)));
                }
                httparse::Status::Complete(_) if n == 0 => {
                    let (status, body) = split(&answer)?;
                    return Err(refused(status, body));
                }
                httparse::Status::Partial if n == 0 => {
                    return Err(ClientError::Answer("it ends too soon".to_owned()));
                }
                // An answer that says no is read to its end, which comes when we say that nothing follows.
                httparse::Status::Complete(_) => {
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                }
                httparse::Status::Partial => {}
            }
        }
    }

    /// One request; the body of an answer that says that it worked.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<Vec<u8>, ClientError> {
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: ringtap\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let exchange = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
            Ok(answer)
        };
        let failed = |source| ClientError::Io { path: self.socket.display().to_string(), source };
        let answer = exchange().map_err(failed)?;
        let (status, body) = split(&answer)?;
        if (200..300).contains(&status) {
            return Ok(body.to_vec());
        }
        Err(refused(status, body))
    }
}

/// What an answer says that says no.
fn refused(status: u16, body: &[u8]) -> ClientError {
    let said = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = said.as_ref().and_then(|v| v["message"].as_str());
    message.map_or(ClientError::Status(status), |text| ClientError::Refused(text.to_owned()))
}

/// The instances of this user that answer.
pub fn running() -> Vec<Known> {
    let alive = |known: &Known| UnixStream::connect(known.dir.join(SOCKET)).is_ok();
    state::instances().into_iter().filter(alive).collect()
}

/// The one that is meant, or the only one that there is, if it cannot be asked.
fn silent(instance: Option<&str>) -> Option<u32> {
    let all = callers::running();
    let meant = |view: &&InstanceView| {
        let is = |pid: u32| instance == Some(&pid.to_string());
        is(view.pid) || view.child_pid.is_some_and(is) || view.plane_pid.is_some_and(is)
    };
    let only = || all.first().filter(|_| instance.is_none() && all.len() == 1);
    all.iter().find(meant).or_else(only).map(|view| view.pid)
}

/// The one that is meant.
fn choose(all: Vec<Known>, instance: Option<&str>) -> Result<Client, ClientError> {
    let named = |known: &Known| match known.name() {
        name if name == known.pid => name,
        name => format!("{} ({name})", known.pid),
    };
    let names = |of: &[&Known]| of.iter().map(|known| named(known)).collect::<Vec<_>>().join(", ");
    let child = |known: &Known| fs::read_to_string(known.dir.join("child_pid")).unwrap_or_default();
    let meant = |known: &&Known| {
        instance.is_none_or(|i| known.pid == i || known.name() == i || child(known).trim() == i)
    };
    let everybody: Vec<_> = all.iter().collect();
    match (&all.iter().filter(meant).collect::<Vec<_>>()[..], instance) {
        ([known], _) => Ok(Client { socket: known.dir.join(SOCKET) }),
        ([], _) if all.is_empty() => Err(ClientError::Nobody),
        ([], named) => Err(ClientError::NotThat(named.unwrap_or_default().to_owned(), names(&everybody))),
        (several, None) => Err(ClientError::Several(names(several))),
        (several, Some(name)) => Err(ClientError::Ambiguous(name.to_owned(), names(several))),
    }
}

/// Status and body of an answer.
fn split(answer: &[u8]) -> Result<(u16, &[u8]), ClientError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    match head.parse(answer).map_err(ClientError::answer)? {
        httparse::Status::Complete(at) => Ok((head.code.unwrap_or(0), &answer[at..])),
        httparse::Status::Partial => Err(ClientError::Answer("it ends too soon".to_owned())),
    }
}

/// To standard output; that nobody reads it is no error.
pub(in crate::cli) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_either_of_its_processes_or_by_its_directory() {
        let base = tempfile::tempdir().unwrap();
        let dirs = [("10", "11", "10"), ("20", "21", "web"), ("30", "31", "x/web"), ("40", "41", "db")];
        let all: Vec<Known> = dirs
            .map(|(pid, child, name)| {
                let dir = base.path().join(name);
                fs::create_dir_all(&dir).unwrap();
                fs::write(dir.join("child_pid"), child).unwrap();
                Known { pid: pid.to_owned(), dir }
            })
            .into();
        let chosen = |instance| choose(all.clone(), instance).map(|c| c.socket).map_err(|e| e.to_string());
        let is = |n: usize| Ok(all[n].dir.join(SOCKET));
        assert_eq!((chosen(Some("20")), chosen(Some("11")), chosen(Some("db"))), (is(1), is(0), is(3)));
        assert!(chosen(None).unwrap_err().contains("10, 20 (web), 30 (web), 40 (db)"));
        assert!(chosen(Some("web")).unwrap_err().contains("more than one instance is called web"));
        assert!(chosen(Some("50")).unwrap_err().contains("no instance 50"));
        assert_eq!(choose(all[..1].to_vec(), None).unwrap().socket, all[0].dir.join(SOCKET));
        let path = all[1].dir.display().to_string();
        assert_eq!(Client::find(Some(&path), None).unwrap().socket, all[1].dir.join(SOCKET));
        assert!(matches!(choose(Vec::new(), None), Err(ClientError::Nobody)));
    }
}
