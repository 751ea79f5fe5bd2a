//! What was measured on, and with which versions.

use std::process::{Command, Stdio};

/// The first line that `program --version` says.
pub fn version(program: &str) -> Option<String> {
    said(program, "--version")?.lines().next().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty())
}

/// The same of socat, which wants another option and says who made it first.
pub fn version_of_socat(program: &str) -> Option<String> {
    let text = said(program, "-V")?;
    let line = text.lines().find(|l| l.starts_with("socat version"))?;
    Some(line.split(" on ").next().unwrap_or(line).trim().to_owned())
}

fn said(program: &str, option: &str) -> Option<String> {
    let out = Command::new(program).arg(option).stdin(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Cores, processor and kernel.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("", |(_, c)| c);
    let s = if cores == 1 { "" } else { "s" };
    format!("{cores} core{s} ({cpu}), Linux {}", kernel.trim())
}
