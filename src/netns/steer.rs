//! What leads a server's answers to a client that we impersonate back to us: marks, a rule, a route, two small chains.
//!
//! Theory of operation. A transparent socket of the factory is bound to the address of a foreign client and carries mark
//! [`DIAL`]. What it sends goes where the guest's routes and address translation lead. What comes back is addressed to
//! the client, and would leave by the tap; it has to find the socket instead, on this machine. So table [`TABLE`] says
//! that everything is local, and a rule leads packets of mark [`ANSWER`] there. What gives answers that mark:
//!
//! ```text
//!  output      mark DIAL              -> the connection gets mark ANSWER          (conntrack remembers it)
//!              answer of such a one   -> mark ANSWER, routed again                (UDP, resets, ICMP errors)
//!  prerouting  mark DIAL              -> mark ANSWER                              (arrived: a server of this namespace)
//!              answer of such a one   -> mark ANSWER                              (a server behind a bridge, DNAT)
//! ```
//!
//! and two settings, for what is routed before any chain sees it: a server on the loopback answers from 127.0.0.1, and
//! there is no route at all from there to a foreign address (`__mkroute_output`, net/ipv4/route.c). `tcp_fwmark_accept`: a
//! connection inherits the mark that its first packet came with, and so a local server's segments are routed over the
//! loopback at once, with its MTU. `fwmark_reflect`: so do the kernel's resets and ICMP errors. The first is the same one
//! for IPv6 (`inet_request_mark`, include/net/inet_sock.h). Two marks, because what is sent must not be taken by the rule: a
//! packet that Docker's DNAT has just turned towards a bridge is routed again, by its mark.
//!
//! No rule looks at ports or addresses: whatever the guest does itself from a published port has no mark and takes its
//! usual way.
//!
//! Without nf_tables, servers of this namespace still can be reached by TCP: the rule then takes both marks
//! ([`Steering::LocalTcp`]: a server behind a bridge must not be dialled by a marked socket then).
//!
//! Everything is idempotent. nf_tables transactions are acknowledged by the kernel, and settings are read back: what is
//! reported is what has been accepted, never what was hoped for.

use super::netlink::{MarkRule, Netlink};
use super::nft::{Chain, Expr, Hook, Table};
use crate::msg::{FromChild, Steering};
use netlink_packet_route::AddressFamily;
use std::fs;
use std::io;

/// Mark of what a transparent socket sends. Both marks keep to the low byte below 0x80: container networks use the
/// higher bits, some by masks (kube-proxy 0xc000, Cilium 0xf00, Tailscale 0xff0000, Calico 0xffff0000).
pub const DIAL: u32 = 0x7b;
/// Mark of the answers, and of the connections.
pub const ANSWER: u32 = 0x7a;
/// The routing table in which everything is local; any that others do not use.
pub const TABLE: u32 = 0x7274;
/// Place of the rule: after the kernel's own table of local addresses (0), before everything that others add.
pub const PRIORITY: u32 = 100;
/// The name of the nf_tables tables.
pub const NFT_TABLE: &str = "ringtap";
/// `NF_IP_PRI_MANGLE`: after conntrack, before address translation.
const MANGLE: i32 = -150;

/// Sets everything up in the current network namespace, for both families; the answer to
/// [`crate::msg::ToChild::Steer`].
pub fn steer() -> FromChild {
    let [v4, v6] = both();
    FromChild::Steered { v4, v6 }
}

/// The same for whoever is no child: what can be had for IPv4 and for IPv6.
pub fn both() -> [Steering; 2] {
    [family(false), family(true)]
}

fn family(v6: bool) -> Steering {
    if let Err(e) = route_answers(v6) {
        let remedy = match e.raw_os_error() {
            Some(libc::EPERM) => "a security module confines the namespace; look for its denials",
            _ if v6 => "if servers inside use IPv6, turn net.ipv6.conf.lo.disable_ipv6 off inside",
            _ => "use a kernel with CONFIG_IP_MULTIPLE_TABLES",
        };
        return Steering::Off(format!("no policy routing for {}: {e}; {remedy}", name(v6)));
    }
    if let Err(e) = settings(v6) {
        return Steering::Off(format!("{e}; make /proc/sys writable inside"));
    }
    match table(v6).replace() {
        Ok(()) => {
            // An earlier run may have had no nf_tables.
            let _ = take_both_marks(v6, false);
            Steering::Full
        }
        Err(e) => {
            let remedy = match e.raw_os_error() {
                Some(libc::EPERM) => "a security module or seccomp profile keeps namespaces from it",
                _ => "on the host: modprobe -a nf_tables nft_ct nf_conntrack",
            };
            local(v6, &format!("nf_tables for {}: {e}; {remedy}", name(v6)))
        }
    }
}

/// What can be had without nf_tables, which is missing because of `why`.
pub fn local(v6: bool, why: &str) -> Steering {
    match route_answers(v6).and_then(|()| take_both_marks(v6, true)).and_then(|()| settings(v6)) {
        Ok(()) => Steering::LocalTcp(why.to_owned()),
        Err(e) => Steering::Off(format!("{why}; nor by settings of the namespace: {e}")),
    }
}

fn settings(v6: bool) -> io::Result<()> {
    setting("net/ipv4/tcp_fwmark_accept")?;
    setting(if v6 { "net/ipv6/fwmark_reflect" } else { "net/ipv4/fwmark_reflect" })
}

const fn name(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

const fn address_family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn rule(v6: bool, mark: u32) -> MarkRule {
    MarkRule { family: address_family(v6), mark, table: TABLE, priority: PRIORITY }
}

/// The rule and the table that it leads to.
fn route_answers(v6: bool) -> io::Result<()> {
    let lo = nix::net::if_::if_nametoindex("lo")?;
    let mut netlink = Netlink::open()?;
    netlink.add_local_default(address_family(v6), lo, TABLE)?;
    netlink.add_rule(rule(v6, ANSWER))
}

/// Whether packets that still have the mark they were dialled with are answers too.
fn take_both_marks(v6: bool, both: bool) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    if both { netlink.add_rule(rule(v6, DIAL)) } else { netlink.delete_rule(rule(v6, DIAL)) }
}

/// Turns a setting of the namespace on, and sees whether it is. /proc/sys may be read-only in a container.
fn setting(name: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    let fail = |e: io::Error| io::Error::new(e.kind(), format!("{path} cannot be set to 1: {e}"));
    let written = fs::write(&path, "1");
    match fs::read_to_string(&path).map_err(fail)?.trim() {
        "1" => Ok(()),
        _ => written.and_then(|()| Err(io::Error::other("it does not stay"))).map_err(fail),
    }
}

/// The chains of the module's text.
fn table(v6: bool) -> Table {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let restore =
        vec![Expr::CtMark, Expr::IsMark(ANSWER), Expr::CtDirection, Expr::IsReply, Expr::SetMark(ANSWER)];
    Table {
        family: family as u8,
        name: NFT_TABLE,
        chains: vec![
            Chain {
                name: "output",
                kind: "route",
                hook: Hook::Output,
                priority: MANGLE,
                rules: vec![vec![Expr::Mark, Expr::IsMark(DIAL), Expr::SetCtMark(ANSWER)], restore.clone()],
            },
            Chain {
                name: "prerouting",
                kind: "filter",
                hook: Hook::Prerouting,
                priority: MANGLE,
                rules: vec![vec![Expr::Mark, Expr::IsMark(DIAL), Expr::SetMark(ANSWER)], restore],
            },
        ],
    }
}
