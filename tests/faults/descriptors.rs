//! Control without descriptors: what comes by the API is refused with a reason, and served when there are some again.

use crate::common::{World, outcome};
use crate::{Instance, echo};
use std::process::Command;

fn port_add(world: &World, spec: &str) -> crate::common::Outcome {
    let mut command: Command = world.ringtap(true);
    command.args(["port", "add", spec]);
    outcome(spec, command)
}

#[test]
fn a_port_that_no_descriptor_is_left_for_is_refused_and_the_rest_works_on() {
    let world = World::new();
    let mut command = world.lab.host().command_as_user("sh").unwrap();
    let script = format!(
        "ulimit -n 128; exec \"{}\" run -- sh -c 'echo ready; exec sleep infinity'",
        world.lab.bin("ringtap").display()
    );
    command.args(["-c", &script]);
    let instance = Instance::start(&world, command, "user-run");
    port_add(&world, "8000:80").ok();
    let said = port_add(&world, "9000-9199:9000-9199").failed();
    assert!(said.contains("ulimit -Hn") || said.contains("open files"), "{said}");
    // Nothing of it stays, and what was there goes on.
    port_add(&world, "9000:80").ok();
    assert!(echo(&instance.guest).is_some());
    assert_eq!(instance.said(), "");
}
