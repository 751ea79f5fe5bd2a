//! How much is received from the host for guests that read, and for those that do not.

use super::*;
use crate::buf::{HOST_SLOT, SMALL_MAX};
use crate::stack::tcp::TcpLimits;

/// How the connection is to receive, if these actions say so.
fn told(actions: &[Action], c: Established) -> Option<Intake> {
    let mut said = actions.iter().filter_map(|a| match a {
        Action::Receive(id, intake) if *id == c.id => Some(*intake),
        _ => None,
    });
    said.next_back()
}

/// An acknowledgement of the first `n` bytes with this window (in units of 128 bytes), and what follows from it.
fn ack(w: &mut World, c: Established, n: usize, window: u16) -> Vec<Action> {
    let mut t = w.tcp(c.guest, c.ours.wrapping_add(n as u32), Flags::ACK);
    t.window = window;
    w.segment(&t, 0);
    w.flush()
}

/// Connections whose guests do not read, until what they may hold is less than a buffer. The last one holds nothing.
fn stalled(w: &mut World) -> Vec<(Established, usize)> {
    let mut all = Vec::new();
    for port in 0..100 {
        w.guest.set_port(50_000 + port);
        let c = w.establish();
        let mut got = 0;
        let mut on = told(&ack(w, c, 0, 0), c).is_none();
        while on {
            w.receive(c.id, 65536);
            got += 65536;
            on = told(&w.flush(), c).is_none();
            assert!(got <= 2 << 20);
        }
        all.push((c, got));
        if got == 0 {
            return all;
        }
    }
    panic!("a hundred hold {:?}", w.engine.pool.sending);
}

#[test]
fn the_host_is_not_read_faster_than_the_guest_takes_it() {
    let mut w = World::new();
    let c = w.establish();
    ack(&mut w, c, 0, 0);
    let mut got = 0;
    let stopped = loop {
        w.receive(c.id, 65536);
        got += 65536;
        if w.flush().contains(&Action::Receive(c.id, Intake::Off)) {
            break got;
        }
        assert!(got < 4 << 20);
    };
    assert!(stopped <= 2 << 20);
    ack(&mut w, c, 0, 65535);
    assert!(!ack(&mut w, c, 65536, 65535).contains(&Action::Receive(c.id, Intake::On)));
    assert!(ack(&mut w, c, stopped, 65535).contains(&Action::Receive(c.id, Intake::On)));
    assert!(w.live.is_empty());
}

#[test]
fn guests_that_do_not_read_hold_less_and_less_and_then_nothing() {
    let mut w = World::new();
    let mark = w.engine.limits().send_memory;
    let all = stalled(&mut w);
    assert!(all.windows(2).all(|pair| pair[1].1 <= pair[0].1), "{all:?}");
    assert!(all.len() > 10 && all[0].1 >= 1 << 20, "{all:?}");
    let held = w.engine.pool.sending.memory;
    assert!(held <= mark, "{held} of {mark}");
    // Whoever comes next has no share, and none of the rest.
    w.guest.set_port(60_000);
    let c = w.establish();
    assert!(matches!(told(&ack(&mut w, c, 0, 0), c), Some(Intake::Off)));
}

#[test]
fn buffers_count_whole_however_little_is_in_them() {
    let mut w = World::new();
    let c = w.establish();
    ack(&mut w, c, 0, 0);
    let mut held = 0;
    while told(&w.flush(), c).is_none() {
        w.receive(c.id, 5000);
        held += 1;
        assert!(held <= 100);
    }
    assert_eq!(w.engine.pool.sending.memory, held * HOST_SLOT);
}

#[test]
fn who_reads_goes_on_in_pieces_that_its_window_has_room_for() {
    let mut w = World::new();
    let all = stalled(&mut w);
    w.guest.set_port(60_000);
    let c = w.establish();
    // A window of 3000 bytes, and one segment is 1460.
    assert_eq!(told(&ack(&mut w, c, 0, 3000 / 128), c), None, "a piece was asked for before");
    w.receive(c.id, 1000);
    let next = w.flush();
    assert_eq!(only(&next).len, 1000);
    assert_eq!(told(&next, c), Some(Intake::Piece((3000 / 128 * 128 - 1000) as u32)));
    w.receive(c.id, 1900);
    // No room for a segment is left, and nothing is asked for.
    assert_eq!(told(&w.flush(), c), Some(Intake::Off));
    let more = ack(&mut w, c, 2900, 65535);
    assert_eq!(told(&more, c), Some(Intake::Piece(SMALL_MAX as u32)));
    // The others read after all: as ever.
    for (other, got) in &all {
        let port = other_port(&w, *other);
        w.guest.set_port(port);
        for n in (0..=*got).step_by(65536) {
            ack(&mut w, *other, n, 65535);
        }
    }
    w.guest.set_port(60_000);
    w.receive(c.id, 100);
    assert_eq!(told(&w.flush(), c), Some(Intake::On));
}

fn other_port(w: &World, c: Established) -> u16 {
    w.engine.flow(c.id).map_or(0, |f| f.guest.port())
}

#[test]
fn a_closed_window_is_asked_about_though_nothing_waits_here() {
    let mut w = World::new();
    stalled(&mut w);
    w.guest.set_port(60_000);
    let c = w.establish();
    assert_eq!(told(&ack(&mut w, c, 0, 0), c), Some(Intake::Off));
    let probes = |actions: Vec<Action>| {
        let own = |s: &Seg| s.tcp.dst_port == 60_000 && s.tcp.seq == c.ours.wrapping_sub(1) && s.len == 0;
        segments(&actions).iter().filter(|s| own(s)).count()
    };
    let asked = probes(w.wait(Duration::from_secs(60)));
    assert!((5..20).contains(&asked), "{asked} times");
    // The answer says that there is room.
    assert_eq!(told(&ack(&mut w, c, 0, 100), c), Some(Intake::Piece(SMALL_MAX as u32)));
}

#[test]
fn who_found_no_buffer_goes_on_in_pieces_and_then_as_before() {
    let mut w = World::new();
    let c = w.establish();
    w.host(c.id, HostEvent::NoBuffer);
    assert_eq!(told(&w.flush(), c), Some(Intake::Piece(SMALL_MAX as u32)));
    w.receive(c.id, 500);
    assert_eq!(told(&w.flush(), c), Some(Intake::On));
    // There are still none.
    w.host(c.id, HostEvent::NoBuffer);
    assert_eq!(told(&w.flush(), c), Some(Intake::Piece(SMALL_MAX as u32)));
    w.host(c.id, HostEvent::Eof);
    assert_eq!(told(&w.flush(), c), None);
}

#[test]
fn who_chatters_to_programs_that_do_not_read_leaves_small_buffers() {
    let mut w = World::new();
    // Uploads that stall may hold the others.
    let most = 100;
    w.engine.set_limits(TcpLimits { small_slots: most, ..w.engine.limits().clone() });
    let mut stopped = 0;
    for port in 0..200 {
        w.guest.set_port(10_000 + port);
        let c = w.establish();
        let mut off = told(&ack(&mut w, c, 0, 0), c) == Some(Intake::Off);
        // Messages of which no two fit one buffer.
        for _ in 0..4 {
            if off {
                break;
            }
            w.receive(c.id, 3000);
            off = told(&w.flush(), c) == Some(Intake::Off);
        }
        stopped += u32::from(off);
        assert!(w.engine.pool.sending.small <= most, "{:?}", w.engine.pool.sending);
    }
    assert!((150..200).contains(&stopped), "{stopped}");
    // A reader goes on, and what it gets goes back.
    w.guest.set_port(60_000);
    let c = w.establish();
    for n in 0..100 {
        w.receive(c.id, 3000);
        assert_ne!(told(&w.flush(), c), Some(Intake::Off));
        ack(&mut w, c, (n + 1) * 3000, 65535);
    }
}
