//! Datagrams going out, until the host has taken them.
//!
//! A send may fail for a reason that has nothing to do with it: an ICMP error for an earlier datagram is delivered by
//! the next operation on the socket. And a segmented send may be refused where single ones would pass (`EMSGSIZE`
//! when a segment exceeds the path's MTU, `EIO` when the device cannot segment). So what is sent is kept, with a
//! reference on its buffers, until its completion says what to do: nothing, once more, or one by one.

use crate::buf::join;
use crate::flow::FlowId;
use crate::stack::Datagrams;
use slab::Slab;

/// A send in flight.
#[derive(Debug)]
pub struct Pending {
    /// Whose.
    pub flow: FlowId,
    /// What.
    pub data: Datagrams,
    /// It failed once because of somebody else's error, and was sent again.
    pub retried: bool,
}

/// All sends in flight.
#[derive(Debug, Default)]
pub struct Outbox {
    sends: Slab<Pending>,
}

impl Outbox {
    /// Keeps a send and names it.
    pub fn insert(&mut self, pending: Pending) -> u32 {
        u32::try_from(self.sends.insert(pending)).expect("fewer sends than operations of the ring")
    }

    /// The send named `key`.
    pub fn get(&self, key: u32) -> Option<&Pending> {
        self.sends.get(key as usize)
    }

    /// Takes the send out.
    pub fn take(&mut self, key: u32) -> Option<Pending> {
        self.sends.try_remove(key as usize)
    }
}

/// Cuts a segmented send into its datagrams.
pub fn singles(data: &Datagrams) -> Vec<Datagrams> {
    let Some(size) = data.segment else { return vec![data.clone()] };
    let parts = join::singles(&data.spans, size);
    parts.into_iter().map(|spans| Datagrams { spans, segment: None, ..data.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{BufId, Class, Span};
    use smallvec::smallvec;

    #[test]
    fn a_segmented_send_falls_apart_into_its_datagrams() {
        let (a, b) = (BufId::new(Class::Small, 1), BufId::new(Class::Small, 2));
        let data = Datagrams {
            to: "192.0.2.1:9".parse().unwrap(),
            head: Default::default(),
            spans: smallvec![Span::new(a, 0, 150), Span::new(b, 10, 80)],
            segment: Some(100),
            ttl: 63,
            tos: 0,
            dont_fragment: false,
        };
        let parts = singles(&data);
        let spans: Vec<Vec<Span>> = parts.iter().map(|d| d.spans.to_vec()).collect();
        assert_eq!(
            spans,
            [
                vec![Span::new(a, 0, 100)],
                vec![Span::new(a, 100, 50), Span::new(b, 10, 50)],
                vec![Span::new(b, 60, 30)]
            ]
        );
        assert!(parts.iter().all(|d| d.segment.is_none() && d.ttl == 63));
    }
}
