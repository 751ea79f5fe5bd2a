//! `ringtap bench`, as an ordinary user: tiny runs end to end, their JSON, what is broken or absent, and comparisons.
//!
//! Figures of runs this short mean nothing, so nothing here looks at how large one is.

mod common;

use common::{Outcome, need, outcome};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// As little as gives a figure.
const TINY: [&str; 4] = ["--rounds", "2", "--seconds", "0.1"];

/// A directory with the program, which other users may enter as well.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let built = std::env::var_os("RINGTAP_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_ringtap").into());
        let place = Self(dir);
        place.sh(&format!("install -m 755 '{}' ringtap", PathBuf::from(built).display()));
        place
    }

    /// Programs are written by others: a child that another test forks meanwhile would keep ours open, and busy.
    fn sh(&self, script: &str) {
        assert!(
            Command::new("sh").args(["-ec", script]).current_dir(self.0.path()).status().unwrap().success()
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `ringtap bench OPTIONS`, by somebody without privileges: the caller, or nobody where that is root.
    fn bench(&self, options: &[&str]) -> Outcome {
        let program = self.path("ringtap");
        let mut command = match nix::unistd::geteuid().is_root() {
            true => {
                need("setpriv");
                let mut setpriv = Command::new("setpriv");
                setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
                setpriv
            }
            false => Command::new(&program),
        };
        command.arg("bench").args(options).current_dir(self.0.path());
        outcome(&options.join(" "), command)
    }

    /// The report of a run.
    fn report(&self, options: &[&str]) -> Value {
        serde_json::from_str(&self.bench(&[&TINY, options, &["--json=-"]].concat()).ok()).unwrap()
    }

    fn write(&self, name: &str, report: &Value) -> PathBuf {
        std::fs::write(self.path(name), report.to_string()).unwrap();
        self.path(name)
    }
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().unwrap().iter().find(|v| v["name"] == name || v["id"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
}

#[test]
fn an_ordinary_user_measures_every_kind_of_load() {
    let place = Place::new();
    // One of each, most loads out of the namespace and some into it.
    let cells = "outbound/1500/tcp-1,outbound/1500/tcp-4-both,outbound/1500/rr-1,outbound/1500/connect,\
                 outbound/1500/udp,published/tcp-1-up,published/rr-1024,published/udp-up";
    let report = place.report(&["--only", cells, "--against", "ringtap"]);
    for id in [
        "outbound/1500/tcp-1-up",
        "outbound/1500/tcp-1-down",
        "outbound/1500/tcp-1-both",
        "outbound/1500/tcp-4-both",
        "outbound/1500/rr-1",
        "outbound/1500/connect",
        "outbound/1500/udp-up",
        "outbound/1500/udp-down",
        "outbound/1500/udp-rr",
        "published/tcp-1-up",
        "published/rr-1024",
        "published/udp-up",
    ] {
        let row = named(&report["rows"], id);
        let mut names = vec!["direct", "ringtap"];
        names.extend(id.starts_with("published").then_some("ringtap injected"));
        for name in names {
            let entry = named(&row["entries"], name);
            assert_eq!(entry["samples"].as_array().unwrap().len(), 2, "{id}: {entry:#}");
            assert!(entry["figure"]["median"].as_f64().unwrap() > 0.0, "{id}: {entry:#}");
            let counted = name != "direct";
            assert_eq!(entry["cost"]["median"].is_number(), counted, "{id}: {entry:#}");
            assert_eq!(entry["memory_mib"].is_number(), counted, "{id}: {entry:#}");
            assert_eq!(entry["lost_percent"].is_number(), id.contains("/udp"), "{id}: {entry:#}");
            let timed = id.contains("rr") || id.contains("connect");
            assert_eq!(entry["latency"]["us"].is_array(), timed, "{id}: {entry:#}");
        }
    }
    let not_run = report["not_run"].as_array().unwrap();
    assert!(not_run.iter().any(|c| c["id"] == "outbound/65520/tcp-1-up"));
    assert!(not_run.iter().all(|c| c["id"] != "outbound/1500/rr-1"));
}

#[test]
fn the_impaired_link_and_idle_connections_are_measured_too() {
    let place = Place::new();
    let cells = "outbound/1500/impaired/rr-1,published/impaired/tcp-1-up,outbound/1500/idle/rr-1";
    let report = place.report(&["--only", cells, "--against", "ringtap", "--idle", "50"]);
    for id in ["outbound/1500/impaired/rr-1", "outbound/1500/impaired/rr-1024", "outbound/1500/idle/rr-1"] {
        for name in ["direct", "ringtap"] {
            let entry = named(&named(&report["rows"], id)["entries"], name);
            let median = entry["figure"]["median"].as_f64().unwrap_or_else(|| panic!("{id}: {entry:#}"));
            // Twice 5 ms lie on the impaired link.
            assert!(!id.contains("impaired") || median >= 10_000.0, "{id}: {median}");
        }
    }
    let row = named(&report["rows"], "published/impaired/tcp-1-up");
    for name in ["direct", "ringtap", "ringtap injected"] {
        assert!(named(&row["entries"], name)["figure"]["median"].as_f64().unwrap() > 0.0, "{row:#}");
    }
}

#[test]
fn peers_that_are_installed_take_part_and_every_one_is_listed() {
    for program in ["slirp4netns", "rootlesskit"] {
        need(program);
    }
    let place = Place::new();
    let report = place.report(&["--only", "outbound/1500/rr-1,published/rr-1"]);
    for name in ["ringtap", "slirp4netns", "pasta", "rootlesskit", "socat"] {
        let listed = named(&report["contenders"], name);
        assert!(listed["program"].is_string() || listed["problem"] == "not in PATH", "{listed:#}");
    }
    let works = |id: &str, name: &str| {
        let entry = named(&named(&report["rows"], id)["entries"], name);
        assert!(entry["problem"].is_null() && entry["figure"].is_object(), "{entry:#}");
        assert!(entry["peer"] == true && entry["cost"].is_object(), "{entry:#}");
    };
    works("outbound/1500/rr-1", "slirp4netns");
    works("published/rr-1", "rootlesskit builtin");
    works("published/rr-1", "rootlesskit slirp4netns");
    for (name, id) in
        [("pasta", "outbound/1500/rr-1"), ("pasta", "published/rr-1"), ("socat", "published/rr-1")]
    {
        if named(&report["contenders"], name)["program"].is_string() {
            works(id, name);
        }
    }
}

#[test]
fn a_broken_contender_is_reported_and_stops_nobody() {
    let place = Place::new();
    let broken = place.path("broken");
    let script = r#"printf '%s\n' '#!/bin/sh' 'echo "the flux is not compensated" >&2; exit 3' > broken; chmod 755 broken"#;
    place.sh(script);
    let with = format!("slirp4netns-broken={}", broken.display());
    let options = ["--only", "outbound/1500/rr-1", "--against", "slirp4netns-broken", "--with", &with];
    let report = place.report(&options);
    let row = named(&report["rows"], "outbound/1500/rr-1");
    let problem = named(&row["entries"], "slirp4netns-broken")["problem"].as_str().unwrap();
    assert!(
        problem.contains("does not start") && problem.contains("the flux is not compensated"),
        "{problem}"
    );
    assert!(named(&row["entries"], "ringtap")["figure"]["median"].as_f64().unwrap() > 0.0);
    // And it is in what people read.
    let text = place.bench(&["--show", place.write("r.json", &report).to_str().unwrap()]).ok();
    assert!(text.contains("Did not work") && text.contains("the flux is not compensated"), "{text}");
    assert!(text.contains("Not run"), "{text}");
}

/// A report of one row, as `--json` would write it.
fn made_up(ringtap: [f64; 3]) -> Value {
    let entry = |name: &str, samples: [f64; 3]| {
        let mut sorted = samples;
        sorted.sort_by(f64::total_cmp);
        let [low, median, high] = sorted;
        json!({
            "name": name, "peer": false, "figure": {"median": median, "low": low, "high": high},
            "samples": samples, "cost": null, "cost_samples": [], "switches": null, "memory_mib": null,
            "lost_percent": null, "latency": null, "problem": null,
        })
    };
    json!({
        "format": 1, "ringtap": "0", "machine": "m", "by_root": false, "unix_time": 0, "took_s": 1.0,
        "scope": "quick", "rounds": 3, "window_s": 1.0, "contenders": [], "not_run": [],
        "rows": [{
            "id": "outbound/1500/tcp-1-up", "section": "s", "title": "t", "unit": "Gbit/s", "more_is_better": true,
            "cost_unit": "CPU s/GB", "entries": [entry("direct", [10.0, 10.1, 9.9]), entry("ringtap", ringtap)],
        }],
    })
}

#[test]
fn a_made_up_regression_is_found_and_told_by_the_exit_status() {
    let place = Place::new();
    let old = place.write("old.json", &made_up([8.0, 8.1, 7.9]));
    let compare =
        |new: &Path| place.bench(&["--show", new.to_str().unwrap(), "--compare", old.to_str().unwrap()]);
    let worse = compare(&place.write("worse.json", &made_up([5.0, 5.1, 5.05])));
    assert_eq!(worse.status.code(), Some(3), "{worse:?}");
    assert!(worse.stdout.contains("worse: outbound/1500/tcp-1-up, ringtap: 0.80 of direct"), "{worse:?}");
    let same = compare(&place.write("same.json", &made_up([8.2, 7.9, 8.0]))).ok();
    assert!(same.contains("1 of 1 figures within the noise"), "{same}");
    let better = compare(&place.write("better.json", &made_up([9.8, 9.9, 9.7]))).ok();
    assert!(better.contains("better: outbound/1500/tcp-1-up, ringtap"), "{better}");
}

#[test]
fn a_picture_is_drawn_and_what_cannot_be_read_or_run_is_said_in_a_line() {
    let place = Place::new();
    let report = place.write("r.json", &made_up([8.0, 8.1, 7.9]));
    place.bench(&["--show", report.to_str().unwrap(), "--svg", "r.svg"]).ok();
    let svg = std::fs::read_to_string(place.path("r.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains(">ringtap<"), "{svg}");
    std::fs::write(place.path("not.json"), "{}").unwrap();
    for (options, says) in [
        (&["--show", "not.json"][..], "ringtap bench --json=FILE"),
        (&["--compare", "nowhere.json"], "nowhere.json"),
        (&["--only", "tcp-5"], "no cell is called tcp-5"),
        (&["--against", "vpnkit"], "no program is called vpnkit"),
    ] {
        let said = place.bench(options).failed();
        assert!(said.starts_with("ringtap: ") && said.contains(says) && said.lines().count() == 1, "{said}");
    }
}
