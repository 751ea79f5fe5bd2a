//! The client's TCP loads.

use super::meter::{self, Phase};
use super::{CHUNK, Kind, PATIENCE, Shared, Way};
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as Plain};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

/// What all streams send: the same memory, so that it stays in the processor's cache as that of one stream would.
static BYTES: [u8; CHUNK] = [0x5a; CHUNK];

/// A connection, whose first byte has been sent.
async fn open(server: SocketAddr, kind: Kind) -> io::Result<TcpStream> {
    let connect = async {
        let stream = TcpStream::connect(server).await?;
        if kind == Kind::Echo {
            stream.set_nodelay(true)?;
        }
        stream.write_all(vec![kind.byte()]).await.0?;
        Ok(stream)
    };
    let late = || io::Error::new(ErrorKind::TimedOut, format!("connecting to {server} takes too long"));
    tokio::time::timeout(PATIENCE, connect).await.map_err(|_| late())?
}

async fn open_all(server: SocketAddr, kind: Kind, count: u32) -> io::Result<Vec<TcpStream>> {
    let mut all = Vec::new();
    for n in 0..count {
        let stream = open(server, kind).await;
        all.push(
            stream.map_err(|e| io::Error::new(e.kind(), format!("connection {} of {count}: {e}", n + 1)))?,
        );
    }
    Ok(all)
}

fn spawn(shared: &Rc<Shared>, task: impl Future<Output = io::Result<()>> + 'static) {
    let shared = shared.clone();
    tokio_uring::spawn(async move {
        let ended = task.await;
        shared.note(ended);
    });
}

fn closed() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the other end closed the connection")
}

/// Sends as much as there is room for, until the load is over.
pub async fn give(shared: Rc<Shared>, stream: Rc<TcpStream>) -> io::Result<()> {
    while shared.meter.phase() != Phase::Over {
        let (sent, _) = stream.write(&BYTES[..]).submit().await;
        meter::count(&shared.meter.sent, sent?);
    }
    Ok(())
}

/// Takes what comes, until it ends.
pub async fn take(shared: Rc<Shared>, stream: Rc<TcpStream>) -> io::Result<()> {
    let (mut bytes, load) = (vec![0; CHUNK], shared.meter.load());
    loop {
        let (received, back) = stream.read(bytes).await;
        bytes = back;
        match received? {
            0 => return Ok(()),
            n if load == shared.meter.load() => meter::count(&shared.meter.received, n),
            // Left over in some buffer.
            _ => {}
        }
    }
}

/// Streams of bulk.
pub async fn bulk(shared: &Rc<Shared>, server: SocketAddr, way: Way, streams: u32) -> io::Result<()> {
    let kind = match way {
        Way::Up => Kind::Sink,
        Way::Down => Kind::Give,
        Way::Both => Kind::Both,
    };
    for stream in open_all(server, kind, streams).await? {
        let stream = Rc::new(stream);
        if way != Way::Down {
            spawn(shared, give(shared.clone(), stream.clone()));
        }
        if way != Way::Up {
            let taken = take(shared.clone(), stream);
            // The server never ends by itself.
            spawn(shared, async move { taken.await.and(Err(closed())) });
        }
    }
    Ok(())
}

/// Reads until `bytes` are full.
async fn read_all(stream: &TcpStream, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let (mut full, wanted) = (0, bytes.len());
    while full < wanted {
        let (received, slice) = stream.read(bytes.slice(full..)).await;
        bytes = slice.into_inner();
        match received? {
            0 => return Err(closed()),
            n => full += n,
        }
    }
    Ok(bytes)
}

/// Requests and answers, on connections that stay.
pub async fn exchange(
    shared: &Rc<Shared>,
    server: SocketAddr,
    bytes: u32,
    connections: u32,
) -> io::Result<()> {
    for stream in open_all(server, Kind::Echo, connections).await? {
        let (shared2, mut message) = (shared.clone(), vec![1; bytes as usize]);
        spawn(shared, async move {
            while shared2.meter.phase() != Phase::Over {
                let start = Instant::now();
                let (sent, back) = stream.write_all(message).await;
                sent?;
                message = read_all(&stream, back).await?;
                done(&shared2, start);
            }
            Ok(())
        });
    }
    Ok(())
}

/// Connections that carry one byte there and back.
pub async fn connect(shared: &Rc<Shared>, server: SocketAddr, connections: u32) -> io::Result<()> {
    // The first is to say whether it works at all.
    open(server, Kind::Once).await?;
    for _ in 0..connections {
        let shared2 = shared.clone();
        spawn(shared, async move {
            while shared2.meter.phase() != Phase::Over {
                let start = Instant::now();
                let stream = open(server, Kind::Once).await?;
                read_all(&stream, vec![0]).await?;
                done(&shared2, start);
            }
            Ok(())
        });
    }
    Ok(())
}

fn done(shared: &Shared, start: Instant) {
    meter::count(&shared.meter.operations, 1);
    if shared.meter.phase() == Phase::Counts {
        shared.latency.record(start.elapsed());
    }
}

/// Connections that sit still. Made one by one by plain calls, for nothing else runs here.
pub fn hold(shared: &Rc<Shared>, server: SocketAddr, connections: u32) -> io::Result<()> {
    let open = |n: u32| -> io::Result<Plain> {
        let mut stream = Plain::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Gone by a reset: TIME_WAIT of thousands of tuples would be measured with the next figures.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream
            .write_all(&[Kind::Hold.byte()])
            .and_then(|()| stream.read_exact(&mut [0]))
            .map_err(|e| io::Error::new(e.kind(), format!("connection {} of {connections}: {e}", n + 1)))?;
        Ok(stream)
    };
    let held = (0..connections).map(open).collect::<io::Result<Vec<_>>>()?;
    spawn(shared, async move {
        let _held = held;
        std::future::pending().await
    });
    Ok(())
}
