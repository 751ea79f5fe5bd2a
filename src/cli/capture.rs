//! `ringtap capture [INSTANCE]`: the frames of a running instance's tap, as they pass.
//!
//! The instance writes pcapng into a connection of its API; we write it on, to a file or to standard output, or say a line
//! about each frame. The file is ours: the data plane opens nothing. Whatever ends it (COUNT, ^C, a reader that has gone),
//! what was written is whole, down to the totals that the instance sends at the end.

use super::CliError;
use super::port::client::{Client, ClientError};
use crate::config::network::MAX_FRAME;
use crate::control::api::CAPTURE;
use crate::control::api::views::Capture;
use crate::msg::FlowPage;
use crate::msg::query::Path as FlowPath;
use crate::plane::pcapng::{Blocks, Seen};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Read at a time.
const CHUNK: usize = 256 * 1024;

/// Options of `capture`.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Which instance: the process id of `ringtap` or of its first process inside, or its state directory; not needed if only
    /// one runs
    #[arg(value_name = "INSTANCE")]
    instance: Option<String>,
    /// Only frames of this flow, as `ringtap flows` names it (tcp:3.0)
    #[arg(long, value_name = "ID")]
    flow: Option<String>,
    /// Write pcapng to FILE, `-` for standard output; without it, a line is said about each frame
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many frames
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Keep at most so many bytes of each frame
    #[arg(long, value_name = "BYTES", default_value_t = MAX_FRAME, value_parser = clap::value_parser!(u32).range(1..))]
    snaplen: u32,
}

/// Where it goes.
enum Sink {
    Raw(Box<dyn Write>),
    Lines(io::Stdout),
}

impl CaptureArgs {
    /// Captures until the count is reached, a signal comes, or the instance ends.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        // Before the file is made, which would be left behind empty.
        let client = find(self.instance.as_deref())?;
        if let Some(flow) = &self.flow {
            check(&client, flow)?;
        }
        let mut sink = self.sink()?;
        // Held back from now on, so that the instance is told and the end is whole.
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let signals = signals
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .map_err(CliError::option("capture"))?;
        let body = serde_json::to_string(&Capture { flow: self.flow, snaplen: self.snaplen });
        let (stream, first) = client.switch(CAPTURE, &body.map_err(ClientError::answer)?)?;
        let mut state = Progress { left: self.count.unwrap_or(u64::MAX), ..Progress::default() };
        let outcome = copy(stream, &first, &signals, &mut sink, &mut state);
        match outcome {
            // Whoever read it has seen enough.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(e) => {
                let cause = format!("{e}; what has been written so far is whole");
                return Err(CliError::Option { option: "--write", cause });
            }
            Ok(()) => {}
        }
        if !state.any {
            let cause = "the data plane took no further capture: only a few may run at once, or it has ended";
            return Err(CliError::Option { option: "capture", cause: cause.to_owned() });
        }
        let lost = if state.dropped > 0 { ", which could not be written fast enough" } else { "" };
        eprintln!("ringtap: {} frames captured, {} dropped{lost}", state.frames, state.dropped);
        Ok(0)
    }

    fn sink(&self) -> Result<Sink, CliError> {
        let refused = CliError::option("--write");
        match self.write.as_deref() {
            None => Ok(Sink::Lines(io::stdout())),
            Some(path) if path == Path::new("-") && io::stdout().is_terminal() => {
                Err(refused("standard output is a terminal; name a file, or lead it to a program: `-w - | wireshark -k -i -`"
                    .to_owned()))
            }
            Some(path) if path == Path::new("-") => Ok(Sink::Raw(Box::new(io::stdout()))),
            Some(path) => match File::create(path) {
                Ok(file) => Ok(Sink::Raw(Box::new(file))),
                Err(e) => Err(refused(format!("{}: {e}; name a file that can be written", path.display()))),
            },
        }
    }
}

/// The instance that is meant.
fn find(instance: Option<&str>) -> Result<Client, ClientError> {
    match instance.filter(|name| name.contains('/')) {
        Some(dir) => Client::find(None, Some(Path::new(dir))),
        None => Client::find(instance, None),
    }
}

/// Whether frames of that flow can come at all.
fn check(client: &Client, flow: &str) -> Result<(), CliError> {
    let refused = |cause: String| CliError::Option { option: "--flow", cause };
    let mut from = 0;
    loop {
        let body = client.call("GET", &format!("/ringtap/v1/flows?from={from}"), None)?;
        let page: FlowPage = serde_json::from_slice(&body).map_err(ClientError::answer)?;
        match page.flows.iter().find(|record| record.id == flow) {
            Some(record) if record.path == FlowPath::Relay => {
                let cause = format!(
                    "{flow} is relayed: its bytes never cross the tap; capture where its client comes in, with tcpdump on the \
                     host"
                );
                return Err(refused(cause));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        match page.next {
            Some(next) => from = next,
            None => {
                return Err(refused(format!("there is no flow {flow:?} now; `ringtap flows` lists them")));
            }
        }
    }
}

#[derive(Default)]
struct Progress {
    frames: u64,
    left: u64,
    dropped: u64,
    /// Something has come.
    any: bool,
    /// The instance is told that it is enough.
    ending: bool,
}

/// From the instance to the sink, until either ends.
fn copy(
    mut stream: UnixStream,
    first: &[u8],
    signals: &SignalFd,
    sink: &mut Sink,
    state: &mut Progress,
) -> io::Result<()> {
    let mut blocks = Blocks::default();
    let mut chunk = vec![0; CHUNK];
    pass(&mut blocks, first, sink, state)?;
    loop {
        if state.left == 0 && !std::mem::replace(&mut state.ending, true) {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut fds = [stream.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        if fds[1].any() == Some(true) && matches!(signals.read_signal(), Ok(Some(_))) {
            // Who asks twice does not want to wait for the rest.
            if state.ending {
                return Ok(());
            }
            state.ending = true;
            let _ = stream.shutdown(Shutdown::Write);
        }
        if fds[0].any() == Some(true) {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => pass(&mut blocks, &chunk[..n], sink, state)?,
            }
        }
    }
}

/// Writes on what is whole.
fn pass(blocks: &mut Blocks, bytes: &[u8], sink: &mut Sink, state: &mut Progress) -> io::Result<()> {
    blocks.push(bytes);
    while let Some(block) = blocks.next_block().map_err(io::Error::other)? {
        state.any = true;
        let packet = block.packet();
        if packet.is_some() {
            if state.left == 0 {
                continue;
            }
            state.left -= 1;
            state.frames += 1;
        }
        state.dropped = block.dropped().unwrap_or(state.dropped);
        match sink {
            Sink::Raw(to) => to.write_all(block.bytes)?,
            Sink::Lines(to) => {
                if let Some(packet) = packet {
                    writeln!(to, "{}", line(&packet))?;
                }
            }
        }
    }
    match sink {
        Sink::Raw(to) => to.flush(),
        Sink::Lines(to) => to.flush(),
    }
}

/// What is said of a frame: time of day (UTC), which way, how long, and what it is of.
fn line(packet: &Seen<'_>) -> String {
    let (seconds, micros) = (packet.at / 1_000_000_000 % 86_400, packet.at / 1000 % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let way = if packet.from_guest { "out" } else { "in " };
    let about = match packet.comment {
        "" => match packet.frame.get(12..14) {
            Some([8, 6]) => "ARP",
            Some([8, 0]) => "IPv4, no flow",
            Some([0x86, 0xdd]) => "IPv6, no flow",
            _ => "no flow",
        },
        comment => comment,
    };
    format!("{hours:02}:{minutes:02}:{seconds:02}.{micros:06} {way} {:5} {about}", packet.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::pcapng;

    #[test]
    fn a_line_says_when_which_way_how_much_and_what() {
        let seen = Seen {
            at: 3_723_000_004_000,
            from_guest: true,
            length: 66,
            frame: &[0; 66],
            comment: "tcp:1.0 x",
            dropped: 0,
        };
        assert_eq!(line(&seen), "01:02:03.000004 out    66 tcp:1.0 x");
        let arp = [&[0; 12][..], &[8, 6]].concat();
        assert_eq!(
            line(&Seen { from_guest: false, comment: "", frame: &arp, ..seen }),
            "01:02:03.000004 in     66 ARP"
        );
    }

    #[test]
    fn what_comes_behind_the_last_frame_is_left_out_but_for_the_totals() {
        let mut bytes = Vec::new();
        pcapng::begin(&mut bytes, "tap0", 100);
        let about = pcapng::Packet { at: 1, way: pcapng::Way::ToGuest, length: 4, comment: "", dropped: 0 };
        for _ in 0..5 {
            pcapng::packet(&mut bytes, &about, 100, [&b"data"[..]].into_iter());
        }
        pcapng::statistics(&mut bytes, 2, 5, 9);
        let mut state = Progress { left: 2, ..Progress::default() };
        pass(&mut Blocks::default(), &bytes, &mut Sink::Raw(Box::new(io::sink())), &mut state).unwrap();
        assert_eq!((state.frames, state.left, state.dropped), (2, 0, 9));
    }
}
