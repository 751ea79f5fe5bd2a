//! The lab itself: that its worlds are what the end-to-end tests take them for.

use ringtap::lab::contender::{Contender, Start};
use ringtap::lab::dns::{DnsServer, answer, default_names};
use ringtap::lab::impair::Impairment;
use ringtap::lab::{Lab, Server, addr, serve};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

#[test]
fn the_host_reaches_the_internet_and_the_far_side() {
    let lab = Lab::new().unwrap();
    for place in [lab.internet(), lab.far()] {
        let any = if place.links().unwrap().index("far0").is_ok() {
            [(addr::SERVER_V4, 80).into(), (addr::SERVER_V6, 80).into()]
        } else {
            [(addr::FAR_V4, 80).into(), (addr::FAR_V6, 80).into()]
        };
        for at in any {
            let at: std::net::SocketAddr = at;
            let server = Server::tcp_echo(place.tcp_listener(at).unwrap()).unwrap();
            let mut stream = lab.host().tcp_connect(at).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut back = String::new();
            stream.read_to_string(&mut back).unwrap();
            assert_eq!(back, "hello");
            let ours =
                if at.is_ipv4() { addr::HOST_V4.into() } else { std::net::IpAddr::from(addr::HOST_V6) };
            assert_eq!(server.peers()[0].ip(), ours);
        }
    }
}

#[test]
fn commands_run_inside_as_root_and_as_an_ordinary_user() {
    let lab = Lab::new().unwrap();
    let id = |mut c: std::process::Command| {
        let out =
            c.args(["-c", "id -u; grep CapEff /proc/self/status; cat /etc/resolv.conf"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let root = id(lab.host().command("sh").unwrap());
    assert!(root.starts_with("0\n") && !root.contains("CapEff:\t0000000000000000"), "{root}");
    let user = id(lab.host().command_as_user("sh").unwrap());
    assert!(user.starts_with("7321\n") && user.contains("CapEff:\t0000000000000000"), "{user}");
    assert!(user.ends_with(&format!("nameserver {}\n", addr::SERVER_V4)), "{user}");
    lab.set_resolv_conf("nameserver 192.0.2.53\n").unwrap();
    assert!(id(lab.host().command("sh").unwrap()).ends_with("nameserver 192.0.2.53\n"));
}

#[test]
fn a_spawned_program_ends_with_its_handle() {
    let lab = Lab::new().unwrap();
    let running = lab.host().spawn(lab.host().command("sleep").unwrap().arg("1000")).unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", running.pid()));
    assert!(proc.exists());
    drop(running);
    assert!(!proc.exists());
}

#[test]
fn names_are_resolved_by_a_server_of_the_lab() {
    let lab = Lab::new().unwrap();
    let dns = DnsServer::start(lab.internet(), (addr::SERVER_V4, 53), default_names()).unwrap();
    let socket = lab.host().udp_socket((addr::HOST_V4, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let query = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3][..], b"far\x04test\0\0\x01\0\x01"].concat();
    socket.send_to(&query, (addr::SERVER_V4, 53)).unwrap();
    let mut reply = [0; 512];
    let n = socket.recv(&mut reply).unwrap();
    assert_eq!(reply[..n], answer(&query, &default_names(), 512).unwrap());
    assert_eq!(dns.udp_peers(), [socket.local_addr().unwrap()]);
}

#[test]
fn an_impaired_link_loses_and_delays_and_tcp_gets_through() {
    let lab = Lab::new().unwrap();
    let delay = Duration::from_millis(10);
    let how = Impairment { delay, loss: 0.02, reorder: 0.02, duplicate: 0.01, ..Impairment::default() };
    let link = lab.impaired(how).unwrap();
    let at = (addr::IMPAIRED_V4, 9);
    let _server = Server::tcp_sink(lab.internet().tcp_listener(at).unwrap()).unwrap();
    let before = std::time::Instant::now();
    let mut stream = lab.host().tcp_connect(at).unwrap();
    assert!(before.elapsed() >= 2 * delay);
    serve::send_pattern(&mut stream, 1 << 20).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut verdict = String::new();
    stream.read_to_string(&mut verdict).unwrap();
    assert_eq!(verdict, "1048576 bytes sound\n");
    let [there, _] = link.fates();
    assert!(there.pushed > 500 && there.lost > 0 && there.reordered > 0, "{there:?}");
}

#[test]
fn a_guest_of_every_contender_that_is_installed_reaches_the_server() {
    let lab = Lab::new().unwrap();
    let _server = Server::tcp_echo(lab.internet().tcp_listener((addr::SERVER_V4, 7)).unwrap()).unwrap();
    for contender in [Contender::Direct, Contender::Slirp4netns, Contender::Pasta] {
        if !contender.installed() {
            continue;
        }
        let guest = contender.start(&lab, &Start::default()).unwrap();
        let mut stream = guest.place().tcp_connect((addr::SERVER_V4, 7)).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello", "{contender:?}");
        assert!(!guest.processes().is_empty());
    }
}
