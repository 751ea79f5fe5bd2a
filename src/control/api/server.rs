//! Connections to `api.sock`, each a task that reads a request, has it answered and writes the answer.
//!
//! A silent or slow client holds up nobody. Between requests a connection may stay as long as it likes (dockerd keeps one
//! for its life); from a request's first byte on it has [`PATIENCE`] to send the rest, and as long to take the answer. At
//! most [`MAX_CLIENTS`] are connected: one more makes the one that has gone longest without a finished request go. A
//! connection is ended by shutdown(2), for a read on the ring is not ended by forgetting it.
//!
//! What needs the plane is taken at [`Pace`]'s rate, whoever asks: the socket can be reached from inside.
//!
//! The listener is not tokio-uring's, which asks for SO_REUSEPORT: the kernel refuses that on unix sockets since 6.12.

use super::http::{self, Parsed, Refused, Request, Response};
use super::pace::Pace;
use crate::control::deadline::within;
use crate::control::ready::Ready;
use crate::netns::process;
use nix::sys::stat::{Mode, umask};
use slab::Slab;
use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_uring::net::UnixStream;

/// Most connections at once.
pub const MAX_CLIENTS: usize = 64;
/// For one request to come in, and for its answer to go out.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For the plane to say what a request asked of it.
const ANSWER: Duration = Duration::from_secs(5);
/// For a client that was refused to read why, while what it still sends is thrown away.
const LINGER: Duration = Duration::from_secs(1);
/// Read at a time.
const CHUNK: usize = 16 * 1024;

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Dropping it answers that it did not work.
    pub reply: oneshot::Sender<Response>,
    /// The connection, where the request asks for it to become something else. After an answer of
    /// [`Response::SWITCHED`] it is another's.
    pub stream: Option<OwnedFd>,
}

/// Listens at `path`, which does not exist, for this user only, and serves. Needs the runtime.
///
/// # Errors
/// Those of bind(2): the path is longer than 107 bytes, the file system is full.
pub fn open(path: &Path) -> io::Result<mpsc::Receiver<Call>> {
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    let ready = Ready::new(&listener)?;
    let (sender, calls) = mpsc::channel(MAX_CLIENTS);
    tokio_uring::spawn(accept(listener, ready, sender));
    Ok(calls)
}

async fn accept(listener: UnixListener, ready: Ready, calls: mpsc::Sender<Call>) {
    let crowd = Rc::new(RefCell::new(Crowd::default()));
    let pace = Rc::new(Pace::new());
    // It fails when the runtime ends.
    while let Ok(mut guard) = ready.wait().await {
        match listener.accept() {
            Ok((stream, _)) => {
                let stream = Rc::new(UnixStream::from_std(stream));
                let Some(seat) = Seat::take(&crowd, &stream) else { continue };
                let (calls, pace) = (calls.clone(), Rc::clone(&pace));
                tokio_uring::spawn(async move {
                    if converse(&stream, &seat, &calls, &pace).await == After::Close {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            // Descriptors are short: others may let go of some.
            Err(e) => {
                tracing::debug!("api.sock: {e}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Nobody needs it.
    Close,
    /// Another process goes on with it.
    Leave,
}

/// Serves one client until it or its patience ends.
async fn converse(stream: &UnixStream, seat: &Seat, calls: &mpsc::Sender<Call>, pace: &Pace) -> After {
    let mut held = Vec::new();
    loop {
        let request = match receive(stream, &mut held).await {
            Ok(Some(request)) => request,
            Ok(None) => return After::Close,
            Err(Refused(status, text)) => {
                if write(stream, Response::error(status, text).to_bytes(false)).await {
                    linger(stream).await;
                }
                return After::Close;
            }
        };
        let keep_alive = request.keep_alive;
        seat.busy(true);
        if asks_the_plane(&request) {
            pace.wait().await;
        }
        let (reply, answer) = oneshot::channel();
        // Nothing of the stream may be read that belongs to what it becomes.
        let stream_too = request.method == "POST" && request.path == super::CAPTURE && held.is_empty();
        let copy = stream_too.then(|| process::duplicate(stream).ok()).flatten();
        if calls.send(Call { request, reply, stream: copy }).await.is_err() {
            return After::Close;
        }
        let response = match timeout(ANSWER, answer).await {
            Ok(Ok(response)) => response,
            _ => Response::error(503, "the data plane did not answer; try again"),
        };
        seat.busy(false);
        if response.status == Response::SWITCHED {
            return After::Leave;
        }
        if !write(stream, response.to_bytes(keep_alive)).await || !keep_alive {
            return After::Close;
        }
        seat.finished();
    }
}

/// Whether a request costs the plane something.
fn asks_the_plane(request: &Request) -> bool {
    let own = request.path.strip_prefix("/ringtap/v1/");
    own.is_some_and(|path| path == "capture" || request.method == "GET" && path != "instance")
}

/// The next request, from `held` and from the client; `None` if the client is gone or too slow.
async fn receive(stream: &UnixStream, held: &mut Vec<u8>) -> Result<Option<Request>, Refused> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut deadline = None;
    let mut told = false;
    loop {
        match http::parse(held)? {
            Parsed::Complete(request, length) => {
                held.drain(..length);
                return Ok(Some(request));
            }
            Parsed::Partial { expects: true } if !told => {
                told = true;
                if !write(stream, b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()).await {
                    return Ok(None);
                }
            }
            Parsed::Partial { .. } => {}
        }
        if deadline.is_none() && !held.is_empty() {
            deadline = Some(Instant::now() + PATIENCE);
        }
        chunk.clear();
        let (result, bytes) = within(stream, deadline, stream.read(chunk)).await;
        chunk = bytes;
        match result {
            Ok(n) if n > 0 => held.extend_from_slice(&chunk),
            _ => return Ok(None),
        }
    }
}

/// False if the client is gone or too slow.
async fn write(stream: &UnixStream, bytes: Vec<u8>) -> bool {
    within(stream, Some(Instant::now() + PATIENCE), stream.write_all(bytes)).await.0.is_ok()
}

/// Throws away what a client still sends, so that it reads its answer before it notices that nobody listens.
async fn linger(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let deadline = Some(Instant::now() + LINGER);
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        let (result, bytes) = within(stream, deadline, stream.read(chunk)).await;
        chunk = bytes;
        if !matches!(result, Ok(n) if n > 0) {
            return;
        }
    }
}

/// Who is connected.
#[derive(Default)]
struct Crowd {
    members: Slab<Member>,
}

struct Member {
    stream: Rc<UnixStream>,
    /// When it last got a whole answer, or came.
    since: Instant,
    /// It waits for us.
    busy: bool,
    /// It was told to go.
    leaving: bool,
}

/// A place among the connected; dropping it gives it up.
struct Seat {
    crowd: Rc<RefCell<Crowd>>,
    key: usize,
}

impl Seat {
    /// `None` if everyone waits for us.
    fn take(crowd: &Rc<RefCell<Crowd>>, stream: &Rc<UnixStream>) -> Option<Self> {
        let members = &mut crowd.borrow_mut().members;
        if members.iter().filter(|(_, m)| !m.leaving).count() >= MAX_CLIENTS {
            let idle = members.iter_mut().map(|(_, m)| m).filter(|m| !m.busy && !m.leaving);
            let longest = idle.min_by_key(|m| m.since)?;
            longest.leaving = true;
            let _ = longest.stream.shutdown(Shutdown::Both);
        }
        let member = Member { stream: stream.clone(), since: Instant::now(), busy: false, leaving: false };
        Some(Self { crowd: crowd.clone(), key: members.insert(member) })
    }

    fn busy(&self, busy: bool) {
        self.crowd.borrow_mut().members[self.key].busy = busy;
    }

    fn finished(&self) {
        self.crowd.borrow_mut().members[self.key].since = Instant::now();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.borrow_mut().members.remove(self.key);
    }
}
