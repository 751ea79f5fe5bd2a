//! `ringtap capture`: what it writes is read by tshark and tcpdump, names flow and socket, and never holds up traffic.

mod common;

use common::{ECHO, PATIENCE, SERVER, World, need, outcome, sh};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringtap::lab::{Guest, Running, addr};
use ringtap::plane::pcapng::Blocks;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// `ringtap capture OPTIONS`, which has begun: the head of its file is there.
fn begin(world: &World, options: &[&str], file: &Path) -> Running {
    let mut command = world.ringtap(true);
    command.arg("capture").args(options).args(["-w", "-"]);
    command.stdout(Stdio::from(File::create(file).unwrap())).stderr(Stdio::piped());
    let running = world.lab.host().spawn(&mut command).unwrap();
    eventually("the head of the capture", || fs::metadata(file).unwrap().len() > 0);
    running
}

/// Ends it as ^C does, or waits for it: what it says.
fn end(mut capture: Running, interrupt: bool) -> String {
    if interrupt {
        kill(Pid::from_raw(capture.pid().cast_signed()), Signal::SIGINT).unwrap();
    }
    let mut said = String::new();
    let child = capture.child();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    said
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Columns of each packet of a file, by tshark.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    need("tshark");
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args(["-T", "fields", "-E", "separator=|"]);
    if !filter.is_empty() {
        command.args(["-Y", filter]);
    }
    command.args(fields.iter().flat_map(|f| ["-e", f]));
    let text = outcome("tshark", command).ok();
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

/// A connection of the guest that says hello to the echo server, hears it, and stays.
fn connection(guest: &Guest, port: u16) -> Running {
    let server = addr::SERVER_V4;
    let script = format!(
        "exec 3<>/dev/tcp/{server}/{ECHO}; echo hello >&3; read -r line <&3; echo \"$line\"; read -r line; \
         echo again >&3; read -r line <&3; echo \"$line\"; exec sleep infinity # {port}"
    );
    let mut command = guest.place().command("bash").unwrap();
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = guest.place().spawn(&mut command).unwrap();
    read_line(&mut running, "hello\n");
    running
}

fn read_line(running: &mut Running, line: &str) {
    let mut bytes = vec![0; line.len()];
    running.child().stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, line.as_bytes());
}

fn path(world: &World, name: &str) -> PathBuf {
    world.lab.dir().join(name)
}

#[test]
fn wireshark_and_tcpdump_read_it_and_comments_name_flow_and_host_socket() {
    let world = World::new();
    let guest = world.guest();
    let file = path(&world, "all.pcapng");
    let capture = begin(&world, &[], &file);
    let server = addr::SERVER_V4;
    sh(
        guest.place(),
        &format!("curl -sS http://{server}/ >/dev/null; ping -c 1 -W 5 {server} >/dev/null || true"),
    )
    .ok();
    let said = end(capture, true);
    let rows = tshark(
        &file,
        "tcp",
        &["frame.comment", "frame.packet_flags_direction", "ip.src", "tcp.dstport", "frame.interface_name"],
    );
    assert!(rows.len() >= 6, "{rows:?}");
    for (n, row) in rows.iter().enumerate() {
        let [comment, direction, source, port, interface] = &row[..] else { panic!("{row:?}") };
        assert_eq!(interface, "tap0");
        let from_guest = source == "10.0.2.100";
        // 1 is inbound and 2 outbound, for the guest's interface.
        assert!(direction.ends_with(if from_guest { '2' } else { '1' }), "{row:?}");
        assert_eq!(port == "80", from_guest);
        assert!(comment.starts_with("tcp:") && comment.contains(" guest 10.0.2.100:"), "{comment}");
        // The host's socket is made because of the first frame, and after it.
        let socket = format!(" - {server}:80, host socket {}:", addr::HOST_V4);
        assert!(n == 0 || comment.contains(&socket), "{comment}");
        assert!(comment.ends_with(&format!(" {server}:80")), "{comment}");
    }
    // The handshake and the bytes are there, in order.
    let flags = tshark(&file, "tcp", &["tcp.flags.syn", "tcp.flags.ack"]);
    assert!(flags[0][0].ends_with('1') || flags[0][0] == "True", "{flags:?}");
    assert_eq!(tshark(&file, "http.request.method == GET", &["http.host"]).len(), 1);
    assert!(said.starts_with("ringtap: ") && said.contains(" frames captured, 0 dropped"), "{said}");
    let frames: usize = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(tshark(&file, "", &["frame.number"]).len(), frames);
    need("tcpdump");
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-n", "-r"]).arg(&file).arg("tcp");
    assert_eq!(outcome("tcpdump", tcpdump).ok().lines().count(), rows.len());
}

#[test]
fn a_flow_by_its_name_and_no_more_frames_than_asked_for() {
    let world = World::new();
    let guest = world.guest();
    // What a person reads: a line for each frame, here until four have passed.
    let file = path(&world, "lines");
    let mut lines = world.ringtap(true);
    lines
        .args(["capture", "--count", "4"])
        .stdout(Stdio::from(File::create(&file).unwrap()))
        .stderr(Stdio::piped());
    let lines = world.lab.host().spawn(&mut lines).unwrap();
    // Nothing says when a capture has begun that has seen nothing; connections are made until one is seen.
    let mut held = Vec::new();
    eventually("four lines", || {
        held.push(connection(&guest, 0));
        fs::read_to_string(&file).unwrap().lines().count() == 4
    });
    assert!(end(lines, false).contains("4 frames captured"), "four and no more");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.lines().all(|line| line.contains(" out ") || line.contains(" in ")), "{text}");
    let mut two = [connection(&guest, 1), connection(&guest, 2)];
    // Its name: the last connection's, by a capture of everything while it speaks.
    let named = path(&world, "named.pcapng");
    let capture = begin(&world, &[], &named);
    let speak = |running: &mut Running| {
        use std::io::Write;
        running.child().stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        read_line(running, "again\n");
    };
    speak(&mut two[1]);
    end(capture, true);
    let comments = tshark(&named, "tcp", &["frame.comment"]);
    let flow = comments[0][0].split(' ').next().unwrap().to_owned();
    // That flow and no other, cut short.
    let only = path(&world, "only.pcapng");
    let capture = begin(&world, &["--flow", &flow, "--snaplen", "40"], &only);
    speak(&mut two[0]);
    drop(two);
    eventually("frames of the flow that ends", || fs::metadata(&only).unwrap().len() > 400);
    end(capture, true);
    let rows = tshark(&only, "", &["frame.comment", "frame.cap_len"]);
    assert!(!rows.is_empty());
    for row in rows {
        assert!(row[0].starts_with(&format!("{flow} ")), "{row:?}");
        assert_eq!(row[1], "40");
    }
    let mut none = world.ringtap(true);
    none.args(["capture", "--flow", "tcp:999.9", "-w", "-"]);
    let said = outcome("capture", none).failed();
    assert!(said.contains("--flow") && said.contains("no flow \"tcp:999.9\""), "{said}");
}

#[test]
fn a_reader_that_does_not_read_loses_frames_and_holds_up_nobody() {
    let files = tempfile::tempdir().unwrap();
    File::create(files.path().join("large")).unwrap().set_len(48 << 20).unwrap();
    let world = World::with_files(Some(files.path().to_owned()));
    let guest = world.guest();
    let mut command = world.ringtap(true);
    command.args(["capture", "-w", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut capture = world.lab.host().spawn(&mut command).unwrap();
    let mut out = capture.child().stdout.take().unwrap();
    // It has begun, and then nobody reads.
    let mut head = [0; 64];
    out.read_exact(&mut head).unwrap();
    let [v4, _] = SERVER;
    let size = sh(guest.place(), &format!("curl -sS http://{v4}/large | wc -c")).ok();
    assert_eq!(size.trim(), (48 << 20).to_string());
    kill(Pid::from_raw(capture.pid().cast_signed()), Signal::SIGINT).unwrap();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let said = end(capture, false);
    let mut blocks = Blocks::default();
    blocks.push(&head);
    blocks.push(&rest);
    let (mut packets, mut dropped) = (0u64, 0);
    while let Some(block) = blocks.next_block().unwrap() {
        packets += u64::from(block.packet().is_some());
        dropped = block.dropped().unwrap_or(dropped);
    }
    assert!(dropped > 0 && packets > 0, "{packets} captured, {dropped} dropped");
    assert!(said.contains(&format!("{packets} frames captured, {dropped} dropped")), "{said}");
    // The plane goes on, and takes another capture.
    let file = path(&world, "next.pcapng");
    let next = begin(&world, &[], &file);
    sh(guest.place(), &format!("curl -sS http://{v4}/ >/dev/null")).ok();
    assert!(end(next, true).contains(", 0 dropped"));
}

#[test]
fn four_at_once_and_one_more_is_told() {
    let world = World::new();
    let guest = world.guest();
    let files: Vec<PathBuf> = (0..4).map(|n| path(&world, &format!("{n}.pcapng"))).collect();
    let running: Vec<Running> = files.iter().map(|file| begin(&world, &[], file)).collect();
    let mut fifth = world.ringtap(true);
    fifth.args(["capture", "-w", "-"]);
    let said = outcome("capture", fifth).failed();
    assert!(said.contains("took no further capture"), "{said}");
    sh(guest.place(), &format!("curl -sS http://{}/ >/dev/null", SERVER[0])).ok();
    let said: Vec<String> = running.into_iter().map(|capture| end(capture, true)).collect();
    assert!(said.iter().all(|s| s.contains(", 0 dropped") && !s.contains(" 0 frames")), "{said:?}");
    // Those that have ended make room.
    end(begin(&world, &[], &path(&world, "after.pcapng")), true);
}
