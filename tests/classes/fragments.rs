//! (c): packets in parts. CVE-2018-11806 and CVE-2019-14378 (a heap overflow by the size of the whole, by a first part that
//! is large), CVE-2019-15890 and CVE-2020-1983 (a part was freed, or moved, and used), teardrop and ping of death, RFC 5722,
//! RFC 1858; FragmentSmack (CVE-2018-5391) for floods.

use crate::fuzz::seeds::{addr, fragment, patch};
use crate::fuzz::world::World;
use crate::{heard, still_works};
use ringtap::flow::DropReason;
use std::time::Duration;

const ENDS: [(&str, &str); 2] = [("10.0.2.100", "198.51.100.2"), ("fd00::100", "2001:db8::1")];

/// A UDP datagram of `len` bytes with its header, without a checksum where that may be.
fn datagram(v6: bool, len: usize) -> Vec<u8> {
    let mut d = vec![0x10, 0, 0, 9];
    d.extend_from_slice(&(len as u16).to_be_bytes());
    d.extend_from_slice(&[0, 0]);
    d.extend((8..len).map(|i| (i % 251) as u8));
    if v6 {
        let mut sum = ringtap::wire::checksum::pseudo(addr(ENDS[1].0), addr(ENDS[1].1), 17, len);
        sum.add(&d);
        let sum = sum.finish();
        d[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    d
}

fn part(which: usize, whole: &[u8], id: u16, from: usize, to: usize) -> Vec<u8> {
    let (src, dst) = ENDS[which];
    fragment(addr(src), addr(dst), 17, (id, from as u16, to < whole.len()), &whole[from..to])
}

/// Parts that were refused by themselves or for what was there before.
fn dead(w: &World) -> u64 {
    w.dropped(DropReason::Fragment) + w.dropped(DropReason::Malformed)
}

#[test]
fn c_whole_packets_of_every_cut_come_through_bit_for_bit() {
    for which in [0, 1] {
        for (len, first, step) in [
            (1000, 24, 488),
            (5000, 1480, 1480),
            (60_000, 59_992, 8),
            (65_000, 8, 4096),
            (65_515, 1480, 9000),
        ] {
            let mut w = heard();
            let whole = datagram(which == 1, len);
            let mut cuts = vec![0, first];
            while *cuts.last().unwrap() < len {
                cuts.push((cuts.last().unwrap() + step).min(len));
            }
            // The last comes first, then the rest as they are.
            for i in std::iter::once(cuts.len() - 2).chain(0..cuts.len() - 2) {
                w.frame(&part(which, &whole, 7, cuts[i], cuts[i + 1]));
            }
            w.end_batch();
            assert_eq!(w.left.len(), 1, "{len} bytes, {first} and {step}, {:?}", w.stack.counters());
            assert!(w.left[0].1 == whole[8..], "{len} bytes, {first} and {step}");
            w.finish();
        }
    }
}

#[test]
fn c_overlaps_kill_the_packet_and_what_follows_of_it() {
    for which in [0, 1] {
        let whole = datagram(which == 1, 64);
        for (from, to) in [(0, 24), (8, 40), (16, 32), (16, 64)] {
            let mut w = heard();
            w.frame(&part(which, &whole, 7, 0, 32));
            w.frame(&part(which, &whole, 7, from, to));
            w.frame(&part(which, &whole, 7, 32, 64));
            w.end_batch();
            assert!(w.left.is_empty() && dead(&w) >= 2, "{from}..{to}");
            assert_eq!(w.live, [0; 3], "{from}..{to}: its buffers went at once");
            w.finish();
        }
    }
}

#[test]
fn c_tiny_first_parts_and_ends_beyond_a_packet_are_refused() {
    for which in [0, 1] {
        let (src, dst) = (addr(ENDS[which].0), addr(ENDS[which].1));
        let whole = datagram(which == 1, 64);
        // A first part without the header of a transport, as for TCP.
        let mut w = heard();
        w.frame(&fragment(src, dst, 6, (7, 0, true), &whole[..16]));
        assert_eq!((dead(&w), w.live), (1, [0; 3]));
        // The last part begins so late that the whole would be longer than any packet.
        w.frame(&fragment(src, dst, 17, (8, 0xfff8, false), &whole[..16]));
        w.frame(&fragment(src, dst, 17, (9, 0xfff8, true), &whole[..16]));
        // Not a multiple of eight, and empty.
        w.frame(&fragment(src, dst, 17, (10, 0, true), &whole[..13]));
        w.frame(&fragment(src, dst, 17, (11, 8, true), &[]));
        assert_eq!((dead(&w), w.live), (5, [0; 3]));
        // Two ends.
        w.frame(&fragment(src, dst, 17, (12, 32, false), &whole[32..48]));
        w.frame(&fragment(src, dst, 17, (12, 48, false), &whole[48..64]));
        assert_eq!((dead(&w), w.live), (6, [0; 3]));
        still_works(&mut w);
        w.finish();
    }
}

#[test]
fn c_a_gap_holds_its_buffers_for_its_time_and_no_longer() {
    for which in [0, 1] {
        let mut w = heard();
        let whole = datagram(which == 1, 64);
        w.frame(&part(which, &whole, 7, 0, 24));
        w.frame(&part(which, &whole, 7, 32, 64));
        assert_eq!(w.live.iter().sum::<u32>(), 2);
        w.pass(Duration::from_secs(61));
        assert_eq!((w.live, w.dropped(DropReason::ReassemblyTimeout)), ([0; 3], 1));
        // The missing part comes too late and completes nothing.
        w.frame(&part(which, &whole, 7, 24, 32));
        assert!(w.left.is_empty());
        w.finish();
    }
}

#[test]
fn c_a_flood_of_parts_that_never_complete_leaves_room_for_the_rest() {
    for size in [8usize, 1480, 9000] {
        let mut w = heard();
        for id in 0..2000u16 {
            for place in [0u16, 9000, 27_000] {
                let mut f =
                    fragment(addr(ENDS[0].0), addr(ENDS[0].1), 17, (id, place, true), &vec![1; size & !7]);
                // From many addresses of its network.
                patch(&mut f, 29, &[100 + (id % 50) as u8]);
                w.frame(&f);
            }
        }
        assert!(w.live[0] <= 64 && w.live[2] <= 512, "{:?} buffers of {size}", w.live);
        still_works(&mut w);
        w.finish();
    }
}
