//! The guest: smoltcp as an independent TCP, with an application on each connection that sends a known stream, reads
//! at its own pace, and ends in one of several ways.

use crate::rng::{Rng, byte};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use std::collections::VecDeque;
use std::net::IpAddr;

/// An application gives up after so many milliseconds without progress.
const PATIENCE: u64 = 3_600_000;

/// Frames in memory, both ways.
pub struct Queues {
    /// To the guest.
    pub rx: VecDeque<Vec<u8>>,
    /// From the guest.
    pub tx: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Device for Queues {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        Some((Rx(self.rx.pop_front()?), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        caps.checksum = ChecksumCapabilities::default();
        caps
    }
}

/// A received frame.
pub struct Rx(Vec<u8>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame to send.
pub struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let r = f(&mut frame);
        self.0.push_back(frame);
        r
    }
}

/// How the application ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Sends everything, closes, reads to the end.
    CloseAfterSending,
    /// Reads to the end of the peer's stream first, then closes.
    CloseAfterReading,
    /// Resets somewhere in between.
    Abort(u64),
    /// Is never heard of again from some point on.
    Vanish(u64),
}

/// One connection of the guest's application.
#[derive(Debug)]
pub struct App {
    /// Which stream it sends (even) and reads (odd).
    pub stream: u64,
    /// Bytes it sends.
    pub to_send: u64,
    /// How it ends.
    pub end: End,
    /// It pauses this often (per mille of its turns), for so many milliseconds at most.
    pub pause: (u64, u64),
    /// When it dials, in milliseconds.
    pub starts: u64,
    /// Bytes sent so far.
    pub sent: u64,
    /// Bytes read and found right.
    pub read: u64,
    /// It reads again at this time (ms).
    pub resumes: u64,
    /// When it last got anywhere (ms).
    pub moved: u64,
    /// When its kernel last sent payload (ms), other than what [`Guest::spoke`] leaves out.
    pub spoke: u64,
    /// It ended with bytes in its kernel that nobody acknowledged, after ten minutes without payload from there: a fault
    /// of smoltcp 0.14, once in some thousand runs. Either it has forgotten its retransmission timer. Or it is in LAST-ACK,
    /// where it challenges an acknowledgement of nothing new without a look at the window: it never learns that its window
    /// is open again, and its probe, behind bytes that were lost, can never be acknowledged.
    pub mute: bool,
    /// Number of the last payload byte sent first.
    last_seq: u32,
    /// Acknowledgement and window of the last segment that came.
    told: (u32, u16),
    /// It waits for a caller rather than dial.
    pub listens: bool,
    /// The connection of its caller is over, or never stood.
    pub hung_up: bool,
    /// The peer's stream ended in order.
    pub eof: bool,
    /// It is through.
    pub done: bool,
    handle: Option<SocketHandle>,
    closed: bool,
    buffers: (usize, usize),
    port: u16,
}

impl App {
    /// The connection is over, or given up, with so many bytes left in the kernel.
    fn end_at(&mut self, now: u64, left: usize) {
        self.done = true;
        let unsent = self.sent < self.to_send || left > 0;
        self.mute = unsent && now >= self.spoke.max(self.moved) + 600_000;
    }
}

/// The guest's kernel and applications.
pub struct Guest {
    /// Its link.
    pub link: Queues,
    /// Its applications.
    pub apps: Vec<App>,
    iface: Interface,
    sockets: SocketSet<'static>,
    remote: IpAddr,
}

impl Guest {
    /// A guest at `addr` whose applications dial `remote`.
    pub fn new(seed: u64, mtu: usize, addr: IpAddr, gateway: IpAddr, remote: IpAddr) -> Self {
        let mut link = Queues { rx: VecDeque::new(), tx: VecDeque::new(), mtu };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 1])));
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut link, Instant::ZERO);
        let prefix = if addr.is_ipv4() { 24 } else { 64 };
        iface.update_ip_addrs(|a| a.push(IpCidr::new(IpAddress::from(addr), prefix)).expect("room"));
        match gateway {
            IpAddr::V4(a) => iface.routes_mut().add_default_ipv4_route(a).map(|_| ()),
            IpAddr::V6(a) => iface.routes_mut().add_default_ipv6_route(a).map(|_| ()),
        }
        .expect("room");
        Self { link, apps: Vec::new(), iface, sockets: SocketSet::new(Vec::new()), remote }
    }

    /// Adds an application.
    pub fn add(&mut self, rng: &mut Rng, stream: u64, to_send: u64, end: End) {
        let size = |rng: &mut Rng| rng.pick(&[600usize, 3_000, 16_384, 65_535, 300_000]);
        self.apps.push(App {
            stream,
            to_send,
            end,
            pause: (rng.pick(&[0, 0, 20, 200]), rng.range(1, 400)),
            starts: rng.range(0, 200),
            sent: 0,
            read: 0,
            resumes: 0,
            moved: 0,
            spoke: 0,
            mute: false,
            last_seq: 0,
            told: (0, 0),
            listens: false,
            hung_up: false,
            eof: false,
            done: false,
            handle: None,
            closed: false,
            buffers: (size(rng), size(rng)),
            port: 40_000 + stream as u16,
        });
    }

    /// Lets the kernel and the applications act.
    pub fn turn(&mut self, now_ms: u64, rng: &mut Rng) {
        let now = Instant::from_millis(now_ms as i64);
        for _ in 0..64 {
            let moved = self.iface.poll(now, &mut self.link, &mut self.sockets);
            let mut acted = false;
            for i in 0..self.apps.len() {
                acted |= self.app(i, now_ms, rng);
            }
            if moved == PollResult::None && !acted {
                break;
            }
        }
    }

    /// When to take the next turn though nothing arrives, in milliseconds.
    pub fn next_turn(&mut self, now_ms: u64) -> Option<u64> {
        let kernel = self
            .iface
            .poll_at(Instant::from_millis(now_ms as i64), &self.sockets)
            .map(|at| (at.total_millis() as u64).max(now_ms + 1));
        let apps = self
            .apps
            .iter()
            .filter(|a| !a.done)
            .flat_map(|a| {
                let pause = (a.resumes > now_ms).then_some(a.resumes);
                [a.handle.is_none().then_some(a.starts), pause, Some(a.moved.max(a.spoke) + PATIENCE)]
            })
            .flatten()
            .min();
        [kernel, apps].into_iter().flatten().min().map(|at| at.max(now_ms + 1))
    }

    /// Payload of this port went out. What does not count: the same byte again, behind others that are not acknowledged, by
    /// a guest that was told of an open window. It probes a window that it believes closed.
    pub fn spoke(&mut self, port: u16, seq: u32, len: usize, now_ms: u64) {
        if let Some(app) = self.apps.iter_mut().find(|a| a.port == port) {
            let (acked, window) = app.told;
            let behind = (seq.wrapping_sub(acked) as i32) > 0;
            let deaf = len == 1 && seq == app.last_seq && behind && window > 0;
            app.last_seq = seq;
            if !deaf {
                app.spoke = now_ms;
            }
        }
    }

    /// An acknowledgement for this port came.
    pub fn told(&mut self, port: u16, acked: u32, window: u16) {
        if let Some(app) = self.apps.iter_mut().find(|a| a.port == port) {
            app.told = (acked, window);
        }
    }

    /// The caller of this port is gone.
    pub fn hang_up(&mut self, port: u16) {
        if let Some(app) = self.apps.iter_mut().find(|a| a.port == port) {
            app.hung_up = true;
        }
    }

    /// Applications that are not through.
    pub fn busy(&self) -> usize {
        self.apps.iter().filter(|a| !a.done).count()
    }

    /// True when frames of this port disappear: its owner has vanished.
    pub fn vanished(&self, port: u16) -> bool {
        self.apps.iter().any(|a| a.port == port && a.done && matches!(a.end, End::Vanish(_)))
    }

    fn app(&mut self, i: usize, now: u64, rng: &mut Rng) -> bool {
        let a = &mut self.apps[i];
        if a.done || now < a.starts || now < a.resumes {
            return false;
        }
        let Some(handle) = a.handle else {
            let (rx, tx) = a.buffers;
            let mut socket = Socket::new(SocketBuffer::new(vec![0; rx]), SocketBuffer::new(vec![0; tx]));
            socket.set_nagle_enabled(a.stream.is_multiple_of(4));
            match a.listens {
                true => socket.listen(a.port).expect("a closed socket"),
                false => {
                    socket.connect(self.iface.context(), (self.remote, 80), a.port).expect("a free port");
                }
            }
            a.handle = Some(self.sockets.add(socket));
            return true;
        };
        let socket = self.sockets.get_mut::<Socket>(handle);
        if rng.per_mille(a.pause.0) {
            a.resumes = now + rng.range(1, a.pause.1);
            return true;
        }
        if matches!(socket.state(), State::SynSent | State::SynReceived | State::Listen) {
            a.moved = now;
            // Nobody has come, or a reset has taken him away again.
            let over = socket.state() == State::Listen && a.hung_up;
            if over {
                a.done = true;
                socket.abort();
            }
            return over;
        }
        let mut acted = read(a, socket);
        acted |= write(a, socket, rng);
        if acted {
            a.moved = now;
        } else if now >= a.moved.max(a.spoke) + PATIENCE {
            // A reset may be lost like anything else, and a reader would wait for ever. A connection that nobody broke
            // must not come here: it will be found incomplete.
            a.end_at(now, socket.send_queue());
            socket.abort();
            return true;
        }
        match a.end {
            End::Abort(at) if a.sent + a.read >= at => {
                socket.abort();
                a.done = true;
                return true;
            }
            End::Vanish(at) if a.sent + a.read >= at => {
                self.sockets.remove(handle);
                a.done = true;
                return true;
            }
            End::CloseAfterSending if a.sent == a.to_send && !a.closed => {
                socket.close();
                a.closed = true;
                acted = true;
            }
            End::CloseAfterReading if a.sent == a.to_send && a.eof && !a.closed => {
                socket.close();
                a.closed = true;
                acted = true;
            }
            _ => {}
        }
        if matches!(socket.state(), State::Closed | State::TimeWait) {
            a.end_at(now, socket.send_queue());
            return true;
        }
        acted
    }
}

fn read(a: &mut App, socket: &mut Socket<'_>) -> bool {
    let mut acted = false;
    while socket.can_recv() {
        let n = socket
            .recv(|bytes| {
                for (i, b) in bytes.iter().enumerate() {
                    let at = a.read + i as u64;
                    assert_eq!(
                        *b,
                        byte(a.stream + 1, at),
                        "stream {}: byte {at} towards the guest",
                        a.stream
                    );
                }
                (bytes.len(), bytes.len())
            })
            .expect("can_recv");
        a.read += n as u64;
        acted = true;
    }
    let at_end =
        matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
    if at_end && !a.eof {
        a.eof = true;
        acted = true;
    }
    acted
}

fn write(a: &mut App, socket: &mut Socket<'_>, rng: &mut Rng) -> bool {
    if !socket.can_send() || a.sent == a.to_send {
        return false;
    }
    let most = rng.pick(&[1u64, 100, 5_000, 100_000]).min(a.to_send - a.sent) as usize;
    let n = socket
        .send(|room| {
            let n = room.len().min(most);
            for (i, b) in room[..n].iter_mut().enumerate() {
                *b = byte(a.stream, a.sent + i as u64);
            }
            (n, n)
        })
        .expect("can_send");
    a.sent += n as u64;
    n > 0
}
