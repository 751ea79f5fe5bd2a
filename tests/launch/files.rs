//! What the file system shows inside.

use crate::{Bench, eventually, read_until, run};
use std::io::Write;
use std::process::Stdio;

#[test]
fn resolv_conf_names_our_resolver_and_keeps_search_and_options() {
    let bench = Bench::new();
    bench
        .lab
        .set_resolv_conf("search a.example b.example\nnameserver 192.0.2.53\noptions ndots:3\n")
        .unwrap();
    let said = run(bench.user(&["run", "cat", "/etc/resolv.conf"]));
    assert_eq!(
        said.out,
        "nameserver 10.0.2.3\nnameserver fd00::3\nsearch a.example b.example\noptions ndots:3\n"
    );
    let said = run(bench.user(&["run", "--no-ipv6", "--cidr", "10.7.0.0/24", "cat", "/etc/resolv.conf"]));
    assert!(said.out.starts_with("nameserver 10.7.0.3\nsearch"), "{said:?}");
}

#[test]
fn a_change_of_the_hosts_file_is_followed() {
    let bench = Bench::new();
    let mut command =
        bench.user(&["run", "sh", "-c", "echo up; while read line; do cat /etc/resolv.conf; echo end; done"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    read_until(&mut stdout, "up\n");
    bench.lab.set_resolv_conf("nameserver 192.0.2.99\nsearch late.example\n").unwrap();
    eventually("the search list inside", || {
        stdin.write_all(b"\n").unwrap();
        read_until(&mut stdout, "end\n")
            .contains("nameserver 10.0.2.3\nnameserver fd00::3\nsearch late.example\n")
    });
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn hosts_names_the_machine() {
    let bench = Bench::new();
    let said = run(bench.user(&["run", "--hostname", "inside-7", "cat", "/etc/hosts"]));
    assert!(said.out.contains("127.0.0.1 inside-7\n::1 inside-7\n"), "{said:?}");
}

#[test]
fn proc_and_sys_are_those_of_the_namespaces() {
    let bench = Bench::new();
    let script = "ls /sys/class/net; for p in /proc/[0-9]*; do echo $p; done";
    let said = run(bench.user(&["run", "sh", "-c", script]));
    assert_eq!(said.err, "");
    assert_eq!(said.out, "lo\ntap0\n/proc/1\n/proc/2\n", "{said:?}");
}

#[test]
fn a_copied_up_directory_is_writable_and_the_hosts_is_untouched() {
    let bench = Bench::new();
    let script = "set -e; echo x > /etc/new-file; ls -d /etc/.ro*; readlink /etc/passwd; \
                  rm /etc/passwd; echo mine > /etc/passwd; cat /etc/passwd /etc/resolv.conf; \
                  test -f /etc/resolv.conf && test ! -L /etc/resolv.conf; ls -ld /run/lock >/dev/null || ls /run";
    let said =
        run(bench.user(&["run", "--no-ipv6", "--copy-up", "/etc", "--copy-up", "/run", "sh", "-c", script]));
    assert_eq!(said.status, 0, "{said:?}");
    let lines: Vec<_> = said.out.lines().collect();
    let hidden = lines[0].strip_prefix("/etc/").unwrap();
    assert_eq!(lines[1], format!("{hidden}/passwd"));
    assert_eq!(&lines[2..4], ["mine", "nameserver 10.0.2.3"], "{said:?}");
    assert!(!std::path::Path::new("/etc/new-file").exists());
    let said = run(bench.user(&["run", "--copy-up", "/no/such/dir", "true"]));
    assert_eq!(said.status, 1);
    assert!(
        said.err.starts_with("ringtap: cannot mount a copy-up of /no/such/dir: ")
            && said.err.lines().count() == 1,
        "{said:?}"
    );
}

#[test]
fn mounts_do_not_leak() {
    let bench = Bench::new();
    let before = run(bench.root_shell("cat /proc/self/mountinfo")).out;
    let script = "mount -t tmpfs leaked /mnt && exec \"$R\" run --propagation slave sh -c 'mount -t tmpfs deeper /mnt; grep -c deeper /proc/self/mountinfo'; ";
    let said = run(bench.user(&["run", "sh", "-c", script]).tap_env("R", &bench.ringtap()));
    assert_eq!((said.status, said.out.as_str()), (0, "1\n"), "{said:?}");
    assert_eq!(run(bench.root_shell("cat /proc/self/mountinfo")).out, before);
}

/// `Command::env`, by value.
trait TapEnv {
    fn tap_env(self, key: &str, value: &str) -> Self;
}

impl TapEnv for std::process::Command {
    fn tap_env(mut self, key: &str, value: &str) -> Self {
        self.env(key, value);
        self
    }
}

#[test]
fn a_umask_takes_nothing_from_the_guest_nor_from_later_starts() {
    let bench = Bench::new();
    for umask in ["777", "077", "000"] {
        let script = format!("umask {umask}; exec \"$R\" run stat -Lc %a /etc/hosts /etc/resolv.conf");
        let said = run(bench.shell(&script));
        assert_eq!((said.status, said.out.as_str()), (0, "644\n644\n"), "{umask}: {said:?}");
    }
    assert_eq!(run(bench.user(&["run", "true"])).status, 0);
}

#[test]
fn without_a_resolv_conf_it_starts_and_says_what_helps() {
    let bench = Bench::new();
    for make in ["true", "ln -s /run/nowhere /etc/resolv.conf", "mkdir /etc/resolv.conf"] {
        let script = format!("mount -t tmpfs none /etc && {make}");
        let script = format!(
            "{script} && \"$R\" run grep -q tap0 /proc/net/route \
             && exec \"$R\" run --copy-up /etc cat /etc/resolv.conf"
        );
        let mut command = bench.root_shell("exec unshare --mount sh -c \"$S\"");
        command.env("S", script);
        let said = run(command);
        assert_eq!(said.status, 0, "{make}: {said:?}");
        assert!(said.err.contains("--copy-up /etc"), "{make}: {said:?}");
        assert!(said.out.starts_with("nameserver 10.0.2.3\n"), "{make}: {said:?}");
    }
}
