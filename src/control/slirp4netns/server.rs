//! The API socket of slirp4netns: one request and one answer a connection, then it is closed.
//!
//! Upstream reads once, blocking, and parses what came. Here each connection is a task: a request may come in pieces, and a
//! client that says nothing holds up nobody and is closed after [`PATIENCE`]. At most [`MAX_CLIENTS`] are served at once;
//! more wait in the kernel's backlog.
//!
//! The socket is this user's only. It is removed at the end by the descriptor of its directory, because its path may be
//! hidden by the sandbox.

use super::api::{self, Refused};
use crate::control::ControlError;
use crate::control::deadline::within;
use crate::control::ready::Ready;
use nix::sys::stat::{Mode, umask};
use rustix::fs::{AtFlags, OFlags, unlinkat};
use serde_json::Value;
use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_uring::net::UnixStream;

/// Connections served at once, at most.
const MAX_CLIENTS: usize = 64;
/// For a request to come in whole, and for its answer to go out.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a client whose request was too large to read that, while what it still sends is thrown away.
const LINGER: Duration = Duration::from_secs(1);
/// When there was no room for a connection.
const REST: Duration = Duration::from_millis(50);

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Value,
    /// Dropping it closes the connection without an answer.
    pub reply: oneshot::Sender<Value>,
}

/// The socket; dropping it removes its name.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// The directory and the name in it.
    place: Option<(OwnedFd, OsString)>,
}

impl Socket {
    /// Listens at `path`, in place of what an earlier process left there.
    ///
    /// # Errors
    /// [`ControlError::Api`]: the path is longer than 107 bytes, its directory is not there or not ours.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Api { path: path.display().to_string(), source };
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty()).ok();
        let place = directory.zip(path.file_name().map(Into::into));
        Ok(Self { listener, path: path.to_owned(), place })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((directory, name)) = &self.place {
            let _ = unlinkat(directory, name, AtFlags::empty());
        }
    }
}

/// Requests as they come in.
#[derive(Debug)]
pub struct Calls {
    /// `None` without a socket.
    calls: Option<mpsc::Receiver<Call>>,
}

impl Calls {
    /// Begins to serve. Needs the runtime.
    ///
    /// # Errors
    /// The descriptor limit.
    pub fn open(socket: Option<&Socket>) -> Result<Self, ControlError> {
        let Some(socket) = socket else { return Ok(Self { calls: None }) };
        let failed = |source| ControlError::Api { path: socket.path.display().to_string(), source };
        let listener = socket.listener.try_clone().map_err(failed)?;
        let ready = Ready::new(&listener).map_err(failed)?;
        let (sender, calls) = mpsc::channel(MAX_CLIENTS);
        tokio_uring::spawn(accept(listener, ready, sender));
        Ok(Self { calls: Some(calls) })
    }

    /// The next one; waits for ever without a socket. Safe to cancel.
    pub async fn next(&mut self) -> Call {
        if let Some(calls) = &mut self.calls
            && let Some(call) = calls.recv().await
        {
            return call;
        }
        std::future::pending().await
    }
}

async fn accept(listener: UnixListener, ready: Ready, calls: mpsc::Sender<Call>) {
    let served = Rc::new(Cell::new(0usize));
    // It fails when the runtime ends.
    while let Ok(mut guard) = ready.wait().await {
        if served.get() >= MAX_CLIENTS {
            sleep(REST).await;
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                let (calls, seat) = (calls.clone(), Seat::take(&served));
                tokio_uring::spawn(async move {
                    let stream = UnixStream::from_std(stream);
                    converse(&stream, &calls).await;
                    let _ = stream.shutdown(Shutdown::Both);
                    drop(seat);
                });
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            // Descriptors are short: others may let go of some.
            Err(e) => {
                tracing::debug!("API socket: {e}");
                sleep(REST).await;
            }
        }
    }
}

/// A place among the connections that are served.
struct Seat(Rc<Cell<usize>>);

impl Seat {
    fn take(served: &Rc<Cell<usize>>) -> Self {
        served.set(served.get() + 1);
        Self(served.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn converse(stream: &UnixStream, calls: &mpsc::Sender<Call>) {
    let answer = match receive(stream).await {
        Ok(None) => return,
        Ok(Some(request)) => {
            let (reply, answer) = oneshot::channel();
            if calls.send(Call { request, reply }).await.is_err() {
                return;
            }
            match answer.await {
                Ok(answer) => answer,
                Err(_) => return,
            }
        }
        Err(refused) => {
            let written = write(stream, &refused.to_value()).await;
            if written && refused == Refused::TOO_LARGE {
                linger(stream).await;
            }
            return;
        }
    };
    write(stream, &answer).await;
}

/// A request; `None` if the client is too slow or its connection broke.
async fn receive(stream: &UnixStream) -> Result<Option<Value>, Refused> {
    let deadline = Instant::now() + PATIENCE;
    let mut held = Vec::new();
    let mut chunk = Vec::with_capacity(api::MAX_REQUEST);
    loop {
        if let Some(request) = api::parse(&held)? {
            return Ok(Some(request));
        }
        chunk.clear();
        let (result, bytes) = within(stream, Some(deadline), stream.read(chunk)).await;
        chunk = bytes;
        match result {
            Ok(0) if Instant::now() >= deadline => return Ok(None),
            Ok(0) => return Err(Refused::NOT_JSON),
            Ok(_) => held.extend_from_slice(&chunk),
            Err(_) => return Ok(None),
        }
    }
}

/// False if the client is gone or too slow.
async fn write(stream: &UnixStream, answer: &Value) -> bool {
    let bytes = answer.to_string().into_bytes();
    within(stream, Some(Instant::now() + PATIENCE), stream.write_all(bytes)).await.0.is_ok()
}

/// Throws away what a client still sends, so that it reads its answer before it notices that nobody listens.
async fn linger(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let mut chunk = Vec::with_capacity(api::MAX_REQUEST);
    loop {
        chunk.clear();
        let (result, bytes) = within(stream, Some(deadline), stream.read(chunk)).await;
        chunk = bytes;
        if !matches!(result, Ok(n) if n > 0) || Instant::now() >= deadline {
            return;
        }
    }
}
