//! Many small requests and answers of every size, on many connections at once.

use crate::common::{SERVER, World};
use ringtap::lab::Server;
use ringtap::lab::impair::Dice;
use ringtap::lab::serve::fill_pattern;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PORT: u16 = 9300;
const CONNECTIONS: u64 = 64;
const EXCHANGES: usize = 150;
const LONGEST: u64 = 4000;

/// One direction of a conversation: the bytes of all its messages in a row are the pattern.
struct Way {
    offset: u64,
    bytes: Vec<u8>,
}

impl Way {
    fn new(offset: u64) -> Self {
        Self { offset, bytes: Vec::new() }
    }

    fn next(&mut self, length: u32) {
        self.bytes.resize(length as usize, 0);
        fill_pattern(self.offset, &mut self.bytes);
        self.offset += u64::from(length);
    }

    /// A message: its length, the length of the answer, the bytes.
    fn send(&mut self, to: &mut TcpStream, length: u32, answer: u32) -> io::Result<()> {
        self.next(length);
        let message = [&length.to_be_bytes()[..], &answer.to_be_bytes(), &self.bytes].concat();
        to.write_all(&message)
    }

    /// The length that the sender of a message wants in return.
    fn receive(&mut self, from: &mut TcpStream) -> io::Result<u32> {
        let mut head = [0; 8];
        from.read_exact(&mut head)?;
        let [length, answer] = [0, 4].map(|at| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()));
        if u64::from(length) > LONGEST {
            return Err(io::Error::other(format!("a length of {length}")));
        }
        let mut got = vec![0; length as usize];
        from.read_exact(&mut got)?;
        self.next(length);
        if got == self.bytes { Ok(answer) } else { Err(io::Error::other("a message is broken")) }
    }
}

fn converse(mut stream: TcpStream, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut size = || u32::try_from(1 + ((dice.roll() % LONGEST) >> (dice.roll() % 12))).unwrap();
    let (mut there, mut back) = (Way::new(0), Way::new(1 << 40));
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for n in 0..EXCHANGES {
        // Every third time two at once, so that messages meet on the way.
        let together = 1 + usize::from(n % 3 == 0);
        let wanted: Vec<u32> = (0..together).map(|_| size()).collect();
        for answer in &wanted {
            there.send(&mut stream, size(), *answer).unwrap();
        }
        for answer in wanted {
            back.receive(&mut stream).unwrap();
            assert_eq!(back.bytes.len(), answer as usize);
        }
    }
}

#[test]
fn requests_and_answers_of_every_size_on_many_connections() {
    let world = World::new();
    let guest = world.guest();
    let _servers = SERVER.map(|at| {
        let listener = world.lab.internet().tcp_listener((at, PORT)).unwrap();
        Server::tcp(listener, |mut stream, _| {
            let (mut there, mut back) = (Way::new(0), Way::new(1 << 40));
            loop {
                let answer = there.receive(&mut stream)?;
                back.send(&mut stream, answer, 0)?;
            }
        })
        .unwrap()
    });
    let guest = &guest;
    std::thread::scope(|scope| {
        for n in 0..CONNECTIONS {
            let at = (SERVER[usize::from(n % 2 == 1)], PORT);
            scope.spawn(move || converse(guest.place().tcp_connect(at).unwrap(), n));
        }
    });
}
