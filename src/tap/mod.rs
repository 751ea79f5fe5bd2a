//! Opening a tap device and finding out what it can take off our hands.
//!
//! Theory of operation. A tap is a network interface whose other end is a descriptor: one read is one frame that the
//! guest sent, one write is one frame that it receives. With `IFF_VNET_HDR` each frame is led by a 12-byte virtio-net
//! header, and the guest's kernel then hands over frames of up to 64 KiB without checksums (`TUNSETOFFLOAD` says what
//! we accept) and takes such frames from us. That, not the way we read, is what makes a tap fast (facts/io_uring.md, 4).
//!
//! [`Tap::create`] goes down a ladder: with USO (Linux 6.2), without it, checksums only, nothing. The interface lives in
//! the network namespace in which `/dev/net/tun` was opened, whoever holds the descriptor later: open it inside, pass
//! it out, and [`Tap::adopt`] it. Descriptors are always non-blocking: on older kernels only that keeps reads out of
//! worker threads. Frames are lost when the interface's queue (txqueuelen) is full; there is no backpressure.

mod ioctl;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The device node.
const NODE: &str = "/dev/net/tun";
/// Length of the virtio-net header that we ask for (`struct virtio_net_hdr_v1`).
pub const VNET_HEADER: usize = 12;
// linux/if_tun.h; the USO bits are from Linux 6.2.
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// What the guest's kernel leaves to us in frames that we read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Transport checksums may be missing.
    pub csum: bool,
    /// TCP over IPv4 may come unsegmented.
    pub tso4: bool,
    /// TCP over IPv6 may come unsegmented.
    pub tso6: bool,
    /// Such TCP may carry ECN's CWR flag.
    pub tso_ecn: bool,
    /// UDP may come unsegmented, both families (the kernel grants both or neither).
    pub uso: bool,
}

impl Offloads {
    /// The ladder, best first.
    const LADDER: [Self; 4] = [
        Self { csum: true, tso4: true, tso6: true, tso_ecn: true, uso: true },
        Self { csum: true, tso4: true, tso6: true, tso_ecn: true, uso: false },
        Self { csum: true, tso4: false, tso6: false, tso_ecn: false, uso: false },
        Self { csum: false, tso4: false, tso6: false, tso_ecn: false, uso: false },
    ];

    /// All that there are to be had.
    pub fn is_full(self) -> bool {
        self == Self::LADDER[0]
    }

    fn bits(self) -> u32 {
        [
            (self.csum, TUN_F_CSUM),
            (self.tso4, TUN_F_TSO4),
            (self.tso6, TUN_F_TSO6),
            (self.tso_ecn, TUN_F_TSO_ECN),
            (self.uso, TUN_F_USO4 | TUN_F_USO6),
        ]
        .into_iter()
        .filter_map(|(on, bit)| on.then_some(bit))
        .sum()
    }
}

impl fmt::Display for Offloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.csum, "csum"),
            (self.tso4, "tso4"),
            (self.tso6, "tso6"),
            (self.tso_ecn, "tso-ecn"),
            (self.uso, "uso"),
        ];
        let mut any = false;
        for (_, name) in names.into_iter().filter(|(on, _)| *on) {
            write!(f, "{}{name}", if any { " " } else { "" })?;
            any = true;
        }
        if any { Ok(()) } else { f.write_str("no offloads") }
    }
}

/// Why there is no tap. Each message names the likely cause and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapError {
    /// `ENOENT`, `ENODEV` or `ENXIO` on opening the node.
    NoDriver(Errno),
    /// `EACCES` or `EPERM` on opening the node.
    NoAccess(Errno),
    /// `EPERM` on making or attaching the interface.
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// `EBUSY`.
    Busy {
        /// The interface.
        name: String,
    },
    /// `EINVAL`: an interface of the name exists and is something else, or the name is not one.
    OtherKind {
        /// The interface.
        name: String,
    },
    /// The name cannot be that of an interface.
    BadName {
        /// What was asked for.
        name: String,
    },
    /// A descriptor passed in is not what it should be.
    NotATap(&'static str),
    /// Anything else.
    Other {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

impl TapError {
    /// Words an error of opening the node.
    pub const fn of_node(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Self::NoDriver(errno),
            Errno::EACCES | Errno::EPERM => Self::NoAccess(errno),
            errno => Self::Other { call: "open(/dev/net/tun)", errno },
        }
    }

    /// What is wrong, with the likely cause.
    pub fn cause(&self) -> String {
        match self {
            Self::NoDriver(errno) => format!("{NODE} is not there ({errno}): the tun driver is not loaded"),
            Self::NoAccess(errno) => format!("{NODE} may not be opened by this user ({errno})"),
            Self::NotPermitted { name } => format!("no permission for the interface {name}"),
            Self::Busy { name } => format!("the interface {name} is in use by another program"),
            Self::OtherKind { name } => {
                format!("{name} cannot be a tap: an interface of that name exists and is of another kind")
            }
            Self::BadName { name } => format!("{name:?} is no interface name"),
            Self::NotATap(why) => format!("the descriptor is no usable tap ({why})"),
            Self::Other { call, errno } => format!("{call} failed: {errno}"),
        }
    }

    /// What to do about it; `None` where nothing is known.
    pub const fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoDriver(_) => {
                "as root, `modprobe tun` (in a container, pass the device: `--device /dev/net/tun`)"
            }
            Self::NoAccess(_) => {
                "as root, `chmod 0666 /dev/net/tun`, and for after the next boot a udev rule: KERNEL==\"tun\", \
                 MODE=\"0666\""
            }
            Self::NotPermitted { .. } => {
                "making one needs CAP_NET_ADMIN in its network namespace (be root in a user namespace that owns it), \
                 attaching to one needs to be its owner"
            }
            Self::Busy { .. } => "stop it, or choose another name",
            Self::OtherKind { .. } => "choose another name",
            Self::BadName { .. } => "1 to 15 characters without spaces, '/' and ':'",
            Self::NotATap(_) => "it must be a tap without packet information (IFF_TAP|IFF_NO_PI)",
            Self::Other { .. } => return None,
        })
    }
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for TapError {}

/// Whether this user may open the device node here.
///
/// # Errors
/// [`TapError`].
pub fn node() -> Result<(), TapError> {
    open_node().map(drop)
}

fn open_node() -> Result<OwnedFd, TapError> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    open(NODE, flags, Mode::empty()).map_err(TapError::of_node)
}

/// Whether the interface of a tap is gone: deleted, or ended with its namespace.
///
/// Whoever reads or polls is woken at that moment, but just before the descriptor says so (drivers/net/tun.c, `tun_detach_all`): one
/// that is quick looks too early, finds nothing, and is never woken again.
pub fn is_gone(fd: BorrowedFd<'_>) -> bool {
    ioctl::interface(fd).is_err_and(|errno| errno == Errno::EBADFD)
}

/// A tap, attached to its interface.
#[derive(Debug)]
pub struct Tap {
    /// One queue of the interface, non-blocking.
    pub fd: OwnedFd,
    /// Name of the interface at the time of opening.
    pub name: String,
    /// Frames are led by a virtio-net header of [`VNET_HEADER`] bytes.
    pub vnet: bool,
    /// What frames that we read may lack. None without `vnet`.
    pub offloads: Offloads,
    /// The interface was made for several queues.
    pub multi_queue: bool,
}

impl Tap {
    /// Makes the interface `name` in the current network namespace, or attaches to it if it exists and is persistent,
    /// with all offloads that can be had. A name that ends in `%d` lets the kernel pick the number.
    pub fn create(name: &str) -> Result<Self, TapError> {
        Self::open(name, &[libc::IFF_VNET_HDR, libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE, 0])
    }

    /// Like [`Self::create`], without virtio-net header and offloads: a frame is a frame.
    pub fn create_plain(name: &str) -> Result<Self, TapError> {
        Self::open(name, &[0, libc::IFF_MULTI_QUEUE])
    }

    /// Takes over a tap that somebody else opened: learns what it is, makes it non-blocking, and claims the offloads if
    /// it has a virtio-net header. It must have been opened with `IFF_NO_PI`, which cannot be checked: `TUNGETIFF`
    /// reports `IFF_NOFILTER` in the same bit (drivers/net/tun.c).
    pub fn adopt(fd: OwnedFd) -> Result<Self, TapError> {
        let found = ioctl::interface(fd.as_fd()).map_err(|errno| match errno {
            Errno::EBADFD => TapError::NotATap("it is attached to no interface"),
            _ => TapError::NotATap("it does not belong to the tun driver"),
        })?;
        let flags = fcntl(fd.as_fd(), FcntlArg::F_GETFL)
            .map(OFlag::from_bits_retain)
            .and_then(|flags| fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)));
        flags.map_err(|errno| TapError::Other { call: "fcntl(O_NONBLOCK)", errno })?;
        Self::settle(fd, found)
    }

    /// Tries one set of flags after the other, as long as the kernel finds them invalid.
    fn open(name: &str, ladder: &[i32]) -> Result<Self, TapError> {
        let bad = |b: u8| b <= b' ' || b == b'/' || b == b':' || b == 0x7f;
        if name.is_empty() || name.len() > ioctl::MAX_NAME || name.bytes().any(bad) {
            return Err(TapError::BadName { name: name.to_owned() });
        }
        let fd = open_node()?;
        let mut last = Errno::EINVAL;
        for extra in ladder {
            match ioctl::set_interface(fd.as_fd(), name, libc::IFF_TAP | libc::IFF_NO_PI | extra) {
                Ok(made) => return Self::settle(fd, made),
                Err(errno) => last = errno,
            }
            if last != Errno::EINVAL {
                break;
            }
        }
        let name = name.to_owned();
        Err(match last {
            Errno::EPERM | Errno::EACCES => TapError::NotPermitted { name },
            Errno::EBUSY | Errno::E2BIG => TapError::Busy { name },
            Errno::EINVAL | Errno::EEXIST => TapError::OtherKind { name },
            errno => TapError::Other { call: "ioctl(TUNSETIFF)", errno },
        })
    }

    /// Header length and offloads of an attached interface.
    fn settle(fd: OwnedFd, found: ioctl::Interface) -> Result<Self, TapError> {
        if found.flags & libc::IFF_TAP == 0 {
            return Err(TapError::NotATap("it is a tun: it carries packets, not frames"));
        }
        let vnet = found.flags & libc::IFF_VNET_HDR != 0;
        let mut offloads = Offloads::default();
        if vnet {
            ioctl::set_vnet_header_len(fd.as_fd(), VNET_HEADER as i32)
                .map_err(|errno| TapError::Other { call: "ioctl(TUNSETVNETHDRSZ)", errno })?;
            let granted =
                Offloads::LADDER.into_iter().find(|o| ioctl::set_offload(fd.as_fd(), o.bits()).is_ok());
            offloads = granted.unwrap_or_default();
        } else {
            // Whoever had it before may have claimed offloads, which nothing could express without the header.
            let _ = ioctl::set_offload(fd.as_fd(), 0);
        }
        let multi_queue = found.flags & libc::IFF_MULTI_QUEUE != 0;
        Ok(Self { fd, name: found.name, vnet, offloads, multi_queue })
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
pub(crate) mod tests;
