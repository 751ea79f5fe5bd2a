//! Telling whoever started us that the network works: `--ready-fd` and systemd's notification socket.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Writes one `1` to `ready_fd` and closes it, and sends `READY=1` to `$NOTIFY_SOCKET`. Nobody listening is no error.
pub fn ready(ready_fd: Option<OwnedFd>) {
    if let Some(fd) = ready_fd
        && let Err(e) = File::from(fd).write_all(b"1")
    {
        tracing::warn!("--ready-fd: {e}");
    }
    if let Err(e) = sd_notify(b"READY=1\n") {
        tracing::warn!("NOTIFY_SOCKET: {e}");
    }
}

/// sd_notify(3): one datagram to a path, or to an abstract name behind `@`.
fn sd_notify(state: &[u8]) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|n| !n.is_empty()) else { return Ok(()) };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(|_| ())
}
