//! integration-propagation.sh: which mounts of the host, made later, appear inside.

use crate::Started;
use crate::common::{World, sh};

#[test]
fn private_kinds_hide_and_slave_and_shared_kinds_show_a_later_mount() {
    let world = World::new();
    let later = world.lab.dir().join("later");
    std::fs::create_dir(&later).unwrap();
    sh(world.lab.host(), "mount --make-rshared /").ok();
    for (kind, copy_up, shows) in [
        ("private", "--copy-up=/run", false),
        ("rprivate", "--copy-up=/run", false),
        ("slave", "--copy-up=/run", true),
        ("rslave", "--copy-up=/run", true),
        ("shared", "", true),
        ("rshared", "", true),
    ] {
        let script = format!(
            "exec rootlesskit --propagation={kind} {copy_up} sh -c 'echo up; while ! [ -e $XDG_RUNTIME_DIR/mounted ]; do \
             sleep 0.02; done; mountpoint -q {d} && echo shown || echo hidden'",
            d = later.display()
        );
        let mut started = Started::new(&world, &script);
        assert_eq!(started.line(), "up");
        sh(world.lab.host(), &format!("mount -t tmpfs later {}", later.display())).ok();
        crate::sh(&world, "touch $XDG_RUNTIME_DIR/mounted").ok();
        assert_eq!(started.line(), if shows { "shown" } else { "hidden" }, "{kind}");
        drop(started);
        crate::sh(&world, "rm $XDG_RUNTIME_DIR/mounted").ok();
        sh(world.lab.host(), &format!("umount {}", later.display())).ok();
    }
}

#[test]
fn where_the_hosts_root_is_private_that_is_said() {
    let world = World::new();
    sh(world.lab.host(), "mount --make-rprivate /").ok();
    let said = crate::sh(&world, "rootlesskit --propagation=rslave echo ran");
    assert!(said.stderr.contains("not a shared mount"), "{said:?}");
    assert_eq!(said.ok(), "ran\n");
}
