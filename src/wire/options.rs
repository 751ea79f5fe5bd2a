//! TCP options (RFC 9293 section 3.2): read what the stack speaks, pass over the rest, write what a segment
//! may carry.
//!
//! A broken option (length zero, one, or beyond the header) ends the reading; what was read before it counts,
//! as in Linux. MSS, window scale and SACK-permitted mean something on a SYN only and are neither read nor
//! written elsewhere.

use super::field;
use super::tcp::Options;
use arrayvec::ArrayVec;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;

/// Bytes of options that fit a header.
pub(super) const MAX: usize = 40;

/// The largest shift that counts (RFC 7323 section 2.3).
pub(super) const MAX_SCALE: u8 = 14;

/// Reads the option bytes of a header.
pub(super) fn read(mut bytes: &[u8], syn: bool) -> Options {
    let mut options = Options::default();
    while let [kind, rest @ ..] = bytes {
        match *kind {
            END => break,
            NOP => {
                bytes = rest;
                continue;
            }
            _ => {}
        }
        let Some(&len) = rest.first() else { break };
        let len = usize::from(len);
        if len < 2 || len > bytes.len() {
            break;
        }
        let (option, next) = bytes.split_at(len);
        match (option[0], len) {
            // An MSS of zero would divide by zero somewhere: Linux takes it as absent.
            (MSS, 4) if syn => options.mss = field::be16(option, 2).filter(|mss| *mss != 0),
            (WINDOW_SCALE, 3) if syn => options.window_scale = Some(option[2].min(MAX_SCALE)),
            (SACK_PERMITTED, 2) if syn => options.sack_permitted = true,
            (SACK, 10 | 18 | 26 | 34) => {
                options.sack = option[2..]
                    .chunks_exact(8)
                    .filter_map(|block| Some((field::be32(block, 0)?, field::be32(block, 4)?)))
                    .collect();
            }
            _ => {}
        }
        bytes = next;
    }
    options
}

/// The option bytes for a segment, padded to a multiple of four in front of each option as Linux does it. As
/// many SACK blocks as fit are written.
pub(super) fn write(options: &Options, syn: bool) -> ArrayVec<u8, MAX> {
    let mut out = ArrayVec::new();
    // The three SYN options take 12 bytes and a SACK option at most 36, never both: 40 bytes always suffice.
    let mut put = |bytes: &[u8]| {
        let _ = out.try_extend_from_slice(bytes);
    };
    if syn {
        if let Some(mss) = options.mss {
            let [hi, lo] = mss.to_be_bytes();
            put(&[MSS, 4, hi, lo]);
        }
        if options.sack_permitted {
            put(&[NOP, NOP, SACK_PERMITTED, 2]);
        }
        if let Some(scale) = options.window_scale {
            put(&[NOP, WINDOW_SCALE, 3, scale.min(MAX_SCALE)]);
        }
    } else if !options.sack.is_empty() {
        put(&[NOP, NOP, SACK, 2 + 8 * options.sack.len() as u8]);
        for (left, right) in &options.sack {
            put(&left.to_be_bytes());
            put(&right.to_be_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Options {
        Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, sack: ArrayVec::new() }
    }

    #[test]
    fn syn_options_look_like_those_of_linux() {
        assert_eq!(write(&full(), true)[..], [2, 4, 0x05, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7]);
        assert_eq!(read(&[2, 4, 0x05, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7], true), full());
    }

    #[test]
    fn syn_options_mean_nothing_elsewhere() {
        assert_eq!(read(&[2, 4, 0x05, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7], false), Options::default());
        assert!(write(&full(), false).is_empty());
    }

    #[test]
    fn reading_stops_at_a_broken_option_and_keeps_what_came_before() {
        for broken in [
            &[2, 4, 5, 0xb4, 8, 0][..],
            &[2, 4, 5, 0xb4, 8, 1],
            &[2, 4, 5, 0xb4, 3, 9, 1],
            &[2, 4, 5, 0xb4, 3],
        ] {
            assert_eq!(read(broken, true), Options { mss: Some(1460), ..Options::default() });
        }
        assert_eq!(read(&[0, 2, 4, 5, 0xb4], true), Options::default());
    }

    #[test]
    fn shifts_are_clamped_and_zero_mss_is_none() {
        assert_eq!(read(&[3, 3, 200], true).window_scale, Some(14));
        assert_eq!(read(&[2, 4, 0, 0], true).mss, None);
        assert_eq!(read(&[2, 3, 1, 3, 3, 2], true), Options { window_scale: Some(2), ..Options::default() });
    }

    #[test]
    fn sack_of_odd_length_is_passed_over() {
        assert!(read(&[5, 9, 0, 0, 0, 1, 0, 0, 0, 1], false).sack.is_empty());
        assert!(read(&[5, 2], false).sack.is_empty());
    }

    proptest! {
        #[test]
        fn blocks_come_back(blocks in proptest::collection::vec(any::<(u32, u32)>(), 1..=4)) {
            let options = Options { sack: blocks.into_iter().collect(), ..Options::default() };
            let bytes = write(&options, false);
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert_eq!(read(&bytes, false), options);
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..60), syn: bool) {
            let options = read(&bytes, syn);
            prop_assert!(write(&options, syn).len() <= MAX);
        }
    }
}
