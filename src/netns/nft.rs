//! The few nf_tables messages that [`super::steer`] needs: one small table a family, replaced as a whole.
//!
//! nf_tables takes its changes in transactions: messages between a batch begin and a batch end, all in one packet, of
//! which either all or none take effect (`nfnetlink_rcv_batch`, net/netfilter/nfnetlink.c). A table is therefore made,
//! deleted and made again in one batch: a first run, a second run, and a run over whatever an older version left behind
//! come to the same, and no packet ever meets half of it.
//!
//! Rules are lists of expressions of the kernel's small register machine; [`Expr`] has those few that compare and set
//! marks. The encoding is that of linux/netfilter/nf_tables.h, byte for byte what `nft` sends for the same rules.
//!
//! Limits: one register, 32-bit values, base chains that accept by default, packets of at most one page.

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::convert::Infallible;
use std::io;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `enum nf_tables_msg_types`.
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;
/// Room for the kernel's answers: each repeats the message that it is about.
const ANSWERS: usize = 16 * 1024;

/// A table of one family, without sets and objects.
#[derive(Clone, Debug)]
pub struct Table {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, which are `AF_INET` and `AF_INET6`.
    pub family: u8,
    /// Its name.
    pub name: &'static str,
    /// Its base chains.
    pub chains: Vec<Chain>,
}

/// A base chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// `filter`, or `route`: a packet whose mark has changed is routed again.
    pub kind: &'static str,
    /// Where.
    pub hook: Hook,
    /// When, among the chains of one hook; -150 is `mangle`.
    pub priority: i32,
    /// Its rules, in order.
    pub rules: Vec<Vec<Expr>>,
}

/// `enum nf_inet_hooks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What comes in, before routing.
    Prerouting = 0,
    /// What is sent from here, after routing.
    Output = 3,
}

/// One step of a rule; the rule ends where a comparison fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads the packet's mark.
    Mark,
    /// Loads the mark of the packet's connection; one that is not tracked ends the rule.
    CtMark,
    /// Loads the packet's direction in its connection; one that is not tracked ends the rule.
    CtDirection,
    /// Goes on if the mark that was loaded is this one.
    IsMark(u32),
    /// Goes on if the direction that was loaded is that of answers.
    IsReply,
    /// Sets the mark of the packet.
    SetMark(u32),
    /// Sets the mark of its connection.
    SetCtMark(u32),
}

impl Table {
    /// Puts it in the place of a table of the same name, if there is one, in the current network namespace.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT`, `EOPNOTSUPP` or `ENOENT` where the kernel lacks nf_tables or a part of it, `EPERM` without
    /// CAP_NET_ADMIN over the namespace.
    pub fn replace(&self) -> io::Result<()> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let (packet, last) = self.batch();
        socket.send(&packet, 0)?;
        // An error may concern any message; the last one is acknowledged if there was none.
        let mut answers = Vec::with_capacity(ANSWERS);
        loop {
            answers.clear();
            socket.recv(&mut answers, 0)?;
            let mut rest = answers.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<Nothing>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
                if let NetlinkPayload::Error(error) = answer.payload {
                    if error.code.is_some() {
                        return Err(error.to_io());
                    }
                    if answer.header.sequence_number == last {
                        return Ok(());
                    }
                }
                let length = usize::try_from(answer.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }

    /// The transaction, and the sequence number of the message that is to be acknowledged.
    fn batch(&self) -> (Vec<u8>, u32) {
        let mut batch = Batch::default();
        batch.push(BATCH_BEGIN, 0, 0, &[]);
        let table = [text(1, self.name), word(2, 0)];
        batch.push(SUBSYSTEM << 8 | NEW_TABLE, NLM_F_CREATE, self.family, &table);
        batch.push(SUBSYSTEM << 8 | DEL_TABLE, 0, self.family, &table[..1]);
        batch.push(SUBSYSTEM << 8 | NEW_TABLE, NLM_F_CREATE, self.family, &table);
        for chain in &self.chains {
            let hook = [word(1, chain.hook as u32), word(2, chain.priority.cast_unsigned())];
            let attributes = [text(1, self.name), text(3, chain.name), text(7, chain.kind), nest(4, &hook)];
            batch.push(SUBSYSTEM << 8 | NEW_CHAIN, NLM_F_CREATE, self.family, &attributes);
        }
        for (chain, rule) in self.chains.iter().flat_map(|c| c.rules.iter().map(move |r| (c, r))) {
            let expressions: Vec<_> = rule.iter().flat_map(Expr::encode).map(|e| nest(1, &e)).collect();
            let attributes = [text(1, self.name), text(2, chain.name), nest(4, &expressions)];
            batch.push(SUBSYSTEM << 8 | NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, self.family, &attributes);
        }
        batch.acknowledge();
        let last = batch.sequence;
        batch.push(BATCH_END, 0, 0, &[]);
        (batch.bytes, last)
    }
}

impl Expr {
    /// What the kernel calls an expression: at most two, each a name and its attributes.
    fn encode(&self) -> Vec<[DefaultNla; 2]> {
        // `NFT_META_MARK` and `NFT_CT_MARK` are the same number; so are the attributes of key and destination.
        let load = |what: &str, key: u32| expression(what, &[word(2, key), word(1, REGISTER)]);
        let equals = |value: &[u8]| {
            expression(
                "cmp",
                &[word(1, REGISTER), word(2, 0), nest(3, &[DefaultNla::new(1, value.to_vec())])],
            )
        };
        let immediate = |value: u32| {
            let value = DefaultNla::new(1, value.to_ne_bytes().to_vec());
            expression("immediate", &[word(1, REGISTER), nest(2, &[value])])
        };
        match *self {
            Self::Mark => vec![load("meta", 3)],
            Self::CtMark => vec![load("ct", 3)],
            Self::CtDirection => vec![load("ct", 1)],
            Self::IsMark(mark) => vec![equals(&mark.to_ne_bytes())],
            // `IP_CT_DIR_REPLY`
            Self::IsReply => vec![equals(&[1])],
            Self::SetMark(mark) => {
                vec![immediate(mark), expression("meta", &[word(2, 3), word(3, REGISTER)])]
            }
            Self::SetCtMark(mark) => {
                vec![immediate(mark), expression("ct", &[word(2, 3), word(4, REGISTER)])]
            }
        }
    }
}

fn expression(name: &str, attributes: &[DefaultNla]) -> [DefaultNla; 2] {
    [text(1, name), nest(2, attributes)]
}

fn text(kind: u16, text: &str) -> DefaultNla {
    DefaultNla::new(kind, [text.as_bytes(), &[0]].concat())
}

/// Numbers of nf_tables are big-endian.
fn word(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn nest(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// Messages one after another.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Of the last message; they are counted from 1.
    sequence: u32,
    /// Where the last message begins.
    start: usize,
}

impl Batch {
    fn push(&mut self, kind: u16, flags: u16, family: u8, attributes: &[DefaultNla]) {
        self.sequence += 1;
        self.start = self.bytes.len();
        let mut header = NetlinkHeader::default();
        // `struct nfgenmsg`: family, version, and for a batch its subsystem.
        let general = [family, 0, 0, if kind <= BATCH_END { SUBSYSTEM as u8 } else { 0 }];
        let length = header.buffer_len() + general.len() + attributes.buffer_len();
        header.length = u32::try_from(length).unwrap_or(u32::MAX);
        header.message_type = kind;
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        self.bytes.resize(self.start + length, 0);
        let (head, rest) = self.bytes[self.start..].split_at_mut(header.buffer_len());
        header.emit(head);
        let (middle, tail) = rest.split_at_mut(general.len());
        middle.copy_from_slice(&general);
        attributes.emit(tail);
    }

    /// Asks for an acknowledgement of the last message.
    fn acknowledge(&mut self) {
        let flags = self.start + 6;
        let old = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
        self.bytes[flags..flags + 2].copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
    }
}

/// Answers other than acknowledgements and errors are not asked for.
#[derive(Debug)]
struct Nothing;

impl NetlinkDeserializable for Nothing {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type and flags, and everything behind the header, of each message.
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some(length) = bytes.first_chunk::<4>() {
            let (message, rest) = bytes.split_at(u32::from_ne_bytes(*length) as usize);
            let half = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
            found.push((half(4), half(6), message[16..].to_vec()));
            bytes = rest;
        }
        found
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// What nft 1.0.6 sends (strace -e sendmsg) for
    /// `table ip ringtap { chain output { type route hook output priority mangle; RULES } }`.
    #[test]
    #[cfg(target_endian = "little")]
    fn messages_are_those_of_nft() {
        let remember = vec![Expr::Mark, Expr::IsMark(0x7b), Expr::SetCtMark(0x7a)];
        let restore =
            vec![Expr::CtMark, Expr::IsMark(0x7a), Expr::CtDirection, Expr::IsReply, Expr::SetMark(0x7a)];
        let output = Chain {
            name: "output",
            kind: "route",
            hook: Hook::Output,
            priority: -150,
            rules: vec![remember, restore],
        };
        let (packet, last) = Table { family: 2, name: "ringtap", chains: vec![output] }.batch();
        let sent = messages(&packet);
        let kinds: Vec<_> = sent.iter().map(|(kind, flags, _)| (*kind, *flags)).collect();
        // Request 1, acknowledge 4, create 0x400, append 0x800.
        let new = (2560, 0x401);
        assert_eq!(
            kinds,
            [(16, 1), new, (2562, 1), new, (2563, 0x401), (2566, 0xc01), (2566, 0xc05), (17, 1)]
        );
        assert_eq!(last, 7);
        assert_eq!(sent[0].2, hex("0000000a"));
        let (name, chain) = ("0c00010072696e6774617000", "0b0002006f757470757400 00");
        assert_eq!(sent[1].2, hex(&format!("02000000 {name} 0800020000000000")));
        assert_eq!(sent[2].2, hex(&format!("02000000 {name}")));
        assert_eq!(
            sent[4].2,
            hex(&format!(
                "02000000 {name} 0b0003006f757470757400 00 0a000700726f757465000000
                 14000480 0800010000000003 08000200ffffff6a"
            ))
        );
        let compare = |value: &str| {
            format!("2c000180 08000100636d7000 20000280 0800010000000001 0800020000000000 0c000380 {value}")
        };
        let immediate = "2c000180 0e000100696d6d656469617465000000
                         18000280 0800010000000001 0c000280 080001007a000000";
        let (mark, other) = (compare("080001007b000000"), compare("080001007a000000"));
        assert_eq!(
            sent[5].2,
            hex(&format!(
                "02000000 {name} {chain} a0000480
                 24000180 090001006d65746100000000 14000280 0800020000000003 0800010000000001
                 {mark} {immediate}
                 20000180 0700010063740000 14000280 0800020000000003 0800040000000001"
            ))
        );
        let reply = compare("0500010001000000");
        assert_eq!(
            sent[6].2,
            hex(&format!(
                "02000000 {name} {chain} ec000480
                 20000180 0700010063740000 14000280 0800020000000003 0800010000000001 {other}
                 20000180 0700010063740000 14000280 0800020000000001 0800010000000001 {reply}
                 {immediate}
                 24000180 090001006d65746100000000 14000280 0800020000000003 0800030000000001"
            ))
        );
    }

    #[test]
    fn a_refusal_is_an_error() {
        // No such family; and whoever runs the tests may have no right to ask in the first place.
        assert!(Table { family: 255, name: "ringtap", chains: vec![] }.replace().is_err());
    }
}
