//! Many resets at once: the connections that are silent are asked whether anybody still knows them.

use super::super::tuning::MASS_RESETS;
use super::*;

/// So many connections, by the guest's port less one.
fn crowd(w: &mut World, count: u16) -> Vec<Established> {
    (1..=count)
        .map(|port| {
            w.guest.set_port(port);
            w.establish()
        })
        .collect()
}

fn reset(w: &mut World, crowd: &[Established], port: u16) {
    w.guest.set_port(port);
    let rst = w.tcp(crowd[usize::from(port) - 1].guest, 0, Flags::RST);
    w.segment(&rst, 0);
    assert_eq!(closed(&w.flush()), Some(Close::Reset));
}

/// Lets time pass; the guest knows the connections of these ports only, and answers each question. Says which ports were
/// asked.
fn questions(w: &mut World, crowd: &[Established], alive: &[u16], d: Duration) -> Vec<u16> {
    let (end, mut asked) = (w.now + d, Vec::new());
    while let Some(at) = w.engine.next_deadline().filter(|at| *at <= end) {
        w.now = w.now.max(at);
        w.run(|e, cx| e.timeout(cx));
        let probes = segments(&w.actions());
        // The tap's queue, through which the answers come, may be 500 frames long.
        assert!(probes.len() <= 100, "{} at once", probes.len());
        for probe in probes {
            let port = probe.tcp.dst_port;
            let c = crowd[usize::from(port) - 1];
            assert_eq!((probe.tcp.seq, probe.tcp.flags, probe.len), (c.ours.wrapping_sub(1), Flags::ACK, 0));
            asked.push(port);
            w.guest.set_port(port);
            let answer = match alive.contains(&port) {
                true => w.tcp(c.guest, c.ours, Flags::ACK),
                false => w.tcp(probe.tcp.ack, 0, Flags::RST),
            };
            w.segment(&answer, 0);
        }
        w.flush();
    }
    w.now = end;
    asked.sort_unstable();
    asked
}

#[test]
fn many_resets_make_us_ask_the_silent_and_those_nobody_knows_end() {
    let mut w = World::new();
    let mut crowd = crowd(&mut w, 900);
    w.wait(Duration::from_secs(5));
    // A program with 890 of them is killed; the queue has room for 500 of its resets.
    for port in 1..=500 {
        reset(&mut w, &crowd, port);
    }
    let alive: Vec<u16> = (891..=900).collect();
    assert!(questions(&mut w, &crowd, &alive, Duration::from_millis(900)).is_empty());
    // Bytes are on their way to the last one: whether it is there will be known by that.
    w.receive(crowd[899].id, 10);
    w.flush();
    let asked = questions(&mut w, &crowd, &alive, Duration::from_millis(180));
    assert_eq!(asked, (501..=899).collect::<Vec<_>>(), "each once");
    assert_eq!(w.engine.len(), 10);
    crowd[899].ours = crowd[899].ours.wrapping_add(10);
    w.guest.set_port(900);
    let ack = w.tcp(crowd[899].guest, crowd[899].ours, Flags::ACK);
    w.segment(&ack, 0);
    w.flush();
    // The answers were as many resets again, of which some may be lost: once more, and then there is peace.
    assert!(questions(&mut w, &crowd, &alive, Duration::from_secs(9)).is_empty());
    assert_eq!(questions(&mut w, &crowd, &alive, Duration::from_secs(2)), alive);
    assert_eq!(w.engine.len(), 10);
    let rest = w.engine.next_deadline().unwrap().since(w.now);
    assert!(rest > Duration::from_secs(200), "{rest:?}");
}

#[test]
fn few_resets_say_nothing_about_others() {
    let mut w = World::new();
    let crowd = crowd(&mut w, 900);
    let mut ports = 1..=800;
    // Just below, second after second.
    for _ in 0..6 {
        for port in ports.by_ref().take(MASS_RESETS as usize - 1) {
            reset(&mut w, &crowd, port);
        }
        assert_eq!(w.wait(Duration::from_secs(1)), []);
    }
    assert_eq!(w.wait(Duration::from_secs(60)), []);
}
