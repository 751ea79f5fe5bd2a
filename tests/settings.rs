//! Settings, end to end: config.toml and the environment hold for `run`, slirp4netns and rootlesskit, in the order that is
//! promised; what is wrong is told in one line; what the user has closed stays closed for COMMAND.

mod common;

use common::{HOST, Outcome, World, need, outcome};
use ringtap::lab::Server;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

/// Whom the guest asks, and a line of the settings that closes it.
const WEB: &str = "http://203.0.113.80/peer";
const CLOSED: &str = "[policy]\ndeny = [\"203.0.113.0/24\"]\n";
/// How `run` is started, and how Docker starts rootlesskit; `$ask` runs inside.
const STARTS: [&str; 2] = [
    "ringtap run -- sh -c \"$ask\"",
    "rootlesskit --net=slirp4netns --disable-host-loopback --copy-up=/etc --port-driver=builtin sh -c \"$ask\"",
];

fn sh(world: &World, script: &str) -> Outcome {
    outcome(script, world.shell(script))
}

/// A script line that writes the settings.
fn file(text: &str) -> String {
    format!("mkdir -p $HOME/.config/ringtap; cat > $HOME/.config/ringtap/config.toml <<'EOF'\n{text}\nEOF\n")
}

/// A script that asks for `url` from inside of a network that `start` makes; it says `200`, or `000` if nobody answered.
fn asking(start: &str, url: &str) -> String {
    format!("ask='curl -gsS -o /dev/null -w %{{http_code}} -m 20 {url}'; {start}")
}

/// A script that attaches slirp4netns with `flags` to a namespace, then asks there.
fn attached(flags: &str, url: &str) -> String {
    format!(
        "ask='curl -gsS -o /dev/null -w %{{http_code}} -m 20 {url}'
         d=$(mktemp -d); mkfifo $d/pid $d/go $d/ready
         unshare -rmn sh -c 'echo $$ > $1/pid; read x < $1/go; sh -c \"$2\"' sh $d \"$ask\" & g=$!
         read pid < $d/pid
         slirp4netns -c -r 3 {flags} $pid tap0 3>$d/ready >/dev/null & s=$!
         if read -r x < $d/ready || [ \"$x\" = 1 ]; then echo > $d/go; wait $g; r=$?; kill $s; wait $s
         else wait $s; r=$?; kill $g; fi; exit $r"
    )
}

#[test]
fn a_destination_that_the_file_denies_is_denied_whoever_starts_the_network() {
    need("curl");
    let world = World::new();
    for script in [asking(STARTS[0], WEB), asking(STARTS[1], WEB), attached("--disable-host-loopback", WEB)] {
        assert_eq!(sh(&world, &format!("{}{script}", file("# nothing"))).ok(), "200", "{script}");
        let denied = sh(&world, &format!("{}{script}", file(CLOSED)));
        assert_eq!(denied.failed().get(..3), Some("000"), "{script}");
        // Another destination is as open as ever.
        let other = script.replace(WEB, "http://[2001:db8:203::80]/peer");
        let other = other.replace("--disable-host-loopback", "--enable-ipv6 --disable-host-loopback");
        let other = other
            .replace("rootlesskit --net=slirp4netns --enable-ipv6", "rootlesskit --net=slirp4netns --ipv6");
        assert_eq!(sh(&world, &format!("{}{other}", file(CLOSED))).ok(), "200", "{other}");
    }
}

#[test]
fn the_environment_beats_the_file_and_a_flag_beats_both() {
    need("curl");
    let world = World::new();
    let closed = file(CLOSED);
    for script in [asking(STARTS[0], WEB), asking(STARTS[1], WEB), attached("--disable-host-loopback", WEB)] {
        let opened = format!("{closed} export RINGTAP_POLICY_DENY=; {script}");
        assert_eq!(sh(&world, &opened).ok(), "200", "{script}");
        let closed = format!("{} export RINGTAP_POLICY_DENY=203.0.113.80:80; {script}", file("# nothing"));
        sh(&world, &closed).failed();
    }
    let by_flag = asking("ringtap run --deny 192.0.2.1 -- sh -c \"$ask\"", WEB);
    assert_eq!(sh(&world, &format!("{closed} export RINGTAP_POLICY_DENY=all; {by_flag}")).ok(), "200");
}

#[test]
fn what_a_caller_closes_by_a_flag_is_not_opened_by_a_setting() {
    need("curl");
    let world = World::new();
    let at: SocketAddr = "127.0.0.1:9099".parse().unwrap();
    let _server = Server::http(world.lab.host().tcp_listener(at).unwrap(), None);
    let gateway = "http://10.0.2.2:9099/";
    let open = "[policy]\nhost-loopback = true";
    let closed = "[policy]\nhost-loopback = false";
    let rootlesskit =
        |flags: &str| asking(&format!("rootlesskit --net=slirp4netns {flags} sh -c \"$ask\""), gateway);
    for (settings, script, opens) in [
        (open, asking(STARTS[0], gateway), true),
        (open, rootlesskit("--disable-host-loopback"), false),
        (open, attached("--disable-host-loopback", gateway), false),
        (closed, rootlesskit(""), false),
        (closed, attached("", gateway), false),
        (closed, asking("ringtap run --allow-host-loopback -- sh -c \"$ask\"", gateway), true),
        (open, asking("ringtap run --allow-host-loopback=false -- sh -c \"$ask\"", gateway), false),
        ("[policy]\nexpose-host = [\"9099\"]", rootlesskit("--disable-host-loopback"), true),
    ] {
        let said = sh(&world, &format!("{}{script}", file(settings)));
        assert_eq!(said.status.success(), opens, "{settings}: {script}: {said:?}");
    }
}

#[test]
fn outgoing_traffic_and_published_ports_have_the_address_that_is_set() {
    need("curl");
    need("socat");
    let world = World::new();
    let settings = "[network]\noutbound-addr = [\"198.51.100.77\"]\n[publish]\nsource-ip = \"gateway\"";
    for script in [asking(STARTS[0], WEB), asking(STARTS[1], WEB), attached("--disable-host-loopback", WEB)] {
        let before = world.web.peers().len();
        assert_eq!(sh(&world, &format!("{}{script}", file(settings))).ok(), "200");
        let seen = world.web.peers().split_off(before);
        assert!(
            seen.iter().all(|peer| peer.ip().to_string() == "198.51.100.77") && !seen.is_empty(),
            "{seen:?}"
        );
    }
    // A caller's own flag stays.
    let script = attached("--outbound-addr 198.51.100.1", WEB);
    let before = world.web.peers().len();
    sh(&world, &format!("{}{script}", file(settings))).ok();
    let seen = world.web.peers().split_off(before);
    assert!(seen.iter().all(|peer| peer.ip() == HOST[0]) && !seen.is_empty(), "{seen:?}");
    // Whom a server behind a published port sees.
    for (flags, shown) in [("", "10.0.2.2"), ("--source-ip-transparent", "198.51.100.1")] {
        let script = format!(
            "{}rootlesskit --net=slirp4netns --disable-host-loopback --port-driver=builtin {flags} -p 0.0.0.0:8080:80/tcp sh -c '
             exec socat TCP4-LISTEN:80,fork \"SYSTEM:echo \\$SOCAT_PEERADDR\"' & \
             i=0; until got=$(socat -T5 - TCP4:198.51.100.1:8080 2>/dev/null </dev/null) && [ -n \"$got\" ] || [ $i = 200 ]; do \
             sleep 0.05; i=$((i+1)); done; echo \"got $got\"; kill $!; wait",
            file(settings)
        );
        let said = sh(&world, &script);
        assert!(said.stdout.contains(&format!("got {shown}\n")), "{flags}: {said:?}");
    }
}

#[test]
fn what_is_wrong_is_one_line_with_its_place_and_nothing_starts() {
    let world = World::new();
    let config = world.lab.dir().join("home/.config/ringtap/config.toml").display().to_string();
    for (text, line, cause) in [
        ("[policy]\ndenny = []", 2, "policy.denny is no setting; did you mean policy.deny?"),
        (
            "[policy]\n\ndeny = [\"10.0.0.1/8\"]",
            3,
            "policy.deny: 10.0.0.1/8 is not a network address; did you mean 10.0.0.0/8?",
        ),
        ("[policy", 1, "this is not TOML: "),
        ("sandbox = \"of\"", 1, "sandbox: \"of\" is none of on, off, require"),
        ("\nnetwork.outbound-addr = [\"192.0.2.99\"]", 2, "network.outbound-addr: 192.0.2.99: "),
    ] {
        for (start, prefix) in [
            ("ringtap run -- echo started", "ringtap: "),
            ("ringtap attach $$", "ringtap: "),
            ("rootlesskit --net=slirp4netns echo started", "[rootlesskit:parent] error: "),
            ("slirp4netns $$ tap0 | grep -v -e '^-' -e '^Usage' -e '^User-mode' -e '^$'", ""),
        ] {
            let said = sh(&world, &format!("{}{start}", file(text)));
            assert_eq!(said.stdout, "", "{start}");
            assert_eq!(said.stderr.lines().count(), 1, "{start}: {said:?}");
            let begins = format!("{prefix}{config}:{line}: {cause}");
            let whole = said.stderr.strip_prefix("slirp4netns: ").unwrap_or(&said.stderr);
            assert!(whole.starts_with(&begins), "{start}: {said:?}\n{begins}");
        }
    }
    // What starts no network has nothing to do with it, and help is there when it is needed most.
    for other in [
        "ringtap run --help",
        "ringtap install --help",
        "slirp4netns --help",
        "slirp4netns --version",
        "rootlesskit --help",
        "rootlessctl --help",
        "docker-proxy --help",
    ] {
        let said = sh(&world, &format!("{}{other}", file("[policy")));
        assert_eq!(said.stderr, "", "{other}");
        said.ok();
    }
    let said = sh(&world, &format!("{}RINGTAP_DENY=all ringtap run -- echo started", file("")));
    assert_eq!(said.failed(), "ringtap: RINGTAP_DENY: no such setting; did you mean RINGTAP_POLICY_DENY?\n");
}

#[test]
fn a_file_that_others_could_have_written_ends_the_start() {
    let world = World::new();
    let start = "ringtap run -- echo started";
    let said = sh(&world, &format!("{}chmod 666 $HOME/.config/ringtap/config.toml; {start}", file(CLOSED)));
    assert!(said.failed().contains("everybody may write to it"));
    let said = sh(
        &world,
        &format!("{}cd $HOME/.config/ringtap; chmod 644 config.toml; chmod 777 .; {start}", file(CLOSED)),
    );
    assert!(said.failed().contains("everybody may write to its directory"));
    // Of somebody else: a file of another user's where we are root, otherwise one of root's, who has no id in here.
    let foreign = world.lab.dir().join("foreign.toml");
    let path = if world.lab.users_are_real() {
        fs::write(&foreign, CLOSED).unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&foreign, Some(7999), Some(7999)).unwrap();
        foreign.display().to_string()
    } else {
        "/bin/sh".to_owned()
    };
    let said = sh(&world, &format!("RINGTAP_CONFIG={path} {start}"));
    assert!(said.failed().contains(": it belongs to user "));
    // Named and not there is a mistake; empty is none, whatever lies where one would be.
    let said = sh(&world, &format!("RINGTAP_CONFIG=/no/such/file {start}"));
    assert!(said.failed().starts_with("ringtap: /no/such/file: No such file"));
    let said = sh(&world, &format!("{}RINGTAP_CONFIG= {start}", file("[policy")));
    assert_eq!(said.ok(), "started\n");
    // A pipe that nobody writes to.
    let said = sh(&world, &format!("mkfifo $HOME/pipe; RINGTAP_CONFIG=$HOME/pipe {start}"));
    assert!(said.failed().contains(": this is no file"));
}

#[test]
fn without_home_the_file_is_in_the_users_own_home() {
    need("curl");
    let world = World::new();
    // In a namespace of one id we are its root, whose home is not the lab's.
    let (home, start) = match world.lab.users_are_real() {
        true => ("env -u HOME", CLOSED),
        false => ("env HOME= XDG_CONFIG_HOME=$HOME/.config", CLOSED),
    };
    let script = asking(&format!("{home} ringtap run -- sh -c \"$ask\""), WEB);
    let said = sh(&world, &format!("{}{script}", file(start)));
    assert_eq!(said.failed().get(..3), Some("000"));
}

#[test]
fn the_command_cannot_open_what_the_settings_close() {
    need("curl");
    let world = World::new();
    // It is of the same user: it may write the file and say what it likes to the API, for all the good it does.
    let inside = "
        ask() { curl -sS -o /dev/null -w %{http_code} -m 20 http://203.0.113.80/peer 2>/dev/null; }
        ask
        echo 'policy.allow = [\"203.0.113.80\"]' > $HOME/.config/ringtap/config.toml
        export RINGTAP_POLICY_DENY= RINGTAP_POLICY_ALLOW=203.0.113.80 RINGTAP_POLICY_HOST_LOOPBACK=true RINGTAP_SANDBOX=off
        ringtap port add 18080:80 >/dev/null || echo no port
        ask
        dead=$(cat $XDG_RUNTIME_DIR/ringtap/*/plane_pid); echo; echo dead $dead; read x
        ask
        ringtap run -- sh -c 'curl -sS -o /dev/null -w %{http_code} -m 20 http://203.0.113.80/peer'";
    let script =
        format!("{}exec ringtap run --no-pidns -- sh -c '{}'", file(CLOSED), inside.replace('\'', "'\\''"));
    let mut command = world.shell(&script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = world.lab.host().spawn(&mut command).unwrap();
    let mut out = std::io::BufReader::new(running.child().stdout.take().unwrap());
    let mut line = || {
        let mut text = String::new();
        std::io::BufRead::read_line(&mut out, &mut text).unwrap();
        text.trim().to_owned()
    };
    assert_eq!(line(), "000000");
    let said = line();
    let dead = said.strip_prefix("dead ").unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    // The plane that takes its place has the same orders.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(dead), nix::sys::signal::Signal::SIGKILL).unwrap();
    let end = std::time::Instant::now() + common::PATIENCE;
    let states =
        world.lab.dir().join(if world.lab.users_are_real() { "user-run/ringtap" } else { "run/ringtap" });
    let replaced = || {
        let mut pids =
            fs::read_dir(&states).unwrap().map(|d| fs::read_to_string(d.unwrap().path().join("plane_pid")));
        pids.any(|pid| pid.is_ok_and(|pid| pid.parse() != Ok(dead)))
    };
    while !replaced() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::io::Write::write_all(&mut running.child().stdin.take().unwrap(), b"\n").unwrap();
    // And a network within this one is behind it.
    assert_eq!(line(), "000000");
}

#[test]
fn config_says_what_holds_and_where_it_came_from() {
    let world = World::new();
    let settings =
        file("[policy]\ndeny = [\"192.0.2.0/24\"]\nhost-loopback = true\n[log]\nlevel = \"info\"\n");
    let ask = |line: &str| sh(&world, &format!("{settings}export RINGTAP_LOG_LEVEL=error; {line}")).ok();
    let config = world.lab.dir().join("home/.config/ringtap/config.toml").display().to_string();
    let holds = |said: &str, value: &str, from: &str| {
        let found = said.lines().any(|l| l.starts_with(value) && l.ends_with(&format!("  # {from}")));
        assert!(found, "{value} from {from}:\n{said}");
    };
    let said = ask("ringtap config");
    holds(&said, "policy.deny = [\"192.0.2.0/24\"] ", &format!("{config}:2"));
    holds(&said, "policy.host-loopback = true ", &format!("{config}:3"));
    holds(&said, "log.level = \"error\" ", "env RINGTAP_LOG_LEVEL");
    holds(&said, "sandbox = \"on\" ", "default");
    holds(
        &ask("ringtap config -- --deny all --deny 10.0.0.0/8"),
        "policy.deny = [\"all\", \"10.0.0.0/8\"] ",
        "flag --deny",
    );
    let said =
        ask("ringtap config --persona rootlesskit -- --net=slirp4netns --disable-host-loopback --debug true");
    holds(&said, "policy.host-loopback = false ", "flag --disable-host-loopback");
    holds(&said, "log.level = \"debug\" ", "flag --debug");
    let said = ask("ringtap config --persona slirp4netns -- --outbound-addr 198.51.100.1 1 tap0");
    holds(&said, "network.outbound-addr = [\"198.51.100.1\"] ", "flag --outbound-addr");
    holds(&said, "policy.host-loopback = true ", &format!("{config}:3"));
    let json: serde_json::Value = serde_json::from_str(&ask("ringtap config --json")).unwrap();
    let deny = json["settings"].as_array().unwrap().iter().find(|s| s["key"] == "policy.deny").unwrap();
    assert_eq!(deny["value"], serde_json::json!(["192.0.2.0/24"]));
    assert_eq!(deny["from"], serde_json::json!({ "kind": "file", "path": config, "line": 2 }));
    assert_eq!(json["file"]["exists"], true);
    // What it prints has the same effect.
    let again = format!("{settings}export RINGTAP_LOG_LEVEL=error; ringtap config > $HOME/again.toml; unset RINGTAP_LOG_LEVEL
        ringtap config | sed 's/ *#.*//' > $HOME/a; RINGTAP_CONFIG=$HOME/again.toml ringtap config | sed 's/ *#.*//' > $HOME/b
        grep -v log.level $HOME/a > $HOME/a2; grep -v log.level $HOME/b > $HOME/b2; cmp $HOME/a2 $HOME/b2 && grep log.level $HOME/b");
    assert_eq!(sh(&world, &again).ok().trim_end(), "log.level = \"error\"");
    let said = sh(&world, "ringtap config --persona docker-proxy").failed();
    assert!(said.contains("docker-proxy has no settings"), "{said}");
}

#[test]
fn logs_in_json_are_one_object_a_line() {
    let world = World::new();
    let settings = file("[log]\nlevel = \"debug\"\nformat = \"json\"");
    for start in ["ringtap run -- true", "rootlesskit --net=slirp4netns true"] {
        let said = sh(&world, &format!("{settings}{start}"));
        assert!(said.status.success() && !said.stderr.is_empty(), "{said:?}");
        for line in said.stderr.lines() {
            let event: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(
                event["message"].is_string() && event["level"].is_string() && event["time"].is_string(),
                "{line}"
            );
        }
    }
}

#[test]
fn the_manual_has_every_setting() {
    let text = include_str!("../docs/config.md");
    for setting in ringtap::config::settings::CATALOGUE {
        for word in [setting.key.to_owned(), setting.variable(), format!("--{}", setting.flag)] {
            assert!(text.contains(&format!("`{word}`")), "docs/config.md does not have {word}");
        }
    }
    // Its example is one.
    let example = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut settings = ringtap::config::Settings::new(ringtap::config::settings::Caller::Run);
    settings.take_file("docs/config.md".as_ref(), example).unwrap();
}
