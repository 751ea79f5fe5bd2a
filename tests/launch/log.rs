//! What is said on standard error, by level, by part, and for programs.

use crate::{Bench, run};
use serde_json::Value;

#[test]
fn messages_of_all_processes_are_objects_if_asked_for() {
    let bench = Bench::new();
    let said = run(bench.user(&["run", "--log-level", "debug", "--log-format", "json", "true"]));
    assert_eq!(said.status, 0, "{said:?}");
    let lines: Vec<Value> =
        said.err.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let ready =
        |l: &&Value| l["message"].as_str().is_some_and(|m| m.starts_with("data plane ready: io_uring"));
    let ready = lines.iter().find(ready).unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!((ready["level"].as_str(), ready["part"].as_str()), (Some("info"), Some("control::plane")));
    assert!(lines.iter().all(|l| l["time"].is_string() && l["pid"].is_u64()), "{said:?}");
}

#[test]
fn a_part_may_say_more_than_the_others() {
    let bench = Bench::new();
    let with = |level: &str| run(bench.user(&["run", "--log-level", level, "true"])).err;
    assert!(with("error,control=info").contains("ringtap: info: data plane ready: "));
    assert_eq!(with("error,stack=info"), "");
    let said = run(bench.user(&["run", "--log-level", "info,nothing=debug", "true"]));
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.err.contains("\"nothing\" is no part of ringtap"), "{said:?}");
}
