//! What a contender costs: CPU time, memory, switches of its threads.
//!
//! All of it is read of processes from outside, by what everyone may read of /proc, so that it works for an ordinary user and for
//! programs that refuse to be looked into ([`pss`] is the exception). CPU time is that of all threads, io_uring's kernel
//! workers among them, for they are threads of the process. Work that the kernel does in softirq on behalf of a tap is
//! charged to whoever is running: the client, the server and the contender all get some.

use crate::lab::Guest;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::io;

/// KiB of a MiB.
const MIB: f64 = 1024.0;

/// CPU seconds that the contender has used so far. The first program is the holder of the namespace, which does not count.
pub fn cpu(guest: &Guest) -> f64 {
    contender(guest).into_iter().filter_map(cpu_of).sum()
}

/// The contender's processes: those of the guest but the first, the holder of the namespace.
pub fn contender(guest: &Guest) -> Vec<u32> {
    let holder = guest.processes().first().copied();
    guest.processes().into_iter().filter(|&p| Some(p) != holder).collect()
}

/// CPU seconds that a process has used so far, all threads, those that ended too; `None` once it is gone.
pub fn cpu_of(pid: u32) -> Option<f64> {
    // The kernel's clock of the process counts nanoseconds; /proc/PID/stat would tell ticks of 10 ms.
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    let time = clock_gettime(clock).ok()?;
    Some(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

/// As [`cpu_of`], with that of children it has waited for, as a program needs that forks for every connection.
pub fn cpu_with_children(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    // cutime and cstime are fields 16 and 17 (proc_pid_stat(5)), in ticks of 1/100 s on every Linux; state is field 3.
    let ticks = fields.get(13)?.parse::<f64>().ok()? + fields.get(14)?.parse::<f64>().ok()?;
    Some(cpu_of(pid)? + ticks / 100.0)
}

/// Memory of these processes, in MiB, that is not a file's: anonymous pages and shared memory that are resident. A page that
/// several of them have in common counts for each.
pub fn resident(processes: &[u32]) -> f64 {
    let of = |pid: &u32| -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        Some(kib("RssAnon:") + kib("RssShmem:"))
    };
    processes.iter().filter_map(of).sum::<f64>() / MIB
}

/// Proportional set size of these processes, in MiB, without the command that they run (`sleep`).
///
/// # Errors
/// The system lets only root, and not even every root, look into a process like that.
pub fn pss(processes: &[u32]) -> io::Result<f64> {
    let mut kib = 0.0;
    for pid in processes {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim() == "sleep" {
            continue;
        }
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}; run perf as root")))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or("0");
        kib += line.split_whitespace().next().unwrap_or("0").parse::<f64>().map_err(io::Error::other)?;
    }
    Ok(kib / MIB)
}

/// Times that threads of these processes were switched to so far: one that sleeps is not. Threads that ended are forgotten.
///
/// # Errors
/// A process is gone.
pub fn switches(processes: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in processes {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the two calls.
            let Ok(text) = fs::read_to_string(task?.path().join("status")) else { continue };
            let counts = text.lines().filter_map(|l| l.split_once("ctxt_switches:"));
            sum += counts.filter_map(|(_, n)| n.trim().parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    #[test]
    fn the_clock_of_a_process_counts_its_work() {
        let own = std::process::id();
        let before = cpu_of(own).unwrap();
        let start = Instant::now();
        let mut x = 0u64;
        while cpu_of(own).unwrap() - before < 0.02 {
            x = std::hint::black_box(x.wrapping_mul(31) + 1);
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        assert!(cpu_with_children(own).unwrap() >= before + 0.02);
        assert_eq!(cpu_of(u32::MAX), None);
    }

    #[test]
    fn memory_and_switches_of_a_process_are_read() {
        let own = [std::process::id()];
        let before = resident(&own);
        let held = vec![1u8; 64 << 20];
        assert!(resident(&own) > before + 32.0, "{before} {}", resident(&own));
        drop(std::hint::black_box(held));
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        assert!(switches(&[child.id()]).unwrap() < 1000);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(switches(&[child.id()]).is_err());
        assert_eq!(resident(&[child.id()]), 0.0);
    }
}
