//! Initial sequence numbers after RFC 6528: a 4 microsecond clock plus a keyed hash of the four-tuple.
//!
//! The guest cannot tell the number of one connection from those of others, and numbers of one four-tuple rise with
//! time, which is what makes the reuse of a tuple in TIME_WAIT safe.

use super::key::Key;
use super::seq::Seq;
use crate::flow::Time;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

/// The generator; holds the secret of the process.
pub struct Isn {
    keyed: SipHasher13,
}

impl Isn {
    /// A generator under `secret`.
    pub fn new(secret: &[u8; 16]) -> Self {
        Self { keyed: SipHasher13::new_with_key(secret) }
    }

    /// The number for a connection of this tuple that starts now.
    pub fn next(&self, now: Time, key: &Key) -> Seq {
        let mut h = self.keyed;
        for addr in [key.guest, key.remote] {
            write_addr(&mut h, addr);
        }
        let clock = now.as_nanos() / 4_000;
        Seq((h.finish() as u32).wrapping_add(clock as u32))
    }
}

fn write_addr(h: &mut SipHasher13, addr: SocketAddr) {
    match addr.ip() {
        IpAddr::V4(a) => h.write(&a.octets()),
        IpAddr::V6(a) => h.write(&a.octets()),
    }
    h.write_u16(addr.port());
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::key;
    use super::*;

    #[test]
    fn numbers_rise_with_time_and_hide_behind_the_secret() {
        let isn = Isn::new(&[1; 16]);
        let a = isn.next(Time::ZERO, &key(1));
        assert_eq!(isn.next(Time::from_millis(4), &key(1)), a + 1000);
        assert_ne!(isn.next(Time::ZERO, &key(2)), a);
        assert_ne!(Isn::new(&[2; 16]).next(Time::ZERO, &key(1)), a);
    }
}
