//! Reassembly: whole packets in any order, and everything that is not one.

use super::*;
use crate::stack::reassembly::{MAX_ALL_PARTS, MAX_PACKETS, REASSEMBLED};
use crate::wire::Payload;

const V4: (&str, &str) = ("10.0.2.100:9", "198.51.100.2:9");
const V6: (&str, &str) = ("[fd00::64]:9", "[2001:db8::1]:9");

/// One fragment of a whole frame's IP payload: bytes `from..to`.
fn part(whole: &[u8], id: u16, from: usize, to: usize, more: bool) -> Vec<u8> {
    if whole[12..14] == [8, 0] {
        let mut f = [&whole[..34], &whole[34 + from..34 + to]].concat();
        patch(&mut f, 16, &((20 + to - from) as u16).to_be_bytes());
        patch(&mut f, 18, &id.to_be_bytes());
        patch(&mut f, 20, &((from / 8) as u16 | if more { 0x2000 } else { 0 }).to_be_bytes());
        return f;
    }
    let mut f = whole[..54].to_vec();
    f[18..20].copy_from_slice(&((8 + to - from) as u16).to_be_bytes());
    f.extend_from_slice(&[f[20], 0]);
    f[20] = 44;
    f.extend_from_slice(&(from as u16 | u16::from(more)).to_be_bytes());
    f.extend_from_slice(&u32::from(id).to_be_bytes());
    f.extend_from_slice(&whole[54 + from..54 + to]);
    f
}

/// The frame cut into parts of `step` bytes.
fn cut(whole: &[u8], id: u16, step: usize) -> Vec<Vec<u8>> {
    let len = whole.len() - if whole[12..14] == [8, 0] { 34 } else { 54 };
    (0..len).step_by(step).map(|at| part(whole, id, at, (at + step).min(len), at + step < len)).collect()
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn injected(done: &[Done]) -> &Vec<u8> {
    match done {
        [Done::Inject(frame)] => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_come_together_in_any_order_and_go_on_as_one_datagram() {
    for ends in [V4, V6] {
        let whole = udp_frame(ends.0, ends.1, &body(5000));
        let parts = cut(&whole, 7, 1480);
        assert_eq!(parts.len(), 4);
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
            let mut w = World::new();
            for i in &order[..3] {
                assert!(w.frame(&parts[*i]).is_empty());
                // A copy of the same part changes nothing.
                assert!(w.frame(&parts[*i]).is_empty());
            }
            assert_eq!(w.held(), 3);
            let done = w.frame(&parts[order[3]]);
            let frame = injected(&done).clone();
            assert_eq!(w.held(), 0);
            let Frame { src_mac, dst_mac, net: Net::Ip(ip, payload) } = parse(&frame).unwrap() else {
                panic!()
            };
            assert_eq!((src_mac, dst_mac, ip.fragment), (GUEST, REASSEMBLED, None));
            assert!(checksum::verify_transport(&frame, &parse(&frame).unwrap()));
            assert!(matches!(payload, Payload::Udp(_, range) if frame[range.clone()] == body(5000)));
            // Back in, it leaves at once, as a datagram that may be fragmented again, IPv6 included.
            let done = w.frame(&frame);
            let (_, d, bytes) = sends(&done)[0];
            assert_eq!((bytes, d.dont_fragment, d.segment), (&body(5000), false, None));
        }
    }
}

#[test]
fn the_longest_packet_fits_and_a_longer_one_does_not() {
    for (ends, longest) in [(V4, 65_507), (V6, 65_507), (V6, 65_527)] {
        let mut w = World::new();
        let whole = udp_frame(ends.0, ends.1, &body(longest));
        let done: Vec<Done> = cut(&whole, 1, 1480).iter().flat_map(|f| w.frame(f)).collect();
        let frame = injected(&done);
        assert!(matches!(parse(frame).unwrap().net, Net::Ip(_, Payload::Udp(_, r)) if r.len() == longest));
        assert_eq!(w.held(), 0);
    }
    // The ping of death: a last part that ends beyond the longest packet.
    let whole = udp_frame(V4.0, V4.1, &body(65_507));
    let mut w = World::new();
    assert!(w.frame(&part(&whole, 1, 0, 1480, true)).is_empty());
    let mut last = part(&whole, 1, 0, 1000, false);
    patch(&mut last, 20, &(65_528u16 / 8).to_be_bytes());
    assert!(w.frame(&last).is_empty());
    // Within 65,535 bytes of payload, but not with its header.
    patch(&mut last, 20, &(64_520u16 / 8).to_be_bytes());
    patch(&mut last, 16, &1036u16.to_be_bytes());
    w.frame(&last);
    w.pass(Duration::from_secs(31));
    assert_eq!(w.held(), 0);
}

#[test]
fn an_overlap_kills_the_packet_for_good() {
    for ends in [V4, V6] {
        let whole = udp_frame(ends.0, ends.1, &body(3000));
        let len = 3008;
        let overlaps = [
            vec![part(&whole, 1, 0, 1480, true), part(&whole, 1, 1472, len, false)],
            vec![part(&whole, 1, 1480, len, false), part(&whole, 1, 0, 1488, true)],
            vec![part(&whole, 1, 0, 1480, true), part(&whole, 1, 0, 1472, true)],
            // Two ends, and a part beyond the end.
            vec![part(&whole, 1, 1480, len, false), part(&whole, 1, 1480, 2000, false)],
            vec![part(&whole, 1, 1480, 2000, false), part(&whole, 1, 2000, len, false)],
            vec![part(&whole, 1, 2000, len, false), part(&whole, 1, 1480, 2000, false)],
        ];
        for (i, mut parts) in overlaps.into_iter().enumerate() {
            let mut w = World::new();
            // What would have completed it does not any more.
            parts.extend([part(&whole, 1, 0, 1480, true), part(&whole, 1, 1480, len, false)]);
            for f in &parts {
                assert!(w.frame(f).is_empty(), "case {i}");
            }
            assert!(w.dropped(DropReason::Fragment) >= 1, "case {i}");
            assert_eq!(w.held(), 0, "case {i}");
            // When its time is over, the identification can be used again.
            w.pass(Duration::from_secs(61));
            assert_eq!(w.dropped(DropReason::ReassemblyTimeout), 0);
            let done: Vec<Done> = cut(&whole, 1, 1480).iter().flat_map(|f| w.frame(f)).collect();
            injected(&done);
        }
    }
}

#[test]
fn a_tiny_first_part_hides_nothing() {
    let mut w = World::new();
    let whole = ip_frame("10.0.2.100", "198.51.100.2", 6, 64, &body(100));
    w.frame(&part(&whole, 1, 0, 16, true));
    w.frame(&part(&whole, 1, 16, 100, false));
    assert_eq!((w.dropped(DropReason::Fragment), w.held()), (2, 0));
    // Eight bytes are all a UDP header needs.
    let whole = udp_frame(V4.0, V4.1, &body(100));
    let done: Vec<Done> = cut(&whole, 2, 8).iter().flat_map(|f| w.frame(f)).collect();
    injected(&done);
    assert_eq!(w.held(), 0);
}

#[test]
fn what_is_never_completed_goes_when_its_time_is_over() {
    for (ends, life) in [(V4, 30), (V6, 60)] {
        let mut w = World::new();
        let whole = udp_frame(ends.0, ends.1, &body(3000));
        w.frame(&part(&whole, 1, 0, 1480, true));
        w.pass(Duration::from_secs(life - 1));
        assert_eq!(w.held(), 1);
        w.pass(Duration::from_secs(1));
        assert_eq!((w.held(), w.dropped(DropReason::ReassemblyTimeout)), (0, 1));
        // A gap stays a gap.
        w.frame(&part(&whole, 2, 0, 1000, true));
        assert!(w.frame(&part(&whole, 2, 1480, 3008, false)).is_empty());
        w.pass(Duration::from_secs(60));
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn a_flood_is_bounded_and_the_oldest_make_room() {
    let mut w = World::new();
    let whole = udp_frame(V4.0, V4.1, &body(3000));
    for id in 0..1000 {
        w.frame(&part(&whole, id, 0, 1480, true));
        assert!(w.held() <= MAX_PACKETS);
    }
    assert_eq!(w.dropped(DropReason::Fragment), 1000 - MAX_PACKETS as u64);
    // The latest is still there.
    injected(&w.frame(&part(&whole, 999, 1480, 3008, false)));
    // Few packets, many parts.
    let whole = udp_frame(V4.0, V4.1, &body(2000));
    for id in 2000..2020 {
        for f in &cut(&whole, id, 16)[..100] {
            w.frame(f);
            assert!(w.held() <= MAX_ALL_PARTS + 1);
        }
    }
    // Too many parts of one.
    for f in &cut(&whole, 3000, 8) {
        w.frame(f);
    }
    w.pass(Duration::from_secs(31));
    assert_eq!(w.held(), 0);
}

#[test]
fn packets_of_different_hosts_and_protocols_do_not_mix() {
    let mut w = World::new();
    let udp = udp_frame(V4.0, V4.1, &body(2000));
    let other = udp_frame("10.0.2.101:9", V4.1, &body(2000));
    let icmp = echo_frame("10.0.2.100", "198.51.100.2", 64, (1, 1), &body(2000));
    for whole in [&udp, &other, &icmp] {
        assert!(w.frame(&part(whole, 1, 0, 1480, true)).is_empty());
    }
    for whole in [&udp, &other, &icmp] {
        let done = w.frame(&part(whole, 1, 1480, 2008, false));
        assert_eq!(injected(&done)[14 + 20..], whole[34..]);
    }
}

#[test]
fn a_large_echo_is_answered_whole() {
    for (guest, to) in [("10.0.2.100", "10.0.2.2"), ("fd00::64", "fd00::2")] {
        let mut w = World::new();
        let whole = echo_frame(guest, to, 64, (1, 1), &body(4000));
        let done: Vec<Done> = cut(&whole, 1, 1480).iter().flat_map(|f| w.frame(f)).collect();
        let frame = injected(&done).clone();
        let done = w.frame(&frame);
        assert!(matches!(parse(only(&done).0).unwrap().net, Net::Ip(_, Payload::Icmp(r)) if r.len() == 4008));
        assert_eq!(w.held(), 0);
    }
}

#[test]
fn congestion_marks_survive() {
    let mut w = World::new();
    let whole = udp_frame(V4.0, V4.1, &body(2000));
    let mut parts = cut(&whole, 1, 1480);
    patch(&mut parts[0], 15, &[0x02]);
    patch(&mut parts[1], 15, &[0x03]);
    w.frame(&parts[0]);
    let done = w.frame(&parts[1]);
    let Net::Ip(ip, _) = parse(injected(&done)).unwrap().net else { panic!() };
    assert_eq!(ip.tos, 3);
}

#[test]
fn fragments_cut_anywhere_do_no_harm() {
    let mut w = World::new();
    for ends in [V4, V6] {
        let whole = udp_frame(ends.0, ends.1, &body(100));
        truncated(&mut w, &part(&whole, 1, 0, 64, true));
        truncated(&mut w, &part(&whole, 1, 64, 108, false));
    }
}
