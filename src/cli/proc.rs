//! What `/proc` shows of processes, their namespaces and their sockets: the kernel's own word, beside what an instance says.
//!
//! All of it is read as this user. A process whose files are closed to us is passed over; of a namespace that we own, and
//! of those below it, everything can be read.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Most processes that are looked at.
const MAX_PROCESSES: usize = 32_768;

/// The ids of all processes.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).take(MAX_PROCESSES).collect();
    pids.sort_unstable();
    pids
}

/// The name of a process, as ps(1) and ss(8) show it.
pub fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned())
}

/// What a process was started with, its name first.
pub fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// A namespace of a process as the kernel numbers it; `kind` is `net`, `user`, `pid`, `mnt`..
pub fn namespace(pid: u32, kind: &str) -> Option<u64> {
    number(&fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?)
}

/// The namespace that a file stands for: a link below `/proc`, or a mount of one.
pub fn namespace_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|m| m.ino())
}

/// The number in `net:[4026531840]` and `socket:[12345]`.
fn number(link: &Path) -> Option<u64> {
    link.to_str()?.rsplit_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// A descriptor of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whose.
    pub pid: u32,
    /// The process's name.
    pub name: String,
    /// Its number.
    pub fd: i32,
}

/// Who has a socket open.
pub fn holders(socket: u64, among: &[u32]) -> Vec<Holder> {
    let mut found = Vec::new();
    for pid in among {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let wanted = format!("socket:[{socket}]");
        let mine =
            fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()));
        let numbers = mine.filter_map(|fd| fd.file_name().to_str()?.parse().ok());
        found.extend(numbers.map(|fd| Holder { pid: *pid, name: name(*pid).unwrap_or_default(), fd }));
    }
    found
}

/// A socket of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its own end.
    pub local: SocketAddr,
    /// The other end; unspecified if it is not connected.
    pub peer: SocketAddr,
    /// It listens.
    pub listens: bool,
    /// Its number.
    pub inode: u64,
}

/// The sockets of the network namespace that a process is in.
pub fn sockets(pid: u32, udp: bool) -> Vec<Socket> {
    let files = if udp { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
    let read = |file| fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
    files
        .into_iter()
        .flat_map(|file| read(file).lines().skip(1).filter_map(socket).collect::<Vec<_>>())
        .collect()
}

/// A line of `/proc/net/tcp` and its like (Documentation/networking/proc_net_tcp.rst).
fn socket(line: &str) -> Option<Socket> {
    /// `TCP_LISTEN`, include/net/tcp_states.h.
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, peer) = (end(words.get(1)?)?, end(words.get(2)?)?);
    Some(Socket { local, peer, listens: *words.get(3)? == LISTEN, inode: words.get(9)?.parse().ok()? })
}

/// `0100007F:1F90`: 32-bit words as this machine has them, then the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Whether an address is one of the network namespace that a process is in.
pub fn has_address(pid: u32, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // A leaf with its address is followed by its kinds.
            let trie = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
            let mut leaf = "";
            trie.lines().any(|line| {
                let line = line.trim();
                if let Some(ip) = line.strip_prefix("|-- ") {
                    leaf = ip;
                }
                line == "/32 host LOCAL" && leaf == ip.to_string()
            })
        }
        IpAddr::V6(ip) => {
            let list = fs::read_to_string(format!("/proc/{pid}/net/if_inet6")).unwrap_or_default();
            let wanted: String = ip.octets().iter().map(|b| format!("{b:02x}")).collect();
            list.lines().any(|line| line.starts_with(&wanted))
        }
    }
}

/// The interface by which a process's network namespace reaches an IPv4 address, and the next hop if it is not on-link.
pub fn route(pid: u32, to: Ipv4Addr) -> Option<(String, Option<Ipv4Addr>)> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/route")).ok()?;
    let mut best: Option<(u32, String, Ipv4Addr)> = None;
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [ifname, net, gateway, _, _, _, _, mask, ..] = words[..] else { continue };
        let ip = |text| u32::from_str_radix(text, 16).map(|n| Ipv4Addr::from(n.to_ne_bytes())).ok();
        let (Some(net), Some(gateway), Some(mask)) = (ip(net), ip(gateway), ip(mask)) else { continue };
        let length = u32::from(mask).count_ones();
        let fits = u32::from(to) & u32::from(mask) == u32::from(net);
        if fits && best.as_ref().is_none_or(|(than, ..)| length > *than) {
            best = Some((length, ifname.to_owned(), gateway));
        }
    }
    best.map(|(_, ifname, gateway)| (ifname, Some(gateway).filter(|ip| !ip.is_unspecified())))
}

/// The processes that can be read, by the network namespace that they are in.
pub fn by_network() -> BTreeMap<u64, Vec<u32>> {
    let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for pid in processes() {
        if let Some(net) = namespace(pid, "net") {
            found.entry(net).or_default().push(pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_of_ours_is_found_with_its_ends_and_its_holder() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let us = std::process::id();
            let all = sockets(us, false);
            let listening =
                all.iter().find(|s| s.listens && s.local == listener.local_addr().unwrap()).unwrap();
            let connected = all.iter().find(|s| s.local == near.local_addr().unwrap()).unwrap();
            assert_eq!(connected.peer, near.peer_addr().unwrap());
            for (socket, fd) in [(listening, listener.as_raw_fd()), (connected, near.as_raw_fd())] {
                let holders = holders(socket.inode, &[us]);
                assert!(holders.iter().any(|h| h.pid == us && h.fd == fd), "{holders:?}");
            }
        }
        assert!(has_address(std::process::id(), Ipv4Addr::LOCALHOST.into()));
        assert!(!has_address(std::process::id(), "192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "   3: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 12345 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            let socket = socket(line).unwrap();
            assert_eq!(
                (socket.local.to_string(), socket.inode, socket.listens),
                ("127.0.0.1:8080".into(), 12_345, true)
            );
        }
        for bad in ["", "sl local", "0: zz:1 00000000:0000 0A", "0: 0100007F:1F90 00000000:0000"] {
            assert_eq!(super::socket(bad), None, "{bad}");
        }
        assert_eq!(namespace(std::process::id(), "net"), namespace_of(Path::new("/proc/self/ns/net")));
    }
}
