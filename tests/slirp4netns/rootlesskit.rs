//! RootlessKit as Debian has it, with ringtap for its slirp4netns: both port drivers.

use crate::common::{World, need};
use crate::shell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A web server behind `rootlesskit --port-driver=DRIVER`, published at the host's port 8080; asked once from the host.
fn published(driver: &str) {
    need("rootlesskit");
    need("busybox");
    let world = World::new();
    // newuidmap(1) takes on the rights of a file's owner, who is nobody in a lab of an ordinary user. There the lab's root,
    // who needs none, has sub-ids instead.
    let sub_ids = match world.lab.users_are_real() {
        true => String::new(),
        false => "mount --make-rprivate /; for f in /etc/subuid /etc/subgid; do \
                  echo root:1:1000 > $XDG_RUNTIME_DIR/ids; mount --bind $XDG_RUNTIME_DIR/ids $f; done; "
            .to_owned(),
    };
    let script = format!(
        "{sub_ids}exec rootlesskit --state-dir=$XDG_RUNTIME_DIR/rk --net=slirp4netns --slirp4netns-binary=\"$S\" --mtu=65520 \
         --slirp4netns-sandbox=auto --slirp4netns-seccomp=auto --disable-host-loopback --port-driver={driver} \
         --copy-up=/etc --copy-up=/run --publish=0.0.0.0:8080:80/tcp \
         sh -c 'ip addr show tap0; cat /etc/resolv.conf; exec busybox httpd -f -p 80 -h /etc'"
    );
    let mut command = shell(&world, true, &script);
    let mut running = world.lab.host().spawn(command.stdout(Stdio::piped())).unwrap();
    let mut out = running.child().stdout.take().unwrap();
    let mut said = String::new();
    let mut chunk = [0; 4096];
    while !said.contains("nameserver") {
        let n = out.read(&mut chunk).unwrap();
        assert!(n > 0, "rootlesskit ended: {said}");
        said.push_str(&String::from_utf8_lossy(&chunk[..n]));
    }
    assert!(said.contains("10.0.2.100/24") && said.contains("mtu 65520"), "{said}");
    assert!(said.contains("nameserver 10.0.2.3"), "{said}");
    // The port is published after the command has started.
    let end = Instant::now() + Duration::from_secs(30);
    let answer = loop {
        let asked = world.lab.host().tcp_connect((IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)).map(|mut c| {
            let mut answer = String::new();
            let _ = c.write_all(b"GET /hostname HTTP/1.0\r\n\r\n");
            let _ = c.read_to_string(&mut answer);
            answer
        });
        match asked {
            Ok(answer) if !answer.is_empty() => break answer,
            other => assert!(Instant::now() < end, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(answer.contains("200 OK"), "{answer}");
}

#[test]
fn rootlesskit_with_the_builtin_port_driver() {
    published("builtin");
}

#[test]
fn rootlesskit_with_the_slirp4netns_port_driver() {
    published("slirp4netns");
}
