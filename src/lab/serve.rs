//! Small servers for the far side of a lab: echo, sink, source, HTTP.
//!
//! A [`Server`] is a thread on a socket that belongs to a place of the lab, one more thread per connection; it ends when
//! dropped. It remembers who its clients were. Bulk data is the [`pattern`], which shows where a stream was cut, shifted
//! or repeated.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a server looks whether it should end.
const GLANCE: Duration = Duration::from_millis(50);
/// Buffer of one transfer.
const CHUNK: usize = 256 << 10;

/// A server in a lab; it takes no more clients once dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(f: impl FnOnce(&AtomicBool, &Mutex<Vec<SocketAddr>>) + Send + 'static) -> io::Result<Self> {
        let (stop, peers) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, seen) = (stop.clone(), peers.clone());
        let thread =
            std::thread::Builder::new().name("lab server".into()).spawn(move || f(&stopped, &seen))?;
        Ok(Self { stop, peers, thread: Some(thread) })
    }

    /// Serves each connection by `handle` in a thread of its own. Its error ends that connection only.
    pub fn tcp<H>(listener: TcpListener, handle: H) -> io::Result<Self>
    where
        H: Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
    {
        // Linux applies a receive timeout to accept(2) too.
        socket2::SockRef::from(&listener).set_read_timeout(Some(GLANCE))?;
        let handle = Arc::new(handle);
        Self::start(move |stop, peers| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, peer)) = listener.accept() else { continue };
                note(peers, peer);
                // The connection inherits the listener's timeout.
                if stream.set_read_timeout(None).is_err() {
                    continue;
                }
                let handle = handle.clone();
                // Without a thread the connection is dropped, which the client sees.
                let _ = std::thread::Builder::new().spawn(move || {
                    let _ = stream.set_nodelay(true);
                    let _ = handle(stream, peer);
                });
            }
        })
    }

    /// Answers each datagram by what `handle` returns, if anything.
    pub fn udp<H>(socket: UdpSocket, mut handle: H) -> io::Result<Self>
    where
        H: FnMut(&[u8], SocketAddr) -> Option<Vec<u8>> + Send + 'static,
    {
        socket.set_read_timeout(Some(GLANCE))?;
        Self::start(move |stop, peers| {
            let mut datagram = vec![0; 65536];
            while !stop.load(Ordering::Relaxed) {
                // An error here is the timeout, or an earlier answer that was refused.
                let Ok((n, peer)) = socket.recv_from(&mut datagram) else { continue };
                note(peers, peer);
                if let Some(answer) = handle(&datagram[..n], peer) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        })
    }

    /// Sends back what it gets, and ends its direction when the client ends its own.
    pub fn tcp_echo(listener: TcpListener) -> io::Result<Self> {
        Self::tcp(listener, |mut stream, _| {
            let mut bytes = vec![0; CHUNK];
            loop {
                match stream.read(&mut bytes)? {
                    0 => return stream.shutdown(Shutdown::Write),
                    n => stream.write_all(&bytes[..n])?,
                }
            }
        })
    }

    /// Reads the pattern to its end, then says how it was: the answer of [`judge`].
    pub fn tcp_sink(listener: TcpListener) -> io::Result<Self> {
        Self::tcp(listener, |mut stream, _| {
            let verdict = judge(&mut stream)?;
            stream.write_all(verdict.as_bytes())
        })
    }

    /// Sends `count` bytes of the pattern and ends.
    pub fn tcp_source(listener: TcpListener, count: u64) -> io::Result<Self> {
        Self::tcp(listener, move |mut stream, _| send_pattern(&mut stream, count))
    }

    /// Sends every datagram back.
    pub fn udp_echo(socket: UdpSocket) -> io::Result<Self> {
        Self::udp(socket, |datagram, _| Some(datagram.to_vec()))
    }

    /// HTTP/1.1, one request per connection: `GET /peer` tells the client's address, `GET /bytes/N` sends N bytes of the
    /// pattern, `PUT` or `POST` to any path judges the body, any other `GET` reads a file below `root`.
    pub fn http(listener: TcpListener, root: Option<PathBuf>) -> io::Result<Self> {
        Self::tcp(listener, move |stream, peer| http(stream, peer, root.as_deref()))
    }

    /// As [`Self::peers`], once there are `count` of them: a client may be connected before it is accepted. After five
    /// seconds, what there is.
    pub fn peers_when(&self, count: usize) -> Vec<SocketAddr> {
        let end = Instant::now() + Duration::from_secs(5);
        while self.peers().len() < count && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.peers()
    }

    /// Who connected or sent, in order, each as often as it did.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn note(peers: &Mutex<Vec<SocketAddr>>, peer: SocketAddr) {
    peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer);
}

/// Byte `offset` of the endless pattern: period 2^32 at least in practice, and no two nearby windows alike.
pub fn pattern(offset: u64) -> u8 {
    let word = (offset >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ (word >> 29)).to_le_bytes()[(offset & 7) as usize]
}

/// Fills `bytes` with the pattern from `offset` on.
pub fn fill_pattern(offset: u64, bytes: &mut [u8]) {
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = pattern(offset + i as u64);
    }
}

/// Writes `count` bytes of the pattern.
pub fn send_pattern(to: &mut impl Write, count: u64) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    let mut sent = 0;
    while sent < count {
        let n = (count - sent).min(CHUNK as u64) as usize;
        fill_pattern(sent, &mut bytes[..n]);
        to.write_all(&bytes[..n])?;
        sent += n as u64;
    }
    Ok(())
}

/// Reads to the end: "N bytes sound\n", or "broken at byte K\n".
pub fn judge(from: &mut impl Read) -> io::Result<String> {
    let mut bytes = vec![0; CHUNK];
    let mut expected = vec![0; CHUNK];
    let (mut seen, mut broken) = (0u64, None);
    loop {
        let n = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        fill_pattern(seen, &mut expected[..n]);
        if broken.is_none() && bytes[..n] != expected[..n] {
            let at = bytes[..n].iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
            broken = Some(seen + at as u64);
        }
        seen += n as u64;
    }
    Ok(match broken {
        None => format!("{seen} bytes sound\n"),
        Some(at) => format!("broken at byte {at}\n"),
    })
}

fn http(stream: TcpStream, peer: SocketAddr, root: Option<&Path>) -> io::Result<()> {
    let mut to = stream.try_clone()?;
    let mut from = BufReader::with_capacity(CHUNK, stream);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("/").to_owned());
    let (mut length, mut waits) = (0u64, false);
    loop {
        let mut header = String::new();
        from.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "expect" => waits = true,
            _ => {}
        }
    }
    if waits {
        to.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let path = path.split('?').next().unwrap_or("/");
    let body = match method.as_str() {
        "PUT" | "POST" => judge(&mut from.take(length))?.into_bytes(),
        _ if path == "/peer" => format!("{}\n", peer.ip()).into_bytes(),
        _ => {
            if let Some(count) = path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
                write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n")?;
                return send_pattern(&mut to, count);
            }
            match root.and_then(|root| file_below(root, path)) {
                Some(bytes) => bytes,
                None => {
                    return to.write_all(
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    );
                }
            }
        }
    };
    write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    to.write_all(&body)
}

fn file_below(root: &Path, path: &str) -> Option<Vec<u8>> {
    let path = Path::new(path.trim_start_matches('/'));
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    if plain { fs::read(root.join(path)).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_shows_a_shift_and_a_cut() {
        let mut good = Vec::new();
        send_pattern(&mut good, 600_000).unwrap();
        assert_eq!(judge(&mut &good[..]).unwrap(), "600000 bytes sound\n");
        let mut cut = good.clone();
        cut.drain(300_000..300_001);
        assert_eq!(judge(&mut &cut[..]).unwrap(), "broken at byte 300000\n");
        let mut repeated = good[..4096].to_vec();
        repeated.extend_from_slice(&good);
        assert_eq!(judge(&mut &repeated[..]).unwrap(), "broken at byte 4096\n");
    }

    #[test]
    fn files_are_read_below_the_root_only() {
        assert!(file_below(Path::new("/etc"), "/passwd").is_some());
        assert!(file_below(Path::new("/etc"), "/../etc/passwd").is_none());
        assert!(file_below(Path::new("/etc"), "//etc/./../passwd").is_none());
    }
}
