//! Numbers at fixed offsets, where etherparse has no view: reads that may miss, writes that do nothing out of
//! range.

/// The 16-bit number at `at`, if the bytes reach that far.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The 32-bit number at `at`, if the bytes reach that far.
pub(super) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes `value` at `at`; nothing when the bytes do not reach that far.
pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(to) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *to = value.to_be_bytes();
    }
}

/// Writes `value` at `at`; nothing when the bytes do not reach that far.
pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *to = value.to_be_bytes();
    }
}
