//! The server: one TCP and one UDP socket an address; what comes first tells what is wanted.

use super::meter;
use super::{CHUNK, Kind, Shared, Way, datagrams};
use crate::netns::process::duplicate;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted, at most; the kernel caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// How long an address may be in use by what has ended.
const HELD: Duration = Duration::from_secs(3);
/// The answer to an HTTP request.
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Serves at each address from now on.
pub fn listen(shared: &Rc<Shared>, at: &[SocketAddr]) -> io::Result<()> {
    for &at in at {
        let fail = |e: io::Error| io::Error::new(e.kind(), format!("listening on {at}: {e}"));
        let listener = patiently(|| std::net::TcpListener::bind(at)).map_err(fail)?;
        socket2::SockRef::from(&listener).listen(BACKLOG)?;
        let listener = TcpListener::from_std(listener);
        let tcp = shared.clone();
        tokio_uring::spawn(async move {
            loop {
                // Out of descriptors, or gone before it was accepted: the client's loss.
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(super::GLANCE).await;
                    continue;
                };
                let shared = tcp.clone();
                // However it ends, the client tells.
                tokio_uring::spawn(async move { stream_of(shared, stream).await });
            }
        });
        datagrams::serve(&shared.meter, at).map_err(fail)?;
    }
    Ok(())
}

/// Binds what a ring of a program that was just killed may hold for a moment longer.
pub fn patiently<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && start.elapsed() < HELD => {
                std::thread::sleep(super::GLANCE);
            }
            bound => return bound,
        }
    }
}

async fn stream_of(shared: Rc<Shared>, stream: TcpStream) -> io::Result<()> {
    let (n, bytes) = stream.read(Vec::with_capacity(512)).await;
    let n = n?;
    let Some(kind) = bytes.first().copied().and_then(Kind::of) else { return Ok(()) };
    let bulk = |way| -> io::Result<()> {
        meter::count(&shared.meter.received, n - 1);
        shared.bulk(false)?.run(duplicate(&stream)?, way);
        Ok(())
    };
    match kind {
        Kind::Sink => bulk(Way::Down),
        Kind::Give => bulk(Way::Up),
        Kind::Both => bulk(Way::Both),
        Kind::Echo => {
            stream.set_nodelay(true)?;
            echo(&stream, bytes).await
        }
        Kind::Once => stream.write_all(bytes).await.0,
        Kind::Hold => {
            stream.write_all(bytes).await.0?;
            stream.read(vec![0]).await.0.map(drop)
        }
        Kind::Http => pages(&stream, bytes).await,
    }
}

async fn echo(stream: &TcpStream, first: Vec<u8>) -> io::Result<()> {
    if first.len() > 1 {
        stream.write_all(first.slice(1..)).await.0?;
    }
    let mut bytes = Vec::with_capacity(CHUNK);
    loop {
        bytes.clear();
        let (n, back) = stream.read(bytes).await;
        if n? == 0 {
            return Ok(());
        }
        let (sent, back) = stream.write_all(back).await;
        sent?;
        bytes = back;
    }
}

/// A page for each request; a request comes in one read, as wrk sends it.
async fn pages(stream: &TcpStream, mut request: Vec<u8>) -> io::Result<()> {
    let last = b"Connection: close";
    loop {
        let ends = request.windows(last.len()).any(|w| w.eq_ignore_ascii_case(last));
        stream.write_all(PAGE).await.0?;
        if ends {
            return stream.shutdown(std::net::Shutdown::Write);
        }
        request.clear();
        let (n, back) = stream.read(request).await;
        request = back;
        if n? == 0 {
            return Ok(());
        }
    }
}
