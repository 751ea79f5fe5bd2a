//! ringtap called as `rootlessctl`: the ports of a running instance, in RootlessKit's words and columns.
//!
//! `list-ports`, `add-ports`, `remove-ports` and `info`, each as text or JSON. The instance is that of `--socket`, or of
//! `$ROOTLESSKIT_STATE_DIR`, which is set inside. Whatever fails is `error: ...` on standard error and status 1; what was
//! done before it stays done and has been printed.

use super::go_flags::{Flag, Parsed, describe};
use super::rootlesskit_api::Api;
use super::rootlesskit_text::VERSION;
use crate::config::RootlessKitSpec;
use crate::control::api::views::{Info, Status};
use serde::Serialize;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

static GLOBAL: [Flag; 4] = [
    Flag::switch("debug", "not used"),
    Flag::value("socket", "", "where the API is, instead of at $ROOTLESSKIT_STATE_DIR/api.sock"),
    Flag::switch("help", "show this").or("h"),
    Flag::switch("version", "print the version").or("v"),
];

static OF_VERBS: [Flag; 2] = [Flag::switch("json", "print JSON"), Flag::switch("help", "show this").or("h")];

/// What it can do: the verb, its arguments, and what for.
const VERBS: [(&str, &str, &str); 4] = [
    ("list-ports", "", "List ports"),
    ("add-ports", "[PARENTIP]:PARENTPORT:[CHILDIP:]CHILDPORT/PROTO...", "Add ports"),
    ("remove-ports", "ID...", "Remove ports"),
    ("info", "", "Show info"),
];

/// From its arguments to its exit status.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), String> {
    let usage = |e: String| {
        print(&format!("Incorrect Usage: {e}\n\n{}", help()));
        e
    };
    let mut global = Parsed::of(&GLOBAL, arguments).map_err(usage)?;
    if global.on("version") {
        print(&format!("rootlessctl version {VERSION}\n"));
        return Ok(());
    }
    if global.rest.is_empty() || global.on("help") {
        print(&help());
        return Ok(());
    }
    let verb = global.rest.remove(0);
    let verb = verb.to_string_lossy();
    let Some((name, arguments, what)) = VERBS.into_iter().find(|(name, ..)| *name == verb) else {
        if matches!(&*verb, "help" | "h") {
            print(&help());
            return Ok(());
        }
        return Err(format!("no such command: {verb:?}; see rootlessctl --help"));
    };
    let usage_of_verb = || {
        format!(
            "NAME:\n   rootlessctl {name} - {what}\n\nUSAGE:\n   rootlessctl {name} [flags] {arguments}\n\nOPTIONS:\n{}",
            describe(&OF_VERBS)
        )
    };
    let flags = Parsed::of(&OF_VERBS, std::mem::take(&mut global.rest)).map_err(|e| {
        print(&format!("Incorrect Usage: {e}\n\n{}", usage_of_verb()));
        e
    })?;
    if flags.on("help") {
        print(&usage_of_verb());
        return Ok(());
    }
    let words: Vec<_> = flags.rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let json = flags.on("json");
    let said = |e: crate::cli::port::client::ClientError| e.to_string();
    match name {
        "list-ports" => {
            let ports = find(&global)?.ports().map_err(said)?;
            print(&if json { ports.iter().map(line).collect::<Result<String, _>>()? } else { table(&ports) });
        }
        "add-ports" => {
            if words.is_empty() {
                return Err("no port specified".to_owned());
            }
            // All are checked before the first is published.
            let specs: Vec<RootlessKitSpec> =
                words.iter().map(|word| word.parse()).collect::<Result<_, _>>().map_err(text)?;
            let api = find(&global)?;
            for spec in specs {
                let port = api.add(&spec).map_err(said)?;
                print(&if json { line(&port)? } else { format!("{}\n", port.id) });
            }
        }
        "remove-ports" => {
            if words.is_empty() {
                return Err("no ID specified".to_owned());
            }
            let api = find(&global)?;
            for word in words {
                let id =
                    word.parse().map_err(|_| format!("{word:?} is not the ID of a port; see list-ports"))?;
                api.remove(id).map_err(said)?;
                print(&format!("{id}\n"));
            }
        }
        _ => {
            let info = find(&global)?.info().map_err(said)?;
            print(&if json { indented(&info)? } else { lines(&info) });
        }
    }
    Ok(())
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

/// The instance that is meant.
fn find(global: &Parsed) -> Result<Api, String> {
    let named = global.last("socket").filter(|path| !path.is_empty()).map(PathBuf::from);
    let of_state = || {
        let dir = std::env::var_os("ROOTLESSKIT_STATE_DIR").filter(|dir| !dir.is_empty());
        dir.map(|dir| PathBuf::from(dir).join(crate::control::api::SOCKET))
    };
    let socket = named.or_else(of_state).ok_or("please specify --socket or set $ROOTLESSKIT_STATE_DIR")?;
    Ok(Api::at(&socket))
}

fn help() -> String {
    let mut verbs = String::new();
    for (name, _, what) in VERBS {
        let _ = writeln!(verbs, "   {name:12}  {what}");
    }
    format!(
        "NAME:\n   rootlessctl - RootlessKit API client (this is ringtap)\n\n\
         USAGE:\n   rootlessctl [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {VERSION}\n\n\
         COMMANDS:\n{verbs}\n\
         GLOBAL OPTIONS:\n{}",
        describe(&GLOBAL)
    )
}

fn line<T: Serialize>(value: &T) -> Result<String, String> {
    serde_json::to_string(value).map(|json| json + "\n").map_err(text)
}

/// As Go's encoder with four spaces.
fn indented(info: &Info) -> Result<String, String> {
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    info.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format)).map_err(text)?;
    out.push(b'\n');
    String::from_utf8(out).map_err(text)
}

fn lines(info: &Info) -> String {
    let mut out = format!(
        "- REST API version: {}\n- Implementation version: {}\n- State Directory: {}\n- Child PID: {}\n",
        info.api_version, info.version, info.state_dir, info.child_pid
    );
    if let Some(network) = &info.network_driver {
        let _ = writeln!(out, "- Network Driver: {}", network.driver);
        let _ = writeln!(out, "  - DNS: [{}]", network.dns.join(" "));
        let _ = writeln!(out, "  - IP: {}", network.child_ip);
    }
    if let Some(port) = &info.port_driver {
        let _ = writeln!(out, "- Port Driver: {}", port.driver);
        let _ = writeln!(out, "  - Supported protocols: [{}]", port.protos.join(" "));
    }
    out
}

/// Columns as Go's tabwriter makes them: as wide as what is in them and four more, the last one too.
fn table(ports: &[Status]) -> String {
    let head = ["ID", "PROTO", "PARENTIP", "PARENTPORT", "CHILDIP", "CHILDPORT"].map(str::to_owned);
    let rows = ports.iter().map(|port| {
        let spec = &port.spec;
        [
            port.id.to_string(),
            spec.proto.clone(),
            spec.parent_ip.clone(),
            spec.parent_port.to_string(),
            spec.child_ip.clone(),
            spec.child_port.to_string(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let mut out = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let width = 4 + rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
            let _ = write!(out, "{cell:width$}");
        }
        out.push('\n');
    }
    out
}

/// To standard output; that nobody reads it is no error.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PortId;

    fn refused(line: &str) -> String {
        run(line.split_whitespace().map(Into::into).collect()).unwrap_err()
    }

    #[test]
    fn columns_are_those_of_rootlessctl() {
        let status = |id, spec: &str| Status { id: PortId(id), spec: spec.parse().unwrap() };
        // As rootlessctl 1.1.0 prints it.
        assert_eq!(
            table(&[
                status(1, "127.0.0.1:18080:80/tcp"),
                status(2, ":18081:81/udp"),
                status(3, "127.0.0.1:18082:80/tcp4"),
            ]),
            "ID    PROTO    PARENTIP     PARENTPORT    CHILDIP    CHILDPORT    \n\
             1     tcp      127.0.0.1    18080                    80           \n\
             2     udp                   18081                    81           \n\
             3     tcp4     127.0.0.1    18082                    80           \n"
        );
        assert_eq!(table(&[]), "ID    PROTO    PARENTIP    PARENTPORT    CHILDIP    CHILDPORT    \n");
    }

    #[test]
    fn info_is_a_list_or_indented_by_four() {
        let text = r#"{"apiVersion":"1.1.2","version":"3.1.0","stateDir":"/tmp/x","childPID":7,"networkDriver":{"driver":"slirp4netns","dns":["10.0.2.3","fd00::3"],"childIP":"10.0.2.100"},"portDriver":{"driver":"builtin","protos":["tcp","tcp4"]}}"#;
        let info: Info = serde_json::from_str(text).unwrap();
        assert_eq!(
            lines(&info),
            "- REST API version: 1.1.2\n- Implementation version: 3.1.0\n- State Directory: /tmp/x\n- Child PID: 7\n\
             - Network Driver: slirp4netns\n  - DNS: [10.0.2.3 fd00::3]\n  - IP: 10.0.2.100\n\
             - Port Driver: builtin\n  - Supported protocols: [tcp tcp4]\n"
        );
        assert!(indented(&info).unwrap().starts_with("{\n    \"apiVersion\": \"1.1.2\",\n"));
        assert_eq!(lines(&Info::default()).lines().count(), 4);
    }

    #[test]
    fn what_is_wrong_is_said_before_anybody_is_asked() {
        for (line, said) in [
            ("add-ports", "no port specified"),
            ("remove-ports", "no ID specified"),
            ("nope", "no such command: \"nope\"; see rootlessctl --help"),
            ("info --nope", "flag provided but not defined: -nope"),
            ("--nope info", "flag provided but not defined: -nope"),
            ("--socket /x remove-ports a", "\"a\" is not the ID of a port; see list-ports"),
        ] {
            assert_eq!(refused(line), said, "{line}");
        }
        assert!(refused("--socket /x add-ports bad").contains("bad"));
        let gone = refused("--socket /no/such/socket info");
        assert!(gone.starts_with("/no/such/socket: ") && !gone.contains('\n'), "{gone}");
    }
}
