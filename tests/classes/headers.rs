//! (a), (b), (d), (g), (h): headers that are cut off, lengths that lie, options that do not end.

use crate::fuzz::seeds::{self, addr, at, datagram, message, patch, plain, segment};
use crate::fuzz::world::World;
use crate::{heard, malformed, still_works};
use ringtap::wire::tcp::{Flags, Options};
use ringtap::wire::{Net, Payload, Tcp, parse};

/// CVE-2020-29130 (ARP), CVE-2020-29129 (NC-SI), CVE-2021-3592 (BOOTP), CVE-2021-3593, -3594, -3595 (UDP, UDP6, TFTP): a
/// header was read beyond the end of a short frame, and what lay there went back to the guest.
#[test]
fn a_every_header_cut_off_at_every_byte() {
    let mut frames = seeds::all();
    let options =
        Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, ..Options::default() };
    let syn = Tcp { options, ..plain(1, 0, Flags::SYN) };
    for (from, to) in [("10.0.2.100:1", "198.51.100.2:80"), ("[fd00::100]:1", "[2001:db8::1]:80")] {
        frames.push(segment(at(from), at(to), &syn, 0).to_vec());
    }
    for frame in frames {
        let mut w = heard();
        for cut in 0..frame.len() {
            let before = malformed(&w);
            w.frame(&frame[..cut]);
            w.end_batch();
            assert_eq!(malformed(&w), before + 1, "{cut} bytes of {frame:02x?}");
        }
        assert!(w.frames.is_empty() && w.opened.is_empty() && w.left.is_empty(), "{frame:02x?}");
        still_works(&mut w);
        w.finish();
    }
}

/// CVE-2020-10756: an ICMPv6 echo reply as long as the header claimed, filled with what lay behind the packet.
#[test]
fn b_an_echo_is_as_long_as_its_packet_whatever_its_headers_claim() {
    for (src, dst, kind, length) in [("10.0.2.100", "10.0.2.2", 8, 16), ("fd00::100", "fd00::2", 128, 18)] {
        let good = message(addr(src), addr(dst), 64, &[kind, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4]);
        let claimed = u16::from_be_bytes([good[length], good[length + 1]]);
        for more in [1, 8, 1000, 60_000] {
            let mut w = heard();
            let mut lies = good.clone();
            patch(&mut lies, length, &(claimed + more).to_be_bytes());
            w.frame(&lies);
            assert_eq!((malformed(&w), w.frames.len()), (1, 0), "{dst} {more}");
        }
        // Padding of the link is no part of the packet.
        let mut w = heard();
        let padded = [&good[..], &[0xaa; 40]].concat();
        w.frame(&padded);
        let reply = w.frames.pop_back().expect("a reply");
        let Net::Ip(_, Payload::Icmp(r)) = parse(&reply).unwrap().net else { panic!("{reply:02x?}") };
        assert_eq!(reply[r][8..], [1, 2, 3, 4]);
        w.finish();
    }
}

/// CVE-2021-3594, CVE-2014-3640 and their like: each length of each header against the others.
#[test]
fn b_lengths_that_disagree_are_malformed() {
    let udp = datagram(at("10.0.2.100:9"), at("198.51.100.2:9"), b"hello");
    let udp6 = datagram(at("[fd00::100]:9"), at("[2001:db8::1]:9"), b"hello");
    let tcp = segment(at("10.0.2.100:9"), at("198.51.100.2:80"), &plain(1, 0, Flags::SYN), 0).to_vec();
    // Where, and what it says instead: IPv4's total length, UDP's, IPv6's payload length, TCP's data offset.
    let lies: [(&[u8], usize, &[u8]); 12] = [
        (&udp, 16, &[0, 34]),
        (&udp, 16, &[0, 19]),
        (&udp, 16, &[0xff, 0xff]),
        (&udp, 38, &[0, 14]),
        (&udp, 38, &[0, 7]),
        (&udp, 38, &[0, 0]),
        (&udp6, 18, &[0, 14]),
        (&udp6, 18, &[0, 7]),
        (&udp6, 58, &[0, 14]),
        (&tcp, 46, &[0x40]),
        (&tcp, 46, &[0x00]),
        (&tcp, 46, &[0x60]),
    ];
    for (good, place, bytes) in lies {
        let mut w = heard();
        let mut frame = good.to_vec();
        patch(&mut frame, place, bytes);
        w.frame(&frame);
        w.end_batch();
        assert_eq!(malformed(&w), 1, "{bytes:02x?} at {place} of {good:02x?}");
        assert!(w.opened.is_empty() && w.left.is_empty());
        w.finish();
    }
}

/// A loop or a read beyond the header by an option of length 0, 1 or more than there is; CVE-2019-11477 and -11479: segments
/// of a few bytes each, by a segment size that the guest has made tiny.
#[test]
fn d_tcp_options_of_any_length_neither_loop_nor_shrink_segments() {
    let broken: [&[u8]; 8] = [
        &[2, 0, 5, 0xb4],
        &[2, 1, 5, 0xb4],
        &[2, 40, 5, 0xb4],
        &[3, 0, 7, 0],
        &[5, 0, 0, 0],
        &[8, 1, 0, 0],
        &[254, 0, 1, 1],
        &[1, 1, 1, 2],
    ];
    for (options, tiny) in
        broken.into_iter().map(|o| (o, false)).chain([(&[2, 4, 0, 1][..], true), (&[2, 4, 0, 0], true)])
    {
        let mut w = heard();
        let mut syn =
            segment(at("10.0.2.100:1"), at("198.51.100.2:80"), &plain(1, 0, Flags::SYN), 0).to_vec();
        syn.extend_from_slice(options);
        patch(&mut syn, 16, &44u16.to_be_bytes());
        patch(&mut syn, 46, &[0x60]);
        let id = crate::streams::connected_by(&mut w, &syn, 1);
        crate::streams::host_sends(&mut w, id, 4000);
        w.end_batch();
        let sizes: Vec<usize> =
            crate::streams::segments(&w).iter().map(|(_, len)| *len).filter(|n| *n > 0).collect();
        assert!(!sizes.is_empty());
        let total: usize = sizes.iter().sum();
        assert_eq!(total, 4000, "{options:?}");
        // A super-frame is cut by this size; the world has cut it and counted nothing too small here.
        let least = w.stack.network().mtu.min(if tiny { 48 } else { 536 });
        assert!(crate::streams::cut_into(&w).iter().all(|n| *n >= usize::from(least)), "{options:?}");
        w.finish();
    }
}

/// CVE-2017-11434: the length of a DHCP option led beyond the message. CVE-2021-3592: a message shorter than its struct.
#[test]
fn g_dhcp_options_that_overrun_end_early_or_never_end() {
    let good = |options: &[u8]| {
        let mut w = heard();
        w.frame(&datagram(at("0.0.0.0:68"), at("255.255.255.255:67"), &seeds::bootp(options)));
        let answers: Vec<Vec<u8>> = w.frames.drain(..).collect();
        w.finish();
        answers
    };
    let offer = good(&[53, 1, 1, 255]);
    assert_eq!(offer.len(), 1);
    // Pads, an unknown option of no length, no end: read as far as they make sense, and answered alike.
    for benign in [&[0, 0, 53, 1, 1, 255][..], &[53, 1, 1, 224, 0, 255], &[53, 1, 1]] {
        assert_eq!(good(benign), offer, "{benign:?}");
    }
    // The one option that matters is cut off or empty.
    for bad in
        [&[53][..], &[53, 0, 255], &[53, 1], &[53, 200, 1], &[61, 255, 1, 53, 1, 1], &[50, 90, 53, 1, 1, 255]]
    {
        assert!(good(bad).is_empty(), "{bad:?}");
    }
    // What follows a good one may be nonsense; nothing of it comes back.
    for tail in [&[61, 255, 1, 2][..], &[82, 4, 1, 200, 9, 9], &[55, 0], &[12, 255]] {
        let answers = good(&[&[53, 1, 1][..], tail].concat());
        assert!(answers.is_empty() || answers.iter().all(|a| a.len() == offer[0].len()), "{tail:?}");
    }
    let mut w = heard();
    for len in 0..240 {
        w.frame(&datagram(at("0.0.0.0:68"), at("255.255.255.255:67"), &seeds::bootp(&[])[..len]));
    }
    assert!(w.frames.is_empty());
    still_works(&mut w);
    w.finish();
}

/// A loop that never ends by a neighbour discovery option of length zero (RFC 4861, 4.6), and options beyond the message.
#[test]
fn h_ndp_options_of_no_length_make_the_message_invalid() {
    let base = [135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let ask = |w: &mut World, kind: u8, options: &[u8]| {
        let mut m = base.to_vec();
        m[0] = kind;
        if kind == 133 {
            m.truncate(8);
        }
        m.extend_from_slice(options);
        let to = if kind == 133 { "ff02::2" } else { "ff02::1:ff00:2" };
        w.frame(&message(addr("fe80::99"), addr(to), 255, &m));
    };
    for kind in [133, 135, 136] {
        for options in [
            &[1, 0, 2, 0, 0, 0, 0, 9][..],
            &[14, 0],
            &[1, 2, 2, 0, 0, 0, 0, 9],
            &[1],
            &[1, 255, 2, 0, 0, 0, 0, 9],
        ] {
            let mut w = World::new();
            ask(&mut w, kind, options);
            assert_eq!((malformed(&w), w.frames.len()), (1, 0), "{kind} {options:?}");
            w.finish();
        }
    }
    let mut w = World::new();
    ask(&mut w, 135, &[1, 1, 2, 0, 0, 0, 0, 9]);
    assert_eq!(w.frames.len(), 1);
}
