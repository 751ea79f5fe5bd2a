//! What is fuzzed: one function for each target, from bytes to a panic when something is wrong.
//!
//! Theory of operation. Each target reads its input in its own way and checks what must hold whatever the input is: nothing
//! panics, ranges stay within their bytes, what is built can be read again, and, where a stack is involved, everything that
//! [`world`] keeps account of. The same functions are run by libFuzzer (`fuzz/run`, nightly) and by `tests/fuzz.rs`, which
//! includes this file and replays the corpora, mutated a little, with the stable toolchain.
//!
//! Inputs that found something are kept under `corpus/TARGET` by a name that says what it was.

#![forbid(unsafe_code)]

pub mod input;
pub mod messages;
pub mod parsers;
pub mod protocols;
pub mod seeds;
pub mod stack;
pub mod texts;
pub mod world;

/// A target: its name, which is that of its corpus, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 20] = [
    ("ethernet", parsers::ethernet),
    ("ipv4", parsers::ipv4),
    ("ipv6", parsers::ipv6),
    ("tcp", parsers::tcp),
    ("udp", parsers::udp),
    ("icmp", parsers::icmp),
    ("vnet", parsers::vnet),
    ("segment", parsers::segment),
    ("arp", protocols::arp),
    ("ndp", protocols::ndp),
    ("dhcp4", protocols::dhcp4),
    ("dhcp6", protocols::dhcp6),
    ("dns", protocols::dns),
    ("fragments", protocols::fragments),
    ("http", texts::http),
    ("api", texts::api),
    ("ports", texts::ports),
    ("config", texts::config),
    ("messages", messages::messages),
    ("stack", stack::stack),
];
