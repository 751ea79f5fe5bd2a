//! Generational table: `slab` with a generation per slot and the kind of flow in the key.
//!
//! A key that outlived its entry (a late completion, a timer that was not cancelled) finds nothing. Generations are 22
//! bits and wrap after four million uses of one slot; a slot is reused last-in first-out, so a stale key would have to
//! survive that many opens of the same slot to be mistaken.

use slab::Slab;
use std::fmt;
use std::str::FromStr;

/// Which engine of the stack, or which relay, a flow belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A TCP connection of the guest.
    Tcp = 0,
    /// A UDP mapping: one guest address and port, any remote.
    Udp = 1,
    /// An echo mapping: one guest address and identifier.
    Ping = 2,
    /// A DNS exchange with the host's resolvers.
    Dns = 3,
    /// A client's datagrams to a published port, through the tap.
    Inbound = 4,
    /// A relayed connection of a published port.
    Relay = 5,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Tcp, Self::Udp, Self::Ping, Self::Dns, Self::Inbound, Self::Relay];
}

/// Names a flow for as long as the flow lives, and nothing afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

impl FlowId {
    const GEN_MASK: u32 = (1 << 22) - 1;

    fn new(kind: Kind, generation: u32, index: u32) -> Self {
        Self(
            (u64::from(kind as u8) << 54) | (u64::from(generation & Self::GEN_MASK) << 32) | u64::from(index),
        )
    }

    /// The engine this flow belongs to.
    pub const fn kind(self) -> Kind {
        match self.0 >> 54 {
            0 => Kind::Tcp,
            1 => Kind::Udp,
            2 => Kind::Ping,
            3 => Kind::Dns,
            4 => Kind::Inbound,
            _ => Kind::Relay,
        }
    }

    /// The slot number, dense from zero: good for indexing a side table.
    pub const fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & Self::GEN_MASK
    }

    /// The id as one number of at most 57 bits, for logs and queries.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl FromStr for FlowId {
    type Err = ();

    /// Reads what [`fmt::Debug`] writes, in letters of either size.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, place) = text.split_once(':').ok_or(())?;
        let kind = Kind::ALL.into_iter().find(|k| format!("{k:?}").eq_ignore_ascii_case(kind)).ok_or(())?;
        let (index, generation) = place.split_once('.').ok_or(())?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| ());
        Some((number(index)?, number(generation)?))
            .filter(|(_, generation)| *generation <= Self::GEN_MASK)
            .map(|(index, generation)| Self::new(kind, generation, index))
            .ok_or(())
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}.{}", self.kind(), self.index(), self.generation())
    }
}

/// Entries of one kind of flow, found by [`FlowId`] in constant time.
pub struct Table<T> {
    kind: Kind,
    slots: Slab<(u32, T)>,
    /// Generation that the next entry of each slot will get.
    generations: Vec<u32>,
}

impl<T> Table<T> {
    /// An empty table whose keys say `kind`.
    pub fn new(kind: Kind) -> Self {
        Self { kind, slots: Slab::new(), generations: Vec::new() }
    }

    /// Stores `value` and names it.
    pub fn insert(&mut self, value: T) -> FlowId {
        self.insert_with(|_| value)
    }

    /// Stores what `make` builds, which is told its own name.
    pub fn insert_with(&mut self, make: impl FnOnce(FlowId) -> T) -> FlowId {
        let entry = self.slots.vacant_entry();
        let index = entry.key();
        if index >= self.generations.len() {
            self.generations.resize(index + 1, 0);
        }
        let generation = self.generations[index];
        let id = FlowId::new(self.kind, generation, u32::try_from(index).expect("fewer than 2^32 flows"));
        entry.insert((generation, make(id)));
        id
    }

    /// The entry, if it is still the one that `id` named.
    pub fn get(&self, id: FlowId) -> Option<&T> {
        match self.slots.get(id.index()) {
            Some((generation, value)) if *generation == id.generation() && id.kind() == self.kind => {
                Some(value)
            }
            _ => None,
        }
    }

    /// The entry, to change.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut T> {
        let kind = self.kind;
        match self.slots.get_mut(id.index()) {
            Some((generation, value)) if *generation == id.generation() && id.kind() == kind => Some(value),
            _ => None,
        }
    }

    /// Takes the entry out; its name is dead from now on.
    pub fn remove(&mut self, id: FlowId) -> Option<T> {
        self.get(id)?;
        let (generation, value) = self.slots.remove(id.index());
        self.generations[id.index()] = (generation + 1) & FlowId::GEN_MASK;
        Some(value)
    }

    /// The name of the entry in slot `index` ([`FlowId::index`]), if there is one: for going through a table bit by bit.
    pub fn name_at(&self, index: usize) -> Option<FlowId> {
        let (generation, _) = self.slots.get(index)?;
        Some(FlowId::new(self.kind, *generation, u32::try_from(index).ok()?))
    }

    /// Slots that have ever been used: every live entry's index is below.
    pub fn slots(&self) -> usize {
        self.generations.len()
    }

    /// Live entries in slots from `index` on, in slot order. Getting to the first costs nothing: for pages.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = (FlowId, &T)> {
        (index..self.slots()).filter_map(|index| {
            let (_, value) = self.slots.get(index)?;
            Some((self.name_at(index)?, value))
        })
    }

    /// Number of live entries.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when no entry is alive.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All live entries with their names, in slot order. For queries, never for the hot path.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &T)> {
        let kind = self.kind;
        self.slots.iter().map(move |(index, (generation, value))| {
            (FlowId::new(kind, *generation, u32::try_from(index).expect("fewer than 2^32 flows")), value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut t = Table::new(Kind::Tcp);
        let a = t.insert("a");
        assert_eq!(t.remove(a), Some("a"));
        let b = t.insert("b");
        assert_eq!(a.index(), b.index());
        assert_ne!(a, b);
        assert_eq!((t.get(a), t.get(b)), (None, Some(&"b")));
        assert_eq!((t.slots(), t.name_at(0), t.name_at(1)), (1, Some(b), None));
        assert_eq!(t.remove(a), None);
        assert_eq!(t.len(), 1);
    }

    #[test]
    fn a_page_begins_where_it_is_told_and_a_name_is_read_as_it_is_written() {
        let mut t = Table::new(Kind::Ping);
        let ids: Vec<_> = (0..5).map(|n| t.insert(n)).collect();
        t.remove(ids[3]);
        assert_eq!(t.iter_from(2).collect::<Vec<_>>(), [(ids[2], &2), (ids[4], &4)]);
        assert_eq!(t.iter_from(9).count(), 0);
        t.remove(ids[4]);
        let again = t.insert(9);
        for id in [ids[0], ids[4], again] {
            assert_eq!(format!("{id:?}").parse(), Ok(id));
            assert_eq!(format!("{id:?}").to_lowercase().parse(), Ok(id));
        }
        for bad in
            ["", "ping", "ping:", "ping:1", "ping:1.", "ping:x.1", "pong:1.1", "ping:1.4194304", "ping:-1.0"]
        {
            assert!(bad.parse::<FlowId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_of_another_kind_finds_nothing() {
        let mut tcp = Table::new(Kind::Tcp);
        let mut udp = Table::new(Kind::Udp);
        let t = tcp.insert(1);
        let u = udp.insert(2);
        assert_eq!(t.index(), u.index());
        assert_eq!((tcp.get(u), udp.get_mut(t)), (None, None));
        assert_eq!((t.kind(), u.kind()), (Kind::Tcp, Kind::Udp));
    }
}
