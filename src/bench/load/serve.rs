//! The server: one TCP and one UDP socket an address; what comes first tells what is wanted.

use super::meter;
use super::tcp::{give, take};
use super::udp::{self, READERS};
use super::{CHUNK, DATAGRAM, Kind, Shared};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream, UdpSocket};

/// Connections that wait to be accepted, at most; the kernel caps it (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// The answer to an HTTP request.
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Serves at each address from now on.
pub fn listen(shared: &Rc<Shared>, at: &[SocketAddr]) -> io::Result<()> {
    for &at in at {
        let fail = |e: io::Error| io::Error::new(e.kind(), format!("listening on {at}: {e}"));
        let listener = std::net::TcpListener::bind(at).map_err(fail)?;
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
        datagrams(shared, udp::bind(at).map_err(fail)?);
    }
    Ok(())
}

async fn stream_of(shared: Rc<Shared>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (n, bytes) = stream.read(Vec::with_capacity(4096)).await;
    let n = n?;
    let Some(kind) = bytes.first().copied().and_then(Kind::of) else { return Ok(()) };
    let stream = Rc::new(stream);
    match kind {
        Kind::Sink => {
            meter::count(&shared.meter.received, n - 1);
            take(shared, stream).await
        }
        Kind::Give => give(shared, stream).await,
        Kind::Both => {
            meter::count(&shared.meter.received, n - 1);
            tokio_uring::spawn(give(shared.clone(), stream.clone()));
            take(shared, stream).await
        }
        Kind::Echo => echo(&stream, bytes).await,
        Kind::Once => {
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

fn datagrams(shared: &Rc<Shared>, plain: std::net::UdpSocket) {
    let socket = Rc::new(UdpSocket::from_std(plain));
    // Whom datagrams go to once there is a pace: who asked last.
    let asked = Rc::new(Cell::new(None));
    for _ in 0..READERS {
        let (shared, socket, asked) = (shared.clone(), socket.clone(), asked.clone());
        tokio_uring::spawn(async move {
            let mut bytes = vec![0; DATAGRAM + 8];
            loop {
                let (received, mut back) = socket.recv_from(bytes).await;
                // An error is that of an earlier answer.
                if let Ok((n, from)) = received {
                    match back.first().copied().and_then(Kind::of) {
                        Some(Kind::Sink) if n == DATAGRAM => {
                            meter::count(&shared.meter.datagrams_received, 1);
                        }
                        Some(Kind::Echo) => back = socket.send_to(back.slice(..n), from).await.1.into_inner(),
                        Some(Kind::Give) => asked.set(Some(from)),
                        _ => {}
                    }
                }
                bytes = back;
            }
        });
    }
    let shared = shared.clone();
    tokio_uring::spawn(async move { udp::send(shared, socket, asked).await });
}
