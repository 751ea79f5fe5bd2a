//! The client's TCP loads.

use super::meter::{self, Phase};
use super::{Kind, PATIENCE, Shared, Way};
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream as Plain};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::TcpStream;

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
        all.push(open(server, kind).await.map_err(|e| of_many(n, count, e))?);
    }
    Ok(all)
}

/// Which of them it was.
fn of_many(n: u32, count: u32, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("connection {} of {count}: {e}", n + 1))
}

/// A connection whose first byte has been sent, made by plain calls: for when nothing else runs here.
fn open_plainly(server: SocketAddr, kind: Kind) -> io::Result<Plain> {
    let mut stream = Plain::connect_timeout(&server, PATIENCE)?;
    stream.write_all(&[kind.byte()])?;
    Ok(stream)
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

/// Streams of bulk.
pub fn bulk(shared: &Shared, server: SocketAddr, way: Way, streams: u32) -> io::Result<()> {
    let kind = match way {
        Way::Up => Kind::Sink,
        Way::Down => Kind::Give,
        Way::Both => Kind::Both,
    };
    let open = |n| open_plainly(server, kind).map_err(|e| of_many(n, streams, e));
    let all = (0..streams).map(open).collect::<io::Result<Vec<_>>>()?;
    let bulk = shared.bulk(true)?;
    all.into_iter().for_each(|stream| bulk.run(stream.into(), way));
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

/// Connections that sit still.
pub fn hold(shared: &Rc<Shared>, server: SocketAddr, connections: u32) -> io::Result<()> {
    let open = || -> io::Result<Plain> {
        let mut stream = open_plainly(server, Kind::Hold)?;
        // Gone by a reset: TIME_WAIT of thousands of tuples would be measured with the next figures.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    };
    let held = (0..connections)
        .map(|n| open().map_err(|e| of_many(n, connections, e)))
        .collect::<io::Result<Vec<_>>>()?;
    spawn(shared, async move {
        let _held = held;
        std::future::pending().await
    });
    Ok(())
}
