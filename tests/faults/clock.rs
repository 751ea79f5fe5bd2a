//! Clocks that jump.
//!
//! CLOCK_MONOTONIC never does: a time namespace's offset is fixed before its first process runs (time_namespaces(7)), and a
//! suspended machine does not count. What a process does see is time that has passed at once while it was stopped
//! (`stopped.rs`) and a clock that is far ahead when it starts. CLOCK_REALTIME jumps, and nothing here looks at it but the
//! time stamps of logs and captures.

use crate::common::{World, need, outcome};
use std::fs;
use std::path::Path;

/// Files that may: stamps for people to read.
const STAMPS: [&str; 5] =
    ["plane/pcap.rs", "plane/capture.rs", "cli/log/line.rs", "cli/callers.rs", "control/api/instance.rs"];

#[test]
fn only_stamps_for_people_read_the_clock_that_jumps() {
    fn look(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let words = [
                "SystemTime",
                "CLOCK_REALTIME",
                "ClockId::Realtime",
                "gettimeofday(",
                "TFD_TIMER_CANCEL_ON_SET",
            ];
            if words.iter().any(|w| text.contains(w)) {
                found.push(path.display().to_string());
            }
        }
    }
    let mut found = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    if fs::read_dir(&src).is_err() {
        // The programs were copied to a user who may not read them; who has built them looks.
        return eprintln!("{} is out of reach", src.display());
    }
    look(&src, &mut found);
    // The bench stamps its reports.
    found.retain(|file| !STAMPS.iter().any(|s| file.ends_with(s)) && !file.contains("/src/bench/"));
    assert!(found.is_empty(), "{found:?}");
    assert!(src.join(STAMPS[0]).exists() && src.join("bench").exists());
}

#[test]
fn a_monotonic_clock_that_is_years_ahead_is_as_good_as_any() {
    need("unshare");
    let world = World::new();
    let mut command = world.lab.host().command("unshare").unwrap();
    // Seventy years, and a boot time to match.
    let years = (70u64 * 365 * 86_400).to_string();
    command.args(["--time", "--monotonic", &years, "--boottime", &years, "--fork"]);
    command.arg(world.lab.bin("ringtap"));
    command.args(["run", "--", "sh", "-ec"]);
    command.arg(
        "test $(cut -d. -f1 /proc/uptime) -gt 2000000000
         curl -sS --max-time 20 http://server.test/peer; ping -c 1 -W 10 10.0.2.2",
    );
    outcome("seventy years ahead", command).ok();
}
