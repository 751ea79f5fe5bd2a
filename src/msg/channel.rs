//! One end of a sequenced-packet socket pair between two of our processes.
//!
//! A receive first asks how long the waiting packet is (`MSG_PEEK | MSG_TRUNC` with no buffer), so that no end holds a
//! buffer of the greatest size for ever. Sends and receives restart after a signal. Both ends trust each other as far
//! as their sandboxes do: a packet that is too long, does not decode or has lost descriptors is a typed error, after
//! which the caller closes the channel.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Greatest length of a message, in bytes: well below the default socket buffer (212,992 bytes).
pub const MAX_MESSAGE: usize = 128 * 1024;
/// Most descriptors beside one message (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_FDS: usize = 128;

/// Why a message did not go over or did not come in.
#[derive(Debug, thiserror::Error)]
pub enum MsgError {
    /// The other process has closed its end, which it does by exiting.
    #[error("the other process has gone")]
    Closed,
    /// Longer than [`MAX_MESSAGE`]; nothing was sent, or the packet was thrown away.
    #[error("a message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// More than [`MAX_FDS`] descriptors; nothing was sent.
    #[error("{0} descriptors beside one message are over the limit of {MAX_FDS}")]
    TooManyFds(usize),
    /// The kernel could not install all descriptors: the descriptor limit (`ulimit -n`) is reached.
    #[error("descriptors of a message were lost; raise the limit of open files (ulimit -n)")]
    FdsLost,
    /// Not a message of this channel.
    #[error("a message does not decode: {0}")]
    Decode(postcard::Error),
    /// Not encodable.
    #[error("a message does not encode: {0}")]
    Encode(postcard::Error),
    /// The system call failed.
    #[error("message socket: {0}")]
    Io(#[from] std::io::Error),
}

impl From<Errno> for MsgError {
    fn from(e: Errno) -> Self {
        match e {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            e => Self::Io(e.into()),
        }
    }
}

/// One end of a message socket. Blocking unless [`Channel::set_nonblocking`] says otherwise; [`Channel::try_recv`]
/// never blocks.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl Channel {
    /// A connected pair, both ends close-on-exec.
    ///
    /// # Errors
    /// Those of socketpair(2), in practice the descriptor limit.
    pub fn pair() -> Result<(Self, Self), MsgError> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// One end whose other end is gone: who sends is told so, and nothing ever comes.
    ///
    /// # Errors
    /// As of [`Channel::pair`].
    pub fn closed() -> Result<Self, MsgError> {
        Ok(Self::pair()?.0)
    }

    /// Takes over one end of a sequenced-packet socket.
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Gives the socket up.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether [`Channel::send`] and [`Channel::recv`] answer `EWOULDBLOCK` instead of waiting. The setting belongs to
    /// this end, and to every copy of its descriptor.
    ///
    /// # Errors
    /// Those of ioctl(2), which do not happen on a socket.
    pub fn set_nonblocking(&self, on: bool) -> Result<(), MsgError> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, on)?)
    }

    /// Sends one message, `fds` beside it. The receiver gets copies; ours stay open.
    ///
    /// # Errors
    /// [`MsgError::TooLong`] and [`MsgError::TooManyFds`] before anything is sent, [`MsgError::Closed`] when the other
    /// process has gone, otherwise the error of sendmsg(2): `WouldBlock` on a full non-blocking socket.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), MsgError> {
        let bytes = postcard::to_stdvec(message).map_err(MsgError::Encode)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(MsgError::TooLong(bytes.len()));
        }
        if fds.len() > MAX_FDS {
            return Err(MsgError::TooManyFds(fds.len()));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(MsgError::TooManyFds(fds.len()));
            }
            match sendmsg(&self.fd, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for one message (on a non-blocking end: does not wait).
    ///
    /// # Errors
    /// [`MsgError::Closed`] at the end of file, [`MsgError::Io`] with `WouldBlock` on an empty non-blocking end,
    /// otherwise what is wrong with the packet, which is consumed.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), MsgError> {
        self.recv_with(RecvFlags::empty())
    }

    /// Takes one message if one waits.
    ///
    /// # Errors
    /// As [`Channel::recv`], but an empty socket is `Ok(None)`.
    pub fn try_recv<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, MsgError> {
        match self.recv_with(RecvFlags::DONTWAIT) {
            Ok(got) => Ok(Some(got)),
            Err(MsgError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn recv_with<T: DeserializeOwned>(&self, flags: RecvFlags) -> Result<(T, Vec<OwnedFd>), MsgError> {
        let waiting = self.peek(flags)?;
        // A message has at least one byte, so no length is the end of file.
        if waiting == 0 {
            return Err(MsgError::Closed);
        }
        // A packet over the limit is read into a buffer that cuts it off, and so thrown away with its descriptors.
        let mut bytes = vec![0; waiting.min(MAX_MESSAGE)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.fd, &mut iov, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => break got,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(MsgError::TooLong(waiting));
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(MsgError::FdsLost);
        }
        let message = postcard::from_bytes(&bytes[..got.bytes]).map_err(MsgError::Decode)?;
        Ok((message, fds))
    }

    /// Length of the packet at the head of the queue; 0 at the end of file.
    fn peek(&self, flags: RecvFlags) -> Result<usize, MsgError> {
        loop {
            let nothing: &mut [u8] = &mut [];
            match recv(&self.fd, nothing, flags | RecvFlags::PEEK | RecvFlags::TRUNC) {
                Ok((_, length)) => return Ok(length),
                Err(Errno::INTR) => {}
                // A peer that died with our last message unread resets the connection.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn a_message_keeps_its_bounds_and_its_order() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&"one".to_owned(), &[]).unwrap();
        a.send(&"two".to_owned(), &[]).unwrap();
        assert_eq!(b.recv::<String>().unwrap().0, "one");
        assert_eq!(b.recv::<String>().unwrap().0, "two");
        assert!(b.try_recv::<String>().unwrap().is_none());
    }

    #[test]
    fn descriptors_come_over_close_on_exec() {
        let (a, b) = Channel::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        a.send(&7u8, &[writer.as_fd(), reader.as_fd()]).unwrap();
        drop((reader, writer));
        let (seven, fds) = b.recv::<u8>().unwrap();
        assert_eq!((seven, fds.len()), (7, 2));
        for fd in &fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        let mut fds = fds.into_iter().map(File::from);
        let (mut writer, mut reader) = (fds.next().unwrap(), fds.next().unwrap());
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn sixty_four_kib_fit_and_more_than_the_limit_is_refused_at_either_end() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&vec![1u8; 100 * 1024], &[]).unwrap();
        assert_eq!(b.recv::<Vec<u8>>().unwrap().0.len(), 100 * 1024);
        let too_long = vec![1u8; MAX_MESSAGE];
        assert!(matches!(a.send(&too_long, &[]), Err(MsgError::TooLong(_))));
        rustix::net::send(&a, &vec![1u8; MAX_MESSAGE + 1], SendFlags::empty()).unwrap();
        a.send(&1u8, &[]).unwrap();
        assert!(matches!(b.recv::<Vec<u8>>(), Err(MsgError::TooLong(n)) if n == MAX_MESSAGE + 1));
        assert_eq!(b.recv::<u8>().unwrap().0, 1);
    }

    #[test]
    fn the_end_and_nonsense_are_told_apart() {
        let (a, b) = Channel::pair().unwrap();
        rustix::net::send(&a, &[0xff; 9], SendFlags::empty()).unwrap();
        assert!(matches!(b.recv::<String>(), Err(MsgError::Decode(_))));
        // A message nobody read does not hide the end.
        b.send(&1u8, &[]).unwrap();
        drop(a);
        assert!(matches!(b.recv::<String>(), Err(MsgError::Closed)));
        assert!(matches!(b.try_recv::<String>(), Err(MsgError::Closed)));
        assert!(matches!(b.send(&1u8, &[]), Err(MsgError::Closed)));
    }

    #[test]
    fn a_nonblocking_end_does_not_wait() {
        let (a, _b) = Channel::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        assert!(matches!(a.recv::<u8>(), Err(MsgError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock));
    }
}
