//! A DNS server for a lab: a few names, over UDP and TCP, with answers too large for UDP.
//!
//! It answers A and AAAA from its table, and TXT for `big.test` with about 3 KB, which over UDP comes truncated
//! (RFC 1035, 4.2.1: TC bit) so that the client asks again by TCP. Other names get NXDOMAIN, other types no data. Limits:
//! one question per message, no EDNS, no compression but the pointer to the question.

use super::serve::Server;
use super::{LabError, Place, addr};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

const A: u16 = 1;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const UDP_LIMIT: usize = 512;
const TXT_STRINGS: usize = 12;

/// Names and their addresses.
pub type Names = Vec<(String, IpAddr)>;

/// `server.test`, `far.test` and `host.test` with both their addresses.
pub fn default_names() -> Names {
    let both = |name: &str, v4: IpAddr, v6: IpAddr| [(name.to_owned(), v4), (name.to_owned(), v6)];
    [
        both("server.test", addr::SERVER_V4.into(), addr::SERVER_V6.into()),
        both("far.test", addr::FAR_V4.into(), addr::FAR_V6.into()),
        both("host.test", addr::HOST_V4.into(), addr::HOST_V6.into()),
    ]
    .concat()
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct DnsServer {
    udp: Server,
    tcp: Server,
}

impl DnsServer {
    /// Serves `names` at `address` in `place`.
    pub fn start(place: Place<'_>, address: impl Into<SocketAddr>, names: Names) -> Result<Self, LabError> {
        let address = address.into();
        let (udp, tcp) = (place.udp_socket(address)?, place.tcp_listener(address)?);
        let fail = |e| LabError::new("starting a DNS server", e);
        let for_tcp = names.clone();
        let udp = Server::udp(udp, move |query, _| answer(query, &names, UDP_LIMIT)).map_err(fail)?;
        let tcp = Server::tcp(tcp, move |mut stream, _| {
            loop {
                let mut length = [0; 2];
                stream.read_exact(&mut length)?;
                let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut query)?;
                let Some(answer) = answer(&query, &for_tcp, usize::from(u16::MAX)) else { return Ok(()) };
                let mut message = (answer.len() as u16).to_be_bytes().to_vec();
                message.extend_from_slice(&answer);
                stream.write_all(&message)?;
            }
        })
        .map_err(fail)?;
        Ok(Self { udp, tcp })
    }

    /// Who asked over UDP.
    pub fn udp_peers(&self) -> Vec<SocketAddr> {
        self.udp.peers()
    }

    /// Who connected over TCP.
    pub fn tcp_peers(&self) -> Vec<SocketAddr> {
        self.tcp.peers()
    }
}

/// The question: its name in lower case, its type, and where it ends.
fn question(message: &[u8]) -> Option<(String, u16, usize)> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let (mut at, mut name) = (12, String::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {
                let label = message.get(at..at + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
            _ => return None,
        }
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    message.get(at + 2..at + 4)?;
    Some((name, kind, at + 4))
}

/// The answer to `query`, `None` when it is no question.
pub fn answer(query: &[u8], names: &Names, limit: usize) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query)?;
    let mut records: Vec<Vec<u8>> = Vec::new();
    for ip in names.iter().filter(|(n, _)| *n == name).map(|(_, ip)| ip) {
        match (kind, ip) {
            (A, IpAddr::V4(ip)) => records.push(ip.octets().to_vec()),
            (AAAA, IpAddr::V6(ip)) => records.push(ip.octets().to_vec()),
            _ => {}
        }
    }
    let big = name == "big.test";
    if big && kind == TXT {
        let string: Vec<u8> = std::iter::once(250).chain(std::iter::repeat_n(b'x', 250)).collect();
        records.push(string.repeat(TXT_STRINGS));
    }
    let known = big || names.iter().any(|(n, _)| *n == name);
    let mut message = query[..end].to_vec();
    // Response, authoritative, recursion as asked and available; the counts follow.
    message[2] = 0x84 | (query[2] & 0x01);
    message[3] = 0x80 | if known { 0 } else { 3 };
    message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
    message[8..12].fill(0);
    for data in &records {
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    if message.len() > limit {
        message.truncate(end);
        message[2] |= 0x02;
        message[6..8].fill(0);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut q = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            q.push(label.len() as u8);
            q.extend_from_slice(label.as_bytes());
        }
        q.extend_from_slice(&[0]);
        q.extend_from_slice(&kind.to_be_bytes());
        q.extend_from_slice(&[0, 1]);
        q
    }

    #[test]
    fn answers_truncates_and_denies() {
        let names = default_names();
        let a = answer(&ask("Server.test", A), &names, UDP_LIMIT).unwrap();
        assert!(a.ends_with(&addr::SERVER_V4.octets()) && a[3] == 0x80 && a[7] == 1);
        let six = answer(&ask("server.test", AAAA), &names, UDP_LIMIT).unwrap();
        assert!(six.ends_with(&addr::SERVER_V6.octets()));
        let cut = answer(&ask("big.test", TXT), &names, UDP_LIMIT).unwrap();
        assert!(cut.len() < UDP_LIMIT && cut[2] & 2 == 2 && cut[7] == 0);
        assert!(answer(&ask("big.test", TXT), &names, 65535).unwrap().len() > 3000);
        assert_eq!(answer(&ask("nobody.test", A), &names, UDP_LIMIT).unwrap()[3], 0x83);
        // Cut anywhere, it is no question.
        let q = ask("server.test", A);
        assert!((0..q.len()).all(|n| answer(&q[..n], &names, UDP_LIMIT).is_none()));
    }
}
