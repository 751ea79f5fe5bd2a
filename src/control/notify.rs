//! Telling whoever started us that the network works: `--ready-fd` and systemd's notification socket.

use std::ffi::OsStr;
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
    if let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|n| !n.is_empty())
        && let Err(e) = sd_notify(&name, b"READY=1\n")
    {
        tracing::warn!("NOTIFY_SOCKET: {e}");
    }
}

/// sd_notify(3): one datagram to a path, or to an abstract name behind `@`.
fn sd_notify(name: &OsStr, state: &[u8]) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abstract_names_and_paths_get_one_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("ringtap-notify-test-{}", std::process::id());
        let sockets = [
            (format!("@{name}"), SocketAddr::from_abstract_name(&name).unwrap()),
            (path.display().to_string(), SocketAddr::from_pathname(&path).unwrap()),
        ];
        for (said, address) in sockets {
            let socket = UnixDatagram::bind_addr(&address).unwrap();
            sd_notify(OsStr::new(&said), b"READY=1\n").unwrap();
            let mut text = [0; 16];
            assert_eq!(socket.recv(&mut text).unwrap(), 8, "{said}");
        }
        assert!(sd_notify(OsStr::new("@ringtap-nobody"), b"x").is_err());
    }
}
