//! How connections end: in order, half first, both at once, by force, by being forgotten.

use super::*;

#[test]
fn bytes_go_both_ways_and_both_sides_close_in_turn() {
    let mut w = World::new();
    let c = w.establish();
    let mut data = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::PSH));
    w.segment(&data, 3000);
    let actions = w.flush();
    assert_eq!(sent(&actions), 3000);
    assert_eq!(only(&actions).tcp.ack, c.guest.wrapping_add(3000));
    w.host(c.id, HostEvent::Sent(3000));
    assert_eq!(w.flush(), []);
    assert!(w.live.is_empty(), "an idle flow holds no buffers");

    w.receive(c.id, 200_000);
    let frames = segments(&w.flush());
    assert_eq!(frames.iter().map(|f| f.len).sum::<usize>(), 200_000);
    assert!(frames.iter().all(|f| f.gso == Gso::Tcp { mss: 1460 }));
    assert!(frames[..3].iter().all(|f| f.len == 65535 / 1460 * 1460 && !f.is(Flags::PSH)));
    assert!(frames[3].is(Flags::PSH));
    data.seq = c.guest.wrapping_add(3000);
    data.ack = c.ours.wrapping_add(200_000);
    w.segment(&data, 0);
    assert_eq!(w.flush(), []);
    assert!(w.live.is_empty());

    // The guest ends first.
    let fin = w.tcp(data.seq, data.ack, Flags::FIN.with(Flags::ACK));
    w.segment(&fin, 0);
    let actions = w.flush();
    assert!(actions.contains(&Action::ShutdownWrite(c.id)));
    assert_eq!(only(&actions).tcp.ack, fin.seq.wrapping_add(1));
    w.host(c.id, HostEvent::Eof);
    let actions = w.flush();
    assert_eq!(closed(&actions), Some(Close::Orderly));
    let ours = only(&actions);
    assert!(ours.is(Flags::FIN));
    let ack = w.tcp(fin.seq.wrapping_add(1), ours.tcp.seq.wrapping_add(1), Flags::ACK);
    w.segment(&ack, 0);
    assert_eq!(w.flush(), []);
    w.assert_empty();
}
