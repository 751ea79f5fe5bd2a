//! A client of a running instance's API: one request a connection, on a blocking socket.

use crate::control::api::SOCKET;
use crate::control::state;
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
    /// More than one to ask.
    #[error("several instances of yours are running ({0}); name one (--instance)")]
    Several(String),
    /// Not that one.
    #[error("no instance {0} of yours is running; these are: {1}")]
    NotThat(String, String),
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
    /// The instance of that state directory or of that process id; if neither is given, the only one.
    ///
    /// # Errors
    /// [`ClientError`] if there is none or more than one.
    pub fn find(instance: Option<&str>, state_dir: Option<&Path>) -> Result<Self, ClientError> {
        if let Some(dir) = state_dir {
            return Ok(Self { socket: dir.join(SOCKET) });
        }
        let alive = |dir: &PathBuf| UnixStream::connect(dir.join(SOCKET)).is_ok();
        choose(state::instances().into_iter().filter(alive).collect(), instance)
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

/// The one that is meant.
fn choose(dirs: Vec<PathBuf>, instance: Option<&str>) -> Result<Client, ClientError> {
    let names = || dirs.iter().map(|d| name(d)).collect::<Vec<_>>().join(", ");
    let child = |dir: &Path| fs::read_to_string(dir.join("child_pid")).unwrap_or_default();
    let meant = |dir: &&PathBuf| instance.is_none_or(|i| name(dir) == i || child(dir) == i);
    match (&dirs.iter().filter(meant).collect::<Vec<_>>()[..], instance) {
        ([dir], _) => Ok(Client { socket: dir.join(SOCKET) }),
        ([], _) if dirs.is_empty() => Err(ClientError::Nobody),
        ([], named) => Err(ClientError::NotThat(named.unwrap_or_default().to_owned(), names())),
        _ => Err(ClientError::Several(names())),
    }
}

/// The last part of a state directory's path, which is the process id of its instance.
fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
pub(super) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_either_of_its_processes() {
        let base = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = [("10", "11"), ("20", "21")]
            .map(|(control, child)| {
                let dir = base.path().join(control);
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join("child_pid"), child).unwrap();
                dir
            })
            .into();
        let chosen = |instance| choose(dirs.clone(), instance).map(|c| c.socket).map_err(|e| e.to_string());
        assert_eq!(chosen(Some("20")), Ok(dirs[1].join(SOCKET)));
        assert_eq!(chosen(Some("11")), Ok(dirs[0].join(SOCKET)));
        assert!(chosen(None).unwrap_err().contains("10, 20"));
        assert!(chosen(Some("30")).unwrap_err().contains("no instance 30"));
        assert_eq!(choose(dirs[..1].to_vec(), None).unwrap().socket, dirs[0].join(SOCKET));
        assert!(matches!(choose(Vec::new(), None), Err(ClientError::Nobody)));
    }
}
