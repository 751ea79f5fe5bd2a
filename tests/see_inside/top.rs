//! `ringtap top` at a terminal.

use crate::common::{PATIENCE, SERVER, World};
use crate::{carry, fails, pair};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::Instant;

#[test]
fn it_shows_flows_explains_one_and_gives_the_terminal_back() {
    let world = World::new();
    assert!(fails(&world, &["top"]).contains("it wants a terminal"));
    let guest = world.guest();
    let listener = world.lab.internet().tcp_listener((SERVER[0], 9000)).unwrap();
    let (near, far) = pair(guest.place().tcp_connect((SERVER[0], 9000)).unwrap(), &listener);
    carry(&near, &far, 300_000);
    let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = world.ringtap(true);
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    command.args(["top", "--every", "0.2"]).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
    let mut child = command.spawn().unwrap();
    let mut screen = File::from(pty.master.try_clone().unwrap());
    let mut seen = String::new();
    let start = Instant::now();
    let mut until = |text: &str| {
        while !seen.contains(text) {
            assert!(start.elapsed() < PATIENCE, "wanted {text:?}: {seen:?}");
            let mut fds = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100u16)) == Ok(1) {
                let mut chunk = [0; 4096];
                let n = screen.read(&mut chunk).unwrap();
                seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
        }
        seen.clear();
    };
    // What did not change is not drawn again, a space neither: single words are looked for.
    until("293K");
    let mut keys = File::from(pty.master.try_clone().unwrap());
    keys.write_all(b"s").unwrap();
    until("rate");
    keys.write_all(b"\r").unwrap();
    until("tap0,");
    // The first closes the words, the second ends it.
    keys.write_all(b"q").unwrap();
    keys.write_all(b"q").unwrap();
    // The other screen comes back (xterm: rmcup).
    until("\x1b[?1049l");
    assert!(child.wait().unwrap().success());
}
