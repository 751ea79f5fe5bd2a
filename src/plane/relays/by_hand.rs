//! Moving bytes from socket to socket by calls, so that none of them stays here.
//!
//! The source is looked at (`MSG_PEEK`), the destination takes what it has room for, and as much is taken from the source
//! (`MSG_TRUNC`, which for TCP discards without copying: tcp(7)). Only the plane reads from either, so what was looked at is
//! what is taken. Urgent bytes are in line, or end a look as they end a read; either way the count is right.

use crate::buf::RELAY_SLOT;
use crate::relay::Moved;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::os::fd::BorrowedFd;

/// Moves at most one buffer's worth. `scratch` is where it is looked at; it is made when first needed.
pub fn pass_on(from: BorrowedFd<'_>, to: BorrowedFd<'_>, scratch: &mut Vec<u8>) -> Moved {
    scratch.resize(RELAY_SLOT, 0);
    let there = match recv(from, &mut scratch[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((0, _)) => return Moved::Eof,
        Ok((n, _)) => n,
        Err(e) if is_passing(e) => return Moved::Empty,
        Err(_) => return Moved::Broken,
    };
    let taken = match send(to, &scratch[..there], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(n) => n,
        Err(e) if is_passing(e) => return Moved::Full,
        Err(_) => return Moved::Broken,
    };
    let mut left = taken;
    while left > 0 {
        match recv(from, &mut scratch[..left], RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => left -= n.min(left),
            Err(Errno::INTR) => {}
            // What has been sent would come again.
            _ => return Moved::Broken,
        }
    }
    Moved::Bytes(u32::try_from(taken).unwrap_or(u32::MAX))
}

fn is_passing(e: Errno) -> bool {
    matches!(e, Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn what_finds_no_room_stays_at_the_source_and_every_byte_arrives_once() {
        let ((mut writer, from), (to, mut reader)) = (pair(), pair());
        let mut scratch = Vec::new();
        let mut pass = || pass_on(from.as_fd(), to.as_fd(), &mut scratch);
        assert_eq!(pass(), Moved::Empty);
        let bytes: Vec<u8> = (0..16u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
            writer
        });
        // Nobody reads: it fills.
        while pass() != Moved::Full {}
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        while !matches!(pass(), Moved::Eof | Moved::Broken) {}
        to.shutdown(Shutdown::Write).unwrap();
        assert!(reading.join().unwrap() == bytes);
        drop(writing.join().unwrap());
    }

    #[test]
    fn a_reset_on_either_side_breaks_it() {
        for which in [0, 1] {
            let ((mut writer, from), (to, reader)) = (pair(), pair());
            writer.write_all(b"x").unwrap();
            let end = if which == 0 { &writer } else { &reader };
            socket2::SockRef::from(end).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            if which == 0 {
                drop(writer)
            } else {
                drop(reader)
            }
            let mut scratch = Vec::new();
            let mut seen = pass_on(from.as_fd(), to.as_fd(), &mut scratch);
            for _ in 0..1000 {
                if seen == Moved::Broken {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
                seen = pass_on(from.as_fd(), to.as_fd(), &mut scratch);
            }
            assert_eq!(seen, Moved::Broken);
        }
    }
}
