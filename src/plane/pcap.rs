//! Capture of the tap's frames in the classic pcap format with nanosecond stamps (magic a1b23c4d, link type Ethernet).
//!
//! Frames are written as the stack sees them: super-frames whole, checksums possibly still partial. Writing happens on
//! the plane's thread and is flushed once a batch, so that a reader that follows the file is never far behind. The
//! first error (a full disk) ends the capture and not the network.
//!
//! A plane may be killed while it writes, and the next one goes on with the same open file. So records are written at an
//! offset of their own, whole ones only, and the file's position, which both processes share, moves behind them when they
//! are written: what lies behind the position is torn and is cut off. A pipe has no position, and nobody can tell whether
//! what went into it last was whole.

use crate::config::network::MAX_FRAME;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest frame kept.
const SNAPLEN: u32 = MAX_FRAME;
/// `LINKTYPE_ETHERNET`.
const LINKTYPE: u32 = 1;
/// So much is written at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// An open capture.
pub struct Pcap {
    file: File,
    /// Where the next record goes; `None` for a pipe.
    at: Option<u64>,
    /// Whole records that are not written yet.
    buffer: Vec<u8>,
}

impl Pcap {
    /// Starts a capture: writes the file header.
    pub fn new(mut file: File) -> io::Result<Self> {
        let at = file.stream_position().ok();
        let mut new = Self { file, at, buffer: Vec::new() };
        new.buffer.extend_from_slice(&0xa1b2_3c4du32.to_le_bytes());
        new.buffer.extend_from_slice(&2u16.to_le_bytes());
        new.buffer.extend_from_slice(&4u16.to_le_bytes());
        new.buffer.extend_from_slice(&[0; 8]);
        new.buffer.extend_from_slice(&SNAPLEN.to_le_bytes());
        new.buffer.extend_from_slice(&LINKTYPE.to_le_bytes());
        new.flush()?;
        Ok(new)
    }

    /// Goes on with the capture of a plane that has died.
    pub fn resume(mut file: File) -> io::Result<Self> {
        let Ok(at) = file.stream_position() else {
            return Err(io::Error::other(
                "what a data plane has left of it in a pipe cannot be gone on with",
            ));
        };
        // It died before it could begin.
        if at == 0 {
            return Self::new(file);
        }
        // A device has no length; there is nothing to cut off then.
        let _ = file.set_len(at);
        Ok(Self { file, at: Some(at), buffer: Vec::new() })
    }

    /// Records one frame given in parts.
    pub fn frame<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> io::Result<()> {
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        let len = u32::try_from(len).unwrap_or(SNAPLEN);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut left = len.min(SNAPLEN);
        // The format's seconds are 32 bits; they wrap in 2106.
        for word in [now.as_secs() as u32, now.subsec_nanos(), left, len] {
            self.buffer.extend_from_slice(&word.to_le_bytes());
        }
        for part in parts {
            let take = part.len().min(left as usize);
            self.buffer.extend_from_slice(&part[..take]);
            left -= take as u32;
        }
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// Hands what was recorded to the file. Costs nothing when nothing was.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        match &mut self.at {
            Some(at) => {
                self.file.write_all_at(&self.buffer, *at)?;
                *at += self.buffer.len() as u64;
                self.file.seek(SeekFrom::Start(*at))?;
            }
            None => self.file.write_all(&self.buffer)?,
        }
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_frame_in_parts_is_one_record() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut pcap = Pcap::new(path.reopen().unwrap()).unwrap();
        pcap.frame([&b"head"[..], &b"payload"[..]].into_iter()).unwrap();
        pcap.flush().unwrap();
        let mut bytes = Vec::new();
        path.reopen().unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes[..4], 0xa1b2_3c4du32.to_le_bytes());
        assert_eq!(bytes.len(), 24 + 16 + 11);
        assert_eq!(bytes[24 + 8..24 + 12], 11u32.to_le_bytes());
        assert_eq!(&bytes[24 + 16..], b"headpayload");
    }

    #[test]
    fn the_next_plane_goes_on_behind_the_last_whole_record() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let kept = path.reopen().unwrap();
        let mut first = Pcap::new(kept.try_clone().unwrap()).unwrap();
        first.frame([&b"whole"[..]].into_iter()).unwrap();
        first.flush().unwrap();
        // Killed within a write: the bytes are there, the position has not moved.
        kept.write_all_at(&[7; 10], 24 + 16 + 5).unwrap();
        drop(first);
        let mut second = Pcap::resume(kept.try_clone().unwrap()).unwrap();
        second.frame([&b"next"[..]].into_iter()).unwrap();
        second.flush().unwrap();
        let bytes = std::fs::read(path.path()).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 5 + 16 + 4);
        assert_eq!((&bytes[40..45], &bytes[61..]), (&b"whole"[..], &b"next"[..]));
    }

    #[test]
    fn a_plane_that_died_before_the_header_leaves_it_to_the_next_and_a_pipe_ends() {
        let path = tempfile::NamedTempFile::new().unwrap();
        Pcap::resume(path.reopen().unwrap()).unwrap();
        assert_eq!(std::fs::read(path.path()).unwrap().len(), 24);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        Pcap::new(writer.try_clone().unwrap()).unwrap();
        assert!(Pcap::resume(writer).is_err());
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 24);
    }
}
