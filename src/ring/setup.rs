//! From a wish to a ring: the ladder of what kernels grant.
//!
//! Theory of operation. `SINGLE_ISSUER`, `DEFER_TASKRUN`, `SUBMIT_ALL` and `CQSIZE` exist from Linux 6.1 on, which is
//! our floor: a kernel that refuses them is too old, and is told so. `NO_SQARRAY` (6.6) is taken where it is granted.
//! Operations are probed rather than inferred from a version. Rings may be charged to RLIMIT_MEMLOCK, per user and given
//! back a moment after a ring is closed (facts/io_uring.md, 6.3): on `ENOMEM` the soft limit is raised to the hard one,
//! then the same size is tried once more, then half, down to 8 entries.
//!
//! A ring is born disabled (`IORING_SETUP_R_DISABLED`), is given what it needs, then takes [`OPERATIONS`] and nothing
//! else for ever ([`enable`]): a plane that was taken over cannot have the kernel open files for it.

use super::error::{RingError, errno_of};
use crate::buf::ArenaConfig;
use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, opcode, squeue};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt;
use std::time::Duration;

/// Smallest submission queue worth having.
const MIN_ENTRIES: u32 = 8;
/// How long the kernel may take to give back what a closed ring was charged.
const UNCHARGE_TIME: Duration = Duration::from_millis(25);

/// How frames are read from a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameReads {
    /// One multishot read (Linux 6.7): a completion per frame without new submissions.
    Multishot,
    /// A few single reads kept in flight, each behind a poll where the descriptor asks for it.
    Single,
}

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Submission queue entries; the kernel rounds up to a power of two. Halved on `ENOMEM`, down to 8.
    pub entries: u32,
    /// Completion queue entries, at least `entries`. Completions beyond it wait in the kernel and are not lost.
    pub cq_entries: u32,
    /// Slots of the arena.
    pub arena: ArenaConfig,
    /// Most operations in flight at once. One more is refused with `ENOMEM` in its completion.
    pub ops: usize,
    /// Do not use better frame reads than these.
    pub frame_reads: FrameReads,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            entries: 128,
            cq_entries: 512,
            arena: ArenaConfig::default(),
            ops: 16 * 1024,
            frame_reads: FrameReads::Multishot,
        }
    }
}

/// What the ladder gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Submission queue entries.
    pub entries: u32,
    /// Completion queue entries.
    pub cq_entries: u32,
    /// `NO_SQARRAY` was granted.
    pub no_sq_array: bool,
    /// How frames are read.
    pub frame_reads: FrameReads,
    /// Waiting in the ring is not shown as waiting for a disk (Linux 6.15).
    pub no_iowait: bool,
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring {}/{}, deferred task work", self.entries, self.cq_entries)?;
        if self.no_sq_array {
            f.write_str(", no SQ array")?;
        }
        f.write_str(match self.frame_reads {
            FrameReads::Multishot => ", multishot frame reads",
            FrameReads::Single => ", single frame reads",
        })?;
        if self.no_iowait {
            f.write_str(", no iowait")?;
        }
        Ok(())
    }
}

/// What is ever submitted, and what for.
pub(super) const OPERATIONS: [(u8, &str); 13] = [
    (opcode::Read::CODE, "IORING_OP_READ"),
    (opcode::ReadMulti::CODE, "IORING_OP_READ_MULTISHOT"),
    (opcode::Write::CODE, "IORING_OP_WRITE"),
    (opcode::Writev::CODE, "IORING_OP_WRITEV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
    (opcode::Recv::CODE, "IORING_OP_RECV"),
    (opcode::RecvMsg::CODE, "IORING_OP_RECVMSG"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT"),
    (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    (opcode::Splice::CODE, "IORING_OP_SPLICE"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
];
/// Flags of submissions that [`super::Ring`] sets.
const FLAGS: squeue::Flags =
    squeue::Flags::BUFFER_SELECT.union(squeue::Flags::IO_HARDLINK).union(squeue::Flags::SKIP_SUCCESS);

/// Restricts a ring to [`OPERATIONS`] and lets it run. The calling thread is the one that may submit from now on.
pub(super) fn enable(uring: &IoUring, frame_reads: FrameReads) -> Result<(), RingError> {
    // A kernel refuses to allow what it does not know.
    let known = |code: u8| code != opcode::ReadMulti::CODE || frame_reads == FrameReads::Multishot;
    let codes = OPERATIONS.iter().map(|(code, _)| *code).filter(|code| known(*code));
    let mut allowed: Vec<Restriction> = codes.map(Restriction::sqe_op).collect();
    allowed.push(Restriction::sqe_flags_allowed(FLAGS.bits()));
    let submitter = uring.submitter();
    submitter
        .register_restrictions(&mut allowed)
        .and_then(|()| submitter.register_enable_rings())
        .map_err(|error| RingError::of("io_uring_register", &error, 0, 0))
}

/// Walks the ladder.
pub(super) fn make(config: &RingConfig) -> Result<(IoUring, Granted), RingError> {
    let mut entries = config.entries.max(MIN_ENTRIES);
    let mut cq_entries = config.cq_entries.max(entries);
    let mut raised = false;
    let mut retried = false;
    loop {
        let error = match build(entries, cq_entries) {
            Ok((uring, no_sq_array)) => return probe(config, uring, no_sq_array),
            Err(error) => error,
        };
        match errno_of(&error) {
            Errno::EINVAL => return Err(RingError::TooOld { lacking: "IORING_SETUP_DEFER_TASKRUN" }),
            Errno::ENOMEM if !raised => {
                raised = true;
                raise_memlock();
            }
            Errno::ENOMEM if !retried => {
                retried = true;
                std::thread::sleep(UNCHARGE_TIME);
            }
            Errno::ENOMEM if entries > MIN_ENTRIES => {
                // The completion queue is the larger part of the charge: it shrinks along.
                entries = (entries / 2).max(MIN_ENTRIES);
                cq_entries = (cq_entries / 2).max(entries);
            }
            _ => return Err(RingError::of("io_uring_setup", &error, entries, cq_entries)),
        }
    }
}

/// What a kernel has to offer to a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the ladder gives.
    pub granted: Granted,
    /// What is ever submitted, and whether the kernel knows it. All but multishot reads are needed.
    pub operations: Vec<(&'static str, bool)>,
}

/// Makes a ring as the data plane would, with its restrictions, and lets it go again.
///
/// # Errors
/// [`RingError`].
pub fn offer() -> Result<Offer, RingError> {
    let (uring, granted) = make(&RingConfig::default())?;
    // Before the restrictions, which forbid it.
    let mut known = Probe::new();
    uring
        .submitter()
        .register_probe(&mut known)
        .map_err(|error| RingError::of("io_uring_register", &error, granted.entries, granted.cq_entries))?;
    enable(&uring, granted.frame_reads)?;
    let operations = OPERATIONS.iter().map(|(code, name)| (*name, known.is_supported(*code))).collect();
    Ok(Offer { granted, operations })
}

/// One try: with `NO_SQARRAY`, and without where the kernel does not know it.
fn build(entries: u32, cq_entries: u32) -> std::io::Result<(IoUring, bool)> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_cqsize(cq_entries).setup_clamp().setup_r_disabled();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let plain = builder.clone();
    match builder.setup_no_sqarray().build(entries) {
        Ok(uring) => Ok((uring, true)),
        Err(error) if errno_of(&error) == Errno::EINVAL => plain.build(entries).map(|uring| (uring, false)),
        Err(error) => Err(error),
    }
}

fn probe(config: &RingConfig, uring: IoUring, no_sq_array: bool) -> Result<(IoUring, Granted), RingError> {
    let mut known = Probe::new();
    let (entries, cq_entries) = (uring.params().sq_entries(), uring.params().cq_entries());
    uring
        .submitter()
        .register_probe(&mut known)
        .map_err(|error| RingError::of("io_uring_register", &error, entries, cq_entries))?;
    let optional = opcode::ReadMulti::CODE;
    let mut needed = OPERATIONS.into_iter().filter(|(code, _)| *code != optional);
    if let Some((_, lacking)) = needed.find(|(code, _)| !known.is_supported(*code)) {
        return Err(RingError::TooOld { lacking });
    }
    let frame_reads = match config.frame_reads {
        FrameReads::Multishot if known.is_supported(opcode::ReadMulti::CODE) => FrameReads::Multishot,
        _ => FrameReads::Single,
    };
    let no_iowait = uring.params().is_feature_no_iowait();
    Ok((uring, Granted { entries, cq_entries, no_sq_array, frame_reads, no_iowait }))
}

/// Lifts the soft limit to the hard one. Without effect where they are equal; a failure shows in the next try.
fn raise_memlock() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}
