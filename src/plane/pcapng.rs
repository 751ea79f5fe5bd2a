//! The pcapng format (draft-ietf-opsawg-pcapng): blocks appended to a vector, and blocks found in a stream of bytes.
//!
//! One section with one interface, Ethernet, nanosecond stamps, little-endian. Every packet says which way it went
//! (`epb_flags`), and may carry a comment and how many were lost before it (`epb_dropcount`). Everything is in multiples of
//! four bytes, lengths at both ends of a block.

/// Section header, whose first word is the same in either byte order.
pub const SECTION: u32 = 0x0a0d_0d0a;
/// Interface description.
pub const INTERFACE: u32 = 1;
/// Interface statistics.
pub const STATISTICS: u32 = 5;
/// Enhanced packet.
pub const PACKET: u32 = 6;
/// Tells the byte order.
const MAGIC: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// Longest block that [`Blocks`] takes for one: a whole frame and its options.
const MAX_BLOCK: usize = 256 * 1024;

// Options, by block.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_DROPS: u16 = 4;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;

/// Which way a frame went, as the guest's interface sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The guest received it.
    ToGuest = 1,
    /// The guest sent it.
    FromGuest = 2,
}

/// What is said of one packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Nanoseconds since the epoch.
    pub at: u64,
    /// Which way.
    pub way: Way,
    /// Bytes of the whole frame.
    pub length: u32,
    /// For the reader; empty for none.
    pub comment: &'a str,
    /// Packets lost since the one before.
    pub dropped: u64,
}

/// Runs `fill` between the two lengths of a block.
fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - start + 4).unwrap_or(u32::MAX).to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&length);
    out.extend_from_slice(&length);
}

fn pad(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&[0; 3][..length.next_multiple_of(4) - length]);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(value);
    pad(out, value.len());
}

/// Stamps are two words, the more significant one first.
fn stamp(out: &mut Vec<u8>, at: u64) {
    out.extend_from_slice(&((at >> 32) as u32).to_le_bytes());
    out.extend_from_slice(&(at as u32).to_le_bytes());
}

/// Section and interface: what a file begins with.
pub fn begin(out: &mut Vec<u8>, interface: &str, snaplen: u32) {
    block(out, SECTION, |out| {
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        // The length of the section is not known.
        out.extend_from_slice(&u64::MAX.to_le_bytes());
        option(out, SECTION_APPLICATION, concat!("ringtap ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, END, &[]);
    });
    block(out, INTERFACE, |out| {
        out.extend_from_slice(&ETHERNET.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&snaplen.to_le_bytes());
        option(out, INTERFACE_NAME, interface.as_bytes());
        option(out, INTERFACE_RESOLUTION, &[9]);
        option(out, END, &[]);
    });
}

/// One frame in parts, of which at most `snaplen` bytes are kept.
pub fn packet<'a>(
    out: &mut Vec<u8>,
    packet: &Packet<'_>,
    snaplen: u32,
    parts: impl Iterator<Item = &'a [u8]>,
) {
    block(out, PACKET, |out| {
        let kept = packet.length.min(snaplen);
        // The interface's number.
        out.extend_from_slice(&[0; 4]);
        stamp(out, packet.at);
        out.extend_from_slice(&kept.to_le_bytes());
        out.extend_from_slice(&packet.length.to_le_bytes());
        let mut left = kept as usize;
        for part in parts {
            let take = part.len().min(left);
            out.extend_from_slice(&part[..take]);
            left -= take;
        }
        pad(out, kept as usize);
        option(out, PACKET_FLAGS, &(packet.way as u32).to_le_bytes());
        if packet.dropped > 0 {
            option(out, PACKET_DROPS, &packet.dropped.to_le_bytes());
        }
        if !packet.comment.is_empty() {
            option(out, COMMENT, packet.comment.as_bytes());
        }
        option(out, END, &[]);
    });
}

/// How many packets there were and how many of them were lost.
pub fn statistics(out: &mut Vec<u8>, at: u64, received: u64, dropped: u64) {
    block(out, STATISTICS, |out| {
        out.extend_from_slice(&[0; 4]);
        stamp(out, at);
        option(out, STATISTICS_RECEIVED, &received.to_le_bytes());
        option(out, STATISTICS_DROPPED, &dropped.to_le_bytes());
        option(out, END, &[]);
    });
}

/// Finds the blocks in a stream of what is written here.
#[derive(Debug, Default)]
pub struct Blocks {
    held: Vec<u8>,
    at: usize,
}

/// One block of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Which kind.
    pub kind: u32,
    /// All of it.
    pub bytes: &'a [u8],
}

/// The stream is of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("that is no capture")]
pub struct NoBlock;

impl Blocks {
    /// More of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.at);
        self.at = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next whole block.
    ///
    /// # Errors
    /// [`NoBlock`] if its length can be none.
    pub fn next_block(&mut self) -> Result<Option<Block<'_>>, NoBlock> {
        let rest = &self.held[self.at..];
        let (Some(kind), Some(length)) = (word(rest, 0), word(rest, 4)) else { return Ok(None) };
        let length = length as usize;
        if !(12..=MAX_BLOCK).contains(&length) || !length.is_multiple_of(4) {
            return Err(NoBlock);
        }
        let Some(bytes) = rest.get(..length) else { return Ok(None) };
        self.at += length;
        Ok(Some(Block { kind, bytes }))
    }
}

/// What a person is told about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Nanoseconds since the epoch.
    pub at: u64,
    /// The guest sent it.
    pub from_guest: bool,
    /// Bytes of the whole frame.
    pub length: u32,
    /// What is kept of it.
    pub frame: &'a [u8],
    /// The comment, or nothing.
    pub comment: &'a str,
    /// Packets lost since the one before.
    pub dropped: u64,
}

impl<'a> Block<'a> {
    /// A packet's.
    pub fn packet(&self) -> Option<Seen<'a>> {
        let bytes = self.bytes;
        let (high, low) = (word(bytes, 12)?, word(bytes, 16)?);
        let (kept, length) = (word(bytes, 20)? as usize, word(bytes, 24)?);
        let frame = bytes.get(28..28 + kept).filter(|_| self.kind == PACKET)?;
        let options = bytes.get(28 + kept.next_multiple_of(4)..)?;
        let flags = find(options, PACKET_FLAGS).and_then(|value| word(value, 0)).unwrap_or(0);
        let comment = find(options, COMMENT).and_then(|value| std::str::from_utf8(value).ok());
        let dropped = find(options, PACKET_DROPS).and_then(long);
        Some(Seen {
            at: u64::from(high) << 32 | u64::from(low),
            from_guest: flags & 3 == Way::FromGuest as u32,
            length,
            frame,
            comment: comment.unwrap_or_default(),
            dropped: dropped.unwrap_or(0),
        })
    }

    /// Packets lost, by the interface's statistics.
    pub fn dropped(&self) -> Option<u64> {
        let options = self.bytes.get(20..).filter(|_| self.kind == STATISTICS)?;
        find(options, STATISTICS_DROPPED).and_then(long)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

fn long(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// The value of the first option of that code.
fn find(mut options: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let head = word(options, 0)?;
        let (code, length) = (head as u16, (head >> 16) as usize);
        let value = options.get(4..4 + length)?;
        match code {
            END => return None,
            code if code == wanted => return Some(value),
            _ => options = options.get(4 + length.next_multiple_of(4)..)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, "tap0", 8);
        let about =
            Packet { at: 5 << 33 | 7, way: Way::FromGuest, length: 11, comment: "tcp:1.0", dropped: 3 };
        packet(&mut out, &about, 8, [&b"head"[..], b"payload"].into_iter());
        statistics(&mut out, 9, 4, 3);
        out
    }

    #[test]
    fn blocks_are_found_in_a_stream_however_it_is_cut() {
        let file = file();
        for cut in 1..file.len() {
            let mut blocks = Blocks::default();
            let mut kinds = Vec::new();
            for chunk in file.chunks(cut) {
                blocks.push(chunk);
                while let Some(block) = blocks.next_block().unwrap() {
                    kinds.push((block.kind, block.bytes.len()));
                }
            }
            assert_eq!(
                kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
                [SECTION, INTERFACE, PACKET, STATISTICS]
            );
            assert_eq!(kinds.iter().map(|(_, length)| length).sum::<usize>(), file.len());
        }
    }

    #[test]
    fn a_packet_says_what_was_said_of_it() {
        let mut blocks = Blocks::default();
        blocks.push(&file());
        let mut seen = 0;
        while let Some(block) = blocks.next_block().unwrap() {
            if let Some(packet) = block.packet() {
                seen += 1;
                let expected = Seen {
                    at: 5 << 33 | 7,
                    from_guest: true,
                    length: 11,
                    frame: b"headpayl",
                    comment: "tcp:1.0",
                    dropped: 3,
                };
                assert_eq!(packet, expected);
            }
            assert_eq!(block.dropped(), (block.kind == STATISTICS).then_some(3));
        }
        assert_eq!(seen, 1);
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        for nonsense in [&b"HTTP/1.1 404 Not Found"[..], &[0; 32], &[0xff; 32]] {
            let mut blocks = Blocks::default();
            blocks.push(nonsense);
            assert_eq!(blocks.next_block(), Err(NoBlock), "{nonsense:?}");
        }
    }
}
