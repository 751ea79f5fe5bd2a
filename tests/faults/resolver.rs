//! The host's resolv.conf vanishes and comes back.

use crate::common::{World, need, sh};
use crate::{Instance, eventually};

/// /etc of a mount namespace of its own, so that its resolv.conf is a file that can be removed. $0 is the program.
const OWN_ETC: &str = "
    cp -a /etc \"$XDG_RUNTIME_DIR/etc\" 2>/dev/null || true # but for what only root may read
    cp /etc/resolv.conf \"$XDG_RUNTIME_DIR/new\"
    rm -f \"$XDG_RUNTIME_DIR/etc/resolv.conf\"; mv \"$XDG_RUNTIME_DIR/new\" \"$XDG_RUNTIME_DIR/etc/resolv.conf\"
    mount --bind \"$XDG_RUNTIME_DIR/etc\" /etc
    exec \"$0\" run -- sh -c 'echo ready; exec sleep infinity'";

#[test]
fn without_it_the_last_resolvers_serve_on_and_a_new_one_is_followed() {
    need("dig");
    let world = World::new();
    let mut command = world.lab.host().command("unshare").unwrap();
    command.args(["-m", "sh", "-ec", OWN_ETC]).arg(world.lab.bin("ringtap"));
    let instance = Instance::start(&world, command, "run");
    let file = world.lab.dir().join("run/etc/resolv.conf");
    let resolves = || sh(instance.guest.place(), "dig +short +tries=2 +time=2 @10.0.2.3 server.test").stdout;
    assert_eq!(resolves(), "203.0.113.80\n");
    // It belongs to a user of the lab's, who alone may change it.
    let change = |script: &str| sh(world.lab.host(), &script.replace("FILE", file.to_str().unwrap())).ok();
    let text = change("cat FILE; rm FILE");
    // What watches it has its second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(resolves(), "203.0.113.80\n");
    // Somebody who answers nothing, and then the old one, by way of a rename as resolvconf(8) does it.
    for (servers, answer) in [("nameserver 203.0.113.66\n", ""), (text.as_str(), "203.0.113.80\n")] {
        change(&format!("printf '%s' '{servers}' > FILE.new; mv FILE.new FILE"));
        eventually("the change to be followed", || {
            resolves().trim() == answer.trim() || {
                // dig says so on standard output when nobody answers.
                answer.is_empty() && resolves().contains("timed out")
            }
        });
    }
    assert!(!instance.said().contains("panicked"));
}
