//! DHCPv4 and DHCPv6, with messages as clients send them and as attackers do.

use super::*;
use crate::wire::Payload;
use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, v6};
use std::net::Ipv4Addr;

/// A request with these options after the message type.
fn request(kind: u8, mac_last: u8, flags: u16, ciaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut m = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 3];
    m.extend_from_slice(&flags.to_be_bytes());
    m.extend_from_slice(&ciaddr);
    m.extend_from_slice(&[0; 12]);
    m.extend_from_slice(&[2, 0, 0, 0, 0, mac_last, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    m.extend_from_slice(&[0; 192]);
    m.extend_from_slice(&[99, 130, 83, 99]);
    if kind != 0 {
        m.extend_from_slice(&[53, 1, kind]);
    }
    m.extend_from_slice(options);
    m.push(255);
    m
}

fn ask(w: &mut World, message: &[u8]) -> Vec<Done> {
    w.frame(&udp_frame("0.0.0.0:68", "255.255.255.255:67", message))
}

/// The answer in a frame, its destination and MAC.
fn answer(done: &[Done]) -> (Message, IpAddr, Mac) {
    let (bytes, frame) = only(done);
    let Net::Ip(ip, Payload::Udp(udp, range)) = &frame.net else { panic!() };
    assert_eq!((udp.src_port, udp.dst_port, ip.src), (67, 68, addr("10.0.2.2")));
    assert!(range.len() >= 300);
    let m = Message::decode(&mut Decoder::new(&bytes[range.clone()])).unwrap();
    assert_eq!(m.xid(), 0xdead_beef);
    (m, ip.dst, frame.dst_mac)
}

fn kind(m: &Message) -> MessageType {
    m.opts().msg_type().unwrap()
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, last)
}

#[test]
fn a_client_gets_an_address_and_all_it_needs() {
    let mut w = World::new();
    let (offer, dst, mac) = answer(&ask(&mut w, &request(1, 1, 0, [0; 4], &[])));
    assert_eq!((kind(&offer), offer.yiaddr()), (MessageType::Offer, v4(15)));
    // No broadcast flag: straight to the MAC that asked.
    assert_eq!((dst, mac), (addr("10.0.2.15"), [2, 0, 0, 0, 0, 1]));
    let o = offer.opts();
    assert_eq!(o.get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(v4(2))));
    assert_eq!(o.get(OptionCode::SubnetMask), Some(&DhcpOption::SubnetMask([255, 255, 255, 0].into())));
    assert_eq!(o.get(OptionCode::Router), Some(&DhcpOption::Router(vec![v4(2)])));
    assert_eq!(o.get(OptionCode::DomainNameServer), Some(&DhcpOption::DomainNameServer(vec![v4(3)])));
    assert_eq!(o.get(OptionCode::AddressLeaseTime), Some(&DhcpOption::AddressLeaseTime(86_400)));
    assert_eq!(o.get(OptionCode::InterfaceMtu), Some(&DhcpOption::InterfaceMtu(1500)));
    assert_eq!(o.get(OptionCode::DomainName), Some(&DhcpOption::DomainName("lan.example".into())));
    assert!(
        matches!(o.get(OptionCode::DomainSearch), Some(DhcpOption::DomainSearch(names)) if names.len() == 2)
    );
    let wanted = [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2];
    let (ack, ..) = answer(&ask(&mut w, &request(3, 1, 0, [0; 4], &wanted)));
    assert_eq!((kind(&ack), ack.yiaddr()), (MessageType::Ack, v4(15)));
    // Renewal: unicast, to the address in use.
    let renewal = udp_frame("10.0.2.15:68", "10.0.2.2:67", &request(3, 1, 0, [10, 0, 2, 15], &[]));
    let (ack, dst, _) = answer(&w.frame(&renewal));
    assert_eq!((kind(&ack), ack.yiaddr(), dst), (MessageType::Ack, v4(15), addr("10.0.2.15")));
    assert_eq!(w.held(), 0);
}

#[test]
fn broadcast_is_used_when_asked_for_and_for_refusals() {
    let mut w = World::new();
    let (_, dst, mac) = answer(&ask(&mut w, &request(1, 1, 0x8000, [0; 4], &[])));
    assert_eq!((dst, mac), (addr("255.255.255.255"), [0xff; 6]));
    for wanted in [[10, 0, 2, 100], [192, 168, 1, 5], [10, 0, 2, 31], [10, 0, 2, 14]] {
        let options = [&[50, 4][..], &wanted[..]].concat();
        let (nak, dst, mac) = answer(&ask(&mut w, &request(3, 1, 0, [0; 4], &options)));
        assert_eq!((kind(&nak), dst, mac), (MessageType::Nak, addr("255.255.255.255"), [0xff; 6]));
        assert!(nak.yiaddr().is_unspecified() && nak.opts().get(OptionCode::Router).is_none());
    }
}

#[test]
fn leases_follow_the_client_identifier_and_stay_apart() {
    let mut w = World::new();
    let id = [61, 3, 0xff, 1, 2];
    let first =
        answer(&ask(&mut w, &request(3, 1, 0, [0; 4], &[&id[..], &[50, 4, 10, 0, 2, 20]].concat()))).0;
    assert_eq!((kind(&first), first.yiaddr()), (MessageType::Ack, v4(20)));
    assert_eq!(
        first.opts().get(OptionCode::ClientIdentifier),
        Some(&DhcpOption::ClientIdentifier(vec![0xff, 1, 2]))
    );
    // The same client with another MAC keeps its address; another client may not have it.
    assert_eq!(answer(&ask(&mut w, &request(1, 9, 0, [0; 4], &id))).0.yiaddr(), v4(20));
    let taken = answer(&ask(&mut w, &request(3, 2, 0, [0; 4], &[50, 4, 10, 0, 2, 20]))).0;
    assert_eq!(kind(&taken), MessageType::Nak);
    // A wish is granted when the address is free.
    assert_eq!(answer(&ask(&mut w, &request(1, 2, 0, [0; 4], &[50, 4, 10, 0, 2, 25]))).0.yiaddr(), v4(25));
}

#[test]
fn sixteen_addresses_and_then_none_until_one_comes_back() {
    let mut w = World::new();
    let mut given: Vec<Ipv4Addr> =
        (1..=16).map(|i| answer(&ask(&mut w, &request(1, i, 0, [0; 4], &[]))).0.yiaddr()).collect();
    given.sort_unstable();
    assert_eq!(given, (15..=30).map(v4).collect::<Vec<_>>());
    assert!(ask(&mut w, &request(1, 17, 0, [0; 4], &[])).is_empty());
    assert_eq!(w.dropped(DropReason::NoRoom), 1);
    // One client takes its offer, one gives its own up, one declines, one chooses another server.
    ask(&mut w, &request(3, 1, 0, [0; 4], &[50, 4, 10, 0, 2, 15]));
    assert!(ask(&mut w, &request(7, 2, 0, [10, 0, 2, 16], &[])).is_empty());
    assert_eq!(answer(&ask(&mut w, &request(1, 17, 0, [0; 4], &[]))).0.yiaddr(), v4(16));
    assert!(ask(&mut w, &request(3, 3, 0, [0; 4], &[54, 4, 192, 0, 2, 1])).is_empty());
    assert_eq!(answer(&ask(&mut w, &request(1, 18, 0, [0; 4], &[]))).0.yiaddr(), v4(17));
    assert!(ask(&mut w, &request(4, 4, 0, [0; 4], &[50, 4, 10, 0, 2, 18])).is_empty());
    assert!(ask(&mut w, &request(1, 19, 0, [0; 4], &[])).is_empty());
    // Offers run out in a minute, the declined address after ten, the lease after a day.
    w.pass(Duration::from_secs(61));
    let again: Vec<Ipv4Addr> =
        (30..44).map(|i| answer(&ask(&mut w, &request(1, i, 0, [0; 4], &[]))).0.yiaddr()).collect();
    assert!(!again.contains(&v4(15)) && !again.contains(&v4(18)));
    w.pass(Duration::from_secs(86_401));
    for i in 50..66 {
        assert_eq!(kind(&answer(&ask(&mut w, &request(1, i, 0, [0; 4], &[]))).0), MessageType::Offer);
    }
}

#[test]
fn inform_and_bootp_are_served() {
    let mut w = World::new();
    let inform = udp_frame("10.0.2.100:68", "255.255.255.255:67", &request(8, 1, 0, [10, 0, 2, 100], &[]));
    let (ack, dst, _) = answer(&w.frame(&inform));
    assert_eq!((kind(&ack), dst), (MessageType::Ack, addr("10.0.2.100")));
    assert!(ack.yiaddr().is_unspecified() && ack.opts().get(OptionCode::AddressLeaseTime).is_none());
    let (reply, ..) = answer(&ask(&mut w, &request(0, 1, 0, [0; 4], &[])));
    assert_eq!((reply.opts().msg_type(), reply.yiaddr()), (None, v4(15)));
}

#[test]
fn dns_off_hands_out_no_resolver() {
    let mut w = World::with(Network { dns: false, ..Network::default() }, &[]);
    let (offer, ..) = answer(&ask(&mut w, &request(1, 1, 0, [0; 4], &[])));
    assert!(offer.opts().get(OptionCode::DomainNameServer).is_none());
    assert!(offer.opts().get(OptionCode::DomainSearch).is_none());
}

#[test]
fn broken_messages_are_counted_and_harmless() {
    let mut w = World::new();
    let good = request(1, 1, 0, [0; 4], &[61, 3, 1, 2, 3, 55, 4, 1, 3, 6, 15]);
    for cut in 0..good.len() {
        ask(&mut w, &good[..cut]);
    }
    // Hardware address length beyond the field, a reply, another cookie, not Ethernet.
    for (at, byte) in [(2, 17), (2, 255), (2, 0), (0, 2), (236, 0), (1, 6)] {
        let mut m = good.clone();
        m[at] = byte;
        assert!(ask(&mut w, &m).is_empty(), "{at} {byte}");
    }
    // Options: overrunning, of length zero, no end.
    for options in [
        &[61, 255, 1][..],
        &[61, 0][..],
        &[50, 0][..],
        &[50, 3, 1, 2, 3][..],
        &[53, 0][..],
        &[82, 2, 1, 200][..],
    ] {
        let mut m = request(1, 1, 0, [0; 4], options);
        ask(&mut w, &m);
        m.pop();
        ask(&mut w, &m);
    }
    let mut long = good.clone();
    long.resize(2000, 0);
    assert!(ask(&mut w, &long).is_empty());
    assert!(w.dropped(DropReason::Malformed) >= 240);
    assert_eq!(w.held(), 0);
    // Only servers are asked: a guest's own answer is not a request.
    assert!(w.batch(&[udp_frame("10.0.2.100:67", "255.255.255.255:68", &good)]).is_empty());
}

fn information_request(kind: u8, options: &[u8]) -> Vec<u8> {
    [&[kind, 0xaa, 0xbb, 0xcc][..], options].concat()
}

#[test]
fn an_information_request_gets_dns_and_search_list() {
    let mut w = World::new();
    let client = [0, 1, 0, 4, 9, 9, 9, 9];
    let message = information_request(11, &[&client[..], &[0, 6, 0, 4, 0, 23, 0, 24]].concat());
    for to in ["[ff02::1:2]:547", "[fe80::2]:547"] {
        let done = w.frame(&udp_frame("[fe80::64]:546", to, &message));
        let (bytes, frame) = only(&done);
        assert_eq!(ends(&frame), (addr("fe80::2"), addr("fe80::64")));
        let Net::Ip(_, Payload::Udp(udp, range)) = frame.net else { panic!() };
        assert_eq!((udp.src_port, udp.dst_port), (547, 546));
        let m = v6::Message::decode(&mut Decoder::new(&bytes[range])).unwrap();
        assert_eq!((m.msg_type(), m.xid()), (v6::MessageType::Reply, [0xaa, 0xbb, 0xcc]));
        let o = m.opts();
        assert_eq!(o.get(v6::OptionCode::ClientId), Some(&v6::DhcpOption::ClientId(vec![9; 4])));
        assert!(o.get(v6::OptionCode::ServerId).is_some());
        let dns = v6::DhcpOption::DomainNameServers(vec!["fd00::3".parse().unwrap()]);
        assert_eq!(o.get(v6::OptionCode::DomainNameServers), Some(&dns));
        assert!(matches!(
            o.get(v6::OptionCode::DomainSearchList),
            Some(v6::DhcpOption::DomainSearchList(names)) if names.len() == 2
        ));
    }
    // Addresses are not ours to give; nor do we answer for another server.
    let solicit = information_request(1, &client);
    assert!(w.frame(&udp_frame("[fe80::64]:546", "[ff02::1:2]:547", &solicit)).is_empty());
    let other = information_request(11, &[0, 2, 0, 4, 1, 2, 3, 4]);
    assert!(w.frame(&udp_frame("[fe80::64]:546", "[ff02::1:2]:547", &other)).is_empty());
    assert_eq!(w.dropped(DropReason::Unsupported), 2);
    truncated(&mut w, &udp_frame("[fe80::64]:546", "[ff02::1:2]:547", &message));
}

#[test]
fn options_nested_as_deep_as_a_message_allows_do_no_harm() {
    let mut w = World::new();
    for len in [1392, 1488, 59_984] {
        // Identity associations within each other, each with its twelve bytes of header.
        let mut nested = Vec::new();
        while nested.len() + 16 <= len {
            let inner = (len - nested.len() - 4).min(65_000) as u16;
            nested.extend_from_slice(&[0, 3]);
            nested.extend_from_slice(&inner.to_be_bytes());
            nested.extend_from_slice(&[0; 12]);
        }
        let message = information_request(11, &nested);
        assert!(w.frame(&udp_frame("[fe80::64]:546", "[ff02::1:2]:547", &message)).is_empty());
    }
    // Two ask for addresses, one is longer than any client's message.
    assert_eq!((w.dropped(DropReason::Unsupported), w.dropped(DropReason::Malformed)), (2, 1));
    assert_eq!(w.held(), 0);
}
