//! Capture of the tap's frames in the classic pcap format with nanosecond stamps (magic a1b23c4d, link type Ethernet).
//!
//! Frames are written as the stack sees them: super-frames whole, checksums possibly still partial. Writing happens on
//! the plane's thread and is flushed once a batch, so that a reader that follows the file is never far behind. The
//! first error (a full disk) ends the capture and not the network.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest frame kept: Ethernet and 65,535 bytes of L3.
const SNAPLEN: u32 = 65_535 + 14;
/// `LINKTYPE_ETHERNET`.
const LINKTYPE: u32 = 1;

/// An open capture.
pub struct Pcap {
    out: BufWriter<File>,
    dirty: bool,
}

impl Pcap {
    /// Starts a capture: writes the file header.
    pub fn new(file: File) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        out.write_all(&0xa1b2_3c4du32.to_le_bytes())?;
        out.write_all(&2u16.to_le_bytes())?;
        out.write_all(&4u16.to_le_bytes())?;
        out.write_all(&[0; 8])?;
        out.write_all(&SNAPLEN.to_le_bytes())?;
        out.write_all(&LINKTYPE.to_le_bytes())?;
        out.flush()?;
        Ok(Self { out, dirty: false })
    }

    /// Records one frame given in parts.
    pub fn frame<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> io::Result<()> {
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        let len = u32::try_from(len).unwrap_or(SNAPLEN);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // The format's seconds are 32 bits; they wrap in 2106.
        self.out.write_all(&(now.as_secs() as u32).to_le_bytes())?;
        self.out.write_all(&now.subsec_nanos().to_le_bytes())?;
        let mut left = len.min(SNAPLEN);
        self.out.write_all(&left.to_le_bytes())?;
        self.out.write_all(&len.to_le_bytes())?;
        for part in parts {
            let take = part.len().min(left as usize);
            self.out.write_all(&part[..take])?;
            left -= take as u32;
        }
        self.dirty = true;
        Ok(())
    }

    /// Hands what was recorded to the file. Costs nothing when nothing was.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.dirty {
            self.dirty = false;
            self.out.flush()?;
        }
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
}
