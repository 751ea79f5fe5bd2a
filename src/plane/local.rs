//! Connections that never leave the machine: what one to the loopback, or a listener there, does better without.
//!
//! Their congestion control is [`LINK_CONGESTION`], whatever the host uses towards elsewhere. It has to be said before the
//! socket connects, or on the listener, which hands it on (`tcp_ca_openreq_child`, net/ipv4/tcp_minisocks.c): a socket that
//! has been paced once is paced for good (`bbr_init`, net/ipv4/tcp_bbr.c). So local clients of a listener that strangers
//! reach too are served as strangers are.

use crate::config::LINK_CONGESTION;
use socket2::SockRef;
use std::net::IpAddr;

/// For a listener: what it accepts comes from the machine if it listens to nothing else.
pub fn tune_listener(socket: &SockRef<'_>) {
    if let Some(at) = socket.local_addr().ok().and_then(|a| a.as_socket()) {
        tune(socket, at.ip());
    }
}

/// For a socket that is about to connect to `ip`.
pub fn tune(socket: &SockRef<'_>, ip: IpAddr) {
    if ip.to_canonical().is_loopback() {
        // Without it a connection works as well, if it costs more.
        let _ = socket.set_tcp_congestion(LINK_CONGESTION.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn congestion(socket: SockRef<'_>) -> String {
        String::from_utf8(socket.tcp_congestion().unwrap()).unwrap().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn what_stays_on_the_machine_does_not_take_the_congestion_control_of_the_host() {
        let host = congestion(SockRef::from(&TcpListener::bind("127.0.0.1:0").unwrap()));
        for (ip, expected) in [("127.0.0.1", "reno"), ("::ffff:127.0.0.1", "reno"), ("192.0.2.1", &host)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            tune(&SockRef::from(&listener), ip.parse().unwrap());
            assert_eq!(congestion(SockRef::from(&listener)), expected, "{ip}");
        }
        for (ip, expected) in [("127.0.0.1", "reno"), ("0.0.0.0", &host)] {
            let listener = TcpListener::bind((ip, 0)).unwrap();
            tune_listener(&SockRef::from(&listener));
            let port = listener.local_addr().unwrap().port();
            let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert_eq!(congestion(SockRef::from(&accepted)), expected, "accepted at {ip}");
        }
    }
}
